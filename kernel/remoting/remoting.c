/* SPDX-License-Identifier: Apache-2.0 */
/* remoting.c - start and stop of the whole, and the service zarya.reply/1.
 *
 * START (main, all instances warm): handlers are collected, one table is made for each set of serves bits, every transport gets
 * its lanes and is bound. No sink call comes before the transports are activated.
 *
 * STOP (main, transports still active):
 *   1. stopping: nothing new is opened, asked or called; what waits for an answer gets ZR_ECLOSED.
 *   2. every session is closed after its output; those that do not end within STOP_SESSIONS_NS are left to their transport.
 *   3. quitting: every lane is woken once more and confirms from its own thread that it will not touch the broker again. Only
 *      then its lane_closed is called. That costs the hot path nothing but the test of a member of the lane.
 * Ports, lanes and tables stay, since late sink calls, held sessions and queued worker requests may still look at them; the
 * next start (tests) frees them.
 *
 * LOCKING. zk_rem.lock guards n_stopped and goes with `changed`; taken when a session ends and by stop. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "config/node.h"
#include "remoting/internal.h"

#define STOP_SESSIONS_NS (3 * INT64_C(1000000000))
#define STOP_LANES_NS (2 * INT64_C(1000000000))

struct zk_remoting zk_rem = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

uint32_t zk_rate_pass(struct zk_rate *rate, uint32_t *ret_missed)
{
    int64_t second = zk_mono_ns() / 1000000000;
    int64_t last = atomic_load_explicit(&rate->second, memory_order_relaxed);
    *ret_missed = 0;
    if (last != second && atomic_compare_exchange_strong(&rate->second, &last, second)) {
        atomic_store_explicit(&rate->n, 0, memory_order_relaxed);
        *ret_missed = atomic_exchange_explicit(&rate->missed, 0, memory_order_relaxed);
    }
    if (atomic_fetch_add_explicit(&rate->n, 1, memory_order_relaxed) < 10)
        return 1;
    atomic_fetch_add_explicit(&rate->missed, 1, memory_order_relaxed);
    return 0;
}

void zk_rem_signal(void)
{
    if (!zk_stopping())
        return;
    pthread_mutex_lock(&zk_rem.lock);
    pthread_cond_broadcast(&zk_rem.changed);
    pthread_mutex_unlock(&zk_rem.lock);
}

void zk_remoting_events_set(const struct zk_remoting_events *events)
{
    if (events)
        zk_rem.events = *events;
    else
        memset(&zk_rem.events, 0, sizeof zk_rem.events);
}

uint32_t zk_n_lanes(void) { return zk_rem.n_lanes; }
struct zk_lane *zk_lane_at(uint32_t id) { return id < zk_rem.n_lanes ? zk_rem.lanes[id] : NULL; }

/* ---- metrics --------------------------------------------------------------------------------------------------------- */
static void metrics_declare(void)
{
    static const struct { uint32_t at, kind; const char *name, *unit, *doc; } rows[] = {
#define ROW(member, kind, name, unit, doc) { (uint32_t)offsetof(struct zk_remoting_metrics, member), kind, name, unit, doc }
        ROW(requests, ZR_METRIC_COUNTER, "zarya_remoting_requests_total", "requests", "Requests that came in, on all listeners."),
        ROW(unknown, ZR_METRIC_COUNTER, "zarya_remoting_unknown_total", "requests", "Requests with a code that nobody handles there."),
        ROW(answers, ZR_METRIC_COUNTER, "zarya_remoting_answers_total", "answers", "Answers sent."),
        ROW(bytes_in, ZR_METRIC_COUNTER, "zarya_remoting_received_bytes_total", "bytes", "Bytes of whole frames received."),
        ROW(bytes_out, ZR_METRIC_COUNTER, "zarya_remoting_sent_bytes_total", "bytes", "Bytes of frames given to transports."),
        ROW(malformed, ZR_METRIC_COUNTER, "zarya_remoting_malformed_total", "connections", "Connections closed for what they sent."),
        ROW(connections, ZR_METRIC_GAUGE, "zarya_remoting_connections", "connections", "Open connections, in both directions."),
        ROW(accepted, ZR_METRIC_COUNTER, "zarya_remoting_connections_total", "connections", "Connections opened, in both directions."),
        ROW(worker_queued, ZR_METRIC_GAUGE, "zarya_remoting_worker_requests", "requests", "Requests on or waiting for the worker pool."),
        ROW(overloaded, ZR_METRIC_COUNTER, "zarya_remoting_overloaded_total", "requests", "Requests refused because the worker pool's queue was full."),
        ROW(asks, ZR_METRIC_COUNTER, "zarya_remoting_asks_total", "requests", "Requests of our own that expect an answer."),
        ROW(asks_pending, ZR_METRIC_GAUGE, "zarya_remoting_asks_pending", "requests", "Requests of our own that wait for an answer."),
        ROW(asks_timeout, ZR_METRIC_COUNTER, "zarya_remoting_asks_timeout_total", "requests", "Requests of our own that were not answered in time."),
        ROW(calls, ZR_METRIC_COUNTER, "zarya_remoting_calls_total", "requests", "Requests of our own to other servers."),
        ROW(calls_waiting, ZR_METRIC_GAUGE, "zarya_remoting_calls_waiting", "requests", "Requests to other servers that wait for a connection."),
        ROW(send_refused, ZR_METRIC_COUNTER, "zarya_remoting_send_refused_total", "sends", "Sends refused because the client does not take its output."),
#undef ROW
    };
    static uint32_t declared;
    if (declared)
        return;
    declared = 1;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        *(uint32_t *)((char *)&zk_rem.metrics + rows[i].at) = zk_metric(rows[i].name, rows[i].kind, rows[i].unit, rows[i].doc);
}

