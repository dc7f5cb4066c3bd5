/* SPDX-License-Identifier: Apache-2.0 */
/* repair_files.c - single parts made anew: damaged places of the log, queues, documents. See repair.c for what stays true. */
#include "tool.h"
#include "zs_pack.h"

#define FILLER_MAX (1u << 20) /* one record that stands for nothing is not larger */
#define FILLER_MIN 92
#define COPY (1u << 20)
#define PAGE 4096u
#define OPEN_FILES 256u

static int64_t write_at(int64_t fd, const void *from, uint64_t len, int64_t off)
{
    int64_t r = zl_io_write_all(zt_io(), (int32_t)fd, from, len, off);
    return r < 0 ? r : 0;
}

/* ---- damaged places of the log ---------------------------------------------------------------------------------------------- */

/* Copies what is data of [0, size). A page that the disk does not give stays a hole: *ret_lost counts such bytes. 0 or -errno. */
static int64_t data_copy(int64_t in, int64_t out, uint8_t *buf, int64_t size, int64_t *ret_lost)
{
    uint64_t step = COPY;
    for (int64_t at = 0; at < size;) {
        int64_t data = zt_seek_data(in, at);
        if (data < 0) return 0; /* nothing but a hole, or behind its end */
        if (data >= size) return 0;
        uint64_t want = step == PAGE ? PAGE - (uint64_t)data % PAGE : step;
        if (want > (uint64_t)(size - data)) want = (uint64_t)(size - data);
        int64_t n = zt_io()->pread(zt_io()->ctx, (int32_t)in, buf, want, data);
        if (n == -EINTR) continue;
        if (n == 0) return 0;
        at = data;
        if (n < 0 && n != -EIO) return n;
        if (n < 0 && step > PAGE) {
            step = PAGE; /* one page of these, perhaps */
            continue;
        }
        int64_t e = n < 0 ? 0 : write_at(out, buf, (uint64_t)n, data);
        if (e < 0) return e;
        if (n < 0) *ret_lost += (int64_t)want;
        at += n < 0 ? (int64_t)want : n;
        if (at % COPY == 0) step = COPY;
    }
    return 0;
}

/* A copy of a segment in its full size, holes kept; one that is not there is a hole. Its descriptor or -errno. */
static int64_t segment_copy(const char *from, const char *to, int64_t size, int64_t *ret_lost)
{
    *ret_lost = 0;
    int64_t in = zt_open(from, ZR_IO_READ);
    if (in < 0 && in != -ENOENT) return in;
    int64_t out = zt_open(to, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_TRUNC);
    int64_t r = out < 0 ? out : zt_io()->ftruncate(zt_io()->ctx, (int32_t)out, size);
    uint8_t *buf = malloc(COPY);
    if (!buf) r = -ENOMEM;
    if (r >= 0 && in >= 0) r = data_copy(in, out, buf, size, ret_lost);
    free(buf);
    zt_close(in);
    if (r < 0) zt_close(out);
    return r < 0 ? r : out;
}

static void lost_tell(struct zt_repair *r, const char *rel, int64_t lost)
{
    if (lost) zt_did(r, "%s: %lld bytes of it cannot be read from the disk; they are zero in the copy", rel, (long long)lost);
}

/* A record that no queue and no index holds (of the kind that ends a transaction by taking it back), of exactly len bytes. */
static int64_t filler_write(int64_t fd, int64_t base, int64_t at, uint32_t len, int64_t store_ms)
{
    uint8_t *rec = calloc(1, len);
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str(ZT_FILLER_TOPIC), .sys_flag = ZR_SYSFLAG_ROLLBACK, .inner_num = 1, .born_ms = store_ms,
                        .born_host = { .family = 4 }, .store_host = { .family = 4 } };
    uint8_t *body = calloc(1, len);
    int64_t r = -ENOMEM;
    if (rec && body) {
        m.body = (struct zr_span){ body, len - FILLER_MIN };
        if (zl_record_size(&m) == len) {
            zl_record_encode(rec, &m);
            zl_record_finish(rec, 0, at, store_ms);
            r = write_at(fd, rec, len, at - base);
        }
    }
    free(rec);
    free(body);
    return r;
}

