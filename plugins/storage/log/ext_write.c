/* SPDX-License-Identifier: Apache-2.0 */
/* ext_write.c - writing the extents of queues (ext.h), their end, and their going.
 *
 * Entries get their extents on their way from the ring to the queue's file: zs_ext_write appends a unit for each and puts its address
 * in the entry's place for the tags code. So an append does nothing for them, and what is read from the ring has its tags code at
 * hand. Light queues and those of batches have none, as in RocketMQ; nor have entries that are made anew later (zs_heal).
 *
 * What stays true:
 *   1. A unit is written before the entry that leads to it, and is on disk before the entry counts as synced.
 *   2. Where a queue's units end is known by its entries alone: behind the unit that the last of them with an address leads to.
 *      What lies behind that was cut off or never reached its entries: it is made zero, or deleted, before the next unit is written.
 *   3. Extents never keep an entry from being written: where they cannot be, the entry keeps its tags code.
 *   4. Files go when no entry from the queue's first on leads to them; never the one that the next unit goes to.
 *
 * LOCKING: drain_lock over all of it (or a recovery, which is alone). zr_bits_v1 is called under it, which it allows. */
#include "ext.h"
#include <errno.h>
#include <stdlib.h>
#include "zs_pack.h"

#define BATCH 64u        /* entries whose maps are made at once */
#define BUFFER 65536u    /* units gathered for one write */
#define SEARCH 256u      /* entries read at once when the last address is looked for */
#define SEARCH_MOST (1 << 20) /* and in all */

struct zs_ext_files { /* of one queue */
    int64_t end;      /* where the next unit goes */
    int64_t first, last; /* numbers of the files there are; ZS_NONE */
    int64_t synced;   /* units below are on disk */
    _Atomic uint32_t name_unsynced;
    int64_t syncing;  /* what synced will be once the sync under way is done */
    uint32_t open;    /* the next unit may be written: end is right, and zeroes follow */
    uint32_t known;   /* it was open before */
};
struct zs_ext_out { /* the store's, made with the first unit */
    uint32_t len;
    uint8_t buf[BUFFER];
    uint8_t maps[BATCH][ZR_BITS_BYTES];
};

static struct zs_ext_files *files_of(struct zr_queue *q)
{
    if (q->ext) return q->ext;
    q->ext = calloc(1, sizeof *q->ext);
    if (q->ext) q->ext->first = q->ext->last = ZS_NONE;
    return q->ext;
}

void zs_ext_free(struct zr_inst *st)
{
    free(st->ext_out);
    st->ext_out = NULL;
    st->ext_fails = 0;
}

/* ---- which files there are ------------------------------------------------------------------------------------------------ */

struct bases {
    int64_t first, last, size;
};

static int32_t base_found(void *ctx, const char *name)
{
    struct bases *b = ctx;
    int64_t base;
    if (!zs_name_offset(name, &base) || base % b->size) return 0;
    if (b->first == ZS_NONE || base / b->size < b->first) b->first = base / b->size;
    if (b->last == ZS_NONE || base / b->size > b->last) b->last = base / b->size;
    return 0;
}

static int64_t files_list(struct zr_inst *st, struct zr_queue *q, struct zs_ext_files *f)
{
    char path[ZS_PATH];
    struct bases b = { ZS_NONE, ZS_NONE, st->conf.extent_file_size };
    if (!zs_ext_path(st, q, ZS_NONE, path)) return -ENAMETOOLONG;
    int64_t r = st->io->list(st->io->ctx, path, base_found, &b);
    if (r < 0 && r != -ENOENT) return r;
    f->first = b.first;
    f->last = b.last;
    return 0;
}

static int64_t file_drop(struct zr_inst *st, struct zr_queue *q, int64_t no)
{
    char path[ZS_PATH];
    zs_qfile_shut(st, q, ZS_QFILE_EXT(no));
    if (!zs_ext_path(st, q, no, path)) return -ENAMETOOLONG;
    int64_t r = st->io->unlink(st->io->ctx, path);
    return r == -ENOENT ? 0 : r;
}

/* ---- where they end ---------------------------------------------------------------------------------------------------------- */

