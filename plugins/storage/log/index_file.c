/* SPDX-License-Identifier: Apache-2.0 */
/* index_file.c - files of the index: their table, their headers, and the writer of one.
 *
 * Entries are written in blocks, the changed pages of the slots and the header some time later, at a roll and at a stop. What
 * stays true:
 *   1. A file has its full size from its making on; one of another size was cut, or made with another shape. It can be told
 *      again by the log, and so it is deleted.
 *   2. Slots and header never speak of entries that are not written before them; in a file that is made anew, or cut, not of
 *      entries and slots that are not on the disk: nobody looks at those of an old file again.
 *   3. The last of a disk is the log's: files are sparse, a key may cost a page of slots, and what the index takes of a disk that
 *      is nearly full would be missing to the next message. So nothing is written that leaves less than RESERVE; slots and
 *      entries are in memory meanwhile, and the log has the rest. */
#include "index.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define HEAD ZS_INDEX_HEAD
#define ENTRY ZS_INDEX_ENTRY
#define BLOCK ZS_INDEX_BLOCK
#define PAGE_SLOTS 1024u /* slots in a 4 KiB page */
#define RESERVE_PART 16u /* of the disk, but no more than a segment; entries, small beside their records, go on to a quarter of that */

int32_t zs_index_hash(struct zs_index *ix, struct zr_str topic, struct zr_str key, uint32_t kind)
{
    zl_buf_clear(&ix->key);
    zl_buf_str(&ix->key, topic);
    zl_buf_str(&ix->key, zl_str(kind == ZR_KEY_TAG ? "#T#" : "#"));
    zl_buf_str(&ix->key, key);
    int32_t h = zl_java_hash(zl_buf_as_str(&ix->key));
    return h == INT32_MIN ? 0 : (h < 0 ? -h : h);
}

/* ---- the table --------------------------------------------------------------------------------------------------------- */

static uint32_t is_name(const char *name)
{
    uint32_t n = 0;
    while (name[n] >= '0' && name[n] <= '9') n++;
    return n == 17 && name[n] == 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp((*(struct zs_ifile *const *)a)->name, (*(struct zs_ifile *const *)b)->name);
}

uint32_t zs_index_insert(struct zs_index *ix, uint64_t at, struct zs_ifile *f)
{
    if (ix->n == ix->cap) {
        uint64_t cap = ix->cap ? ix->cap * 2 : 8;
        struct zs_ifile **files = realloc(ix->files, cap * sizeof *files);
        if (!files) return 0;
        ix->files = files;
        ix->cap = cap;
    }
    memmove(ix->files + at + 1, ix->files + at, (ix->n - at) * sizeof *ix->files);
    ix->files[at] = f;
    ix->n++;
    return 1;
}

static void take_out(struct zs_index *ix, uint64_t at)
{
    free(ix->files[at]);
    memmove(ix->files + at, ix->files + at + 1, (ix->n - at - 1) * sizeof *ix->files);
    ix->n--;
}

int64_t zs_index_delete(struct zr_inst *st, uint64_t at)
{
    char path[ZS_PATH];
    if (!zs_path(path, "%s/%s", st->index_dir, st->index->files[at]->name)) return -ENAMETOOLONG;
    int64_t r = st->io->unlink(st->io->ctx, path);
    if (r < 0 && r != -ENOENT) return r;
    /* A file that came back after a power failure would speak of a log that is not this one any more. */
    if (r >= 0 && st->io->sync_dir(st->io->ctx, st->index_dir) < 0) zs_index_unsure(st->index);
    take_out(st->index, at);
    return 0;
}

static int32_t found_file(void *ctx, const char *name)
{
    struct zr_inst *st = ctx;
    if (!is_name(name)) return 0;
    struct zs_ifile *f = calloc(1, sizeof *f);
    if (!f) return 1;
    snprintf(f->name, sizeof f->name, "%s", name);
    f->count = 1;
    if (zs_index_insert(st->index, st->index->n, f)) return 0;
    free(f);
    return 1;
}

