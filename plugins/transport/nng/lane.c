/* SPDX-License-Identifier: Apache-2.0 */
/* lane.c - a lane's keeper: it waits for news or the next deadline, then works with the lane's lock held, then frees what
 * died, without it. */
#include <stddef.h>
#include <string.h>
#include <time.h>
#include "nng.h"

void tng_lane_init(struct zr_inst *inst, struct tng_lane *lane, uint32_t index)
{
    pthread_condattr_t attr;
    lane->inst = inst;
    lane->index = index;
    pthread_mutex_init(&lane->news_lock, NULL);
    pthread_mutex_init(&lane->lock, NULL);
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&lane->news, &attr);
    pthread_condattr_destroy(&attr);
    lane->now_ns = tr_now();
    tr_wheel_init(&lane->wheel, lane->now_ns);
}

void tng_lane_fini(struct tng_lane *lane)
{
    pthread_cond_destroy(&lane->news);
    pthread_mutex_destroy(&lane->lock);
    pthread_mutex_destroy(&lane->news_lock);
}

void tng_lane_signal(struct tng_lane *lane, uint32_t flags)
{
    pthread_mutex_lock(&lane->news_lock);
    if ((lane->flags & flags) != flags) {
        lane->flags |= flags;
        pthread_cond_signal(&lane->news);
    }
    pthread_mutex_unlock(&lane->news_lock);
}

/* Holds the connection until the keeper took it. */
void tng_lane_post(struct zr_conn *conn, uint32_t post)
{
    struct tng_lane *lane = conn->lane;
    pthread_mutex_lock(&lane->news_lock);
    if (!conn->posted) {
        tng_conn_hold(conn);
        conn->post_next = NULL;
        if (lane->inbox) {
            lane->inbox_last->post_next = conn;
        } else {
            lane->inbox = conn;
        }
        lane->inbox_last = conn;
        pthread_cond_signal(&lane->news);
    }
    conn->posted |= post;
    pthread_mutex_unlock(&lane->news_lock);
}

struct tng_lane *tng_lane_choose(struct zr_inst *inst)
{
    uint32_t start = atomic_fetch_add(&inst->next_lane, 1u), best = start % inst->n_lanes;
    for (uint32_t i = 1; i < inst->n_lanes; i++) {
        uint32_t at = (start + i) % inst->n_lanes;
        if (atomic_load(&inst->lanes[at].n_conns) < atomic_load(&inst->lanes[best].n_conns)) {
            best = at;
        }
    }
    atomic_fetch_add(&inst->lanes[best].n_conns, 1u);
    return &inst->lanes[best];
}

static void check_deadline(struct tng_lane *lane, struct zr_conn *conn)
{
    int64_t deadline = conn->deadline_ns;
    if (conn->stage == TNG_OPEN) {
        deadline = atomic_load(&conn->active_ns) + lane->inst->set->idle_timeout * 1000000ll;
    }
    if (deadline > lane->now_ns) {
        tr_wheel_put(&lane->wheel, &conn->wheel, deadline);
    } else {
        tng_conn_end(conn, ZR_ETIMEOUT, TNG_END_NOW);
    }
}

static void run_deadlines(struct tng_lane *lane)
{
    struct tr_wheel_node *node;
    while ((node = tr_wheel_due(&lane->wheel, lane->now_ns))) {
        check_deadline(lane, (struct zr_conn *)(void *)((char *)node - offsetof(struct zr_conn, wheel)));
    }
}

static void take_post(struct zr_conn *conn, uint32_t post)
{
    if (post & TNG_POST_NEW) {
        tng_conn_arrive(conn);
    }
    if (post & TNG_POST_DIALED) {
        tng_dial_done(conn);
    }
    if (post & TNG_POST_RESUME) {
        tng_input_resume(conn);
    }
    if (atomic_load(&conn->ending)) {
        tng_conn_ended(conn);
    }
}

static void end_all(struct tng_lane *lane, uint32_t how)
{
    for (struct zr_conn *conn = lane->all; conn; conn = conn->all_next) {
        tng_conn_end(conn, ZR_OK, how);
    }
}

