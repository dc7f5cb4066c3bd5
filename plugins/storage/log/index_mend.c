/* SPDX-License-Identifier: Apache-2.0 */
/* index_mend.c - index files that are damaged or missing are made anew from the log.
 *
 * What stays true:
 *   1. After a stop that was not clean nothing of the newest file is believed but its entries: they are read one after the
 *      other, an entry whose previous does not agree with what its chain must be ends the file, and slots and header are made
 *      anew. What lies behind is zeroed: of a log that a power failure cut, it would speak of other records one day. What the
 *      index then lacks is read from the log again.
 *   2. The other files whose end is behind the checkpoint's index time may not be on disk as a whole: each is read once; slots
 *      that do not agree with the entries are written anew, a file whose entries are damaged is deleted.
 *   3. Where another broker ran since our last look, and was killed, a file may lack records in its middle. Log and entries
 *      (both in the order of physical offsets) are compared side by side from the last position that we vouch for; a file is
 *      cut before the first record of which it lacks a key.
 *   4. What could not be read, written or deleted here leaves the files unsure (zs_index_unsure): all this is done again by the
 *      next start, whether the stop is clean or not.
 *   5. Files cover the log without gaps. What lies in the log between two files' records, or before the first file's, is read;
 *      keys found there go into files of their own, named so that they stand between. This is done behind following the log,
 *      in small steps; a query waits for it as it waits for the newest message. A part where no keys are is remembered
 *      (index_bare.c). */
#include "index.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define ENTRY ZS_INDEX_ENTRY
#define CHUNK 1024
#define PAGE_SLOTS 1024u
#define KEYS_COMPARED 64u /* of one record */
#define NAMES_BEFORE 1000000 /* names kept free for files before the oldest */

/* ---- reading entries ------------------------------------------------------------------------------------------------- */

struct entries {
    int64_t last;      /* physical offset of the last good one, -1: none */
    int32_t n;         /* the first that is not good */
    int32_t last_from; /* the first entry of the last record */
    int32_t slots_used;
};

/* Reads entries up to number `limit` as far as they agree with one another, into w's slots. 0 or -errno. */
static int64_t entries_read(struct zr_inst *st, struct zs_iwriter *w, int32_t limit, struct entries *ret)
{
    const struct zs_index *ix = st->index;
    uint8_t raw[ENTRY * CHUNK];
    int64_t end = atomic_load(&st->end);
    *ret = (struct entries){ .last = -1, .n = 1, .last_from = 1 };
    for (uint32_t going = 1; going && ret->n < limit;) {
        int64_t k = limit - ret->n < CHUNK ? limit - ret->n : CHUNK;
        int64_t r = zl_io_read_all(st->io, w->fd, raw, (uint64_t)k * ENTRY, zs_index_entry_off(ix, ret->n));
        if (r < 0) return r;
        for (int64_t i = 0; i < k && going; i++) {
            const uint8_t *e = raw + i * ENTRY;
            int32_t hash = (int32_t)zl_load32(e), diff = (int32_t)zl_load32(e + 12), prev = (int32_t)zl_load32(e + 16);
            int64_t phys = (int64_t)zl_load64(e + 4), slot = hash < 0 ? 0 : hash % ix->slot_count;
            going = hash >= 0 && diff >= 0 && phys >= ret->last && phys >= 0 && phys < end && prev == w->slots[slot] &&
                    (hash || phys || prev);
            if (!going) break;
            if (phys != ret->last) ret->last_from = ret->n;
            if (prev == 0) ret->slots_used++;
            ret->last = phys;
            zs_iwriter_slot_set(w, slot, ret->n++);
        }
    }
    return 0;
}