/* To the segment's end a blank does; between records, records that stand for nothing. */
static int64_t place_fill(int64_t fd, int64_t base, int64_t size, int64_t from, int64_t to, int64_t store_ms)
{
    if (to == base + size) {
        uint8_t blank[8];
        if (to - from < 8) return -EINVAL;
        zl_store32(blank, (uint32_t)(to - from));
        zl_store32(blank + 4, ZL_MAGIC_BLANK);
        return write_at(fd, blank, 8, from - base);
    }
    while (from < to) {
        int64_t len = to - from > 2 * (int64_t)FILLER_MAX ? (int64_t)FILLER_MAX : to - from;
        int64_t e = len < FILLER_MIN ? -EINVAL : filler_write(fd, base, from, (uint32_t)len, store_ms);
        if (e < 0) return e;
        from += len;
    }
    return 0;
}

/* The log is on another disk than the aside folder: what is kept is a copy. */
static int64_t aside_copy(struct zt_repair *r, const char *rel, const char *from)
{
    char kept[ZS_PATH];
    struct zr_io_stat st;
    int64_t e = zt_stat(from, &st);
    if (e < 0) return e;
    if (!zs_path(kept, "%s/%s", r->aside, strrchr(rel, '/') + 1)) return -ENAMETOOLONG;
    int64_t lost, fd = segment_copy(from, kept, (int64_t)st.size, &lost);
    if (fd < 0) return fd;
    lost_tell(r, kept, lost);
    e = zt_sync(fd);
    int64_t closed = zt_close(fd);
    if (e >= 0) e = closed;
    return e < 0 ? e : zt_aside_sync(r, kept);
}

static void segment_mend(struct zt_repair *r, uint64_t no, uint64_t first, uint64_t last)
{
    struct zt_log *lg = &r->c->log;
    struct zt_segment *g = &lg->segs[no];
    char rel[ZS_PATH], from[ZS_PATH], to[ZS_PATH], place[ZS_PATH];
    int64_t e = 0;
    zt_segment_file(lg, g->base, rel);
    uint32_t inside = rel[0] != '/'; /* else it may be on a disk of its own: the copy is made beside it, under a name that starts clear away */
    if (!zt_full(r->dir, rel, from) || !zs_path(place, "%.*s", (int)(strrchr(from, '/') - from), from) ||
        !(inside ? zs_path(to, "%s/%020lld", r->mend, (long long)g->base) : zs_path(to, "%s.tmp", from))) return zt_repair_fail(r, rel, -ENAMETOOLONG);
    if (g->packed) {
        zt_did(r, "%s: its damaged blocks stay as they are; zaryactl store convert --to plain --accept-loss, and then --repair, mends what can be", rel);
        return;
    }
    int64_t store_ms = g->first_ms > 0 ? g->first_ms : no && lg->segs[no - 1].last_ms > 0 ? lg->segs[no - 1].last_ms : 1;
    int64_t lost, fd = segment_copy(from, to, lg->seg_size, &lost);
    if (fd < 0) return zt_repair_fail(r, to, fd);
    lost_tell(r, rel, lost);
    for (uint64_t i = first; i < last && e >= 0; i++) e = place_fill(fd, g->base, lg->seg_size, lg->damage[i].from, lg->damage[i].to, store_ms);
    if (e >= 0) e = zt_sync(fd);
    int64_t closed = zt_close(fd);
    if (e >= 0) e = closed;
    if (e >= 0) e = zt_aside(r, rel, 1);
    if (e == -EXDEV) e = aside_copy(r, rel, from);
    if (e >= 0) e = zt_rename(to, from);
    if (e >= 0) e = zt_sync_dir(place);
    if (e >= 0 && inside) e = zt_sync_dir(r->mend);
    if (e < 0) return zt_repair_fail(r, rel, e);
    r->changed = 1;
    zt_did(r, "%s: %llu damaged places now hold records that stand for nothing", rel, (unsigned long long)(last - first));
}

void zt_repair_log(struct zt_repair *r)
{
    struct zt_log *lg = &r->c->log;
    for (uint64_t i = 0, next; i < lg->n_damage && !r->failed; i = next) {
        int64_t base = zt_seg_base(&r->c->view, lg->damage[i].from);
        for (next = i + 1; next < lg->n_damage && zt_seg_base(&r->c->view, lg->damage[next].from) == base;) next++;
        segment_mend(r, (uint64_t)((base - lg->segs[0].base) / lg->seg_size), i, next);
    }
}

