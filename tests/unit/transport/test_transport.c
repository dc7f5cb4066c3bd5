/* SPDX-License-Identifier: Apache-2.0 */
/* test_transport.c - the same promises of zarya/transport.h, asked of every transport that carries byte streams. Each CASE
 * runs once for each of them, over the listener that `flavours` names. Nothing here asserts how long something takes; every
 * wait ends with its event, or with the test's own limit. */
#include "tests.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "echo.h"
#include "zl/text.h"

#define LIMIT 60.0
#define MAX_SETTINGS 24

struct flavour { const char *id, *listen, *lanes; };
static const struct flavour tcp = { "transport-tcp", "127.0.0.1:0", "threads" };
static const struct flavour nng_tcp = { "transport-nng", "tcp://127.0.0.1:0", "lanes" };
static const struct flavour nng_ipc = { "transport-nng", "ipc:///tmp/zarya-test-%d.sock", "lanes" };

struct rig { struct mini m; struct echo e; const struct zr_listener *listeners; uint32_t n; };

static struct rig *rig_make(const struct flavour *f, const struct setting *more)
{
    struct rig *r = calloc(1, sizeof *r);
    struct setting all[MAX_SETTINGS] = { { f->lanes, "2" } };
    char listen[128];
    uint32_t n = 1, has_listen = 0;
    for (; more && more->name; more++) {
        all[n++] = *more;
        has_listen |= strcmp(more->name, "listen") == 0;
    }
    if (!has_listen) {
        snprintf(listen, sizeof listen, f->listen, (int)getpid());
        all[n++] = (struct setting){ "listen", listen };
    }
    cr_assert_eq(mini_create(&r->m, f->id, all), ZR_OK, "%s", r->m.error);
    echo_init(&r->e, &r->m);
    cr_assert_eq(mini_start(&r->m, &r->e.sink), ZR_OK, "%s", r->m.error);
    r->n = r->m.t->listeners(r->m.inst, &r->listeners);
    return r;
}

static void rig_end(struct rig *r)
{
    mini_drain(&r->m);
    mini_stop(&r->m);
    cr_assert_eq(atomic_load(&r->e.broken), 0u, "a promise was broken");
    cr_assert_eq(atomic_load(&r->e.opened), atomic_load(&r->e.closed));
    cr_assert_eq(atomic_load(&r->e.sends_held), atomic_load(&r->e.dones), "done was not called once for each");
    cr_assert_eq(mini_metric(&r->m, "_connections"), 0);
    cr_assert_eq(mini_metric(&r->m, "_queued_bytes"), 0);
    echo_free(&r->e);
    free(r);
}

static void pause_a_moment(void)
{
    struct timespec ts = { 0, 1000000 };
    nanosleep(&ts, NULL);
}

#define EVENTUALLY(condition)        \
    while (!(condition)) {           \
        pause_a_moment();            \
    }

/* ---- a client ---------------------------------------------------------------------------------------------------- */

static int client(struct rig *r, uint32_t listener)
{
    const struct zr_listener *l = &r->listeners[listener];
    struct timeval limit = { 30, 0 };
    int fd;
    if (l->addr.family == 4) {
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_port = htons(l->addr.port) };
        memcpy(&in.sin_addr, l->addr.ip, 4);
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        cr_assert_eq(connect(fd, (struct sockaddr *)&in, sizeof in), 0, "%s", strerror(errno));
    } else if (l->addr.family == 6) {
        struct sockaddr_in6 in = { .sin6_family = AF_INET6, .sin6_port = htons(l->addr.port) };
        in.sin6_addr = in6addr_loopback;
        fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
        cr_assert_eq(connect(fd, (struct sockaddr *)&in, sizeof in), 0, "%s", strerror(errno));
    } else {
        struct sockaddr_un un = { .sun_family = AF_UNIX };
        snprintf(un.sun_path, sizeof un.sun_path, "%.*s", (int)l->url.len - 6, l->url.ptr + 6);
        fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        int rc; /* a full backlog of a Unix socket refuses where TCP would wait */
        while ((rc = connect(fd, (struct sockaddr *)&un, sizeof un)) != 0 && errno == EAGAIN) {
            pause_a_moment();
        }
        cr_assert_eq(rc, 0, "%s", strerror(errno));
    }
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    return fd;
}

static void put(int fd, const void *bytes, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t w = send(fd, (const char *)bytes + at, n - at, MSG_NOSIGNAL);
        cr_assert_gt(w, 0, "send: %s", strerror(errno));
        at += (size_t)w;
    }
}

static void get(int fd, void *bytes, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t w = recv(fd, (char *)bytes + at, n - at, 0);
        cr_assert_gt(w, 0, "recv: %s", w ? strerror(errno) : "closed");
        at += (size_t)w;
    }
}

/* 1: the other side closed it (in whatever way). */
static int at_end(int fd)
{
    char b[4096];
    ssize_t n;
    while ((n = recv(fd, b, sizeof b, 0)) > 0) {
    }
    return n == 0 || errno == ECONNRESET || errno == EPIPE;
}

static void put_frame(int fd, char what, uint32_t a, uint32_t b)
{
    uint8_t frame[13];
    zl_store32(frame, 9);
    frame[4] = (uint8_t)what;
    zl_store32(frame + 5, a);
    zl_store32(frame + 9, b);
    put(fd, frame, sizeof frame);
}

static void echo_small(int fd, uint32_t tag)
{
    uint8_t back[13];
    put_frame(fd, 'e', tag, ~tag);
    get(fd, back, sizeof back);
    cr_assert_eq(zl_load32(back), 9u);
    cr_assert_eq(back[4], 'e');
    cr_assert_eq(zl_load32(back + 5), tag);
    cr_assert_eq(zl_load32(back + 9), ~tag);
}

