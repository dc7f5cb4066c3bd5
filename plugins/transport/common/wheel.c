/* SPDX-License-Identifier: Apache-2.0 */
/* wheel.c - see wheel.h. What stays true: every node in the wheel is in a slot that is looked at between tick + 1 and
 * tick + TR_WHEEL_SLOTS - 1, so a round that begins at any tick meets it; `used` has a bit for each slot that is not empty. */
#include <stddef.h>
#include <string.h>
#include "wheel.h"

void tr_wheel_init(struct tr_wheel *wheel, int64_t now_ns)
{
    memset(wheel, 0, sizeof *wheel);
    wheel->tick = now_ns / TR_WHEEL_TICK_NS;
}

void tr_wheel_put(struct tr_wheel *wheel, struct tr_wheel_node *node, int64_t deadline_ns)
{
    int64_t tick = deadline_ns / TR_WHEEL_TICK_NS + 1;
    if (tick <= wheel->tick) {
        tick = wheel->tick + 1;
    } else if (tick >= wheel->tick + (int64_t)TR_WHEEL_SLOTS) {
        tick = wheel->tick + (int64_t)TR_WHEEL_SLOTS - 1;
    }
    uint32_t slot = (uint32_t)(tick % (int64_t)TR_WHEEL_SLOTS);
    node->slot = slot + 1;
    node->prev = NULL;
    node->next = wheel->slots[slot];
    if (node->next) {
        node->next->prev = node;
    }
    wheel->slots[slot] = node;
    wheel->used[slot / 64u] |= 1ull << (slot % 64u);
}

void tr_wheel_take(struct tr_wheel *wheel, struct tr_wheel_node *node)
{
    if (node->slot == 0) {
        return;
    }
    uint32_t slot = node->slot - 1;
    if (node->prev) {
        node->prev->next = node->next;
    } else {
        wheel->slots[slot] = node->next;
    }
    if (node->next) {
        node->next->prev = node->prev;
    }
    if (!wheel->slots[slot]) {
        wheel->used[slot / 64u] &= ~(1ull << (slot % 64u));
    }
    node->prev = node->next = NULL;
    node->slot = 0;
}

struct tr_wheel_node *tr_wheel_due(struct tr_wheel *wheel, int64_t now_ns)
{
    int64_t target = now_ns / TR_WHEEL_TICK_NS;
    if (target - wheel->tick > (int64_t)TR_WHEEL_SLOTS) {
        wheel->tick = target - (int64_t)TR_WHEEL_SLOTS; /* one round meets every slot */
    }
    for (;; wheel->tick++) {
        struct tr_wheel_node *node = wheel->slots[wheel->tick % (int64_t)TR_WHEEL_SLOTS];
        if (node) {
            tr_wheel_take(wheel, node);
            return node;
        }
        if (wheel->tick >= target) {
            return NULL;
        }
    }
}

int64_t tr_wheel_next_ns(const struct tr_wheel *wheel)
{
    for (uint32_t i = 0; i < TR_WHEEL_SLOTS; i++) {
        uint32_t slot = (uint32_t)((wheel->tick + i) % (int64_t)TR_WHEEL_SLOTS);
        if (slot % 64u == 0 && i + 64u <= TR_WHEEL_SLOTS && !wheel->used[slot / 64u]) {
            i += 63u;
        } else if (wheel->used[slot / 64u] >> (slot % 64u) & 1u) {
            return (wheel->tick + i) * TR_WHEEL_TICK_NS;
        }
    }
    return INT64_MAX;
}
