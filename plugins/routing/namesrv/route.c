/* SPDX-License-Identifier: Apache-2.0 */
/* route.c - answers built from the tables: routes, cluster info, member groups, topic lists.
 *
 * Clients ask for the same routes over and over (each topic, each client, every 30 s), so the bodies of route answers are kept, for
 * each topic and form, until they are no longer true:
 *   1. A change of the topic's entries drops its bodies (ns_cache_drop, under the write lock).
 *   2. A change that concerns many topics moves inst->gen; a body of another gen is never given out.
 *   3. Topics with bodies stand in the ring of their stripe. When a stripe holds more than its share of route_cache, its hand
 *      goes round and drops bodies that were not asked for since it came by last.
 *   4. A body is immutable and counted, so an answer can be sent after all locks are free.
 *
 * The legacy form is fastjson's with bare integer keys; the standard form quotes them. Both print UTF-8 as it is. */
#include <stdlib.h>
#include "namesrv.h"

/* ---- printing --------------------------------------------------------------------------------------------------------- */

struct ns_printer {
    struct zr_inst *inst;
    struct zl_jw w;
    uint32_t form;
};

static void print_int_key(struct ns_printer *p, int64_t key)
{
    char text[24];
    if (p->form == NS_FORM_LEGACY)
        zl_jw_key_int(&p->w, key);
    else
        zl_jw_key(&p->w, (struct zr_str){ text, zl_print_i64(text, key) });
}

/* Addresses by id; acting: the least id shows as the master. */
static void print_addrs(struct ns_printer *p, const struct ns_broker *broker, uint32_t acting)
{
    zl_jw_key(&p->w, (struct zr_str)ZR_STR("brokerAddrs"));
    zl_jw_begin(&p->w, '{');
    for (uint32_t i = 0; i < broker->n_addrs; i++) {
        print_int_key(p, acting && i == 0 ? 0 : broker->addrs[i].id);
        zl_jw_str(&p->w, broker->addrs[i].addr);
    }
    zl_jw_end(&p->w, '}');
}

static void print_broker(struct ns_printer *p, const struct ns_broker *broker, uint32_t acting)
{
    if (broker->rendered && !acting) {
        zl_jw_raw(&p->w, broker->json[p->form]);
        return;
    }
    zl_jw_begin(&p->w, '{');
    print_addrs(p, broker, acting);
    zl_jw_kstr(&p->w, "brokerName", broker->node.key);
    zl_jw_kstr(&p->w, "cluster", broker->cluster);
    zl_jw_kbool(&p->w, "enableActingMaster", broker->acting_master);
    if (broker->zone.ptr)
        zl_jw_kstr(&p->w, "zoneName", broker->zone);
    zl_jw_end(&p->w, '}');
}

/* Big routes are mostly these, so all but the numbers is printed beforehand (ns_broker_render). */
static void print_queues(struct ns_printer *p, const struct ns_queues *queues)
{
    static const struct zr_str label[] = { ZR_STR(",\"readQueueNums\":"), ZR_STR(",\"topicSysFlag\":"), ZR_STR(",\"writeQueueNums\":") };
    const int32_t value[] = { queues->perm, queues->read, queues->flag, queues->write };
    char text[160];
    uint64_t n = 0;
    for (uint32_t i = 0; i < 4; i++) {
        if (i > 0) {
            memcpy(text + n, label[i - 1].ptr, label[i - 1].len);
            n += label[i - 1].len;
        }
        n += zl_print_i64(text + n, value[i]);
    }
    text[n++] = '}';
    if (queues->broker->rendered) {
        zl_jw_raw(&p->w, queues->broker->queue_head);
    } else {
        zl_jw_raw(&p->w, (struct zr_str)ZR_STR("{\"brokerName\":"));
        zl_json_quote(p->w.out, queues->broker->node.key);
        zl_buf_cstr(p->w.out, ",\"perm\":");
    }
    zl_buf_add(p->w.out, text, n);
}

