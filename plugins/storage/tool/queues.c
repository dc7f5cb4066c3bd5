/* SPDX-License-Identifier: Apache-2.0 */
/* queues.c - the queues of a store: their files, and for each offset whether a valid record has it and whether the entry says so.
 *
 * The reading of the log (log.c) sets the bits, through a cache of entry windows for each thread. queues_compare.c then walks the
 * files and tells what does not agree. */
#include "tool.h"
#include "ext.h"
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOTS 8192u
#define BORN_LOOK 8u /* entries, the first of which may be damaged */
#define SISTERS 1024 /* queues of the topic that are asked whether it was made anew */

struct window {
    struct zt_queue *q;
    int64_t no;
    struct zt_chunk *chunk;
    uint8_t raw[ZT_WINDOW * ZS_ENTRY];
};
struct zt_windows {
    struct window at[SLOTS];
};

struct zt_windows *zt_windows_new(void) { return calloc(1, sizeof(struct zt_windows)); }
void zt_windows_free(struct zt_windows *w) { free(w); }

/* ---- the table ------------------------------------------------------------------------------------------------------------ */

static uint64_t hash_of(struct zr_str topic, int32_t id)
{
    return (zl_hash(topic.ptr, topic.len) ^ (uint64_t)(uint32_t)id * 0x9E3779B97F4A7C15ull);
}

static struct zt_queue *find_from(struct zt_queue *q, struct zr_str topic, int32_t id)
{
    while (q && (q->id != id || q->topic_len != topic.len || memcmp(q->topic, topic.ptr, topic.len))) q = q->next;
    return q;
}

static struct zt_queue *queue_new(struct zr_str topic, int32_t id)
{
    struct zt_queue *q = calloc(1, sizeof *q + topic.len + 1);
    if (!q) return NULL;
    q->id = id;
    q->topic_len = (uint32_t)topic.len;
    memcpy(q->topic, topic.ptr, topic.len);
    pthread_mutex_init(&q->lock, NULL);
    q->min = q->max = -1;
    atomic_store(&q->max_offset, -1);
    return q;
}

struct zt_queue *zt_queue_get(struct zt_queues *qs, struct zr_str topic, int32_t id, uint32_t create)
{
    uint64_t b = (hash_of(topic, id) >> 16) % ZT_BUCKETS;
    struct zt_queue *head = atomic_load(&qs->buckets[b]), *q = find_from(head, topic, id);
    if (q || !create) return q;
    if (atomic_load(&qs->n) >= ZS_MAX_QUEUES) {
        atomic_store(&qs->full, 1);
        return NULL;
    }
    struct zt_queue *made = queue_new(topic, id);
    if (!made) {
        atomic_store(&qs->full, 1);
        return NULL;
    }
    for (;;) {
        made->next = head;
        if (atomic_compare_exchange_weak(&qs->buckets[b], &head, made)) break;
        q = find_from(head, topic, id); /* somebody else was quicker */
        if (q) {
            pthread_mutex_destroy(&made->lock);
            free(made);
            return q;
        }
    }
    atomic_fetch_add(&qs->n, 1);
    struct zt_queue *all = atomic_load(&qs->all);
    do made->all = all;
    while (!atomic_compare_exchange_weak(&qs->all, &all, made));
    return made;
}

void zt_queues_free(struct zt_queues *qs)
{
    for (struct zt_queue *q = atomic_load(&qs->all), *next; q; q = next) {
        next = q->all;
        for (uint32_t i = 0; i < q->cap_chunks; i++)
            for (struct zt_chunk *c = q->chunks[i], *after; c; c = after) {
                after = c->next;
                free(c);
            }
        free(q->chunks);
        free(q->files);
        pthread_mutex_destroy(&q->lock);
        free(q);
    }
    free(qs);
}

/* ---- bits ------------------------------------------------------------------------------------------------------------------ */

