/* SPDX-License-Identifier: Apache-2.0 */
/* durability.c - answers that wait for the disk or for replicas; what consumers see meanwhile. */
#include "world.h"

static struct answer a;

static void make_topic(const char *name)
{
    struct zr_topic t = {
        .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str(name), .read_queues = 1, .write_queues = 1, .perm = 6
    };
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
}

static int32_t put(struct client *c, const char *props)
{
    int32_t o = client_put(
        c, 310, 0,
        FIELDS("a", "PG", "b", "T", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "1", "h", "0", "i", props), "x",
        1);
    client_turn(c);
    return o;
}

Test(sync_flush, answers_leave_when_the_disk_has_them_in_order)
{
    store.sync = 1;
    world_start();
    make_topic("T");
    struct client *c = client_open(0), *d = client_open(1);
    int32_t o[3] = { put(c, "UNIQ_KEY\1u0\2"), put(c, "UNIQ_KEY\1u1\2"), put(d, "") };
    world_pump();
    cr_expect(client_answers(c) == 0 && client_answers(d) == 0);
    cr_expect(store_wanted() > 0);
    int32_t now = put(c, "WAIT\1false\2UNIQ_KEY\1w\2");
    cr_assert(client_take(c, now, &a));
    cr_expect(a.code == 0);
    answer_free(&a);
    store_flush();
    for (uint32_t i = 0; i < 3; i++) {
        client_wait(i < 2 ? c : d, o[i], &a);
        cr_expect(a.code == 0 && answer_i64(&a, "queueOffset") == i);
        if (i < 2)
            cr_expect(zl_is(answer_field(&a, "transactionId"), i ? "u1" : "u0"));
        answer_free(&a);
    }
    world_stop();
}

static int32_t put_batch(struct client *c, const char *props, uint32_t n)
{
    struct zl_buf b;
    zl_buf_init(&b, 1u << 16);
    for (uint32_t i = 0; i < n; i++) {
        struct zl_batch_item item = { .body = { (const uint8_t *)"x", 1 } };
        zl_batch_add(&b, &item);
    }
    int32_t o = client_put(c, 320, 0,
                           FIELDS("a", "PG", "b", "T", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "1", "h", "0", "i", props, "m", "true"),
                           (const char *)b.ptr, b.len);
    client_turn(c);
    zl_buf_free(&b);
    return o;
}

/* What is not "true" is false, as Boolean.parseBoolean has it; an empty value is as none. */
Test(sync_flush, who_does_not_wait_has_the_answer_at_once_and_nobody_sees_the_message_yet)
{
    static const char *const without[] = { "WAIT\1false\2", "WAIT\1FALSE\2", "KEYS\1k\2WAIT\1no" };
    static const char *const waiting[] = { "", "WAIT\1true\2", "WAIT\1TRUE\2", "WAIT\1\2" };
    int32_t parked[8], now, n = 0;
    store.sync = 1;
    world_start();
    make_topic("T");
    struct client *c = client_open(0), *d = client_open(1);
    for (uint32_t i = 0; i < 4; i++) {
        parked[n++] = put(d, waiting[i]);
        parked[n++] = put_batch(d, waiting[i], 3);
    }
    world_pump();
    cr_expect(client_answers(d) == 0, "%u answered", client_answers(d));
    for (uint32_t i = 0; i < 6; i++) {
        now = i % 2 ? put_batch(c, without[i / 2], 3) : put(c, without[i / 2]);
        cr_assert(client_take(c, now, &a), "%s", without[i / 2]);
        cr_expect(a.code == 0);
        answer_free(&a);
    }
    cr_expect(client_answers(d) == 0);
    struct answer b; /* 4 × (1 + 3) and 3 × (1 + 3) messages are stored, and none of them is seen */
    int32_t pull = pull_put(c, "G", "T", "0", "0", "4", "0");
    client_wait(c, pull, &b);
    cr_expect(b.code != 0, "%d", b.code);
    answer_free(&b);
    store_flush();
    for (int32_t i = 0; i < n; i++) {
        client_wait(d, parked[i], &a);
        cr_expect(a.code == 0);
        answer_free(&a);
    }
    pull = pull_put(c, "G", "T", "0", "0", "4", "0");
    client_wait(c, pull, &b);
    cr_expect(b.code == 0 && answer_records(&b) == 28, "%d", b.code);
    answer_free(&b);
    world_stop();
}