/* ---- start ----------------------------------------------------------------------------------------------------------- */
static void port_free(struct zk_port *port)
{
    free(port->lanes);
    free(port->tables);
    free(port->serves);
    free(port);
}

static void all_free(void)
{
    for (uint32_t i = 0; i < zk_rem.n_lanes; i++)
        zk_lane_free(zk_rem.lanes[i]);
    free(zk_rem.lanes);
    zk_rem.lanes = NULL;
    zk_rem.n_lanes = 0;
    while (zk_rem.ports) {
        struct zk_port *next = zk_rem.ports->next;
        port_free(zk_rem.ports);
        zk_rem.ports = next;
    }
}

static zr_status out_of_memory(void)
{
    zk_err_raise(ZR_ENOMEM, 0, "no memory to start the transports' lanes");
    return ZR_ENOMEM;
}

static zr_status port_lanes(struct zk_port *port)
{
    port->n_lanes = port->table->lanes(port->inst);
    if (port->n_lanes == 0 || zk_rem.n_lanes + port->n_lanes > ZK_MAX_LANES) {
        zk_err_raise(ZR_EINVAL, 0, "%s has %u lanes, after %u others; at least one and at most %u in all are possible", port->instance->as,
                     port->n_lanes, zk_rem.n_lanes, ZK_MAX_LANES);
        return ZR_EINVAL;
    }
    port->lanes = calloc(port->n_lanes, sizeof(*port->lanes));
    if (!port->lanes)
        return out_of_memory();
    for (uint32_t i = 0; i < port->n_lanes; i++) {
        port->lanes[i] = zk_lane_new(port, i, zk_rem.n_lanes);
        if (!port->lanes[i])
            return out_of_memory();
        zk_rem.lanes[zk_rem.n_lanes++] = port->lanes[i];
    }
    return ZR_OK;
}

static zr_status port_listeners(struct zk_port *port)
{
    const struct zr_listener *listeners = NULL;
    uint32_t n = port->table->listeners(port->inst, &listeners);
    if (n == 0 || !listeners)
        return ZR_OK;
    port->n_listeners = n;
    port->tables = calloc(n, sizeof(*port->tables));
    port->serves = calloc(n, sizeof(*port->serves));
    if (!port->tables || !port->serves)
        return out_of_memory();
    for (uint32_t i = 0; i < n; i++) {
        const struct zr_listener *l = (const struct zr_listener *)((const char *)listeners + (size_t)i * listeners->hdr.size);
        port->serves[i] = l->serves;
        zr_status status = zk_codes_get(l->serves, &port->tables[i]);
        if (status != ZR_OK)
            return status;
    }
    return ZR_OK;
}

