/* SPDX-License-Identifier: Apache-2.0 */
/* reply.c - feature-reply: the second half of request and reply (SEND_REPLY_MESSAGE 324, 325).
 *
 * Whoever consumed a request sends its reply to the broker; the broker pushes it (326) to the connection of the producer that
 * asked, named by the property REPLY_TO_CLIENT, waits for that client's word, stores the reply in <cluster>_REPLY_TOPIC, and answers.
 *
 * What stays true:
 *   1. A token is answered once, after the client's word (or 10 s without it) and after the reply is stored.
 *   2. The sender is told 0 only when the client took the reply. A reply that could not be stored is delivered all the same.
 *   3. No reply goes into one of the broker's own queues: the topic is checked as that of a send.
 *   4. A reply under way owns a copy of its request; there are at most `max_pending` of them.
 * Facts: RocketMQ's ReplyMessageProcessor. */
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zarya/broker.h"
#include "zarya/plugin.h"
#include "zarya/reply.h"
#include "zarya/store.h"
#include "zarya/timer.h"
#include "zl/codec.h"
#include "zl/record.h"
#include "zl/text.h"
#include "zl/topics.h"

#define SEND_REPLY_MESSAGE 324
#define SEND_REPLY_MESSAGE_V2 325
#define PUSH_REPLY_MESSAGE_TO_CLIENT 326
#define CODE_SYSTEM_ERROR 1
#define CODE_SYSTEM_BUSY 2
#define CODE_MESSAGE_ILLEGAL 13
#define CODE_NO_PERMISSION 16
#define CODE_TOPIC_NOT_EXIST 17
#define CODE_INVALID_PARAMETER 29
#define PUSH_TIMEOUT_NS (10LL * 1000000000)

ZR_MANIFEST("id = feature-reply\nversion = 1.0.0\nabi = 1.0\nprovides = zarya.requests/1\nrequires = zarya.storage/1\n");

struct settings { int64_t max_pending; uint8_t store; };

struct zr_inst {
    const struct zr_host *host;
    const struct settings *settings;
    const struct zr_reply_v1 *reply;
    const struct zr_broker_v1 *broker;
    const struct zr_store_v1 *store;
    const struct zr_timer_v1 *timer;
    char region[128], trace_on[8];
    _Atomic int64_t n_pending;
};

struct pending {
    struct zr_inst *inst;
    struct zr_token *token;
    struct zr_session *asker; /* held, or NULL */
    struct zr_str group, topic, default_topic;
    struct zr_span properties, body;
    struct zr_addr born_host;
    int64_t born_ms;
    int32_t queue_id, default_queues, sys_flag, flag, reconsume, code;
    uint32_t unit_mode;
    struct zl_buf remark;
    char peer[64];
    uint8_t copy[];
};

/* ---- the request ---------------------------------------------------------------------------------------------------------------- */

/* The fields by their long names (324) and by the letters of 325. */
static const char *const long_names[] = { "producerGroup", "topic", "defaultTopic", "defaultTopicQueueNums", "queueId", "sysFlag", "bornTimestamp",
                                          "flag", "properties", "reconsumeTimes", "unitMode" };
static const char *const letters[] = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k" };
enum { F_GROUP, F_TOPIC, F_DEFAULT_TOPIC, F_DEFAULT_QUEUES, F_QUEUE, F_SYS_FLAG, F_BORN, F_FLAG, F_PROPERTIES, F_RECONSUME, F_UNIT };

static struct zr_str field(const struct zr_request *req, uint32_t which)
{
    return zl_field(req->fields, req->n_fields, req->code == SEND_REPLY_MESSAGE ? long_names[which] : letters[which]);
}

static int32_t number(const struct zr_request *req, uint32_t which, int32_t dflt)
{
    int32_t v;
    return zl_parse_i32(field(req, which), &v) == ZR_OK ? v : dflt;
}

static uint8_t *keep(uint8_t *to, const void *bytes, uint64_t len, struct zr_span *ret)
{
    *ret = (struct zr_span){ to, len };
    if (len) memcpy(to, bytes, len);
    return to + len;
}

static uint8_t *keep_text(uint8_t *to, struct zr_str s, struct zr_str *ret)
{
    *ret = (struct zr_str){ (const char *)to, s.len };
    if (s.len) memcpy(to, s.ptr, s.len);
    return to + s.len;
}

