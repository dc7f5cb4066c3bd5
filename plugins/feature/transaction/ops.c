/* SPDX-License-Identifier: Apache-2.0 */
/* opqueue.c - see ops.h. */
#include "ops.h"

#include "zl/text.h"

uint32_t op_next(struct zr_span body, uint64_t *pos, int64_t *ret)
{
    while (*pos < body.len) {
        const char *at = (const char *)body.ptr + *pos, *comma = memchr(at, ',', body.len - *pos);
        struct zr_str part = { at, comma ? (uint64_t)(comma - at) : body.len - *pos };
        *pos += part.len + 1;
        if (zl_parse_i64(zl_trim(part), ret) == ZR_OK && *ret >= 0) return 1;
    }
    return 0;
}

void op_marks_add(struct op_marks *m, int64_t offset, int64_t highest)
{
    struct op_mark *last = m->n ? &m->marks[(m->first + m->n - 1) % OP_MARKS] : NULL;
    if (last && (offset < last->end || m->n == OP_MARKS)) {
        if (offset >= last->end) last->end = offset + 1;
        if (highest > last->highest) last->highest = highest;
        return;
    }
    m->marks[(m->first + m->n++) % OP_MARKS] = (struct op_mark){ offset + 1, highest };
}

int64_t op_marks_pass(struct op_marks *m, int64_t half_base)
{
    while (m->n && m->marks[m->first].highest < half_base) {
        if (m->marks[m->first].end > m->begin) m->begin = m->marks[m->first].end;
        m->first = (m->first + 1) % OP_MARKS;
        m->n--;
    }
    return m->begin;
}
