/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that are full, that fail, that tear a write; flushes that fail; what is visible when only flushed data is. */
#include "host.h"
#include <errno.h>
#include <sched.h>
#include <time.h>

static void info_of(struct world *w, struct zr_storage_info *ret)
{
    *ret = (struct zr_storage_info){ .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zs_info(w->st, ret);
}

/* The disk takes `left` more bytes: every amount within three records of 192 bytes. */
Test(fault, a_full_disk_loses_nothing_and_leaves_no_gap)
{
    for (int64_t left = 0; left <= 3 * 192; left += 13) {
        struct world *w = world_new("full");
        struct zr_storage_info info;
        w->conf.index = 0;
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 4, 100);
        world_space(w, left, "commitlog");
        char body[101] = { 0 };
        struct zr_msg m[3];
        struct zr_put p[3] = { [0 ... 2] = { .hdr = ZR_HDR(struct zr_put, 0) } };
        int64_t end;
        for (int i = 0; i < 3; i++) {
            body_of(body, 100, "T", 0, 4 + i);
            m[i] = msg_of("T", 0, body, 100, NULL);
        }
        zs_append(w->st, m, 3, p, &end);
        if (left < 3 * 192) {
            for (int i = 0; i < 3; i++) cr_assert_eq(p[i].status, ZR_EFULL);
            cr_assert_eq(end, 4 * 192);
            info_of(w, &info);
            cr_assert_eq(info.writable, 0);
            cr_assert_gt(info.why_not.len, 0);
        }
        int64_t there = left < 3 * 192 ? 4 : 7;
        cr_assert_eq(max_of(w, "T", 0), there);
        /* killed now, nothing of the torn write may come back */
        struct world *k = world_copy(w);
        cr_assert_eq(world_open(k), ZR_OK);
        cr_assert_eq(max_of(k, "T", 0), there, "left %lld: %lld", (long long)left, (long long)max_of(k, "T", 0));
        world_end(k);
        world_mend(w);
        put_many(w, "T", 0, 2, 100);
        info_of(w, &info);
        cr_assert_eq(info.writable, 1);
        cr_assert_eq(read_all(w, "T", 0, 0), there + 2);
        w = world_kill(w);
        cr_assert_eq(read_all(w, "T", 0, 0), there + 2);
        world_end(w);
    }
}

Test(fault, a_torn_write_that_cannot_be_cleaned_bars_appends_until_it_can)
{
    struct world *w = world_new("torn");
    w->conf.index = 0;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 4, 100);
    world_space(w, 200, "commitlog"); /* one whole record of the next two gets through */
    struct zr_msg m[2] = { msg_of("T", 0, "a", 1, NULL), msg_of("T", 0, "b", 1, NULL) };
    char body[100] = { 'z' };
    m[0].body = m[1].body = (struct zr_span){ (uint8_t *)body, 100 };
    struct zr_put p[2] = { [0 ... 1] = { .hdr = ZR_HDR(struct zr_put, 0) } };
    int64_t end;
    /* the first write is short, the second and all after it (the cleaning too) fail */
    atomic_store(&w->fault[OP_PWRITE].calls, 0);
    atomic_store(&w->fault[OP_PWRITE].error, EIO);
    atomic_store(&w->fault[OP_PWRITE].after, 1);
    zs_append(w->st, m, 2, p, &end);
    cr_assert_eq(p[0].status, ZR_EIO);
    cr_assert_eq(p[1].status, ZR_EIO);
    struct zr_put q = put_one(w, "T", 0, "x", NULL);
    cr_assert_eq(q.status, ZR_EIO);
    world_mend(w);
    q = put_one(w, "T", 0, "x", NULL);
    cr_assert_eq(q.status, ZR_OK);
    cr_assert_eq(q.queue_offset, 4);
    cr_assert_eq(q.physical_offset, 4 * 192);
    w = world_kill(w);
    cr_assert_eq(max_of(w, "T", 0), 5);
    cr_assert_eq(read_all(w, "T", 0, 0), 5);
    world_end(w);
}

