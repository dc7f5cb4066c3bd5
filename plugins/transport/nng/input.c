/* SPDX-License-Identifier: Apache-2.0 */
/* input.c - reading. A quiet connection waits with a small buffer; one that filled it gets a large one, and one whose frame
 * needs more gets that, growing fourfold with what really came. All of it with lane.lock held. */
#include <stdlib.h>
#include <string.h>
#include "nng.h"

static uint64_t lane_limit(const struct tng_lane *lane)
{
    uint64_t share = (uint64_t)lane->inst->set->input_memory / lane->inst->n_lanes;
    uint64_t least = 2ull * TNG_MAX_NEED; /* a largest frame must always be possible */
    return share > least ? share : least;
}

void tng_input_free(struct zr_conn *conn)
{
    conn->lane->input_held -= conn->cap;
    free(conn->in);
    conn->in = NULL;
    conn->cap = conn->start = conn->end = 0;
}

/* A buffer of cap bytes with what is not consumed at its front. */
static zr_status resize(struct zr_conn *conn, uint64_t cap)
{
    struct tng_lane *lane = conn->lane;
    uint64_t have = conn->end - conn->start;
    uint8_t *in = malloc(cap);
    if (!in) {
        return ZR_ENOMEM;
    }
    if (have) {
        memcpy(in, conn->in + conn->start, have);
    }
    free(conn->in);
    lane->input_held += cap - conn->cap;
    conn->in = in;
    conn->cap = cap;
    conn->start = 0;
    conn->end = have;
    return ZR_OK;
}

static zr_status make_room(struct zr_conn *conn)
{
    struct tng_lane *lane = conn->lane;
    uint64_t have = conn->end - conn->start, base = (uint64_t)lane->inst->set->read_buffer, cap = base;
    if (have == 0 && !conn->hungry) {
        conn->start = conn->end = 0;
        return conn->cap == TNG_SMALL ? ZR_OK : resize(conn, TNG_SMALL);
    }
    if (conn->cap >= base && have < conn->cap) {
        memmove(conn->in, conn->in + conn->start, have);
        conn->start = 0;
        conn->end = have;
        return ZR_OK;
    }
    while (cap <= have) {
        cap *= 4;
    }
    if (conn->need > have && cap > conn->need && conn->need > base) {
        cap = (conn->need + base - 1) / base * base;
    }
    if (lane->input_held + cap > lane_limit(lane) && have >= TNG_SMALL) {
        tr_log_rare(&lane->inst->report, TR_RARE_INPUT, "incomplete input fills its memory (option input_memory): connections are closed");
        return ZR_EFULL;
    }
    return resize(conn, cap);
}

void tng_input_begin(struct zr_conn *conn)
{
    if (conn->stage != TNG_OPEN || conn->reading || conn->lane->draining || atomic_load(&conn->ending) || atomic_load(&conn->paused)) {
        return;
    }
    zr_status status = make_room(conn);
    if (status != ZR_OK) {
        tng_conn_end(conn, status, TNG_END_NOW);
        return;
    }
    nng_iov iov = { conn->in + conn->end, (size_t)(conn->cap - conn->end) };
    if (nng_aio_set_iov(conn->rx, 1, &iov) != 0) {
        tng_conn_end(conn, ZR_EINTERNAL, TNG_END_NOW);
        return;
    }
    conn->reading = 1;
    nng_stream_recv(conn->stream, conn->rx);
}

/* One data and its turn_end. 1: the sink left a whole rest, to be passed again. */
static uint32_t one_turn(struct zr_conn *conn)
{
    const struct zr_sink_v1 *sink = conn->lane->inst->sink;
    uint64_t have = conn->end - conn->start, consumed = 0, need = 0;
    if (have == 0 || have < conn->need || conn->stage != TNG_OPEN || atomic_load(&conn->ending)) {
        return 0;
    }
    zr_status status = sink->data(sink->ctx, conn->session, (struct zr_span){ conn->in + conn->start, have }, &consumed, &need);
    sink->turn_end(sink->ctx, conn->lane->index);
    conn->start += consumed < have ? consumed : have;
    if (status != ZR_OK) {
        tng_conn_end(conn, status < 0 ? status : ZR_EINVAL, TNG_END_FLUSH);
        return 0;
    }
    uint64_t rest = conn->end - conn->start;
    uint32_t again = rest && need <= rest;
    conn->need = !rest ? 0 : again && !consumed ? rest + 1 : need;
    if (conn->need > TNG_MAX_NEED) {
        tng_conn_end(conn, ZR_EINVAL, TNG_END_FLUSH);
    }
    return again && consumed;
}

static void deliver(struct zr_conn *conn)
{
    conn->stalled = 0;
    while (one_turn(conn)) {
        if (atomic_load(&conn->paused)) {
            conn->stalled = 1; /* goes on when the output is taken */
            return;
        }
    }
}

void tng_input_resume(struct zr_conn *conn)
{
    if (conn->stage != TNG_OPEN || conn->reading || conn->lane->draining || atomic_load(&conn->paused)) {
        return;
    }
    if (conn->stalled) {
        deliver(conn);
    }
    tng_input_begin(conn);
}

static zr_status why_of(int rv)
{
    switch (rv) {
    case NNG_ECONNSHUT: case NNG_ECONNRESET: case NNG_ECLOSED: case NNG_ECANCELED: return ZR_ECLOSED;
    case NNG_ETIMEDOUT: return ZR_ETIMEOUT;
    case NNG_ENOMEM: return ZR_ENOMEM;
    default: return ZR_EIO;
    }
}

void tng_input_callback(void *arg)
{
    struct zr_conn *conn = arg;
    struct tng_lane *lane = conn->lane;
    int rv = nng_aio_result(conn->rx);
    pthread_mutex_lock(&lane->lock);
    conn->reading = 0;
    if (rv != 0) {
        tng_conn_end(conn, why_of(rv), TNG_END_FLUSH);
    } else if (conn->stage == TNG_OPEN && !lane->draining) {
        uint64_t n = nng_aio_count(conn->rx);
        lane->now_ns = tr_now();
        conn->hungry = n == conn->cap - conn->end;
        conn->end += n;
        atomic_store_explicit(&conn->active_ns, lane->now_ns, memory_order_relaxed);
        tr_count(&lane->inst->report, TR_M_BYTES_IN, (int64_t)n);
        deliver(conn);
        tng_input_begin(conn);
    }
    if (atomic_load(&conn->ending)) {
        tng_lane_post(conn, TNG_POST_END); /* the keeper may be waiting for this callback */
    }
    pthread_mutex_unlock(&lane->lock);
}
