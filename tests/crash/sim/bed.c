/* SPDX-License-Identifier: Apache-2.0 */
/* bed.c - see bed.h: the host of the store, and what clients do to it. */
#include "zarya/bits.h"
#include "bed.h"
#include <errno.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "config/node.h"
#include "core/core.h"
#include "tool.h"
#include "zarya/durability.h"
#include "zarya/err.h"
#include "zarya/log.h"
#include "zarya/timer.h"
#include "zarya/work.h"
#include "zl/record.h"
#include "zl/text.h"
#include "zp.h"
#include "zp_store.h"
#include "zs_pack.h"

/* ---- the host --------------------------------------------------------------------------------------------------------------- */

static struct bed *bed_of(const struct zr_host *host) { return host->ctx; }

static uint32_t log_level(const struct zr_host *host)
{
    (void)host;
    return ZR_LOG_INFO;
}
static void log_write(const struct zr_host *host, uint32_t level, struct zr_str text, const struct zr_field *f, uint32_t n)
{
    struct bed *b = bed_of(host);
    (void)f;
    (void)n;
    pthread_mutex_lock(&b->lock);
    size_t at = strlen(b->lines);
    if (at + text.len + 8 < sizeof b->lines) snprintf(b->lines + at, sizeof b->lines - at, "[%u] %.*s\n", level, (int)text.len, text.ptr);
    pthread_mutex_unlock(&b->lock);
}
static void err_raise(const struct zr_host *host, const struct zr_error *e)
{
    struct bed *b = bed_of(host);
    pthread_mutex_lock(&b->lock);
    snprintf(b->error, sizeof b->error, "%.*s", (int)e->text.len, e->text.ptr);
    size_t at = strlen(b->lines);
    if (at + e->text.len + 12 < sizeof b->lines) snprintf(b->lines + at, sizeof b->lines - at, "[error] %.*s\n", (int)e->text.len, e->text.ptr);
    pthread_mutex_unlock(&b->lock);
}
static void dur_advance(const struct zr_host *host, uint32_t mark, int64_t position)
{
    struct bed *b = bed_of(host);
    pthread_mutex_lock(&b->lock);
    if (mark == ZR_MARK_WRITTEN && position > b->written) b->written = position;
    if (mark == ZR_MARK_FLUSHED && position > b->flushed) {
        b->flushed = position;
        sim_note(b->sim, position);
    }
    pthread_cond_broadcast(&b->moved);
    pthread_mutex_unlock(&b->lock);
}
static void dur_fail(const struct zr_host *host, uint32_t mark, struct zr_str why)
{
    struct bed *b = bed_of(host);
    (void)mark;
    pthread_mutex_lock(&b->lock);
    b->failed = 1;
    b->fail_at = sim_now(b->sim);
    snprintf(b->fail_why, sizeof b->fail_why, "%.*s", (int)why.len, why.ptr);
    pthread_cond_broadcast(&b->moved);
    pthread_mutex_unlock(&b->lock);
}
static int64_t dur_position(const struct zr_host *host, uint32_t mark)
{
    struct bed *b = bed_of(host);
    pthread_mutex_lock(&b->lock);
    int64_t r = mark == ZR_MARK_FLUSHED ? b->flushed : b->written;
    pthread_mutex_unlock(&b->lock);
    return r;
}
static void dur_arrived(const struct zr_host *h, struct zr_str t, int32_t q, int64_t m, int64_t c)
{
    (void)h, (void)t, (void)q, (void)m, (void)c;
}
static void dur_when(const struct zr_host *h, int64_t p, void (*fn)(void *, zr_status), void *arg)
{
    (void)h, (void)p;
    fn(arg, ZR_OK);
}
/* The store holds the wall clock against this one: time that passes, passes on both. */
static _Atomic int64_t boot_ahead_ms;
int __real_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret);
int __wrap_clock_gettime(clockid_t clock, struct timespec *ret)
{
    int r = __real_clock_gettime(clock, ret);
    if (clock == CLOCK_BOOTTIME) ret->tv_sec += atomic_load(&boot_ahead_ms) / 1000;
    return r;
}

