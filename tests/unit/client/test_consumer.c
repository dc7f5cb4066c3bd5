/* SPDX-License-Identifier: Apache-2.0 */
/* The push consumer against a fake name server and broker in one: what it asks, commits, sends back and locks. */
#include "fake.h"
#include "zl/record.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MESSAGES 40
#define QUEUES 2

/* What the broker is, and what it saw. Queue q holds MESSAGES messages with bodies "q:n"; odd ones have tag B, even
 * ones A. */
struct broker {
    char *route;
    struct zc_client *client; /* its id is the one member of the group */
    int64_t first_pull_code;  /* != 0: the first pull of each queue is answered with it and nextBeginOffset moved_to */
    int64_t moved_to;
    uint32_t deny_lock;
    atomic_int heartbeats, locks, unlocks, unregistered, backs, pulls[QUEUES], delay_level;
    atomic_llong committed[QUEUES], back_offset;
    struct zl_buf body;
    struct zl_buf text;
    char number[3][24];
};

/* Every second message of the records asked for carries tag B. */
static void records(struct broker *b, const char *topic, int32_t queue, int64_t from, int64_t to)
{
    zl_buf_clear(&b->body);
    for (int64_t n = from; n < to; n++) {
        char text[32], props[64];
        int len = snprintf(text, sizeof(text), "%d:%lld", queue, (long long)n);
        int plen = snprintf(props, sizeof(props), "TAGS\001%s\002UNIQ_KEY\00100000000000000000000000000%06lld\002",
                            n % 2 ? "B" : "A", (long long)n);
        struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 1),
                            .topic = zl_str(topic),
                            .body = { (uint8_t *)text, (uint64_t)len },
                            .properties = { (uint8_t *)props, (uint64_t)plen },
                            .queue_id = queue,
                            .born_host = { .family = 4 },
                            .store_host = { .family = 4 },
                            .inner_num = 1 };
        uint64_t size = zl_record_size(&m);
        uint8_t *to_at = zl_buf_reserve(&b->body, size);
        zl_record_encode(to_at, &m);
        zl_record_finish(to_at, n, 1000 * queue + n, 1);
        b->body.len += size;
    }
}

static void pull_fields(struct broker *b, struct fake_answer *a, int64_t next)
{
    static const char *const NAMES[] = { "nextBeginOffset", "minOffset", "maxOffset", "suggestWhichBrokerId" };
    int64_t values[] = { next, 0, MESSAGES, 0 };
    for (int i = 0; i < 4; i++) {
        char *at = i < 3 ? b->number[i] : b->number[1];
        a->fields[i] = (struct zr_field){ zl_str(NAMES[i]), { at, zl_print_i64(at, values[i]) } };
    }
    a->n_fields = 4;
}

static int on_pull(struct broker *b, const struct zl_header *r, struct fake_answer *a)
{
    int32_t queue = 0;
    int64_t offset = 0;
    struct zr_str topic = zl_field(r->fields, r->n_fields, "topic");
    zl_field_i32(r->fields, r->n_fields, "queueId", &queue);
    zl_field_i64(r->fields, r->n_fields, "queueOffset", &offset);
    if (!zl_is(topic, "T")) return FAKE_SILENT; /* the retry topic: held */
    int times = atomic_fetch_add(&b->pulls[queue], 1);
    if (b->first_pull_code && times == 0) {
        a->code = (int32_t)b->first_pull_code;
        pull_fields(b, a, b->moved_to);
        return FAKE_ANSWER;
    }
    if (offset >= MESSAGES) return FAKE_SILENT; /* held to the end of the test */
    int64_t next = offset + 7 < MESSAGES ? offset + 7 : MESSAGES;
    records(b, "T", queue, offset, next);
    a->body = zl_buf_as_span(&b->body);
    pull_fields(b, a, next);
    return FAKE_ANSWER;
}

static int on_lock(struct broker *b, const struct zl_header *r, struct fake_answer *a)
{
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at;
    atomic_fetch_add(&b->locks, 1);
    zl_buf_clear(&b->text);
    cr_assert_eq(zl_json_parse((struct zr_str){ (const char *)r->body.ptr, r->body.len }, &doc, &root, &at), ZR_OK);
    zl_buf_cstr(&b->text, "{\"lockOKMQSet\":");
    if (b->deny_lock && b->deny_lock--)
        zl_buf_cstr(&b->text, "[]");
    else
        zl_json_print(&b->text, zl_json_get(root, "mqSet"));
    zl_buf_cstr(&b->text, "}");
    zl_json_free(doc);
    a->body = zl_buf_as_span(&b->text);
    return FAKE_ANSWER;
}

