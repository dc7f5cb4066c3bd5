/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - what queues hold and who consumes them: 202, 203, 204, 208, 300, 303, 321, 328, 343, 345. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "admin.h"

#define MAX_ENTRIES 1024u

static int32_t most(int32_t a, int32_t b) { return a > b ? a : b; }

static int64_t time_at(const struct zr_storage_v1 *s, struct zr_inst *si, struct zr_queue *q, int64_t offset, int64_t dflt)
{
    int64_t ms;
    return q && offset >= 0 && s->time_at(si, q, offset, &ms) == ZR_OK ? ms : dflt;
}

static zr_status handle_topic_stats(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str topic = admin_ext(req, "topic"), broker = admin_brokers_name(inst);
    struct admin_topic t;
    struct zr_inst *si;
    const struct zr_storage_v1 *s = admin_storage(inst, &si);
    if (!s || !admin_topic(inst, topic, &t)) return admin_refuse(inst, req, CODE_TOPIC_NOT_EXIST, "topic[%.*s] not exist", (int)topic.len, topic.ptr);
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("offsetTable"));
    zl_jw_begin(&w, '{');
    for (int32_t id = 0; id < most(t.read_queues, t.write_queues); id++) {
        struct zr_queue *q = s->queue(si, topic, id, 0);
        int64_t min = 0, max = 0;
        if (q) s->bounds(si, q, &min, &max);
        print_queue_key(&w, broker, topic, id);
        zl_jw_begin(&w, '{');
        zl_jw_ki64(&w, "lastUpdateTimestamp", max > 0 ? time_at(s, si, q, max - 1, 0) : 0);
        zl_jw_ki64(&w, "maxOffset", max < 0 ? 0 : max);
        zl_jw_ki64(&w, "minOffset", min < 0 ? 0 : min);
        zl_jw_end(&w, '}');
    }
    zl_jw_end(&w, '}');
    struct zr_topic_stats stats = { .hdr = ZR_HDR(struct zr_topic_stats, 0) };
    inst->broker->topic_stats(inst->host, topic, (struct zr_str){ NULL, 0 }, &stats);
    zl_jw_key(&w, zl_str("topicPutTps"));
    zl_jw_f64(&w, stats.put_tps);
    zl_jw_end(&w, '}');
    return admin_body(inst, req, &out, NULL);
}

/* ---- consumption of a group ---- */

struct offsets_of { struct zr_str group; struct names *topics; };

static int32_t collect_offset_topic(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    struct offsets_of *o = ctx;
    (void)queue_id;
    (void)offset;
    if (zl_eq(group, o->group)) names_add(o->topics, topic);
    return 0;
}

static void collect_subscribed(void *ctx, const struct zr_consumers *c)
{
    for (uint32_t i = 0; i < c->n_subscriptions; i++) names_add(ctx, c->subscriptions[i].topic);
}

static void print_consumption(struct zr_inst *inst, struct zl_jw *w, struct zr_str group, struct zr_str topic, int32_t queues)
{
    struct zr_inst *si;
    const struct zr_storage_v1 *s = admin_storage(inst, &si);
    struct zr_str broker = admin_brokers_name(inst);
    for (int32_t id = 0; s && id < queues; id++) {
        struct zr_queue *q = s->queue(si, topic, id, 0);
        int64_t min = 0, max = 0, consumed = inst->broker->offset(inst->host, group, topic, id);
        int64_t pulled = inst->broker->pull_offset(inst->host, group, topic, id);
        if (q) s->bounds(si, q, &min, &max);
        if (consumed < 0) consumed = 0;
        print_queue_key(w, broker, topic, id);
        zl_jw_begin(w, '{');
        zl_jw_ki64(w, "brokerOffset", max);
        zl_jw_ki64(w, "consumerOffset", consumed);
        zl_jw_ki64(w, "lastTimestamp", consumed > 0 ? time_at(s, si, q, consumed - 1, 0) : 0);
        zl_jw_ki64(w, "pullOffset", pulled > consumed ? pulled : consumed);
        zl_jw_end(w, '}');
    }
}

