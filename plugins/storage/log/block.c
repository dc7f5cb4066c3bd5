/* SPDX-License-Identifier: Apache-2.0 */
/* block.c - holds: the one way to the bytes of the log, and the cache of blocks behind it.
 *
 * What stays true:
 *   1. A hold of a plain segment costs what a pin of it costs: no copy, no further lock.
 *   2. The cache holds at most pack_cache bytes that nobody has a hold of; what is held cannot be given up.
 *   3. A block is decompressed by one thread; others that want it wait for that one, and those that may not wait are told.
 *   4. A block that is damaged is reported with its file and place, and nothing of it is given out.
 *   5. A reader that goes through blocks in order finds the next ones there: they are brought in by a job of the worker pool,
 *      one job at a time. */
#include <errno.h>
#include <stdlib.h>
#include "zs_pack.h"

#define AHEAD 8u
#define TAG_BLOCK 2u

enum { LOADING, READY, FAILED };

struct zs_block {
    struct zs_block *hash_next, *older, *newer;
    uint64_t serial; /* of its segment's entry in the table */
    int64_t from;    /* physical offset of its first byte */
    uint64_t len;
    uint32_t no, refs, state;
    uint32_t cached; /* is in the table and the list; else it ends with its last reference */
    uint32_t mark;   /* whoever comes here first asks for the next ones */
    int64_t error;   /* FAILED: why, as -errno */
    uint8_t bytes[];
};
/* ---- the cache ------------------------------------------------------------------------------------------------------------ */

zr_status zs_pack_init(struct zr_inst *st)
{
    if (!st->conf.pack) return ZR_OK;
    struct zs_pack *c = calloc(1, sizeof *c);
    if (!c) return ZR_ENOMEM;
    c->max = (uint64_t)st->conf.pack_cache_bytes;
    c->n_buckets = 64;
    while (c->n_buckets < c->max >> 15) c->n_buckets *= 2;
    c->buckets = calloc(c->n_buckets, sizeof *c->buckets);
    if (!c->buckets) {
        free(c);
        return ZR_ENOMEM;
    }
    pthread_mutex_init(&c->lock, NULL);
    pthread_mutex_init(&c->open_lock, NULL);
    pthread_mutex_init(&c->work_lock, NULL);
    zs_cond_init(&c->ready);
    zs_cond_init(&c->ahead_done);
    zs_cond_init(&c->work);
    atomic_store(&c->fit_at, INT64_MAX);
    c->round = 1; /* a segment that never failed has 0 */
    st->pack = c;
    return ZR_OK;
}

void zs_pack_free(struct zr_inst *st)
{
    struct zs_pack *c = st->pack;
    if (!c) return;
    while (c->newest) {
        struct zs_block *b = c->newest;
        c->newest = b->older;
        free(b);
    }
    free(c->buckets);
    pthread_mutex_destroy(&c->lock);
    pthread_mutex_destroy(&c->open_lock);
    pthread_mutex_destroy(&c->work_lock);
    pthread_cond_destroy(&c->ready);
    pthread_cond_destroy(&c->ahead_done);
    pthread_cond_destroy(&c->work);
    free(c);
    st->pack = NULL;
}

static struct zs_block **bucket_of(struct zs_pack *c, uint64_t serial, uint32_t no)
{
    return &c->buckets[((serial << 20) + no) * 0x9E3779B97F4A7C15ull >> 32 & (c->n_buckets - 1)];
}

static struct zs_block *block_find(struct zs_pack *c, uint64_t serial, uint32_t no)
{
    struct zs_block *b = *bucket_of(c, serial, no);
    while (b && (b->serial != serial || b->no != no)) b = b->hash_next;
    return b;
}

static void list_take(struct zs_pack *c, struct zs_block *b)
{
    if (b->newer) b->newer->older = b->older;
    else c->newest = b->older;
    if (b->older) b->older->newer = b->newer;
    else c->oldest = b->newer;
}

