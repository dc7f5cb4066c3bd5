/* SPDX-License-Identifier: Apache-2.0 */
/* index.c - the hash index by key: RocketMQ's index files, written by a thread of its own that follows the log.
 *
 * File <index_dir>/<yyyyMMddHHmmssSSS, local time of its making>, big-endian:
 *     0 i64 beginTimestamp | 8 i64 endTimestamp | 16 i64 beginPhyOffset | 24 i64 endPhyOffset | 32 i32 slots used
 *    36 i32 next entry number (from 1) | 40 i32 slot[slots]: number of the newest entry of the chain, 0: none
 *    40 + 4 * slots + 20 * n: entry n: i32 |hash of topic#key| | i64 physical | i32 seconds since beginTimestamp | i32 previous
 *
 * The slots of the newest file are in memory, its newest entries too; entries are written in blocks, the changed pages of the
 * slots and the header some seconds later, at a roll and at a stop. What stays true:
 *   1. Every record below pos that has keys is in the index; pos never moves before its entries are in the file or in memory.
 *   2. After a stop that was not clean nothing but the entries themselves is believed: they are read one after the other, an
 *      entry whose previous does not agree with what its chain must be ends the file, and slots and header are made anew.
 *      What the index then lacks is read from the log again. So no key is ever lost with the process.
 *   3. Nothing of this is on the way of a send. A query first lets the follower catch up.
 *
 * LOCKING: index.lock over everything here, also over reads and writes of index files; released between small batches. */
#include "zs_int.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define HEAD 40u
#define ENTRY 20u
#define BLOCK 2048u          /* entries in memory before they are written */
#define PAGE_SLOTS 1024u     /* slots in a 4 KiB page */
#define BATCH 256u           /* records for one hold of the lock */
#define LINGER_NS 100000000
#define FLUSH_NS 10000000000
#define CATCH_UP_NS 5000000000
#define STOP_BYTES (64ll << 20) /* a stop waits for no more than this to be indexed */

struct ifile {
    char name[20];
    int64_t begin_ms, end_ms, begin_phys, end_phys;
    int32_t slots_used, count; /* count: the next entry's number */
};

struct zs_index {
    pthread_mutex_t lock;
    pthread_cond_t cond, caught;
    struct ifile *files; /* in order of their names */
    uint64_t n, cap;
    _Atomic int64_t pos, last, full_ms;
    _Atomic uint32_t idle;
    uint32_t hurry, repair, broken;
    uint32_t n_put; /* of the record at last, when a key behind these could not be put: it is tried again from there */
    uint32_t reserved;
    /* the newest file, once it is written to */
    int32_t fd;
    uint32_t open;
    int32_t *slots;
    uint8_t *page_dirty;
    uint8_t *block;     /* entries [block_from, count) */
    int32_t block_from;
    uint32_t header_dirty;
    struct zl_buf key;
    int64_t slot_count, max_entries;
};

static int64_t file_size(const struct zs_index *ix) { return HEAD + 4 * ix->slot_count + (int64_t)ENTRY * ix->max_entries; }
static int64_t entry_off(const struct zs_index *ix, int64_t n) { return HEAD + 4 * ix->slot_count + (int64_t)ENTRY * n; }
static struct ifile *newest(struct zs_index *ix) { return ix->n ? &ix->files[ix->n - 1] : NULL; }

int64_t zs_index_pos(struct zr_inst *st) { return st->index ? atomic_load(&st->index->pos) : 0; }
int64_t zs_index_last(struct zr_inst *st) { return st->index ? atomic_load(&st->index->last) : -1; }
int64_t zs_index_ms(struct zr_inst *st) { return st->index ? atomic_load(&st->index->full_ms) : st->checkpoint.index_ms; }

static int32_t key_hash(struct zs_index *ix, struct zr_str topic, struct zr_str key)
{
    zl_buf_clear(&ix->key);
    zl_buf_str(&ix->key, topic);
    zl_buf_u8(&ix->key, '#');
    zl_buf_str(&ix->key, key);
    int32_t h = zl_java_hash(zl_buf_as_str(&ix->key));
    return h == INT32_MIN ? 0 : (h < 0 ? -h : h);
}

/* ---- files --------------------------------------------------------------------------------------------------------------- */

static uint32_t is_name(const char *name)
{
    uint32_t n = 0;
    while (name[n] >= '0' && name[n] <= '9') n++;
    return n == 17 && name[n] == 0;
}

