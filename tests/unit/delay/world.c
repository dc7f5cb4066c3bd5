/* SPDX-License-Identifier: Apache-2.0 */
/* world.c - see world.h. Records lie one behind the other in one block; the physical offset is the place there. */
#include "world.h"

#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "../../../plugins/feature/delay/timer.h"
#include "zarya/find.h"
#include "zl/io.h"
#include "zl/text.h"

#define LOG_MAX (256ull << 20)
#define MSGS_MAX (1u << 20)
#define TOPICS_MAX 256u

struct stored { uint32_t at, size, topic; int32_t queue; int64_t offset, code; };
struct zr_queue { uint32_t topic; int32_t id; };
struct zr_token { uint32_t unused; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint8_t *log_bytes;
static uint64_t log_len;
static struct stored *msgs;
static uint32_t n_msgs, n_topics, failing;
static uint32_t unread, unopened; /* record_at and open fail so many times more */
static zr_status unread_status;
static char unread_topic[128], bad_topic[128], bad_uniq[64];
static uint32_t bad_reads, documents_kept;
static uint8_t document[65536];
static uint64_t document_len;
static struct { void (*fn)(void *); void *arg; uint64_t id; } timers[256];
static uint32_t n_timers;
static uint64_t timer_id;
static struct zr_io_v1 io;
static char topics[TOPICS_MAX][128];
static struct zr_queue queues[256];
static uint32_t n_queues;
static int64_t shift_ms;
static void (*clock_fn)(void *);
static void *clock_arg;
static char dir[64];
static struct zr_host host;
static struct zr_inst *inst;
static const struct zr_plugin *plugin;
static struct settings settings;
static pthread_t threads[16];
static uint32_t n_threads;
static int32_t last_code;
char world_body[65536];
uint64_t world_body_len;

static uint32_t topic_number(struct zr_str name)
{
    for (uint32_t i = 0; i < n_topics; i++)
        if (zl_is(name, topics[i])) return i;
    cr_assert_lt(n_topics, TOPICS_MAX);
    snprintf(topics[n_topics], sizeof topics[0], "%.*s", (int)name.len, name.ptr);
    return n_topics++;
}

/* ---- services --------------------------------------------------------------------------------------------------------------- */
static int64_t mono_ns(const struct zr_host *h)
{
    struct timespec t;
    (void)h;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000ll + t.tv_nsec;
}
static int64_t wall(const struct zr_host *h)
{
    struct timespec t;
    (void)h;
    clock_gettime(CLOCK_REALTIME, &t);
    return t.tv_sec * 1000ll + t.tv_nsec / 1000000 + __atomic_load_n(&shift_ms, __ATOMIC_RELAXED);
}
static zr_status timer_at(const struct zr_host *h, int64_t at, void (*fn)(void *), void *arg, uint64_t *ret)
{
    (void)h, (void)at; /* they run when a test says so */
    pthread_mutex_lock(&lock);
    cr_assert_lt(n_timers, 256);
    timers[n_timers].fn = fn;
    timers[n_timers].arg = arg;
    timers[n_timers++].id = *ret = ++timer_id;
    pthread_mutex_unlock(&lock);
    return ZR_OK;
}
static zr_status timer_cancel(const struct zr_host *h, uint64_t id)
{
    zr_status status = ZR_ENOENT;
    (void)h;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < n_timers; i++)
        if (timers[i].id == id) {
            timers[i] = timers[--n_timers];
            status = ZR_OK;
            break;
        }
    pthread_mutex_unlock(&lock);
    return status;
}
static zr_status on_clock_set(const struct zr_host *h, void (*fn)(void *), void *arg)
{
    (void)h;
    pthread_mutex_lock(&lock);
    if (fn || clock_arg == arg) { /* the last one that asks is told: the engine */
        clock_fn = fn;
        clock_arg = arg;
    }
    pthread_mutex_unlock(&lock);
    return ZR_OK;
}
static const struct zr_timer_v1 timer_table = { ZR_HDR(struct zr_timer_v1, 0), mono_ns, wall, timer_at, timer_cancel, on_clock_set };

