/* SPDX-License-Identifier: Apache-2.0 */
/* service.c - zarya.broker/1: identity, configuration, statistics. */
#include "world.h"

static struct answer a;

Test(service, identity)
{
    world_start();
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    zb_broker_table.identity(NULL, &id);
    cr_expect(zl_is(id.addr, "127.0.0.1:10911") && zl_is(id.ha_addr, "127.0.0.1:10912") &&
              zl_is(id.cluster, "DefaultCluster") && zl_is(id.name, "broker-a"));
    cr_expect(id.permission == 6 && id.id == 0 && id.store_host.family == 4 && id.store_host.port == 10911);
    struct {
        struct zr_identity id;
    } older = { { .hdr = { (uint32_t)ZR_END(struct zr_identity, name), 0, 0 } } };
    older.id.permission = 99;
    zb_broker_table.identity(NULL, &older.id);
    cr_expect(older.id.permission == 99 &&
              zl_is(older.id.name, "broker-a")); /* nothing beyond the caller's size is touched */
    world_stop();
}

struct seen {
    char last[64];
    uint32_t n, unsorted;
    char listen[16], topics[16];
};
static int32_t each_key(void *ctx, struct zr_str key, struct zr_str value)
{
    struct seen *s = ctx;
    s->unsorted += s->last[0] && zl_compare(zl_str(s->last), key) >= 0;
    snprintf(s->last, sizeof s->last, "%.*s", (int)key.len, key.ptr);
    if (zl_is(key, "listenPort"))
        snprintf(s->listen, sizeof s->listen, "%.*s", (int)value.len, value.ptr);
    if (zl_is(key, "defaultTopicQueueNums"))
        snprintf(s->topics, sizeof s->topics, "%.*s", (int)value.len, value.ptr);
    s->n++;
    return 0;
}

Test(service, configuration_is_listed_sorted_and_changed_by_the_allow_list)
{
    struct seen s = { .n = 0 };
    world_start();
    zb_broker_table.each_config(NULL, each_key, &s);
    cr_expect(s.n > zk_n_broker_options && s.unsorted == 0);
    cr_expect(strcmp(s.listen, "10911") == 0 && strcmp(s.topics, "8") == 0, "%s %s", s.listen, s.topics);
    cr_expect(zb_broker_table.set_config(NULL, zl_str("nonsense"), zl_str("1")) == ZR_ENOENT);
    cr_expect(zb_broker_table.set_config(NULL, zl_str("regionId"), zl_str("x")) == ZR_EPERM);
    cr_expect(zb_broker_table.set_config(NULL, zl_str("brokerPermission"), zl_str("9")) == ZR_EINVAL);
    cr_expect(zb_broker_table.set_config(NULL, zl_str("slaveReadEnable"), zl_str("maybe")) == ZR_EINVAL);
    cr_expect(zb_broker_table.set_config(NULL, zl_str("slaveReadEnable"), zl_str("TRUE")) == ZR_OK);
    uint32_t before = registry_changes;
    struct zr_data_version v1, v2;
    zb_broker_table.topic_version(NULL, &v1);
    cr_expect(zb_broker_table.set_config(NULL, zl_str("brokerPermission"), zl_str("4")) == ZR_OK);
    zb_broker_table.topic_version(NULL, &v2);
    cr_expect(registry_changes == before + 1 && v2.counter == v1.counter + 1);
    world_stop();
}

Test(service, every_option_has_a_default_that_is_legal)
{
    for (uint32_t i = 0; i < zk_n_broker_options; i++) {
        const struct zr_option *o = &zk_broker_options[i];
        cr_expect(o->name && o->doc && o->offset < zk_broker_settings_size && o->dflt, "%s", o->name);
    }
    struct zb_settings s;
    zb_settings_default(&s);
    cr_expect(s.default_topic_queues == 8 && s.max_message_size == 4194304 && s.auto_create_topic == 1 &&
              s.property_filter == 1);
    cr_expect(zl_is(s.region_id, "DefaultRegion") && s.role == ZB_ROLE_ASYNC_MASTER && s.max_transfer_count == 32);
}

Test(service, statistics_count_what_went_through)
{
    world_start();
    struct zr_topic t = {
        .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("T"), .read_queues = 1, .write_queues = 1, .perm = 6
    };
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    struct client *c = client_open(0);
    for (uint32_t i = 0; i < 5; i++) {
        cr_assert(send_to(c, "T", "0", "", "b", &a) == 0);
        answer_free(&a);
    }
    cr_assert(pull_from(c, "G", "T", "0", "0", "4", &a) == 0);
    answer_free(&a);
    cr_assert(pull_from(c, "G", "T", "0", "5", "4", &a) == 19);
    answer_free(&a);
    struct zr_broker_stats s = { .hdr = ZR_HDR(struct zr_broker_stats, 0) };
    zb_broker_table.stats(NULL, &s);
    cr_expect(s.put_total == 5 && s.get_messages == 5 && s.get_found == 1 && s.get_miss == 1 && s.put_bytes > 5 * 91);
    uint64_t in_histogram = 0;
    for (uint32_t i = 0; i < 13; i++)
        in_histogram += s.put_histogram[i];
    cr_expect(in_histogram == 5);
    cr_expect(s.put_tps[2] == -1); /* ten minutes have not passed */
    struct zr_topic_stats ts = { .hdr = ZR_HDR(struct zr_topic_stats, 0) };
    zb_broker_table.topic_stats(NULL, zl_str("T"), (struct zr_str){ NULL, 0 }, &ts);
    cr_expect(ts.put_total == 5 && ts.get_total == 5);
    zb_broker_table.topic_stats(NULL, zl_str("T"), zl_str("G"), &ts);
    cr_expect(ts.get_total == 5);
    world_stop();
}

Test(service, rates_are_differences_over_a_minute)
{
    struct zb_rate r = { .n = 0 };
    double count, bytes;
    for (int64_t i = 0; i < 10; i++)
        zb_rate_add(&r, i * 10000, i * 100, i * 1000);
    zb_rate_get(&r, &count, &bytes);
    cr_expect(count == 10.0 && bytes == 100.0, "%f %f", count, bytes);
}

static int32_t count_topic(void *ctx, const struct zr_topic *t)
{
    uint32_t *n = ctx;
    *n += !t->system;
    return 0;
}

static void on_done(void *ctx, zr_status status) { *(_Atomic int32_t *)ctx = status == ZR_OK ? 1 : 2; }

Test(service, topics_are_put_announced_and_listed)
{
    _Atomic int32_t done = 0;
    uint32_t n = 0;
    world_start();
    struct zr_field attribute = { ZR_STR("message.type"), ZR_STR("FIFO") };
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0),
                          .name = zl_str("T"),
                          .read_queues = 1,
                          .write_queues = 1,
                          .perm = 6,
                          .attributes = &attribute,
                          .n_attributes = 1 };
    cr_assert(zb_broker_table.put_topic(NULL, &t, on_done, &done) == ZR_OK);
    for (uint32_t i = 0; i < 1000 && !done; i++) {
        struct timespec ms = { 0, 10000000 };
        nanosleep(&ms, NULL);
    }
    cr_expect(done == 1 && strcmp(registry_last, "T") == 0);
    zb_broker_table.each_topic(NULL, count_topic, &n);
    cr_expect(n == 1);
    t.read_queues = -1;
    cr_expect(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_EINVAL);
    world_stop();
}
