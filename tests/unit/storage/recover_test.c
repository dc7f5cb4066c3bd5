/* SPDX-License-Identifier: Apache-2.0 */
/* What a start makes of a folder: closed cleanly, killed at any moment, cut, flipped, with files missing. */
#include "host.h"
#include "zs_int.h"
#include <sys/stat.h>
#include <sys/time.h>

#define SIZE 500u
#define REC (91 + 1 + SIZE) /* topic "T" */

static void expect(struct world *w, const char *topic, int32_t q, int64_t min, int64_t max)
{
    cr_assert_eq(min_of(w, topic, q), min, "min %lld", (long long)min_of(w, topic, q));
    cr_assert_eq(max_of(w, topic, q), max, "max %lld: %s", (long long)max_of(w, topic, q), w->lines);
}

Test(recover, a_closed_store_opens_with_everything)
{
    struct world *w = world_new("clean");
    cr_assert_eq(world_open(w), ZR_OK);
    for (int q = 0; q < 5; q++) put_many(w, "T", q, 130, SIZE);
    world_close(w);
    world_quiet(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert(world_said(w, "closed cleanly"));
    cr_assert(world_said(w, ": 0 records, 0 entries made"), "%s", w->lines); /* nothing had to be read */
    for (int q = 0; q < 5; q++) cr_assert_eq(read_all(w, "T", q, SIZE), 130);
    put_many(w, "T", 2, 5, SIZE);
    expect(w, "T", 2, 0, 135);
    world_end(w);
}

Test(recover, an_empty_store_makes_no_segment_and_opens_again)
{
    struct world *w = world_new("empty");
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    file_path(w, path, "commitlog");
    cr_assert_eq(count_files(path), 0);
    w = world_kill(w);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 1, SIZE);
    world_end(w);
}

Test(recover, a_killed_store_has_every_message_and_goes_on_with_its_offsets)
{
    struct world *w = world_new("killed");
    cr_assert_eq(world_open(w), ZR_OK);
    for (int round = 0; round < 6; round++) {
        put_many(w, "T", round % 3, 77, SIZE);
        put_many(w, "U", 0, 10, 1000);
        w = world_kill(w);
        cr_assert(world_said(w, "not closed cleanly"));
    }
    for (int q = 0; q < 3; q++) {
        expect(w, "T", q, 0, 154);
        cr_assert_eq(read_all(w, "T", q, SIZE), 154);
    }
    cr_assert_eq(read_all(w, "U", 0, 1000), 60);
    world_end(w);
}

/* With and without the snapshot and the checkpoint; with and without queue files. */
Test(recover, queues_are_made_anew_from_the_log)
{
    for (int what = 0; what < 8; what++) {
        struct world *w = world_new("anew"), *n;
        char path[1024];
        cr_assert_eq(world_open(w), ZR_OK);
        for (int q = 0; q < 3; q++) put_many(w, "T", q, 150, SIZE);
        world_close(w);
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 1, 30, SIZE);
        n = world_copy(w);
        world_end(w);
        if (what & 1) file_path(n, path, "zarya"), remove_tree(path);
        if (what & 2) file_path(n, path, "checkpoint"), remove(path);
        if (what & 4) file_path(n, path, "consumequeue"), remove_tree(path);
        cr_assert_eq(world_open(n), ZR_OK);
        for (int q = 0; q < 3; q++) {
            expect(n, "T", q, 0, q == 1 ? 180 : 150);
            cr_assert_eq(read_all(n, "T", q, SIZE), q == 1 ? 180 : 150, "case %d queue %d", what, q);
        }
        put_many(n, "T", 0, 1, SIZE);
        world_end(n);
    }
}

/* The last segment cut at every byte of its last two records: each whole record stays, nothing else is lost. */
Test(recover, the_log_cut_at_every_byte_of_its_last_records)
{
    struct world *w = world_new("cut");
    w->conf.index = 0;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 8, 100);
    struct world *base = world_copy(w);
    world_end(w);
    const int64_t rec = 91 + 1 + 100;
    for (int64_t at = 6 * rec; at <= 8 * rec; at++) {
        struct world *n = world_copy(base);
        char path[1024];
        file_path(n, path, "commitlog/00000000000000000000");
        cr_assert_eq(truncate(path, at), 0);
        cr_assert_eq(world_open(n), ZR_OK, "cut at %lld: %s", (long long)at, n->error);
        int64_t whole = (at + 2) / rec; /* a record's last two bytes are zero, as what follows the cut is */
        cr_assert_eq(max_of(n, "T", 0), whole, "cut at %lld", (long long)at);
        cr_assert_eq(read_all(n, "T", 0, 100), whole);
        put_many(n, "T", 0, 2, 100);
        cr_assert_eq(read_all(n, "T", 0, 100), whole + 2);
        cr_assert_eq(file_size_of(path), 65536);
        world_end(n);
    }
    world_end(base);
}

/* The same after a clean stop: the snapshot and the queues know of records that are not there any more. */
Test(recover, a_closed_log_cut_afterwards_still_opens)
{
    struct world *base = world_new("cutclean");
    const int64_t rec = 91 + 1 + 100;
    cr_assert_eq(world_open(base), ZR_OK);
    put_many(base, "T", 0, 8, 100);
    world_close(base);
    for (int64_t at = 5 * rec + 3; at <= 8 * rec; at += 41) {
        struct world *n = world_copy(base);
        char path[1024];
        file_path(n, path, "commitlog/00000000000000000000");
        cr_assert_eq(truncate(path, at), 0);
        cr_assert_eq(world_open(n), ZR_OK, "%s", n->error);
        int64_t whole = (at + 2) / rec;
        cr_assert_eq(read_all(n, "T", 0, 100), whole, "cut at %lld", (long long)at);
        put_many(n, "T", 0, 2, 100);
        cr_assert_eq(read_all(n, "T", 0, 100), whole + 2);
        world_end(n);
    }
    world_end(base);
}

/* A flipped byte anywhere in a record in the middle costs that record and no other. */
Test(recover, a_flipped_byte_costs_one_record)
{
    struct world *base = world_new("flip");
    base->conf.index = 0;
    const int64_t rec = 91 + 1 + 100;
    cr_assert_eq(world_open(base), ZR_OK);
    put_many(base, "T", 0, 9, 100);
    struct world *w = world_copy(base);
    world_end(base);
    for (int64_t in = 0; in < rec; in += 3) {
        struct world *n = world_copy(w);
        char path[1024];
        file_path(n, path, "commitlog/00000000000000000000");
        file_flip(path, 4 * rec + in);
        cr_assert_eq(world_open(n), ZR_OK, "%s", n->error);
        int64_t got = read_all(n, "T", 0, 0);
        uint32_t covered = in < 12 || (in >= 28 && in < 36) || (in >= 84 && in < 189); /* the header's other fields have no checksum */
        cr_assert(got == 8 || (got == 9 && !covered), "%lld bytes in: %lld messages", (long long)in, (long long)got);
        if (covered) cr_assert(world_said(n, "the log is damaged from 768 to 960"), "%lld: %s", (long long)in, n->lines);
        expect(n, "T", 0, 0, 9);
        put_many(n, "T", 0, 1, 100);
        expect(n, "T", 0, 0, 10);
        n = world_kill(n);
        expect(n, "T", 0, 0, 10);
        world_end(n);
    }
    world_end(w);
}

