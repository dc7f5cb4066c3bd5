/* SPDX-License-Identifier: Apache-2.0 */
/* queues_compare.c - what the queues' files say against what the log said, queue by queue, told in runs of offsets.
 *
 * An entry without a record is explained by what lies at its place: deleted with its segment, behind the log's end, in a damaged
 * part of the log, or nothing of that kind. A record without an entry is only told, it can be made again. */
#include "tool.h"

enum state { GOOD, EXPIRED, FILLER, ZERO, MISSING, MARKED, WRONG, BEHIND, DAMAGED, ASTRAY };

struct pass {
    struct zt_queues *qs;
    struct zt_log *lg;
    struct zt_queue *q;
    struct zs_scan scan;
    enum state state;     /* of the run */
    int64_t from, to;     /* its offsets */
    int64_t phys;         /* of its first entry */
    char why[128];
    int64_t floor;        /* what is empty below is of messages that retention took */
    int64_t gone;         /* a live store: below it lay files that were deleted since they were listed, with their messages */
    int64_t *chunks;      /* numbers of those with records, in order */
    int64_t range_from, range_to; /* the queue's offsets lie in here; what lies outside is of damaged records */
    uint64_t n_chunks, chunk;
    int64_t order;        /* physical offset of the last entry that agrees */
    uint64_t n_disorder, n_astray;
    int64_t disorder_at, astray_at;
    uint64_t file;        /* the file that is open */
    int fd;
};
#define REBUILD "the broker makes them anew when they are read; --repair writes them now"

static void file_of(struct pass *p, int64_t offset, char *name, int64_t *ret_at)
{
    int64_t byte = offset * (int64_t)ZS_ENTRY, base = byte / p->qs->file_size * p->qs->file_size;
    zt_queue_file(p->q, name, p->q->n_files ? base : -1);
    *ret_at = p->q->n_files ? byte - base : -1;
}

/* Were the records at phys safe on the disk once? Then their loss is a loss. */
static uint32_t was_safe(struct pass *p, int64_t phys)
{
    struct zt_view *v = p->qs->v;
    return !v->unclean || (v->snap.valid && phys < v->snap.pos);
}

static void run_tell(struct pass *p, uint32_t level, const char *kind, const char *what_to_do, const char *what)
{
    char name[ZS_PATH], range[64];
    int64_t at, n = p->to - p->from;
    file_of(p, p->from, name, &at);
    if (n == 1) snprintf(range, sizeof range, "offset %lld", (long long)p->from);
    else snprintf(range, sizeof range, "offsets %lld to %lld (%lld)", (long long)p->from, (long long)p->to - 1, (long long)n);
    p->q->bad = 1;
    zt_find(p->qs->report, level, kind, name, at, n * ZS_ENTRY, what_to_do, "topic %s queue %d, %s: %s", p->q->topic, p->q->id, range, what);
}

static void run_end(struct pass *p)
{
    char what[256];
    if (p->from < 0 || p->from == p->to) return;
    switch (p->state) {
    case GOOD: case EXPIRED: break;
    case FILLER: p->q->n_filler += (uint64_t)(p->to - p->from); break;
    case ZERO:
        run_tell(p, ZT_LEVEL_LOST, "message.lost", "restore the log from a backup if there is one; --repair marks them as lost", "neither entry nor message is there");
        break;
    case MISSING:
        run_tell(p, ZT_LEVEL_MEND, "queue.missing", REBUILD,
                 p->q->n_files ? "the entries are missing; the messages are whole in the log" : "the queue has no files; the messages are whole in the log");
        break;
    case MARKED: run_tell(p, ZT_LEVEL_MEND, "queue.marked", "--repair writes them anew", "marked as lost, but the messages are whole in the log"); break;
    case WRONG:
        snprintf(what, sizeof what, "the entries do not say what the messages say (the first points to %lld)", (long long)p->phys);
        run_tell(p, ZT_LEVEL_MEND, "queue.wrong", "--repair writes them anew", what);
        break;
    case BEHIND: {
        uint32_t safe = was_safe(p, p->phys);
        snprintf(what, sizeof what, "the entries point behind the end of the log (the first to %lld, the log ends at %lld)%s", (long long)p->phys, (long long)p->lg->end,
                 safe ? "" : "; the stop was not clean and these messages were not on the disk yet");
        run_tell(p, safe ? ZT_LEVEL_LOST : ZT_LEVEL_MEND, safe ? "message.lost" : "queue.behind",
                 safe ? "restore the log's end from a backup if there is one; --repair marks them as lost" : "the next start cuts them", what);
        break;
    }
    case DAMAGED:
        snprintf(what, sizeof what, "the messages lie in a damaged part of the log (the first at %lld)", (long long)p->phys);
        run_tell(p, ZT_LEVEL_LOST, "message.lost", "restore that segment from a backup if there is one; --repair marks them as lost", what);
        break;
    case ASTRAY:
        snprintf(what, sizeof what, "no such message is at the place the entries name (the first at %lld): %s", (long long)p->phys, p->why);
        run_tell(p, ZT_LEVEL_LOST, "message.lost", "restore that segment from a backup if there is one; --repair marks them as lost", what);
        break;
    }
    p->from = p->to = -1;
}

