/* SPDX-License-Identifier: Apache-2.0 */
/* Reading: statuses, limits, filters, pins, waiting or not, times, single records. */
#include "host.h"
#include <errno.h>

static struct world *with_messages(const char *name, uint32_t n, uint32_t size)
{
    struct world *w = world_new(name);
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, n, size);
    return w;
}

static void expect(struct world *w, const char *topic, int32_t q, int64_t offset, uint32_t what, int64_t next)
{
    struct answer a;
    cr_assert_eq(read_at(w, topic, q, offset, 32, &a), ZR_OK);
    cr_assert_eq(a.r.what, what, "offset %lld: status %u", (long long)offset, a.r.what);
    cr_assert_eq(a.r.next_offset, next, "offset %lld: next %lld", (long long)offset, (long long)a.r.next_offset);
    zs_unpin(w->st, a.r.pin);
}

Test(read, statuses_at_the_bounds)
{
    struct world *w = with_messages("bounds", 10, 100);
    zs_queue(w->st, zl_str("T"), 9, 1);
    expect(w, "None", 0, 0, ZR_READ_NO_MATCHED_LOGIC_QUEUE, 0);
    expect(w, "T", 9, 0, ZR_READ_NO_MESSAGE_IN_QUEUE, 0);
    expect(w, "T", 9, 500, ZR_READ_NO_MESSAGE_IN_QUEUE, 0);
    expect(w, "T", 0, -1, ZR_READ_OFFSET_TOO_SMALL, 0);
    expect(w, "T", 0, 0, ZR_READ_FOUND, 10);
    expect(w, "T", 0, 9, ZR_READ_FOUND, 10);
    expect(w, "T", 0, 10, ZR_READ_OFFSET_OVERFLOW_ONE, 10);
    expect(w, "T", 0, 11, ZR_READ_OFFSET_OVERFLOW_BADLY, 10);
    expect(w, "T", 0, INT64_MAX, ZR_READ_OFFSET_OVERFLOW_BADLY, 10);
    world_end(w);
}

Test(read, neighbours_become_one_piece)
{
    struct world *w = with_messages("piece", 20, 100);
    struct answer a;
    cr_assert_eq(read_at(w, "T", 0, 3, 10, &a), ZR_OK);
    cr_assert_eq(a.r.n_messages, 10);
    cr_assert_eq(a.r.n_pieces, 1);
    cr_assert_eq(a.pieces[0].len, 10 * 192);
    cr_assert_eq(a.pieces[0].off, 3 * 192);
    cr_assert_geq(a.pieces[0].fd, 0);
    zs_unpin(w->st, a.r.pin);
    put_many(w, "U", 0, 1, 100); /* something between */
    put_many(w, "T", 0, 1, 100);
    cr_assert_eq(read_at(w, "T", 0, 19, 10, &a), ZR_OK);
    cr_assert_eq(a.r.n_messages, 2);
    cr_assert_eq(a.r.n_pieces, 2);
    zs_unpin(w->st, a.r.pin);
    world_end(w);
}

Test(read, an_answer_ends_at_its_limits)
{
    struct world *w = with_messages("limits", 200, 100);
    struct answer a;
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("T"), .pieces = a.pieces, .cap_pieces = 64 };
    a.r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    req.max_messages = 100;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 32); /* RocketMQ's own bound in memory */
    zs_unpin(w->st, a.r.pin);
    req.max_messages = 5;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 5);
    zs_unpin(w->st, a.r.pin);
    req.max_messages = 32;
    req.max_bytes = 192 * 3;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 3);
    zs_unpin(w->st, a.r.pin);
    req.max_bytes = 100; /* the first message always goes */
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 1);
    zs_unpin(w->st, a.r.pin);
    world_close(w);
    w->conf.ratio_memory = 0.0000000001; /* everything is cold */
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 1, 100);
    req.max_bytes = 0;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 8);
    cr_assert_eq(a.r.far_behind, 1);
    zs_unpin(w->st, a.r.pin);
    world_end(w);
}

Test(read, an_answer_ends_when_its_pieces_are_used_up)
{
    struct world *w = world_new("pieces");
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 20; i++) {
        put_many(w, "T", 0, 1, 100);
        put_many(w, "T", 1, 1, 100);
    }
    struct answer a;
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("T"), .pieces = a.pieces, .cap_pieces = 3, .max_messages = 32 };
    a.r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 3);
    cr_assert_eq(a.r.next_offset, 3);
    zs_unpin(w->st, a.r.pin);
    world_end(w);
}

