/* SPDX-License-Identifier: Apache-2.0 */
/* rebalance.c - which queues of a topic this client takes, and the broker's locks for orderly consumers.
 *
 * Every client of a group comes to the same division by itself: the same sorted queues, the same sorted client ids
 * (from a broker), the same rule (AllocateMessageQueueAveragely). Runs on the service thread, under client->members. */
#include "consumer.h"
#include <stdio.h>

#define CODE_CONSUMER_LIST 38
#define CODE_LOCK 41
#define CODE_UNLOCK 42
#define AGAIN_MS 1000    /* after a rebalance that could not be finished */
#define NO_ROUTE_MS 5000 /* while a topic does not exist yet */

void zc_allocate_averagely(uint32_t index, uint32_t n_clients, uint32_t n, uint32_t *ret_first, uint32_t *ret_count)
{
    *ret_first = *ret_count = 0;
    if (n_clients == 0 || index >= n_clients) return;
    uint32_t rest = n % n_clients;
    uint32_t size = n <= n_clients ? 1 : n / n_clients + (rest > 0 && index < rest ? 1 : 0);
    uint32_t first = rest > 0 && index < rest ? index * size : index * size + rest;
    if (first >= n) return;
    *ret_first = first;
    *ret_count = size < n - first ? size : n - first;
}

/* ---- locks ---- */

static void lock_body(struct zc_consumer *c, struct zl_buf *out, const struct zc_queue *queues, uint32_t n)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "clientId", zl_str(c->client->id));
    zl_jw_kstr(&w, "consumerGroup", zl_str(c->group));
    zl_jw_key(&w, zl_str("mqSet"));
    zl_jw_begin(&w, '[');
    for (uint32_t i = 0; i < n; i++) {
        zl_jw_begin(&w, '{');
        zl_jw_kstr(&w, "brokerName", zl_str(queues[i].broker));
        zl_jw_ki64(&w, "queueId", queues[i].queue_id);
        zl_jw_kstr(&w, "topic", zl_str(queues[i].topic));
        zl_jw_end(&w, '}');
    }
    zl_jw_end(&w, ']');
    zl_jw_kbool(&w, "onlyThisBroker", 0);
    zl_jw_end(&w, '}');
}

static uint32_t json_has_queue(const struct zl_json *set, const struct zc_queue *queue)
{
    for (const struct zl_json *q = set ? set->child : NULL; q; q = q->next)
        if (zl_json_get_i64(q, "queueId", -1) == queue->queue_id && zl_is(zl_json_get_str(q, "topic"), queue->topic) &&
            zl_is(zl_json_get_str(q, "brokerName"), queue->broker))
            return 1;
    return 0;
}

/* Asks a broker for locks of its queues; held[i] says which are ours now. */
static int lock_queues(struct zc_consumer *c, const struct zc_queue *queues, uint32_t n, uint8_t *held)
{
    char addr[ZC_NAME_MAX];
    struct zl_buf body;
    struct zc_reply reply;
    memset(held, 0, n);
    int rc = zc_broker_addr(c->client, queues[0].broker, 0, addr, NULL);
    if (rc) return rc;
    zl_buf_init(&body, 16u << 20);
    lock_body(c, &body, queues, n);
    struct zc_request request = {
        .code = CODE_LOCK, .body = zl_buf_as_span(&body), .empty_ext = 1, .timeout_ms = 1000
    };
    rc = zc_admin_call(c->client, addr, &request, &reply, NULL);
    for (uint32_t i = 0; rc == 0 && i < n; i++)
        held[i] = (uint8_t)json_has_queue(zl_json_get(reply.root, "lockOKMQSet"), &queues[i]);
    if (rc == 0) zc_reply_free(&reply);
    zl_buf_free(&body);
    return rc;
}

uint32_t zc_pq_lock(struct zc_consumer *c, const struct zc_queue *queue)
{
    uint8_t held = 0;
    return lock_queues(c, queue, 1, &held) == 0 && held;
}

void zc_pq_unlock(struct zc_pq *pq)
{
    struct zc_consumer *c = pq->consumer;
    char addr[ZC_NAME_MAX];
    struct zl_buf body;
    if (!c->options.orderly || c->options.model != ZC_CLUSTERING ||
        zc_broker_addr(c->client, pq->queue.broker, 0, addr, NULL))
        return;
    zl_buf_init(&body, 65536);
    lock_body(c, &body, &pq->queue, 1);
    struct zc_request request = { .code = CODE_UNLOCK, .body = zl_buf_as_span(&body), .empty_ext = 1 };
    zc_io_call_oneway(c->client->io, addr, &request, NULL);
    zl_buf_free(&body);
}

