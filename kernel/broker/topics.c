/* SPDX-License-Identifier: Apache-2.0 */
/* topics.c - the table of topics, its document, the system topics, and what may be created by whom.
 *
 * What stays true:
 *   1. A zb_topic never changes but for its reference count and the slots it fills on demand; a changed topic is a
 *      new object that shares `live` with the old one. A topic that was removed and made again has a new `live`.
 *   2. topics_gen grows when an object is replaced or removed, never when one is added.
 *   3. Every change of the table raises the data version's counter by one.
 *
 * LOCKING. zb.topics_lock guards the table and the data version; it is held for look-ups and for putting one pointer
 * in place of another. live->lock guards the list of queues. */
#include "broker/internal.h"
#include "zl/topics.h"

/* ---- objects ---- */
static struct zb_live *live_new(void)
{
    struct zb_live *l = calloc(1, sizeof *l);
    if (!l)
        return NULL;
    atomic_init(&l->refs, 1);
    pthread_mutex_init(&l->lock, NULL);
    l->waiting_end = &l->waiting;
    return l;
}

static void live_unref(struct zb_live *l)
{
    if (atomic_fetch_sub(&l->refs, 1) != 1)
        return;
    while (l->queues) {
        struct zb_queue *q = l->queues;
        l->queues = q->next;
        pthread_mutex_destroy(&q->lock);
        free(q);
    }
    pthread_mutex_destroy(&l->lock);
    free(l);
}

struct zb_topic *zb_topic_ref(struct zb_topic *topic)
{
    atomic_fetch_add_explicit(&topic->refs, 1, memory_order_relaxed);
    return topic;
}

void zb_topic_unref(struct zb_topic *topic)
{
    if (!topic || atomic_fetch_sub(&topic->refs, 1) != 1)
        return;
    live_unref(topic->live);
    free(topic);
}

/* One block: struct, slots, attributes, text. old: the one it takes the place of, or NULL; they share what is live. */
static struct zb_topic *topic_new(const struct zr_topic *conf, const struct zb_topic *old)
{
    struct zb_live *live = old ? old->live : NULL;
    struct zr_str more = conf->more_json.len || !old ? conf->more_json : old->more;
    uint32_t slots = (uint32_t)(conf->read_queues > conf->write_queues ? conf->read_queues : conf->write_queues);
    uint64_t size = sizeof(struct zb_topic) + slots * sizeof(void *) + conf->n_attributes * sizeof(struct zr_field) +
                    conf->name.len + more.len;
    for (uint32_t i = 0; i < conf->n_attributes; i++)
        size += conf->attributes[i].name.len + conf->attributes[i].value.len;
    struct zb_topic *t = calloc(1, size);
    if (!t)
        return NULL;
    t->live = live ? live : live_new();
    if (!t->live) {
        free(t);
        return NULL;
    }
    if (live)
        atomic_fetch_add(&live->refs, 1);
    atomic_init(&t->refs, 1);
    t->slots = (void *)(t + 1);
    t->n_slots = slots;
    t->attributes = (struct zr_field *)(void *)((char *)(t + 1) + slots * sizeof(void *));
    t->n_attributes = conf->n_attributes;
    char *at = (char *)(t->attributes + conf->n_attributes);
    t->name = zb_text_put(&at, conf->name);
    t->more = zb_text_put(&at, more);
    for (uint32_t i = 0; i < conf->n_attributes; i++) {
        t->attributes[i].name = zb_text_put(&at, conf->attributes[i].name);
        t->attributes[i].value = zb_text_put(&at, conf->attributes[i].value);
        if (zl_is(t->attributes[i].name, "queue.type"))
            t->batch_cq = (uint8_t)zl_is(t->attributes[i].value, "BatchCQ");
        if (zl_is(t->attributes[i].name, "cleanup.policy"))
            t->compaction = (uint8_t)zl_is(t->attributes[i].value, "COMPACTION");
    }
    t->hash = zb_hash(t->name);
    t->read_queues = conf->read_queues;
    t->write_queues = conf->write_queues;
    t->perm = conf->perm;
    t->sys_flag = conf->sys_flag;
    t->multi_tag = conf->multi_tag != 0;
    t->order = conf->order != 0;
    t->system = (uint8_t)zb_topic_is_system(t->name);
    t->stored_hooks = (uint8_t)zk_hooks_want(ZR_POINT_STORED, t->name);
    return t;
}

