/* SPDX-License-Identifier: Apache-2.0 */
/* Requests to the feature plugins, through their interfaces, on a host of a few functions: feature-admin, feature-ordered (lock and
 * unlock bodies), feature-reply (reply bodies), feature-query. The frame's code chooses the handler, or the byte before it where none
 * has that code; what a handler asks a client is answered with the same frame, so that answers of clients are hostile too. Whatever it
 * is, a request is answered or dropped once, or refused by the handler's status, and everything that was held is let go. What is
 * published is an ordinary message: no batch in one record, no part of a transaction, for none of the broker's own topics. */
#include "fuzz.h"
#include "zarya/zarya.h"
#include "zl/record.h"

#define PHYSICAL 1000
#define OFFSET 5

const struct zr_plugin *entry_admin(uint32_t host_minor);
const struct zr_plugin *entry_ordered(uint32_t host_minor);
const struct zr_plugin *entry_reply(uint32_t host_minor);
const struct zr_plugin *entry_query(uint32_t host_minor);
static const struct { const struct zr_plugin *(*entry)(uint32_t); int64_t settings[8]; } plugins[] = {
    { entry_admin, { 0 } },
    { entry_ordered, { 60000, 30000, 6000, 100, 20 } },
    { entry_reply, { 10000, 1 } },
    { entry_query, { 0 } },
};
#define N_PLUGINS (sizeof plugins / sizeof *plugins)

static int memory;
static uint8_t *record;
static uint64_t record_len;
static uint32_t answered;
static int32_t sessions, pins;
static struct zr_request from_client; /* what clients answer */

static struct zr_token *token(void) { return (struct zr_token *)&memory; }
static struct zr_session *session(void) { return (struct zr_session *)&memory; }

/* ---- the host ------------------------------------------------------------------------------------------------------------- */
#define H const struct zr_host *h
static int64_t clock_ns(H) { (void)h; return 1000000000; }
static int64_t clock_ms(H) { (void)h; return 1700000000000; }
static zr_status timer_at(H, int64_t at, void (*fn)(void *), void *arg, uint64_t *id) { (void)h, (void)at, (void)fn, (void)arg; *id = 1; return ZR_OK; }
/* A worker has its turn at once, or the pool is full. */
static zr_status work_run(H, void (*fn)(void *), void *arg)
{
    (void)h;
    if (from_client.opaque & 8) return ZR_EFULL;
    fn(arg);
    return ZR_OK;
}
static zr_status timer_cancel(H, uint64_t id) { (void)h, (void)id; return ZR_OK; }

static zr_status answer(H, struct zr_token *t, const struct zr_command *c)
{
    uint64_t sum = 0;
    (void)h;
    MUST(t == token());
    for (uint32_t i = 0; i < c->n_fields; i++) sum += zl_hash(c->fields[i].name.ptr, c->fields[i].name.len) + zl_hash(c->fields[i].value.ptr, c->fields[i].value.len);
    for (uint64_t i = 0; i < c->body.len; i++) sum += c->body.ptr[i];
    for (uint32_t i = 0; i < c->n_pieces; i++) MUST(c->pieces[i].ptr);
    MUST(c->remark.len <= 65535 || sum);
    answered++;
    if (c->done) c->done(c->done_ctx, ZR_OK);
    return ZR_OK;
}
static struct zr_token *hold(H, struct zr_token *t) { (void)h; return t; }
static void drop(H, struct zr_token *t) { (void)h; MUST(t == token()); answered++; }
static zr_status tell(H, struct zr_session *s, const struct zr_command *c) { (void)h, (void)c; MUST(s == session()); return ZR_OK; }
static zr_status ask(H, struct zr_session *s, const struct zr_command *c, int64_t ns, void (*fn)(void *, zr_status, const struct zr_request *), void *ctx)
{
    (void)h, (void)c;
    MUST(s == session() && ns > 0);
    switch (from_client.opaque & 3) {
    case 0: fn(ctx, ZR_ETIMEOUT, NULL); return ZR_OK;
    case 1: return ZR_ECLOSED;
    default: fn(ctx, ZR_OK, &from_client); return ZR_OK;
    }
}
static void session_info(H, struct zr_session *s, struct zr_session_info *ret)
{
    (void)h;
    MUST(s == session());
    ret->peer_name = zl_str("127.0.0.1:1");
    ret->version = 513;
    ret->open = 1;
}
static struct zr_session *session_hold(H, struct zr_session *s) { (void)h; sessions++; return s; }
static void session_release(H, struct zr_session *s) { (void)h; MUST(s == session()); sessions--; }
static uint32_t session_returned(H, struct zr_session *s) { (void)h, (void)s; return 0; }

