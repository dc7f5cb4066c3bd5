/* SPDX-License-Identifier: Apache-2.0 */
/* store.c - the life of a store: made, warmed (locked, recovered, threads started), drained, cooled; and what it says of
 * itself.
 *
 *   zs_create ──> zs_warm ──> zs_activate ──> zs_drain ──> zs_cool ──> zs_destroy
 *
 * A stop is clean when everything appended is flushed, every queue entry and the index are on disk, and the snapshot says so;
 * only then does `abort` go. */
#include "ext.h"
#include "zs_pack.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

/* ---- made and ended ---------------------------------------------------------------------------------------------------------- */

static uint32_t ask_services(struct zr_inst *st)
{
    const struct zr_host *h = st->host;
    st->io = h->query(h, ZR_SVC_IO);
    st->log = h->query(h, ZR_SVC_LOG);
    st->err = h->query(h, ZR_SVC_ERR);
    st->dur = h->query(h, ZR_SVC_DURABILITY);
    st->timer = h->query(h, ZR_SVC_TIMER);
    st->work = h->query(h, ZR_SVC_WORK);
    st->metrics = h->query(h, ZR_SVC_METRICS);
    st->bits = h->query(h, ZR_SVC_BITS);
    return st->io && st->log && st->err && st->dur && st->timer && st->work;
}

static void make_locks(struct zr_inst *st)
{
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_settype(&attr, PTHREAD_MUTEX_ADAPTIVE_NP); /* spins a little before it sleeps: it is held for microseconds */
    pthread_mutex_init(&st->append_lock, &attr);
    pthread_mutexattr_destroy(&attr);
    pthread_mutex_t *const plain[] = { &st->segs.lock, &st->files.lock, &st->stage_lock, &st->prep_lock, &st->dirty_lock,
                                       &st->drain_lock, &st->removed_lock, &st->heal_lock, &st->flush_lock, &st->work_lock,
                                       &st->clean_lock, &st->dirs.lock };
    for (uint64_t i = 0; i < sizeof plain / sizeof *plain; i++) pthread_mutex_init(plain[i], NULL);
    pthread_rwlock_init(&st->table_lock, NULL);
    pthread_cond_t *const conds[] = { &st->prep_cond, &st->flush_cond, &st->flushed_cond, &st->work_cond, &st->clean_cond };
    for (uint64_t i = 0; i < sizeof conds / sizeof *conds; i++) zs_cond_init(conds[i]);
}

static void end_locks(struct zr_inst *st)
{
    pthread_mutex_t *const all[] = { &st->append_lock, &st->segs.lock, &st->files.lock, &st->stage_lock, &st->prep_lock,
                                     &st->dirty_lock, &st->drain_lock, &st->removed_lock, &st->heal_lock, &st->flush_lock,
                                     &st->work_lock, &st->clean_lock, &st->dirs.lock };
    for (uint64_t i = 0; i < sizeof all / sizeof *all; i++) pthread_mutex_destroy(all[i]);
    pthread_rwlock_destroy(&st->table_lock);
    pthread_cond_t *const conds[] = { &st->prep_cond, &st->flush_cond, &st->flushed_cond, &st->work_cond, &st->clean_cond };
    for (uint64_t i = 0; i < sizeof conds / sizeof *conds; i++) pthread_cond_destroy(conds[i]);
}

static uint32_t make_paths(struct zr_inst *st)
{
    const char *root = st->conf.root;
    return zs_dirs_init(st) && zs_path(st->queue_dir, "%s/consumequeue", root) && zs_path(st->index_dir, "%s/index", root) &&
           zs_path(st->own_dir, "%s/zarya", root) && zs_path(st->ext_dir, "%s/consumequeue_ext", root);
}

static void measure_memory(struct zr_inst *st)
{
    int64_t memory = (int64_t)sysconf(_SC_PHYS_PAGES) * sysconf(_SC_PAGESIZE);
    if (memory <= 0) memory = 1ll << 30;
    st->memory_bytes = (int64_t)((double)memory * st->conf.ratio_memory);
    st->recent_bytes = memory / 32;
    if (st->recent_bytes < (16ll << 20)) st->recent_bytes = 16ll << 20;
    if (st->recent_bytes > (256ll << 20)) st->recent_bytes = 256ll << 20;
}

