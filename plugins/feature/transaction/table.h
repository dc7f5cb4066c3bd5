/* SPDX-License-Identifier: Apache-2.0 */
/* table.h - the open transactions in memory: which half messages wait for their producer's word, and when to ask for it.
 *
 * A half message lies at an offset of the half queue. Each time its producer is asked it is written anew at the queue's end, so
 * that the queue's beginning can be let go of: it keeps the offset it had at first (its name here) and gets a new current one.
 *
 * What stays true:
 *   1. `base` is the first offset that is not settled: every half message before it was committed, rolled back, discarded, or
 *      written anew further on. It only grows, and it is what may be saved as the queue's consumer offset.
 *   2. An open message has one slot, found by its first offset; the slot that is due first is at the heap's top.
 *   3. Offsets are known for one window: [next - window, next), and base is in it. Three bits each: settled, decided (its producer
 *      committed it or rolled it back, by its first offset), and which of the two, so that the same word said twice is done once.
 *   4. At most max_open slots and window bits: nothing grows beyond what init was told.
 *
 * LOCKING: none; the owner's lock guards it. */
#ifndef TX_TABLE_H
#define TX_TABLE_H
#include <stdint.h>

#define TX_NONE UINT32_MAX
#define TX_ENDING 0x1u   /* its producer's word is being carried out */
#define TX_CHECKING 0x2u /* it is being written anew, to ask its producer */
#define TX_DOUBT 0x4u    /* found at the start: it may have been committed before a crash */
#define TX_TRY 0x100u    /* from here on: how often in a row it could not be read */
#define TX_TRIES_MAX 255u

struct tx_slot {
    int64_t first, current; /* offsets in the half queue */
    int64_t physical;       /* of the current record */
    int64_t due_ms;         /* monotonic: when it is looked at */
    int64_t ask_ms;         /* when its producer is asked; not before due_ms */
    uint32_t next;          /* in the bucket, or in the free list */
    uint32_t heap_at;
    uint32_t times;         /* how often its producer was asked */
    uint16_t flags, topic;  /* topic: the owner's number of its topic */
};

struct tx_table {
    struct tx_slot *slots;
    uint32_t *heap, *buckets;
    uint64_t *settled, *decided, *backed; /* bits, by offset modulo window */
    int64_t base, next;
    int64_t window;   /* power of two */
    uint32_t n, cap, max_open, n_buckets, free, reserved;
};

/* window: rounded up to a power of two of at least 64. 0 when memory ran out. */
uint32_t tx_init(struct tx_table *t, int64_t base, int64_t window, uint32_t max_open);
void tx_free(struct tx_table *t);
/* An empty table begins elsewhere, with a window at least as large (or the one it has, when memory ran out). */
void tx_restart(struct tx_table *t, int64_t base, int64_t window);
uint64_t tx_memory(const struct tx_table *t);

/* The offset is known from now on (and those before it). 0: it lies beyond the window. */
uint32_t tx_enter(struct tx_table *t, int64_t offset);
void tx_settle(struct tx_table *t, int64_t offset);
uint32_t tx_is_settled(const struct tx_table *t, int64_t offset);
void tx_decide(struct tx_table *t, int64_t first, uint32_t rolled_back);
uint32_t tx_is_decided(const struct tx_table *t, int64_t first);
uint32_t tx_is_rolled_back(const struct tx_table *t, int64_t first); /* decided so */
uint32_t tx_is_known(const struct tx_table *t, int64_t offset);      /* within the window */
/* Moves base over what is settled; returns it. */
int64_t tx_advance(struct tx_table *t);

/* Pointers are good until the next insert or remove. NULL: there is none. */
struct tx_slot *tx_find(const struct tx_table *t, int64_t first);
struct tx_slot *tx_top(const struct tx_table *t);
/* NULL: max_open is reached, memory ran out, or there is one of that name. */
struct tx_slot *tx_insert(struct tx_table *t, int64_t first, int64_t current, int64_t physical, int64_t due_ms);
void tx_due(struct tx_table *t, struct tx_slot *s, int64_t due_ms);
void tx_remove(struct tx_table *t, struct tx_slot *s);
/* It is another one's copy: it goes on under that one's name, or is gone when that one has a slot already. */
struct tx_slot *tx_rename(struct tx_table *t, struct tx_slot *s, int64_t first);
#endif
