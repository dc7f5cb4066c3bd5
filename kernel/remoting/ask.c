/* SPDX-License-Identifier: Apache-2.0 */
/* ask.c - requests of ours that wait for an answer, on any session.
 *
 * An ask is found by (session, opaque), so that a peer can answer only what it was asked itself. Opaque numbers come from one
 * counter of the process and wrap, as Apache's do.
 *
 * LOCKING. Sessions are spread over SHARDS by their id. A shard's lock guards its buckets, `n` and the list of asks, n_asks, of
 * its sessions, and `linked` and `timer` of its asks. Inside it only the timer thread's own lock is taken (zk_timer_at);
 * nothing is called out to.
 *
 * EXACTLY ONCE. Four parties may end an ask: the answer (io), the timer, the end of the session (io, or main in stop), and a
 * failed send (the asker). `linked` decides: who turns it from 1 to 0 under the shard's lock tells the asker, after the lock was
 * let go; the others find 0 and do nothing.
 *   - An ask is entered, and its timer armed, under one hold of the lock, so whoever ends it sees a valid timer id, and a timer
 *     that fires at once waits for the lock.
 *   - The end of a session sets session->open = 0 first and empties the list under the lock after. An ask is entered only while
 *     open is 1, read under the lock: either it is on the list in time to be failed, or it is refused.
 *   - If the send fails but somebody else was quicker, the asker was or will be told through its function, so zk_ask_sent
 *     answers ZR_OK.
 * The struct lives by references: one for being linked, one for the timer (dropped by its callback, or by whoever cancelled it in
 * time), one for the asker until zk_ask_sent. */
#include <stdio.h>
#include <stdlib.h>
#include "remoting/internal.h"

#define SHARDS 16u
#define BUCKETS 1024u

struct zk_ask {
    struct zk_ask *bucket_next;
    struct zk_ask *prev, *next; /* of the session */
    struct zr_session *session; /* held */
    struct zk_listener_of_ask to;
    uint64_t timer;
    int32_t opaque;
    uint32_t linked;
    _Atomic uint32_t refs;
    uint32_t reserved;
};
struct shard {
    pthread_mutex_t lock;
    struct zk_ask *buckets[BUCKETS];
};
static struct shard shards[SHARDS] = { [0 ... SHARDS - 1] = { .lock = PTHREAD_MUTEX_INITIALIZER } };
static _Atomic uint32_t n_asks;
static _Atomic uint32_t opaque_counter;

int32_t zk_opaque_next(void) { return (int32_t)(atomic_fetch_add_explicit(&opaque_counter, 1, memory_order_relaxed)); }

static struct shard *shard_of(const struct zr_session *s) { return &shards[s->id % SHARDS]; }
static struct zk_ask **bucket_of(struct shard *shard, const struct zr_session *s, int32_t opaque)
{
    return &shard->buckets[((uint32_t)opaque + (uint32_t)(s->id / SHARDS) * 31u) % BUCKETS];
}

static void ask_unref(struct zk_ask *ask)
{
    if (atomic_fetch_sub_explicit(&ask->refs, 1, memory_order_acq_rel) != 1)
        return;
    struct zr_session *s = ask->session;
    free(ask);
    zk_session_release(s);
}

/* ---- under the shard's lock ----------------------------------------------------------------------------------------- */
static struct zk_ask *ask_find(struct shard *shard, const struct zr_session *s, int32_t opaque)
{
    struct zk_ask *ask = *bucket_of(shard, s, opaque);
    while (ask && (ask->session != s || ask->opaque != opaque))
        ask = ask->bucket_next;
    return ask;
}

static void ask_link(struct shard *shard, struct zk_ask *ask)
{
    struct zr_session *s = ask->session;
    struct zk_ask **bucket = bucket_of(shard, s, ask->opaque);
    ask->bucket_next = *bucket;
    *bucket = ask;
    ask->next = s->asks;
    if (ask->next)
        ask->next->prev = ask;
    s->asks = ask;
    s->n_asks++;
    ask->linked = 1;
}

