/* SPDX-License-Identifier: Apache-2.0 */
/* route.c - route answers, and the cache of the routes in use.
 *
 * A cached route is an immutable, counted view; a refresh publishes a new one. A producer's unknown topic is covered by
 * TBW102's route (fallback) until the name server knows the topic; consumers never see that. What stays true: a view's
 * queue lists are sorted by broker name and queue id; every writable queue's broker has a master with an address.
 *
 * LOCKING: routes->lock guards the table; it is held over no call. */
#include "internal.h"
#include <stdio.h>

#define TEMPLATE_TOPIC "TBW102"
#define CODE_ROUTE 105
#define MAX_QUEUES_PER_BROKER 65536

struct zc_entry {
    uint64_t hash;
    struct zc_view *view;
    uint32_t topic_queues; /* > 0: a producer uses it */
    char topic[];
};

/* ---- reading an answer ---- */

static int by_broker_name(const void *a, const void *b)
{
    return strcmp(((const struct zc_route_broker *)a)->name, ((const struct zc_route_broker *)b)->name);
}
static int by_queues_broker(const void *a, const void *b)
{
    return strcmp(((const struct zc_route_queues *)a)->broker, ((const struct zc_route_queues *)b)->broker);
}
static int by_id(const void *a, const void *b)
{
    int64_t x = ((const struct zc_route_addr *)a)->id, y = ((const struct zc_route_addr *)b)->id;
    return x < y ? -1 : x > y;
}

static int broker_parse(const struct zl_json *json, struct zc_route_broker *ret)
{
    const struct zl_json *addrs = zl_json_get(json, "brokerAddrs");
    if (zc_copy_name(ret->name, zl_json_get_str(json, "brokerName")) ||
        zc_copy_name(ret->cluster, zl_json_get_str(json, "cluster")))
        return ZC_EPROTO;
    uint32_t n = addrs && addrs->kind == ZL_JSON_OBJECT ? addrs->n : 0;
    ret->addrs = calloc(n + 1, sizeof(*ret->addrs));
    if (!ret->addrs) return ZC_ENOMEM;
    for (const struct zl_json *a = n ? addrs->child : NULL; a; a = a->next) {
        struct zc_route_addr *to = &ret->addrs[ret->n_addrs];
        if (zl_parse_i64(a->key, &to->id) != ZR_OK || zc_copy_name(to->addr, zl_json_str(a)) || !to->addr[0])
            return ZC_EPROTO;
        ret->n_addrs++;
    }
    qsort(ret->addrs, ret->n_addrs, sizeof(*ret->addrs), by_id);
    return ZC_OK;
}

static int route_fill(struct zc_route *route, const struct zl_json *root)
{
    const struct zl_json *brokers = zl_json_get(root, "brokerDatas"), *queues = zl_json_get(root, "queueDatas");
    uint32_t nb = brokers && brokers->kind == ZL_JSON_ARRAY ? brokers->n : 0,
             nq = queues && queues->kind == ZL_JSON_ARRAY ? queues->n : 0;
    route->brokers = calloc(nb + 1, sizeof(*route->brokers));
    route->queues = calloc(nq + 1, sizeof(*route->queues));
    if (!route->brokers || !route->queues) return ZC_ENOMEM;
    for (const struct zl_json *b = nb ? brokers->child : NULL; b; b = b->next) {
        int rc =
            broker_parse(b, &route->brokers[route->n_brokers++]); /* counted first: its memory is freed either way */
        if (rc) return rc;
    }
    for (const struct zl_json *q = nq ? queues->child : NULL; q; q = q->next) {
        struct zc_route_queues *to = &route->queues[route->n_queues++];
        if (zc_copy_name(to->broker, zl_json_get_str(q, "brokerName"))) return ZC_EPROTO;
        int64_t read = zl_json_get_i64(q, "readQueueNums", 0), write = zl_json_get_i64(q, "writeQueueNums", 0);
        if (read < 0 || read > MAX_QUEUES_PER_BROKER || write < 0 || write > MAX_QUEUES_PER_BROKER) return ZC_EPROTO;
        to->read = (int32_t)read;
        to->write = (int32_t)write;
        to->perm = (int32_t)zl_json_get_i64(q, "perm", 0);
        to->sys_flag = (int32_t)zl_json_get_i64(q, "topicSysFlag", 0);
    }
    struct zr_str order = zl_json_get_str(root, "orderTopicConf");
    if (order.len && !(route->order_conf = zl_dup(order))) return ZC_ENOMEM;
    qsort(route->brokers, route->n_brokers, sizeof(*route->brokers), by_broker_name);
    qsort(route->queues, route->n_queues, sizeof(*route->queues), by_queues_broker);
    return ZC_OK;
}

