/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - what transport-tcp tells people: log lines, error records, metrics. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "tcp.h"

#define LINE_MAX_BYTES 512
#define RARE_NS 60000000000ll

int64_t tcp_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (int64_t)ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static struct zr_str print_line(char *to, const char *fmt, va_list args)
{
    int n = vsnprintf(to, LINE_MAX_BYTES, fmt, args);
    if (n < 0) {
        n = 0;
    }
    return (struct zr_str){ to, n < LINE_MAX_BYTES ? (uint64_t)n : LINE_MAX_BYTES - 1u };
}

void tcp_log(struct zr_inst *inst, uint32_t level, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    if (!inst->log || inst->log->level(inst->host) < level) {
        return;
    }
    va_start(args, fmt);
    struct zr_str text = print_line(line, fmt, args);
    va_end(args);
    inst->log->write(inst->host, level, text, NULL, 0);
}

void tcp_log_rare(struct zr_inst *inst, enum tcp_said kind, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    int64_t now = tcp_now();
    int64_t last = atomic_load(&inst->said[kind]);
    if (!inst->log || (last != 0 && now - last < RARE_NS) || !atomic_compare_exchange_strong(&inst->said[kind], &last, now)) {
        return;
    }
    va_start(args, fmt);
    struct zr_str text = print_line(line, fmt, args);
    va_end(args);
    inst->log->write(inst->host, ZR_LOG_WARN, text, NULL, 0);
}

zr_status tcp_fail(struct zr_inst *inst, zr_status status, int os_errno, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    va_start(args, fmt);
    struct zr_str text = print_line(line, fmt, args);
    va_end(args);
    if (inst->err) {
        struct zr_error error = { ZR_HDR(struct zr_error, 0), status, os_errno, 0, 0, text };
        inst->err->raise(inst->host, &error);
    }
    return status;
}

#define METRIC(name, unit, doc, kind) { ZR_HDR(struct zr_metric, 0), name, unit, doc, kind, 0 }
static const struct zr_metric metrics[TCP_METRICS] = {
    [TCP_M_CONNECTIONS] = METRIC("zarya_tcp_connections", NULL, "Connections that are there now.", ZR_METRIC_GAUGE),
    [TCP_M_ACCEPTED] = METRIC("zarya_tcp_accepted_total", NULL, "Connections accepted.", ZR_METRIC_COUNTER),
    [TCP_M_REFUSED] = METRIC("zarya_tcp_refused_total", NULL, "Connections closed at once because of a limit.", ZR_METRIC_COUNTER),
    [TCP_M_DIALED] = METRIC("zarya_tcp_dialed_total", NULL, "Connections opened to others.", ZR_METRIC_COUNTER),
    [TCP_M_BYTES_IN] = METRIC("zarya_tcp_received_bytes_total", "bytes", "Bytes read.", ZR_METRIC_COUNTER),
    [TCP_M_BYTES_OUT] = METRIC("zarya_tcp_sent_bytes_total", "bytes", "Bytes written.", ZR_METRIC_COUNTER),
    [TCP_M_QUEUED] = METRIC("zarya_tcp_queued_bytes", "bytes", "Bytes of output that wait for their peers.", ZR_METRIC_GAUGE),
    [TCP_M_INPUT_HELD] = METRIC("zarya_tcp_input_bytes", "bytes", "Memory held by incomplete input.", ZR_METRIC_GAUGE),
    [TCP_M_CLOSED_PEER] = METRIC("zarya_tcp_closed_peer_total", NULL, "Connections ended by the peer.", ZR_METRIC_COUNTER),
    [TCP_M_CLOSED_IDLE] = METRIC("zarya_tcp_closed_idle_total", NULL, "Connections ended because nothing was read or written.", ZR_METRIC_COUNTER),
    [TCP_M_CLOSED_FULL] = METRIC("zarya_tcp_closed_full_total", NULL, "Connections ended at a limit of memory.", ZR_METRIC_COUNTER),
    [TCP_M_CLOSED_ERROR] = METRIC("zarya_tcp_closed_error_total", NULL, "Connections ended by an error of the system.", ZR_METRIC_COUNTER),
    [TCP_M_CLOSED_BAD_INPUT] = METRIC("zarya_tcp_closed_bad_input_total", NULL, "Connections ended because framing was lost.", ZR_METRIC_COUNTER),
    [TCP_M_CLOSED_LOCAL] = METRIC("zarya_tcp_closed_local_total", NULL, "Connections ended by this side.", ZR_METRIC_COUNTER),
};

void tcp_metrics_declare(struct zr_inst *inst)
{
    inst->have_metrics = inst->metrics
        && inst->metrics->declare(inst->host, metrics, TCP_METRICS, &inst->metric_first) == ZR_OK;
}

void tcp_count(struct zr_inst *inst, enum tcp_metric metric, int64_t delta)
{
    if (inst->have_metrics && delta != 0) {
        inst->metrics->add(inst->host, inst->metric_first + (uint32_t)metric, delta);
    }
}

void tcp_count_closed(struct zr_inst *inst, zr_status why)
{
    switch (why) {
    case ZR_OK: tcp_count(inst, TCP_M_CLOSED_LOCAL, 1); break;
    case ZR_ECLOSED: tcp_count(inst, TCP_M_CLOSED_PEER, 1); break;
    case ZR_ETIMEOUT: tcp_count(inst, TCP_M_CLOSED_IDLE, 1); break;
    case ZR_EFULL: tcp_count(inst, TCP_M_CLOSED_FULL, 1); break;
    case ZR_EIO: case ZR_ENOMEM: tcp_count(inst, TCP_M_CLOSED_ERROR, 1); break;
    default: tcp_count(inst, TCP_M_CLOSED_BAD_INPUT, 1); break;
    }
}
