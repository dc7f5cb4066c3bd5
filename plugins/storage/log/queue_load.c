/* SPDX-License-Identifier: Apache-2.0 */
/* queue_load.c - what a start finds in the queue folder, and what it makes of it.
 *
 * A queue's end is where its last file's entries end. The snapshot, when there is one, knows better in two cases:
 *   - after a kill, entries behind the snapshot's may be torn: they are given up here, and made again from the log, which the
 *     recovery reads from the snapshot's position on;
 *   - when files lost entries (zeroed, cut, deleted), the queue keeps the bounds that the snapshot knew, so that no offset is
 *     given twice; reading makes the missing entries anew from the log (zs_heal).
 * When the files hold more than a snapshot of a clean stop, another broker has written here since: then the files are right.
 *
 * When nobody but Zarya had the store since a snapshot, and no page of it can have been lost (a clean stop, or a kill within
 * the same boot), the snapshot is all that is needed: no file is looked at, however many queues there are. What is wrong with
 * a file then shows when it is read, and is mended there. When another broker had it, every entry that the snapshot does not know
 * is looked at (vouch.h).
 *
 * Runs alone, before any thread of the store. */
#include "bcq.h"
#include "vouch.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define CHUNK_ENTRIES 256u
#define MAX_NAMES (256ull << 20)

struct found_queue {
    uint64_t topic_at; /* in names */
    int64_t first, last, step; /* bases of files; least distance of two */
    uint64_t n_files, last_size, odd;
    int32_t id;
    uint32_t reserved;
};
struct walk {
    struct zr_inst *st;
    struct zl_buf names; /* NUL-ended topic names, one behind the other */
    struct found_queue *at;
    uint64_t n, cap;
    char path[ZS_PATH];
    char root[ZS_PATH]; /* consumequeue, or where queues of batches are kept */
    uint32_t batch;
    zr_status rc;
};

/* ---- walking the folders --------------------------------------------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

struct file_list {
    struct zr_inst *st;
    const char *folder;
    int64_t *base;
    uint64_t n, cap;
};

static int32_t file_name(void *ctx, const char *name)
{
    struct file_list *l = ctx;
    int64_t base;
    if (!zs_name_offset(name, &base)) {
        zs_log(l->st, ZR_LOG_WARN, "%s/%s is no queue file and is left alone", l->folder, name);
        return 0;
    }
    if (l->n == l->cap) {
        uint64_t cap = l->cap ? l->cap * 2 : 16;
        int64_t *at = realloc(l->base, cap * sizeof *at);
        if (!at) return 1;
        l->base = at;
        l->cap = cap;
    }
    l->base[l->n++] = base;
    return 0;
}

static void look_at_files(struct walk *w, struct found_queue *f)
{
    struct file_list l = { .st = w->st, .folder = w->path };
    char path[ZS_PATH + 32];
    int64_t r = w->st->io->list(w->st->io->ctx, w->path, file_name, &l);
    if (r < 0 || r > 0) w->rc = r > 0 ? ZR_ENOMEM : zs_raise(w->st, zs_status_of(r), r, "%s cannot be read: %s", w->path, zs_errno_text(r));
    if (l.n) qsort(l.base, l.n, sizeof *l.base, by_value);
    f->n_files = l.n;
    f->step = INT64_MAX;
    for (uint64_t i = 0; i < l.n && w->rc == ZR_OK; i++) {
        struct zr_io_stat stat;
        snprintf(path, sizeof path, "%s/%020lld", w->path, (long long)l.base[i]);
        r = w->st->io->stat(w->st->io->ctx, path, &stat);
        if (r < 0) w->rc = zs_raise(w->st, zs_status_of(r), r, "%s cannot be looked at: %s", path, zs_errno_text(r));
        if (i == 0) f->first = l.base[i];
        if (i && l.base[i] - l.base[i - 1] < f->step) f->step = l.base[i] - l.base[i - 1];
        if (i && stat.size != f->last_size) f->odd = 1;
        f->last = l.base[i];
        f->last_size = stat.size;
    }
    free(l.base);
}

static int32_t queue_name(void *ctx, const char *name)
{
    struct walk *w = ctx;
    int32_t id;
    if (zl_parse_i32(zl_str(name), &id) != ZR_OK || id < 0 || (name[0] == '0' && name[1])) return 0; /* or some other name that is a number */
    if (w->n == w->cap) {
        uint64_t cap = w->cap ? w->cap * 2 : 256;
        struct found_queue *at = realloc(w->at, cap * sizeof *at);
        if (!at) {
            w->rc = ZR_ENOMEM;
            return 1;
        }
        w->at = at;
        w->cap = cap;
    }
    w->at[w->n++] = (struct found_queue){ .id = id };
    return 0;
}