/* Most descriptors of the process are for connections, however few it may have. */
static void limit_descriptors(struct zr_inst *st)
{
    struct rlimit limit;
    uint64_t all = getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY ? limit.rlim_cur : 1u << 20;
    if ((uint64_t)st->conf.max_open_queue_files > all / 4) st->conf.max_open_queue_files = (int64_t)(all / 4);
    if ((uint64_t)st->conf.max_open_segments > all / 8) st->conf.max_open_segments = (int64_t)(all / 8);
    st->segs.max_open = (uint64_t)st->conf.max_open_segments;
}

struct zr_inst *zs_create(const struct zr_host *host, const struct zs_conf *conf)
{
    struct zr_inst *st = calloc(1, sizeof *st);
    if (!st) return NULL;
    st->host = host;
    st->conf = *conf;
    if (st->conf.extent_file_size <= (int64_t)(ZS_EXT_HEAD + ZS_EXT_SPARE)) st->conf.extent_file_size = ZS_EXT_FILE_SIZE;
    st->lock_fd = st->checkpoint_fd = st->prep_fd = -1;
    st->prep_want = st->prep_base = st->prep_asked = ZS_NONE;
    st->last_phys = st->names_at = -1;
    st->log_ratio = st->queue_ratio = -1;
    if (!ask_services(st) || !make_paths(st)) {
        free(st);
        return NULL;
    }
    st->segs.size = conf->segment_size;
    limit_descriptors(st);
    make_locks(st);
    measure_memory(st);
    return st;
}

const struct zr_host *zs_host(const struct zr_inst *st) { return st->host; }

void zs_destroy(struct zr_inst *st)
{
    if (!st) return;
    end_locks(st);
    free(st);
}

/* ---- warm --------------------------------------------------------------------------------------------------------------------- */

static zr_status make_folders(struct zr_inst *st)
{
    const char *const all[] = { st->conf.root, st->queue_dir, st->index_dir, st->own_dir };
    const uint32_t n = sizeof all / sizeof *all;
    for (uint32_t i = 0; i < n + st->dirs.n; i++) {
        const char *dir = i < n ? all[i] : st->dirs.path[i - n];
        int64_t r = zl_io_mkdirs(st->io, dir);
        if (r < 0) return zs_raise(st, zs_status_of(r), r, "%s cannot be made: %s", dir, zs_errno_text(r));
    }
    return ZR_OK;
}

static void declare_metrics(struct zr_inst *st)
{
#define ROW(n, u, d, k) { ZR_HDR(struct zr_metric, 0), n, u, d, k, 0 }
    static const struct zr_metric rows[ZS_N_METRICS] = {
        [ZS_M_MESSAGES] = ROW("zarya_store_messages_total", "messages", "Messages appended.", ZR_METRIC_COUNTER),
        [ZS_M_BYTES] = ROW("zarya_store_bytes_total", "bytes", "Bytes of records appended.", ZR_METRIC_COUNTER),
        [ZS_M_FLUSHES] = ROW("zarya_store_flushes_total", NULL, "Flushes of the log.", ZR_METRIC_COUNTER),
        [ZS_M_FLUSH_NS] = ROW("zarya_store_flush_ns", "ns", "Duration of a flush of the log.", ZR_METRIC_HISTOGRAM),
        [ZS_M_DAMAGED] = ROW("zarya_store_damaged_total", NULL, "Damaged places and records met.", ZR_METRIC_COUNTER),
        [ZS_M_SEGMENTS] = ROW("zarya_store_segments", NULL, "Segments of the log.", ZR_METRIC_GAUGE),
        [ZS_M_TAIL] = ROW("zarya_store_tail_bytes", "bytes", "Memory of queue entries not evicted.", ZR_METRIC_GAUGE),
        [ZS_M_HELPED] = ROW("zarya_store_helped_total", NULL, "Appends that had to write queue files.", ZR_METRIC_COUNTER),
        [ZS_M_HEALED] = ROW("zarya_store_healed_total", "entries", "Lost queue entries made anew.", ZR_METRIC_COUNTER),
        [ZS_M_REFUSED] = ROW("zarya_store_refused_total", "messages", "Messages not appended.", ZR_METRIC_COUNTER),
    };
#undef ROW
    if (st->metrics) st->metrics_on = st->metrics->declare(st->host, rows, ZS_N_METRICS, &st->metric0) == ZR_OK;
}

