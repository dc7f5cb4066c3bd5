/* SPDX-License-Identifier: Apache-2.0 */
/* verify.c - proof that what was sent is what arrived.
 *
 * A body begins with a stamp: 0 u64 run | 8 u32 sender | 12 u32 target | 16 u64 sequence | 24 i64 intended start | 32
 * u64 checksum of the stamp. What follows is the same filler in every message and is compared byte by byte. Each
 * sending connection numbers its messages from 0.
 *
 * Bit maps say which numbers were acknowledged and which were seen: they are mapped without reserve, so that only
 * touched pages cost memory, and set atomically, since a message may be received on another thread than the one that
 * sent it. */
#include "bench.h"
#include "zl/record.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define BITS_MAX (1ull << 28) /* messages of one connection */
#define SENDERS_MAX 4096u
#define LAST_MAX (1ull << 26) /* entries of the order table */

static uint64_t mix(uint64_t x)
{
    x ^= x >> 33;
    x *= 0xff51afd7ed558ccdull;
    x ^= x >> 33;
    x *= 0xc4ceb9fe1a85ec53ull;
    return x ^ x >> 33;
}

static uint64_t stamp_check(const uint8_t *body)
{
    return mix(zl_load64(body) ^ mix(zl_load64(body + 8) ^ mix(zl_load64(body + 16) ^ mix(zl_load64(body + 24)))));
}

void stamp_write(const struct bench *bench, uint8_t *body, uint32_t conn, uint32_t target, uint64_t seq,
                 int64_t intended)
{
    zl_store64(body, bench->run);
    zl_store32(body + 8, conn);
    zl_store32(body + 12, target);
    zl_store64(body + 16, seq);
    zl_store64(body + 24, (uint64_t)intended);
    zl_store64(body + 32, stamp_check(body));
}

static int bits_make(struct bits *bits, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        void *at = mmap(NULL, BITS_MAX / 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (at == MAP_FAILED) return -1;
        bits[i].word = at;
        bits[i].cap = BITS_MAX;
    }
    return 0;
}

static void bits_free(struct bits *bits, uint32_t n)
{
    for (uint32_t i = 0; bits && i < n; i++)
        if (bits[i].word) munmap(bits[i].word, BITS_MAX / 8);
    free(bits);
}

/* Sets a bit; what it was. */
static uint32_t bits_set(struct bits *bits, uint64_t at)
{
    uint64_t bit = 1ull << (at & 63);
    return (__atomic_fetch_or(&bits->word[at >> 6], bit, __ATOMIC_RELAXED) & bit) != 0;
}

int verify_prepare(struct bench *bench, uint32_t n_senders)
{
    uint64_t entries = (uint64_t)bench->n_targets * n_senders;
    bench->n_senders = n_senders;
    if (!bench->o.verify) return 0;
    if (n_senders > SENDERS_MAX || entries > LAST_MAX) {
        fprintf(stderr, "zarya-bench: --verify is for at most %u sending connections, and %llu queues x connections\n",
                SENDERS_MAX, (unsigned long long)LAST_MAX);
        return 2;
    }
    bench->acked = calloc(n_senders, sizeof(struct bits));
    bench->seen = calloc(n_senders, sizeof(struct bits));
    bench->last = malloc(entries * sizeof(*bench->last));
    if (!bench->acked || !bench->seen || !bench->last || bits_make(bench->acked, n_senders) ||
        bits_make(bench->seen, n_senders)) {
        fprintf(stderr, "zarya-bench: memory ran out\n");
        return 1;
    }
    for (uint64_t i = 0; i < entries; i++) bench->last[i] = -1;
    return 0;
}

void verify_free(struct bench *bench)
{
    bits_free(bench->acked, bench->n_senders);
    bits_free(bench->seen, bench->n_senders);
    free(bench->last);
}

void verify_acked(struct bench *bench, uint32_t conn, uint64_t first, uint32_t n)
{
    if (!bench->acked) return;
    for (uint64_t i = first; i < first + n && i < BITS_MAX; i++) bits_set(&bench->acked[conn], i);
}

int64_t verify_body(struct bench *bench, struct stats *s, struct zr_span body, uint32_t target)
{
    if (body.len < STAMP_SIZE || zl_load64(body.ptr) != bench->run) {
        s->foreign++;
        return 0;
    }
    int64_t intended = (int64_t)zl_load64(body.ptr + 24);
    if (!bench->o.verify) return intended;
    uint32_t conn = zl_load32(body.ptr + 8);
    uint64_t seq = zl_load64(body.ptr + 16);
    if (zl_load64(body.ptr + 32) != stamp_check(body.ptr) || conn >= bench->n_senders ||
        zl_load32(body.ptr + 12) != target || seq >= BITS_MAX || body.len != bench->o.size ||
        memcmp(body.ptr + STAMP_SIZE, bench->filler + STAMP_SIZE, body.len - STAMP_SIZE) != 0) {
        s->corrupt++;
        return 0;
    }
    if (bits_set(&bench->seen[conn], seq)) s->doubled++;
    int64_t *last = &bench->last[(uint64_t)target * bench->n_senders + conn];
    if ((int64_t)seq < *last)
        s->reordered++;
    else
        *last = (int64_t)seq;
    return intended;
}

uint64_t verify_lost(const struct bench *bench, uint64_t *ret_ghosts)
{
    uint64_t lost = 0;
    *ret_ghosts = 0;
    for (uint32_t c = 0; bench->acked && c < bench->n_senders; c++)
        for (uint64_t w = 0; w * 64 < bench->acked[c].cap && w * 64 < atomic_load(&bench->issued) + 64; w++) {
            uint64_t a = bench->acked[c].word[w], b = bench->seen[c].word[w];
            lost += (uint64_t)__builtin_popcountll(a & ~b);
            *ret_ghosts += (uint64_t)__builtin_popcountll(b & ~a);
        }
    return lost;
}

/* One queue from where it ended before the run to its end. */
static int read_queue(struct bench *bench, struct stats *s, uint32_t no)
{
    const struct target *t = &bench->targets[no];
    struct zc_queue queue = { .queue_id = t->queue };
    struct zc_err err;
    snprintf(queue.topic, sizeof(queue.topic), "%s", t->topic);
    snprintf(queue.broker, sizeof(queue.broker), "%s", t->broker);
    struct zc_pull pull = {
        .group = bench->o.group, .queue = &queue, .addr = bench->addrs[t->addr], .offset = t->from, .max = 32
    };
    for (;;) {
        struct zc_messages *m;
        int rc = zc_pull(bench->client, &pull, &m, &err);
        if (rc)
            return fprintf(stderr, "zarya-bench: reading %s queue %d back: %s (code %d)\n", t->topic, t->queue,
                           err.text, err.code),
                   1;
        for (uint32_t i = 0; i < m->n; i++) verify_body(bench, s, m->msgs[i].body, no);
        uint32_t n = m->n;
        int32_t code = m->code;
        pull.offset = m->next_offset;
        zc_messages_free(m);
        if (n == 0 && code != 20) return 0; /* 20: all filtered, ask again */
    }
}

int verify_read_back(struct bench *bench, struct stats *s)
{
    for (uint32_t i = 0; i < bench->n_targets; i++) {
        int rc = read_queue(bench, s, i);
        if (rc) return rc;
    }
    return 0;
}