static struct pending *pending_new(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
    struct zr_str group = field(req, F_GROUP), topic = field(req, F_TOPIC), dflt = field(req, F_DEFAULT_TOPIC), props = field(req, F_PROPERTIES);
    struct pending *p = calloc(1, sizeof *p + group.len + topic.len + dflt.len + props.len + req->body.len);
    if (!p) return NULL;
    uint8_t *to = keep_text(p->copy, group, &p->group);
    to = keep_text(to, topic, &p->topic);
    to = keep_text(to, dflt, &p->default_topic);
    to = keep(to, props.ptr, props.len, &p->properties);
    keep(to, req->body.ptr, req->body.len, &p->body);
    p->inst = inst;
    p->default_queues = number(req, F_DEFAULT_QUEUES, 0);
    p->queue_id = number(req, F_QUEUE, 0);
    p->sys_flag = number(req, F_SYS_FLAG, 0);
    p->flag = number(req, F_FLAG, 0);
    p->reconsume = number(req, F_RECONSUME, 0);
    p->unit_mode = zl_eq_nocase(field(req, F_UNIT), "true");
    if (zl_parse_i64(field(req, F_BORN), &p->born_ms) != ZR_OK) p->born_ms = inst->timer->wall_ms(inst->host);
    inst->reply->session_info(inst->host, req->session, &info);
    p->born_host = info.peer;
    uint64_t n = info.peer_name.len < sizeof p->peer ? info.peer_name.len : sizeof p->peer - 1;
    if (n) memcpy(p->peer, info.peer_name.ptr, n);
    zl_buf_init(&p->remark, 1024);
    return p;
}

static void pending_free(struct pending *p)
{
    if (p->asker) p->inst->reply->session_release(p->inst->host, p->asker);
    zl_buf_free(&p->remark);
    atomic_fetch_sub(&p->inst->n_pending, 1);
    free(p);
}

/* ---- storing, and the answer ---------------------------------------------------------------------------------------------------- */

static void stored(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct pending *p = ctx;
    struct zr_inst *inst = p->inst;
    struct zl_fields f = { .n = 0 };
    (void)status;
    zl_fields_str(&f, "msgId", zl_str("0"));
    zl_fields_i64(&f, "queueId", p->queue_id);
    zl_fields_i64(&f, "queueOffset", n == 1 && puts[0].status == ZR_OK ? puts[0].queue_offset : 0);
    zl_fields_str(&f, "MSG_REGION", zl_str(inst->region));
    zl_fields_str(&f, "TRACE_ON", zl_str(inst->trace_on));
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = p->code, .fields = f.f, .n_fields = f.n, .remark = zl_buf_as_str(&p->remark) };
    inst->reply->answer(inst->host, p->token, &answer);
    pending_free(p);
}

static void store(struct pending *p)
{
    if (!p->inst->settings->store) {
        stored(p, ZR_OK, NULL, 0);
        return;
    }
    struct zr_msg msg = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = p->topic, .body = p->body, .properties = p->properties, .born_ms = p->born_ms,
                          .born_host = p->born_host, .queue_id = p->queue_id, .flag = p->flag, .reconsume_times = p->reconsume, .inner_num = 1,
                          .sys_flag = p->sys_flag & ~ZR_SYSFLAG_TRANSACTION_MASK, .tags_code = zl_tags_code(zl_props_get(p->properties, "TAGS")) };
    p->inst->store->publish(p->inst->host, &msg, 1, 0, stored, p);
}

/* ---- the push ------------------------------------------------------------------------------------------------------------------- */

static void pushed(void *ctx, zr_status status, const struct zr_request *response)
{
    struct pending *p = ctx;
    struct zr_str asker = zl_props_get(p->properties, "REPLY_TO_CLIENT");
    p->code = status == ZR_OK && response->code == 0 ? 0 : CODE_SYSTEM_ERROR;
    if (status != ZR_OK)
        zl_buf_fmt(&p->remark, "push reply message to %.*s fail.", (int)(asker.len < 256 ? asker.len : 256), asker.ptr);
    else if (p->code)
        zl_buf_fmt(&p->remark, "push reply message to %.*s fail. %.*s", (int)(asker.len < 256 ? asker.len : 256), asker.ptr,
                   (int)(response->remark.len < 256 ? response->remark.len : 256), response->remark.len ? response->remark.ptr : "");
    store(p);
}

static void properties_with_time(struct pending *p, int64_t now_ms, struct zl_buf *out)
{
    char text[24];
    zl_props_copy(out, p->properties, NULL);
    zl_props_add(out, zl_str("PUSH_REPLY_TIME"), (struct zr_str){ text, zl_print_i64(text, now_ms) });
}