static void wake_all(struct zr_inst *st)
{
    pthread_mutex_t *const locks[] = { &st->prep_lock, &st->flush_lock, &st->work_lock };
    pthread_cond_t *const conds[] = { &st->prep_cond, &st->flush_cond, &st->work_cond };
    for (int i = 0; i < 3; i++) {
        pthread_mutex_lock(locks[i]);
        pthread_cond_broadcast(conds[i]);
        pthread_mutex_unlock(locks[i]);
    }
    zs_index_stop(st);
    zs_pack_stop(st);
}

static void join_threads(struct zr_inst *st)
{
    atomic_store(&st->stopping, 1);
    wake_all(st);
    while (st->n_threads) st->work->join(st->host, st->threads[--st->n_threads]);
    atomic_store(&st->threads_on, 0);
}

static zr_status start_threads(struct zr_inst *st)
{
    static const struct {
        const char *name;
        void (*main)(void *);
    } rows[] = { { "store-flush", zs_flush_main }, { "store-queues", zs_queue_writer_main }, { "store-segment", zs_prepare_main },
                 { "store-pack", zs_pack_main }, { "store-index", zs_index_main } };
    atomic_store(&st->stopping, 0);
    atomic_store(&st->threads_on, 1);
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        if ((rows[i].main == zs_pack_main && !st->pack) || (rows[i].main == zs_index_main && !st->index)) continue;
        zr_status rc = st->work->spawn(st->host, rows[i].name, rows[i].main, st, &st->threads[st->n_threads]);
        if (rc != ZR_OK) {
            join_threads(st);
            return rc;
        }
        st->n_threads++;
    }
    return ZR_OK;
}

/* Gives back what warm took; each part may not be there yet. */
static void release_all(struct zr_inst *st)
{
    zs_pack_ahead_wait(st);
    zs_index_free(st);
    if (st->active) zs_seg_put(st, st->active);
    st->active = NULL;
    zs_prepared_drop(st);
    zs_qfiles_free(st);
    zs_queues_free(st);
    zs_segs_free(st);
    zs_dirs_free(st);
    zs_pack_free(st);
    zs_removed_free(st);
    zs_stages_free(st);
    if (st->checkpoint_fd >= 0) st->io->close(st->io->ctx, st->checkpoint_fd);
    st->checkpoint_fd = -1;
    zs_lock_drop(st);
}

/* What is cut from here on needs `abort` after a power cut too, and whoever made it may have failed to make its name durable. */
static zr_status abort_secure(struct zr_inst *st)
{
    int64_t r = zs_abort_there(st) ? st->io->sync_dir(st->io->ctx, st->conf.root) : 0;
    return r < 0 ? zs_raise(st, zs_status_of(r), r, "%s/abort cannot be made durable: %s", st->conf.root, zs_errno_text(r)) : ZR_OK;
}

/* Another broker was here, and what it left is known now: our snapshot says so, and then the word in `lock`. Where that cannot be
 * written, the next start looks again. */
static void take_over(struct zr_inst *st)
{
    if (st->lock_marked) return;
    if (zs_segs_last(st) < 0 && st->n_queues == 0) zs_lock_mark(st);
    else zs_save(st, 0);
}

zr_status zs_warm(struct zr_inst *st)
{
    atomic_store(&st->closing, 0);
    atomic_store(&st->failed, 0);
    atomic_store(&st->queues_unsure, 0);
    declare_metrics(st);
    zr_status rc = make_folders(st);
    if (rc == ZR_OK) rc = zs_lock_take(st);
    if (rc == ZR_OK) rc = zs_dirs_lock(st);
    if (rc == ZR_OK) rc = zs_foreign_look(st);
    if (rc == ZR_OK) rc = zs_checkpoint_open(st);
    if (rc == ZR_OK) rc = zs_qfiles_init(st);
    if (rc == ZR_OK) rc = zs_pack_init(st);
    if (rc == ZR_OK) rc = abort_secure(st);
    if (rc == ZR_OK) rc = zs_recover(st);
    if (rc == ZR_OK) {
        int64_t r = zs_abort_make(st);
        if (r < 0) rc = zs_raise(st, zs_status_of(r), r, "%s/abort cannot be made: %s", st->conf.root, zs_errno_text(r));
    }
    if (rc == ZR_OK) {
        zs_folders_save(st);
        take_over(st);
        zs_age_open(st);
        zs_disk_look(st);
        st->saved_at_ns = zs_mono(st);
        rc = start_threads(st);
    }
    if (rc != ZR_OK) {
        release_all(st);
        return rc;
    }
    st->warm = 1;
    return ZR_OK;
}

