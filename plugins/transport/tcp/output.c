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
#define CHUNK (16u << 10)   /* least size of a copied unit */
#define FLUSH_MAX (4u << 20) /* what the lane writes for one connection in one turn */
#define FILE_FACTOR 16u     /* files cost no memory: their limit is this much higher */

/* Where writing stands in an array of pieces. */
struct cursor { const struct zr_piece *pieces; uint64_t off; uint32_t at, n; };

static uint32_t by_sendfile(const struct zr_piece *p)
{
    return p->fd >= 0 && p->len >= TCP_SENDFILE_MIN;
}

static void advance(struct cursor *c, uint64_t written)
{
    while (c->at < c->n && c->off + written >= c->pieces[c->at].len) {
        written -= c->pieces[c->at].len - c->off;
        c->off = 0;
        c->at++;
    }
    c->off += written;
}

/* A small file piece without memory: its bytes by pread, or a failure. */
static int read_piece(const struct zr_piece *p, uint64_t off, uint8_t *to, uint64_t len)
{
    for (uint64_t got = 0; got < len;) {
        ssize_t n = pread(p->fd, to + got, len - got, (off_t)(p->off + (int64_t)(off + got)));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            errno = n == 0 ? EIO : errno; /* the file is shorter than promised */
            return -1;
        }
        got += (uint64_t)n;
    }
    return 0;
}

/* Pieces from the cursor up to the next one for sendfile. Returns how many iovecs, or -1. */
static int gather(const struct cursor *c, struct iovec *iov, uint8_t *scratch, uint32_t *ret_more)
{
    uint64_t used = 0, off = c->off;
    uint32_t n = 0, i = c->at;
    for (; i < c->n && n < IOVS; i++, off = 0) {
        const struct zr_piece *p = &c->pieces[i];
        uint64_t len = p->len - off;
        if (len == 0) {
            continue;
        }
        if (by_sendfile(p)) {
            break;
        }
        if (p->fd < 0 || p->ptr) {
            iov[n++] = (struct iovec){ (void *)(uintptr_t)(p->ptr + off), len };
            continue;
        }
        if (used + len > SCRATCH) {
            break;
        }
        if (read_piece(p, off, scratch + used, len) != 0) {
            return -1;
        }
        iov[n++] = (struct iovec){ scratch + used, len };
        used += len;
    }
    *ret_more = i < c->n;
    return (int)n;
}

static int64_t write_memory(int fd, const struct cursor *c)
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

static int64_t write_file(int fd, const struct cursor *c)
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
static zr_status write_pieces(struct zr_conn *conn, struct cursor *c, uint64_t most, uint64_t *written)
{
    advance(c, 0); /* over empty pieces */
    while (c->at < c->n) {
        int64_t n = by_sendfile(&c->pieces[c->at]) ? write_file(conn->fd, c) : write_memory(conn->fd, c);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n < 0) {
            return errno == EAGAIN ? ZR_EAGAIN : errno == EPIPE || errno == ECONNRESET ? ZR_ECLOSED : ZR_EIO;
        }
        advance(c, (uint64_t)n);
        *written += (uint64_t)n;
        if (*written >= most && c->at < c->n) {
            return ZR_EAGAIN;
        }
    }
    return ZR_OK;
}

static uint64_t left_of(const struct cursor *c, uint64_t *ret_mem)
{
    uint64_t all = 0;
    *ret_mem = 0;
    for (uint32_t i = c->at; i < c->n; i++) {
        uint64_t len = c->pieces[i].len - (i == c->at ? c->off : 0);
        all += len;
        *ret_mem += by_sendfile(&c->pieces[i]) ? 0 : len;
    }
    return all;
}

static void count_queued(struct zr_conn *conn, int64_t bytes, int64_t mem)
{
    struct zr_inst *inst = conn->lane->inst;
    atomic_fetch_add(&conn->queued, (uint64_t)bytes);
    conn->queued_mem += (uint64_t)mem;
    atomic_fetch_add(&inst->output_mem, (uint64_t)mem);
    tcp_count(inst, TCP_M_QUEUED, bytes);
}