static int by_name(const void *a, const void *b) { return strcmp(((const struct ifile *)a)->name, ((const struct ifile *)b)->name); }

static uint32_t file_add(struct zs_index *ix, const char *name)
{
    if (ix->n == ix->cap) {
        uint64_t cap = ix->cap ? ix->cap * 2 : 8;
        struct ifile *at = realloc(ix->files, cap * sizeof *at);
        if (!at) return 0;
        ix->files = at;
        ix->cap = cap;
    }
    struct ifile *f = &ix->files[ix->n++];
    memset(f, 0, sizeof *f);
    snprintf(f->name, sizeof f->name, "%s", name);
    f->count = 1;
    return 1;
}

static int32_t found_file(void *ctx, const char *name)
{
    struct zr_inst *st = ctx;
    return is_name(name) && !file_add(st->index, name);
}

static int64_t file_open(struct zr_inst *st, const struct ifile *f)
{
    char path[ZS_PATH];
    if (!zs_path(path, "%s/%s", st->index_dir, f->name)) return -ENAMETOOLONG;
    return st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
}

/* A value that no index can have is none. */
static int64_t sane(const uint8_t *at)
{
    int64_t v = (int64_t)zl_load64(at);
    return v < 0 || v > ZS_MAX_POSITION ? 0 : v;
}

static void header_load(struct ifile *f, const uint8_t *p, int64_t max_entries)
{
    f->begin_ms = sane(p);
    f->end_ms = sane(p + 8);
    f->begin_phys = sane(p + 16);
    f->end_phys = sane(p + 24);
    f->slots_used = (int32_t)zl_load32(p + 32);
    f->count = (int32_t)zl_load32(p + 36);
    if (f->count <= 0) f->count = 1;
    if (f->count > max_entries) f->count = (int32_t)max_entries;
}

static void header_store(const struct ifile *f, uint8_t *p)
{
    zl_store64(p, (uint64_t)f->begin_ms);
    zl_store64(p + 8, (uint64_t)f->end_ms);
    zl_store64(p + 16, (uint64_t)f->begin_phys);
    zl_store64(p + 24, (uint64_t)f->end_phys);
    zl_store32(p + 32, (uint32_t)f->slots_used);
    zl_store32(p + 36, (uint32_t)f->count);
}

/* Reads every file's header; files of another shape are left alone. */
static void headers_load(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    uint64_t kept = 0;
    for (uint64_t i = 0; i < ix->n; i++) {
        struct ifile f = ix->files[i];
        struct zr_io_stat stat = { .size = 0 };
        uint8_t head[HEAD];
        int64_t fd = file_open(st, &f), r = fd;
        if (fd >= 0) r = st->io->fstat(st->io->ctx, (int32_t)fd, &stat);
        if (r >= 0 && stat.size == (uint64_t)file_size(ix)) r = zl_io_read_all(st->io, (int32_t)fd, head, HEAD, 0);
        if (fd >= 0) st->io->close(st->io->ctx, (int32_t)fd);
        if (r < 0 || stat.size != (uint64_t)file_size(ix)) {
            zs_log(st, ZR_LOG_WARN, "index file %s/%s is not used: %s", st->index_dir, f.name,
                   r < 0 ? zs_errno_text(r) : "it has another size than the configuration gives");
            continue;
        }
        header_load(&f, head, ix->max_entries);
        ix->files[kept++] = f;
    }
    ix->n = kept;
}

/* ---- the newest file ------------------------------------------------------------------------------------------------------ */

static void current_close(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    if (ix->open) st->io->close(st->io->ctx, ix->fd);
    free(ix->slots);
    free(ix->page_dirty);
    ix->slots = NULL;
    ix->page_dirty = NULL;
    ix->open = 0;
}

static uint32_t slots_make(struct zs_index *ix)
{
    if (!ix->block) ix->block = malloc(BLOCK * ENTRY);
    free(ix->slots); /* of an opening that failed */
    free(ix->page_dirty);
    ix->slots = calloc((size_t)ix->slot_count, sizeof *ix->slots);
    ix->page_dirty = calloc((size_t)(ix->slot_count / PAGE_SLOTS + 1), 1);
    return ix->slots && ix->page_dirty && ix->block;
}

