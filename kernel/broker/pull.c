/* SPDX-License-Identifier: Apache-2.0 */
/* pull.c - codes 11 PULL_MESSAGE and 361 LITE_PULL_MESSAGE.
 *
 * LIFE OF A PULL. zb_pull_handle reads the header into a zb_pull on the stack and runs it: checks (in Apache's
 * order), commit, read, answer. Where the data is not in memory the same goes on as a heap object on a worker; where
 * nothing was found it is held (hold.c) and run again, from its checks on, when something arrives or its time has
 * passed.
 *
 * What stays true: (1) a pull's token is answered once, by pull_answer or pull_refuse, or dropped with its
 * connection; (2) the pieces of a read stay pinned until the transport said that it has done with them; (3) only the
 * first run commits, takes a pending reset, and may be held. */
#include "broker/internal.h"

#define PULL_COMMIT 1
#define PULL_SUSPEND 2
#define PULL_SUBSCRIPTION 4
#define MAX_PIECES 64u
#define DEFAULT_BYTES 262144 /* then the storage tells memory from disk itself */

#define FORBIDDEN_BROKER 1
#define FORBIDDEN_GROUP 2
#define FORBIDDEN_TOPIC 3
#define FORBIDDEN_BROADCAST 4
#define FORBIDDEN_SUBSCRIPTION 5

/* What the checks found; references of its own. */
struct found {
    struct zb_topic *topic;
    struct zb_group *group;
    struct zb_queue *queue;
    struct zb_filter *filter;
    struct zr_bits bits; /* of a registered filter; n_bits 0: none */
};

static void found_end(struct found *f)
{
    zb_topic_unref(f->topic);
    zb_group_unref(f->group);
    zb_filter_unref(f->filter);
}

void zb_pull_free(struct zb_pull *p)
{
    zb_filter_unref(p->own);
    if (!p->kept)
        return;
    zb_filter_unref(p->match);
    zb_filter_unref(p->unasked);
    zb_topic_unref(p->topic);
    zb_peer_unref(p->peer);
    free(p);
}

/* The pull as a heap object that owns what it needs. NULL: memory ran out, and p is as it was. */
static struct zb_pull *pull_keep(struct zb_pull *p)
{
    if (p->kept)
        return p;
    struct zb_pull *k = malloc(sizeof *k + p->group.len + p->topic_name.len + p->type.len + p->proxy_client.len);
    struct zr_token *token = k ? zk_token_hold(p->token) : NULL;
    if (!token) {
        free(k);
        return NULL;
    }
    *k = *p;
    char *at = (char *)(k + 1);
    struct zr_str *texts[4] = { &k->group, &k->topic_name, &k->type, &k->proxy_client };
    for (uint32_t i = 0; i < 4; i++) {
        if (texts[i]->len)
            memcpy(at, texts[i]->ptr, texts[i]->len);
        texts[i]->ptr = at;
        at += texts[i]->len;
    }
    k->token = token;
    k->kept = 1;
    zb_peer_ref(k->peer);
    p->own = NULL; /* k's now */
    return k;
}

/* ---- answers ---- */
static void __attribute__((format(printf, 4, 5)))
pull_refuse(struct zb_pull *p, int32_t code, int32_t forbidden, const char *fmt, ...)
{
    char remark[1024], number[12];
    struct zr_field f = { ZR_STR("forbiddenType"), { number, zl_print_i64(number, forbidden) } };
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(remark, sizeof remark, fmt, ap);
    va_end(ap);
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0),
                            .code = code,
                            .n_fields = forbidden ? 1 : 0,
                            .fields = &f,
                            .remark = zl_str(remark) };
    zk_answer(p->token, &c);
    zb_pull_free(p);
}

static void pull_done(void *ctx, zr_status status)
{
    (void)status;
    zb.storage->unpin(zb.storage_inst, (uint64_t)(uintptr_t)ctx);
}

