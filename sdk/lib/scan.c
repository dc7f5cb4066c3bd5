/* SPDX-License-Identifier: Apache-2.0 */
/* scan.c - the longer inner loops of scan.h.
 *
 * RocketMQ puts a message's properties into one header field, so every send carries a \u0001 or \u0002 for each 8 to 30 bytes of
 * text: runs are copied in blocks of 16, and \u000N is recognised in one comparison. */
#include "scan.h"

static int32_t hex4(const char *p)
{
    int32_t v = 0;
    for (uint32_t i = 0; i < 4; i++) {
        char c = p[i];
        int32_t d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

/* UTF-8 of c; at most 3 bytes below 0x10000, 4 above. */
static char *put_utf8(char *to, uint32_t c)
{
    if (c < 0x80) {
        *to++ = (char)c;
    } else if (c < 0x800) {
        *to++ = (char)(0xC0 | c >> 6);
        *to++ = (char)(0x80 | (c & 0x3F));
    } else if (c < 0x10000) {
        *to++ = (char)(0xE0 | c >> 12);
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
        *to++ = (char)(0x80 | (c & 0x3F));
    } else {
        *to++ = (char)(0xF0 | c >> 18);
        *to++ = (char)(0x80 | (c >> 12 & 0x3F));
        *to++ = (char)(0x80 | (c >> 6 & 0x3F));
        *to++ = (char)(0x80 | (c & 0x3F));
    }
    return to;
}

/* \uXXXX at p. A pair of surrogates becomes one character; half a pair becomes '?', as Java writes it. Returns what was used, 0 for
 * a fault. */
static uint32_t unescape_unicode(const char *p, const char *end, char **to)
{
    int32_t c = end - p >= 6 ? hex4(p + 2) : -1;
    if (c < 0) return 0;
    if (c < 0xD800 || c > 0xDFFF) {
        *to = put_utf8(*to, (uint32_t)c);
        return 6;
    }
    int32_t low = c < 0xDC00 && end - p >= 12 && p[6] == '\\' && p[7] == 'u' ? hex4(p + 8) : -1;
    if (low < 0xDC00 || low > 0xDFFF) {
        *(*to)++ = '?';
        return 6;
    }
    *to = put_utf8(*to, 0x10000 + ((uint32_t)(c - 0xD800) << 10 | (uint32_t)(low - 0xDC00)));
    return 12;
}

/* What stands for \c, or -1. As fastjson: the usual ones, \v, \0 to \7, and any punctuation for itself. */
static int32_t unescape_one(char c)
{
    switch (c) {
    case 'n': return '\n';
    case 't': return '\t';
    case 'r': return '\r';
    case 'b': return '\b';
    case 'f': return '\f';
    case 'v': return '\v';
    default: break;
    }
    if (c >= '0' && c <= '7') return c - '0';
    if (c > ' ' && c < 0x7F && !(c >= 'a' && c <= 'z') && !(c >= 'A' && c <= 'Z') && !(c >= '0' && c <= '9')) return c;
    return -1;
}

/* One escape at p, which is a backslash; room for 4 bytes is there. Returns the end of it, NULL for a fault. */
static const char *unescape(const char *p, const char *end, char **to)
{
    if (end - p < 2) return NULL;
    if (p[1] == 'u') {
        uint32_t used = unescape_unicode(p, end, to);
        return used ? p + used : NULL;
    }
    if (p[1] == 'x') {
        char four[4] = { '0', '0', end - p >= 4 ? p[2] : 0, end - p >= 4 ? p[3] : 0 };
        int32_t c = hex4(four);
        if (c < 0) return NULL;
        *to = put_utf8(*to, (uint32_t)c);
        return p + 4;
    }
    int32_t c = unescape_one(p[1]);
    if (c < 0) return NULL;
    *(*to)++ = (char)c;
    return p + 2;
}

/* \u0000 to \u0009 at p, a backslash: the digit, else a number above 9. */
static inline uint8_t small_control(const char *p, const char *end)
{
    return end - p >= 6 && memcmp(p + 1, "u000", 4) == 0 ? (uint8_t)(p[5] - '0') : 255;
}

uint32_t scan_unescape(const char **from, const char *end, char quote, char **to, char *to_end)
{
    const char *p = *from;
    char *o = *to;
    uint32_t done = 0;
    for (;;) {
#if defined(__SSE2__)
        while (end - p >= 16 && to_end - o >= 16) {
            __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
            _mm_storeu_si128((__m128i *)(void *)o, v);
            uint32_t m = scan_mask_end(v, quote), n = m ? (uint32_t)__builtin_ctz(m) : 16;
            p += n;
            o += n;
            if (m) break;
        }
#endif
        while (p < end && *p != quote && *p != '\\' && o < to_end) *o++ = *p++;
        if (p == end || (*p != quote && *p != '\\')) break;
        if (*p == quote) {
            p++;
            done = 1;
            break;
        }
        /* An escape makes at most 4 bytes, and fewer than it has itself. */
        if (to_end - o < 4 && to_end - o < end - p - 1) break;
        uint8_t small = small_control(p, end);
        if (small <= 9) {
            *o++ = (char)small;
            p += 6;
            continue;
        }
        const char *next = unescape(p, end, &o);
        if (!next) break;
        p = next;
    }
    *from = p;
    *to = o;
    return done;
}

uint32_t scan_number(const char *p, const char *end)
{
    const char *at = p;
    if (at < end && *at == '-') at++;
    const char *digits = at;
    while (at < end && *at >= '0' && *at <= '9') at++;
    if (at == digits) return 0;
    if (at < end && *at == '.') {
        const char *fraction = ++at;
        while (at < end && *at >= '0' && *at <= '9') at++;
        if (at == fraction) return 0;
    }
    if (at < end && (*at == 'e' || *at == 'E')) {
        at++;
        if (at < end && (*at == '+' || *at == '-')) at++;
        const char *exponent = at;
        while (at < end && *at >= '0' && *at <= '9') at++;
        if (at == exponent) return 0;
    }
    return at - p > 4096 ? 0 : (uint32_t)(at - p);
}

/* The letter that follows the backslash, or 0 for \u00XX. */
static char short_escape(uint8_t c)
{
    switch (c) {
    case '"': return '"';
    case '\\': return '\\';
    case '\n': return 'n';
    case '\r': return 'r';
    case '\t': return 't';
    case '\b': return 'b';
    case '\f': return 'f';
    default: return 0;
    }
}

uint64_t scan_escape_extra(struct zr_str s)
{
    if (s.len == 0) return 0;
    const char *p = s.ptr, *end = p + s.len;
    uint64_t extra = 0;
#if defined(__SSE2__)
    for (; end - p >= 16; p += 16) {
        uint32_t m = scan_mask_escape(_mm_loadu_si128((const __m128i *)(const void *)p));
        for (; m; m &= m - 1) extra += short_escape((uint8_t)p[__builtin_ctz(m)]) ? 1 : 5;
    }
#endif
    for (; p < end; p++) {
        if (scan_must_escape((uint8_t)*p)) extra += short_escape((uint8_t)*p) ? 1 : 5;
    }
    return extra;
}

static inline char *escape_one(char *to, uint8_t c)
{
    static const char digits[] = "0123456789ABCDEF";
    char letter = short_escape(c);
    *to++ = '\\';
    if (letter) {
        *to++ = letter;
        return to;
    }
    memcpy(to, "u00", 3);
    to[3] = digits[c >> 4];
    to[4] = digits[c & 15];
    return to + 5;
}

char *scan_escape_any(char *to, const char *to_end, struct zr_str s)
{
    if (s.len == 0) return to;
    const char *p = s.ptr, *end = p + s.len;
#if defined(__SSE2__)
    while (end - p >= 16 && to_end - to >= 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
        _mm_storeu_si128((__m128i *)(void *)to, v); /* what follows the first escape is overwritten at once */
        uint32_t m = scan_mask_escape(v);
        if (!m) {
            p += 16;
            to += 16;
            continue;
        }
        uint32_t n = (uint32_t)__builtin_ctz(m);
        to = escape_one(to + n, (uint8_t)p[n]);
        p += n + 1;
    }
#else
    (void)to_end;
#endif
    if (end - p < 16 && scan_copy_short(to, p, (uint64_t)(end - p))) return to + (end - p);
    for (; p < end; p++) {
        if (scan_must_escape((uint8_t)*p)) {
            to = escape_one(to, (uint8_t)*p);
        } else {
            *to++ = *p;
        }
    }
    return to;
}
