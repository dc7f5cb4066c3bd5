/* SPDX-License-Identifier: Apache-2.0 */
/* send.c - sends: what is checked, what is stored, what is answered. */
#include "world.h"

static void no_auto_create(struct zb_settings *s) { s->auto_create_topic = 0; }
static void small_messages(struct zb_settings *s) { s->max_message_size = 1024; }

static void make_topic(const char *name, int32_t queues)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0),
                          .name = zl_str(name),
                          .read_queues = queues,
                          .write_queues = queues,
                          .perm = 6 };
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
}

Test(send, single_message_is_stored_and_answered_as_apache_does)
{
    struct answer a;
    world_start();
    make_topic("T", 4);
    struct client *c = client_open(0);
    cr_assert(send_to(c, "T", "2", "KEYS\1k\2UNIQ_KEY\1ABC\2WAIT\1true\2TAGS\1TagA\2", "hello", &a) == 0);
    cr_expect(zl_is(answer_field(&a, "queueId"), "2"));
    cr_expect(zl_is(answer_field(&a, "queueOffset"), "0"));
    cr_expect(zl_is(answer_field(&a, "transactionId"), "ABC"));
    cr_expect(zl_is(answer_field(&a, "MSG_REGION"), "DefaultRegion"));
    cr_expect(zl_is(answer_field(&a, "TRACE_ON"), "true"));
    cr_expect(zl_is(answer_field(&a, "msgId"), "7F00000100002A9F0000000000000000"));
    cr_expect(a.h.remark.len == 0);
    answer_free(&a);
    struct zl_record r;
    store_last("T", 2, &r);
    cr_expect(r.body.len == 5 && memcmp(r.body.ptr, "hello", 5) == 0);
    cr_expect(r.born_ms == 1700000000000 && r.born_host.port == 5000 && r.store_host.port == 10911 &&
              r.reconsume_times == 0);
    cr_expect(zl_is(zl_props_get(r.properties, "KEYS"), "k"));
    cr_expect(zl_is(zl_props_get(r.properties, "TAGS"), "TagA"));
    cr_expect(zl_is(zl_props_get(r.properties, "CLUSTER"), "DefaultCluster"));
    cr_expect(zl_is(zl_props_get(r.properties, "MSG_REGION"), "DefaultRegion"));
    cr_expect(zl_is(zl_props_get(r.properties, "TRACE_ON"), "true"));
    cr_assert(zb_broker_table.set_config(NULL, zl_str("traceOn"), zl_str("false")) == ZR_OK);
    cr_assert(send_to(c, "T", "2", "", "hello", &a) == 0);
    cr_expect(zl_is(answer_field(&a, "TRACE_ON"), "false"));
    answer_free(&a);
    store_last("T", 2, &r);
    cr_expect(zl_is(zl_props_get(r.properties, "TRACE_ON"), "false"));
    world_stop();
}

Test(send, code_10_works_and_properties_of_4_9_have_no_last_separator)
{
    struct answer a;
    world_start();
    make_topic("T", 4);
    struct client *c = client_open(0);
    cr_assert(client_ask(c, 10,
                         FIELDS("producerGroup", "PG", "topic", "T", "defaultTopic", "TBW102", "defaultTopicQueueNums",
                                "4", "queueId", "-1", "sysFlag", "769", "bornTimestamp", "5", "flag", "7", "properties",
                                "TAGS\1A\2POP_CK\1x\2CLUSTER\1other\2KEYS\1k"),
                         "b", &a) == 0);
    int32_t q = (int32_t)answer_i64(&a, "queueId");
    cr_expect(q >= 0 && q < 4);
    struct zr_str uniq = answer_field(&a, "transactionId");
    cr_expect(uniq.len == 32);
    struct zl_record r;
    store_last("T", q, &r);
    cr_expect(r.sys_flag == 769 && r.flag == 7);
    cr_expect(zl_props_get(r.properties, "POP_CK").len == 0);
    cr_expect(zl_is(zl_props_get(r.properties, "CLUSTER"), "DefaultCluster"));
    cr_expect(zl_is(zl_props_get(r.properties, "KEYS"), "k"));
    cr_expect(zl_eq(zl_props_get(r.properties, "UNIQ_KEY"), uniq));
    answer_free(&a);
    world_stop();
}

