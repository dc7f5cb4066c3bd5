/* SPDX-License-Identifier: Apache-2.0 */
/* Batch consume queues: offsets of batches, reading inside one, RocketMQ's files, recovery from each kind of stop; and records
 * that end in a property CRC. */
#include <errno.h>
#include <sys/stat.h>
#include "host.h"
#include "zs_int.h"

static struct zr_put put_batch(struct world *w, const char *topic, int32_t queue_id, uint32_t n, const char *body)
{
    char props[128];
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0) };
    int64_t end;
    snprintf(props, sizeof props, "UNIQ_KEY\001u\002INNER_NUM\001%u\002", n);
    struct zr_msg m = msg_of(topic, queue_id, body, strlen(body), props);
    m.flags |= ZR_MSG_BATCH_QUEUE;
    if (n) {
        m.sys_flag |= ZR_SYSFLAG_INNER_BATCH | ZR_SYSFLAG_NEED_UNWRAP;
        m.inner_num = n;
    } else {
        m.properties = (struct zr_span){ (const uint8_t *)"A\001b\002", 4 };
    }
    zs_append(w->st, &m, 1, &put, &end);
    return put;
}

/* Reads all of a queue from offset on: each record once, its base, and how many offsets it takes. */
static void expect_records(struct world *w, int64_t from, const int64_t *bases, const uint32_t *nums, int n)
{
    int at = 0;
    while (at < n && bases[at] + (nums[at] ? nums[at] : 1) <= from) at++;
    while (at < n) {
        struct answer a;
        cr_assert_eq(read_at(w, "B", 0, from, 32, &a), ZR_OK);
        cr_assert_eq(a.r.what, ZR_READ_FOUND, "at %d: %s", (int)from, w->lines);
        for (uint32_t i = 0; i < a.r.n_messages; i++, at++) {
            struct zl_record r = record_of(&a, i);
            char base[32];
            cr_assert_eq(r.queue_offset, bases[at]);
            cr_assert_eq(zl_record_offsets(&r), nums[at] ? nums[at] : 1);
            snprintf(base, sizeof base, "%019d", (int)bases[at]);
            if (nums[at]) cr_assert(zl_is(zl_props_get(r.properties, "INNER_BASE"), base));
        }
        from = a.r.next_offset;
        zs_unpin(w->st, a.r.pin);
        cr_assert_eq(from, bases[at - 1] + (nums[at - 1] ? nums[at - 1] : 1));
    }
    cr_assert_eq(max_of(w, "B", 0), from);
}

static int fill(struct world *w, int64_t *bases, uint32_t *nums, int from, int n)
{
    int64_t next = from ? bases[from - 1] + (nums[from - 1] ? nums[from - 1] : 1) : 0;
    for (int i = from; i < from + n; i++) {
        nums[i] = (uint32_t)(i * 7 % 5 ? i * 7 % 40 : 0);
        struct zr_put p = put_batch(w, "B", 0, nums[i], "body");
        cr_assert_eq(p.status, ZR_OK, "%d", p.status);
        cr_assert_eq(p.queue_offset, next);
        bases[i] = next;
        next += nums[i] ? nums[i] : 1;
    }
    return from + n;
}

/* RocketMQ's files say the same. */
static void expect_files(struct world *w, const int64_t *bases, const uint32_t *nums, int n)
{
    char path[1024];
    uint8_t e[46];
    file_path(w, path, "batchconsumequeue/B/0/%020d", 0);
    for (int i = 0; i < n; i++) {
        file_read(path, 46 * i, e, 46);
        cr_assert_eq((int64_t)zl_load64(e + 28), bases[i], "%d: %d", i, (int)zl_load64(e + 28));
        cr_assert_eq(zl_load16(e + 36), nums[i] ? nums[i] : 1);
        cr_assert_eq((int32_t)zl_load32(e + 38), -1);
        cr_assert_gt((int32_t)zl_load32(e + 8), 91);
    }
    file_read(path, 46 * n, e, 46);
    for (int i = 0; i < 46; i++) cr_assert_eq(e[i], 0);
    file_path(w, path, "consumequeue/B");
    cr_assert_eq(file_size_of(path), -1);
}

