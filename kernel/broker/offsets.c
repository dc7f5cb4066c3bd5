/* SPDX-License-Identifier: Apache-2.0 */
/* offsets.c - how far each group is in each queue: committed, last pulled, pending resets, and what it was given;
 * codes 14, 15, 29, 30, 31, 32; consumerOffset.json.
 *
 * What stays true: an offset is -1 until it is set. A pending reset is taken once, by the next pull of its queue; it is
 * the committed offset at once. Only committed offsets are written to disk. The table's pairs are bounded in number
 * (maxConsumerOffsets) and in bytes (bytes_max); what does not fit is refused, and what is there stays.
 *
 * LOCKING. Sixteen shards by hash of "topic@group", each with a mutex that guards its table and all entries in it. */
#include "broker/internal.h"

#define SHARDS 16u
#define PAIR_BYTES 512ll        /* room for each of maxConsumerOffsets: names, and some twelve queues */
#define LEAST_BYTES (64ll << 20) /* however few pairs are allowed: topics of many queues */
struct queue_offsets {
    int64_t committed, pulled, reset;
};
struct progress {
    struct zr_str key, topic, group;
    uint64_t hash;
    uint32_t n, cap;
    struct queue_offsets *queues;
    int64_t given, given_bytes;
    struct zb_rate rate;
};
struct shard {
    pthread_mutex_t lock;
    struct zb_map map;
};
static struct shard shards[SHARDS] = { [0 ... SHARDS - 1] = { PTHREAD_MUTEX_INITIALIZER, { NULL, 0, 0 } } };
static _Atomic uint64_t n_progress;
static _Atomic int64_t n_bytes; /* of all pairs, with their queues */
static _Atomic uint32_t dirty;
static _Atomic int64_t commits;
static struct zr_data_version version;

struct key {
    char text[ZB_NAME_MAX];
    struct zr_str s;
    uint64_t hash;
};

static uint32_t key_make(struct key *k, struct zr_str group, struct zr_str topic)
{
    if (group.len == 0 || topic.len == 0 || group.len + topic.len + 1 > sizeof k->text)
        return 0;
    memcpy(k->text, topic.ptr, topic.len);
    k->text[topic.len] = '@';
    memcpy(k->text + topic.len + 1, group.ptr, group.len);
    k->s = (struct zr_str){ k->text, topic.len + 1 + group.len };
    k->hash = zb_hash(k->s);
    return 1;
}

static struct shard *shard_of(uint64_t hash)
{
    return &shards[(hash >> 40) % SHARDS];
}

static int64_t bytes_max(void)
{
    int64_t pairs = ZB_SET(max_progress), most = pairs < INT64_MAX / PAIR_BYTES ? pairs * PAIR_BYTES : INT64_MAX;
    return most > LEAST_BYTES ? most : LEAST_BYTES;
}

/* 0: the table is full. */
static uint32_t bytes_take(uint64_t size)
{
    if (atomic_fetch_add(&n_bytes, (int64_t)size) + (int64_t)size <= bytes_max())
        return 1;
    atomic_fetch_sub(&n_bytes, (int64_t)size);
    return 0;
}

static void bytes_give(uint64_t size)
{
    atomic_fetch_sub(&n_bytes, (int64_t)size);
}

static struct progress *progress_new(struct shard *s, const struct key *k, uint64_t topic_len)
{
    if (atomic_load(&n_progress) >= (uint64_t)ZB_SET(max_progress))
        return NULL;
    if (!bytes_take(sizeof(struct progress) + k->s.len))
        return NULL;
    struct progress *p = calloc(1, sizeof *p + k->s.len);
    if (!p) {
        bytes_give(sizeof *p + k->s.len);
        return NULL;
    }
    char *text = (char *)(p + 1);
    memcpy(text, k->s.ptr, k->s.len);
    p->key = (struct zr_str){ text, k->s.len };
    p->topic = (struct zr_str){ text, topic_len };
    p->group = (struct zr_str){ text + topic_len + 1, k->s.len - topic_len - 1 };
    p->hash = k->hash;
    if (zb_map_put(&s->map, p->hash, p->key, p) != ZR_OK) {
        bytes_give(sizeof *p + k->s.len);
        free(p);
        return NULL;
    }
    atomic_fetch_add(&n_progress, 1);
    return p;
}