static void identity(H, struct zr_identity *ret) { (void)h; ret->name = zl_str("broker-a"); ret->cluster = zl_str("C"); ret->addr = ret->ha_addr = zl_str("127.0.0.1:1"); ret->version = 513; }
static void version(H, struct zr_data_version *ret) { (void)h; *ret = (struct zr_data_version){ 1, 2, 3 }; }
static struct zr_topic a_topic(struct zr_str name) { return (struct zr_topic){ .hdr = ZR_HDR(struct zr_topic, 0), .name = name, .read_queues = 4, .write_queues = 4, .perm = 6 }; }
static struct zr_group a_group(struct zr_str name) { return (struct zr_group){ .hdr = ZR_HDR(struct zr_group, 0), .name = name, .retry_queues = 1, .retry_max_times = 16 }; }
static zr_status topic(H, struct zr_str name, void (*fn)(void *, const struct zr_topic *), void *ctx)
{
    struct zr_topic t = a_topic(name);
    (void)h;
    if (name.len == 0 || name.len % 5 == 4) return ZR_ENOENT;
    fn(ctx, &t);
    return ZR_OK;
}
static void each_topic(H, int32_t (*fn)(void *, const struct zr_topic *), void *ctx) { struct zr_topic t = a_topic(zl_str("T")); (void)h; fn(ctx, &t); }
static zr_status put_topic(H, const struct zr_topic *t, void (*fn)(void *, zr_status), void *ctx)
{
    uint64_t sum = zl_hash(t->more_json.ptr, t->more_json.len);
    (void)h;
    for (uint32_t i = 0; i < t->n_attributes; i++) sum += zl_hash(t->attributes[i].name.ptr, t->attributes[i].name.len);
    if (fn) fn(ctx, sum % 7 ? ZR_OK : ZR_EIO);
    return ZR_OK;
}
static zr_status remove_topic(H, struct zr_str name) { (void)h; return name.len % 2 ? ZR_OK : ZR_ENOENT; }
static zr_status group(H, struct zr_str name, uint32_t create, void (*fn)(void *, const struct zr_group *), void *ctx)
{
    struct zr_group g = a_group(name);
    (void)h, (void)create;
    if (name.len == 0 || name.len % 5 == 4) return ZR_ENOENT;
    fn(ctx, &g);
    return ZR_OK;
}
static void each_group(H, int32_t (*fn)(void *, const struct zr_group *), void *ctx) { struct zr_group g = a_group(zl_str("G")); (void)h; fn(ctx, &g); }
static zr_status put_group(H, const struct zr_group *g) { (void)h; return zl_hash(g->retry_policy_json.ptr, g->retry_policy_json.len) % 7 ? ZR_OK : ZR_EFULL; }
static zr_status remove_group(H, struct zr_str name, uint32_t clean) { (void)h, (void)name, (void)clean; return ZR_OK; }
static int32_t forbidden(H, struct zr_str g, struct zr_str t, int32_t v) { (void)h, (void)g, (void)t; return v < 0 ? 0 : v; }
static int64_t offset(H, struct zr_str g, struct zr_str t, int32_t q) { (void)h, (void)g; return (int64_t)t.len + q; }
static void put_offset(H, struct zr_str g, struct zr_str t, int32_t q, int64_t o) { (void)h, (void)g, (void)t, (void)q, (void)o; }
static void remove_offsets(H, struct zr_str g, struct zr_str t) { (void)h, (void)g, (void)t; }
static void each_offset(H, int32_t (*fn)(void *, struct zr_str, struct zr_str, int32_t, int64_t), void *ctx) { (void)h; fn(ctx, zl_str("G"), zl_str("T"), 3, 7); }
static const struct zr_client one_client = { .hdr = ZR_HDR(struct zr_client, 0), .client_id = ZR_STR("c1"), .peer_name = ZR_STR("127.0.0.1:1"), .version = 513 };
static zr_status consumers(H, struct zr_str g, void (*fn)(void *, const struct zr_consumers *), void *ctx)
{
    struct zr_client c = one_client;
    struct zr_subscription s = { .hdr = ZR_HDR(struct zr_subscription, 0), .topic = ZR_STR("T"), .text = ZR_STR("*"), .expression_type = ZR_STR("TAG") };
    struct zr_consumers all = { .hdr = ZR_HDR(struct zr_consumers, 0), .group = g, .clients = &c, .subscriptions = &s, .n_clients = 1, .n_subscriptions = 1, .from_where = ZR_STR("X") };
    (void)h;
    c.session = session();
    if (g.len % 5 == 4) return ZR_ENOENT;
    fn(ctx, &all);
    return ZR_OK;
}
static void each_consumers(H, int32_t (*fn)(void *, const struct zr_consumers *), void *ctx) { (void)h, (void)fn, (void)ctx; }
static void each_producer(H, struct zr_str g, int32_t (*fn)(void *, struct zr_str, const struct zr_client *), void *ctx)
{
    struct zr_client c = one_client;
    (void)h;
    c.session = session();
    fn(ctx, g, &c);
}
static struct zr_session *client(H, struct zr_str g, struct zr_str id, uint32_t producers)
{
    (void)h, (void)g, (void)producers;
    if (id.len % 5 == 4) return NULL;
    sessions++;
    return session();
}
static void each_config(H, int32_t (*fn)(void *, struct zr_str, struct zr_str), void *ctx)
{
    (void)h;
    if (fn(ctx, zl_str("brokerRole"), zl_str("ASYNC_MASTER")) == 0) fn(ctx, zl_str("useServerSideResetOffset"), zl_str(from_client.opaque & 4 ? "false" : "true"));
}
static zr_status config(H, struct zr_str k, struct zr_str v) { (void)h; return (k.len + v.len) % 3 ? ZR_OK : ZR_EPERM; }
static void stats(H, struct zr_broker_stats *ret) { (void)h, (void)ret; }
static void topic_stats(H, struct zr_str t, struct zr_str g, struct zr_topic_stats *ret) { (void)h, (void)t, (void)g, (void)ret; }
static void when_durable(H, uint32_t d, void (*fn)(void *, zr_status), void *ctx) { (void)h; fn(ctx, d % 2 ? ZR_OK : ZR_EIO); }

