/* SPDX-License-Identifier: Apache-2.0 */
/* internal.h - what the files of kernel/remoting share. Nobody outside this folder includes it.
 *
 * Who may touch what:
 *   lane      members of zk_lane_state and the out_ and turn_ members of a session: only inside a sink call of that lane,
 *             of which there is one at a time; no lock
 *   list      prev and next of a session: zk_lane_state.lock
 *   asks      asks and n_asks of a session: the lock of its shard (ask.c)
 *   static    lane, conn, table, ids, names: written before the session is seen by anyone else
 *   atomic    refs, open, version, language */
#ifndef ZK_REMOTING_INTERNAL_H
#define ZK_REMOTING_INTERNAL_H
#include <pthread.h>
#include <stdatomic.h>
#include "plugin/instance.h"
#include "remoting/remoting.h"
#include "zl/codec.h"

/* ---- limits: every queue and table of this folder. ZK_DEFAULT_ ones are options of the node (struct zk_limits) ---- */
#define ZK_MAX_LANES 1024u            /* of all transports */
#define ZK_MAX_HANDLERS 4096u
#define ZK_DIRECT_CODES 1024u         /* codes below are an array index, the others a hash */
#define ZK_MAX_SEGMENTS 1024u         /* of a lane's output; full: flushed early */
#define ZK_MAX_PIECES 4096u           /* of a lane's output; full: flushed early */
#define ZK_SEND_PIECES 64u            /* of one send of plain answers */
#define ZK_OUT_FLUSH (256u * 1024)    /* a lane's output beyond this is flushed before the turn ends */
#define ZK_OUT_KEEP (1024u * 1024)    /* a lane's buffer beyond this is given back after a flush */
#define ZK_OUT_MAX (ZK_OUT_FLUSH + ZL_FRAME_MAX + 65536u)
#define ZK_TURN_HEADERS (4u * 1024 * 1024) /* header bytes after which a turn is ended early: its text lives in the arena */
#define ZK_SCRATCH_BLOCK (16u * 1024)
#define ZK_ARENA_CHUNK (64u * 1024)
#define ZK_ARENA_MAX (64u * 1024 * 1024)
#define ZK_DEFAULT_JOBS 10000u        /* requests waiting for the worker pool, as Apache's admin executor */
#define ZK_DEFAULT_JOB_BYTES (128u * 1024 * 1024)
#define ZK_MAX_ASKS_SESSION 10000u    /* pending asks of one session */
#define ZK_MAX_ASKS 200000u           /* of all sessions */
#define ZK_MAX_PEERS 4096u            /* addresses that are called */
#define ZK_MAX_WAITING 10000u         /* calls waiting for one connection */
#define ZK_MAX_WAITING_BYTES (64u * 1024 * 1024) /* of all addresses */
#define ZK_URL_MAX 512u
#define ZK_NAME_MAX 256u              /* a peer's name */
#define ZK_DEFAULT_DIAL_NS (3000 * INT64_C(1000000)) /* as Apache's connectTimeoutMillis */
#define ZK_TIMEOUT_MAX_NS (86400 * INT64_C(1000000000))
#define ZK_NO_LISTENER UINT32_MAX

/* ---- handlers ----------------------------------------------------------------------------------------------------- */
struct zk_entry {
    struct zr_handler handler; /* full-size copy */
    struct zr_inst *inst;      /* NULL: the kernel's own */
    const char *owner;
    const struct zk_instance *from; /* NULL: the kernel */
};
/* All handlers of one set of serves bits. */
struct zk_table {
    struct zk_table *next;
    const struct zk_entry **hash; /* open addressing, at most half full */
    uint32_t hash_mask;
    uint32_t serves;
    const struct zk_entry *direct[ZK_DIRECT_CODES];
};
zr_status zk_codes_collect(void);
zr_status zk_codes_get(uint32_t serves, const struct zk_table **ret);
void zk_codes_free(void);
void zk_codes_forget(void); /* what zk_remoting_add gave */
const struct zk_entry *zk_codes_slow(const struct zk_table *table, int32_t code);
static inline const struct zk_entry *zk_codes_find(const struct zk_table *table, int32_t code)
{
    return (uint32_t)code < ZK_DIRECT_CODES ? table->direct[code] : zk_codes_slow(table, code);
}

