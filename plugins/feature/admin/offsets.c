/* SPDX-License-Identifier: Apache-2.0 */
/* offsets.c - consumer offsets by request: 43, 222, 314.
 *
 * A reset happens on the server: the target is stored, and the next pull of the queue is answered with it. */
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

static zr_status handle_reset(struct zr_inst *inst, const struct zr_request *req)
{
    struct reset r = { .topic = admin_ext(req, "topic"), .group = admin_ext(req, "group"), .timestamp = admin_ext_i64(req, "timestamp", -1), .offset = admin_ext_i64(req, "offset", -1) };
    int64_t only = admin_ext_i64(req, "queueId", -1), min, max;
    struct admin_topic t;
    r.s = admin_storage(inst, &r.si);
    if (!r.s || !admin_topic(inst, r.topic, &t)) return admin_refuse(inst, req, CODE_TOPIC_NOT_EXIST, "Topic %.*s does not exist", (int)r.topic.len, r.topic.ptr);
    if (inst->broker->group(inst->host, r.group, 0, ignore_group, NULL) != ZR_OK) return admin_refuse(inst, req, CODE_GROUP_NOT_EXIST, "Group %.*s does not exist", (int)r.group.len, r.group.ptr);
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

struct clone { struct collection c; struct zr_str group, topic; };

static int32_t collect_for_clone(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    struct clone *clone = ctx;
    if (!zl_eq(group, clone->group) || (clone->topic.len && !zl_eq(topic, clone->topic))) return 0;
    return collect(&clone->c, (struct zr_str){ NULL, 0 }, topic, queue_id, offset);
}

static zr_status handle_clone(struct zr_inst *inst, const struct zr_request *req)
{
    struct clone clone = { .group = admin_ext(req, "srcGroup"), .topic = admin_ext(req, "topic") };
    struct zr_str to = admin_ext(req, "destGroup");
    if (clone.group.len == 0 || to.len == 0) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "ext fields srcGroup and destGroup are required");
    zl_buf_init(&clone.c.key, 1024);
    inst->broker->each_offset(inst->host, collect_for_clone, &clone);
    for (uint64_t i = 0; i < clone.c.n; i++) {
        struct zr_str topic = zl_str(clone.c.list[i].topic_group);
        topic.len--; /* the '@' */
        inst->broker->put_offset(inst->host, to, topic, clone.c.list[i].queue_id, clone.c.list[i].offset);
        free(clone.c.list[i].topic_group);
    }
    free(clone.c.list);
    zl_buf_free(&clone.c.key);
    return admin_ok(inst, req);
}

const struct zr_handler admin_offset_handlers[] = {
    ADMIN_HANDLER(43, "GET_ALL_CONSUMER_OFFSET", 0, handle_all),
    ADMIN_HANDLER(222, "INVOKE_BROKER_TO_RESET_OFFSET", ZR_HANDLER_GUARDED, handle_reset),
    ADMIN_HANDLER(314, "CLONE_GROUP_OFFSET", ZR_HANDLER_GUARDED, handle_clone),
};
const uint32_t admin_n_offset_handlers = sizeof admin_offset_handlers / sizeof *admin_offset_handlers;
