/* SPDX-License-Identifier: Apache-2.0 */
/* index.c - the hash index by key: RocketMQ's index files, written by a thread of its own that follows the log. Asking it:
 * index_ask.c.
 *
 * What stays true:
 *   1. Every record below pos that has keys is in the index; pos never moves before its entries are in the file or in memory.
 *   2. No key is lost with the process, nor with a file: see index_mend.c.
 *      A stop counts as clean for the index only if its last write succeeded: slots that were written without the header speak
 *      of entries that it does not know, and chains begun anew over them would lose all behind.
 *   3. Nothing of this is on the way of a send. A query first lets the follower catch up.
 *
 * LOCKING: index.lock, see index.h. */
#include "index.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define LINGER_NS 100000000
#define FLUSH_NS 10000000000
#define STOP_BYTES (64ll << 20) /* a stop waits for no more than this to be indexed */

int64_t zs_index_pos(struct zr_inst *st) { return st->index ? atomic_load(&st->index->pos) : 0; }
int64_t zs_index_last(struct zr_inst *st) { return st->index ? atomic_load(&st->index->last) : -1; }
int64_t zs_index_saved_pos(struct zr_inst *st) { return st->index ? atomic_load(&st->index->saved_pos) : 0; }
int64_t zs_index_saved_last(struct zr_inst *st) { return st->index ? atomic_load(&st->index->saved_last) : -1; }
int64_t zs_index_ms(struct zr_inst *st) { return st->index ? atomic_load(&st->index->saved_ms) : st->checkpoint.index_ms; }

void zs_index_unsure(struct zs_index *ix)
{
    ix->mend.unsure = 1;
    atomic_store(&ix->saved_last, ZS_INDEX_UNSURE);
}

/* Brings the newest file up to date on the disk. What is in the files now can be vouched for, unless some of it is being mended,
 * or the last record has a part of its keys only. */
static int64_t index_flush(struct zr_inst *st, uint32_t sync)
{
    struct zs_index *ix = st->index;
    int64_t pos = atomic_load(&ix->pos), r = zs_iwriter_flush(st, &ix->cur, sync);
    if (r < 0 || ix->mending || ix->repair || ix->mend.unsure || ix->n_put) return r;
    atomic_store(&ix->saved_pos, pos);
    atomic_store(&ix->saved_last, atomic_load(&ix->last));
    atomic_store(&ix->saved_ms, atomic_load(&ix->full_ms));
    return 0;
}

/* ---- the newest file ------------------------------------------------------------------------------------------------------ */

static int64_t current_open(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    struct zs_iwriter *w = &ix->cur;
    if (!zs_iwriter_ready(ix, w)) return -ENOMEM;
    w->f = zs_index_newest(ix);
    int64_t fd = zs_index_file_open(st, w->f), r = fd;
    if (fd < 0) return fd;
    w->fd = (int32_t)fd;
    r = zs_iwriter_slots_load(st, w);
    if (r < 0) {
        st->io->close(st->io->ctx, (int32_t)fd);
        return r;
    }
    w->open = 1;
    w->block_from = w->f->count;
    return 0;
}

/* A new file, named by the present time, or by the next millisecond that has no file. */
static int64_t file_make(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    struct zs_ifile *f = calloc(1, sizeof *f), *before = zs_index_newest(ix);
    int64_t ms = st->timer->wall_ms(st->host), r = -EEXIST;
    if (!f) return -ENOMEM;
    f->count = 1;
    for (int tries = 0; tries < 1000 && r == -EEXIST; tries++, ms++) {
        time_t sec = (time_t)(ms / 1000);
        struct tm tm;
        localtime_r(&sec, &tm);
        size_t n = strftime(f->name, sizeof f->name, "%Y%m%d%H%M%S", &tm);
        snprintf(f->name + n, sizeof f->name - n, "%03d", (int)(ms % 1000));
        if (before && strcmp(f->name, before->name) <= 0) /* the clock went back: stay behind the newest */
            snprintf(f->name, sizeof f->name, "%017lld", strtoll(before->name, NULL, 10) + 1 + tries);
        r = zs_iwriter_make(st, &ix->cur, f);
    }
    if (r >= 0 && !zs_index_insert(ix, ix->n, f)) {
        char path[ZS_PATH];
        zs_iwriter_close(st, &ix->cur);
        if (zs_path(path, "%s/%s", st->index_dir, f->name)) st->io->unlink(st->io->ctx, path);
        r = -ENOMEM;
    }
    if (r < 0) {
        free(f);
        return r;
    }
    if (before) { /* as RocketMQ presets them; the first entry's seconds count from here */
        f->begin_ms = f->end_ms = before->end_ms;
        f->begin_phys = f->end_phys = before->end_phys;
    }
    return 0;
}