/* Answers under way have a moment to come; then everything ends when its output is written. */
static void go_on_draining(struct tng_lane *lane)
{
    struct zr_inst *inst = lane->inst;
    if (lane->drain_flush_ns && lane->now_ns >= lane->drain_flush_ns) {
        lane->drain_flush_ns = 0;
        end_all(lane, TNG_END_FLUSH);
    }
    if (!lane->drained && !lane->drain_flush_ns && atomic_load(&lane->n_conns) == 0) {
        lane->drained = 1;
        if (atomic_fetch_add(&inst->lanes_drained, 1u) + 1u == inst->n_lanes) {
            inst->drain_done.call(inst->drain_done.ctx, ZR_OK);
        }
    }
}

/* lane.lock held; what came in until now. */
static void keep(struct tng_lane *lane, uint32_t flags, struct zr_conn *inbox)
{
    const struct zr_sink_v1 *sink = lane->inst->sink;
    lane->now_ns = tr_now();
    if ((flags & TNG_LANE_WOKEN) && sink) {
        sink->woken(sink->ctx, lane->index);
    }
    if (flags & TNG_LANE_DRAIN) {
        lane->draining = 1;
        lane->drain_flush_ns = lane->now_ns + (lane->all ? TNG_DRAIN_GRACE_NS : 0);
    }
    for (struct zr_conn *conn = inbox, *next; conn; conn = next) {
        pthread_mutex_lock(&lane->news_lock);
        uint32_t post = conn->posted;
        next = conn->post_next;
        conn->posted = 0;
        pthread_mutex_unlock(&lane->news_lock);
        take_post(conn, post);
        tng_conn_drop(conn);
    }
    run_deadlines(lane);
    if (lane->draining && !(flags & TNG_LANE_STOP)) {
        go_on_draining(lane);
    }
    if (flags & TNG_LANE_STOP) {
        lane->draining = 1;
        end_all(lane, TNG_END_NOW);
    }
    tr_count(&lane->inst->report, TR_M_INPUT_HELD, (int64_t)(lane->input_held - lane->input_told));
    lane->input_told = lane->input_held;
}

/* news_lock held. Until there is something, or until_ns. */
static void wait_for_news(struct tng_lane *lane, int64_t until_ns)
{
    struct timespec until = { until_ns / 1000000000ll, until_ns % 1000000000ll };
    int rc = 0;
    while (!lane->flags && !lane->inbox && rc == 0) {
        rc = until_ns == INT64_MAX ? pthread_cond_wait(&lane->news, &lane->news_lock)
                                   : pthread_cond_timedwait(&lane->news, &lane->news_lock, &until);
    }
}

static int64_t next_deadline(struct tng_lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    int64_t until = tr_wheel_next_ns(&lane->wheel);
    if (lane->drain_flush_ns && lane->drain_flush_ns < until) {
        until = lane->drain_flush_ns;
    }
    pthread_mutex_unlock(&lane->lock);
    return until == INT64_MAX ? until : until + 5000000; /* the coarse clock is behind by up to 4 ms */
}

void tng_lane_run(void *arg)
{
    struct tng_lane *lane = arg;
    struct zr_conn *dead = NULL;
    uint32_t stop = 0;
    while (!stop || atomic_load(&lane->n_conns)) {
        int64_t until = dead ? 0 : next_deadline(lane); /* when something died, look whether that was the last */
        pthread_mutex_lock(&lane->news_lock);
        wait_for_news(lane, until);
        uint32_t flags = lane->flags;
        struct zr_conn *inbox = lane->inbox;
        lane->flags = 0;
        lane->inbox = lane->inbox_last = NULL;
        pthread_mutex_unlock(&lane->news_lock);
        stop |= flags & TNG_LANE_STOP;
        pthread_mutex_lock(&lane->lock);
        keep(lane, flags | stop, inbox);
        dead = lane->dead;
        lane->dead = NULL;
        pthread_mutex_unlock(&lane->lock);
        tng_conn_free_dead(dead);
    }
}
