/* SPDX-License-Identifier: Apache-2.0 */
/* dial.c - connections that we open. nng looks names up, connects and keeps the time; the connection object is there from the
 * start, so that a dial ends like any other connection when the transport does.
 *
 * Two habits of nng 1.5 are answered here. It tries one address of a name only: so names are tried for IPv4, then for IPv6. And
 * it may call a socket connected that is not yet (its poller sees the hang-up of the new socket before the connect): so the
 * peer's address is asked for, and while there is none, a send of no bytes waits until the socket can be written to. */
#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "nng.h"

static void on_dialed(void *arg)
{
    tng_lane_post(arg, TNG_POST_DIALED);
}

/* What is left of the time, at least a millisecond. */
static void set_timeout(struct zr_conn *conn)
{
    int64_t ms = (conn->deadline_ns - tr_now()) / 1000000 + 1;
    nng_aio_set_timeout(conn->dialing, ms < 1 ? 1 : (nng_duration)ms); /* tr_deadline is at most a day away */
}

static uint32_t is_name(struct zr_str url)
{
    char host[256];
    uint8_t ip[16];
    uint16_t port;
    return zl_starts(url, "tcp://") && tr_endpoint_split((struct zr_str){ url.ptr + 6, url.len - 6 }, host, sizeof host, &port) == ZR_OK
        && inet_pton(AF_INET, host, ip) != 1 && inet_pton(AF_INET6, host, ip) != 1;
}

static int make_dialers(struct zr_conn *conn, struct zr_str url)
{
    char other[300];
    if (zl_starts(url, "ipc://")) {
        return nng_stream_dialer_alloc(&conn->dialers[0], conn->dial_url);
    }
    int rv = 0;
    for (uint32_t i = 0; i < (is_name(url) ? 2u : 1u) && rv == 0; i++) {
        snprintf(other, sizeof other, is_name(url) ? i ? "tcp6%s" : "tcp4%s" : "tcp%s", conn->dial_url + 3);
        rv = nng_stream_dialer_alloc(&conn->dialers[i], other);
        rv = rv ? rv : nng_stream_dialer_set_bool(conn->dialers[i], NNG_OPT_TCP_NODELAY, true); /* not nng's default */
    }
    return rv;
}

/* All that nng needs for the connection; an nng error. */
static int prepare(struct zr_conn *conn, struct zr_str url, int64_t timeout_ns)
{
    conn->deadline_ns = tr_deadline(timeout_ns);
    int rv = (conn->dial_url = zl_dup(url)) ? 0 : NNG_ENOMEM;
    rv = rv ? rv : make_dialers(conn, url);
    rv = rv ? rv : tng_conn_aios(conn);
    return rv ? rv : nng_aio_alloc(&conn->dialing, on_dialed, conn);
}

static void give_up(struct zr_conn *conn)
{
    nng_aio_free(conn->rx);
    nng_aio_free(conn->tx);
    nng_aio_free(conn->dialing);
    for (uint32_t i = 0; i < 2; i++) {
        if (conn->dialers[i]) {
            nng_stream_dialer_free(conn->dialers[i]);
        }
    }
    tng_conn_drop(conn);
}

zr_status tng_dial(struct zr_inst *inst, struct zr_str url, int64_t timeout_ns, void *dial_ctx)
{
    if ((!zl_starts(url, "tcp://") && !zl_starts(url, "ipc://")) || url.len > TNG_MAX_URL) {
        return tr_fail(&inst->report, ZR_EINVAL, 0, "\"%.*s\" is no url to connect to, as tcp://host:port or ipc:///path",
                       (int)(url.len < 200 ? url.len : 200), url.ptr);
    }
    if (atomic_load(&inst->closing) || !inst->sink) {
        return ZR_ECLOSED;
    }
    if (atomic_fetch_add(&inst->n_dials, 1u) >= TNG_MAX_DIALS) {
        atomic_fetch_sub(&inst->n_dials, 1u);
        return tr_fail(&inst->report, ZR_EFULL, 0, "%u connections are being opened already", TNG_MAX_DIALS);
    }
    struct tng_lane *lane = tng_lane_choose(inst);
    struct zr_conn *conn = tng_conn_new(lane);
    int rv = conn ? prepare(conn, url, timeout_ns) : NNG_ENOMEM;
    if (rv != 0) {
        atomic_fetch_sub(&lane->n_conns, 1u);
        atomic_fetch_sub(&inst->n_dials, 1u);
        if (conn) {
            give_up(conn);
        }
        return tr_fail(&inst->report, rv == NNG_ENOMEM ? ZR_ENOMEM : ZR_EINVAL, 0, "cannot connect to %.*s: %s",
                       (int)(url.len < 200 ? url.len : 200), url.ptr, nng_strerror(rv));
    }
    conn->dial_ctx = dial_ctx;
    tr_count(&inst->report, TR_M_CONNECTIONS, 1);
    tng_lane_post(conn, TNG_POST_NEW);
    return ZR_PENDING;
}

