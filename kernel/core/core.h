/* SPDX-License-Identifier: Apache-2.0 */
/* core.h - what every part of the kernel stands on: log, errors, clock, timers, worker pool, metrics, arena, I/O seam,
 * state documents, and the list of host services. Behind each zr_*_v1 host service of the same name stands the function
 * here; the service tables themselves are in the .c files and are put up with zk_service_provide. */
#ifndef ZK_CORE_H
#define ZK_CORE_H
#include "zarya/zarya.h"
#include "zl/buf.h"
#include "zl/text.h"

/* ---- log. Text or JSON lines on stderr, with time, level, instance, generation. Nobody who logs waits for the log's reader: from
 * zk_log_start on a thread of its own writes, and what finds no room is counted. ---- */
void zk_log(uint32_t level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void zk_log_set(uint32_t level, uint32_t json);
void zk_log_set_level(uint32_t level);
const char *zk_log_level_name(uint32_t level); /* "error" ... "debug" */
void zk_log_start(void);     /* after signals are blocked; until then whoever logs, writes */
uint32_t zk_log_flush(void); /* waits until what was logged is out, at most 2 s; 0: it is not */
void zk_log_stop(void);      /* flushes and ends the thread; at exit at the latest */
/* Finished text (at most 8 KiB, with its line end) on the same way, for what is no line of log. */
void zk_log_raw(const char *text, uint32_t n);

/* ---- errors: the record of this thread (zarya.err/1). ---- */
void zk_err_clear(void);
void zk_err_raise(zr_status status, int32_t os_errno, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Text of the last record raised on this thread, "" when none; valid until the next raise or clear. */
const char *zk_err_text(void);

/* ---- clock ---- */
int64_t zk_mono_ns(void);
int64_t zk_wall_ms(void);

/* ---- timers: one thread; callbacks short. Same contract as zarya.timer/1. ---- */
zr_status zk_timer_at(int64_t at_ns, void (*fn)(void *), void *arg, uint64_t *ret_id);
zr_status zk_timer_cancel(uint64_t id);
zr_status zk_on_clock_set(void (*fn)(void *arg), void *arg); /* fn NULL: no more */

/* ---- worker pool: bounded queue; same contract as zarya.work/1 run. ---- */
zr_status zk_work(void (*fn)(void *), void *arg);

/* Starts and stops timer thread and pool. stop runs what is queued, then joins. */
zr_status zk_core_start(uint32_t workers);
/* Puts up the services of core (log, err, mem, timer, work, metrics, state, io); zk_core_start does it too. */
void zk_core_provide_services(void);
void zk_core_stop(void);

/* ---- metrics (zarya.metrics/1): declare once, add from anywhere. ---- */
uint32_t zk_metric(const char *name, uint32_t kind, const char *unit, const char *doc); /* id; the kernel's own, instance "kernel" */
void zk_metric_add(uint32_t id, int64_t delta);
void zk_metric_set(uint32_t id, int64_t value);
void zk_metric_observe(uint32_t id, int64_t value);
/* Calls each for every series, as zarya.metrics/1 does; or all of them as Prometheus text. */
void zk_metrics_each(void (*each)(void *ctx, struct zr_str name, struct zr_str instance, uint32_t kind, struct zr_str doc, double value), void *ctx);
void zk_metrics_text(struct zl_buf *out);

/* ---- arena: bump memory in chunks with a maximum; reset keeps one chunk. Not thread-safe. ---- */
struct zk_arena { struct zk_chunk *chunks; uint64_t used, max, chunk_size; };
void zk_arena_init(struct zk_arena *a, uint64_t chunk_size, uint64_t max);
void *zk_arena_alloc(struct zk_arena *a, uint64_t size); /* aligned to 16; NULL beyond max */
struct zr_str zk_arena_str(struct zk_arena *a, struct zr_str s);
void zk_arena_reset(struct zk_arena *a);
void zk_arena_free(struct zk_arena *a);

/* ---- I/O seam: what all file operations of this process go through. ---- */
const struct zr_io_v1 *zk_io(void);
void zk_io_set(const struct zr_io_v1 *io); /* tests */

/* ---- state documents under the data directory (zarya.state/1) ---- */
zr_status zk_state_write(struct zr_str name, struct zr_span bytes);
zr_status zk_state_read(struct zr_str name, zr_status (*accept)(void *ctx, struct zr_span bytes), void *ctx);
/* The same; *ret_bak (may be NULL): it was taken from <name>.bak. */
zr_status zk_state_read_from(struct zr_str name, zr_status (*accept)(void *ctx, struct zr_span bytes), void *ctx, uint32_t *ret_bak);
/* Both copies are of no use: renamed to <name>.damaged and <name>.bak.damaged, for a person to look at. */
void zk_state_set_aside(struct zr_str name);

/* ---- host services by id. Tables are static. Before the plugins are created. ---- */
void zk_service_provide(const char *id, const void *table);
const void *zk_service(const char *id); /* NULL: not there */
#endif
