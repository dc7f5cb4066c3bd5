/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of the client owe each other.
 *
 *   io.c          connections, requests under way, the I/O thread          (struct zc_io)
 *   nameserver.c  where the name servers are                               (struct zc_names)
 *   route.c       route answers and the cache of routes in use             (struct zc_routes)
 *   client.c      ties them together; the service thread with its timers; requests that servers send
 *   message.c     properties, records, compression
 *   producer.c, consumer.c, rebalance.c, offsets.c, pull.c, admin.c        what users call
 *
 * LOCKING: each part has locks of its own, named where they stand. A part may call "down" (consumer -> route ->
 * nameserver
 * -> io) while it holds none of its locks; callbacks come "up" with no lock held. */
#ifndef ZC_INTERNAL_H
#define ZC_INTERNAL_H
#include "zarya/reply.h"
#include "zc/client.h"
#include "zl/buf.h"
#include "zl/codec.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define ZC_MAX_UNDER_WAY 65535u        /* requests without their answer yet */
#define ZC_MAX_OUT (64u * 1024 * 1024) /* bytes waiting on one connection */
#define ZC_MAX_CONNS 1024u
#define ZC_MAX_ROUTES 65536u
#define ZC_MAX_NAMESRVS 32u

/* ---- errors: sets *err when it is there, returns code ---- */
int zc_fail(struct zc_err *err, int32_t code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int zc_fail_response(struct zc_err *err, const struct zc_response *response); /* code and remark of an answer */
static inline int zc_copy_name(char *to, struct zr_str s)
{
    if (s.len >= ZC_NAME_MAX) return -1;
    if (s.len) memcpy(to, s.ptr, s.len);
    to[s.len] = 0;
    return 0;
}

static inline uint32_t zc_same_queue(const struct zc_queue *a, const struct zc_queue *b)
{
    return a->queue_id == b->queue_id && strcmp(a->broker, b->broker) == 0 && strcmp(a->topic, b->topic) == 0;
}

static inline int64_t zc_now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}
static inline int64_t zc_now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
#define ZC_MS 1000000ll

/* ---- io.c ---- */
struct zc_io;
/* on_request: a server's own request, on the I/O thread; it answers with zc_io_answer unless the request is oneway. */
struct zc_conn;
struct zc_io *zc_io_open(uint32_t header_type,
                         void (*on_request)(void *ctx, struct zc_conn *conn, const struct zl_header *request),
                         void *ctx, struct zc_err *err);
/* Requests under way end with ZC_ECLOSING. */
void zc_io_close(struct zc_io *io);
int zc_io_call(struct zc_io *io, const char *addr, const struct zc_request *request, int32_t timeout_ms,
               struct zc_response **ret, struct zc_err *err);
int zc_io_call_async(struct zc_io *io, const char *addr, const struct zc_request *request, int32_t timeout_ms,
                     zc_on_answer on_answer, void *ctx, struct zc_err *err);
/* Runs then(ctx, NULL, err) on the I/O thread after a while: err ZC_ETIMEOUT, or ZC_ECLOSING when the client ends
 * before. */
int zc_io_after(struct zc_io *io, int32_t delay_ms, zc_on_answer then, void *ctx);
int zc_io_call_oneway(struct zc_io *io, const char *addr, const struct zc_request *request, struct zc_err *err);
void zc_io_answer(struct zc_io *io, struct zc_conn *conn, const struct zl_header *request,
                  const struct zr_command *response);
/* The version of the server at addr, from its last answer; -1: not known. */
int32_t zc_io_peer_version(struct zc_io *io, const char *addr);
/* Makes a response outlive its callback. NULL when memory ran out. */
struct zc_response *zc_response_copy(const struct zc_response *response);

/* ---- nameserver.c ---- */
struct zc_names {
    pthread_mutex_t lock; /* guards the rest; held over no call */
    char addrs[ZC_MAX_NAMESRVS][ZC_NAME_MAX];
    uint32_t n, current;
    uint32_t from_server; /* addresses come from the address server */
    char *url;
};
int zc_names_init(struct zc_names *names, const struct zc_options *options, struct zc_err *err);
void zc_names_fini(struct zc_names *names);
int zc_names_set(struct zc_names *names, const char *text, struct zc_err *err);
int zc_names_refresh(struct zc_names *names,
                     struct zc_err *err); /* asks the address server, if that is where they come from */
/* A call to one name server, the next one when it cannot be reached. */
int zc_names_call(struct zc_client *client, const struct zc_request *request, struct zc_response **ret,
                  struct zc_err *err);

