/* SPDX-License-Identifier: Apache-2.0 */
/* groups.c - subscription groups, their document, the table of what groups may not consume.
 *
 * What stays true: as in topics.c - a zb_group never changes; groups_gen grows when one is replaced or removed; each
 * change raises the data version. forbidden maps "group@topic" to a mask of permission bits; only bit 2 (read, value
 * 4) is looked at.
 *
 * LOCKING. zb.groups_lock guards both tables and the data version. */
#include "broker/internal.h"

struct forbidden {
    struct zr_str key, group, topic;
    int32_t mask;
};

struct zb_group *zb_group_ref(struct zb_group *group)
{
    atomic_fetch_add_explicit(&group->refs, 1, memory_order_relaxed);
    return group;
}

void zb_group_unref(struct zb_group *group)
{
    if (group && atomic_fetch_sub(&group->refs, 1) == 1)
        free(group);
}

/* more: members that only others know. */
static struct zb_group *group_new(const struct zr_group *conf, struct zr_str more)
{
    uint64_t size = sizeof(struct zb_group) + conf->n_attributes * sizeof(struct zr_field) + conf->name.len +
                    conf->retry_policy_json.len + conf->subscription_data_json.len + more.len;
    for (uint32_t i = 0; i < conf->n_attributes; i++)
        size += conf->attributes[i].name.len + conf->attributes[i].value.len;
    struct zb_group *g = calloc(1, size);
    if (!g)
        return NULL;
    g->attributes = (struct zr_field *)(void *)(g + 1);
    g->n_attributes = conf->n_attributes;
    char *at = (char *)(g->attributes + conf->n_attributes);
    g->name = zb_text_put(&at, conf->name);
    g->retry_policy = zb_text_put(&at, conf->retry_policy_json);
    g->subscriptions = zb_text_put(&at, conf->subscription_data_json);
    g->more = zb_text_put(&at, more);
    for (uint32_t i = 0; i < conf->n_attributes; i++)
        g->attributes[i] =
            (struct zr_field){ zb_text_put(&at, conf->attributes[i].name), zb_text_put(&at, conf->attributes[i].value) };
    atomic_init(&g->refs, 1);
    g->hash = zb_hash(g->name);
    g->broker_id = conf->broker_id;
    g->slow_broker_id = conf->slow_broker_id;
    g->retry_queues = conf->retry_queues;
    g->retry_max_times = conf->retry_max_times;
    g->sys_flag = conf->sys_flag;
    g->consume_timeout_minute = conf->consume_timeout_minute;
    g->consume = conf->consume_enable != 0;
    g->from_min = conf->consume_from_min_enable != 0;
    g->broadcast = conf->consume_broadcast_enable != 0;
    g->orderly = conf->consume_orderly != 0;
    g->notify = conf->notify_ids_changed != 0;
    return g;
}

void zb_group_view(const struct zb_group *group, struct zr_group *ret)
{
    *ret = (struct zr_group){ .hdr = ZR_HDR(struct zr_group, 0),
                              .name = group->name,
                              .attributes = group->attributes,
                              .n_attributes = group->n_attributes,
                              .retry_policy_json = group->retry_policy,
                              .subscription_data_json = group->subscriptions,
                              .broker_id = group->broker_id,
                              .slow_broker_id = group->slow_broker_id,
                              .consume_enable = group->consume,
                              .consume_from_min_enable = group->from_min,
                              .consume_broadcast_enable = group->broadcast,
                              .consume_orderly = group->orderly,
                              .notify_ids_changed = group->notify,
                              .retry_queues = group->retry_queues,
                              .retry_max_times = group->retry_max_times,
                              .sys_flag = group->sys_flag,
                              .consume_timeout_minute = group->consume_timeout_minute,
                              .more_json = group->more };
}

static void group_defaults(struct zr_group *ret, struct zr_str name)
{
    *ret = (struct zr_group){ .hdr = ZR_HDR(struct zr_group, 0),
                              .name = name,
                              .slow_broker_id = 1,
                              .consume_enable = 1,
                              .consume_from_min_enable = 1,
                              .consume_broadcast_enable = 1,
                              .notify_ids_changed = 1,
                              .retry_queues = 1,
                              .retry_max_times = 16,
                              .consume_timeout_minute = 15 };
}

