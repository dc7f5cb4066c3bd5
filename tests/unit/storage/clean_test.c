/* SPDX-License-Identifier: Apache-2.0 */
/* Retention: what may be deleted, what never is, and what queues say afterwards. */
#include "host.h"
#include <errno.h>
#include <sys/time.h>

/* Makes a segment's file older than any retention. */
static void make_old(struct world *w, int64_t base)
{
    char path[1024];
    struct timeval times[2] = { { 1000000000, 0 }, { 1000000000, 0 } };
    file_path(w, path, "commitlog/%020lld", (long long)base);
    cr_assert_eq(utimes(path, times), 0, "%s", path);
}

static struct world *with_segments(const char *name)
{
    struct world *w = world_new(name);
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "Old", 0, 20, 500); /* only in the first segment */
    put_many(w, "T", 0, 500, 500);  /* five segments in all */
    flush_all(w);
    return w;
}

Test(clean, expired_segments_go_and_queues_follow)
{
    struct world *w = with_segments("expired");
    uint64_t removed;
    char path[1024];
    cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
    cr_assert_eq(removed, 0);
    make_old(w, 0);
    make_old(w, 65536);
    make_old(w, 4 * 65536); /* behind one that is not old: stays */
    cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
    file_path(w, path, "commitlog/00000000000000065536");
    cr_assert_eq(file_size_of(path), -1);
    file_path(w, path, "commitlog/00000000000000131072");
    cr_assert_eq(file_size_of(path), 65536);
    int64_t min = min_of(w, "T", 0);
    cr_assert_gt(min, 150);
    cr_assert_eq(read_all(w, "T", 0, 500), 500 - min);
    cr_assert_eq(min_of(w, "Old", 0), 20); /* all gone, the offset kept */
    cr_assert_eq(max_of(w, "Old", 0), 20);
    struct answer a;
    cr_assert_eq(read_at(w, "T", 0, 3, 32, &a), ZR_OK);
    cr_assert_eq(a.r.what, ZR_READ_OFFSET_TOO_SMALL);
    cr_assert_eq(a.r.next_offset, min);
    file_path(w, path, "consumequeue/T/0/00000000000000000000");
    cr_assert_eq(file_size_of(path), -1);
    put_many(w, "Old", 0, 1, 500);
    cr_assert_eq(read_all(w, "Old", 0, 500), 1);
    for (int kill = 0; kill < 2; kill++) {
        if (kill) w = world_kill(w);
        else {
            world_close(w);
            cr_assert_eq(world_open(w), ZR_OK);
        }
        cr_assert_eq(min_of(w, "T", 0), min);
        cr_assert_eq(max_of(w, "T", 0), 500);
        cr_assert_eq(min_of(w, "Old", 0), 20);
        cr_assert_eq(max_of(w, "Old", 0), 21);
        cr_assert_eq(read_all(w, "T", 0, 500), 500 - min);
    }
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zs_info(w->st, &info);
    cr_assert_eq(info.positions.begin, 131072);
    cr_assert_gt(info.earliest_ms, 0);
    cr_assert_eq(info.n_topics, 2);
    cr_assert_eq(info.n_queues, 2);
    world_end(w);
}

Test(clean, the_last_segment_is_never_deleted)
{
    struct world *w = world_new("never");
    uint64_t removed;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 10, 500);
    flush_all(w);
    make_old(w, 0);
    cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
    cr_assert_eq(removed, 0);
    cr_assert_eq(read_all(w, "T", 0, 500), 10);
    world_end(w);
}

Test(clean, the_timer_deletes_in_its_hour_or_when_the_disk_is_full)
{
    struct world *w = with_segments("timer");
    make_old(w, 0);
    world_fire(w);
    cr_assert_eq(min_of(w, "Old", 0), 0, "not its hour");
    w->used = 0.8; /* above ratio_clean: expired ones at any hour */
    world_fire(w);
    cr_assert_eq(min_of(w, "Old", 0), 20);
    int64_t min = min_of(w, "T", 0);
    w->used = 0.87; /* above ratio_force, but not allowed */
    world_fire(w);
    cr_assert_eq(min_of(w, "T", 0), min);
    w->conf.clean_forcibly = 1;
    w->conf.delete_hours = 0xFFFFFF;
    zs_retune(w->st, &w->conf);
    world_fire(w);
    cr_assert_gt(min_of(w, "T", 0), min);
    cr_assert_gt(read_all(w, "T", 0, 500), 0);
    world_end(w);
}