/* Renews the locks of one broker's queues; list is sorted into runs of one broker each. */
static void renew_run(struct zc_consumer *c, const struct zc_queue *queues, uint32_t n)
{
    uint8_t *held = malloc(n);
    if (!held) return;
    int rc = lock_queues(c, queues, n, held);
    pthread_mutex_lock(&c->lock);
    for (struct zc_pq *pq = rc ? NULL : c->pqs; pq; pq = pq->next)
        for (uint32_t i = 0; i < n; i++)
            if (zc_same_queue(&pq->queue, &queues[i])) {
                pq->locked = held[i];
                if (held[i]) pq->locked_at = zc_now_ns();
            }
    pthread_mutex_unlock(&c->lock);
    free(held);
}

static int queue_order(const void *a, const void *b)
{
    const struct zc_queue *x = a, *y = b;
    int broker = strcmp(x->broker, y->broker), topic = strcmp(x->topic, y->topic);
    return broker ? broker : topic ? topic : x->queue_id < y->queue_id ? -1 : x->queue_id > y->queue_id;
}

void zc_consumer_lock_all(struct zc_consumer *c)
{
    struct zc_queue *list;
    uint32_t n;
    if (!c->options.orderly || c->options.model != ZC_CLUSTERING || !c->started ||
        zc_consumer_queues(c, &list, &n, NULL))
        return;
    qsort(list, n, sizeof(*list), queue_order);
    for (uint32_t from = 0, to; from < n; from = to) {
        for (to = from + 1; to < n && strcmp(list[to].broker, list[from].broker) == 0;) to++;
        renew_run(c, list + from, to - from);
    }
    free(list);
}

/* ---- the division ---- */

static int id_order(const void *a, const void *b)
{
    return zl_compare(*(const struct zr_str *)a, *(const struct zr_str *)b);
}

/* Our place among the group's clients, as a broker of the topic lists them. -1: not known now. */
static int64_t place_in_group(struct zc_consumer *c, const struct zc_view *view, uint32_t *ret_n)
{
    struct zr_field f = { ZR_STR("consumerGroup"), zl_str(c->group) };
    struct zc_request request = { .code = CODE_CONSUMER_LIST, .fields = &f, .n_fields = 1, .timeout_ms = 3000 };
    struct zc_reply reply;
    int64_t place = -1;
    *ret_n = 0;
    for (uint32_t b = 0; b < view->route->n_brokers; b++) {
        if (view->route->brokers[b].n_addrs == 0) continue;
        if (zc_admin_call(c->client, view->route->brokers[b].addrs[0].addr, &request, &reply, NULL)) continue;
        const struct zl_json *list = zl_json_get(reply.root, "consumerIdList");
        uint32_t n = 0;
        struct zr_str *ids = calloc((list ? list->n : 0) + 1, sizeof(*ids));
        for (const struct zl_json *id = ids && list ? list->child : NULL; id; id = id->next) ids[n++] = zl_json_str(id);
        if (ids) qsort(ids, n, sizeof(*ids), id_order);
        uint32_t unique = 0; /* a client that came back has two entries until the broker drops the first */
        for (uint32_t i = 0; i < n; i++)
            if (unique == 0 || !zl_eq(ids[i], ids[unique - 1])) ids[unique++] = ids[i];
        for (uint32_t i = 0; i < unique; i++)
            if (zl_is(ids[i], c->client->id)) place = i;
        *ret_n = unique;
        free(ids);
        zc_reply_free(&reply);
        if (place >= 0) break;
    }
    return place;
}

static uint32_t in_share(const struct zc_queue *queue, const struct zc_queue *share, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        if (share[i].queue_id == queue->queue_id && strcmp(share[i].broker, queue->broker) == 0) return 1;
    return 0;
}

/* Takes the topic's queues that are not in share off the consumer's list; returns them linked. */
static struct zc_pq *take_dropped(struct zc_consumer *c, const char *topic, const struct zc_queue *share, uint32_t n)
{
    struct zc_pq *dropped = NULL;
    pthread_mutex_lock(&c->lock);
    for (struct zc_pq **at = &c->pqs; *at;) {
        struct zc_pq *pq = *at;
        if (strcmp(pq->queue.topic, topic) != 0 || in_share(&pq->queue, share, n)) {
            at = &pq->next;
            continue;
        }
        *at = pq->next;
        pq->dropped = 1;
        pq->next = dropped;
        dropped = pq;
    }
    pthread_mutex_unlock(&c->lock);
    return dropped;
}

