/* SPDX-License-Identifier: Apache-2.0 */
/* queue.c - consume queues: the table of queues, their newest entries in memory, and the writing behind.
 *
 * An append adds an entry to its queue's ring, where readers find it at once. The queue writer brings entries to the files
 * some time later, many queues in one sweep, sorted, each queue's with as few writes as there are files touched.
 * What stays true:
 *   1. ring_lo <= persisted <= next, and the ring holds [ring_lo, next): what is not in the ring is in the files.
 *   2. Every queue with persisted < next is on the dirty list, or is being written by the holder of drain_lock.
 *   3. The memory of all rings is bounded: above max_tail_bytes an appender writes queue files itself; above ZS_MAX_RING
 *      entries of one queue that could not be written, appends to it are refused.
 *   4. An idle queue has no ring and no descriptor, nor has a removed one.
 *   5. A handle is never freed before the store ends. A removed topic's handles are out of the table and `dead`.
 *
 * LOCKING: see zs_int.h. queue->lock is never held over a file operation; drain_lock is (that is its purpose). */
#include "bcq.h"
#include "ext.h"
#include <errno.h>
#include <stdlib.h>

#define DRAIN_ENTRIES 4096u
#define SEARCH_ENTRIES 256u
#define FIRST_RING 16u
#define LINGER_NS 200000000
#define SWEEP_NS 5000000000
#define SAVE_BYTES (256ll << 20)
#define SYNC_FEW 256u /* up to so many queues are synced one by one */

/* ---- the table ------------------------------------------------------------------------------------------------------ */

zr_status zs_queue_name_ok(struct zr_str topic)
{
    if (topic.len == 0 || topic.len > ZL_RETRY_TOPIC_MAX) return ZR_EINVAL;
    if (topic.ptr[0] == '.' && (topic.len == 1 || (topic.len == 2 && topic.ptr[1] == '.'))) return ZR_EINVAL;
    if (memchr(topic.ptr, '/', topic.len) || memchr(topic.ptr, 0, topic.len)) return ZR_EINVAL;
    return ZR_OK;
}

static uint64_t queue_hash(struct zr_str topic, int32_t id)
{
    return zl_hash(topic.ptr, topic.len) + (uint64_t)(uint32_t)id * 0x9E3779B97F4A7C15ull;
}

static struct zr_queue *table_find(struct zr_inst *st, struct zr_str topic, int32_t id, uint64_t hash)
{
    if (st->n_buckets == 0) return NULL;
    for (struct zr_queue *q = st->buckets[hash & (st->n_buckets - 1)]; q; q = q->hash_next)
        if (q->hash == hash && q->id == id && q->topic_len == topic.len && memcmp(q->topic, topic.ptr, topic.len) == 0) return q;
    return NULL;
}

static struct zr_queue **head_bucket(struct zr_queue **heads, uint64_t n, struct zr_str topic)
{
    return &heads[zl_hash(topic.ptr, topic.len) & (n - 1)];
}

struct zr_queue *zs_topic_queues(struct zr_inst *st, struct zr_str topic)
{
    if (st->n_buckets == 0) return NULL;
    struct zr_queue *q = *head_bucket(st->heads, st->n_buckets, topic);
    while (q && (q->topic_len != topic.len || memcmp(q->topic, topic.ptr, topic.len) != 0)) q = q->heads_next;
    return q;
}

static void head_add(struct zr_queue **heads, uint64_t n, struct zr_queue *q)
{
    struct zr_queue **at = head_bucket(heads, n, (struct zr_str){ q->topic, q->topic_len });
    q->heads_next = *at;
    *at = q;
}

static uint32_t table_grow(struct zr_inst *st)
{
    if (st->n_queues < st->n_buckets) return 1;
    uint64_t n = st->n_buckets ? st->n_buckets * 2 : 256;
    struct zr_queue **b = calloc(n, sizeof *b), **heads = calloc(n, sizeof *heads);
    if (!b || !heads) {
        free(b);
        free(heads);
        return st->n_buckets != 0;
    }
    for (uint64_t i = 0; i < st->n_buckets; i++) {
        for (struct zr_queue *q = st->buckets[i], *next; q; q = next) {
            next = q->hash_next;
            q->hash_next = b[q->hash & (n - 1)];
            b[q->hash & (n - 1)] = q;
        }
        for (struct zr_queue *q = st->heads[i], *next; q; q = next) {
            next = q->heads_next;
            head_add(heads, n, q);
        }
    }
    free(st->buckets);
    free(st->heads);
    st->buckets = b;
    st->heads = heads;
    st->n_buckets = n;
    return 1;
}

