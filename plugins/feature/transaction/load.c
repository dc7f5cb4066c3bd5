/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - what was open when the broker stopped: the op queue says which half messages need no attention any more, and those of the
 * half queue that it does not name are open. Also a directory that Apache left.
 *
 * What stays true:
 *   1. Ops are read before halves, each from its queue's consumer offset to its end. What comes meanwhile is known by the hooks.
 *   2. Producers are given check_interval to come back before they are asked about what is loaded.
 *   3. A message that was written anew is one transaction with what it was before. Those written by us name the first
 *      (TRAN_PREPARED_QUEUE_OFFSET); those that Apache wrote are known by their unique key. What Apache's ops say about any of
 *      them was said about all.
 *   4. What is open here may have been committed in the last op_interval before a crash: TX_DOUBT says so until someone looked
 *      (found.c), before its producer is asked or when it says so again.
 *   5. What cannot be read for long (UNREAD_TRIES; longer where nothing behind it can be read either) is passed, and the log says so: a half
 *      message is open and is looked at again and again (check.c), an op is not known, so that those it named are asked about once more.
 *   6. A job reads CHUNK records and lets others go first; the next one goes on. What cannot be read now is read later: loading ends
 *      only where the queues ended at the start. */
#include <stdlib.h>

#include "transaction.h"
#include "zl/text.h"

#define PIECES 64u
#define CHUNK 1024u
#define BUSY_MS 20
#define UNREAD_MAX_MS 5000
#define UNREAD_TRIES 12u  /* in a row, some 25 s */
#define OUTAGE_TRIES 120u /* some ten minutes */
#define KEYS_MAX (1ull << 21)
#define WINDOW_MAX (1ll << 26)

static void load_job(void *arg);

struct reader {
    struct zr_queue *queue;
    int64_t next, end;
    void (*each)(struct zr_inst *inst, const struct zl_record *r);
};

/* What a queue has from next on, up to CHUNK records; each is called for every one. ZR_ENOENT: its end was reached, or it is gone;
 * anything else: it cannot be read now. */
static zr_status queue_read(struct zr_inst *inst, struct reader *q)
{
    struct zr_piece pieces[PIECES];
    struct zr_read read = { .hdr = ZR_HDR(struct zr_read, 0), .queue = q->queue, .pieces = pieces, .cap_pieces = PIECES, .offset = q->next, .max_messages = CHUNK };
    struct zr_read_result got = { .hdr = ZR_HDR(struct zr_read_result, 0) };
    if (q->next >= q->end) return ZR_ENOENT;
    zr_status status = inst->storage->read(inst->storage_inst, &read, &got);
    if (status != ZR_OK) return status;
    for (uint32_t i = 0; got.what == ZR_READ_FOUND && i < got.n_pieces; i++) {
        struct zr_span left = { pieces[i].ptr, pieces[i].len };
        struct zl_record r;
        const char *why;
        while (left.ptr && left.len && zl_record_parse(left, 0, &r, &why) == ZR_OK && r.size && r.size <= left.len) {
            if (r.queue_offset >= q->next && r.queue_offset < q->end) q->each(inst, &r);
            left.ptr += r.size;
            left.len -= r.size;
        }
    }
    if (got.pin) inst->storage->unpin(inst->storage_inst, got.pin);
    if (got.what == ZR_READ_NO_MESSAGE_IN_QUEUE || got.what == ZR_READ_NO_MATCHED_LOGIC_QUEUE || got.what == ZR_READ_OFFSET_OVERFLOW_ONE ||
        got.what == ZR_READ_OFFSET_OVERFLOW_BADLY)
        return ZR_ENOENT; /* it was removed meanwhile */
    if (got.next_offset <= q->next) return ZR_EAGAIN;
    q->next = got.next_offset;
    return q->next < q->end ? ZR_OK : ZR_ENOENT;
}

