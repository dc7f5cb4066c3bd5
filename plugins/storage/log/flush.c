/* SPDX-License-Identifier: Apache-2.0 */
/* flush.c - the flusher thread: group commit.
 *
 * What stays true:
 *   1. flushed is moved only after fdatasync of every segment between the old and the new position succeeded, the folder's
 *      names included, and while each file still stood under its name.
 *   2. After a flush failed nothing is ever reported flushed again: the kernel may have dropped the dirty pages and marked
 *      them clean, so a later success would be a lie. The store is read-only from then on.
 *      A folder for whose sync there was no descriptor left was not synced, and nothing was dropped: that flush is tried again.
 *   3. While somebody waits (or always, when consumers see only what is flushed) flushes follow one another without a pause:
 *      the duration of one is the time in which the next batch gathers. Else one comes every flush_interval, and none at all
 *      when nothing was written.
 *   4. Under sync flush a disk that is slower than its clients is not left to two halves of them in turn, each of which waits
 *      for the sync of the other: those who were just answered are given up to three quarters of a sync's duration to come
 *      back, and the flush begins when seven eighths of all are there. Whether that pays is measured, not believed: one part
 *      in PACE_TRY of the flushes is done the other way, and the way that made more bytes durable in its time goes on.
 *
 * LOCKING: flush_lock for wanted and the two conditions; not held over a sync or while the host is told. */
#include <errno.h>
#include <stdio.h>
#include "zs_pack.h"

#define AGAIN_NS 50000000      /* until a flush that had no descriptor is tried again */
#define GATHER_MAX_NS 20000000 /* no flush waits longer for company */
#define GATHER_WAKES 8u        /* nor is it woken for less more often */
#define PACE_RUN 8u            /* flushes of one way that are measured together */
#define PACE_TRY 32u

struct pace { /* the flusher's, under sync flush */
    int64_t done;        /* when the last flush was */
    int64_t cost;        /* ns of a sync, of late */
    int64_t expect;      /* bytes of all who sent of late: those just answered, and those that came meanwhile */
    int64_t began, bytes; /* of the run under way */
    int64_t rate[2];     /* bytes a ms: without and with waiting; of late */
    uint32_t gather;     /* the run's way */
    uint32_t n, runs;
};

void zs_flush_dirty(struct zr_inst *st)
{
    if (!atomic_load(&st->flush_idle)) return;
    pthread_mutex_lock(&st->flush_lock);
    pthread_cond_signal(&st->flush_cond);
    pthread_mutex_unlock(&st->flush_lock);
}

void zs_want_flushed(struct zr_inst *st, int64_t position)
{
    pthread_mutex_lock(&st->flush_lock);
    if (position > st->wanted) {
        st->wanted = position;
        if (position >= st->gather_to) pthread_cond_signal(&st->flush_cond);
    }
    pthread_mutex_unlock(&st->flush_lock);
}

uint32_t zs_flush_wait(struct zr_inst *st, int64_t position)
{
    pthread_mutex_lock(&st->flush_lock);
    if (position > st->wanted) st->wanted = position;
    pthread_cond_signal(&st->flush_cond);
    while (atomic_load(&st->flushed) < position && !atomic_load(&st->failed)) {
        if (!atomic_load(&st->threads_on)) break;
        pthread_cond_wait(&st->flushed_cond, &st->flush_lock);
    }
    uint32_t done = atomic_load(&st->flushed) >= position;
    pthread_mutex_unlock(&st->flush_lock);
    return done;
}

static int64_t sync_segment(struct zr_inst *st, struct zs_seg *seg)
{
    if (seg->packed) return 0; /* was synced before it got its name */
    if (atomic_load(&seg->name_unsynced)) {
        int64_t r = st->io->sync_dir(st->io->ctx, zs_dir_of(st, seg->base));
        if (r < 0) return r;
        atomic_store(&seg->name_unsynced, 0);
    }
    int64_t r = st->io->fdatasync(st->io->ctx, seg->fd);
    return r < 0 ? r : zs_seg_in_place(st, seg) ? r : -ESTALE; /* what has no name is gone with us, however well it is synced */
}

int64_t zs_flush_range(struct zr_inst *st, int64_t from, int64_t to)
{
    while (from < to) {
        uint32_t busy;
        struct zs_seg *seg = zs_seg_get(st, from, 0, &busy);
        if (!seg && zs_seg_shut_out(st, from)) return -EIO; /* it is there, and cannot be opened (see the log) */
        if (!seg) { /* retention took it, or a hole: behind it is the next one */
            from = zs_seg_next(st, from);
            if (from < 0) return 0;
            continue;
        }
        int64_t r = sync_segment(st, seg);
        from = seg->base + st->segs.size;
        zs_seg_put(st, seg);
        if (r < 0) return r;
    }
    return 0;
}

static void flush_failed(struct zr_inst *st, int64_t r)
{
    pthread_mutex_lock(&st->flush_lock);
    snprintf(st->why_failed, sizeof st->why_failed, "the log could not be made durable: %s; the store is read-only until a restart",
             r == -ESTALE ? "its file was removed or replaced while it was written to" : zs_errno_text(r));
    atomic_store(&st->failed, 1);
    pthread_cond_broadcast(&st->flushed_cond);
    pthread_mutex_unlock(&st->flush_lock);
    zs_log(st, ZR_LOG_ERROR, "%s", st->why_failed);
    st->dur->fail(st->host, ZR_MARK_FLUSHED, zl_str(st->why_failed));
}

