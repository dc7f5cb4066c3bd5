/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - the log read from end to end, each segment by one thread: every record judged by the store's own scan, its queue entry
 * and its keys compared, damaged places told with what was in them.
 *
 * THE END. The log ends behind the last valid record. Zeroes there are room; other bytes are what a process that was ended left
 * behind, or what Apache's broker leaves when it cuts: records of an older history, which are told apart as the store does it (older
 * than their predecessor, and their queue has their offset elsewhere). */
#include "tool.h"
#include "zs_pack.h"
#include <time.h>

static double now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

void zt_segment_file(struct zt_log *lg, int64_t pos, char *to)
{
    int64_t base = zt_seg_base(lg->v, pos);
    uint32_t packed = base >= 0 && lg->n_segs && lg->segs[(base - lg->segs[0].base) / lg->seg_size < (int64_t)lg->n_segs ? (base - lg->segs[0].base) / lg->seg_size : 0].packed;
    char path[ZS_PATH];
    if (packed && base >= 0) zs_seg_packed_path(lg->v->st, base, path);
    else zs_seg_path(lg->v->st, base < 0 ? pos : base, path);
    snprintf(to, ZS_PATH, "%s", path + (zt_is_inside(lg->v->dir, path) ? strlen(lg->v->dir) + 1 : 0));
}

/* ---- what lies in the folder ---------------------------------------------------------------------------------------------- */

/* A file in the log's folder that is no part of the log: what it is, and what a broker does with it. */
static void stray_tell(struct zt_log *lg, const char *path, const char *name, const struct zr_io_stat *st, uint32_t numbered)
{
    const char *rel = path + (zt_is_inside(lg->v->dir, path) ? strlen(lg->v->dir) + 1 : 0);
    uint32_t left = strspn(name, "0123456789") == 20 && (strcmp(name + 20, ".tmp") == 0 || strcmp(name + 20, ZS_PACKED ".tmp") == 0);
    if (numbered && !st->is_dir)
        zt_find(lg->report, ZT_LEVEL_NOTE, "log.stray", rel, -1, 0, "a broker leaves it alone and reads nothing of it; if you did not put it there, look what it holds and move it away",
                "it has a segment's name and %llu bytes, but no segment of this log begins there: they have %lld bytes, the first is at %lld", (unsigned long long)st->size,
                (long long)lg->seg_size, (long long)lg->begin);
    else if (left)
        zt_find(lg->report, ZT_LEVEL_NOTE, "log.left", rel, -1, 0, lg->v->live ? "the broker deletes it when it is done, or at its next start" : "the next start deletes it",
                "it is what an interrupted making, packing or expanding of a segment left behind (%llu bytes)", (unsigned long long)st->size);
    else
        zt_find(lg->report, ZT_LEVEL_NOTE, "log.stranger", rel, -1, 0, "a broker leaves it alone; if you did not put it there, move it away",
                "it is %s of another name than a segment's, and no part of the log", st->is_dir ? "a folder" : "a file");
}

static void name_judge(struct zt_log *lg, const char *log_dir, const char *name)
{
    char path[ZS_PATH], plain[ZS_PATH];
    struct zr_io_stat st;
    int64_t base;
    if (!zs_path(path, "%s/%s", log_dir, name)) return;
    int64_t r = zt_stat(path, &st);
    if (r < 0 && r != -ENOENT) { /* not to be taken for a segment that is gone */
        zt_find(lg->report, ZT_LEVEL_NOTE, "log.unreadable", path + (zt_is_inside(lg->v->dir, path) ? strlen(lg->v->dir) + 1 : 0), -1, 0,
                "look at the disk and at the file's permissions", "nothing can be learnt of it: %s", zs_errno_text(r));
        lg->report->failed = 1;
    }
    if (r < 0) return;
    uint32_t packed = zl_ends(zl_str(name), ZS_PACKED);
    snprintf(plain, sizeof plain, "%.*s", (int)(strlen(name) - (packed ? strlen(ZS_PACKED) : 0)), name);
    if (!zs_name_offset(plain, &base) || st.is_dir) {
        stray_tell(lg, path, name, &st, 0);
        return;
    }
    uint64_t at = base < lg->begin ? lg->n_segs : (uint64_t)((base - lg->begin) / lg->seg_size);
    if ((at >= lg->n_segs || lg->segs[at].base != base) && !lg->v->live) stray_tell(lg, path, name, &st, 1);
    for (uint64_t k = 0; k < lg->n_segs; k++)
        if (lg->segs[k].base == base) {
            lg->segs[k].size = packed ? (uint64_t)lg->seg_size : st.size;
            lg->segs[k].packed = packed;
            lg->segs[k].missing = 0;
        }
}

