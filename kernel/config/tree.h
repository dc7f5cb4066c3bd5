/* SPDX-License-Identifier: Apache-2.0 */
/* tree.h - configuration as a tree of our own: what a libconfig file, a broker.conf, a built-in configuration or a command
 * line said, and for each value where it was said. Merging, checking and printing work on this and know no parser.
 *
 * Trees live in one arena until the process ends; nothing here is freed by itself. Main thread only. */
#ifndef ZK_CONF_TREE_H
#define ZK_CONF_TREE_H
#include "core/core.h"

#define ZK_CONF_GROUP 1u
#define ZK_CONF_LIST 2u
#define ZK_CONF_STR 3u   /* text */
#define ZK_CONF_INT 4u   /* i, and text as it would be printed */
#define ZK_CONF_FLOAT 5u /* f, and text */
#define ZK_CONF_BOOL 6u  /* i 0 or 1, and text */

struct zk_conf {
    const char *name; /* "" in a list and for the root */
    const char *file; /* where it was written */
    struct zr_str text;
    int64_t i;
    double f;
    struct zk_conf *child, *last, *next;
    uint32_t kind, line;
    uint32_t soft;    /* imported: what has no place here is reported, not refused */
    uint32_t n;       /* children */
    const char *origin; /* imported: the key as the file has it */
};

/* ---- what is wrong with the configuration, collected so that all of it is shown at once ---- */
void zk_problem(const char *file, uint32_t line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void zk_warning(const char *file, uint32_t line, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
uint32_t zk_n_problems(void);
/* Writes what was collected to stderr (problems, then warnings) and forgets it. */
void zk_problems_show(void);
/* The warnings so far as lines of log; for a process that runs. */
void zk_warnings_log(void);
/* The same as text, for tests: one line each, problems only; valid until the next problem. */
const char *zk_problems_text(void);
const char *zk_warnings_text(void);
void zk_problems_clear(void);

/* An imported key that nothing here takes: listed with the others in one warning when the configuration is shown. */
void zk_conf_no_effect(const struct zk_conf *value);

/* ---- the tree ---- */
void *zk_conf_alloc(uint64_t size); /* zeroed, from the tree's arena; ends the process when 64 MiB are used up */
const char *zk_conf_dup(struct zr_str s);
const char *zk_conf_fmt(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

struct zk_conf *zk_conf_new(uint32_t kind, const char *name, const char *file, uint32_t line);
struct zk_conf *zk_conf_new_str(const char *name, struct zr_str text, const char *file, uint32_t line);
void zk_conf_append(struct zk_conf *parent, struct zk_conf *child);
/* Puts child in the place of the parent's child of that name, or behind its last. */
void zk_conf_put(struct zk_conf *parent, struct zk_conf *child);
struct zk_conf *zk_conf_get(const struct zk_conf *group, const char *name);

/* Reads a libconfig file through the I/O seam. NULL: a problem was noted. */
struct zk_conf *zk_conf_read_file(const char *path);
/* The same from text; `file` is the name it is known by. */
struct zk_conf *zk_conf_read_text(const char *file, struct zr_str text, const char *include_dir);
/* A file with its conf.d beside it: conf.d/ *.conf in name order, each parsed by itself, merged. */
struct zk_conf *zk_conf_read_all(const char *path);
/* Merges `more` into `base`: scalars of a section: later wins; the list `plugins` is appended. */
void zk_conf_merge(struct zk_conf *base, struct zk_conf *more);

/* Edits between two names; UINT32_MAX: too long to compare. */
uint32_t zk_distance(struct zr_str a, struct zr_str b);
/* The nearest of n names to what was written, or NULL when none is near. */
const char *zk_nearest(const char *written, const char *const *names, uint32_t n);
#endif
