/* SPDX-License-Identifier: Apache-2.0 */
/* Expressions that groups register with heartbeats: versions, deaths, the document, and what pulls are answered. */
#include "world.h"
#include <unistd.h>

static struct answer a;

/* A heartbeat of one subscription that is no TAG; type NULL: of a tag subscription to another topic. */
static void sql_beat(struct client *c, const char *type, const char *text, const char *version)
{
    char body[1024];
    snprintf(body, sizeof body,
             "{\"clientID\":\"id\",\"consumerDataSet\":[{\"consumeFromWhere\":\"CONSUME_FROM_FIRST_OFFSET\","
             "\"consumeType\":\"CONSUME_PASSIVELY\",\"groupName\":\"G\",\"messageModel\":\"CLUSTERING\","
             "\"subscriptionDataSet\":[{\"classFilterMode\":false,\"codeSet\":[],\"expressionType\":\"%s\","
             "\"subString\":\"%s\",\"subVersion\":%s,\"tagsSet\":[],\"topic\":\"%s\"}],\"unitMode\":false}],"
             "\"heartbeatFingerprint\":0,\"producerDataSet\":[],\"withoutSub\":false}",
             type ? type : "TAG", text, version, type ? "T" : "Other");
    cr_assert(client_ask(c, 34, NULL, body, &a) == 0);
    answer_free(&a);
}

/* The code of a pull by what is registered. */
static int32_t sql_pull(struct client *c, const char *version)
{
    int32_t code = client_ask(c, 11,
                              FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "0", "maxMsgNums",
                                     "9", "sysFlag", "0", "commitOffset", "0", "suspendTimeoutMillis", "0", "subVersion",
                                     version),
                              NULL, &a);
    return code;
}

static void sql_world(void)
{
    world_start();
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0),
                          .name = zl_str("T"),
                          .read_queues = 1,
                          .write_queues = 1,
                          .perm = 6 };
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
}

static char *document(void)
{
    cr_assert(zb_doc_write(ZB_DOC_FILTERS) == ZR_OK);
    char *text = world_read_file("config/consumerFilter.json");
    for (uint32_t i = 0; !text && i < 10000; i++) { /* the document's own writer may be between its two renames */
        usleep(1000);
        text = world_read_file("config/consumerFilter.json");
    }
    cr_assert(text);
    return text;
}

Test(filterdata, a_wrong_expression_is_27_and_takes_a_good_one_away)
{
    sql_world();
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    cr_expect(sql_pull(c, "5") != 27);
    answer_free(&a);
    sql_beat(c, "SQL92", "nonsense", "6");
    cr_expect(sql_pull(c, "6") == 27);
    cr_expect(zl_is(a.h.remark, "The broker's consumer filter data is not exist!Your expression may be wrong!"));
    answer_free(&a);
    sql_beat(c, "SQL92", "a = 'y'", "7");
    cr_expect(sql_pull(c, "7") != 27);
    answer_free(&a);
    world_stop();
}

Test(filterdata, an_older_version_replaces_nothing)
{
    sql_world();
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    sql_beat(c, "SQL92", "a = 'y'", "4");
    char *text = document();
    cr_expect(strstr(text, "\"clientVersion\":5") && strstr(text, "a = 'x'") && !strstr(text, "a = 'y'"));
    free(text);
    world_stop();
}

Test(filterdata, a_subscription_that_is_newer_than_the_filter_is_28)
{
    sql_world();
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    sql_beat(c, "SQL92", "", "6"); /* registers nothing */
    cr_expect(sql_pull(c, "6") == 28);
    cr_expect(zl_is(a.h.remark, "the consumer's consumer filter data not latest"));
    answer_free(&a);
    world_stop();
}

