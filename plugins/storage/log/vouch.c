/* SPDX-License-Identifier: Apache-2.0 */
/* vouch.c - see vouch.h: the entries of another broker are looked at, and compared with the log's lengths. */
#include "vouch.h"
#include <errno.h>
#include <stdlib.h>

#define CHUNK 512u
#define MAX_SEGMENTS (1ull << 22)
#define LAST_TRIES 16

zr_status zs_vouch_open(struct zs_vouch *v, struct zr_inst *st, int64_t from)
{
    int64_t first = zs_segs_first(st);
    *v = (struct zs_vouch){ .st = st, .from = from, .limit = zs_segs_last(st) + st->segs.size };
    v->n_covers = first < 0 ? 0 : (uint64_t)((v->limit - first) / st->segs.size);
    if (first < 0) v->limit = 0;
    if (v->n_covers > MAX_SEGMENTS) v->n_covers = 0; /* no sum is made, and the log is read */
    v->covers = calloc(v->n_covers + 1, sizeof *v->covers);
    if (!v->covers) return ZR_ENOMEM;
    zs_vouch_topics(v);
    return ZR_OK;
}

void zs_vouch_close(struct zs_vouch *v)
{
    zs_vouch_topics_free(v);
    free(v->covers);
    free(v->looks);
    v->covers = NULL;
    v->looks = NULL;
}

static struct zs_look *look_of(struct zs_vouch *v, const struct zr_queue *q)
{
    return q->serial < v->n_looks && v->looks[q->serial].q == q ? &v->looks[q->serial] : NULL;
}

static struct zs_look *look_make(struct zs_vouch *v, struct zr_queue *q)
{
    if (q->serial >= v->n_looks) {
        uint64_t n = q->serial < 256 ? 512 : q->serial * 2;
        struct zs_look *at = realloc(v->looks, n * sizeof *at);
        if (!at) return NULL;
        memset(at + v->n_looks, 0, (n - v->n_looks) * sizeof *at);
        v->looks = at;
        v->n_looks = n;
    }
    v->looks[q->serial] = (struct zs_look){ .q = q, .first = -1, .first_phys = -1, .front = -1, .met = -1 };
    return &v->looks[q->serial];
}

/* ---- entries ------------------------------------------------------------------------------------------------------------- */

struct entries { /* a walk over those of one queue */
    struct zs_vouch *v;
    struct zs_look *look;
    struct zs_entry prev;
    int64_t prev_at; /* -1: none yet */
    int64_t empty, holes; /* without a message: since the last one, and before that */
};

static void cover(struct zs_vouch *v, const struct zs_entry *e)
{
    int64_t first = zs_segs_first(v->st);
    uint64_t i = (uint64_t)((e->phys - first) / v->st->segs.size);
    if (e->phys < v->from || e->phys < first || i >= v->n_covers) return;
    struct zs_cover *c = &v->covers[i];
    c->bytes += e->size;
    if (e->phys + e->size <= c->end) return;
    c->end = e->phys + e->size;
    c->last = e->phys;
}

static void entry_take(struct entries *w, int64_t offset, const struct zs_entry *e)
{
    w->v->n_entries++;
    if (e->size == ZS_FILLER) return;
    if (!zs_entry_real(e) || e->phys + e->size > w->v->limit) {
        w->empty++;
        return;
    }
    if (w->prev_at < 0 || e->phys != w->prev.phys) cover(w->v, e); /* those of one batch lead to one record */
    if (w->look->first < 0) w->look->first = offset, w->look->first_phys = e->phys;
    w->holes += w->empty;
    w->empty = 0;
    w->prev = *e;
    w->prev_at = offset;
}

/* Is it the entry of a whole record of the queue? */
static uint32_t entry_true(struct zr_inst *st, struct zr_queue *q, int64_t offset, const struct zs_entry *e)
{
    struct zl_record r;
    if (!zs_scan_one_of(st, e->phys, (struct zr_str){ q->topic, q->topic_len }, &r)) return 0;
    return (int32_t)r.size == e->size && r.queue_id == q->id && offset >= r.queue_offset && offset < r.queue_offset + 32768;
}