Test(send, a_turn_is_one_append_and_oneway_gets_no_answer)
{
    struct answer a;
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0), *d = client_open(0);
    const char *const *f = FIELDS("a", "PG", "b", "T", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "1", "h", "0",
                                  "i", "UNIQ_KEY\1k\2");
    uint32_t before = store_appends();
    int32_t o1 = client_put(c, 310, 0, f, "one", 3), o2 = client_put(d, 310, 0, f, "two", 3);
    client_put(c, 310, ZL_FLAG_ONEWAY, f, "three", 5);
    int32_t o3 = client_put(c, 310, 0, f, "four", 4);
    client_turn(c);
    cr_expect(store_appends() == before + 1);
    cr_expect(store_count("T", 0) == 4);
    cr_assert(client_take(c, o1, &a));
    cr_expect(answer_i64(&a, "queueOffset") == 0);
    answer_free(&a);
    cr_assert(client_take(d, o2, &a));
    cr_expect(answer_i64(&a, "queueOffset") == 1);
    answer_free(&a);
    cr_assert(client_take(c, o3, &a));
    cr_expect(answer_i64(&a, "queueOffset") == 3);
    answer_free(&a);
    cr_expect(client_answers(c) == 2);
    world_stop();
}

Test(send, more_than_a_batch_holds_is_appended_early_and_all_is_answered)
{
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0);
    for (uint32_t i = 0; i < 3000; i++)
        client_put(c, 310, 0,
                   FIELDS("a", "PG", "b", "T", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "1", "h", "0"), "x",
                   1);
    client_turn(c);
    cr_expect(store_count("T", 0) == 3000);
    cr_expect(client_answers(c) == 3000);
    world_stop();
}

static void batch_body(struct zl_buf *b, uint32_t n)
{
    zl_buf_init(b, 1u << 24);
    for (uint32_t i = 0; i < n; i++) {
        char props[64];
        int len = snprintf(props, sizeof props, "UNIQ_KEY\1U%u\2TAGS\1T%u\2", i, i % 2);
        struct zl_batch_item item = {
            { (const uint8_t *)"body", 4 }, { (const uint8_t *)props, (uint64_t)len }, (int32_t)i, 0
        };
        zl_batch_add(b, &item);
    }
}

Test(send, batches_become_records_with_consecutive_offsets)
{
    struct answer a;
    struct zl_buf b;
    world_start();
    make_topic("T", 2);
    struct client *c = client_open(0);
    batch_body(&b, 3);
    int32_t o = client_put(c, 320, 0,
                           FIELDS("a", "PG", "b", "T", "c", "TBW102", "d", "4", "e", "1", "f", "0", "g", "9", "h", "0",
                                  "i", "UNIQ_KEY\1U\2WAIT\1true\2", "m", "true"),
                           (const char *)b.ptr, b.len);
    client_turn(c);
    client_wait(c, o, &a);
    cr_assert(a.code == 0);
    cr_expect(answer_field(&a, "msgId").len == 3 * 32 + 2);
    cr_expect(zl_is(answer_field(&a, "transactionId"), "U"));
    answer_free(&a);
    struct zl_record r;
    store_last("T", 1, &r);
    cr_expect(r.queue_offset == 2 && r.flag == 2 && r.born_ms == 9);
    cr_expect(zl_is(zl_props_get(r.properties, "UNIQ_KEY"), "U2"));
    zl_buf_free(&b);
    batch_body(&b, 5000); /* more than the lane's arrays hold */
    o = client_put(c, 320, 0,
                   FIELDS("a", "PG", "b", "T", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "9", "h", "0", "i",
                          "WAIT\1true\2", "m", "true"),
                   (const char *)b.ptr, b.len);
    client_turn(c);
    cr_expect(store_count("T", 0) == 5000);
    cr_expect(client_answers(c) == 2);
    b.len -= 3; /* the last item is cut */
    o = client_put(
        c, 320, 0,
        FIELDS("a", "PG", "b", "T", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "9", "h", "0", "m", "true"),
        (const char *)b.ptr, b.len);
    client_turn(c);
    client_wait(c, o, &a);
    cr_expect(a.code == 13);
    answer_free(&a);
    zl_buf_free(&b);
    world_stop();
}

