/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/timer.h - host service zarya.timer/1: clocks, and calls at a time.
 *
 * Timers run on the kernel's timer thread: callbacks must be short; what may block goes to zarya.work/1 from there. */
#ifndef ZARYA_TIMER_H
#define ZARYA_TIMER_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_TIMER "zarya.timer/1"
struct zr_timer_v1 {
    struct zr_hdr hdr;
    ZR_ON(any) int64_t (*mono_ns)(const struct zr_host *host); /* monotonic, ns */
    ZR_ON(any) int64_t (*wall_ms)(const struct zr_host *host); /* since 1970 UTC, ms; may step */
    /* Calls fn(arg) once at or after mono time at_ns; precision about 1 ms. *ret_id (never 0) names it. ZR_EFULL when the
     * host's limit of timers is reached, ZR_ECLOSED after cool. */
    ZR_ON(any) zr_status (*at)(const struct zr_host *host, int64_t at_ns, void (*fn)(void *arg), void *arg, uint64_t *ret_id);
    /* Forgets it. ZR_OK: it will not run. ZR_ENOENT: it ran, or is running on the timer thread at this moment. Any id is fine. */
    ZR_ON(any) zr_status (*cancel)(const struct zr_host *host, uint64_t id);
    /* Calls fn(arg) on the timer thread, soon after the wall clock was set (a step, not a slewing). One fn for each arg, until
     * the same call with fn NULL, after which it is not called any more. ZR_EFULL: the host's limit is reached. NULL in hosts
     * that cannot tell. */
    ZR_ON(any) zr_status (*on_clock_set)(const struct zr_host *host, void (*fn)(void *arg), void *arg);
};
#ifdef __cplusplus
}
#endif
#endif