/* The last record may be there in part: it is taken out and read again. Its entries are the newest of their chains. */
static int64_t last_record_out(struct zr_inst *st, struct zs_iwriter *w, struct entries *en)
{
    for (int32_t i = en->n - 1; i >= en->last_from && i >= 1; i--) {
        uint8_t e[ENTRY];
        int64_t r = zl_io_read_all(st->io, w->fd, e, ENTRY, zs_index_entry_off(st->index, i));
        if (r < 0) return r;
        int32_t prev = (int32_t)zl_load32(e + 16);
        zs_iwriter_slot_set(w, (int32_t)zl_load32(e) % st->index->slot_count, prev);
        if (prev == 0) en->slots_used--;
    }
    en->n = en->last_from;
    return 0;
}

static int64_t record_ms(struct zr_inst *st, int64_t phys)
{
    struct zl_record r;
    return zs_scan_one(st, phys, &r) ? r.store_ms : -1;
}

static int64_t phys_of(struct zr_inst *st, int32_t fd, int32_t n)
{
    uint8_t e[ENTRY];
    if (zl_io_read_all(st->io, fd, e, ENTRY, zs_index_entry_off(st->index, n)) < 0) return -1;
    return (int64_t)zl_load64(e + 4);
}

/* The header's times and offsets from the records themselves. */
static void header_from_records(struct zr_inst *st, struct zs_iwriter *w)
{
    struct zs_ifile *f = w->f;
    f->begin_phys = phys_of(st, w->fd, 1);
    f->end_phys = phys_of(st, w->fd, f->count - 1);
    int64_t begin_ms = record_ms(st, f->begin_phys), end_ms = record_ms(st, f->end_phys);
    if (begin_ms >= 0 && begin_ms < ZS_MAX_POSITION) f->begin_ms = begin_ms;
    if (end_ms >= 0 && end_ms < ZS_MAX_POSITION) f->end_ms = end_ms;
}

/* Marks the pages of slots that are other than they must be. How many, or -errno. */
static int64_t slots_compare(struct zr_inst *st, struct zs_iwriter *w)
{
    int64_t slots = st->index->slot_count, n_bad = 0;
    uint8_t raw[PAGE_SLOTS * 4];
    for (int64_t from = 0; from < slots; from += PAGE_SLOTS) {
        int64_t n = slots - from < PAGE_SLOTS ? slots - from : PAGE_SLOTS, bad = 0;
        int64_t r = zl_io_read_all(st->io, w->fd, raw, (uint64_t)n * 4, ZS_INDEX_HEAD + 4 * from);
        if (r < 0) return r;
        for (int64_t i = 0; i < n; i++) bad |= (int32_t)zl_load32(raw + i * 4) != w->slots[from + i];
        w->page_dirty[from / PAGE_SLOTS] = bad != 0;
        n_bad += bad;
    }
    return n_bad;
}

/* The pages that must be written are those that are other in the file: pages of no slots stay the holes they are. */
static void slots_mark(struct zr_inst *st, struct zs_iwriter *w)
{
    if (slots_compare(st, w) < 0) memset(w->page_dirty, 1, (size_t)(st->index->slot_count / PAGE_SLOTS + 1));
}

/* ---- the newest file after a kill ---------------------------------------------------------------------------------------- */

/* What lies in the file behind its entries, of a log that was lost perhaps, would be believed by a later start: it is taken out,
 * on the disk too. 0 or -errno. */
static int64_t behind_clear(struct zr_inst *st, struct zs_iwriter *w, int32_t n)
{
    static const uint8_t zeros[ENTRY * CHUNK];
    uint8_t raw[ENTRY * CHUNK];
    int64_t off = zs_index_entry_off(st->index, n), end = zs_index_file_size(st->index), r = 0;
    uint32_t seek = ZR_HAS(struct zr_io_v1, st->io, seek_data) && st->io->seek_data != NULL, found = 0;
    while (off < end) {
        int64_t data = seek ? st->io->seek_data(st->io->ctx, w->fd, off) : off;
        if (data == -ENXIO || data >= end) break;
        if (data > off) off = data;
        uint64_t len = end - off < (int64_t)sizeof raw ? (uint64_t)(end - off) : sizeof raw;
        r = zl_io_read_all(st->io, w->fd, raw, len, off);
        if (r >= 0 && memcmp(raw, zeros, len) != 0) {
            found = 1;
            r = zs_zero(st, w->fd, off, (int64_t)len);
        }
        if (r < 0) return r;
        off += (int64_t)len;
    }
    return found ? st->io->fdatasync(st->io->ctx, w->fd) : 0;
}

