/* SPDX-License-Identifier: Apache-2.0 */
/* pull.c - pulls, long polling, offsets. */
#include "world.h"

static struct answer a;

static void make_topic(const char *name, int32_t queues, int32_t perm)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0),
                          .name = zl_str(name),
                          .read_queues = queues,
                          .write_queues = queues,
                          .perm = perm };
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
}

static void fill(struct client *c, const char *topic, uint32_t n, const char *props)
{
    for (uint32_t i = 0; i < n; i++) {
        cr_assert(send_to(c, topic, "0", props, "b", &a) == 0);
        answer_free(&a);
    }
}

static int64_t stored_offset(const char *group, const char *topic)
{
    return zb_broker_table.offset(NULL, zl_str(group), zl_str(topic), 0);
}

Test(pull, found_messages_come_with_the_six_fields)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    fill(c, "T", 40, "");
    cr_assert(pull_from(c, "G", "T", "0", "3", "4", &a) == 0);
    cr_expect(zl_is(a.h.remark, "FOUND"));
    cr_expect(answer_i64(&a, "nextBeginOffset") == 35 && answer_i64(&a, "minOffset") == 0 &&
              answer_i64(&a, "maxOffset") == 40);
    cr_expect(answer_i64(&a, "suggestWhichBrokerId") == 0 && answer_i64(&a, "topicSysFlag") == 0 &&
              answer_i64(&a, "groupSysFlag") == 0);
    cr_expect(answer_records(&a) == 32);
    answer_free(&a);
    cr_expect(zb_broker_table.pull_offset(NULL, zl_str("G"), zl_str("T"), 0) == 35);
    cr_expect(store_pins() == 0);
    world_stop();
}

Test(pull, what_the_storage_says_becomes_apaches_codes)
{
    const struct {
        const char *topic, *offset;
        int32_t code;
        int64_t next;
        const char *remark;
    } rows[] = {
        { "Empty", "0", 19, 0, "NO_MESSAGE_IN_QUEUE" }, { "Empty", "5", 21, 0, "NO_MESSAGE_IN_QUEUE" },
        { "T", "3", 19, 3, "OFFSET_OVERFLOW_ONE" },     { "T", "9", 21, 3, "OFFSET_OVERFLOW_BADLY" },
        { "T", "-1", 21, 0, "OFFSET_TOO_SMALL" },       { "T", "0", 0, 3, "FOUND" },
    };
    world_start();
    make_topic("T", 1, 6);
    make_topic("Empty", 1, 6);
    struct client *c = client_open(0);
    fill(c, "T", 3, "");
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        cr_expect_eq(pull_from(c, "G", rows[i].topic, "0", rows[i].offset, "4", &a), rows[i].code, "row %u: %d", i,
                     a.code);
        cr_expect(answer_i64(&a, "nextBeginOffset") == rows[i].next, "row %u", i);
        cr_expect(zl_is(a.h.remark, rows[i].remark), "row %u", i);
        answer_free(&a);
    }
    world_stop();
}

#define EXPECT_PULL(expected, forbidden, group, topic, queue, flag)                                                    \
    do {                                                                                                               \
        cr_expect_eq(pull_from(c, group, topic, queue, "0", flag, &a), expected, "%d %.*s", a.code,                    \
                     (int)a.h.remark.len, a.h.remark.ptr);                                                             \
        cr_expect(zl_is(answer_field(&a, "forbiddenType"), forbidden) ||                                               \
                  (forbidden[0] == 0 && answer_field(&a, "forbiddenType").len == 0));                                  \
        answer_free(&a);                                                                                               \
    } while (0)