static void pull_answer(struct zb_pull *p, const struct found *f, int32_t code, const char *remark, int64_t suggest,
                        const struct zr_read_result *r, const struct zr_piece *pieces)
{
    char text[6][24];
    const struct {
        struct zr_str name;
        int64_t value;
    } rows[6] = { { ZR_STR("suggestWhichBrokerId"), suggest },   { ZR_STR("groupSysFlag"), f->group->sys_flag },
                  { ZR_STR("nextBeginOffset"), r->next_offset }, { ZR_STR("maxOffset"), r->max_offset },
                  { ZR_STR("minOffset"), r->min_offset },        { ZR_STR("topicSysFlag"), f->topic->sys_flag } };
    struct zr_field fields[6];
    for (uint32_t i = 0; i < 6; i++)
        fields[i] = (struct zr_field){ rows[i].name, { text[i], zl_print_i64(text[i], rows[i].value) } };
    struct zr_command c = {
        .hdr = ZR_HDR(struct zr_command, 0), .code = code, .n_fields = 6, .fields = fields, .remark = zl_str(remark)
    };
    if (code == ZB_SUCCESS) {
        c.pieces = pieces;
        c.n_pieces = r->n_pieces;
        c.done = pull_done;
        c.done_ctx = (void *)(uintptr_t)r->pin;
    } else if (r->pin) {
        zb.storage->unpin(zb.storage_inst, r->pin);
    }
    zk_answer(p->token, &c);
    zb_pull_free(p);
}

/* ---- checks ---- */
/* The subscription that came with the request, once: its text is the request's. 1: go on; else refused. */
static uint32_t own_compile(struct zb_pull *p)
{
    char why[512];
    if (p->own_ready)
        return 1;
    zr_status status = zb_filter_get(p->type, p->subscription, NULL, 0, &p->own, why, sizeof why);
    uint32_t is_tag = p->type.len == 0 || zl_is(p->type, "TAG");
    p->subscription = (struct zr_str){ NULL, 0 };
    if (status == ZR_ENOTSUP && !is_tag && ZB_SET(property_filter))
        return pull_refuse(p, ZB_SYSTEM_ERROR, 0, "%s", why), 0;
    if (status != ZR_OK && (is_tag || ZB_SET(property_filter)))
        return pull_refuse(p, ZB_SUBSCRIPTION_PARSE_FAILED, 0, "parse the consumer's subscription failed: %s", why), 0;
    p->own_ready = 1;
    return 1;
}

/* The client changed its subscription (Java's rebalances do) and pulls before a heartbeat said so. Java 5 can be 30 s
 * late with it: its heartbeat is dropped when its timer sends another one that moment. By the older words messages could
 * be passed over for good, so the answer is unfiltered: every client looks at the tags of what comes, since here they are
 * compared by their hash alone. What a client does not look at again (SQL92, class filters, unsaid) waits, as in Apache. */
#define LATE_REFUSED 1u
#define LATE_PASSES 2u
static uint32_t sub_is_late(const struct zb_pull *p, const struct zb_sub *sub)
{
    if (sub->version >= p->sub_version)
        return 0;
    return zl_is(p->type, "TAG") && !sub->class_filter ? LATE_PASSES : LATE_REFUSED;
}

/* By what the group registered for the topic. 0: go on, with a filter; else the code of the refusal. */
static int32_t check_registered(struct zb_pull *p, const struct zb_sub *sub, struct found *f, const char **why,
                                char *text, uint64_t cap)
{
    struct zb_filter *none = NULL;
    switch (zb_filterdata_get(p->group, p->topic_name, p->sub_version, &f->filter, &f->bits)) {
    case ZR_OK: return 0;
    case ZR_EAGAIN: *why = "the consumer's consumer filter data not latest"; return ZB_FILTER_DATA_NOT_LATEST;
    case ZR_ENOTSUP:
        *why = text;
        if (zb_filter_get(sub->type, sub->text, NULL, 0, &none, text, cap) == ZR_OK)
            snprintf(text, cap, "the filter's plugin is not loaded");
        zb_filter_unref(none);
        return ZB_SYSTEM_ERROR;
    default:
        *why = "The broker's consumer filter data is not exist!Your expression may be wrong!";
        return ZB_FILTER_DATA_NOT_EXIST;
    }
}

