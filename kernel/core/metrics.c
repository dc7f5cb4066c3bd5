/* SPDX-License-Identifier: Apache-2.0 */
/* metrics.c - numbers declared once and counted from anywhere.
 *
 * What stays true:
 *   1. Ids are given in order and never reused; id 0 is a counter nobody sees, so that a full table costs counts, not crashes.
 *   2. A counter is SHARDS cells, one for each shard of threads; cells of one shard lie together, so that threads of different
 *      shards never write to one cache line. Its value is the sum.
 *   3. A gauge is one cell (set must win over earlier adds).
 *   4. A histogram has BUCKETS cells: values below 8 exactly, then 8 steps for each power of two (error below 12.5 %).
 *
 * LOCKING. `lock` is taken by those who declare. Readers and counters use n_series, published after a series is complete. */
#include "core/core_int.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define SERIES_MAX 4096u
#define SHARDS 16u
#define HIST_SHARDS 4u
#define BUCKETS 488u
#define HISTOGRAM_PARTS 5u

struct histogram {
    _Atomic uint64_t buckets[HIST_SHARDS][BUCKETS];
    _Atomic uint64_t sum[HIST_SHARDS];
    _Atomic int64_t max;
};
struct series {
    const char *name, *instance, *doc;
    struct histogram *histogram;
    uint32_t kind, reserved;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct series series_of[SERIES_MAX];
static _Atomic uint32_t n_series = 1;
static _Alignas(64) _Atomic int64_t cells[SHARDS][SERIES_MAX];
static _Atomic uint32_t next_shard;

static inline uint32_t shard(void)
{
    static _Thread_local uint32_t mine; /* shard + 1 */
    if (mine == 0)
        mine = 1u + atomic_fetch_add_explicit(&next_shard, 1, memory_order_relaxed) % SHARDS;
    return mine - 1u;
}

static const char *copy_of(const char *s)
{
    return zl_dup(zl_str(s ? s : ""));
}

static uint32_t find_series(const char *instance, const char *name)
{
    uint32_t n = atomic_load(&n_series);
    for (uint32_t i = 1; i < n; i++)
        if (strcmp(series_of[i].name, name) == 0 && strcmp(series_of[i].instance, instance) == 0)
            return i;
    return 0;
}

uint32_t zk_metric_of(const char *instance, const char *name, uint32_t kind, const char *doc)
{
    pthread_mutex_lock(&lock);
    uint32_t id = find_series(instance, name);
    uint32_t n = atomic_load(&n_series);
    if (id != 0 && series_of[id].kind != kind) {
        id = 0;
    } else if (id == 0 && n < SERIES_MAX) {
        struct series s = { copy_of(name), copy_of(instance), copy_of(doc), NULL, kind, 0 };
        if (kind == ZR_METRIC_HISTOGRAM)
            s.histogram = calloc(1, sizeof *s.histogram);
        if (s.name && s.instance && s.doc && (kind != ZR_METRIC_HISTOGRAM || s.histogram)) {
            series_of[n] = s;
            atomic_store_explicit(&n_series, n + 1, memory_order_release);
            id = n;
        } else {
            free((void *)s.name);
            free((void *)s.instance);
            free((void *)s.doc);
            free(s.histogram);
        }
    }
    pthread_mutex_unlock(&lock);
    return id;
}

uint32_t zk_metric(const char *name, uint32_t kind, const char *unit, const char *doc)
{
    (void)unit; /* part of the name by Prometheus' habit */
    return zk_metric_of("kernel", name, kind, doc);
}

void zk_metric_add(uint32_t id, int64_t delta)
{
    if (id >= SERIES_MAX)
        return;
    uint32_t s = series_of[id].kind == ZR_METRIC_GAUGE ? 0 : shard();
    atomic_fetch_add_explicit(&cells[s][id], delta, memory_order_relaxed);
}

void zk_metric_set(uint32_t id, int64_t value)
{
    if (id < SERIES_MAX)
        atomic_store_explicit(&cells[0][id], value, memory_order_relaxed);
}

static uint32_t bucket_of(uint64_t v)
{
    if (v < 8)
        return (uint32_t)v;
    uint32_t e = 63u - (uint32_t)__builtin_clzll(v);
    return (e - 2u) * 8u + (uint32_t)(v >> (e - 3u) & 7u);
}

/* The largest value of a bucket. */
static uint64_t bucket_top(uint32_t b)
{
    if (b < 8)
        return b;
    uint32_t e = b / 8u + 2u;
    return ((8u + (uint64_t)(b % 8u) + 1u) << (e - 3u)) - 1u;
}

void zk_metric_observe(uint32_t id, int64_t value)
{
    if (id == 0 || id >= SERIES_MAX || !series_of[id].histogram)
        return;
    struct histogram *h = series_of[id].histogram;
    uint32_t s = shard() % HIST_SHARDS;
    uint64_t v = value < 0 ? 0 : (uint64_t)value;
    atomic_fetch_add_explicit(&h->buckets[s][bucket_of(v)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&h->sum[s], v, memory_order_relaxed);
    int64_t max = atomic_load_explicit(&h->max, memory_order_relaxed);
    while ((int64_t)v > max && !atomic_compare_exchange_weak_explicit(&h->max, &max, (int64_t)v, memory_order_relaxed, memory_order_relaxed))
        ;
}

static int64_t counter_value(uint32_t id)
{
    int64_t sum = 0;
    for (uint32_t s = 0; s < SHARDS; s++)
        sum += atomic_load_explicit(&cells[s][id], memory_order_relaxed);
    return sum;
}

static double histogram_part(const struct histogram *h, double share)
{
    uint64_t count[BUCKETS], total = 0, seen = 0;
    for (uint32_t b = 0; b < BUCKETS; b++) {
        count[b] = 0;
        for (uint32_t s = 0; s < HIST_SHARDS; s++)
            count[b] += atomic_load_explicit(&h->buckets[s][b], memory_order_relaxed);
        total += count[b];
    }
    if (share < 0)
        return (double)total;
    if (total == 0)
        return 0;
    for (uint32_t b = 0; b < BUCKETS; b++) {
        seen += count[b];
        if ((double)seen >= share * (double)total) {
            /* The bucket's top may lie above everything that was seen. */
            double top = (double)bucket_top(b), max = (double)atomic_load(&h->max);
            return top < max ? top : max;
        }
    }
    return (double)atomic_load(&h->max);
}

static double histogram_sum(const struct histogram *h)
{
    uint64_t sum = 0;
    for (uint32_t s = 0; s < HIST_SHARDS; s++)
        sum += atomic_load_explicit(&h->sum[s], memory_order_relaxed);
    return (double)sum;
}

typedef void (*series_fn)(void *ctx, struct zr_str name, struct zr_str instance, uint32_t kind, struct zr_str doc, double value);

static void each_of_histogram(const struct series *s, series_fn each, void *ctx)
{
    const struct { const char *suffix; double value; } parts[HISTOGRAM_PARTS] = {
        { "_count", histogram_part(s->histogram, -1) },  { "_sum", histogram_sum(s->histogram) },
        { "_p50", histogram_part(s->histogram, 0.5) },   { "_p99", histogram_part(s->histogram, 0.99) },
        { "_max", (double)atomic_load(&s->histogram->max) },
    };
    for (uint32_t i = 0; i < HISTOGRAM_PARTS; i++) {
        char name[256];
        snprintf(name, sizeof name, "%s%s", s->name, parts[i].suffix);
        each(ctx, zl_str(name), zl_str(s->instance), i < 2 ? ZR_METRIC_COUNTER : ZR_METRIC_GAUGE, zl_str(s->doc), parts[i].value);
    }
}

static double series_value(uint32_t id)
{
    return (double)(series_of[id].kind == ZR_METRIC_GAUGE ? atomic_load_explicit(&cells[0][id], memory_order_relaxed) : counter_value(id));
}

void zk_metrics_each(series_fn each, void *ctx)
{
    uint32_t n = atomic_load_explicit(&n_series, memory_order_acquire);
    for (uint32_t i = 1; i < n; i++) {
        const struct series *s = &series_of[i];
        if (s->kind == ZR_METRIC_HISTOGRAM)
            each_of_histogram(s, each, ctx);
        else
            each(ctx, zl_str(s->name), zl_str(s->instance), s->kind, zl_str(s->doc), series_value(i));
    }
}

/* ---- Prometheus' text form: all series of a name together, below one HELP and one TYPE ---- */

static void text_escaped(struct zl_buf *out, struct zr_str s)
{
    for (uint64_t i = 0; i < s.len; i++) {
        if (s.ptr[i] == '\\' || s.ptr[i] == '"')
            zl_buf_u8(out, '\\');
        zl_buf_u8(out, (uint8_t)(s.ptr[i] == '\n' ? ' ' : s.ptr[i]));
    }
}

static void text_head(struct zl_buf *out, struct zr_str name, uint32_t kind, struct zr_str doc)
{
    zl_buf_cstr(out, "# HELP ");
    zl_buf_str(out, name);
    zl_buf_u8(out, ' ');
    for (uint64_t i = 0; i < doc.len; i++)
        zl_buf_u8(out, (uint8_t)(doc.ptr[i] == '\n' || doc.ptr[i] == '\\' ? ' ' : doc.ptr[i]));
    zl_buf_cstr(out, "\n# TYPE ");
    zl_buf_str(out, name);
    zl_buf_cstr(out, kind == ZR_METRIC_GAUGE ? " gauge\n" : " counter\n");
}

static void text_value(struct zl_buf *out, struct zr_str name, struct zr_str instance, double value)
{
    zl_buf_str(out, name);
    zl_buf_cstr(out, "{instance=\"");
    text_escaped(out, instance);
    zl_buf_fmt(out, "\"} %.17g\n", value);
}

struct part { struct zl_buf *out; uint32_t wanted, at, head; };

static void part_of(void *ctx, struct zr_str name, struct zr_str instance, uint32_t kind, struct zr_str doc, double value)
{
    struct part *p = ctx;
    if (p->at++ != p->wanted)
        return;
    if (p->head)
        text_head(p->out, name, kind, doc);
    text_value(p->out, name, instance, value);
}

/* One of a histogram's parts, of every instance that has it. */
static void text_histogram(struct zl_buf *out, uint32_t first, uint32_t n, uint32_t part)
{
    for (uint32_t i = first; i < n; i++) {
        struct part p = { out, part, 0, i == first };
        if (strcmp(series_of[i].name, series_of[first].name) == 0 && series_of[i].histogram)
            each_of_histogram(&series_of[i], part_of, &p);
    }
}

static uint32_t is_first_of_name(uint32_t id)
{
    for (uint32_t i = 1; i < id; i++)
        if (strcmp(series_of[i].name, series_of[id].name) == 0)
            return 0;
    return 1;
}

void zk_metrics_text(struct zl_buf *out)
{
    uint32_t n = atomic_load_explicit(&n_series, memory_order_acquire);
    for (uint32_t first = 1; first < n; first++) {
        const struct series *s = &series_of[first];
        if (!is_first_of_name(first))
            continue;
        for (uint32_t part = 0; part < HISTOGRAM_PARTS && s->kind == ZR_METRIC_HISTOGRAM; part++)
            text_histogram(out, first, n, part);
        if (s->kind == ZR_METRIC_HISTOGRAM)
            continue;
        text_head(out, zl_str(s->name), s->kind, zl_str(s->doc));
        for (uint32_t i = first; i < n; i++)
            if (strcmp(series_of[i].name, s->name) == 0 && !series_of[i].histogram)
                text_value(out, zl_str(s->name), zl_str(series_of[i].instance), series_value(i));
    }
}