static void print_filters(struct ns_printer *p, const struct ns_broker *broker)
{
    for (uint32_t i = 0; i < broker->n_addrs; i++) {
        const struct ns_live *live = ns_live_get(p->inst, broker->cluster, broker->addrs[i].addr);
        if (!live || live->n_filters == 0)
            continue;
        zl_jw_key(&p->w, broker->addrs[i].addr);
        zl_jw_begin(&p->w, '[');
        for (uint32_t j = 0; j < live->n_filters; j++)
            zl_jw_str(&p->w, live->filters[j]);
        zl_jw_end(&p->w, ']');
    }
}

static void print_mapping(struct ns_printer *p, const struct ns_topic *topic, const struct ns_mapping *mapping)
{
    zl_jw_key(&p->w, mapping->broker->node.key);
    zl_jw_begin(&p->w, '{');
    zl_jw_kstr(&p->w, "bname", mapping->broker->node.key);
    zl_jw_key(&p->w, (struct zr_str)ZR_STR("currIdMap"));
    zl_jw_begin(&p->w, '{');
    for (uint32_t i = 0; i < mapping->n_pairs; i++) {
        print_int_key(p, mapping->pairs[i][0]);
        zl_jw_i64(&p->w, mapping->pairs[i][1]);
    }
    zl_jw_end(&p->w, '}');
    zl_jw_kbool(&p->w, "dirty", mapping->dirty);
    zl_jw_ki64(&p->w, "epoch", mapping->epoch);
    if (mapping->scope.ptr)
        zl_jw_kstr(&p->w, "scope", mapping->scope);
    zl_jw_kstr(&p->w, "topic", topic->node.key);
    zl_jw_ki64(&p->w, "totalQueues", mapping->total_queues);
    zl_jw_end(&p->w, '}');
}

void ns_broker_unrender(struct ns_broker *broker)
{
    broker->rendered = 0;
    free((char *)broker->json[0].ptr);
    free((char *)broker->json[1].ptr);
    free((char *)broker->queue_head.ptr);
    broker->json[0] = broker->json[1] = broker->queue_head = (struct zr_str){ NULL, 0 };
}

void ns_broker_render(struct zr_inst *inst, struct ns_broker *broker)
{
    struct zl_buf buf;
    zl_buf_init(&buf, NS_BODY_MAX);
    ns_broker_unrender(broker);
    for (uint32_t form = 0; form < 2; form++) {
        struct ns_printer p = { .inst = inst, .form = form };
        zl_buf_clear(&buf);
        zl_jw_init(&p.w, &buf, 0);
        print_broker(&p, broker, 0);
        broker->json[form] = ns_dup(zl_buf_as_str(&buf));
    }
    zl_buf_clear(&buf);
    zl_buf_cstr(&buf, "{\"brokerName\":");
    zl_json_quote(&buf, broker->node.key);
    zl_buf_cstr(&buf, ",\"perm\":");
    broker->queue_head = ns_dup(zl_buf_as_str(&buf));
    broker->rendered = !buf.failed && broker->json[0].ptr && broker->json[1].ptr && broker->queue_head.ptr;
    zl_buf_free(&buf);
}

/* A group without master shows its least id as master if it said that it may act, and for topics that may not be written. */
static uint32_t route_acts(const struct zr_inst *inst, const struct ns_topic *topic, const struct ns_queues *queues)
{
    const struct ns_broker *broker = queues->broker;
    return inst->set.support_acting_master && broker->acting_master && broker->n_addrs > 0 && !ns_broker_addr(broker, 0) &&
           !(queues->perm & 2) && !zl_starts(topic->node.key, "rmq_sys_SYNC_BROKER_MEMBER_");
}

static uint32_t zone_equal(struct zr_str a, struct zr_str b)
{
    if (a.len != b.len)
        return 0;
    for (uint64_t i = 0; i < a.len; i++) {
        uint8_t x = (uint8_t)a.ptr[i], y = (uint8_t)b.ptr[i];
        if ((x >= 'A' && x <= 'Z' ? x + 32 : x) != (y >= 'A' && y <= 'Z' ? y + 32 : y))
            return 0;
    }
    return 1;
}

/* Is the entry shown? Not when its broker is leaving, nor outside the zone (zone.len 0: no zone asked for). A broker without a
 * master is in every zone (as answered: an acting master is one). */
