/* SPDX-License-Identifier: Apache-2.0 */
/* conn.c - birth, references and end of a connection; see nng.h for the steps of the end. */
#include <arpa/inet.h>
#include <stdlib.h>
#include <string.h>
#include "nng.h"

struct zr_conn *tng_conn_new(struct tng_lane *lane)
{
    struct zr_conn *conn = calloc(1, sizeof *conn);
    if (!conn) {
        return NULL;
    }
    atomic_init(&conn->refs, 1u);
    conn->lane = lane;
    conn->listener = UINT32_MAX;
    pthread_mutex_init(&conn->lock, NULL);
    atomic_store(&conn->active_ns, tr_now());
    return conn;
}

int tng_conn_aios(struct zr_conn *conn)
{
    int rv = nng_aio_alloc(&conn->rx, tng_input_callback, conn);
    return rv ? rv : nng_aio_alloc(&conn->tx, tng_output_callback, conn);
}

void tng_conn_hold(struct zr_conn *conn)
{
    atomic_fetch_add(&conn->refs, 1u);
}

void tng_conn_drop(struct zr_conn *conn)
{
    if (atomic_fetch_sub(&conn->refs, 1u) != 1u) {
        return;
    }
    free(conn->bounce);
    free(conn->dial_url);
    pthread_mutex_destroy(&conn->lock);
    free(conn);
}

static void addr_from_nng(struct zr_addr *ret, const nng_sockaddr *sa)
{
    memset(ret, 0, sizeof *ret);
    if (sa->s_family == NNG_AF_INET) {
        memcpy(ret->ip, &sa->s_in.sa_addr, 4);
        ret->port = ntohs(sa->s_in.sa_port);
        ret->family = 4;
    } else if (sa->s_family == NNG_AF_INET6) {
        static const uint8_t mapped[12] = { 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff };
        uint32_t is_mapped = memcmp(sa->s_in6.sa_addr, mapped, sizeof mapped) == 0;
        memcpy(ret->ip, sa->s_in6.sa_addr + (is_mapped ? 12 : 0), is_mapped ? 4 : 16);
        ret->port = ntohs(sa->s_in6.sa_port);
        ret->family = is_mapped ? 4 : 6;
    }
}

void tng_conn_addresses(struct zr_conn *conn)
{
    nng_sockaddr sa;
    if (nng_stream_get_addr(conn->stream, NNG_OPT_REMADDR, &sa) == 0) {
        addr_from_nng(&conn->peer, &sa);
    }
    if (nng_stream_get_addr(conn->stream, NNG_OPT_LOCADDR, &sa) == 0) {
        addr_from_nng(&conn->local, &sa);
    }
}

void tng_conn_arrive(struct zr_conn *conn)
{
    struct tng_lane *lane = conn->lane;
    conn->all_next = lane->all;
    if (lane->all) {
        lane->all->all_prev = conn;
    }
    lane->all = conn;
    if (conn->listener == UINT32_MAX) {
        tng_dial_begin(conn);
    } else if (lane->draining) {
        tng_conn_end(conn, ZR_OK, TNG_END_NOW);
    } else {
        tng_conn_open(conn);
    }
}

void tng_conn_open(struct zr_conn *conn)
{
    struct tng_lane *lane = conn->lane;
    const struct zr_sink_v1 *sink = lane->inst->sink;
    char name[64];
    struct zr_str peer_name = { name, zl_addr_print(name, &conn->peer) };
    if (conn->peer.family == 0) {
        peer_name = zl_str("ipc");
    }
    struct zr_conn_info info = { .hdr = ZR_HDR(struct zr_conn_info, 0), .peer = conn->peer, .local = conn->local,
        .peer_name = peer_name, .dial_ctx = conn->dial_ctx, .lane = lane->index, .listener = conn->listener,
        .flags = conn->listener == UINT32_MAX ? ZR_CONN_OUTBOUND : 0u };
    tng_conn_hold(conn); /* the kernel's, until release */
    conn->stage = TNG_OPEN;
    if (sink->opened(sink->ctx, conn, &info, &conn->session) != ZR_OK) {
        tng_conn_drop(conn);
        tng_conn_end(conn, ZR_OK, TNG_END_NOW);
        return;
    }
    conn->known = 1;
    tr_wheel_take(&lane->wheel, &conn->wheel);
    tr_wheel_put(&lane->wheel, &conn->wheel, lane->now_ns + lane->inst->set->idle_timeout * 1000000ll);
    tng_input_begin(conn);
}

