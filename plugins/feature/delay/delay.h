/* SPDX-License-Identifier: Apache-2.0 */
/* delay.h - inside feature-delay: the instance, its levels, and what the files offer each other. README.md has the plan. */
#ifndef FEATURE_DELAY_H
#define FEATURE_DELAY_H
#include <pthread.h>
#include <stdint.h>

#include "zarya/broker.h"
#include "zarya/commands.h"
#include "zarya/durability.h"
#include "zarya/err.h"
#include "zarya/hooks.h"
#include "zarya/io.h"
#include "zarya/log.h"
#include "zarya/metrics.h"
#include "zarya/plugin.h"
#include "zarya/reply.h"
#include "zarya/state.h"
#include "zarya/store.h"
#include "zarya/timer.h"
#include "zarya/work.h"
#include "zl/buf.h"

#define SCHEDULE_TOPIC "SCHEDULE_TOPIC_XXXX"
#define TIMER_TOPIC "rmq_sys_wheel_timer"
#define MAX_LEVELS 64u
#define RECALL_KEY_MAX 512u /* of a recalled message: its unique key, and its topic where that stands before it */
#define ASIDE_MAX 1024u /* messages of levels that cannot be read for long, of all levels */
#define BATCH 64u /* messages of one delivery; a bit each in level.done */

#define LEVEL_IDLE 0u    /* nothing waits in its queue */
#define LEVEL_ARMED 1u   /* its timer runs */
#define LEVEL_RUNNING 2u /* a job is queued or at work, or its publish is not answered yet */

/* One delay level. Everything but the first four is guarded by zr_inst.lock. */
struct level {
    struct zr_inst *inst;
    struct zr_queue *queue;
    int64_t delay_ms;
    uint32_t number; /* 1-based; its queue is number - 1 */
    uint32_t state;
    int64_t cursor;    /* the first queue offset that was not delivered */
    int64_t known_end; /* behind the last entry that we were told of */
    int64_t known_physical, asked_physical; /* the log's end there; where we last asked to be told that it is visible */
    uint64_t done;     /* bit i: cursor + i was delivered already, before one that failed */
    int64_t doubt_until; /* entries before it may have left before the start: they are looked up (lookup.c) */
    int64_t doubt_end;   /* the queue's end at the start: later ones did not */
    uint64_t timer_id;
    uint32_t failures; /* in a row */
    uint32_t searching; /* no offset was saved: the first job looks for it */
    uint32_t served;    /* it is configured, or something of it was pending at the start although it is not any more */
};

/* A message that its level's cursor passed although it could not be read (aside.c). */
struct aside { int64_t offset, again_ms; uint32_t level, reserved; };

struct settings {
    struct zr_str delay_levels;
    int64_t timer_max_delay, timer_precision, timer_roll_window, timer_log_file_size, timer_congest;
    uint8_t timer_enable, recall_enable, recall_key_with_topic;
};

#define METRIC_READ_BEHIND 0u
#define METRIC_OFFSET_BEHIND 1u
#define METRIC_ENQUEUED 2u
#define METRIC_DELIVERED 3u
#define METRICS_N 4u

struct timer;