static uint32_t route_shows(const struct zr_inst *inst, const struct ns_topic *topic, const struct ns_queues *queues, struct zr_str zone)
{
    if (queues->broker->n_addrs == 0)
        return 0;
    if (zone.len == 0 || (!ns_broker_addr(queues->broker, 0) && !route_acts(inst, topic, queues)))
        return 1;
    return queues->broker->zone.ptr && zone_equal(queues->broker->zone, zone);
}

static void route_print(struct zr_inst *inst, const struct ns_topic *topic, uint32_t form, struct zr_str zone, struct zl_buf *out)
{
    struct ns_printer p = { .inst = inst, .form = form };
    struct zr_str order = inst->set.order_message_enable ? ns_kv_peek(inst, (struct zr_str)ZR_STR(NS_ORDER_NAMESPACE), topic->node.key)
                                                         : (struct zr_str){ NULL, 0 };
    zl_jw_init(&p.w, out, 0);
    zl_jw_begin(&p.w, '{');
    zl_jw_key(&p.w, (struct zr_str)ZR_STR("brokerDatas"));
    zl_jw_begin(&p.w, '[');
    for (uint32_t i = 0; i < topic->n; i++)
        if (route_shows(inst, topic, &topic->queues[i], zone))
            print_broker(&p, topic->queues[i].broker, route_acts(inst, topic, &topic->queues[i]));
    zl_jw_end(&p.w, ']');
    zl_jw_key(&p.w, (struct zr_str)ZR_STR("filterServerTable"));
    zl_jw_begin(&p.w, '{');
    for (uint32_t i = 0; inst->n_filtered > 0 && i < topic->n; i++)
        if (route_shows(inst, topic, &topic->queues[i], zone))
            print_filters(&p, topic->queues[i].broker);
    zl_jw_end(&p.w, '}');
    if (order.ptr)
        zl_jw_kstr(&p.w, "orderTopicConf", order);
    zl_jw_key(&p.w, (struct zr_str)ZR_STR("queueDatas"));
    zl_jw_begin(&p.w, '[');
    for (uint32_t i = 0; i < topic->n; i++)
        if (route_shows(inst, topic, &topic->queues[i], zone))
            print_queues(&p, &topic->queues[i]);
    zl_jw_end(&p.w, ']');
    if (topic->n_mappings > 0) {
        zl_jw_key(&p.w, (struct zr_str)ZR_STR("topicQueueMappingByBroker"));
        zl_jw_begin(&p.w, '{');
        for (uint32_t i = 0; i < topic->n_mappings; i++)
            print_mapping(&p, topic, &topic->mappings[i]);
        zl_jw_end(&p.w, '}');
    }
    zl_jw_end(&p.w, '}');
}

/* ---- the cache -------------------------------------------------------------------------------------------------------- */

void ns_body_unref(struct ns_body *body)
{
    if (body && atomic_fetch_sub_explicit(&body->refs, 1, memory_order_acq_rel) == 1)
        free(body);
}

static struct ns_body *body_make(const struct zl_buf *buf, uint64_t gen, uint32_t refs)
{
    struct ns_body *body = buf->failed ? NULL : malloc(sizeof *body + buf->len);
    if (!body)
        return NULL;
    atomic_init(&body->refs, refs);
    body->used = 0;
    body->gen = gen;
    body->len = buf->len;
    memcpy(body->bytes, buf->ptr, buf->len);
    return body;
}

static struct ns_stripe *cache_stripe(struct zr_inst *inst, const struct ns_topic *topic)
{
    return &inst->stripes[(topic->node.hash >> 32) % NS_STRIPES];
}

/* Takes a body out; the ring is the caller's. */
static void cache_forget(struct ns_stripe *stripe, struct ns_topic *topic, uint32_t form)
{
    if (!topic->bodies[form])
        return;
    stripe->bytes -= topic->bodies[form]->len;
    ns_body_unref(topic->bodies[form]);
    topic->bodies[form] = NULL;
}

