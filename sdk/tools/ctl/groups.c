/* SPDX-License-Identifier: Apache-2.0 */
/* groups.c - group list, create, update, delete, progress. */
#include "ctl.h"
#include <string.h>

#define RETRY_PREFIX "%RETRY%"

static int list_rows(struct ctl *c, const struct broker *b, void *ctx)
{
    struct table *t = ctx;
    struct zc_reply reply;
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    if (zc_admin_groups(c->client, addr_text(b, addr), &reply, &err)) return failed(addr, &err);
    const struct zl_json *table = zl_json_get(reply.root, "subscriptionGroupTable");
    for (const struct zl_json *g = table ? table->child : NULL; g; g = g->next) {
        cell_c(t, addr);
        cell(t, zl_json_get_str(g, "groupName").len ? zl_json_get_str(g, "groupName") : g->key);
        cell_c(t, zl_json_get_bool(g, "consumeEnable", 1) ? "yes" : "no");
        cell_c(t, zl_json_get_bool(g, "consumeBroadcastEnable", 1) ? "yes" : "no");
        cell_c(t, zl_json_get_bool(g, "consumeMessageOrderly", 0) ? "yes" : "no");
        cell_i(t, zl_json_get_i64(g, "retryQueueNums", 1));
        cell_i(t, zl_json_get_i64(g, "retryMaxTimes", 16));
    }
    zc_reply_free(&reply);
    return 0;
}

int group_list(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Addr:address",        "#Group:group",     "#Consume:consume",
                                           "#Broadcast:broadcast", "#Orderly:orderly", "#RetryQueues:#retry_queues",
                                           "#MaxRetry:#max_retry" };
    struct table *t = table_new(COLUMNS, 7);
    int rc = each_broker(c, 1, list_rows, t);
    table_print(t, c->json);
    return rc;
}

static void group_json(struct ctl *c, struct zl_buf *out)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "groupName", zl_str(opt(c, 'g')));
    zl_jw_kbool(&w, "consumeEnable", opt_bool(c, 's', 1));
    zl_jw_kbool(&w, "consumeFromMinEnable", opt_bool(c, 'm', 1));
    zl_jw_kbool(&w, "consumeBroadcastEnable", opt_bool(c, 'd', 1));
    zl_jw_kbool(&w, "consumeMessageOrderly", opt_bool(c, 'o', 0));
    zl_jw_ki64(&w, "retryQueueNums", opt_number(c, 'q', 1));
    zl_jw_ki64(&w, "retryMaxTimes", opt_number(c, 'r', 16));
    zl_jw_ki64(&w, "brokerId", opt_number(c, 'i', 0));
    zl_jw_ki64(&w, "whichBrokerWhenConsumeSlowly", opt_number(c, 'w', 1));
    zl_jw_kbool(&w, "notifyConsumerIdsChangedEnable", opt_bool(c, 'a', 1));
    zl_jw_end(&w, '}');
}

static int update_one(struct ctl *c, const struct broker *b, void *ctx)
{
    const struct zl_buf *json = ctx;
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    if (zc_admin_update_group(c->client, addr_text(b, addr), zl_buf_as_str(json), &err)) return failed(addr, &err);
    if (!c->json)
        printf("group %s is set at %s\n", opt(c, 'g'), addr);
    else
        printf("{\"group\":\"%s\",\"address\":\"%s\"}\n", opt(c, 'g'), addr);
    return 0;
}

int group_update(struct ctl *c)
{
    struct zl_buf json;
    char why[256];
    if (zl_group_check(zl_str(opt(c, 'g')), why, sizeof(why)) != ZR_OK)
        return fprintf(stderr, "zaryactl: %s\n", why), EXIT_USAGE;
    zl_buf_init(&json, 65536);
    group_json(c, &json);
    int rc = each_broker(c, 1, update_one, &json);
    zl_buf_free(&json);
    return rc;
}

static int delete_one(struct ctl *c, const struct broker *b, void *ctx)
{
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    (void)ctx;
    if (zc_admin_delete_group(c->client, addr_text(b, addr), opt(c, 'g'), opt_bool(c, 'r', 0), &err))
        return failed(addr, &err);
    if (!c->json) printf("group %s is deleted at %s\n", opt(c, 'g'), addr);
    return 0;
}

int group_delete(struct ctl *c) { return each_broker(c, 1, delete_one, NULL); }

/* ---- progress ---- */

struct totals {
    int64_t diff;
    uint32_t rows;
    double tps;
};

/* By topic, broker, queue. */
static int by_queue(const void *a, const void *b)
{
    const struct zl_json *x = (*(const struct zl_json *const *)a)->key_obj,
                         *y = (*(const struct zl_json *const *)b)->key_obj;
    int topic = zl_compare(zl_json_get_str(x, "topic"), zl_json_get_str(y, "topic")),
        broker = zl_compare(zl_json_get_str(x, "brokerName"), zl_json_get_str(y, "brokerName"));
    int64_t i = zl_json_get_i64(x, "queueId", 0), k = zl_json_get_i64(y, "queueId", 0);
    return topic ? topic : broker ? broker : i < k ? -1 : i > k;
}