static struct zr_queue *queue_make(struct zr_inst *st, struct zr_str topic, int32_t id, uint64_t hash)
{
    if (st->n_queues >= ZS_MAX_QUEUES || !table_grow(st)) return NULL;
    struct zr_queue *q = calloc(1, sizeof *q + topic.len + 1);
    if (!q) return NULL;
    pthread_mutex_init(&q->lock, NULL);
    memcpy(q->topic, topic.ptr, topic.len);
    q->topic_len = (uint32_t)topic.len;
    q->id = id;
    q->hash = hash;
    q->serial = st->serials++;
    q->first_file = q->last_file = ZS_NONE;
    atomic_init(&q->batch, zs_bcq_is(st, topic));
    atomic_init(&q->min_begin, -1);
    q->hash_next = st->buckets[hash & (st->n_buckets - 1)];
    st->buckets[hash & (st->n_buckets - 1)] = q;
    struct zr_queue *head = zs_topic_queues(st, topic);
    if (head) {
        q->topic_next = head->topic_next;
        head->topic_next = q;
    } else {
        head_add(st->heads, st->n_buckets, q);
        st->n_topics++;
    }
    st->n_queues++;
    return q;
}

struct zr_queue *zs_queue_find(struct zr_inst *st, struct zr_str topic, int32_t id)
{
    uint64_t hash = queue_hash(topic, id);
    pthread_rwlock_rdlock(&st->table_lock);
    struct zr_queue *q = table_find(st, topic, id, hash);
    pthread_rwlock_unlock(&st->table_lock);
    return q;
}

struct zr_queue *zs_queue(struct zr_inst *st, struct zr_str topic, int32_t queue_id, uint32_t create)
{
    struct zr_queue *q = zs_queue_find(st, topic, queue_id);
    if (q || !create || queue_id < 0 || zs_queue_name_ok(topic) != ZR_OK) return q;
    uint64_t hash = queue_hash(topic, queue_id);
    pthread_rwlock_wrlock(&st->table_lock);
    q = table_find(st, topic, queue_id, hash);
    if (!q) q = queue_make(st, topic, queue_id, hash);
    pthread_rwlock_unlock(&st->table_lock);
    return q;
}

struct zr_queue **zs_queues_list(struct zr_inst *st, uint64_t *ret_n)
{
    uint64_t n = 0;
    pthread_rwlock_rdlock(&st->table_lock);
    struct zr_queue **at = malloc((st->n_queues + 1) * sizeof *at);
    for (uint64_t i = 0; at && i < st->n_buckets; i++)
        for (struct zr_queue *q = st->buckets[i]; q; q = q->hash_next) at[n++] = q;
    pthread_rwlock_unlock(&st->table_lock);
    *ret_n = n;
    return at;
}

/* Takes a queue out of the table of handles. Under table_lock. */
static void table_remove(struct zr_inst *st, struct zr_queue *q)
{
    struct zr_queue **p = &st->buckets[q->hash & (st->n_buckets - 1)];
    while (*p != q) p = &(*p)->hash_next;
    *p = q->hash_next;
    q->hash_next = st->dead;
    st->dead = q;
    st->n_queues--;
}

struct zr_queue **zs_queues_take(struct zr_inst *st, struct zr_str topic, uint64_t *ret_n)
{
    uint64_t n = 0, cap = 1;
    pthread_rwlock_wrlock(&st->table_lock);
    struct zr_queue *head = zs_topic_queues(st, topic);
    for (struct zr_queue *q = head; q; q = q->topic_next) cap++;
    struct zr_queue **at = malloc(cap * sizeof *at);
    if (at && head) {
        struct zr_queue **p = head_bucket(st->heads, st->n_buckets, topic);
        while (*p != head) p = &(*p)->heads_next;
        *p = head->heads_next;
        st->n_topics--;
        for (struct zr_queue *q = head; q; q = q->topic_next) {
            table_remove(st, q);
            at[n++] = q;
        }
    }
    pthread_rwlock_unlock(&st->table_lock);
    *ret_n = n;
    return at;
}

uint64_t zs_count_topics(struct zr_inst *st, uint64_t *ret_queues)
{
    pthread_rwlock_rdlock(&st->table_lock);
    uint64_t r = st->n_topics;
    *ret_queues = st->n_queues;
    pthread_rwlock_unlock(&st->table_lock);
    return r;
}

static void queue_end(struct zr_queue *q)
{
    pthread_mutex_destroy(&q->lock);
    free(q->ring);
    free(q->bcq);
    free(q->ext);
    free(q);
}

void zs_queues_free(struct zr_inst *st)
{
    struct zr_queue *next;
    for (uint64_t i = 0; i < st->n_buckets; i++)
        for (struct zr_queue *q = st->buckets[i]; q; q = next) {
            next = q->hash_next;
            queue_end(q);
        }
    for (struct zr_queue *q = st->dead; q; q = next) {
        next = q->hash_next;
        queue_end(q);
    }
    zs_bcq_free(st);
    zs_ext_free(st);
    free(st->buckets);
    free(st->heads);
    free(st->drain_sort);
    free(st->drain_buf);
    st->buckets = st->heads = NULL;
    st->dead = st->dirty = st->unsynced = st->ringed = NULL;
    st->drain_sort = NULL;
    st->drain_buf = NULL;
    st->drain_cap = 0;
    st->n_buckets = st->n_queues = st->n_topics = 0;
    atomic_store(&st->tail_bytes, 0);
}

