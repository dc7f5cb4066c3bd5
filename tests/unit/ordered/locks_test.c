/* SPDX-License-Identifier: Apache-2.0 */
/* The table of queue locks: what it takes of memory, and that it gives all of it back. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>
#include "../../../plugins/feature/ordered/locks.h"
#include "zl/text.h"

#define QUEUES 8000

static char long_name[255];

static uint32_t take(struct locks *l, const char *topic, int32_t queue, struct zr_str client, int64_t now)
{
    struct lock_key key = { zl_str("G"), zl_str(topic), zl_str("b"), queue, 0 };
    return locks_take(l, &key, client, 1, now);
}

Test(ordered_locks, names_are_stored_once)
{
    struct locks *l = locks_new(60000, 1000000);
    memset(long_name, 'n', sizeof long_name);
    struct zr_str name = { long_name, sizeof long_name };
    struct lock_key key = { name, name, name, 0, 0 };
    for (; key.queue_id < QUEUES; key.queue_id++) cr_assert(locks_take(l, &key, name, 0, 1));
    cr_expect(locks_bytes(l) < QUEUES * 100, "%llu bytes", (unsigned long long)locks_bytes(l));
    cr_expect(locks_held(l, name, 1));
    for (key.queue_id = 0; key.queue_id < QUEUES; key.queue_id += 2) locks_drop(l, &key, name);
    cr_expect(locks_sweep(l, 60001) == QUEUES / 2);
    cr_expect(locks_sweep(l, 60002) == 0);
    cr_expect(locks_bytes(l) == 0, "%llu bytes are left", (unsigned long long)locks_bytes(l));
    locks_free(l);
}

Test(ordered_locks, a_lock_that_changes_hands_keeps_one_name)
{
    struct locks *l = locks_new(10, 100);
    cr_assert(take(l, "T", 0, zl_str("a"), 0) && !take(l, "T", 0, zl_str("c"), 10));
    uint64_t bytes = locks_bytes(l);
    cr_expect(take(l, "T", 0, zl_str("c"), 11) && locks_bytes(l) == bytes);
    cr_expect(locks_end(l, zl_str("G"), zl_str("a"), INT64_MAX) == 0 && locks_end(l, zl_str("G"), zl_str("c"), INT64_MAX) == 1);
    cr_expect(locks_bytes(l) == 0);
    locks_free(l);
}

Test(ordered_locks, bytes_are_bounded_as_locks_are)
{
    struct locks *l = locks_new(60000, 1000);
    char topic[256];
    int32_t got = 0;
    memset(topic, 't', 255);
    for (int32_t i = 0; i < 1000; i++) {
        snprintf(topic + 240, sizeof topic - 240, "%015d", i);
        got += (int32_t)take(l, topic, 0, zl_str("a"), 1);
    }
    cr_expect(got > 500 && got < 1000 && locks_bytes(l) <= 1000 * LOCKS_BYTES_EACH + 1000, "%d", got);
    cr_expect(take(l, "t", 0, zl_str("a"), 1) == 0);
    for (int32_t i = 0; i < got; i++) { /* those that are held are renewed all the same */
        snprintf(topic + 240, sizeof topic - 240, "%015d", i);
        cr_expect(take(l, topic, 0, zl_str("a"), 2));
    }
    cr_expect(locks_sweep(l, INT64_MAX) == 0 && locks_bytes(l) == 0 && take(l, "t", 0, zl_str("a"), 1) == 1);
    locks_free(l);
}

Test(ordered_locks, no_more_than_max)
{
    struct locks *l = locks_new(60000, 3);
    for (int32_t i = 0; i < 3; i++) cr_expect(take(l, "T", i, zl_str("a"), 1));
    cr_expect(!take(l, "T", 3, zl_str("a"), 1) && take(l, "T", 2, zl_str("a"), 2));
    locks_free(l);
}

Test(ordered_locks, who_asked_itself_is_known_for_as_long_as_it_holds_one)
{
    struct locks *l = locks_new(10, 100);
    struct lock_key key = { zl_str("G"), zl_str("T"), zl_str("b"), 0, 0 };
    cr_expect(locks_take(l, &key, zl_str("a"), 0, 0) && locks_held(l, zl_str("G"), 5) && !locks_held_by(l, zl_str("G"), zl_str("a"), 5));
    cr_expect(locks_take(l, &key, zl_str("a"), 1, 1) && locks_held_by(l, zl_str("G"), zl_str("a"), 11) && !locks_held_by(l, zl_str("G"), zl_str("c"), 11));
    cr_expect(!locks_held_by(l, zl_str("G"), zl_str("a"), 12) && !locks_held_by(l, zl_str("H"), zl_str("a"), 5));
    for (int32_t i = 0; i < 50; i++) { /* those that are over are not kept */
        char client[16];
        snprintf(client, sizeof client, "c%d", i);
        cr_expect(locks_take(l, &key, zl_str(client), 1, 100 + 20 * i) == 1);
    }
    cr_expect(locks_bytes(l) < 1000, "%llu bytes", (unsigned long long)locks_bytes(l));
    cr_expect(locks_end(l, zl_str("G"), zl_str("c49"), INT64_MAX) == 1 && locks_bytes(l) == 0 && !locks_held_by(l, zl_str("G"), zl_str("c49"), 1081));
    locks_free(l);
}
