/* SPDX-License-Identifier: Apache-2.0 */
/* routing-namesrv through its plugin entry: every request code with the bytes that real clients, brokers and tools expect. */
#include <criterion/criterion.h>
#include <libdeflate.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "fake.h"
#include "zl/buf.h"

#define V5 513
#define V4_OLD 393 /* 4.9.0: legacy route form */

static const struct zr_plugin *plugin;
static struct zr_inst *inst;
static const struct zr_requests_v1 *requests;
static const struct zr_registry_v1 *registry;
static const struct zr_hook *hook;
static struct fake_session session_a, session_b;

static void start(const char *options)
{
    inst = fake_make(plugin, options);
    requests = plugin->query(inst, ZR_IF_REQUESTS);
    registry = plugin->query(inst, ZR_IF_REGISTRY);
    const struct zr_hooks_v1 *hooks = plugin->query(inst, ZR_IF_HOOKS);
    cr_assert_eq(hooks->n_hooks, 1);
    hook = hooks->hooks;
    cr_assert_eq(hook->point, ZR_POINT_SESSION_CLOSED);
    cr_assert_null(plugin->query(inst, "zarya.storage/1"));
}
static void stop(void)
{
    fake_unmake(plugin, inst);
    inst = NULL;
}
static void setup(void)
{
    plugin = zarya_plugin_entry_1(0);
    fake_init();
    session_a = session_b = (struct fake_session){ .open = 1 };
    start("");
}
static void teardown(void)
{
    stop();
    cr_expect_eq(session_a.refs, 0, "session references are left");
    cr_expect_eq(session_b.refs, 0);
    fake_end();
}
TestSuite(namesrv, .init = setup, .fini = teardown, .timeout = 60);

static void ask(int32_t code, int32_t version, const char *fields, const char *body)
{
    fake_last.n = 0;
    fake_request(inst, requests, code, version, fields, body, -1, NULL);
}
static void expect(int32_t code, const char *remark, const char *ext, const char *body, int line)
{
    cr_expect_eq(fake_last.n, 1, "line %d", line);
    cr_expect_eq(fake_last.code, code, "line %d: code %d, remark %s", line, fake_last.code, fake_last.remark);
    cr_expect_str_eq(fake_last.remark, remark, "line %d: remark\n%s\nwanted\n%s", line, fake_last.remark, remark);
    cr_expect_str_eq(fake_last.ext, ext, "line %d: ext\n%s\nwanted\n%s", line, fake_last.ext, ext);
    cr_expect_str_eq(fake_last.body, body, "line %d: body\n%s\nwanted\n%s", line, fake_last.body, body);
}
#define EXPECT(code, remark, ext, body) expect(code, remark, ext, body, __LINE__)

/* ---- registrations ------------------------------------------------------------------------------------------------------ */

static const char *topic_json(const char *name, int read, int write, int perm, int flag)
{
    static char text[4][512];
    static int at;
    at = (at + 1) % 4;
    snprintf(text[at], sizeof text[at],
             "\"%s\":{\"attributes\":{},\"order\":false,\"perm\":%d,\"readQueueNums\":%d,\"topicFilterType\":\"SINGLE_TAG\",\"topicName\":\"%s\","
             "\"topicSysFlag\":%d,\"writeQueueNums\":%d}", name, perm, read, name, flag, write);
    return text[at];
}
/* Body as a broker of 5.5.0 sends it. topics: "a,b" of topic_json. */
static char *wrap5(int64_t counter, int64_t stamp, int64_t state, const char *topics)
{
    char *text = malloc(strlen(topics) + 1024);
    sprintf(text,
            "{\"filterServerList\":[],\"topicConfigSerializeWrapper\":{\"dataVersion\":{\"counter\":%lld,\"stateVersion\":%lld,\"timestamp\":%lld},"
            "\"mappingDataVersion\":{\"counter\":0,\"stateVersion\":0,\"timestamp\":1795232592161},\"topicConfigTable\":{%s},"
            "\"topicQueueMappingDetailMap\":{},\"topicQueueMappingInfoMap\":{}}}", (long long)counter, (long long)state, (long long)stamp, topics);
    return text;
}
static const char *who(const char *cluster, const char *broker, const char *addr, int id, const char *more)
{
    static char text[1024];
    snprintf(text, sizeof text, "brokerName=%s\nbrokerAddr=%s\nclusterName=%s\nhaServerAddr=%s9\nbrokerId=%d\n%s", broker, addr, cluster, addr, id, more);
    return text;
}
static void register_as(const char *cluster, const char *broker, const char *addr, int id, const char *more, char *body, struct fake_session *session)
{
    fake_last.n = 0;
    fake_request(inst, requests, 103, V5, who(cluster, broker, addr, id, more), body, -1, session);
    free(body);
}
#define ACTING_FALSE "enableActingMaster=false\ncompressed=false\n"
static void register_a(int64_t counter, const char *topics)
{
    register_as("C", "broker-a", "127.0.0.1:10911", 0, ACTING_FALSE, wrap5(counter, 1695000000000, 0, topics), &session_a);
}
static char *two(const char *a, const char *b)
{
    static char text[2][2048];
    static int at;
    at ^= 1;
    snprintf(text[at], sizeof text[at], "%s,%s", a, b);
    return text[at];
}
static void register_base(void)
{
    register_a(1, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("broker-a", 1, 1, 7, 0)));
    EXPECT(0, "", "", "");
}

#define BROKER_A_LEGACY "{\"brokerAddrs\":{0:\"127.0.0.1:10911\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\",\"enableActingMaster\":false}"
#define BROKER_A_STANDARD "{\"brokerAddrs\":{\"0\":\"127.0.0.1:10911\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\",\"enableActingMaster\":false}"
#define QUEUES_A "{\"brokerName\":\"broker-a\",\"perm\":6,\"readQueueNums\":4,\"topicSysFlag\":0,\"writeQueueNums\":4}"
#define ROUTE(brokers, queues) "{\"brokerDatas\":[" brokers "],\"filterServerTable\":{},\"queueDatas\":[" queues "]}"
#define NO_ROUTE(topic) "No topic route info in name server for the topic: " topic "\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details."

Test(namesrv, route_in_both_forms)
{
    register_base();
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    ask(105, V4_OLD, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_LEGACY, QUEUES_A));
    ask(105, 400, "topic=TopicA\nacceptStandardJsonOnly=true\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    ask(105, 401, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    ask(105, V5, "topic=Nope\n", NULL);
    EXPECT(17, NO_ROUTE("Nope"), "none", "");
    ask(105, V5, "", NULL);
    cr_expect_eq(fake_last.code, 1);
    /* from the cache, and after a change no longer from it */
    int64_t built = fake_metric("zarya_namesrv_route_built_total");
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    cr_expect_eq(fake_metric("zarya_namesrv_route_built_total"), built);
    register_a(2, topic_json("TopicA", 4, 8, 4, 3));
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, "{\"brokerName\":\"broker-a\",\"perm\":4,\"readQueueNums\":4,\"topicSysFlag\":3,\"writeQueueNums\":8}"));
}