void zb_topic_view(const struct zb_topic *topic, struct zr_topic *ret)
{
    *ret = (struct zr_topic){ .hdr = ZR_HDR(struct zr_topic, 0),
                              .name = topic->name,
                              .attributes = topic->attributes,
                              .n_attributes = topic->n_attributes,
                              .read_queues = topic->read_queues,
                              .write_queues = topic->write_queues,
                              .perm = topic->perm,
                              .sys_flag = topic->sys_flag,
                              .multi_tag = topic->multi_tag,
                              .order = topic->order,
                              .system = topic->system,
                              .more_json = topic->more };
}

/* ---- queues ---- */
static struct zb_queue *queue_make(struct zb_live *l, int32_t id)
{
    pthread_mutex_lock(&l->lock);
    struct zb_queue *q = l->queues;
    while (q && q->id != id)
        q = q->next;
    if (!q && (q = calloc(1, sizeof *q))) {
        q->id = id;
        pthread_mutex_init(&q->lock, NULL);
        q->next = l->queues;
        l->queues = q;
    }
    pthread_mutex_unlock(&l->lock);
    return q;
}

struct zb_queue *zb_topic_queue(struct zb_topic *topic, int32_t queue_id)
{
    if (queue_id < 0 || (uint32_t)queue_id >= topic->n_slots)
        return NULL;
    struct zb_queue *q = atomic_load_explicit(&topic->slots[queue_id], memory_order_acquire);
    if (!q) {
        q = queue_make(topic->live, queue_id);
        atomic_store_explicit(&topic->slots[queue_id], q, memory_order_release);
    }
    return q;
}

struct zr_queue *zb_queue_handle(struct zb_topic *topic, struct zb_queue *queue)
{
    struct zr_queue *h = atomic_load_explicit(&queue->handle, memory_order_acquire);
    if (!h) {
        h = zb.storage->queue(zb.storage_inst, topic->name, queue->id, 1);
        atomic_store_explicit(&queue->handle, h, memory_order_release);
    }
    return h;
}

/* ---- table ---- */
struct zb_topic *zb_topic_get(struct zr_str name)
{
    uint64_t hash = zb_hash(name);
    pthread_rwlock_rdlock(&zb.topics_lock);
    struct zb_topic *t = zb_map_get(&zb.topics, hash, name);
    if (t)
        zb_topic_ref(t);
    pthread_rwlock_unlock(&zb.topics_lock);
    return t;
}

struct zb_topic *zb_lane_topic(struct zb_lane *lane, struct zr_str name)
{
    uint64_t hash = zb_hash(name);
    struct zb_topic *t = zb_map_get(&lane->topics, hash, name);
    if (t)
        return t;
    pthread_rwlock_rdlock(&zb.topics_lock);
    t = zb_map_get(&zb.topics, hash, name);
    if (t)
        zb_topic_ref(t);
    pthread_rwlock_unlock(&zb.topics_lock);
    if (t && zb_map_put(&lane->topics, hash, t->name, t) != ZR_OK) {
        zb_topic_unref(t);
        t = NULL;
    }
    return t;
}

void zb_topics_bump(void)
{
    pthread_rwlock_wrlock(&zb.topics_lock);
    zb_version_next(&zb.topics_version);
    pthread_rwlock_unlock(&zb.topics_lock);
}

#define PUT_NEW 1u      /* an existing one stays */
#define PUT_ANNOUNCE 2u /* a new one is born with `announcing` set */

