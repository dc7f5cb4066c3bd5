/* SPDX-License-Identifier: Apache-2.0 */
/* counts.h - how many transactions are open, by topic: config/transactionMetrics. At most COUNTS_MAX topics; those of further ones
 * are not told apart (number 0). LOCKING: the owner's. */
#ifndef TX_COUNTS_H
#define TX_COUNTS_H
#include <stdint.h>

#include "zl/buf.h"

#define COUNTS_MAX 4096u
struct count { char *topic; int64_t open, changed_ms; };
struct counts {
    struct count *all; /* [0] has no name */
    uint32_t n, cap;
    uint32_t changed, reserved;
    int64_t version; /* the document's */
};
/* The topic's number; 0: there are too many, or memory ran out. */
uint16_t counts_topic(struct counts *c, struct zr_str topic);
void counts_add(struct counts *c, uint16_t topic, int64_t delta, int64_t now_ms);
void counts_free(struct counts *c);
/* Apache's document. */
void counts_print(const struct counts *c, int64_t now_ms, struct zl_buf *out);
#endif
