/* SPDX-License-Identifier: Apache-2.0 */
/* map.c - chained hash table; grows to keep at most one node for each bucket on average. */
#include "map.h"
#include <stdlib.h>
#include "zl/text.h"

#define MAP_FIRST_BUCKETS 64u

struct ns_node *ns_map_get(const struct ns_map *map, struct zr_str key)
{
    if (map->n == 0)
        return NULL;
    uint64_t hash = zl_hash(key.ptr, key.len);
    for (struct ns_node *node = map->buckets[hash & (map->n_buckets - 1)]; node; node = node->next)
        if (node->hash == hash && zl_eq(node->key, key))
            return node;
    return NULL;
}

static zr_status map_grow(struct ns_map *map)
{
    uint64_t n = map->n_buckets ? map->n_buckets * 2 : MAP_FIRST_BUCKETS;
    struct ns_node **buckets = calloc(n, sizeof *buckets);
    if (!buckets)
        return ZR_ENOMEM;
    for (uint64_t i = 0; i < map->n_buckets; i++) {
        for (struct ns_node *node = map->buckets[i], *next; node; node = next) {
            next = node->next;
            node->next = buckets[node->hash & (n - 1)];
            buckets[node->hash & (n - 1)] = node;
        }
    }
    free(map->buckets);
    map->buckets = buckets;
    map->n_buckets = n;
    return ZR_OK;
}

zr_status ns_map_put(struct ns_map *map, struct ns_node *node)
{
    /* A table that cannot grow still works, only slower, so a failure matters for the first buckets alone. */
    if (map->n >= map->n_buckets && map_grow(map) != ZR_OK && map->n_buckets == 0)
        return ZR_ENOMEM;
    node->hash = zl_hash(node->key.ptr, node->key.len);
    struct ns_node **bucket = &map->buckets[node->hash & (map->n_buckets - 1)];
    node->next = *bucket;
    *bucket = node;
    map->n++;
    return ZR_OK;
}

void ns_map_remove(struct ns_map *map, struct ns_node *node)
{
    struct ns_node **at = &map->buckets[node->hash & (map->n_buckets - 1)];
    while (*at != node)
        at = &(*at)->next;
    *at = node->next;
    map->n--;
}

void ns_map_free(struct ns_map *map)
{
    free(map->buckets);
    *map = (struct ns_map){ 0 };
}

static struct ns_node *map_scan(const struct ns_map *map, uint64_t *at)
{
    for (; *at < map->n_buckets; ++*at)
        if (map->buckets[*at])
            return map->buckets[*at];
    return NULL;
}

struct ns_node *ns_map_first(const struct ns_map *map, uint64_t *ret_at)
{
    *ret_at = 0;
    return map_scan(map, ret_at);
}

struct ns_node *ns_map_after(const struct ns_map *map, const struct ns_node *node, uint64_t *at)
{
    if (node->next)
        return node->next;
    ++*at;
    return map_scan(map, at);
}