/* ---- the storage ---------------------------------------------------------------------------------------------------------- */
#define I struct zr_inst *inst
static struct zr_queue *queue(I, struct zr_str t, int32_t q, uint32_t create) { (void)inst, (void)q, (void)create; return t.len % 7 == 6 ? NULL : (struct zr_queue *)&memory; }
static void bounds(I, struct zr_queue *q, int64_t *min, int64_t *max) { (void)inst; *min = 0, *max = q ? 9 : 0; }
static void unpin(I, uint64_t pin) { (void)inst; MUST(pin == 1); pins--; }
static zr_status offset_at(I, struct zr_queue *q, int64_t ms, uint32_t upper, int64_t *ret) { (void)inst, (void)q, (void)upper; *ret = ms & 7; return ZR_OK; }
static zr_status time_at(I, struct zr_queue *q, int64_t o, int64_t *ret) { (void)inst, (void)q; *ret = o; return ZR_OK; }
static uint32_t resident(I, struct zr_queue *q, int64_t o) { (void)inst, (void)q; return o & 1; }
static uint32_t entries(I, struct zr_queue *q, int64_t o, int64_t *physical, uint32_t *sizes, int64_t *codes, uint32_t cap)
{
    (void)inst, (void)q, (void)o;
    for (uint32_t i = 0; i < cap && i < 3; i++) physical[i] = PHYSICAL, sizes[i] = (uint32_t)record_len, codes[i] = 0;
    return cap < 3 ? cap : 3;
}
static void each_queue(I, int32_t (*fn)(void *, struct zr_str, int32_t, struct zr_queue *), void *ctx) { (void)inst; fn(ctx, zl_str("T"), 0, (struct zr_queue *)&memory); }
static zr_status record_at(I, int64_t physical, struct zr_piece *piece, uint64_t *pin)
{
    (void)inst;
    if (physical != PHYSICAL) return ZR_ENOENT;
    *piece = (struct zr_piece){ .ptr = record, .len = record_len, .fd = -1 };
    *pin = 1;
    pins++;
    return ZR_OK;
}
static int32_t find_key(I, struct zr_str t, struct zr_str k, uint32_t kind, int64_t begin, int64_t end, int64_t *physical, uint32_t cap)
{
    (void)inst, (void)t, (void)k, (void)kind, (void)begin, (void)end;
    for (uint32_t i = 0; i < cap && i < 2; i++) physical[i] = PHYSICAL - i;
    return cap < 2 ? (int32_t)cap : 2;
}
static void info(I, struct zr_storage_info *ret) { (void)inst; ret->positions.flushed = 5000; }
static zr_status clean(I, uint64_t *n) { (void)inst; *n = 0; return ZR_OK; }
static zr_status storage_read(I, const struct zr_read *r, struct zr_read_result *ret)
{
    (void)inst;
    ret->what = ZR_READ_FOUND;
    ret->n_pieces = 1, ret->n_messages = 1, ret->pin = 1;
    pins++;
    r->pieces[0] = (struct zr_piece){ .ptr = record, .len = record_len, .fd = -1 };
    return ZR_OK;
}
static const struct zr_storage_v1 storage = { .hdr = ZR_HDR(struct zr_storage_v1, 0), .queue = queue, .bounds = bounds, .read = storage_read, .unpin = unpin, .offset_at = offset_at,
    .time_at = time_at, .resident = resident, .entries = entries, .each_queue = each_queue, .record_at = record_at, .find_key = find_key, .info = info, .clean = clean };
