/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - what was put and given: totals, rates over 10, 60 and 600 seconds, latencies of the last minute, rates
 * by topic and by (group, topic).
 *
 * Lanes count in counters of their own (one writer each); a sampler sums them up once a second into a ring of 601
 * samples, as Apache does, so that a rate is a difference of two samples. Topics and groups are sampled every ten
 * seconds.
 *
 * LOCKING. zb.stats_lock guards the ring, the minute's histograms and the rates of topics. */
#include "broker/internal.h"
#include <time.h>

#define SAMPLES 601u
struct sample {
    int64_t at_ms, put, found, miss, given;
};
static struct sample ring[SAMPLES];
static uint32_t n_samples, next_sample;
static uint64_t seconds;
struct minute {
    int64_t histogram[13], latency[ZB_LATENCY_BUCKETS];
};
static struct minute at_minute_begin, last_minute;
static uint32_t have_minute;
struct totals {
    int64_t put, put_failed, put_bytes, found, miss, given, put_max_ms, get_max_ms;
    struct minute m;
};
static int64_t morning_put[2], morning_get[2]; /* yesterday's, today's */
static int32_t day;

static uint32_t latency_bucket(int64_t us)
{
    if (us < 8)
        return us < 0 ? 0 : (uint32_t)us;
    uint32_t octave = 63u - (uint32_t)__builtin_clzll((uint64_t)us);
    uint32_t b = (octave - 2) * 8 + (uint32_t)((us >> (octave - 3)) & 7);
    return b < ZB_LATENCY_BUCKETS ? b : ZB_LATENCY_BUCKETS - 1;
}

static double bucket_ms(uint32_t b)
{
    if (b < 8)
        return (double)b / 1000.0;
    return (double)((8ull + b % 8) << (b / 8 - 1)) / 1000.0;
}

static uint32_t histogram_slot(int64_t ms)
{
    static const int64_t limits[12] = { 1, 10, 50, 100, 200, 500, 1000, 2000, 3000, 4000, 5000, 10000 };
    uint32_t i = 0;
    while (i < 12 && ms >= limits[i])
        i++;
    return i;
}

void zb_count_put(struct zb_counters *c, int64_t messages, int64_t bytes, int64_t took_ns)
{
    int64_t ms = took_ns / 1000000;
    atomic_fetch_add_explicit(&c->put, messages, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->put_bytes, bytes, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->histogram[histogram_slot(ms)], 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->latency[latency_bucket(took_ns / 1000)], 1, memory_order_relaxed);
    if (ms > atomic_load_explicit(&c->put_max_ms, memory_order_relaxed))
        atomic_store_explicit(&c->put_max_ms, ms, memory_order_relaxed);
}

static void totals_add(struct totals *t, struct zb_counters *c)
{
    int64_t put_max = atomic_load_explicit(&c->put_max_ms, memory_order_relaxed),
            get_max = atomic_load_explicit(&c->get_max_ms, memory_order_relaxed);
    t->put += atomic_load_explicit(&c->put, memory_order_relaxed);
    t->put_failed += atomic_load_explicit(&c->put_failed, memory_order_relaxed);
    t->put_bytes += atomic_load_explicit(&c->put_bytes, memory_order_relaxed);
    t->found += atomic_load_explicit(&c->found, memory_order_relaxed);
    t->miss += atomic_load_explicit(&c->miss, memory_order_relaxed);
    t->given += atomic_load_explicit(&c->given, memory_order_relaxed);
    t->put_max_ms = put_max > t->put_max_ms ? put_max : t->put_max_ms;
    t->get_max_ms = get_max > t->get_max_ms ? get_max : t->get_max_ms;
    for (uint32_t i = 0; i < 13; i++)
        t->m.histogram[i] += atomic_load_explicit(&c->histogram[i], memory_order_relaxed);
    for (uint32_t i = 0; i < ZB_LATENCY_BUCKETS; i++)
        t->m.latency[i] += atomic_load_explicit(&c->latency[i], memory_order_relaxed);
}

static void totals_take(struct totals *t)
{
    struct zb_lane **all;
    uint32_t n = zb_lanes(&all);
    memset(t, 0, sizeof *t);
    totals_add(t, &zb.count);
    for (uint32_t i = 0; i < n; i++)
        totals_add(t, &all[i]->count);
}

static int32_t day_of(int64_t ms)
{
    time_t t = ms / 1000;
    struct tm tm;
    return localtime_r(&t, &tm) ? tm.tm_year * 366 + tm.tm_yday : 0;
}

static void minute_turn(const struct totals *t)
{
    for (uint32_t i = 0; i < 13; i++)
        last_minute.histogram[i] = t->m.histogram[i] - at_minute_begin.histogram[i];
    for (uint32_t i = 0; i < ZB_LATENCY_BUCKETS; i++)
        last_minute.latency[i] = t->m.latency[i] - at_minute_begin.latency[i];
    at_minute_begin = t->m;
    have_minute = 1;
}

static void morning_turn(const struct totals *t, int64_t now_ms)
{
    int32_t today = day_of(now_ms);
    if (today == day)
        return;
    if (day) {
        morning_put[0] = morning_put[1];
        morning_get[0] = morning_get[1];
        morning_put[1] = t->put;
        morning_get[1] = t->given;
    }
    day = today;
}

