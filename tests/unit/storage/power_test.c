/* SPDX-License-Identifier: Apache-2.0 */
/* The power fails: of what was not synced anything may be lost, in any combination of sectors. Whatever was announced as
 * flushed before must be there afterwards; nothing wrong may be given; and the store must go on. Twice in a row each time. */
#include <errno.h>
#include <sys/stat.h>
#include "host.h"

#define QUEUES 4
#define SIZE 300u

/* How many messages of a queue lie below position. */
static int64_t below(struct world *w, int32_t q, int64_t position)
{
    static int64_t phys[4096], tags[4096];
    static uint32_t sizes[4096];
    struct zr_queue *h = zs_queue(w->st, zl_str("P"), q, 0);
    int64_t n = zs_entries(w->st, h, 0, phys, sizes, tags, 4096), k = 0;
    while (k < n && phys[k] + sizes[k] <= position) k++;
    return k;
}

/* Every message of [0, n) can be read and is right. */
static void expect_whole(struct world *w, int32_t q, int64_t n, const char *when)
{
    char body[SIZE];
    for (int64_t at = 0; at < n;) {
        struct answer a;
        cr_assert_eq(read_at(w, "P", q, at, 32, &a), ZR_OK);
        cr_assert_gt(a.r.n_messages, 0, "%s: queue %d at %lld of %lld, status %u: %s", when, q, (long long)at, (long long)n, a.r.what, w->lines);
        for (uint32_t i = 0; i < a.r.n_messages && at < n; i++, at++) {
            struct zl_record rec = record_of(&a, i);
            cr_assert_eq(rec.queue_offset, at, "%s: queue %d: %lld instead of %lld of %lld: %s", when, q, (long long)rec.queue_offset, (long long)at, (long long)n, w->lines);
            body_of(body, SIZE, "P", q, at);
            cr_assert_eq(memcmp(rec.body.ptr, body, SIZE), 0);
        }
        zs_unpin(w->st, a.r.pin);
    }
}

static void put_some(struct world *w, unsigned *seed)
{
    char body[SIZE];
    int64_t next[QUEUES];
    for (int q = 0; q < QUEUES; q++) next[q] = -1;
    for (int i = 0, n = 20 + rand_r(seed) % 150; i < n; i++) {
        int q = rand_r(seed) % QUEUES;
        struct zr_msg m;
        struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
        int64_t end;
        if (next[q] < 0) { /* ask what comes next by storing one */
            struct zr_queue *h = zs_queue(w->st, zl_str("P"), q, 1);
            int64_t phys[1], tags[1];
            uint32_t sizes[1];
            next[q] = 0;
            flush_all(w);
            while (zs_entries(w->st, h, next[q], phys, sizes, tags, 1)) next[q]++;
        }
        body_of(body, SIZE, "P", q, next[q]);
        m = msg_of("P", q, body, SIZE, "KEYS\001k\002");
        zs_append(w->st, &m, 1, &p, &end);
        cr_assert_eq(p.status, ZR_OK);
        cr_assert_eq(p.queue_offset, next[q]++);
        if (rand_r(seed) % 40 == 0) flush_all(w);
    }
}

static struct world *one_cut(struct world *w, int mode, unsigned *seed, const char *when)
{
    int64_t flushed = atomic_load(&w->flushed), whole[QUEUES];
    for (int q = 0; q < QUEUES; q++) whole[q] = below(w, q, flushed);
    struct world *n = world_cut(w, mode, seed);
    world_end(w);
    world_power(n);
    cr_assert_eq(world_open(n), ZR_OK, "%s: %s", when, n->error);
    for (int q = 0; q < QUEUES; q++) {
        expect_whole(n, q, whole[q], when);
        read_all(n, "P", q, SIZE); /* what else is there is right, even if not whole */
    }
    /* what snapshot and checkpoint said of the queue files was true: nothing had to be made up for */
    cr_assert_not(world_said(n, "were lost"), "%s: %s", when, n->lines);
    cr_assert_not(world_said(n, "the files hold entries up to"), "%s: %s", when, n->lines);
    return n;
}

static void run(uint32_t sync, unsigned first_seed)
{
    for (unsigned round = 0; round < 40; round++) {
        unsigned seed = first_seed + round;
        char when[64];
        struct world *w = world_new("power");
        snprintf(when, sizeof when, "seed %u mode %u sync %u", seed, round % 4, sync);
        w->conf.sync = sync;
        w->conf.segment_size = 16384;
        w->conf.checkpoint_interval_ms = 3;
        w->conf.flush_interval_ms = 5;
        w->conf.max_tail_bytes = round & 4 ? 1 << 20 : 2000;
        world_power(w);
        cr_assert_eq(world_open(w), ZR_OK);
        for (int cut = 0; cut < 3; cut++) {
            put_some(w, &seed);
            w = one_cut(w, (int)(round % 4), &seed, when);
            /* what recovery kept is the past now: bodies must go on from there, so holes end the queue for this test */
            uint32_t holes = 0;
            for (int q = 0; q < QUEUES; q++) holes |= read_all(w, "P", q, SIZE) != max_of(w, "P", q);
            if (holes) break;
        }
        world_end(w);
    }
}

