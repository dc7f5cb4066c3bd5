/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.c - transport-tcp as the host sees it: manifest, options, life, table of interface zarya.transport/1. */
#include <errno.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "tcp.h"

ZR_MANIFEST("id = transport-tcp\n"
            "version = 1.0.0\n"
            "abi = 1.0\n"
            "provides = zarya.transport/1\n");

static const char *const proxy_choices[] = { "off", "auto", NULL };
#define S struct tcp_settings
static const struct zr_option options[] = {
    ZR_OPTION_ROW(S, listen, "listen", ZR_OPT_LIST, 0, NULL, NULL, NULL, NULL,
        "Addresses to listen on, host:port, [v6]:port or *:port (all of both kinds); port 0 takes a free one; none: the instance only connects to others."),
    ZR_OPTION_ROW(S, serves, "serves", ZR_OPT_LIST, 0, "broker", NULL, NULL, NULL,
        "What these addresses serve: broker, broker-fast, routing."),
    ZR_OPTION_ROW(S, fast, "fast", ZR_OPT_LIST, 0, NULL, NULL, NULL, NULL,
        "Further addresses, which serve broker-fast (the VIP port, without pulls)."),
    ZR_OPTION_ROW(S, threads, "threads", ZR_OPT_I64, 0, "0", "0", "256", NULL,
        "Reactor threads; 0: one for each core."),
    ZR_OPTION_ROW(S, busy_poll, "busy_poll", ZR_OPT_I64, 0, "50 us", "0", "1 ms", "ns",
        "How long a reactor whose messages come in close succession looks for the next one before it sleeps; 0: it sleeps at once."),
    TR_OPTIONS(S),
    ZR_OPTION_ROW(S, backlog, "backlog", ZR_OPT_I64, 0, "1024", "1", "65535", NULL,
        "Connections that the system keeps until they are accepted."),
    ZR_OPTION_ROW(S, sndbuf, "sndbuf", ZR_OPT_I64, 0, "0", "0", "1 GiB", "bytes",
        "SO_SNDBUF; 0: the system's."),
    ZR_OPTION_ROW(S, rcvbuf, "rcvbuf", ZR_OPT_I64, 0, "0", "0", "1 GiB", "bytes",
        "SO_RCVBUF; 0: the system's."),
    ZR_OPTION_ENUM(S, proxy_protocol, "proxy_protocol", 0, "auto", proxy_choices,
        "A PROXY protocol header (1 or 2) in front of the first frame is understood; off: it is taken for a broken frame."),
};
#undef S

static const struct zr_metric metrics[TR_METRICS] = TR_METRIC_TABLE("tcp");

static zr_status plugin_check(const struct zr_host *host, const void *settings)
{
    struct tr_report report = { .host = NULL };
    char why[320];
    tr_report_init(&report, host);
    if (tcp_listen_check(settings, why, sizeof why) != ZR_OK) {
        return tr_fail(&report, ZR_EINVAL, 0, "%s", why);
    }
    return ZR_OK;
}

static uint32_t count_cores(void)
{
    cpu_set_t set;
    int n = sched_getaffinity(0, sizeof set, &set) == 0 ? CPU_COUNT(&set) : 1;
    return n < 1 ? 1u : n > (int)TCP_MAX_LANES ? TCP_MAX_LANES : (uint32_t)n;
}

static zr_status plugin_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst) {
        return ZR_ENOMEM;
    }
    inst->host = host;
    inst->set = settings;
    tr_report_init(&inst->report, host);
    inst->work = host->query(host, ZR_SVC_WORK);
    inst->serves = tr_serves(&inst->set->serves);
    inst->n_lanes = inst->set->threads ? (uint32_t)inst->set->threads : count_cores();
    inst->max_awake = count_cores() / 2u;
    inst->lanes = calloc(inst->n_lanes, sizeof inst->lanes[0]);
    if (!inst->lanes || !inst->work) {
        free(inst->lanes);
        free(inst);
        return ZR_ENOMEM;
    }
    tr_admit_init(&inst->admit, &inst->report);
    tr_report_metrics(&inst->report, metrics);
    *ret = inst;
    return ZR_OK;
}

static void stop_lanes(struct zr_inst *inst, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        tcp_lane_signal(&inst->lanes[i], TCP_LANE_STOP);
    }
    for (uint32_t i = 0; i < n; i++) {
        (void)inst->work->join(inst->host, inst->lanes[i].thread_id);
    }
    for (uint32_t i = 0; i < n; i++) {
        tcp_lane_close_all(&inst->lanes[i]);
    }
}

static zr_status start_lanes(struct zr_inst *inst)
{
    char name[16];
    for (uint32_t i = 0; i < inst->n_lanes; i++) {
        snprintf(name, sizeof name, "tcp-%u", (unsigned)i);
        zr_status status = inst->work->spawn(inst->host, name, tcp_lane_run, &inst->lanes[i], &inst->lanes[i].thread_id);
        if (status != ZR_OK) {
            stop_lanes(inst, i);
            return status;
        }
    }
    return ZR_OK;
}

