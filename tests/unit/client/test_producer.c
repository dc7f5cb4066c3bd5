/* SPDX-License-Identifier: Apache-2.0 */
/* The producer against fake name servers and brokers: which queue, which broker next, what the request says. */
#include "fake.h"
#include "zl/record.h"
#include <criterion/criterion.h>
#include <libdeflate.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>

/* One server plays name server (105) and broker (310, 320). */
struct play {
    const char *route;    /* of topic T; NULL: unknown */
    const char *template; /* of TBW102 */
    int32_t send_code;
    int32_t last_code, sys_flag, queue_id;
    char broker[16], props[1024], uniq[64], codes_seen[64];
    uint8_t body[65536];
    uint64_t body_len;
    atomic_int sends;
};

static int handle(void *ctx, const struct zl_header *r, struct fake_answer *a)
{
    struct play *p = ctx;
    if (r->code == 105) {
        const char *route = zl_is(zl_field(r->fields, r->n_fields, "topic"), "TBW102") ? p->template : p->route;
        a->code = route ? 0 : 17;
        a->remark = route ? NULL : "No topic route info";
        a->body = (struct zr_span){ (const uint8_t *)route, route ? strlen(route) : 0 };
        return FAKE_ANSWER;
    }
    if (r->code != 310 && r->code != 320) return FAKE_ANSWER; /* heartbeats and the like */
    struct zr_str props = zl_field(r->fields, r->n_fields, "i"), broker = zl_field(r->fields, r->n_fields, "n");
    struct zr_str uniq = zl_props_get((struct zr_span){ (const uint8_t *)props.ptr, props.len }, "UNIQ_KEY");
    p->last_code = r->code;
    zl_field_i32(r->fields, r->n_fields, "f", &p->sys_flag);
    zl_field_i32(r->fields, r->n_fields, "e", &p->queue_id);
    snprintf(p->broker, sizeof(p->broker), "%.*s", (int)broker.len, broker.ptr);
    snprintf(p->props, sizeof(p->props), "%.*s", (int)props.len, props.ptr);
    snprintf(p->uniq, sizeof(p->uniq), "%.*s", (int)uniq.len, uniq.ptr);
    p->body_len = r->body.len < sizeof(p->body) ? r->body.len : 0;
    memcpy(p->body, r->body.ptr, p->body_len);
    atomic_fetch_add(&p->sends, 1);
    a->code = p->send_code;
    a->remark = p->send_code ? "busy" : NULL;
    a->fields[0] = (struct zr_field){ ZR_STR("msgId"),
                                      ZR_STR("7F00000100002A9F0000000000000000,7F00000100002A9F0000000000000064") };
    a->fields[1] = (struct zr_field){ ZR_STR("queueId"), zl_field(r->fields, r->n_fields, "e") };
    a->fields[2] = (struct zr_field){ ZR_STR("queueOffset"), ZR_STR("41") };
    a->n_fields = 3;
    return FAKE_ANSWER;
}

static struct fake one, two;
static struct play p1, p2;
static struct zc_client *client;
static struct zc_producer *producer;
static char *both, *alone;

static void set_up(void)
{
    memset(&one, 0, sizeof(one)), memset(&two, 0, sizeof(two));
    memset(&p1, 0, sizeof(p1)), memset(&p2, 0, sizeof(p2));
    one.handle = two.handle = handle;
    one.ctx = &p1, two.ctx = &p2;
    fake_start(&one, NULL);
    fake_start(&two, NULL);
    const char *addrs[] = { one.addr, two.addr };
    both = fake_route(2, addrs, 2);
    alone = fake_route(8, addrs, 1);
    p1.route = both;
    client = zc_client_open(&(struct zc_options){ .namesrv = one.addr }, NULL);
    producer = client ? zc_producer_open(client, &(struct zc_producer_options){ .group = "PG" }, NULL) : NULL;
    cr_assert(producer);
}

static void tear_down(void)
{
    zc_producer_close(producer);
    zc_client_close(client);
    fake_stop(&one);
    fake_stop(&two);
    free(both);
    free(alone);
}

static struct zc_message text(const char *body)
{
    return (struct zc_message){ .topic = ZR_STR("T"), .body = { (const uint8_t *)body, strlen(body) } };
}

Test(producer, result, .init = set_up, .fini = tear_down)
{
    struct zc_message m = text("hello");
    struct zr_field prop = { ZR_STR("color"), ZR_STR("red") };
    struct zc_send_result r;
    struct zc_err err = { 0 };
    m.tags = zl_str("TagA"), m.keys = zl_str("k1 k2"), m.properties = &prop, m.n_properties = 1, m.delay_level = 3;
    cr_assert_eq(zc_send(producer, &m, NULL, &r, &err), 0, "%s", err.text);
    struct play *p = r.queue.broker[0] == 'a' ? &p1 : &p2;
    cr_expect_eq(r.status, 0);
    cr_expect_eq(r.queue_offset, 41);
    cr_expect_eq(r.tries, 1);
    cr_expect_str_eq(r.offset_msg_id, "7F00000100002A9F0000000000000000");
    cr_expect_str_eq(r.msg_id, p->uniq);
    cr_expect_eq(r.queue.queue_id, p->queue_id);
    cr_expect_str_eq(p->broker, r.queue.broker);
    struct zr_span props = { (const uint8_t *)p->props, strlen(p->props) };
    cr_expect(zl_is(zl_props_get(props, "TAGS"), "TagA"));
    cr_expect(zl_is(zl_props_get(props, "KEYS"), "k1 k2"));
    cr_expect(zl_is(zl_props_get(props, "color"), "red"));
    cr_expect(zl_is(zl_props_get(props, "DELAY"), "3"));
    cr_expect(zl_is(zl_props_get(props, "WAIT"), "true"));
}

