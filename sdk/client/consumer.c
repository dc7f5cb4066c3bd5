/* SPDX-License-Identifier: Apache-2.0 */
/* consumer.c - a push consumer: subscriptions, consume threads, what the callback's answer means, life cycle.
 * See consumer.h for the picture and the locking. */
#include "consumer.h"
#include <stdio.h>

#define CODE_SEND_BACK 36

/* ---- subscriptions ---- */

const struct zc_sub *zc_consumer_sub(const struct zc_consumer *c, const char *topic)
{
    const struct zc_sub *s = c->subs;
    while (s && strcmp(s->topic, topic) != 0) s = s->next;
    return s;
}

int zc_consumer_subscribe(struct zc_consumer *c, const char *topic, const char *expression, const char *type,
                          struct zc_err *err)
{
    char why[256];
    if (!expression || !*expression) expression = "*";
    if (!type || !*type) type = "TAG";
    if (strlen(topic) >= ZC_NAME_MAX || zl_topic_check(zl_str(topic), why, sizeof(why)) != ZR_OK)
        return zc_fail(err, ZC_EARG, "%s is no topic name", topic);
    if (strcmp(type, "TAG") != 0 && strcmp(type, "SQL92") != 0)
        return zc_fail(err, ZC_EARG, "%s is no expression type (TAG or SQL92)", type);
    uint64_t len = strlen(expression);
    struct zc_sub *sub = len < 65536 ? calloc(1, sizeof(*sub) + len + 1) : NULL;
    if (!sub) return zc_fail(err, ZC_EARG, "the expression is too long");
    snprintf(sub->topic, sizeof(sub->topic), "%s", topic);
    snprintf(sub->type, sizeof(sub->type), "%s", type);
    memcpy(sub->expression, expression, len + 1);
    sub->version = zc_now_ms();
    pthread_mutex_lock(&c->lock);
    for (struct zc_sub **at = &c->subs; *at; at = &(*at)->next)
        if (strcmp((*at)->topic, topic) == 0) {
            struct zc_sub *old = *at;
            *at = old->next;
            if (sub->version <= old->version) sub->version = old->version + 1;
            free(old);
            break;
        }
    sub->next = c->subs;
    c->subs = sub;
    for (struct zc_pq *pq = c->pqs; pq; pq = pq->next)
        if (strcmp(pq->queue.topic, topic) == 0) zc_pq_set_tags(pq, sub);
    uint32_t started = c->started;
    pthread_mutex_unlock(&c->lock);
    if (started) zc_client_wake(c->client, 1, 1);
    return ZC_OK;
}

static void sub_tags(const struct zc_sub *s, struct zl_jw *w, uint32_t codes)
{
    struct zr_str rest = zl_str(s->expression), part;
    zl_jw_begin(w, '[');
    if (strcmp(s->type, "TAG") == 0 && strcmp(s->expression, "*") != 0)
        while (zl_split(&rest, '|', &part)) {
            part = zl_trim(part);
            if (part.len && codes)
                zl_jw_i64(w, zl_java_hash(part));
            else if (part.len)
                zl_jw_str(w, part);
        }
    zl_jw_end(w, ']');
}

static void sub_write(const struct zc_sub *s, struct zl_jw *w)
{
    zl_jw_begin(w, '{');
    zl_jw_kbool(w, "classFilterMode", 0);
    zl_jw_key(w, zl_str("codeSet"));
    sub_tags(s, w, 1);
    zl_jw_kstr(w, "expressionType", zl_str(s->type));
    zl_jw_kstr(w, "subString", zl_str(s->expression));
    zl_jw_ki64(w, "subVersion", s->version);
    zl_jw_key(w, zl_str("tagsSet"));
    sub_tags(s, w, 0);
    zl_jw_kstr(w, "topic", zl_str(s->topic));
    zl_jw_end(w, '}');
}

