/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/registry.h - interface zarya.registry/1: how this broker becomes known, and how routes are looked up.
 *
 * Occupants: routing-remote (announces to name servers over the wire) and routing-namesrv (keeps the tables itself). The
 * kernel announces to every bound registry. A registry takes what it needs of the topics from zarya.broker/1: the kernel
 * only says that something changed. */
#ifndef ZARYA_REGISTRY_H
#define ZARYA_REGISTRY_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_IF_REGISTRY "zarya.registry/1"

struct zr_route_broker { /* one address of one broker */
    struct zr_hdr hdr;
    struct zr_str cluster, name, addr; /* addr "ip:port" */
    int64_t id;                        /* 0: master */
};
struct zr_route_queues { /* what one broker has of the topic */
    struct zr_hdr hdr;
    struct zr_str broker;
    int32_t read_queues, write_queues, perm, topic_sys_flag;
};
struct zr_route {
    struct zr_hdr hdr;
    const struct zr_route_broker *brokers;
    const struct zr_route_queues *queues;
    uint32_t n_brokers, n_queues;
    struct zr_str order_conf; /* len 0: none */
};

struct zr_registry_v1 {
    struct zr_hdr hdr;
    /* Topics appeared or changed (n names), or everything did (n 0). on_done, if not NULL, is called exactly once when the
     * change is known wherever this registry announces, or waiting for that took too long (announcing goes on): ZR_OK, ZR_ETIMEOUT,
     * ZR_ECLOSED. Any thread. */
    ZR_ON(any) void (*changed)(struct zr_inst *inst, const struct zr_str *topics, uint32_t n, void (*on_done)(void *ctx, zr_status status), void *ctx);
    /* A topic was removed from this broker. */
    ZR_ON(any) void (*removed)(struct zr_inst *inst, struct zr_str topic);
    /* Calls on_route once, on any thread: ZR_OK with the route (borrow), ZR_ENOENT, ZR_ETIMEOUT, ZR_ECLOSED. */
    ZR_ON(any) void (*lookup)(struct zr_inst *inst, struct zr_str topic, void (*on_route)(void *ctx, zr_status status, const struct zr_route *route), void *ctx);
};
#ifdef __cplusplus
}
#endif
#endif
