/* SPDX-License-Identifier: Apache-2.0 */
/* deliver.c - what is due leaves SCHEDULE_TOPIC_XXXX for its own topic.
 *
 * Each level goes IDLE -> ARMED (its timer runs until the first entry is due) -> RUNNING (a job on the worker pool reads a batch
 * of entries and publishes their messages) -> RUNNING again, ARMED or IDLE. An idle level is woken by the hook behind an append. Before
 * activate, and for good on a slave, a level counts as ARMED, so that nothing wakes it.
 *
 * What stays true:
 *   1. A level has at most one timer, or one job, or one publish that is not answered: its messages leave in their order.
 *   2. The cursor passes an entry only when its message was stored in its topic, can never be (and the log says so), or was put aside
 *      because it cannot be read for long (aside.c).
 *   3. One that could not be stored is tried again, later and later up to every 5 s; those of the same batch that were stored
 *      are remembered and not stored twice.
 *   4. A saved offset may be older than what left: from it on entries are looked up in the log until BATCH of them in a row did
 *      not leave. Without a saved offset the last one that left is found by halving the queue, and all from shortly before it on
 *      are looked up. A message is never passed without having been found: at worst it comes again.
 *
 * LOCKING: zr_inst.lock guards states and cursors; the host is never called under it. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "delay.h"
#include "zl/record.h"
#include "zl/text.h"
#include "zl/topics.h"

#define BATCH_BYTES (4u * 1024 * 1024)
#define MAX_WAIT_MS 30000 /* a timer's longest: where nobody tells that the clock was set, it is noticed by then */
#define MAX_RETRY_MS 5000
#define PATIENCE 10u /* tries in a row, some fifteen seconds */

/* Messages on their way. Shared by the job that publishes it and the answer; the later one ends it. */
struct batch {
    struct level *level;
    int64_t base; /* queue offset of entry 0 */
    int64_t end;
    int64_t doubt_until, doubt_end; /* the level's */
    uint32_t aside; /* it has nothing but one that was put aside */
    uint32_t patience_ends; /* what cannot be read is put aside */
    uint64_t done; /* by entry */
    uint32_t n_entries, n_msgs;
    _Atomic uint32_t refs;
    zr_status failed;
    struct zr_str topic; /* the last one looked up, with its queues */
    int32_t n_queues;
    zr_status topic_status;
    uint8_t entry_of[BATCH];
    uint64_t pins[BATCH];
    struct zr_msg msgs[BATCH];
};

static void job(void *arg);
static void timer_fired(void *arg);
static void go_on(struct level *l);

/* ---- states -------------------------------------------------------------------------------------------------------------- */

/* The level is ARMED already. */
static void arm_in(struct level *l, int64_t ms)
{
    struct zr_inst *inst = l->inst;
    uint64_t id = 0;
    if (ms < 0) ms = 0;
    if (ms > MAX_WAIT_MS) ms = MAX_WAIT_MS;
    zr_status status = inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + ms * 1000000, timer_fired, l, &id);
    pthread_mutex_lock(&inst->lock);
    if (status == ZR_OK) l->timer_id = id;
    else l->state = LEVEL_IDLE;
    pthread_mutex_unlock(&inst->lock);
    if (status != ZR_OK && status != ZR_ECLOSED)
        say(inst, ZR_LOG_ERROR, "no timer for delay level %u: it rests until its next message", l->number);
}

static int64_t retry_ms(struct level *l)
{
    uint32_t shift = l->failures < 8 ? l->failures : 8;
    int64_t ms = 20ll << shift;
    l->failures++;
    return ms < MAX_RETRY_MS ? ms : MAX_RETRY_MS;
}

static void is_visible(void *arg, zr_status status)
{
    (void)status; /* after a failed flush there is nothing to see, and looking does no harm */
    go_on(arg);
}

