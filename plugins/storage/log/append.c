/* SPDX-License-Identifier: Apache-2.0 */
/* append.c - messages become records: staged outside the lock, placed inside it, written by one pwrite for each segment.
 *
 * A call is cut into runs of about SOFT_RUN bytes. A run is encoded into a staging buffer (bodies copied once, checksums
 * computed); then, under append_lock, its messages get queue offsets, physical offsets and one store time, and its bytes are
 * written. What stays true:
 *   1. end and every queue's next advance only after the write of those bytes succeeded; a failed one leaves no gap.
 *   2. Bytes that a failed write may have left behind end are made zero before anything else is written (torn_end), so that
 *      no recovery can take them for records.
 *   3. Store times do not go back in the order of physical offsets, unless the clock does by more than a minute.
 *   4. A group of JOINED messages is placed whole or not at all, and never across a segment's end.
 *   5. At least ZS_BLANK bytes stay free behind the last record of a segment: `record size + 8 > room` means a new segment.
 *
 * LOCKING: append_lock over placing and writing; inside it each queue's lock for a push. stage_lock for the list of staging
 * buffers alone. Nothing is held while the host is told of the new end. */
#include "bcq.h"
#include <errno.h>
#include <stdlib.h>

#define SOFT_RUN (1u << 20)
#define SOFT_ITEMS 8192u
#define KEPT_STAGES 64u

struct run { /* one call of append on its way */
    struct zr_inst *st;
    const struct zr_msg *msgs;
    struct zr_put *puts;
    struct zs_stage *stage;
    uint32_t n, msg_step, put_step;
};

static const struct zr_msg *run_msg(const struct run *r, uint32_t i)
{
    return (const struct zr_msg *)((const uint8_t *)r->msgs + (uint64_t)i * r->msg_step);
}
static struct zr_put *run_put(const struct run *r, uint32_t i)
{
    return (struct zr_put *)((uint8_t *)r->puts + (uint64_t)i * r->put_step);
}

/* ---- staging buffers ------------------------------------------------------------------------------------------------ */

static struct zs_stage *stage_take(struct zr_inst *st)
{
    pthread_mutex_lock(&st->stage_lock);
    struct zs_stage *s = st->stages;
    if (s) {
        st->stages = s->next;
        st->n_stages--;
    }
    pthread_mutex_unlock(&st->stage_lock);
    if (!s) s = calloc(1, sizeof *s);
    return s;
}

static void stage_end(struct zs_stage *s)
{
    free(s->buf);
    free(s->items);
    free(s);
}

static void stage_give(struct zr_inst *st, struct zs_stage *s)
{
    if (s->cap > 2 * SOFT_RUN) { /* it was stretched for one large group */
        free(s->buf);
        s->buf = NULL;
        s->cap = 0;
    }
    pthread_mutex_lock(&st->stage_lock);
    uint32_t keep = st->n_stages < KEPT_STAGES;
    if (keep) {
        s->next = st->stages;
        st->stages = s;
        st->n_stages++;
    }
    pthread_mutex_unlock(&st->stage_lock);
    if (!keep) stage_end(s);
}

void zs_stages_free(struct zr_inst *st)
{
    while (st->stages) {
        struct zs_stage *s = st->stages;
        st->stages = s->next;
        stage_end(s);
    }
    st->n_stages = 0;
}

static uint32_t stage_reach(struct zs_stage *s, uint64_t bytes, uint32_t items)
{
    if (s->len + bytes > s->cap) {
        uint64_t cap = s->cap ? s->cap : 64u * 1024u;
        while (cap < s->len + bytes) cap *= 2;
        uint8_t *buf = realloc(s->buf, cap);
        if (!buf) return 0;
        s->buf = buf;
        s->cap = cap;
    }
    if (s->n + items > s->cap_items) {
        uint32_t cap = s->cap_items ? s->cap_items : 64u;
        while (cap < s->n + items) cap *= 2;
        struct zs_item *at = realloc(s->items, cap * sizeof *at);
        if (!at) return 0;
        s->items = at;
        s->cap_items = cap;
    }
    return 1;
}

