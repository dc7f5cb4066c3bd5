/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - option rows: parsing, limits, units, filling by offset, printing.
 *
 * What stays true:
 *   1. A settings struct is written only by offset and only inside settings_size; rows that would reach beyond are refused
 *      before anything is filled.
 *   2. Every message says where (file:line), which option, what was written, and what is allowed. */
#include "config/options.h"
#include "zl/json.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

const struct zr_option *zk_row(const struct zk_rows *rows, uint32_t i)
{
    return (const struct zr_option *)(const void *)((const char *)rows->rows + (uint64_t)i * rows->rows->hdr.size);
}

const struct zr_option *zk_row_named(const struct zk_rows *rows, const char *name)
{
    for (uint32_t i = 0; i < rows->n; i++)
        if (strcmp(zk_row(rows, i)->name, name) == 0)
            return zk_row(rows, i);
    return NULL;
}

/* ---- units ------------------------------------------------------------------------------------------------------------------ */

struct unit { const char *name; int64_t factor; };
static const struct unit byte_units[] = { { "B", 1 },           { "KiB", 1ll << 10 }, { "MiB", 1ll << 20 },    { "GiB", 1ll << 30 },
                                          { "TiB", 1ll << 40 }, { "kB", 1000 },       { "MB", 1000000 },       { "GB", 1000000000 },
                                          { "TB", 1000000000000ll }, { NULL, 0 } };
/* In ns. */
static const struct unit time_units[] = { { "ns", 1 },           { "us", 1000 },            { "ms", 1000000 },           { "s", 1000000000ll },
                                          { "min", 60000000000ll }, { "m", 60000000000ll }, { "h", 3600000000000ll }, { "d", 86400000000000ll }, { NULL, 0 } };

static uint32_t unit_is(const struct zr_option *row, const char *unit) { return row->unit && strcmp(row->unit, unit) == 0; }
static uint32_t is_bytes(const struct zr_option *row) { return unit_is(row, "bytes"); }
static int64_t time_base(const struct zr_option *row) { return unit_is(row, "ms") ? 1000000 : unit_is(row, "ns") ? 1 : 0; }

static const struct unit *units_of(const struct zr_option *row)
{
    return is_bytes(row) ? byte_units : time_base(row) ? time_units : NULL;
}

static const char *units_known(const struct zr_option *row)
{
    return is_bytes(row) ? "B, KiB, MiB, GiB, TiB, kB, MB, GB, TB" : time_base(row) ? "ns, us, ms, s, min (or m), h, d" : "none";
}

/* ---- parsing; a fault's text is left in why -------------------------------------------------------------------------------- */

struct why { char text[512]; };
#define WRONG(why, ...) (snprintf((why)->text, sizeof(why)->text, __VA_ARGS__), ZR_EINVAL)

static zr_status scale(const struct zr_option *row, struct zr_str whole, int64_t number, struct zr_str unit, int64_t *ret, struct why *why)
{
    const struct unit *u = units_of(row);
    while (u && u->name && !zl_is(unit, u->name))
        u++;
    if (!u || !u->name)
        return WRONG(why, "\"%.*s\" has the unit \"%.*s\"; known here: %s", (int)whole.len, whole.ptr, (int)unit.len, unit.ptr, units_known(row));
    int64_t base = is_bytes(row) ? 1 : time_base(row), v;
    if (u->factor >= base) {
        if (__builtin_mul_overflow(number, u->factor / base, &v))
            return WRONG(why, "\"%.*s\" is beyond 64 bits", (int)whole.len, whole.ptr);
    } else if (number % (base / u->factor) != 0) {
        return WRONG(why, "\"%.*s\" is no whole number of %s", (int)whole.len, whole.ptr, row->unit);
    } else {
        v = number / (base / u->factor);
    }
    *ret = v;
    return ZR_OK;
}