Test(namesrv, registration_bodies_of_4_9_and_older)
{
    /* 4.9: no attributes, no stateVersion, no mappings; enableActingMaster absent */
    const char *body49 = "{\"filterServerList\":[],\"topicConfigSerializeWrapper\":{\"dataVersion\":{\"counter\":3,\"timestamp\":5},\"topicConfigTable\":{"
                         "\"T\":{\"order\":false,\"perm\":6,\"readQueueNums\":4,\"topicFilterType\":\"SINGLE_TAG\",\"topicName\":\"T\",\"topicSysFlag\":0,"
                         "\"writeQueueNums\":4},\"U\":{\"topicName\":\"U\"}}}}";
    fake_last.n = 0;
    fake_request(inst, requests, 103, 409, who("C", "broker-a", "127.0.0.1:10911", 0, "compressed=false\n"), body49, -1, &session_a);
    EXPECT(0, "", "", "");
    ask(105, V5, "topic=T\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    ask(105, V5, "topic=U\n", NULL); /* Java's defaults */
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, "{\"brokerName\":\"broker-a\",\"perm\":6,\"readQueueNums\":16,\"topicSysFlag\":0,\"writeQueueNums\":16}"));
    /* below 37: the wrapper alone */
    const char *bare = "{\"dataVersion\":{\"counter\":4,\"timestamp\":5},\"topicConfigTable\":{\"Old\":{\"perm\":6,\"readQueueNums\":4,\"writeQueueNums\":4}}}";
    fake_last.n = 0;
    fake_request(inst, requests, 103, 36, who("C", "broker-a", "127.0.0.1:10911", 0, ""), bare, -1, &session_a);
    EXPECT(0, "", "", "");
    ask(105, V5, "topic=Old\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    /* no body at all registers a broker without topics */
    fake_last.n = 0;
    fake_request(inst, requests, 103, V5, who("C", "broker-b", "127.0.0.1:10921", 0, ""), NULL, 0, &session_b);
    EXPECT(0, "", "", "");
}

static uint64_t deflated(const char *version_json, const char *const *records, int32_t n, const char *filters, int32_t n_mappings, const char *const *mappings,
                         int with_mappings, uint8_t *to, uint64_t cap)
{
    struct zl_buf b;
    zl_buf_init(&b, 1 << 20);
    zl_buf_be32(&b, (uint32_t)strlen(version_json));
    zl_buf_cstr(&b, version_json);
    zl_buf_be32(&b, (uint32_t)n);
    for (int32_t i = 0; i < n; i++) {
        zl_buf_be32(&b, (uint32_t)strlen(records[i]));
        zl_buf_cstr(&b, records[i]);
    }
    zl_buf_be32(&b, (uint32_t)strlen(filters));
    zl_buf_cstr(&b, filters);
    if (with_mappings) {
        zl_buf_be32(&b, (uint32_t)n_mappings);
        for (int32_t i = 0; i < n_mappings; i++) {
            zl_buf_be32(&b, (uint32_t)strlen(mappings[i]));
            zl_buf_cstr(&b, mappings[i]);
        }
    }
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(9);
    uint64_t len = libdeflate_zlib_compress(c, b.ptr, b.len, to, cap);
    libdeflate_free_compressor(c);
    zl_buf_free(&b);
    cr_assert_gt(len, 0);
    return len;
}

Test(namesrv, deflated_bodies_are_recognised_whatever_the_header_says)
{
    uint8_t body[4096];
    const char *records[] = { "TopicA 4 4 6 SINGLE_TAG {}", "TopicB 2 3 6 SINGLE_TAG", "broken", "TopicC 1 x 6 SINGLE_TAG" };
    uint64_t len = deflated("{\"counter\":7,\"stateVersion\":0,\"timestamp\":9}", records, 4, "[\"1.2.3.4:5\"]", 0, NULL, 1, body, sizeof body);
    cr_assert_eq(body[0], 0x78);
    fake_last.n = 0;
    fake_request(inst, requests, 103, V5, who("C", "broker-a", "127.0.0.1:10911", 0, ACTING_FALSE), body, (int64_t)len, &session_a);
    EXPECT(0, "", "", "");
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", "{\"brokerDatas\":[" BROKER_A_STANDARD "],\"filterServerTable\":{\"127.0.0.1:10911\":[\"1.2.3.4:5\"]},\"queueDatas\":[" QUEUES_A "]}");
    ask(105, V5, "topic=TopicC\n", NULL);
    cr_expect_eq(fake_last.code, 17);
    ask(322, V5, "brokerName=broker-a\nbrokerAddr=127.0.0.1:10911\nclusterName=C\nbrokerId=0\n", "{\"counter\":7,\"stateVersion\":0,\"timestamp\":9}");
    EXPECT(0, "", "changed=false\n", "{\"counter\":7,\"stateVersion\":0,\"timestamp\":9}");
    /* 4.9 writes no mapping section and says compressed=true */
    len = deflated("{\"counter\":8,\"timestamp\":9}", records, 2, "[]", 0, NULL, 0, body, sizeof body);
    fake_last.n = 0;
    fake_request(inst, requests, 103, 409, who("C", "broker-a", "127.0.0.1:10911", 0, "compressed=true\n"), body, (int64_t)len, &session_a);
    EXPECT(0, "", "", "");
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A)); /* its filter servers are gone */
    /* damage of every kind: refused, nothing changes */
    for (uint64_t cut = 0; cut < len; cut++) {
        fake_last.n = 0;
        fake_request(inst, requests, 103, V5, who("C", "broker-x", "127.0.0.1:1", 0, ""), body, (int64_t)cut, &session_b);
        cr_expect_eq(fake_last.code, cut == 0 ? 0 : 1, "cut at %llu", (unsigned long long)cut);
        if (cut == 0)
            ask(104, V5, who("C", "broker-x", "127.0.0.1:1", 0, ""), NULL);
    }
    ask(901, V5, "clusterName=C\nbrokerName=broker-x\n", NULL);
    EXPECT(0, "", "none", "{\"brokerMemberGroup\":{\"brokerAddrs\":{},\"brokerName\":\"broker-x\",\"cluster\":\"C\"}}");
}

Test(namesrv, hostile_deflated_bodies)
{
    /* counts and lengths that lie */
    const uint32_t lies[] = { 0xFFFFFFFFu, 0x7FFFFFFFu, 1000000 };
    for (int i = 0; i < 3; i++) {
        for (int where = 0; where < 3; where++) {
            struct zl_buf b;
            uint8_t body[512];
            zl_buf_init(&b, 4096);
            zl_buf_be32(&b, where == 0 ? lies[i] : 2);
            zl_buf_cstr(&b, "{}");
            zl_buf_be32(&b, where == 1 ? lies[i] : 0);
            zl_buf_be32(&b, where == 2 ? lies[i] : 2);
            zl_buf_cstr(&b, "[]");
            zl_buf_be32(&b, 0);
            struct libdeflate_compressor *c = libdeflate_alloc_compressor(6);
            uint64_t len = libdeflate_zlib_compress(c, b.ptr, b.len, body, sizeof body);
            libdeflate_free_compressor(c);
            zl_buf_free(&b);
            fake_last.n = 0;
            fake_request(inst, requests, 103, V5, who("C", "broker-a", "127.0.0.1:10911", 0, ""), body, (int64_t)len, &session_a);
            cr_expect_eq(fake_last.code, 1, "lie %d at %d", i, where);
        }
    }
    ask(106, V5, "", NULL);
    EXPECT(0, "", "none", "{\"brokerAddrTable\":{},\"clusterAddrTable\":{}}");
}