/* ---- route.c ---- */
/* A topic's route in use, immutable once published. Counted: hold and release. */
struct zc_view {
    atomic_uint refs;
    uint32_t fallback; /* it is TBW102's: the topic does not exist yet */
    struct zc_route *route;
    struct zc_queue *write, *read;   /* sorted by broker, id */
    char (*write_addr)[ZC_NAME_MAX]; /* master of write[i] */
    uint32_t n_write, n_read;
};
struct zc_entry; /* of the cache */
struct zc_routes {
    pthread_mutex_t lock; /* guards the table; held over no call */
    struct zc_entry **slots;
    uint32_t n, n_slots;
};
int zc_routes_init(struct zc_routes *routes);
void zc_routes_fini(struct zc_routes *routes);
/* The cached route, asked for first if needed. topic_queues > 0: a producer asks, TBW102's route with so many queues
 * will do for an unknown topic. fresh: ask even if cached. */
int zc_routes_get(struct zc_client *client, const char *topic, uint32_t topic_queues, uint32_t fresh,
                  struct zc_view **ret, struct zc_err *err);
struct zc_view *zc_routes_cached(struct zc_client *client, const char *topic, uint32_t topic_queues);
void zc_view_release(struct zc_view *view);
/* Asks again for every route in use. Returns how many differ from before. */
uint32_t zc_routes_refresh(struct zc_client *client);
/* Calls fn for each broker address known from cached routes, each once; masters only, unless all. */
int zc_routes_each_broker(struct zc_client *client, uint32_t all,
                          int (*fn)(void *ctx, const char *name, const char *addr), void *ctx);

/* ---- client.c ---- */
struct zc_client {
    struct zc_options options; /* defaults filled in; texts owned elsewhere */
    char id[ZC_NAME_MAX];
    char stable_id[ZC_NAME_MAX]; /* the same after a restart: ip@instance, or ip@DEFAULT */
    struct zc_io *io;
    struct zc_names names;
    struct zc_routes routes;
    pthread_t service;
    pthread_mutex_t lock; /* guards what follows; the service thread holds it only while it decides what to do */
    pthread_cond_t wake;
    uint32_t stop, want_rebalance, want_heartbeat;
    atomic_uint again; /* a timer for another rebalance is under way: there is at most one */
    struct zc_producer *producers;
    struct zc_consumer *consumers;
    /* LOCKING: members guards the two lists; taken by the service thread for a whole round of heartbeats or rebalances,
     * so that no producer or consumer is freed under it. Never taken on the I/O thread. Order: members, then a
     * consumer's. */
    pthread_mutex_t members;
};
void zc_client_wake(struct zc_client *client, uint32_t rebalance, uint32_t heartbeat);
/* One heartbeat to every broker in use, now. Caller holds members. */
void zc_client_heartbeat(struct zc_client *client);
void zc_client_heartbeat_to(struct zc_client *client, const char *addr);
int zc_unregister(struct zc_client *client, const char *producer_group, const char *consumer_group);

/* ---- message.c ---- */
/* Writes msg's properties string. uniq: 32 characters. */
int zc_props_write(struct zl_buf *out, const struct zc_message *msg, const char *uniq, struct zc_err *err);
int zc_message_check(const struct zc_message *msg, int32_t max_size, struct zc_err *err);
/* Compresses in zlib's format. *ret is malloc'ed; 0 when it would not get smaller. */
uint64_t zc_deflate(struct zr_span body, uint8_t **ret);

/* ---- producer.c ---- */
struct zc_producer {
    struct zc_client *client;
    struct zc_producer *next;
    struct zc_producer_options options;
    char group[ZC_NAME_MAX];
    atomic_uint turn; /* round robin */
};

/* ---- consumer.c, rebalance.c: under client->members ---- */
void zc_consumer_describe(struct zc_consumer *consumer, struct zl_jw *w); /* its entry of a heartbeat */
void zc_consumer_rebalance(struct zc_consumer *consumer);
void zc_consumer_persist(struct zc_consumer *consumer);
void zc_consumer_lock_all(struct zc_consumer *consumer);
struct zc_consumer *zc_consumer_next(struct zc_consumer *consumer);
const char *zc_consumer_group(const struct zc_consumer *consumer);
/* Writes the running info's JSON of the consumer (request code 307). */
void zc_consumer_running(struct zc_consumer *consumer, struct zl_jw *w);

/* ---- pull.c ---- */
#define ZC_PULL_COMMIT 1
#define ZC_PULL_SUSPEND 2
#define ZC_PULL_SUBSCRIPTION 4
struct zc_pull_call {
    struct zr_field fields[16];
    char text[256];
    struct zc_request request;
};
void zc_pull_build(struct zc_pull_call *call, const char *group, const struct zc_queue *queue, int64_t offset,
                   int32_t max, int32_t sys_flag, int64_t commit, int32_t suspend_ms, const char *expression,
                   const char *type, int64_t sub_version);
int zc_pull_read(const struct zc_response *response, const char *broker, const char *tags, struct zc_messages **ret,
                 struct zc_err *err);
#endif
