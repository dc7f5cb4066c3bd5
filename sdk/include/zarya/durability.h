/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/durability.h - host service zarya.durability/1: watermarks of the log.
 *
 * Positions are physical offsets and never go back. written: in the page cache. flushed: on disk. replicated: the position
 * that as many replicas as the mode demands have. confirmed: the least of what the configured mode demands; an answer that
 * must wait is parked by the kernel with the position it needs and leaves, in order, when confirmed passes it. */
#ifndef ZARYA_DURABILITY_H
#define ZARYA_DURABILITY_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_DURABILITY "zarya.durability/1"
#define ZR_MARK_WRITTEN 0u
#define ZR_MARK_FLUSHED 1u
#define ZR_MARK_REPLICATED 2u
#define ZR_MARK_CONFIRMED 3u

struct zr_durability_v1 {
    struct zr_hdr hdr;
    /* The storage (flushed) or a replication plugin (replicated) reports progress. Wakes what waits; does not block. */
    ZR_ON(any) void (*advance)(const struct zr_host *host, uint32_t mark, int64_t position);
    /* What lies behind the mark can never get there (a failed flush): what waits is answered with an error. */
    ZR_ON(any) void (*fail)(const struct zr_host *host, uint32_t mark, struct zr_str why);
    ZR_ON(any) int64_t (*position)(const struct zr_host *host, uint32_t mark);
    /* Messages became visible in a queue without a kernel append (replication, recovery): wakes held pulls. */
    ZR_ON(any) void (*arrived)(const struct zr_host *host, struct zr_str topic, int32_t queue_id, int64_t max_offset, int64_t tags_code);
    /* Calls fn(arg, status) once when confirmed >= position: ZR_OK, or ZR_EIO after fail. On any thread, also within the call. */
    ZR_ON(any) void (*when)(const struct zr_host *host, int64_t position, void (*fn)(void *arg, zr_status status), void *arg);
};
#ifdef __cplusplus
}
#endif
#endif