/* The consumer side: which filter. 1: go on; else refused. */
static uint32_t check_subscription(struct zb_pull *p, struct found *f)
{
    uint32_t model = 0, type = 0, is_tag, late = 0;
    struct zb_sub *sub = NULL;
    if (p->sys_flag & PULL_SUBSCRIPTION) {
        if (!own_compile(p))
            return 0;
        f->filter = zb_filter_ref(p->own);
        is_tag = p->type.len == 0 || zl_is(p->type, "TAG");
    } else {
        int32_t code = 0, forbidden = 0;
        const char *why = NULL;
        char missing[256];
        if (zb_consumer_find(p->group, p->topic_name, &model, &type, &sub) != ZR_OK)
            code = ZB_SUBSCRIPTION_NOT_EXIST, why = "the consumer's group info not exist" ZB_FAQ;
        else if (!f->group->broadcast && model == ZR_MODEL_BROADCASTING)
            code = ZB_NO_PERMISSION, forbidden = FORBIDDEN_BROADCAST,
            why = "the consumer group can not consume by broadcast way";
        else if (zb_group_forbidden(p->group, p->topic_name, -1) & ZR_PERM_READ)
            code = ZB_NO_PERMISSION, forbidden = FORBIDDEN_SUBSCRIPTION,
            why = "the consumer group is forbidden for this topic";
        else if (!sub)
            code = ZB_SUBSCRIPTION_NOT_EXIST, why = "the consumer's subscription not exist" ZB_FAQ;
        else if ((late = sub_is_late(p, sub)) == LATE_REFUSED)
            code = ZB_SUBSCRIPTION_NOT_LATEST, why = "the consumer's subscription not latest";
        else if (!late && sub->bad && sub->is_tag)
            code = ZB_SUBSCRIPTION_PARSE_FAILED, why = "parse the consumer's subscription failed";
        else if (!late && !sub->is_tag && ZB_SET(property_filter))
            code = check_registered(p, sub, f, &why, missing, sizeof missing);
        if (code) {
            zb_sub_unref(sub);
            pull_refuse(p, code, forbidden, "%s", why);
            return 0;
        }
        is_tag = late || sub->is_tag;
        if (model == ZR_MODEL_BROADCASTING && type == ZR_CONSUME_PASSIVELY && !p->broadcast && ZB_SET(broadcast_store))
            p->broadcast = ZB_BROADCAST_CLIENT;
        if (!late && is_tag)
            f->filter = zb_filter_ref(sub->filter);
    }
    if (!is_tag && !ZB_SET(property_filter)) {
        struct zr_str language = sub ? sub->type : p->type;
        pull_refuse(p, ZB_SYSTEM_ERROR, 0, "The broker does not support consumer to filter message by %.*s",
                    (int)language.len, language.ptr);
        zb_sub_unref(sub);
        return 0;
    }
    zb_sub_unref(sub);
    return 1;
}

static uint32_t check_pull_consumer(struct zb_pull *p)
{
    uint32_t model = 0, type = ZR_CONSUME_ACTIVELY;
    struct zb_sub *none = NULL;
    if (!ZB_SET(reject_pull_consumer))
        return 1;
    zr_status known = zb_consumer_find(p->group, (struct zr_str){ NULL, 0 }, &model, &type, &none);
    if ((known != ZR_OK || type == ZR_CONSUME_ACTIVELY) && !zb_consumer_has(p->group, p->peer) &&
        !zl_starts(p->group, "CID_RMQ_SYS_")) {
        pull_refuse(p, ZB_SUBSCRIPTION_NOT_EXIST, 0, "the consumer's group info not exist" ZB_FAQ);
        return 0;
    }
    return 1;
}