/* Returns 1 to the one who now has to tell the asker. */
static uint32_t ask_unlink(struct shard *shard, struct zk_ask *ask)
{
    if (!ask->linked)
        return 0;
    struct zr_session *s = ask->session;
    struct zk_ask **at = bucket_of(shard, s, ask->opaque);
    while (*at != ask)
        at = &(*at)->bucket_next;
    *at = ask->bucket_next;
    if (ask->next)
        ask->next->prev = ask->prev;
    if (ask->prev)
        ask->prev->next = ask->next;
    else
        s->asks = ask->next;
    ask->prev = ask->next = NULL;
    s->n_asks--;
    ask->linked = 0;
    return 1;
}

/* ---- the end of an ask; by its one winner, without a lock -------------------------------------------------------------- */
static void ask_tell(struct zk_ask *ask, zr_status status, const struct zr_request *response)
{
    if (ask->to.on_answer) {
        ask->to.on_answer(ask->to.ctx, status, response);
        return;
    }
    char text[ZK_NAME_MAX + 64];
    const struct zr_session *s = ask->session;
    int n = 0;
    if (status == ZR_ETIMEOUT)
        n = snprintf(text, sizeof text, "%.*s did not answer in time", (int)s->name_len, s->name);
    else if (status != ZR_OK)
        n = snprintf(text, sizeof text, "the connection to %.*s was lost", (int)s->name_len, s->name);
    ask->to.on_call(ask->to.ctx, status, response, (struct zr_str){ text, n < 0 ? 0 : (uint64_t)n });
}

static void ask_gone(struct zk_ask *ask)
{
    atomic_fetch_sub_explicit(&n_asks, 1, memory_order_relaxed);
    zk_metric_add(zk_rem.metrics.asks_pending, -1);
    ask_unref(ask); /* the link's */
}

static void ask_cancel_timer(struct zk_ask *ask)
{
    if (zk_timer_cancel(ask->timer) == ZR_OK)
        ask_unref(ask); /* the timer's */
}

static void ask_timer(void *arg)
{
    struct zk_ask *ask = arg;
    struct shard *shard = shard_of(ask->session);
    pthread_mutex_lock(&shard->lock);
    uint32_t mine = ask_unlink(shard, ask);
    pthread_mutex_unlock(&shard->lock);
    if (mine) {
        zk_metric_add(zk_rem.metrics.asks_timeout, 1);
        ask_tell(ask, ZR_ETIMEOUT, NULL);
        ask_gone(ask);
    }
    ask_unref(ask);
}

void zk_ask_answered(struct zr_session *s, const struct zr_request *response)
{
    struct shard *shard = shard_of(s);
    pthread_mutex_lock(&shard->lock);
    struct zk_ask *ask = ask_find(shard, s, response->opaque);
    if (ask)
        ask_unlink(shard, ask);
    pthread_mutex_unlock(&shard->lock);
    if (!ask)
        return; /* late, or never asked: dropped, as the protocol has it */
    ask_cancel_timer(ask);
    ask_tell(ask, ZR_OK, response);
    ask_gone(ask);
}

void zk_ask_fail_all(struct zr_session *s, zr_status status)
{
    struct shard *shard = shard_of(s);
    for (;;) {
        pthread_mutex_lock(&shard->lock);
        struct zk_ask *ask = s->asks;
        if (ask)
            ask_unlink(shard, ask);
        pthread_mutex_unlock(&shard->lock);
        if (!ask)
            return;
        ask_cancel_timer(ask);
        ask_tell(ask, status, NULL);
        ask_gone(ask);
    }
}

