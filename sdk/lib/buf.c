/* SPDX-License-Identifier: Apache-2.0 */
/* buf.c - the growing byte buffer of zl/buf.h.
 *
 * 1. len <= cap <= max at all times; ptr is NULL only while cap is 0.
 * 2. Growth doubles, so a series of appends costs amortised constant time; the last step is cut to max.
 * 3. Once failed is set, bytes already there stay valid and nothing is added until zl_buf_clear. */
#include "zl/buf.h"
#include "zl/text.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BUF_FIRST 256u

void zl_buf_init(struct zl_buf *b, uint64_t max)
{
    *b = (struct zl_buf){ .max = max };
}

void zl_buf_free(struct zl_buf *b)
{
    free(b->ptr);
    *b = (struct zl_buf){ .max = b->max };
}

void zl_buf_clear(struct zl_buf *b)
{
    b->len = 0;
    b->failed = 0;
}

/* Makes cap at least `need`, which is <= max. */
static uint32_t buf_grow(struct zl_buf *b, uint64_t need)
{
    uint64_t cap = b->cap ? b->cap : BUF_FIRST;
    while (cap < need) cap = cap > b->max / 2 ? b->max : cap * 2;
    if (cap > b->max) cap = b->max;
    uint8_t *ptr = realloc(b->ptr, cap);
    if (!ptr) return 0;
    b->ptr = ptr;
    b->cap = cap;
    return 1;
}

uint8_t *zl_buf_reserve(struct zl_buf *b, uint64_t n)
{
    if (b->failed) return NULL;
    if (n <= b->cap - b->len && b->ptr) return b->ptr + b->len;
    if (n > b->max - b->len || !b->max || !buf_grow(b, b->len + n)) {
        b->failed = 1;
        return NULL;
    }
    return b->ptr + b->len;
}

void zl_buf_add(struct zl_buf *b, const void *bytes, uint64_t n)
{
    if (n == 0) return;
    uint8_t *to = zl_buf_reserve(b, n);
    if (!to) return;
    memcpy(to, bytes, n);
    b->len += n;
}

void zl_buf_str(struct zl_buf *b, struct zr_str s) { zl_buf_add(b, s.ptr, s.len); }

void zl_buf_cstr(struct zl_buf *b, const char *s) { zl_buf_add(b, s, strlen(s)); }

void zl_buf_u8(struct zl_buf *b, uint8_t v) { zl_buf_add(b, &v, 1); }

void zl_buf_be16(struct zl_buf *b, uint16_t v)
{
    uint8_t bytes[2];
    zl_store16(bytes, v);
    zl_buf_add(b, bytes, sizeof(bytes));
}

void zl_buf_be32(struct zl_buf *b, uint32_t v)
{
    uint8_t bytes[4];
    zl_store32(bytes, v);
    zl_buf_add(b, bytes, sizeof(bytes));
}

void zl_buf_be64(struct zl_buf *b, uint64_t v)
{
    uint8_t bytes[8];
    zl_store64(bytes, v);
    zl_buf_add(b, bytes, sizeof(bytes));
}

void zl_buf_i64(struct zl_buf *b, int64_t v)
{
    char text[20];
    zl_buf_add(b, text, zl_print_i64(text, v));
}

void zl_buf_fmt(struct zl_buf *b, const char *fmt, ...)
{
    va_list args, again;
    va_start(args, fmt);
    va_copy(again, args);
    char few[256];
    int n = vsnprintf(few, sizeof(few), fmt, args);
    if (n < 0) {
        b->failed = 1;
    } else if ((size_t)n < sizeof(few)) {
        zl_buf_add(b, few, (uint64_t)n);
    } else {
        /* vsnprintf ends its text with a NUL, so a buffer that the text fills to its very maximum needs a way around. */
        char *long_text = malloc((size_t)n + 1);
        if (long_text) {
            vsnprintf(long_text, (size_t)n + 1, fmt, again);
            zl_buf_add(b, long_text, (uint64_t)n);
            free(long_text);
        } else {
            b->failed = 1;
        }
    }
    va_end(again);
    va_end(args);
}
