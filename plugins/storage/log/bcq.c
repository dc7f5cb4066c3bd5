/* SPDX-License-Identifier: Apache-2.0 */
/* bcq.c - batch consume queues: topics with queue.type=BatchCQ, where one record may be a batch that takes many queue offsets.
 *
 * In memory and in <root>/zarya/batch/<topic>/<queue> such a queue is like every other: one entry of 20 bytes for each offset;
 * those of a batch name the same record. So offsets, bounds, times, healing and recovery need nothing of their own.
 * RocketMQ keeps <root>/batchconsumequeue/<topic>/<queue>/<20 digits> instead, big-endian, one entry for each record:
 *     0 i64 physical | 8 i32 size | 12 i64 tags code | 20 i64 store time | 28 i64 first offset | 36 i16 messages | 38 i32 -1 | 42 i32 0
 * What stays true:
 *   1. The folder batchconsumequeue/<topic> is there before the first message of the topic is.
 *   2. Before a snapshot or a checkpoint is written, these files have an entry for every record whose entries are on disk;
 *      behind their last entry there are zeroes, and no entry points behind the end of the log.
 *   3. They are written, never read but for where they end: what another broker added to the log since is read from the log.
 *
 * LOCKING: the list of topics under table_lock; the files under drain_lock. */
#include "bcq.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define ENTRY 46
#define FILE_SIZE (300000ll * ENTRY) /* RocketMQ's, where no file says another */
#define CHUNK 64u
#define BATCH 4096u /* entries in one write, with one sync */

struct zs_bcq_files { /* of one queue */
    int64_t exported; /* offsets below are in the files */
    int64_t at;       /* where the next entry goes, in bytes of the sequence */
    int64_t first, size;
    int64_t last_phys;
};

uint32_t zs_bcq_own_root(struct zr_inst *st, char *to) { return zs_path(to, "%s/batch", st->own_dir); }

static uint32_t root_of(struct zr_inst *st, char *to) { return zs_path(to, "%s/batchconsumequeue", st->conf.root); }

const char *zs_queue_root(struct zr_inst *st, const struct zr_queue *q, char *buf)
{
    if (!atomic_load_explicit(&q->batch, memory_order_relaxed)) return st->queue_dir;
    return zs_bcq_own_root(st, buf) ? buf : st->queue_dir;
}

/* ---- the topics -------------------------------------------------------------------------------------------------------- */

uint32_t zs_bcq_is(struct zr_inst *st, struct zr_str topic)
{
    const struct zl_buf *b = &st->batch_topics;
    for (uint64_t at = 0; at < b->len; at += strlen((const char *)b->ptr + at) + 1)
        if (zl_eq(zl_str((const char *)b->ptr + at), topic)) return 1;
    return 0;
}

uint32_t zs_bcq_any(struct zr_inst *st) { return st->batch_topics.len > 0; }

static int32_t topic_found(void *ctx, const char *name)
{
    struct zr_inst *st = ctx;
    if (zs_queue_name_ok(zl_str(name)) == ZR_OK) zl_buf_add(&st->batch_topics, name, strlen(name) + 1);
    return st->batch_topics.failed;
}

zr_status zs_bcq_load(struct zr_inst *st)
{
    char path[ZS_PATH];
    zl_buf_init(&st->batch_topics, ZS_BATCH_TOPICS * 256ull);
    if (!root_of(st, path)) return ZR_EINVAL;
    int64_t r = st->io->list(st->io->ctx, path, topic_found, st);
    if (r == -ENOENT) return ZR_OK;
    if (r > 0) return ZR_ENOMEM;
    return r < 0 ? zs_raise(st, zs_status_of(r), r, "%s cannot be read: %s", path, zs_errno_text(r)) : ZR_OK;
}

void zs_bcq_free(struct zr_inst *st) { zl_buf_free(&st->batch_topics); }