/* RUNNING ends. ms: until the next look; -1: nothing is known to wait. */
static void rest(struct level *l, int64_t ms)
{
    struct zr_inst *inst = l->inst;
    pthread_mutex_lock(&inst->lock);
    int64_t position = l->known_physical;
    uint32_t ask = ms < 0 && l->known_end > l->cursor && position > l->asked_physical && !inst->stopping;
    if (ask) l->asked_physical = position;
    pthread_mutex_unlock(&inst->lock);
    if (ask) { /* told of, but not visible yet: RUNNING goes on when it is */
        inst->durability->when(inst->host, position, is_visible, l);
        return;
    }
    pthread_mutex_lock(&inst->lock);
    if (ms < 0 && l->known_end > l->cursor) ms = retry_ms(l);
    ms = aside_next_ms(l, ms);
    uint32_t arm = ms >= 0 && !inst->stopping;
    l->state = arm ? LEVEL_ARMED : LEVEL_IDLE;
    pthread_mutex_unlock(&inst->lock);
    if (arm) arm_in(l, ms);
    running_end(inst);
}

/* RUNNING goes on with another job. */
static void go_on(struct level *l)
{
    struct zr_inst *inst = l->inst;
    pthread_mutex_lock(&inst->lock);
    uint32_t stopping = inst->stopping;
    pthread_mutex_unlock(&inst->lock);
    if (stopping || inst->work->run(inst->host, job, l) != ZR_OK) rest(l, 10);
}

static void timer_fired(void *arg)
{
    struct level *l = arg;
    struct zr_inst *inst = l->inst;
    pthread_mutex_lock(&inst->lock);
    uint32_t go = !inst->stopping;
    l->state = go ? LEVEL_RUNNING : LEVEL_IDLE;
    inst->n_running += go;
    pthread_mutex_unlock(&inst->lock);
    if (go) go_on(l);
}

zr_status stored_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    (void)verdict;
    const struct zr_msg *m = event->msg;
    if (m->topic.len == sizeof TIMER_TOPIC - 1 && zl_is(m->topic, TIMER_TOPIC)) {
        if (inst->timed && m->queue_id == 0) timer_arrived(inst->timed, event->put);
        return ZR_OK;
    }
    if (m->topic.len != sizeof SCHEDULE_TOPIC - 1 || !zl_is(m->topic, SCHEDULE_TOPIC)) return ZR_OK;
    if (m->queue_id < 0 || m->queue_id >= (int32_t)MAX_LEVELS) return ZR_OK;
    struct level *l = &inst->levels[m->queue_id];
    pthread_mutex_lock(&inst->lock);
    if (event->put->queue_offset >= l->known_end) {
        l->known_end = event->put->queue_offset + 1;
        l->known_physical = event->put->physical_offset + event->put->size;
    }
    uint32_t arm = l->state == LEVEL_IDLE && !inst->stopping;
    if (arm) l->state = LEVEL_ARMED;
    pthread_mutex_unlock(&inst->lock);
    if (arm) arm_in(l, m->tags_code - wall_ms(inst));
    return ZR_OK;
}

/* ---- the message as it was ------------------------------------------------------------------------------------------------ */

static void on_topic(void *ctx, const struct zr_topic *topic)
{
    struct batch *b = ctx;
    b->n_queues = topic->write_queues > 0 ? topic->write_queues : topic->read_queues;
}

static uint32_t topic_exists(struct batch *b, struct zr_str topic)
{
    struct zr_inst *inst = b->level->inst;
    if (!b->topic.ptr || !zl_eq(topic, b->topic)) {
        b->topic = topic;
        b->topic_status = inst->broker->topic(inst->host, topic, on_topic, b);
    }
    return b->topic_status == ZR_OK;
}