static void topics_sample(int64_t now_ms)
{
    uint32_t n = 0;
    struct zb_topic **all = zb_topics_all(&n);
    for (uint32_t i = 0; all && i < n; i++) {
        struct zb_live *l = all[i]->live;
        pthread_mutex_lock(&zb.stats_lock);
        if (atomic_load(&l->put_count))
            zb_rate_add(&l->put, now_ms, atomic_load(&l->put_count), atomic_load(&l->put_bytes));
        if (atomic_load(&l->get_count))
            zb_rate_add(&l->get, now_ms, atomic_load(&l->get_count), atomic_load(&l->get_bytes));
        pthread_mutex_unlock(&zb.stats_lock);
    }
    zb_topics_free(all, n);
}

static void sample_work(void *arg)
{
    int64_t now = zk_wall_ms();
    (void)arg;
    topics_sample(now);
    zb_offsets_sample(now);
}

void zb_stats_second(void)
{
    struct totals t;
    int64_t now = zk_wall_ms();
    totals_take(&t);
    pthread_mutex_lock(&zb.stats_lock);
    ring[next_sample] = (struct sample){ now, t.put, t.found, t.miss, t.given };
    next_sample = (next_sample + 1) % SAMPLES;
    n_samples += n_samples < SAMPLES;
    seconds++;
    if (seconds % 60 == 0)
        minute_turn(&t);
    morning_turn(&t, now);
    pthread_mutex_unlock(&zb.stats_lock);
    if (seconds % 10 == 1)
        (void)zb_work(sample_work, NULL); /* a full pool: the next one is ten seconds away */
}

void zb_rate_add(struct zb_rate *r, int64_t now_ms, int64_t count, int64_t bytes)
{
    r->at_ms[r->next] = now_ms;
    r->count[r->next] = count;
    r->bytes[r->next] = bytes;
    r->next = (r->next + 1) % ZB_WINDOW;
    r->n += r->n < ZB_WINDOW;
}

void zb_rate_get(const struct zb_rate *r, double *ret_count, double *ret_bytes)
{
    *ret_count = *ret_bytes = 0;
    if (r->n < 2)
        return;
    uint32_t last = (r->next + ZB_WINDOW - 1) % ZB_WINDOW, first = r->n < ZB_WINDOW ? 0 : r->next;
    double s = (double)(r->at_ms[last] - r->at_ms[first]) / 1000.0;
    if (s > 0) {
        *ret_count = (double)(r->count[last] - r->count[first]) / s;
        *ret_bytes = (double)(r->bytes[last] - r->bytes[first]) / s;
    }
}

/* Under the lock: rates of the window of that many seconds; -1: not yet. */
static void window_rates(uint32_t back, double *put, double *found, double *miss, double *given)
{
    *put = *found = *miss = *given = -1;
    if (n_samples <= back)
        return;
    const struct sample *last = &ring[(next_sample + SAMPLES - 1) % SAMPLES],
                        *first = &ring[(next_sample + 2 * SAMPLES - 1 - back) % SAMPLES];
    double s = (double)(last->at_ms - first->at_ms) / 1000.0;
    if (s <= 0)
        return;
    *put = (double)(last->put - first->put) / s;
    *found = (double)(last->found - first->found) / s;
    *miss = (double)(last->miss - first->miss) / s;
    *given = (double)(last->given - first->given) / s;
}

static double percentile(const struct minute *m, double part)
{
    int64_t all = 0, seen = 0;
    for (uint32_t i = 0; i < ZB_LATENCY_BUCKETS; i++)
        all += m->latency[i];
    for (uint32_t i = 0; all && i < ZB_LATENCY_BUCKETS; i++) {
        seen += m->latency[i];
        if ((double)seen >= part * (double)all)
            return bucket_ms(i);
    }
    return 0;
}

void zb_stats(struct zr_broker_stats *ret)
{
    static const uint32_t back[3] = { 10, 60, 600 };
    struct totals t;
    struct zr_broker_stats s = { .hdr = ret->hdr };
    totals_take(&t);
    s.put_total = t.put;
    s.put_failed = t.put_failed;
    s.put_bytes = t.put_bytes;
    s.get_found = t.found;
    s.get_miss = t.miss;
    s.get_messages = t.given;
    s.put_max_ms = t.put_max_ms;
    s.get_max_ms = t.get_max_ms;
    s.held_pulls = (int64_t)zb_hold_count();
    s.sessions = (int64_t)zk_n_sessions();
    pthread_mutex_lock(&zb.stats_lock);
    for (uint32_t i = 0; i < 3; i++)
        window_rates(back[i], &s.put_tps[i], &s.found_tps[i], &s.miss_tps[i], &s.transferred_tps[i]);
    const struct minute *m = have_minute ? &last_minute : &t.m;
    for (uint32_t i = 0; i < 13; i++)
        s.put_histogram[i] = (uint64_t)m->histogram[i];
    s.put_p99_ms = percentile(m, 0.99);
    s.put_p999_ms = percentile(m, 0.999);
    s.put_yesterday_morning = morning_put[0];
    s.put_today_morning = morning_put[1];
    s.get_yesterday_morning = morning_get[0];
    s.get_today_morning = morning_get[1];
    pthread_mutex_unlock(&zb.stats_lock);
    memcpy(ret, &s, ret->hdr.size < sizeof s ? ret->hdr.size : sizeof s);
}
