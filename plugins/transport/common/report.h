/* SPDX-License-Identifier: Apache-2.0 */
/* report.h - what a transport tells people: log lines, error records, metrics. The same metrics for each transport, with its
 * name in them. */
#ifndef TRANSPORT_REPORT_H
#define TRANSPORT_REPORT_H
#include <stdatomic.h>
#include "zarya/zarya.h"

enum tr_metric {
    TR_M_CONNECTIONS, TR_M_ACCEPTED, TR_M_REFUSED, TR_M_DIALED, TR_M_BYTES_IN, TR_M_BYTES_OUT, TR_M_QUEUED,
    TR_M_INPUT_HELD, TR_M_CLOSED_PEER, TR_M_CLOSED_IDLE, TR_M_CLOSED_FULL, TR_M_CLOSED_ERROR, TR_M_CLOSED_BAD_INPUT,
    TR_M_CLOSED_LOCAL, TR_METRICS
};
/* Lines that hostile peers could cause at will: at most one a minute of each kind. */
enum tr_rare { TR_RARE_TLS, TR_RARE_NOFILE, TR_RARE_FULL, TR_RARE_ADDRESS, TR_RARE_PROXY, TR_RARE_INPUT, TR_RARES };

struct tr_report {
    const struct zr_host *host;
    const struct zr_log_v1 *log;
    const struct zr_err_v1 *err;
    const struct zr_metrics_v1 *metrics;
    uint32_t first, counting;
    _Atomic int64_t said[TR_RARES];
};
void tr_report_init(struct tr_report *r, const struct zr_host *host); /* log and errors; no metrics yet */
void tr_report_metrics(struct tr_report *r, const struct zr_metric *metrics);
void tr_log(struct tr_report *r, uint32_t level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void tr_log_rare(struct tr_report *r, enum tr_rare kind, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/* Raises the record and returns status. */
zr_status tr_fail(struct tr_report *r, zr_status status, int os_errno, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
void tr_count(struct tr_report *r, enum tr_metric metric, int64_t delta);
void tr_count_closed(struct tr_report *r, zr_status why); /* ZR_OK: by ourselves */
int64_t tr_now(void); /* ns, monotonic; coarse (some ms) and cheap */
int64_t tr_deadline(int64_t timeout_ns); /* from now; at most a day away, at least now */

#define TR_METRIC(name, unit, doc, kind) { ZR_HDR(struct zr_metric, 0), name, unit, doc, kind, 0 }
#define TR_METRIC_TABLE(t) {                                                                                                          \
    [TR_M_CONNECTIONS] = TR_METRIC("zarya_" t "_connections", NULL, "Connections that are there now.", ZR_METRIC_GAUGE),              \
    [TR_M_ACCEPTED] = TR_METRIC("zarya_" t "_accepted_total", NULL, "Connections accepted.", ZR_METRIC_COUNTER),                      \
    [TR_M_REFUSED] = TR_METRIC("zarya_" t "_refused_total", NULL, "Connections closed at once because of a limit.", ZR_METRIC_COUNTER), \
    [TR_M_DIALED] = TR_METRIC("zarya_" t "_dialed_total", NULL, "Connections opened to others.", ZR_METRIC_COUNTER),                  \
    [TR_M_BYTES_IN] = TR_METRIC("zarya_" t "_received_bytes_total", "bytes", "Bytes read.", ZR_METRIC_COUNTER),                       \
    [TR_M_BYTES_OUT] = TR_METRIC("zarya_" t "_sent_bytes_total", "bytes", "Bytes written.", ZR_METRIC_COUNTER),                       \
    [TR_M_QUEUED] = TR_METRIC("zarya_" t "_queued_bytes", "bytes", "Bytes of output that wait for their peers.", ZR_METRIC_GAUGE),    \
    [TR_M_INPUT_HELD] = TR_METRIC("zarya_" t "_input_bytes", "bytes", "Memory held by incomplete input.", ZR_METRIC_GAUGE),           \
    [TR_M_CLOSED_PEER] = TR_METRIC("zarya_" t "_closed_peer_total", NULL, "Connections ended by the peer.", ZR_METRIC_COUNTER),       \
    [TR_M_CLOSED_IDLE] = TR_METRIC("zarya_" t "_closed_idle_total", NULL, "Connections ended because nothing was read or written.", ZR_METRIC_COUNTER), \
    [TR_M_CLOSED_FULL] = TR_METRIC("zarya_" t "_closed_full_total", NULL, "Connections ended at a limit of memory.", ZR_METRIC_COUNTER), \
    [TR_M_CLOSED_ERROR] = TR_METRIC("zarya_" t "_closed_error_total", NULL, "Connections ended by an error of the system.", ZR_METRIC_COUNTER), \
    [TR_M_CLOSED_BAD_INPUT] = TR_METRIC("zarya_" t "_closed_bad_input_total", NULL, "Connections ended because framing was lost.", ZR_METRIC_COUNTER), \
    [TR_M_CLOSED_LOCAL] = TR_METRIC("zarya_" t "_closed_local_total", NULL, "Connections ended by this side.", ZR_METRIC_COUNTER) }
#endif
