/* SPDX-License-Identifier: Apache-2.0 */
/* model.h - which file systems a crash may leave behind, given a trace.
 *
 * The walk goes along the trace and keeps, for every file and every name, what is durable and what is pending. A state is made
 * from a plan, which says of the pending things which ones reached the disk:
 *   - of a file: its size, and each sector (512 B) or page (4 KiB) of it, is as it was at some moment since its last sync, each at
 *     its own (writes are lost, torn and reordered);
 *   - of the names: each pending creation, renaming or removal happened or not; but of two that concern one name the later only
 *     after the earlier, and nothing is in a folder that is not there.
 * A kill makes nothing durable: a trace that begins after one goes on with what was pending (walk_killed).
 * A truncation that is not durable yet keeps later writes behind it away from the disk, as file systems do. */
#ifndef MODEL_H
#define MODEL_H
#include "simfs.h"

enum pick { PICK_NONE, PICK_ALL, PICK_CHANCE, PICK_UNTIL, PICK_ONE_LOST, PICK_ONE_KEPT, PICK_LAST_TORN, PICK_N };
struct plan {
    enum pick names, data, sizes;
    uint32_t grain; /* 512 or 4096 */
    uint32_t until, one;
    uint64_t seed;
};

struct mfile {
    uint8_t *data;  /* durable */
    uint64_t size, cap;
    uint32_t *pending; /* events */
    uint32_t n, cap_pending;
    uint32_t is_dir;
    uint64_t ino;
};
/* Syncs that are taken for not done: a defect on purpose. */
struct mutation {
    const char *name, *what;
    const char *path;    /* part of it; NULL: none of this kind is dropped */
    const char *beside;  /* and not this part, if not NULL */
    uint32_t file_syncs, dir_syncs;
    const char *work;    /* workloads that show it soonest */
    uint32_t restart;    /* 1: only after a start, and until a new name is made there */
    uint32_t slow;       /* 1: few states show it */
};
struct walk {
    const struct sim_event *events;
    uint32_t at, n;
    struct mfile *files;
    uint32_t n_files, cap_files;
    struct sim_name *names; /* durable */
    uint32_t n_names, cap_names;
    uint32_t *pending;      /* events that concern names */
    uint32_t n_pending, cap_pending;
    const struct mutation *mutation;
    int64_t wall_ms;
    uint32_t boot; /* of the machine while it was recorded */
    uint32_t restart; /* the place of a start after a kill: what was pending there still is; 0: it began on what is durable */
};

/* base: the durable file system that the trace began on (its inodes' numbers are those of the trace). */
void walk_begin(struct walk *w, struct sim *base, const struct sim_event *events, uint32_t n, const struct mutation *mutation);
/* The file system that a kill at this place leaves, with the inodes' numbers of the trace; the walk may go on from here. */
struct sim *walk_killed(struct walk *w);
void walk_to(struct walk *w, uint32_t event); /* everything before it has happened */
void walk_end(struct walk *w);
struct plan plan_make(const struct walk *w, uint64_t seed);
const char *plan_text(const struct plan *p);
uint32_t plan_is_kill(const struct plan *p); /* the process died, the machine did not */
struct sim *walk_state(const struct walk *w, const struct plan *p);
uint64_t mix64(uint64_t x);
#endif