/* 0: it can never be delivered. Points into the record, which stays pinned until it is published. */
static uint32_t message_make(struct batch *b, const struct zl_record *r, struct zr_msg *ret)
{
    struct zr_str topic = zl_props_get(r->properties, "REAL_TOPIC"), queue = zl_props_get(r->properties, "REAL_QID");
    int32_t queue_id;
    const char *why = NULL;
    if (!topic.len || zl_parse_i32(queue, &queue_id) != ZR_OK || queue_id < 0) why = "it does not say where it belongs";
    else if (zl_topic_unsendable(topic)) why = "its topic is one of the broker's own";
    else if (!topic_exists(b, topic)) why = "its topic was removed";
    if (why) {
        say(b->level->inst, ZR_LOG_WARN, "a delayed message of level %u at %lld (topic %.*s) is dropped: %s", b->level->number,
            (long long)r->physical_offset, (int)topic.len, topic.len ? topic.ptr : "", why);
        return 0;
    }
    if (b->n_queues > 0 && queue_id >= b->n_queues) queue_id %= b->n_queues; /* it shrank meanwhile; nobody reads beyond */
    *ret = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = topic, .body = r->body, .properties = r->properties,
                            .tags_code = zl_tags_code(zl_props_get(r->properties, "TAGS")), .born_ms = r->born_ms,
                            .born_host = r->born_host, .queue_id = queue_id, .flag = r->flag, .sys_flag = r->sys_flag,
                            .reconsume_times = r->reconsume_times, .flags = ZR_MSG_NO_WAIT | ZR_MSG_OWN, .inner_num = 1 };
    return 1;
}

#define NOT_KNOWN 2u

/* Before the start: then those a batch further may have left, too. NOT_KNOWN: the log cannot be read now. */
static uint32_t has_left(struct batch *b, uint32_t i, const struct zl_record *r)
{
    int64_t offset = b->base + i, end;
    if (offset >= b->doubt_until || (end = level_left_end(b->level->inst, r)) == 0) return 0;
    if (end < 0) return NOT_KNOWN;
    if (end > b->end) b->end = end;
    if (b->doubt_until <= offset + BATCH) b->doubt_until = offset + BATCH + 1;
    if (b->doubt_until > b->doubt_end) b->doubt_until = b->doubt_end;
    return 1;
}

/* Entry i cannot be read now, or not what has to be known before it leaves. */
static void entry_unread(struct batch *b, uint32_t i, int64_t physical, zr_status status)
{
    if (!b->aside && b->patience_ends && aside_put(b->level, b->base + i, physical, status)) b->done |= 1ull << i;
    else b->failed = status;
}

/* Entry i into the batch; returns the bytes. */
static uint64_t entry_take(struct batch *b, uint32_t i, int64_t physical)
{
    struct zr_inst *inst = b->level->inst;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    uint32_t left;
    zr_status status = inst->storage->record_at(inst->storage_inst, physical, &piece, &pin);
    if (status != ZR_OK && !is_gone(status)) {
        entry_unread(b, i, physical, status);
        return 0;
    }
    if (status != ZR_OK || zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) != ZR_OK) {
        say(inst, ZR_LOG_WARN, "a delayed message of level %u at %lld is gone: its record cannot be read", b->level->number, (long long)physical);
        b->done |= 1ull << i;
    } else if ((left = has_left(b, i, &r)) == NOT_KNOWN) {
        entry_unread(b, i, physical, ZR_EAGAIN);
    } else if (left || !message_make(b, &r, &b->msgs[b->n_msgs])) {
        b->done |= 1ull << i;
    } else {
        b->entry_of[b->n_msgs] = (uint8_t)i;
        b->pins[b->n_msgs++] = pin;
        return piece.len;
    }
    if (status == ZR_OK && pin) {
        inst->storage->unpin(inst->storage_inst, pin);
        b->topic = (struct zr_str){ NULL, 0 }; /* pointed into it */
    }
    return 0;
}

/* ---- a batch -------------------------------------------------------------------------------------------------------------- */

static void batch_finish_aside(struct batch *b)
{
    struct level *l = b->level;
    struct zr_inst *inst = l->inst;
    pthread_mutex_lock(&inst->lock);
    if (b->end > inst->delivered_end) inst->delivered_end = b->end;
    pthread_mutex_unlock(&inst->lock);
    if (b->done & 1) {
        aside_end(l, b->base);
        offsets_changed(inst);
    }
    free(b);
    go_on(l);
}