Test(filterdata, the_document_is_as_apache_writes_it)
{
    sql_world();
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    char *text = document(), *born = strstr(text, "\"bornTime\":"), expected[1024];
    cr_assert(born);
    snprintf(expected, sizeof expected,
             "{\n\t\"filterDataByTopic\":{\n\t\t\"T\":{\n\t\t\t\"groupFilterData\":{\n\t\t\t\t\"G\":{\n"
             "\t\t\t\t\t\"bloomFilterData\":{\n\t\t\t\t\t\t\"bitNum\":112,\n\t\t\t\t\t\t\"bitPos\":[24,26,83]\n\t\t\t\t\t},\n"
             "\t\t\t\t\t\"bornTime\":%lld,\n\t\t\t\t\t\"clientVersion\":5,\n\t\t\t\t\t\"consumerGroup\":\"G\",\n"
             "\t\t\t\t\t\"dead\":false,\n\t\t\t\t\t\"deadTime\":0,\n\t\t\t\t\t\"expression\":\"a = 'x'\",\n"
             "\t\t\t\t\t\"expressionType\":\"SQL92\",\n\t\t\t\t\t\"topic\":\"T\"\n\t\t\t\t}\n\t\t\t},\n"
             "\t\t\t\"topic\":\"T\"\n\t\t}\n\t}\n}",
             strtoll(born + 11, NULL, 10));
    cr_expect_str_eq(text, expected);
    free(text);
    world_stop();
}

Test(filterdata, dies_with_its_group_or_its_topic_and_comes_back)
{
    sql_world();
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    sql_beat(c, NULL, "*", "6");
    char *text = document();
    cr_expect(strstr(text, "\"dead\":true"));
    free(text);
    sql_beat(c, "SQL92", "a = 'x'", "7");
    text = document();
    cr_expect(strstr(text, "\"dead\":false") && strstr(text, "\"clientVersion\":7"));
    free(text);
    cr_assert(client_ask(c, 35, FIELDS("clientID", "id", "consumerGroup", "G"), NULL, &a) == 0);
    answer_free(&a);
    text = document();
    cr_expect(strstr(text, "\"dead\":true"));
    free(text);
    sql_beat(c, "SQL92", "a = 'x'", "7"); /* the same version revives */
    text = document();
    cr_expect(strstr(text, "\"dead\":false") && strstr(text, "\"deadTime\":0"));
    free(text);
    world_stop();
}

Test(filterdata, a_program_goes_with_its_group_and_comes_back)
{
    sql_world();
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    cr_assert(client_ask(c, 35, FIELDS("clientID", "id", "consumerGroup", "G"), NULL, &a) == 0);
    answer_free(&a);
    zb_filters_close(); /* what nobody uses */
    cr_expect(filter_live == 0, "%d programs", filter_live);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    cr_expect(filter_live == 1);
    cr_expect(sql_pull(c, "5") == 19);
    answer_free(&a);
    cr_assert(client_ask(c, 35, FIELDS("clientID", "id", "consumerGroup", "G"), NULL, &a) == 0);
    answer_free(&a);
    sql_beat(c, "SQL92", "a = 'y'", "5"); /* of the same version, but other words: what is dead speaks for nobody */
    cr_expect(sql_pull(c, "5") == 19);
    answer_free(&a);
    char *text = document();
    cr_expect(strstr(text, "a = 'y'") && !strstr(text, "a = 'x'"));
    free(text);
    world_stop();
}

#define LONG_TEXT (1u << 20)
Test(filterdata, registrations_are_bounded_by_bytes)
{
    sql_world();
    char *text = malloc(LONG_TEXT), group[16];
    memset(text, ' ', LONG_TEXT);
    struct zb_sub sub = { .topic = ZR_STR("T"), .text = { text, LONG_TEXT }, .type = ZR_STR("OTHER"), .version = 5, .bad = 1, .missing = 1 };
    struct zb_sub *subs = &sub;
    struct zb_filter *none;
    struct zr_bits bits;
    uint32_t taken = 0;
    for (uint32_t i = 0; i < 20; i++) {
        snprintf(group, sizeof group, "G%u", i);
        zb_filterdata_register(zl_str(group), &subs, 1);
        taken += zb_filterdata_get(zl_str(group), zl_str("T"), 5, &none, &bits) == ZR_ENOTSUP;
    }
    cr_expect(taken == 15, "%u", taken); /* their names need some of the 16 MiB */
    sub.text.len = 10; /* shorter ones of a newer version make room */
    sub.version = 6;
    zb_filterdata_register(zl_str("G0"), &subs, 1);
    sub.text.len = LONG_TEXT;
    zb_filterdata_register(zl_str("G19"), &subs, 1);
    cr_expect(zb_filterdata_get(zl_str("G0"), zl_str("T"), 6, &none, &bits) == ZR_ENOTSUP);
    cr_expect(zb_filterdata_get(zl_str("G19"), zl_str("T"), 6, &none, &bits) == ZR_ENOTSUP);
    free(text);
    world_stop();
}