static void topics_of_request(struct zr_inst *inst, const struct zr_request *req, struct zr_str group, struct names *ret)
{
    struct zr_str list = admin_ext(req, "topicList"), topic = admin_ext(req, "topic"), item;
    if (list.len) {
        while (list.len && zl_split(&list, ';', &item))
            if (item.len) names_add(ret, item);
        return;
    }
    struct names all = { 0 }, subscribed = { 0 };
    struct offsets_of o = { group, &all };
    if (topic.len) names_add(&all, topic);
    else inst->broker->each_offset(inst->host, collect_offset_topic, &o);
    inst->broker->consumers(inst->host, group, collect_subscribed, &subscribed);
    for (uint64_t i = 0; i < all.n; i++)
        if (subscribed.n == 0 || names_has(&subscribed, zl_str(all.list[i]))) names_add(ret, zl_str(all.list[i]));
    names_free(&all);
    names_free(&subscribed);
}

static zr_status handle_consume_stats(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str group = admin_ext(req, "consumerGroup");
    struct names topics = { 0 };
    double tps = 0;
    struct zl_buf table, out;
    struct zl_jw w;
    topics_of_request(inst, req, group, &topics);
    zl_buf_init(&table, ADMIN_MAX_BODY);
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &table, 0);
    zl_jw_begin(&w, '{');
    for (uint64_t i = 0; i < topics.n; i++) {
        struct zr_str topic = zl_str(topics.list[i]);
        struct admin_topic t;
        struct zr_topic_stats stats = { .hdr = ZR_HDR(struct zr_topic_stats, 0) };
        if (!admin_topic(inst, topic, &t)) continue;
        print_consumption(inst, &w, group, topic, t.read_queues);
        inst->broker->topic_stats(inst->host, topic, group, &stats);
        tps += stats.get_tps;
    }
    zl_jw_end(&w, '}');
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("consumeTps"));
    zl_jw_f64(&w, tps);
    zl_jw_key(&w, zl_str("offsetTable"));
    zl_jw_raw(&w, zl_buf_as_str(&table));
    zl_jw_end(&w, '}');
    if (table.failed) out.failed = 1;
    zl_buf_free(&table);
    names_free(&topics);
    return admin_body(inst, req, &out, NULL);
}

/* ---- connections ---- */

static void print_client(struct zl_jw *w, const struct zr_client *c)
{
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "clientAddr", c->peer_name);
    zl_jw_kstr(w, "clientId", c->client_id);
    zl_jw_kstr(w, "language", zl_str(zl_language_name(c->language)));
    zl_jw_ki64(w, "version", c->version);
    zl_jw_end(w, '}');
}

static void print_consumers(void *ctx, const struct zr_consumers *c)
{
    struct zl_jw *w = ctx;
    zl_jw_begin(w, '{');
    zl_jw_key(w, zl_str("connectionSet"));
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < c->n_clients; i++) print_client(w, &c->clients[i]);
    zl_jw_end(w, ']');
    zl_jw_kstr(w, "consumeFromWhere", c->from_where.len ? c->from_where : zl_str("CONSUME_FROM_LAST_OFFSET"));
    zl_jw_kstr(w, "consumeType", zl_str(consume_type_name(c->consume_type)));
    zl_jw_kstr(w, "messageModel", zl_str(model_name(c->model)));
    zl_jw_key(w, zl_str("subscriptionTable"));
    zl_jw_begin(w, '{');
    for (uint32_t i = 0; i < c->n_subscriptions; i++) {
        zl_jw_key(w, c->subscriptions[i].topic);
        print_subscription(w, &c->subscriptions[i]);
    }
    zl_jw_end(w, '}');
    zl_jw_end(w, '}');
}

static zr_status handle_consumer_connections(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str group = admin_ext(req, "consumerGroup");
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    if (inst->broker->consumers(inst->host, group, print_consumers, &w) != ZR_OK) {
        zl_buf_free(&out);
        return admin_refuse(inst, req, CODE_CONSUMER_NOT_ONLINE, "the consumer group[%.*s] not online", (int)group.len, group.ptr);
    }
    return admin_body(inst, req, &out, NULL);
}