static void cache_unlink(struct ns_stripe *stripe, struct ns_topic *topic)
{
    if (!topic->ring_next || topic->bodies[0] || topic->bodies[1])
        return;
    if (stripe->hand == topic)
        stripe->hand = topic->ring_next == topic ? NULL : topic->ring_next;
    topic->ring_prev->ring_next = topic->ring_next;
    topic->ring_next->ring_prev = topic->ring_prev;
    topic->ring_prev = topic->ring_next = NULL;
}

/* In front of the hand: the place it comes to last. */
static void cache_link(struct ns_stripe *stripe, struct ns_topic *topic)
{
    if (topic->ring_next)
        return;
    if (!stripe->hand) {
        stripe->hand = topic->ring_prev = topic->ring_next = topic;
        return;
    }
    topic->ring_next = stripe->hand;
    topic->ring_prev = stripe->hand->ring_prev;
    topic->ring_prev->ring_next = topic;
    topic->ring_next->ring_prev = topic;
}

static void cache_shrink(struct ns_stripe *stripe, uint64_t max)
{
    while (stripe->bytes > max && stripe->hand) {
        struct ns_topic *topic = stripe->hand;
        stripe->hand = topic->ring_next;
        for (uint32_t form = 0; form < 2; form++) {
            if (topic->bodies[form] && topic->bodies[form]->used)
                topic->bodies[form]->used = 0;
            else
                cache_forget(stripe, topic, form);
        }
        cache_unlink(stripe, topic);
    }
}

void ns_cache_drop(struct zr_inst *inst, struct ns_topic *topic)
{
    if (!topic->ring_next)
        return; /* only with the write lock, or this could not be read without the stripe's mutex */
    struct ns_stripe *stripe = cache_stripe(inst, topic);
    pthread_mutex_lock(&stripe->mutex);
    cache_forget(stripe, topic, 0);
    cache_forget(stripe, topic, 1);
    cache_unlink(stripe, topic);
    pthread_mutex_unlock(&stripe->mutex);
}

static struct ns_body *cache_get(struct zr_inst *inst, struct ns_topic *topic, uint32_t form)
{
    struct ns_stripe *stripe = cache_stripe(inst, topic);
    pthread_mutex_lock(&stripe->mutex);
    struct ns_body *body = topic->bodies[form];
    if (body && body->gen == inst->gen) {
        body->used = 1;
        atomic_fetch_add_explicit(&body->refs, 1, memory_order_relaxed);
    } else {
        body = NULL;
    }
    pthread_mutex_unlock(&stripe->mutex);
    return body;
}

/* Keeps a body, which has a reference for it. */
static void cache_put(struct zr_inst *inst, struct ns_topic *topic, uint32_t form, struct ns_body *body)
{
    struct ns_stripe *stripe = cache_stripe(inst, topic);
    uint64_t max = (uint64_t)inst->set.route_cache_bytes / NS_STRIPES;
    if (body->len > max) {
        ns_body_unref(body);
        return;
    }
    pthread_mutex_lock(&stripe->mutex);
    cache_forget(stripe, topic, form);
    topic->bodies[form] = body;
    stripe->bytes += body->len;
    cache_link(stripe, topic);
    cache_shrink(stripe, max);
    pthread_mutex_unlock(&stripe->mutex);
}

static struct ns_topic *route_topic(struct zr_inst *inst, struct zr_str name)
{
    struct ns_topic *topic = (struct ns_topic *)ns_map_get(&inst->topics, name);
    for (uint32_t i = 0; topic && i < topic->n; i++)
        if (topic->queues[i].broker->n_addrs > 0)
            return topic;
    return NULL;
}

static struct ns_body *route_build(struct zr_inst *inst, struct ns_topic *topic, uint32_t form)
{
    struct zl_buf buf;
    zl_buf_init(&buf, NS_BODY_MAX);
    route_print(inst, topic, form, (struct zr_str){ NULL, 0 }, &buf);
    struct ns_body *body = body_make(&buf, inst->gen, 2);
    zl_buf_free(&buf);
    if (body)
        cache_put(inst, topic, form, body);
    return body;
}

