/* SPDX-License-Identifier: Apache-2.0 */
/* queues_range.c - which offsets a queue has: those of its records and files that lie together.
 *
 * No checksum covers a record's queue offset. One flipped bit makes it the offset of a message thousands of millions further on (or
 * back), and a queue made anew up to there would fill the disk with entries that stand for nothing. The store judges a record by the
 * one before it; here the log is read in parts, so the queue is judged as a whole:
 *   1. Offsets belong together when the room between them is explained: by what the log lost (every message took LEAST_RECORD bytes
 *      of it), or by one file of entries, which is there anyway.
 *   2. Of several such parts the queue is the one with the most entries that agree with their records; else the one with the most
 *      records; else the one that a clean stop knew as the queue's end.
 *   3. Records with an offset outside are in the log only, as the store has it after its recovery. */
#include "tool.h"

#define LEAST_RECORD 91

struct part {
    int64_t from, to;
    uint64_t n_agree, n_records;
    uint32_t known;
};

static int by_from(const void *a, const void *b)
{
    const struct part *x = a, *y = b;
    return x->from < y->from ? -1 : x->from > y->from;
}

static uint64_t bits(const _Atomic uint64_t *words)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < ZT_CHUNK / 64; i++) n += (uint64_t)__builtin_popcountll(atomic_load_explicit(&words[i], memory_order_relaxed));
    return n;
}

/* The most messages that can be missing between two that are there. */
static int64_t room_of(const struct zt_queues *qs, const struct zt_log *lg)
{
    const struct zs_snapshot *snap = &qs->v->snap;
    int64_t lost = snap->valid && snap->pos > lg->end ? snap->pos - lg->end : 0;
    for (uint64_t i = 0; i < lg->n_damage; i++) lost += lg->damage[i].to - lg->damage[i].from;
    return lost / LEAST_RECORD + qs->file_size / (int64_t)ZS_ENTRY + ZT_CHUNK;
}

static uint64_t parts_gather(const struct zt_queues *qs, const struct zt_queue *q, struct part *to)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < q->cap_chunks; i++)
        for (const struct zt_chunk *c = q->chunks[i]; c; c = c->next)
            to[n++] = (struct part){ c->no * ZT_CHUNK, (c->no + 1) * ZT_CHUNK, bits(c->agrees), bits(c->record), 0 };
    for (uint64_t i = 0; i < q->n_files; i++)
        to[n++] = (struct part){ q->files[i].base / ZS_ENTRY, (q->files[i].base + qs->file_size) / (int64_t)ZS_ENTRY, 0, 0, 0 };
    if (q->hint && q->hint->min < q->hint->next) to[n++] = (struct part){ q->hint->min, q->hint->next, 0, 0, 1 };
    return n;
}

static uint32_t better(const struct part *a, const struct part *b)
{
    if (a->n_agree != b->n_agree) return a->n_agree > b->n_agree;
    if (a->n_records != b->n_records) return a->n_records > b->n_records;
    return a->known > b->known;
}

uint32_t zt_queue_range(const struct zt_queues *qs, const struct zt_log *lg, const struct zt_queue *q, int64_t *ret_from, int64_t *ret_to)
{
    struct part *at = malloc((q->n_chunks + q->n_files + 1) * sizeof *at);
    int64_t room = room_of(qs, lg);
    *ret_from = 0;
    *ret_to = INT64_MAX;
    if (!at) return 0;
    uint64_t n = parts_gather(qs, q, at), best = 0, last = 0;
    if (n) qsort(at, n, sizeof *at, by_from);
    for (uint64_t i = 1; i < n; i++) {
        struct part *p = &at[last];
        if (at[i].from - p->to > room) {
            at[++last] = at[i];
            continue;
        }
        if (at[i].to > p->to) p->to = at[i].to;
        p->n_agree += at[i].n_agree;
        p->n_records += at[i].n_records;
        p->known |= at[i].known;
    }
    for (uint64_t i = 1; n && i <= last; i++)
        if (better(&at[i], &at[best])) best = i;
    if (best > 0) *ret_from = at[best].from;
    if (n && best < last) *ret_to = at[best].to;
    free(at);
    return 1;
}