int64_t zs_index_file_open(struct zr_inst *st, const struct zs_ifile *f)
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

static void header_load(struct zs_ifile *f, const uint8_t *p, int64_t max_entries)
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

static void header_store(const struct zs_ifile *f, uint8_t *p)
{
    zl_store64(p, (uint64_t)f->begin_ms);
    zl_store64(p + 8, (uint64_t)f->end_ms);
    zl_store64(p + 16, (uint64_t)f->begin_phys);
    zl_store64(p + 24, (uint64_t)f->end_phys);
    zl_store32(p + 32, (uint32_t)f->slots_used);
    zl_store32(p + 36, (uint32_t)f->count);
}

static int64_t entry_phys(struct zr_inst *st, int32_t fd, int32_t n)
{
    uint8_t e[ENTRY];
    int64_t r = zl_io_read_all(st->io, fd, e, ENTRY, zs_index_entry_off(st->index, n));
    return r < 0 ? r : (int64_t)zl_load64(e + 4);
}

uint32_t zs_index_ends_agree(struct zr_inst *st, const struct zs_ifile *f)
{
    if (f->count <= 1 || f->begin_phys > f->end_phys || f->end_phys >= atomic_load(&st->end)) return 0;
    int64_t fd = zs_index_file_open(st, f);
    if (fd < 0) return 0;
    uint32_t good = entry_phys(st, (int32_t)fd, 1) == f->begin_phys && entry_phys(st, (int32_t)fd, f->count - 1) == f->end_phys;
    st->io->close(st->io->ctx, (int32_t)fd);
    return good;
}

/* Reads one file's header. 1: it is an index file of this shape; 0: it is none; -errno. */
static int64_t header_read(struct zr_inst *st, struct zs_ifile *f)
{
    struct zr_io_stat stat = { .size = 0 };
    uint8_t head[HEAD];
    int64_t size = zs_index_file_size(st->index), fd = zs_index_file_open(st, f);
    if (fd < 0) return fd;
    int64_t r = st->io->fstat(st->io->ctx, (int32_t)fd, &stat);
    if (r >= 0 && stat.size == (uint64_t)size) r = zl_io_read_all(st->io, (int32_t)fd, head, HEAD, 0);
    st->io->close(st->io->ctx, (int32_t)fd);
    if (r < 0) return r;
    if (stat.size != (uint64_t)size) return 0;
    header_load(f, head, st->index->max_entries);
    return 1;
}

int64_t zs_index_list(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    int64_t r = st->io->list(st->io->ctx, st->index_dir, found_file, st);
    if (r != 0) return r > 0 ? -ENOMEM : r;
    if (ix->n) qsort(ix->files, ix->n, sizeof(struct zs_ifile *), by_name);
    for (uint64_t i = 0; i < ix->n;) {
        struct zs_ifile *f = ix->files[i];
        uint32_t last = i + 1 == ix->n;
        r = header_read(st, f);
        if (r > 0 && (last || zs_index_ends_agree(st, f))) {
            i++;
        } else if (r < 0) {
            zs_log(st, ZR_LOG_WARN, "index file %s/%s is not used: %s", st->index_dir, f->name, zs_errno_text(r));
            take_out(ix, i);
        } else {
            zs_log(st, ZR_LOG_WARN, "index file %s/%s %s: it is deleted, and made anew from the log", st->index_dir, f->name,
                   r == 0 ? "has another size than index_slots and index_entries give" : "is damaged");
            r = zs_index_delete(st, i);
            if (r < 0) {
                zs_log(st, ZR_LOG_WARN, "index file %s/%s cannot be deleted: %s; it is left alone", st->index_dir, f->name, zs_errno_text(r));
                take_out(ix, i);
            }
        }
    }
    return 0;
}

/* ---- the writer of one file --------------------------------------------------------------------------------------------- */

void zs_iwriter_close(struct zr_inst *st, struct zs_iwriter *w)
{
    if (w->open) st->io->close(st->io->ctx, w->fd);
    free(w->slots);
    free(w->page_dirty);
    free(w->block);
    *w = (struct zs_iwriter){ .fd = -1 };
}

