/* SPDX-License-Identifier: Apache-2.0 */
/* io.c - connections, the requests under way on them, and the one I/O thread.
 *
 * A caller's thread finds (or starts) the connection, writes the frame into its out buffer and sends what the socket
 * takes; the I/O thread sends the rest, reads answers, and ends what ran out of time. What stays true:
 *   1. A request under way is in `table` from before its frame is written until exactly one of (answer, timeout, loss,
 * close) takes it out; whoever takes it out completes it, with no lock held.
 *   2. A synchronous request lives on its caller's stack. The caller returns only after it took the request out itself,
 * or saw `done`, which is the last thing the completer writes.
 *   3. A connection's descriptor is closed when its last reference goes; `dead` is set before, under its lock, and then
 *      nothing is written to it any more.
 *   4. Only the I/O thread reads, and only it removes a connection from the list.
 *
 * LOCKING: io->conns_lock guards the list of connections; io->table_lock the requests under way and the heap of
 * deadlines; conn->lock the out buffer and the state. None is taken while another is held, none is held over a
 * callback. */
#include "internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#define TABLE_SLOTS 4096u /* hash chains by opaque */
#define READ_STEP 65536u

struct pending {
    struct pending *next; /* in its chain */
    struct zc_conn *conn; /* compared, never dereferenced: the list holds it */
    int64_t deadline;
    uint32_t heap_at; /* its place in the heap */
    int32_t opaque;
    zc_on_answer on_answer; /* NULL: synchronous */
    void *ctx;
    _Atomic uint32_t done;        /* synchronous: a futex, 1 when completed */
    struct zc_response *response; /* synchronous: the answer, or NULL with err */
    struct zc_err err;
};

struct zc_conn {
    struct zc_conn *next;
    atomic_uint refs;
    pthread_mutex_t lock;
    int fd; /* -1 until connect() was called */
    uint32_t connected, dead, want_write;
    atomic_uint kill; /* somebody wants the I/O thread to end it */
    _Atomic int32_t version;
    struct zl_buf out;
    uint64_t out_at;  /* sent already */
    struct zl_buf in; /* I/O thread only */
    char addr[ZC_NAME_MAX];
    struct zc_err why;
};

struct zc_io {
    int epoll_fd, wake_fd;
    uint32_t type;
    pthread_t thread;
    atomic_uint stop;
    _Atomic int32_t opaque;
    void (*on_request)(void *ctx, struct zc_conn *conn, const struct zl_header *request);
    void *ctx;
    pthread_mutex_t conns_lock;
    struct zc_conn *conns;
    uint32_t n_conns;
    pthread_mutex_t table_lock;
    struct pending *table[TABLE_SLOTS];
    struct pending **heap; /* by deadline, asynchronous ones only */
    uint32_t n_heap, cap_heap, n_pending;
};

/* A response as we hand it out: header and bytes in one block. */
struct held_response {
    struct zc_response pub;
    struct zl_header header;
    uint64_t len;
    uint8_t bytes[]; /* frame, then scratch for unescaped text */
};

int zc_fail(struct zc_err *err, int32_t code, const char *fmt, ...)
{
    if (!err) return code;
    va_list args;
    va_start(args, fmt);
    vsnprintf(err->text, sizeof(err->text), fmt, args);
    va_end(args);
    err->code = code;
    return code;
}

int zc_fail_response(struct zc_err *err, const struct zc_response *response)
{
    if (response->remark.len == 0) return zc_fail(err, response->code, "the server answered code %d", response->code);
    return zc_fail(err, response->code, "%.*s", (int)response->remark.len, response->remark.ptr);
}

/* ---- responses ---- */