/* Takes items [from, to) out again, closing the gap. Rare: a queue removed, or memory ran out, at this moment. */
static void stage_cut(struct zs_stage *s, uint32_t from, uint32_t to)
{
    uint64_t at = s->items[from].at, end = to < s->n ? s->items[to].at : s->len, gone = end - at;
    memmove(s->buf + at, s->buf + end, s->len - end);
    memmove(s->items + from, s->items + to, (s->n - to) * sizeof *s->items);
    s->n -= to - from;
    s->len -= gone;
    for (uint32_t i = from; i < s->n; i++) s->items[i].at -= gone;
}

/* ---- judging and encoding, outside the lock --------------------------------------------------------------------------- */

/* Only a topic of batch queues has inner batches: in any other, RocketMQ would not start. A recovery must find the same count in the record. */
static uint32_t inner_batch_ok(const struct zr_msg *m)
{
    struct zl_record r = { .sys_flag = m->sys_flag, .properties = m->properties };
    return (m->flags & ZR_MSG_BATCH_QUEUE) && m->inner_num >= 1 && m->inner_num <= ZS_BATCH_MAX && zl_record_offsets(&r) == m->inner_num && zs_has_entry(m->sys_flag) &&
           m->properties.len + ZL_RECORD_TAIL <= ZL_MAX_PROPERTIES;
}

/* A sector of zeroes in properties is what a failure of the power leaves behind; so a recovery takes no record for whole that ends in
 * a zero, or has so many that a sector may consist of them (scan.c). Text has none. */
static uint32_t looks_torn(struct zr_span props)
{
    const uint8_t *p = props.ptr, *end = p + props.len;
    if (props.len == 0) return 0;
    if (end[-1] == 0) return 1;
    while (end - p >= ZS_SECTOR && (p = memchr(p, 0, (size_t)(end - p)))) {
        const uint8_t *from = p;
        while (p < end && *p == 0) p++;
        if (p - from >= ZS_SECTOR) return 1;
    }
    return 0;
}

static zr_status msg_check(struct zr_inst *st, const struct zr_msg *m, uint64_t *ret_size)
{
    if (zs_queue_name_ok(m->topic) != ZR_OK || m->queue_id < 0) return ZR_EINVAL;
    uint32_t own = m->flags & ZR_MSG_OWN; /* taken before, perhaps under a higher limit */
    if ((!own && m->body.len > (uint64_t)st->conf.max_message_size) || m->body.len > INT32_MAX || m->properties.len > ZL_MAX_PROPERTIES) return ZR_EINVAL;
    if (looks_torn(m->properties)) {
        if (!atomic_exchange(&st->torn_told, 1))
            zs_log(st, ZR_LOG_WARN, "a message to %.*s is refused: its properties end in a zero byte or have %u of them in a row, which a recovery "
                   "would take for a sector that was never written (said once)", (int)m->topic.len, m->topic.ptr, (unsigned)ZS_SECTOR);
        return ZR_EINVAL;
    }
    if (m->inner_num > 1 && !(m->sys_flag & ZR_SYSFLAG_INNER_BATCH)) return ZR_EINVAL;
    if ((m->sys_flag & ZR_SYSFLAG_INNER_BATCH) && !inner_batch_ok(m)) return ZR_EINVAL;
    uint64_t size = zl_record_size_sealed(m, st->conf.property_crc);
    if ((!own && size > (uint64_t)st->conf.max_message_size + ZS_RECORD_OVER) || size + ZS_BLANK > (uint64_t)st->segs.size)
        return ZR_EINVAL;
    *ret_size = size;
    return ZR_OK;
}

