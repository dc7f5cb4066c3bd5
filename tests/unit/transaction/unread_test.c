/* SPDX-License-Identifier: Apache-2.0 */
/* feature-transaction on a host of a few functions with a log in memory and a clock that the tests set: half and op messages that cannot
 * be read for long, those that wait for longer than the log keeps them, and those whose properties leave no room. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../../plugins/feature/transaction/ops.h"
#include "zarya/zarya.h"
#include "zl/record.h"
#include "zl/text.h"

#define HALF "RMQ_SYS_TRANS_HALF_TOPIC"
#define OP "RMQ_SYS_TRANS_OP_HALF_TOPIC"
#define DISCARD "TRANS_CHECK_MAX_TIME_TOPIC"
#define HOUR 3600000ll
#define RECORDS 20000u
#define SCRATCH 70000u
#define UNIT 100 /* physical offsets between records */

struct zr_queue { const char *topic; };
static struct zr_queue half_queue = { HALF }, op_queue = { OP };
static struct { uint8_t *bytes; uint64_t size; int64_t offset, stored; char topic[64]; } records[RECORDS];
static uint32_t n_records, bad_reads;
static int64_t bad, kept_ms; /* the record that cannot be read; how long the log keeps records */
static int64_t now_ms, half_offset, op_offset;
static struct { int64_t at; void (*fn)(void *); void *arg; uint64_t id; } timers[64];
static uint32_t n_timers;
static uint64_t timer_ids;
static const struct zr_plugin *plugin;
static struct zr_inst *inst;
static int64_t settings[16] = { 6000, 30000, 15, 72, 100, 4096, 1000, 1000, 10000 }; /* as its options: timeout, check_interval, check_max, ... */

static uint32_t log_level(const struct zr_host *h) { return (void)h, 0u; }
static int64_t mono(const struct zr_host *h) { return (void)h, now_ms * 1000000; }
static int64_t wall(const struct zr_host *h) { return (void)h, 1700000000000 + now_ms; }
static zr_status timer_at(const struct zr_host *h, int64_t at, void (*fn)(void *), void *arg, uint64_t *id)
{
    (void)h;
    cr_assert_lt(n_timers, 64);
    timers[n_timers].at = at / 1000000;
    timers[n_timers].fn = fn;
    timers[n_timers].arg = arg;
    timers[n_timers++].id = *id = ++timer_ids;
    return ZR_OK;
}
static zr_status timer_cancel(const struct zr_host *h, uint64_t id)
{
    (void)h;
    for (uint32_t i = 0; i < n_timers; i++)
        if (timers[i].id == id) return timers[i] = timers[--n_timers], ZR_OK;
    return ZR_ENOENT;
}
static zr_status work_run(const struct zr_host *h, void (*fn)(void *), void *arg) { return (void)h, fn(arg), ZR_OK; }
static zr_status declare(const struct zr_host *h, const struct zr_metric *m, uint32_t n, uint32_t *first) { return (void)h, (void)m, (void)n, *first = 1, ZR_OK; }
static void add(const struct zr_host *h, uint32_t id, int64_t delta) { (void)h, (void)id, (void)delta; }
static zr_status state_write(const struct zr_host *h, struct zr_str n, struct zr_span b) { return (void)h, (void)n, (void)b, ZR_OK; }
static zr_status state_read(const struct zr_host *h, struct zr_str n, zr_status (*accept)(void *, struct zr_span), void *c) { return (void)h, (void)n, (void)accept, (void)c, ZR_ENOENT; }
static void identity(const struct zr_host *h, struct zr_identity *ret) { (void)h, ret->name = zl_str("broker-a"), ret->id = 0; }
static int64_t offset(const struct zr_host *h, struct zr_str g, struct zr_str t, int32_t q) { return (void)h, (void)g, (void)q, zl_is(t, HALF) ? half_offset : op_offset; }
static void put_offset(const struct zr_host *h, struct zr_str g, struct zr_str t, int32_t q, int64_t o) { (void)h, (void)g, (void)q, *(zl_is(t, HALF) ? &half_offset : &op_offset) = o; }
static zr_status topic(const struct zr_host *h, struct zr_str name, void (*on)(void *, const struct zr_topic *), void *ctx)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = name, .read_queues = 4, .write_queues = 4, .perm = 6 };
    return (void)h, on(ctx, &t), ZR_OK;
}
static void each_producer(const struct zr_host *h, struct zr_str g, int32_t (*each)(void *, struct zr_str, const struct zr_client *), void *ctx) { (void)h, (void)g, (void)each, (void)ctx; }

