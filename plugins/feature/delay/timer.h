/* SPDX-License-Identifier: Apache-2.0 */
/* timer.h - inside feature-delay: the engine of arbitrary delivery times. timer.c has its life and loop, due.c what is near and
 * leaves, enqueue.c what comes in, restore.c the start, save.c the files. */
#ifndef FEATURE_DELAY_TIMER_H
#define FEATURE_DELAY_TIMER_H
#include "delay.h"
#include "wheel.h"
#include "zl/buf.h"
#include "zl/record.h"

#define NEAR_MAX (1u << 20)   /* messages in memory, 32 bytes each; beyond it slots are taken in parts */
#define LOADED_MAX 4096u      /* slots at work */
#define RECALL_BYTES (64u << 20) /* keys of recalled messages in memory, of all slots at work */
#define TBATCH 64u
#define STEP_MAX 1000 /* ms; the steps are 100, 200, 500 and 1000 */

#define NEAR_ROLL 1u  /* goes round the timer topic once more */
#define NEAR_DOUBT 2u /* may have left before a crash: looked up first */
#define NEAR_AGAIN 4u /* it was put off before (slot_put_off) */
#define NEAR_STUCK 8u /* counted in its slot's `stuck` */
#define NEAR_RECALL 16u /* a recall that goes round: it counts the other way */
#define NEAR_TRY 256u /* from here on: how often it failed */
#define NEAR_TRIES_MAX 255u

/* A message that is due soon: all that is in memory of it. What is not due soon has nothing. */
struct near_msg { int64_t due_ms, physical, slot_ms; uint32_t size, flags; };

/* Keys of recalled messages (recalls.c). */
struct recalls { uint32_t *at; uint8_t *bytes; uint32_t n, cap, len, room; };

/* A slot at work. */
struct lslot {
    int64_t time_ms, pending;
    int64_t resume;  /* the unit of its chain where loading goes on, -1: all is loaded */
    uint32_t acted;  /* some of it left, or was dropped */
    uint32_t far;    /* all of it goes round again, whatever its time */
    uint32_t told;   /* that its recalls are too many */
    uint32_t stuck, reserved; /* of the pending ones: those that cannot be read for long */
    struct recalls recalls;
    int64_t unread;  /* recalls of its chain from here back could not be read: nothing of it leaves before; -1: all were */
};

struct tbatch {
    struct near_msg near[TBATCH];
    struct zr_msg msgs[TBATCH];
    uint64_t pins[TBATCH], prop_at[TBATCH];
    zr_status put[TBATCH];
    int32_t hash[TBATCH];
    struct zl_buf text;
    int64_t end;
    uint32_t n, answered;
    uint32_t unread, reserved; /* how many of what is due cannot be read now */
};

struct metric { int32_t hash; uint32_t used; int64_t count, ms; };
#define METRICS_MAX 65536u

struct timer {
    struct zr_inst *inst;
    const struct zr_io_v1 *io;
    uint64_t thread;
    uint32_t spawned, restored, down; /* the last two: by __atomic */
    struct zr_queue *queue;
    struct wheel wheel;
    struct tlog log;
    int64_t precision_ms, window_ms;
    /* the engine's own */
    struct near_msg *heap;
    uint32_t n_heap, cap_heap;
    struct lslot *loaded; /* by time */
    uint32_t n_loaded;
    int64_t read_ms;    /* every slot before it is done */
    int64_t horizon_ms; /* every slot before it that is not done is loaded */
    int64_t cursor;     /* next queue offset to take */
    int64_t doubt_end, doubt_queue_end, begin_end; /* units and entries before these may have been delivered before a crash */
    int64_t done_ms;    /* what timercheck said at the start: all before it had left */
    int64_t coarse_end; /* entries before it may have been put with a longer step */
    int64_t rebuild_end, rebuild_ms; /* the log is made anew up to that entry, as if it were that time */
    int64_t delivered_end, last_wall_ms, retry_until_ms, dirty_since_ns, trim_ns;
    uint32_t failures, due_failures, stepped, asked_visible;
    uint32_t unread_run; /* the entry before this one was passed unread */
    uint32_t told_unread; /* in the minute that began at */
    int64_t told_since_ms;
    uint32_t damaged;
    int64_t asked_physical; /* where we last asked to be told that it is visible */
    uint64_t recall_bytes;
    struct tbatch *batch;
    struct zl_buf path;
    /* guarded by lock, and signalled by wake: */
    pthread_mutex_t lock;
    pthread_cond_t wake;
    uint32_t kicked, stopping, ended, flushing, clock_set, save_again;
    int64_t known_end, known_physical;
    pthread_mutex_t step; /* held by the engine from adding units until they are written, by a flush while it copies pages */
    /* a flush's own, between its begin and its end */
    struct timercheck check;
    int64_t save_delivered_end;
    int32_t wheel_fd, check_fd;
    uint32_t flush_failed, metrics_due;
    /* counted, for `delay stats`: guarded by count_lock */
    pthread_mutex_t count_lock;
    struct metric *metrics;
    uint32_t n_metrics;
    int64_t n_enqueued, n_delivered, n_rolled, n_recalled, n_dropped, late_max_ms;
    int64_t metrics_counter;
    uint32_t shown_heap, shown_loaded;
    int64_t told_enqueued, told_delivered; /* to zarya.metrics/1; the engine's own */
    int64_t shown_read_ms, shown_log, shown_cursor, shown_pending;
};

