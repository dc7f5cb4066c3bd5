/* SPDX-License-Identifier: Apache-2.0 */
/* enqueue.c - from the queue of rmq_sys_wheel_timer into the timer log and the wheel.
 *
 * What stays true:
 *   1. Every entry of the queue gets a unit in the log, in the queue's order; so the last unit says how far that got.
 *   2. A unit's slot is never one that is done: what comes too late goes into the present one.
 *   3. The wheel names a unit only after it was written. */
#include <string.h>

#include "timer.h"
#include "zl/text.h"

#define ENTRIES 256u
#define UNREAD_MS 250
#define LATE_MS 3600000 /* so late an entry may have been noted, in a later slot than its own */
#define UNREAD_TRIES 24u /* some five seconds */

/* Apache's rule: what lies beyond the window goes round: it comes up after the window, or half of it, and is put again. */
int64_t roll_time(const struct timer *t, int64_t write_ms, int64_t out_ms, uint32_t *ret_roll)
{
    int64_t excess = out_ms - write_ms - t->window_ms;
    *ret_roll = excess >= 0;
    if (excess < 0) return out_ms;
    int64_t window = t->window_ms, p = t->precision_ms;
    return slot_floor(t, write_ms + (excess < window / p / 3 * p ? window / p / 2 * p : window));
}

/* The longest step that a time can have been cut to. */
static int64_t step_longest(int64_t out_ms)
{
    return out_ms % 1000 == 0 ? 1000 : out_ms % 500 == 0 ? 500 : out_ms % 200 == 0 ? 200 : 100;
}

/* The delivery to the millisecond, (out, out + step]: from what the producer asked for, where the record still tells. The step may have been
 * another one when the record was put: it is told by coarse_end, or by a time that is the producer's own. */
int64_t exact_of(const struct timer *t, const struct zl_record *r, int64_t out_ms)
{
    struct zr_str text;
    uint32_t coarse = r->queue_offset < t->coarse_end;
    int64_t v, longest = step_longest(out_ms), most = out_ms + (coarse || longest < t->precision_ms ? longest : t->precision_ms), exact = most;
    uint32_t rolled = zl_props_get(r->properties, "TIMER_ROLL_TIMES").len != 0;
    if (!rolled && (text = zl_props_get(r->properties, "TIMER_DELAY_SEC")).len && zl_parse_i64(text, &v) == ZR_OK && v < INT64_MAX / 4000)
        exact = r->store_ms + v * 1000;
    else if (!rolled && (text = zl_props_get(r->properties, "TIMER_DELAY_MS")).len && zl_parse_i64(text, &v) == ZR_OK && v < INT64_MAX / 4)
        exact = r->store_ms + v;
    else if ((text = zl_props_get(r->properties, "TIMER_DELIVER_MS")).len && zl_parse_i64(text, &v) == ZR_OK)
        exact = v > most && v <= out_ms + longest ? (most = v) : v;
    if (exact <= out_ms) return out_ms + 1;
    return exact > most ? most : exact;
}

struct taking { struct timer *t; int64_t now, offset; uint32_t size, reserved; };

/* 1: it is passed (or was never one of ours); 0: not now. */
static uint32_t take_record(struct taking *k, const struct zl_record *r)
{
    struct timer *t = k->t;
    struct zr_str out = zl_props_get(r->properties, "TIMER_OUT_MS"), topic = zl_props_get(r->properties, "REAL_TOPIC");
    struct zr_str del = zl_props_get(r->properties, "TIMER_DEL_UNIQKEY");
    int64_t out_ms, present = slot_floor(t, k->now), pos;
    uint32_t roll, again = k->offset < t->doubt_queue_end;
    if (zl_parse_i64(out, &out_ms) != ZR_OK || out_ms < 0 || !topic.len) {
        say(t->inst, ZR_LOG_WARN, "a timed message at %lld is dropped: it does not say when, or where", (long long)r->physical_offset);
        return 1;
    }
    int64_t write_ms = again && r->store_ms < present ? slot_floor(t, r->store_ms) : present;
    int64_t time_ms = roll_time(t, write_ms, slot_floor(t, out_ms), &roll);
    if (again && slot_floor(t, out_ms) < t->done_ms - LATE_MS) return 1; /* it left long before */
    if (write_ms < present && roll && time_ms < present) time_ms = present;
    if (time_ms < present) time_ms = present;
    struct wslot slot;
    uint32_t there = wheel_get(&t->wheel, time_ms, &slot), far = time_ms >= t->horizon_ms && !lslot_of(t, time_ms, 0);
    if (there == 2) {
        if (slot.time_ms > k->now + t->window_ms) slot_roll_away(t, slot.time_ms);
        return 0;
    }
    struct lslot *ls = far ? NULL : lslot_of(t, time_ms, 1);
    if (!far && (!ls || t->n_heap == NEAR_MAX)) return 0;
    struct unit u = { .prev = slot.last, .write_ms = present, .time_ms = time_ms, .physical = r->physical_offset,
                      .exact_ms = roll ? 0 : exact_of(t, r, out_ms), .size = (int32_t)r->size, .topic_hash = zl_java_hash(topic),
                      .magic = UNIT_DEFAULT | (roll ? UNIT_ROLL : 0) | (del.len ? UNIT_DELETE : 0) };
    if (tlog_add(&t->log, &u, &pos) != ZR_OK) return 0;
    slot.time_ms = time_ms;
    slot.first = there ? slot.first : pos;
    slot.last = pos;
    slot.num += del.len ? -1 : 1;
    wheel_put(&t->wheel, &slot);
    if (!del.len || !ls || roll) metric_add(t, u.topic_hash, del.len ? -1 : 1, k->now);
    if (again) t->doubt_end = t->log.end;
    if (ls && del.len && !roll) lslot_delete(t, ls, pos, del);
    if (!ls || (del.len && !roll)) return 1; /* the unit is there: whatever else failed is made up for from the chain */
    struct near_msg m = { .due_ms = roll || !u.exact_ms ? time_ms : u.exact_ms, .physical = u.physical, .slot_ms = time_ms, .size = r->size,
                          .flags = (roll ? NEAR_ROLL : 0) | (again ? NEAR_DOUBT : 0) | (del.len ? NEAR_RECALL : 0) };
    if (near_add(t, &m) == ZR_OK) ls->pending++;
    else if (ls->resume < 0) ls->resume = pos; /* no memory: it is in the chain */
    return 1;
}