/* Opens the newest file and believes only its entries. 0 or -errno. */
static int64_t newest_open(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    struct zs_iwriter *w = &ix->cur;
    struct zs_ifile *f = zs_index_newest(ix);
    struct entries en;
    if (!zs_iwriter_ready(ix, w)) return -ENOMEM;
    int64_t fd = zs_index_file_open(st, f);
    if (fd < 0) return fd;
    w->f = f;
    w->fd = (int32_t)fd;
    w->open = 1;
    int64_t r = entries_read(st, w, (int32_t)ix->max_entries, &en);
    if (r >= 0) r = last_record_out(st, w, &en);
    if (r >= 0) r = behind_clear(st, w, en.n);
    if (r < 0) return r;
    if (en.last >= 0) atomic_store(&ix->pos, en.last);
    slots_mark(st, w);
    f->count = en.n;
    f->slots_used = en.slots_used;
    if (f->count > 1) header_from_records(st, w);
    w->header_dirty = 1;
    w->block_from = f->count;
    return 0;
}

/* How many keys of its newest record (last 1), or of its oldest, this file has. */
static uint32_t keys_there(struct zr_inst *st, const struct zs_ifile *f, uint32_t last)
{
    int32_t n = 0;
    int64_t fd = zs_index_file_open(st, f), phys = last ? f->end_phys : f->begin_phys;
    if (fd < 0) return 0;
    while (n + 1 < f->count && phys_of(st, (int32_t)fd, last ? f->count - 1 - n : n + 1) == phys) n++;
    st->io->close(st->io->ctx, (int32_t)fd);
    return (uint32_t)n;
}

void zs_index_repair(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    while (ix->n) {
        struct zs_ifile *f = zs_index_newest(ix);
        int64_t from = atomic_load(&ix->pos), r = newest_open(st);
        if (r < 0) {
            zs_iwriter_close(st, &ix->cur);
            zs_log(st, ZR_LOG_WARN, "index file %s cannot be mended: %s; it is left alone", f->name, zs_errno_text(r));
            free(f);
            ix->n--;
            continue;
        }
        zs_log(st, ZR_LOG_INFO, "index file %s has %d entries; the log is read for keys from %lld on", f->name, f->count - 1,
               (long long)atomic_load(&ix->pos));
        if (f->count > 1 || atomic_load(&ix->pos) != from) {
            atomic_store(&ix->last, f->count > 1 ? f->end_phys : -1);
            return;
        }
        zs_iwriter_close(st, &ix->cur); /* nothing in it can be used */
        r = zs_index_delete(st, ix->n - 1);
        if (r < 0) { /* its header says nothing true: what follows is not to go by it */
            zs_log(st, ZR_LOG_WARN, "index file %s cannot be deleted: %s; it is left alone", f->name, zs_errno_text(r));
            free(f);
            ix->n--;
        }
        if (ix->n == 0) return;
        atomic_store(&ix->last, zs_index_newest(ix)->end_phys);
        atomic_store(&ix->pos, zs_index_newest(ix)->end_phys);
        ix->n_put = keys_there(st, zs_index_newest(ix), 1); /* the others may have been in the file that is gone */
        return;
    }
}

/* ---- the other files: read whole when they may not have been on disk ------------------------------------------------------- */