/* A filter of two kinds: by code alone (yes or no), and one that must ask for the properties. */
struct zr_prog { int64_t yes, ask; const char *need; };
static void filter_by_tags(const struct zr_prog *p, const int64_t *codes, uint32_t n, uint8_t *verdicts)
{
    for (uint32_t i = 0; i < n; i++)
        verdicts[i] = codes[i] == p->yes ? ZR_MATCH_YES : (codes[i] == p->ask ? ZR_MATCH_ASK : ZR_MATCH_NO);
}
static uint32_t filter_by_properties(const struct zr_prog *p, struct zr_span props)
{
    return zl_is(zl_props_get(props, "K"), p->need) ? ZR_MATCH_YES : ZR_MATCH_NO;
}

Test(read, a_filter_judges_codes_and_only_then_properties)
{
    struct world *w = world_new("filter");
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 40; i++) {
        char props[64];
        snprintf(props, sizeof props, "TAGS\001%c\002K\001%d\002", 'A' + i % 4, i % 8);
        put_one(w, "T", 0, "x", props);
    }
    const struct zr_filter_v1 filter = { .hdr = ZR_HDR(struct zr_filter_v1, 0), .by_tags = filter_by_tags, .by_properties = filter_by_properties };
    struct zr_prog prog = { .yes = 'A', .ask = 'B', .need = "5" };
    struct answer a;
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("T"), .pieces = a.pieces, .cap_pieces = 64, .max_messages = 32,
                           .filter = &filter, .prog = &prog };
    a.r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 15); /* 10 of A, 5 of B with K 5 */
    cr_assert_eq(a.r.n_filtered, 25);
    cr_assert_eq(a.r.next_offset, 40);
    zs_unpin(w->st, a.r.pin);
    prog.yes = prog.ask = 'Z';
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.what, ZR_READ_NO_MATCHED_MESSAGE);
    cr_assert_eq(a.r.next_offset, 40);
    cr_assert_eq(a.r.pin, 0);
    req.max_scan = 7;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.next_offset, 7);
    world_end(w);
}

Test(read, one_read_passes_more_entries_where_tags_decide)
{
    struct world *w = world_new("scan");
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 8000; i++) put_one(w, "T", 0, "x", i < 4000 ? "TAGS\001A\002K\0011\002" : "TAGS\001B\002K\0011\002");
    const struct zr_filter_v1 filter = { .hdr = ZR_HDR(struct zr_filter_v1, 0), .by_tags = filter_by_tags, .by_properties = filter_by_properties };
    struct zr_prog prog = { .yes = 'Z', .ask = 'Z', .need = "5" };
    struct answer a;
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("T"), .pieces = a.pieces, .cap_pieces = 64, .max_messages = 32,
                           .filter = &filter, .prog = &prog };
    a.r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_filtered, 6400);
    cr_assert_eq(a.r.next_offset, 6400);
    prog.ask = 'A'; /* the records of the first half are read */
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert(a.r.next_offset >= 800 && a.r.next_offset < 900, "%lld", (long long)a.r.next_offset);
    req.offset = 3600; /* 400 of them, then half of what is left by tags */
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.next_offset, 4000 + 3200);
    req.max_scan = 1000;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.next_offset, 4600);
    world_end(w);
}

/* Each message takes a third of what one read may take; with need NULL more than all. */
static uint32_t dear_by_properties(const struct zr_prog *p, struct zr_span props, uint64_t *steps)
{
    uint64_t takes = p->need ? ZR_FILTER_STEPS / 3 : ZR_FILTER_STEPS + 1;
    if (takes > *steps) {
        *steps = 0;
        return ZR_MATCH_ASK;
    }
    *steps -= takes;
    return filter_by_properties(p, props);
}

Test(read, judging_ends_with_its_steps_and_goes_on_at_the_next_offset)
{
    struct world *w = world_new("steps");
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 10; i++) put_one(w, "T", 0, "x", i == 4 ? "TAGS\001B\002K\0015\002" : "TAGS\001B\002K\0011\002");
    const struct zr_filter_v1 filter = { .hdr = ZR_HDR(struct zr_filter_v1, 0), .by_tags = filter_by_tags, .by_properties = filter_by_properties,
                                         .by_properties_within = dear_by_properties };
    struct zr_prog prog = { .yes = 'A', .ask = 'B', .need = "5" };
    struct answer a;
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("T"), .pieces = a.pieces, .cap_pieces = 64, .max_messages = 32,
                           .filter = &filter, .prog = &prog };
    static const struct { uint32_t what, n; int64_t next; } rows[] = { { ZR_READ_NO_MATCHED_MESSAGE, 0, 3 }, { ZR_READ_FOUND, 1, 6 }, { ZR_READ_NO_MATCHED_MESSAGE, 0, 9 },
                                                                       { ZR_READ_NO_MATCHED_MESSAGE, 0, 10 } };
    a.r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    for (uint32_t i = 0; i < 4; i++, req.offset = a.r.next_offset) {
        cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
        cr_expect(a.r.what == rows[i].what && a.r.n_messages == rows[i].n && a.r.next_offset == rows[i].next, "read %u: %u, next %lld", i, a.r.what, (long long)a.r.next_offset);
        if (a.r.pin) zs_unpin(w->st, a.r.pin);
    }
    prog.need = NULL; /* what takes more than all is none: no read stays where it began */
    req.offset = 0;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_expect(a.r.what == ZR_READ_NO_MATCHED_MESSAGE && a.r.next_offset == 1, "%lld", (long long)a.r.next_offset);
    world_end(w);
}