static uint32_t chunks_grow(struct zt_queue *q)
{
    uint32_t cap = q->cap_chunks ? q->cap_chunks * 4 : 4;
    struct zt_chunk **at = calloc(cap, sizeof *at);
    if (!at) return 0;
    for (uint32_t i = 0; i < q->cap_chunks; i++)
        for (struct zt_chunk *c = q->chunks[i], *next; c; c = next) {
            next = c->next;
            c->next = at[(uint64_t)c->no % cap];
            at[(uint64_t)c->no % cap] = c;
        }
    free(q->chunks);
    q->chunks = at;
    q->cap_chunks = cap;
    return 1;
}

static struct zt_chunk *chunk_find(struct zt_queue *q, int64_t no)
{
    struct zt_chunk *c = q->cap_chunks ? q->chunks[(uint64_t)no % q->cap_chunks] : NULL;
    while (c && c->no != no) c = c->next;
    return c;
}

static struct zt_chunk *chunk_get(struct zt_queues *qs, struct zt_queue *q, int64_t no)
{
    pthread_mutex_lock(&q->lock);
    struct zt_chunk *c = chunk_find(q, no);
    if (!c && atomic_fetch_add(&qs->n_chunks, 1) < ZT_MAX_CHUNKS && (q->n_chunks < q->cap_chunks * 2 || chunks_grow(q)) &&
        (c = calloc(1, sizeof *c))) {
        c->no = no;
        c->next = q->chunks[(uint64_t)no % q->cap_chunks];
        q->chunks[(uint64_t)no % q->cap_chunks] = c;
        q->n_chunks++;
    }
    pthread_mutex_unlock(&q->lock);
    if (!c) atomic_store(&qs->full, 1);
    return c;
}

uint32_t zt_chunk_bit(struct zt_queue *q, int64_t offset, uint32_t *ret_agrees)
{
    struct zt_chunk *c = chunk_find(q, offset / ZT_CHUNK);
    uint64_t bit = 1ull << (offset % 64), word = (uint64_t)(offset % ZT_CHUNK) / 64;
    *ret_agrees = c && (atomic_load_explicit(&c->agrees[word], memory_order_relaxed) & bit) != 0;
    return c && (atomic_load_explicit(&c->record[word], memory_order_relaxed) & bit) != 0;
}

/* ---- entries ---------------------------------------------------------------------------------------------------------------- */

void zt_queue_file(const struct zt_queue *q, char *to, int64_t base)
{
    if (base < 0) {
        if (!zs_path(to, "consumequeue/%s/%d", q->topic, q->id)) to[0] = 0;
    } else if (!zs_path(to, "consumequeue/%s/%d/%020lld", q->topic, q->id, (long long)base)) {
        to[0] = 0;
    }
}

