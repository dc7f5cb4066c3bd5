/* SPDX-License-Identifier: Apache-2.0 */
/* scan.h - the inner loops of reading and writing JSON text, shared by codec.c (headers) and json.c (bodies). Private to this
 * folder.
 *
 * 1. Nothing is read at or beyond `end`, and nothing is written at or beyond `to_end`: blocks of 16 are used only where 16 bytes
 *    are left on both sides.
 * 2. Text may hold any bytes; what is not UTF-8 passes through. */
#ifndef ZL_SCAN_H
#define ZL_SCAN_H
#include <stdint.h>
#include <string.h>
#include "zarya/abi.h"
#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define SCAN_DEPTH_MAX 64u

/* A bit for each of 16 bytes that ends a plain run inside a string quoted by `quote`. */
#if defined(__SSE2__)
static inline uint32_t scan_mask_end(__m128i v, char quote)
{
    __m128i q = _mm_cmpeq_epi8(v, _mm_set1_epi8(quote)), b = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(q, b));
}

/* A bit for each of 16 bytes that must not stand as it is between double quotes: below 0x20, '"', '\'. */
static inline uint32_t scan_mask_escape(__m128i v)
{
    __m128i low = _mm_cmpeq_epi8(_mm_min_epu8(v, _mm_set1_epi8(0x1F)), v);
    __m128i q = _mm_cmpeq_epi8(v, _mm_set1_epi8('"')), b = _mm_cmpeq_epi8(v, _mm_set1_epi8('\\'));
    return (uint32_t)_mm_movemask_epi8(_mm_or_si128(low, _mm_or_si128(q, b)));
}
#endif

static inline uint32_t scan_must_escape(uint8_t c) { return c < 0x20 || c == '"' || c == '\\'; }

static inline uint32_t scan_is_blank(char c)
{
    return c == ' ' || c == '\n' || c == '\r' || c == '\t' || c == '\f' || c == '\b';
}

static inline const char *scan_blanks(const char *p, const char *end)
{
    while (p < end && scan_is_blank(*p)) p++;
    return p;
}

/* The first quote or backslash in [p, end), or end. */
static inline const char *scan_string(const char *p, const char *end, char quote)
{
#if defined(__SSE2__)
    for (; end - p >= 16; p += 16) {
        uint32_t m = scan_mask_end(_mm_loadu_si128((const __m128i *)(const void *)p), quote);
        if (m) return p + __builtin_ctz(m);
    }
#endif
    while (p < end && *p != quote && *p != '\\') p++;
    return p;
}

/* Letters, digits, '_' and '$', and every byte of a character beyond ASCII: what a bare name is made of. */
static inline uint32_t scan_is_name(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' ||
           (uint8_t)c >= 0x80;
}

/* Unescapes from *p (behind the opening quote, or anywhere later in the string) to the closing quote. *p ends behind the quote and
 * *to behind what was written, which is never longer than what was read. 0: a bad escape, no closing quote, or to_end reached;
 * *p is then near the fault. */
uint32_t scan_unescape(const char **p, const char *end, char quote, char **to, char *to_end);

/* The length of a JSON number at the front of [p, end), 0 when there is none. */
uint32_t scan_number(const char *p, const char *end);

/* How many bytes longer s becomes by escaping, and the most that can be. */
uint64_t scan_escape_extra(struct zr_str s);
#define SCAN_ESCAPE_WORST 6u /* "\u00XX" for each byte */

/* A set high bit somewhere when one of 8 bytes must be escaped. */
static inline uint64_t scan_word_escape(uint64_t x)
{
    const uint64_t ones = 0x0101010101010101ull, high = 0x8080808080808080ull;
    uint64_t q = x ^ ones * '"', b = x ^ ones * '\\';
    return (((x - ones * 0x20) & ~x) | ((q - ones) & ~q) | ((b - ones) & ~b)) & high;
}

/* Copies n < 16 bytes when none of them must be escaped; 0 when one must (and then nothing was written). */
static inline uint32_t scan_copy_short(char *to, const char *p, uint64_t n)
{
    if (n >= 8) {
        uint64_t a, b;
        memcpy(&a, p, 8);
        memcpy(&b, p + n - 8, 8);
        if (scan_word_escape(a) | scan_word_escape(b)) return 0;
        memcpy(to, &a, 8);
        memcpy(to + n - 8, &b, 8);
    } else if (n >= 4) {
        uint32_t a, b;
        memcpy(&a, p, 4);
        memcpy(&b, p + n - 4, 4);
        if (scan_word_escape(a | (uint64_t)b << 32)) return 0;
        memcpy(to, &a, 4);
        memcpy(to + n - 4, &b, 4);
    } else {
        for (uint64_t i = 0; i < n; i++) {
            if (scan_must_escape((uint8_t)p[i])) return 0;
        }
        for (uint64_t i = 0; i < n; i++) to[i] = p[i];
    }
    return 1;
}

/* scan_escape of text that is long or has something to escape. */
char *scan_escape_any(char *to, const char *to_end, struct zr_str s);

/* Writes s escaped, without quotes; room for s.len + scan_escape_extra(s) bytes must be there before to_end. Returns the end. */
static inline char *scan_escape(char *to, const char *to_end, struct zr_str s)
{
    if (s.len < 16 && scan_copy_short(to, s.ptr, s.len)) return to + s.len;
    return scan_escape_any(to, to_end, s);
}
#endif
