/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - see report.h. */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include "report.h"

#define LINE_MAX_BYTES 512
#define RARE_NS 60000000000ll
#define DAY_NS 86400000000000ll

void tr_report_init(struct tr_report *r, const struct zr_host *host)
{
    r->host = host;
    r->log = host->query(host, ZR_SVC_LOG);
    r->err = host->query(host, ZR_SVC_ERR);
}

void tr_report_metrics(struct tr_report *r, const struct zr_metric *metrics)
{
    r->metrics = r->host->query(r->host, ZR_SVC_METRICS);
    r->counting = r->metrics && r->metrics->declare(r->host, metrics, TR_METRICS, &r->first) == ZR_OK;
}

int64_t tr_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
    return (int64_t)ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

int64_t tr_deadline(int64_t timeout_ns)
{
    return tr_now() + (timeout_ns < 0 ? 0 : timeout_ns > DAY_NS ? DAY_NS : timeout_ns);
}

static struct zr_str print_line(char *to, const char *fmt, va_list args)
{
    int n = vsnprintf(to, LINE_MAX_BYTES, fmt, args);
    if (n < 0) {
        n = 0;
    }
    return (struct zr_str){ to, n < LINE_MAX_BYTES ? (uint64_t)n : LINE_MAX_BYTES - 1u };
}

void tr_log(struct tr_report *r, uint32_t level, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    if (!r->log || r->log->level(r->host) < level) {
        return;
    }
    va_start(args, fmt);
    struct zr_str text = print_line(line, fmt, args);
    va_end(args);
    r->log->write(r->host, level, text, NULL, 0);
}

void tr_log_rare(struct tr_report *r, enum tr_rare kind, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    int64_t now = tr_now();
    int64_t last = atomic_load(&r->said[kind]);
    if (!r->log || (last != 0 && now - last < RARE_NS) || !atomic_compare_exchange_strong(&r->said[kind], &last, now)) {
        return;
    }
    va_start(args, fmt);
    struct zr_str text = print_line(line, fmt, args);
    va_end(args);
    r->log->write(r->host, ZR_LOG_WARN, text, NULL, 0);
}

zr_status tr_fail(struct tr_report *r, zr_status status, int os_errno, const char *fmt, ...)
{
    char line[LINE_MAX_BYTES];
    va_list args;
    va_start(args, fmt);
    struct zr_str text = print_line(line, fmt, args);
    va_end(args);
    if (r->err) {
        struct zr_error error = { ZR_HDR(struct zr_error, 0), status, os_errno, 0, 0, text };
        r->err->raise(r->host, &error);
    }
    return status;
}

void tr_count(struct tr_report *r, enum tr_metric metric, int64_t delta)
{
    if (r->counting && delta != 0) {
        r->metrics->add(r->host, r->first + (uint32_t)metric, delta);
    }
}

void tr_count_closed(struct tr_report *r, zr_status why)
{
    switch (why) {
    case ZR_OK: tr_count(r, TR_M_CLOSED_LOCAL, 1); break;
    case ZR_ECLOSED: tr_count(r, TR_M_CLOSED_PEER, 1); break;
    case ZR_ETIMEOUT: tr_count(r, TR_M_CLOSED_IDLE, 1); break;
    case ZR_EFULL: tr_count(r, TR_M_CLOSED_FULL, 1); break;
    case ZR_EIO: case ZR_ENOMEM: tr_count(r, TR_M_CLOSED_ERROR, 1); break;
    default: tr_count(r, TR_M_CLOSED_BAD_INPUT, 1); break;
    }
}
