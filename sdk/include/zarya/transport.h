/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/transport.h - interface zarya.transport/1: connections and their bytes.
 *
 * A transport owns sockets (or pipes, or whatever a library gives it) and buffers; the kernel cuts frames and speaks the
 * protocol. Two shapes fit: a byte stream (TCP; the kernel is handed what was read and says how much of it it used) and
 * whole messages (nng's message mode: ZR_TRANSPORT_MESSAGE; each data call is exactly one frame).
 *
 * LANES. A transport has a fixed number of lanes, 0 .. lanes() - 1. Every connection belongs to one lane for life. All sink
 * calls of one lane are made one at a time (a reactor thread, or a library's callback threads under a lock of the lane);
 * different lanes run in parallel. The thread inside a lane is context `io`: it must not be blocked. The kernel keeps its
 * per-thread state (arenas, the append batch) by lane.
 *
 * TURNS. A transport reads what is there on its ready connections, calls data for each, and then turn_end once for the lane.
 * The kernel may put off work (one append for all the sends of the turn) and the answers to turn_end. Therefore: every span
 * passed to data stays valid, and at its address, until turn_end returned; and turn_end follows every data without delay.
 *
 * BACK-PRESSURE. When more than its high mark of output is queued on a connection, the transport stops reading that
 * connection until the queue is below the low mark. Above its hard limit, send refuses with ZR_EFULL and the transport
 * closes the connection. */
#ifndef ZARYA_TRANSPORT_H
#define ZARYA_TRANSPORT_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_IF_TRANSPORT "zarya.transport/1"
#define ZR_TRANSPORT_STREAM 0x1u
#define ZR_TRANSPORT_MESSAGE 0x2u
#define ZR_TRANSPORT_FILES 0x4u /* send takes file pieces without copying (sendfile) */
#define ZR_TRANSPORT_DIAL 0x8u  /* dial works */

/* What a listener serves; each listener has its own table of request codes built from this. */
#define ZR_SERVES_BROKER 0x1u  /* the broker's main port, every broker code: "broker" */
#define ZR_SERVES_FAST 0x2u    /* the fast (VIP) port, no pulls: "broker-fast" */
#define ZR_SERVES_ROUTING 0x4u /* the name server: "routing" */

struct zr_listener {
    struct zr_hdr hdr;
    struct zr_str url; /* as bound, with the real port: "tcp://127.0.0.1:10911"; static */
    struct zr_addr addr; /* family 0 when it is no IP address */
    uint32_t serves;     /* ZR_SERVES_* */
};

#define ZR_CONN_OUTBOUND 0x1u
struct zr_conn_info {
    struct zr_hdr hdr;
    struct zr_addr peer, local;   /* of the socket; family 0 when there is none (ipc) */
    struct zr_str peer_name;      /* "127.0.0.1:52114" or "[::1]:52114", after a PROXY header the address in it; borrow */
    const struct zr_field *attributes; /* PROXY protocol's, as "proxy_protocol_addr"; borrow */
    void *dial_ctx;               /* outbound: what dial was given */
    uint32_t n_attributes;
    uint32_t lane;
    uint32_t listener;            /* index into listeners(); outbound: UINT32_MAX */
    uint32_t flags;               /* ZR_CONN_* */
};

/* What the transport calls; the kernel's. Given to bind, static from then on. */
struct zr_sink_v1 {
    struct zr_hdr hdr;
    void *ctx;
    /* A connection is there. *ret_session is passed to the calls below. Anything but ZR_OK: close it, no further call for it. */
    ZR_ON(io) zr_status (*opened)(void *ctx, struct zr_conn *conn, const struct zr_conn_info *info, struct zr_session **ret_session);
    /* Bytes that follow what was consumed so far; may hold many frames and part of one. *ret_consumed of them are used up; the
     * rest is passed again, in front of what comes next, once there are at least *ret_need bytes in all (a size the transport
     * must make room for; at most 16 MiB). Anything but ZR_OK: framing is lost, close this connection. */
    ZR_ON(io) zr_status (*data)(void *ctx, struct zr_session *session, struct zr_span bytes, uint64_t *ret_consumed, uint64_t *ret_need);
    ZR_ON(io) void (*turn_end)(void *ctx, uint32_t lane);
    /* wake() was called for this lane. turn_end need not follow. */
    ZR_ON(io) void (*woken)(void *ctx, uint32_t lane);
    /* The connection is gone; the last call for it. why: ZR_ECLOSED by the peer, ZR_ETIMEOUT idle, ZR_EFULL output limit, ZR_EIO ... */
    ZR_ON(io) void (*closed)(void *ctx, struct zr_session *session, zr_status why);
    /* A dial came to nothing. */
    ZR_ON(io) void (*dial_failed)(void *ctx, void *dial_ctx, zr_status why, struct zr_str text);
};

/* frozen: one piece of output. fd < 0: len bytes at ptr. fd >= 0: len bytes at off of that file, and if ptr is not NULL the
 * same bytes in memory too: the transport takes what is cheaper. */
struct zr_piece { const uint8_t *ptr; uint64_t len; int64_t off; int32_t fd; uint32_t flags; };

struct zr_output {
    struct zr_hdr hdr;
    const struct zr_piece *pieces; /* borrow; written in order, as one unit */
    /* NULL: memory is borrowed, so the transport copies what it cannot write at once; file pieces are not allowed. Else all
     * pieces' bytes and files are held until done is called, exactly once, on any thread, also when send refused. */
    void (*done)(void *ctx, zr_status status);
    void *done_ctx;
    uint32_t n_pieces;
    uint32_t reserved;
};

struct zr_transport_v1 {
    struct zr_hdr hdr;
    uint32_t caps; /* ZR_TRANSPORT_* */
    uint32_t reserved;
    const char *const *schemes; /* NULL-ended: "tcp" */
    ZR_ON(any) uint32_t (*lanes)(struct zr_inst *inst);
    /* After warm: what is bound. *ret points to n structs, static. */
    ZR_ON(main) uint32_t (*listeners)(struct zr_inst *inst, const struct zr_listener **ret);
    /* Between warm and activate, once: where to call. Connections are accepted from activate on. */
    ZR_ON(main) void (*bind)(struct zr_inst *inst, const struct zr_sink_v1 *sink);
    /* Queues one unit of output. Writes at once when nothing is queued before it; never blocks. Safe from every thread until
     * release, the bytes of one call are never interleaved with another's. ZR_ECLOSED, ZR_EFULL (and then it closes). */
    ZR_ON(any) zr_status (*send)(struct zr_inst *inst, struct zr_conn *conn, const struct zr_output *out);
    /* Bytes queued and not yet written. */
    ZR_ON(any) uint64_t (*queued)(struct zr_inst *inst, struct zr_conn *conn);
    /* Ends the connection; flush: after what is queued was written (bounded by a deadline of the transport's). closed follows. */
    ZR_ON(any) void (*close)(struct zr_inst *inst, struct zr_conn *conn, uint32_t flush);
    /* The kernel uses conn no more; after closed, once for each opened that answered ZR_OK. */
    ZR_ON(any) void (*release)(struct zr_inst *inst, struct zr_conn *conn);
    /* Has sink.woken called in that lane soon; several wakes may become one call. */
    ZR_ON(any) void (*wake)(struct zr_inst *inst, uint32_t lane);
    /* Connects to "tcp://host:port" within timeout_ns. ZR_PENDING: opened or dial_failed follows, with dial_ctx. */
    ZR_ON(any) zr_status (*dial)(struct zr_inst *inst, struct zr_str url, int64_t timeout_ns, void *dial_ctx);
};
#ifdef __cplusplus
}
#endif
#endif
