/* SPDX-License-Identifier: Apache-2.0 */
/* segment.c - the files of the log: finding, opening, mapping, pinning, making ahead, deleting.
 *
 * What stays true:
 *   1. A segment's file has its full size before it is mapped or written, and is never made shorter while it is mapped;
 *      so no load from a mapping can fall behind the end of its file.
 *   2. A segment with pins stays open and mapped, also after it was deleted.
 *   3. The table is contiguous in numbers; a file that is missing in the middle is a NULL in it.
 *   4. At a start names and lengths of all files are judged before any is changed; what is odd is left as it is and named in
 *      the log, and no file is made shorter by a byte that is not zero.
 *   5. A name that was made but whose folder was not synced is remembered (name_unsynced); the flusher syncs it before it
 *      counts anything in that segment as flushed.
 *
 * LOCKING: segs.lock guards the table, each segment's refs, map and fd. It is held over open and mmap of one file, never
 * over reading or writing. prep_lock guards the one segment that is made ahead; not held over its making. */
#include <errno.h>
#include <stdlib.h>
#include "zs_pack.h"

#define AHEAD_PIECE (4ll << 20)
#define MAX_GAP (1 << 20) /* segments missing one after the other: names that are further apart are not of one log */

void zs_seg_path(struct zr_inst *st, int64_t base, char *to)
{
    if (!zs_path(to, "%s/%020lld", zs_dir_of(st, base), (long long)base)) to[0] = 0;
}

uint32_t zs_seg_packed_path(struct zr_inst *st, int64_t base, char *to)
{
    char plain[ZS_PATH];
    zs_seg_path(st, base, plain);
    return plain[0] && zs_path(to, "%s" ZS_PACKED, plain);
}

/* ---- the table ---------------------------------------------------------------------------------------------------- */

static int64_t slot_of(const struct zs_segs *s, int64_t pos)
{
    if (s->n == 0 || pos < s->first) return -1;
    int64_t i = (pos - s->first) / s->size;
    return i < (int64_t)s->n ? i : -1;
}

static void seg_close(struct zr_inst *st, struct zs_seg *seg)
{
    if (seg->map) st->io->unmap(st->io->ctx, seg->map, (uint64_t)st->segs.size);
    if (seg->fd >= 0) {
        st->io->close(st->io->ctx, seg->fd);
        if (!seg->gone) st->segs.n_open--;
    }
    if (seg->packed) zs_seg_pack_close(st, seg);
    seg->map = NULL;
    seg->fd = -1;
}

/* Until it was synced it stays open: an error of writing it back is told to descriptors that were there, and is lost with the last. */
static uint32_t is_unsynced(struct zr_inst *st, const struct zs_seg *seg)
{
    return !st->recovering && !seg->packed && seg->base + st->segs.size > atomic_load(&st->flushed) && seg->base < atomic_load(&st->end);
}

/* Closes the segment that was not used for the longest time, if more than the maximum are open. */
static void seg_evict(struct zr_inst *st)
{
    struct zs_segs *s = &st->segs;
    while (s->n_open > s->max_open) {
        struct zs_seg *oldest = NULL;
        for (uint64_t i = 0; i < s->n; i++) {
            struct zs_seg *seg = s->at[i];
            if (seg && seg->fd >= 0 && seg->refs == 0 && !seg->missing && !is_unsynced(st, seg) && (!oldest || seg->used < oldest->used)) oldest = seg;
        }
        if (!oldest) return;
        seg_close(st, oldest);
    }
}

static uint32_t seg_open(struct zr_inst *st, struct zs_seg *seg)
{
    if (seg->fd < 0) {
        char path[ZS_PATH];
        zs_seg_path(st, seg->base, path);
        int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
        if (fd < 0) {
            atomic_store(&seg->lost, fd == -ENOENT);
            if (!seg->told++) zs_log(st, ZR_LOG_ERROR, "%s cannot be opened: %s", path, zs_errno_text(fd));
            return 0;
        }
        seg->fd = (int32_t)fd;
        st->segs.n_open++;
    }
    if (!seg->map) {
        struct zr_io_stat stat;
        const void *map = NULL;
        int64_t r = st->io->fstat(st->io->ctx, seg->fd, &stat);
        uint32_t cut = r >= 0 && stat.size < (uint64_t)st->segs.size;
        if (cut) r = -EIO; /* by somebody else: not a byte behind its end */
        if (r >= 0) r = st->io->map(st->io->ctx, seg->fd, 0, (uint64_t)st->segs.size, &map);
        atomic_store(&seg->lost, cut);
        if (r < 0) {
            if (!seg->told++) zs_log(st, ZR_LOG_ERROR, "segment %020lld cannot be mapped: %s", (long long)seg->base, zs_errno_text(r));
            return 0;
        }
        seg->map = map;
        seg->told = 0;
    }
    return 1;
}

struct zs_seg *zs_seg_get(struct zr_inst *st, int64_t pos, uint32_t nowait, uint32_t *ret_busy)
{
    struct zs_segs *s = &st->segs;
    struct zs_seg *seg = NULL;
    pthread_mutex_lock(&s->lock);
    int64_t i = slot_of(s, pos);
    if (i >= 0) seg = s->at[i];
    if (seg && !seg->map && !seg->packed) {
        if (nowait) {
            *ret_busy = 1;
            seg = NULL;
        } else if (!seg_open(st, seg)) {
            seg = NULL;
        }
    }
    if (seg) {
        seg->refs++;
        seg->used = ++s->clock;
        if (s->n_open > s->max_open) seg_evict(st);
    }
    pthread_mutex_unlock(&s->lock);
    return seg;
}