Test(producer, round_robin_reaches_every_queue, .init = set_up, .fini = tear_down)
{
    int seen[2][2] = { 0 };
    for (int i = 0; i < 8; i++) {
        struct zc_send_result r;
        cr_assert_eq(zc_send(producer,
                             &(struct zc_message){ .topic = ZR_STR("T"), .body = { (const uint8_t *)"x", 1 } }, NULL,
                             &r, NULL),
                     0);
        seen[r.queue.broker[0] - 'a'][r.queue.queue_id]++;
    }
    for (int i = 0; i < 4; i++) cr_expect_eq(seen[i / 2][i % 2], 2);
}

Test(producer, retries_on_another_broker, .init = set_up, .fini = tear_down)
{
    p1.send_code = 2; /* SYSTEM_BUSY */
    for (int i = 0; i < 4; i++) {
        struct zc_send_result r;
        struct zc_message m = text("x");
        struct zc_err err = { 0 };
        cr_assert_eq(zc_send(producer, &m, NULL, &r, &err), 0, "%s", err.text);
        cr_expect_eq(r.queue.broker[0], 'b');
        cr_expect_leq(r.tries, 2);
    }
    cr_expect_eq(atomic_load(&p2.sends), 4);
    cr_expect_gt(atomic_load(&p1.sends), 0);
    cr_expect_str_eq(p1.uniq[0] ? "kept" : "", "kept");
}

Test(producer, gives_up_with_the_servers_remark, .init = set_up, .fini = tear_down)
{
    struct zc_message m = text("x");
    struct zc_err err = { 0 };
    p1.send_code = p2.send_code = 2;
    cr_expect_eq(zc_send(producer, &m, NULL, NULL, &err), 2);
    cr_expect_str_eq(err.text, "busy");
    cr_expect_eq(atomic_load(&p1.sends) + atomic_load(&p2.sends), 3);
    p1.send_code = p2.send_code = 13; /* MESSAGE_ILLEGAL: another broker would say the same */
    cr_expect_eq(zc_send(producer, &m, NULL, NULL, &err), 13);
    cr_expect_eq(atomic_load(&p1.sends) + atomic_load(&p2.sends), 4);
}

Test(producer, chosen_queue_is_tried_once, .init = set_up, .fini = tear_down)
{
    struct zc_message m = text("x");
    struct zc_queue q = { .broker = "b", .queue_id = 1 };
    struct zc_select s = { .how = ZC_SELECT_QUEUE, .queue = &q };
    struct zc_send_result r;
    cr_expect_eq(zc_send(producer, &m, &s, &r, NULL), 0);
    cr_expect_eq(p2.queue_id, 1);
    p2.send_code = 2;
    cr_expect_eq(zc_send(producer, &m, &s, &r, NULL), 2);
    cr_expect_eq(atomic_load(&p2.sends), 2);
    cr_expect_eq(atomic_load(&p1.sends), 0);
    q.queue_id = 7;
    cr_expect_eq(zc_send(producer, &m, &s, &r, NULL), ZC_EARG);
}

Test(producer, hash_is_javas, .init = set_up, .fini = tear_down)
{
    struct zc_message m = text("x");
    struct zc_send_result r;
    struct zc_select s = { .how = ZC_SELECT_HASH, .key = ZR_STR("order-1") }; /* |hashCode| % 4 */
    int64_t hash = zl_java_hash(s.key), at = (hash < 0 ? -hash : hash) % 4;
    cr_assert_eq(zc_send(producer, &m, &s, &r, NULL), 0);
    cr_expect_eq(r.queue.broker[0], at < 2 ? 'a' : 'b');
    cr_expect_eq(r.queue.queue_id, at % 2);
}

Test(producer, large_bodies_are_compressed, .init = set_up, .fini = tear_down)
{
    static char body[8192], out[8192];
    struct zc_message m = { .topic = ZR_STR("T"), .body = { (const uint8_t *)body, sizeof(body) } };
    struct zc_send_result r;
    size_t n = 0;
    memset(body, 'q', sizeof(body));
    cr_assert_eq(zc_send(producer, &m, NULL, &r, NULL), 0);
    struct play *p = r.queue.broker[0] == 'a' ? &p1 : &p2;
    cr_expect_eq(p->sys_flag, 0x301);
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    cr_expect_eq(libdeflate_zlib_decompress(d, p->body, p->body_len, out, sizeof(out), &n), LIBDEFLATE_SUCCESS);
    libdeflate_free_decompressor(d);
    cr_expect_eq(n, sizeof(body));
    cr_expect_eq(memcmp(out, body, n), 0);
    m.body.len = 4095;
    cr_assert_eq(zc_send(producer, &m, NULL, &r, NULL), 0);
    cr_expect_eq((r.queue.broker[0] == 'a' ? &p1 : &p2)->sys_flag, 0);
}

