/* SPDX-License-Identifier: Apache-2.0 */
/* node.h - the effective configuration of this process, after files, conf.d, imports and options were merged and checked. */
#ifndef ZK_NODE_H
#define ZK_NODE_H
#include "zarya/zarya.h"

/* One entry of `plugins`. */
struct zk_plugin_conf {
    const char *use, *as;  /* id or path; name */
    const char *file;      /* where it was written */
    uint32_t line;
    uint32_t critical;      /* no start without it (default); optional = true: start and report */
    uint32_t quiet;         /* of a built-in configuration: not worth a word when its file is not installed */
    uint32_t reserved;
    const struct zk_conf *settings_node; /* what was written in `settings`, or NULL (config/tree.h) */
};
/* Settings of the section `node`. */
struct zk_node_settings {
    struct zr_str name;     /* brokerName; default: host name */
    struct zr_str cluster;  /* brokerClusterName, "DefaultCluster" */
    struct zr_str data;     /* data directory */
    struct zr_str ip1, ip2; /* brokerIP1, brokerIP2; empty: chosen as Apache does */
    struct zr_list plugin_dirs;
    int64_t log_format;     /* 0 text, 1 json */
    int64_t log_level;      /* 0 error, 1 warn, 2 info, 3 debug */
    int64_t id;             /* brokerId */
    int64_t workers;        /* pool threads; 0: 2 */
    int64_t drain_timeout;  /* ms: how long a stop waits for what is open */
    int64_t max_frame, worker_queue, worker_memory, connect_timeout; /* kernel/remoting; 0: its own default */
};
struct zk_node {
    struct zk_node_settings set;
    const char *data_dir;         /* absolute, made */
    const void *broker_settings;  /* filled by kernel/broker's rows (zk_broker_options) */
    struct zk_plugin_conf *plugins;
    uint32_t n_plugins;
    /* Apache keys given in an imported broker.conf: all, for code 26; those without effect are listed at start. */
    struct zr_field *imported;
    uint32_t n_imported;
    const char *imported_file; /* where they come from; NULL: nothing was imported */
    uint32_t with_broker, with_namesrv;
    /* The addresses this broker announces: brokerIP1 and brokerIP2 as set, else chosen. NUL-ended. Final before zk_broker_open. */
    struct zr_str ip1, ip2;
};
extern struct zk_node zk_node;
#endif
