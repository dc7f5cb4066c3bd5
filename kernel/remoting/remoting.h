/* SPDX-License-Identifier: Apache-2.0 */
/* remoting.h - sessions, dispatch of requests, answers, requests to clients and to other servers.
 *
 * LIFE OF A REQUEST. A transport's lane calls data; remoting cuts the frames, decodes each header in place into a zr_request
 * on the stack, looks the code up in the listener's flat table and calls the handler on the same thread (or copies the
 * request for the worker pool when the handler says ZR_HANDLER_WORKER). Answers given on the lane's own thread are encoded into
 * the lane's output and leave in one transport send for each session at turn end; answers from other threads are sent at once.
 *
 * TOKENS. zr_request.token points to a zr_token on the stack. Handlers inside the kernel may copy it by value when they answer
 * in the same turn (the session cannot go away before turn_end); everyone else calls zk_token_hold. */
#ifndef ZK_REMOTING_H
#define ZK_REMOTING_H
#include "core/core.h"
#include "zarya/zarya.h"

#define ZK_TOKEN_ONEWAY 0x1u /* no answer leaves */
#define ZK_TOKEN_HELD 0x2u   /* malloc'ed, owns a reference of the session */
#define ZK_TOKEN_BINARY 0x4u /* answer with a binary header */
#define ZK_TOKEN_USED 0x8u   /* answered, held or handed over; remoting's own mark on the token of the stack */
struct zr_token {
    struct zr_session *session;
    int32_t opaque;
    int32_t code;       /* of the request */
    uint32_t flags;     /* ZK_TOKEN_* */
    uint32_t reserved;
    int64_t arrived_ns;
};

/* A lane of a transport, as the kernel keeps it. One thread at a time. */
struct zk_lane {
    struct zk_instance *transport;
    uint32_t index;         /* within its transport */
    uint32_t id;            /* among all lanes of the process */
    struct zk_arena arena;  /* reset at the end of each turn */
    void *broker;           /* kernel/broker's per-lane state (append batch), made by its lane_opened */
    void *remoting;         /* remoting's own */
};
uint32_t zk_n_lanes(void);
struct zk_lane *zk_lane_at(uint32_t id);
struct zk_lane *zk_session_lane(struct zr_session *session);

/* What kernel/broker (or a unit test) hangs into remoting. Set before zk_remoting_start. */
struct zk_remoting_events {
    void (*lane_opened)(struct zk_lane *lane);             /* main, before the first call of the lane */
    void (*lane_closed)(struct zk_lane *lane);             /* main, after the last */
    void (*turn_end)(struct zk_lane *lane);                /* io; answers given in it still leave in this turn */
    void (*woken)(struct zk_lane *lane);                   /* io, after zk_lane_wake; answers leave at its end */
    void (*session_closed)(struct zr_session *session);    /* io; before references are dropped */
};
void zk_remoting_events_set(const struct zk_remoting_events *events);
void zk_lane_wake(struct zk_lane *lane); /* any */

/* Puts up zarya.reply/1 and zarya.call/1. Before the plugins are created. */
void zk_remoting_provide(void);
/* Adds the kernel's own handlers (ABI: zarya/requests.h; inst NULL). Before zk_remoting_start. */
void zk_remoting_add(const struct zr_handler *handlers, uint32_t n, const char *owner);
/* Have all handlers one code each? *ret_serves: the ZR_SERVES_* bits that somebody answers. Otherwise raised, and *ret_at is the
 * instance that came second (NULL: the kernel). After create; before zk_remoting_start. */
zr_status zk_remoting_check(const struct zk_instance **ret_at, uint32_t *ret_serves);
/* Builds the tables from all instances and the above; binds every transport. ZR_EEXIST: two handlers for one code (raised).
 * main, after all instances are warm and before the first is activated. */
zr_status zk_remoting_start(void);
/* Fails all asks and calls with ZR_ECLOSED, closes every session after its output, calls lane_closed for each lane. main, while
 * the transports are still active (before drain). Sink calls may still follow and do nothing; sessions that somebody holds
 * stay valid until released, which must be before their transport is destroyed. */
void zk_remoting_stop(void);
uint64_t zk_n_sessions(void); /* open ones, both directions */

/* Answers; the token is used up (a held one is freed). Same contract as zarya.reply/1. Copies everything it needs. */
zr_status zk_answer(struct zr_token *token, const struct zr_command *response);
/* code and remark only; fmt NULL: no remark. */
zr_status zk_answer_code(struct zr_token *token, int32_t code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
struct zr_token *zk_token_hold(struct zr_token *token);
void zk_token_drop(struct zr_token *token);

zr_status zk_tell(struct zr_session *session, const struct zr_command *request);
zr_status zk_ask(struct zr_session *session, const struct zr_command *request, int64_t timeout_ns,
                 void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response), void *ctx);

struct zr_session *zk_session_hold(struct zr_session *session); /* any */
void zk_session_release(struct zr_session *session);
void zk_session_close(struct zr_session *session);
/* What the broker learns of a session: it acts as a consumer; a heartbeat said whose it is. */
#define ZK_CONSUMES 1u
#define ZK_NAMED 2u
void zk_session_know(struct zr_session *session, uint32_t what);
uint32_t zk_session_returned(struct zr_session *session); /* zarya.reply/1 session_returned */
void zk_session_info(struct zr_session *session, struct zr_session_info *ret);
/* Bytes queued towards the client and not yet written. */
uint64_t zk_session_queued(struct zr_session *session);
/* kernel/broker's own pointer in a session (its memberships). */
void *zk_session_broker(struct zr_session *session);
void zk_session_set_broker(struct zr_session *session, void *p);
#endif