Test(fault, no_segment_can_be_made)
{
    struct world *w = world_new("nosegment");
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 5, 1000);
    world_fault(w, OP_OPEN, 0, ENOSPC, "00000000000000065536");
    int64_t n = 5;
    struct zr_put p;
    char body[1001] = { 0 };
    memset(body, 'x', 1000);
    while ((p = put_one(w, "T", 0, body, NULL)).status == ZR_OK) n++;
    cr_assert_eq(p.status, ZR_EFULL);
    cr_assert_eq(max_of(w, "T", 0), n);
    world_mend(w);
    p = put_one(w, "T", 0, body, NULL);
    cr_assert_eq(p.status, ZR_OK);
    cr_assert_eq(p.physical_offset, 65536);
    cr_assert_eq(p.queue_offset, n);
    w = world_kill(w);
    cr_assert_eq(read_all(w, "T", 0, 0), n + 1);
    world_end(w);
}

Test(fault, queue_files_that_cannot_be_written_do_not_stop_appends)
{
    struct world *w = world_new("noqueue");
    cr_assert_eq(world_open(w), ZR_OK);
    world_fault(w, OP_OPEN, 0, ENOSPC, "consumequeue");
    put_many(w, "T", 0, 500, 100);
    cr_assert_eq(read_all(w, "T", 0, 100), 500);
    world_mend(w);
    world_close(w);
    char path[1024];
    file_path(w, path, "abort");
    cr_assert_eq(file_size_of(path), -1);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 100), 500);
    world_end(w);
}

Test(fault, a_stop_that_cannot_write_its_queues_is_not_clean)
{
    struct world *w = world_new("dirtystop");
    cr_assert_eq(world_open(w), ZR_OK);
    world_fault(w, OP_OPEN, 0, ENOSPC, "consumequeue");
    put_many(w, "T", 0, 50, 100);
    world_close(w);
    world_mend(w);
    char path[1024];
    file_path(w, path, "abort");
    cr_assert_geq(file_size_of(path), 0);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 100), 50);
    world_end(w);
}

Test(fault, a_failed_flush_is_never_taken_back)
{
    struct world *w = world_new("fsync");
    struct zr_storage_info info;
    w->conf.sync = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 3, 100);
    flush_all(w);
    int64_t good = atomic_load(&w->flushed);
    cr_assert_eq(good, 3 * 192);
    world_fault(w, OP_FDATASYNC, 0, EIO, "commitlog");
    struct zr_put p = put_one(w, "T", 0, "lost", NULL);
    cr_assert_eq(p.status, ZR_OK);
    flush_all(w);
    cr_assert_eq(atomic_load(&w->failed), 1);
    world_mend(w); /* the device is well again: it makes no difference */
    flush_all(w);
    cr_assert_eq(atomic_load(&w->flushed), good);
    cr_assert_eq(max_of(w, "T", 0), 3); /* never seen by a consumer */
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_EIO);
    info_of(w, &info);
    cr_assert_eq(info.writable, 0);
    cr_assert(strstr(info.why_not.ptr, "durable"));
    cr_assert_eq(info.positions.flushed, good);
    cr_assert_eq(read_all(w, "T", 0, 100), 3);
    world_close(w);
    char path[1024];
    file_path(w, path, "abort");
    cr_assert_geq(file_size_of(path), 0, "such a stop is not clean");
    world_end(w);
}

/* Clients took all descriptors: that is no disk that failed. */
Test(fault, a_flush_without_a_descriptor_is_tried_again)
{
    struct world *w = world_new("emfile");
    struct zr_storage_info info;
    w->conf.sync = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    world_fault(w, OP_SYNC_DIR, 0, EMFILE, "commitlog");
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_OK);
    info_of(w, &info);
    zs_want_flushed(w->st, info.positions.written);
    while (atomic_load(&w->fault[OP_SYNC_DIR].calls) < 2) sched_yield(); /* tried twice */
    cr_assert_eq(atomic_load(&w->failed), 0);
    cr_assert_eq(atomic_load(&w->flushed), 0, "nothing is durable yet");
    world_mend(w);
    flush_all(w);
    cr_assert_gt(atomic_load(&w->flushed), 0);
    cr_assert_eq(max_of(w, "T", 0), 1);
    world_end(w);
}

