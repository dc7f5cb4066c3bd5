/* SPDX-License-Identifier: Apache-2.0 */
/* recover.c - from what lies on the disk to a store that agrees with itself.
 *
 *   load segments ──> load snapshot, queues ──> find where to begin reading ──> read records, giving each its queue entry
 *        ──> the tail: behind the last valid record ──> cut log and queues there ──> positions
 *
 * WHERE TO BEGIN. After a clean stop: at the end that the queues or the snapshot know, if a valid record ends there; nothing
 * is read then but that record. After a kill: at the snapshot's position, or that of the checkpoint (offset 40), or by
 * checkpoint's times; at each, only if a valid record is there. When nothing of that holds: further back, at last at the
 * log's begin. When another broker had the store: at the first place that its queues do not vouch for (vouch.h).
 *
 * What stays true when it is done:
 *   1. end is behind the last valid record. The log was cut only where nothing valid follows; damage before that stays
 *      where it is, is reported with its position, and reading skips it.
 *   2. Behind end there are only zeroes, so that nothing old can be taken for a record later.
 *   3. Every record from the place where reading began has its queue entry; no entry points behind end; no entry was given
 *      to a topic that was removed.
 *
 * Runs alone, before any thread of the store; zs_heal runs at any time, on a worker. */
#include "zs_pack.h"
#include <errno.h>
#include <stdlib.h>
#include "bcq.h"
#include "ext.h"
#include "vouch.h"

#define SNAPSHOT_REACH (1ll << 30) /* a snapshot that is further behind the checkpoint than this was made before another broker ran */
#define LOST_SEGMENTS 4096 /* at the log's end */
#define HEAL_MAX 65536
#define LEAST_RECORD 91
#define GAPS 256u
#define ANEWS 4096u
#define ANEW_TRIES 8u
#define HEAL_NEAR 64
#define DEAD_LEAST 4096 /* bytes; less is as quickly read again */

/* Offsets [from, to) of a queue that were passed over by the record of offset `to`, and filled. No checksum covers that number. */
struct gap {
    struct zr_queue *q;
    int64_t from, to;
    uint64_t n_taken;
};

/* A record of queue offset 0 in a queue that has messages: of one that began anew, or one whose offset is damaged. */
struct anew {
    struct zr_queue *q; /* NULL: free */
    struct zs_entry e;
    int64_t n;    /* offsets it takes */
    int64_t last; /* offset of the newest record in its queue that says the same */
};

struct recovery {
    struct zr_inst *st;
    struct zs_snapshot snap;
    uint32_t clean, use_snap;
    uint32_t quick;  /* the queue files are as the snapshot and the log say: none was looked at */
    int64_t start;   /* reading began here */
    int64_t tail;    /* and ended here */
    int64_t last_phys, last_ms;
    uint64_t n_records, n_entries, n_damaged, n_conflicts;
    int64_t damaged_bytes;
    struct gap gaps[GAPS]; /* the newest */
    uint32_t n_gaps;       /* there were */
    struct anew *anews;    /* ANEWS of them, by queue; NULL: none was met */
    struct zs_vouch *vouch; /* another broker was here; NULL: not */
    int64_t give_up; /* after a kill: entries of what is behind this are made again */
    int64_t unread; /* bytes of the log that the disk did not give: they may be whole */
};

/* ---- entries from records ------------------------------------------------------------------------------------------------ */

int64_t zs_tags_of(struct zr_inst *st, const struct zl_record *r)
{
    if (zl_is(r->topic, "SCHEDULE_TOPIC_XXXX")) {
        int32_t level;
        struct zr_str text = zl_props_get(r->properties, "DELAY");
        if (text.len && zl_parse_i32(text, &level) == ZR_OK && level > 0) {
            if (st->conf.n_levels && (uint32_t)level > st->conf.n_levels) level = (int32_t)st->conf.n_levels;
            int64_t delay = (uint32_t)level <= st->conf.n_levels ? st->conf.level_ms[level - 1] : 1000;
            return (int64_t)((uint64_t)r->store_ms + (uint64_t)delay);
        }
    }
    return zl_tags_code(zl_props_get(r->properties, "TAGS"));
}

/* Writes queue entries out. A full disk is no reason not to start: the entries stay in memory, and are written when there is space. */
static int64_t drain(struct zr_inst *st)
{
    int64_t r = zs_queues_drain(st);
    return r == -ENOSPC || r == -EDQUOT ? 0 : r;
}

static zr_status push_entry(struct zr_inst *st, struct zr_queue *q, const struct zs_entry *e)
{
    zr_status rc = zs_queue_reserve(st, q);
    if (rc == ZR_EFULL || atomic_load(&st->tail_bytes) > st->conf.max_tail_bytes) {
        int64_t r = zs_queues_drain(st);
        if (r < 0) return zs_raise(st, zs_status_of(r), r, "queue files cannot be written: %s", zs_errno_text(r));
        if (rc == ZR_EFULL) rc = zs_queue_reserve(st, q);
        else zs_queue_unreserve(q), zs_queues_sweep(st, 1), rc = zs_queue_reserve(st, q);
    }
    if (rc != ZR_OK) return rc;
    zs_queue_push(st, q, e);
    return ZR_OK;
}

/* The queue begins anew at offset next: a topic that was made again, or one whose beginning is gone. */
static zr_status restart_queue(struct zr_inst *st, struct zr_queue *q, int64_t next, int64_t phys)
{
    int64_t r = drain(st);
    if (r >= 0) r = zs_qfile_cut(st, q, 0);
    if (r < 0) return zs_raise(st, zs_status_of(r), r, "queue %s %d cannot be cut: %s", q->topic, q->id, zs_errno_text(r));
    zs_queue_reset(st, q, next, phys);
    atomic_store(&q->min, next);
    return ZR_OK;
}

/* Entries that stand for the messages before this record that the log has lost. */
static zr_status fill_gap(struct recovery *rec, struct zr_queue *q, const struct zl_record *r)
{
    struct zr_inst *st = rec->st;
    /* They may be in what was not read, before the start or because the disk did not give it: they are looked for when they are
     * read. Filler is for what the log certainly does not have. */
    uint32_t vouched = rec->use_snap && rec->start <= rec->snap.pos; /* what the queues had before the start is known */
    uint32_t unknown = rec->unread > 0 || q->holes || (rec->start > atomic_load(&st->begin) && !vouched);
    const struct zs_entry filler = { .phys = 0, .size = unknown ? 0 : ZS_FILLER, .tags = 0 };
    int64_t next = atomic_load(&q->next);
    zr_status rc = ZR_OK;
    if (next == 0) {
        int64_t least = rec->unread / LEAST_RECORD; /* so many may be in what could not be read */
        if (q->holes && r->queue_offset - atomic_load(&q->min) > least) least = r->queue_offset - atomic_load(&q->min);
        if (least > HEAL_MAX) least = HEAL_MAX;
        next = r->queue_offset > least ? r->queue_offset - least : 0;
        rc = restart_queue(st, q, next, r->physical_offset);
        if (rc != ZR_OK || next == r->queue_offset) return rc;
    }
    zs_log(st, ZR_LOG_WARN, "queue %s %d: the messages from %lld to %lld are not in the log", q->topic, q->id, (long long)next,
           (long long)r->queue_offset);
    rec->gaps[rec->n_gaps++ % GAPS] = (struct gap){ .q = q, .from = next, .to = r->queue_offset };
    for (; next < r->queue_offset && rc == ZR_OK; next++) rc = push_entry(st, q, &filler);
    return rc;
}