Test(send, a_batch_with_the_c_plus_plus_clients_flag_is_one_message)
{
    struct answer a;
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0);
    cr_assert(client_ask(c, 10,
                         FIELDS("producerGroup", "PG", "topic", "T", "defaultTopic", "TBW102", "defaultTopicQueueNums",
                                "4", "queueId", "0", "sysFlag", "0", "bornTimestamp", "5", "flag", "0", "batch", "1"),
                         "whatever", &a) == 0);
    cr_expect(store_count("T", 0) == 1);
    answer_free(&a);
    world_stop();
}

#define REFUSED(expected, ...)                                                                                         \
    do {                                                                                                               \
        struct answer x;                                                                                               \
        cr_expect_eq(client_ask(c, 310, FIELDS(__VA_ARGS__), "b", &x), expected, "%d %.*s", x.code,                    \
                     (int)x.h.remark.len, x.h.remark.ptr);                                                             \
        cr_expect(x.h.remark.len > 0);                                                                                 \
        answer_free(&x);                                                                                               \
    } while (0)
#define BASE(topic, queue) "a", "PG", "b", topic, "c", "TBW102", "d", "4", "e", queue, "f", "0", "g", "1", "h", "0"

Test(send, refusals_have_apaches_codes)
{
    struct answer a;
    world_start_with(small_messages);
    make_topic("T", 2);
    struct client *c = client_open(0);
    REFUSED(29, BASE("T", "2"));
    REFUSED(29, BASE("bad topic", "0"));
    REFUSED(29, BASE("", "0"));
    REFUSED(16, BASE("SCHEDULE_TOPIC_XXXX", "0"));
    REFUSED(16, BASE("RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC", "0"));
    REFUSED(1, "a", "PG", "b", "T");
    REFUSED(1, BASE("T", "zero"));
    REFUSED(1, BASE("T", "0"), "i", "DELAY\0013\2");     /* no plugin that delays */
    REFUSED(1, BASE("T", "0"), "i", "TRAN_MSG\1true\2"); /* nor one for transactions */
    REFUSED(1, BASE("T", "0"), "i", "TIMER_DELAY_SEC\0013\2");
    REFUSED(13, BASE("T", "0"), "i", "INNER_NUM\0013\2");
    cr_assert(client_ask(c, 310, FIELDS(BASE("T", "0")), NULL, &a) == 13);
    answer_free(&a);
    char big[2000];
    memset(big, 'x', sizeof big - 1);
    big[sizeof big - 1] = 0;
    cr_assert(client_ask(c, 310, FIELDS(BASE("T", "0")), big, &a) == 13);
    answer_free(&a);
    cr_expect(store_count("T", 0) == 0);
    cr_assert(client_ask(c, 310, FIELDS(BASE("T", "0"), "i", "DELAY\1-1\2"), "b", &a) == 0);
    answer_free(&a);
    cr_expect(store_count("T", 0) == 1);
    world_stop();
}

#define SYS(topic, flag) "a", "PG", "b", topic, "c", "TBW102", "d", "4", "e", "0", "f", flag, "g", "1", "h", "0"

Test(send, what_asks_for_a_plugin_is_never_stored_as_ordinary)
{
    struct answer a;
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0);
    REFUSED(1, BASE("%RETRY%G", "0"), "i", "TRAN_MSG\1true\2");
    REFUSED(1, BASE("%RETRY%G", "0"), "i", "TIMER_DELAY_SEC\00160\2");
    REFUSED(1, BASE("%RETRY%G", "0"), "j", "99", "l", "1", "i", "TIMER_DELAY_SEC\00160\2");
    REFUSED(13, BASE("%RETRY%G", "0"), "i", "DELAY\1abc\2");
    REFUSED(13, BASE("T", "0"), "i", "DELAY\001999999999999\2");
    REFUSED(13, BASE("T", "0"), "i", "DELAY\1abc\2");
    REFUSED(1, SYS("T", "4"));
    REFUSED(1, SYS("T", "12"));
    cr_assert(client_ask(c, 310, FIELDS(SYS("T", "4")), "b", &a) == 1);
    cr_expect(memmem(a.h.remark.ptr, a.h.remark.len, "feature-transaction", 19) != NULL);
    answer_free(&a);
    cr_expect(store_count("T", 0) == 0 && store_count("%RETRY%G", 0) == 0 && store_count("%DLQ%G", 0) == 0);
    cr_assert(client_ask(c, 310, FIELDS(SYS("T", "8")), "b", &a) == 0); /* committed: ordinary */
    answer_free(&a);
    world_stop();
}