Test(fault, a_segments_name_must_be_durable_before_its_bytes_count)
{
    struct world *w = world_new("name");
    w->conf.sync = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    world_fault(w, OP_SYNC_DIR, 0, EIO, "commitlog");
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_OK);
    flush_all(w);
    cr_assert_eq(atomic_load(&w->failed), 1);
    cr_assert_eq(atomic_load(&w->flushed), 0);
    world_end(w);
}

/* The kernel may have dropped what a failed sync did not bring to the disk: one that succeeds later is no proof. */
Test(fault, a_failed_sync_of_queue_files_is_never_taken_back)
{
    struct world *w = world_new("queuesync");
    char path[1024];
    w->conf.checkpoint_interval_ms = 20;
    cr_assert_eq(world_open(w), ZR_OK);
    world_fault(w, OP_FDATASYNC, 0, EIO, "consumequeue");
    put_many(w, "T", 0, 10, 100);
    for (int i = 0; i < 5000 && !world_said(w, "could not be made durable") && atomic_load(&w->fault[OP_FDATASYNC].calls) < 2; i++) {
        struct timespec ts = { 0, 1000000 };
        nanosleep(&ts, NULL);
    }
    world_mend(w);
    put_many(w, "T", 0, 10, 100);
    world_close(w);
    file_path(w, path, "abort");
    cr_assert_geq(file_size_of(path), 0, "such a stop is not clean");
    cr_assert(world_said(w, "no position is saved any more"), "%s", w->lines);
    world_quiet(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 100), 20);
    world_close(w);
    cr_assert_eq(file_size_of(path), -1, "and the next one is");
    world_end(w);
}

/* A killed process may have made a segment and not have come to syncing its folder: the next one cannot know. */
Test(fault, names_that_a_killed_process_made_are_synced_by_the_next)
{
    for (uint32_t sync = 0; sync < 2; sync++) {
        struct world *w = world_new("names");
        w->conf.sync = sync;
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 100, 100);
        struct world *k = world_copy(w);
        world_end(w);
        world_fault(k, OP_SYNC_DIR, 0, EIO, "commitlog");
        cr_assert_neq(world_open(k), ZR_OK, "sync %u: the folder was not synced", sync);
        world_mend(k);
        cr_assert_eq(world_open(k), ZR_OK);
        cr_assert_eq(read_all(k, "T", 0, 100), 100);
        world_end(k);
    }
}

Test(fault, under_sync_flush_only_flushed_messages_are_seen)
{
    struct world *w = world_new("sync");
    w->conf.sync = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int round = 0; round < 30; round++) {
        put_many(w, "T", 0, 7, 100);
        put_many(w, "T", 1, 3, 100);
    }
    flush_all(w);
    cr_assert_eq(read_all(w, "T", 0, 100), 210);
    cr_assert_eq(read_all(w, "T", 1, 100), 90);
    world_fault(w, OP_FDATASYNC, 0, EIO, "commitlog");
    put_one(w, "T", 0, "unseen", NULL);
    flush_all(w);
    struct answer a;
    cr_assert_eq(read_at(w, "T", 0, 210, 32, &a), ZR_OK);
    cr_assert_eq(a.r.what, ZR_READ_OFFSET_OVERFLOW_ONE);
    world_end(w);
}