static int32_t topic_name(void *ctx, const char *name)
{
    struct walk *w = ctx;
    if (zs_queue_name_ok(zl_str(name)) == ZR_OK) zl_buf_add(&w->names, name, strlen(name) + 1);
    return w->names.failed;
}

static void walk_topic(struct walk *w, uint64_t topic_at)
{
    const char *topic = (const char *)w->names.ptr + topic_at;
    uint64_t first = w->n;
    if (zs_bcq_is(w->st, zl_str(topic)) != w->batch) {
        if (!w->batch)
            zs_log(w->st, ZR_LOG_WARN, "%s/%s is not used: batchconsumequeue has a folder of that topic too", w->root, topic);
        return;
    }
    if (!zs_path(w->path, "%s/%s", w->root, topic)) return;
    int64_t r = w->st->io->list(w->st->io->ctx, w->path, queue_name, w);
    if (r == -ENOTDIR) return; /* some file; none of ours */
    if (r < 0) w->rc = zs_raise(w->st, zs_status_of(r), r, "%s cannot be read: %s", w->path, zs_errno_text(r));
    for (uint64_t i = first; i < w->n && w->rc == ZR_OK; i++) {
        w->at[i].topic_at = topic_at;
        if (zs_path(w->path, "%s/%s/%d", w->root, topic, w->at[i].id)) look_at_files(w, &w->at[i]);
    }
}

static void walk_root(struct walk *w, uint32_t batch)
{
    uint64_t from = w->names.len;
    w->batch = batch;
    if (batch ? !zs_bcq_own_root(w->st, w->root) : !zs_path(w->root, "%s", w->st->queue_dir)) return;
    int64_t r = w->st->io->list(w->st->io->ctx, w->root, topic_name, w);
    if (batch && r == -ENOENT) return;
    if (w->names.failed) w->rc = ZR_ENOMEM;
    else if (r < 0) w->rc = zs_raise(w->st, zs_status_of(r), r, "%s cannot be read: %s", w->root, zs_errno_text(r));
    for (uint64_t at = from; at < w->names.len && w->rc == ZR_OK; at += strlen((char *)w->names.ptr + at) + 1) walk_topic(w, at);
}

static void walk_all(struct walk *w)
{
    zl_buf_init(&w->names, MAX_NAMES);
    walk_root(w, 0);
    if (w->rc == ZR_OK && zs_bcq_any(w->st)) walk_root(w, 1);
}

/* The file size that these queues were made with. */
static void choose_size(struct walk *w)
{
    int64_t conf = w->st->conf.queue_file_size, step = INT64_MAX;
    uint64_t same = 0, size = 0, fits = 1;
    for (uint64_t i = 0; i < w->n; i++) {
        struct found_queue *f = &w->at[i];
        if (f->n_files == 0) continue;
        if (f->last_size == (uint64_t)conf) return;
        if (f->first % conf || f->last % conf) fits = 0;
        if (f->step < step) step = f->step;
        if (f->last_size && f->last_size != size && same) same = UINT64_MAX / 2; /* they differ */
        else if (f->last_size) same++;
        size = f->last_size;
    }
    if (step != INT64_MAX && step % ZS_ENTRY == 0 && (!fits || step < conf)) conf = step;
    else if (step == INT64_MAX && same >= 2 && same < UINT64_MAX / 2 && size % ZS_ENTRY == 0) conf = (int64_t)size;
    if (conf == w->st->conf.queue_file_size) return;
    zs_log(w->st, ZR_LOG_WARN, "queue_file_size is %lld in the configuration; the queues were made with %lld, which is kept",
           (long long)w->st->conf.queue_file_size, (long long)conf);
    w->st->conf.queue_file_size = conf;
}