struct zr_inst {
    const struct zr_host *host;
    const struct settings *settings;
    const struct zr_store_v1 *store;
    const struct zr_broker_v1 *broker;
    const struct zr_timer_v1 *timer;
    const struct zr_work_v1 *work;
    const struct zr_state_v1 *state;
    const struct zr_io_v1 *io;
    const struct zr_durability_v1 *durability;
    const struct zr_reply_v1 *reply;
    struct timer *timed; /* NULL: switched off */
    const struct zr_log_v1 *log;
    const struct zr_metrics_v1 *metrics; /* NULL: there are none */
    uint32_t first_metric, reserved;
    const struct zr_storage_v1 *storage; /* from activate on */
    struct zr_inst *storage_inst;
    uint32_t n_levels; /* configured: what is put; MAX_LEVELS are looked at for what is pending */
    uint32_t delivers; /* 1: a master, from activate on */
    int64_t began_at;  /* the log's end at activate: what left before a crash lies before it */
    pthread_mutex_t lock;
    struct level levels[MAX_LEVELS];
    /* all below guarded by lock */
    struct zr_done drained;
    uint32_t stopping, n_running; /* jobs of levels and of saving */
    int64_t delivered_end;        /* the log's end behind the last delivered message */
    uint64_t save_timer;
    uint32_t saving; /* its timer or job is under way */
    uint32_t answered; /* the drain, or it is about to be */
    /* offsets.c's: touched by warm, then by the one saving job, then by cool */
    int64_t offsets[MAX_LEVELS]; /* as loaded or saved last; -1: none */
    int64_t snap[MAX_LEVELS], snap_end;
    int64_t counter; /* of the document's dataVersion */
    uint32_t snap_taken;
    struct aside aside[ASIDE_MAX]; /* guarded by lock */
    uint32_t n_aside, n_snap_aside;
    uint64_t aside_changes, aside_saved, snap_aside_changes;
    struct { int64_t offset; uint32_t level, reserved; } snap_aside[ASIDE_MAX];
    uint32_t offsets_lost; /* the document and its .bak are damaged */
};

struct zl_record;

/* What record_at says for good; anything else passes, and the message is there. */
static inline uint32_t is_gone(zr_status status) { return status == ZR_ENOENT || status == ZR_ECORRUPT; }

int64_t wall_ms(struct zr_inst *inst);
void say(struct zr_inst *inst, uint32_t level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* "1s 5s 10s 1m 2h 1d 100ms" -> ms. ZR_EINVAL: not such a list, none, or more than MAX_LEVELS. */
zr_status levels_parse(struct zr_str text, int64_t *ret_ms, uint32_t *ret_n);
/* One thing less is under way; to be called without the lock. Answers the drain when it was the last. */
void running_end(struct zr_inst *inst);

/* put.c */
zr_status put_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict);
/* timer.c */
zr_status timer_new(struct zr_inst *inst);
void timer_begin(struct timer *t);
void timer_end(struct timer *t);
void timer_cool(struct timer *t);
void timer_free(struct timer *t);
void timer_arrived(struct timer *t, const struct zr_put *put);
int64_t timer_precision(const struct timer *t);
uint32_t timer_is_down(struct timer *t); /* 1: nobody delivers what it takes, until its files can be opened */
uint32_t timer_congested(struct timer *t, int64_t time_ms); /* 1: no more in that slot */
/* deliver.c */
zr_status stored_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict);
void deliver_begin(struct zr_inst *inst);
void deliver_end(struct zr_inst *inst);
/* lookup.c: where the copy of a level's message ends that was in its own topic before the start; 0: it had none; -1: that cannot be
 * told now. */
int64_t level_left_end(struct zr_inst *inst, const struct zl_record *r);
/* aside.c */
uint32_t aside_put(struct level *l, int64_t offset, int64_t physical, zr_status status); /* 0: no room */
void aside_load(struct level *l, int64_t offset); /* before anything runs */
int64_t aside_due(struct level *l);               /* the offset of one that is to be tried now; -1: none */
void aside_end(struct level *l, int64_t offset);  /* it needs no attention any more */
int64_t aside_next_ms(const struct level *l, int64_t ms); /* with the lock: ms (-1: never), or sooner where one is to be tried sooner */
uint32_t aside_has(const struct level *l);        /* with the lock */
/* offsets.c */
zr_status offsets_load(struct zr_inst *inst);
void offsets_changed(struct zr_inst *inst); /* without the lock: will be saved within a second */
void offsets_save_last(struct zr_inst *inst); /* on a worker, after everything else ended; then the drain is answered */
void offsets_print(struct zr_inst *inst, struct zl_buf *out);
/* recall.c */
zr_status recall_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status recall_handle_read(struct zr_str in, char *text, uint64_t cap, struct zr_str *ret_topic, struct zr_str *ret_broker, int64_t *ret_ms, struct zr_str *ret_uniq);
/* answers.c */
zr_status delay_offsets_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status timer_check_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status timer_metrics_handle(struct zr_inst *inst, const struct zr_request *req);
zr_status stats_verb(struct zr_inst *inst, const struct zr_str *args, uint32_t n_args, struct zr_writer out);
#endif