static void push_unit(struct zr_conn *conn, struct tcp_unit *unit)
{
    if (conn->tail) {
        conn->tail->next = unit;
    } else {
        conn->head = unit;
    }
    conn->tail = unit;
}

/* A held unit: the rest of its pieces, pointed at. */
static zr_status queue_held(struct zr_conn *conn, const struct zr_output *out, const struct cursor *c)
{
    uint32_t n = c->n - c->at;
    struct tcp_unit *unit = malloc(sizeof *unit + n * sizeof unit->pieces[0]);
    if (!unit) {
        return ZR_ENOMEM;
    }
    *unit = (struct tcp_unit){ .done = out->done, .done_ctx = out->done_ctx, .off = c->off, .n = n };
    memcpy(unit->pieces, c->pieces + c->at, n * sizeof unit->pieces[0]);
    uint64_t bytes = left_of(c, &unit->mem);
    push_unit(conn, unit);
    count_queued(conn, (int64_t)bytes, (int64_t)unit->mem);
    return ZR_OK;
}

static struct tcp_unit *new_chunk(uint64_t bytes)
{
    uint64_t room = bytes < CHUNK ? CHUNK : bytes;
    struct tcp_unit *unit = malloc(sizeof *unit + sizeof unit->pieces[0] + room);
    if (unit) {
        *unit = (struct tcp_unit){ .n = 1, .room = room };
        unit->copy = (uint8_t *)&unit->pieces[1];
        unit->pieces[0] = (struct zr_piece){ .ptr = unit->copy, .fd = -1 };
    }
    return unit;
}

static zr_status queue_copy(struct zr_conn *conn, const struct cursor *c)
{
    uint64_t mem, bytes = left_of(c, &mem);
    struct tcp_unit *unit = conn->tail;
    if (!unit || !unit->copy || unit->room - unit->pieces[0].len < bytes) {
        if (!(unit = new_chunk(bytes))) {
            return ZR_ENOMEM;
        }
        push_unit(conn, unit);
    }
    for (uint32_t i = c->at; i < c->n; i++) {
        uint64_t off = i == c->at ? c->off : 0, len = c->pieces[i].len - off;
        if (len) {
            memcpy(unit->copy + unit->pieces[0].len, c->pieces[i].ptr + off, len);
            unit->pieces[0].len += len;
        }
    }
    unit->mem += bytes;
    count_queued(conn, (int64_t)bytes, (int64_t)bytes);
    return ZR_OK;
}

/* Lock held, queue not empty: is there a limit that forbids more? */
static uint32_t is_full(const struct zr_conn *conn)
{
    struct zr_inst *inst = conn->lane->inst;
    const struct tcp_settings *set = inst->set;
    if (conn->queued_mem > (uint64_t)set->output_limit || atomic_load(&conn->queued) / FILE_FACTOR > (uint64_t)set->output_limit) {
        return 1;
    }
    return atomic_load(&inst->output_mem) > (uint64_t)set->output_memory && conn->queued_mem > (uint64_t)set->output_high;
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
    tcp_conn_arm(conn, (deaf ? 0u : (uint32_t)EPOLLIN) | (conn->head ? (uint32_t)EPOLLOUT : 0u));
}

/* Lock held, connection open. ZR_OK: written, or what is left of it is queued. */
static zr_status send_locked(struct zr_conn *conn, const struct zr_output *out, struct cursor *c, uint64_t *written)
{
    if (conn->head && is_full(conn)) {
        return ZR_EFULL;
    }
    if (!conn->head) {
        zr_status status = write_pieces(conn, c, UINT64_MAX, written);
        if (status != ZR_EAGAIN) {
            return status;
        }
    }
    zr_status status = out->done ? queue_held(conn, out, c) : queue_copy(conn, c);
    if (status == ZR_OK) {
        rearm(conn);
    }
    return status;
}

