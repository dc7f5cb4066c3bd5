/* SPDX-License-Identifier: Apache-2.0 */
/* state.c - the documents under config/: what Apache 4.9 and 5.5 write is read, what is written is read again, what others wrote is kept; damage costs
 * what was damaged, and never the start. */
#include "world.h"
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static struct zb_topic *topic(const char *name) { return zb_topic_get(zl_str(name)); }

Test(state, a_first_start_makes_what_apache_5_5_makes)
{
    const struct {
        const char *name;
        int32_t queues, perm;
    } rows[] = {
        { "SELF_TEST_TOPIC", 1, 6 },
        { "TBW102", 8, 7 },
        { "BenchmarkTest", 1024, 6 },
        { "DefaultCluster", 16, 7 },
        { "broker-a", 1, 7 },
        { "OFFSET_MOVED_EVENT", 1, 6 },
        { "SCHEDULE_TOPIC_XXXX", 18, 6 },
        { "DefaultCluster_REPLY_TOPIC", 1, 6 },
        { "rmq_sys_REVIVE_LOG_DefaultCluster", 8, 6 },
        { "rmq_sys_SYNC_BROKER_MEMBER_broker-a", 1, 1 },
        { "RMQ_SYS_TRANS_HALF_TOPIC", 1, 6 },
        { "RMQ_SYS_TRANS_OP_HALF_TOPIC", 1, 6 },
        { "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC", 1, 6 },
        { "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC", 1, 6 },
        { "rmq_sys_wheel_timer", 1, 6 },
    };
    const char *groups[] = { "TOOLS_CONSUMER",  "FILTERSRV_CONSUMER",    "SELF_TEST_C_GROUP", "CID_ONS-HTTP-PROXY",
                             "CID_ONSAPI_PULL", "CID_ONSAPI_PERMISSION", "CID_ONSAPI_OWNER",  "CID_RMQ_SYS_TRANS" };
    world_start();
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct zb_topic *t = topic(rows[i].name);
        cr_assert(t != NULL, "%s", rows[i].name);
        cr_expect(t->read_queues == rows[i].queues && t->write_queues == rows[i].queues && t->perm == rows[i].perm &&
                      t->system,
                  "%s", rows[i].name);
        zb_topic_unref(t);
    }
    cr_expect(zb.topics.n == sizeof rows / sizeof rows[0]); /* the trace topic only with traceTopicEnable */
    for (uint32_t i = 0; i < 8; i++) {
        struct zb_group *g = zb_group_get(zl_str(groups[i]), 0);
        cr_expect(g != NULL, "%s", groups[i]);
        zb_group_unref(g);
    }
    cr_expect(zb.groups.n == 8);
    char *text = world_read_file("config/topics.json");
    cr_assert(text && strstr(text, "\t\"topicConfigTable\":{\n\t\t\"BenchmarkTest\":{\n\t\t\t\"attributes\":{},"
                                   "\n\t\t\t\"order\":false,\n\t\t\t\"perm\":6,\n"
                                   "\t\t\t\"readQueueNums\":1024,\n\t\t\t\"topicFilterType\":\"SINGLE_TAG\","
                                   "\n\t\t\t\"topicName\":\"BenchmarkTest\",\n"
                                   "\t\t\t\"topicSysFlag\":0,\n\t\t\t\"writeQueueNums\":1024\n\t\t},"),
              "%s", text);
    free(text);
    world_stop();
}

static void traced(struct zb_settings *s)
{
    s->trace_topic_enable = 1;
    s->auto_create_topic = 0;
    s->cluster_topic = s->broker_topic = 0;
}

Test(state, switches_change_the_first_start)
{
    world_start_with(traced);
    struct zb_topic *t = topic("RMQ_SYS_TRACE_TOPIC");
    cr_assert(t != NULL);
    zb_topic_unref(t);
    cr_expect(topic("TBW102") == NULL);
    t = topic("DefaultCluster");
    cr_expect(t->perm == 1);
    zb_topic_unref(t);
    world_stop();
}

/* As 4.9.7 writes it: no attributes, no stateVersion. */
static const char topics_4_9[] = "{\n\t\"dataVersion\":{\n\t\t\"counter\":12,\n\t\t\"timestamp\":1758272700123\n\t},"
                                 "\n\t\"topicConfigTable\":{\n\t\t\"Old\":{\n\t\t\t\"order\":true,\n"
                                 "\t\t\t\"perm\":4,\n\t\t\t\"readQueueNums\":3,\n\t\t\t\"topicFilterType\":\"MULTI_"
                                 "TAG\",\n\t\t\t\"topicName\":\"Old\",\n\t\t\t\"topicSysFlag\":1,\n"
                                 "\t\t\t\"writeQueueNums\":5\n\t\t}\n\t}\n}";
