/* SPDX-License-Identifier: Apache-2.0 */
/* aside.c - messages of delay levels that cannot be read for long: their level goes on without them.
 *
 * What stays true:
 *   1. One that was put aside lies before its level's cursor, and is tried once a minute until it was stored in its topic, can never
 *      be, or retention took it.
 *   2. config/delayOffset.json names them beside the offsets ("unread"); of those that it named at a start each is looked up
 *      before it leaves. Apache knows no such word and passes over what it cannot read.
 *   3. There are at most ASIDE_MAX; beyond that a level waits, as it does at first.
 *
 * LOCKING: zr_inst.lock guards the list. */
#include "delay.h"

#define AGAIN_MS 60000

static int64_t mono_ms(struct zr_inst *inst) { return inst->timer->mono_ns(inst->host) / 1000000; }

/* With the lock. NULL: it is not there. */
static struct aside *aside_find(struct zr_inst *inst, uint32_t level, int64_t offset)
{
    for (uint32_t i = 0; i < inst->n_aside; i++)
        if (inst->aside[i].level == level && inst->aside[i].offset == offset) return &inst->aside[i];
    return NULL;
}

uint32_t aside_put(struct level *l, int64_t offset, int64_t physical, zr_status status)
{
    struct zr_inst *inst = l->inst;
    int64_t now = mono_ms(inst);
    pthread_mutex_lock(&inst->lock);
    uint32_t room = inst->n_aside < ASIDE_MAX;
    if (room) {
        inst->aside[inst->n_aside++] = (struct aside){ .offset = offset, .again_ms = now + AGAIN_MS, .level = l->number };
        inst->aside_changes++;
    }
    pthread_mutex_unlock(&inst->lock);
    if (room)
        say(inst, ZR_LOG_ERROR, "message %lld of delay level %u, at %lld, cannot be read (status %d): it is tried again each minute until it can, or until retention takes it; all others go on",
            (long long)offset, l->number, (long long)physical, status);
    return room;
}

void aside_load(struct level *l, int64_t offset)
{
    struct zr_inst *inst = l->inst;
    if (inst->n_aside == ASIDE_MAX || aside_find(inst, l->number, offset)) return;
    inst->aside[inst->n_aside++] = (struct aside){ .offset = offset, .again_ms = 0, .level = l->number };
}

int64_t aside_due(struct level *l)
{
    struct zr_inst *inst = l->inst;
    int64_t now = mono_ms(inst), offset = -1;
    pthread_mutex_lock(&inst->lock);
    for (uint32_t i = 0; i < inst->n_aside && offset < 0; i++) {
        if (inst->aside[i].level != l->number || inst->aside[i].again_ms > now) continue;
        inst->aside[i].again_ms = now + AGAIN_MS;
        offset = inst->aside[i].offset;
    }
    pthread_mutex_unlock(&inst->lock);
    return offset;
}

void aside_end(struct level *l, int64_t offset)
{
    struct zr_inst *inst = l->inst;
    pthread_mutex_lock(&inst->lock);
    struct aside *a = aside_find(inst, l->number, offset);
    if (a) {
        *a = inst->aside[--inst->n_aside];
        inst->aside_changes++;
    }
    pthread_mutex_unlock(&inst->lock);
}

int64_t aside_next_ms(const struct level *l, int64_t ms)
{
    const struct zr_inst *inst = l->inst;
    int64_t now = inst->n_aside ? inst->timer->mono_ns(inst->host) / 1000000 : 0;
    for (uint32_t i = 0; i < inst->n_aside; i++) {
        int64_t wait = inst->aside[i].again_ms > now ? inst->aside[i].again_ms - now : 0;
        if (inst->aside[i].level == l->number && (ms < 0 || wait < ms)) ms = wait;
    }
    return ms;
}

uint32_t aside_has(const struct level *l)
{
    for (uint32_t i = 0; i < l->inst->n_aside; i++)
        if (l->inst->aside[i].level == l->number) return 1;
    return 0;
}