/* Room for a queue id; NULL beyond the limits. */
static struct queue_offsets *progress_queue(struct progress *p, int32_t queue_id)
{
    if (queue_id < 0 || queue_id >= ZB_MAX_QUEUES)
        return NULL;
    if ((uint32_t)queue_id >= p->cap) {
        uint32_t cap = p->cap ? p->cap : 4;
        while (cap <= (uint32_t)queue_id)
            cap *= 2;
        if (!bytes_take((cap - p->cap) * sizeof(struct queue_offsets)))
            return NULL;
        struct queue_offsets *q = realloc(p->queues, cap * sizeof *q);
        if (!q) {
            bytes_give((cap - p->cap) * sizeof *q);
            return NULL;
        }
        for (uint32_t i = p->cap; i < cap; i++)
            q[i] = (struct queue_offsets){ -1, -1, -1 };
        p->queues = q;
        p->cap = cap;
    }
    if ((uint32_t)queue_id >= p->n)
        p->n = (uint32_t)queue_id + 1;
    return &p->queues[queue_id];
}

static const struct queue_offsets no_offsets = { -1, -1, -1 };

static struct queue_offsets offsets_of(struct zr_str group, struct zr_str topic, int32_t queue_id)
{
    struct key k;
    if (!key_make(&k, group, topic))
        return no_offsets;
    struct shard *s = shard_of(k.hash);
    pthread_mutex_lock(&s->lock);
    struct progress *p = zb_map_get(&s->map, k.hash, k.s);
    struct queue_offsets q = p && queue_id >= 0 && (uint32_t)queue_id < p->n ? p->queues[queue_id] : no_offsets;
    pthread_mutex_unlock(&s->lock);
    return q;
}

int64_t zb_offset_get(struct zr_str group, struct zr_str topic, int32_t queue_id)
{
    return offsets_of(group, topic, queue_id).committed;
}

int64_t zb_offset_pulled(struct zr_str group, struct zr_str topic, int32_t queue_id)
{
    return offsets_of(group, topic, queue_id).pulled;
}

int64_t zb_offset_reset_of(struct zr_str group, struct zr_str topic, int32_t queue_id)
{
    return ZB_SET(server_side_reset) ? offsets_of(group, topic, queue_id).reset : -1;
}

static void commit_counted(void)
{
    atomic_store_explicit(&dirty, 1, memory_order_relaxed);
    if (atomic_fetch_add_explicit(&commits, 1, memory_order_relaxed) % ZB_SET(offset_version_step) == 0) {
        __atomic_store_n(&version.timestamp, zk_wall_ms(), __ATOMIC_RELAXED);
        __atomic_fetch_add(&version.counter, 1, __ATOMIC_RELAXED);
    }
}

#define SET_COMMITTED 0
#define SET_RESET 1
static zr_status offset_set(struct zr_str group, struct zr_str topic, int32_t queue_id, int what, int64_t offset)
{
    struct key k;
    if (!key_make(&k, group, topic) || queue_id < 0 || queue_id >= ZB_MAX_QUEUES)
        return ZR_EINVAL;
    struct shard *s = shard_of(k.hash);
    pthread_mutex_lock(&s->lock);
    struct progress *p = zb_map_get(&s->map, k.hash, k.s);
    if (!p)
        p = progress_new(s, &k, topic.len);
    struct queue_offsets *q = p ? progress_queue(p, queue_id) : NULL;
    if (q && what == SET_COMMITTED)
        q->committed = offset;
    else if (q)
        q->reset = q->committed = offset; /* committed too: it shows at once, and outlives a restart */
    pthread_mutex_unlock(&s->lock);
    if (!q)
        return ZR_EFULL;
    commit_counted();
    return ZR_OK;
}

zr_status zb_offset_put(struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    return offset_set(group, topic, queue_id, SET_COMMITTED, offset);
}

void zb_offset_reset(struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t offset)
{
    (void)offset_set(group, topic, queue_id, SET_RESET, offset);
}