void bed_later(struct bed *b, int64_t ms)
{
    atomic_fetch_add(&boot_ahead_ms, ms);
    b->wall += ms;
    b->sim->wall_ms = b->wall;
}

static int64_t timer_mono(const struct zr_host *host)
{
    struct timespec ts;
    (void)host;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}
static int64_t timer_wall(const struct zr_host *host) { return atomic_load(&bed_of(host)->wall); }
static zr_status timer_at(const struct zr_host *host, int64_t at, void (*fn)(void *), void *arg, uint64_t *ret)
{
    struct bed *b = bed_of(host);
    (void)at;
    b->timer_fn = fn;
    b->timer_arg = arg;
    *ret = 1;
    return ZR_OK;
}
static zr_status timer_cancel(const struct zr_host *host, uint64_t id)
{
    struct bed *b = bed_of(host);
    (void)id;
    if (!b->timer_fn) return ZR_ENOENT;
    b->timer_fn = NULL;
    return ZR_OK;
}
struct start {
    void (*fn)(void *);
    void *arg;
};
static void *thread_main(void *arg)
{
    struct start s = *(struct start *)arg;
    free(arg);
    s.fn(s.arg);
    return NULL;
}
static zr_status work_run(const struct zr_host *host, void (*fn)(void *), void *arg)
{
    (void)host;
    fn(arg);
    return ZR_OK;
}
static zr_status work_spawn(const struct zr_host *host, const char *name, void (*fn)(void *), void *arg, uint64_t *ret)
{
    struct bed *b = bed_of(host);
    struct start *s = malloc(sizeof *s);
    *s = (struct start){ fn, arg };
    *ret = b->n_threads;
    if (b->by_hand && strcmp(name, "store-pack") == 0) {
        b->not_started |= 1u << b->n_threads++;
        free(s);
        return ZR_OK;
    }
    if (b->n_threads >= 16 || pthread_create(&b->threads[b->n_threads++], NULL, thread_main, s) != 0) abort();
    return ZR_OK;
}
static zr_status work_join(const struct zr_host *host, uint64_t id)
{
    struct bed *b = bed_of(host);
    if (!(b->not_started >> id & 1)) pthread_join(b->threads[id], NULL);
    return ZR_OK;
}

static const struct zr_log_v1 log_table = { ZR_HDR(struct zr_log_v1, 0), log_level, log_write };
static const struct zr_err_v1 err_table = { ZR_HDR(struct zr_err_v1, 0), err_raise };
static const struct zr_durability_v1 dur_table = { ZR_HDR(struct zr_durability_v1, 0), dur_advance, dur_fail, dur_position,
                                                   dur_arrived, dur_when };
static const struct zr_timer_v1 timer_table = { ZR_HDR(struct zr_timer_v1, 0), timer_mono, timer_wall, timer_at, timer_cancel, NULL };
static const struct zr_work_v1 work_table = { ZR_HDR(struct zr_work_v1, 0), work_run, work_spawn, work_join };

/* Maps for some of the messages of a batch, so that units are of two sizes. */
static uint32_t maps_make(const struct zr_host *host, struct zr_str topic, struct zr_bits_map *maps, uint32_t n)
{
    (void)host, (void)topic;
    for (uint32_t i = 0; i < n; i++) {
        maps[i].n_bytes = maps[i].properties.len % 2 ? 14 : 0;
        memset(maps[i].bytes, 0x5A, maps[i].n_bytes);
    }
    return 1;
}
static const struct zr_bits_v1 bits_table = { .hdr = ZR_HDR(struct zr_bits_v1, 0), .maps = maps_make };

