/* SPDX-License-Identifier: Apache-2.0 */
/* ordered.c - feature-ordered: queue locks for orderly consumers (LOCK_BATCH_MQ 41, UNLOCK_BATCH_MQ 42).
 *
 * An orderly consumer locks each queue at the broker before it consumes from it and renews every 20 s, so that during a
 * rebalance no two clients work on one queue. A lock ends by unlocking, after the lease (60 s), or at once when the
 * client's connection ends. Facts: RocketMQ's RebalanceLockManager. */
#include <stdlib.h>
#include <string.h>

#include "locks.h"
#include "zarya/hooks.h"
#include "zarya/log.h"
#include "zarya/plugin.h"
#include "zarya/reply.h"
#include "zarya/timer.h"
#include "zl/json.h"
#include "zl/text.h"

#define LOCK_BATCH_MQ 41
#define UNLOCK_BATCH_MQ 42
#define MAX_ANSWER (4u * 1024 * 1024)
#define SWEEP_NS (60LL * 1000000000)

ZR_MANIFEST("id = feature-ordered\nversion = 1.0.0\nabi = 1.0\nprovides = zarya.requests/1\nprovides = zarya.hooks/1\n");

struct settings { int64_t lease, max_locks; };

struct zr_inst {
    const struct zr_host *host;
    const struct settings *settings;
    const struct zr_reply_v1 *reply;
    const struct zr_timer_v1 *timer;
    struct locks *locks;
    uint64_t sweep_timer;
};

static int64_t now_ms(struct zr_inst *inst) { return inst->timer->mono_ns(inst->host) / 1000000; }

static zr_status refuse(struct zr_inst *inst, const struct zr_request *req, const char *why)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = 1, .remark = zl_str(why) };
    return inst->reply->answer(inst->host, req->token, &answer);
}

static void print_queue(struct zl_jw *w, const struct lock_key *key)
{
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "brokerName", key->broker);
    zl_jw_ki64(w, "queueId", key->queue_id);
    zl_jw_kstr(w, "topic", key->topic);
    zl_jw_end(w, '}');
}

/* Goes through the body's mqSet; w is NULL for unlocking. */
static void each_queue(struct zr_inst *inst, const struct zl_json *root, struct zl_jw *w)
{
    struct zr_str client = zl_json_get_str(root, "clientId");
    struct lock_key key = { .group = zl_json_get_str(root, "consumerGroup") };
    const struct zl_json *set = zl_json_get(root, "mqSet");
    int64_t now = now_ms(inst);
    for (const struct zl_json *q = set ? set->child : NULL; q; q = q->next) {
        key.topic = zl_json_get_str(q, "topic");
        key.broker = zl_json_get_str(q, "brokerName");
        key.queue_id = (int32_t)zl_json_get_i64(q, "queueId", 0);
        if (!w) locks_drop(inst->locks, &key, client);
        else if (locks_take(inst->locks, &key, client, now)) print_queue(w, &key);
    }
}

static zr_status handle_batch(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at = 0;
    struct zr_str text = { (const char *)req->body.ptr, req->body.len };
    if (zl_json_parse(text, &doc, &root, &at) != ZR_OK) return refuse(inst, req, "the body is not the JSON of a lock request");
    if (zl_json_get_str(root, "clientId").len == 0 || zl_json_get_str(root, "consumerGroup").len == 0) {
        zl_json_free(doc);
        return refuse(inst, req, "clientId and consumerGroup are required in the body");
    }
    struct zl_buf out;
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = 0 };
    zl_buf_init(&out, MAX_ANSWER);
    if (req->code == LOCK_BATCH_MQ) {
        struct zl_jw w;
        zl_jw_init(&w, &out, 0);
        zl_jw_begin(&w, '{');
        zl_jw_key(&w, zl_str("lockOKMQSet"));
        zl_jw_begin(&w, '[');
        each_queue(inst, root, &w);
        zl_jw_end(&w, ']');
        zl_jw_end(&w, '}');
        answer.body = zl_buf_as_span(&out);
    } else {
        each_queue(inst, root, NULL);
    }
    zr_status status = out.failed ? refuse(inst, req, "the answer would be larger than 4 MiB") : inst->reply->answer(inst->host, req->token, &answer);
    zl_buf_free(&out);
    zl_json_free(doc);
    return status;
}

