/* SPDX-License-Identifier: Apache-2.0 */
/* routing-remote through its plugin entry; the test is the name servers. */
#include <criterion/criterion.h>
#include <arpa/inet.h>
#include <libdeflate.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#include "fake.h"

static const struct zr_plugin *plugin;
static struct zr_inst *inst;
static const struct zr_registry_v1 *registry;
static uint32_t dones, drained;
static zr_status done_status;

static void on_done(void *ctx, zr_status status)
{
    cr_expect_eq(ctx, &dones);
    dones++;
    done_status = status;
}
static void on_drained(void *ctx, zr_status status)
{
    cr_expect_eq(ctx, &drained);
    cr_expect_eq(status, ZR_OK);
    drained++;
}
static struct fake_topic topics[4];
static void topics_set(void)
{
    topics[0] = (struct fake_topic){ "TopicA", 8, 8, 6, 0, 0, 0, NULL, 0 };
    topics[1] = (struct fake_topic){ "broker-a", 1, 1, 7, 0, 0, 0, NULL, 0 };
    topics[2] = (struct fake_topic){ "TopicB", 2, 4, 6, 1, 0, 1, NULL, 0 };
    fake_topics = topics;
    fake_n_topics = 2;
}
static void start(const char *options)
{
    inst = fake_make(plugin, options);
    registry = plugin->query(inst, ZR_IF_REGISTRY);
    cr_assert_not_null(registry);
}
static void stop(void) { fake_unmake(plugin, inst); }
static void setup(void)
{
    plugin = zarya_plugin_entry_1(0);
    fake_init();
    topics_set();
    dones = drained = 0;
}
static void teardown(void)
{
    stop();
    fake_end();
}
TestSuite(remote, .init = setup, .fini = teardown, .timeout = 60);

#define FULL_BODY(counter) \
    "{\"filterServerList\":[],\"topicConfigSerializeWrapper\":{\"dataVersion\":{\"counter\":" counter ",\"stateVersion\":0,\"timestamp\":1695000000000}," \
    "\"mappingDataVersion\":{\"counter\":0,\"stateVersion\":0,\"timestamp\":1700000000000},\"topicConfigTable\":{" TOPIC_A ",\"broker-a\":{\"attributes\":{}," \
    "\"order\":false,\"perm\":7,\"readQueueNums\":1,\"topicFilterType\":\"SINGLE_TAG\",\"topicName\":\"broker-a\",\"topicSysFlag\":0,\"writeQueueNums\":1}}," \
    "\"topicQueueMappingDetailMap\":{},\"topicQueueMappingInfoMap\":{}}}"
#define TOPIC_A \
    "\"TopicA\":{\"attributes\":{},\"order\":false,\"perm\":6,\"readQueueNums\":8,\"topicFilterType\":\"SINGLE_TAG\",\"topicName\":\"TopicA\",\"topicSysFlag\":0,\"writeQueueNums\":8}"
#define PART_BODY(counter, topic) \
    "{\"filterServerList\":[],\"topicConfigSerializeWrapper\":{\"dataVersion\":{\"counter\":" counter ",\"stateVersion\":0,\"timestamp\":1695000000000}," \
    "\"mappingDataVersion\":{\"counter\":0,\"stateVersion\":0,\"timestamp\":1700000000000},\"topicConfigTable\":{" topic "}," \
    "\"topicQueueMappingDetailMap\":{},\"topicQueueMappingInfoMap\":{}}}"
#define VERSION(counter) "{\"counter\":" counter ",\"stateVersion\":0,\"timestamp\":1695000000000}"
#define WHO "brokerName=broker-a\nbrokerAddr=127.0.0.1:10911\nclusterName=DefaultCluster\nbrokerId=0\n"

