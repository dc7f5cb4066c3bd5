/* SPDX-License-Identifier: Apache-2.0 */
/* tables.c - topics, brokers, clusters, live entries and graves: making, finding, changing and ending them. Who changes them, and
 * when: register.c (what brokers say) and tools.c (what tools ask for).
 *
 * What stays true whenever the lock is free:
 *   1. A queue entry's broker is in `brokers`. A broker without an address is leaving: it is in inst->leaving, shown nowhere, and its
 *      entries are being taken out. A cluster has at least one broker.
 *   2. broker->n_topics counts its entries; inst->n_entries is their sum; inst->n_live_topics counts topics with entries.
 *   3. A topic without entries is in the table only while graves keep it, and every topic with graves is in the list of graves.
 *   4. A change that a route answer shows drops the topic's cached bodies, or moves inst->gen.
 *   5. A live entry's version is set after the topics of that version are in, so "not changed" is never said too early.
 *
 * GRAVES. Deleting a topic races with registrations that were written before it. So a deletion leaves, for each broker that had
 * the topic, the version that this broker had said last. For 60 s a registration brings the topic back only if it is newer; and if
 * it looks like a full one (which may have been written, with other news, just before the deletion) only after 30 s. An
 * increment that is newer is a topic made again, and ends the grave.
 *
 * LOCKING: see namesrv.h. Functions named *_locked want the write lock; so do those that take no inst. */
#include "tables.h"
#include <stdlib.h>

/* ---- small things ----------------------------------------------------------------------------------------------------- */

static uint64_t name_hash(struct zr_str name) { return zl_hash(name.ptr, name.len); }

uint32_t version_equal(const struct zr_data_version *a, const struct zr_data_version *b)
{
    return a->counter == b->counter && a->timestamp == b->timestamp && a->state_version == b->state_version;
}

/* Later than it and on no axis earlier cannot be told from a clock that stepped, so "newer" is: ahead on any axis. */
uint32_t version_newer(const struct zr_data_version *a, const struct zr_data_version *than)
{
    return a->state_version > than->state_version || a->counter > than->counter || a->timestamp > than->timestamp;
}

uint32_t version_older(const struct zr_data_version *a, const struct zr_data_version *than)
{
    return a->state_version == than->state_version && a->counter < than->counter && a->timestamp <= than->timestamp;
}

zr_status text_set(struct zr_str *to, struct zr_str from)
{
    struct zr_str copy = { NULL, 0 };
    if (from.ptr && !(copy = ns_dup(from)).ptr)
        return ZR_ENOMEM;
    free((char *)to->ptr);
    *to = copy;
    return ZR_OK;
}

/* Cluster and address as one key, in at most 2 * NS_NAME_MAX + 1 bytes. */
static struct zr_str live_key(char *to, struct zr_str cluster, struct zr_str addr)
{
    memcpy(to, cluster.ptr, cluster.len);
    to[cluster.len] = 0;
    memcpy(to + cluster.len + 1, addr.ptr, addr.len);
    return (struct zr_str){ to, cluster.len + 1 + addr.len };
}

/* ---- lives ------------------------------------------------------------------------------------------------------------ */

struct ns_live *ns_live_get(struct zr_inst *inst, struct zr_str cluster, struct zr_str addr)
{
    char key[2 * NS_NAME_MAX + 1];
    if (!ns_name_ok(cluster) || !ns_name_ok(addr))
        return NULL;
    return (struct ns_live *)ns_map_get(&inst->lives, live_key(key, cluster, addr));
}

static void live_filters_free(struct ns_live *live)
{
    for (uint32_t i = 0; i < live->n_filters; i++)
        free((char *)live->filters[i].ptr);
    free(live->filters);
    live->filters = NULL;
    live->n_filters = 0;
}

void live_free(struct ns_live *live)
{
    live_filters_free(live);
    free((char *)live->node.key.ptr);
    free((char *)live->cluster.ptr);
    free((char *)live->addr.ptr);
    free((char *)live->broker.ptr);
    free((char *)live->ha.ptr);
    free(live);
}