struct producers { struct zl_jw *w; char *group; uint32_t n; };

static int32_t print_producer(void *ctx, struct zr_str group, const struct zr_client *c)
{
    struct producers *p = ctx;
    (void)group;
    p->n++;
    print_client(p->w, c);
    return 0;
}

static zr_status handle_producer_connections(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str group = admin_ext(req, "producerGroup");
    struct zl_buf out;
    struct zl_jw w;
    struct producers p = { &w, NULL, 0 };
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("connectionSet"));
    zl_jw_begin(&w, '[');
    if (group.len) inst->broker->each_producer(inst->host, group, print_producer, &p);
    zl_jw_end(&w, ']');
    zl_jw_end(&w, '}');
    if (p.n == 0) {
        zl_buf_free(&out);
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "the producer group[%.*s] not exist", (int)group.len, group.ptr);
    }
    return admin_body(inst, req, &out, NULL);
}

static int32_t collect_producer_group(void *ctx, struct zr_str group, const struct zr_client *c)
{
    (void)c;
    names_add(ctx, group);
    return 0;
}

static int32_t print_producer_info(void *ctx, struct zr_str group, const struct zr_client *c)
{
    struct zl_jw *w = ctx;
    char remote[80];
    (void)group;
    snprintf(remote, sizeof remote, "/%.*s", (int)(c->peer_name.len > 70 ? 70 : c->peer_name.len), c->peer_name.ptr);
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "clientId", c->client_id);
    zl_jw_kstr(w, "language", zl_str(zl_language_name(c->language)));
    zl_jw_ki64(w, "lastUpdateTimestamp", c->last_ms);
    zl_jw_kstr(w, "remoteIP", zl_str(remote));
    zl_jw_ki64(w, "version", c->version);
    zl_jw_end(w, '}');
    return 0;
}

static zr_status handle_all_producers(struct zr_inst *inst, const struct zr_request *req)
{
    struct names groups = { 0 };
    struct zl_buf out;
    struct zl_jw w;
    inst->broker->each_producer(inst->host, (struct zr_str){ NULL, 0 }, collect_producer_group, &groups);
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("data"));
    zl_jw_begin(&w, '{');
    for (uint64_t i = 0; i < groups.n; i++) {
        zl_jw_key(&w, zl_str(groups.list[i]));
        zl_jw_begin(&w, '[');
        inst->broker->each_producer(inst->host, zl_str(groups.list[i]), print_producer_info, &w);
        zl_jw_end(&w, ']');
    }
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    names_free(&groups);
    return admin_body(inst, req, &out, NULL);
}

/* ---- who consumes what ---- */

struct consumed_by { struct zr_str topic; struct names *groups; };

static int32_t collect_online(void *ctx, const struct zr_consumers *c)
{
    struct consumed_by *by = ctx;
    for (uint32_t i = 0; i < c->n_subscriptions; i++)
        if (zl_eq(c->subscriptions[i].topic, by->topic)) names_add(by->groups, c->group);
    return 0;
}

static int32_t collect_with_offset(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    struct consumed_by *by = ctx;
    (void)queue_id;
    (void)offset;
    if (zl_eq(topic, by->topic)) names_add(by->groups, group);
    return 0;
}

static zr_status answer_names(struct zr_inst *inst, const struct zr_request *req, const char *key, struct names *names, uint32_t with_addr)
{
    struct zl_buf out;
    struct zl_jw w;
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    inst->broker->identity(inst->host, &id);
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    if (with_addr) zl_jw_kstr(&w, "brokerAddr", id.addr);
    print_names(&w, key, names);
    zl_jw_end(&w, '}');
    names_free(names);
    return admin_body(inst, req, &out, NULL);
}

static zr_status handle_who_consumes(struct zr_inst *inst, const struct zr_request *req)
{
    struct names groups = { 0 };
    struct consumed_by by = { admin_ext(req, "topic"), &groups };
    inst->broker->each_consumers(inst->host, collect_online, &by);
    inst->broker->each_offset(inst->host, collect_with_offset, &by);
    return answer_names(inst, req, "groupList", &groups, 0);
}

