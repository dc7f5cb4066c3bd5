/* SPDX-License-Identifier: Apache-2.0 */
/* lane.c - one reactor: an epoll set, an inbox, a wheel of deadlines, and the thread that looks at them.
 *
 * One round: wait; read and write what is ready (at most TCP_EVENTS); pass rests again; turn_end if data was called;
 * give buffers back; woken; inbox (arrivals, ends); deadlines. Connections die only in the last two steps, so nothing that
 * the events or the turn refer to can go away before.
 *
 * LOCKING. lane.lock guards the inbox only. WAKING: whoever has news sets it first and then `signalled`; only who set
 * `signalled` writes to the eventfd. The lane clears `signalled` before it looks for news, so none is missed. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "tcp.h"

zr_status tcp_lane_init(struct zr_inst *inst, struct tcp_lane *lane, uint32_t index)
{
    lane->inst = inst;
    lane->index = index;
    pthread_mutex_init(&lane->lock, NULL);
    lane->epoll = epoll_create1(EPOLL_CLOEXEC);
    lane->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event event = { .events = EPOLLIN, .data.u64 = 0 };
    if (lane->epoll < 0 || lane->event < 0 || epoll_ctl(lane->epoll, EPOLL_CTL_ADD, lane->event, &event) != 0) {
        return tr_fail(&inst->report, ZR_EIO, errno, "cannot make a reactor: %s", strerror(errno));
    }
    lane->now_ns = tr_now();
    tr_wheel_init(&lane->wheel, lane->now_ns);
    return ZR_OK;
}

/* Its thread is joined, or never ran. */
void tcp_lane_fini(struct tcp_lane *lane)
{
    tcp_input_pool_free(lane);
    free(lane->again);
    if (lane->epoll >= 0) {
        close(lane->epoll);
    }
    if (lane->event >= 0) {
        close(lane->event);
    }
    pthread_mutex_destroy(&lane->lock);
}

uint32_t tcp_lane_is_mine(const struct tcp_lane *lane)
{
    return atomic_load(&lane->running) && pthread_equal(lane->self, pthread_self());
}

static void signal_lane(struct tcp_lane *lane)
{
    uint64_t one = 1;
    if (tcp_lane_is_mine(lane)) {
        lane->own_news = 1; /* it looks before it waits */
    } else if (!atomic_exchange(&lane->signalled, 1u)) {
        while (write(lane->event, &one, sizeof one) < 0 && errno == EINTR) {
        }
    }
}

void tcp_lane_signal(struct tcp_lane *lane, uint32_t flags)
{
    atomic_fetch_or(&lane->flags, flags);
    signal_lane(lane);
}

void tcp_lane_post(struct zr_conn *conn, uint32_t post)
{
    struct tcp_lane *lane = conn->lane;
    pthread_mutex_lock(&lane->lock);
    uint32_t before = conn->posted;
    conn->posted |= post;
    if (!before) {
        tcp_conn_hold(conn);
        conn->post_next = NULL;
        if (lane->inbox) {
            lane->inbox_last->post_next = conn;
        } else {
            lane->inbox = conn;
        }
        lane->inbox_last = conn;
    }
    pthread_mutex_unlock(&lane->lock);
    if (!before) {
        signal_lane(lane);
    }
}

struct tcp_lane *tcp_lane_choose(struct zr_inst *inst)
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

/* ---- rests to be passed again ---------------------------------------------------------------------------------- */

void tcp_lane_again(struct tcp_lane *lane, struct zr_conn *conn)
{
    if (conn->again) {
        return;
    }
    if (lane->n_again == lane->cap_again) {
        uint32_t cap = lane->cap_again ? lane->cap_again * 2 : 64;
        struct zr_conn **again = realloc(lane->again, cap * sizeof *again);
        if (!again) {
            tcp_conn_end(conn, ZR_ENOMEM, TCP_END_NOW);
            return;
        }
        lane->again = again;
        lane->cap_again = cap;
    }
    conn->again = 1;
    tcp_conn_hold(conn);
    lane->again[lane->n_again++] = conn;
}

/* `n` of those that were there before this round. */
static void pass_again(struct tcp_lane *lane, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct zr_conn *conn = lane->again[i];
        uint32_t wanted = conn->again; /* not, if a read passed the rest meanwhile */
        conn->again = 0;
        if (wanted && conn->stage == TCP_OPEN && conn->in && !atomic_load(&conn->ending)) {
            if (atomic_load(&conn->paused)) {
                conn->stalled = 1;
            } else if (!lane->draining) {
                lane->touched[lane->n_touched++] = conn;
                tcp_input_deliver(conn);
            }
        }
        tcp_conn_drop(conn);
    }
    lane->n_again -= n;
    if (n) {
        memmove(lane->again, lane->again + n, lane->n_again * sizeof lane->again[0]);
    }
}

/* ---- deadlines -------------------------------------------------------------------------------------------------- */

