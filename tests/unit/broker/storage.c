/* SPDX-License-Identifier: Apache-2.0 */
/* storage.c - a storage in memory that keeps the promises of zarya/storage.h: records in one growing list, queues of indices. */
#include "world.h"

struct rec {
    uint8_t *bytes;
    uint64_t len;
    int64_t physical, tags;
};
struct zr_queue {
    struct zr_queue *next;
    char topic[256];
    int32_t id;
    uint32_t n, cap, dead;
    uint32_t *recs;
};

struct store_options store;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct rec *recs;
static uint32_t n_recs, cap_recs, n_visible, n_appends, n_wanted;
static int64_t end;
static struct zr_queue *queues;
static _Atomic uint32_t pins;

void store_reset(void)
{
    for (uint32_t i = 0; i < n_recs; i++)
        free(recs[i].bytes);
    free(recs);
    recs = NULL;
    while (queues) {
        struct zr_queue *next = queues->next;
        free(queues->recs);
        free(queues);
        queues = next;
    }
    n_recs = cap_recs = n_visible = n_appends = n_wanted = 0;
    end = 0;
}

static struct zr_queue *queue_get(struct zr_str topic, int32_t id, uint32_t create)
{
    struct zr_queue *q = queues;
    while (q && (q->dead || q->id != id || !zl_is(topic, q->topic)))
        q = q->next;
    if (q || !create)
        return q;
    q = calloc(1, sizeof *q);
    snprintf(q->topic, sizeof q->topic, "%.*s", (int)topic.len, topic.ptr);
    q->id = id;
    q->next = queues;
    queues = q;
    return q;
}

static uint32_t queue_visible(const struct zr_queue *q)
{
    uint32_t n = q->n;
    while (n && q->recs[n - 1] >= n_visible)
        n--;
    return n;
}

static zr_status put_one(const struct zr_msg *m, struct zr_put *put)
{
    struct zr_queue *q = m->queue ? m->queue : queue_get(m->topic, m->queue_id, 1);
    cr_assert(zl_is(m->topic, q->topic) && q->id == m->queue_id);
    if (q->dead)
        return ZR_ENOENT;
    if (n_recs == cap_recs)
        recs = realloc(recs, (cap_recs = cap_recs ? cap_recs * 2 : 64) * sizeof *recs);
    if (q->n == q->cap)
        q->recs = realloc(q->recs, (q->cap = q->cap ? q->cap * 2 : 16) * sizeof *q->recs);
    struct rec *r = &recs[n_recs];
    r->len = zl_record_size(m);
    r->bytes = malloc(r->len);
    r->physical = end;
    r->tags = m->tags_code;
    zl_record_encode(r->bytes, m);
    put->store_ms = 1000000 + n_recs;
    put->queue_offset = q->n;
    put->physical_offset = end;
    put->size = (uint32_t)r->len;
    zl_record_finish(r->bytes, q->n, end, put->store_ms);
    q->recs[q->n++] = n_recs++;
    end += (int64_t)r->len;
    return ZR_OK;
}

static void s_append(struct zr_inst *inst, const struct zr_msg *msgs, uint32_t n, struct zr_put *puts, int64_t *ret_end)
{
    (void)inst;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < n; i++) {
        cr_assert(puts[i].hdr.size == sizeof(struct zr_put) && msgs[i].hdr.size == sizeof(struct zr_msg));
        puts[i].status = store.append_says != ZR_OK ? store.append_says : put_one(&msgs[i], &puts[i]);
    }
    n_appends++;
    if (!store.sync)
        n_visible = n_recs;
    *ret_end = end;
    pthread_mutex_unlock(&lock);
}

static void s_want(struct zr_inst *inst, int64_t position)
{
    (void)inst;
    (void)position;
    pthread_mutex_lock(&lock);
    n_wanted++;
    pthread_mutex_unlock(&lock);
}

void store_flush(void)
{
    pthread_mutex_lock(&lock);
    n_visible = n_recs;
    int64_t at = end;
    pthread_mutex_unlock(&lock);
    zb_durability_table.advance(NULL, ZR_MARK_FLUSHED, at);
}

