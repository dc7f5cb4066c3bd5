/* SPDX-License-Identifier: Apache-2.0 */
/* queue.c - see queue.h. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "queue.h"

#define CHUNK (16u << 10) /* least room of a copied unit */

uint32_t tr_output_is_valid(const struct zr_output *out)
{
    if (out->n_pieces > TR_MAX_PIECES) {
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

void tr_cursor_advance(struct tr_cursor *c, uint64_t written)
{
    while (c->at < c->n && c->off + written >= c->pieces[c->at].len) {
        written -= c->pieces[c->at].len - c->off;
        c->off = 0;
        c->at++;
    }
    c->off += written;
}

/* Bytes behind the cursor, and those of them that are in memory. */
static uint64_t left_of(const struct tr_cursor *c, uint64_t *ret_mem)
{
    uint64_t all = 0;
    *ret_mem = 0;
    for (uint32_t i = c->at; i < c->n; i++) {
        uint64_t len = c->pieces[i].len - (i == c->at ? c->off : 0);
        all += len;
        *ret_mem += tr_piece_is_file(&c->pieces[i]) ? 0 : len;
    }
    return all;
}

static void push(struct tr_queue *q, struct tr_unit *unit)
{
    if (q->tail) {
        q->tail->next = unit;
    } else {
        q->head = unit;
    }
    q->tail = unit;
}

static zr_status add_held(struct tr_queue *q, const struct zr_output *out, const struct tr_cursor *c)
{
    uint32_t n = c->n - c->at;
    struct tr_unit *unit = malloc(sizeof *unit + n * sizeof unit->pieces[0]);
    if (!unit) {
        return ZR_ENOMEM;
    }
    *unit = (struct tr_unit){ .done = out->done, .done_ctx = out->done_ctx, .off = c->off, .n = n };
    memcpy(unit->pieces, c->pieces + c->at, n * sizeof unit->pieces[0]);
    q->bytes += left_of(c, &unit->mem);
    q->mem += unit->mem;
    push(q, unit);
    return ZR_OK;
}

static struct tr_unit *new_chunk(uint64_t bytes)
{
    uint64_t room = bytes < CHUNK ? CHUNK : bytes;
    struct tr_unit *unit = malloc(sizeof *unit + sizeof unit->pieces[0] + room);
    if (unit) {
        *unit = (struct tr_unit){ .n = 1, .room = room };
        unit->copy = (uint8_t *)&unit->pieces[1];
        unit->pieces[0] = (struct zr_piece){ .ptr = unit->copy, .fd = -1 };
    }
    return unit;
}

static zr_status add_copy(struct tr_queue *q, const struct tr_cursor *c)
{
    uint64_t mem, bytes = left_of(c, &mem);
    struct tr_unit *unit = q->tail;
    if (!unit || !unit->copy || unit->room - unit->pieces[0].len < bytes) {
        if (!(unit = new_chunk(bytes))) {
            return ZR_ENOMEM;
        }
        push(q, unit);
    }
    for (uint32_t i = c->at; i < c->n; i++) {
        uint64_t off = i == c->at ? c->off : 0, len = c->pieces[i].len - off;
        if (len) {
            memcpy(unit->copy + unit->pieces[0].len, c->pieces[i].ptr + off, len);
            unit->pieces[0].len += len;
        }
    }
    unit->mem += bytes;
    q->bytes += bytes;
    q->mem += bytes;
    return ZR_OK;
}

zr_status tr_queue_add(struct tr_queue *q, const struct zr_output *out, const struct tr_cursor *rest)
{
    return out->done ? add_held(q, out, rest) : add_copy(q, rest);
}

struct tr_cursor tr_queue_cursor(const struct tr_queue *q)
{
    return (struct tr_cursor){ q->head->pieces, q->head->off, q->head->at, q->head->n };
}

void tr_queue_written(struct tr_queue *q, const struct tr_cursor *c, struct tr_unit ***finished)
{
    struct tr_unit *unit = q->head;
    struct tr_cursor before = tr_queue_cursor(q);
    uint64_t mem_before, mem, bytes = left_of(&before, &mem_before) - left_of(c, &mem);
    q->bytes -= bytes;
    q->mem -= mem_before - mem;
    unit->mem = mem;
    unit->off = c->off;
    unit->at = c->at;
    if (c->at < c->n) {
        return;
    }
    q->head = unit->next;
    q->tail = q->head ? q->tail : NULL;
    unit->next = NULL;
    **finished = unit;
    *finished = &unit->next;
}

struct tr_unit *tr_queue_clear(struct tr_queue *q)
{
    struct tr_unit *units = q->head;
    *q = (struct tr_queue){ NULL, NULL, 0, 0 };
    return units;
}

void tr_units_finish(struct tr_unit *units, zr_status status)
{
    for (struct tr_unit *unit = units, *next; unit; unit = next) {
        next = unit->next;
        if (unit->done) {
            unit->done(unit->done_ctx, status);
        }
        free(unit);
    }
}

int tr_piece_read(const struct zr_piece *p, uint64_t off, uint8_t *to, uint64_t len)
{
    for (uint64_t got = 0; got < len;) {
        ssize_t n = pread(p->fd, to + got, len - got, (off_t)(p->off + (int64_t)(off + got)));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n == 0 ? -EIO : -errno;
        }
        got += (uint64_t)n;
    }
    return 0;
}