void zs_flush_lost(struct zr_inst *st)
{
    if (!atomic_load(&st->failed)) flush_failed(st, -ESTALE);
}

/* Nothing tells when the process has a descriptor again. */
static void flush_later(struct zr_inst *st, int64_t r)
{
    int64_t until = zs_mono(st) + AGAIN_NS;
    if (!st->flush_waits) zs_log(st, ZR_LOG_ERROR, "the log's folder cannot be opened to be made durable: %s; it is tried again", zs_errno_text(r));
    st->flush_waits = 1;
    pthread_mutex_lock(&st->flush_lock);
    for (int64_t left; !atomic_load(&st->stopping) && (left = until - zs_mono(st)) > 0;)
        zs_cond_wait_ns(&st->flush_cond, &st->flush_lock, left);
    pthread_mutex_unlock(&st->flush_lock);
}

/* The run is over: which way does the next one go? */
static void pace_choose(struct pace *p)
{
    int64_t rate = p->bytes * 1000 / ((p->done - p->began) / 1000 + 1), *of = &p->rate[p->gather];
    *of = *of ? *of + (rate - *of) / 4 : rate;
    p->gather = !p->rate[1] || p->rate[1] > p->rate[0] + p->rate[0] / 8;
    if (++p->runs % PACE_TRY == 0) p->gather = !p->gather;
    p->n = 0;
}

static void pace_take(struct zr_inst *st, struct pace *p, int64_t from, int64_t end, int64_t began)
{
    uint32_t pause = began - p->done > 4 * p->cost; /* it says nothing of either way */
    if (p->n == 0 || pause) {
        p->n = 0;
        p->began = pause ? began : p->done;
        p->bytes = 0;
    }
    p->done = zs_mono(st);
    p->cost += (p->done - began - p->cost) / 4;
    p->expect = atomic_load(&st->end) - from;
    p->bytes += end - from;
    if (++p->n == PACE_RUN) pace_choose(p);
}

static void flush_once(struct zr_inst *st, struct pace *pace)
{
    int64_t ms = atomic_load_explicit(&st->last_ms, memory_order_acquire); /* before end: it belongs to a record below it */
    int64_t end = atomic_load(&st->end), from = atomic_load(&st->flushed), t = zs_mono(st);
    int64_t r = zs_flush_range(st, from, end);
    if ((r == -EMFILE || r == -ENFILE) && !atomic_load(&st->stopping)) {
        flush_later(st, r);
        return;
    }
    if (r < 0) {
        flush_failed(st, r);
        return;
    }
    if (st->flush_waits) zs_log(st, ZR_LOG_INFO, "the log is durable again");
    st->flush_waits = 0;
    zs_count(st, ZS_M_FLUSHES, 1);
    pace_take(st, pace, from, end, t);
    zs_observe(st, ZS_M_FLUSH_NS, pace->done - t);
    pthread_mutex_lock(&st->flush_lock);
    atomic_store(&st->flushed, end);
    st->flushed_ms = ms;
    pthread_cond_broadcast(&st->flushed_cond);
    pthread_mutex_unlock(&st->flush_lock);
    st->dur->advance(st->host, ZR_MARK_FLUSHED, end);
    if (st->pack) zs_pack_flushed(st, end);
}

/* Waits until there is a reason to flush. 0: the thread is to end. Under flush_lock. */
static uint32_t flush_reason(struct zr_inst *st, int64_t last)
{
    for (;;) {
        int64_t flushed = atomic_load(&st->flushed);
        uint32_t dirty = atomic_load(&st->end) > flushed && !atomic_load(&st->failed), stopping = atomic_load(&st->stopping);
        if (!dirty) {
            if (stopping) return 0;
            atomic_store(&st->flush_idle, 1);
            if (atomic_load(&st->end) == flushed || atomic_load(&st->failed)) pthread_cond_wait(&st->flush_cond, &st->flush_lock);
            atomic_store(&st->flush_idle, 0);
            continue;
        }
        if (stopping || st->conf.sync || st->wanted > flushed) return 1;
        int64_t due = last + st->conf.flush_interval_ms * 1000000 - zs_mono(st);
        if (due <= 0) return 1;
        zs_cond_wait_ns(&st->flush_cond, &st->flush_lock, due);
    }
}

/* Waits for those who were just answered. Under flush_lock. */
static void flush_gather(struct zr_inst *st, const struct pace *p)
{
    int64_t to = atomic_load(&st->flushed) + p->expect / 8 * 7, wait = p->cost / 4 * 3;
    if (wait > GATHER_MAX_NS) wait = GATHER_MAX_NS;
    for (uint32_t i = 0; i < GATHER_WAKES && atomic_load(&st->end) < to && !atomic_load(&st->stopping); i++) {
        int64_t left = p->done + wait - zs_mono(st);
        if (left <= 0) break;
        st->gather_to = to;
        zs_cond_wait_ns(&st->flush_cond, &st->flush_lock, left);
    }
    st->gather_to = 0;
}

void zs_flush_main(void *arg)
{
    struct zr_inst *st = arg;
    struct pace pace = { 0 };
    int64_t last = zs_mono(st);
    pthread_mutex_lock(&st->flush_lock);
    while (flush_reason(st, last)) {
        if (st->conf.sync && pace.gather) flush_gather(st, &pace);
        pthread_mutex_unlock(&st->flush_lock);
        flush_once(st, &pace);
        last = zs_mono(st);
        pthread_mutex_lock(&st->flush_lock);
    }
    pthread_mutex_unlock(&st->flush_lock);
}