/* A frame of `size` echo_bytes from `off`. */
static void get_pattern(int fd, uint32_t size, uint32_t off)
{
    uint8_t head[4], *body = malloc(size);
    get(fd, head, 4);
    cr_assert_eq(zl_load32(head), size);
    get(fd, body, size);
    for (uint32_t i = 0; i < size; i++) {
        cr_assert_eq(body[i], echo_byte((uint64_t)off + i), "byte %u", i);
    }
    free(body);
}

#define CASE(name)                                                        \
    static void name##_case(const struct flavour *f);                     \
    Test(tcp, name, .timeout = LIMIT) { name##_case(&tcp); }              \
    Test(nng_tcp, name, .timeout = LIMIT) { name##_case(&nng_tcp); }      \
    Test(nng_ipc, name, .timeout = LIMIT) { name##_case(&nng_ipc); }      \
    static void name##_case(const struct flavour *f)

/* ---- reading and answering --------------------------------------------------------------------------------------- */

CASE(echo)
{
    struct rig *r = rig_make(f, NULL);
    int a = client(r, 0), b = client(r, 0);
    for (uint32_t i = 0; i < 1000; i++) {
        echo_small(a, i);
        echo_small(b, i + 7);
    }
    /* Two connections use two lanes. */
    cr_assert_eq(r->m.t->lanes(r->m.inst), 2u);
    cr_assert_eq(r->e.lanes[0].opened, 1u);
    cr_assert_eq(r->e.lanes[1].opened, 1u);
    close(a);
    close(b);
    EVENTUALLY(atomic_load(&r->e.closed) == 2);
    cr_assert_eq(atomic_load(&r->e.last_why), ZR_ECLOSED);
    cr_assert_eq(mini_metric(&r->m, "_accepted_total"), 2);
    rig_end(r);
}

CASE(many_frames_in_one_write)
{
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0);
    static uint8_t out[5000 * 13], in[sizeof out];
    for (uint32_t i = 0; i < 5000; i++) {
        uint8_t *p = out + i * 13;
        zl_store32(p, 9);
        p[4] = 'e';
        zl_store32(p + 5, i);
        zl_store32(p + 9, i * 3);
    }
    put(fd, out, sizeof out);
    get(fd, in, sizeof in);
    cr_assert_arr_eq(in, out, sizeof in);
    close(fd);
    rig_end(r);
}

CASE(big_frames)
{
    struct rig *r = rig_make(f, NULL);
    uint32_t size = 8u << 20;
    uint8_t *out = malloc(size), *in = malloc(size);
    for (uint32_t i = 0; i < size; i++) {
        out[i] = (uint8_t)(i ^ (i >> 11));
    }
    zl_store32(out, size - 4);
    out[4] = 'e';
    for (int round = 0; round < 2; round++) {
        int fd = client(r, 0);
        pid_t child = fork(); /* the answer is longer than socket buffers: somebody must read meanwhile */
        if (child == 0) {
            for (size_t at = 0; at < size;) {
                ssize_t w = send(fd, out + at, size - at, MSG_NOSIGNAL);
                if (w <= 0) {
                    _exit(1);
                }
                at += (size_t)w;
            }
            _exit(0);
        }
        get(fd, in, size);
        cr_assert_arr_eq(in, out, size);
        echo_small(fd, 5);
        close(fd);
    }
    EVENTUALLY(atomic_load(&r->e.closed) == 2 && mini_metric(&r->m, "_input_bytes") == 0);
    free(out);
    free(in);
    rig_end(r);
}

CASE(one_byte_at_a_time)
{
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0), one = 1;
    uint8_t out[3 * 13], in[sizeof out];
    setsockopt(fd, IPPROTO_TCP, 1 /* TCP_NODELAY */, &one, sizeof one);
    for (uint32_t i = 0; i < 3; i++) {
        zl_store32(out + i * 13, 9);
        out[i * 13 + 4] = 'e';
        memset(out + i * 13 + 5, (int)i, 8);
    }
    for (size_t i = 0; i < sizeof out; i++) {
        uint32_t turns = atomic_load(&r->e.turns);
        put(fd, out + i, 1);
        if (i % 13 == 12) { /* the turn that answers a frame must have been */
            get(fd, in + i - 12, 13);
            cr_assert_geq(atomic_load(&r->e.turns), turns);
        }
    }
    cr_assert_arr_eq(in, out, sizeof in);
    close(fd);
    rig_end(r);
}

CASE(bad_frame_closes_only_its_connection)
{
    struct rig *r = rig_make(f, NULL);
    int good = client(r, 0), bad = client(r, 0);
    echo_small(good, 1);
    put(bad, "\x00\xff\x00\x00" "e", 5); /* long, but within what is allowed: it is waited for */
    put(bad, "x", 1);
    echo_small(good, 2);
    close(bad);
    bad = client(r, 0);
    put(bad, "\x7f\xff\xff\xff" "eeee", 8); /* the sink says ZR_ECORRUPT */
    cr_assert(at_end(bad));
    EVENTUALLY(atomic_load(&r->e.closed) == 2);
    echo_small(good, 3);
    close(bad);
    close(good);
    rig_end(r);
}

CASE(answer_then_close)
{
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0);
    put_frame(fd, 'b', 3u << 20, 11);
    put_frame(fd, 'x', 0, 0);
    get_pattern(fd, 3u << 20, 11);
    cr_assert(at_end(fd));
    close(fd);
    EVENTUALLY(atomic_load(&r->e.closed) == 1);
    rig_end(r);
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

CASE(files_and_held_memory)
{
    static const uint32_t sizes[] = { 1, 100, 16383, 16384, 65536, 1000000 };
    static const char kinds[] = "fpbh";
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0);
    for (size_t k = 0; k < 4; k++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            put_frame(fd, kinds[k], sizes[i], 4321);
            get_pattern(fd, sizes[i], 4321);
        }
    }
    for (size_t i = 0; i < 40; i++) { /* more than the socket takes: through the queue */
        put_frame(fd, kinds[i % 4], 200000 + (uint32_t)i, (uint32_t)i);
    }
    for (size_t i = 0; i < 40; i++) {
        get_pattern(fd, 200000 + (uint32_t)i, (uint32_t)i);
    }
    close(fd);
    rig_end(r);
}