struct ns_live *live_make(struct zr_inst *inst, const struct ns_registration *reg)
{
    char key[2 * NS_NAME_MAX + 1];
    struct ns_live *live = calloc(1, sizeof *live);
    if (!live)
        return NULL;
    live->node.key = ns_dup(live_key(key, reg->cluster, reg->addr));
    live->cluster = ns_dup(reg->cluster);
    live->addr = ns_dup(reg->addr);
    live->broker = ns_dup(reg->broker);
    if (inst->lives.n >= NS_MAX_LIVES || !live->node.key.ptr || !live->cluster.ptr || !live->addr.ptr || !live->broker.ptr ||
        ns_map_put(&inst->lives, &live->node) != ZR_OK) {
        live_free(live);
        return NULL;
    }
    return live;
}

void live_bury_locked(struct zr_inst *inst, struct ns_live *live, struct ns_trash *trash)
{
    if (live->n_filters > 0) {
        inst->n_filtered--;
        inst->gen++;
    }
    ns_map_remove(&inst->lives, &live->node);
    live->node.next = (struct ns_node *)trash->lives;
    trash->lives = live;
}

zr_status live_filters_set(struct zr_inst *inst, struct ns_live *live, const struct ns_content *content)
{
    uint32_t same = live->n_filters == content->n_filters;
    for (uint32_t i = 0; same && i < live->n_filters; i++)
        same = zl_eq(live->filters[i], content->filters[i]);
    if (same)
        return ZR_OK;
    inst->gen++;
    inst->n_filtered -= live->n_filters > 0;
    live_filters_free(live);
    if (content->n_filters == 0)
        return ZR_OK;
    if (!(live->filters = calloc(content->n_filters, sizeof *live->filters)))
        return ZR_ENOMEM;
    for (uint64_t i = 0; i < content->n_filters; i++) {
        if (!(live->filters[i] = ns_dup(content->filters[i])).ptr)
            return ZR_ENOMEM;
        inst->n_filtered += live->n_filters++ == 0;
    }
    return ZR_OK;
}

/* ---- topics ----------------------------------------------------------------------------------------------------------- */

struct ns_topic *topic_get(struct zr_inst *inst, struct zr_str name) { return (struct ns_topic *)ns_map_get(&inst->topics, name); }

void grave_unlink_locked(struct zr_inst *inst, struct ns_topic *topic)
{
    if (topic->n_graves == 0)
        return;
    *(topic->grave_prev ? &topic->grave_prev->grave_next : &inst->grave_first) = topic->grave_next;
    *(topic->grave_next ? &topic->grave_next->grave_prev : &inst->grave_last) = topic->grave_prev;
    topic->grave_prev = topic->grave_next = NULL;
    free(topic->graves);
    topic->graves = NULL;
    topic->n_graves = 0;
}

void mapping_free(struct ns_mapping *mapping)
{
    free((char *)mapping->scope.ptr);
    free(mapping->pairs);
}

static void topic_free(struct ns_topic *topic)
{
    for (uint32_t i = 0; i < topic->n_mappings; i++)
        mapping_free(&topic->mappings[i]);
    free(topic->mappings);
    free(topic->graves);
    free(topic->queues);
    free(topic);
}

/* Ends a topic that nothing keeps. */
void topic_settle_locked(struct zr_inst *inst, struct ns_topic *topic)
{
    if (topic->n > 0 || topic->n_graves > 0)
        return;
    ns_cache_drop(inst, topic);
    ns_map_remove(&inst->topics, &topic->node);
    topic_free(topic);
}

struct ns_topic *topic_make_locked(struct zr_inst *inst, struct zr_str name)
{
    struct ns_topic *topic = inst->topics.n < (uint64_t)inst->set.max_topics ? calloc(1, sizeof *topic + name.len + 1) : NULL;
    if (!topic)
        return NULL;
    memcpy(topic + 1, name.ptr, name.len);
    topic->node.key = (struct zr_str){ (const char *)(topic + 1), name.len };
    if (ns_map_put(&inst->topics, &topic->node) != ZR_OK) {
        free(topic);
        return NULL;
    }
    return topic;
}

