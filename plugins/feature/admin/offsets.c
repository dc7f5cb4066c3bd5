/* SPDX-License-Identifier: Apache-2.0 */
/* offsets.c - consumer offsets by request: 43, 222, 308, 314.
 *
 * A reset happens on the server: the target is stored, and the next pull of the queue is answered with it. With
 * useServerSideResetOffset=false it happens in the clients, as with brokers of 4.x: those that are there are told (220). */
#include <stdlib.h>
#include <string.h>

#include "admin.h"

static struct zr_str key_of(struct zl_buf *buf, struct zr_str topic, struct zr_str group)
{
    zl_buf_clear(buf);
    zl_buf_str(buf, topic);
    zl_buf_u8(buf, '@');
    zl_buf_str(buf, group);
    return zl_buf_as_str(buf);
}

struct collected { char *topic_group; int32_t queue_id; uint32_t reserved; int64_t offset; };
struct collection { struct collected *list; uint64_t n, cap; struct zl_buf key; };

static int32_t collect(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    struct collection *c = ctx;
    if (c->n == c->cap) {
        uint64_t cap = c->cap ? c->cap * 2 : 64;
        struct collected *list = realloc(c->list, cap * sizeof *list);
        if (!list) return 1;
        c->list = list;
        c->cap = cap;
    }
    char *key = zl_dup(key_of(&c->key, topic, group));
    if (!key) return 1;
    c->list[c->n++] = (struct collected){ key, queue_id, 0, offset };
    return 0;
}

static int by_key(const void *a, const void *b)
{
    const struct collected *x = a, *y = b;
    int d = strcmp(x->topic_group, y->topic_group);
    return d ? d : (x->queue_id > y->queue_id) - (x->queue_id < y->queue_id);
}

static zr_status handle_all(struct zr_inst *inst, const struct zr_request *req)
{
    struct collection c = { 0 };
    struct zl_buf out;
    struct zl_jw w;
    struct zr_data_version version;
    zl_buf_init(&c.key, 1024);
    inst->broker->each_offset(inst->host, collect, &c);
    if (c.n) qsort(c.list, c.n, sizeof *c.list, by_key);
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    inst->broker->group_version(inst->host, &version);
    zl_version_print(&w, "dataVersion", &version);
    zl_jw_key(&w, zl_str("offsetTable"));
    zl_jw_begin(&w, '{');
    for (uint64_t i = 0; i < c.n; i++) {
        if (i == 0 || strcmp(c.list[i].topic_group, c.list[i - 1].topic_group) != 0) {
            if (i) zl_jw_end(&w, '}');
            zl_jw_key(&w, zl_str(c.list[i].topic_group));
            zl_jw_begin(&w, '{');
        }
        zl_jw_key_int(&w, c.list[i].queue_id);
        zl_jw_i64(&w, c.list[i].offset);
    }
    if (c.n) zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    zl_jw_key(&w, zl_str("pullOffsetTable"));
    zl_jw_raw(&w, zl_str("{}"));
    zl_jw_end(&w, '}');
    for (uint64_t i = 0; i < c.n; i++) free(c.list[i].topic_group);
    free(c.list);
    zl_buf_free(&c.key);
    return admin_body(inst, req, &out, NULL);
}

static void ignore_group(void *ctx, const struct zr_group *g)
{
    (void)ctx;
    (void)g;
}

struct reset { struct zr_str topic, group; int64_t timestamp, offset; const struct zr_storage_v1 *s; struct zr_inst *si; };

/* The target of one queue; -1: none. */
static int64_t reset_target(const struct reset *r, int32_t id, int64_t *min, int64_t *max)
{
    struct zr_queue *q = r->s->queue(r->si, r->topic, id, 0);
    int64_t target = 0;
    *min = *max = 0;
    if (!q) return 0;
    r->s->bounds(r->si, q, min, max);
    if (r->timestamp < 0) return *max;
    return r->s->offset_at(r->si, q, r->timestamp, 0, &target) == ZR_OK ? target : -1;
}

/* ---- the reset that clients do ---- */

#define RESET_CONSUMER_CLIENT_OFFSET 220
#define OLDEST_FOR_RESET 28 /* V3_0_7_SNAPSHOT */
#define CPP 1               /* LanguageCode */