uint32_t zs_iwriter_ready(struct zs_index *ix, struct zs_iwriter *w)
{
    if (!w->block) w->block = malloc(BLOCK * ENTRY);
    free(w->slots); /* of an opening that failed */
    free(w->page_dirty);
    w->slots = calloc((size_t)ix->slot_count, sizeof *w->slots);
    w->page_dirty = calloc((size_t)(ix->slot_count / PAGE_SLOTS + 1), 1);
    return w->slots && w->page_dirty && w->block;
}

int64_t zs_iwriter_make(struct zr_inst *st, struct zs_iwriter *w, struct zs_ifile *f)
{
    char path[ZS_PATH];
    if (!zs_path(path, "%s/%s", st->index_dir, f->name)) return -ENAMETOOLONG;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_EXCL, 0644);
    if (fd < 0) return fd;
    int64_t r = st->io->ftruncate(st->io->ctx, (int32_t)fd, zs_index_file_size(st->index));
    if (r >= 0 && !zs_iwriter_ready(st->index, w)) r = -ENOMEM;
    if (r < 0) {
        st->io->close(st->io->ctx, (int32_t)fd);
        st->io->unlink(st->io->ctx, path);
        return r;
    }
    w->f = f;
    w->fd = (int32_t)fd;
    w->open = 1;
    w->block_from = 1;
    return 0;
}

/* The slot whose bytes are the first at or behind off that may not be zero; an end of the slots' when there is none. */
static int64_t data_from(struct zr_inst *st, const struct zs_iwriter *w, int64_t off)
{
    int64_t end = HEAD + 4 * st->index->slot_count;
    if (!ZR_HAS(struct zr_io_v1, st->io, seek_data) || !st->io->seek_data) return off;
    int64_t at = st->io->seek_data(st->io->ctx, w->fd, off);
    if (at == -ENXIO || at >= end) return end;
    return at > off ? HEAD + (at - HEAD) / 4 * 4 : off;
}

/* Reads the slots, stepping over holes. */
int64_t zs_iwriter_slots_load(struct zr_inst *st, struct zs_iwriter *w)
{
    uint8_t raw[65536];
    int64_t off = HEAD, end = HEAD + 4 * st->index->slot_count;
    while ((off = data_from(st, w, off)) < end) {
        uint64_t n = end - off < (int64_t)sizeof raw ? (uint64_t)(end - off) : sizeof raw;
        int64_t r = zl_io_read_all(st->io, w->fd, raw, n, off);
        if (r < 0) return r;
        for (uint64_t i = 0; i < n; i += 4) w->slots[(off - HEAD + (int64_t)i) / 4] = (int32_t)zl_load32(raw + i);
        off += (int64_t)n;
    }
    return 0;
}

void zs_iwriter_slot_set(struct zs_iwriter *w, int64_t slot, int32_t v)
{
    w->slots[slot] = v;
    w->page_dirty[slot / PAGE_SLOTS] = 1;
}

/* May the index have so many bytes more? 0 or -ENOSPC. */
static int64_t room_for(struct zr_inst *st, uint64_t bytes, uint32_t quarters)
{
    struct zr_io_disk disk = { 0 };
    if (st->io->disk(st->io->ctx, st->index_dir, &disk) < 0 || disk.total == 0) return 0;
    uint64_t reserve = disk.total / RESERVE_PART;
    if (reserve > (uint64_t)st->segs.size) reserve = (uint64_t)st->segs.size;
    return disk.available >= bytes + reserve / 4 * quarters ? 0 : -ENOSPC;
}

static int64_t block_write(struct zr_inst *st, struct zs_iwriter *w)
{
    int64_t n = w->f->count - w->block_from;
    if (n <= 0) return 0;
    int64_t r = room_for(st, (uint64_t)n * ENTRY, 1);
    if (r >= 0) r = zl_io_write_all(st->io, w->fd, w->block, (uint64_t)n * ENTRY, zs_index_entry_off(st->index, w->block_from));
    if (r < 0) return r;
    w->block_from = w->f->count;
    return 0;
}

