/* SPDX-License-Identifier: Apache-2.0 */
/* clean.c - retention: deleting old segments, and with them queue files and index files that only spoke of them; and the
 * look at the disk that bars appends before it is full.
 *
 * As RocketMQ: a segment's age is its file's mtime, but by a clock that did not jump (age.c); the newest is never deleted; expired ones go in the hours of
 * delete_when, or at once when the disk is fuller than ratio_clean; above ratio_force the oldest go before their time (if
 * clean_forcibly); above ratio_refuse appends are refused until it is below again. retention_bytes is ours: the oldest go,
 * whatever their age and the hour, while the log is longer than that.
 *
 * While the disk is full (an append met its end, or it is above ratio_refuse) the look comes every FULL_NS, and the first one
 * at once: what may be deleted is, and sends go on soon after there is space. An append tries anyway; it needs no look.
 *
 * LOCKING: clean_lock for one cleaning at a time, held throughout. The timer and its job are counted by clean_running under
 * work_lock, so that a stop can wait for them. */
#include "ext.h"
#include "zs_pack.h"
#include <stdlib.h>
#include <time.h>

#define FEW_SEGMENTS 10u /* at most in one round */
#define STUCK_NS 600000000000ll /* between two lines on a segment that cannot be deleted */
#define FULL_NS 250000000 /* between two looks at a full disk */

/* ---- the disk ------------------------------------------------------------------------------------------------------------- */

/* Used share as df says it: of what users other than root could have. */
double zs_used_ratio(struct zr_inst *st, const char *path, struct zr_io_disk *ret)
{
    if (st->io->disk(st->io->ctx, path, ret) < 0) return -1;
    double used = (double)(ret->total - ret->free), all = used + (double)ret->available;
    return all > 0 ? used / all : -1;
}

static void ratios_of(struct zr_inst *st, double *ret_log, double *ret_queue)
{
    pthread_mutex_lock(&st->work_lock);
    *ret_log = st->log_ratio;
    *ret_queue = st->queue_ratio;
    pthread_mutex_unlock(&st->work_lock);
}

void zs_disk_look(struct zr_inst *st)
{
    struct zr_io_disk log = { 0 }, queue = { 0 };
    double log_ratio = -1, queue_ratio = zs_used_ratio(st, st->queue_dir, &queue);
    for (uint32_t i = 0; i < st->dirs.n; i++) { /* as long as one of the log's disks has room, there is room */
        struct zr_io_disk disk = { 0 };
        double ratio = st->dirs.read_only & 1u << i ? -1 : zs_used_ratio(st, st->dirs.path[i], &disk);
        if (ratio < 0 || (log_ratio >= 0 && ratio >= log_ratio)) continue;
        log_ratio = ratio;
        log = disk;
    }
    double worst = log_ratio > queue_ratio ? log_ratio : queue_ratio;
    uint32_t over = worst > st->conf.ratio_refuse;
    pthread_mutex_lock(&st->work_lock);
    st->log_ratio = log_ratio;
    st->queue_ratio = queue_ratio;
    st->disk_total = log.total;
    st->disk_available = log.available;
    pthread_mutex_unlock(&st->work_lock);
    if (atomic_exchange(&st->disk_over, over) == over) return;
    if (over) zs_clean_hurry(st);
    if (over)
        zs_log(st, ZR_LOG_ERROR, "the disk of the store is used to %.1f %%, above disk_refuse_ratio: appends are refused", worst * 100);
    else zs_log(st, ZR_LOG_INFO, "the disk of the store is used to %.1f %%: appends are taken again", worst * 100);
}

/* ---- deleting ----------------------------------------------------------------------------------------------------------------- */

static uint32_t is_expired(struct zr_inst *st, int64_t base, int64_t now_ms)
{
    int64_t mtime_ns = zs_seg_mtime_ns(st, base);
    if (mtime_ns < 0) return 0;
    return now_ms - mtime_ns / 1000000 >= st->conf.retention_hours * 3600000;
}