/* Under the write lock. */
static zr_status topic_place(const struct zr_topic *conf, uint32_t how, struct zb_topic **ret, uint32_t *ret_new,
                             struct zb_topic **ret_old)
{
    uint64_t hash = zb_hash(conf->name);
    struct zb_topic *old = zb_map_get(&zb.topics, hash, conf->name);
    if (ret_new)
        *ret_new = old == NULL;
    if (old && (how & PUT_NEW)) {
        if (ret)
            *ret = zb_topic_ref(old);
        return ZR_OK;
    }
    if (!old && zb.topics.n >= (uint64_t)ZB_SET(max_topics))
        return ZR_EFULL;
    struct zb_topic *t = topic_new(conf, old);
    if (!t)
        return ZR_ENOMEM;
    if (!old)
        atomic_store(&t->live->announcing, (how & PUT_ANNOUNCE) != 0);
    if (zb_map_put(&zb.topics, hash, t->name, t) != ZR_OK) {
        zb_topic_unref(t);
        return ZR_ENOMEM;
    }
    zb_version_next(&zb.topics_version);
    if (old)
        atomic_fetch_add(&zb.topics_gen, 1);
    *ret_old = old;
    if (ret)
        *ret = zb_topic_ref(t);
    return ZR_OK;
}

static zr_status topic_check(const struct zr_topic *conf)
{
    if (conf->name.len == 0 || conf->name.len > ZL_RETRY_TOPIC_MAX || conf->read_queues < 0 || conf->write_queues < 0 ||
        conf->read_queues > ZB_MAX_QUEUES || conf->write_queues > ZB_MAX_QUEUES || conf->perm < 0 || conf->perm > 15)
        return ZR_EINVAL;
    return ZR_OK;
}

static zr_status topic_put(const struct zr_topic *conf, uint32_t how, struct zb_topic **ret, uint32_t *ret_new)
{
    struct zb_topic *old = NULL;
    if (topic_check(conf) != ZR_OK)
        return ZR_EINVAL;
    pthread_rwlock_wrlock(&zb.topics_lock);
    zr_status status = topic_place(conf, how, ret, ret_new, &old);
    zk_metric_set(zb.meter.topics, (int64_t)zb.topics.n);
    pthread_rwlock_unlock(&zb.topics_lock);
    if (old) {
        zb_hold_wake_topic(old); /* queues or permissions may be others now */
        zb_topic_unref(old);
    }
    return status;
}

zr_status zb_topic_store(const struct zr_topic *conf, struct zb_topic **ret, uint32_t *ret_new)
{
    return topic_put(conf, 0, ret, ret_new);
}

zr_status zb_topic_ensure(struct zr_str name, int32_t queues, int32_t perm, int32_t sys_flag, uint32_t order,
                          struct zb_topic **ret, uint32_t *ret_new)
{
    uint32_t made = 0;
    struct zb_topic *t = zb_topic_get(name);
    if (t) {
        if (ret)
            *ret = t;
        else
            zb_topic_unref(t);
        if (ret_new)
            *ret_new = 0;
        return ZR_OK;
    }
    struct zr_topic conf = { .hdr = ZR_HDR(struct zr_topic, 0),
                             .name = name,
                             .read_queues = queues,
                             .write_queues = queues,
                             .perm = perm,
                             .sys_flag = sys_flag,
                             .order = order };
    return topic_put(&conf, PUT_NEW, ret, ret_new ? ret_new : &made);
}

zr_status zb_topic_from_template(struct zr_str name, struct zr_str template_name, int32_t queues, int32_t sys_flag,
                                 struct zb_topic **ret, uint32_t *ret_new)
{
    struct zb_topic *tmpl = zb_topic_get(template_name);
    if (!tmpl)
        return ZR_ENOENT;
    uint32_t inherits = (tmpl->perm & ZR_PERM_INHERIT) != 0;
    if (zl_is(template_name, ZB_TEMPLATE_TOPIC) && !ZB_SET(auto_create_topic))
        inherits = 0;
    int32_t n = queues < tmpl->write_queues ? queues : tmpl->write_queues;
    struct zr_topic conf = { .hdr = ZR_HDR(struct zr_topic, 0),
                             .name = name,
                             .read_queues = n < 0 ? 0 : n,
                             .write_queues = n < 0 ? 0 : n,
                             .perm = tmpl->perm & ~ZR_PERM_INHERIT,
                             .sys_flag = sys_flag,
                             .multi_tag = tmpl->multi_tag };
    zb_topic_unref(tmpl);
    return inherits ? topic_put(&conf, PUT_NEW | PUT_ANNOUNCE, ret, ret_new) : ZR_ENOENT;
}

