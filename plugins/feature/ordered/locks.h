/* SPDX-License-Identifier: Apache-2.0 */
/* locks.h - the table of queue locks: (group, topic, broker, queue id) -> (client id, until when). */
#ifndef ORDERED_LOCKS_H
#define ORDERED_LOCKS_H
#include "zarya/abi.h"

struct lock_key { struct zr_str group, topic, broker; int32_t queue_id; uint32_t reserved; };
struct locks;

/* What it may take of memory for each lock it may hold: twice what one of usual names takes that are its own. */
#define LOCKS_BYTES_EACH 256u

/* lease_ms: a lock not renewed for longer is free. max: locks it may hold, in max * LOCKS_BYTES_EACH bytes. NULL when memory ran out. */
struct locks *locks_new(int64_t lease_ms, uint64_t max);
void locks_free(struct locks *locks);
void locks_set_lease(struct locks *locks, int64_t lease_ms);
/* 1: the client holds it now (free, its own, or expired before). itself: it is that client that asks, and no other in its name.
 * now_ms: any clock that does not step back. */
uint32_t locks_take(struct locks *locks, const struct lock_key *key, struct zr_str client, uint32_t itself, int64_t now_ms);
/* What locks and names take, without the table's slots. */
uint64_t locks_bytes(struct locks *locks);
/* Frees it if this client holds it. */
void locks_drop(struct locks *locks, const struct lock_key *key, struct zr_str client);
/* Lets all locks of a client in a group end client_lease_ms after their last renewal, if that is sooner (INT64_MAX: it is not).
 * Returns how many it has. */
uint64_t locks_shorten(struct locks *locks, struct zr_str group, struct zr_str client, int64_t client_lease_ms);
/* Frees all locks of a client in a group that it last renewed at that time or before; returns how many. */
uint64_t locks_end(struct locks *locks, struct zr_str group, struct zr_str client, int64_t renewed_until_ms);
/* 1: some client holds a lock of this group. */
uint32_t locks_held(struct locks *locks, struct zr_str group, int64_t now_ms);
/* 1: this client does, and asked for it itself. */
uint32_t locks_held_by(struct locks *locks, struct zr_str group, struct zr_str client, int64_t now_ms);
/* Calls each for the locks that are held, of one group (len 0: of all), under the table's lock; non-zero ends it. */
void locks_each(struct locks *locks, struct zr_str group, int64_t now_ms,
                int32_t (*each)(void *ctx, const struct lock_key *key, struct zr_str client, int64_t until_ms), void *ctx);
/* Removes expired locks; returns how many are left. */
uint64_t locks_sweep(struct locks *locks, int64_t now_ms);
#endif
