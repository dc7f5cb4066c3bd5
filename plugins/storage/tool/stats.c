/* SPDX-License-Identifier: Apache-2.0 */
/* stats.c - `stats`: what lies where, how much of it, how old, and what of it will go when. Every record is read. */
#include "tool.h"
#include <sys/stat.h>
#include "zp.h"

struct kind {
    const char *name;
    uint64_t files, bytes, allocated;
};
enum { K_LOG, K_PACKED, K_QUEUES, K_INDEX, K_CONFIG, K_OWN, K_OTHER, KINDS };

static void add(struct kind *k, const struct stat *st)
{
    k->files++;
    k->bytes += (uint64_t)st->st_size;
    k->allocated += (uint64_t)st->st_blocks * 512;
}

static void walk(const char *folder, struct kind *k, struct kind *packed, uint32_t depth)
{
    struct zt_names names;
    zt_names_load(&names, folder);
    for (uint64_t i = 0; i < names.n; i++) {
        char path[ZS_PATH];
        struct stat st;
        if (!zs_path(path, "%s/%s", folder, names.at[i]) || lstat(path, &st) < 0) continue;
        if (S_ISDIR(st.st_mode)) {
            if (depth) walk(path, k, packed, depth - 1);
        } else if (S_ISREG(st.st_mode)) {
            add(packed && zl_ends(zl_str(names.at[i]), ZP_SUFFIX) ? packed : k, &st);
        }
    }
    zt_names_free(&names);
}

static void kinds_fill(const struct zt_view *v, struct kind *kinds)
{
    const char *dir = v->dir;
    static const struct {
        const char *name, *folder;
        uint32_t kind;
    } rows[] = { { "commitlog", "commitlog", K_LOG }, { "consumequeue", "consumequeue", K_QUEUES }, { "index", "index", K_INDEX },
                 { "config", "config", K_CONFIG }, { "zarya", "zarya", K_OWN } };
    struct zt_names names;
    char path[ZS_PATH];
    const struct { const char *name; } titles[KINDS] = { { "log, plain" }, { "log, packed" }, { "queues" }, { "index" }, { "config" }, { "zarya" }, { "other" } };
    for (int i = 0; i < KINDS; i++) kinds[i].name = titles[i].name;
    zt_names_load(&names, dir);
    for (uint64_t i = 0; i < names.n; i++) {
        uint32_t kind = K_OTHER;
        struct stat st;
        for (uint64_t k = 0; k < sizeof rows / sizeof *rows; k++)
            if (!strcmp(rows[k].name, names.at[i])) kind = rows[k].kind;
        if (!zs_path(path, "%s/%s", dir, names.at[i]) || lstat(path, &st) < 0) continue;
        for (uint32_t k = 0; k < v->dirs.n; k++)
            if (!strcmp(path, v->dirs.at[k])) kind = K_LOG;
        if (S_ISDIR(st.st_mode)) walk(path, &kinds[kind], kind == K_LOG ? &kinds[K_PACKED] : NULL, 4);
        else if (S_ISREG(st.st_mode)) add(&kinds[K_OTHER], &st);
    }
    zt_names_free(&names);
    for (uint32_t k = 0; k < v->dirs.n; k++)
        if (!zt_is_inside(dir, v->dirs.at[k])) walk(v->dirs.at[k], &kinds[K_LOG], &kinds[K_PACKED], 0);
}

static int by_bytes(const void *a, const void *b)
{
    uint64_t x = (*(struct zt_queue *const *)a)->n_bytes, y = (*(struct zt_queue *const *)b)->n_bytes;
    if (x != y) return x > y ? -1 : 1;
    return strcmp((*(struct zt_queue *const *)a)->topic, (*(struct zt_queue *const *)b)->topic);
}

