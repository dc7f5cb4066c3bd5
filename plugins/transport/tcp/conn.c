/* SPDX-License-Identifier: Apache-2.0 */
/* conn.c - birth, references and end of a connection.
 *
 *            accepted                    dial
 *   NEW ---> DETECT --first bytes--> OPEN <-- CONNECTING <-- RESOLVING <-- NEW
 *               \                     |            \             /
 *                \       tcp_conn_end v (any)       `--dial_fail-'
 *                 `---------------> FLUSHING --written, or deadline--> DEAD
 *
 * tcp_conn_end only writes down what is wanted and posts the connection; the lane does it in tcp_conn_ended, when no event
 * of its batch is left. */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "tcp.h"

void tcp_socket_tune(struct zr_inst *inst, int fd)
{
    int one = 1;
    /* Bytes on the way that nobody acknowledges for the idle time: the peer is gone. */
    unsigned int unacknowledged = (unsigned int)inst->set->idle_timeout;
    (void)setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    (void)setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &unacknowledged, sizeof unacknowledged);
}

struct zr_conn *tcp_conn_new(struct tcp_lane *lane, int fd)
{
    struct zr_conn *conn = calloc(1, sizeof *conn);
    if (!conn) {
        return NULL;
    }
    conn->magic = TCP_CONN_MAGIC;
    atomic_init(&conn->refs, 1u);
    conn->lane = lane;
    conn->fd = fd;
    conn->listener = UINT32_MAX;
    pthread_mutex_init(&conn->lock, NULL);
    atomic_store(&conn->active_ns, tr_now());
    return conn;
}

void tcp_conn_hold(struct zr_conn *conn)
{
    atomic_fetch_add(&conn->refs, 1u);
}

void tcp_conn_drop(struct zr_conn *conn)
{
    if (atomic_fetch_sub(&conn->refs, 1u) != 1u) {
        return;
    }
    tcp_dial_free(conn);
    pthread_mutex_destroy(&conn->lock);
    conn->magic = 0;
    free(conn);
}

/* Lock held. Registers the socket the first time, changes what is asked for later. */
void tcp_conn_arm(struct zr_conn *conn, uint32_t events)
{
    if (conn->fd < 0 || conn->armed == events) {
        return;
    }
    struct epoll_event event = { .events = events, .data.ptr = conn };
    if (epoll_ctl(conn->lane->epoll, EPOLL_CTL_MOD, conn->fd, &event) == 0) {
        conn->armed = events;
    }
}

static void link_conn(struct tcp_lane *lane, struct zr_conn *conn)
{
    conn->all_next = lane->all;
    if (lane->all) {
        lane->all->all_prev = conn;
    }
    lane->all = conn;
}

static void unlink_conn(struct tcp_lane *lane, struct zr_conn *conn)
{
    if (conn->all_prev) {
        conn->all_prev->all_next = conn->all_next;
    } else if (lane->all == conn) {
        lane->all = conn->all_next;
    }
    if (conn->all_next) {
        conn->all_next->all_prev = conn->all_prev;
    }
    conn->all_prev = conn->all_next = NULL;
}

void tcp_conn_adopt(struct zr_conn *conn)
{
    struct tcp_lane *lane = conn->lane;
    struct epoll_event event = { .events = EPOLLIN, .data.ptr = conn };
    link_conn(lane, conn);
    if (conn->listener == UINT32_MAX) {
        tcp_dial_begin(conn);
        return;
    }
    conn->stage = TCP_DETECT;
    conn->armed = EPOLLIN;
    if (lane->draining || epoll_ctl(lane->epoll, EPOLL_CTL_ADD, conn->fd, &event) != 0) {
        tcp_conn_end(conn, lane->draining ? ZR_OK : ZR_EIO, TCP_END_NOW);
        return;
    }
    tr_wheel_put(&lane->wheel, &conn->wheel, lane->now_ns + lane->inst->set->idle_timeout * 1000000ll);
    if (lane->inst->set->proxy_protocol == TCP_PROXY_OFF) {
        (void)tcp_conn_open(conn, NULL, 0, (struct zr_str){ NULL, 0 });
    }
}