/* Copies a frame and decodes the copy. */
static struct zc_response *response_make(struct zr_span frame, const char **ret_why)
{
    uint64_t scratch = frame.len >= 8 ? (zl_load32(frame.ptr + 4) & 0xffffffu) : 0;
    if (scratch > frame.len) scratch = frame.len;
    struct held_response *r = malloc(sizeof(*r) + frame.len + scratch);
    *ret_why = "memory ran out";
    if (!r) return NULL;
    memset(&r->pub, 0, sizeof(r->pub));
    memcpy(r->bytes, frame.ptr, frame.len);
    r->len = frame.len;
    if (zl_header_decode((struct zr_span){ r->bytes, frame.len }, &r->header, (char *)r->bytes + frame.len, scratch,
                         ret_why) != ZR_OK) {
        free(r);
        return NULL;
    }
    r->pub.code = r->header.code;
    r->pub.version = r->header.version;
    r->pub.remark = r->header.remark;
    r->pub.body = r->header.body;
    r->pub.fields = r->header.fields;
    r->pub.n_fields = r->header.n_fields;
    return &r->pub;
}

struct zc_response *zc_response_copy(const struct zc_response *response)
{
    const struct held_response *r = (const struct held_response *)response;
    const char *why;
    return response_make((struct zr_span){ r->bytes, r->len }, &why);
}

void zc_response_free(struct zc_response *response) { free(response); }

/* ---- heap of deadlines (table_lock held) ---- */

static void heap_put(struct zc_io *io, uint32_t at, struct pending *p)
{
    io->heap[at] = p;
    p->heap_at = at;
}