/* The whole queue gone too, so that the entry of the damaged record can come from nowhere. */
Test(recover, messages_behind_a_damaged_record_keep_their_offsets)
{
    struct world *base = world_new("gap");
    const int64_t rec = 91 + 1 + 100;
    char path[1024];
    cr_assert_eq(world_open(base), ZR_OK);
    put_many(base, "T", 0, 9, 100);
    struct world *n = world_copy(base);
    world_end(base);
    file_path(n, path, "commitlog/00000000000000000000");
    file_flip(path, 4 * rec + 100);
    file_path(n, path, "consumequeue");
    remove_tree(path);
    file_path(n, path, "zarya");
    remove_tree(path);
    cr_assert_eq(world_open(n), ZR_OK);
    expect(n, "T", 0, 0, 9);
    cr_assert_eq(read_all(n, "T", 0, 100), 8);
    struct answer a;
    cr_assert_eq(read_at(n, "T", 0, 5, 1, &a), ZR_OK);
    cr_assert_eq(record_of(&a, 0).queue_offset, 5);
    zs_unpin(n->st, a.r.pin);
    world_end(n);
}

Test(recover, damage_in_an_older_segment_does_not_cut_the_newer_ones)
{
    struct world *base = world_new("older");
    char path[1024];
    uint8_t page[4096] = { 0 };
    base->conf.index = 0;
    cr_assert_eq(world_open(base), ZR_OK);
    put_many(base, "T", 0, 400, SIZE); /* 4 segments */
    struct world *n = world_copy(base);
    world_end(base);
    file_path(n, path, "commitlog/00000000000000065536");
    file_write(path, 8192, page, sizeof page);
    file_path(n, path, "checkpoint"); /* so that the log is read from its begin */
    remove(path);
    file_path(n, path, "zarya");
    remove_tree(path);
    cr_assert_eq(world_open(n), ZR_OK);
    int64_t got = read_all(n, "T", 0, SIZE);
    cr_assert(got >= 400 - 9 && got < 400, "%lld", (long long)got);
    expect(n, "T", 0, 0, 400);
    cr_assert(world_said(n, "damaged"));
    world_end(n);
}

Test(recover, a_segment_in_the_middle_that_is_cut_or_missing)
{
    for (int missing = 0; missing < 2; missing++) {
        struct world *base = world_new("middle");
        char path[1024];
        cr_assert_eq(world_open(base), ZR_OK);
        put_many(base, "T", 0, 400, SIZE);
        world_close(base);
        file_path(base, path, "commitlog/00000000000000065536");
        if (missing) remove(path);
        else cr_assert_eq(truncate(path, 20001), 0);
        cr_assert_eq(world_open(base), ZR_OK, "%s", base->error);
        int64_t got = read_all(base, "T", 0, SIZE), per = 65536 / REC;
        cr_assert_eq(got, missing ? 400 - per : 400 - per + 20001 / REC);
        expect(base, "T", 0, 0, 400);
        put_many(base, "T", 0, 3, SIZE);
        cr_assert_eq(max_of(base, "T", 0), 403);
        base = world_kill(base);
        cr_assert_eq(max_of(base, "T", 0), 403);
        world_end(base);
    }
}

Test(recover, the_last_segment_missing_or_empty)
{
    for (int empty = 0; empty < 2; empty++) {
        struct world *w = world_new("last");
        char path[1024];
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 400, SIZE);
        world_close(w);
        file_path(w, path, "commitlog/00000000000000196608");
        cr_assert_gt(file_size_of(path), 0);
        if (empty) cr_assert_eq(truncate(path, 0), 0);
        else remove(path);
        cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
        int64_t left = 65536 / REC * 3;
        expect(w, "T", 0, 0, 400); /* no offset is given a second time */
        cr_assert(world_said(w, "the log is damaged from 196608 to"), "%s", w->lines);
        cr_assert_eq(read_all(w, "T", 0, SIZE), left);
        put_many(w, "T", 0, 10, SIZE);
        expect(w, "T", 0, 0, 410);
        cr_assert_eq(read_all(w, "T", 0, SIZE), left + 10);
        world_end(w);
    }
}

/* Bytes of an older life right behind the end, at the very place where the next records will end. */
Test(recover, old_records_behind_the_tail_do_not_rise_again)
{
    struct world *w = world_new("stale");
    char path[1024];
    const int64_t rec = 91 + 1 + 100;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 10, 100);
    struct world *n = world_copy(w);
    world_end(w);
    file_path(n, path, "commitlog/00000000000000000000");
    uint8_t zeros[8] = { 0 }, old[192 * 5];
    file_read(path, 5 * rec, old, sizeof old);
    file_write(path, 5 * rec, zeros, 0);
    /* cut at the fifth record as a recovery would, then let the old ones stand behind it again: the next start must not take
     * them although they are whole, at their right place, and were acknowledged once */
    cr_assert_eq(truncate(path, 5 * rec), 0);
    file_path(n, path, "zarya");
    remove_tree(path);
    cr_assert_eq(world_open(n), ZR_OK);
    expect(n, "T", 0, 0, 5);
    atomic_store(&n->wall, 1900000000000);
    put_many(n, "T", 0, 2, 100);
    struct world *k = world_copy(n);
    world_end(n);
    file_path(k, path, "commitlog/00000000000000000000");
    file_write(path, 7 * rec, old + 2 * rec, (uint64_t)(3 * rec));
    cr_assert_eq(world_open(k), ZR_OK);
    expect(k, "T", 0, 0, 10); /* offsets 7 to 9 follow: to a reader of files they are the messages that were acknowledged */
    world_end(k);
}

Test(recover, remains_of_another_history_are_not_taken_for_messages)
{
    struct world *w = world_new("history");
    char path[1024];
    const int64_t rec = 91 + 1 + 100;
    uint8_t old[192 * 3];
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 10, 100);
    file_path(w, path, "commitlog/00000000000000000000");
    file_read(path, 7 * rec, old, sizeof old); /* offsets 7, 8, 9 at their places */
    world_end(w);
    w = world_new("history");
    cr_assert_eq(world_open(w), ZR_OK);
    atomic_store(&w->wall, 1900000000000);
    put_many(w, "T", 0, 7, 100);
    put_many(w, "T", 0, 0, 100);
    struct world *n = world_copy(w);
    world_end(w);
    /* the new history has offsets up to 12 in this queue, of shorter records: the old ones come too late and too old */
    cr_assert_eq(world_open(n), ZR_OK);
    for (int i = 0; i < 6; i++) put_one(n, "T", 0, "", NULL);
    int64_t end = atomic_load(&n->written);
    struct world *k = world_copy(n);
    world_end(n);
    file_path(k, path, "commitlog/00000000000000000000");
    zl_store64(old + 28, (uint64_t)end);
    file_write(path, end, old, (uint64_t)rec);
    cr_assert_eq(world_open(k), ZR_OK);
    expect(k, "T", 0, 0, 13);
    cr_assert(world_said(k, "remains of an older log"), "%s", k->lines);
    uint8_t head[8];
    file_read(path, end, head, 8);
    cr_assert_eq(zl_load64(head), 0, "what stood behind the end is zero now");
    world_end(k);
}

