/* SPDX-License-Identifier: Apache-2.0 */
/* ordered.c - feature-ordered: queue locks for orderly consumers (LOCK_BATCH_MQ 41, UNLOCK_BATCH_MQ 42).
 *
 * An orderly consumer locks each queue at the broker before it consumes from it and renews every 20 s, so that during a
 * rebalance no two clients work on one queue. A lock ends by unlocking, or after the lease (60 s), or with its client (gone.c).
 *
 * An orderly consumer that gives a message up sends it to its retry topic itself. While it holds a lock, such a message
 * goes to the dead letter topic: ordered messages are retried in the client, not by delay. Facts: RocketMQ's
 * RebalanceLockManager and AbstractSendMessageProcessor, which ask whether anybody holds a lock of the group: there a stranger's lock
 * makes dead letters of what a group's other consumers want again. */
#include <stdlib.h>
#include <string.h>

#include "ordered.h"
#include "zarya/commands.h"
#include "zarya/err.h"
#include "zl/json.h"
#include "zl/record.h"
#include "zl/text.h"

#define LOCK_BATCH_MQ 41
#define UNLOCK_BATCH_MQ 42
#define CODE_BUSY 2
#define SEND_MESSAGE 10
#define SEND_MESSAGE_V2 310
#define RETRY_PREFIX "%RETRY%"
#define DLQ_PREFIX "%DLQ%"
#define MAX_ANSWER (4u * 1024 * 1024)
#define MAX_BODY (1024u * 1024)
#define LANE_BODY (32u * 1024)  /* some 400 queues, half a millisecond; what is larger is done by a worker */
#define MAX_NAME ZL_RETRY_TOPIC_MAX /* of a group, topic, broker or client: what Apache's validators let through */
#define MAX_SHOWN 10000u
#define SWEEP_NS (60LL * 1000000000)

ZR_MANIFEST("id = feature-ordered\nversion = 1.0.0\nabi = 1.0\nprovides = zarya.requests/1\nprovides = zarya.hooks/1\nprovides = zarya.commands/1\n");

int64_t ordered_now_ms(struct zr_inst *inst) { return inst->timer->mono_ns(inst->host) / 1000000; }

static zr_status refuse_with(struct zr_inst *inst, struct zr_token *token, int32_t code, const char *why)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = code, .remark = zl_str(why) };
    return inst->reply->answer(inst->host, token, &answer);
}

static zr_status refuse(struct zr_inst *inst, const struct zr_request *req, const char *why) { return refuse_with(inst, req->token, 1, why); }

static void reply_session_release(struct zr_inst *inst, struct zr_session *session)
{
    if (session) inst->reply->session_release(inst->host, session);
}

static void print_queue(struct zl_jw *w, const struct lock_key *key)
{
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "brokerName", key->broker);
    zl_jw_ki64(w, "queueId", key->queue_id);
    zl_jw_kstr(w, "topic", key->topic);
    zl_jw_end(w, '}');
}

static void queue_read(const struct zl_json *q, struct lock_key *key)
{
    key->topic = zl_json_get_str(q, "topic");
    key->broker = zl_json_get_str(q, "brokerName");
    key->queue_id = (int32_t)zl_json_get_i64(q, "queueId", 0);
}

/* Why nothing of it is done; NULL: it may be. */
static const char *why_not(const struct zr_inst *inst, const struct zl_json *root)
{
    const struct zl_json *set = zl_json_get(root, "mqSet");
    struct zr_str client = zl_json_get_str(root, "clientId"), group = zl_json_get_str(root, "consumerGroup");
    if (client.len == 0 || group.len == 0) return "clientId and consumerGroup are required in the body";
    if (client.len > MAX_NAME || group.len > MAX_NAME) return "clientId and consumerGroup are at most 255 bytes long";
    if (set && set->n > (uint64_t)inst->settings->max_queues) return "more queues in one request than max_queues of feature-ordered";
    for (const struct zl_json *q = set ? set->child : NULL; q; q = q->next) {
        struct lock_key key;
        queue_read(q, &key);
        if (key.topic.len > MAX_NAME || key.broker.len > MAX_NAME) return "topic and brokerName of a queue are at most 255 bytes long";
    }
    return NULL;
}

