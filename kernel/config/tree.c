/* SPDX-License-Identifier: Apache-2.0 */
/* tree.c - the configuration tree: its memory, merging, and the nearest name to a mistyped one. */
#include "config/tree.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define TREE_MAX (64ull << 20)
#define PROBLEMS_MAX (256ull << 10)

/* ---- problems and warnings ---------------------------------------------------------------------------------------------- */

static struct zl_buf problems, warnings;
static uint32_t n_problems;

static void note(struct zl_buf *to, const char *file, uint32_t line, const char *fmt, va_list ap)
{
    char text[4096];
    if (to->max == 0)
        zl_buf_init(to, PROBLEMS_MAX);
    vsnprintf(text, sizeof text, fmt, ap);
    if (file && line)
        zl_buf_fmt(to, "%s:%u: %s\n", file, line, text);
    else if (file)
        zl_buf_fmt(to, "%s: %s\n", file, text);
    else
        zl_buf_fmt(to, "%s\n", text);
}

void zk_problem(const char *file, uint32_t line, const char *fmt, ...)
{
    va_list ap;
    n_problems++;
    va_start(ap, fmt);
    note(&problems, file, line, fmt, ap);
    va_end(ap);
}

void zk_warning(const char *file, uint32_t line, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    note(&warnings, file, line, fmt, ap);
    va_end(ap);
}

uint32_t zk_n_problems(void) { return n_problems; }

static const char *text_of(struct zl_buf *b)
{
    if (b->len == 0)
        return "";
    uint8_t *end = zl_buf_reserve(b, 1);
    if (!end) /* full: the last byte is a line end and may go */
        end = b->ptr + b->len - 1;
    *end = 0;
    return (const char *)b->ptr;
}

const char *zk_problems_text(void) { return text_of(&problems); }
const char *zk_warnings_text(void) { return text_of(&warnings); }

void zk_problems_clear(void)
{
    zl_buf_free(&problems);
    zl_buf_free(&warnings);
    problems = warnings = (struct zl_buf){ 0 };
    n_problems = 0;
}

static void show(struct zl_buf *b, const char *mark)
{
    struct zr_str rest = zl_buf_as_str(b), line;
    char text[8192];
    while (rest.len > 0 && zl_split(&rest, '\n', &line))
        if (line.len > 0) {
            int n = snprintf(text, sizeof text, "zarya: %s%.*s\n", mark, (int)(line.len < 8000 ? line.len : 8000), line.ptr);
            zk_log_raw(text, (uint32_t)n); /* behind what was logged before */
        }
}

void zk_problems_show(void)
{
    show(&problems, "");
    show(&warnings, "warning: ");
    zk_problems_clear();
}

void zk_warnings_log(void)
{
    struct zr_str rest = zl_buf_as_str(&warnings), line;
    while (rest.len > 0 && zl_split(&rest, '\n', &line))
        if (line.len > 0)
            zk_log(ZR_LOG_WARN, "%.*s", (int)line.len, line.ptr);
    zl_buf_clear(&warnings);
}

/* ---- memory ------------------------------------------------------------------------------------------------------------- */

static struct zk_arena arena;

void *zk_conf_alloc(uint64_t size)
{
    if (arena.max == 0)
        zk_arena_init(&arena, 64u << 10, TREE_MAX);
    void *p = zk_arena_alloc(&arena, size);
    if (!p) {
        fprintf(stderr, "zarya: the configuration is larger than %llu MiB\n", TREE_MAX >> 20);
        exit(1);
    }
    return memset(p, 0, size);
}

const char *zk_conf_dup(struct zr_str s)
{
    char *p = zk_conf_alloc(s.len + 1);
    if (s.len)
        memcpy(p, s.ptr, s.len);
    return p;
}

const char *zk_conf_fmt(const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return zk_conf_dup(zl_str(text));
}

/* ---- nodes -------------------------------------------------------------------------------------------------------------- */

struct zk_conf *zk_conf_new(uint32_t kind, const char *name, const char *file, uint32_t line)
{
    struct zk_conf *c = zk_conf_alloc(sizeof *c);
    c->kind = kind;
    c->name = zk_conf_dup(zl_str(name ? name : ""));
    c->file = file;
    c->line = line;
    return c;
}

struct zk_conf *zk_conf_new_str(const char *name, struct zr_str text, const char *file, uint32_t line)
{
    struct zk_conf *c = zk_conf_new(ZK_CONF_STR, name, file, line);
    c->text = (struct zr_str){ zk_conf_dup(text), text.len };
    return c;
}