/* No checksum covers a header: one that makes its record look older than its neighbours costs that record, not those behind it. */
Test(recover, an_old_looking_record_does_not_end_the_log)
{
    struct world *w = world_new("oldlooking");
    char path[1024];
    uint8_t head[64];
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 300, 100);
    struct world *k = world_copy(w);
    world_end(w);
    file_path(k, path, "commitlog/00000000000000000000");
    file_read(path, 100 * 192, head, sizeof head);
    cr_assert_eq(zl_load64(head + 20), 100);
    zl_store64(head + 20, 95);
    zl_store64(head + 56, zl_load64(head + 56) - 5000);
    file_write(path, 100 * 192, head, sizeof head);
    cr_assert_eq(world_open(k), ZR_OK);
    expect(k, "T", 0, 0, 300);
    cr_assert_eq(read_all(k, "T", 0, 100), 299);
    cr_assert(world_said(k, "the log goes on behind them"), "%s", k->lines);
    world_end(k);
}

/* A flipped bit in a queue offset leaves out those between: they are there, and come after the record that claims so. */
Test(recover, a_record_that_claims_a_later_offset_hides_no_neighbour)
{
    struct world *w = world_new("claims");
    char path[1024];
    uint8_t offset[8];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 45; i++) put_many(w, "T", 0, 1, 100), put_many(w, "T", 1, 1, 1000); /* a message that was lost would have had room */
    struct world *k = world_copy(w);
    world_end(w);
    file_path(k, path, "commitlog/00000000000000000000");
    file_read(path, 17 * (192 + 1092) + 20, offset, sizeof offset);
    cr_assert_eq(zl_load64(offset), 17);
    zl_store64(offset, 25);
    file_write(path, 17 * (192 + 1092) + 20, offset, sizeof offset);
    cr_assert_eq(world_open(k), ZR_OK);
    expect(k, "T", 0, 0, 45);
    cr_assert_eq(read_all(k, "T", 0, 100), 44);
    world_close(k);
    cr_assert_eq(world_open(k), ZR_OK);
    cr_assert_eq(read_all(k, "T", 0, 100), 44);
    world_end(k);
}

Test(recover, what_stands_behind_the_tail_is_made_zero)
{
    struct world *w = world_new("zero");
    char path[1024];
    uint8_t junk[3000], head[3000];
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 10, 100);
    struct world *n = world_copy(w);
    world_end(w);
    memset(junk, 0x5A, sizeof junk);
    file_path(n, path, "commitlog/00000000000000000000");
    file_write(path, 10 * 192, junk, sizeof junk);
    cr_assert_eq(world_open(n), ZR_OK);
    file_read(path, 10 * 192, head, sizeof head);
    for (uint32_t i = 0; i < sizeof head; i++) cr_assert_eq(head[i], 0);
    cr_assert(world_said(n, "the log was cut at 1920"), "%s", n->lines);
    put_many(n, "T", 0, 1, 100);
    cr_assert_eq(read_all(n, "T", 0, 100), 11);
    world_end(n);
}

Test(recover, queue_files_of_odd_length_or_with_torn_entries)
{
    for (int64_t len = 0; len <= 2000; len += 167) {
        struct world *w = world_new("oddqueue");
        char path[1024];
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 250, 100);
        world_close(w);
        file_path(w, path, "consumequeue/T/0/00000000000000004000");
        cr_assert_eq(truncate(path, len), 0);
        cr_assert_eq(world_open(w), ZR_OK);
        expect(w, "T", 0, 0, 250);
        cr_assert_eq(read_all(w, "T", 0, 100), 250, "cut to %lld: %s", (long long)len, w->lines);
        cr_assert_eq(file_size_of(path), 2000);
        world_end(w);
    }
}

Test(recover, lost_entries_and_files_of_a_queue_come_back_from_the_log)
{
    static const char *const files[] = { "consumequeue/T/0/00000000000000000000", "consumequeue/T/0/00000000000000002000",
                                         "consumequeue/T/0/00000000000000004000", "consumequeue/T/0", "consumequeue/T", "consumequeue" };
    for (int what = 0; what < 6; what++) {
        struct world *w = world_new("lost");
        char path[1024];
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 250, 100);
        put_many(w, "T", 1, 50, 100);
        world_close(w);
        file_path(w, path, "%s", files[what]);
        if (what < 3) remove(path);
        else remove_tree(path);
        cr_assert_eq(world_open(w), ZR_OK);
        expect(w, "T", 0, 0, 250);
        cr_assert_eq(read_all(w, "T", 0, 100), 250, "%s: %s", files[what], w->lines);
        cr_assert_eq(read_all(w, "T", 1, 100), 50);
        cr_assert(world_said(w, "found again in the log"));
        world_quiet(w);
        cr_assert_eq(read_all(w, "T", 0, 100), 250);
        cr_assert_not(world_said(w, "found again")); /* once is enough */
        world_end(w);
    }
}

Test(recover, a_zeroed_entry_in_the_middle_is_made_anew)
{
    struct world *w = world_new("entry");
    char path[1024];
    uint8_t zeros[20 * 40] = { 0 };
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 250, 100);
    world_close(w);
    file_path(w, path, "consumequeue/T/0/00000000000000002000");
    file_write(path, 20 * 7, zeros, 20);
    file_write(path, 20 * 30, zeros, sizeof zeros);
    cr_assert_eq(world_open(w), ZR_OK);
    struct answer a;
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("T"), .offset = 107, .pieces = a.pieces,
                           .cap_pieces = 64, .max_messages = 4, .flags = ZR_READ_NOWAIT };
    a.r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_EAGAIN);
    cr_assert_eq(read_all(w, "T", 0, 100), 250);
    world_end(w);
}