/* lane: whose caches may be used (this is its thread), or NULL. */
static uint32_t pull_check(struct zb_pull *p, struct zb_lane *lane, struct found *f)
{
    const struct zr_str g = p->group, t = p->topic_name;
    if (zb.slave && !ZB_SET(slave_read))
        return pull_refuse(p, ZB_SYSTEM_BUSY, 0, "[REJECTREQUEST]system busy, start flow control for a while"), 0;
    if (!(ZB_SET(broker_permission) & ZR_PERM_READ))
        return pull_refuse(p, ZB_NO_PERMISSION, FORBIDDEN_BROKER, "the broker[%s] pulling message is forbidden",
                           zb.ip1),
               0;
    if (p->code == 361 && !ZB_SET(lite_pull))
        return pull_refuse(p, ZB_NO_PERMISSION, FORBIDDEN_BROKER, "the broker[%s] for lite pull consumer is forbidden",
                           zb.ip1),
               0;
    struct zb_group *group = lane ? zb_lane_group(lane, g, 1) : zb_group_get(g, 1);
    f->group = group && lane ? zb_group_ref(group) : group;
    if (!f->group)
        return pull_refuse(p, ZB_SUBSCRIPTION_GROUP_NOT_EXIST, 0, "subscription group [%.*s] does not exist, " ZB_FAQ,
                           (int)g.len, g.ptr),
               0;
    if (!f->group->consume)
        return pull_refuse(p, ZB_NO_PERMISSION, FORBIDDEN_GROUP, "subscription group no permission, %.*s", (int)g.len,
                           g.ptr),
               0;
    struct zb_topic *topic = lane ? zb_lane_topic(lane, t) : zb_topic_get(t);
    f->topic = topic && lane ? zb_topic_ref(topic) : topic;
    if (!f->topic)
        return pull_refuse(p, ZB_TOPIC_NOT_EXIST, 0, "topic[%.*s] not exist, apply first please! " ZB_FAQ, (int)t.len,
                           t.ptr),
               0;
    if (!(f->topic->perm & ZR_PERM_READ))
        return pull_refuse(p, ZB_NO_PERMISSION, FORBIDDEN_TOPIC, "the topic[%.*s] pulling message is forbidden",
                           (int)t.len, t.ptr),
               0;
    if (p->queue_id < 0 || p->queue_id >= f->topic->read_queues)
        return pull_refuse(p, ZB_INVALID_PARAMETER, 0,
                           "queueId[%d] is illegal, topic:[%.*s] topicConfig.readQueueNums:[%d] consumer:[%.*s]",
                           p->queue_id, (int)t.len, t.ptr, f->topic->read_queues, (int)g.len, g.ptr),
               0;
    if (!check_subscription(p, f) || !check_pull_consumer(p))
        return 0;
    f->queue = zb_topic_queue(f->topic, p->queue_id);
    if (!f->queue)
        return pull_refuse(p, ZB_SYSTEM_ERROR, 0, "memory ran out"), 0;
    return 1;
}

/* ---- reading ---- */
static const char *const what_names[] = { "FOUND",
                                          "NO_MATCHED_MESSAGE",
                                          "MESSAGE_WAS_REMOVING",
                                          "OFFSET_FOUND_NULL",
                                          "OFFSET_OVERFLOW_BADLY",
                                          "OFFSET_OVERFLOW_ONE",
                                          "OFFSET_TOO_SMALL",
                                          "NO_MATCHED_LOGIC_QUEUE",
                                          "NO_MESSAGE_IN_QUEUE" };

static int32_t code_of(uint32_t what, int64_t asked)
{
    switch (what) {
    case ZR_READ_FOUND: return ZB_SUCCESS;
    case ZR_READ_NO_MATCHED_MESSAGE:
    case ZR_READ_MESSAGE_WAS_REMOVING: return ZB_PULL_RETRY_IMMEDIATELY;
    case ZR_READ_NO_MATCHED_LOGIC_QUEUE:
    case ZR_READ_NO_MESSAGE_IN_QUEUE: return asked == 0 ? ZB_PULL_NOT_FOUND : ZB_PULL_OFFSET_MOVED;
    case ZR_READ_OFFSET_FOUND_NULL:
    case ZR_READ_OFFSET_OVERFLOW_ONE: return ZB_PULL_NOT_FOUND;
    default: return ZB_PULL_OFFSET_MOVED;
    }
}

static zr_status pull_read(const struct zb_pull *p, const struct found *f, uint32_t flags, struct zr_piece *pieces,
                           struct zr_read_result *ret)
{
    int64_t most = ZB_SET(max_transfer_count), bytes = ZB_SET(max_transfer_bytes);
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0),
                           .queue = zb_queue_handle(f->topic, f->queue),
                           .topic = f->topic->name,
                           .filter = f->filter ? f->filter->table : NULL,
                           .prog = f->filter ? f->filter->prog : NULL,
                           .offset = p->offset,
                           .pieces = pieces,
                           .cap_pieces = MAX_PIECES,
                           .queue_id = p->queue_id,
                           .max_bytes = bytes == DEFAULT_BYTES ? 0 : (uint32_t)bytes,
                           .flags = flags,
                           .bits = f->bits.n_bits ? &f->bits : NULL };
    req.max_messages = p->max_messages < 1 ? 1 : p->max_messages < most ? (uint32_t)p->max_messages : (uint32_t)most;
    *ret = (struct zr_read_result){ .hdr = ZR_HDR(struct zr_read_result, 0) };
    return zb.storage->read(zb.storage_inst, &req, ret);
}

