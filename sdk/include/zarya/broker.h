/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/broker.h - host service zarya.broker/1: topics, subscription groups, consumer offsets, live clients, identity,
 * configuration and statistics of the broker in this process. NULL service tables where no storage is configured
 * (a pure name server): query answers NULL. */
#ifndef ZARYA_BROKER_H
#define ZARYA_BROKER_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_BROKER "zarya.broker/1"

#define ZR_PERM_INHERIT 1
#define ZR_PERM_WRITE 2
#define ZR_PERM_READ 4

struct zr_identity {
    struct zr_hdr hdr;
    struct zr_str cluster, name; /* static */
    struct zr_str addr;          /* "brokerIP1:port", what clients are told; static */
    struct zr_str ha_addr;       /* "brokerIP2:haPort"; static */
    struct zr_addr store_host;   /* addr as stored in records and message ids */
    int32_t permission;          /* brokerPermission */
    int64_t id;                  /* 0: master */
    int64_t boot_ms;
    int32_t reserved;
    int32_t version;             /* MQVersion ordinal this broker answers with */
};
struct zr_data_version { int64_t timestamp, counter, state_version; }; /* frozen */

struct zr_topic {
    struct zr_hdr hdr;
    struct zr_str name;
    const struct zr_field *attributes; /* without '+' */
    uint32_t n_attributes;
    int32_t read_queues, write_queues, perm, sys_flag;
    uint32_t multi_tag; /* topicFilterType MULTI_TAG */
    uint32_t order;
    uint32_t system;    /* out: 1 for system topics */
    struct zr_str more_json; /* members of its JSON that mean nothing to this broker ("a":1,"b":2), kept; len 0: as they were */
};
struct zr_group {
    struct zr_hdr hdr;
    struct zr_str name;
    const struct zr_field *attributes;
    struct zr_str retry_policy_json;      /* groupRetryPolicy object, as text; len 0: default */
    struct zr_str subscription_data_json; /* subscriptionDataSet array, as text; len 0: absent */
    int64_t broker_id, slow_broker_id;    /* brokerId, whichBrokerWhenConsumeSlowly */
    uint32_t n_attributes;
    uint32_t consume_enable, consume_from_min_enable, consume_broadcast_enable, consume_orderly, notify_ids_changed;
    int32_t retry_queues, retry_max_times, sys_flag, consume_timeout_minute;
    struct zr_str more_json; /* as of a topic */
};

#define ZR_CONSUME_ACTIVELY 0u  /* pull */
#define ZR_CONSUME_PASSIVELY 1u /* push */
#define ZR_CONSUME_POP 2u
#define ZR_MODEL_CLUSTERING 0u
#define ZR_MODEL_BROADCASTING 1u
#define ZR_MODEL_LITE_SELECTIVE 2u
struct zr_client {
    struct zr_hdr hdr;
    struct zr_session *session;
    struct zr_str client_id, peer_name;
    int64_t last_ms; /* of the last heartbeat */
    int32_t language, version;
};
struct zr_subscription {
    struct zr_hdr hdr;
    struct zr_str topic, text, expression_type; /* "TAG" */
    const struct zr_str *tags;
    const int32_t *codes;
    int64_t version; /* ms */
    uint32_t n_tags, n_codes;
    uint32_t class_filter, reserved;
};
struct zr_consumers { /* a live consumer group */
    struct zr_hdr hdr;
    struct zr_str group;
    const struct zr_client *clients;
    const struct zr_subscription *subscriptions;
    uint32_t n_clients, n_subscriptions;
    uint32_t consume_type, model; /* ZR_CONSUME_*, ZR_MODEL_* */
    struct zr_str from_where;     /* "CONSUME_FROM_LAST_OFFSET" */
};
struct zr_queue_stats { int64_t in_total, out_total; }; /* frozen */
/* Rates of the last minute. */
struct zr_topic_stats {
    struct zr_hdr hdr;
    double put_tps, put_bytes_per_s, get_tps;
    int64_t put_total, get_total;
};
struct zr_broker_stats {
    struct zr_hdr hdr;
    int64_t put_total, put_failed, put_bytes, get_found, get_miss, get_messages;
    int64_t put_max_ms, get_max_ms;
    int64_t put_today_morning, put_yesterday_morning, get_today_morning, get_yesterday_morning;
    double put_tps[3], found_tps[3], miss_tps[3], transferred_tps[3]; /* over 10, 60, 600 s; -1: no window yet */
    uint64_t put_histogram[13]; /* by whole ms: 0, <10, <50, <100, <200, <500, <1s, <2s, <3s, <4s, <5s, <10s, more; last minute */
    double put_p99_ms, put_p999_ms;
    int64_t sessions, held_pulls;
};

/* Documents of when_durable. */
#define ZR_DOCUMENT_TOPICS 0u
#define ZR_DOCUMENT_GROUPS 1u /* and what of topics groups may not do */
#define ZR_DOCUMENT_OFFSETS 2u

struct zr_broker_v1 {
    struct zr_hdr hdr;
    ZR_ON(any) void (*identity)(const struct zr_host *host, struct zr_identity *ret);