/* The gap that this later record shows to be none: it holds the record's offset, or was made by one of the same offset, which
 * lies before others that belong before it. */
static struct gap *gap_of(struct recovery *rec, const struct zr_queue *q, const struct zl_record *r)
{
    uint8_t raw[ZS_ENTRY];
    struct zs_entry e;
    if (zl_record_offsets(r) != 1) return NULL;
    for (uint32_t i = 0; i < GAPS && i < rec->n_gaps; i++) {
        struct gap *g = &rec->gaps[i];
        if (g->q != q || r->queue_offset < g->from || r->queue_offset > g->to || (r->queue_offset == g->to && !g->n_taken)) continue;
        if (r->queue_offset == g->to) return g;
        if (zs_queue_copy(rec->st, g->q, r->queue_offset, 1, raw, 0) != 1) continue;
        zs_entry_load(raw, &e);
        if (!zs_entry_real(&e)) return g;
    }
    return NULL;
}

static zr_status gap_take(struct recovery *rec, struct gap *g, const struct zl_record *r)
{
    struct zs_entry e = { .phys = r->physical_offset, .size = (int32_t)r->size, .tags = zs_tags_of(rec->st, r) };
    int64_t rc = zs_queue_replace(rec->st, g->q, r->queue_offset, &e);
    if (rc < 0) return zs_raise(rec->st, zs_status_of(rc), rc, "queue files cannot be written: %s", zs_errno_text(rc));
    if (g->n_taken++ == 0)
        zs_log(rec->st, ZR_LOG_WARN, "queue %s %d: the messages from %lld on are in the log after all: the record that says %lld is not where it belongs",
               g->q->topic, g->q->id, (long long)r->queue_offset, (long long)g->to);
    rec->n_entries++;
    if (r->queue_offset != g->to) return ZR_OK;
    rec->n_conflicts++; /* the one that had its entry until now */
    g->q = NULL;
    return ZR_OK;
}

/* The entries of a record from queue offset `from` on. */
static zr_status push_entries(struct recovery *rec, struct zr_queue *q, const struct zl_record *r, int64_t from)
{
    struct zs_entry e = { .phys = r->physical_offset, .size = (int32_t)r->size, .tags = zs_tags_of(rec->st, r) };
    zr_status rc = ZR_OK;
    for (int64_t end = r->queue_offset + zl_record_offsets(r); from < end && rc == ZR_OK; from++) {
        rec->n_entries++;
        rc = push_entry(rec->st, q, &e);
    }
    return rc;
}

/* The queue's place in the table; make: a free one, or at last that of another queue. NULL: not there. */
static struct anew *anew_of(struct recovery *rec, const struct zr_queue *q, uint32_t make)
{
    struct anew *free_one = NULL;
    for (uint32_t i = 0; rec->anews && i < ANEW_TRIES; i++) {
        struct anew *a = &rec->anews[(q->serial + i) % ANEWS];
        if (a->q == q) return a;
        if (!free_one || (free_one->q && !a->q)) free_one = a;
    }
    return make ? free_one : NULL;
}

/* It is remembered; what follows in its queue tells which of the two it is. Until then it has no entry. */
static zr_status anew_begin(struct recovery *rec, struct zr_queue *q, const struct zl_record *r)
{
    if (!rec->anews) rec->anews = calloc(ANEWS, sizeof *rec->anews);
    struct anew *a = anew_of(rec, q, 1);
    if (!a) return ZR_ENOMEM;
    *a = (struct anew){ .q = q, .n = zl_record_offsets(r), .last = (int64_t)zl_record_offsets(r) - 1,
                        .e = { .phys = r->physical_offset, .size = (int32_t)r->size, .tags = zs_tags_of(rec->st, r) } };
    zs_log(rec->st, ZR_LOG_WARN, "the record at %lld says that queue %s %d begins anew at 0, which had messages up to %lld: it does only if the "
           "next ones go on from there", (long long)r->physical_offset, q->topic, q->id, (long long)atomic_load(&q->next));
    rec->n_conflicts++; /* until then */
    return ZR_OK;
}

/* Does this record go on from a record of offset 0? Then the queue did begin anew there. Of those between, if one was damaged, the
 * entries are looked for when they are read. */
static zr_status anew_take(struct recovery *rec, struct zr_queue *q, const struct zl_record *r)
{
    const struct zs_entry unknown = { .size = 0 };
    struct anew *a = anew_of(rec, q, 0);
    int64_t next = atomic_load(&q->next);
    if (!a || r->queue_offset == 0 || r->physical_offset <= a->e.phys) return ZR_OK;
    if (r->queue_offset >= next) { /* it goes on as before: the offset 0 is damage */
        a->q = NULL;
        return ZR_OK;
    }
    if (r->queue_offset != a->last + 1) {
        a->last = r->queue_offset + zl_record_offsets(r) - 1;
        return ZR_OK;
    }
    zs_log(rec->st, ZR_LOG_WARN, "queue %s %d begins anew at %lld: what it had before that, up to offset %lld, is in the log only", q->topic, q->id,
           (long long)a->e.phys, (long long)next);
    zr_status rc = restart_queue(rec->st, q, 0, a->e.phys);
    for (int64_t o = 0; o < r->queue_offset && rc == ZR_OK; o++, rec->n_entries++) rc = push_entry(rec->st, q, o < a->n ? &a->e : &unknown);
    a->q = NULL;
    rec->n_conflicts--;
    return rc;
}

static uint32_t has_queues(struct zr_inst *st, struct zr_str topic)
{
    pthread_rwlock_rdlock(&st->table_lock);
    uint32_t any = zs_topic_queues(st, topic) != NULL;
    pthread_rwlock_unlock(&st->table_lock);
    return any;
}

