/* SPDX-License-Identifier: Apache-2.0 */
/* zc/client.h - a RocketMQ client in C: producer, push consumer, pull, admin.
 *
 * Try it:
 *     struct zc_err err;
 *     struct zc_client *client = zc_client_open(&(struct zc_options){ .namesrv = "127.0.0.1:9876" }, &err);
 *     struct zc_producer *producer = zc_producer_open(client, &(struct zc_producer_options){ .group = "PG" }, &err);
 *     struct zc_message msg = { .topic = zl_str("TopicTest"), .body = { (const uint8_t *)"hello", 5 } };
 *     struct zc_send_result sent;
 *     if (zc_send(producer, &msg, NULL, &sent, &err)) fprintf(stderr, "%d %s\n", err.code, err.text);
 *     zc_producer_close(producer);
 *     zc_client_close(client);
 *
 * What stays true:
 *   1. Every function that can fail returns 0 or err->code; err may be NULL. Positive codes are the server's (its
 * remark is the text), negative ones are this library's (ZC_E*).
 *   2. All functions may be called from any thread, at once, unless they say otherwise. close() functions end an
 * object: nobody else may use it by then. Close producers and consumers before their client.
 *   3. Callbacks named "on the I/O thread" must not block and must not call a function that waits for an answer.
 *   4. In every options struct a zero member means the default written beside it.
 * Strings passed in are borrowed for the call; zr_str and zr_span in results live as long as the result. */
#ifndef ZC_CLIENT_H
#define ZC_CLIENT_H
#include "zarya/abi.h"
#include "zl/json.h"
#include "zl/text.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZC_NAME_MAX 256u /* of a topic, group or broker name, with its NUL */
#define ZC_ID_MAX 64u    /* of a message id, with its NUL */

/* ---- errors ---- */
#define ZC_OK 0
#define ZC_EARG (-1)      /* an argument is wrong */
#define ZC_ENOMEM (-2)    /* memory ran out */
#define ZC_ECONNECT (-3)  /* no connection could be made */
#define ZC_ELOST (-4)     /* the connection ended before the answer came */
#define ZC_ETIMEOUT (-5)  /* no answer in time */
#define ZC_ENOROUTE (-6)  /* the name server knows no queue (or no master) of the topic */
#define ZC_EPROTO (-7)    /* the answer could not be understood */
#define ZC_ENONS (-8)     /* no name server address is known */
#define ZC_EFULL (-9)     /* a stated limit was reached */
#define ZC_ECLOSING (-10) /* the client is being closed */
struct zc_err {
    int32_t code;
    char text[508];
};

/* ---- client: connections, name servers, timers ---- */
struct zc_client;
#define ZC_HEADER_JSON 0u
#define ZC_HEADER_BINARY 1u
struct zc_options {
    const char *namesrv; /* "host:port;host:port"; NULL: environment NAMESRV_ADDR, else the address server */
    /* URL of the address server; NULL: ROCKETMQ_NAMESRV_DOMAIN's, else http://jmenv.tbsite.net:8080/rocketmq/nsaddr.
     * Asked only when no address is known otherwise, and again every two minutes. */
    const char *address_server;
    const char *instance; /* second part of the client id; NULL: pid#time */
    uint32_t header;      /* ZC_HEADER_* */
    int32_t timeout_ms;   /* 3000: of one call */
    int32_t heartbeat_ms; /* 30000 */
    int32_t route_ms;     /* 30000: routes in use are asked for again */
    int32_t persist_ms;   /* 5000: consumer offsets are committed */
    int32_t rebalance_ms; /* 20000 */
    int32_t address_ms;   /* ROCKETMQ_NAMESRV_INTERVAL, else 120000: the address server is asked again */
};
struct zc_client *zc_client_open(const struct zc_options *options, struct zc_err *err);
void zc_client_close(struct zc_client *client);
const char *zc_client_id(const struct zc_client *client);
/* Replaces the name server addresses ("host:port;host:port"). */
int zc_client_set_namesrv(struct zc_client *client, const char *addresses, struct zc_err *err);
/* The n-th name server's address into to; ZC_ENONS beyond the last. */
int zc_client_namesrv(struct zc_client *client, uint32_t n, char to[ZC_NAME_MAX], struct zc_err *err);