/* As 5.5.0 writes it. */
static const char topics_5_5[] =
    "{\n\t\"dataVersion\":{\n\t\t\"counter\":2,\n\t\t\"stateVersion\":0,\n\t\t\"timestamp\":1758272700123\n\t},"
    "\n\t\"topicConfigTable\":{\n\t\t\"BatchTopic\":{\n"
    "\t\t\t\"attributes\":{\n\t\t\t\t\"queue.type\":\"BatchCQ\"\n\t\t\t},\n\t\t\t\"order\":false,\n\t\t\t\"perm\":6,"
    "\n\t\t\t\"readQueueNums\":1,\n"
    "\t\t\t\"topicFilterType\":\"SINGLE_TAG\",\n\t\t\t\"topicName\":\"BatchTopic\",\n\t\t\t\"topicSysFlag\":0,"
    "\n\t\t\t\"writeQueueNums\":1\n\t\t}\n\t}\n}";
static const char offsets_4_9[] = "{\n\t\"offsetTable\":{\n\t\t\"%RETRY%GID_test@GID_test\":{0:0\n\t\t},"
                                  "\n\t\t\"TopicTest@GID_test\":{0:250,1:251,2:250,3:250\n\t\t}\n\t}\n}";
static const char offsets_5_5[] =
    "{\n\t\"dataVersion\":{\n\t\t\"counter\":1,\n\t\t\"stateVersion\":0,\n\t\t\"timestamp\":1758272700123\n\t},"
    "\n\t\"groupTopicMap\":{\n\t\t\"G\":[\n\t\t\t\"T\"\n\t\t]\n\t},\n"
    "\t\"offsetTable\":{\n\t\t\"T@G\":{\n\t\t\t0:7,\n\t\t\t3:9\n\t\t}\n\t},\n\t\"pullOffsetTable\":{}\n}";
static const char groups_5_5[] =
    "{\n\t\"dataVersion\":{\n\t\t\"counter\":1,\n\t\t\"stateVersion\":0,\n\t\t\"timestamp\":1758272700123\n\t},"
    "\n\t\"forbiddenTable\":{\n\t\t\"GID_x\":{\n\t\t\t\"TopicX\":4\n"
    "\t\t}\n\t},\n\t\"subscriptionGroupTable\":{\n\t\t\"GID_test\":{\n\t\t\t\"attributes\":{\n\t\t\t\t\"priority."
    "factor\":\"50\"\n\t\t\t},\n\t\t\t\"brokerId\":0,\n"
    "\t\t\t\"consumeBroadcastEnable\":false,\n\t\t\t\"consumeEnable\":true,\n\t\t\t\"consumeFromMinEnable\":true,"
    "\n\t\t\t\"consumeMessageOrderly\":true,\n"
    "\t\t\t\"consumeTimeoutMinute\":7,\n\t\t\t\"groupName\":\"GID_test\",\n\t\t\t\"groupRetryPolicy\":{"
    "\n\t\t\t\t\"exponentialRetryPolicy\":{\n\t\t\t\t\t\"initial\":5000,\n"
    "\t\t\t\t\t\"max\":7200000,\n\t\t\t\t\t\"multiplier\":2\n\t\t\t\t},\n\t\t\t\t\"type\":\"EXPONENTIAL\"\n\t\t\t},"
    "\n\t\t\t\"groupSysFlag\":0,\n"
    "\t\t\t\"notifyConsumerIdsChangedEnable\":false,\n\t\t\t\"retryMaxTimes\":3,\n\t\t\t\"retryQueueNums\":2,"
    "\n\t\t\t\"subscriptionDataSet\":[{\"topic\":\"T\"}],\n"
    "\t\t\t\"whichBrokerWhenConsumeSlowly\":1\n\t\t}\n\t}\n}";
static const char groups_4_9[] =
    "{\"dataVersion\":{\"counter\":1,\"timestamp\":1},\"subscriptionGroupTable\":{\"Four\":{\"brokerId\":0,"
    "\"consumeBroadcastEnable\":true,\"consumeEnable\":true,"
    "\"consumeFromMinEnable\":true,\"groupName\":\"Four\",\"notifyConsumerIdsChangedEnable\":true,\"retryMaxTimes\":16,"
    "\"retryQueueNums\":1,\"whichBrokerWhenConsumeSlowly\":1}}}";

Test(state, apache_4_9_files_are_read)
{
    world_file("config/topics.json", topics_4_9);
    world_file("config/subscriptionGroup.json", groups_4_9);
    world_file("config/consumerOffset.json", offsets_4_9);
    world_start();
    struct zb_topic *t = topic("Old");
    cr_assert(t != NULL);
    cr_expect(t->read_queues == 3 && t->write_queues == 5 && t->perm == 4 && t->order && t->multi_tag &&
              t->sys_flag == 1 && t->n_attributes == 0);
    zb_topic_unref(t);
    cr_expect(zb.topics_version.counter >= 12);
    struct zb_group *g = zb_group_get(zl_str("Four"), 0);
    cr_assert(g && g->consume_timeout_minute == 15 && !g->orderly);
    zb_group_unref(g);
    cr_expect(zb_offset_get(zl_str("GID_test"), zl_str("TopicTest"), 1) == 251);
    cr_expect(zb_offset_get(zl_str("GID_test"), zl_str("%RETRY%GID_test"), 0) == 0);
    cr_expect(zb_offset_get(zl_str("GID_test"), zl_str("TopicTest"), 4) == -1);
    world_stop();
}