/* ---- one queue ------------------------------------------------------------------------------------------------------------- */

/* An entry that the disk did not give is none, and *error says so: no bound is taken from what was found beside it. */
static uint32_t entry_at(struct zr_inst *st, struct zr_queue *q, int64_t offset, struct zs_entry *ret, int64_t *error)
{
    uint8_t raw[ZS_ENTRY];
    int64_t n = offset < 0 ? 0 : zs_qfile_read(st, q, offset, 1, raw);
    if (n < 0) *error = n;
    if (n != 1) return 0;
    zs_entry_load(raw, ret);
    return 1;
}

/* A file of the wrong length is given the right one; the entries that are lost by it, also the one that the cut went through, are
 * zero then. */
static void mend_length(struct zr_inst *st, struct zr_queue *q, int64_t no)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    zs_qfile_path(st, q, no, path);
    if (st->io->stat(st->io->ctx, path, &stat) < 0 || stat.size == (uint64_t)st->conf.queue_file_size) return;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
    int64_t r = fd;
    if (fd >= 0) {
        int64_t whole = (int64_t)(stat.size / ZS_ENTRY * ZS_ENTRY);
        r = whole < st->conf.queue_file_size ? st->io->ftruncate(st->io->ctx, (int32_t)fd, whole) : 0;
        if (r >= 0) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, st->conf.queue_file_size);
        st->io->close(st->io->ctx, (int32_t)fd);
    }
    zs_log(st, ZR_LOG_WARN, "%s had %llu bytes instead of %lld: %s", path, (unsigned long long)stat.size,
           (long long)st->conf.queue_file_size, r < 0 ? zs_errno_text(r) : "given its full length");
}