/* The only open call, to that address. */
static uint32_t open_call(const char *url, int32_t code, int line)
{
    for (uint32_t i = 0; i < fake_n_calls; i++) {
        if (!fake_calls[i].open || strcmp(fake_calls[i].url, url) != 0)
            continue;
        cr_assert_eq(fake_calls[i].code, code, "line %d: code %d to %s", line, fake_calls[i].code, url);
        return i;
    }
    cr_assert_fail("line %d: no call to %s is open", line, url);
    return 0;
}
#define OPEN(url, code) open_call(url, code, __LINE__)
static uint32_t n_open(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < fake_n_calls; i++)
        n += fake_calls[i].open;
    return n;
}
/* Started and fully registered at one name server. */
static void start_registered(const char *options)
{
    start(options);
    registry->changed(inst, NULL, 0, NULL, NULL);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    cr_assert_eq(n_open(), 0);
    fake_calls_forget();
}
static void change(const char *topic, void (*fn)(void *, zr_status))
{
    struct zr_str name = zl_str(topic);
    fake_version.counter++;
    registry->changed(inst, &name, 1, fn, &dones);
}

Test(remote, full_registration_at_the_start)
{
    start("namesrv=ns1:9876;ns2:9876\n");
    cr_expect_eq(fake_n_calls, 0, "nothing is said before the kernel spoke");
    registry->changed(inst, NULL, 0, on_done, &dones);
    uint32_t i = OPEN("ns1:9876", 103);
    cr_expect_str_eq(fake_calls[i].body, FULL_BODY("1"));
    char ext[512];
    snprintf(ext, sizeof ext, WHO "haServerAddr=127.0.0.1:10912\nenableActingMaster=false\ncompressed=false\nbodyCrc32=%u\n",
             zl_crc32(0, fake_calls[i].body, fake_calls[i].body_len) & 0x7FFFFFFFu);
    cr_expect_str_eq(fake_calls[i].ext, ext);
    cr_expect_eq(n_open(), 2);
    fake_call_answer(i, 0, "", NULL);
    cr_expect_eq(dones, 0, "the other name server does not know yet");
    fake_call_answer(OPEN("ns2:9876", 103), 0, "", NULL);
    cr_expect_eq(dones, 1);
    cr_expect_eq(done_status, ZR_OK);
    cr_expect_eq(n_open(), 0);
    cr_expect_eq(fake_metric("zarya_routing_registered"), 2);
}

Test(remote, heartbeat_and_nothing_else_when_nothing_changed)
{
    start_registered("namesrv=ns1:9876\n");
    for (int round = 0; round < 12; round++) {
        fake_advance_ms(5000);
        uint32_t i = OPEN("ns1:9876", 322);
        cr_expect_str_eq(fake_calls[i].body, VERSION("1"));
        cr_expect_str_eq(fake_calls[i].ext, WHO);
        fake_call_answer(i, 0, "changed=false\n", VERSION("1"));
        cr_expect_eq(n_open(), 0);
    }
    cr_expect_eq(fake_metric("zarya_routing_full_total"), 1);
    cr_expect_eq(fake_metric("zarya_routing_heartbeats_total"), 12);
}

Test(remote, an_increment_carries_the_changed_topic_alone)
{
    start_registered("namesrv=ns1:9876\n");
    fake_n_topics = 3;
    change("TopicB", on_done);
    uint32_t i = OPEN("ns1:9876", 103);
    cr_expect_str_eq(fake_calls[i].body,
                     PART_BODY("2", "\"TopicB\":{\"attributes\":{},\"order\":false,\"perm\":6,\"readQueueNums\":2,\"topicFilterType\":\"MULTI_TAG\",\"topicName\":\"TopicB\","
                                    "\"topicSysFlag\":1,\"writeQueueNums\":4}"));
    cr_expect_eq(dones, 0);
    fake_call_answer(i, 0, "", NULL);
    cr_expect_eq(dones, 1);
    cr_expect_eq(n_open(), 0);
}

Test(remote, a_name_server_that_forgot_us_gets_everything)
{
    start_registered("namesrv=ns1:9876\n");
    change("TopicA", on_done);
    fake_call_answer(OPEN("ns1:9876", 103), 1, "", NULL); /* "register broker failed": a single topic first */
    uint32_t i = OPEN("ns1:9876", 103);
    cr_expect_str_eq(fake_calls[i].body, FULL_BODY("2"));
    cr_expect_eq(dones, 0);
    fake_call_answer(i, 0, "", NULL);
    cr_expect_eq(dones, 1);
    /* or it shows at the heartbeat: changed, and no version of ours there */
    fake_advance_ms(5000);
    fake_call_answer(OPEN("ns1:9876", 322), 0, "changed=true\n", NULL);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    cr_expect_eq(n_open(), 0);
}