Test(namesrv, checks_of_a_registration)
{
    char *body = wrap5(1, 1, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("TopicB", 4, 4, 6, 0)));
    char more[128];
    uint32_t crc = zl_crc32(0, body, strlen(body)) & 0x7FFFFFFFu;
    snprintf(more, sizeof more, "bodyCrc32=%u\n", crc ^ 1);
    register_as("C", "broker-a", "127.0.0.1:10911", 0, more, strdup(body), &session_a);
    EXPECT(1, "crc32 not match", "none", "");
    snprintf(more, sizeof more, "bodyCrc32=%u\n", crc);
    register_as("C", "broker-a", "127.0.0.1:10911", 0, more, body, &session_a);
    EXPECT(0, "", "", "");
    /* a single topic cannot be a broker's first word */
    register_as("C", "broker-b", "127.0.0.1:10921", 0, "", wrap5(1, 1, 0, topic_json("X", 4, 4, 6, 0)), &session_b);
    EXPECT(1, "register broker failed", "none", "");
    ask(106, V5, "", NULL);
    EXPECT(0, "", "none", "{\"brokerAddrTable\":{\"broker-a\":" BROKER_A_LEGACY "},\"clusterAddrTable\":{\"C\":[\"broker-a\"]}}");
    /* missing and malformed fields */
    ask(103, V5, "brokerName=b\nclusterName=C\nbrokerId=0\n", "{}");
    cr_expect_eq(fake_last.code, 1);
    cr_expect(strstr(fake_last.remark, "brokerAddr") != NULL);
    ask(103, V5, "brokerName=b\nclusterName=C\nbrokerAddr=1:1\n", "{}");
    cr_expect_eq(fake_last.code, 1);
    ask(103, V5, "brokerName=b\nclusterName=C\nbrokerAddr=1:1\nbrokerId=-1\n", "{}");
    cr_expect_eq(fake_last.code, 1);
    ask(103, V5, "brokerName=b\nclusterName=C\nbrokerAddr=1:1\nbrokerId=0\n", "[1]");
    cr_expect_eq(fake_last.code, 1);
    ask(103, V5, "brokerName=b\nclusterName=C\nbrokerAddr=1:1\nbrokerId=0\n", "{\"topicConfigSerializeWrapper\":");
    cr_expect_eq(fake_last.code, 1);
}

Test(namesrv, an_increment_keeps_the_others)
{
    register_base();
    register_a(2, topic_json("TopicNew", 8, 8, 6, 0));
    EXPECT(0, "", "", "");
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    ask(105, V5, "topic=TopicNew\n", NULL);
    cr_expect_eq(fake_last.code, 0);
    /* an older one, overtaken on the same connection, changes nothing that is there */
    register_a(1, two(topic_json("TopicNew", 1, 1, 2, 0), topic_json("broker-a", 1, 1, 7, 0)));
    ask(105, V5, "topic=TopicNew\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, "{\"brokerName\":\"broker-a\",\"perm\":6,\"readQueueNums\":8,\"topicSysFlag\":0,\"writeQueueNums\":8}"));
    ask(322, V5, who("C", "broker-a", "127.0.0.1:10911", 0, ""), "{\"counter\":2,\"stateVersion\":0,\"timestamp\":1695000000000}");
    EXPECT(0, "", "changed=false\n", "{\"counter\":2,\"stateVersion\":0,\"timestamp\":1695000000000}");
}

Test(namesrv, same_version_changes_nothing_but_adds_what_is_missing)
{
    register_base();
    register_a(1, two(topic_json("TopicA", 9, 9, 6, 0), topic_json("TopicB", 4, 4, 6, 0)));
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    ask(105, V5, "topic=TopicB\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
}

Test(namesrv, master_and_slave)
{
    register_base();
    register_as("C", "broker-a", "127.0.0.1:10921", 1, ACTING_FALSE, wrap5(1, 1695000000000, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("SlaveOnly", 4, 4, 6, 0))),
                &session_b);
    EXPECT(0, "", "haServerAddr=127.0.0.1:109119\nmasterAddr=127.0.0.1:10911\n", "");
    ask(105, V5, "topic=SlaveOnly\n", NULL); /* a slave's topics do not count */
    cr_expect_eq(fake_last.code, 17);
    ask(105, V4_OLD, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE("{\"brokerAddrs\":{0:\"127.0.0.1:10911\",1:\"127.0.0.1:10921\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\",\"enableActingMaster\":false}", QUEUES_A));
    ask(901, V5, "clusterName=C\nbrokerName=broker-a\n", NULL);
    EXPECT(0, "", "none", "{\"brokerMemberGroup\":{\"brokerAddrs\":{0:\"127.0.0.1:10911\",1:\"127.0.0.1:10921\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\"}}");
    /* the master goes; the slave alone is left, its topics stay (and stay writable: no acting master) */
    ask(104, V5, who("C", "broker-a", "127.0.0.1:10911", 0, ""), NULL);
    EXPECT(0, "", "none", "");
    ask(105, V4_OLD, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE("{\"brokerAddrs\":{1:\"127.0.0.1:10921\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\",\"enableActingMaster\":false}", QUEUES_A));
    /* the slave becomes master: its old id goes */
    register_as("C", "broker-a", "127.0.0.1:10921", 0, ACTING_FALSE, wrap5(1, 1695000000000, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("TopicB", 4, 4, 6, 0))), &session_b);
    ask(901, V5, "clusterName=C\nbrokerName=broker-a\n", NULL);
    EXPECT(0, "", "none", "{\"brokerMemberGroup\":{\"brokerAddrs\":{0:\"127.0.0.1:10921\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\"}}");
}

Test(namesrv, a_newer_state_holds_its_id)
{
    register_as("C", "broker-a", "127.0.0.1:10911", 0, ACTING_FALSE, wrap5(1, 1, 5, two(topic_json("T", 4, 4, 6, 0), topic_json("U", 4, 4, 6, 0))), &session_a);
    register_as("C", "broker-a", "127.0.0.1:20911", 0, ACTING_FALSE, wrap5(9, 9, 4, two(topic_json("T", 1, 1, 6, 0), topic_json("V", 1, 1, 6, 0))), &session_b);
    EXPECT(0, "", "", "");
    ask(901, V5, "clusterName=C\nbrokerName=broker-a\n", NULL);
    EXPECT(0, "", "none", "{\"brokerMemberGroup\":{\"brokerAddrs\":{0:\"127.0.0.1:10911\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\"}}");
    register_as("C", "broker-a", "127.0.0.1:20911", 0, ACTING_FALSE, wrap5(9, 9, 6, two(topic_json("T", 1, 1, 6, 0), topic_json("V", 1, 1, 6, 0))), &session_b);
    ask(901, V5, "clusterName=C\nbrokerName=broker-a\n", NULL);
    EXPECT(0, "", "none", "{\"brokerMemberGroup\":{\"brokerAddrs\":{0:\"127.0.0.1:20911\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\"}}");
}

