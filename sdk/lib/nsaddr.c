/* SPDX-License-Identifier: Apache-2.0 */
/* nsaddr.c - one HTTP/1.0 GET for the name servers' addresses. The answer is read into a buffer of fixed size up to its end: its
 * Content-Length, or the server's closing (HTTP/1.0), whichever is first; every wait ends at one deadline. */
#include "zl/nsaddr.h"
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>
#include "zl/text.h"

#define ANSWER_MAX (ZL_NAMESRV_TEXT_MAX + 8192u)

zr_status zl_namesrv_url(char *to, uint64_t cap, const char *domain, const char *subgroup, const char *unit)
{
    if (!domain || !*domain) domain = ZL_NAMESRV_DEFAULT_DOMAIN;
    if (!subgroup || !*subgroup) subgroup = ZL_NAMESRV_DEFAULT_SUBGROUP;
    uint32_t has_unit = unit && *unit;
    int n = snprintf(to, cap, "http://%s%s/rocketmq/%s%s%s%s", domain, strchr(domain, ':') ? "" : ":8080", subgroup, has_unit ? "-" : "",
                     has_unit ? unit : "", has_unit ? "?nofix=1" : "");
    return n > 0 && (uint64_t)n < cap ? ZR_OK : ZR_EFULL;
}

struct place {
    char host[256], port[8];
    const char *path;
};

static zr_status url_split(const char *url, struct place *ret)
{
    if (strncmp(url, "http://", 7) != 0) return ZR_EINVAL;
    const char *host = url + 7, *slash = strchr(host, '/');
    uint64_t len = slash ? (uint64_t)(slash - host) : strlen(host), host_len = len;
    const char *colon = NULL;
    if (host[0] == '[') { /* [v6]:port */
        const char *end = memchr(host, ']', len);
        if (!end) return ZR_EINVAL;
        if (end + 1 < host + len && end[1] == ':') colon = end + 1;
        host_len = (uint64_t)(end - host) - 1;
        host++;
    } else if ((colon = memchr(host, ':', len))) {
        host_len = (uint64_t)(colon - host);
    }
    uint64_t port_len = colon ? len - (uint64_t)(colon + 1 - (url + 7)) : 2;
    if (host_len == 0 || host_len >= sizeof(ret->host) || port_len == 0 || port_len >= sizeof(ret->port)) return ZR_EINVAL;
    memcpy(ret->host, host, host_len);
    ret->host[host_len] = 0;
    memcpy(ret->port, colon ? colon + 1 : "80", port_len);
    ret->port[port_len] = 0;
    if (strspn(ret->port, "0123456789") != port_len) return ZR_EINVAL;
    ret->path = slash ? slash : "/";
    return ZR_OK;
}

static int64_t now_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

/* Waits for events until the deadline. */
static zr_status await(int fd, short events, int64_t deadline)
{
    for (;;) {
        int64_t left = deadline - now_ms();
        if (left <= 0) return ZR_ETIMEOUT;
        struct pollfd p = { .fd = fd, .events = events };
        int n = poll(&p, 1, (int)left);
        if (n > 0) return ZR_OK;
        if (n < 0 && errno != EINTR) return ZR_EIO;
    }
}

static int dial_one(const struct addrinfo *a, int64_t deadline, zr_status *ret)
{
    int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), e = 0;
    socklen_t len = sizeof(e);
    *ret = ZR_EIO;
    if (fd < 0) return -1;
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0) return fd;
    if (errno == EINPROGRESS && (*ret = await(fd, POLLOUT, deadline)) == ZR_OK && getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len) == 0 && e == 0) return fd;
    if (*ret == ZR_OK) *ret = ZR_EIO;
    close(fd);
    return -1;
}

static int dial(const struct place *place, int64_t deadline, zr_status *ret)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    *ret = ZR_EIO;
    if (getaddrinfo(place->host, place->port, &hints, &list)) return -1;
    int fd = -1;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) fd = dial_one(a, deadline, ret);
    freeaddrinfo(list);
    return fd;
}

static zr_status send_all(int fd, const char *bytes, uint64_t len, int64_t deadline)
{
    while (len) {
        ssize_t n = send(fd, bytes, len, MSG_NOSIGNAL);
        if (n > 0) {
            bytes += n;
            len -= (uint64_t)n;
        } else if (n < 0 && errno == EAGAIN) {
            zr_status st = await(fd, POLLOUT, deadline);
            if (st != ZR_OK) return st;
        } else if (n < 0 && errno != EINTR) {
            return ZR_EIO;
        }
    }
    return ZR_OK;
}