Test(state, apache_5_5_files_are_read_and_written_back_the_same)
{
    world_file("config/topics.json", topics_5_5);
    world_file("config/subscriptionGroup.json", groups_5_5);
    world_file("config/consumerOffset.json", offsets_5_5);
    world_start();
    struct zb_topic *t = topic("BatchTopic");
    cr_assert(t && t->batch_cq && t->n_attributes == 1);
    zb_topic_unref(t);
    struct zb_group *g = zb_group_get(zl_str("GID_test"), 0);
    cr_assert(g && !g->broadcast && g->orderly && !g->notify && g->retry_max_times == 3 && g->retry_queues == 2 &&
              g->consume_timeout_minute == 7);
    cr_expect(zl_is(
        g->retry_policy,
        "{\"exponentialRetryPolicy\":{\"initial\":5000,\"max\":7200000,\"multiplier\":2},\"type\":\"EXPONENTIAL\"}"));
    zb_group_unref(g);
    cr_expect(zb_group_forbidden(zl_str("GID_x"), zl_str("TopicX"), -1) == 4);
    cr_expect(zb_offset_get(zl_str("G"), zl_str("T"), 0) == 7 && zb_offset_get(zl_str("G"), zl_str("T"), 3) == 9 &&
              zb_offset_get(zl_str("G"), zl_str("T"), 1) == -1);
    world_keep();
    world_stop();
    char *text = world_read_file("config/consumerOffset.json");
    cr_assert(text && strcmp(text, offsets_5_5) == 0, "%s", text);
    free(text);
    text = world_read_file("config/topics.json");
    cr_assert(text && strstr(text, "\t\t\t\"attributes\":{\n\t\t\t\t\"queue.type\":\"BatchCQ\"\n\t\t\t},"), "%s", text);
    free(text);
    world_start(); /* what was written is read again */
    g = zb_group_get(zl_str("GID_test"), 0);
    cr_assert(g && g->retry_max_times == 3 && g->n_attributes == 1);
    cr_expect(zl_is(
        g->retry_policy,
        "{\"exponentialRetryPolicy\":{\"initial\":5000,\"max\":7200000,\"multiplier\":2},\"type\":\"EXPONENTIAL\"}"));
    cr_expect(zl_is(g->subscriptions, "[{\"topic\":\"T\"}]"));
    zb_group_unref(g);
    cr_expect(zb_group_forbidden(zl_str("GID_x"), zl_str("TopicX"), -1) == 4);
    cr_expect(zb_offset_get(zl_str("G"), zl_str("T"), 3) == 9);
    world_stop();
}

static const char topics_odd[] =
    "{\"topicConfigTable\":{\"Odd\":{\"perm\":6,\"readQueueNums\":2,\"topicName\":\"Odd\",\"writeQueueNums\":2,"
    "\"tier\":{\"a\":[1,\"x\"]},\"new\\\"er\":true}},\"dataVersion\":{\"counter\":1},\"federation\":{\"id\":9}}";
static const char groups_odd[] = "{\"subscriptionGroupTable\":{\"OddG\":{\"groupName\":\"OddG\",\"retryMaxTimes\":5,\"quota\":7}},"
                                 "\"dataVersion\":{\"counter\":1},\"owners\":[\"x\"]}";
static const char offsets_odd[] = "{\"offsetTable\":{\"T@G\":{0:7}},\"lmqOffsetTable\":{\"%LMQ%x@g\":123}}";

static void odd_is_there(void)
{
    char *text = world_read_file("config/topics.json");
    cr_expect(text && strstr(text, ",\n\t\t\t\"tier\":{\"a\":[1,\"x\"]},\"new\\\"er\":true\n\t\t}") &&
                  strstr(text, "\n\t},\n\t\"federation\":{\"id\":9}\n}"),
              "%s", text ? text : "-");
    free(text);
    text = world_read_file("config/subscriptionGroup.json");
    cr_expect(text && strstr(text, ",\n\t\t\t\"quota\":7\n\t\t}") && strstr(text, ",\n\t\"owners\":[\"x\"]\n}"), "%s",
              text ? text : "-");
    free(text);
    text = world_read_file("config/consumerOffset.json");
    cr_expect(text && strstr(text, ",\n\t\"lmqOffsetTable\":{\"%LMQ%x@g\":123}\n}"), "%s", text ? text : "-");
    free(text);
}

Test(state, what_others_wrote_is_kept)
{
    world_file("config/topics.json", topics_odd);
    world_file("config/subscriptionGroup.json", groups_odd);
    world_file("config/consumerOffset.json", offsets_odd);
    for (uint32_t round = 0; round < 2; round++) {
        world_start();
        struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("Odd"), .read_queues = 4, .write_queues = 4,
                              .perm = 6 };
        cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK); /* an admin's change keeps them as well */
        struct zb_group *g = zb_group_get(zl_str("OddG"), 0);
        cr_assert(g && g->retry_max_times == 5);
        struct zr_group view;
        zb_group_view(g, &view);
        view.more_json = (struct zr_str){ NULL, 0 };
        cr_assert(zb_group_store(&view) == ZR_OK);
        zb_group_unref(g);
        world_keep();
        world_stop();
        odd_is_there();
    }
    world_start();
    world_stop();
}