static zr_status handle_topics_of_group(struct zr_inst *inst, const struct zr_request *req)
{
    struct names topics = { 0 };
    struct offsets_of o = { admin_ext(req, "group"), &topics };
    inst->broker->each_offset(inst->host, collect_offset_topic, &o);
    return answer_names(inst, req, "topicList", &topics, 1);
}

struct subscription_of { struct zl_jw *w; struct zr_str topic; uint32_t found; };

static void print_subscription_of(void *ctx, const struct zr_consumers *c)
{
    struct subscription_of *of = ctx;
    for (uint32_t i = 0; i < c->n_subscriptions && !of->found; i++) {
        if (!zl_eq(c->subscriptions[i].topic, of->topic)) continue;
        zl_jw_key(of->w, zl_str("subscriptionData"));
        print_subscription(of->w, &c->subscriptions[i]);
        of->found = 1;
    }
}

static zr_status handle_subscription(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf out;
    struct zl_jw w;
    struct zr_str group = admin_ext(req, "group"), topic = admin_ext(req, "topic");
    struct subscription_of of = { &w, topic, 0 };
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "group", group);
    inst->broker->consumers(inst->host, group, print_subscription_of, &of);
    if (topic.len) zl_jw_kstr(&w, "topic", topic);
    zl_jw_end(&w, '}');
    return admin_body(inst, req, &out, NULL);
}

/* "2026-11-21#13:45:00:123" in local time. */
static void print_time(struct zl_jw *w, const char *key, int64_t ms)
{
    char text[48], with_ms[64];
    time_t s = (time_t)(ms / 1000);
    struct tm tm;
    localtime_r(&s, &tm);
    strftime(text, sizeof text, "%Y-%m-%d#%H:%M:%S", &tm);
    snprintf(with_ms, sizeof with_ms, "%s:%03d", text, (int)(ms % 1000 < 0 ? 0 : ms % 1000));
    zl_jw_kstr(w, key, zl_str(with_ms));
}

static void print_span(struct zr_inst *inst, struct zl_jw *w, struct zr_str group, struct zr_str topic, int32_t id)
{
    struct zr_inst *si;
    const struct zr_storage_v1 *s = admin_storage(inst, &si);
    struct zr_queue *q = s->queue(si, topic, id, 0);
    int64_t min = 0, max = 0, consumed = inst->broker->offset(inst->host, group, topic, id);
    if (q) s->bounds(si, q, &min, &max);
    int64_t first = time_at(s, si, q, min, -1), last = time_at(s, si, q, max - 1, -1);
    int64_t done = consumed > 0 ? time_at(s, si, q, consumed - 1, first) : first;
    int64_t waiting = consumed < max ? time_at(s, si, q, consumed < min ? min : consumed, 0) : 0;
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "consumeTimeStamp", done);
    print_time(w, "consumeTimeStampStr", done);
    zl_jw_ki64(w, "delayTime", waiting > 0 ? inst->timer->wall_ms(inst->host) - waiting : 0);
    zl_jw_ki64(w, "maxTimeStamp", last);
    print_time(w, "maxTimeStampStr", last);
    zl_jw_key(w, zl_str("messageQueue"));
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "brokerName", admin_brokers_name(inst));
    zl_jw_ki64(w, "queueId", id);
    zl_jw_kstr(w, "topic", topic);
    zl_jw_end(w, '}');
    zl_jw_ki64(w, "minTimeStamp", first);
    print_time(w, "minTimeStampStr", first);
    zl_jw_end(w, '}');
}

static zr_status handle_time_span(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str group = admin_ext(req, "group"), topic = admin_ext(req, "topic");
    struct admin_topic t;
    struct zr_inst *si;
    if (!admin_storage(inst, &si) || !admin_topic(inst, topic, &t)) return admin_refuse(inst, req, CODE_TOPIC_NOT_EXIST, "topic[%.*s] not exist", (int)topic.len, topic.ptr);
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("consumeTimeSpanSet"));
    zl_jw_begin(&w, '[');
    for (int32_t id = 0; id < t.write_queues; id++) print_span(inst, &w, group, topic, id);
    zl_jw_end(&w, ']');
    zl_jw_end(&w, '}');
    return admin_body(inst, req, &out, NULL);
}

