/* SPDX-License-Identifier: Apache-2.0 */
/* Appending: offsets, records, groups, segments, limits, and what the files hold afterwards. */
#include "host.h"
#include "zs_int.h"
#include <sys/stat.h>

Test(append, first_message_is_found_by_its_queue)
{
    struct world *w = world_new("first");
    cr_assert_eq(world_open(w), ZR_OK);
    struct zr_put p = put_one(w, "T", 3, "hello", "TAGS\001A\002");
    cr_assert_eq(p.status, ZR_OK);
    cr_assert_eq(p.queue_offset, 0);
    cr_assert_eq(p.physical_offset, 0);
    cr_assert_eq(p.size, 91 + 5 + 1 + 7);
    struct answer a;
    cr_assert_eq(read_at(w, "T", 3, 0, 32, &a), ZR_OK);
    cr_assert_eq(a.r.what, ZR_READ_FOUND);
    cr_assert_eq(a.r.n_messages, 1);
    cr_assert_eq(a.r.bytes, p.size);
    cr_assert_eq(a.r.next_offset, 1);
    cr_assert_eq(a.r.min_offset, 0);
    cr_assert_eq(a.r.max_offset, 1);
    struct zl_record rec = record_of(&a, 0);
    cr_assert_eq(rec.body.len, 5);
    cr_assert_eq(memcmp(rec.body.ptr, "hello", 5), 0);
    cr_assert_eq(rec.store_ms, p.store_ms);
    cr_assert_eq(atomic_load(&w->written), p.size);
    zs_unpin(w->st, a.r.pin);
    world_end(w);
}

Test(append, a_batch_gets_offsets_queue_by_queue)
{
    struct world *w = world_new("batch");
    cr_assert_eq(world_open(w), ZR_OK);
    struct zr_msg m[5];
    struct zr_put p[5] = { [0 ... 4] = { .hdr = ZR_HDR(struct zr_put, 0) } };
    const int32_t q[5] = { 0, 1, 0, 1, 0 };
    const int64_t want[5] = { 0, 0, 1, 1, 2 };
    int64_t end;
    for (int i = 0; i < 5; i++) m[i] = msg_of("T", q[i], "abc", 3, NULL);
    zs_append(w->st, m, 5, p, &end);
    for (int i = 0; i < 5; i++) {
        cr_assert_eq(p[i].status, ZR_OK);
        cr_assert_eq(p[i].queue_offset, want[i]);
        cr_assert_eq(p[i].physical_offset, i * 95);
        cr_assert_eq(p[i].store_ms, p[0].store_ms);
    }
    cr_assert_eq(end, 5 * 95);
    world_end(w);
}

Test(append, one_illegal_message_does_not_stop_the_others)
{
    struct world *w = world_new("illegal");
    cr_assert_eq(world_open(w), ZR_OK);
    char *big = calloc(1, 30000);
    struct zr_msg m[4] = { msg_of("T", 0, "a", 1, NULL), msg_of("T", 0, big, 30000, NULL), msg_of("../x", 0, "c", 1, NULL),
                           msg_of("T", 0, "d", 1, NULL) };
    struct zr_put p[4] = { [0 ... 3] = { .hdr = ZR_HDR(struct zr_put, 0) } };
    int64_t end;
    zs_append(w->st, m, 4, p, &end);
    cr_assert_eq(p[0].status, ZR_OK);
    cr_assert_eq(p[1].status, ZR_EINVAL);
    cr_assert_eq(p[2].status, ZR_EINVAL);
    cr_assert_eq(p[3].status, ZR_OK);
    cr_assert_eq(p[3].queue_offset, 1);
    cr_assert_eq(max_of(w, "T", 0), 2);
    free(big);
    world_end(w);
}