Test(send, a_retry_of_what_was_a_transaction_is_an_ordinary_message)
{
    struct answer a;
    struct zl_record r;
    world_start();
    zb.has_delay = 1;
    struct client *c = client_open(0);
    cr_assert(client_ask(c, 310, FIELDS(SYS("%RETRY%G", "4"), "j", "1", "i", "TRAN_MSG\1true\2DELAY\0013\2"), "b", &a) ==
              0);
    answer_free(&a);
    store_last("%RETRY%G", 0, &r);
    cr_expect((r.sys_flag & ZR_SYSFLAG_TRANSACTION_MASK) == 0);
    world_stop();
}

Test(send, messages_in_a_batch_ask_for_no_plugin_either)
{
    const char *const props[] = { "DELAY\0013\2", "DELAY\1x\2", "TRAN_MSG\1true\2", "TIMER_DELAY_MS\0015\2" };
    struct zr_field batch = { ZR_STR("queue.type"), ZR_STR("BatchCQ") };
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0),
                          .name = zl_str("Inner"),
                          .read_queues = 1,
                          .write_queues = 1,
                          .perm = 6,
                          .attributes = &batch,
                          .n_attributes = 1 };
    world_start();
    make_topic("T", 1);
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    struct client *c = client_open(0);
    for (uint32_t i = 0; i < 16; i++) { /* in an item or in the header, of either kind of topic */
        const char *p = props[i % 4], *topic = i & 8 ? "T" : "Inner";
        char outer[128];
        snprintf(outer, sizeof outer, "UNIQ_KEY\1U\2%s", i & 4 ? p : "");
        struct zl_batch_item item = { { (const uint8_t *)"body", 4 }, { (const uint8_t *)p, i & 4 ? 0 : strlen(p) }, 0, 0 };
        struct answer a;
        struct zl_buf b;
        zl_buf_init(&b, 1u << 16);
        zl_batch_add(&b, &item);
        int32_t o = client_put(c, 320, 0, FIELDS(BASE(topic, "0"), "i", outer, "m", "true"), (const char *)b.ptr, b.len);
        client_turn(c);
        client_wait(c, o, &a);
        cr_expect_eq(a.code, 13, "%u: %d", i, a.code);
        answer_free(&a);
        zl_buf_free(&b);
    }
    cr_expect(store_count("T", 0) == 0 && store_count("Inner", 0) == 0);
    world_stop();
}

Test(send, a_topic_without_write_permission_takes_sends_but_an_order_topic_on_a_wiped_broker_does_not)
{
    struct answer a;
    world_start();
    struct zr_topic t = {
        .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("RO"), .read_queues = 1, .write_queues = 1, .perm = 4
    };
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    t.name = zl_str("ORD");
    t.order = 1;
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    struct client *c = client_open(0);
    cr_expect(send_to(c, "RO", "0", "", "b", &a) == 0);
    answer_free(&a);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("brokerPermission"), zl_str("4")) == ZR_OK);
    cr_expect(send_to(c, "RO", "0", "", "b", &a) == 0);
    answer_free(&a);
    cr_expect(send_to(c, "ORD", "0", "", "b", &a) == 16);
    answer_free(&a);
    world_stop();
}

Test(send, storage_failures_become_codes)
{
    struct answer a;
    const struct {
        zr_status status;
        int32_t code;
    } rows[] = { { ZR_EINVAL, 13 }, { ZR_EFULL, 14 }, { ZR_EIO, 14 },
                 { ZR_ENOENT, 17 }, { ZR_EAGAIN, 2 }, { ZR_ENOMEM, 1 } };
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0);
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        store.append_says = rows[i].status;
        cr_expect_eq(send_to(c, "T", "0", "", "b", &a), rows[i].code);
        cr_expect(a.h.remark.len > 0);
        answer_free(&a);
    }
    store.append_says = ZR_OK;
    cr_expect(send_to(c, "T", "0", "", "b", &a) == 0);
    answer_free(&a);
    world_stop();
}