static int64_t folder(struct zr_inst *st, const char *path)
{
    int64_t r = st->io->mkdir(st->io->ctx, path, 0755);
    return r == -EEXIST ? 0 : r;
}

/* Does it have messages in queues of the other kind? Then it stays what it is. Under table_lock. */
static uint32_t has_simple(struct zr_inst *st, struct zr_str topic)
{
    for (struct zr_queue *q = zs_topic_queues(st, topic); q; q = q->topic_next)
        if (!atomic_load(&q->batch) && (atomic_load(&q->next) > 0 || q->first_file != ZS_NONE)) return 1;
    return 0;
}

zr_status zs_bcq_mark(struct zr_inst *st, struct zr_str topic)
{
    char root[ZS_PATH], path[ZS_PATH], name[256];
    pthread_rwlock_rdlock(&st->table_lock);
    uint32_t simple = has_simple(st, topic);
    pthread_rwlock_unlock(&st->table_lock);
    if (simple) return ZR_OK;
    if (topic.len >= sizeof name || !root_of(st, root) || !zs_path(path, "%s/%.*s", root, (int)topic.len, topic.ptr)) return ZR_EINVAL;
    int64_t r = folder(st, root);
    if (r >= 0) r = folder(st, path);
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, root);
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, st->conf.root);
    if (r < 0) return zs_raise(st, zs_status_of(r), r, "%s cannot be made: %s", path, zs_errno_text(r));
    memcpy(name, topic.ptr, topic.len);
    name[topic.len] = 0;
    pthread_rwlock_wrlock(&st->table_lock);
    if (!zs_bcq_is(st, topic)) zl_buf_add(&st->batch_topics, name, topic.len + 1);
    for (struct zr_queue *q = zs_topic_queues(st, topic); q; q = q->topic_next)
        if (atomic_load(&q->next) == 0 && q->first_file == ZS_NONE) atomic_store(&q->batch, 1);
    pthread_rwlock_unlock(&st->table_lock);
    return ZR_OK;
}

/* ---- RocketMQ's files ------------------------------------------------------------------------------------------------------ */

static uint32_t file_path(struct zr_inst *st, const struct zr_queue *q, int64_t base, char *to)
{
    char root[ZS_PATH];
    return root_of(st, root) && zs_path(to, "%s/%s/%d/%020lld", root, q->topic, q->id, (long long)base);
}

struct bases {
    int64_t first, last;
    uint32_t n;
};

static int32_t base_found(void *ctx, const char *name)
{
    struct bases *b = ctx;
    int64_t base;
    if (!zs_name_offset(name, &base)) return 0;
    if (b->n == 0 || base < b->first) b->first = base;
    if (b->n == 0 || base > b->last) b->last = base;
    b->n++;
    return 0;
}

/* Reads the entry at a position of the sequence. 1: a valid one; 0: none; -errno. */
static int64_t entry_read(struct zr_inst *st, struct zr_queue *q, const struct zs_bcq_files *f, int64_t at, uint8_t *e)
{
    char path[ZS_PATH];
    if (at < f->first || !file_path(st, q, at / f->size * f->size, path)) return 0;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ, 0);
    if (fd < 0) return fd == -ENOENT ? 0 : fd;
    int64_t r = zl_io_read_all(st->io, (int32_t)fd, e, ENTRY, at % f->size);
    st->io->close(st->io->ctx, (int32_t)fd);
    if (r < 0) return r == -EIO ? r : 0;
    return (int64_t)zl_load64(e) >= 0 && (int32_t)zl_load32(e + 8) > 0 && (int64_t)zl_load64(e + 28) >= 0 && (int16_t)zl_load16(e + 36) > 0;
}

/* The first position of the file at base that has no entry, by halving: entries come first, zeroes last. */
static int64_t end_in(struct zr_inst *st, struct zr_queue *q, const struct zs_bcq_files *f, int64_t base)
{
    uint8_t e[ENTRY];
    int64_t lo = 0, hi = f->size / ENTRY;
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2;
        if (entry_read(st, q, f, base + mid * ENTRY, e) > 0) lo = mid + 1;
        else hi = mid;
    }
    return base + lo * ENTRY;
}

