/* SPDX-License-Identifier: Apache-2.0 */
/* tables.c - what brokers said. Every change to topics, brokers, clusters and live entries is made here.
 *
 * What stays true whenever the lock is free:
 *   1. A queue entry's broker is in `brokers`; a broker has at least one address; a cluster has at least one broker.
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
 * LOCKING: see namesrv.h. Functions named *_locked want the write lock. Sessions are released and brokers are told only after it
 * is free; until then they wait in a struct ns_trash. */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include "namesrv.h"

#define PERM_WRITE 2
#define PERM_READ_WRITE 6
#define CODE_NOTIFY_MIN_BROKER_ID 905

/* What is left to do, or to free, once the lock is free. */
struct ns_notice {
    struct ns_notice *next;
    int64_t min_id;
    uint32_t n_targets, reserved;
    struct zr_str min_addr, offline_addr, ha_addr;
    struct zr_str targets[NS_MAX_ADDRS];
};
struct ns_trash {
    struct ns_live *lives; /* through node.next */
    struct ns_notice *notices;
    uint32_t close;        /* their connections too */
};

/* ---- small things ----------------------------------------------------------------------------------------------------- */

static uint64_t name_hash(struct zr_str name) { return zl_hash(name.ptr, name.len); }

static uint32_t version_equal(const struct zr_data_version *a, const struct zr_data_version *b)
{
    return a->counter == b->counter && a->timestamp == b->timestamp && a->state_version == b->state_version;
}

/* Later than it and on no axis earlier cannot be told from a clock that stepped, so "newer" is: ahead on any axis. */
static uint32_t version_newer(const struct zr_data_version *a, const struct zr_data_version *than)
{
    return a->state_version > than->state_version || a->counter > than->counter || a->timestamp > than->timestamp;
}

static uint32_t version_older(const struct zr_data_version *a, const struct zr_data_version *than)
{
    return a->state_version == than->state_version && a->counter < than->counter && a->timestamp <= than->timestamp;
}

static zr_status text_set(struct zr_str *to, struct zr_str from)
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

static void live_free(struct ns_live *live)
{
    live_filters_free(live);
    free((char *)live->node.key.ptr);
    free((char *)live->cluster.ptr);
    free((char *)live->addr.ptr);
    free((char *)live->broker.ptr);
    free((char *)live->ha.ptr);
    free(live);
}

static struct ns_live *live_make(struct zr_inst *inst, const struct ns_registration *reg)
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

static void live_bury_locked(struct zr_inst *inst, struct ns_live *live, struct ns_trash *trash)
{
    if (live->n_filters > 0)
        inst->gen++;
    ns_map_remove(&inst->lives, &live->node);
    live->node.next = (struct ns_node *)trash->lives;
    trash->lives = live;
}

static zr_status live_filters_set(struct zr_inst *inst, struct ns_live *live, const struct ns_content *content)
{
    uint32_t same = live->n_filters == content->n_filters;
    for (uint32_t i = 0; same && i < live->n_filters; i++)
        same = zl_eq(live->filters[i], content->filters[i]);
    if (same)
        return ZR_OK;
    inst->gen++;
    live_filters_free(live);
    if (content->n_filters == 0)
        return ZR_OK;
    if (!(live->filters = calloc(content->n_filters, sizeof *live->filters)))
        return ZR_ENOMEM;
    for (uint64_t i = 0; i < content->n_filters; i++) {
        if (!(live->filters[i] = ns_dup(content->filters[i])).ptr)
            return ZR_ENOMEM;
        live->n_filters++;
    }
    return ZR_OK;
}

/* ---- what waits for the lock to be free ------------------------------------------------------------------------------- */

static void notice_free(struct ns_notice *notice)
{
    for (uint32_t i = 0; i < notice->n_targets; i++)
        free((char *)notice->targets[i].ptr);
    free((char *)notice->min_addr.ptr);
    free((char *)notice->offline_addr.ptr);
    free((char *)notice->ha_addr.ptr);
    free(notice);
}

/* Tells a broker group who its least id is now. To all when one went, or when there is but one; else to all but the least. */
static void notice_add_locked(struct ns_trash *trash, const struct ns_broker *broker, struct zr_str offline, struct zr_str ha)
{
    struct ns_notice *notice = calloc(1, sizeof *notice);
    if (!notice)
        return;
    notice->min_id = broker->addrs[0].id;
    notice->min_addr = ns_dup(broker->addrs[0].addr);
    notice->offline_addr = offline.len ? ns_dup(offline) : (struct zr_str){ NULL, 0 };
    notice->ha_addr = ha.len ? ns_dup(ha) : (struct zr_str){ NULL, 0 };
    for (uint32_t i = offline.len > 0 || broker->n_addrs == 1 ? 0 : 1; i < broker->n_addrs; i++)
        if ((notice->targets[notice->n_targets] = ns_dup(broker->addrs[i].addr)).ptr)
            notice->n_targets++;
    notice->next = trash->notices;
    trash->notices = notice;
}