Test(send, a_refusal_names_the_fields_that_are_wrong)
{
    struct answer a;
    world_start();
    struct client *c = client_open(0);
    cr_assert(client_ask(c, 310, FIELDS("a", "PG", "b", "T", "c", "TBW102", "d", "4", "f", "0", "g", "1"), "b", &a) == 1);
    cr_expect(zl_is(a.h.remark, "required fields of the header are missing: queueId (e), flag (h)"), "%.*s",
              (int)a.h.remark.len, a.h.remark.ptr);
    answer_free(&a);
    cr_assert(client_ask(c, 10, FIELDS("producerGroup", "PG"), "b", &a) == 1);
    cr_expect(memmem(a.h.remark.ptr, a.h.remark.len, "missing: topic, defaultTopic, ", 30) != NULL);
    answer_free(&a);
    cr_assert(client_ask(c, 310, FIELDS(BASE("T", "zero")), "b", &a) == 1);
    cr_expect(zl_is(a.h.remark, "the field queueId of the header is not a number"));
    answer_free(&a);
    cr_assert(client_ask(c, 11, FIELDS("topic", "T", "queueId", "x", "queueOffset", "0", "maxMsgNums", "1"), NULL, &a) ==
              1);
    cr_expect(zl_is(a.h.remark, "required fields of the header: consumerGroup is missing, queueId is not a number, "
                                "sysFlag is missing"),
              "%.*s", (int)a.h.remark.len, a.h.remark.ptr);
    answer_free(&a);
    world_stop();
}

Test(send, refused_sends_do_not_ask_the_storage_each_time)
{
    struct answer a;
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0);
    store.append_says = ZR_EFULL;
    uint32_t before = store_infos();
    for (uint32_t i = 0; i < 200; i++) {
        cr_expect(send_to(c, "T", "0", "", "b", &a) == 14);
        cr_expect(memmem(a.h.remark.ptr, a.h.remark.len, "CL: 0.50", 8) && memmem(a.h.remark.ptr, a.h.remark.len, "test says", 9));
        answer_free(&a);
    }
    uint32_t asked = store_infos() - before;
    cr_expect(asked >= 1 && asked < 100, "%u", asked); /* one a second: how slow the machine is plays no part */
    store.append_says = ZR_OK;
    world_stop();
}

Test(send, auto_creation_follows_the_template)
{
    struct answer a;
    world_start();
    struct client *c = client_open(0);
    cr_assert(client_ask(c, 310,
                         FIELDS("a", "PG", "b", "New", "c", "TBW102", "d", "4", "e", "3", "f", "0", "g", "1", "h", "0"),
                         "b", &a) == 0);
    answer_free(&a);
    struct zb_topic *t = zb_topic_get(zl_str("New"));
    cr_assert(t != NULL);
    cr_expect(t->read_queues == 4 && t->write_queues == 4 && t->perm == 6);
    zb_topic_unref(t);
    cr_assert(
        client_ask(c, 310,
                   FIELDS("a", "PG", "b", "Many", "c", "TBW102", "d", "64", "e", "0", "f", "0", "g", "1", "h", "0"),
                   "b", &a) == 0);
    answer_free(&a);
    t = zb_topic_get(zl_str("Many"));
    cr_expect(t->write_queues == 8);
    zb_topic_unref(t);
    cr_expect(client_ask(c, 310,
                         FIELDS("a", "PG", "b", "Other", "c", "BenchmarkTest", "d", "4", "e", "0", "f", "0", "g", "1",
                                "h", "0"),
                         "b", &a) == 17);
    answer_free(&a);
    world_stop();
}

Test(send, without_auto_creation_only_retry_topics_come_by_themselves)
{
    struct answer a;
    world_start_with(no_auto_create);
    struct client *c = client_open(0);
    cr_expect(send_to(c, "New", "0", "", "b", &a) == 17);
    cr_expect(memmem(a.h.remark.ptr, a.h.remark.len, "apply first please!", 19) != NULL);
    answer_free(&a);
    cr_expect(send_to(c, "%RETRY%G", "0", "", "b", &a) == 0);
    answer_free(&a);
    struct zb_topic *t = zb_topic_get(zl_str("%RETRY%G"));
    cr_assert(t != NULL);
    cr_expect(t->write_queues == 1 && t->perm == 6);
    zb_topic_unref(t);
    world_stop();
}