struct zs_seg *zs_seg_behind(struct zr_inst *st, int64_t base, uint32_t *ret_unsynced)
{
    struct zs_segs *s = &st->segs;
    struct zs_seg *seg = NULL;
    pthread_mutex_lock(&s->lock);
    int64_t i = base < s->first ? 0 : (base - s->first) / s->size + 1;
    while (i < (int64_t)s->n && !s->at[i]) i++;
    if (i < (int64_t)s->n) seg = s->at[i];
    if (seg) seg->refs++;
    *ret_unsynced = seg && !seg->packed && seg->fd >= 0 && (i + 1 == (int64_t)s->n || seg->base + s->size > atomic_load(&st->flushed));
    pthread_mutex_unlock(&s->lock);
    return seg;
}

void zs_seg_missing(struct zr_inst *st, struct zs_seg *seg, uint32_t missing)
{
    pthread_mutex_lock(&st->segs.lock);
    seg->missing = missing;
    pthread_mutex_unlock(&st->segs.lock);
}

uint32_t zs_seg_reopen(struct zr_inst *st, struct zs_seg *seg)
{
    pthread_mutex_lock(&st->segs.lock);
    uint32_t alone = seg->refs == 1; /* the caller's */
    if (alone) {
        seg_close(st, seg);
        seg->told = 0;
        atomic_store(&seg->lost, 0);
    }
    pthread_mutex_unlock(&st->segs.lock);
    return alone;
}

uint32_t zs_seg_shut_out(struct zr_inst *st, int64_t pos)
{
    pthread_mutex_lock(&st->segs.lock);
    int64_t i = slot_of(&st->segs, pos);
    uint32_t r = i >= 0 && st->segs.at[i] && !st->segs.at[i]->damaged;
    pthread_mutex_unlock(&st->segs.lock);
    return r;
}

uint32_t zs_seg_later(struct zr_inst *st, int64_t pos)
{
    pthread_mutex_lock(&st->segs.lock);
    int64_t i = slot_of(&st->segs, pos);
    struct zs_seg *seg = i >= 0 ? st->segs.at[i] : NULL;
    uint32_t r = seg && !atomic_load(&seg->lost) && !(seg->packed && atomic_load(&seg->damaged));
    pthread_mutex_unlock(&st->segs.lock);
    return r;
}

void zs_seg_put(struct zr_inst *st, struct zs_seg *seg)
{
    pthread_mutex_lock(&st->segs.lock);
    uint32_t end = --seg->refs == 0 && seg->gone;
    pthread_mutex_unlock(&st->segs.lock);
    if (!end) return;
    seg_close(st, seg); /* nobody can find it; the last one to close a deleted file waits while its blocks are freed */
    free(seg);
}

void zs_seg_pin(struct zr_inst *st, struct zs_seg *seg)
{
    pthread_mutex_lock(&st->segs.lock);
    seg->refs++;
    pthread_mutex_unlock(&st->segs.lock);
}

void zs_seg_shut(struct zr_inst *st, int64_t pos)
{
    pthread_mutex_lock(&st->segs.lock);
    int64_t i = slot_of(&st->segs, pos);
    struct zs_seg *seg = i >= 0 ? st->segs.at[i] : NULL;
    if (seg && seg->refs == 0) seg_close(st, seg);
    pthread_mutex_unlock(&st->segs.lock);
}

/* Makes the table reach base, with NULLs between. Under the lock. */
static uint32_t table_reach(struct zs_segs *s, int64_t base)
{
    if (s->n == 0) s->first = base;
    uint64_t want = (uint64_t)((base - s->first) / s->size) + 1;
    if (want > s->cap) {
        uint64_t cap = s->cap ? s->cap : 16;
        while (cap < want) cap *= 2;
        struct zs_seg **at = realloc(s->at, cap * sizeof *at);
        if (!at) return 0;
        s->at = at;
        s->cap = cap;
    }
    while (s->n < want) s->at[s->n++] = NULL;
    return 1;
}

struct zs_seg *zs_seg_add(struct zr_inst *st, int64_t base, int32_t fd)
{
    struct zs_segs *s = &st->segs;
    struct zs_seg *seg = calloc(1, sizeof *seg);
    if (!seg) return NULL;
    seg->base = base;
    seg->fd = fd;
    seg->refs = 1;
    pthread_mutex_lock(&s->lock);
    if ((s->n && base < s->first) || !table_reach(s, base)) {
        pthread_mutex_unlock(&s->lock);
        free(seg);
        return NULL;
    }
    seg->serial = ++s->serials;
    s->at[(base - s->first) / s->size] = seg;
    if (fd >= 0) s->n_open++;
    uint64_t n = s->n;
    pthread_mutex_unlock(&s->lock);
    zs_gauge(st, ZS_M_SEGMENTS, (int64_t)n);
    return seg;
}