void tng_conn_end(struct zr_conn *conn, zr_status why, uint32_t how)
{
    uint32_t post = 0;
    pthread_mutex_lock(&conn->lock);
    uint32_t before = atomic_load(&conn->ending);
    if (before == 0) {
        conn->why = why;
    }
    if (before < how) {
        atomic_store(&conn->ending, how);
        post = 1;
    }
    pthread_mutex_unlock(&conn->lock);
    if (post) {
        tng_lane_post(conn, TNG_POST_END);
    }
}

/* Once: from here on nng brings every callback home, and none is begun. */
static void close_stream(struct zr_conn *conn)
{
    pthread_mutex_lock(&conn->lock);
    conn->shut = 1;
    pthread_mutex_unlock(&conn->lock);
    conn->stage = TNG_CLOSING;
    if (conn->dial_under_way) {
        nng_stream_dialer_close(conn->dialers[conn->dialer]);
    }
    if (conn->stream) {
        nng_stream_close(conn->stream);
    }
}

static void unlink_conn(struct tng_lane *lane, struct zr_conn *conn)
{
    if (conn->all_prev) {
        conn->all_prev->all_next = conn->all_next;
    } else {
        lane->all = conn->all_next;
    }
    if (conn->all_next) {
        conn->all_next->all_prev = conn->all_prev;
    }
}

static void bury(struct zr_conn *conn)
{
    struct tng_lane *lane = conn->lane;
    struct zr_inst *inst = lane->inst;
    conn->stage = TNG_DEAD;
    tng_output_discard(conn);
    tng_input_free(conn);
    tr_wheel_take(&lane->wheel, &conn->wheel);
    unlink_conn(lane, conn);
    if (conn->listener != UINT32_MAX) {
        tr_admit_leave(&inst->admit, &conn->peer);
    }
    if (conn->known) {
        tr_count_closed(&inst->report, conn->why);
        inst->sink->closed(inst->sink->ctx, conn->session, conn->why == ZR_OK ? ZR_ECLOSED : conn->why);
    }
    tr_count(&inst->report, TR_M_CONNECTIONS, -1);
    conn->dead_next = lane->dead;
    lane->dead = conn;
}

void tng_conn_ended(struct zr_conn *conn)
{
    struct tng_lane *lane = conn->lane;
    if (conn->stage == TNG_DEAD) {
        return;
    }
    pthread_mutex_lock(&conn->lock);
    uint32_t flush = atomic_load(&conn->ending) == TNG_END_FLUSH && conn->queue.head != NULL;
    pthread_mutex_unlock(&conn->lock);
    if (flush && conn->stage == TNG_OPEN) {
        conn->stage = TNG_FLUSHING;
        conn->deadline_ns = lane->now_ns + lane->inst->set->drain_timeout * 1000000ll;
        tr_wheel_take(&lane->wheel, &conn->wheel);
        tr_wheel_put(&lane->wheel, &conn->wheel, conn->deadline_ns);
    }
    if (flush && conn->stage == TNG_FLUSHING) {
        return;
    }
    if (conn->stage != TNG_CLOSING) {
        close_stream(conn);
    }
    pthread_mutex_lock(&conn->lock);
    uint32_t busy = conn->writing;
    pthread_mutex_unlock(&conn->lock);
    if (!busy && !conn->reading && !conn->dial_under_way) {
        bury(conn);
    }
}

void tng_conn_free_dead(struct zr_conn *dead)
{
    for (struct zr_conn *conn = dead, *next; conn; conn = next) {
        next = conn->dead_next;
        nng_aio_free(conn->rx); /* these wait for a callback that is on its last lines */
        nng_aio_free(conn->tx);
        nng_aio_free(conn->dialing);
        nng_stream_free(conn->stream);
        nng_stream_dialer_free(conn->dialers[0]);
        nng_stream_dialer_free(conn->dialers[1]);
        atomic_fetch_sub(&conn->lane->n_conns, 1u);
        tng_conn_drop(conn);
    }
}
