/* SPDX-License-Identifier: Apache-2.0 */
/* hold.c - long polling: pulls that found nothing and wait for a message, or for their time to pass.
 *
 * A held pull is in three lists: of its queue (woken by what arrives), of a timing wheel (ended when its time has
 * passed) and of its connection (dropped with it). Who wants it sets its state from HELD to TAKEN; who succeeds owns
 * it, takes it out of all three, and runs, posts or drops it. The queue's list is one of lists: pulls of one filter are kin,
 * the first of them stands for all in the list of heads, and a message is asked about once for each head.
 *
 * What stays true:
 *   1. A pull that is TAKEN is touched by its taker only, but for the links of lists it still is in; it is freed
 *      only after it was taken out of all three, so whoever walks a list under its lock sees live objects.
 *   2. No message is missed: the holder links the pull first and then looks at the queue's end; the appender makes
 *      the message visible first and then looks for held pulls. Between the two there is a full fence on both sides.
 *   3. There is no scan: the timer is set to the first slot of the wheel that holds anything.
 *   4. The thread that appended runs the first ZB_WOKEN_HERE pulls that its turn woke: their answers go to the sockets
 *      without another thread's waking up. The rest is for their own lanes, which do it side by side and with one write
 *      for each connection, so that the producer's answer does not wait for hundreds of consumers.
 *   5. What an append costs does not grow with the number of pulls that stay held: it looks at ZB_MAX_HEADS heads at most, and
 *      at the kin of those heads that the message is for. A pull that is looked at and not taken waits for a later offset.
 *   6. While it is NEW it is its holder's, although it is in the lists: who would take it makes it MISSED instead, and the
 *      holder, which sees that, takes it.
 *
 * LOCKING. queue->lock guards a queue's list; hold_lock guards the wheel and the lists of connections. Order:
 * queue->lock, then hold_lock. No filter, storage or answer is called under either (filters are judged between two
 * looks at the list). */
#include "broker/internal.h"

#define TICK_NS 10000000ll
#define SLOTS 2048u /* of 10 ms: 20 s; what lasts longer goes round again */
static pthread_mutex_t hold_lock = PTHREAD_MUTEX_INITIALIZER;
static struct zb_pull *wheel[SLOTS];
static uint64_t occupied[SLOTS / 64];
static uint64_t done_tick; /* all slots up to it were looked at */
static uint64_t armed_tick, timer;
static _Atomic uint64_t n_held;

uint64_t zb_hold_count(void)
{
    return atomic_load(&n_held);
}

/* ---- lists ---- */
static struct zb_pull *head_of(const struct zb_queue *q, const struct zb_filter *match)
{
    struct zb_pull *head = q->heads;
    while (head && head->match != match)
        head = head->head_next;
    return head;
}

static void head_link(struct zb_queue *q, struct zb_pull *p)
{
    p->is_head = 1;
    p->head_prev = NULL;
    p->head_next = q->heads;
    if (q->heads)
        q->heads->head_prev = p;
    q->heads = p;
    q->n_heads++;
}

/* In its place comes the next of its kin; NULL: there is none. */
static void head_unlink(struct zb_queue *q, struct zb_pull *p, struct zb_pull *heir)
{
    struct zb_pull *next = p->head_next, *in_place = heir ? heir : next;
    if (heir) {
        heir->is_head = 1;
        heir->head_next = next;
    }
    if (p->head_prev)
        p->head_prev->head_next = in_place;
    else
        q->heads = in_place;
    if (next)
        next->head_prev = heir ? heir : p->head_prev;
    if (heir)
        heir->head_prev = p->head_prev;
    p->is_head = 0;
    q->n_heads -= heir == NULL;
}

/* Where a queue has too many filters already, one more is not asked about: its pulls look at every message themselves. */
static void queue_link(struct zb_pull *p)
{
    struct zb_queue *q = p->queue;
    struct zb_pull *head = head_of(q, p->match);
    if (!head && p->match && q->n_heads >= ZB_MAX_HEADS) {
        p->unasked = p->match; /* kept, since none is freed under a lock */
        p->match = NULL;
        head = head_of(q, NULL);
    }
    p->prev = head;
    p->next = head ? head->next : NULL;
    p->is_head = 0;
    if (p->next)
        p->next->prev = p;
    if (head)
        head->next = p;
    else
        head_link(q, p);
    atomic_fetch_add(&q->n_held, 1);
}

static void queue_unlink(struct zb_pull *p)
{
    if (p->is_head)
        head_unlink(p->queue, p, p->next);
    if (p->prev)
        p->prev->next = p->next;
    if (p->next)
        p->next->prev = p->prev;
    atomic_fetch_sub(&p->queue->n_held, 1);
}