static const void *host_query(const struct zr_host *host, const char *id)
{
    struct bed *b = bed_of(host);
    if (!strcmp(id, ZR_SVC_IO)) return &b->sim->io;
    if (!strcmp(id, ZR_SVC_LOG)) return &log_table;
    if (!strcmp(id, ZR_SVC_ERR)) return &err_table;
    if (!strcmp(id, ZR_SVC_DURABILITY)) return &dur_table;
    if (!strcmp(id, ZR_SVC_TIMER)) return &timer_table;
    if (!strcmp(id, ZR_SVC_WORK)) return &work_table;
    if (!strcmp(id, ZR_SVC_BITS)) return &bits_table;
    return NULL;
}

/* ---- the store ---------------------------------------------------------------------------------------------------------------- */

void bed_conf(struct zs_conf *c)
{
    *c = (struct zs_conf){
        .root = ROOT,
        .log_dir = "",
        .index = 1,
        .flush_interval_ms = 5,
        .checkpoint_interval_ms = 3,
        .segment_size = 16384,
        .queue_file_size = 400, /* 20 entries */
        .extent_file_size = 600,
        .max_message_size = 6000,
        .index_slots = 32,
        .index_entries = 64,
        .retention_hours = 72,
        .clean_interval_ms = 10000,
        .max_hot_bytes = 262144,
        .max_hot_messages = 32,
        .max_cold_bytes = 65536,
        .max_cold_messages = 8,
        .max_open_queue_files = 8,
        .max_open_segments = 4,
        .max_tail_bytes = 65536,
        .ratio_memory = 0.4,
        .ratio_clean = 0.75,
        .ratio_force = 0.85,
        .ratio_refuse = 0.9,
        .pack_level = 1,
        .pack_dict_size = 65536,
        .pack_block_size = 4096,
        .pack_rate = 1ll << 40,
        .pack_cache_bytes = 65536,
        .max_open_packs = 4,
    };
    zs_parse_levels(zl_str("1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"), c->level_ms, &c->n_levels);
}

/* The one place that knows which engine is under test: a store without a table for packing is storage-commitlog. */
void bed_engine(struct bed *b, enum engine engine)
{
    b->conf.pack = engine == ENGINE_PLAIN ? NULL : &zp_store_ops;
    b->conf.compress = engine == ENGINE_PACK;
}

uint32_t bed_has_packed(struct bed *b)
{
    for (uint32_t i = 0; i < b->sim->n_names; i++)
        if (zl_ends(zl_str(b->sim->names[i].path), ZP_SUFFIX)) return 1;
    return 0;
}

struct bed *bed_new(void)
{
    struct bed *b = calloc(1, sizeof *b);
    pthread_mutex_init(&b->lock, NULL);
    pthread_cond_init(&b->moved, NULL);
    b->host = (struct zr_host){ ZR_HDR(struct zr_host, 0), b, host_query, "storage", ROOT };
    bed_conf(&b->conf);
    b->sim = sim_new();
    b->wall = b->sim->wall_ms;
    b->by_hand = 1;
    sim_make(b->sim, ROOT, 1);
    return b;
}

void bed_free(struct bed *b)
{
    if (b->sim) sim_free(b->sim);
    free(b->h.sent);
    free(b->h.docs);
    free(b->h.rows);
    pthread_mutex_destroy(&b->lock);
    pthread_cond_destroy(&b->moved);
    free(b);
}

zr_status bed_open(struct bed *b)
{
    b->written = b->flushed = 0;
    b->failed = 0;
    b->n_threads = b->not_started = 0;
    b->timer_fn = NULL;
    if (!b->sim->hook) b->lines[0] = b->error[0] = 0;
    b->st = zs_create(&b->host, &b->conf);
    if (!b->st) {
        b->unopened++;
        return ZR_ENOMEM;
    }
    zr_status rc = zs_warm(b->st);
    if (rc != ZR_OK) {
        zs_destroy(b->st);
        b->st = NULL;
        b->unopened++;
        return rc;
    }
    b->opened++;
    zs_activate(b->st);
    return ZR_OK;
}

static void drained(void *ctx, zr_status status) { *(zr_status *)ctx = status; }