/* Reads the slots, stepping over holes. */
static int64_t slots_load(struct zr_inst *st, int32_t fd)
{
    struct zs_index *ix = st->index;
    uint8_t raw[65536];
    int64_t off = HEAD, end = HEAD + 4 * ix->slot_count;
    while (off < end) {
        if (ZR_HAS(struct zr_io_v1, st->io, seek_data) && st->io->seek_data) {
            int64_t at = st->io->seek_data(st->io->ctx, fd, off);
            if (at == -ENXIO || at >= end) break;
            if (at > off) off = HEAD + (at - HEAD) / 4 * 4;
        }
        uint64_t n = end - off < (int64_t)sizeof raw ? (uint64_t)(end - off) : sizeof raw;
        int64_t r = zl_io_read_all(st->io, fd, raw, n, off);
        if (r < 0) return r;
        for (uint64_t i = 0; i < n; i += 4) ix->slots[(off - HEAD + (int64_t)i) / 4] = (int32_t)zl_load32(raw + i);
        off += (int64_t)n;
    }
    return 0;
}

static void slot_set(struct zs_index *ix, int64_t slot, int32_t v)
{
    ix->slots[slot] = v;
    ix->page_dirty[slot / PAGE_SLOTS] = 1;
}

/* Reads entries one after the other as far as they agree with one another; makes slots and header anew from them. */
static int64_t entries_repair(struct zr_inst *st, struct ifile *f, int32_t fd)
{
    struct zs_index *ix = st->index;
    uint8_t raw[ENTRY * 1024];
    int64_t last = -1, end = atomic_load(&st->end);
    int32_t n = 1, last_from = 1;
    uint32_t going = 1;
    f->slots_used = 0;
    while (going && n < ix->max_entries) {
        int64_t k = ix->max_entries - n < 1024 ? ix->max_entries - n : 1024;
        int64_t r = zl_io_read_all(st->io, fd, raw, (uint64_t)k * ENTRY, entry_off(ix, n));
        if (r < 0) return r;
        for (int64_t i = 0; i < k && going; i++) {
            const uint8_t *e = raw + i * ENTRY;
            int32_t hash = (int32_t)zl_load32(e), diff = (int32_t)zl_load32(e + 12), prev = (int32_t)zl_load32(e + 16);
            int64_t phys = (int64_t)zl_load64(e + 4), slot = hash < 0 ? 0 : hash % ix->slot_count;
            going = hash >= 0 && diff >= 0 && phys >= last && phys >= 0 && phys < end && prev == ix->slots[slot] && (hash || phys || prev);
            if (!going) break;
            if (phys != last) last_from = n;
            if (prev == 0) f->slots_used++;
            last = phys;
            slot_set(ix, slot, n++);
        }
    }
    /* the last record may be there in part: it is taken out and read again. Its entries are the newest of their chains. */
    for (int32_t i = n - 1; i >= last_from && i >= 1; i--) {
        uint8_t e[ENTRY];
        int64_t r = zl_io_read_all(st->io, fd, e, ENTRY, entry_off(ix, i));
        if (r < 0) return r;
        int32_t prev = (int32_t)zl_load32(e + 16);
        slot_set(ix, (int32_t)zl_load32(e) % ix->slot_count, prev);
        if (prev == 0) f->slots_used--;
    }
    memset(ix->page_dirty, 1, (size_t)(ix->slot_count / PAGE_SLOTS + 1));
    f->count = last_from;
    return last;
}

static int64_t record_ms(struct zr_inst *st, int64_t phys)
{
    struct zl_record r;
    return zs_scan_one(st, phys, &r) ? r.store_ms : -1;
}

static int64_t entry_phys(struct zr_inst *st, int32_t fd, int32_t n)
{
    uint8_t e[ENTRY];
    if (zl_io_read_all(st->io, fd, e, ENTRY, entry_off(st->index, n)) < 0) return -1;
    return (int64_t)zl_load64(e + 4);
}