/* only_new: one that is there stays. */
static zr_status group_put(const struct zr_group *conf, uint32_t only_new, struct zb_group **ret)
{
    zr_status status = ZR_OK;
    pthread_rwlock_wrlock(&zb.groups_lock);
    struct zb_group *old = zb_map_get(&zb.groups, zb_hash(conf->name), conf->name);
    struct zb_group *g = group_new(conf, conf->more_json.len || !old ? conf->more_json : old->more);
    if (!g) {
        pthread_rwlock_unlock(&zb.groups_lock);
        return ZR_ENOMEM;
    }
    if (old && only_new) {
        zb_group_unref(g);
        g = NULL;
        *ret = zb_group_ref(old);
        old = NULL;
    } else if (!old && zb.groups.n >= (uint64_t)ZB_SET(max_groups)) {
        status = ZR_EFULL;
    } else if ((status = zb_map_put(&zb.groups, g->hash, g->name, g)) == ZR_OK) {
        zb_version_next(&zb.groups_version);
        if (old)
            atomic_fetch_add(&zb.groups_gen, 1);
        if (ret)
            *ret = zb_group_ref(g);
        zk_metric_set(zb.meter.groups, (int64_t)zb.groups.n);
    }
    pthread_rwlock_unlock(&zb.groups_lock);
    if (status != ZR_OK)
        zb_group_unref(g);
    else
        zb_group_unref(old);
    return status;
}

zr_status zb_group_store(const struct zr_group *conf)
{
    if (conf->name.len == 0 || conf->name.len > ZL_RETRY_TOPIC_MAX)
        return ZR_EINVAL;
    return group_put(conf, 0, NULL);
}

static struct zb_group *group_auto(struct zr_str name)
{
    char why[256];
    struct zr_group conf;
    struct zb_group *g = NULL;
    if (!ZB_SET(auto_create_group) && !(zl_starts(name, "CID_RMQ_SYS_") && ZB_SET(create_sys_group)))
        return NULL;
    if (zl_group_check(name, why, sizeof why) != ZR_OK)
        return NULL;
    group_defaults(&conf, name);
    if (group_put(&conf, 1, &g) != ZR_OK)
        return NULL;
    if (zb_made_tell(ZB_MADE_GROUP))
        zk_log(ZR_LOG_INFO, "subscription group %.*s made", (int)name.len, name.ptr);
    zb_doc_touch_rows(ZB_DOC_GROUPS, &g->name, 1, NULL, NULL);
    return g;
}

struct zb_group *zb_group_get(struct zr_str name, uint32_t create)
{
    uint64_t hash = zb_hash(name);
    pthread_rwlock_rdlock(&zb.groups_lock);
    struct zb_group *g = zb_map_get(&zb.groups, hash, name);
    if (g)
        zb_group_ref(g);
    pthread_rwlock_unlock(&zb.groups_lock);
    return g || !create ? g : group_auto(name);
}

struct zb_group *zb_lane_group(struct zb_lane *lane, struct zr_str name, uint32_t create)
{
    uint64_t hash = zb_hash(name);
    struct zb_group *g = zb_map_get(&lane->groups, hash, name);
    if (g)
        return g;
    g = zb_group_get(name, create);
    if (g && zb_map_put(&lane->groups, hash, g->name, g) != ZR_OK) {
        zb_group_unref(g);
        g = NULL;
    }
    return g;
}

static void forbidden_clear(struct zr_str group)
{
    for (uint64_t at = 0;;) {
        struct forbidden *f = zb_map_next(&zb.forbidden, &at);
        if (!f)
            break;
        if (zl_eq(f->group, group)) {
            zb_map_del(&zb.forbidden, zb_hash(f->key), f->key);
            atomic_fetch_sub(&zb.n_forbidden, 1);
            free(f);
            at = 0; /* deletion shifts entries back */
        }
    }
}