static const struct zr_storage_v1 *store_storage(H, struct zr_inst **ret) { (void)h; *ret = NULL; return &storage; }
/* Whose messages only the broker writes: it believes what their properties say. */
static uint32_t is_brokers_own(struct zr_str topic)
{
    static const char *const own[] = { "SCHEDULE_TOPIC_XXXX", "RMQ_SYS_TRANS_HALF_TOPIC", "RMQ_SYS_TRANS_OP_HALF_TOPIC", "TRANS_CHECK_MAX_TIME_TOPIC", "rmq_sys_wheel_timer" };
    for (uint32_t i = 0; i < sizeof own / sizeof *own; i++)
        if (zl_is(topic, own[i])) return 1;
    return 0;
}
static void publish(H, struct zr_msg *m, uint32_t n, uint32_t flags, void (*done)(void *, zr_status, const struct zr_put *, uint32_t), void *ctx)
{
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0), .size = 100, .queue_offset = 9, .physical_offset = 5000 };
    (void)h, (void)flags;
    MUST(n == 1 && m->topic.len && (m->properties.len == 0 || m->properties.ptr));
    MUST(!is_brokers_own(m->topic));
    MUST(!(m->sys_flag & (ZR_SYSFLAG_TRANSACTION_MASK | ZR_SYSFLAG_INNER_BATCH)) && m->inner_num == 1); /* those the broker alone makes */
    done(ctx, ZR_OK, &put, 1);
}

static const void *query(H, const char *id)
{
    static const struct zr_timer_v1 timer = { .hdr = ZR_HDR(struct zr_timer_v1, 0), .mono_ns = clock_ns, .wall_ms = clock_ms, .at = timer_at, .cancel = timer_cancel };
    static const struct zr_work_v1 work = { .hdr = ZR_HDR(struct zr_work_v1, 0), .run = work_run };
    static const struct zr_reply_v1 reply = { .hdr = ZR_HDR(struct zr_reply_v1, 0), .answer = answer, .hold = hold, .drop = drop, .tell = tell, .ask = ask, .session_info = session_info,
        .session_hold = session_hold, .session_release = session_release, .session_returned = session_returned };
    static const struct zr_broker_v1 broker = { .hdr = ZR_HDR(struct zr_broker_v1, 0), .identity = identity, .topic_version = version, .topic = topic, .each_topic = each_topic,
        .put_topic = put_topic, .remove_topic = remove_topic, .group_version = version, .group = group, .each_group = each_group, .put_group = put_group, .remove_group = remove_group,
        .forbidden = forbidden, .offset = offset, .put_offset = put_offset, .pull_offset = offset, .reset_offset = put_offset, .remove_offsets = remove_offsets, .each_offset = each_offset,
        .consumers = consumers, .each_consumers = each_consumers, .each_producer = each_producer, .client = client, .each_config = each_config, .set_config = config, .stats = stats,
        .topic_stats = topic_stats, .check_config = config, .when_durable = when_durable };
    static const struct zr_store_v1 store = { .hdr = ZR_HDR(struct zr_store_v1, 0), .storage = store_storage, .publish = publish };
    static const struct { const char *id; const void *table; } all[] = { { ZR_SVC_TIMER, &timer }, { ZR_SVC_REPLY, &reply }, { ZR_SVC_BROKER, &broker }, { ZR_SVC_STORE, &store }, { ZR_SVC_WORK, &work } };
    (void)h;
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(id, all[i].id) == 0) return all[i].table;
    return NULL;
}

