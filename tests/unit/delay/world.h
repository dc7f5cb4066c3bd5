/* SPDX-License-Identifier: Apache-2.0 */
/* world.h - a broker around feature-delay: a log in memory, a wall clock that the test sets, files in a folder of their own. */
#ifndef DELAY_WORLD_H
#define DELAY_WORLD_H
#include <stdint.h>

#include "zarya/hooks.h"
#include "zarya/plugin.h"
#include "zarya/requests.h"

void world_open(void);
void world_close(void);
/* (Re)starts the plugin. clean 0: what was before is dropped as by a kill (its last save did not happen). */
void world_start(const char *levels, int64_t max_delay_s);
void world_precision(int64_t ms); /* of starts from now on; world_open sets 1000 */
void world_stop(void);
void world_kill(void);
void world_set_clock(int64_t ms); /* wall clock, and tells */
int64_t world_now(void);
/* Sends a message through the hook; its verdict's code (0: stored). */
int32_t world_send(const char *topic, const char *uniq, const char *properties);
int32_t world_answer(int32_t code, const char *topic, const char *handle); /* of a request; body in world_body */
extern char world_body[65536];
extern uint64_t world_body_len;
/* Messages in topic, and of those the ones with that unique key. */
uint32_t world_count(const char *topic, const char *uniq);
int64_t world_stored_ms(const char *topic, const char *uniq);
uint32_t world_wait(const char *topic, uint32_t n); /* until topic has n; 0: not in half a minute */
void world_wait_idle(void);                          /* until everything in the timer topic was noted */
void world_damage(const char *name, int64_t at, uint32_t len);
void world_remove(const char *name);
void world_cannot_publish(uint32_t times); /* the next appends fail */
void world_cannot_read(const char *topic, zr_status status, uint32_t times); /* the next reads of its records ("": of any) */
void world_bad(const char *topic, const char *uniq); /* every read of that record fails with ZR_EIO; NULL: of none any more */
uint32_t world_bad_reads(void);            /* how many did */
uint32_t world_unread(void);               /* how many of these are still to come */
void world_cannot_open(uint32_t times);    /* the next opens of files fail */
void world_keep_documents(void);            /* what the plugin writes into config/ is there at its next start, killed or not */
void world_fire(void);                     /* runs the timers that are set: those of levels, and of saving */
void world_recall(uint32_t enabled);       /* `recall` of the running plugin */
int64_t world_pending(void);
uint64_t world_memory(void); /* of the engine: the heap, slots, and the touched part of the wheel */
#endif
