/* SPDX-License-Identifier: Apache-2.0 */
/* index_ask.c - asking the index by key.
 *
 * A query goes through the files from the newest to the oldest and follows one chain in each. What stays true:
 *   1. It holds up nobody: a chain is followed without index.lock. The file is held by a descriptor of the query's own, so
 *      that one which is removed meanwhile keeps its bytes; the newest entries, which are only in memory, are copied.
 *   2. It ends: chains only go back, and it looks at no more than walk_max entries in all. When that is not enough, what it
 *      gives is the newest of what there is, a line in the log says so, and the rest is found by asking for the time before.
 *   3. That gets on, too: after aside_max entries newer than what is asked for, one after another, the chain is entered again
 *      near the end of that time; after as many older ones the file is left. Entries are in order of time but for what a
 *      clock was set back, which is passed over this way only when so many entries follow.
 *   4. A file that is being made anew meanwhile may give less than all, or what is no record; as before, whoever asked
 *      checks the records.
 *
 * LOCKING: index.lock for what is before a chain (file_take) and for the hash. */
#include "index.h"
#include <stdlib.h>

#define ENTRY ZS_INDEX_ENTRY
#define CATCH_UP_NS 5000000000
#define TELL_NS 60000000000

struct asking {
    struct zr_inst *st;
    int64_t begin_ms, end_ms;
    int64_t *physical;
    uint32_t n, cap;
    uint32_t left;      /* entries that may still be looked at */
    int32_t hash, fd;   /* fd below 0: not open */
    int32_t head;       /* of the chain; -1: its slot is to be read */
    struct zs_ifile f;  /* as it was when it was opened */
    int32_t block_from, chunk_from, chunk_n;
    uint8_t chunk[ZS_INDEX_CHUNK * ENTRY]; /* entries as they are in the file */
    uint8_t block[ZS_INDEX_BLOCK * ENTRY]; /* entries [block_from, f.count) */
};

struct entry {
    int64_t phys, ms;
    int32_t hash, prev;
};

/* ---- entries -------------------------------------------------------------------------------------------------------------- */

/* Reads entry n and those before it: a chain of many is a dense one. Where they cannot be read, n alone. */
static uint32_t chunk_load(struct asking *a, int32_t n)
{
    struct zs_index *ix = a->st->index;
    int32_t from = n >= (int32_t)ZS_INDEX_CHUNK ? n - (int32_t)ZS_INDEX_CHUNK + 1 : 1;
    a->chunk_n = 0;
    if (a->fd < 0) return 0;
    if (zl_io_read_all(a->st->io, a->fd, a->chunk, (uint64_t)(n - from + 1) * ENTRY, zs_index_entry_off(ix, from)) < 0) {
        from = n;
        if (zl_io_read_all(a->st->io, a->fd, a->chunk, ENTRY, zs_index_entry_off(ix, n)) < 0) return 0;
    }
    a->chunk_from = from;
    a->chunk_n = n - from + 1;
    return 1;
}

static uint32_t entry_get(struct asking *a, int32_t n, struct entry *ret)
{
    const uint8_t *e = NULL;
    if (n >= a->block_from) e = a->block + (int64_t)(n - a->block_from) * ENTRY;
    else if ((n >= a->chunk_from && n - a->chunk_from < a->chunk_n) || chunk_load(a, n)) e = a->chunk + (int64_t)(n - a->chunk_from) * ENTRY;
    if (!e || (int32_t)zl_load32(e + 12) < 0) return 0;
    *ret = (struct entry){ .hash = (int32_t)zl_load32(e), .phys = (int64_t)zl_load64(e + 4), .prev = (int32_t)zl_load32(e + 16),
                           .ms = a->f.begin_ms + (int64_t)zl_load32(e + 12) * 1000 };
    return 1;
}

/* ---- a chain -------------------------------------------------------------------------------------------------------------- */

static uint32_t too_old(const struct asking *a, const struct entry *e) { return e->ms + 1000 <= a->begin_ms; }

static void take(struct asking *a, const struct entry *e)
{
    uint32_t i = a->n; /* a key named twice in one message, or a part of the log that is in two files */
    while (i > 0 && a->physical[i - 1] != e->phys) i--;
    if (i == 0) a->physical[a->n++] = e->phys;
}

/* The last entry up to n that is not newer than what is asked for; 0: none. */
static int32_t last_in_time(struct asking *a, int32_t n)
{
    int32_t lo = 0, hi = n;
    struct entry e;
    while (lo < hi) {
        int32_t mid = lo + (hi - lo + 1) / 2;
        if (!entry_get(a, mid, &e)) return n;
        if (e.ms <= a->end_ms) lo = mid;
        else hi = mid - 1;
    }
    return lo;
}

/* The newest entry of the chain, from n back, that is not newer than what is asked for: found by time instead of by following.
 * n itself when that needs more than half of what may be looked at. */
static int32_t chain_enter(struct asking *a, int32_t n)
{
    int64_t slots = a->st->index->slot_count;
    uint32_t left = a->left / 2;
    struct entry e;
    for (int32_t at = last_in_time(a, n); left; at--, left--, a->left--) {
        if (at <= 0) return 0;
        if (!entry_get(a, at, &e)) return n;
        if (e.hash >= 0 && e.hash % slots == a->hash % slots) return at;
    }
    return n;
}

