/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - zarya-bench: the order of a run. Topics and offsets first, then the load on its own threads while this one
 * reads the server's figures at the two ends of the measured window, then the proof, then the report. */
#include "bench.h"
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

struct window {
    struct bench *bench;
    struct proc_figures before, after;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    uint32_t over;
};

/* Waits until t, or until the load is over. */
static void wait_until(struct window *w, int64_t t)
{
    struct timespec until = { .tv_sec = t / NS, .tv_nsec = t % NS };
    pthread_mutex_lock(&w->lock);
    while (!w->over && pthread_cond_timedwait(&w->wake, &w->lock, &until) != ETIMEDOUT) {
    }
    pthread_mutex_unlock(&w->lock);
}

/* Reads the process's figures at both ends of the window. */
static void *window_run(void *arg)
{
    struct window *w = arg;
    wait_until(w, w->bench->measure);
    proc_read(w->bench->o.pid, &w->before);
    wait_until(w, w->bench->end ? w->bench->end : INT64_MAX / 2);
    proc_read(w->bench->o.pid, &w->after);
    return NULL;
}

static int run_phase(struct bench *b, struct stats *s, struct window *w)
{
    pthread_t thread;
    pthread_condattr_t attr;
    *w = (struct window){ .bench = b };
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w->wake, &attr);
    pthread_condattr_destroy(&attr);
    b->start = now_ns();
    b->measure = b->start + (int64_t)(b->o.warmup * (double)NS);
    b->end = b->o.count ? 0 : b->measure + (int64_t)(b->o.duration * (double)NS);
    atomic_store(&b->issued, 0);
    atomic_store(&b->finished, 0);
    if (pthread_create(&thread, NULL, window_run, w)) return 1;
    int rc = engine_run(b, s);
    pthread_mutex_lock(&w->lock);
    w->over = 1;
    pthread_cond_signal(&w->wake);
    pthread_mutex_unlock(&w->lock);
    pthread_join(thread, NULL);
    return rc;
}

/* Sends --fill messages for a pull run to read. */
static int fill(struct bench *b, struct stats *s)
{
    struct options keep = b->o;
    struct window w;
    b->o.mode = MODE_SEND;
    b->o.count = b->o.fill;
    b->o.warmup = 0;
    b->o.conns = b->o.threads = 1;
    b->o.inflight = 64;
    b->o.pid = 0;
    b->o.rate = 0;
    int rc = run_phase(b, s, &w);
    b->o = keep;
    if (rc == 0 && s->failed)
        rc = 1, fprintf(stderr, "zarya-bench: filling failed: code %d %s\n", s->codes[0].code, s->codes[0].remark);
    return rc;
}

static int idle(struct bench *b)
{
    struct window w = { .bench = b };
    pthread_mutex_init(&w.lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&w.wake, &attr);
    b->measure = now_ns();
    b->end = b->measure + (int64_t)(b->o.duration * (double)NS);
    window_run(&w);
    if (!w.before.ok || !w.after.ok) return fprintf(stderr, "zarya-bench: no process %d\n", b->o.pid), 1;
    report_idle(b, &w.before, &w.after, b->o.duration);
    return 0;
}

static int prepare(struct bench *b)
{
    struct zc_err err;
    b->run = ((uint64_t)now_ns() << 8 ^ (uint64_t)time(NULL)) & 0xffffffffffffffull; /* 14 hex digits */
    b->client = zc_client_open(
        &(struct zc_options){ .namesrv = b->o.namesrv ? b->o.namesrv : "127.0.0.1:1", .timeout_ms = 10000 }, &err);
    if (!b->client) return fprintf(stderr, "zarya-bench: %s\n", err.text), 1;
    int rc = b->o.mode == MODE_ROUTE ? setup_route_targets(b) : setup_targets(b);
    return rc ? rc : loads_prepare(b);
}

static int measure(struct bench *b, struct stats *s)
{
    struct window w;
    uint64_t lost = 0;
    if (b->o.mode == MODE_PULL && b->o.fill) {
        int rc = fill(b, s);
        if (rc) return rc;
        memset(s, 0, sizeof(*s));
    }
    hist_clear(&s->latency);
    hist_clear(&s->delivery);
    hist_clear(&s->late);
    int rc = b->o.mode == MODE_ROUTE ? 0 : setup_offsets(b);
    if (rc == 0) rc = verify_prepare(b, b->o.mode == MODE_PULL ? 1 : b->o.conns);
    if (rc == 0) rc = run_phase(b, s, &w);
    if (rc == 0 && b->acked && b->o.mode == MODE_SEND) rc = verify_read_back(b, s);
    if (rc) return rc;
    if (b->acked && b->o.mode != MODE_PULL) lost = verify_lost(b, &s->ghosts);
    double seconds = b->end                    ? (double)(b->end - b->measure) / NS
                     : s->last_ns > b->measure ? (double)(s->last_ns - b->measure) / NS
                                               : 0;
    report(b, s, &w.before, &w.after, seconds, lost);
    return s->failed || s->unanswered || s->lost_conns || s->corrupt || s->doubled || lost || s->requests == 0;
}

int main(int argc, char **argv)
{
    struct bench *b = calloc(1, sizeof(*b));
    struct stats *s = calloc(1, sizeof(*s));
    if (!b || !s) return 1;
    int rc = options_parse(&b->o, argc, argv);
    if (rc == 0 && b->o.mode == MODE_IDLE)
        rc = idle(b);
    else if (rc == 0 && (rc = prepare(b)) == 0)
        rc = measure(b, s);
    verify_free(b);
    loads_free(b);
    zc_client_close(b->client);
    free(b->targets);
    free(b->addrs);
    free(b);
    free(s);
    return rc;
}