static void notice_send(struct zr_inst *inst, const struct ns_notice *notice)
{
    char number[24];
    struct zr_field fields[4] = { { ZR_STR("minBrokerId"), { number, zl_print_i64(number, notice->min_id) } },
                                  { ZR_STR("minBrokerAddr"), notice->min_addr } };
    uint32_t n = 2;
    if (notice->offline_addr.len)
        fields[n++] = (struct zr_field){ ZR_STR("offlineBrokerAddr"), notice->offline_addr };
    if (notice->ha_addr.len)
        fields[n++] = (struct zr_field){ ZR_STR("haBrokerAddr"), notice->ha_addr };
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = CODE_NOTIFY_MIN_BROKER_ID, .n_fields = n, .fields = fields };
    for (uint32_t i = 0; inst->call && i < notice->n_targets; i++)
        (void)inst->call->tell(inst->host, notice->targets[i], &command); /* oneway: a broker that is gone will expire */
}

static void trash_empty(struct zr_inst *inst, struct ns_trash *trash)
{
    for (struct ns_live *live = trash->lives, *next; live; live = next) {
        next = (struct ns_live *)live->node.next;
        if (live->session) {
            if (trash->close)
                inst->reply->session_close(inst->host, live->session);
            inst->reply->session_release(inst->host, live->session);
        }
        live_free(live);
    }
    for (struct ns_notice *notice = trash->notices, *next; notice; notice = next) {
        next = notice->next;
        notice_send(inst, notice);
        notice_free(notice);
    }
}

/* ---- topics ----------------------------------------------------------------------------------------------------------- */

static struct ns_topic *topic_get(struct zr_inst *inst, struct zr_str name) { return (struct ns_topic *)ns_map_get(&inst->topics, name); }

static void grave_unlink_locked(struct zr_inst *inst, struct ns_topic *topic)
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

static void mapping_free(struct ns_mapping *mapping)
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
static void topic_settle_locked(struct zr_inst *inst, struct ns_topic *topic)
{
    if (topic->n > 0 || topic->n_graves > 0)
        return;
    ns_cache_drop(inst, topic);
    ns_map_remove(&inst->topics, &topic->node);
    topic_free(topic);
}

static struct ns_topic *topic_make_locked(struct zr_inst *inst, struct zr_str name)
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

static struct ns_queues *topic_entry(const struct ns_topic *topic, const struct ns_broker *broker)
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
static zr_status topic_put_locked(struct zr_inst *inst, struct ns_topic *topic, struct ns_queues queues)
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

static void topic_drop_mapping_locked(struct ns_topic *topic, const struct ns_broker *broker)
{
    for (uint32_t i = 0; i < topic->n_mappings; i++) {
        if (topic->mappings[i].broker == broker) {
            mapping_free(&topic->mappings[i]);
            topic->mappings[i--] = topic->mappings[--topic->n_mappings];
        }
    }
}

/* Removes the broker's entry; the caller settles the topic. Returns whether there was one. */
static uint32_t topic_remove_locked(struct zr_inst *inst, struct ns_topic *topic, struct ns_broker *broker)
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

static struct ns_grave *grave_find(const struct ns_topic *topic, const struct ns_broker *broker)
{
    uint64_t hash = name_hash(broker->node.key);
    for (uint32_t i = 0; i < topic->n_graves; i++)
        if (topic->graves[i].broker == hash)
            return &topic->graves[i];
    return NULL;
}

/* Remembers that the broker's entry was deleted now; moves the topic to the young end of the list. */
static void grave_add_locked(struct zr_inst *inst, struct ns_topic *topic, const struct ns_broker *broker, struct zr_data_version version, int64_t now)
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
static struct zr_data_version broker_version(struct zr_inst *inst, const struct ns_broker *broker)
{
    struct zr_data_version newest = { 0, 0, 0 };
    for (uint32_t i = 0; i < broker->n_addrs; i++) {
        struct ns_live *live = ns_live_get(inst, broker->cluster, broker->addrs[i].addr);
        if (live && version_newer(&live->version, &newest))
            newest = live->version;
    }
    return newest;
}

static void graves_forget_locked(struct zr_inst *inst, int64_t now)
{
    while (inst->grave_first && now - inst->grave_first->buried_ns >= NS_GRAVE_NS) {
        struct ns_topic *topic = inst->grave_first;
        grave_unlink_locked(inst, topic);
        topic_settle_locked(inst, topic);
    }
}

