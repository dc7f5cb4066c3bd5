/* SPDX-License-Identifier: Apache-2.0 */
/* feature-transaction through its interfaces, as the kernel sees it, on a host of a few functions. The first byte says what follows:
 * 0: an op message's body; 1: a frame with END_TRANSACTION, against one half record; 2: the same, and behind its first byte
 * 0xff the properties of that record; 3: properties of a message that is sent. Whatever it is, a request is answered or dropped once. */
#include "fuzz.h"

#include "../../plugins/feature/transaction/ops.h"
#include "zarya/zarya.h"
#include "zl/record.h"

#define PHYSICAL 1000
#define OFFSET 5

static uint8_t *record;
static uint64_t record_len;
static uint32_t answered, held;
static int token_memory;

static struct zr_token *token(void) { return (struct zr_token *)&token_memory; }

/* ---- the host ------------------------------------------------------------------------------------------------------------- */

static uint32_t log_level(const struct zr_host *h) { (void)h; return 0; }
static int64_t clock_ns(const struct zr_host *h) { (void)h; return 1000000000; }
static int64_t clock_ms(const struct zr_host *h) { (void)h; return 1700000000000; }
static zr_status timer_at(const struct zr_host *h, int64_t at, void (*fn)(void *), void *arg, uint64_t *id) { (void)h, (void)at, (void)fn, (void)arg; *id = 1; return ZR_OK; }
static zr_status timer_cancel(const struct zr_host *h, uint64_t id) { (void)h, (void)id; return ZR_OK; }
static zr_status work_run(const struct zr_host *h, void (*fn)(void *), void *arg) { (void)h; fn(arg); return ZR_OK; }
static zr_status declare(const struct zr_host *h, const struct zr_metric *m, uint32_t n, uint32_t *first) { (void)h, (void)m, (void)n; *first = 1; return ZR_OK; }
static void add(const struct zr_host *h, uint32_t id, int64_t delta) { (void)h, (void)id, (void)delta; }
static zr_status answer(const struct zr_host *h, struct zr_token *t, const struct zr_command *c)
{
    (void)h, (void)c;
    MUST(t == token());
    answered++;
    return ZR_OK;
}
static struct zr_token *hold(const struct zr_host *h, struct zr_token *t) { (void)h; held++; return t; }
static void drop(const struct zr_host *h, struct zr_token *t) { (void)h, (void)t; answered++; }
static zr_status state_write(const struct zr_host *h, struct zr_str name, struct zr_span bytes) { (void)h, (void)name, (void)bytes; return ZR_OK; }
static zr_status state_read(const struct zr_host *h, struct zr_str name, zr_status (*accept)(void *, struct zr_span), void *ctx) { (void)h, (void)name, (void)accept, (void)ctx; return ZR_ENOENT; }
static void identity(const struct zr_host *h, struct zr_identity *ret) { (void)h; ret->name = zl_str("broker-a"); ret->id = 0; }
static int64_t offset(const struct zr_host *h, struct zr_str g, struct zr_str t, int32_t q) { (void)h, (void)g, (void)t, (void)q; return -1; }
static void put_offset(const struct zr_host *h, struct zr_str g, struct zr_str t, int32_t q, int64_t o) { (void)h, (void)g, (void)t, (void)q, (void)o; }
static zr_status topic(const struct zr_host *h, struct zr_str name, void (*on_topic)(void *, const struct zr_topic *), void *ctx)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = name, .read_queues = 4, .write_queues = 4, .perm = 6 };
    (void)h;
    on_topic(ctx, &t);
    return ZR_OK;
}
static struct zr_queue *queue(struct zr_inst *i, struct zr_str t, int32_t q, uint32_t create) { (void)i, (void)t, (void)q, (void)create; return (struct zr_queue *)&token_memory; }
static void bounds(struct zr_inst *i, struct zr_queue *q, int64_t *min, int64_t *max) { (void)i, (void)q; *min = *max = 0; }
static zr_status storage_read(struct zr_inst *i, const struct zr_read *r, struct zr_read_result *ret)
{
    (void)i;
    if (r->offset % 3 == 2) return ZR_EAGAIN;
    ret->what = r->offset == OFFSET ? ZR_READ_FOUND : ZR_READ_OFFSET_OVERFLOW_ONE;
    ret->n_pieces = r->offset == OFFSET;
    r->pieces[0] = (struct zr_piece){ .ptr = record, .len = record_len, .fd = -1 };
    return ZR_OK;
}
static void unpin(struct zr_inst *i, uint64_t pin) { (void)i, (void)pin; }
static zr_status record_at(struct zr_inst *i, int64_t physical, struct zr_piece *piece, uint64_t *pin)
{
    (void)i;
    if (physical != PHYSICAL) return ZR_ENOENT;
    *piece = (struct zr_piece){ .ptr = record, .len = record_len, .fd = -1 };
    *pin = 1;
    return ZR_OK;
}
static zr_status offset_at(struct zr_inst *i, struct zr_queue *q, int64_t ms, uint32_t upper, int64_t *ret)
{
    (void)i, (void)q, (void)upper;
    *ret = ms % 2 ? OFFSET : 0;
    return ms % 5 ? ZR_OK : ZR_EAGAIN;
}
/* Now nothing, now the record that is there, now a place where there is none. */
static int32_t find_key(struct zr_inst *i, struct zr_str topic, struct zr_str key, uint32_t kind, int64_t begin_ms, int64_t end_ms, int64_t *physical, uint32_t cap)
{
    (void)i, (void)kind, (void)begin_ms, (void)end_ms;
    uint32_t n = (uint32_t)(zl_hash(key.ptr, key.len) + topic.len) % 3;
    if (!n || !cap) return 0;
    physical[0] = n == 1 ? PHYSICAL : PHYSICAL + 1;
    return 1;
}
static void info(struct zr_inst *i, struct zr_storage_info *ret) { (void)i; ret->positions.flushed = INT64_MAX; }
static void want(struct zr_inst *i, int64_t p) { (void)i, (void)p; }
static const struct zr_storage_v1 storage = { .hdr = ZR_HDR(struct zr_storage_v1, 0), .queue = queue, .bounds = bounds, .read = storage_read, .unpin = unpin,
                                              .record_at = record_at, .find_key = find_key, .offset_at = offset_at, .info = info, .want_flushed = want };