void bed_close(struct bed *b)
{
    zr_status status = ZR_PENDING;
    bed_rows_close(b);
    if (!b->st) return;
    zs_drain(b->st, (struct zr_done){ drained, &status });
    zs_cool(b->st);
    zs_destroy(b->st);
    b->st = NULL;
}

/* ---- clients --------------------------------------------------------------------------------------------------------------------- */

uint32_t bed_topic(struct bed *b, const char *name)
{
    struct history *h = &b->h;
    for (uint32_t i = 0; i < h->n_topics; i++)
        if (strcmp(h->topics[i], name) == 0) return i;
    if (h->n_topics == MAX_TOPICS) abort();
    snprintf(h->topics[h->n_topics], sizeof h->topics[0], "%s", name);
    return h->n_topics++;
}

void body_make(uint8_t *to, uint32_t size, int64_t serial)
{
    char head[32];
    int n = snprintf(head, sizeof head, "M%lld/", (long long)serial);
    for (uint32_t i = 0; i < size; i++) to[i] = i < (uint32_t)n ? (uint8_t)head[i] : (uint8_t)('a' + (serial * 7 + i * 3 + i / 64) % 26);
}

static uint32_t sent_add(struct bed *b, uint32_t topic, int32_t queue, uint32_t size, uint32_t key)
{
    struct history *h = &b->h;
    if (h->n_sent == h->cap_sent) {
        h->cap_sent = h->cap_sent ? h->cap_sent * 2 : 256;
        h->sent = realloc(h->sent, h->cap_sent * sizeof *h->sent);
    }
    h->sent[h->n_sent] = (struct sent){ .begin = sim_now(b->sim), .end = NEVER, .seen = NEVER, .topic = topic, .queue = queue,
                                        .body = size, .key = key, .life = h->lives[topic] };
    return h->n_sent++;
}

static uint32_t put_many(struct bed *b, const char *topic, const int32_t *queues, uint32_t n, uint32_t size, uint32_t joined, uint32_t key)
{
    struct zr_msg m[32];
    struct zr_put p[32];
    char props[32][64];
    uint8_t *bodies = malloc((uint64_t)n * size);
    uint32_t serial[32], good = 0;
    int64_t end;
    if (!b->st) {
        free(bodies);
        return 0;
    }
    pthread_mutex_lock(&b->lock);
    uint32_t t = bed_topic(b, topic);
    for (uint32_t i = 0; i < n; i++) serial[i] = sent_add(b, t, queues[i], size, key);
    pthread_mutex_unlock(&b->lock);
    for (uint32_t i = 0; i < n; i++) {
        body_make(bodies + (uint64_t)i * size, size, serial[i]);
        snprintf(props[i], sizeof props[i], "KEYS\001k%u\002TAGS\001t%u\002UNIQ_KEY\001U%u\002", serial[i], serial[i] % 3, serial[i]);
        if (!key) snprintf(props[i], sizeof props[i], "TAGS\001t%u\002", serial[i] % 3);
        m[i] = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str(topic), .queue_id = queues[i], .inner_num = 1,
                                .body = { bodies + (uint64_t)i * size, size }, .properties = { (uint8_t *)props[i], strlen(props[i]) },
                                .born_ms = 1700000000000, .flags = joined && i ? ZR_MSG_JOINED : 0 };
        m[i].tags_code = zl_tags_code(zl_props_get(m[i].properties, "TAGS"));
        m[i].born_host = m[i].store_host = (struct zr_addr){ { 127, 0, 0, 1 }, 10911, 4 };
        p[i] = (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0) };
    }
    zs_append(b->st, m, n, p, &end);
    pthread_mutex_lock(&b->lock);
    for (uint32_t i = 0; i < n; i++) {
        struct sent *s = &b->h.sent[serial[i]];
        s->offset = s->phys = -1;
        if (p[i].status != ZR_OK) {
            b->refused += p[i].status == ZR_EIO || p[i].status == ZR_EFULL;
            continue;
        }
        s->offset = p[i].queue_offset;
        s->phys = p[i].physical_offset;
        s->size = p[i].size;
        s->end = sim_now(b->sim);
        good++;
    }
    pthread_mutex_unlock(&b->lock);
    free(bodies);
    return good;
}

