/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/metrics.h - host service zarya.metrics/1: metrics declared as data, counted in memory the host owns.
 * Counting costs one relaxed atomic add on a per-thread shard. */
#ifndef ZARYA_METRICS_H
#define ZARYA_METRICS_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_METRICS "zarya.metrics/1"
#define ZR_METRIC_COUNTER 1u   /* only grows */
#define ZR_METRIC_GAUGE 2u     /* set, or moved by signed steps */
#define ZR_METRIC_HISTOGRAM 3u /* log-linear buckets of non-negative values */

struct zr_metric {
    struct zr_hdr hdr;
    const char *name; /* "zarya_tcp_connections", a legal Prometheus name */
    const char *unit; /* "bytes", "ns", "messages", or NULL */
    const char *doc;  /* one sentence */
    uint32_t kind;    /* ZR_METRIC_* */
    uint32_t reserved;
};
struct zr_metrics_v1 {
    struct zr_hdr hdr;
    /* Declares n metrics; *ret_first is the id of the first, the others follow. In create or warm. Declaring a name again
     * (another instance) gives a separate series with the instance's name as label. */
    ZR_ON(main) zr_status (*declare)(const struct zr_host *host, const struct zr_metric *metrics, uint32_t n, uint32_t *ret_first);
    ZR_ON(any) void (*add)(const struct zr_host *host, uint32_t id, int64_t delta);   /* counter, gauge */
    ZR_ON(any) void (*set)(const struct zr_host *host, uint32_t id, int64_t value);   /* gauge */
    ZR_ON(any) void (*observe)(const struct zr_host *host, uint32_t id, int64_t value); /* histogram */
    /* Calls each(ctx, name, instance, kind, doc, value) for every series; histograms as <name>_count, _sum, _p50, _p99, _max. */
    ZR_ON(any) void (*each)(const struct zr_host *host, void (*each)(void *ctx, struct zr_str name, struct zr_str instance, uint32_t kind, struct zr_str doc, double value), void *ctx);
};
#ifdef __cplusplus
}
#endif
#endif
