/* SPDX-License-Identifier: Apache-2.0 */
/* journal.c - zarya/journal/topics.<number>: changes to topics that config/topics.json does not hold yet. The broker keeps them there
 * while the document is large, and takes them over the document at its next start; after a kill they are to be seen here together.
 *
 * The format, and who writes what when, is told in the kernel's broker/journal.c; this is a second reader of it, since a plugin's
 * program holds no part of the kernel. What stays true:
 *   1. It reads: files are neither changed nor removed. A document that --repair writes holds what they say, and a start that finds
 *      them behind it takes only names that it does not know.
 *   2. What is taken is what a start would take: rows behind the document that is there, known by its print; of a document that
 *      somebody else has written, names that it does not have and that came behind the last one of ours.
 *   3. A file ends where its records do: what a cut write left is not looked at. */
#include "tool.h"
#include "zl/text.h"

#define MAGIC 0x5A52444Au
#define HEADER 24u
#define KIND_HEAD 1u
#define KIND_MARK 2u
#define KIND_PLACED 3u
#define KIND_ROWS 4u
#define MAX_FILES 256u           /* as many as a broker keeps; the newest */
#define MAX_BYTES (256ull << 20) /* of all of them; a broker ends at a quarter of it */
#define MAX_RECORDS (1u << 20)

struct zt_journal_row { struct zr_str name; const struct zl_json *node; uint64_t order; }; /* node NULL: removed */
struct record { uint32_t kind; uint64_t seq; struct zr_span payload; };

static uint64_t be(const uint8_t *p, uint32_t n)
{
    uint64_t v = 0;
    for (uint32_t i = 0; i < n; i++) v = v << 8 | p[i];
    return v;
}

/* 1: a whole one at *at, which moves behind it. */
static uint32_t record_next(const struct zl_buf *file, uint64_t *at, uint32_t *chain, struct record *ret)
{
    static const uint8_t none[4];
    const uint8_t *p = file->ptr + *at;
    uint64_t left = file->len - *at, len;
    if (left < HEADER || be(p, 4) != MAGIC || (len = be(p + 4, 4)) > left - HEADER) return 0;
    uint32_t crc = zl_crc32(*chain, p, 12); /* its own place counts as zero */
    crc = zl_crc32(crc, none, 4);
    crc = zl_crc32(crc, p + 16, HEADER - 16 + len);
    *ret = (struct record){ (uint32_t)be(p + 8, 4), be(p + 16, 8), { p + HEADER, len } };
    if (crc != be(p + 12, 4) || (ret->kind == KIND_HEAD) != (*at == 0)) return 0;
    *chain = crc;
    *at += HEADER + len;
    return 1;
}

/* ---- the files ---------------------------------------------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return x < y ? -1 : x > y;
}

struct found { uint64_t numbers[MAX_FILES]; uint32_t n; };

static int32_t found_add(void *ctx, const char *name)
{
    struct found *f = ctx;
    struct zr_str rest = zl_str(name);
    int64_t number;
    if (!zl_starts(rest, "topics.")) return 0;
    rest = (struct zr_str){ rest.ptr + 7, rest.len - 7 };
    for (uint64_t i = 0; i < rest.len; i++)
        if (rest.ptr[i] < '0' || rest.ptr[i] > '9') return 0;
    if (rest.len > 18 || zl_parse_i64(rest, &number) != ZR_OK) return 0;
    uint32_t oldest = 0;
    for (uint32_t i = 1; f->n == MAX_FILES && i < f->n; i++)
        if (f->numbers[i] < f->numbers[oldest]) oldest = i;
    if (f->n < MAX_FILES) f->numbers[f->n++] = (uint64_t)number;
    else if ((uint64_t)number > f->numbers[oldest]) f->numbers[oldest] = (uint64_t)number;
    return 0;
}

static void unreadable(struct zt_report *report, const char *file, int64_t error)
{
    zt_find(report, ZT_LEVEL_NOTE, "doc.unreadable", file, -1, 0, "look at the disk and at the file's permissions", "it cannot be read: %s", zs_errno_text(error));
    report->failed = 1; /* it may be whole, and hold what was answered for */
}