static int handle(void *ctx, const struct zl_header *r, struct fake_answer *a)
{
    struct broker *b = ctx;
    int32_t queue = 0;
    int64_t v = 0;
    switch (r->code) {
    case 105:
        a->code = zl_is(zl_field(r->fields, r->n_fields, "topic"), "T") ||
                          zl_starts(zl_field(r->fields, r->n_fields, "topic"), "%RETRY%")
                      ? 0
                      : 17;
        a->body = (struct zr_span){ (const uint8_t *)b->route, strlen(b->route) };
        break;
    case 34:
        atomic_fetch_add(&b->heartbeats, 1);
        break;
    case 38:
        zl_buf_clear(&b->text);
        zl_buf_fmt(&b->text, "{\"consumerIdList\":[\"%s\"]}", zc_client_id(b->client));
        a->body = zl_buf_as_span(&b->text);
        break;
    case 14:
        a->code = 22;
        break;
    case 11:
        return on_pull(b, r, a);
    case 15:
        if (!zl_is(zl_field(r->fields, r->n_fields, "topic"), "T")) break;
        zl_field_i32(r->fields, r->n_fields, "queueId", &queue);
        zl_field_i64(r->fields, r->n_fields, "commitOffset", &v);
        atomic_store(&b->committed[queue], v);
        break;
    case 36:
        zl_field_i64(r->fields, r->n_fields, "offset", &v);
        atomic_store(&b->back_offset, v);
        zl_field_i32(r->fields, r->n_fields, "delayLevel", &queue);
        atomic_store(&b->delay_level, queue);
        atomic_fetch_add(&b->backs, 1);
        break;
    case 41:
        return on_lock(b, r, a);
    case 42:
        atomic_fetch_add(&b->unlocks, 1);
        break;
    case 35:
        atomic_fetch_add(&b->unregistered, zl_field(r->fields, r->n_fields, "consumerGroup").len > 0);
        break;
    default:
        break;
    }
    return FAKE_ANSWER;
}

/* ---- the consumer's side ---- */

static struct fake fake;
static struct broker broker;
static struct zc_client *client;
static struct zc_consumer *consumer;
static struct {
    atomic_int n, bad_order, at_once, most_at_once;
    atomic_int seen[QUEUES][MESSAGES];
    atomic_int last[QUEUES];
    int refuse; /* body number that gets ZC_LATER once in queue 0 */
    atomic_int refused;
} got;

static int on_messages(void *ctx, struct zc_delivery *d)
{
    (void)ctx;
    int q, n, now = atomic_fetch_add(&got.at_once, 1) + 1;
    if (now > atomic_load(&got.most_at_once)) atomic_store(&got.most_at_once, now);
    sscanf((const char *)d->msgs[0].body.ptr, "%d:%d", &q, &n);
    int later = got.refuse && q == 0 && n == got.refuse && !atomic_exchange(&got.refused, 1);
    if (!later) {
        atomic_fetch_add(&got.seen[q][n], 1);
        if (n <= atomic_exchange(&got.last[q], n)) atomic_fetch_add(&got.bad_order, 1);
        atomic_fetch_add(&got.n, 1);
    }
    atomic_fetch_sub(&got.at_once, 1);
    d->delay_level = 5;
    return later ? ZC_LATER : ZC_CONSUMED;
}

static void set_up(void)
{
    memset(&fake, 0, sizeof(fake)), memset(&broker, 0, sizeof(broker)), memset(&got, 0, sizeof(got));
    for (int q = 0; q < QUEUES; q++) atomic_store(&got.last[q], -1), atomic_store(&broker.committed[q], -1);
    zl_buf_init(&broker.body, 1u << 20);
    zl_buf_init(&broker.text, 1u << 20);
    fake.handle = handle;
    fake.ctx = &broker;
    fake_start(&fake, NULL);
    const char *addr = fake.addr;
    broker.route = fake_route(QUEUES, &addr, 1);
    client = zc_client_open(&(struct zc_options){ .namesrv = fake.addr, .persist_ms = 50 }, NULL);
    cr_assert(client);
    broker.client = client;
}

static void start(struct zc_consumer_options o, const char *expression)
{
    struct zc_err err = { 0 };
    o.group = "G";
    o.on_messages = on_messages;
    o.from = ZC_FROM_FIRST;
    consumer = zc_consumer_open(client, &o, &err);
    cr_assert(consumer, "%s", err.text);
    cr_assert_eq(zc_consumer_subscribe(consumer, "T", expression, NULL, &err), 0, "%s", err.text);
    cr_assert_eq(zc_consumer_start(consumer, &err), 0, "%s", err.text);
}

/* Waits (at most ten seconds) for a count. */
static int reaches(atomic_int *v, int want)
{
    for (int i = 0; i < 10000 && atomic_load(v) < want; i++) usleep(1000);
    return atomic_load(v);
}

static void stop(void)
{
    zc_consumer_close(consumer);
    zc_client_close(client);
    fake_stop(&fake);
    zl_buf_free(&broker.body);
    zl_buf_free(&broker.text);
    free(broker.route);
}

static void expect_each_once(int from, int step)
{
    for (int q = 0; q < QUEUES; q++)
        for (int n = from; n < MESSAGES; n += step)
            cr_expect_eq(atomic_load(&got.seen[q][n]), 1, "message %d of queue %d came %d times", n, q,
                         atomic_load(&got.seen[q][n]));
}