static void check_deadline(struct tcp_lane *lane, struct zr_conn *conn)
{
    int64_t deadline = conn->deadline_ns;
    if (conn->stage == TCP_OPEN || conn->stage == TCP_DETECT) {
        deadline = atomic_load(&conn->active_ns) + lane->inst->set->idle_timeout * 1000000ll;
    }
    if (deadline > lane->now_ns) {
        tr_wheel_put(&lane->wheel, &conn->wheel, deadline);
    } else if (conn->stage == TCP_RESOLVING || conn->stage == TCP_CONNECTING) {
        tcp_dial_fail(conn, ZR_ETIMEOUT, "timed out");
    } else {
        tcp_conn_end(conn, ZR_ETIMEOUT, TCP_END_NOW);
    }
}

static void run_deadlines(struct tcp_lane *lane)
{
    struct tr_wheel_node *node;
    while ((node = tr_wheel_due(&lane->wheel, lane->now_ns))) {
        check_deadline(lane, (struct zr_conn *)(void *)((char *)node - offsetof(struct zr_conn, wheel)));
    }
}

/* ---- the round -------------------------------------------------------------------------------------------------- */

static int wait_ms(struct tcp_lane *lane)
{
    int64_t until = tr_wheel_next_ns(&lane->wheel);
    if (lane->n_again || lane->own_news) {
        return 0;
    }
    if (lane->drain_flush_ns && lane->drain_flush_ns < until) {
        until = lane->drain_flush_ns;
    }
    for (uint32_t i = 0; i < lane->inst->n_listeners; i++) {
        const struct tcp_listener *l = &lane->inst->listeners[i];
        if (l->lane == lane && l->resting && l->rest_until < until) {
            until = l->rest_until;
        }
    }
    if (until == INT64_MAX) {
        return -1;
    }
    int64_t now = tr_now(), ms = until > now ? (until - now) / 1000000 + 1 : 0;
    return ms < INT_MAX ? (int)ms : INT_MAX;
}

static void conn_event(struct tcp_lane *lane, struct zr_conn *conn, uint32_t events)
{
    if (conn->stage == TCP_CONNECTING) {
        tcp_dial_ready(conn);
        return;
    }
    if (events & EPOLLOUT) {
        tcp_output_flush(conn);
    }
    if (conn->stage != TCP_OPEN && conn->stage != TCP_DETECT) {
        if (conn->stage == TCP_FLUSHING && (events & (EPOLLERR | EPOLLHUP))) {
            tcp_conn_end(conn, ZR_ECLOSED, TCP_END_NOW);
        }
        return;
    }
    if (atomic_load(&conn->ending)) {
        return;
    }
    if (!lane->draining && !atomic_load(&conn->paused)) {
        if (events & (EPOLLIN | EPOLLERR | EPOLLHUP)) {
            tcp_input_read(conn);
        }
    } else if (events & (EPOLLERR | EPOLLHUP)) {
        tcp_conn_end(conn, ZR_ECLOSED, TCP_END_NOW);
    }
}

static void clear_signal(struct tcp_lane *lane)
{
    uint64_t n;
    while (read(lane->event, &n, sizeof n) < 0 && errno == EINTR) {
    }
    atomic_store(&lane->signalled, 0u);
}

static void look_at(struct tcp_lane *lane, const struct epoll_event *event)
{
    if (event->data.u64 == 0) {
        clear_signal(lane);
    } else if (event->data.u64 & 1u) {
        tcp_listener_ready(&lane->inst->listeners[event->data.u64 >> 1]);
    } else {
        conn_event(lane, event->data.ptr, event->events);
    }
}

static void end_turn(struct tcp_lane *lane)
{
    const struct zr_sink_v1 *sink = lane->inst->sink;
    if (lane->data_given) {
        lane->data_given = 0;
        sink->turn_end(sink->ctx, lane->index);
    }
    for (uint32_t i = 0; i < lane->n_touched; i++) {
        tcp_input_settle(lane->touched[i]);
    }
    lane->n_touched = 0;
    tr_count(&lane->inst->report, TR_M_INPUT_HELD, (int64_t)(lane->input_held - lane->input_told));
    lane->input_told = lane->input_held;
}

static void take_post(struct zr_conn *conn, uint32_t post)
{
    if (post & TCP_POST_NEW) {
        tcp_conn_adopt(conn);
    }
    if ((post & TCP_POST_RESOLVED) && conn->stage == TCP_RESOLVING) {
        tcp_dial_resolved(conn);
    }
    if ((post & TCP_POST_END) || atomic_load(&conn->ending)) {
        tcp_conn_ended(conn);
    }
}

/* What was posted until now; what comes meanwhile is for the next round. */
static void empty_inbox(struct tcp_lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    struct zr_conn *conn = lane->inbox;
    lane->inbox = lane->inbox_last = NULL;
    pthread_mutex_unlock(&lane->lock);
    while (conn) {
        pthread_mutex_lock(&lane->lock);
        struct zr_conn *next = conn->post_next;
        uint32_t post = conn->posted;
        conn->posted = 0;
        pthread_mutex_unlock(&lane->lock);
        take_post(conn, post);
        tcp_conn_drop(conn);
        conn = next;
    }
}