static void heap_up(struct zc_io *io, uint32_t at, struct pending *p)
{
    while (at > 0 && io->heap[(at - 1) / 2]->deadline > p->deadline) {
        heap_put(io, at, io->heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_put(io, at, p);
}

static void heap_down(struct zc_io *io, uint32_t at, struct pending *p)
{
    for (;;) {
        uint32_t kid = 2 * at + 1;
        if (kid >= io->n_heap) break;
        if (kid + 1 < io->n_heap && io->heap[kid + 1]->deadline < io->heap[kid]->deadline) kid++;
        if (io->heap[kid]->deadline >= p->deadline) break;
        heap_put(io, at, io->heap[kid]);
        at = kid;
    }
    heap_put(io, at, p);
}

static int heap_add(struct zc_io *io, struct pending *p)
{
    if (io->n_heap == io->cap_heap) {
        uint32_t cap = io->cap_heap ? io->cap_heap * 2 : 256;
        struct pending **grown = realloc(io->heap, cap * sizeof(*grown));
        if (!grown) return -1;
        io->heap = grown;
        io->cap_heap = cap;
    }
    heap_up(io, io->n_heap++, p);
    return 0;
}

static void heap_remove(struct zc_io *io, struct pending *p)
{
    uint32_t at = p->heap_at;
    struct pending *last = io->heap[--io->n_heap];
    if (last == p) return;
    if (at > 0 && io->heap[(at - 1) / 2]->deadline > last->deadline)
        heap_up(io, at, last);
    else
        heap_down(io, at, last);
}

/* ---- the table of requests under way ---- */

static int table_add(struct zc_io *io, struct pending *p, struct zc_err *err)
{
    int rc = ZC_OK;
    uint32_t first = 0;
    pthread_mutex_lock(&io->table_lock);
    if (io->n_pending >= ZC_MAX_UNDER_WAY)
        rc = ZC_EFULL;
    else if (p->on_answer && heap_add(io, p))
        rc = ZC_ENOMEM;
    else {
        struct pending **slot = &io->table[(uint32_t)p->opaque % TABLE_SLOTS];
        p->next = *slot;
        *slot = p;
        io->n_pending++;
        first = p->on_answer && p->heap_at == 0;
    }
    pthread_mutex_unlock(&io->table_lock);
    if (rc) return zc_fail(err, rc, rc == ZC_EFULL ? "too many requests under way" : "memory ran out");
    if (first && !pthread_equal(pthread_self(), io->thread))
        eventfd_write(io->wake_fd, 1); /* the earliest deadline changed */
    return ZC_OK;
}

/* Takes the request with that opaque (and p, if given) out; NULL: somebody else did. */
static struct pending *table_take(struct zc_io *io, int32_t opaque, const struct pending *p)
{
    pthread_mutex_lock(&io->table_lock);
    struct pending **at = &io->table[(uint32_t)opaque % TABLE_SLOTS];
    while (*at && ((*at)->opaque != opaque || (p && *at != p))) at = &(*at)->next;
    struct pending *found = *at;
    if (found) {
        *at = found->next;
        io->n_pending--;
        if (found->on_answer) heap_remove(io, found);
    }
    pthread_mutex_unlock(&io->table_lock);
    return found;
}

/* Takes any request of conn (or of all, if NULL) out. */
static struct pending *table_take_any(struct zc_io *io, const struct zc_conn *conn, uint32_t *slot)
{
    struct pending *found = NULL;
    pthread_mutex_lock(&io->table_lock);
    for (; *slot < TABLE_SLOTS && !found; ++*slot) {
        struct pending **at = &io->table[*slot];
        while (*at && conn && (*at)->conn != conn) at = &(*at)->next;
        if (!*at) continue;
        found = *at;
        *at = found->next;
        io->n_pending--;
        if (found->on_answer) heap_remove(io, found);
        break;
    }
    pthread_mutex_unlock(&io->table_lock);
    return found;
}

/* Completes a request that was taken out: with response (given), or with err. */
static void pending_complete(struct pending *p, struct zc_response *response, const struct zc_err *err)
{
    if (p->on_answer) {
        p->on_answer(p->ctx, response, err);
        zc_response_free(response);
        free(p);
        return;
    }
    p->response = response;
    if (err) p->err = *err;
    atomic_store(&p->done, 1);
    /* The caller may be gone by now: waking an address whose memory serves something else is harmless. */
    syscall(SYS_futex, &p->done, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

/* Waits until p is completed, or (until given) that moment of the monotonic clock. 0: completed. */
static int pending_wait(struct pending *p, const struct timespec *until)
{
    while (!atomic_load(&p->done)) {
        long rc = syscall(SYS_futex, &p->done, FUTEX_WAIT_BITSET_PRIVATE, 0, until, NULL, FUTEX_BITSET_MATCH_ANY);
        if (rc < 0 && errno == ETIMEDOUT) return atomic_load(&p->done) ? 0 : -1;
    }
    return 0;
}

static void fail_all(struct zc_io *io, const struct zc_conn *conn, const struct zc_err *err)
{
    uint32_t slot = 0;
    for (struct pending *p; (p = table_take_any(io, conn, &slot));) pending_complete(p, NULL, err);
}

/* ---- connections ---- */

static void conn_release(struct zc_conn *conn)
{
    if (atomic_fetch_sub(&conn->refs, 1) != 1) return;
    if (conn->fd >= 0) close(conn->fd);
    zl_buf_free(&conn->out);
    zl_buf_free(&conn->in);
    pthread_mutex_destroy(&conn->lock);
    free(conn);
}

static struct zc_conn *conn_new(const char *addr)
{
    struct zc_conn *conn = calloc(1, sizeof(*conn));
    if (!conn) return NULL;
    pthread_mutex_init(&conn->lock, NULL);
    conn->fd = -1;
    conn->version = -1;
    atomic_init(&conn->refs, 1);
    zl_buf_init(&conn->out, ZC_MAX_OUT);
    zl_buf_init(&conn->in, ZL_FRAME_MAX + READ_STEP);
    memcpy(conn->addr, addr, strlen(addr) + 1);
    return conn;
}

static int socket_options(int fd)
{
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

/* Starts connecting a Unix socket. */
static int dial_ipc(const char *path, struct zc_err *err)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(un.sun_path)) return zc_fail(err, ZC_EARG, "the socket path %s is too long", path);
    strcpy(un.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) return zc_fail(err, ZC_ECONNECT, "no socket: %s", strerror(errno));
    if (connect(fd, (struct sockaddr *)&un, sizeof(un)) < 0) {
        int e = errno;
        close(fd);
        return zc_fail(err, ZC_ECONNECT, "cannot connect to %s: %s", path, strerror(e));
    }
    return fd;
}

/* Starts connecting addr; returns the descriptor or a negative code. Looking up a name may block. */
static int dial(const char *addr, struct zc_err *err)
{
    if (strncmp(addr, "ipc://", 6) == 0) return dial_ipc(addr + 6, err);
    const char *colon = strrchr(addr, ':');
    if (!colon || colon == addr || !colon[1]) return zc_fail(err, ZC_EARG, "%s is no address (host:port)", addr);
    char host[ZC_NAME_MAX];
    const char *from = addr;
    uint64_t len = (uint64_t)(colon - addr);
    if (*from == '[' && len >= 2 && from[len - 1] == ']') from++, len -= 2;
    memcpy(host, from, len);
    host[len] = 0;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    int rc = getaddrinfo(host, colon + 1, &hints, &list);
    if (rc) return zc_fail(err, ZC_ECONNECT, "cannot look %s up: %s", addr, gai_strerror(rc));
    int fd = -1, e = 0;
    /* IPv4 first: RocketMQ's servers listen there. */
    for (int round = 0; round < 2 && fd < 0; round++)
        for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
            if ((a->ai_family == AF_INET) != (round == 0)) continue;
            fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
            if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) < 0 && errno != EINPROGRESS) {
                e = errno;
                close(fd);
                fd = -1;
            }
        }
    freeaddrinfo(list);
    if (fd < 0) return zc_fail(err, ZC_ECONNECT, "cannot connect to %s: %s", addr, strerror(e));
    return socket_options(fd);
}