Test(consumer, each_message_once_and_committed, .init = set_up, .timeout = 60)
{
    start((struct zc_consumer_options){ .threads = 4 }, NULL);
    cr_expect_eq(reaches(&got.n, QUEUES * MESSAGES), QUEUES * MESSAGES);
    expect_each_once(0, 1);
    stop();
    for (int q = 0; q < QUEUES; q++) cr_expect_eq(atomic_load(&broker.committed[q]), MESSAGES);
    cr_expect_gt(atomic_load(&broker.heartbeats), 0);
    cr_expect_eq(atomic_load(&broker.unregistered), 1);
    cr_expect_eq(atomic_load(&broker.locks), 0);
}

Test(consumer, other_tags_are_left_out, .init = set_up, .timeout = 60)
{
    start((struct zc_consumer_options){ .threads = 2 }, "A || X");
    cr_expect_eq(reaches(&got.n, QUEUES * MESSAGES / 2), QUEUES * MESSAGES / 2);
    expect_each_once(0, 2);
    stop();
    for (int q = 0; q < QUEUES; q++)
        cr_expect_eq(atomic_load(&broker.committed[q]), MESSAGES); /* over those left out, too */
}

Test(consumer, later_is_sent_back, .init = set_up, .timeout = 60)
{
    got.refuse = 9;
    start((struct zc_consumer_options){ .threads = 3 }, NULL);
    cr_expect_eq(reaches(&got.n, QUEUES * MESSAGES - 1), QUEUES * MESSAGES - 1);
    cr_expect_eq(reaches(&broker.backs, 1), 1);
    cr_expect_eq(atomic_load(&broker.back_offset), 9); /* the physical offset of 0:9 */
    cr_expect_eq(atomic_load(&broker.delay_level), 5);
    stop();
    cr_expect_eq(atomic_load(&broker.backs), 1);
    cr_expect_eq(atomic_load(&broker.committed[0]), MESSAGES);
}

Test(consumer, orderly_locks_and_keeps_order, .init = set_up, .timeout = 60)
{
    got.refuse = 3; /* the queue pauses, then goes on with this very message */
    broker.deny_lock = 1;
    start((struct zc_consumer_options){ .threads = 8, .orderly = 1 }, NULL);
    cr_expect_eq(reaches(&got.n, QUEUES * MESSAGES), QUEUES * MESSAGES);
    expect_each_once(0, 1);
    cr_expect_eq(atomic_load(&got.bad_order), 0);
    cr_expect_eq(atomic_load(&got.refused), 1);
    cr_expect_leq(atomic_load(&got.most_at_once), QUEUES);
    cr_expect_geq(atomic_load(&broker.locks), QUEUES + 1);
    cr_expect_eq(atomic_load(&broker.backs), 0);
    stop();
    cr_expect_geq(atomic_load(&broker.unlocks), QUEUES);
}

Test(consumer, moved_offset_is_followed, .init = set_up, .timeout = 60)
{
    broker.first_pull_code = 21;
    broker.moved_to = 30;
    start((struct zc_consumer_options){ .threads = 2 }, NULL);
    cr_expect_eq(reaches(&got.n, QUEUES * (MESSAGES - 30)), QUEUES * (MESSAGES - 30));
    expect_each_once(30, 1);
    cr_expect_eq(atomic_load(&got.seen[0][29]), 0);
    stop();
}

Test(consumer, full_queue_pauses_pulls, .init = set_up, .timeout = 60)
{
    start((struct zc_consumer_options){ .threads = 1, .queue_limit = 5 }, NULL); /* less than one pull brings */
    cr_expect_eq(reaches(&got.n, QUEUES * MESSAGES), QUEUES * MESSAGES);
    expect_each_once(0, 1);
    stop();
}

Test(consumer, closes_without_ever_getting_anything, .init = set_up, .timeout = 60)
{
    broker.first_pull_code = 24; /* every first pull is refused; the second would come after a pause */
    start((struct zc_consumer_options){ .threads = 2 }, NULL);
    reaches(&broker.pulls[0], 1);
    stop();
    cr_expect_eq(atomic_load(&got.n), 0);
}

Test(consumer, arguments, .init = set_up)
{
    cr_expect_null(zc_consumer_open(client, &(struct zc_consumer_options){ .group = "G" }, NULL));
    cr_expect_null(zc_consumer_open(client, &(struct zc_consumer_options){ .on_messages = on_messages }, NULL));
    cr_expect_null(zc_consumer_open(
        client, &(struct zc_consumer_options){ .group = "no blanks", .on_messages = on_messages }, NULL));
    consumer =
        zc_consumer_open(client, &(struct zc_consumer_options){ .group = "G", .on_messages = on_messages }, NULL);
    cr_assert(consumer);
    cr_expect_eq(zc_consumer_subscribe(consumer, "T", "x", "LUA", NULL), ZC_EARG);
    cr_expect_eq(zc_consumer_subscribe(consumer, "no blanks", NULL, NULL, NULL), ZC_EARG);
    stop();
}
