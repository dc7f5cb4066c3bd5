/* SPDX-License-Identifier: Apache-2.0 */
/* timer.c - messages for arbitrary times: the engine's life and its loop.
 *
 * A timed message is stored in queue 0 of rmq_sys_wheel_timer (put.c). One thread, the engine, takes what comes there, notes it in
 * the timer log and the wheel, and forgets it. What is due within two steps of the wheel it holds in memory, by the
 * millisecond, and publishes when its time has come. It sleeps until the next of these, until something comes in, or until the
 * clock is set.
 *
 * LOCKING: what is marked so in timer.h is guarded by timer.lock; the rest is the engine's alone. The host is never called under
 * a lock. */
#include <stdlib.h>
#include <time.h>

#include "timer.h"
#include "zl/text.h"

#define SAVE_NS (500LL * 1000000)
#define BATCHES 8u /* delivered in one turn; then what comes in has its turn too */
#define OPEN_RETRY_MS 200  /* until the files can be opened: twice as long each time, up to */
#define OPEN_RETRY_MAX_MS 5000
#define HELD_WAIT_MS 250 /* the log is made anew, and the next entry cannot be read now */
#define BLIND_WAIT_MS 1000 /* where the host cannot tell that the clock was set */

int64_t slot_floor(const struct timer *t, int64_t ms) { return ms / t->precision_ms * t->precision_ms; }

void timer_dirty(struct timer *t)
{
    if (!t->dirty_since_ns) t->dirty_since_ns = t->inst->timer->mono_ns(t->inst->host);
}

void timer_kick(struct timer *t)
{
    pthread_mutex_lock(&t->lock);
    if (!t->kicked) {
        t->kicked = 1;
        pthread_cond_signal(&t->wake);
    }
    pthread_mutex_unlock(&t->lock);
}