struct start { void (*fn)(void *); void *arg; };
static void *run_thread(void *p)
{
    struct start s = *(struct start *)p;
    free(p);
    s.fn(s.arg);
    return NULL;
}
static zr_status work_run(const struct zr_host *h, void (*fn)(void *), void *arg) { return (void)h, fn(arg), ZR_OK; }
static zr_status work_spawn(const struct zr_host *h, const char *name, void (*fn)(void *), void *arg, uint64_t *ret)
{
    struct start *s = malloc(sizeof *s);
    (void)h, (void)name;
    *s = (struct start){ fn, arg };
    *ret = n_threads;
    return pthread_create(&threads[n_threads++ % 16], NULL, run_thread, s) == 0 ? ZR_OK : ZR_EIO;
}
static zr_status work_join(const struct zr_host *h, uint64_t id) { return (void)h, pthread_join(threads[id % 16], NULL), ZR_OK; }
static const struct zr_work_v1 work_table = { ZR_HDR(struct zr_work_v1, 0), work_run, work_spawn, work_join };

static zr_status state_write(const struct zr_host *h, struct zr_str name, struct zr_span bytes)
{
    (void)h;
    if (documents_kept && zl_ends(name, "delayOffset.json") && bytes.len <= sizeof document) memcpy(document, bytes.ptr, document_len = bytes.len);
    return ZR_OK;
}
static zr_status state_read(const struct zr_host *h, struct zr_str name, zr_status (*accept)(void *, struct zr_span), void *ctx)
{
    (void)h;
    return document_len && zl_ends(name, "delayOffset.json") ? accept(ctx, (struct zr_span){ document, document_len }) : ZR_ENOENT;
}
static const struct zr_state_v1 state_table = { ZR_HDR(struct zr_state_v1, 0), state_write, state_read };

static uint32_t log_level(const struct zr_host *h) { return (void)h, ZR_LOG_INFO; }
static void log_write(const struct zr_host *h, uint32_t level, struct zr_str text, const struct zr_field *f, uint32_t n)
{
    (void)h, (void)f, (void)n;
    if (getenv("DELAY_LOG")) fprintf(stderr, "%u %.*s\n", level, (int)text.len, text.ptr);
}
static const struct zr_log_v1 log_table = { ZR_HDR(struct zr_log_v1, 0), log_level, log_write };

static void identity(const struct zr_host *h, struct zr_identity *ret)
{
    (void)h;
    ret->name = zl_str("broker-a");
    ret->permission = ZR_PERM_READ | ZR_PERM_WRITE;
    ret->id = 0;
}
static zr_status topic_find(const struct zr_host *h, struct zr_str name, void (*on)(void *, const struct zr_topic *), void *ctx)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = name, .read_queues = 4, .write_queues = 4 };
    (void)h;
    if (zl_starts(name, "GONE")) return ZR_ENOENT;
    on(ctx, &t);
    return ZR_OK;
}
static void each_topic(const struct zr_host *h, int32_t (*each)(void *, const struct zr_topic *), void *ctx)
{
    (void)h;
    for (uint32_t i = 0; i < n_topics; i++) {
        struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str(topics[i]) };
        each(ctx, &t);
    }
}
static void each_config(const struct zr_host *h, int32_t (*each)(void *, struct zr_str, struct zr_str), void *ctx) { (void)h, each(ctx, zl_str("regionId"), zl_str("R")); }
static const struct zr_broker_v1 broker_table = { .hdr = ZR_HDR(struct zr_broker_v1, 0), .identity = identity, .topic = topic_find, .each_topic = each_topic, .each_config = each_config };

static void when(const struct zr_host *h, int64_t position, void (*fn)(void *, zr_status), void *arg) { (void)h, (void)position, fn(arg, ZR_OK); }
static const struct zr_durability_v1 durability_table = { .hdr = ZR_HDR(struct zr_durability_v1, 0), .when = when };