Test(pull, checks_in_apaches_order)
{
    world_start();
    make_topic("T", 2, 6);
    make_topic("WO", 1, 2);
    struct client *c = client_open(0);
    EXPECT_PULL(17, "", "G", "Nope", "0", "4");
    EXPECT_PULL(16, "3", "G", "WO", "0", "4");
    EXPECT_PULL(29, "", "G", "T", "2", "4");
    EXPECT_PULL(29, "", "G", "T", "-1", "4");
    EXPECT_PULL(26, "", "bad group", "T", "0", "4");
    EXPECT_PULL(24, "", "G", "T", "0", "0"); /* no heartbeat */
    struct zr_group g = { .hdr = ZR_HDR(struct zr_group, 0), .name = zl_str("Off"), .retry_queues = 1 };
    cr_assert(zb_broker_table.put_group(NULL, &g) == ZR_OK);
    EXPECT_PULL(16, "2", "Off", "T", "0", "4");
    cr_assert(zb_broker_table.set_config(NULL, zl_str("brokerPermission"), zl_str("2")) == ZR_OK);
    EXPECT_PULL(16, "1", "G", "T", "0", "4");
    cr_assert(zb_broker_table.set_config(NULL, zl_str("brokerPermission"), zl_str("6")) == ZR_OK);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("litePullMessageEnable"), zl_str("false")) == ZR_OK);
    cr_expect(client_ask(c, 361,
                         FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "0", "maxMsgNums",
                                "1", "sysFlag", "4", "commitOffset", "0", "suspendTimeoutMillis", "0", "subVersion",
                                "0", "subscription", "*"),
                         NULL, &a) == 16);
    answer_free(&a);
    cr_expect(client_ask(c, 11, FIELDS("consumerGroup", "G", "topic", "T"), NULL, &a) == 1);
    answer_free(&a);
    world_stop();
}

Test(pull, the_subscription_comes_from_the_heartbeat)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    cr_assert(beat(c, "id1", "G", "T", "A", &a) == 0);
    answer_free(&a);
    fill(c, "T", 2, "TAGS\1A\2");
    fill(c, "T", 2, "TAGS\1B\2");
    cr_assert(pull_from(c, "G", "T", "0", "0", "0", &a) == 0);
    cr_expect(answer_records(&a) == 2);
    cr_expect(answer_i64(&a, "nextBeginOffset") == 4);
    answer_free(&a);
    cr_expect(pull_from(c, "G", "T", "0", "2", "2", &a) == 20); /* only filtered ones: at once, even with SUSPEND */
    cr_expect(answer_i64(&a, "nextBeginOffset") == 4);
    cr_expect(zl_is(a.h.remark, "NO_MATCHED_MESSAGE"));
    answer_free(&a);
    make_topic("U", 1, 6);
    cr_expect(pull_from(c, "G", "U", "0", "0", "0", &a) == 24);
    answer_free(&a);
    cr_expect(
        client_ask(c, 11,
                   FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "0", "maxMsgNums", "1",
                          "sysFlag", "0", "commitOffset", "0", "suspendTimeoutMillis", "0", "subVersion", "6"),
                   NULL, &a) == 25);
    answer_free(&a);
    const struct { /* newer than the heartbeat: whoever looks at tags again gets all, nobody is filtered by older words */
        const char *type;
        int32_t code;
    } newer[] = { { "TAG", 0 }, { "SQL92", 25 }, { "", 25 } };
    for (uint32_t i = 0; i < 3; i++) {
        cr_expect_eq(client_ask(c, 11,
                                FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "0",
                                       "maxMsgNums", "9", "sysFlag", "0", "commitOffset", "0", "suspendTimeoutMillis",
                                       "0", "subVersion", "6", "expressionType", newer[i].type),
                                NULL, &a),
                     newer[i].code, "row %u: %d", i, a.code);
        cr_expect(newer[i].code || answer_records(&a) == 4);
        answer_free(&a);
    }
    cr_assert(zb_broker_table.forbidden(NULL, zl_str("G"), zl_str("T"), 4) == 4);
    EXPECT_PULL(16, "5", "G", "T", "0", "0");
    cr_assert(zb_broker_table.forbidden(NULL, zl_str("G"), zl_str("T"), 0) == 0);
    EXPECT_PULL(0, "", "G", "T", "0", "0");
    world_stop();
}

static int32_t sql_pull(struct client *c, const char *text, const char *flag, const char *offset)
{
    return client_ask(c, 11,
                      FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", offset, "maxMsgNums",
                             "9", "sysFlag", flag, "commitOffset", "0", "suspendTimeoutMillis", "20000", "subVersion",
                             "0", "expressionType", "SQL92", "subscription", text),
                      NULL, &a);
}

