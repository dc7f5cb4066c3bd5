/* SPDX-License-Identifier: Apache-2.0 */
/* put.c - the hook before a message is stored: one with a DELAY level goes to SCHEDULE_TOPIC_XXXX instead of its topic, one for a
 * time of its own to rmq_sys_wheel_timer.
 *
 * What stays true:
 *   1. A message whose DELAY is above 0 is stored in queue level - 1 of SCHEDULE_TOPIC_XXXX, with REAL_TOPIC and REAL_QID, and
 *      with the delivery time as its tags code; one without is not touched.
 *   2. A half message of a transaction is not delayed before it is committed; but one whose time cannot be is refused at once, for its
 *      producer does not wait for an answer to its commit.
 *   3. A message for an arbitrary time (TIMER_DELAY_SEC, TIMER_DELAY_MS, TIMER_DELIVER_MS) that lies ahead is stored in queue 0 of
 *      rmq_sys_wheel_timer, with that time cut to the wheel's step in TIMER_OUT_MS. With a DELAY level beside it, the level wins
 *      and TIMER_* goes, as in Apache. One that has TIMER_OUT_MS already was held back before, and goes on.
 *   4. What a consumer gives back waits by its level, or by its group's own policy: that long, at most timer_max_delay, and by its
 *      level where the wheel takes none. */
#include <stdio.h>
#include <string.h>

#include "delay.h"
#include "zl/codec.h"
#include "zl/record.h"
#include "zl/text.h"

#define CODE_SYSTEM_ERROR 1
#define CODE_MESSAGE_ILLEGAL 13
#define CODE_SERVICE_NOT_AVAILABLE 14
#define CODE_NO_PERMISSION 16
#define SEND_MESSAGE 10
#define CONSUMER_SEND_MSG_BACK 36
#define SEND_MESSAGE_V2 310
#define SEND_BATCH_MESSAGE 320

struct wish {
    struct zr_str delay, delay_sec, delay_ms, deliver_ms;
    uint32_t timer, transaction, out, deletes;
};

static uint32_t is_timer(struct zr_str name)
{
    return zl_is(name, "TIMER_DELAY_SEC") || zl_is(name, "TIMER_DELAY_MS") || zl_is(name, "TIMER_DELIVER_MS");
}

static void timer_read(struct zr_str name, struct zr_str value, struct wish *ret)
{
    if (zl_is(name, "TIMER_DELAY_SEC")) ret->delay_sec = value;
    else if (zl_is(name, "TIMER_DELAY_MS")) ret->delay_ms = value;
    else if (zl_is(name, "TIMER_DELIVER_MS")) ret->deliver_ms = value;
    else if (zl_is(name, "TIMER_OUT_MS")) ret->out = 1;
    else if (zl_is(name, "TIMER_DEL_UNIQKEY")) ret->deletes = value.len > RECALL_KEY_MAX ? 2 : 1;
    ret->timer |= is_timer(name);
}