/* 1: the file is good (by now); 0: its entries are damaged; -errno. */
static int64_t file_check(struct zr_inst *st, struct zs_ifile *f)
{
    struct zs_iwriter w = { .f = f };
    struct entries en = { .n = 0 };
    int64_t fd = zs_iwriter_ready(st->index, &w) ? zs_index_file_open(st, f) : -ENOMEM, r = fd;
    if (fd >= 0) {
        w.fd = (int32_t)fd;
        w.open = 1;
        r = entries_read(st, &w, f->count, &en);
    }
    if (r >= 0 && en.n == f->count) {
        r = slots_compare(st, &w);
        if (r > 0) {
            zs_log(st, ZR_LOG_WARN, "index file %s: slots did not agree with the entries and are written anew", f->name);
            w.block_from = f->count;
            w.header_dirty = 1;
            r = zs_iwriter_flush(st, &w, 1);
        }
    }
    zs_iwriter_close(st, &w);
    return r < 0 ? r : en.n == f->count;
}

static void check_one(struct zr_inst *st, uint64_t i)
{
    struct zs_ifile *f = st->index->files[i];
    int64_t r = file_check(st, f);
    if (r > 0) return;
    zs_log(st, ZR_LOG_WARN, "index file %s/%s %s", st->index_dir, f->name,
           r < 0 ? zs_errno_text(r) : "is damaged: it is deleted, and made anew from the log");
    if (r == 0) r = zs_index_delete(st, i);
    if (r < 0) zs_index_unsure(st->index);
}

/* ---- what a file lacks in its middle ------------------------------------------------------------------------------------- */

/* Physical offset of entry n of files[m->file]; -1: it cannot be read. */
static int64_t compare_entry(struct zr_inst *st, struct zs_imend *m, int32_t n)
{
    struct zs_ifile *f = st->index->files[m->file];
    if (n < m->chunk_from || n >= m->chunk_from + m->chunk_n) {
        int64_t k = f->count - n < (int32_t)ZS_INDEX_CHUNK ? f->count - n : (int32_t)ZS_INDEX_CHUNK;
        int64_t fd = zs_index_file_open(st, f), r = fd;
        if (fd >= 0) r = zl_io_read_all(st->io, (int32_t)fd, m->chunk, (uint64_t)k * ENTRY, zs_index_entry_off(st->index, n));
        if (fd >= 0) st->io->close(st->io->ctx, (int32_t)fd);
        m->chunk_from = n;
        m->chunk_n = r < 0 ? 0 : (int32_t)k;
        if (r < 0) zs_index_unsure(st->index); /* what it lacks is not known */
        if (r < 0) return -1;
    }
    return (int64_t)zl_load64(m->chunk + (int64_t)(n - m->chunk_from) * ENTRY + 4);
}

static void compare_file(struct zs_imend *m, uint64_t file)
{
    m->file = file;
    m->entry = 1;
    m->chunk_n = 0;
}

static void compare_end(struct zs_imend *m)
{
    m->compare = -1;
    m->comparing = 0;
}

/* The log cannot be read: what the files lack behind it is not known, and nothing is vouched for; the next start compares again. */
static void compare_unsure(struct zr_inst *st, int64_t pos)
{
    zs_index_unsure(st->index);
    zs_log(st, ZR_LOG_ERROR, "the index cannot be compared with the log from %lld on, which cannot be read; the next start tries again", (long long)pos);
}

