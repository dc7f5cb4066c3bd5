/* SPDX-License-Identifier: Apache-2.0 */
/* zl/codec.h - RocketMQ remoting frames and headers, both serializations, both directions.
 *
 * Frame:  i32 totalLength (of what follows) | u8 type, u24 headerLength | header | body     (big-endian)
 * Decoding works in place and allocates nothing: text that needs no unescaping points into the frame, text that does is
 * unescaped into the caller's scratch. Encoding appends to a zl_buf. What is accepted is what fastjson accepts where
 * clients send it: any key order, blanks, unknown keys, nested values turned to text, numbers for text, single quotes. */
#ifndef ZL_CODEC_H
#define ZL_CODEC_H
#include "zarya/abi.h"
#include "zarya/reply.h"
#include "zarya/requests.h"
#include "zl/buf.h"

#define ZL_FRAME_MAX (16u * 1024 * 1024) /* totalLength + 4 */
#define ZL_TYPE_JSON 0u
#define ZL_TYPE_BINARY 1u
#define ZL_FLAG_RESPONSE 1
#define ZL_FLAG_ONEWAY 2
#define ZL_VERSION 513       /* V5_5_0: what we answer with */
#define ZL_LANGUAGE_OTHER 7
#define ZL_MAX_FIELDS 64u    /* of a header; RocketMQ's own have less than half of it */

/* Cuts one frame off the front of bytes. ZR_OK: *ret_frame is the whole frame with its length word. ZR_EAGAIN: *ret_need bytes
 * are needed in all. ZR_EINVAL: framing is lost. */
zr_status zl_frame_cut(struct zr_span bytes, struct zr_span *ret_frame, uint64_t *ret_need);

struct zl_header {
    struct zr_span body;
    struct zr_str remark;
    int32_t code, flag, opaque, version, language; /* language -1: unknown */
    uint32_t type;                                 /* ZL_TYPE_* */
    uint32_t has_ext;                              /* extFields was an object */
    uint32_t n_fields, more_fields; /* more_fields: there are some beyond those */
    struct zr_field fields[ZL_MAX_FIELDS];
};
/* Decodes a whole frame. scratch: unescaped text goes there; cap_scratch >= headerLength always suffices. On ZR_EINVAL
 * *ret_why is a static text that says what; so on ZR_EFULL, where only the fields are too many: all else is decoded and can be
 * answered. */
zr_status zl_header_decode(struct zr_span frame, struct zl_header *ret, char *scratch, uint64_t cap_scratch, const char **ret_why);

/* Appends a whole frame but for the body's bytes beyond head: writes length words, header, and command->body if it has no
 * pieces (else body_len counts the pieces' bytes, which the caller sends behind it). A binary header cannot carry codes outside
 * -32768 .. 32767: such a command is written as JSON. ZR_ENOMEM; ZR_EFULL: larger than a frame may be. */
zr_status zl_command_encode(struct zl_buf *out, const struct zr_command *command, uint32_t type, int32_t flag, int32_t opaque, uint64_t body_len);

/* Last field of that name, or {NULL, 0}. */
struct zr_str zl_field(const struct zr_field *fields, uint32_t n, const char *name);
/* Typed look-up as Java parses. ZR_OK, ZR_ENOENT (absent or empty), ZR_EINVAL (not a number). bool: "true" in any case, else 0. */
zr_status zl_field_i64(const struct zr_field *fields, uint32_t n, const char *name, int64_t *ret);
zr_status zl_field_i32(const struct zr_field *fields, uint32_t n, const char *name, int32_t *ret);
uint32_t zl_field_bool(const struct zr_field *fields, uint32_t n, const char *name, uint32_t dflt);

/* Response header fields under construction: text of numbers lives in the struct itself. */
struct zl_fields {
    uint32_t n, used;
    struct zr_field f[24];
    char text[512];
};
void zl_fields_str(struct zl_fields *fs, const char *name, struct zr_str value); /* value borrowed until encoded */
void zl_fields_i64(struct zl_fields *fs, const char *name, int64_t value);
void zl_fields_bool(struct zl_fields *fs, const char *name, uint32_t value);

/* "JAVA", "GO", ... of a LanguageCode; "OTHER" for unknown ones. */
const char *zl_language_name(int32_t language);
#endif
