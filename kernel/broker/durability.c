/* SPDX-License-Identifier: Apache-2.0 */
/* durability.c - zarya.durability/1: watermarks, and the answers that wait for them.
 *
 * What stays true:
 *   1. A mark never goes back. confirmed is the least of what is demanded: written; flushed under sync flush;
 *      replicated with brokerRole SYNC_MASTER.
 *   2. Answers that wait are kept by lane, in the order of their positions, and leave in that order on the lane's
 *      own thread.
 *   3. Whoever parks looks at the marks once more after it published parked_min; whoever advances a mark looks at
 *      parked_min after it stored the mark. So no answer is forgotten between the two.
 *   4. After fail, what lies behind the mark is answered with an error, now and later: never as if it were durable.
 *   5. A wake is never lost: where memory ran out for it, `missed` says up to where, and all held pulls are woken when
 *      that is visible. Looked at as in 3.
 *   6. A storage's threads call until it is cool, which is after the broker is closed: from then on they touch nothing
 *      of the broker's.
 *
 * LOCKING. marks and parked_min are atomics. when_lock guards the list of zb_durability_when; callbacks run without
 * it. gate is held for reading by whoever calls from outside, and for writing while the broker closes. */
#include "broker/internal.h"

static _Atomic int64_t marks[3]; /* written, flushed, replicated */
static _Atomic uint32_t failed[3];
static char failed_text[3][256];
static _Atomic int64_t missed; /* 0: no wake was */
static uint32_t demand_flushed, demand_replicated;
static pthread_rwlock_t gate = PTHREAD_RWLOCK_INITIALIZER;
static uint32_t shut;

struct when {
    struct when *next;
    int64_t position;
    void (*fn)(void *arg, zr_status status);
    void *arg;
};
static pthread_mutex_t when_lock = PTHREAD_MUTEX_INITIALIZER;
static struct when *whens;
static _Atomic int64_t when_min = INT64_MAX;

static int64_t confirmed(void)
{
    int64_t c = atomic_load(&marks[ZR_MARK_WRITTEN]);
    int64_t f = atomic_load(&marks[ZR_MARK_FLUSHED]), r = atomic_load(&marks[ZR_MARK_REPLICATED]);
    if (demand_flushed && f < c)
        c = f;
    if (demand_replicated && r < c)
        c = r;
    return c;
}

/* A demanded mark that will never move again. */
static uint32_t hopeless(void)
{
    return (demand_flushed && atomic_load(&failed[ZR_MARK_FLUSHED])) ||
           (demand_replicated && atomic_load(&failed[ZR_MARK_REPLICATED]));
}

uint32_t zb_durability_waits(int64_t position)
{
    return (demand_flushed || demand_replicated) && confirmed() < position;
}

uint32_t zb_durability_visible(int64_t position)
{
    return !zb.sync || atomic_load(&marks[ZR_MARK_FLUSHED]) >= position;
}

static void raise_mark(uint32_t mark, int64_t position)
{
    int64_t at = atomic_load(&marks[mark]);
    while (at < position && !atomic_compare_exchange_weak(&marks[mark], &at, position))
        ;
}

/* ---- wakes that memory ran out for ---- */
static void missed_look(void)
{
    int64_t at = atomic_load(&missed);
    if (at && zb_durability_visible(at) && atomic_compare_exchange_strong(&missed, &at, 0))
        zb_hold_wake_all(0);
}

void zb_durability_missed(int64_t position)
{
    int64_t at = atomic_load(&missed);
    while (at < position && !atomic_compare_exchange_weak(&missed, &at, position))
        ;
    if (zb.sync)
        zb.storage->want_flushed(zb.storage_inst, position);
    missed_look();
}

/* ---- when ---- */
static void when_min_set(void)
{
    int64_t min = INT64_MAX;
    for (struct when *w = whens; w; w = w->next)
        min = w->position < min ? w->position : min;
    atomic_store(&when_min, min);
}

static void whens_run(uint32_t all)
{
    struct when *ready = NULL;
    if (!all && !hopeless() && atomic_load(&when_min) > confirmed())
        return;
    pthread_mutex_lock(&when_lock);
    int64_t upto = confirmed();
    uint32_t give_up = all || hopeless();
    for (struct when **at = &whens; *at;) {
        struct when *w = *at;
        if (w->position <= upto || give_up) {
            *at = w->next;
            w->next = ready;
            ready = w;
        } else {
            at = &w->next;
        }
    }
    when_min_set();
    pthread_mutex_unlock(&when_lock);
    while (ready) {
        struct when *next = ready->next;
        ready->fn(ready->arg, ready->position <= upto ? ZR_OK : ZR_EIO);
        free(ready);
        ready = next;
    }
}

