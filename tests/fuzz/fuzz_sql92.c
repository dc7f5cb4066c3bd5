/* SPDX-License-Identifier: Apache-2.0 */
/* An expression of SQL92 and, after a first zero byte, properties: compiled, run, and compiled again to the same answer in the same
 * steps, which are never more than a run may take and grow only with the sizes: no instruction reads a property anew. */
#include "fuzz.h"
#include "sql92.h"

static void check_fault(const struct sql_build *b, uint64_t size)
{
    MUST(b->prog == NULL && b->why[0] != 0);
    MUST(b->status == ZR_EINVAL || b->status == ZR_EFULL);
    MUST(b->fault_at <= size);
}

/* No search in it: then it costs its instructions, the properties, each of them read once as each kind, and its own texts. */
static uint64_t most_steps(const struct zr_prog *p, uint64_t size)
{
    uint64_t most = 64 + size + 5 * (uint64_t)p->n_code;
    for (uint32_t i = 0; i < p->n_code; i++)
        if (p->code[i].op == SQL_CONTAINS || p->code[i].op == SQL_STARTS || p->code[i].op == SQL_ENDS || p->code[i].op == SQL_IN ||
            p->code[i].op == SQL_EQ)
            return ZR_FILTER_STEPS;
    return most;
}

static void check_run(const struct zr_prog *first, const struct zr_prog *again, struct zr_span properties)
{
    uint64_t a = ZR_FILTER_STEPS, b = ZR_FILTER_STEPS;
    uint32_t verdict = sql_judge(first, properties, &a);
    MUST(sql_judge(again, properties, &b) == verdict && a == b && a <= ZR_FILTER_STEPS);
    MUST(sql_matches(first, properties) == (verdict == ZR_MATCH_YES));
    uint64_t took = ZR_FILTER_STEPS - a, less = took ? took - 1 : 0;
    MUST(took <= most_steps(first, properties.len));
    if (took && verdict != ZR_MATCH_ASK)
        MUST(sql_judge(again, properties, &less) == ZR_MATCH_ASK && less == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const uint8_t *zero = size ? memchr(data, 0, size) : NULL;
    uint64_t n = zero ? (uint64_t)(zero - data) : size;
    char *text = malloc(n ? n : 1); /* exactly its size */
    uint8_t *props = malloc(size - n ? size - n : 1);
    struct zr_span properties = { props, zero ? size - n - 1 : 0 };
    struct sql_build first, again;
    if (n)
        memcpy(text, data, n);
    if (properties.len)
        memcpy(props, zero + 1, properties.len);
    zr_status status = sql_compile((struct zr_str){ text, n }, &first);
    MUST(sql_compile((struct zr_str){ text, n }, &again) == status);
    free(text); /* a program keeps nothing of it */
    if (status == ZR_OK)
        check_run(first.prog, again.prog, properties);
    else
        check_fault(&first, n);
    sql_free(first.prog);
    sql_free(again.prog);
    free(props);
    return 0;
}
