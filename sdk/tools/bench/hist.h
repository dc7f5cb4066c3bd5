/* SPDX-License-Identifier: Apache-2.0 */
/* hist.h - a log-linear histogram of nanoseconds, as HdrHistogram's: three significant digits from 1 ns to about 73
 * minutes (larger values count as the largest), fixed size, adding is a few instructions. One thread at a time; merge
 * to combine.
 *
 * Values below 2048 have a bucket each; above, every power of two is cut into 1024 equal buckets. So a bucket is never
 * wider than 1/1024 of its values. */
#ifndef BENCH_HIST_H
#define BENCH_HIST_H
#include <stdint.h>

#define HIST_SUB_BITS 10u
#define HIST_MAX_BITS 42u
#define HIST_BUCKETS ((HIST_MAX_BITS - HIST_SUB_BITS + 1u) << HIST_SUB_BITS)

struct hist {
    uint64_t n, sum, max, min;
    uint64_t count[HIST_BUCKETS];
};
void hist_clear(struct hist *h);
void hist_add(struct hist *h, int64_t ns);
void hist_merge(struct hist *to, const struct hist *from);
/* The least recorded bucket's upper end that at least share (0..1) of the values do not exceed; 0 without values. */
uint64_t hist_at(const struct hist *h, double share);
double hist_mean(const struct hist *h);
/* Bucket of a value, and the largest value of a bucket. */
uint32_t hist_bucket(uint64_t ns);
uint64_t hist_top(uint32_t bucket);
#endif
