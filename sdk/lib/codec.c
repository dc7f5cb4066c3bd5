/* SPDX-License-Identifier: Apache-2.0 */
/* codec.c - frames and headers of RocketMQ remoting.
 *
 *   0 i32 totalLength, of what follows | 4 u8 type, u24 headerLength | 8 header | 8 + headerLength body       big-endian
 *
 * JSON header: one pass over the text, no tree. Binary header:
 *   0 i16 code | 2 i8 language | 3 i16 version | 5 i32 opaque | 9 i32 flag | 13 i32 n, remark | i32 m, then m bytes of
 *   { i16 n, name | i32 n, value }
 *
 * What stays true:
 * 1. Decoding allocates nothing and reads nothing outside the frame. What it hands out points into the frame or into scratch.
 * 2. A decoded header sets every member but the fields beyond n_fields, which hold whatever was there before.
 * 3. An ext field whose value is null (JSON) or empty (binary) is absent, and so is an earlier one of its name.
 * 4. A failed encode leaves the buffer as long as it was. */
#include "zl/codec.h"
#include "scan.h"
#include "zl/text.h"

#include <assert.h>
#include <stdlib.h>

#define FRAME_PREFIX 8u
#define BINARY_FIXED 21u
#define HEADER_MAX 0xFFFFFFu

/* ---- frames ---- */

zr_status zl_frame_cut(struct zr_span bytes, struct zr_span *ret_frame, uint64_t *ret_need)
{
    *ret_need = FRAME_PREFIX;
    if (bytes.len < 4) return ZR_EAGAIN;
    uint32_t total = zl_load32(bytes.ptr);
    if (total < 4 || total > ZL_FRAME_MAX - 4) return ZR_EINVAL;
    if (bytes.len < FRAME_PREFIX) return ZR_EAGAIN;
    uint32_t word = zl_load32(bytes.ptr + 4);
    if ((word & HEADER_MAX) > total - 4 || word >> 24 > ZL_TYPE_BINARY) return ZR_EINVAL;
    *ret_need = (uint64_t)total + 4;
    if (bytes.len < *ret_need) return ZR_EAGAIN;
    *ret_frame = (struct zr_span){ bytes.ptr, *ret_need };
    return ZR_OK;
}

/* ---- languages ---- */

static const struct zr_str languages[] = {
    ZR_STR("JAVA"), ZR_STR("CPP"),  ZR_STR("DOTNET"), ZR_STR("PYTHON"), ZR_STR("DELPHI"), ZR_STR("ERLANG"), ZR_STR("RUBY"),
    ZR_STR("OTHER"), ZR_STR("HTTP"), ZR_STR("GO"), ZR_STR("PHP"), ZR_STR("OMS"), ZR_STR("RUST"), ZR_STR("NODE_JS"),
};
#define N_LANGUAGES ((int32_t)(sizeof(languages) / sizeof(languages[0])))

const char *zl_language_name(int32_t language)
{
    return languages[language >= 0 && language < N_LANGUAGES ? language : ZL_LANGUAGE_OTHER].ptr;
}

static int32_t language_number(struct zr_str name)
{
    for (int32_t i = 0; i < N_LANGUAGES; i++) {
        if (zl_eq(languages[i], name)) return i;
    }
    return -1;
}

/* ---- ext fields, both ways of decoding ---- */

static void field_add(struct zl_header *h, struct zr_str name, struct zr_str value)
{
    if (h->n_fields < ZL_MAX_FIELDS) h->fields[h->n_fields++] = (struct zr_field){ name, value };
    else h->more_fields = 1;
}

static void field_remove(struct zl_header *h, struct zr_str name)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < h->n_fields; i++) {
        if (!zl_eq(h->fields[i].name, name)) h->fields[kept++] = h->fields[i];
    }
    h->n_fields = kept;
}

/* ---- the JSON header ---- */

struct scanner {
    const char *p, *end;
    char *to, *to_end; /* the scratch */
    const char *why;
};