void zs_activate(struct zr_inst *st)
{
    st->dur->advance(st->host, ZR_MARK_WRITTEN, atomic_load(&st->end));
    st->dur->advance(st->host, ZR_MARK_FLUSHED, atomic_load(&st->flushed));
    zs_clean_start(st);
}

/* ---- the way down ------------------------------------------------------------------------------------------------------------- */

void zs_drain(struct zr_inst *st, struct zr_done done)
{
    pthread_mutex_lock(&st->append_lock); /* an append that is under way ends first */
    atomic_store(&st->closing, 1);
    int64_t end = atomic_load(&st->end);
    pthread_mutex_unlock(&st->append_lock);
    zs_flush_wait(st, end);
    done.call(done.ctx, ZR_OK);
}

void zs_cool(struct zr_inst *st)
{
    if (!st->warm) return;
    st->warm = 0;
    atomic_store(&st->closing, 1);
    zs_clean_stop(st);
    join_threads(st); /* the flusher ends when all is flushed, or cannot be */
    uint32_t whole = !atomic_load(&st->failed) && atomic_load(&st->flushed) == atomic_load(&st->end);
    zs_index_close(st, whole);
    zs_age_close(st);
    zs_folders_save(st);
    int64_t r = whole ? zs_save(st, 1) : -EIO;
    if (r >= 0) r = zs_abort_drop(st);
    if (r >= 0) zs_log(st, ZR_LOG_INFO, "the store was closed at %lld", (long long)atomic_load(&st->end));
    else zs_log(st, ZR_LOG_WARN, "the store could not be closed cleanly; the next start recovers");
    release_all(st);
}

void zs_retune(struct zr_inst *st, const struct zs_conf *conf)
{
    struct zs_conf *c = &st->conf;
    pthread_mutex_lock(&st->flush_lock);
    c->flush_interval_ms = conf->flush_interval_ms;
    pthread_cond_signal(&st->flush_cond);
    pthread_mutex_unlock(&st->flush_lock);
    c->retention_hours = conf->retention_hours;
    c->retention_bytes = conf->retention_bytes;
    c->delete_hours = conf->delete_hours;
    c->clean_forcibly = conf->clean_forcibly;
    c->ratio_clean = conf->ratio_clean;
    c->ratio_force = conf->ratio_force;
    c->ratio_refuse = conf->ratio_refuse;
    c->max_hot_bytes = conf->max_hot_bytes;
    c->max_hot_messages = conf->max_hot_messages;
    c->max_cold_bytes = conf->max_cold_bytes;
    c->max_cold_messages = conf->max_cold_messages;
}

/* ---- the whole of it ------------------------------------------------------------------------------------------------------------ */

static struct zr_str why_not(struct zr_inst *st)
{
    if (atomic_load(&st->failed)) return zl_str(st->why_failed);
    if (atomic_load(&st->closing)) return zl_str("the store is shutting down");
    if (atomic_load(&st->disk_over)) return zl_str("the disk is fuller than disk_refuse_ratio allows");
    if (atomic_load(&st->disk_full)) return zl_str("the disk is full or cannot be written");
    return (struct zr_str){ NULL, 0 };
}

static int64_t earliest_ms(struct zr_inst *st)
{
    struct zl_record r;
    struct zs_hold hold;
    if (!zs_record_get(st, atomic_load(&st->begin), 0, 0, &r, &hold)) return -1;
    zs_hold_put(st, hold.pin);
    return r.store_ms;
}

void zs_info(struct zr_inst *st, struct zr_storage_info *ret)
{
    ret->positions.begin = atomic_load(&st->begin);
    ret->positions.flushed = atomic_load(&st->flushed);
    ret->positions.written = atomic_load(&st->end);
    ret->positions.visible = zs_visible(st);
    ret->positions.dispatched = st->index ? zs_index_pos(st) : ret->positions.written;
    ret->earliest_ms = earliest_ms(st);
    ret->n_topics = zs_count_topics(st, &ret->n_queues);
    zs_disk_look(st);
    pthread_mutex_lock(&st->work_lock);
    ret->disk_total = st->disk_total;
    ret->disk_available = st->disk_available;
    ret->log_disk_ratio = st->log_ratio;
    ret->queue_disk_ratio = st->queue_ratio;
    pthread_mutex_unlock(&st->work_lock);
    ret->log_path = zl_str(st->log_dir);
    ret->queue_path = zl_str(st->queue_dir);
    ret->sync = st->conf.sync;
    ret->why_not = why_not(st);
    ret->writable = ret->why_not.len == 0;
}