static void fail(struct zr_conn *conn, int rv)
{
    struct zr_inst *inst = conn->lane->inst;
    zr_status why = rv == NNG_ETIMEDOUT ? ZR_ETIMEOUT : rv == NNG_ECLOSED || rv == NNG_ECANCELED ? ZR_ECLOSED
        : rv == NNG_EADDRINVAL ? ZR_ENOENT : ZR_EIO;
    char line[512];
    int n = snprintf(line, sizeof line, "cannot connect to %s: %s", conn->dial_url,
                     why == ZR_ECLOSED ? "the transport is shutting down" : nng_strerror(rv));
    uint64_t len = n < 0 ? 0 : (size_t)n < sizeof line ? (uint64_t)n : sizeof line - 1;
    inst->sink->dial_failed(inst->sink->ctx, conn->dial_ctx, why, (struct zr_str){ line, len });
    tng_conn_end(conn, ZR_OK, TNG_END_NOW);
}

static void dial_now(struct zr_conn *conn)
{
    conn->dial_under_way = 1;
    set_timeout(conn);
    nng_stream_dialer_dial(conn->dialers[conn->dialer], conn->dialing);
}

/* 1: it is not connected yet, in spite of what was said. */
static uint32_t wait_for_connect(struct zr_conn *conn)
{
    nng_sockaddr sa;
    if (!zl_starts(zl_str(conn->dial_url), "tcp://") || nng_stream_get_addr(conn->stream, NNG_OPT_REMADDR, &sa) == 0) {
        return 0;
    }
    if (tr_now() >= conn->deadline_ns) {
        return 0; /* then its first use will tell */
    }
    conn->dial_under_way = 1;
    set_timeout(conn);
    (void)nng_aio_set_iov(conn->dialing, 0, NULL);
    nng_stream_send(conn->stream, conn->dialing);
    return 1;
}

void tng_dial_begin(struct zr_conn *conn)
{
    conn->stage = TNG_DIALING;
    if (conn->lane->draining) {
        atomic_fetch_sub(&conn->lane->inst->n_dials, 1u);
        fail(conn, NNG_ECLOSED);
        return;
    }
    dial_now(conn);
}

void tng_dial_done(struct zr_conn *conn)
{
    struct zr_inst *inst = conn->lane->inst;
    int rv = nng_aio_result(conn->dialing);
    conn->dial_under_way = 0;
    if (rv == 0 && !conn->stream) {
        conn->stream = nng_aio_get_output(conn->dialing, 0);
    }
    if (conn->stage == TNG_DIALING && rv == 0 && wait_for_connect(conn)) {
        return;
    }
    if (conn->stage == TNG_DIALING && rv != 0 && rv != NNG_ETIMEDOUT && conn->dialer == 0 && conn->dialers[1] && !conn->stream) {
        conn->dialer = 1;
        dial_now(conn);
        return;
    }
    atomic_fetch_sub(&inst->n_dials, 1u);
    if (rv != 0 || conn->stage == TNG_CLOSING) {
        fail(conn, rv ? rv : NNG_ECLOSED);
        return;
    }
    tng_conn_addresses(conn);
    atomic_store(&conn->active_ns, tr_now());
    tr_count(&inst->report, TR_M_DIALED, 1);
    tng_conn_open(conn);
}
