/* SPDX-License-Identifier: Apache-2.0 */
/* namesrv.h - the inside of routing-namesrv: what its files share.
 *
 *   namesrv.c   the plugin: options, life, session hook, expiry timer, zarya.registry/1
 *   requests.c  the request codes: fields in, answers out
 *   body.c      bodies of registrations: JSON of both ages, zlib-deflated
 *   tables.c    topics, brokers, clusters, live entries, graves
 *   register.c  what brokers say to them, and how brokers end
 *   tools.c     what tools change in them
 *   route.c     answers built from the tables, and the cache of route answers
 *   kv.c        the KV configuration and its document
 *   conf.c      the options that requests 318 and 319 show and change
 *
 * LOCKING
 *   inst->lock (rwlock)  guards every table, the KV configuration and the settings in force. Held for microseconds; a long
 *                        registration takes it anew for each NS_CHUNK topics. Writers go first.
 *   inst->order (mutex)  one registration (or sweep of a broker that left) at a time, so that an older one cannot overwrite a newer one
 *                        half-way. Also held by whoever makes topics.
 *   stripe->mutex        guards cached bodies of the topics in the stripe, and the stripe's ring. Taken with lock held.
 *   inst->small (mutex)  guards KV saving and the count of jobs; with the condition inst->changed.
 *   Order: order, lock, stripe. small is taken alone. None is held during a call to the host. */
#ifndef NS_NAMESRV_H
#define NS_NAMESRV_H
#include <pthread.h>
#include <stdatomic.h>
#include "../common/alarm.h"
#include "map.h"
#include "zarya/zarya.h"
#include "zl/buf.h"
#include "zl/json.h"
#include "zl/text.h"

#define NS_NAME_MAX 255u              /* bytes of any name or address in the tables */
#define NS_MAX_BROKERS 10000u         /* broker names */
#define NS_MAX_ADDRS 64u              /* addresses of one broker name */
#define NS_MAX_LIVES 20000u           /* live entries */
#define NS_MAX_FILTER_SERVERS 256u    /* of one broker */
#define NS_MAX_MAPPED_QUEUES 65536u   /* logical queues of one static topic on one broker */
#define NS_MAX_KV_BYTES (16u << 20)   /* names and values of the KV configuration together */
#define NS_MAX_KV_VALUE (1u << 20)    /* one value: it is answered in a header */
#define NS_BODY_MAX (64u << 20)       /* inflated registration, and any answer's body */
#define NS_CHUNK 512u                 /* topics applied under one hold of the lock */
#define NS_DEFAULT_TIMEOUT_MS 120000  /* of a broker that names none */
#define NS_MAX_TIMEOUT_MS (24ll * 3600 * 1000)
#define NS_GRAVE_NS (60ll * 1000000000) /* a deletion is remembered that long; Apache's registrations time out after 24 s */
#define NS_FULL_GRACE_NS (30ll * 1000000000) /* a full registration that young may have been written before the deletion */
#define NS_STRIPES 16u
#define NS_ORDER_NAMESPACE "ORDER_TOPIC_CONFIG"

#define NS_FORM_LEGACY 0u   /* integer keys bare */
#define NS_FORM_STANDARD 1u /* JSON as others read it */

#define NS_CODE_OK 0
#define NS_CODE_ERROR 1
#define NS_CODE_NO_PERMISSION 16
#define NS_CODE_NO_TOPIC 17
#define NS_CODE_NOT_FOUND 22

struct ns_settings {
    uint8_t order_message_enable, return_order_topic_config, enable_all_topic_list, enable_topic_list;
    uint8_t notify_min_broker_id, support_acting_master, delete_topic_with_registration, need_wait_for_service;
    uint8_t announce_local;
    int64_t wait_for_service_ms, scan_interval_ms, max_topics, max_entries, route_cache_bytes;
    struct zr_str kv_path, config_path;
};
extern const struct zr_option ns_options[];
extern const uint32_t ns_n_options;