static const struct zr_storage_v1 *store_storage(const struct zr_host *h, struct zr_inst **ret) { (void)h; *ret = NULL; return &storage; }
static void publish(const struct zr_host *h, struct zr_msg *m, uint32_t n, uint32_t flags, void (*done)(void *, zr_status, const struct zr_put *, uint32_t), void *ctx)
{
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0), .size = 100, .queue_offset = 9, .physical_offset = 5000 };
    (void)h, (void)flags;
    MUST(n == 1 && m->topic.len && (m->properties.len == 0 || m->properties.ptr[m->properties.len - 1] == 2));
    done(ctx, ZR_OK, &put, 1);
}

static const void *query(const struct zr_host *h, const char *id)
{
    static const struct zr_log_v1 log = { .hdr = ZR_HDR(struct zr_log_v1, 0), .level = log_level };
    static const struct zr_timer_v1 timer = { .hdr = ZR_HDR(struct zr_timer_v1, 0), .mono_ns = clock_ns, .wall_ms = clock_ms, .at = timer_at, .cancel = timer_cancel };
    static const struct zr_work_v1 work = { .hdr = ZR_HDR(struct zr_work_v1, 0), .run = work_run };
    static const struct zr_metrics_v1 metrics = { .hdr = ZR_HDR(struct zr_metrics_v1, 0), .declare = declare, .add = add };
    static const struct zr_reply_v1 reply = { .hdr = ZR_HDR(struct zr_reply_v1, 0), .answer = answer, .hold = hold, .drop = drop };
    static const struct zr_state_v1 state = { .hdr = ZR_HDR(struct zr_state_v1, 0), .write = state_write, .read = state_read };
    static const struct zr_broker_v1 broker = { .hdr = ZR_HDR(struct zr_broker_v1, 0), .identity = identity, .offset = offset, .put_offset = put_offset, .topic = topic };
    static const struct zr_store_v1 store = { .hdr = ZR_HDR(struct zr_store_v1, 0), .storage = store_storage, .publish = publish };
    static const struct { const char *id; const void *table; } all[] = { { ZR_SVC_LOG, &log }, { ZR_SVC_TIMER, &timer }, { ZR_SVC_WORK, &work }, { ZR_SVC_METRICS, &metrics },
        { ZR_SVC_REPLY, &reply }, { ZR_SVC_STATE, &state }, { ZR_SVC_BROKER, &broker }, { ZR_SVC_STORE, &store } };
    (void)h;
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(id, all[i].id) == 0) return all[i].table;
    return NULL;
}

/* ---- the plugin ----------------------------------------------------------------------------------------------------------- */

static const struct zr_host host = { ZR_HDR(struct zr_host, 0), NULL, query, "feature-transaction", "/nonexistent" };
static const struct zr_plugin *plugin;
/* In the order of its options. */
static const int64_t settings[16] = { 6000, 30000, 15, 72, 100, 4096, 1000, 1000, 10000 };

static void done(void *ctx, zr_status status) { *(uint32_t *)ctx = status == ZR_OK; }

static struct zr_inst *begin(void)
{
    struct zr_inst *inst = NULL;
    plugin = zarya_plugin_entry_1(0);
    MUST(plugin->settings_size <= sizeof settings && plugin->create(&host, settings, &inst) == ZR_OK && plugin->warm(inst) == ZR_OK);
    plugin->activate(inst);
    return inst;
}

