/* SPDX-License-Identifier: Apache-2.0 */
/* due.c - what is near: slots on their way from the wheel into memory, and messages from there to their topics.
 *
 * What stays true:
 *   1. heap[0] is due first; of two due at one time the older record.
 *   2. loaded[] is by time; pending counts the messages of a slot that are in the heap or in the batch. A slot is done when
 *      pending is 0, all its chain was loaded, and its time is over; slots are done in their order, so read_ms is right.
 *   3. A message leaves the heap for good only when it was stored in its topic, was recalled, or can never be stored.
 *   4. Nothing of a slot leaves before all recalls of its chain were read, but where one of them cannot be read for more than a minute
 *      while its messages can.
 *   5. What cannot be read is tried again by itself, later and later, and does not keep its slot from being done: then it is noted
 *      anew for a slot a minute ahead, with the recalls of its slot. One line in the log tells its position. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "timer.h"
#include "zl/text.h"
#include "zl/topics.h"

#define BATCH_BYTES (4u * 1024 * 1024)
#define MAX_RETRY_MS 5000
#define TELL_TRIES 6u   /* reads in vain (some seconds) until the operator is told */
#define STUCK_TRIES 10u /* and until a slot that is over does not wait for it any more */
#define PUT_OFF_MS 60000
#define PUT_OFF_PLACES 64u
#define TOLD_MAX 8u

/* ---- the heap ------------------------------------------------------------------------------------------------------------- */

static uint32_t before(const struct near_msg *a, const struct near_msg *b)
{
    return a->due_ms != b->due_ms ? a->due_ms < b->due_ms : a->physical < b->physical;
}

zr_status near_add(struct timer *t, const struct near_msg *m)
{
    if (t->n_heap == t->cap_heap) {
        uint32_t cap = t->cap_heap ? t->cap_heap * 2 : 1024;
        struct near_msg *more = cap <= NEAR_MAX ? realloc(t->heap, cap * sizeof *more) : NULL;
        if (!more) return ZR_ENOMEM;
        t->heap = more;
        t->cap_heap = cap;
    }
    uint32_t at = t->n_heap++;
    while (at > 0 && before(m, &t->heap[(at - 1) / 2])) {
        t->heap[at] = t->heap[(at - 1) / 2];
        at = (at - 1) / 2;
    }
    t->heap[at] = *m;
    return ZR_OK;
}

static struct near_msg near_take(struct timer *t)
{
    struct near_msg top = t->heap[0], last = t->heap[--t->n_heap];
    uint32_t at = 0;
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= t->n_heap) break;
        if (child + 1 < t->n_heap && before(&t->heap[child + 1], &t->heap[child])) child++;
        if (!before(&t->heap[child], &last)) break;
        t->heap[at] = t->heap[child];
        at = child;
    }
    if (t->n_heap) t->heap[at] = last;
    if (t->cap_heap > 65536 && t->n_heap < t->cap_heap / 8) { /* a rush is over */
        struct near_msg *less = realloc(t->heap, t->cap_heap / 4 * sizeof *less);
        if (less) {
            t->heap = less;
            t->cap_heap /= 4;
        }
    }
    return top;
}

static void near_drop_slot(struct timer *t, int64_t slot_ms)
{
    uint32_t all = t->n_heap;
    t->n_heap = 0;
    for (uint32_t i = 0; i < all; i++) {
        struct near_msg m = t->heap[i];
        if (m.slot_ms != slot_ms) near_add(t, &m); /* into a place that was read already */
    }
}

/* ---- slots at work ---------------------------------------------------------------------------------------------------------- */

