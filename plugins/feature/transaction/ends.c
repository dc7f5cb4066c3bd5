/* SPDX-License-Identifier: Apache-2.0 */
/* ends.c - see ends.h. Such words are rare: the list is read from end to end. */
#include "ends.h"

static uint32_t place_of(const struct ends *e, int64_t first)
{
    uint32_t i = 0;
    while (i < e->n && (e->all[i].first != first || e->all[i].state == ENDS_NONE)) i++;
    return i;
}

uint32_t ends_state(const struct ends *e, int64_t first)
{
    uint32_t i = place_of(e, first);
    return i < e->n ? e->all[i].state : ENDS_NONE;
}

/* An empty one, or the oldest that is decided. ENDS_MAX: all run. */
static uint32_t place_new(struct ends *e)
{
    uint32_t best = ENDS_MAX;
    for (uint32_t i = 0; i < e->n; i++) {
        if (e->all[i].state == ENDS_NONE) return i;
        if (e->all[i].state != ENDS_RUNNING && (best == ENDS_MAX || e->all[i].at < e->all[best].at)) best = i;
    }
    return e->n < ENDS_MAX ? e->n++ : best;
}

uint32_t ends_begin(struct ends *e, int64_t first)
{
    uint32_t i = place_of(e, first);
    if (i == e->n) i = place_new(e);
    if (i == ENDS_MAX) return 0;
    if (i < e->n && e->all[i].first == first && e->all[i].state == ENDS_RUNNING) return 1;
    e->all[i].first = first;
    e->all[i].at = e->clock++;
    e->all[i].state = ENDS_RUNNING;
    e->n_running++;
    return 1;
}

void ends_finish(struct ends *e, int64_t first, uint32_t state)
{
    uint32_t i = e->n_running ? place_of(e, first) : e->n;
    if (i == e->n || e->all[i].state != ENDS_RUNNING) return;
    e->all[i].state = state;
    e->n_running--;
}