/* Finds the connection to addr or starts one; returns a reference. */
static struct zc_conn *conn_get(struct zc_io *io, const char *addr, struct zc_err *err)
{
    uint32_t fresh = 0;
    if (strlen(addr) >= ZC_NAME_MAX) return zc_fail(err, ZC_EARG, "the address is too long"), NULL;
    pthread_mutex_lock(&io->conns_lock);
    struct zc_conn *conn = io->conns;
    while (conn && strcmp(conn->addr, addr) != 0) conn = conn->next;
    if (!conn && !atomic_load(&io->stop) && io->n_conns < ZC_MAX_CONNS && (conn = conn_new(addr))) {
        conn->next = io->conns;
        io->conns = conn;
        io->n_conns++;
        fresh = 1;
    }
    if (conn) atomic_fetch_add(&conn->refs, 1);
    pthread_mutex_unlock(&io->conns_lock);
    if (!conn)
        return zc_fail(err, atomic_load(&io->stop) ? ZC_ECLOSING : ZC_EFULL, "no further connection to %s", addr), NULL;
    if (!fresh) return conn;

    struct zc_err why = { 0 };
    int fd = dial(addr, &why);
    pthread_mutex_lock(&conn->lock);
    if (fd >= 0) {
        conn->fd = fd;
        conn->want_write = 1;
        struct epoll_event ev = { .events = EPOLLIN | EPOLLOUT, .data.ptr = conn };
        if (epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, fd, &ev) < 0)
            zc_fail(&why, ZC_ECONNECT, "epoll: %s", strerror(errno)), fd = -1;
    }
    if (fd < 0) {
        conn->dead = 1;
        conn->why = why;
        atomic_store(&conn->kill, 1);
    }
    pthread_mutex_unlock(&conn->lock);
    if (fd < 0) eventfd_write(io->wake_fd, 1);
    return conn;
}

static void conn_kill(struct zc_io *io, struct zc_conn *conn)
{
    atomic_store(&conn->kill, 1);
    eventfd_write(io->wake_fd, 1);
}

static void conn_want(struct zc_io *io, struct zc_conn *conn, uint32_t want_write)
{
    if (conn->want_write == want_write) return;
    conn->want_write = want_write;
    struct epoll_event ev = { .events = EPOLLIN | (want_write ? EPOLLOUT : 0u), .data.ptr = conn };
    epoll_ctl(io->epoll_fd, EPOLL_CTL_MOD, conn->fd, &ev);
}

