/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - frames on their way out.
 *
 * Inside a sink call of a lane, what is meant for a session of that lane is gathered: the frame is encoded at the end of the
 * lane's one buffer and noted as a segment; zk_lane_flush then makes one send for each session of all its segments. Everything
 * else (another thread, another lane's session) is encoded into a buffer of the thread and sent at once.
 *
 *   1. A segment holds whole frames. Segments of one session are chained through `next` from session->out_first.
 *   2. The order of commands without pieces towards one session is kept; one with pieces may be overtaken by none either, as
 *      all its session's segments leave in one send, in order.
 *   3. command->done is called exactly once for every command that came in here, whatever happens: by the transport when the
 *      bytes are out, or here when they never get there.
 *   4. Borrowed bytes (no done) are copied by the transport before send returns, so the lane's buffer is free after a flush.
 *      With a done in play all bytes of the send move into a parcel, one malloc, which dies in parcel_done.
 *   5. While a lane is flushed zk_lane_now is NULL: what a done callback sends is sent at once, not gathered. */
#include <stdlib.h>
#include <string.h>
#include "remoting/internal.h"
#include "zarya/io.h"

_Thread_local struct zk_lane *zk_lane_now;

/* ---- the thread's own buffer --------------------------------------------------------------------------------------- */
static pthread_key_t thread_key;
static pthread_once_t thread_once = PTHREAD_ONCE_INIT;
static _Thread_local struct zl_buf *thread_buf;

static void thread_buf_free(void *p)
{
    zl_buf_free(p);
    free(p);
}

static void thread_key_make(void)
{
    if (pthread_key_create(&thread_key, thread_buf_free) != 0)
        abort(); /* first use in the process; there are 1024 keys */
}

static struct zl_buf *thread_buf_get(void)
{
    if (!thread_buf) {
        pthread_once(&thread_once, thread_key_make);
        struct zl_buf *buf = malloc(sizeof *buf);
        if (!buf)
            return NULL;
        zl_buf_init(buf, ZK_OUT_MAX);
        if (pthread_setspecific(thread_key, buf) != 0) {
            thread_buf_free(buf);
            return NULL;
        }
        thread_buf = buf;
    }
    zl_buf_clear(thread_buf);
    return thread_buf;
}

static void buf_trim(struct zl_buf *buf)
{
    if (buf->cap > ZK_OUT_KEEP) {
        zl_buf_free(buf);
        zl_buf_init(buf, ZK_OUT_MAX);
    } else {
        zl_buf_clear(buf);
    }
}

/* ---- commands ------------------------------------------------------------------------------------------------------ */
const struct zr_command *zk_command_full(const struct zr_command *command, struct zr_command *room)
{
    if (command->hdr.size >= sizeof *command)
        return command;
    if (command->hdr.size < ZR_END(struct zr_command, fields))
        return NULL;
    memset(room, 0, sizeof *room);
    memcpy(room, command, command->hdr.size);
    room->hdr.size = sizeof *room;
    return room;
}

uint64_t zk_pieces_len(const struct zr_piece *pieces, uint32_t n)
{
    uint64_t len = 0;
    for (uint32_t i = 0; i < n; i++)
        len += pieces[i].len;
    return len;
}

static void done_call(void (*done)(void *ctx, zr_status status), void *ctx, zr_status status)
{
    if (done)
        done(ctx, status);
}

/* Pieces nobody is told of are read from memory at once: there is no done to hold them until. */
static zr_status pieces_copy(struct zl_buf *buf, const struct zr_piece *pieces, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        if (!pieces[i].ptr && pieces[i].len)
            return ZR_EINVAL;
        zl_buf_add(buf, pieces[i].ptr, pieces[i].len);
    }
    return ZR_OK;
}

/* Appends the frame of command to buf (its pieces too, if they have no done), or leaves buf as it was. */
static zr_status command_encode(struct zl_buf *buf, const struct zr_command *command, uint32_t type, int32_t flag, int32_t opaque)
{
    uint64_t start = buf->len;
    uint64_t body = command->n_pieces ? zk_pieces_len(command->pieces, command->n_pieces) : command->body.len;
    zr_status status = body <= ZL_FRAME_MAX ? ZR_OK : ZR_EFULL;
    if (status == ZR_OK)
        status = zl_command_encode(buf, command, type, flag, opaque, body);
    uint64_t frame = buf->len - start + (command->n_pieces ? body : 0);
    if (status == ZR_OK && !buf->failed && frame > ZL_FRAME_MAX)
        status = ZR_EFULL;
    if (status == ZR_OK && command->n_pieces && !command->done)
        status = pieces_copy(buf, command->pieces, command->n_pieces);
    if (status == ZR_OK && buf->failed)
        status = ZR_ENOMEM;
    if (status != ZR_OK) {
        buf->len = start;
        buf->failed = 0;
    }
    return status;
}