static void run_add(struct pass *p, enum state s, int64_t offset, int64_t n, int64_t phys)
{
    if (offset < p->gone) {
        if (offset + n <= p->gone) return;
        n -= p->gone - offset, offset = p->gone;
    }
    if (s == EXPIRED || s == FILLER || s == ZERO) {
        if (offset + n <= p->floor) return;
        if (offset < p->floor) n -= p->floor - offset, offset = p->floor;
    } else if (offset < p->floor) {
        p->floor = offset;
    }
    if (p->from >= 0 && s == p->state && offset == p->to) {
        p->to += n;
        return;
    }
    run_end(p);
    p->state = s;
    p->from = offset;
    p->to = offset + n;
    p->phys = phys;
}

static enum state explain(struct pass *p, int64_t offset, const struct zs_entry *e)
{
    struct zl_record r;
    const char *why = "";
    if (e->size == ZS_FILLER) return FILLER;
    if (e->size == 0 && e->phys == 0 && e->tags == 0) return ZERO;
    if (e->phys >= 0 && e->phys < p->lg->begin && e->size > 0) return EXPIRED;
    if (e->phys >= p->lg->end && e->phys < ZS_MAX_POSITION && e->size > 0) return p->qs->v->live ? GOOD : BEHIND;
    if (zt_log_damaged(p->lg, e->phys)) return DAMAGED;
    if (p->from >= 0 && p->state == ASTRAY && p->to == offset) return ASTRAY; /* one explanation for a run is enough */
    if (zt_record_at(p->qs->v, &p->scan, e->phys, &r, &why)) {
        if (p->qs->v->live && r.queue_id == p->q->id && r.queue_offset == offset) return GOOD;
        snprintf(p->why, sizeof p->why, "topic %.*s queue %d offset %lld is there", (int)r.topic.len, r.topic.ptr, r.queue_id, (long long)r.queue_offset);
    } else {
        snprintf(p->why, sizeof p->why, "%s", why);
    }
    return ASTRAY;
}

static void judge(struct pass *p, int64_t offset, const struct zs_entry *e)
{
    uint32_t agrees, record = zt_chunk_bit(p->q, offset, &agrees);
    enum state s;
    if (e->size > 0 && e->size != ZS_FILLER) p->q->n_entries++;
    if (record && agrees) {
        s = GOOD;
        if (e->size > 0) {
            if (e->phys < p->order && p->n_disorder++ == 0) p->disorder_at = offset;
            p->order = e->phys;
        }
    } else if (record) {
        s = e->size == ZS_FILLER ? MARKED : e->size == 0 ? MISSING : WRONG;
    } else {
        s = explain(p, offset, e);
    }
    run_add(p, s, offset, 1, e->phys);
}

/* Reads bytes of the queue's files that lie together; what no file covers is zero. 0: nothing but zeroes, and *ret_next says
 * where something may follow. */