uint32_t bed_put_many(struct bed *b, const char *topic, const int32_t *queues, uint32_t n, uint32_t size, uint32_t joined)
{
    return put_many(b, topic, queues, n, size, joined, 1);
}

uint32_t bed_put(struct bed *b, const char *topic, int32_t queue, uint32_t size, uint32_t key)
{
    return put_many(b, topic, &queue, 1, size, 0, key);
}

uint32_t bed_put_inner(struct bed *b, const char *topic, int32_t queue, uint32_t size, uint32_t messages)
{
    uint8_t body[8192];
    struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
    int64_t end;
    if (!b->st) return 0;
    pthread_mutex_lock(&b->lock);
    uint32_t t = bed_topic(b, topic), serial = sent_add(b, t, queue, size, 1);
    pthread_mutex_unlock(&b->lock);
    body_make(body, size, serial);
    char props[96];
    snprintf(props, sizeof props, "KEYS\001k%u\002UNIQ_KEY\001U%u\002INNER_NUM\001%u\002", serial, serial, messages);
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str(topic), .queue_id = queue, .inner_num = messages,
                        .sys_flag = ZR_SYSFLAG_INNER_BATCH, .flags = ZR_MSG_BATCH_QUEUE, .body = { body, size }, .properties = { (uint8_t *)props, strlen(props) },
                        .born_ms = 1700000000000 };
    m.born_host = m.store_host = (struct zr_addr){ { 127, 0, 0, 1 }, 10911, 4 };
    zs_append(b->st, &m, 1, &p, &end);
    pthread_mutex_lock(&b->lock);
    struct sent *s = &b->h.sent[serial];
    s->offset = s->phys = -1;
    if (p.status == ZR_OK) {
        s->offset = p.queue_offset;
        s->phys = p.physical_offset;
        s->size = p.size;
        s->end = sim_now(b->sim);
    } else {
        b->refused += p.status == ZR_EIO || p.status == ZR_EFULL;
    }
    pthread_mutex_unlock(&b->lock);
    return p.status == ZR_OK;
}

uint32_t bed_put_delay(struct bed *b, int32_t level, uint32_t size)
{
    uint8_t body[8192];
    char props[96];
    struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
    int64_t end;
    if (!b->st) return 0;
    pthread_mutex_lock(&b->lock);
    uint32_t t = bed_topic(b, "SCHEDULE_TOPIC_XXXX"), serial = sent_add(b, t, level - 1, size, 1);
    pthread_mutex_unlock(&b->lock);
    body_make(body, size, serial);
    snprintf(props, sizeof props, "KEYS\001k%u\002DELAY\001%d\002REAL_TOPIC\001T\002UNIQ_KEY\001U%u\002", serial, level, serial);
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("SCHEDULE_TOPIC_XXXX"), .queue_id = level - 1, .inner_num = 1,
                        .body = { body, size }, .properties = { (uint8_t *)props, strlen(props) }, .born_ms = 1700000000000 };
    m.tags_code = atomic_load(&b->wall) + b->conf.level_ms[level - 1];
    m.born_host = m.store_host = (struct zr_addr){ { 127, 0, 0, 1 }, 10911, 4 };
    zs_append(b->st, &m, 1, &p, &end);
    pthread_mutex_lock(&b->lock);
    struct sent *s = &b->h.sent[serial];
    s->offset = s->phys = -1;
    if (p.status == ZR_OK) {
        s->offset = p.queue_offset;
        s->phys = p.physical_offset;
        s->size = p.size;
        s->delivery = m.tags_code;
        s->end = sim_now(b->sim);
    }
    pthread_mutex_unlock(&b->lock);
    return p.status == ZR_OK;
}