/* The readers of the old form keep it open and mapped until they are done. */
uint32_t zs_seg_swap(struct zr_inst *st, struct zs_seg *seg, uint32_t packed, int64_t mtime_ns)
{
    struct zs_segs *s = &st->segs;
    struct zs_seg *other = calloc(1, sizeof *other);
    if (!other) return 0;
    *other = (struct zs_seg){ .base = seg->base, .fd = -1, .packed = packed, .mtime_ns = mtime_ns };
    pthread_mutex_lock(&s->lock);
    int64_t i = slot_of(s, seg->base);
    uint32_t there = i >= 0 && s->at[i] == seg;
    if (there) {
        other->serial = ++s->serials;
        s->at[i] = other;
        if (seg->fd >= 0) s->n_open--;
        if (atomic_load(&seg->pack)) s->n_packs_open--;
        seg->gone = 1; /* the caller's pin is on it: it ends there */
    }
    pthread_mutex_unlock(&s->lock);
    if (!there) free(other);
    return there;
}

struct zs_seg *zs_seg_find_form(struct zr_inst *st, int64_t from, int64_t to, uint32_t packed, uint32_t round)
{
    struct zs_segs *s = &st->segs;
    struct zs_seg *found = NULL;
    pthread_mutex_lock(&s->lock);
    for (uint64_t i = 0; i < s->n && !found; i++) {
        struct zs_seg *seg = s->at[i];
        if (!seg || seg->base < from || seg->base + s->size > to || seg->packed != packed || atomic_load(&seg->damaged)) continue;
        if (!seg->stays && seg->failed_in != round && !zs_dir_read_only(st, seg->base)) found = seg;
    }
    if (found) found->refs++;
    pthread_mutex_unlock(&s->lock);
    return found;
}

int64_t zs_seg_mtime_ns(struct zr_inst *st, int64_t base)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    int64_t mtime_ns = -1;
    pthread_mutex_lock(&st->segs.lock);
    int64_t i = slot_of(&st->segs, base);
    struct zs_seg *seg = i >= 0 ? st->segs.at[i] : NULL;
    uint32_t packed = seg && seg->packed;
    if (packed) mtime_ns = seg->mtime_ns;
    pthread_mutex_unlock(&st->segs.lock);
    if (packed) return mtime_ns;
    zs_seg_path(st, base, path);
    return st->io->stat(st->io->ctx, path, &stat) < 0 ? -1 : stat.mtime_ns;
}

int64_t zs_segs_first(struct zr_inst *st)
{
    pthread_mutex_lock(&st->segs.lock);
    int64_t r = st->segs.n ? st->segs.first : -1;
    pthread_mutex_unlock(&st->segs.lock);
    return r;
}

int64_t zs_segs_last(struct zr_inst *st)
{
    pthread_mutex_lock(&st->segs.lock);
    int64_t r = st->segs.n ? st->segs.first + (int64_t)(st->segs.n - 1) * st->segs.size : -1;
    pthread_mutex_unlock(&st->segs.lock);
    return r;
}

int64_t zs_seg_next(struct zr_inst *st, int64_t base)
{
    struct zs_segs *s = &st->segs;
    int64_t r = -1;
    pthread_mutex_lock(&s->lock);
    int64_t i = base < s->first ? -1 : (base - s->first) / s->size;
    for (i++; i < (int64_t)s->n; i++)
        if (s->at[i]) {
            r = s->at[i]->base;
            break;
        }
    pthread_mutex_unlock(&s->lock);
    return r;
}

/* Whichever forms are there: an interrupted change leaves both. path: the one that could not go. */
static int64_t forms_unlink(struct zr_inst *st, int64_t base, char *path)
{
    int64_t r = 0;
    for (uint32_t form = 0; form < (st->conf.pack ? 2u : 1u) && (r >= 0 || r == -ENOENT); form++) {
        if (form) zs_seg_packed_path(st, base, path);
        else zs_seg_path(st, base, path);
        r = st->io->unlink(st->io->ctx, path);
    }
    return r == -ENOENT ? 0 : r;
}

/* Under the lock. */
static void table_cut(struct zs_segs *s, uint32_t first)
{
    if (first) {
        uint64_t k = 1;
        while (k < s->n && !s->at[k]) k++; /* the holes behind it go too */
        memmove(s->at, s->at + k, (s->n - k) * sizeof *s->at);
        s->n -= k;
        s->first += (int64_t)k * s->size;
    } else {
        s->n--;
        while (s->n && !s->at[s->n - 1]) s->n--;
    }
}

/* The file goes before its entry, for one that cannot be deleted stays. It takes long, and every read and roll takes the lock:
 * so it is not held, and readers go on with what is open. */
zr_status zs_seg_drop(struct zr_inst *st, uint32_t first)
{
    struct zs_segs *s = &st->segs;
    char path[ZS_PATH];
    pthread_mutex_lock(&s->lock);
    struct zs_seg *seg = s->n ? s->at[first ? 0 : s->n - 1] : NULL;
    if (!seg) {
        pthread_mutex_unlock(&s->lock);
        return ZR_ENOENT;
    }
    seg->refs++;
    if (first && !seg->packed && !atomic_load(&seg->lost)) seg_open(st, seg);
    pthread_mutex_unlock(&s->lock);
    if (first && seg->packed) zs_seg_pack_open(st, seg);
    int64_t base = seg->base, r = forms_unlink(st, base, path);
    if (r < 0) {
        zs_seg_put(st, seg);
        if (first) zs_clean_stuck(st, path, r);
        return zs_raise(st, zs_status_of(r), r, "%s cannot be deleted: %s", path, zs_errno_text(r));
    }
    pthread_mutex_lock(&s->lock);
    table_cut(s, first);
    if (seg->fd >= 0) s->n_open--;
    if (atomic_load(&seg->pack)) s->n_packs_open--;
    seg->gone = 1;
    uint64_t n = s->n;
    pthread_mutex_unlock(&s->lock);
    zs_dir_forget(st, base);
    zs_seg_put(st, seg);
    zs_gauge(st, ZS_M_SEGMENTS, (int64_t)n);
    return ZR_OK;
}

