/* SPDX-License-Identifier: Apache-2.0 */
/* engine.c - threads, each with its own connections and epoll loop.
 *
 * Closed loop: every connection keeps its requests under way; an answered one is replaced at once. Open loop (--rate):
 * each thread has a clock of intended starts; a request that cannot leave in time, because all places are taken, keeps
 * its intended start, so that its wait counts. When time (or the count) is up nothing new starts, and what is under way
 * has DRAIN_NS. Frames of one burst leave in one write.
 *
 * A sleeping thread is woken some 30 us after its time, which would be counted as the server's. So an open loop sleeps
 * until --spin-us before the next intended start and looks at its sockets without sleeping from then on; for a quarter of
 * the time between two starts at most, so that answers still find a thread that sleeps, as a client's would. How late
 * it wrote nevertheless is a figure of the result. */
#include "bench.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DRAIN_NS (10 * NS)
#define READ_STEP (256u * 1024)

/* ---- figures ---- */

void stats_code(struct stats *s, int32_t code, struct zr_str remark)
{
    for (uint32_t i = 0; i < s->n_codes; i++)
        if (s->codes[i].code == code) {
            s->codes[i].n++;
            return;
        }
    if (s->n_codes == MAX_CODES) return;
    struct code_count *c = &s->codes[s->n_codes++];
    c->code = code;
    c->n = 1;
    snprintf(c->remark, sizeof(c->remark), "%.*s", (int)remark.len, remark.ptr ? remark.ptr : "");
}

void stats_merge(struct stats *to, const struct stats *from)
{
    hist_merge(&to->latency, &from->latency);
    hist_merge(&to->delivery, &from->delivery);
    hist_merge(&to->late, &from->late);
    to->requests += from->requests;
    to->messages += from->messages;
    to->bytes += from->bytes;
    to->examined += from->examined;
    to->sent_messages += from->sent_messages;
    to->received += from->received;
    to->failed += from->failed;
    to->lost_conns += from->lost_conns;
    to->unanswered += from->unanswered;
    to->corrupt += from->corrupt;
    to->doubled += from->doubled;
    to->reordered += from->reordered;
    to->foreign += from->foreign;
    if (from->last_ns > to->last_ns) to->last_ns = from->last_ns;
    for (uint32_t i = 0; i < from->n_codes; i++) {
        stats_code(to, from->codes[i].code, zl_str(from->codes[i].remark));
        for (uint32_t k = 0; k < to->n_codes; k++)
            if (to->codes[k].code == from->codes[i].code) to->codes[k].n += from->codes[i].n - 1;
    }
}

/* ---- connections ---- */

static int dial_ipc(const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    if (strlen(path) >= sizeof(un.sun_path)) return errno = ENAMETOOLONG, -1;
    strcpy(un.sun_path, path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&un, sizeof(un)) == 0) return fd;
    if (fd >= 0) close(fd);
    return -1;
}

static int dial(const char *addr)
{
    if (strncmp(addr, "ipc://", 6) == 0) return dial_ipc(addr + 6);
    char host[ZC_NAME_MAX];
    snprintf(host, sizeof(host), "%s", addr);
    char *colon = strrchr(host, ':'), *name = host;
    if (!colon) return errno = EINVAL, -1;
    *colon = 0;
    if (*name == '[' && colon[-1] == ']') name++, colon[-1] = 0;
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *list = NULL;
    if (getaddrinfo(name, colon + 1, &hints, &list)) return errno = EHOSTUNREACH, -1;
    int fd = -1, one = 1;
    for (struct addrinfo *a = list; a && fd < 0; a = a->ai_next) {
        fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd >= 0 && connect(fd, a->ai_addr, a->ai_addrlen) < 0) close(fd), fd = -1;
    }
    freeaddrinfo(list);
    if (fd >= 0) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static int conn_open(struct worker *w, struct conn *c)
{
    c->fd = dial(w->bench->addrs[c->addr]);
    if (c->fd < 0) {
        fprintf(stderr, "zarya-bench: cannot connect to %s: %s\n", w->bench->addrs[c->addr], strerror(errno));
        return -1;
    }
    struct epoll_event ev = { .events = EPOLLIN, .data.ptr = c };
    c->slots = calloc(c->n_slots, sizeof(*c->slots));
    c->free_slots = malloc(c->n_slots * sizeof(*c->free_slots));
    zl_buf_init(&c->out, ZL_FRAME_MAX + (uint64_t)c->n_slots * (w->bench->o.size + 1024u) * (w->bench->o.batch + 1u));
    zl_buf_init(&c->in, 2 * ZL_FRAME_MAX);
    if (!c->slots || !c->free_slots) return -1;
    for (uint32_t i = 0; i < c->n_slots; i++) c->free_slots[i] = c->n_slots - 1 - i;
    c->n_free = c->n_slots;
    return epoll_ctl(w->epoll_fd, EPOLL_CTL_ADD, c->fd, &ev);
}