zr_status zb_group_remove(struct zr_str name)
{
    uint64_t hash = zb_hash(name);
    pthread_rwlock_wrlock(&zb.groups_lock);
    struct zb_group *g = zb_map_del(&zb.groups, hash, name);
    if (g) {
        zb_version_next(&zb.groups_version);
        atomic_fetch_add(&zb.groups_gen, 1);
        forbidden_clear(name);
        zk_metric_set(zb.meter.groups, (int64_t)zb.groups.n);
    }
    pthread_rwlock_unlock(&zb.groups_lock);
    if (!g)
        return ZR_ENOENT;
    zb_doc_touch_rows(ZB_DOC_GROUPS, &g->name, 1, NULL, NULL);
    struct zr_event event = {
        .hdr = ZR_HDR(struct zr_event, 0), .group = g->name, .now_ms = zk_wall_ms(), .point = ZR_POINT_GROUP_REMOVED
    };
    struct zr_verdict verdict = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    if (zk_hooks_at(ZR_POINT_GROUP_REMOVED))
        zk_hooks_run(ZR_POINT_GROUP_REMOVED, &event, &verdict);
    zb_group_unref(g);
    return ZR_OK;
}

struct zb_group **zb_groups_all(uint32_t *ret_n)
{
    pthread_rwlock_rdlock(&zb.groups_lock);
    struct zb_group **all = malloc((zb.groups.n + 1) * sizeof *all);
    uint32_t n = 0;
    uint64_t at = 0;
    for (struct zb_group *g; all && (g = zb_map_next(&zb.groups, &at));)
        all[n++] = zb_group_ref(g);
    pthread_rwlock_unlock(&zb.groups_lock);
    *ret_n = n;
    return all;
}

void zb_groups_free(struct zb_group **groups, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        zb_group_unref(groups[i]);
    free(groups);
}

/* ---- forbidden ---- */
static struct forbidden *forbidden_new(struct zr_str group, struct zr_str topic, int32_t mask)
{
    struct forbidden *f = malloc(sizeof *f + group.len + 1 + topic.len);
    if (!f)
        return NULL;
    char *text = (char *)(f + 1);
    memcpy(text, group.ptr, group.len);
    text[group.len] = '@';
    memcpy(text + group.len + 1, topic.ptr, topic.len);
    *f = (struct forbidden){
        { text, group.len + 1 + topic.len }, { text, group.len }, { text + group.len + 1, topic.len }, mask
    };
    return f;
}

static void forbidden_set(struct zr_str key, struct zr_str group, struct zr_str topic, int32_t mask)
{
    uint64_t hash = zb_hash(key);
    struct forbidden *f = zb_map_get(&zb.forbidden, hash, key);
    if (f && mask == 0) {
        zb_map_del(&zb.forbidden, hash, key);
        atomic_fetch_sub(&zb.n_forbidden, 1);
        free(f);
    } else if (f) {
        f->mask = mask;
    } else if (mask && zb.forbidden.n < (uint64_t)ZB_SET(max_progress) && (f = forbidden_new(group, topic, mask))) {
        if (zb_map_put(&zb.forbidden, hash, f->key, f) == ZR_OK)
            atomic_fetch_add(&zb.n_forbidden, 1);
        else
            free(f);
    }
    zb_version_next(&zb.groups_version);
}

int32_t zb_group_forbidden(struct zr_str group, struct zr_str topic, int32_t value)
{
    char text[ZB_NAME_MAX];
    if (value < 0 && atomic_load_explicit(&zb.n_forbidden, memory_order_relaxed) == 0)
        return 0;
    if (group.len == 0 || topic.len == 0 || group.len + 1 + topic.len > sizeof text)
        return 0;
    memcpy(text, group.ptr, group.len);
    text[group.len] = '@';
    memcpy(text + group.len + 1, topic.ptr, topic.len);
    struct zr_str key = { text, group.len + 1 + topic.len };
    if (value < 0) {
        pthread_rwlock_rdlock(&zb.groups_lock);
    } else {
        pthread_rwlock_wrlock(&zb.groups_lock);
        forbidden_set(key, group, topic, value);
    }
    struct forbidden *f = zb_map_get(&zb.forbidden, zb_hash(key), key);
    int32_t mask = f ? f->mask : 0;
    pthread_rwlock_unlock(&zb.groups_lock);
    if (value >= 0)
        zb_doc_touch_pair(ZB_DOC_GROUPS, key, group.len);
    return mask;
}

