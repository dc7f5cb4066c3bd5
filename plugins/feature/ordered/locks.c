/* SPDX-License-Identifier: Apache-2.0 */
/* locks.c - a chained hash table of queue locks.
 *
 * What stays true:
 *   1. A key is in the table at most once; an entry means that its client held the lock at `renewed`.
 *   2. Only the holder, or anybody after the lease ended, replaces the holder.
 *   3. The table never holds more than `max` entries: beyond it new locks are refused, held ones can be renewed.
 *
 * LOCKING: one mutex around the whole table; no call to the host is made under it. */
#include "locks.h"

#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "zl/text.h"

struct entry {
    struct entry *next;
    uint64_t hash;
    int64_t renewed;
    struct lock_key key; /* text in `text` */
    struct zr_str client; /* malloc'ed */
    char text[];
};

struct locks {
    pthread_mutex_t lock;
    struct entry **slots;
    uint64_t n_slots, n, max;
    int64_t lease_ms;
};

static uint64_t key_hash(const struct lock_key *key)
{
    uint64_t h = zl_hash(key->group.ptr, key->group.len);
    h = h * 31 + zl_hash(key->topic.ptr, key->topic.len);
    h = h * 31 + zl_hash(key->broker.ptr, key->broker.len);
    return h * 31 + (uint32_t)key->queue_id;
}

static uint32_t key_eq(const struct lock_key *a, const struct lock_key *b)
{
    return a->queue_id == b->queue_id && zl_eq(a->topic, b->topic) && zl_eq(a->group, b->group) && zl_eq(a->broker, b->broker);
}

struct locks *locks_new(int64_t lease_ms, uint64_t max)
{
    struct locks *l = calloc(1, sizeof *l);
    if (!l) return NULL;
    l->n_slots = 64;
    l->slots = calloc(l->n_slots, sizeof *l->slots);
    if (!l->slots) {
        free(l);
        return NULL;
    }
    pthread_mutex_init(&l->lock, NULL);
    l->lease_ms = lease_ms;
    l->max = max;
    return l;
}

static void entry_free(struct entry *e)
{
    free((void *)(uintptr_t)e->client.ptr);
    free(e);
}

void locks_free(struct locks *l)
{
    if (!l) return;
    for (uint64_t i = 0; i < l->n_slots; i++) {
        for (struct entry *e = l->slots[i], *next; e; e = next) {
            next = e->next;
            entry_free(e);
        }
    }
    pthread_mutex_destroy(&l->lock);
    free(l->slots);
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
    while (*at && !((*at)->hash == hash && key_eq(&(*at)->key, key))) at = &(*at)->next;
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

static struct entry *entry_new(const struct lock_key *key, uint64_t hash)
{
    struct entry *e = calloc(1, sizeof *e + key->group.len + key->topic.len + key->broker.len);
    if (!e) return NULL;
    char *to = e->text;
    struct zr_str *parts[] = { &e->key.group, &e->key.topic, &e->key.broker };
    const struct zr_str from[] = { key->group, key->topic, key->broker };
    for (int i = 0; i < 3; i++) {
        if (from[i].len) memcpy(to, from[i].ptr, from[i].len);
        *parts[i] = (struct zr_str){ to, from[i].len };
        to += from[i].len;
    }
    e->key.queue_id = key->queue_id;
    e->hash = hash;
    return e;
}

static uint32_t give(struct entry *e, struct zr_str client, int64_t now_ms)
{
    if (!zl_eq(e->client, client)) {
        char *copy = zl_dup(client);
        if (!copy) return 0;
        free((void *)(uintptr_t)e->client.ptr);
        e->client = (struct zr_str){ copy, client.len };
    }
    e->renewed = now_ms;
    return 1;
}

uint32_t locks_take(struct locks *l, const struct lock_key *key, struct zr_str client, int64_t now_ms)
{
    uint64_t hash = key_hash(key);
    uint32_t ok = 0;
    pthread_mutex_lock(&l->lock);
    struct entry **at = place(l, key, hash), *e = *at;
    if (e) {
        if (zl_eq(e->client, client) || now_ms - e->renewed > l->lease_ms) ok = give(e, client, now_ms);
    } else if (l->n < l->max && (e = entry_new(key, hash))) {
        ok = give(e, client, now_ms);
        if (ok) {
            *at = e;
            if (++l->n > l->n_slots) grow(l);
        } else {
            entry_free(e);
        }
    }
    pthread_mutex_unlock(&l->lock);
    return ok;
}

void locks_drop(struct locks *l, const struct lock_key *key, struct zr_str client)
{
    pthread_mutex_lock(&l->lock);
    struct entry **at = place(l, key, key_hash(key)), *e = *at;
    if (e && zl_eq(e->client, client)) {
        *at = e->next;
        l->n--;
        entry_free(e);
    }
    pthread_mutex_unlock(&l->lock);
}

/* Removes every entry that `gone` names; the table is locked. */
static void remove_where(struct locks *l, uint32_t (*gone)(const struct entry *e, const void *ctx), const void *ctx)
{
    for (uint64_t i = 0; i < l->n_slots; i++) {
        for (struct entry **at = &l->slots[i]; *at;) {
            struct entry *e = *at;
            if (!gone(e, ctx)) {
                at = &e->next;
                continue;
            }
            *at = e->next;
            l->n--;
            entry_free(e);
        }
    }
}

struct holder { struct zr_str group, client; };

static uint32_t is_of(const struct entry *e, const void *ctx)
{
    const struct holder *h = ctx;
    return zl_eq(e->client, h->client) && zl_eq(e->key.group, h->group);
}

void locks_drop_client(struct locks *l, struct zr_str group, struct zr_str client)
{
    struct holder h = { group, client };
    pthread_mutex_lock(&l->lock);
    if (l->n) remove_where(l, is_of, &h);
    pthread_mutex_unlock(&l->lock);
}

struct age { int64_t now_ms, lease_ms; };

static uint32_t is_expired(const struct entry *e, const void *ctx)
{
    const struct age *a = ctx;
    return a->now_ms - e->renewed > a->lease_ms;
}

uint64_t locks_sweep(struct locks *l, int64_t now_ms)
{
    pthread_mutex_lock(&l->lock);
    struct age a = { now_ms, l->lease_ms };
    remove_where(l, is_expired, &a);
    uint64_t left = l->n;
    pthread_mutex_unlock(&l->lock);
    return left;
}