static int64_t write_at(struct zr_inst *st, struct zr_queue *q, struct zs_bcq_files *f, int64_t at, const uint8_t *bytes, uint64_t n)
{
    char path[ZS_PATH], dir[ZS_PATH], root[ZS_PATH];
    struct zr_io_stat stat = { .size = 0 };
    if (!file_path(st, q, at / f->size * f->size, path)) return -ENAMETOOLONG;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0644), r = fd;
    if (fd == -ENOENT && root_of(st, root) && zs_path(dir, "%s/%s", root, q->topic)) {
        r = folder(st, dir);
        if (r >= 0 && zs_path(dir, "%s/%s/%d", root, q->topic, q->id)) r = folder(st, dir);
        if (r >= 0) fd = r = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0644);
    }
    if (fd < 0) return r < 0 ? r : fd;
    r = st->io->fstat(st->io->ctx, (int32_t)fd, &stat);
    if (r >= 0 && stat.size < (uint64_t)f->size) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, f->size);
    if (r >= 0) r = zl_io_write_all(st->io, (int32_t)fd, bytes, n, at % f->size);
    int64_t synced = r < 0 ? 0 : st->io->fdatasync(st->io->ctx, (int32_t)fd);
    st->io->close(st->io->ctx, (int32_t)fd);
    if (r >= 0 && synced >= 0 && stat.size == 0 && root_of(st, root) && zs_path(dir, "%s/%s/%d", root, q->topic, q->id))
        synced = st->io->sync_dir(st->io->ctx, dir);
    if (synced < 0) zs_queues_unsure(st, synced);
    return r < 0 ? r : synced < 0 ? synced : 0;
}

/* Where the files end; entries that point behind the end of the log are made zero. 0 or -errno. */
static int64_t files_find(struct zr_inst *st, struct zr_queue *q, struct zs_bcq_files *f)
{
    char root[ZS_PATH], path[ZS_PATH];
    struct bases b = { .n = 0 };
    struct zr_io_stat stat;
    uint8_t e[ENTRY];
    static const uint8_t zeros[ENTRY];
    *f = (struct zs_bcq_files){ .size = FILE_SIZE, .last_phys = -1, .exported = atomic_load(&q->min) };
    if (!root_of(st, root) || !zs_path(path, "%s/%s/%d", root, q->topic, q->id)) return -ENAMETOOLONG;
    int64_t r = st->io->list(st->io->ctx, path, base_found, &b);
    if (r == -ENOENT || (r >= 0 && b.n == 0)) return 0;
    if (r < 0) return r;
    for (uint32_t i = 0; i < 2; i++) /* the newest may have no size yet, and then the oldest tells it */
        if (zs_path(path, "%s/%s/%d/%020lld", root, q->topic, q->id, (long long)(i ? b.last : b.first)) && st->io->stat(st->io->ctx, path, &stat) >= 0 &&
            stat.size > 0 && stat.size % ENTRY == 0 && b.last % (int64_t)stat.size == 0)
            f->size = (int64_t)stat.size;
    f->first = b.first;
    f->at = end_in(st, q, f, b.last);
    if (f->at == b.last && b.last - f->size >= b.first) f->at = end_in(st, q, f, b.last - f->size);
    while (f->at > f->first && (r = entry_read(st, q, f, f->at - ENTRY, e)) > 0) {
        int64_t phys = (int64_t)zl_load64(e), end = phys + (int32_t)zl_load32(e + 8);
        if (end <= atomic_load(&st->end)) {
            f->last_phys = phys;
            f->exported = (int64_t)zl_load64(e + 28) + zl_load16(e + 36);
            return 0;
        }
        r = write_at(st, q, f, f->at - ENTRY, zeros, ENTRY);
        if (r < 0) return r;
        f->at -= ENTRY;
    }
    return r < 0 ? r : 0;
}

