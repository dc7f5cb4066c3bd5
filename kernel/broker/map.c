/* SPDX-License-Identifier: Apache-2.0 */
/* map.c - a hash table by name: open addressing, linear probing, deletion by shifting back.
 *
 * What stays true: (1) no key is in it twice; (2) between a key's home slot and its slot there is no empty one; (3)
 * at most three quarters of the slots are used. Keys are borrowed from the values. */
#include "broker/internal.h"

static uint64_t map_find(const struct zb_map *m, uint64_t hash, struct zr_str key)
{
    uint64_t i = hash & (m->cap - 1);
    while (m->slots[i].value && !(m->slots[i].hash == hash && zl_eq(m->slots[i].key, key)))
        i = (i + 1) & (m->cap - 1);
    return i;
}

void *zb_map_get(const struct zb_map *m, uint64_t hash, struct zr_str key)
{
    return m->cap ? m->slots[map_find(m, hash, key)].value : NULL;
}

static zr_status map_grow(struct zb_map *m)
{
    struct zb_map bigger = { NULL, m->cap ? m->cap * 2 : 16, m->n };
    bigger.slots = calloc(bigger.cap, sizeof *bigger.slots);
    if (!bigger.slots)
        return ZR_ENOMEM;
    for (uint64_t i = 0; i < m->cap; i++)
        if (m->slots[i].value)
            bigger.slots[map_find(&bigger, m->slots[i].hash, m->slots[i].key)] = m->slots[i];
    free(m->slots);
    *m = bigger;
    return ZR_OK;
}

zr_status zb_map_put(struct zb_map *m, uint64_t hash, struct zr_str key, void *value)
{
    if (m->n * 4 >= m->cap * 3 && map_grow(m) != ZR_OK)
        return ZR_ENOMEM;
    struct zb_slot *slot = &m->slots[map_find(m, hash, key)];
    m->n += slot->value == NULL;
    *slot = (struct zb_slot){ hash, key, value };
    return ZR_OK;
}

void *zb_map_del(struct zb_map *m, uint64_t hash, struct zr_str key)
{
    if (!m->cap)
        return NULL;
    uint64_t hole = map_find(m, hash, key);
    void *value = m->slots[hole].value;
    if (!value)
        return NULL;
    for (uint64_t i = (hole + 1) & (m->cap - 1); m->slots[i].value; i = (i + 1) & (m->cap - 1)) {
        uint64_t home = m->slots[i].hash & (m->cap - 1);
        if (((i - home) & (m->cap - 1)) >= ((i - hole) & (m->cap - 1))) {
            m->slots[hole] = m->slots[i];
            hole = i;
        }
    }
    m->slots[hole] = (struct zb_slot){ 0, { NULL, 0 }, NULL };
    m->n--;
    return value;
}

void *zb_map_next(const struct zb_map *m, uint64_t *at)
{
    while (*at < m->cap) {
        void *value = m->slots[(*at)++].value;
        if (value)
            return value;
    }
    return NULL;
}

void zb_map_free(struct zb_map *m)
{
    free(m->slots);
    *m = (struct zb_map){ NULL, 0, 0 };
}
