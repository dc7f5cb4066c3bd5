/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - writing. Units leave in the order in which send took them; nng writes one stretch at a time, up to TNG_IOVS
 * pieces of one unit, and calls back. nng begins a write on the calling thread, so a unit that meets an empty queue is
 * written at once. Files go through memory: what nng takes are addresses.
 *
 * LOCKING. conn.lock, never over calls to the sink. */
#include <stdlib.h>
#include <string.h>
#include "nng.h"

#define FILE_FACTOR 16u /* files cost no memory: their limit is this much higher */

/* Lock held, after conn->queue changed from `before`. */
static void count_queued(struct zr_conn *conn, const struct tr_queue *before)
{
    struct zr_inst *inst = conn->lane->inst;
    atomic_store(&conn->queued, conn->queue.bytes);
    atomic_fetch_add(&inst->output_mem, conn->queue.mem - before->mem);
    tr_count(&inst->report, TR_M_QUEUED, (int64_t)(conn->queue.bytes - before->bytes));
}

/* A part of a file piece by way of the bounce buffer, of which there is one for each connection. */
static zr_status add_file(struct zr_conn *conn, const struct zr_piece *p, uint64_t off, nng_iov *iov)
{
    uint64_t len = p->len - off < TNG_BOUNCE ? p->len - off : TNG_BOUNCE;
    if (!conn->bounce && !(conn->bounce = malloc(TNG_BOUNCE))) {
        return ZR_ENOMEM;
    }
    if (tr_piece_read(p, off, conn->bounce, len) != 0) {
        return ZR_EIO;
    }
    *iov = (nng_iov){ conn->bounce, (size_t)len };
    return ZR_OK;
}

/* Lock held, queue not empty, nothing under way. */
static zr_status begin_write(struct zr_conn *conn)
{
    struct tr_cursor c = tr_queue_cursor(&conn->queue);
    nng_iov iov[TNG_IOVS];
    uint32_t n = 0, bounced = 0;
    tr_cursor_advance(&c, 0);
    for (uint64_t off = c.off; c.at < c.n && n < TNG_IOVS && !bounced; c.at++, off = 0) {
        const struct zr_piece *p = &c.pieces[c.at];
        if (p->len == off) {
            continue;
        }
        if (p->ptr) {
            iov[n++] = (nng_iov){ (void *)(uintptr_t)(p->ptr + off), (size_t)(p->len - off) };
            continue;
        }
        zr_status status = add_file(conn, p, off, &iov[n++]);
        if (status != ZR_OK) {
            return status;
        }
        bounced = 1;
    }
    if (nng_aio_set_iov(conn->tx, n, iov) != 0) {
        return ZR_EINTERNAL;
    }
    conn->writing = 1;
    nng_stream_send(conn->stream, conn->tx);
    return ZR_OK;
}

/* Lock held, queue not empty: is there a limit that forbids more? */
static uint32_t is_full(const struct zr_conn *conn)
{
    struct zr_inst *inst = conn->lane->inst;
    const struct tng_settings *set = inst->set;
    if (conn->queue.mem > (uint64_t)set->output_limit || conn->queue.bytes / FILE_FACTOR > (uint64_t)set->output_limit) {
        return 1;
    }
    return atomic_load(&inst->output_mem) > (uint64_t)set->output_memory && conn->queue.mem > (uint64_t)set->output_high;
}

/* Lock held. 1: reading may go on again. */
static uint32_t set_paused(struct zr_conn *conn)
{
    const struct tng_settings *set = conn->lane->inst->set;
    if (!atomic_load(&conn->paused)) {
        atomic_store(&conn->paused, conn->queue.bytes > (uint64_t)set->output_high);
        return 0;
    }
    if (conn->queue.bytes > (uint64_t)set->output_low) {
        return 0;
    }
    atomic_store(&conn->paused, 0u);
    return 1;
}

/* Lock held, connection open. *ret_taken: the unit is in the queue, done is called from there. */
static zr_status send_locked(struct zr_conn *conn, const struct zr_output *out, uint32_t *ret_taken)
{
    struct tr_cursor all = { out->pieces, 0, 0, out->n_pieces };
    struct tr_queue before = conn->queue;
    tr_cursor_advance(&all, 0);
    if (all.at == all.n) {
        return ZR_OK; /* nothing in it */
    }
    if (conn->queue.head && is_full(conn)) {
        return ZR_EFULL;
    }
    zr_status status = tr_queue_add(&conn->queue, out, &all);
    if (status != ZR_OK) {
        return status;
    }
    *ret_taken = 1;
    count_queued(conn, &before);
    status = conn->writing ? ZR_OK : begin_write(conn);
    (void)set_paused(conn);
    return status;
}

zr_status tng_output_send(struct zr_inst *inst, struct zr_conn *conn, const struct zr_output *out)
{
    zr_status status = ZR_EINVAL;
    uint32_t taken = 0, broken = 0;
    (void)inst;
    if (tr_output_is_valid(out)) {
        pthread_mutex_lock(&conn->lock);
        status = ZR_ECLOSED;
        if (!conn->shut && !atomic_load(&conn->ending)) {
            status = send_locked(conn, out, &taken);
            broken = status != ZR_OK;
        }
        pthread_mutex_unlock(&conn->lock);
    }
    if (broken) {
        tng_conn_end(conn, status, TNG_END_NOW);
    }
    if (out->done && !taken) {
        out->done(out->done_ctx, status);
    }
    return status == ZR_EIO || status == ZR_EINTERNAL ? ZR_ECLOSED : status;
}

/* Lock held. What nng wrote leaves the queue, and the next stretch begins. */
static zr_status after_write(struct zr_conn *conn, uint64_t n, struct tr_unit **finished)
{
    struct tr_queue before = conn->queue;
    struct tr_cursor c = tr_queue_cursor(&conn->queue);
    tr_cursor_advance(&c, n);
    tr_queue_written(&conn->queue, &c, &finished);
    count_queued(conn, &before);
    return conn->queue.head && !conn->shut ? begin_write(conn) : ZR_OK;
}

void tng_output_callback(void *arg)
{
    struct zr_conn *conn = arg;
    struct tr_unit *finished = NULL;
    int rv = nng_aio_result(conn->tx);
    uint64_t n = rv == 0 ? nng_aio_count(conn->tx) : 0;
    zr_status status = rv == 0 ? ZR_OK : ZR_ECLOSED;
    pthread_mutex_lock(&conn->lock);
    conn->writing = 0;
    if (rv == 0) {
        status = after_write(conn, n, &finished);
    }
    uint32_t resume = set_paused(conn), idle = !conn->writing;
    pthread_mutex_unlock(&conn->lock);
    if (n) {
        atomic_store_explicit(&conn->active_ns, tr_now(), memory_order_relaxed);
        tr_count(&conn->lane->inst->report, TR_M_BYTES_OUT, (int64_t)n);
    }
    tr_units_finish(finished, ZR_OK);
    if (status != ZR_OK) {
        tng_conn_end(conn, status, TNG_END_NOW);
    }
    if (resume) {
        tng_lane_post(conn, TNG_POST_RESUME);
    }
    if (idle && atomic_load(&conn->ending)) {
        tng_lane_post(conn, TNG_POST_END); /* the keeper may be waiting for this callback */
    }
}

void tng_output_discard(struct zr_conn *conn)
{
    pthread_mutex_lock(&conn->lock);
    struct tr_queue before = conn->queue;
    struct tr_unit *units = tr_queue_clear(&conn->queue);
    count_queued(conn, &before);
    pthread_mutex_unlock(&conn->lock);
    tr_units_finish(units, ZR_ECLOSED);
}