/* The number of the first file that reaches behind byte at. */
static uint64_t file_behind(const struct zt_queues *qs, const struct zt_queue *q, int64_t at)
{
    uint64_t lo = 0, hi = q->n_files;
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        if (q->files[mid].base + qs->file_size <= at) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static void bytes_read(struct zt_queues *qs, const struct zt_queue *q, int64_t at, uint64_t len, uint8_t *to)
{
    char name[ZS_PATH], path[ZS_PATH];
    memset(to, 0, len);
    for (uint64_t i = file_behind(qs, q, at); i < q->n_files && q->files[i].base < at + (int64_t)len; i++) {
        int64_t base = q->files[i].base, from = at > base ? at : base;
        int64_t end = base + qs->file_size < at + (int64_t)len ? base + qs->file_size : at + (int64_t)len;
        zt_queue_file(q, name, base);
        if (!zs_path(path, "%s/%s", qs->v->dir, name)) return;
        int64_t fd = zt_open(path, ZR_IO_READ);
        if (fd < 0) continue;
        zt_read(fd, to + (from - at), (uint64_t)(end - from), from - base);
        zt_close(fd);
    }
}

static struct window *window_get(struct zt_queues *qs, struct zt_windows *w, struct zt_queue *q, int64_t offset)
{
    int64_t no = offset / ZT_WINDOW;
    struct window *at = &w->at[(((uint64_t)(uintptr_t)q >> 6) * 31 + (uint64_t)no) % SLOTS];
    if (at->q == q && at->no == no) return at;
    at->q = q;
    at->no = no;
    at->chunk = NULL;
    bytes_read(qs, q, no * (int64_t)(ZT_WINDOW * ZS_ENTRY), sizeof at->raw, at->raw);
    return at;
}

uint32_t zt_entry_at(struct zt_queues *qs, struct zt_windows *w, struct zt_queue *q, int64_t offset, struct zs_entry *ret)
{
    if (offset < 0 || offset > ZS_MAX_POSITION / ZS_ENTRY) return 0;
    struct window *at = window_get(qs, w, q, offset);
    zs_entry_load(at->raw + offset % ZT_WINDOW * ZS_ENTRY, ret);
    return ret->phys != 0 || ret->size != 0 || ret->tags != 0;
}

/* Tags codes that mean something else: the address of a unit of consumequeue_ext; a time of delivery under other levels. */
static uint32_t tags_agree(struct zr_inst *st, const struct zs_entry *e, const struct zl_record *r)
{
    if (e->tags == zs_tags_of(st, r) || e->tags <= (int64_t)INT32_MIN - 1) return 1;
    return zl_is(r->topic, "SCHEDULE_TOPIC_XXXX") && e->tags >= r->store_ms;
}

/* Under the queue's lock. */
static void born_find(struct zt_queues *qs, struct zt_queue *q)
{
    struct zs_scan s = { .st = NULL };
    struct zs_entry e;
    struct zl_record r;
    uint8_t raw[ZS_ENTRY * BORN_LOOK];
    const char *why;
    q->born_known = 1;
    q->born_phys = -1;
    if (q->n_files == 0) return;
    bytes_read(qs, q, q->files[0].base, sizeof raw, raw);
    for (uint32_t i = 0; i < BORN_LOOK && q->born_phys < 0; i++) {
        zs_entry_load(raw + i * ZS_ENTRY, &e);
        q->born_offset = q->files[0].base / (int64_t)ZS_ENTRY + i;
        if (zs_entry_real(&e) && zt_record_at(qs->v, &s, e.phys, &r, &why) && r.queue_id == q->id && r.queue_offset == q->born_offset &&
            zl_eq(r.topic, (struct zr_str){ q->topic, q->topic_len }))
            q->born_phys = e.phys;
    }
    zs_scan_close(&s);
}

uint32_t zt_queue_anew(struct zt_queues *qs, struct zt_queue *q, int64_t phys, int64_t offset)
{
    pthread_mutex_lock(&q->lock);
    if (!q->born_known) born_find(qs, q);
    uint32_t anew = phys < q->born_phys && offset >= q->born_offset;
    pthread_mutex_unlock(&q->lock);
    return anew;
}

uint32_t zt_queue_gone(struct zt_queues *qs, struct zt_queue *q)
{
    const struct zs_snapshot *snap = &qs->v->snap;
    int64_t last = atomic_load(&q->last_phys);
    if (q->n_files || atomic_load(&q->n_lag) || !snap->valid) return 0;
    if (q->hint ? last >= q->hint->end_phys : last >= snap->pos) return 0;
    for (int32_t id = 0; id < SISTERS; id++) {
        struct zt_queue *x = zt_queue_get(qs, (struct zr_str){ q->topic, q->topic_len }, id, 0);
        if (x && x != q && atomic_load(&x->n_former) && last < x->born_phys && (!q->hint || q->hint->end_phys <= x->born_phys)) return 1;
    }
    return 0;
}

void zt_queue_record(struct zt_queues *qs, struct zt_windows *w, struct zt_queue *q, const struct zl_record *r)
{
    int64_t offset = r->queue_offset, max = atomic_load(&q->max_offset);
    if (offset < 0 || offset > ZS_MAX_POSITION / ZS_ENTRY / 2) return;
    struct window *at = window_get(qs, w, q, offset);
    struct zs_entry e;
    uint64_t bit = 1ull << (offset % 64), word = (uint64_t)(offset % ZT_CHUNK) / 64;
    zs_entry_load(at->raw + offset % ZT_WINDOW * ZS_ENTRY, &e);
    uint32_t agrees = e.phys == r->physical_offset && e.size == (int32_t)r->size && tags_agree(qs->v->st, &e, r);
    if (!agrees && q->n_files && zt_queue_anew(qs, q, r->physical_offset, offset)) {
        atomic_fetch_add(&q->n_former, 1);
        return;
    }
    if (!at->chunk) at->chunk = chunk_get(qs, q, offset / ZT_CHUNK);
    if (!at->chunk) return;
    if (!agrees && e.size == 0 && (r->physical_offset >= qs->v->lag_pos || r->store_ms >= qs->v->lag_ms)) {
        agrees = 1;
        atomic_fetch_add(&q->n_lag, 1);
    }
    if (atomic_fetch_or(&at->chunk->record[word], bit) & bit) atomic_fetch_add(&q->n_doubled, 1);
    if (agrees) atomic_fetch_or(&at->chunk->agrees[word], bit);
    if (agrees) zt_extent_compare(qs, q, &e, r);
    int64_t last = atomic_load(&q->last_phys);
    while (r->physical_offset > last && !atomic_compare_exchange_weak(&q->last_phys, &last, r->physical_offset)) {}
    while (offset > max && !atomic_compare_exchange_weak(&q->max_offset, &max, offset)) {}
}

/* ---- what lies in the folders --------------------------------------------------------------------------------------------------- */

static void files_load(struct zt_queues *qs, struct zt_queue *q)
{
    char name[ZS_PATH], path[ZS_PATH];
    struct zt_names names;
    zt_queue_file(q, name, -1);
    if (!zs_path(path, "%s/%s", qs->v->dir, name)) return;
    int64_t r = zt_names_load(&names, path);
    if (r < 0 && r != -ENOTDIR && !(qs->v->live && r == -ENOENT)) {
        zt_find(qs->report, ZT_LEVEL_NOTE, "queue.unreadable", name, -1, 0, "look at its permissions and at the disk", "it cannot be read: %s", zs_errno_text(r));
        qs->report->failed = 1;
    }
    q->files = calloc(names.n + 1, sizeof *q->files);
    for (uint64_t i = 0; q->files && i < names.n && q->n_files < ZT_MAX_FILES; i++) {
        struct zr_io_stat st;
        int64_t base;
        char file[ZS_PATH];
        if (!zs_path(file, "%s/%s", path, names.at[i]) || zt_stat(file, &st) < 0) continue;
        if (!zs_name_offset(names.at[i], &base) || base > ZS_MAX_POSITION) {
            char rel[ZS_PATH];
            if (zs_path(rel, "%s/%s", name, names.at[i]))
                zt_find(qs->report, ZT_LEVEL_NOTE, "queue.stranger", rel, -1, 0, "if you did not put it there, move it away", "it is no queue file and is left alone");
            continue;
        }
        q->files[q->n_files++] = (struct zt_qfile){ base, st.size };
    }
    zt_names_free(&names);
}

/* The size of the files: what most of them have; names must be multiples of it. */
static void size_choose(struct zt_queues *qs)
{
    uint64_t votes = 0, best = 0;
    int64_t step = INT64_MAX;
    for (struct zt_queue *q = atomic_load(&qs->all); q; q = q->all)
        for (uint64_t i = 0; i < q->n_files; i++) {
            uint64_t size = q->files[i].size;
            if (i && q->files[i].base - q->files[i - 1].base < step) step = q->files[i].base - q->files[i - 1].base;
            if (size == 0 || size % ZS_ENTRY) continue;
            if (size == best) votes++;
            else if (votes) votes--;
            else best = size, votes = 1;
        }
    qs->file_size = qs->v->opt.queue_file_size ? qs->v->opt.queue_file_size : best ? (int64_t)best : 6000000;
    if (!qs->v->opt.queue_file_size && step != INT64_MAX && step % ZS_ENTRY == 0 && step < qs->file_size) qs->file_size = step;
}

static void files_judge(struct zt_queues *qs, struct zt_queue *q)
{
    char name[ZS_PATH];
    for (uint64_t i = 0; i < q->n_files; i++) {
        const struct zt_qfile *f = &q->files[i];
        zt_queue_file(q, name, f->base);
        if (f->base % qs->file_size) {
            q->bad = 1;
            zt_find(qs->report, ZT_LEVEL_MEND, "queue.name", name, -1, 0, "--repair makes the queue anew from the log",
                    "its name is not a multiple of the queues' file size %lld", (long long)qs->file_size);
        } else if (f->size != (uint64_t)qs->file_size && !(qs->v->live && i + 1 == q->n_files)) {
            q->bad = 1;
            zt_find(qs->report, ZT_LEVEL_MEND, "queue.length", name, (int64_t)(f->size < (uint64_t)qs->file_size ? f->size : (uint64_t)qs->file_size), 0,
                    "a start gives it its full length; --repair makes the queue anew from the log",
                    "it has %llu bytes instead of %lld", (unsigned long long)f->size, (long long)qs->file_size);
        }
        if (i && f->base - q->files[i - 1].base > qs->file_size) {
            q->bad = 1;
            zt_find(qs->report, ZT_LEVEL_MEND, "queue.gap", name, -1, 0, "--repair makes the queue anew from the log",
                    "the files before it are missing, from %020lld on", (long long)(q->files[i - 1].base + qs->file_size));
        }
    }
}

static uint32_t id_of(const char *name, int32_t *ret) { return zl_parse_i32(zl_str(name), ret) == ZR_OK && *ret >= 0 && (name[0] != '0' || !name[1]); }

static void topic_load(struct zt_queues *qs, const char *topic)
{
    char path[ZS_PATH], name[ZS_PATH];
    struct zt_names names;
    if (!zs_path(path, "%s/consumequeue/%s", qs->v->dir, topic) || !zs_path(name, "consumequeue/%s", topic)) return;
    if (zs_queue_name_ok(zl_str(topic)) != ZR_OK) {
        zt_find(qs->report, ZT_LEVEL_NOTE, "queue.stranger", name, -1, 0, "if you did not put it there, move it away", "no topic can have this name; it is left alone");
        return;
    }
    zt_names_load(&names, path);
    for (uint64_t i = 0; i < names.n; i++) {
        int32_t id;
        if (!id_of(names.at[i], &id)) continue;
        struct zt_queue *q = zt_queue_get(qs, zl_str(topic), id, 1);
        if (q) files_load(qs, q);
    }
    zt_names_free(&names);
}

int zt_queues_load(struct zt_queues *qs, struct zt_view *v, struct zt_report *report)
{
    char path[ZS_PATH];
    struct zt_names names;
    qs->v = v;
    qs->report = report;
    zs_ext_load(v->st);
    if (!zs_path(path, "%s/consumequeue", v->dir)) return ZT_CANNOT;
    int64_t r = zt_names_load(&names, path);
    if (r < 0 && r != -ENOENT) {
        zt_find(report, ZT_LEVEL_NOTE, "queue.unreadable", "consumequeue", -1, 0, "look at its permissions and at the disk", "it cannot be read: %s", zs_errno_text(r));
        report->failed = 1;
    }
    for (uint64_t i = 0; i < names.n; i++) topic_load(qs, names.at[i]);
    zt_names_free(&names);
    size_choose(qs);
    for (struct zt_queue *q = atomic_load(&qs->all); q; q = q->all) files_judge(qs, q);
    for (uint64_t i = 0; v->snap.valid && i < v->snap.n; i++) {
        const struct zs_hint *h = &v->snap.hints[i];
        if (h->next == 0 || zs_removed_covers(v->st, h->topic, h->end_phys - 1)) continue;
        struct zt_queue *q = zt_queue_get(qs, h->topic, h->id, 1);
        if (q) q->hint = h;
    }
    return atomic_load(&qs->full) ? ZT_CANNOT : ZT_CLEAN;
}