static zr_status dispatch(struct recovery *rec, const struct zl_record *r)
{
    struct zr_inst *st = rec->st;
    zr_status rc = ZR_OK;
    if (!zs_has_entry(r->sys_flag) || r->queue_id < 0 || r->queue_offset < 0) return ZR_OK;
    if (zs_queue_name_ok(r->topic) != ZR_OK || zs_removed_covers(st, r->topic, r->physical_offset)) return ZR_OK;
    struct zr_queue *q = zs_queue_find(st, r->topic, r->queue_id);
    if (!q && rec->vouch && rec->clean && !has_queues(st, r->topic) && zs_vouch_gone(rec->vouch, r->topic)) return ZR_OK;
    if (!q) q = zs_queue(st, r->topic, r->queue_id, 1);
    if (!q) return ZR_ENOMEM;
    int64_t next = atomic_load(&q->next), least = zl_record_offsets(r) > 1 || atomic_load(&q->batch) ? 1 : LEAST_RECORD;
    uint32_t parted = next > r->queue_offset && next < r->queue_offset + zl_record_offsets(r) && r->physical_offset + r->size == q->end_phys;
    if (parted) return push_entries(rec, q, r, next); /* a batch of which some entries were written */
    if (next > 0 && r->physical_offset + r->size <= q->end_phys) { /* has its entry */
        if (rec->vouch) zs_vouch_meet(rec->vouch, q, r);
        return ZR_OK;
    }
    if (rec->anews) rc = anew_take(rec, q, r);
    if (rc != ZR_OK) return rc;
    next = atomic_load(&q->next);
    struct gap *gap = r->queue_offset < next ? gap_of(rec, q, r) : NULL;
    if (gap) return gap_take(rec, gap, r);
    if (r->queue_offset < next && q->end_phys == 0) { /* its files hold no entry; those before them, with this one's, are lost */
        rc = restart_queue(st, q, r->queue_offset, r->physical_offset);
        return rc == ZR_OK ? push_entries(rec, q, r, r->queue_offset) : rc;
    }
    if (r->queue_offset == 0 && next > 0) return anew_begin(rec, q, r);
    /* Every message takes at least LEAST_RECORD bytes of log: what claims to be further than that is damaged (no checksum
     * covers a header), and what claims an offset that is taken is a second history of its queue. */
    if (r->queue_offset < next || r->queue_offset - next > (r->physical_offset - q->end_phys) / least) {
        rec->n_conflicts++;
        return ZR_OK;
    }
    if (r->queue_offset > next) rc = fill_gap(rec, q, r);
    if (rc != ZR_OK) return rc;
    return push_entries(rec, q, r, r->queue_offset);
}

/* ---- where to begin reading ------------------------------------------------------------------------------------------------ */

/* Does a valid record begin at phys and end at end (or does a blank lead from there to end)? */
static uint32_t ends_at(struct recovery *rec, int64_t phys, int64_t end)
{
    struct zl_record r;
    if (phys < 0 || !zs_scan_one(rec->st, phys, &r)) return 0;
    int64_t stop = phys + r.size, size = rec->st->segs.size, base = zs_segs_first(rec->st);
    if (stop != end && ((end - base) % size != 0 || end <= stop || end - stop >= size)) return 0;
    rec->last_phys = phys;
    rec->last_ms = r.store_ms;
    return 1;
}

static uint32_t start_by_snapshot(struct recovery *rec)
{
    const struct zs_snapshot *s = &rec->snap;
    if (!rec->use_snap || s->pos < atomic_load(&rec->st->begin)) return 0;
    if (!ends_at(rec, s->last_phys, s->pos)) {
        if (!rec->st->lock_ours || (rec->clean && s->clean)) return 0;
        rec->last_phys = s->last_phys; /* that record is damaged; but what the queues had is the snapshot's word, so all behind it is read */
        rec->last_ms = s->last_ms;
    }
    rec->start = s->pos;
    return 1;
}

/* The end of the record that the farthest queue entry points to. */
static uint32_t start_by_queues(struct recovery *rec)
{
    uint64_t n;
    int64_t best = -1;
    struct zr_queue **list = zs_queues_list(rec->st, &n), *q = NULL;
    for (uint64_t i = 0; list && i < n; i++)
        if (atomic_load(&list[i]->next) > 0 && list[i]->end_phys > best) {
            q = list[i];
            best = q->end_phys;
        }
    free(list);
    uint8_t raw[ZS_ENTRY];
    struct zs_entry e;
    if (!q || zs_qfile_read(rec->st, q, atomic_load(&q->next) - 1, 1, raw) != 1) return 0;
    zs_entry_load(raw, &e);
    if (!zs_entry_real(&e) || e.phys + e.size != best || !ends_at(rec, e.phys, best)) return 0;
    rec->start = best;
    return 1;
}

/* The farthest end of a record that a queue knows of; 0: the queues are empty. */
static int64_t queues_reach(struct zr_inst *st)
{
    uint64_t n;
    int64_t reach = 0;
    struct zr_queue **list = zs_queues_list(st, &n);
    for (uint64_t i = 0; list && i < n; i++)
        if (atomic_load(&list[i]->next) > 0 && list[i]->end_phys > reach) reach = list[i]->end_phys;
    free(list);
    return reach;
}

static uint32_t start_by_checkpoint(struct recovery *rec)
{
    struct zl_record r;
    int64_t phys = rec->st->checkpoint.logics_phys;
    if (phys <= 0 || phys < atomic_load(&rec->st->begin) || !zs_scan_one(rec->st, phys, &r)) return 0;
    rec->start = phys;
    return 1;
}

/* The newest segment whose first record is valid and not newer than what the checkpoint's times cover (before: at least that). */
static void start_by_segments(struct recovery *rec, uint32_t any_time)
{
    struct zr_inst *st = rec->st;
    struct zl_record r;
    int64_t covered = st->checkpoint.physic_ms < st->checkpoint.logics_ms ? st->checkpoint.physic_ms : st->checkpoint.logics_ms;
    int64_t first = zs_segs_first(st);
    rec->start = first;
    for (int64_t base = zs_segs_last(st); base > first; base -= st->segs.size)
        if (zs_scan_one(st, base, &r) && (any_time || r.store_ms <= covered - 3000)) {
            rec->start = base;
            return;
        }
}

/* What the queues have is the snapshot's word: they are told all that came after it, also where it is no place to begin at. */
static void start_before_snapshot(struct recovery *rec)
{
    int64_t first = zs_segs_first(rec->st), size = rec->st->segs.size, pos = rec->snap.pos;
    if (!rec->use_snap || rec->start <= pos) return;
    rec->start = pos <= first ? first : first + (pos - first) / size * size;
}

/* Up to here all was on disk before the power can have failed. */
static int64_t written_whole(struct recovery *rec)
{
    int64_t pos = rec->st->checkpoint.logics_phys;
    return rec->use_snap && rec->snap.pos > pos ? rec->snap.pos : pos;
}