/* Entries that no file has yet go with their queue: else their memory would be held, and counted, until the end. */
Test(recover, a_removed_topic_gives_its_memory_back)
{
    for (uint32_t sync = 0; sync < 2; sync++) {
        struct world *w = world_new("removed-memory");
        struct answer a;
        int64_t min, max;
        w->conf.sync = sync;
        cr_assert_eq(world_open(w), ZR_OK);
        for (int i = 0; i < 40; i++) {
            for (int32_t id = 0; id < 4; id++) put_many(w, "Gone", id, 3, 50);
            struct zr_queue *handle = zs_queue(w->st, zl_str("Gone"), 2, 0);
            cr_assert_gt(atomic_load(&w->st->tail_bytes), 0);
            cr_assert_eq(zs_remove_topic(w->st, zl_str("Gone")), ZR_OK);
            cr_assert_eq(atomic_load(&w->st->tail_bytes), 0);
            zs_bounds(w->st, handle, &min, &max);
            struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .queue = handle, .offset = 1, .max_messages = 8, .max_bytes = 4096, .pieces = a.pieces, .cap_pieces = 64 };
            a.r = (struct zr_read_result){ .hdr = ZR_HDR(struct zr_read_result, 0) };
            if (zs_read(w->st, &req, &a.r) == ZR_OK) {
                cr_assert_eq(a.r.n_messages, 0);
                zs_unpin(w->st, a.r.pin);
            }
        }
        put_many(w, "Gone", 0, 9, 50);
        flush_all(w); /* under sync flush nothing else is seen */
        cr_assert_eq(read_all(w, "Gone", 0, 50), 9);
        w = world_kill(w);
        cr_assert_eq(read_all(w, "Gone", 0, 50), 9);
        world_end(w);
    }
}

Test(recover, a_removed_topic_never_comes_back)
{
    struct world *w = world_new("removed");
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 120, 100);
    put_many(w, "Gone", 0, 120, 100);
    put_many(w, "Gone", 1, 5, 100);
    struct zr_queue *handle = zs_queue(w->st, zl_str("Gone"), 0, 0);
    cr_assert_eq(zs_remove_topic(w->st, zl_str("Gone")), ZR_OK);
    struct zr_msg m = msg_of("Gone", 0, "x", 1, NULL);
    struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
    int64_t end, min, max;
    m.queue = handle;
    zs_append(w->st, &m, 1, &p, &end);
    cr_assert_eq(p.status, ZR_ENOENT);
    zs_bounds(w->st, handle, &min, &max);
    cr_assert_eq(max, 0);
    file_path(w, path, "consumequeue/Gone");
    cr_assert_eq(file_size_of(path), -1);
    w = world_kill(w);
    cr_assert_null(zs_queue(w->st, zl_str("Gone"), 0, 0));
    put_many(w, "Gone", 0, 3, 100); /* made again: it begins at 0 */
    expect(w, "Gone", 0, 0, 3);
    w = world_kill(w);
    expect(w, "Gone", 0, 0, 3);
    cr_assert_eq(read_all(w, "Gone", 0, 100), 3);
    cr_assert_eq(read_all(w, "T", 0, 100), 120);
    world_close(w);
    file_path(w, path, "consumequeue"); /* everything from the log once more */
    remove_tree(path);
    file_path(w, path, "zarya/queues");
    remove(path);
    file_path(w, path, "zarya/queues.bak");
    remove(path);
    cr_assert_eq(world_open(w), ZR_OK);
    expect(w, "Gone", 0, 0, 3);
    cr_assert_eq(read_all(w, "Gone", 0, 100), 3);
    cr_assert_eq(read_all(w, "T", 0, 100), 120);
    world_end(w);
}

Test(recover, removing_many_topics_costs_a_line_each)
{
    struct world *w = world_new("lines");
    char path[1024], name[32], torn[64];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 600; i++) {
        snprintf(name, sizeof name, "Gone%d", i);
        put_many(w, name, 0, 1, 100);
    }
    put_many(w, "Stays", 0, 5, 100);
    int64_t replaced = w->fault[OP_FSYNC].calls;
    for (int i = 0; i < 600; i++) {
        snprintf(name, sizeof name, "Gone%d", i);
        cr_assert_eq(zs_remove_topic(w->st, zl_str(name)), ZR_OK);
    }
    cr_assert_lt(w->fault[OP_FSYNC].calls - replaced, 60, "the note is not written anew for each");
    file_path(w, path, "zarya/gone");
    cr_assert_eq(count_files(path), 0);
    file_path(w, path, "zarya/removed");
    snprintf(torn, sizeof torn, "%lld Sta", 1ll << 40); /* a line that a kill cut: it must not hide a topic of such a name */
    file_write(path, file_size_of(path), torn, strlen(torn));
    w = world_kill(w);
    cr_assert_eq(zs_remove_topic(w->st, zl_str("Gone7")), ZR_OK);
    put_many(w, "Sta", 0, 2, 100);
    put_many(w, "More", 0, 2, 100);
    cr_assert_eq(zs_remove_topic(w->st, zl_str("More")), ZR_OK);
    w = world_kill(w);
    world_close(w);
    const char *const lost[] = { "consumequeue", "zarya/queues", "zarya/queues.bak" };
    for (int i = 0; i < 3; i++) {
        file_path(w, path, "%s", lost[i]);
        if (i) remove(path);
        else remove_tree(path);
    }
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_null(zs_queue(w->st, zl_str("Gone7"), 0, 0));
    cr_assert_null(zs_queue(w->st, zl_str("Gone599"), 0, 0));
    cr_assert_null(zs_queue(w->st, zl_str("More"), 0, 0));
    cr_assert_eq(read_all(w, "Stays", 0, 100), 5);
    cr_assert_eq(read_all(w, "Sta", 0, 100), 2);
    world_end(w);
}

static void *send_and_remove(void *arg)
{
    struct world *w = arg;
    for (int i = 0; i < 300; i++) cr_assert_eq(zs_remove_topic(w->st, zl_str("Again")), ZR_OK);
    return NULL;
}

Test(recover, a_topic_made_again_while_it_is_removed_keeps_its_files)
{
    struct world *w = world_new("again");
    pthread_t thread;
    char path[1024];
    uint8_t entries[40 * 20];
    w->conf.max_tail_bytes = 400; /* senders write queue files themselves */
    cr_assert_eq(world_open(w), ZR_OK);
    pthread_create(&thread, NULL, send_and_remove, w);
    for (int i = 0; i < 1500; i++) put_one(w, "Again", 0, "x", NULL);
    pthread_join(thread, NULL);
    cr_assert_eq(zs_remove_topic(w->st, zl_str("Again")), ZR_OK);
    for (int i = 0; i < 40; i++) cr_assert_eq(put_one(w, "Again", 0, "y", NULL).queue_offset, i);
    world_close(w);
    file_path(w, path, "consumequeue/Again/0/%020d", 0);
    file_read(path, 0, entries, sizeof entries);
    for (int i = 0; i < 40; i++) cr_assert_neq(zl_load32(entries + i * 20 + 8), 0, "entry %d is in the file", i);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(max_of(w, "Again", 0), 40);
    world_end(w);
}

/* Opens, reads to see that all is well, and returns how many files were opened by the start. */
static int64_t opens_of_start(struct world *w, uint32_t n_queues)
{
    int64_t before = w->fault[OP_OPEN].calls;
    char topic[32];
    cr_assert_eq(world_open(w), ZR_OK);
    int64_t opens = w->fault[OP_OPEN].calls - before;
    for (uint32_t i = 0; i < n_queues; i += 37) {
        snprintf(topic, sizeof topic, "Many%u", i / 10);
        cr_assert_eq(read_all(w, topic, (int32_t)(i % 10), 100), 3, "%s %u", topic, i % 10);
    }
    return opens;
}