Test(pull, sql92_needs_the_switch_and_a_good_expression)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    fill(c, "T", 1, "a\1y\2");
    fill(c, "T", 1, "a\1x\2");
    cr_assert(zb_broker_table.set_config(NULL, zl_str("enablePropertyFilter"), zl_str("false")) == ZR_OK);
    cr_expect(sql_pull(c, "a = 'x'", "4", "0") == 1);
    answer_free(&a);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("enablePropertyFilter"), zl_str("true")) == ZR_OK);
    cr_expect(sql_pull(c, "nonsense", "4", "0") == 23);
    answer_free(&a);
    uint32_t before = filter_compiles;
    for (uint32_t i = 0; i < 3; i++) {
        cr_assert(sql_pull(c, "a = 'x'", "4", "0") == 0);
        cr_expect(answer_records(&a) == 1 && answer_i64(&a, "nextBeginOffset") == 2);
        answer_free(&a);
    }
    cr_expect(filter_compiles <= before + 1); /* the same words are compiled once */
    world_stop();
}

Test(pull, data_that_is_not_in_memory_is_read_by_a_worker)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    fill(c, "T", 2, "");
    store.again = 1;
    cr_assert(pull_from(c, "G", "T", "0", "0", "5", &a) == 0);
    cr_expect(answer_records(&a) == 2);
    answer_free(&a);
    store.again = 1; /* and nothing there: held from the worker */
    int32_t o = pull_put(c, "G", "T", "0", "2", "6", "20000");
    while (zb_hold_count() == 0)
        world_pump();
    fill(c, "T", 1, "");
    struct answer b;
    client_wait(c, o, &b);
    cr_expect(b.code == 0);
    answer_free(&b);
    world_stop();
}

Test(pull, commits_and_resets)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    fill(c, "T", 9, "");
    const char *const *with_commit =
        FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "5", "maxMsgNums", "9", "sysFlag",
               "5", "commitOffset", "5", "suspendTimeoutMillis", "0", "subVersion", "0", "subscription", "*");
    cr_assert(client_ask(c, 11, with_commit, NULL, &a) == 0);
    answer_free(&a);
    cr_expect(stored_offset("G", "T") == 5);
    zb_broker_table.reset_offset(NULL, zl_str("G"), zl_str("T"), 0, 2);
    cr_expect(client_ask(c, 14, FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0"), NULL, &a) == 0 &&
              answer_i64(&a, "offset") == 2);
    answer_free(&a);
    cr_expect(client_ask(c, 15, FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "commitOffset", "7"), NULL,
                         &a) == 0);
    cr_expect(zl_is(a.h.remark, "Offset has been previously reset"));
    answer_free(&a);
    cr_expect(client_ask(c, 11, with_commit, NULL, &a) == 21); /* taken once */
    cr_expect(answer_i64(&a, "nextBeginOffset") == 2 && zl_is(a.h.remark, "OFFSET_RESET"));
    answer_free(&a);
    cr_expect(stored_offset("G", "T") == 2);
    cr_expect(client_ask(c, 11, with_commit, NULL, &a) == 0);
    answer_free(&a);
    cr_expect(stored_offset("G", "T") == 5);
    world_stop();
}

/* ---- long polling ---- */
Test(hold, an_arrival_wakes_from_either_lane)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0), *d = client_open(1);
    for (uint32_t lane = 0; lane < 2; lane++) {
        char at[12];
        snprintf(at, sizeof at, "%u", lane);
        int32_t o = pull_put(c, "G", "T", "0", at, "7", "20000"); /* also says COMMIT */
        cr_expect(zb_hold_count() == 1);
        struct answer b;
        cr_assert(!client_take(c, o, &b));
        cr_expect(stored_offset("G", "T") == 0);
        zb_broker_table.put_offset(NULL, zl_str("G"), zl_str("T"), 0, 77);
        fill(lane ? c : d, "T", 1, "");
        client_wait(c, o, &b);
        cr_expect(b.code == 0 && answer_records(&b) == 1);
        cr_expect(stored_offset("G", "T") == 77); /* the second run does not commit */
        answer_free(&b);
        cr_expect(zb_hold_count() == 0);
        zb_broker_table.put_offset(NULL, zl_str("G"), zl_str("T"), 0, 0);
    }
    world_stop();
}

