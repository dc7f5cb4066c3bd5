/* SPDX-License-Identifier: Apache-2.0 */
/* locks.c - a chained hash table of queue locks.
 *
 * What stays true:
 *   1. A key is in the table at most once; an entry means that its client holds the lock up to `until`.
 *   2. Only the holder, or anybody after `until`, replaces the holder.
 *   3. The table never holds more than `max` entries, nor more than LOCKS_BYTES_EACH bytes for each of those: beyond it new locks
 *      are refused, held ones can be renewed.
 *   4. A topic, broker or client is stored once, however many entries name it.
 *   5. A group's holders are the clients that asked for a lock of it themselves, each up to when its last one ends at the latest.
 *
 * LOCKING: one mutex around the whole table; no call to the host is made under it. */
#include "locks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "zl/text.h"

/* A text that entries share. */
struct name { struct name *next; uint64_t hash, refs, len; char text[]; };

struct entry {
    struct entry *next;
    uint64_t hash;
    int64_t renewed, until;
    struct group *group;
    struct name *topic, *broker, *client;
    int32_t queue_id;
    uint32_t reserved;
};

/* How many entries a group has, and the latest `until` that any of them ever had: enough to say whether it holds a lock. */
struct holder { struct holder *next; struct name *client; int64_t until; };
struct group { struct group *next; struct holder *holders; uint64_t hash, n; int64_t until; uint64_t len; char name[]; };
#define GROUP_SLOTS 1024u

struct locks {
    pthread_mutex_t lock;
    struct group *groups[GROUP_SLOTS];
    struct entry **slots;
    uint64_t n_slots, n, max, bytes;
    struct name **names;
    uint64_t n_name_slots, n_names;
    int64_t lease_ms;
};

static uint64_t key_hash(const struct lock_key *key)
{
    uint64_t h = zl_hash(key->group.ptr, key->group.len);
    h = h * 31 + zl_hash(key->topic.ptr, key->topic.len);
    h = h * 31 + zl_hash(key->broker.ptr, key->broker.len);
    return h * 31 + (uint32_t)key->queue_id;
}

static struct zr_str text_of(const struct name *n) { return n ? (struct zr_str){ n->text, n->len } : (struct zr_str){ NULL, 0 }; }
static struct zr_str group_of(const struct entry *e) { return (struct zr_str){ e->group->name, e->group->len }; }

static uint32_t key_eq(const struct entry *e, const struct lock_key *key)
{
    return e->queue_id == key->queue_id && zl_eq(text_of(e->topic), key->topic) && zl_eq(group_of(e), key->group) && zl_eq(text_of(e->broker), key->broker);
}

struct locks *locks_new(int64_t lease_ms, uint64_t max)
{
    struct locks *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->n_slots = l->n_name_slots = 64;
    l->slots = calloc(l->n_slots, sizeof *l->slots);
    l->names = calloc(l->n_name_slots, sizeof *l->names);
    if (!l->slots || !l->names) {
        free(l->slots);
        free(l->names);
        free(l);
        return NULL;
    }
    pthread_mutex_init(&l->lock, NULL);
    l->lease_ms = lease_ms;
    l->max = max;
    return l;
}

/* ---- shared texts ---- */
static void names_grow(struct locks *l)
{
    uint64_t n_slots = l->n_name_slots * 2;
    struct name **slots = calloc(n_slots, sizeof *slots);
    if (!slots) return; /* longer chains, nothing worse */
    for (uint64_t i = 0; i < l->n_name_slots; i++) {
        for (struct name *n = l->names[i], *next; n; n = next) {
            next = n->next;
            n->next = slots[n->hash & (n_slots - 1)];
            slots[n->hash & (n_slots - 1)] = n;
        }
    }
    free(l->names);
    l->names = slots;
    l->n_name_slots = n_slots;
}

static struct name *name_take(struct locks *l, struct zr_str text)
{
    uint64_t hash = zl_hash(text.ptr, text.len);
    struct name **at = &l->names[hash & (l->n_name_slots - 1)], *n = *at;
    while (n && !(n->hash == hash && zl_eq(text_of(n), text))) n = n->next;
    if (!n) {
        n = calloc(1, sizeof *n + text.len);
        if (!n) return NULL;
        n->hash = hash;
        n->len = text.len;
        if (text.len) memcpy(n->text, text.ptr, text.len);
        n->next = *at;
        *at = n;
        l->bytes += sizeof *n + text.len;
        if (++l->n_names > l->n_name_slots) names_grow(l);
    }
    n->refs++;
    return n;
}

static void name_leave(struct locks *l, struct name *n)
{
    if (!n || --n->refs) return;
    struct name **at = &l->names[n->hash & (l->n_name_slots - 1)];
    while (*at != n) at = &(*at)->next;
    *at = n->next;
    l->bytes -= sizeof *n + n->len;
    l->n_names--;
    free(n);
}