Test(recover, a_start_looks_at_no_queue_file_unless_another_broker_was_here)
{
    struct world *w = world_new("quick");
    char topic[32], path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    for (uint32_t i = 0; i < 300; i++) {
        snprintf(topic, sizeof topic, "Many%u", i / 10);
        put_many(w, topic, (int32_t)(i % 10), 3, 100);
    }
    world_close(w);
    cr_assert_lt(opens_of_start(w, 300), 50);
    world_close(w);
    file_path(w, path, "lock"); /* Apache's broker writes this word when it starts */
    file_write(path, 0, "lock", 4);
    file_path(w, path, "consumequeue/Many3"); /* and may have deleted a topic */
    remove_tree(path);
    cr_assert_gt(opens_of_start(w, 30), 300);
    world_close(w);
    cr_assert_lt(opens_of_start(w, 30), 50);
    world_end(w);
}

Test(recover, a_store_whose_log_is_gone_is_refused)
{
    struct world *w = world_new("unmounted");
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 3, 100);
    world_close(w);
    file_path(w, path, "commitlog");
    remove_tree(path);
    cr_assert_eq(world_open(w), ZR_ECORRUPT);
    cr_assert(strstr(w->error, "mounted"), "%s", w->error);
    world_end(w);
}

Test(recover, two_stores_on_one_folder)
{
    struct world *w = world_new("locked");
    cr_assert_eq(world_open(w), ZR_OK);
    char path[1024], cmd[1200];
    file_path(w, path, "lock");
    /* fcntl locks are per process: another process has to try */
    snprintf(cmd, sizeof cmd, "python3 -c \"import fcntl;f=open('%s','r+');fcntl.lockf(f,fcntl.LOCK_EX|fcntl.LOCK_NB,1,0)\" 2>/dev/null", path);
    cr_assert_neq(system(cmd), 0);
    world_close(w);
    cr_assert_eq(system(cmd), 0);
    world_end(w);
}

Test(recover, other_sizes_in_the_configuration_do_not_change_a_store)
{
    struct world *w = world_new("sizes");
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 400, SIZE);
    put_many(w, "T", 1, 30, SIZE);
    world_close(w);
    w->conf.segment_size = 1 << 20;
    w->conf.queue_file_size = 6000;
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    cr_assert_eq(read_all(w, "T", 0, SIZE), 400);
    cr_assert_eq(read_all(w, "T", 1, SIZE), 30);
    put_many(w, "T", 0, 200, SIZE);
    w = world_kill(w);
    cr_assert_eq(read_all(w, "T", 0, SIZE), 600);
    world_end(w);
}

/* Nothing in the name of a log's only file tells its size. */
Test(recover, a_log_of_one_file_keeps_the_size_it_was_made_with)
{
    enum { STOPPED, KILLED, FULL, UNKNOWN, N };
    for (int how = 0; how < N; how++) {
        struct world *w = world_new("onefile");
        char path[1024], second[1024];
        uint32_t n = how == FULL ? 200 : 40;
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, how == KILLED ? n / 2 : n, SIZE);
        world_close(w);
        cr_assert_eq(world_open(w), ZR_OK);
        if (how == KILLED) put_many(w, "T", 0, n / 2, SIZE);
        struct world *k = world_copy(w);
        world_end(w);
        w = k;
        if (how != KILLED) {
            cr_assert_eq(world_open(w), ZR_OK);
            world_close(w);
        }
        file_path(w, path, "zarya");
        if (how >= FULL) remove_tree(path); /* as another broker leaves it */
        file_path(w, second, "commitlog/%020d", 65536);
        if (how == FULL) cr_assert_eq(remove(second), 0);
        file_path(w, path, "commitlog/%020d", 0);
        cr_assert_eq(file_size_of(path), 65536);
        world_quiet(w);
        w->conf.segment_size = 1 << 20;
        cr_assert_eq(world_open(w), ZR_OK, "%d: %s", how, w->error);
        int64_t there = read_all(w, "T", 0, SIZE);
        if (how == FULL) cr_assert_gt(there, 50);
        else cr_assert_eq(there, n);
        cr_assert(!world_said(w, "damaged from"), "%d: %s", how, w->lines);
        put_many(w, "U", 0, 300, SIZE);
        cr_assert_eq(file_size_of(path), how == UNKNOWN ? 1 << 20 : 65536, "%d", how);
        if (how != UNKNOWN) cr_assert(world_said(w, "the log was made with 65536"), "%d: %s", how, w->lines);
        else cr_assert(world_said(w, "is the only file of the log"), "%d: %s", how, w->lines);
        w = world_kill(w);
        cr_assert_eq(read_all(w, "T", 0, SIZE), there);
        cr_assert_eq(read_all(w, "U", 0, SIZE), 300);
        world_end(w);
    }
}

/* Files as Apache leaves them after a kill: checkpoint of times only, no snapshot, a full segment of zeroes made ahead. */
Test(recover, a_folder_of_another_broker_after_a_kill)
{
    struct world *w = world_new("apache");
    char path[1024];
    uint8_t zeros[8] = { 0 };
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 300, SIZE);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 20, SIZE);
    struct world *n = world_copy(w);
    world_end(w);
    file_path(n, path, "zarya");
    remove_tree(path);
    file_path(n, path, "checkpoint");
    file_write(path, 40, zeros, 8);
    file_path(n, path, "commitlog/00000000000000196608");
    FILE *f = fopen(path, "a");
    fclose(f);
    cr_assert_eq(truncate(path, 65536), 0);
    cr_assert_eq(world_open(n), ZR_OK);
    expect(n, "T", 0, 0, 320);
    cr_assert_eq(read_all(n, "T", 0, SIZE), 320);
    put_many(n, "T", 0, 100, SIZE);
    world_close(n);
    cr_assert_eq(world_open(n), ZR_OK);
    cr_assert_eq(read_all(n, "T", 0, SIZE), 420);
    world_end(n);
}

/* A snapshot taken in mid-life, then more messages, then the kill: only what came after it is read. */
Test(recover, reading_begins_at_the_last_checkpoint)
{
    struct world *w = world_new("checkpoint");
    w->conf.checkpoint_interval_ms = 100;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 300, SIZE);
    char path[1024];
    uint8_t c[48] = { 0 };
    file_path(w, path, "checkpoint");
    for (int i = 0; i < 3000 && (int64_t)zl_load64(c + 40) == 0; i++) {
        usleep(1000);
        file_read(path, 0, c, 48);
    }
    cr_assert_neq(zl_load64(c + 40), 0, "no checkpoint came");
    w = world_kill(w);
    cr_assert_not(world_said(w, "read from 0:"), "%s", w->lines);
    expect(w, "T", 0, 0, 300);
    cr_assert_eq(read_all(w, "T", 0, SIZE), 300);
    world_end(w);
}

