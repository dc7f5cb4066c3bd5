/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/filter.h - interface zarya.filter/1: subscription expressions.
 *
 * A program is judged in two steps: by tag codes from queue entries, many at a time, before the log is touched; and only
 * when that cannot decide, by a record's properties. Programs are immutable, so matching is safe from all threads, takes no
 * lock and allocates nothing. */
#ifndef ZARYA_FILTER_H
#define ZARYA_FILTER_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_IF_FILTER "zarya.filter/1"
#define ZR_MATCH_NO 0u
#define ZR_MATCH_YES 1u
#define ZR_MATCH_ASK 2u /* only by_properties can say */
/* The most that judging one message may take, and all that one read or one arriving message spends on judging. A step is about
 * an instruction, or 16 bytes looked at. */
#define ZR_FILTER_STEPS (1ull << 20)

struct zr_expression {
    struct zr_hdr hdr;
    struct zr_str language; /* "TAG", "SQL92" */
    struct zr_str text;     /* "TagA || TagB" */
    const int32_t *codes;   /* tag hashes as the client computed them (heartbeat codeSet), or NULL: from text. When given, */
    uint32_t n_codes;       /* matching is by them, as Apache does, even if text says otherwise */
    uint32_t reserved;
};
struct zr_filter_v1 {
    struct zr_hdr hdr;
    const char *const *languages; /* NULL-ended */
    /* give: end it with free_prog. ZR_EINVAL: *ret_at is the byte position of the fault, the reason is raised to zarya.err/1.
     * ZR_EFULL: the expression is beyond a stated bound. */
    ZR_ON(any) zr_status (*compile)(struct zr_inst *inst, const struct zr_expression *expr, struct zr_prog **ret_prog, uint64_t *ret_at);
    /* verdicts[i] = ZR_MATCH_* for tag_codes[i]. */
    ZR_ON(any) void (*by_tags)(const struct zr_prog *prog, const int64_t *tag_codes, uint32_t n, uint8_t *verdicts);
    /* ZR_MATCH_YES or ZR_MATCH_NO for a properties string. */
    ZR_ON(any) uint32_t (*by_properties)(const struct zr_prog *prog, struct zr_span properties);
    ZR_ON(any) void (*free_prog)(struct zr_prog *prog);
    /* As by_properties, but takes no more than *steps, and takes what it took off them. ZR_MATCH_ASK: they were too few, and none is
     * left. With ZR_FILTER_STEPS at hand it says what by_properties says, or ZR_MATCH_ASK where that gives up by ZR_MATCH_NO.
     * NULL: judging is never dear. */
    ZR_ON(any) uint32_t (*by_properties_within)(const struct zr_prog *prog, struct zr_span properties, uint64_t *steps);
};
#ifdef __cplusplus
}
#endif
#endif