int zc_route_parse(struct zr_str json, struct zc_route **ret, struct zc_err *err)
{
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at = 0;
    *ret = NULL;
    if (zl_json_parse(json, &doc, &root, &at) != ZR_OK)
        return zc_fail(err, ZC_EPROTO, "the route is no JSON (at byte %llu)", (unsigned long long)at);
    struct zc_route *route = calloc(1, sizeof(*route));
    int rc = route ? ZC_OK : ZC_ENOMEM;
    if (rc == 0 && root->kind != ZL_JSON_OBJECT) rc = ZC_EPROTO;
    if (rc == 0) rc = route_fill(route, root);
    zl_json_free(doc);
    if (rc == 0)
        *ret = route;
    else
        zc_route_free(route);
    return rc ? zc_fail(err, rc, rc == ZC_ENOMEM ? "memory ran out" : "the route has a value out of its range") : ZC_OK;
}

void zc_route_free(struct zc_route *route)
{
    if (!route) return;
    for (uint32_t i = 0; i < route->n_brokers; i++) free(route->brokers[i].addrs);
    free(route->brokers);
    free(route->queues);
    free(route->order_conf);
    free(route);
}

int zc_route_query(struct zc_client *client, const char *topic, struct zc_route **ret, struct zc_err *err)
{
    struct zr_field field = { ZR_STR("topic"), zl_str(topic) };
    struct zc_request request = { .code = CODE_ROUTE, .fields = &field, .n_fields = 1 };
    struct zc_response *response;
    *ret = NULL;
    int rc = zc_names_call(client, &request, &response, err);
    if (rc) return rc;
    if (response->code)
        rc = zc_fail_response(err, response);
    else
        rc = zc_route_parse((struct zr_str){ (const char *)response->body.ptr, response->body.len }, ret, err);
    zc_response_free(response);
    return rc;
}

/* ---- views ---- */

static const struct zc_route_broker *route_broker(const struct zc_route *route, const char *name)
{
    for (uint32_t i = 0; i < route->n_brokers; i++)
        if (strcmp(route->brokers[i].name, name) == 0) return &route->brokers[i];
    return NULL;
}

static const char *broker_master(const struct zc_route_broker *broker)
{
    return broker && broker->n_addrs && broker->addrs[0].id == 0 ? broker->addrs[0].addr : NULL;
}

void zc_view_release(struct zc_view *view)
{
    if (!view || atomic_fetch_sub(&view->refs, 1) != 1) return;
    zc_route_free(view->route);
    free(view->write);
    free(view->write_addr);
    free(view->read);
    free(view);
}

static void queue_name(struct zc_queue *to, const char *topic, const char *broker, int32_t id)
{
    snprintf(to->topic, sizeof(to->topic), "%s", topic);
    memcpy(to->broker, broker, strlen(broker) + 1);
    to->queue_id = id;
}

/* With cap > 0 (TBW102's route) a topic will have at most so many queues. */
static int32_t capped(int32_t n, uint32_t cap) { return cap && n > (int32_t)cap ? (int32_t)cap : n; }