static void names_judge(struct zt_log *lg)
{
    for (uint32_t d = 0; d < lg->v->dirs.n; d++) {
        struct zt_names names;
        int64_t r = zt_names_load(&names, lg->v->dirs.at[d]);
        if (r < 0) {
            zt_find(lg->report, ZT_LEVEL_NOTE, "log.unreadable", lg->v->dirs.at[d], -1, 0, "look at the disk and at the folder's permissions", "it cannot be read: %s", zs_errno_text(r));
            lg->report->failed = 1;
        }
        for (uint64_t i = 0; i < names.n; i++) name_judge(lg, lg->v->dirs.at[d], names.at[i]);
        zt_names_free(&names);
    }
}

static void lengths_tell(struct zt_log *lg)
{
    for (uint64_t i = 0; i < lg->n_segs; i++) {
        struct zt_segment *g = &lg->segs[i];
        char rel[ZS_PATH];
        if (g->base < lg->begin) continue;
        zt_segment_file(lg, g->base, rel);
        if (g->missing) {
            int64_t from = g->base;
            while (i + 1 < lg->n_segs && lg->segs[i + 1].missing) i++;
            lg->n_missing += (uint64_t)((lg->segs[i].base - from) / lg->seg_size) + 1;
            zt_find(lg->report, ZT_LEVEL_LOST, "log.missing", rel, 0, lg->segs[i].base + lg->seg_size - from, "put it back from a backup if there is one, or name the folder it is in with --log-path; the broker serves what is around it; --repair --accept-loss gives it up",
                    "this part of the log is not there: positions %lld to %lld", (long long)from, (long long)(lg->segs[i].base + lg->seg_size));
        } else if (g->size != (uint64_t)lg->seg_size && !(lg->v->live && i + 1 == lg->n_segs)) {
            zt_find(lg->report, ZT_LEVEL_MEND, "log.length", rel, (int64_t)(g->size < (uint64_t)lg->seg_size ? g->size : (uint64_t)lg->seg_size), 0,
                    "the next start, or --repair, gives it its full length; what was cut off with it is told apart",
                    "it has %llu bytes instead of %lld", (unsigned long long)g->size, (long long)lg->seg_size);
        }
    }
}

int zt_log_open(struct zt_log *lg)
{
    pthread_mutex_init(&lg->lock, NULL);
    int64_t first = zs_segs_first(lg->v->st), last = zs_segs_last(lg->v->st);
    lg->seg_size = lg->v->st->segs.size;
    lg->begin = first < 0 ? 0 : first;
    lg->n_segs = first < 0 ? 0 : (uint64_t)((last - first) / lg->seg_size) + 1;
    if (lg->n_segs > ZT_MAX_FILES) return ZT_CANNOT;
    lg->segs = calloc(lg->n_segs + 1, sizeof *lg->segs);
    if (!lg->segs) return ZT_CANNOT;
    for (uint64_t i = 0; i < lg->n_segs; i++)
        lg->segs[i] = (struct zt_segment){ .base = first + (int64_t)i * lg->seg_size, .first = -1, .end = -1, .tail_nonzero = -1, .missing = 1,
                                           .stale_from = -1, .unread_from = -1, .unindexed_from = -1, .foreign_at = -1, .tail_why = "" };
    names_judge(lg);
    lg->last_used = 0;
    for (uint64_t i = lg->n_segs; i-- > 0;) {
        struct zl_record r;
        if (!lg->segs[i].missing && zs_scan_one(lg->v->st, lg->segs[i].base, &r)) {
            lg->last_used = i;
            break;
        }
    }
    return ZT_CLEAN;
}

/* ---- reading ------------------------------------------------------------------------------------------------------------------ */

static void damage_add(struct zt_log *lg, int64_t from, int64_t to, const char *why)
{
    pthread_mutex_lock(&lg->lock);
    if (lg->n_damage == lg->cap_damage && lg->cap_damage < ZT_MAX_DAMAGE) {
        uint64_t cap = lg->cap_damage ? lg->cap_damage * 2 : 16;
        struct zt_damage *at = realloc(lg->damage, cap * sizeof *at);
        if (at) {
            lg->damage = at;
            lg->cap_damage = cap;
        }
    }
    if (lg->n_damage < lg->cap_damage) lg->damage[lg->n_damage++] = (struct zt_damage){ from, to, why };
    else lg->report->failed = 1;
    pthread_mutex_unlock(&lg->lock);
}

