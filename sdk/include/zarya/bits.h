/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/bits.h - bit maps of messages: which consumers a message may be for, told ahead of reading it.
 *
 * A storage may keep a bit map beside a message's queue entry. It is made once, when the entry is written, by asking the host
 * (zarya.bits/1) which of the registered consumers the message matches; each of those sets some bits (RocketMQ: a bloom filter, by
 * hashes of group and topic). A read that carries a consumer's positions (zr_read.bits) then passes over entries of which one of
 * these bits is not set, without reading the record. A bit map never says that a message matches, only that it does not.
 *
 * Bit p is byte p / 8, mask 1 << p % 8. What stays true:
 *   1. A map speaks for a consumer only if it has n_bits bits, and the message's store time is later than after_ms: the consumer
 *      was registered, as it is now, when the map was made. The host sees to the times, and the storage tests both.
 *   2. Without a map, or with one that does not speak for the consumer, the record is asked. */
#ifndef ZARYA_BITS_H
#define ZARYA_BITS_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_BITS_POSITIONS 16u /* most positions of one consumer */
#define ZR_BITS_BYTES 4096u   /* longest map that is made or tested */

/* One consumer's side of it. */
struct zr_bits {
    struct zr_hdr hdr;
    int64_t after_ms; /* maps of messages with this store time or an earlier one do not speak for it (ms since 1970) */
    uint32_t n_bits;  /* of the maps that do */
    uint32_t n_positions;
    uint32_t positions[ZR_BITS_POSITIONS]; /* each below n_bits */
};
struct zr_bits_map {
    struct zr_span properties; /* in: of the message; valid during the call */
    int64_t store_ms;          /* in */
    uint8_t *bytes;            /* in: room for ZR_BITS_BYTES; out: the map */
    uint32_t n_bytes;          /* out; 0: it has none */
    uint32_t reserved;
};

#define ZR_SVC_BITS "zarya.bits/1"
struct zr_bits_v1 {
    struct zr_hdr hdr;
    /* Makes the maps of n messages of one topic. 1: done; 0: there are none to be had (nobody is registered, the maps are not
     * wanted, the host is not ready), and every n_bytes is 0. Evaluates every filter of the topic, so it is no call for the path of
     * a send; it blocks on nothing, keeps nothing of what is passed, and does not call the storage: a storage may hold its locks. */
    ZR_ON(any) uint32_t (*maps)(const struct zr_host *host, struct zr_str topic, struct zr_bits_map *maps, uint32_t n);
};
#ifdef __cplusplus
}
#endif
#endif