static struct zr_queue *s_queue(struct zr_inst *inst, struct zr_str topic, int32_t queue_id, uint32_t create)
{
    (void)inst;
    pthread_mutex_lock(&lock);
    struct zr_queue *q = queue_get(topic, queue_id, create);
    pthread_mutex_unlock(&lock);
    return q;
}

static void asked(void)
{
    if (store.watch && pthread_equal(pthread_self(), store.lane))
        store.on_lane++;
}

static void s_bounds(struct zr_inst *inst, struct zr_queue *queue, int64_t *ret_min, int64_t *ret_max)
{
    asked();
    (void)inst;
    pthread_mutex_lock(&lock);
    *ret_min = 0;
    *ret_max = queue ? queue_visible(queue) : 0;
    pthread_mutex_unlock(&lock);
}

static uint32_t judge(const struct zr_read *req, const struct rec *r)
{
    uint8_t verdict = ZR_MATCH_YES;
    if (!req->prog)
        return 1;
    req->filter->by_tags(req->prog, &r->tags, 1, &verdict);
    if (verdict == ZR_MATCH_ASK) {
        struct zl_record rec;
        const char *why;
        cr_assert(zl_record_parse((struct zr_span){ r->bytes, r->len }, 1, &rec, &why) == ZR_OK);
        return req->filter->by_properties(req->prog, rec.properties) == ZR_MATCH_YES;
    }
    return verdict == ZR_MATCH_YES;
}

static void read_found(const struct zr_read *req, struct zr_queue *q, uint32_t max, struct zr_read_result *ret)
{
    uint32_t scanned = 0;
    ret->what = ZR_READ_NO_MATCHED_MESSAGE;
    for (int64_t at = req->offset; at < max && scanned < 800; at++, scanned++) {
        const struct rec *r = &recs[q->recs[at]];
        if (ret->n_pieces == req->cap_pieces || ret->n_messages == req->max_messages)
            break;
        ret->next_offset = at + 1;
        if (!judge(req, r)) {
            ret->n_filtered++;
            continue;
        }
        req->pieces[ret->n_pieces++] = (struct zr_piece){ r->bytes, r->len, 0, -1, 0 };
        ret->n_messages++;
        ret->bytes += r->len;
        ret->what = ZR_READ_FOUND;
    }
    if (ret->what == ZR_READ_FOUND) {
        ret->pin = 1;
        atomic_fetch_add(&pins, 1);
    }
}

static zr_status s_read(struct zr_inst *inst, const struct zr_read *req, struct zr_read_result *ret)
{
    (void)inst;
    pthread_mutex_lock(&lock);
    if ((req->flags & ZR_READ_NOWAIT) && store.again) {
        store.again--;
        pthread_mutex_unlock(&lock);
        return ZR_EAGAIN;
    }
    struct zr_queue *q = req->queue;
    uint32_t max = q ? queue_visible(q) : 0;
    ret->max_offset = max;
    ret->next_offset = req->offset;
    if (!q)
        ret->what = ZR_READ_NO_MATCHED_LOGIC_QUEUE, ret->next_offset = 0;
    else if (max == 0)
        ret->what = ZR_READ_NO_MESSAGE_IN_QUEUE, ret->next_offset = 0;
    else if (req->offset < 0)
        ret->what = ZR_READ_OFFSET_TOO_SMALL, ret->next_offset = 0;
    else if (req->offset == max)
        ret->what = ZR_READ_OFFSET_OVERFLOW_ONE;
    else if (req->offset > max)
        ret->what = ZR_READ_OFFSET_OVERFLOW_BADLY, ret->next_offset = max;
    else
        read_found(req, q, max, ret);
    pthread_mutex_unlock(&lock);
    return ZR_OK;
}

static void s_unpin(struct zr_inst *inst, uint64_t pin)
{
    (void)inst;
    cr_assert(pin == 1);
    atomic_fetch_sub(&pins, 1);
}

static zr_status s_offset_at(struct zr_inst *inst, struct zr_queue *queue, int64_t store_ms, uint32_t upper,
                             int64_t *ret)
{
    (void)inst;
    pthread_mutex_lock(&lock);
    int64_t at = 0;
    while (at < queue->n && 1000000 + (int64_t)queue->recs[at] < store_ms)
        at++;
    *ret = upper && at ? at - 1 : at;
    pthread_mutex_unlock(&lock);
    return ZR_OK;
}

