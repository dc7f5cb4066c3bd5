/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - see table.h: slots in one array, a hash of chains by first offset, a heap by due time with the place of each slot in
 * it, and three rings of bits. */
#include "table.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_SLOTS 64u

/* ---- bits ---------------------------------------------------------------------------------------------------------------- */

static uint32_t bit_get(const struct tx_table *t, const uint64_t *bits, int64_t offset)
{
    uint64_t at = (uint64_t)offset & (uint64_t)(t->window - 1);
    return bits[at / 64] >> (at % 64) & 1;
}

static void bit_put(const struct tx_table *t, uint64_t *bits, int64_t offset, uint64_t value)
{
    uint64_t at = (uint64_t)offset & (uint64_t)(t->window - 1);
    bits[at / 64] = (bits[at / 64] & ~(1ull << (at % 64))) | value << (at % 64);
}

uint32_t tx_is_known(const struct tx_table *t, int64_t offset)
{
    return offset >= 0 && offset < t->next && offset >= t->next - t->window;
}

uint32_t tx_enter(struct tx_table *t, int64_t offset)
{
    if (offset < t->next) return 1;
    if (offset - t->base >= t->window) return 0;
    int64_t from = offset - t->next >= t->window ? offset - t->window + 1 : t->next;
    for (int64_t o = from; o <= offset; o++) {
        bit_put(t, t->settled, o, 0);
        bit_put(t, t->decided, o, 0);
    }
    t->next = offset + 1;
    return 1;
}

void tx_settle(struct tx_table *t, int64_t offset)
{
    if (offset >= t->base && offset < t->next) bit_put(t, t->settled, offset, 1);
}

uint32_t tx_is_settled(const struct tx_table *t, int64_t offset)
{
    if (offset < t->base) return 1;
    return offset < t->next && bit_get(t, t->settled, offset);
}

void tx_decide(struct tx_table *t, int64_t first, uint32_t rolled_back)
{
    if (!tx_is_known(t, first)) return;
    bit_put(t, t->decided, first, 1);
    bit_put(t, t->backed, first, rolled_back != 0);
}

uint32_t tx_is_decided(const struct tx_table *t, int64_t first)
{
    return tx_is_known(t, first) && bit_get(t, t->decided, first);
}

uint32_t tx_is_rolled_back(const struct tx_table *t, int64_t first)
{
    return tx_is_decided(t, first) && bit_get(t, t->backed, first);
}

int64_t tx_advance(struct tx_table *t)
{
    while (t->base < t->next && bit_get(t, t->settled, t->base)) t->base++;
    return t->base;
}

/* ---- the heap ------------------------------------------------------------------------------------------------------------ */

static void heap_set(struct tx_table *t, uint32_t at, uint32_t slot)
{
    t->heap[at] = slot;
    t->slots[slot].heap_at = at;
}

