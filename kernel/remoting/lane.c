/* SPDX-License-Identifier: Apache-2.0 */
/* lane.c - the sink: what transports call, one call at a time for each lane.
 *
 * A turn begins with the first data after a turn_end and ends with the next one. What stays true within a turn:
 *   1. Frames, and the text unescaped from their headers (the lane's arena), stay where they are until its end. So a handler of
 *      the kernel may keep views into a request until events.turn_end; the array of fields itself is reused for the next frame.
 *   2. A session of the lane whose connection closes within a turn is kept until its end.
 *   3. At its end: events.turn_end (the broker's batch is appended and answered), one send for each session, then references
 *      and the arena go.
 * A turn that decodes more header text than ZK_TURN_HEADERS is ended early, between two frames.
 *
 * LOCKING. None here: the transport serialises the calls of a lane. See session.c for the list of sessions. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "remoting/internal.h"

struct zk_lane *zk_lane_new(struct zk_port *port, uint32_t index, uint32_t id)
{
    struct zk_lane *lane = calloc(1, sizeof *lane);
    struct zk_lane_state *ls = calloc(1, sizeof *ls);
    struct zk_segment *segments = malloc(ZK_MAX_SEGMENTS * sizeof *segments);
    if (!lane || !ls || !segments) {
        free(lane);
        free(ls);
        free(segments);
        return NULL;
    }
    lane->transport = port->instance;
    lane->index = index;
    lane->id = id;
    lane->remoting = ls;
    zk_arena_init(&lane->arena, ZK_ARENA_CHUNK, ZK_ARENA_MAX);
    ls->port = port;
    ls->segments = segments;
    zl_buf_init(&ls->out, ZK_OUT_MAX);
    pthread_mutex_init(&ls->lock, NULL);
    return lane;
}

void zk_lane_free(struct zk_lane *lane)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    zk_arena_free(&lane->arena);
    zl_buf_free(&ls->out);
    free(ls->segments);
    free(ls->pieces);
    pthread_mutex_destroy(&ls->lock);
    free(ls);
    free(lane);
}

static void lane_reset(struct zk_lane *lane)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    zk_arena_reset(&lane->arena);
    ls->scratch = NULL;
    ls->scratch_left = 0;
    ls->header_bytes = 0;
}

static void lane_count(struct zk_lane_state *ls)
{
    if (ls->n_requests)
        zk_metric_add(zk_rem.metrics.requests, (int64_t)ls->n_requests);
    if (ls->bytes_in)
        zk_metric_add(zk_rem.metrics.bytes_in, (int64_t)ls->bytes_in);
    ls->n_requests = 0;
    ls->bytes_in = 0;
}

void zk_lane_settle(struct zk_lane *lane)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    if (zk_rem.events.turn_end && !ls->stopped)
        zk_rem.events.turn_end(lane);
    zk_lane_flush(lane);
    zk_lane_bury(lane);
    lane_count(ls);
    lane_reset(lane);
}

/* ---- malformed input ----------------------------------------------------------------------------------------------- */
static struct zk_rate malformed_rate;

static zr_status malformed(struct zr_session *s, const char *why)
{
    uint32_t missed;
    zk_metric_add(zk_rem.metrics.malformed, 1);
    if (zk_rate_pass(&malformed_rate, &missed))
        zk_log(ZR_LOG_WARN, "remoting: connection of %.*s closed: %s%s", (int)s->name_len, s->name, why, missed ? " (others like it were not logged)" : "");
    return ZR_EINVAL;
}

static const char *frame_fault(struct zr_span rest)
{
    if (rest.len >= 4 && zl_load32(rest.ptr) <= ZL_FRAME_MAX - 4 && zl_load32(rest.ptr) > zk_rem.limits.frame - 4)
        return "its frame is larger than the node's max_frame";
    if (rest.len >= 4 && zl_load32(rest.ptr) > ZL_FRAME_MAX - 4)
        return "the first word is no frame length up to 16 MiB (is this another protocol?)";
    return "the header is longer than its frame, or of an unknown type";
}

/* ---- data ---------------------------------------------------------------------------------------------------------- */
static void request_fill(struct zr_request *req, struct zr_session *s, const struct zl_header *h, int64_t now_ns)
{
    *req = (struct zr_request){ ZR_HDR(struct zr_request, 0) };
    req->session = s;
    req->fields = h->fields;
    req->n_fields = h->n_fields;
    req->remark = h->remark;
    req->body = h->body;
    req->arrived_ns = now_ns;
    req->code = h->code;
    req->opaque = h->opaque;
    req->version = h->version;
    req->language = h->language;
    req->serves = s->serves;
    req->flags = ((h->flag & ZL_FLAG_ONEWAY) ? ZR_REQUEST_ONEWAY : 0) | (h->type == ZL_TYPE_JSON ? ZR_REQUEST_JSON : 0);
}

/* Room for the unescaped text of one header. It comes from a block of the arena, of which scratch_keep takes only what was used,
 * so that a burst of headers stays in the nearest cache. */