Test(recover, delayed_messages_get_their_time_back)
{
    struct world *w = world_new("delay");
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    struct zr_put p = put_one(w, "SCHEDULE_TOPIC_XXXX", 2, "x", "DELAY\0013\002");
    world_close(w);
    file_path(w, path, "consumequeue");
    remove_tree(path);
    file_path(w, path, "zarya");
    remove_tree(path);
    cr_assert_eq(world_open(w), ZR_OK);
    int64_t phys, tags;
    uint32_t size;
    cr_assert_eq(zs_entries(w->st, zs_queue(w->st, zl_str("SCHEDULE_TOPIC_XXXX"), 2, 0), 0, &phys, &size, &tags, 1), 1);
    cr_assert_eq(tags, p.store_ms + 10000);
    world_end(w);
}

/* Random flips and zeroed pages all over the folder: it always opens, and what it gives is never wrong. */
Test(recover, random_damage_never_gives_a_wrong_byte)
{
    struct world *base = world_new("random");
    base->conf.index_slots = 16;
    base->conf.index_entries = 32;
    cr_assert_eq(world_open(base), ZR_OK);
    for (int q = 0; q < 3; q++) put_many(base, "T", q, 100, SIZE);
    struct world *dirty = world_copy(base);
    world_close(base);
    unsigned seed = 20260101;
    for (int round = 0; round < 60; round++) {
        struct world *n = world_copy(round & 1 ? dirty : base);
        static const char *const files[] = { "commitlog/00000000000000000000", "commitlog/00000000000000065536", "commitlog/00000000000000131072",
                                             "consumequeue/T/0/00000000000000000000", "consumequeue/T/1/00000000000000000000",
                                             "checkpoint", "zarya/queues" };
        for (int k = 0; k < 3; k++) {
            char path[1024];
            uint8_t zeros[512] = { 0 };
            file_path(n, path, "%s", files[rand_r(&seed) % 7]);
            int64_t size = file_size_of(path);
            if (size <= 0) continue;
            int64_t at = rand_r(&seed) % size;
            switch (rand_r(&seed) % 3) {
            case 0: file_flip(path, at); break;
            case 1: file_write(path, at, zeros, size - at < 512 ? (uint64_t)(size - at) : 512); break;
            default: cr_assert_eq(truncate(path, at), 0);
            }
        }
        cr_assert_eq(world_open(n), ZR_OK, "round %d: %s", round, n->error);
        for (int q = 0; q < 3; q++) read_all(n, "T", q, 0);
        put_many(n, "New", 0, 3, 100);
        cr_assert_eq(read_all(n, "New", 0, 100), 3);
        world_end(n);
    }
    world_end(dirty);
    world_end(base);
}

/* Files of the log in a folder. */
static uint64_t segments_in(struct world *w, const char *name)
{
    char path[1024];
    file_path(w, path, "%s", name);
    return count_files(path);
}

Test(recover, a_log_in_several_folders)
{
    static char dirs[2048], more[1024];
    char path[1024], moved[1024];
    struct world *w = world_new("dirs");
    snprintf(dirs, sizeof dirs, "%s/b,%s/a,", w->dir, w->dir);
    snprintf(more, sizeof more, "%s/old", w->dir);
    w->conf.log_dir = dirs;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 700, 500); /* seven segments of 64 KiB */
    cr_assert_eq(segments_in(w, "a") + segments_in(w, "b"), segments_in(w, "commitlog") + 7);
    file_path(w, path, "a/%020d", 0); /* the first of the folders sorted by name has the file of number 0 */
    cr_assert_eq(file_size_of(path), 65536);
    file_path(w, path, "b/%020d", 65536);
    cr_assert_eq(file_size_of(path), 65536);
    world_close(w);
    file_path(w, path, "a/%020d", 0); /* files may be moved to another disk, and left to be read only */
    file_path(w, moved, "old");
    cr_assert_eq(mkdir(moved, 0755), 0);
    file_path(w, moved, "old/%020d", 0);
    cr_assert_eq(rename(path, moved), 0);
    w->conf.log_dirs_read_only = more;
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 500), 700);
    put_many(w, "T", 0, 300, 500);
    cr_assert_eq(segments_in(w, "old"), 1);
    cr_assert_geq(segments_in(w, "a"), 4);
    cr_assert_geq(segments_in(w, "b"), 4);
    world_close(w);
    file_path(w, path, "zarya/queues"); /* all is made anew from all folders */
    remove(path);
    file_path(w, path, "zarya/queues.bak");
    remove(path);
    file_path(w, path, "consumequeue");
    remove_tree(path);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 500), 1000);
    uint64_t removed;
    struct timeval times[2] = { { 1000000000, 0 }, { 1000000000, 0 } };
    cr_assert_eq(utimes(moved, times), 0);
    flush_all(w); /* without a document of ours nothing says that it was */
    cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
    cr_assert_eq(segments_in(w, "old"), 0);
    cr_assert_gt(min_of(w, "T", 0), 0);
    world_close(w);
    file_path(w, path, "b"); /* a disk that is not there */
    file_path(w, moved, "elsewhere");
    cr_assert_eq(rename(path, moved), 0);
    cr_assert_eq(world_open(w), ZR_ECORRUPT); /* and had the newest file */
    cr_assert(strstr(w->error, "mounted"), "%s", w->error);
    remove_tree(path);
    cr_assert_eq(rename(moved, path), 0);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(max_of(w, "T", 0), 1000);
    world_end(w);
}

/* ---- what is odd is left alone ------------------------------------------------------------------------------------------- */

/* A file that has a segment's name and is none: empty, or a queue's that was copied there. */
Test(recover, a_stray_name_in_the_log_cuts_no_segment)
{
    static const struct { const char *name; uint32_t size; } stray[] = {
        { "commitlog/00000000000000000512", 0 }, { "commitlog/00000000000000020000", 20000 }, { "commitlog/00000000000000004096", 4096 },
        { "commitlog/00000000000000196609", 65536 },
    };
    for (uint32_t i = 0; i < sizeof stray / sizeof *stray; i++)
        for (int how = 0; how < 6; how++) { /* killed or not; with the size configured, another, and a log of one file */
            struct world *w = world_new("stray");
            uint32_t n = how / 2 == 2 ? 40 : 400;
            char path[1024];
            uint8_t *bytes = malloc(65536);
            memset(bytes, 0x5A, 65536);
            cr_assert_eq(world_open(w), ZR_OK);
            put_many(w, "T", 0, n, SIZE);
            if (how & 1) {
                struct world *k = world_copy(w);
                world_end(w);
                w = k;
            } else {
                world_close(w);
            }
            if (how / 2 == 1) w->conf.segment_size = 1 << 20;
            file_path(w, path, "%s", stray[i].name);
            FILE *f = fopen(path, "w");
            cr_assert(f);
            fclose(f);
            file_write(path, 0, bytes, stray[i].size ? stray[i].size : 1);
            cr_assert_eq(truncate(path, stray[i].size), 0);
            world_quiet(w);
            cr_assert_eq(world_open(w), ZR_OK, "%s: %s", stray[i].name, w->error);
            cr_assert(world_said(w, strrchr(stray[i].name, '/') + 1), "%s", w->lines);
            cr_assert_eq(read_all(w, "T", 0, SIZE), n, "%s, case %d", stray[i].name, how);
            cr_assert_eq(file_size_of(path), stray[i].size);
            put_many(w, "T", 0, 200, SIZE);
            world_close(w);
            cr_assert_eq(remove(path), 0);
            cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
            cr_assert_eq(read_all(w, "T", 0, SIZE), n + 200);
            world_end(w);
            free(bytes);
        }
}