zr_status zb_topic_remove(struct zr_str name)
{
    if (zb_topic_is_system(name))
        return ZR_EPERM;
    uint64_t hash = zb_hash(name);
    pthread_rwlock_wrlock(&zb.topics_lock);
    struct zb_topic *t = zb_map_del(&zb.topics, hash, name);
    if (t) {
        zb_version_next(&zb.topics_version);
        atomic_fetch_add(&zb.topics_gen, 1);
        zk_metric_set(zb.meter.topics, (int64_t)zb.topics.n);
    }
    pthread_rwlock_unlock(&zb.topics_lock);
    if (!t)
        return ZR_ENOENT;
    zb_announce_removed(t->name);
    zb_offset_remove((struct zr_str){ NULL, 0 }, t->name);
    zr_status status = zb.storage->remove_topic(zb.storage_inst, t->name);
    zb_hold_wake_topic(t);
    struct zr_event event = {
        .hdr = ZR_HDR(struct zr_event, 0), .topic = t->name, .now_ms = zk_wall_ms(), .point = ZR_POINT_TOPIC_REMOVED
    };
    struct zr_verdict verdict = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    if (zk_hooks_at(ZR_POINT_TOPIC_REMOVED))
        zk_hooks_run(ZR_POINT_TOPIC_REMOVED, &event, &verdict);
    zb_topic_unref(t);
    return status == ZR_ENOENT ? ZR_OK : status; /* a topic nobody ever wrote to has no queues */
}

struct zb_topic **zb_topics_all(uint32_t *ret_n)
{
    pthread_rwlock_rdlock(&zb.topics_lock);
    struct zb_topic **all = malloc((zb.topics.n + 1) * sizeof *all);
    uint32_t n = 0;
    uint64_t at = 0;
    for (struct zb_topic *t; all && (t = zb_map_next(&zb.topics, &at));)
        all[n++] = zb_topic_ref(t);
    pthread_rwlock_unlock(&zb.topics_lock);
    *ret_n = n;
    return all;
}

void zb_topics_free(struct zb_topic **topics, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        zb_topic_unref(topics[i]);
    free(topics);
}

/* ---- names ---- */
static uint32_t is_named_after(struct zr_str name, const char *prefix, struct zr_str of, const char *suffix)
{
    uint64_t p = strlen(prefix), s = strlen(suffix);
    return name.len == p + of.len + s && memcmp(name.ptr, prefix, p) == 0 &&
           (of.len == 0 || memcmp(name.ptr + p, of.ptr, of.len) == 0) && memcmp(name.ptr + p + of.len, suffix, s) == 0;
}

uint32_t zb_topic_is_system(struct zr_str name)
{
    static const char *const names[] = { ZB_TEMPLATE_TOPIC,
                                         "SCHEDULE_TOPIC_XXXX",
                                         "BenchmarkTest",
                                         "RMQ_SYS_TRANS_HALF_TOPIC",
                                         "RMQ_SYS_TRACE_TOPIC",
                                         "RMQ_SYS_TRANS_OP_HALF_TOPIC",
                                         "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC",
                                         "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC",
                                         "TRANS_CHECK_MAX_TIME_TOPIC",
                                         "SELF_TEST_TOPIC",
                                         "OFFSET_MOVED_EVENT",
                                         "CHECKPOINT_TOPIC",
                                         NULL };
    for (uint32_t i = 0; names[i]; i++)
        if (zl_is(name, names[i]))
            return 1;
    if (zl_starts(name, "rmq_sys_"))
        return 1;
    if (zl_eq(name, zb.id.cluster) || zl_eq(name, zb.id.name) ||
        is_named_after(name, "", zb.id.cluster, "_REPLY_TOPIC"))
        return 1;
    return zb.set.trace_topic_enable && zl_eq(name, zb.set.trace_topic);
}

uint32_t zb_topic_unsendable(struct zr_str name)
{
    return zl_topic_unsendable(name);
}