static void chain_walk(struct asking *a, int32_t n)
{
    uint32_t aside_max = a->st->index->aside_max, newer = 0, older = 0, entered = 0;
    struct entry e;
    for (; n > 0 && n < a->f.count && a->n < a->cap && a->left; a->left--) {
        if (!entry_get(a, n, &e)) return;
        newer = e.ms > a->end_ms ? newer + 1 : 0;
        older = too_old(a, &e) ? older + 1 : 0;
        if (e.hash == a->hash && !newer && !older) take(a, &e);
        if (older >= aside_max || e.prev >= n) return;
        n = e.prev;
        if (newer < aside_max || entered || n <= 0) continue;
        entered = 1;
        n = chain_enter(a, n);
    }
}

/* ---- files ---------------------------------------------------------------------------------------------------------------- */

static const struct zs_ifile *file_before(const struct zs_index *ix, const char *name)
{
    for (uint64_t i = ix->n; i > 0; i--)
        if (!name[0] || strcmp(ix->files[i - 1]->name, name) < 0) return ix->files[i - 1];
    return NULL;
}

/* Takes hold of the next older file. 0: there is none. Under index.lock. */
static uint32_t file_take(struct asking *a)
{
    const struct zs_index *ix = a->st->index;
    const struct zs_ifile *f = file_before(ix, a->f.name);
    a->fd = -1;
    if (!f) return 0;
    a->f = *f;
    a->head = -1;
    a->chunk_n = 0;
    a->block_from = f->count;
    if (f->count <= 1 || f->end_ms < a->begin_ms || f->begin_ms > a->end_ms) return 1;
    a->fd = (int32_t)zs_index_file_open(a->st, f);
    if (ix->cur.open && f == ix->cur.f) {
        a->head = ix->cur.slots[a->hash % ix->slot_count];
        a->block_from = ix->cur.block_from;
        memcpy(a->block, ix->cur.block, (size_t)(f->count - a->block_from) * ENTRY);
    }
    return 1;
}

static void file_ask(struct asking *a)
{
    uint8_t raw[4];
    if (a->head < 0 && a->fd >= 0 && zl_io_read_all(a->st->io, a->fd, raw, 4, ZS_INDEX_HEAD + 4 * (a->hash % a->st->index->slot_count)) >= 0)
        a->head = (int32_t)zl_load32(raw);
    chain_walk(a, a->head);
    if (a->fd >= 0) a->st->io->close(a->st->io->ctx, a->fd);
}

/* Lets the follower reach what is visible now; gives up after CATCH_UP_NS (an index that is made anew from a long log). */
static void catch_up(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    int64_t want = zs_visible(st), until = zs_mono(st) + CATCH_UP_NS;
    while ((atomic_load(&ix->pos) < want || ix->mending) && !atomic_load(&st->stopping) && atomic_load(&st->threads_on) && !ix->broken) {
        int64_t left = until - zs_mono(st);
        if (left <= 0) return;
        ix->hurry = 1;
        pthread_cond_signal(&ix->cond);
        zs_cond_wait_ns(&ix->caught, &ix->lock, left);
    }
}

/* Under index.lock. */
static void tell_cut_short(struct asking *a)
{
    struct zs_index *ix = a->st->index;
    int64_t now = zs_mono(a->st);
    if (ix->walk_told_ns && now - ix->walk_told_ns < TELL_NS) return;
    ix->walk_told_ns = now;
    zs_log(a->st, ZR_LOG_WARN, "a query by key looked at %u entries of the index and found %u messages; older ones are found by asking for the time before",
           ix->walk_max, a->n);
}

int32_t zs_find_key(struct zr_inst *st, struct zr_str topic, struct zr_str key, uint32_t kind, int64_t begin_ms,
                    int64_t end_ms, int64_t *physical, uint32_t cap)
{
    struct zs_index *ix = st->index;
    if (!ix) return ZR_ENOTSUP;
    struct asking *a = malloc(sizeof *a);
    if (!a) return ZR_ENOMEM;
    a->st = st;
    a->begin_ms = begin_ms;
    a->end_ms = end_ms;
    a->physical = physical;
    a->n = 0;
    a->cap = cap < ZS_INDEX_FOUND ? cap : ZS_INDEX_FOUND;
    a->f.name[0] = 0;
    pthread_mutex_lock(&ix->lock);
    catch_up(st);
    a->left = ix->walk_max;
    a->hash = zs_index_hash(ix, topic, key, kind);
    while (a->n < a->cap && a->left && file_take(a)) {
        pthread_mutex_unlock(&ix->lock);
        file_ask(a);
        pthread_mutex_lock(&ix->lock);
        if (a->f.count > 1 && a->f.begin_ms < begin_ms) break;
    }
    if (!a->left && a->n < a->cap) tell_cut_short(a);
    pthread_mutex_unlock(&ix->lock);
    int32_t n = (int32_t)a->n;
    free(a);
    return n;
}