Test(namesrv, acting_master)
{
    stop();
    start("support_acting_master=true\nnotify_min_broker_id=true\n");
    char *topics = two(topic_json("TopicA", 4, 4, 6, 0), topic_json("TopicB", 4, 4, 6, 0));
    register_as("C", "broker-a", "127.0.0.1:10911", 0, "enableActingMaster=true\n", wrap5(1, 1, 0, topics), &session_a);
    register_as("C", "broker-a", "127.0.0.1:10921", 1, "enableActingMaster=true\n", wrap5(1, 1, 0, topics), &session_b);
    cr_expect_eq(fake_n_calls, 0);
    ask(104, V5, who("C", "broker-a", "127.0.0.1:10911", 0, ""), NULL);
    /* the slave is shown as master, and nobody may write */
    ask(105, V4_OLD, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none",
           ROUTE("{\"brokerAddrs\":{0:\"127.0.0.1:10921\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\",\"enableActingMaster\":true}",
                 "{\"brokerName\":\"broker-a\",\"perm\":4,\"readQueueNums\":4,\"topicSysFlag\":0,\"writeQueueNums\":4}"));
    cr_assert_eq(fake_n_calls, 1);
    cr_expect_eq(fake_calls[0].code, 905);
    cr_expect(fake_calls[0].tell);
    cr_expect_str_eq(fake_calls[0].url, "127.0.0.1:10921");
    cr_expect_str_eq(fake_calls[0].ext, "minBrokerId=1\nminBrokerAddr=127.0.0.1:10921\nofflineBrokerAddr=127.0.0.1:10911\n");
    /* the cluster's answer and the member group stay as they are */
    ask(901, V5, "clusterName=C\nbrokerName=broker-a\n", NULL);
    EXPECT(0, "", "none", "{\"brokerMemberGroup\":{\"brokerAddrs\":{1:\"127.0.0.1:10921\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\"}}");
    /* the prime slave's own registration brings no W back */
    register_as("C", "broker-a", "127.0.0.1:10921", 1, "enableActingMaster=true\n", wrap5(2, 2, 0, topics), &session_b);
    ask(105, V4_OLD, "topic=TopicB\n", NULL);
    cr_expect(strstr(fake_last.body, "\"perm\":4") != NULL);
    /* the master is back: the others hear of it */
    register_as("C", "broker-a", "127.0.0.1:10911", 0, "enableActingMaster=true\n", wrap5(3, 3, 0, topics), &session_a);
    cr_assert_eq(fake_n_calls, 2);
    cr_expect_str_eq(fake_calls[1].url, "127.0.0.1:10921");
    cr_expect_str_eq(fake_calls[1].ext, "minBrokerId=0\nminBrokerAddr=127.0.0.1:10911\nhaBrokerAddr=127.0.0.1:109119\n");
    ask(105, V4_OLD, "topic=TopicA\n", NULL);
    cr_expect(strstr(fake_last.body, "\"perm\":6") != NULL);
}

Test(namesrv, zones)
{
    register_as("C", "broker-a", "127.0.0.1:10911", 0, "__ZONE_NAME=East\n", wrap5(1, 1, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("X", 4, 4, 6, 0))), &session_a);
    register_as("C", "broker-b", "127.0.0.1:10921", 0, "__ZONE_NAME=west\n", wrap5(1, 1, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("Y", 4, 4, 6, 0))), &session_b);
    /* filtered: legacy form whatever was asked for */
    ask(105, V5, "topic=TopicA\n__ZONE_MODE=true\n__ZONE_NAME=eAST\n", NULL);
    EXPECT(0, "", "none",
           ROUTE("{\"brokerAddrs\":{0:\"127.0.0.1:10911\"},\"brokerName\":\"broker-a\",\"cluster\":\"C\",\"enableActingMaster\":false,\"zoneName\":\"East\"}", QUEUES_A));
    ask(105, V5, "topic=TopicA\n__ZONE_MODE=true\n__ZONE_NAME=north\n", NULL);
    EXPECT(0, "", "none", ROUTE("", ""));
    ask(105, V5, "topic=TopicA\n__ZONE_MODE=false\n__ZONE_NAME=east\n", NULL);
    cr_expect(strstr(fake_last.body, "broker-b") && strstr(fake_last.body, "{\"0\":"));
    /* a broker without a master is in every zone */
    register_as("C", "broker-s", "127.0.0.1:10931", 2, "__ZONE_NAME=west\nenableActingMaster=false\n", wrap5(1, 1, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("Y", 4, 4, 6, 0))), &session_b);
    ask(105, V5, "topic=TopicA\n__ZONE_MODE=true\n__ZONE_NAME=east\n", NULL);
    cr_expect(strstr(fake_last.body, "broker-s") && !strstr(fake_last.body, "broker-b"));
}

Test(namesrv, cluster_info_and_lists)
{
    register_base();
    register_as("D", "broker-d", "127.0.0.1:10921", 0, "", wrap5(1, 1, 0, two(topic_json("Unit", 4, 4, 6, 1), topic_json("UnitSub", 4, 4, 6, 2))), &session_b);
    ask(106, V5, "", NULL);
    EXPECT(0, "", "none",
           "{\"brokerAddrTable\":{\"broker-a\":" BROKER_A_LEGACY ",\"broker-d\":{\"brokerAddrs\":{0:\"127.0.0.1:10921\"},\"brokerName\":\"broker-d\",\"cluster\":\"D\","
           "\"enableActingMaster\":false}},\"clusterAddrTable\":{\"C\":[\"broker-a\"],\"D\":[\"broker-d\"]}}");
    ask(206, V5, "", NULL);
    cr_expect(strstr(fake_last.body, "{\"topicList\":[") == fake_last.body);
    const char *all[] = { "\"TopicA\"", "\"broker-a\"", "\"Unit\"", "\"UnitSub\"" };
    for (int i = 0; i < 4; i++)
        cr_expect(strstr(fake_last.body, all[i]), "%s in %s", all[i], fake_last.body);
    ask(304, V5, "", NULL);
    EXPECT(0, "", "none", "{\"brokerAddr\":\"127.0.0.1:10911\",\"topicList\":[\"C\",\"broker-a\",\"D\",\"broker-d\"]}");
    ask(311, V5, "", NULL);
    EXPECT(0, "", "none", "{\"topicList\":[\"Unit\"]}");
    ask(312, V5, "", NULL);
    EXPECT(0, "", "none", "{\"topicList\":[\"UnitSub\"]}");
    ask(313, V5, "", NULL);
    EXPECT(0, "", "none", "{\"topicList\":[\"UnitSub\"]}");
    ask(224, V5, "cluster=Nope\n", NULL);
    EXPECT(0, "", "none", "{\"topicList\":[]}");
    ask(216, V5, "topic=broker-a\n", NULL);
    ask(224, V5, "cluster=C\n", NULL);
    EXPECT(0, "", "none", "{\"topicList\":[\"TopicA\"]}");
    ask(318, V5, "", "enableTopicList=false\nenableAllTopicList=FALSE\n");
    EXPECT(0, "", "none", "");
    const int off[] = { 206, 311, 312, 313 };
    for (int i = 0; i < 4; i++) {
        ask(off[i], V5, "", NULL);
        EXPECT(1, "disable", "none", "");
    }
    ask(224, V5, "cluster=C\n", NULL);
    EXPECT(1, "disable", "none", "");
}

Test(namesrv, empty_name_server)
{
    ask(106, V5, "", NULL);
    EXPECT(0, "", "none", "{\"brokerAddrTable\":{},\"clusterAddrTable\":{}}");
    ask(206, V5, "", NULL);
    EXPECT(0, "", "none", "{\"topicList\":[]}");
    ask(304, V5, "", NULL);
    EXPECT(0, "", "none", "{\"topicList\":[]}");
    ask(322, V5, who("C", "b", "1:1", 0, ""), "{\"counter\":1,\"stateVersion\":0,\"timestamp\":2}");
    EXPECT(0, "", "changed=true\n", "");
    ask(904, V5, "clusterName=C\nbrokerAddr=1:1\nbrokerName=b\n", NULL);
    EXPECT(0, "", "none", "");
    ask(104, V5, who("C", "b", "1:1", 0, ""), NULL);
    EXPECT(0, "", "none", "");
    ask(205, V5, "brokerName=b\n", NULL);
    EXPECT(0, "", "wipeTopicCount=0\n", "");
}