/* ---- sending ------------------------------------------------------------------------------------------------------- */
static zr_status session_send(struct zr_session *s, const struct zr_output *out, uint64_t len)
{
    zr_status status = s->port->table->send(s->port->inst, s->conn, out);
    if (status >= 0)
        zk_metric_add(zk_rem.metrics.bytes_out, (int64_t)len);
    else if (status == ZR_EFULL)
        zk_metric_add(zk_rem.metrics.send_refused, 1);
    return status < 0 ? status : ZR_OK;
}

static zr_status send_borrowed(struct zr_session *s, const struct zr_piece *pieces, uint32_t n)
{
    struct zr_output out = { ZR_HDR(struct zr_output, 0) };
    out.pieces = pieces;
    out.n_pieces = n;
    return session_send(s, &out, zk_pieces_len(pieces, n));
}

struct parcel_done { void (*done)(void *ctx, zr_status status); void *ctx; };
struct parcel {
    uint32_t n_dones, n_pieces;
    struct parcel_done *dones;
    struct zr_piece *pieces;
    uint8_t *bytes;
    uint64_t len, cap; /* of bytes */
};

static void parcel_done(void *ctx, zr_status status)
{
    struct parcel *p = ctx;
    for (uint32_t i = 0; i < p->n_dones; i++)
        p->dones[i].done(p->dones[i].ctx, status);
    free(p);
}

static uint32_t piece_must_be_read(const struct zk_port *port, const struct zr_piece *piece)
{
    return piece->fd >= 0 && !piece->ptr && !(port->table->caps & ZR_TRANSPORT_FILES);
}

static struct parcel *parcel_new(const struct zk_port *port, const struct zk_segment *segments, uint32_t first, const struct zr_piece *pieces)
{
    uint64_t n_dones = 0, n_pieces = 0, bytes = 0;
    for (uint32_t i = first; i; i = segments[i - 1].next) {
        const struct zk_segment *seg = &segments[i - 1];
        n_dones += seg->done ? 1 : 0;
        n_pieces += 1 + seg->n_pieces;
        bytes += seg->len;
        for (uint32_t k = 0; k < seg->n_pieces; k++)
            bytes += piece_must_be_read(port, &pieces[seg->first_piece + k]) ? pieces[seg->first_piece + k].len : 0;
    }
    uint64_t dones_at = sizeof(struct parcel), pieces_at = dones_at + n_dones * sizeof(struct parcel_done);
    uint64_t bytes_at = pieces_at + n_pieces * sizeof(struct zr_piece);
    char *mem = malloc(bytes_at + bytes);
    if (!mem)
        return NULL;
    struct parcel *p = (struct parcel *)mem;
    *p = (struct parcel){ 0, 0, (struct parcel_done *)(mem + dones_at), (struct zr_piece *)(mem + pieces_at), (uint8_t *)mem + bytes_at, 0, bytes };
    return p;
}

static void parcel_add_bytes(struct parcel *p, const uint8_t *from, uint64_t len)
{
    uint8_t *to = p->bytes + p->len;
    memcpy(to, from, len);
    p->len += len;
    struct zr_piece *last = p->n_pieces ? &p->pieces[p->n_pieces - 1] : NULL;
    if (last && last->ptr && last->fd < 0 && last->ptr + last->len == to)
        last->len += len;
    else
        p->pieces[p->n_pieces++] = (struct zr_piece){ to, len, 0, -1, 0 };
}

/* For a transport that cannot send from files. The bytes are those of messages just found, so most likely in the page cache. */
static zr_status parcel_read(struct parcel *p, const struct zr_piece *piece)
{
    const struct zr_io_v1 *io = zk_io();
    uint8_t *to = p->bytes + p->len;
    uint64_t got = 0;
    while (got < piece->len) {
        int64_t n = io->pread(io->ctx, piece->fd, to + got, piece->len - got, piece->off + (int64_t)got);
        if (n <= 0)
            return ZR_EIO;
        got += (uint64_t)n;
    }
    p->len += got;
    p->pieces[p->n_pieces++] = (struct zr_piece){ to, got, 0, -1, 0 };
    return ZR_OK;
}

