/* SPDX-License-Identifier: Apache-2.0 */
/* broadcast.c - how far each client of a broadcasting group has pulled.
 *
 * A client of a broadcasting group keeps its own offsets. One that changes between pulling here itself and pulling through a proxy
 * (requestSource 1, named by proxyFrowardClientId) loses them, so what each client last asked for is remembered here, and the first
 * pull that comes the other way is answered OFFSET_RESET with it. A proxy's pull with a negative offset asks where to begin.
 *
 * What stays true:
 *   1. Without proxies no pull is answered otherwise than if this file were not there.
 *   2. A client is forgotten broadcastOffsetExpireSecond after its last pull when it is not connected, and
 *      broadcastOffsetExpireMaxSecond after it in every case.
 *   3. The least offset of all clients of a group is kept as that of the group "<group>@broadcast" in consumerOffset.json, as Apache
 *      keeps it: it is where a client that nobody knows begins.
 *   4. At most MAX_CLIENTS are known, with MAX_QUEUES offsets between them; what is beyond that is not remembered.
 *
 * LOCKING. broadcast_lock is a leaf and guards the table. */
#include "broker/internal.h"

#define MAX_CLIENTS 100000u
#define MAX_QUEUES (1u << 20)
#define SCAN_S 5u

struct client {
    struct zr_str key, topic, group, id; /* key: topic 0x00 group 0x00 id; the others lie in it */
    int64_t last_ms;
    int64_t *offsets; /* -1: none */
    uint32_t n, by_proxy;
};
static pthread_mutex_t broadcast_lock = PTHREAD_MUTEX_INITIALIZER;
static struct zb_map clients;
static uint32_t n_queues, seconds;
static _Atomic uint32_t n_known;

struct key {
    char text[3 * ZB_NAME_MAX];
    struct zr_str s;
    uint64_t hash;
};

/* ---- the table; under broadcast_lock ---- */
static uint32_t key_make(struct key *k, const struct zb_pull *p, struct zr_str id)
{
    if (!id.len || p->topic_name.len + p->group.len + id.len + 2 > sizeof k->text)
        return 0;
    char *at = k->text;
    zb_text_put(&at, p->topic_name);
    *at++ = 0;
    zb_text_put(&at, p->group);
    *at++ = 0;
    zb_text_put(&at, id);
    k->s = (struct zr_str){ k->text, (uint64_t)(at - k->text) };
    k->hash = zb_hash(k->s);
    return 1;
}

static struct client *client_new(const struct key *k, const struct zb_pull *p, uint32_t by_proxy)
{
    struct client *c = clients.n < MAX_CLIENTS ? calloc(1, sizeof *c + k->s.len) : NULL;
    if (!c)
        return NULL;
    char *at = (char *)(c + 1);
    c->key = zb_text_put(&at, k->s);
    c->topic = (struct zr_str){ c->key.ptr, p->topic_name.len };
    c->group = (struct zr_str){ c->topic.ptr + c->topic.len + 1, p->group.len };
    c->id = (struct zr_str){ c->group.ptr + c->group.len + 1, k->s.len - c->topic.len - c->group.len - 2 };
    c->by_proxy = by_proxy;
    c->last_ms = zk_wall_ms();
    if (zb_map_put(&clients, k->hash, c->key, c) == ZR_OK) {
        atomic_store(&n_known, (uint32_t)clients.n);
        return c;
    }
    free(c);
    return NULL;
}

static void client_free(struct client *c)
{
    n_queues -= c->n;
    free(c->offsets);
    free(c);
}

static void offset_set(struct client *c, int32_t queue_id, int64_t offset)
{
    uint32_t need = (uint32_t)queue_id + 1, n = c->n ? c->n : 4;
    while (n < need)
        n *= 2;
    if (n > c->n) {
        int64_t *more = n_queues + n - c->n <= MAX_QUEUES ? realloc(c->offsets, n * sizeof *more) : NULL;
        if (!more)
            return;
        for (uint32_t i = c->n; i < n; i++)
            more[i] = -1;
        n_queues += n - c->n;
        c->offsets = more;
        c->n = n;
    }
    if (offset > c->offsets[queue_id]) /* as Apache: only forwards */
        c->offsets[queue_id] = offset;
}