/* Opens the newest file for writing; repair: believes only its entries. 0 or -errno. */
static int64_t current_open(struct zr_inst *st, uint32_t repair)
{
    struct zs_index *ix = st->index;
    struct ifile *f = newest(ix);
    if (!slots_make(ix)) return -ENOMEM;
    int64_t fd = file_open(st, f);
    if (fd < 0) return fd;
    int64_t r;
    if (repair) {
        int64_t again = r = entries_repair(st, f, (int32_t)fd);
        if (again >= 0) atomic_store(&ix->pos, again);
        if (f->count > 1) { /* the header's times and offsets from the records themselves */
            int64_t first = entry_phys(st, (int32_t)fd, 1), last = entry_phys(st, (int32_t)fd, f->count - 1);
            int64_t begin_ms = record_ms(st, first), end_ms = record_ms(st, last);
            if (begin_ms >= 0 && begin_ms < ZS_MAX_POSITION) f->begin_ms = begin_ms;
            if (end_ms >= 0 && end_ms < ZS_MAX_POSITION) f->end_ms = end_ms;
            f->begin_phys = first;
            f->end_phys = last;
        }
        if (r == -1) r = 0; /* empty */
        ix->header_dirty = 1;
    } else {
        r = slots_load(st, (int32_t)fd);
    }
    if (r < 0) {
        st->io->close(st->io->ctx, (int32_t)fd);
        return r;
    }
    ix->fd = (int32_t)fd;
    ix->open = 1;
    ix->block_from = f->count;
    return 0;
}

static int64_t block_write(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    struct ifile *f = newest(ix);
    int64_t n = f->count - ix->block_from;
    if (n <= 0) return 0;
    int64_t r = zl_io_write_all(st->io, ix->fd, ix->block, (uint64_t)n * ENTRY, entry_off(ix, ix->block_from));
    if (r < 0) return r;
    ix->block_from = f->count;
    return 0;
}

static int64_t slots_write(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    uint8_t raw[PAGE_SLOTS * 4];
    for (int64_t page = 0; page * PAGE_SLOTS < ix->slot_count; page++) {
        if (!ix->page_dirty[page]) continue;
        int64_t from = page * PAGE_SLOTS, n = ix->slot_count - from < PAGE_SLOTS ? ix->slot_count - from : PAGE_SLOTS;
        for (int64_t i = 0; i < n; i++) zl_store32(raw + i * 4, (uint32_t)ix->slots[from + i]);
        int64_t r = zl_io_write_all(st->io, ix->fd, raw, (uint64_t)n * 4, HEAD + 4 * from);
        if (r < 0) return r;
        ix->page_dirty[page] = 0;
    }
    return 0;
}

static int64_t current_flush(struct zr_inst *st, uint32_t sync)
{
    struct zs_index *ix = st->index;
    uint8_t head[HEAD];
    if (!ix->open) return 0;
    int64_t r = block_write(st);
    if (r >= 0 && ix->header_dirty) r = slots_write(st);
    if (r >= 0 && ix->header_dirty) {
        header_store(newest(ix), head);
        r = zl_io_write_all(st->io, ix->fd, head, HEAD, 0);
        if (r >= 0) ix->header_dirty = 0;
    }
    if (r >= 0 && sync) r = st->io->fdatasync(st->io->ctx, ix->fd);
    return r < 0 ? r : 0;
}

/* A new file, named by the present time, or by the next millisecond that has no file. */
static int64_t file_make(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    int64_t ms = st->timer->wall_ms(st->host), fd = -EEXIST;
    struct ifile before = { .count = 1 };
    char path[ZS_PATH], name[32];
    if (ix->n) before = *newest(ix);
    for (int tries = 0; tries < 1000 && fd == -EEXIST; tries++, ms++) {
        time_t sec = (time_t)(ms / 1000);
        struct tm tm;
        localtime_r(&sec, &tm);
        size_t n = strftime(name, sizeof name, "%Y%m%d%H%M%S", &tm);
        snprintf(name + n, sizeof name - n, "%03d", (int)(ms % 1000));
        if (ix->n && strcmp(name, before.name) <= 0) continue; /* the clock went back: stay behind the newest */
        if (!zs_path(path, "%s/%s", st->index_dir, name)) return -ENAMETOOLONG;
        fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_EXCL, 0644);
    }
    if (fd < 0) return fd;
    int64_t r = st->io->ftruncate(st->io->ctx, (int32_t)fd, file_size(ix));
    if (r >= 0 && (!file_add(ix, name) || !slots_make(ix))) r = -ENOMEM;
    if (r < 0) {
        st->io->close(st->io->ctx, (int32_t)fd);
        st->io->unlink(st->io->ctx, path);
        return r;
    }
    struct ifile *f = newest(ix);
    f->begin_ms = f->end_ms = before.end_ms; /* as RocketMQ presets them; the first entry's seconds count from here */
    f->begin_phys = f->end_phys = before.end_phys;
    ix->fd = (int32_t)fd;
    ix->open = 1;
    ix->block_from = 1;
    return 0;
}