Test(append, the_broker_s_own_messages_are_bound_by_the_segment_alone)
{
    struct world *w = world_new("own");
    cr_assert_eq(world_open(w), ZR_OK);
    char *big = calloc(1, 66000);
    struct zr_msg m[3];
    struct zr_put p[3] = { [0 ... 2] = { .hdr = ZR_HDR(struct zr_put, 0) } };
    int64_t end;
    for (int i = 0; i < 3; i++) m[i] = msg_of("T", 0, "x", 1, NULL);
    m[0].body = m[1].body = (struct zr_span){ (uint8_t *)big, 30000 }; /* max_message_size is 20000, a segment 65536 */
    m[2].body = (struct zr_span){ (uint8_t *)big, 65536 };
    m[1].flags = m[2].flags = ZR_MSG_OWN;
    zs_append(w->st, m, 3, p, &end);
    cr_assert_eq(p[0].status, ZR_EINVAL);
    cr_assert_eq(p[1].status, ZR_OK);
    cr_assert_eq(p[2].status, ZR_EINVAL);
    cr_assert_eq(max_of(w, "T", 0), 1);
    free(big);
    world_end(w);
}

Test(append, of_joined_messages_all_are_stored_or_none)
{
    struct world *w = world_new("joined");
    cr_assert_eq(world_open(w), ZR_OK);
    char *big = calloc(1, 30000);
    struct zr_msg m[5];
    struct zr_put p[5] = { [0 ... 4] = { .hdr = ZR_HDR(struct zr_put, 0) } };
    int64_t end;
    for (int i = 0; i < 5; i++) m[i] = msg_of("T", 0, "x", 1, NULL);
    m[1].flags = m[2].flags = ZR_MSG_JOINED; /* 0, 1, 2 belong together; 3 and 4 are alone */
    m[1].body = (struct zr_span){ (uint8_t *)big, 30000 };
    zs_append(w->st, m, 5, p, &end);
    cr_assert_eq(p[0].status, ZR_EINVAL);
    cr_assert_eq(p[1].status, ZR_EINVAL);
    cr_assert_eq(p[2].status, ZR_EINVAL);
    cr_assert_eq(p[3].status, ZR_OK);
    cr_assert_eq(p[4].status, ZR_OK);
    cr_assert_eq(p[4].queue_offset, 1);
    free(big);
    world_end(w);
}

Test(append, a_segment_ends_with_a_blank_that_says_what_is_left)
{
    struct world *w = world_new("roll");
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 60, 2000);
    char path[1024];
    file_path(w, path, "commitlog/00000000000000000000");
    cr_assert_eq(file_size_of(path), 65536);
    int64_t size = 91 + 2000 + 1, fit = (65536 - 8) / size;
    uint8_t blank[8];
    file_read(path, fit * size, blank, 8);
    cr_assert_eq(zl_load32(blank), 65536 - fit * size);
    cr_assert_eq(zl_load32(blank + 4), ZL_MAGIC_BLANK);
    file_path(w, path, "commitlog/00000000000000065536");
    cr_assert_eq(file_size_of(path), 65536);
    cr_assert_eq(read_all(w, "T", 0, 2000), 60);
    world_end(w);
}

/* Every distance of the last record to the end of the segment around the limit of 8 bytes. */
Test(append, eight_bytes_always_stay_free_for_the_blank)
{
    for (uint32_t spare = 0; spare < 20; spare++) {
        struct world *w = world_new("edge");
        char *body = calloc(1, 20000);
        w->conf.index = 0;
        cr_assert_eq(world_open(w), ZR_OK);
        int64_t left = 65536, end;
        struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
        while (left > 15000) {
            struct zr_msg m = msg_of("T", 0, body, 10000, NULL);
            zs_append(w->st, &m, 1, &p, &end);
            left -= p.size;
        }
        struct zr_msg m = msg_of("T", 0, body, (uint64_t)left - spare - 92, NULL);
        zs_append(w->st, &m, 1, &p, &end);
        cr_assert_eq(p.status, ZR_OK);
        if (spare >= 8) cr_assert_eq(end, 65536 - spare);
        else cr_assert_eq(p.physical_offset, 65536, "spare %u", spare);
        int64_t n = max_of(w, "T", 0);
        put_many(w, "T", 1, 3, 100);
        w = world_kill(w);
        cr_assert_eq(read_all(w, "T", 0, 0), n);
        cr_assert_eq(read_all(w, "T", 1, 100), 3);
        free(body);
        world_end(w);
    }
}