struct lslot *lslot_of(struct timer *t, int64_t time_ms, uint32_t make)
{
    uint32_t low = 0, high = t->n_loaded;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (t->loaded[mid].time_ms < time_ms) low = mid + 1;
        else high = mid;
    }
    if (low < t->n_loaded && t->loaded[low].time_ms == time_ms) return &t->loaded[low];
    if (!make || t->n_loaded == LOADED_MAX) return NULL;
    memmove(&t->loaded[low + 1], &t->loaded[low], (t->n_loaded - low) * sizeof t->loaded[0]);
    t->loaded[low] = (struct lslot){ .time_ms = time_ms, .resume = -1, .unread = -1 };
    t->n_loaded++;
    return &t->loaded[low];
}

/* To be read again, from pos back, before anything of the slot leaves. */
static void recalls_later(struct lslot *s, int64_t pos)
{
    if (s->unread < pos) s->unread = pos;
}

void lslot_delete(struct timer *t, struct lslot *s, int64_t pos, struct zr_str key)
{
    zr_status status = recalls_add(t, &s->recalls, key);
    if (status == ZR_OK) s->acted = 1;
    else if (status == ZR_ENOMEM) recalls_later(s, pos);
    else if (status == ZR_EFULL && !s->told++)
        say(t->inst, ZR_LOG_ERROR, "recalls of messages due at %lld ms find no room (%u MiB): those messages are delivered all the same", (long long)s->time_ms, RECALL_BYTES >> 20);
}

static void lslot_free(struct timer *t, struct lslot *s) { recalls_free(t, &s->recalls); }

void due_free(struct timer *t)
{
    for (uint32_t i = 0; i < t->n_loaded; i++) lslot_free(t, &t->loaded[i]);
    if (t->batch) zl_buf_free(&t->batch->text);
    free(t->loaded);
    free(t->heap);
    free(t->batch);
    t->loaded = NULL;
    t->heap = NULL;
    t->batch = NULL;
    t->n_loaded = t->n_heap = t->cap_heap = 0;
}

/* The key of the recall's unit at pos, from its record. give_up: when it cannot be read, it is none. */
static void delete_load(struct timer *t, struct lslot *s, int64_t pos, int64_t physical, uint32_t give_up)
{
    struct zr_inst *inst = t->inst;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    zr_status status = inst->storage->record_at(inst->storage_inst, physical, &piece, &pin);
    if (status != ZR_OK) {
        if (is_gone(status)) return;
        if (!give_up) recalls_later(s, pos);
        else say(inst, ZR_LOG_ERROR, "the recall of a timed message at %lld cannot be read (status %d): what it took back is delivered all the same", (long long)physical, status);
        return;
    }
    if (zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK) {
        struct zr_str key = zl_props_get(r.properties, "TIMER_DEL_UNIQKEY"); /* one that is dead already has none */
        if (key.len) lslot_delete(t, s, pos, key);
    }
    if (pin) inst->storage->unpin(inst->storage_inst, pin);
}

static void chain_damaged(struct timer *t, int64_t pos)
{
    say(t->inst, ZR_LOG_ERROR, "the timer log is damaged at %lld: it is made anew from what is whole, and from %s", (long long)pos, TIMER_TOPIC);
    t->damaged = 1;
}

/* The recalls that could not be read before. 0: some still cannot. */
static uint32_t recalls_again(struct timer *t, struct lslot *s, uint32_t give_up)
{
    struct unit u;
    int64_t pos = s->unread, above = INT64_MAX;
    s->unread = -1;
    for (; pos >= 0 && pos < above && s->unread < 0; above = pos, pos = u.prev) {
        if (tlog_read(&t->log, pos, &u) != ZR_OK) {
            chain_damaged(t, pos);
            s->unread = pos;
        } else if (u.magic & UNIT_DELETE && !(u.magic & UNIT_ROLL)) {
            delete_load(t, s, pos, u.physical, give_up);
        }
        if (s->unread >= 0) return 0;
    }
    return 1;
}

