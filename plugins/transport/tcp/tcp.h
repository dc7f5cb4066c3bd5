/* SPDX-License-Identifier: Apache-2.0 */
/* tcp.h - the parts of transport-tcp as they see each other.
 *
 * What stays true:
 *   1. Every connection belongs to one lane for life. Its stage, input, place in the wheel and its end are the lane
 *      thread's alone; other threads only queue output, set `ending` and post the connection to the lane.
 *   2. A file descriptor is closed only by its lane, under the connection's lock, after all events of the batch were
 *      looked at. So no event and no writer ever meets a number that was given out again.
 *   3. sink.closed is called once for each opened that answered ZR_OK, and by the lane.
 *   4. A connection's memory lives while somebody holds a reference: the transport (until closed was called), the kernel
 *      (from opened until release), the lane's inbox (while posted), a name look-up under way.
 *   5. Input memory given to data in a turn is neither moved nor reused before turn_end returned.
 *
 * LOCKING. conn.lock guards fd, armed, the output queue and ending; it is held over non-blocking system calls, never over
 * calls to the host. lane.lock guards the inbox; it is a leaf and may be taken with conn.lock held. lookup.lock comes
 * before lane.lock. */
#ifndef TRANSPORT_TCP_H
#define TRANSPORT_TCP_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/socket.h>
#include "zarya/zarya.h"
#include "../common/address.h"
#include "../common/admit.h"
#include "../common/options.h"
#include "../common/queue.h"
#include "../common/report.h"
#include "../common/wheel.h"
#include "zl/text.h"

#define TCP_MAX_LISTENERS 64u
#define TCP_MAX_LANES 256u
#define TCP_EVENTS 128u               /* events looked at in one turn */
#define TCP_SMALL_BUFFER 4096u        /* a rest up to this size gives its large buffer back */
#define TCP_MAX_NEED (16u << 20)      /* the largest size a sink may ask for */
#define TCP_DRAIN_GRACE_NS 100000000ll
#define TCP_ACCEPT_BATCH 64u
#define TCP_DIAL_ADDRESSES 8u
#define TCP_MAX_DIALS 1024u           /* look-ups and connects under way in one instance */

struct tcp_settings {
    TR_SETTINGS;
    struct zr_list fast;
    int64_t threads, busy_poll, backlog, sndbuf, rcvbuf, proxy_protocol;
};
#define TCP_PROXY_OFF 0
#define TCP_PROXY_AUTO 1

/* A buffer of input: bytes[start, end) are not consumed. */
struct tcp_buf {
    struct tcp_buf *next;
    uint64_t cap, start, end;
    uint8_t bytes[];
};

struct tcp_lookup;

#define TCP_CONN_MAGIC 0x5a54434eu
enum tcp_stage {
    TCP_NEW,        /* not yet seen by its lane */
    TCP_RESOLVING,  /* outbound: the name is looked up on a worker */
    TCP_CONNECTING, /* outbound */
    TCP_DETECT,     /* inbound: what the first bytes are is not yet known, the kernel does not know it either */
    TCP_OPEN,
    TCP_FLUSHING,   /* ends when its output is written, or at a deadline */
    TCP_DEAD
};
#define TCP_POST_NEW 0x1u
#define TCP_POST_END 0x2u
#define TCP_POST_RESOLVED 0x4u
#define TCP_END_FLUSH 1u
#define TCP_END_NOW 2u

struct zr_conn {
    uint32_t magic;
    _Atomic uint32_t refs;
    struct tcp_lane *lane;
    /* the lane's */
    struct zr_session *session;
    struct tcp_buf *in;
    uint64_t need;
    struct zr_conn *all_prev, *all_next;
    struct tr_wheel_node wheel;
    int64_t deadline_ns; /* connecting, flushing */
    uint32_t stage;
    uint32_t listener;
    uint8_t first_seen, again, stalled, known; /* known: opened answered ZR_OK */
    struct tcp_lookup *lookup;
    void *dial_ctx;
    struct zr_addr *targets; /* outbound: addresses to try */
    uint32_t n_targets, target;
    char *dial_name;
    int dial_errno; /* of the last failed connect */
    struct zr_addr peer, local;
    /* lane.lock */
    struct zr_conn *post_next;
    uint32_t posted;
    /* this connection's lock */
    pthread_mutex_t lock;
    int fd;
    uint32_t armed; /* epoll events asked for */
    zr_status why;
    struct tr_queue queue;
    /* written under lock, read anywhere */
    _Atomic uint64_t queued;
    _Atomic uint32_t ending, paused;
    _Atomic int64_t active_ns;
};

struct tcp_listener {
    struct zr_listener pub;
    int fd, reserve;
    uint32_t index, resting; /* resting: taken out of epoll until rest_until */
    int64_t rest_until;
    struct tcp_lane *lane;
    char url[80];
};

#define TCP_LANE_START 0x1u
#define TCP_LANE_DRAIN 0x2u
#define TCP_LANE_STOP 0x4u
#define TCP_LANE_WOKEN 0x8u