/* ---- brokers and clusters --------------------------------------------------------------------------------------------- */

const struct ns_addr *ns_broker_addr(const struct ns_broker *broker, int64_t id)
{
    for (uint32_t i = 0; i < broker->n_addrs; i++)
        if (broker->addrs[i].id == id)
            return &broker->addrs[i];
    return NULL;
}

static void broker_free(struct ns_broker *broker)
{
    for (uint32_t i = 0; i < broker->n_addrs; i++)
        free((char *)broker->addrs[i].addr.ptr);
    free(broker->addrs);
    free((char *)broker->cluster.ptr);
    free((char *)broker->zone.ptr);
    free((char *)broker->node.key.ptr);
    free(broker);
}

static zr_status cluster_add_locked(struct zr_inst *inst, struct zr_str name, struct ns_broker *broker)
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

/* A broker whose last address went: its entries, its place in clusters, itself. */
static void broker_drop_locked(struct zr_inst *inst, struct ns_broker *broker)
{
    uint64_t at;
    for (struct ns_node *node = ns_map_first(&inst->topics, &at), *next; node; node = next) {
        struct ns_topic *topic = (struct ns_topic *)node;
        next = ns_map_after(&inst->topics, node, &at);
        topic_remove_locked(inst, topic, broker);
        topic_settle_locked(inst, topic);
    }
    clusters_forget_locked(inst, broker);
    ns_map_remove(&inst->brokers, &broker->node);
    broker_free(broker);
    inst->gen++;
}

static struct ns_broker *broker_make_locked(struct zr_inst *inst, const struct ns_registration *reg)
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
    inst->gen++;
    return broker;
}

static void broker_remove_addr_at(struct zr_inst *inst, struct ns_broker *broker, uint32_t i)
{
    free((char *)broker->addrs[i].addr.ptr);
    broker->n_addrs--;
    memmove(&broker->addrs[i], &broker->addrs[i + 1], (broker->n_addrs - i) * sizeof *broker->addrs);
    inst->gen++;
}

/* Puts id -> addr. *ret_first: the id had none. */
static zr_status broker_set_addr_locked(struct zr_inst *inst, struct ns_broker *broker, int64_t id, struct zr_str addr, uint32_t *ret_first)
{
    uint32_t at = 0;
    while (at < broker->n_addrs && broker->addrs[at].id < id)
        at++;
    *ret_first = at == broker->n_addrs || broker->addrs[at].id != id;
    if (!*ret_first) {
        if (zl_eq(broker->addrs[at].addr, addr))
            return ZR_OK;
        inst->gen++;
        return text_set(&broker->addrs[at].addr, addr);
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
    inst->gen++;
    return ZR_OK;
}

/* Without a master nobody may write: every entry of the broker loses W. */
static void broker_wipe_write_locked(struct zr_inst *inst, struct ns_broker *broker)
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

/* ---- the end of an address -------------------------------------------------------------------------------------------- */

static void unregister_locked(struct zr_inst *inst, struct zr_str cluster, struct zr_str name, struct zr_str addr, struct ns_trash *trash)
{
    struct ns_live *live = ns_live_get(inst, cluster, addr);
    struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, name);
    uint32_t was_min = 0, removed = 0;
    for (uint32_t i = 0; broker && i < broker->n_addrs; i++) {
        if (zl_eq(broker->addrs[i].addr, addr)) {
            was_min |= i == 0 && !removed;
            removed = 1;
            broker_remove_addr_at(inst, broker, i--);
        }
    }
    if (broker && broker->n_addrs == 0) {
        broker_drop_locked(inst, broker);
    } else if (broker && removed && broker->acting_master) {
        if (!ns_broker_addr(broker, 0))
            broker_wipe_write_locked(inst, broker);
        if (was_min && inst->set.notify_min_broker_id)
            notice_add_locked(trash, broker, addr, (struct zr_str){ NULL, 0 });
    }
    if (live) /* last: cluster, name and addr may be its own */
        live_bury_locked(inst, live, trash);
}

/* ---- registration ----------------------------------------------------------------------------------------------------- */

struct plan { /* of one registration, between its holds of the lock */
    uint64_t uid;
    uint32_t ignored;    /* another address holds the id with a newer state: nothing more is done */
    uint32_t first;      /* the id had no address */
    uint32_t changed;    /* another version than before */
    uint32_t stale;      /* overtaken by a newer one on the same connection */
    uint32_t prime;      /* the least id of a group without master */
    uint32_t owner;      /* its topics count: master or prime */
    uint32_t full;       /* carries the topics that every full registration has */
    uint32_t maybe_full; /* carries at least half of what is known of this broker */
    uint32_t min_changed;
    int64_t now;
};