/* ---- queues --------------------------------------------------------------------------------------------------------------------- */

struct build {
    struct zt_queue *q;
    int64_t lo, hi;  /* offsets it is to have */
    int64_t fd;      /* of the file in work; below 0: none */
    int64_t fd_base;
};
struct builds {
    struct zt_repair *r;
    struct build *at;
    uint64_t n;
    uint64_t n_open, hand;
};

static void build_path(const struct builds *b, const struct zt_queue *q, int64_t base, char *to)
{
    uint32_t ok = base < 0 ? zs_path(to, "%s/%s/%d", b->r->mend, q->topic, q->id) : zs_path(to, "%s/%s/%d/%020lld", b->r->mend, q->topic, q->id, (long long)base);
    if (!ok) to[0] = 0;
}

/* All files of the queue, every offset marked as lost. */
static int64_t build_files(struct builds *b, struct build *u)
{
    const struct zs_entry filler = { .phys = 0, .size = ZS_FILLER, .tags = 0 };
    uint8_t raw[ZS_ENTRY * 1024];
    char path[ZS_PATH];
    int64_t size = b->r->c->queues->file_size, end = u->hi * (int64_t)ZS_ENTRY;
    for (uint32_t i = 0; i < 1024; i++) zs_entry_store(raw + i * ZS_ENTRY, &filler);
    build_path(b, u->q, -1, path);
    int64_t e = zl_io_mkdirs(zt_io(), path);
    for (int64_t base = u->lo * (int64_t)ZS_ENTRY / size * size; e >= 0 && base < end; base += size) {
        build_path(b, u->q, base, path);
        int64_t fd = zt_open(path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_TRUNC);
        if (fd < 0) return fd;
        e = zt_io()->ftruncate(zt_io()->ctx, (int32_t)fd, size);
        int64_t to = end - base < size ? end - base : size;
        for (int64_t at = 0; e >= 0 && at < to; at += (int64_t)sizeof raw)
            e = write_at(fd, raw, (uint64_t)(to - at < (int64_t)sizeof raw ? to - at : (int64_t)sizeof raw), at);
        if (e >= 0) e = zt_sync(fd);
        int64_t closed = zt_close(fd);
        if (e >= 0) e = closed;
    }
    return e < 0 ? e : 0;
}

/* What was written is on the disk, or the repair has failed. */
static void build_close(struct builds *b, struct build *u)
{
    if (u->fd < 0) return;
    int64_t e = zt_sync(u->fd), closed = zt_close(u->fd);
    if (e >= 0) e = closed;
    if (e < 0) zt_repair_fail(b->r, u->q->topic, e);
    u->fd = -1;
    b->n_open--;
}

static int64_t build_fd(struct builds *b, struct build *u, int64_t base)
{
    char path[ZS_PATH];
    if (u->fd >= 0 && u->fd_base == base) return u->fd;
    build_close(b, u);
    while (b->n_open >= OPEN_FILES) { /* the next open one in turn gives way */
        build_close(b, &b->at[b->hand++ % b->n]);
    }
    build_path(b, u->q, base, path);
    u->fd = zt_open(path, ZR_IO_READ | ZR_IO_WRITE);
    u->fd_base = base;
    b->n_open += u->fd >= 0;
    return u->fd;
}

static int by_queue(const void *a, const void *b)
{
    const struct zt_queue *x = ((const struct build *)a)->q, *y = ((const struct build *)b)->q;
    return x < y ? -1 : x > y;
}

static void entry_write(struct builds *b, const struct zl_record *rec)
{
    if (!zs_has_entry(rec->sys_flag) || rec->queue_id < 0 || zs_queue_name_ok(rec->topic) != ZR_OK) return;
    struct zr_inst *st = b->r->c->view.st;
    struct build key = { .q = zt_queue_get(b->r->c->queues, rec->topic, rec->queue_id, 0) };
    struct build *u = key.q ? bsearch(&key, b->at, b->n, sizeof key, by_queue) : NULL;
    if (!u || rec->queue_offset < u->lo || rec->queue_offset >= u->hi || zs_removed_covers(st, rec->topic, rec->physical_offset)) return;
    uint8_t raw[ZS_ENTRY];
    struct zs_entry e = { .phys = rec->physical_offset, .size = (int32_t)rec->size, .tags = zs_tags_of(st, rec) };
    int64_t size = b->r->c->queues->file_size, at = rec->queue_offset * (int64_t)ZS_ENTRY, base = at / size * size;
    int64_t fd = build_fd(b, u, base);
    zs_entry_store(raw, &e);
    if (fd >= 0) fd = write_at(fd, raw, sizeof raw, at - base);
    if (fd < 0) zt_repair_fail(b->r, u->q->topic, fd);
}

