/* SPDX-License-Identifier: Apache-2.0 */
/* json.c - the tree reader and the writer of zl/json.h.
 *
 * What stays true of a parsed document:
 * 1. Nodes and unescaped text live in blocks of the document and die with it; other text points into the source.
 * 2. A tree walk ends: references ("$ref") are put in place in document order, each gets a finished subtree that does not contain
 *    it, and what the references add is counted against the limits of depth and nodes like text that was written out (and may not
 *    make the document more than 64 times as large). A reference that leads nowhere, or to something around itself, is null.
 * 3. Parsing takes time in proportion to the text and to those limits.
 *
 * The writer puts commas, indents and line ends itself. Its pretty layout is fastjson's: one TAB a level, LF, no blank behind
 * ':', every member and every element on its own line, but an array's numbers and booleans on the line they are in; {} and [] when
 * empty (where fastjson puts an empty line into an empty list). */
#include "zl/json.h"
#include "scan.h"
#include "zl/text.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define NODES_MAX 4000000u
#define REF_GROWTH 64u /* references may make a document so many times as large */
#define REF_STEPS 16u  /* steps of following them, for each node that they may make */
#define BLOCK_FIRST (16u * 1024)
#define BLOCK_MAX (1024u * 1024)

struct block {
    struct block *next;
    uint64_t used, size;
    _Alignas(16) uint8_t bytes[];
};

struct zl_json_doc {
    struct block *blocks; /* the newest first */
    uint64_t next_size;
};

struct parser {
    struct zl_json_doc *doc;
    const char *begin, *p, *end;
    uint32_t nodes, refs;
    zr_status status; /* of the first failure */
};

static void *doc_alloc(struct zl_json_doc *doc, uint64_t n)
{
    n = (n + 15) & ~(uint64_t)15;
    struct block *b = doc->blocks;
    if (!b || b->size - b->used < n) {
        uint64_t size = n > doc->next_size ? n : doc->next_size;
        b = malloc(sizeof(*b) + size);
        if (!b) return NULL;
        *b = (struct block){ .next = doc->blocks, .size = size };
        doc->blocks = b;
        if (doc->next_size < BLOCK_MAX) doc->next_size *= 2;
    }
    void *at = b->bytes + b->used;
    b->used += n;
    return at;
}

