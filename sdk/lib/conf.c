/* SPDX-License-Identifier: Apache-2.0 */
/* conf.c - java.util.Properties text.
 *
 * A logical line is a natural line and those it is continued on: a line that ends in an odd number of backslashes goes on on the
 * next, whose leading blanks are dropped. A key ends at the first blank, '=' or ':' that has no backslash before it.
 *
 * 1. Result and text are one block: first the rows, behind them the text, which is never longer than its source, because every
 *    escape is at least as long as what it stands for.
 * 2. Bytes beyond ASCII pass through: the text is UTF-8 (Java would read it as Latin-1 and show rubbish). The mark that some editors
 *    put at the head of UTF-8 is passed over. */
#include "zl/conf.h"

#include <stdlib.h>
#include <string.h>

struct parser {
    const char *p, *end;
    char *to;      /* where the next text goes */
    uint32_t line; /* of p, from 1 */
};

static uint32_t is_blank(char c) { return c == ' ' || c == '\t' || c == '\f'; }
static uint32_t is_line_end(char c) { return c == '\n' || c == '\r'; }

static void line_end_take(struct parser *ps)
{
    if (ps->p == ps->end) return;
    char c = *ps->p++;
    if (c == '\r' && ps->p < ps->end && *ps->p == '\n') ps->p++;
    ps->line++;
}

/* Copies the next logical line, raw but joined, to ps->to. 0 at the end of the text. Comments and empty lines are passed over. */
static uint32_t logical_line(struct parser *ps, struct zr_str *ret, uint32_t *ret_line)
{
    char *o = ps->to;
    uint32_t fresh = 1; /* at the beginning of a line that continues none */
    while (ps->p < ps->end) {
        while (ps->p < ps->end && is_blank(*ps->p)) ps->p++;
        if (fresh && ps->p < ps->end && (*ps->p == '#' || *ps->p == '!')) {
            while (ps->p < ps->end && !is_line_end(*ps->p)) ps->p++;
            line_end_take(ps);
            continue;
        }
        if (fresh) *ret_line = ps->line;
        uint32_t escaped = 0;
        while (ps->p < ps->end && !is_line_end(*ps->p)) {
            escaped = *ps->p == '\\' && !escaped;
            *o++ = *ps->p++;
        }
        line_end_take(ps);
        fresh = 0;
        if (escaped) {
            o--;
        } else if (o > ps->to) {
            break;
        } else {
            fresh = 1;
        }
    }
    *ret = (struct zr_str){ ps->to, (uint64_t)(o - ps->to) };
    return ret->len != 0;
}

static int32_t hex4(const char *p, const char *end)
{
    int32_t v = 0;
    if (end - p < 4) return -1;
    for (uint32_t i = 0; i < 4; i++) {
        char c = p[i];
        int32_t d = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
        if (d < 0) return -1;
        v = v << 4 | d;
    }
    return v;
}

static char *put_utf8(char *to, uint32_t c)
{
    uint32_t more = c < 0x80 ? 0 : c < 0x800 ? 1 : c < 0x10000 ? 2 : 3;
    static const uint8_t lead[4] = { 0, 0xC0, 0xE0, 0xF0 };
    *to++ = (char)(lead[more] | c >> (6 * more));
    while (more--) *to++ = (char)(0x80 | (c >> (6 * more) & 0x3F));
    return to;
}

/* \uXXXX behind the 'u'; a pair of surrogates is one character, half a pair U+FFFD. Returns the end of it, NULL for a fault. */
static const char *unicode_take(const char *p, const char *end, char **to)
{
    int32_t c = hex4(p, end);
    if (c < 0) return NULL;
    p += 4;
    if (c >= 0xD800 && c <= 0xDFFF) {
        int32_t low = c < 0xDC00 && end - p >= 6 && p[0] == '\\' && p[1] == 'u' ? hex4(p + 2, end) : -1;
        if (low >= 0xDC00 && low <= 0xDFFF) {
            c = 0x10000 + ((c - 0xD800) << 10 | (low - 0xDC00));
            p += 6;
        } else {
            c = 0xFFFD;
        }
    }
    *to = put_utf8(*to, (uint32_t)c);
    return p;
}

/* Unescapes s in place. */
static zr_status unescape(struct zr_str *s)
{
    char *o = (char *)(uintptr_t)s->ptr;
    const char *p = s->ptr, *end = p + s->len;
    while (p < end) {
        char c = *p++;
        if (c != '\\' || p == end) {
            if (c != '\\') *o++ = c;
            continue;
        }
        c = *p++;
        if (c == 'u') {
            p = unicode_take(p, end, &o);
            if (!p) return ZR_EINVAL;
            continue;
        }
        *o++ = c == 't' ? '\t' : c == 'n' ? '\n' : c == 'r' ? '\r' : c == 'f' ? '\f' : c;
    }
    s->len = (uint64_t)(o - s->ptr);
    return ZR_OK;
}

static void line_split(struct zr_str line, struct zr_str *ret_key, struct zr_str *ret_value)
{
    uint64_t i = 0, escaped = 0;
    for (; i < line.len; i++) {
        char c = line.ptr[i];
        if (!escaped && (c == '=' || c == ':' || is_blank(c))) break;
        escaped = c == '\\' && !escaped;
    }
    *ret_key = (struct zr_str){ line.ptr, i };
    while (i < line.len && is_blank(line.ptr[i])) i++;
    if (i < line.len && (line.ptr[i] == '=' || line.ptr[i] == ':')) i++;
    while (i < line.len && is_blank(line.ptr[i])) i++;
    *ret_value = (struct zr_str){ line.ptr + i, line.len - i };
}

static uint64_t lines_at_most(struct zr_str text)
{
    uint64_t n = 1;
    for (uint64_t i = 0; i < text.len; i++) n += is_line_end(text.ptr[i]);
    return n;
}

zr_status zl_properties_parse(struct zr_str text, struct zl_property **ret, uint32_t *ret_n, uint32_t *ret_line)
{
    if (text.len == 0) text.ptr = "";
    uint64_t rows = lines_at_most(text);
    if (rows > UINT32_MAX) return ZR_EINVAL;
    struct zl_property *all = malloc(rows * sizeof(*all) + text.len + 1);
    if (!all) return ZR_ENOMEM;
    if (text.len >= 3 && memcmp(text.ptr, "\xEF\xBB\xBF", 3) == 0) text = (struct zr_str){ text.ptr + 3, text.len - 3 };
    struct parser ps = { text.ptr, text.ptr + text.len, (char *)(all + rows), 1 };
    struct zr_str line;
    uint32_t n = 0;
    while (logical_line(&ps, &line, &all[n].line)) {
        struct zl_property *row = &all[n++];
        row->reserved = 0;
        line_split(line, &row->key, &row->value);
        if (unescape(&row->key) != ZR_OK || unescape(&row->value) != ZR_OK) {
            if (ret_line) *ret_line = row->line;
            free(all);
            return ZR_EINVAL;
        }
        ps.to += line.len;
    }
    *ret = all;
    *ret_n = n;
    return ZR_OK;
}