/* With Apache only messages with the tag "d" count. */
static void each_op(struct zr_inst *inst, const struct zl_record *r)
{
    int64_t offset, highest = -1;
    uint64_t pos = 0;
    if (!zl_is(zl_props_get(r->properties, "TAGS"), "d")) return;
    pthread_mutex_lock(&inst->lock);
    while (op_next(r->body, &pos, &offset)) {
        tx_settle(&inst->table, offset);
        if (offset > highest) highest = offset;
    }
    op_marks_add(&inst->op_marks, r->queue_offset, highest);
    struct zr_str rolled = zl_props_get(r->properties, OP_ROLLED);
    for (pos = 0; op_next((struct zr_span){ (const uint8_t *)rolled.ptr, rolled.len }, &pos, &offset);) tx_decide(&inst->table, offset, 1);
    pthread_mutex_unlock(&inst->lock);
}

/* Offsets without a record (retention took it, or it is damaged) need no attention. With the lock. */
static void settle_gone(struct zr_inst *inst, int64_t up_to)
{
    for (int64_t o = inst->load_next; o < up_to; o++) tx_settle(&inst->table, o);
    if (up_to > inst->load_next) inst->load_next = up_to;
}

/* ---- one transaction, by its unique key ---------------------------------------------------------------------------------- */

static uint64_t key_of(const struct half *h)
{
    uint64_t hash = zl_hash(h->unique.ptr, h->unique.len) * 31 + zl_hash(h->group.ptr, h->group.len);
    return hash ? hash : 1;
}

static uint64_t key_at(const struct keys *k, uint64_t hash)
{
    uint64_t at = (hash ^ hash >> 32) & (k->cap - 1);
    while (k->all[at].hash && k->all[at].hash != hash) at = (at + 1) & (k->cap - 1);
    return at;
}

static uint32_t keys_grow(struct keys *k)
{
    struct keys more = { .cap = k->cap ? k->cap * 2 : 1024, .n = k->n };
    if (more.cap > KEYS_MAX) return 0;
    more.all = calloc(more.cap, sizeof *more.all);
    if (!more.all) return 0;
    for (uint64_t i = 0; i < k->cap; i++)
        if (k->all[i].hash) more.all[key_at(&more, k->all[i].hash)] = k->all[i];
    free(k->all);
    *k = more;
    return 1;
}

/* The first one of its key: this one, unless there was one before. */
static int64_t keys_first(struct keys *k, const struct half *h, int64_t offset)
{
    uint64_t hash = key_of(h), at;
    if (!h->unique.len || (k->n * 2 >= k->cap && !keys_grow(k))) return offset;
    at = key_at(k, hash);
    if (!k->all[at].hash) {
        k->all[at].hash = hash;
        k->all[at].first = offset;
        k->n++;
    }
    return k->all[at].first;
}

/* ---- halves ---------------------------------------------------------------------------------------------------------------- */

/* With the lock. An op named this copy: what it is a copy of ended with it, or went on in one that is still to come. */
static void copy_ended(struct zr_inst *inst, int64_t first, int64_t offset)
{
    struct tx_slot *s = tx_find(&inst->table, first);
    if (!s || s->current >= offset) return;
    tx_settle(&inst->table, s->current);
    op_add(inst, s->current);
    half_count(inst, s, -1);
    tx_remove(&inst->table, s);
}

/* With the lock. */
static void half_found(struct zr_inst *inst, const struct half *h, const struct zl_record *r, int64_t ask_ms)
{
    struct tx_table *t = &inst->table;
    int64_t offset = r->queue_offset, first = keys_first(&inst->keys, h, offset);
    if (h->first.len) first = half_first(h, offset);
    else if (!half_times(h)) first = offset; /* no copy: another message of that key */
    if (tx_is_settled(t, offset)) {
        if (first != offset) copy_ended(inst, first, offset);
    } else if (!h->first.len && first != offset && tx_is_settled(t, first) && !tx_find(t, first)) {
        tx_settle(t, offset);
        op_add(inst, offset);
    } else {
        half_open(inst, h, first, offset, r->physical_offset, ask_ms);
        struct tx_slot *s = tx_find(t, first);
        if (s) s->flags |= TX_DOUBT;
    }
}