void zb_topic_text(const struct zb_topic *topic, char *to, uint64_t cap)
{
    int n =
        snprintf(to, cap,
                 "TopicConfig [topicName=%.*s, readQueueNums=%d, writeQueueNums=%d, perm=%c%c%c, topicFilterType=%s, "
                 "topicSysFlag=%d, order=%s, attributes={",
                 (int)topic->name.len, topic->name.ptr, topic->read_queues, topic->write_queues,
                 topic->perm & ZR_PERM_READ ? 'R' : '-', topic->perm & ZR_PERM_WRITE ? 'W' : '-',
                 topic->perm & ZR_PERM_INHERIT ? 'X' : '-', topic->multi_tag ? "MULTI_TAG" : "SINGLE_TAG",
                 topic->sys_flag, topic->order ? "true" : "false");
    for (uint32_t i = 0; i < topic->n_attributes && n > 0 && (uint64_t)n < cap; i++)
        n += snprintf(to + n, cap - (uint64_t)n, "%s%.*s=%.*s", i ? ", " : "", (int)topic->attributes[i].name.len,
                      topic->attributes[i].name.ptr, (int)topic->attributes[i].value.len,
                      topic->attributes[i].value.ptr);
    if (n > 0 && (uint64_t)n < cap)
        snprintf(to + n, cap - (uint64_t)n, "}]");
}

/* ---- system topics, as Apache 5.5.0 makes them ---- */
static zr_status make(const char *name, struct zr_str of, const char *suffix, int32_t queues, int32_t perm)
{
    char text[ZB_NAME_MAX];
    int n = snprintf(text, sizeof text, "%s%.*s%s", name, (int)of.len, of.ptr ? of.ptr : "", suffix);
    if (n <= 0 || n > (int)ZL_RETRY_TOPIC_MAX) {
        zk_err_raise(ZR_EINVAL, 0, "the names of cluster and broker are too long to name system topics after them");
        return ZR_EINVAL;
    }
    return zb_topic_ensure((struct zr_str){ text, (uint64_t)n }, queues, perm, 0, 0, NULL, NULL);
}

zr_status zb_topics_make_system(void)
{
    const int32_t rw = ZR_PERM_READ | ZR_PERM_WRITE;
    const struct zr_str none = { NULL, 0 };
    const struct {
        const char *name;
        struct zr_str of;
        const char *suffix;
        int64_t queues;
        int32_t perm;
        uint32_t wanted;
    } rows[] = {
        { "SELF_TEST_TOPIC", none, "", 1, rw, 1 },
        { ZB_TEMPLATE_TOPIC, none, "", zb.set.default_topic_queues, rw | ZR_PERM_INHERIT, zb.set.auto_create_topic },
        { "BenchmarkTest", none, "", 1024, rw, 1 },
        { "", zb.id.cluster, "", 16, ZR_PERM_INHERIT | (zb.set.cluster_topic ? rw : 0), 1 },
        { "", zb.id.name, "", 1, ZR_PERM_INHERIT | (zb.set.broker_topic ? rw : 0), 1 },
        { "OFFSET_MOVED_EVENT", none, "", 1, rw, 1 },
        { "SCHEDULE_TOPIC_XXXX", none, "", 18, rw, 1 },
        { "", zb.set.trace_topic, "", 1, rw, zb.set.trace_topic_enable },
        { "", zb.id.cluster, "_REPLY_TOPIC", 1, rw, 1 },
        { "rmq_sys_REVIVE_LOG_", zb.id.cluster, "", zb.set.revive_queues, rw, 1 },
        { "rmq_sys_SYNC_BROKER_MEMBER_", zb.id.name, "", 1, ZR_PERM_INHERIT, 1 },
        { "RMQ_SYS_TRANS_HALF_TOPIC", none, "", 1, rw, 1 },
        { "RMQ_SYS_TRANS_OP_HALF_TOPIC", none, "", 1, rw, 1 },
        { "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC", none, "", 1, rw, 1 },
        { "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC", none, "", 1, rw, 1 },
        { "rmq_sys_wheel_timer", none, "", 1, rw, zb.set.timer_wheel },
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        zr_status status = rows[i].wanted
                               ? make(rows[i].name, rows[i].of, rows[i].suffix, (int32_t)rows[i].queues, rows[i].perm)
                               : ZR_OK;
        if (status != ZR_OK)
            return status;
    }
    return ZR_OK;
}

/* ---- topics.json ---- */
static int topic_compare(const void *a, const void *b)
{
    return zl_compare((*(struct zb_topic *const *)a)->name, (*(struct zb_topic *const *)b)->name);
}