Test(send, the_first_send_waits_for_the_registries_and_later_ones_queue_behind)
{
    struct answer a;
    world_start();
    struct client *c = client_open(0), *d = client_open(1);
    registry_holds = 1;
    const char *const *f =
        FIELDS("a", "PG", "b", "New", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "1", "h", "0");
    int32_t o1 = client_put(c, 310, 0, f, "first", 5);
    client_turn(c);
    int32_t o2 = client_put(d, 310, 0, f, "second", 6);
    client_turn(d);
    cr_expect(strcmp(registry_last, "New") == 0);
    world_pump();
    cr_expect(!client_take(c, o1, &a) && !client_take(d, o2, &a));
    cr_expect(store_count("New", 0) == 0);
    registry_answer();
    registry_holds = 0;
    client_wait(c, o1, &a);
    cr_expect(a.code == 0);
    answer_free(&a);
    client_wait(d, o2, &a);
    cr_expect(a.code == 0);
    answer_free(&a);
    cr_expect(store_count("New", 0) == 2);
    char *text = world_read_file("config/topics.json"); /* durable before the answer */
    cr_assert(text && strstr(text, "\"New\""));
    free(text);
    world_stop();
}

Test(send, retry_sends_go_to_the_dead_letter_queue_after_too_many)
{
    struct answer a;
    world_start();
    struct client *c = client_open(0);
    cr_assert(client_ask(c, 310, FIELDS(BASE("%RETRY%G", "0"), "j", "16", "l", "16", "i", "DELAY\0013\2UNIQ_KEY\1k\2"),
                         "b", &a) == 1);
    cr_expect(memmem(a.h.remark.ptr, a.h.remark.len, "feature-delay", 13) && store_count("%RETRY%G", 0) == 0);
    answer_free(&a);
    zb.has_delay = 1;
    cr_assert(client_ask(c, 310, FIELDS(BASE("%RETRY%G", "0"), "j", "16", "l", "16", "i", "DELAY\0013\2UNIQ_KEY\1k\2"),
                         "b", &a) == 0);
    answer_free(&a);
    cr_expect(store_count("%RETRY%G", 0) == 1); /* equal is not more */
    cr_expect(zl_is(zl_props_get((struct zr_span){ (const uint8_t *)store_last_props("%RETRY%G", 0).ptr,
                                                   store_last_props("%RETRY%G", 0).len },
                                 "DELAY"),
                    "3"));
    zb.has_delay = 0; /* the end needs no delay */
    cr_assert(client_ask(c, 310, FIELDS(BASE("%RETRY%G", "0"), "j", "17", "l", "16", "i", "DELAY\0013\2UNIQ_KEY\1k\2"),
                         "b", &a) == 0);
    answer_free(&a);
    cr_expect(store_count("%DLQ%G", 0) == 1);
    struct zl_record r;
    store_last("%DLQ%G", 0, &r);
    cr_expect(zl_is(zl_props_get(r.properties, "DELAY"), "-1"));
    cr_expect(zl_is(zl_props_get(r.properties, "UNIQ_KEY"), "k"));
    world_stop();
}