void zs_segs_free(struct zr_inst *st)
{
    struct zs_segs *s = &st->segs;
    for (uint64_t i = 0; i < s->n; i++)
        if (s->at[i]) {
            seg_close(st, s->at[i]);
            free(s->at[i]);
        }
    free(s->at);
    s->at = NULL;
    s->n = s->cap = s->n_open = 0;
}

/* ---- what a start finds ------------------------------------------------------------------------------------------- */

struct found {
    int64_t base;
    uint64_t size; /* of the plain form, as its file or the packed one's header tells; 0: the header is damaged */
    uint32_t packed, dir;
    uint32_t keeps; /* its length, though it is longer than a segment */
    int64_t mtime_ns;
};
struct found_list {
    struct zr_inst *st;
    uint32_t dir; /* the folder that is being read */
    struct found *at;
    uint64_t n, cap;
    uint32_t no_memory;
};

/* 1: a plain segment's name, 2: a packed one's, 3: what an interrupted change of form left behind; 0: none of these. */
static uint32_t name_form(const char *name, int64_t *ret_base)
{
    char number[21];
    if (strlen(name) < 20) return 0;
    memcpy(number, name, 20);
    number[20] = 0;
    if (!zs_name_offset(number, ret_base)) return 0;
    const char *rest = name + 20;
    if (!*rest) return 1;
    if (strcmp(rest, ZS_PACKED) == 0) return 2;
    return strcmp(rest, ".tmp") == 0 || strcmp(rest, ZS_PACKED ".tmp") == 0 ? 3 : 0;
}

static int32_t found_name(void *ctx, const char *name)
{
    struct found_list *l = ctx;
    int64_t base;
    uint32_t form = name_form(name, &base);
    if (form == 3) {
        char path[ZS_PATH];
        if (l->st->dirs.read_only >> l->dir & 1u) return 0;
        if (zs_path(path, "%s/%s", l->st->dirs.path[l->dir], name)) l->st->io->unlink(l->st->io->ctx, path);
        return 0;
    }
    if (form == 0) {
        zs_log(l->st, ZR_LOG_WARN, "%s/%s is no segment of the log and is left alone", l->st->dirs.path[l->dir], name);
        return 0;
    }
    if (l->n == l->cap) {
        uint64_t cap = l->cap ? l->cap * 2 : 64;
        struct found *at = realloc(l->at, cap * sizeof *at);
        if (!at) return (int32_t)(l->no_memory = 1);
        l->at = at;
        l->cap = cap;
    }
    l->at[l->n++] = (struct found){ .base = base, .packed = form == 2, .dir = l->dir };
    return 0;
}

static int by_base(const void *a, const void *b)
{
    int64_t x = ((const struct found *)a)->base, y = ((const struct found *)b)->base;
    if (x == y) return (int)((const struct found *)a)->packed - (int)((const struct found *)b)->packed;
    return x < y ? -1 : 1;
}

/* Bytes of the records that follow one another from the file's begin on, without those that stand for nothing (--repair makes them).
 * Only headers are looked at. A packed file was whole once. */
static int64_t found_worth(struct zr_inst *st, const struct found *f)
{
    char path[ZS_PATH];
    uint8_t head[40];
    int64_t worth = 0, size = (int64_t)f->size;
    if (f->packed) return size;
    int64_t fd = zs_path(path, "%s/%020lld", st->dirs.path[f->dir], (long long)f->base) ? st->io->open(st->io->ctx, path, ZR_IO_READ, 0) : -ENAMETOOLONG;
    for (int64_t at = 0, len; fd >= 0 && at + (int64_t)sizeof head <= size; at += len) {
        if (zl_io_read_all(st->io, (int32_t)fd, head, sizeof head, at) < 0) break;
        uint32_t magic = zl_load32(head + 4);
        len = (int32_t)zl_load32(head);
        if ((magic != ZL_MAGIC_V1 && magic != ZL_MAGIC_V2) || len < 91 || len > size - at || (int64_t)zl_load64(head + 28) != f->base + at) break;
        if ((zl_load32(head + 36) & ZR_SYSFLAG_TRANSACTION_MASK) != ZR_SYSFLAG_ROLLBACK) worth += len;
    }
    if (fd >= 0) st->io->close(st->io->ctx, (int32_t)fd);
    return worth;
}