int64_t zb_offset_begin(struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t commit, uint32_t take_reset)
{
    struct key k;
    int64_t reset = -1;
    if (!key_make(&k, group, topic))
        return -1;
    struct shard *s = shard_of(k.hash);
    pthread_mutex_lock(&s->lock);
    struct progress *p = zb_map_get(&s->map, k.hash, k.s);
    if (!p && commit >= 0)
        p = progress_new(s, &k, topic.len);
    struct queue_offsets *q =
        p && (commit >= 0 || (queue_id >= 0 && (uint32_t)queue_id < p->n)) ? progress_queue(p, queue_id) : NULL;
    if (q && q->reset >= 0 && take_reset) {
        reset = q->reset;
        q->reset = -1;
        q->committed = reset;
    } else if (q && commit >= 0) {
        q->committed = commit;
    }
    pthread_mutex_unlock(&s->lock);
    if (commit >= 0 || reset >= 0)
        commit_counted();
    return reset;
}

void zb_offset_end(struct zr_str group, struct zr_str topic, int32_t queue_id, int64_t next, uint32_t messages,
                   uint64_t bytes)
{
    struct key k;
    if (!key_make(&k, group, topic))
        return;
    struct shard *s = shard_of(k.hash);
    pthread_mutex_lock(&s->lock);
    struct progress *p = zb_map_get(&s->map, k.hash, k.s);
    if (!p)
        p = progress_new(s, &k, topic.len);
    struct queue_offsets *q = p ? progress_queue(p, queue_id) : NULL;
    if (q) {
        q->pulled = next;
        p->given += messages;
        p->given_bytes += (int64_t)bytes;
    }
    pthread_mutex_unlock(&s->lock);
}

static void progress_free(struct progress *p)
{
    bytes_give(sizeof *p + p->key.len + p->cap * sizeof *p->queues);
    free(p->queues);
    free(p);
}

void zb_offset_remove(struct zr_str group, struct zr_str topic)
{
    for (uint32_t i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&shards[i].lock);
        for (uint64_t at = 0;;) {
            struct progress *p = zb_map_next(&shards[i].map, &at);
            if (!p)
                break;
            if ((group.len && !zl_eq(group, p->group)) || (topic.len && !zl_eq(topic, p->topic)))
                continue;
            zb_map_del(&shards[i].map, p->hash, p->key);
            progress_free(p);
            atomic_fetch_sub(&n_progress, 1);
            at = at > 1 ? at - 1 : 0; /* what followed may have moved into this slot */
        }
        pthread_mutex_unlock(&shards[i].lock);
    }
    commit_counted();
}

/* A copy of all that is committed, taken shard by shard, sorted by key. */
struct copy {
    struct zr_str topic, group;
    uint32_t n;
    int64_t *offsets;
};
struct copies {
    struct copy *items;
    uint32_t n, cap;
    struct zk_arena arena;
    zr_status status;
};

static void copies_add(struct copies *c, const struct progress *p)
{
    uint32_t last = 0, any = 0;
    for (uint32_t i = 0; i < p->n; i++)
        if (p->queues[i].committed >= 0) {
            last = i + 1;
            any = 1;
        }
    if (!any)
        return;
    if (c->n == c->cap) {
        uint32_t cap = c->cap ? c->cap * 2 : 64;
        struct copy *items = realloc(c->items, cap * sizeof *items);
        if (!items) {
            c->status = ZR_ENOMEM;
            return;
        }
        c->items = items;
        c->cap = cap;
    }
    struct copy *to = &c->items[c->n];
    to->topic = zk_arena_str(&c->arena, p->topic);
    to->group = zk_arena_str(&c->arena, p->group);
    to->offsets = zk_arena_alloc(&c->arena, last * sizeof(int64_t));
    to->n = last;
    if (!to->offsets || !to->topic.ptr || !to->group.ptr) {
        c->status = ZR_ENOMEM;
        return;
    }
    for (uint32_t i = 0; i < last; i++)
        to->offsets[i] = p->queues[i].committed;
    c->n++;
}