static void clock_was_set(void *arg)
{
    struct timer *t = arg;
    pthread_mutex_lock(&t->lock);
    t->clock_set = t->kicked = 1;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

void timer_arrived(struct timer *t, const struct zr_put *put)
{
    pthread_mutex_lock(&t->lock);
    if (put->queue_offset >= t->known_end) {
        t->known_end = put->queue_offset + 1;
        t->known_physical = put->physical_offset + put->size;
    }
    if (!t->kicked) {
        t->kicked = 1;
        pthread_cond_signal(&t->wake);
    }
    pthread_mutex_unlock(&t->lock);
}

int64_t timer_precision(const struct timer *t) { return t->precision_ms; }

uint32_t timer_is_down(struct timer *t) { return __atomic_load_n(&t->down, __ATOMIC_ACQUIRE); }

/* Apache's rule, but for its inverted chance: up to the limit all, from twice the limit none, between them fewer and fewer. */
uint32_t timer_congested(struct timer *t, int64_t time_ms)
{
    int64_t limit = t->inst->settings->timer_congest;
    if (limit >= INT32_MAX || !__atomic_load_n(&t->restored, __ATOMIC_ACQUIRE)) return 0;
    int64_t n = wheel_num(&t->wheel, time_ms);
    if (n <= limit) return 0;
    return n >= 2 * limit || t->inst->timer->mono_ns(t->inst->host) / 1000 % 1000 < 1000 * (n - limit) / limit;
}

/* Slots for times that can only have been meant under another clock go round once more, and find their place by this one. */
static void far_roll(struct timer *t, int64_t now)
{
    struct wslot slot;
    uint32_t at;
    for (uint32_t skip = 0; wheel_next(&t->wheel, now, skip, &slot, &at); skip = at + 1)
        if (slot.time_ms > now + t->window_ms + 86400000) slot_roll_away(t, slot.time_ms);
}

static void clock_look(struct timer *t, int64_t now, uint32_t told)
{
    uint32_t back = now < t->last_wall_ms - 500;
    t->last_wall_ms = now;
    if (!told && !back) return;
    say(t->inst, ZR_LOG_INFO, "the clock was set%s: timed messages go by the new one", back ? " back" : "");
    if (back) t->stepped = 1;
    if (t->horizon_ms > slot_floor(t, now) + 2 * t->precision_ms) t->horizon_ms = slot_floor(t, now) + 2 * t->precision_ms;
    far_roll(t, now);
    timer_dirty(t);
}

static void numbers_tell(struct timer *t, int64_t now, int64_t pending, int64_t enqueued, int64_t delivered)
{
    struct zr_inst *inst = t->inst;
    int64_t min, max = 0;
    if (!inst->metrics) return;
    inst->storage->bounds(inst->storage_inst, t->queue, &min, &max);
    inst->metrics->set(inst->host, inst->first_metric + METRIC_READ_BEHIND, pending > 0 && now > t->read_ms ? (now - t->read_ms) / 1000 : 0);
    inst->metrics->set(inst->host, inst->first_metric + METRIC_OFFSET_BEHIND, max > t->cursor ? max - t->cursor : 0);
    inst->metrics->add(inst->host, inst->first_metric + METRIC_ENQUEUED, enqueued - t->told_enqueued);
    inst->metrics->add(inst->host, inst->first_metric + METRIC_DELIVERED, delivered - t->told_delivered);
    t->told_enqueued = enqueued;
    t->told_delivered = delivered;
}

static void numbers_show(struct timer *t)
{
    pthread_mutex_lock(&t->count_lock);
    t->shown_heap = t->n_heap;
    t->shown_loaded = t->n_loaded;
    t->shown_read_ms = t->read_ms;
    t->shown_log = t->log.pushed;
    t->shown_cursor = t->cursor;
    int64_t pending = t->shown_pending, enqueued = (int64_t)t->n_enqueued, delivered = (int64_t)t->n_delivered;
    pthread_mutex_unlock(&t->count_lock);
    numbers_tell(t, wall_ms(t->inst), pending, enqueued, delivered);
}

/* Nothing leaves before all was noted that was there at the start, but where there is no room for more. */
static uint32_t is_held_back(const struct timer *t)
{
    return is_rebuilding(t) && t->n_heap < NEAR_MAX / 2 && t->n_loaded < LOADED_MAX / 2;
}

static int64_t wait_ms(struct timer *t, int64_t now)
{
    int64_t ms = is_held_back(t) ? HELD_WAIT_MS : due_next_ms(t, now);
    if (t->retry_until_ms > now && (ms < 0 || ms > t->retry_until_ms - now)) ms = t->retry_until_ms - now;
    if (!t->inst->timer->on_clock_set && (ms < 0 || ms > BLIND_WAIT_MS)) ms = BLIND_WAIT_MS;
    if (t->dirty_since_ns && !t->flushing) {
        int64_t save = (t->dirty_since_ns + SAVE_NS - t->inst->timer->mono_ns(t->inst->host)) / 1000000 + 1;
        if (save < 1) save = 1;
        if (ms < 0 || ms > save) ms = save;
    }
    return ms;
}

/* With the lock. */
static void sleep_for(struct timer *t, int64_t ms)
{
    struct timespec at;
    if (ms < 0) {
        pthread_cond_wait(&t->wake, &t->lock);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &at);
    int64_t ns = at.tv_nsec + ms % 1000 * 1000000;
    at.tv_sec += ms / 1000 + ns / 1000000000;
    at.tv_nsec = ns % 1000000000;
    pthread_cond_timedwait(&t->wake, &t->lock, &at);
}

static void files_close(struct timer *t)
{
    due_free(t);
    save_close(t);
    tlog_close(&t->log);
    wheel_close(&t->wheel);
    metrics_clear(t);
}

/* 0: the broker stops. */
static uint32_t rested(struct timer *t, int64_t ms)
{
    int64_t until = t->inst->timer->mono_ns(t->inst->host) / 1000000 + ms;
    pthread_mutex_lock(&t->lock);
    while (!t->stopping && (ms = until - t->inst->timer->mono_ns(t->inst->host) / 1000000) > 0) sleep_for(t, ms);
    uint32_t go = !t->stopping;
    pthread_mutex_unlock(&t->lock);
    return go;
}

/* Has everything in memory, and the files open. Where that fails it is tried again, and new timed messages are refused meanwhile.
 * 0: the broker stops before. */
static uint32_t files_open(struct timer *t)
{
    zr_status status;
    for (uint32_t times = 0; (status = timer_restore(t)) != ZR_OK; times++) {
        int64_t ms = (int64_t)OPEN_RETRY_MS << (times < 5 ? times : 5);
        files_close(t);
        __atomic_store_n(&t->down, 1u, __ATOMIC_RELEASE);
        if (times == 0) say(t->inst, ZR_LOG_ERROR, "timed messages are not delivered, and new ones are refused, until the timer's files can be opened or made (status %d)", status);
        if (!rested(t, ms < OPEN_RETRY_MAX_MS ? ms : OPEN_RETRY_MAX_MS)) return 0;
    }
    if (__atomic_exchange_n(&t->down, 0u, __ATOMIC_ACQ_REL)) say(t->inst, ZR_LOG_INFO, "timed messages are taken and delivered again");
    return 1;
}

/* The log was found damaged: everything in memory is made anew from what is whole. 0: not now. */
static uint32_t mend(struct timer *t)
{
    pthread_mutex_lock(&t->lock);
    uint32_t flushing = t->flushing;
    pthread_mutex_unlock(&t->lock);
    if (flushing) return 0; /* its end wakes us */
    files_close(t);
    if (t->begin_end < t->cursor) t->begin_end = t->cursor;
    t->check.clean = 0;
    t->damaged = !files_open(t);
    return !t->damaged;
}

static uint32_t turn(struct timer *t)
{
    int64_t now = wall_ms(t->inst), mono = t->inst->timer->mono_ns(t->inst->host);
    pthread_mutex_lock(&t->lock);
    uint32_t told = t->clock_set, again = t->save_again;
    t->clock_set = t->save_again = 0;
    pthread_mutex_unlock(&t->lock);
    if (again) timer_dirty(t);
    if (t->damaged && !mend(t)) return 0;
    clock_look(t, now, told);
    uint32_t busy = slots_load(t, now);
    for (uint32_t i = 0; i < BATCHES && !is_held_back(t) && due_deliver(t, now); i++) busy = 1; /* while it is behind, this goes first */
    if (t->horizon_ms > slot_floor(t, now) + t->precision_ms) busy |= enqueue_some(t, now);
    slots_finish(t, now);
    if (t->dirty_since_ns && mono - t->dirty_since_ns >= SAVE_NS) save_begin(t);
    numbers_show(t);
    return busy;
}

static void engine_run(void *arg)
{
    struct timer *t = arg;
    uint32_t go = files_open(t);
    __atomic_store_n(&t->restored, go, __ATOMIC_RELEASE);
    pthread_mutex_lock(&t->lock);
    while (!t->stopping) {
        t->kicked = 0;
        pthread_mutex_unlock(&t->lock);
        uint32_t busy = go ? turn(t) : 0;
        int64_t now = wall_ms(t->inst);
        pthread_mutex_lock(&t->lock);
        int64_t ms = go && !t->damaged ? wait_ms(t, now) : -1;
        if (!busy && !t->kicked && !t->stopping && ms != 0) sleep_for(t, ms);
    }
    while (t->flushing) pthread_cond_wait(&t->wake, &t->lock);
    pthread_mutex_unlock(&t->lock);
    if (go && !t->damaged) save_last(t);
    pthread_mutex_lock(&t->lock);
    t->ended = 1;
    pthread_mutex_unlock(&t->lock);
    running_end(t->inst);
}

/* ---- life ----------------------------------------------------------------------------------------------------------------- */

zr_status timer_new(struct zr_inst *inst)
{
    struct timer *t = calloc(1, sizeof *t);
    pthread_condattr_t attr;
    if (!t) return ZR_ENOMEM;
    t->inst = inst;
    t->io = inst->io;
    t->wheel_fd = t->check_fd = -1;
    t->precision_ms = inst->settings->timer_precision;
    t->precision_ms = t->precision_ms < 200 ? 100 : t->precision_ms < 500 ? 200 : t->precision_ms < 1000 ? 500 : 1000;
    int64_t window = inst->settings->timer_roll_window;
    if (window < 2 || window > WHEEL_SLOTS / 2 - 60) window = WHEEL_SLOTS / 2 - 60;
    t->window_ms = window * t->precision_ms;
    pthread_mutex_init(&t->lock, NULL);
    pthread_mutex_init(&t->step, NULL);
    pthread_mutex_init(&t->count_lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&t->wake, &attr);
    pthread_condattr_destroy(&attr);
    inst->timed = t;
    return ZR_OK;
}

void timer_begin(struct timer *t)
{
    struct zr_inst *inst = t->inst;
    t->queue = inst->storage->queue(inst->storage_inst, (struct zr_str)ZR_STR(TIMER_TOPIC), 0, 1);
    t->last_wall_ms = wall_ms(inst);
    inst->storage->bounds(inst->storage_inst, t->queue, &(int64_t){ 0 }, &t->begin_end); /* what comes later is new */
    pthread_mutex_lock(&inst->lock);
    inst->n_running++;
    pthread_mutex_unlock(&inst->lock);
    if (inst->timer->on_clock_set && inst->timer->on_clock_set(inst->host, clock_was_set, t) != ZR_OK)
        say(inst, ZR_LOG_WARN, "nobody will tell when the clock is set: timed messages notice it late");
    if (inst->work->spawn(inst->host, "zr-timed", engine_run, t, &t->thread) == ZR_OK) {
        t->spawned = 1;
        return;
    }
    __atomic_store_n(&t->down, 1u, __ATOMIC_RELEASE);
    say(inst, ZR_LOG_ERROR, "timed messages are not delivered, and new ones are refused, until the broker is started again: their thread cannot be started");
    running_end(inst);
}

void timer_end(struct timer *t)
{
    pthread_mutex_lock(&t->lock);
    t->stopping = 1;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    if (t->inst->timer->on_clock_set) t->inst->timer->on_clock_set(t->inst->host, NULL, t);
}

void timer_cool(struct timer *t)
{
    if (t->spawned) t->inst->work->join(t->inst->host, t->thread);
    t->spawned = 0;
    due_free(t);
    save_close(t);
    tlog_close(&t->log);
    wheel_close(&t->wheel);
}

void timer_free(struct timer *t)
{
    if (!t) return;
    pthread_mutex_destroy(&t->lock);
    pthread_mutex_destroy(&t->step);
    pthread_mutex_destroy(&t->count_lock);
    pthread_cond_destroy(&t->wake);
    free(t->metrics);
    free(t);
}