/* ---- groups ---- */
static struct group **group_place(struct locks *l, struct zr_str name, uint64_t hash)
{
    struct group **at = &l->groups[hash % GROUP_SLOTS];
    while (*at && !((*at)->hash == hash && zl_eq((struct zr_str){ (*at)->name, (*at)->len }, name))) at = &(*at)->next;
    return at;
}

static struct group *group_take(struct locks *l, struct zr_str name)
{
    uint64_t hash = zl_hash(name.ptr, name.len);
    struct group **at = group_place(l, name, hash), *g = *at;
    if (!g) {
        g = calloc(1, sizeof *g + name.len);
        if (!g) return NULL;
        g->hash = hash;
        g->len = name.len;
        if (name.len) memcpy(g->name, name.ptr, name.len);
        l->bytes += sizeof *g + name.len;
        *at = g;
    }
    g->n++;
    return g;
}

static void holder_end(struct locks *l, struct holder **at)
{
    struct holder *h = *at;
    *at = h->next;
    name_leave(l, h->client);
    l->bytes -= sizeof *h;
    free(h);
}

/* Those that are over go on the way. Without memory it is none: then nothing is taken for a dead letter because of it. */
static void holder_note(struct locks *l, struct group *g, struct zr_str client, int64_t until, int64_t now_ms)
{
    struct holder **at = &g->holders;
    while (*at && !zl_eq(text_of((*at)->client), client)) {
        if ((*at)->until < now_ms) holder_end(l, at);
        else at = &(*at)->next;
    }
    if (!*at) {
        struct name *name = name_take(l, client);
        struct holder *h = name ? calloc(1, sizeof *h) : NULL;
        if (!h) {
            name_leave(l, name);
            return;
        }
        h->client = name;
        l->bytes += sizeof *h;
        *at = h;
    }
    (*at)->until = until;
}

static void group_leave(struct locks *l, struct group *g)
{
    if (--g->n) return;
    while (g->holders) holder_end(l, &g->holders);
    *group_place(l, (struct zr_str){ g->name, g->len }, g->hash) = g->next;
    l->bytes -= sizeof *g + g->len;
    free(g);
}

static void entry_free(struct locks *l, struct entry *e)
{
    if (e->group) group_leave(l, e->group);
    name_leave(l, e->topic);
    name_leave(l, e->broker);
    name_leave(l, e->client);
    l->bytes -= sizeof *e;
    free(e);
}

void locks_free(struct locks *l)
{
    if (!l) return;
    for (uint64_t i = 0; i < l->n_slots; i++) {
        for (struct entry *e = l->slots[i], *next; e; e = next) {
            next = e->next;
            entry_free(l, e);
        }
    }
    pthread_mutex_destroy(&l->lock);
    free(l->slots);
    free(l->names);
    free(l);
}

void locks_set_lease(struct locks *l, int64_t lease_ms)
{
    pthread_mutex_lock(&l->lock);
    l->lease_ms = lease_ms;
    pthread_mutex_unlock(&l->lock);
}

static struct entry **place(struct locks *l, const struct lock_key *key, uint64_t hash)
{
    struct entry **at = &l->slots[hash & (l->n_slots - 1)];
    while (*at && !((*at)->hash == hash && key_eq(*at, key))) at = &(*at)->next;
    return at;
}

static void grow(struct locks *l)
{
    uint64_t n_slots = l->n_slots * 2;
    struct entry **slots = calloc(n_slots, sizeof *slots);
    if (!slots) return; /* longer chains, nothing worse */
    for (uint64_t i = 0; i < l->n_slots; i++) {
        for (struct entry *e = l->slots[i], *next; e; e = next) {
            next = e->next;
            e->next = slots[e->hash & (n_slots - 1)];
            slots[e->hash & (n_slots - 1)] = e;
        }
    }
    free(l->slots);
    l->slots = slots;
    l->n_slots = n_slots;
}

static struct entry *entry_new(struct locks *l, const struct lock_key *key, uint64_t hash)
{
    struct entry *e = calloc(1, sizeof *e);
    if (!e) return NULL;
    l->bytes += sizeof *e;
    e->group = group_take(l, key->group);
    e->topic = name_take(l, key->topic);
    e->broker = name_take(l, key->broker);
    e->queue_id = key->queue_id;
    e->hash = hash;
    if (e->group && e->topic && e->broker) return e;
    entry_free(l, e);
    return NULL;
}

static uint32_t give(struct locks *l, struct entry *e, struct zr_str client, int64_t now_ms)
{
    if (!e->client || !zl_eq(text_of(e->client), client)) {
        struct name *shared = name_take(l, client);
        if (!shared) return 0;
        name_leave(l, e->client);
        e->client = shared;
    }
    e->renewed = now_ms;
    e->until = now_ms + l->lease_ms;
    if (e->group->until < e->until) e->group->until = e->until;
    return 1;
}

uint64_t locks_bytes(struct locks *l)
{
    pthread_mutex_lock(&l->lock);
    uint64_t bytes = l->bytes;
    pthread_mutex_unlock(&l->lock);
    return bytes;
}