/* A message wakes a crowd: the producer has its answer and a few are served in its turn, the others on their own lane. */
Test(hold, a_crowd_is_left_to_its_own_lane)
{
    enum { CROWD = 40 };
    int32_t opaque[CROWD];
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0), *d = client_open(1);
    for (uint32_t i = 0; i < CROWD; i++)
        opaque[i] = pull_put(d, "G", "T", "0", "0", "6", "20000");
    cr_assert(zb_hold_count() == CROWD);
    int32_t sent = client_put(c, 310, 0,
                              FIELDS("a", "P", "b", "T", "c", "TBW102", "d", "4", "e", "0", "f", "0", "g", "1", "h",
                                     "0", "i", "", "j", "0", "k", "false"),
                              "b", 1);
    client_turn(c);
    struct answer b;
    cr_assert(client_take(c, sent, &b));
    cr_expect(b.code == 0);
    answer_free(&b);
    cr_expect_eq(client_answers(d), ZB_WOKEN_HERE, "%u", client_answers(d));
    cr_expect(zb_hold_count() == 0);
    for (uint32_t i = 0; i < CROWD; i++) {
        client_wait(d, opaque[i], &b);
        cr_expect(b.code == 0 && answer_records(&b) == 1);
        answer_free(&b);
    }
    cr_expect_eq(client_answers(d), CROWD);
    cr_expect(store_pins() == 0);
    world_stop();
}

Test(hold, what_a_filter_refuses_does_not_wake_and_what_follows_does)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    cr_assert(beat(c, "id", "G", "T", "A", &a) == 0);
    answer_free(&a);
    int32_t o = pull_put(c, "G", "T", "0", "0", "2", "20000");
    cr_expect(zb_hold_count() == 1);
    fill(c, "T", 3, "TAGS\1B\2");
    cr_expect(zb_hold_count() == 1);
    fill(c, "T", 1, "TAGS\1A\2");
    struct answer b;
    client_wait(c, o, &b);
    cr_expect(b.code == 0 && answer_records(&b) == 1 && answer_i64(&b, "nextBeginOffset") == 4);
    answer_free(&b);
    world_stop();
}

Test(hold, sql92_is_judged_by_properties)
{
    world_start();
    make_topic("T", 1, 6);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("enablePropertyFilter"), zl_str("true")) == ZR_OK);
    struct client *c = client_open(0);
    int32_t o = client_put(c, 11, 0,
                           FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "0", "maxMsgNums",
                                  "9", "sysFlag", "6", "commitOffset", "0", "suspendTimeoutMillis", "20000",
                                  "subVersion", "0", "expressionType", "SQL92", "subscription", "a = 'x'"),
                           NULL, 0);
    client_turn(c);
    fill(c, "T", 1, "a\1y\2");
    cr_expect(zb_hold_count() == 1);
    fill(c, "T", 1, "a\1x\2");
    struct answer b;
    client_wait(c, o, &b);
    cr_expect(b.code == 0 && answer_records(&b) == 1);
    answer_free(&b);
    world_stop();
}

/* A send judges for all who wait with the steps of one: whom they do not suffice for looks for itself. */
Test(hold, dear_filters_share_the_steps_of_a_send)
{
    static const char *const wants[] = { "a = 'x'", "a = 'v'", "a = 'w'" };
    world_start();
    make_topic("T", 1, 6);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("enablePropertyFilter"), zl_str("true")) == ZR_OK);
    struct client *c = client_open(0);
    for (uint32_t i = 0; i < 3; i++) {
        client_put(c, 11, 0,
                   FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "0", "maxMsgNums", "9",
                          "sysFlag", "6", "commitOffset", "0", "suspendTimeoutMillis", "20000", "subVersion", "0",
                          "expressionType", "SQL92", "subscription", wants[i]),
                   NULL, 0);
        client_turn(c);
    }
    cr_assert(zb_hold_count() == 3);
    filter_takes = ZR_FILTER_STEPS / 2 + 1;
    filter_judged = 0;
    fill(c, "T", 1, "a\1y\2");
    cr_expect(filter_judged == 1, "%u", filter_judged);
    filter_takes = 0;
    world_stop();
}

Test(hold, time_passes_with_19_or_with_20_after_filtered_ones)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    cr_assert(beat(c, "id", "G", "T", "A", &a) == 0);
    answer_free(&a);
    struct answer b;
    client_wait(c, pull_put(c, "G", "T", "0", "0", "2", "30"), &b);
    cr_expect(b.code == 19 && zl_is(b.h.remark, "NO_MESSAGE_IN_QUEUE"));
    cr_expect(answer_i64(&b, "nextBeginOffset") == 0);
    answer_free(&b);
    int32_t o = pull_put(c, "G", "T", "0", "0", "2", "300");
    fill(c, "T", 2, "TAGS\1B\2");
    client_wait(c, o, &b);
    cr_expect(b.code == 20 && answer_i64(&b, "nextBeginOffset") == 2);
    answer_free(&b);
    o = pull_put(c, "G", "T", "0", "2", "2",
                 "25000"); /* longer than the wheel is round; a change of the topic ends it */
    make_topic("T", 2, 6);
    client_wait(c, o, &b);
    cr_expect(b.code == 19);
    answer_free(&b);
    world_stop();
}