Test(sync_flush, consumers_see_and_are_woken_by_what_is_flushed)
{
    store.sync = 1;
    world_start();
    make_topic("T");
    struct client *c = client_open(0), *p = client_open(1);
    int32_t pull = pull_put(c, "G", "T", "0", "0", "6", "20000"), o = put(p, "");
    world_pump();
    struct answer b;
    cr_expect(!client_take(c, pull, &b) && zb_hold_count() == 1);
    store_flush();
    client_wait(c, pull, &b);
    cr_expect(b.code == 0 && answer_records(&b) == 1);
    answer_free(&b);
    client_wait(p, o, &a);
    answer_free(&a);
    pull = pull_put(c, "G", "T", "0", "1", "6", "20000"); /* one that does not wait for its answer wakes too */
    put(p, "WAIT\1false\2");
    cr_expect(zb_hold_count() == 1);
    store_flush();
    client_wait(c, pull, &b);
    cr_expect(b.code == 0);
    answer_free(&b);
    world_stop();
}

static void short_wait(struct zb_settings *s) { s->sync_flush_timeout_ms = 50; }

Test(sync_flush, too_late_is_10_with_the_whole_header)
{
    store.sync = 1;
    world_start_with(short_wait);
    make_topic("T");
    struct client *c = client_open(0);
    client_wait(c, put(c, "UNIQ_KEY\1u\2"), &a);
    cr_expect(a.code == 10 && answer_i64(&a, "queueOffset") == 0 && zl_is(answer_field(&a, "transactionId"), "u"));
    answer_free(&a);
    store_flush();
    world_pump();
    cr_expect(client_answers(c) == 1);
    world_stop();
}

Test(sync_flush, a_failed_flush_is_an_error_now_and_later)
{
    store.sync = 1;
    world_start();
    make_topic("T");
    struct client *c = client_open(0);
    int32_t o = put(c, "");
    zb_durability_table.fail(NULL, ZR_MARK_FLUSHED, zl_str("the disk is gone"));
    client_wait(c, o, &a);
    cr_expect(a.code == 14 && zl_is(a.h.remark, "the disk is gone"));
    answer_free(&a);
    client_wait(c, put(c, ""), &a);
    cr_expect(a.code == 14);
    answer_free(&a);
    world_stop();
}

static void sync_master(struct zb_settings *s)
{
    s->role = ZB_ROLE_SYNC_MASTER;
    s->in_sync_replicas = 2;
    s->slave_timeout_ms = 100;
}

static void sync_master_alone(struct zb_settings *s)
{
    s->role = ZB_ROLE_SYNC_MASTER;
    s->in_sync_replicas = 1; /* the default: the broker itself counts */
}

Test(sync_master, alone_waits_for_nobody)
{
    world_start_with(sync_master_alone);
    make_topic("T");
    struct client *c = client_open(0);
    client_wait(c, put(c, ""), &a);
    cr_expect(a.code == 0);
    answer_free(&a);
    world_stop();
}

Test(sync_master, answers_wait_for_the_replicas)
{
    world_start_with(sync_master);
    make_topic("T");
    struct client *c = client_open(0);
    int32_t o = put(c, "");
    world_pump();
    cr_expect(!client_take(c, o, &a));
    zb_durability_table.advance(NULL, ZR_MARK_REPLICATED, zb_durability_table.position(NULL, ZR_MARK_WRITTEN));
    client_wait(c, o, &a);
    cr_expect(a.code == 0);
    answer_free(&a);
    client_wait(c, put(c, ""), &a);
    cr_expect(a.code == 12);
    answer_free(&a);
    o = put(c, "");
    zb_durability_table.fail(NULL, ZR_MARK_REPLICATED, zl_str("no replica"));
    client_wait(c, o, &a);
    cr_expect(a.code == 11 && answer_i64(&a, "queueOffset") == 2);
    answer_free(&a);
    world_stop();
}

static _Atomic uint32_t n_done;
static zr_status done_status;
static void on_done(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    (void)ctx;
    cr_expect(n == 2 && puts[0].status == ZR_OK && puts[1].queue_offset == puts[0].queue_offset + 1);
    done_status = status;
    n_done++;
}