static void each_half(struct zr_inst *inst, const struct zl_record *r)
{
    struct half h;
    half_read(r->properties, &h);
    int64_t immunity = half_immunity_ms(inst, &h), wait = immunity < 0 ? inst->settings->timeout : immunity, left = r->store_ms + wait - wall_ms(inst);
    int64_t at_least = inst->begin_ms + inst->settings->check_interval, ask = mono_ms(inst) + (left < 0 ? 0 : left < wait ? left : wait);
    pthread_mutex_lock(&inst->lock);
    settle_gone(inst, r->queue_offset);
    half_found(inst, &h, r, ask < at_least ? at_least : ask);
    inst->load_next = r->queue_offset + 1;
    pthread_mutex_unlock(&inst->lock);
}

static void load_end(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->lock);
    inst->loading = 0;
    free(inst->keys.all);
    inst->keys = (struct keys){ .n = 0 };
    uint32_t open = inst->table.n, lost = inst->n_lost;
    pthread_mutex_unlock(&inst->lock);
    if (open) say(inst, ZR_LOG_INFO, "%u transactions are open", open);
    if (lost) say(inst, ZR_LOG_ERROR, "%u open transactions found no place (max_open); they are found at the next start", lost);
    op_settle(inst);
    progress(inst);
    counts_changed(inst);
    check_arm(inst);
}

static void load_fired(void *arg);

/* The next piece of work, with a running_begin that is its own. */
static void load_go_on(struct zr_inst *inst)
{
    uint64_t id;
    if (!running_begin(inst)) return;
    if (inst->work->run(inst->host, load_job, inst) == ZR_OK) return;
    inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + BUSY_MS * 1000000ll, load_fired, inst, &id);
    running_end(inst);
}

static void load_fired(void *arg) { load_go_on(arg); }

/* Later and later, until it can be read. */
static void load_later(struct zr_inst *inst, zr_status status)
{
    int64_t ms = (int64_t)BUSY_MS << (inst->load_failures < 8 ? inst->load_failures : 8);
    uint64_t id;
    if (inst->load_failures++ == 0)
        say(inst, ZR_LOG_WARN, "%s or %s cannot be read now (status %d): what was open when the broker stopped is known when they can", HALF_TOPIC, OP_TOPIC, status);
    if (ms > UNREAD_MAX_MS) ms = UNREAD_MAX_MS;
    status = inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + ms * 1000000, load_fired, inst, &id);
    if (status != ZR_OK && status != ZR_ECLOSED) say(inst, ZR_LOG_ERROR, "no timer to read %s again: open transactions are found at the next start", HALF_TOPIC);
}

static void each_ignored(struct zr_inst *inst, const struct zl_record *r) { (void)inst, (void)r; }

/* What is at offset cannot be read, for how long load_failures tells. 1: it is to be passed. */
static uint32_t is_to_be_passed(struct zr_inst *inst, const struct reader *q)
{
    struct reader behind = { q->queue, q->next + 1, q->end, each_ignored };
    if (inst->load_failures < UNREAD_TRIES) return 0;
    if (inst->load_failures >= OUTAGE_TRIES) return 1;
    zr_status status = queue_read(inst, &behind);
    return status == ZR_OK || status == ZR_ENOENT;
}

static zr_status op_pass(struct zr_inst *inst, struct reader *ops)
{
    say(inst, ZR_LOG_ERROR, "%s %lld cannot be read: of the half messages that it names those that were not committed are asked about once more", OP_TOPIC, (long long)ops->next);
    ops->next++;
    return ZR_OK;
}

/* It is open until it can be read, under its own offset's name. */
static zr_status half_pass(struct zr_inst *inst, struct reader *halves)
{
    static const struct half nothing;
    int64_t physical, code, now = mono_ms(inst), ask = inst->begin_ms + inst->settings->check_interval;
    uint32_t size;
    uint32_t n = inst->storage->entries(inst->storage_inst, halves->queue, halves->next, &physical, &size, &code, 1);
    if (n != 1) return ZR_EAGAIN;
    say(inst, ZR_LOG_ERROR, "%s %lld, at %lld, cannot be read: it counts as open until it can", HALF_TOPIC, (long long)halves->next, (long long)physical);
    pthread_mutex_lock(&inst->lock);
    settle_gone(inst, halves->next);
    half_open(inst, &nothing, halves->next, halves->next, physical, ask > now ? ask : now);
    struct tx_slot *s = tx_find(&inst->table, halves->next);
    if (s) s->flags |= TX_DOUBT;
    inst->load_next = ++halves->next;
    pthread_mutex_unlock(&inst->lock);
    return ZR_OK;
}