/* Has the newest file open and with room for one entry. */
static int64_t current_ready(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    struct ifile *f = newest(ix);
    if (f && f->count < ix->max_entries) return ix->open ? 0 : current_open(st, 0);
    if (ix->open) {
        int64_t r = current_flush(st, 1);
        if (r < 0) return r;
        atomic_store(&ix->full_ms, f->end_ms);
        current_close(st);
    }
    return file_make(st);
}

/* A failure comes before anything is changed, so that the same key can be put later. */
static int64_t key_put(struct zr_inst *st, struct zr_str topic, struct zr_str key, int64_t phys, int64_t ms)
{
    struct zs_index *ix = st->index;
    int64_t r = current_ready(st);
    if (r >= 0 && newest(ix)->count - ix->block_from >= (int32_t)BLOCK) r = block_write(st);
    if (r < 0) return r;
    struct ifile *f = newest(ix);
    int32_t hash = key_hash(ix, topic, key), n = f->count;
    int64_t slot = hash % ix->slot_count, diff = f->begin_ms > 0 && ms > f->begin_ms ? (ms - f->begin_ms) / 1000 : 0;
    if (diff > INT32_MAX) diff = INT32_MAX;
    int32_t prev = ix->slots[slot];
    if (prev <= 0 || prev >= n) prev = 0;
    uint8_t *e = ix->block + (int64_t)(n - ix->block_from) * ENTRY;
    zl_store32(e, (uint32_t)hash);
    zl_store64(e + 4, (uint64_t)phys);
    zl_store32(e + 12, (uint32_t)diff);
    zl_store32(e + 16, (uint32_t)prev);
    slot_set(ix, slot, n);
    if (ms < 0 || ms > ZS_MAX_POSITION) ms = f->end_ms; /* damage that no checksum covers */
    if (n <= 1) {
        f->begin_phys = phys;
        f->begin_ms = ms;
    }
    if (prev == 0) f->slots_used++;
    f->count = n + 1;
    f->end_phys = phys;
    f->end_ms = ms;
    ix->header_dirty = 1;
    atomic_store(&ix->last, phys);
    return 0;
}

static int64_t record_put(struct zr_inst *st, const struct zl_record *r)
{
    struct zs_index *ix = st->index;
    struct zr_str part, name, value, keys = { NULL, 0 }, unique = { NULL, 0 };
    uint64_t pos = 0;
    uint32_t n = 0, n_put = r->physical_offset == atomic_load(&ix->last) ? ix->n_put : 0;
    if ((r->sys_flag & ZR_SYSFLAG_TRANSACTION_MASK) == ZR_SYSFLAG_ROLLBACK) return 0;
    if (r->physical_offset <= atomic_load(&ix->last) && n_put == 0) return 0; /* is there already */
    while (zl_props_next(r->properties, &pos, &name, &value)) {
        if (zl_is(name, "UNIQ_KEY")) unique = value;
        else if (zl_is(name, "KEYS")) keys = value;
    }
    int64_t rc = 0;
    if (unique.len && n++ >= n_put) rc = key_put(st, r->topic, unique, r->physical_offset, r->store_ms);
    while (rc >= 0 && keys.len && zl_split(&keys, ' ', &part))
        if (part.len && n++ >= n_put) rc = key_put(st, r->topic, part, r->physical_offset, r->store_ms);
    ix->n_put = rc < 0 && n > 0 ? n - 1 : 0;
    return rc;
}

/* ---- following the log ------------------------------------------------------------------------------------------------------ */

