/* SPDX-License-Identifier: Apache-2.0 */
/* ends_test.c - words about half messages that have no slot. */
#include <criterion/criterion.h>

#include "../../../plugins/feature/transaction/ends.h"

Test(ends, one_word_at_a_time)
{
    static struct ends e;
    cr_expect(ends_state(&e, 7) == ENDS_NONE && ends_begin(&e, 7) && ends_state(&e, 7) == ENDS_RUNNING && e.n_running == 1);
    cr_expect(ends_begin(&e, 7) && e.n_running == 1 && e.n == 1);
    ends_finish(&e, 7, ENDS_NONE);
    cr_expect(ends_state(&e, 7) == ENDS_NONE && e.n_running == 0);
    cr_expect(ends_begin(&e, 7) && e.n == 1);
    ends_finish(&e, 7, ENDS_ROLLED_BACK);
    ends_finish(&e, 7, ENDS_COMMITTED); /* it does not run any more */
    cr_expect(ends_state(&e, 7) == ENDS_ROLLED_BACK && e.n_running == 0);
}

Test(ends, decided_ones_make_room_and_running_ones_do_not)
{
    static struct ends e;
    for (int64_t i = 0; i < ENDS_MAX; i++) cr_assert(ends_begin(&e, i));
    cr_expect(!ends_begin(&e, ENDS_MAX) && e.n == ENDS_MAX);
    ends_finish(&e, 200, ENDS_COMMITTED);
    ends_finish(&e, 3, ENDS_ROLLED_BACK);
    cr_expect(ends_begin(&e, ENDS_MAX) && ends_state(&e, 3) == ENDS_NONE && ends_state(&e, 200) == ENDS_COMMITTED, "the one that began first goes");
    cr_expect(ends_begin(&e, ENDS_MAX + 1) && !ends_begin(&e, ENDS_MAX + 2));
    ends_finish(&e, 5, ENDS_NONE);
    cr_expect(ends_begin(&e, ENDS_MAX + 2) && e.n_running == ENDS_MAX);
}