void zl_json_free(struct zl_json_doc *doc)
{
    if (!doc) return;
    for (struct block *b = doc->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(doc);
}

/* ---- reading ---- */

static uint32_t fail(struct parser *ps, zr_status status)
{
    if (ps->status == ZR_OK) ps->status = status;
    return 0;
}

static struct zl_json *node_new(struct parser *ps)
{
    if (ps->nodes == NODES_MAX) {
        fail(ps, ZR_EFULL);
        return NULL;
    }
    struct zl_json *node = doc_alloc(ps->doc, sizeof(*node));
    if (!node) {
        fail(ps, ZR_ENOMEM);
        return NULL;
    }
    ps->nodes++;
    *node = (struct zl_json){ .kind = ZL_JSON_NULL };
    return node;
}

static void blanks(struct parser *ps) { ps->p = scan_blanks(ps->p, ps->end); }

static uint32_t take(struct parser *ps, char c)
{
    if (ps->p == ps->end || *ps->p != c) return 0;
    ps->p++;
    return 1;
}

/* The length of the string's source behind its opening quote, up to the closing one. */
static uint32_t string_extent(struct parser *ps, const char *hit, char quote, uint64_t *ret)
{
    const char *begin = ps->p;
    while (hit < ps->end && *hit != quote) {
        if (ps->end - hit < 2) break;
        hit = scan_string(hit + 2, ps->end, quote);
    }
    if (hit >= ps->end || *hit != quote) {
        ps->p = ps->end;
        return fail(ps, ZR_EINVAL);
    }
    *ret = (uint64_t)(hit - begin);
    return 1;
}

static uint32_t string_read(struct parser *ps, struct zr_str *ret)
{
    char quote = *ps->p++;
    const char *begin = ps->p, *hit = scan_string(begin, ps->end, quote);
    if (hit < ps->end && *hit == quote) {
        *ret = (struct zr_str){ begin, (uint64_t)(hit - begin) };
        ps->p = hit + 1;
        return 1;
    }
    uint64_t extent;
    if (!string_extent(ps, hit, quote, &extent)) return 0;
    char *text = doc_alloc(ps->doc, extent), *to = text;
    if (!text) return fail(ps, ZR_ENOMEM);
    if (!scan_unescape(&ps->p, begin + extent + 1, quote, &to, text + extent)) return fail(ps, ZR_EINVAL);
    *ret = (struct zr_str){ text, (uint64_t)(to - text) };
    return 1;
}

static uint32_t value_read(struct parser *ps, struct zl_json *node, uint32_t depth);

/* A key: a string, digits, a bare name, or an object. */
static uint32_t key_read(struct parser *ps, struct zl_json *member, uint32_t depth)
{
    if (ps->p == ps->end) return fail(ps, ZR_EINVAL);
    if (*ps->p == '"' || *ps->p == '\'') return string_read(ps, &member->key);
    if (*ps->p == '{') {
        struct zl_json *key = node_new(ps);
        if (!key || !value_read(ps, key, depth)) return 0;
        member->key_obj = key;
        return 1;
    }
    const char *begin = ps->p;
    if (*ps->p == '-') ps->p++;
    while (ps->p < ps->end && scan_is_name(*ps->p)) ps->p++;
    member->key = (struct zr_str){ begin, (uint64_t)(ps->p - begin) };
    return member->key.len > (*begin == '-') ? 1 : fail(ps, ZR_EINVAL);
}

/* Is this {"$ref":"..."}? Its path then becomes the node's text until references are resolved. */
static void ref_note(struct parser *ps, struct zl_json *node)
{
    if (node->n != 1 || node->child->kind != ZL_JSON_STRING || node->child->key_obj || !zl_is(node->child->key, "$ref")) return;
    node->text = node->child->text;
    ps->refs++;
}

static inline uint32_t is_ref(const struct zl_json *node) { return node->kind == ZL_JSON_OBJECT && node->text.ptr != NULL; }

static uint32_t children_read(struct parser *ps, struct zl_json *node, uint32_t depth)
{
    char close = node->kind == ZL_JSON_OBJECT ? '}' : ']';
    const struct zl_json **at = &node->child;
    blanks(ps);
    if (take(ps, close)) return 1;
    for (;;) {
        struct zl_json *child = node_new(ps);
        if (!child) return 0;
        if (node->kind == ZL_JSON_OBJECT) {
            if (!key_read(ps, child, depth + 1)) return 0;
            blanks(ps);
            if (!take(ps, ':')) return fail(ps, ZR_EINVAL);
            blanks(ps);
        }
        if (!value_read(ps, child, depth + 1)) return 0;
        *at = child;
        at = &child->next;
        node->n++;
        blanks(ps);
        uint32_t comma = take(ps, ',');
        if (comma) blanks(ps);
        if (take(ps, close)) return 1;
        if (!comma) return fail(ps, ZR_EINVAL);
    }
}

static uint32_t word_read(struct parser *ps, struct zl_json *node)
{
    const char *begin = ps->p;
    uint32_t n = scan_number(begin, ps->end);
    if (n) {
        node->kind = ZL_JSON_NUMBER;
    } else {
        while (begin + n < ps->end && begin[n] >= 'a' && begin[n] <= 'z') n++;
        struct zr_str word = { begin, n };
        if (zl_is(word, "true") || zl_is(word, "false")) {
            node->kind = ZL_JSON_BOOL;
        } else if (!zl_is(word, "null")) {
            return fail(ps, ZR_EINVAL);
        }
    }
    if (node->kind != ZL_JSON_NULL) node->text = (struct zr_str){ begin, n };
    ps->p += n;
    return 1;
}

static uint32_t value_read(struct parser *ps, struct zl_json *node, uint32_t depth)
{
    if (ps->p == ps->end) return fail(ps, ZR_EINVAL);
    switch (*ps->p) {
    case '"':
    case '\'':
        node->kind = ZL_JSON_STRING;
        return string_read(ps, &node->text);
    case '{':
    case '[':
        if (depth > SCAN_DEPTH_MAX) return fail(ps, ZR_EFULL);
        node->kind = *ps->p++ == '{' ? ZL_JSON_OBJECT : ZL_JSON_ARRAY;
        if (!children_read(ps, node, depth)) return 0;
        if (node->kind == ZL_JSON_OBJECT) ref_note(ps, node);
        return 1;
    default: return word_read(ps, node);
    }
}

/* ---- references ---- */

struct resolver {
    const struct zl_json *root;
    uint64_t nodes, nodes_max; /* so far, what was put in place included */
    uint64_t steps, steps_max;
    zr_status status;
};

static uint32_t step(struct resolver *rs)
{
    if (++rs->steps <= rs->steps_max) return 1;
    rs->status = ZR_EFULL;
    return 0;
}

static const struct zl_json *child_named(struct resolver *rs, const struct zl_json *node, struct zr_str name)
{
    const struct zl_json *found = NULL;
    if (node->kind != ZL_JSON_OBJECT) return NULL;
    for (const struct zl_json *c = node->child; c && step(rs); c = c->next) {
        if (!c->key_obj && zl_eq(c->key, name)) found = c;
    }
    return found;
}

static const struct zl_json *child_at(struct resolver *rs, const struct zl_json *node, struct zr_str index)
{
    int32_t i;
    const struct zl_json *c = node->child;
    if (node->kind != ZL_JSON_ARRAY || zl_parse_i32(index, &i) != ZR_OK || i < 0) return NULL;
    while (c && i-- && step(rs)) c = c->next;
    return c;
}

/* $ followed by .name and [index] and ['name']. */
static const struct zl_json *path_follow(struct resolver *rs, struct zr_str path)
{
    if (!zl_starts(path, "$")) return NULL;
    const struct zl_json *node = rs->root;
    uint64_t i = 1;
    while (node && i < path.len && rs->status == ZR_OK) {
        uint32_t bracket = path.ptr[i] == '[';
        if (!bracket && path.ptr[i] != '.') return NULL;
        uint64_t from = ++i;
        while (i < path.len && (bracket ? path.ptr[i] != ']' : path.ptr[i] != '.' && path.ptr[i] != '[')) {
            /* A backslash in a name of fastjson's path makes the next character part of it; such names are found as written. */
            i += path.ptr[i] == '\\' && i + 1 < path.len ? 2 : 1;
        }
        struct zr_str part = { path.ptr + from, i - from };
        if (bracket) {
            if (i++ >= path.len) return NULL;
            uint32_t quoted = part.len >= 2 && (part.ptr[0] == '\'' || part.ptr[0] == '"') && part.ptr[part.len - 1] == part.ptr[0];
            node = quoted ? child_named(rs, node, (struct zr_str){ part.ptr + 1, part.len - 2 }) : child_at(rs, node, part);
        } else {
            node = child_named(rs, node, part);
        }
    }
    return node;
}

/* Counts the nodes of a subtree and its depth; 0 when it holds a reference that is not yet resolved (the one asking, perhaps), or
 * when a limit is passed. */
static uint32_t subtree_count(struct resolver *rs, const struct zl_json *node, uint32_t depth)
{
    if (is_ref(node)) return 0;
    if (depth > SCAN_DEPTH_MAX + (node->kind < ZL_JSON_ARRAY) || ++rs->nodes > rs->nodes_max) {
        rs->status = ZR_EFULL;
        return 0;
    }
    if (node->key_obj && !subtree_count(rs, node->key_obj, depth)) return 0;
    for (const struct zl_json *c = node->child; c; c = c->next) {
        if (!step(rs) || !subtree_count(rs, c, depth + 1)) return 0;
    }
    return 1;
}

static void ref_resolve(struct resolver *rs, struct zl_json *node, uint32_t depth)
{
    const struct zl_json *target = path_follow(rs, node->text);
    if (target && !subtree_count(rs, target, depth)) target = NULL;
    node->kind = target ? target->kind : ZL_JSON_NULL;
    node->n = target ? target->n : 0;
    node->child = target ? target->child : NULL;
    node->text = target ? target->text : (struct zr_str){ NULL, 0 };
}

static void refs_resolve(struct resolver *rs, struct zl_json *node, uint32_t depth)
{
    if (node->key_obj) refs_resolve(rs, (struct zl_json *)(uintptr_t)node->key_obj, depth);
    if (is_ref(node)) {
        ref_resolve(rs, node, depth);
        return;
    }
    for (const struct zl_json *c = node->child; c && rs->status == ZR_OK; c = c->next) {
        refs_resolve(rs, (struct zl_json *)(uintptr_t)c, depth + 1);
    }
}

zr_status zl_json_parse(struct zr_str text, struct zl_json_doc **ret_doc, const struct zl_json **ret_root, uint64_t *ret_at)
{
    if (text.len == 0) text.ptr = "";
    struct zl_json_doc *doc = calloc(1, sizeof(*doc));
    if (!doc) return ZR_ENOMEM;
    doc->next_size = BLOCK_FIRST;
    struct parser ps = { doc, text.ptr, text.ptr, text.ptr + text.len, 0, 0, ZR_OK };
    struct zl_json *root = node_new(&ps);
    if (root) {
        blanks(&ps);
        if (value_read(&ps, root, 1)) {
            blanks(&ps);
            if (ps.p != ps.end) fail(&ps, ZR_EINVAL);
        }
    }
    if (ps.status == ZR_OK && ps.refs) {
        uint64_t nodes_max = (uint64_t)REF_GROWTH * ps.nodes + 1024;
        if (nodes_max > NODES_MAX) nodes_max = NODES_MAX;
        struct resolver rs = { root, ps.nodes, nodes_max, 0, REF_STEPS * nodes_max, ZR_OK };
        refs_resolve(&rs, root, 1);
        ps.status = rs.status;
    }
    if (ps.status != ZR_OK) {
        if (ret_at) *ret_at = (uint64_t)(ps.p - ps.begin);
        zl_json_free(doc);
        return ps.status;
    }
    *ret_doc = doc;
    *ret_root = root;
    return ZR_OK;
}

/* ---- looking ---- */

const struct zl_json *zl_json_get(const struct zl_json *object, const char *key)
{
    const struct zl_json *found = NULL;
    if (!object || object->kind != ZL_JSON_OBJECT) return NULL;
    struct zr_str wanted = zl_str(key);
    for (const struct zl_json *c = object->child; c; c = c->next) {
        if (!c->key_obj && zl_eq(c->key, wanted)) found = c; /* the last of equal keys counts */
    }
    return found;
}

struct zr_str zl_json_str(const struct zl_json *node)
{
    if (!node || node->kind == ZL_JSON_NULL || node->kind >= ZL_JSON_ARRAY) return (struct zr_str){ NULL, 0 };
    return node->text;
}

double zl_json_f64(const struct zl_json *node, double dflt)
{
    char copy[64];
    if (!node || (node->kind != ZL_JSON_NUMBER && node->kind != ZL_JSON_STRING)) return dflt;
    struct zr_str text = zl_trim(node->text);
    if (text.len == 0 || scan_number(text.ptr, text.ptr + text.len) != text.len) return dflt;
    if (text.len >= sizeof(copy)) { /* more digits than a double holds, but legal */
        char *whole = zl_dup(text);
        double d = whole ? strtod(whole, NULL) : dflt;
        free(whole);
        return d;
    }
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = 0;
    return strtod(copy, NULL);
}

int64_t zl_json_i64(const struct zl_json *node, int64_t dflt)
{
    int64_t v;
    if (!node || (node->kind != ZL_JSON_NUMBER && node->kind != ZL_JSON_STRING)) return dflt;
    if (zl_parse_i64(zl_trim(node->text), &v) == ZR_OK) return v;
    double d = zl_json_f64(node, NAN); /* 12.0, 1E3 */
    return d >= -9223372036854775808.0 && d < 9223372036854775808.0 ? (int64_t)d : dflt;
}

uint32_t zl_json_bool(const struct zl_json *node, uint32_t dflt)
{
    if (!node) return dflt;
    switch (node->kind) {
    case ZL_JSON_BOOL: return node->text.ptr[0] == 't';
    case ZL_JSON_NUMBER: return zl_json_f64(node, 0) != 0;
    case ZL_JSON_STRING:
        if (zl_eq_nocase(node->text, "true") || zl_is(node->text, "1")) return 1;
        return zl_eq_nocase(node->text, "false") || zl_is(node->text, "0") ? 0 : dflt;
    default: return dflt;
    }
}

struct zr_str zl_json_get_str(const struct zl_json *object, const char *key) { return zl_json_str(zl_json_get(object, key)); }

int64_t zl_json_get_i64(const struct zl_json *object, const char *key, int64_t dflt)
{
    return zl_json_i64(zl_json_get(object, key), dflt);
}

uint32_t zl_json_get_bool(const struct zl_json *object, const char *key, uint32_t dflt)
{
    return zl_json_bool(zl_json_get(object, key), dflt);
}

/* ---- writing ---- */

void zl_json_quote(struct zl_buf *out, struct zr_str v)
{
    uint64_t size = v.len + scan_escape_extra(v) + 2;
    char *to = (char *)zl_buf_reserve(out, size);
    if (!to) return;
    const char *to_end = to + size;
    *to++ = '"';
    to = scan_escape(to, to_end, v);
    *to = '"';
    out->len += size;
}

static void print_children(struct zl_buf *out, const struct zl_json *node)
{
    zl_buf_u8(out, node->kind == ZL_JSON_OBJECT ? '{' : '[');
    for (const struct zl_json *c = node->child; c && !out->failed; c = c->next) {
        if (c != node->child) zl_buf_u8(out, ',');
        if (node->kind == ZL_JSON_OBJECT) {
            if (c->key_obj) {
                zl_json_print(out, c->key_obj);
            } else {
                zl_json_quote(out, c->key);
            }
            zl_buf_u8(out, ':');
        }
        zl_json_print(out, c);
    }
    zl_buf_u8(out, node->kind == ZL_JSON_OBJECT ? '}' : ']');
}

void zl_json_print(struct zl_buf *out, const struct zl_json *node)
{
    if (!node || node->kind == ZL_JSON_NULL) {
        zl_buf_cstr(out, "null");
    } else if (node->kind == ZL_JSON_STRING) {
        zl_json_quote(out, node->text);
    } else if (node->kind >= ZL_JSON_ARRAY) {
        print_children(out, node);
    } else {
        zl_buf_str(out, node->text);
    }
}

#define LEVELS ((uint32_t)sizeof(((struct zl_jw *)0)->first))
/* What first[] says of a level. */
#define ON_LINES 0u /* what was written there stands on lines of its own */
#define NOTHING 1u
#define INLINE 2u

void zl_jw_init(struct zl_jw *w, struct zl_buf *out, uint32_t pretty)
{
    *w = (struct zl_jw){ .out = out, .pretty = pretty != 0 };
    w->first[0] = NOTHING;
}

static void line_begin(struct zl_jw *w, uint32_t depth)
{
    if (!w->pretty) return;
    zl_buf_u8(w->out, '\n');
    while (depth--) zl_buf_u8(w->out, '\t');
}

/* What stands before a member's key or an array's element. */
static void item_begin(struct zl_jw *w)
{
    if (w->depth == 0 || w->depth >= LEVELS) return;
    if (w->first[w->depth] != NOTHING) zl_buf_u8(w->out, ',');
    w->first[w->depth] = ON_LINES;
    line_begin(w, w->depth);
}

static void value_begin(struct zl_jw *w)
{
    if (!w->after_key) item_begin(w);
    w->after_key = 0;
}

/* The same for a number or a boolean, which as an element begins no line. */
static void plain_begin(struct zl_jw *w)
{
    if (!w->after_key && w->depth && w->depth < LEVELS) {
        if (w->first[w->depth] != NOTHING) zl_buf_u8(w->out, ',');
        if (w->first[w->depth] == NOTHING) w->first[w->depth] = INLINE;
    }
    w->after_key = 0;
}

void zl_jw_begin(struct zl_jw *w, char kind)
{
    value_begin(w);
    zl_buf_u8(w->out, (uint8_t)kind);
    if (++w->depth < LEVELS) {
        w->first[w->depth] = NOTHING;
    } else {
        w->out->failed = 1; /* deeper than any reader goes */
    }
}

void zl_jw_end(struct zl_jw *w, char kind)
{
    if (w->depth == 0) return;
    uint32_t lines = w->depth < LEVELS && w->first[w->depth] == ON_LINES;
    w->depth--;
    if (lines) line_begin(w, w->depth);
    zl_buf_u8(w->out, (uint8_t)kind);
}

static void key_end(struct zl_jw *w)
{
    zl_buf_u8(w->out, ':');
    w->after_key = 1;
}

void zl_jw_key(struct zl_jw *w, struct zr_str key)
{
    item_begin(w);
    zl_json_quote(w->out, key);
    key_end(w);
}

void zl_jw_key_int(struct zl_jw *w, int64_t key)
{
    item_begin(w);
    zl_buf_i64(w->out, key);
    key_end(w);
}

void zl_jw_begin_key(struct zl_jw *w)
{
    item_begin(w);
    w->after_key = 1; /* so that the value that follows puts no comma */
}

void zl_jw_end_key(struct zl_jw *w) { key_end(w); }

void zl_jw_str(struct zl_jw *w, struct zr_str v)
{
    value_begin(w);
    zl_json_quote(w->out, v);
}

void zl_jw_i64(struct zl_jw *w, int64_t v)
{
    plain_begin(w);
    zl_buf_i64(w->out, v);
}

/* The fewest digits that read back as v, without point: "15" and 0 for 1.5. Returns the exponent of the first digit. */
static int32_t shortest_digits(double v, char *digits)
{
    char text[40];
    for (int precision = 0; precision < 17; precision++) {
        snprintf(text, sizeof(text), "%.*e", precision, v);
        if (strtod(text, NULL) == v) break;
    }
    uint32_t n = 0, i = 0;
    for (; text[i] && text[i] != 'e'; i++) {
        if (text[i] >= '0' && text[i] <= '9') digits[n++] = text[i];
    }
    while (n > 1 && digits[n - 1] == '0') n--;
    digits[n] = 0;
    return (int32_t)strtol(text + i + 1, NULL, 10);
}

/* As Java's Double.toString: plain from 10^-3 up to 10^7, else one digit, point, digits, E and exponent. */
static void double_print(struct zl_buf *out, double v)
{
    char digits[24];
    if (v < 0 || (v == 0 && signbit(v))) zl_buf_u8(out, '-');
    v = fabs(v);
    if (v == 0) {
        zl_buf_cstr(out, "0.0");
        return;
    }
    int32_t exponent = shortest_digits(v, digits), n = (int32_t)strlen(digits);
    if (exponent < -3 || exponent >= 7) {
        zl_buf_fmt(out, "%c.%sE%d", digits[0], n > 1 ? digits + 1 : "0", exponent);
    } else if (exponent < 0) {
        zl_buf_fmt(out, "0.%.*s%s", -exponent - 1, "00", digits);
    } else if (n <= exponent + 1) {
        zl_buf_fmt(out, "%s%.*s.0", digits, exponent + 1 - n, "000000");
    } else {
        zl_buf_fmt(out, "%.*s.%s", exponent + 1, digits, digits + exponent + 1);
    }
}

void zl_jw_f64(struct zl_jw *w, double v)
{
    plain_begin(w);
    if (isfinite(v)) {
        double_print(w->out, v);
    } else {
        zl_buf_cstr(w->out, "null"); /* JSON has no word for it, and fastjson writes this */
    }
}

void zl_jw_bool(struct zl_jw *w, uint32_t v)
{
    plain_begin(w);
    zl_buf_cstr(w->out, v ? "true" : "false");
}

void zl_jw_null(struct zl_jw *w)
{
    value_begin(w);
    zl_buf_cstr(w->out, "null");
}

void zl_jw_members(struct zl_jw *w, struct zr_str members)
{
    if (members.len == 0) return;
    item_begin(w);
    zl_buf_str(w->out, members);
}

void zl_jw_raw(struct zl_jw *w, struct zr_str json)
{
    value_begin(w);
    zl_buf_str(w->out, json);
}

void zl_jw_kstr(struct zl_jw *w, const char *key, struct zr_str v)
{
    zl_jw_key(w, zl_str(key));
    zl_jw_str(w, v);
}

void zl_jw_ki64(struct zl_jw *w, const char *key, int64_t v)
{
    zl_jw_key(w, zl_str(key));
    zl_jw_i64(w, v);
}

void zl_jw_kbool(struct zl_jw *w, const char *key, uint32_t v)
{
    zl_jw_key(w, zl_str(key));
    zl_jw_bool(w, v);
}

/* ---- what others wrote ---- */
void zl_json_others(struct zl_buf *out, const struct zl_json *object, const char *const *known)
{
    uint32_t n = 0;
    for (const struct zl_json *m = object && object->kind == ZL_JSON_OBJECT ? object->child : NULL; m; m = m->next) {
        uint32_t i = 0;
        while (known[i] && !zl_is(m->key, known[i])) i++;
        if (known[i] || m->key_obj) continue;
        if (n++) zl_buf_u8(out, ',');
        zl_json_quote(out, m->key);
        zl_buf_u8(out, ':');
        zl_json_print(out, m);
    }
}

struct mend {
    uint64_t good; /* bytes up to the last end of an array or object inside another one */
    uint32_t depth, good_depth;
    uint8_t open[LEVELS], good_open[LEVELS]; /* what closes each level */
};

/* 0: the text cannot go on like this. */
static uint32_t mend_mark(struct mend *m, uint8_t c, uint64_t at)
{
    if (c == '{' || c == '[') {
        if (m->depth == LEVELS) return 0;
        m->open[m->depth++] = c == '{' ? '}' : ']';
    } else if (c == '}' || c == ']') {
        if (m->depth < 2 || m->open[--m->depth] != c) return 0;
        m->good = at + 1;
        m->good_depth = m->depth;
        memcpy(m->good_open, m->open, m->depth);
    }
    return c >= ' ' || c == '\n' || c == '\t' || c == '\r';
}

void zl_json_mend(struct zl_buf *out, struct zr_str text)
{
    struct mend m = { .good = 0 };
    uint8_t quote = 0;
    for (uint64_t i = 0; i < text.len; i++) {
        uint8_t c = (uint8_t)text.ptr[i];
        if (quote) {
            if (c == '\\') i++;
            else if (c == quote) quote = 0;
            else if (c == 0) break;
        } else if (c == '"' || c == '\'') {
            quote = c;
        } else if (!mend_mark(&m, c, i)) {
            break;
        }
    }
    zl_buf_add(out, text.ptr, m.good);
    while (m.good && m.good_depth) zl_buf_u8(out, m.good_open[--m.good_depth]);
}
