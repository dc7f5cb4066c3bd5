/* SPDX-License-Identifier: Apache-2.0 */
/* nng.h - the parts of transport-nng as they see each other.
 *
 * nng owns sockets and threads; it is handed one read and one write at a time for each connection and calls back on threads of
 * its own. A lane is a mutex: the callback of a read takes it, gives the bytes to the sink, and ends the turn. Each lane has a
 * keeper, a thread for what no callback stands for: arrivals, wakes, deadlines, ends.
 *
 * What stays true:
 *   1. Everything a lane does with the sink happens with its lock held; so its calls come one at a time.
 *   2. A connection dies in three steps: tng_conn_end (any thread) writes down what is wanted and posts it; the keeper closes
 *      the stream, which brings both callbacks home; when neither read nor write is under way, the keeper calls closed, and
 *      frees it outside of the lane's lock, since freeing waits for callbacks that may want that lock.
 *   3. No read is begun on a stream that was closed (stage, under lane.lock), and no write (shut, under conn.lock): nng would
 *      keep it forever.
 *   4. A buffer given to nng is not touched until its callback; one given to the sink not before turn_end returned.
 *
 * LOCKING, in this order: lane.lock (held over calls to the sink), then conn.lock, then lane.news_lock. Functions of the
 * transport's interface, which the sink may call from within, take only the last two. */
#ifndef TRANSPORT_NNG_H
#define TRANSPORT_NNG_H
#include <nng/nng.h>
#include <pthread.h>
#include <stdatomic.h>
#include "../common/address.h"
#include "../common/admit.h"
#include "../common/options.h"
#include "../common/queue.h"
#include "../common/report.h"
#include "../common/wheel.h"
#include "zarya/zarya.h"
#include "zl/text.h"

#define TNG_MAX_LISTENERS 64u
#define TNG_MAX_LANES 64u
#define TNG_SMALL 4096u              /* the buffer of a connection that is quiet */
#define TNG_MAX_NEED (16u << 20)
#define TNG_IOVS 8u                  /* as many as an nng_aio takes */
#define TNG_BOUNCE (64u << 10)       /* file pieces are read in parts of this size */
#define TNG_MAX_DIALS 1024u
#define TNG_MAX_URL 280u
#define TNG_REST_MS 100
#define TNG_DRAIN_GRACE_NS 100000000ll

struct tng_settings {
    TR_SETTINGS;
    int64_t lanes;
};

enum tng_stage {
    TNG_NEW,
    TNG_DIALING,
    TNG_OPEN,
    TNG_FLUSHING, /* ends when its output is written, or at a deadline */
    TNG_CLOSING,  /* the stream is closed, callbacks are on their way */
    TNG_DEAD
};
#define TNG_POST_NEW 0x1u
#define TNG_POST_END 0x2u
#define TNG_POST_DIALED 0x4u
#define TNG_POST_RESUME 0x8u
#define TNG_END_FLUSH 1u
#define TNG_END_NOW 2u

struct zr_conn {
    _Atomic uint32_t refs;
    uint32_t listener;
    struct tng_lane *lane;
    nng_stream *stream;
    nng_stream_dialer *dialers[2]; /* of a name: for IPv4, for IPv6; the second may be NULL */
    nng_aio *rx, *tx, *dialing;
    void *dial_ctx;
    char *dial_url;
    struct zr_addr peer, local;
    /* lane.lock */
    struct zr_session *session;
    uint8_t *in;
    uint64_t cap, start, end, need;
    struct zr_conn *all_prev, *all_next, *dead_next;
    struct tr_wheel_node wheel;
    int64_t deadline_ns;
    uint32_t stage;
    uint8_t reading, dial_under_way, known, stalled, hungry; /* hungry: the last read filled all the room there was */
    uint8_t dialer; /* the one in use */
    uint8_t pad[2];
    /* lane.news_lock */
    struct zr_conn *post_next;
    uint32_t posted;
    /* lock */
    pthread_mutex_t lock;
    struct tr_queue queue;
    uint8_t *bounce;
    uint32_t writing, shut;
    zr_status why;
    /* written under lock, read anywhere */
    _Atomic uint64_t queued;
    _Atomic uint32_t ending, paused;
    _Atomic int64_t active_ns;
};