/* A segment in two folders: the one that has more of it. 0: not to be told where it lies. */
static uint32_t found_doubled(struct zr_inst *st, struct found *first, const struct found *second)
{
    uint32_t better = found_worth(st, second) > found_worth(st, first);
    zs_log(st, ZR_LOG_ERROR, "segment %020lld is in %s and in %s: the %s is used, which has %s; move the other one away", (long long)first->base,
           st->dirs.path[first->dir], st->dirs.path[second->dir], better ? "latter" : "former", better ? "more messages" : "no fewer messages");
    if (better) *first = *second;
    return zs_dir_set(st, first->base, first->dir);
}

/* A segment in both forms: a change was interrupted. The plain one is taken, for it needs nothing; which of them stays is
 * seen to by the packing thread. But where the packed one has messages that the plain one lacks, that one is taken. */
static zr_status found_twins(struct zr_inst *st, struct found_list *l)
{
    char path[ZS_PATH];
    uint64_t n = 0;
    for (uint64_t i = 0; i < l->n; i++) {
        if (n == 0 || l->at[n - 1].base != l->at[i].base) {
            l->at[n++] = l->at[i];
            continue;
        }
        struct found *plain = &l->at[n - 1], *packed = &l->at[i];
        if (plain->dir != packed->dir) {
            if (!found_doubled(st, plain, packed)) return ZR_ENOMEM;
            continue;
        }
        char plain_path[ZS_PATH];
        if (packed->size == 0 || !zs_seg_packed_path(st, packed->base, path)) continue;
        zs_seg_path(st, packed->base, plain_path);
        uint32_t fits = plain->size == packed->size;
        int64_t r = zs_pack_twins(st, path, plain_path, packed->base, fits);
        if (r < 0 && r != -ENOMEM && !fits) /* it may be the only whole one: nothing is settled without it */
            return zs_raise(st, zs_status_of(r), r, "%s cannot be read, and its plain form is not whole: %s", path, zs_errno_text(r));
        if (r == -ENOMEM) return ZR_ENOMEM;
        if (r != ZS_TWIN_PACKED && r != ZS_TWIN_BOTH) continue;
        if (r == ZS_TWIN_PACKED && !(st->dirs.read_only >> plain->dir & 1u)) {
            r = st->io->unlink(st->io->ctx, plain_path);
            if (r < 0) return zs_raise(st, zs_status_of(r), r, "%s cannot be deleted: %s", plain_path, zs_errno_text(r));
            zs_log(st, ZR_LOG_WARN, "%s had %llu bytes and no message that its packed form lacks; that one is whole and takes its place", plain_path,
                   (unsigned long long)plain->size);
        } else {
            zs_log(st, ZR_LOG_ERROR, "%s lacks messages that %s has: both stay, and the packed one is read", plain_path, path);
        }
        *plain = *packed;
    }
    l->n = n;
    return ZR_OK;
}

/* How many files, and how many distances of two names, say that segments have this size; and where such files lie. */
struct found_vote {
    int64_t size, at; /* names are at, at + size, at + 2 * size, ... */
    uint64_t n_says, n_files;
};

static struct found_vote found_count(const struct found_list *l, int64_t size)
{
    struct found_vote v = { .size = size };
    uint64_t lead = 0, lead_any = 0;
    int64_t at_any = 0;
    for (uint64_t i = 0; i < l->n; i++) { /* the majority vote of Boyer and Moore */
        int64_t at = l->at[i].base % size;
        uint32_t says = l->at[i].size == (uint64_t)size;
        if (says) {
            if (lead == 0) v.at = at;
            lead += v.at == at ? 1u : UINT64_MAX;
        }
        if (lead_any == 0) at_any = at;
        lead_any += at_any == at ? 1u : UINT64_MAX;
        v.n_files += says;
        v.n_says += says;
        if (i && l->at[i].base - l->at[i - 1].base == size && l->at[i - 1].size <= (uint64_t)size) v.n_says++; /* no two lie in one place */
    }
    if (v.n_files == 0) v.at = at_any;
    return v;
}

static uint32_t found_better(const struct found_vote *a, const struct found_vote *b, int64_t configured)
{
    if (a->n_says != b->n_says) return a->n_says > b->n_says;
    if ((a->size == configured) != (b->size == configured)) return a->size == configured;
    if ((a->at == 0) != (b->at == 0)) return a->at == 0;
    if ((a->n_files == 0) != (b->n_files == 0)) return a->n_files > 0;
    return a->size > b->size;
}

/* Is the file full: records from its begin, and a blank that reaches its end? A file that was cut, or is not full, has none there. */
static uint32_t found_full(struct zr_inst *st, const struct found *f)
{
    char path[ZS_PATH];
    uint8_t head[36];
    uint32_t full = 0;
    zs_seg_path(st, f->base, path);
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ, 0), r = fd, size = (int64_t)f->size;
    for (int64_t at = 0; r >= 0 && !full && at + (int64_t)ZS_BLANK <= size;) {
        uint64_t n = size - at < (int64_t)sizeof head ? ZS_BLANK : sizeof head;
        r = zl_io_read_all(st->io, (int32_t)fd, head, n, at);
        uint32_t len = zl_load32(head), magic = zl_load32(head + 4);
        full = r >= 0 && magic == ZL_MAGIC_BLANK && at > 0 && (int64_t)len == size - at;
        if ((magic != ZL_MAGIC_V1 && magic != ZL_MAGIC_V2) || n < sizeof head || len < 91 || (int64_t)zl_load64(head + 28) != f->base + at) break;
        at += len;
    }
    if (fd >= 0) st->io->close(st->io->ctx, (int32_t)fd);
    return full;
}