static int32_t last_code;
static zr_status answer(const struct zr_host *h, struct zr_token *t, const struct zr_command *c) { return (void)h, (void)t, last_code = c->code, ZR_OK; }
static struct zr_token *hold(const struct zr_host *h, struct zr_token *t) { return (void)h, t; }

static int64_t end_of(const char *name)
{
    int64_t end = 0;
    for (uint32_t i = 0; i < n_records; i++) end += strcmp(records[i].topic, name) == 0;
    return end;
}
static struct zr_queue *queue(struct zr_inst *i, struct zr_str t, int32_t q, uint32_t create) { return (void)i, (void)q, (void)create, zl_is(t, HALF) ? &half_queue : &op_queue; }
static void bounds(struct zr_inst *i, struct zr_queue *q, int64_t *min, int64_t *max) { (void)i, *min = 0, *max = end_of(q->topic); }
static int64_t place_of(const char *name, int64_t at)
{
    for (uint32_t i = 0; i < n_records; i++)
        if (records[i].offset == at && strcmp(records[i].topic, name) == 0) return i;
    return -1;
}
static zr_status record_at(struct zr_inst *i, int64_t physical, struct zr_piece *piece, uint64_t *pin)
{
    int64_t at = physical / UNIT;
    (void)i;
    if (physical < 0 || at >= n_records || physical % UNIT || now_ms - records[at].stored > kept_ms) return ZR_ENOENT;
    if (at == bad) return bad_reads++, ZR_EIO;
    *piece = (struct zr_piece){ .ptr = records[at].bytes, .len = records[at].size, .fd = -1 };
    *pin = 0;
    return ZR_OK;
}
static zr_status storage_read(struct zr_inst *i, const struct zr_read *r, struct zr_read_result *ret)
{
    int64_t at = place_of(r->queue->topic, r->offset);
    uint64_t pin;
    ret->what = ZR_READ_OFFSET_OVERFLOW_ONE;
    if (at < 0) return ZR_OK;
    zr_status status = record_at(i, at * UNIT, &r->pieces[0], &pin);
    if (status != ZR_OK) return status;
    ret->what = ZR_READ_FOUND;
    ret->n_pieces = 1;
    ret->next_offset = r->offset + 1;
    return ZR_OK;
}
static uint32_t entries(struct zr_inst *i, struct zr_queue *q, int64_t at, int64_t *physical, uint32_t *sizes, int64_t *codes, uint32_t cap)
{
    int64_t place = place_of(q->topic, at);
    (void)i;
    if (place < 0 || !cap) return 0;
    *physical = place * UNIT;
    *sizes = (uint32_t)records[place].size;
    return *codes = 0, 1;
}
static void unpin(struct zr_inst *i, uint64_t pin) { (void)i, (void)pin; }
static int32_t find_key(struct zr_inst *i, struct zr_str t, struct zr_str k, uint32_t kind, int64_t b, int64_t e, int64_t *p, uint32_t cap) { return (void)i, (void)t, (void)k, (void)kind, (void)b, (void)e, (void)p, (void)cap, 0; }
static void info(struct zr_inst *i, struct zr_storage_info *ret) { (void)i, ret->positions.flushed = INT64_MAX; }
static void want(struct zr_inst *i, int64_t p) { (void)i, (void)p; }
static const struct zr_storage_v1 storage = { .hdr = ZR_HDR(struct zr_storage_v1, 0), .queue = queue, .bounds = bounds, .read = storage_read, .unpin = unpin, .entries = entries,
                                              .record_at = record_at, .find_key = find_key, .info = info, .want_flushed = want };
static const struct zr_storage_v1 *store_storage(const struct zr_host *h, struct zr_inst **ret) { return (void)h, *ret = NULL, &storage; }