/* ---- plain calls: any request code to any address: "host:port", "[v6]:port" or "ipc:///path" ---- */
struct zc_request {
    const struct zr_field *fields;
    struct zr_span body;
    int32_t code;
    uint32_t n_fields;
    uint32_t empty_ext; /* no fields means extFields {}, not none */
    int32_t timeout_ms; /* 0: the client's */
};
struct zc_response {
    const struct zr_field *fields;
    struct zr_span body;
    struct zr_str remark;
    int32_t code, version;
    uint32_t n_fields, reserved;
};
/* Waits for the answer. *ret is non-NULL on ZC_OK whatever its code is; end it with zc_response_free. */
int zc_call(struct zc_client *client, const char *addr, const struct zc_request *request, struct zc_response **ret,
            struct zc_err *err);
/* on_answer runs exactly once, on the I/O thread (or, when sending fails at once, not at all and the code is returned):
 * response (borrowed) or NULL with err. */
typedef void (*zc_on_answer)(void *ctx, const struct zc_response *response, const struct zc_err *err);
int zc_call_async(struct zc_client *client, const char *addr, const struct zc_request *request, zc_on_answer on_answer,
                  void *ctx, struct zc_err *err);
int zc_call_oneway(struct zc_client *client, const char *addr, const struct zc_request *request, struct zc_err *err);
void zc_response_free(struct zc_response *response);
/* zc_call, and any code but 0 becomes an error. */
int zc_call_ok(struct zc_client *client, const char *addr, const struct zc_request *request, struct zc_response **ret,
               struct zc_err *err);

/* ---- routes ---- */
struct zc_queue {
    char topic[ZC_NAME_MAX];
    char broker[ZC_NAME_MAX];
    int32_t queue_id;
};
struct zc_route_addr {
    int64_t id;
    char addr[ZC_NAME_MAX];
};
struct zc_route_broker {
    char name[ZC_NAME_MAX], cluster[ZC_NAME_MAX];
    struct zc_route_addr *addrs; /* by id */
    uint32_t n_addrs, reserved;
};
struct zc_route_queues {
    char broker[ZC_NAME_MAX];
    int32_t read, write, perm, sys_flag;
};
struct zc_route {
    struct zc_route_broker *brokers; /* by name */
    struct zc_route_queues *queues;  /* by broker */
    char *order_conf;                /* or NULL */
    uint32_t n_brokers, n_queues;
};
/* Reads a route answer's body, with quoted or bare broker ids. */
int zc_route_parse(struct zr_str json, struct zc_route **ret, struct zc_err *err);
void zc_route_free(struct zc_route *route);
/* Asks a name server now (not the cache). ZC_ENOROUTE never: the server's code 17 is passed on. */
int zc_route_query(struct zc_client *client, const char *topic, struct zc_route **ret, struct zc_err *err);
/* The address of a broker: of its master, or with any != 0 of any member. From cached routes; ZC_ENOROUTE. */
int zc_broker_addr(struct zc_client *client, const char *broker, uint32_t any, char to[ZC_NAME_MAX],
                   struct zc_err *err);
/* Queues of a topic that may be written (write != 0) or read, sorted by broker and id; free() the array. Goes through
 * the cache. */
int zc_queues(struct zc_client *client, const char *topic, uint32_t write, struct zc_queue **ret, uint32_t *ret_n,
              struct zc_err *err);