zr_status ns_route_body(struct zr_inst *inst, struct zr_str name, uint32_t form, struct ns_body **ret)
{
    uint32_t built = 0;
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_topic *topic = route_topic(inst, name);
    *ret = topic ? cache_get(inst, topic, form) : NULL;
    if (topic && !*ret) {
        *ret = route_build(inst, topic, form);
        built = 1;
    }
    pthread_rwlock_unlock(&inst->lock);
    ns_count(inst, NS_METRIC_QUERIES);
    if (built)
        ns_count(inst, NS_METRIC_BUILT);
    return !topic ? ZR_ENOENT : *ret ? ZR_OK : ZR_ENOMEM;
}

zr_status ns_route_zoned(struct zr_inst *inst, struct zr_str name, struct zr_str zone, struct zl_buf *out)
{
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_topic *topic = route_topic(inst, name);
    if (topic)
        route_print(inst, topic, NS_FORM_LEGACY, zone, out);
    pthread_rwlock_unlock(&inst->lock);
    ns_count(inst, NS_METRIC_QUERIES);
    return topic ? ZR_OK : ZR_ENOENT;
}

/* ---- cluster info ----------------------------------------------------------------------------------------------------- */

static int node_compare(const void *a, const void *b)
{
    return zl_compare((*(struct ns_node *const *)a)->key, (*(struct ns_node *const *)b)->key);
}

/* The nodes of a small map by name; malloc'ed, NULL when it is empty or memory ran out. */
static struct ns_node **nodes_sorted(const struct ns_map *map)
{
    struct ns_node **nodes = map->n ? malloc(map->n * sizeof *nodes) : NULL;
    uint64_t at, n = 0;
    if (!nodes)
        return NULL;
    for (struct ns_node *node = ns_map_first(map, &at); node; node = ns_map_after(map, node, &at))
        nodes[n++] = node;
    qsort(nodes, n, sizeof *nodes, node_compare);
    return nodes;
}

static void print_cluster(struct zl_jw *w, const struct ns_cluster *cluster)
{
    zl_jw_key(w, cluster->node.key);
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < cluster->n; i++)
        zl_jw_str(w, cluster->brokers[i]->node.key);
    zl_jw_end(w, ']');
}

static void cluster_print(struct zr_inst *inst, struct zl_buf *out)
{
    struct ns_printer p = { .inst = inst, .form = NS_FORM_LEGACY };
    struct ns_node **brokers = nodes_sorted(&inst->brokers), **clusters = nodes_sorted(&inst->clusters);
    zl_jw_init(&p.w, out, 0);
    zl_jw_begin(&p.w, '{');
    zl_jw_key(&p.w, (struct zr_str)ZR_STR("brokerAddrTable"));
    zl_jw_begin(&p.w, '{');
    for (uint64_t i = 0; brokers && i < inst->brokers.n; i++) {
        if (((struct ns_broker *)brokers[i])->n_addrs == 0)
            continue;
        zl_jw_key(&p.w, brokers[i]->key);
        print_broker(&p, (struct ns_broker *)brokers[i], 0);
    }
    zl_jw_end(&p.w, '}');
    zl_jw_key(&p.w, (struct zr_str)ZR_STR("clusterAddrTable"));
    zl_jw_begin(&p.w, '{');
    for (uint64_t i = 0; clusters && i < inst->clusters.n; i++)
        print_cluster(&p.w, (struct ns_cluster *)clusters[i]);
    zl_jw_end(&p.w, '}');
    zl_jw_end(&p.w, '}');
    free(brokers);
    free(clusters);
}

zr_status ns_cluster_body(struct zr_inst *inst, struct ns_body **ret)
{
    struct zl_buf buf;
    pthread_rwlock_rdlock(&inst->lock);
    pthread_mutex_lock(&inst->cluster_mutex);
    if (!inst->cluster_info || inst->cluster_info->gen != inst->gen) {
        zl_buf_init(&buf, NS_BODY_MAX);
        cluster_print(inst, &buf);
        ns_body_unref(inst->cluster_info);
        inst->cluster_info = body_make(&buf, inst->gen, 1);
        zl_buf_free(&buf);
    }
    if ((*ret = inst->cluster_info))
        atomic_fetch_add_explicit(&inst->cluster_info->refs, 1, memory_order_relaxed);
    pthread_mutex_unlock(&inst->cluster_mutex);
    pthread_rwlock_unlock(&inst->lock);
    return *ret ? ZR_OK : ZR_ENOMEM;
}