static void find_start(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    int64_t reach = queues_reach(st);
    rec->last_phys = -1;
    /* The word in lock is ours, so there was a snapshot: without it nobody knows whether a queue's files end where the queue did. */
    if (!rec->use_snap && (st->lock_ours || reach == 0 || zs_bcq_any(st) || (!rec->clean && reach <= st->checkpoint.logics_phys))) {
        zs_log(st, ZR_LOG_WARN, "%s: the whole log is read", reach ? "nothing vouches for the queues" : "queues are missing");
        rec->start = zs_segs_first(st);
        return;
    }
    if (rec->clean) {
        if (!start_by_snapshot(rec) && !start_by_queues(rec)) start_by_segments(rec, 1); /* another broker went on from there: vouch_start */
        return;
    }
    if (start_by_snapshot(rec)) return;
    if (!start_by_checkpoint(rec)) start_by_segments(rec, 0);
    start_before_snapshot(rec);
}

/* After a kill: queue entries of what is read again may have reached the disk in any order, later ones without earlier ones and
 * files without the files before them. They are given up, and made again from their records. */
static zr_status give_up_entries(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    uint64_t n;
    int64_t r = 0;
    struct zr_queue **list = zs_queues_list(st, &n);
    if (!list) return ZR_ENOMEM;
    for (uint64_t i = 0; i < n && r >= 0; i++) {
        struct zr_queue *q = list[i];
        if (q->end_phys <= rec->give_up || zs_queue_light(q)) continue; /* light queues cannot be made again */
        r = zs_queue_truncate(st, q, rec->give_up);
        if (r < 0 || q->end_phys > 0) continue;
        r = zs_qfile_cut(st, q, 0);
        zs_queue_reset(st, q, 0, 0);
    }
    free(list);
    return r < 0 ? zs_raise(st, zs_status_of(r), r, "a queue file cannot be cut: %s", zs_errno_text(r)) : ZR_OK;
}

/* ---- reading ----------------------------------------------------------------------------------------------------------------- */

/* A remain of an earlier life of the log that happens to stand right behind its end: older than what is before it, and its
 * queue had that offset already. That it is one only shows when nothing but such records follows: a header that was damaged, or
 * an offset that another broker gave twice while its clock went back, looks the same. */
static uint32_t is_stale(struct recovery *rec, const struct zl_record *r)
{
    if (rec->last_phys < 0 || r->store_ms >= rec->last_ms || !zs_has_entry(r->sys_flag)) return 0;
    struct zr_queue *q = zs_queue_find(rec->st, r->topic, r->queue_id);
    return q && r->queue_offset < atomic_load(&q->next) && r->physical_offset >= q->end_phys && !gap_of(rec, q, r);
}

static void report_damage(struct recovery *rec, int64_t from, int64_t to, const char *why)
{
    rec->n_damaged++;
    rec->damaged_bytes += to - from;
    zs_count(rec->st, ZS_M_DAMAGED, 1);
    zs_log(rec->st, ZR_LOG_ERROR, "the log is damaged from %lld to %lld (%lld bytes): %s; it is passed over, and all that is whole is kept",
           (long long)from, (long long)to, (long long)(to - from), why);
}

/* The snapshot was written when everything up to its position was on disk, and nobody else was here since. If whole records
 * end before that, what comes after them was damaged or lost, and its offsets are not given out again. A position whose
 * segment is gone: the log goes on in the next. */
static void keep_end(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    int64_t pos = rec->snap.pos, first = zs_segs_first(st), size = st->segs.size, last = zs_segs_last(st);
    if (!rec->use_snap || !st->lock_ours || pos <= rec->tail) return;
    if (pos > last + size) pos = first + (pos - first + size - 1) / size * size;
    report_damage(rec, rec->tail, pos, "no whole record up to where the log ended");
    rec->tail = pos;
}

/* What ends the log as damage may be records but for their property CRC: those stay, and their offsets are not given out again. */
static zr_status keep_unsealed(struct recovery *rec, int64_t from)
{
    struct zr_inst *st = rec->st;
    struct zs_scan s;
    struct zl_record r;
    zr_status rc = ZR_OK;
    int64_t end = -1;
    int what;
    zs_scan_open(&s, st, from, zs_segs_last(st) + st->segs.size, 1);
    s.lax = 1;
    while (rc == ZR_OK && (what = zs_scan_next(&s, &r)) != ZS_SCAN_END && what != ZS_SCAN_STOP) {
        if (what == ZS_SCAN_BAD && !zs_scan_resync(&s)) break;
        if (what == ZS_SCAN_BAD) continue;
        end = s.pos;
        struct zr_queue *q = zs_has_entry(r.sys_flag) ? zs_queue_find(st, r.topic, r.queue_id) : NULL;
        int64_t far = q ? (r.physical_offset - q->end_phys) / LEAST_RECORD : 0;
        if (!q || r.queue_offset < atomic_load(&q->next) || r.queue_offset - atomic_load(&q->next) > far) continue;
        r.queue_offset += zl_record_offsets(&r);
        rc = fill_gap(rec, q, &r);
    }
    zs_scan_close(&s);
    if (end < 0) return rc;
    report_damage(rec, from, end, "property CRCs are wrong");
    rec->tail = end;
    return rc;
}

static zr_status read_log(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    struct zs_scan s;
    struct zl_record r;
    zr_status rc = ZR_OK;
    int64_t stale_at = -1;
    uint64_t n_stale = 0;
    zs_scan_open(&s, st, rec->start, zs_segs_last(st) + st->segs.size, 1);
    for (;;) {
        int64_t at = s.pos;
        int what = zs_scan_next(&s, &r);
        rec->tail = s.pos;
        if (what == ZS_SCAN_STOP) rc = ZR_ENOMEM;
        if (what == ZS_SCAN_END || what == ZS_SCAN_STOP) break;
        if (what == ZS_SCAN_BAD && !s.seg && zs_seg_shut_out(st, s.pos)) { /* not damage: another day it can be read */
            rc = zs_raise(st, ZR_EIO, 0, "%s: the segment with position %lld cannot be opened (see the log)", st->log_dir, (long long)s.pos);
            break;
        }
        if (what == ZS_SCAN_BAD) {
            const char *why = s.why;
            int64_t from = s.pos;
            uint32_t more = zs_scan_resync(&s);
            if (s.shut) { /* nothing may be said of what is behind the damage either */
                rc = zs_raise(st, ZR_EIO, 0, "%s: a segment behind the damage at %lld cannot be opened (see the log)", st->log_dir, (long long)from);
                break;
            }
            if (!more && s.failed) { /* what cannot be read is not cut off */
                rc = zs_raise(st, ZR_EIO, 0, "%s: the log cannot be read from %lld on (%s)", st->log_dir, (long long)from, why);
                break;
            }
            if (!more) break;
            if (s.failed) rec->unread += s.pos - from;
            s.failed = 0;
            report_damage(rec, from, s.pos, why);
            continue;
        }
        if (is_stale(rec, &r)) { /* what follows will tell */
            if (n_stale++ == 0) stale_at = at;
            continue;
        }
        if (n_stale) zs_log(st, ZR_LOG_WARN, "%llu records from %lld on are older than those before them and have their offsets; the log goes on "
                            "behind them", (unsigned long long)n_stale, (long long)stale_at);
        rec->n_conflicts += n_stale;
        n_stale = 0;
        rc = dispatch(rec, &r);
        if (rc != ZR_OK) break;
        rec->n_records++;
        rec->last_phys = r.physical_offset;
        rec->last_ms = r.store_ms;
    }
    zs_scan_close(&s);
    if (rc == ZR_OK && !n_stale && st->conf.property_crc_check) rc = keep_unsealed(rec, rec->tail);
    if (rc == ZR_OK && n_stale) {
        zs_log(st, ZR_LOG_WARN, "remains of an older log from %lld on are not taken for messages", (long long)stale_at);
        rec->tail = stale_at;
    }
    return rc;
}