/* What is delayed, timed or half is read by its place: who asks must know whether it is lost, or cannot be had now. */
Test(fault, a_record_that_cannot_be_had_now_is_not_said_to_be_gone)
{
    static const struct { enum op op; int64_t error; zr_status status; } rows[] = {
        { OP_OPEN, EMFILE, ZR_EAGAIN }, { OP_OPEN, EIO, ZR_EAGAIN }, { OP_PREAD, EIO, ZR_EIO }, { OP_PREAD, ENOMEM, ZR_ENOMEM },
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct world *w = world_new("notnow");
        struct zr_piece piece;
        uint64_t pin;
        int64_t at, ms;
        w->conf.index = 0;
        w->conf.max_open_segments = 4;
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 1000, 500);
        world_close(w);
        cr_assert_eq(world_open(w), ZR_OK);
        struct zr_queue *q = zs_queue(w->st, zl_str("T"), 0, 0);
        world_fault(w, rows[i].op, 0, rows[i].error, "commitlog");
        cr_assert_eq(zs_record_at(w->st, 0, &piece, &pin), rows[i].status, "row %u: %d", i, zs_record_at(w->st, 0, &piece, &pin));
        cr_assert_eq(zs_time_at(w->st, q, 0, &ms), rows[i].status, "row %u", i);
        cr_assert_eq(zs_offset_at(w->st, q, 0, 0, &at), rows[i].status, "row %u", i);
        world_mend(w);
        cr_assert_eq(zs_record_at(w->st, 0, &piece, &pin), ZR_OK, "row %u", i);
        zs_unpin(w->st, pin);
        cr_assert_eq(zs_time_at(w->st, q, 0, &ms), ZR_OK);
        cr_assert_eq(zs_offset_at(w->st, q, 0, 0, &at), ZR_OK);
        cr_assert_eq(zs_record_at(w->st, 1, &piece, &pin), ZR_ENOENT);
        world_end(w);
    }
}

Test(fault, a_record_that_is_damaged_is_said_to_be)
{
    struct world *w = world_new("bitrot");
    struct zr_piece piece;
    uint64_t pin;
    char path[600];
    w->conf.index = 0;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 300, 500);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    file_path(w, path, "commitlog/00000000000000000000");
    file_flip(path, 200);
    cr_assert_eq(zs_record_at(w->st, 0, &piece, &pin), ZR_ECORRUPT);
    world_end(w);
}

Test(fault, a_record_that_is_not_flushed_is_there_later)
{
    struct world *w = world_new("unflushed");
    struct zr_piece piece;
    uint64_t pin;
    w->conf.sync = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 3, 100);
    flush_all(w);
    world_fault(w, OP_FDATASYNC, 0, EMFILE, "commitlog");
    struct zr_put put = put_one(w, "T", 0, "unseen", NULL);
    cr_assert_eq(put.status, ZR_OK);
    cr_assert_eq(zs_record_at(w->st, put.physical_offset, &piece, &pin), ZR_EAGAIN);
    cr_assert_eq(zs_record_at(w->st, put.physical_offset + put.size, &piece, &pin), ZR_ENOENT);
    world_end(w);
}

Test(fault, many_messages_in_one_queue_without_a_consumer_under_sync_flush)
{
    struct world *w = world_new("syncring");
    w->conf.sync = 1;
    w->conf.max_tail_bytes = 8192;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 3000; i++) cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_OK);
    flush_all(w);
    cr_assert_eq(read_all(w, "T", 0, 0), 3000);
    world_end(w);
}

Test(fault, a_page_that_cannot_be_read_is_no_crash_and_no_wrong_message)
{
    struct world *w = world_new("eio");
    w->conf.index = 0;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 300, 500);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    world_fault(w, OP_PREAD, 0, EIO, "consumequeue");
    struct answer a;
    cr_assert_eq(read_at(w, "T", 0, 5, 32, &a), ZR_OK);
    cr_assert_neq(a.r.what, ZR_READ_FOUND);
    world_mend(w);
    cr_assert_eq(read_all(w, "T", 0, 500), 300);
    world_end(w);
}

/* Every single write, sync, rename, truncation of a life fails once: the store goes on or stops, and the next start has
 * every message that was acknowledged. */
