/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.c - transport-nng as the host sees it: manifest, options, life, table of interface zarya.transport/1. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "nng.h"

ZR_MANIFEST("id = transport-nng\n"
            "version = 1.0.0\n"
            "abi = 1.0\n"
            "provides = zarya.transport/1\n");

#define S struct tng_settings
static const struct zr_option options[] = {
    ZR_OPTION_ROW(S, listen, "listen", ZR_OPT_LIST, 0, NULL, NULL, NULL, NULL,
        "Urls to listen on: tcp://host:port (port 0 takes a free one) or ipc:///path; none: the instance only connects to others."),
    ZR_OPTION_ROW(S, serves, "serves", ZR_OPT_LIST, 0, "broker", NULL, NULL, NULL,
        "What these urls serve: broker, broker-fast, routing."),
    ZR_OPTION_ROW(S, lanes, "lanes", ZR_OPT_I64, 0, "2", "1", "64", NULL,
        "Groups of connections that are served in parallel."),
    TR_OPTIONS(S),
};
#undef S

static const struct zr_metric metrics[TR_METRICS] = TR_METRIC_TABLE("nng");

static zr_status plugin_check(const struct zr_host *host, const void *settings)
{
    struct tr_report report = { .host = NULL };
    char why[400];
    tr_report_init(&report, host);
    if (tng_listen_check(settings, why, sizeof why) != ZR_OK) {
        return tr_fail(&report, ZR_EINVAL, 0, "%s", why);
    }
    return ZR_OK;
}

static zr_status plugin_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst) {
        return ZR_ENOMEM;
    }
    inst->host = host;
    inst->set = settings;
    inst->work = host->query(host, ZR_SVC_WORK);
    inst->serves = tr_serves(&inst->set->serves);
    inst->n_lanes = (uint32_t)inst->set->lanes;
    inst->lanes = calloc(inst->n_lanes, sizeof inst->lanes[0]);
    if (!inst->lanes || !inst->work) {
        free(inst->lanes);
        free(inst);
        return ZR_ENOMEM;
    }
    tr_report_init(&inst->report, host);
    tr_admit_init(&inst->admit, &inst->report);
    tr_report_metrics(&inst->report, metrics);
    *ret = inst;
    return ZR_OK;
}

static void signal_all(struct zr_inst *inst, uint32_t flags)
{
    for (uint32_t i = 0; i < inst->n_lanes; i++) {
        tng_lane_signal(&inst->lanes[i], flags);
    }
}

static void stop_lanes(struct zr_inst *inst, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        tng_lane_signal(&inst->lanes[i], TNG_LANE_STOP);
    }
    for (uint32_t i = 0; i < n; i++) {
        (void)inst->work->join(inst->host, inst->lanes[i].thread_id);
    }
}

static zr_status start_lanes(struct zr_inst *inst)
{
    char name[16];
    for (uint32_t i = 0; i < inst->n_lanes; i++) {
        snprintf(name, sizeof name, "nng-keeper-%u", (unsigned)i);
        zr_status status = inst->work->spawn(inst->host, name, tng_lane_run, &inst->lanes[i], &inst->lanes[i].thread_id);
        if (status != ZR_OK) {
            stop_lanes(inst, i);
            return status;
        }
    }
    return ZR_OK;
}

static void fini(struct zr_inst *inst)
{
    tng_listeners_free(inst);
    for (uint32_t i = 0; i < inst->n_lanes; i++) {
        tng_lane_fini(&inst->lanes[i]);
    }
    memset(inst->lanes, 0, inst->n_lanes * sizeof inst->lanes[0]);
}

static zr_status plugin_warm(struct zr_inst *inst)
{
    atomic_store(&inst->closing, 0u);
    atomic_store(&inst->lanes_drained, 0u);
    tr_admit_limits(&inst->admit, inst->set->max_connections, inst->set->max_per_address, inst->set->accept_rate);
    for (uint32_t i = 0; i < inst->n_lanes; i++) {
        tng_lane_init(inst, &inst->lanes[i], i);
    }
    zr_status status = tng_listeners_open(inst);
    if (status == ZR_OK) {
        status = start_lanes(inst);
    }
    if (status != ZR_OK) {
        fini(inst);
    }
    return status;
}

static void plugin_activate(struct zr_inst *inst)
{
    tng_listeners_start(inst);
}

static void plugin_drain(struct zr_inst *inst, struct zr_done done)
{
    inst->drain_done = done;
    atomic_store(&inst->closing, 1u);
    tng_listeners_stop(inst);
    signal_all(inst, TNG_LANE_DRAIN);
}

static void plugin_cool(struct zr_inst *inst)
{
    if (!atomic_exchange(&inst->closing, 1u)) {
        tng_listeners_stop(inst);
    }
    stop_lanes(inst, inst->n_lanes);
    fini(inst);
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
    tng_conn_end(conn, ZR_OK, flush ? TNG_END_FLUSH : TNG_END_NOW);
}

static void transport_release(struct zr_inst *inst, struct zr_conn *conn)
{
    (void)inst;
    tng_conn_drop(conn);
}

static void transport_wake(struct zr_inst *inst, uint32_t lane)
{
    if (lane < inst->n_lanes) {
        tng_lane_signal(&inst->lanes[lane], TNG_LANE_WOKEN);
    }
}

static const char *const schemes[] = { "tcp", "ipc", NULL };
static const struct zr_transport_v1 transport = {
    .hdr = ZR_HDR(struct zr_transport_v1, 0),
    .caps = ZR_TRANSPORT_STREAM | ZR_TRANSPORT_DIAL,
    .schemes = schemes,
    .lanes = transport_lanes,
    .listeners = transport_listeners,
    .bind = transport_bind,
    .send = tng_output_send,
    .queued = transport_queued,
    .close = transport_close,
    .release = transport_release,
    .wake = transport_wake,
    .dial = tng_dial,
};

static const void *plugin_query(struct zr_inst *inst, const char *iface_id)
{
    (void)inst;
    return strcmp(iface_id, ZR_IF_TRANSPORT) == 0 ? &transport : NULL;
}

static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "transport-nng",
    .version = "1.0.0",
    .summary = "Connections over nng's byte streams: TCP and Unix sockets.",
    .options = options,
    .n_options = sizeof options / sizeof options[0],
    .settings_size = sizeof(struct tng_settings),
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