/* The file keeps the entries before n. What it had from there on is read from the log again. 0 or -errno. */
static int64_t file_cut(struct zr_inst *st, uint64_t i, int32_t n)
{
    struct zs_index *ix = st->index;
    struct zs_ifile *f = ix->files[i];
    struct zs_iwriter w = { .f = f };
    struct entries en = { .n = 0 };
    uint32_t newest = i + 1 == ix->n, cut = 0;
    int64_t r = newest ? zs_iwriter_flush(st, &ix->cur, 0) : 0;
    if (r < 0) return r;
    if (newest) zs_iwriter_close(st, &ix->cur);
    int64_t fd = zs_iwriter_ready(ix, &w) ? zs_index_file_open(st, f) : -ENOMEM;
    if (fd >= 0) {
        w.fd = (int32_t)fd;
        w.open = 1;
        r = entries_read(st, &w, n, &en);
        if (r >= 0 && en.n != n) r = -EBADMSG;
        if (r >= 0) r = behind_clear(st, &w, n);
    } else {
        r = fd;
    }
    if (r >= 0) {
        slots_mark(st, &w);
        cut = 1;
        f->count = w.block_from = n;
        f->slots_used = en.slots_used;
        header_from_records(st, &w);
        w.header_dirty = 1;
        r = zs_iwriter_finish(st, &w);
    }
    if (newest && cut) { /* following goes on with this writer, and writes what could not be written now */
        ix->cur = w;
        ix->n_put = n > 1 ? keys_there(st, f, 1) : 0; /* its last record may have had others behind them */
        atomic_store(&ix->last, f->end_phys);
        atomic_store(&ix->pos, f->end_phys);
    } else {
        zs_iwriter_close(st, &w);
    }
    return r;
}

/* The hashes of a record's keys, at most cap; its tag's is left out: not every broker has an entry for that. */
static uint32_t keys_of(struct zr_inst *st, const struct zl_record *r, int32_t *ret, uint32_t cap)
{
    struct zr_str name, value, part, keys = { NULL, 0 }, unique = { NULL, 0 };
    uint64_t pos = 0;
    uint32_t n = 0;
    if ((r->sys_flag & ZR_SYSFLAG_TRANSACTION_MASK) == ZR_SYSFLAG_ROLLBACK) return 0;
    while (zl_props_next(r->properties, &pos, &name, &value)) {
        if (zl_is(name, "UNIQ_KEY")) unique = value;
        else if (zl_is(name, "KEYS")) keys = value;
    }
    if (unique.len) ret[n++] = zs_index_hash(st->index, r->topic, unique, ZR_KEY_UNIQUE);
    while (n < cap && keys.len && zl_split(&keys, ' ', &part))
        if (part.len) ret[n++] = zs_index_hash(st->index, r->topic, part, ZR_KEY_PLAIN);
    return n;
}

/* 1: of the entries of this record, which begin at m->entry, one that it must have is missing; 0: none is, or it may be where this
 * file begins or ends; -1: they cannot be read. */
static int compare_keys(struct zr_inst *st, struct zs_imend *m, int64_t phys, const int32_t *keys, uint32_t n)
{
    int32_t count = st->index->files[m->file]->count, k = m->entry;
    uint32_t n_seen = 0;
    uint8_t seen[KEYS_COMPARED] = { 0 };
    if (k == 1) return 0;
    for (; k < count && n_seen < n; k++) {
        int64_t at = compare_entry(st, m, k);
        if (at < 0) return -1;
        if (at != phys) return 1;
        int32_t hash = (int32_t)zl_load32(m->chunk + (int64_t)(k - m->chunk_from) * ENTRY);
        for (uint32_t i = 0; i < n; i++) {
            if (seen[i] || keys[i] != hash) continue;
            seen[i] = 1;
            n_seen++;
        }
    }
    return 0;
}

/* Looks for the entries of one record. 0: they are there, or between files; 1: files[m->file] lacks them, or some of them, from
 * m->entry on; -1: nothing to compare with. */
static int compare_record(struct zr_inst *st, struct zs_imend *m, int64_t phys, const int32_t *keys, uint32_t n)
{
    struct zs_index *ix = st->index;
    while (m->file < ix->n) {
        const struct zs_ifile *f = ix->files[m->file];
        int64_t at = -1;
        while (m->entry < f->count && (at = compare_entry(st, m, m->entry)) >= 0 && at < phys) m->entry++;
        if (m->entry < f->count && at < 0) return -1;
        if (m->entry < f->count) return at > phys ? m->entry > 1 : compare_keys(st, m, phys, keys, n);
        compare_file(m, m->file + 1);
    }
    return -1;
}

