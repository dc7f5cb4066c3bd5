/* SPDX-License-Identifier: Apache-2.0 */
/* The table of open transactions, against a plain model of it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>

#include "../../../plugins/feature/transaction/table.h"

Test(table, base_stops_at_what_is_open)
{
    struct tx_table t;
    cr_assert(tx_init(&t, 10, 64, 100));
    for (int64_t o = 10; o < 20; o++) cr_assert(tx_enter(&t, o) && tx_insert(&t, o, o, o * 100, o));
    for (int64_t o = 10; o < 20; o++)
        if (o != 13) tx_settle(&t, o);
    cr_expect(tx_advance(&t) == 13);
    tx_settle(&t, 13);
    cr_expect(tx_advance(&t) == 20 && tx_is_settled(&t, 5) && !tx_is_settled(&t, 20));
    tx_free(&t);
}

Test(table, window_and_limit)
{
    struct tx_table t;
    cr_assert(tx_init(&t, 0, 64, 3));
    cr_expect(tx_enter(&t, 63) && !tx_enter(&t, 64));
    for (int64_t o = 0; o < 40; o++) tx_settle(&t, o);
    tx_decide(&t, 3, 1);
    tx_decide(&t, 4, 0);
    cr_expect(tx_is_rolled_back(&t, 3) && tx_is_decided(&t, 4) && !tx_is_rolled_back(&t, 4) && !tx_is_rolled_back(&t, 5));
    cr_expect(tx_advance(&t) == 40 && tx_is_decided(&t, 3) && tx_enter(&t, 64) && tx_enter(&t, 103) && !tx_enter(&t, 104));
    cr_expect(!tx_is_decided(&t, 3) && !tx_is_settled(&t, 64) && !tx_is_settled(&t, 67)); /* 3 and 67 share a bit */
    for (int64_t o = 0; o < 3; o++) cr_expect(tx_insert(&t, o, o, 0, 0));
    cr_expect(!tx_insert(&t, 3, 3, 0, 0), "max_open");
    cr_expect(!tx_insert(&t, 2, 9, 0, 0), "one of that name");
    tx_remove(&t, tx_find(&t, 1));
    cr_expect(tx_insert(&t, 3, 3, 0, 0) && !tx_find(&t, 1));
    tx_restart(&t, 1000, 128);
    cr_expect(t.window >= 128 && t.base == 1000 && !tx_is_decided(&t, 1000));
    tx_free(&t);
}

Test(table, offsets_at_the_end_of_numbers)
{
    struct tx_table t;
    cr_assert(tx_init(&t, 0, 64, 3));
    tx_settle(&t, INT64_MAX);
    tx_settle(&t, -1);
    tx_decide(&t, INT64_MIN, 1);
    tx_decide(&t, INT64_MAX, 0);
    cr_expect(!tx_enter(&t, INT64_MAX) && !tx_is_decided(&t, INT64_MAX) && !tx_is_settled(&t, INT64_MAX) && !tx_find(&t, -5) && tx_advance(&t) == 0);
    tx_free(&t);
}

#define MODEL 4000

struct model { int64_t due; uint32_t open; };

static void compare(const struct tx_table *t, const struct model *m, int64_t n)
{
    int64_t least = INT64_MAX;
    uint32_t open = 0;
    for (int64_t i = 0; i < n; i++) {
        const struct tx_slot *s = tx_find(t, i);
        cr_assert(!s == !m[i].open, "offset %lld", (long long)i);
        if (!s) continue;
        cr_assert(s->due_ms == m[i].due && s->first == i && t->heap[s->heap_at] == (uint32_t)(s - t->slots));
        if (s->due_ms < least) least = s->due_ms;
        open++;
    }
    cr_assert(t->n == open && (!open || tx_top(t)->due_ms == least));
}

Test(table, any_order_of_inserts_moves_and_removes)
{
    struct tx_table t;
    static struct model m[MODEL];
    uint64_t x = 88172645463325252ull;
    cr_assert(tx_init(&t, 0, MODEL, MODEL));
    for (int64_t i = 0; i < MODEL; i++) {
        x ^= x << 13, x ^= x >> 7, x ^= x << 17;
        int64_t other = (int64_t)(x >> 20) % (i + 1), due = (int64_t)(x >> 40) % 1000;
        m[i] = (struct model){ due, 1 };
        cr_assert(tx_insert(&t, i, i, i, due));
        if (x % 3 == 0 && m[other].open) {
            tx_remove(&t, tx_find(&t, other));
            m[other].open = 0;
        } else if (x % 3 == 1 && m[other].open) {
            m[other].due = (int64_t)(x >> 10) % 1000;
            tx_due(&t, tx_find(&t, other), m[other].due);
        }
        if (i % 97 == 0) compare(&t, m, i + 1);
    }
    compare(&t, m, MODEL);
    int64_t last = -1;
    while (tx_top(&t)) {
        cr_assert(tx_top(&t)->due_ms >= last);
        last = tx_top(&t)->due_ms;
        tx_remove(&t, tx_top(&t));
    }
    tx_free(&t);
}

Test(table, ten_thousand_open)
{
    struct tx_table t;
    cr_assert(tx_init(&t, 0, 1 << 20, 1000000));
    uint64_t empty = tx_memory(&t);
    for (int64_t i = 0; i < 10000; i++) cr_assert(tx_enter(&t, i) && tx_insert(&t, i, i, i, i));
    cr_log_info("ten thousand open: %llu bytes", (unsigned long long)(tx_memory(&t) - empty));
    cr_expect(tx_memory(&t) - empty <= 10000ull * 128);
    tx_free(&t);
}