Test(power, cuts_under_async_flush) { run(0, 1000); }
Test(power, cuts_under_sync_flush) { run(1, 2000); }

/* ---- what says that the log is flushed, and what keeps an error of writing it ---------------------------------------------------- */

/* How often a file of the log was synced since the last world_fault on OP_FDATASYNC. */
static int64_t syncs(struct world *w) { return atomic_load(&w->fault[OP_FDATASYNC].calls); }

Test(power, that_abort_is_missing_says_nothing_of_a_killed_log)
{
    for (uint32_t sync = 0; sync < 2; sync++) {
        struct world *w = world_new("no-abort"), *c;
        char path[1024];
        w->conf.sync = sync;
        w->conf.flush_interval_ms = 3600000;
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "P", 0, 50, SIZE);
        if (sync) flush_all(w);
        c = world_copy(w);
        world_end(w);
        file_path(c, path, "abort");
        cr_assert_eq(unlink(path), 0);
        world_fault(c, OP_FDATASYNC, 1 << 30, EIO, "commitlog/");
        cr_assert_eq(world_open(c), ZR_OK, "%s", c->error);
        if (!sync) flush_all(c);
        cr_assert_gt(syncs(c), 0, "nothing was synced, sync %u", sync);
        cr_assert_eq(read_all(c, "P", 0, SIZE), 50);
        world_close(c); /* after a clean stop there is no need */
        world_fault(c, OP_FDATASYNC, 1 << 30, EIO, "commitlog/");
        cr_assert_eq(world_open(c), ZR_OK, "%s", c->error);
        cr_assert_eq(syncs(c), 0);
        world_end(c);
    }
}

Test(power, an_unsynced_segment_stays_open)
{
    struct world *w = world_new("stays-open");
    w->conf.flush_interval_ms = 3600000;
    w->conf.max_open_segments = 2;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "P", 0, 1200, SIZE); /* eight segments */
    world_fault(w, OP_OPEN, 1 << 30, EIO, "commitlog/");
    cr_assert_eq(read_all(w, "P", 0, SIZE), 1200);
    cr_assert_eq(atomic_load(&w->fault[OP_OPEN].calls), 0, "it was closed before it was synced");
    flush_all(w);
    cr_assert_eq(read_all(w, "P", 0, SIZE), 1200);
    cr_assert_gt(atomic_load(&w->fault[OP_OPEN].calls), 0, "then they are, one after the other");
    world_end(w);
}

/* ---- the note of removed topics ---------------------------------------------------------------------------------------------------- */

Test(power, a_note_of_removed_topics_that_cannot_be_read_brings_none_back)
{
    struct world *w = world_new("note"), *c;
    char path[1024], aside[1100];
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "P", 0, 20, SIZE);
    put_many(w, "Gone", 0, 20, SIZE);
    cr_assert_eq(zs_remove_topic(w->st, zl_str("Gone")), ZR_OK);
    c = world_copy(w);
    world_end(w);
    file_path(c, path, "zarya/removed");
    snprintf(aside, sizeof aside, "%s.x", path);
    cr_assert_eq(rename(path, aside), 0);
    cr_assert_eq(mkdir(path, 0755), 0);
    cr_assert_neq(world_open(c), ZR_OK);
    cr_assert(strstr(c->error, path) && strstr(c->error, "cannot be read"), "%s", c->error);
    cr_assert_eq(rmdir(path), 0);
    cr_assert_eq(rename(aside, path), 0);
    FILE *f = fopen(path, "a"); /* a line that nobody understands, and the torn end of one */
    fprintf(f, "12x4 What?\n77 Torn");
    fclose(f);
    cr_assert_eq(world_open(c), ZR_OK, "%s", c->error);
    cr_assert(world_said(c, "1 lines name no removed topic"), "%s", c->lines);
    cr_assert_null(zs_queue(c->st, zl_str("Gone"), 0, 0));
    put_many(c, "Gone2", 0, 2, SIZE);
    cr_assert_eq(zs_remove_topic(c->st, zl_str("Gone2")), ZR_OK);
    world_close(c);
    char text[4096] = { 0 };
    f = fopen(path, "r");
    cr_assert_gt(fread(text, 1, sizeof text - 1, f), 0);
    fclose(f);
    cr_assert(strstr(text, "12x4 What?\n") && strstr(text, " Gone\n") && strstr(text, " Gone2\n"), "%s", text);
    world_end(c);
}
