/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/mem.h - host service zarya.mem/1: memory that is counted for this instance (metric zarya_plugin_memory_bytes).
 * A plugin may use malloc for itself; what it gives to the kernel to free comes from here. What this gives is returned
 * here, never to free(). */
#ifndef ZARYA_MEM_H
#define ZARYA_MEM_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_MEM "zarya.mem/1"
struct zr_mem_v1 {
    struct zr_hdr hdr;
    /* size bytes, not zeroed, aligned to 16; NULL when memory ran out. give: end it with release. */
    ZR_ON(any) void *(*alloc)(const struct zr_host *host, uint64_t size);
    ZR_ON(any) void (*release)(const struct zr_host *host, void *ptr); /* NULL is fine */
};
#ifdef __cplusplus
}
#endif
#endif