/* Goes through the body's mqSet; w is NULL for unlocking. dry: prints what locking all of them would answer, and locks none. */
static void each_queue(struct zr_inst *inst, const struct zl_json *root, struct zl_jw *w, uint32_t dry, uint32_t itself)
{
    struct zr_str client = zl_json_get_str(root, "clientId");
    struct lock_key key = { .group = zl_json_get_str(root, "consumerGroup") };
    const struct zl_json *set = zl_json_get(root, "mqSet");
    int64_t now = ordered_now_ms(inst);
    for (const struct zl_json *q = set ? set->child : NULL; q; q = q->next) {
        queue_read(q, &key);
        if (!w) locks_drop(inst->locks, &key, client);
        else if (dry || locks_take(inst->locks, &key, client, itself, now)) print_queue(w, &key);
    }
}

static void print_locked(struct zr_inst *inst, const struct zl_json *root, struct zl_buf *out, uint32_t dry, uint32_t itself)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("lockOKMQSet"));
    zl_jw_begin(&w, '[');
    each_queue(inst, root, &w, dry, itself);
    zl_jw_end(&w, ']');
    zl_jw_end(&w, '}');
}

/* 1: the answer fits, so that no lock is taken of which the client is not told. */
static uint32_t answer_fits(struct zr_inst *inst, const struct zl_json *root)
{
    struct zl_buf out;
    zl_buf_init(&out, MAX_ANSWER);
    print_locked(inst, root, &out, 1, 0);
    uint32_t fits = !out.failed;
    zl_buf_free(&out);
    return fits;
}

/* 1: the client that the body names is the one that asks: it said so in its heartbeat, as a member of the group. */
static uint32_t is_itself(struct zr_inst *inst, const struct zr_request *req, const struct zl_json *root)
{
    struct zr_session *s = inst->broker->client(inst->host, zl_json_get_str(root, "consumerGroup"), zl_json_get_str(root, "clientId"), 0);
    reply_session_release(inst, s);
    return s && s == req->session;
}

static zr_status do_batch(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at = 0;
    struct zr_str text = { (const char *)req->body.ptr, req->body.len };
    if (zl_json_parse(text, &doc, &root, &at) != ZR_OK) return refuse(inst, req, "the body is not the JSON of a lock request");
    const char *why = why_not(inst, root);
    if (!why && req->code == LOCK_BATCH_MQ && !answer_fits(inst, root)) why = "the answer would be larger than 4 MiB";
    if (why) {
        zl_json_free(doc);
        return refuse(inst, req, why);
    }
    struct zl_buf out;
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = 0 };
    zl_buf_init(&out, MAX_ANSWER);
    if (req->code == LOCK_BATCH_MQ) {
        print_locked(inst, root, &out, 0, is_itself(inst, req, root));
        answer.body = zl_buf_as_span(&out);
    } else {
        each_queue(inst, root, NULL, 0, 0);
    }
    zr_status status = out.failed ? refuse(inst, req, "memory ran out") : inst->reply->answer(inst->host, req->token, &answer);
    zl_buf_free(&out);
    zl_json_free(doc);
    return status;
}

/* A large request on its way to a worker, and its body. */
struct large { struct zr_inst *inst; struct zr_request request; uint8_t body[]; };

/* 0: the plugin stops. */
static uint32_t large_begin(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->gone_lock);
    uint32_t go = !inst->draining;
    inst->n_large += go;
    pthread_mutex_unlock(&inst->gone_lock);
    return go;
}

static void large_end(struct zr_inst *inst)
{
    struct zr_done done = { NULL, NULL };
    pthread_mutex_lock(&inst->gone_lock);
    if (--inst->n_large == 0 && inst->draining) done = inst->drained;
    pthread_mutex_unlock(&inst->gone_lock);
    if (done.call) done.call(done.ctx, ZR_OK);
}