void zk_conf_append(struct zk_conf *parent, struct zk_conf *child)
{
    child->next = NULL;
    if (parent->last)
        parent->last->next = child;
    else
        parent->child = child;
    parent->last = child;
    parent->n++;
}

struct zk_conf *zk_conf_get(const struct zk_conf *group, const char *name)
{
    for (struct zk_conf *c = group ? group->child : NULL; c; c = c->next)
        if (strcmp(c->name, name) == 0)
            return c;
    return NULL;
}

void zk_conf_put(struct zk_conf *parent, struct zk_conf *child)
{
    struct zk_conf **at = &parent->child;
    while (*at && strcmp((*at)->name, child->name) != 0)
        at = &(*at)->next;
    if (!*at) {
        zk_conf_append(parent, child);
        return;
    }
    child->next = (*at)->next;
    if (parent->last == *at)
        parent->last = child;
    *at = child;
}

static void merge_section(struct zk_conf *old, struct zk_conf *more)
{
    struct zk_conf *next;
    if (old->kind != more->kind) {
        zk_problem(more->file, more->line, "%s: is written in another form than at %s:%u", more->name, old->file, old->line);
        return;
    }
    for (struct zk_conf *c = more->child; c; c = next) {
        next = c->next;
        if (more->kind == ZK_CONF_LIST)
            zk_conf_append(old, c);
        else
            zk_conf_put(old, c);
    }
}

void zk_conf_merge(struct zk_conf *base, struct zk_conf *more)
{
    struct zk_conf *next;
    for (struct zk_conf *c = more->child; c; c = next) {
        struct zk_conf *old = zk_conf_get(base, c->name);
        next = c->next;
        if (old && (c->kind == ZK_CONF_GROUP || c->kind == ZK_CONF_LIST))
            merge_section(old, c);
        else
            zk_conf_put(base, c);
    }
}

/* ---- nearest name ------------------------------------------------------------------------------------------------------- */

#define NEAREST_MAX 64u

static uint32_t least(uint32_t a, uint32_t b) { return a < b ? a : b; }

static uint32_t lower(char c) { return (uint32_t)(c >= 'A' && c <= 'Z' ? c + 32 : c == '-' ? '_' : c); }

/* Edits (insert, remove, replace, swap of neighbours) between two names; case and - against _ count nothing. */
static uint32_t distance(const char *a, uint32_t na, const char *b, uint32_t nb)
{
    uint32_t rows[3][NEAREST_MAX + 1];
    uint32_t *before = rows[0], *above = rows[1], *here = rows[2];
    for (uint32_t j = 0; j <= nb; j++)
        above[j] = before[j] = j;
    for (uint32_t i = 1; i <= na; i++) {
        here[0] = i;
        for (uint32_t j = 1; j <= nb; j++) {
            uint32_t same = lower(a[i - 1]) == lower(b[j - 1]);
            here[j] = least(least(above[j] + 1, here[j - 1] + 1), above[j - 1] + !same);
            if (i > 1 && j > 1 && lower(a[i - 1]) == lower(b[j - 2]) && lower(a[i - 2]) == lower(b[j - 1]))
                here[j] = least(here[j], before[j - 2] + 1);
        }
        uint32_t *spare = before;
        before = above;
        above = here;
        here = spare;
    }
    return above[nb];
}

uint32_t zk_distance(struct zr_str a, struct zr_str b)
{
    return a.len > NEAREST_MAX || b.len > NEAREST_MAX ? UINT32_MAX : distance(a.ptr, (uint32_t)a.len, b.ptr, (uint32_t)b.len);
}

const char *zk_nearest(const char *written, const char *const *names, uint32_t n)
{
    uint64_t len = strlen(written);
    const char *best = NULL;
    uint32_t best_distance = UINT32_MAX;
    if (len == 0 || len > NEAREST_MAX)
        return NULL;
    for (uint32_t i = 0; i < n; i++) {
        uint64_t n_len = strlen(names[i]);
        if (n_len > NEAREST_MAX)
            continue;
        uint32_t d = distance(written, (uint32_t)len, names[i], (uint32_t)n_len);
        if (d < best_distance) {
            best_distance = d;
            best = names[i];
        }
    }
    /* Half of a short name wrong is no longer a slip of the finger. */
    return best && best_distance <= (len < 6 ? 2 : len / 3) ? best : NULL;
}