static void append(struct zr_msg *m, struct zr_put *put)
{
    char name[64];
    cr_assert_lt(n_records, RECORDS);
    snprintf(name, sizeof name, "%.*s", (int)m->topic.len, m->topic.ptr);
    *put = (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0), .size = (uint32_t)zl_record_size(m), .queue_offset = end_of(name), .physical_offset = (int64_t)n_records * UNIT, .store_ms = wall(NULL) };
    m->born_host.family = m->store_host.family = 4;
    put->size = (uint32_t)zl_record_size(m);
    records[n_records].bytes = malloc(put->size);
    zl_record_encode(records[n_records].bytes, m);
    zl_record_finish(records[n_records].bytes, put->queue_offset, put->physical_offset, put->store_ms);
    records[n_records].size = put->size;
    records[n_records].offset = put->queue_offset;
    records[n_records].stored = now_ms;
    strcpy(records[n_records++].topic, name);
}
static void *scratch(void *ctx, uint64_t size) { return size <= SCRATCH ? ctx : NULL; }
static void hook(uint32_t which, struct zr_msg *m, struct zr_put *put, struct zr_verdict *v)
{
    static uint8_t memory[SCRATCH];
    struct zr_event e = { .hdr = ZR_HDR(struct zr_event, 0), .msg = m, .topic = m->topic, .put = put, .now_ms = wall(NULL), .code = 310,
                          .point = which ? ZR_POINT_STORED : ZR_POINT_PUBLISH, .scratch = scratch, .scratch_ctx = memory };
    ((const struct zr_hooks_v1 *)plugin->query(inst, ZR_IF_HOOKS))->hooks[which].call(inst, &e, v);
}
static void publish(const struct zr_host *h, struct zr_msg *m, uint32_t n, uint32_t flags, void (*done)(void *, zr_status, const struct zr_put *, uint32_t), void *ctx)
{
    struct zr_put puts[64];
    struct zr_verdict v = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    (void)h, (void)flags;
    for (uint32_t i = 0; i < n; i++) {
        append(&m[i], &puts[i]);
        if (zl_is(m[i].topic, HALF)) hook(1, &m[i], &puts[i], &v);
    }
    done(ctx, ZR_OK, puts, n);
}
static const void *query(const struct zr_host *h, const char *id)
{
    static const struct zr_log_v1 log = { .hdr = ZR_HDR(struct zr_log_v1, 0), .level = log_level };
    static const struct zr_timer_v1 timer = { .hdr = ZR_HDR(struct zr_timer_v1, 0), .mono_ns = mono, .wall_ms = wall, .at = timer_at, .cancel = timer_cancel };
    static const struct zr_work_v1 work = { .hdr = ZR_HDR(struct zr_work_v1, 0), .run = work_run };
    static const struct zr_metrics_v1 metrics = { .hdr = ZR_HDR(struct zr_metrics_v1, 0), .declare = declare, .add = add };
    static const struct zr_reply_v1 reply = { .hdr = ZR_HDR(struct zr_reply_v1, 0), .answer = answer, .hold = hold };
    static const struct zr_state_v1 state = { .hdr = ZR_HDR(struct zr_state_v1, 0), .write = state_write, .read = state_read };
    static const struct zr_broker_v1 broker = { .hdr = ZR_HDR(struct zr_broker_v1, 0), .identity = identity, .offset = offset, .put_offset = put_offset, .topic = topic, .each_producer = each_producer };
    static const struct zr_store_v1 store = { .hdr = ZR_HDR(struct zr_store_v1, 0), .storage = store_storage, .publish = publish };
    static const struct { const char *id; const void *table; } all[] = { { ZR_SVC_LOG, &log }, { ZR_SVC_TIMER, &timer }, { ZR_SVC_WORK, &work }, { ZR_SVC_METRICS, &metrics },
        { ZR_SVC_REPLY, &reply }, { ZR_SVC_STATE, &state }, { ZR_SVC_BROKER, &broker }, { ZR_SVC_STORE, &store } };
    (void)h;
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(id, all[i].id) == 0) return all[i].table;
    return NULL;
}
static const struct zr_host host = { ZR_HDR(struct zr_host, 0), NULL, query, "feature-transaction", "/nonexistent" };

/* ---- what the tests call ---------------------------------------------------------------------------------------------------- */

