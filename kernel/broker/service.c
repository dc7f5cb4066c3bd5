/* SPDX-License-Identifier: Apache-2.0 */
/* service.c - zarya.broker/1: the table that plugins see, over the functions of this folder. Views it gives out are
 * borrowed for the call; no lock of ours is held while a plugin's callback runs. */
#include "broker/internal.h"

#define HOST const struct zr_host *host
#define UNUSED (void)host

static void svc_identity(HOST, struct zr_identity *ret)
{
    UNUSED;
    struct zr_identity id = zb.id;
    id.hdr = ret->hdr;
    id.permission = (int32_t)ZB_SET(broker_permission);
    memcpy(ret, &id, ret->hdr.size < sizeof id ? ret->hdr.size : sizeof id);
}

/* ---- topics ---- */
static void svc_topic_version(HOST, struct zr_data_version *ret)
{
    UNUSED;
    pthread_rwlock_rdlock(&zb.topics_lock);
    *ret = zb.topics_version;
    pthread_rwlock_unlock(&zb.topics_lock);
}

static zr_status svc_topic(HOST, struct zr_str name, void (*on_topic)(void *ctx, const struct zr_topic *topic),
                           void *ctx)
{
    UNUSED;
    struct zb_topic *t = zb_topic_get(name);
    struct zr_topic view;
    if (!t)
        return ZR_ENOENT;
    zb_topic_view(t, &view);
    if (on_topic)
        on_topic(ctx, &view);
    zb_topic_unref(t);
    return ZR_OK;
}

static int by_name(const void *a, const void *b)
{
    return zl_compare((*(struct zb_topic *const *)a)->name, (*(struct zb_topic *const *)b)->name);
}

static void svc_each_topic(HOST, int32_t (*each)(void *ctx, const struct zr_topic *topic), void *ctx)
{
    UNUSED;
    uint32_t n = 0;
    struct zb_topic **all = zb_topics_all(&n);
    if (n)
        qsort(all, n, sizeof *all, by_name);
    for (uint32_t i = 0; i < n; i++) {
        struct zr_topic view;
        zb_topic_view(all[i], &view);
        if (each(ctx, &view))
            break;
    }
    zb_topics_free(all, n);
}

static zr_status svc_put_topic(HOST, const struct zr_topic *topic, void (*on_done)(void *ctx, zr_status status),
                               void *ctx)
{
    UNUSED;
    struct zr_topic conf = { .perm = ZR_PERM_READ | ZR_PERM_WRITE };
    memcpy(&conf, topic, topic->hdr.size < sizeof conf ? topic->hdr.size : sizeof conf);
    conf.hdr = (struct zr_hdr)ZR_HDR(struct zr_topic, 0);
    zr_status status = zb_topic_store(&conf, NULL, NULL);
    if (status != ZR_OK) {
        zk_err_raise(status, 0, "topic %.*s: %s", (int)conf.name.len, conf.name.ptr,
                     status == ZR_EFULL    ? "maxTopics is reached"
                     : status == ZR_EINVAL ? "an impossible name, number of queues or permission"
                                           : "memory ran out");
        return status;
    }
    zb_announce(&conf.name, 1, on_done, ctx);
    return ZR_OK;
}

static zr_status svc_remove_topic(HOST, struct zr_str name)
{
    UNUSED;
    return zb_topic_remove(name);
}

_Static_assert(ZR_DOCUMENT_TOPICS == ZB_DOC_TOPICS && ZR_DOCUMENT_GROUPS == ZB_DOC_GROUPS && ZR_DOCUMENT_OFFSETS == ZB_DOC_OFFSETS,
               "a document has one number");

static void svc_when_durable(HOST, uint32_t document, void (*on_done)(void *ctx, zr_status status), void *ctx)
{
    UNUSED;
    if (document > ZR_DOCUMENT_OFFSETS)
        on_done(ctx, ZR_EINVAL);
    else
        zb_doc_when(document, on_done, ctx);
}