CASE(a_file_that_is_too_short_ends_the_connection)
{
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0);
    put_frame(fd, 'f', 2u << 20, 0); /* of 1 MiB */
    cr_assert(at_end(fd));
    close(fd);
    EVENTUALLY(atomic_load(&r->e.closed) == 1);
    rig_end(r);
}

CASE(client_that_never_reads)
{
    static const struct setting s[] = { { "output_limit", "1 MiB" }, { NULL, NULL } };
    struct rig *r = rig_make(f, s);
    int deaf = client(r, 0), good = client(r, 0);
    struct timeval soon = { 0, 200000 };
    /* It asks and asks: reading stops, so that its own writes stop at some time. */
    setsockopt(deaf, SOL_SOCKET, SO_SNDTIMEO, &soon, sizeof soon);
    uint8_t frame[1024] = { 0, 0, 3, 252, 'b' };
    zl_store32(frame + 5, 50000);
    uint64_t asked = 0;
    while (asked < 200000 && send(deaf, frame, sizeof frame, MSG_NOSIGNAL) > 0) {
        asked++;
        if (asked % 100 == 0) {
            echo_small(good, (uint32_t)asked);
        }
    }
    cr_assert_lt(asked, 200000u, "10 GB of answers were taken for a client that reads none");
    /* Bounded: what was read in one turn may be answered, no more. */
    cr_assert_lt(mini_metric(&r->m, "_queued_bytes"), 64 << 20);
    for (uint32_t i = 0; i < 100; i++) {
        echo_small(good, i);
    }
    close(deaf);
    close(good);
    rig_end(r);
}

CASE(paused_and_resumed)
{
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0);
    /* 20 MB of answers to a client that reads late but then all: held memory, far above the high mark. */
    for (uint32_t i = 0; i < 40; i++) {
        put_frame(fd, 'h', 500000, i);
        if (i == 20) {
            EVENTUALLY(mini_metric(&r->m, "_queued_bytes") > 0);
        }
        if (i >= 20) {
            get_pattern(fd, 500000, i - 20);
        }
    }
    for (uint32_t i = 20; i < 40; i++) {
        get_pattern(fd, 500000, i);
    }
    echo_small(fd, 77);
    close(fd);
    rig_end(r);
}

CASE(sink_that_leaves_whole_frames)
{
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0), gone = client(r, 0);
    r->e.lazy = 1;
    static uint8_t out[500 * 13], in[sizeof out];
    for (uint32_t i = 0; i < 500; i++) {
        zl_store32(out + i * 13, 9);
        out[i * 13 + 4] = 'e';
        zl_store32(out + i * 13 + 5, i);
    }
    put(fd, out, sizeof out);
    get(fd, in, sizeof in);
    cr_assert_arr_eq(in, out, sizeof in);
    cr_assert_geq(atomic_load(&r->e.turns), 500u);
    /* The same with answers that stop the reading, and a client that goes away in the middle. */
    for (uint32_t i = 0; i < 24; i++) {
        put_frame(fd, 'h', 500000, i);
        put_frame(gone, 'h', 500000, i);
    }
    get_pattern(gone, 500000, 0);
    close(gone);
    for (uint32_t i = 0; i < 24; i++) {
        get_pattern(fd, 500000, i);
    }
    echo_small(fd, 5);
    close(fd);
    EVENTUALLY(atomic_load(&r->e.closed) == 2);
    rig_end(r);
}

/* ---- many connections, many threads -------------------------------------------------------------------------------- */

CASE(two_thousand_connections)
{
    enum { N = 2000 };
    struct rig *r = rig_make(f, NULL);
    static int fds[N];
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    setrlimit(RLIMIT_NOFILE, &limit);
    for (uint32_t i = 0; i < N; i++) {
        fds[i] = client(r, 0);
        put_frame(fds[i], 'e', i, ~i);
    }
    for (uint32_t i = 0; i < N; i++) {
        uint8_t back[13];
        get(fds[i], back, sizeof back);
        cr_assert_eq(zl_load32(back + 5), i);
    }
    cr_assert_eq(atomic_load(&r->e.opened), (uint32_t)N);
    cr_assert_eq(r->e.lanes[0].opened + r->e.lanes[1].opened, (uint32_t)N);
    cr_assert_gt(r->e.lanes[0].opened, N / 4u);
    cr_assert_gt(r->e.lanes[1].opened, N / 4u);
    for (uint32_t i = 0; i < N; i++) {
        close(fds[i]);
    }
    EVENTUALLY(atomic_load(&r->e.closed) == N);
    rig_end(r);
}

struct closer { struct rig *r; _Atomic uint32_t stop; };

static void *close_all_the_time(void *arg)
{
    struct closer *c = arg;
    struct rig *r = c->r;
    while (!atomic_load(&c->stop)) {
        struct zr_session *some[64];
        uint32_t n = 0;
        pthread_mutex_lock(&r->e.lock);
        for (struct zr_session *s = r->e.all; s && n < 64; s = s->next) {
            some[n++] = s;
        }
        pthread_mutex_unlock(&r->e.lock);
        for (uint32_t i = 0; i < n; i++) { /* safe until release, which the test keeps for itself */
            uint8_t frame[13] = { 0, 0, 0, 9, 'e', 0, 0, 0, 1 };
            struct zr_piece piece = { .ptr = frame, .len = sizeof frame, .fd = -1 };
            struct zr_output out = { ZR_HDR(struct zr_output, 0), &piece, NULL, NULL, 1, 0 };
            (void)r->m.t->send(r->m.inst, some[i]->conn, &out);
            r->m.t->close(r->m.inst, some[i]->conn, i & 1u);
            (void)r->m.t->queued(r->m.inst, some[i]->conn);
        }
        pause_a_moment();
    }
    return NULL;
}

