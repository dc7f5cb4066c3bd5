/* SPDX-License-Identifier: Apache-2.0 */
/* core_int.h - what the files of kernel/core owe each other and nobody else. */
#ifndef ZK_CORE_INT_H
#define ZK_CORE_INT_H
#include "core/core.h"

/* One line of log from `who`; generation 0 is not shown. */
void zk_log_line(uint32_t level, const char *who, uint32_t generation, struct zr_str text, const struct zr_field *fields, uint32_t n_fields);
uint32_t zk_log_level(void);
/* The longest line, with its end. */
#define ZK_LOG_LINE_MAX 8192u
/* The line that tells how many are missing, into `to` (ZK_LOG_LINE_MAX bytes); its length. */
uint32_t zk_log_format_dropped(char *to, uint64_t n);

/* How much one place may log (log_limit.c): a format of zk_log, or an instance by its name. Both live as long as the process. */
#define ZK_LOG_FORMAT 0u
#define ZK_LOG_INSTANCE 1u
uint32_t zk_log_pass(uint32_t kind, uint32_t level, const char *text, uint64_t bytes); /* 0: not this line; it is counted */
uint32_t zk_log_owes(void);      /* is there a count that was not told? */
void zk_log_tell_left_out(void); /* tells all counts */
void zk_log_wake(void);          /* the log's thread looks what there is to do */

/* The error record of this thread from a finished record. */
void zk_err_take(const struct zr_error *error);

/* Series of an instance; the same name and instance again gives the same id. 0: the table is full (counts go nowhere). */
uint32_t zk_metric_of(const char *instance, const char *name, uint32_t kind, const char *doc);

/* Threads by name, for zarya.work/1 spawn and join. */
zr_status zk_thread_spawn(const char *name, void (*fn)(void *), void *arg, uint64_t *ret_id);
zr_status zk_thread_join(uint64_t id);

zr_status zk_timers_start(void);
void zk_timers_stop(void);
zr_status zk_pool_start(uint32_t workers);
void zk_pool_stop(void);

#endif