static void wheel_link(struct zb_pull *p)
{
    uint32_t slot = (uint32_t)(p->due_tick % SLOTS);
    p->wheel_prev = NULL;
    p->wheel_next = wheel[slot];
    if (wheel[slot])
        wheel[slot]->wheel_prev = p;
    wheel[slot] = p;
    occupied[slot / 64] |= 1ull << (slot % 64);
    p->peer_prev = NULL;
    p->peer_next = p->peer->held;
    if (p->peer->held)
        p->peer->held->peer_prev = p;
    p->peer->held = p;
    p->peer->n_held++;
}

static void wheel_unlink(struct zb_pull *p)
{
    uint32_t slot = (uint32_t)(p->due_tick % SLOTS);
    if (p->wheel_prev)
        p->wheel_prev->wheel_next = p->wheel_next;
    else
        wheel[slot] = p->wheel_next;
    if (p->wheel_next)
        p->wheel_next->wheel_prev = p->wheel_prev;
    if (!wheel[slot])
        occupied[slot / 64] &= ~(1ull << (slot % 64));
    if (p->peer_prev)
        p->peer_prev->peer_next = p->peer_next;
    else
        p->peer->held = p->peer_next;
    if (p->peer_next)
        p->peer_next->peer_prev = p->peer_prev;
    p->peer->n_held--;
}

static uint32_t take(struct zb_pull *p)
{
    uint32_t was = atomic_load(&p->state), to;
    do
        to = was == ZB_HELD ? ZB_TAKEN : was == ZB_NEW ? ZB_MISSED : 0;
    while (to && !atomic_compare_exchange_weak(&p->state, &was, to));
    return to == ZB_TAKEN;
}

/* ---- what becomes of taken ones ---- */
static void run_job(struct zb_lane *lane, struct zb_job *job)
{
    (void)lane;
    zb_pull_run_again((struct zb_pull *)(void *)job);
}

static void count_down(void)
{
    atomic_fetch_sub(&n_held, 1);
    zk_metric_add(zb.meter.held, -1);
}

static void finish(struct zb_pull *p, uint32_t here)
{
    count_down();
    if (here) {
        zb_pull_run_again(p);
    } else {
        p->job.run = run_job;
        zb_lane_post(p->lane, &p->job);
    }
}

/* Taken and out of the queue's list, chained by next: out of the wheel, and on. */
static void finish_chain(struct zb_pull *chain, uint32_t *here)
{
    if (!chain)
        return;
    pthread_mutex_lock(&hold_lock);
    for (struct zb_pull *p = chain; p; p = p->next)
        wheel_unlink(p);
    pthread_mutex_unlock(&hold_lock);
    while (chain) {
        struct zb_pull *next = chain->next;
        uint32_t now = here && *here;
        if (now)
            --*here;
        finish(chain, now);
        chain = next;
    }
}

/* Taken and out of the wheel, chained by wheel_next: out of the queue's list. */
static void leave_queue(struct zb_pull *p)
{
    pthread_mutex_lock(&p->queue->lock);
    queue_unlink(p);
    pthread_mutex_unlock(&p->queue->lock);
}

/* ---- time ---- */
static void wheel_turn(void *arg);

static void wheel_arm(uint64_t tick)
{
    if (timer && armed_tick <= tick)
        return;
    if (timer)
        zk_timer_cancel(timer);
    armed_tick = tick;
    if (zk_timer_at((int64_t)tick * TICK_NS, wheel_turn, NULL, &timer) != ZR_OK)
        timer = 0;
}

static void wheel_arm_next(void)
{
    for (uint64_t i = 1; i <= SLOTS;) {
        uint32_t slot = (uint32_t)((done_tick + i) % SLOTS);
        uint64_t word = occupied[slot / 64] >> (slot % 64);
        if (word & 1) {
            wheel_arm(done_tick + i);
            return;
        }
        i += word ? (uint64_t)__builtin_ctzll(word) : 64 - slot % 64;
    }
}

static struct zb_pull *slot_take(uint32_t slot, uint64_t now_tick, struct zb_pull *chain)
{
    for (struct zb_pull *p = wheel[slot]; p;) {
        struct zb_pull *next = p->wheel_next;
        if (p->due_tick <= now_tick && take(p)) {
            wheel_unlink(p);
            p->wheel_next = chain;
            chain = p;
        }
        p = next;
    }
    return chain;
}