static void sift_up(struct tx_table *t, uint32_t at)
{
    uint32_t slot = t->heap[at];
    int64_t due = t->slots[slot].due_ms;
    while (at > 0 && t->slots[t->heap[(at - 1) / 2]].due_ms > due) {
        heap_set(t, at, t->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_set(t, at, slot);
}

static void sift_down(struct tx_table *t, uint32_t at)
{
    uint32_t slot = t->heap[at];
    int64_t due = t->slots[slot].due_ms;
    for (;;) {
        uint32_t child = at * 2 + 1;
        if (child >= t->n) break;
        if (child + 1 < t->n && t->slots[t->heap[child + 1]].due_ms < t->slots[t->heap[child]].due_ms) child++;
        if (t->slots[t->heap[child]].due_ms >= due) break;
        heap_set(t, at, t->heap[child]);
        at = child;
    }
    heap_set(t, at, slot);
}

struct tx_slot *tx_top(const struct tx_table *t) { return t->n ? &t->slots[t->heap[0]] : NULL; }

void tx_due(struct tx_table *t, struct tx_slot *s, int64_t due_ms)
{
    int64_t before = s->due_ms;
    s->due_ms = due_ms;
    if (due_ms < before) sift_up(t, s->heap_at);
    else sift_down(t, s->heap_at);
}

/* ---- slots --------------------------------------------------------------------------------------------------------------- */

static uint32_t bucket_of(const struct tx_table *t, int64_t first)
{
    uint64_t h = (uint64_t)first * 0x9E3779B97F4A7C15ull;
    return (uint32_t)(h >> 32) & (t->n_buckets - 1);
}

static void buckets_fill(struct tx_table *t)
{
    memset(t->buckets, 0xff, t->n_buckets * sizeof *t->buckets);
    for (uint32_t i = 0; i < t->n; i++) {
        uint32_t slot = t->heap[i], b = bucket_of(t, t->slots[slot].first);
        t->slots[slot].next = t->buckets[b];
        t->buckets[b] = slot;
    }
}

static uint32_t grow(struct tx_table *t)
{
    uint32_t cap = t->cap ? t->cap * 2 : FIRST_SLOTS;
    if (t->cap >= t->max_open) return 0;
    if (cap > t->max_open) cap = t->max_open;
    uint32_t n_buckets = FIRST_SLOTS;
    while (n_buckets < cap) n_buckets *= 2;
    struct tx_slot *slots = realloc(t->slots, cap * sizeof *slots);
    if (slots) t->slots = slots;
    uint32_t *heap = realloc(t->heap, cap * sizeof *heap);
    if (heap) t->heap = heap;
    uint32_t *buckets = slots && heap ? malloc(n_buckets * sizeof *buckets) : NULL;
    if (!buckets) return 0;
    free(t->buckets);
    t->buckets = buckets;
    t->n_buckets = n_buckets;
    buckets_fill(t);
    for (uint32_t i = cap; i-- > t->cap;) { /* all others are in use: growth happens when none is free */
        t->slots[i].next = t->free;
        t->free = i;
    }
    t->cap = cap;
    return 1;
}

struct tx_slot *tx_find(const struct tx_table *t, int64_t first)
{
    for (uint32_t i = t->n ? t->buckets[bucket_of(t, first)] : TX_NONE; i != TX_NONE; i = t->slots[i].next)
        if (t->slots[i].first == first) return &t->slots[i];
    return NULL;
}

struct tx_slot *tx_insert(struct tx_table *t, int64_t first, int64_t current, int64_t physical, int64_t due_ms)
{
    if (tx_find(t, first) || (t->free == TX_NONE && !grow(t))) return NULL;
    uint32_t i = t->free, b = bucket_of(t, first);
    struct tx_slot *s = &t->slots[i];
    t->free = s->next;
    *s = (struct tx_slot){ .first = first, .current = current, .physical = physical, .due_ms = due_ms, .next = t->buckets[b] };
    t->buckets[b] = i;
    heap_set(t, t->n++, i);
    sift_up(t, s->heap_at);
    return s;
}

void tx_remove(struct tx_table *t, struct tx_slot *s)
{
    uint32_t i = (uint32_t)(s - t->slots), at = s->heap_at, *link = &t->buckets[bucket_of(t, s->first)];
    while (*link != i) link = &t->slots[*link].next;
    *link = s->next;
    t->n--;
    if (at < t->n) {
        heap_set(t, at, t->heap[t->n]);
        sift_up(t, at);
        sift_down(t, at);
    }
    s->next = t->free;
    t->free = i;
}

struct tx_slot *tx_rename(struct tx_table *t, struct tx_slot *s, int64_t first)
{
    struct tx_slot was = *s;
    tx_remove(t, s);
    s = tx_insert(t, first, was.current, was.physical, was.due_ms);
    if (!s) return NULL;
    s->ask_ms = was.ask_ms;
    s->times = was.times;
    s->flags = was.flags;
    s->topic = was.topic;
    return s;
}

/* ---- life ---------------------------------------------------------------------------------------------------------------- */

uint32_t tx_init(struct tx_table *t, int64_t base, int64_t window, uint32_t max_open)
{
    *t = (struct tx_table){ .base = base, .next = base, .window = 64, .max_open = max_open, .free = TX_NONE };
    while (t->window < window) t->window *= 2;
    t->settled = calloc((uint64_t)t->window / 64, sizeof *t->settled);
    t->decided = calloc((uint64_t)t->window / 64, sizeof *t->decided);
    t->backed = calloc((uint64_t)t->window / 64, sizeof *t->backed);
    if (t->settled && t->decided && t->backed) return 1;
    tx_free(t);
    return 0;
}

void tx_restart(struct tx_table *t, int64_t base, int64_t window)
{
    struct tx_table larger;
    if (window > t->window && tx_init(&larger, base, window, t->max_open)) {
        tx_free(t);
        *t = larger;
    }
    memset(t->settled, 0, (uint64_t)t->window / 8);
    memset(t->decided, 0, (uint64_t)t->window / 8);
    t->base = t->next = base;
}

void tx_free(struct tx_table *t)
{
    free(t->slots);
    free(t->heap);
    free(t->buckets);
    free(t->settled);
    free(t->decided);
    free(t->backed);
    *t = (struct tx_table){ .free = TX_NONE };
}

uint64_t tx_memory(const struct tx_table *t)
{
    return (uint64_t)t->cap * (sizeof *t->slots + sizeof *t->heap) + (uint64_t)t->n_buckets * sizeof *t->buckets + (uint64_t)t->window / 8 * 3;
}