struct tcp_lane {
    struct zr_inst *inst;
    uint32_t index;
    int epoll, event;
    uint64_t thread_id;
    pthread_t self;
    _Atomic uint32_t running, signalled, flags, n_conns;
    pthread_mutex_t lock;
    struct zr_conn *inbox, *inbox_last;
    /* the lane thread's */
    int64_t now_ns;
    struct zr_conn *all;
    struct tr_wheel wheel;
    struct tcp_buf *free_large, *free_small;
    uint32_t n_free_large, n_free_small;
    uint64_t input_held, input_told; /* bytes of buffers in connections; what the metric says */
    struct zr_conn *touched[2u * TCP_EVENTS];
    uint32_t n_touched, n_again, data_given;
    struct zr_conn **again;    /* whose sink left a whole rest */
    uint32_t cap_again;
    uint32_t draining, drained, own_news;
    uint32_t short_waits;      /* wait.c */
    int64_t drain_flush_ns;
};

struct zr_inst {
    const struct zr_host *host;
    const struct tcp_settings *set;
    const struct zr_work_v1 *work;
    const struct zr_sink_v1 *sink;
    struct tr_report report;
    struct tr_admit admit;
    struct tcp_listener *listeners;  /* array */
    struct zr_listener *published;   /* array of what listeners() gives */
    uint32_t n_listeners;
    struct tcp_lane *lanes;
    uint32_t n_lanes, serves, max_awake;
    _Atomic uint32_t n_dials, next_lane, closing, n_awake;
    _Atomic uint64_t output_mem;
    _Atomic uint32_t lanes_drained;
    struct zr_done drain_done;
};

/* lane.c - the reactor. */
zr_status tcp_lane_init(struct zr_inst *inst, struct tcp_lane *lane, uint32_t index);
void tcp_lane_fini(struct tcp_lane *lane);
void tcp_lane_run(void *lane);
void tcp_lane_close_all(struct tcp_lane *lane);
void tcp_lane_signal(struct tcp_lane *lane, uint32_t flags); /* any */
uint32_t tcp_lane_is_mine(const struct tcp_lane *lane);
/* Puts the connection (takes a reference) into its lane's inbox for what `post` says. */
void tcp_lane_post(struct zr_conn *conn, uint32_t post);
void tcp_lane_again(struct tcp_lane *lane, struct zr_conn *conn);
struct tcp_lane *tcp_lane_choose(struct zr_inst *inst); /* the one with the fewest connections */

/* wait.c - the events of a lane, at most TCP_EVENTS of them, within `ms` (-1: however long). */
struct epoll_event;
int tcp_lane_wait(struct tcp_lane *lane, struct epoll_event *events, int ms);

/* conn.c - life and end of a connection. */
struct zr_conn *tcp_conn_new(struct tcp_lane *lane, int fd);
void tcp_conn_hold(struct zr_conn *conn);
void tcp_conn_drop(struct zr_conn *conn);
void tcp_conn_adopt(struct zr_conn *conn);                    /* lane: an accepted one arrives */
zr_status tcp_conn_open(struct zr_conn *conn, const struct zr_field *attributes, uint32_t n, struct zr_str peer_name);
void tcp_conn_end(struct zr_conn *conn, zr_status why, uint32_t how); /* any; TCP_END_* */
void tcp_conn_ended(struct zr_conn *conn);                    /* lane: what tcp_conn_end asked for */
void tcp_conn_kill(struct zr_conn *conn);                     /* lane: no more events of this batch refer to it */
void tcp_conn_arm(struct zr_conn *conn, uint32_t events);     /* lock held */
void tcp_socket_tune(struct zr_inst *inst, int fd);

/* input.c - reading. */
void tcp_input_read(struct zr_conn *conn);
void tcp_input_deliver(struct zr_conn *conn);
void tcp_input_settle(struct zr_conn *conn);                  /* after turn_end */
void tcp_input_free(struct zr_conn *conn);
void tcp_input_pool_free(struct tcp_lane *lane);

/* output.c - writing. */
zr_status tcp_output_send(struct zr_inst *inst, struct zr_conn *conn, const struct zr_output *out);
void tcp_output_flush(struct zr_conn *conn);                  /* lane: the socket takes bytes again */
void tcp_output_discard(struct zr_conn *conn);                /* lane, when the socket is closed */

/* listen.c - binding and accepting. */
zr_status tcp_listeners_open(struct zr_inst *inst);
void tcp_listeners_close(struct zr_inst *inst);
void tcp_listener_start(struct tcp_listener *listener);       /* lane */
void tcp_listener_stop(struct tcp_listener *listener);        /* lane */
void tcp_listener_ready(struct tcp_listener *listener);       /* lane */
zr_status tcp_listen_check(const struct tcp_settings *set, char *why, size_t cap);

/* dial.c - connections we open. */
zr_status tcp_dial(struct zr_inst *inst, struct zr_str url, int64_t timeout_ns, void *dial_ctx);
void tcp_dial_begin(struct zr_conn *conn);                    /* lane: TCP_POST_NEW of an outbound one */
void tcp_dial_resolved(struct zr_conn *conn);                 /* lane */
void tcp_dial_ready(struct zr_conn *conn);                    /* lane: connected, or not */
void tcp_dial_fail(struct zr_conn *conn, zr_status why, const char *text); /* lane; ends the connection too */
void tcp_dial_cancel(struct zr_conn *conn);                   /* lane: an answer of the look-up is not wanted any more */
void tcp_dial_free(struct zr_conn *conn);
#endif
