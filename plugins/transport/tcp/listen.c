/* SPDX-License-Identifier: Apache-2.0 */
/* listen.c - addresses, bound sockets, accepting.
 *
 *   1. Each listener is accepted on by one lane, which gives every connection to the lane that has the fewest. So even two
 *      connections use two lanes, which a shared epoll or SO_REUSEPORT does not promise.
 *   2. Out of descriptors: the reserve is given up to accept and close one connection, so that the peer learns of it and
 *      epoll does not fire again for it. When even that fails, and when the accept rate is used up, the listener rests.
 *   3. A name is bound at the first of its addresses that works, IPv4 before IPv6. "[::]" serves IPv4 too, unless another
 *      entry wants the same port for IPv4. "*" is that, and IPv4 alone on a machine without IPv6. */
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
#include "tcp.h"

#define REST_NS 100000000ll

zr_status tcp_listen_check(const struct tcp_settings *set, char *why, size_t cap)
{
    const struct zr_list *lists[2] = { &set->listen, &set->fast };
    char host[256];
    uint16_t port;
    if (!tr_serves(&set->serves)) {
        snprintf(why, cap, "serves: each word must be one of broker, broker-fast, routing");
        return ZR_EINVAL;
    }
    if (set->listen.n + set->fast.n > TCP_MAX_LISTENERS) {
        snprintf(why, cap, "listen: at most %u addresses", TCP_MAX_LISTENERS);
        return ZR_EINVAL;
    }
    for (uint32_t l = 0; l < 2; l++) {
        for (uint64_t i = 0; i < lists[l]->n; i++) {
            struct zr_str text = lists[l]->items[i];
            if (tr_endpoint_split(text, host, sizeof host, &port) != ZR_OK) {
                snprintf(why, cap, "%s: \"%.*s\" is not host:port (an IPv6 address stands in brackets, as in [::]:10911)",
                         l ? "fast" : "listen", (int)(text.len < 200 ? text.len : 200), text.ptr);
                return ZR_EINVAL;
            }
        }
    }
    if (set->output_low > set->output_high) {
        snprintf(why, cap, "output_low must not be above output_high");
        return ZR_EINVAL;
    }
    return ZR_OK;
}

/* ---- binding ---------------------------------------------------------------------------------------------------- */

static const char *hint(int error)
{
    switch (error) {
    case EADDRINUSE: return "; another process listens there (ss -ltnp shows which)";
    case EACCES: return "; ports below 1024 need the capability CAP_NET_BIND_SERVICE";
    case EADDRNOTAVAIL: return "; this machine has no such address";
    default: return "";
    }
}

/* "*": every address that this machine has, of both kinds. */
static uint32_t any_host(const char *host)
{
    return strcmp(host, "*") == 0;
}

static uint32_t wants_ipv4(const struct zr_inst *inst, uint16_t port)
{
    const struct zr_list *lists[2] = { &inst->set->listen, &inst->set->fast };
    for (uint32_t l = 0; l < 2 && port; l++) {
        for (uint64_t i = 0; i < lists[l]->n; i++) {
            char host[256];
            uint16_t other;
            if (tr_endpoint_split(lists[l]->items[i], host, sizeof host, &other) == ZR_OK && other == port && !strchr(host, ':') && !any_host(host)) {
                return 1;
            }
        }
    }
    return 0;
}

/* A listening socket, or -1 with errno. */
static int bind_one(struct zr_inst *inst, const struct addrinfo *ai, uint16_t port)
{
    int fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), one = 1;
    if (fd < 0) {
        return -1;
    }
    (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (ai->ai_family == AF_INET6) {
        int only6 = wants_ipv4(inst, port) ? 1 : 0;
        (void)setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, sizeof only6);
    }
    int snd = (int)inst->set->sndbuf, rcv = (int)inst->set->rcvbuf;
    if (snd > 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &snd, sizeof snd);
    }
    if (rcv > 0) {
        (void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &rcv, sizeof rcv);
    }
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) != 0 || listen(fd, (int)inst->set->backlog) != 0) {
        int error = errno;
        close(fd);
        errno = error;
        return -1;
    }
    return fd;
}