Test(batch, a_batch_takes_its_offsets_and_is_read_once)
{
    struct world *w = world_new("batch");
    int64_t bases[200];
    uint32_t nums[200];
    cr_assert_eq(world_open(w), ZR_OK);
    int n = fill(w, bases, nums, 0, 60);
    for (int64_t from = 0; from < bases[n - 1]; from += 3) expect_records(w, from, bases, nums, n);
    world_close(w);
    expect_files(w, bases, nums, n);
    cr_assert_eq(world_open(w), ZR_OK);
    expect_records(w, 0, bases, nums, n);
    n = fill(w, bases, nums, n, 20);
    w = world_kill(w);
    expect_records(w, 0, bases, nums, n);
    n = fill(w, bases, nums, n, 20);
    world_close(w);
    expect_files(w, bases, nums, n);
    world_end(w);
}

Test(batch, another_broker_went_on_and_nothing_of_ours_is_left)
{
    struct world *w = world_new("foreign");
    int64_t bases[200];
    uint32_t nums[200];
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    int n = fill(w, bases, nums, 0, 60);
    world_close(w);
    file_path(w, path, "zarya");
    remove_tree(path);
    cr_assert_eq(world_open(w), ZR_OK);
    expect_records(w, 0, bases, nums, n);
    n = fill(w, bases, nums, n, 10);
    world_close(w);
    expect_files(w, bases, nums, n);
    file_path(w, path, "batchconsumequeue/B/0"); /* its entries are made again too */
    remove_tree(path);
    cr_assert_eq(world_open(w), ZR_OK);
    expect_records(w, 0, bases, nums, n);
    n = fill(w, bases, nums, n, 10);
    world_close(w);
    expect_files(w, bases, nums, n);
    world_end(w);
}

Test(batch, what_says_other_than_it_has_is_refused)
{
    struct world *w = world_new("refused");
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0) };
    int64_t end;
    cr_assert_eq(world_open(w), ZR_OK);
    struct zr_msg m = msg_of("B", 0, "x", 1, "INNER_NUM\0013\002");
    m.flags |= ZR_MSG_BATCH_QUEUE;
    m.inner_num = 3;
    zs_append(w->st, &m, 1, &put, &end);
    cr_assert_eq(put.status, ZR_EINVAL);
    m.sys_flag |= ZR_SYSFLAG_INNER_BATCH;
    m.inner_num = 4;
    zs_append(w->st, &m, 1, &put, &end);
    cr_assert_eq(put.status, ZR_EINVAL);
    m.inner_num = 0;
    zs_append(w->st, &m, 1, &put, &end);
    cr_assert_eq(put.status, ZR_EINVAL);
    world_end(w);
}

Test(batch, no_other_topic_becomes_one_of_batch_queues)
{
    struct world *w = world_new("ordinary");
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0) };
    char path[1024];
    struct stat info;
    int64_t end;
    cr_assert_eq(world_open(w), ZR_OK);
    struct zr_msg m = msg_of("B", 0, "x", 1, "INNER_NUM\0011\002");
    m.sys_flag |= ZR_SYSFLAG_INNER_BATCH | ZR_SYSFLAG_NEED_UNWRAP;
    zs_append(w->st, &m, 1, &put, &end);
    cr_assert_eq(put.status, ZR_EINVAL);
    file_path(w, path, "batchconsumequeue/B");
    cr_assert(stat(path, &info) != 0);
    m.flags |= ZR_MSG_BATCH_QUEUE;
    zs_append(w->st, &m, 1, &put, &end);
    cr_assert_eq(put.status, ZR_OK);
    cr_assert(stat(path, &info) == 0);
    world_end(w);
}

