/* SPDX-License-Identifier: Apache-2.0 */
/* qfile.c - the files of consume queues: <queue_dir>/<topic>/<queue id>/<20 digits>, queue_file_size bytes each, entry i of a
 * queue at byte i * 20 of their sequence.
 *
 * What stays true:
 *   1. A file has its full size before the first entry is written; what is not written is zero.
 *   2. A queue that begins behind offset 0 begins with filler entries (0, 0x7FFFFFFF, 0) in its first file, as RocketMQ's do.
 *   3. At most `max` descriptors are kept, the least recently used go first; one that is in use is never closed.
 *
 * LOCKING: files.lock for the descriptors; not held over an open, a read or a write. Writing, cutting and deleting are the
 * business of the holder of drain_lock (or of a recovery, which is alone). */
#include "bcq.h"
#include "ext.h"
#include <errno.h>
#include <stdlib.h>

static int64_t per_file(const struct zr_inst *st) { return st->conf.queue_file_size / ZS_ENTRY; }

void zs_queue_path(struct zr_inst *st, const struct zr_queue *q, char *to)
{
    char root[ZS_PATH];
    if (!zs_path(to, "%s/%s/%d", zs_queue_root(st, q, root), q->topic, q->id)) to[0] = 0;
}

void zs_qfile_path(struct zr_inst *st, const struct zr_queue *q, int64_t no, char *to)
{
    char root[ZS_PATH];
    if (!zs_path(to, "%s/%s/%d/%020lld", zs_queue_root(st, q, root), q->topic, q->id, (long long)(no * st->conf.queue_file_size))) to[0] = 0;
}

/* ---- descriptors ------------------------------------------------------------------------------------------------------- */

zr_status zs_qfiles_init(struct zr_inst *st)
{
    struct zs_qfiles *f = &st->files;
    f->max = (uint64_t)st->conf.max_open_queue_files;
    f->n_buckets = 64;
    while (f->n_buckets < f->max) f->n_buckets *= 2;
    f->buckets = calloc(f->n_buckets, sizeof *f->buckets);
    return f->buckets ? ZR_OK : ZR_ENOMEM;
}

static struct zs_qfile **bucket_of(struct zs_qfiles *f, const struct zr_queue *q, int64_t no)
{
    uint64_t h = (q->serial * 0x9E3779B97F4A7C15ull + (uint64_t)no) * 0xD6E8FEB86659FD93ull;
    return &f->buckets[(h >> 32) & (f->n_buckets - 1)];
}

static void lru_out(struct zs_qfiles *f, struct zs_qfile *x)
{
    if (x->older) x->older->newer = x->newer;
    else f->oldest = x->newer;
    if (x->newer) x->newer->older = x->older;
    else f->newest = x->older;
}

static void lru_in(struct zs_qfiles *f, struct zs_qfile *x)
{
    x->newer = NULL;
    x->older = f->newest;
    if (f->newest) f->newest->newer = x;
    else f->oldest = x;
    f->newest = x;
}

static struct zs_qfile *cache_find(struct zs_qfiles *f, const struct zr_queue *q, int64_t no)
{
    for (struct zs_qfile *x = *bucket_of(f, q, no); x; x = x->hash_next)
        if (x->q == q && x->no == no) return x;
    return NULL;
}

static void cache_remove(struct zr_inst *st, struct zs_qfile *x)
{
    struct zs_qfiles *f = &st->files;
    struct zs_qfile **p = bucket_of(f, x->q, x->no);
    while (*p != x) p = &(*p)->hash_next;
    *p = x->hash_next;
    lru_out(f, x);
    f->n--;
    st->io->close(st->io->ctx, x->fd);
    free(x);
}

static void cache_trim(struct zr_inst *st)
{
    struct zs_qfiles *f = &st->files;
    for (struct zs_qfile *x = f->oldest, *next; x && f->n > f->max; x = next) {
        next = x->newer;
        if (x->refs == 0) cache_remove(st, x);
    }
}

void zs_qfile_let(struct zr_inst *st, struct zs_qfile *x)
{
    pthread_mutex_lock(&st->files.lock);
    x->refs--;
    if (st->files.n > st->files.max) cache_trim(st);
    pthread_mutex_unlock(&st->files.lock);
}