void zb_durability_when(int64_t position, void (*fn)(void *arg, zr_status status), void *arg)
{
    if (confirmed() >= position) {
        fn(arg, ZR_OK);
        return;
    }
    struct when *w = malloc(sizeof *w);
    if (!w)
        zb_durability_missed(position); /* fn may be about wakes, and comes too early for them */
    if (!w || hopeless()) {
        free(w);
        fn(arg, w ? ZR_EIO : ZR_ENOMEM);
        return;
    }
    *w = (struct when){ NULL, position, fn, arg };
    pthread_mutex_lock(&when_lock);
    w->next = whens;
    whens = w;
    if (position < atomic_load(&when_min))
        atomic_store(&when_min, position);
    pthread_mutex_unlock(&when_lock);
    whens_run(0); /* the mark may have moved in between */
}

/* ---- parked answers ---- */
static void lanes_wake(void)
{
    struct zb_lane **all;
    uint32_t n = zb_lanes(&all), give_up = hopeless();
    int64_t upto = confirmed(), seen = zb.sync ? atomic_load(&marks[ZR_MARK_FLUSHED]) : INT64_MAX;
    for (uint32_t i = 0; i < n; i++) {
        int64_t min = atomic_load(&all[i]->parked_min); /* INT64_MAX: nothing is parked, so nobody needs waking */
        if (min != INT64_MAX && (min <= upto || min <= seen || give_up))
            zk_lane_wake(all[i]->lane);
    }
}

static void deadline_passed(void *arg)
{
    zk_lane_wake(arg);
}

static void timer_set(struct zb_lane *lane)
{
    struct zb_parked *p = lane->parked;
    while (p && p->hushed)
        p = p->next;
    if (lane->timer && p && lane->timer_at == p->deadline_ns)
        return;
    if (lane->timer)
        zk_timer_cancel(lane->timer);
    lane->timer = 0;
    if (p && zk_timer_at(p->deadline_ns, deadline_passed, lane->lane, &lane->timer) == ZR_OK)
        lane->timer_at = p->deadline_ns;
}

static int32_t late_code(void)
{
    return demand_flushed && atomic_load(&marks[ZR_MARK_FLUSHED]) < atomic_load(&marks[ZR_MARK_WRITTEN])
               ? ZB_FLUSH_DISK_TIMEOUT
               : ZB_FLUSH_SLAVE_TIMEOUT;
}

static void acks_answer(struct zb_parked *p, int32_t code, const char *remark)
{
    for (uint32_t i = 0; i < p->n_acks; i++) {
        if (code == ZB_SERVICE_NOT_AVAILABLE)
            zk_answer_code(p->acks[i].token, code, "%s", remark);
        else
            zb_ack_answer(&p->acks[i], code, remark);
    }
    zk_metric_add(zb.meter.parked, -(int64_t)p->n_acks);
    p->n_acks = 0;
    p->hushed = 1;
}

static void wakes_do(struct zb_parked *p)
{
    uint32_t here = ZB_WOKEN_HERE;
    for (uint32_t i = 0; i < p->n_wakes; i++) {
        struct zb_wake *w = &p->wakes[i];
        zb_hold_arrived(w->queue, w->queue_offset, w->tags_code, NULL, w->any_tag, &here);
        zb_topic_unref(w->topic);
    }
    p->n_wakes = 0;
}

static const char *failed_why(void)
{
    return atomic_load(&failed[ZR_MARK_FLUSHED]) ? failed_text[ZR_MARK_FLUSHED] : failed_text[ZR_MARK_REPLICATED];
}

/* Answers what may leave; 1 when the entry is finished. */
static uint32_t parked_step(struct zb_parked *p, int64_t now, uint32_t all)
{
    if (!p->hushed) {
        if (confirmed() >= p->position)
            acks_answer(p, ZB_SUCCESS, NULL);
        else if (demand_flushed && atomic_load(&failed[ZR_MARK_FLUSHED]))
            acks_answer(p, ZB_SERVICE_NOT_AVAILABLE, failed_why());
        else if (demand_replicated && atomic_load(&failed[ZR_MARK_REPLICATED]))
            acks_answer(p, ZB_SLAVE_NOT_AVAILABLE, failed_why());
        else if (all)
            acks_answer(p, ZB_SERVICE_NOT_AVAILABLE,
                        "the broker is shutting down; the message may or may not be on disk");
        else if (p->deadline_ns <= now)
            acks_answer(p, late_code(), NULL);
    }
    if (p->hushed && (all || p->n_wakes == 0 || zb_durability_visible(p->position)))
        wakes_do(p);
    return p->hushed && p->n_wakes == 0;
}

void zb_durability_release(struct zb_lane *lane, uint32_t all)
{
    if (!lane->parked)
        return;
    int64_t now = zk_mono_ns();
    for (struct zb_parked *p = lane->parked; p;) {
        if (!parked_step(p, now, all) && !p->hushed)
            break;
        p = p->next;
    }
    while (lane->parked && lane->parked->hushed && lane->parked->n_wakes == 0) {
        struct zb_parked *p = lane->parked;
        lane->parked = p->next;
        zk_arena_free(&p->arena);
        free(p);
    }
    if (!lane->parked)
        lane->parked_end = &lane->parked;
    atomic_store(&lane->parked_min, lane->parked ? lane->parked->position : INT64_MAX);
    timer_set(lane);
    if (lane->parked && !all && !hopeless()) { /* see 3 above */
        int64_t seen = zb.sync ? atomic_load(&marks[ZR_MARK_FLUSHED]) : INT64_MAX;
        if (confirmed() >= lane->parked->position || (lane->parked->hushed && seen >= lane->parked->position))
            zk_lane_wake(lane->lane);
    }
}