static void fini_lanes(struct zr_inst *inst, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        tcp_lane_fini(&inst->lanes[i]);
    }
    memset(inst->lanes, 0, inst->n_lanes * sizeof inst->lanes[0]);
}

/* sendfile has no MSG_NOSIGNAL: a peer that goes away must not end the process. */
static void ignore_sigpipe(void)
{
    struct sigaction action;
    if (sigaction(SIGPIPE, NULL, &action) == 0 && action.sa_handler == SIG_DFL) {
        action.sa_handler = SIG_IGN;
        (void)sigaction(SIGPIPE, &action, NULL);
    }
}

static zr_status plugin_warm(struct zr_inst *inst)
{
    zr_status status = ZR_OK;
    uint32_t n = 0;
    ignore_sigpipe();
    atomic_store(&inst->closing, 0u);
    atomic_store(&inst->lanes_drained, 0u);
    tr_admit_limits(&inst->admit, inst->set->max_connections, inst->set->max_per_address, inst->set->accept_rate);
    for (; n < inst->n_lanes && status == ZR_OK; n++) {
        status = tcp_lane_init(inst, &inst->lanes[n], n);
    }
    if (status == ZR_OK) {
        status = tcp_listeners_open(inst);
    }
    if (status == ZR_OK) {
        status = start_lanes(inst);
    }
    if (status != ZR_OK) {
        tcp_listeners_close(inst);
        fini_lanes(inst, n);
    }
    return status;
}

static void signal_all(struct zr_inst *inst, uint32_t flags)
{
    for (uint32_t i = 0; i < inst->n_lanes; i++) {
        tcp_lane_signal(&inst->lanes[i], flags);
    }
}

static void plugin_activate(struct zr_inst *inst)
{
    signal_all(inst, TCP_LANE_START);
}

static void plugin_drain(struct zr_inst *inst, struct zr_done done)
{
    inst->drain_done = done;
    atomic_store(&inst->closing, 1u);
    signal_all(inst, TCP_LANE_DRAIN);
}

static void plugin_cool(struct zr_inst *inst)
{
    atomic_store(&inst->closing, 1u);
    stop_lanes(inst, inst->n_lanes);
    tcp_listeners_close(inst);
    fini_lanes(inst, inst->n_lanes);
}

static void plugin_destroy(struct zr_inst *inst)
{
    tr_admit_fini(&inst->admit);
    free(inst->lanes);
    free(inst);
}

/* ---- zarya.transport/1 ------------------------------------------------------------------------------------------ */

static uint32_t transport_lanes(struct zr_inst *inst)
{
    return inst->n_lanes;
}

static uint32_t transport_listeners(struct zr_inst *inst, const struct zr_listener **ret)
{
    *ret = inst->published;
    return inst->n_listeners;
}

static void transport_bind(struct zr_inst *inst, const struct zr_sink_v1 *sink)
{
    inst->sink = sink;
}

static uint64_t transport_queued(struct zr_inst *inst, struct zr_conn *conn)
{
    (void)inst;
    return atomic_load(&conn->queued);
}

static void transport_close(struct zr_inst *inst, struct zr_conn *conn, uint32_t flush)
{
    (void)inst;
    tcp_conn_end(conn, ZR_OK, flush ? TCP_END_FLUSH : TCP_END_NOW);
}

static void transport_release(struct zr_inst *inst, struct zr_conn *conn)
{
    (void)inst;
    tcp_conn_drop(conn);
}

static void transport_wake(struct zr_inst *inst, uint32_t lane)
{
    if (lane < inst->n_lanes) {
        tcp_lane_signal(&inst->lanes[lane], TCP_LANE_WOKEN);
    }
}

static const char *const schemes[] = { "tcp", NULL };
static const struct zr_transport_v1 transport = {
    .hdr = ZR_HDR(struct zr_transport_v1, 0),
    .caps = ZR_TRANSPORT_STREAM | ZR_TRANSPORT_FILES | ZR_TRANSPORT_DIAL,
    .schemes = schemes,
    .lanes = transport_lanes,
    .listeners = transport_listeners,
    .bind = transport_bind,
    .send = tcp_output_send,
    .queued = transport_queued,
    .close = transport_close,
    .release = transport_release,
    .wake = transport_wake,
    .dial = tcp_dial,
};

static const void *plugin_query(struct zr_inst *inst, const char *iface_id)
{
    (void)inst;
    return strcmp(iface_id, ZR_IF_TRANSPORT) == 0 ? &transport : NULL;
}

static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "transport-tcp",
    .version = "1.0.0",
    .summary = "Connections over TCP: one epoll reactor for each core.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .settings_size = sizeof(struct tcp_settings),
    .swap = ZR_SWAP_NEVER,
    .check = plugin_check,
    .create = plugin_create,
    .warm = plugin_warm,
    .activate = plugin_activate,
    .drain = plugin_drain,
    .cool = plugin_cool,
    .destroy = plugin_destroy,
    .query = plugin_query,
};

const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