/* What cannot be read for long is noted without being known: it comes up in a minute, and as one that goes round it is then stored
 * anew and finds its time. 1: passed. */
static uint32_t take_unread(struct taking *k, int64_t physical, zr_status status)
{
    struct timer *t = k->t;
    struct wslot slot;
    int64_t pos, now = wall_ms(t->inst);
    if (t->failures < (t->unread_run ? 1u : UNREAD_TRIES) || !slot_ahead(t, now, &slot)) return 0;
    struct unit u = { .prev = slot.last, .write_ms = slot_floor(t, now), .time_ms = slot.time_ms, .physical = physical, .exact_ms = UNIT_PUT_OFF,
                      .size = (int32_t)k->size, .magic = UNIT_DEFAULT | UNIT_ROLL };
    if (tlog_add(&t->log, &u, &pos) != ZR_OK) return 0;
    if (slot.first < 0) slot.first = pos;
    slot.last = pos;
    slot.num++;
    wheel_put(&t->wheel, &slot);
    metric_add(t, 0, 1, now);
    if (k->offset < t->doubt_queue_end) t->doubt_end = t->log.end;
    t->unread_run = 1;
    unread_tell(t, physical, status, now);
    return 1;
}

/* 1: passed; 0: not now. */
static uint32_t take(struct taking *k, int64_t physical)
{
    struct zr_inst *inst = k->t->inst;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    zr_status status = inst->storage->record_at(inst->storage_inst, physical, &piece, &pin);
    if (status != ZR_OK && !is_gone(status)) return take_unread(k, physical, status);
    k->t->unread_run = 0;
    uint32_t passed = 1;
    if (status != ZR_OK || zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) != ZR_OK)
        say(inst, ZR_LOG_WARN, "a timed message at %lld is gone: its record cannot be read", (long long)physical);
    else
        passed = take_record(k, &r);
    if (status == ZR_OK && pin) inst->storage->unpin(inst->storage_inst, pin);
    return passed;
}

static void seen(void *arg, zr_status status)
{
    struct timer *t = arg;
    (void)status;
    pthread_mutex_lock(&t->lock);
    t->asked_visible = 0;
    pthread_mutex_unlock(&t->lock);
    timer_kick(t);
    running_end(t->inst);
}

/* Nothing at the cursor: taken by retention, or not visible yet. 1: look again. */
static uint32_t nothing_there(struct timer *t, int64_t now)
{
    struct zr_inst *inst = t->inst;
    int64_t min = 0, max = 0;
    inst->storage->bounds(inst->storage_inst, t->queue, &min, &max);
    if (t->cursor < min) {
        say(inst, ZR_LOG_WARN, "timed messages %lld to %lld are gone, retention took them", (long long)t->cursor, (long long)min - 1);
        t->cursor = min;
        timer_dirty(t);
        return 1;
    }
    pthread_mutex_lock(&t->lock);
    int64_t position = t->known_physical;
    uint32_t waits = t->known_end > t->cursor && !t->asked_visible && !t->stopping, ask = waits && position > t->asked_physical;
    if (ask) {
        t->asked_visible = 1;
        t->asked_physical = position;
    }
    pthread_mutex_unlock(&t->lock);
    if (waits && !ask) t->retry_until_ms = now + UNREAD_MS; /* it is visible, and cannot be read now */
    if (!ask) return 0;
    pthread_mutex_lock(&inst->lock);
    inst->n_running++;
    pthread_mutex_unlock(&inst->lock);
    inst->durability->when(inst->host, position, seen, t);
    return 0;
}

uint32_t enqueue_some(struct timer *t, int64_t now)
{
    struct zr_inst *inst = t->inst;
    int64_t physical[ENTRIES], codes[ENTRIES];
    uint32_t sizes[ENTRIES], i = 0, passed = 1;
    if (t->retry_until_ms > now) return 0;
    uint32_t n = inst->storage->entries(inst->storage_inst, t->queue, t->cursor, physical, sizes, codes, ENTRIES);
    if (n == 0) return nothing_there(t, now);
    struct taking k = { .t = t, .now = now };
    pthread_mutex_lock(&t->step);
    while (i < n && passed) {
        k.offset = t->cursor + i;
        k.now = k.offset < t->rebuild_end ? t->rebuild_ms : now;
        k.size = sizes[i];
        passed = take(&k, physical[i]);
        i += passed;
    }
    zr_status status = tlog_push(&t->log);
    pthread_mutex_unlock(&t->step);
    t->cursor += i;
    if (i) timer_dirty(t);
    pthread_mutex_lock(&t->count_lock);
    t->n_enqueued += i;
    pthread_mutex_unlock(&t->count_lock);
    if (passed && status == ZR_OK) {
        t->failures = 0;
        return 1;
    }
    if (t->failures++ == 20) say(inst, ZR_LOG_WARN, "timed messages wait for room in memory or on disk, for those before them, or until the log can be read");
    t->retry_until_ms = now + (t->failures < 8 ? 1ll << t->failures : 250);
    return 0;
}