/* Of a log of one file no name tells it. The snapshot may know; or the file is full, or longer than it should be. */
static int64_t found_single(struct zr_inst *st, const struct found *f, int64_t configured, int64_t told)
{
    int64_t size = (int64_t)f->size;
    if (size == configured) return size;
    if (told >= (int64_t)ZS_BLANK && told >= size) return told;
    if (size > configured) return size; /* nothing of it is given up */
    if (size > (int64_t)ZS_BLANK && (f->packed || found_full(st, f))) return size;
    if (size > 0)
        zs_log(st, ZR_LOG_WARN, "%s/%020lld is the only file of the log and has %lld bytes; segment_size is %lld, which it is given: all its "
               "records stay, and the log goes on in it", zs_dir_of(st, f->base), (long long)f->base, (long long)size, (long long)configured);
    return configured;
}

/* The size that the files were made with: what most of them, and of the distances of their names, say. */
static struct found_vote found_size(const struct found_list *l, int64_t configured, int64_t told)
{
    struct found_vote best = found_count(l, configured);
    int64_t last[2] = { configured, 0 };
    if (l->n == 1) {
        int64_t size = found_single(l->st, &l->at[0], configured, told);
        return (struct found_vote){ .size = size, .at = l->at[0].base % size };
    }
    for (uint64_t i = 0; i < l->n; i++)
        for (uint32_t k = 0; k < 2; k++) {
            int64_t size = k ? (i ? l->at[i].base - l->at[i - 1].base : 0) : (int64_t)l->at[i].size;
            if (size < (int64_t)ZS_BLANK || size == best.size || size == last[k]) continue;
            last[k] = size;
            struct found_vote v = found_count(l, size);
            if (found_better(&v, &best, configured)) best = v;
        }
    return best;
}

/* Files whose names do not lie where a segment can begin are no part of the log: nothing is done to them. */
static zr_status found_odd(struct zr_inst *st, struct found_list *l, const struct found_vote *v)
{
    uint64_t n = 0;
    for (uint64_t i = 0; i < l->n; i++) {
        struct found *f = &l->at[i];
        int64_t gap = n ? (f->base - l->at[n - 1].base) / v->size : 0;
        if (f->base % v->size == v->at && gap > MAX_GAP)
            return zs_raise(st, ZR_ECORRUPT, 0, "%s: from %020lld to %020lld no log has so much missing: one of the two files was copied there and must be "
                            "moved away; nothing was changed", st->dirs.path[f->dir], (long long)l->at[n - 1].base, (long long)f->base);
        if (f->base % v->size == v->at) {
            l->at[n++] = *f;
            continue;
        }
        zs_log(st, ZR_LOG_ERROR, "%s/%020lld%s (%llu bytes) is no segment of this log, whose files have %lld bytes and begin at %lld and multiples "
               "of that behind it: it is left alone and not used. If it was copied there, move it away; else run `zaryactl store check %s`",
               st->dirs.path[f->dir], (long long)f->base, f->packed ? ZS_PACKED : "", (unsigned long long)f->size, (long long)v->size,
               (long long)v->at, st->conf.root);
        zs_dir_forget(st, f->base);
    }
    l->n = n;
    return ZR_OK;
}

/* Whether its length can be put right without a byte being lost. If not, it is used and keeps it, where it is clear that segments
 * are shorter. Nothing is changed yet. */
static zr_status found_judge(struct zr_inst *st, struct found *f, uint32_t clear)
{
    char path[ZS_PATH];
    int64_t nonzero = 0;
    if (f->size == (uint64_t)st->segs.size) return ZR_OK;
    if (f->packed && f->size == 0) return ZR_OK; /* what it cannot give is reported when it is met */
    if (f->packed)
        return zs_raise(st, ZR_ECORRUPT, 0, "%s/%020lld" ZS_PACKED " is a segment of %llu bytes; the others have %lld", zs_dir_of(st, f->base),
                        (long long)f->base, (unsigned long long)f->size, (long long)st->segs.size);
    if (f->size < (uint64_t)st->segs.size) return ZR_OK;
    zs_seg_path(st, f->base, path);
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ, 0), r = fd;
    if (fd >= 0) {
        r = zs_is_zero(st, (int32_t)fd, st->segs.size, (int64_t)f->size - st->segs.size, &nonzero);
        st->io->close(st->io->ctx, (int32_t)fd);
    }
    if (r < 0) return zs_raise(st, zs_status_of(r), r, "%s cannot be read: %s", path, zs_errno_text(r));
    if (r > 0) return ZR_OK;
    f->keeps = 1;
    if (clear && f->size < 2 * (uint64_t)st->segs.size) {
        zs_log(st, ZR_LOG_ERROR, "%s has %llu bytes instead of %lld, and not all of those too many are zero (the first that is not: %lld): they are not "
               "read, and left where they are", path, (unsigned long long)f->size, (long long)st->segs.size, (long long)nonzero);
        return ZR_OK;
    }
    return zs_raise(st, ZR_ECORRUPT, 0, "%s has %llu bytes, but segments of this log seem to have %lld, and at %lld of it there is something: which is "
                    "right cannot be told, and nothing was changed. If segment_size is not the one the log was made with, put it right; move "
                    "away files that were copied there", path, (unsigned long long)f->size, (long long)st->segs.size, (long long)nonzero);
}