static void few(struct zb_settings *s) { s->max_held = 2; }

Test(hold, only_so_many_are_held_and_a_closed_connection_lets_go)
{
    world_start_with(few);
    make_topic("T", 1, 6);
    struct client *c = client_open(0), *d = client_open(1);
    pull_put(c, "G", "T", "0", "0", "6", "20000");
    pull_put(c, "G", "T", "0", "0", "6", "20000");
    cr_expect(pull_from(d, "G", "T", "0", "0", "6", &a) == 2);
    answer_free(&a);
    client_close(c);
    cr_expect(zb_hold_count() == 0);
    int32_t o = pull_put(d, "G", "T", "0", "0", "6", "20000");
    cr_expect(zb_hold_count() == 1);
    fill(d, "T", 1, "");
    struct answer b;
    client_wait(d, o, &b);
    cr_expect(b.code == 0);
    answer_free(&b);
    world_stop();
}

static int32_t hold_tag(struct client *c, const char *tag)
{
    int32_t o = client_put(c, 11, 0,
                           FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "0", "maxMsgNums",
                                  "9", "sysFlag", "6", "commitOffset", "0", "suspendTimeoutMillis", "20000",
                                  "subVersion", "0", "expressionType", "TAG", "subscription", tag),
                           NULL, 0);
    client_turn(c);
    return o;
}

static const char *tag_of(char *to, uint32_t i)
{
    snprintf(to, 16, "t%u", i);
    return to;
}

/* Many filters, many pulls of each: a message is asked about once for each filter, and wakes none that it is not for. */
Test(hold, a_filter_is_asked_once_for_all_its_pulls)
{
    enum { FILTERS = 40, EACH = 3 };
    char tag[16], props[32];
    int32_t opaque[FILTERS][EACH];
    struct answer b;
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0), *d = client_open(1);
    for (uint32_t i = 0; i < FILTERS * EACH; i++)
        opaque[i % FILTERS][i / FILTERS] = hold_tag(i % 2 ? c : d, tag_of(tag, i % FILTERS));
    cr_assert(zb_hold_count() == FILTERS * EACH);
    filter_asked = 0;
    fill(c, "T", 1, "TAGS\1other\2");
    cr_expect_eq(filter_asked, FILTERS, "%u", filter_asked);
    cr_expect(zb_hold_count() == FILTERS * EACH);
    for (uint32_t i = FILTERS; i-- > 0;) {
        snprintf(props, sizeof props, "TAGS\1%s\2", tag_of(tag, i));
        fill(c, "T", 1, props);
        cr_expect_eq(zb_hold_count(), i * EACH);
        for (uint32_t k = 0; k < EACH; k++) {
            client_wait((i + k * FILTERS) % 2 ? c : d, opaque[i][k], &b);
            cr_expect(b.code == 0 && answer_records(&b) == 1);
            answer_free(&b);
        }
    }
    world_stop();
}

Test(hold, kin_leave_in_any_order)
{
    int32_t opaque[6];
    struct answer b;
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0), *d = client_open(0), *e = client_open(1);
    struct client *who[6] = { c, d, e, c, d, e };
    for (uint32_t i = 0; i < 6; i++)
        opaque[i] = hold_tag(who[i], "x");
    pull_put(d, "G", "T", "0", "0", "6", "20000");
    client_close(c); /* the first of them among others */
    cr_expect(zb_hold_count() == 5);
    client_close(d);
    cr_expect(zb_hold_count() == 2);
    fill(e, "T", 1, "TAGS\1x\2");
    for (uint32_t i = 2; i < 6; i += 3) {
        client_wait(e, opaque[i], &b);
        cr_expect(b.code == 0 && answer_records(&b) == 1);
        answer_free(&b);
    }
    cr_expect(zb_hold_count() == 0);
    world_stop();
}

static void few_of_one(struct zb_settings *s) { s->max_held_peer = 2; }

