/* SPDX-License-Identifier: Apache-2.0 */
/* An expression of SQL92 and, after a first zero byte, properties: compiled, run, and compiled again to the same answer. */
#include "fuzz.h"
#include "sql92.h"

static void check_fault(const struct sql_build *b, uint64_t size)
{
    MUST(b->prog == NULL && b->why[0] != 0);
    MUST(b->status == ZR_EINVAL || b->status == ZR_EFULL);
    MUST(b->fault_at <= size);
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
        MUST(sql_matches(first.prog, properties) == sql_matches(again.prog, properties));
    else
        check_fault(&first, n);
    sql_free(first.prog);
    sql_free(again.prog);
    free(props);
    return 0;
}
