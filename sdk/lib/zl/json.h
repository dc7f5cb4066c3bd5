/* SPDX-License-Identifier: Apache-2.0 */
/* zl/json.h - reader and writer of fastjson's dialect of JSON (bodies and state files; headers have their own scanner in
 * codec.h).
 *
 * The reader builds a tree of nodes in one arena. It accepts what Java peers send: unquoted integer keys, whole objects as
 * keys, single quotes, trailing commas, numbers in quotes, "$ref" (resolved: "$.a.b", "$.a[0]"; one to something around itself, as
 * "$" and ".." are, is null, so that every walk of a tree ends), blanks. Depth and size are bounded. */
#ifndef ZL_JSON_H
#define ZL_JSON_H
#include "zarya/abi.h"
#include "zl/buf.h"

#define ZL_JSON_NULL 0u
#define ZL_JSON_BOOL 1u
#define ZL_JSON_NUMBER 2u /* text holds it as written */
#define ZL_JSON_STRING 3u
#define ZL_JSON_ARRAY 4u
#define ZL_JSON_OBJECT 5u

struct zl_json {
    uint32_t kind;
    uint32_t n;                    /* children of an array or object */
    struct zr_str text;            /* STRING unescaped; NUMBER and BOOL as written */
    struct zr_str key;             /* of an object's member; integer keys as their digits */
    const struct zl_json *key_obj; /* when the key was itself an object */
    const struct zl_json *child;   /* first child */
    const struct zl_json *next;    /* next sibling */
};
struct zl_json_doc;
/* Parses the whole text (which must stay valid: unescaped text points into it). ZR_EINVAL with *ret_at the byte position;
 * ZR_EFULL deeper than 64, more than 4 million nodes, or references that would make it 64 times as large; ZR_ENOMEM. */
zr_status zl_json_parse(struct zr_str text, struct zl_json_doc **ret_doc, const struct zl_json **ret_root, uint64_t *ret_at);
void zl_json_free(struct zl_json_doc *doc);

/* All of these take NULL nodes and answer the default. */
const struct zl_json *zl_json_get(const struct zl_json *object, const char *key);
struct zr_str zl_json_str(const struct zl_json *node);                 /* text of string, number or bool; else {NULL, 0} */
int64_t zl_json_i64(const struct zl_json *node, int64_t dflt);         /* number, or a string that is one */
double zl_json_f64(const struct zl_json *node, double dflt);
uint32_t zl_json_bool(const struct zl_json *node, uint32_t dflt);      /* true/false, "true"/"false", numbers */
/* get + the above in one. */
struct zr_str zl_json_get_str(const struct zl_json *object, const char *key);
int64_t zl_json_get_i64(const struct zl_json *object, const char *key, int64_t dflt);
uint32_t zl_json_get_bool(const struct zl_json *object, const char *key, uint32_t dflt);
/* The members of an object that are not named in known (NULL-ended), as zl_jw_members takes them. */
void zl_json_others(struct zl_buf *out, const struct zl_json *object, const char *const *known);
/* The beginning of a text that was cut or damaged: up to the last array or object that is whole, all that is open closed. Nothing
 * when there is none. Not checked any further: zl_json_parse says what it is worth. */
void zl_json_mend(struct zl_buf *out, struct zr_str text);
/* Writes the node back as text (compact). */
void zl_json_print(struct zl_buf *out, const struct zl_json *node);

/* Writer. pretty: fastjson's: one TAB a level, LF, no blank behind ':', members and elements on lines of their own (numbers and
 * booleans in an array stay on one). Commas and indents are its business. */
struct zl_jw {
    struct zl_buf *out;
    uint32_t pretty, depth;
    uint8_t first[64]; /* by depth: what was written at this level so far */
    uint32_t after_key, reserved;
};
void zl_jw_init(struct zl_jw *w, struct zl_buf *out, uint32_t pretty);
void zl_jw_begin(struct zl_jw *w, char kind); /* '{' or '[' */
void zl_jw_end(struct zl_jw *w, char kind);   /* '}' or ']' */
void zl_jw_key(struct zl_jw *w, struct zr_str key);
void zl_jw_key_int(struct zl_jw *w, int64_t key);  /* unquoted */
/* For an object as key: begin_key; then one value; end_key. */
void zl_jw_begin_key(struct zl_jw *w);
void zl_jw_end_key(struct zl_jw *w);
void zl_jw_str(struct zl_jw *w, struct zr_str v);
void zl_jw_i64(struct zl_jw *w, int64_t v);
void zl_jw_f64(struct zl_jw *w, double v);         /* as Java prints doubles: 0.0, 1.5 */
void zl_jw_bool(struct zl_jw *w, uint32_t v);
void zl_jw_null(struct zl_jw *w);
void zl_jw_raw(struct zl_jw *w, struct zr_str json); /* a value that is JSON already */
void zl_jw_members(struct zl_jw *w, struct zr_str members); /* of the present object: "a":1,"b":2; nothing for an empty text */
/* key + value in one. */
void zl_jw_kstr(struct zl_jw *w, const char *key, struct zr_str v);
void zl_jw_ki64(struct zl_jw *w, const char *key, int64_t v);
void zl_jw_kbool(struct zl_jw *w, const char *key, uint32_t v);
/* Just the escaped text with its quotes. */
void zl_json_quote(struct zl_buf *out, struct zr_str v);
#endif