static void drop_all(struct zc_consumer *c, struct zc_pq *dropped)
{
    while (dropped) {
        struct zc_pq *next = dropped->next;
        pthread_mutex_lock(&c->lock);
        int64_t offset = zc_pq_commit_offset(dropped);
        uint32_t running = dropped->running;
        pthread_mutex_unlock(&c->lock);
        zc_offsets_commit_one(c, &dropped->queue, offset);
        if (!running) zc_pq_unlock(dropped); /* else the consume thread does, when its callback has returned */
        zc_pq_release(dropped);
        dropped = next;
    }
}

static uint32_t have_queue(struct zc_consumer *c, const struct zc_queue *queue)
{
    pthread_mutex_lock(&c->lock);
    struct zc_pq *pq = c->pqs;
    while (pq && !zc_same_queue(&pq->queue, queue)) pq = pq->next;
    pthread_mutex_unlock(&c->lock);
    return pq != NULL;
}

/* Takes a queue: its lock if orderly, its offset, then its first pull. 0: not now. */
static uint32_t take_queue(struct zc_consumer *c, const struct zc_queue *queue)
{
    int64_t offset = 0;
    uint32_t locks = c->options.orderly && c->options.model == ZC_CLUSTERING;
    if (locks && !zc_pq_lock(c, queue)) return 0;
    if (zc_offsets_begin(c, queue, &offset, NULL) || offset < 0) return 0;
    pthread_mutex_lock(&c->lock);
    const struct zc_sub *sub = zc_consumer_sub(c, queue->topic);
    struct zc_pq *pq = sub && !c->stop ? zc_pq_new(c, queue, offset, sub) : NULL;
    if (pq) {
        pq->locked = locks;
        pq->locked_at = zc_now_ns();
        pq->next = c->pqs;
        c->pqs = pq;
        atomic_fetch_add(&pq->refs, 1); /* ours, for the call below */
    }
    pthread_mutex_unlock(&c->lock);
    if (!pq) return 0;
    zc_pq_pull(pq);
    zc_pq_release(pq);
    return 1;
}

/* 0, or the milliseconds after which what could not be done now is worth another try. */
static int32_t rebalance_topic(struct zc_consumer *c, const char *topic)
{
    struct zc_view *view;
    uint32_t first = 0, count = 0, n_clients = 0, done = 1;
    if (zc_routes_get(c->client, topic, 0, 0, &view, NULL)) return strncmp(topic, "%RETRY%", 7) == 0 ? 0 : NO_ROUTE_MS;
    if (c->options.model == ZC_BROADCASTING) {
        count = view->n_read;
    } else {
        int64_t place = place_in_group(c, view, &n_clients);
        if (place <
            0) { /* the topic's brokers may be new to us, or may have been restarted: they have to hear of us first */
            zc_client_heartbeat(c->client);
            place = place_in_group(c, view, &n_clients);
        }
        if (place < 0) return zc_view_release(view), AGAIN_MS;
        zc_allocate_averagely((uint32_t)place, n_clients, view->n_read, &first, &count);
    }
    drop_all(c, take_dropped(c, topic, view->read + first, count));
    for (uint32_t i = first; i < first + count; i++)
        if (!have_queue(c, &view->read[i])) done &= take_queue(c, &view->read[i]);
    zc_view_release(view);
    return done ? 0 : AGAIN_MS;
}

static void again(void *ctx, const struct zc_response *response, const struct zc_err *err)
{
    struct zc_client *client = ctx;
    (void)response;
    atomic_store(&client->again, 0);
    if (err->code == ZC_ETIMEOUT) zc_client_wake(client, 1, 0);
}

void zc_consumer_rebalance(struct zc_consumer *c)
{
    uint32_t n = 0;
    int32_t again_ms = 0;
    if (!c->started) return;
    pthread_mutex_lock(&c->lock);
    for (struct zc_sub *s = c->subs; s; s = s->next) n++;
    char(*topics)[ZC_NAME_MAX] = calloc(n + 1, sizeof(*topics));
    n = 0;
    for (struct zc_sub *s = c->subs; s && topics; s = s->next) memcpy(topics[n++], s->topic, ZC_NAME_MAX);
    pthread_mutex_unlock(&c->lock);
    for (uint32_t i = 0; i < n; i++) {
        int32_t ms = rebalance_topic(c, topics[i]);
        if (ms && (!again_ms || ms < again_ms)) again_ms = ms;
    }
    free(topics);
    if (again_ms && !atomic_exchange(&c->client->again, 1) && zc_io_after(c->client->io, again_ms, again, c->client))
        atomic_store(&c->client->again, 0);
}