static void tear(const char *name)
{
    char bak[128];
    snprintf(bak, sizeof bak, "%s.bak", name);
    world_file(name, "{\"half\":");
    world_file(bak, "garbage");
}

static uint32_t is_there(const char *name)
{
    char *text = world_read_file(name);
    free(text);
    return text != NULL;
}

Test(state, topics_that_no_document_knows_are_made_from_their_queues)
{
    struct answer a;
    for (uint32_t how = 0; how < 3; how++) {
        world_start();
        struct client *c = client_open(0);
        struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("Five"), .read_queues = 5, .write_queues = 5,
                              .perm = 6 };
        cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
        t.name = zl_str("Empty");
        cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
        cr_assert(send_to(c, "Five", "4", "", "x", &a) == 0);
        answer_free(&a);
        world_keep();
        world_stop();
        tear("config/topics.json");
        if (how == 1) { /* gone altogether */
            char path[128];
            snprintf(path, sizeof path, "%s/config/topics.json", world_dir);
            cr_assert(unlink(path) == 0);
            snprintf(path, sizeof path, "%s/config/topics.json.bak", world_dir);
            cr_assert(unlink(path) == 0);
        }
        if (how == 2)
            world_file("config/topics.json.bak", topics_4_9);
        world_start();
        struct zb_topic *five = topic("Five"), *empty = topic("Empty"), *old = topic("Old");
        cr_assert(five != NULL, "%u", how);
        cr_expect(five->read_queues == 5 && five->write_queues == 5 && five->perm == 6);
        cr_expect(empty == NULL && (old != NULL) == (how == 2), "%u", how);
        zb_topic_unref(five);
        zb_topic_unref(old);
        cr_expect(is_there("config/topics.json") && is_there("config/topics.json.damaged") == (how != 1));
        cr_expect(is_there("config/topics.json.bak.damaged") == (how == 0));
        world_stop();
    }
}

Test(state, a_topic_that_was_removed_is_not_made_again)
{
    struct answer a;
    world_start();
    cr_assert(send_to(client_open(0), "Gone", "0", "", "x", &a) == 0);
    answer_free(&a);
    world_keep();
    world_stop();
    world_file("config/topics.json", topics_4_9); /* whole, and without it */
    world_start();
    cr_expect(topic("Gone") == NULL);
    world_stop();
}

Test(state, damaged_groups_are_made_again_from_offsets)
{
    world_file("config/subscriptionGroup.json", "{\"half\":");
    world_file("config/subscriptionGroup.json.bak", "garbage");
    world_file("config/consumerOffset.json", offsets_4_9);
    world_start();
    struct zb_group *g = zb_group_get(zl_str("GID_test"), 0);
    cr_expect(g && g->retry_max_times == 16);
    zb_group_unref(g);
    cr_expect(is_there("config/subscriptionGroup.json.damaged") && is_there("config/subscriptionGroup.json.bak.damaged"));
    world_stop();
}

Test(state, the_beginning_of_damaged_offsets_is_taken)
{
    char torn[sizeof offsets_4_9];
    memcpy(torn, offsets_4_9, sizeof torn);
    *(strstr(torn, "2:250") + 3) = 0;
    world_file("config/consumerOffset.json", torn);
    world_file("config/consumerOffset.json.bak", "");
    world_start();
    cr_expect(zb_offset_get(zl_str("GID_test"), zl_str("%RETRY%GID_test"), 0) == 0);
    cr_expect(zb_offset_get(zl_str("GID_test"), zl_str("TopicTest"), 0) == -1);
    cr_expect(is_there("config/consumerOffset.json") && is_there("config/consumerOffset.json.damaged"));
    world_stop();
}

Test(state, damaged_offsets_that_give_nothing_do_not_stop_the_start)
{
    world_file("config/consumerOffset.json", "{\"half\":");
    world_file("config/consumerOffset.json.bak", "garbage");
    world_start();
    cr_expect(is_there("config/consumerOffset.json.damaged"));
    world_stop();
}

Test(state, a_good_backup_outlives_the_next_write)
{
    world_file("config/topics.json", "torn");
    world_file("config/topics.json.bak", topics_4_9);
    world_start(); /* makes the system topics, and writes them: once or twice, as it comes */
    char *text = world_read_file("config/topics.json.bak");
    cr_expect(text && strstr(text, "\"Old\":{"), "%s", text ? text : "-");
    free(text);
    world_stop();
}

Test(state, a_good_backup_is_taken)
{
    world_file("config/topics.json", "");
    world_file("config/topics.json.bak", topics_4_9);
    world_start();
    struct zb_topic *t = topic("Old");
    cr_expect(t != NULL);
    zb_topic_unref(t);
    world_stop();
}

static void often(struct zb_settings *s) { s->flush_offset_ms = 100; }