static void pull_run(struct zb_pull *p, uint32_t stage, struct zb_lane *lane);

static void pull_work(void *arg)
{
    struct zb_pull *p = arg;
    pull_run(p, p->stage, NULL);
}

/* The rest on a worker: the data has to come from the disk. */
static void pull_to_worker(struct zb_pull *p, uint32_t stage)
{
    struct zb_pull *k = pull_keep(p);
    if (k) {
        k->stage = stage == ZB_PULL_FIRST ? ZB_PULL_READ : stage;
        k->on_worker = 1;
        if (zb_work(pull_work, k) == ZR_OK)
            return;
    }
    pull_refuse(k ? k : p, ZB_SYSTEM_BUSY, 0, "[OVERLOAD]system busy, start flow control for a while");
}

static void pull_hold(struct zb_pull *p, struct found *f)
{
    int64_t ms = ZB_SET(long_polling) ? p->suspend_ms : ZB_SET(short_polling_ms);
    struct zb_pull *k = pull_keep(p);
    if (!k) {
        pull_refuse(p, ZB_SYSTEM_BUSY, 0, "[OVERLOAD]system busy, start flow control for a while");
        return;
    }
    zb_topic_unref(k->topic);
    zb_filter_unref(k->match);
    zb_filter_unref(k->unasked);
    k->unasked = NULL;
    k->topic = zb_topic_ref(f->topic);
    k->queue = f->queue;
    k->match = zb_filter_ref(f->filter);
    k->on_worker = 0;
    const char *why = zb_hold(k, k->arrived_ns + ms * 1000000);
    if (why)
        pull_refuse(k, ZB_SYSTEM_BUSY, 0, "[OVERLOAD]%s, start flow control for a while", why);
}

/* What is asked for is not in memory, and the group has had much of that kind: a push consumer comes again by itself, one that pulls
 * waits here, once, and then gets a single message. 1: p was used up. */
static uint32_t pull_cold(struct zb_pull *p, uint32_t stage)
{
    uint32_t model = 0, type = ZR_CONSUME_ACTIVELY;
    struct zb_sub *none = NULL;
    if (p->was_cold || !zb_cold_over(p->group))
        return 0;
    (void)zb_consumer_find(p->group, (struct zr_str){ NULL, 0 }, &model, &type, &none);
    struct zb_pull *k = type == ZR_CONSUME_ACTIVELY ? pull_keep(p) : NULL;
    if (k) {
        k->was_cold = 1;
        k->max_messages = 1;
        k->stage = stage == ZB_PULL_FIRST ? ZB_PULL_READ : stage;
        if (zb_cold_delay(k))
            return 1;
    }
    pull_refuse(k ? k : p, ZB_SYSTEM_BUSY, 0, "This consumer group is reading cold data. It has been flow control");
    return 1;
}

static int64_t suggest_of(const struct found *f, uint32_t far_behind)
{
    if (!ZB_SET(slave_read))
        return 0;
    return far_behind ? f->group->slow_broker_id : f->group->broker_id;
}

static void count_found(struct zb_counters *c, const struct zb_pull *p, const struct found *f,
                        const struct zr_read_result *r)
{
    int64_t ms = (zk_mono_ns() - p->arrived_ns) / 1000000;
    atomic_fetch_add_explicit(&c->found, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->given, r->n_messages, memory_order_relaxed);
    if (ms > atomic_load_explicit(&c->get_max_ms, memory_order_relaxed) && p->stage != ZB_PULL_AGAIN)
        atomic_store_explicit(&c->get_max_ms, ms, memory_order_relaxed);
    atomic_fetch_add_explicit(&f->topic->live->get_count, r->n_messages, memory_order_relaxed);
    atomic_fetch_add_explicit(&f->topic->live->get_bytes, (int64_t)r->bytes, memory_order_relaxed);
}