/* Walks a slot's chain from pos back. Recalls are noted, the others go to the heap while it has room. */
static void chain_load(struct timer *t, struct lslot *s, int64_t pos, uint32_t with_deletes)
{
    struct unit u;
    int64_t above = INT64_MAX;
    uint32_t full = 0;
    s->resume = -1;
    for (; pos >= 0 && pos < above; above = pos, pos = u.prev) {
        if (tlog_read(&t->log, pos, &u) != ZR_OK) {
            chain_damaged(t, pos);
            return;
        }
        if (u.magic & UNIT_DELETE && !(u.magic & UNIT_ROLL) && !s->far) {
            if (with_deletes) {
                metric_add(t, u.topic_hash, 1, u.write_ms); /* what it takes back counts until it is passed over */
                delete_load(t, s, pos, u.physical, 0);
            }
            continue;
        }
        uint32_t roll = s->far || u.magic & UNIT_ROLL;
        struct near_msg m = { .due_ms = s->far ? 0 : roll ? s->time_ms : u.exact_ms > s->time_ms && u.exact_ms <= s->time_ms + STEP_MAX ? u.exact_ms : u.exact_ms && u.exact_ms <= s->time_ms ? s->time_ms : s->time_ms + t->precision_ms,
                              .physical = u.physical, .slot_ms = s->time_ms, .size = (uint32_t)u.size,
                              .flags = (roll ? NEAR_ROLL : 0) | (pos < t->doubt_end ? NEAR_DOUBT : 0) | (u.exact_ms == UNIT_PUT_OFF ? NEAR_AGAIN : 0) | (u.magic & UNIT_DELETE ? NEAR_RECALL : 0) };
        if (full) continue;
        if (t->n_heap < NEAR_MAX && near_add(t, &m) == ZR_OK) {
            s->pending++;
        } else {
            s->resume = pos;
            full = 1;
            if (!with_deletes) return;
        }
    }
}

static uint32_t resume_some(struct timer *t)
{
    for (uint32_t i = 0; i < t->n_loaded && t->n_heap < NEAR_MAX / 2; i++)
        if (t->loaded[i].resume >= 0) {
            chain_load(t, &t->loaded[i], t->loaded[i].resume, 0);
            return 1;
        }
    return 0;
}

static uint32_t slot_load(struct timer *t, const struct wslot *slot, uint32_t far)
{
    if (lslot_of(t, slot->time_ms, 0)) return 1;
    struct lslot *s = t->n_heap < NEAR_MAX / 2 ? lslot_of(t, slot->time_ms, 1) : NULL;
    if (!s) return 0;
    s->far = far;
    chain_load(t, s, slot->last, 1);
    return 1;
}

uint32_t slot_roll_away(struct timer *t, int64_t time_ms)
{
    struct wslot slot;
    return wheel_get(&t->wheel, time_ms, &slot) == 1 && slot_load(t, &slot, 1);
}

uint32_t slots_load(struct timer *t, int64_t now)
{
    struct wslot slot;
    int64_t target = slot_floor(t, now) + 2 * t->precision_ms, lap = (int64_t)WHEEL_SLOTS * t->precision_ms;
    uint32_t at, busy = resume_some(t);
    if (target <= t->horizon_ms) return busy;
    for (uint32_t skip = 0; wheel_next(&t->wheel, t->read_ms, skip, &slot, &at); skip = at + 1) {
        if (slot.time_ms < target) {
            if (!slot_load(t, &slot, 0)) return busy;
        } else if (slot.time_ms - t->read_ms < lap) {
            break;
        }
    }
    t->horizon_ms = target;
    return 1;
}

/* ---- what cannot be read for long ------------------------------------------------------------------------------------------- */

uint32_t slot_ahead(struct timer *t, int64_t now, struct wslot *ret)
{
    int64_t time_ms = slot_floor(t, now + PUT_OFF_MS);
    for (uint32_t i = 0; i < PUT_OFF_PLACES; i++, time_ms += t->precision_ms) {
        if (time_ms < t->horizon_ms || lslot_of(t, time_ms, 0)) continue;
        uint32_t there = wheel_get(&t->wheel, time_ms, ret);
        if (there == 2) continue;
        if (!there) *ret = (struct wslot){ .first = -1, .last = -1 };
        ret->time_ms = time_ms;
        return 1;
    }
    return 0;
}