static void publish(struct zr_inst *inst, struct tcp_listener *l, int fd, uint32_t serves, uint32_t any)
{
    struct sockaddr_storage ss;
    socklen_t len = sizeof ss;
    char text[64];
    memset(&ss, 0, sizeof ss);
    (void)getsockname(fd, (struct sockaddr *)&ss, &len);
    l->fd = fd;
    l->index = inst->n_listeners;
    l->lane = &inst->lanes[l->index % inst->n_lanes];
    l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    l->pub = (struct zr_listener){ .hdr = ZR_HDR(struct zr_listener, 0), .serves = serves };
    if (any) { /* told as everybody tells it */
        l->pub.addr.family = 4;
        l->pub.addr.port = ntohs(((const struct sockaddr_in *)(const void *)&ss)->sin_port); /* at the same place in both */
    } else if (ss.ss_family == AF_INET6) { /* not turned into IPv4: this is where we are, not who came */
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)&ss;
        memcpy(l->pub.addr.ip, &in6->sin6_addr, 16);
        l->pub.addr.family = 6;
        l->pub.addr.port = ntohs(in6->sin6_port);
    } else {
        tr_addr_from(&l->pub.addr, (const struct sockaddr *)&ss);
    }
    uint32_t n = zl_addr_print(text, &l->pub.addr);
    int m = snprintf(l->url, sizeof l->url, "tcp://%.*s", (int)n, text);
    l->pub.url = (struct zr_str){ l->url, (uint64_t)m };
    inst->published[l->index] = l->pub;
    inst->n_listeners++;
    tr_log(&inst->report, ZR_LOG_INFO, "listening on %s%s", l->url, any && ss.ss_family == AF_INET6 ? " and [::]" : "");
}

static zr_status open_one(struct zr_inst *inst, struct zr_str text, uint32_t serves)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE | AI_NUMERICSERV }, *all = NULL;
    char host[256], service[8];
    uint16_t port = 0;
    int fd = -1, error = 0;
    if (tr_endpoint_split(text, host, sizeof host, &port) != ZR_OK) {
        return tr_fail(&inst->report, ZR_EINVAL, 0, "\"%.*s\" is not host:port", (int)text.len, text.ptr);
    }
    snprintf(service, sizeof service, "%u", (unsigned)port);
    uint32_t any = any_host(host);
    int gai = getaddrinfo(any ? NULL : host, service, &hints, &all);
    if (gai != 0) {
        return tr_fail(&inst->report, ZR_ENOENT, gai == EAI_SYSTEM ? errno : 0, "cannot listen on %s:%u: %s", host, (unsigned)port, gai_strerror(gai));
    }
    static const int usual[2] = { AF_INET, AF_INET6 }, both[2] = { AF_INET6, AF_INET }; /* an IPv6 socket serves IPv4 too */
    const int *order = any ? both : usual;
    for (uint32_t i = 0; i < 2 && fd < 0; i++) {
        for (const struct addrinfo *ai = all; ai && fd < 0; ai = ai->ai_next) {
            if (ai->ai_family == order[i] && (fd = bind_one(inst, ai, port)) < 0 && !error) {
                error = errno;
            }
        }
    }
    freeaddrinfo(all);
    if (fd < 0) {
        return tr_fail(&inst->report, ZR_EIO, error, "cannot listen on %s:%u: %s%s", host, (unsigned)port, strerror(error), hint(error));
    }
    publish(inst, &inst->listeners[inst->n_listeners], fd, serves, any);
    return ZR_OK;
}

zr_status tcp_listeners_open(struct zr_inst *inst)
{
    uint64_t n = inst->set->listen.n + inst->set->fast.n;
    inst->listeners = calloc(n ? n : 1, sizeof inst->listeners[0]);
    inst->published = calloc(n ? n : 1, sizeof inst->published[0]);
    zr_status status = inst->listeners && inst->published ? ZR_OK : ZR_ENOMEM;
    for (uint64_t i = 0; i < inst->set->listen.n && status == ZR_OK; i++) {
        status = open_one(inst, inst->set->listen.items[i], inst->serves);
    }
    for (uint64_t i = 0; i < inst->set->fast.n && status == ZR_OK; i++) {
        status = open_one(inst, inst->set->fast.items[i], ZR_SERVES_FAST);
    }
    return status;
}