void zs_clean_stuck(struct zr_inst *st, const char *path, int64_t error)
{
    int64_t now = zs_mono(st);
    if (st->stuck_ns && now - st->stuck_ns < STUCK_NS) return;
    st->stuck_ns = now;
    zs_log(st, ZR_LOG_ERROR, "%s should be deleted, and cannot be: %s; neither can anything behind it, and the disk fills", path, zs_errno_text(error));
}

#define ANY_AGE INT64_MAX
/* Deletes the oldest segment if it may go at that time. 1: it went. */
static uint32_t drop_oldest(struct zr_inst *st, int64_t now_ms, const char *why)
{
    int64_t first = zs_segs_first(st), last = zs_segs_last(st);
    if (first < 0 || first == last || first + st->segs.size > atomic_load(&st->flushed)) return 0;
    if (now_ms != ANY_AGE && !is_expired(st, first, now_ms)) return 0;
    if (zs_seg_drop(st, 1) != ZR_OK) return 0;
    st->stuck_ns = 0;
    atomic_store(&st->begin, zs_segs_first(st));
    zs_log(st, ZR_LOG_INFO, "segment %020lld was deleted: %s", (long long)first, why);
    return 1;
}

/* More is kept than retention_bytes, without the oldest segment? */
static uint32_t is_too_long(struct zr_inst *st)
{
    int64_t most = st->conf.retention_bytes;
    return most > 0 && atomic_load(&st->end) - atomic_load(&st->begin) - st->segs.size >= most;
}

static void clean_queues(struct zr_inst *st, uint64_t *removed)
{
    uint64_t n;
    int64_t per = st->conf.queue_file_size / ZS_ENTRY;
    struct zr_queue **list = zs_queues_list(st, &n);
    for (uint64_t i = 0; list && i < n; i++) {
        struct zr_queue *q = list[i];
        int64_t min = zs_queue_min(st, q);
        pthread_mutex_lock(&st->drain_lock);
        while (q->first_file != ZS_NONE && q->first_file < q->last_file && (q->first_file + 1) * per <= min) {
            if (zs_qfile_drop_first(st, q) < 0) break;
            ++*removed;
        }
        *removed += zs_ext_retire(st, q, min);
        pthread_mutex_unlock(&st->drain_lock);
    }
    free(list);
}

static uint64_t drop_segments(struct zr_inst *st, uint32_t expired, uint32_t force, uint64_t *ret_files)
{
    uint64_t n = 0;
    int64_t now_ms = zs_age_now(st);
    while (n < FEW_SEGMENTS) {
        double log_ratio, queue_ratio;
        ratios_of(st, &log_ratio, &queue_ratio);
        if (log_ratio <= st->conf.ratio_force && queue_ratio <= st->conf.ratio_force) force = 0;
        if (!((is_too_long(st) && drop_oldest(st, ANY_AGE, "the log is longer than retention_bytes")) ||
              (expired && drop_oldest(st, now_ms, "its time is over")) || (force && drop_oldest(st, ANY_AGE, "the disk is too full"))))
            break;
        n++;
        if (queue_ratio > st->conf.ratio_force && log_ratio <= st->conf.ratio_force) clean_queues(st, ret_files); /* what that frees ends it */
        zs_disk_look(st);
    }
    return n;
}

static uint64_t clean(struct zr_inst *st, uint32_t expired, uint32_t force)
{
    pthread_mutex_lock(&st->clean_lock);
    zs_gone_sweep(st);
    zs_names_look(st);
    uint64_t files = 0, removed = drop_segments(st, expired, force, &files);
    if (removed) {
        removed += files;
        zs_dirs_sync(st);
        clean_queues(st, &removed);
        zs_index_clean(st, &removed);
        zs_removed_prune(st);
    }
    pthread_mutex_unlock(&st->clean_lock);
    return removed;
}