static int copy_compare(const void *a, const void *b)
{
    const struct copy *x = a, *y = b;
    int32_t c = zl_compare(x->topic, y->topic);
    return c ? c : zl_compare(x->group, y->group);
}

static void copies_take(struct copies *c)
{
    memset(c, 0, sizeof *c);
    zk_arena_init(&c->arena, 256u << 10, 1ull << 32);
    for (uint32_t i = 0; i < SHARDS && c->status == ZR_OK; i++) {
        pthread_mutex_lock(&shards[i].lock);
        uint64_t at = 0;
        for (struct progress *p; c->status == ZR_OK && (p = zb_map_next(&shards[i].map, &at));)
            copies_add(c, p);
        pthread_mutex_unlock(&shards[i].lock);
    }
    if (c->n)
        qsort(c->items, c->n, sizeof *c->items, copy_compare);
}

static void copies_free(struct copies *c)
{
    zk_arena_free(&c->arena);
    free(c->items);
}

/* What broadcast.c keeps is no group's. */
static uint32_t of_broadcast(struct zr_str group)
{
    uint64_t n = sizeof ZB_BROADCAST_SUFFIX - 1;
    return group.len >= n && memcmp(group.ptr + group.len - n, ZB_BROADCAST_SUFFIX, n) == 0;
}

void zb_offset_each(int32_t (*each)(void *ctx, struct zr_str group, struct zr_str topic, int32_t queue_id,
                                    int64_t offset),
                    void *ctx)
{
    struct copies c;
    int32_t stop = 0;
    copies_take(&c);
    for (uint32_t i = 0; i < c.n && !stop; i++)
        for (uint32_t q = 0; q < c.items[i].n && !stop && !of_broadcast(c.items[i].group); q++)
            if (c.items[i].offsets[q] >= 0)
                stop = each(ctx, c.items[i].group, c.items[i].topic, (int32_t)q, c.items[i].offsets[q]);
    copies_free(&c);
}

uint32_t zb_offset_rates(struct zr_str group, struct zr_str topic, struct zr_topic_stats *ret)
{
    struct key k;
    if (!key_make(&k, group, topic))
        return 0;
    struct shard *s = shard_of(k.hash);
    double bytes;
    pthread_mutex_lock(&s->lock);
    struct progress *p = zb_map_get(&s->map, k.hash, k.s);
    if (p) {
        ret->get_total = p->given;
        zb_rate_get(&p->rate, &ret->get_tps, &bytes);
    }
    pthread_mutex_unlock(&s->lock);
    return p != NULL;
}

void zb_offsets_sample(int64_t now_ms)
{
    for (uint32_t i = 0; i < SHARDS; i++) {
        pthread_mutex_lock(&shards[i].lock);
        uint64_t at = 0;
        for (struct progress *p; (p = zb_map_next(&shards[i].map, &at));)
            if (p->given)
                zb_rate_add(&p->rate, now_ms, p->given, p->given_bytes);
        pthread_mutex_unlock(&shards[i].lock);
    }
    zk_metric_set(zb.meter.progress, (int64_t)atomic_load(&n_progress));
}

/* ---- consumerOffset.json ---- */
static int by_group(const void *a, const void *b)
{
    const struct copy *x = a, *y = b;
    int32_t c = zl_compare(x->group, y->group);
    return c ? c : zl_compare(x->topic, y->topic);
}

static void print_group_topics(struct zl_jw *w, const struct copies *c)
{
    zl_jw_key(w, zl_str("groupTopicMap"));
    zl_jw_begin(w, '{');
    for (uint32_t i = 0; i < c->n; i++) {
        if (i == 0 || !zl_eq(c->items[i].group, c->items[i - 1].group)) {
            if (i)
                zl_jw_end(w, ']');
            zl_jw_key(w, c->items[i].group);
            zl_jw_begin(w, '[');
        }
        zl_jw_str(w, c->items[i].topic);
    }
    if (c->n)
        zl_jw_end(w, ']');
    zl_jw_end(w, '}');
}

