/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/find.h - host service zarya.find/1: one plugin using an interface of another. Plugins never call each other's
 * symbols. A bound interface pins the provider's generation until it is unbound; pins are counted and named. */
#ifndef ZARYA_FIND_H
#define ZARYA_FIND_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_FIND "zarya.find/1"
struct zr_find_v1 {
    struct zr_hdr hdr;
    /* Binds the provider of iface_id named `as` (empty: the only one, or the first in configured order). The table is the
     * host's full-size copy. In warm or activate; the manifest must say requires or wants. ZR_ENOENT when there is none. */
    ZR_ON(main) zr_status (*bind)(const struct zr_host *host, const char *iface_id, struct zr_str as, const void **ret_table, struct zr_inst **ret_inst, uint64_t *ret_pin);
    ZR_ON(any) void (*unbind)(const struct zr_host *host, uint64_t pin);
};
#ifdef __cplusplus
}
#endif
#endif