static zr_status parse_i64(const struct zr_option *row, struct zr_str text, int64_t *ret, struct why *why)
{
    struct zr_str t = zl_trim(text), number = t;
    for (number.len = 0; number.len < t.len; number.len++) {
        char c = t.ptr[number.len];
        if (!(c >= '0' && c <= '9') && !(number.len == 0 && (c == '-' || c == '+')))
            break;
    }
    struct zr_str unit = zl_trim((struct zr_str){ t.ptr + number.len, t.len - number.len });
    int64_t v;
    if (number.len == 0 || zl_parse_i64(number, &v) != ZR_OK || (unit.len > 0 && (!units_of(row) || unit.ptr[0] == '.')))
        return WRONG(why, "\"%.*s\" is no whole number%s%s", (int)(t.len < 80 ? t.len : 80), t.ptr, units_of(row) ? ", with or without one of the units " : "",
                     units_of(row) ? units_known(row) : "");
    if (unit.len > 0)
        return scale(row, t, v, unit, ret, why);
    *ret = v;
    return ZR_OK;
}

static zr_status parse_f64(struct zr_str text, double *ret, struct why *why)
{
    char copy[64], *end;
    struct zr_str t = zl_trim(text);
    snprintf(copy, sizeof copy, "%.*s", (int)(t.len < 60 ? t.len : 60), t.ptr ? t.ptr : "");
    errno = 0;
    *ret = strtod(copy, &end);
    if (t.len == 0 || t.len > 60 || *end || errno || *ret != *ret)
        return WRONG(why, "\"%s\" is no number", copy);
    return ZR_OK;
}

static zr_status parse_enum(const struct zr_option *row, struct zr_str text, int64_t *ret, struct why *why)
{
    char all[256] = "";
    uint32_t n = 0, at = 0;
    for (; row->choices && row->choices[n]; n++) {
        if (zl_is(text, row->choices[n])) {
            *ret = n;
            return ZR_OK;
        }
        if (at < sizeof all)
            at += (uint32_t)snprintf(all + at, sizeof all - at, "%s\"%s\"", n ? ", " : "", row->choices[n]);
    }
    const char *near = zk_nearest(zk_conf_dup(text), row->choices, n);
    if (near)
        return WRONG(why, "\"%.*s\" is not one of %s; did you mean \"%s\"?", (int)text.len, text.ptr, all, near);
    return WRONG(why, "\"%.*s\" is not one of %s", (int)text.len, text.ptr, all);
}

/* ---- limits ----------------------------------------------------------------------------------------------------------------- */

static zr_status check_i64(const struct zr_option *row, struct zr_str as_written, int64_t v, struct why *why)
{
    struct why ignored;
    int64_t limit;
    if (row->min && parse_i64(row, zl_str(row->min), &limit, &ignored) == ZR_OK && v < limit)
        return WRONG(why, "%.*s is below %s (allowed: %s to %s)", (int)as_written.len, as_written.ptr, row->min, row->min, row->max ? row->max : "any");
    if (row->max && parse_i64(row, zl_str(row->max), &limit, &ignored) == ZR_OK && v > limit)
        return WRONG(why, "%.*s is above %s (allowed: %s to %s)", (int)as_written.len, as_written.ptr, row->max, row->min ? row->min : "any", row->max);
    return ZR_OK;
}

static zr_status check_f64(const struct zr_option *row, double v, struct why *why)
{
    struct why ignored;
    double limit;
    if (row->min && parse_f64(zl_str(row->min), &limit, &ignored) == ZR_OK && v < limit)
        return WRONG(why, "%g is below %s (allowed: %s to %s)", v, row->min, row->min, row->max ? row->max : "any");
    if (row->max && parse_f64(zl_str(row->max), &limit, &ignored) == ZR_OK && v > limit)
        return WRONG(why, "%g is above %s (allowed: %s to %s)", v, row->max, row->min ? row->min : "any", row->max);
    return ZR_OK;
}

/* ---- one value into its place ------------------------------------------------------------------------------------------------- */

static uint32_t size_of_type(uint32_t type)
{
    switch (type) {
    case ZR_OPT_BOOL: return 1;
    case ZR_OPT_I64:
    case ZR_OPT_ENUM: return sizeof(int64_t);
    case ZR_OPT_F64: return sizeof(double);
    case ZR_OPT_STR: return sizeof(struct zr_str);
    case ZR_OPT_LIST: return sizeof(struct zr_list);
    default: return 0;
    }
}