Test(append, a_joined_group_lies_in_one_segment)
{
    struct world *w = world_new("group");
    cr_assert_eq(world_open(w), ZR_OK);
    char body[1000] = { 0 };
    struct zr_msg m[20];
    struct zr_put p[20];
    int64_t end;
    for (int round = 0; round < 12; round++) {
        for (int i = 0; i < 20; i++) {
            m[i] = msg_of("T", 0, body, sizeof body, NULL);
            m[i].flags = i ? ZR_MSG_JOINED : 0;
            p[i] = (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0) };
        }
        zs_append(w->st, m, 20, p, &end);
        for (int i = 0; i < 20; i++) {
            cr_assert_eq(p[i].status, ZR_OK);
            cr_assert_eq(p[i].queue_offset, round * 20 + i);
            cr_assert_eq(p[i].physical_offset / 65536, p[0].physical_offset / 65536);
            cr_assert_eq(p[i].physical_offset, p[0].physical_offset + i * p[0].size);
        }
    }
    world_end(w);
}

Test(append, a_large_call_spans_many_segments)
{
    struct world *w = world_new("large");
    cr_assert_eq(world_open(w), ZR_OK);
    enum { N = 3000 };
    struct zr_msg *m = calloc(N, sizeof *m);
    struct zr_put *p = calloc(N, sizeof *p);
    char (*bodies)[500] = calloc(N, sizeof *bodies);
    int64_t end;
    for (int i = 0; i < N; i++) {
        body_of(bodies[i], 500, "T", i % 3, i / 3);
        m[i] = msg_of("T", i % 3, bodies[i], 500, NULL);
        p[i].hdr = (struct zr_hdr)ZR_HDR(struct zr_put, 0);
    }
    zs_append(w->st, m, N, p, &end);
    for (int i = 0; i < N; i++) cr_assert_eq(p[i].status, ZR_OK);
    for (int q = 0; q < 3; q++) cr_assert_eq(read_all(w, "T", q, 500), N / 3);
    free(m);
    free(p);
    free(bodies);
    world_end(w);
}

Test(append, queue_files_have_the_layout_of_rocketmq)
{
    struct world *w = world_new("layout");
    cr_assert_eq(world_open(w), ZR_OK);
    int64_t phys[150], tags = zl_tags_code(zl_str("TagA"));
    for (int i = 0; i < 150; i++) {
        struct zr_put p = put_one(w, "Topic_1", 7, "body", "TAGS\001TagA\002");
        phys[i] = p.physical_offset;
    }
    world_close(w);
    char path[1024];
    for (int i = 0; i < 150; i++) {
        uint8_t e[20];
        file_path(w, path, "consumequeue/Topic_1/7/%020d", i / 100 * 2000);
        cr_assert_eq(file_size_of(path), 2000);
        file_read(path, i % 100 * 20, e, 20);
        cr_assert_eq((int64_t)zl_load64(e), phys[i]);
        cr_assert_eq(zl_load32(e + 8), 91 + 4 + 7 + 10);
        cr_assert_eq((int64_t)zl_load64(e + 12), tags);
    }
    file_path(w, path, "checkpoint");
    cr_assert_eq(file_size_of(path), 4096);
    uint8_t c[48];
    file_read(path, 0, c, 48);
    cr_assert_eq((int64_t)zl_load64(c + 40), phys[149]);
    cr_assert_gt((int64_t)zl_load64(c), 1700000000000);
    cr_assert_eq(zl_load64(c), zl_load64(c + 8));
    file_path(w, path, "abort");
    cr_assert_eq(file_size_of(path), -1);
    world_end(w);
}

Test(append, prepared_and_rollback_records_have_no_queue_entry)
{
    struct world *w = world_new("transaction");
    cr_assert_eq(world_open(w), ZR_OK);
    const int32_t kind[4] = { 0, ZR_SYSFLAG_PREPARED, ZR_SYSFLAG_COMMIT, ZR_SYSFLAG_ROLLBACK };
    for (int i = 0; i < 4; i++) {
        struct zr_msg m = msg_of("T", 0, "x", 1, NULL);
        struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
        int64_t end;
        m.sys_flag = kind[i];
        zs_append(w->st, &m, 1, &p, &end);
        cr_assert_eq(p.status, ZR_OK);
        cr_assert_eq(p.queue_offset, i == 2 ? 1 : 0);
    }
    cr_assert_eq(max_of(w, "T", 0), 2);
    w = world_kill(w);
    cr_assert_eq(max_of(w, "T", 0), 2);
    world_end(w);
}