/* Where the broker's entry is, or would be. */
static uint32_t topic_place(const struct ns_topic *topic, const struct ns_broker *broker, uint32_t *ret_found)
{
    uint32_t low = 0, high = topic->n;
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        if (topic->queues[mid].broker == broker) {
            *ret_found = 1;
            return mid;
        }
        if (zl_compare(topic->queues[mid].broker->node.key, broker->node.key) < 0)
            low = mid + 1;
        else
            high = mid;
    }
    *ret_found = 0;
    return low;
}

struct ns_queues *topic_entry(const struct ns_topic *topic, const struct ns_broker *broker)
{
    uint32_t found, at = topic_place(topic, broker, &found);
    return found ? &topic->queues[at] : NULL;
}

static zr_status topic_insert_locked(struct zr_inst *inst, struct ns_topic *topic, uint32_t at, struct ns_queues queues)
{
    if (inst->n_entries >= (uint64_t)inst->set.max_entries)
        return ZR_EFULL;
    if (topic->n == topic->cap) {
        uint32_t cap = topic->cap ? topic->cap * 2 : 1;
        struct ns_queues *grown = realloc(topic->queues, cap * sizeof *grown);
        if (!grown)
            return ZR_ENOMEM;
        topic->queues = grown;
        topic->cap = cap;
    }
    memmove(&topic->queues[at + 1], &topic->queues[at], (topic->n - at) * sizeof *topic->queues);
    topic->queues[at] = queues;
    inst->n_live_topics += topic->n++ == 0;
    inst->n_entries++;
    queues.broker->n_topics++;
    return ZR_OK;
}

/* Creates or changes the broker's entry; leaves the cached answers alone when nothing is new. */
zr_status topic_put_locked(struct zr_inst *inst, struct ns_topic *topic, struct ns_queues queues)
{
    uint32_t found, at = topic_place(topic, queues.broker, &found);
    if (found) {
        struct ns_queues *now = &topic->queues[at];
        if (now->read == queues.read && now->write == queues.write && now->perm == queues.perm && now->flag == queues.flag)
            return ZR_OK;
        *now = queues;
        ns_cache_drop(inst, topic);
        return ZR_OK;
    }
    ns_cache_drop(inst, topic);
    return topic_insert_locked(inst, topic, at, queues);
}

void topic_drop_mapping_locked(struct ns_topic *topic, const struct ns_broker *broker)
{
    for (uint32_t i = 0; i < topic->n_mappings; i++) {
        if (topic->mappings[i].broker == broker) {
            mapping_free(&topic->mappings[i]);
            topic->mappings[i--] = topic->mappings[--topic->n_mappings];
        }
    }
}

/* Removes the broker's entry; the caller settles the topic. Returns whether there was one. */
uint32_t topic_remove_locked(struct zr_inst *inst, struct ns_topic *topic, struct ns_broker *broker)
{
    uint32_t found, at = topic_place(topic, broker, &found);
    topic_drop_mapping_locked(topic, broker);
    if (!found)
        return 0;
    ns_cache_drop(inst, topic);
    topic->n--;
    memmove(&topic->queues[at], &topic->queues[at + 1], (topic->n - at) * sizeof *topic->queues);
    inst->n_live_topics -= topic->n == 0;
    inst->n_entries--;
    broker->n_topics--;
    return 1;
}

/* ---- graves ----------------------------------------------------------------------------------------------------------- */

struct ns_grave *grave_find(const struct ns_topic *topic, const struct ns_broker *broker)
{
    uint64_t hash = name_hash(broker->node.key);
    for (uint32_t i = 0; i < topic->n_graves; i++)
        if (topic->graves[i].broker == hash)
            return &topic->graves[i];
    return NULL;
}