static void batch_finish(struct batch *b)
{
    if (b->aside) {
        batch_finish_aside(b);
        return;
    }
    struct level *l = b->level;
    struct zr_inst *inst = l->inst;
    uint64_t done = b->done;
    uint32_t passed = 0;
    while (done & 1) {
        done >>= 1;
        passed++;
    }
    pthread_mutex_lock(&inst->lock);
    l->cursor = b->base + passed;
    l->done = done;
    l->doubt_until = b->doubt_until;
    if (l->known_end < l->cursor) l->known_end = l->cursor;
    if (b->end > inst->delivered_end) inst->delivered_end = b->end;
    if (!b->failed) l->failures = 0;
    int64_t wait = b->failed ? retry_ms(l) : 0;
    uint32_t times = l->failures;
    pthread_mutex_unlock(&inst->lock);
    if (passed) offsets_changed(inst);
    if (wait && times == 1)
        say(inst, ZR_LOG_WARN, "messages of delay level %u cannot be delivered now (status %d); they are tried again until they are",
            l->number, b->failed);
    free(b);
    if (wait) rest(l, wait);
    else go_on(l);
}

static void batch_release(struct batch *b)
{
    if (atomic_fetch_sub(&b->refs, 1) == 1) batch_finish(b);
}

static void published(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct batch *b = ctx;
    if (!puts || n != b->n_msgs) b->failed = status < 0 ? status : ZR_ENOMEM;
    for (uint32_t i = 0; puts && n == b->n_msgs && i < n; i++) {
        const struct zr_put *p = (const struct zr_put *)(const void *)((const char *)puts + (uint64_t)i * puts->hdr.size);
        if (p->status == ZR_EINVAL)
            say(b->level->inst, ZR_LOG_ERROR, "a delayed message of level %u is dropped: the storage refuses it as illegal", b->level->number);
        if (p->status == ZR_OK || p->status == ZR_EINVAL) b->done |= 1ull << b->entry_of[i];
        else b->failed = p->status;
        if (p->status == ZR_OK && p->physical_offset + p->size > b->end) b->end = p->physical_offset + p->size;
    }
    batch_release(b);
}

static void batch_send(struct batch *b)
{
    struct zr_inst *inst = b->level->inst, *storage_inst = inst->storage_inst;
    if (b->n_msgs == 0) {
        batch_finish(b);
        return;
    }
    atomic_store(&b->refs, 2);
    inst->store->publish(inst->host, b->msgs, b->n_msgs, ZR_PUBLISH_NO_HOOKS, published, b);
    for (uint32_t i = 0; i < b->n_msgs; i++)
        if (b->pins[i]) inst->storage->unpin(storage_inst, b->pins[i]);
    batch_release(b);
}

/* As Apache: one whose time lies further ahead than its level (the clock went back, or the levels changed) is due. */
static uint32_t is_due(const struct level *l, int64_t when, int64_t now)
{
    return when <= now || when > now + l->delay_ms;
}

/* The queue has no visible entry at the cursor: why, and what next. Returns ms for rest(), or -2: look again. */
static int64_t nothing_there(struct level *l)
{
    struct zr_inst *inst = l->inst;
    int64_t min = 0, max = 0;
    inst->storage->bounds(inst->storage_inst, l->queue, &min, &max);
    pthread_mutex_lock(&inst->lock);
    int64_t ms = l->cursor < max ? retry_ms(l) : -1; /* there, but not readable */
    if (l->cursor < min) {
        say(inst, ZR_LOG_WARN, "delay level %u: messages %lld to %lld are gone, retention took them", l->number, (long long)l->cursor, (long long)min - 1);
        l->cursor = min;
        l->done = 0;
        ms = -2;
    }
    pthread_mutex_unlock(&inst->lock);
    return ms;
}

/* ---- no offset was saved -------------------------------------------------------------------------------------------------- */

/* 0, 1 or NOT_KNOWN. */
static uint32_t entry_has_left(struct level *l, int64_t offset, int64_t now)
{
    struct zr_inst *inst = l->inst;
    int64_t physical, when, end = 0;
    uint32_t size;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    if (inst->storage->entries(inst->storage_inst, l->queue, offset, &physical, &size, &when, 1) != 1 || !is_due(l, when, now)) return 0;
    zr_status status = inst->storage->record_at(inst->storage_inst, physical, &piece, &pin);
    if (status != ZR_OK) return is_gone(status) ? 0 : NOT_KNOWN;
    if (zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK) end = level_left_end(inst, &r);
    if (pin) inst->storage->unpin(inst->storage_inst, pin);
    return end < 0 ? NOT_KNOWN : end != 0;
}

