/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/commands.h - interface zarya.commands/1: operator verbs, shown alike by zaryactl (over the control socket) and HTTP. */
#ifndef ZARYA_COMMANDS_H
#define ZARYA_COMMANDS_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_IF_COMMANDS "zarya.commands/1"
#define ZR_COMMAND_READS 0x1u /* changes nothing */

/* Where a verb writes its answer: one JSON value, in any number of pieces. */
struct zr_writer { void (*write)(void *ctx, struct zr_str text); void *ctx; };

struct zr_verb {
    struct zr_hdr hdr;
    const char *name;  /* "delay stats" */
    const char *doc;   /* one sentence */
    const char *usage; /* "[--level N]" */
    uint32_t flags;    /* ZR_COMMAND_* */
    uint32_t reserved;
    /* args: what followed the verb, one string each. A failure's text goes to zarya.err/1. */
    ZR_ON(worker) zr_status (*run)(struct zr_inst *inst, const struct zr_str *args, uint32_t n_args, struct zr_writer out);
};
struct zr_commands_v1 {
    struct zr_hdr hdr;
    const struct zr_verb *verbs; /* step: hdr.size of the first; static */
    uint32_t n_verbs;
    uint32_t reserved;
};
#ifdef __cplusplus
}
#endif
#endif