Test(hold, one_connection_holds_only_so_many)
{
    world_start_with(few_of_one);
    make_topic("T", 1, 6);
    struct client *c = client_open(0), *d = client_open(1);
    pull_put(c, "G", "T", "0", "0", "6", "20000");
    hold_tag(c, "x");
    cr_expect(pull_from(c, "G", "T", "0", "0", "6", &a) == 2);
    cr_expect(a.h.remark.len && memmem(a.h.remark.ptr, a.h.remark.len, "maxHeldPullsOfConnection", 24));
    answer_free(&a);
    hold_tag(d, "x");
    cr_expect(zb_hold_count() == 3);
    client_close(c);
    pull_put(d, "G", "T", "0", "0", "6", "20000");
    cr_expect(zb_hold_count() == 2);
    world_stop();
}

Test(hold, a_queue_asks_only_so_many_filters_and_wakes_the_others_unasked)
{
    char tag[16];
    struct answer b;
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    for (uint32_t i = 0; i < ZB_MAX_HEADS; i++)
        hold_tag(c, tag_of(tag, i));
    cr_expect(zb_hold_count() == ZB_MAX_HEADS);
    hold_tag(c, "t0");
    int32_t o = hold_tag(c, "more");
    cr_expect(zb_hold_count() == ZB_MAX_HEADS + 2);
    fill(c, "T", 1, "TAGS\1more\2");
    client_wait(c, o, &b);
    cr_expect(b.code == 0 && answer_records(&b) == 1);
    answer_free(&b);
    cr_expect(zb_hold_count() == ZB_MAX_HEADS + 1);
    world_stop();
}

Test(hold, removing_a_topic_ends_its_pulls)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    fill(c, "T", 1, "");
    int32_t o = pull_put(c, "G", "T", "0", "1", "6", "20000");
    zb_offset_put(zl_str("G"), zl_str("T"), 0, 1);
    cr_assert(zb_broker_table.remove_topic(NULL, zl_str("T")) == ZR_OK);
    struct answer b;
    client_wait(c, o, &b);
    cr_expect(b.code == 17);
    answer_free(&b);
    cr_expect(stored_offset("G", "T") == -1);
    cr_expect(registry_removals == 1);
    cr_expect(zb_broker_table.remove_topic(NULL, zl_str("T")) == ZR_ENOENT);
    cr_expect(zb_broker_table.remove_topic(NULL, zl_str("TBW102")) == ZR_EPERM);
    make_topic("T", 1, 6); /* again: it begins at 0 */
    cr_assert(send_to(c, "T", "0", "", "b", &a) == 0);
    cr_expect(answer_i64(&a, "queueOffset") == 0);
    answer_free(&a);
    world_stop();
}

Test(hold, stopping_answers_all)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    int32_t o = pull_put(c, "G", "T", "0", "0", "6", "20000");
    world_keep();
    zk_broker_stop();
    struct answer b;
    client_wait(c, o, &b);
    cr_expect(b.code == 19);
    answer_free(&b);
    world_stop();
}

/* ---- offsets ---- */
Test(offsets, query_follows_the_rule_of_the_young_queue)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    const char *const *q = FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0");
    cr_expect(client_ask(c, 14, q, NULL, &a) == 22); /* empty */
    answer_free(&a);
    fill(c, "T", 1, "");
    cr_expect(client_ask(c, 14, q, NULL, &a) == 0 && answer_i64(&a, "offset") == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 14,
                         FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "setZeroIfNotFound", "false"), NULL,
                         &a) == 22);
    answer_free(&a);
    store.cold = 1;
    cr_expect(client_ask(c, 14, q, NULL, &a) == 22);
    cr_expect(zl_is(a.h.remark, "Not found, V3_0_6_SNAPSHOT maybe this group consumer boot first"));
    answer_free(&a);
    zb_offset_put(zl_str("G"), zl_str("T"), 0, 42);
    cr_expect(client_ask(c, 14, q, NULL, &a) == 0 && answer_i64(&a, "offset") == 42);
    answer_free(&a);
    world_stop();
}

