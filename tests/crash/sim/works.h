/* SPDX-License-Identifier: Apache-2.0 */
/* works.h - the workloads. One with a base begins on states that crashes of the base's workload left (its own store is not open
 * yet); the others begin with an open store in an empty folder. */
#ifndef WORKS_H
#define WORKS_H
#include "bed.h"

struct work {
    const char *name;
    void (*run)(struct bed *b);
    uint32_t sync;
    const char *base;
    uint32_t faults; /* 1: not for crashes, it changes files behind the store's back */
    uint32_t packs;  /* 1: begins with storage-zstd, packing */
    uint32_t killed; /* 1: the base ended by a kill, and what it had not made durable is not so yet */
    uint32_t memory; /* 1: its allocations fail, too */
};
extern const struct work works[];
extern const uint32_t n_works;

/* For all of them. */
void some(struct bed *b, const char *topic, int32_t queues, uint32_t n, uint32_t size);
void reopen(struct bed *b, enum engine engine);
void write_file(struct sim *s, const char *path, const uint8_t *bytes, uint64_t len, int64_t off); /* somebody else's writing */
void recovery(struct bed *b);

/* works_rare.c: what a store meets seldom. */
void rare_documents(struct bed *b);
void rare_folders(struct bed *b);
void rare_other_size(struct bed *b);
void rare_long_segments(struct bed *b);
void rare_torn_entries(struct bed *b);
void rare_torn_extents(struct bed *b);
void rare_without_keys(struct bed *b);
void rare_batch_files(struct bed *b);
void rare_crowd_of_extents(struct bed *b);
void rare_long_reading(struct bed *b);
void rare_long_abort(struct bed *b);
void rare_twins(struct bed *b);
void rare_segment_races(struct bed *b);
void rare_queue_race(struct bed *b);
void rare_memory(struct bed *b);
#endif