/* The last address that an entry has; 0: none has one, among those from *ret_from on. -errno in *error. */
static int64_t last_address(struct zr_inst *st, struct zr_queue *q, int64_t *ret_from, int64_t *error)
{
    uint8_t raw[SEARCH * ZS_ENTRY];
    int64_t min = atomic_load(&q->min), per = st->conf.queue_file_size / ZS_ENTRY;
    if (min < q->persisted - SEARCH_MOST) min = q->persisted - SEARCH_MOST;
    *ret_from = min;
    for (int64_t to = q->persisted; to > min;) {
        int64_t from = (to - 1) / per * per; /* one file at a time */
        if (from < to - (int64_t)SEARCH) from = to - SEARCH;
        if (from < min) from = min;
        int64_t n = zs_qfile_read(st, q, from, (uint32_t)(to - from), raw);
        if (n < 0) {
            *error = n;
            return 0;
        }
        while (n-- > 0) {
            struct zs_entry e;
            zs_entry_load(raw + n * ZS_ENTRY, &e);
            if (zs_entry_real(&e) && e.tags <= ZS_EXT_ADDRESS && zs_ext_offset(e.tags) < ZS_MAX_POSITION) return e.tags;
        }
        to = from;
    }
    return 0;
}

/* Behind the unit that the address leads to; behind its file, and all there are, if that unit is not whole or lost. */
static int64_t end_behind(struct zr_inst *st, struct zr_queue *q, const struct zs_ext_files *f, int64_t address)
{
    struct zs_ext_at x;
    struct zs_unit u;
    int64_t offset = zs_ext_offset(address), no = offset / st->conf.extent_file_size;
    zs_ext_open(&x, st, q);
    if (f->last != ZS_NONE && zs_ext_get(&x, address, &u) != ZS_EXT_BAD) return offset + u.size;
    return ((no > f->last ? no : f->last) + 1) * st->conf.extent_file_size;
}

/* Where no address can be that an entry before `from` may have: they were not all looked at. */
static int64_t end_beyond(struct zr_inst *st, const struct zs_ext_files *f, int64_t from)
{
    int64_t size = st->conf.extent_file_size, no = from * (2 * (int64_t)ZS_EXT_MOST) / size;
    return ((no > f->last ? no : f->last) + 1) * size;
}

/* Makes what lies behind end zero, and deletes the files behind its. */
static int64_t cut(struct zr_inst *st, struct zr_queue *q, struct zs_ext_files *f)
{
    char path[ZS_PATH];
    int64_t no = f->end / st->conf.extent_file_size, in = f->end % st->conf.extent_file_size, nonzero, r = 0;
    for (; r >= 0 && f->last != ZS_NONE && (f->last > no || (f->last == no && in == 0));) {
        r = file_drop(st, q, f->last);
        if (f->last == f->first) f->first = f->last = ZS_NONE;
        else f->last--;
    }
    if (r < 0 || f->last != no || !zs_ext_path(st, q, no, path)) return r;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
    if (fd < 0) return fd == -ENOENT ? 0 : fd;
    r = zs_is_zero(st, (int32_t)fd, in, st->conf.extent_file_size - in, &nonzero);
    if (r == 0) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, in);
    if (r >= 0) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, st->conf.extent_file_size);
    st->io->close(st->io->ctx, (int32_t)fd);
    return r < 0 ? r : 0;
}

/* Finds the end, the first time; and cuts what is behind it. */
static int64_t files_open(struct zr_inst *st, struct zr_queue *q, struct zs_ext_files *f)
{
    int64_t error = 0, r = f->open ? 0 : files_list(st, q, f);
    if (f->open || r < 0) return r;
    int64_t from, address = last_address(st, q, &from, &error);
    if (error) return error;
    f->end = address ? end_behind(st, q, f, address) : from > atomic_load(&q->min) ? end_beyond(st, f, from) : 0;
    r = cut(st, q, f);
    if (r < 0) return r;
    if (!f->known || f->synced > f->end) f->synced = f->end; /* a start's entries are on disk, and what they lead to */
    f->open = f->known = 1;
    return 0;
}

/* ---- writing ------------------------------------------------------------------------------------------------------------------ */

static int64_t folder(struct zr_inst *st, const char *path)
{
    int64_t r = st->io->mkdir(st->io->ctx, path, 0755);
    return r == -EEXIST ? 0 : r;
}

static int64_t folders(struct zr_inst *st, struct zr_queue *q)
{
    char path[ZS_PATH];
    int64_t r = folder(st, st->ext_dir);
    if (r >= 0) r = zs_path(path, "%s/%s", st->ext_dir, q->topic) ? folder(st, path) : -ENAMETOOLONG;
    if (r >= 0) r = zs_ext_path(st, q, ZS_NONE, path) ? folder(st, path) : -ENAMETOOLONG;
    if (r >= 0) st->ext_there = 1;
    return r;
}