void tcp_listeners_close(struct zr_inst *inst)
{
    for (uint32_t i = 0; i < inst->n_listeners; i++) {
        struct tcp_listener *l = &inst->listeners[i];
        if (l->fd >= 0) {
            close(l->fd);
        }
        if (l->reserve >= 0) {
            close(l->reserve);
        }
    }
    inst->n_listeners = 0;
    free(inst->listeners);
    free(inst->published);
    inst->listeners = NULL;
    inst->published = NULL;
}

void tcp_listener_start(struct tcp_listener *l)
{
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uint64_t)l->index << 1 | 1u };
    if (epoll_ctl(l->lane->epoll, EPOLL_CTL_ADD, l->fd, &event) != 0) {
        tr_log(&l->lane->inst->report, ZR_LOG_ERROR, "cannot accept on %s: %s", l->url, strerror(errno));
    }
}

void tcp_listener_stop(struct tcp_listener *l)
{
    if (l->fd >= 0) {
        (void)epoll_ctl(l->lane->epoll, EPOLL_CTL_DEL, l->fd, NULL);
        close(l->fd);
        l->fd = -1;
    }
    l->resting = 0;
}

static void rest(struct tcp_listener *l, int64_t ns)
{
    (void)epoll_ctl(l->lane->epoll, EPOLL_CTL_DEL, l->fd, NULL);
    l->resting = 1;
    l->rest_until = l->lane->now_ns + ns;
}

/* ---- accepting -------------------------------------------------------------------------------------------------- */

static void out_of_descriptors(struct tcp_listener *l, int error)
{
    struct zr_inst *inst = l->lane->inst;
    tr_log_rare(&inst->report, TR_RARE_NOFILE, "cannot accept on %s: %s; connections are refused (raise the limit of open files, LimitNOFILE or ulimit -n)",
                 l->url, strerror(error));
    if ((error == EMFILE || error == ENFILE) && l->reserve >= 0) {
        close(l->reserve);
        int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            tr_count(&inst->report, TR_M_REFUSED, 1);
            close(fd);
        }
        l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            return;
        }
    } else if (l->reserve < 0) {
        l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
    rest(l, REST_NS);
}

static void enter(struct tcp_listener *l, int fd, const struct sockaddr *sa)
{
    struct zr_inst *inst = l->lane->inst;
    struct sockaddr_storage local;
    socklen_t len = sizeof local;
    struct zr_addr peer;
    tr_addr_from(&peer, sa);
    if (!tr_admit_enter(&inst->admit, &peer, fd)) {
        close(fd);
        return;
    }
    struct tcp_lane *lane = tcp_lane_choose(inst);
    struct zr_conn *conn = tcp_conn_new(lane, fd);
    if (!conn) {
        atomic_fetch_sub(&lane->n_conns, 1u);
        tr_admit_leave(&inst->admit, &peer);
        tr_count(&inst->report, TR_M_REFUSED, 1);
        close(fd);
        return;
    }
    tcp_socket_tune(inst, fd);
    conn->listener = l->index;
    conn->peer = peer;
    memset(&local, 0, sizeof local);
    if (getsockname(fd, (struct sockaddr *)&local, &len) == 0) {
        tr_addr_from(&conn->local, (const struct sockaddr *)&local);
    }
    tr_count(&inst->report, TR_M_ACCEPTED, 1);
    tr_count(&inst->report, TR_M_CONNECTIONS, 1);
    tcp_lane_post(conn, TCP_POST_NEW);
}

void tcp_listener_ready(struct tcp_listener *l)
{
    struct zr_inst *inst = l->lane->inst;
    for (uint32_t i = 0; i < TCP_ACCEPT_BATCH && l->fd >= 0; i++) {
        struct sockaddr_storage ss;
        socklen_t len = sizeof ss;
        int64_t wait = 0;
        if (!tr_admit_take(&inst->admit, l->lane->now_ns, &wait)) {
            rest(l, wait);
            return;
        }
        int fd = accept4(l->fd, (struct sockaddr *)&ss, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0) {
            enter(l, fd, (const struct sockaddr *)&ss);
            continue;
        }
        int error = errno;
        tr_admit_give(&inst->admit);
        if (error == EAGAIN) {
            return;
        } else if (error == EMFILE || error == ENFILE || error == ENOBUFS || error == ENOMEM) {
            out_of_descriptors(l, error);
            return;
        } /* else: an error of that one connection, as ECONNABORTED */
    }
}