static int32_t take_mode(void *ctx, struct zr_str key, struct zr_str value)
{
    uint32_t *on = ctx;
    if (!zl_is(key, "useServerSideResetOffset")) return 0;
    *on = !zl_eq_nocase(value, "false");
    return 1;
}

static int32_t take_role(void *ctx, struct zr_str key, struct zr_str value)
{
    uint32_t *slave = ctx;
    if (!zl_is(key, "brokerRole")) return 0;
    *slave = zl_is(value, "SLAVE");
    return 1;
}

static uint32_t is_slave(struct zr_inst *inst)
{
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    uint32_t slave = 0;
    inst->broker->identity(inst->host, &id);
    inst->broker->each_config(inst->host, take_role, &slave);
    return slave || id.id != 0;
}

static uint32_t server_side(struct zr_inst *inst)
{
    uint32_t on = 1;
    inst->broker->each_config(inst->host, take_mode, &on);
    return on;
}

struct telling { struct zr_inst *inst; const struct zr_command *command; int32_t too_old; uint32_t n, told; };

static const struct zr_client *client_at(const struct zr_consumers *c, uint32_t i)
{
    return (const struct zr_client *)(const void *)((const char *)c->clients + (uint64_t)i * c->clients->hdr.size);
}

/* All or none: a client that cannot do it keeps the others from it too. */
static void tell_all(void *ctx, const struct zr_consumers *consumers)
{
    struct telling *t = ctx;
    t->too_old = -1;
    t->n = consumers->n_clients;
    for (uint32_t i = 0; i < t->n && t->too_old < 0; i++)
        if (client_at(consumers, i)->version < OLDEST_FOR_RESET) t->too_old = client_at(consumers, i)->version;
    for (uint32_t i = 0; i < t->n && t->too_old < 0; i++)
        t->told += t->inst->reply->tell(t->inst->host, client_at(consumers, i)->session, t->command) == ZR_OK;
}

/* The table as Java clients read it (objects as keys), or as the list that C++ ones do. */
static void print_target(struct zl_jw *w, struct zr_inst *inst, const struct reset *r, int32_t id, int64_t target, uint32_t as_list)
{
    struct zr_str broker = admin_brokers_name(inst);
    if (!as_list) {
        print_queue_key(w, broker, r->topic, id);
        zl_jw_i64(w, target);
        return;
    }
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "brokerName", broker);
    zl_jw_ki64(w, "offset", target);
    zl_jw_ki64(w, "queueId", id);
    zl_jw_kstr(w, "topic", r->topic);
    zl_jw_end(w, '}');
}

/* 0: some queue has no offset of the group. */
static uint32_t print_targets(struct zr_inst *inst, const struct zr_request *req, const struct reset *r, const struct admin_topic *t, struct zl_buf *out)
{
    struct zl_jw w;
    uint32_t force = admin_ext_bool(req, "isForce", 0), as_list = req->language == CPP;
    int64_t min, max;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("offsetTable"));
    zl_jw_begin(&w, as_list ? '[' : '{');
    for (int32_t id = 0; id < t->write_queues; id++) {
        int64_t now = inst->broker->offset(inst->host, r->group, r->topic, id), target = reset_target(r, id, &min, &max);
        if (now < 0) return 0;
        if (target < 0) target = 0;
        print_target(&w, inst, r, id, force || target < now ? target : now, as_list);
    }
    zl_jw_end(&w, as_list ? ']' : '}');
    zl_jw_end(&w, '}');
    return 1;
}

static zr_status reset_by_clients(struct zr_inst *inst, const struct zr_request *req, const struct reset *r, const struct admin_topic *t)
{
    struct zl_buf out;
    struct zl_fields f = { .n = 0 };
    zl_buf_init(&out, ADMIN_MAX_BODY);
    if (!print_targets(inst, req, r, t, &out)) {
        zl_buf_free(&out);
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "THe consumer group <%.*s> not exist", (int)r->group.len, r->group.ptr);
    }
    zl_fields_str(&f, "topic", r->topic);
    zl_fields_str(&f, "group", r->group);
    zl_fields_i64(&f, "timestamp", r->timestamp);
    zl_fields_bool(&f, "isForce", admin_ext_bool(req, "isForce", 0));
    zl_fields_i64(&f, "queueId", -1);
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = RESET_CONSUMER_CLIENT_OFFSET, .fields = f.f, .n_fields = f.n, .body = zl_buf_as_span(&out) };
    struct telling telling = { .inst = inst, .command = &command, .too_old = -1 };
    if (!out.failed) inst->broker->consumers(inst->host, r->group, tell_all, &telling);
    if (out.failed || telling.told) return admin_body(inst, req, &out, NULL);
    zl_buf_free(&out);
    if (telling.too_old >= 0) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "the client does not support this feature. version=%d", telling.too_old);
    return admin_refuse(inst, req, CODE_CONSUMER_NOT_ONLINE, "Consumer not online, so can not reset offset, Group: %.*s Topic: %.*s Timestamp: %lld",
                        (int)r->group.len, r->group.ptr, (int)r->topic.len, r->topic.ptr, (long long)r->timestamp);
}