/* ---- producer ---- */
struct zc_producer;
struct zc_producer_options {
    const char *group;        /* required */
    int32_t timeout_ms;       /* 3000: a send with its retries */
    int32_t retries;          /* 2 more tries on other brokers; -1: none */
    int32_t compress_over;    /* 4096 bytes; -1: never */
    int32_t max_message_size; /* 4 MiB */
    int32_t topic_queues;     /* 4: queues of a topic made by its first message */
};
struct zc_message {
    struct zr_str topic;
    struct zr_span body;
    struct zr_str tags, keys; /* len 0: none; several keys are separated by a blank */
    const struct zr_field *properties;
    uint32_t n_properties;
    int32_t flag;
    int32_t delay_level; /* 0: none */
    uint32_t no_wait;    /* WAIT=false */
};
#define ZC_SELECT_ROUND_ROBIN 0u
#define ZC_SELECT_HASH 1u  /* Java hash of key, modulo the number of queues */
#define ZC_SELECT_CALL 2u  /* pick() */
#define ZC_SELECT_QUEUE 3u /* queue */
struct zc_select {
    uint32_t how, reserved;
    struct zr_str key;
    const struct zc_queue *queue;
    uint32_t (*pick)(void *ctx, const struct zc_message *msg, const struct zc_queue *queues, uint32_t n); /* an index */
    void *ctx;
};
struct zc_send_result {
    int32_t status; /* 0 SEND_OK, 10 FLUSH_DISK_TIMEOUT, 12 FLUSH_SLAVE_TIMEOUT, 11 SLAVE_NOT_AVAILABLE */
    uint32_t tries;
    struct zc_queue queue;
    int64_t queue_offset;
    char msg_id[ZC_ID_MAX];        /* UNIQ_KEY (of a batch: of its first) */
    char offset_msg_id[ZC_ID_MAX]; /* the broker's (of a batch: of its first) */
    char broker_addr[ZC_NAME_MAX];
};
const char *zc_send_status_name(int32_t status);
struct zc_producer *zc_producer_open(struct zc_client *client, const struct zc_producer_options *options,
                                     struct zc_err *err);
void zc_producer_close(struct zc_producer *producer);
/* Sends and waits, with retries on other brokers (not when select names or picks a queue). select NULL: round robin. */
int zc_send(struct zc_producer *producer, const struct zc_message *msg, const struct zc_select *select,
            struct zc_send_result *ret, struct zc_err *err);
/* result or NULL with err, on the I/O thread. The message is copied. Looks the route up (waiting) when it is not
 * cached. */
typedef void (*zc_on_sent)(void *ctx, const struct zc_send_result *result, const struct zc_err *err);
int zc_send_async(struct zc_producer *producer, const struct zc_message *msg, const struct zc_select *select,
                  zc_on_sent on_sent, void *ctx, struct zc_err *err);
int zc_send_oneway(struct zc_producer *producer, const struct zc_message *msg, const struct zc_select *select,
                   struct zc_err *err);
/* Several messages of one topic in one request: no delay, not compressed. */
int zc_send_batch(struct zc_producer *producer, const struct zc_message *msgs, uint32_t n,
                  const struct zc_select *select, struct zc_send_result *ret, struct zc_err *err);

/* ---- received messages ---- */
struct zc_received {
    struct zr_str topic;       /* the original topic of a retried message */
    struct zr_str broker;      /* name of the broker it was pulled from; empty if not known */
    struct zr_span body;       /* inflated, if it was compressed with zlib */
    struct zr_span properties; /* RocketMQ's string: zl_props_get() reads it */
    struct zr_str tags, keys;
    struct zr_str stored_topic; /* the topic of its queue */
    struct zr_addr born_host, store_host;
    int64_t queue_offset, physical_offset, born_ms, store_ms, prepared_offset;
    int32_t queue_id, flag, sys_flag, reconsume_times;
    uint32_t store_size, body_crc;
    char msg_id[ZC_ID_MAX]; /* UNIQ_KEY, else the offset id */
    char offset_msg_id[ZC_ID_MAX];
};
struct zc_messages {
    struct zc_received *msgs;
    uint32_t n, reserved;
    int32_t code; /* of a pull: 0 found, 19 nothing new, 20 all filtered (ask again), 21 offset moved */
    int32_t reserved2;
    int64_t next_offset, min_offset, max_offset, suggested_broker; /* of a pull */
};
void zc_messages_free(struct zc_messages *messages);
/* Reads records laid back to back (the body of a pull, query or view answer). tags: keep only messages with one of
 * these
 * ("A || B"; empty or "*": all). */
int zc_messages_decode(struct zr_span records, const char *broker, const char *tags, struct zc_messages **ret,
                       struct zc_err *err);