static void fail_group(const struct run *r, uint32_t from, uint32_t to, zr_status status)
{
    for (uint32_t i = from; i < to; i++) {
        struct zr_put *p = run_put(r, i);
        if (p->status == ZR_OK) p->status = status;
    }
}

/* Judges the group [from, to): its size, or 0 when it must not be stored (puts say why). */
static uint64_t group_judge(const struct run *r, uint32_t from, uint32_t to)
{
    uint64_t sum = 0, size;
    zr_status worst = ZR_OK;
    for (uint32_t i = from; i < to; i++) {
        zr_status rc = msg_check(r->st, run_msg(r, i), &size);
        run_put(r, i)->status = rc;
        if (rc != ZR_OK) worst = rc;
        else sum += size;
    }
    if (worst == ZR_OK && to - from > 1 &&
        (sum > (uint64_t)r->st->conf.max_message_size + ZS_RECORD_OVER || sum + ZS_BLANK > (uint64_t)r->st->segs.size))
        worst = ZR_EINVAL;
    if (worst == ZR_OK) return sum;
    fail_group(r, from, to, worst);
    return 0;
}

static zr_status group_encode(const struct run *r, uint32_t from, uint32_t to)
{
    struct zs_stage *s = r->stage;
    uint32_t first = s->n;
    uint64_t len = s->len;
    for (uint32_t i = from; i < to; i++) {
        const struct zr_msg *m = run_msg(r, i);
        struct zr_queue *q = m->queue ? m->queue : zs_queue(r->st, m->topic, m->queue_id, 1);
        if (!q) {
            s->n = first;
            s->len = len;
            return ZR_ENOMEM;
        }
        if ((m->flags & ZR_MSG_BATCH_QUEUE) && !atomic_load(&q->batch) && atomic_load(&q->next) == 0 && zs_bcq_mark(r->st, m->topic) != ZR_OK) {
            s->n = first;
            s->len = len;
            return ZR_EIO;
        }
        uint32_t size = (uint32_t)zl_record_size_sealed(m, r->st->conf.property_crc);
        s->items[s->n++] = (struct zs_item){ .q = q, .at = s->len, .tags = m->tags_code, .size = size, .index = i,
                                             .entry = !zs_has_entry(m->sys_flag) ? 0 : (m->inner_num > 1 ? m->inner_num : 1),
                                             .joined = i > from };
        zl_record_encode_sealed(s->buf + s->len, m, r->st->conf.property_crc);
        s->len += size;
    }
    return ZR_OK;
}

/* Stages messages from i on until the run is long enough; returns the first that was left for the next run. */
static uint32_t run_stage(const struct run *r, uint32_t i)
{
    struct zs_stage *s = r->stage;
    s->n = 0;
    s->len = 0;
    while (i < r->n) {
        uint32_t to = i + 1;
        while (to < r->n && (run_msg(r, to)->flags & ZR_MSG_JOINED)) to++;
        uint64_t size = group_judge(r, i, to);
        if (size && s->n && (s->len + size > SOFT_RUN || s->n + (to - i) > SOFT_ITEMS)) return i;
        if (size) {
            zr_status rc = stage_reach(s, size, to - i) ? group_encode(r, i, to) : ZR_ENOMEM;
            if (rc != ZR_OK) fail_group(r, i, to, rc);
        }
        i = to;
    }
    return i;
}

/* ---- placing and writing, inside the lock ------------------------------------------------------------------------------- */

/* Why nothing may be appended now. */
static zr_status append_barred(struct zr_inst *st)
{
    if (atomic_load_explicit(&st->failed, memory_order_relaxed)) return ZR_EIO;
    if (atomic_load_explicit(&st->closing, memory_order_relaxed)) return ZR_ECLOSED;
    if (atomic_load_explicit(&st->disk_over, memory_order_relaxed)) return ZR_EFULL;
    return ZR_OK;
}