static char *scratch_get(struct zk_lane *lane, uint64_t len)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    if (ls->header_bytes + len > ZK_TURN_HEADERS && ls->header_bytes)
        zk_lane_settle(lane);
    ls->header_bytes += len;
    if (len > ls->scratch_left || !ls->scratch) {
        uint64_t block = len > ZK_SCRATCH_BLOCK ? len : ZK_SCRATCH_BLOCK;
        ls->scratch = zk_arena_alloc(&lane->arena, block);
        ls->scratch_left = ls->scratch ? block : 0;
    }
    return ls->scratch;
}

static void scratch_keep_str(const struct zk_lane_state *ls, struct zr_str s, uint64_t *used)
{
    uint64_t off = (uint64_t)((uintptr_t)s.ptr - (uintptr_t)ls->scratch);
    if (s.len && off < ls->scratch_left && off + s.len > *used)
        *used = off + s.len;
}

static void scratch_keep(struct zk_lane_state *ls)
{
    uint64_t used = 0;
    scratch_keep_str(ls, ls->header.remark, &used);
    for (uint32_t i = 0; i < ls->header.n_fields; i++) {
        scratch_keep_str(ls, ls->header.fields[i].name, &used);
        scratch_keep_str(ls, ls->header.fields[i].value, &used);
    }
    ls->scratch += used;
    ls->scratch_left -= used;
}

/* Framing is not lost: the request alone is refused. */
static zr_status too_many_fields(struct zr_session *s, const struct zl_header *h)
{
    char text[80];
    int len = snprintf(text, sizeof text, "the request has more ext fields than the %u that are read", ZL_MAX_FIELDS);
    struct zr_command c = { ZR_HDR(struct zr_command, 0), .code = 1, .remark = { text, (uint64_t)len } };
    zk_metric_add(zk_rem.metrics.malformed, 1);
    if (!(h->flag & ZL_FLAG_ONEWAY))
        (void)zk_out_command(s, &c, h->type, ZL_FLAG_RESPONSE, h->opaque);
    return ZR_OK;
}

static zr_status take_frame(struct zk_lane *lane, struct zr_session *s, struct zr_span frame, int64_t now_ns)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    uint64_t header_len = zl_load32(frame.ptr + 4) & 0xffffffu;
    char *scratch = scratch_get(lane, header_len);
    if (!scratch)
        return malformed(s, "no memory for its header");
    const char *why = "malformed header";
    zr_status status = zl_header_decode(frame, &ls->header, scratch, header_len, &why);
    if (status == ZR_EFULL && !(ls->header.flag & ZL_FLAG_RESPONSE))
        return too_many_fields(s, &ls->header);
    if (status != ZR_OK)
        return malformed(s, why);
    scratch_keep(ls);
    struct zr_request req;
    request_fill(&req, s, &ls->header, now_ns);
    if (ls->header.flag & ZL_FLAG_RESPONSE)
        zk_ask_answered(s, &req);
    else
        zk_dispatch(s, &req);
    return ZR_OK;
}

static zr_status take_frames(struct zk_lane *lane, struct zr_session *s, struct zr_span rest, uint64_t *ret_consumed, uint64_t *ret_need)
{
    int64_t now_ns = zk_mono_ns();
    *ret_consumed = 0;
    *ret_need = 0;
    while (rest.len) {
        struct zr_span frame = { NULL, 0 };
        if (rest.len >= 4 && zl_load32(rest.ptr) > zk_rem.limits.frame - 4)
            return malformed(s, frame_fault(rest));
        zr_status status = zl_frame_cut(rest, &frame, ret_need);
        if (status == ZR_EAGAIN)
            return ZR_OK;
        if (status != ZR_OK)
            return malformed(s, frame_fault(rest));
        if (frame.len < 8 || frame.len > rest.len)
            return malformed(s, "a frame without a header");
        status = take_frame(lane, s, frame, now_ns);
        if (status != ZR_OK)
            return status;
        rest.ptr += frame.len;
        rest.len -= frame.len;
        *ret_consumed += frame.len;
    }
    *ret_need = 8;
    return ZR_OK;
}

static zr_status on_data(void *ctx, struct zr_session *s, struct zr_span bytes, uint64_t *ret_consumed, uint64_t *ret_need)
{
    struct zk_port *port = ctx;
    struct zk_lane_state *ls = zk_lane_state(s->lane);
    if (ls->stopped) {
        *ret_consumed = bytes.len;
        *ret_need = 8;
        return ZR_ECLOSED;
    }
    ls->in_turn = 1;
    zk_lane_now = s->lane;
    zr_status status = take_frames(s->lane, s, bytes, ret_consumed, ret_need);
    zk_lane_now = NULL;
    ls->bytes_in += *ret_consumed;
    if (status == ZR_OK && (port->table->caps & ZR_TRANSPORT_MESSAGE) && *ret_consumed != bytes.len)
        return malformed(s, "a message that is not whole frames");
    return status;
}