/* ---- cutting ------------------------------------------------------------------------------------------------------------------ */

/* Makes [tail, end of its segment) zero: by giving the file its end there, and then its full size again. */
static zr_status cut_segment(struct zr_inst *st, int64_t tail)
{
    uint32_t busy;
    int64_t nonzero = 0;
    struct zs_seg *seg = zs_seg_get(st, tail, 0, &busy);
    if (!seg && zs_seg_shut_out(st, tail))
        return zs_raise(st, ZR_EIO, 0, "%s: the segment with position %lld cannot be opened (see the log)", st->log_dir, (long long)tail);
    if (!seg) return ZR_OK;
    int64_t base = seg->base;
    int64_t r = zs_is_zero(st, seg->fd, tail - base, base + st->segs.size - tail, &nonzero);
    zs_seg_put(st, seg);
    if (r > 0) return ZR_OK;
    zs_seg_shut(st, tail); /* nothing maps it while it is short */
    char path[ZS_PATH];
    zs_seg_path(st, base, path);
    int64_t fd = r < 0 ? r : st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
    r = fd;
    if (fd >= 0) {
        struct zr_io_stat stat;
        r = st->io->fstat(st->io->ctx, (int32_t)fd, &stat);
        uint32_t longer = r >= 0 && stat.size > (uint64_t)st->segs.size; /* with bytes of nobody knows what, which stay (segment.c) */
        if (r >= 0 && longer) r = zs_zero(st, (int32_t)fd, tail - base, base + st->segs.size - tail);
        else if (r >= 0) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, tail - base);
        if (r >= 0 && !longer) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, st->segs.size);
        if (r >= 0) r = st->io->fdatasync(st->io->ctx, (int32_t)fd);
        st->io->close(st->io->ctx, (int32_t)fd);
    }
    if (r < 0) return zs_raise(st, zs_status_of(r), r, "%s cannot be cut at %lld: %s", path, (long long)tail, zs_errno_text(r));
    zs_log(st, ZR_LOG_WARN, "the log was cut at %lld: what followed (first at %lld) held no whole record", (long long)tail,
           (long long)(base + nonzero));
    return ZR_OK;
}

/* A packed segment is never written to and never deleted here: what is damaged in it may yet be mended by a person. A log
 * whose last file is one goes on in the next, whatever is at its end. */
static uint32_t is_packed(struct zr_inst *st, int64_t base)
{
    uint32_t busy, packed;
    struct zs_seg *seg = zs_seg_get(st, base, 0, &busy);
    packed = seg && seg->packed;
    if (seg) zs_seg_put(st, seg);
    return packed;
}

static void tail_leave_packed(struct recovery *rec)
{
    int64_t last = zs_segs_last(rec->st), end = last + rec->st->segs.size;
    if (last < 0 || rec->tail >= end || !is_packed(rec->st, last)) return;
    zs_log(rec->st, ZR_LOG_WARN, "the log ends at %lld, in a packed segment; it goes on at %lld", (long long)rec->tail, (long long)end);
    rec->tail = end;
}

/* The file that the log ends in is not there: it goes on in the next, so that no file begins in the middle of one. */
static void tail_leave_missing(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    int64_t into = rec->tail % st->segs.size;
    uint32_t busy;
    if (into == 0 || zs_seg_shut_out(st, rec->tail)) return;
    struct zs_seg *seg = zs_seg_get(st, rec->tail, 0, &busy);
    if (seg) {
        zs_seg_put(st, seg);
        return;
    }
    zs_log(st, ZR_LOG_WARN, "the log ends at %lld, in a segment that is missing; it goes on at %lld", (long long)rec->tail,
           (long long)(rec->tail - into + st->segs.size));
    rec->tail += st->segs.size - into;
}

static zr_status cut_log(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    for (int64_t last = zs_segs_last(st); last > rec->tail && !is_packed(st, last); last = zs_segs_last(st)) {
        zs_log(st, ZR_LOG_INFO, "segment %020lld holds no record and is deleted", (long long)last);
        zr_status rc = zs_seg_drop(st, 0);
        if (rc != ZR_OK) return rc;
    }
    tail_leave_packed(rec);
    tail_leave_missing(rec);
    return cut_segment(st, rec->tail);
}

static zr_status cut_queues(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    uint64_t n;
    int64_t r = drain(st);
    struct zr_queue **list = zs_queues_list(st, &n);
    if (!list) return ZR_ENOMEM;
    for (uint64_t i = 0; i < n && r >= 0; i++) {
        struct zr_queue *q = list[i];
        r = zs_queue_truncate(st, q, rec->tail);
        if (r >= 0 && !rec->clean && !rec->quick) r = zs_qfile_cut(st, q, atomic_load(&q->next)); /* torn entries behind its end */
    }
    free(list);
    return r < 0 ? zs_raise(st, zs_status_of(r), r, "a queue file cannot be cut: %s", zs_errno_text(r)) : ZR_OK;
}

/* Removals that the log has forgotten: what comes in their place is not covered by them. */
static zr_status cut_removals(struct recovery *rec)
{
    int64_t r = zs_removed_cut(rec->st, rec->tail);
    return r < 0 && r != -ENOSPC && r != -EDQUOT
               ? zs_raise(rec->st, zs_status_of(r), r, "%s/removed cannot be written: %s", rec->st->own_dir, zs_errno_text(r))
               : ZR_OK;
}

/* ---- all of it ------------------------------------------------------------------------------------------------------------------ */