static zr_status answer(const struct zr_host *h, struct zr_token *t, const struct zr_command *c)
{
    (void)h, (void)t;
    last_code = c->code;
    world_body_len = c->body.len < sizeof world_body ? c->body.len : 0;
    if (world_body_len) memcpy(world_body, c->body.ptr, world_body_len);
    return ZR_OK;
}
static struct zr_token *hold(const struct zr_host *h, struct zr_token *t) { return (void)h, t; }
static const struct zr_reply_v1 reply_table = { .hdr = ZR_HDR(struct zr_reply_v1, 0), .answer = answer, .hold = hold };

/* ---- the storage ------------------------------------------------------------------------------------------------------------- */
static struct zr_queue *queue_of(struct zr_inst *i, struct zr_str topic, int32_t id, uint32_t create)
{
    struct zr_queue *q = NULL;
    (void)i;
    pthread_mutex_lock(&lock);
    uint32_t number = topic_number(topic);
    for (uint32_t k = 0; k < n_queues && !q; k++)
        if (queues[k].topic == number && queues[k].id == id) q = &queues[k];
    if (!q && create) {
        cr_assert_lt(n_queues, 256);
        q = &queues[n_queues++];
        *q = (struct zr_queue){ number, id };
    }
    pthread_mutex_unlock(&lock);
    return q;
}
static int64_t next_offset(uint32_t topic, int32_t queue)
{
    for (uint32_t i = n_msgs; i-- > 0;)
        if (msgs[i].topic == topic && msgs[i].queue == queue) return msgs[i].offset + 1;
    return 0;
}
static void bounds(struct zr_inst *i, struct zr_queue *q, int64_t *min, int64_t *max)
{
    (void)i;
    pthread_mutex_lock(&lock);
    *min = 0;
    *max = next_offset(q->topic, q->id);
    pthread_mutex_unlock(&lock);
}
static uint32_t entries(struct zr_inst *in, struct zr_queue *q, int64_t offset, int64_t *physical, uint32_t *sizes, int64_t *codes, uint32_t cap)
{
    static _Thread_local uint32_t hint; /* the engine reads on: begin where it ended */
    static _Thread_local int64_t hint_offset = -1;
    uint32_t n = 0;
    (void)in;
    pthread_mutex_lock(&lock);
    if (hint_offset != offset || hint > n_msgs) hint = 0;
    for (; hint < n_msgs && n < cap; hint++)
        if (msgs[hint].topic == q->topic && msgs[hint].queue == q->id && msgs[hint].offset >= offset) {
            physical[n] = msgs[hint].at;
            sizes[n] = msgs[hint].size;
            codes[n++] = msgs[hint].code;
        }
    hint_offset = offset + n;
    pthread_mutex_unlock(&lock);
    return n;
}
/* With the lock. */
static uint32_t is_of(int64_t physical, const char *topic)
{
    for (uint32_t i = n_msgs; topic[0] && i-- > 0;)
        if (msgs[i].at == physical) return strcmp(topics[msgs[i].topic], topic) == 0;
    return !topic[0];
}
/* With the lock. */
static uint32_t is_bad(int64_t physical)
{
    struct zl_record r;
    const char *why;
    return bad_uniq[0] && zl_record_parse((struct zr_span){ log_bytes + physical, zl_load32(log_bytes + physical) }, 0, &r, &why) == ZR_OK &&
           zl_is(r.topic, bad_topic) && zl_is(zl_props_get(r.properties, "UNIQ_KEY"), bad_uniq);
}
static zr_status record_at(struct zr_inst *i, int64_t physical, struct zr_piece *piece, uint64_t *pin)
{
    (void)i;
    pthread_mutex_lock(&lock);
    uint32_t there = physical >= 0 && (uint64_t)physical < log_len;
    zr_status status = there ? ZR_OK : ZR_ENOENT;
    if (there && unread && is_of(physical, unread_topic)) {
        unread--;
        status = unread_status;
    }
    if (there && is_bad(physical)) {
        bad_reads++;
        status = ZR_EIO;
    }
    pthread_mutex_unlock(&lock);
    if (status != ZR_OK) return status;
    *piece = (struct zr_piece){ .ptr = log_bytes + physical, .len = zl_load32(log_bytes + physical) };
    *pin = 0;
    return ZR_OK;
}
static void unpin(struct zr_inst *i, uint64_t pin) { (void)i, (void)pin; }
static int32_t find_key(struct zr_inst *in, struct zr_str topic, struct zr_str key, uint32_t kind, int64_t begin, int64_t end, int64_t *physical, uint32_t cap)
{
    uint32_t n = 0;
    struct zl_record r;
    const char *why;
    (void)in, (void)kind, (void)begin, (void)end;
    pthread_mutex_lock(&lock);
    uint32_t number = topic_number(topic);
    for (uint32_t i = n_msgs; i-- > 0 && n < cap;)
        if (msgs[i].topic == number && zl_record_parse((struct zr_span){ log_bytes + msgs[i].at, msgs[i].size }, 0, &r, &why) == ZR_OK &&
            zl_eq(zl_props_get(r.properties, "UNIQ_KEY"), key))
            physical[n++] = msgs[i].at;
    pthread_mutex_unlock(&lock);
    return (int32_t)n;
}
static void info(struct zr_inst *i, struct zr_storage_info *ret)
{
    (void)i;
    pthread_mutex_lock(&lock);
    ret->positions.flushed = ret->positions.written = (int64_t)log_len;
    pthread_mutex_unlock(&lock);
}
static void want_flushed(struct zr_inst *i, int64_t position) { (void)i, (void)position; }
static const struct zr_storage_v1 storage_table = { .hdr = ZR_HDR(struct zr_storage_v1, 0), .queue = queue_of, .bounds = bounds, .entries = entries, .record_at = record_at,
                                                    .unpin = unpin, .find_key = find_key, .info = info, .want_flushed = want_flushed };