/* Takes over fd unless the file is there already. NULL: no memory (fd is closed). */
struct zs_qfile *zs_qfile_keep(struct zr_inst *st, struct zr_queue *q, int64_t no, int32_t fd)
{
    struct zs_qfiles *f = &st->files;
    struct zs_qfile *x = calloc(1, sizeof *x), *there;
    pthread_mutex_lock(&f->lock);
    there = cache_find(f, q, no);
    if (!there && x) {
        *x = (struct zs_qfile){ .q = q, .no = no, .fd = fd, .refs = 1 };
        struct zs_qfile **p = bucket_of(f, q, no);
        x->hash_next = *p;
        *p = x;
        lru_in(f, x);
        f->n++;
        cache_trim(st);
    } else if (there) {
        there->refs++;
    }
    pthread_mutex_unlock(&f->lock);
    if (!there && x) return x;
    st->io->close(st->io->ctx, fd);
    free(x);
    return there;
}

struct zs_qfile *zs_qfile_hold(struct zr_inst *st, struct zr_queue *q, int64_t no)
{
    struct zs_qfiles *f = &st->files;
    pthread_mutex_lock(&f->lock);
    struct zs_qfile *x = cache_find(f, q, no);
    if (x) {
        x->refs++;
        if (x != f->newest) {
            lru_out(f, x);
            lru_in(f, x);
        }
    }
    pthread_mutex_unlock(&f->lock);
    return x;
}

void zs_qfile_forget(struct zr_inst *st, struct zr_queue *q)
{
    pthread_mutex_lock(&st->files.lock);
    for (int64_t no = q->first_file; no != ZS_NONE && no <= q->last_file; no++) {
        struct zs_qfile *x = cache_find(&st->files, q, no);
        if (x && x->refs == 0) cache_remove(st, x);
    }
    pthread_mutex_unlock(&st->files.lock);
}

void zs_qfile_shut(struct zr_inst *st, struct zr_queue *q, int64_t no)
{
    pthread_mutex_lock(&st->files.lock);
    struct zs_qfile *x = cache_find(&st->files, q, no);
    if (x && x->refs == 0) cache_remove(st, x);
    pthread_mutex_unlock(&st->files.lock);
}

void zs_qfiles_free(struct zr_inst *st)
{
    while (st->files.oldest) cache_remove(st, st->files.oldest);
    free(st->files.buckets);
    st->files.buckets = NULL;
}

/* ---- making ------------------------------------------------------------------------------------------------------------ */

static int64_t make_folder(struct zr_inst *st, struct zr_queue *q)
{
    char path[ZS_PATH], buf[ZS_PATH];
    const char *root = zs_queue_root(st, q, buf);
    int64_t r = root == buf ? st->io->mkdir(st->io->ctx, root, 0755) : 0;
    if (r < 0 && r != -EEXIST) return r;
    if (!zs_path(path, "%s/%s", root, q->topic)) return -ENAMETOOLONG;
    r = st->io->mkdir(st->io->ctx, path, 0755);
    if (r < 0 && r != -EEXIST) return r;
    zs_queue_path(st, q, path);
    r = st->io->mkdir(st->io->ctx, path, 0755);
    return r == -EEXIST ? 0 : r;
}

static int64_t write_filler(struct zr_inst *st, int32_t fd, int64_t n)
{
    uint8_t raw[128 * ZS_ENTRY];
    struct zs_entry e = { .phys = 0, .size = ZS_FILLER, .tags = 0 };
    for (uint32_t i = 0; i < 128; i++) zs_entry_store(raw + i * ZS_ENTRY, &e);
    for (int64_t at = 0; at < n;) {
        int64_t k = n - at < 128 ? n - at : 128;
        int64_t r = zl_io_write_all(st->io, fd, raw, (uint64_t)k * ZS_ENTRY, at * ZS_ENTRY);
        if (r < 0) return r;
        at += k;
    }
    return 0;
}