void zc_consumer_describe(struct zc_consumer *c, struct zl_jw *w)
{
    static const char *const FROM[] = { "CONSUME_FROM_LAST_OFFSET", "CONSUME_FROM_FIRST_OFFSET",
                                        "CONSUME_FROM_TIMESTAMP" };
    pthread_mutex_lock(&c->lock);
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "consumeFromWhere", zl_str(FROM[c->options.from]));
    zl_jw_kstr(w, "consumeType", zl_str("CONSUME_PASSIVELY"));
    zl_jw_kstr(w, "groupName", zl_str(c->group));
    zl_jw_kstr(w, "messageModel", zl_str(c->options.model == ZC_CLUSTERING ? "CLUSTERING" : "BROADCASTING"));
    zl_jw_key(w, zl_str("subscriptionDataSet"));
    zl_jw_begin(w, '[');
    for (const struct zc_sub *s = c->subs; s; s = s->next) sub_write(s, w);
    zl_jw_end(w, ']');
    zl_jw_kbool(w, "unitMode", 0);
    zl_jw_end(w, '}');
    pthread_mutex_unlock(&c->lock);
}

static void running_queue(const struct zc_pq *pq, struct zl_jw *w)
{
    zl_jw_begin_key(w);
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "brokerName", zl_str(pq->queue.broker));
    zl_jw_ki64(w, "queueId", pq->queue.queue_id);
    zl_jw_kstr(w, "topic", zl_str(pq->queue.topic));
    zl_jw_end(w, '}');
    zl_jw_end_key(w);
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "cachedMsgCount", (int64_t)(pq->tail - pq->head));
    zl_jw_ki64(w, "commitOffset", zc_pq_commit_offset(pq));
    zl_jw_kbool(w, "droped", pq->dropped);
    zl_jw_ki64(w, "lastPullTimestamp", pq->pulled_at);
    zl_jw_kbool(w, "locked", pq->locked);
    zl_jw_end(w, '}');
}

void zc_consumer_running(struct zc_consumer *c, struct zl_jw *w)
{
    char text[24];
    pthread_mutex_lock(&c->lock);
    zl_jw_begin(w, '{');
    zl_jw_key(w, zl_str("mqPopTable"));
    zl_jw_begin(w, '{');
    zl_jw_end(w, '}');
    zl_jw_key(w, zl_str("mqTable"));
    zl_jw_begin(w, '{');
    for (const struct zc_pq *pq = c->pqs; pq; pq = pq->next) running_queue(pq, w);
    zl_jw_end(w, '}');
    zl_jw_key(w, zl_str("properties"));
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "PROP_CONSUME_TYPE", zl_str("CONSUME_PASSIVELY"));
    zl_jw_kstr(w, "PROP_CONSUMEORDERLY", zl_str(c->options.orderly ? "true" : "false"));
    zl_jw_kstr(w, "PROP_THREADPOOL_CORE_SIZE", (struct zr_str){ text, zl_print_i64(text, c->n_threads) });
    zl_jw_end(w, '}');
    zl_jw_key(w, zl_str("statusTable"));
    zl_jw_begin(w, '{');
    zl_jw_end(w, '}');
    zl_jw_key(w, zl_str("subscriptionSet"));
    zl_jw_begin(w, '[');
    for (const struct zc_sub *s = c->subs; s; s = s->next) sub_write(s, w);
    zl_jw_end(w, ']');
    zl_jw_end(w, '}');
    pthread_mutex_unlock(&c->lock);
}

/* ---- what the callback's answer means (on a consume thread) ---- */

/* Gives a message back to the broker, to come again later. 0: done. */
static int send_back(struct zc_consumer *c, const struct zc_pq *pq, const struct zc_received *m, int32_t delay_level)
{
    char addr[ZC_NAME_MAX], offset[24], level[24], max[24];
    struct zr_field f[8];
    if (zc_broker_addr(c->client, pq->queue.broker, 0, addr, NULL)) return ZC_ENOROUTE;
    f[0] = (struct zr_field){ ZR_STR("offset"), { offset, zl_print_i64(offset, m->physical_offset) } };
    f[1] = (struct zr_field){ ZR_STR("group"), zl_str(c->group) };
    f[2] = (struct zr_field){ ZR_STR("delayLevel"), { level, zl_print_i64(level, delay_level) } };
    f[3] = (struct zr_field){ ZR_STR("originMsgId"), zl_str(m->msg_id) };
    f[4] = (struct zr_field){ ZR_STR("originTopic"), m->topic };
    f[5] = (struct zr_field){ ZR_STR("unitMode"), ZR_STR("false") };
    f[6] =
        (struct zr_field){ ZR_STR("maxReconsumeTimes"),
                           { max, zl_print_i64(max, c->options.max_reconsume > 0 ? c->options.max_reconsume : 16) } };
    f[7] = (struct zr_field){ ZR_STR("bname"), zl_str(pq->queue.broker) };
    struct zc_request request = { .code = CODE_SEND_BACK, .fields = f, .n_fields = 8, .timeout_ms = 5000 };
    return zc_call_ok(c->client, addr, &request, NULL, NULL);
}