/* Has the newest file open and with room for one entry. */
static int64_t current_ready(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    struct zs_ifile *f = zs_index_newest(ix);
    if (f && f->count < ix->max_entries) return ix->cur.open ? 0 : current_open(st);
    if (ix->cur.open) {
        int64_t r = zs_iwriter_flush(st, &ix->cur, 1);
        if (r < 0) return r;
        atomic_store(&ix->full_ms, f->end_ms);
        zs_iwriter_close(st, &ix->cur);
    }
    return file_make(st);
}

static int64_t current_put(struct zr_inst *st, int32_t hash, const struct zl_record *r)
{
    int64_t rc = current_ready(st);
    if (rc >= 0) rc = zs_iwriter_put(st, &st->index->cur, hash, r->physical_offset, r->store_ms);
    if (rc >= 0) atomic_store(&st->index->last, r->physical_offset);
    return rc;
}

int64_t zs_index_keys(struct zr_inst *st, const struct zl_record *r, uint32_t *n_put,
                      int64_t (*put)(struct zr_inst *st, int32_t hash, const struct zl_record *r))
{
    struct zs_index *ix = st->index;
    struct zr_str part, name, value, keys = { NULL, 0 }, unique = { NULL, 0 }, tag = { NULL, 0 };
    uint64_t pos = 0;
    uint32_t n = 0, skip = *n_put;
    int64_t rc = 0;
    if ((r->sys_flag & ZR_SYSFLAG_TRANSACTION_MASK) == ZR_SYSFLAG_ROLLBACK) return 0;
    while (zl_props_next(r->properties, &pos, &name, &value)) {
        if (zl_is(name, "UNIQ_KEY")) unique = value;
        else if (zl_is(name, "KEYS")) keys = value;
        else if (zl_is(name, "TAGS")) tag = value;
    }
    if (unique.len && n++ >= skip) rc = put(st, zs_index_hash(ix, r->topic, unique, ZR_KEY_UNIQUE), r);
    while (rc >= 0 && keys.len && zl_split(&keys, ' ', &part))
        if (part.len && n++ >= skip) rc = put(st, zs_index_hash(ix, r->topic, part, ZR_KEY_PLAIN), r);
    if (rc >= 0 && tag.len && n++ >= skip) rc = put(st, zs_index_hash(ix, r->topic, tag, ZR_KEY_TAG), r);
    *n_put = rc < 0 && n > 0 ? n - 1 : 0;
    return rc;
}

static int64_t record_put(struct zr_inst *st, const struct zl_record *r)
{
    struct zs_index *ix = st->index;
    uint32_t n_put = r->physical_offset == atomic_load(&ix->last) ? ix->n_put : 0;
    if (r->physical_offset <= atomic_load(&ix->last) && n_put == 0) return 0; /* is there already */
    int64_t rc = zs_index_keys(st, r, &n_put, current_put);
    ix->n_put = n_put;
    return rc;
}

/* ---- following the log ------------------------------------------------------------------------------------------------------ */

/* Indexes up to ZS_INDEX_BATCH records from pos on. 1: there is more. */
static uint32_t follow(struct zr_inst *st, struct zs_scan *s, int64_t limit)
{
    struct zs_index *ix = st->index;
    struct zl_record r;
    int64_t pos = atomic_load(&ix->pos), begin = atomic_load(&st->begin), rc = 0;
    if (pos < begin) pos = begin;
    s->pos = pos;
    s->limit = limit;
    for (uint32_t i = 0; i < ZS_INDEX_BATCH && rc >= 0; i++) {
        int what = zs_scan_next(s, &r);
        if (what == ZS_SCAN_BAD && !s->seg && zs_seg_shut_out(st, s->pos)) { /* another time it can be opened */
            rc = -EIO;
        } else if (what == ZS_SCAN_BAD) {
            if (!zs_scan_resync(s)) s->pos = limit;
        } else if (what == ZS_SCAN_RECORD) {
            rc = record_put(st, &r);
        } else {
            if (what == ZS_SCAN_STOP) rc = -ENOMEM;
            break;
        }
        if (rc >= 0) atomic_store(&ix->pos, s->pos);
    }
    if (rc >= 0 && s->pos >= limit) atomic_store(&ix->pos, limit);
    if (rc < 0) {
        if (!ix->broken) zs_log(st, ZR_LOG_ERROR, "the index cannot be written: %s; it is tried again", zs_errno_text(rc));
        ix->broken = 1;
        return 0;
    }
    if (ix->broken) zs_log(st, ZR_LOG_INFO, "the index can be written again");
    ix->broken = 0;
    return atomic_load(&ix->pos) < limit;
}