static struct zl_buf document_more; /* members of the document that others wrote; set by the load, before anything prints */

/* A table that a person may look at is written in order of names; for a larger one that would be half of the work. Nobody who
 * reads it, RocketMQ included, minds the order. */
#define SORTED_MAX 1024u

/* By hand, in the layout that zl_jw gives elsewhere: the whole table is printed while topics are being made. */
static void topic_print(struct zl_buf *out, const struct zb_topic *t)
{
    zl_buf_add(out, "\n\t\t", 3);
    zl_json_quote(out, t->name);
    zl_buf_cstr(out, ":{\n\t\t\t\"attributes\":{");
    for (uint32_t i = 0; i < t->n_attributes; i++) {
        zl_buf_cstr(out, i ? ",\n\t\t\t\t" : "\n\t\t\t\t");
        zl_json_quote(out, t->attributes[i].name);
        zl_buf_u8(out, ':');
        zl_json_quote(out, t->attributes[i].value);
    }
    zl_buf_cstr(out, t->n_attributes ? "\n\t\t\t}" : "}");
    zl_buf_cstr(out,
                t->order ? ",\n\t\t\t\"order\":true,\n\t\t\t\"perm\":" : ",\n\t\t\t\"order\":false,\n\t\t\t\"perm\":");
    zl_buf_i64(out, t->perm);
    zl_buf_cstr(out, ",\n\t\t\t\"readQueueNums\":");
    zl_buf_i64(out, t->read_queues);
    zl_buf_cstr(out, t->multi_tag ? ",\n\t\t\t\"topicFilterType\":\"MULTI_TAG\",\n\t\t\t\"topicName\":"
                                  : ",\n\t\t\t\"topicFilterType\":\"SINGLE_TAG\",\n\t\t\t\"topicName\":");
    zl_json_quote(out, t->name);
    zl_buf_cstr(out, ",\n\t\t\t\"topicSysFlag\":");
    zl_buf_i64(out, t->sys_flag);
    zl_buf_cstr(out, ",\n\t\t\t\"writeQueueNums\":");
    zl_buf_i64(out, t->write_queues);
    if (t->more.len) {
        zl_buf_cstr(out, ",\n\t\t\t");
        zl_buf_str(out, t->more);
    }
    zl_buf_cstr(out, "\n\t\t}");
}

void zb_topics_print(struct zl_buf *out)
{
    uint32_t n = 0;
    struct zb_topic **all = zb_topics_all(&n);
    pthread_rwlock_rdlock(&zb.topics_lock);
    struct zr_data_version v = zb.topics_version;
    pthread_rwlock_unlock(&zb.topics_lock);
    if (!all) {
        out->failed = 1;
        return;
    }
    if (n <= SORTED_MAX)
        qsort(all, n, sizeof *all, topic_compare);
    zl_buf_reserve(out, 320ull * n + 256);
    zl_buf_fmt(out,
               "{\n\t\"dataVersion\":{\n\t\t\"counter\":%lld,\n\t\t\"stateVersion\":%lld,\n\t\t\"timestamp\":%lld\n\t},"
               "\n\t\"topicConfigTable\":{",
               (long long)v.counter, (long long)v.state_version, (long long)v.timestamp);
    for (uint32_t i = 0; i < n; i++) {
        if (i)
            zl_buf_u8(out, ',');
        topic_print(out, all[i]);
    }
    zl_buf_cstr(out, n ? "\n\t}" : "}");
    if (document_more.len) {
        zl_buf_cstr(out, ",\n\t");
        zl_buf_str(out, zl_buf_as_str(&document_more));
    }
    zl_buf_cstr(out, "\n}");
    zb_topics_free(all, n);
}

