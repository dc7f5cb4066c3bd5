/* SPDX-License-Identifier: Apache-2.0 */
/* hist.c - see hist.h. */
#include "hist.h"
#include <math.h>
#include <string.h>

#define SUB (1u << HIST_SUB_BITS)
#define LARGEST ((1ull << HIST_MAX_BITS) - 1)

uint32_t hist_bucket(uint64_t ns)
{
    if (ns > LARGEST) ns = LARGEST;
    if (ns < 2 * SUB) return (uint32_t)ns;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(ns) - HIST_SUB_BITS; /* leaves SUB .. 2 SUB - 1 */
    return (shift << HIST_SUB_BITS) + (uint32_t)(ns >> shift);
}

uint64_t hist_top(uint32_t bucket)
{
    if (bucket < 2 * SUB) return bucket;
    uint32_t shift = (bucket >> HIST_SUB_BITS) - 1;
    uint64_t sub = bucket - (shift << HIST_SUB_BITS);
    return ((sub + 1) << shift) - 1;
}

void hist_clear(struct hist *h)
{
    memset(h, 0, sizeof(*h));
    h->min = UINT64_MAX;
}

void hist_add(struct hist *h, int64_t ns)
{
    uint64_t v = ns > 0 ? (uint64_t)ns : 0;
    h->n++;
    h->sum += v;
    if (v > h->max) h->max = v;
    if (v < h->min) h->min = v;
    h->count[hist_bucket(v)]++;
}

void hist_merge(struct hist *to, const struct hist *from)
{
    to->n += from->n;
    to->sum += from->sum;
    if (from->max > to->max) to->max = from->max;
    if (from->min < to->min) to->min = from->min;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) to->count[i] += from->count[i];
}

uint64_t hist_at(const struct hist *h, double share)
{
    if (h->n == 0) return 0;
    uint64_t want = (uint64_t)ceil(share * (double)h->n), seen = 0;
    if (want == 0) want = 1;
    if (want > h->n) want = h->n;
    for (uint32_t i = 0; i < HIST_BUCKETS; i++) {
        seen += h->count[i];
        if (seen >= want) {
            uint64_t top = hist_top(i);
            return top < h->max ? top : h->max; /* the last bucket's upper end may lie beyond what was seen */
        }
    }
    return h->max;
}

double hist_mean(const struct hist *h) { return h->n ? (double)h->sum / (double)h->n : 0; }