void zs_index_main(void *arg)
{
    struct zr_inst *st = arg;
    struct zs_index *ix = st->index;
    struct zs_scan s;
    int64_t flushed = zs_mono(st);
    zs_scan_open(&s, st, 0, 0, 0);
    pthread_mutex_lock(&ix->lock);
    if (ix->repair) zs_index_repair(st);
    ix->repair = 0;
    while (!atomic_load(&st->stopping)) {
        int64_t limit = zs_visible(st);
        uint32_t more = atomic_load(&ix->pos) < limit && follow(st, &s, limit);
        if (!more && ix->mending && !ix->broken) {
            ix->mending = more = zs_index_mend(st, &s);
            if (!more) {
                zs_bare_save(st);
                index_flush(st, 0); /* from now on it is vouched for */
            }
        }
        if (more) { /* others may want the lock */
            pthread_mutex_unlock(&ix->lock);
            pthread_mutex_lock(&ix->lock);
            continue;
        }
        pthread_cond_broadcast(&ix->caught);
        int64_t now = zs_mono(st);
        if (ix->cur.header_dirty && now - flushed >= FLUSH_NS) {
            index_flush(st, 0);
            flushed = now;
        }
        if (s.seg) zs_scan_close(&s);
        atomic_store(&ix->idle, 1);
        if (!ix->hurry && (zs_visible(st) <= atomic_load(&ix->pos) || ix->broken) && !atomic_load(&st->stopping)) {
            if (ix->cur.header_dirty || ix->broken) zs_cond_wait_ns(&ix->cond, &ix->lock, ix->broken ? FLUSH_NS / 10 : FLUSH_NS);
            else pthread_cond_wait(&ix->cond, &ix->lock);
        }
        atomic_store(&ix->idle, 0);
        if (!ix->hurry && !atomic_load(&st->stopping) && zs_visible(st) > atomic_load(&ix->pos))
            zs_cond_wait_ns(&ix->cond, &ix->lock, LINGER_NS); /* let more gather */
        ix->hurry = 0;
    }
    pthread_cond_broadcast(&ix->caught);
    pthread_mutex_unlock(&ix->lock);
    zs_scan_close(&s);
}

void zs_index_wake(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    if (!ix || !atomic_load(&ix->idle)) return;
    atomic_store(&ix->idle, 0);
    pthread_mutex_lock(&ix->lock);
    pthread_cond_signal(&ix->cond);
    pthread_mutex_unlock(&ix->lock);
}

void zs_index_stop(struct zr_inst *st)
{
    if (!st->index) return;
    pthread_mutex_lock(&st->index->lock);
    pthread_cond_broadcast(&st->index->cond);
    pthread_mutex_unlock(&st->index->lock);
}

/* ---- life --------------------------------------------------------------------------------------------------------------------- */