/* ---- groups ---- */
static void svc_group_version(HOST, struct zr_data_version *ret)
{
    UNUSED;
    pthread_rwlock_rdlock(&zb.groups_lock);
    *ret = zb.groups_version;
    pthread_rwlock_unlock(&zb.groups_lock);
}

static zr_status svc_group(HOST, struct zr_str name, uint32_t create,
                           void (*on_group)(void *ctx, const struct zr_group *group), void *ctx)
{
    UNUSED;
    struct zb_group *g = zb_group_get(name, create);
    struct zr_group view;
    if (!g)
        return ZR_ENOENT;
    zb_group_view(g, &view);
    if (on_group)
        on_group(ctx, &view);
    zb_group_unref(g);
    return ZR_OK;
}

static int group_by_name(const void *a, const void *b)
{
    return zl_compare((*(struct zb_group *const *)a)->name, (*(struct zb_group *const *)b)->name);
}

static void svc_each_group(HOST, int32_t (*each)(void *ctx, const struct zr_group *group), void *ctx)
{
    UNUSED;
    uint32_t n = 0;
    struct zb_group **all = zb_groups_all(&n);
    if (n)
        qsort(all, n, sizeof *all, group_by_name);
    for (uint32_t i = 0; i < n; i++) {
        struct zr_group view;
        zb_group_view(all[i], &view);
        if (each(ctx, &view))
            break;
    }
    zb_groups_free(all, n);
}

static zr_status svc_put_group(HOST, const struct zr_group *group)
{
    UNUSED;
    struct zr_group conf = { .consume_enable = 1 };
    memcpy(&conf, group, group->hdr.size < sizeof conf ? group->hdr.size : sizeof conf);
    conf.hdr = (struct zr_hdr)ZR_HDR(struct zr_group, 0);
    zr_status status = zb_group_store(&conf);
    if (status == ZR_OK)
        zb_doc_touch_rows(ZB_DOC_GROUPS, &conf.name, 1, NULL, NULL);
    else
        zk_err_raise(status, 0, "group %.*s: %s", (int)conf.name.len, conf.name.ptr,
                     status == ZR_EFULL ? "maxGroups is reached" : "not possible");
    return status;
}

static zr_status svc_remove_group(HOST, struct zr_str name, uint32_t clean_offsets)
{
    UNUSED;
    zr_status status = zb_group_remove(name);
    if (clean_offsets && name.len)
        zb_offset_remove(name, (struct zr_str){ NULL, 0 });
    return status;
}

static int32_t svc_forbidden(HOST, struct zr_str group, struct zr_str topic, int32_t value)
{
    UNUSED;
    return zb_group_forbidden(group, topic, value);
}

/* ---- offsets ---- */
static int64_t svc_offset(HOST, struct zr_str group, struct zr_str topic, int32_t queue_id)
{
    UNUSED;
    return zb_offset_get(group, topic, queue_id);
}

static void svc_put_offset(HOST, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    UNUSED;
    (void)zb_offset_put(group, topic, queue_id, offset);
}

static int64_t svc_pull_offset(HOST, struct zr_str group, struct zr_str topic, int32_t queue_id)
{
    UNUSED;
    return zb_offset_pulled(group, topic, queue_id);
}

static void svc_reset_offset(HOST, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    UNUSED;
    zb_offset_reset(group, topic, queue_id, offset);
    struct zb_topic *t = zb_topic_get(topic);
    if (t)
        zb_hold_wake_topic(t); /* held pulls end, so that the next ones take the reset */
    zb_topic_unref(t);
}

static void svc_remove_offsets(HOST, struct zr_str group, struct zr_str topic)
{
    UNUSED;
    if (group.len || topic.len) /* nobody means everything */
        zb_offset_remove(group, topic);
}