/* Opens file no of the queue for the entry at offset, in full size; makes it if it is not there. A descriptor or -errno. */
static int64_t open_or_make(struct zr_inst *st, struct zr_queue *q, int64_t no, int64_t offset)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    const uint32_t flags = ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE;
    zs_qfile_path(st, q, no, path);
    int64_t fd = st->io->open(st->io->ctx, path, flags, 0644);
    if (fd == -ENOENT) {
        int64_t r = make_folder(st, q);
        if (r < 0) return r;
        fd = st->io->open(st->io->ctx, path, flags, 0644);
    }
    if (fd < 0) return fd;
    int64_t r = st->io->fstat(st->io->ctx, (int32_t)fd, &stat);
    if (r >= 0 && stat.size > 0 && q->first_file == ZS_NONE) { /* of a topic of that name whose files could not be deleted */
        r = st->io->ftruncate(st->io->ctx, (int32_t)fd, 0);
        stat.size = 0;
    }
    if (r >= 0 && stat.size < (uint64_t)st->conf.queue_file_size) {
        r = st->io->ftruncate(st->io->ctx, (int32_t)fd, st->conf.queue_file_size);
        int64_t filler = atomic_load(&q->min) - no * per_file(st); /* the queue begins within this file */
        if (filler > offset % per_file(st)) filler = offset % per_file(st);
        if (r >= 0 && stat.size == 0 && q->first_file == ZS_NONE && filler > 0) r = write_filler(st, (int32_t)fd, filler);
        atomic_store(&q->name_unsynced, 1);
    }
    if (r < 0) {
        st->io->close(st->io->ctx, (int32_t)fd);
        return r;
    }
    if (q->first_file == ZS_NONE || no < q->first_file) q->first_file = no;
    if (no > q->last_file) q->last_file = no;
    return fd;
}

/* A file of the wrong length is given the right one; the entries that are lost by it, also the one that the cut went through, are
 * zero then, and healed when read. */
static void mend_length(struct zr_inst *st, const char *path, int32_t fd)
{
    struct zr_io_stat stat;
    if (st->io->fstat(st->io->ctx, fd, &stat) < 0 || stat.size >= (uint64_t)st->conf.queue_file_size) return;
    int64_t whole = (int64_t)(stat.size / ZS_ENTRY * ZS_ENTRY), r = st->io->ftruncate(st->io->ctx, fd, whole);
    if (r >= 0) r = st->io->ftruncate(st->io->ctx, fd, st->conf.queue_file_size);
    zs_log(st, ZR_LOG_WARN, "%s had %llu bytes instead of %lld: %s", path, (unsigned long long)stat.size,
           (long long)st->conf.queue_file_size, r < 0 ? zs_errno_text(r) : "given its full length");
}

/* ---- reading and writing -------------------------------------------------------------------------------------------------- */

int64_t zs_qfile_read(struct zr_inst *st, struct zr_queue *q, int64_t offset, uint32_t n, uint8_t *to)
{
    int64_t no = offset / per_file(st), in = offset % per_file(st);
    struct zs_qfile *x = zs_qfile_hold(st, q, no);
    if (!x) {
        char path[ZS_PATH];
        zs_qfile_path(st, q, no, path);
        int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
        if (fd < 0) return fd == -ENOENT ? 0 : fd;
        mend_length(st, path, (int32_t)fd);
        st->io->advise(st->io->ctx, (int32_t)fd, NULL, 0, 0, ZR_IO_ADVISE_RANDOM); /* no readahead of 128 KiB for one entry */
        x = zs_qfile_keep(st, q, no, (int32_t)fd);
        if (!x) return -ENOMEM;
    }
    if (n > per_file(st) - in) n = (uint32_t)(per_file(st) - in);
    uint64_t want = (uint64_t)n * ZS_ENTRY, have = 0;
    int64_t r = 0;
    while (have < want) {
        r = st->io->pread(st->io->ctx, x->fd, to + have, want - have, in * ZS_ENTRY + (int64_t)have);
        if (r <= 0) break;
        have += (uint64_t)r;
    }
    zs_qfile_let(st, x);
    return r < 0 ? r : (int64_t)(have / ZS_ENTRY);
}

int64_t zs_qfile_write(struct zr_inst *st, struct zr_queue *q, int64_t offset, uint32_t n, const uint8_t *from)
{
    while (n) {
        int64_t no = offset / per_file(st), in = offset % per_file(st);
        uint32_t k = n < per_file(st) - in ? n : (uint32_t)(per_file(st) - in);
        struct zs_qfile *x = zs_qfile_hold(st, q, no);
        if (!x) {
            int64_t fd = open_or_make(st, q, no, offset);
            if (fd < 0) return fd;
            x = zs_qfile_keep(st, q, no, (int32_t)fd);
            if (!x) return -ENOMEM;
        }
        int64_t r = zl_io_write_all(st->io, x->fd, from, (uint64_t)k * ZS_ENTRY, in * ZS_ENTRY);
        zs_qfile_let(st, x);
        if (r < 0) return r;
        offset += k;
        from += (uint64_t)k * ZS_ENTRY;
        n -= k;
    }
    return 0;
}