#define FAIL(s, text) ((s)->why = (text), 0u)

static inline void blanks(struct scanner *s)
{
    if (s->p < s->end && (uint8_t)*s->p <= ' ') s->p = scan_blanks(s->p, s->end);
}

static inline uint32_t take(struct scanner *s, char c)
{
    if (s->p == s->end || *s->p != c) return 0;
    s->p++;
    return 1;
}

/* The rest of a string that has a backslash at `hit`. */
static uint32_t string_unescape(struct scanner *s, const char *begin, const char *hit, char quote, struct zr_str *ret)
{
    uint64_t plain = (uint64_t)(hit - begin);
    if ((uint64_t)(s->to_end - s->to) < plain) return FAIL(s, "scratch too small");
    char *text = s->to;
    if (plain) memcpy(text, begin, plain);
    s->to += plain;
    s->p = hit;
    if (!scan_unescape(&s->p, s->end, quote, &s->to, s->to_end)) return FAIL(s, "bad escape or open string in header");
    *ret = (struct zr_str){ text, (uint64_t)(s->to - text) };
    return 1;
}

/* A string; the scanner stands at its opening quote. */
static inline uint32_t string_read(struct scanner *s, struct zr_str *ret)
{
    char quote = *s->p++;
    const char *begin = s->p, *hit = scan_string(begin, s->end, quote);
    if (hit == s->end) return FAIL(s, "open string in header");
    if (*hit != quote) return string_unescape(s, begin, hit, quote, ret);
    *ret = (struct zr_str){ begin, (uint64_t)(hit - begin) };
    s->p = hit + 1;
    return 1;
}

/* A bare word: number, true, false, null, or a name. */
static uint32_t word_read(struct scanner *s, struct zr_str *ret)
{
    const char *begin = s->p;
    while (s->p < s->end && (scan_is_name(*s->p) || *s->p == '-' || *s->p == '+' || *s->p == '.')) s->p++;
    *ret = (struct zr_str){ begin, (uint64_t)(s->p - begin) };
    return ret->len ? 1 : FAIL(s, "unexpected character in header");
}

/* What a bare word is as a value. */
#define WORD_BAD 0u
#define WORD_NULL 1u
#define WORD_BOOL 2u
#define WORD_NUMBER 3u
static uint32_t word_kind(struct zr_str w)
{
    if (w.ptr[0] == '-' || (w.ptr[0] >= '0' && w.ptr[0] <= '9')) {
        return scan_number(w.ptr, w.ptr + w.len) == w.len ? WORD_NUMBER : WORD_BAD;
    }
    if (zl_is(w, "null")) return WORD_NULL;
    return zl_is(w, "true") || zl_is(w, "false") ? WORD_BOOL : WORD_BAD;
}

static inline uint32_t key_read(struct scanner *s, struct zr_str *ret)
{
    if (s->p == s->end) return FAIL(s, "header ends inside an object");
    if (*s->p == '"' || *s->p == '\'') {
        if (!string_read(s, ret)) return 0;
    } else if (!word_read(s, ret)) {
        return 0;
    }
    blanks(s);
    if (!take(s, ':')) return FAIL(s, "no colon behind a key of the header");
    blanks(s);
    return s->p < s->end ? 1 : FAIL(s, "header ends inside an object");
}

/* Behind a member or an element: 1 there may be another, 0 the closing bracket was taken, 2 a fault. A comma may also stand before the
 * closing bracket. */
static inline uint32_t more(struct scanner *s, char close)
{
    blanks(s);
    uint32_t comma = take(s, ',');
    if (comma) blanks(s);
    if (take(s, close)) return 0;
    if (comma) return 1;
    s->why = "no comma or closing bracket in header";
    return 2;
}