Test(state, offsets_are_written_while_running)
{
    world_start_with(often);
    zb_offset_put(zl_str("G"), zl_str("T"), 2, 5);
    char *text = NULL;
    for (uint32_t i = 0; i < 2000 && !(text && strstr(text, "\"T@G\":{\n\t\t\t2:5\n\t\t}")); i++) {
        struct timespec ms = { 0, 10000000 };
        nanosleep(&ms, NULL);
        free(text);
        text = world_read_file("config/consumerOffset.json");
    }
    cr_assert(text && strstr(text, "\"T@G\":{\n\t\t\t2:5\n\t\t}"), "%s", text ? text : "-");
    free(text);
    world_stop();
}

Test(state, tables_are_bounded)
{
    world_start();
    cr_assert(zb_broker_table.set_config(NULL, zl_str("maxTopics"), zl_str("32")) == ZR_OK);
    uint32_t made = 0;
    for (uint32_t i = 0; i < 40; i++) {
        char name[32];
        snprintf(name, sizeof name, "T%u", i);
        struct zr_topic t = {
            .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str(name), .read_queues = 1, .write_queues = 1, .perm = 6
        };
        made += zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK;
    }
    cr_expect(made == 32 - 15);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("maxConsumerOffsets"), zl_str("3")) == ZR_OK);
    for (uint32_t i = 0; i < 10; i++) {
        char name[32];
        snprintf(name, sizeof name, "T%u", i);
        zb_offset_put(zl_str("G"), zl_str(name), 0, 1);
    }
    cr_expect(zb_offset_get(zl_str("G"), zl_str("T2"), 0) == 1 && zb_offset_get(zl_str("G"), zl_str("T3"), 0) == -1);
    zb_offset_put(zl_str("G"), zl_str("T0"), 1 << 30, 1); /* no such queue id can be */
    cr_expect(zb_offset_get(zl_str("G"), zl_str("T0"), 1 << 30) == -1);
    world_stop();
}

#define COMMIT(queue, answer)                                                                                          \
    client_ask(c, 15, FIELDS("consumerGroup", "G", "topic", "Four", "queueId", queue, "commitOffset", "5"), NULL, answer)

Test(state, commits_go_to_queues_that_the_topic_has)
{
    struct answer a;
    world_start();
    struct zr_topic t = {
        .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str("Four"), .read_queues = 2, .write_queues = 4, .perm = 6
    };
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
    zb_group_unref(zb_group_get(zl_str("G"), 1));
    struct client *c = client_open(0);
    cr_expect(COMMIT("3", &a) == 0);
    answer_free(&a);
    cr_expect(COMMIT("4", &a) == 29);
    cr_expect(memmem(a.h.remark.ptr, a.h.remark.len, "has 4 queues", 12) != NULL, "%.*s", (int)a.h.remark.len,
              a.h.remark.ptr);
    answer_free(&a);
    cr_expect(COMMIT("65535", &a) == 29);
    answer_free(&a);
    cr_expect(COMMIT("-1", &a) == 29);
    answer_free(&a);
    cr_expect(zb_offset_get(zl_str("G"), zl_str("Four"), 3) == 5 &&
              zb_offset_get(zl_str("G"), zl_str("Four"), 65535) == -1);
    world_stop();
}

Test(state, the_table_of_offsets_is_bounded_in_bytes)
{
    world_start();
    cr_assert(zb_broker_table.set_config(NULL, zl_str("maxConsumerOffsets"), zl_str("1000")) == ZR_OK);
    uint32_t taken = 0;
    for (uint32_t i = 0; i < 200; i++) {
        char name[32];
        snprintf(name, sizeof name, "T%u", i);
        taken += zb_offset_put(zl_str("G"), zl_str(name), 65535, 1) == ZR_OK;
    }
    cr_expect(taken > 10 && taken < 50, "%u", taken); /* 1.5 MB each, 64 MB in all */
    cr_expect(zb_offset_put(zl_str("G"), zl_str("T0"), 7, 1) == ZR_OK); /* what is there goes on */
    zb_offset_remove(zl_str("G"), zl_str("T0"));
    cr_expect(zb_offset_put(zl_str("G"), zl_str("T199"), 65535, 1) == ZR_OK);
    world_stop();
}

static pthread_mutex_t saved_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t saved_cond = PTHREAD_COND_INITIALIZER;

static void saved(void *ctx, zr_status status)
{
    pthread_mutex_lock(&saved_lock);
    *(zr_status *)ctx = status;
    pthread_cond_signal(&saved_cond);
    pthread_mutex_unlock(&saved_lock);
}

static zr_status save_groups(void)
{
    zr_status status = ZR_PENDING;
    zb_doc_touch(ZB_DOC_GROUPS, saved, &status);
    pthread_mutex_lock(&saved_lock);
    while (status == ZR_PENDING)
        pthread_cond_wait(&saved_cond, &saved_lock);
    pthread_mutex_unlock(&saved_lock);
    return status;
}