struct ns_addr { int64_t id; struct zr_str addr; };
struct ns_broker { /* a broker name: a master and its slaves */
    struct ns_node node;
    uint64_t uid; /* tells two lives of one name apart */
    struct zr_str cluster, zone; /* zone.ptr NULL: none was given */
    struct ns_addr *addrs;       /* by id */
    uint32_t n_addrs; /* 0: leaving, shown nowhere */
    uint32_t acting_master;
    uint32_t n_topics; /* entries in topics */
    uint32_t rendered;             /* 1: the texts below are there */
    struct zr_str json[2];         /* its brokerDatas item, by form */
    struct zr_str queue_head;      /* its queueDatas item up to the value of perm */
    struct ns_broker *next_leaving;
};
struct ns_cluster {
    struct ns_node node;
    struct ns_broker **brokers; /* by name */
    uint32_t n, cap;
};
struct ns_live { /* one address that registered; key: cluster NUL address */
    struct ns_node node;
    struct zr_str cluster, addr, broker, ha;
    struct zr_str *filters; /* filter servers */
    uint32_t n_filters;
    uint32_t local; /* the broker in this process: never expires */
    int64_t id, timeout_ns;
    _Atomic int64_t last_ns; /* heartbeats move it under the read lock */
    struct zr_data_version version;
    struct zr_session *session; /* held; NULL: none */
};
struct ns_queues { /* what one broker has of a topic */
    struct ns_broker *broker;
    int32_t read, write, perm, flag;
};
struct ns_mapping { /* a broker's part of a static topic */
    struct ns_broker *broker;
    struct zr_str scope;
    int64_t epoch;
    int32_t total_queues;
    uint32_t dirty, n_pairs;
    int32_t (*pairs)[2];
};
struct ns_grave { /* this broker's entry was deleted, when it had said this version */
    uint64_t broker; /* hash of its name */
    struct zr_data_version version;
};
struct ns_body { /* a cached answer; immutable */
    _Atomic uint32_t refs;
    uint32_t used; /* since the ring's hand was here; under the stripe's mutex */
    uint64_t gen;  /* of the brokers, when it was built */
    uint64_t len;
    uint8_t bytes[];
};
struct ns_topic {
    struct ns_node node;
    struct ns_queues *queues; /* by broker name; n 0: only graves keep the topic */
    uint32_t n, cap;
    uint32_t n_graves, n_mappings;
    struct ns_grave *graves;
    struct ns_mapping *mappings;
    int64_t buried_ns;
    struct ns_topic *grave_prev, *grave_next; /* inst->graves, oldest first */
    struct ns_body *bodies[2];                /* by form */
    struct ns_topic *ring_prev, *ring_next;   /* the stripe's, while a body is cached */
};
struct ns_stripe {
    pthread_mutex_t mutex;
    struct ns_topic *hand; /* ring of topics with cached bodies */
    uint64_t bytes;
};
struct zr_inst {
    const struct zr_host *host;
    const struct zr_reply_v1 *reply;
    const struct zr_timer_v1 *timer;
    const struct zr_log_v1 *log;
    const struct zr_err_v1 *err;
    const struct zr_work_v1 *work;
    const struct zr_state_v1 *state;
    const struct zr_call_v1 *call;
    const struct zr_broker_v1 *broker; /* NULL: no broker in this process */
    const struct zr_metrics_v1 *metrics;
    uint32_t first_metric, reserved;
    int64_t started_ns;

    pthread_rwlock_t lock;
    struct ns_settings set;
    struct zr_str kv_given; /* kv_path as configured */
    struct ns_map topics, brokers, clusters, lives, kv;
    struct ns_topic *grave_first, *grave_last;
    struct ns_broker *leaving;
    uint64_t n_filtered; /* live entries with filter servers */
    uint64_t n_entries, n_live_topics, next_uid, kv_bytes;
    uint64_t gen; /* counts changes that any route answer may show: brokers, filter servers, order conf, settings */
    struct ns_body *cluster_info; /* code 106, by gen; under cluster_mutex */
    pthread_mutex_t cluster_mutex;
    struct ns_stripe stripes[NS_STRIPES];
    pthread_mutex_t order;

