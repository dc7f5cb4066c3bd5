/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/state.h - host service zarya.state/1: small durable documents under the node's data directory, such as
 * "config/delayOffset.json".
 *
 * A write goes to a temporary file in the same directory, which is synced; the present document becomes <name>.bak, the
 * temporary one takes its name, the directory is synced. So at every instant either <name> or <name>.bak is whole. */
#ifndef ZARYA_STATE_H
#define ZARYA_STATE_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_STATE "zarya.state/1"
struct zr_state_v1 {
    struct zr_hdr hdr;
    /* Writes the whole document; name is relative to the data directory, without "..". Folders are made. Blocks for the sync. */
    ZR_ON(worker) zr_status (*write)(const struct zr_host *host, struct zr_str name, struct zr_span bytes);
    /* Reads the document if accept(ctx, bytes) takes it, else its .bak, else ZR_ENOENT (neither exists) or ZR_ECORRUPT (neither
     * is accepted). accept gets the bytes (borrow) and answers ZR_OK to take them. A fall-back to .bak is logged. */
    ZR_ON(worker) zr_status (*read)(const struct zr_host *host, struct zr_str name, zr_status (*accept)(void *ctx, struct zr_span bytes), void *ctx);
};
#ifdef __cplusplus
}
#endif
#endif