static zr_status mend_torn(struct zr_inst *st)
{
    int64_t end = atomic_load_explicit(&st->end, memory_order_relaxed);
    if (st->torn_end <= end) return ZR_OK;
    int64_t r = zs_zero(st, st->active->fd, end - st->active->base, st->torn_end - end);
    if (r < 0) return zs_status_of(r) == ZR_EFULL ? ZR_EFULL : ZR_EIO;
    st->torn_end = 0;
    return ZR_OK;
}

static zr_status roll(struct zr_inst *st)
{
    int64_t base = st->active ? st->active->base + st->segs.size : atomic_load(&st->end);
    int64_t fd = zs_prepared_take(st, base);
    if (fd < 0) fd = zs_seg_create(st, base);
    if (fd < 0) {
        if (!atomic_exchange(&st->disk_full, 1))
            zs_log(st, ZR_LOG_ERROR, "segment %020lld cannot be made: %s", (long long)base, zs_errno_text(fd));
        return zs_status_of(fd) == ZR_EFULL ? ZR_EFULL : ZR_EIO;
    }
    struct zs_seg *seg = zs_seg_add(st, base, (int32_t)fd);
    if (!seg) {
        st->io->close(st->io->ctx, (int32_t)fd);
        return ZR_ENOMEM;
    }
    atomic_store(&seg->name_unsynced, 1);
    uint32_t busy;
    struct zs_seg *mapped = zs_seg_get(st, base, 0, &busy); /* readers come soon; if it cannot be mapped now, they try again */
    if (mapped) zs_seg_put(st, mapped);
    if (st->active) zs_seg_put(st, st->active);
    st->active = seg;
    atomic_store(&st->end, base);
    return ZR_OK;
}

static uint32_t group_end(const struct zs_stage *s, uint32_t k, uint64_t *ret_size)
{
    uint64_t size = s->items[k].size;
    for (k++; k < s->n && s->items[k].joined; k++) size += s->items[k].size;
    *ret_size = size;
    return k;
}

static void unassign(struct zs_stage *s, uint32_t from, uint32_t to)
{
    while (to > from) {
        struct zs_item *it = &s->items[--to];
        it->q->assign -= it->entry;
        for (uint32_t i = 0; i < it->entry; i++) zs_queue_unreserve(it->q);
    }
}

/* Gives the group [from, to) its offsets from pos on. */
static zr_status group_assign(struct run *r, uint32_t from, uint32_t to, int64_t pos, int64_t ms)
{
    struct zs_stage *s = r->stage;
    for (uint32_t k = from; k < to; k++) {
        struct zs_item *it = &s->items[k];
        zr_status rc = atomic_load_explicit(&it->q->dead, memory_order_relaxed) ? ZR_ENOENT : ZR_OK;
        uint32_t room = 0;
        for (; rc == ZR_OK && room < it->entry; room += rc == ZR_OK) rc = zs_queue_reserve(r->st, it->q);
        if (rc != ZR_OK) {
            while (room--) zs_queue_unreserve(it->q);
            unassign(s, from, k);
            return rc;
        }
        it->qoff = it->entry ? it->q->assign : 0;
        it->q->assign += it->entry;
        zl_record_finish(s->buf + it->at, it->qoff, pos, ms);
        if (r->st->conf.property_crc) zl_record_seal(s->buf + it->at);
        pos += it->size;
    }
    return ZR_OK;
}