static const char *type_in_words(uint32_t type)
{
    static const char *const words[] = { "", "true or false", "a whole number", "a number", "text in quotes", "one of the listed words, in quotes",
                                         "a list of texts in quotes" };
    return words[type <= ZR_OPT_LIST ? type : 0];
}

static zr_status store_scalar(const struct zr_option *row, uint32_t kind, struct zr_str text, uint8_t *at, struct why *why)
{
    int64_t i = 0;
    double f = 0;
    zr_status status = ZR_OK;
    if (kind == ZK_CONF_GROUP || kind == ZK_CONF_LIST || (kind == ZK_CONF_BOOL) != (row->type == ZR_OPT_BOOL && kind != ZK_CONF_STR))
        return WRONG(why, "must be %s", type_in_words(row->type));
    switch (row->type) {
    case ZR_OPT_BOOL:
        if (!zl_is(text, "true") && !zl_is(text, "false"))
            return WRONG(why, "\"%.*s\" is neither true nor false", (int)text.len, text.ptr);
        *at = (uint8_t)zl_is(text, "true");
        return ZR_OK;
    case ZR_OPT_I64:
        status = parse_i64(row, text, &i, why);
        if (status == ZR_OK)
            status = check_i64(row, text, i, why);
        memcpy(at, &i, sizeof i);
        return status;
    case ZR_OPT_F64:
        status = parse_f64(text, &f, why);
        if (status == ZR_OK)
            status = check_f64(row, f, why);
        memcpy(at, &f, sizeof f);
        return status;
    default:
        break;
    }
    if (kind != ZK_CONF_STR)
        return WRONG(why, "must be %s, not the number %.*s", type_in_words(row->type), (int)text.len, text.ptr);
    if (row->type == ZR_OPT_ENUM) {
        status = parse_enum(row, text, &i, why);
        memcpy(at, &i, sizeof i);
        return status;
    }
    struct zr_str s = { zk_conf_dup(text), text.len };
    memcpy(at, &s, sizeof s);
    return ZR_OK;
}

static zr_status store_list(const struct zk_conf *value, uint8_t *at, struct why *why)
{
    uint32_t n = value->kind == ZK_CONF_LIST ? value->n : 1, i = 0;
    struct zr_str *items = zk_conf_alloc((n ? n : 1) * sizeof *items);
    const struct zk_conf *c = value->kind == ZK_CONF_LIST ? value->child : value;
    for (; i < n; i++, c = c->next) {
        if (c->kind != ZK_CONF_STR)
            return WRONG(why, "must be a list of texts in quotes (item %u is none)", i + 1);
        items[i] = c->text;
    }
    struct zr_list list = { items, n };
    memcpy(at, &list, sizeof list);
    return ZR_OK;
}

static zr_status store(const struct zr_option *row, const struct zk_conf *value, uint8_t *settings, struct why *why)
{
    if (row->type == ZR_OPT_LIST)
        return store_list(value, settings + row->offset, why);
    return store_scalar(row, value->kind, value->text, settings + row->offset, why);
}

static zr_status store_default(const struct zr_option *row, uint8_t *settings, struct why *why)
{
    if (!row->dflt) {
        if (row->type == ZR_OPT_STR) /* "followed by a NUL" holds for the empty text too */
            return store_scalar(row, ZK_CONF_STR, zl_str(""), settings + row->offset, why);
        return ZR_OK;
    }
    if (row->type != ZR_OPT_LIST)
        return store_scalar(row, ZK_CONF_STR, zl_str(row->dflt), settings + row->offset, why);
    struct zk_conf *list = zk_conf_new(ZK_CONF_LIST, row->name, NULL, 0);
    struct zr_str rest = zl_str(row->dflt), part;
    while (zl_split(&rest, ' ', &part))
        if (part.len > 0)
            zk_conf_append(list, zk_conf_new_str("", part, NULL, 0));
    return store_list(list, settings + row->offset, why);
}