static const struct zr_storage_v1 *storage(const struct zr_host *h, struct zr_inst **ret) { return (void)h, *ret = NULL, &storage_table; }

static void append(const struct zr_msg *m, struct zr_put *put)
{
    uint64_t size = zl_record_size(m);
    pthread_mutex_lock(&lock);
    put->status = failing ? ZR_EFULL : ZR_OK;
    if (failing) {
        failing--;
        pthread_mutex_unlock(&lock);
        return;
    }
    cr_assert(log_len + size <= LOG_MAX && n_msgs < MSGS_MAX);
    uint32_t topic = topic_number(m->topic);
    put->queue_offset = next_offset(topic, m->queue_id);
    put->physical_offset = (int64_t)log_len;
    put->size = (uint32_t)size;
    put->store_ms = wall(NULL);
    zl_record_encode(log_bytes + log_len, m);
    zl_record_finish(log_bytes + log_len, put->queue_offset, put->physical_offset, put->store_ms);
    msgs[n_msgs++] = (struct stored){ (uint32_t)log_len, (uint32_t)size, topic, m->queue_id, put->queue_offset, m->tags_code };
    log_len += size;
    pthread_mutex_unlock(&lock);
}

static void *scratch(void *ctx, uint64_t size)
{
    struct { uint8_t bytes[16384]; uint64_t used; } *s = ctx;
    void *p = s->bytes + s->used;
    s->used += size;
    return s->used <= sizeof s->bytes ? p : NULL;
}