static void log_walk(struct builds *b)
{
    struct zt_view *v = &b->r->c->view;
    struct zt_log *lg = &b->r->c->log;
    struct zs_scan s;
    struct zl_record rec;
    zs_scan_open(&s, v->st, lg->begin, lg->end, 1);
    for (int what; (what = zs_scan_next(&s, &rec)) != ZS_SCAN_END && what != ZS_SCAN_STOP && !b->r->failed;) {
        if (what == ZS_SCAN_BAD) {
            s.failed = s.shut = 0;
            if (!zs_scan_resync(&s)) break;
            s.failed = s.shut = 0; /* what was passed over was told as damaged */
            continue;
        }
        entry_write(b, &rec);
    }
    zs_scan_close(&s);
    if (s.failed || s.shut) zt_repair_fail(b->r, "the log", -EIO); /* its end was not seen: the queues would lack the rest */
    for (uint64_t i = 0; i < b->n; i++) build_close(b, &b->at[i]);
}

static void swap_in(struct builds *b, const struct build *u)
{
    char rel[ZS_PATH], from[ZS_PATH], to[ZS_PATH], topic[ZS_PATH];
    zt_queue_file(u->q, rel, -1);
    build_path(b, u->q, -1, from);
    if (!zs_path(to, "%s/%s", b->r->dir, rel) || !zs_path(topic, "%s/consumequeue/%s", b->r->dir, u->q->topic)) return;
    const struct zr_io_v1 *io = zt_io();
    int64_t e = io->sync_dir(io->ctx, from);
    if (e >= 0) e = zl_io_mkdirs(io, topic);
    if (e >= 0) e = zt_aside(b->r, rel, 0);
    if (e >= 0) e = zt_move(b->r, from, to);
    if (e < 0) return zt_repair_fail(b->r, rel, e);
    b->r->changed = 1;
    zt_did(b->r, "%s: made anew from the log, offsets %lld to %lld", rel, (long long)u->lo, (long long)u->hi - 1);
}

/* The offsets a queue is to have: from its first message on, to the end that anything knew. */
static uint32_t bounds(struct build *u)
{
    struct zt_queue *q = u->q;
    int64_t next = atomic_load(&q->max_offset) + 1;
    u->hi = q->max > next ? q->max : next;
    u->lo = q->min >= 0 && q->min < u->hi ? q->min : 0;
    u->fd = -1;
    return u->hi > u->lo;
}

void zt_repair_queues(struct zt_repair *r)
{
    struct zt_queues *qs = r->c->queues;
    struct builds b = { .r = r, .at = calloc(atomic_load(&qs->n) + 1, sizeof *b.at) };
    if (!b.at) return zt_repair_fail(r, "queues", -ENOMEM);
    for (struct zt_queue *q = atomic_load(&qs->all); q; q = q->all) {
        struct build u = { .q = q };
        if (q->bad && !q->removed && !q->other && !zl_starts(zl_str(q->topic), "%LMQ%") && bounds(&u)) b.at[b.n++] = u;
    }
    if (b.n) {
        qsort(b.at, b.n, sizeof *b.at, by_queue);
        for (uint64_t i = 0; i < b.n && !r->failed; i++) {
            int64_t e = build_files(&b, &b.at[i]);
            if (e < 0) zt_repair_fail(r, b.at[i].q->topic, e);
        }
        if (!r->failed) log_walk(&b);
        for (uint64_t i = 0; i < b.n && !r->failed; i++) {
            swap_in(&b, &b.at[i]);
            zt_extents_aside(r, b.at[i].q);
        }
    }
    free(b.at);
}

/* ---- documents -------------------------------------------------------------------------------------------------------------------- */