/* The file no, in full size. NULL: *error. */
static struct zs_qfile *file_make(struct zr_inst *st, struct zr_queue *q, struct zs_ext_files *f, int64_t no, int64_t *error)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    const uint32_t flags = ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE;
    struct zs_qfile *x = zs_qfile_hold(st, q, ZS_QFILE_EXT(no));
    if (x) return x;
    int64_t fd = zs_ext_path(st, q, no, path) ? st->io->open(st->io->ctx, path, flags, 0644) : -ENAMETOOLONG;
    if (fd == -ENOENT) {
        fd = folders(st, q);
        if (fd >= 0) fd = st->io->open(st->io->ctx, path, flags, 0644);
    }
    *error = fd;
    if (fd < 0) return NULL;
    *error = st->io->fstat(st->io->ctx, (int32_t)fd, &stat);
    if (*error >= 0 && stat.size < (uint64_t)st->conf.extent_file_size) {
        *error = st->io->ftruncate(st->io->ctx, (int32_t)fd, st->conf.extent_file_size);
        atomic_store(&f->name_unsynced, 1);
    }
    if (*error < 0) {
        st->io->close(st->io->ctx, (int32_t)fd);
        return NULL;
    }
    if (f->first == ZS_NONE || no < f->first) f->first = no;
    if (no > f->last) f->last = no;
    x = zs_qfile_keep(st, q, ZS_QFILE_EXT(no), (int32_t)fd);
    *error = x ? 0 : -ENOMEM;
    return x;
}

/* Writes what is gathered, to the file that end lies in. */
static int64_t out_flush(struct zr_inst *st, struct zr_queue *q, struct zs_ext_files *f, int64_t *at)
{
    struct zs_ext_out *o = st->ext_out;
    int64_t size = st->conf.extent_file_size, error = 0;
    if (o->len == 0) return 0;
    struct zs_qfile *x = file_make(st, q, f, *at / size, &error);
    if (!x) return error;
    int64_t r = zl_io_write_all(st->io, x->fd, o->buf, o->len, *at % size);
    zs_qfile_let(st, x);
    if (r < 0) return r;
    *at += o->len;
    o->len = 0;
    return 0;
}

/* Room for a unit, at *at + what is gathered: where a file ends, its mark is put, and the next begins. Its offset, or -errno. */
static int64_t out_place(struct zr_inst *st, struct zr_queue *q, struct zs_ext_files *f, int64_t *at, uint32_t unit)
{
    struct zs_ext_out *o = st->ext_out;
    int64_t size = st->conf.extent_file_size, in = (*at + o->len) % size, r;
    if (unit > size - (int64_t)ZS_EXT_SPARE) return -EFBIG;
    if (o->len + unit + 2 > BUFFER && (r = out_flush(st, q, f, at)) < 0) return r;
    if (in > 0 && in + unit > size - (int64_t)ZS_EXT_SPARE) {
        zl_store16(o->buf + o->len, 0xFFFFu);
        o->len += 2;
        if ((r = out_flush(st, q, f, at)) < 0) return r;
        *at = (*at / size + 1) * size;
    }
    return *at + o->len;
}

/* ---- what the units say ---------------------------------------------------------------------------------------------------------- */

/* The store time of a record, from its header. */
static uint32_t store_time(struct zr_inst *st, const struct zs_entry *e, int64_t *ret)
{
    uint8_t head[80];
    uint32_t busy;
    struct zs_seg *seg = zs_seg_get(st, e->phys, 0, &busy);
    if (!seg) return 0;
    uint32_t fits = e->phys + (int64_t)sizeof head <= seg->base + st->segs.size;
    int64_t r = fits ? zs_seg_read(st, seg, head, sizeof head, e->phys - seg->base) : -EINVAL;
    zs_seg_put(st, seg);
    if (r < 0 || zl_load32(head) != (uint32_t)e->size || (int64_t)zl_load64(head + 28) != e->phys) return 0;
    *ret = zs_store_ms(head);
    return 1;
}

struct batch {
    struct zs_unit unit[BATCH]; /* size 0: none is to be made */
    struct zs_hold hold[BATCH];
    struct zr_bits_map map[BATCH];
    uint32_t index[BATCH], n; /* of the maps: which entry each belongs to */
};