/* ---- rows that are sound -------------------------------------------------------------------------------------------------------- */

static const char *row_fault(const struct zk_rows *rows, uint32_t i)
{
    const struct zr_option *row = zk_row(rows, i);
    uint32_t size;
    if (!row->name || !*row->name)
        return "has no name";
    if (row->hdr.flags & 0xffu)
        return "has a must-understand flag that this kernel does not know";
    size = size_of_type(row->type);
    if (size == 0)
        return "has a type that this kernel does not know";
    if (row->offset > rows->settings_size || rows->settings_size - row->offset < size)
        return "lies outside of the settings struct";
    if (row->offset % (size > 8 ? 8 : size) != 0)
        return "is not aligned";
    if (row->type == ZR_OPT_ENUM && (!row->choices || !row->choices[0]))
        return "has no choices";
    for (uint32_t j = 0; j < i; j++)
        if (strcmp(zk_row(rows, j)->name, row->name) == 0)
            return "is there twice";
    return NULL;
}

uint32_t zk_rows_sound(const struct zk_rows *rows, const char *file, uint32_t line)
{
    uint32_t had = zk_n_problems();
    if (rows->n > 0 && (!rows->rows || rows->rows->hdr.size < sizeof(struct zr_option) || rows->rows->hdr.size % 8 != 0)) {
        zk_problem(file, line, "%s: its option rows are smaller than this ABI's", rows->who);
        return 0;
    }
    uint8_t *scratch = zk_conf_alloc(rows->settings_size + 1u);
    for (uint32_t i = 0; i < rows->n; i++) {
        struct why why;
        const char *fault = row_fault(rows, i);
        if (fault)
            zk_problem(file, line, "%s: option row %u (%s) %s", rows->who, i, zk_row(rows, i)->name ? zk_row(rows, i)->name : "?", fault);
        else if (store_default(zk_row(rows, i), scratch, &why) != ZR_OK)
            zk_problem(file, line, "%s: option row %s has a default that is not allowed: %s", rows->who, zk_row(rows, i)->name, why.text);
    }
    return zk_n_problems() == had;
}

/* ---- filling ------------------------------------------------------------------------------------------------------------------- */

static void note_unknown(const struct zk_rows *rows, const struct zk_conf *value)
{
    const char **names = zk_conf_alloc((rows->n + 1u) * sizeof *names);
    for (uint32_t i = 0; i < rows->n; i++)
        names[i] = zk_row(rows, i)->name;
    const char *near = zk_nearest(value->name, names, rows->n);
    if (near)
        zk_problem(value->file, value->line, "%s.%s: there is no such option; did you mean \"%s\"?", rows->who, value->name, near);
    else if (rows->n == 0)
        zk_problem(value->file, value->line, "%s.%s: there is no such option; it has none", rows->who, value->name);
    else
        zk_problem(value->file, value->line, "%s.%s: there is no such option (zarya --schema lists all)", rows->who, value->name);
}

static void fill_one(const struct zk_rows *rows, const struct zk_conf *value, uint8_t *settings, void (*unknown)(const struct zk_conf *value))
{
    const struct zr_option *row = zk_row_named(rows, value->name);
    struct why why;
    if (!row) {
        if (!value->soft)
            note_unknown(rows, value);
        else if (unknown)
            unknown(value);
        return;
    }
    if (row->flags & ZR_OPT_DEPRECATED)
        zk_warning(value->file, value->line, "%s.%s: is deprecated: %s", rows->who, row->name, row->doc ? row->doc : "");
    if (store(row, value, settings, &why) == ZR_OK)
        return;
    if (row->flags & ZR_OPT_SECRET)
        snprintf(why.text, sizeof why.text, "the value (not shown, it is a secret) must be %s", type_in_words(row->type));
    if (!value->soft) {
        zk_problem(value->file, value->line, "%s.%s: %s", rows->who, row->name, why.text);
    } else if (row->type == ZR_OPT_ENUM) { /* a mode (flushDiskType): the default may promise less than was meant */
        zk_problem(value->file, value->line, "%s: %s", value->origin ? value->origin : row->name, why.text);
    } else {
        zk_warning(value->file, value->line, "%s: %s; the default %s stays", value->origin ? value->origin : row->name, why.text, row->dflt ? row->dflt : "");
        store_default(row, settings, &why);
    }
}

