/* SPDX-License-Identifier: Apache-2.0 */
/* queue.h - output of one connection that the other side has not yet taken. Borrowed memory is copied into chunks that later
 * small units fill up; held memory and files are only pointed at, until done. Not thread-safe: its connection has a lock. */
#ifndef TRANSPORT_QUEUE_H
#define TRANSPORT_QUEUE_H
#include "zarya/transport.h"

#define TR_MAX_PIECES (1u << 20)     /* of one unit */
#define TR_FILE_MIN (16u << 10)      /* file pieces from this size are taken from the file, smaller ones from memory if they can */

/* Where writing stands in an array of pieces: byte off of piece at. */
struct tr_cursor { const struct zr_piece *pieces; uint64_t off; uint32_t at, n; };

struct tr_unit {
    struct tr_unit *next;
    void (*done)(void *ctx, zr_status status);
    void *done_ctx;
    uint64_t off, mem;       /* mem: bytes in memory not yet written, for the limits */
    uint64_t room;           /* of a copied unit: bytes of `copy` in all */
    uint32_t at, n;
    uint8_t *copy;           /* NULL: held by done */
    struct zr_piece pieces[];
};
struct tr_queue { struct tr_unit *head, *tail; uint64_t bytes, mem; };

static inline uint32_t tr_piece_is_file(const struct zr_piece *p) { return p->fd >= 0 && p->len >= TR_FILE_MIN; }
uint32_t tr_output_is_valid(const struct zr_output *out);
void tr_cursor_advance(struct tr_cursor *c, uint64_t written); /* also over empty pieces; 0 is allowed */
/* Adds what the cursor has not passed. ZR_ENOMEM: nothing was added. */
zr_status tr_queue_add(struct tr_queue *q, const struct zr_output *out, const struct tr_cursor *rest);
struct tr_cursor tr_queue_cursor(const struct tr_queue *q);    /* at the head; the queue is not empty */
/* Up to the cursor, which came from tr_queue_cursor, the head is written. A whole unit goes to the list's end at *finished. */
void tr_queue_written(struct tr_queue *q, const struct tr_cursor *c, struct tr_unit ***finished);
/* Takes all units out. */
struct tr_unit *tr_queue_clear(struct tr_queue *q);
void tr_units_finish(struct tr_unit *units, zr_status status); /* calls done, frees; no lock held */
/* len bytes of a file piece. 0, or -errno; -EIO when the file is shorter than was promised. */
int tr_piece_read(const struct zr_piece *p, uint64_t off, uint8_t *to, uint64_t len);
#endif
