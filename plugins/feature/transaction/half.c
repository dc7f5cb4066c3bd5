/* SPDX-License-Identifier: Apache-2.0 */
/* half.c - half messages on their way in: the hook before they are stored turns them aside, the hook behind it remembers them.
 *
 * What stays true:
 *   1. A client's message with TRAN_MSG=true is stored in queue 0 of the half topic, with its topic and queue in REAL_TOPIC and
 *      REAL_QID, its unique key in __transactionId__, and no transaction bits; so nobody consumes it.
 *   2. What a consumer sends back, or what this broker publishes itself (a committed message keeps TRAN_MSG), is not touched. A
 *      send again with a delay level is an old client's retry, and no transaction.
 *      One whose properties would leave no room for those of a check is refused.
 *   3. A half message that the table cannot hold is refused before it is stored, with the code for "busy". */
#include <string.h>

#include "transaction.h"
#include "zl/text.h"

#define SEND_MESSAGE 10
#define SEND_MESSAGE_V2 310
#define MAX_IMMUNITY_S (366ll * 86400)

/* ---- what it says about itself ------------------------------------------------------------------------------------------- */

static void half_take(struct half *h, struct zr_str name, struct zr_str value)
{
    switch (name.ptr[0]) {
    case 'P':
        if (zl_is(name, "PGROUP")) h->group = value;
        break;
    case 'R':
        if (zl_is(name, "REAL_TOPIC")) h->topic = value;
        else if (zl_is(name, "REAL_QID")) h->queue = value;
        break;
    case 'U':
        if (zl_is(name, "UNIQ_KEY")) h->unique = value;
        break;
    case 'C':
        if (zl_is(name, "CHECK_IMMUNITY_TIME_IN_SECONDS")) h->immunity = value;
        break;
    case 'T':
        if (zl_is(name, "TRAN_PREPARED_QUEUE_OFFSET")) h->first = value;
        else if (zl_is(name, "TRANSACTION_CHECK_TIMES")) h->times = value;
        break;
    default: break;
    }
}

void half_read(struct zr_span properties, struct half *ret)
{
    struct zr_str name, value;
    uint64_t pos = 0;
    *ret = (struct half){ .group = { NULL, 0 } };
    while (zl_props_next(properties, &pos, &name, &value))
        if (name.len >= 6) half_take(ret, name, value);
}

int64_t half_first(const struct half *h, int64_t own)
{
    int64_t first;
    return h->first.len && zl_parse_i64(h->first, &first) == ZR_OK && first >= 0 && first < own ? first : own;
}

uint32_t half_times(const struct half *h)
{
    int64_t times;
    return h->times.len && zl_parse_i64(h->times, &times) == ZR_OK && times > 0 && times < INT32_MAX ? (uint32_t)times : 0;
}

int64_t half_immunity_ms(struct zr_inst *inst, const struct half *h)
{
    int64_t seconds;
    if (!h->immunity.len) return -1;
    if (zl_parse_i64(h->immunity, &seconds) != ZR_OK || seconds < 0) seconds = 0;
    if (seconds > MAX_IMMUNITY_S) seconds = MAX_IMMUNITY_S;
    return seconds * 1000 > inst->settings->timeout ? seconds * 1000 : inst->settings->timeout;
}

/* ---- before it is stored ------------------------------------------------------------------------------------------------- */

struct wish { struct zr_str transaction, delay, unique; };

static void wish_read(struct zr_span properties, struct wish *ret)
{
    struct zr_str name, value;
    uint64_t pos = 0;
    *ret = (struct wish){ .unique = { NULL, 0 } };
    while (zl_props_next(properties, &pos, &name, &value)) {
        if (name.len < 5) continue;
        if (name.ptr[0] == 'T' && zl_is(name, "TRAN_MSG")) ret->transaction = value;
        else if (name.ptr[0] == 'D' && zl_is(name, "DELAY")) ret->delay = value;
        else if (name.ptr[0] == 'U' && zl_is(name, "UNIQ_KEY")) ret->unique = value;
    }
}

static uint8_t *put_pair(uint8_t *to, const char *name, struct zr_str value)
{
    uint64_t len = strlen(name);
    memcpy(to, name, len);
    to += len;
    *to++ = 1;
    if (value.len) memcpy(to, value.ptr, value.len);
    to += value.len;
    *to++ = 2;
    return to;
}

static uint32_t is_ours(struct zr_str name)
{
    return zl_is(name, "REAL_TOPIC") || zl_is(name, "REAL_QID") || zl_is(name, "__transactionId__") || zl_is(name, "TRAN_PREPARED_QUEUE_OFFSET") ||
           zl_is(name, "TRANSACTION_CHECK_TIMES");
}

static zr_status properties_make(const struct zr_event *event, struct zr_str unique, struct zr_span *ret)
{
    struct zr_span in = event->msg->properties;
    struct zr_str name, value;
    uint64_t pos = 0;
    char text[24];
    uint8_t *base = event->scratch(event->scratch_ctx, in.len + event->msg->topic.len + unique.len + 96), *to = base;
    if (!base) return ZR_EAGAIN;
    while (zl_props_next(in, &pos, &name, &value)) {
        if (is_ours(name)) continue;
        memcpy(to, name.ptr, name.len);
        to += name.len;
        *to++ = 1;
        if (value.len) memcpy(to, value.ptr, value.len);
        to += value.len;
        *to++ = 2;
    }
    if (unique.len) to = put_pair(to, "__transactionId__", unique);
    to = put_pair(to, "REAL_TOPIC", event->msg->topic);
    to = put_pair(to, "REAL_QID", (struct zr_str){ text, zl_print_i64(text, event->msg->queue_id) });
    *ret = (struct zr_span){ base, (uint64_t)(to - base) };
    return ZR_OK;
}