void ns_member_group(struct zr_inst *inst, struct zr_str cluster, struct zr_str name, struct zl_buf *out)
{
    struct ns_printer p = { .inst = inst, .form = NS_FORM_LEGACY };
    const struct ns_broker none = { 0 };
    zl_jw_init(&p.w, out, 0);
    zl_jw_begin(&p.w, '{');
    zl_jw_key(&p.w, (struct zr_str)ZR_STR("brokerMemberGroup"));
    zl_jw_begin(&p.w, '{');
    pthread_rwlock_rdlock(&inst->lock);
    const struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, name);
    print_addrs(&p, broker ? broker : &none, 0);
    pthread_rwlock_unlock(&inst->lock);
    zl_jw_kstr(&p.w, "brokerName", name);
    zl_jw_kstr(&p.w, "cluster", cluster);
    zl_jw_end(&p.w, '}');
    zl_jw_end(&p.w, '}');
}

/* ---- lists of topics -------------------------------------------------------------------------------------------------- */

/* Both lists are by broker name, so one walk along both is enough. */
static uint32_t list_has_cluster(const struct ns_topic *topic, const struct ns_cluster *cluster)
{
    for (uint32_t i = 0, j = 0; cluster && i < topic->n && j < cluster->n;) {
        int32_t order = zl_compare(topic->queues[i].broker->node.key, cluster->brokers[j]->node.key);
        if (order == 0)
            return 1;
        i += order < 0;
        j += order > 0;
    }
    return 0;
}

static uint32_t list_takes(const struct ns_topic *topic, uint32_t what, const struct ns_cluster *cluster)
{
    int32_t flag = topic->n ? topic->queues[0].flag : 0; /* bit 0: unit, bit 1: unit subscription */
    switch (what) {
    case NS_LIST_CLUSTER: return list_has_cluster(topic, cluster);
    case NS_LIST_UNIT: return (flag & 1) != 0;
    case NS_LIST_UNIT_SUB: return (flag & 2) != 0;
    case NS_LIST_UNIT_SUB_ONLY: return (flag & 3) == 2;
    default: return 1;
    }
}

void ns_topic_list(struct zr_inst *inst, uint32_t what, struct zr_str cluster_name, struct zl_buf *out)
{
    struct zl_jw w;
    uint64_t at;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, (struct zr_str)ZR_STR("topicList"));
    zl_jw_begin(&w, '[');
    pthread_rwlock_rdlock(&inst->lock);
    const struct ns_cluster *cluster = (struct ns_cluster *)ns_map_get(&inst->clusters, cluster_name);
    for (struct ns_node *node = ns_map_first(&inst->topics, &at); node; node = ns_map_after(&inst->topics, node, &at)) {
        const struct ns_topic *topic = (struct ns_topic *)node;
        if (topic->n > 0 && list_takes(topic, what, cluster))
            zl_jw_str(&w, node->key);
    }
    pthread_rwlock_unlock(&inst->lock);
    zl_jw_end(&w, ']');
    zl_jw_end(&w, '}');
}

void ns_system_topic_list(struct zr_inst *inst, struct zl_buf *out)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_node **brokers = nodes_sorted(&inst->brokers), **clusters = nodes_sorted(&inst->clusters);
    zl_jw_begin(&w, '{');
    for (uint64_t i = 0; brokers && i < inst->brokers.n; i++) {
        const struct ns_broker *broker = (struct ns_broker *)brokers[i];
        if (broker->n_addrs > 0) {
            zl_jw_kstr(&w, "brokerAddr", broker->addrs[0].addr);
            break;
        }
    }
    zl_jw_key(&w, (struct zr_str)ZR_STR("topicList"));
    zl_jw_begin(&w, '[');
    for (uint64_t i = 0; clusters && i < inst->clusters.n; i++) {
        const struct ns_cluster *cluster = (struct ns_cluster *)clusters[i];
        zl_jw_str(&w, cluster->node.key);
        for (uint32_t j = 0; j < cluster->n; j++)
            zl_jw_str(&w, cluster->brokers[j]->node.key);
    }
    pthread_rwlock_unlock(&inst->lock);
    zl_jw_end(&w, ']');
    zl_jw_end(&w, '}');
    free(brokers);
    free(clusters);
}