static void files_retire(struct zr_inst *st, struct zr_queue *q, struct zs_bcq_files *f)
{
    uint8_t e[ENTRY];
    char path[ZS_PATH];
    while (f->at - f->first > f->size && entry_read(st, q, f, f->first + f->size, e) > 0 && (int64_t)zl_load64(e) < atomic_load(&st->begin)) {
        if (!file_path(st, q, f->first, path) || st->io->unlink(st->io->ctx, path) < 0) return;
        f->first += f->size;
    }
}

/* Entries of one file that wait to be written at f->at, and where the queue is once they are. */
struct batch {
    uint8_t *at;
    uint32_t n;
    int64_t exported, last_phys;
};

static int64_t batch_write(struct zr_inst *st, struct zr_queue *q, struct zs_bcq_files *f, struct batch *b)
{
    int64_t r = b->n ? write_at(st, q, f, f->at, b->at, (uint64_t)b->n * ENTRY) : 0;
    if (r < 0) return r;
    f->at += (int64_t)b->n * ENTRY;
    f->last_phys = b->last_phys;
    f->exported = b->exported;
    b->n = 0;
    return 0;
}

/* Adds the record of this entry to the batch. The offsets it takes, or -errno; 0: it is no record any more. */
static int64_t record_add(struct zr_inst *st, struct zr_queue *q, struct batch *b, const struct zs_entry *from)
{
    struct zs_scan s;
    struct zl_record rec;
    uint8_t *e = b->at + (uint64_t)b->n * ENTRY;
    zs_scan_open(&s, st, from->phys, INT64_MAX, 0);
    int what = zs_scan_next(&s, &rec);
    int64_t r = what == ZS_SCAN_RECORD && rec.physical_offset == from->phys ? (int64_t)zl_record_offsets(&rec) : 0;
    if (r > 0 && rec.queue_offset + r > q->persisted) r = -EAGAIN; /* the rest of its entries comes with the next drain */
    if (r > 0) {
        zl_store64(e, (uint64_t)from->phys);
        zl_store32(e + 8, (uint32_t)from->size);
        zl_store64(e + 12, (uint64_t)from->tags);
        zl_store64(e + 20, (uint64_t)rec.store_ms);
        zl_store64(e + 28, (uint64_t)rec.queue_offset);
        zl_store16(e + 36, (uint16_t)r);
        zl_store32(e + 38, 0xFFFFFFFFu);
        zl_store32(e + 42, 0);
        b->n++;
        b->last_phys = from->phys;
        b->exported = rec.queue_offset + r;
    }
    zs_scan_close(&s);
    return r;
}

/* Fills the batch with what one write can bring to the file at f->at. 1: there is more; 0: that is all; -errno. */
static int64_t batch_fill(struct zr_inst *st, struct zr_queue *q, const struct zs_bcq_files *f, struct batch *b)
{
    uint8_t raw[CHUNK * ZS_ENTRY];
    int64_t room = (f->size - f->at % f->size) / ENTRY, cap = room < (int64_t)BATCH ? room : (int64_t)BATCH;
    while (b->exported < q->persisted) {
        int64_t left = q->persisted - b->exported, from = b->exported;
        int64_t n = zs_qfile_read(st, q, from, left < (int64_t)CHUNK ? (uint32_t)left : CHUNK, raw);
        if (n <= 0) return n; /* a lost entry: reading it makes it anew */
        for (int64_t i = 0; i < n; i++) {
            struct zs_entry e;
            zs_entry_load(raw + i * ZS_ENTRY, &e);
            if (from + i < b->exported) continue;
            if (b->n == cap) return 1;
            int64_t r = zs_entry_real(&e) && e.phys > b->last_phys ? record_add(st, q, b, &e) : 0;
            if (r < 0) return r == -EAGAIN ? 0 : r;
            if (r == 0) b->exported = from + i + 1;
        }
    }
    return 0;
}