/* Does the record belong to an older history that the log's end left behind? */
static uint32_t is_stale(struct zt_log *lg, struct zt_windows *w, const struct zt_segment *g, uint64_t no, const struct zl_record *r)
{
    struct zs_entry e;
    if (no < lg->last_used || g->n_records == 0 || r->store_ms >= g->last_ms || !zs_has_entry(r->sys_flag)) return 0;
    struct zt_queue *q = zt_queue_get(lg->queues, r->topic, r->queue_id, 0);
    return q && zt_entry_at(lg->queues, w, q, r->queue_offset, &e) && zs_entry_real(&e) && e.phys != r->physical_offset;
}

/* A message that is in light queues too (%LMQ%...): their names and offsets are among its properties. */
static void multi_use(struct zt_log *lg, struct zt_windows *w, const struct zl_record *r)
{
    struct zr_str names, offsets, name, offset;
    if (!r->properties.len || !memmem(r->properties.ptr, r->properties.len, "INNER_MULTI_D", 13) || !zs_has_entry(r->sys_flag)) return;
    names = zl_props_get(r->properties, "INNER_MULTI_DISPATCH");
    offsets = zl_props_get(r->properties, "INNER_MULTI_QUEUE_OFFSET");
    while (names.len && zl_split(&names, ',', &name)) {
        struct zl_record light = *r;
        struct zt_queue *q;
        if (!zl_split(&offsets, ',', &offset) || zl_parse_i64(offset, &light.queue_offset) != ZR_OK || !zl_starts(name, "%LMQ%")) continue;
        q = zt_queue_get(lg->queues, name, 0, 0); /* only those there are: a broker may have them switched off */
        if (q) zt_queue_record(lg->queues, w, q, &light);
    }
}

static void record_use(struct zt_log *lg, struct zt_windows *w, struct zt_segment *g, const struct zl_record *r)
{
    if (g->n_records == 0) {
        g->first = r->physical_offset;
        g->first_ms = r->store_ms;
    }
    g->n_records++;
    g->n_bytes += r->size;
    g->n_bodies += r->body.len;
    if (r->store_ms > 0 && r->store_ms < ZS_MAX_POSITION) g->last_ms = r->store_ms;
    g->end = r->physical_offset + r->size;
    multi_use(lg, w, r);
    if (!zs_has_entry(r->sys_flag) || r->queue_id < 0 || zs_queue_name_ok(r->topic) != ZR_OK) return;
    if (atomic_load(&lg->v->st->removals.n) && zs_removed_covers(lg->v->st, r->topic, r->physical_offset)) return;
    struct zt_queue *q = zt_queue_get(lg->queues, r->topic, r->queue_id, 1);
    if (!q) return;
    atomic_fetch_add(&q->n_records, 1);
    atomic_fetch_add(&q->n_bytes, r->size);
    zt_queue_record(lg->queues, w, q, r);
}

static void tail_look(struct zt_log *lg, struct zt_segment *g, int64_t from)
{
    uint32_t busy;
    int64_t at = -1;
    struct zs_seg *seg = zs_seg_get(lg->v->st, g->base, 0, &busy);
    if (!seg) return;
    if (!seg->packed && zs_is_zero(lg->v->st, seg->fd, from - g->base, g->base + lg->seg_size - from, &at) == 0) g->tail_nonzero = g->base + at;
    zs_seg_put(lg->v->st, seg);
}

/* On a live log a record may be half written at the moment it is looked at. */
static uint32_t there_now(struct zt_log *lg, int64_t pos)
{
    struct zl_record r;
    return lg->v->live && zs_scan_one(lg->v->st, pos, &r);
}