/* ---- zarya.registry/1 lookup ------------------------------------------------------------------------------------------ */

struct ns_found { /* a route by value: texts stand in one buffer */
    struct zr_route route;
    struct zr_route_broker *brokers;
    struct zr_route_queues *queues;
    struct zl_buf text;
};

/* Appends s and answers where it begins, as an offset: the buffer may move while it grows. */
static struct zr_str found_text(struct ns_found *found, struct zr_str s)
{
    uint64_t at = found->text.len;
    zl_buf_str(&found->text, s);
    return (struct zr_str){ (const char *)(uintptr_t)at, s.len };
}

static void found_settle(struct ns_found *found, struct zr_str *s)
{
    s->ptr = (const char *)found->text.ptr + (uintptr_t)s->ptr;
}

static zr_status found_copy(struct zr_inst *inst, const struct ns_topic *topic, struct ns_found *found)
{
    uint32_t n_brokers = 0;
    for (uint32_t i = 0; i < topic->n; i++)
        n_brokers += topic->queues[i].broker->n_addrs;
    found->brokers = calloc(n_brokers ? n_brokers : 1, sizeof *found->brokers);
    found->queues = calloc(topic->n, sizeof *found->queues);
    if (!found->brokers || !found->queues)
        return ZR_ENOMEM;
    for (uint32_t i = 0; i < topic->n; i++) {
        const struct ns_queues *q = &topic->queues[i];
        found->queues[i] = (struct zr_route_queues){ ZR_HDR(struct zr_route_queues, 0), found_text(found, q->broker->node.key), q->read, q->write,
                                                     q->perm, q->flag };
        for (uint32_t j = 0; j < q->broker->n_addrs; j++)
            found->brokers[found->route.n_brokers++] = (struct zr_route_broker){
                ZR_HDR(struct zr_route_broker, 0), found_text(found, q->broker->cluster), found_text(found, q->broker->node.key),
                found_text(found, q->broker->addrs[j].addr), q->broker->addrs[j].id,
            };
    }
    found->route.n_queues = topic->n;
    struct zr_str order = inst->set.order_message_enable ? ns_kv_peek(inst, (struct zr_str)ZR_STR(NS_ORDER_NAMESPACE), topic->node.key)
                                                         : (struct zr_str){ NULL, 0 };
    found->route.order_conf = found_text(found, order);
    return found->text.failed ? ZR_ENOMEM : ZR_OK;
}

static void found_point(struct ns_found *found)
{
    for (uint32_t i = 0; i < found->route.n_brokers; i++) {
        found_settle(found, &found->brokers[i].cluster);
        found_settle(found, &found->brokers[i].name);
        found_settle(found, &found->brokers[i].addr);
    }
    for (uint32_t i = 0; i < found->route.n_queues; i++)
        found_settle(found, &found->queues[i].broker);
    found_settle(found, &found->route.order_conf);
    found->route.brokers = found->brokers;
    found->route.queues = found->queues;
}

void ns_lookup(struct zr_inst *inst, struct zr_str name, void (*on_route)(void *ctx, zr_status status, const struct zr_route *route), void *ctx)
{
    struct ns_found found = { .route = { .hdr = ZR_HDR(struct zr_route, 0) } };
    zl_buf_init(&found.text, NS_BODY_MAX);
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_topic *topic = route_topic(inst, name);
    zr_status status = topic ? found_copy(inst, topic, &found) : ZR_ENOENT;
    pthread_rwlock_unlock(&inst->lock);
    if (status == ZR_OK)
        found_point(&found);
    on_route(ctx, status, status == ZR_OK ? &found.route : NULL);
    free(found.brokers);
    free(found.queues);
    zl_buf_free(&found.text);
}