CASE(close_from_another_thread_under_load)
{
    struct rig *r = rig_make(f, NULL);
    struct closer c = { .r = r };
    pthread_t thread;
    r->e.keep = 1;
    pthread_create(&thread, NULL, close_all_the_time, &c);
    for (uint32_t i = 0; i < 300; i++) {
        int fd = client(r, 0);
        struct timeval limit = { 5, 0 };
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        uint8_t frame[13] = { 0, 0, 0, 9, 'e' };
        for (uint32_t k = 0; k < 50 && send(fd, frame, sizeof frame, MSG_NOSIGNAL) == (ssize_t)sizeof frame; k++) {
        }
        cr_assert(at_end(fd));
        close(fd);
    }
    atomic_store(&c.stop, 1u);
    pthread_join(thread, NULL);
    EVENTUALLY(atomic_load(&r->e.closed) == atomic_load(&r->e.opened));
    for (struct zr_session *s = r->e.all; s; s = s->next) {
        r->m.t->release(r->m.inst, s->conn);
    }
    rig_end(r);
}

enum { SENDERS = 6, UNITS = 400 };
struct sender { struct rig *r; struct zr_conn *conn; uint8_t id; uint32_t refused; pthread_t thread; };

static void *send_many(void *arg)
{
    struct sender *s = arg;
    for (uint32_t i = 0; i < UNITS; i++) {
        uint8_t head[9], body[300];
        uint32_t len = 5 + (i * 37 + s->id) % 290;
        zl_store32(head, 5 + len);
        head[4] = s->id;
        zl_store32(head + 5, i);
        memset(body, s->id, len);
        struct zr_piece pieces[4] = { { .ptr = head, .len = 3, .fd = -1 }, { .ptr = head + 3, .len = 6, .fd = -1 },
                                      { .fd = -1 }, { .ptr = body, .len = len, .fd = -1 } };
        struct zr_output out = { ZR_HDR(struct zr_output, 0), pieces, NULL, NULL, 4, 0 };
        s->refused += s->r->m.t->send(s->r->m.inst, s->conn, &out) != ZR_OK;
    }
    return NULL;
}

CASE(senders_are_not_interleaved)
{
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0);
    struct sender senders[SENDERS];
    uint32_t next[SENDERS] = { 0 };
    r->e.keep = 1;
    echo_small(fd, 1);
    for (uint8_t i = 0; i < SENDERS; i++) {
        senders[i] = (struct sender){ .r = r, .conn = r->e.all->conn, .id = i };
        pthread_create(&senders[i].thread, NULL, send_many, &senders[i]);
    }
    for (uint32_t n = 0; n < SENDERS * UNITS; n++) {
        uint8_t head[9], body[300];
        get(fd, head, sizeof head);
        uint32_t len = zl_load32(head) - 5, id = head[4];
        cr_assert_lt(id, (uint32_t)SENDERS);
        cr_assert_eq(zl_load32(head + 5), next[id], "a sender's units are in order");
        cr_assert_eq(len, 5 + (next[id] * 37 + id) % 290);
        get(fd, body, len);
        for (uint32_t i = 0; i < len; i++) {
            cr_assert_eq(body[i], id);
        }
        next[id]++;
    }
    for (uint32_t i = 0; i < SENDERS; i++) {
        pthread_join(senders[i].thread, NULL);
        cr_assert_eq(senders[i].refused, 0u);
    }
    close(fd);
    EVENTUALLY(atomic_load(&r->e.closed) == 1);
    r->m.t->release(r->m.inst, r->e.all->conn);
    rig_end(r);
}

static void *wake_much(void *arg)
{
    struct rig *r = arg;
    for (uint32_t i = 0; i < 2000; i++) {
        r->m.t->wake(r->m.inst, i & 1u);
    }
    return NULL;
}

