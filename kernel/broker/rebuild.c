/* SPDX-License-Identifier: Apache-2.0 */
/* rebuild.c - topics and groups that no document speaks of, found again: topics by the queues that the storage has, groups by the
 * offsets and the retry topics.
 *
 * What stays true:
 *   1. This is done at a start, before anybody asks, and only when a document was not read from itself: queues beside a whole
 *      topics.json belong to a topic that was deleted.
 *   2. A topic that is known keeps its settings. Only when nothing was known of any is one made larger: its queues are there.
 *   3. A queue that never had a message makes no topic. */
#include "broker/internal.h"

#define PERM_NEW (ZR_PERM_READ | ZR_PERM_WRITE)

struct found {
    struct zr_str name;
    int32_t queues;
    uint32_t used, batch;
};
struct search { struct zb_map map; zr_status status; };

static struct found *found_of(struct search *s, struct zr_str name)
{
    uint64_t hash = zb_hash(name);
    struct found *f = zb_map_get(&s->map, hash, name);
    if (f)
        return f;
    if (s->map.n >= (uint64_t)ZB_SET(max_topics)) {
        s->status = ZR_EFULL;
        return NULL;
    }
    f = calloc(1, sizeof *f + name.len);
    if (f) {
        char *at = (char *)(f + 1);
        f->name = zb_text_put(&at, name);
        if (zb_map_put(&s->map, hash, f->name, f) == ZR_OK)
            return f;
    }
    free(f);
    s->status = ZR_ENOMEM;
    return NULL;
}

/* Does the queue hold batches as one record each? Then the topic had queue.type=BatchCQ. */
static uint32_t is_batch(struct zr_queue *queue, int64_t offset)
{
    struct zr_piece piece;
    struct zl_record rec;
    const char *why;
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .queue = queue, .offset = offset, .pieces = &piece, .cap_pieces = 1,
                           .max_messages = 1 };
    struct zr_read_result ret = { .hdr = ZR_HDR(struct zr_read_result, 0) };
    uint32_t batch = 0;
    if (zb.storage->read(zb.storage_inst, &req, &ret) != ZR_OK || ret.what != ZR_READ_FOUND || ret.n_pieces == 0)
        return 0;
    if (piece.ptr && zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &rec, &why) == ZR_OK)
        batch = (rec.sys_flag & ZR_SYSFLAG_INNER_BATCH) != 0;
    if (ret.pin)
        zb.storage->unpin(zb.storage_inst, ret.pin);
    return batch;
}

static int32_t queue_found(void *ctx, struct zr_str topic, int32_t queue_id, struct zr_queue *queue)
{
    struct search *s = ctx;
    int64_t min = 0, max = 0;
    char why[256];
    if (queue_id < 0 || queue_id >= ZB_MAX_QUEUES || zl_topic_check(topic, why, sizeof why) != ZR_OK)
        return 0;
    struct found *f = found_of(s, topic);
    if (!f)
        return 1;
    zb.storage->bounds(zb.storage_inst, queue, &min, &max);
    if (f->queues <= queue_id)
        f->queues = queue_id + 1;
    if (max > 0 && !f->used) {
        f->used = 1;
        f->batch = is_batch(queue, min);
    }
    return 0;
}

/* 1: it was made, or made larger. */
static uint32_t topic_again(const struct found *f, uint32_t from)
{
    static struct zr_field batch = { ZR_STR("queue.type"), ZR_STR("BatchCQ") };
    struct zr_topic conf = { .hdr = ZR_HDR(struct zr_topic, 0), .name = f->name, .perm = PERM_NEW };
    struct zb_topic *t = zb_topic_get(f->name);
    if (t) {
        zb_topic_view(t, &conf);
        if (from != ZB_FROM_NOTHING || (conf.read_queues >= f->queues && conf.write_queues >= f->queues)) {
            zb_topic_unref(t);
            return 0;
        }
    } else if (f->batch) {
        conf.attributes = &batch;
        conf.n_attributes = 1;
    }
    conf.read_queues = conf.read_queues > f->queues ? conf.read_queues : f->queues;
    conf.write_queues = conf.write_queues > f->queues ? conf.write_queues : f->queues;
    zr_status status = zb_topic_store(&conf, NULL, NULL);
    zb_topic_unref(t);
    return status == ZR_OK;
}

uint32_t zb_topics_rebuild(uint32_t from)
{
    struct search s = { .status = ZR_OK };
    uint32_t made = 0;
    uint64_t at = 0;
    if (from == ZB_FROM_ITSELF || !zb.storage->each_queue)
        return 0;
    zb.storage->each_queue(zb.storage_inst, queue_found, &s);
    for (struct found *f; (f = zb_map_next(&s.map, &at));) {
        made += f->used && topic_again(f, from);
        free(f);
    }
    zb_map_free(&s.map);
    if (made)
        zk_log(ZR_LOG_WARN, "config/topics.json did not speak of %u topics that have messages: they were made again from their queues, with the settings of new ones", made);
    if (s.status != ZR_OK)
        zk_log(ZR_LOG_ERROR, "not all topics could be made again from their queues: %s",
               s.status == ZR_EFULL ? "there are more than maxTopics allows" : "memory ran out");
    return made > 0;
}

/* ---- groups ---- */
static int32_t group_found(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    (void)topic;
    (void)queue_id;
    (void)offset;
    *(zr_status *)ctx = zb_group_ensure(group);
    return *(zr_status *)ctx == ZR_EFULL || *(zr_status *)ctx == ZR_ENOMEM;
}

uint32_t zb_groups_rebuild(void)
{
    uint64_t before = zb.groups.n;
    uint32_t n = 0;
    zr_status status = ZR_OK;
    zb_offset_each(group_found, &status);
    struct zb_topic **topics = zb_topics_all(&n);
    for (uint32_t i = 0; topics && i < n; i++)
        if (zl_starts(topics[i]->name, ZB_RETRY_PREFIX)) {
            uint64_t skip = sizeof ZB_RETRY_PREFIX - 1;
            status = zb_group_ensure((struct zr_str){ topics[i]->name.ptr + skip, topics[i]->name.len - skip });
        }
    if (topics)
        zb_topics_free(topics, n);
    if (zb.groups.n != before)
        zk_log(ZR_LOG_WARN, "config/subscriptionGroup.json did not speak of %llu groups that have offsets: they were made again, with the settings of new ones",
               (unsigned long long)(zb.groups.n - before));
    return zb.groups.n != before;
}