zr_status zs_index_open(struct zr_inst *st, const struct zs_snapshot *snap, uint32_t clean)
{
    struct zs_index *ix = calloc(1, sizeof *ix);
    if (!ix) return ZR_ENOMEM;
    pthread_mutex_init(&ix->lock, NULL);
    zs_cond_init(&ix->cond);
    zs_cond_init(&ix->caught);
    zl_buf_init(&ix->key, 1u << 20);
    ix->slot_count = st->conf.index_slots;
    ix->max_entries = st->conf.index_entries;
    ix->walk_max = ZS_INDEX_WALK;
    ix->aside_max = ZS_INDEX_ASIDE;
    st->index = ix;
    ix->cur.fd = ix->mend.w.fd = -1;
    int64_t r = zs_index_list(st);
    if (r < 0) return r == -ENOMEM ? ZR_ENOMEM : zs_raise(st, zs_status_of(r), r, "%s cannot be read: %s", st->index_dir, zs_errno_text(r));
    zs_bare_load(st);
    struct zs_ifile *f = zs_index_newest(ix);
    int64_t last = f && f->count > 1 ? f->end_phys : -1;
    for (uint64_t i = 0; i + 1 < ix->n; i++) atomic_store(&ix->full_ms, ix->files[i]->end_ms);
    if (last < 0 && ix->n > 1) last = ix->files[ix->n - 2]->end_phys; /* made, and not used yet */
    uint32_t known = snap->valid && snap->index_last == last && snap->index_pos <= atomic_load(&st->end);
    if (f && f->count > 1 && !zs_index_ends_agree(st, f)) known = clean = 0;
    if (snap->valid && snap->index_last == ZS_INDEX_UNSURE) clean = 0;
    if (ix->n == 0 && snap->valid && snap->index_last >= 0)
        zs_log(st, ZR_LOG_WARN, "%s: the index files are gone; they are made anew from the log", st->index_dir);
    ix->mending = ix->n > 0;
    ix->mend.compare = clean && (known || !snap->valid) ? -1 : (snap->valid ? snap->index_pos : atomic_load(&st->begin));
    atomic_store(&ix->saved_pos, snap->valid ? snap->index_pos : 0);
    atomic_store(&ix->saved_last, known && (clean || ix->n == 0) ? snap->index_last : ZS_INDEX_UNSURE);
    atomic_store(&ix->saved_ms, clean ? atomic_load(&ix->full_ms) : st->checkpoint.index_ms);
    ix->mend.check_ms = clean ? INT64_MAX : st->checkpoint.index_ms;
    ix->repair = ix->n && (!clean || (snap->valid && !known));
    atomic_store(&ix->last, last);
    if (known && (clean || last < 0)) atomic_store(&ix->pos, snap->index_pos); /* no entry: no keys up to there */
    else atomic_store(&ix->pos, last >= 0 ? last : atomic_load(&st->begin));
    if (ix->repair && ix->n > 1) { /* if nothing of the newest is good: from the end of the one before */
        atomic_store(&ix->pos, ix->files[ix->n - 2]->end_phys);
        atomic_store(&ix->last, ix->files[ix->n - 2]->end_phys);
    } else if (ix->repair) {
        atomic_store(&ix->pos, atomic_load(&st->begin));
        atomic_store(&ix->last, -1);
    }
    return ZR_OK;
}

void zs_index_close(struct zr_inst *st, uint32_t flush)
{
    struct zs_index *ix = st->index;
    if (!ix) return;
    int64_t limit = zs_visible(st);
    if (flush && !ix->repair && limit - atomic_load(&ix->pos) <= STOP_BYTES) {
        struct zs_scan s;
        zs_scan_open(&s, st, 0, 0, 0);
        while (atomic_load(&ix->pos) < limit && follow(st, &s, limit)) {}
        zs_scan_close(&s);
    }
    zs_index_mend_stop(st);
    if (flush) zs_bare_save(st);
    int64_t r = flush ? index_flush(st, 1) : 0;
    if (r < 0 || ix->n_put) zs_index_unsure(ix);
    if (r < 0) zs_log(st, ZR_LOG_WARN, "the index could not be written: %s; the next start mends it", zs_errno_text(r));
    zs_iwriter_close(st, &ix->cur);
}

void zs_index_free(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    if (!ix) return;
    zs_iwriter_close(st, &ix->cur);
    zs_index_mend_stop(st);
    zl_buf_free(&ix->key);
    for (uint64_t i = 0; i < ix->n; i++) free(ix->files[i]);
    free(ix->files);
    pthread_mutex_destroy(&ix->lock);
    pthread_cond_destroy(&ix->cond);
    pthread_cond_destroy(&ix->caught);
    free(ix);
    st->index = NULL;
}

void zs_index_clean(struct zr_inst *st, uint64_t *removed)
{
    struct zs_index *ix = st->index;
    int64_t begin = atomic_load(&st->begin);
    if (!ix) return;
    pthread_mutex_lock(&ix->lock);
    while (ix->n > 1 && ix->files[0]->end_phys < begin && ix->files[0]->count > 1) {
        if (zs_index_delete(st, 0) < 0) break;
        if (ix->mend.at > 0) ix->mend.at--;
        if (ix->mend.file > 0) ix->mend.file--;
        else ix->mend.entry = 1, ix->mend.chunk_n = 0;
        ++*removed;
    }
    pthread_mutex_unlock(&ix->lock);
}