/* ---- raw queue entries ---- */

static void print_entries(struct zl_jw *w, const int64_t *physical, const uint32_t *sizes, const int64_t *codes, uint32_t n)
{
    zl_jw_key(w, zl_str("queueData"));
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < n; i++) {
        zl_jw_begin(w, '{');
        zl_jw_kbool(w, "eval", 1);
        zl_jw_ki64(w, "physicOffset", physical[i]);
        zl_jw_ki64(w, "physicSize", sizes[i]);
        zl_jw_ki64(w, "tagsCode", codes[i]);
        zl_jw_end(w, '}');
    }
    zl_jw_end(w, ']');
}

struct entries { int64_t physical[MAX_ENTRIES], codes[MAX_ENTRIES]; uint32_t sizes[MAX_ENTRIES]; };

static zr_status handle_entries(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str topic = admin_ext(req, "topic"), group = admin_ext(req, "consumerGroup");
    int64_t id = admin_ext_i64(req, "queueId", 0), index = admin_ext_i64(req, "index", 0), count = admin_ext_i64(req, "count", 10), min = 0, max = 0;
    struct zr_inst *si;
    const struct zr_storage_v1 *s = admin_storage(inst, &si);
    struct zr_queue *q = s ? s->queue(si, topic, (int32_t)id, 0) : NULL;
    if (!q) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "%lld@%.*s is not exist!", (long long)id, (int)topic.len, topic.ptr);
    s->bounds(si, q, &min, &max);
    if (index < min || index >= max) return admin_refuse(inst, req, CODE_OK, "Index %lld of %lld@%.*s is not exist!", (long long)index, (long long)id, (int)topic.len, topic.ptr);
    struct entries *e = malloc(sizeof *e);
    if (!e) return ZR_ENOMEM;
    uint32_t n = s->entries(si, q, index, e->physical, e->sizes, e->codes, count < 1 ? 1 : count > MAX_ENTRIES ? MAX_ENTRIES : (uint32_t)count);
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "filterData", zl_str("null"));
    zl_jw_ki64(&w, "maxQueueIndex", max);
    zl_jw_ki64(&w, "minQueueIndex", min);
    print_entries(&w, e->physical, e->sizes, e->codes, n);
    struct subscription_of of = { &w, topic, 0 };
    if (group.len) inst->broker->consumers(inst->host, group, print_subscription_of, &of);
    zl_jw_end(&w, '}');
    free(e);
    return admin_body(inst, req, &out, NULL);
}

const struct zr_handler admin_stats_handlers[] = {
    ADMIN_HANDLER(202, "GET_TOPIC_STATS_INFO", 0, handle_topic_stats),
    ADMIN_HANDLER(203, "GET_CONSUMER_CONNECTION_LIST", 0, handle_consumer_connections),
    ADMIN_HANDLER(204, "GET_PRODUCER_CONNECTION_LIST", 0, handle_producer_connections),
    ADMIN_HANDLER(208, "GET_CONSUME_STATS", 0, handle_consume_stats),
    ADMIN_HANDLER(300, "QUERY_TOPIC_CONSUME_BY_WHO", 0, handle_who_consumes),
    ADMIN_HANDLER(303, "QUERY_CONSUME_TIME_SPAN", 0, handle_time_span),
    ADMIN_HANDLER(321, "QUERY_CONSUME_QUEUE", 0, handle_entries),
    ADMIN_HANDLER(328, "GET_ALL_PRODUCER_INFO", 0, handle_all_producers),
    ADMIN_HANDLER(343, "QUERY_TOPICS_BY_CONSUMER", 0, handle_topics_of_group),
    ADMIN_HANDLER(345, "QUERY_SUBSCRIPTION_BY_CONSUMER", 0, handle_subscription),
};
const uint32_t admin_n_stats_handlers = sizeof admin_stats_handlers / sizeof *admin_stats_handlers;