void zs_each_queue(struct zr_inst *st,
                   int32_t (*each)(void *ctx, struct zr_str topic, int32_t queue_id, struct zr_queue *queue), void *ctx)
{
    uint64_t n;
    struct zr_queue **at = zs_queues_list(st, &n);
    for (uint64_t i = 0; at && i < n; i++)
        if (each(ctx, (struct zr_str){ at[i]->topic, at[i]->topic_len }, at[i]->id, at[i])) break;
    free(at);
}

/* ---- rings ------------------------------------------------------------------------------------------------------------ */

static void ring_out(const struct zr_queue *q, int64_t from, uint32_t n, uint8_t *to)
{
    uint32_t at = (uint32_t)from & (q->cap - 1), first = q->cap - at;
    if (first > n) first = n;
    memcpy(to, q->ring + (uint64_t)at * ZS_ENTRY, (uint64_t)first * ZS_ENTRY);
    memcpy(to + (uint64_t)first * ZS_ENTRY, q->ring, (uint64_t)(n - first) * ZS_ENTRY);
}

static void ring_in(struct zr_queue *q, int64_t from, uint32_t n, const uint8_t *entries)
{
    for (uint32_t i = 0; i < n; i++)
        memcpy(q->ring + (uint64_t)((uint64_t)(from + i) & (q->cap - 1)) * ZS_ENTRY, entries + (uint64_t)i * ZS_ENTRY, ZS_ENTRY);
}

/* A ring of cap entries that keeps what the old one must keep. Under the queue's lock. */
static zr_status ring_grow(struct zr_inst *st, struct zr_queue *q, uint32_t cap)
{
    uint8_t *ring = malloc((uint64_t)cap * ZS_ENTRY), *old = q->ring;
    if (!ring) return ZR_ENOMEM;
    int64_t next = atomic_load_explicit(&q->next, memory_order_relaxed);
    uint32_t n = (uint32_t)(next - q->ring_lo), old_cap = q->cap;
    uint8_t *keep = NULL;
    if (old && n) {
        keep = malloc((uint64_t)n * ZS_ENTRY);
        if (!keep) {
            free(ring);
            return ZR_ENOMEM;
        }
        ring_out(q, q->ring_lo, n, keep);
    }
    q->ring = ring;
    q->cap = cap;
    if (keep) ring_in(q, q->ring_lo, n, keep);
    free(keep);
    free(old);
    atomic_fetch_add(&st->tail_bytes, ((int64_t)cap - old_cap) * ZS_ENTRY);
    if (!q->ringed) {
        q->ringed = 1;
        pthread_mutex_lock(&st->dirty_lock);
        q->ring_next = st->ringed;
        st->ringed = q;
        pthread_mutex_unlock(&st->dirty_lock);
    }
    return ZR_OK;
}

/* Entries that must stay: those not in the files, and under sync flush those not visible yet. */
static int64_t ring_must(struct zr_inst *st, const struct zr_queue *q)
{
    return st->conf.sync && !st->recovering && q->visible < q->persisted ? q->visible : q->persisted;
}

/* Sync flush: moves visible behind what is flushed. What it passes is in the ring: see ring_must. Under the queue's lock. */
static void visible_advance(struct zr_inst *st, struct zr_queue *q)
{
    int64_t flushed = atomic_load_explicit(&st->flushed, memory_order_acquire);
    int64_t next = atomic_load_explicit(&q->next, memory_order_relaxed);
    if (q->end_phys <= flushed) q->visible = next;
    while (q->visible < next) {
        struct zs_entry e;
        zs_entry_load(q->ring + (uint64_t)((uint64_t)q->visible & (q->cap - 1)) * ZS_ENTRY, &e);
        if (e.phys + e.size > flushed) return;
        q->visible++;
    }
}

zr_status zs_queue_reserve(struct zr_inst *st, struct zr_queue *q)
{
    zr_status rc = ZR_OK;
    pthread_mutex_lock(&q->lock);
    int64_t ahead = atomic_load_explicit(&q->next, memory_order_relaxed) + q->pending + 1;
    if (ahead - ring_must(st, q) > (int64_t)q->cap && st->conf.sync && !st->recovering) visible_advance(st, q);
    if (ahead - ring_must(st, q) > (int64_t)q->cap) {
        uint32_t cap = q->cap ? q->cap * 2 : FIRST_RING;
        rc = cap > ZS_MAX_RING ? ZR_EFULL : ring_grow(st, q, cap);
    }
    if (rc == ZR_OK) {
        q->pending++;
        q->ring_used = 1;
    }
    pthread_mutex_unlock(&q->lock);
    return rc;
}

void zs_queue_unreserve(struct zr_queue *q)
{
    pthread_mutex_lock(&q->lock);
    q->pending--;
    pthread_mutex_unlock(&q->lock);
}