static uint32_t content_has_markers(const struct ns_registration *reg)
{
    for (uint64_t i = 0; i < reg->content->n_topics; i++)
        if (zl_eq(reg->content->topics[i].name, reg->broker) || zl_is(reg->content->topics[i].name, "SELF_TEST_TOPIC"))
            return 1;
    return 0;
}

/* Steps 2 to 7 of spec/remoting.md 3.1.1; afterwards the broker and its address are in place. */
static zr_status register_place_locked(struct zr_inst *inst, const struct ns_registration *reg, struct plan *plan, struct ns_broker **ret)
{
    struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, reg->broker);
    zr_status status;
    if (!broker && !(broker = broker_make_locked(inst, reg)))
        return ZR_EFULL;
    *ret = broker;
    if ((status = cluster_add_locked(inst, reg->cluster, broker)) != ZR_OK)
        return status;
    if (broker->acting_master != (reg->acting_master == 1) || !zl_eq(broker->zone, reg->zone)) {
        broker->acting_master = reg->acting_master == 1;
        if ((status = text_set(&broker->zone, reg->zone)) != ZR_OK)
            return status;
        inst->gen++;
    }
    plan->min_changed = reg->id < (broker->n_addrs ? broker->addrs[0].id : 0);
    for (uint32_t i = 0; i < broker->n_addrs; i++)
        if (broker->addrs[i].id != reg->id && zl_eq(broker->addrs[i].addr, reg->addr))
            broker_remove_addr_at(inst, broker, i--);
    return ZR_OK;
}

static zr_status register_begin_locked(struct zr_inst *inst, const struct ns_registration *reg, struct plan *plan, struct ns_trash *trash)
{
    struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, reg->broker);
    struct ns_live *live = ns_live_get(inst, reg->cluster, reg->addr);
    const struct ns_addr *present = broker ? ns_broker_addr(broker, reg->id) : NULL;
    zr_status status;
    if (!present && reg->content->n_topics == 1)
        return ZR_EAGAIN; /* an increment before the first full registration */
    if ((status = register_place_locked(inst, reg, plan, &broker)) == ZR_OK) {
        present = ns_broker_addr(broker, reg->id);
        struct ns_live *holder = present && !zl_eq(present->addr, reg->addr) ? ns_live_get(inst, reg->cluster, present->addr) : NULL;
        if (holder && holder->version.state_version > reg->content->version.state_version) {
            if (live)
                live_bury_locked(inst, live, trash);
            plan->ignored = 1;
            return ZR_OK;
        }
        status = broker_set_addr_locked(inst, broker, reg->id, reg->addr, &plan->first);
    }
    if (status != ZR_OK) {
        if (broker && broker->n_addrs == 0)
            broker_drop_locked(inst, broker);
        return status;
    }
    if (live)
        atomic_store(&live->last_ns, plan->now);
    plan->uid = broker->uid;
    plan->changed = !live || !version_equal(&live->version, &reg->content->version);
    plan->stale = live && live->session == reg->session && version_older(&reg->content->version, &live->version);
    plan->prime = reg->acting_master >= 0 && reg->id != 0 && reg->id == broker->addrs[0].id;
    plan->owner = reg->id == 0 || plan->prime;
    plan->maybe_full = plan->full || (reg->content->n_topics > 1 && reg->content->n_topics * 2 >= broker->n_topics);
    return ZR_OK;
}

/* Does a deletion forbid this registration to bring the topic back? If it does not, the grave ends. */
static uint32_t grave_forbids_locked(struct zr_inst *inst, struct ns_topic *topic, const struct ns_broker *broker, const struct ns_registration *reg,
                                     const struct plan *plan)
{
    struct ns_grave *grave = grave_find(topic, broker);
    if (!grave || plan->now - topic->buried_ns >= NS_GRAVE_NS)
        return 0;
    if (!version_newer(&reg->content->version, &grave->version) || (plan->maybe_full && plan->now - topic->buried_ns < NS_FULL_GRACE_NS))
        return 1;
    if (topic->n_graves == 1)
        grave_unlink_locked(inst, topic);
    else
        *grave = topic->graves[--topic->n_graves];
    return 0;
}

static zr_status register_topic_locked(struct zr_inst *inst, struct ns_broker *broker, const struct ns_topic_conf *conf, const struct ns_registration *reg,
                                       const struct plan *plan)
{
    struct ns_topic *topic = topic_get(inst, conf->name);
    struct ns_queues *entry = topic ? topic_entry(topic, broker) : NULL;
    struct ns_queues queues = { broker, conf->read, conf->write, conf->perm, conf->flag };
    if (entry && (plan->stale || !(plan->first || plan->changed)))
        return ZR_OK;
    if (!entry && topic && topic->n_graves && grave_forbids_locked(inst, topic, broker, reg, plan))
        return ZR_OK;
    if (plan->prime && broker->acting_master)
        queues.perm &= ~PERM_WRITE;
    if (!topic && !(topic = topic_make_locked(inst, conf->name)))
        return ZR_EFULL;
    zr_status status = topic_put_locked(inst, topic, queues);
    topic_settle_locked(inst, topic);
    return status;
}