static void large_free(struct large *g)
{
    struct zr_inst *inst = g->inst;
    reply_session_release(inst, g->request.session);
    free(g);
    large_end(inst);
}

static void large_job(void *arg)
{
    struct large *g = arg;
    do_batch(g->inst, &g->request);
    large_free(g);
}

static zr_status handle_large(struct zr_inst *inst, const struct zr_request *req)
{
    if (!large_begin(inst)) return refuse(inst, req, "the broker is stopping");
    struct large *g = malloc(sizeof *g + req->body.len);
    struct zr_token *token = g ? inst->reply->hold(inst->host, req->token) : NULL;
    if (!token) {
        free(g);
        large_end(inst);
        return refuse_with(inst, req->token, CODE_BUSY, "memory ran out");
    }
    memcpy(g->body, req->body.ptr, req->body.len);
    g->inst = inst;
    g->request = (struct zr_request){ .hdr = ZR_HDR(struct zr_request, 0), .token = token, .code = req->code, .body = { g->body, req->body.len },
                                      .session = req->session ? inst->reply->session_hold(inst->host, req->session) : NULL };
    if (inst->work->run(inst->host, large_job, g) == ZR_OK) return ZR_OK;
    refuse_with(inst, token, CODE_BUSY, "[OVERLOAD]the worker pool is busy");
    large_free(g);
    return ZR_OK;
}

static zr_status handle_batch(struct zr_inst *inst, const struct zr_request *req)
{
    if (req->body.len > MAX_BODY) return refuse(inst, req, "a lock request is at most 1 MiB");
    return req->body.len > LANE_BODY ? handle_large(inst, req) : do_batch(inst, req);
}

static void ignore_topic(void *ctx, const struct zr_topic *topic)
{
    (void)ctx;
    (void)topic;
}

/* The dead letter topic of a group, made if it is not there; its name is in scratch. */
static struct zr_str dead_letter_topic(struct zr_inst *inst, const struct zr_event *event, struct zr_str group)
{
    uint64_t len = sizeof DLQ_PREFIX - 1 + group.len;
    char *name = event->scratch(event->scratch_ctx, len);
    if (!name) return (struct zr_str){ NULL, 0 };
    memcpy(name, DLQ_PREFIX, sizeof DLQ_PREFIX - 1);
    memcpy(name + sizeof DLQ_PREFIX - 1, group.ptr, group.len);
    struct zr_topic topic = { .hdr = ZR_HDR(struct zr_topic, 0), .name = { name, len }, .read_queues = 1, .write_queues = 1, .perm = ZR_PERM_READ | ZR_PERM_WRITE };
    if (inst->broker->topic(inst->host, topic.name, ignore_topic, NULL) != ZR_OK) inst->broker->put_topic(inst->host, &topic, NULL, NULL);
    return topic.name;
}

/* The message's properties as a dead letter's, without its delay, in scratch. */
static struct zr_span as_dead_letter(const struct zr_event *event)
{
    static const char *const names[] = { "DELAY", "DLQ_REASON", NULL };
    struct zl_buf out;
    zl_buf_init(&out, ZL_MAX_PROPERTIES + 1);
    zl_props_copy(&out, event->msg->properties, names);
    zl_props_dead(&out, event->msg->properties, (struct zr_str){ NULL, 0 }, "given up by an orderly consumer");
    uint8_t *copy = out.failed ? NULL : event->scratch(event->scratch_ctx, out.len);
    struct zr_span props = copy ? (struct zr_span){ copy, out.len } : event->msg->properties;
    if (copy) memcpy(copy, out.ptr, out.len);
    zl_buf_free(&out);
    return props;
}

struct sender { struct zr_inst *inst; const struct zr_session *session; uint32_t holds; };