Test(read, pieces_outlive_the_deletion_of_their_segment)
{
    struct world *w = with_messages("pin", 400, 500);
    struct answer a;
    uint64_t removed;
    cr_assert_eq(read_at(w, "T", 0, 0, 20, &a), ZR_OK);
    cr_assert_eq(a.r.n_messages, 20);
    flush_all(w);
    w->conf.retention_hours = 0;
    zs_retune(w->st, &w->conf);
    cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
    cr_assert_gt(removed, 0);
    char body[500];
    for (uint32_t i = 0; i < 20; i++) {
        struct zl_record rec = record_of(&a, i);
        body_of(body, 500, "T", 0, i);
        cr_assert_eq(memcmp(rec.body.ptr, body, 500), 0);
    }
    zs_unpin(w->st, a.r.pin);
    world_end(w);
}

Test(read, one_answer_may_span_segments)
{
    struct world *w = world_new("span");
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 12; i++) { /* one message of T in each segment */
        put_many(w, "T", 0, 1, 100);
        put_many(w, "U", 0, 6, 10000);
    }
    struct answer a;
    cr_assert_eq(read_at(w, "T", 0, 0, 32, &a), ZR_OK);
    cr_assert_gt(a.r.n_messages, 1);
    cr_assert_eq(a.r.n_pieces, a.r.n_messages);
    for (uint32_t i = 0; i < a.r.n_messages; i++) cr_assert_eq(record_of(&a, i).queue_offset, i);
    zs_unpin(w->st, a.r.pin);
    cr_assert_eq(read_all(w, "T", 0, 100), 12);
    cr_assert_eq(read_all(w, "U", 0, 10000), 72);
    world_end(w);
}

/* Where the log begins anew, a queue's first offset has to be looked for in its files. */
Test(read, without_waiting_a_first_offset_that_is_not_known_is_left_to_a_worker)
{
    struct world *w = with_messages("nowait-min", 500, 500);
    struct answer a;
    char path[1024];
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("T"), .offset = 499, .pieces = a.pieces, .cap_pieces = 64,
                           .max_messages = 32, .flags = ZR_READ_NOWAIT };
    a.r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    world_close(w);
    file_path(w, path, "commitlog/%020d", 0);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(put_one(w, "T", 0, "new", NULL).status, ZR_OK); /* in memory, and so is its entry */
    req.offset = 500;
    world_fault(w, OP_PREAD, INT64_MAX, EIO, "consumequeue"); /* counts alone */
    int64_t calls = atomic_load(&w->fault[OP_PREAD].calls);
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_EAGAIN);
    cr_assert_eq(atomic_load(&w->fault[OP_PREAD].calls), calls, "no queue file was read");
    req.flags = 0;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 1);
    cr_assert_gt(a.r.min_offset, 50);
    zs_unpin(w->st, a.r.pin);
    req.flags = ZR_READ_NOWAIT;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK, "now it is known");
    cr_assert_eq(a.r.n_messages, 1);
    zs_unpin(w->st, a.r.pin);
    world_end(w);
}

Test(read, without_waiting_what_is_not_at_hand_is_left_to_a_worker)
{
    struct world *w = with_messages("nowait", 300, 100);
    struct answer a;
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("T"), .offset = 290, .pieces = a.pieces, .cap_pieces = 64,
                           .max_messages = 32, .flags = ZR_READ_NOWAIT };
    a.r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK); /* just written */
    cr_assert_eq(a.r.n_messages, 10);
    zs_unpin(w->st, a.r.pin);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    req.offset = 0;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_EAGAIN);
    cr_assert_eq(a.r.pin, 0);
    req.flags = 0;
    cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
    cr_assert_eq(a.r.n_messages, 32);
    zs_unpin(w->st, a.r.pin);
    world_end(w);
}

