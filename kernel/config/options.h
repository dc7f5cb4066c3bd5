/* SPDX-License-Identifier: Apache-2.0 */
/* options.h - option rows (zarya/plugin.h) and what is done with them: settings structs filled from a configuration group,
 * printed back, and described. One mechanism for the sections `node` and `broker` and for every plugin. */
#ifndef ZK_OPTIONS_H
#define ZK_OPTIONS_H
#include "config/tree.h"

struct zk_rows {
    const struct zr_option *rows;
    uint32_t n, settings_size;
    const char *who; /* in messages: "node", "storage-commitlog.settings" */
};
/* Row i, by the step that the first row states. */
const struct zr_option *zk_row(const struct zk_rows *rows, uint32_t i);
const struct zr_option *zk_row_named(const struct zk_rows *rows, const char *name);

/* Are the rows themselves sound (types, offsets within the struct, defaults and limits that parse)? Notes problems at file:line. */
uint32_t zk_rows_sound(const struct zk_rows *rows, const char *file, uint32_t line);
/* Fills settings (zeroed, settings_size bytes): defaults, then the group's values. file:line is where a missing value is
 * reported. Text and lists live in the tree's arena. What is wrong is noted as a problem; for soft values as a warning. Soft
 * values without a row are handed to unknown (may be NULL). */
void zk_rows_fill(const struct zk_rows *rows, const struct zk_conf *group, const char *file, uint32_t line, void *settings,
                  void (*unknown)(const struct zk_conf *value));

/* "key = value;" lines in libconfig syntax, secrets as "***". */
void zk_rows_print(const struct zk_rows *rows, const void *settings, const char *indent, struct zl_buf *out);
/* One value as Apache would print it behind "key=": numbers plain, text bare. */
void zk_row_plain(const struct zr_option *row, const void *settings, struct zl_buf *out);
/* The rows as a JSON array. */
void zk_rows_schema(const struct zk_rows *rows, struct zl_buf *out);
#endif