static void publish_two(void)
{
    struct zr_msg m[2] = {
        { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("T"), .body = { (const uint8_t *)"b", 1 } }
    };
    m[1] = m[0];
    zb_store_table.publish(NULL, m, 2, 0, on_done, NULL);
}

Test(publish, features_wait_for_the_disk_and_wake_pulls)
{
    store.sync = 1;
    world_start();
    make_topic("T");
    struct client *c = client_open(0);
    int32_t pull = pull_put(c, "G", "T", "0", "0", "6", "20000");
    publish_two();
    cr_expect(n_done == 0 && zb_hold_count() == 1);
    store_flush();
    cr_expect(n_done == 1 && done_status == ZR_OK);
    client_wait(c, pull, &a);
    cr_expect(a.code == 0 && answer_records(&a) == 2);
    answer_free(&a);
    publish_two();
    zb_durability_table.fail(NULL, ZR_MARK_FLUSHED, zl_str("gone"));
    cr_expect(n_done == 2 && done_status == ZR_EIO);
    world_stop();
}

Test(publish, under_async_flush_it_is_done_at_once)
{
    world_start();
    make_topic("T");
    struct client *c = client_open(0);
    int32_t pull = pull_put(c, "G", "T", "0", "0", "6", "20000");
    publish_two();
    cr_expect(n_done == 1);
    client_wait(c, pull, &a);
    cr_expect(answer_records(&a) == 2);
    answer_free(&a);
    pull = pull_put(c, "G", "T", "0", "2", "6", "20000");
    zb_durability_table.arrived(NULL, zl_str("T"), 0, 3, 0); /* replication says so: looked for, and nothing is there */
    client_wait(c, pull, &a);
    cr_expect(a.code == 19);
    answer_free(&a);
    world_stop();
}

static void hook(const struct zr_event *event, struct zr_verdict *verdict)
{
    if (event->point == ZR_POINT_PUBLISH && event->msg->flag == 1)
        verdict->what = ZR_VERDICT_REJECT;
    if (event->point == ZR_POINT_STORED)
        n_done += 100;
}

static void on_mixed(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    (void)ctx;
    cr_expect(status == ZR_OK && n == 3 && puts[0].status == ZR_OK && puts[1].status == ZR_EPERM &&
              puts[2].status == ZR_OK && puts[2].queue_offset == 1);
}

Test(publish, a_refused_message_does_not_stop_the_others)
{
    world_start();
    make_topic("T");
    world_hook = hook;
    world_hook_points = 1u << ZR_POINT_PUBLISH | 1u << ZR_POINT_STORED;
    struct zr_msg m[3] = {
        { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("T"), .body = { (const uint8_t *)"b", 1 } }
    };
    m[1] = m[2] = m[0];
    m[1].flag = 1;
    zb_store_table.publish(NULL, m, 3, 0, on_mixed, NULL);
    cr_expect(n_done == 200);
    cr_expect(store_count("T", 0) == 2);
    world_stop();
}

Test(sync_flush, a_wake_that_memory_ran_out_for_comes_when_the_messages_are_visible)
{
    store.sync = 1;
    world_start();
    make_topic("T");
    struct client *c = client_open(0);
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0),
                        .topic = ZR_STR("T"),
                        .body = { (const uint8_t *)"x", 1 },
                        .born_host = zb.id.store_host,
                        .store_host = zb.id.store_host,
                        .inner_num = 1 };
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0) };
    int32_t pull = pull_put(c, "G", "T", "0", "0", "6", "20000");
    int64_t end = 0;
    zb.storage->append(zb.storage_inst, &m, 1, &put, &end); /* as a send does, up to the wake */
    cr_assert(put.status == ZR_OK);
    zb_durability_written(end);
    uint32_t wanted = store_wanted();
    zb_durability_missed(end);
    cr_expect(store_wanted() == wanted + 1); /* somebody has to ask for the flush too */
    world_pump();
    cr_expect(!client_take(c, pull, &a) && zb_hold_count() == 1);
    store_flush();
    client_wait(c, pull, &a);
    cr_expect(a.code == 0 && answer_records(&a) == 1, "%d", a.code);
    answer_free(&a);
    world_stop();
}
