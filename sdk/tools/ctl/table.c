/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - rows of text, printed aligned or as JSON. Control characters are shown as '.', so that a message's body
 * cannot move the cursor. */
#include "ctl.h"
#include <string.h>

#define CELLS_MAX (1u << 22)
#define COLUMNS_MAX 24u

struct table {
    const char *const *columns;
    uint32_t n_columns, n_cells, cap;
    char **cells;
};

static void out_of_memory(void)
{
    fprintf(stderr, "zaryactl: memory ran out\n");
    exit(EXIT_FAILED);
}

struct table *table_new(const char *const *columns, uint32_t n)
{
    struct table *t = calloc(1, sizeof(*t));
    if (!t) out_of_memory();
    t->columns = columns;
    t->n_columns = n < COLUMNS_MAX ? n : COLUMNS_MAX;
    return t;
}

void cell(struct table *t, struct zr_str text)
{
    if (t->n_cells == CELLS_MAX) return;
    if (t->n_cells == t->cap) {
        t->cap = t->cap ? t->cap * 2 : 64;
        t->cells = realloc(t->cells, t->cap * sizeof(*t->cells));
        if (!t->cells) out_of_memory();
    }
    char *copy = zl_dup(text);
    if (!copy) out_of_memory();
    t->cells[t->n_cells++] = copy;
}

void cell_c(struct table *t, const char *text) { cell(t, zl_str(text)); }

void cell_i(struct table *t, int64_t v)
{
    char text[24];
    cell(t, (struct zr_str){ text, zl_print_i64(text, v) });
}

void cell_f(struct table *t, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof(text), fmt, args);
    va_end(args);
    cell(t, (struct zr_str){ text, n < 0 ? 0 : (uint64_t)n < sizeof(text) ? (uint64_t)n : sizeof(text) - 1 });
}

uint32_t table_rows(const struct table *t) { return t->n_cells / t->n_columns; }

static const char *key_of(const struct table *t, uint32_t column) { return strchr(t->columns[column], ':') + 1; }
static uint32_t is_number(const struct table *t, uint32_t column) { return *key_of(t, column) == '#'; }
static int title_length(const struct table *t, uint32_t column)
{
    return (int)(key_of(t, column) - 1 - t->columns[column]);
}

/* What a text takes on a screen: UTF-8 characters counted once. */
static int shown_width(const char *s)
{
    int n = 0;
    for (; *s; s++) n += ((uint8_t)*s & 0xc0) != 0x80;
    return n;
}

static void put_padded(const char *text, int width, uint32_t right, uint32_t last)
{
    int pad = width - shown_width(text);
    for (int i = 0; right && i < pad; i++) putchar(' ');
    for (const char *s = text; *s; s++) putchar((uint8_t)*s < 32 || *s == 127 ? '.' : *s);
    for (int i = 0; !right && !last && i < pad; i++) putchar(' ');
    if (!last) fputs("  ", stdout);
}

static void print_aligned(const struct table *t)
{
    int width[COLUMNS_MAX];
    uint32_t rows = table_rows(t);
    for (uint32_t c = 0; c < t->n_columns; c++) {
        width[c] = title_length(t, c);
        for (uint32_t r = 0; r < rows; r++) {
            int w = shown_width(t->cells[r * t->n_columns + c]);
            if (w > width[c]) width[c] = w;
        }
    }
    for (uint32_t c = 0; c < t->n_columns; c++) {
        char title[128];
        snprintf(title, sizeof(title), "%.*s", title_length(t, c), t->columns[c]);
        put_padded(title, width[c], is_number(t, c), c + 1 == t->n_columns);
    }
    putchar('\n');
    for (uint32_t r = 0; r < rows; r++) {
        for (uint32_t c = 0; c < t->n_columns; c++)
            put_padded(t->cells[r * t->n_columns + c], width[c], is_number(t, c), c + 1 == t->n_columns);
        putchar('\n');
    }
}

static void json_value(struct zl_jw *w, const struct table *t, uint32_t column, const char *text)
{
    int64_t v;
    const char *key = key_of(t, column);
    zl_jw_key(w, zl_str(key + (*key == '#')));
    if (*key == '#' && zl_parse_i64(zl_str(text), &v) == ZR_OK)
        zl_jw_i64(w, v);
    else if (*key == '#' && *text) {
        char *end;
        double d = strtod(text, &end);
        if (*end == 0)
            zl_jw_f64(w, d);
        else
            zl_jw_str(w, zl_str(text));
    } else
        zl_jw_str(w, zl_str(text));
}

static void print_json(const struct table *t, uint32_t one)
{
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, 1ull << 30);
    zl_jw_init(&w, &out, 0);
    if (!one) zl_jw_begin(&w, '[');
    for (uint32_t r = 0; r < table_rows(t); r++) {
        zl_jw_begin(&w, '{');
        for (uint32_t c = 0; c < t->n_columns; c++) json_value(&w, t, c, t->cells[r * t->n_columns + c]);
        zl_jw_end(&w, '}');
    }
    if (!one) zl_jw_end(&w, ']');
    fwrite(out.ptr, 1, out.len, stdout);
    putchar('\n');
    zl_buf_free(&out);
}

void table_drop(struct table *t)
{
    for (uint32_t i = 0; i < t->n_cells; i++) free(t->cells[i]);
    free(t->cells);
    free(t);
}

void table_print(struct table *t, uint32_t json)
{
    if (json)
        print_json(t, 0);
    else
        print_aligned(t);
    table_drop(t);
}

void table_print_one(struct table *t, uint32_t json)
{
    if (json) {
        print_json(t, 1);
    } else {
        int width = 0;
        for (uint32_t c = 0; c < t->n_columns; c++)
            if (title_length(t, c) > width) width = title_length(t, c);
        for (uint32_t c = 0; c < t->n_columns && c < t->n_cells; c++) {
            printf("%-*.*s  ", width, title_length(t, c), t->columns[c]);
            put_padded(t->cells[c], 0, 0, 1);
            putchar('\n');
        }
    }
    table_drop(t);
}