Test(batch, many_records_are_written_with_few_syncs)
{
    struct world *w = world_new("few");
    struct zr_queue *q;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 5000; i++) cr_assert_eq(put_batch(w, "B", 0, i % 3, "body").status, ZR_OK);
    world_fault(w, OP_FDATASYNC, -1, 0, "batchconsumequeue/B/0");
    cr_assert_eq(zs_save(w->st, 0), 0);
    cr_assert_leq(atomic_load(&w->fault[OP_FDATASYNC].calls), 3);
    world_fault(w, OP_FDATASYNC, 0, EIO, "batchconsumequeue/B/0"); /* one that fails is not taken for done */
    for (int i = 0; i < 5000; i++) cr_assert_eq(put_batch(w, "B", 0, 0, "body").status, ZR_OK);
    cr_assert_lt(zs_save(w->st, 0), 0);
    world_mend(w);
    q = zs_queue_find(w->st, zl_str("B"), 0);
    cr_assert_eq(q->persisted, atomic_load(&q->next));
    world_end(w);
}

Test(batch, a_removed_topic_begins_anew)
{
    struct world *w = world_new("removed");
    int64_t bases[200];
    uint32_t nums[200];
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    int n = fill(w, bases, nums, 0, 30);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(zs_remove_topic(w->st, zl_str("B")), ZR_OK);
    file_path(w, path, "batchconsumequeue/B");
    cr_assert_eq(file_size_of(path), -1);
    n = fill(w, bases, nums, 0, 10);
    w = world_kill(w);
    expect_records(w, 0, bases, nums, n);
    world_close(w);
    expect_files(w, bases, nums, n);
    world_end(w);
}

Test(batch, records_end_in_a_property_crc_when_told_to)
{
    struct world *w = world_new("sealed");
    char path[1024], props[64];
    int64_t phys[50];
    w->conf.property_crc = w->conf.property_crc_check = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 50; i++) {
        snprintf(props, sizeof props, "UNIQ_KEY\001U%d\002__CRC32#\0010000000000\002", i);
        phys[i] = put_one(w, "T", 0, "some body", props).physical_offset;
    }
    for (int i = 0; i < 50; i++) {
        struct answer a;
        cr_assert_eq(read_at(w, "T", 0, i, 1, &a), ZR_OK);
        cr_assert_eq(zl_record_sealed((struct zr_span){ a.pieces[0].ptr, a.pieces[0].len }), 1);
        zs_unpin(w->st, a.r.pin);
    }
    w = world_kill(w);
    cr_assert_eq(max_of(w, "T", 0), 50);
    file_path(w, path, "commitlog/%020d", 0); /* a property changes: no body's checksum sees it */
    int64_t at = phys[40] + 88 + 9 + 2 + 2 + 10;
    cr_assert_lt(phys[49], 1 << 16);
    file_flip(path, at);
    char abort_path[1024];
    w = world_kill(w);
    (void)abort_path;
    cr_assert(world_said(w, "property CRC"), "%s", w->lines);
    world_end(w);
}

Test(batch, forms_that_are_not_read_are_told_or_refused)
{
    struct world *w = world_new("rocks");
    char path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "T", 0, 20, 300);
    world_close(w);
    file_path(w, path, "consumequeue/CURRENT");
    fclose(fopen(path, "w"));
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert(world_said(w, "consume queues in RocksDB"), "%s", w->lines);
    cr_assert_eq(read_all(w, "T", 0, 300), 20);
    world_close(w);
    file_path(w, path, "config");
    mkdir(path, 0755);
    file_path(w, path, "config/rdb");
    mkdir(path, 0755);
    file_path(w, path, "config/rdb/CURRENT");
    fclose(fopen(path, "w"));
    cr_assert_eq(world_open(w), ZR_EINVAL);
    cr_assert(strstr(w->error, "rocksDBConfigToJson"), "%s", w->error);
    file_path(w, path, "config/topics.json");
    fclose(fopen(path, "w"));
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "T", 0, 300), 20);
    world_end(w);
}