static void wheel_turn(void *arg)
{
    struct zb_pull *chain = NULL;
    (void)arg;
    pthread_mutex_lock(&hold_lock);
    uint64_t now = (uint64_t)(zk_mono_ns() / TICK_NS);
    uint64_t from = now - done_tick > SLOTS ? now - SLOTS : done_tick;
    timer = 0;
    for (uint64_t t = from + 1; t <= now; t++)
        chain = slot_take((uint32_t)(t % SLOTS), now, chain);
    done_tick = now > done_tick ? now : done_tick;
    wheel_arm_next();
    pthread_mutex_unlock(&hold_lock);
    while (chain) {
        struct zb_pull *next = chain->wheel_next;
        leave_queue(chain);
        finish(chain, 0);
        chain = next;
    }
}

/* ---- holding ---- */
static const char *const refused_all = "too many pulls are held (maxHeldPulls)";
static const char *const refused_peer = "too many pulls of this connection are held (maxHeldPullsOfConnection)";

/* *ret_closed: the connection is. NULL, or why it is not held. */
static const char *link_in(struct zb_pull *p, uint32_t *ret_closed)
{
    const char *why = NULL;
    pthread_mutex_lock(&p->queue->lock);
    pthread_mutex_lock(&hold_lock);
    *ret_closed = atomic_load(&p->peer->closed);
    if (!*ret_closed && p->peer->n_held >= ZB_SET(max_held_peer))
        why = refused_peer;
    if (!*ret_closed && !why) {
        atomic_store(&p->state, ZB_NEW);
        if (p->due_tick <= done_tick)
            p->due_tick = done_tick + 1;
        queue_link(p);
        wheel_link(p);
        wheel_arm(p->due_tick);
    }
    pthread_mutex_unlock(&hold_lock);
    pthread_mutex_unlock(&p->queue->lock);
    return why;
}

/* Linked, and still ours: it stays unless something came meanwhile. */
static void stay_or_run(struct zb_pull *p)
{
    int64_t min = 0, max = 0;
    uint32_t was = ZB_NEW;
    struct zr_queue *handle = zb_queue_handle(p->topic, p->queue);
    atomic_thread_fence(memory_order_seq_cst);
    zb.storage->bounds(zb.storage_inst, handle, &min, &max);
    if (max <= p->offset && !atomic_load(&zb.stopping) && atomic_compare_exchange_strong(&p->state, &was, ZB_HELD))
        return; /* from here on it may be gone */
    atomic_store(&p->state, ZB_TAKEN);
    leave_queue(p);
    pthread_mutex_lock(&hold_lock);
    wheel_unlink(p);
    pthread_mutex_unlock(&hold_lock);
    finish(p, 1);
}

const char *zb_hold(struct zb_pull *p, int64_t until_ns)
{
    const char *why = refused_all;
    uint32_t closed = 0;
    if (atomic_fetch_add(&n_held, 1) < (uint64_t)ZB_SET(max_held)) {
        p->due_tick = (uint64_t)((until_ns + TICK_NS - 1) / TICK_NS);
        why = link_in(p, &closed);
    }
    if (why) {
        atomic_fetch_sub(&n_held, 1);
        zk_metric_add(zb.meter.held_refused, 1);
        return why;
    }
    zk_metric_add(zb.meter.held, 1);
    if (closed) {
        count_down();
        zk_token_drop(p->token);
        zb_pull_free(p);
    } else {
        stay_or_run(p);
    }
    return NULL;
}

/* ---- arrivals ---- */
/* A head and its kin, as far as they wait for what is at queue_offset, out of the queue and before the chain. */
static struct zb_pull *take_kin(struct zb_pull *head, int64_t queue_offset, struct zb_pull *chain)
{
    for (struct zb_pull *p = head; p;) {
        struct zb_pull *next = p->next;
        if (p->offset <= queue_offset && take(p)) {
            queue_unlink(p);
            p->next = chain;
            chain = p;
        }
        p = next;
    }
    return chain;
}

static void take_from_queue(struct zb_queue *q)
{
    struct zb_pull *chain = NULL;
    pthread_mutex_lock(&q->lock);
    for (struct zb_pull *head = q->heads; head;) {
        struct zb_pull *next = head->head_next;
        chain = take_kin(head, INT64_MAX, chain);
        head = next;
    }
    pthread_mutex_unlock(&q->lock);
    finish_chain(chain, NULL);
}

struct asked {
    struct zb_filter *filters[ZB_MAX_HEADS];
    uint32_t n;
};