/* Queues without a log: most likely the log's disk is not mounted. Going on would give every offset a second time. Unless nothing
 * was ever known to be on disk: then the power failed in the first moments of the store. */
static zr_status empty_log(struct recovery *rec, uint64_t found)
{
    uint64_t n, used = 0;
    const struct zs_checkpoint *c = &rec->st->checkpoint;
    if (!rec->clean && !(rec->snap.valid && rec->snap.pos > 0) && c->logics_phys == 0 && c->physic_ms == 0) return ZR_OK;
    struct zr_queue **list = zs_queues_list(rec->st, &n);
    for (uint64_t i = 0; list && i < n; i++) used += atomic_load(&list[i]->next) > 0;
    free(list);
    if (found && used)
        return zs_raise(rec->st, ZR_ECORRUPT, 0, "%s is empty, but %s holds %llu queues: is the log's disk mounted? (to begin anew, delete %s too)",
                        rec->st->log_dir, rec->st->queue_dir, (unsigned long long)used, rec->st->queue_dir);
    return ZR_OK;
}

/* A folder is not configured any more that has what is missing; or the log ended farther than its files reach, and one of its
 * folders is empty: that disk is not mounted. */
static zr_status missing_folder(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    const char *empty = zs_dir_empty(st);
    zr_status rc = zs_folders_look(st, &rec->snap);
    if (rc != ZR_OK) return rc;
    if (!empty || !rec->snap.valid || rec->snap.pos <= zs_segs_last(st) + st->segs.size) return ZR_OK;
    return zs_raise(st, ZR_ECORRUPT, 0, "the log ended at %lld, but its files reach to %lld only, and %s is empty: is that disk mounted?",
                    (long long)rec->snap.pos, (long long)(zs_segs_last(st) + st->segs.size), empty);
}

static void choose_snapshot(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    int64_t last = zs_segs_last(st);
    /* One that is farther than the files: the last ones are gone, if nobody but us was here (keep_end). */
    int64_t reach = last + st->segs.size + (st->lock_ours ? LOST_SEGMENTS * st->segs.size : 0);
    rec->use_snap = rec->snap.valid && last >= 0 && rec->snap.pos <= reach &&
                    st->checkpoint.logics_phys - rec->snap.pos < SNAPSHOT_REACH;
}

static void report(struct recovery *rec, int64_t began_ns)
{
    struct zr_inst *st = rec->st;
    zs_log(st, ZR_LOG_INFO,
           "the log goes from %lld to %lld, %s; %llu queues; read from %lld: %llu records, %llu entries made; %lld ms",
           (long long)atomic_load(&st->begin), (long long)rec->tail, rec->clean ? "closed cleanly" : "not closed cleanly",
           (unsigned long long)st->n_queues, (long long)rec->start, (unsigned long long)rec->n_records,
           (unsigned long long)rec->n_entries, (long long)((zs_mono(st) - began_ns) / 1000000));
    if (rec->vouch)
        zs_log(st, ZR_LOG_INFO, "another broker had the store: its queues were held against the log from %lld on: %llu entries, of which %llu "
               "are missing; %llu topics were deleted; they vouch for all up to %lld", (long long)rec->vouch->from, (unsigned long long)rec->vouch->n_entries,
               (unsigned long long)rec->vouch->n_holes, (unsigned long long)rec->vouch->n_gone, (long long)rec->start);
    if (rec->vouch && rec->clean && rec->n_entries)
        zs_log(st, ZR_LOG_WARN, "its queues lacked %llu entries of whole messages, which were made anew", (unsigned long long)rec->n_entries);
    if (rec->n_damaged)
        zs_log(st, ZR_LOG_ERROR, "%llu damaged places with %lld bytes were skipped", (unsigned long long)rec->n_damaged,
               (long long)rec->damaged_bytes);
    if (rec->n_conflicts)
        zs_log(st, ZR_LOG_WARN, "%llu records have a queue offset that was given to another message before; they are in the log only",
               (unsigned long long)rec->n_conflicts);
}

/* That `abort` is missing proves nothing by itself: anybody can delete it. Our own last word on the log does. */
static uint32_t is_flushed(const struct recovery *rec)
{
    return rec->clean && rec->snap.valid && rec->snap.clean && rec->snap.pos == rec->tail;
}

/* What a killed process wrote may still be in the page cache alone, the names of its files too: they are synced before anything
 * counts as flushed. Under sync flush the bytes also, for consumers see only what is flushed. */
static zr_status flush_read(struct recovery *rec)
{
    int64_t r = zs_dirs_sync(rec->st);
    if (r >= 0 && (rec->st->conf.sync || rec->vouch)) /* of another broker's log a snapshot is made at once (store.c) */
        r = zs_flush_range(rec->st, rec->start, rec->tail);
    return r < 0 ? zs_raise(rec->st, ZR_EIO, r, "the log cannot be made durable: %s", zs_errno_text(r)) : ZR_OK;
}

static zr_status set_positions(struct recovery *rec)
{
    struct zr_inst *st = rec->st;
    uint32_t busy;
    uint64_t n;
    int64_t last = zs_segs_last(st);
    atomic_store(&st->end, rec->tail);
    atomic_store(&st->boot_end, rec->tail);
    atomic_store(&st->flushed, is_flushed(rec) || st->conf.sync || rec->vouch ? rec->tail : (rec->start < rec->tail ? rec->start : rec->tail));
    st->last_phys = rec->last_phys;
    atomic_store(&st->last_ms, rec->last_phys >= 0 ? rec->last_ms : 0);
    st->flushed_ms = st->checkpoint.physic_ms;
    st->saved_pos = rec->clean && rec->snap.valid && rec->snap.pos == rec->tail ? rec->tail : -1;
    uint32_t beyond = last >= 0 && rec->tail > last + st->segs.size; /* the next segment is not there yet */
    st->active = last >= 0 && !beyond ? zs_seg_get(st, last, 0, &busy) : NULL;
    struct zr_queue **list = zs_queues_list(st, &n);
    for (uint64_t i = 0; list && i < n; i++) {
        struct zr_queue *q = list[i];
        q->assign = q->visible = atomic_load(&q->next);
    }
    free(list);
    return last < 0 || beyond || st->active
               ? ZR_OK
               : zs_raise(st, ZR_EIO, 0, "%s: the newest segment %020lld cannot be opened (see the log)", st->log_dir, (long long)last);
}

/* Another broker had the store: its queues are held against the log, from where the snapshot says nothing. */
static zr_status vouch_begin(struct recovery *rec, struct zs_vouch *vouch)
{
    int64_t from = start_by_snapshot(rec) ? rec->start : zs_segs_first(rec->st);
    zr_status rc = zs_vouch_open(vouch, rec->st, from);
    if (rc == ZR_OK) rec->vouch = vouch;
    if (rc == ZR_OK && rec->use_snap) zs_removed_cap(rec->st, vouch, rec->snap.pos);
    return rc;
}

