/* SPDX-License-Identifier: Apache-2.0 */
/* dial.c - connections that we open.
 *
 *   1. A dial is a connection from its first moment: it has a lane, a place in the wheel (its timeout) and one end, either
 *      sink.opened or sink.dial_failed.
 *   2. Names are looked up on a worker, which may take longer than the dial lives. So the look-up is an object of its own,
 *      counted twice (worker, connection); whoever leaves last frees it. lookup.conn is NULL when nobody waits any more.
 *   3. All addresses of a name are tried in order, TCP_DIAL_ADDRESSES at most, within the one timeout.
 *
 * LOCKING. lookup.lock guards lookup.conn and the result; the worker posts to the lane with it held, so that the lane is
 * still there. */
#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "tcp.h"

struct tcp_lookup {
    pthread_mutex_t lock;
    _Atomic uint32_t refs;
    struct zr_conn *conn;
    uint32_t n;
    int error;
    struct zr_addr found[TCP_DIAL_ADDRESSES];
    char service[8];
    char host[256];
};

static void lookup_put(struct tcp_lookup *lookup)
{
    if (atomic_fetch_sub(&lookup->refs, 1u) == 1u) {
        pthread_mutex_destroy(&lookup->lock);
        free(lookup);
    }
}

/* Returns getaddrinfo's answer. */
static int resolve(const char *host, const char *service, int flags, struct zr_addr *to, uint32_t *ret_n)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICSERV | flags }, *all = NULL;
    int gai = getaddrinfo(host, service, &hints, &all);
    *ret_n = 0;
    if (gai != 0) {
        return gai;
    }
    for (const struct addrinfo *ai = all; ai && *ret_n < TCP_DIAL_ADDRESSES; ai = ai->ai_next) {
        if (ai->ai_family == AF_INET || ai->ai_family == AF_INET6) {
            tr_addr_from(&to[(*ret_n)++], ai->ai_addr);
        }
    }
    freeaddrinfo(all);
    return *ret_n ? 0 : EAI_NONAME;
}

static void run_lookup(void *arg)
{
    struct tcp_lookup *lookup = arg;
    struct zr_addr found[TCP_DIAL_ADDRESSES];
    uint32_t n = 0;
    int error = resolve(lookup->host, lookup->service, 0, found, &n);
    pthread_mutex_lock(&lookup->lock);
    lookup->error = error;
    lookup->n = n;
    memcpy(lookup->found, found, n * sizeof found[0]);
    if (lookup->conn) {
        tcp_lane_post(lookup->conn, TCP_POST_RESOLVED);
    }
    pthread_mutex_unlock(&lookup->lock);
    lookup_put(lookup);
}

static struct tcp_lookup *lookup_new(struct zr_conn *conn, const char *host, const char *service)
{
    struct tcp_lookup *lookup = calloc(1, sizeof *lookup);
    if (lookup) {
        pthread_mutex_init(&lookup->lock, NULL);
        atomic_init(&lookup->refs, 1u);
        lookup->conn = conn;
        snprintf(lookup->host, sizeof lookup->host, "%s", host);
        snprintf(lookup->service, sizeof lookup->service, "%s", service);
    }
    return lookup;
}

static uint32_t set_targets(struct zr_conn *conn, const struct zr_addr *found, uint32_t n)
{
    conn->targets = malloc(n * sizeof found[0]);
    if (!conn->targets) {
        return 0;
    }
    memcpy(conn->targets, found, n * sizeof found[0]);
    conn->n_targets = n;
    return 1;
}

/* Gives the new connection what it needs to begin: addresses, or a look-up. */
static zr_status prepare(struct zr_conn *conn, struct zr_str url, const char *host, uint16_t port)
{
    struct zr_addr found[TCP_DIAL_ADDRESSES];
    uint32_t n;
    char service[8];
    snprintf(service, sizeof service, "%u", (unsigned)port);
    if (!(conn->dial_name = zl_dup(url))) {
        return ZR_ENOMEM;
    }
    if (resolve(host, service, AI_NUMERICHOST, found, &n) == 0) {
        return set_targets(conn, found, n) ? ZR_OK : ZR_ENOMEM;
    }
    return (conn->lookup = lookup_new(conn, host, service)) ? ZR_OK : ZR_ENOMEM;
}

