/* SPDX-License-Identifier: Apache-2.0 */
/* echo.c - see echo.h. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "echo.h"
#include "zl/text.h"

#define FILE_BYTES (1u << 20)

static void enter(struct echo *e, uint32_t lane)
{
    if (atomic_exchange(&e->lanes[lane].inside, 1u)) {
        atomic_fetch_add(&e->broken, 1u); /* two calls of one lane at a time */
    }
}

static void leave(struct echo *e, uint32_t lane)
{
    atomic_store(&e->lanes[lane].inside, 0u);
}

static void note_info(struct echo *e, const struct zr_conn_info *info)
{
    pthread_mutex_lock(&e->lock);
    snprintf(e->peer_name, sizeof e->peer_name, "%.*s", (int)info->peer_name.len, info->peer_name.ptr);
    e->peer = info->peer;
    e->attributes[0] = '\0';
    for (uint32_t i = 0; i < info->n_attributes; i++) {
        size_t at = strlen(e->attributes);
        const struct zr_field *f = &info->attributes[i];
        snprintf(e->attributes + at, sizeof e->attributes - at, "%.*s=%.*s;", (int)f->name.len, f->name.ptr, (int)f->value.len, f->value.ptr);
    }
    pthread_mutex_unlock(&e->lock);
}

static zr_status on_opened(void *ctx, struct zr_conn *conn, const struct zr_conn_info *info, struct zr_session **ret)
{
    struct echo *e = ctx;
    enter(e, info->lane);
    struct zr_session *s = calloc(1, sizeof *s);
    *s = (struct zr_session){ .echo = e, .conn = conn, .lane = info->lane, .outbound = info->flags & ZR_CONN_OUTBOUND };
    note_info(e, info);
    pthread_mutex_lock(&e->lock);
    s->next = e->all;
    e->all = s;
    pthread_mutex_unlock(&e->lock);
    if (s->outbound) {
        e->dial_ctx = info->dial_ctx;
        atomic_store(&e->outbound, s);
    }
    e->lanes[info->lane].opened++;
    atomic_fetch_add(&e->opened, 1u);
    *ret = s;
    leave(e, info->lane);
    return ZR_OK;
}

static uint64_t sum_of(const uint8_t *p, uint64_t n)
{
    uint64_t sum = n;
    for (uint64_t i = 0; i < n; i += n > 4096 ? 997 : 1) {
        sum = sum * 31 + p[i];
    }
    return sum;
}

static zr_status on_data(void *ctx, struct zr_session *s, struct zr_span bytes, uint64_t *ret_consumed, uint64_t *ret_need)
{
    struct echo *e = ctx;
    struct echo_lane *lane = &e->lanes[s->lane];
    uint64_t at = 0;
    enter(e, s->lane);
    if (atomic_load(&s->closed)) {
        atomic_fetch_add(&e->broken, 1u);
    }
    zr_status status = ZR_OK;
    *ret_need = 0;
    while (bytes.len - at >= 4) {
        uint64_t len = 4ull + zl_load32(bytes.ptr + at);
        if (len > 16u << 20) {
            status = ZR_ECORRUPT;
            break;
        }
        if (bytes.len - at < len) {
            *ret_need = len;
            break;
        }
        if (lane->n < ECHO_FRAMES) {
            lane->frames[lane->n++] = (struct echo_frame){ s, bytes.ptr + at, len, sum_of(bytes.ptr + at, len) };
        } else {
            atomic_fetch_add(&e->broken, 1u);
        }
        at += len;
        if (e->lazy) {
            break;
        }
    }
    *ret_consumed = at;
    leave(e, s->lane);
    return status;
}

static void held_done(void *ctx, zr_status status)
{
    struct echo *e = ctx;
    (void)status;
    atomic_fetch_add(&e->dones, 1u);
}

