/* SPDX-License-Identifier: Apache-2.0 */
/* wheel.h - deadlines of connections: a wheel of slots of a tenth of a second. Putting and taking cost the same whatever the
 * number of connections, and nothing is done when one of them is active: whoever is found due looks at when it was active
 * last and puts itself back. Not thread-safe. */
#ifndef TRANSPORT_WHEEL_H
#define TRANSPORT_WHEEL_H
#include <stdint.h>

#define TR_WHEEL_SLOTS 2048u
#define TR_WHEEL_TICK_NS 100000000ll
struct tr_wheel_node { struct tr_wheel_node *prev, *next; uint32_t slot, reserved; }; /* slot 0: in no wheel, else its number + 1 */
struct tr_wheel {
    struct tr_wheel_node *slots[TR_WHEEL_SLOTS];
    uint64_t used[TR_WHEEL_SLOTS / 64u];
    int64_t tick; /* the last one looked at */
};
void tr_wheel_init(struct tr_wheel *wheel, int64_t now_ns);
/* Due at about deadline_ns; or sooner, when that is further away than a round. */
void tr_wheel_put(struct tr_wheel *wheel, struct tr_wheel_node *node, int64_t deadline_ns);
void tr_wheel_take(struct tr_wheel *wheel, struct tr_wheel_node *node);
/* Takes out the next one that is due; NULL when there is none left. It may be put back at once. */
struct tr_wheel_node *tr_wheel_due(struct tr_wheel *wheel, int64_t now_ns);
int64_t tr_wheel_next_ns(const struct tr_wheel *wheel); /* when to look again, or INT64_MAX */
#endif