static void compare_start(struct zr_inst *st, struct zs_imend *m)
{
    struct zs_index *ix = st->index;
    uint64_t i = 0;
    zs_iwriter_flush(st, &ix->cur, 0);
    while (i < ix->n && (ix->files[i]->count <= 1 || ix->files[i]->end_phys < m->compare)) i++;
    m->comparing = 1;
    m->compare_to = ix->n ? zs_index_newest(ix)->end_phys : -1;
    compare_file(m, i);
    if (i == ix->n) return;
    for (int32_t lo = 1, hi = ix->files[i]->count; lo < hi;) { /* the first entry at or behind the position */
        int32_t mid = lo + (hi - lo) / 2;
        m->chunk_n = 0;
        int64_t at = compare_entry(st, m, mid);
        if (at < 0) { /* what was not read is no word of where the position lies: all entries are gone through, if they can be read */
            m->entry = 1;
            break;
        }
        if (at < m->compare) m->entry = lo = mid + 1;
        else hi = mid;
    }
    m->chunk_n = 0;
}

static void compare_step(struct zr_inst *st, struct zs_imend *m, struct zs_scan *s)
{
    struct zs_index *ix = st->index;
    struct zl_record rec;
    if (!m->comparing) compare_start(st, m);
    if (m->compare < atomic_load(&st->begin)) m->compare = atomic_load(&st->begin);
    s->pos = m->compare;
    s->limit = atomic_load(&ix->pos);
    for (uint32_t i = 0; i < ZS_INDEX_BATCH; i++) {
        int what = s->pos > m->compare_to ? ZS_SCAN_END : zs_scan_next(s, &rec);
        s->failed = s->shut = 0;
        if (what == ZS_SCAN_END || what == ZS_SCAN_STOP || (what == ZS_SCAN_BAD && !zs_scan_resync(s))) {
            if (what == ZS_SCAN_STOP || s->failed || s->shut) compare_unsure(st, s->pos);
            compare_end(m);
            return;
        }
        m->compare = s->pos;
        int32_t keys[KEYS_COMPARED];
        uint32_t n = what == ZS_SCAN_RECORD && rec.physical_offset <= m->compare_to ? keys_of(st, &rec, keys, KEYS_COMPARED) : 0;
        if (n == 0) continue;
        int found = compare_record(st, m, rec.physical_offset, keys, n);
        if (found == 0) continue;
        uint64_t file = m->file;
        if (found < 0) {
            compare_end(m);
            return;
        }
        zs_log(st, ZR_LOG_WARN, "index file %s lacks keys of the record at %lld: from there on it is made anew", ix->files[file]->name,
               (long long)rec.physical_offset);
        int64_t r = file_cut(st, file, m->entry);
        if (r < 0) {
            zs_log(st, ZR_LOG_WARN, "index file %s cannot be cut: %s; the next start tries again", ix->files[file]->name,
                   zs_errno_text(r));
            zs_index_unsure(ix);
        }
        if (r < 0 || file + 1 >= ix->n) {
            compare_end(m);
            return;
        }
        compare_file(m, file + 1);
        m->compare = s->pos = ix->files[file + 1]->begin_phys;
    }
}

/* ---- gaps ------------------------------------------------------------------------------------------------------------------- */

static int64_t number_of(const struct zs_ifile *f) { return strtoll(f->name, NULL, 10); }

static void partial_drop(struct zr_inst *st, struct zs_imend *m)
{
    char path[ZS_PATH];
    struct zs_ifile *f = m->w.f;
    if (!m->w.open) return;
    if (zs_path(path, "%s/%s", st->index_dir, f->name)) st->io->unlink(st->io->ctx, path);
    zs_iwriter_close(st, &m->w);
    free(f);
}

