/* SPDX-License-Identifier: Apache-2.0 */
/* ops.h - the texts of the op queue, and which of its messages are still needed.
 *
 * An op message says which half messages need no attention any more: their offsets in decimal. Apache 4 wrote one a message, "123";
 * Apache 5 writes several, "123,124,130,". Both are read; the second is written, with a property OP_ROLLED of our own: which of the
 * transactions in it were rolled back, by their first offsets. */
#ifndef TX_OPS_H
#define TX_OPS_H
#include <stdint.h>

#include "zarya/abi.h"

/* The next offset in an op message's body; *pos begins at 0. 0 at the end. What is no offset is skipped. */
#define OP_ROLLED "ROLLED_BACK"
uint32_t op_next(struct zr_span body, uint64_t *pos, int64_t *ret);

/* Op messages in the order of their offsets, each with the highest half offset in it: those in front whose half messages are all
 * before the half queue's consumer offset need not be read again. When there are too many, neighbours become one. */
#define OP_MARKS 4096u
struct op_mark { int64_t end, highest; }; /* end: behind its last message */
struct op_marks {
    struct op_mark marks[OP_MARKS];
    uint32_t first, n;
    int64_t begin; /* the op queue's consumer offset */
};
void op_marks_add(struct op_marks *m, int64_t offset, int64_t highest);
/* All half offsets below half_base are settled; returns the op queue's consumer offset. */
int64_t op_marks_pass(struct op_marks *m, int64_t half_base);
#endif