/* At most TOLD_MAX places a minute. */
void unread_tell(struct timer *t, int64_t physical, zr_status status, int64_t now)
{
    if (now - t->told_since_ms > PUT_OFF_MS || now < t->told_since_ms) {
        t->told_since_ms = now;
        t->told_unread = 0;
    }
    if (t->told_unread++ < TOLD_MAX)
        say(t->inst, ZR_LOG_ERROR, "the timed message at %lld cannot be read (status %d): it is tried again each minute until it can, or until retention takes it; all others go on",
            (long long)physical, status);
}

static int by_physical(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* The messages of that slot that are in memory, by position; *ret_n of them. NULL: none, or memory ran out. */
static int64_t *near_of_slot(struct timer *t, int64_t slot_ms, uint32_t *ret_n)
{
    int64_t *all = t->n_heap ? malloc(t->n_heap * sizeof *all) : NULL;
    *ret_n = 0;
    if (!all) return NULL;
    for (uint32_t i = 0; i < t->n_heap; i++)
        if (t->heap[i].slot_ms == slot_ms) all[(*ret_n)++] = t->heap[i].physical;
    if (*ret_n) qsort(all, *ret_n, sizeof *all, by_physical);
    return all;
}

/* The units of s that are still wanted, noted once more for `to`: its messages, and the recalls that go with them. */
static zr_status units_put_off(struct timer *t, const struct lslot *s, int64_t last, struct wslot *to, int64_t now, const int64_t *left, uint32_t n_left)
{
    struct unit u;
    int64_t above = INT64_MAX, pos;
    zr_status status = ZR_OK;
    uint32_t recalled = (s->recalls.n || s->unread >= 0) && !s->far;
    for (pos = last; status == ZR_OK && pos >= 0 && pos < above; above = pos, pos = u.prev) {
        if ((status = tlog_read(&t->log, pos, &u)) != ZR_OK) break;
        uint32_t is_recall = u.magic & UNIT_DELETE && !(u.magic & UNIT_ROLL) && !s->far;
        if (is_recall ? !recalled : !bsearch(&u.physical, left, n_left, sizeof *left, by_physical)) continue;
        struct unit again = u;
        int64_t at;
        if (s->far) again.magic |= UNIT_ROLL;
        again.prev = to->last;
        again.write_ms = slot_floor(t, now);
        again.time_ms = to->time_ms;
        again.exact_ms = UNIT_PUT_OFF;
        if ((status = tlog_add(&t->log, &again, &at)) != ZR_OK) break;
        if (to->first < 0) to->first = at;
        to->last = at;
        to->num += is_recall ? -1 : 1;
        if (is_recall) metric_add(t, u.topic_hash, -1, u.write_ms);
        if (pos < t->doubt_end) t->doubt_end = t->log.end;
    }
    return status == ZR_OK ? tlog_push(&t->log) : status;
}

/* All that is left of a slot that is over cannot be read: it goes to a later slot, so that this one is done, and its place in
 * memory and in the log is not held. What was noted in vain is looked up as everything in doubt, or is over at the next start. */
static void slot_put_off(struct timer *t, struct lslot *s, int64_t now)
{
    struct wslot from, to;
    uint32_t n = 0;
    if (wheel_get(&t->wheel, s->time_ms, &from) != 1 || !slot_ahead(t, now, &to)) return;
    int64_t *left = near_of_slot(t, s->time_ms, &n);
    if (!left) return;
    pthread_mutex_lock(&t->step);
    zr_status status = units_put_off(t, s, from.last, &to, now, left, n);
    if (status == ZR_OK) wheel_put(&t->wheel, &to);
    pthread_mutex_unlock(&t->step);
    free(left);
    if (status != ZR_OK) return;
    near_drop_slot(t, s->time_ms);
    s->pending = s->stuck = 0;
}

void slots_finish(struct timer *t, int64_t now)
{
    uint32_t n = 0;
    while (n < t->n_loaded) {
        struct lslot *s = &t->loaded[n];
        if (s->pending && s->pending == s->stuck && s->resume < 0 && (s->far || s->time_ms + t->precision_ms <= now)) slot_put_off(t, s, now);
        if (s->pending || s->resume >= 0 || (!s->far && s->time_ms + t->precision_ms > now)) break;
        wheel_clear(&t->wheel, s->time_ms);
        lslot_free(t, s);
        n++;
    }
    if (n) {
        t->n_loaded -= n;
        memmove(t->loaded, t->loaded + n, t->n_loaded * sizeof t->loaded[0]);
        timer_dirty(t);
    }
    int64_t present = slot_floor(t, now);
    t->read_ms = t->n_loaded && t->loaded[0].time_ms < present ? t->loaded[0].time_ms : t->horizon_ms < present ? t->horizon_ms : present;
}

int64_t due_next_ms(struct timer *t, int64_t now)
{
    struct wslot slot;
    uint32_t at;
    int64_t ms = t->n_heap ? t->heap[0].due_ms - now : -1;
    if (t->n_heap && ms < 0) ms = 0;
    if (t->n_loaded && !t->loaded[0].pending && t->loaded[0].resume < 0) {
        int64_t done = t->loaded[0].time_ms + t->precision_ms - now;
        if (ms < 0 || done < ms) ms = done > 0 ? done : 0;
    }
    for (uint32_t skip = 0; wheel_next(&t->wheel, t->horizon_ms, skip, &slot, &at); skip = at + 1) {
        if (slot.time_ms < t->horizon_ms) continue; /* loaded */
        int64_t load = slot.time_ms - t->precision_ms - now;
        if (load < 0) load = 0;
        return ms < 0 || load < ms ? load : ms;
    }
    return ms;
}

/* ---- a batch -------------------------------------------------------------------------------------------------------------- */

static void text_pair(struct zl_buf *b, const char *name, struct zr_str value)
{
    zl_buf_cstr(b, name);
    zl_buf_u8(b, 1);
    zl_buf_str(b, value);
    zl_buf_u8(b, 2);
}

static void text_number(struct zl_buf *b, const char *name, int64_t v)
{
    char text[24];
    text_pair(b, name, (struct zr_str){ text, zl_print_i64(text, v) });
}

/* What Apache sets when a message leaves the wheel. */
static uint64_t properties_make(struct timer *t, struct tbatch *b, const struct zl_record *r, uint32_t roll, int64_t now)
{
    static const char *const without[] = { "TIMER_ENQUEUE_MS", "TIMER_DEQUEUE_MS", "TIMER_ROLL_TIMES", NULL };
    int64_t times = 0, out_ms = 0;
    uint64_t at = b->text.len;
    struct zr_str rolled = zl_props_get(r->properties, "TIMER_ROLL_TIMES"), out = zl_props_get(r->properties, "TIMER_OUT_MS");
    uint32_t add = r->properties.len < ZL_MAX_PROPERTIES - 200u;
    zl_props_copy(&b->text, r->properties, without);
    if (!add) return at;
    if (rolled.len && zl_parse_i64(rolled, &times) != ZR_OK) times = 0;
    if (roll && !zl_props_get(r->properties, "TIMER_DELIVER_MS").len && zl_parse_i64(out, &out_ms) == ZR_OK)
        text_number(&b->text, "TIMER_DELIVER_MS", exact_of(t, r, out_ms)); /* the next round cannot tell from its own times */
    text_number(&b->text, "TIMER_ENQUEUE_MS", r->store_ms);
    text_number(&b->text, "TIMER_DEQUEUE_MS", now);
    if (roll || rolled.len) text_number(&b->text, "TIMER_ROLL_TIMES", times + (roll ? 1 : 0));
    return at;
}

struct queues { int32_t n; uint32_t found; };

static void on_topic(void *ctx, const struct zr_topic *topic)
{
    struct queues *q = ctx;
    q->found = 1;
    q->n = topic->write_queues > 0 ? topic->write_queues : topic->read_queues;
}

/* Why it can never be delivered, or NULL. */
static const char *target_find(struct timer *t, const struct zl_record *r, struct zr_str *ret_topic, int32_t *ret_queue)
{
    struct queues q = { 0, 0 };
    *ret_topic = zl_props_get(r->properties, "REAL_TOPIC");
    if (!ret_topic->len || zl_parse_i32(zl_props_get(r->properties, "REAL_QID"), ret_queue) != ZR_OK || *ret_queue < 0) return "it does not say where it belongs";
    if (zl_topic_unsendable(*ret_topic)) return "its topic is one of the broker's own";
    t->inst->broker->topic(t->inst->host, *ret_topic, on_topic, &q);
    if (!q.found) return "its topic was removed";
    if (q.n > 0 && *ret_queue >= q.n) *ret_queue %= q.n; /* it shrank meanwhile; nobody reads beyond */
    return NULL;
}

static void done_with(struct timer *t, const struct near_msg *m, int32_t topic_hash, int64_t *counter, int64_t now)
{
    struct lslot *s = lslot_of(t, m->slot_ms, 0);
    if (s) {
        s->pending--;
        s->acted = 1;
    }
    metric_add(t, topic_hash, m->flags & NEAR_RECALL ? 1 : -1, now);
    pthread_mutex_lock(&t->count_lock);
    ++*counter;
    pthread_mutex_unlock(&t->count_lock);
    timer_dirty(t);
}

/* Once more, later and later: each message by itself, so that one that fails for long costs little and delays no other. */
static void near_again(struct timer *t, struct near_msg *m, int64_t now)
{
    uint32_t tries = m->flags / NEAR_TRY;
    int64_t ms = 20ll << (tries < 8 ? tries : 8);
    m->due_ms = now + (ms < MAX_RETRY_MS ? ms : MAX_RETRY_MS);
    if (tries < NEAR_TRIES_MAX) m->flags += NEAR_TRY;
    near_add(t, m); /* it had room a moment ago */
}

static void near_unstick(struct timer *t, struct near_msg *m)
{
    struct lslot *s = m->flags & NEAR_STUCK ? lslot_of(t, m->slot_ms, 0) : NULL;
    m->flags &= ~NEAR_STUCK;
    if (s) s->stuck--;
}

/* It cannot be read now, or not what has to be known before it leaves. */
static void near_later(struct timer *t, struct tbatch *b, struct near_msg *m, zr_status status, int64_t now)
{
    struct lslot *s = lslot_of(t, m->slot_ms, 0);
    uint32_t tries = m->flags / NEAR_TRY;
    if (tries == TELL_TRIES && !(m->flags & NEAR_AGAIN)) unread_tell(t, m->physical, status, now);
    if (tries >= STUCK_TRIES && s && !(m->flags & NEAR_STUCK)) {
        m->flags |= NEAR_STUCK;
        s->stuck++;
    }
    near_again(t, m, now);
    b->unread++;
}

static uint32_t record_take(struct timer *t, struct tbatch *b, struct near_msg *m, const struct zl_record *r, uint64_t pin, int64_t now)
{
    struct zr_str topic = zl_props_get(r->properties, "REAL_TOPIC");
    struct lslot *s = lslot_of(t, m->slot_ms, 0);
    int32_t queue_id = 0, hash = zl_java_hash(topic);
    uint32_t roll = m->flags & NEAR_ROLL;
    const char *why = NULL;
    if (!roll && s && recalls_has(&s->recalls, topic, zl_props_get(r->properties, "UNIQ_KEY"))) {
        done_with(t, m, hash, &t->n_recalled, now);
        return 0;
    }
    uint32_t passed = m->flags & NEAR_DOUBT ? was_passed_on(t, r) : 0;
    if (passed == PASSED_UNKNOWN) {
        near_later(t, b, m, ZR_EAGAIN, now);
        return 0;
    }
    near_unstick(t, m);
    if (passed) {
        done_with(t, m, hash, &t->n_dropped, now);
        return 0;
    }
    if (!roll) why = target_find(t, r, &topic, &queue_id);
    if (why) {
        say(t->inst, ZR_LOG_WARN, "a timed message at %lld (topic %.*s) is dropped: %s", (long long)r->physical_offset, (int)topic.len, topic.len ? topic.ptr : "", why);
        done_with(t, m, hash, &t->n_dropped, now);
        return 0;
    }
    b->prop_at[b->n] = properties_make(t, b, r, roll, now);
    b->near[b->n] = *m;
    b->hash[b->n] = hash;
    b->pins[b->n] = pin;
    b->msgs[b->n++] = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = roll ? (struct zr_str)ZR_STR(TIMER_TOPIC) : topic, .body = r->body,
                                       .tags_code = zl_tags_code(zl_props_get(r->properties, "TAGS")), .born_ms = r->born_ms,
                                       .born_host = r->born_host, .queue_id = queue_id, .flag = r->flag, .sys_flag = r->sys_flag,
                                       .reconsume_times = r->reconsume_times, .flags = ZR_MSG_NO_WAIT | ZR_MSG_OWN, .inner_num = 1 };
    return 1;
}