/* Steps over any value. Escapes are stepped over, not judged: nobody reads them. */
static uint32_t value_skip(struct scanner *s, uint32_t depth)
{
    struct zr_str word;
    if (s->p == s->end) return FAIL(s, "header ends inside a value");
    char open = *s->p;
    if (open == '"' || open == '\'') {
        for (s->p++;;) {
            s->p = scan_string(s->p, s->end, open);
            if (s->p == s->end) return FAIL(s, "open string in header");
            if (*s->p++ == open) return 1;
            if (s->p == s->end) return FAIL(s, "open string in header");
            s->p++;
        }
    }
    if (open != '{' && open != '[') {
        return word_read(s, &word) && word_kind(word) != WORD_BAD ? 1 : FAIL(s, "no value in header");
    }
    if (depth == SCAN_DEPTH_MAX) return FAIL(s, "header nested too deep");
    s->p++;
    blanks(s);
    char close = open == '{' ? '}' : ']';
    if (take(s, close)) return 1;
    for (;;) {
        if (open == '{') {
            /* A key's text is of no interest either, and must not use up scratch: step over it as over a value. */
            uint32_t quoted = s->p < s->end && (*s->p == '"' || *s->p == '\'' || *s->p == '{');
            if (!(quoted ? value_skip(s, depth + 1) : word_read(s, &word))) return 0;
            blanks(s);
            if (!take(s, ':')) return FAIL(s, "no colon behind a key of the header");
            blanks(s);
        }
        if (!value_skip(s, depth + 1)) return 0;
        uint32_t next = more(s, close);
        if (next != 1) return next == 0;
    }
}

/* Any value as text: strings unescaped, null as {NULL, 0}, all else as written. */
static inline uint32_t value_text(struct scanner *s, struct zr_str *ret)
{
    char c = *s->p;
    if (c == '"' || c == '\'') return string_read(s, ret);
    const char *begin = s->p;
    if (!value_skip(s, 1)) return 0;
    *ret = (struct zr_str){ begin, (uint64_t)(s->p - begin) };
    if (c == 'n') *ret = (struct zr_str){ NULL, 0 };
    return 1;
}

/* The usual member, "name":"value" without blanks: 1 it was taken, 0 it is another kind of member and nothing was, 2 a fault. */
static inline uint32_t member_usual(struct scanner *s, struct zr_str *ret_name, struct zr_str *ret_value)
{
    const char *name = s->p + 1, *end = s->end;
    if (end - s->p < 6 || *s->p != '"') return 0;
    const char *stop = scan_string(name, end, '"');
    if (end - stop < 4 || stop[0] != '"' || stop[1] != ':' || stop[2] != '"') return 0;
    *ret_name = (struct zr_str){ name, (uint64_t)(stop - name) };
    const char *value = stop + 3;
    stop = scan_string(value, end, '"');
    if (stop == end) return 0;
    if (*stop != '"') return string_unescape(s, value, stop, '"', ret_value) ? 1 : 2;
    *ret_value = (struct zr_str){ value, (uint64_t)(stop - value) };
    s->p = stop + 1;
    return 1;
}

static uint32_t ext_read(struct scanner *s, struct zl_header *h)
{
    h->n_fields = h->more_fields = 0;
    h->has_ext = 0;
    if (*s->p != '{') {
        struct zr_str text;
        if (*s->p == '[' || !value_text(s, &text) || text.len) return FAIL(s, "extFields is not an object");
        return 1; /* null, or an empty string */
    }
    h->has_ext = 1;
    s->p++;
    blanks(s);
    if (take(s, '}')) return 1;
    for (;;) {
        struct zr_str name, value;
        uint32_t usual = member_usual(s, &name, &value);
        if (usual == 2 || (!usual && (!key_read(s, &name) || !value_text(s, &value)))) return 0;
        if (value.ptr) {
            field_add(h, name, value);
        } else {
            field_remove(h, name);
        }
        uint32_t next = more(s, '}');
        if (next != 1) return next == 0;
    }
}