void zb_durability_park(struct zb_lane *lane, struct zb_parked *p)
{
    int64_t ms = demand_flushed || !demand_replicated ? ZB_SET(sync_flush_timeout_ms) : ZB_SET(slave_timeout_ms);
    p->deadline_ns = zk_mono_ns() + ms * 1000000;
    p->hushed = p->n_acks == 0;
    zk_metric_add(zb.meter.parked, p->n_acks);
    *lane->parked_end = p;
    lane->parked_end = &p->next;
    if (lane->parked == p) {
        atomic_store(&lane->parked_min, p->position);
        timer_set(lane);
    }
    if (demand_flushed || zb.sync)
        zb.storage->want_flushed(zb.storage_inst, p->position);
    if (confirmed() >= p->position || hopeless())
        zb_durability_release(lane, 0);
}

/* ---- marks ---- */
static void advanced(void)
{
    pthread_rwlock_rdlock(&gate);
    if (!shut) {
        lanes_wake();
        whens_run(0);
        missed_look();
    }
    pthread_rwlock_unlock(&gate);
}

void zb_durability_written(int64_t position)
{
    raise_mark(ZR_MARK_WRITTEN, position);
}

static void durability_advance(const struct zr_host *host, uint32_t mark, int64_t position)
{
    (void)host;
    if (mark > ZR_MARK_REPLICATED)
        return;
    raise_mark(mark, position);
    advanced();
}

static void durability_fail(const struct zr_host *host, uint32_t mark, struct zr_str why)
{
    (void)host;
    if (mark > ZR_MARK_REPLICATED || atomic_load(&failed[mark]))
        return;
    snprintf(failed_text[mark], sizeof failed_text[mark], "%.*s", (int)why.len, why.len ? why.ptr : "");
    atomic_store(&failed[mark], 1);
    zk_log(ZR_LOG_ERROR, "durability: the mark \"%s\" cannot advance any more: %s",
           mark == ZR_MARK_FLUSHED ? "flushed"
           : mark                  ? "replicated"
                                   : "written",
           failed_text[mark]);
    advanced();
}

static int64_t durability_position(const struct zr_host *host, uint32_t mark)
{
    (void)host;
    return mark == ZR_MARK_CONFIRMED ? confirmed() : mark <= ZR_MARK_REPLICATED ? atomic_load(&marks[mark]) : -1;
}

static void durability_arrived(const struct zr_host *host, struct zr_str topic, int32_t queue_id, int64_t max_offset,
                               int64_t tags_code)
{
    (void)host;
    pthread_rwlock_rdlock(&gate);
    struct zb_topic *t = shut ? NULL : zb_topic_get(topic);
    struct zb_queue *q = t ? zb_topic_queue(t, queue_id) : NULL;
    if (q)
        zb_hold_arrived(q, max_offset - 1, tags_code, NULL, 0, NULL);
    zb_topic_unref(t);
    pthread_rwlock_unlock(&gate);
}

static void durability_when(const struct zr_host *host, int64_t position, void (*fn)(void *arg, zr_status status),
                            void *arg)
{
    (void)host;
    zb_durability_when(position, fn, arg);
}

const struct zr_durability_v1 zb_durability_table = {
    .hdr = ZR_HDR(struct zr_durability_v1, 0),
    .advance = durability_advance,
    .fail = durability_fail,
    .position = durability_position,
    .arrived = durability_arrived,
    .when = durability_when,
};

/* The storage is warm: where it stands is where the marks begin. What recovery left is on disk. */
void zb_durability_open(void)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zb.storage->info(zb.storage_inst, &info);
    zb.sync = info.sync;
    shut = 0;
    demand_flushed = info.sync;
    demand_replicated = zb.set.role == ZB_ROLE_SYNC_MASTER && zb.set.in_sync_replicas > 1; /* as Apache 5 */
    raise_mark(ZR_MARK_WRITTEN, info.positions.written);
    raise_mark(ZR_MARK_FLUSHED, info.positions.flushed);
}

void zb_durability_shut(void)
{
    pthread_rwlock_wrlock(&gate);
    shut = 1;
    pthread_rwlock_unlock(&gate);
}

void zb_durability_close(void)
{
    whens_run(1);
    for (uint32_t i = 0; i < 3; i++) {
        atomic_store(&marks[i], 0);
        atomic_store(&failed[i], 0);
    }
    demand_flushed = demand_replicated = 0;
    atomic_store(&missed, 0);
}
