/* SPDX-License-Identifier: Apache-2.0 */
/* transaction.h - inside feature-transaction: the instance, and what the files offer each other. README.md has the plan.
 *
 * LOCKING: zr_inst.lock guards the table, the ops that wait, and the small state below it. Under it the host is asked for the time and
 * told figures, and nothing else. */
#ifndef FEATURE_TRANSACTION_H
#define FEATURE_TRANSACTION_H
#include <pthread.h>
#include <stdint.h>

#include "counts.h"
#include "ends.h"
#include "ops.h"
#include "table.h"
#include "zarya/broker.h"
#include "zarya/commands.h"
#include "zarya/err.h"
#include "zarya/hooks.h"
#include "zarya/log.h"
#include "zarya/metrics.h"
#include "zarya/plugin.h"
#include "zarya/reply.h"
#include "zarya/requests.h"
#include "zarya/state.h"
#include "zarya/store.h"
#include "zarya/timer.h"
#include "zarya/work.h"
#include "zl/record.h"

#define HALF_TOPIC "RMQ_SYS_TRANS_HALF_TOPIC"
#define OP_TOPIC "RMQ_SYS_TRANS_OP_HALF_TOPIC"
#define DISCARD_TOPIC "TRANS_CHECK_MAX_TIME_TOPIC"
#define OFFSETS_GROUP "CID_RMQ_SYS_TRANS"

#define CODE_SUCCESS 0
#define CODE_SYSTEM_ERROR 1
#define CODE_SYSTEM_BUSY 2
#define CODE_SLAVE_NOT_AVAILABLE 11
#define CODE_MESSAGE_ILLEGAL 13
#define CODE_SERVICE_NOT_AVAILABLE 14
#define CODE_TOPIC_NOT_EXIST 17
#define CODE_ILLEGAL_OPERATION 604

#define CHECK_ROOM 96u /* bytes: TRANSACTION_CHECK_TIMES and TRAN_PREPARED_QUEUE_OFFSET with the longest numbers have 82 */
#define HELD_MS 20000 /* nothing holds the half queue's beginning for longer, when much came behind it */
#define MAX_OP_ROLLED (16u * 1024) /* of a message's properties */
#define MAX_OP_TEXT (256u * 1024) /* ops that wait to be written, when the storage refuses them */

struct settings {
    int64_t timeout, check_interval, check_max, retention_hours, op_interval, op_size, max_open, check_rate, count_interval;
};

/* Which half message was the first of its unique key and group, while a directory is read; at most KEYS_MAX. */
struct keys { struct { uint64_t hash; int64_t first; } *all; uint64_t n, cap; };

enum { METER_OPEN, METER_PREPARED, METER_COMMITTED, METER_ROLLED_BACK, METER_CHECKS, METER_DISCARDED, N_METERS };

struct zr_inst {
    const struct zr_host *host;
    const struct settings *settings;
    const struct zr_store_v1 *store;
    const struct zr_broker_v1 *broker;
    const struct zr_reply_v1 *reply;
    const struct zr_timer_v1 *timer;
    const struct zr_work_v1 *work;
    const struct zr_log_v1 *log;
    const struct zr_state_v1 *state;
    const struct zr_metrics_v1 *metrics;
    const struct zr_storage_v1 *storage; /* from activate on */
    struct zr_inst *storage_inst;
    struct zr_queue *half_queue, *op_queue;
    struct zr_str broker_name;
    uint32_t meters; /* the first one's id */
    uint32_t master; /* 1: from activate on, unless this is a slave */
    int64_t begin_ms; /* monotonic, of activate */
    pthread_mutex_t lock;
    /* all below guarded by lock */
    struct zr_done drained;
    uint32_t stopping, n_running; /* jobs and appends under way */
    struct tx_table table;
    struct ends ends; /* words about half messages that have no slot */
    int64_t refused_told_ms; /* end.c: when the log last told that a commit was refused */
    int64_t copied_end;    /* the log's end behind the last committed, rewritten or discarded message */
    /* ops.c */
    struct zl_buf op_text, op_rolled; /* not yet written; which of them were rolled back, by their first offsets */
    int64_t op_highest;    /* highest offset in it */
    uint64_t op_timer;
    uint32_t op_armed, op_failing;
    struct op_marks op_marks;
    /* progress.c */
    int64_t saved_half, saved_op;
    int64_t snap_half, snap_op, snap_end;
    uint64_t save_timer;
    uint32_t saving, snap_taken;
    /* counts.c */
    struct counts counts;
    uint64_t count_timer;
    uint32_t counting, reserved2; /* its timer or job is under way */
    /* check.c */
    uint64_t check_timer;
    int64_t check_armed_ms; /* when it fires; INT64_MAX: it is not armed */
    int64_t check_not_before_ms;
    uint32_t checking;
    uint32_t next_client; /* takes turns among a group's producers */
    /* load.c */
    int64_t half_began;          /* the half queue's end at the start */
    int64_t load_next, load_end; /* of the half queue */
    int64_t ops_next, ops_end;   /* of the op queue */
    uint32_t load_failures, reserved_load; /* the loading job's own */
    uint32_t loading, n_lost;    /* half messages that found no place in the table */
    struct keys keys;
    uint32_t beyond, reserved;   /* the directory has more of them than the window */
};