static void segment_read(void *ctx, uint32_t thread, uint64_t no)
{
    struct zt_log *lg = ctx;
    struct zt_segment *g = &lg->segs[no];
    struct zs_scan s;
    struct zl_record r;
    if (g->missing) return;
    if (!lg->windows[thread]) lg->windows[thread] = zt_windows_new();
    struct zt_windows *w = lg->windows[thread];
    struct zt_cursor *cursor = lg->index ? zt_cursor_new(lg->index, no, g->base, g->base + lg->seg_size) : NULL;
    if (!w) {
        lg->report->failed = 1;
        return;
    }
    zs_scan_open(&s, lg->v->st, g->base, g->base + lg->seg_size, 1);
    int64_t tail = g->base;
    for (;;) {
        int what = zs_scan_next(&s, &r);
        if (what == ZS_SCAN_STOP) lg->report->failed = 1;
        if (what == ZS_SCAN_END || what == ZS_SCAN_STOP) {
            g->whole = what == ZS_SCAN_END;
            break;
        }
        if (what == ZS_SCAN_BAD) {
            const char *why = s.why;
            int64_t from = s.pos;
            g->tail_why = why;
            tail = from;
            if (there_now(lg, from)) {
                zs_scan_close(&s);
                zs_scan_open(&s, lg->v->st, from, g->base + lg->seg_size, 1);
                continue;
            }
            s.failed = s.shut = 0;
            if (!zs_scan_resync(&s)) {
                if (s.failed || s.shut) g->unread_from = from;
                break;
            }
            if (there_now(lg, from)) {
                zs_scan_close(&s);
                zs_scan_open(&s, lg->v->st, from, g->base + lg->seg_size, 1);
                continue;
            }
            damage_add(lg, from, s.pos, why);
            continue;
        }
        if (is_stale(lg, w, g, no, &r)) {
            g->stale_from = tail = r.physical_offset;
            break;
        }
        record_use(lg, w, g, &r);
        if (cursor) zt_cursor_record(cursor, &r, g);
    }
    if (!g->whole) tail_look(lg, g, tail);
    if (cursor) zt_cursor_end(cursor, g);
    zs_scan_close(&s);
}

/* ---- what it means ------------------------------------------------------------------------------------------------------------ */

static int by_from(const void *a, const void *b)
{
    const struct zt_damage *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

const struct zt_damage *zt_log_damaged(const struct zt_log *lg, int64_t phys)
{
    uint64_t lo = 0, hi = lg->n_damage;
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        if (lg->damage[mid].to <= phys) lo = mid + 1;
        else hi = mid;
    }
    return lo < lg->n_damage && lg->damage[lo].from <= phys ? &lg->damage[lo] : NULL;
}

/* The end, and the places between valid records that hold none. */
static void ends_find(struct zt_log *lg)
{
    int64_t last = -1;
    for (uint64_t i = 0; i < lg->n_segs; i++)
        if (lg->segs[i].n_records) last = (int64_t)i;
    lg->last_used = last < 0 ? 0 : (uint64_t)last;
    lg->end = lg->begin;
    for (int64_t i = 0; i <= last; i++) {
        struct zt_segment *g = &lg->segs[i];
        if (g->base < lg->begin) continue;
        if (g->missing) damage_add(lg, g->base, g->base + lg->seg_size, "its segment is missing");
        else if (!g->whole && i < last) damage_add(lg, g->end < 0 ? g->base : g->end, g->base + lg->seg_size, g->tail_why);
        if (i == last) lg->end = g->whole ? g->base + lg->seg_size : g->end;
        lg->n_records += g->n_records;
        lg->n_bytes += g->n_bytes;
        if (g->n_records && (lg->first_ms == 0 || g->first_ms < lg->first_ms)) lg->first_ms = g->first_ms;
        if (g->last_ms > lg->last_ms) lg->last_ms = g->last_ms;
    }
    if (lg->n_damage) qsort(lg->damage, lg->n_damage, sizeof *lg->damage, by_from);
    uint64_t kept = 0;
    for (uint64_t i = 0; i < lg->n_damage; i++) { /* those that touch become one, within a segment */
        struct zt_damage *d = kept ? &lg->damage[kept - 1] : NULL;
        if (d && lg->damage[i].from <= d->to && zt_seg_base(lg->v, d->from) == zt_seg_base(lg->v, lg->damage[i].from)) {
            if (lg->damage[i].to > d->to) d->to = lg->damage[i].to;
        } else {
            lg->damage[kept++] = lg->damage[i];
        }
    }
    lg->n_damage = kept;
}

static void damage_tell(struct zt_log *lg)
{
    for (uint64_t i = 0; i < lg->n_damage; i++) {
        const struct zt_damage *d = &lg->damage[i];
        char rel[ZS_PATH];
        int64_t base = zt_seg_base(lg->v, d->from);
        if (base >= 0 && lg->segs[(base - lg->segs[0].base) / lg->seg_size].missing) continue; /* told by its length */
        zt_segment_file(lg, d->from, rel);
        uint32_t packed = base >= 0 && lg->segs[(base - lg->segs[0].base) / lg->seg_size].packed;
        zt_find(lg->report, ZT_LEVEL_LOST, "log.damage", rel, d->from - base, d->to - d->from,
                packed ? "restore the file from a backup if there is one; the broker passes over it, serves the rest, and never expands it; "
                         "`zaryactl store convert DIR --to plain --accept-loss` keeps what is whole in the plain form, and --repair is then as for plain segments"
                       : "restore the file from a backup if there is one; the broker passes over it and serves the rest; --repair puts a record in its place that stands for nothing",
                "no valid record from position %lld to %lld: %s; valid ones follow", (long long)d->from, (long long)d->to, d->why);
    }
}