/* Sends what the socket takes (conn->lock held). -1: the connection is broken. */
static int conn_flush(struct zc_io *io, struct zc_conn *conn)
{
    while (conn->out_at < conn->out.len) {
        ssize_t n =
            send(conn->fd, conn->out.ptr + conn->out_at, conn->out.len - conn->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
        if (n < 0) return zc_fail(&conn->why, ZC_ELOST, "writing to %s: %s", conn->addr, strerror(errno)), -1;
        conn->out_at += (uint64_t)n;
    }
    if (conn->out_at == conn->out.len) {
        zl_buf_clear(&conn->out);
        conn->out_at = 0;
    }
    conn_want(io, conn, conn->out.len > 0);
    return 0;
}

/* Appends a command and sends if nothing is waiting before it. */
static int conn_write(struct zc_io *io, struct zc_conn *conn, const struct zr_command *command, uint32_t type,
                      int32_t flag, int32_t opaque, struct zc_err *err)
{
    int rc = ZC_OK;
    pthread_mutex_lock(&conn->lock);
    if (conn->dead) {
        rc = zc_fail(err, conn->why.code ? conn->why.code : ZC_ELOST, "%s",
                     conn->why.code ? conn->why.text : "the connection is gone");
    } else {
        uint64_t before = conn->out.len;
        if (zl_command_encode(&conn->out, command, type, flag, opaque, command->body.len) != ZR_OK ||
            conn->out.failed) {
            conn->out.len = before; /* what waits already stays whole */
            conn->out.failed = 0;
            rc = zc_fail(err, ZC_EFULL, "too much is waiting to be sent to %s", conn->addr);
        } else if (conn->connected && before == 0 && conn_flush(io, conn)) {
            conn_kill(io, conn);
        }
    }
    pthread_mutex_unlock(&conn->lock);
    return rc;
}

/* The I/O thread lets go of a connection: nothing is written any more, and what waited for answers ends. */
static void conn_end(struct zc_io *io, struct zc_conn *conn, int32_t code)
{
    struct zc_err why;
    pthread_mutex_lock(&conn->lock);
    conn->dead = 1;
    if (!conn->why.code)
        zc_fail(&conn->why, conn->connected ? ZC_ELOST : ZC_ECONNECT,
                conn->connected ? "%s closed the connection" : "cannot connect to %s", conn->addr);
    if (code) zc_fail(&conn->why, code, "the client is being closed");
    why = conn->why;
    if (conn->fd >= 0) {
        epoll_ctl(io->epoll_fd, EPOLL_CTL_DEL, conn->fd, NULL);
        shutdown(conn->fd, SHUT_RDWR);
    }
    pthread_mutex_unlock(&conn->lock);
    pthread_mutex_lock(&io->conns_lock);
    struct zc_conn **at = &io->conns;
    while (*at && *at != conn) at = &(*at)->next;
    if (*at) *at = conn->next, io->n_conns--;
    pthread_mutex_unlock(&io->conns_lock);
    fail_all(io, conn, &why);
    conn_release(conn);
}

/* ---- the I/O thread ---- */

static void frame_answer(struct zc_io *io, struct zc_conn *conn, struct zr_span frame, int32_t opaque)
{
    struct pending *p = table_take(io, opaque, NULL);
    if (!p) return; /* it came too late */
    const char *why = NULL;
    struct zc_response *response = response_make(frame, &why);
    if (response) {
        atomic_store(&conn->version, response->version);
        pending_complete(p, response, NULL);
        return;
    }
    struct zc_err err;
    zc_fail(&err, ZC_EPROTO, "the answer of %s could not be read: %s", conn->addr, why);
    pending_complete(p, NULL, &err);
}

/* One whole frame. -1: not understood, the connection must end. */
static int frame_take(struct zc_io *io, struct zc_conn *conn, struct zr_span frame)
{
    struct zl_header header;
    const char *why = NULL;
    uint64_t cap = zl_load32(frame.ptr + 4) & 0xffffffu;
    char *scratch = malloc(cap + 1);
    if (!scratch) return -1;
    int rc = 0;
    if (zl_header_decode(frame, &header, scratch, cap, &why) != ZR_OK) {
        pthread_mutex_lock(&conn->lock);
        zc_fail(&conn->why, ZC_EPROTO, "%s sent what is no frame: %s", conn->addr, why ? why : "?");
        pthread_mutex_unlock(&conn->lock);
        rc = -1;
    } else if (header.flag & ZL_FLAG_RESPONSE) {
        frame_answer(io, conn, frame, header.opaque);
    } else {
        io->on_request(io->ctx, conn, &header);
    }
    free(scratch);
    return rc;
}

/* Reads what is there and handles each whole frame. -1: the connection ended or lost its framing. */
static int conn_read(struct zc_io *io, struct zc_conn *conn)
{
    uint8_t *room = zl_buf_reserve(&conn->in, READ_STEP);
    if (!room) return -1;
    uint64_t space = conn->in.cap - conn->in.len;
    ssize_t n = recv(conn->fd, room, space, MSG_DONTWAIT);
    if (n < 0) {
        if (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR) return 0;
        pthread_mutex_lock(&conn->lock);
        zc_fail(&conn->why, conn->connected ? ZC_ELOST : ZC_ECONNECT, "%s: %s", conn->addr, strerror(errno));
        pthread_mutex_unlock(&conn->lock);
        return -1;
    }
    if (n == 0) return -1;
    conn->in.len += (uint64_t)n;
    uint64_t at = 0;
    for (;;) {
        struct zr_span frame;
        uint64_t need = 0;
        zr_status st = zl_frame_cut((struct zr_span){ conn->in.ptr + at, conn->in.len - at }, &frame, &need);
        if (st == ZR_EAGAIN) break;
        if (st != ZR_OK) return -1;
        if (frame_take(io, conn, frame)) return -1;
        at += frame.len;
    }
    memmove(conn->in.ptr, conn->in.ptr + at, conn->in.len - at);
    conn->in.len -= at;
    return 0;
}

static int conn_writable(struct zc_io *io, struct zc_conn *conn)
{
    int rc = 0;
    pthread_mutex_lock(&conn->lock);
    if (!conn->connected) {
        int e = 0;
        socklen_t len = sizeof(e);
        getsockopt(conn->fd, SOL_SOCKET, SO_ERROR, &e, &len);
        if (e)
            rc = -1, zc_fail(&conn->why, ZC_ECONNECT, "cannot connect to %s: %s", conn->addr, strerror(e));
        else
            conn->connected = 1;
    }
    if (rc == 0 && conn->connected) rc = conn_flush(io, conn);
    pthread_mutex_unlock(&conn->lock);
    return rc;
}

static void conn_event(struct zc_io *io, struct zc_conn *conn, uint32_t events)
{
    int rc = 0;
    if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP)) rc = conn_writable(io, conn);
    if (rc == 0 && (events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP))) rc = conn_read(io, conn);
    if (rc) conn_end(io, conn, 0);
}