void bed_flush(struct bed *b)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    struct timespec until;
    if (!b->st) return;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20; /* never waited for, unless a flush is forgotten */
    zs_info(b->st, &info);
    zs_want_flushed(b->st, info.positions.written);
    pthread_mutex_lock(&b->lock);
    while (b->flushed < info.positions.written && !b->failed && !b->stuck)
        if (pthread_cond_timedwait(&b->moved, &b->lock, &until) != 0) b->stuck = 1;
    pthread_mutex_unlock(&b->lock);
}

void bed_peek(struct bed *b)
{
    if (!b->st) return;
    for (uint32_t i = 0; i < b->h.n_sent; i++) {
        struct sent *s = &b->h.sent[i];
        int64_t min = 0, max = 0;
        if (s->end == NEVER || s->seen != NEVER || s->life != b->h.lives[s->topic]) continue;
        zs_bounds(b->st, zs_queue(b->st, zl_str(b->h.topics[s->topic]), s->queue, 0), &min, &max);
        if (s->offset < max) s->seen = sim_now(b->sim);
    }
}

zr_status bed_remove(struct bed *b, const char *topic)
{
    if (!b->st) return ZR_ECLOSED;
    struct removal *r = &b->h.removals[b->h.n_removals++];
    uint32_t t = bed_topic(b, topic);
    *r = (struct removal){ t, sim_now(b->sim), NEVER };
    zr_status rc = zs_remove_topic(b->st, zl_str(topic));
    if (rc == ZR_OK) r->end = sim_now(b->sim);
    b->h.lives[t]++;
    return rc;
}

void bed_clean(struct bed *b)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    uint64_t removed;
    if (!b->st) return;
    struct cleaning *c = &b->h.cleanings[b->h.n_cleanings++];
    c->begin = sim_now(b->sim);
    zs_clean(b->st, &removed);
    zs_info(b->st, &info);
    c->log_begin = info.positions.begin;
}

void bed_indexed(struct bed *b)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    struct timespec ts = { 0, 20000 };
    if (!b->st) return;
    for (uint32_t i = 0; i < 100000; i++) {
        zs_info(b->st, &info);
        if (info.positions.dispatched >= info.positions.written || b->failed || (b->sim->hook && i > 200)) return;
        if (i < 20) sched_yield();
        else nanosleep(&ts, NULL);
    }
}

/* ---- the other form ---------------------------------------------------------------------------------------------------------- */

uint32_t bed_pack(struct bed *b, uint32_t steps)
{
    uint32_t n = 0;
    if (!b->st || !b->conf.pack) return 0;
    while (n < steps && zs_pack_step(b->st) > 0) n++;
    return n;
}

static void converted(void *arg, int64_t base, int64_t status, uint64_t plain_bytes, uint64_t packed_bytes)
{
    struct bed *b = arg;
    size_t at = strlen(b->lines);
    (void)plain_bytes, (void)packed_bytes;
    if (status < 0 && at + 128 < sizeof b->lines)
        snprintf(b->lines + at, sizeof b->lines - at, "[convert] %020lld: %s\n", (long long)base, strerror((int)-status));
}

int64_t bed_convert(struct bed *b, uint32_t to_plain)
{
    struct zp_convert c = { .io = &b->sim->io, .log_dir = ROOT "/commitlog", .to_plain = to_plain,
                            .conf = { .level = 1, .dict_size = 65536, .block_size = 4096 }, .say = converted, .say_arg = b };
    int64_t r = zp_convert(&c);
    if (r < 0) converted(b, -1, r, 0, 0);
    return r;
}

int bed_repair(struct bed *b)
{
    const struct zt_options opt = { .threads = 1, .segment_size = b->conf.segment_size, .queue_file_size = b->conf.queue_file_size,
                                    .index_slots = b->conf.index_slots, .index_entries = b->conf.index_entries };
    char *said = NULL;
    size_t n = 0, at = strlen(b->lines);
    FILE *err = open_memstream(&said, &n);
    if (!err) abort();
    zt_io_set(&b->sim->io, err, err);
    int rc = zt_cmd_repair(ROOT, &opt);
    zt_io_set(NULL, NULL, NULL);
    fclose(err);
    snprintf(b->lines + at, sizeof b->lines - at, "[repair: %d]\n%s", rc, said);
    free(said);
    return rc;
}