static void svc_each_offset(HOST,
                            int32_t (*each)(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id,
                                            int64_t offset),
                            void *ctx)
{
    UNUSED;
    zb_offset_each(each, ctx);
}

/* ---- clients ---- */
static zr_status svc_consumers(HOST, struct zr_str group,
                               void (*on_group)(void *ctx, const struct zr_consumers *consumers), void *ctx)
{
    UNUSED;
    return zb_clients_consumers(group, on_group, ctx);
}

static void svc_each_consumers(HOST, int32_t (*each)(void *ctx, const struct zr_consumers *consumers), void *ctx)
{
    UNUSED;
    zb_clients_each_consumers(each, ctx);
}

static void svc_each_producer(HOST, struct zr_str group,
                              int32_t (*each)(void *ctx, struct zr_str group, const struct zr_client *client),
                              void *ctx)
{
    UNUSED;
    zb_clients_each_producer(group, each, ctx);
}

static struct zr_session *svc_client(HOST, struct zr_str group, struct zr_str client_id, uint32_t producers)
{
    UNUSED;
    return zb_clients_session(group, client_id, producers);
}

/* ---- configuration and statistics ---- */
static void svc_each_config(HOST, int32_t (*each)(void *ctx, struct zr_str key, struct zr_str value), void *ctx)
{
    UNUSED;
    zb_settings_each(each, ctx);
}

static zr_status svc_set_config(HOST, struct zr_str key, struct zr_str value)
{
    UNUSED;
    return zb_settings_change(key, value);
}

static zr_status svc_check_config(HOST, struct zr_str key, struct zr_str value)
{
    UNUSED;
    return zb_settings_check(key, value);
}

static void svc_stats(HOST, struct zr_broker_stats *ret)
{
    UNUSED;
    zb_stats(ret);
}

static void svc_topic_stats(HOST, struct zr_str topic, struct zr_str group, struct zr_topic_stats *ret)
{
    UNUSED;
    struct zr_topic_stats s = { .hdr = ret->hdr };
    struct zb_topic *t = group.len ? NULL : zb_topic_get(topic);
    double bytes;
    if (t) {
        pthread_mutex_lock(&zb.stats_lock);
        zb_rate_get(&t->live->put, &s.put_tps, &s.put_bytes_per_s);
        zb_rate_get(&t->live->get, &s.get_tps, &bytes);
        pthread_mutex_unlock(&zb.stats_lock);
        s.put_total = atomic_load(&t->live->put_count);
        s.get_total = atomic_load(&t->live->get_count);
    } else if (group.len) {
        zb_offset_rates(group, topic, &s);
    }
    zb_topic_unref(t);
    memcpy(ret, &s, ret->hdr.size < sizeof s ? ret->hdr.size : sizeof s);
}

const struct zr_broker_v1 zb_broker_table = {
    .hdr = ZR_HDR(struct zr_broker_v1, 0),
    .identity = svc_identity,
    .topic_version = svc_topic_version,
    .topic = svc_topic,
    .each_topic = svc_each_topic,
    .put_topic = svc_put_topic,
    .remove_topic = svc_remove_topic,
    .group_version = svc_group_version,
    .group = svc_group,
    .each_group = svc_each_group,
    .put_group = svc_put_group,
    .remove_group = svc_remove_group,
    .forbidden = svc_forbidden,
    .offset = svc_offset,
    .put_offset = svc_put_offset,
    .pull_offset = svc_pull_offset,
    .reset_offset = svc_reset_offset,
    .remove_offsets = svc_remove_offsets,
    .each_offset = svc_each_offset,
    .consumers = svc_consumers,
    .each_consumers = svc_each_consumers,
    .each_producer = svc_each_producer,
    .client = svc_client,
    .each_config = svc_each_config,
    .set_config = svc_set_config,
    .stats = svc_stats,
    .topic_stats = svc_topic_stats,
    .check_config = svc_check_config,
    .when_durable = svc_when_durable,
};
