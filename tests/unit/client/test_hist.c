/* SPDX-License-Identifier: Apache-2.0 */
/* The histogram against the exact answer of a sorted list. */
#include "hist.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>

static int by_value(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

Test(hist, buckets_meet)
{
    cr_assert_eq(hist_bucket(0), 0);
    for (uint32_t b = 0; b + 1 < HIST_BUCKETS; b++) {
        cr_assert_eq(hist_bucket(hist_top(b)), b, "the largest value of bucket %u is not in it", b);
        cr_assert_eq(hist_bucket(hist_top(b) + 1), b + 1, "no bucket between %u and the next", b);
    }
    cr_assert_eq(hist_bucket(UINT64_MAX), HIST_BUCKETS - 1);
}

Test(hist, width_is_three_digits)
{
    for (uint32_t b = 2048; b + 1 < HIST_BUCKETS; b++) {
        double width = (double)(hist_top(b) - hist_top(b - 1));
        cr_assert_leq(width / (double)(hist_top(b - 1) + 1), 1.0 / 1024, "bucket %u is %g wide at %g", b, width,
                      (double)hist_top(b));
    }
}

Test(hist, percentiles_against_sorting)
{
    enum { N = 50000 };
    static uint64_t v[N];
    static struct hist h;
    srand(7);
    hist_clear(&h);
    for (int i = 0; i < N; i++) {
        v[i] = (uint64_t)exp(4 + 18.0 * rand() / RAND_MAX); /* 55 ns to 3.6 s */
        hist_add(&h, (int64_t)v[i]);
    }
    qsort(v, N, sizeof(v[0]), by_value);
    double shares[] = { 0.0001, 0.01, 0.25, 0.5, 0.9, 0.99, 0.999, 0.9999, 1 };
    for (size_t i = 0; i < sizeof(shares) / sizeof(shares[0]); i++) {
        uint64_t exact = v[(size_t)ceil(shares[i] * N) - 1], got = hist_at(&h, shares[i]);
        cr_expect_geq(got, exact, "share %g: %lu is below the exact %lu", shares[i], got, exact);
        cr_expect_leq((double)got, (double)exact * (1 + 1.0 / 1024) + 1, "share %g: %lu is too far above %lu",
                      shares[i], got, exact);
    }
    cr_expect_eq(h.max, v[N - 1]);
    cr_expect_eq(h.min, v[0]);
    cr_expect_eq(hist_at(&h, 1), v[N - 1]);
}

Test(hist, merge_is_adding)
{
    static struct hist a, b, both;
    hist_clear(&a), hist_clear(&b), hist_clear(&both);
    for (int i = 0; i < 1000; i++) {
        hist_add(i % 3 ? &a : &b, i * 977);
        hist_add(&both, i * 977);
    }
    hist_merge(&a, &b);
    cr_expect_eq(memcmp(&a, &both, sizeof(a)), 0);
}

Test(hist, edges)
{
    static struct hist h;
    hist_clear(&h);
    cr_expect_eq(hist_at(&h, 0.5), 0);
    hist_add(&h, -5); /* clocks: never below zero */
    cr_expect_eq(hist_at(&h, 1), 0);
    hist_add(&h, INT64_MAX);
    cr_expect_eq(h.count[HIST_BUCKETS - 1], 1);
    cr_expect_eq(h.n, 2);
}