Test(filterdata, unused_programs_are_bounded_by_bytes)
{
    sql_world();
    char *text = malloc(LONG_TEXT), why[100];
    struct zb_filter *f;
    memset(text, ' ', LONG_TEXT - 1);
    text[LONG_TEXT - 1] = 0;
    for (uint32_t i = 0; i < 20; i++) {
        int n = snprintf(text, 100, "a = '%u'", i);
        text[n] = ' ';
        cr_assert(zb_filter_get(zl_str("SQL92"), (struct zr_str){ text, LONG_TEXT - 100 }, NULL, 0, &f, why, sizeof why) == ZR_OK);
        zb_filter_unref(f);
    }
    cr_expect(filter_live == 4, "%d", filter_live);
    free(text);
    world_stop();
}

/* The map of one message of T; how many bits are set, and in *ret_ours whether group G's are. */
static int bits_of(const char *props, int64_t ms, uint32_t *ret_ours)
{
    uint8_t bytes[ZR_BITS_BYTES];
    int n = 0;
    struct zr_bits_map map = { .properties = { (const uint8_t *)props, strlen(props) }, .store_ms = ms, .bytes = bytes };
    *ret_ours = 0;
    if (!zb_bits_table.maps(NULL, zl_str("T"), &map, 1))
        return -1;
    cr_expect(map.n_bytes == 14);
    for (uint32_t i = 0; i < map.n_bytes * 8; i++)
        n += bytes[i / 8] >> i % 8 & 1;
    *ret_ours = (bytes[24 / 8] >> 24 % 8 & 1) && (bytes[26 / 8] >> 26 % 8 & 1) && (bytes[83 / 8] >> 83 % 8 & 1);
    return n;
}

Test(filterdata, messages_get_the_bits_of_groups_that_they_match)
{
    sql_world();
    struct client *c = client_open(0);
    struct zb_filter *filter;
    struct zr_bits bits;
    uint32_t ours;
    int64_t later = zk_wall_ms() + 60000;
    cr_expect(bits_of("a\001x\002", 1000, &ours) == -1); /* not asked for */
    cr_assert(zb_broker_table.set_config(NULL, zl_str("enableCalcFilterBitMap"), zl_str("true")) == ZR_OK);
    cr_expect(bits_of("a\001x\002", 1000, &ours) == -1); /* nobody is registered */
    sql_beat(c, "SQL92", "a = 'x'", "5");
    cr_expect(bits_of("a\001x\002", later, &ours) == 3 && ours);
    cr_expect(bits_of("a\001y\002", later, &ours) == 0 && !ours);
    cr_assert(zb_filterdata_get(zl_str("G"), zl_str("T"), 5, &filter, &bits) == ZR_OK);
    cr_expect(bits.n_bits == 112 && bits.n_positions == 3 && bits.positions[0] == 24 && bits.after_ms < later);
    zb_filter_unref(filter);
    sql_beat(c, "SQL92", "a = 'y'", "6"); /* the maps made until now do not speak for it, whatever the clock says */
    cr_assert(zb_filterdata_get(zl_str("G"), zl_str("T"), 6, &filter, &bits) == ZR_OK);
    cr_expect(bits.after_ms == later);
    zb_filter_unref(filter);
    sql_beat(c, NULL, "*", "7"); /* a dead one may come back */
    cr_expect(bits_of("a\001y\002", later, &ours) == 3 && ours);
    world_stop();
}