static zr_status port_add(struct zk_instance *instance)
{
    struct zk_port *port = calloc(1, sizeof *port);
    if (!port)
        return out_of_memory();
    port->instance = instance;
    port->table = instance->transport;
    port->inst = instance->inst;
    struct zk_port **end = &zk_rem.ports;
    while (*end)
        end = &(*end)->next;
    *end = port;
    zr_status status = port_lanes(port);
    if (status == ZR_OK)
        status = port_listeners(port);
    if (status == ZR_OK)
        zk_sink_make(&port->sink, port);
    return status;
}

static zr_status ports_add(void)
{
    zk_rem.lanes = calloc(ZK_MAX_LANES, sizeof(*zk_rem.lanes));
    if (!zk_rem.lanes)
        return out_of_memory();
    zr_status status = ZR_OK;
    for (uint32_t i = 0; i < zk_n_instances && status == ZR_OK; i++)
        if (zk_instances[i]->transport)
            status = port_add(zk_instances[i]);
    return status;
}

static void limits_take(void)
{
    const struct zk_node_settings *set = &zk_node.set;
    zk_rem.limits = (struct zk_limits){ set->max_frame ? (uint64_t)set->max_frame : ZL_FRAME_MAX,
                                        set->worker_queue ? (uint64_t)set->worker_queue : ZK_DEFAULT_JOBS,
                                        set->worker_memory ? (uint64_t)set->worker_memory : ZK_DEFAULT_JOB_BYTES,
                                        set->connect_timeout ? set->connect_timeout * 1000000 : ZK_DEFAULT_DIAL_NS };
}

zr_status zk_remoting_start(void)
{
    limits_take();
    metrics_declare();
    all_free();
    zk_codes_free();
    atomic_store(&zk_rem.stopping, 0);
    atomic_store(&zk_rem.quitting, 0);
    zk_rem.n_stopped = 0;
    zr_status status = zk_codes_collect();
    if (status == ZR_OK)
        status = zk_codes_get(ZR_SERVES_BROKER, &zk_rem.outbound);
    if (status == ZR_OK)
        status = ports_add();
    if (status != ZR_OK) {
        all_free();
        zk_codes_free();
        return status;
    }
    for (uint32_t i = 0; i < zk_rem.n_lanes && zk_rem.events.lane_opened; i++)
        zk_rem.events.lane_opened(zk_rem.lanes[i]);
    zk_rem.started = 1;
    for (struct zk_port *port = zk_rem.ports; port; port = port->next)
        port->table->bind(port->inst, &port->sink);
    return ZR_OK;
}

/* ---- stop ------------------------------------------------------------------------------------------------------------ */
/* All sessions of a lane, held; *ret_n of them. */
static struct zr_session **lane_sessions(struct zk_lane_state *ls, uint32_t *ret_n)
{
    pthread_mutex_lock(&ls->lock);
    uint32_t n = 0;
    struct zr_session **all = malloc((ls->n_sessions + 1) * sizeof(*all));
    for (struct zr_session *s = ls->sessions; s && all; s = s->next)
        all[n++] = zk_session_hold(s);
    pthread_mutex_unlock(&ls->lock);
    *ret_n = n;
    return all;
}

static void lane_close_sessions(struct zk_lane *lane, uint32_t flush)
{
    uint32_t n;
    struct zr_session **all = lane_sessions(zk_lane_state(lane), &n);
    for (uint32_t i = 0; i < n; i++) {
        struct zr_session *s = all[i];
        zk_ask_fail_all(s, ZR_ECLOSED);
        if (zk_session_open(s))
            s->port->table->close(s->port->inst, s->conn, flush);
        zk_session_release(s);
    }
    free(all);
}

static uint32_t no_sessions(void) { return atomic_load(&zk_rem.n_sessions) == 0; }
static uint32_t all_stopped(void) { return zk_rem.n_stopped == zk_rem.n_lanes; }

