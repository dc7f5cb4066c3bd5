/* SPDX-License-Identifier: Apache-2.0 */
/* cold.c - cold reads of groups: codes 2001 to 2003, and who is held back. */
#include <time.h>
#include "world.h"

static struct answer a;

static void start(uint32_t control)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("T"), .read_queues = 1, .write_queues = 1, .perm = 6 };
    world_start();
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    if (control)
        cr_assert(zb_broker_table.set_config(NULL, zl_str("coldDataFlowControlEnable"), zl_str("true")) == ZR_OK);
}

static void fill(struct client *c, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        cr_assert(send_to(c, "T", "0", "", "body", &a) == 0);
        answer_free(&a);
    }
}

static void threshold(struct client *c, const char *text)
{
    cr_assert(client_ask(c, 2001, NULL, text, &a) == 0);
    answer_free(&a);
}

/* The text of 2003 holds what. */
static uint32_t info_has(struct client *c, const char *what)
{
    cr_assert(client_ask(c, 2003, NULL, NULL, &a) == 0);
    uint32_t has = a.h.body.len && memmem(a.h.body.ptr, a.h.body.len, what, strlen(what)) != NULL;
    answer_free(&a);
    return has;
}

/* A pull whose data is not in memory: the code, and how many messages came. */
static int32_t cold_pull(struct client *c, const char *group, const char *flag, uint32_t *ret_n)
{
    store.again = 1;
    int32_t code = pull_from(c, group, "T", "0", "0", flag, &a);
    *ret_n = code == 0 ? answer_records(&a) : 0;
    if (code == 2)
        cr_expect(zl_is(a.h.remark, "This consumer group is reading cold data. It has been flow control"));
    answer_free(&a);
    store.again = 0;
    return code;
}

Test(cold, thresholds_are_kept_and_shown_with_the_control_off)
{
    uint32_t n;
    start(0);
    struct client *c = client_open(0);
    cr_expect(info_has(c, "{\"cgColdReadThreshold\":3145728,\"globalColdReadThreshold\":104857600,\"configTable\":{},"
                          "\"runtimeTable\":{},\"globalAcc\":0}"));
    threshold(c, "G=1\nbad=x1\n");
    cr_expect(info_has(c, "\"configTable\":{\"G\":1}"));
    cr_expect(client_ask(c, 2001, NULL, "a=\\uZZZZ", &a) == 1 && zl_is(a.h.remark, "string2Properties error"));
    answer_free(&a);
    fill(c, 2);
    for (uint32_t i = 0; i < 3; i++)
        cr_expect(cold_pull(c, "G", "4", &n) == 0 && n == 2);
    cr_expect(info_has(c, "\"runtimeTable\":{}"));
    cr_expect(client_ask(c, 2002, NULL, "G", &a) == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 2002, NULL, "Nobody", &a) == 0);
    answer_free(&a);
    cr_expect(info_has(c, "\"configTable\":{}"));
    world_stop();
}

Test(cold, a_push_group_over_its_threshold_comes_again_later)
{
    uint32_t n;
    start(1);
    struct client *c = client_open(0);
    fill(c, 2);
    cr_assert(beat(c, "id1", "G", "T", "*", &a) == 0);
    answer_free(&a);
    threshold(c, "G=1");
    cr_expect(cold_pull(c, "G", "0", &n) == 0 && n == 2);
    cr_expect(info_has(c, "\"runtimeTable\":{\"G\":{\"coldAcc\":"));
    cr_expect(cold_pull(c, "G", "0", &n) == 2);
    cr_expect(pull_from(c, "G", "T", "0", "0", "0", &a) == 0 && answer_records(&a) == 2, "what is in memory is never held back");
    answer_free(&a);
    for (uint32_t i = 0; i < 5; i++)
        zb_cold_second();
    cr_expect(cold_pull(c, "G", "0", &n) == 0 && n == 2, "a new period begins");
    world_stop();
}

Test(cold, one_that_pulls_waits_and_gets_a_single_message)
{
    uint32_t n;
    start(1);
    struct client *c = client_open(0);
    fill(c, 3);
    threshold(c, "G=1\nCID_RMQ_SYS_X=1");
    cr_expect(cold_pull(c, "G", "4", &n) == 0 && n == 3);
    store.again = 1;
    int32_t o = pull_put(c, "G", "T", "0", "0", "4", "0");
    client_turn(c);
    cr_expect(!client_take(c, o, &a));
    store.again = 1;
    zb_cold_release(1);
    client_wait(c, o, &a);
    cr_expect(a.code == 0 && answer_records(&a) == 1);
    answer_free(&a);
    cr_expect(cold_pull(c, "Other", "4", &n) == 0 && n == 3, "a group below its threshold");
    cr_expect(cold_pull(c, "CID_RMQ_SYS_X", "4", &n) == 0 && cold_pull(c, "CID_RMQ_SYS_X", "4", &n) == 0 && n == 3);
    world_stop();
}

Test(cold, the_wait_ends_after_a_second_by_itself)
{
    uint32_t n;
    start(1);
    struct client *c = client_open(0);
    fill(c, 2);
    threshold(c, "G=1");
    cr_expect(cold_pull(c, "G", "4", &n) == 0);
    int64_t began = zk_mono_ns();
    store.again = 1;
    int32_t o = pull_put(c, "G", "T", "0", "0", "4", "0");
    client_turn(c);
    while (!client_take(c, o, &a)) { /* the broker's tick, as it comes */
        nanosleep(&(struct timespec){ 0, 10000000 }, NULL);
        zb_cold_second();
        world_pump();
    }
    cr_expect(a.code == 0 && answer_records(&a) == 1 && zk_mono_ns() - began >= 1000000000);
    answer_free(&a);
    world_stop();
}

Test(cold, all_groups_together_have_a_threshold_too)
{
    uint32_t n;
    start(1);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("globalColdReadThreshold"), zl_str("1")) == ZR_OK);
    struct client *c = client_open(0);
    fill(c, 1);
    cr_assert(beat(c, "id1", "G", "T", "*", &a) == 0);
    answer_free(&a);
    cr_expect(cold_pull(c, "G", "0", &n) == 0);
    cr_expect(cold_pull(c, "G", "0", &n) == 2);
    world_stop();
}

Test(cold, a_pull_that_waits_is_answered_when_the_broker_stops)
{
    uint32_t n;
    start(1);
    struct client *c = client_open(0);
    fill(c, 1);
    threshold(c, "G=1");
    cr_expect(cold_pull(c, "G", "4", &n) == 0);
    store.again = 1;
    pull_put(c, "G", "T", "0", "0", "4", "0");
    client_turn(c);
    uint32_t before = client_answers(c);
    zk_broker_stop();
    world_pump();
    cr_expect(client_answers(c) == before + 1);
    world_stop();
}