static void conn_close(struct conn *c)
{
    if (c->fd >= 0) close(c->fd);
    free(c->slots);
    free(c->free_slots);
    free(c->targets);
    zl_buf_free(&c->out);
    zl_buf_free(&c->in);
}

static void conn_lost(struct worker *w, struct conn *c, const char *what, int e)
{
    if (c->dead) return;
    c->dead = 1;
    w->stats.lost_conns++;
    stats_code(&w->stats, -3, zl_str(e ? strerror(e) : what));
    epoll_ctl(w->epoll_fd, EPOLL_CTL_DEL, c->fd, NULL);
}

static void conn_flush(struct worker *w, struct conn *c)
{
    c->dirty = 0;
    while (!c->dead && c->out_at < c->out.len) {
        ssize_t n = send(c->fd, c->out.ptr + c->out_at, c->out.len - c->out_at, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n > 0)
            c->out_at += (uint64_t)n;
        else if (n < 0 && errno == EINTR)
            continue;
        else if (n < 0 && errno == EAGAIN)
            break;
        else
            return conn_lost(w, c, "write", errno);
    }
    if (c->out_at == c->out.len) {
        zl_buf_clear(&c->out);
        c->out_at = 0;
    } else if (c->out_at > c->out.len / 2) {
        memmove(c->out.ptr, c->out.ptr + c->out_at, c->out.len - c->out_at);
        c->out.len -= c->out_at;
        c->out_at = 0;
    }
    uint32_t want = c->out.len > 0;
    if (want != c->want_write && !c->dead) {
        struct epoll_event ev = { .events = EPOLLIN | (want ? EPOLLOUT : 0u), .data.ptr = c };
        epoll_ctl(w->epoll_fd, EPOLL_CTL_MOD, c->fd, &ev);
        c->want_write = want;
    }
}

/* ---- one thread ---- */

/* May a new request start? */
static uint32_t may_issue(const struct worker *w, const struct conn *c, int64_t at)
{
    const struct bench *b = w->bench;
    if (c->role == ROLE_PULL && b->o.mode == MODE_E2E) return 1; /* consumers go on to the end of the drain */
    if (b->end && at >= b->end) return 0;
    return b->o.count == 0 || atomic_load_explicit(&b->issued, memory_order_relaxed) < b->o.count;
}

/* Closed loop (and all pulls): fills every free place. */
static void refill(struct worker *w, struct conn *c, int64_t now)
{
    while (c->n_free && !c->dead && may_issue(w, c, now) && loads_issue(w, c, now, now)) c->dirty = 1;
    if (c->dirty) conn_flush(w, c);
}

/* Open loop: what is due goes out on the next connections with a free place. */
static void issue_due(struct worker *w, int64_t now)
{
    while (w->next <= now) {
        struct conn *c = NULL;
        for (uint32_t i = 0; i < w->n_conns && !c; i++) {
            struct conn *candidate = &w->conns[w->turn];
            if (++w->turn == w->n_conns) w->turn = 0;
            if (candidate->role != ROLE_PULL && candidate->n_free && !candidate->dead) c = candidate;
        }
        if (!c) break; /* all places taken: it keeps its intended start */
        if (!may_issue(w, c, w->next)) break;
        if (!loads_issue(w, c, w->next, now)) break;
        c->dirty = 1;
        if (w->next >= w->bench->measure) hist_add(&w->stats.late, now - w->next);
        w->next_f += w->step;
        w->next = w->bench->start + (int64_t)w->next_f;
    }
    for (uint32_t i = 0; i < w->n_conns; i++)
        if (w->conns[i].dirty) conn_flush(w, &w->conns[i]);
}