/* A 32-bit number from text that is not plainly one: with a fraction, or a boolean. As fastjson: cut towards zero. */
static uint32_t int_odd(struct zr_str text, int32_t *ret)
{
    char copy[32];
    if (zl_is(text, "true") || zl_is(text, "false")) {
        *ret = text.ptr[0] == 't';
        return 1;
    }
    if (text.len == 0 || text.len >= sizeof(copy) || scan_number(text.ptr, text.ptr + text.len) != text.len) return 0;
    memcpy(copy, text.ptr, text.len);
    copy[text.len] = 0;
    double d = strtod(copy, NULL);
    if (!(d > -2147483649.0 && d < 2147483648.0)) return 0;
    *ret = (int32_t)d;
    return 1;
}

/* The usual number: up to 9 digits and then a comma or the end of the object. */
static inline uint32_t int_usual(struct scanner *s, int32_t *ret)
{
    const char *p = s->p + (*s->p == '-'), *digits = p;
    int32_t v = 0;
    while (p < s->end && (uint8_t)(*p - '0') <= 9 && p - digits < 9) v = v * 10 + (*p++ - '0');
    if (p == digits || p == s->end || (*p != ',' && *p != '}')) return 0;
    *ret = *s->p == '-' ? -v : v;
    s->p = p;
    return 1;
}

static uint32_t int_read(struct scanner *s, int32_t *ret)
{
    struct zr_str text;
    if (int_usual(s, ret)) return 1;
    if (*s->p == '{' || *s->p == '[') return FAIL(s, "no number in header");
    if (!value_text(s, &text)) return 0;
    *ret = 0;
    if (text.len == 0) return 1; /* null, or an empty string */
    if (zl_parse_i32(text, ret) == ZR_OK) return 1;
    return int_odd(text, ret) ? 1 : FAIL(s, "no 32-bit number in header");
}

static uint32_t language_read(struct scanner *s, int32_t *ret)
{
    struct zr_str text;
    if (!value_text(s, &text)) return 0;
    *ret = language_number(text);
    int32_t ordinal;
    if (*ret < 0 && zl_parse_i32(text, &ordinal) == ZR_OK && ordinal >= 0 && ordinal < N_LANGUAGES) *ret = ordinal;
    return 1;
}

/* For a key of the literal's length. */
#define KEY_IS(key, literal) (memcmp((key).ptr, literal, sizeof(literal) - 1) == 0)

static uint32_t member_read(struct scanner *s, struct zr_str key, struct zl_header *h)
{
    switch (key.len) {
    case 4:
        if (KEY_IS(key, "code")) return int_read(s, &h->code);
        if (KEY_IS(key, "flag")) return int_read(s, &h->flag);
        break;
    case 6:
        if (KEY_IS(key, "opaque")) return int_read(s, &h->opaque);
        if (KEY_IS(key, "remark")) return value_text(s, &h->remark);
        break;
    case 7:
        if (KEY_IS(key, "version")) return int_read(s, &h->version);
        break;
    case 8:
        if (KEY_IS(key, "language")) return language_read(s, &h->language);
        break;
    case 9:
        if (KEY_IS(key, "extFields")) return ext_read(s, h);
        break;
    default: break;
    }
    return value_skip(s, 1); /* serializeTypeCurrentRPC says what the frame says already; others are unknown */
}

static uint32_t json_decode(struct scanner *s, struct zl_header *h)
{
    blanks(s);
    if (!take(s, '{')) return FAIL(s, "header is not a JSON object");
    blanks(s);
    if (!take(s, '}')) {
        for (;;) {
            struct zr_str key;
            if (!key_read(s, &key) || !member_read(s, key, h)) return 0;
            uint32_t next = more(s, '}');
            if (next == 2) return 0;
            if (next == 0) break;
        }
    }
    blanks(s);
    return s->p == s->end ? 1 : FAIL(s, "text behind the header's object");
}

/* ---- the binary header ---- */

struct reader { const uint8_t *p, *end; };

/* n bytes, or 0. */
static uint32_t bytes_read(struct reader *r, uint32_t n, struct zr_str *ret)
{
    if (n > (uint64_t)(r->end - r->p)) return 0;
    *ret = (struct zr_str){ (const char *)r->p, n };
    r->p += n;
    return 1;
}