    pthread_mutex_t small;
    pthread_cond_t changed;
    struct rt_alarm expiry;
    uint32_t jobs;      /* handed to the worker pool and not finished */
    uint32_t kv_saving; /* a thread writes the document */
    uint64_t kv_gen, kv_saved, kv_failed; /* change counters: made (under lock too), durable, last refused */
    zr_status kv_why;                     /* of the last refusal */
};

#define NS_METRIC_QUERIES 0u
#define NS_METRIC_BUILT 1u
#define NS_METRIC_REGISTERED 2u
#define NS_METRIC_EXPIRED 3u
#define NS_METRIC_BROKERS 4u
#define NS_METRIC_TOPICS 5u
void ns_count(struct zr_inst *inst, uint32_t metric);
void ns_log(struct zr_inst *inst, uint32_t level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/* ---- body.c ---- */
struct ns_topic_conf { struct zr_str name; int32_t read, write, perm, flag; };
struct ns_mapping_conf { struct zr_str topic, broker, scope; int64_t epoch; int32_t total_queues; uint32_t dirty; const struct zl_json *pairs; };
struct ns_content { /* of a registration; text points into the body or into what it keeps */
    struct zr_data_version version;
    struct ns_topic_conf *topics;
    struct ns_mapping_conf *mappings;
    struct zr_str *filters;
    uint64_t n_topics, n_mappings, n_filters;
    uint32_t has_filters; /* the list was there, maybe empty */
    uint32_t n_docs, cap_docs;
    struct zl_json_doc **docs;
    uint8_t *inflated;
};
/* version: MQVersion ordinal of the sender. On failure *ret_why is static. */
zr_status ns_content_decode(struct zr_span body, int32_t version, struct ns_content *ret, const char **ret_why);
void ns_content_free(struct ns_content *content);
struct zr_data_version ns_version_of(const struct zl_json *object);
void ns_version_print(struct zl_buf *out, const struct zr_data_version *version);

/* ---- tables.c, register.c, tools.c ---- */
struct ns_registration {
    struct zr_str cluster, broker, addr, ha, zone; /* zone.ptr NULL: none */
    int64_t id, timeout_ms;                        /* 0: the default */
    int32_t acting_master;                         /* -1: an old broker, which does not say */
    uint32_t local;
    struct zr_session *session;                    /* NULL: local */
    struct ns_content *content;
};
struct ns_registered { char master_addr[NS_NAME_MAX + 1], ha_addr[NS_NAME_MAX + 1]; };
/* ZR_OK; ZR_EAGAIN: refused (code 1 "register broker failed"); ZR_EFULL, ZR_ENOMEM. */
zr_status ns_register(struct zr_inst *inst, const struct ns_registration *reg, struct ns_registered *ret);
void ns_unregister(struct zr_inst *inst, struct zr_str cluster, struct zr_str broker, struct zr_str addr);
/* Everything that was registered over this connection goes. */
void ns_session_gone(struct zr_inst *inst, struct zr_session *session);
uint32_t ns_has_session(struct zr_inst *inst, struct zr_session *session);
/* Refreshes; 0: there is no such entry. *ret_version may be NULL. */
uint32_t ns_heartbeat(struct zr_inst *inst, struct zr_str cluster, struct zr_str addr, struct zr_data_version *ret_version);
/* Unregisters what is overdue, forgets old graves; returns the mono time to look again, INT64_MAX: never. */
int64_t ns_expire(struct zr_inst *inst);
/* wipe: 1 takes W away, 0 sets RW. Returns the number of entries. */
int32_t ns_write_perm(struct zr_inst *inst, struct zr_str broker, uint32_t wipe);
void ns_delete_topic(struct zr_inst *inst, struct zr_str topic, struct zr_str cluster);
/* The local broker dropped a topic. */
void ns_delete_local(struct zr_inst *inst, struct zr_str topic, struct zr_str broker, const struct zr_data_version *version);
void ns_put_topic(struct zr_inst *inst, struct zr_str topic, const struct zl_json *queue_datas);
void ns_tables_free(struct zr_inst *inst);
struct ns_live *ns_live_get(struct zr_inst *inst, struct zr_str cluster, struct zr_str addr); /* lock held */
const struct ns_addr *ns_broker_addr(const struct ns_broker *broker, int64_t id);           /* lock held; NULL: none */

/* ---- route.c ---- */
/* A reference to the answer's body for topic, ZR_ENOENT, ZR_ENOMEM. */
zr_status ns_route_body(struct zr_inst *inst, struct zr_str topic, uint32_t form, struct ns_body **ret);
/* Legacy form, only brokers of the zone; appended to out. */
zr_status ns_route_zoned(struct zr_inst *inst, struct zr_str topic, struct zr_str zone, struct zl_buf *out);
zr_status ns_cluster_body(struct zr_inst *inst, struct ns_body **ret);
/* Prints what route answers repeat of a broker, after any change to it; write lock held. Unrendered ones are printed each time. */
void ns_broker_render(struct zr_inst *inst, struct ns_broker *broker);
void ns_broker_unrender(struct ns_broker *broker);
void ns_body_unref(struct ns_body *body); /* NULL is fine */
void ns_cache_drop(struct zr_inst *inst, struct ns_topic *topic); /* write lock held */
void ns_member_group(struct zr_inst *inst, struct zr_str cluster, struct zr_str broker, struct zl_buf *out);
#define NS_LIST_ALL 0u
#define NS_LIST_CLUSTER 1u
#define NS_LIST_UNIT 2u
#define NS_LIST_UNIT_SUB 3u
#define NS_LIST_UNIT_SUB_ONLY 4u
void ns_topic_list(struct zr_inst *inst, uint32_t what, struct zr_str cluster, struct zl_buf *out);
void ns_system_topic_list(struct zr_inst *inst, struct zl_buf *out);
void ns_lookup(struct zr_inst *inst, struct zr_str topic, void (*on_route)(void *ctx, zr_status status, const struct zr_route *route), void *ctx);

/* ---- kv.c ---- */
zr_status ns_kv_load(struct zr_inst *inst);
/* Both return when the document is durable. ZR_EFULL: a bound; not durable: ZR_EAGAIN (the disk is full), ZR_EIO and others. */
zr_status ns_kv_put(struct zr_inst *inst, struct zr_str space, struct zr_str key, struct zr_str value);
zr_status ns_kv_delete(struct zr_inst *inst, struct zr_str space, struct zr_str key);
zr_status ns_kv_get(struct zr_inst *inst, struct zr_str space, struct zr_str key, struct zl_buf *out);
zr_status ns_kv_list(struct zr_inst *inst, struct zr_str space, struct zl_buf *out); /* {"table":{..}} */
struct zr_str ns_kv_peek(struct zr_inst *inst, struct zr_str space, struct zr_str key); /* lock held */
void ns_kv_free(struct zr_inst *inst);

/* ---- conf.c ---- */
zr_status ns_conf_load(struct zr_inst *inst);
void ns_conf_print(struct zr_inst *inst, struct zl_buf *out);
/* Returns the response code; *ret_remark is static or NULL. */
int32_t ns_conf_update(struct zr_inst *inst, struct zr_str properties, const char **ret_remark);

/* ---- requests.c ---- */
extern const struct zr_requests_v1 ns_requests;

/* ---- namesrv.c ---- */
void ns_expiry_arm(struct zr_inst *inst, int64_t at_ns);
int64_t ns_now(struct zr_inst *inst);
/* Names and values that fit into the tables. */
uint32_t ns_name_ok(struct zr_str name);
/* One block: ptr is malloc'ed, NUL-ended; ptr NULL when memory ran out. */
struct zr_str ns_dup(struct zr_str s);
#endif
