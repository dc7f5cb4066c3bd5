/* SPDX-License-Identifier: Apache-2.0 */
/* topics.c - topic list, create, update, delete, route, status. */
#include "ctl.h"
#include <string.h>

#define ORDER_NAMESPACE "ORDER_TOPIC_CONFIG"

static int by_text(const void *a, const void *b)
{
    return zl_compare(*(const struct zr_str *)a, *(const struct zr_str *)b);
}

/* A topic's rows: one for each group, or one without. As mqadmin does it, one broker is asked. */
static int group_rows(struct ctl *c, struct table *t, const char *topic)
{
    struct zc_route *route;
    struct zc_reply reply = { NULL, NULL, NULL };
    struct zc_err err;
    uint32_t n = 0, b = 0;
    int rc = zc_route_query(c->client, topic, &route, &err);
    if (rc) {
        cell_c(t, "");
        cell_c(t, topic);
        cell_c(t, "");
        return failed(topic, &err);
    }
    while (b < route->n_brokers && route->brokers[b].n_addrs == 0) b++;
    if (b < route->n_brokers && zc_admin_topic_groups(c->client, route->brokers[b].addrs[0].addr, topic, &reply, &err))
        rc = failed(topic, &err);
    const struct zl_json *list = rc ? NULL : zl_json_get(reply.root, "groupList"), *g = list ? list->child : NULL;
    do {
        cell_c(t, route->n_brokers ? route->brokers[0].cluster : "");
        cell_c(t, topic);
        cell(t, g ? zl_json_str(g) : (struct zr_str){ "", 0 });
        g = g ? g->next : NULL;
        n++;
    } while (g && n < 100000);
    zc_reply_free(&reply);
    zc_route_free(route);
    return rc;
}

static int topic_groups(struct ctl *c, const struct zr_str *names, uint32_t n)
{
    static const char *const COLUMNS[] = { "#Cluster Name:cluster", "#Topic:topic", "#Consumer Group:group" };
    struct table *t = table_new(COLUMNS, 3);
    int rc = 0;
    for (uint32_t i = 0; i < n; i++) {
        char *topic = zl_starts(names[i], "%RETRY%") || zl_starts(names[i], "%DLQ%") ? NULL : zl_dup(names[i]);
        if (topic && group_rows(c, t, topic)) rc = EXIT_FAILED;
        free(topic);
    }
    table_print(t, c->json);
    return rc;
}

int topic_list(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Topic:topic" };
    struct zc_reply reply;
    struct zc_err err;
    uint32_t n = 0;
    if (zc_admin_topic_list(c->client, opt(c, 'c'), &reply, &err)) return failed("topic list", &err);
    const struct zl_json *list = zl_json_get(reply.root, "topicList");
    struct zr_str *names = calloc((list ? list->n : 0) + 1, sizeof(*names));
    int rc = 0;
    for (const struct zl_json *i = list && names ? list->child : NULL; i; i = i->next) names[n++] = zl_json_str(i);
    if (names) qsort(names, n, sizeof(*names), by_text);
    if (opt(c, 'g')) {
        rc = topic_groups(c, names, n);
    } else {
        struct table *t = table_new(COLUMNS, 1);
        for (uint32_t i = 0; i < n; i++) cell(t, names[i]);
        table_print(t, c->json);
    }
    free(names);
    zc_reply_free(&reply);
    return rc;
}

struct update {
    struct zc_topic_config config;
    struct table *t;
    struct zl_buf order; /* "broker:queues;..." */
};

static int update_one(struct ctl *c, const struct broker *b, void *ctx)
{
    struct update *u = ctx;
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    if (zc_admin_update_topic(c->client, addr_text(b, addr), &u->config, &err)) return failed(addr, &err);
    cell_c(u->t, addr);
    cell_c(u->t, u->config.topic);
    cell_i(u->t, u->config.read);
    cell_i(u->t, u->config.write);
    cell_i(u->t, u->config.perm);
    if (b->name.len)
        zl_buf_fmt(&u->order, "%s%.*s:%d", u->order.len ? ";" : "", (int)b->name.len, b->name.ptr, u->config.write);
    return 0;
}

int topic_update(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Addr:address", "#Topic:topic", "#ReadQueues:#read_queues",
                                           "#WriteQueues:#write_queues", "#Perm:#perm" };
    struct update u = { .config = { .topic = opt(c, 't'),
                                    .read = (int32_t)opt_number(c, 'r', 8),
                                    .write = (int32_t)opt_number(c, 'w', 8),
                                    .perm = (int32_t)opt_number(c, 'p', 6),
                                    .order = opt_bool(c, 'o', 0),
                                    .attributes = opt(c, 'a'),
                                    .sys_flag = (opt_bool(c, 'u', 0) ? 1 : 0) | (opt_bool(c, 's', 0) ? 2 : 0) } };
    struct zc_err err;
    char why[256];
    if (zl_topic_check(zl_str(u.config.topic), why, sizeof(why)) != ZR_OK)
        return fprintf(stderr, "zaryactl: %s\n", why), EXIT_USAGE;
    if (u.config.read < 1 || u.config.write < 1 || u.config.perm < 0 || u.config.perm > 7)
        return fprintf(stderr, "zaryactl: -r and -w are 1 or more, -p is 0 to 7\n"), EXIT_USAGE;
    u.t = table_new(COLUMNS, 5);
    zl_buf_init(&u.order, 1u << 20);
    int rc = each_broker(c, 1, update_one, &u);
    if (rc == 0 && u.config.order && u.order.len) {
        zl_buf_u8(&u.order, 0);
        if (zc_admin_kv_put(c->client, ORDER_NAMESPACE, u.config.topic, (const char *)u.order.ptr, &err))
            rc = failed("order configuration", &err);
    }
    zl_buf_free(&u.order);
    table_print(u.t, c->json);
    return rc;
}