/* The packed segments: what they were and what they are. */
static void packed_sum(const struct zt_dirs *dirs, uint64_t *ret_raw, uint64_t *ret_packed)
{
    *ret_raw = *ret_packed = 0;
    for (uint32_t d = 0; d < dirs->n; d++) {
        struct zt_names names;
        zt_names_load(&names, dirs->at[d]);
        for (uint64_t i = 0; i < names.n; i++) {
            char path[ZS_PATH];
            struct zp_info info;
            if (!zl_ends(zl_str(names.at[i]), ZP_SUFFIX) || !zs_path(path, "%s/%s", dirs->at[d], names.at[i]) || zp_peek(zt_io(), path, &info) < 0) continue;
            *ret_raw += (uint64_t)info.raw_size;
            *ret_packed += info.size;
        }
        zt_names_free(&names);
    }
}

/* When the first segment goes, and how much there is then, at the rate of what is there. */
static void forecast_print(const struct zt_check *c, int64_t hours)
{
    const struct zt_log *lg = &c->log;
    char text[32], bytes[16];
    double span = (double)(lg->last_ms - lg->first_ms) / 3600000.0;
    if (lg->n_segs == 0 || lg->n_records == 0) return;
    zt_time_text(text, lg->segs[0].last_ms + hours * 3600000);
    printf("retention of %lld hours: the first segment is expired at %s", (long long)hours, text);
    if (span > 0.01) {
        double rate = (double)lg->n_bytes / span;
        zt_size_text(bytes, (uint64_t)rate);
        printf("; %s an hour came in, which makes ", bytes);
        zt_size_text(bytes, (uint64_t)(rate * (double)hours) + (uint64_t)lg->seg_size);
        printf("%s of log at that rate", bytes);
    }
    printf("\n");
}

static void json_queue(struct zl_jw *w, const struct zt_queue *q)
{
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "topic", zl_str(q->topic));
    zl_jw_ki64(w, "queue", q->id);
    zl_jw_ki64(w, "min", q->min);
    zl_jw_ki64(w, "max", q->max);
    zl_jw_ki64(w, "messages", (int64_t)q->n_records);
    zl_jw_ki64(w, "bytes", (int64_t)q->n_bytes);
    zl_jw_ki64(w, "lost", (int64_t)q->n_filler);
    zl_jw_end(w, '}');
}

static void json_print(struct zt_check *c, struct kind *kinds, struct zt_queue **list, uint64_t n, int64_t hours)
{
    struct zl_buf out;
    struct zl_jw w;
    uint64_t raw, packed;
    zl_buf_init(&out, 1u << 30);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("files"));
    zl_jw_begin(&w, '[');
    for (int i = 0; i < KINDS; i++) {
        zl_jw_begin(&w, '{');
        zl_jw_kstr(&w, "kind", zl_str(kinds[i].name));
        zl_jw_ki64(&w, "files", (int64_t)kinds[i].files);
        zl_jw_ki64(&w, "bytes", (int64_t)kinds[i].bytes);
        zl_jw_ki64(&w, "onDisk", (int64_t)kinds[i].allocated);
        zl_jw_end(&w, '}');
    }
    zl_jw_end(&w, ']');
    zl_jw_ki64(&w, "records", (int64_t)c->log.n_records);
    zl_jw_ki64(&w, "bytes", (int64_t)c->log.n_bytes);
    zl_jw_ki64(&w, "oldest", c->log.first_ms);
    zl_jw_ki64(&w, "newest", c->log.last_ms);
    zl_jw_ki64(&w, "firstExpiry", c->log.n_segs ? c->log.segs[0].last_ms + hours * 3600000 : 0);
    zl_jw_ki64(&w, "indexFiles", (int64_t)c->index.n);
    zl_jw_ki64(&w, "indexEntries", (int64_t)c->index.n_entries);
    packed_sum(&c->view.dirs, &raw, &packed);
    zl_jw_ki64(&w, "packedFrom", (int64_t)raw);
    zl_jw_ki64(&w, "packedTo", (int64_t)packed);
    zl_jw_key(&w, zl_str("queues"));
    zl_jw_begin(&w, '[');
    for (uint64_t i = 0; i < n; i++) json_queue(&w, list[i]);
    zl_jw_end(&w, ']');
    zl_jw_end(&w, '}');
    printf("%.*s\n", (int)out.len, (const char *)out.ptr);
    zl_buf_free(&out);
}