static struct zc_view *view_make(struct zc_route *route, const char *topic, uint32_t cap)
{
    struct zc_view *view = calloc(1, sizeof(*view));
    uint64_t writes = 0, reads = 0;
    for (uint32_t i = 0; i < route->n_queues; i++)
        writes += (uint64_t)route->queues[i].write, reads += (uint64_t)route->queues[i].read;
    if (writes > 1u << 20 || reads > 1u << 20) view = (free(view), NULL);
    if (!view) return zc_route_free(route), NULL;
    atomic_init(&view->refs, 1);
    view->route = route;
    view->fallback = cap > 0;
    view->write = malloc((writes + 1) * sizeof(*view->write));
    view->write_addr = malloc((writes + 1) * sizeof(*view->write_addr));
    view->read = malloc((reads + 1) * sizeof(*view->read));
    if (!view->write || !view->write_addr || !view->read) return zc_view_release(view), NULL;
    for (uint32_t i = 0; i < route->n_queues; i++) {
        const struct zc_route_queues *q = &route->queues[i];
        const struct zc_route_broker *broker = route_broker(route, q->broker);
        const char *master = broker_master(broker);
        for (int32_t id = 0; master && (q->perm & 2) && id < capped(q->write, cap); id++) {
            memcpy(view->write_addr[view->n_write], master, strlen(master) + 1);
            queue_name(&view->write[view->n_write++], topic, q->broker, id);
        }
        for (int32_t id = 0; broker && (q->perm & 4) && id < capped(q->read, cap); id++)
            queue_name(&view->read[view->n_read++], topic, q->broker, id);
    }
    return view;
}

/* ---- the table ---- */

int zc_routes_init(struct zc_routes *routes)
{
    pthread_mutex_init(&routes->lock, NULL);
    routes->n_slots = 64;
    routes->slots = calloc(routes->n_slots, sizeof(*routes->slots));
    return routes->slots ? ZC_OK : ZC_ENOMEM;
}

void zc_routes_fini(struct zc_routes *routes)
{
    for (uint32_t i = 0; routes->slots && i < routes->n_slots; i++) {
        if (!routes->slots[i]) continue;
        zc_view_release(routes->slots[i]->view);
        free(routes->slots[i]);
    }
    free(routes->slots);
    pthread_mutex_destroy(&routes->lock);
}

static struct zc_entry **slot_of(struct zc_entry **slots, uint32_t n_slots, const char *topic, uint64_t hash)
{
    uint32_t at = (uint32_t)hash & (n_slots - 1);
    while (slots[at] && (slots[at]->hash != hash || strcmp(slots[at]->topic, topic) != 0))
        at = (at + 1) & (n_slots - 1);
    return &slots[at];
}

static int table_grow(struct zc_routes *routes)
{
    uint32_t n = routes->n_slots * 2;
    struct zc_entry **slots = calloc(n, sizeof(*slots));
    if (!slots) return -1;
    for (uint32_t i = 0; i < routes->n_slots; i++)
        if (routes->slots[i]) *slot_of(slots, n, routes->slots[i]->topic, routes->slots[i]->hash) = routes->slots[i];
    free(routes->slots);
    routes->slots = slots;
    routes->n_slots = n;
    return 0;
}

/* Puts view (given) in; returns it held once more for the caller. Beyond the table's limit it is just not cached. */
static struct zc_view *table_put(struct zc_routes *routes, const char *topic, struct zc_view *view,
                                 uint32_t topic_queues)
{
    uint64_t len = strlen(topic), hash = zl_hash(topic, len);
    struct zc_view *old = NULL;
    pthread_mutex_lock(&routes->lock);
    if (routes->n * 2 >= routes->n_slots && routes->n < ZC_MAX_ROUTES) table_grow(routes);
    struct zc_entry **slot = slot_of(routes->slots, routes->n_slots, topic, hash);
    if (!*slot && routes->n * 2 < routes->n_slots && routes->n < ZC_MAX_ROUTES &&
        (*slot = calloc(1, sizeof(**slot) + len + 1))) {
        memcpy((*slot)->topic, topic, len + 1);
        (*slot)->hash = hash;
        routes->n++;
    }
    if (*slot) {
        old = (*slot)->view;
        (*slot)->view = view;
        if (topic_queues) (*slot)->topic_queues = topic_queues;
        atomic_fetch_add(&view->refs, 1);
    }
    pthread_mutex_unlock(&routes->lock);
    zc_view_release(old);
    return view;
}

