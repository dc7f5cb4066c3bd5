/* SPDX-License-Identifier: Apache-2.0 */
/* Texts of the op queue in both forms, and how far it may be let go of. */
#include <criterion/criterion.h>
#include <string.h>

#include "../../../plugins/feature/transaction/ops.h"
#include "zl/text.h"

static uint32_t all(const char *text, int64_t *ret)
{
    struct zr_span body = { (const uint8_t *)text, strlen(text) };
    uint64_t pos = 0;
    uint32_t n = 0;
    while (op_next(body, &pos, &ret[n])) n++;
    return n;
}

Test(ops, both_forms)
{
    int64_t v[16];
    cr_expect(all("123", v) == 1 && v[0] == 123);
    cr_expect(all("123,124,130,", v) == 3 && v[0] == 123 && v[2] == 130);
    cr_expect(all("1,2", v) == 2 && v[1] == 2);
    cr_expect(all("", v) == 0 && all(",,,", v) == 0);
    cr_expect(all("x,5,-3,99999999999999999999,7", v) == 2 && v[0] == 5 && v[1] == 7, "what is no offset is skipped");
    cr_expect(all("9223372036854775807,", v) == 1 && v[0] == INT64_MAX);
}

Test(ops, passed_in_order)
{
    static struct op_marks m;
    m = (struct op_marks){ .begin = 0 };
    op_marks_add(&m, 0, 10);
    op_marks_add(&m, 1, 30);
    op_marks_add(&m, 2, 20);
    cr_expect(op_marks_pass(&m, 10) == 0, "half message 10 is not before 10");
    cr_expect(op_marks_pass(&m, 11) == 1);
    cr_expect(op_marks_pass(&m, 25) == 1, "the second holds up the third");
    cr_expect(op_marks_pass(&m, 31) == 3 && m.n == 0);
    op_marks_add(&m, 3, -1);
    cr_expect(op_marks_pass(&m, 0) == 4, "one that names nothing is passed at once");
}

Test(ops, neighbours_become_one_when_there_are_too_many)
{
    static struct op_marks m;
    m = (struct op_marks){ .begin = 0 };
    for (int64_t i = 0; i < OP_MARKS + 500; i++) op_marks_add(&m, i, i * 10);
    cr_expect(m.n == OP_MARKS);
    cr_expect(op_marks_pass(&m, (OP_MARKS - 1) * 10) == OP_MARKS - 1);
    cr_expect(op_marks_pass(&m, (OP_MARKS + 498) * 10 + 1) == OP_MARKS - 1, "not before the last of them may go");
    cr_expect(op_marks_pass(&m, (OP_MARKS + 499) * 10 + 1) == OP_MARKS + 500);
}

Test(ops, an_answer_that_comes_late)
{
    static struct op_marks m;
    m = (struct op_marks){ .begin = 0 };
    op_marks_add(&m, 0, 5);
    op_marks_add(&m, 2, 7);
    op_marks_add(&m, 1, 90); /* its append was answered after the next one's */
    cr_expect(op_marks_pass(&m, 50) == 1, "nothing behind it is let go of before it");
    cr_expect(op_marks_pass(&m, 91) == 3);
}