static uint32_t is_valid(const struct zr_output *out)
{
    if (out->n_pieces > TCP_MAX_PIECES) {
        return 0;
    }
    for (uint32_t i = 0; i < out->n_pieces; i++) {
        const struct zr_piece *p = &out->pieces[i];
        if ((p->fd >= 0 && !out->done) || (p->fd < 0 && !p->ptr && p->len)) {
            return 0;
        }
    }
    return 1;
}

zr_status tcp_output_send(struct zr_inst *inst, struct zr_conn *conn, const struct zr_output *out)
{
    struct cursor c = { out->pieces, 0, 0, out->n_pieces };
    uint64_t written = 0;
    uint32_t queued = 0, broken = 0;
    zr_status status = ZR_EINVAL;
    if (is_valid(out)) {
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
        atomic_store_explicit(&conn->active_ns, tcp_now(), memory_order_relaxed);
        tcp_count(inst, TCP_M_BYTES_OUT, (int64_t)written);
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
static zr_status flush_locked(struct zr_conn *conn, struct tcp_unit **finished, uint64_t *written)
{
    zr_status status = ZR_OK;
    while (conn->head && status == ZR_OK) {
        struct tcp_unit *unit = conn->head;
        struct cursor c = { unit->pieces, unit->off, unit->at, unit->n };
        uint64_t before = *written, mem;
        status = write_pieces(conn, &c, FLUSH_MAX, written);
        unit->off = c.off;
        unit->at = c.at;
        (void)left_of(&c, &mem);
        count_queued(conn, -(int64_t)(*written - before), -(int64_t)(unit->mem - mem));
        unit->mem = mem;
        if (c.at == c.n) {
            conn->head = unit->next;
            unit->next = NULL;
            *finished = unit;
            finished = &unit->next;
        }
        if (*written >= FLUSH_MAX) {
            break;
        }
    }
    conn->tail = conn->head ? conn->tail : NULL;
    return status == ZR_EAGAIN ? ZR_OK : status;
}

static void finish_units(struct tcp_unit *units, zr_status status)
{
    for (struct tcp_unit *unit = units, *next; unit; unit = next) {
        next = unit->next;
        if (unit->done) {
            unit->done(unit->done_ctx, status);
        }
        free(unit);
    }
}

void tcp_output_flush(struct zr_conn *conn)
{
    struct tcp_unit *finished = NULL;
    uint64_t written = 0;
    pthread_mutex_lock(&conn->lock);
    zr_status status = conn->fd >= 0 ? flush_locked(conn, &finished, &written) : ZR_OK;
    uint32_t was_paused = atomic_load(&conn->paused), empty = conn->head == NULL;
    if (status == ZR_OK) {
        rearm(conn);
    }
    pthread_mutex_unlock(&conn->lock);
    if (written) {
        atomic_store_explicit(&conn->active_ns, conn->lane->now_ns, memory_order_relaxed);
        tcp_count(conn->lane->inst, TCP_M_BYTES_OUT, (int64_t)written);
    }
    finish_units(finished, ZR_OK);
    if (status != ZR_OK || (conn->stage == TCP_FLUSHING && empty)) {
        tcp_conn_end(conn, status, TCP_END_NOW);
    }
    if (was_paused && !atomic_load(&conn->paused) && conn->stalled) {
        conn->stalled = 0;
        tcp_lane_again(conn->lane, conn);
    }
}

/* The connection is gone: what was queued for it, taken from it under the lock. */
void tcp_output_discard(struct zr_conn *conn, struct tcp_unit *head)
{
    pthread_mutex_lock(&conn->lock);
    count_queued(conn, -(int64_t)atomic_load(&conn->queued), -(int64_t)conn->queued_mem);
    pthread_mutex_unlock(&conn->lock);
    finish_units(head, ZR_ECLOSED);
}