struct tng_listener {
    struct zr_inst *inst;
    nng_stream_listener *listener;
    nng_aio *accepting, *resting;
    uint32_t index;
    char url[160];
};

#define TNG_LANE_WOKEN 0x1u
#define TNG_LANE_DRAIN 0x2u
#define TNG_LANE_STOP 0x4u

struct tng_lane {
    struct zr_inst *inst;
    uint32_t index;
    uint64_t thread_id;
    _Atomic uint32_t n_conns;
    pthread_mutex_t news_lock;
    pthread_cond_t news;
    struct zr_conn *inbox, *inbox_last;
    uint32_t flags;
    /* lock */
    pthread_mutex_t lock;
    int64_t now_ns;
    struct zr_conn *all, *dead;
    struct tr_wheel wheel;
    uint64_t input_held, input_told;
    uint32_t draining, drained;
    int64_t drain_flush_ns;
};

struct zr_inst {
    const struct zr_host *host;
    const struct tng_settings *set;
    const struct zr_work_v1 *work;
    const struct zr_sink_v1 *sink;
    struct tr_report report;
    struct tr_admit admit;
    struct tng_listener *listeners;
    struct zr_listener *published;
    uint32_t n_listeners;
    struct tng_lane *lanes;
    uint32_t n_lanes, serves;
    _Atomic uint32_t n_dials, next_lane, closing, lanes_drained;
    _Atomic uint64_t output_mem;
    struct zr_done drain_done;
};

/* lane.c */
void tng_lane_init(struct zr_inst *inst, struct tng_lane *lane, uint32_t index);
void tng_lane_fini(struct tng_lane *lane);
void tng_lane_run(void *lane);
void tng_lane_signal(struct tng_lane *lane, uint32_t flags);
void tng_lane_post(struct zr_conn *conn, uint32_t post);
struct tng_lane *tng_lane_choose(struct zr_inst *inst); /* the one with the fewest connections; counts one more there */

/* conn.c */
struct zr_conn *tng_conn_new(struct tng_lane *lane);
void tng_conn_hold(struct zr_conn *conn);
void tng_conn_drop(struct zr_conn *conn);
void tng_conn_arrive(struct zr_conn *conn);                    /* lane.lock */
void tng_conn_open(struct zr_conn *conn);                      /* lane.lock */
void tng_conn_end(struct zr_conn *conn, zr_status why, uint32_t how); /* any */
void tng_conn_ended(struct zr_conn *conn);                     /* lane.lock: one step towards its end */
void tng_conn_free_dead(struct zr_conn *dead);                 /* no lock */
void tng_conn_addresses(struct zr_conn *conn);
int tng_conn_aios(struct zr_conn *conn);                       /* an nng error */

/* input.c; lane.lock */
void tng_input_begin(struct zr_conn *conn);                    /* the next read, if there may be one */
void tng_input_callback(void *conn);
void tng_input_resume(struct zr_conn *conn);
void tng_input_free(struct zr_conn *conn);

/* output.c */
zr_status tng_output_send(struct zr_inst *inst, struct zr_conn *conn, const struct zr_output *out);
void tng_output_callback(void *conn);
void tng_output_discard(struct zr_conn *conn);

/* listen.c */
zr_status tng_listen_check(const struct tng_settings *set, char *why, size_t cap);
zr_status tng_listeners_open(struct zr_inst *inst);
void tng_listeners_start(struct zr_inst *inst);
void tng_listeners_stop(struct zr_inst *inst);                 /* main; waits for callbacks */
void tng_listeners_free(struct zr_inst *inst);

/* dial.c */
zr_status tng_dial(struct zr_inst *inst, struct zr_str url, int64_t timeout_ns, void *dial_ctx);
void tng_dial_begin(struct zr_conn *conn);                     /* lane.lock */
void tng_dial_done(struct zr_conn *conn);                      /* lane.lock */
#endif