Test(send, sending_back_keeps_the_message_and_counts)
{
    struct answer a;
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0);
    cr_assert(send_to(c, "T", "0", "TAGS\1A\2UNIQ_KEY\1U\2", "body", &a) == 0);
    answer_free(&a);
    struct zl_record r;
    store_last("T", 0, &r);
    char offset[24];
    snprintf(offset, sizeof offset, "%lld", (long long)r.physical_offset);
    cr_assert(client_ask(c, 36, FIELDS("group", "G", "offset", offset, "delayLevel", "0"), NULL, &a) == 1);
    cr_expect(memmem(a.h.remark.ptr, a.h.remark.len, "feature-delay", 13) && store_count("%RETRY%G", 0) == 0);
    answer_free(&a);
    zb.has_delay = 1;
    cr_assert(client_ask(c, 36,
                         FIELDS("group", "G", "offset", offset, "delayLevel", "0", "originTopic", "T",
                                "maxReconsumeTimes", "1"),
                         NULL, &a) == 0);
    cr_expect(a.h.n_fields == 0);
    answer_free(&a);
    cr_assert(store_count("%RETRY%G", 0) == 1);
    store_last("%RETRY%G", 0, &r);
    cr_expect(r.reconsume_times == 1 && r.body.len == 4 && r.born_ms == 1700000000000);
    cr_expect(zl_is(zl_props_get(r.properties, "RETRY_TOPIC"), "T"));
    cr_expect(zl_is(zl_props_get(r.properties, "UNIQ_KEY"), "U"));
    cr_expect(zl_is(zl_props_get(r.properties, "ORIGIN_MESSAGE_ID"), "7F00000100002A9F0000000000000000"));
    cr_expect(zl_is(zl_props_get(r.properties, "WAIT"), "false"));
    cr_expect(zl_is(zl_props_get(r.properties, "DELAY"), "3"));
    snprintf(offset, sizeof offset, "%lld", (long long)r.physical_offset);
    cr_assert(client_ask(c, 36, FIELDS("group", "G", "offset", offset, "delayLevel", "0", "maxReconsumeTimes", "1"),
                         NULL, &a) == 0);
    answer_free(&a);
    store_last("%DLQ%G", 0, &r);
    cr_expect(zl_is(zl_props_get(r.properties, "RETRY_TOPIC"), "T") && r.reconsume_times == 2);
    cr_expect(client_ask(c, 36, FIELDS("group", "G", "offset", "77777", "delayLevel", "0"), NULL, &a) == 1);
    answer_free(&a);
    world_stop();
}

Test(send, sending_back_with_a_plugin_that_delays_carries_the_level)
{
    struct answer a;
    world_plugin("feature-delay");
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0);
    cr_assert(send_to(c, "T", "0", "", "body", &a) == 0);
    answer_free(&a);
    cr_assert(client_ask(c, 36, FIELDS("group", "G", "offset", "0", "delayLevel", "0"), NULL, &a) == 0);
    answer_free(&a);
    struct zl_record r;
    store_last("%RETRY%G", 0, &r);
    cr_expect(zl_is(zl_props_get(r.properties, "DELAY"), "3"));
    world_stop();
}

static void hook_redirect(const struct zr_event *event, struct zr_verdict *verdict)
{
    static const struct zr_str schedule = ZR_STR("SCHEDULE_TOPIC_XXXX");
    if (event->point == ZR_POINT_PUBLISH && zl_props_get(event->msg->properties, "DELAY").len) {
        char *copy = event->scratch(event->scratch_ctx, event->msg->properties.len);
        memcpy(copy, event->msg->properties.ptr, event->msg->properties.len);
        event->msg->properties.ptr = (const uint8_t *)copy;
        event->msg->topic = schedule;
        event->msg->queue_id = 2;
    } else if (event->point == ZR_POINT_PUBLISH && zl_props_get(event->msg->properties, "NO").len) {
        verdict->what = ZR_VERDICT_REJECT;
        verdict->code = 16;
        verdict->remark = (struct zr_str)ZR_STR("not you");
    }
}

Test(send, hooks_may_redirect_and_refuse)
{
    struct answer a;
    world_start();
    make_topic("T", 4);
    world_hook = hook_redirect;
    world_hook_points = 1u << ZR_POINT_PUBLISH;
    struct client *c = client_open(0);
    cr_assert(send_to(c, "T", "3", "DELAY\0013\2", "b", &a) == 0);
    cr_expect(answer_i64(&a, "queueId") == 3); /* the one asked for */
    answer_free(&a);
    cr_expect(store_count("SCHEDULE_TOPIC_XXXX", 2) == 1 && store_count("T", 3) == 0);
    cr_expect(send_to(c, "T", "3", "NO\1x\2", "b", &a) == 16);
    cr_expect(zl_is(a.h.remark, "not you"));
    answer_free(&a);
    world_stop();
}

Test(send, a_stopping_broker_refuses)
{
    struct answer a;
    world_start();
    make_topic("T", 1);
    struct client *c = client_open(0);
    atomic_store(&zb.stopping, 1);
    cr_expect(send_to(c, "T", "0", "", "b", &a) == 14);
    answer_free(&a);
    atomic_store(&zb.stopping, 0);
    world_stop();
}