/* ---- groups that always exist ---- */
zr_status zb_groups_make_system(void)
{
    static const char *const names[] = { "TOOLS_CONSUMER",     "FILTERSRV_CONSUMER", "SELF_TEST_C_GROUP",
                                         "CID_ONS-HTTP-PROXY", "CID_ONSAPI_PULL",    "CID_ONSAPI_PERMISSION",
                                         "CID_ONSAPI_OWNER",   "CID_RMQ_SYS_TRANS",  NULL };
    for (uint32_t i = 0; names[i]; i++) {
        struct zr_group conf;
        struct zb_group *g = NULL;
        group_defaults(&conf, zl_str(names[i]));
        zr_status status = group_put(&conf, 1, &g);
        if (status != ZR_OK)
            return status;
        zb_group_unref(g);
    }
    return ZR_OK;
}

/* ---- subscriptionGroup.json ---- */
static int group_compare(const void *a, const void *b)
{
    return zl_compare((*(struct zb_group *const *)a)->name, (*(struct zb_group *const *)b)->name);
}

static int forbidden_compare(const void *a, const void *b)
{
    return zl_compare((*(struct forbidden *const *)a)->key, (*(struct forbidden *const *)b)->key);
}

static void forbidden_print(struct zl_jw *w)
{
    pthread_rwlock_rdlock(&zb.groups_lock);
    struct forbidden **all = malloc((zb.forbidden.n + 1) * sizeof *all);
    uint32_t n = 0;
    uint64_t at = 0;
    for (struct forbidden *f; all && (f = zb_map_next(&zb.forbidden, &at));)
        all[n++] = f;
    if (all)
        qsort(all, n, sizeof *all, forbidden_compare);
    for (uint32_t i = 0; all && i < n; i++) {
        if (i == 0 || !zl_eq(all[i]->group, all[i - 1]->group)) {
            if (i)
                zl_jw_end(w, '}');
            zl_jw_key(w, all[i]->group);
            zl_jw_begin(w, '{');
        }
        zl_jw_key(w, all[i]->topic);
        zl_jw_i64(w, all[i]->mask);
    }
    if (all && n)
        zl_jw_end(w, '}');
    pthread_rwlock_unlock(&zb.groups_lock);
    free(all);
}

static struct zl_buf document_more; /* members of the document that others wrote; set by the load, before anything prints */

void zb_groups_print(struct zl_buf *out)
{
    struct zl_jw w;
    uint32_t n = 0;
    struct zb_group **all = zb_groups_all(&n);
    pthread_rwlock_rdlock(&zb.groups_lock);
    struct zr_data_version version = zb.groups_version;
    pthread_rwlock_unlock(&zb.groups_lock);
    if (!all) {
        out->failed = 1;
        return;
    }
    qsort(all, n, sizeof *all, group_compare);
    zl_jw_init(&w, out, 1);
    zl_jw_begin(&w, '{');
    zl_version_print(&w, "dataVersion", &version);
    zl_jw_key(&w, zl_str("forbiddenTable"));
    zl_jw_begin(&w, '{');
    forbidden_print(&w);
    zl_jw_end(&w, '}');
    zl_jw_key(&w, zl_str("subscriptionGroupTable"));
    zl_jw_begin(&w, '{');
    for (uint32_t i = 0; i < n; i++) {
        struct zr_group view;
        zb_group_view(all[i], &view);
        zl_jw_key(&w, view.name);
        zl_group_print(&w, &view);
    }
    zl_jw_end(&w, '}');
    zl_jw_members(&w, zl_buf_as_str(&document_more));
    zl_jw_end(&w, '}');
    zb_groups_free(all, n);
}