struct batch {
    struct zc_received msgs[CONSUME_BATCH_MAX];
    uint64_t numbers[CONSUME_BATCH_MAX];
    uint8_t undo[CONSUME_BATCH_MAX]; /* comes again, here */
    uint32_t n;
    int32_t pause_ms;
};

/* Messages from ack_index on go back to the broker; those it did not take wait here. */
static void judge_concurrent(struct zc_consumer *c, struct zc_pq *pq, struct batch *b, const struct zc_delivery *d,
                             int result)
{
    uint32_t from = result == ZC_CONSUMED ? (d->ack_index < b->n ? d->ack_index : b->n) : 0;
    for (uint32_t i = from; i < b->n && c->options.model == ZC_CLUSTERING; i++) {
        if (send_back(c, pq, &b->msgs[i], d->delay_level) == 0) continue;
        b->undo[i] = 1;
        b->pause_ms = BACK_PAUSE_MS;
    }
}

/* The whole batch comes again after a pause, unless its first message had enough tries: then that goes to the dead
 * letters. */
static void judge_orderly(struct zc_consumer *c, struct zc_pq *pq, struct batch *b, const struct zc_delivery *d,
                          int result)
{
    if (result == ZC_CONSUMED) return;
    for (uint32_t i = 0; i < b->n; i++) {
        uint32_t spent = c->options.max_reconsume > 0 && b->msgs[i].reconsume_times >= c->options.max_reconsume;
        if (spent && c->options.model == ZC_CLUSTERING && send_back(c, pq, &b->msgs[i], -1) == 0) continue;
        b->undo[i] = 1;
        b->pause_ms = d->delay_level > 0 ? d->delay_level * ORDERLY_PAUSE_MS : ORDERLY_PAUSE_MS;
    }
}

static void run_batch(struct zc_consumer *c, struct zc_pq *pq, struct batch *b, uint32_t thread)
{
    struct zc_delivery d = { .msgs = b->msgs, .n = b->n, .ack_index = b->n, .thread = thread, .queue = pq->queue };
    memset(b->undo, 0, b->n);
    b->pause_ms = 0;
    int result = c->options.on_messages(c->options.ctx, &d);
    if (c->options.orderly)
        judge_orderly(c, pq, b, &d, result);
    else
        judge_concurrent(c, pq, b, &d, result);
    pthread_mutex_lock(&c->lock);
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->undo[i])
            zc_pq_undo(pq, b->numbers[i]), c->n_later++;
        else
            zc_pq_done(pq, b->numbers[i]), c->n_consumed++;
    }
    pthread_mutex_unlock(&c->lock);
    if (b->pause_ms) zc_pq_ready_after(pq, b->pause_ms);
}

/* Lock held: may this thread run messages of the queue now? */
static uint32_t may_run(const struct zc_consumer *c, const struct zc_pq *pq)
{
    if (pq->dropped || pq->resting || !pq->n_waiting) return 0;
    if (!c->options.orderly) return 1;
    return !pq->running;
}

static uint32_t lock_is_ours(const struct zc_consumer *c, const struct zc_pq *pq)
{
    if (!c->options.orderly || c->options.model != ZC_CLUSTERING) return 1;
    return pq->locked && zc_now_ns() - pq->locked_at < LOCK_LIVE_MS * ZC_MS;
}

/* The lock is lost: asks for it again, and looks at the queue a little later. */
static void regain_lock(struct zc_consumer *c, struct zc_pq *pq)
{
    uint32_t held = zc_pq_lock(c, &pq->queue);
    pthread_mutex_lock(&c->lock);
    pq->locked = held;
    if (held) pq->locked_at = zc_now_ns();
    pthread_mutex_unlock(&c->lock);
    zc_pq_ready_after(pq, held ? 1 : ORDERLY_PAUSE_MS);
}

static struct zc_pq *ready_pop(struct zc_consumer *c)
{
    struct zc_pq *pq = c->ready_head;
    if (!pq) return NULL;
    c->ready_head = pq->next_ready;
    if (!c->ready_head) c->ready_tail = NULL;
    pq->in_ready = 0;
    return pq;
}

