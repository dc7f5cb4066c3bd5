/* SPDX-License-Identifier: Apache-2.0 */
/* fake.h - a transport in memory, and a kernel around kernel/remoting that is just large enough.
 *
 * Without fake_threads, the test itself is the lanes' thread: it calls fake_data, fake_turn_end, and fake_pump for what the kernel
 * asked for meanwhile (wakes, closes). With it, each lane has a thread that does those, and tests inject frames. */
#ifndef FAKE_H
#define FAKE_H
#ifdef __SANITIZE_THREAD__
#include "plain.h"
#else
#include <criterion/criterion.h>
#include <criterion/logging.h>
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include "plugin/instance.h"
#include "remoting/remoting.h"
#include "zl/codec.h"

#define FAKE_LANES 2u
#define FAKE_LISTENERS 3u /* 0 broker, 1 broker-fast, 2 routing */
#define FAKE_HELD 64u

#define FAKE_JOB_DATA 0u
#define FAKE_JOB_OPEN 1u
#define FAKE_JOB_DIAL_OK 2u
#define FAKE_JOB_DIAL_FAIL 3u
struct fake_job { struct fake_job *next; struct zr_conn *conn; void *ctx; uint64_t len; uint32_t kind, reserved; uint8_t bytes[]; };
struct zr_conn {
    struct zr_conn *next;
    struct zr_session *session;
    struct zl_buf out;               /* all that was sent; lock */
    uint32_t n_sends, n_pieces;      /* lock */
    uint32_t lane, closed;
    _Atomic uint32_t closing, released, close_flush;
    void *dial_ctx;
    void (*on_frame)(struct zr_conn *conn, struct zr_span frame, void *ctx); /* threads: the other side, called for what is sent */
    void *on_frame_ctx;
    uint64_t seen;                   /* of out, by on_frame */
    pthread_mutex_t lock;
};
struct fake_dial { struct zr_conn *conn; void *ctx; uint32_t pending; char url[128]; };
struct fake_lane {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    uint32_t woken, stop, n_closing;
    struct fake_job *first, **last;
    pthread_t thread;
};
struct fake {
    struct zk_instance instance;
    struct zr_transport_v1 transport;
    struct zr_requests_v1 requests;
    const struct zr_sink_v1 *sink;
    struct zr_listener listeners[FAKE_LISTENERS];
    struct fake_lane lanes[FAKE_LANES];
    struct zr_conn *conns;           /* lock */
    pthread_mutex_t lock;
    pthread_cond_t opened;
    struct fake_dial dials[16];
    uint32_t n_dials, n_conns, threads;
    _Atomic uint32_t n_released;
    zr_status send_answers;          /* what send says; ZR_OK */
    zr_status dial_answers;          /* what dial says; ZR_PENDING */
    uint32_t hold_done;              /* done is kept for fake_done */
    struct { void (*done)(void *, zr_status); void *ctx; } held[FAKE_HELD];
    uint32_t n_held;
    /* threads: dials succeed and fail by turns, from the lanes' threads; connections get this other side */
    uint32_t auto_dial;
    void (*on_frame)(struct zr_conn *conn, struct zr_span frame, void *ctx);
};
extern struct fake fake;

/* hooks of ZR_POINT_REQUEST, as the chain would give them */
extern void (*fake_hook)(const struct zr_event *event, struct zr_verdict *verdict);

/* Starts core and remoting with these handlers of the instance "fake". */
void fake_start(const struct zr_handler *handlers, uint32_t n);
zr_status fake_try_start(const struct zr_handler *handlers, uint32_t n);
void fake_stop(void);
void fake_threads(void); /* after fake_start */

struct zr_conn *fake_open(uint32_t lane, uint32_t listener);
zr_status fake_data(struct zr_conn *conn, const void *bytes, uint64_t len, uint64_t *ret_consumed);
void fake_turn_end(uint32_t lane);
void fake_pump(uint32_t lane); /* woken and closed that are due; once */
void fake_close(struct zr_conn *conn, zr_status why);
void fake_done(zr_status status); /* all that were held */
struct zr_conn *fake_dial_ok(uint32_t i, uint32_t lane);
void fake_dial_fail(uint32_t i, zr_status why, const char *text);
struct zr_conn *fake_open_threaded(uint32_t lane, uint32_t listener); /* waits until opened was called */
void fake_inject(struct zr_conn *conn, const void *bytes, uint64_t len); /* threads */

/* Frames. */
void fake_request(struct zl_buf *to, int32_t code, int32_t opaque, int32_t flag, uint32_t type, const char *text);
struct fake_frame { struct zl_header h; char scratch[4096]; };
/* The next frame that was sent on conn; 0: none. */
uint32_t fake_next(struct zr_conn *conn, struct fake_frame *ret);
/* Sends one request in a turn of its own, and says what came back. */
uint32_t fake_exchange(struct zr_conn *conn, int32_t code, int32_t flag, uint32_t type, const char *text, struct fake_frame *ret);
#define FAKE_STR(s) (int)(s).len, (s).ptr
#endif