zr_status tcp_dial(struct zr_inst *inst, struct zr_str url, int64_t timeout_ns, void *dial_ctx)
{
    static const char scheme[] = "tcp://";
    char host[256];
    uint16_t port;
    struct zr_str at = zl_starts(url, scheme) ? (struct zr_str){ url.ptr + 6, url.len - 6 } : url;
    if (tr_endpoint_split(at, host, sizeof host, &port) != ZR_OK || port == 0) {
        return tr_fail(&inst->report, ZR_EINVAL, 0, "\"%.*s\" is no address to connect to, as tcp://host:port is", (int)(url.len < 200 ? url.len : 200), url.ptr);
    }
    if (atomic_load(&inst->closing) || !inst->sink) {
        return ZR_ECLOSED;
    }
    if (atomic_fetch_add(&inst->n_dials, 1u) >= TCP_MAX_DIALS) {
        atomic_fetch_sub(&inst->n_dials, 1u);
        return tr_fail(&inst->report, ZR_EFULL, 0, "%u connections are being opened already", TCP_MAX_DIALS);
    }
    struct tcp_lane *lane = tcp_lane_choose(inst);
    struct zr_conn *conn = tcp_conn_new(lane, -1);
    if (!conn || prepare(conn, url, host, port) != ZR_OK) {
        atomic_fetch_sub(&lane->n_conns, 1u);
        atomic_fetch_sub(&inst->n_dials, 1u);
        if (conn) {
            tcp_dial_cancel(conn);
            tcp_conn_drop(conn);
        }
        return ZR_ENOMEM;
    }
    conn->dial_ctx = dial_ctx;
    conn->deadline_ns = tr_deadline(timeout_ns);
    tr_count(&inst->report, TR_M_CONNECTIONS, 1);
    tcp_lane_post(conn, TCP_POST_NEW);
    return ZR_PENDING;
}

static void close_socket(struct zr_conn *conn)
{
    pthread_mutex_lock(&conn->lock);
    if (conn->fd >= 0) {
        (void)epoll_ctl(conn->lane->epoll, EPOLL_CTL_DEL, conn->fd, NULL);
        close(conn->fd);
        conn->fd = -1;
        conn->armed = 0;
    }
    pthread_mutex_unlock(&conn->lock);
}

/* One address: 1 when its answer is awaited; else conn->dial_errno says why not. */
static uint32_t try_target(struct zr_conn *conn, const struct zr_addr *target)
{
    struct zr_inst *inst = conn->lane->inst;
    struct sockaddr_storage ss;
    socklen_t len = tr_addr_to(&ss, target);
    struct epoll_event event = { .events = EPOLLOUT, .data.ptr = conn };
    int fd = socket(ss.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0) {
        conn->dial_errno = errno;
        return 0;
    }
    int snd = (int)inst->set->sndbuf, rcv = (int)inst->set->rcvbuf;
    if (snd > 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &snd, sizeof snd);
    }
    if (rcv > 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcv, sizeof rcv);
    }
    tcp_socket_tune(inst, fd);
    conn->peer = *target;
    if ((connect(fd, (struct sockaddr *)&ss, len) != 0 && errno != EINPROGRESS)
        || epoll_ctl(conn->lane->epoll, EPOLL_CTL_ADD, fd, &event) != 0) {
        conn->dial_errno = errno;
        close(fd);
        return 0;
    }
    pthread_mutex_lock(&conn->lock);
    conn->fd = fd;
    conn->armed = EPOLLOUT;
    pthread_mutex_unlock(&conn->lock);
    return 1;
}

