/* SPDX-License-Identifier: Apache-2.0 */
/* bench_host.h - the few functions of a host that a store needs to live in a benchmark: POSIX, threads, the clock. A job of
 * the pool runs at once, on the thread that asks for it. */
#ifndef BENCH_HOST_H
#define BENCH_HOST_H
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "zarya/durability.h"
#include "zarya/err.h"
#include "zarya/io.h"
#include "zarya/log.h"
#include "zarya/timer.h"
#include "zarya/work.h"
#include "zl/io.h"
#include "zl/text.h"
#include "zs.h"

static void fail(const char *what)
{
    fprintf(stderr, "bench: %s\n", what);
    exit(1);
}

static uint32_t log_level(const struct zr_host *h)
{
    (void)h;
    return getenv("BENCH_LOG") ? ZR_LOG_DEBUG : ZR_LOG_ERROR;
}
static void log_write(const struct zr_host *h, uint32_t level, struct zr_str text, const struct zr_field *f, uint32_t n)
{
    (void)h;
    (void)level;
    (void)f;
    (void)n;
    fprintf(stderr, "%.*s\n", (int)text.len, text.ptr);
}
static void err_raise(const struct zr_host *h, const struct zr_error *e)
{
    (void)h;
    fprintf(stderr, "%.*s\n", (int)e->text.len, e->text.ptr);
}
static void dur_advance(const struct zr_host *h, uint32_t mark, int64_t position)
{
    (void)h;
    (void)mark;
    (void)position;
}
static void dur_fail(const struct zr_host *h, uint32_t mark, struct zr_str why)
{
    (void)h;
    (void)mark;
    (void)why;
}
static int64_t mono(const struct zr_host *h)
{
    struct timespec ts;
    (void)h;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}
static int64_t wall(const struct zr_host *h)
{
    struct timespec ts;
    (void)h;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
static zr_status no_timer(const struct zr_host *h, int64_t at, void (*fn)(void *), void *arg, uint64_t *ret)
{
    (void)h;
    (void)at;
    (void)fn;
    (void)arg;
    *ret = 1;
    return ZR_OK;
}
static zr_status no_cancel(const struct zr_host *h, uint64_t id)
{
    (void)h;
    (void)id;
    return ZR_OK;
}
struct start {
    void (*fn)(void *);
    void *arg;
};
static pthread_t threads[64];
static uint32_t n_threads;
static void *thread_main(void *arg)
{
    struct start s = *(struct start *)arg;
    free(arg);
    s.fn(s.arg);
    return NULL;
}
static zr_status spawn(const struct zr_host *h, const char *name, void (*fn)(void *), void *arg, uint64_t *ret)
{
    struct start *s = malloc(sizeof *s);
    (void)h;
    (void)name;
    if (!s || n_threads == 64) fail("no memory");
    *s = (struct start){ fn, arg };
    *ret = n_threads;
    return pthread_create(&threads[n_threads++], NULL, thread_main, s) == 0 ? ZR_OK : ZR_ENOMEM;
}
static zr_status join(const struct zr_host *h, uint64_t id)
{
    (void)h;
    pthread_join(threads[id], NULL);
    if (id + 1 == n_threads) n_threads--;
    return ZR_OK;
}
static zr_status run_now(const struct zr_host *h, void (*fn)(void *), void *arg)
{
    (void)h;
    fn(arg);
    return ZR_OK;
}

static const struct zr_log_v1 log_v1 = { .hdr = ZR_HDR(struct zr_log_v1, 0), .level = log_level, .write = log_write };
static const struct zr_err_v1 err_v1 = { .hdr = ZR_HDR(struct zr_err_v1, 0), .raise = err_raise };
static const struct zr_durability_v1 dur_v1 = { .hdr = ZR_HDR(struct zr_durability_v1, 0), .advance = dur_advance, .fail = dur_fail };
static const struct zr_timer_v1 timer_v1 = { .hdr = ZR_HDR(struct zr_timer_v1, 0), .mono_ns = mono, .wall_ms = wall, .at = no_timer, .cancel = no_cancel };
static const struct zr_work_v1 work_v1 = { .hdr = ZR_HDR(struct zr_work_v1, 0), .run = run_now, .spawn = spawn, .join = join };

static const void *host_query(const struct zr_host *h, const char *id)
{
    (void)h;
    if (!strcmp(id, ZR_SVC_IO)) return zl_io_posix();
    if (!strcmp(id, ZR_SVC_LOG)) return &log_v1;
    if (!strcmp(id, ZR_SVC_ERR)) return &err_v1;
    if (!strcmp(id, ZR_SVC_DURABILITY)) return &dur_v1;
    if (!strcmp(id, ZR_SVC_TIMER)) return &timer_v1;
    if (!strcmp(id, ZR_SVC_WORK)) return &work_v1;
    return NULL;
}
static struct zr_host host = { .hdr = ZR_HDR(struct zr_host, 0), .query = host_query };

static void ignore(void *ctx, zr_status rc)
{
    (void)ctx;
    (void)rc;
}
static void store_close(struct zr_inst *st)
{
    zs_drain(st, (struct zr_done){ ignore, NULL });
    zs_cool(st);
    zs_destroy(st);
}

#endif