static zr_status handle_reset(struct zr_inst *inst, const struct zr_request *req)
{
    struct reset r = { .topic = admin_ext(req, "topic"), .group = admin_ext(req, "group"), .timestamp = admin_ext_i64(req, "timestamp", -1), .offset = admin_ext_i64(req, "offset", -1) };
    int64_t only = admin_ext_i64(req, "queueId", -1), min, max;
    struct admin_topic t;
    r.s = admin_storage(inst, &r.si);
    if (is_slave(inst) && server_side(inst)) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "Can not reset offset in slave broker");
    if (!r.s || !admin_topic(inst, r.topic, &t)) return admin_refuse(inst, req, CODE_TOPIC_NOT_EXIST, "Topic %.*s does not exist", (int)r.topic.len, r.topic.ptr);
    if (inst->broker->group(inst->host, r.group, 0, ignore_group, NULL) != ZR_OK) return admin_refuse(inst, req, CODE_GROUP_NOT_EXIST, "Group %.*s does not exist", (int)r.group.len, r.group.ptr);
    if (!server_side(inst)) return reset_by_clients(inst, req, &r, &t);
    if (only >= t.read_queues) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "No queues to reset.");
    struct zl_buf out;
    struct zl_jw w;
    uint32_t n = 0;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("offsetTable"));
    zl_jw_begin(&w, '{');
    for (int32_t id = only < 0 ? 0 : (int32_t)only; id < (only < 0 ? t.read_queues : (int32_t)only + 1); id++) {
        int64_t target = reset_target(&r, id, &min, &max);
        if (only >= 0 && r.offset >= 0) {
            if (r.offset < min || r.offset > max + 1) {
                zl_buf_free(&out);
                return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "Target offset %lld not in consume queue range [%lld-%lld]", (long long)r.offset, (long long)min, (long long)max);
            }
            target = r.offset;
        }
        if (target < 0) continue;
        inst->broker->reset_offset(inst->host, r.group, r.topic, id, target);
        print_queue_key(&w, admin_brokers_name(inst), r.topic, id);
        zl_jw_i64(&w, target);
        n++;
    }
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    if (n == 0) {
        zl_buf_free(&out);
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "No queues to reset.");
    }
    return admin_body(inst, req, &out, NULL);
}

/* ---- clone ---- */

struct clone { struct collection c; struct zr_inst *inst; struct zr_str group, topic; uint32_t offline; };

struct subscribed { struct zr_str topic; uint32_t n, found; };

static void look_for_topic(void *ctx, const struct zr_consumers *c)
{
    struct subscribed *s = ctx;
    const char *at = (const char *)c->subscriptions;
    s->n = c->n_subscriptions;
    for (uint32_t i = 0; i < s->n && !s->found; i++, at += c->subscriptions->hdr.size)
        s->found = zl_eq(((const struct zr_subscription *)(const void *)at)->topic, s->topic);
}

/* A topic is left out when it is gone, or when the source is online and does not subscribe to it (unless offline is said). */
static uint32_t cloned(const struct clone *clone, struct zr_str topic)
{
    struct admin_topic t;
    struct subscribed s = { .topic = topic };
    if (!admin_topic(clone->inst, topic, &t)) return 0;
    if (!clone->offline) clone->inst->broker->consumers(clone->inst->host, clone->group, look_for_topic, &s);
    return s.n == 0 || s.found;
}

static int32_t collect_for_clone(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    struct clone *clone = ctx;
    if (!zl_eq(group, clone->group) || (clone->topic.len && !zl_eq(topic, clone->topic))) return 0;
    return collect(&clone->c, (struct zr_str){ NULL, 0 }, topic, queue_id, offset);
}