static void world_start(void)
{
    plugin = zarya_plugin_entry_1(0);
    cr_assert_eq(plugin->create(&host, settings, &inst), ZR_OK);
    cr_assert_eq(plugin->warm(inst), ZR_OK);
    plugin->activate(inst);
}
static void drained(void *ctx, zr_status status) { *(uint32_t *)ctx = status == ZR_OK; }
static void world_stop(void)
{
    uint32_t done = 0;
    plugin->drain(inst, (struct zr_done){ drained, &done });
    cr_assert(done);
    n_timers = 0;
    plugin->cool(inst);
    plugin->destroy(inst);
}
static void world_open(void)
{
    bad = half_offset = op_offset = -1;
    kept_ms = INT64_MAX;
    world_start();
}
static void world_close(void)
{
    world_stop();
    for (uint32_t i = 0; i < n_records; i++) free(records[i].bytes);
}
static void run_for(int64_t ms)
{
    for (int64_t end = now_ms + ms;;) {
        uint32_t first = n_timers;
        for (uint32_t i = 0; i < n_timers; i++)
            if (timers[i].at <= end && (first == n_timers || timers[i].at < timers[first].at)) first = i;
        if (first == n_timers) {
            now_ms = end;
            return;
        }
        void (*fn)(void *) = timers[first].fn;
        void *arg = timers[first].arg;
        if (timers[first].at > now_ms) now_ms = timers[first].at;
        timers[first] = timers[--n_timers];
        fn(arg);
    }
}
/* The code it was refused with; 0: it is stored. */
static int32_t send(const char *uniq, const char *more)
{
    char text[256];
    int len = snprintf(text, sizeof text, "UNIQ_KEY\1%s\2PGROUP\1P\2TRAN_MSG\1true\2%s", uniq, more);
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = ZR_STR("T"), .properties = { (const uint8_t *)text, (uint64_t)len }, .body = { (const uint8_t *)uniq, strlen(uniq) },
                        .born_ms = wall(NULL), .inner_num = 1 };
    struct zr_verdict v = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    struct zr_put put;
    hook(0, &m, NULL, &v);
    if (v.what == ZR_VERDICT_REJECT) return v.code;
    cr_assert(zl_is(m.topic, HALF));
    append(&m, &put);
    hook(1, &m, &put, &v);
    return 0;
}
/* With properties of that length in the log; a client's (0: the refusal's code), or one that another broker stored. */
static int32_t send_long(const char *uniq, uint64_t len, uint32_t from_client)
{
    static char text[70000];
    int head = snprintf(text, sizeof text, "UNIQ_KEY\1%s\2PGROUP\1P\2TRAN_MSG\1true\2%sX\1", uniq, from_client ? "" : "REAL_TOPIC\1T\2REAL_QID\0010\2");
    if (from_client) len -= strlen("__transactionId__\1\2REAL_TOPIC\1T\2REAL_QID\0010\2") + strlen(uniq);
    memset(text + head, 'x', len - (uint64_t)head - 1);
    text[len - 1] = 2;
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str(from_client ? "T" : HALF), .properties = { (const uint8_t *)text, len },
                        .body = { (const uint8_t *)uniq, strlen(uniq) }, .born_ms = wall(NULL), .inner_num = 1 };
    struct zr_verdict v = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    struct zr_put put;
    if (from_client) hook(0, &m, NULL, &v);
    if (v.what == ZR_VERDICT_REJECT) return v.code;
    append(&m, &put);
    hook(1, &m, &put, &v);
    return 0;
}
static uint32_t is_given_up(const char *uniq)
{
    struct zl_record r;
    const char *why;
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_records; i++)
        if (strcmp(records[i].topic, DISCARD) == 0 && zl_record_parse((struct zr_span){ records[i].bytes, records[i].size }, 0, &r, &why) == ZR_OK)
            n += zl_is(zl_props_get(r.properties, "UNIQ_KEY"), uniq);
    return n;
}

Test(unread, costs_little_and_goes_on_when_it_can)
{
    world_open();
    cr_assert_eq(send("A", ""), 0);
    cr_assert_eq(send("B", ""), 0);
    bad = 0;
    run_for(HOUR);
    cr_assert_eq(is_given_up("B"), 1, "B was asked about as often as may be");
    cr_assert_leq(bad_reads, 150u, "%u reads of one record in an hour", bad_reads);
    cr_assert_leq(half_offset, 0, "the queue is held where it cannot be read");
    bad = -1;
    run_for(HOUR);
    cr_assert_eq(is_given_up("A"), 1);
    cr_assert_eq(half_offset, end_of(HALF));
    world_close();
}

Test(unread, holds_up_no_others)
{
    char uniq[16];
    settings[2] = 0; /* each is given up at its first check */
    world_open();
    cr_assert_eq(send("A", ""), 0);
    bad = 0;
    for (int i = 0; i < 3000; i++) { /* the table's window has 1024 */
        snprintf(uniq, sizeof uniq, "B%d", i);
        cr_assert_eq(send(uniq, ""), 0, "the half message %d is refused", i);
        run_for(1000);
    }
    run_for(60000);
    cr_assert_eq(is_given_up("B2999"), 1);
    world_close();
}