/* What they do not vouch for is read; after a kill, at least what was not on disk yet. */
static void vouch_start(struct recovery *rec)
{
    struct zs_vouch *v = rec->vouch;
    int64_t last, ms = 0, reach = zs_vouch_reach(v, &last, &ms);
    if (!rec->clean && reach >= rec->start) return;
    rec->start = reach;
    rec->last_phys = last;
    rec->last_ms = ms;
    if (last < 0 && rec->use_snap && v->from == rec->snap.pos) ends_at(rec, rec->snap.last_phys, rec->snap.pos);
}

static zr_status load_queues(struct recovery *rec, uint64_t *found)
{
    struct zr_inst *st = rec->st;
    zr_status rc = ZR_OK;
    if (rec->use_snap && (rec->clean ? rec->snap.clean : zs_abort_same_life(st)))
        rec->quick = zs_queues_load_quick(st, &rec->snap, found, &rc);
    return rec->quick ? rc : zs_queues_load(st, rec->use_snap ? &rec->snap : NULL, rec->clean, rec->vouch, found);
}

zr_status zs_recover(struct zr_inst *st)
{
    struct recovery rec = { .st = st, .clean = !zs_abort_there(st), .last_phys = -1 };
    struct zs_vouch vouch;
    int64_t began = zs_mono(st);
    uint64_t found = 0;
    st->recovering = 1;
    zs_snapshot_load(st, &rec.snap);
    zr_status rc = zs_segs_load(st, rec.snap.segment_size);
    int64_t first = rc == ZR_OK ? zs_segs_first(st) : -1;
    atomic_store(&st->begin, first < 0 ? 0 : first);
    if (rc == ZR_OK) choose_snapshot(&rec);
    if (rc == ZR_OK) rc = zs_bcq_load(st);
    if (rc == ZR_OK) rc = zs_removed_load(st);
    if (rc == ZR_OK) zs_ext_load(st);
    if (rc == ZR_OK && !st->lock_ours && first >= 0) rc = vouch_begin(&rec, &vouch);
    if (rc == ZR_OK) rc = load_queues(&rec, &found);
    if (rc == ZR_OK && first < 0) rc = empty_log(&rec, found);
    if (rc == ZR_OK && first >= 0) rc = missing_folder(&rec);
    if (rc == ZR_OK && first < 0) rc = give_up_entries(&rec);
    if (rc == ZR_OK && first >= 0) {
        find_start(&rec);
        rec.give_up = rec.start;
        if (rec.vouch) vouch_start(&rec);
        st->doubt = rec.clean ? INT64_MAX : written_whole(&rec);
        if (!rec.clean) rc = give_up_entries(&rec);
        if (rc == ZR_OK) rc = read_log(&rec);
        if (rc == ZR_OK && rec.vouch) rc = zs_vouch_finish(rec.vouch);
        if (rc == ZR_OK) keep_end(&rec);
        if (rc == ZR_OK) rc = cut_log(&rec);
        if (rc == ZR_OK) rc = cut_queues(&rec);
        if (rc == ZR_OK && !is_flushed(&rec)) rc = flush_read(&rec);
    }
    if (rc == ZR_OK) rc = cut_removals(&rec);
    if (rc == ZR_OK) {
        if (rec.quick) zs_remove_finish(st);
        rc = set_positions(&rec);
        if (first >= 0) report(&rec, began);
        if (rc == ZR_OK && st->conf.index) rc = zs_index_open(st, &rec.snap, rec.clean);
    }
    free(rec.anews);
    if (rec.vouch) zs_vouch_close(rec.vouch);
    zs_snapshot_free(&rec.snap);
    zs_queues_sweep(st, 1);
    st->recovering = 0;
    return rc;
}

/* ---- healing: queue entries that were lost, made anew from the log ----------------------------------------------------------- */

struct heal {
    struct zr_inst *st;
    struct zr_queue *q;
    int64_t from, to;           /* offsets to fill, [from, to) */
    int64_t phys_from, phys_to; /* where their records can be */
    uint8_t *raw;               /* new entries */
    uint64_t n_found;
};

/* Is this place in a part of the log that is known to hold no record? */
static int64_t dead_until(const struct zr_inst *st, int64_t phys)
{
    for (uint32_t i = 0; i < ZS_HEAL_DEAD; i++)
        if (phys >= st->heal_dead[i].from && phys < st->heal_dead[i].to) return st->heal_dead[i].to;
    return -1;
}

/* No record begins at phys: how far is that so? It is read once, to the segment's end at most, and remembered; what is behind the
 * log's end, or could not be read, is not. */
static void dead_look(struct zr_inst *st, int64_t phys)
{
    struct zs_scan s;
    int64_t first = zs_segs_first(st), end = zs_visible(st), to;
    if (first < 0 || phys < first || phys >= end) return;
    to = first + ((phys - first) / st->segs.size + 1) * st->segs.size;
    if (to > end) to = end;
    zs_scan_open(&s, st, phys, to, 1);
    if (zs_scan_resync(&s)) to = s.pos;
    uint32_t sure = !s.failed && !s.shut;
    zs_scan_close(&s);
    if (!sure || to - phys < DEAD_LEAST) return;
    st->heal_dead[st->heal_dead_next].from = phys;
    st->heal_dead[st->heal_dead_next].to = to;
    st->heal_dead_next = (st->heal_dead_next + 1) % ZS_HEAL_DEAD;
}

/* Is there an entry, and is its record the queue's message of that offset? */
static uint32_t true_entry(struct zr_inst *st, struct zr_queue *q, int64_t offset, struct zs_entry *ret)
{
    uint8_t raw[ZS_ENTRY];
    struct zl_record r;
    if (zs_queue_copy(st, q, offset, 1, raw, 0) != 1) return 0;
    zs_entry_load(raw, ret);
    if (ret->size == ZS_FILLER || (zs_entry_real(ret) && zs_queue_light(q))) return 1;
    if (!zs_entry_real(ret) || dead_until(st, ret->phys) >= 0) return 0;
    if (!zs_scan_one_of(st, ret->phys, (struct zr_str){ q->topic, q->topic_len }, &r)) {
        if (!zs_scan_one(st, ret->phys, &r)) dead_look(st, ret->phys);
        return 0;
    }
    if ((int32_t)r.size != ret->size || r.queue_id != q->id) return 0;
    return offset >= r.queue_offset && offset < r.queue_offset + (r.sys_flag & ZR_SYSFLAG_INNER_BATCH ? 32767 : 1);
}

