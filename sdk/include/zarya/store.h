/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/store.h - host service zarya.store/1: the bound storage, and the kernel's publish path on top of it. For features:
 * delay, transaction, retry, query. */
#ifndef ZARYA_STORE_H
#define ZARYA_STORE_H
#include "zarya/abi.h"
#include "zarya/message.h"
#include "zarya/storage.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_STORE "zarya.store/1"
#define ZR_PUBLISH_NO_HOOKS 0x1u /* do not run ZR_POINT_PUBLISH hooks (a hook's own messages) */

struct zr_store_v1 {
    struct zr_hdr hdr;
    /* The bound storage's table and instance, for everything but append (which would wake nobody). */
    ZR_ON(any) const struct zr_storage_v1 *(*storage)(const struct zr_host *host, struct zr_inst **ret_inst);
    /* Appends as a client's send would: hooks, append, statistics, held pulls woken. on_done exactly once, when the messages are
     * as durable as the mode demands, on any thread, possibly within the call; puts are borrowed by it. Unset store_host and
     * born_host (family 0) become this broker's. */
    ZR_ON(any) void (*publish)(const struct zr_host *host, struct zr_msg *msgs, uint32_t n, uint32_t flags,
                               void (*on_done)(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n), void *ctx);
};
#ifdef __cplusplus
}
#endif
#endif