void zt_journal_load(struct zt_journal *j, struct zt_view *v, struct zt_report *report)
{
    char path[ZS_PATH], name[64];
    struct found found = { .n = 0 };
    uint64_t total = 0;
    memset(j, 0, sizeof *j);
    if (!zs_path(path, "%s/zarya/journal", v->dir)) return;
    int64_t e = zt_io()->list(zt_io()->ctx, path, found_add, &found);
    if (e == -ENOENT || e == -ENOTDIR) return;
    if (e < 0) return unreadable(report, "zarya/journal", e);
    qsort(found.numbers, found.n, sizeof found.numbers[0], by_number);
    if (found.n && !(j->files = calloc(found.n, sizeof *j->files))) return unreadable(report, "zarya/journal", -ENOMEM);
    for (uint32_t i = 0; i < found.n; i++) {
        snprintf(name, sizeof name, "zarya/journal/topics.%llu", (unsigned long long)found.numbers[i]);
        zl_buf_init(&j->files[j->n_files], MAX_BYTES - total);
        e = zs_path(path, "%s/%s", v->dir, name) ? zl_io_load(zt_io(), path, &j->files[j->n_files]) : -ENAMETOOLONG;
        if (e < 0 && !(e == -ENOENT && v->live)) unreadable(report, name, e); /* a running broker removes what it needs no more */
        total += j->files[j->n_files++].len;
    }
}

void zt_journal_free(struct zt_journal *j)
{
    for (uint32_t i = 0; i < j->n_files; i++) zl_buf_free(&j->files[i]);
    for (uint32_t i = 0; i < j->n_docs; i++) zl_json_free(j->docs[i]);
    free(j->files);
    free(j->docs);
    free(j->rows);
    memset(j, 0, sizeof *j);
}

/* ---- what is behind the document ---------------------------------------------------------------------------------------------------- */

static uint64_t print_of(struct zr_str document)
{
    uint64_t hash = 0xcbf29ce484222325ull; /* FNV-1a */
    for (uint64_t i = 0; i < document.len; i++) hash = (hash ^ (uint8_t)document.ptr[i]) * 0x100000001b3ull;
    return hash;
}

/* The seq behind which rows count. *ret_known: the document is one of ours. */
static uint64_t rows_from(const struct zt_journal *j, struct zr_str document, uint32_t from_itself, uint32_t *ret_known)
{
    uint64_t known_seq = 0, placed_seq = 0, hash = print_of(document);
    *ret_known = 0;
    for (uint32_t i = 0; i < j->n_files; i++) {
        struct record r;
        uint64_t at = 0;
        uint32_t chain = 0;
        while (record_next(&j->files[i], &at, &chain, &r)) {
            if ((r.kind != KIND_MARK && r.kind != KIND_PLACED) || r.payload.len != 16) continue;
            if (r.kind == KIND_PLACED && r.seq > placed_seq) placed_seq = r.seq;
            if (!document.len || be(r.payload.ptr, 8) != hash || be(r.payload.ptr + 8, 8) != document.len) continue;
            if (!*ret_known || r.seq > known_seq) known_seq = r.seq;
            *ret_known = 1;
        }
    }
    return *ret_known ? known_seq : from_itself ? placed_seq : 0;
}

static uint32_t row_add(struct zt_journal *j, struct zr_str name, const struct zl_json *node)
{
    if (j->n_rows == j->cap_rows) {
        uint64_t cap = j->cap_rows ? 2 * j->cap_rows : 256;
        struct zt_journal_row *more = realloc(j->rows, cap * sizeof *more);
        if (!more) return 0;
        j->rows = more;
        j->cap_rows = cap;
    }
    j->rows[j->n_rows] = (struct zt_journal_row){ name, node, j->n_rows };
    j->n_rows++;
    return 1;
}