static void load_job(void *arg)
{
    struct zr_inst *inst = arg;
    zr_status status = ZR_OK;
    uint32_t passed = 0; /* the next one is likely to be as bad: no patience again */
    if (inst->ops_next < inst->ops_end) {
        struct reader ops = { inst->op_queue, inst->ops_next, inst->ops_end, each_op };
        status = queue_read(inst, &ops);
        if (status != ZR_OK && status != ZR_ENOENT && is_to_be_passed(inst, &ops)) {
            status = op_pass(inst, &ops);
            passed = 1;
        }
        inst->ops_next = status == ZR_ENOENT ? inst->ops_end : ops.next;
        if (status == ZR_ENOENT) status = ZR_OK;
    } else {
        struct reader halves = { inst->half_queue, inst->load_next, inst->load_end, each_half };
        status = queue_read(inst, &halves);
        if (status != ZR_OK && status != ZR_ENOENT && is_to_be_passed(inst, &halves) && (status = half_pass(inst, &halves)) == ZR_OK) passed = 1;
        pthread_mutex_lock(&inst->lock);
        settle_gone(inst, halves.next < inst->load_end ? halves.next : inst->load_end);
        pthread_mutex_unlock(&inst->lock);
    }
    if ((status == ZR_OK || status == ZR_ENOENT) && !passed) inst->load_failures = 0;
    if (status == ZR_OK) load_go_on(inst);
    else if (status == ZR_ENOENT) load_end(inst);
    else load_later(inst, status);
    running_end(inst);
}

/* Where a queue goes on: its saved offset, within what is there. */
static int64_t queue_begin(struct zr_inst *inst, struct zr_queue *queue, const char *topic, int64_t *ret_max)
{
    struct zr_str group = ZR_STR(OFFSETS_GROUP);
    int64_t min = 0, saved = inst->broker->offset(inst->host, group, zl_str(topic), 0);
    *ret_max = 0;
    inst->storage->bounds(inst->storage_inst, queue, &min, ret_max);
    return saved < min ? min : saved > *ret_max ? *ret_max : saved;
}

/* With the lock. */
static void window_set(struct zr_inst *inst, int64_t base, int64_t max)
{
    int64_t window = (max - base) * 2 < WINDOW_MAX ? (max - base) * 2 : WINDOW_MAX;
    tx_restart(&inst->table, base, window);
    if (max - base > inst->table.window) {
        inst->beyond = 1;
        max = base + inst->table.window;
    }
    if (max > base) tx_enter(&inst->table, max - 1);
    inst->load_next = base;
    inst->load_end = max;
}

void load_begin(struct zr_inst *inst)
{
    int64_t half_max, op_max, op_min = 0, base = queue_begin(inst, inst->half_queue, HALF_TOPIC, &half_max), op = queue_begin(inst, inst->op_queue, OP_TOPIC, &op_max);
    if (inst->broker->offset(inst->host, (struct zr_str)ZR_STR(OFFSETS_GROUP), (struct zr_str)ZR_STR(HALF_TOPIC), 0) < 0) {
        inst->storage->bounds(inst->storage_inst, inst->op_queue, &op_min, &op_max);
        op = op_min; /* what is said about halves that are read again is read again */
        if (base < half_max) say(inst, ZR_LOG_WARN, "the offset of %s was lost or never saved: all of both queues is read", HALF_TOPIC);
    }
    pthread_mutex_lock(&inst->lock);
    inst->half_began = half_max;
    inst->saved_half = base;
    inst->saved_op = inst->op_marks.begin = inst->ops_next = op;
    inst->ops_end = op_max;
    inst->loading = 1;
    window_set(inst, base, half_max);
    pthread_mutex_unlock(&inst->lock);
    if (inst->beyond) say(inst, ZR_LOG_ERROR, "too many half messages wait since %lld: no more are taken until the broker was started again after these ended", (long long)base);
    load_go_on(inst);
}