/* Maps what was read to an answer, or to being held. */
static void pull_conclude(struct zb_pull *p, uint32_t stage, struct zb_lane *lane, struct found *f,
                          struct zr_read_result *r, const struct zr_piece *pieces)
{
    int32_t code = code_of(r->what, p->offset);
    int64_t suggest = suggest_of(f, r->far_behind);
    struct zb_counters *c = lane ? &lane->count : &zb.count;
    if (zb.slave && code != ZB_SUCCESS)
        r->next_offset =
            r->what == ZR_READ_NO_MATCHED_MESSAGE ? r->next_offset : p->offset; /* a slave corrects nobody's offset */
    if (zb.slave && code == ZB_PULL_OFFSET_MOVED) {
        code = ZB_PULL_RETRY_IMMEDIATELY;
        suggest = f->group->broker_id;
    }
    zk_metric_add(zb.meter.pulls, 1);
    p->stage = stage;
    zb_broadcast_pulled(p, code == ZB_PULL_OFFSET_MOVED ? r->next_offset : p->offset);
    if (code == ZB_SUCCESS) {
        count_found(c, p, f, r);
        zb_offset_end(p->group, p->topic_name, p->queue_id, r->next_offset, r->n_messages, r->bytes);
        if (p->on_worker)
            zb_cold_read(p->group, r->bytes);
    } else {
        atomic_fetch_add_explicit(&c->miss, 1, memory_order_relaxed);
    }
    if (code == ZB_PULL_NOT_FOUND && stage != ZB_PULL_AGAIN && (p->sys_flag & PULL_SUSPEND) &&
        !atomic_load(&zb.stopping)) {
        if (r->pin)
            zb.storage->unpin(zb.storage_inst, r->pin);
        pull_hold(p, f);
        return;
    }
    pull_answer(p, f, code, r->what < sizeof what_names / sizeof what_names[0] ? what_names[r->what] : NULL, suggest, r,
                pieces);
}

static void pull_reset(struct zb_pull *p, struct found *f, int64_t reset)
{
    struct zr_read_result r = { .hdr = ZR_HDR(struct zr_read_result, 0), .next_offset = reset };
    zb.storage->bounds(zb.storage_inst, zb_queue_handle(f->topic, f->queue), &r.min_offset, &r.max_offset);
    zb_broadcast_pulled(p, reset);
    pull_answer(p, f, ZB_PULL_OFFSET_MOVED, "OFFSET_RESET", suggest_of(f, 0), &r, NULL);
}

/* Uses p up. */
static void pull_run(struct zb_pull *p, uint32_t stage, struct zb_lane *lane)
{
    struct found f = { .topic = NULL };
    struct zr_piece pieces[MAX_PIECES];
    struct zr_read_result r;
    int64_t reset = -1;
    if (!pull_check(p, lane, &f)) {
        found_end(&f);
        return;
    }
    if (stage == ZB_PULL_FIRST)
        reset = zb_offset_begin(p->group, p->topic_name, p->queue_id, p->sys_flag & PULL_COMMIT ? p->commit : -1,
                                ZB_SET(server_side_reset));
    if (reset < 0 && p->broadcast)
        reset = zb_broadcast_begin(p, zb_queue_handle(f.topic, f.queue));
    if (reset >= 0) {
        pull_reset(p, &f, reset);
    } else {
        zr_status status = pull_read(p, &f, p->on_worker ? 0 : ZR_READ_NOWAIT, pieces, &r);
        if (status == ZR_OK)
            pull_conclude(p, stage, lane, &f, &r, pieces);
        else if (status == ZR_EAGAIN && !p->on_worker && pull_cold(p, stage))
            ;
        else if (status == ZR_EAGAIN && !p->on_worker)
            pull_to_worker(p, stage);
        else
            pull_refuse(p, ZB_SYSTEM_ERROR, 0, "store getMessage return null");
    }
    found_end(&f);
}

void zb_pull_run_again(struct zb_pull *p)
{
    p->on_worker = 0;
    pull_run(p, ZB_PULL_AGAIN, NULL);
}

void zb_pull_run_cold(struct zb_pull *p)
{
    pull_run(p, p->stage, NULL);
}

/* ---- header ---- */
#define NEED_GROUP 0x01u
#define NEED_TOPIC 0x02u
#define NEED_QUEUE 0x04u
#define NEED_OFFSET 0x08u
#define NEED_MAX 0x10u
#define NEED_FLAG 0x20u
#define NEED_ALL 0x3fu

static uint32_t number(struct zr_str v, int64_t *ret, uint32_t need)
{
    return zl_parse_i64(v, ret) == ZR_OK ? need : 0;
}