static struct ns_broker *register_resume(struct zr_inst *inst, const struct ns_registration *reg, const struct plan *plan)
{
    struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, reg->broker);
    const struct ns_addr *present = broker && broker->uid == plan->uid ? ns_broker_addr(broker, reg->id) : NULL;
    return present && zl_eq(present->addr, reg->addr) ? broker : NULL;
}

static zr_status register_topics(struct zr_inst *inst, const struct ns_registration *reg, const struct plan *plan)
{
    zr_status status = ZR_OK;
    for (uint64_t from = 0; plan->owner && status == ZR_OK && from < reg->content->n_topics; from += NS_CHUNK) {
        pthread_rwlock_wrlock(&inst->lock);
        struct ns_broker *broker = register_resume(inst, reg, plan);
        status = broker ? ZR_OK : ZR_EAGAIN;
        for (uint64_t i = from; status == ZR_OK && i < reg->content->n_topics && i < from + NS_CHUNK; i++)
            status = register_topic_locked(inst, broker, &reg->content->topics[i], reg, plan);
        pthread_rwlock_unlock(&inst->lock);
    }
    return status;
}

static int mapping_pairs(const struct zl_json *map, struct ns_mapping *to)
{
    if (!map || map->kind != ZL_JSON_OBJECT || map->n == 0)
        return 0;
    if (map->n > NS_MAX_MAPPED_QUEUES || !(to->pairs = calloc(map->n, sizeof *to->pairs)))
        return -1;
    for (const struct zl_json *item = map->child; item; item = item->next) {
        int32_t key, value;
        if (zl_parse_i32(item->key, &key) != ZR_OK || zl_parse_i32(zl_json_str(item), &value) != ZR_OK)
            continue;
        to->pairs[to->n_pairs][0] = key;
        to->pairs[to->n_pairs++][1] = value;
    }
    return 0;
}

static void register_mapping_locked(struct zr_inst *inst, const struct ns_mapping_conf *conf)
{
    struct ns_topic *topic = topic_get(inst, conf->topic);
    struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, conf->broker);
    struct ns_mapping mapping = { .broker = broker, .epoch = conf->epoch, .total_queues = conf->total_queues, .dirty = conf->dirty };
    if (!topic || topic->n == 0 || !broker || mapping_pairs(conf->pairs, &mapping) < 0)
        return;
    if (conf->scope.ptr)
        mapping.scope = ns_dup(conf->scope);
    topic_drop_mapping_locked(topic, broker);
    struct ns_mapping *grown = realloc(topic->mappings, (topic->n_mappings + 1) * sizeof *grown);
    if (!grown) {
        mapping_free(&mapping);
        return;
    }
    topic->mappings = grown;
    grown[topic->n_mappings++] = mapping;
    ns_cache_drop(inst, topic);
}

static int topic_conf_compare(const void *a, const void *b)
{
    return zl_compare(((const struct ns_topic_conf *)a)->name, ((const struct ns_topic_conf *)b)->name);
}

/* deleteTopicWithBrokerRegistration: what a full registration no longer carries goes. Sorts the content's topics. */
static void register_forget_absent_locked(struct zr_inst *inst, const struct ns_registration *reg, struct ns_broker *broker)
{
    uint64_t at;
    qsort(reg->content->topics, reg->content->n_topics, sizeof *reg->content->topics, topic_conf_compare);
    for (struct ns_node *node = ns_map_first(&inst->topics, &at), *next; node; node = next) {
        struct ns_topic_conf key = { .name = node->key };
        next = ns_map_after(&inst->topics, node, &at);
        if (topic_entry((struct ns_topic *)node, broker) &&
            !bsearch(&key, reg->content->topics, reg->content->n_topics, sizeof key, topic_conf_compare)) {
            topic_remove_locked(inst, (struct ns_topic *)node, broker);
            topic_settle_locked(inst, (struct ns_topic *)node);
        }
    }
}