/* ---- transports, lanes, sessions ---------------------------------------------------------------------------------- */
struct zk_port { /* one transport instance */
    struct zk_port *next;
    struct zk_instance *instance;
    const struct zr_transport_v1 *table;
    struct zr_inst *inst;
    struct zk_lane **lanes;
    const struct zk_table **tables; /* by listener */
    uint32_t *serves;               /* by listener */
    uint32_t n_lanes, n_listeners;
    uint32_t reserved;
    struct zr_sink_v1 sink;
};

/* A run of bytes of the lane's output for one session, with the pieces that follow it. Indices are + 1, 0 is none. */
struct zk_segment {
    struct zr_session *session;
    void (*done)(void *ctx, zr_status status); /* NULL: plain bytes */
    void *done_ctx;
    uint32_t off, len, next;
    uint32_t first_piece, n_pieces;
    uint32_t reserved;
};

struct zk_lane_state {
    struct zk_port *port;
    struct zl_buf out;
    struct zk_segment *segments; /* ZK_MAX_SEGMENTS */
    struct zr_piece *pieces;     /* ZK_MAX_PIECES, made when first used */
    uint32_t n_segments, n_pieces;
    uint32_t in_turn;            /* data was called, turn_end was not yet */
    uint32_t stopped;            /* nothing of the broker's is touched any more */
    struct zr_session *dead;     /* closed in this turn, kept until its end */
    struct zr_session *ready;    /* outbound, opened, not yet given to their calls */
    char *scratch;               /* rest of a block of the arena, for text of headers */
    uint64_t scratch_left;
    uint64_t header_bytes;       /* of this turn */
    uint64_t n_requests, bytes_in; /* not yet added to the metrics */
    pthread_mutex_t lock;        /* sessions, n_sessions */
    struct zr_session *sessions;
    uint32_t n_sessions, reserved;
    struct zl_header header;     /* of the frame at hand */
};

#define ZK_SESSION_OUTBOUND 0x1u
#define ZK_SESSION_READY 0x2u /* in the lane's ready list; lane */
#define ZK_SESSION_GIVEN 0x4u /* outbound: its peer has it; lane */

struct zk_ask;
struct zk_peer;
struct zr_session {
    struct zk_lane *lane;
    struct zk_port *port;
    struct zr_conn *conn;
    const struct zk_table *table;
    struct zk_peer *peer;
    void *broker;
    struct zr_session *prev, *next;
    struct zr_session *turn_next; /* in dead or ready */
    struct zk_ask *asks;
    uint64_t id;
    _Atomic uint32_t refs, open;
    _Atomic int32_t version, language;
    _Atomic uint32_t closing;     /* we asked for the end */
    _Atomic uint32_t known;       /* ZK_CONSUMES, ZK_NAMED */
    uint32_t left;                /* the peer ended it; set before open becomes 0 */
    uint32_t n_asks;
    uint32_t out_first, out_last;
    uint32_t serves;              /* of its requests */
    uint32_t listener_serves;     /* of its listener, 0 outbound */
    uint32_t flags;
    struct zr_addr peer_addr, local_addr;
    uint32_t name_len;
    char name[];
};
_Static_assert(sizeof(struct zr_session) <= 256, "an idle connection stays small");

static inline struct zk_lane_state *zk_lane_state(struct zk_lane *lane) { return (struct zk_lane_state *)lane->remoting; }
static inline uint32_t zk_session_open(struct zr_session *s) { return atomic_load_explicit(&s->open, memory_order_acquire); }

zr_status zk_session_new(struct zk_lane *lane, struct zr_conn *conn, const struct zr_conn_info *info, const struct zk_table *table,
                         uint32_t listener_serves, struct zr_session **ret);
/* closed: takes it off the list, fails its asks, and drops the lane's reference now or at the end of the turn. */
void zk_session_end(struct zr_session *s);
void zk_lane_bury(struct zk_lane *lane); /* drops the references of dead */

/* The lane whose sink call this thread is in, when answers for it are to be gathered; NULL else. */
extern _Thread_local struct zk_lane *zk_lane_now;
struct zk_lane *zk_lane_new(struct zk_port *port, uint32_t index, uint32_t id);
void zk_lane_free(struct zk_lane *lane);
void zk_lane_settle(struct zk_lane *lane); /* the end of a turn: flush, bury, count, reset */
void zk_sink_make(struct zr_sink_v1 *ret, struct zk_port *port);

/* ---- requests ------------------------------------------------------------------------------------------------------ */
void zk_dispatch(struct zr_session *s, struct zr_request *req);