/* Indexes up to BATCH records from pos on. 1: there is more. */
static uint32_t follow(struct zr_inst *st, struct zs_scan *s, int64_t limit)
{
    struct zs_index *ix = st->index;
    struct zl_record r;
    int64_t pos = atomic_load(&ix->pos), begin = atomic_load(&st->begin), rc = 0;
    if (pos < begin) pos = begin;
    s->pos = pos;
    s->limit = limit;
    for (uint32_t i = 0; i < BATCH && rc >= 0; i++) {
        int what = zs_scan_next(s, &r);
        if (what == ZS_SCAN_BAD) {
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

static void repair(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    while (ix->n) {
        int64_t from = atomic_load(&ix->pos), r = current_open(st, 1);
        if (r < 0) {
            current_close(st);
            zs_log(st, ZR_LOG_WARN, "index file %s cannot be mended: %s; it is left alone", newest(ix)->name, zs_errno_text(r));
            ix->n--;
            continue;
        }
        struct ifile *f = newest(ix);
        zs_log(st, ZR_LOG_INFO, "index file %s has %d entries; the log is read for keys from %lld on", f->name, f->count - 1,
               (long long)atomic_load(&ix->pos));
        if (f->count > 1 || atomic_load(&ix->pos) != from) {
            atomic_store(&ix->last, f->count > 1 ? f->end_phys : -1);
            return;
        }
        current_close(st); /* nothing in it can be used */
        char path[ZS_PATH];
        if (zs_path(path, "%s/%s", st->index_dir, f->name)) st->io->unlink(st->io->ctx, path);
        ix->n--;
        if (ix->n) atomic_store(&ix->last, newest(ix)->end_phys);
        if (ix->n) atomic_store(&ix->pos, newest(ix)->end_phys);
        if (ix->n) return;
    }
}

void zs_index_main(void *arg)
{
    struct zr_inst *st = arg;
    struct zs_index *ix = st->index;
    struct zs_scan s;
    int64_t flushed = zs_mono(st);
    zs_scan_open(&s, st, 0, 0, 0);
    pthread_mutex_lock(&ix->lock);
    if (ix->repair) repair(st);
    ix->repair = 0;
    while (!atomic_load(&st->stopping)) {
        int64_t limit = zs_visible(st);
        uint32_t more = atomic_load(&ix->pos) < limit && follow(st, &s, limit);
        if (more) { /* others may want the lock */
            pthread_mutex_unlock(&ix->lock);
            pthread_mutex_lock(&ix->lock);
            continue;
        }
        pthread_cond_broadcast(&ix->caught);
        int64_t now = zs_mono(st);
        if (ix->header_dirty && now - flushed >= FLUSH_NS) {
            current_flush(st, 0);
            flushed = now;
        }
        if (s.seg) zs_scan_close(&s);
        atomic_store(&ix->idle, 1);
        if (!ix->hurry && (zs_visible(st) <= atomic_load(&ix->pos) || ix->broken) && !atomic_load(&st->stopping)) {
            if (ix->header_dirty || ix->broken) zs_cond_wait_ns(&ix->cond, &ix->lock, ix->broken ? FLUSH_NS / 10 : FLUSH_NS);
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
    st->index = ix;
    int64_t r = st->io->list(st->io->ctx, st->index_dir, found_file, st);
    if (r != 0) return r > 0 ? ZR_ENOMEM : zs_raise(st, zs_status_of(r), r, "%s cannot be read: %s", st->index_dir, zs_errno_text(r));
    if (ix->n) qsort(ix->files, ix->n, sizeof *ix->files, by_name);
    headers_load(st);
    int64_t last = ix->n && newest(ix)->count > 1 ? newest(ix)->end_phys : -1;
    for (uint64_t i = 0; i + 1 < ix->n; i++) atomic_store(&ix->full_ms, ix->files[i].end_ms);
    uint32_t known = snap->valid && snap->index_last == last && snap->index_pos <= atomic_load(&st->end);
    ix->repair = ix->n && (!clean || (snap->valid && !known));
    atomic_store(&ix->last, last);
    if (clean && known) atomic_store(&ix->pos, snap->index_pos);
    else atomic_store(&ix->pos, last >= 0 ? last : atomic_load(&st->begin));
    if (ix->repair && ix->n > 1) { /* if nothing of the newest is good: from the end of the one before */
        atomic_store(&ix->pos, ix->files[ix->n - 2].end_phys);
        atomic_store(&ix->last, ix->files[ix->n - 2].end_phys);
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
    int64_t r = flush ? current_flush(st, 1) : 0;
    if (r < 0) zs_log(st, ZR_LOG_WARN, "the index could not be written: %s; the next start mends it", zs_errno_text(r));
    current_close(st);
}

void zs_index_free(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    if (!ix) return;
    current_close(st);
    zl_buf_free(&ix->key);
    free(ix->block);
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
    char path[ZS_PATH];
    int64_t begin = atomic_load(&st->begin);
    if (!ix) return;
    pthread_mutex_lock(&ix->lock);
    while (ix->n > 1 && ix->files[0].end_phys < begin) {
        if (!zs_path(path, "%s/%s", st->index_dir, ix->files[0].name) || st->io->unlink(st->io->ctx, path) < 0) break;
        memmove(ix->files, ix->files + 1, (ix->n - 1) * sizeof *ix->files);
        ix->n--;
        ++*removed;
    }
    pthread_mutex_unlock(&ix->lock);
}

/* ---- asking --------------------------------------------------------------------------------------------------------------------- */

struct asking {
    struct zr_inst *st;
    int32_t hash, fd;
    uint32_t current;
    int64_t begin_ms, end_ms;
    int64_t *physical;
    uint32_t n, cap;
};

static uint32_t entry_read(struct asking *a, int32_t n, uint8_t *to)
{
    struct zs_index *ix = a->st->index;
    if (a->current && n >= ix->block_from) {
        memcpy(to, ix->block + (int64_t)(n - ix->block_from) * ENTRY, ENTRY);
        return 1;
    }
    return zl_io_read_all(a->st->io, a->fd, to, ENTRY, entry_off(ix, n)) >= 0;
}

static void chain_walk(struct asking *a, const struct ifile *f, int32_t n)
{
    while (n > 0 && n < f->count && a->n < a->cap) {
        uint8_t e[ENTRY];
        if (!entry_read(a, n, e)) return;
        int32_t diff = (int32_t)zl_load32(e + 12), prev = (int32_t)zl_load32(e + 16);
        int64_t t = f->begin_ms + (int64_t)diff * 1000;
        if (diff < 0) return;
        if ((int32_t)zl_load32(e) == a->hash && t + 1000 > a->begin_ms && t <= a->end_ms) {
            int64_t phys = (int64_t)zl_load64(e + 4);
            if (a->n == 0 || a->physical[a->n - 1] != phys) a->physical[a->n++] = phys; /* a key named twice in one message */
        }
        if (prev >= n) return; /* chains only go back */
        n = prev;
    }
}

static void file_ask(struct asking *a, const struct ifile *f)
{
    struct zs_index *ix = a->st->index;
    uint8_t raw[4];
    int64_t slot = a->hash % ix->slot_count;
    a->current = ix->open && f == newest(ix);
    if (f->count <= 1 || f->end_ms < a->begin_ms || f->begin_ms > a->end_ms) return;
    if (a->current) {
        a->fd = ix->fd;
        chain_walk(a, f, ix->slots[slot]);
        return;
    }
    int64_t fd = file_open(a->st, f);
    if (fd < 0) return;
    a->fd = (int32_t)fd;
    if (zl_io_read_all(a->st->io, a->fd, raw, 4, HEAD + 4 * slot) >= 0) chain_walk(a, f, (int32_t)zl_load32(raw));
    a->st->io->close(a->st->io->ctx, a->fd);
}

/* Lets the follower reach what is visible now; gives up after CATCH_UP_NS (an index that is made anew from a long log). */
static void catch_up(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    int64_t want = zs_visible(st), until = zs_mono(st) + CATCH_UP_NS;
    while (atomic_load(&ix->pos) < want && !atomic_load(&st->stopping) && atomic_load(&st->threads_on) && !ix->broken) {
        int64_t left = until - zs_mono(st);
        if (left <= 0) return;
        ix->hurry = 1;
        pthread_cond_signal(&ix->cond);
        zs_cond_wait_ns(&ix->caught, &ix->lock, left);
    }
}

int32_t zs_find_key(struct zr_inst *st, struct zr_str topic, struct zr_str key, uint32_t unique, int64_t begin_ms,
                    int64_t end_ms, int64_t *physical, uint32_t cap)
{
    struct zs_index *ix = st->index;
    (void)unique; /* both kinds of keys are hashed alike */
    if (!ix) return ZR_ENOTSUP;
    if (cap > INT32_MAX) cap = INT32_MAX;
    pthread_mutex_lock(&ix->lock);
    catch_up(st);
    struct asking a = { .st = st, .hash = key_hash(ix, topic, key), .begin_ms = begin_ms, .end_ms = end_ms,
                        .physical = physical, .cap = cap };
    for (uint64_t i = ix->n; i > 0 && a.n < cap; i--) {
        file_ask(&a, &ix->files[i - 1]);
        if (ix->files[i - 1].count > 1 && ix->files[i - 1].begin_ms < begin_ms) break;
    }
    pthread_mutex_unlock(&ix->lock);
    return (int32_t)a.n;
}