static void answer(struct echo *e, const struct echo_frame *f)
{
    struct mini *m = e->m;
    uint8_t head[4];
    char what = f->len > 4 ? (char)f->ptr[4] : 'e';
    struct zr_piece pieces[3] = { { .ptr = head, .len = 4, .fd = -1 }, { .fd = -1 } };
    struct zr_output out = { ZR_HDR(struct zr_output, 0), pieces, NULL, NULL, 2, 0 };
    if (what == 'n') {
        return;
    }
    if (what == 'x') {
        m->t->close(m->inst, f->session->conn, 1);
        return;
    }
    if (what && strchr("bhfp", what) && f->len >= 13) {
        uint64_t size = zl_load32(f->ptr + 5), off = zl_load32(f->ptr + 9);
        uint32_t file = what == 'f' || what == 'p';
        zl_store32(head, (uint32_t)size);
        pieces[1] = (struct zr_piece){ .ptr = what == 'f' ? NULL : e->big + off, .len = size, .off = (int64_t)off, .fd = file ? e->file : -1 };
        if (what != 'b') { /* the head goes in front by itself: held memory must outlive this call */
            struct zr_output only_head = { ZR_HDR(struct zr_output, 0), pieces, NULL, NULL, 1, 0 };
            (void)m->t->send(m->inst, f->session->conn, &only_head);
            out.pieces = pieces + 1;
            out.n_pieces = 1;
            out.done = held_done;
            out.done_ctx = e;
            atomic_fetch_add(&e->sends_held, 1u);
        }
    } else {
        pieces[0] = (struct zr_piece){ .ptr = f->ptr, .len = f->len, .fd = -1 };
        out.n_pieces = 1;
    }
    (void)m->t->send(m->inst, f->session->conn, &out);
}

static void on_turn_end(void *ctx, uint32_t index)
{
    struct echo *e = ctx;
    struct echo_lane *lane = &e->lanes[index];
    enter(e, index);
    atomic_fetch_add(&e->turns, 1u);
    for (uint32_t i = 0; i < lane->n; i++) {
        if (sum_of(lane->frames[i].ptr, lane->frames[i].len) != lane->frames[i].sum) {
            atomic_fetch_add(&e->broken, 1u); /* moved or overwritten before turn_end */
        }
        answer(e, &lane->frames[i]);
    }
    lane->n = 0;
    leave(e, index);
}

static void on_woken(void *ctx, uint32_t index)
{
    struct echo *e = ctx;
    enter(e, index);
    atomic_fetch_add(&e->woken, 1u);
    leave(e, index);
}

static void on_closed(void *ctx, struct zr_session *s, zr_status why)
{
    struct echo *e = ctx;
    enter(e, s->lane);
    if (atomic_exchange(&s->closed, 1u)) {
        atomic_fetch_add(&e->broken, 1u);
    }
    atomic_store(&e->last_why, why);
    if (!e->keep) {
        e->m->t->release(e->m->inst, s->conn);
    }
    atomic_fetch_add(&e->closed, 1u);
    leave(e, s->lane);
}

static void on_dial_failed(void *ctx, void *dial_ctx, zr_status why, struct zr_str text)
{
    struct echo *e = ctx;
    e->dial_ctx = dial_ctx;
    snprintf(e->dial_text, sizeof e->dial_text, "%.*s", (int)text.len, text.ptr);
    atomic_store(&e->dial_why, why);
    atomic_fetch_add(&e->dials_failed, 1u);
}

void echo_init(struct echo *e, struct mini *m)
{
    memset(e, 0, sizeof *e);
    e->m = m;
    pthread_mutex_init(&e->lock, NULL);
    e->sink = (struct zr_sink_v1){ ZR_HDR(struct zr_sink_v1, 0), e, on_opened, on_data, on_turn_end, on_woken, on_closed, on_dial_failed };
    for (uint32_t i = 0; i < ECHO_LANES; i++) {
        e->lanes[i].frames = malloc(ECHO_FRAMES * sizeof e->lanes[i].frames[0]);
    }
    e->big = malloc(ECHO_BIG);
    for (uint64_t i = 0; i < ECHO_BIG; i++) {
        e->big[i] = echo_byte(i);
    }
    e->file = memfd_create("echo", MFD_CLOEXEC);
    if (write(e->file, e->big, FILE_BYTES) != (ssize_t)FILE_BYTES) {
        abort();
    }
}

void echo_free(struct echo *e)
{
    for (struct zr_session *s = e->all, *next; s; s = next) {
        next = s->next;
        free(s);
    }
    for (uint32_t i = 0; i < ECHO_LANES; i++) {
        free(e->lanes[i].frames);
    }
    free(e->big);
    close(e->file);
    pthread_mutex_destroy(&e->lock);
}
