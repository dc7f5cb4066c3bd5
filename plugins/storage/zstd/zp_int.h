/* SPDX-License-Identifier: Apache-2.0 */
/* zp_int.h - what the files of the library share: the numbers of the form, and its bytes. See README.md for the layout. */
#ifndef ZP_INT_H
#define ZP_INT_H
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <zstd.h>
#include "zl/io.h"
#include "zp.h"

#define ZP_OURS 0x184D2A5Du     /* skippable frames of ours */
#define ZP_SEEK 0x184D2A5Eu     /* the seek table's */
#define ZP_SEEK_MAGIC 0x8F92EAB1u
#define ZP_FOOTER 9u            /* frames u32 | descriptor u8 | magic u32 */
#define ZP_SEEK_ENTRY 12u       /* compressed u32 | raw u32 | checksum u32 */
#define ZP_CHECKSUMS 0x80u      /* in the descriptor */
#define ZP_SKIP 8u              /* magic and length of a skippable frame */
#define ZP_HEADER 72u           /* the header frame, its first 8 bytes included */
#define ZP_VERSION 1u
#define ZP_MAX_DICT (1u << 20)
#define ZP_LEAST_DICT 1024u
#define ZP_LEAST_SUMS 16u       /* sums frame: "ZRYSUMS1" and the digest, beside 4 bytes for each block */

static inline uint32_t zp_load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return v; }
static inline uint64_t zp_load64(const void *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline void zp_store32(void *p, uint32_t v) { memcpy(p, &v, 4); }
static inline void zp_store64(void *p, uint64_t v) { memcpy(p, &v, 8); }
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the packed form is little-endian, and so is this code");

/* XXH64, as zstd uses it for its checksums. */
uint64_t zp_xxh64(const void *bytes, uint64_t len, uint64_t seed);
/* Digest of everything but the blocks, whose checksums are in sums: header, dictionary, sums without the digest, seek table. */
uint64_t zp_digest(struct zr_span header, struct zr_span dict, struct zr_span sums, struct zr_span seek);
/* The same of two plain files (zp_lacks). */
int64_t zp_plain_lacks(const struct zr_io_v1 *io, const char *of, const char *in, int64_t base, const struct zp_damage *lost,
                       const struct zp_pace *pace);
/* 1: [from, to) of an open plain segment is whole records, up to the blank if it is the last; 0: it is not; or -errno. */
int64_t zp_plain_whole(const struct zr_io_v1 *io, int32_t plain, int64_t base, int64_t size, int64_t from, int64_t to);
#endif