/* Runs one batch of a queue (its reference is ours). Lock held on entry and exit. */
static void serve(struct zc_consumer *c, struct zc_pq *pq, struct batch *b, uint32_t thread)
{
    uint32_t ours = lock_is_ours(c, pq), may = may_run(c, pq);
    b->n = may && ours ? zc_pq_take(pq, b->msgs, b->numbers, c->options.consume_batch) : 0;
    pq->running += b->n > 0;
    if (b->n && !c->options.orderly && pq->n_waiting) zc_pq_ready(pq); /* another thread may go on beside us */
    pthread_mutex_unlock(&c->lock);
    if (b->n)
        run_batch(c, pq, b, thread);
    else if (may && !ours)
        regain_lock(c, pq);
    pthread_mutex_lock(&c->lock);
    if (b->n == 0) return;
    pq->running--;
    if (pq->n_waiting && !pq->resting) zc_pq_ready(pq);
    uint32_t pull = pq->paused && pq->tail - pq->head < c->options.queue_limit,
             unlock = pq->dropped && !pq->running && !c->stop;
    if (!pull && !unlock) return;
    pthread_mutex_unlock(&c->lock);
    if (pull) zc_pq_pull(pq);
    if (unlock) zc_pq_unlock(pq);
    pthread_mutex_lock(&c->lock);
}

static void *consume_run(void *arg)
{
    struct zc_consumer *c = arg;
    struct batch *b = malloc(sizeof(*b));
    uint32_t thread = atomic_fetch_add(&c->thread_no, 1) + 1;
    pthread_setname_np(pthread_self(), "zc-consume");
    pthread_mutex_lock(&c->lock);
    while (b && !c->stop) {
        struct zc_pq *pq = ready_pop(c);
        if (!pq) {
            pthread_cond_wait(&c->ready_cond, &c->lock);
            continue;
        }
        serve(c, pq, b, thread);
        pthread_mutex_unlock(&c->lock);
        zc_pq_release(pq);
        pthread_mutex_lock(&c->lock);
    }
    pthread_mutex_unlock(&c->lock);
    free(b);
    return NULL;
}

/* ---- life cycle ---- */

void zc_consumer_hold(struct zc_consumer *c) { atomic_fetch_add(&c->refs, 1); }

void zc_consumer_release(struct zc_consumer *c)
{
    if (atomic_fetch_sub(&c->refs, 1) != 1) return;
    for (struct zc_sub *s = c->subs, *next; s; s = next) {
        next = s->next;
        free(s);
    }
    free(c->stored);
    free(c->offsets_file);
    free(c->threads);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->ready_cond);
    free(c);
}

static void options_default(struct zc_consumer_options *o)
{
    if (!o->threads) o->threads = 4;
    if (o->threads > THREADS_MAX) o->threads = THREADS_MAX;
    if (!o->pull_batch) o->pull_batch = 32;
    if (!o->consume_batch) o->consume_batch = 1;
    if (o->consume_batch > CONSUME_BATCH_MAX) o->consume_batch = CONSUME_BATCH_MAX;
    if (!o->queue_limit) o->queue_limit = 1000;
    if (!o->suspend_ms) o->suspend_ms = 15000;
    if (o->from > ZC_FROM_TIMESTAMP) o->from = ZC_FROM_LAST;
}

struct zc_consumer *zc_consumer_open(struct zc_client *client, const struct zc_consumer_options *options,
                                     struct zc_err *err)
{
    char why[256];
    if (!options->group || !options->on_messages)
        return zc_fail(err, ZC_EARG, "a consumer needs a group and on_messages"), NULL;
    if (zl_group_check(zl_str(options->group), why, sizeof(why)) != ZR_OK)
        return zc_fail(err, ZC_EARG, "%s", why), NULL;
    struct zc_consumer *c = calloc(1, sizeof(*c));
    if (!c) return zc_fail(err, ZC_ENOMEM, "memory ran out"), NULL;
    atomic_init(&c->refs, 1);
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->ready_cond, NULL);
    c->client = client;
    c->options = *options;
    options_default(&c->options);
    snprintf(c->group, sizeof(c->group), "%s", options->group);
    snprintf(c->retry_topic, sizeof(c->retry_topic), "%%RETRY%%%s", options->group);
    c->options.group = c->group;
    if (c->options.model == ZC_BROADCASTING)
        zc_offsets_load(c);
    else if (zc_consumer_subscribe(c, c->retry_topic, "*", NULL, err))
        return zc_consumer_release(c), NULL;
    c->options.offsets_dir = NULL; /* was borrowed */
    return c;
}

