/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz.h - what the fuzz targets share.
 *
 * A target is handed hostile bytes and checks three things: no access outside the memory it was given (sanitizers; buffers are of
 * exactly the documented size), an end in bounded time, and that what was understood survives writing and reading again. */
#ifndef FUZZ_H
#define FUZZ_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "zl/codec.h"
#include "zl/text.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(condition)                                                                                                \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)

/* The result of decoding, and the memory it points into. */
struct fuzz_header {
    struct zl_header h;
    char *scratch;
};

/* 1 and a result to be released, or 0. The result begins as rubbish, and scratch is of the size that always suffices. */
static inline uint32_t fuzz_decode(struct zr_span frame, struct fuzz_header *ret)
{
    uint64_t cap = zl_load32(frame.ptr + 4) & 0xFFFFFF;
    const char *why = NULL;
    memset(ret, 0xEE, sizeof(*ret));
    ret->scratch = malloc(cap ? cap : 1);
    zr_status status = zl_header_decode(frame, &ret->h, ret->scratch, cap, &why);
    MUST(status == ZR_OK ? why == NULL : (status == ZR_EINVAL || status == ZR_EFULL) && why != NULL);
    if (status == ZR_OK) return 1;
    free(ret->scratch);
    return 0;
}

static inline void fuzz_check_equal(const struct zl_header *a, const struct zl_header *b, uint32_t empty_is_absent)
{
    MUST(a->code == b->code && a->flag == b->flag && a->opaque == b->opaque);
    MUST(zl_eq(a->remark, b->remark));
    MUST(a->body.len == b->body.len && (a->body.len == 0 || memcmp(a->body.ptr, b->body.ptr, a->body.len) == 0));
    if (!empty_is_absent) {
        MUST(a->n_fields == b->n_fields);
        for (uint32_t i = 0; i < a->n_fields; i++) {
            MUST(zl_eq(a->fields[i].name, b->fields[i].name) && zl_eq(a->fields[i].value, b->fields[i].value));
        }
    }
    /* In binary empty values vanish, and names with them; what is left is what look-up finds. */
    for (uint32_t i = 0; i < b->n_fields; i++) MUST(b->fields[i].value.ptr != NULL);
}

/* Writes a decoded header again as `type` and reads that: it must be the same. */
static inline void fuzz_round_trip(const struct zl_header *h, uint32_t type)
{
    struct zr_command c = {
        .hdr = ZR_HDR(struct zr_command, 0),
        .code = h->code,
        .n_fields = h->n_fields,
        .fields = h->fields,
        .remark = h->remark,
        .body = h->body,
        .flags = h->has_ext ? ZR_COMMAND_EMPTY_EXT : 0,
    };
    struct zl_buf out;
    zl_buf_init(&out, 4 * ZL_FRAME_MAX);
    MUST(zl_command_encode(&out, &c, type, h->flag, h->opaque, 0) == ZR_OK);
    struct zr_span frame, again = zl_buf_as_span(&out);
    uint64_t need;
    MUST(zl_frame_cut(again, &frame, &need) == ZR_OK && frame.len == again.len);
    struct fuzz_header second;
    MUST(fuzz_decode(frame, &second));
    MUST(second.h.language == 0 && second.h.version == ZL_VERSION);
    fuzz_check_equal(h, &second.h, second.h.type == ZL_TYPE_BINARY);
    if (second.h.type == ZL_TYPE_JSON) MUST(second.h.has_ext == h->has_ext);
    free(second.scratch);
    zl_buf_free(&out);
}

/* header as a frame of its own, in memory of exactly its size. */
static inline struct zr_span fuzz_frame(uint32_t type, const uint8_t *header, uint64_t len)
{
    uint8_t *to = malloc(8 + len);
    zl_store32(to, (uint32_t)(4 + len));
    zl_store32(to + 4, type << 24 | (uint32_t)len);
    if (len) memcpy(to + 8, header, len);
    return (struct zr_span){ to, 8 + len };
}
#endif