zr_status zs_clean(struct zr_inst *st, uint64_t *ret_removed)
{
    zs_disk_look(st);
    *ret_removed = clean(st, 1, 0);
    return ZR_OK;
}

/* ---- the timer -------------------------------------------------------------------------------------------------------------- */

static void arm(struct zr_inst *st);

static void clean_ended(struct zr_inst *st)
{
    pthread_mutex_lock(&st->work_lock);
    st->clean_running = 0;
    pthread_cond_broadcast(&st->clean_cond);
    pthread_mutex_unlock(&st->work_lock);
}

static uint32_t clean_stopped(struct zr_inst *st)
{
    pthread_mutex_lock(&st->work_lock);
    uint32_t r = st->clean_stop;
    pthread_mutex_unlock(&st->work_lock);
    return r;
}

static void clean_job(void *arg)
{
    struct zr_inst *st = arg;
    if (!clean_stopped(st) && !atomic_load(&st->failed)) {
        struct tm tm;
        time_t now = (time_t)(st->timer->wall_ms(st->host) / 1000);
        localtime_r(&now, &tm);
        zs_disk_look(st);
        double log_ratio, queue_ratio;
        ratios_of(st, &log_ratio, &queue_ratio);
        uint32_t hour = (st->conf.delete_hours >> tm.tm_hour) & 1u;
        clean(st, hour || log_ratio > st->conf.ratio_clean || queue_ratio > st->conf.ratio_clean,
              st->conf.clean_forcibly && (log_ratio > st->conf.ratio_force || queue_ratio > st->conf.ratio_force));
    }
    arm(st);
}

static void clean_tick(void *arg)
{
    struct zr_inst *st = arg;
    if (st->work->run(st->host, clean_job, st) != ZR_OK) arm(st); /* the pool is full: next time */
}

/* Sets the timer, or ends the chain when the store stops. */
static void arm_after(struct zr_inst *st, int64_t ns)
{
    uint64_t id = 0;
    if (clean_stopped(st) || st->timer->at(st->host, zs_mono(st) + ns, clean_tick, st, &id) != ZR_OK) {
        clean_ended(st);
        return;
    }
    atomic_store(&st->clean_timer, id);
    if (clean_stopped(st) && st->timer->cancel(st->host, id) == ZR_OK) clean_ended(st); /* zs_clean_stop may have looked too early */
}

static void arm(struct zr_inst *st)
{
    int64_t ns = st->conf.clean_interval_ms * 1000000;
    if (ns > FULL_NS && (atomic_load(&st->disk_over) || atomic_load(&st->disk_full))) ns = FULL_NS;
    arm_after(st, ns);
}

/* Who takes the timer away has the chain: he sets it anew. If nobody can, the job is under way, and sees for itself. */
void zs_clean_hurry(struct zr_inst *st)
{
    pthread_mutex_lock(&st->work_lock);
    uint32_t running = st->clean_running;
    pthread_mutex_unlock(&st->work_lock);
    if (running && st->timer->cancel(st->host, atomic_load(&st->clean_timer)) == ZR_OK) arm_after(st, 0);
}

void zs_clean_start(struct zr_inst *st)
{
    pthread_mutex_lock(&st->work_lock);
    st->clean_stop = 0;
    st->clean_running = 1;
    pthread_mutex_unlock(&st->work_lock);
    arm(st);
}

void zs_clean_stop(struct zr_inst *st)
{
    pthread_mutex_lock(&st->work_lock);
    st->clean_stop = 1;
    uint32_t running = st->clean_running;
    pthread_mutex_unlock(&st->work_lock);
    if (running && st->timer->cancel(st->host, atomic_load(&st->clean_timer)) == ZR_OK) clean_ended(st);
    pthread_mutex_lock(&st->work_lock);
    while (st->clean_running) pthread_cond_wait(&st->clean_cond, &st->work_lock);
    pthread_mutex_unlock(&st->work_lock);
}