int topic_create(struct ctl *c)
{
    struct zc_route *route;
    struct zc_err err;
    int rc = zc_route_query(c->client, opt(c, 't'), &route, &err);
    if (rc == 0) {
        zc_route_free(route);
        fprintf(stderr, "zaryactl: topic %s exists already (topic update changes it)\n", opt(c, 't'));
        return EXIT_FAILED;
    }
    if (rc != 17 && !opt(c, 'b')) return failed("topic create", &err);
    return topic_update(c);
}

static int delete_one(struct ctl *c, const struct broker *b, void *ctx)
{
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    (void)ctx;
    if (zc_admin_delete_topic_in_broker(c->client, addr_text(b, addr), opt(c, 't'), &err)) return failed(addr, &err);
    if (!c->json) printf("deleted topic %s from broker %s\n", opt(c, 't'), addr);
    return 0;
}

int topic_delete(struct ctl *c)
{
    struct zc_err err;
    int rc = each_broker(c, 0, delete_one, NULL);
    if (opt(c, 'b')) return rc;
    if (rc == 0 && zc_admin_delete_topic_in_namesrv(c->client, opt(c, 't'), opt(c, 'c'), &err))
        return failed("name server", &err);
    if (rc == 0 && !c->json) printf("deleted topic %s from the name servers\n", opt(c, 't'));
    if (rc == 0 && c->json) puts("{\"deleted\":true}");
    return rc;
}

int topic_route(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Broker Name:broker",
                                           "#Cluster:cluster",
                                           "#ReadQueues:#read_queues",
                                           "#WriteQueues:#write_queues",
                                           "#Perm:#perm",
                                           "#BID:#id",
                                           "#Addr:address" };
    struct zc_route *route;
    struct zc_err err;
    if (zc_route_query(c->client, opt(c, 't'), &route, &err)) return failed(opt(c, 't'), &err);
    struct table *t = table_new(COLUMNS, 7);
    for (uint32_t q = 0; q < route->n_queues; q++)
        for (uint32_t b = 0; b < route->n_brokers; b++) {
            if (strcmp(route->queues[q].broker, route->brokers[b].name) != 0) continue;
            for (uint32_t a = 0; a < route->brokers[b].n_addrs; a++) {
                cell_c(t, route->brokers[b].name);
                cell_c(t, route->brokers[b].cluster);
                cell_i(t, route->queues[q].read);
                cell_i(t, route->queues[q].write);
                cell_i(t, route->queues[q].perm);
                cell_i(t, route->brokers[b].addrs[a].id);
                cell_c(t, route->brokers[b].addrs[a].addr);
            }
        }
    table_print(t, c->json);
    zc_route_free(route);
    return 0;
}

/* ---- topic status ---- */

static int by_queue(const void *a, const void *b)
{
    const struct zl_json *x = (*(const struct zl_json *const *)a)->key_obj,
                         *y = (*(const struct zl_json *const *)b)->key_obj;
    int64_t i = zl_json_get_i64(x, "queueId", 0), k = zl_json_get_i64(y, "queueId", 0);
    return i < k ? -1 : i > k;
}

static void status_rows(struct table *t, const struct zl_json *offsets)
{
    uint32_t n = 0;
    const struct zl_json **rows = calloc((offsets ? offsets->n : 0) + 1, sizeof(void *));
    for (const struct zl_json *o = offsets && rows ? offsets->child : NULL; o; o = o->next)
        if (o->key_obj) rows[n++] = o;
    if (rows) qsort(rows, n, sizeof(*rows), by_queue);
    for (uint32_t i = 0; i < n; i++) {
        char when[32];
        time_text(zl_json_get_i64(rows[i], "lastUpdateTimestamp", 0), when);
        cell(t, zl_json_get_str(rows[i]->key_obj, "brokerName"));
        cell_i(t, zl_json_get_i64(rows[i]->key_obj, "queueId", 0));
        cell_i(t, zl_json_get_i64(rows[i], "minOffset", 0));
        cell_i(t, zl_json_get_i64(rows[i], "maxOffset", 0));
        cell_c(t, when);
    }
    free(rows);
}

int topic_status(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Broker Name:broker", "#QID:#queue", "#Min Offset:#min_offset",
                                           "#Max Offset:#max_offset", "#Last Updated:last_updated" };
    struct zc_route *route;
    struct zc_err err;
    int rc = 0;
    if (zc_route_query(c->client, opt(c, 't'), &route, &err)) return failed(opt(c, 't'), &err);
    struct table *t = table_new(COLUMNS, 5);
    for (uint32_t b = 0; b < route->n_brokers; b++) {
        struct zc_reply reply;
        if (route->brokers[b].n_addrs == 0) continue;
        if (zc_admin_topic_stats(c->client, route->brokers[b].addrs[0].addr, opt(c, 't'), &reply, &err)) {
            rc = failed(route->brokers[b].addrs[0].addr, &err);
            continue;
        }
        status_rows(t, zl_json_get(reply.root, "offsetTable"));
        zc_reply_free(&reply);
    }
    table_print(t, c->json);
    zc_route_free(route);
    return rc;
}
