/* SPDX-License-Identifier: Apache-2.0 */
/* world.h - a whole kernel around kernel/broker, with a transport, a storage, a registry and a filter in memory.
 *
 * Core and remoting are the real ones, and the broker is asked by frames, as clients do it. The test is the thread of both lanes:
 * world_pump runs what was woken. Timers and the worker pool have threads of their own; waits are on a condition with a generous
 * limit, never on time passed. */
#ifndef WORLD_H
#define WORLD_H
#include <criterion/criterion.h>
#include "broker/internal.h"

#define LANES 2u

/* ---- storage ---- */
struct store_options {
    uint32_t sync;         /* visible follows flushed; flushed moves with store_flush */
    uint32_t again;        /* so many reads with ZR_READ_NOWAIT answer ZR_EAGAIN */
    uint32_t cold;         /* nothing is resident */
    zr_status append_says; /* not ZR_OK: every put gets this */
    uint32_t watch;        /* on_lane counts bounds and resident asked by the thread `lane` */
    pthread_t lane;
    uint32_t on_lane;
};
extern struct store_options store;
extern const struct zr_storage_v1 store_table;
void store_reset(void);
void store_flush(void);  /* all that is written: visible, and announced */
uint32_t store_count(const char *topic, int32_t queue_id);
uint32_t store_appends(void);
uint32_t store_pins(void); /* not given back */
uint32_t store_wanted(void);
uint32_t store_infos(void); /* how often it was asked how it is */
/* Properties of the last message of a queue. */
struct zr_str store_last_props(const char *topic, int32_t queue_id);
void store_last(const char *topic, int32_t queue_id, struct zl_record *ret);

/* ---- registry, filter, hooks ---- */
extern uint32_t registry_holds;       /* on_done is kept for registry_answer */
extern uint32_t registry_changes, registry_removals, registry_topics; /* the last: names in all changes */
extern char registry_last[256];
void registry_answer(void);
extern uint32_t filter_compiles, filter_asked; /* the second: one message, one filter */
extern int32_t filter_live; /* programs */
extern uint64_t filter_takes;
extern uint32_t filter_judged;
extern void (*world_hook)(const struct zr_event *event, struct zr_verdict *verdict); /* of all points but REQUEST */
extern uint32_t world_hook_points;    /* bit mask of (1 << point) for points below 32, 1 << 0 for ZR_POINT_STOPPING */

/* ---- the world ---- */
extern char world_dir[64];
void world_start(void);                                    /* with the settings' defaults */
void world_start_with(void (*tweak)(struct zb_settings *)); /* before open */
zr_status world_try_start(void (*tweak)(struct zb_settings *));
void world_stop(void);
void world_keep(void);            /* the next world_stop leaves the data directory, the next start uses it */
void world_plugin(const char *id); /* an instance of that id is there (has nothing) */
void world_pump(void);
void world_file(const char *name, const char *text); /* under the data directory; before start */
char *world_read_file(const char *name);             /* malloc'ed; NULL: not there */

/* ---- clients ---- */
struct client;
struct answer {
    int32_t code;
    struct zl_header h;
    uint8_t *frame; /* owns what h points to */
    char scratch[8192];
};
struct client *client_open(uint32_t lane);
void client_close(struct client *c);
uint32_t client_is_closed(struct client *c);
/* Puts a request into the lane's turn; fields: name, value, ..., NULL. Returns its opaque. */
int32_t client_put(struct client *c, int32_t code, int32_t flag, const char *const *fields, const char *body, uint64_t body_len);
void client_turn(struct client *c); /* ends the lane's turn */
/* The answer to opaque, if it is there. */
uint32_t client_take(struct client *c, int32_t opaque, struct answer *ret);
void client_wait(struct client *c, int32_t opaque, struct answer *ret);
/* put, turn, wait. */
int32_t client_ask(struct client *c, int32_t code, const char *const *fields, const char *body, struct answer *ret);
uint32_t client_told(struct client *c, int32_t code); /* requests of that code from the server so far */
uint32_t client_answers(struct client *c);            /* answers so far */
void answer_free(struct answer *a);
struct zr_str answer_field(const struct answer *a, const char *name);
int64_t answer_i64(const struct answer *a, const char *name);
uint32_t answer_records(const struct answer *a); /* how many records the body holds; checked */

#define FIELDS(...) ((const char *const[]){ __VA_ARGS__, NULL })
/* A send of 310; queue as text. */
int32_t send_to(struct client *c, const char *topic, const char *queue, const char *props, const char *body, struct answer *ret);
int32_t pull_from(struct client *c, const char *group, const char *topic, const char *queue, const char *offset, const char *flag, struct answer *ret);
int32_t pull_put(struct client *c, const char *group, const char *topic, const char *queue, const char *offset, const char *flag, const char *suspend);
/* A heartbeat of one consumer group with one subscription (besides the retry topic). */
int32_t beat(struct client *c, const char *id, const char *group, const char *topic, const char *expression, struct answer *ret);
#endif