Test(filterdata, what_is_long_dead_is_forgotten)
{
    sql_world();
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    sql_beat(c, NULL, "*", "6");
    cr_assert(zb_broker_table.set_config(NULL, zl_str("filterDataCleanTimeSpan"), zl_str("0")) == ZR_OK);
    char *text = document();
    cr_expect(!strstr(text, "SQL92") && !strstr(text, "\"T\""));
    free(text);
    world_stop();
}

static const char *const saved = "{\"filterDataByTopic\":{\"T\":{\"groupFilterData\":{"
                                 "\"G\":{\"bloomFilterData\":{\"bitNum\":112,\"bitPos\":[24,26,83]},\"bornTime\":1000,"
                                 "\"clientVersion\":5,\"consumerGroup\":\"G\",\"dead\":false,\"deadTime\":0,"
                                 "\"expression\":\"a = 'x'\",\"expressionType\":\"SQL92\",\"topic\":\"T\"},"
                                 "\"H\":{\"bornTime\":1000,\"clientVersion\":9,\"consumerGroup\":\"H\",\"deadTime\":2000,"
                                 "\"expression\":\"nonsense\",\"expressionType\":\"SQL92\",\"topic\":\"T\"},"
                                 "\"I\":{\"bornTime\":1000,\"clientVersion\":9,\"consumerGroup\":\"I\",\"deadTime\":0,"
                                 "\"expression\":\"whatever\",\"expressionType\":\"REGEX\",\"topic\":\"T\"}},"
                                 "\"topic\":\"T\"}}}";

Test(filterdata, what_apache_left_is_dead_until_its_consumer_comes)
{
    world_file("config/consumerFilter.json", saved);
    sql_world();
    char *text = document();
    cr_expect(strstr(text, "\"G\"") && !strstr(text, "\"H\"")); /* H cannot be compiled */
    cr_expect(strstr(text, "\"I\"")); /* nobody knows its language now; it is kept */
    cr_expect(!strstr(text, "\"dead\":false"));
    free(text);
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    text = document();
    cr_expect(strstr(text, "\"dead\":false") && strstr(text, "\"bornTime\":1000"));
    free(text);
    world_stop();
}

Test(filterdata, a_file_that_cannot_be_read_does_not_stop_the_start)
{
    world_file("config/consumerFilter.json", "{ damaged");
    sql_world();
    struct client *c = client_open(0);
    sql_beat(c, "SQL92", "a = 'x'", "5");
    char *text = document();
    cr_expect(strstr(text, "a = 'x'"));
    free(text);
    world_stop();
}

Test(filterdata, the_answer_names_the_plugin_that_is_missing)
{
    sql_world();
    struct client *c = client_open(0);
    const char *why = "The broker does not support consumer to filter message by REGEX: the plugin filter-regex is not loaded";
    sql_beat(c, "REGEX", "a.*", "5");
    cr_expect(sql_pull(c, "5") == 1 && zl_is(a.h.remark, why));
    answer_free(&a);
    cr_expect(client_ask(c, 46, NULL, "{\"subscriptionData\":{\"expressionType\":\"REGEX\",\"subString\":\"x\"}}", &a) == 1);
    cr_expect(zl_is(a.h.remark, why));
    answer_free(&a);
    int32_t code = client_ask(c, 11,
                              FIELDS("consumerGroup", "G", "topic", "T", "queueId", "0", "queueOffset", "0", "maxMsgNums",
                                     "9", "sysFlag", "4", "commitOffset", "0", "suspendTimeoutMillis", "0", "subVersion",
                                     "5", "expressionType", "REGEX", "subscription", "x"),
                              NULL, &a);
    cr_expect(code == 1 && zl_is(a.h.remark, why));
    answer_free(&a);
    char *text = document();
    cr_expect(strstr(text, "REGEX")); /* and what was registered is not lost */
    free(text);
    world_stop();
}