static void tail_tell(struct zt_log *lg)
{
    for (uint64_t i = lg->last_used; i < lg->n_segs; i++) {
        struct zt_segment *g = &lg->segs[i];
        char rel[ZS_PATH];
        zt_segment_file(lg, g->base, rel);
        if (g->unread_from >= 0) { /* messages may be there: this is not the log's end */
            zt_find(lg->report, ZT_LEVEL_NOTE, "log.unreadable", rel, g->unread_from - g->base, 0, "look at the disk and at the file's permissions; restore the file from a backup if there is one",
                    "it cannot be read from position %lld on: where the log ends is not known", (long long)g->unread_from);
            lg->report->failed = 1;
            continue;
        }
        if (lg->v->live || g->missing) continue;
        if (g->stale_from >= 0) {
            zt_find(lg->report, ZT_LEVEL_NOTE, "log.remains", rel, g->stale_from - g->base, 0, "nothing; the next start of Zarya makes them zero",
                    "records of an older history follow the log's end; they are not messages");
            continue;
        }
        if (g->tail_nonzero < 0) continue;
        lg->torn = 1;
        zt_find(lg->report, ZT_LEVEL_MEND, "log.tail", rel, (g->end < 0 ? g->base : g->end) - g->base, 0,
                "the next start makes it zero; messages that it held are told apart, if a queue knew of them",
                "behind the log's end at %lld lies something that is no whole record (first at %lld): %s%s", (long long)lg->end,
                (long long)g->tail_nonzero, g->tail_why, lg->v->unclean ? "; a write that the end of the process cut is the likely reason" : "");
    }
    if (lg->v->snap.valid && lg->v->snap.pos > lg->end && lg->n_segs) {
        char rel[ZS_PATH];
        int64_t files_end = lg->segs[lg->n_segs - 1].base + lg->seg_size;
        if (lg->v->snap.pos > files_end) lg->n_missing += (uint64_t)((lg->v->snap.pos - files_end - 1) / lg->seg_size) + 1;
        zt_segment_file(lg, lg->end, rel);
        zt_find(lg->report, ZT_LEVEL_LOST, "log.short", rel, lg->end - zt_seg_base(lg->v, lg->end), 0, "restore the log's end from a backup if there is one",
                "the log ends at %lld, but everything up to %lld was on the disk once", (long long)lg->end, (long long)lg->v->snap.pos);
    }
}

/* In either form. Between the looks at the two the form may change, so the first is looked at again. */
static uint32_t segment_there(struct zt_log *lg, int64_t base)
{
    char plain[ZS_PATH], packed[ZS_PATH];
    struct zr_io_stat st;
    zs_seg_path(lg->v->st, base, plain);
    return zt_stat(plain, &st) >= 0 || (zs_seg_packed_path(lg->v->st, base, packed) && zt_stat(packed, &st) >= 0) || zt_stat(plain, &st) >= 0;
}

/* On a live log retention may have taken segments meanwhile, from the oldest on. */
static void begin_find(struct zt_log *lg)
{
    for (uint64_t i = 0; i < lg->n_segs; i++) {
        if (segment_there(lg, lg->segs[i].base)) return;
        lg->begin = lg->segs[i].base + lg->seg_size;
    }
}

int zt_log_read(struct zt_log *lg)
{
    double began = now();
    zt_parallel(lg->v, lg->n_segs, segment_read, lg);
    lg->seconds = now() - began;
    for (uint32_t i = 0; i < ZT_MAX_THREADS; i++) {
        zt_windows_free(lg->windows[i]);
        lg->windows[i] = NULL;
    }
    if (lg->v->live) begin_find(lg);
    ends_find(lg);
    lengths_tell(lg);
    damage_tell(lg);
    tail_tell(lg);
    return ZT_CLEAN;
}

void zt_log_free(struct zt_log *lg)
{
    free(lg->segs);
    free(lg->damage);
    lg->segs = NULL;
    lg->damage = NULL;
}