static uint64_t near_read(struct timer *t, struct tbatch *b, struct near_msg *m, int64_t now)
{
    struct zr_inst *inst = t->inst;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    struct lslot *s = m->flags & NEAR_ROLL ? NULL : lslot_of(t, m->slot_ms, 0);
    zr_status status = inst->storage->record_at(inst->storage_inst, m->physical, &piece, &pin);
    uint32_t give_up = m->flags & NEAR_AGAIN && m->flags / NEAR_TRY >= TELL_TRIES; /* its own record can be read, for long */
    uint32_t waits = status == ZR_OK && s && s->unread >= 0 && !recalls_again(t, s, give_up);
    if (waits && pin) inst->storage->unpin(inst->storage_inst, pin);
    if (waits || (status != ZR_OK && !is_gone(status))) {
        near_later(t, b, m, waits ? ZR_EAGAIN : status, now);
        return 0;
    }
    if (status != ZR_OK || zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) != ZR_OK) {
        near_unstick(t, m);
        say(inst, ZR_LOG_WARN, "a timed message at %lld is gone: its record cannot be read", (long long)m->physical);
        done_with(t, m, 0, &t->n_dropped, now);
    } else if (record_take(t, b, m, &r, pin, now)) {
        return piece.len;
    }
    if (status == ZR_OK && pin) inst->storage->unpin(inst->storage_inst, pin);
    return 0;
}

