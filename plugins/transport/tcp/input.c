/* SPDX-License-Identifier: Apache-2.0 */
/* input.c - from the socket to the sink.
 *
 *   1. One recv for each readiness; a connection has a buffer only while it holds bytes that are not consumed.
 *   2. A buffer grows with what the peer really sent (fourfold), not with what it announces, up to what the sink needs.
 *   3. A short rest moves to a small buffer at the end of the turn, so that a slow sender holds 4 KiB and not 64.
 *   4. What all connections of a lane hold beyond the turn is bounded by input_memory / lanes. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include "proxy.h"
#include "tcp.h"

#define KEEP_LARGE 64u
#define KEEP_SMALL 512u
#define TLS_HANDSHAKE 0x16u

static uint64_t lane_limit(const struct tcp_lane *lane)
{
    uint64_t share = (uint64_t)lane->inst->set->input_memory / lane->inst->n_lanes;
    uint64_t least = 2ull * TCP_MAX_NEED; /* a largest frame must always be possible */
    return share > least ? share : least;
}

static struct tcp_buf *buf_get(struct tcp_lane *lane, uint64_t cap)
{
    struct tcp_buf **pool = NULL;
    uint32_t *n = NULL;
    if (cap == TCP_SMALL_BUFFER) {
        pool = &lane->free_small;
        n = &lane->n_free_small;
    } else if (cap == (uint64_t)lane->inst->set->read_buffer) {
        pool = &lane->free_large;
        n = &lane->n_free_large;
    }
    struct tcp_buf *buf = pool ? *pool : NULL;
    if (buf) {
        *pool = buf->next;
        (*n)--;
    } else if (!(buf = malloc(sizeof *buf + cap))) {
        return NULL;
    }
    buf->next = NULL;
    buf->cap = cap;
    buf->start = buf->end = 0;
    lane->input_held += cap;
    return buf;
}

static void buf_put(struct tcp_lane *lane, struct tcp_buf *buf)
{
    lane->input_held -= buf->cap;
    if (buf->cap == TCP_SMALL_BUFFER && lane->n_free_small < KEEP_SMALL) {
        buf->next = lane->free_small;
        lane->free_small = buf;
        lane->n_free_small++;
    } else if (buf->cap == (uint64_t)lane->inst->set->read_buffer && lane->n_free_large < KEEP_LARGE) {
        buf->next = lane->free_large;
        lane->free_large = buf;
        lane->n_free_large++;
    } else {
        free(buf);
    }
}

void tcp_input_pool_free(struct tcp_lane *lane)
{
    struct tcp_buf *lists[2] = { lane->free_large, lane->free_small };
    for (uint32_t i = 0; i < 2; i++) {
        for (struct tcp_buf *buf = lists[i], *next; buf; buf = next) {
            next = buf->next;
            free(buf);
        }
    }
    lane->free_large = lane->free_small = NULL;
    lane->n_free_large = lane->n_free_small = 0;
}

void tcp_input_free(struct zr_conn *conn)
{
    if (conn->in) {
        buf_put(conn->lane, conn->in);
        conn->in = NULL;
    }
}

/* What is held moves to a buffer of another size. */
static zr_status buf_move(struct zr_conn *conn, uint64_t cap)
{
    struct tcp_buf *old = conn->in, *buf = buf_get(conn->lane, cap);
    if (!buf) {
        return ZR_ENOMEM;
    }
    buf->end = old->end - old->start;
    memcpy(buf->bytes, old->bytes + old->start, buf->end);
    conn->in = buf;
    buf_put(conn->lane, old);
    return ZR_OK;
}

/* Room for at least one more byte. Between turns only: it moves what is held. */
static zr_status make_room(struct zr_conn *conn)
{
    struct tcp_lane *lane = conn->lane;
    uint64_t base = (uint64_t)lane->inst->set->read_buffer;
    if (!conn->in) {
        return (conn->in = buf_get(lane, base)) ? ZR_OK : ZR_ENOMEM;
    }
    uint64_t have = conn->in->end - conn->in->start, cap = base;
    if (conn->in->cap == TCP_SMALL_BUFFER && have < base) {
        return buf_move(conn, base);
    }
    if (conn->in->end < conn->in->cap) {
        return ZR_OK;
    }
    while (cap <= have) {
        cap *= 4;
    }
    if (conn->need > have && cap > conn->need && conn->need > base) {
        cap = (conn->need + base - 1) / base * base;
    }
    if (lane->input_held + cap > lane_limit(lane)) {
        tr_log_rare(&lane->inst->report, TR_RARE_INPUT, "incomplete input fills its memory (option input_memory): connections are closed");
        return ZR_EFULL;
    }
    return buf_move(conn, cap);
}

static uint32_t refuse_tls(struct zr_conn *conn)
{
    if (conn->first_seen || conn->listener == UINT32_MAX) {
        return 0;
    }
    conn->first_seen = 1;
    if (conn->in->bytes[conn->in->start] != TLS_HANDSHAKE) {
        return 0;
    }
    tr_log_rare(&conn->lane->inst->report, TR_RARE_TLS, "connection closed: the client speaks TLS, which this listener does not");
    tcp_conn_end(conn, ZR_ENOTSUP, TCP_END_NOW);
    return 1;
}