/* ---- one request ---------------------------------------------------------------------------------------------------------- */
static const struct zr_host host = { ZR_HDR(struct zr_host, 0), NULL, query, "fuzzed", "/nonexistent" };

static const struct zr_handler *in(const struct zr_requests_v1 *r, uint32_t *n, int32_t code)
{
    for (uint32_t i = 0; code && i < r->n_handlers; i++)
        if (r->handlers[i].code == code) return &r->handlers[i];
    if (!code && *n < r->n_handlers) return &r->handlers[*n];
    *n -= r->n_handlers;
    return NULL;
}

/* The handler of the code, or with 0 the n-th. */
static const struct zr_handler *handler_of(uint32_t n, int32_t code, const struct zr_plugin **ret_plugin, struct zr_inst **ret)
{
    for (uint32_t i = 0; i < N_PLUGINS; i++) {
        const struct zr_plugin *p = plugins[i].entry(0);
        MUST(p->settings_size <= sizeof plugins[i].settings && p->create(&host, plugins[i].settings, ret) == ZR_OK);
        const struct zr_requests_v1 *r = p->query(*ret, ZR_IF_REQUESTS);
        const struct zr_handler *found = in(r, &n, code);
        *ret_plugin = p;
        if (found) return found;
        p->destroy(*ret);
    }
    return NULL;
}

static void record_make(void)
{
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("T"), .body = { (const uint8_t *)"body", 4 }, .properties = { (const uint8_t *)"TAGS\1A\2", 7 },
                        .born_ms = 1700000000000, .born_host = { .family = 4 }, .store_host = { .family = 4 }, .inner_num = 1 };
    record_len = zl_record_size(&m);
    record = malloc(record_len);
    MUST(record);
    zl_record_encode(record, &m);
    zl_record_finish(record, OFFSET, PHYSICAL, 1700000000000);
}

static void run(uint32_t n, const struct zl_header *head)
{
    const struct zr_plugin *plugin;
    struct zr_inst *inst = NULL;
    const struct zr_handler *handler = handler_of(n, head->code, &plugin, &inst);
    if (!handler) handler = handler_of(n, 0, &plugin, &inst);
    if (!handler) return;
    if (plugin->activate) plugin->activate(inst);
    from_client = (struct zr_request){ .hdr = ZR_HDR(struct zr_request, 0), .fields = head->fields, .n_fields = head->n_fields, .remark = head->remark, .body = head->body,
                                       .code = head->code % 3, .opaque = head->opaque, .version = 513 };
    struct zr_request req = from_client;
    req.token = token();
    req.session = session();
    req.code = handler->code;
    req.language = head->language;
    answered = 0;
    for (uint32_t twice = 0; twice < 2; twice++) { /* locks are taken, and taken again */
        answered = 0;
        zr_status status = handler->handle(inst, &req);
        MUST(answered == 1 || (answered == 0 && status != ZR_OK));
        MUST(sessions == 0 && pins == 0);
    }
    if (plugin->cool) plugin->cool(inst);
    plugin->destroy(inst);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zr_span frame;
    uint64_t need;
    if (size < 2) return 0;
    uint8_t *bytes = malloc(size - 1); /* exactly what there is */
    struct fuzz_header head;
    memcpy(bytes, data + 1, size - 1);
    if (zl_frame_cut((struct zr_span){ bytes, size - 1 }, &frame, &need) == ZR_OK && fuzz_decode(frame, &head)) {
        record_make();
        run(data[0] % 80, &head.h);
        free(record);
        free(head.scratch);
    }
    free(bytes);
    return 0;
}