CASE(wake_is_heard)
{
    struct rig *r = rig_make(f, NULL);
    pthread_t threads[2];
    for (uint32_t lane = 0; lane < 2; lane++) {
        uint32_t before = atomic_load(&r->e.woken);
        r->m.t->wake(r->m.inst, lane);
        EVENTUALLY(atomic_load(&r->e.woken) > before);
    }
    for (int i = 0; i < 2; i++) {
        pthread_create(&threads[i], NULL, wake_much, r);
    }
    for (int i = 0; i < 2; i++) {
        pthread_join(threads[i], NULL);
    }
    uint32_t before = atomic_load(&r->e.woken);
    r->m.t->wake(r->m.inst, 0); /* after many coalesced ones, still one more is heard */
    EVENTUALLY(atomic_load(&r->e.woken) > before);
    rig_end(r);
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

CASE(idle_connections_are_closed)
{
    static const struct setting s[] = { { "idle_timeout", "300" }, { NULL, NULL } };
    struct rig *r = rig_make(f, s);
    int idle = client(r, 0);
    echo_small(idle, 1);
    cr_assert(at_end(idle));
    EVENTUALLY(atomic_load(&r->e.closed) == 1);
    cr_assert_eq(atomic_load(&r->e.last_why), ZR_ETIMEOUT);
    cr_assert_eq(mini_metric(&r->m, "_closed_idle_total"), 1);
    close(idle);
    rig_end(r);
}

CASE(a_connection_that_says_nothing_is_closed_too)
{
    static const struct setting s[] = { { "idle_timeout", "200" }, { NULL, NULL } };
    struct rig *r = rig_make(f, s);
    int silent = client(r, 0);
    cr_assert(at_end(silent));
    close(silent);
    rig_end(r);
}

/* ---- connections we open ------------------------------------------------------------------------------------------- */

static zr_status dial(struct rig *r, const char *url, int64_t timeout_ns, void *ctx)
{
    return r->m.t->dial(r->m.inst, (struct zr_str){ url, strlen(url) }, timeout_ns, ctx);
}

CASE(dial_and_talk)
{
    struct rig *r = rig_make(f, NULL);
    char url[128];
    int mark;
    snprintf(url, sizeof url, "%.*s", (int)r->listeners[0].url.len, r->listeners[0].url.ptr);
    cr_assert_eq(dial(r, url, 10000000000ll, &mark), ZR_PENDING);
    EVENTUALLY(atomic_load(&r->e.outbound) != NULL);
    struct zr_session *s = atomic_load(&r->e.outbound);
    cr_assert_eq(r->e.dial_ctx, &mark);
    /* The far end is the same echo, so that the answer of 9 bytes goes to and fro until somebody closes. */
    uint8_t frame[13] = { 0, 0, 0, 9, 'b', 0, 0, 0, 9 };
    struct zr_piece piece = { .ptr = frame, .len = sizeof frame, .fd = -1 };
    struct zr_output out = { ZR_HDR(struct zr_output, 0), &piece, NULL, NULL, 1, 0 };
    cr_assert_eq(r->m.t->send(r->m.inst, s->conn, &out), ZR_OK);
    EVENTUALLY(mini_metric(&r->m, "_received_bytes_total") >= 13 * 3);
    r->m.t->close(r->m.inst, s->conn, 0);
    EVENTUALLY(atomic_load(&r->e.closed) == 2);
    rig_end(r);
}

CASE(dial_refused)
{
    struct rig *r = rig_make(f, NULL);
    char url[64];
    int mark;
    if (f == &nng_ipc) {
        snprintf(url, sizeof url, "ipc:///tmp/zarya-test-nobody-%d.sock", (int)getpid());
    } else { /* a port that was free a moment ago */
        struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
        socklen_t len = sizeof in;
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        bind(fd, (struct sockaddr *)&in, sizeof in);
        getsockname(fd, (struct sockaddr *)&in, &len);
        close(fd);
        snprintf(url, sizeof url, "tcp://127.0.0.1:%u", (unsigned)ntohs(in.sin_port));
    }
    cr_assert_eq(dial(r, url, 10000000000ll, &mark), ZR_PENDING);
    EVENTUALLY(atomic_load(&r->e.dials_failed) == 1);
    cr_assert_eq(r->e.dial_ctx, &mark);
    cr_assert_lt(atomic_load(&r->e.dial_why), 0);
    cr_assert_neq(atomic_load(&r->e.dial_why), ZR_ETIMEOUT);
    cr_assert(strstr(r->e.dial_text, url) != NULL, "%s", r->e.dial_text);
    cr_assert_lt(dial(r, "tcp://nothing", 1000000, NULL), 0);
    cr_assert_lt(dial(r, "", 1000000, NULL), 0);
    rig_end(r);
}

/* A listener whose backlog is full answers no further connect: the dial must time out. */
static void fill_backlog(int *ret_listener, int *fillers, uint32_t n, uint16_t *ret_port)
{
    struct sockaddr_in in = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof in;
    *ret_listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bind(*ret_listener, (struct sockaddr *)&in, sizeof in);
    listen(*ret_listener, 0);
    getsockname(*ret_listener, (struct sockaddr *)&in, &len);
    *ret_port = ntohs(in.sin_port);
    for (uint32_t i = 0; i < n; i++) {
        fillers[i] = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        (void)connect(fillers[i], (struct sockaddr *)&in, sizeof in);
    }
    pause_a_moment();
}

static void dial_times_out_case(const struct flavour *f)
{
    struct rig *r = rig_make(f, NULL);
    int listener, fillers[8];
    uint16_t port;
    char url[64];
    fill_backlog(&listener, fillers, 8, &port);
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", (unsigned)port);
    cr_assert_eq(dial(r, url, 300000000ll, NULL), ZR_PENDING);
    EVENTUALLY(atomic_load(&r->e.dials_failed) == 1);
    cr_assert_eq(atomic_load(&r->e.dial_why), ZR_ETIMEOUT, "%s", r->e.dial_text);
    close(listener);
    for (int i = 0; i < 8; i++) {
        close(fillers[i]);
    }
    rig_end(r);
}
Test(tcp, dial_times_out, .timeout = LIMIT) { dial_times_out_case(&tcp); }
Test(nng_tcp, dial_times_out, .timeout = LIMIT) { dial_times_out_case(&nng_tcp); }

static void dial_by_name_case(const struct flavour *f)
{
    struct rig *r = rig_make(f, NULL);
    char url[64];
    snprintf(url, sizeof url, "tcp://localhost:%u", (unsigned)r->listeners[0].addr.port);
    cr_assert_eq(dial(r, url, 10000000000ll, NULL), ZR_PENDING);
    EVENTUALLY(atomic_load(&r->e.outbound) != NULL || atomic_load(&r->e.dials_failed));
    cr_assert_eq(atomic_load(&r->e.dials_failed), 0u, "%s", r->e.dial_text);
    rig_end(r);
}
Test(tcp, dial_by_name, .timeout = LIMIT) { dial_by_name_case(&tcp); }
Test(nng_tcp, dial_by_name, .timeout = LIMIT) { dial_by_name_case(&nng_tcp); }

CASE(dials_under_way_end_with_the_transport)
{
    struct rig *r = rig_make(f, NULL);
    int listener, fillers[8];
    uint16_t port;
    char url[64];
    fill_backlog(&listener, fillers, 8, &port);
    snprintf(url, sizeof url, "tcp://127.0.0.1:%u", (unsigned)port);
    cr_assert_eq(dial(r, url, 100000000000ll, NULL), ZR_PENDING);
    mini_drain(&r->m);
    cr_assert_eq(atomic_load(&r->e.dials_failed), 1u);
    atomic_store(&r->m.drained, 0u);
    mini_stop(&r->m);
    cr_assert_eq(atomic_load(&r->e.broken), 0u);
    echo_free(&r->e);
    free(r);
    close(listener);
    for (int i = 0; i < 8; i++) {
        close(fillers[i]);
    }
}

/* ---- limits and endings -------------------------------------------------------------------------------------------- */

CASE(max_connections)
{
    static const struct setting s[] = { { "max_connections", "3" }, { NULL, NULL } };
    struct rig *r = rig_make(f, s);
    int fds[3];
    for (uint32_t i = 0; i < 3; i++) {
        fds[i] = client(r, 0);
        echo_small(fds[i], i);
    }
    int extra = client(r, 0);
    cr_assert(at_end(extra));
    EVENTUALLY(mini_metric(&r->m, "_refused_total") == 1);
    cr_assert_eq(mini_logged(&r->m, "max_connections"), 1u);
    close(extra);
    close(fds[0]);
    EVENTUALLY(atomic_load(&r->e.closed) == 1);
    EVENTUALLY(mini_metric(&r->m, "_connections") == 2);
    extra = client(r, 0);
    echo_small(extra, 9);
    close(extra);
    close(fds[1]);
    close(fds[2]);
    rig_end(r);
}

CASE(drain_delivers_what_is_queued)
{
    struct rig *r = rig_make(f, NULL);
    int fd = client(r, 0), idle = client(r, 0);
    echo_small(idle, 3);
    put_frame(fd, 'h', 12u << 20, 0);
    EVENTUALLY(atomic_load(&r->e.sends_held) == 1);
    pid_t child = fork(); /* the reader: it has its own copy of the socket */
    if (child == 0) {
        static uint8_t all[(12u << 20) + 4];
        for (size_t at = 0; at < sizeof all;) {
            ssize_t n = recv(fd, all + at, sizeof all - at, 0);
            if (n <= 0) {
                _exit(1);
            }
            at += (size_t)n;
        }
        _exit(all[sizeof all - 1] == echo_byte((12u << 20) - 1) ? 0 : 2);
    }
    mini_drain(&r->m);
    int status = -1;
    siginfo_t info;
    cr_assert_eq(waitid(P_PID, (id_t)child, &info, WEXITED), 0);
    status = info.si_status;
    cr_assert_eq(status, 0);
    cr_assert_eq(atomic_load(&r->e.closed), 2u);
    atomic_store(&r->m.drained, 0u);
    mini_stop(&r->m);
    cr_assert_eq(atomic_load(&r->e.broken), 0u);
    close(fd);
    close(idle);
    echo_free(&r->e);
    free(r);
}

CASE(cool_without_drain)
{
    struct rig *r = rig_make(f, NULL);
    int fds[10];
    for (uint32_t i = 0; i < 10; i++) {
        fds[i] = client(r, 0);
        echo_small(fds[i], i);
    }
    put_frame(fds[0], 'h', 12u << 20, 0); /* nobody reads it */
    EVENTUALLY(atomic_load(&r->e.sends_held) == 1);
    mini_stop(&r->m);
    cr_assert_eq(atomic_load(&r->e.closed), 10u);
    cr_assert_eq(atomic_load(&r->e.dones), 1u);
    cr_assert_eq(atomic_load(&r->e.broken), 0u);
    for (uint32_t i = 0; i < 10; i++) {
        close(fds[i]);
    }
    echo_free(&r->e);
    free(r);
}

CASE(out_of_descriptors)
{
    struct rig *r = rig_make(f, NULL);
    int first = client(r, 0), pair[2], hold[256];
    uint32_t held = 0;
    echo_small(first, 1);
    /* A child does the connecting, so that only the transport is out of descriptors. */
    cr_assert_eq(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
    pid_t child = fork();
    if (child == 0) {
        char go;
        close(pair[0]);
        if (read(pair[1], &go, 1) != 1) {
            _exit(1);
        }
        int fd = client(r, 0); /* refused: ended by the other side at once, or served when descriptors are there again */
        struct pollfd p = { .fd = fd, .events = POLLIN };
        (void)poll(&p, 1, 1000);
        (void)!write(pair[1], "1", 1);
        if (read(pair[1], &go, 1) != 1) {
            _exit(1);
        }
        close(fd);
        fd = client(r, 0);
        echo_small(fd, 42);
        _exit(0);
    }
    struct rlimit limit, small;
    getrlimit(RLIMIT_NOFILE, &limit);
    small = (struct rlimit){ 64, limit.rlim_max };
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &small), 0);
    int fd;
    while (held < 256 && (fd = open("/dev/null", O_RDONLY)) >= 0) {
        hold[held++] = fd;
    }
    char said;
    cr_assert_eq(write(pair[0], "1", 1), 1);
    cr_assert_eq(read(pair[0], &said, 1), 1);
    for (uint32_t i = 0; i < 50; i++) {
        echo_small(first, i); /* those that are there are served on */
    }
    setrlimit(RLIMIT_NOFILE, &limit);
    while (held) {
        close(hold[--held]);
    }
    cr_assert_eq(write(pair[0], "1", 1), 1);
    siginfo_t info;
    cr_assert_eq(waitid(P_PID, (id_t)child, &info, WEXITED), 0);
    cr_assert_eq(info.si_status, 0);
    cr_assert_eq(mini_logged(&r->m, "cannot accept"), 1u, "it happened, and was said once");
    close(first);
    close(pair[0]);
    close(pair[1]);
    rig_end(r);
}