Test(clean, a_disk_that_is_too_full_refuses_and_takes_again)
{
    struct world *w = world_new("refuse");
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 3, 100);
    w->used = 0.95;
    world_fire(w);
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_EFULL);
    cr_assert_eq(read_all(w, "T", 0, 100), 3);
    w->used = 0.5;
    world_fire(w);
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_OK);
    world_end(w);
}

Test(clean, a_full_disk_is_looked_at_at_once_and_the_oldest_go)
{
    struct world *w = with_segments("hurry");
    w->conf.clean_forcibly = 1;
    zs_retune(w->st, &w->conf);
    w->used = 0.87;
    world_space(w, 0, "commitlog");
    int64_t now = w->timer_at, min = min_of(w, "T", 0);
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_EFULL);
    cr_assert_lt(w->timer_at, now, "the next look does not wait for the interval");
    world_fire(w);
    cr_assert_gt(min_of(w, "T", 0), min, "forced clean-up");
    cr_assert_lt(w->timer_at, now, "while it is full, looks follow soon");
    world_mend(w);
    w->used = 0.1;
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_OK);
    world_fire(w);
    cr_assert_gt(w->timer_at, now);
    world_end(w);
}

Test(clean, by_bytes_the_oldest_go_at_any_age_and_hour)
{
    struct world *w = with_segments("bytes");
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zs_info(w->st, &info);
    int64_t len = info.positions.written - info.positions.begin;
    w->conf.retention_bytes = 3 * 65536;
    world_fire(w);
    zs_info(w->st, &info);
    cr_assert_eq(info.positions.written - info.positions.begin, len, "not asked for yet");
    zs_retune(w->st, &w->conf);
    world_fire(w);
    zs_info(w->st, &info);
    cr_assert_geq(info.positions.written - info.positions.begin, 3 * 65536);
    cr_assert_lt(info.positions.written - info.positions.begin, 4 * 65536);
    int64_t min = min_of(w, "T", 0), max = max_of(w, "T", 0);
    cr_assert_gt(min, 0);
    cr_assert_eq(read_all(w, "T", 0, 500), max - min);
    w = world_kill(w);
    cr_assert_eq(min_of(w, "T", 0), min);
    cr_assert_eq(max_of(w, "T", 0), max);
    world_end(w);
}

/* ---- which disk is full, and what cannot be deleted --------------------------------------------------------------------------- */

static _Atomic uint32_t queue_disk_full;
static int64_t disk_of_two(void *self, const char *path, struct zr_io_disk *ret)
{
    uint32_t full = atomic_load(&queue_disk_full) && strstr(path, "consumequeue") != NULL;
    (void)self;
    *ret = (struct zr_io_disk){ 1000000, full ? 130000 : 900000, full ? 130000 : 900000 };
    return 0;
}

Test(clean, a_full_disk_of_the_queues_is_cleaned_forcibly_too)
{
    struct world *w = world_new("queue-disk");
    w->io.disk = disk_of_two;
    w->conf.clean_forcibly = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 500, 500);
    flush_all(w);
    world_fire(w);
    cr_assert_eq(min_of(w, "T", 0), 0);
    atomic_store(&queue_disk_full, 1);
    world_fire(w);
    cr_assert_gt(min_of(w, "T", 0), 100, "%s", w->lines);
    char path[1024];
    file_path(w, path, "consumequeue/T/0/00000000000000000000");
    cr_assert_eq(file_size_of(path), -1);
    atomic_store(&queue_disk_full, 0);
    world_end(w);
}

Test(clean, what_cannot_be_deleted_is_said_once)
{
    struct world *w = with_segments("stuck");
    uint64_t removed;
    make_old(w, 0);
    world_fault(w, OP_UNLINK, 0, EACCES, "commitlog");
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
        cr_assert_eq(removed, 0);
    }
    const char *line = strstr(w->lines, "commitlog/00000000000000000000 should be deleted");
    cr_assert(line && strstr(line, "Permission denied"), "%s", w->lines);
    cr_assert_null(strstr(strstr(line, "should be deleted") + 1, "should be deleted"), "%s", w->lines);
    world_mend(w);
    cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
    cr_assert_gt(removed, 0);
    world_end(w);
}

/* ---- files that are taken away from a running store ---------------------------------------------------------------------------- */