Test(remote, several_changes_are_sent_only_to_one_that_knows_the_rest)
{
    start_registered("namesrv=ns1:9876\n");
    fake_n_topics = 3;
    change("TopicA", on_done);
    uint32_t i = OPEN("ns1:9876", 103);
    change("TopicA", on_done); /* while the first is under way */
    change("TopicB", on_done);
    change("TopicB", on_done);
    cr_expect_eq(n_open(), 1);
    fake_call_answer(i, 0, "", NULL);
    cr_expect_eq(dones, 1);
    uint32_t q = OPEN("ns1:9876", 322);
    fake_call_answer(q, 0, "changed=true\n", VERSION("2"));
    i = OPEN("ns1:9876", 103);
    cr_expect(strstr(fake_calls[i].body, "\"TopicA\"") && strstr(fake_calls[i].body, "\"TopicB\"") && !strstr(fake_calls[i].body, "\"broker-a\""), "%s", fake_calls[i].body);
    fake_call_answer(i, 0, "", NULL);
    cr_expect_eq(dones, 4);
    /* the same, but it is not where we left it: everything */
    fake_n_topics = 3;
    change("TopicA", NULL);
    i = OPEN("ns1:9876", 103);
    change("TopicA", NULL);
    change("TopicB", NULL);
    fake_call_answer(i, 0, "", NULL);
    fake_call_answer(OPEN("ns1:9876", 322), 0, "changed=true\n", VERSION("1"));
    i = OPEN("ns1:9876", 103);
    cr_expect(strstr(fake_calls[i].body, "\"broker-a\"") != NULL);
    fake_call_answer(i, 0, "", NULL);
}

Test(remote, a_removed_topic_is_in_no_body_any_more)
{
    start_registered("namesrv=ns1:9876\n");
    memmove(&topics[0], &topics[1], sizeof topics[0]); /* TopicA goes */
    fake_n_topics = 1;
    fake_version.counter++;
    registry->removed(inst, (struct zr_str)ZR_STR("TopicA"));
    cr_expect_eq(n_open(), 0);
    fake_advance_ms(5000);
    fake_call_answer(OPEN("ns1:9876", 322), 0, "changed=true\n", VERSION("1"));
    uint32_t i = OPEN("ns1:9876", 103);
    cr_expect_null(strstr(fake_calls[i].body, "TopicA"));
    fake_call_answer(i, 0, "", NULL);
    /* changed and removed before it could be said: nothing to say */
    change("TopicA", on_done);
    cr_expect_eq(dones, 1);
    cr_expect_eq(n_open(), 0);
}

Test(remote, a_dead_name_server_holds_nobody_up)
{
    start("namesrv=ns1:9876 ns2:9876\n");
    registry->changed(inst, NULL, 0, on_done, &dones);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    cr_expect_eq(dones, 0);
    fake_call_fail(OPEN("ns2:9876", 103), ZR_ECLOSED);
    cr_expect_eq(dones, 1);
    cr_expect_eq(done_status, ZR_OK);
    change("TopicA", on_done);
    cr_expect_eq(n_open(), 1, "it is left alone for a while");
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    cr_expect_eq(dones, 2);
    /* back-off: 1 s and at most a quarter more, then 2 s ... never more than 30 s and a quarter */
    fake_calls_forget();
    int64_t at = fake_now_ns;
    const int wait[] = { 1000, 2000, 4000, 8000, 16000, 30000, 30000 };
    for (uint32_t k = 0; k < sizeof wait / sizeof *wait; k++) {
        uint32_t i = UINT32_MAX;
        while (i == UINT32_MAX) {
            fake_advance_ms(10);
            for (uint32_t j = 0; j < fake_n_calls; j++) {
                if (fake_calls[j].open && strcmp(fake_calls[j].url, "ns1:9876") == 0)
                    fake_call_answer(j, 0, "changed=false\n", NULL);
                else if (fake_calls[j].open)
                    i = j;
            }
            if (i == UINT32_MAX)
                fake_calls_forget();
        }
        int64_t ms = (fake_now_ns - at) / 1000000;
        cr_expect(ms >= wait[k] && ms <= wait[k] + wait[k] / 4 + 20, "wait %u was %lld ms", k, (long long)ms);
        at = fake_now_ns;
        fake_call_fail(i, ZR_ETIMEOUT);
        fake_calls_forget();
    }
    /* and when it is back it gets everything */
    fake_advance_ms(38000);
    uint32_t i = OPEN("ns2:9876", 103);
    fake_call_answer(i, 0, "", NULL);
    for (uint32_t j = 0; j < fake_n_calls; j++)
        if (fake_calls[j].open)
            fake_call_fail(j, ZR_ECLOSED);
}