void zk_rows_fill(const struct zk_rows *rows, const struct zk_conf *group, const char *file, uint32_t line, void *settings,
                  void (*unknown)(const struct zk_conf *value))
{
    struct why why;
    for (uint32_t i = 0; i < rows->n; i++) {
        const struct zr_option *row = zk_row(rows, i);
        store_default(row, settings, &why);
        if ((row->flags & ZR_OPT_REQUIRED) && !zk_conf_get(group, row->name))
            zk_problem(group ? group->file : file, group ? group->line : line, "%s.%s: must be given (%s)", rows->who, row->name,
                       row->doc ? row->doc : type_in_words(row->type));
    }
    for (const struct zk_conf *c = group ? group->child : NULL; c; c = c->next)
        fill_one(rows, c, settings, unknown);
}

/* ---- printing ------------------------------------------------------------------------------------------------------------------- */

static void print_scaled(int64_t v, int64_t base, const struct unit *units, struct zl_buf *out)
{
    const struct unit *best = NULL;
    /* The largest unit that gives a whole number; decimal byte units are read but not written. */
    for (const struct unit *u = units; u->name; u++)
        if (u->factor >= base && v != 0 && v % (u->factor / base) == 0 && (!best || u->factor > best->factor) && !(units == byte_units && u->name[1] != 'i' && u->factor > 1))
            best = u;
    if (best)
        zl_buf_fmt(out, "\"%lld %s\"", (long long)(v / (best->factor / base)), best->name);
    else
        zl_buf_fmt(out, "%lld", (long long)v);
}

static void print_i64(const struct zr_option *row, int64_t v, struct zl_buf *out)
{
    if (is_bytes(row) && v % 1024 == 0)
        print_scaled(v, 1, byte_units, out);
    else if (time_base(row))
        print_scaled(v, time_base(row), time_units, out);
    else if (v > INT32_MAX || v < INT32_MIN)
        zl_buf_fmt(out, "%lldL", (long long)v);
    else
        zl_buf_fmt(out, "%lld", (long long)v);
}

/* libconfig's strings know \" \\ \n \t \r \f and \xHH. */
static void print_quoted(struct zr_str s, struct zl_buf *out)
{
    zl_buf_cstr(out, "\"");
    for (uint64_t i = 0; i < s.len; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        if (c == '"' || c == '\\')
            zl_buf_fmt(out, "\\%c", c);
        else if (c < 0x20)
            zl_buf_fmt(out, "\\x%02x", c);
        else
            zl_buf_u8(out, c);
    }
    zl_buf_cstr(out, "\"");
}

/* The shorter form that is read back as the same number. */
static void print_f64(double f, struct zl_buf *out)
{
    char text[40];
    snprintf(text, sizeof text, "%.15g", f);
    if (strtod(text, NULL) != f)
        snprintf(text, sizeof text, "%.17g", f);
    zl_buf_cstr(out, text);
    if (!strpbrk(text, ".en")) /* a float of libconfig has a point or an exponent */
        zl_buf_cstr(out, ".0");
}

static void print_value(const struct zr_option *row, const uint8_t *at, struct zl_buf *out)
{
    int64_t i;
    double f;
    struct zr_str s;
    struct zr_list list;
    switch (row->type) {
    case ZR_OPT_BOOL:
        zl_buf_cstr(out, *at ? "true" : "false");
        break;
    case ZR_OPT_I64:
        memcpy(&i, at, sizeof i);
        print_i64(row, i, out);
        break;
    case ZR_OPT_ENUM:
        memcpy(&i, at, sizeof i);
        print_quoted(zl_str(row->choices[i]), out);
        break;
    case ZR_OPT_F64:
        memcpy(&f, at, sizeof f);
        print_f64(f, out);
        break;
    case ZR_OPT_STR:
        memcpy(&s, at, sizeof s);
        print_quoted(s, out);
        break;
    default:
        memcpy(&list, at, sizeof list);
        zl_buf_cstr(out, list.n ? "[ " : "[");
        for (uint64_t k = 0; k < list.n; k++) {
            zl_buf_cstr(out, k ? ", " : "");
            print_quoted(list.items[k], out);
        }
        zl_buf_cstr(out, list.n ? " ]" : "]");
    }
}