static void text_print(struct zt_check *c, struct kind *kinds, struct zt_queue **list, uint64_t n, int64_t hours)
{
    char a[16], b[16], first[32], last[32];
    uint64_t raw, packed, bodies = 0, filled = 0, room = 0, queue_bytes = 0;
    printf("%-12s %10s %12s %12s\n", "kind", "files", "bytes", "on disk");
    for (int i = 0; i < KINDS; i++) {
        if (!kinds[i].files) continue;
        zt_size_text(a, kinds[i].bytes);
        zt_size_text(b, kinds[i].allocated);
        printf("%-12s %10llu %12s %12s\n", kinds[i].name, (unsigned long long)kinds[i].files, a, b);
    }
    for (uint64_t i = 0; i < c->log.n_segs; i++) bodies += c->log.segs[i].n_bodies;
    zt_size_text(a, c->log.n_bytes);
    zt_size_text(b, bodies);
    zt_time_text(first, c->log.first_ms);
    zt_time_text(last, c->log.last_ms);
    printf("\n%llu messages in %s, bodies %s; oldest %s, newest %s\n", (unsigned long long)c->log.n_records, a, b, first, last);
    forecast_print(c, hours);
    for (uint64_t i = 0; i < c->index.n; i++) {
        filled += c->index.files[i].good > 0 ? (uint64_t)c->index.files[i].good - 1 : 0;
        room += (uint64_t)c->index.files[i].entries;
    }
    if (room) printf("index: %llu entries, %.1f %% of its files' room\n", (unsigned long long)filled, 100.0 * (double)filled / (double)room);
    packed_sum(&c->view.dirs, &raw, &packed);
    if (packed) printf("packed segments: %.2f times smaller\n", (double)raw / (double)packed);
    for (uint64_t i = 0; i < n; i++) queue_bytes += list[i]->n_entries * ZS_ENTRY;
    uint64_t disk = 0, used = c->log.n_bytes + queue_bytes + filled * 20;
    for (int i = K_LOG; i <= K_INDEX; i++) disk += kinds[i].allocated;
    if (!packed && disk > used) {
        zt_size_text(a, disk - used);
        printf("waste: %s of the disk hold no record, entry or key (blanks, room made ahead, slots)\n", a);
    }
    printf("\n%-40s %5s %12s %12s %12s %12s %8s\n", "topic", "queue", "min", "max", "messages", "bytes", "lost");
    for (uint64_t i = 0; i < n; i++) {
        const struct zt_queue *q = list[i];
        zt_size_text(a, q->n_bytes);
        printf("%-40s %5d %12lld %12lld %12llu %12s %8llu\n", q->topic, q->id, (long long)q->min, (long long)q->max, (unsigned long long)q->n_records, a, (unsigned long long)q->n_filler);
    }
}

int zt_cmd_stats(const char *dir, const struct zt_options *opt, int64_t retention_hours)
{
    struct zt_check *c = calloc(1, sizeof *c);
    struct kind kinds[KINDS] = { 0 };
    uint64_t n = 0;
    if (!c) return ZT_CANNOT;
    int rc = zt_check_run(c, dir, opt);
    struct zt_queue **list = rc == ZT_CLEAN ? calloc(atomic_load(&c->queues->n) + 1, sizeof *list) : NULL;
    if (list) {
        for (struct zt_queue *q = atomic_load(&c->queues->all); q; q = q->all)
            if (q->n_files || q->n_records) list[n++] = q;
        qsort(list, n, sizeof *list, by_bytes);
        kinds_fill(&c->view, kinds);
        if (opt->json) json_print(c, kinds, list, n, retention_hours);
        else text_print(c, kinds, list, n, retention_hours);
        if (zt_report_status(&c->report) != ZT_CLEAN) fprintf(stderr, "not all is as it should be: see zaryactl store check\n");
    }
    free(list);
    zt_check_free(c);
    free(c);
    return list ? ZT_CLEAN : ZT_CANNOT;
}
