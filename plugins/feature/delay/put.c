/* SPDX-License-Identifier: Apache-2.0 */
/* put.c - the hook before a message is stored: one with a DELAY level goes to SCHEDULE_TOPIC_XXXX instead of its topic.
 *
 * What stays true:
 *   1. A message whose DELAY is above 0 is stored in queue level - 1 of SCHEDULE_TOPIC_XXXX, with REAL_TOPIC and REAL_QID, and
 *      with the delivery time as its tags code; one without is not touched.
 *   2. A half message of a transaction is not delayed before it is committed.
 *   3. A client's message for an arbitrary time (TIMER_*) is refused: stored now it would arrive too early. With a DELAY
 *      level beside it, the level wins and TIMER_* goes, as in Apache. */
#include <string.h>

#include "delay.h"
#include "zl/codec.h"
#include "zl/record.h"
#include "zl/text.h"

#define CODE_SYSTEM_ERROR 1
#define CODE_MESSAGE_ILLEGAL 13
#define SEND_MESSAGE 10
#define CONSUMER_SEND_MSG_BACK 36
#define SEND_MESSAGE_V2 310
#define SEND_BATCH_MESSAGE 320

struct wish {
    struct zr_str delay;
    uint32_t timer, transaction;
};

static uint32_t is_timer(struct zr_str name)
{
    return zl_is(name, "TIMER_DELAY_SEC") || zl_is(name, "TIMER_DELAY_MS") || zl_is(name, "TIMER_DELIVER_MS");
}

static void wish_read(struct zr_span properties, struct wish *ret)
{
    struct zr_str name, value;
    uint64_t pos = 0;
    *ret = (struct wish){ .timer = 0 };
    while (zl_props_next(properties, &pos, &name, &value)) {
        if (name.len < 5) continue;
        if (name.ptr[0] == 'D' && zl_is(name, "DELAY")) ret->delay = value;
        else if (name.ptr[0] == 'T' && is_timer(name)) ret->timer = 1;
        else if (name.ptr[0] == 'T' && zl_is(name, "TRAN_MSG")) ret->transaction = zl_eq_nocase(value, "true");
    }
}

static zr_status reject(struct zr_verdict *verdict, int32_t code, const char *why)
{
    verdict->what = ZR_VERDICT_REJECT;
    verdict->code = code;
    verdict->remark = zl_str(why);
    return ZR_OK;
}

/* Messages that a consumer gives back carry the properties of the first send; its time has come already. */
static uint32_t is_given_back(const struct zr_event *event)
{
    return event->code == CONSUMER_SEND_MSG_BACK || zl_starts(event->msg->topic, "%RETRY%") || zl_starts(event->msg->topic, "%DLQ%");
}

static uint32_t is_batch(const struct zr_event *event)
{
    const struct zr_request *r = event->request;
    if (event->msg->flags & ZR_MSG_JOINED || event->code == SEND_BATCH_MESSAGE) return 1;
    return r && ((event->code == SEND_MESSAGE_V2 && zl_field_bool(r->fields, r->n_fields, "m", 0)) ||
                 (event->code == SEND_MESSAGE && zl_field_bool(r->fields, r->n_fields, "batch", 0)));
}

/* Half messages, those that a roll-back ended, and those that are about to become half ones. */
static uint32_t is_undecided(const struct zr_msg *msg, const struct wish *w)
{
    int32_t type = msg->sys_flag & ZR_SYSFLAG_TRANSACTION_MASK;
    return type == ZR_SYSFLAG_PREPARED || type == ZR_SYSFLAG_ROLLBACK || (w->transaction && type == 0 && msg->reconsume_times <= 0);
}

static uint8_t *put_pair(uint8_t *to, struct zr_str name, struct zr_str value)
{
    memcpy(to, name.ptr, name.len);
    to += name.len;
    *to++ = 1;
    if (value.len) memcpy(to, value.ptr, value.len);
    to += value.len;
    *to++ = 2;
    return to;
}

static uint32_t is_ours(struct zr_str name)
{
    return zl_is(name, "DELAY") || zl_is(name, "REAL_TOPIC") || zl_is(name, "REAL_QID") || is_timer(name);
}

static zr_status properties_make(const struct zr_event *event, uint32_t level, struct zr_span *ret)
{
    struct zr_span in = event->msg->properties;
    struct zr_str name, value;
    uint64_t pos = 0;
    char text[24];
    uint8_t *base = event->scratch(event->scratch_ctx, in.len + event->msg->topic.len + 96), *to = base;
    if (!base) return ZR_EAGAIN;
    while (zl_props_next(in, &pos, &name, &value))
        if (!is_ours(name)) to = put_pair(to, name, value);
    to = put_pair(to, zl_str("DELAY"), (struct zr_str){ text, zl_print_i64(text, level) });
    to = put_pair(to, zl_str("REAL_TOPIC"), event->msg->topic);
    to = put_pair(to, zl_str("REAL_QID"), (struct zr_str){ text, zl_print_i64(text, event->msg->queue_id) });
    *ret = (struct zr_span){ base, (uint64_t)(to - base) };
    return ZR_OK;
}

zr_status put_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    struct zr_msg *msg = event->msg;
    struct wish w;
    int32_t level = 0;
    wish_read(msg->properties, &w);
    if (w.delay.len && (zl_parse_i32(w.delay, &level) != ZR_OK || level < 0)) level = 0;
    if (w.timer && !level && !is_given_back(event))
        return reject(verdict, CODE_SYSTEM_ERROR, "feature-delay offers delay levels (DELAY) only: arbitrary times (TIMER_DELAY_SEC, "
                      "TIMER_DELAY_MS, TIMER_DELIVER_MS) are not offered by this broker");
    if (!level || is_undecided(msg, &w) || zl_is(msg->topic, SCHEDULE_TOPIC)) return ZR_OK;
    if (is_batch(event)) return reject(verdict, CODE_MESSAGE_ILLEGAL, "the message is illegal: a batch cannot be delayed");
    if ((uint32_t)level > inst->n_levels) level = (int32_t)inst->n_levels;
    struct zr_span properties;
    zr_status status = properties_make(event, (uint32_t)level, &properties);
    if (status != ZR_OK) return status;
    msg->properties = properties;
    msg->topic = (struct zr_str)ZR_STR(SCHEDULE_TOPIC);
    msg->queue_id = level - 1;
    msg->queue = NULL;
    msg->tags_code = event->now_ms + inst->levels[level - 1].delay_ms;
    return ZR_OK;
}
