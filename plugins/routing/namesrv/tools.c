/* SPDX-License-Identifier: Apache-2.0 */
/* tools.c - what tools change in the tables: write permission (205, 327), topics deleted (216) and made (217) by hand.
 *
 * LOCKING: see namesrv.h. */
#include <limits.h>
#include "tables.h"

int32_t ns_write_perm(struct zr_inst *inst, struct zr_str name, uint32_t wipe)
{
    int32_t n = 0;
    uint64_t at;
    pthread_rwlock_wrlock(&inst->lock);
    struct ns_broker *broker = broker_get(inst, name);
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
    struct ns_broker *broker = broker_get(inst, broker_name);
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
    pthread_mutex_lock(&inst->order); /* the table may grow */
    pthread_rwlock_wrlock(&inst->lock);
    struct ns_topic *topic = topic_get(inst, name);
    const struct zl_json *item = queue_datas && queue_datas->kind == ZL_JSON_ARRAY ? queue_datas->child : NULL;
    /* As Apache: a topic that is not there yet is made only if every broker is known; else everything before the first
     * unknown one counts. */
    for (const struct zl_json *i = item; i && !(topic && topic->n); i = i->next)
        if (!broker_get(inst, zl_json_get_str(i, "brokerName")))
            item = NULL;
    for (; item; item = item->next) {
        struct ns_broker *broker = broker_get(inst, zl_json_get_str(item, "brokerName"));
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
    pthread_mutex_unlock(&inst->order);
}