Test(append, store_times_go_back_only_with_a_clock_that_went_back_far)
{
    struct world *w = world_new("clock");
    cr_assert_eq(world_open(w), ZR_OK);
    const int64_t t = 1800000000000;
    atomic_store(&w->wall, t);
    cr_assert_eq(put_one(w, "T", 0, "a", NULL).store_ms, t);
    atomic_store(&w->wall, t - 50000);
    cr_assert_eq(put_one(w, "T", 0, "b", NULL).store_ms, t);
    w = world_kill(w);
    atomic_store(&w->wall, t - 50000);
    cr_assert_eq(put_one(w, "T", 0, "c", NULL).store_ms, t);
    atomic_store(&w->wall, t - 3600000);
    cr_assert_eq(put_one(w, "T", 0, "d", NULL).store_ms, t - 3600000);
    w = world_kill(w);
    cr_assert_eq(read_all(w, "T", 0, 0), 4);
    world_end(w);
}

Test(append, entries_beyond_the_bound_of_memory_are_written_by_the_appender)
{
    struct world *w = world_new("bound");
    w->conf.max_tail_bytes = 4096;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 2000; i++) cr_assert_eq(put_one(w, "T", i % 50, "x", NULL).status, ZR_OK);
    for (int q = 0; q < 50; q++) cr_assert_eq(read_all(w, "T", q, 0), 40);
    world_end(w);
}

Test(append, a_closing_store_takes_no_message)
{
    struct world *w = world_new("closing");
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 3, 100);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 100), 3);
    world_end(w);
}

/* More queues than descriptors are kept, and than are synced one by one. */
Test(append, a_thousand_queues)
{
    struct world *w = world_new("thousand");
    char topic[32];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 1000; i++) {
            snprintf(topic, sizeof topic, "T%d", i / 4);
            cr_assert_eq(put_one(w, topic, i % 4, "x", NULL).queue_offset, round);
        }
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert(world_said(w, ": 0 records, 0 entries made"), "%s", w->lines);
    w = world_kill(w);
    for (int i = 0; i < 1000; i++) {
        snprintf(topic, sizeof topic, "T%d", i / 4);
        cr_assert_eq(read_all(w, topic, i % 4, 0), 3);
    }
    world_end(w);
}

Test(append, segments_that_are_preallocated)
{
    struct world *w = world_new("preallocate");
    w->conf.preallocate = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 300, 500);
    cr_assert_eq(read_all(w, "T", 0, 500), 300);
    w = world_kill(w);
    cr_assert_eq(read_all(w, "T", 0, 500), 300);
    world_close(w); /* a segment made ahead and not used is gone after a clean stop */
    char path[1024];
    file_path(w, path, "commitlog");
    cr_assert_eq(count_files(path), 3);
    world_end(w);
}

Test(append, segments_made_ahead_can_be_written_first)
{
    struct world *w = world_new("ahead");
    char path[1024], temporary[1024];
    struct stat made;
    w->conf.preallocate = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    file_path(w, path, "commitlog/%020d", 65536);
    put_many(w, "T", 0, 90, 500); /* most of the first one: the next is asked for */
    for (int i = 0; i < 2000 && file_size_of(path) != 65536; i++) usleep(1000);
    cr_assert_eq(stat(path, &made), 0);
    cr_assert_geq((int64_t)made.st_blocks * 512, 65536, "no hole in it");
    put_many(w, "T", 0, 900, 500); /* faster than files are made: who comes first makes it, and nothing is written over */
    cr_assert_eq(read_all(w, "T", 0, 500), 990);
    w = world_kill(w);
    cr_assert_eq(read_all(w, "T", 0, 500), 990);
    world_close(w);
    for (int i = 0; i < 20; i++) {
        file_path(w, temporary, "commitlog/%020d.tmp", i * 65536);
        cr_assert_eq(file_size_of(temporary), -1);
    }
    world_end(w);
}

/* ---- group commit ---- */

#define SENDERS 8
#define SENDS 50
static _Atomic uint32_t log_syncs;
static struct world *slow_world;