static int64_t slots_write(struct zr_inst *st, struct zs_iwriter *w)
{
    int64_t slots = st->index->slot_count;
    uint8_t raw[PAGE_SLOTS * 4];
    uint64_t dirty = 0;
    for (int64_t page = 0; page * PAGE_SLOTS < slots; page++) dirty += w->page_dirty[page];
    int64_t room = dirty ? room_for(st, dirty * sizeof raw, 4) : 0;
    if (room < 0) return room;
    for (int64_t page = 0; page * PAGE_SLOTS < slots; page++) {
        if (!w->page_dirty[page]) continue;
        int64_t from = page * PAGE_SLOTS, n = slots - from < PAGE_SLOTS ? slots - from : PAGE_SLOTS;
        for (int64_t i = 0; i < n; i++) zl_store32(raw + i * 4, (uint32_t)w->slots[from + i]);
        int64_t r = zl_io_write_all(st->io, w->fd, raw, (uint64_t)n * 4, HEAD + 4 * from);
        if (r < 0) return r;
        w->page_dirty[page] = 0;
    }
    return 0;
}

static int64_t header_write(struct zr_inst *st, struct zs_iwriter *w)
{
    uint8_t head[HEAD];
    header_store(w->f, head);
    int64_t r = zl_io_write_all(st->io, w->fd, head, HEAD, 0);
    if (r >= 0) w->header_dirty = 0;
    return r < 0 ? r : 0;
}

static int64_t file_sync(struct zr_inst *st, struct zs_iwriter *w)
{
    int64_t r = st->io->fdatasync(st->io->ctx, w->fd);
    if (r < 0) zs_index_unsure(st->index); /* the kernel may have dropped the pages: a later sync that succeeds says nothing */
    return r < 0 ? r : 0;
}

int64_t zs_iwriter_flush(struct zr_inst *st, struct zs_iwriter *w, uint32_t sync)
{
    if (!w->open) return 0;
    int64_t r = block_write(st, w);
    if (r >= 0 && w->header_dirty) r = slots_write(st, w);
    if (r >= 0 && w->header_dirty) r = header_write(st, w);
    return r < 0 || !sync ? r : file_sync(st, w);
}

int64_t zs_iwriter_finish(struct zr_inst *st, struct zs_iwriter *w)
{
    int64_t r = block_write(st, w);
    if (r >= 0) r = slots_write(st, w);
    if (r >= 0) r = file_sync(st, w);
    if (r >= 0) r = header_write(st, w);
    return r < 0 ? r : file_sync(st, w);
}

int64_t zs_iwriter_put(struct zr_inst *st, struct zs_iwriter *w, int32_t hash, int64_t phys, int64_t ms)
{
    struct zs_ifile *f = w->f;
    if (f->count - w->block_from >= (int32_t)BLOCK) {
        int64_t r = block_write(st, w);
        if (r < 0) return r;
    }
    int32_t n = f->count;
    int64_t slot = hash % st->index->slot_count, diff = f->begin_ms > 0 && ms > f->begin_ms ? (ms - f->begin_ms) / 1000 : 0;
    if (diff > INT32_MAX) diff = INT32_MAX;
    int32_t prev = w->slots[slot];
    if (prev <= 0 || prev >= n) prev = 0;
    uint8_t *e = w->block + (int64_t)(n - w->block_from) * ENTRY;
    zl_store32(e, (uint32_t)hash);
    zl_store64(e + 4, (uint64_t)phys);
    zl_store32(e + 12, (uint32_t)diff);
    zl_store32(e + 16, (uint32_t)prev);
    zs_iwriter_slot_set(w, slot, n);
    if (ms < 0 || ms > ZS_MAX_POSITION) ms = f->end_ms; /* damage that no checksum covers */
    if (n <= 1) {
        f->begin_phys = phys;
        f->begin_ms = ms;
    }
    if (prev == 0) f->slots_used++;
    f->count = n + 1;
    f->end_phys = phys;
    f->end_ms = ms;
    w->header_dirty = 1;
    return 0;
}