/* A 32-bit length and its bytes; a negative length is larger than any header. */
static uint32_t text32_read(struct reader *r, struct zr_str *ret)
{
    if (r->end - r->p < 4) return 0;
    uint32_t n = zl_load32(r->p);
    r->p += 4;
    return bytes_read(r, n, ret);
}

static uint32_t text16_read(struct reader *r, struct zr_str *ret)
{
    if (r->end - r->p < 2) return 0;
    uint32_t n = zl_load16(r->p);
    r->p += 2;
    return n <= INT16_MAX && bytes_read(r, n, ret);
}

static const char *binary_fields(struct zl_header *h, struct zr_str map)
{
    struct reader r = { (const uint8_t *)map.ptr, (const uint8_t *)map.ptr + map.len };
    while (r.p < r.end) {
        struct zr_str name, value;
        if (!text16_read(&r, &name) || !text32_read(&r, &value)) return "ext field overruns the binary header";
        if (value.len == 0) {
            field_remove(h, name);
        } else if (name.len) {
            field_add(h, name, value);
        }
    }
    return NULL;
}

static const char *binary_decode(const uint8_t *p, uint32_t len, struct zl_header *h)
{
    struct reader r = { p + BINARY_FIXED - 8, p + len };
    struct zr_str map;
    if (len < BINARY_FIXED) return "binary header shorter than 21 bytes";
    h->code = (int16_t)zl_load16(p);
    h->language = p[2] < N_LANGUAGES ? p[2] : -1;
    h->version = (int16_t)zl_load16(p + 3);
    h->opaque = (int32_t)zl_load32(p + 5);
    h->flag = (int32_t)zl_load32(p + 9);
    if (!text32_read(&r, &h->remark)) return "remark overruns the binary header";
    if (!text32_read(&r, &map)) return "ext fields overrun the binary header";
    if (r.p != r.end) return "bytes behind the binary header";
    if (h->remark.len == 0) h->remark = (struct zr_str){ NULL, 0 };
    h->has_ext = map.len != 0;
    return binary_fields(h, map);
}

zr_status zl_header_decode(struct zr_span frame, struct zl_header *ret, char *scratch, uint64_t cap_scratch, const char **ret_why)
{
    if (frame.len < FRAME_PREFIX || zl_load32(frame.ptr) != frame.len - 4) {
        *ret_why = "not one whole frame";
        return ZR_EINVAL;
    }
    uint32_t word = zl_load32(frame.ptr + 4), len = word & HEADER_MAX;
    if (len > frame.len - FRAME_PREFIX) {
        *ret_why = "header longer than its frame";
        return ZR_EINVAL;
    }
    const uint8_t *text = frame.ptr + FRAME_PREFIX;
    ret->body = (struct zr_span){ text + len, frame.len - FRAME_PREFIX - len };
    ret->remark = (struct zr_str){ NULL, 0 };
    ret->code = ret->flag = ret->opaque = ret->version = ret->language = 0;
    ret->type = word >> 24;
    ret->has_ext = ret->n_fields = ret->more_fields = 0;
    const char *why = NULL;
    if (ret->type == ZL_TYPE_JSON) {
        struct scanner s = { (const char *)text, (const char *)text + len, scratch, scratch ? scratch + cap_scratch : NULL, NULL };
        if (!json_decode(&s, ret)) why = s.why;
    } else {
        why = ret->type == ZL_TYPE_BINARY ? binary_decode(text, len, ret) : "unknown serialization type";
    }
    if (!why && !ret->more_fields) return ZR_OK;
    *ret_why = why ? why : "more than 64 ext fields";
    return why ? ZR_EINVAL : ZR_EFULL;
}

/* ---- encoding ---- */

static inline char *put(char *to, const char *literal, uint64_t n)
{
    memcpy(to, literal, n);
    return to + n;
}
#define PUT(to, literal) put(to, literal, sizeof(literal) - 1)