/* ---- pulls ---- */
/* Who pulls, as a client of a broadcasting group; 0: nobody that is looked after here. */
static uint32_t who(struct zb_pull *p, char *text, uint64_t cap, struct zr_str *ret)
{
    if (!p->broadcast || p->queue_id >= ZB_MAX_QUEUES)
        return 0;
    *ret = p->proxy_client;
    return p->broadcast == ZB_BROADCAST_PROXY ? ret->len != 0 : zb_consumer_id(p->group, p->peer, text, cap, ret);
}

static int64_t group_begin(const struct zb_pull *p, struct zr_queue *queue)
{
    char text[ZB_NAME_MAX];
    int64_t min = 0, max = 0, stored = -1;
    if (p->group.len + sizeof ZB_BROADCAST_SUFFIX <= sizeof text) {
        char *at = text;
        zb_text_put(&at, p->group);
        zb_text_put(&at, zl_str(ZB_BROADCAST_SUFFIX));
        stored = zb_offset_get((struct zr_str){ text, (uint64_t)(at - text) }, p->topic_name, p->queue_id);
    }
    if (stored >= 0)
        return stored;
    zb.storage->bounds(zb.storage_inst, queue, &min, &max);
    return max > 0 && zb.storage->resident(zb.storage_inst, queue, 0) ? 0 : max;
}

int64_t zb_broadcast_begin(struct zb_pull *p, struct zr_queue *queue)
{
    uint32_t by_proxy = p->broadcast == ZB_BROADCAST_PROXY, ask = by_proxy && p->offset < 0;
    char text[ZB_NAME_MAX];
    struct zr_str id;
    struct key k;
    int64_t stored = -1;
    if ((!by_proxy && atomic_load_explicit(&n_known, memory_order_relaxed) == 0) || !who(p, text, sizeof text, &id) ||
        !key_make(&k, p, id))
        return -1;
    pthread_mutex_lock(&broadcast_lock);
    struct client *c = zb_map_get(&clients, k.hash, k.s);
    uint32_t moved = c && c->by_proxy != by_proxy;
    if (c && (uint32_t)p->queue_id < c->n)
        stored = c->offsets[p->queue_id];
    pthread_mutex_unlock(&broadcast_lock);
    if (!ask && !moved)
        return -1;
    return stored >= 0 ? stored : group_begin(p, queue);
}

void zb_broadcast_pulled(struct zb_pull *p, int64_t offset)
{
    uint32_t by_proxy = p->broadcast == ZB_BROADCAST_PROXY;
    char text[ZB_NAME_MAX];
    struct zr_str id;
    struct key k;
    if (!who(p, text, sizeof text, &id) || !key_make(&k, p, id))
        return;
    pthread_mutex_lock(&broadcast_lock);
    struct client *c = zb_map_get(&clients, k.hash, k.s);
    if (!c)
        c = client_new(&k, p, by_proxy);
    if (c) {
        c->by_proxy = by_proxy;
        c->last_ms = zk_wall_ms();
        offset_set(c, p->queue_id, offset);
    }
    pthread_mutex_unlock(&broadcast_lock);
}

/* ---- what every few seconds brings ---- */
struct seen { /* of a client: a copy, to look at it without the lock */
    struct zr_str key, topic, group, id;
    int64_t *offsets, last_ms;
    uint32_t n, gone;
};
struct scan {
    struct zk_arena arena;
    struct seen *list;
    uint32_t n, cap;
};

static void seen_add(struct scan *s, const struct client *c)
{
    char *text = zk_arena_alloc(&s->arena, c->key.len);
    int64_t *offsets = zk_arena_alloc(&s->arena, (c->n + 1) * sizeof *offsets);
    if (!text || !offsets || s->n == s->cap)
        return;
    char *at = text;
    struct seen *e = &s->list[s->n++];
    e->key = zb_text_put(&at, c->key);
    e->topic = (struct zr_str){ text, c->topic.len };
    e->group = (struct zr_str){ text + (c->group.ptr - c->key.ptr), c->group.len };
    e->id = (struct zr_str){ text + (c->id.ptr - c->key.ptr), c->id.len };
    e->offsets = offsets;
    e->n = c->n;
    e->last_ms = c->last_ms;
    if (c->n)
        memcpy(offsets, c->offsets, c->n * sizeof *offsets);
}

