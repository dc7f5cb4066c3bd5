/* SPDX-License-Identifier: Apache-2.0 */
/* flush.c - the flusher thread: group commit.
 *
 * What stays true:
 *   1. flushed is moved only after fdatasync of every segment between the old and the new position succeeded, the folder's
 *      names included.
 *   2. After a flush failed nothing is ever reported flushed again: the kernel may have dropped the dirty pages and marked
 *      them clean, so a later success would be a lie. The store is read-only from then on.
 *      A folder for whose sync there was no descriptor left was not synced, and nothing was dropped: that flush is tried again.
 *   3. While somebody waits (or always, when consumers see only what is flushed) flushes follow one another without a pause:
 *      the duration of one is the time in which the next batch gathers. Else one comes every flush_interval, and none at all
 *      when nothing was written.
 *
 * LOCKING: flush_lock for wanted and the two conditions; not held over a sync or while the host is told. */
#include <errno.h>
#include <stdio.h>
#include "zs_pack.h"

#define AGAIN_NS 50000000 /* until a flush that had no descriptor is tried again */

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
        pthread_cond_signal(&st->flush_cond);
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
    return st->io->fdatasync(st->io->ctx, seg->fd);
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
             zs_errno_text(r));
    atomic_store(&st->failed, 1);
    pthread_cond_broadcast(&st->flushed_cond);
    pthread_mutex_unlock(&st->flush_lock);
    zs_log(st, ZR_LOG_ERROR, "%s", st->why_failed);
    st->dur->fail(st->host, ZR_MARK_FLUSHED, zl_str(st->why_failed));
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

static void flush_once(struct zr_inst *st)
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
    zs_observe(st, ZS_M_FLUSH_NS, zs_mono(st) - t);
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

void zs_flush_main(void *arg)
{
    struct zr_inst *st = arg;
    int64_t last = zs_mono(st);
    pthread_mutex_lock(&st->flush_lock);
    while (flush_reason(st, last)) {
        pthread_mutex_unlock(&st->flush_lock);
        flush_once(st);
        last = zs_mono(st);
        pthread_mutex_lock(&st->flush_lock);
    }
    pthread_mutex_unlock(&st->flush_lock);
}