static void print_offsets(struct zl_jw *w, const struct copy *c)
{
    char text[ZB_NAME_MAX];
    memcpy(text, c->topic.ptr, c->topic.len);
    text[c->topic.len] = '@';
    memcpy(text + c->topic.len + 1, c->group.ptr, c->group.len);
    zl_jw_key(w, (struct zr_str){ text, c->topic.len + 1 + c->group.len });
    zl_jw_begin(w, '{');
    for (uint32_t q = 0; q < c->n; q++)
        if (c->offsets[q] >= 0) {
            zl_jw_key_int(w, q);
            zl_jw_i64(w, c->offsets[q]);
        }
    zl_jw_end(w, '}');
}

static struct zl_buf document_more; /* members of the document that others wrote; set by the load, before anything prints */

void zb_offsets_print(struct zl_buf *out)
{
    struct copies c;
    struct zl_jw w;
    copies_take(&c);
    if (c.status != ZR_OK) {
        out->failed = 1;
        copies_free(&c);
        return;
    }
    struct zr_data_version v = { __atomic_load_n(&version.timestamp, __ATOMIC_RELAXED),
                                 __atomic_load_n(&version.counter, __ATOMIC_RELAXED), version.state_version };
    zl_jw_init(&w, out, 1);
    zl_jw_begin(&w, '{');
    zl_version_print(&w, "dataVersion", &v);
    if (c.n)
        qsort(c.items, c.n, sizeof *c.items, by_group);
    print_group_topics(&w, &c);
    if (c.n)
        qsort(c.items, c.n, sizeof *c.items, copy_compare);
    zl_jw_key(&w, zl_str("offsetTable"));
    zl_jw_begin(&w, '{');
    for (uint32_t i = 0; i < c.n; i++)
        print_offsets(&w, &c.items[i]);
    zl_jw_end(&w, '}');
    zl_jw_key(&w, zl_str("pullOffsetTable"));
    zl_jw_begin(&w, '{');
    zl_jw_end(&w, '}');
    zl_jw_members(&w, zl_buf_as_str(&document_more));
    zl_jw_end(&w, '}');
    copies_free(&c);
}

static zr_status offset_read(const struct zl_json *e)
{
    const char *mark = e->key.len ? memrchr(e->key.ptr, '@', e->key.len) : NULL;
    if (!mark)
        return ZR_OK;
    if (of_broadcast(e->key)) /* topic, group, and a word of ours */
        mark = memchr(e->key.ptr, '@', e->key.len);
    struct zr_str topic = { e->key.ptr, (uint64_t)(mark - e->key.ptr) };
    struct zr_str group = { mark + 1, e->key.len - topic.len - 1 };
    for (const struct zl_json *q = e->child; q; q = q->next) {
        int32_t id;
        int64_t offset = zl_json_i64(q, -1);
        if (zl_parse_i32(q->key, &id) == ZR_OK && offset >= 0)
            (void)zb_offset_put(group, topic, id, offset);
    }
    return ZR_OK;
}

zr_status zb_offsets_load(uint32_t *ret_from)
{
    /* The second and the last are told again by the first and by pulls; RocketMQ reads neither. */
    static const char *const known[] = { "offsetTable", "groupTopicMap", "dataVersion", "pullOffsetTable", NULL };
    const struct zb_table_doc doc = { .name = "config/consumerOffset.json",
                                      .member = "offsetTable",
                                      .what = "offsets",
                                      .without = "every group begins where a new one would",
                                      .limit_name = "maxConsumerOffsets",
                                      .limit = zb.set.max_progress,
                                      .entry = offset_read,
                                      .known = known,
                                      .more = &document_more,
                                      .version = &version };
    zr_status status = zb_table_load(&doc, ret_from);
    atomic_store(&dirty, 0);
    return status;
}

uint32_t zb_offsets_dirty(void)
{
    return atomic_exchange(&dirty, 0);
}

void zb_offsets_close(void)
{
    for (uint32_t i = 0; i < SHARDS; i++) {
        uint64_t at = 0;
        for (struct progress *p; (p = zb_map_next(&shards[i].map, &at));)
            progress_free(p);
        zb_map_free(&shards[i].map);
    }
    atomic_store(&n_progress, 0);
    atomic_store(&dirty, 0);
    atomic_store(&commits, 0);
    version = (struct zr_data_version){ 0, 0, 0 };
    zl_buf_free(&document_more);
}