Test(producer, unknown_topic_goes_by_the_template, .init = set_up, .fini = tear_down)
{
    struct zc_message m = text("x");
    struct zc_err err = { 0 };
    p1.route = NULL;
    cr_expect_eq(zc_send(producer, &m, NULL, NULL, &err), ZC_ENOROUTE);
    p1.template = alone; /* eight queues; a new topic gets four */
    int most = 0;
    for (int i = 0; i < 16; i++) {
        struct zc_send_result r;
        cr_assert_eq(zc_send(producer, &m, NULL, &r, &err), 0, "%s", err.text);
        if (r.queue.queue_id > most) most = r.queue.queue_id;
    }
    cr_expect_eq(most, 3);
}

Test(producer, batch, .init = set_up, .fini = tear_down)
{
    struct zc_message m[3] = { text("one"), text("two"), text("three") };
    struct zc_send_result r;
    struct zl_batch_item item;
    uint64_t pos = 0;
    m[1].tags = zl_str("B");
    cr_assert_eq(zc_send_batch(producer, m, 3, NULL, &r, NULL), 0);
    struct play *p = r.queue.broker[0] == 'a' ? &p1 : &p2;
    struct zr_span body = { p->body, p->body_len };
    cr_expect_eq(p->last_code, 320);
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(zl_batch_next(body, &pos, &item), ZR_OK);
        cr_expect(item.body.len == m[i].body.len && memcmp(item.body.ptr, m[i].body.ptr, item.body.len) == 0);
        cr_expect(zl_props_get(item.properties, "UNIQ_KEY").len == 32);
        if (i == 0) cr_expect(zl_is(zl_props_get(item.properties, "UNIQ_KEY"), r.msg_id));
        if (i == 1) cr_expect(zl_is(zl_props_get(item.properties, "TAGS"), "B"));
    }
    cr_expect_eq(zl_batch_next(body, &pos, &item), ZR_ENOENT);
    m[2].topic = zl_str("Other");
    cr_expect_eq(zc_send_batch(producer, m, 3, NULL, &r, NULL), ZC_EARG);
    m[2].topic = zl_str("T"), m[2].delay_level = 1;
    cr_expect_eq(zc_send_batch(producer, m, 3, NULL, &r, NULL), ZC_EARG);
    cr_expect_eq(zc_send_batch(producer, m, 0, NULL, &r, NULL), ZC_EARG);
}

Test(producer, arguments, .init = set_up, .fini = tear_down)
{
    struct zc_message m = text("");
    cr_expect_eq(zc_send(producer, &m, NULL, NULL, NULL), ZC_EARG);
    m = text("x");
    m.topic = zl_str("no blanks");
    cr_expect_eq(zc_send(producer, &m, NULL, NULL, NULL), ZC_EARG);
    m = text("x");
    m.tags = zl_str("a\001b");
    cr_expect_eq(zc_send(producer, &m, NULL, NULL, NULL), ZC_EARG);
    cr_expect_null(zc_producer_open(client, &(struct zc_producer_options){ .group = "" }, NULL));
    cr_expect_eq(atomic_load(&p1.sends) + atomic_load(&p2.sends), 0);
}

struct async {
    sem_t done;
    int32_t code;
    uint32_t tries;
    char broker;
};

static void on_sent(void *ctx, const struct zc_send_result *r, const struct zc_err *err)
{
    struct async *a = ctx;
    a->code = err ? err->code : 0;
    a->tries = r ? r->tries : 0;
    a->broker = r ? r->queue.broker[0] : 0;
    sem_post(&a->done);
}

Test(producer, async_retries_too, .init = set_up, .fini = tear_down)
{
    struct async a = { 0 };
    sem_init(&a.done, 0, 0);
    p1.send_code = 2;
    for (int i = 0; i < 4; i++) {
        char body[16] = "gone afterwards";
        struct zc_message m = text(body);
        cr_assert_eq(zc_send_async(producer, &m, NULL, on_sent, &a, NULL), 0);
        memset(body, 0, sizeof(body)); /* it was copied */
        sem_wait(&a.done);
        cr_expect_eq(a.code, 0);
        cr_expect_eq(a.broker, 'b');
        cr_expect_eq(memcmp(p2.body, "gone afterwards", 15), 0);
    }
    p2.send_code = 2;
    struct zc_message m = text("x");
    cr_assert_eq(zc_send_async(producer, &m, NULL, on_sent, &a, NULL), 0);
    sem_wait(&a.done);
    cr_expect_eq(a.code, 2);
}