/* "escaped" */
static char *put_quoted(char *to, const char *to_end, struct zr_str s)
{
    *to++ = '"';
    to = scan_escape(to, to_end, s);
    *to++ = '"';
    return to;
}

/* At least what the JSON header will take: the worst for each byte, or to the byte where that would be much. */
static uint64_t json_size(const struct zr_command *c)
{
    const uint64_t rest = 192; /* keys, numbers and brackets */
    uint64_t text = c->remark.len, quotes = 6 * (uint64_t)c->n_fields;
    for (uint32_t i = 0; i < c->n_fields; i++) text += c->fields[i].name.len + c->fields[i].value.len;
    if (text <= 1024) return rest + quotes + text * SCAN_ESCAPE_WORST;
    text += scan_escape_extra(c->remark);
    for (uint32_t i = 0; i < c->n_fields; i++) {
        text += scan_escape_extra(c->fields[i].name) + scan_escape_extra(c->fields[i].value);
    }
    return rest + quotes + text;
}

static char *put_ext(char *to, const char *to_end, const struct zr_command *c)
{
    to = PUT(to, ",\"extFields\":{");
    uint32_t n = 0;
    for (uint32_t i = 0; i < c->n_fields; i++) {
        const struct zr_field *f = &c->fields[i];
        if (!f->value.ptr) continue; /* null: not written */
        if (n++) *to++ = ',';
        to = put_quoted(to, to_end, f->name);
        *to++ = ':';
        to = put_quoted(to, to_end, f->value);
    }
    *to++ = '}';
    return to;
}

/* The keys in the order in which Java prints them. */
static char *json_encode(char *to, const char *to_end, const struct zr_command *c, int32_t flag, int32_t opaque)
{
    to = PUT(to, "{\"code\":");
    to += zl_print_i64(to, c->code);
    if (c->n_fields || (c->flags & ZR_COMMAND_EMPTY_EXT)) to = put_ext(to, to_end, c);
    to = PUT(to, ",\"flag\":");
    to += zl_print_i64(to, flag);
    to = PUT(to, ",\"language\":\"JAVA\",\"opaque\":");
    to += zl_print_i64(to, opaque);
    if (c->remark.len) {
        to = PUT(to, ",\"remark\":");
        to = put_quoted(to, to_end, c->remark);
    }
    to = PUT(to, ",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":");
    to += zl_print_i64(to, ZL_VERSION);
    *to++ = '}';
    return to;
}

static uint64_t binary_map_size(const struct zr_command *c)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < c->n_fields; i++) {
        if (c->fields[i].value.ptr) n += 6 + c->fields[i].name.len + c->fields[i].value.len;
    }
    return n;
}

static char *put_text32(char *to, struct zr_str s)
{
    zl_store32(to, (uint32_t)s.len);
    return s.len ? put(to + 4, s.ptr, s.len) : to + 4;
}

static char *binary_encode(char *to, const struct zr_command *c, int32_t flag, int32_t opaque)
{
    zl_store16(to, (uint16_t)c->code);
    to[2] = 0; /* JAVA */
    zl_store16(to + 3, ZL_VERSION);
    zl_store32(to + 5, (uint32_t)opaque);
    zl_store32(to + 9, (uint32_t)flag);
    to = put_text32(to + 13, c->remark);
    zl_store32(to, (uint32_t)binary_map_size(c));
    to += 4;
    for (uint32_t i = 0; i < c->n_fields; i++) {
        const struct zr_field *f = &c->fields[i];
        if (!f->value.ptr) continue;
        zl_store16(to, (uint16_t)f->name.len);
        to = f->name.len ? put(to + 2, f->name.ptr, f->name.len) : to + 2;
        to = put_text32(to, f->value);
    }
    return to;
}

/* A binary header carries 16-bit codes and names of 15-bit length. */
static uint32_t fits_binary(const struct zr_command *c)
{
    if (c->code < INT16_MIN || c->code > INT16_MAX) return 0;
    for (uint32_t i = 0; i < c->n_fields; i++) {
        if (c->fields[i].name.len > INT16_MAX) return 0;
    }
    return 1;
}