Test(state, a_document_that_cannot_be_written_is_told_of_once_and_tried_again, .timeout = 60)
{
    char dir[128], away[128], log[128];
    world_start();
    snprintf(dir, sizeof dir, "%s/config", world_dir);
    snprintf(away, sizeof away, "%s/away", world_dir);
    snprintf(log, sizeof log, "%s/log", world_dir);
    int err = dup(STDERR_FILENO), to = open(log, O_RDWR | O_CREAT | O_APPEND, 0600);
    cr_assert(err >= 0 && to >= 0 && dup2(to, STDERR_FILENO) >= 0);
    cr_assert(rename(dir, away) == 0);
    int file = open(dir, O_WRONLY | O_CREAT, 0600); /* where a folder has to be */
    cr_assert(file >= 0);
    close(file);
    zr_status first = save_groups(), second = save_groups();
    cr_assert(unlink(dir) == 0 && rename(away, dir) == 0);
    zr_status third = save_groups();
    cr_assert(dup2(err, STDERR_FILENO) >= 0);
    close(err);
    close(to);
    cr_expect(first != ZR_OK && second != ZR_OK && third == ZR_OK);
    char *text = world_read_file("log");
    cr_assert(text != NULL);
    const char *line = strstr(text, "subscriptionGroup.json could not");
    cr_expect(line && !strstr(line + 1, "subscriptionGroup.json could not"), "%s", text);
    free(text);
    world_stop();
}

static zr_status group_made(const char *name)
{
    struct zr_group g = { .hdr = ZR_HDR(struct zr_group, 0), .name = zl_str(name), .consume_enable = 1 };
    zr_status status = ZR_PENDING;
    cr_assert(zb_broker_table.put_group(NULL, &g) == ZR_OK);
    zb_broker_table.when_durable(NULL, ZR_DOCUMENT_GROUPS, saved, &status);
    pthread_mutex_lock(&saved_lock);
    while (status == ZR_PENDING)
        pthread_cond_wait(&saved_cond, &saved_lock);
    pthread_mutex_unlock(&saved_lock);
    return status;
}

/* The time limit is part of it: after six failures the next try by itself would come in 16 seconds. */
Test(state, who_waits_for_a_document_is_told_when_it_is_on_the_disk_or_why_not, .timeout = 12)
{
    char dir[128], away[128];
    world_start();
    cr_expect(group_made("Durable0") == ZR_OK);
    char *text = world_read_file("config/subscriptionGroup.json");
    cr_expect(text && strstr(text, "\"Durable0\""));
    free(text);
    snprintf(dir, sizeof dir, "%s/config", world_dir);
    snprintf(away, sizeof away, "%s/away", world_dir);
    cr_assert(rename(dir, away) == 0);
    int file = open(dir, O_WRONLY | O_CREAT, 0600); /* where a folder has to be */
    cr_assert(file >= 0);
    close(file);
    for (int i = 0; i < 6; i++) cr_expect(group_made("Durable1") != ZR_OK);
    cr_assert(unlink(dir) == 0 && rename(away, dir) == 0);
    cr_expect(group_made("Durable2") == ZR_OK);
    text = world_read_file("config/subscriptionGroup.json");
    cr_expect(text && strstr(text, "\"Durable1\"") && strstr(text, "\"Durable2\""));
    free(text);
    zr_status status = ZR_PENDING; /* nothing to wait for: at once */
    zb_broker_table.when_durable(NULL, ZR_DOCUMENT_GROUPS, saved, &status);
    cr_expect(status == ZR_OK);
    world_stop();
}

Test(state, many_groups_made_on_demand_do_not_fill_the_log)
{
    char log[128], name[32];
    world_start();
    snprintf(log, sizeof log, "%s/log", world_dir);
    int err = dup(STDERR_FILENO), to = open(log, O_RDWR | O_CREAT | O_APPEND, 0600);
    cr_assert(err >= 0 && to >= 0 && dup2(to, STDERR_FILENO) >= 0);
    zk_log_set(ZR_LOG_INFO, 0);
    for (uint32_t i = 0; i < 150; i++) {
        snprintf(name, sizeof name, "Demand%u", i);
        zb_group_unref(zb_group_get(zl_str(name), 1));
    }
    zb_made_minute();
    zb_group_unref(zb_group_get(zl_str("DemandLast"), 1));
    cr_assert(dup2(err, STDERR_FILENO) >= 0);
    close(err);
    close(to);
    char *text = world_read_file("log");
    uint32_t lines = 0;
    for (const char *at = text; at && (at = strstr(at, "subscription group Demand")); at++)
        lines++;
    cr_expect(lines == 101, "%u", lines);
    cr_expect(strstr(text, "50 more subscription groups were made") && strstr(text, "DemandLast"), "%s", text);
    free(text);
    world_stop();
}

Test(state, a_map_survives_growth_and_deletion)
{
    struct zb_map m = { NULL, 0, 0 };
    static char names[5000][8];
    for (uint32_t i = 0; i < 5000; i++) {
        snprintf(names[i], sizeof names[i], "%u", i);
        cr_assert(zb_map_put(&m, zb_hash(zl_str(names[i])) & 0xff, zl_str(names[i]), names[i]) ==
                  ZR_OK); /* crowded on purpose */
    }
    for (uint32_t i = 0; i < 5000; i += 3)
        cr_assert(zb_map_del(&m, zb_hash(zl_str(names[i])) & 0xff, zl_str(names[i])) == names[i]);
    for (uint32_t i = 0; i < 5000; i++)
        cr_assert(zb_map_get(&m, zb_hash(zl_str(names[i])) & 0xff, zl_str(names[i])) == (i % 3 ? names[i] : NULL));
    uint32_t n = 0;
    for (uint64_t at = 0; zb_map_next(&m, &at);)
        n++;
    cr_expect(n == m.n && n == 5000 - 1667);
    zb_map_free(&m);
}