/* A file of the wrong length is given the right one: cut short by an accident, zeroes follow, which the recovery understands. */
static zr_status found_mend(struct zr_inst *st, const struct found *f)
{
    char path[ZS_PATH];
    if (f->size == (uint64_t)st->segs.size || f->packed || f->keeps) return ZR_OK;
    zs_seg_path(st, f->base, path);
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
    int64_t r = fd;
    if (fd >= 0) {
        r = st->io->ftruncate(st->io->ctx, (int32_t)fd, st->segs.size);
        st->io->close(st->io->ctx, (int32_t)fd);
    }
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, zs_dir_of(st, f->base)); /* one whose making failed never got a durable name */
    if (r < 0) return zs_raise(st, zs_status_of(r), r, "%s cannot be mended: %s", path, zs_errno_text(r));
    zs_log(st, ZR_LOG_WARN, "%s had %llu bytes instead of %lld: given its full length; what was lost is reported when it is met",
           path, (unsigned long long)f->size, (long long)st->segs.size);
    return ZR_OK;
}

static zr_status found_add(struct zr_inst *st, const struct found_list *l, uint32_t clear)
{
    zr_status rc = ZR_OK;
    for (uint64_t i = 0; i < l->n && rc == ZR_OK; i++) rc = found_judge(st, &l->at[i], clear);
    for (uint64_t i = 0; i < l->n && rc == ZR_OK; i++) rc = found_mend(st, &l->at[i]);
    for (uint64_t i = 0; i < l->n && rc == ZR_OK; i++) {
        const struct found *f = &l->at[i];
        struct zs_seg *seg = zs_seg_add(st, f->base, -1);
        if (!seg) return ZR_ENOMEM;
        seg->packed = f->packed;
        seg->stays = f->keeps; /* the other form has no place for them */
        seg->mtime_ns = f->mtime_ns;
        zs_seg_put(st, seg);
        if (i && f->base - l->at[i - 1].base != st->segs.size)
            zs_log(st, ZR_LOG_ERROR, "%s: the log from %lld to %lld is missing", st->log_dir,
                   (long long)(l->at[i - 1].base + st->segs.size), (long long)f->base);
    }
    return rc;
}

/* What a file says of its segment's size. */
static zr_status found_look(struct zr_inst *st, struct found *f)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    struct zs_pack_info info = { 0 };
    if (!zs_dir_set(st, f->base, f->dir)) return ZR_ENOMEM;
    zs_seg_path(st, f->base, path);
    if (f->packed && !st->conf.pack)
        return zs_raise(st, ZR_EINVAL, 0, "%s" ZS_PACKED " is a compressed segment: open this log with storage-zstd, or expand it with "
                        "`zaryactl store convert %s --to plain` while no broker has it", path, st->conf.root);
    if (f->packed) zs_seg_packed_path(st, f->base, path);
    int64_t r = st->io->stat(st->io->ctx, path, &stat);
    if (r >= 0 && f->packed) {
        r = st->conf.pack->peek(st->io, path, &info);
        if (r >= 0 && info.base != f->base) r = -EBADMSG;
        if (r == -EBADMSG) {
            zs_log(st, ZR_LOG_ERROR, "%s: its header is damaged", path);
            info = (struct zs_pack_info){ .mtime_ns = stat.mtime_ns };
            r = 0;
        }
        stat.size = (uint64_t)info.raw_size;
        f->mtime_ns = info.mtime_ns;
    }
    if (r < 0) return zs_raise(st, zs_status_of(r), r, "%s cannot be looked at: %s", path, zs_errno_text(r));
    f->size = stat.size;
    return ZR_OK;
}

zr_status zs_segs_load(struct zr_inst *st, int64_t told)
{
    struct found_list l = { .st = st };
    zr_status rc = ZR_OK;
    st->segs.size = st->conf.segment_size;
    for (; l.dir < st->dirs.n && rc == ZR_OK; l.dir++) {
        const char *dir = st->dirs.path[l.dir];
        int64_t r = st->io->list(st->io->ctx, dir, found_name, &l);
        if (l.no_memory) rc = ZR_ENOMEM;
        else if (r < 0) rc = zs_raise(st, zs_status_of(r), r, "%s cannot be read: %s", dir, zs_errno_text(r));
    }
    for (uint64_t i = 0; rc == ZR_OK && i < l.n; i++) rc = found_look(st, &l.at[i]);
    if (rc == ZR_OK && l.n) {
        qsort(l.at, l.n, sizeof *l.at, by_base);
        rc = found_twins(st, &l);
    }
    if (rc == ZR_OK && l.n) {
        struct found_vote v = found_size(&l, st->conf.segment_size, told);
        rc = found_odd(st, &l, &v);
        st->segs.size = v.size;
        if (st->segs.size != st->conf.segment_size)
            zs_log(st, ZR_LOG_WARN, "segment_size is %lld in the configuration; the log was made with %lld, which is kept",
                   (long long)st->conf.segment_size, (long long)st->segs.size);
        if (rc == ZR_OK) rc = found_add(st, &l, v.n_says * 2 > l.n);
    }
    free(l.at);
    return rc;
}

/* ---- making --------------------------------------------------------------------------------------------------------- */

