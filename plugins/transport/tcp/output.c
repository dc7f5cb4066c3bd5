/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - from the kernel to the socket.
 *
 *   1. Units leave in the order in which send took them, each whole, whatever threads they come from: everything happens
 *      under the connection's lock, and nothing is written past a queue that is not empty.
 *   2. The calling thread writes what the socket takes. Only the lane writes from the queue, when epoll says so.
 *   3. Borrowed memory is copied into chunks that later small units fill up; held memory and files are only pointed at.
 *   4. done is called once for each unit that has one, and without a lock held. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <unistd.h>
#include "tcp.h"

#define IOVS 64u
#define SCRATCH (16u << 10) /* small file pieces of one write are read into it */
#define FLUSH_MAX (4u << 20) /* what the lane writes for one connection in one turn */
#define FILE_FACTOR 16u     /* files cost no memory: their limit is this much higher */

/* Pieces from the cursor up to the next one for sendfile. Returns how many iovecs, or -1. */
static int gather(const struct tr_cursor *c, struct iovec *iov, uint8_t *scratch, uint32_t *ret_more)
{
    uint64_t used = 0, off = c->off;
    uint32_t n = 0, i = c->at;
    for (; i < c->n && n < IOVS; i++, off = 0) {
        const struct zr_piece *p = &c->pieces[i];
        uint64_t len = p->len - off;
        if (len == 0) {
            continue;
        }
        if (tr_piece_is_file(p)) {
            break;
        }
        if (p->fd < 0 || p->ptr) {
            iov[n++] = (struct iovec){ (void *)(uintptr_t)(p->ptr + off), len };
            continue;
        }
        if (used + len > SCRATCH) {
            break;
        }
        int error = tr_piece_read(p, off, scratch + used, len);
        if (error) {
            errno = -error;
            return -1;
        }
        iov[n++] = (struct iovec){ scratch + used, len };
        used += len;
    }
    *ret_more = i < c->n;
    return (int)n;
}

static int64_t write_memory(int fd, const struct tr_cursor *c)
{
    struct iovec iov[IOVS];
    uint8_t scratch[SCRATCH];
    uint32_t more = 0;
    int n = gather(c, iov, scratch, &more);
    if (n <= 0) {
        return n;
    }
    struct msghdr msg = { .msg_iov = iov, .msg_iovlen = (size_t)n };
    return sendmsg(fd, &msg, MSG_DONTWAIT | MSG_NOSIGNAL | (more ? MSG_MORE : 0));
}

static int64_t write_file(int fd, const struct tr_cursor *c)
{
    const struct zr_piece *p = &c->pieces[c->at];
    off_t off = (off_t)(p->off + (int64_t)c->off);
    uint64_t len = p->len - c->off;
    ssize_t n = sendfile(fd, p->fd, &off, len < FLUSH_MAX ? len : FLUSH_MAX);
    if (n == 0) {
        errno = EIO; /* the file is shorter than promised */
        return -1;
    }
    return n;
}

/* Writes until all is written (ZR_OK), the socket is full or `most` was written (ZR_EAGAIN), or it failed (ZR_EIO, ZR_ECLOSED). */
static zr_status write_pieces(struct zr_conn *conn, struct tr_cursor *c, uint64_t most, uint64_t *written)
{
    tr_cursor_advance(c, 0); /* over empty pieces */
    while (c->at < c->n) {
        int64_t n = tr_piece_is_file(&c->pieces[c->at]) ? write_file(conn->fd, c) : write_memory(conn->fd, c);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN ? ZR_EAGAIN : errno == EPIPE || errno == ECONNRESET ? ZR_ECLOSED : ZR_EIO;
        }
        tr_cursor_advance(c, (uint64_t)n);
        *written += (uint64_t)n;
        if (*written >= most && c->at < c->n) {
            return ZR_EAGAIN;
        }
    }
    return ZR_OK;
}

/* Lock held, after conn->queue changed from `before`: what others and the metric see of it. */
static void count_queued(struct zr_conn *conn, const struct tr_queue *before)
{
    struct zr_inst *inst = conn->lane->inst;
    atomic_store(&conn->queued, conn->queue.bytes);
    atomic_fetch_add(&inst->output_mem, conn->queue.mem - before->mem);
    tr_count(&inst->report, TR_M_QUEUED, (int64_t)(conn->queue.bytes - before->bytes));
}

/* Lock held, queue not empty: is there a limit that forbids more? */
static uint32_t is_full(const struct zr_conn *conn)
{
    struct zr_inst *inst = conn->lane->inst;
    const struct tcp_settings *set = inst->set;
    if (conn->queue.mem > (uint64_t)set->output_limit || atomic_load(&conn->queued) / FILE_FACTOR > (uint64_t)set->output_limit) {
        return 1;
    }
    return atomic_load(&inst->output_mem) > (uint64_t)set->output_memory && conn->queue.mem > (uint64_t)set->output_high;
}