static void try_next(struct zr_conn *conn)
{
    conn->stage = TCP_CONNECTING;
    while (conn->target < conn->n_targets) {
        if (try_target(conn, &conn->targets[conn->target++])) {
            return;
        }
    }
    tcp_dial_fail(conn, ZR_EIO, strerror(conn->dial_errno));
}

void tcp_dial_begin(struct zr_conn *conn)
{
    struct tcp_lane *lane = conn->lane;
    conn->stage = TCP_RESOLVING;
    tr_wheel_put(&lane->wheel, &conn->wheel, conn->deadline_ns);
    if (lane->draining) {
        tcp_dial_fail(conn, ZR_ECLOSED, "the transport is shutting down");
        return;
    }
    if (conn->n_targets) {
        try_next(conn);
        return;
    }
    atomic_fetch_add(&conn->lookup->refs, 1u); /* the worker's */
    if (lane->inst->work->run(lane->inst->host, run_lookup, conn->lookup) != ZR_OK) {
        lookup_put(conn->lookup);
        tcp_dial_fail(conn, ZR_EFULL, "no worker is free to look the name up");
    }
}

void tcp_dial_resolved(struct zr_conn *conn)
{
    struct tcp_lookup *lookup = conn->lookup;
    pthread_mutex_lock(&lookup->lock);
    int error = lookup->error;
    uint32_t have = error == 0 && set_targets(conn, lookup->found, lookup->n);
    pthread_mutex_unlock(&lookup->lock);
    if (have) {
        try_next(conn);
    } else {
        tcp_dial_fail(conn, error ? ZR_ENOENT : ZR_ENOMEM, error ? gai_strerror(error) : "memory ran out");
    }
}

void tcp_dial_ready(struct zr_conn *conn)
{
    struct zr_inst *inst = conn->lane->inst;
    struct sockaddr_storage local;
    int error = 0;
    socklen_t len = sizeof error, local_len = sizeof local;
    if (atomic_load(&conn->ending)) {
        return;
    }
    if (getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &error, &len) != 0) {
        error = errno;
    }
    if (error != 0) {
        conn->dial_errno = error;
        close_socket(conn);
        try_next(conn);
        return;
    }
    memset(&local, 0, sizeof local);
    if (getsockname(conn->fd, (struct sockaddr *)&local, &local_len) == 0) {
        tr_addr_from(&conn->local, (const struct sockaddr *)&local);
    }
    pthread_mutex_lock(&conn->lock);
    tcp_conn_arm(conn, EPOLLIN);
    pthread_mutex_unlock(&conn->lock);
    atomic_store(&conn->active_ns, tr_now());
    atomic_fetch_sub(&inst->n_dials, 1u);
    tr_count(&inst->report, TR_M_DIALED, 1);
    (void)tcp_conn_open(conn, NULL, 0, (struct zr_str){ NULL, 0 });
}

void tcp_dial_fail(struct zr_conn *conn, zr_status why, const char *text)
{
    struct zr_inst *inst = conn->lane->inst;
    char line[512];
    int n = snprintf(line, sizeof line, "cannot connect to %s: %s", conn->dial_name, text);
    uint64_t len = n < 0 ? 0 : (size_t)n < sizeof line ? (uint64_t)n : sizeof line - 1;
    void *dial_ctx = conn->dial_ctx;
    atomic_fetch_sub(&inst->n_dials, 1u);
    tcp_conn_kill(conn);
    inst->sink->dial_failed(inst->sink->ctx, dial_ctx, why, (struct zr_str){ line, len });
}

void tcp_dial_cancel(struct zr_conn *conn)
{
    struct tcp_lookup *lookup = conn->lookup;
    if (!lookup) {
        return;
    }
    pthread_mutex_lock(&lookup->lock);
    lookup->conn = NULL;
    pthread_mutex_unlock(&lookup->lock);
    conn->lookup = NULL;
    lookup_put(lookup);
}

void tcp_dial_free(struct zr_conn *conn)
{
    free(conn->targets);
    free(conn->dial_name);
}