Test(namesrv, data_version)
{
    const char *me = "brokerName=broker-a\nbrokerAddr=127.0.0.1:10911\nclusterName=C\nbrokerId=0\n";
    register_base();
    ask(322, V5, me, "{\"counter\":1,\"stateVersion\":0,\"timestamp\":1695000000000}");
    EXPECT(0, "", "changed=false\n", "{\"counter\":1,\"stateVersion\":0,\"timestamp\":1695000000000}");
    ask(322, V5, me, "{\"counter\":2,\"stateVersion\":0,\"timestamp\":1695000000000}");
    EXPECT(0, "", "changed=true\n", "{\"counter\":1,\"stateVersion\":0,\"timestamp\":1695000000000}");
    ask(322, V5, me, "{\"counter\":1,\"stateVersion\":1,\"timestamp\":1695000000000}");
    cr_expect_str_eq(fake_last.ext, "changed=true\n");
    ask(322, V5, me, NULL); /* no version: not ours, but a sign of life */
    EXPECT(0, "", "changed=true\n", "{\"counter\":1,\"stateVersion\":0,\"timestamp\":1695000000000}");
    ask(322, V5, me, "nonsense");
    cr_expect_eq(fake_last.code, 1);
}

Test(namesrv, write_permission)
{
    register_base();
    ask(205, V5, "brokerName=broker-a\n", NULL);
    EXPECT(0, "", "wipeTopicCount=2\n", "");
    ask(105, V5, "topic=TopicA\n", NULL);
    cr_expect(strstr(fake_last.body, "\"perm\":4"));
    ask(105, V5, "topic=broker-a\n", NULL);
    cr_expect(strstr(fake_last.body, "\"perm\":5"));
    register_a(1, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("broker-a", 1, 1, 7, 0))); /* same version: stays wiped */
    ask(105, V5, "topic=TopicA\n", NULL);
    cr_expect(strstr(fake_last.body, "\"perm\":4"));
    ask(327, V5, "brokerName=broker-a\n", NULL);
    EXPECT(0, "", "addTopicCount=2\n", "");
    ask(105, V5, "topic=broker-a\n", NULL); /* set to 6, not or-ed */
    cr_expect(strstr(fake_last.body, "\"perm\":6"));
    ask(205, V5, "", NULL);
    cr_expect_eq(fake_last.code, 1);
}

Test(namesrv, delete_topic)
{
    register_base();
    register_as("D", "broker-d", "127.0.0.1:10921", 0, "", wrap5(1, 1, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("TopicD", 4, 4, 6, 0))), &session_b);
    ask(216, V5, "topic=TopicA\nclusterName=D\n", NULL);
    EXPECT(0, "", "none", "");
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    ask(216, V5, "topic=TopicA\nclusterName=Nope\n", NULL);
    ask(105, V5, "topic=TopicA\n", NULL);
    cr_expect_eq(fake_last.code, 0);
    ask(216, V5, "topic=TopicA\n", NULL);
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(17, NO_ROUTE("TopicA"), "none", "");
    ask(216, V5, "topic=Unknown\n", NULL);
    EXPECT(0, "", "none", "");
}

static int32_t route_code(const char *topic)
{
    char fields[128];
    snprintf(fields, sizeof fields, "topic=%s\n", topic);
    ask(105, V5, fields, NULL);
    return fake_last.code;
}

Test(namesrv, a_deleted_topic_is_not_brought_back_by_a_registration_written_before)
{
    char full[2048];
    snprintf(full, sizeof full, "%s,%s,%s", topic_json("TopicA", 4, 4, 6, 0), topic_json("Doomed", 4, 4, 6, 0), topic_json("broker-a", 1, 1, 7, 0));
    register_a(10, full);
    ask(216, V5, "topic=Doomed\n", NULL);
    cr_expect_eq(route_code("Doomed"), 17);
    register_a(10, full); /* the same words again: written before the deletion */
    cr_expect_eq(route_code("Doomed"), 17);
    register_a(11, full); /* newer, but full and young: it may have been written before, too */
    cr_expect_eq(route_code("Doomed"), 17);
    ask(206, V5, "", NULL);
    cr_expect_null(strstr(fake_last.body, "Doomed"));
    fake_advance_ms(31000); /* a full registration that says so now means it */
    register_a(12, full);
    cr_expect_eq(route_code("Doomed"), 0);
}

Test(namesrv, a_deleted_topic_that_is_made_again_comes_back_at_once)
{
    char full[2048];
    snprintf(full, sizeof full, "%s,%s,%s", topic_json("TopicA", 4, 4, 6, 0), topic_json("Phoenix", 4, 4, 6, 0), topic_json("broker-a", 1, 1, 7, 0));
    register_a(10, full);
    ask(216, V5, "topic=Phoenix\n", NULL);
    register_a(12, topic_json("Phoenix", 4, 4, 6, 0));
    cr_expect_eq(route_code("Phoenix"), 0);
    /* and the memory of the deletion ends by itself: then the broker is right again, as with Apache */
    ask(216, V5, "topic=Phoenix\n", NULL);
    register_a(12, full);
    cr_expect_eq(route_code("Phoenix"), 17);
    fake_advance_ms(61000);
    register_a(12, full);
    cr_expect_eq(route_code("Phoenix"), 0);
}

