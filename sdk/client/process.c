/* SPDX-License-Identifier: Apache-2.0 */
/* process.c - one queue that a consumer holds. See consumer.h for the picture and the locking. */
#include "consumer.h"
#include <stdio.h>

#define RING_MIN 64u
#define CODE_OFFSET_MOVED 21

void zc_pq_set_tags(struct zc_pq *pq, const struct zc_sub *sub)
{
    /* A longer expression leaves the exact comparison to the broker's hashes. */
    uint32_t exact = strcmp(sub->type, "TAG") == 0 && strlen(sub->expression) < sizeof(pq->tags);
    snprintf(pq->tags, sizeof(pq->tags), "%s", exact ? sub->expression : "");
}

struct zc_pq *zc_pq_new(struct zc_consumer *c, const struct zc_queue *queue, int64_t offset, const struct zc_sub *sub)
{
    struct zc_pq *pq = calloc(1, sizeof(*pq));
    if (!pq) return NULL;
    pq->ring = calloc(RING_MIN, sizeof(*pq->ring));
    if (!pq->ring) return free(pq), NULL;
    pq->cap = RING_MIN;
    pq->consumer = c;
    pq->queue = *queue;
    pq->next_offset = offset;
    zc_pq_set_tags(pq, sub);
    atomic_init(&pq->refs, 1);
    zc_consumer_hold(c);
    return pq;
}

struct zc_item *zc_pq_item(struct zc_pq *pq, uint64_t number) { return &pq->ring[number & (pq->cap - 1)]; }

/* The chunk's own spare member counts its items that are not done. */
static void item_end(struct zc_item *item)
{
    item->state = ITEM_DONE;
    if (--item->chunk->reserved == 0) zc_messages_free(item->chunk);
    item->chunk = NULL;
}

void zc_pq_release(struct zc_pq *pq)
{
    if (atomic_fetch_sub(&pq->refs, 1) != 1) return;
    struct zc_consumer *c = pq->consumer;
    for (uint64_t i = pq->head; i < pq->tail; i++)
        if (zc_pq_item(pq, i)->chunk) item_end(zc_pq_item(pq, i));
    free(pq->ring);
    free(pq);
    zc_consumer_release(c);
}

int64_t zc_pq_commit_offset(const struct zc_pq *pq)
{
    if (pq->head == pq->tail) return pq->next_offset;
    const struct zc_item *first = &pq->ring[pq->head & (pq->cap - 1)];
    return first->chunk->msgs[first->index].queue_offset;
}

static int ring_grow(struct zc_pq *pq, uint64_t n)
{
    uint32_t cap = pq->cap;
    while (cap < n) cap *= 2;
    if (cap == pq->cap) return 0;
    struct zc_item *ring = calloc(cap, sizeof(*ring));
    if (!ring) return -1;
    for (uint64_t i = pq->head; i < pq->tail; i++) ring[i & (cap - 1)] = *zc_pq_item(pq, i);
    free(pq->ring);
    pq->ring = ring;
    pq->cap = cap;
    return 0;
}

/* Lock held: appends a pull's messages (given). */
static void pq_append(struct zc_pq *pq, struct zc_messages *chunk)
{
    if (chunk->n == 0 || ring_grow(pq, pq->tail - pq->head + chunk->n)) {
        if (chunk->n) pq->next_offset = chunk->msgs[0].queue_offset; /* no memory: these are pulled again */
        zc_messages_free(chunk);
        return;
    }
    chunk->reserved = chunk->n;
    for (uint32_t i = 0; i < chunk->n; i++)
        *zc_pq_item(pq, pq->tail++) = (struct zc_item){ .chunk = chunk, .index = i, .state = ITEM_WAITING };
    pq->n_waiting += chunk->n;
}

/* Lock held: the broker says that the offset is elsewhere. What waits is of the past. */
static void pq_clear_waiting(struct zc_pq *pq)
{
    for (uint64_t i = pq->head; i < pq->tail; i++)
        if (zc_pq_item(pq, i)->state == ITEM_WAITING) item_end(zc_pq_item(pq, i));
    pq->n_waiting = 0;
    while (pq->head < pq->tail && zc_pq_item(pq, pq->head)->state == ITEM_DONE) pq->head++;
    pq->waiting_from = pq->tail;
}

uint32_t zc_pq_take(struct zc_pq *pq, struct zc_received *to, uint64_t *numbers, uint32_t max)
{
    uint32_t n = 0;
    uint64_t at = pq->waiting_from > pq->head ? pq->waiting_from : pq->head;
    for (; at < pq->tail && n < max; at++) {
        struct zc_item *item = zc_pq_item(pq, at);
        if (item->state != ITEM_WAITING) continue;
        item->state = ITEM_RUNNING;
        to[n] = item->chunk->msgs[item->index];
        to[n].reconsume_times += item->times;
        numbers[n++] = at;
    }
    pq->waiting_from = at;
    pq->n_waiting -= n;
    return n;
}

void zc_pq_done(struct zc_pq *pq, uint64_t number)
{
    item_end(zc_pq_item(pq, number));
    while (pq->head < pq->tail && zc_pq_item(pq, pq->head)->state == ITEM_DONE) pq->head++;
}

void zc_pq_undo(struct zc_pq *pq, uint64_t number)
{
    struct zc_item *item = zc_pq_item(pq, number);
    item->state = ITEM_WAITING;
    if (item->times < UINT16_MAX) item->times++;
    pq->n_waiting++;
    if (number < pq->waiting_from) pq->waiting_from = number;
}