struct zc_view *zc_routes_cached(struct zc_client *client, const char *topic, uint32_t topic_queues)
{
    struct zc_routes *routes = &client->routes;
    struct zc_view *view = NULL;
    uint64_t hash = zl_hash(topic, strlen(topic));
    pthread_mutex_lock(&routes->lock);
    struct zc_entry *entry = *slot_of(routes->slots, routes->n_slots, topic, hash);
    if (entry && entry->view && (topic_queues || !entry->view->fallback)) {
        view = entry->view;
        if (topic_queues) entry->topic_queues = topic_queues;
        atomic_fetch_add(&view->refs, 1);
    }
    pthread_mutex_unlock(&routes->lock);
    return view;
}

int zc_routes_get(struct zc_client *client, const char *topic, uint32_t topic_queues, uint32_t fresh,
                  struct zc_view **ret, struct zc_err *err)
{
    struct zc_route *route = NULL;
    uint32_t cap = 0;
    *ret = fresh ? NULL : zc_routes_cached(client, topic, topic_queues);
    if (*ret) return ZC_OK;
    int rc = zc_route_query(client, topic, &route, err);
    if (rc == 17 && topic_queues) {
        struct zc_err second;
        int rc2 = zc_route_query(client, TEMPLATE_TOPIC, &route, &second);
        if (rc2 == 0)
            rc = 0, cap = topic_queues;
        else if (rc2 != 17)
            rc = zc_fail(err, rc2, "%s", second.text);
    }
    if (rc == 17) return zc_fail(err, ZC_ENOROUTE, "No route info of this topic: %s", topic);
    if (rc) return rc;
    struct zc_view *view = view_make(route, topic, cap);
    if (!view) return zc_fail(err, ZC_ENOMEM, "memory ran out");
    *ret = table_put(&client->routes, topic, view, topic_queues);
    return ZC_OK;
}

static uint32_t views_differ(const struct zc_view *a, const struct zc_view *b)
{
    if (a->n_read != b->n_read || a->n_write != b->n_write || a->route->n_brokers != b->route->n_brokers) return 1;
    for (uint32_t i = 0; i < a->n_write; i++)
        if (a->write[i].queue_id != b->write[i].queue_id || strcmp(a->write[i].broker, b->write[i].broker) ||
            strcmp(a->write_addr[i], b->write_addr[i]))
            return 1;
    for (uint32_t i = 0; i < a->n_read; i++)
        if (a->read[i].queue_id != b->read[i].queue_id || strcmp(a->read[i].broker, b->read[i].broker)) return 1;
    return 0;
}

/* A copy of the topics in use. */
static char (*table_topics(struct zc_routes *routes, uint32_t *ret_n, uint32_t **ret_queues))[ZC_NAME_MAX]
{
    pthread_mutex_lock(&routes->lock);
    char(*topics)[ZC_NAME_MAX] = malloc((routes->n + 1) * sizeof(*topics));
    *ret_queues = malloc((routes->n + 1) * sizeof(**ret_queues));
    *ret_n = 0;
    for (uint32_t i = 0; topics && *ret_queues && i < routes->n_slots; i++) {
        if (!routes->slots[i]) continue;
        (*ret_queues)[*ret_n] = routes->slots[i]->topic_queues;
        snprintf(topics[(*ret_n)++], ZC_NAME_MAX, "%s", routes->slots[i]->topic);
    }
    pthread_mutex_unlock(&routes->lock);
    return topics;
}

uint32_t zc_routes_refresh(struct zc_client *client)
{
    uint32_t n = 0, *queues = NULL, changed = 0;
    char(*topics)[ZC_NAME_MAX] = table_topics(&client->routes, &n, &queues);
    for (uint32_t i = 0; i < n; i++) {
        struct zc_err err;
        struct zc_view *before = zc_routes_cached(client, topics[i], 1), *after = NULL;
        int rc = zc_routes_get(client, topics[i], queues[i], 1, &after, &err);
        if (rc == 0 && (!before || views_differ(before, after))) changed++;
        zc_view_release(before);
        zc_view_release(after);
        if (rc == ZC_ECLOSING || rc == ZC_ENONS) break;
    }
    free(topics);
    free(queues);
    return changed;
}