/* A disk that takes 20 ms: far longer than a sender needs to come back. */
static int64_t slow_fdatasync(void *self, int32_t fd)
{
    (void)self;
    if (!strstr(slow_world->fd_path[fd], "/commitlog/")) return 0;
    usleep(20000);
    atomic_fetch_add(&log_syncs, 1);
    return 0;
}

static void *send_and_wait(void *arg)
{
    struct world *w = arg;
    for (int i = 0; i < SENDS; i++) {
        struct zr_put p = put_one(w, "T", 0, "x", "");
        cr_assert(zs_flush_wait(w->st, p.physical_offset + p.size));
    }
    return NULL;
}

Test(append, a_slow_disk_has_all_senders_in_one_sync)
{
    struct world *w = slow_world = world_new("gather");
    pthread_t t[SENDERS];
    w->conf.sync = 1;
    w->io.fdatasync = slow_fdatasync;
    cr_assert_eq(world_open(w), ZR_OK);
    uint32_t halves = 2 * SENDS, least = halves; /* as many as two groups in turn would need */
    for (int round = 0; round < 4 && least >= halves / 4 * 3; round++) { /* a machine with other work may keep some from coming */
        atomic_store(&log_syncs, 0);
        for (int i = 0; i < SENDERS; i++) pthread_create(&t[i], NULL, send_and_wait, w);
        for (int i = 0; i < SENDERS; i++) pthread_join(t[i], NULL);
        uint32_t syncs = atomic_load(&log_syncs);
        cr_assert_geq(syncs, SENDS);
        if (syncs < least) least = syncs;
    }
    cr_assert_lt(least, halves / 4 * 3, "%u syncs for %d messages of %d senders", least, SENDERS * SENDS, SENDERS);
    world_end(w);
}

/* Such bytes are what a sector looks like that a failure of the power left unwritten. */
Test(append, properties_that_a_recovery_would_not_believe_are_refused)
{
    static char props[3000];
    for (int n = 0; n < 1200; n += 100) {
        struct world *w = world_new("nuls");
        cr_assert_eq(world_open(w), ZR_OK);
        memset(props, 'x', sizeof props);
        memcpy(props, "a\1", 2);
        memset(props + 700, 0, (size_t)n);
        props[2999] = 2;
        for (int end = 0; end < 2; end++) {
            struct zr_msg m = msg_of("T", 0, "body", 4, NULL);
            struct zr_put put = { .hdr = { sizeof put, 0 } };
            int64_t at;
            m.properties = (struct zr_span){ (const uint8_t *)props, end ? 700 + (uint64_t)n : sizeof props };
            zs_append(w->st, &m, 1, &put, &at);
            cr_assert_eq(put.status, n >= 512 || (end && n) ? ZR_EINVAL : ZR_OK, "%d zero bytes", n);
        }
        world_end(w);
    }
}

Test(append, topics_are_counted_as_they_come_and_go)
{
    struct world *w = world_new("topics");
    uint64_t queues, n;
    char name[32];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 3000; i++) { /* the table grows some times; ids in no order, and not from 0 on */
        snprintf(name, sizeof name, "T%d", i % 700);
        cr_assert_not_null(zs_queue(w->st, zl_str(name), 60000 - i * 7, 1));
    }
    cr_assert_eq(zs_count_topics(w->st, &queues), 700);
    cr_assert_eq(queues, 3000);
    for (int i = 0; i < 350; i++) {
        snprintf(name, sizeof name, "T%d", i * 2);
        free(zs_queues_take(w->st, zl_str(name), &n));
        cr_assert_eq(n, i * 2 < 200 ? 5 : 4, "%d: %d", i, (int)n);
        cr_assert_null(zs_queue(w->st, zl_str(name), 60000 - i * 2 * 7, 0));
        free(zs_queues_take(w->st, zl_str(name), &n));
        cr_assert_eq(n, 0);
    }
    cr_assert_eq(zs_count_topics(w->st, &queues), 350);
    for (int i = 1; i < 700; i += 2) {
        snprintf(name, sizeof name, "T%d", i);
        cr_assert_not_null(zs_queue(w->st, zl_str(name), 60000 - i * 7, 0));
    }
    cr_assert_not_null(zs_queue(w->st, zl_str("T0"), 5, 1));
    cr_assert_eq(zs_count_topics(w->st, &queues), 351);
    world_end(w);
}