static void conn_read(struct worker *w, struct conn *c)
{
    if (!zl_buf_reserve(&c->in, READ_STEP)) return conn_lost(w, c, "an answer is too large", 0);
    ssize_t n = recv(c->fd, c->in.ptr + c->in.len, c->in.cap - c->in.len, MSG_DONTWAIT);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return conn_lost(w, c, "the server closed the connection", n < 0 ? errno : 0);
    int64_t now = now_ns();
    c->in.len += (uint64_t)n;
    uint64_t at = 0, need;
    struct zr_span frame;
    zr_status st;
    while ((st = zl_frame_cut((struct zr_span){ c->in.ptr + at, c->in.len - at }, &frame, &need)) == ZR_OK) {
        loads_answer(w, c, frame, now);
        at += frame.len;
    }
    if (st != ZR_EAGAIN) return conn_lost(w, c, "framing is lost", 0);
    if (at) memmove(c->in.ptr, c->in.ptr + at, c->in.len - at);
    c->in.len -= at;
    if (w->step == 0 || c->role == ROLE_PULL) refill(w, c, now_ns());
}

/* Is anything of this thread under way still? e2e: until everything acknowledged was delivered. */
static uint32_t under_way(const struct worker *w)
{
    const struct bench *b = w->bench;
    for (uint32_t i = 0; i < w->n_conns; i++) {
        const struct conn *c = &w->conns[i];
        if (!c->dead && c->n_free < c->n_slots && (c->role != ROLE_PULL || b->o.mode != MODE_E2E)) return 1;
    }
    return b->o.mode == MODE_E2E && (atomic_load(&b->finished) < atomic_load(&b->issued) ||
                                     atomic_load(&b->delivered) < atomic_load(&b->finished));
}

/* Has this thread nothing more to start? */
static uint32_t finished(const struct worker *w, int64_t now)
{
    const struct bench *b = w->bench;
    uint32_t alive = 0;
    for (uint32_t i = 0; i < w->n_conns; i++) alive |= !w->conns[i].dead;
    if (!alive) return 1;
    if (b->end && now >= b->end && (w->step == 0 || w->next >= b->end)) return 1;
    if (b->end && now >= b->end + DRAIN_NS) return 1;
    return b->o.count && atomic_load_explicit(&b->issued, memory_order_relaxed) >= b->o.count;
}

static void wait_events(struct worker *w, int64_t until)
{
    struct epoll_event events[256];
    int64_t left = until - now_ns();
    struct timespec ts = { .tv_sec = left > 0 ? left / NS : 0, .tv_nsec = left > 0 ? left % NS : 0 };
    int n = epoll_pwait2(w->epoll_fd, events, 256, &ts, NULL);
    for (int i = 0; i < n; i++) {
        struct conn *c = events[i].data.ptr;
        if (events[i].events & EPOLLOUT) conn_flush(w, c);
        if (!c->dead && (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR))) conn_read(w, c);
    }
}

static void *worker_run(void *arg)
{
    struct worker *w = arg;
    struct bench *b = w->bench;
    prctl(PR_SET_TIMERSLACK, 1ul); /* intended starts are met to the microsecond */
    int64_t now = now_ns(), drain = 0;
    for (uint32_t i = 0; i < w->n_conns; i++)
        if (w->step == 0 || w->conns[i].role == ROLE_PULL) refill(w, &w->conns[i], now);
    for (;;) {
        now = now_ns();
        if (!drain && finished(w, now)) drain = now + DRAIN_NS;
        if (drain && (now >= drain || !under_way(w))) break;
        if (w->step > 0 && !drain) issue_due(w, now);
        int64_t until = drain    ? (b->o.mode == MODE_E2E && now + NS / 100 < drain ? now + NS / 100 : drain)
                        : b->end ? b->end
                                 : now + NS;
        if (w->step > 0 && !drain && w->next < until)
            until = w->next > now ? w->next - w->spin : now + NS / 1000; /* all places taken: an answer wakes us */
        wait_events(w, until);
    }
    for (uint32_t i = 0; i < w->n_conns; i++)
        if (w->conns[i].role != ROLE_PULL) w->stats.unanswered += w->conns[i].n_slots - w->conns[i].n_free;
    return NULL;
}

/* ---- all threads ---- */

/* Gives conn the targets that are at its address; pull connections share them out. */
static int conn_targets(const struct bench *b, struct conn *c, uint32_t n_pullers, uint32_t puller)
{
    c->targets = malloc((b->n_targets + 1) * sizeof(*c->targets));
    if (!c->targets) return -1;
    for (uint32_t i = 0; i < b->n_targets; i++) {
        if (c->role == ROLE_PULL && i % n_pullers != puller) continue;
        if (c->role == ROLE_SEND && b->targets[i].addr != c->addr) continue;
        c->targets[c->n_targets++] = i;
    }
    c->turn =
        c->role == ROLE_SEND && c->n_targets ? c->no % c->n_targets : 0; /* connections begin at different queues */
    if (c->role == ROLE_PULL && c->n_targets) c->addr = b->targets[c->targets[0]].addr;
    return 0;
}