static void doc_write(struct zt_repair *r, const struct zt_doc *doc, struct zr_span text, const char *what)
{
    char path[ZS_PATH];
    if (!zs_path(path, "%s/%s", r->dir, doc->name)) return zt_repair_fail(r, doc->name, -ENAMETOOLONG);
    int64_t e = zt_parent_make(path);
    if (e >= 0) e = zl_io_replace(zt_io(), path, text);
    if (e < 0) zt_repair_fail(r, doc->name, e);
    else zt_did(r, "%s: %s", doc->name, what);
}

static void doc_aside(struct zt_repair *r, const struct zt_doc *doc)
{
    char backup[ZS_PATH];
    int64_t e = doc->state == 2 ? zt_aside(r, doc->name, 0) : zt_aside(r, doc->name, 1);
    if (e >= 0 && doc->backup == 2 && zs_path(backup, "%s.bak", doc->name)) e = zt_aside(r, backup, 0);
    if (e < 0) zt_repair_fail(r, doc->name, e);
}

static void topic_add(struct zl_jw *w, struct zr_str name, int64_t queues)
{
    zl_jw_key(w, name);
    zl_jw_begin(w, '{');
    zl_jw_key(w, zl_str("attributes"));
    zl_jw_begin(w, '{');
    zl_jw_end(w, '}');
    zl_jw_kbool(w, "order", 0);
    zl_jw_ki64(w, "perm", 6);
    zl_jw_ki64(w, "readQueueNums", queues);
    zl_jw_kstr(w, "topicFilterType", zl_str("SINGLE_TAG"));
    zl_jw_kstr(w, "topicName", name);
    zl_jw_ki64(w, "topicSysFlag", 0);
    zl_jw_ki64(w, "writeQueueNums", queues);
    zl_jw_end(w, '}');
}

static int by_topic(const void *a, const void *b)
{
    const struct zt_queue *x = *(struct zt_queue *const *)a, *y = *(struct zt_queue *const *)b;
    int c = strcmp(x->topic, y->topic);
    return c ? c : x->id < y->id ? -1 : x->id > y->id;
}

static void topic_put(struct zl_jw *w, struct zl_buf *part, const struct zl_json *node)
{
    zl_buf_clear(part);
    zl_json_print(part, node);
    zl_jw_key(w, node->key);
    zl_jw_raw(w, zl_buf_as_str(part));
}

/* The document with what its journal has, and with the topics that only the queues know added. */
static void topics_mend(struct zt_repair *r, struct zt_doc *doc)
{
    struct zt_queues *qs = r->c->queues;
    struct zt_queue **list = calloc(atomic_load(&qs->n) + 1, sizeof *list);
    struct zl_buf out, part;
    struct zl_jw w;
    uint64_t n = 0, added = 0;
    const struct zt_journal *journal = &r->c->docs.journal;
    const struct zl_json *table = zl_json_get(doc->root, "topicConfigTable"), *row;
    if (!list) return zt_repair_fail(r, doc->name, -ENOMEM);
    for (struct zt_queue *q = atomic_load(&qs->all); q; q = q->all)
        if (!q->removed && (q->n_records || q->n_files) && !zl_starts(zl_str(q->topic), "%LMQ%")) list[n++] = q;
    qsort(list, n, sizeof *list, by_topic);
    zl_buf_init(&out, ZT_MAX_DOCUMENT);
    zl_buf_init(&part, ZT_MAX_DOCUMENT);
    zl_jw_init(&w, &out, 1);
    zl_jw_begin(&w, '{');
    for (const struct zl_json *o = doc->root ? doc->root->child : NULL; o; o = o->next) {
        if (o != table) topic_put(&w, &part, journal->version && zl_is(o->key, "dataVersion") ? journal->version : o);
    }
    zl_jw_key(&w, zl_str("topicConfigTable"));
    zl_jw_begin(&w, '{');
    for (const struct zl_json *t = table ? table->child : NULL; t; t = t->next)
        if (!zt_journal_topic(journal, t->key, &row)) topic_put(&w, &part, t);
    for (uint64_t at = 0; (row = zt_journal_next(journal, &at));) {
        topic_put(&w, &part, row);
        added++;
    }
    for (uint64_t i = 0; i < n; i++) {
        if (i + 1 < n && !strcmp(list[i]->topic, list[i + 1]->topic)) continue; /* the last of a topic has the greatest id */
        if (zt_journal_topic(journal, zl_str(list[i]->topic), &row) ? row != NULL : table && zt_docs_topic(&r->c->docs, zl_str(list[i]->topic))) continue;
        topic_add(&w, zl_str(list[i]->topic), list[i]->id + 1);
        added++;
    }
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    if (added && !out.failed) doc_write(r, doc, zl_buf_as_span(&out), "topics that have queues were added");
    zl_buf_free(&out);
    zl_buf_free(&part);
    free(list);
}

