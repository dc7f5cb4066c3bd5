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

/* How many bytes longer s becomes by escaping. */
uint64_t scan_escape_extra(struct zr_str s);
/* Writes s escaped, without quotes; room for s.len + scan_escape_extra(s) bytes must be there before to_end. Returns the end. */
char *scan_escape(char *to, const char *to_end, struct zr_str s);
#endif
