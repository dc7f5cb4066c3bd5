/* SPDX-License-Identifier: Apache-2.0 */
/* policy.c - retry policies of groups, and the queues of messages with a priority. */
#include "world.h"

static struct answer a;

Test(policy, the_wait_grows_as_the_group_says)
{
    const struct {
        const char *json;
        int32_t times;
        int64_t ms;
    } rows[] = {
        { "", 0, -1 },
        { "{\"type\":\"CUSTOMIZED\"}", 3, -1 },
        { "{\"type\":\"CUSTOMIZED\",\"customizedRetryPolicy\":{\"next\":[]}}", 0, -1 },
        { "{\"type\":\"CUSTOMIZED\",\"customizedRetryPolicy\":{\"next\":[1,2,30,40]}}", 0, 30 },
        { "{\"type\":\"CUSTOMIZED\",\"customizedRetryPolicy\":{\"next\":[1,2,30,40]}}", 1, 40 },
        { "{\"type\":\"CUSTOMIZED\",\"customizedRetryPolicy\":{\"next\":[1,2,30,40]}}", 2147483647, 40 },
        { "{\"customizedRetryPolicy\":{\"next\":[7]}}", 0, 7 },
        { "{\"customizedRetryPolicy\":{\"next\":[-7]}}", 0, 0 },
        { "{\"customizedRetryPolicy\":{\"next\":[99999999999]}}", 0, 259200000 },
        { "{\"customizedRetryPolicy\":{\"next\":{\"a\":1}}}", 0, -1 },
        { "{\"type\":\"EXPONENTIAL\"}", 0, 5000 },
        { "{\"type\":\"EXPONENTIAL\"}", 2, 20000 },
        { "{\"type\":\"EXPONENTIAL\"}", 100, 7200000 },
        { "{\"type\":\"EXPONENTIAL\",\"exponentialRetryPolicy\":{\"initial\":100,\"max\":1000,\"multiplier\":3}}", 2, 900 },
        { "{\"type\":\"EXPONENTIAL\",\"exponentialRetryPolicy\":{\"initial\":100,\"max\":1000,\"multiplier\":3}}", 3, 1000 },
        { "{\"type\":\"EXPONENTIAL\",\"exponentialRetryPolicy\":{\"initial\":9223372036854775807,\"max\":9223372036854775807,"
          "\"multiplier\":9223372036854775807}}", 32, 259200000 },
        { "{\"type\":\"EXPONENTIAL\",\"exponentialRetryPolicy\":{\"initial\":300000000,\"max\":9223372036854775807,\"multiplier\":3}}", 32, 259200000 },
        { "{\"type\":\"EXPONENTIAL\",\"exponentialRetryPolicy\":{\"initial\":-5,\"max\":-1,\"multiplier\":-9}}", 32, 0 },
        { "{\"type\":", 0, -1 },
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int64_t ms = zb_policy_delay(zl_str(rows[i].json), rows[i].times);
        cr_expect_eq(ms, rows[i].ms, "row %u: %lld", i, (long long)ms);
    }
}

#define PRIORITY(n) "_SYS_MSG_PRIORITY_\1" n "\2"
Test(priority, a_message_goes_to_the_queue_of_its_priority)
{
    const struct {
        const char *props, *queue; /* the queue it comes to; sent to 1 */
        uint32_t kept;             /* the property is in the record */
    } rows[] = {
        { PRIORITY("0"), "0", 1 },
        { PRIORITY("2"), "2", 1 },
        { PRIORITY("99"), "3", 1 },
        { PRIORITY("-1"), "1", 1 },
        { PRIORITY("high"), "1", 1 },
        { PRIORITY("99999999999"), "1", 1 },
        { PRIORITY("2") "__SHARDINGKEY\1k\2", "1", 0 },
        { "", "1", 0 },
    };
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("T"), .read_queues = 4, .write_queues = 4, .perm = 6 };
    world_start();
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    struct client *c = client_open(0);
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        int32_t queue = rows[i].queue[0] - '0';
        uint32_t before = store_count("T", queue);
        cr_expect(send_to(c, "T", "1", rows[i].props, "b", &a) == 0);
        cr_expect(answer_i64(&a, "queueId") == queue && store_count("T", queue) == before + 1, "row %u", i);
        answer_free(&a);
        struct zr_str props = store_last_props("T", queue);
        struct zr_span span = { (const uint8_t *)props.ptr, props.len };
        cr_expect((zl_props_get(span, "_SYS_MSG_PRIORITY_").len != 0) == rows[i].kept, "row %u", i);
    }
    world_stop();
}
