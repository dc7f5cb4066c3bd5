/* SPDX-License-Identifier: Apache-2.0 */
/* bits.c - the host service zarya.bits/1: bloom bits of consumers that filter by other than tags, as Apache counts them.
 *
 * The map's length m and the number of positions k come from expectConsumerNumUseFilter and maxErrorRateOfBloomFilter; a
 * consumer's positions from the hash of "group#topic". Storages ask for the maps of messages whose queue entries they write; those
 * of all registrations for the topic are judged, dead ones too, since a dead one may come back as it was.
 *
 * What stays true:
 *   1. A registration's maps count from its birth on, and it is born no earlier than any message whose map was made without it:
 *      newest_ms moves first, then the registrations are looked at; a birth reads newest_ms under the lock of that look.
 *   2. What cannot be judged (its language's plugin is missing) sets its bits: a map never says no by ignorance.
 *   3. No plugin is called with a lock held; a close waits for calls under way. */
#include <math.h>
#include "broker/internal.h"

#define MOST_OF_TOPIC 256u /* registrations; a topic with more has no maps */

static struct zr_bits shape; /* n_bits and n_positions of every consumer; n_bits 0: too long to be made */
static _Atomic int64_t newest_ms;

/* ---- shape and positions ---- */
void zb_bits_open(void)
{
    double rate = (double)zb.set.bloom_error / 100.0;
    double k = ceil(log(rate) / log(0.5)), m = ceil((double)zb.set.bloom_consumers * (log(1 / rate) / log(2)) * (log(M_E) / log(2)));
    m = 8 * ceil(m / 8);
    shape = (struct zr_bits){ .hdr = ZR_HDR(struct zr_bits, 0), .n_bits = (uint32_t)m, .n_positions = (uint32_t)k };
    atomic_store(&newest_ms, 0);
    if (ZB_SET(calc_bits) && shape.n_bits / 8 > ZR_BITS_BYTES)
        zk_log(ZR_LOG_WARN, "bit maps of %u bits are longer than %u: none are made (expectConsumerNumUseFilter, maxErrorRateOfBloomFilter)",
               shape.n_bits, ZR_BITS_BYTES * 8);
}

static uint64_t mix(uint64_t h)
{
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdull;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ull;
    return h ^ (h >> 33);
}

static uint64_t rotate(uint64_t v, uint32_t by)
{
    return v << by | v >> (64 - by);
}

static uint64_t load_le(const uint8_t *p, uint64_t n)
{
    uint64_t v = 0;
    for (uint64_t i = 0; i < n; i++)
        v |= (uint64_t)p[i] << (8 * i);
    return v;
}

/* The first half of MurmurHash3 x64 128 with seed 0. */
static uint64_t murmur3(struct zr_str s)
{
    const uint64_t c1 = 0x87c37b91114253d5ull, c2 = 0x4cf5ad432745937full;
    const uint8_t *p = (const uint8_t *)s.ptr;
    uint64_t h1 = 0, h2 = 0, left = s.len;
    for (; left >= 16; p += 16, left -= 16) {
        h1 ^= rotate(load_le(p, 8) * c1, 31) * c2;
        h1 = (rotate(h1, 27) + h2) * 5 + 0x52dce729;
        h2 ^= rotate(load_le(p + 8, 8) * c2, 33) * c1;
        h2 = (rotate(h2, 31) + h1) * 5 + 0x38495ab5;
    }
    if (left > 8)
        h2 ^= rotate(load_le(p + 8, left - 8) * c2, 33) * c1;
    if (left > 0)
        h1 ^= rotate(load_le(p, left < 8 ? left : 8) * c1, 31) * c2;
    h1 ^= s.len;
    h2 ^= s.len;
    h1 += h2;
    h2 += h1;
    h1 = mix(h1);
    h2 = mix(h2);
    return h1 + h2;
}

void zb_bits_of(struct zr_str group, struct zr_str topic, struct zr_bits *ret)
{
    char text[2 * ZB_NAME_MAX + 2];
    int len = snprintf(text, sizeof text, "%.*s#%.*s", (int)group.len, group.ptr, (int)topic.len, topic.ptr);
    uint64_t h = murmur3((struct zr_str){ text, (uint64_t)(len < (int)sizeof text ? len : (int)sizeof text - 1) });
    uint32_t low = (uint32_t)h, high = (uint32_t)(h >> 32);
    *ret = shape;
    for (uint32_t i = 0; i < ret->n_positions; i++) {
        uint32_t c = low + (i + 1) * high;
        ret->positions[i] = (c >> 31 ? ~c : c) % ret->n_bits;
    }
}

uint32_t zb_bits_fit(const struct zr_bits *b)
{
    return b->n_bits == shape.n_bits && b->n_positions == shape.n_positions;
}

int64_t zb_bits_newest_ms(void)
{
    return atomic_load(&newest_ms);
}

/* ---- the service ---- */
static void judge(struct zr_bits_map *map, const struct zb_judge *judges, uint32_t n)
{
    uint64_t steps = ZR_FILTER_STEPS; /* for all: what they do not suffice for counts as a match */
    map->n_bytes = shape.n_bits / 8;
    memset(map->bytes, 0, map->n_bytes);
    for (uint32_t i = 0; i < n; i++) {
        const struct zb_filter *f = judges[i].filter;
        if (f && zb_filter_judge(f, map->properties, &steps) == ZR_MATCH_NO)
            continue;
        for (uint32_t k = 0; k < judges[i].bits.n_positions; k++)
            map->bytes[judges[i].bits.positions[k] / 8] |= (uint8_t)(1u << judges[i].bits.positions[k] % 8);
    }
}

static uint32_t bits_maps(const struct zr_host *host, struct zr_str topic, struct zr_bits_map *maps, uint32_t n)
{
    (void)host;
    for (uint32_t i = 0; i < n; i++)
        maps[i].n_bytes = 0;
    if (!ZB_SET(calc_bits) || shape.n_bits / 8 > ZR_BITS_BYTES)
        return 0;
    int64_t newest = atomic_load(&newest_ms), most = 0;
    for (uint32_t i = 0; i < n; i++)
        most = maps[i].store_ms > most ? maps[i].store_ms : most;
    while (most > newest && !atomic_compare_exchange_weak(&newest_ms, &newest, most))
        ;
    struct zb_judge *judges = malloc(MOST_OF_TOPIC * sizeof *judges);
    uint32_t n_judges = judges ? zb_filterdata_judges(topic, judges, MOST_OF_TOPIC) : 0;
    for (uint32_t i = 0; n_judges && i < n; i++)
        judge(&maps[i], judges, n_judges);
    if (n_judges)
        zb_filterdata_judged(judges, n_judges);
    free(judges);
    return n_judges > 0;
}

const struct zr_bits_v1 zb_bits_table = { .hdr = ZR_HDR(struct zr_bits_v1, 0), .maps = bits_maps };