static void dirty_add(struct zr_inst *st, struct zr_queue *q)
{
    pthread_mutex_lock(&st->dirty_lock);
    q->dirty_next = st->dirty;
    st->dirty = q;
    pthread_mutex_unlock(&st->dirty_lock);
}

void zs_queue_push(struct zr_inst *st, struct zr_queue *q, const struct zs_entry *e)
{
    pthread_mutex_lock(&q->lock);
    int64_t next = atomic_load_explicit(&q->next, memory_order_relaxed);
    zs_entry_store(q->ring + (uint64_t)((uint64_t)next & (q->cap - 1)) * ZS_ENTRY, e);
    if (next + 1 - q->ring_lo > (int64_t)q->cap) q->ring_lo = next + 1 - q->cap;
    q->pending--;
    if (zs_entry_real(e)) q->end_phys = e->phys + e->size;
    atomic_store_explicit(&q->next, next + 1, memory_order_release);
    uint32_t add = !q->dirty;
    q->dirty = 1;
    pthread_mutex_unlock(&q->lock);
    if (add) dirty_add(st, q);
}

void zs_queue_reset(struct zr_inst *st, struct zr_queue *q, int64_t next, int64_t end_phys)
{
    pthread_mutex_lock(&q->lock);
    if (q->ring) atomic_fetch_sub(&st->tail_bytes, (int64_t)q->cap * ZS_ENTRY);
    free(q->ring);
    q->ring = NULL;
    q->cap = 0;
    q->ring_lo = q->persisted = q->synced = q->assign = q->visible = next;
    q->end_phys = q->persisted_end = q->synced_end = end_phys;
    atomic_store(&q->next, next);
    if (atomic_load(&q->min) > next) atomic_store(&q->min, next);
    atomic_store(&q->min_begin, -1);
    pthread_mutex_unlock(&q->lock);
}

/* Under the queue's lock. What a removed queue had in it alone goes with it. */
static void ring_free(struct zr_inst *st, struct zr_queue *q, int64_t next)
{
    atomic_fetch_sub(&st->tail_bytes, (int64_t)q->cap * ZS_ENTRY);
    free(q->ring);
    q->ring = NULL;
    q->cap = 0;
    q->ring_lo = next;
    if (atomic_load(&q->dead)) q->persisted = q->visible = next;
}

void zs_queue_bury(struct zr_inst *st, struct zr_queue *q)
{
    pthread_mutex_lock(&q->lock);
    if (q->pending == 0) ring_free(st, q, atomic_load_explicit(&q->next, memory_order_relaxed));
    pthread_mutex_unlock(&q->lock);
}

static uint32_t sweep_one(struct zr_inst *st, struct zr_queue *q, uint32_t hard)
{
    uint32_t freed = 0, dead = atomic_load(&q->dead);
    pthread_mutex_lock(&q->lock);
    int64_t next = atomic_load_explicit(&q->next, memory_order_relaxed);
    if (st->conf.sync && q->end_phys <= atomic_load(&st->flushed)) q->visible = next;
    uint32_t idle = q->pending == 0 && (dead || (q->persisted == next && (!st->conf.sync || q->visible == next)));
    if (idle && (hard || dead || !q->ring_used)) {
        ring_free(st, q, next);
        q->ringed = 0;
        freed = 1;
    }
    q->ring_used = 0;
    pthread_mutex_unlock(&q->lock);
    return freed;
}

void zs_queues_sweep(struct zr_inst *st, uint32_t hard)
{
    struct zr_queue *list, *next, *keep = NULL, *last = NULL;
    pthread_mutex_lock(&st->dirty_lock);
    list = st->ringed;
    st->ringed = NULL;
    pthread_mutex_unlock(&st->dirty_lock);
    for (struct zr_queue *q = list; q; q = next) {
        next = q->ring_next; /* before sweep_one: once it is freed, a push may link the queue anew */
        if (sweep_one(st, q, hard)) continue;
        q->ring_next = keep;
        keep = q;
        if (!last) last = q;
    }
    if (!keep) return;
    pthread_mutex_lock(&st->dirty_lock);
    last->ring_next = st->ringed;
    st->ringed = keep;
    pthread_mutex_unlock(&st->dirty_lock);
}

/* ---- writing behind --------------------------------------------------------------------------------------------------- */

void zs_queue_mark_unsynced(struct zr_inst *st, struct zr_queue *q, int64_t from)
{
    if (from < q->synced) q->synced = from;
    if (q->unsynced) return;
    q->unsynced = 1;
    pthread_mutex_lock(&st->dirty_lock);
    q->unsynced_next = st->unsynced;
    st->unsynced = q;
    pthread_mutex_unlock(&st->dirty_lock);
}