/* Maps for the units of a batch, if the broker makes any. Their records stay held meanwhile. */
static void batch_maps(struct zr_inst *st, struct zr_queue *q, const struct zs_entry *e, uint32_t n, struct batch *b)
{
    struct zr_str topic = { q->topic, q->topic_len };
    for (uint32_t i = 0; i < n; i++) {
        struct zl_record rec;
        if (b->unit[i].size == 0 || !zs_record_get(st, e[i].phys, e[i].size, 0, &rec, &b->hold[b->n])) continue;
        b->map[b->n] = (struct zr_bits_map){ .properties = rec.properties, .store_ms = rec.store_ms, .bytes = st->ext_out->maps[b->n] };
        b->index[b->n++] = i;
    }
    uint32_t made = b->n ? st->bits->maps(st->host, topic, b->map, b->n) : 0;
    for (uint32_t k = 0; k < b->n; k++) {
        struct zs_unit *u = &b->unit[b->index[k]];
        zs_hold_put(st, b->hold[k].pin);
        if (!made || b->map[k].n_bytes == 0 || b->map[k].n_bytes > ZR_BITS_BYTES) continue;
        if (ZS_EXT_HEAD + b->map[k].n_bytes > st->conf.extent_file_size - (int64_t)ZS_EXT_SPARE) continue;
        u->bits = b->map[k].bytes;
        u->n_bits = b->map[k].n_bytes;
        u->size = ZS_EXT_HEAD + u->n_bits;
    }
}

static void batch_make(struct zr_inst *st, struct zr_queue *q, const struct zs_entry *e, uint32_t n, struct batch *b)
{
    b->n = 0;
    for (uint32_t i = 0; i < n; i++) {
        b->unit[i] = (struct zs_unit){ .tags = e[i].tags };
        if (zs_entry_real(&e[i]) && e[i].tags > ZS_EXT_ADDRESS && store_time(st, &e[i], &b->unit[i].store_ms)) b->unit[i].size = ZS_EXT_HEAD;
    }
    if (st->bits && !st->recovering) batch_maps(st, q, e, n, b);
}

/* Units for n entries at raw, whose addresses are put there once all of them are written. 0 or -errno. */
static int64_t batch_write(struct zr_inst *st, struct zr_queue *q, struct zs_ext_files *f, uint8_t *raw, uint32_t n)
{
    struct batch b;
    struct zs_entry e[BATCH];
    int64_t offset[BATCH], at = f->end, r = 0;
    for (uint32_t i = 0; i < n; i++) zs_entry_load(raw + (uint64_t)i * ZS_ENTRY, &e[i]);
    batch_make(st, q, e, n, &b);
    st->ext_out->len = 0;
    for (uint32_t i = 0; i < n && r >= 0; i++) {
        if (b.unit[i].size == 0) continue;
        r = offset[i] = out_place(st, q, f, &at, b.unit[i].size);
        if (r < 0) break;
        zs_unit_store(st->ext_out->buf + st->ext_out->len, &b.unit[i]);
        st->ext_out->len += b.unit[i].size;
    }
    if (r >= 0) r = out_flush(st, q, f, &at);
    if (r < 0) {
        f->open = 0; /* what was written is made zero before the next */
        return r;
    }
    f->end = at;
    for (uint32_t i = 0; i < n; i++) {
        if (b.unit[i].size == 0) continue;
        e[i].tags = zs_ext_address(offset[i]);
        zs_entry_store(raw + (uint64_t)i * ZS_ENTRY, &e[i]);
    }
    return 0;
}

void zs_ext_write(struct zr_inst *st, struct zr_queue *q, uint8_t *raw, uint32_t n)
{
    int64_t r = 0;
    if (!st->conf.extents || zs_queue_light(q) || atomic_load(&q->batch)) return;
    if (!st->ext_out) st->ext_out = malloc(sizeof *st->ext_out);
    struct zs_ext_files *f = st->ext_out ? files_of(q) : NULL;
    r = f ? files_open(st, q, f) : -ENOMEM;
    for (uint32_t at = 0; at < n && r >= 0; at += BATCH)
        r = batch_write(st, q, f, raw + (uint64_t)at * ZS_ENTRY, n - at < BATCH ? n - at : BATCH);
    if (r < 0 && !st->ext_fails)
        zs_log(st, ZR_LOG_ERROR, "extents of queues cannot be written: %s; entries go without them", zs_errno_text(r));
    else if (r >= 0 && st->ext_fails)
        zs_log(st, ZR_LOG_INFO, "extents of queues can be written again");
    st->ext_fails = r < 0;
}

/* ---- making durable ----------------------------------------------------------------------------------------------------------------- */

void zs_ext_sync_begin(struct zr_queue *q, int64_t *ret_from, int64_t *ret_to)
{
    struct zs_ext_files *f = q->ext;
    *ret_from = f ? f->synced : 0;
    *ret_to = f && f->known && f->end > f->synced ? f->end : *ret_from;
    if (f) f->syncing = *ret_to;
}

void zs_ext_sync_end(struct zr_queue *q)
{
    struct zs_ext_files *f = q->ext;
    if (f && f->syncing > f->synced) f->synced = f->syncing < f->end ? f->syncing : f->end;
}