static void push(struct pending *p)
{
    struct zr_inst *inst = p->inst;
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    struct zl_fields f = { .n = 0 };
    struct zl_buf props;
    int64_t now_ms = inst->timer->wall_ms(inst->host);
    inst->broker->identity(inst->host, &id);
    zl_buf_init(&props, ZL_MAX_PROPERTIES + 64);
    properties_with_time(p, now_ms, &props);
    zl_fields_str(&f, "bornHost", zl_str(p->peer));
    zl_fields_str(&f, "storeHost", id.addr);
    zl_fields_i64(&f, "storeTimestamp", now_ms);
    zl_fields_str(&f, "producerGroup", p->group);
    zl_fields_str(&f, "topic", p->topic);
    zl_fields_str(&f, "defaultTopic", p->default_topic);
    zl_fields_i64(&f, "defaultTopicQueueNums", p->default_queues);
    zl_fields_i64(&f, "queueId", p->queue_id);
    zl_fields_i64(&f, "sysFlag", p->sys_flag);
    zl_fields_i64(&f, "bornTimestamp", p->born_ms);
    zl_fields_i64(&f, "flag", p->flag);
    zl_fields_str(&f, "properties", zl_buf_as_str(&props));
    zl_fields_i64(&f, "reconsumeTimes", p->reconsume);
    zl_fields_bool(&f, "unitMode", p->unit_mode);
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = PUSH_REPLY_MESSAGE_TO_CLIENT, .fields = f.f, .n_fields = f.n, .body = p->body };
    zr_status status = props.failed ? ZR_EINVAL : inst->reply->ask(inst->host, p->asker, &command, PUSH_TIMEOUT_NS, pushed, p);
    zl_buf_free(&props);
    if (status != ZR_OK) pushed(p, status, NULL);
}

static void find_and_push(struct pending *p)
{
    struct zr_str asker = zl_props_get(p->properties, "REPLY_TO_CLIENT");
    if (asker.len) p->asker = p->inst->broker->client(p->inst->host, (struct zr_str){ NULL, 0 }, asker, 1);
    if (p->asker) {
        push(p);
        return;
    }
    p->code = CODE_SYSTEM_ERROR;
    if (asker.len)
        zl_buf_fmt(&p->remark, "push reply message fail, channel of <%.*s> not found.", (int)(asker.len < 256 ? asker.len : 256), asker.ptr);
    else
        zl_buf_fmt(&p->remark, "reply message properties[REPLY_TO_CLIENT] is null");
    store(p);
}

/* ---- the handler ---------------------------------------------------------------------------------------------------------------- */

static zr_status refuse(struct zr_inst *inst, const struct zr_request *req, int32_t code, const char *why)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = code, .remark = zl_str(why) };
    return inst->reply->answer(inst->host, req->token, &answer);
}

struct target { int32_t queues; uint32_t order; };

static void take_target(void *ctx, const struct zr_topic *topic)
{
    struct target *t = ctx;
    t->queues = topic->read_queues > topic->write_queues ? topic->read_queues : topic->write_queues;
    t->order = topic->order;
}

static uint32_t may_write(struct zr_inst *inst)
{
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    inst->broker->identity(inst->host, &id);
    return (id.permission & ZR_PERM_WRITE) != 0;
}

static zr_status refuse_topic(struct zr_inst *inst, const struct zr_request *req, int32_t code, const char *before, const char *behind)
{
    char why[ZL_RETRY_TOPIC_MAX + 128];
    struct zr_str topic = field(req, F_TOPIC);
    snprintf(why, sizeof why, "%s%.*s%s", before, topic.len > ZL_RETRY_TOPIC_MAX ? (int)ZL_RETRY_TOPIC_MAX : (int)topic.len, topic.len ? topic.ptr : "", behind);
    return refuse(inst, req, code, why);
}

static uint32_t is_batch(const struct zr_request *req)
{
    struct zr_str props = field(req, F_PROPERTIES);
    return (number(req, F_SYS_FLAG, 0) & ZR_SYSFLAG_INNER_BATCH) || zl_props_get((struct zr_span){ (const uint8_t *)props.ptr, props.len }, "INNER_NUM").len;
}