static uint32_t window_read(struct pass *p, int64_t offset, uint8_t *raw, int64_t *ret_next)
{
    int64_t size = p->qs->file_size, at = offset * (int64_t)ZS_ENTRY, end = at + ZT_CHUNK * ZS_ENTRY;
    uint32_t some = 0;
    memset(raw, 0, ZT_CHUNK * ZS_ENTRY);
    *ret_next = INT64_MAX;
    for (uint64_t i = p->file; i < p->q->n_files; i++) {
        int64_t base = p->q->files[i].base, from = at > base ? at : base, to = base + size < end ? base + size : end;
        if (base >= end) {
            if (base / ZS_ENTRY < *ret_next) *ret_next = base / ZS_ENTRY;
            break;
        }
        if (i != p->file || p->fd < 0) {
            char name[ZS_PATH], path[ZS_PATH];
            if (base + size <= at) continue;
            zt_close(p->fd);
            p->file = i;
            zt_queue_file(p->q, name, base);
            p->fd = zs_path(path, "%s/%s", p->qs->v->dir, name) ? (int)zt_open(path, ZR_IO_READ) : -1;
            if (p->fd == -ENOENT && p->qs->v->live) p->gone = (base + size) / (int64_t)ZS_ENTRY;
            if (p->fd < 0) continue;
        }
        if (base + size <= at) continue;
        int64_t data = zt_seek_data(p->fd, from - base), there = data < 0 ? base + size : base + data;
        if (there >= to) {
            if (there < base + size && there / ZS_ENTRY < *ret_next) *ret_next = there / ZS_ENTRY;
            if (to < base + size) break;
            continue;
        }
        some |= zt_read(p->fd, raw + (from - at), (uint64_t)(to - from), from - base) > 0;
    }
    return some;
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static uint32_t chunks_list(struct pass *p)
{
    const struct zt_queue *q = p->q;
    p->chunks = malloc((q->n_chunks + 1) * sizeof *p->chunks);
    if (!p->chunks) return 0;
    for (uint32_t i = 0; i < q->cap_chunks; i++)
        for (const struct zt_chunk *c = q->chunks[i]; c; c = c->next) p->chunks[p->n_chunks++] = c->no;
    qsort(p->chunks, p->n_chunks, sizeof *p->chunks, by_number);
    return 1;
}

/* The offset of the first chunk at or behind offset that holds a record; INT64_MAX: none. Asked with rising offsets. */
static int64_t chunk_next(struct pass *p, int64_t offset)
{
    while (p->chunk < p->n_chunks && p->chunks[p->chunk] < offset / ZT_CHUNK) p->chunk++;
    return p->chunk < p->n_chunks ? p->chunks[p->chunk] * ZT_CHUNK : INT64_MAX;
}

static uint64_t chunk_count(struct zt_queue *q, int64_t no, int64_t *ret_first, int64_t *ret_last)
{
    uint64_t n = 0;
    uint32_t agrees;
    for (int64_t o = no * ZT_CHUNK; o < (no + 1) * ZT_CHUNK; o++) {
        if (!zt_chunk_bit(q, o, &agrees)) continue;
        if (n++ == 0) *ret_first = o;
        *ret_last = o;
    }
    return n;
}

/* Leaves the chunks outside the queue's range out, and takes the queue's greatest offset from the rest. */
static void range_set(struct pass *p)
{
    struct zt_queue *q = p->q;
    uint64_t kept = 0;
    int64_t first = -1, last = -1, max = -1;
    if (!zt_queue_range(p->qs, p->lg, q, &p->range_from, &p->range_to)) p->qs->report->failed = 1;
    if (p->range_from == 0 && p->range_to == INT64_MAX) return;
    for (uint64_t i = 0; i < p->n_chunks; i++) {
        int64_t at = p->chunks[i] * ZT_CHUNK;
        if (at >= p->range_from && at < p->range_to) {
            p->chunks[kept++] = p->chunks[i];
            continue;
        }
        p->n_astray += chunk_count(q, p->chunks[i], &first, &last);
        if (p->astray_at < 0) p->astray_at = first;
    }
    p->n_chunks = kept;
    if (kept) chunk_count(q, p->chunks[kept - 1], &first, &max);
    atomic_store(&q->max_offset, max);
    for (uint64_t i = 0; i < q->n_files; i++)
        if (q->files[i].base / (int64_t)ZS_ENTRY >= p->range_to || (q->files[i].base + p->qs->file_size) / (int64_t)ZS_ENTRY <= p->range_from) q->bad = 1;
}

static void walk(struct pass *p)
{
    uint8_t raw[ZT_CHUNK * ZS_ENTRY];
    struct zt_queue *q = p->q;
    int64_t low = q->n_files ? q->files[0].base / ZS_ENTRY : INT64_MAX, records = chunk_next(p, 0), next;
    if (records < low) low = records;
    if (q->hint && q->hint->min < low) low = q->hint->min;
    if (low < p->range_from) low = p->range_from;
    if (low == INT64_MAX) return;
    int64_t end = atomic_load(&q->max_offset) + 1;
    if (q->hint && q->hint->next > end && q->hint->next <= p->range_to) end = q->hint->next;
    for (int64_t at = low / ZT_CHUNK * ZT_CHUNK; at < p->range_to;) {
        uint32_t some = window_read(p, at, raw, &next);
        uint32_t agrees;
        if (!some && chunk_next(p, at) != at) { /* nothing in this window: to the next that may hold something */
            int64_t to = chunk_next(p, at);
            if (next != INT64_MAX && next / ZT_CHUNK * ZT_CHUNK < to) to = next / ZT_CHUNK * ZT_CHUNK;
            if (to <= at) to = at + ZT_CHUNK;
            if (to >= p->range_to) to = INT64_MAX;
            if (to == INT64_MAX) {
                if (at < end) run_add(p, ZERO, at, end - at, 0);
                break;
            }
            run_add(p, ZERO, at, to - at, 0);
            at = to;
            continue;
        }
        for (int64_t o = at; o < at + ZT_CHUNK; o++) {
            struct zs_entry e;
            zs_entry_load(raw + (o - at) * ZS_ENTRY, &e);
            if (e.size == 0 && e.phys == 0 && e.tags == 0 && !zt_chunk_bit(q, o, &agrees)) {
                run_add(p, ZERO, o, 1, 0);
            } else {
                judge(p, o, &e);
                if (o + 1 > end) end = o + 1;
            }
        }
        at += ZT_CHUNK;
    }
    if (p->from >= 0 && p->state == ZERO) { /* zeroes behind the last entry are room, unless the queue was known to be longer */
        int64_t known = q->hint && q->hint->next <= p->range_to ? q->hint->next : 0;
        int64_t last = atomic_load(&q->max_offset) + 1;
        if (last > known) known = last;
        if (p->from >= known) p->from = p->to = -1;
        else if (p->to > known) p->to = known;
    }
    run_end(p);
    q->max = end;
    q->min = p->floor < end ? p->floor : end;
}

static void tell_rest(struct pass *p)
{
    struct zt_queue *q = p->q;
    struct zt_view *v = p->qs->v;
    char name[ZS_PATH];
    zt_queue_file(q, name, -1);
    if (q->n_filler)
        zt_find(p->qs->report, ZT_LEVEL_NOTE, "queue.marked-lost", name, -1, 0, NULL, "topic %s queue %d: %llu offsets are marked as lost (no message has them; consumers pass over them)",
                q->topic, q->id, (unsigned long long)q->n_filler);
    if (q->n_former)
        zt_find(p->qs->report, ZT_LEVEL_NOTE, "queue.former", name, -1, 0, NULL, "topic %s queue %d: %llu records are of an earlier topic of that name, which was deleted; they are in the log only",
                q->topic, q->id, (unsigned long long)atomic_load(&q->n_former));
    if (q->n_doubled)
        zt_find(p->qs->report, ZT_LEVEL_NOTE, "queue.doubled", name, -1, 0, NULL, "topic %s queue %d: %llu records have a queue offset that another record has; they are in the log only",
                q->topic, q->id, (unsigned long long)atomic_load(&q->n_doubled));
    if (p->n_disorder)
        zt_find(p->qs->report, ZT_LEVEL_NOTE, "queue.order", name, -1, 0, NULL, "topic %s queue %d: from offset %lld on, %llu messages lie before their predecessor in the log",
                q->topic, q->id, (long long)p->disorder_at, (unsigned long long)p->n_disorder);
    if (p->n_astray)
        zt_find(p->qs->report, ZT_LEVEL_NOTE, "queue.astray", name, -1, 0, NULL,
                "topic %s queue %d: %llu records say an offset far outside the queue, the first %lld: no checksum covers it; they are in the log only",
                q->topic, q->id, (unsigned long long)p->n_astray, (long long)p->astray_at);
    if (q->n_lag && !v->live)
        zt_find(p->qs->report, ZT_LEVEL_MEND, "queue.behind-log", name, -1, 0, "the next start makes them from the log", "topic %s queue %d: %llu entries were not written yet when the process ended",
                q->topic, q->id, (unsigned long long)atomic_load(&q->n_lag));
}

static void one(void *ctx, uint32_t thread, uint64_t job)
{
    struct {
        struct zt_queues *qs;
        struct zt_log *lg;
        struct zt_queue **list;
    } *all = ctx;
    (void)thread;
    struct zt_queue *q = all->list[job];
    struct pass p = { .qs = all->qs, .lg = all->lg, .q = q, .from = -1, .to = -1, .floor = INT64_MAX, .order = -1, .fd = -1, .range_to = INT64_MAX, .astray_at = -1 };
    if (q->removed || q->other) return;
    if (q->hint && q->n_files && q->hint->next > atomic_load(&q->max_offset) + 1 && q->hint->end_phys > 0 &&
        zt_queue_anew(p.qs, q, q->hint->end_phys - 1, q->hint->next - 1)) q->hint = NULL; /* of the queue that was deleted */
    if (q->hint && q->hint->min < q->hint->next && p.qs->v->snap.begin == p.lg->begin) p.floor = q->hint->min;
    if (chunks_list(&p)) {
        range_set(&p);
        walk(&p);
    } else {
        p.qs->report->failed = 1;
    }
    tell_rest(&p);
    free(p.chunks);
    zt_close(p.fd);
    zs_scan_close(&p.scan);
}

void zt_queues_compare(struct zt_queues *qs, struct zt_log *lg)
{
    struct {
        struct zt_queues *qs;
        struct zt_log *lg;
        struct zt_queue **list;
    } all = { qs, lg, calloc(atomic_load(&qs->n) + 1, sizeof(struct zt_queue *)) };
    uint64_t n = 0;
    if (!all.list) {
        qs->report->failed = 1;
        return;
    }
    for (struct zt_queue *q = atomic_load(&qs->all); q; q = q->all) all.list[n++] = q;
    zt_parallel(qs->v, n, one, &all);
    free(all.list);
}
