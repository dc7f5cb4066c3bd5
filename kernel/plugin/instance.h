/* SPDX-License-Identifier: Apache-2.0 */
/* instance.h - loaded plugins as the rest of the kernel sees them. Interface tables here are the host's own full-size copies:
 * every slot can be called (an absent one answers ZR_ENOTSUP), none is NULL unless its header says that it may be. */
#ifndef ZK_INSTANCE_H
#define ZK_INSTANCE_H
#include "zarya/zarya.h"

/* Stages of an instance (zarya/plugin.h draws them). */
#define ZK_LOADED 0u  /* no instance yet */
#define ZK_COLD 1u    /* created */
#define ZK_WARM 2u
#define ZK_ACTIVE 3u
#define ZK_DRAINED 4u
#define ZK_COOLED 5u  /* cold again, after warm: calls the host no more */

struct zk_instance {
    struct zr_host host; /* host.ctx is this struct */
    const char *as, *id, *version, *file;
    uint32_t generation;
    uint32_t stage; /* ZK_COLD ... */
    const struct zr_plugin *plugin; /* full-size copy */
    struct zr_inst *inst;
    void *settings;
    const struct zr_transport_v1 *transport;
    const struct zr_storage_v1 *storage;
    const struct zr_registry_v1 *registry;
    const struct zr_filter_v1 *filter;
    const struct zr_hooks_v1 *hooks;
    const struct zr_requests_v1 *requests;
    const struct zr_commands_v1 *commands;
    uint32_t pins; /* atomic */
    uint32_t metric_memory; /* id of its zarya_plugin_memory_bytes */
    uint32_t threads;       /* atomic: spawned through zarya.work/1 and not joined */
    uint32_t critical;      /* no start without it */
    const struct zk_plugin_conf *conf;
    const struct zk_manifest *manifest;
};
/* All instances in start order (providers before users). Stable between zk_plugins_create and zk_plugins_destroy. */
extern struct zk_instance **zk_instances;
extern uint32_t zk_n_instances;
/* The instance behind a host pointer. */
static inline struct zk_instance *zk_instance_of(const struct zr_host *host) { return (struct zk_instance *)host->ctx; }

/* Runs every hook of a point in chain order. Fast when there is none: check zk_hooks_at(point) first. */
uint32_t zk_hooks_at(uint32_t point); /* how many */
/* 1: some hook of the point is for this topic. Chains do not change between create and destroy, so the answer may be kept. */
uint32_t zk_hooks_want(uint32_t point, struct zr_str topic);
void zk_hooks_run(uint32_t point, const struct zr_event *event, struct zr_verdict *ret);
#endif