static uint32_t wait_for(uint32_t (*reached)(void), int64_t ns)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += ns / 1000000000;
    pthread_mutex_lock(&zk_rem.lock);
    int rc = 0;
    while (!reached() && rc != ETIMEDOUT)
        rc = pthread_cond_clockwait(&zk_rem.changed, &zk_rem.lock, CLOCK_MONOTONIC, &until);
    uint32_t ok = reached();
    pthread_mutex_unlock(&zk_rem.lock);
    return ok;
}

static void lanes_stop(void)
{
    atomic_store(&zk_rem.quitting, 1);
    for (uint32_t i = 0; i < zk_rem.n_lanes; i++)
        zk_lane_wake(zk_rem.lanes[i]);
    wait_for(all_stopped, STOP_LANES_NS);
    for (uint32_t i = 0; i < zk_rem.n_lanes; i++) {
        struct zk_lane *lane = zk_rem.lanes[i];
        pthread_mutex_lock(&zk_rem.lock);
        uint32_t stopped = zk_lane_state(lane)->stopped;
        pthread_mutex_unlock(&zk_rem.lock);
        if (!stopped)
            zk_log(ZR_LOG_WARN, "remoting: lane %u of %s does not stop; its memory is left alone", lane->index, lane->transport->as);
        else if (zk_rem.events.lane_closed)
            zk_rem.events.lane_closed(lane);
    }
}

void zk_remoting_stop(void)
{
    if (!zk_rem.started)
        return;
    zk_rem.started = 0;
    atomic_store(&zk_rem.stopping, 1);
    zk_call_stop();
    for (uint32_t i = 0; i < zk_rem.n_lanes; i++)
        lane_close_sessions(zk_rem.lanes[i], 1);
    if (!wait_for(no_sessions, STOP_SESSIONS_NS)) {
        for (uint32_t i = 0; i < zk_rem.n_lanes; i++)
            lane_close_sessions(zk_rem.lanes[i], 0);
        if (!wait_for(no_sessions, STOP_SESSIONS_NS))
            zk_log(ZR_LOG_WARN, "remoting: %llu connections did not end; their transports will end them", (unsigned long long)zk_n_sessions());
    }
    lanes_stop();
    zk_codes_forget();
}

/* ---- zarya.reply/1 --------------------------------------------------------------------------------------------------- */
static zr_status reply_answer(const struct zr_host *host, struct zr_token *token, const struct zr_command *response) { (void)host; return zk_answer(token, response); }
static struct zr_token *reply_hold(const struct zr_host *host, struct zr_token *token) { (void)host; return zk_token_hold(token); }
static void reply_drop(const struct zr_host *host, struct zr_token *token) { (void)host; zk_token_drop(token); }
static zr_status reply_tell(const struct zr_host *host, struct zr_session *s, const struct zr_command *request) { (void)host; return zk_tell(s, request); }
static zr_status reply_ask(const struct zr_host *host, struct zr_session *s, const struct zr_command *request, int64_t timeout_ns,
                           void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response), void *ctx)
{
    (void)host;
    return zk_ask(s, request, timeout_ns, on_answer, ctx);
}
static void reply_info(const struct zr_host *host, struct zr_session *s, struct zr_session_info *ret) { (void)host; zk_session_info(s, ret); }
static struct zr_session *reply_session_hold(const struct zr_host *host, struct zr_session *s) { (void)host; return zk_session_hold(s); }
static void reply_session_release(const struct zr_host *host, struct zr_session *s) { (void)host; zk_session_release(s); }
static void reply_session_close(const struct zr_host *host, struct zr_session *s) { (void)host; zk_session_close(s); }
static uint32_t reply_session_returned(const struct zr_host *host, struct zr_session *s) { (void)host; return zk_session_returned(s); }

static const struct zr_reply_v1 reply_table = {
    ZR_HDR(struct zr_reply_v1, 0), reply_answer, reply_hold, reply_drop, reply_tell, reply_ask,
    reply_info, reply_session_hold, reply_session_release, reply_session_close, reply_session_returned,
};

void zk_remoting_provide(void)
{
    zk_service_provide(ZR_SVC_REPLY, &reply_table);
    zk_service_provide(ZR_SVC_CALL, &zk_call_table);
}