uint32_t locks_take(struct locks *l, const struct lock_key *key, struct zr_str client, uint32_t itself, int64_t now_ms)
{
    uint64_t hash = key_hash(key);
    uint32_t ok = 0;
    pthread_mutex_lock(&l->lock);
    struct entry **at = place(l, key, hash), *e = *at;
    if (e) {
        if (zl_eq(text_of(e->client), client) || now_ms > e->until) ok = give(l, e, client, now_ms);
    } else if (l->n < l->max && l->bytes / LOCKS_BYTES_EACH < l->max && (e = entry_new(l, key, hash))) {
        ok = give(l, e, client, now_ms);
        if (ok) {
            *at = e;
            if (++l->n > l->n_slots) grow(l);
        } else {
            entry_free(l, e);
        }
    }
    if (ok && itself) holder_note(l, e->group, client, e->until, now_ms);
    pthread_mutex_unlock(&l->lock);
    return ok;
}

void locks_drop(struct locks *l, const struct lock_key *key, struct zr_str client)
{
    pthread_mutex_lock(&l->lock);
    struct entry **at = place(l, key, key_hash(key)), *e = *at;
    if (e && zl_eq(text_of(e->client), client)) {
        *at = e->next;
        l->n--;
        entry_free(l, e);
    }
    pthread_mutex_unlock(&l->lock);
}

/* Calls at each of a client's entries in a group; the function may take it out of its chain, and then says so. */
static uint64_t each_of_client(struct locks *l, struct zr_str group, struct zr_str client, int64_t ms, uint32_t (*take)(struct entry *e, int64_t ms))
{
    uint64_t n = 0;
    pthread_mutex_lock(&l->lock);
    struct group *g = *group_place(l, group, zl_hash(group.ptr, group.len));
    uint64_t left = g ? g->n : 0;
    for (uint64_t i = 0; i < l->n_slots && left; i++) {
        for (struct entry **at = &l->slots[i]; *at && left;) {
            struct entry *e = *at;
            left -= e->group == g;
            n += e->group == g && zl_eq(text_of(e->client), client);
            if (e->group != g || !zl_eq(text_of(e->client), client) || !take(e, ms)) {
                at = &e->next;
                continue;
            }
            *at = e->next;
            l->n--;
            entry_free(l, e);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return n;
}

static uint32_t shorten(struct entry *e, int64_t ms)
{
    if (ms < INT64_MAX - e->renewed && e->until > e->renewed + ms) e->until = e->renewed + ms;
    return 0;
}

uint64_t locks_shorten(struct locks *l, struct zr_str group, struct zr_str client, int64_t client_lease_ms)
{
    return each_of_client(l, group, client, client_lease_ms, shorten);
}

static uint32_t not_renewed_after(struct entry *e, int64_t ms) { return e->renewed <= ms; }

uint64_t locks_end(struct locks *l, struct zr_str group, struct zr_str client, int64_t renewed_until_ms)
{
    return each_of_client(l, group, client, renewed_until_ms, not_renewed_after);
}

uint32_t locks_held(struct locks *l, struct zr_str group, int64_t now_ms)
{
    pthread_mutex_lock(&l->lock);
    struct group *g = *group_place(l, group, zl_hash(group.ptr, group.len));
    uint32_t held = g && g->until >= now_ms;
    pthread_mutex_unlock(&l->lock);
    return held;
}

uint32_t locks_held_by(struct locks *l, struct zr_str group, struct zr_str client, int64_t now_ms)
{
    pthread_mutex_lock(&l->lock);
    struct group *g = *group_place(l, group, zl_hash(group.ptr, group.len));
    const struct holder *h = g ? g->holders : NULL;
    while (h && !(h->until >= now_ms && zl_eq(text_of(h->client), client))) h = h->next;
    pthread_mutex_unlock(&l->lock);
    return h != NULL;
}

void locks_each(struct locks *l, struct zr_str group, int64_t now_ms,
                int32_t (*each)(void *ctx, const struct lock_key *key, struct zr_str client, int64_t until_ms), void *ctx)
{
    int32_t end = 0;
    pthread_mutex_lock(&l->lock);
    for (uint64_t i = 0; i < l->n_slots && !end; i++)
        for (struct entry *e = l->slots[i]; e && !end; e = e->next) {
            struct lock_key key = { group_of(e), text_of(e->topic), text_of(e->broker), e->queue_id, 0 };
            if (now_ms <= e->until && (group.len == 0 || zl_eq(key.group, group))) end = each(ctx, &key, text_of(e->client), e->until);
        }
    pthread_mutex_unlock(&l->lock);
}

uint64_t locks_sweep(struct locks *l, int64_t now_ms)
{
    pthread_mutex_lock(&l->lock);
    for (uint64_t i = 0; i < l->n_slots; i++) {
        for (struct entry **at = &l->slots[i]; *at;) {
            struct entry *e = *at;
            if (now_ms <= e->until) {
                at = &e->next;
                continue;
            }
            *at = e->next;
            l->n--;
            entry_free(l, e);
        }
    }
    uint64_t left = l->n;
    pthread_mutex_unlock(&l->lock);
    return left;
}