static void progress_rows(struct table *t, const struct zl_json *offsets, struct totals *sum)
{
    uint32_t n = 0;
    const struct zl_json **rows = calloc((offsets ? offsets->n : 0) + 1, sizeof(void *));
    for (const struct zl_json *o = offsets && rows ? offsets->child : NULL; o; o = o->next)
        if (o->key_obj) rows[n++] = o;
    if (rows) qsort(rows, n, sizeof(*rows), by_queue);
    for (uint32_t i = 0; i < n; i++) {
        const struct zl_json *o = rows[i];
        char when[32];
        int64_t broker = zl_json_get_i64(o, "brokerOffset", 0), consumer = zl_json_get_i64(o, "consumerOffset", 0);
        sum->diff += broker - consumer;
        sum->rows++;
        if (!t) continue;
        time_text(zl_json_get_i64(o, "lastTimestamp", 0), when);
        cell(t, zl_json_get_str(o->key_obj, "topic"));
        cell(t, zl_json_get_str(o->key_obj, "brokerName"));
        cell_i(t, zl_json_get_i64(o->key_obj, "queueId", 0));
        cell_i(t, broker);
        cell_i(t, consumer);
        cell_i(t, broker - consumer);
        cell_c(t, when);
    }
    free(rows);
}

/* Adds up what the brokers of a group's retry topic (or of -t's topic) say. */
static int group_stats(struct ctl *c, const char *group, struct table *t, struct totals *sum)
{
    char retry[ZC_NAME_MAX];
    struct zc_route *route;
    struct zc_err err;
    snprintf(retry, sizeof(retry), "%s%s", RETRY_PREFIX, group);
    int rc = zc_route_query(c->client, retry, &route, &err);
    if (rc == 17 && opt(c, 't')) rc = zc_route_query(c->client, opt(c, 't'), &route, &err);
    if (rc == 17)
        return fprintf(stderr, "zaryactl: group %s is not known: it has no retry topic in the name server\n", group),
               EXIT_FAILED;
    if (rc) return failed(group, &err);
    for (uint32_t b = 0; b < route->n_brokers; b++) {
        struct zc_reply reply;
        if (route->brokers[b].n_addrs == 0) continue;
        rc = zc_admin_consume_stats(c->client, route->brokers[b].addrs[0].addr, group, opt(c, 't'), &reply, &err);
        if (rc) {
            rc = failed(route->brokers[b].addrs[0].addr, &err);
            break;
        }
        sum->tps += zl_json_f64(zl_json_get(reply.root, "consumeTps"), 0);
        progress_rows(t, zl_json_get(reply.root, "offsetTable"), sum);
        zc_reply_free(&reply);
    }
    zc_route_free(route);
    return rc;
}

static int progress_one(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Topic:topic",
                                           "#Broker Name:broker",
                                           "#QID:#queue",
                                           "#Broker Offset:#broker_offset",
                                           "#Consumer Offset:#consumer_offset",
                                           "#Diff:#diff",
                                           "#LastTime:last_time" };
    struct table *t = table_new(COLUMNS, 7);
    struct totals sum = { 0 };
    int rc = group_stats(c, opt(c, 'g'), t, &sum);
    if (rc == 0 || table_rows(t))
        table_print(t, c->json);
    else
        table_drop(t);
    if (rc == 0 && !c->json) printf("\nConsume TPS: %.2f\nConsume Diff Total: %lld\n", sum.tps, (long long)sum.diff);
    return rc;
}

static int64_t members(struct ctl *c, const char *group)
{
    char retry[ZC_NAME_MAX];
    struct zc_route *route;
    struct zc_reply reply;
    int64_t n = 0;
    snprintf(retry, sizeof(retry), "%s%s", RETRY_PREFIX, group);
    if (zc_route_query(c->client, retry, &route, NULL)) return 0;
    if (route->n_brokers && route->brokers[0].n_addrs &&
        zc_admin_consumer_connections(c->client, route->brokers[0].addrs[0].addr, group, &reply, NULL) == 0) {
        const struct zl_json *set = zl_json_get(reply.root, "connectionSet");
        n = set ? set->n : 0;
        zc_reply_free(&reply);
    }
    zc_route_free(route);
    return n;
}

static int progress_all(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Group:group", "#Count:#clients", "#TPS:#tps", "#Diff Total:#diff" };
    struct zc_reply reply;
    struct zc_err err;
    int rc = 0;
    if (zc_admin_topic_list(c->client, NULL, &reply, &err)) return failed("topic list", &err);
    struct table *t = table_new(COLUMNS, 4);
    const struct zl_json *list = zl_json_get(reply.root, "topicList");
    for (const struct zl_json *i = list ? list->child : NULL; i; i = i->next) {
        struct zr_str topic = zl_json_str(i);
        char group[ZC_NAME_MAX];
        struct totals sum = { 0 };
        if (!zl_starts(topic, RETRY_PREFIX) || topic.len - 7 >= sizeof(group)) continue;
        memcpy(group, topic.ptr + 7, topic.len - 7);
        group[topic.len - 7] = 0;
        int rc2 = group_stats(c, group, NULL, &sum);
        if (rc2) {
            rc = rc2;
            continue;
        }
        cell_c(t, group);
        cell_i(t, members(c, group));
        cell_f(t, "%.2f", sum.tps);
        cell_i(t, sum.diff);
    }
    table_print(t, c->json);
    zc_reply_free(&reply);
    return rc;
}

int group_progress(struct ctl *c) { return opt(c, 'g') ? progress_one(c) : progress_all(c); }