/* ---- refused settings ---------------------------------------------------------------------------------------------- */

static void address_in_use_case(const struct flavour *f)
{
    struct rig *r = rig_make(f, NULL);
    struct mini *m = calloc(1, sizeof *m);
    char listen[128];
    snprintf(listen, sizeof listen, "%s%u", f == &tcp ? "127.0.0.1:" : "tcp://127.0.0.1:", (unsigned)r->listeners[0].addr.port);
    struct setting s[] = { { "listen", listen }, { NULL, NULL } };
    struct echo *e = calloc(1, sizeof *e);
    cr_assert_eq(mini_create(m, f->id, s), ZR_OK);
    echo_init(e, m);
    cr_assert_lt(mini_start(m, &e->sink), 0);
    cr_assert(strstr(m->error, listen + (f == &tcp ? 0 : 6)) != NULL, "%s", m->error);
    cr_assert(strstr(m->error, "ddress") != NULL, "%s", m->error);
    m->plugin->destroy(m->inst);
    mini_free(m);
    free(m);
    echo_free(e);
    free(e);
    rig_end(r);
}
Test(tcp, address_in_use, .timeout = LIMIT) { address_in_use_case(&tcp); }
Test(nng_tcp, address_in_use, .timeout = LIMIT) { address_in_use_case(&nng_tcp); }