/* A level's messages leave in their order, but for those of one batch. 0: it cannot be told now. */
static uint32_t cursor_search(struct level *l)
{
    struct zr_inst *inst = l->inst;
    int64_t begin = l->cursor, low = begin, high = l->doubt_end, now = wall_ms(inst);
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        uint32_t left = entry_has_left(l, mid, now);
        if (left == NOT_KNOWN) return 0;
        if (left) low = mid + 1;
        else high = mid;
    }
    low = low - BATCH > begin ? low - BATCH : begin;
    pthread_mutex_lock(&inst->lock);
    l->searching = 0;
    l->cursor = low;
    pthread_mutex_unlock(&inst->lock);
    if (inst->offsets_lost || low > begin)
        say(inst, ZR_LOG_WARN, "delay level %u: its offset was not saved. Of its messages %lld to %lld those before %lld have left; each of the others is looked for in its topic before it leaves",
            l->number, (long long)begin, (long long)l->doubt_end - 1, (long long)low);
    return 1;
}

/* One that was put aside is tried again. 1: this job is used up. */
static uint32_t aside_try(struct level *l)
{
    struct zr_inst *inst = l->inst;
    int64_t offset = aside_due(l), physical, when, min = 0, max = 0;
    uint32_t size;
    struct batch *b = offset < 0 ? NULL : calloc(1, sizeof *b);
    if (!b) return 0;
    inst->storage->bounds(inst->storage_inst, l->queue, &min, &max);
    b->level = l;
    b->base = offset;
    b->aside = 1;
    b->doubt_end = l->doubt_end;
    b->doubt_until = offset < l->doubt_end ? offset + 1 : 0;
    if (offset < min || offset >= max) {
        say(inst, ZR_LOG_WARN, "message %lld of delay level %u is gone with its place in the queue", (long long)offset, l->number);
        b->done = 1;
    } else if (inst->storage->entries(inst->storage_inst, l->queue, offset, &physical, &size, &when, 1) == 1) {
        entry_take(b, 0, physical);
    }
    batch_send(b);
    return 1;
}

static void job(void *arg)
{
    struct level *l = arg;
    struct zr_inst *inst = l->inst;
    int64_t physical[BATCH], when[BATCH], now = wall_ms(inst), cursor;
    uint32_t sizes[BATCH], n, i;
    uint64_t bytes = 0;
    if (l->searching && !cursor_search(l)) {
        pthread_mutex_lock(&inst->lock);
        int64_t ms = retry_ms(l);
        pthread_mutex_unlock(&inst->lock);
        rest(l, ms);
        return;
    }
    if (aside_try(l)) return;
    pthread_mutex_lock(&inst->lock);
    cursor = l->cursor;
    uint32_t patience_ends = l->failures > (inst->n_aside ? 2 : PATIENCE);
    uint64_t done = l->done;
    pthread_mutex_unlock(&inst->lock);
    n = inst->storage->entries(inst->storage_inst, l->queue, cursor, physical, sizes, when, BATCH);
    if (n == 0) {
        int64_t ms = nothing_there(l);
        if (ms == -2) go_on(l);
        else rest(l, ms);
        return;
    }
    if (!(done & 1) && !is_due(l, when[0], now)) {
        rest(l, when[0] - now);
        return;
    }
    struct batch *b = calloc(1, sizeof *b);
    if (!b) {
        rest(l, MAX_RETRY_MS);
        return;
    }
    b->level = l;
    b->base = cursor;
    b->done = done;
    b->patience_ends = patience_ends;
    b->doubt_until = l->doubt_until;
    b->doubt_end = l->doubt_end;
    for (i = 0; i < n && bytes < BATCH_BYTES && (!b->failed || b->failed == ZR_EIO || patience_ends); i++) { /* one bad place holds back no others */
        if (done >> i & 1) continue;
        if (!is_due(l, when[i], now)) break;
        bytes += entry_take(b, i, physical[i]);
    }
    batch_send(b);
}