static void list_put(struct zs_pack *c, struct zs_block *b)
{
    b->newer = NULL;
    b->older = c->newest;
    if (c->newest) c->newest->newer = b;
    else c->oldest = b;
    c->newest = b;
}

/* Out of the cache; free it if nobody holds it. */
static void block_forget(struct zs_pack *c, struct zs_block *b)
{
    struct zs_block **at = bucket_of(c, b->serial, b->no);
    while (*at != b) at = &(*at)->hash_next;
    *at = b->hash_next;
    list_take(c, b);
    c->bytes -= b->len;
    b->cached = 0;
    if (b->refs == 0) free(b);
}

static void cache_shrink(struct zs_pack *c)
{
    struct zs_block *b = c->oldest;
    while (b && c->bytes > c->max) {
        struct zs_block *next = b->newer;
        if (b->refs == 0) block_forget(c, b);
        b = next;
    }
}

static void block_put(struct zs_pack *c, struct zs_block *b)
{
    pthread_mutex_lock(&c->lock);
    uint32_t end = --b->refs == 0 && !b->cached;
    if (b->cached && c->bytes > c->max) cache_shrink(c);
    pthread_mutex_unlock(&c->lock);
    if (end) free(b);
}

/* A block of no segment's: for stretches that lie across blocks. Ends with its one reference. */
static struct zs_block *block_make(uint64_t serial, uint32_t no, int64_t from, uint64_t len)
{
    struct zs_block *b = malloc(sizeof *b + len);
    if (b) *b = (struct zs_block){ .serial = serial, .no = no, .from = from, .len = len, .refs = 1, .state = LOADING };
    return b;
}

/* ---- packed segments -------------------------------------------------------------------------------------------------------- */

void zs_seg_pack_close(struct zr_inst *st, struct zs_seg *seg)
{
    struct zs_packed *p = atomic_exchange(&seg->pack, NULL);
    if (!p) return;
    st->conf.pack->close(p);
    if (!seg->gone) st->segs.n_packs_open--;
}

/* Closes the packed segments that were not used for the longest time. Under segs.lock. */
static void packs_evict(struct zr_inst *st)
{
    struct zs_segs *s = &st->segs;
    while (s->n_packs_open > (uint64_t)st->conf.max_open_packs) {
        struct zs_seg *oldest = NULL;
        for (uint64_t i = 0; i < s->n; i++) {
            struct zs_seg *seg = s->at[i];
            if (seg && atomic_load(&seg->pack) && seg->refs == 0 && (!oldest || seg->used < oldest->used)) oldest = seg;
        }
        if (!oldest) return;
        zs_seg_pack_close(st, oldest);
    }
}

static struct zs_packed *pack_open(struct zr_inst *st, struct zs_seg *seg)
{
    char path[ZS_PATH];
    const char *why = "";
    struct zs_packed *p = NULL;
    if (atomic_load(&seg->damaged) || !zs_seg_packed_path(st, seg->base, path)) return NULL;
    int64_t r = st->conf.pack->open(st->io, path, &p, &why);
    if (r < 0) {
        if (r == -ENOENT && seg->gone) return NULL; /* retention was quicker */
        if (!seg->told++) {
            zs_log(st, ZR_LOG_ERROR, "%s cannot be opened: %s", path, r == -EBADMSG ? why : zs_errno_text(r));
            zs_count(st, ZS_M_DAMAGED, 1);
        }
        if (r == -EBADMSG) atomic_store(&seg->damaged, 1);
        atomic_store(&seg->lost, r == -ENOENT);
        return NULL;
    }
    seg->told = 0;
    atomic_store(&seg->lost, 0);
    pthread_mutex_lock(&st->segs.lock);
    atomic_store(&seg->pack, p);
    if (!seg->gone) st->segs.n_packs_open++;
    packs_evict(st);
    pthread_mutex_unlock(&st->segs.lock);
    return p;
}