/* One write's worth. 1: there is more; 0: the files are up to what is persisted; -errno. Under drain_lock. */
static int64_t export_some(struct zr_inst *st, struct zr_queue *q, uint8_t *buf)
{
    if (!q->bcq) {
        q->bcq = calloc(1, sizeof *q->bcq);
        int64_t r = q->bcq ? files_find(st, q, q->bcq) : -ENOMEM;
        if (r < 0) {
            free(q->bcq);
            q->bcq = NULL;
            return r;
        }
    }
    struct zs_bcq_files *f = q->bcq;
    if (f->exported < atomic_load(&q->min)) f->exported = atomic_load(&q->min);
    struct batch b = { .at = buf, .exported = f->exported, .last_phys = f->last_phys };
    int64_t more = batch_fill(st, q, f, &b), r = batch_write(st, q, f, &b);
    if (r >= 0 && more == 0) files_retire(st, q, f);
    return r < 0 ? r : more;
}

int64_t zs_bcq_export(struct zr_inst *st)
{
    uint64_t n;
    int64_t worst = 0;
    if (!zs_bcq_any(st)) return 0;
    struct zr_queue **list = zs_queues_list(st, &n);
    uint8_t *buf = malloc((uint64_t)BATCH * ENTRY);
    if (!list || !buf) worst = -ENOMEM;
    for (uint64_t i = 0; worst != -ENOMEM && i < n; i++) {
        int64_t r = atomic_load(&list[i]->batch);
        while (r > 0) { /* others have their turn between two writes */
            pthread_mutex_lock(&st->drain_lock);
            r = atomic_load(&list[i]->dead) ? 0 : export_some(st, list[i], buf);
            pthread_mutex_unlock(&st->drain_lock);
        }
        if (r < 0) worst = r;
    }
    free(buf);
    free(list);
    return worst;
}

/* ---- removing ---------------------------------------------------------------------------------------------------------------- */

static int32_t name_kept(void *ctx, const char *name)
{
    struct zl_buf *b = ctx;
    zl_buf_add(b, name, strlen(name) + 1);
    return b->failed;
}

static void tree_delete(struct zr_inst *st, const char *path, uint32_t depth)
{
    struct zl_buf names;
    char below[ZS_PATH];
    zl_buf_init(&names, 1u << 20);
    if (st->io->list(st->io->ctx, path, name_kept, &names) >= 0)
        for (uint64_t at = 0; at < names.len; at += strlen((char *)names.ptr + at) + 1) {
            if (!zs_path(below, "%s/%s", path, (char *)names.ptr + at)) continue;
            if (st->io->unlink(st->io->ctx, below) < 0 && depth > 0) tree_delete(st, below, depth - 1);
        }
    st->io->rmdir(st->io->ctx, path);
    zl_buf_free(&names);
}

void zs_bcq_remove(struct zr_inst *st, struct zr_str topic)
{
    char root[ZS_PATH], path[ZS_PATH];
    pthread_rwlock_wrlock(&st->table_lock);
    struct zl_buf *b = &st->batch_topics;
    uint32_t was = 0;
    for (uint64_t at = 0; at < b->len && !was; at += strlen((char *)b->ptr + at) + 1)
        if (zl_eq(zl_str((char *)b->ptr + at), topic)) {
            memmove(b->ptr + at, b->ptr + at + topic.len + 1, b->len - at - topic.len - 1);
            b->len -= topic.len + 1;
            was = 1;
            break;
        }
    pthread_rwlock_unlock(&st->table_lock);
    if (!was) return;
    if (root_of(st, root) && zs_path(path, "%s/%.*s", root, (int)topic.len, topic.ptr)) tree_delete(st, path, 2);
    if (zs_bcq_own_root(st, root) && zs_path(path, "%s/%.*s", root, (int)topic.len, topic.ptr)) tree_delete(st, path, 2);
}
