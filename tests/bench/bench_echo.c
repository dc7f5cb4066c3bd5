/* SPDX-License-Identifier: Apache-2.0 */
/* bench_echo.c - a server that stores nothing: the ceiling that loopback, processor and generator set for any broker.
 *
 *     bench_echo PORT      listens on 127.0.0.1 until it is ended; answers every request with SUCCESS at once
 *
 * One thread: epoll_wait, recv, the opaque of each frame's header, one send for what is due. It parses, stores, copies and
 * syncs nothing else, so a broker that does any of that cannot be expected above it. tests/bench/run --ceiling puts it beside.
 *
 * What stays true: a connection has one buffer of BUF bytes; a frame that does not fit ends the connection. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define BUF 65536
#define ANSWER 320 /* bytes at most of one */
#define EVENTS 256

struct conn {
    int fd;
    uint32_t have;
    char in[BUF];
};

static uint32_t load_be(const char *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return ntohl(v);
}

static uint32_t number_after(const char *p, uint32_t len, const char *name)
{
    const char *at = memmem(p, len, name, strlen(name));
    return at ? (uint32_t)strtoul(at + strlen(name), NULL, 10) : 0;
}

/* An answer as a broker's to a send. Its length. */
static uint32_t answer(const char *header, uint32_t len, char *ret)
{
    int n = snprintf(ret + 8, ANSWER - 8,
                     "{\"code\":0,\"extFields\":{\"msgId\":\"7F00000100002A9F0000000000000000\",\"queueId\":\"0\",\"queueOffset\":\"1000\",\"offset\":\"0\"},"
                     "\"flag\":1,\"language\":\"OTHER\",\"opaque\":%u,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}",
                     number_after(header, len, "\"opaque\":"));
    uint32_t size = htonl((uint32_t)n + 4), head = htonl((uint32_t)n);
    memcpy(ret, &size, 4);
    memcpy(ret + 4, &head, 4);
    return (uint32_t)n + 8;
}

/* Answers all whole frames. -1: the connection is over. */
static int serve(struct conn *c)
{
    static char out[BUF];
    uint32_t pos = 0, due = 0;
    ssize_t n = recv(c->fd, c->in + c->have, BUF - c->have, 0);
    if (n <= 0) return n < 0 && errno == EAGAIN ? 0 : -1;
    c->have += (uint32_t)n;
    while (c->have - pos >= 8) {
        uint32_t size = load_be(c->in + pos), head = load_be(c->in + pos + 4) & 0xFFFFFF;
        if (size > BUF - 4 || size < 4 || head > size - 4) return -1;
        if (c->have - pos < size + 4) break;
        if (due + ANSWER > BUF) {
            if (send(c->fd, out, due, MSG_NOSIGNAL) != (ssize_t)due) return -1;
            due = 0;
        }
        due += answer(c->in + pos + 8, head, out + due);
        pos += size + 4;
    }
    memmove(c->in, c->in + pos, c->have - pos);
    c->have -= pos;
    return due && send(c->fd, out, due, MSG_NOSIGNAL) != (ssize_t)due ? -1 : 0;
}

static int add(int ep, int fd, void *ptr)
{
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = ptr };
    return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
}

static void accept_one(int ep, int listener)
{
    struct conn *c = malloc(sizeof *c);
    int one = 1;
    if (!c) return;
    c->have = 0;
    c->fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (c->fd >= 0) setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (c->fd >= 0 && add(ep, c->fd, c) == 0) return;
    if (c->fd >= 0) close(c->fd);
    free(c);
}

int main(int argc, char **argv)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    int one = 1, ep = epoll_create1(EPOLL_CLOEXEC), listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (argc != 2) return fprintf(stderr, "usage: bench_echo PORT\n"), 2;
    a.sin_port = htons((uint16_t)atoi(argv[1]));
    if (ep < 0 || listener < 0 || setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) ||
        bind(listener, (struct sockaddr *)&a, sizeof a) || listen(listener, 1024) || add(ep, listener, NULL))
        return perror("bench_echo"), 1;
    for (;;) {
        struct epoll_event evs[EVENTS];
        int n = epoll_wait(ep, evs, EVENTS, -1);
        if (n < 0 && errno != EINTR) return perror("bench_echo: epoll_wait"), 1;
        for (int i = 0; i < n; i++) {
            struct conn *c = evs[i].data.ptr;
            if (!c) {
                accept_one(ep, listener);
            } else if (serve(c)) {
                close(c->fd);
                free(c);
            }
        }
    }
}