/* It keeps the connection and says nothing: waited for once, for 0.8 s; the other one is waited for as before. */
Test(remote, a_silent_name_server_holds_up_the_first_only)
{
    start("namesrv=ns1:9876;ns2:9876\n");
    registry->changed(inst, NULL, 0, NULL, NULL);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    fake_call_answer(OPEN("ns2:9876", 103), 0, "", NULL);
    fake_calls_forget();
    change("TopicA", on_done);
    fake_call_answer(OPEN("ns2:9876", 103), 0, "", NULL);
    fake_advance_ms(799);
    cr_expect_eq(dones, 0, "ns1 has its time");
    fake_advance_ms(1);
    cr_expect_eq(dones, 1, "and no more");
    cr_expect_eq(done_status, ZR_OK, "the other one knows it");

    change("TopicA", on_done);
    cr_expect_eq(dones, 1, "ns2 is waited for all the same");
    fake_call_answer(OPEN("ns2:9876", 103), 0, "", NULL);
    cr_expect_eq(dones, 2, "and ns1 is not");
    cr_expect_eq(done_status, ZR_OK);

    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL); /* the one from before */
    uint32_t again = 0;
    while (again < fake_n_calls && !(fake_calls[again].open && strcmp(fake_calls[again].url, "ns1:9876") == 0))
        again++;
    cr_assert_lt(again, fake_n_calls, "it is told what it missed");
    fake_call_answer(again, 0, "", NULL);
    change("TopicA", on_done);
    fake_call_answer(OPEN("ns2:9876", 103), 0, "", NULL);
    cr_expect_eq(dones, 2, "it answered, so it is waited for again");
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    cr_expect_eq(dones, 3);
}

Test(remote, all_name_servers_silent)
{
    start("namesrv=ns1:9876;ns2:9876\n");
    registry->changed(inst, NULL, 0, on_done, &dones);
    fake_advance_ms(800);
    cr_expect_eq(dones, 1);
    cr_expect_eq(done_status, ZR_ETIMEOUT);
    change("TopicA", on_done);
    cr_expect_eq(dones, 2, "nobody is left to wait for");
    for (uint32_t i = 0; i < fake_n_calls; i++)
        if (fake_calls[i].open)
            fake_call_fail(i, ZR_ETIMEOUT);
}

Test(remote, all_name_servers_dead)
{
    start("namesrv=ns1:9876\n");
    registry->changed(inst, NULL, 0, on_done, &dones);
    fake_call_fail(OPEN("ns1:9876", 103), ZR_ECLOSED);
    cr_expect_eq(dones, 1);
    cr_expect_eq(done_status, ZR_ECLOSED);
    change("TopicA", on_done);
    cr_expect_eq(dones, 2);
    cr_expect_eq(done_status, ZR_ECLOSED);
}

Test(remote, no_name_server_at_all)
{
    start("");
    registry->changed(inst, NULL, 0, on_done, &dones);
    cr_expect_eq(dones, 1);
    cr_expect_eq(done_status, ZR_OK);
    cr_expect_eq(fake_timers(), 0);
}