/* Ends connections that somebody wants ended, all of them if code. Returns a hold of the first such one. */
static void kill_wanted(struct zc_io *io, int32_t code)
{
    for (;;) {
        pthread_mutex_lock(&io->conns_lock);
        struct zc_conn *conn = io->conns;
        while (conn && !code && !atomic_load(&conn->kill)) conn = conn->next;
        pthread_mutex_unlock(&io->conns_lock);
        if (!conn) return;
        conn_end(io, conn, code);
    }
}

/* Ends requests whose time ran out; returns the milliseconds until the next deadline, -1: none. */
static int expire(struct zc_io *io)
{
    for (;;) {
        int64_t now = zc_now_ns(), wait = -1;
        struct pending *p = NULL;
        pthread_mutex_lock(&io->table_lock);
        if (io->n_heap) {
            p = io->heap[0];
            wait = p->deadline - now;
        }
        int32_t opaque = p ? p->opaque : 0;
        pthread_mutex_unlock(&io->table_lock);
        if (!p) return -1;
        if (wait > 0) return (int)(wait / ZC_MS) + 1;
        if (!table_take(io, opaque, p)) continue;
        struct zc_err err;
        zc_fail(&err, ZC_ETIMEOUT, "no answer in time");
        pending_complete(p, NULL, &err);
    }
}

