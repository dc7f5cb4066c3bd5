/* SPDX-License-Identifier: Apache-2.0 */
/* zl/text.h - small text and number helpers, big-endian loads, Java's string hash, RocketMQ's names. */
#ifndef ZL_TEXT_H
#define ZL_TEXT_H
#include <string.h>
#include "zarya/abi.h"

static inline struct zr_str zl_str(const char *cstr) { return (struct zr_str){ cstr, cstr ? strlen(cstr) : 0 }; }
static inline uint32_t zl_eq(struct zr_str a, struct zr_str b) { return a.len == b.len && (a.len == 0 || memcmp(a.ptr, b.ptr, a.len) == 0); }
static inline uint32_t zl_is(struct zr_str a, const char *cstr) { return zl_eq(a, zl_str(cstr)); }
uint32_t zl_eq_nocase(struct zr_str a, const char *cstr);
uint32_t zl_starts(struct zr_str s, const char *prefix);
uint32_t zl_ends(struct zr_str s, const char *suffix);
struct zr_str zl_trim(struct zr_str s);                 /* blanks, tabs, line ends */
int32_t zl_compare(struct zr_str a, struct zr_str b);   /* bytewise */
/* Cuts the part before the first `at` off *rest (all of it, if there is none); 0 when *rest was used up (ptr NULL). */
uint32_t zl_split(struct zr_str *rest, char at, struct zr_str *ret_part);
char *zl_dup(struct zr_str s);                          /* malloc'ed, NUL-ended; NULL when memory ran out */

/* Java's Long.parseLong / Integer.parseInt: optional sign, digits, in range. ZR_EINVAL else. */
zr_status zl_parse_i64(struct zr_str s, int64_t *ret);
zr_status zl_parse_i32(struct zr_str s, int32_t *ret);
/* Writes v in decimal (at most 20 bytes); returns the length. */
uint32_t zl_print_i64(char *to, int64_t v);

static inline uint16_t zl_load16(const void *p) { uint16_t v; memcpy(&v, p, 2); return __builtin_bswap16(v); }
static inline uint32_t zl_load32(const void *p) { uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v); }
static inline uint64_t zl_load64(const void *p) { uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v); }
static inline void zl_store16(void *p, uint16_t v) { v = __builtin_bswap16(v); memcpy(p, &v, 2); }
static inline void zl_store32(void *p, uint32_t v) { v = __builtin_bswap32(v); memcpy(p, &v, 4); }
static inline void zl_store64(void *p, uint64_t v) { v = __builtin_bswap64(v); memcpy(p, &v, 8); }

/* Java String.hashCode of UTF-8 text (over its UTF-16 units). */
int32_t zl_java_hash(struct zr_str utf8);
/* A fast hash for tables (not stored anywhere). */
uint64_t zl_hash(const void *bytes, uint64_t len);
/* CRC-32 (IEEE), as zlib; RocketMQ stores it & 0x7FFFFFFF. crc: 0 to begin. SIMD where the processor has it. */
uint32_t zl_crc32(uint32_t crc, const void *bytes, uint64_t len);

#define ZL_TOPIC_MAX 127u
#define ZL_RETRY_TOPIC_MAX 255u
#define ZL_GROUP_MAX 120u
/* ZR_OK, or ZR_EINVAL with Apache's remark in why (NUL-ended, cut to cap). */
zr_status zl_topic_check(struct zr_str topic, char *why, uint64_t cap);
zr_status zl_group_check(struct zr_str group, char *why, uint64_t cap);

/* "10.0.0.1:10911", "[::1]:80" <-> zr_addr. Printing needs 56 bytes; returns the length. */
zr_status zl_addr_parse(struct zr_str text, struct zr_addr *ret);
uint32_t zl_addr_print(char *to, const struct zr_addr *addr);
/* The offset message id (32 or 56 upper-case hex digits, no NUL); returns the length. to: at least 56 bytes. */
uint32_t zl_offset_id(char *to, const struct zr_addr *store_host, int64_t physical);
zr_status zl_offset_id_parse(struct zr_str id, struct zr_addr *ret_host, int64_t *ret_physical);
/* A new client-style unique id (UNIQ_KEY), 32 digits; to: at least 32 bytes. Thread-safe. */
uint32_t zl_unique_id(char *to);
#endif
