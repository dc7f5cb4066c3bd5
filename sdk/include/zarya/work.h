/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/work.h - host service zarya.work/1: jobs for the worker pool, and threads that the host names and joins. */
#ifndef ZARYA_WORK_H
#define ZARYA_WORK_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_WORK "zarya.work/1"
struct zr_work_v1 {
    struct zr_hdr hdr;
    /* Runs fn(arg) once on a pool thread (context worker). ZR_EFULL when the pool's queue is full: nothing will run. */
    ZR_ON(any) zr_status (*run)(const struct zr_host *host, void (*fn)(void *arg), void *arg);
    /* Starts a thread of the instance's own, named for `top` and gdb (at most 15 bytes are kept). Only in warm or later;
     * the plugin makes fn return before it returns from cool, and joins it. */
    ZR_ON(main) zr_status (*spawn)(const struct zr_host *host, const char *name, void (*fn)(void *arg), void *arg, uint64_t *ret_id);
    ZR_ON(main) zr_status (*join)(const struct zr_host *host, uint64_t id);
};
#ifdef __cplusplus
}
#endif
#endif