/* A topic that is removed between the two walks is in both lists: the second one counts. */
void zb_topics_print_rows(struct zl_buf *out, const struct zb_row *rows)
{
    uint32_t n = 0;
    zl_buf_cstr(out, "{\"topicConfigTable\":{");
    for (const struct zb_row *r = rows; r; r = r->next) {
        struct zb_topic *t = zb_topic_get(r->name);
        if (!t)
            continue;
        if (n++)
            zl_buf_u8(out, ',');
        topic_print(out, t);
        zb_topic_unref(t);
    }
    zl_buf_cstr(out, "},\"removed\":[");
    n = 0;
    for (const struct zb_row *r = rows; r; r = r->next) {
        struct zb_topic *t = zb_topic_get(r->name);
        if (!t) {
            if (n++)
                zl_buf_u8(out, ',');
            zl_json_quote(out, r->name);
        }
        zb_topic_unref(t);
    }
    pthread_rwlock_rdlock(&zb.topics_lock);
    struct zr_data_version v = zb.topics_version;
    pthread_rwlock_unlock(&zb.topics_lock);
    zl_buf_fmt(out, "],\"dataVersion\":{\"counter\":%lld,\"stateVersion\":%lld,\"timestamp\":%lld}}", (long long)v.counter,
               (long long)v.state_version, (long long)v.timestamp);
}

#define MAX_ATTRIBUTES 64u
static zr_status topic_read(const struct zl_json *node)
{
    struct zr_field attributes[MAX_ATTRIBUTES];
    static const char *const known[] = { "topicName", "readQueueNums", "writeQueueNums", "perm", "topicSysFlag", "order",
                                         "topicFilterType", "attributes", NULL };
    struct zr_topic conf = { .hdr = ZR_HDR(struct zr_topic, 0), .attributes = attributes };
    const struct zl_json *list = zl_json_get(node, "attributes");
    struct zl_buf more;
    conf.name = zl_json_get_str(node, "topicName");
    if (!conf.name.len)
        conf.name = node->key;
    conf.read_queues = (int32_t)zl_json_get_i64(node, "readQueueNums", 16);
    conf.write_queues = (int32_t)zl_json_get_i64(node, "writeQueueNums", 16);
    conf.perm = (int32_t)zl_json_get_i64(node, "perm", 6);
    conf.sys_flag = (int32_t)zl_json_get_i64(node, "topicSysFlag", 0);
    conf.order = zl_json_get_bool(node, "order", 0);
    conf.multi_tag = zl_is(zl_json_get_str(node, "topicFilterType"), "MULTI_TAG");
    for (const struct zl_json *a = list ? list->child : NULL; a && conf.n_attributes < MAX_ATTRIBUTES; a = a->next)
        attributes[conf.n_attributes++] = (struct zr_field){ a->key, zl_json_str(a) };
    zl_buf_init(&more, ZB_MORE_MAX);
    zl_json_others(&more, node, known);
    conf.more_json = more.failed ? (struct zr_str){ NULL, 0 } : zl_buf_as_str(&more);
    zr_status status = zb_topic_store(&conf, NULL, NULL);
    zl_buf_free(&more);
    if (status == ZR_EINVAL) {
        zk_log(ZR_LOG_WARN, "topics.json: an entry with an impossible name or number of queues was left out");
        status = ZR_OK;
    }
    return status;
}

static uint32_t topic_has(struct zr_str name)
{
    return zb_map_get(&zb.topics, zb_hash(name), name) != NULL;
}

/* At a start: nobody uses it yet. */
static void topic_gone(struct zr_str name)
{
    zb_topic_unref(zb_map_del(&zb.topics, zb_hash(name), name));
}

zr_status zb_topics_load(uint32_t *ret_from, uint32_t *ret_journal)
{
    static const char *const known[] = { "dataVersion", "topicConfigTable", NULL };
    const struct zb_table_doc doc = { .name = "config/topics.json",
                                      .member = "topicConfigTable",
                                      .what = "topics",
                                      .without = "topics are made again from their queues, with the settings of new ones",
                                      .limit_name = "maxTopics",
                                      .limit = zb.set.max_topics,
                                      .entry = topic_read,
                                      .known = known,
                                      .more = &document_more,
                                      .version = &zb.topics_version,
                                      .document = ZB_DOC_TOPICS,
                                      .has = topic_has,
                                      .gone = topic_gone,
                                      .ret_journal = ret_journal };
    return zb_table_load(&doc, ret_from);
}

void zb_topics_close(void)
{
    uint64_t at = 0;
    for (struct zb_topic *t; (t = zb_map_next(&zb.topics, &at));)
        zb_topic_unref(t);
    zb_map_free(&zb.topics);
    zl_buf_free(&document_more);
}