/* The files go farther than halving found: there was a hole where it looked. */
static zr_status take_end(struct entries *w, struct zr_queue *q)
{
    struct zr_inst *st = w->v->st;
    uint8_t raw[ZS_ENTRY];
    int64_t was = atomic_load(&q->next), at = w->prev_at;
    struct zs_entry e = w->prev;
    for (int i = 0; i < LAST_TRIES && at >= was && !entry_true(st, q, at, &e); i++) { /* noise is no word on a queue's end */
        int64_t n = zs_qfile_read(st, q, --at, 1, raw);
        if (n < 0) return zs_raise(st, zs_status_of(n), n, "the files of queue %s %d cannot be read: %s", q->topic, q->id, zs_errno_text(n));
        if (n == 1) zs_entry_load(raw, &e);
        else e = (struct zs_entry){ .size = 0 };
    }
    if (at < was || !entry_true(st, q, at, &e)) return ZR_OK;
    int64_t min = atomic_load(&q->min);
    zs_queue_reset(st, q, at + 1, e.phys + e.size);
    if (was == 0 && q->first_file != ZS_NONE) min = q->first_file * (st->conf.queue_file_size / ZS_ENTRY);
    atomic_store(&q->min, min);
    return ZR_OK;
}

zr_status zs_vouch_queue(struct zs_vouch *v, struct zr_queue *q, const struct zs_hint *h, int64_t offset)
{
    struct zr_inst *st = v->st;
    int64_t per = st->conf.queue_file_size / ZS_ENTRY, known = offset, end;
    uint8_t raw[CHUNK * ZS_ENTRY];
    if (zs_queue_light(q) || q->first_file == ZS_NONE) return ZR_OK;
    struct entries w = { .v = v, .look = look_make(v, q), .prev_at = -1 };
    if (!w.look) return ZR_ENOMEM;
    if (offset < q->first_file * per) offset = q->first_file * per;
    for (end = (q->last_file + 1) * per; offset < end;) {
        int64_t n = zs_qfile_read(st, q, offset, CHUNK, raw);
        if (n < 0) return zs_raise(st, zs_status_of(n), n, "the files of queue %s %d cannot be read: %s", q->topic, q->id, zs_errno_text(n));
        if (n == 0) { /* the rest of a file that is cut, or all of one that is missing */
            int64_t next = (offset / per + 1) * per;
            w.empty += next - offset;
            offset = next;
            continue;
        }
        for (int64_t i = 0; i < n; i++) {
            struct zs_entry e;
            zs_entry_load(raw + i * ZS_ENTRY, &e);
            entry_take(&w, offset + i, &e);
        }
        offset += n;
    }
    zr_status rc = w.prev_at >= atomic_load(&q->next) ? take_end(&w, q) : ZR_OK;
    /* It had messages at the snapshot, and its first one came after it. */
    w.look->kept = known > 0;
    if (h && h->next > 0 && w.look->first == 0 && w.look->first_phys >= v->from && h->end_phys <= v->from) w.look->old_end = v->from;
    if (w.holes) {
        v->n_holes += (uint64_t)w.holes;
        zs_log(st, ZR_LOG_WARN, "queue %s %d: %lld entries before its end at %lld are missing: made anew when read", q->topic, q->id,
               (long long)w.holes, (long long)atomic_load(&q->next));
    }
    return rc;
}

/* ---- the log ------------------------------------------------------------------------------------------------------------------ */

/* Does the segment's last record, or a blank behind it, lead to the segment's end? */
static uint32_t leads_on(struct zr_inst *st, int64_t at, int64_t end)
{
    struct zs_scan s;
    struct zl_record r;
    if (at == end) return 1;
    zs_scan_open(&s, st, at, end, 0);
    int what = zs_scan_next(&s, &r);
    zs_scan_close(&s);
    return what == ZS_SCAN_END;
}

