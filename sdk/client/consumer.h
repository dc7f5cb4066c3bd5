/* SPDX-License-Identifier: Apache-2.0 */
/* consumer.h - a push consumer from inside.
 *
 *   consumer.c   subscriptions, consume threads, what the callback's answer means, life cycle
 *   process.c    one queue held by a consumer: pulls, messages waiting and running, its offset
 *   rebalance.c  which queues are ours; broker locks for orderly consumers
 *   offsets.c    where a queue begins, and keeping offsets (broker, or a file when broadcasting)
 *
 * A queue we hold is a zc_pq. Its messages stand in a ring in queue order, each waiting, running or done; done ones
 * leave at the head, so that the offset to commit is always the first not done one's. A pq is counted: by the
 * consumer's list, by a pull or timer under way, by its place in the ready list, by a thread that runs its messages.
 *
 * LOCKING: consumer->lock guards everything here that changes, in the consumer and in its pqs. It is held over no call
 * down and no callback. Order: client->members, then consumer->lock. */
#ifndef ZC_CONSUMER_H
#define ZC_CONSUMER_H
#include "internal.h"

#define PULL_DELAY_ERROR_MS 1000 /* after an error of a pull */
#define ORDERLY_PAUSE_MS 1000    /* after ZC_LATER */
#define BACK_PAUSE_MS 5000       /* when a message could not be sent back */
#define LOCK_LIVE_MS 30000       /* a broker's lock not renewed for so long is taken for lost */
#define CONSUME_BATCH_MAX 1024u
#define THREADS_MAX 1024u

struct zc_sub {
    struct zc_sub *next;
    int64_t version;
    char topic[ZC_NAME_MAX];
    char type[16];
    char expression[]; /* "*" for all */
};

struct zc_item {
    struct zc_messages *chunk; /* freed when its last item is done */
    uint32_t index;
    uint16_t state;
    uint16_t times; /* local tries of an orderly message */
};
enum { ITEM_WAITING, ITEM_RUNNING, ITEM_DONE };

struct zc_pq {
    struct zc_pq *next; /* consumer's list */
    struct zc_pq *next_ready;
    struct zc_consumer *consumer;
    atomic_uint refs;
    struct zc_queue queue;
    char tags[1024]; /* for the exact comparison; "" if the type is not TAG */
    uint32_t dropped, in_ready, pulling, paused, running, resting;
    uint32_t locked;
    int64_t locked_at;   /* ns */
    int64_t next_offset; /* of the next pull */
    int64_t pulled_at;
    struct zc_item *ring; /* absolute numbers head .. tail - 1, at number & (cap - 1) */
    uint64_t head, tail, waiting_from;
    uint32_t cap, n_waiting;
};

struct zc_consumer {
    struct zc_consumer *next; /* under client->members */
    struct zc_client *client;
    struct zc_consumer_options options;
    atomic_uint refs;
    char group[ZC_NAME_MAX], retry_topic[ZC_NAME_MAX];
    char *offsets_file;
    pthread_mutex_t lock;
    pthread_cond_t ready_cond;
    struct zc_sub *subs;
    struct zc_pq *pqs;
    struct zc_pq *ready_head, *ready_tail;
    pthread_t *threads;
    uint32_t n_threads, stop, started;
    atomic_uint thread_no;
    uint64_t n_consumed, n_later;
    struct zc_offset *stored; /* broadcasting: what the file held */
    uint32_t n_stored;
};
struct zc_offset {
    struct zc_queue queue;
    int64_t offset;
};

/* consumer.c */
void zc_consumer_hold(struct zc_consumer *c);
void zc_consumer_release(struct zc_consumer *c);
const struct zc_sub *zc_consumer_sub(const struct zc_consumer *c, const char *topic); /* lock held */

/* process.c */
struct zc_pq *zc_pq_new(struct zc_consumer *c, const struct zc_queue *queue, int64_t offset, const struct zc_sub *sub);
void zc_pq_set_tags(struct zc_pq *pq, const struct zc_sub *sub); /* lock held */
void zc_pq_release(struct zc_pq *pq);
void zc_pq_pull(struct zc_pq *pq);                    /* starts the next pull, if it may; no lock held */
void zc_pq_ready(struct zc_pq *pq);                   /* lock held: a thread should look at it */
void zc_pq_ready_after(struct zc_pq *pq, int32_t ms); /* no lock held */
int64_t zc_pq_commit_offset(const struct zc_pq *pq);  /* lock held */
/* Lock held: takes up to max waiting messages, in order, as copies. Returns how many; *ret_first their first number. */
uint32_t zc_pq_take(struct zc_pq *pq, struct zc_received *to, uint64_t *numbers, uint32_t max);
void zc_pq_done(struct zc_pq *pq, uint64_t number); /* lock held */
void zc_pq_undo(struct zc_pq *pq, uint64_t number); /* lock held: it waits again */
struct zc_item *zc_pq_item(struct zc_pq *pq, uint64_t number);

/* rebalance.c */
void zc_pq_unlock(struct zc_pq *pq); /* gives the broker's lock back; no lock held */
/* Asks for the lock of one queue; 1: held. */
uint32_t zc_pq_lock(struct zc_consumer *c, const struct zc_queue *queue);

/* offsets.c */
int zc_offsets_begin(struct zc_consumer *c, const struct zc_queue *queue, int64_t *ret, struct zc_err *err);
void zc_offsets_load(struct zc_consumer *c);
void zc_offsets_commit_one(struct zc_consumer *c, const struct zc_queue *queue, int64_t offset);
void zc_offsets_commit_all(struct zc_consumer *c);
#endif