Test(namesrv, register_topic)
{
    register_base();
    ask(217, V5, "topic=New\n", "{\"queueDatas\":[{\"brokerName\":\"broker-a\",\"readQueueNums\":4,\"writeQueueNums\":4,\"perm\":6,\"topicSysFlag\":0}]}");
    EXPECT(0, "", "none", "");
    ask(105, V5, "topic=New\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    /* an unknown broker: a new topic is not made at all, an old one up to there */
    ask(217, V5, "topic=Other\n", "{\"queueDatas\":[{\"brokerName\":\"broker-a\",\"perm\":6},{\"brokerName\":\"nope\",\"perm\":6}]}");
    EXPECT(0, "", "none", "");
    cr_expect_eq(route_code("Other"), 17);
    ask(217, V5, "topic=New\n", "{\"queueDatas\":[{\"brokerName\":\"broker-a\",\"perm\":2},{\"brokerName\":\"nope\",\"perm\":6}]}");
    ask(105, V5, "topic=New\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, "{\"brokerName\":\"broker-a\",\"perm\":2,\"readQueueNums\":0,\"topicSysFlag\":0,\"writeQueueNums\":0}"));
    ask(217, V5, "topic=X\n", NULL);
    EXPECT(0, "", "none", "");
    ask(217, V5, "topic=X\n", "[[[");
    cr_expect_eq(fake_last.code, 1);
}

Test(namesrv, static_topics)
{
    char *body = wrap5(1, 1, 0, two(topic_json("StaticT", 2, 2, 6, 0), topic_json("X", 4, 4, 6, 0)));
    char *cut = strstr(body, "\"topicQueueMappingInfoMap\":{}");
    char *with = malloc(strlen(body) + 512);
    sprintf(with, "%.*s\"topicQueueMappingInfoMap\":{\"StaticT\":{\"bname\":\"broker-a\",\"currIdMap\":{0:0,1:1},\"dirty\":false,\"epoch\":1695,\"scope\":\"__global__\","
            "\"topic\":\"StaticT\",\"totalQueues\":2}}}}", (int)(cut - body), body);
    free(body);
    register_as("C", "broker-a", "127.0.0.1:10911", 0, ACTING_FALSE, with, &session_a);
    ask(105, V4_OLD, "topic=StaticT\n", NULL);
    const char *legacy = "\"topicQueueMappingByBroker\":{\"broker-a\":{\"bname\":\"broker-a\",\"currIdMap\":{0:0,1:1},\"dirty\":false,\"epoch\":1695,\"scope\":\"__global__\","
                         "\"topic\":\"StaticT\",\"totalQueues\":2}}}";
    cr_expect(strstr(fake_last.body, legacy), "%s", fake_last.body);
    ask(105, V5, "topic=StaticT\n", NULL);
    cr_expect(strstr(fake_last.body, "\"currIdMap\":{\"0\":0,\"1\":1}"), "%s", fake_last.body);
}

Test(namesrv, kv_configuration)
{
    ask(101, V5, "namespace=N\nkey=K\n", NULL);
    EXPECT(22, "No config item, Namespace: N Key: K", "none", "");
    ask(219, V5, "namespace=N\n", NULL);
    EXPECT(22, "No config item, Namespace: N", "none", "");
    ask(100, V5, "key=K\nvalue=V\n", NULL);
    EXPECT(1, "namespace or key is null", "none", "");
    ask(100, V5, "namespace=N\nkey=K\nvalue=V 1\n", NULL);
    EXPECT(0, "", "none", "");
    cr_assert_not_null(fake_doc("namesrv/kvConfig.json"));
    cr_expect_str_eq(fake_doc("namesrv/kvConfig.json")->text, "{\"configTable\":{\"N\":{\"K\":\"V 1\"}}}");
    ask(101, V5, "namespace=N\nkey=K\n", NULL);
    EXPECT(0, "", "value=V 1\n", "");
    ask(219, V5, "namespace=N\n", NULL);
    EXPECT(0, "", "none", "{\"table\":{\"K\":\"V 1\"}}");
    /* kept over a restart */
    stop();
    start("");
    ask(101, V5, "namespace=N\nkey=K\n", NULL);
    EXPECT(0, "", "value=V 1\n", "");
    ask(100, V5, "namespace=N\nkey=K\nvalue=W\n", NULL);
    ask(101, V5, "namespace=N\nkey=K\n", NULL);
    EXPECT(0, "", "value=W\n", "");
    ask(102, V5, "namespace=N\nkey=K\n", NULL);
    EXPECT(0, "", "none", "");
    uint32_t writes = fake_doc("namesrv/kvConfig.json")->writes;
    ask(102, V5, "namespace=N\nkey=K\n", NULL); /* missing: 0, and nothing to write */
    EXPECT(0, "", "none", "");
    cr_expect_eq(fake_doc("namesrv/kvConfig.json")->writes, writes);
    ask(219, V5, "namespace=N\n", NULL);
    EXPECT(0, "", "none", "{\"table\":{}}");
    /* a disk that fails is not answered with success, and the next change tries again */
    fake_write_fails = 1;
    ask(100, V5, "namespace=N\nkey=K\nvalue=X\n", NULL);
    EXPECT(1, "KV configuration: it could not be stored", "none", "");
    fake_write_fails = 2;
    ask(100, V5, "namespace=N\nkey=K\nvalue=X\n", NULL);
    EXPECT(1, "KV configuration: the name server's disk is full, it could not be stored", "none", "");
    fake_write_fails = 0;
    ask(100, V5, "namespace=N\nkey=L\nvalue=Y\n", NULL);
    EXPECT(0, "", "none", "");
    cr_expect(strstr(fake_doc("namesrv/kvConfig.json")->text, "\"K\":\"X\""));
}

Test(namesrv, kv_configuration_that_is_damaged_stops_the_start)
{
    stop();
    fake_doc_put("namesrv/kvConfig.json", "{\"configTable\":[]}");
    struct zr_inst *bad = NULL;
    start("kv_path=namesrv/other.json\n"); /* another document: fine */
    stop();
    void *settings = calloc(1, plugin->settings_size);
    for (uint32_t i = 0; i < plugin->n_options; i++) {
        struct zr_str path = ZR_STR("namesrv/kvConfig.json"), conf = ZR_STR("namesrv/namesrv.properties");
        if (strcmp(plugin->options[i].name, "kv_path") == 0)
            memcpy((char *)settings + plugin->options[i].offset, &path, sizeof path);
        if (strcmp(plugin->options[i].name, "config_path") == 0)
            memcpy((char *)settings + plugin->options[i].offset, &conf, sizeof conf);
    }
    cr_assert_eq(plugin->create(&fake_host, settings, &bad), ZR_OK);
    cr_expect_eq(plugin->warm(bad), ZR_ECORRUPT);
    cr_expect(strstr(fake_raised, "kv_path"), "%s", fake_raised);
    plugin->destroy(bad);
    free(settings);
    fake_doc_put("namesrv/kvConfig.json", "{\"configTable\":{}}");
    start("");
}

Test(namesrv, kv_configuration_of_apaches_elsewhere_is_taken_over)
{
    char path[] = "/tmp/zarya-kv-XXXXXX", options[128];
    int fd = mkstemp(path);
    const char text[] = "{\"configTable\":{\"NS\":{\"K\":\"V\"}}}";
    cr_assert_eq(write(fd, text, sizeof text - 1), (ssize_t)sizeof text - 1);
    close(fd);
    stop();
    snprintf(options, sizeof options, "kv_path=%s\n", path);
    start(options);
    ask(101, V5, "namespace=NS\nkey=K\n", NULL);
    EXPECT(0, "", "value=V\n", "");
    ask(100, V5, "namespace=NS\nkey=L\nvalue=W\n", NULL);
    struct fake_doc *doc = fake_doc(strrchr(path, '/') + 1); /* from now on below the data directory */
    cr_assert_not_null(doc);
    cr_expect(strstr(doc->text, "\"K\":\"V\"") && strstr(doc->text, "\"L\":\"W\""));
    unlink(path);
}

Test(namesrv, order_configuration)
{
    ask(100, V5, "namespace=ORDER_TOPIC_CONFIG\nkey=TopicA\nvalue=broker-a:4;broker-b:4\n", NULL);
    register_a(1, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("broker-a", 1, 1, 7, 0)));
    EXPECT(0, "", "", "{\"table\":{\"TopicA\":\"broker-a:4;broker-b:4\"}}");
    ask(105, V5, "topic=TopicA\n", NULL); /* off by default */
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    ask(318, V5, "", "orderMessageEnable=true\nreturnOrderTopicConfigToBroker=false\n");
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", "{\"brokerDatas\":[" BROKER_A_STANDARD "],\"filterServerTable\":{},\"orderTopicConf\":\"broker-a:4;broker-b:4\",\"queueDatas\":[" QUEUES_A "]}");
    ask(100, V5, "namespace=ORDER_TOPIC_CONFIG\nkey=TopicA\nvalue=broker-a:8\n", NULL);
    ask(105, V5, "topic=TopicA\n", NULL);
    cr_expect(strstr(fake_last.body, "\"orderTopicConf\":\"broker-a:8\""), "the cached answer must not live on: %s", fake_last.body);
    register_a(2, topic_json("TopicA", 4, 4, 6, 0));
    EXPECT(0, "", "", "");
}