static zr_status parcel_add_piece(struct parcel *p, const struct zk_port *port, const struct zr_piece *piece)
{
    if (piece_must_be_read(port, piece))
        return parcel_read(p, piece);
    struct zr_piece *to = &p->pieces[p->n_pieces++];
    *to = *piece;
    if (!(port->table->caps & ZR_TRANSPORT_FILES))
        to->fd = -1;
    return ZR_OK;
}

static void segments_fail(const struct zk_segment *segments, uint32_t first, zr_status status)
{
    for (uint32_t i = first; i; i = segments[i - 1].next)
        done_call(segments[i - 1].done, segments[i - 1].done_ctx, status);
}

/* One send of a chain that has pieces: everything moves into a parcel. The session ends when that cannot be done, since its
 * client would wait for answers that are lost. */
static zr_status send_parcel(struct zr_session *s, const struct zk_segment *segments, uint32_t first, const uint8_t *bytes, const struct zr_piece *pieces)
{
    struct parcel *p = parcel_new(s->port, segments, first, pieces);
    zr_status status = p ? ZR_OK : ZR_ENOMEM;
    for (uint32_t i = first; i && status == ZR_OK; i = segments[i - 1].next) {
        const struct zk_segment *seg = &segments[i - 1];
        parcel_add_bytes(p, bytes + seg->off, seg->len);
        for (uint32_t k = 0; k < seg->n_pieces && status == ZR_OK; k++)
            status = parcel_add_piece(p, s->port, &pieces[seg->first_piece + k]);
    }
    if (status != ZR_OK) {
        free(p);
        segments_fail(segments, first, status);
        zk_session_close(s);
        return status;
    }
    for (uint32_t i = first; i; i = segments[i - 1].next)
        if (segments[i - 1].done)
            p->dones[p->n_dones++] = (struct parcel_done){ segments[i - 1].done, segments[i - 1].done_ctx };
    struct zr_output out = { ZR_HDR(struct zr_output, 0) };
    out.pieces = p->pieces;
    out.n_pieces = p->n_pieces;
    out.done = parcel_done;
    out.done_ctx = p;
    /* p may be gone when send returns */
    uint64_t len = zk_pieces_len(p->pieces, p->n_pieces);
    return session_send(s, &out, len);
}

/* ---- gathering ------------------------------------------------------------------------------------------------------ */
static void flush_plain(struct zr_session *s, struct zk_lane_state *ls, uint32_t first)
{
    struct zr_piece pieces[ZK_SEND_PIECES];
    uint32_t n = 0;
    for (uint32_t i = first; i; i = ls->segments[i - 1].next) {
        pieces[n++] = (struct zr_piece){ ls->out.ptr + ls->segments[i - 1].off, ls->segments[i - 1].len, 0, -1, 0 };
        if (n == ZK_SEND_PIECES) {
            send_borrowed(s, pieces, n);
            n = 0;
        }
    }
    if (n)
        send_borrowed(s, pieces, n);
}

static void flush_session(struct zk_lane_state *ls, uint32_t first)
{
    struct zr_session *s = ls->segments[first - 1].session;
    uint32_t held = 0;
    for (uint32_t i = first; i; i = ls->segments[i - 1].next)
        held |= ls->segments[i - 1].done ? 1u : 0;
    s->out_first = s->out_last = 0;
    if (!zk_session_open(s))
        segments_fail(ls->segments, first, ZR_ECLOSED);
    else if (held)
        send_parcel(s, ls->segments, first, ls->out.ptr, ls->pieces);
    else
        flush_plain(s, ls, first);
}

void zk_lane_flush(struct zk_lane *lane)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    if (ls->n_segments == 0)
        return;
    struct zk_lane *now = zk_lane_now;
    zk_lane_now = NULL;
    for (uint32_t i = 1; i <= ls->n_segments; i++)
        if (ls->segments[i - 1].session->out_first == i)
            flush_session(ls, i);
    ls->n_segments = 0;
    ls->n_pieces = 0;
    buf_trim(&ls->out);
    zk_lane_now = now;
}