static void row_forbidden(struct zl_jw *w, const struct zb_row *r)
{
    pthread_rwlock_rdlock(&zb.groups_lock);
    struct forbidden *f = zb_map_get(&zb.forbidden, zb_hash(r->name), r->name);
    int32_t mask = f ? f->mask : 0;
    pthread_rwlock_unlock(&zb.groups_lock);
    zl_jw_key(w, (struct zr_str){ r->name.ptr, r->group_len });
    zl_jw_begin(w, '{');
    zl_jw_key(w, (struct zr_str){ r->name.ptr + r->group_len + 1, r->name.len - r->group_len - 1 });
    zl_jw_i64(w, mask);
    zl_jw_end(w, '}');
}

void zb_groups_print_rows(struct zl_buf *out, const struct zb_row *rows)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("subscriptionGroupTable"));
    zl_jw_begin(&w, '{');
    for (const struct zb_row *r = rows; r; r = r->next) {
        struct zb_group *g = r->group_len ? NULL : zb_group_get(r->name, 0);
        struct zr_group view;
        if (!g)
            continue;
        zb_group_view(g, &view);
        zl_jw_key(&w, view.name);
        zl_group_print(&w, &view);
        zb_group_unref(g);
    }
    zl_jw_end(&w, '}');
    zl_jw_key(&w, zl_str("removed"));
    zl_jw_begin(&w, '[');
    for (const struct zb_row *r = rows; r; r = r->next) {
        struct zb_group *g = r->group_len ? NULL : zb_group_get(r->name, 0);
        if (!g && !r->group_len)
            zl_jw_str(&w, r->name);
        zb_group_unref(g);
    }
    zl_jw_end(&w, ']');
    zl_jw_key(&w, zl_str("forbiddenTable"));
    zl_jw_begin(&w, '{');
    for (const struct zb_row *r = rows; r; r = r->next)
        if (r->group_len)
            row_forbidden(&w, r);
    zl_jw_end(&w, '}');
    pthread_rwlock_rdlock(&zb.groups_lock);
    struct zr_data_version version = zb.groups_version;
    pthread_rwlock_unlock(&zb.groups_lock);
    zl_version_print(&w, "dataVersion", &version);
    zl_jw_end(&w, '}');
}

#define MAX_ATTRIBUTES 64u
static zr_status group_read(const struct zl_json *node)
{
    static const char *const known[] = { "groupName", "attributes", "subscriptionDataSet", "groupRetryPolicy", "brokerId",
                                         "whichBrokerWhenConsumeSlowly", "consumeEnable", "consumeFromMinEnable",
                                         "consumeBroadcastEnable", "consumeMessageOrderly", "notifyConsumerIdsChangedEnable",
                                         "retryQueueNums", "retryMaxTimes", "groupSysFlag", "consumeTimeoutMinute", NULL };
    struct zr_field attributes[MAX_ATTRIBUTES];
    struct zr_group conf;
    struct zl_buf policy, subs, more;
    struct zr_str name = zl_json_get_str(node, "groupName");
    const struct zl_json *list = zl_json_get(node, "attributes"), *sub = zl_json_get(node, "subscriptionDataSet");
    const struct zl_json *retry = zl_json_get(node, "groupRetryPolicy");
    group_defaults(&conf, name.len ? name : node->key);
    conf.attributes = attributes;
    for (const struct zl_json *a = list ? list->child : NULL; a && conf.n_attributes < MAX_ATTRIBUTES; a = a->next)
        attributes[conf.n_attributes++] = (struct zr_field){ a->key, zl_json_str(a) };
    conf.broker_id = zl_json_get_i64(node, "brokerId", 0);
    conf.slow_broker_id = zl_json_get_i64(node, "whichBrokerWhenConsumeSlowly", 1);
    conf.consume_enable = zl_json_get_bool(node, "consumeEnable", 1);
    conf.consume_from_min_enable = zl_json_get_bool(node, "consumeFromMinEnable", 1);
    conf.consume_broadcast_enable = zl_json_get_bool(node, "consumeBroadcastEnable", 1);
    conf.consume_orderly = zl_json_get_bool(node, "consumeMessageOrderly", 0);
    conf.notify_ids_changed = zl_json_get_bool(node, "notifyConsumerIdsChangedEnable", 1);
    conf.retry_queues = (int32_t)zl_json_get_i64(node, "retryQueueNums", 1);
    conf.retry_max_times = (int32_t)zl_json_get_i64(node, "retryMaxTimes", 16);
    conf.sys_flag = (int32_t)zl_json_get_i64(node, "groupSysFlag", 0);
    conf.consume_timeout_minute = (int32_t)zl_json_get_i64(node, "consumeTimeoutMinute", 15);
    zl_buf_init(&policy, 1u << 20);
    zl_buf_init(&subs, 1u << 24);
    zl_buf_init(&more, ZB_MORE_MAX);
    zl_json_others(&more, node, known);
    conf.more_json = more.failed ? (struct zr_str){ NULL, 0 } : zl_buf_as_str(&more);
    if (retry && retry->kind == ZL_JSON_OBJECT)
        zl_json_print(&policy, retry);
    if (sub && sub->kind == ZL_JSON_ARRAY)
        zl_json_print(&subs, sub);
    conf.retry_policy_json = zl_buf_as_str(&policy);
    conf.subscription_data_json = zl_buf_as_str(&subs);
    zr_status status = policy.failed || subs.failed ? ZR_ENOMEM : zb_group_store(&conf);
    zl_buf_free(&policy);
    zl_buf_free(&subs);
    zl_buf_free(&more);
    return status == ZR_EINVAL ? ZR_OK : status;
}