/* A segment that is longer than the others is not cut where that would take bytes away. */
Test(recover, a_segment_with_bytes_behind_its_end_is_not_shortened)
{
    for (int bytes = 0; bytes < 3; bytes++) {
        struct world *w = world_new("longer");
        char path[1024];
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 400, SIZE);
        world_close(w);
        file_path(w, path, "commitlog/%020d", bytes ? 196608 : 65536); /* the last one is where records are written, and cut */
        cr_assert_eq(truncate(path, bytes == 2 ? 200000 : 100000), 0);
        if (bytes) file_write(path, 90000, "bytes", 5);
        if (bytes) file_write(path, 65000, "junk", 4);
        if (bytes == 2) {
            cr_assert_neq(world_open(w), ZR_OK);
            cr_assert(strstr(w->error, "00000000000000196608") && strstr(w->error, "nothing was changed"), "%s", w->error);
            cr_assert_eq(file_size_of(path), 200000);
            cr_assert_eq(truncate(path, 65536), 0);
            world_close(w);
        }
        cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
        cr_assert_eq(read_all(w, "T", 0, SIZE), 400);
        put_many(w, "T", 0, 400, SIZE);
        cr_assert_eq(read_all(w, "T", 0, SIZE), 800);
        if (bytes == 1) {
            char there[5];
            cr_assert_eq(file_size_of(path), 100000);
            file_read(path, 90000, there, 5);
            cr_assert_eq(memcmp(there, "bytes", 5), 0);
            cr_assert(world_said(w, "left where they are"), "%s", w->lines);
        }
        world_end(w);
    }
}

/* The option is newer than the log: records without a property CRC are as good as they were. */
Test(recover, records_without_a_property_crc_are_not_damaged)
{
    struct world *w = world_new("unsealed");
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 400, SIZE);
    struct world *k = world_copy(w);
    world_end(w);
    char path[1024];
    file_path(k, path, "zarya");
    remove_tree(path);
    k->conf.property_crc = k->conf.property_crc_check = 1;
    cr_assert_eq(world_open(k), ZR_OK);
    cr_assert_eq(read_all(k, "T", 0, SIZE), 400, "%s", k->lines);
    put_many(k, "T", 0, 10, SIZE);
    k = world_kill(k);
    cr_assert_eq(read_all(k, "T", 0, SIZE), 410);
    world_end(k);
}

/* A wrong one is damage, but no reason to delete what is otherwise a record: with the option taken back it is there again. */
Test(recover, records_with_a_wrong_property_crc_are_not_cut_off)
{
    struct world *w = world_new("badseal");
    const int64_t rec = 91 + 1 + 500 + 20;
    char path[1024];
    w->conf.property_crc = w->conf.property_crc_check = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 300, SIZE);
    struct world *k = world_copy(w);
    world_end(w);
    file_path(k, path, "commitlog/00000000000000131072");
    uint8_t head[8];
    file_read(path, 10 * rec, head, 8);
    cr_assert_eq(zl_load32(head), rec);
    for (int i = 10; i < 300 - 2 * 107; i++) file_flip(path, i * rec + 18); /* flag: nothing but the property CRC covers it */
    cr_assert_eq(world_open(k), ZR_OK);
    cr_assert(world_said(k, "property CRC"), "%s", k->lines);
    cr_assert_eq(read_all(k, "T", 0, SIZE), 300 - (300 - 2 * 107 - 10), "%s", k->lines);
    world_close(k);
    file_path(k, path, "zarya");
    remove_tree(path);
    file_path(k, path, "consumequeue");
    remove_tree(path);
    k->conf.property_crc = k->conf.property_crc_check = 0;
    cr_assert_eq(world_open(k), ZR_OK);
    cr_assert_eq(read_all(k, "T", 0, SIZE), 300);
    world_end(k);
}

/* No checksum covers a queue offset. One that became 0 is that of a queue that began anew only if the queue goes on from there. */
Test(recover, a_queue_offset_that_became_zero_hides_nothing)
{
    for (int at = 1; at < 60; at += at < 4 ? 1 : 27) {
        struct world *w = world_new("zeroed");
        char path[1024];
        uint8_t offset[8] = { 0 };
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 60, 100);
        struct world *k = world_copy(w);
        world_end(w);
        file_path(k, path, "commitlog/00000000000000000000");
        file_write(path, at * 192 + 20, offset, sizeof offset);
        cr_assert_eq(world_open(k), ZR_OK);
        cr_assert_eq(read_all(k, "T", 0, 100), 59, "at %d: %s", at, k->lines);
        cr_assert_eq(min_of(k, "T", 0), 0);
        cr_assert(world_said(k, "says that queue T 0 begins anew"), "%s", k->lines);
        put_many(k, "T", 0, 1, 0);
        cr_assert_geq(max_of(k, "T", 0), 60);
        k = world_kill(k);
        cr_assert_eq(read_all(k, "T", 0, 0), 60);
        world_end(k);
    }
}

/* A queue that did begin anew, as of a topic that another broker deleted and made again; also where its second record is damaged. */
Test(recover, a_queue_that_goes_on_from_zero_began_anew)
{
    for (int damaged = 0; damaged < 2; damaged++) {
        struct world *w = world_new("anewq");
        char path[1024];
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 50, 100);
        struct world *k = world_copy(w);
        world_end(w);
        file_path(k, path, "commitlog/00000000000000000000");
        for (int i = 20; i < 50; i++) {
            uint8_t offset[8];
            zl_store64(offset, (uint64_t)(i - 20));
            file_write(path, i * 192 + 20, offset, sizeof offset);
        }
        if (damaged) file_flip(path, 21 * 192 + 100);
        cr_assert_eq(world_open(k), ZR_OK);
        expect(k, "T", 0, 0, 30);
        cr_assert_eq(read_all(k, "T", 0, 0), 30 - damaged, "%s", k->lines);
        cr_assert(world_said(k, "begins anew at 3840"), "%s", k->lines);
        world_end(k);
    }
}