Test(remote, refused_registrations_back_off)
{
    start("namesrv=ns1:9876\n");
    registry->changed(inst, NULL, 0, on_done, &dones);
    fake_call_answer(OPEN("ns1:9876", 103), 1, "", NULL);
    cr_expect_eq(dones, 1);
    cr_expect_eq(done_status, ZR_ECLOSED);
    cr_expect_eq(n_open(), 0, "not at once again");
    fake_advance_ms(1300);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
}

Test(remote, a_name_server_without_322_gets_full_ones_every_period)
{
    start_registered("namesrv=ns1:9876\n");
    fake_advance_ms(5000);
    fake_call_answer(OPEN("ns1:9876", 322), 3, "", NULL);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    fake_advance_ms(29000);
    cr_expect_eq(n_open(), 0);
    fake_advance_ms(1100);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    cr_expect_eq(n_open(), 0);
}

Test(remote, force_sends_full_ones_every_period)
{
    start_registered("namesrv=ns1:9876\nforce=true\nheartbeat=40 s\n");
    fake_advance_ms(29000);
    cr_expect_eq(n_open(), 0);
    fake_advance_ms(1100);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
}

Test(remote, permissions_are_cut_to_the_brokers)
{
    fake_identity.permission = 4;
    start("namesrv=ns1:9876\n");
    registry->changed(inst, NULL, 0, NULL, NULL);
    uint32_t i = OPEN("ns1:9876", 103);
    cr_expect(strstr(fake_calls[i].body, "\"perm\":4") && !strstr(fake_calls[i].body, "\"perm\":6") && !strstr(fake_calls[i].body, "\"perm\":7"));
    fake_call_answer(i, 0, "", NULL);
}

Test(remote, attributes)
{
    const struct zr_field attributes[] = { { ZR_STR("message.type"), ZR_STR("FIFO") }, { ZR_STR("a\"b"), ZR_STR("1") } };
    topics[0].attributes = attributes;
    topics[0].n_attributes = 2;
    start("namesrv=ns1:9876\n");
    registry->changed(inst, NULL, 0, NULL, NULL);
    uint32_t i = OPEN("ns1:9876", 103);
    cr_expect(strstr(fake_calls[i].body, "\"attributes\":{\"message.type\":\"FIFO\",\"a\\\"b\":\"1\"}"), "%s", fake_calls[i].body);
    fake_call_answer(i, 0, "", NULL);
}

Test(remote, deflated)
{
    uint8_t plain[4096];
    size_t len;
    start("namesrv=ns1:9876\ncompressed=true\n");
    registry->changed(inst, NULL, 0, NULL, NULL);
    uint32_t i = OPEN("ns1:9876", 103);
    cr_expect(strstr(fake_calls[i].ext, "compressed=true\n"));
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    cr_assert_eq(libdeflate_zlib_decompress(d, fake_calls[i].body, fake_calls[i].body_len, plain, sizeof plain, &len), LIBDEFLATE_SUCCESS);
    libdeflate_free_decompressor(d);
    const char expected[] = "\0\0\0\x38" VERSION("1") "\0\0\0\2\0\0\0\x1a" "TopicA 8 8 6 SINGLE_TAG {}" "\0\0\0\x1c" "broker-a 1 1 7 SINGLE_TAG {}" "\0\0\0\2[]\0\0\0\0";
    cr_expect_eq(len, sizeof expected - 1);
    cr_expect_eq(memcmp(plain, expected, len), 0);
    fake_call_answer(i, 0, "", NULL);
}

Test(remote, order_configuration_comes_back)
{
    start("namesrv=ns1:9876\n");
    registry->changed(inst, NULL, 0, NULL, NULL);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", "{\"table\":{\"TopicA\":\"broker-a:8\",\"Unknown\":\"broker-a:1\"}}");
    cr_expect_eq(fake_puts, 1);
    cr_expect_eq(topics[0].order, 1);
    fake_advance_ms(5000);
    fake_call_answer(OPEN("ns1:9876", 322), 0, "changed=true\n", NULL);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", "{\"table\":{\"TopicA\":\"broker-a:8\"}}");
    cr_expect_eq(fake_puts, 1, "only when it differs");
}