static void forbidden_read(const struct zl_json *root)
{
    const struct zl_json *table = zl_json_get(root, "forbiddenTable");
    for (const struct zl_json *g = table ? table->child : NULL; g; g = g->next)
        for (const struct zl_json *t = g->child; t; t = t->next) {
            char text[ZB_NAME_MAX];
            if (g->key.len == 0 || t->key.len == 0 || g->key.len + 1 + t->key.len > sizeof text)
                continue;
            memcpy(text, g->key.ptr, g->key.len);
            text[g->key.len] = '@';
            memcpy(text + g->key.len + 1, t->key.ptr, t->key.len);
            struct zr_str key = { text, g->key.len + 1 + t->key.len };
            forbidden_set(key, g->key, t->key, (int32_t)zl_json_i64(t, 0));
        }
}

zr_status zb_group_ensure(struct zr_str name)
{
    struct zr_group conf;
    struct zb_group *g = NULL;
    if (name.len == 0 || name.len > ZL_RETRY_TOPIC_MAX) /* as in a document: an old one may be longer than a new one may */
        return ZR_EINVAL;
    group_defaults(&conf, name);
    zr_status status = group_put(&conf, 1, &g);
    if (status == ZR_OK)
        zb_group_unref(g);
    return status;
}

static uint32_t group_has(struct zr_str name)
{
    return zb_map_get(&zb.groups, zb_hash(name), name) != NULL;
}

/* At a start: nobody uses it yet. */
static void group_gone(struct zr_str name)
{
    zb_group_unref(zb_map_del(&zb.groups, zb_hash(name), name));
    forbidden_clear(name);
}

zr_status zb_groups_load(uint32_t *ret_from, uint32_t *ret_journal)
{
    static const char *const known[] = { "dataVersion", "forbiddenTable", "subscriptionGroupTable", NULL };
    const struct zb_table_doc doc = { .name = "config/subscriptionGroup.json",
                                      .member = "subscriptionGroupTable",
                                      .what = "groups",
                                      .without = "groups are made again from the offsets, with the settings of new ones",
                                      .limit_name = "maxGroups",
                                      .limit = zb.set.max_groups,
                                      .entry = group_read,
                                      .rest = forbidden_read,
                                      .known = known,
                                      .more = &document_more,
                                      .version = &zb.groups_version,
                                      .document = ZB_DOC_GROUPS,
                                      .has = group_has,
                                      .gone = group_gone,
                                      .ret_journal = ret_journal };
    return zb_table_load(&doc, ret_from);
}

void zb_groups_close(void)
{
    uint64_t at = 0;
    for (struct zb_group *g; (g = zb_map_next(&zb.groups, &at));)
        zb_group_unref(g);
    zb_map_free(&zb.groups);
    at = 0;
    for (struct forbidden *f; (f = zb_map_next(&zb.forbidden, &at));)
        free(f);
    zb_map_free(&zb.forbidden);
    zl_buf_free(&document_more);
}