/* As the kernel: hooks, append, hooks. */
static int32_t put_one(struct zr_msg *m, struct zr_put *put, uint32_t hooked)
{
    struct { uint8_t bytes[16384]; uint64_t used; } memory;
    struct zr_event e = { .hdr = ZR_HDR(struct zr_event, 0), .msg = m, .topic = m->topic, .scratch = scratch, .scratch_ctx = &memory, .now_ms = wall(NULL), .point = ZR_POINT_PUBLISH };
    struct zr_verdict v = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    memory.used = 0;
    if (!m->born_host.family) m->born_host.family = m->store_host.family = 4;
    if (hooked) {
        cr_assert_eq(put_hook(inst, &e, &v), ZR_OK);
        if (v.what == ZR_VERDICT_REJECT) return v.code;
    }
    append(m, put);
    e.point = ZR_POINT_STORED;
    e.put = put;
    if (put->status == ZR_OK) stored_hook(inst, &e, &v);
    return 0;
}
static void publish(const struct zr_host *h, struct zr_msg *m, uint32_t n, uint32_t flags, void (*done)(void *, zr_status, const struct zr_put *, uint32_t), void *ctx)
{
    struct zr_put puts[64];
    (void)h;
    for (uint32_t i = 0; i < n; i++) {
        puts[i] = (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0) };
        put_one(&m[i], &puts[i], !(flags & ZR_PUBLISH_NO_HOOKS));
    }
    done(ctx, ZR_OK, puts, n);
}
static const struct zr_store_v1 store_table = { ZR_HDR(struct zr_store_v1, 0), storage, publish };

static int64_t io_open(void *ctx, const char *path, uint32_t flags, uint32_t mode)
{
    pthread_mutex_lock(&lock);
    uint32_t fails = unopened > 0;
    unopened -= fails;
    pthread_mutex_unlock(&lock);
    return fails ? -EMFILE : zl_io_posix()->open(ctx, path, flags, mode);
}

static const void *host_query(const struct zr_host *h, const char *id)
{
    static const struct { const char *id; const void *table; } all[] = { { ZR_SVC_STORE, &store_table }, { ZR_SVC_BROKER, &broker_table }, { ZR_SVC_TIMER, &timer_table },
        { ZR_SVC_WORK, &work_table }, { ZR_SVC_STATE, &state_table }, { ZR_SVC_LOG, &log_table }, { ZR_SVC_DURABILITY, &durability_table }, { ZR_SVC_REPLY, &reply_table } };
    (void)h;
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].id, id) == 0) return all[i].table;
    return strcmp(id, ZR_SVC_IO) == 0 ? &io : NULL;
}

/* ---- what tests call ----------------------------------------------------------------------------------------------------------- */
static int64_t precision = 1000;
void world_precision(int64_t ms) { precision = ms; }

