/* SPDX-License-Identifier: Apache-2.0 */
/* remote.h - the inside of routing-remote: what its files share.
 *
 *   remote.c    the plugin: options, life, zarya.registry/1, waiters
 *   peer.c      one name server: which step is next, what its answer means
 *   journal.c   which topics changed since when
 *   encode.c    registration bodies and header fields
 *   address.c   the list of name servers: configured, or asked for over HTTP
 *   order.c     the order configuration that comes back with a registration
 *   lookup.c    routes, asked of one name server after the other
 *
 * GENERATIONS. Every `changed` of the kernel gets the next number, inst->gen. A name server has acked_gen: everything up to it is known
 * there. The journal says which topics changed in between, as far back as it reaches; beyond that a full registration is due.
 *
 * LOCKING. inst->mutex guards everything in the instance, its peers, the journal and the waiters. It is never held during a call to
 * the host, nor during a waiter's on_done. A peer has one step under way at a time (peer->step), and only its own answer or
 * failure moves on; so building a body without the mutex is safe. */
#ifndef RM_REMOTE_H
#define RM_REMOTE_H
#include <pthread.h>
#include "../common/alarm.h"
#include "zarya/zarya.h"
#include "zl/buf.h"
#include "zl/codec.h"
#include "zl/json.h"
#include "zl/text.h"

#define RM_MAX_PEERS 16u
#define RM_MAX_URL 256u
#define RM_JOURNAL 4096u     /* changes remembered */
#define RM_MAX_PART 1024u    /* topics of one increment; more make it a full registration */
#define RM_MAX_WAITERS 65536u
#define RM_BODY_MAX (64u << 20)
#define RM_DEFLATE_ABOVE (8u << 20) /* a body that big is deflated without being asked for: frames end at 16 MiB */
#define RM_GOODBYE_NS (2ll * 1000000000)
#define RM_QUERY_NS (3ll * 1000000000)
#define RM_PATIENCE_NS (800ll * 1000000) /* less than the second that the kernel gives a registry as a whole */
#define RM_FETCH_SOON_NS (10ll * 1000000000) /* at the latest, while no address is known */
#define RM_BACKOFF_FIRST_NS (1ll * 1000000000)
#define RM_BACKOFF_MAX_NS (30ll * 1000000000)

#define RM_CODE_REGISTER 103
#define RM_CODE_UNREGISTER 104
#define RM_CODE_ROUTE 105
#define RM_CODE_QUERY_DATA_VERSION 322
#define RM_CODE_NO_TOPIC 17

struct rm_settings {
    struct zr_list namesrv;
    struct zr_str domain, subgroup, unit;
    int64_t period_ms, heartbeat_ms, timeout_ms, fetch_ms;
    uint8_t fetch_address, compressed, force;
};

#define RM_IDLE 0u
#define RM_QUERY 1u /* 322: are you at my version? also the heartbeat */
#define RM_PART 2u  /* 103 with the changed topics */
#define RM_FULL 3u  /* 103 with all */
struct rm_peer {
    struct rm_peer *next;
    struct zr_inst *inst;
    uint32_t refs;       /* the list's, and one for each step or call under way */
    uint32_t gone;       /* no longer in the list */
    uint32_t step;       /* RM_* under way */
    uint32_t registered; /* it took a registration since the last failure of one */
    uint32_t failures;   /* in a row; > 0: the last attempt failed, and it holds nobody up */
    uint32_t silent;     /* a waiter's patience with it ran out: holds nobody up until it answers */
    uint32_t full_due;   /* whatever the generations say */
    uint32_t agreed;     /* it just said that it is at acked_version: an increment may follow */
    uint32_t mute;       /* does not know 322 */
    int64_t next_at;     /* mono; not before when failing, at the latest for the next word otherwise */
    int64_t full_at;     /* mono; when `force` wants the next full registration */
    uint64_t sent_gen, acked_gen;
    struct zr_data_version sent_version, acked_version;
    uint32_t url_len;
    char url[RM_MAX_URL];
};
struct rm_change { uint64_t gen; char *name; uint64_t len; };
struct rm_waiter {
    struct rm_waiter *next;
    uint64_t gen;
    void (*on_done)(void *ctx, zr_status status);
    void *ctx;
    zr_status status; /* when it is taken off the list */
    int64_t until;    /* mono; name servers that have not answered by then are not waited for */
};
struct zr_inst {
    const struct zr_host *host;
    const struct zr_call_v1 *call;
    const struct zr_broker_v1 *broker; /* NULL: nothing to announce */
    const struct zr_timer_v1 *timer;
    const struct zr_work_v1 *work;
    const struct zr_log_v1 *log;
    const struct zr_metrics_v1 *metrics;
    uint32_t first_metric, reserved;
    const struct rm_settings *set;