/* First look: takes whom no filter keeps from it, and notes the filters of the others. */
static struct zb_pull *look(struct zb_queue *q, int64_t queue_offset, uint32_t any_tag, struct asked *asked)
{
    struct zb_pull *chain = NULL;
    asked->n = 0;
    pthread_mutex_lock(&q->lock);
    for (struct zb_pull *head = q->heads; head;) {
        struct zb_pull *next = head->head_next;
        if (!head->match || any_tag)
            chain = take_kin(head, queue_offset, chain);
        else if (asked->n < ZB_MAX_HEADS)
            asked->filters[asked->n++] = zb_filter_ref(head->match);
        head = next;
    }
    pthread_mutex_unlock(&q->lock);
    return chain;
}

/* Keeps those that say yes. Called without a lock: filters are plugins. */
static void ask(struct asked *asked, int64_t tags_code, const struct zr_span *properties)
{
    uint64_t steps = ZR_FILTER_STEPS; /* for all of them: a send does not wait for many dear ones */
    uint32_t n = asked->n;
    asked->n = 0;
    for (uint32_t i = 0; i < n; i++)
        if (zb_filter_match(asked->filters[i], tags_code, properties, &steps))
            asked->filters[asked->n++] = asked->filters[i];
        else
            zb_filter_unref(asked->filters[i]);
}

/* Second look. A filter that was not asked came after the first one, and its pulls have looked for themselves. */
static struct zb_pull *take_asked(struct zb_queue *q, int64_t queue_offset, const struct asked *asked, struct zb_pull *chain)
{
    pthread_mutex_lock(&q->lock);
    for (struct zb_pull *head = q->heads; head;) {
        struct zb_pull *next = head->head_next;
        for (uint32_t i = 0; i < asked->n; i++) {
            if (asked->filters[i] == head->match) {
                chain = take_kin(head, queue_offset, chain);
                break;
            }
        }
        head = next;
    }
    pthread_mutex_unlock(&q->lock);
    return chain;
}

void zb_hold_arrived(struct zb_queue *queue, int64_t queue_offset, int64_t tags_code, const struct zr_span *properties,
                     uint32_t any_tag, uint32_t *here)
{
    struct asked asked;
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load(&queue->n_held) == 0)
        return;
    struct zb_pull *chain = look(queue, queue_offset, any_tag, &asked);
    ask(&asked, tags_code, properties);
    if (asked.n)
        chain = take_asked(queue, queue_offset, &asked, chain);
    for (uint32_t i = 0; i < asked.n; i++)
        zb_filter_unref(asked.filters[i]);
    finish_chain(chain, here);
}

void zb_hold_wake_topic(struct zb_topic *topic)
{
    pthread_mutex_lock(&topic->live->lock);
    struct zb_queue *q = topic->live->queues;
    pthread_mutex_unlock(&topic->live->lock);
    for (; q; q = q->next) /* the list only grows at its head while the topic is referenced */
        if (atomic_load(&q->n_held))
            take_from_queue(q);
}

static struct zb_pull *take_all(void)
{
    struct zb_pull *chain = NULL;
    pthread_mutex_lock(&hold_lock);
    for (uint32_t i = 0; i < SLOTS; i++)
        chain = slot_take(i, UINT64_MAX, chain);
    pthread_mutex_unlock(&hold_lock);
    return chain;
}

void zb_hold_wake_all(uint32_t here)
{
    struct zb_pull *chain = take_all();
    while (chain) {
        struct zb_pull *next = chain->wheel_next;
        leave_queue(chain);
        finish(chain, here);
        chain = next;
    }
}

static void drop(struct zb_pull *p)
{
    leave_queue(p);
    count_down();
    zk_metric_add(zb.meter.held_dropped, 1);
    zk_token_drop(p->token);
    zb_pull_free(p);
}

void zb_hold_drop(struct zb_peer *peer)
{
    struct zb_pull *chain = NULL;
    pthread_mutex_lock(&hold_lock);
    for (struct zb_pull *p = peer->held; p;) {
        struct zb_pull *next = p->peer_next;
        if (take(p)) {
            wheel_unlink(p);
            p->wheel_next = chain;
            chain = p;
        }
        p = next;
    }
    pthread_mutex_unlock(&hold_lock);
    while (chain) {
        struct zb_pull *next = chain->wheel_next;
        drop(chain);
        chain = next;
    }
}

void zb_hold_open(void)
{
    done_tick = (uint64_t)(zk_mono_ns() / TICK_NS);
}

void zb_hold_close(void)
{
    struct zb_pull *chain = take_all();
    while (chain) {
        struct zb_pull *next = chain->wheel_next;
        drop(chain);
        chain = next;
    }
    pthread_mutex_lock(&hold_lock);
    if (timer)
        zk_timer_cancel(timer);
    timer = 0;
    pthread_mutex_unlock(&hold_lock);
}