static zr_status s_time_at(struct zr_inst *inst, struct zr_queue *queue, int64_t offset, int64_t *ret)
{
    (void)inst;
    *ret = 1000000 + (int64_t)queue->recs[offset];
    return ZR_OK;
}

static uint32_t s_resident(struct zr_inst *inst, struct zr_queue *queue, int64_t offset)
{
    (void)inst;
    asked();
    return !store.cold && offset < queue->n;
}

static zr_status s_remove_topic(struct zr_inst *inst, struct zr_str topic)
{
    (void)inst;
    uint32_t any = 0;
    pthread_mutex_lock(&lock);
    for (struct zr_queue *q = queues; q; q = q->next)
        if (!q->dead && zl_is(topic, q->topic)) {
            q->dead = any = 1;
            q->n = 0;
        }
    pthread_mutex_unlock(&lock);
    return any ? ZR_OK : ZR_ENOENT;
}

static zr_status s_record_at(struct zr_inst *inst, int64_t physical, struct zr_piece *ret_piece, uint64_t *ret_pin)
{
    (void)inst;
    for (uint32_t i = 0; i < n_recs; i++)
        if (recs[i].physical == physical) {
            *ret_piece = (struct zr_piece){ recs[i].bytes, recs[i].len, 0, -1, 0 };
            *ret_pin = 1;
            atomic_fetch_add(&pins, 1);
            return ZR_OK;
        }
    return ZR_ENOENT;
}

static void s_each_queue(struct zr_inst *inst,
                         int32_t (*each)(void *ctx, struct zr_str topic, int32_t queue_id, struct zr_queue *queue),
                         void *ctx)
{
    (void)inst;
    for (struct zr_queue *q = queues; q; q = q->next)
        if (!q->dead && each(ctx, zl_str(q->topic), q->id, q))
            return;
}

static _Atomic uint32_t n_infos;
static void s_info(struct zr_inst *inst, struct zr_storage_info *ret)
{
    (void)inst;
    atomic_fetch_add(&n_infos, 1);
    ret->sync = store.sync;
    ret->writable = store.append_says == ZR_OK;
    ret->why_not = (struct zr_str)ZR_STR("the test says so");
    ret->log_disk_ratio = 0.5;
    ret->queue_disk_ratio = 0.25;
    ret->positions.written = ret->positions.flushed = end;
}

const struct zr_storage_v1 store_table = {
    .hdr = ZR_HDR(struct zr_storage_v1, 0),
    .append = s_append,
    .want_flushed = s_want,
    .queue = s_queue,
    .bounds = s_bounds,
    .read = s_read,
    .unpin = s_unpin,
    .offset_at = s_offset_at,
    .time_at = s_time_at,
    .resident = s_resident,
    .each_queue = s_each_queue,
    .remove_topic = s_remove_topic,
    .record_at = s_record_at,
    .info = s_info,
};

uint32_t store_count(const char *topic, int32_t queue_id)
{
    struct zr_queue *q = queue_get(zl_str(topic), queue_id, 0);
    return q ? q->n : 0;
}

uint32_t store_appends(void) { return n_appends; }
uint32_t store_pins(void) { return atomic_load(&pins); }
uint32_t store_wanted(void) { return n_wanted; }

void store_last(const char *topic, int32_t queue_id, struct zl_record *ret)
{
    struct zr_queue *q = queue_get(zl_str(topic), queue_id, 0);
    const char *why = "";
    cr_assert(q && q->n, "nothing in %s %d", topic, queue_id);
    const struct rec *r = &recs[q->recs[q->n - 1]];
    cr_assert(zl_record_parse((struct zr_span){ r->bytes, r->len }, 1, ret, &why) == ZR_OK, "%s", why);
}

struct zr_str store_last_props(const char *topic, int32_t queue_id)
{
    struct zl_record r;
    store_last(topic, queue_id, &r);
    return (struct zr_str){ (const char *)r.properties.ptr, r.properties.len };
}

uint32_t store_infos(void) { return atomic_load(&n_infos); }