int64_t zs_queue_replace(struct zr_inst *st, struct zr_queue *q, int64_t offset, const struct zs_entry *e)
{
    uint8_t raw[ZS_ENTRY];
    int64_t r = 0;
    zs_entry_store(raw, e);
    pthread_mutex_lock(&st->drain_lock);
    if (offset < q->persisted) {
        r = zs_qfile_write(st, q, offset, 1, raw);
        if (r >= 0) zs_queue_mark_unsynced(st, q, offset);
    }
    pthread_mutex_lock(&q->lock);
    if (r >= 0 && offset >= q->ring_lo) ring_in(q, offset, 1, raw);
    if (r >= 0 && e->phys + e->size > q->end_phys) q->end_phys = e->phys + e->size;
    pthread_mutex_unlock(&q->lock);
    pthread_mutex_unlock(&st->drain_lock);
    return r;
}

/* Where the record of the last entry that has one ends. */
static int64_t entries_end(const uint8_t *raw, uint32_t n, int64_t before)
{
    while (n--) {
        struct zs_entry e;
        zs_entry_load(raw + (uint64_t)n * ZS_ENTRY, &e);
        if (zs_entry_real(&e)) return e.phys + e.size;
    }
    return before;
}

static int64_t drain_queue(struct zr_inst *st, struct zr_queue *q)
{
    for (;;) {
        pthread_mutex_lock(&q->lock);
        int64_t from = q->persisted, next = atomic_load_explicit(&q->next, memory_order_relaxed);
        uint32_t n = next - from > (int64_t)DRAIN_ENTRIES ? DRAIN_ENTRIES : (uint32_t)(next - from);
        if (n == 0 || atomic_load(&q->dead)) {
            q->dirty = 0;
            pthread_mutex_unlock(&q->lock);
            return 0;
        }
        ring_out(q, from, n, st->drain_buf);
        pthread_mutex_unlock(&q->lock);

        zs_ext_write(st, q, st->drain_buf, n);
        int64_t r = zs_qfile_write(st, q, from, n, st->drain_buf);
        if (r < 0) return r;
        int64_t end = entries_end(st->drain_buf, n, q->persisted_end);
        zs_queue_mark_unsynced(st, q, from);
        pthread_mutex_lock(&q->lock);
        q->persisted = from + n;
        q->persisted_end = end;
        pthread_mutex_unlock(&q->lock);
    }
}

static int by_serial(const void *a, const void *b)
{
    uint64_t x = (*(struct zr_queue *const *)a)->serial, y = (*(struct zr_queue *const *)b)->serial;
    return x < y ? -1 : x > y;
}

/* Moves the dirty list into drain_sort, in order of the files. Under drain_lock. */
static uint64_t drain_gather(struct zr_inst *st)
{
    uint64_t n = 0;
    pthread_mutex_lock(&st->dirty_lock);
    struct zr_queue *list = st->dirty, *next;
    st->dirty = NULL;
    pthread_mutex_unlock(&st->dirty_lock);
    for (struct zr_queue *q = list; q; q = next) {
        next = q->dirty_next;
        if (n == st->drain_cap) {
            uint64_t cap = st->drain_cap ? st->drain_cap * 2 : 256;
            struct zr_queue **at = realloc(st->drain_sort, cap * sizeof *at);
            if (!at) { /* what does not fit waits for the next round */
                dirty_add(st, q);
                continue;
            }
            st->drain_sort = at;
            st->drain_cap = cap;
        }
        st->drain_sort[n++] = q;
    }
    if (n) qsort(st->drain_sort, n, sizeof *st->drain_sort, by_serial);
    return n;
}

int64_t zs_queues_drain(struct zr_inst *st)
{
    int64_t worst = 0;
    pthread_mutex_lock(&st->drain_lock);
    if (!st->drain_buf) st->drain_buf = malloc(DRAIN_ENTRIES * ZS_ENTRY);
    uint64_t n = st->drain_buf ? drain_gather(st) : 0;
    if (!st->drain_buf) worst = -ENOMEM;
    for (uint64_t i = 0; i < n; i++) {
        int64_t r = worst == -ENOSPC ? worst : drain_queue(st, st->drain_sort[i]);
        if (r < 0) {
            worst = r;
            dirty_add(st, st->drain_sort[i]);
        }
    }
    pthread_mutex_unlock(&st->drain_lock);
    zs_gauge(st, ZS_M_TAIL, atomic_load(&st->tail_bytes));
    if (atomic_exchange(&st->queue_writes_fail, worst < 0) != (uint32_t)(worst < 0)) {
        if (worst < 0) zs_log(st, ZR_LOG_ERROR, "queue files cannot be written: %s; entries stay in memory", zs_errno_text(worst));
        else zs_log(st, ZR_LOG_INFO, "queue files can be written again");
    }
    return worst;
}

/* The kernel may have dropped the pages and marked them clean: the next sync would succeed, and prove nothing. */
void zs_queues_unsure(struct zr_inst *st, int64_t error)
{
    if (error == -ENOENT || error == -EMFILE || error == -ENFILE || error == -ENOMEM) return; /* a folder was not even opened */
    if (atomic_exchange(&st->queues_unsure, 1)) return;
    zs_log(st, ZR_LOG_ERROR, "queue files could not be made durable: %s; no position is saved any more until a restart, which makes their "
           "entries anew from the log", zs_errno_text(error));
}