/* ---- requests ---- */
static zr_status answer_i64(const struct zr_request *req, const char *name, int64_t value)
{
    char text[24];
    struct zr_field f = { zl_str(name), { text, zl_print_i64(text, value) } };
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0), .code = ZB_SUCCESS, .n_fields = 1, .fields = &f };
    return zk_answer(req->token, &c);
}

static zr_status answer_empty(const struct zr_request *req, int32_t code, const char *remark)
{
    struct zr_command c = {
        .hdr = ZR_HDR(struct zr_command, 0), .code = code, .flags = ZR_COMMAND_EMPTY_EXT, .remark = zl_str(remark)
    };
    return zk_answer(req->token, &c);
}

/* RocketMQ's rule for a young queue: it begins at 0, and the message there is still in memory. May read the disk. */
static uint32_t queue_is_young(struct zr_str topic, int32_t queue_id)
{
    int64_t min = 0, max = 0;
    struct zr_queue *q = zb.storage->queue(zb.storage_inst, topic, queue_id, 0);
    if (!q)
        return 0;
    zb.storage->bounds(zb.storage_inst, q, &min, &max);
    return min <= 0 && max > 0 && zb.storage->resident(zb.storage_inst, q, 0);
}

static zr_status answer_by_age(const struct zr_request *req, struct zr_str topic, int32_t queue_id)
{
    if (queue_is_young(topic, queue_id))
        return answer_i64(req, "offset", 0);
    return answer_empty(req, ZB_QUERY_NOT_FOUND, "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first");
}

static void age_work(void *arg)
{
    struct zb_deferred *d = arg;
    int32_t queue_id = -1;
    (void)zl_field_i32(d->req.fields, d->req.n_fields, "queueId", &queue_id);
    answer_by_age(&d->req, zl_field(d->req.fields, d->req.n_fields, "topic"), queue_id);
    zb_request_free(d);
}

/* The first query of a group in a queue: the storage is asked on a worker, since a queue that slept lies on disk. */
static zr_status age_to_worker(const struct zr_request *req)
{
    struct zb_deferred *d = zb_request_keep(req);
    if (d && zb_work(age_work, d) == ZR_OK)
        return ZR_OK;
    zr_status status = zk_answer_code(d ? d->req.token : req->token, ZB_SYSTEM_BUSY,
                                      "[OVERLOAD]system busy, start flow control for a while");
    zb_request_free(d);
    return status;
}

zr_status zb_query_offset_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_str group = zl_field(req->fields, req->n_fields, "consumerGroup"),
                  topic = zl_field(req->fields, req->n_fields, "topic");
    struct zr_str zero = zl_field(req->fields, req->n_fields, "setZeroIfNotFound");
    int32_t queue_id;
    if (!group.len || !topic.len || zl_field_i32(req->fields, req->n_fields, "queueId", &queue_id) != ZR_OK)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "consumerGroup, topic and queueId are needed");
    int64_t offset = zb_offset_reset_of(group, topic, queue_id);
    if (offset < 0)
        offset = zb_offset_get(group, topic, queue_id);
    if (offset >= 0)
        return answer_i64(req, "offset", offset);
    if (zero.len && !zl_eq_nocase(zero, "true"))
        return answer_empty(req, ZB_QUERY_NOT_FOUND, "Not found, do not set to zero, maybe this group boot first");
    return age_to_worker(req);
}