/* The first bytes: a PROXY header, TLS, or a frame. 1: go on to the sink. */
static uint32_t detect(struct zr_conn *conn)
{
    struct zr_inst *inst = conn->lane->inst;
    struct tcp_buf *in = conn->in;
    struct proxy_header header;
    switch (proxy_detect((struct zr_span){ in->bytes + in->start, in->end - in->start }, &header, &conn->need)) {
    case PROXY_WAIT:
        return 0;
    case PROXY_BAD:
        tr_log_rare(&inst->report, TR_RARE_PROXY, "connection closed: a PROXY protocol header that cannot be read");
        tcp_conn_end(conn, ZR_EINVAL, TCP_END_NOW);
        return 0;
    case PROXY_GOOD:
        in->start += header.len;
        break;
    default:
        header.n_fields = header.peer_len = 0;
        break;
    }
    conn->need = 0;
    if (in->start < in->end && refuse_tls(conn)) {
        return 0;
    }
    return tcp_conn_open(conn, header.fields, header.n_fields, (struct zr_str){ header.peer, header.peer_len }) == ZR_OK;
}

/* After data: what the sink needs next, and whether it left a whole rest to be passed again at once. */
static void note_need(struct zr_conn *conn, uint64_t consumed, uint64_t need)
{
    uint64_t rest = conn->in->end - conn->in->start;
    conn->need = rest ? need : 0;
    if (rest && need <= rest && consumed) {
        tcp_lane_again(conn->lane, conn);
    } else if (rest && need <= rest) {
        conn->need = rest + 1; /* nothing used and nothing more wanted: ask again when there is more */
    }
    if (conn->need > TCP_MAX_NEED) {
        tcp_conn_end(conn, ZR_EINVAL, TCP_END_FLUSH);
    }
}

void tcp_input_deliver(struct zr_conn *conn)
{
    struct tcp_lane *lane = conn->lane;
    const struct zr_sink_v1 *sink = lane->inst->sink;
    if (conn->stage == TCP_DETECT && !detect(conn)) {
        return;
    }
    struct tcp_buf *in = conn->in;
    uint64_t have = in->end - in->start, consumed = 0, need = 0;
    if (have == 0 || have < conn->need || atomic_load(&conn->ending) || refuse_tls(conn)) {
        return;
    }
    lane->data_given = 1;
    zr_status status = sink->data(sink->ctx, conn->session, (struct zr_span){ in->bytes + in->start, have }, &consumed, &need);
    in->start += consumed < have ? consumed : have;
    if (status != ZR_OK) {
        tcp_conn_end(conn, status < 0 ? status : ZR_EINVAL, TCP_END_FLUSH);
        return;
    }
    note_need(conn, consumed, need);
}

static void read_failed(struct zr_conn *conn, int64_t n, int error)
{
    if (n == 0) {
        tcp_conn_end(conn, ZR_ECLOSED, TCP_END_FLUSH); /* answers under way may still reach a half-closed peer */
    } else if (error != EAGAIN && error != EINTR) {
        tcp_conn_end(conn, error == ETIMEDOUT ? ZR_ETIMEOUT : error == ECONNRESET || error == EPIPE ? ZR_ECLOSED : ZR_EIO, TCP_END_NOW);
    }
}

void tcp_input_read(struct zr_conn *conn)
{
    struct tcp_lane *lane = conn->lane;
    conn->again = 0;
    lane->touched[lane->n_touched++] = conn;
    zr_status status = make_room(conn);
    if (status != ZR_OK) {
        tcp_conn_end(conn, status, TCP_END_NOW);
        return;
    }
    int64_t n = recv(conn->fd, conn->in->bytes + conn->in->end, conn->in->cap - conn->in->end, MSG_DONTWAIT);
    if (n <= 0) {
        read_failed(conn, n, errno);
        return;
    }
    conn->in->end += (uint64_t)n;
    atomic_store_explicit(&conn->active_ns, lane->now_ns, memory_order_relaxed);
    tr_count(&lane->inst->report, TR_M_BYTES_IN, n);
    tcp_input_deliver(conn);
}

void tcp_input_settle(struct zr_conn *conn)
{
    struct tcp_lane *lane = conn->lane;
    struct tcp_buf *in = conn->in;
    if (!in) {
        return;
    }
    uint64_t have = in->end - in->start;
    uint32_t shrink = have <= TCP_SMALL_BUFFER && in->cap > TCP_SMALL_BUFFER && !conn->again;
    if (have == 0) {
        tcp_input_free(conn);
    } else if ((!shrink || buf_move(conn, TCP_SMALL_BUFFER) != ZR_OK) && in->start > 0) {
        memmove(in->bytes, in->bytes + in->start, have);
        in->start = 0;
        in->end = have;
    }
    if (conn->in && conn->in->cap > TCP_SMALL_BUFFER && lane->input_held > lane_limit(lane)) {
        tr_log_rare(&lane->inst->report, TR_RARE_INPUT, "incomplete input fills its memory (option input_memory): connections are closed");
        tcp_conn_end(conn, ZR_EFULL, TCP_END_NOW);
    }
}