static void on_turn_end(void *ctx, uint32_t index)
{
    struct zk_port *port = ctx;
    struct zk_lane *lane = port->lanes[index];
    zk_lane_now = lane;
    zk_lane_settle(lane);
    zk_lane_now = NULL;
    zk_lane_state(lane)->in_turn = 0;
}

/* ---- wake ---------------------------------------------------------------------------------------------------------- */
static void ready_give(struct zk_lane *lane)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    while (ls->ready) {
        struct zr_session *s = ls->ready;
        ls->ready = s->turn_next;
        s->turn_next = NULL;
        s->flags &= ~ZK_SESSION_READY;
        zk_peer_ready(s);
    }
}

static void lane_confirm_stop(struct zk_lane_state *ls)
{
    pthread_mutex_lock(&zk_rem.lock);
    ls->stopped = 1;
    zk_rem.n_stopped++;
    pthread_cond_broadcast(&zk_rem.changed);
    pthread_mutex_unlock(&zk_rem.lock);
}

static void on_woken(void *ctx, uint32_t index)
{
    struct zk_port *port = ctx;
    struct zk_lane *lane = port->lanes[index];
    struct zk_lane_state *ls = zk_lane_state(lane);
    if (ls->stopped)
        return;
    zk_lane_now = lane;
    ready_give(lane);
    if (zk_rem.events.woken)
        zk_rem.events.woken(lane);
    zk_lane_flush(lane);
    zk_lane_now = NULL;
    if (!ls->in_turn)
        lane_reset(lane);
    if (atomic_load_explicit(&zk_rem.quitting, memory_order_acquire))
        lane_confirm_stop(ls);
}

void zk_lane_wake(struct zk_lane *lane)
{
    struct zk_port *port = zk_lane_state(lane)->port;
    port->table->wake(port->inst, lane->index);
}

/* ---- connections --------------------------------------------------------------------------------------------------- */
static void ready_remove(struct zk_lane_state *ls, struct zr_session *s)
{
    struct zr_session **at = &ls->ready;
    while (*at && *at != s)
        at = &(*at)->turn_next;
    if (*at)
        *at = s->turn_next;
    s->turn_next = NULL;
    s->flags &= ~ZK_SESSION_READY;
}

/* The calls that wait for this connection are sent from woken: until opened has returned, the transport does not know the session. */
static zr_status open_outbound(struct zk_lane *lane, struct zr_conn *conn, const struct zr_conn_info *info, struct zr_session **ret)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    struct zk_peer *peer = info->dial_ctx;
    zr_status status = zk_peer_wants(peer);
    if (status == ZR_OK)
        status = zk_session_new(lane, conn, info, zk_rem.outbound, 0, ret);
    if (status != ZR_OK) {
        zk_peer_dial_failed(peer, status, (struct zr_str)ZR_STR("the connection is not wanted any more"));
        return status;
    }
    struct zr_session *s = *ret;
    s->peer = peer;
    s->flags |= ZK_SESSION_READY;
    s->turn_next = ls->ready;
    ls->ready = s;
    zk_lane_wake(lane);
    return ZR_OK;
}

static zr_status on_opened(void *ctx, struct zr_conn *conn, const struct zr_conn_info *info, struct zr_session **ret_session)
{
    struct zk_port *port = ctx;
    if (info->lane >= port->n_lanes)
        return ZR_EINVAL;
    struct zk_lane *lane = port->lanes[info->lane];
    if (info->flags & ZR_CONN_OUTBOUND)
        return open_outbound(lane, conn, info, ret_session);
    if (zk_stopping())
        return ZR_ECLOSED;
    if (info->listener >= port->n_listeners)
        return ZR_EINVAL;
    return zk_session_new(lane, conn, info, port->tables[info->listener], port->serves[info->listener], ret_session);
}

static void on_closed(void *ctx, struct zr_session *s, zr_status why)
{
    static struct zk_rate slow_rate;
    uint32_t missed;
    (void)ctx;
    if (s->flags & ZK_SESSION_READY)
        ready_remove(zk_lane_state(s->lane), s);
    if (why == ZR_EFULL && zk_rate_pass(&slow_rate, &missed))
        zk_log(ZR_LOG_WARN, "remoting: connection of %.*s closed: a limit was reached (answers that it did not take, or input that the transport has no room for)", (int)s->name_len, s->name);
    s->left = why == ZR_ECLOSED && !atomic_load(&s->closing);
    zk_session_end(s);
}

static void on_dial_failed(void *ctx, void *dial_ctx, zr_status why, struct zr_str text)
{
    (void)ctx;
    zk_peer_dial_failed(dial_ctx, why, text);
}

void zk_sink_make(struct zr_sink_v1 *ret, struct zk_port *port)
{
    *ret = (struct zr_sink_v1){ ZR_HDR(struct zr_sink_v1, 0), port, on_opened, on_data, on_turn_end, on_woken, on_closed, on_dial_failed };
}
