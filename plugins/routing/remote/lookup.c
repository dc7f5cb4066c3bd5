/* SPDX-License-Identifier: Apache-2.0 */
/* lookup.c - a topic's route, asked of one name server after the other (reachable ones first) until one knows. */
#include <limits.h>
#include <stdlib.h>
#include "remote.h"

struct lookup {
    struct zr_inst *inst;
    void (*on_route)(void *ctx, zr_status status, const struct zr_route *route);
    void *ctx;
    zr_status worst; /* what to say when nobody answers */
    uint32_t n, at;
    char urls[RM_MAX_PEERS][RM_MAX_URL];
    uint64_t topic_len;
    char topic[];
};

static void lookup_next(struct lookup *lookup);

static void lookup_end(struct lookup *lookup, zr_status status, const struct zr_route *route)
{
    struct zr_inst *inst = lookup->inst;
    lookup->on_route(lookup->ctx, status, route);
    free(lookup);
    rm_leave(inst);
}

/* ---- from JSON to a route ---------------------------------------------------------------------------------------------- */

static int32_t number(const struct zl_json *item, const char *key)
{
    int64_t v = zl_json_get_i64(item, key, 0);
    return v < INT32_MIN || v > INT32_MAX ? 0 : (int32_t)v;
}

static uint32_t count_addrs(const struct zl_json *datas)
{
    uint32_t n = 0;
    for (const struct zl_json *data = datas ? datas->child : NULL; data; data = data->next) {
        const struct zl_json *addrs = zl_json_get(data, "brokerAddrs");
        n += addrs && addrs->kind == ZL_JSON_OBJECT ? addrs->n : 0;
    }
    return n;
}

static uint32_t fill_brokers(const struct zl_json *datas, struct zr_route_broker *to)
{
    uint32_t n = 0;
    for (const struct zl_json *data = datas ? datas->child : NULL; data; data = data->next) {
        const struct zl_json *addrs = zl_json_get(data, "brokerAddrs");
        for (const struct zl_json *addr = addrs && addrs->kind == ZL_JSON_OBJECT ? addrs->child : NULL; addr; addr = addr->next) {
            struct zr_route_broker b = { ZR_HDR(struct zr_route_broker, 0), zl_json_get_str(data, "cluster"), zl_json_get_str(data, "brokerName"),
                                         zl_json_str(addr), 0 };
            if (zl_parse_i64(addr->key, &b.id) == ZR_OK)
                to[n++] = b;
        }
    }
    return n;
}

static uint32_t fill_queues(const struct zl_json *datas, struct zr_route_queues *to)
{
    uint32_t n = 0;
    for (const struct zl_json *q = datas ? datas->child : NULL; q; q = q->next)
        to[n++] = (struct zr_route_queues){ ZR_HDR(struct zr_route_queues, 0), zl_json_get_str(q, "brokerName"), number(q, "readQueueNums"),
                                            number(q, "writeQueueNums"), number(q, "perm"), number(q, "topicSysFlag") };
    return n;
}

static void lookup_found(struct lookup *lookup, struct zr_span body)
{
    struct zr_route route = { .hdr = ZR_HDR(struct zr_route, 0) };
    struct zl_json_doc *doc;
    const struct zl_json *root, *brokers, *queues;
    uint64_t at;
    if (zl_json_parse((struct zr_str){ (const char *)body.ptr, body.len }, &doc, &root, &at) != ZR_OK) {
        lookup->worst = ZR_EINVAL;
        lookup_next(lookup);
        return;
    }
    brokers = zl_json_get(root, "brokerDatas");
    queues = zl_json_get(root, "queueDatas");
    brokers = brokers && brokers->kind == ZL_JSON_ARRAY ? brokers : NULL;
    queues = queues && queues->kind == ZL_JSON_ARRAY ? queues : NULL;
    struct zr_route_broker *b = calloc(count_addrs(brokers) + 1, sizeof *b);
    struct zr_route_queues *q = calloc((queues ? queues->n : 0) + 1, sizeof *q);
    if (b && q) {
        route.n_brokers = fill_brokers(brokers, b);
        route.n_queues = fill_queues(queues, q);
        route.brokers = b;
        route.queues = q;
        route.order_conf = zl_json_get_str(root, "orderTopicConf");
    }
    lookup_end(lookup, b && q ? ZR_OK : ZR_ENOMEM, b && q ? &route : NULL);
    free(b);
    free(q);
    zl_json_free(doc);
}

/* ---- asking ------------------------------------------------------------------------------------------------------------ */

static void on_answer(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text)
{
    struct lookup *lookup = ctx;
    (void)text;
    if (status == ZR_OK && response->code == 0) {
        lookup_found(lookup, response->body);
    } else if (status == ZR_OK && response->code == RM_CODE_NO_TOPIC) {
        lookup_end(lookup, ZR_ENOENT, NULL);
    } else {
        lookup->worst = status == ZR_OK ? ZR_EAGAIN : status;
        lookup_next(lookup);
    }
}

static void lookup_next(struct lookup *lookup)
{
    struct zl_fields fields = { 0 };
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = RM_CODE_ROUTE };
    if (lookup->at == lookup->n) {
        lookup_end(lookup, lookup->worst, NULL);
        return;
    }
    zl_fields_str(&fields, "topic", (struct zr_str){ lookup->topic, lookup->topic_len });
    zl_fields_bool(&fields, "acceptStandardJsonOnly", 1);
    command.fields = fields.f;
    command.n_fields = fields.n;
    lookup->inst->call->call(lookup->inst->host, zl_str(lookup->urls[lookup->at++]), &command, RM_QUERY_NS, on_answer, lookup);
}

void rm_lookup(struct zr_inst *inst, struct zr_str topic, void (*on_route)(void *ctx, zr_status status, const struct zr_route *route), void *ctx)
{
    struct lookup *lookup = topic.len <= ZL_RETRY_TOPIC_MAX ? calloc(1, sizeof *lookup + topic.len) : NULL;
    if (!lookup) {
        on_route(ctx, topic.len <= ZL_RETRY_TOPIC_MAX ? ZR_ENOMEM : ZR_ENOENT, NULL);
        return;
    }
    *lookup = (struct lookup){ .inst = inst, .on_route = on_route, .ctx = ctx, .worst = ZR_ECLOSED, .topic_len = topic.len };
    memcpy(lookup->topic, topic.ptr, topic.len);
    pthread_mutex_lock(&inst->mutex);
    for (uint32_t failing = 0; failing < 2; failing++)
        for (struct rm_peer *peer = inst->draining ? NULL : inst->peers; peer; peer = peer->next)
            if ((peer->failures > 0 || peer->silent) == failing)
                memcpy(lookup->urls[lookup->n++], peer->url, peer->url_len + 1);
    rm_enter_locked(inst);
    pthread_mutex_unlock(&inst->mutex);
    lookup_next(lookup);
}