Test(unread, of_a_start_holds_up_no_others)
{
    world_open();
    cr_assert_eq(send("A", ""), 0);
    cr_assert_eq(send("B", ""), 0);
    world_stop();
    bad = 0;
    world_start();
    run_for(HOUR);
    cr_assert_eq(is_given_up("B"), 1, "what lies behind it was never found");
    cr_assert_eq(is_given_up("A"), 0);
    bad = -1;
    run_for(HOUR);
    cr_assert_eq(is_given_up("A"), 1);
    world_close();
}

Test(unread, op_of_a_start_holds_up_no_others)
{
    settings[2] = 1;
    world_open();
    cr_assert_eq(send("A", ""), 0);
    run_for(1000);
    cr_assert_eq(send("B", "CHECK_IMMUNITY_TIME_IN_SECONDS\0013600\2"), 0);
    run_for(HOUR / 2); /* A was asked about, so written anew, which an op says; and given up, which another one says */
    cr_assert_eq(is_given_up("A"), 1);
    cr_assert_geq(end_of(OP), 2);
    bad = place_of(OP, 0);
    half_offset = op_offset = -1;
    world_stop();
    half_offset = op_offset = -1;
    world_start();
    run_for(2 * HOUR);
    cr_assert_geq(is_given_up("B"), 1, "what was open is not found behind an op that cannot be read");
    world_close();
}

/* 366 days in a log that keeps three: as Apache, it is given up when it is as old as the log keeps messages, and not lost. */
Test(immunity, ends_where_retention_would)
{
    world_open();
    kept_ms = 72 * HOUR;
    cr_assert_eq(send("A", "CHECK_IMMUNITY_TIME_IN_SECONDS\00131622400\2"), 0);
    for (int i = 0; i < 71; i++) run_for(HOUR);
    cr_assert_eq(is_given_up("A"), 0);
    for (int i = 0; i < 4; i++) run_for(HOUR);
    cr_assert_eq(is_given_up("A"), 1, "it is lost: nobody is asked, and it is in no topic");
    world_close();
}

Test(properties, that_leave_no_room_for_a_check_are_refused)
{
    world_open();
    cr_assert_eq(send_long("A", 32767, 1), 13);
    cr_assert_eq(send_long("B", 32767 - 60, 1), 13);
    cr_assert_eq(send_long("C", 32767 - 100, 1), 0);
    run_for(HOUR);
    cr_assert_eq(is_given_up("C"), 1, "it was asked about as often as may be");
    cr_assert_eq(half_offset, end_of(HALF));
    world_close();
}

/* Another broker took it. It can be asked about no more, and holds nothing up. */
Test(properties, that_leave_no_room_hold_up_no_others)
{
    char uniq[16];
    settings[2] = 3;
    world_open();
    cr_assert_eq(send_long("A", 32767, 0), 0);
    for (int i = 0; i < 2000; i++) { /* the table's window has 1024 */
        snprintf(uniq, sizeof uniq, "B%d", i);
        cr_assert_eq(send(uniq, ""), 0, "the half message %d is refused", i);
        run_for(10000);
    }
    cr_assert_eq(is_given_up("A"), 1);
    run_for(HOUR);
    cr_assert_eq(is_given_up("A"), 1);
    cr_assert_eq(is_given_up("B1999"), 1);
    world_close();
}

/* The code of END_TRANSACTION with a commit of the first half message. */
static int32_t commit(void)
{
    struct zr_field f[] = { { ZR_STR("producerGroup"), ZR_STR("P") }, { ZR_STR("tranStateTableOffset"), ZR_STR("0") }, { ZR_STR("commitLogOffset"), ZR_STR("0") },
                            { ZR_STR("commitOrRollback"), ZR_STR("8") } };
    struct zr_request req = { .hdr = ZR_HDR(struct zr_request, 0), .token = (struct zr_token *)&last_code, .fields = f, .n_fields = 4, .code = 37 };
    last_code = -1;
    ((const struct zr_requests_v1 *)plugin->query(inst, ZR_IF_REQUESTS))->handlers[0].handle(inst, &req);
    return last_code;
}

Test(unread, word_is_not_refused_for_good)
{
    world_open();
    cr_assert_eq(send("A", ""), 0);
    bad = 0;
    cr_assert_eq(commit(), 2, "busy: it is there, and cannot be read now; not %d", last_code);
    bad = -1;
    cr_assert_eq(commit(), 0);
    cr_assert_eq(end_of("T"), 1);
    world_close();
}