int64_t slot_floor(const struct timer *t, int64_t ms);
/* While the log is made anew nothing leaves, so that a message and its recall behind it meet, and what timercheck calls done stays as it was. */
static inline uint32_t is_rebuilding(const struct timer *t) { return t->cursor < t->rebuild_end; }
void timer_dirty(struct timer *t);
void timer_kick(struct timer *t);
/* due.c */
zr_status near_add(struct timer *t, const struct near_msg *m);
uint32_t due_deliver(struct timer *t, int64_t now); /* 1: something was done */
uint32_t slots_load(struct timer *t, int64_t now);
/* A slot for what cannot be read now, a minute ahead. 0: none is free. */
uint32_t slot_ahead(struct timer *t, int64_t now, struct wslot *ret);
void unread_tell(struct timer *t, int64_t physical, zr_status status, int64_t now);
void slots_finish(struct timer *t, int64_t now);
struct lslot *lslot_of(struct timer *t, int64_t time_ms, uint32_t make);
void lslot_delete(struct timer *t, struct lslot *s, int64_t pos, struct zr_str key); /* the unit at pos recalls key */
uint32_t slot_roll_away(struct timer *t, int64_t time_ms);
void slots_entomb(struct timer *t);
void due_free(struct timer *t);
int64_t due_next_ms(struct timer *t, int64_t now); /* until something is to be done; -1: nothing */
/* recalls.c */
zr_status recalls_add(struct timer *t, struct recalls *r, struct zr_str key); /* ZR_EFULL: no room for more */
uint32_t recalls_has(const struct recalls *r, struct zr_str topic, struct zr_str uniq);
void recalls_free(struct timer *t, struct recalls *r);
/* enqueue.c */
uint32_t enqueue_some(struct timer *t, int64_t now);
int64_t roll_time(const struct timer *t, int64_t write_ms, int64_t out_ms, uint32_t *ret_roll);
int64_t exact_of(const struct timer *t, const struct zl_record *r, int64_t out_ms);
/* restore.c */
zr_status timer_restore(struct timer *t);
/* save.c */
void save_begin(struct timer *t); /* with a job; or does nothing when one is under way */
void save_last(struct timer *t);  /* on the engine's thread, nothing else runs */
zr_status save_open(struct timer *t);
zr_status check_write(struct timer *t); /* config/timercheck, as t->check has it, to the disk */
void save_close(struct timer *t);
void metrics_clear(struct timer *t); /* they are counted anew with the next restore */
void metric_add(struct timer *t, int32_t hash, int64_t n, int64_t ms);
void metrics_print(struct timer *t, struct zl_buf *out, uint32_t pretty);
/* lookup.c */
#define PASSED_UNKNOWN 2u /* the log cannot be read now */
uint32_t was_passed_on(struct timer *t, const struct zl_record *r); /* a timed message, to its topic or once more round */
#endif