static int64_t sync_names(struct zr_inst *st, struct zr_queue *q)
{
    char path[ZS_PATH], buf[ZS_PATH];
    const char *root = zs_queue_root(st, q, buf);
    atomic_store(&q->name_unsynced, 0); /* first: a file made meanwhile marks it again */
    zs_queue_path(st, q, path);
    int64_t r = st->io->sync_dir(st->io->ctx, path);
    if (r >= 0 && zs_path(path, "%s/%s", root, q->topic)) r = st->io->sync_dir(st->io->ctx, path);
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, root);
    if (r >= 0 && root == buf) r = st->io->sync_dir(st->io->ctx, st->own_dir);
    if (r < 0) {
        atomic_store(&q->name_unsynced, 1);
        zs_queues_unsure(st, r);
    }
    return r;
}

int64_t zs_qfile_sync(struct zr_inst *st, struct zr_queue *q, int64_t from, int64_t to)
{
    char path[ZS_PATH];
    if (atomic_load(&q->name_unsynced)) {
        int64_t r = sync_names(st, q);
        if (r < 0) return r;
    }
    for (int64_t no = from / per_file(st); no * per_file(st) < to; no++) {
        struct zs_qfile *x = zs_qfile_hold(st, q, no);
        if (!x) {
            zs_qfile_path(st, q, no, path);
            int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
            if (fd == -ENOENT) continue; /* retention took it */
            if (fd < 0) return fd;
            x = zs_qfile_keep(st, q, no, (int32_t)fd);
            if (!x) return -ENOMEM;
        }
        int64_t r = st->io->fdatasync(st->io->ctx, x->fd);
        zs_qfile_let(st, x);
        if (r < 0) zs_queues_unsure(st, r);
        if (r < 0) return r;
    }
    return 0;
}

/* ---- cutting and deleting --------------------------------------------------------------------------------------------------- */

static int64_t cut_file(struct zr_inst *st, struct zr_queue *q, int64_t no, int64_t at)
{
    char path[ZS_PATH];
    int64_t nonzero;
    zs_qfile_path(st, q, no, path);
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
    if (fd == -ENOENT) return 0;
    if (fd < 0) return fd;
    int64_t r = zs_is_zero(st, (int32_t)fd, at, st->conf.queue_file_size - at, &nonzero);
    if (r == 0) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, at);
    if (r >= 0) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, st->conf.queue_file_size);
    st->io->close(st->io->ctx, (int32_t)fd);
    return r < 0 ? r : 0;
}

int64_t zs_qfile_cut(struct zr_inst *st, struct zr_queue *q, int64_t offset)
{
    char path[ZS_PATH];
    int64_t no = offset / per_file(st), in = offset % per_file(st);
    zs_qfile_forget(st, q);
    while (q->last_file != ZS_NONE && (q->last_file > no || (q->last_file == no && in == 0))) {
        zs_qfile_path(st, q, q->last_file, path);
        int64_t r = st->io->unlink(st->io->ctx, path);
        if (r < 0 && r != -ENOENT) return r;
        if (q->last_file == q->first_file) q->first_file = q->last_file = ZS_NONE;
        else q->last_file--;
    }
    return q->last_file == no ? cut_file(st, q, no, in * ZS_ENTRY) : 0;
}

int64_t zs_qfile_drop_first(struct zr_inst *st, struct zr_queue *q)
{
    char path[ZS_PATH];
    zs_qfile_forget(st, q);
    zs_qfile_path(st, q, q->first_file, path);
    int64_t r = st->io->unlink(st->io->ctx, path);
    if (r < 0 && r != -ENOENT) return r;
    q->first_file++;
    return 0;
}

int64_t zs_qfiles_remove(struct zr_inst *st, struct zr_queue *q)
{
    char path[ZS_PATH];
    int64_t worst = 0;
    zs_qfile_forget(st, q);
    zs_ext_remove(st, q);
    for (int64_t no = q->first_file; no != ZS_NONE && no <= q->last_file; no++) {
        zs_qfile_path(st, q, no, path);
        int64_t r = st->io->unlink(st->io->ctx, path);
        if (r < 0 && r != -ENOENT) worst = r;
    }
    q->first_file = q->last_file = ZS_NONE;
    zs_queue_path(st, q, path);
    st->io->rmdir(st->io->ctx, path);
    char root[ZS_PATH];
    if (zs_path(path, "%s/%s", zs_queue_root(st, q, root), q->topic)) st->io->rmdir(st->io->ctx, path); /* goes with its last queue */
    return worst;
}