/* Which connections there are, by number: senders (or route askers) first, then pullers. */
static int conn_make(const struct bench *b, struct conn *c, uint32_t no, uint32_t senders, uint32_t pullers)
{
    c->fd = -1;
    c->no = no;
    c->role = no >= senders ? ROLE_PULL : b->o.mode == MODE_ROUTE ? ROLE_ROUTE : ROLE_SEND;
    c->addr = no % b->n_addrs;
    if (conn_targets(b, c, pullers, no - senders)) return -1;
    c->n_slots = b->o.inflight;
    if (c->role == ROLE_PULL && (b->o.mode == MODE_E2E || c->n_slots > c->n_targets)) c->n_slots = c->n_targets;
    if (c->role != ROLE_ROUTE && c->n_targets == 0) c->n_slots = 0;
    return 0;
}

static int worker_make(struct worker *w, uint32_t senders, uint32_t pullers)
{
    const struct bench *b = w->bench;
    uint32_t all = senders + pullers, mine = 0;
    w->conns = calloc(all / b->o.threads + 2, sizeof(*w->conns));
    w->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (!w->conns || w->epoll_fd < 0) return -1;
    for (uint32_t no = 0; no < all; no++) {
        /* Pullers go to threads from the last one, so that they do not all sit with the senders. */
        uint32_t owner = no < senders ? no % b->o.threads : (b->o.threads - 1 - (no - senders) % b->o.threads);
        if (owner != w->no || w->n_conns > all / b->o.threads + 1) continue;
        struct conn *c = &w->conns[w->n_conns];
        if (conn_make(b, c, no, senders, pullers)) return -1;
        w->n_conns++;
        if (conn_open(w, c)) return -1;
        mine += no < senders;
    }
    if (b->o.rate > 0 && b->o.mode != MODE_PULL) {
        w->step = mine ? (double)NS * (double)senders / (b->o.rate * (double)mine) * b->o.batch : 0;
        w->next_f = w->step * w->no / b->o.threads;
        w->next = b->start + (int64_t)w->next_f;
        w->spin = (int64_t)b->o.spin_us * 1000;
        if (w->spin > (int64_t)(w->step / 4)) w->spin = (int64_t)(w->step / 4);
    }
    return 0;
}

int engine_run(struct bench *b, struct stats *ret)
{
    uint32_t senders = b->o.mode == MODE_PULL ? 0 : b->o.conns;
    uint32_t pullers = b->o.mode == MODE_PULL ? b->o.conns : b->o.mode == MODE_E2E ? b->o.consumers : 0;
    if (pullers > b->n_targets) pullers = b->n_targets;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max)
        files.rlim_cur = files.rlim_max, setrlimit(RLIMIT_NOFILE, &files);
    struct worker **workers = calloc(b->o.threads, sizeof(*workers));
    pthread_t *threads = calloc(b->o.threads, sizeof(*threads));
    int rc = workers && threads ? 0 : 1;
    uint32_t started = 0;
    for (uint32_t i = 0; i < b->o.threads && rc == 0; i++) {
        workers[i] = calloc(1, sizeof(**workers));
        if (!workers[i]) {
            rc = 1;
            break;
        }
        workers[i]->bench = b;
        workers[i]->no = i;
        hist_clear(&workers[i]->stats.latency);
        hist_clear(&workers[i]->stats.delivery);
        hist_clear(&workers[i]->stats.late);
        rc = worker_make(workers[i], senders, pullers) ? 1 : 0;
    }
    for (; started < b->o.threads && rc == 0; started++)
        if (pthread_create(&threads[started], NULL, worker_run, workers[started])) rc = 1;
    for (uint32_t i = 0; i < started; i++) pthread_join(threads[i], NULL);
    for (uint32_t i = 0; workers && i < b->o.threads && workers[i]; i++) {
        stats_merge(ret, &workers[i]->stats);
        for (uint32_t k = 0; k < workers[i]->n_conns; k++) conn_close(&workers[i]->conns[k]);
        if (workers[i]->epoll_fd >= 0) close(workers[i]->epoll_fd);
        free(workers[i]->conns);
        free(workers[i]);
    }
    free(workers);
    free(threads);
    return rc;
}