/* Is this a whole answer by its Content-Length? */
static uint32_t is_whole(const char *text, uint64_t len)
{
    static const char name[] = "\r\ncontent-length:";
    const char *body = memmem(text, len, "\r\n\r\n", 4);
    if (!body) return 0;
    for (const char *at = text; (uint64_t)(body - at) >= sizeof(name) - 1; at++) {
        if (strncasecmp(at, name, sizeof(name) - 1) != 0) continue;
        const char *value = at + sizeof(name) - 1, *end = memchr(value, '\r', (uint64_t)(body + 1 - value));
        int64_t want;
        return zl_parse_i64(zl_trim((struct zr_str){ value, (uint64_t)(end - value) }), &want) == ZR_OK && want >= 0 &&
               len - (uint64_t)(body + 4 - text) >= (uint64_t)want;
    }
    return 0;
}

/* Reads to the end of the answer. */
static zr_status read_all(int fd, char *to, uint64_t cap, uint64_t *ret_len, int64_t deadline)
{
    *ret_len = 0;
    for (;;) {
        if (*ret_len == cap) return ZR_EFULL;
        ssize_t n = recv(fd, to + *ret_len, cap - *ret_len, 0);
        if (n > 0) {
            *ret_len += (uint64_t)n;
            if (is_whole(to, *ret_len)) return ZR_OK;
        } else if (n == 0) return ZR_OK;
        else if (errno == EAGAIN) {
            zr_status st = await(fd, POLLIN, deadline);
            if (st != ZR_OK) return st;
        } else if (errno != EINTR) return ZR_EIO;
    }
}

/* The first line of the answer's body, if the status is 200. */
static zr_status answer_line(struct zr_str answer, char *to, uint64_t cap)
{
    if (answer.len < 12 || memcmp(answer.ptr, "HTTP/1.", 7) != 0 || memcmp(answer.ptr + 8, " 200", 4) != 0) return ZR_ENOENT;
    const char *body = memmem(answer.ptr, answer.len, "\r\n\r\n", 4);
    if (!body) return ZR_ENOENT;
    body += 4;
    struct zr_str rest = zl_trim((struct zr_str){ body, answer.len - (uint64_t)(body - answer.ptr) }), line;
    if (!zl_split(&rest, '\n', &line)) return ZR_ENOENT;
    line = zl_trim(line);
    if (line.len == 0) return ZR_ENOENT;
    if (line.len >= cap) return ZR_EFULL;
    memcpy(to, line.ptr, line.len);
    to[line.len] = 0;
    return ZR_OK;
}

zr_status zl_namesrv_fetch(const char *url, int32_t timeout_ms, char *to, uint64_t cap, const char **ret_why)
{
    struct place place;
    char text[ANSWER_MAX];
    int64_t deadline = now_ms() + timeout_ms;
    zr_status st = url_split(url, &place);
    *ret_why = "the URL is not http://host[:port]/path";
    if (st != ZR_OK) return st;
    int n = snprintf(text, sizeof(text), "GET %s HTTP/1.0\r\nHost: %s:%s\r\nClient-Version: 513\r\nAccept: */*\r\n"
                     "Content-Type: application/x-www-form-urlencoded;charset=UTF-8\r\nConnection: close\r\n\r\n", place.path, place.host, place.port);
    if (n < 0 || (uint64_t)n >= sizeof(text)) return ZR_EINVAL;
    *ret_why = "cannot connect to the address server";
    int fd = dial(&place, deadline, &st);
    if (fd < 0) return st;
    uint64_t len = 0;
    *ret_why = "the address server did not answer in time, or closed early, or answered too much";
    st = send_all(fd, text, (uint64_t)n, deadline);
    if (st == ZR_OK) st = read_all(fd, text, sizeof(text), &len, deadline);
    close(fd);
    if (st != ZR_OK) return st;
    *ret_why = "the address server's answer holds no addresses";
    st = answer_line((struct zr_str){ text, len }, to, cap);
    if (st == ZR_OK) *ret_why = NULL;
    return st;
}