Test(namesrv, settings_over_the_wire)
{
    const char *refused[] = { "kvConfigPath=/etc/passwd", "configStorePath=/tmp/x", "rocketmqHome=/", "configBlackList=", "listenPort=1", "bindAddress=0.0.0.0",
                              "orderMessageEnable=true\nkvConfigPath=/x", "kvConfig\\u0050ath=/x", "serverWorkerThreads=1000000" };
    for (uint32_t i = 0; i < sizeof refused / sizeof *refused; i++) {
        ask(318, V5, "", refused[i]);
        EXPECT(16, "Can not update config in black list.", "none", "");
    }
    cr_expect_null(fake_doc("namesrv/namesrv.properties"));
    ask(318, V5, "", "someKeyOfTheFuture=1\n");
    EXPECT(0, "", "none", "");
    ask(318, V5, "", "waitSecondsForService=abc\n");
    cr_expect_eq(fake_last.code, 1);
    ask(318, V5, "", "bad=\\u00zz\n");
    EXPECT(1, "string2Properties error", "none", "");
    ask(318, V5, "", "needWaitForService=true\nwaitSecondsForService = 60\n");
    EXPECT(0, "", "none", "");
    const char *all = "configBlackList=configBlackList;configStorePath;kvConfigPath\nconfigStorePath=/data/namesrv/namesrv.properties\n"
                      "deleteTopicWithBrokerRegistration=false\nenableAllTopicList=true\nenableTopicList=true\nkvConfigPath=/data/namesrv/kvConfig.json\n"
                      "needWaitForService=true\nnotifyMinBrokerIdChanged=false\norderMessageEnable=false\nreturnOrderTopicConfigToBroker=true\n"
                      "scanNotActiveBrokerInterval=1000\nsupportActingMaster=false\nwaitSecondsForService=60\n";
    ask(319, V5, "", NULL);
    EXPECT(0, "", "none", all);
    register_base();
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(1, "name server not ready", "none", "");
    fake_advance_ms(60000);
    ask(105, V5, "topic=TopicA\n", NULL);
    cr_expect_eq(fake_last.code, 0);
    stop(); /* kept */
    start("");
    ask(319, V5, "", NULL);
    EXPECT(0, "", "none", all);
    fake_write_fails = 1;
    ask(318, V5, "", "needWaitForService=false\n");
    cr_expect_eq(fake_last.code, 1);
    fake_write_fails = 0;
    ask(319, V5, "", NULL);
    EXPECT(0, "", "none", all);
}

Test(namesrv, delete_topic_with_broker_registration)
{
    ask(318, V5, "", "deleteTopicWithBrokerRegistration=true\n");
    register_base();
    register_a(2, topic_json("Extra", 4, 4, 6, 0)); /* an increment deletes nothing */
    cr_expect_eq(route_code("TopicA"), 0);
    register_a(3, two(topic_json("Extra", 4, 4, 6, 0), topic_json("broker-a", 1, 1, 7, 0)));
    cr_expect_eq(route_code("TopicA"), 17);
    cr_expect_eq(route_code("Extra"), 0);
}

/* ---- expiry and connections --------------------------------------------------------------------------------------------- */

Test(namesrv, silence_expires_a_broker_at_its_own_time)
{
    register_base();
    register_as("C", "broker-b", "127.0.0.1:10921", 0, "heartbeatTimeoutMillis=10000\n", wrap5(1, 1, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("B", 4, 4, 6, 0))), &session_b);
    fake_advance_ms(9999);
    cr_expect_eq(route_code("B"), 0);
    fake_advance_ms(1002);
    cr_expect_eq(route_code("B"), 17);
    cr_expect_eq(session_b.closes, 1);
    cr_expect_eq(session_b.refs, 0);
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
    /* heartbeats of both kinds keep the other one */
    for (int i = 0; i < 4; i++) {
        fake_advance_ms(100000);
        if (i % 2)
            ask(904, V5, "clusterName=C\nbrokerAddr=127.0.0.1:10911\nbrokerName=broker-a\n", NULL);
        else
            ask(322, V5, who("C", "broker-a", "127.0.0.1:10911", 0, ""), "{}");
        cr_expect_eq(route_code("TopicA"), 0, "round %d", i);
    }
    fake_advance_ms(119000);
    cr_expect_eq(route_code("TopicA"), 0);
    fake_advance_ms(3000);
    cr_expect_eq(route_code("TopicA"), 17);
    cr_expect_eq(fake_metric("zarya_namesrv_expired_total"), 2);
    cr_expect_eq(fake_metric("zarya_namesrv_topics"), 0);
    ask(106, V5, "", NULL);
    EXPECT(0, "", "none", "{\"brokerAddrTable\":{},\"clusterAddrTable\":{}}");
    cr_expect_eq(fake_timers(), 0, "nothing is left to wait for");
}

Test(namesrv, one_timer_whatever_comes)
{
    char addr[32], name[32];
    for (int i = 0; i < 100; i++) {
        char more[64];
        snprintf(addr, sizeof addr, "10.0.0.%d:10911", i);
        snprintf(name, sizeof name, "b%d", i);
        snprintf(more, sizeof more, "heartbeatTimeoutMillis=%d\n", 60000 - i * 100);
        register_as("C", name, addr, 0, more, wrap5(1, 1, 0, two(topic_json("T", 4, 4, 6, 0), topic_json("U", 4, 4, 6, 0))), &session_a);
    }
    cr_expect_eq(fake_timers(), 1);
    fake_advance_ms(70000);
    cr_expect_eq(route_code("T"), 17);
    cr_expect_eq(fake_timers(), 0);
}

static void close_session(struct fake_session *session)
{
    struct zr_event event = { .hdr = ZR_HDR(struct zr_event, 0), .session = (struct zr_session *)session, .point = ZR_POINT_SESSION_CLOSED };
    struct zr_verdict verdict = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    session->open = 0;
    cr_expect_eq(hook->call(inst, &event, &verdict), ZR_OK);
    cr_expect_eq(verdict.what, ZR_VERDICT_CONTINUE);
}

Test(namesrv, the_end_of_the_connection_ends_the_broker)
{
    struct fake_session client = { .open = 1 };
    register_base();
    close_session(&client);
    cr_expect_eq(route_code("TopicA"), 0);
    close_session(&session_a);
    cr_expect_eq(route_code("TopicA"), 17);
    cr_expect_eq(session_a.refs, 0);
    ask(106, V5, "", NULL);
    EXPECT(0, "", "none", "{\"brokerAddrTable\":{},\"clusterAddrTable\":{}}");
}

Test(namesrv, a_broker_that_came_back_by_another_connection_stays)
{
    register_base();
    register_as("C", "broker-a", "127.0.0.1:10911", 0, ACTING_FALSE, wrap5(1, 1695000000000, 0, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("X", 4, 4, 6, 0))), &session_b);
    cr_expect_eq(session_a.refs, 0);
    close_session(&session_a);
    cr_expect_eq(route_code("TopicA"), 0);
    close_session(&session_b);
    cr_expect_eq(route_code("TopicA"), 17);
}

Test(namesrv, a_connection_that_ended_while_its_registration_waited)
{
    session_a.open = 0;
    register_a(1, two(topic_json("TopicA", 4, 4, 6, 0), topic_json("X", 4, 4, 6, 0)));
    cr_expect_eq(route_code("TopicA"), 17);
    cr_expect_eq(session_a.refs, 0);
}

Test(namesrv, jobs_under_way_are_waited_for_by_order)
{
    fake_work_queued = 1;
    register_base();
    close_session(&session_a);
    cr_expect_eq(route_code("TopicA"), 0, "not done yet");
    fake_run_jobs();
    cr_expect_eq(route_code("TopicA"), 17);
    fake_work_queued = 0;
}

/* ---- zarya.registry/1 --------------------------------------------------------------------------------------------------- */

static uint32_t dones;
static zr_status done_status;
static void on_done(void *ctx, zr_status status)
{
    cr_expect_eq(ctx, &dones);
    dones++;
    done_status = status;
}
static char routes[2048];
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