/* ---- the beginning ---------------------------------------------------------------------------------------------------- */
static zr_status ask_admit(struct shard *shard, struct zk_ask *ask, int64_t timeout_ns)
{
    struct zr_session *s = ask->session;
    if (zk_stopping() || !zk_session_open(s))
        return ZR_ECLOSED;
    if (s->n_asks >= ZK_MAX_ASKS_SESSION)
        return ZR_EFULL;
    if (ask_find(shard, s, ask->opaque))
        return ZR_EAGAIN;
    if (timeout_ns < 0)
        timeout_ns = 0;
    if (timeout_ns > ZK_TIMEOUT_MAX_NS)
        timeout_ns = ZK_TIMEOUT_MAX_NS;
    zr_status status = zk_timer_at(zk_mono_ns() + timeout_ns, ask_timer, ask, &ask->timer);
    if (status == ZR_OK)
        ask_link(shard, ask);
    return status;
}

zr_status zk_ask_enter(struct zr_session *s, int32_t opaque, int64_t timeout_ns, const struct zk_listener_of_ask *to, struct zk_ask **ret)
{
    if (atomic_fetch_add_explicit(&n_asks, 1, memory_order_relaxed) >= ZK_MAX_ASKS) {
        atomic_fetch_sub_explicit(&n_asks, 1, memory_order_relaxed);
        return ZR_EFULL;
    }
    struct zk_ask *ask = calloc(1, sizeof *ask);
    zr_status status = ask ? ZR_OK : ZR_ENOMEM;
    if (ask) {
        ask->session = zk_session_hold(s);
        ask->to = *to;
        ask->opaque = opaque;
        atomic_init(&ask->refs, 3);
        struct shard *shard = shard_of(s);
        pthread_mutex_lock(&shard->lock);
        status = ask_admit(shard, ask, timeout_ns);
        pthread_mutex_unlock(&shard->lock);
    }
    if (status != ZR_OK) {
        atomic_fetch_sub_explicit(&n_asks, 1, memory_order_relaxed);
        if (ask)
            zk_session_release(s);
        free(ask);
        return status;
    }
    zk_metric_add(zk_rem.metrics.asks, 1);
    zk_metric_add(zk_rem.metrics.asks_pending, 1);
    *ret = ask;
    return ZR_OK;
}

zr_status zk_ask_sent(struct zk_ask *ask, zr_status status)
{
    if (status != ZR_OK) {
        struct shard *shard = shard_of(ask->session);
        pthread_mutex_lock(&shard->lock);
        uint32_t mine = ask_unlink(shard, ask);
        pthread_mutex_unlock(&shard->lock);
        if (mine) {
            ask_cancel_timer(ask);
            ask_gone(ask);
        } else {
            status = ZR_OK;
        }
    }
    ask_unref(ask);
    return status;
}

zr_status zk_ask_command(struct zr_session *s, const struct zr_command *request, int64_t timeout_ns, const struct zk_listener_of_ask *to)
{
    struct zr_command room;
    const struct zr_command *full = zk_command_full(request, &room);
    if (!full)
        return ZR_EINVAL;
    struct zk_ask *ask = NULL;
    zr_status status;
    int32_t opaque;
    uint32_t tries = 0;
    do {
        opaque = zk_opaque_next();
        status = zk_ask_enter(s, opaque, timeout_ns, to, &ask);
    } while (status == ZR_EAGAIN && ++tries < 8); /* that number is still pending from a round of the counter ago */
    if (status != ZR_OK) {
        if (full->done)
            full->done(full->done_ctx, status);
        return status;
    }
    return zk_ask_sent(ask, zk_out_command(s, full, ZL_TYPE_JSON, 0, opaque));
}

zr_status zk_ask(struct zr_session *session, const struct zr_command *request, int64_t timeout_ns,
                 void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response), void *ctx)
{
    struct zk_listener_of_ask to = { on_answer, NULL, ctx };
    return zk_ask_command(session, request, timeout_ns, &to);
}

zr_status zk_tell(struct zr_session *session, const struct zr_command *request)
{
    struct zr_command room;
    const struct zr_command *full = zk_command_full(request, &room);
    return full ? zk_out_command(session, full, ZL_TYPE_JSON, ZL_FLAG_ONEWAY, zk_opaque_next()) : ZR_EINVAL;
}