void world_open(void)
{
    precision = 1000;
    snprintf(dir, sizeof dir, "/tmp/zarya-delay-XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
    log_bytes = malloc(LOG_MAX);
    msgs = malloc(MSGS_MAX * sizeof *msgs);
    host = (struct zr_host){ .hdr = ZR_HDR(struct zr_host, 0), .query = host_query, .name = "feature-delay", .data_dir = dir };
    plugin = zarya_plugin_entry_1(0);
    io = *zl_io_posix();
    io.open = io_open;
}

void world_close(void)
{
    world_remove("");
    free(log_bytes);
    free(msgs);
}

void world_start(const char *levels, int64_t max_delay_s)
{
    settings = (struct settings){ .delay_levels = zl_str(levels), .timer_max_delay = max_delay_s, .timer_precision = precision, .timer_roll_window = 172800,
                                  .timer_log_file_size = 1 << 16, .timer_congest = INT32_MAX, .timer_enable = 1, .recall_enable = 1 };
    cr_assert_eq(plugin->create(&host, &settings, &inst), ZR_OK);
    cr_assert_eq(plugin->warm(inst), ZR_OK);
    plugin->activate(inst);
}

static void drained(void *ctx, zr_status status)
{
    (void)status;
    pthread_mutex_lock(&lock);
    *(uint32_t *)ctx = 1;
    pthread_mutex_unlock(&lock);
}

void world_stop(void)
{
    uint32_t done = 0;
    struct timespec pause = { 0, 1000000 };
    plugin->drain(inst, (struct zr_done){ drained, &done });
    for (;;) {
        pthread_mutex_lock(&lock);
        uint32_t is = done;
        pthread_mutex_unlock(&lock);
        if (is) break;
        nanosleep(&pause, NULL);
    }
    pthread_mutex_lock(&lock);
    n_timers = 0; /* what is left would do nothing any more */
    pthread_mutex_unlock(&lock);
    plugin->cool(inst);
    plugin->destroy(inst);
    inst = NULL;
}

/* The files as they were at this moment stay; those of the stop that follows are thrown away. */
void world_kill(void)
{
    char command[512];
    snprintf(command, sizeof command, "rm -rf %s.at && cp -a %s %s.at", dir, dir, dir);
    cr_assert_eq(system(command), 0);
    uint64_t len = log_len;
    uint32_t n = n_msgs;
    world_stop();
    log_len = len;
    n_msgs = n;
    snprintf(command, sizeof command, "rm -rf %s && mv %s.at %s", dir, dir, dir);
    cr_assert_eq(system(command), 0);
}

int64_t world_now(void) { return wall(NULL); }

void world_set_clock(int64_t ms)
{
    __atomic_fetch_add(&shift_ms, ms - wall(NULL), __ATOMIC_RELAXED);
    pthread_mutex_lock(&lock);
    void (*fn)(void *) = clock_fn;
    void *arg = clock_arg;
    pthread_mutex_unlock(&lock);
    if (fn) fn(arg);
}

int32_t world_send(const char *topic, const char *uniq, const char *properties)
{
    char text[1024];
    int len = snprintf(text, sizeof text, "UNIQ_KEY\1%s\2%s", uniq, properties);
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str(topic), .body = { (const uint8_t *)uniq, strlen(uniq) },
                        .properties = { (const uint8_t *)text, (uint64_t)len }, .born_ms = 1, .inner_num = 1 };
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0) };
    return put_one(&m, &put, 1);
}

int32_t world_answer(int32_t code, const char *topic, const char *handle)
{
    const struct zr_requests_v1 *t = plugin->query(inst, ZR_IF_REQUESTS);
    struct zr_token token;
    struct zr_field f[3] = { { ZR_STR("topic"), zl_str(topic) }, { ZR_STR("recallHandle"), zl_str(handle) }, { ZR_STR("producerGroup"), ZR_STR("PG") } };
    struct zr_request r = { .hdr = ZR_HDR(struct zr_request, 0), .token = &token, .fields = f, .n_fields = 3, .code = code };
    last_code = -1;
    for (uint32_t i = 0; i < t->n_handlers; i++)
        if (t->handlers[i].code == code) t->handlers[i].handle(inst, &r);
    return last_code;
}