Test(namesrv, the_local_broker)
{
    struct fake_topic topics[] = { { "TopicA", 4, 4, 6, 0, 0, 0, NULL, 0 }, { "broker-a", 1, 1, 7, 0, 0, 0, NULL, 0 }, { "Late", 2, 3, 6, 0, 0, 0, NULL, 0 } };
    fake_topics = topics;
    fake_n_topics = 2;
    registry->changed(inst, NULL, 0, on_done, &dones);
    cr_expect_eq(dones, 1);
    cr_expect_eq(done_status, ZR_OK);
    ask(105, V4_OLD, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE("{\"brokerAddrs\":{0:\"127.0.0.1:10911\"},\"brokerName\":\"broker-a\",\"cluster\":\"DefaultCluster\",\"enableActingMaster\":false}", QUEUES_A));
    fake_n_topics = 3;
    fake_version.counter++;
    struct zr_str late = ZR_STR("Late");
    registry->changed(inst, &late, 1, NULL, NULL);
    registry->lookup(inst, late, on_route, routes);
    cr_expect_str_eq(routes, "0;DefaultCluster/broker-a/0/127.0.0.1:10911;broker-a 2 3 6 0;");
    registry->lookup(inst, (struct zr_str)ZR_STR("Nope"), on_route, routes);
    cr_expect_str_eq(routes, "-3;");
    cr_expect_eq(fake_timers(), 0, "the local broker does not expire");
    /* removed here is removed there, and words from before do not bring it back */
    fake_version.counter++;
    registry->removed(inst, late);
    registry->lookup(inst, late, on_route, routes);
    cr_expect_str_eq(routes, "-3;");
    registry->changed(inst, NULL, 0, NULL, NULL);
    registry->lookup(inst, late, on_route, routes);
    cr_expect_str_eq(routes, "-3;");
    fake_version.counter++;
    registry->changed(inst, &late, 1, NULL, NULL);
    registry->lookup(inst, late, on_route, routes);
    cr_expect_str_eq(routes, "0;DefaultCluster/broker-a/0/127.0.0.1:10911;broker-a 2 3 6 0;");
    fake_advance_ms(61000);
}

Test(namesrv, the_local_broker_may_be_left_to_routing_remote)
{
    struct fake_topic topics[] = { { "TopicA", 4, 4, 6, 0, 0, 0, NULL, 0 }, { "broker-a", 1, 1, 7, 0, 0, 0, NULL, 0 } };
    stop();
    start("announce_local=false\n");
    fake_topics = topics;
    fake_n_topics = 2;
    registry->changed(inst, NULL, 0, on_done, &dones);
    cr_expect_eq(dones, 1);
    cr_expect_eq(route_code("TopicA"), 17);
}

/* ---- size ------------------------------------------------------------------------------------------------------------- */

static char *many_topics(int n)
{
    char *text = malloc((size_t)n * 220 + 64), *at = text;
    for (int i = 0; i < n; i++)
        at += sprintf(at, "%s\"topic-%d\":{\"attributes\":{},\"order\":false,\"perm\":6,\"readQueueNums\":4,\"topicFilterType\":\"SINGLE_TAG\",\"topicName\":\"topic-%d\","
                      "\"topicSysFlag\":0,\"writeQueueNums\":4}", i ? "," : "", i, i);
    return text;
}

Test(namesrv, many_topics_and_brokers)
{
    enum { TOPICS = 2000, BROKERS = 30 };
    char *topics = many_topics(TOPICS), name[32], addr[32];
    for (int i = 0; i < BROKERS; i++) {
        snprintf(name, sizeof name, "broker-%02d", i);
        snprintf(addr, sizeof addr, "10.0.0.%d:10911", i);
        register_as("C", name, addr, 0, ACTING_FALSE, wrap5(1, 1, 0, topics), i % 2 ? &session_a : &session_b);
        cr_assert_eq(fake_last.code, 0);
    }
    free(topics);
    ask(105, V5, "topic=topic-1999\n", NULL);
    cr_assert_eq(fake_last.code, 0);
    const char *at = fake_last.body;
    for (int i = 0; i < BROKERS; i++) { /* in order of their names */
        snprintf(name, sizeof name, "\"broker-%02d\"", i);
        at = strstr(at, name);
        cr_assert_not_null(at, "%s", name);
    }
    cr_expect_eq(fake_metric("zarya_namesrv_topics"), TOPICS);
    close_session(&session_a);
    ask(105, V5, "topic=topic-7\n", NULL);
    cr_expect(strstr(fake_last.body, "broker-00") && !strstr(fake_last.body, "broker-01"));
    close_session(&session_b);
    cr_expect_eq(route_code("topic-7"), 17);
}

Test(namesrv, tables_have_limits)
{
    stop();
    start("max_topics=10\n");
    register_base();
    char *topics = many_topics(20);
    register_a(2, topics);
    free(topics);
    cr_expect_eq(fake_last.code, 1);
    cr_expect(strstr(fake_last.remark, "limit"), "%s", fake_last.remark);
    cr_expect_eq(route_code("TopicA"), 0, "the broker stays");
    ask(322, V5, who("C", "broker-a", "127.0.0.1:10911", 0, ""), "{\"counter\":2,\"stateVersion\":0,\"timestamp\":1695000000000}");
    cr_expect_str_eq(fake_last.ext, "changed=true\n");
    close_session(&session_a);
    ask(206, V5, "", NULL);
    EXPECT(0, "", "none", "{\"topicList\":[]}");
}

Test(namesrv, a_small_cache_still_answers_right)
{
    stop();
    start("route_cache=16000\n");
    char *topics = many_topics(300);
    register_a(1, topics);
    free(topics);
    for (int round = 0; round < 3; round++) {
        for (int i = 0; i < 300; i++) {
            char fields[64];
            snprintf(fields, sizeof fields, "topic=topic-%d\n", i);
            ask(105, round % 2 ? V5 : V4_OLD, fields, NULL);
            cr_assert_str_eq(fake_last.body, round % 2 ? ROUTE(BROKER_A_STANDARD, QUEUES_A) : ROUTE(BROKER_A_LEGACY, QUEUES_A));
        }
    }
    stop();
    start("route_cache=0\n");
    register_base();
    ask(105, V5, "topic=TopicA\n", NULL);
    EXPECT(0, "", "none", ROUTE(BROKER_A_STANDARD, QUEUES_A));
}

/* ---- threads: queries, registrations and deletions at once; the sanitizer judges -------------------------------------------- */

struct race { const struct zr_registry_v1 *registry; _Atomic uint32_t stop, bad; };
static void on_race_route(void *ctx, zr_status status, const struct zr_route *route)
{
    struct race *race = ctx;
    if (status == ZR_OK && (route->n_queues != 1 || route->queues[0].read_queues != route->queues[0].write_queues))
        race->bad++;
}
static void *race_run(void *arg)
{
    struct race *race = arg;
    char name[32];
    for (uint32_t i = 0; !race->stop; i++) {
        int n = snprintf(name, sizeof name, "topic-%u", i % 50);
        race->registry->lookup(inst, (struct zr_str){ name, (uint64_t)n }, on_race_route, race);
    }
    return NULL;
}

Test(namesrv, readers_see_whole_entries)
{
    struct race race = { .registry = registry };
    pthread_t threads[2];
    for (int i = 0; i < 2; i++)
        pthread_create(&threads[i], NULL, race_run, &race);
    for (int round = 0; round < 60; round++) {
        char topics[16384], *at = topics;
        for (int i = 0; i < 50; i++)
            at += sprintf(at, "%s\"topic-%d\":{\"perm\":6,\"readQueueNums\":%d,\"writeQueueNums\":%d}", i ? "," : "", i, round + 1, round + 1);
        register_a(round + 1, topics);
        ask(216, V5, "topic=topic-7\n", NULL);
        if (round % 10 == 9)
            close_session(&session_a), session_a.open = 1;
    }
    race.stop = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(threads[i], NULL);
    cr_expect_eq(race.bad, 0);
    fake_advance_ms(61000);
}