int64_t zs_vouch_reach(struct zs_vouch *v, int64_t *ret_last, int64_t *ret_last_ms)
{
    struct zr_inst *st = v->st;
    struct zl_record r;
    int64_t first = zs_segs_first(st), pos = v->from;
    *ret_last = -1;
    for (uint64_t i = (uint64_t)((pos - first) / st->segs.size); i < v->n_covers; i++) {
        const struct zs_cover *c = &v->covers[i];
        int64_t end = first + (int64_t)(i + 1) * st->segs.size;
        if (c->bytes == 0 || c->bytes != c->end - pos || !zs_scan_one(st, c->last, &r) || c->last + r.size != c->end) return pos;
        *ret_last = c->last;
        *ret_last_ms = r.store_ms;
        if (!leads_on(st, c->end, end)) return c->end;
        pos = end;
    }
    return pos;
}

void zs_vouch_meet(struct zs_vouch *v, struct zr_queue *q, const struct zl_record *r)
{
    struct zs_look *l = look_of(v, q);
    if (!l || l->first < 0 || r->physical_offset >= l->first_phys) return;
    if (l->first == 0 && atomic_load(&q->min) == 0) {
        l->old_end = r->physical_offset + r->size;
        return;
    }
    if (l->first == 0 || r->queue_offset >= l->first) return;
    if (l->front < 0 || r->queue_offset < l->met) l->front = r->queue_offset; /* one that goes back begins a life of its own */
    l->met = r->queue_offset;
}

/* The topic's first entry in all its queues: when it was there again; -1: one goes on from before. */
static int64_t there_again(struct zs_vouch *v, struct zr_str topic)
{
    int64_t least = INT64_MAX;
    pthread_rwlock_rdlock(&v->st->table_lock);
    for (struct zr_queue *q = zs_topic_queues(v->st, topic); q; q = q->topic_next) {
        const struct zs_look *l = look_of(v, q);
        if (!l || l->first < 0) continue;
        if (l->kept) least = -1;
        else if (l->first_phys < least) least = l->first_phys;
    }
    pthread_rwlock_unlock(&v->st->table_lock);
    return least;
}

/* The topic was made again, if the queue's first entry is true. */
static zr_status made_again(struct zs_vouch *v, struct zs_look *l)
{
    struct zr_str topic = { l->q->topic, l->q->topic_len };
    struct zl_record r;
    int64_t position = there_again(v, topic);
    if (position < l->old_end || zs_removed_covers(v->st, topic, position - 1)) return ZR_OK;
    if (!zs_scan_one_of(v->st, l->first_phys, topic, &r) || r.queue_id != l->q->id || r.queue_offset != 0) return ZR_OK;
    zs_log(v->st, ZR_LOG_WARN, "topic %s was deleted and made again by another broker: what the log has of it before %lld is not served", l->q->topic,
           (long long)position);
    return zs_removed_know(v->st, topic, position) < 0 ? ZR_ENOMEM : ZR_OK;
}

zr_status zs_vouch_finish(struct zs_vouch *v)
{
    struct zr_inst *st = v->st;
    zr_status rc = ZR_OK;
    uint32_t again = 0;
    uint64_t n;
    for (uint64_t i = 0; i < v->n_looks && rc == ZR_OK; i++) {
        struct zs_look *l = &v->looks[i];
        int64_t min = l->q ? atomic_load(&l->q->min) : 0;
        if (l->q && l->old_end > 0) rc = made_again(v, l), again = 1;
        if (!l->q || l->front < 0 || l->front >= min) continue;
        zs_log(st, ZR_LOG_WARN, "queue %s %d: entries from %lld to %lld are missing: made anew when read", l->q->topic, l->q->id, (long long)l->front,
               (long long)min);
        atomic_store(&l->q->min, l->front);
        atomic_store(&l->q->min_begin, atomic_load(&st->begin));
    }
    struct zr_queue **list = again ? zs_queues_list(st, &n) : NULL;
    if (again && !list) return ZR_ENOMEM;
    for (uint64_t i = 0; list && i < n; i++) zs_queue_drop_removed(st, list[i]);
    free(list);
    return rc;
}