/* One pwrite; with left > 0 the blank record that ends the segment in the same call. 0 or -errno. */
static int64_t write_part(struct zr_inst *st, const uint8_t *bytes, uint64_t len, int64_t pos, int64_t left)
{
    const struct zr_io_v1 *io = st->io;
    int64_t off = pos - st->active->base;
    if (left == 0) {
        int64_t r = zl_io_write_all(io, st->active->fd, bytes, len, off);
        return r < 0 ? r : 0;
    }
    uint8_t blank[ZS_BLANK];
    zl_store32(blank, (uint32_t)left);
    zl_store32(blank + 4, ZL_MAGIC_BLANK);
    struct zr_span two[2] = { { bytes, len }, { blank, sizeof blank } };
    int64_t done = len ? io->pwritev(io->ctx, st->active->fd, two, 2, off) : 0;
    if (done < 0) return done;
    if (done < (int64_t)len) {
        int64_t r = zl_io_write_all(io, st->active->fd, bytes + done, len - (uint64_t)done, off + done);
        if (r < 0) return r;
        done = (int64_t)len;
    }
    uint64_t blank_done = (uint64_t)done - len;
    if (blank_done == sizeof blank) return 0;
    int64_t r = zl_io_write_all(io, st->active->fd, blank + blank_done, sizeof blank - blank_done, off + done);
    return r < 0 ? r : 0;
}

static void publish(struct run *r, uint32_t from, uint32_t to, int64_t pos, int64_t end, int64_t ms)
{
    struct zr_inst *st = r->st;
    struct zs_stage *s = r->stage;
    atomic_store(&st->end, end);
    for (uint32_t k = from; k < to; k++) {
        struct zs_item *it = &s->items[k];
        struct zr_put *p = run_put(r, it->index);
        if (it->entry) {
            struct zs_entry e = { .phys = pos, .tags = it->tags, .size = (int32_t)it->size };
            for (uint32_t i = 0; i < it->entry; i++) zs_queue_push(st, it->q, &e);
        }
        p->status = ZR_OK;
        p->size = it->size;
        p->queue_offset = it->qoff;
        p->physical_offset = pos;
        p->store_ms = ms;
        st->last_phys = pos;
        pos += it->size;
    }
    atomic_store_explicit(&st->last_ms, ms, memory_order_release);
}

static void write_failed(struct zr_inst *st, int64_t r, int64_t pos, uint64_t len)
{
    int64_t reach = pos + (int64_t)len + (int64_t)ZS_BLANK, limit = st->active->base + st->segs.size;
    if (reach > limit) reach = limit;
    if (reach > st->torn_end) st->torn_end = reach;
    if (!atomic_exchange(&st->disk_full, 1))
        zs_log(st, ZR_LOG_ERROR, "the log cannot be written at %lld: %s; appends are refused until it can", (long long)pos,
               zs_errno_text(r));
    mend_torn(st);
}

/* Places as many groups from k on as the active segment takes, writes them, and rolls if there are more. */
static zr_status part_store(struct run *r, uint32_t *k, int64_t ms)
{
    struct zr_inst *st = r->st;
    struct zs_stage *s = r->stage;
    int64_t start = atomic_load_explicit(&st->end, memory_order_relaxed), pos = start;
    int64_t limit = st->active->base + st->segs.size;
    uint32_t from = *k, to = from, full = 0;
    while (to < s->n) {
        uint64_t size;
        uint32_t next = group_end(s, to, &size);
        if (pos + (int64_t)size + (int64_t)ZS_BLANK > limit) {
            full = 1;
            break;
        }
        zr_status rc = group_assign(r, to, next, pos, ms);
        if (rc != ZR_OK) {
            for (uint32_t i = to; i < next; i++) run_put(r, s->items[i].index)->status = rc;
            stage_cut(s, to, next);
            continue;
        }
        pos += (int64_t)size;
        to = next;
    }
    const uint8_t *bytes = s->buf + (from < s->n ? s->items[from].at : s->len);
    int64_t rc = write_part(st, bytes, (uint64_t)(pos - start), start, full ? limit - pos : 0);
    if (rc < 0) {
        unassign(s, from, to);
        write_failed(st, rc, start, (uint64_t)(pos - start));
        return zs_status_of(rc) == ZR_EFULL ? ZR_EFULL : ZR_EIO;
    }
    if (to > from) {
        publish(r, from, to, start, pos, ms);
        if (atomic_exchange(&st->disk_full, 0)) zs_log(st, ZR_LOG_INFO, "the log can be written again");
    }
    *k = to;
    return full ? roll(st) : ZR_OK;
}