Test(remote, goodbye)
{
    start("namesrv=ns1:9876;ns2:9876\n");
    registry->changed(inst, NULL, 0, NULL, NULL);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    fake_call_fail(OPEN("ns2:9876", 103), ZR_ECLOSED);
    plugin->drain(inst, (struct zr_done){ on_drained, &drained });
    cr_expect_eq(n_open(), 1, "only where we are known");
    uint32_t i = OPEN("ns1:9876", 104);
    cr_expect_str_eq(fake_calls[i].ext, WHO);
    cr_expect_leq(fake_calls[i].timeout_ns, 3000000000ll);
    cr_expect_eq(drained, 0);
    fake_call_answer(i, 0, "", NULL);
    cr_expect_eq(drained, 1);
    change("TopicA", on_done);
    cr_expect_eq(dones, 1);
    cr_expect_eq(done_status, ZR_ECLOSED);
    cr_expect_eq(n_open(), 0);
    cr_expect_eq(fake_timers(), 0);
}

Test(remote, drain_without_anybody)
{
    start("");
    plugin->drain(inst, (struct zr_done){ on_drained, &drained });
    cr_expect_eq(drained, 1);
}

Test(remote, cool_ends_what_is_under_way)
{
    start("namesrv=ns1:9876\n");
    registry->changed(inst, NULL, 0, on_done, &dones);
    cr_expect_eq(n_open(), 1);
    /* teardown cools with the call open: hang_up answers it, nothing is left */
}

/* ---- what a heartbeat and a change cost with many topics ------------------------------------------------------------------ */

Test(remote, twenty_thousand_topics)
{
    enum { N = 20000 };
    static struct fake_topic many[N];
    for (int i = 0; i < N; i++) {
        snprintf(many[i].name, sizeof many[i].name, "some-topic-with-a-name-of-usual-length-%d", i);
        many[i].read = many[i].write = 8;
        many[i].perm = 6;
    }
    fake_topics = many;
    fake_n_topics = N;
    start_registered("namesrv=ns1:9876\n");
    int64_t before = fake_metric("zarya_routing_register_bytes");
    cr_expect_gt(before, 3000000);
    fake_advance_ms(5000);
    uint32_t i = OPEN("ns1:9876", 322);
    cr_expect_lt(fake_calls[i].frame_len, 1024);
    cr_expect_eq(fake_metric("zarya_routing_register_bytes") - before, (int64_t)fake_calls[i].frame_len);
    fake_call_answer(i, 0, "changed=false\n", VERSION("1"));
    before = fake_metric("zarya_routing_register_bytes");
    many[777].perm = 4;
    change(many[777].name, on_done);
    i = OPEN("ns1:9876", 103);
    cr_expect_lt(fake_calls[i].frame_len, 2048);
    fake_call_answer(i, 0, "", NULL);
    cr_expect_eq(dones, 1);
    cr_expect_lt(fake_metric("zarya_routing_register_bytes") - before, 2048);
    cr_expect_eq(n_open(), 0);
    fake_calls_forget();
    /* two thousand changes at once are not two thousand calls */
    for (int k = 0; k < 2000; k++)
        change(many[k].name, on_done);
    for (int k = 0; k < 5 && n_open(); k++) {
        for (uint32_t j = 0; j < fake_n_calls; j++)
            if (fake_calls[j].open)
                fake_call_answer(j, 0, fake_calls[j].code == 322 ? "changed=true\n" : "", NULL);
    }
    cr_expect_eq(n_open(), 0);
    cr_expect_leq(fake_n_calls, 4);
    uint64_t biggest = 0; /* more than the journal remembers as an increment: all of them */
    for (uint32_t j = 0; j < fake_n_calls; j++)
        biggest = fake_calls[j].body_len > biggest ? fake_calls[j].body_len : biggest;
    cr_expect_gt(biggest, 3000000);
    cr_expect_eq(dones, 2001);
    fake_calls_forget();
    /* nor is anything lost that the journal had to forget while one name server was slow */
    change(many[0].name, NULL);
    uint32_t slow = OPEN("ns1:9876", 103);
    for (int k = 0; k < 5000; k++)
        change(many[k % 900].name, NULL);
    change(many[15000].name, NULL);
    fake_call_answer(slow, 0, "", NULL);
    slow = OPEN("ns1:9876", 103);
    cr_expect_gt(fake_calls[slow].body_len, 3000000);
    fake_call_answer(slow, 0, "", NULL);
}