/* ---- output -------------------------------------------------------------------------------------------------------- */
/* One command for one session: gathered when this thread is inside the session's lane, else sent at once. Whatever comes of
 * it, command->done was or will be called exactly once. ZR_ECLOSED, ZR_EFULL (larger than a frame may be, or the transport's
 * limit), ZR_ENOMEM, ZR_EINVAL. */
zr_status zk_out_command(struct zr_session *s, const struct zr_command *command, uint32_t type, int32_t flag, int32_t opaque);
/* The same for a frame encoded before; bytes are copied, pieces held until done. */
struct zk_packet {
    const uint8_t *bytes;
    uint64_t len;
    const struct zr_piece *pieces;
    void (*done)(void *ctx, zr_status status);
    void *done_ctx;
    uint32_t n_pieces, reserved;
};
zr_status zk_out_packet(struct zr_session *s, const struct zk_packet *packet);
void zk_lane_flush(struct zk_lane *lane);
/* The command as this build knows it: itself, or a copy with defaults behind what its author knew. NULL: no header. */
const struct zr_command *zk_command_full(const struct zr_command *command, struct zr_command *room);
uint64_t zk_pieces_len(const struct zr_piece *pieces, uint32_t n);

/* ---- asks ---------------------------------------------------------------------------------------------------------- */
/* Who is told. One of the two functions is set. */
struct zk_listener_of_ask {
    void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response);
    void (*on_call)(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text);
    void *ctx;
};
int32_t zk_opaque_next(void);
/* Enters an ask; the caller then sends the frame and calls zk_ask_sent with what came of it, which is what the asker is told. */
zr_status zk_ask_enter(struct zr_session *s, int32_t opaque, int64_t timeout_ns, const struct zk_listener_of_ask *to, struct zk_ask **ret);
zr_status zk_ask_sent(struct zk_ask *ask, zr_status status);
void zk_ask_answered(struct zr_session *s, const struct zr_request *response);
void zk_ask_fail_all(struct zr_session *s, zr_status status);
zr_status zk_ask_command(struct zr_session *s, const struct zr_command *request, int64_t timeout_ns, const struct zk_listener_of_ask *to);

/* ---- calls --------------------------------------------------------------------------------------------------------- */
/* opened of an outbound connection, before the session is made: ZR_ECLOSED when nobody wants it any more. */
zr_status zk_peer_wants(struct zk_peer *peer);
void zk_peer_ready(struct zr_session *s); /* inside the lane, after opened */
void zk_peer_lost(struct zr_session *s);
void zk_peer_dial_failed(struct zk_peer *peer, zr_status why, struct zr_str text);
void zk_call_stop(void);
extern const struct zr_call_v1 zk_call_table;

/* ---- the process --------------------------------------------------------------------------------------------------- */
struct zk_remoting_metrics {
    uint32_t requests, unknown, answers, bytes_in, bytes_out, malformed, connections, accepted, worker_queued, overloaded;
    uint32_t asks, asks_pending, asks_timeout, calls, calls_waiting, send_refused;
};
/* What an operator may set (section node); fixed while remoting runs. */
struct zk_limits {
    uint64_t frame, jobs, job_bytes;
    int64_t dial_ns;
};
struct zk_remoting {
    struct zk_limits limits;
    struct zk_remoting_events events;
    struct zk_remoting_metrics metrics;
    struct zk_port *ports;
    const struct zk_table *outbound; /* what a server may ask us: the broker's codes */
    struct zk_lane **lanes;
    uint32_t n_lanes;
    uint32_t started;
    _Atomic uint32_t stopping;
    _Atomic uint32_t quitting;       /* lanes confirm by `stopped` in their next woken */
    _Atomic uint64_t n_sessions, next_session;
    pthread_mutex_t lock;            /* of the conditions that stop waits for */
    pthread_cond_t changed;
    uint32_t n_stopped;              /* lanes; lock */
    uint32_t reserved;
};
extern struct zk_remoting zk_rem;
static inline uint32_t zk_stopping(void) { return atomic_load_explicit(&zk_rem.stopping, memory_order_acquire); }
void zk_rem_signal(void);
/* At most ten lines a second of a kind; *ret_missed says how many were left out before this one. */
struct zk_rate { _Atomic int64_t second; _Atomic uint32_t n, missed; };
uint32_t zk_rate_pass(struct zk_rate *rate, uint32_t *ret_missed);
#endif