static void published(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct timer *t = ctx;
    struct tbatch *b = t->batch;
    for (uint32_t i = 0; i < b->n; i++) {
        const struct zr_put *p = puts && n == b->n ? (const struct zr_put *)(const void *)((const char *)puts + (uint64_t)i * puts->hdr.size) : NULL;
        b->put[i] = p ? p->status : status < 0 ? status : ZR_ENOMEM;
        if (p && p->status == ZR_OK && p->physical_offset + p->size > b->end) b->end = p->physical_offset + p->size;
    }
    pthread_mutex_lock(&t->lock);
    b->answered = 1;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static void batch_send(struct timer *t, struct tbatch *b)
{
    struct zr_inst *inst = t->inst;
    for (uint32_t i = 0; i < b->n; i++) {
        uint64_t end = i + 1 < b->n ? b->prop_at[i + 1] : b->text.len;
        b->msgs[i].properties = (struct zr_span){ b->text.ptr + b->prop_at[i], end - b->prop_at[i] };
    }
    b->answered = 0;
    inst->store->publish(inst->host, b->msgs, b->n, ZR_PUBLISH_NO_HOOKS, published, t);
    pthread_mutex_lock(&t->lock);
    while (!b->answered) pthread_cond_wait(&t->wake, &t->lock);
    pthread_mutex_unlock(&t->lock);
}

static void batch_end(struct timer *t, struct tbatch *b, int64_t now)
{
    uint32_t failed = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        struct near_msg *m = &b->near[i];
        uint32_t roll = m->flags & NEAR_ROLL;
        int64_t late = roll ? 0 : now - m->due_ms;
        if (b->put[i] == ZR_OK || b->put[i] == ZR_EINVAL) {
            if (b->put[i] == ZR_EINVAL) say(t->inst, ZR_LOG_ERROR, "a timed message at %lld is dropped: the storage refuses it as illegal", (long long)m->physical);
            done_with(t, m, b->hash[i], b->put[i] == ZR_EINVAL ? &t->n_dropped : roll ? &t->n_rolled : &t->n_delivered, now);
            pthread_mutex_lock(&t->count_lock);
            if (late > t->late_max_ms) t->late_max_ms = late;
            pthread_mutex_unlock(&t->count_lock);
            continue;
        }
        failed = 1;
        near_again(t, m, now);
    }
    for (uint32_t i = 0; i < b->n; i++)
        if (b->pins[i]) t->inst->storage->unpin(t->inst->storage_inst, b->pins[i]);
    if (!failed && b->n) t->due_failures = 0;
    else if (t->due_failures++ == 0) say(t->inst, ZR_LOG_WARN, "timed messages cannot be delivered now; they are tried again until they are");
    if (b->end > t->delivered_end) t->delivered_end = b->end;
}