/* Tells the kernel. On refusal the connection is ended without further calls. */
zr_status tcp_conn_open(struct zr_conn *conn, const struct zr_field *attributes, uint32_t n, struct zr_str peer_name)
{
    struct zr_inst *inst = conn->lane->inst;
    char name[64];
    if (peer_name.len == 0) {
        peer_name = (struct zr_str){ name, zl_addr_print(name, &conn->peer) };
    }
    struct zr_conn_info info = { .hdr = ZR_HDR(struct zr_conn_info, 0), .peer = conn->peer, .local = conn->local,
        .peer_name = peer_name, .attributes = attributes, .n_attributes = n, .dial_ctx = conn->dial_ctx,
        .lane = conn->lane->index, .listener = conn->listener,
        .flags = conn->listener == UINT32_MAX ? ZR_CONN_OUTBOUND : 0u };
    struct zr_session *session = NULL;
    tcp_conn_hold(conn); /* the kernel's, until release */
    conn->stage = TCP_OPEN;
    zr_status status = inst->sink->opened(inst->sink->ctx, conn, &info, &session);
    if (status != ZR_OK) {
        tcp_conn_drop(conn);
        tcp_conn_end(conn, ZR_OK, TCP_END_NOW);
        return status;
    }
    conn->session = session;
    conn->known = 1;
    return ZR_OK;
}

void tcp_conn_end(struct zr_conn *conn, zr_status why, uint32_t how)
{
    uint32_t post = 0;
    pthread_mutex_lock(&conn->lock);
    uint32_t before = atomic_load(&conn->ending);
    if (before == 0) {
        conn->why = why;
    }
    if (before < how) {
        atomic_store(&conn->ending, how);
        post = 1;
    }
    pthread_mutex_unlock(&conn->lock);
    if (post) {
        tcp_lane_post(conn, TCP_POST_END);
    }
}

void tcp_conn_ended(struct zr_conn *conn)
{
    struct tcp_lane *lane = conn->lane;
    if (conn->stage == TCP_DEAD || conn->stage == TCP_FLUSHING) {
        if (conn->stage == TCP_FLUSHING && atomic_load(&conn->ending) == TCP_END_NOW) {
            tcp_conn_kill(conn);
        }
        return;
    }
    if (conn->stage == TCP_RESOLVING || conn->stage == TCP_CONNECTING) {
        tcp_dial_fail(conn, ZR_ECLOSED, "the transport is shutting down");
        return;
    }
    pthread_mutex_lock(&conn->lock);
    uint32_t wait = atomic_load(&conn->ending) == TCP_END_FLUSH && conn->queue.head && conn->fd >= 0;
    if (wait) {
        tcp_conn_arm(conn, EPOLLOUT);
    }
    pthread_mutex_unlock(&conn->lock);
    if (!wait) {
        tcp_conn_kill(conn);
        return;
    }
    conn->stage = TCP_FLUSHING;
    conn->deadline_ns = lane->now_ns + lane->inst->set->drain_timeout * 1000000ll;
    tcp_input_free(conn);
    tr_wheel_take(&lane->wheel, &conn->wheel);
    tr_wheel_put(&lane->wheel, &conn->wheel, conn->deadline_ns);
}

void tcp_conn_kill(struct zr_conn *conn)
{
    struct tcp_lane *lane = conn->lane;
    struct zr_inst *inst = lane->inst;
    if (conn->stage == TCP_DEAD) {
        return;
    }
    conn->stage = TCP_DEAD;
    pthread_mutex_lock(&conn->lock);
    zr_status why = conn->why;
    atomic_store(&conn->ending, TCP_END_NOW);
    if (conn->fd >= 0) {
        /* Not left to close: a child forked a moment ago may still hold the description open, and with it its events. */
        (void)epoll_ctl(lane->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
        close(conn->fd);
        conn->fd = -1;
    }
    pthread_mutex_unlock(&conn->lock);
    tcp_output_discard(conn);
    tcp_dial_cancel(conn);
    tcp_input_free(conn);
    tr_wheel_take(&lane->wheel, &conn->wheel);
    unlink_conn(lane, conn);
    atomic_fetch_sub(&lane->n_conns, 1u);
    if (conn->listener != UINT32_MAX) {
        tr_admit_leave(&inst->admit, &conn->peer);
    }
    if (conn->known || conn->listener != UINT32_MAX) {
        tr_count_closed(&inst->report, why);
    }
    if (conn->known) {
        inst->sink->closed(inst->sink->ctx, conn->session, why == ZR_OK ? ZR_ECLOSED : why);
    }
    tr_count(&inst->report, TR_M_CONNECTIONS, -1);
    tcp_conn_drop(conn);
}