static uint32_t is_full(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->lock);
    const struct tx_table *t = &inst->table;
    uint32_t full = t->n >= t->max_open || t->next - t->base >= t->window - (t->window >> 3) || inst->beyond;
    pthread_mutex_unlock(&inst->lock);
    return full;
}

zr_status put_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    struct zr_msg *msg = event->msg;
    struct wish w;
    struct zr_span properties;
    int64_t level;
    if ((event->code != SEND_MESSAGE && event->code != SEND_MESSAGE_V2) || !(zr_wishes(event) & ZR_WISH_TRANSACTION)) return ZR_OK;
    wish_read(msg->properties, &w);
    if (!zl_eq_nocase(w.transaction, "true")) return ZR_OK;
    if (msg->reconsume_times > 0 && w.delay.len && zl_parse_i64(w.delay, &level) == ZR_OK && level > 0) return ZR_OK;
    if (is_full(inst)) {
        verdict->what = ZR_VERDICT_REJECT;
        verdict->code = CODE_SYSTEM_BUSY;
        verdict->remark = zl_str("[OVERLOAD]too many transactions are open on this broker, start flow control for a while");
        return ZR_OK;
    }
    zr_status status = properties_make(event, w.unique, &properties);
    if (status != ZR_OK) return status;
    if (properties.len + CHECK_ROOM > ZL_MAX_PROPERTIES) {
        verdict->what = ZR_VERDICT_REJECT;
        verdict->code = CODE_MESSAGE_ILLEGAL;
        verdict->remark = zl_str("the message is illegal: its properties are longer than 32767 bytes with those of its transaction and of its checks");
        return ZR_OK;
    }
    msg->properties = properties;
    msg->topic = (struct zr_str)ZR_STR(HALF_TOPIC);
    msg->queue_id = 0;
    msg->queue = NULL;
    msg->sys_flag &= ~ZR_SYSFLAG_TRANSACTION_MASK;
    return ZR_OK;
}

/* ---- behind it ----------------------------------------------------------------------------------------------------------- */

/* The message that was written anew takes the slot along; the record before it needs no attention any more. */
static void half_move(struct zr_inst *inst, struct tx_slot *s, int64_t offset, int64_t physical)
{
    int64_t before = s->current;
    if (offset <= before) { /* an older copy, found while loading */
        tx_settle(&inst->table, offset);
        if (offset < before) op_add(inst, offset);
        return;
    }
    s->current = offset;
    s->physical = physical;
    tx_settle(&inst->table, before);
    op_add(inst, before);
}

void half_count(struct zr_inst *inst, const struct tx_slot *s, int64_t delta)
{
    meter(inst, METER_OPEN, delta);
    counts_add(&inst->counts, s->topic, delta, wall_ms(inst));
}

void half_due(struct zr_inst *inst, struct tx_slot *s, int64_t now_ms)
{
    tx_due(&inst->table, s, s->ask_ms < now_ms + HELD_MS ? s->ask_ms : now_ms + HELD_MS);
}

void half_open(struct zr_inst *inst, const struct half *h, int64_t first, int64_t offset, int64_t physical, int64_t ask_ms)
{
    struct tx_table *t = &inst->table;
    if (tx_is_settled(t, offset)) return; /* ended before it was seen */
    struct tx_slot *s = tx_find(t, first);
    if (s) {
        half_move(inst, s, offset, physical);
        if (s->times < half_times(h)) s->times = half_times(h);
    } else if (first != offset && tx_is_decided(t, first)) { /* its producer spoke while it was written anew */
        tx_settle(t, offset);
        op_add(inst, offset);
    } else if ((s = tx_insert(t, first, offset, physical, ask_ms)) != NULL) {
        s->times = half_times(h);
        s->ask_ms = ask_ms;
        s->topic = counts_topic(&inst->counts, h->topic);
        half_due(inst, s, mono_ms(inst));
        half_count(inst, s, 1);
    } else {
        inst->n_lost++;
    }
}

zr_status stored_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    (void)verdict;
    const struct zr_msg *m = event->msg;
    struct half h;
    if (m->queue_id != 0 || !inst->master) return ZR_OK;
    half_read(m->properties, &h);
    if (!h.first.len) meter(inst, METER_PREPARED, 1);
    int64_t immunity = half_immunity_ms(inst, &h), ask = mono_ms(inst) + (immunity < 0 ? inst->settings->timeout : immunity);
    pthread_mutex_lock(&inst->lock);
    if (tx_enter(&inst->table, event->put->queue_offset)) half_open(inst, &h, half_first(&h, event->put->queue_offset), event->put->queue_offset, event->put->physical_offset, ask);
    pthread_mutex_unlock(&inst->lock);
    check_arm(inst);
    counts_changed(inst);
    return ZR_OK;
}