/* Returns what was seen of what is needed. */
static uint32_t header_read(const struct zr_request *req, struct zb_pull *p)
{
    uint32_t seen = 0, no_suspend = 0;
    int64_t v = 0;
    for (uint32_t i = 0; i < req->n_fields; i++) {
        const struct zr_field *f = &req->fields[i];
        if (zl_is(f->name, "consumerGroup")) {
            p->group = f->value;
            seen |= f->value.len && f->value.len <= ZL_RETRY_TOPIC_MAX ? NEED_GROUP : 0;
        } else if (zl_is(f->name, "topic")) {
            p->topic_name = f->value;
            seen |= f->value.len && f->value.len <= ZL_RETRY_TOPIC_MAX ? NEED_TOPIC : 0;
        } else if (zl_is(f->name, "queueId")) {
            seen |= number(f->value, &v, NEED_QUEUE);
            p->queue_id = v < 0 || v > INT32_MAX ? -1 : (int32_t)v;
        } else if (zl_is(f->name, "queueOffset")) {
            seen |= number(f->value, &p->offset, NEED_OFFSET);
        } else if (zl_is(f->name, "maxMsgNums")) {
            seen |= number(f->value, &v, NEED_MAX);
            p->max_messages = v < 1 ? 1 : v > 1024 ? 1024 : (int32_t)v;
        } else if (zl_is(f->name, "sysFlag")) {
            seen |= number(f->value, &v, NEED_FLAG);
            p->sys_flag = (int32_t)v;
        } else if (zl_is(f->name, "commitOffset")) {
            (void)number(f->value, &p->commit, 0);
        } else if (zl_is(f->name, "suspendTimeoutMillis")) {
            (void)number(f->value, &p->suspend_ms, 0);
        } else if (zl_is(f->name, "subVersion")) {
            (void)number(f->value, &p->sub_version, 0);
        } else if (zl_is(f->name, "subscription")) {
            p->subscription = f->value;
        } else if (zl_is(f->name, "expressionType")) {
            p->type = f->value;
        } else if (zl_is(f->name, "requestSource")) {
            if (zl_is(f->value, "1") && ZB_SET(broadcast_store))
                p->broadcast = ZB_BROADCAST_PROXY;
        } else if (zl_is(f->name, "proxyFrowardClientId")) {
            p->proxy_client = f->value;
        } else if (zl_is(f->name, "_noSuspend_")) {
            no_suspend = 1; /* as proxies say it, which hold the pull themselves */
        }
    }
    if (no_suspend)
        p->sys_flag &= ~PULL_SUSPEND;
    return seen;
}

/* Names what the header lacks. */
static zr_status refuse_header(const struct zr_request *req, uint32_t seen)
{
    static const char *const names[6] = { "consumerGroup", "topic",      "queueId",
                                          "queueOffset",   "maxMsgNums", "sysFlag" }; /* by bit of NEED_ */
    char text[400] = "";
    uint64_t len = 0;
    for (uint32_t i = 0; i < 6; i++)
        if (!(seen & (1u << i)) && len < sizeof text - 64) {
            uint32_t there = zl_field(req->fields, req->n_fields, names[i]).len != 0;
            len += (uint64_t)snprintf(text + len, sizeof text - len, "%s%s %s", len ? ", " : "", names[i],
                                      !there  ? "is missing"
                                      : i < 2 ? "is too long"
                                              : "is not a number");
        }
    return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "required fields of the header: %s", text);
}

zr_status zb_pull_handle(struct zr_inst *inst, const struct zr_request *req)
{
    zk_session_know(req->session, ZK_CONSUMES);
    struct zb_lane *lane = zb_lane_of(req->session);
    struct zb_pull p;
    (void)inst;
    memset(&p, 0, sizeof p);
    p.commit = -1;
    p.token = req->token;
    p.lane = lane;
    p.code = req->code;
    p.arrived_ns = req->arrived_ns ? req->arrived_ns : zk_mono_ns();
    uint32_t seen = header_read(req, &p);
    if (seen != NEED_ALL)
        return refuse_header(req, seen);
    p.suspend_ms = p.suspend_ms < 0 ? 0 : p.suspend_ms > ZB_MAX_SUSPEND_MS ? ZB_MAX_SUSPEND_MS : p.suspend_ms;
    p.peer = zb_peer_of(req->session);
    if (!p.peer)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "memory ran out");
    zb_lane_fresh(lane);
    pull_run(&p, ZB_PULL_FIRST, lane);
    return ZR_OK;
}