/* ---- transport-tcp alone ------------------------------------------------------------------------------------------- */

Test(tcp, listeners, .timeout = LIMIT)
{
    static const struct setting s[] = { { "listen", "127.0.0.1:0 [::1]:0 localhost:0" }, { "fast", "127.0.0.1:0" },
                                        { "serves", "broker routing" }, { NULL, NULL } };
    struct rig *r = rig_make(&tcp, s);
    cr_assert_eq(r->n, 4u);
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert_eq(r->listeners[i].serves, i == 3 ? ZR_SERVES_FAST : ZR_SERVES_BROKER | ZR_SERVES_ROUTING);
        cr_assert_neq(r->listeners[i].addr.port, 0);
        char url[64];
        snprintf(url, sizeof url, i == 1 ? "tcp://[::1]:%u" : "tcp://127.0.0.1:%u", (unsigned)r->listeners[i].addr.port);
        cr_assert(zl_is(r->listeners[i].url, url), "%.*s", (int)r->listeners[i].url.len, r->listeners[i].url.ptr);
        int fd = client(r, i);
        echo_small(fd, i);
        close(fd);
    }
    rig_end(r);
}

Test(tcp, dual_stack_peers_are_ipv4, .timeout = LIMIT)
{
    static const struct setting s[] = { { "listen", "[::]:0" }, { NULL, NULL } };
    struct rig *r = rig_make(&tcp, s);
    struct zr_listener v4 = r->listeners[0];
    const struct zr_listener *all = r->listeners;
    v4.addr.family = 4;
    memcpy(v4.addr.ip, "\x7f\0\0\1", 4);
    r->listeners = &v4;
    int fd = client(r, 0);
    echo_small(fd, 1);
    cr_assert_eq(r->e.peer.family, 4);
    cr_assert_eq(strncmp(r->e.peer_name, "127.0.0.1:", 10), 0, "%s", r->e.peer_name);
    r->listeners = all;
    close(fd);
    rig_end(r);
}

Test(tcp, bad_settings)
{
    static const struct setting bad[][2] = {
        { { "listen", "10911" }, { NULL, NULL } }, { { "listen", "::1:80" }, { NULL, NULL } },
        { { "listen", "127.0.0.1:70000" }, { NULL, NULL } }, { { "serves", "brokr" }, { NULL, NULL } },
        { { "output_low", "1 GiB" }, { NULL, NULL } },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct mini m;
        cr_assert_eq(mini_create(&m, "transport-tcp", bad[i]), ZR_EINVAL);
        cr_assert_neq(m.error[0], '\0');
        mini_free(&m);
    }
}

Test(tcp, proxy_v1, .timeout = LIMIT)
{
    struct rig *r = rig_make(&tcp, NULL);
    int fd = client(r, 0);
    static const char head[] = "PROXY TCP4 203.0.113.7 192.0.2.1 4711 10911\r\n";
    for (size_t i = 0; i + 1 < sizeof head; i++) {
        put(fd, head + i, 1);
    }
    echo_small(fd, 1);
    cr_assert_str_eq(r->e.peer_name, "203.0.113.7:4711");
    cr_assert_str_eq(r->e.attributes, "proxy_protocol_addr=203.0.113.7;proxy_protocol_port=4711;"
                                      "proxy_protocol_server_addr=192.0.2.1;proxy_protocol_server_port=10911;");
    cr_assert_eq(r->e.peer.ip[0], 127, "the socket's own address stays");
    close(fd);
    rig_end(r);
}

Test(tcp, proxy_v2_and_a_frame_in_one_write, .timeout = LIMIT)
{
    static const uint8_t bytes[] = { 0x0d, 0x0a, 0x0d, 0x0a, 0, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a, 0x21, 0x11, 0, 12 + 7,
                                     10, 1, 2, 3, 10, 9, 9, 9, 0x12, 0x67, 0x2a, 0x9f, 0xea, 0, 4, 'v', 'p', 'c', '1',
                                     0, 0, 0, 1, 'e' };
    struct rig *r = rig_make(&tcp, NULL);
    int fd = client(r, 0);
    uint8_t back[5];
    put(fd, bytes, sizeof bytes);
    get(fd, back, sizeof back);
    cr_assert_arr_eq(back, "\0\0\0\1e", 5);
    cr_assert_str_eq(r->e.peer_name, "10.1.2.3:4711");
    cr_assert(strstr(r->e.attributes, "proxy_protocol_tlv_0xea=vpc1;") != NULL, "%s", r->e.attributes);
    close(fd);
    rig_end(r);
}