/* The live entry of this registration; takes *session over and leaves the one to be released there. */
static zr_status register_live_locked(struct zr_inst *inst, const struct ns_registration *reg, const struct plan *plan, struct zr_session **session)
{
    struct ns_live *live = ns_live_get(inst, reg->cluster, reg->addr);
    if (!live && !(live = live_make(inst, reg)))
        return ZR_EFULL;
    if (!zl_eq(live->broker, reg->broker) && text_set(&live->broker, reg->broker) != ZR_OK)
        return ZR_ENOMEM;
    if (text_set(&live->ha, reg->ha) != ZR_OK)
        return ZR_ENOMEM;
    struct zr_session *old = live->session;
    live->session = *session;
    *session = old;
    live->id = reg->id;
    live->local = reg->local;
    live->timeout_ns = (reg->timeout_ms > 0 ? reg->timeout_ms : NS_DEFAULT_TIMEOUT_MS) * 1000000;
    atomic_store(&live->last_ns, plan->now);
    if (!plan->stale)
        live->version = reg->content->version;
    return reg->content->has_filters ? live_filters_set(inst, live, reg->content) : ZR_OK;
}

static void register_result_locked(struct zr_inst *inst, const struct ns_registration *reg, const struct ns_broker *broker, struct ns_registered *ret)
{
    const struct ns_addr *master = reg->id != 0 ? ns_broker_addr(broker, 0) : NULL;
    struct ns_live *live = master ? ns_live_get(inst, reg->cluster, master->addr) : NULL;
    if (!live)
        return;
    snprintf(ret->master_addr, sizeof ret->master_addr, "%.*s", (int)master->addr.len, master->addr.ptr);
    if (live->ha.len)
        snprintf(ret->ha_addr, sizeof ret->ha_addr, "%.*s", (int)live->ha.len, live->ha.ptr);
}

static zr_status register_end_locked(struct zr_inst *inst, const struct ns_registration *reg, const struct plan *plan, struct zr_session **session,
                                     struct ns_trash *trash, struct ns_registered *ret)
{
    struct ns_broker *broker = register_resume(inst, reg, plan);
    zr_status status;
    if (!broker)
        return ZR_EAGAIN;
    if (plan->owner && inst->set.delete_topic_with_registration && plan->full && !plan->stale && reg->content->n_mappings == 0)
        register_forget_absent_locked(inst, reg, broker);
    for (uint64_t i = 0; plan->owner && (plan->changed || plan->first) && i < reg->content->n_mappings; i++)
        register_mapping_locked(inst, &reg->content->mappings[i]);
    if ((status = register_live_locked(inst, reg, plan, session)) != ZR_OK)
        return status;
    register_result_locked(inst, reg, broker, ret);
    if (plan->min_changed && inst->set.notify_min_broker_id)
        notice_add_locked(trash, broker, (struct zr_str){ NULL, 0 }, reg->ha);
    return ZR_OK;
}

/* Topics and live entry. When a table is full the broker stays with what fitted, but its version is not taken, so that it keeps
 * being told that something differs. Without a live entry nothing would ever expire the address: then it goes at once. */
static zr_status register_rest(struct zr_inst *inst, const struct ns_registration *reg, struct plan *plan, struct zr_session **session,
                               struct ns_trash *trash, struct ns_registered *ret)
{
    zr_status topics = register_topics(inst, reg, plan), end;
    plan->stale |= topics != ZR_OK;
    pthread_rwlock_wrlock(&inst->lock);
    end = register_end_locked(inst, reg, plan, session, trash, ret);
    if (end != ZR_OK && register_resume(inst, reg, plan) && !ns_live_get(inst, reg->cluster, reg->addr))
        unregister_locked(inst, reg->cluster, reg->broker, reg->addr, trash);
    pthread_rwlock_unlock(&inst->lock);
    return topics != ZR_OK ? topics : end;
}

zr_status ns_register(struct zr_inst *inst, const struct ns_registration *reg, struct ns_registered *ret)
{
    struct plan plan = { .now = ns_now(inst), .full = content_has_markers(reg) };
    struct ns_trash trash = { 0 };
    struct zr_session *session = reg->session ? inst->reply->session_hold(inst->host, reg->session) : NULL;
    int64_t timeout_ms = reg->timeout_ms > 0 ? reg->timeout_ms : NS_DEFAULT_TIMEOUT_MS;
    memset(ret, 0, sizeof *ret);

    pthread_mutex_lock(&inst->order);
    pthread_rwlock_wrlock(&inst->lock);
    zr_status status = register_begin_locked(inst, reg, &plan, &trash);
    pthread_rwlock_unlock(&inst->lock);
    if (status == ZR_OK && !plan.ignored)
        status = register_rest(inst, reg, &plan, &session, &trash, ret);
    pthread_mutex_unlock(&inst->order);

    if (session)
        inst->reply->session_release(inst->host, session);
    trash_empty(inst, &trash);
    if (plan.uid && !reg->local)
        ns_expiry_arm(inst, plan.now + timeout_ms * 1000000);
    return status;
}

/* ---- unregistering, silence ------------------------------------------------------------------------------------------- */

