/* SPDX-License-Identifier: Apache-2.0 */
/* broadcast.c - clients of broadcasting groups that change between pulling themselves and pulling through a proxy. */
#include "world.h"

static struct answer a;

static struct client *start(uint32_t messages)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("T"), .read_queues = 2, .write_queues = 2, .perm = 6 };
    world_start();
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    struct client *c = client_open(0);
    for (uint32_t i = 0; i < messages; i++) {
        cr_assert(send_to(c, "T", "0", "", "body", &a) == 0);
        answer_free(&a);
    }
    return c;
}

static void join(struct client *c, const char *id)
{
    char body[700];
    snprintf(body, sizeof body,
             "{\"clientID\":\"%s\",\"consumerDataSet\":[{\"consumeFromWhere\":\"CONSUME_FROM_FIRST_OFFSET\","
             "\"consumeType\":\"CONSUME_PASSIVELY\",\"groupName\":\"G\",\"messageModel\":\"BROADCASTING\",\"subscriptionDataSet\":"
             "[{\"classFilterMode\":false,\"codeSet\":[],\"expressionType\":\"TAG\",\"subString\":\"*\",\"subVersion\":5,\"tagsSet\":[],"
             "\"topic\":\"T\"}],\"unitMode\":false}],\"producerDataSet\":[]}",
             id);
    cr_assert(client_ask(c, 34, NULL, body, &a) == 0);
    answer_free(&a);
}

/* A pull by the client itself (who NULL), or for who by a proxy. The code; *ret_next: nextBeginOffset. */
static int32_t pull(struct client *c, const char *who, const char *offset, int64_t *ret_next)
{
    const char *const *fields = FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", offset, "maxMsgNums", "1",
                                       "sysFlag", who ? "4" : "0", "commitOffset", "0", "suspendTimeoutMillis", "0", "subVersion", "5",
                                       "subscription", "*", "requestSource", who ? "1" : "-1", "proxyFrowardClientId", who ? who : "");
    int32_t code = client_ask(c, 11, fields, NULL, &a);
    *ret_next = answer_i64(&a, "nextBeginOffset");
    answer_free(&a);
    return code;
}

Test(broadcast, a_client_that_comes_by_a_proxy_begins_where_it_was)
{
    int64_t next;
    struct client *c = start(5);
    join(c, "id1");
    cr_expect(pull(c, NULL, "0", &next) == 0 && next == 1);
    cr_expect(pull(c, NULL, "3", &next) == 0 && next == 4);
    cr_expect(pull(c, "id1", "0", &next) == 21 && next == 3, "where it asked last");
    cr_expect(pull(c, "id1", "3", &next) == 0 && next == 4, "and from then on as it says");
    cr_expect(pull(c, "id1", "4", &next) == 0 && next == 5);
    cr_expect(pull(c, NULL, "0", &next) == 21 && next == 4, "and back");
    cr_expect(pull(c, NULL, "0", &next) == 0 && next == 1, "only once");
    world_stop();
}

Test(broadcast, a_proxy_asks_where_to_begin)
{
    int64_t next;
    struct client *c = start(5);
    cr_expect(pull(c, "new", "-1", &next) == 21 && next == 0, "a young queue: at its beginning");
    store.cold = 1;
    cr_expect(pull(c, "newer", "-1", &next) == 21 && next == 5, "an old one: at its end");
    join(c, "id1");
    cr_expect(pull(c, NULL, "2", &next) == 0);
    cr_expect(pull(c, "id1", "-1", &next) == 21 && next == 2, "one that is known: where it was");
    world_stop();
}

Test(broadcast, the_least_offset_of_a_group_is_kept_and_is_no_groups)
{
    int64_t next, now = zk_wall_ms();
    struct client *c = start(5);
    join(c, "id1");
    cr_expect(pull(c, NULL, "3", &next) == 0);
    cr_expect(pull(c, "p2", "2", &next) == 0);
    zb_broadcast_scan(now);
    cr_expect(zb_offset_get(zl_str("G@broadcast"), zl_str("T"), 0) == 2);
    store.cold = 1;
    cr_expect(pull(c, "p3", "-1", &next) == 21 && next == 2, "where one begins whom nobody knows");
    cr_expect(zb_doc_write(ZB_DOC_OFFSETS) == ZR_OK);
    char *text = world_read_file("config/consumerOffset.json");
    cr_expect(text && strstr(text, "\"T@G@broadcast\""));
    free(text);
    world_keep();
    world_stop();
    world_start();
    cr_expect(zb_offset_get(zl_str("G@broadcast"), zl_str("T"), 0) == 2, "over a restart too");
    cr_expect(zb_group_get(zl_str("broadcast"), 0) == NULL);
    world_stop();
}

Test(broadcast, clients_that_left_are_forgotten)
{
    int64_t next, now = zk_wall_ms();
    struct client *c = start(5);
    join(c, "here");
    cr_expect(pull(c, NULL, "3", &next) == 0);
    cr_expect(pull(c, "gone", "1", &next) == 0);
    zb_broadcast_scan(now + 121 * 1000);
    cr_expect(zb_offset_get(zl_str("G@broadcast"), zl_str("T"), 0) == 3, "who is gone counts no more");
    cr_expect(pull(c, "here", "0", &next) == 21 && next == 3, "who is here is known still");
    cr_expect(pull(c, "gone", "0", &next) == 0, "who left is nobody any more");
    cr_expect(pull(c, NULL, "0", &next) == 21);
    zb_broadcast_scan(zk_wall_ms() + 301 * 1000);
    cr_expect(pull(c, "here", "0", &next) == 0, "and everybody is in the end");
    world_stop();
}

Test(broadcast, without_the_store_nothing_is_remembered)
{
    int64_t next;
    struct client *c = start(5);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("enableBroadcastOffsetStore"), zl_str("false")) == ZR_OK);
    join(c, "id1");
    cr_expect(pull(c, NULL, "3", &next) == 0);
    cr_expect(pull(c, "id1", "0", &next) == 0 && next == 1);
    world_stop();
}

Test(broadcast, a_proxy_that_holds_the_pull_itself_is_answered)
{
    struct client *c = start(1);
    const char *const *fields = FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "1", "maxMsgNums", "1",
                                       "sysFlag", "6", "commitOffset", "0", "suspendTimeoutMillis", "20000", "subVersion", "5",
                                       "subscription", "*", "_noSuspend_", "1");
    cr_expect(client_ask(c, 11, fields, NULL, &a) == 19);
    answer_free(&a);
    cr_expect(zb_hold_count() == 0);
    world_stop();
}