/* ---- large documents: changed rows are kept in a journal ---- */
#define LARGE 2000u

static void large_document(uint32_t n)
{
    struct zl_buf b;
    zl_buf_init(&b, 1ull << 30);
    zl_buf_cstr(&b, "{\"dataVersion\":{\"counter\":5,\"stateVersion\":0,\"timestamp\":1},\"topicConfigTable\":{");
    for (uint32_t i = 0; i < n; i++)
        zl_buf_fmt(&b, "%s\"Many%u\":{\"perm\":6,\"readQueueNums\":2,\"topicName\":\"Many%u\",\"writeQueueNums\":2}", i ? "," : "", i, i);
    zl_buf_cstr(&b, "}}");
    zl_buf_u8(&b, 0);
    world_file("config/topics.json", (const char *)b.ptr);
    zl_buf_free(&b);
}

static zr_status topic_made(const char *name, int32_t queues)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str(name), .read_queues = queues, .write_queues = queues, .perm = 6 };
    zr_status status = ZR_PENDING;
    cr_assert(zb_topic_store(&t, NULL, NULL) == ZR_OK);
    zb_doc_touch_rows(ZB_DOC_TOPICS, &t.name, 1, saved, &status);
    pthread_mutex_lock(&saved_lock);
    while (status == ZR_PENDING)
        pthread_cond_wait(&saved_cond, &saved_lock);
    pthread_mutex_unlock(&saved_lock);
    return status;
}

static uint32_t queues_of(const char *name)
{
    struct zb_topic *t = topic(name);
    uint32_t n = t ? (uint32_t)t->read_queues : 0;
    zb_topic_unref(t);
    return n;
}

static uint32_t journal_files(void)
{
    char path[128];
    uint32_t n = 0;
    snprintf(path, sizeof path, "%s/zarya/journal", world_dir);
    DIR *dir = opendir(path);
    for (struct dirent *e; dir && (e = readdir(dir));)
        n += strncmp(e->d_name, "topics.", 7) == 0;
    if (dir)
        closedir(dir);
    return n;
}

/* The data directory as a kill would leave it right now. */
static void snapshot(const char *to)
{
    char cmd[512];
    snprintf(cmd, sizeof cmd, "rm -rf %s && cp -a %s %s", to, world_dir, to);
    cr_assert(system(cmd) == 0);
}

/* The next start finds what the snapshot holds. */
static void come_back(const char *from)
{
    char cmd[512];
    world_keep();
    world_stop();
    snprintf(cmd, sizeof cmd, "rm -rf %s && mv %s %s", world_dir, from, world_dir);
    cr_assert(system(cmd) == 0);
}

#define KILLED(name)                                                                                                   \
    char name[96];                                                                                                     \
    snprintf(name, sizeof name, "%s-killed", world_dir)

Test(state, a_large_documents_changes_are_kept_in_its_journal_and_outlive_a_kill)
{
    large_document(LARGE);
    world_start();
    cr_assert(topic_made("First", 3) == ZR_OK);
    cr_assert(journal_files() == 1);
    char *before = world_read_file("config/topics.json");
    cr_assert(before != NULL);
    for (int i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof name, "J%d", i);
        cr_assert(topic_made(name, i + 1) == ZR_OK);
    }
    cr_assert(topic_made("Many7", 9) == ZR_OK);
    cr_assert(zb_topic_remove(zl_str("Many8")) == ZR_OK && zb_topic_remove(zl_str("J3")) == ZR_OK);
    cr_assert(topic_made("Last", 1) == ZR_OK);
    int64_t counter = zb.topics_version.counter;
    KILLED(killed);
    snapshot(killed);
    char *after = world_read_file("config/topics.json");
    uint32_t written = strcmp(before, after) != 0; /* a slow machine: the document may have been written behind */
    free(before);
    free(after);
    come_back(killed);
    world_start();
    cr_expect(queues_of("First") == 3 && queues_of("J0") == 1 && queues_of("J19") == 20 && queues_of("Many7") == 9 && queues_of("Last") == 1);
    cr_expect(!topic("Many8") && !topic("J3") && queues_of("Many9") == 2);
    cr_expect(zb.topics_version.counter >= counter, "%lld < %lld", (long long)zb.topics_version.counter, (long long)counter);
    char *text = world_read_file("config/topics.json");
    cr_expect(text && strstr(text, "\"Last\"") && !strstr(text, "\"Many8\"") && (written || strstr(text, "\"J19\"")));
    free(text);
    world_keep();
    world_stop();
    cr_expect(journal_files() == 0); /* a clean stop leaves the document alone */
    world_start();
    cr_expect(queues_of("Many7") == 9 && !topic("Many8"));
    world_stop();
}

