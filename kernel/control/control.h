/* SPDX-License-Identifier: Apache-2.0 */
/* control.h - the control socket: operator verbs of the kernel and of every plugin (zarya.commands/1), for zaryactl. README.md
 * has the protocol and the limits. */
#ifndef ZK_CONTROL_H
#define ZK_CONTROL_H
#include "core/core.h"
#include "plugin/instance.h"

/* Where the socket of a data directory is, by its own name. */
#define ZK_CONTROL_NAME "run/control.sock"
#define ZK_CONTROL_LINE_MAX (64u << 10)
#define ZK_CONTROL_WORDS_MAX 64u

/* Binds <data>/run/control.sock and starts the thread that serves it. Main thread, when all plugins are active. A socket that a
 * killed process left is replaced; one that somebody answers on never is. Raises; nothing is left behind then. */
zr_status zk_control_start(const char *data_dir);
/* No request is taken from here on; those under way are finished and answered. Main thread, before plugins are drained. */
void zk_control_stop(void);

/* ---- verbs.c ---- */
struct zk_words { uint32_t n, reserved; struct zr_str at[ZK_CONTROL_WORDS_MAX]; };
struct zk_verb { /* what a request means: a row of the kernel's or a plugin's */
    const char *name, *usage, *doc;
    const struct zk_instance *of; /* NULL: the kernel */
    const struct zr_verb *theirs;
    zr_status (*ours)(const struct zr_str *args, uint32_t n_args, struct zr_writer out);
    uint32_t n_words; /* of the request that name it; the others are its arguments */
    uint32_t reserved;
};
/* Main thread, when all plugins are active; what verbs show and only the main thread may ask for. */
void zk_verbs_open(void);
void zk_verbs_close(void);
/* The verb with the most words that the request begins with. ZR_EINVAL: there is none, raised with the nearest names. */
zr_status zk_verb_find(const struct zk_words *words, struct zk_verb *ret);
/* Worker. Appends one line to out: {"ok":true,"result":...} or {"ok":false,"status":...,"error":"..."}. */
void zk_verb_run(const struct zk_verb *verb, const struct zk_words *words, struct zl_buf *out);
void zk_verb_refuse(struct zl_buf *out, zr_status status, const char *text);
/* 1: since the last call somebody asked that this process leaves its name servers (main thread, woken by SIGUSR1). */
uint32_t zk_control_wants_drain(void);
#endif