/* ---- push consumer ---- */
struct zc_consumer;
#define ZC_CLUSTERING 0u
#define ZC_BROADCASTING 1u
#define ZC_FROM_LAST 0u
#define ZC_FROM_FIRST 1u
#define ZC_FROM_TIMESTAMP 2u
#define ZC_CONSUMED 0 /* done: never again */
#define ZC_LATER 1    /* concurrent: sent back, comes again after a delay. Orderly: the queue pauses, then again */
struct zc_delivery {
    const struct zc_received *msgs;
    uint32_t n;
    int32_t delay_level; /* with ZC_LATER: 0 the broker decides, < 0 dead letter queue; may be set by the callback */
    uint32_t ack_index;  /* may be lowered: messages from here on are treated as ZC_LATER. Initially n */
    uint32_t thread;     /* number of the consume thread, from 1 */
    struct zc_queue queue;
};
struct zc_consumer_options {
    const char *group;       /* required */
    uint32_t model;          /* ZC_CLUSTERING */
    uint32_t from;           /* ZC_FROM_LAST, where a group without offset begins */
    int64_t from_ms;         /* with ZC_FROM_TIMESTAMP */
    uint32_t orderly;        /* 1: one thread at a time for a queue, under the broker's lock */
    uint32_t threads;        /* 4 */
    uint32_t pull_batch;     /* 32 */
    uint32_t consume_batch;  /* 1 */
    uint32_t queue_limit;    /* 1000 messages waiting per queue, then its pulls pause */
    int32_t max_reconsume;   /* 16 (orderly: without limit) */
    int32_t suspend_ms;      /* 15000: long poll */
    const char *offsets_dir; /* broadcasting: offsets are kept here; NULL: ~/.rocketmq_offsets */
    int (*on_messages)(void *ctx, struct zc_delivery *delivery); /* on a consume thread; ZC_CONSUMED or ZC_LATER */
    void *ctx;
};
struct zc_consumer *zc_consumer_open(struct zc_client *client, const struct zc_consumer_options *options,
                                     struct zc_err *err);
/* Before start, or later. expression NULL or "*": everything; type NULL or "TAG", or "SQL92". */
int zc_consumer_subscribe(struct zc_consumer *consumer, const char *topic, const char *expression, const char *type,
                          struct zc_err *err);
int zc_consumer_start(struct zc_consumer *consumer, struct zc_err *err);
/* Stops pulling, waits for running callbacks, commits offsets, unlocks, leaves the group. */
void zc_consumer_close(struct zc_consumer *consumer);
/* The queues it holds now; free() the array. */
int zc_consumer_queues(struct zc_consumer *consumer, struct zc_queue **ret, uint32_t *ret_n, struct zc_err *err);
/* AllocateMessageQueueAveragely: the share of client number index of n_clients in n queues: first .. first + count. */
void zc_allocate_averagely(uint32_t index, uint32_t n_clients, uint32_t n, uint32_t *ret_first, uint32_t *ret_count);

/* ---- pull ---- */
struct zc_pull {
    const char *group;
    const struct zc_queue *queue;
    const char *addr;       /* NULL: found by queue->broker */
    const char *expression; /* NULL: "*" */
    const char *type;       /* NULL: "TAG" */
    int64_t offset;
    int32_t max;        /* 32 */
    int32_t suspend_ms; /* 0: answers at once; else up to this long when there is nothing */
};
int zc_pull(struct zc_client *client, const struct zc_pull *pull, struct zc_messages **ret, struct zc_err *err);
int zc_offset_max(struct zc_client *client, const struct zc_queue *queue, int64_t *ret, struct zc_err *err);
int zc_offset_min(struct zc_client *client, const struct zc_queue *queue, int64_t *ret, struct zc_err *err);
int zc_offset_by_time(struct zc_client *client, const struct zc_queue *queue, int64_t ms, int64_t *ret,
                      struct zc_err *err);
/* Committed offset of a group; the server's code 22 when there is none. */
int zc_offset_query(struct zc_client *client, const char *group, const struct zc_queue *queue, int64_t *ret,
                    struct zc_err *err);