void zc_pq_ready(struct zc_pq *pq)
{
    struct zc_consumer *c = pq->consumer;
    if (pq->in_ready || pq->dropped) return;
    pq->in_ready = 1;
    pq->next_ready = NULL;
    atomic_fetch_add(&pq->refs, 1);
    if (c->ready_tail)
        c->ready_tail->next_ready = pq;
    else
        c->ready_head = pq;
    c->ready_tail = pq;
    pthread_cond_signal(&c->ready_cond);
}

/* ---- pulls ---- */

/* The pull is over, and no other follows. */
static void pull_end(struct zc_pq *pq)
{
    pthread_mutex_lock(&pq->consumer->lock);
    pq->pulling = 0;
    pthread_mutex_unlock(&pq->consumer->lock);
    zc_pq_release(pq);
}

static void pull_timer(void *ctx, const struct zc_response *response, const struct zc_err *err)
{
    struct zc_pq *pq = ctx;
    (void)response;
    pthread_mutex_lock(&pq->consumer->lock);
    pq->pulling = 0;
    pthread_mutex_unlock(&pq->consumer->lock);
    if (err->code == ZC_ETIMEOUT) zc_pq_pull(pq);
    zc_pq_release(pq);
}

/* Tries again later; the caller's reference goes with the timer. pulling stays set meanwhile. */
static void pull_later(struct zc_pq *pq, int32_t ms)
{
    if (zc_io_after(pq->consumer->client->io, ms, pull_timer, pq)) pull_end(pq);
}

static void pull_failed(struct zc_pq *pq, int rc)
{
    if (rc == ZC_ECLOSING) return pull_end(pq);
    /* 24, 25: the broker has not heard of our subscription yet */
    if (rc == 24 || rc == 25) zc_client_wake(pq->consumer->client, 0, 1);
    pull_later(pq, PULL_DELAY_ERROR_MS);
}

/* Takes in what came (given); 0: the queue is not ours any more. */
static uint32_t pull_take(struct zc_pq *pq, struct zc_messages *chunk)
{
    struct zc_consumer *c = pq->consumer;
    pthread_mutex_lock(&c->lock);
    uint32_t ours = !pq->dropped && !c->stop;
    pq->pulling = 0;
    pq->pulled_at = zc_now_ms();
    if (ours) {
        if (chunk->code == CODE_OFFSET_MOVED) pq_clear_waiting(pq);
        pq->next_offset = chunk->next_offset;
        pq_append(pq, chunk);
        if (pq->n_waiting && !pq->resting) zc_pq_ready(pq);
    }
    pthread_mutex_unlock(&c->lock);
    if (!ours) zc_messages_free(chunk);
    return ours;
}

static void pull_answered(void *ctx, const struct zc_response *response, const struct zc_err *err)
{
    struct zc_pq *pq = ctx;
    struct zc_messages *chunk = NULL;
    char tags[sizeof(pq->tags)];
    pthread_mutex_lock(&pq->consumer->lock);
    memcpy(tags, pq->tags, sizeof(tags));
    pthread_mutex_unlock(&pq->consumer->lock);
    int rc = response ? zc_pull_read(response, pq->queue.broker, tags, &chunk, NULL) : err->code;
    if (rc) return pull_failed(pq, rc);
    if (pull_take(pq, chunk)) zc_pq_pull(pq);
    zc_pq_release(pq);
}

void zc_pq_pull(struct zc_pq *pq)
{
    struct zc_consumer *c = pq->consumer;
    struct zc_pull_call call;
    char addr[ZC_NAME_MAX];
    pthread_mutex_lock(&c->lock);
    const struct zc_sub *sub = zc_consumer_sub(c, pq->queue.topic);
    uint32_t may = !pq->dropped && !c->stop && !pq->pulling && sub;
    pq->paused = may && pq->tail - pq->head >= c->options.queue_limit;
    if (!may || pq->paused) return (void)pthread_mutex_unlock(&c->lock);
    pq->pulling = 1;
    int64_t commit = c->options.model == ZC_CLUSTERING ? zc_pq_commit_offset(pq) : 0;
    zc_pull_build(&call, c->group, &pq->queue, pq->next_offset, (int32_t)c->options.pull_batch,
                  ZC_PULL_SUSPEND | (commit > 0 ? ZC_PULL_COMMIT : 0), commit, c->options.suspend_ms, NULL,
                  strcmp(sub->type, "SQL92") == 0 ? "SQL92" : "TAG", sub->version);
    atomic_fetch_add(&pq->refs, 1);
    pthread_mutex_unlock(&c->lock);
    if (zc_broker_addr(c->client, pq->queue.broker, 1, addr, NULL) == 0 &&
        zc_io_call_async(c->client->io, addr, &call.request, call.request.timeout_ms, pull_answered, pq, NULL) == 0)
        return;
    pull_later(pq, PULL_DELAY_ERROR_MS);
}

/* ---- a pause ---- */

static void rest_over(void *ctx, const struct zc_response *response, const struct zc_err *err)
{
    struct zc_pq *pq = ctx;
    (void)response;
    (void)err;
    pthread_mutex_lock(&pq->consumer->lock);
    pq->resting = 0;
    if (pq->n_waiting && !pq->consumer->stop) zc_pq_ready(pq);
    pthread_mutex_unlock(&pq->consumer->lock);
    zc_pq_release(pq);
}

void zc_pq_ready_after(struct zc_pq *pq, int32_t ms)
{
    pthread_mutex_lock(&pq->consumer->lock);
    uint32_t already = pq->resting;
    pq->resting = 1;
    pthread_mutex_unlock(&pq->consumer->lock);
    if (already) return;
    atomic_fetch_add(&pq->refs, 1);
    if (zc_io_after(pq->consumer->client->io, ms, rest_over, pq)) zc_pq_release(pq);
}