/* Remembers that the broker's entry was deleted now; moves the topic to the young end of the list. */
void grave_add_locked(struct zr_inst *inst, struct ns_topic *topic, const struct ns_broker *broker, struct zr_data_version version, int64_t now)
{
    struct ns_grave *grave = grave_find(topic, broker);
    uint32_t was = topic->n_graves;
    if (!grave) {
        struct ns_grave *graves = realloc(topic->graves, (was + 1) * sizeof *graves);
        if (!graves)
            return; /* then a late registration may bring it back, as with Apache */
        topic->graves = graves;
        grave = &graves[topic->n_graves++];
    }
    *grave = (struct ns_grave){ name_hash(broker->node.key), version };
    topic->buried_ns = now;
    if (was > 0) {
        *(topic->grave_prev ? &topic->grave_prev->grave_next : &inst->grave_first) = topic->grave_next;
        *(topic->grave_next ? &topic->grave_next->grave_prev : &inst->grave_last) = topic->grave_prev;
    }
    topic->grave_prev = inst->grave_last;
    topic->grave_next = NULL;
    *(inst->grave_last ? &inst->grave_last->grave_next : &inst->grave_first) = topic;
    inst->grave_last = topic;
}

/* What the broker said last: the newest version among its addresses. */
struct zr_data_version broker_version(struct zr_inst *inst, const struct ns_broker *broker)
{
    struct zr_data_version newest = { 0, 0, 0 };
    for (uint32_t i = 0; i < broker->n_addrs; i++) {
        struct ns_live *live = ns_live_get(inst, broker->cluster, broker->addrs[i].addr);
        if (live && version_newer(&live->version, &newest))
            newest = live->version;
    }
    return newest;
}

void graves_forget_locked(struct zr_inst *inst, int64_t now)
{
    while (inst->grave_first && now - inst->grave_first->buried_ns >= NS_GRAVE_NS) {
        struct ns_topic *topic = inst->grave_first;
        grave_unlink_locked(inst, topic);
        topic_settle_locked(inst, topic);
    }
}

/* ---- brokers and clusters --------------------------------------------------------------------------------------------- */

struct ns_broker *broker_get(struct zr_inst *inst, struct zr_str name)
{
    struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, name);
    return broker && broker->n_addrs > 0 ? broker : NULL;
}

const struct ns_addr *ns_broker_addr(const struct ns_broker *broker, int64_t id)
{
    for (uint32_t i = 0; i < broker->n_addrs; i++)
        if (broker->addrs[i].id == id)
            return &broker->addrs[i];
    return NULL;
}

static void broker_free(struct ns_broker *broker)
{
    ns_broker_unrender(broker);
    for (uint32_t i = 0; i < broker->n_addrs; i++)
        free((char *)broker->addrs[i].addr.ptr);
    free(broker->addrs);
    free((char *)broker->cluster.ptr);
    free((char *)broker->zone.ptr);
    free((char *)broker->node.key.ptr);
    free(broker);
}

zr_status cluster_add_locked(struct zr_inst *inst, struct zr_str name, struct ns_broker *broker)
{
    struct ns_cluster *cluster = (struct ns_cluster *)ns_map_get(&inst->clusters, name);
    uint32_t at = 0;
    if (!cluster) {
        if (!(cluster = calloc(1, sizeof *cluster)) || !(cluster->node.key = ns_dup(name)).ptr ||
            ns_map_put(&inst->clusters, &cluster->node) != ZR_OK) {
            if (cluster)
                free((char *)cluster->node.key.ptr);
            free(cluster);
            return ZR_ENOMEM;
        }
    }
    for (; at < cluster->n && zl_compare(cluster->brokers[at]->node.key, broker->node.key) < 0; at++) {
    }
    if (at < cluster->n && cluster->brokers[at] == broker)
        return ZR_OK;
    if (cluster->n == cluster->cap) {
        uint32_t cap = cluster->cap ? cluster->cap * 2 : 4;
        struct ns_broker **grown = realloc(cluster->brokers, cap * sizeof *grown);
        if (!grown) {
            if (cluster->n == 0) {
                ns_map_remove(&inst->clusters, &cluster->node);
                free((char *)cluster->node.key.ptr);
                free(cluster);
            }
            return ZR_ENOMEM;
        }
        cluster->brokers = grown;
        cluster->cap = cap;
    }
    memmove(&cluster->brokers[at + 1], &cluster->brokers[at], (cluster->n - at) * sizeof *cluster->brokers);
    cluster->brokers[at] = broker;
    cluster->n++;
    inst->gen++;
    return ZR_OK;
}