static void *io_run(void *arg)
{
    struct zc_io *io = arg;
    struct epoll_event events[64];
    pthread_setname_np(pthread_self(), "zc-io");
    while (!atomic_load(&io->stop)) {
        int wait = expire(io);
        int n = epoll_wait(io->epoll_fd, events, 64, wait);
        uint32_t woken = 0;
        for (int i = 0; i < n; i++) {
            if (events[i].data.ptr)
                conn_event(io, events[i].data.ptr, events[i].events);
            else
                woken = 1;
        }
        if (woken) {
            eventfd_t v;
            eventfd_read(io->wake_fd, &v);
            kill_wanted(io, 0);
        }
    }
    kill_wanted(io, ZC_ECLOSING);
    return NULL;
}

/* ---- calls ---- */

static void command_of(struct zr_command *command, const struct zc_request *request)
{
    *command = (struct zr_command){ .hdr = ZR_HDR(struct zr_command, 1),
                                    .code = request->code,
                                    .n_fields = request->n_fields,
                                    .fields = request->fields,
                                    .body = request->body,
                                    .flags = request->empty_ext ? ZR_COMMAND_EMPTY_EXT : 0 };
}

/* Puts p into the table and its frame on the way. On an error nothing is under way any more. */
static int start(struct zc_io *io, const char *addr, const struct zc_request *request, struct pending *p,
                 struct zc_conn **ret_conn, struct zc_err *err)
{
    struct zr_command command;
    struct zc_conn *conn = conn_get(io, addr, err);
    if (!conn) return err->code;
    command_of(&command, request);
    p->conn = conn;
    p->opaque = atomic_fetch_add(&io->opaque, 1) & 0x7fffffff;
    int32_t opaque = p->opaque;
    int rc = table_add(io, p, err);
    if (rc == 0) {
        rc = conn_write(io, conn, &command, io->type, 0, opaque, err);
        /* Somebody else took it out already: it is completed, which is no failure to start. */
        if (rc && !table_take(io, opaque, p)) rc = 0;
    }
    if (rc || !ret_conn)
        conn_release(conn);
    else
        *ret_conn = conn;
    return rc;
}

int zc_io_call(struct zc_io *io, const char *addr, const struct zc_request *request, int32_t timeout_ms,
               struct zc_response **ret, struct zc_err *err)
{
    struct zc_err mine;
    if (!err) err = &mine;
    struct pending p = { 0 };
    struct zc_conn *conn = NULL;
    *ret = NULL;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += timeout_ms % 1000 * ZC_MS;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    int rc = start(io, addr, request, &p, &conn, err);
    if (rc == 0) {
        rc = pending_wait(&p, &until);
        if (rc < 0 && table_take(io, p.opaque, &p)) {
            rc = zc_fail(err, ZC_ETIMEOUT, "no answer from %s within %d ms", addr, timeout_ms);
            pthread_mutex_lock(&conn->lock);
            uint32_t stuck = !conn->connected;
            pthread_mutex_unlock(&conn->lock);
            if (stuck) conn_kill(io, conn);
        } else {
            if (rc < 0) pending_wait(&p, NULL); /* somebody is completing it just now */
            *ret = p.response;
            rc = p.response ? ZC_OK : zc_fail(err, p.err.code, "%s", p.err.text);
        }
        conn_release(conn);
    }
    return rc;
}

int zc_io_call_async(struct zc_io *io, const char *addr, const struct zc_request *request, int32_t timeout_ms,
                     zc_on_answer on_answer, void *ctx, struct zc_err *err)
{
    struct zc_err mine;
    if (!err) err = &mine;
    struct pending *p = calloc(1, sizeof(*p));
    if (!p) return zc_fail(err, ZC_ENOMEM, "memory ran out");
    p->on_answer = on_answer;
    p->ctx = ctx;
    p->deadline = zc_now_ns() + timeout_ms * ZC_MS;
    int rc = start(io, addr, request, p, NULL, err);
    if (rc) free(p);
    return rc;
}