/* Writes the whole file with zeroes, a piece at a time, so that nothing of it is left for the file system to decide when
 * records in it are synced. When the disk is full the rest stays sparse: appends say so themselves. */
static int64_t write_ahead(struct zr_inst *st, int32_t fd)
{
    int64_t r = st->io->fallocate(st->io->ctx, fd, 0, st->segs.size);
    if (r < 0 && r != -EOPNOTSUPP) return r == -ENOSPC ? 0 : r;
    for (int64_t at = 0; at < st->segs.size && !atomic_load(&st->stopping); at += AHEAD_PIECE) {
        r = zs_zero(st, fd, at, st->segs.size - at < AHEAD_PIECE ? st->segs.size - at : AHEAD_PIECE);
        if (r >= 0) r = st->io->fdatasync(st->io->ctx, fd);
        if (r < 0) return r == -ENOSPC || r == -EDQUOT ? 0 : r;
    }
    return 0;
}

/* Makes the file of a segment under the given name. */
static int64_t create_at(struct zr_inst *st, const char *path, uint32_t ahead)
{
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0644);
    if (fd < 0) return fd;
    int64_t r = st->io->ftruncate(st->io->ctx, (int32_t)fd, st->segs.size);
    if (r >= 0 && ahead) r = write_ahead(st, (int32_t)fd);
    if (r < 0) {
        st->io->close(st->io->ctx, (int32_t)fd); /* the name stays: another thread may be making the same segment */
        return r;
    }
    return fd;
}

int64_t zs_seg_create(struct zr_inst *st, int64_t base)
{
    char path[ZS_PATH];
    if (!zs_dir_choose(st, base)) return -EROFS;
    zs_seg_path(st, base, path);
    return create_at(st, path, 0);
}

/* A file that is written ahead gets its name when it is done, and only if the appender did not come first and made one. */
static int64_t create_ahead(struct zr_inst *st, int64_t base)
{
    char path[ZS_PATH], other[ZS_PATH];
    if (!st->conf.preallocate) return zs_seg_create(st, base);
    if (!zs_dir_choose(st, base)) return -EROFS;
    zs_seg_path(st, base, path);
    if (!zs_path(other, "%s.tmp", path)) return -ENAMETOOLONG;
    int64_t fd = create_at(st, other, 1);
    pthread_mutex_lock(&st->prep_lock);
    int64_t r = fd < 0 ? fd : st->prep_want == base ? st->io->rename(st->io->ctx, other, path) : -ECANCELED;
    pthread_mutex_unlock(&st->prep_lock);
    if (r >= 0) return fd;
    if (fd >= 0) st->io->close(st->io->ctx, (int32_t)fd);
    st->io->unlink(st->io->ctx, other);
    return r;
}

void zs_prepare_want(struct zr_inst *st, int64_t base)
{
    pthread_mutex_lock(&st->prep_lock);
    if (st->prep_base != base && st->prep_want != base) {
        st->prep_want = base;
        pthread_cond_signal(&st->prep_cond);
    }
    pthread_mutex_unlock(&st->prep_lock);
}

int32_t zs_prepared_take(struct zr_inst *st, int64_t base)
{
    int32_t fd = -1;
    pthread_mutex_lock(&st->prep_lock);
    if (st->prep_base == base) {
        fd = st->prep_fd;
        st->prep_base = -1;
        st->prep_fd = -1;
    }
    if (st->prep_want == base) st->prep_want = -1;
    pthread_mutex_unlock(&st->prep_lock);
    return fd;
}

/* The thread that makes the next segment. If the appender came first, both made the same file in the same way. */
void zs_prepare_main(void *arg)
{
    struct zr_inst *st = arg;
    pthread_mutex_lock(&st->prep_lock);
    while (!atomic_load(&st->stopping)) {
        int64_t base = st->prep_want;
        if (base < 0 || base == st->prep_base) {
            pthread_cond_wait(&st->prep_cond, &st->prep_lock);
            continue;
        }
        pthread_mutex_unlock(&st->prep_lock);
        zs_disk_look(st); /* a fast sender must not fill the disk between two looks by the clock */
        int64_t fd = create_ahead(st, base);
        if (fd >= 0) st->io->sync_dir(st->io->ctx, zs_dir_of(st, base));
        else if (fd != -ECANCELED) zs_log(st, ZR_LOG_WARN, "the next segment %020lld cannot be made yet: %s", (long long)base, zs_errno_text(fd));
        pthread_mutex_lock(&st->prep_lock);
        if (st->prep_want == base) {
            st->prep_want = -1;
            if (fd >= 0) {
                st->prep_base = base;
                st->prep_fd = (int32_t)fd;
                fd = -1;
            }
        }
        if (fd >= 0) st->io->close(st->io->ctx, (int32_t)fd);
    }
    pthread_mutex_unlock(&st->prep_lock);
}

/* At a stop: a segment that was made ahead and never used is no part of the log. */
void zs_prepared_drop(struct zr_inst *st)
{
    char path[ZS_PATH];
    if (st->prep_base < 0) return;
    st->io->close(st->io->ctx, st->prep_fd);
    zs_seg_path(st, st->prep_base, path);
    st->io->unlink(st->io->ctx, path);
    st->prep_base = -1;
    st->prep_fd = -1;
}