    /* ---- topics. each: borrowed structs; return non-zero to stop; no lock of the host is held meanwhile ---- */
    ZR_ON(any) void (*topic_version)(const struct zr_host *host, struct zr_data_version *ret);
    /* Calls on_topic with the topic (borrow) on this thread, or answers ZR_ENOENT. */
    ZR_ON(any) zr_status (*topic)(const struct zr_host *host, struct zr_str name, void (*on_topic)(void *ctx, const struct zr_topic *topic), void *ctx);
    ZR_ON(any) void (*each_topic)(const struct zr_host *host, int32_t (*each)(void *ctx, const struct zr_topic *topic), void *ctx);
    /* Creates or changes a topic as given, persists it, announces it; on_done (may be NULL) once when registries know it. */
    ZR_ON(any) zr_status (*put_topic)(const struct zr_host *host, const struct zr_topic *topic, void (*on_done)(void *ctx, zr_status status), void *ctx);
    /* Topic, its offsets, its queues: gone for good. ZR_ENOENT, ZR_EPERM (system topic). */
    ZR_ON(worker) zr_status (*remove_topic)(const struct zr_host *host, struct zr_str name);

    /* ---- subscription groups ---- */
    ZR_ON(any) void (*group_version)(const struct zr_host *host, struct zr_data_version *ret);
    /* create: auto-create as heartbeat and pull do, if the configuration allows it. */
    ZR_ON(any) zr_status (*group)(const struct zr_host *host, struct zr_str name, uint32_t create, void (*on_group)(void *ctx, const struct zr_group *group), void *ctx);
    ZR_ON(any) void (*each_group)(const struct zr_host *host, int32_t (*each)(void *ctx, const struct zr_group *group), void *ctx);
    ZR_ON(any) zr_status (*put_group)(const struct zr_host *host, const struct zr_group *group);
    ZR_ON(worker) zr_status (*remove_group)(const struct zr_host *host, struct zr_str name, uint32_t clean_offsets);
    /* Bit mask of what (group, topic) may not do; set only when value >= 0. Returns the mask. */
    ZR_ON(any) int32_t (*forbidden)(const struct zr_host *host, struct zr_str group, struct zr_str topic, int32_t value);

    /* ---- consumer offsets ---- */
    /* The stored offset, -1: none. */
    ZR_ON(any) int64_t (*offset)(const struct zr_host *host, struct zr_str group, struct zr_str topic, int32_t queue_id);
    ZR_ON(any) void (*put_offset)(const struct zr_host *host, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset);
    /* The next pull's offset as last answered, -1: none. */
    ZR_ON(any) int64_t (*pull_offset)(const struct zr_host *host, struct zr_str group, struct zr_str topic, int32_t queue_id);
    /* Server-side reset: taken once by the next pull of the queue. */
    ZR_ON(any) void (*reset_offset)(const struct zr_host *host, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset);
    ZR_ON(any) void (*remove_offsets)(const struct zr_host *host, struct zr_str group, struct zr_str topic); /* either may be empty: all */
    ZR_ON(any) void (*each_offset)(const struct zr_host *host, int32_t (*each)(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset), void *ctx);

    /* ---- live clients ---- */
    ZR_ON(any) zr_status (*consumers)(const struct zr_host *host, struct zr_str group, void (*on_group)(void *ctx, const struct zr_consumers *consumers), void *ctx);
    ZR_ON(any) void (*each_consumers)(const struct zr_host *host, int32_t (*each)(void *ctx, const struct zr_consumers *consumers), void *ctx);
    ZR_ON(any) void (*each_producer)(const struct zr_host *host, struct zr_str group, int32_t (*each)(void *ctx, struct zr_str group, const struct zr_client *client), void *ctx); /* group empty: all */
    /* A session of the group (with this client id, if not empty), held; NULL when there is none. producers: of the producer group.
     * group empty: of any group. */
    ZR_ON(any) struct zr_session *(*client)(const struct zr_host *host, struct zr_str group, struct zr_str client_id, uint32_t producers);

    /* ---- configuration (codes 25, 26) and statistics ---- */
    /* Every key as Apache names it, sorted, with its effective value. */
    ZR_ON(any) void (*each_config)(const struct zr_host *host, int32_t (*each)(void *ctx, struct zr_str key, struct zr_str value), void *ctx);
    /* ZR_EPERM: not on the allow-list. ZR_ENOENT: unknown. ZR_EINVAL: the value. */
    ZR_ON(any) zr_status (*set_config)(const struct zr_host *host, struct zr_str key, struct zr_str value);
    ZR_ON(any) void (*stats)(const struct zr_host *host, struct zr_broker_stats *ret);
    /* group empty: of the topic; else of (topic, group). */
    ZR_ON(any) void (*topic_stats)(const struct zr_host *host, struct zr_str topic, struct zr_str group, struct zr_topic_stats *ret);
    /* What set_config would answer, changing nothing. */
    ZR_ON(any) zr_status (*check_config)(const struct zr_host *host, struct zr_str key, struct zr_str value);
    /* on_done once (it may be at once, on this thread) when every change of that document made before this call is on the disk.
     * With an error: it could not be written; that is tried again until it can, and nobody is told of it later. */
    ZR_ON(any) void (*when_durable)(const struct zr_host *host, uint32_t document, void (*on_done)(void *ctx, zr_status status), void *ctx);
};
#ifdef __cplusplus
}
#endif
#endif