/* One queue: drain_lock is let go over the sync itself, so that writing goes on meanwhile. */
static int64_t sync_queue(struct zr_inst *st, struct zr_queue *q)
{
    pthread_mutex_lock(&st->drain_lock);
    q->unsynced = 0;
    int64_t from = q->synced, to = q->persisted, end = q->persisted_end, ext_from, ext_to;
    uint32_t dead = atomic_load(&q->dead);
    zs_ext_sync_begin(q, &ext_from, &ext_to);
    pthread_mutex_unlock(&st->drain_lock);
    int64_t r = dead ? 0 : zs_ext_sync(st, q, ext_from, ext_to);
    if (r >= 0 && !dead) r = zs_qfile_sync(st, q, from, to);
    if (atomic_load(&q->dead)) return 0; /* its files may have gone under our hands */
    pthread_mutex_lock(&st->drain_lock);
    if (r < 0) {
        zs_queue_mark_unsynced(st, q, from);
    } else {
        q->synced = to;
        q->synced_end = end;
        zs_ext_sync_end(q);
        zs_qfile_look(st, q, from, to);
    }
    pthread_mutex_unlock(&st->drain_lock);
    return r;
}

/* Very many queues: one sync of the whole file system instead of some for each. -EOPNOTSUPP: not here. */
static int64_t sync_all(struct zr_inst *st, struct zr_queue **at, uint64_t n)
{
    if (!ZR_HAS(struct zr_io_v1, st->io, sync_fs) || !st->io->sync_fs) return -EOPNOTSUPP;
    int64_t ext_from, ext_to;
    uint32_t ext = 0;
    pthread_mutex_lock(&st->drain_lock);
    for (uint64_t i = 0; i < n; i++) {
        zs_ext_sync_begin(at[i], &ext_from, &ext_to);
        ext |= ext_to > ext_from;
        at[i]->unsynced = 0;
        atomic_store(&at[i]->name_unsynced, 0);
        at[i]->syncing = at[i]->persisted;
        at[i]->syncing_end = at[i]->persisted_end;
    }
    pthread_mutex_unlock(&st->drain_lock);
    int64_t r = ext ? st->io->sync_fs(st->io->ctx, st->ext_dir) : 0;
    if (r >= 0) r = st->io->sync_fs(st->io->ctx, st->queue_dir);
    if (r < 0 && r != -EOPNOTSUPP) zs_queues_unsure(st, r);
    pthread_mutex_lock(&st->drain_lock);
    for (uint64_t i = 0; i < n; i++) {
        if (r < 0) {
            atomic_store(&at[i]->name_unsynced, 1);
            zs_queue_mark_unsynced(st, at[i], at[i]->synced);
        } else {
            at[i]->synced = at[i]->syncing;
            at[i]->synced_end = at[i]->syncing_end;
            zs_ext_sync_end(at[i]);
        }
    }
    pthread_mutex_unlock(&st->drain_lock);
    return r;
}

/* The list as an array, if it is long; NULL: it is short, or there is no memory for that. */
static struct zr_queue **many_of(struct zr_queue *list, uint64_t *ret_n)
{
    uint64_t n = 0;
    for (struct zr_queue *q = list; q; q = q->unsynced_next) n++;
    struct zr_queue **at = n > SYNC_FEW ? malloc(n * sizeof *at) : NULL;
    for (uint64_t i = 0; at && i < n; i++, list = list->unsynced_next) at[i] = list;
    *ret_n = n;
    return at;
}