/* A record whose properties have zero bytes, as another broker takes them: only a failure of the power leaves sectors unwritten. */
Test(recover, zero_bytes_in_properties_are_no_torn_sectors_where_all_was_on_disk)
{
    struct world *w = world_new("nuls");
    char path[1024], props[2100];
    uint8_t zeros[1500] = { 0 };
    memset(props, 'x', sizeof props);
    memcpy(props, "name\1", 5);
    props[2098] = 2;
    props[2099] = 0;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 4; i++) cr_assert_eq(put_one(w, "T", 0, "body", props).status, ZR_OK);
    world_close(w);
    file_path(w, path, "commitlog/00000000000000000000");
    int64_t rec = 91 + 1 + 4 + 2099;
    file_write(path, 1 * rec + 300, zeros, sizeof zeros);
    file_write(path, 3 * rec + 300, zeros, sizeof zeros);
    file_path(w, path, "zarya");
    remove_tree(path);
    file_path(w, path, "consumequeue");
    remove_tree(path);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 0), 4, "%s", w->lines);
    world_end(w);
}

/* ---- records larger than any that is taken here ---------------------------------------------------------------------------------- */

#define HUGE_BODY (65ll << 20)
#define HUGE_SEGMENT (96ll << 20)

/* Apache takes what its maxMessageSize and the frames allow: a log of three records with one of 65 MiB between them. */
static struct world *huge_log(const char *name, int64_t *ret_at)
{
    struct world *w = world_new(name);
    char path[1024];
    uint8_t *buf = malloc(HUGE_BODY + 4096), *body = malloc(HUGE_BODY);
    int64_t pos = 0;
    for (int64_t i = 0; i < HUGE_BODY; i++) body[i] = (uint8_t)(i * 2654435761u >> 13);
    w->conf.segment_size = HUGE_SEGMENT;
    w->conf.max_hot_bytes = w->conf.max_cold_bytes = 128 << 20;
    cr_assert_eq(world_open(w), ZR_OK); /* the folders */
    world_close(w);
    file_path(w, path, "commitlog/%020d", 0);
    FILE *f = fopen(path, "w");
    cr_assert(f && ftruncate(fileno(f), HUGE_SEGMENT) == 0 && fclose(f) == 0);
    for (int64_t i = 0; i < 3; i++) {
        struct zr_msg m = msg_of("Huge", 0, body, i == 1 ? (uint64_t)HUGE_BODY : 100, "TAGS\001t\002");
        if (i == 1) *ret_at = pos;
        zl_record_encode(buf, &m);
        zl_record_finish(buf, i, pos, 1700000000000 + i);
        file_write(path, pos, buf, zl_record_size(&m));
        pos += (int64_t)zl_record_size(&m);
    }
    free(buf);
    free(body);
    return w;
}

Test(recover, a_record_larger_than_any_that_is_taken_is_kept_and_served)
{
    int64_t at;
    struct world *w = huge_log("huge", &at);
    struct answer a;
    struct zr_piece piece;
    uint64_t pin;
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert(!world_said(w, "damaged"), "%s", w->lines);
    for (int round = 0; round < 3; round++) {
        cr_assert_eq(read_all(w, "Huge", 0, 0), 3, "round %d: %s", round, w->lines);
        cr_assert_eq(read_at(w, "Huge", 0, 1, 1, &a), ZR_OK);
        cr_assert_eq(a.r.what, ZR_READ_FOUND);
        cr_assert_gt(a.r.bytes, (uint64_t)HUGE_BODY);
        zs_unpin(w->st, a.r.pin);
        cr_assert_eq(zs_record_at(w->st, at, &piece, &pin), ZR_OK);
        zs_unpin(w->st, pin);
        cr_assert_eq(put_one(w, "Other", 0, "x", NULL).status, ZR_OK);
        flush_all(w);
        if (round == 0) w = world_kill(w);
        if (round == 1) { /* its entry is lost, and made anew */
            world_close(w);
            file_path(w, path, "consumequeue/Huge/0/%020d", 0);
            file_write(path, 20, "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", 20);
            cr_assert_eq(world_open(w), ZR_OK);
        }
    }
    world_end(w);
}

Test(recover, a_size_that_no_record_has_is_damage_and_read_by_nobody)
{
    int64_t at;
    struct world *w = huge_log("huge-damaged", &at);
    char path[1024];
    file_path(w, path, "commitlog/%020d", 0);
    file_flip(path, at + 1); /* the size alone: its body's length says otherwise */
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert(world_said(w, "damaged from"), "%s", w->lines);
    cr_assert_eq(max_of(w, "Huge", 0), 3);
    cr_assert_eq(read_all(w, "Huge", 0, 0), 2);
    world_end(w);
}

/* Other brokers take properties that end in zeroes. After a failure of the power a sector that is zero as far as the record goes may
 * never have been written; but one with the next record's bytes in it was. */
Test(recover, zeroes_at_the_end_of_properties_are_no_torn_sector_if_that_was_written)
{
    for (uint32_t next = 0; next < 2; next++) {
        struct world *w = world_new("zeroes");
        char path[1024];
        uint8_t buf[4096], body[2048], props[] = "a\001b\002zeroes\001\0\0\0\0\0";
        memset(body, 'b', sizeof body);
        cr_assert_eq(world_open(w), ZR_OK); /* the folders */
        world_close(w);
        file_path(w, path, "commitlog/%020d", 0);
        FILE *f = fopen(path, "w");
        cr_assert(f && ftruncate(fileno(f), 65536) == 0 && fclose(f) == 0);
        int64_t pos = 0;
        for (int64_t i = 0; i < 3 + next; i++) {
            struct zr_msg m = msg_of("Z", 0, body, 500, "TAGS\001t\002");
            if (i == 2) { /* ends three bytes into a sector, which are zero */
                m.properties = (struct zr_span){ props, sizeof props - 1 };
                while ((pos + (int64_t)zl_record_size(&m)) % 512 != 3) m.body.len++;
            }
            zl_record_encode(buf, &m);
            zl_record_finish(buf, i, pos, 1700000000000 + i);
            file_write(path, pos, buf, zl_record_size(&m));
            pos += (int64_t)zl_record_size(&m);
        }
        file_path(w, path, "zarya");
        remove_tree(path);
        file_path(w, path, "abort");
        f = fopen(path, "w");
        fclose(f);
        world_quiet(w);
        cr_assert_eq(world_open(w), ZR_OK);
        cr_assert_eq(read_all(w, "Z", 0, 0), next ? 4 : 2, "next %u: %s", next, w->lines);
        world_end(w);
    }
}

Test(recover, a_folder_whose_name_is_a_number_otherwise_written_is_no_queue)
{
    struct world *w = world_new("number");
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(put_one(w, "T", 7, "body", NULL).status, ZR_OK);
    world_close(w);
    file_path(w, path, "consumequeue/T/007");
    cr_assert_eq(mkdir(path, 0755), 0);
    file_path(w, path, "lock"); /* another broker's: its files are looked at */
    file_write(path, 0, "lock", 4);
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    cr_assert_eq(max_of(w, "T", 7), 1);
    world_end(w);
}