/* ---- look-up ------------------------------------------------------------------------------------------------------------- */

static char routes[1024];
static void on_route(void *ctx, zr_status status, const struct zr_route *route)
{
    int at = snprintf(routes, sizeof routes, "%d;", status);
    cr_expect_eq(ctx, routes);
    for (uint32_t i = 0; route && i < route->n_brokers; i++)
        at += sprintf(routes + at, "%.*s/%.*s/%lld/%.*s;", (int)route->brokers[i].cluster.len, route->brokers[i].cluster.ptr, (int)route->brokers[i].name.len,
                      route->brokers[i].name.ptr, (long long)route->brokers[i].id, (int)route->brokers[i].addr.len, route->brokers[i].addr.ptr);
    for (uint32_t i = 0; route && i < route->n_queues; i++)
        at += sprintf(routes + at, "%.*s %d %d %d %d;", (int)route->queues[i].broker.len, route->queues[i].broker.ptr, route->queues[i].read_queues,
                      route->queues[i].write_queues, route->queues[i].perm, route->queues[i].topic_sys_flag);
    if (route && route->order_conf.len)
        sprintf(routes + at, "%.*s", (int)route->order_conf.len, route->order_conf.ptr);
}

Test(remote, lookup)
{
    start("namesrv=ns1:9876;ns2:9876\n");
    registry->lookup(inst, (struct zr_str)ZR_STR("T"), on_route, routes);
    uint32_t i = OPEN("ns1:9876", 105);
    cr_expect_str_eq(fake_calls[i].ext, "topic=T\nacceptStandardJsonOnly=true\n");
    fake_call_fail(i, ZR_ECLOSED);
    fake_call_answer(OPEN("ns2:9876", 105), 0, "",
                     "{\"brokerDatas\":[{\"brokerAddrs\":{\"0\":\"1.1.1.1:1\",1:\"1.1.1.2:1\"},\"brokerName\":\"b\",\"cluster\":\"C\"}],\"filterServerTable\":{},"
                     "\"orderTopicConf\":\"b:4\",\"queueDatas\":[{\"brokerName\":\"b\",\"perm\":6,\"readQueueNums\":4,\"topicSysFlag\":1,\"writeQueueNums\":8}]}");
    cr_expect_str_eq(routes, "0;C/b/0/1.1.1.1:1;C/b/1/1.1.1.2:1;b 4 8 6 1;b:4");
    registry->lookup(inst, (struct zr_str)ZR_STR("T"), on_route, routes);
    fake_call_answer(OPEN("ns1:9876", 105), 17, "", NULL);
    cr_expect_str_eq(routes, "-3;");
    registry->lookup(inst, (struct zr_str)ZR_STR("T"), on_route, routes);
    fake_call_answer(OPEN("ns1:9876", 105), 1, "", NULL);
    fake_call_answer(OPEN("ns2:9876", 105), 0, "", "not json");
    cr_expect_str_eq(routes, "-1;");
    registry->lookup(inst, (struct zr_str)ZR_STR("T"), on_route, routes);
    fake_call_fail(OPEN("ns1:9876", 105), ZR_ECLOSED);
    fake_call_fail(OPEN("ns2:9876", 105), ZR_ETIMEOUT);
    cr_expect_str_eq(routes, "-11;");
    registry->lookup(inst, (struct zr_str)ZR_STR("T"), on_route, routes);
    fake_call_answer(OPEN("ns1:9876", 105), 0, "", "{\"brokerDatas\":{},\"queueDatas\":[1,null]}");
    cr_expect_str_eq(routes, "0; 0 0 0 0; 0 0 0 0;");
}

