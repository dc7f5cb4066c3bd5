/* SPDX-License-Identifier: Apache-2.0 */
/* bcq.h - queues of topics with queue.type=BatchCQ: see bcq.c. */
#ifndef ZS_BCQ_H
#define ZS_BCQ_H
#include "zs_int.h"

#define ZS_BATCH_MAX 32767u     /* messages in one inner batch */
#define ZS_BATCH_TOPICS 65536u  /* topics of this kind */

/* Finds the topics there are. Before queues are made. */
zr_status zs_bcq_load(struct zr_inst *st);
void zs_bcq_free(struct zr_inst *st);
/* Is this a topic of that kind? Under table_lock. */
uint32_t zs_bcq_is(struct zr_inst *st, struct zr_str topic);
uint32_t zs_bcq_any(struct zr_inst *st);
/* The topic is of that kind from now on; its queues too, unless they have messages. No lock is held. */
zr_status zs_bcq_mark(struct zr_inst *st, struct zr_str topic);
/* Brings RocketMQ's files up to what is persisted. Takes drain_lock for each write. 0 or -errno. */
int64_t zs_bcq_export(struct zr_inst *st);
/* The topic was removed. Under drain_lock. */
void zs_bcq_remove(struct zr_inst *st, struct zr_str topic);
/* The folder that a queue's 20-byte entries are kept below; and that of all such queues. */
const char *zs_queue_root(struct zr_inst *st, const struct zr_queue *q, char *buf);
uint32_t zs_bcq_own_root(struct zr_inst *st, char *to);
#endif