int64_t zs_queues_sync(struct zr_inst *st)
{
    int64_t worst = 0;
    uint64_t n;
    struct zr_queue *list, *next;
    pthread_mutex_lock(&st->dirty_lock);
    list = st->unsynced;
    st->unsynced = NULL;
    pthread_mutex_unlock(&st->dirty_lock);
    struct zr_queue **many = many_of(list, &n);
    int64_t all = many ? sync_all(st, many, n) : -EOPNOTSUPP;
    free(many);
    if (all != -EOPNOTSUPP) return all;
    for (struct zr_queue *q = list; q; q = next) {
        next = q->unsynced_next; /* before sync_queue: it may be linked anew */
        int64_t r = sync_queue(st, q);
        if (r < 0) worst = r;
    }
    return worst;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------ */

int64_t zs_queue_copy(struct zr_inst *st, struct zr_queue *q, int64_t offset, uint32_t n, uint8_t *to, uint32_t nowait)
{
    pthread_mutex_lock(&q->lock);
    int64_t next = atomic_load_explicit(&q->next, memory_order_relaxed), lo = q->ring_lo;
    if (offset >= next || offset < 0) {
        pthread_mutex_unlock(&q->lock);
        return 0;
    }
    if (offset >= lo) {
        if (n > next - offset) n = (uint32_t)(next - offset);
        ring_out(q, offset, n, to);
        pthread_mutex_unlock(&q->lock);
        return n;
    }
    pthread_mutex_unlock(&q->lock);
    if (nowait) return -EAGAIN;
    if (n > lo - offset) n = (uint32_t)(lo - offset);
    return zs_qfile_read(st, q, offset, n, to);
}

int64_t zs_queue_visible(struct zr_inst *st, struct zr_queue *q)
{
    if (!st->conf.sync) return atomic_load_explicit(&q->next, memory_order_acquire);
    pthread_mutex_lock(&q->lock);
    visible_advance(st, q);
    int64_t r = q->visible;
    pthread_mutex_unlock(&q->lock);
    return r;
}

/* The first entry in [from, to) that stands for a message, with the first behind the filler before it. 0: none. */
static uint32_t first_real(struct zr_inst *st, struct zr_queue *q, int64_t from, int64_t to, struct zs_entry *ret, int64_t *ret_at,
                           int64_t *ret_keep)
{
    uint8_t raw[SEARCH_ENTRIES * ZS_ENTRY];
    *ret_keep = -1;
    while (from < to) {
        int64_t n = zs_queue_copy(st, q, from, to - from < (int64_t)SEARCH_ENTRIES ? (uint32_t)(to - from) : SEARCH_ENTRIES, raw, 0);
        if (n <= 0) { /* a file is missing or cannot be read: its entries may come back */
            if (*ret_keep < 0) *ret_keep = from;
            int64_t per = st->conf.queue_file_size / ZS_ENTRY;
            from = (from / per + 1) * per;
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            zs_entry_load(raw + i * ZS_ENTRY, ret);
            if (ret->size == ZS_FILLER) {
                *ret_keep = -1;
                continue;
            }
            if (*ret_keep < 0) *ret_keep = from + i;
            if (zs_entry_real(ret)) {
                *ret_at = from + i;
                return 1;
            }
        }
        from += n;
    }
    return 0;
}

/* The first offset whose record lies at or behind begin. Entries that are damaged (zero) right before it are kept: reading
 * makes them anew. Filler is not. */
static int64_t find_min(struct zr_inst *st, struct zr_queue *q, int64_t lo, int64_t next, int64_t begin)
{
    int64_t best = next, hi = next, mid = lo;
    while (lo < hi) {
        struct zs_entry e;
        int64_t at, keep;
        if (!first_real(st, q, mid, hi, &e, &at, &keep)) {
            hi = mid;
            if (keep >= 0) best = keep;
        } else if (e.phys >= begin) {
            best = keep;
            hi = mid;
        } else {
            lo = at + 1;
        }
        mid = lo + (hi - lo) / 2;
    }
    return best;
}

int64_t zs_queue_min(struct zr_inst *st, struct zr_queue *q)
{
    int64_t begin = atomic_load_explicit(&st->begin, memory_order_acquire);
    int64_t min = atomic_load_explicit(&q->min, memory_order_acquire);
    if (atomic_load_explicit(&q->min_begin, memory_order_acquire) == begin) return min;
    int64_t next = atomic_load_explicit(&q->next, memory_order_acquire);
    int64_t found = min < next ? find_min(st, q, min, next, begin) : min;
    pthread_mutex_lock(&q->lock);
    if (found > atomic_load(&q->min)) atomic_store(&q->min, found);
    min = atomic_load(&q->min);
    atomic_store_explicit(&q->min_begin, begin, memory_order_release);
    pthread_mutex_unlock(&q->lock);
    return min;
}

uint32_t zs_queue_min_known(struct zr_inst *st, struct zr_queue *q)
{
    int64_t begin = atomic_load_explicit(&st->begin, memory_order_acquire);
    if (atomic_load_explicit(&q->min_begin, memory_order_acquire) == begin) return 1;
    pthread_mutex_lock(&q->lock);
    int64_t min = atomic_load(&q->min);
    uint32_t known = min >= atomic_load(&q->next) || (q->ring && min >= q->ring_lo);
    pthread_mutex_unlock(&q->lock);
    return known;
}

void zs_bounds(struct zr_inst *st, struct zr_queue *q, int64_t *ret_min, int64_t *ret_max)
{
    *ret_min = *ret_max = 0;
    if (!q || atomic_load_explicit(&q->dead, memory_order_relaxed)) return;
    *ret_max = zs_queue_visible(st, q);
    *ret_min = zs_queue_min(st, q);
    if (*ret_min > *ret_max) *ret_min = *ret_max;
}

/* May it lead to a record? Filler is what it is. */
static uint32_t plausible(struct zr_inst *st, const struct zs_entry *e)
{
    if (e->size == ZS_FILLER) return 1;
    return zs_entry_real(e) && e->size >= 91 && e->size <= st->segs.size && e->phys <= atomic_load(&st->end) - e->size;
}

uint32_t zs_entries(struct zr_inst *st, struct zr_queue *q, int64_t offset, int64_t *physical, uint32_t *sizes,
                    int64_t *tag_codes, uint32_t cap)
{
    uint8_t raw[SEARCH_ENTRIES * ZS_ENTRY];
    uint32_t done = 0;
    int64_t healed = -1;
    if (!q || atomic_load(&q->dead)) return 0;
    int64_t max = zs_queue_visible(st, q);
    while (done < cap && offset < max) {
        uint32_t want = cap - done < SEARCH_ENTRIES ? cap - done : SEARCH_ENTRIES;
        if (want > max - offset) want = (uint32_t)(max - offset);
        int64_t n = zs_queue_copy(st, q, offset, want, raw, 0);
        if (n <= 0) {
            if (n < 0 || healed == offset || zs_heal(st, q, offset) <= 0) break;
            healed = offset;
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            struct zs_entry e;
            zs_entry_load(raw + i * ZS_ENTRY, &e);
            if (!plausible(st, &e) && healed != offset + i) { /* lost or damaged: made anew, and looked at again */
                healed = offset + i;
                if (zs_heal(st, q, healed) > 0) {
                    n = i;
                    break;
                }
            }
            if (e.tags <= ZS_EXT_ADDRESS) zs_tags_resolve(st, q, &e, 1, NULL, NULL);
            physical[done] = e.phys;
            sizes[done] = (uint32_t)e.size;
            tag_codes[done++] = e.tags;
        }
        offset += n;
    }
    return done;
}

/* ---- the queue writer ---------------------------------------------------------------------------------------------------- */

void zs_queue_writer_wake(struct zr_inst *st, uint32_t hurry)
{
    if (!hurry && !atomic_load(&st->work_idle)) return;
    pthread_mutex_lock(&st->work_lock);
    st->work_hurry |= hurry;
    pthread_cond_signal(&st->work_cond);
    pthread_mutex_unlock(&st->work_lock);
}

static uint32_t list_there(struct zr_inst *st, struct zr_queue **list)
{
    pthread_mutex_lock(&st->dirty_lock);
    uint32_t r = *list != NULL;
    pthread_mutex_unlock(&st->dirty_lock);
    return r;
}

/* When the next snapshot and checkpoint are due; INT64_MAX: nothing happened since the last. A costly one comes less often. */
static int64_t save_due(struct zr_inst *st)
{
    int64_t end = atomic_load(&st->end), wait = st->conf.checkpoint_interval_ms * 1000000;
    if (end == st->saved_pos || atomic_load(&st->failed) || atomic_load(&st->queues_unsure)) return INT64_MAX;
    if (wait < st->saved_cost_ns * 10) wait = st->saved_cost_ns * 10;
    if (end - st->saved_pos >= SAVE_BYTES && wait > st->saved_cost_ns * 4) wait = st->saved_cost_ns * 4;
    return st->saved_at_ns + wait;
}

/* Waits until there is something to write or something is due. The first entry does not end the wait: after it, more may
 * gather for LINGER_NS, so that one write takes many. Under work_lock. */
static void writer_wait(struct zr_inst *st, int64_t sweep_at)
{
    int64_t dirty_since = 0;
    while (!st->work_hurry && !atomic_load(&st->stopping)) {
        int64_t now = zs_mono(st), due = save_due(st);
        uint32_t dirty = list_there(st, &st->dirty);
        if (dirty && !dirty_since) dirty_since = now;
        if (dirty && dirty_since + LINGER_NS < due) due = dirty_since + LINGER_NS;
        if (list_there(st, &st->ringed) && sweep_at < due) due = sweep_at;
        if (due <= now) return;
        atomic_store(&st->work_idle, !dirty);
        if (dirty || !list_there(st, &st->dirty)) {
            if (due == INT64_MAX) pthread_cond_wait(&st->work_cond, &st->work_lock);
            else zs_cond_wait_ns(&st->work_cond, &st->work_lock, due - now);
        }
        atomic_store(&st->work_idle, 0);
    }
}

void zs_queue_writer_main(void *arg)
{
    struct zr_inst *st = arg;
    int64_t sweep_at = zs_mono(st) + SWEEP_NS;
    pthread_mutex_lock(&st->work_lock);
    while (!atomic_load(&st->stopping)) {
        writer_wait(st, sweep_at);
        st->work_hurry = 0;
        pthread_mutex_unlock(&st->work_lock);
        if (list_there(st, &st->dirty)) zs_queues_drain(st);
        int64_t now = zs_mono(st);
        if (now >= sweep_at) {
            zs_queues_sweep(st, 0);
            sweep_at = now + SWEEP_NS;
        }
        if (now >= save_due(st)) {
            zs_save(st, 0);
            st->saved_at_ns = zs_mono(st);
            st->saved_cost_ns = st->saved_at_ns - now;
        }
        pthread_mutex_lock(&st->work_lock);
    }
    pthread_mutex_unlock(&st->work_lock);
}
