/* SPDX-License-Identifier: Apache-2.0 */
/* Route answers as the two forms of name servers write them, and such as must be refused. */
#include "zc/client.h"
#include <criterion/criterion.h>

static struct zc_route *parse(const char *json)
{
    struct zc_route *route = NULL;
    struct zc_err err = { 0 };
    cr_assert_eq(zc_route_parse(zl_str(json), &route, &err), 0, "%s", err.text);
    return route;
}

static void check_two(const struct zc_route *r)
{
    cr_assert_eq(r->n_brokers, 2);
    cr_assert_eq(r->n_queues, 2);
    cr_expect_str_eq(r->brokers[0].name, "broker-a"); /* sorted by name */
    cr_expect_str_eq(r->brokers[1].name, "broker-b");
    cr_assert_eq(r->brokers[0].n_addrs, 2);
    cr_expect_eq(r->brokers[0].addrs[0].id, 0); /* and by id */
    cr_expect_str_eq(r->brokers[0].addrs[0].addr, "10.0.0.1:10911");
    cr_expect_eq(r->brokers[0].addrs[1].id, 1);
    cr_expect_str_eq(r->brokers[0].cluster, "C");
    cr_expect_str_eq(r->queues[1].broker, "broker-b");
    cr_expect_eq(r->queues[1].perm, 4);
    cr_expect_eq(r->queues[0].read, 8);
    cr_expect_eq(r->queues[0].write, 4);
}

Test(route, standard_json)
{
    struct zc_route *r = parse(
        "{\"brokerDatas\":[{\"brokerAddrs\":{\"0\":\"10.0.0.3:10911\"},\"brokerName\":\"broker-b\",\"cluster\":\"C\"},"
        "{\"brokerAddrs\":{\"1\":\"10.0.0.2:10911\",\"0\":\"10.0.0.1:10911\"},\"brokerName\":\"broker-a\",\"cluster\":"
        "\"C\",\"enableActingMaster\":false}],"
        "\"filterServerTable\":{},\"queueDatas\":[{\"brokerName\":\"broker-b\",\"perm\":4,\"readQueueNums\":4,"
        "\"topicSysFlag\":0,\"writeQueueNums\":4},"
        "{\"brokerName\":\"broker-a\",\"perm\":6,\"readQueueNums\":8,\"topicSysFlag\":0,\"writeQueueNums\":4}]}");
    check_two(r);
    cr_expect_null(r->order_conf);
    zc_route_free(r);
}

Test(route, bare_integer_keys)
{
    struct zc_route *r =
        parse("{\"brokerDatas\":[{\"brokerAddrs\":{1:\"10.0.0.2:10911\",0:\"10.0.0.1:10911\"},\"brokerName\":\"broker-"
              "a\",\"cluster\":\"C\"},"
              "{\"brokerAddrs\":{0:\"10.0.0.3:10911\"},\"brokerName\":\"broker-b\",\"cluster\":\"C\"}],"
              "\"filterServerTable\":{},\"orderTopicConf\":\"broker-a:4\","
              "\"queueDatas\":[{\"brokerName\":\"broker-a\",\"perm\":6,\"readQueueNums\":8,\"topicSysFlag\":0,"
              "\"writeQueueNums\":4},"
              "{\"brokerName\":\"broker-b\",\"perm\":4,\"readQueueNums\":4,\"topicSysFlag\":0,\"writeQueueNums\":4}]}");
    check_two(r);
    cr_expect_str_eq(r->order_conf, "broker-a:4");
    zc_route_free(r);
}

Test(route, absent_members)
{
    struct zc_route *r = parse("{}");
    cr_expect_eq(r->n_brokers + r->n_queues, 0);
    zc_route_free(r);
    r = parse("{\"brokerDatas\":[{\"brokerName\":\"x\"}],\"queueDatas\":null}");
    cr_expect_eq(r->n_brokers, 1);
    cr_expect_eq(r->brokers[0].n_addrs, 0);
    zc_route_free(r);
}

Test(route, refused)
{
    static const char *const BAD[] = {
        "",
        "{",
        "[]",
        "null",
        "{\"brokerDatas\":[{\"brokerAddrs\":{\"x\":\"10.0.0.1:1\"},\"brokerName\":\"a\"}]}",
        "{\"queueDatas\":[{\"brokerName\":\"a\",\"readQueueNums\":-1,\"writeQueueNums\":1}]}",
        "{\"queueDatas\":[{\"brokerName\":\"a\",\"readQueueNums\":1,\"writeQueueNums\":2000000000}]}",
        "{\"brokerDatas\":[{\"brokerAddrs\":{\"0\":\"\"},\"brokerName\":\"a\"}]}",
    };
    for (size_t i = 0; i < sizeof(BAD) / sizeof(BAD[0]); i++) {
        struct zc_route *r = NULL;
        struct zc_err err = { 0 };
        cr_expect_eq(zc_route_parse(zl_str(BAD[i]), &r, &err), ZC_EPROTO, "accepted: %s", BAD[i]);
        cr_expect_null(r);
        cr_expect(err.text[0] != 0);
    }
}

Test(route, name_too_long)
{
    char json[1024] = "{\"brokerDatas\":[{\"brokerAddrs\":{\"0\":\"10.0.0.1:1\"},\"brokerName\":\"";
    memset(json + strlen(json), 'n', 300);
    strcat(json, "\"}]}");
    struct zc_route *r = NULL;
    cr_expect_eq(zc_route_parse(zl_str(json), &r, NULL), ZC_EPROTO);
}