/* The library's handle of a pinned segment; NULL: it cannot be had, or not at once. */
static struct zs_packed *pack_of(struct zr_inst *st, struct zs_seg *seg, uint32_t nowait)
{
    struct zs_packed *p = atomic_load(&seg->pack);
    if (p || nowait) return p;
    pthread_mutex_lock(&st->pack->open_lock);
    p = atomic_load(&seg->pack);
    if (!p) p = pack_open(st, seg);
    pthread_mutex_unlock(&st->pack->open_lock);
    return p;
}

uint32_t zs_seg_pack_open(struct zr_inst *st, struct zs_seg *seg) { return pack_of(st, seg, 0) != NULL; }

/* ---- one block ---------------------------------------------------------------------------------------------------------------- */

static void ahead_want(struct zr_inst *st, struct zs_seg *seg, uint32_t no);

static void block_report(struct zr_inst *st, const struct zs_block *b, int64_t base, int64_t r)
{
    char path[ZS_PATH];
    if (r == -ENOMEM || !zs_seg_packed_path(st, base, path)) return;
    zs_count(st, ZS_M_DAMAGED, 1);
    zs_log(st, ZR_LOG_ERROR, "%s: the block of the log from %lld to %lld %s; its records are skipped", path, (long long)b->from,
           (long long)(b->from + (int64_t)b->len), r == -EBADMSG ? "is damaged" : "cannot be read from the disk");
}

static int64_t block_load(struct zr_inst *st, struct zs_seg *seg, struct zs_packed *p, struct zs_block *b)
{
    struct zs_pack *c = st->pack;
    int64_t r = st->conf.pack->block_read(p, b->no, b->bytes);
    if (r < 0) block_report(st, b, seg->base, r);
    pthread_mutex_lock(&c->lock);
    b->state = r < 0 ? FAILED : READY;
    b->error = r;
    if (r < 0 && r != -EBADMSG) block_forget(c, b); /* the disk may read again later; damage stays, and is told once */
    cache_shrink(c);
    pthread_cond_broadcast(&c->ready);
    pthread_mutex_unlock(&c->lock);
    return r;
}

/* The block `no` of a pinned segment, with a reference: 0, -EAGAIN (nowait), or -errno. */
static int64_t block_get(struct zr_inst *st, struct zs_seg *seg, struct zs_packed *p, uint32_t no, uint32_t nowait,
                         struct zs_block **ret)
{
    struct zs_pack *c = st->pack;
    int64_t from, to, r = 0;
    pthread_mutex_lock(&c->lock);
    struct zs_block *b = block_find(c, seg->serial, no);
    if (nowait && (!b || b->state != READY)) {
        pthread_mutex_unlock(&c->lock);
        return -EAGAIN;
    }
    uint32_t mine = !b, ahead = 0;
    if (b) {
        b->refs++;
        list_take(c, b);
        list_put(c, b);
        ahead = b->mark;
        b->mark = 0;
        while (b->state == LOADING) pthread_cond_wait(&c->ready, &c->lock);
        if (b->state == FAILED) r = b->error;
    } else {
        st->conf.pack->block_at(p, no, &from, &to);
        b = block_make(seg->serial, no, seg->base + from, (uint64_t)(to - from));
        if (!b) {
            pthread_mutex_unlock(&c->lock);
            return -ENOMEM;
        }
        struct zs_block **at = bucket_of(c, b->serial, no);
        b->hash_next = *at;
        *at = b;
        b->cached = 1;
        list_put(c, b);
        c->bytes += b->len;
        ahead = no > 0 && block_find(c, seg->serial, no - 1);
    }
    pthread_mutex_unlock(&c->lock);
    if (mine) r = block_load(st, seg, p, b);
    if (r < 0) {
        block_put(c, b);
        return r;
    }
    if (ahead && !nowait) ahead_want(st, seg, no + 1);
    *ret = b;
    return 0;
}