static int64_t sync_names(struct zr_inst *st, struct zr_queue *q)
{
    char path[ZS_PATH];
    atomic_store(&q->ext->name_unsynced, 0); /* first: a file made meanwhile marks it again */
    int64_t r = zs_ext_path(st, q, ZS_NONE, path) ? st->io->sync_dir(st->io->ctx, path) : -ENAMETOOLONG;
    if (r >= 0 && zs_path(path, "%s/%s", st->ext_dir, q->topic)) r = st->io->sync_dir(st->io->ctx, path);
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, st->ext_dir);
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, st->conf.root);
    if (r < 0) atomic_store(&q->ext->name_unsynced, 1);
    return r;
}

int64_t zs_ext_sync(struct zr_inst *st, struct zr_queue *q, int64_t from, int64_t to)
{
    int64_t size = st->conf.extent_file_size, r = 0;
    if (to <= from) return 0;
    if (atomic_load(&q->ext->name_unsynced)) r = sync_names(st, q);
    for (int64_t no = from / size; r >= 0 && no * size < to; no++) {
        char path[ZS_PATH];
        struct zs_qfile *x = zs_qfile_hold(st, q, ZS_QFILE_EXT(no));
        if (!x && zs_ext_path(st, q, no, path)) {
            int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
            if (fd == -ENOENT) continue; /* the queue was cut, or retention took it */
            if (fd < 0) r = fd;
            else if (!(x = zs_qfile_keep(st, q, ZS_QFILE_EXT(no), (int32_t)fd))) r = -ENOMEM;
        }
        if (!x) break;
        r = st->io->fdatasync(st->io->ctx, x->fd);
        zs_qfile_let(st, x);
    }
    if (r < 0) zs_queues_unsure(st, r);
    return r;
}

/* ---- going ---------------------------------------------------------------------------------------------------------------------------- */

/* The first address from the queue's first entry on; 0: none, or it cannot be told. */
static int64_t first_address(struct zr_inst *st, struct zr_queue *q, int64_t min)
{
    uint8_t raw[SEARCH * ZS_ENTRY];
    while (min < q->persisted) {
        int64_t want = q->persisted - min < (int64_t)SEARCH ? q->persisted - min : SEARCH;
        int64_t n = zs_qfile_read(st, q, min, (uint32_t)want, raw);
        if (n <= 0) return 0;
        for (int64_t i = 0; i < n; i++) {
            struct zs_entry e;
            zs_entry_load(raw + i * ZS_ENTRY, &e);
            if (zs_entry_real(&e) && e.tags <= ZS_EXT_ADDRESS) return e.tags;
        }
        min += n;
    }
    return 0;
}

uint64_t zs_ext_retire(struct zr_inst *st, struct zr_queue *q, int64_t min)
{
    uint64_t n = 0;
    if (!st->ext_there || zs_queue_light(q) || atomic_load(&q->batch) || atomic_load(&q->dead)) return 0;
    struct zs_ext_files *f = files_of(q);
    if (!f || (f->first == ZS_NONE && files_list(st, q, f) < 0) || f->first == ZS_NONE) return 0;
    int64_t address = first_address(st, q, min), size = st->conf.extent_file_size;
    int64_t keep = address ? zs_ext_offset(address) / size : min >= q->persisted ? f->last : f->first;
    while (f->first < f->last && f->first < keep) {
        if (file_drop(st, q, f->first) < 0) break;
        f->first++;
        n++;
    }
    return n;
}

void zs_ext_forget(struct zr_inst *st, struct zr_queue *q)
{
    if (!q->ext) return;
    for (int64_t no = q->ext->first; no != ZS_NONE && no <= q->ext->last; no++) zs_qfile_shut(st, q, ZS_QFILE_EXT(no));
    q->ext->first = q->ext->last = ZS_NONE;
    q->ext->open = q->ext->known = 0;
}

void zs_ext_remove(struct zr_inst *st, struct zr_queue *q)
{
    struct zs_ext_files f = { .first = ZS_NONE, .last = ZS_NONE };
    char path[ZS_PATH];
    if (!st->ext_there) return;
    zs_ext_forget(st, q);
    if (files_list(st, q, &f) < 0 || f.first == ZS_NONE) return;
    for (int64_t no = f.first; no <= f.last; no++) file_drop(st, q, no);
    if (zs_ext_path(st, q, ZS_NONE, path)) st->io->rmdir(st->io->ctx, path);
    if (zs_path(path, "%s/%s", st->ext_dir, q->topic)) st->io->rmdir(st->io->ctx, path); /* goes with its last queue */
}