/* transaction.c */
int64_t wall_ms(struct zr_inst *inst);
int64_t mono_ms(struct zr_inst *inst);
void say(struct zr_inst *inst, uint32_t level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void meter(struct zr_inst *inst, uint32_t which, int64_t delta);
/* Something more is under way, until running_end (which is called without the lock). 0: the instance is stopping. */
uint32_t running_begin(struct zr_inst *inst);
void running_end(struct zr_inst *inst);

/* half.c: what a half message says about itself */
struct half {
    struct zr_str group, topic, unique; /* PGROUP, REAL_TOPIC, UNIQ_KEY */
    struct zr_str queue, first, times;  /* REAL_QID, TRAN_PREPARED_QUEUE_OFFSET, TRANSACTION_CHECK_TIMES */
    struct zr_str immunity;             /* CHECK_IMMUNITY_TIME_IN_SECONDS */
};
void half_read(struct zr_span properties, struct half *ret);
int64_t half_first(const struct half *h, int64_t own);
uint32_t half_times(const struct half *h);
/* How long its producer is left alone; -1: it says nothing about that. */
int64_t half_immunity_ms(struct zr_inst *inst, const struct half *h);
zr_status put_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict);
zr_status stored_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict);
/* These with the lock: an open half message in the table, or what it came to meanwhile. */
void half_open(struct zr_inst *inst, const struct half *h, int64_t first, int64_t offset, int64_t physical, int64_t ask_ms);
/* It is looked at when its producer is to be asked, or sooner: nothing holds the queue's beginning for long. */
void half_due(struct zr_inst *inst, struct tx_slot *s, int64_t now_ms);
void half_count(struct zr_inst *inst, const struct tx_slot *s, int64_t delta); /* open ones: one more, or one less */

/* found.c: where the committed message of a half one ends in the log; 0: there is none; -1: that cannot be read now. Reads files: not on a connection's thread. */
int64_t committed_end(struct zr_inst *inst, const struct zl_record *r, const struct half *h, int64_t first);
/* 1: the op queue says that it ended, and it was neither committed (the caller looked) nor given up. Reads files. */
uint32_t rolled_back_before(struct zr_inst *inst, const struct zl_record *r, const struct half *h, int64_t first);

/* end.c */
zr_status end_handle(struct zr_inst *inst, const struct zr_request *req);

/* resume.c */
zr_status resume_handle(struct zr_inst *inst, const struct zr_request *req);

/* ops.c's other half */
void op_add(struct zr_inst *inst, int64_t offset); /* with the lock: this half message needs no attention any more */
void op_rolled_back(struct zr_inst *inst, int64_t first); /* with the lock: and that is why */
void op_settle(struct zr_inst *inst);              /* without it, after op_add: writes what is due, or arms its timer */
void op_flush(struct zr_inst *inst);

/* progress.c */
void progress(struct zr_inst *inst); /* without the lock: something was settled */
void progress_now(struct zr_inst *inst);

/* counts.c */
void counts_load(struct zr_inst *inst);
void counts_changed(struct zr_inst *inst); /* without the lock */
void counts_save_now(struct zr_inst *inst);

/* check.c */
void check_arm(struct zr_inst *inst); /* without the lock: the table's top may have changed */

/* load.c */
void load_begin(struct zr_inst *inst);

/* show.c */
extern const struct zr_commands_v1 tx_commands;
#endif