/* The end of the entries in file no, by halving: entries come first, zeroes last. */
static int64_t end_in_file(struct zr_inst *st, struct zr_queue *q, int64_t no, int64_t *error)
{
    int64_t per = st->conf.queue_file_size / ZS_ENTRY, lo = no * per, hi = lo + per;
    while (lo < hi) {
        struct zs_entry e;
        int64_t mid = lo + (hi - lo) / 2;
        if (entry_at(st, q, mid, &e, error) && e.phys >= 0 && e.size > 0) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static void end_on_disk(struct zr_inst *st, struct zr_queue *q, int64_t *ret_next, int64_t *ret_end, int64_t *error)
{
    int64_t per = st->conf.queue_file_size / ZS_ENTRY;
    struct zs_entry e;
    *ret_next = *ret_end = 0;
    if (q->first_file == ZS_NONE) return;
    int64_t no = q->last_file, next = end_in_file(st, q, no, error);
    while (next == no * per && no > q->first_file) next = end_in_file(st, q, --no, error);
    *ret_next = next;
    for (int64_t at = next - 1; at >= q->first_file * per && entry_at(st, q, at, &e, error); at--)
        if (zs_entry_real(&e)) { /* filler may be last, if the records behind it were cut */
            *ret_end = e.phys + e.size;
            return;
        }
}

static const struct zs_hint *hint_of(const struct zs_snapshot *snap, const struct zs_hint *const *table, uint64_t mask,
                                     const struct zr_queue *q)
{
    if (!snap) return NULL;
    struct zr_str topic = { q->topic, q->topic_len };
    for (uint64_t i = q->hash & mask; table[i]; i = (i + 1) & mask)
        if (table[i]->id == q->id && zl_eq(table[i]->topic, topic)) return table[i];
    return NULL;
}

/* Takes the bounds from the hint, because the files know less than it: damage. */
static void trust_hint(struct zr_inst *st, struct zr_queue *q, const struct zs_snapshot *snap, const struct zs_hint *h,
                       int64_t on_disk)
{
    zs_log(st, ZR_LOG_WARN, "queue %s %d: the files hold entries up to %lld, but it had %lld: missing ones are made anew when read",
           q->topic, q->id, (long long)on_disk, (long long)h->next);
    zs_queue_reset(st, q, h->next, h->end_phys);
    atomic_store(&q->min, h->min);
    if (snap->begin == atomic_load(&st->begin)) atomic_store(&q->min_begin, snap->begin);
}

/* Is the entry at this offset that of a whole record of the queue? What noise says of the queue's end is no word against the snapshot. */
static uint32_t is_last(struct zr_inst *st, struct zr_queue *q, int64_t offset, int64_t *error)
{
    struct zs_entry e;
    struct zl_record r;
    if (!entry_at(st, q, offset, &e, error) || !zs_entry_real(&e) || !zs_scan_one(st, e.phys, &r)) return 0;
    return (int32_t)r.size == e.size && (zs_queue_light(q) || (r.queue_id == q->id && r.queue_offset <= offset));
}

/* A file that cannot be read may be whole: the start is refused, for offsets that were given would be given again. */
static zr_status settle(struct zr_inst *st, struct zr_queue *q, const struct zs_snapshot *snap, const struct zs_hint *h, uint32_t clean,
                        int64_t *ret_known)
{
    int64_t per = st->conf.queue_file_size / ZS_ENTRY, next = 0, end = 0, error = 0;
    int64_t first = q->first_file == ZS_NONE ? 0 : q->first_file * per;
    struct zs_entry last, beyond;
    uint32_t same = h && h->next > 0 && entry_at(st, q, h->next - 1, &last, &error) &&
                    (last.size == ZS_FILLER || last.phys + last.size == h->end_phys);
    *ret_known = same ? h->next : 0;
    uint32_t ends = same && (!clean || !entry_at(st, q, h->next, &beyond, &error) || beyond.size <= 0);
    if (!ends) end_on_disk(st, q, &next, &end, &error);
    uint32_t less = !ends && h && !same && h->next > next && (h->end_phys >= end || !is_last(st, q, next - 1, &error));
    if (error) return zs_raise(st, zs_status_of(error), error, "the files of queue %s %d cannot be read: %s", q->topic, q->id, zs_errno_text(error));
    if (less) {
        trust_hint(st, q, snap, h, next);
        return ZR_OK;
    }
    uint32_t hurt = !ends && h && !same && !clean && st->lock_ours && h->next > 0 && next >= h->next && !is_last(st, q, h->next - 1, &error);
    if (error) return zs_raise(st, zs_status_of(error), error, "the files of queue %s %d cannot be read: %s", q->topic, q->id, zs_errno_text(error));
    if (hurt) { /* else it would be cut off with those behind it, which the log tells, and it is not behind the position that is begun at */
        zs_log(st, ZR_LOG_WARN, "queue %s %d: the entry at %lld is damaged: made anew when read", q->topic, q->id, (long long)h->next - 1);
        ends = 1;
    }
    zs_queue_reset(st, q, ends ? h->next : next, ends ? h->end_phys : end);
    if (h && first > h->min && snap->begin == atomic_load(&st->begin)) { /* its first files are gone, not retired */
        zs_log(st, ZR_LOG_WARN, "queue %s %d: entries from %lld to %lld are missing: made anew when read", q->topic, q->id,
               (long long)h->min, (long long)first);
        first = h->min;
    }
    if (h && same && snap->begin == atomic_load(&st->begin) && h->min >= first) first = h->min;
    if (first > atomic_load(&q->next)) first = atomic_load(&q->next);
    atomic_store(&q->min, first);
    if (h && first == h->min && snap->begin == atomic_load(&st->begin)) atomic_store(&q->min_begin, snap->begin);
    return ZR_OK;
}

/* The topic was removed, but the process ended before its files were. */
void zs_queue_drop_removed(struct zr_inst *st, struct zr_queue *q)
{
    if (atomic_load(&q->next) == 0 || !zs_removed_covers(st, (struct zr_str){ q->topic, q->topic_len }, q->end_phys - 1)) return;
    zs_log(st, ZR_LOG_INFO, "queue %s %d belongs to a topic that was removed: deleted now", q->topic, q->id);
    zs_qfiles_remove(st, q);
    zs_queue_reset(st, q, 0, 0);
    atomic_store(&q->min, 0);
}

static const struct zs_hint **hint_table(const struct zs_snapshot *snap, uint64_t *ret_mask)
{
    uint64_t cap = 16;
    while (cap < snap->n * 2) cap *= 2;
    const struct zs_hint **t = calloc(cap, sizeof *t);
    *ret_mask = cap - 1;
    return t;
}

static zr_status load_found(struct zr_inst *st, struct walk *w)
{
    for (uint64_t i = 0; i < w->n; i++) {
        struct found_queue *f = &w->at[i];
        int64_t size = st->conf.queue_file_size;
        const char *topic = (const char *)w->names.ptr + f->topic_at;
        if (f->n_files == 0) continue;
        if (f->first % size || f->last % size) {
            zs_log(st, ZR_LOG_ERROR, "queue %s %d: its files do not lie on multiples of %lld and are not used", topic, f->id, (long long)size);
            continue;
        }
        struct zr_queue *q = zs_queue(st, zl_str(topic), f->id, 1);
        if (!q) return ZR_ENOMEM;
        q->first_file = f->first / size;
        q->last_file = f->last / size;
        if (f->odd || f->last_size != (uint64_t)size)
            for (int64_t no = q->first_file; no <= q->last_file; no++) mend_length(st, q, no);
    }
    return ZR_OK;
}

/* No queue of the topic has a file, and the other broker does not know it. */
static uint32_t deleted_there(const struct walk *w, struct zs_vouch *vouch, const struct zs_hint *h)
{
    if (!vouch || zs_vouch_named(vouch, h->topic)) return 0;
    for (uint64_t i = 0; i < w->n; i++)
        if (w->at[i].n_files && zl_eq(zl_str((const char *)w->names.ptr + w->at[i].topic_at), h->topic)) return 0;
    return zs_vouch_gone(vouch, h->topic);
}

zr_status zs_queues_load(struct zr_inst *st, const struct zs_snapshot *snap, uint32_t clean, struct zs_vouch *vouch, uint64_t *ret_found)
{
    struct walk w = { .st = st };
    const struct zs_hint **table = NULL;
    uint64_t mask = 0, n = 0;
    walk_all(&w);
    if (w.rc == ZR_OK) choose_size(&w);
    if (w.rc == ZR_OK) w.rc = load_found(st, &w);
    if (w.rc == ZR_OK && snap) {
        table = hint_table(snap, &mask);
        if (!table) w.rc = ZR_ENOMEM;
    }
    for (uint64_t i = 0; w.rc == ZR_OK && snap && i < snap->n; i++) { /* also those whose folders are gone */
        const struct zs_hint *h = &snap->hints[i];
        if (zs_removed_covers(st, h->topic, h->end_phys - 1) || deleted_there(&w, vouch, h)) continue;
        struct zr_queue *q = zs_queue(st, h->topic, h->id, 1);
        if (!q) w.rc = ZR_ENOMEM;
        if (!q) break;
        uint64_t at = q->hash & mask;
        while (table[at]) at = (at + 1) & mask;
        table[at] = h;
    }
    struct zr_queue **list = w.rc == ZR_OK ? zs_queues_list(st, &n) : NULL;
    for (uint64_t i = 0; list && i < n && w.rc == ZR_OK; i++) {
        const struct zs_hint *h = hint_of(snap, table, mask, list[i]);
        int64_t known = 0;
        w.rc = settle(st, list[i], snap, h, clean, &known);
        if (w.rc == ZR_OK) zs_queue_drop_removed(st, list[i]);
        if (w.rc == ZR_OK && vouch) w.rc = zs_vouch_queue(vouch, list[i], h, known);
    }
    free(list);
    free(table);
    free(w.at);
    zl_buf_free(&w.names);
    *ret_found = w.n;
    return w.rc;
}

/* The queue as the snapshot knows it. */
static zr_status take_hint(struct zr_inst *st, const struct zs_snapshot *snap, const struct zs_hint *h)
{
    int64_t per = st->conf.queue_file_size / ZS_ENTRY;
    if (zs_removed_covers(st, h->topic, h->end_phys - 1)) return ZR_OK;
    struct zr_queue *q = zs_queue(st, h->topic, h->id, 1);
    if (!q) return ZR_ENOMEM;
    zs_queue_reset(st, q, h->next, h->end_phys);
    q->first_file = h->first_file;
    q->last_file = h->first_file == ZS_NONE ? ZS_NONE : (h->next - 1) / per;
    if (q->last_file < q->first_file) q->last_file = q->first_file;
    atomic_store(&q->min, h->min);
    if (snap->begin == atomic_load(&st->begin)) atomic_store(&q->min_begin, snap->begin);
    return ZR_OK;
}

uint32_t zs_queues_load_quick(struct zr_inst *st, const struct zs_snapshot *snap, uint64_t *ret_found, zr_status *ret_status)
{
    int64_t size = snap->queue_file_size;
    if (!st->lock_ours || size <= 0 || size % ZS_ENTRY || size > INT32_MAX) return 0;
    if (size != st->conf.queue_file_size)
        zs_log(st, ZR_LOG_WARN, "queue_file_size is %lld in the configuration; the queues were made with %lld, which is kept",
               (long long)st->conf.queue_file_size, (long long)size);
    st->conf.queue_file_size = size;
    *ret_status = ZR_OK;
    *ret_found = snap->n;
    for (uint64_t i = 0; i < snap->n && *ret_status == ZR_OK; i++) *ret_status = take_hint(st, snap, &snap->hints[i]);
    return 1;
}

int64_t zs_queue_truncate(struct zr_inst *st, struct zr_queue *q, int64_t tail)
{
    uint8_t raw[CHUNK_ENTRIES * ZS_ENTRY];
    int64_t next = atomic_load(&q->next), min = atomic_load(&q->min), was = next, end = 0;
    if (q->end_phys <= tail) return 0;
    while (next > min && end == 0) {
        int64_t from = next - CHUNK_ENTRIES > min ? next - CHUNK_ENTRIES : min, n = 0;
        while (from + n < next) {
            int64_t k = zs_qfile_read(st, q, from + n, (uint32_t)(next - from - n), raw + n * ZS_ENTRY);
            if (k < 0) return k; /* what cannot be read moves no bound */
            if (k == 0) { /* missing: as good as zero */
                memset(raw + n * ZS_ENTRY, 0, ZS_ENTRY);
                k = 1;
            }
            n += k;
        }
        for (; n > 0 && end == 0; n--) {
            struct zs_entry e;
            zs_entry_load(raw + (n - 1) * ZS_ENTRY, &e);
            if (zs_entry_real(&e) && e.phys + e.size <= tail) end = e.phys + e.size;
            else q->holes |= e.size <= 0, next--;
        }
    }
    zs_log(st, ZR_LOG_WARN, "queue %s %d: %lld entries point behind the end of the log and are cut off", q->topic, q->id,
           (long long)(was - next));
    zs_queue_reset(st, q, next, end);
    return zs_qfile_cut(st, q, next);
}