static zr_status client_gone(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    (void)verdict;
    locks_drop_client(inst->locks, event->group, event->client_id);
    return ZR_OK;
}

static void sweep(void *arg)
{
    struct zr_inst *inst = arg;
    int64_t now = inst->timer->mono_ns(inst->host);
    locks_sweep(inst->locks, now / 1000000);
    inst->timer->at(inst->host, now + SWEEP_NS, sweep, inst, &inst->sweep_timer);
}

static zr_status create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst) return ZR_ENOMEM;
    inst->host = host;
    inst->settings = settings;
    inst->reply = host->query(host, ZR_SVC_REPLY);
    inst->timer = host->query(host, ZR_SVC_TIMER);
    inst->locks = locks_new(inst->settings->lease, (uint64_t)inst->settings->max_locks);
    if (!inst->reply || !inst->timer || !inst->locks) {
        locks_free(inst->locks);
        free(inst);
        return ZR_ENOTSUP;
    }
    *ret = inst;
    return ZR_OK;
}

static void activate(struct zr_inst *inst)
{
    inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + SWEEP_NS, sweep, inst, &inst->sweep_timer);
}

static void cool(struct zr_inst *inst) { inst->timer->cancel(inst->host, inst->sweep_timer); }

static void destroy(struct zr_inst *inst)
{
    locks_free(inst->locks);
    free(inst);
}

static zr_status retune(struct zr_inst *inst, const void *settings)
{
    inst->settings = settings;
    locks_set_lease(inst->locks, inst->settings->lease);
    return ZR_OK;
}

static const struct zr_handler handlers[] = {
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = LOCK_BATCH_MQ, .serves = ZR_SERVES_BROKER | ZR_SERVES_FAST, .name = "LOCK_BATCH_MQ", .handle = handle_batch },
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = UNLOCK_BATCH_MQ, .serves = ZR_SERVES_BROKER | ZR_SERVES_FAST, .name = "UNLOCK_BATCH_MQ", .handle = handle_batch },
};
static const struct zr_requests_v1 requests = { .hdr = ZR_HDR(struct zr_requests_v1, 0), .handlers = handlers, .n_handlers = 2 };
static const struct zr_hook hook_list[] = {
    { .hdr = ZR_HDR(struct zr_hook, 0), .point = ZR_POINT_CLIENT_GONE, .klass = ZR_CLASS_OBSERVE, .call = client_gone },
};
static const struct zr_hooks_v1 hooks = { .hdr = ZR_HDR(struct zr_hooks_v1, 0), .hooks = hook_list, .n_hooks = 1 };

static const void *query(struct zr_inst *inst, const char *id)
{
    (void)inst;
    if (strcmp(id, ZR_IF_REQUESTS) == 0) return &requests;
    if (strcmp(id, ZR_IF_HOOKS) == 0) return &hooks;
    return NULL;
}

static const struct zr_option options[] = {
    ZR_OPTION_ROW(struct settings, lease, "lease", ZR_OPT_I64, ZR_OPT_LIVE, "60 s", "1 s", "1 h", "ms", "How long a queue lock lives that is not renewed."),
    ZR_OPTION_ROW(struct settings, max_locks, "max_locks", ZR_OPT_I64, 0, "1000000", "1", NULL, NULL, "The most locks held at once; further ones are refused."),
};
static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0), .id = "feature-ordered", .version = "1.0.0", .summary = "Queue locks for orderly consumers.",
    .options = options, .n_options = 2, .settings_size = sizeof(struct settings), .swap = ZR_SWAP_NEVER,
    .create = create, .activate = activate, .cool = cool, .destroy = destroy, .retune = retune, .query = query,
};

const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
