/* SPDX-License-Identifier: Apache-2.0 */
/* text.c - text and numbers of zl/text.h, and its two hashes.
 *
 * 1. Nothing here allocates but zl_dup, and nothing looks beyond the length it was given.
 * 2. Numbers read as Java's parseInt and parseLong read them: a sign, at least one digit, no blanks, in range. */
#include "zl/text.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

static inline char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c + 32) : c; }

uint32_t zl_eq_nocase(struct zr_str a, const char *cstr)
{
    for (uint64_t i = 0; i < a.len; i++) {
        if (cstr[i] == 0 || lower(a.ptr[i]) != lower(cstr[i])) return 0;
    }
    return cstr[a.len] == 0;
}

uint32_t zl_starts(struct zr_str s, const char *prefix)
{
    uint64_t n = strlen(prefix);
    return s.len >= n && (n == 0 || memcmp(s.ptr, prefix, n) == 0);
}

uint32_t zl_ends(struct zr_str s, const char *suffix)
{
    uint64_t n = strlen(suffix);
    return s.len >= n && (n == 0 || memcmp(s.ptr + s.len - n, suffix, n) == 0);
}

static inline uint32_t is_blank(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

struct zr_str zl_trim(struct zr_str s)
{
    while (s.len && is_blank(s.ptr[0])) s.ptr++, s.len--;
    while (s.len && is_blank(s.ptr[s.len - 1])) s.len--;
    return s;
}

int32_t zl_compare(struct zr_str a, struct zr_str b)
{
    uint64_t n = a.len < b.len ? a.len : b.len;
    int d = n ? memcmp(a.ptr, b.ptr, n) : 0;
    if (d) return d < 0 ? -1 : 1;
    return a.len == b.len ? 0 : a.len < b.len ? -1 : 1;
}

uint32_t zl_split(struct zr_str *rest, char at, struct zr_str *ret_part)
{
    if (!rest->ptr) return 0;
    const char *hit = rest->len ? memchr(rest->ptr, at, rest->len) : NULL;
    if (!hit) {
        *ret_part = *rest;
        *rest = (struct zr_str){ NULL, 0 };
        return 1;
    }
    *ret_part = (struct zr_str){ rest->ptr, (uint64_t)(hit - rest->ptr) };
    rest->ptr = hit + 1;
    rest->len -= ret_part->len + 1;
    return 1;
}

char *zl_dup(struct zr_str s)
{
    char *copy = malloc(s.len + 1);
    if (!copy) return NULL;
    if (s.len) memcpy(copy, s.ptr, s.len);
    copy[s.len] = 0;
    return copy;
}

zr_status zl_parse_i64(struct zr_str s, int64_t *ret)
{
    uint64_t i = 0, v = 0, negative = 0;
    if (s.len && (s.ptr[0] == '-' || s.ptr[0] == '+')) negative = s.ptr[i++] == '-';
    if (i == s.len) return ZR_EINVAL;
    if (s.len - i <= 18) { /* always in range */
        for (; i < s.len; i++) {
            unsigned digit = (unsigned)(uint8_t)s.ptr[i] - '0';
            if (digit > 9) return ZR_EINVAL;
            v = v * 10 + digit;
        }
        *ret = negative ? -(int64_t)v : (int64_t)v;
        return ZR_OK;
    }
    const uint64_t limit = (uint64_t)INT64_MAX + negative;
    for (; i < s.len; i++) {
        unsigned digit = (unsigned)(uint8_t)s.ptr[i] - '0';
        if (digit > 9 || v > limit / 10 || (v == limit / 10 && digit > limit % 10)) return ZR_EINVAL;
        v = v * 10 + digit;
    }
    *ret = (int64_t)(negative ? 0 - v : v);
    return ZR_OK;
}

zr_status zl_parse_i32(struct zr_str s, int32_t *ret)
{
    int64_t v;
    if (zl_parse_i64(s, &v) != ZR_OK || v < INT32_MIN || v > INT32_MAX) return ZR_EINVAL;
    *ret = (int32_t)v;
    return ZR_OK;
}

uint32_t zl_print_i64(char *to, int64_t v)
{
    static const char pairs[] = "00010203040506070809101112131415161718192021222324252627282930313233343536373839"
                                "40414243444546474849505152535455565758596061626364656667686970717273747576777879"
                                "8081828384858687888990919293949596979899";
    char digits[20];
    uint32_t at = sizeof(digits), n = 0;
    uint64_t u = v < 0 ? 0 - (uint64_t)v : (uint64_t)v;
    while (u >= 100) {
        at -= 2;
        memcpy(digits + at, pairs + 2 * (u % 100), 2);
        u /= 100;
    }
    if (u >= 10) {
        at -= 2;
        memcpy(digits + at, pairs + 2 * u, 2);
    } else {
        digits[--at] = (char)('0' + u);
    }
    if (v < 0) to[n++] = '-';
    memcpy(to + n, digits + at, sizeof(digits) - at);
    return n + (uint32_t)sizeof(digits) - at;
}

/* One code point of UTF-8 that does not begin with an ASCII byte; U+FFFD for each byte that belongs to no valid sequence, as
 * Java's decoder has it. Returns the bytes used. */
static uint32_t utf8_next(const uint8_t *p, uint64_t left, uint32_t *ret)
{
    static const uint32_t least[5] = { 0, 0, 0x80, 0x800, 0x10000 };
    uint32_t n = p[0] >= 0xF0 ? 4 : p[0] >= 0xE0 ? 3 : 2;
    *ret = 0xFFFD;
    if (p[0] < 0xC2 || p[0] > 0xF4 || n > left) return 1;
    uint32_t v = p[0] & (0x7Fu >> n);
    for (uint32_t i = 1; i < n; i++) {
        if ((p[i] & 0xC0) != 0x80) return 1;
        v = v << 6 | (p[i] & 0x3F);
    }
    if (v < least[n] || v > 0x10FFFF || (v >= 0xD800 && v <= 0xDFFF)) return 1;
    *ret = v;
    return n;
}

int32_t zl_java_hash(struct zr_str utf8)
{
    if (utf8.len == 0) return 0;
    const uint8_t *p = (const uint8_t *)utf8.ptr, *end = p + utf8.len;
    uint32_t h = 0;
    while (p < end) {
        if (*p < 0x80) {
            h = 31 * h + *p++;
            continue;
        }
        uint32_t c;
        p += utf8_next(p, (uint64_t)(end - p), &c);
        if (c >= 0x10000) {
            c -= 0x10000;
            h = 31 * h + (0xD800 | c >> 10);
            c = 0xDC00 | (c & 0x3FF);
        }
        h = 31 * h + c;
    }
    return (int32_t)h;
}

/* ---- the hash for tables: wyhash's mixing (64 x 64 -> 128 bit products), seeded once for each process so that nobody outside
 * can choose names that collide ---- */

static inline uint64_t mix(uint64_t a, uint64_t b)
{
    __extension__ unsigned __int128 m = (unsigned __int128)a * b;
    return (uint64_t)m ^ (uint64_t)(m >> 64);
}

static uint64_t hash_seed(void)
{
    static _Atomic uint64_t seed;
    uint64_t s = atomic_load_explicit(&seed, memory_order_relaxed);
    if (s) return s;
    uint64_t fresh = 0, none = 0;
    if (getrandom(&fresh, sizeof(fresh), GRND_NONBLOCK) != (ssize_t)sizeof(fresh)) {
        struct timespec ts;
        clock_gettime(CLOCK_REALTIME, &ts);
        fresh = mix((uint64_t)ts.tv_nsec ^ (uint64_t)(uintptr_t)&fresh, (uint64_t)ts.tv_sec | 1);
    }
    fresh |= 1; /* never 0 */
    return atomic_compare_exchange_strong(&seed, &none, fresh) ? fresh : none;
}

static inline uint64_t read64(const uint8_t *p) { uint64_t v; memcpy(&v, p, 8); return v; }
static inline uint64_t read32(const uint8_t *p) { uint32_t v; memcpy(&v, p, 4); return v; }

uint64_t zl_hash(const void *bytes, uint64_t len)
{
    const uint64_t k0 = 0xa0761d6478bd642full, k1 = 0xe7037ed1a0b428dbull;
    const uint8_t *p = bytes;
    uint64_t h = hash_seed() ^ k0, left = len, a = 0, b = 0;
    while (left > 16) {
        h = mix(read64(p) ^ k1, read64(p + 8) ^ h);
        p += 16;
        left -= 16;
    }
    if (left >= 8) {
        a = read64(p);
        b = read64(p + left - 8);
    } else if (left >= 4) {
        a = read32(p);
        b = read32(p + left - 4);
    } else if (left) {
        a = (uint64_t)p[0] << 16 | (uint64_t)p[left / 2] << 8 | p[left - 1];
    }
    return mix(k1 ^ len, mix(a ^ k1, b ^ h));
}
