/* SPDX-License-Identifier: Apache-2.0 */
/* log_limit.c - how much one place may log: what a client says must not fill a disk, nor push other lines out of sight.
 *
 * What stays true:
 *   1. Each format of the kernel, and each instance of a plugin, has a budget of its own for each level: so many bytes at once,
 *      and so many a second in the long run. A place that uses up its own takes nothing from others.
 *   2. What is left out is counted, and the count is told within TELL_NS and at the end (by the log's thread).
 *   3. A budget is one atomic number: the time at which it would be whole again. No lock, no allocation. */
#include "core/core_int.h"
#include <stdatomic.h>
#include <stdio.h>

#define PLACES 1024u /* some 100 formats of the kernel, and four levels of at most 256 instances at worst; the rest share one */
#define SECOND 1000000000ll

struct budget { int64_t burst, rate; }; /* bytes; bytes a second */
static const struct budget budgets[] = { [ZK_LOG_FORMAT] = { 256 << 10, 128 }, [ZK_LOG_INSTANCE] = { 1 << 20, 1024 } };

struct place {
    _Atomic uintptr_t key;     /* text << 3 | level; addresses have 47 bits. 0: free */
    _Atomic int64_t whole_at;  /* when the budget is whole again */
    _Atomic uint64_t left_out;
    _Atomic uint32_t kind;
};
static struct place places[PLACES + 1]; /* the last: for those that found none */
static _Atomic uint64_t owed;           /* how many are not told yet, in all */

static struct place *place_of(uint32_t kind, uint32_t level, const char *text)
{
    uintptr_t key = (uintptr_t)text << 3 | level;
    uint32_t at = (uint32_t)(((uint64_t)key * 0x9e3779b97f4a7c15ull) >> 40);
    for (uint32_t i = 0; i < PLACES; i++) {
        struct place *p = &places[(at + i) % PLACES];
        uintptr_t there = atomic_load(&p->key);
        if (there == 0 && atomic_compare_exchange_strong(&p->key, &there, key)) {
            atomic_store(&p->kind, kind);
            return p;
        }
        if (there == key)
            return p;
    }
    return &places[PLACES];
}

uint32_t zk_log_pass(uint32_t kind, uint32_t level, const char *text, uint64_t bytes)
{
    const struct budget *b = &budgets[kind];
    struct place *p = place_of(kind, level, text);
    int64_t now = zk_mono_ns(), old = atomic_load(&p->whole_at), whole;
    do {
        whole = (old > now ? old : now) + (int64_t)bytes * SECOND / b->rate;
        if (whole - now > b->burst * SECOND / b->rate) {
            atomic_fetch_add(&p->left_out, 1);
            if (atomic_fetch_add(&owed, 1) == 0)
                zk_log_wake();
            return 0;
        }
    } while (!atomic_compare_exchange_weak(&p->whole_at, &old, whole));
    return 1;
}

uint32_t zk_log_owes(void) { return atomic_load(&owed) > 0; }

static void tell(const struct place *p, uint64_t n)
{
    char text[512];
    const char *what = (const char *)(atomic_load(&p->key) >> 3);
    if (!what)
        snprintf(text, sizeof text, "log: %llu lines were left out", (unsigned long long)n);
    else if (atomic_load(&p->kind) == ZK_LOG_INSTANCE)
        snprintf(text, sizeof text, "log: %llu more lines of %s were left out: it logs too much", (unsigned long long)n, what);
    else
        snprintf(text, sizeof text, "log: %llu more lines like \"%.400s\" were left out: there are too many", (unsigned long long)n, what);
    zk_log_line(ZR_LOG_WARN, "kernel", 0, zl_str(text), NULL, 0);
}

void zk_log_tell_left_out(void)
{
    for (uint32_t i = 0; zk_log_owes() && i <= PLACES; i++) {
        uint64_t n = atomic_exchange(&places[i].left_out, 0);
        if (n == 0)
            continue;
        atomic_fetch_sub(&owed, n);
        tell(&places[i], n);
    }
}
