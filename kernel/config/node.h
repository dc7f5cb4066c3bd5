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
    uint32_t critical;     /* no start without it (default) ; optional = true: start and report */
    void *settings_node;   /* libconfig's, for config/ only */
    struct zr_option_value *values; /* parsed by rows, for --print-config; config/ only */
};
/* Settings of the section `node`. */
struct zk_node_settings {
    struct zr_str name;     /* brokerName; default: host name */
    struct zr_str cluster;  /* brokerClusterName, "DefaultCluster" */
    struct zr_str data;     /* data directory */
    struct zr_str ip1, ip2; /* brokerIP1, brokerIP2; empty: chosen as Apache does */
    struct zr_list plugin_dirs;
    struct zr_str log_format; /* "text" | "json" */
    struct zr_str log_level;  /* "error" | "warn" | "info" | "debug" */
    int64_t id;             /* brokerId */
    int64_t workers;        /* pool threads; 0: 2 */
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
    uint32_t with_broker, with_namesrv;
};
extern struct zk_node zk_node;
#endif