static void wish_read(struct zr_span properties, struct wish *ret)
{
    struct zr_str name, value;
    uint64_t pos = 0;
    *ret = (struct wish){ .timer = 0 };
    while (zl_props_next(properties, &pos, &name, &value)) {
        if (name.len < 5) continue;
        if (name.ptr[0] == 'D' && zl_is(name, "DELAY")) ret->delay = value;
        else if (name.ptr[0] == 'T' && zl_starts(name, "TIMER_")) timer_read(name, value, ret);
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

/* A group's own retry policy: the broker says how long, and no level (kernel/broker/retry.c). All else that is given back has a DELAY. */
static uint32_t is_by_policy(const struct zr_event *event, const struct wish *w)
{
    return event->code == CONSUMER_SEND_MSG_BACK && !w->delay.ptr && w->delay_ms.ptr && !w->out;
}

/* What a consumer gives back carries the properties of the first send; its time has come already. One that it sends to its retry topic
 * itself has TIMER_OUT_MS if it was held back; any other one there is timed as everywhere. */
static uint32_t is_over(const struct zr_event *event, const struct wish *w)
{
    return w->out || event->code == CONSUMER_SEND_MSG_BACK || zl_is(event->msg->topic, TIMER_TOPIC);
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

/* ---- arbitrary times --------------------------------------------------------------------------------------------------------- */

/* When; as Apache, the first of the three that is there counts. */
static zr_status when_of(const struct wish *w, int64_t now, int64_t *ret)
{
    struct zr_str text = w->delay_sec.ptr ? w->delay_sec : w->delay_ms.ptr ? w->delay_ms : w->deliver_ms;
    int64_t scale = w->delay_sec.ptr ? 1000 : 1, base = w->delay_sec.ptr || w->delay_ms.ptr ? now : 0;
    if (zl_parse_i64(text, ret) != ZR_OK || *ret > (INT64_MAX - base) / scale || *ret < INT64_MIN / scale) return ZR_EINVAL;
    *ret = base + *ret * scale;
    return ZR_OK;
}

static zr_status refuse_timer(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    char *text = event->scratch(event->scratch_ctx, 256);
    int64_t max = inst->settings->timer_max_delay * 1000;
    if (!text) return ZR_EAGAIN;
    snprintf(text, 256, "timer message illegal, the delay time should not be bigger than the max delay %lldms; or if set del msg, the "
             "delay time should be bigger than the current time", (long long)max);
    return reject(verdict, CODE_MESSAGE_ILLEGAL, text);
}

static zr_status timed_properties(const struct zr_event *event, int64_t out_ms, struct zr_span *ret)
{
    struct zr_span in = event->msg->properties;
    struct zr_str name, value;
    uint64_t pos = 0;
    char text[24];
    uint8_t *base = event->scratch(event->scratch_ctx, in.len + event->msg->topic.len + 128), *to = base;
    if (!base) return ZR_EAGAIN;
    while (zl_props_next(in, &pos, &name, &value))
        if (!zl_is(name, "REAL_TOPIC") && !zl_is(name, "REAL_QID")) to = put_pair(to, name, value);
    to = put_pair(to, zl_str("TIMER_OUT_MS"), (struct zr_str){ text, zl_print_i64(text, out_ms) });
    to = put_pair(to, zl_str("REAL_TOPIC"), event->msg->topic);
    to = put_pair(to, zl_str("REAL_QID"), (struct zr_str){ text, zl_print_i64(text, event->msg->queue_id) });
    *ret = (struct zr_span){ base, (uint64_t)(to - base) };
    return ZR_OK;
}

/* The slot that passes just before that time; within the next step it is delivered to the millisecond. */
static int64_t slot_before(int64_t when, int64_t p)
{
    return when % p == 0 ? when - p : when / p * p;
}

static zr_status to_wheel(const struct zr_event *event, int64_t out)
{
    struct zr_msg *msg = event->msg;
    struct zr_span properties;
    zr_status status = timed_properties(event, out, &properties);
    if (status != ZR_OK) return status;
    msg->properties = properties;
    msg->topic = (struct zr_str)ZR_STR(TIMER_TOPIC);
    msg->queue_id = 0;
    msg->queue = NULL;
    return ZR_OK;
}

/* Refuses what cannot be; *ret_when: its time, 0 when that has come. */
static zr_status timed_judge(struct zr_inst *inst, const struct zr_event *event, const struct wish *w, struct zr_verdict *verdict, int64_t *ret_when)
{
    int64_t when;
    *ret_when = 0;
    if (!inst->timed) return reject(verdict, CODE_SYSTEM_ERROR, "accurate timer message is not enabled, timerWheelEnable is false");
    if (when_of(w, event->now_ms, &when) != ZR_OK) return refuse_timer(inst, event, verdict);
    if (when <= event->now_ms) return w->deletes ? refuse_timer(inst, event, verdict) : ZR_OK; /* its time has come */
    if (when - event->now_ms > inst->settings->timer_max_delay * 1000) return refuse_timer(inst, event, verdict);
    if (timer_is_down(inst->timed))
        return reject(verdict, CODE_SERVICE_NOT_AVAILABLE, "timed messages are not taken now: the timer's files cannot be opened or made (see the broker's log)");
    if (w->deletes && !inst->settings->recall_enable) return reject(verdict, CODE_NO_PERMISSION, "recall failed, operation is forbidden");
    if (w->deletes > 1) return reject(verdict, CODE_MESSAGE_ILLEGAL, "the message is illegal: TIMER_DEL_UNIQKEY is longer than 512 bytes");
    *ret_when = when;
    return ZR_OK;
}

static zr_status put_timed(struct zr_inst *inst, const struct zr_event *event, const struct wish *w, struct zr_verdict *verdict)
{
    int64_t when;
    zr_status status = timed_judge(inst, event, w, verdict, &when);
    if (status != ZR_OK || !when) return status;
    int64_t out = slot_before(when, timer_precision(inst->timed));
    if (timer_congested(inst->timed, out))
        return reject(verdict, CODE_SYSTEM_ERROR, "timer message is under flow control: too many messages are due in that second (timer_congest)");
    return to_wheel(event, out);
}

static zr_status put_level(struct zr_inst *inst, const struct zr_event *event, int32_t level)
{
    struct zr_msg *msg = event->msg;
    struct zr_span properties;
    if ((uint32_t)level > inst->n_levels) level = (int32_t)inst->n_levels;
    zr_status status = properties_make(event, (uint32_t)level, &properties);
    if (status != ZR_OK) return status;
    msg->properties = properties;
    msg->topic = (struct zr_str)ZR_STR(SCHEDULE_TOPIC);
    msg->queue_id = level - 1;
    msg->queue = NULL;
    msg->tags_code = event->now_ms + inst->levels[level - 1].delay_ms;
    return ZR_OK;
}

/* Nobody is there who could be refused: what the wheel does not take waits as long as without a policy. */
static zr_status put_by_policy(struct zr_inst *inst, const struct zr_event *event, const struct wish *w)
{
    int64_t when, now = event->now_ms, most = inst->settings->timer_max_delay * 1000, p = inst->timed ? timer_precision(inst->timed) : 1000;
    if (when_of(w, now, &when) != ZR_OK) when = now;
    if (when <= now) return ZR_OK;
    if (when - now > most) when = now + most;
    if (inst->timed && !timer_congested(inst->timed, slot_before(when, p))) return to_wheel(event, slot_before(when, p));
    return put_level(inst, event, event->msg->reconsume_times < (int32_t)MAX_LEVELS ? 2 + event->msg->reconsume_times : (int32_t)MAX_LEVELS);
}

zr_status put_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    struct zr_msg *msg = event->msg;
    struct wish w;
    int32_t level = 0;
    if (!(zr_wishes(event) & ZR_WISH_DELAY)) return ZR_OK;
    wish_read(msg->properties, &w);
    if (w.delay.len && (zl_parse_i32(w.delay, &level) != ZR_OK || level < 0)) level = 0;
    if (is_by_policy(event, &w)) return put_by_policy(inst, event, &w);
    uint32_t timed = !level && w.timer && !is_over(event, &w);
    if ((!level && !timed) || zl_is(msg->topic, SCHEDULE_TOPIC)) return ZR_OK;
    if (is_undecided(msg, &w)) {
        int64_t when;
        return timed ? timed_judge(inst, event, &w, verdict, &when) : ZR_OK;
    }
    if (is_batch(event)) return reject(verdict, CODE_MESSAGE_ILLEGAL, "the message is illegal: a batch cannot be delayed");
    return level ? put_level(inst, event, level) : put_timed(inst, event, &w, verdict);
}