void ns_unregister(struct zr_inst *inst, struct zr_str cluster, struct zr_str broker, struct zr_str addr)
{
    struct ns_trash trash = { 0 };
    pthread_rwlock_wrlock(&inst->lock);
    unregister_locked(inst, cluster, broker, addr, &trash);
    pthread_rwlock_unlock(&inst->lock);
    trash_empty(inst, &trash);
}

uint32_t ns_has_session(struct zr_inst *inst, struct zr_session *session)
{
    uint32_t found = 0;
    uint64_t at;
    pthread_rwlock_rdlock(&inst->lock);
    for (struct ns_node *node = ns_map_first(&inst->lives, &at); node && !found; node = ns_map_after(&inst->lives, node, &at))
        found = ((struct ns_live *)node)->session == session;
    pthread_rwlock_unlock(&inst->lock);
    return found;
}

void ns_session_gone(struct zr_inst *inst, struct zr_session *session)
{
    struct ns_trash trash = { 0 };
    uint64_t at;
    pthread_rwlock_wrlock(&inst->lock);
    for (struct ns_node *node = ns_map_first(&inst->lives, &at), *next; node; node = next) {
        struct ns_live *live = (struct ns_live *)node;
        next = ns_map_after(&inst->lives, node, &at);
        if (live->session == session)
            unregister_locked(inst, live->cluster, live->broker, live->addr, &trash);
    }
    pthread_rwlock_unlock(&inst->lock);
    for (struct ns_live *live = trash.lives; live; live = (struct ns_live *)live->node.next)
        ns_log(inst, ZR_LOG_INFO, "broker %.*s at %.*s: its connection ended, unregistered", (int)live->broker.len, live->broker.ptr,
               (int)live->addr.len, live->addr.ptr);
    trash_empty(inst, &trash);
}

uint32_t ns_heartbeat(struct zr_inst *inst, struct zr_str cluster, struct zr_str addr, struct zr_data_version *ret_version)
{
    int64_t now = ns_now(inst);
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_live *live = ns_live_get(inst, cluster, addr);
    if (live) {
        atomic_store(&live->last_ns, now);
        if (ret_version)
            *ret_version = live->version;
    }
    pthread_rwlock_unlock(&inst->lock);
    return live != NULL;
}

int64_t ns_expire(struct zr_inst *inst)
{
    struct ns_trash trash = { .close = 1 };
    int64_t now = ns_now(inst), next_at = INT64_MAX;
    uint64_t at;
    pthread_rwlock_wrlock(&inst->lock);
    graves_forget_locked(inst, now);
    for (struct ns_node *node = ns_map_first(&inst->lives, &at), *next; node; node = next) {
        struct ns_live *live = (struct ns_live *)node;
        int64_t deadline = atomic_load(&live->last_ns) + live->timeout_ns;
        next = ns_map_after(&inst->lives, node, &at);
        if (live->local)
            continue;
        if (deadline < now)
            unregister_locked(inst, live->cluster, live->broker, live->addr, &trash);
        else if (deadline < next_at)
            next_at = deadline + 1;
    }
    if (next_at < now + inst->set.scan_interval_ms * 1000000)
        next_at = now + inst->set.scan_interval_ms * 1000000;
    if (inst->grave_first && inst->grave_first->buried_ns + NS_GRAVE_NS < next_at)
        next_at = inst->grave_first->buried_ns + NS_GRAVE_NS;
    pthread_rwlock_unlock(&inst->lock);
    for (struct ns_live *live = trash.lives; live; live = (struct ns_live *)live->node.next) {
        ns_log(inst, ZR_LOG_WARN, "broker %.*s at %.*s: no word for %lld ms, unregistered", (int)live->broker.len, live->broker.ptr,
               (int)live->addr.len, live->addr.ptr, (long long)((now - atomic_load(&live->last_ns)) / 1000000));
        ns_count(inst, NS_METRIC_EXPIRED);
    }
    trash_empty(inst, &trash);
    return next_at;
}

/* ---- what tools change ------------------------------------------------------------------------------------------------ */

int32_t ns_write_perm(struct zr_inst *inst, struct zr_str name, uint32_t wipe)
{
    int32_t n = 0;
    uint64_t at;
    pthread_rwlock_wrlock(&inst->lock);
    struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, name);
    for (struct ns_node *node = broker ? ns_map_first(&inst->topics, &at) : NULL; node; node = ns_map_after(&inst->topics, node, &at)) {
        struct ns_queues *entry = topic_entry((struct ns_topic *)node, broker);
        if (!entry)
            continue;
        int32_t perm = wipe ? entry->perm & ~PERM_WRITE : PERM_READ_WRITE;
        if (perm != entry->perm)
            ns_cache_drop(inst, (struct ns_topic *)node);
        entry->perm = perm;
        n++;
    }
    pthread_rwlock_unlock(&inst->lock);
    return n;
}