/* 0: memory ran out. */
static uint32_t rows_take(struct zt_journal *j, struct zr_span payload)
{
    const struct zl_json *root;
    struct zl_json_doc *doc;
    uint64_t at;
    uint32_t ok = 1;
    zr_status status = zl_json_parse((struct zr_str){ (const char *)payload.ptr, payload.len }, &doc, &root, &at);
    if (status != ZR_OK) return status != ZR_ENOMEM; /* its checksum is right: a start leaves it out as well */
    if ((j->n_docs & (j->n_docs - 1)) == 0) { /* 0, 1, 2, 4, ...: full */
        struct zl_json_doc **more = realloc(j->docs, (j->n_docs ? 2 * (uint64_t)j->n_docs : 1) * sizeof(struct zl_json_doc *));
        if (!more) return zl_json_free(doc), 0;
        j->docs = more;
    }
    j->docs[j->n_docs++] = doc;
    const struct zl_json *table = zl_json_get(root, "topicConfigTable"), *removed = zl_json_get(root, "removed"), *version = zl_json_get(root, "dataVersion");
    for (const struct zl_json *e = table ? table->child : NULL; e && ok; e = e->next)
        if (e->kind == ZL_JSON_OBJECT && e->key.len) ok = row_add(j, e->key, e);
    for (const struct zl_json *e = removed ? removed->child : NULL; e && ok; e = e->next)
        if (zl_json_str(e).len) ok = row_add(j, zl_json_str(e), NULL);
    if (version && (!j->version || zl_json_get_i64(version, "counter", 0) > zl_json_get_i64(j->version, "counter", 0))) j->version = version;
    return ok;
}

static int by_name(const void *a, const void *b)
{
    const struct zt_journal_row *x = a, *y = b;
    int c = zl_compare(x->name, y->name);
    return c ? c : x->order < y->order ? -1 : x->order > y->order;
}

/* The last row of each name stays. believed: what the document has is as the document says. 0: memory ran out. */
static uint32_t rows_settle(struct zt_journal *j, const struct zl_json *table, uint32_t believed)
{
    struct zt_journal_row *names = NULL;
    uint64_t n = 0, kept = 0;
    for (const struct zl_json *t = believed && table ? table->child : NULL; t; t = t->next) n++;
    if (n && !(names = calloc(n, sizeof *names))) return 0;
    if (n) {
        n = 0;
        for (const struct zl_json *t = table->child; t; t = t->next) names[n++] = (struct zt_journal_row){ t->key, NULL, 0 };
        qsort(names, n, sizeof *names, by_name);
    }
    qsort(j->rows, j->n_rows, sizeof *j->rows, by_name);
    for (uint64_t i = 0; i < j->n_rows; i++) {
        struct zt_journal_row row = j->rows[i], key = { row.name, NULL, 0 };
        if (i + 1 < j->n_rows && zl_eq(row.name, j->rows[i + 1].name)) continue;
        if (names && bsearch(&key, names, n, sizeof *names, by_name)) continue;
        j->rows[kept++] = row;
    }
    j->n_rows = kept;
    if (believed) j->version = NULL;
    free(names);
    return 1;
}

void zt_journal_follow(struct zt_journal *j, struct zr_str document, const struct zl_json *table, uint32_t from_itself, struct zt_report *report)
{
    uint32_t known = 0, records = 0, ok = 1;
    uint64_t from = j->n_files ? rows_from(j, document, from_itself, &known) : 0;
    for (uint32_t i = 0; i < j->n_files && ok; i++) {
        struct record r;
        uint64_t at = 0;
        uint32_t chain = 0;
        while (ok && record_next(&j->files[i], &at, &chain, &r))
            if (r.kind == KIND_ROWS && r.seq > from) ok = ++records <= MAX_RECORDS && rows_take(j, r.payload);
    }
    if (ok && j->n_rows) ok = rows_settle(j, table, from_itself && !known);
    if (!ok) unreadable(report, "zarya/journal", -ENOMEM);
}

uint32_t zt_journal_topic(const struct zt_journal *j, struct zr_str topic, const struct zl_json **ret)
{
    uint64_t from = 0, to = j->n_rows;
    while (from < to) {
        uint64_t mid = from + (to - from) / 2;
        int c = zl_compare(j->rows[mid].name, topic);
        if (c == 0) {
            *ret = j->rows[mid].node;
            return 1;
        }
        if (c < 0) from = mid + 1;
        else to = mid;
    }
    return 0;
}

const struct zl_json *zt_journal_next(const struct zt_journal *j, uint64_t *at)
{
    while (*at < j->n_rows) {
        const struct zl_json *node = j->rows[(*at)++].node;
        if (node) return node;
    }
    return NULL;
}