Test(offsets, update_knows_groups_and_topics)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    cr_expect(client_ask(c, 15, FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "commitOffset", "3"), NULL,
                         &a) == 26);
    cr_expect(zl_is(a.h.remark, "Group G not exist!"));
    answer_free(&a);
    zb_group_unref(zb_group_get(zl_str("G"), 1));
    cr_expect(client_ask(c, 15, FIELDS("consumerGroup", "G", "topic", "Nope", "queueId", "0", "commitOffset", "3"),
                         NULL, &a) == 17);
    answer_free(&a);
    cr_expect(client_ask(c, 15, FIELDS("consumerGroup", "G", "topic", "T", "commitOffset", "3"), NULL, &a) == 29);
    answer_free(&a);
    cr_expect(client_ask(c, 15, FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "commitOffset", "3"), NULL,
                         &a) == 0);
    answer_free(&a);
    cr_expect(stored_offset("G", "T") == 3);
    world_stop();
}

Test(offsets, bounds_and_times)
{
    world_start();
    make_topic("T", 2, 6);
    struct client *c = client_open(0);
    fill(c, "T", 3, "");
    cr_expect(client_ask(c, 30, FIELDS("topic", "T", "queueId", "0"), NULL, &a) == 0 && answer_i64(&a, "offset") == 3);
    answer_free(&a);
    cr_expect(client_ask(c, 31, FIELDS("topic", "T", "queueId", "0"), NULL, &a) == 0 && answer_i64(&a, "offset") == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 30, FIELDS("topic", "Nope", "queueId", "0"), NULL, &a) == 0 &&
              answer_i64(&a, "offset") == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 29, FIELDS("topic", "T", "queueId", "0", "timestamp", "1000001"), NULL, &a) == 0 &&
              answer_i64(&a, "offset") == 1);
    answer_free(&a);
    cr_expect(client_ask(c, 32, FIELDS("topic", "T", "queueId", "0"), NULL, &a) == 0 &&
              answer_i64(&a, "timestamp") == 1000000);
    answer_free(&a);
    cr_expect(client_ask(c, 32, FIELDS("topic", "T", "queueId", "1"), NULL, &a) == 0 &&
              answer_i64(&a, "timestamp") == -1);
    answer_free(&a);
    world_stop();
}

Test(pull, questions_that_may_read_the_disk_are_no_io_threads_work)
{
    world_start();
    make_topic("T", 1, 6);
    struct client *c = client_open(0);
    cr_assert(send_to(c, "T", "0", "", "b", &a) == 0);
    answer_free(&a);
    store.lane = pthread_self(); /* this thread is both lanes */
    store.watch = 1;
    cr_expect(client_ask(c, 14, FIELDS("consumerGroup", "New", "topic", "T", "queueId", "0"), NULL, &a) == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 30, FIELDS("topic", "T", "queueId", "0"), NULL, &a) == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 31, FIELDS("topic", "T", "queueId", "0"), NULL, &a) == 0);
    answer_free(&a);
    cr_expect(store.on_lane == 0, "%u", store.on_lane);
    store.watch = 0;
    world_stop();
}

static int32_t bad_pull(struct client *c, const char *group, const char *topic, const char *queue)
{
    int32_t code = client_ask(c, 11,
                              FIELDS("consumerGroup", group, "topic", topic, "queueId", queue, "queueOffset", "0",
                                     "maxMsgNums", "32", "sysFlag", "4", "commitOffset", "0", "suspendTimeoutMillis",
                                     "0", "subVersion", "1", "expressionType", "SQL92", "subscription", "nonsense"),
                              NULL, &a);
    answer_free(&a);
    return code;
}

static void by_property(struct zb_settings *s)
{
    s->property_filter = 1;
    s->auto_create_group = 0;
}

Test(pull, a_bad_expression_is_told_of_after_topic_group_and_permission)
{
    world_start_with(by_property);
    struct zr_topic t = {
        .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("WO"), .read_queues = 1, .write_queues = 1, .perm = 2
    };
    make_topic("T", 1, 6);
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    struct zr_group g = { .hdr = ZR_HDR(struct zr_group, 0), .name = zl_str("G"), .consume_enable = 1 };
    cr_assert(zb_broker_table.put_group(NULL, &g) == ZR_OK);
    struct client *c = client_open(0);
    cr_expect_eq(bad_pull(c, "Nobody", "T", "0"), 26);
    cr_expect_eq(bad_pull(c, "G", "Nope", "0"), 17);
    cr_expect_eq(bad_pull(c, "G", "WO", "0"), 16);
    cr_expect_eq(bad_pull(c, "G", "T", "9"), 29);
    cr_expect_eq(bad_pull(c, "G", "T", "0"), 23);
    world_stop();
}
