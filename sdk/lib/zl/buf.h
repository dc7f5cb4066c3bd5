/* SPDX-License-Identifier: Apache-2.0 */
/* zl/buf.h - a growing byte buffer with a maximum at birth. After a failed append `failed` is set and later appends do
 * nothing, so that a series of them needs one check at its end. Not thread-safe. */
#ifndef ZL_BUF_H
#define ZL_BUF_H
#include <stdarg.h>
#include <stdint.h>
#include "zarya/abi.h"

struct zl_buf {
    uint8_t *ptr;
    uint64_t len, cap, max; /* max: bytes it may ever hold */
    uint32_t failed;        /* 1: an append did not fit or memory ran out */
    uint32_t reserved;
};
void zl_buf_init(struct zl_buf *b, uint64_t max);
void zl_buf_free(struct zl_buf *b);
void zl_buf_clear(struct zl_buf *b); /* len 0, failed 0; keeps the memory */
/* Room for n more bytes at ptr + len, or NULL. */
uint8_t *zl_buf_reserve(struct zl_buf *b, uint64_t n);
void zl_buf_add(struct zl_buf *b, const void *bytes, uint64_t n);
void zl_buf_str(struct zl_buf *b, struct zr_str s);
void zl_buf_cstr(struct zl_buf *b, const char *s);
void zl_buf_u8(struct zl_buf *b, uint8_t v);
void zl_buf_be16(struct zl_buf *b, uint16_t v);
void zl_buf_be32(struct zl_buf *b, uint32_t v);
void zl_buf_be64(struct zl_buf *b, uint64_t v);
void zl_buf_i64(struct zl_buf *b, int64_t v); /* decimal text */
void zl_buf_fmt(struct zl_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline struct zr_str zl_buf_as_str(const struct zl_buf *b) { return (struct zr_str){ (const char *)b->ptr, b->len }; }
static inline struct zr_span zl_buf_as_span(const struct zl_buf *b) { return (struct zr_span){ b->ptr, b->len }; }
#endif