/* ---- reading ahead -------------------------------------------------------------------------------------------------------------- */

static void ahead_job(void *arg)
{
    struct zr_inst *st = arg;
    struct zs_pack *c = st->pack;
    struct zs_seg *seg = c->ahead_seg;
    struct zs_packed *p = pack_of(st, seg, 0);
    int64_t from, to, size = st->segs.size;
    for (uint32_t i = 0; p && i < AHEAD; i++) {
        struct zs_block *b;
        uint32_t no = c->ahead_no + i;
        if (no >= st->conf.pack->blocks(p) || block_get(st, seg, p, no, 0, &b) < 0) break;
        st->conf.pack->block_at(p, no, &from, &to);
        if (i == AHEAD / 2) {
            pthread_mutex_lock(&c->lock);
            b->mark = to < size;
            pthread_mutex_unlock(&c->lock);
        }
        block_put(c, b);
    }
    zs_seg_put(st, seg);
    pthread_mutex_lock(&c->lock);
    c->ahead_on = 0;
    c->ahead_seg = NULL;
    pthread_cond_broadcast(&c->ahead_done);
    pthread_mutex_unlock(&c->lock);
}

static void ahead_end(struct zr_inst *st, struct zs_seg *seg)
{
    zs_seg_put(st, seg);
    pthread_mutex_lock(&st->pack->lock);
    st->pack->ahead_on = 0;
    pthread_cond_broadcast(&st->pack->ahead_done);
    pthread_mutex_unlock(&st->pack->lock);
}

/* Somebody reads in order: has the next blocks brought in, unless a job is at it already. */
static void ahead_want(struct zr_inst *st, struct zs_seg *seg, uint32_t no)
{
    struct zs_pack *c = st->pack;
    if (st->recovering || atomic_load(&st->stopping)) return;
    pthread_mutex_lock(&c->lock);
    uint32_t start = !c->ahead_on && c->max >= (uint64_t)AHEAD << 18;
    if (start) {
        c->ahead_on = 1;
        c->ahead_seg = seg;
        c->ahead_no = no;
    }
    pthread_mutex_unlock(&c->lock);
    if (!start) return;
    zs_seg_pin(st, seg);
    if (st->work->run(st->host, ahead_job, st) != ZR_OK) ahead_end(st, seg); /* the pool is busy: the reader does it itself */
}

void zs_pack_ahead_wait(struct zr_inst *st)
{
    if (!st->pack) return;
    pthread_mutex_lock(&st->pack->lock);
    while (st->pack->ahead_on) pthread_cond_wait(&st->pack->ahead_done, &st->pack->lock);
    pthread_mutex_unlock(&st->pack->lock);
}

/* ---- holds ------------------------------------------------------------------------------------------------------------------------ */

static void hold_block(struct zs_hold *ret, const struct zs_block *b)
{
    *ret = (struct zs_hold){ .from = b->from, .to = b->from + (int64_t)b->len, .ptr = b->bytes,
                             .pin = (uint64_t)(uintptr_t)b | TAG_BLOCK, .fd = -1 };
}

/* Damage stays; a shortage passes; what the disk does not give now, it may give later. */
static int hold_refused(int64_t r)
{
    if (r == -EBADMSG) return 0;
    return r == -ENOMEM || r == -EMFILE || r == -ENFILE || r == -EAGAIN || r == -EINTR ? ZS_HOLD_LATER : ZS_HOLD_UNREAD;
}

/* A stretch that no block has whole. */
static int hold_copy(struct zr_inst *st, struct zs_seg *seg, int64_t phys, uint64_t len, struct zs_hold *ret)
{
    if (len > (uint64_t)st->segs.size) return 0;
    struct zs_block *b = block_make(0, 0, phys, len);
    if (!b) return ZS_HOLD_LATER;
    b->state = READY;
    int64_t r = zs_seg_read(st, seg, b->bytes, len, phys - seg->base);
    if (r < 0) {
        free(b);
        return hold_refused(r);
    }
    hold_block(ret, b);
    return 1;
}