zr_status zl_command_encode(struct zl_buf *out, const struct zr_command *command, uint32_t type, int32_t flag, int32_t opaque, uint64_t body_len)
{
    uint32_t binary = type == ZL_TYPE_BINARY && fits_binary(command);
    uint64_t here = command->n_pieces ? 0 : command->body.len;
    uint64_t at_most = binary ? BINARY_FIXED + command->remark.len + binary_map_size(command) : json_size(command);
    if (!command->n_pieces) body_len = here;
    if (at_most > ZL_FRAME_MAX || body_len > ZL_FRAME_MAX) return ZR_EFULL;

    uint8_t *frame = zl_buf_reserve(out, FRAME_PREFIX + at_most + here);
    if (!frame) return ZR_ENOMEM;
    char *text = (char *)frame + FRAME_PREFIX;
    char *end = binary ? binary_encode(text, command, flag, opaque) : json_encode(text, text + at_most, command, flag, opaque);
    uint64_t header = (uint64_t)(end - text), total = 4 + header + body_len;
    if (header > HEADER_MAX || total > ZL_FRAME_MAX - 4) return ZR_EFULL;
    zl_store32(frame, (uint32_t)total);
    zl_store32(frame + 4, (binary ? ZL_TYPE_BINARY : ZL_TYPE_JSON) << 24 | (uint32_t)header);
    if (here) memcpy(end, command->body.ptr, here);
    out->len += FRAME_PREFIX + header + here;
    return ZR_OK;
}

/* ---- looking fields up ---- */

struct zr_str zl_field(const struct zr_field *fields, uint32_t n, const char *name)
{
    uint64_t len = strlen(name);
    while (n--) {
        const struct zr_str *at = &fields[n].name;
        if (at->len == len && (len == 0 || (at->ptr[0] == name[0] && memcmp(at->ptr, name, len) == 0))) return fields[n].value;
    }
    return (struct zr_str){ NULL, 0 };
}

zr_status zl_field_i64(const struct zr_field *fields, uint32_t n, const char *name, int64_t *ret)
{
    struct zr_str text = zl_field(fields, n, name);
    return text.len ? zl_parse_i64(text, ret) : ZR_ENOENT;
}

zr_status zl_field_i32(const struct zr_field *fields, uint32_t n, const char *name, int32_t *ret)
{
    struct zr_str text = zl_field(fields, n, name);
    return text.len ? zl_parse_i32(text, ret) : ZR_ENOENT;
}

uint32_t zl_field_bool(const struct zr_field *fields, uint32_t n, const char *name, uint32_t dflt)
{
    struct zr_str text = zl_field(fields, n, name);
    return text.len ? zl_eq_nocase(text, "true") : dflt;
}

/* ---- fields under construction ---- */

#define FIELDS_MAX (sizeof(((struct zl_fields *)0)->f) / sizeof(struct zr_field))

void zl_fields_str(struct zl_fields *fs, const char *name, struct zr_str value)
{
    assert(fs->n < FIELDS_MAX);
    if (fs->n < FIELDS_MAX) fs->f[fs->n++] = (struct zr_field){ zl_str(name), value };
}

void zl_fields_i64(struct zl_fields *fs, const char *name, int64_t value)
{
    _Static_assert(FIELDS_MAX * 20 <= sizeof(fs->text), "text has room for a number in every field");
    if (fs->n >= FIELDS_MAX || fs->used + 20 > sizeof(fs->text)) return;
    char *text = fs->text + fs->used;
    uint32_t len = zl_print_i64(text, value);
    fs->used += len;
    zl_fields_str(fs, name, (struct zr_str){ text, len });
}

void zl_fields_bool(struct zl_fields *fs, const char *name, uint32_t value) { zl_fields_str(fs, name, zl_str(value ? "true" : "false")); }