int zc_consumer_start(struct zc_consumer *c, struct zc_err *err)
{
    struct zc_client *client = c->client;
    c->threads = calloc(c->options.threads, sizeof(*c->threads));
    if (!c->threads) return zc_fail(err, ZC_ENOMEM, "memory ran out");
    /* Routes first: the heartbeat goes to the brokers that they name. */
    for (const struct zc_sub *s = c->subs; s; s = s->next) {
        struct zc_view *view = NULL;
        struct zc_err why;
        int rc = zc_routes_get(client, s->topic, 0, 1, &view, &why);
        if (rc == 0)
            zc_view_release(view);
        else if (rc != ZC_ENOROUTE)
            return zc_fail(err, rc, "%s", why.text);
    }
    for (; c->n_threads < c->options.threads; c->n_threads++)
        if (pthread_create(&c->threads[c->n_threads], NULL, consume_run, c)) break;
    if (c->n_threads == 0) return zc_fail(err, ZC_ENOMEM, "no consume thread could be started");
    pthread_mutex_lock(&client->members);
    c->started = 1;
    c->next = client->consumers;
    client->consumers = c;
    zc_client_heartbeat(client);
    pthread_mutex_unlock(&client->members);
    /* The heartbeat made the retry topic. */
    struct zc_view *view = NULL;
    if (c->options.model == ZC_CLUSTERING && zc_routes_get(client, c->retry_topic, 0, 1, &view, NULL) == 0)
        zc_view_release(view);
    zc_client_wake(client, 1, 0);
    return ZC_OK;
}

static void leave_client(struct zc_consumer *c)
{
    struct zc_client *client = c->client;
    pthread_mutex_lock(&client->members);
    for (struct zc_consumer **at = &client->consumers; *at; at = &(*at)->next)
        if (*at == c) {
            *at = c->next;
            break;
        }
    pthread_mutex_unlock(&client->members);
}

void zc_consumer_close(struct zc_consumer *c)
{
    if (!c) return;
    leave_client(c);
    pthread_mutex_lock(&c->lock);
    c->stop = 1;
    pthread_cond_broadcast(&c->ready_cond);
    pthread_mutex_unlock(&c->lock);
    for (uint32_t i = 0; i < c->n_threads; i++) pthread_join(c->threads[i], NULL);
    zc_offsets_commit_all(c);
    pthread_mutex_lock(&c->lock);
    struct zc_pq *pqs = c->pqs, *ready = c->ready_head;
    c->pqs = c->ready_head = c->ready_tail = NULL;
    for (struct zc_pq *pq = pqs; pq; pq = pq->next) pq->dropped = 1;
    pthread_mutex_unlock(&c->lock);
    while (ready) {
        struct zc_pq *next = ready->next_ready;
        zc_pq_release(ready);
        ready = next;
    }
    while (pqs) {
        struct zc_pq *next = pqs->next;
        zc_pq_unlock(pqs);
        zc_pq_release(pqs);
        pqs = next;
    }
    if (c->started) zc_unregister(c->client, NULL, c->group);
    zc_consumer_release(c);
}

int zc_consumer_queues(struct zc_consumer *c, struct zc_queue **ret, uint32_t *ret_n, struct zc_err *err)
{
    uint32_t n = 0;
    pthread_mutex_lock(&c->lock);
    for (const struct zc_pq *pq = c->pqs; pq; pq = pq->next) n++;
    *ret = calloc(n + 1, sizeof(**ret));
    *ret_n = 0;
    for (const struct zc_pq *pq = c->pqs; pq && *ret; pq = pq->next) (*ret)[(*ret_n)++] = pq->queue;
    pthread_mutex_unlock(&c->lock);
    return *ret ? ZC_OK : zc_fail(err, ZC_ENOMEM, "memory ran out");
}

struct zc_consumer *zc_consumer_next(struct zc_consumer *consumer) { return consumer->next; }
const char *zc_consumer_group(const struct zc_consumer *consumer) { return consumer->group; }
void zc_consumer_persist(struct zc_consumer *c) { zc_offsets_commit_all(c); }
