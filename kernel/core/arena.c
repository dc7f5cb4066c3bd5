/* SPDX-License-Identifier: Apache-2.0 */
/* arena.c - bump memory in chunks: cheap to take, given back all at once.
 *
 * What stays true:
 *   1. `chunks` is the chunk being filled; older ones hang behind it.
 *   2. The sum of all chunks' sizes is at most max; used counts what was handed out since the last reset, for metrics.
 *   3. After reset exactly one chunk of the ordinary size is left (or none), so a quiet arena costs one chunk. */
#include "core/core.h"
#include <stdlib.h>

struct zk_chunk {
    struct zk_chunk *next;
    uint64_t size, at; /* bytes in data, bytes handed out */
    uint64_t reserved;
    _Alignas(16) uint8_t data[];
};

void zk_arena_init(struct zk_arena *a, uint64_t chunk_size, uint64_t max)
{
    *a = (struct zk_arena){ NULL, 0, max, chunk_size };
}

static uint64_t chunks_total(const struct zk_arena *a)
{
    uint64_t total = 0;
    for (const struct zk_chunk *c = a->chunks; c; c = c->next)
        total += c->size;
    return total;
}

static struct zk_chunk *chunk_add(struct zk_arena *a, uint64_t least)
{
    uint64_t size = least > a->chunk_size ? least : a->chunk_size, total = chunks_total(a);
    if (total + size > a->max)
        size = least; /* the last one may be small */
    if (total + size > a->max || total + size < size)
        return NULL;
    struct zk_chunk *c = malloc(sizeof *c + size);
    if (!c)
        return NULL;
    *c = (struct zk_chunk){ a->chunks, size, 0, 0 };
    a->chunks = c;
    return c;
}

void *zk_arena_alloc(struct zk_arena *a, uint64_t size)
{
    struct zk_chunk *c = a->chunks;
    if (size > a->max)
        return NULL;
    uint64_t rounded = (size + 15u) & ~(uint64_t)15u;
    if (rounded == 0)
        rounded = 16;
    if (!c || c->size - c->at < rounded) {
        c = chunk_add(a, rounded);
        if (!c)
            return NULL;
    }
    void *p = c->data + c->at;
    c->at += rounded;
    a->used += rounded;
    return p;
}

struct zr_str zk_arena_str(struct zk_arena *a, struct zr_str s)
{
    char *p = zk_arena_alloc(a, s.len + 1);
    if (!p)
        return (struct zr_str){ NULL, 0 };
    if (s.len)
        memcpy(p, s.ptr, s.len);
    p[s.len] = 0;
    return (struct zr_str){ p, s.len };
}

void zk_arena_reset(struct zk_arena *a)
{
    struct zk_chunk *keep = NULL, *next;
    for (struct zk_chunk *c = a->chunks; c; c = next) {
        next = c->next;
        if (!keep && c->size == a->chunk_size) {
            keep = c;
            keep->at = 0;
        } else {
            free(c);
        }
    }
    if (keep)
        keep->next = NULL;
    a->chunks = keep;
    a->used = 0;
}

void zk_arena_free(struct zk_arena *a)
{
    struct zk_chunk *next;
    for (struct zk_chunk *c = a->chunks; c; c = next) {
        next = c->next;
        free(c);
    }
    a->chunks = NULL;
    a->used = 0;
}
