/* SPDX-License-Identifier: Apache-2.0 */
/* zl/topics.h - which topics are the broker's own. One list for all who take a topic's name from a client: the send path, replies,
 * and what leaves a delay or a transaction for the topic that it names. */
#ifndef ZL_TOPICS_H
#define ZL_TOPICS_H
#include <stdint.h>

#include "zarya/abi.h"

/* 1: nobody's message goes there but the broker's: Apache's list, and the queue of timed messages, whose records are trusted. */
uint32_t zl_topic_unsendable(struct zr_str name);
#endif