int zc_io_after(struct zc_io *io, int32_t delay_ms, zc_on_answer then, void *ctx)
{
    struct zc_err err;
    struct pending *p = calloc(1, sizeof(*p));
    if (!p) return ZC_ENOMEM;
    p->on_answer = then;
    p->ctx = ctx;
    p->deadline = zc_now_ns() + delay_ms * ZC_MS;
    p->opaque = atomic_fetch_add(&io->opaque, 1) & 0x7fffffff;
    int rc = atomic_load(&io->stop) ? ZC_ECLOSING : table_add(io, p, &err);
    if (rc) free(p);
    return rc;
}

int zc_io_call_oneway(struct zc_io *io, const char *addr, const struct zc_request *request, struct zc_err *err)
{
    struct zc_err mine;
    if (!err) err = &mine;
    struct zr_command command;
    struct zc_conn *conn = conn_get(io, addr, err);
    if (!conn) return err->code;
    command_of(&command, request);
    int rc =
        conn_write(io, conn, &command, io->type, ZL_FLAG_ONEWAY, atomic_fetch_add(&io->opaque, 1) & 0x7fffffff, err);
    conn_release(conn);
    return rc;
}

void zc_io_answer(struct zc_io *io, struct zc_conn *conn, const struct zl_header *request,
                  const struct zr_command *response)
{
    if (request->flag & ZL_FLAG_ONEWAY) return;
    conn_write(io, conn, response, request->type, ZL_FLAG_RESPONSE, request->opaque, NULL);
}

int32_t zc_io_peer_version(struct zc_io *io, const char *addr)
{
    int32_t version = -1;
    pthread_mutex_lock(&io->conns_lock);
    for (struct zc_conn *conn = io->conns; conn; conn = conn->next)
        if (strcmp(conn->addr, addr) == 0) version = atomic_load(&conn->version);
    pthread_mutex_unlock(&io->conns_lock);
    return version;
}

struct zc_io *zc_io_open(uint32_t header_type,
                         void (*on_request)(void *ctx, struct zc_conn *conn, const struct zl_header *request),
                         void *ctx, struct zc_err *err)
{
    struct zc_io *io = calloc(1, sizeof(*io));
    if (!io) return zc_fail(err, ZC_ENOMEM, "memory ran out"), NULL;
    io->type = header_type;
    io->on_request = on_request;
    io->ctx = ctx;
    pthread_mutex_init(&io->conns_lock, NULL);
    pthread_mutex_init(&io->table_lock, NULL);
    io->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    io->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event ev = { .events = EPOLLIN };
    if (io->epoll_fd >= 0 && io->wake_fd >= 0 && epoll_ctl(io->epoll_fd, EPOLL_CTL_ADD, io->wake_fd, &ev) == 0 &&
        pthread_create(&io->thread, NULL, io_run, io) == 0)
        return io;
    zc_fail(err, ZC_ENOMEM, "the I/O thread could not be started: %s", strerror(errno));
    if (io->epoll_fd >= 0) close(io->epoll_fd);
    if (io->wake_fd >= 0) close(io->wake_fd);
    free(io);
    return NULL;
}

void zc_io_close(struct zc_io *io)
{
    if (!io) return;
    atomic_store(&io->stop, 1);
    eventfd_write(io->wake_fd, 1);
    pthread_join(io->thread, NULL);
    struct zc_err err;
    zc_fail(&err, ZC_ECLOSING, "the client is being closed");
    fail_all(io, NULL, &err);
    close(io->epoll_fd);
    close(io->wake_fd);
    pthread_mutex_destroy(&io->conns_lock);
    pthread_mutex_destroy(&io->table_lock);
    free(io->heap);
    free(io);
}