static void file_taken_away(uint32_t sync, uint32_t replaced)
{
    struct world *w = world_new("taken");
    char path[1024], other[1100];
    w->conf.sync = sync;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 10, 500);
    flush_all(w);
    cr_assert_eq(atomic_load(&w->failed), 0);
    int64_t flushed = atomic_load(&w->flushed);
    file_path(w, path, "commitlog/%020d", 0);
    snprintf(other, sizeof other, "%s.x", path);
    if (replaced) {
        FILE *f = fopen(other, "w");
        cr_assert_eq(ftruncate(fileno(f), 65536), 0);
        fclose(f);
        cr_assert_eq(rename(other, path), 0);
    } else {
        cr_assert_eq(unlink(path), 0);
    }
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_OK, "in memory it is taken");
    flush_all(w);
    cr_assert_eq(atomic_load(&w->failed), 1, "%s", w->lines);
    cr_assert_eq(atomic_load(&w->flushed), flushed, "never as durable");
    cr_assert(world_said(w, "removed or replaced"), "%s", w->lines);
    cr_assert_neq(put_one(w, "T", 0, "x", NULL).status, ZR_OK);
    world_end(w);
}

Test(clean, a_log_file_that_is_removed_ends_writing) { file_taken_away(0, 0); }
Test(clean, a_log_file_that_is_removed_under_sync_flush_ends_writing) { file_taken_away(1, 0); }
Test(clean, a_log_file_that_is_replaced_ends_writing) { file_taken_away(1, 1); }

/* ---- a clock that jumps --------------------------------------------------------------------------------------------------------- */

#define HOUR 3600000ll

static int64_t real_ms(void)
{
    struct timeval now;
    gettimeofday(&now, NULL);
    return (int64_t)now.tv_sec * 1000 + now.tv_usec / 1000;
}

static void keeps(struct world *w, uint32_t all, const char *what)
{
    uint64_t removed;
    cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
    if (all) cr_assert_eq(removed, 0, "%s: %s", what, w->lines);
    else cr_assert_gt(removed, 0, "%s: %s", what, w->lines);
}

static void clock_file(struct world *w, const char *text)
{
    char path[1024];
    file_path(w, path, "zarya/clock");
    cr_assert_eq(truncate(path, 0), 0);
    file_write(path, 0, text, strlen(text));
}

Test(clean, a_clock_that_jumps_a_year_expires_nothing_that_was_written_just_now)
{
    struct world *w = with_segments("jump");
    int64_t t = real_ms();
    atomic_store(&w->wall, t);
    keeps(w, 1, "before");
    atomic_store(&w->wall, t + 365 * 24 * HOUR + HOUR / 2);
    keeps(w, 1, "a year forward");
    cr_assert(world_said(w, "the clock is 8760 h "), "%s", w->lines);
    world_quiet(w);
    keeps(w, 1, "and again");
    cr_assert(!world_said(w, "the clock"), "it is said once: %s", w->lines);
    make_old(w, 0);
    keeps(w, 0, "what is old by the clock before goes on being old");
    atomic_store(&w->wall, t + 1000);
    keeps(w, 1, "set right");
    atomic_store(&w->wall, t + 40 * 24 * HOUR); /* and it comes again, over a restart and a kill */
    keeps(w, 1, "forward once more");
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    keeps(w, 1, "after a restart");
    w = world_kill(w);
    atomic_store(&w->wall, t + 40 * 24 * HOUR);
    keeps(w, 1, "after a kill");
    world_end(w);
}

Test(clean, a_clock_that_stayed_for_a_day_is_believed)
{
    struct world *w = with_segments("stayed");
    int64_t t = real_ms();
    char text[100];
    atomic_store(&w->wall, t);
    keeps(w, 1, "before");
    atomic_store(&w->wall, t + 100 * HOUR);
    keeps(w, 1, "at first");
    world_close(w);
    /* It was seen 23 hours ago to be ahead by 100: */
    snprintf(text, sizeof text, "%lld %lld %lld\n", (long long)(t + 100 * HOUR), (long long)(100 * HOUR), (long long)(t + 77 * HOUR + 60000));
    clock_file(w, text);
    cr_assert_eq(world_open(w), ZR_OK);
    keeps(w, 1, "23 hours");
    world_close(w);
    snprintf(text, sizeof text, "%lld %lld %lld\n", (long long)(t + 100 * HOUR), (long long)(100 * HOUR), (long long)(t + 76 * HOUR));
    clock_file(w, text);
    cr_assert_eq(world_open(w), ZR_OK);
    keeps(w, 0, "a day");
    cr_assert(world_said(w, "set forward a day ago, and stayed"), "%s", w->lines);
    world_end(w);
}