Test(fault, every_call_may_fail_once)
{
    static const enum op ops[] = { OP_PWRITE, OP_PWRITEV, OP_OPEN, OP_FDATASYNC, OP_FSYNC, OP_FTRUNCATE, OP_RENAME, OP_SYNC_DIR, OP_UNLINK };
    for (uint32_t o = 0; o < sizeof ops / sizeof *ops; o++) {
        for (int64_t nth = 0; nth < 24; nth++) {
            struct world *w = world_new("every");
            int64_t acked = 0, hit;
            w->conf.segment_size = 16384;
            w->conf.checkpoint_interval_ms = 100;
            cr_assert_eq(world_open(w), ZR_OK);
            world_fault(w, ops[o], nth, o & 1 ? ENOSPC : EIO, NULL);
            for (int i = 0; i < 100; i++) {
                char body[401];
                body_of(body, 400, "T", 0, acked);
                struct zr_msg m = msg_of("T", 0, body, 400, NULL);
                struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
                int64_t end;
                zs_append(w->st, &m, 1, &p, &end);
                if (p.status == ZR_OK) cr_assert_eq(p.queue_offset, acked++);
                if (atomic_load(&w->fault[ops[o]].calls) > nth) atomic_store(&w->fault[ops[o]].after, -1); /* once */
            }
            hit = atomic_load(&w->fault[ops[o]].calls);
            world_mend(w);
            if (nth & 1) {
                w = world_kill(w);
            } else {
                world_close(w);
                cr_assert_eq(world_open(w), ZR_OK, "op %u call %lld: %s", o, (long long)nth, w->error);
            }
            cr_assert_geq(max_of(w, "T", 0), acked, "op %u call %lld", o, (long long)nth);
            cr_assert_eq(read_all(w, "T", 0, 400), max_of(w, "T", 0), "op %u call %lld: %s", o, (long long)nth, w->lines);
            world_end(w);
            if (hit <= nth) break; /* no such call any more */
        }
    }
}

Test(fault, a_write_of_nothing_is_no_sign_of_space)
{
    struct world *w = world_new("nothing");
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 3, 100);
    put_many(w, "Gone", 0, 3, 100);
    struct zr_queue *dead = zs_queue(w->st, zl_str("Gone"), 0, 0);
    cr_assert_eq(zs_remove_topic(w->st, zl_str("Gone")), ZR_OK);
    world_space(w, 0, "commitlog");
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_EFULL);
    struct zr_msg m = msg_of("Gone", 0, "x", 1, NULL);
    struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
    int64_t end;
    m.queue = dead; /* nothing is left to write of this call */
    zs_append(w->st, &m, 1, &p, &end);
    cr_assert_eq(p.status, ZR_ENOENT);
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zs_info(w->st, &info);
    cr_assert_eq(info.writable, 0);
    world_mend(w);
    cr_assert_eq(put_one(w, "T", 0, "x", NULL).status, ZR_OK);
    zs_info(w->st, &info);
    cr_assert_eq(info.writable, 1);
    world_end(w);
}

/* Descriptors are short for a while: what is whole is neither passed over, nor taken for lost and filled. */
Test(fault, a_shortage_passes_over_no_message)
{
    for (int lost = 0; lost < 2; lost++) {
        struct world *w = world_new("short");
        struct answer a;
        char path[1024];
        w->conf.index = 0;
        w->conf.max_open_segments = 4;
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 1000, 500);
        world_close(w);
        if (lost) { /* the entry of message 150 */
            uint8_t zeros[20] = { 0 };
            file_path(w, path, "consumequeue/T/0/00000000000000002000");
            file_write(path, 50 * 20, zeros, sizeof zeros);
        }
        cr_assert_eq(world_open(w), ZR_OK);
        world_fault(w, OP_OPEN, 0, EMFILE, "commitlog");
        int64_t at = lost ? 150 : 0, stuck = 0, got = 0;
        while (at < 1000 && !stuck) {
            cr_assert_eq(read_at(w, "T", 0, at, 32, &a), ZR_OK);
            cr_assert_eq(a.r.next_offset, at + a.r.n_messages, "passed over at %lld: %u of them, then %lld", (long long)at, a.r.n_messages,
                         (long long)a.r.next_offset);
            if (a.r.n_messages == 0) cr_assert_eq(a.r.what, ZR_READ_OFFSET_FOUND_NULL);
            stuck = a.r.n_messages == 0;
            got += a.r.n_messages;
            at = a.r.next_offset;
            zs_unpin(w->st, a.r.pin);
        }
        cr_assert(stuck, "all %lld were had: no shortage", (long long)got);
        world_mend(w);
        cr_assert_eq(read_all(w, "T", 0, 500), 1000);
        world_close(w);
        cr_assert_eq(world_open(w), ZR_OK);
        cr_assert_eq(read_all(w, "T", 0, 500), 1000, "lost for good");
        world_end(w);
    }
}