Test(state, a_journal_that_was_cut_gives_what_is_whole)
{
    large_document(LARGE);
    world_start();
    cr_assert(topic_made("First", 3) == ZR_OK);
    cr_assert(topic_made("Whole", 4) == ZR_OK);
    cr_assert(topic_made("Torn", 5) == ZR_OK);
    KILLED(killed);
    snapshot(killed);
    come_back(killed);
    char path[160];
    struct stat st;
    uint32_t cut = 0;
    for (int i = 1; i < 5; i++) {
        snprintf(path, sizeof path, "%s/zarya/journal/topics.%d", world_dir, i);
        if (stat(path, &st) == 0 && st.st_size > 300)
            cut += truncate(path, st.st_size - 5) == 0;
    }
    cr_assert(cut > 0);
    world_start();
    cr_expect(queues_of("First") == 3 && queues_of("Whole") == 4);
    cr_expect(queues_of("Torn") == 0 || queues_of("Torn") == 5); /* 5: it was in the document already */
    world_stop();
}

/* Somebody else wrote the document after the kill: what it says counts, and what it cannot know is not lost. */
Test(state, a_document_of_somebody_elses_is_believed)
{
    large_document(LARGE);
    world_start();
    cr_assert(topic_made("First", 3) == ZR_OK);
    cr_assert(topic_made("New", 4) == ZR_OK && topic_made("Gone", 4) == ZR_OK && topic_made("Many7", 9) == ZR_OK);
    cr_assert(zb_topic_remove(zl_str("Gone")) == ZR_OK && zb_topic_remove(zl_str("Many8")) == ZR_OK && topic_made("Newer", 1) == ZR_OK);
    KILLED(killed);
    snapshot(killed);
    char *text = world_read_file("config/topics.json");
    uint32_t behind = text && !strstr(text, "\"New\""); /* else nothing is left to be seen here */
    free(text);
    come_back(killed);
    large_document(LARGE); /* knows Many7 with 2 queues, Many8, and not First */
    world_start();
    if (behind)
        cr_expect(queues_of("New") == 4 && queues_of("Newer") == 1 && queues_of("Many7") == 2 && queues_of("Many8") == 2);
    cr_expect(!topic("Gone") && !topic("First"));
    world_stop();
}

Test(state, a_backup_with_its_journal_is_as_good_as_the_document)
{
    large_document(LARGE);
    world_start();
    cr_assert(topic_made("First", 3) == ZR_OK);
    cr_assert(topic_made("Second", 4) == ZR_OK && topic_made("Many7", 9) == ZR_OK && zb_topic_remove(zl_str("Many8")) == ZR_OK);
    cr_assert(zb_doc_write(ZB_DOC_TOPICS) == ZR_OK);
    cr_assert(topic_made("Third", 5) == ZR_OK);
    KILLED(killed);
    snapshot(killed);
    come_back(killed);
    world_file("config/topics.json", "{ noise");
    world_start();
    cr_expect(queues_of("First") == 3 && queues_of("Second") == 4 && queues_of("Third") == 5 && queues_of("Many7") == 9 && !topic("Many8"));
    world_stop();
}

Test(state, without_a_folder_for_the_journal_the_document_is_written_each_time)
{
    large_document(LARGE);
    world_file("zarya", "a file where a folder has to be");
    world_start();
    cr_expect(topic_made("First", 3) == ZR_OK);
    cr_expect(topic_made("Second", 4) == ZR_OK);
    char *text = world_read_file("config/topics.json");
    cr_expect(text && strstr(text, "\"Second\""));
    free(text);
    world_stop();
}

Test(state, groups_of_a_large_document_and_what_they_may_not_consume_are_kept)
{
    struct zl_buf b;
    zl_buf_init(&b, 1ull << 30);
    zl_buf_cstr(&b, "{\"dataVersion\":{\"counter\":5},\"subscriptionGroupTable\":{");
    for (uint32_t i = 0; i < LARGE; i++)
        zl_buf_fmt(&b, "%s\"G%u\":{\"groupName\":\"G%u\"}", i ? "," : "", i, i);
    zl_buf_cstr(&b, "},\"forbiddenTable\":{\"G1\":{\"T\":4}}}");
    zl_buf_u8(&b, 0);
    world_file("config/subscriptionGroup.json", (const char *)b.ptr);
    zl_buf_free(&b);
    world_start();
    cr_assert(group_made("First") == ZR_OK && group_made("Second") == ZR_OK);
    zb_group_forbidden(zl_str("G2"), zl_str("Secret"), 4);
    zb_group_forbidden(zl_str("G1"), zl_str("T"), 0);
    cr_assert(zb_group_remove(zl_str("G3")) == ZR_OK);
    cr_assert(group_made("Third") == ZR_OK);
    KILLED(killed);
    snapshot(killed);
    come_back(killed);
    world_start();
    struct zb_group *g = zb_group_get(zl_str("Second"), 0), *third = zb_group_get(zl_str("Third"), 0);
    cr_expect(g && third && !zb_group_get(zl_str("G3"), 0));
    zb_group_unref(g);
    zb_group_unref(third);
    cr_expect(zb_group_forbidden(zl_str("G2"), zl_str("Secret"), -1) == 4 && zb_group_forbidden(zl_str("G1"), zl_str("T"), -1) == 0);
    world_stop();
}