static int64_t clamped(struct zt_repair *r, struct zr_str topic, int32_t id, int64_t offset)
{
    struct zt_queue *q = zt_queue_get(r->c->queues, topic, id, 0);
    int64_t max = q && q->max > 0 ? q->max : 0, next = q ? atomic_load(&q->max_offset) + 1 : 0;
    if (q && q->other) return offset;
    if (next > max) max = next;
    return offset > max ? max : offset < 0 ? 0 : offset;
}

/* Writes the document with every offset inside its queue. */
static void offsets_mend(struct zt_repair *r, struct zt_doc *doc, uint32_t delay)
{
    struct zl_buf out, part;
    struct zl_jw w;
    zl_buf_init(&out, ZT_MAX_DOCUMENT);
    zl_buf_init(&part, ZT_MAX_DOCUMENT);
    zl_jw_init(&w, &out, 1);
    zl_jw_begin(&w, '{');
    for (const struct zl_json *o = doc->root->child; o; o = o->next) {
        zl_jw_key(&w, o->key);
        if (!zl_is(o->key, "offsetTable")) {
            zl_buf_clear(&part);
            zl_json_print(&part, o);
            zl_jw_raw(&w, zl_buf_as_str(&part));
            continue;
        }
        zl_jw_begin(&w, '{');
        for (const struct zl_json *row = o->child; row; row = row->next) {
            struct zr_str group = row->key, topic = { NULL, 0 };
            int32_t id;
            if (delay) {
                if (zl_parse_i32(row->key, &id) != ZR_OK) continue;
                zl_jw_key_int(&w, id);
                zl_jw_i64(&w, clamped(r, zl_str("SCHEDULE_TOPIC_XXXX"), id - 1, zl_json_i64(row, 0)));
                continue;
            }
            zl_split(&group, '@', &topic);
            zl_jw_key(&w, row->key);
            zl_jw_begin(&w, '{');
            for (const struct zl_json *q = row->child; q; q = q->next) {
                if (zl_parse_i32(q->key, &id) != ZR_OK) continue;
                zl_jw_key_int(&w, id);
                zl_jw_i64(&w, clamped(r, topic, id, zl_json_i64(q, 0)));
            }
            zl_jw_end(&w, '}');
        }
        zl_jw_end(&w, '}');
    }
    zl_jw_end(&w, '}');
    if (!out.failed) doc_write(r, doc, zl_buf_as_span(&out), "offsets outside their queues were set to the queues' bounds");
    zl_buf_free(&out);
    zl_buf_free(&part);
}

static uint32_t told(const struct zt_check *c, const char *kind, const char *file)
{
    for (uint64_t i = 0; i < c->report.n; i++)
        if (!strncmp(c->report.rows[i].kind, kind, strlen(kind)) && c->report.rows[i].level > ZT_LEVEL_NOTE && !strcmp(c->report.rows[i].file, file)) return 1;
    return 0;
}

void zt_repair_docs(struct zt_repair *r)
{
    for (uint32_t i = 0; i < ZT_DOCS && !r->failed; i++) {
        struct zt_doc *doc = &r->c->docs.at[i];
        uint32_t content = (i == ZT_DOC_TOPICS && told(r->c, "topic.unknown", doc->name)) ||
                           ((i == ZT_DOC_OFFSETS || i == ZT_DOC_DELAY) && doc->root && told(r->c, "offset.", doc->name));
        if (!told(r->c, "doc.", doc->name) && !content) continue;
        doc_aside(r, doc);
        if (r->failed) return;
        if (content && i == ZT_DOC_TOPICS) topics_mend(r, doc);
        else if (content) offsets_mend(r, doc, i == ZT_DOC_DELAY);
        else if (doc->backup == 1) doc_write(r, doc, zl_buf_as_span(&doc->text), "the .bak was put in place");
        else if (i == ZT_DOC_TOPICS) topics_mend(r, doc);
        else zt_did(r, "%s: moved aside; there is no good copy of it", doc->name);
    }
}