static void clusters_forget_locked(struct zr_inst *inst, struct ns_broker *broker)
{
    uint64_t at;
    for (struct ns_node *node = ns_map_first(&inst->clusters, &at), *next; node; node = next) {
        struct ns_cluster *cluster = (struct ns_cluster *)node;
        next = ns_map_after(&inst->clusters, node, &at);
        for (uint32_t i = 0; i < cluster->n; i++) {
            if (cluster->brokers[i] == broker) {
                cluster->n--;
                memmove(&cluster->brokers[i], &cluster->brokers[i + 1], (cluster->n - i) * sizeof *cluster->brokers);
                break;
            }
        }
        if (cluster->n == 0) {
            ns_map_remove(&inst->clusters, node);
            free(cluster->brokers);
            free((char *)node->key.ptr);
            free(cluster);
        }
    }
}

/* A broker whose last address went is shown nowhere from now on; its entries are taken out by brokers_sweep. */
void broker_leave_locked(struct zr_inst *inst, struct ns_broker *broker)
{
    clusters_forget_locked(inst, broker);
    broker->next_leaving = inst->leaving;
    inst->leaving = broker;
    inst->gen++;
}

/* Takes the broker's entries out of some buckets; returns where to go on. */
static uint64_t broker_sweep_some_locked(struct zr_inst *inst, struct ns_broker *broker, uint64_t bucket)
{
    uint64_t end = bucket + NS_CHUNK < inst->topics.n_buckets ? bucket + NS_CHUNK : inst->topics.n_buckets;
    for (; bucket < end; bucket++) {
        for (struct ns_node *node = inst->topics.buckets[bucket], *next; node; node = next) {
            next = node->next;
            topic_remove_locked(inst, (struct ns_topic *)node, broker);
            topic_settle_locked(inst, (struct ns_topic *)node);
        }
    }
    return bucket;
}

/* Ends brokers that left, a chunk of topics under each hold of the lock. With inst->order, so that nobody makes topics (the table
 * does not grow under the sweep) and no broker comes back half-way. */
void brokers_sweep(struct zr_inst *inst)
{
    for (;;) {
        pthread_rwlock_wrlock(&inst->lock);
        struct ns_broker *broker = inst->leaving;
        uint64_t n_buckets = inst->topics.n_buckets;
        pthread_rwlock_unlock(&inst->lock);
        if (!broker)
            return;
        for (uint64_t bucket = 0; bucket < n_buckets;) {
            pthread_rwlock_wrlock(&inst->lock);
            bucket = broker_sweep_some_locked(inst, broker, bucket);
            pthread_rwlock_unlock(&inst->lock);
        }
        pthread_rwlock_wrlock(&inst->lock);
        struct ns_broker **at = &inst->leaving;
        while (*at != broker)
            at = &(*at)->next_leaving;
        *at = broker->next_leaving;
        ns_map_remove(&inst->brokers, &broker->node);
        broker_free(broker);
        pthread_rwlock_unlock(&inst->lock);
    }
}

struct ns_broker *broker_make_locked(struct zr_inst *inst, const struct ns_registration *reg)
{
    struct ns_broker *broker = inst->brokers.n < NS_MAX_BROKERS ? calloc(1, sizeof *broker) : NULL;
    if (!broker)
        return NULL;
    broker->uid = ++inst->next_uid;
    broker->node.key = ns_dup(reg->broker);
    broker->cluster = ns_dup(reg->cluster);
    if (!broker->node.key.ptr || !broker->cluster.ptr || ns_map_put(&inst->brokers, &broker->node) != ZR_OK) {
        broker_free(broker);
        return NULL;
    }
    return broker;
}