zr_status zb_update_offset_handle(struct zr_inst *inst, const struct zr_request *req)
{
    zk_session_know(req->session, ZK_CONSUMES);
    (void)inst;
    struct zb_lane *lane = zb_lane_of(req->session);
    struct zr_str group = zl_field(req->fields, req->n_fields, "consumerGroup"),
                  topic = zl_field(req->fields, req->n_fields, "topic");
    int32_t queue_id;
    int64_t offset;
    zb_lane_fresh(lane);
    if (!zb_lane_group(lane, group, 0))
        return zk_answer_code(req->token, ZB_SUBSCRIPTION_GROUP_NOT_EXIST, "Group %.*s not exist!", (int)group.len,
                              group.ptr);
    struct zb_topic *t = zb_lane_topic(lane, topic);
    if (!t)
        return zk_answer_code(req->token, ZB_TOPIC_NOT_EXIST, "Topic %.*s not exist!", (int)topic.len, topic.ptr);
    if (zl_field_i32(req->fields, req->n_fields, "queueId", &queue_id) != ZR_OK)
        return zk_answer_code(req->token, ZB_INVALID_PARAMETER, "QueueId is null, topic is %.*s", (int)topic.len,
                              topic.ptr);
    if (queue_id < 0 || (uint32_t)queue_id >= t->n_slots)
        return zk_answer_code(req->token, ZB_INVALID_PARAMETER,
                              "queueId[%d] is illegal, topic %.*s has %u queues: it must be below that", queue_id,
                              (int)topic.len, topic.ptr, t->n_slots);
    if (zl_field_i64(req->fields, req->n_fields, "commitOffset", &offset) != ZR_OK)
        return zk_answer_code(req->token, ZB_INVALID_PARAMETER, "Offset is null, topic is %.*s", (int)topic.len,
                              topic.ptr);
    if (zb_offset_reset_of(group, topic, queue_id) >= 0)
        return answer_empty(req, ZB_SUCCESS, "Offset has been previously reset");
    if (zb_offset_put(group, topic, queue_id, offset) != ZR_OK)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR,
                              "the offset was not taken: memory ran out, or the table of offsets is full "
                              "(maxConsumerOffsets)");
    return answer_empty(req, ZB_SUCCESS, NULL);
}

/* 1: topic and queue are there to be asked for (the queue itself may be NULL). */
static uint32_t queue_of(const struct zr_request *req, struct zr_queue **ret)
{
    struct zr_str topic = zl_field(req->fields, req->n_fields, "topic");
    int32_t queue_id;
    if (!topic.len || zl_field_i32(req->fields, req->n_fields, "queueId", &queue_id) != ZR_OK) {
        zk_answer_code(req->token, ZB_SYSTEM_ERROR, "topic and queueId are needed");
        return 0;
    }
    *ret = zb.storage->queue(zb.storage_inst, topic, queue_id, 0);
    return 1;
}

static zr_status bound_handle(const struct zr_request *req, uint32_t want_max)
{
    struct zr_queue *q;
    int64_t min = 0, max = 0;
    if (!queue_of(req, &q))
        return ZR_OK;
    if (q)
        zb.storage->bounds(zb.storage_inst, q, &min, &max);
    return answer_i64(req, "offset", want_max ? max : min);
}

zr_status zb_max_offset_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    return bound_handle(req, 1);
}

zr_status zb_min_offset_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    return bound_handle(req, 0);
}

zr_status zb_search_offset_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_queue *q;
    int64_t ms, offset = 0;
    uint32_t upper = zl_eq_nocase(zl_field(req->fields, req->n_fields, "boundaryType"), "upper");
    if (!queue_of(req, &q))
        return ZR_OK;
    if (zl_field_i64(req->fields, req->n_fields, "timestamp", &ms) != ZR_OK)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "timestamp is needed");
    zr_status status = q ? zb.storage->offset_at(zb.storage_inst, q, ms, upper, &offset) : ZR_OK;
    if (status == ZR_EAGAIN || status == ZR_ENOMEM || status == ZR_EIO) /* a consumer would go back to the begin */
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "the store cannot be read now (status %d)", status);
    if (status != ZR_OK)
        offset = 0;
    return answer_i64(req, "offset", offset);
}

zr_status zb_earliest_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_queue *q;
    int64_t min = 0, max = 0, ms = -1;
    if (!queue_of(req, &q))
        return ZR_OK;
    if (q)
        zb.storage->bounds(zb.storage_inst, q, &min, &max);
    if (max > min && zb.storage->time_at(zb.storage_inst, q, min, &ms) != ZR_OK)
        ms = -1;
    return answer_i64(req, "timestamp", ms);
}