static void want_next_segment(struct zr_inst *st)
{
    int64_t base = st->active->base, next = base + st->segs.size;
    if (st->prep_asked == next || atomic_load_explicit(&st->end, memory_order_relaxed) - base < st->segs.size / 10 * 7) return;
    st->prep_asked = next;
    zs_prepare_want(st, next);
}

/* The time of this run: not before that of the last one, unless the clock went back by more than a correction (or the last
 * time is damage): then the clock is right, as it is for everybody else. */
static int64_t store_time(struct zr_inst *st, int64_t now_ms)
{
    int64_t last = atomic_load_explicit(&st->last_ms, memory_order_relaxed);
    if (now_ms >= last) return now_ms;
    if (last - now_ms <= ZS_CLOCK_STEP) return last;
    zs_log(st, ZR_LOG_WARN, "the clock is %lld s behind the last message: store times go back", (long long)((last - now_ms) / 1000));
    return now_ms;
}

static void run_store(struct run *r, int64_t now_ms)
{
    struct zr_inst *st = r->st;
    struct zs_stage *s = r->stage;
    uint32_t k = 0;
    pthread_mutex_lock(&st->append_lock);
    int64_t ms = store_time(st, now_ms);
    zr_status rc = append_barred(st);
    if (rc == ZR_OK && !st->active) rc = roll(st);
    if (rc == ZR_OK) rc = mend_torn(st);
    while (rc == ZR_OK && k < s->n) rc = part_store(r, &k, ms);
    if (st->active) want_next_segment(st);
    pthread_mutex_unlock(&st->append_lock);
    for (; k < s->n; k++) run_put(r, s->items[k].index)->status = rc;
}

static void count(struct run *r)
{
    int64_t good = 0, bytes = 0, bad = 0;
    for (uint32_t i = 0; i < r->n; i++) {
        struct zr_put *p = run_put(r, i);
        if (p->status == ZR_OK) {
            good++;
            bytes += p->size;
        } else {
            bad++;
        }
    }
    if (good) zs_count(r->st, ZS_M_MESSAGES, good);
    if (good) zs_count(r->st, ZS_M_BYTES, bytes);
    if (bad) zs_count(r->st, ZS_M_REFUSED, bad);
}

void zs_append(struct zr_inst *st, const struct zr_msg *msgs, uint32_t n, struct zr_put *puts, int64_t *ret_end)
{
    struct run r = { .st = st, .msgs = msgs, .puts = puts, .n = n };
    *ret_end = atomic_load(&st->end);
    if (n == 0) return;
    r.msg_step = msgs->hdr.size;
    r.put_step = puts->hdr.size;
    r.stage = stage_take(st);
    int64_t before = *ret_end;
    uint32_t full_before = atomic_load_explicit(&st->disk_full, memory_order_relaxed);
    if (!r.stage) {
        for (uint32_t i = 0; i < n; i++) run_put(&r, i)->status = ZR_ENOMEM;
        return;
    }
    for (uint32_t i = 0; i < n;) {
        i = run_stage(&r, i);
        if (r.stage->n) run_store(&r, st->timer->wall_ms(st->host));
    }
    stage_give(st, r.stage);
    count(&r);
    if (atomic_load_explicit(&st->disk_full, memory_order_relaxed) && !full_before) zs_clean_hurry(st);
    *ret_end = atomic_load(&st->end);
    if (*ret_end == before) return;
    zs_flush_dirty(st);
    zs_queue_writer_wake(st, 0);
    zs_index_wake(st);
    st->dur->advance(st->host, ZR_MARK_WRITTEN, *ret_end);
    if (atomic_load_explicit(&st->tail_bytes, memory_order_relaxed) > st->conf.max_tail_bytes) {
        zs_count(st, ZS_M_HELPED, 1);
        zs_queues_drain(st);
        zs_queues_sweep(st, 1);
    }
}