static void each_listener(struct tcp_lane *lane, void (*fn)(struct tcp_listener *listener))
{
    for (uint32_t i = 0; i < lane->inst->n_listeners; i++) {
        if (lane->inst->listeners[i].lane == lane) {
            fn(&lane->inst->listeners[i]);
        }
    }
}

/* No new connections, no more reading; answers under way have a moment to come. */
static void begin_drain(struct tcp_lane *lane)
{
    each_listener(lane, tcp_listener_stop);
    lane->draining = 1;
    lane->drain_flush_ns = lane->now_ns + (lane->all ? TCP_DRAIN_GRACE_NS : 0);
    for (struct zr_conn *conn = lane->all, *next; conn; conn = next) {
        next = conn->all_next;
        if (conn->stage != TCP_OPEN) {
            tcp_conn_end(conn, ZR_OK, TCP_END_FLUSH);
            continue;
        }
        pthread_mutex_lock(&conn->lock);
        tcp_conn_arm(conn, conn->queue.head ? (uint32_t)EPOLLOUT : 0u);
        pthread_mutex_unlock(&conn->lock);
    }
}

static void go_on_draining(struct tcp_lane *lane)
{
    if (lane->drain_flush_ns && lane->now_ns >= lane->drain_flush_ns) {
        lane->drain_flush_ns = 0;
        for (struct zr_conn *conn = lane->all; conn; conn = conn->all_next) {
            tcp_conn_end(conn, ZR_OK, TCP_END_FLUSH);
        }
    }
    if (!lane->drained && !lane->drain_flush_ns && atomic_load(&lane->n_conns) == 0) {
        lane->drained = 1;
        if (atomic_fetch_add(&lane->inst->lanes_drained, 1u) + 1u == lane->inst->n_lanes) {
            lane->inst->drain_done.call(lane->inst->drain_done.ctx, ZR_OK);
        }
    }
}

static uint32_t take_flags(struct tcp_lane *lane)
{
    uint32_t flags = atomic_exchange(&lane->flags, 0u);
    lane->own_news = 0;
    const struct zr_sink_v1 *sink = lane->inst->sink;
    if (flags & TCP_LANE_START) {
        each_listener(lane, tcp_listener_start);
    }
    if ((flags & TCP_LANE_WOKEN) && sink) {
        sink->woken(sink->ctx, lane->index);
    }
    if (flags & TCP_LANE_DRAIN) {
        begin_drain(lane);
    }
    return flags & TCP_LANE_STOP;
}

static void wake_resting(struct tcp_listener *listener)
{
    if (listener->resting && listener->lane->now_ns >= listener->rest_until && !listener->lane->draining) {
        listener->resting = 0;
        tcp_listener_start(listener);
    }
}

static uint32_t one_round(struct tcp_lane *lane)
{
    struct epoll_event events[TCP_EVENTS];
    uint32_t again = lane->n_again < TCP_EVENTS ? lane->n_again : TCP_EVENTS;
    int n = tcp_lane_wait(lane, events, wait_ms(lane));
    lane->now_ns = tr_now();
    for (int i = 0; i < n; i++) {
        look_at(lane, &events[i]);
    }
    pass_again(lane, again);
    end_turn(lane);
    uint32_t stop = take_flags(lane);
    empty_inbox(lane);
    run_deadlines(lane);
    each_listener(lane, wake_resting);
    if (lane->draining) {
        go_on_draining(lane);
    }
    return stop;
}

static uint32_t has_inbox(struct tcp_lane *lane)
{
    pthread_mutex_lock(&lane->lock);
    uint32_t has = lane->inbox != NULL;
    pthread_mutex_unlock(&lane->lock);
    return has;
}

/* The end: whatever is still there is closed, without waiting. The lane does it, and once more main when all lanes have
 * ended, for a connection that another lane handed over too late. */
void tcp_lane_close_all(struct tcp_lane *lane)
{
    each_listener(lane, tcp_listener_stop);
    lane->draining = 1;
    pass_again(lane, lane->n_again < TCP_EVENTS ? lane->n_again : TCP_EVENTS);
    while (has_inbox(lane) || lane->all || lane->n_again) {
        for (struct zr_conn *conn = lane->all; conn; conn = conn->all_next) {
            tcp_conn_end(conn, ZR_OK, TCP_END_NOW);
        }
        pass_again(lane, lane->n_again < TCP_EVENTS ? lane->n_again : TCP_EVENTS);
        end_turn(lane);
        empty_inbox(lane);
    }
}

void tcp_lane_run(void *arg)
{
    struct tcp_lane *lane = arg;
    lane->self = pthread_self();
    atomic_store(&lane->running, 1u);
    while (!one_round(lane)) {
    }
    tcp_lane_close_all(lane);
    atomic_store(&lane->running, 0u);
}