static zr_status handle_clone(struct zr_inst *inst, const struct zr_request *req)
{
    struct clone clone = { .inst = inst, .group = admin_ext(req, "srcGroup"), .topic = admin_ext(req, "topic"), .offline = admin_ext_bool(req, "offline", 0) };
    struct zr_str to = admin_ext(req, "destGroup");
    if (clone.group.len == 0 || to.len == 0) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "ext fields srcGroup and destGroup are required");
    zl_buf_init(&clone.c.key, 1024);
    inst->broker->each_offset(inst->host, collect_for_clone, &clone);
    for (uint64_t i = 0; i < clone.c.n; i++) {
        struct zr_str topic = zl_str(clone.c.list[i].topic_group);
        topic.len--; /* the '@' */
        if (cloned(&clone, topic)) inst->broker->put_offset(inst->host, to, topic, clone.c.list[i].queue_id, clone.c.list[i].offset);
        free(clone.c.list[i].topic_group);
    }
    free(clone.c.list);
    zl_buf_free(&clone.c.key);
    return admin_ok(inst, req);
}

/* ---- correction: where the slowest of a topic's groups is, by queue ---- */

#define MAX_CORRECTED 65536

struct correction { struct zr_str topic; int64_t *least; int32_t n; uint32_t reserved; const struct zr_storage_v1 *s; struct zr_inst *si; };

static int32_t take_least(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    struct correction *c = ctx;
    int64_t min = 0, max = 0;
    (void)group;
    if (!zl_eq(topic, c->topic) || queue_id < 0 || queue_id >= c->n) return 0;
    struct zr_queue *q = c->s->queue(c->si, topic, queue_id, 0);
    if (q) c->s->bounds(c->si, q, &min, &max);
    if (offset >= min && (c->least[queue_id] < 0 || offset < c->least[queue_id])) c->least[queue_id] = offset;
    return 0;
}

static zr_status handle_correction(struct zr_inst *inst, const struct zr_request *req)
{
    struct correction c = { .topic = admin_ext(req, "topic") };
    struct zr_str compare = admin_ext(req, "compareGroup"), filters = admin_ext(req, "filterGroups"), group;
    struct admin_topic t;
    c.s = admin_storage(inst, &c.si);
    if (!c.s || !admin_topic(inst, c.topic, &t)) return admin_refuse(inst, req, CODE_TOPIC_NOT_EXIST, "Topic %.*s does not exist", (int)c.topic.len, c.topic.ptr);
    c.n = t.read_queues > t.write_queues ? t.read_queues : t.write_queues;
    if (c.n > MAX_CORRECTED) c.n = MAX_CORRECTED;
    c.least = malloc((uint64_t)(c.n + 1) * sizeof *c.least);
    if (!c.least) return ZR_ENOMEM;
    for (int32_t i = 0; i < c.n; i++) c.least[i] = -1;
    while (zl_split(&filters, ',', &group)) /* as Apache: the groups named lose their offsets, of every topic */
        if (group.len) inst->broker->remove_offsets(inst->host, group, (struct zr_str){ NULL, 0 });
    inst->broker->each_offset(inst->host, take_least, &c);
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("correctionOffsets"));
    zl_jw_begin(&w, '{');
    for (int32_t i = 0; i < c.n; i++) {
        int64_t own = inst->broker->offset(inst->host, compare, c.topic, i);
        if (c.least[i] < 0) continue;
        zl_jw_key_int(&w, i);
        zl_jw_i64(&w, own >= 0 && own < c.least[i] ? INT64_MAX : c.least[i]);
    }
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    free(c.least);
    return admin_body(inst, req, &out, NULL);
}

const struct zr_handler admin_offset_handlers[] = {
    ADMIN_HANDLER(43, "GET_ALL_CONSUMER_OFFSET", 0, handle_all),
    ADMIN_HANDLER(222, "INVOKE_BROKER_TO_RESET_OFFSET", ZR_HANDLER_GUARDED, handle_reset),
    ADMIN_HANDLER(308, "QUERY_CORRECTION_OFFSET", ZR_HANDLER_GUARDED, handle_correction),
    ADMIN_HANDLER(314, "CLONE_GROUP_OFFSET", ZR_HANDLER_GUARDED, handle_clone),
};
const uint32_t admin_n_offset_handlers = sizeof admin_offset_handlers / sizeof *admin_offset_handlers;