static uint32_t find(const char *topic, const char *uniq, int64_t *ret_ms)
{
    struct zl_record r;
    const char *why;
    uint32_t n = 0;
    pthread_mutex_lock(&lock);
    uint32_t number = topic_number(zl_str(topic));
    for (uint32_t i = 0; i < n_msgs; i++) {
        if (msgs[i].topic != number) continue;
        if (!uniq) {
            n++;
        } else if (zl_record_parse((struct zr_span){ log_bytes + msgs[i].at, msgs[i].size }, 0, &r, &why) == ZR_OK && zl_is(zl_props_get(r.properties, "UNIQ_KEY"), uniq)) {
            n++;
            *ret_ms = r.store_ms;
        }
    }
    pthread_mutex_unlock(&lock);
    return n;
}
uint32_t world_count(const char *topic, const char *uniq)
{
    int64_t ms;
    return find(topic, uniq, &ms);
}
int64_t world_stored_ms(const char *topic, const char *uniq)
{
    int64_t ms = -1;
    find(topic, uniq, &ms);
    return ms;
}
uint32_t world_wait(const char *topic, uint32_t n)
{
    struct timespec pause = { 0, 2000000 };
    for (uint32_t i = 0; i < 15000; i++) {
        if (world_count(topic, NULL) >= n) return 1;
        nanosleep(&pause, NULL);
    }
    return 0;
}
static int64_t shown(int64_t *field)
{
    pthread_mutex_lock(&inst->timed->count_lock);
    int64_t v = *field;
    pthread_mutex_unlock(&inst->timed->count_lock);
    return v;
}
void world_wait_idle(void)
{
    struct timespec pause = { 0, 2000000 };
    for (uint32_t i = 0; i < 15000 && shown(&inst->timed->shown_cursor) < (int64_t)world_count(TIMER_TOPIC, NULL); i++) nanosleep(&pause, NULL);
}
int64_t world_pending(void) { return shown(&inst->timed->shown_pending); }
uint64_t world_memory(void)
{
    struct timer *t = inst->timed;
    uint64_t bytes = (uint64_t)t->cap_heap * sizeof *t->heap + (LOADED_MAX + 1) * sizeof *t->loaded + METRICS_MAX * sizeof(struct metric) + WHEEL_SLOTS / 8;
    for (uint32_t page = 0; page < WHEEL_PAGES; page++) {
        const uint64_t *p = (const uint64_t *)(const void *)(t->wheel.bytes + (uint64_t)page * WHEEL_PAGE);
        for (uint32_t i = 0; i < WHEEL_PAGE / 8; i++)
            if (p[i]) {
                bytes += WHEEL_PAGE;
                break;
            }
    }
    return bytes;
}
void world_damage(const char *name, int64_t at, uint32_t len)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "r+b");
    cr_assert(f != NULL);
    fseek(f, at, SEEK_SET);
    for (uint32_t i = 0; i < len; i++) fputc(0xA5, f);
    fclose(f);
}
void world_remove(const char *name)
{
    char command[256];
    snprintf(command, sizeof command, "rm -rf '%s/%s'", dir, name);
    cr_assert_eq(system(command), 0);
}
void world_cannot_publish(uint32_t times)
{
    pthread_mutex_lock(&lock);
    failing = times;
    pthread_mutex_unlock(&lock);
}
void world_cannot_read(const char *topic, zr_status status, uint32_t times)
{
    pthread_mutex_lock(&lock);
    snprintf(unread_topic, sizeof unread_topic, "%s", topic);
    unread_status = status;
    unread = times;
    pthread_mutex_unlock(&lock);
}
void world_bad(const char *topic, const char *uniq)
{
    pthread_mutex_lock(&lock);
    snprintf(bad_topic, sizeof bad_topic, "%s", topic ? topic : "");
    snprintf(bad_uniq, sizeof bad_uniq, "%s", uniq ? uniq : "");
    bad_reads = 0;
    pthread_mutex_unlock(&lock);
}
uint32_t world_bad_reads(void)
{
    pthread_mutex_lock(&lock);
    uint32_t n = bad_reads;
    pthread_mutex_unlock(&lock);
    return n;
}
uint32_t world_unread(void)
{
    pthread_mutex_lock(&lock);
    uint32_t n = unread;
    pthread_mutex_unlock(&lock);
    return n;
}
void world_cannot_open(uint32_t times)
{
    pthread_mutex_lock(&lock);
    unopened = times;
    pthread_mutex_unlock(&lock);
}
void world_keep_documents(void) { documents_kept = 1; }
void world_fire(void)
{
    pthread_mutex_lock(&lock);
    for (uint32_t n = n_timers; n > 0 && n_timers > 0; n--) { /* not those that are set meanwhile */
        void (*fn)(void *) = timers[0].fn;
        void *arg = timers[0].arg;
        memmove(timers, timers + 1, --n_timers * sizeof timers[0]);
        pthread_mutex_unlock(&lock);
        fn(arg);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
}
void world_recall(uint32_t enabled) { settings.recall_enable = (uint8_t)enabled; }