static void on_consumers(void *ctx, const struct zr_consumers *consumers)
{
    struct sender *s = ctx;
    const char *at = (const char *)consumers->clients;
    int64_t now = ordered_now_ms(s->inst);
    for (uint32_t i = 0; i < consumers->n_clients && !s->holds; i++, at += consumers->clients->hdr.size) {
        const struct zr_client *c = (const struct zr_client *)(const void *)at;
        if (c->session == s->session) s->holds = locks_held_by(s->inst->locks, consumers->group, c->client_id, now);
    }
}

/* The sender is a consumer of the group that holds a lock of it. */
static uint32_t sender_holds(struct zr_inst *inst, const struct zr_event *event, struct zr_str group)
{
    struct sender s = { .inst = inst, .session = event->request ? event->request->session : NULL };
    if (s.session && locks_held(inst->locks, group, ordered_now_ms(inst))) inst->broker->consumers(inst->host, group, on_consumers, &s);
    return s.holds;
}

static zr_status publish(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    (void)verdict;
    struct zr_str topic = event->msg->topic;
    if ((event->code != SEND_MESSAGE && event->code != SEND_MESSAGE_V2) || !zl_starts(topic, RETRY_PREFIX)) return ZR_OK;
    struct zr_str group = { topic.ptr + sizeof RETRY_PREFIX - 1, topic.len - (sizeof RETRY_PREFIX - 1) };
    if (!sender_holds(inst, event, group)) return ZR_OK;
    struct zr_str dead = dead_letter_topic(inst, event, group);
    if (!dead.ptr) return ZR_ENOMEM;
    event->msg->properties = as_dead_letter(event);
    event->msg->topic = dead;
    event->msg->queue_id = 0;
    event->msg->queue = NULL;
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
    inst->broker = host->query(host, ZR_SVC_BROKER);
    inst->work = host->query(host, ZR_SVC_WORK);
    inst->locks = locks_new(inst->settings->lease, (uint64_t)inst->settings->max_locks);
    if (!inst->reply || !inst->timer || !inst->broker || !inst->work || !inst->locks) {
        locks_free(inst->locks);
        free(inst);
        return ZR_ENOTSUP;
    }
    pthread_mutex_init(&inst->gone_lock, NULL);
    *ret = inst;
    return ZR_OK;
}

static void activate(struct zr_inst *inst)
{
    inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + SWEEP_NS, sweep, inst, &inst->sweep_timer);
}

static void drain(struct zr_inst *inst, struct zr_done done)
{
    pthread_mutex_lock(&inst->gone_lock);
    inst->draining = 1;
    inst->drained = done;
    uint32_t idle = inst->n_large == 0;
    pthread_mutex_unlock(&inst->gone_lock);
    if (idle) done.call(done.ctx, ZR_OK);
}

static void cool(struct zr_inst *inst)
{
    inst->timer->cancel(inst->host, inst->sweep_timer);
    gone_cool(inst);
}

static void destroy(struct zr_inst *inst)
{
    locks_free(inst->locks);
    pthread_mutex_destroy(&inst->gone_lock);
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
    { .hdr = ZR_HDR(struct zr_hook, 0), .point = ZR_POINT_PUBLISH, .klass = ZR_CLASS_TRANSFORM, .before = "feature-delay", .call = publish },
    { .hdr = ZR_HDR(struct zr_hook, 0), .point = ZR_POINT_CLIENT_GONE, .klass = ZR_CLASS_OBSERVE, .call = gone_hook },
};
static const struct zr_hooks_v1 hooks = { .hdr = ZR_HDR(struct zr_hooks_v1, 0), .hooks = hook_list, .n_hooks = 2 };

/* ---- the verb "ordered locks" ---- */
struct shown { struct zl_jw w; int64_t now_ms; uint32_t n; };

static int32_t show_lock(void *ctx, const struct lock_key *key, struct zr_str client, int64_t until_ms)
{
    struct shown *s = ctx;
    zl_jw_begin(&s->w, '{');
    zl_jw_kstr(&s->w, "group", key->group);
    zl_jw_kstr(&s->w, "topic", key->topic);
    zl_jw_kstr(&s->w, "broker", key->broker);
    zl_jw_ki64(&s->w, "queue", key->queue_id);
    zl_jw_kstr(&s->w, "client", client);
    zl_jw_ki64(&s->w, "ends_in_ms", until_ms - s->now_ms);
    zl_jw_end(&s->w, '}');
    return ++s->n == MAX_SHOWN;
}