void broker_remove_addr_at(struct zr_inst *inst, struct ns_broker *broker, uint32_t i)
{
    free((char *)broker->addrs[i].addr.ptr);
    broker->n_addrs--;
    memmove(&broker->addrs[i], &broker->addrs[i + 1], (broker->n_addrs - i) * sizeof *broker->addrs);
    ns_broker_render(inst, broker);
    inst->gen++;
}

/* Puts id -> addr. *ret_first: the id had none. */
zr_status broker_set_addr_locked(struct zr_inst *inst, struct ns_broker *broker, int64_t id, struct zr_str addr, uint32_t *ret_first)
{
    uint32_t at = 0;
    while (at < broker->n_addrs && broker->addrs[at].id < id)
        at++;
    *ret_first = at == broker->n_addrs || broker->addrs[at].id != id;
    if (!*ret_first) {
        if (zl_eq(broker->addrs[at].addr, addr))
            return ZR_OK;
        zr_status status = text_set(&broker->addrs[at].addr, addr);
        ns_broker_render(inst, broker);
        inst->gen++;
        return status;
    }
    if (broker->n_addrs == NS_MAX_ADDRS)
        return ZR_EFULL;
    struct zr_str copy = ns_dup(addr);
    struct ns_addr *grown = realloc(broker->addrs, (broker->n_addrs + 1) * sizeof *grown);
    if (grown)
        broker->addrs = grown;
    if (!grown || !copy.ptr) {
        free((char *)copy.ptr);
        return ZR_ENOMEM;
    }
    memmove(&grown[at + 1], &grown[at], (broker->n_addrs - at) * sizeof *grown);
    grown[at] = (struct ns_addr){ id, copy };
    broker->n_addrs++;
    ns_broker_render(inst, broker);
    inst->gen++;
    return ZR_OK;
}

/* Without a master nobody may write: every entry of the broker loses W. */
void broker_wipe_write_locked(struct zr_inst *inst, struct ns_broker *broker)
{
    uint64_t at;
    for (struct ns_node *node = ns_map_first(&inst->topics, &at); node; node = ns_map_after(&inst->topics, node, &at)) {
        struct ns_queues *entry = topic_entry((struct ns_topic *)node, broker);
        if (entry && (entry->perm & PERM_WRITE)) {
            entry->perm &= ~PERM_WRITE;
            ns_cache_drop(inst, (struct ns_topic *)node);
        }
    }
}

/* ---- end -------------------------------------------------------------------------------------------------------------- */

void ns_tables_free(struct zr_inst *inst)
{
    struct ns_trash trash = { 0 };
    uint64_t at;
    pthread_mutex_lock(&inst->order);
    pthread_rwlock_wrlock(&inst->lock);
    for (struct ns_node *node = ns_map_first(&inst->lives, &at), *next; node; node = next) {
        next = ns_map_after(&inst->lives, node, &at);
        live_bury_locked(inst, (struct ns_live *)node, &trash);
    }
    for (struct ns_node *node = ns_map_first(&inst->brokers, &at); node; node = ns_map_after(&inst->brokers, node, &at)) {
        struct ns_broker *broker = (struct ns_broker *)node;
        if (broker->n_addrs == 0)
            continue; /* leaving already */
        while (broker->n_addrs > 0)
            broker_remove_addr_at(inst, broker, broker->n_addrs - 1);
        broker_leave_locked(inst, broker);
    }
    graves_forget_locked(inst, INT64_MAX);
    pthread_rwlock_unlock(&inst->lock);
    brokers_sweep(inst);
    pthread_mutex_unlock(&inst->order);
    trash_empty(inst, &trash);
    ns_map_free(&inst->topics);
    ns_map_free(&inst->brokers);
    ns_map_free(&inst->clusters);
    ns_map_free(&inst->lives);
}