static int hold_packed(struct zr_inst *st, struct zs_seg *seg, int64_t phys, uint64_t len, uint32_t nowait, struct zs_hold *ret)
{
    struct zs_block *b;
    int64_t from, to, off = phys - seg->base;
    struct zs_packed *p = pack_of(st, seg, nowait);
    if (!p && nowait) return atomic_load(&seg->damaged) ? 0 : ZS_HOLD_BUSY;
    if (!p) return atomic_load(&seg->damaged) || atomic_load(&seg->lost) ? 0 : ZS_HOLD_LATER;
    uint32_t no = st->conf.pack->block_of(p, off, &from, &to);
    if (off + (int64_t)len > to) return nowait ? ZS_HOLD_BUSY : hold_copy(st, seg, phys, len, ret);
    int64_t r = block_get(st, seg, p, no, nowait, &b);
    if (r < 0) return nowait && r == -EAGAIN ? ZS_HOLD_BUSY : hold_refused(r);
    hold_block(ret, b);
    return 1;
}

int zs_hold_get(struct zr_inst *st, int64_t phys, uint64_t len, uint32_t nowait, struct zs_hold *ret)
{
    uint32_t busy = 0;
    struct zs_seg *seg = zs_seg_get(st, phys, nowait, &busy);
    if (!seg) return busy ? ZS_HOLD_BUSY : zs_seg_later(st, phys) ? ZS_HOLD_LATER : 0;
    int64_t end = seg->base + st->segs.size;
    if (phys + (int64_t)len > end) {
        zs_seg_put(st, seg);
        return 0;
    }
    if (!seg->packed) {
        *ret = (struct zs_hold){ .from = seg->base, .to = end, .ptr = seg->map, .pin = (uint64_t)(uintptr_t)seg, .seg = seg,
                                 .fd = seg->fd };
        return 1;
    }
    int got = hold_packed(st, seg, phys, len, nowait, ret);
    zs_seg_put(st, seg);
    return got;
}

void zs_hold_put(struct zr_inst *st, uint64_t pin)
{
    if (pin & TAG_BLOCK) block_put(st->pack, (struct zs_block *)(uintptr_t)(pin & ~(uint64_t)TAG_BLOCK));
    else zs_seg_put(st, (struct zs_seg *)(uintptr_t)pin);
}

/* ---- copies ------------------------------------------------------------------------------------------------------------------------- */

static int64_t block_copy(struct zr_inst *st, struct zs_seg *seg, struct zs_packed *p, uint32_t no, uint8_t *to, uint64_t len,
                          int64_t skip)
{
    struct zs_block *b;
    int64_t r = block_get(st, seg, p, no, 0, &b);
    if (r < 0) return r;
    memcpy(to, b->bytes + skip, len);
    block_put(st->pack, b);
    return 0;
}

int64_t zs_seg_read(struct zr_inst *st, struct zs_seg *seg, uint8_t *to, uint64_t len, int64_t off)
{
    if (!seg->packed) return zl_io_read_all(st->io, seg->fd, to, len, off);
    struct zs_packed *p = pack_of(st, seg, 0);
    int64_t r = p ? 0 : atomic_load(&seg->damaged) ? -EBADMSG : -EIO;
    while (len && r >= 0) {
        int64_t from, end;
        uint32_t no = st->conf.pack->block_of(p, off, &from, &end);
        uint64_t n = (uint64_t)(end - off) < len ? (uint64_t)(end - off) : len;
        /* Whole blocks of a long reading pass by the cache: they would only push out what readers have in it. */
        if (off == from && n == (uint64_t)(end - from)) r = st->conf.pack->block_read(p, no, to);
        else r = block_copy(st, seg, p, no, to, n, off - from);
        to += n;
        off += (int64_t)n;
        len -= n;
    }
    return r;
}