    pthread_mutex_t mutex;
    pthread_cond_t idle; /* under_way became 0 */
    struct rt_alarm alarm;
    struct rm_peer *peers;
    uint32_t n_peers;
    uint32_t under_way; /* steps, calls, jobs */
    uint32_t announced; /* the kernel spoke once: the broker's address is known */
    uint32_t draining, fetching;
    int64_t fetch_at;
    uint64_t gen, journal_floor; /* changes up to journal_floor are not in the journal */
    struct rm_change journal[RM_JOURNAL];
    uint64_t journal_at, journal_n; /* next to write, how many hold */
    struct rm_waiter *waiters, **waiters_end; /* by gen */
    uint32_t n_waiters, goodbyes;
    struct zr_done drained;
};

#define RM_METRIC_BYTES 0u
#define RM_METRIC_HEARTBEATS 1u
#define RM_METRIC_FULL 2u
#define RM_METRIC_PART 3u
#define RM_METRIC_FAILED 4u
#define RM_METRIC_PEERS 5u
#define RM_METRIC_REGISTERED 6u

/* ---- remote.c ---- */
void rm_log(struct zr_inst *inst, uint32_t level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void rm_count(struct zr_inst *inst, uint32_t metric, int64_t n);
void rm_gauges(struct zr_inst *inst);
/* Has fn(arg) run on the pool, or here when the pool is full. fn ends with rm_leave. */
void rm_enter_locked(struct zr_inst *inst);
void rm_leave(struct zr_inst *inst);
void rm_job(struct zr_inst *inst, void (*fn)(void *arg), void *arg);
/* Takes waiters off that nothing holds up any more, as a list for rm_waiters_tell. */
struct rm_waiter *rm_waiters_take_locked(struct zr_inst *inst);
void rm_waiters_tell(struct rm_waiter *list);

/* ---- peer.c ---- */
/* Starts what is due for every idle peer; small steps on this thread, full registrations on the pool. */
void rm_peers_go(struct zr_inst *inst);
/* The next time that something is due; mutex held. */
int64_t rm_peers_next_locked(struct zr_inst *inst);
void rm_peer_unref_locked(struct rm_peer *peer);
/* Sends 104 to every peer that knows us; inst->drained is answered after the last answer. */
void rm_peers_goodbye(struct zr_inst *inst);

/* ---- journal.c ---- all with the mutex */
void rm_journal_add(struct zr_inst *inst, const struct zr_str *topics, uint32_t n); /* n 0: everything; moves gen */
/* Names changed after gen, each once, as copies in names (at most RM_MAX_PART). 0: too many, or too long ago. ZR_OK and *ret_n. */
zr_status rm_journal_since(struct zr_inst *inst, uint64_t gen, struct zr_str *names, uint32_t *ret_n);
void rm_journal_free(struct zr_inst *inst);

/* ---- encode.c ---- */
struct rm_message { /* a request with the memory it points to */
    struct zr_command command;
    struct zl_fields fields;
    struct zl_buf body;
    struct zr_identity who;
    struct zr_data_version version; /* what the body says */
    uint32_t n_topics;
};
/* names NULL: all topics. ZR_OK, ZR_ENOMEM, ZR_EFULL (too big for a frame). End it with rm_message_free. */
zr_status rm_encode_register(struct zr_inst *inst, const struct zr_str *names, uint32_t n, struct rm_message *ret);
void rm_encode_query(struct zr_inst *inst, struct rm_message *ret);
void rm_encode_unregister(struct zr_inst *inst, struct rm_message *ret);
void rm_message_free(struct rm_message *message);
/* Bytes of the frame on the wire (JSON header). */
uint64_t rm_message_size(const struct rm_message *message);

/* ---- address.c ---- */
zr_status rm_addresses_check(const struct rm_settings *set, char *why, uint64_t cap);
void rm_addresses_load(struct zr_inst *inst); /* the configured ones */
void rm_fetch_go(struct zr_inst *inst);       /* asks the address server if it is time */
uint32_t rm_fetches(const struct rm_settings *set);

/* ---- order.c ---- */
/* Topics that the answer to a registration names as ordered are marked so, if they are not yet. */
void rm_order_apply(struct zr_inst *inst, struct zr_span body);

/* ---- lookup.c ---- */
void rm_lookup(struct zr_inst *inst, struct zr_str topic, void (*on_route)(void *ctx, zr_status status, const struct zr_route *route), void *ctx);
#endif
