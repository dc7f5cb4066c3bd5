/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - what a check found: kept, ordered, and told as text or JSON. Text and JSON say the same. */
#include "tool.h"
#include <stdarg.h>

static const char *const level_names[] = { "note", "mend", "lost" };

void zt_report_init(struct zt_report *r)
{
    memset(r, 0, sizeof *r);
    pthread_mutex_init(&r->lock, NULL);
}

void zt_report_free(struct zt_report *r)
{
    for (uint64_t i = 0; i < r->n; i++) {
        free(r->rows[i].file);
        free(r->rows[i].text);
    }
    free(r->rows);
    r->rows = NULL;
    r->n = 0;
    pthread_mutex_destroy(&r->lock);
}

static uint32_t room(struct zt_report *r)
{
    if (r->n == ZT_MAX_FINDINGS) return 0;
    if (r->n == r->cap) {
        uint64_t cap = r->cap ? r->cap * 2 : 32;
        struct zt_finding *rows = realloc(r->rows, cap * sizeof *rows);
        if (!rows) return 0;
        r->rows = rows;
        r->cap = cap;
    }
    return 1;
}

void zt_find(struct zt_report *r, uint32_t level, const char *kind, const char *file, int64_t at, int64_t len,
             const char *what_to_do, const char *fmt, ...)
{
    char text[2048];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    pthread_mutex_lock(&r->lock);
    r->count[level]++;
    if (room(r)) {
        struct zt_finding *f = &r->rows[r->n];
        *f = (struct zt_finding){ level, at, len, kind, what_to_do, strdup(file), strdup(text) };
        if (f->file && f->text) {
            r->n++;
        } else {
            free(f->file);
            free(f->text);
            r->dropped++;
        }
    } else {
        r->dropped++;
    }
    pthread_mutex_unlock(&r->lock);
}

static int by_weight(const void *a, const void *b)
{
    const struct zt_finding *x = a, *y = b;
    if (x->level != y->level) return x->level > y->level ? -1 : 1;
    int c = strcmp(x->file, y->file);
    if (c) return c;
    return x->at < y->at ? -1 : x->at > y->at;
}

static void sort(struct zt_report *r)
{
    if (r->n) qsort(r->rows, r->n, sizeof *r->rows, by_weight);
}

void zt_report_text(struct zt_report *r)
{
    sort(r);
    for (uint64_t i = 0; i < r->n; i++) {
        const struct zt_finding *f = &r->rows[i];
        fprintf(zt_out(), "[%s] %s", level_names[f->level], f->file);
        if (f->at >= 0) fprintf(zt_out(), " at %lld", (long long)f->at);
        if (f->len > 0) fprintf(zt_out(), ", %lld bytes", (long long)f->len);
        fprintf(zt_out(), ": %s\n", f->text);
        if (f->what_to_do) fprintf(zt_out(), "       -> %s\n", f->what_to_do);
    }
    if (r->dropped) fprintf(zt_out(), "... and %llu more findings\n", (unsigned long long)r->dropped);
}

void zt_report_json(struct zt_report *r, struct zl_jw *w)
{
    sort(r);
    zl_jw_key(w, zl_str("findings"));
    zl_jw_begin(w, '[');
    for (uint64_t i = 0; i < r->n; i++) {
        const struct zt_finding *f = &r->rows[i];
        zl_jw_begin(w, '{');
        zl_jw_kstr(w, "level", zl_str(level_names[f->level]));
        zl_jw_kstr(w, "kind", zl_str(f->kind));
        zl_jw_kstr(w, "file", zl_str(f->file));
        if (f->at >= 0) zl_jw_ki64(w, "at", f->at);
        if (f->len > 0) zl_jw_ki64(w, "bytes", f->len);
        zl_jw_kstr(w, "text", zl_str(f->text));
        if (f->what_to_do) zl_jw_kstr(w, "do", zl_str(f->what_to_do));
        zl_jw_end(w, '}');
    }
    zl_jw_end(w, ']');
    zl_jw_ki64(w, "moreFindings", (int64_t)r->dropped);
}

static uint32_t same(const struct zt_finding *a, const struct zt_finding *b)
{
    return a->level == b->level && a->at == b->at && !strcmp(a->kind, b->kind) && !strcmp(a->file, b->file) && (a->at >= 0 || !strcmp(a->text, b->text));
}

void zt_report_meet(struct zt_report *r, const struct zt_report *before)
{
    uint64_t kept = 0;
    if (r->dropped || before->dropped) return; /* not all is known of one of them */
    for (uint64_t i = 0; i < r->n; i++) {
        struct zt_finding *f = &r->rows[i];
        uint32_t stays = f->level == ZT_LEVEL_NOTE;
        for (uint64_t k = 0; k < before->n && !stays; k++) stays = same(f, &before->rows[k]);
        if (stays) {
            r->rows[kept++] = *f;
            continue;
        }
        r->count[f->level]--;
        free(f->file);
        free(f->text);
    }
    r->n = kept;
}

int zt_report_status(const struct zt_report *r)
{
    if (r->failed) return ZT_CANNOT;
    if (r->count[ZT_LEVEL_LOST]) return ZT_LOST;
    return r->count[ZT_LEVEL_MEND] ? ZT_MENDABLE : ZT_CLEAN;
}