/* Levels that wait look at their first message again. */
static void clock_was_set(void *arg)
{
    struct zr_inst *inst = arg;
    for (uint32_t i = 0; i < MAX_LEVELS; i++) {
        struct level *l = &inst->levels[i];
        pthread_mutex_lock(&inst->lock);
        uint64_t id = l->state == LEVEL_ARMED && !inst->stopping ? l->timer_id : 0;
        pthread_mutex_unlock(&inst->lock);
        if (id && inst->timer->cancel(inst->host, id) == ZR_OK) arm_in(l, 0); /* one that fires meanwhile looks anyway */
    }
}

/* ---- begin and end -------------------------------------------------------------------------------------------------------- */

static void level_begin(struct zr_inst *inst, struct level *l)
{
    int64_t min = 0, max = 0, saved = inst->offsets[l->number - 1];
    l->queue = inst->storage->queue(inst->storage_inst, (struct zr_str)ZR_STR(SCHEDULE_TOPIC), (int32_t)l->number - 1, l->served);
    if (!l->queue && !l->served) return;
    inst->storage->bounds(inst->storage_inst, l->queue, &min, &max);
    if (!l->served) {
        if (max <= (saved > min ? saved : min) && !aside_has(l)) return;
        say(inst, ZR_LOG_WARN, "delay level %u is not configured any more: up to %lld messages of it that are pending leave when their time comes", l->number,
            (long long)(max - (saved > min ? saved : min)));
    }
    pthread_mutex_lock(&inst->lock);
    l->served = 1;
    l->cursor = saved < min ? min : saved > max ? max : saved;
    l->doubt_end = max;
    l->searching = saved < 0 && l->cursor < max;
    l->doubt_until = l->searching || l->cursor + (int64_t)BATCH > max ? max : l->cursor + (int64_t)BATCH;
    if (l->known_end < max) l->known_end = max;
    uint32_t arm = l->queue && (l->known_end > l->cursor || aside_has(l));
    l->state = arm ? LEVEL_ARMED : LEVEL_IDLE;
    pthread_mutex_unlock(&inst->lock);
    if (saved > max) say(inst, ZR_LOG_WARN, "delay level %u: config/delayOffset.json says %lld, the queue ends at %lld", l->number, (long long)saved, (long long)max);
    if (arm) arm_in(l, 0);
}

void deliver_begin(struct zr_inst *inst)
{
    inst->storage = inst->store->storage(inst->host, &inst->storage_inst);
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    inst->broker->identity(inst->host, &id);
    if (id.id != 0 || !inst->storage) {
        say(inst, ZR_LOG_INFO, "a slave does not deliver delayed messages");
        return;
    }
    inst->delivers = 1;
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    inst->storage->info(inst->storage_inst, &info);
    inst->began_at = info.positions.written;
    for (uint32_t i = 0; i < MAX_LEVELS; i++) level_begin(inst, &inst->levels[i]);
    if (inst->timer->on_clock_set && inst->timer->on_clock_set(inst->host, clock_was_set, inst) != ZR_OK)
        say(inst, ZR_LOG_WARN, "nobody will tell when the clock is set: delay levels notice it within %d s", MAX_WAIT_MS / 1000);
    if (inst->timed) timer_begin(inst->timed);
    offsets_changed(inst); /* where the file and the queues did not agree */
}

void deliver_end(struct zr_inst *inst)
{
    if (inst->timer->on_clock_set) inst->timer->on_clock_set(inst->host, NULL, inst);
    for (uint32_t i = 0; i < MAX_LEVELS; i++) {
        struct level *l = &inst->levels[i];
        pthread_mutex_lock(&inst->lock);
        uint64_t id = l->state == LEVEL_ARMED ? l->timer_id : 0;
        pthread_mutex_unlock(&inst->lock);
        if (id) inst->timer->cancel(inst->host, id); /* one that fires nevertheless sees `stopping` */
    }
}