Test(tcp, proxy_broken_or_twice, .timeout = LIMIT)
{
    struct rig *r = rig_make(&tcp, NULL);
    int fd = client(r, 0);
    put(fd, "PROXY TCP4 nonsense\r\n", 21);
    cr_assert(at_end(fd));
    cr_assert_eq(atomic_load(&r->e.opened), 0u, "the kernel never heard of it");
    close(fd);
    fd = client(r, 0);
    put(fd, "PROXY UNKNOWN\r\nPROXY UNKNOWN\r\n", 30); /* the second is a frame, and too long a one */
    cr_assert(at_end(fd));
    cr_assert_eq(atomic_load(&r->e.opened), 1u);
    close(fd);
    EVENTUALLY(atomic_load(&r->e.closed) == 1);
    rig_end(r);
}

Test(tcp, tls_is_refused, .timeout = LIMIT)
{
    struct rig *r = rig_make(&tcp, NULL);
    for (int i = 0; i < 3; i++) {
        int fd = client(r, 0);
        put(fd, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11);
        cr_assert(at_end(fd));
        close(fd);
    }
    cr_assert_eq(mini_logged(&r->m, "TLS"), 1u);
    cr_assert_eq(atomic_load(&r->e.opened), 0u);
    rig_end(r);
}

Test(tcp, limits_by_address_and_rate, .timeout = LIMIT)
{
    static const struct setting s[] = { { "max_per_address", "2" }, { "accept_rate", "50" }, { NULL, NULL } };
    struct rig *r = rig_make(&tcp, s);
    int a = client(r, 0), b = client(r, 0), c = client(r, 0);
    echo_small(a, 1);
    echo_small(b, 1);
    cr_assert(at_end(c));
    close(c);
    close(a);
    EVENTUALLY(mini_metric(&r->m, "_connections") == 1);
    close(b);
    for (uint32_t i = 0; i < 80; i++) { /* above the rate: they wait, none is lost */
        EVENTUALLY(mini_metric(&r->m, "_connections") < 2);
        int fd = client(r, 0);
        echo_small(fd, i);
        close(fd);
    }
    rig_end(r);
}

Test(tcp, incomplete_input_is_bounded, .timeout = LIMIT)
{
    static const struct setting s[] = { { "input_memory", "64 MiB" }, { NULL, NULL } };
    struct rig *r = rig_make(&tcp, s);
    enum { N = 24 };
    int fds[N];
    uint8_t *junk = calloc(1, 8u << 20);
    uint32_t broken = 0;
    zl_store32(junk, 15u << 20);
    for (uint32_t i = 0; i < N; i++) { /* 24 times 8 of 15 MiB */
        fds[i] = client(r, 0);
        for (size_t at = 0; at < 8u << 20;) {
            ssize_t n = send(fds[i], junk + at, (8u << 20) - at, MSG_NOSIGNAL);
            if (n <= 0) {
                broken++;
                break;
            }
            at += (size_t)n;
        }
    }
    cr_assert_leq(mini_metric(&r->m, "_input_bytes"), 80 << 20);
    EVENTUALLY(mini_metric(&r->m, "_closed_full_total") > 0);
    int fd = client(r, 0);
    echo_small(fd, 1); /* small frames are served all the same */
    for (uint32_t i = 0; i < N; i++) {
        close(fds[i]);
    }
    close(fd);
    free(junk);
    rig_end(r);
}

/* ---- transport-nng alone ------------------------------------------------------------------------------------------- */

static zr_status start_at(const char *path, struct mini *m, struct echo *e)
{
    char url[160];
    struct setting s[] = { { "listen", url }, { NULL, NULL } };
    snprintf(url, sizeof url, "ipc://%s", path);
    cr_assert_eq(mini_create(m, "transport-nng", s), ZR_OK, "%s", m->error);
    echo_init(e, m);
    return mini_start(m, &e->sink);
}

/* What nobody listens on is cleared away; a live socket, and a file of another kind, are left alone. */
Test(nng_ipc, paths_in_the_way, .timeout = LIMIT)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    struct mini *m = calloc(2, sizeof *m);
    struct echo *e = calloc(2, sizeof *e);
    snprintf(un.sun_path, sizeof un.sun_path, "/tmp/zarya-test-way-%d.sock", (int)getpid());
    int fd = open(un.sun_path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(start_at(un.sun_path, &m[0], &e[0]), ZR_EEXIST);
    cr_assert_eq(access(un.sun_path, F_OK), 0, "a plain file was removed");
    m[0].plugin->destroy(m[0].inst);
    mini_free(&m[0]);
    echo_free(&e[0]);
    close(fd);
    unlink(un.sun_path);

    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* bound, and left behind */
    cr_assert_eq(bind(fd, (struct sockaddr *)&un, sizeof un), 0);
    close(fd);
    cr_assert_eq(start_at(un.sun_path, &m[0], &e[0]), ZR_OK, "%s", m[0].error);
    cr_assert_eq(start_at(un.sun_path, &m[1], &e[1]), ZR_EEXIST);
    cr_assert(strstr(m[1].error, un.sun_path) != NULL, "%s", m[1].error);
    cr_assert_eq(access(un.sun_path, F_OK), 0, "a living socket was removed");
    m[1].plugin->destroy(m[1].inst);
    mini_free(&m[1]);
    echo_free(&e[1]);
    mini_drain(&m[0]);
    mini_stop(&m[0]);
    echo_free(&e[0]);
    cr_assert_neq(access(un.sun_path, F_OK), 0, "the socket file stays behind");
    free(m);
    free(e);
}