void zk_rows_print(const struct zk_rows *rows, const void *settings, const char *indent, struct zl_buf *out)
{
    for (uint32_t i = 0; i < rows->n; i++) {
        const struct zr_option *row = zk_row(rows, i);
        zl_buf_fmt(out, "%s%s = ", indent, row->name);
        if (row->flags & ZR_OPT_SECRET)
            zl_buf_cstr(out, "\"***\"");
        else
            print_value(row, (const uint8_t *)settings + row->offset, out);
        zl_buf_cstr(out, ";\n");
    }
}

void zk_row_plain(const struct zr_option *row, const void *settings, struct zl_buf *out)
{
    const uint8_t *at = (const uint8_t *)settings + row->offset;
    int64_t i;
    struct zr_str s;
    struct zr_list list;
    if (row->flags & ZR_OPT_SECRET) {
        zl_buf_cstr(out, "***");
    } else if (row->type == ZR_OPT_I64) {
        memcpy(&i, at, sizeof i);
        zl_buf_i64(out, i);
    } else if (row->type == ZR_OPT_ENUM) {
        memcpy(&i, at, sizeof i);
        zl_buf_cstr(out, row->choices[i]);
    } else if (row->type == ZR_OPT_STR) {
        memcpy(&s, at, sizeof s);
        zl_buf_str(out, s);
    } else if (row->type == ZR_OPT_LIST) {
        memcpy(&list, at, sizeof list);
        for (uint64_t k = 0; k < list.n; k++) {
            zl_buf_cstr(out, k ? ";" : "");
            zl_buf_str(out, list.items[k]);
        }
    } else {
        print_value(row, at, out);
    }
}

/* ---- schema --------------------------------------------------------------------------------------------------------------------- */

static void schema_text(struct zl_jw *w, const char *key, const char *text)
{
    if (text)
        zl_jw_kstr(w, key, zl_str(text));
}

void zk_rows_schema(const struct zk_rows *rows, struct zl_buf *out)
{
    static const char *const types[] = { "", "bool", "integer", "number", "string", "enum", "list" };
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '[');
    for (uint32_t i = 0; i < rows->n; i++) {
        const struct zr_option *row = zk_row(rows, i);
        zl_jw_begin(&w, '{');
        zl_jw_kstr(&w, "name", zl_str(row->name));
        zl_jw_kstr(&w, "type", zl_str(types[row->type <= ZR_OPT_LIST ? row->type : 0]));
        schema_text(&w, "unit", row->unit);
        schema_text(&w, "default", row->dflt);
        schema_text(&w, "min", row->min);
        schema_text(&w, "max", row->max);
        if (row->choices) {
            zl_jw_key(&w, zl_str("choices"));
            zl_jw_begin(&w, '[');
            for (uint32_t k = 0; row->choices[k]; k++)
                zl_jw_str(&w, zl_str(row->choices[k]));
            zl_jw_end(&w, ']');
        }
        if (row->flags & ZR_OPT_REQUIRED)
            zl_jw_kbool(&w, "required", 1);
        if (row->flags & ZR_OPT_LIVE)
            zl_jw_kbool(&w, "live", 1);
        if (row->flags & ZR_OPT_SECRET)
            zl_jw_kbool(&w, "secret", 1);
        if (row->flags & ZR_OPT_DEPRECATED)
            zl_jw_kbool(&w, "deprecated", 1);
        schema_text(&w, "doc", row->doc);
        zl_jw_end(&w, '}');
    }
    zl_jw_end(&w, ']');
}