/* The file that is made is complete: it takes its place. */
static int64_t partial_keep(struct zr_inst *st, struct zs_imend *m)
{
    struct zs_ifile *f = m->w.f;
    if (!m->w.open) return 0;
    int64_t r = zs_iwriter_finish(st, &m->w);
    if (r >= 0 && !zs_index_insert(st->index, m->at, f)) r = -ENOMEM;
    if (r < 0) return r;
    zs_iwriter_close(st, &m->w);
    m->at++;
    return 0;
}

static int64_t mend_file(struct zr_inst *st, struct zs_imend *m)
{
    struct zs_index *ix = st->index;
    struct zs_ifile *f = calloc(1, sizeof *f);
    if (!f) return -ENOMEM;
    f->count = 1;
    int64_t r = -EEXIST;
    while (r == -EEXIST && m->name < number_of(ix->files[m->at])) {
        snprintf(f->name, sizeof f->name, "%017lld", (long long)m->name++);
        r = zs_iwriter_make(st, &m->w, f);
    }
    if (r < 0) free(f);
    return r;
}

static int64_t mend_put(struct zr_inst *st, int32_t hash, const struct zl_record *rec)
{
    struct zs_imend *m = &st->index->mend;
    int64_t r = 0;
    if (m->w.open && m->w.f->count >= st->index->max_entries) r = partial_keep(st, m);
    if (r >= 0 && !m->w.open) r = mend_file(st, m);
    if (r >= 0) r = zs_iwriter_put(st, &m->w, hash, rec->physical_offset, rec->store_ms);
    if (r >= 0) m->n_keys++;
    return r;
}

static int64_t count_put(struct zr_inst *st, int32_t hash, const struct zl_record *rec)
{
    (void)hash;
    (void)rec;
    st->index->mend.n_left++;
    return 0;
}

static int64_t few_put(struct zr_inst *st, int32_t hash, const struct zl_record *rec)
{
    if (st->index->mend.n_left == 0) return 0;
    st->index->mend.n_left--;
    return mend_put(st, hash, rec);
}

/* The keys of one record may lie in two files. Of the record before the gap the last ones, of the one behind it the first ones
 * may have been in the file that is gone. 0 or -errno. */
static int64_t gap_edges(struct zr_inst *st, struct zs_imend *m, struct zs_scan *s, uint32_t behind)
{
    struct zs_index *ix = st->index;
    struct zl_record rec;
    uint32_t n_put = 0, none = 0;
    if (!behind && (m->at == 0 || ix->files[m->at - 1]->end_phys < atomic_load(&st->begin))) return 0;
    zs_iwriter_flush(st, &ix->cur, 0);
    int64_t at = behind ? m->until : ix->files[m->at - 1]->end_phys, r = 0;
    uint32_t there = keys_there(st, ix->files[behind ? m->at : m->at - 1], !behind);
    s->pos = at;
    s->limit = atomic_load(&ix->pos);
    if (zs_scan_next(s, &rec) != ZS_SCAN_RECORD || rec.physical_offset != at) return 0;
    m->n_left = 0;
    zs_index_keys(st, &rec, &none, count_put);
    if (there >= m->n_left) return 0;
    m->n_left -= there;
    if (!behind) n_put = there;
    r = zs_index_keys(st, &rec, &n_put, few_put);
    return r < 0 ? r : 0;
}

/* Finds the next part of the log that no file speaks of. 0: there is none. */
static uint32_t gap_find(struct zr_inst *st, struct zs_imend *m)
{
    struct zs_index *ix = st->index;
    int64_t begin = atomic_load(&st->begin);
    for (; m->at < ix->n; m->at++) {
        const struct zs_ifile *next = ix->files[m->at], *before = m->at ? ix->files[m->at - 1] : NULL;
        struct zl_record r;
        if (next->count <= 1) continue;
        m->pos = begin;
        if (before && before->end_phys >= begin)
            m->pos = zs_scan_one(st, before->end_phys, &r) ? before->end_phys + r.size : before->end_phys + 1;
        m->until = next->begin_phys;
        m->name = before ? number_of(before) + 1 : number_of(next) - NAMES_BEFORE;
        if (m->name < 0) m->name = 0;
        if (m->pos >= m->until) continue;
        m->part = (struct zs_bare){ m->pos, m->until, -1, 0 };
        m->damaged = 0;
        m->skipped = zs_bare_has(st, m->pos, m->until);
        if (m->skipped) m->pos = m->until; /* its edges are looked at all the same */
        return 1;
    }
    return 0;
}