/* Lock held. Asks epoll for what is wanted now, after the queue grew or shrank. */
static void rearm(struct zr_conn *conn)
{
    const struct tcp_settings *set = conn->lane->inst->set;
    uint64_t queued = atomic_load(&conn->queued);
    uint32_t paused = atomic_load(&conn->paused);
    if (!paused && queued > (uint64_t)set->output_high) {
        atomic_store(&conn->paused, paused = 1u);
    } else if (paused && queued <= (uint64_t)set->output_low) {
        atomic_store(&conn->paused, paused = 0u);
    }
    uint32_t deaf = paused || atomic_load(&conn->ending) || atomic_load(&conn->lane->inst->closing);
    tcp_conn_arm(conn, (deaf ? 0u : (uint32_t)EPOLLIN) | (conn->queue.head ? (uint32_t)EPOLLOUT : 0u));
}

/* Lock held, connection open. ZR_OK: written, or what is left of it is queued. */
static zr_status send_locked(struct zr_conn *conn, const struct zr_output *out, struct tr_cursor *c, uint64_t *written)
{
    tr_cursor_advance(c, 0);
    if (c->at == c->n) {
        return ZR_OK; /* nothing in it */
    }
    if (conn->queue.head && is_full(conn)) {
        return ZR_EFULL;
    }
    if (!conn->queue.head) {
        zr_status status = write_pieces(conn, c, UINT64_MAX, written);
        if (status != ZR_EAGAIN) {
            return status;
        }
    }
    struct tr_queue before = conn->queue;
    zr_status status = tr_queue_add(&conn->queue, out, c);
    if (status == ZR_OK) {
        count_queued(conn, &before);
        rearm(conn);
    }
    return status;
}

zr_status tcp_output_send(struct zr_inst *inst, struct zr_conn *conn, const struct zr_output *out)
{
    struct tr_cursor c = { out->pieces, 0, 0, out->n_pieces };
    uint64_t written = 0;
    uint32_t queued = 0, broken = 0;
    zr_status status = ZR_EINVAL;
    if (tr_output_is_valid(out)) {
        pthread_mutex_lock(&conn->lock);
        status = ZR_ECLOSED;
        if (conn->fd >= 0 && !atomic_load(&conn->ending)) {
            status = send_locked(conn, out, &c, &written);
            queued = status == ZR_OK && c.at < c.n;
            broken = status != ZR_OK;
        }
        pthread_mutex_unlock(&conn->lock);
    }
    if (written) {
        atomic_store_explicit(&conn->active_ns, tr_now(), memory_order_relaxed);
        tr_count(&inst->report, TR_M_BYTES_OUT, (int64_t)written);
    }
    if (broken) {
        tcp_conn_end(conn, status, TCP_END_NOW); /* a unit that left in part cannot be taken back */
    }
    if (out->done && !queued) {
        out->done(out->done_ctx, status);
    }
    return status == ZR_EIO ? ZR_ECLOSED : status;
}

/* Lock held. Writes from the queue; written units go to the list at finished, in order. */
static zr_status flush_locked(struct zr_conn *conn, struct tr_unit **finished, uint64_t *written)
{
    struct tr_queue before = conn->queue;
    zr_status status = ZR_OK;
    while (conn->queue.head && status == ZR_OK && *written < FLUSH_MAX) {
        struct tr_cursor c = tr_queue_cursor(&conn->queue);
        status = write_pieces(conn, &c, FLUSH_MAX, written);
        tr_queue_written(&conn->queue, &c, &finished);
    }
    count_queued(conn, &before);
    return status == ZR_EAGAIN ? ZR_OK : status;
}

void tcp_output_flush(struct zr_conn *conn)
{
    struct tr_unit *finished = NULL;
    uint64_t written = 0;
    pthread_mutex_lock(&conn->lock);
    zr_status status = conn->fd >= 0 ? flush_locked(conn, &finished, &written) : ZR_OK;
    uint32_t was_paused = atomic_load(&conn->paused), empty = conn->queue.head == NULL;
    if (status == ZR_OK) {
        rearm(conn);
    }
    pthread_mutex_unlock(&conn->lock);
    if (written) {
        atomic_store_explicit(&conn->active_ns, conn->lane->now_ns, memory_order_relaxed);
        tr_count(&conn->lane->inst->report, TR_M_BYTES_OUT, (int64_t)written);
    }
    tr_units_finish(finished, ZR_OK);
    if (status != ZR_OK || (conn->stage == TCP_FLUSHING && empty)) {
        tcp_conn_end(conn, status, TCP_END_NOW);
    }
    if (was_paused && !atomic_load(&conn->paused) && conn->stalled) {
        conn->stalled = 0;
        tcp_lane_again(conn->lane, conn);
    }
}

void tcp_output_discard(struct zr_conn *conn)
{
    pthread_mutex_lock(&conn->lock);
    struct tr_queue before = conn->queue;
    struct tr_unit *units = tr_queue_clear(&conn->queue);
    count_queued(conn, &before);
    pthread_mutex_unlock(&conn->lock);
    tr_units_finish(units, ZR_ECLOSED);
}