/* The record of the nearest true entry from `at` on, in steps of dir: of the near ones each is asked, then ever fewer. */
static uint32_t neighbour(struct heal *h, int64_t at, int64_t min, int64_t next, int64_t dir, struct zs_entry *ret)
{
    for (int64_t n = 0, step = dir; at >= min && at < next; at += step) {
        if (true_entry(h->st, h->q, at, ret) && zs_entry_real(ret)) return 1;
        if (++n > HEAL_NEAR) step *= 2;
    }
    return 0;
}

/* The lost and the wrong entries around offset, and the part of the log between the records of their neighbours. */
static void heal_range(struct heal *h, int64_t offset, int64_t min, int64_t next)
{
    struct zs_entry e;
    h->from = offset;
    h->to = offset + 1;
    h->phys_from = atomic_load(&h->st->begin);
    h->phys_to = zs_visible(h->st);
    while (h->from > min && h->to - h->from < HEAL_MAX && !true_entry(h->st, h->q, h->from - 1, &e)) h->from--;
    while (h->to < next && h->to - h->from < HEAL_MAX && !true_entry(h->st, h->q, h->to, &e)) h->to++;
    if (neighbour(h, h->from - 1, min, next, -1, &e) && e.phys + e.size > h->phys_from) h->phys_from = e.phys + e.size;
    if (neighbour(h, h->to, min, next, 1, &e) && e.phys < h->phys_to) h->phys_to = e.phys;
}

/* What there is of them: those that lead nowhere stay as they are, unless their record is found. */
static void heal_begin(struct heal *h)
{
    const struct zs_entry filler = { .phys = 0, .size = ZS_FILLER, .tags = 0 };
    for (int64_t at = h->from; at < h->to; at++) {
        uint8_t *to = h->raw + (uint64_t)(at - h->from) * ZS_ENTRY;
        struct zs_entry e = { .size = 0 };
        if (zs_queue_copy(h->st, h->q, at, 1, to, 0) == 1) zs_entry_load(to, &e);
        if (e.size <= 0) zs_entry_store(to, &filler);
    }
}

/* Was this part of the queue looked for before? Then its records are damaged, and not its entries. */
static uint32_t heal_known(struct zr_inst *st, const struct zr_queue *q, int64_t offset)
{
    for (uint32_t i = 0; i < ZS_HEAL_KNOWN; i++)
        if (st->heal_known[i].q == q && offset >= st->heal_known[i].from && offset < st->heal_known[i].to) return 1;
    return 0;
}

static void heal_know(struct zr_inst *st, const struct zr_queue *q, int64_t from, int64_t to)
{
    st->heal_known[st->heal_next].q = q;
    st->heal_known[st->heal_next].from = from;
    st->heal_known[st->heal_next].to = to;
    st->heal_next = (st->heal_next + 1) % ZS_HEAL_KNOWN;
}

/* Finds the records in the log. 0: it was not read to the end, and nothing may be said of what was not found. */
static uint32_t heal_scan(struct heal *h)
{
    struct zs_scan s;
    struct zl_record r;
    struct zr_str topic = { h->q->topic, h->q->topic_len };
    int what;
    zs_scan_open(&s, h->st, h->phys_from, h->phys_to, 1);
    while ((what = zs_scan_next(&s, &r)) != ZS_SCAN_END && what != ZS_SCAN_STOP && h->n_found < (uint64_t)(h->to - h->from)) {
        if (what == ZS_SCAN_BAD && s.shut) break;
        if (what == ZS_SCAN_BAD) {
            int64_t bad = s.pos, dead = dead_until(h->st, bad);
            const char *why = s.why;
            if (dead >= 0 && dead < h->phys_to) { /* that was looked at already */
                s.pos = dead;
                continue;
            }
            uint32_t more = dead < 0 && zs_scan_resync(&s);
            zs_log(h->st, ZR_LOG_ERROR, "the log is damaged from %lld to %lld: %s", (long long)bad, (long long)(more ? s.pos : h->phys_to), why);
            if (!more) {
                what = ZS_SCAN_END;
                break;
            }
            continue;
        }
        int64_t behind = r.queue_offset + zl_record_offsets(&r);
        if (r.queue_id != h->q->id || behind <= h->from || r.queue_offset >= h->to || !zs_has_entry(r.sys_flag)) continue;
        if (!zl_eq(r.topic, topic) || zs_removed_covers(h->st, r.topic, r.physical_offset)) continue;
        struct zs_entry e = { .phys = r.physical_offset, .size = (int32_t)r.size, .tags = zs_tags_of(h->st, &r) };
        for (int64_t o = r.queue_offset < h->from ? h->from : r.queue_offset; o < behind && o < h->to; o++, h->n_found++)
            zs_entry_store(h->raw + (uint64_t)(o - h->from) * ZS_ENTRY, &e);
    }
    zs_scan_close(&s);
    return (what == ZS_SCAN_END && !s.shut && !s.failed) || h->n_found == (uint64_t)(h->to - h->from);
}

int zs_heal(struct zr_inst *st, struct zr_queue *q, int64_t offset)
{
    struct heal h = { .st = st, .q = q };
    struct zs_entry e;
    uint32_t done = 0, settled, dead = 0;
    pthread_mutex_lock(&st->heal_lock);
    int64_t min = atomic_load(&q->min), next = atomic_load(&q->next);
    settled = true_entry(st, q, offset, &e); /* somebody else was quicker */
    if (settled || heal_known(st, q, offset)) {
        pthread_mutex_unlock(&st->heal_lock);
        return (int)settled;
    }
    heal_range(&h, offset, min, next);
    uint64_t n = (uint64_t)(h.to - h.from);
    h.raw = malloc(n * ZS_ENTRY);
    if (h.raw) heal_begin(&h);
    if (h.raw && heal_scan(&h)) {
        pthread_mutex_lock(&st->drain_lock);
        dead = atomic_load(&q->dead);
        int64_t r = dead || h.to > q->persisted ? -EAGAIN : zs_qfile_write(st, q, h.from, (uint32_t)n, h.raw);
        if (r >= 0) r = zs_qfile_sync(st, q, h.from, h.to);
        pthread_mutex_unlock(&st->drain_lock);
        done = r >= 0;
        if (done && h.n_found < n) heal_know(st, q, h.from, h.to);
    }
    free(h.raw);
    pthread_mutex_unlock(&st->heal_lock);
    zs_log(st, done ? ZR_LOG_WARN : ZR_LOG_ERROR, "queue %s %d: entries %lld to %lld were lost or wrong; %llu of %llu found again in the log%s",
           q->topic, q->id, (long long)h.from, (long long)h.to, (unsigned long long)h.n_found, (unsigned long long)n,
           done ? "" : ", but not stored");
    if (done) zs_count(st, ZS_M_HEALED, (int64_t)h.n_found);
    return done ? 1 : dead ? 0 : -1;
}