/* Reads a batch of the gap. 1: there is more; 0: it is read; -errno. */
static int64_t gap_read(struct zr_inst *st, struct zs_imend *m, struct zs_scan *s)
{
    struct zl_record rec;
    s->pos = m->pos;
    s->limit = m->until;
    for (uint32_t i = 0; i < ZS_INDEX_BATCH; i++) {
        uint32_t n_put = 0;
        int what = zs_scan_next(s, &rec);
        if (what == ZS_SCAN_STOP) return -ENOMEM;
        if (what == ZS_SCAN_END) return 0;
        if (what == ZS_SCAN_BAD) {
            m->damaged = 1;
            s->failed = s->shut = 0;
            if (!zs_scan_resync(s)) return s->failed || s->shut ? -EIO : 0;
        }
        if (what == ZS_SCAN_RECORD) {
            m->part.last_phys = rec.physical_offset;
            m->part.last_ms = rec.store_ms;
        }
        int64_t r = what == ZS_SCAN_RECORD ? zs_index_keys(st, &rec, &n_put, mend_put) : 0;
        if (r < 0) return r;
        m->pos = s->pos;
    }
    return 1;
}

static void mend_failed(struct zr_inst *st, struct zs_imend *m, int64_t r)
{
    zs_log(st, ZR_LOG_ERROR, "index entries for the log from %lld to %lld cannot be made anew: %s; the next start tries again",
           (long long)m->pos, (long long)m->until, zs_errno_text(r));
    partial_drop(st, m);
    m->reading = 0;
    m->at++;
}

uint32_t zs_index_mend(struct zr_inst *st, struct zs_scan *s)
{
    struct zs_index *ix = st->index;
    struct zs_imend *m = &ix->mend;
    if (!m->checked) { /* one file at a time, from the newest but one back */
        while (m->at + 1 < ix->n && ix->files[m->at]->end_ms <= m->check_ms) m->at++;
        m->checked = m->at + 1 >= ix->n;
        if (m->checked) m->at = 0;
        else {
            uint64_t n = ix->n;
            check_one(st, m->at);
            if (ix->n == n) m->at++;
        }
        return 1;
    }
    if (m->compare >= 0) {
        compare_step(st, m, s);
        return 1;
    }
    if (!m->reading) {
        if (!gap_find(st, m)) return 0;
        m->reading = 1;
        m->n_keys = 0;
        int64_t r = gap_edges(st, m, s, 0);
        if (r < 0) mend_failed(st, m, r);
        return 1;
    }
    int64_t r = gap_read(st, m, s);
    if (r > 0) return 1;
    if (r == 0) r = gap_edges(st, m, s, 1);
    int64_t until = m->until;
    if (r == 0) r = partial_keep(st, m);
    if (r < 0) {
        mend_failed(st, m, r);
        return 1;
    }
    if (m->n_keys)
        zs_log(st, ZR_LOG_WARN, "the index had nothing of the log before %lld: %llu entries were made anew", (long long)until,
               (unsigned long long)m->n_keys);
    else if (!m->damaged && !m->skipped)
        zs_bare_add(st, &m->part);
    m->reading = 0;
    m->at++;
    return 1;
}

void zs_index_mend_stop(struct zr_inst *st)
{
    struct zs_imend *m = &st->index->mend;
    partial_drop(st, m);
    zs_iwriter_close(st, &m->w);
}
