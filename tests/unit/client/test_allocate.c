/* SPDX-License-Identifier: Apache-2.0 */
/* The division of queues: every client must come to the one that Java's AllocateMessageQueueAveragely makes. */
#include "zc/client.h"
#include <criterion/criterion.h>

static void share(uint32_t index, uint32_t clients, uint32_t n, uint32_t first, uint32_t count)
{
    uint32_t f = 99, c = 99;
    zc_allocate_averagely(index, clients, n, &f, &c);
    cr_expect_eq(c, count, "client %u of %u in %u queues: count %u, not %u", index, clients, n, c, count);
    if (count) cr_expect_eq(f, first, "client %u of %u in %u queues: first %u, not %u", index, clients, n, f, first);
}

Test(allocate, as_java)
{
    share(0, 1, 4, 0, 4);
    share(0, 2, 4, 0, 2);
    share(1, 2, 4, 2, 2);
    share(0, 3, 8, 0, 3); /* 3 3 2 */
    share(1, 3, 8, 3, 3);
    share(2, 3, 8, 6, 2);
    share(0, 4, 3, 0, 1); /* more clients than queues: the last has none */
    share(2, 4, 3, 2, 1);
    share(3, 4, 3, 0, 0);
    share(0, 2, 0, 0, 0);
    share(2, 2, 4, 0, 0); /* not one of them */
    share(0, 0, 4, 0, 0);
}

Test(allocate, every_queue_once)
{
    for (uint32_t clients = 1; clients <= 20; clients++)
        for (uint32_t n = 0; n <= 50; n++) {
            uint32_t next = 0, least = UINT32_MAX, most = 0;
            for (uint32_t i = 0; i < clients; i++) {
                uint32_t first, count;
                zc_allocate_averagely(i, clients, n, &first, &count);
                if (count) cr_assert_eq(first, next, "%u clients, %u queues: a gap before client %u", clients, n, i);
                next += count;
                if (count < least) least = count;
                if (count > most) most = count;
            }
            cr_assert_eq(next, n);
            cr_assert_leq(most - least, 1);
        }
}