/* ---- documents of the kernel ------------------------------------------------------------------------------------------------------ */

static const char *const doc_names[MAX_DOCS] = { "config/topics.json", "config/consumerOffset.json", "config/subscriptionGroup.json",
                                                    "config/delayOffset.json" };

zr_status bed_doc(struct bed *b, uint32_t doc, int64_t version, uint32_t size)
{
    struct history *h = &b->h;
    uint8_t *bytes = malloc(size);
    if (h->n_docs == h->cap_docs) {
        h->cap_docs = h->cap_docs ? h->cap_docs * 2 : 64;
        h->docs = realloc(h->docs, h->cap_docs * sizeof *h->docs);
    }
    struct doc_write *d = &h->docs[h->n_docs++];
    *d = (struct doc_write){ doc, sim_now(b->sim), NEVER, version };
    body_make(bytes, size, version);
    zk_io_set(&b->sim->io);
    zk_node.data_dir = ROOT;
    zr_status rc = zk_state_write(zl_str(doc_names[doc]), (struct zr_span){ bytes, size });
    if (rc == ZR_OK) d->end = sim_now(b->sim);
    else snprintf(b->error, sizeof b->error, "%s", zk_err_text());
    free(bytes);
    return rc;
}

static zr_status doc_taken(void *ctx, struct zr_span bytes)
{
    (void)ctx;
    return bytes.len > 2 && bytes.ptr[0] == 'M' ? ZR_OK : ZR_ECORRUPT;
}

zr_status bed_doc_read(struct bed *b, uint32_t doc)
{
    zk_io_set(&b->sim->io);
    zk_node.data_dir = ROOT;
    return zk_state_read(zl_str(doc_names[doc]), doc_taken, NULL);
}

/* Reads everything there is in every way there is. Wrong bytes end up in b->why; what cannot be read is not counted here. */
void bed_read(struct bed *b)
{
    if (!b->st) return;
    for (uint32_t i = 0; i < b->h.n_sent; i++) {
        const struct sent *m = &b->h.sent[i];
        struct zr_str topic = zl_str(b->h.topics[m->topic]);
        struct zr_piece pieces[4];
        struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = topic, .queue_id = m->queue, .offset = m->offset,
                               .pieces = pieces, .cap_pieces = 4, .max_messages = 4 };
        struct zr_read_result ret = { .hdr = ZR_HDR(struct zr_read_result, 0) };
        struct zr_queue *q = zs_queue(b->st, topic, m->queue, 0);
        uint64_t pin;
        int64_t phys[8], ms;
        char key[32];
        if (m->end == NEVER || m->life != b->h.lives[m->topic] || !q) continue;
        if (zs_read(b->st, &req, &ret) == ZR_OK) {
            struct zl_record r;
            const char *why;
            uint8_t body[8192];
            if (ret.n_messages && (zl_record_parse((struct zr_span){ pieces[0].ptr, pieces[0].len }, 1, &r, &why) != ZR_OK))
                snprintf(b->why, sizeof b->why, "a bad record was given");
            else if (ret.n_messages && r.queue_offset == m->offset) {
                body_make(body, m->body, i);
                if (r.body.len != m->body || memcmp(body, r.body.ptr, m->body) != 0) snprintf(b->why, sizeof b->why, "wrong bytes were given");
            }
            zs_unpin(b->st, ret.pin);
        }
        if (zs_record_at(b->st, m->phys, pieces, &pin) == ZR_OK) zs_unpin(b->st, pin);
        zs_time_at(b->st, q, m->offset, &ms);
        zs_offset_at(b->st, q, atomic_load(&b->wall), i & 1, &ms);
        snprintf(key, sizeof key, "k%u", i);
        if (i % 7 == 0) zs_find_key(b->st, topic, zl_str(key), 0, 0, INT64_MAX, phys, 8);
    }
}