Test(read, offsets_by_store_time)
{
    struct world *w = world_new("time");
    const int64_t times[] = { 1000, 1000, 2000, 2000, 2000, 5000, 9000 };
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 7; i++) {
        atomic_store(&w->wall, times[i]);
        put_one(w, "T", 0, "x", NULL);
    }
    struct zr_queue *q = zs_queue(w->st, zl_str("T"), 0, 0);
    const struct { int64_t ms, lower, upper; } rows[] = {
        { 0, 0, 0 }, { 999, 0, 0 }, { 1000, 0, 1 }, { 1500, 2, 1 }, { 2000, 2, 4 }, { 2001, 5, 4 }, { 5000, 5, 5 },
        { 8999, 6, 5 }, { 9000, 6, 6 }, { 9001, 7, 6 }, { INT64_MAX, 7, 6 },
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        int64_t at;
        cr_assert_eq(zs_offset_at(w->st, q, rows[i].ms, 0, &at), ZR_OK);
        cr_assert_eq(at, rows[i].lower, "lower of %lld: %lld", (long long)rows[i].ms, (long long)at);
        cr_assert_eq(zs_offset_at(w->st, q, rows[i].ms, 1, &at), ZR_OK);
        cr_assert_eq(at, rows[i].upper, "upper of %lld: %lld", (long long)rows[i].ms, (long long)at);
    }
    int64_t ms;
    cr_assert_eq(zs_time_at(w->st, q, 5, &ms), ZR_OK);
    cr_assert_eq(ms, 5000);
    cr_assert_eq(zs_time_at(w->st, q, 7, &ms), ZR_ENOENT);
    cr_assert_eq(zs_time_at(w->st, q, -1, &ms), ZR_ENOENT);
    world_end(w);
}

Test(read, a_record_by_its_physical_offset_and_nothing_else)
{
    struct world *w = with_messages("record", 10, 100);
    struct zr_piece piece;
    uint64_t pin;
    for (int64_t at = -1; at <= 10 * 192 + 5; at++) {
        zr_status rc = zs_record_at(w->st, at, &piece, &pin);
        uint32_t begins = at >= 0 && at < 10 * 192 && at % 192 == 0;
        cr_assert_eq(rc, begins ? ZR_OK : ZR_ENOENT, "at %lld: %d", (long long)at, rc);
        if (rc != ZR_OK) continue;
        cr_assert_eq(piece.len, 192);
        cr_assert_eq(piece.off, at);
        zs_unpin(w->st, pin);
    }
    cr_assert_eq(zs_record_at(w->st, INT64_MAX, &piece, &pin), ZR_ENOENT);
    world_end(w);
}

Test(read, raw_entries_and_residency)
{
    struct world *w = with_messages("raw", 250, 100);
    struct zr_queue *q = zs_queue(w->st, zl_str("T"), 0, 0);
    int64_t phys[300], tags[300];
    uint32_t sizes[300];
    cr_assert_eq(zs_entries(w->st, q, 0, phys, sizes, tags, 300), 250);
    for (int i = 1; i < 250; i++) cr_assert_gt(phys[i], phys[i - 1]);
    cr_assert_eq(sizes[249], 192);
    cr_assert_eq(zs_entries(w->st, q, 248, phys, sizes, tags, 300), 2);
    cr_assert_eq(zs_entries(w->st, q, 250, phys, sizes, tags, 300), 0);
    cr_assert_eq(zs_resident(w->st, q, 249), 1);
    cr_assert_eq(zs_resident(w->st, q, 250), 0);
    world_end(w);
}

/* An entry that leads to another topic's record of the same queue and offset. */
Test(read, an_entry_of_another_topic_gives_none_of_its_messages)
{
    struct world *w = world_new("othertopic");
    char path[1024];
    uint8_t entry[20];
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 50, 100);
    put_many(w, "U", 0, 50, 100);
    world_close(w);
    file_path(w, path, "consumequeue/U/0/00000000000000000000");
    file_read(path, 7 * 20, entry, sizeof entry);
    file_path(w, path, "consumequeue/T/0/00000000000000000000");
    file_write(path, 7 * 20, entry, sizeof entry);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 100), 50);
    world_end(w);
}

/* What a dead segment costs: it is read a few times, not once for each of its entries. */
Test(read, the_entries_of_a_lost_segment_cost_no_search_each)
{
    struct world *w = world_new("deadseg");
    char path[1024];
    w->conf.segment_size = 1 << 20;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 4; i++) put_many(w, "T", i % 2, 4000, 100);
    world_close(w);
    file_path(w, path, "commitlog/00000000000000000000");
    cr_assert_eq(truncate(path, 0), 0);
    cr_assert_eq(truncate(path, 1 << 20), 0);
    cr_assert_eq(world_open(w), ZR_OK);
    world_fault(w, OP_PREAD, -1, 0, "commitlog");
    int64_t calls = atomic_load(&w->fault[OP_PREAD].calls);
    int64_t got = read_all(w, "T", 0, 100) + read_all(w, "T", 1, 100);
    cr_assert_gt(got, 16000 - (1 << 20) / 192 - 1);
    calls = atomic_load(&w->fault[OP_PREAD].calls) - calls;
    cr_assert_lt(calls, 1000, "%lld", (long long)calls);
    world_end(w);
}
