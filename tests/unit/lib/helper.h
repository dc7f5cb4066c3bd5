/* SPDX-License-Identifier: Apache-2.0 */
/* helper.h - shared by the tests of sdk/lib: literals as spans, exact memory, comparisons that show both sides. */
#ifndef LIB_HELPER_H
#define LIB_HELPER_H
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "zarya/abi.h"

#define S(literal) ((struct zr_str){ (literal), sizeof(literal) - 1 })

/* A copy in memory of exactly that size, so that the sanitizer sees one byte too many. */
static inline struct zr_span exact(const void *bytes, uint64_t n)
{
    uint8_t *copy = malloc(n ? n : 1);
    if (n) memcpy(copy, bytes, n);
    return (struct zr_span){ copy, n };
}

static inline void release(struct zr_span s) { free((void *)(uintptr_t)s.ptr); }

#define cr_str_is(got, want) \
    do { \
        struct zr_str got_ = (got); \
        const char *want_ = (want); \
        cr_assert(got_.len == strlen(want_) && memcmp(got_.ptr ? got_.ptr : "", want_, got_.len) == 0, "got \"%.*s\", want \"%s\"", \
                  (int)got_.len, got_.ptr ? got_.ptr : "", want_); \
    } while (0)

#define cr_hex_is(ptr, n, want) \
    do { \
        char hex_[4096]; \
        const uint8_t *p_ = (const uint8_t *)(ptr); \
        for (uint64_t i_ = 0; i_ < (uint64_t)(n); i_++) snprintf(hex_ + 2 * i_, 3, "%02x", p_[i_]); \
        hex_[2 * (n)] = 0; \
        cr_assert_str_eq(hex_, want); \
    } while (0)
#endif
