/* SPDX-License-Identifier: Apache-2.0 */
/* map.h - hash table of nodes by name. A node is the first member of what it finds; the map owns the buckets, never the nodes. Not
 * thread-safe: users say which lock guards it. */
#ifndef NS_MAP_H
#define NS_MAP_H
#include "zarya/abi.h"

struct ns_node {
    struct ns_node *next;
    uint64_t hash;
    struct zr_str key; /* static while the node is in a map */
};
struct ns_map {
    struct ns_node **buckets;
    uint64_t n_buckets; /* 0 or a power of two */
    uint64_t n;
};
struct ns_node *ns_map_get(const struct ns_map *map, struct zr_str key);
/* The key is not in it yet. ZR_ENOMEM: nothing happened. */
zr_status ns_map_put(struct ns_map *map, struct ns_node *node);
void ns_map_remove(struct ns_map *map, struct ns_node *node);
void ns_map_free(struct ns_map *map);
/* Walks all nodes in no order: node = ns_map_first(map, &at); node; node = ns_map_after(map, node, &at). The node just returned may
 * be removed by the walker if it asked for the one after it before. */
struct ns_node *ns_map_first(const struct ns_map *map, uint64_t *ret_at);
struct ns_node *ns_map_after(const struct ns_map *map, const struct ns_node *node, uint64_t *at);
#endif