/* ---- addresses ----------------------------------------------------------------------------------------------------------- */

Test(remote, bad_addresses_are_refused, .fini = NULL)
{
    struct { struct zr_list list; char rest[512]; } settings = { 0 };
    const char *bad[] = { "ns1", "ns1:", ":9876", "ns1:0", "ns1:65536", "a b:1", "ns1:9876;ns2" };
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        struct zr_str item = zl_str(bad[i]);
        settings.list = (struct zr_list){ &item, 1 };
        cr_expect_eq(plugin->check(&fake_host, &settings), ZR_EINVAL, "%s", bad[i]);
    }
    struct zr_str item = zl_str(" ns1:9876 ; [::1]:9876;;10.0.0.1:1 ");
    settings.list = (struct zr_list){ &item, 1 };
    cr_expect_eq(plugin->check(&fake_host, &settings), ZR_OK, "%s", fake_raised);
    start("");
}

struct http { int fd; const char *body; char request[1024]; };
static void *http_run(void *arg)
{
    struct http *http = arg;
    char answer[512];
    int fd = accept(http->fd, NULL, NULL);
    ssize_t n = recv(fd, http->request, sizeof http->request - 1, 0);
    http->request[n > 0 ? n : 0] = 0;
    n = snprintf(answer, sizeof answer, "HTTP/1.0 200 OK\r\nContent-Length: %zu\r\n\r\n%s", strlen(http->body), http->body);
    send(fd, answer, (size_t)n, MSG_NOSIGNAL);
    close(fd);
    return NULL;
}
/* Answers one GET with body while fn runs. */
static void with_http(struct http *http, const char *body, void (*fn)(void *), void *arg)
{
    pthread_t thread;
    http->body = body;
    pthread_create(&thread, NULL, http_run, http);
    fn(arg);
    pthread_join(thread, NULL);
}
static void run_start(void *options) { start(options); }
static void run_advance(void *ms)
{
    fake_advance_ms(*(int64_t *)ms);
    fake_run_jobs();
}

Test(remote, address_server)
{
    struct http http = { .fd = socket(AF_INET, SOCK_STREAM, 0) };
    struct sockaddr_in addr = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof addr;
    char options[128];
    int64_t ms = 120000;
    cr_assert_eq(bind(http.fd, (struct sockaddr *)&addr, sizeof addr), 0);
    cr_assert_eq(listen(http.fd, 4), 0);
    cr_assert_eq(getsockname(http.fd, (struct sockaddr *)&addr, &len), 0);
    snprintf(options, sizeof options, "namesrv_domain=127.0.0.1:%u\n", ntohs(addr.sin_port));
    with_http(&http, " ns1:9876;ns2:9876 \n", run_start, options);
    cr_expect(strstr(http.request, "GET /rocketmq/nsaddr HTTP/1.") == http.request, "%s", http.request);
    registry->changed(inst, NULL, 0, on_done, &dones);
    fake_call_answer(OPEN("ns1:9876", 103), 0, "", NULL);
    fake_call_answer(OPEN("ns2:9876", 103), 0, "", NULL);
    cr_expect_eq(dones, 1);
    fake_calls_forget();
    fake_work_queued = 1; /* heartbeats wait, so that two minutes pass at once */
    with_http(&http, "ns2:9876;ns3:9876", run_advance, &ms);
    fake_run_jobs();
    fake_work_queued = 0;
    uint32_t to3 = 0;
    for (uint32_t i = 0; i < fake_n_calls; i++) {
        cr_expect_str_neq(fake_calls[i].url, fake_calls[i].open ? "ns1:9876" : "");
        if (!fake_calls[i].open)
            continue;
        to3 += strcmp(fake_calls[i].url, "ns3:9876") == 0 && fake_calls[i].code == 103;
        fake_call_answer(i, 0, "changed=false\n", NULL);
    }
    cr_expect_eq(to3, 1);
    cr_expect_eq(fake_metric("zarya_routing_name_servers"), 2);
    close(http.fd);
}