int zc_offset_commit(struct zc_client *client, const char *group, const struct zc_queue *queue, int64_t offset,
                     struct zc_err *err);

/* ---- look-ups ---- */
/* By offset id (asks the broker inside it) or, with topic given, by unique id. */
int zc_view(struct zc_client *client, const char *topic, const char *id, struct zc_messages **ret, struct zc_err *err);
/* By key in KEYS (unique == 0) or by UNIQ_KEY, at all brokers of the topic; begin and end in ms, 0 0: all times. */
int zc_query(struct zc_client *client, const char *topic, const char *key, uint32_t unique, uint32_t max,
             int64_t begin_ms, int64_t end_ms, struct zc_messages **ret, struct zc_err *err);

/* ---- admin ---- */
struct zc_reply {
    const struct zl_json *root; /* NULL: the answer had no body */
    struct zl_json_doc *doc;
    struct zc_response *response;
};
void zc_reply_free(struct zc_reply *reply);
/* A call whose answer's body is JSON. addr NULL: a name server. */
int zc_admin_call(struct zc_client *client, const char *addr, const struct zc_request *request, struct zc_reply *ret,
                  struct zc_err *err);
struct zc_topic_config {
    const char *topic;
    const char *attributes; /* "+message.type=FIFO", or NULL */
    int32_t read, write;    /* 8 */
    int32_t perm;           /* 6 */
    uint32_t order;
    int32_t sys_flag; /* 1 unit, 2 has unit subscriptions */
    uint32_t reserved;
};
int zc_admin_update_topic(struct zc_client *client, const char *broker_addr, const struct zc_topic_config *config,
                          struct zc_err *err);
int zc_admin_delete_topic_in_broker(struct zc_client *client, const char *broker_addr, const char *topic,
                                    struct zc_err *err);
/* In all name servers; cluster NULL: wholly. */
int zc_admin_delete_topic_in_namesrv(struct zc_client *client, const char *topic, const char *cluster,
                                     struct zc_err *err);
int zc_admin_topic_list(struct zc_client *client, const char *cluster, struct zc_reply *ret, struct zc_err *err);
int zc_admin_cluster(struct zc_client *client, struct zc_reply *ret, struct zc_err *err);
int zc_admin_runtime(struct zc_client *client, const char *broker_addr, struct zc_reply *ret, struct zc_err *err);
int zc_admin_topic_stats(struct zc_client *client, const char *broker_addr, const char *topic, struct zc_reply *ret,
                         struct zc_err *err);
/* Groups that have an offset of the topic, or are online with it. */
int zc_admin_topic_groups(struct zc_client *client, const char *broker_addr, const char *topic, struct zc_reply *ret,
                          struct zc_err *err);
int zc_admin_topic_config(struct zc_client *client, const char *broker_addr, const char *topic, struct zc_reply *ret,
                          struct zc_err *err);
/* topic NULL: all topics of the group. */
int zc_admin_consume_stats(struct zc_client *client, const char *broker_addr, const char *group, const char *topic,
                           struct zc_reply *ret, struct zc_err *err);
int zc_admin_consumer_connections(struct zc_client *client, const char *broker_addr, const char *group,
                                  struct zc_reply *ret, struct zc_err *err);
int zc_admin_groups(struct zc_client *client, const char *broker_addr, struct zc_reply *ret, struct zc_err *err);
/* json: a SubscriptionGroupConfig. */
int zc_admin_update_group(struct zc_client *client, const char *broker_addr, struct zr_str json, struct zc_err *err);
int zc_admin_delete_group(struct zc_client *client, const char *broker_addr, const char *group, uint32_t clean_offsets,
                          struct zc_err *err);
/* Name server's key-value table; *ret is malloc'ed text. Put and delete go to all name servers. */
int zc_admin_kv_get(struct zc_client *client, const char *ns, const char *key, char **ret, struct zc_err *err);
int zc_admin_kv_put(struct zc_client *client, const char *ns, const char *key, const char *value, struct zc_err *err);
#ifdef __cplusplus
}
#endif
#endif