static zr_status wrong_usage(struct zr_inst *inst)
{
    const struct zr_err_v1 *err = inst->host->query(inst->host, ZR_SVC_ERR);
    struct zr_error error = { ZR_HDR(struct zr_error, 0), ZR_EINVAL, 0, 0, 0, zl_str("usage: ordered locks [GROUP]") };
    if (err) err->raise(inst->host, &error);
    return ZR_EINVAL;
}

static zr_status show_locks(struct zr_inst *inst, const struct zr_str *args, uint32_t n_args, struct zr_writer to)
{
    struct shown s = { .now_ms = ordered_now_ms(inst) };
    struct zl_buf out;
    if (n_args > 1) return wrong_usage(inst);
    zl_buf_init(&out, 16u << 20);
    zl_jw_init(&s.w, &out, 0);
    zl_jw_begin(&s.w, '[');
    locks_each(inst->locks, n_args ? args[0] : (struct zr_str){ NULL, 0 }, s.now_ms, show_lock, &s);
    zl_jw_end(&s.w, ']');
    zr_status status = out.failed ? ZR_ENOMEM : ZR_OK;
    if (status == ZR_OK) to.write(to.ctx, zl_buf_as_str(&out));
    zl_buf_free(&out);
    return status;
}

static const struct zr_verb verbs[] = {
    { .hdr = ZR_HDR(struct zr_verb, 0), .name = "ordered locks", .doc = "Queue locks of orderly consumers, of one group or of all (10,000 at most).",
      .usage = "[GROUP]", .flags = ZR_COMMAND_READS, .run = show_locks },
};
static const struct zr_commands_v1 commands = { .hdr = ZR_HDR(struct zr_commands_v1, 0), .verbs = verbs, .n_verbs = 1 };

static const void *query(struct zr_inst *inst, const char *id)
{
    (void)inst;
    if (strcmp(id, ZR_IF_REQUESTS) == 0) return &requests;
    if (strcmp(id, ZR_IF_HOOKS) == 0) return &hooks;
    if (strcmp(id, ZR_IF_COMMANDS) == 0) return &commands;
    return NULL;
}

static const struct zr_option options[] = {
    ZR_OPTION_ROW(struct settings, lease, "lease", ZR_OPT_I64, ZR_OPT_LIVE, "60 s", "1 s", "1 h", "ms", "How long a queue lock lives that is not renewed."),
    ZR_OPTION_ROW(struct settings, client_lease, "client_lease", ZR_OPT_I64, ZR_OPT_LIVE, "30 s", "0", "1 h", "ms",
                  "How long after its last renewal a client believes in its lock; once its connection ended the lock ends then."),
    ZR_OPTION_ROW(struct settings, grace, "grace", ZR_OPT_I64, ZR_OPT_LIVE, "6 s", "0", "1 h", "ms",
                  "How long a client whose connection ended may take to come back before it counts as dead and its locks end."),
    ZR_OPTION_ROW(struct settings, max_locks, "max_locks", ZR_OPT_I64, 0, "1000000", "1", NULL, NULL, "The most locks held at once; further ones are refused."),
    ZR_OPTION_ROW(struct settings, max_queues, "max_queues", ZR_OPT_I64, ZR_OPT_LIVE, "16384", "1", "1000000", NULL, "The most queues in one lock or unlock request; one with more is refused."),
};
static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0), .id = "feature-ordered", .version = "1.0.0", .summary = "Queue locks for orderly consumers.",
    .options = options, .n_options = sizeof options / sizeof *options, .settings_size = sizeof(struct settings), .swap = ZR_SWAP_NEVER,
    .create = create, .activate = activate, .drain = drain, .cool = cool, .destroy = destroy, .retune = retune, .query = query,
};

const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