static void segment_add(struct zk_lane_state *ls, struct zr_session *s, uint32_t off, const struct zk_packet *p)
{
    uint32_t len = (uint32_t)(ls->out.len - off);
    struct zk_segment *last = s->out_last ? &ls->segments[s->out_last - 1] : NULL;
    if (last && s->out_last == ls->n_segments && !last->n_pieces && last->off + last->len == off) {
        last->len += len;
    } else {
        last = &ls->segments[ls->n_segments++];
        *last = (struct zk_segment){ s, NULL, NULL, off, len, 0, 0, 0, 0 };
        if (s->out_last)
            ls->segments[s->out_last - 1].next = ls->n_segments;
        else
            s->out_first = ls->n_segments;
        s->out_last = ls->n_segments;
    }
    if (!p->done)
        return;
    last->done = p->done;
    last->done_ctx = p->done_ctx;
    last->first_piece = ls->n_pieces;
    last->n_pieces = p->n_pieces;
    for (uint32_t i = 0; i < p->n_pieces; i++)
        ls->pieces[ls->n_pieces++] = p->pieces[i];
}

/* Makes room for one more command; ZR_EAGAIN: it cannot be gathered, send it at once (after a flush, to keep the order). */
static zr_status gather_room(struct zk_lane *lane, const struct zk_packet *p)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    uint32_t n_pieces = p->done ? p->n_pieces : 0;
    if (ls->n_segments == ZK_MAX_SEGMENTS || ls->out.len >= ZK_OUT_FLUSH || n_pieces > ZK_MAX_PIECES - ls->n_pieces)
        zk_lane_flush(lane);
    if (n_pieces && !ls->pieces)
        ls->pieces = malloc(ZK_MAX_PIECES * sizeof *ls->pieces);
    if (n_pieces > ZK_MAX_PIECES || (n_pieces && !ls->pieces)) {
        zk_lane_flush(lane);
        return ZR_EAGAIN;
    }
    return ZR_OK;
}

static uint32_t can_gather(struct zr_session *s, const struct zk_packet *p)
{
    return zk_lane_now && zk_lane_now == s->lane && gather_room(zk_lane_now, p) == ZR_OK;
}

/* Not through the lane: bytes hold the frame but for the pieces. */
static zr_status send_now(struct zr_session *s, const struct zk_packet *p)
{
    if (p->done) {
        struct zk_segment one = { s, p->done, p->done_ctx, 0, (uint32_t)p->len, 0, 0, p->n_pieces, 0 };
        return send_parcel(s, &one, 1, p->bytes, p->pieces);
    }
    struct zr_piece piece = { p->bytes, p->len, 0, -1, 0 };
    return send_borrowed(s, &piece, 1);
}

/* A command whose done is asked for but that has no pieces: its body is copied, so it is done as soon as it is encoded. */
static zr_status done_early(const struct zr_command *c, zr_status status)
{
    if (c->done && (!c->n_pieces || status != ZR_OK))
        c->done(c->done_ctx, status);
    return status;
}

zr_status zk_out_command(struct zr_session *s, const struct zr_command *command, uint32_t type, int32_t flag, int32_t opaque)
{
    if (!zk_session_open(s))
        return done_call(command->done, command->done_ctx, ZR_ECLOSED), ZR_ECLOSED;
    struct zk_packet p = { NULL, 0, command->pieces, command->n_pieces ? command->done : NULL, command->done_ctx, command->n_pieces, 0 };
    if (can_gather(s, &p)) {
        struct zk_lane_state *ls = zk_lane_state(s->lane);
        uint32_t off = (uint32_t)ls->out.len;
        zr_status status = command_encode(&ls->out, command, type, flag, opaque);
        if (status == ZR_OK)
            segment_add(ls, s, off, &p);
        return done_early(command, status);
    }
    struct zl_buf *buf = thread_buf_get();
    zr_status status = buf ? command_encode(buf, command, type, flag, opaque) : ZR_ENOMEM;
    if (done_early(command, status) != ZR_OK)
        return status;
    p.bytes = buf->ptr;
    p.len = buf->len;
    status = send_now(s, &p);
    if (thread_buf->cap > ZK_OUT_KEEP)
        buf_trim(thread_buf);
    return status;
}

zr_status zk_out_packet(struct zr_session *s, const struct zk_packet *packet)
{
    if (!zk_session_open(s))
        return done_call(packet->done, packet->done_ctx, ZR_ECLOSED), ZR_ECLOSED;
    if (!can_gather(s, packet))
        return send_now(s, packet);
    struct zk_lane_state *ls = zk_lane_state(s->lane);
    uint32_t off = (uint32_t)ls->out.len;
    zl_buf_add(&ls->out, packet->bytes, packet->len);
    if (ls->out.failed) {
        ls->out.failed = 0;
        done_call(packet->done, packet->done_ctx, ZR_ENOMEM);
        return ZR_ENOMEM;
    }
    segment_add(ls, s, off, packet);
    return ZR_OK;
}