/* ---- brokers ---- */

static int broker_find(struct zc_routes *routes, const char *name, uint32_t any, char to[ZC_NAME_MAX])
{
    int found = 0;
    pthread_mutex_lock(&routes->lock);
    for (uint32_t i = 0; i < routes->n_slots && !found; i++) {
        const struct zc_view *view = routes->slots[i] ? routes->slots[i]->view : NULL;
        const struct zc_route_broker *broker = view ? route_broker(view->route, name) : NULL;
        const char *addr = broker_master(broker);
        if (!addr && any && broker && broker->n_addrs) addr = broker->addrs[0].addr;
        if (addr) memcpy(to, addr, strlen(addr) + 1), found = 1;
    }
    pthread_mutex_unlock(&routes->lock);
    return found;
}

int zc_broker_addr(struct zc_client *client, const char *broker, uint32_t any, char to[ZC_NAME_MAX], struct zc_err *err)
{
    if (broker_find(&client->routes, broker, any, to)) return ZC_OK;
    return zc_fail(err, ZC_ENOROUTE, "no address of broker %s is known", broker);
}

struct seen {
    char (*addrs)[ZC_NAME_MAX];
    char (*names)[ZC_NAME_MAX];
    uint32_t n, cap;
};

static void seen_add(struct seen *seen, const char *name, const char *addr)
{
    for (uint32_t i = 0; i < seen->n; i++)
        if (strcmp(seen->addrs[i], addr) == 0) return;
    if (seen->n == seen->cap) {
        uint32_t cap = seen->cap ? seen->cap * 2 : 16;
        void *addrs = realloc(seen->addrs, cap * sizeof(*seen->addrs));
        if (addrs) seen->addrs = addrs;
        void *names = realloc(seen->names, cap * sizeof(*seen->names));
        if (names) seen->names = names;
        if (!addrs || !names) return;
        seen->cap = cap;
    }
    snprintf(seen->addrs[seen->n], ZC_NAME_MAX, "%s", addr);
    snprintf(seen->names[seen->n++], ZC_NAME_MAX, "%s", name);
}

int zc_routes_each_broker(struct zc_client *client, uint32_t all,
                          int (*fn)(void *ctx, const char *name, const char *addr), void *ctx)
{
    struct zc_routes *routes = &client->routes;
    struct seen seen = { 0 };
    pthread_mutex_lock(&routes->lock);
    for (uint32_t i = 0; i < routes->n_slots; i++) {
        const struct zc_view *view = routes->slots[i] ? routes->slots[i]->view : NULL;
        for (uint32_t b = 0; view && b < view->route->n_brokers; b++) {
            const struct zc_route_broker *broker = &view->route->brokers[b];
            for (uint32_t a = 0; a < broker->n_addrs; a++)
                if (all || broker->addrs[a].id == 0) seen_add(&seen, broker->name, broker->addrs[a].addr);
        }
    }
    pthread_mutex_unlock(&routes->lock);
    int rc = 0;
    for (uint32_t i = 0; i < seen.n && rc == 0; i++) rc = fn(ctx, seen.names[i], seen.addrs[i]);
    free(seen.addrs);
    free(seen.names);
    return rc;
}

int zc_queues(struct zc_client *client, const char *topic, uint32_t write, struct zc_queue **ret, uint32_t *ret_n,
              struct zc_err *err)
{
    struct zc_view *view;
    *ret = NULL;
    *ret_n = 0;
    int rc = zc_routes_get(client, topic, 0, 0, &view, err);
    if (rc) return rc;
    uint32_t n = write ? view->n_write : view->n_read;
    *ret = malloc((n + 1) * sizeof(**ret));
    if (*ret) memcpy(*ret, write ? view->write : view->read, n * sizeof(**ret)), *ret_n = n;
    zc_view_release(view);
    return *ret ? ZC_OK : zc_fail(err, ZC_ENOMEM, "memory ran out");
}