static int seen_compare(const void *a, const void *b)
{
    return zl_compare(((const struct seen *)a)->key, ((const struct seen *)b)->key);
}

static uint32_t same_group(const struct seen *a, const struct seen *b)
{
    return zl_eq(a->topic, b->topic) && zl_eq(a->group, b->group);
}

static void client_forget(const struct seen *e)
{
    uint64_t hash = zb_hash(e->key);
    pthread_mutex_lock(&broadcast_lock);
    struct client *c = zb_map_get(&clients, hash, e->key);
    if (c && c->last_ms == e->last_ms) {
        zb_map_del(&clients, hash, e->key);
        client_free(c);
        atomic_store(&n_known, (uint32_t)clients.n);
    }
    pthread_mutex_unlock(&broadcast_lock);
}

/* 1: it counts for its group's offset; 0: it is too old for that. */
static uint32_t seen_judge(const struct seen *e, int64_t now_ms)
{
    int64_t age = now_ms - e->last_ms;
    uint32_t fresh = age < ZB_SET(broadcast_expire_s) * 1000, online = fresh || zb_consumer_online(e->group, e->id);
    if (!online || age >= ZB_SET(broadcast_expire_max_s) * 1000)
        client_forget(e);
    return online;
}

static void least_store(const struct seen *first, const struct seen *end)
{
    char text[ZB_NAME_MAX], *at = text;
    uint32_t most = 0;
    if (first->group.len + sizeof ZB_BROADCAST_SUFFIX > sizeof text)
        return;
    zb_text_put(&at, first->group);
    zb_text_put(&at, zl_str(ZB_BROADCAST_SUFFIX));
    for (const struct seen *e = first; e < end; e++)
        most = !e->gone && e->n > most ? e->n : most;
    for (uint32_t q = 0; q < most; q++) {
        int64_t least = -1;
        for (const struct seen *e = first; e < end; e++)
            if (!e->gone && q < e->n && e->offsets[q] >= 0 && (least < 0 || e->offsets[q] < least))
                least = e->offsets[q];
        if (least >= 0)
            (void)zb_offset_put((struct zr_str){ text, (uint64_t)(at - text) }, first->topic, (int32_t)q, least);
    }
}

void zb_broadcast_scan(int64_t now_ms)
{
    struct scan s = { .n = 0 };
    zk_arena_init(&s.arena, 64u << 10, 64u << 20);
    pthread_mutex_lock(&broadcast_lock);
    s.cap = (uint32_t)clients.n;
    s.list = calloc(s.cap + 1, sizeof *s.list);
    const struct client *c;
    for (uint64_t at = 0; s.list && (c = zb_map_next(&clients, &at));)
        seen_add(&s, c);
    pthread_mutex_unlock(&broadcast_lock);
    for (uint32_t i = 0; i < s.n; i++)
        s.list[i].gone = !seen_judge(&s.list[i], now_ms);
    if (s.n)
        qsort(s.list, s.n, sizeof *s.list, seen_compare);
    for (uint32_t i = 0, end; i < s.n; i = end) {
        for (end = i + 1; end < s.n && same_group(&s.list[i], &s.list[end]);)
            end++;
        least_store(&s.list[i], &s.list[end]);
    }
    free(s.list);
    zk_arena_free(&s.arena);
}

static void scan_work(void *arg)
{
    (void)arg;
    zb_broadcast_scan(zk_wall_ms());
}

void zb_broadcast_second(void)
{
    pthread_mutex_lock(&broadcast_lock);
    uint32_t due = clients.n && ++seconds >= SCAN_S;
    if (due)
        seconds = 0;
    pthread_mutex_unlock(&broadcast_lock);
    if (due)
        (void)zb_work(scan_work, NULL);
}

void zb_broadcast_close(void)
{
    struct client *c;
    for (uint64_t at = 0; (c = zb_map_next(&clients, &at));)
        client_free(c);
    zb_map_free(&clients);
    atomic_store(&n_known, 0);
    seconds = 0;
}