uint32_t due_deliver(struct timer *t, int64_t now)
{
    struct tbatch *b = t->batch;
    uint64_t bytes = 0;
    uint32_t any = 0;
    if (!t->n_heap || t->heap[0].due_ms > now) return 0;
    b->n = b->unread = 0;
    b->end = 0;
    zl_buf_clear(&b->text);
    while (t->n_heap && t->heap[0].due_ms <= now && b->n < TBATCH && bytes < BATCH_BYTES && any < 4 * TBATCH) {
        struct near_msg m = near_take(t);
        bytes += near_read(t, b, &m, now);
        any++;
    }
    if (b->n && !b->text.failed) {
        batch_send(t, b);
        now = wall_ms(t->inst);
    } else {
        for (uint32_t i = 0; i < b->n; i++) b->put[i] = ZR_ENOMEM;
    }
    batch_end(t, b, now);
    return 1;
}

/* ---- a stop in the middle of a slot ------------------------------------------------------------------------------------------ */

/* The units of what left already become recalls of nothing, which Apache and we pass over. */
static void slot_entomb(struct timer *t, struct lslot *s, int64_t *left, uint32_t n_left)
{
    struct wslot slot;
    struct unit u;
    int64_t above = INT64_MAX;
    if (wheel_get(&t->wheel, s->time_ms, &slot) != 1) return;
    for (int64_t pos = slot.last; pos >= 0 && pos < above && pos != s->resume; above = pos, pos = u.prev) {
        if (tlog_read(&t->log, pos, &u) != ZR_OK) return;
        if (u.magic & UNIT_DELETE || (n_left && bsearch(&u.physical, left, n_left, sizeof *left, by_physical))) continue;
        tlog_set_magic(&t->log, pos, (u.magic & ~UNIT_ROLL) | UNIT_DELETE);
        slot.num--;
    }
    wheel_put(&t->wheel, &slot);
}

void slots_entomb(struct timer *t)
{
    for (uint32_t i = 0; i < t->n_loaded; i++) {
        uint32_t n;
        int64_t *left = t->loaded[i].acted ? near_of_slot(t, t->loaded[i].time_ms, &n) : NULL;
        if (t->loaded[i].acted && (left || !t->n_heap)) slot_entomb(t, &t->loaded[i], left, n);
        free(left);
    }
}