Test(clean, a_clock_that_jumped_while_the_store_was_closed)
{
    for (uint32_t file = 0; file < 3; file++) { /* with the file of the clock, without it, with a damaged one */
        struct world *w = with_segments("closed");
        int64_t t = real_ms();
        char path[1024];
        world_close(w);
        file_path(w, path, "zarya/clock");
        cr_assert_gt(file_size_of(path), 0);
        if (file == 1) cr_assert_eq(unlink(path), 0);
        if (file == 2) clock_file(w, "9999999999999999999999 -1");
        atomic_store(&w->wall, t + 100 * HOUR);
        cr_assert_eq(world_open(w), ZR_OK);
        keeps(w, 1, "100 hours forward");
        cr_assert(world_said(w, "ahead of what this store saw last"), "%s", w->lines);
        world_close(w);
        atomic_store(&w->wall, t + 120 * HOUR); /* a stop of less than a day is no jump, and the day goes on */
        cr_assert_eq(world_open(w), ZR_OK);
        keeps(w, 1, "20 hours later");
        world_close(w);
        atomic_store(&w->wall, t + 125 * HOUR);
        cr_assert_eq(world_open(w), ZR_OK);
        keeps(w, 0, "25 hours later");
        world_end(w);
    }
}

Test(clean, a_clock_that_jumped_keeps_no_disk_full)
{
    struct world *w = with_segments("jumpdisk");
    int64_t t = real_ms();
    atomic_store(&w->wall, t);
    keeps(w, 1, "before");
    atomic_store(&w->wall, t + 1000 * HOUR);
    keeps(w, 1, "forward");
    w->conf.retention_bytes = 2 * 65536;
    zs_retune(w->st, &w->conf);
    keeps(w, 0, "by bytes they go at any age");
    world_end(w);
}

static uint32_t count_said(struct world *w, const char *part)
{
    uint32_t n = 0;
    for (const char *p = w->lines; (p = strstr(p, part)); p++) n++;
    return n;
}

Test(clean, a_sealed_log_file_that_is_removed_is_named_and_served_and_can_be_put_back)
{
    struct world *w = with_segments("sealed");
    char path[1024], other[1100];
    w->conf.retention_hours = 1000;
    cr_assert_eq(read_all(w, "T", 0, 500), 500); /* all are open */
    keeps(w, 1, "nothing is amiss");
    cr_assert(!world_said(w, "while the broker runs"), "%s", w->lines);
    file_path(w, path, "commitlog/%020d", 65536);
    snprintf(other, sizeof other, "%s/kept", w->dir);
    cr_assert_eq(rename(path, other), 0);
    keeps(w, 1, "a look");
    keeps(w, 1, "another");
    cr_assert_eq(count_said(w, "00000000000000065536 was removed while the broker runs"), 1, "%s", w->lines);
    cr_assert(world_said(w, "copy it back: cp --sparse=always /proc/"), "%s", w->lines);
    cr_assert_eq(read_all(w, "T", 0, 500), 500, "it is open");
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_OK, "others go on");
    char cmd[2400];
    snprintf(cmd, sizeof cmd, "%s", strstr(w->lines, "cp --sparse=always /proc/"));
    *strchr(cmd, '\n') = 0;
    cr_assert_eq(system(cmd), 0, "%s", cmd);
    keeps(w, 1, "it is back");
    cr_assert(world_said(w, "is there again"), "%s", w->lines);
    cr_assert_eq(read_all(w, "T", 0, 0), 501);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 0), 501);
    world_end(w);
}

Test(clean, a_log_file_that_is_removed_while_nothing_is_written_is_noticed)
{
    struct world *w = with_segments("idle");
    char path[1024];
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zs_info(w->st, &info);
    file_path(w, path, "commitlog/%020lld", (long long)(info.positions.written / 65536 * 65536));
    cr_assert_eq(unlink(path), 0);
    keeps(w, 1, "a look");
    cr_assert_eq(atomic_load(&w->failed), 1, "%s", w->lines);
    cr_assert_neq(put_one(w, "T", 0, "x", NULL).status, ZR_OK);
    world_end(w);
}

Test(clean, a_queue_file_that_is_removed_is_named_and_made_anew)
{
    struct world *w = world_new("qfile");
    char path[1024];
    w->conf.checkpoint_interval_ms = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 60, 500);
    flush_all(w);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 500), 60); /* it is open */
    file_path(w, path, "consumequeue/T/0/%020d", 0);
    cr_assert_eq(unlink(path), 0);
    put_many(w, "T", 0, 10, 500);
    world_close(w); /* its entries are synced */
    cr_assert(world_said(w, "consumequeue/T/0/00000000000000000000 was removed while the broker runs"), "%s", w->lines);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 500), 70);
    world_end(w);
}