static zr_status handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct target t = { 0, 0 };
    struct zr_str topic = field(req, F_TOPIC);
    char why[512];
    if (zl_topic_check(topic, why, sizeof why) != ZR_OK) return refuse(inst, req, CODE_INVALID_PARAMETER, why);
    if (zl_topic_unsendable(topic)) return refuse_topic(inst, req, CODE_NO_PERMISSION, "Sending message to topic[", "] is forbidden.");
    if (inst->broker->topic(inst->host, topic, take_target, &t) != ZR_OK)
        return refuse_topic(inst, req, CODE_TOPIC_NOT_EXIST, "topic[", "] not exist, apply first please!");
    if (t.order && !may_write(inst)) return refuse(inst, req, CODE_NO_PERMISSION, "the broker sending message is forbidden");
    if (is_batch(req)) return refuse(inst, req, CODE_MESSAGE_ILLEGAL, "the message is illegal: a reply is no inner batch");
    if (field(req, F_PROPERTIES).len > ZL_MAX_PROPERTIES) return refuse(inst, req, CODE_MESSAGE_ILLEGAL, "the message is illegal: its properties are longer than 32 KB");
    if (number(req, F_QUEUE, 0) >= t.queues) return refuse(inst, req, CODE_MESSAGE_ILLEGAL, "request queueId is illegal: the topic has not so many queues");
    if (atomic_fetch_add(&inst->n_pending, 1) >= inst->settings->max_pending) {
        atomic_fetch_sub(&inst->n_pending, 1);
        return refuse(inst, req, CODE_SYSTEM_BUSY, "too many replies are under way (max_pending of feature-reply), start flow control for a while");
    }
    struct pending *p = pending_new(inst, req);
    if (!p) {
        atomic_fetch_sub(&inst->n_pending, 1);
        return ZR_ENOMEM;
    }
    p->token = inst->reply->hold(inst->host, req->token);
    if (!p->token) {
        pending_free(p);
        return ZR_ENOMEM;
    }
    if (p->queue_id < 0) p->queue_id = 0;
    find_and_push(p);
    return ZR_OK;
}

/* ---- the plugin ----------------------------------------------------------------------------------------------------------------- */

static int32_t take_config(void *ctx, struct zr_str key, struct zr_str value)
{
    struct zr_inst *inst = ctx;
    char *to = zl_is(key, "regionId") ? inst->region : zl_is(key, "traceOn") ? inst->trace_on : NULL;
    uint64_t cap = to == inst->region ? sizeof inst->region : sizeof inst->trace_on;
    if (!to || value.len >= cap) return 0;
    if (value.len) memcpy(to, value.ptr, value.len);
    to[value.len] = 0;
    return 0;
}

static zr_status create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst) return ZR_ENOMEM;
    inst->host = host;
    inst->settings = settings;
    inst->reply = host->query(host, ZR_SVC_REPLY);
    inst->broker = host->query(host, ZR_SVC_BROKER);
    inst->store = host->query(host, ZR_SVC_STORE);
    inst->timer = host->query(host, ZR_SVC_TIMER);
    if (!inst->reply || !inst->broker || !inst->store || !inst->timer) {
        free(inst);
        return ZR_ENOTSUP;
    }
    *ret = inst;
    return ZR_OK;
}

static void activate(struct zr_inst *inst)
{
    strcpy(inst->region, "DefaultRegion");
    strcpy(inst->trace_on, "true");
    inst->broker->each_config(inst->host, take_config, inst);
}

static void destroy(struct zr_inst *inst) { free(inst); }

#define SERVES (ZR_SERVES_BROKER | ZR_SERVES_FAST)
static const struct zr_handler handlers[] = {
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = SEND_REPLY_MESSAGE, .serves = SERVES, .flags = ZR_HANDLER_GUARDED, .name = "SEND_REPLY_MESSAGE", .handle = handle },
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = SEND_REPLY_MESSAGE_V2, .serves = SERVES, .flags = ZR_HANDLER_GUARDED, .name = "SEND_REPLY_MESSAGE_V2", .handle = handle },
};
static const struct zr_requests_v1 requests = { .hdr = ZR_HDR(struct zr_requests_v1, 0), .handlers = handlers, .n_handlers = 2 };

static const void *query(struct zr_inst *inst, const char *id)
{
    (void)inst;
    return strcmp(id, ZR_IF_REQUESTS) == 0 ? &requests : NULL;
}

static const struct zr_option options[] = {
    ZR_OPTION_ROW(struct settings, max_pending, "max_pending", ZR_OPT_I64, 0, "10000", "1", "1000000", NULL, "The most replies under way at once; further ones are answered with 2."),
    ZR_OPTION_ROW(struct settings, store, "store", ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL, "Replies are stored in the reply topic too (Apache's storeReplyMessageEnable)."),
};
static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0), .id = "feature-reply", .version = "1.0.0", .summary = "Replies to requests, pushed to who asked.",
    .options = options, .n_options = sizeof options / sizeof *options, .settings_size = sizeof(struct settings), .swap = ZR_SWAP_NEVER,
    .create = create, .activate = activate, .destroy = destroy, .query = query,
};

const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