static void delete_entry_locked(struct zr_inst *inst, struct ns_topic *topic, struct ns_broker *broker, int64_t now)
{
    if (topic_remove_locked(inst, topic, broker))
        grave_add_locked(inst, topic, broker, broker_version(inst, broker), now);
}

void ns_delete_topic(struct zr_inst *inst, struct zr_str name, struct zr_str cluster_name)
{
    int64_t now = ns_now(inst);
    pthread_rwlock_wrlock(&inst->lock);
    graves_forget_locked(inst, now);
    struct ns_topic *topic = topic_get(inst, name);
    struct ns_cluster *cluster = cluster_name.len ? (struct ns_cluster *)ns_map_get(&inst->clusters, cluster_name) : NULL;
    for (uint32_t i = topic && !cluster_name.len ? topic->n : 0; i > 0; i--)
        delete_entry_locked(inst, topic, topic->queues[i - 1].broker, now);
    for (uint32_t i = 0; topic && cluster && i < cluster->n; i++)
        delete_entry_locked(inst, topic, cluster->brokers[i], now);
    if (topic)
        topic_settle_locked(inst, topic);
    pthread_rwlock_unlock(&inst->lock);
    ns_expiry_arm(inst, now + NS_GRAVE_NS);
}

void ns_delete_local(struct zr_inst *inst, struct zr_str name, struct zr_str broker_name, const struct zr_data_version *version)
{
    int64_t now = ns_now(inst);
    pthread_rwlock_wrlock(&inst->lock);
    struct ns_topic *topic = topic_get(inst, name);
    struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, broker_name);
    if (topic && broker && topic_remove_locked(inst, topic, broker))
        grave_add_locked(inst, topic, broker, *version, now);
    if (topic)
        topic_settle_locked(inst, topic);
    pthread_rwlock_unlock(&inst->lock);
    ns_expiry_arm(inst, now + NS_GRAVE_NS);
}

static int32_t queue_number(const struct zl_json *item, const char *key)
{
    int64_t v = zl_json_get_i64(item, key, 0);
    return v < INT32_MIN || v > INT32_MAX ? 0 : (int32_t)v;
}

void ns_put_topic(struct zr_inst *inst, struct zr_str name, const struct zl_json *queue_datas)
{
    pthread_rwlock_wrlock(&inst->lock);
    struct ns_topic *topic = topic_get(inst, name);
    const struct zl_json *item = queue_datas && queue_datas->kind == ZL_JSON_ARRAY ? queue_datas->child : NULL;
    /* As Apache: a topic that is not there yet is made only if every broker is known; else everything before the first
     * unknown one counts. */
    for (const struct zl_json *i = item; i && !(topic && topic->n); i = i->next)
        if (!ns_map_get(&inst->brokers, zl_json_get_str(i, "brokerName")))
            item = NULL;
    for (; item; item = item->next) {
        struct ns_broker *broker = (struct ns_broker *)ns_map_get(&inst->brokers, zl_json_get_str(item, "brokerName"));
        if (!broker || (!topic && !(topic = topic_make_locked(inst, name))))
            break;
        struct ns_queues queues = { broker, queue_number(item, "readQueueNums"), queue_number(item, "writeQueueNums"),
                                    queue_number(item, "perm"), queue_number(item, "topicSysFlag") };
        if (topic_put_locked(inst, topic, queues) != ZR_OK)
            break;
    }
    if (topic)
        topic_settle_locked(inst, topic);
    pthread_rwlock_unlock(&inst->lock);
}

/* ---- end -------------------------------------------------------------------------------------------------------------- */

void ns_tables_free(struct zr_inst *inst)
{
    struct ns_trash trash = { 0 };
    uint64_t at;
    pthread_rwlock_wrlock(&inst->lock);
    for (struct ns_node *node = ns_map_first(&inst->lives, &at), *next; node; node = next) {
        next = ns_map_after(&inst->lives, node, &at);
        live_bury_locked(inst, (struct ns_live *)node, &trash);
    }
    for (struct ns_node *node = ns_map_first(&inst->brokers, &at), *next; node; node = next) {
        next = ns_map_after(&inst->brokers, node, &at);
        broker_drop_locked(inst, (struct ns_broker *)node);
    }
    graves_forget_locked(inst, INT64_MAX);
    pthread_rwlock_unlock(&inst->lock);
    trash_empty(inst, &trash);
    ns_map_free(&inst->topics);
    ns_map_free(&inst->brokers);
    ns_map_free(&inst->clusters);
    ns_map_free(&inst->lives);
}
