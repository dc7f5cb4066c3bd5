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
};
extern const struct work works[];
extern const uint32_t n_works;
#endif