static void finish(struct zr_inst *inst)
{
    uint32_t drained = 0;
    plugin->drain(inst, (struct zr_done){ done, &drained });
    MUST(drained);
    plugin->cool(inst);
    plugin->destroy(inst);
}

static void record_make(struct zr_span properties)
{
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("RMQ_SYS_TRANS_HALF_TOPIC"), .body = { (const uint8_t *)"body", 4 }, .properties = properties,
                        .born_ms = 1700000000000, .born_host = { .family = 4 }, .store_host = { .family = 4 }, .inner_num = 1 };
    record_len = zl_record_size(&m);
    record = malloc(record_len);
    zl_record_encode(record, &m);
    zl_record_finish(record, OFFSET, PHYSICAL, 1700000000000);
}

static void end_one(struct zr_inst *inst, const uint8_t *data, size_t size)
{
    struct zl_header *h = malloc(sizeof *h);
    char *scratch = malloc(size + 1);
    uint8_t *frame = malloc(size ? size : 1);
    const char *why;
    struct zr_span cut;
    uint64_t need;
    if (size) memcpy(frame, data, size);
    if (zl_frame_cut((struct zr_span){ frame, size }, &cut, &need) == ZR_OK && zl_header_decode(cut, h, scratch, size + 1, &why) == ZR_OK) {
        const struct zr_requests_v1 *r = plugin->query(inst, ZR_IF_REQUESTS);
        struct zr_request req = { .hdr = ZR_HDR(struct zr_request, 0), .token = token(), .fields = h->fields, .n_fields = h->n_fields, .body = h->body, .code = h->code };
        for (uint32_t i = 0; i < r->n_handlers; i++) {
            answered = held = 0;
            r->handlers[i].handle(inst, &req);
            MUST(answered == 1 && held <= 1);
        }
    }
    free(frame);
    free(scratch);
    free(h);
}

static void *scratch_give(void *ctx, uint64_t size)
{
    void **to = ctx;
    MUST(!*to);
    return *to = malloc(size);
}

static void sent(struct zr_inst *inst, struct zr_span properties)
{
    const struct zr_hooks_v1 *hooks = plugin->query(inst, ZR_IF_HOOKS);
    void *scratch = NULL;
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("T"), .properties = properties, .queue_id = 3, .inner_num = 1 };
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0), .size = 100, .queue_offset = 7, .physical_offset = 3000 };
    struct zr_verdict v = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    struct zr_event e = { .hdr = ZR_HDR(struct zr_event, 0), .msg = &m, .topic = m.topic, .scratch = scratch_give, .scratch_ctx = &scratch, .now_ms = 1700000000000,
                          .point = ZR_POINT_PUBLISH, .code = 310 };
    MUST(hooks->hooks[0].call(inst, &e, &v) == ZR_OK);
    if (v.what == ZR_VERDICT_CONTINUE && zl_is(m.topic, "RMQ_SYS_TRANS_HALF_TOPIC")) {
        MUST(zl_is(zl_props_get(m.properties, "REAL_TOPIC"), "T") && zl_is(zl_props_get(m.properties, "REAL_QID"), "3"));
        e.put = &put;
        e.point = ZR_POINT_STORED;
        hooks->hooks[1].call(inst, &e, &v);
    }
    free(scratch);
}

static void ops(struct zr_span body)
{
    uint64_t pos = 0;
    int64_t v;
    uint64_t n = 0;
    while (op_next(body, &pos, &v)) MUST(v >= 0 && ++n <= body.len);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    uint8_t mode = data[0] % 4;
    uint8_t *rest = malloc(size); /* exactly what there is */
    uint64_t n = size - 1, cut = n;
    if (n) memcpy(rest, data + 1, n);
    rest = realloc(rest, n ? n : 1);
    if (mode == 0) {
        ops((struct zr_span){ rest, n });
        free(rest);
        return 0;
    }
    struct zr_inst *inst = begin();
    static const char half[] = "UNIQ_KEY\1U\2TRAN_MSG\1true\2PGROUP\1PG\2REAL_TOPIC\1T\2REAL_QID\0012\2";
    struct zr_span properties = { (const uint8_t *)half, sizeof half - 1 };
    if (mode == 2 && memchr(rest, 0xff, n)) { /* no byte of UTF-8 text */
        cut = (uint64_t)((uint8_t *)memchr(rest, 0xff, n) - rest);
        properties = (struct zr_span){ rest + cut + 1, n - cut - 1 < ZL_MAX_PROPERTIES ? n - cut - 1 : ZL_MAX_PROPERTIES };
    }
    record_make(properties);
    if (mode == 3) sent(inst, (struct zr_span){ rest, n < ZL_MAX_PROPERTIES ? n : ZL_MAX_PROPERTIES });
    else end_one(inst, rest, cut);
    finish(inst);
    free(record);
    free(rest);
    return 0;
}
