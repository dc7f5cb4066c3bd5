/* SPDX-License-Identifier: Apache-2.0 */
/* clients.c - heartbeats, membership, who is told of what. */
#include "world.h"

static struct answer a;

static void make_topic(const char *name)
{
    struct zr_topic t = {
        .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str(name), .read_queues = 4, .write_queues = 4, .perm = 6
    };
    cr_assert(zb_broker_table.put_topic(NULL, &t, NULL, NULL) == ZR_OK);
}

static uint32_t n_subs, n_clients;
static char sub_text[64];
static void on_group(void *ctx, const struct zr_consumers *g)
{
    (void)ctx;
    n_clients = g->n_clients;
    n_subs = g->n_subscriptions;
    for (uint32_t i = 0; i < g->n_subscriptions; i++)
        if (zl_is(g->subscriptions[i].topic, "T"))
            snprintf(sub_text, sizeof sub_text, "%.*s", (int)g->subscriptions[i].text.len,
                     g->subscriptions[i].text.ptr);
}

static zr_status look(const char *group)
{
    n_subs = n_clients = 0;
    return zb_broker_table.consumers(NULL, zl_str(group), on_group, NULL);
}

Test(heartbeat, makes_the_group_and_its_retry_topic_and_tells_before_it_answers)
{
    world_start();
    make_topic("T");
    struct client *c = client_open(0);
    cr_assert(beat(c, "id1", "G", "T", "*", &a) == 0);
    cr_expect(zl_is(answer_field(&a, "IS_SUPPORT_HEART_BEAT_V2"), "true") &&
              zl_is(answer_field(&a, "IS_SUB_CHANGE"), "true"));
    answer_free(&a);
    cr_expect(client_told(c, 40) == 1);
    cr_expect(strcmp(registry_last, "%RETRY%G") == 0);
    struct zb_topic *t = zb_topic_get(zl_str("%RETRY%G"));
    cr_assert(t && t->read_queues == 1 && t->perm == 6);
    zb_topic_unref(t);
    struct zb_group *g = zb_group_get(zl_str("G"), 0);
    cr_assert(g && g->retry_max_times == 16 && g->notify);
    zb_group_unref(g);
    cr_expect(beat(c, "id1", "G", "T", "*", &a) == 0);
    answer_free(&a);
    cr_expect(client_told(c, 40) == 1); /* nothing changed */
    cr_expect(look("G") == ZR_OK && n_clients == 1 && n_subs == 2);
    cr_expect(client_ask(c, 38, FIELDS("consumerGroup", "G"), NULL, &a) == 0);
    cr_expect(a.h.body.len == strlen("{\"consumerIdList\":[\"id1\"]}") &&
              memcmp(a.h.body.ptr, "{\"consumerIdList\":[\"id1\"]}", a.h.body.len) == 0);
    answer_free(&a);
    world_stop();
}

Test(heartbeat, is_answered_when_the_retry_topic_is_known)
{
    world_start();
    make_topic("T");
    struct client *c = client_open(0);
    registry_holds = 1;
    const char *body = "{\"clientID\":\"x\",\"consumerDataSet\":[{\"groupName\":\"G\",\"subscriptionDataSet\":[]}],"
                       "\"producerDataSet\":[]}";
    int32_t o = client_put(c, 34, 0, NULL, body, strlen(body));
    client_turn(c);
    world_pump();
    cr_expect(!client_take(c, o, &a));
    cr_expect(look("G") == ZR_ENOENT); /* registered afterwards */
    registry_answer();
    client_wait(c, o, &a);
    cr_expect(a.code == 0);
    answer_free(&a);
    cr_expect(look("G") == ZR_OK && n_clients == 1);
    world_stop();
}

Test(heartbeat, members_come_and_go)
{
    world_start();
    make_topic("T");
    struct client *c = client_open(0), *d = client_open(1);
    cr_assert(beat(c, "id1", "G", "T", "*", &a) == 0);
    answer_free(&a);
    cr_assert(beat(d, "id2", "G", "T", "*", &a) == 0);
    answer_free(&a);
    cr_expect(client_told(c, 40) == 2 && client_told(d, 40) == 1);
    cr_expect(look("G") == ZR_OK && n_clients == 2);
    struct zr_session *s = zb_broker_table.client(NULL, zl_str("G"), zl_str("id2"), 0);
    cr_expect(s != NULL);
    zk_session_release(s);
    client_close(d);
    cr_expect(client_told(c, 40) == 3);
    cr_expect(look("G") == ZR_OK && n_clients == 1);
    cr_expect(client_ask(c, 35, FIELDS("clientID", "id1", "consumerGroup", "G"), NULL, &a) == 0);
    answer_free(&a);
    cr_expect(look("G") == ZR_ENOENT);
    cr_expect(client_ask(c, 38, FIELDS("consumerGroup", "G"), NULL, &a) == 1);
    cr_expect(zl_is(a.h.remark, "no consumer for this group, G"));
    answer_free(&a);
    s = zb_broker_table.client(NULL, zl_str("CLIENT_INNER_PRODUCER"), (struct zr_str){ NULL, 0 }, 1);
    cr_expect(s != NULL);
    zk_session_release(s);
    world_stop();
}

Test(heartbeat, the_last_one_decides_what_the_group_subscribes)
{
    world_start();
    make_topic("T");
    make_topic("U");
    struct client *c = client_open(0), *d = client_open(0);
    cr_assert(beat(c, "id1", "G", "T", "A", &a) == 0);
    answer_free(&a);
    cr_assert(beat(c, "id1", "G", "T", "B", &a) == 0); /* the same version: the old one stays */
    answer_free(&a);
    cr_expect(look("G") == ZR_OK && strcmp(sub_text, "A") == 0);
    cr_assert(beat(d, "id2", "G", "U", "*", &a) == 0);
    answer_free(&a);
    uint32_t model, type;
    struct zb_sub *sub;
    cr_expect(zb_consumer_find(zl_str("G"), zl_str("T"), &model, &type, &sub) == ZR_OK && sub == NULL);
    cr_expect(zb_consumer_find(zl_str("G"), zl_str("U"), &model, &type, &sub) == ZR_OK && sub != NULL);
    zb_sub_unref(sub);
    cr_expect(client_told(c, 40) >= 2);
    world_stop();
}

static int32_t beat2(struct client *c, int32_t fingerprint, uint32_t without)
{
    char body[512];
    snprintf(body, sizeof body,
             "{\"clientID\":\"v2\",\"consumerDataSet\":[{\"consumeType\":\"CONSUME_PASSIVELY\",\"groupName\":\"G\","
             "\"messageModel\":\"LITE_SELECTIVE\","
             "\"subscriptionDataSet\":[%s]}],\"heartbeatFingerprint\":%d,\"producerDataSet\":[],\"withoutSub\":%s}",
             without ? "" : "{\"topic\":\"T\",\"subString\":\"*\",\"subVersion\":\"9\"},", fingerprint,
             without ? "true" : "false");
    return client_ask(c, 34, NULL, body, &a);
}

static uint32_t sub_changed(void)
{
    uint32_t changed = zl_is(answer_field(&a, "IS_SUB_CHANGE"), "true");
    answer_free(&a);
    return changed;
}

Test(heartbeat, version_2_leaves_subscriptions_out)
{
    world_start();
    make_topic("T");
    struct client *c = client_open(0);
    cr_assert(beat2(c, 7, 1) == 0);
    cr_expect(sub_changed()); /* nobody knows its subscriptions: the long form is wanted */
    cr_assert(beat2(c, 7, 0) == 0);
    cr_expect(!sub_changed());
    cr_assert(beat2(c, 7, 1) == 0);
    cr_expect(!sub_changed());
    cr_expect(look("G") == ZR_OK && n_subs == 1);
    cr_assert(beat2(c, 8, 1) == 0);
    cr_expect(sub_changed());
    world_stop();
}

Test(heartbeat, nonsense_is_refused_and_the_connection_lives)
{
    world_start();
    struct client *c = client_open(0);
    const char *const bodies[] = { "", "{", "[]", "{}", "{\"clientID\":\"\"}", "null" };
    for (uint32_t i = 0; i < sizeof bodies / sizeof bodies[0]; i++) {
        cr_expect_eq(client_ask(c, 34, NULL, bodies[i], &a), 1, "%s", bodies[i]);
        answer_free(&a);
    }
    cr_expect(client_ask(c, 34, NULL,
                         "{\"clientID\":\"x\",\"consumerDataSet\":7,\"producerDataSet\":[{\"groupName\":\"\"},{}]}",
                         &a) == 0);
    answer_free(&a);
    world_stop();
}

static void soon(struct zb_settings *s)
{
    s->channel_expired_ms = 1000;
    s->client_scan_ms = 100;
}

Test(heartbeat, silent_clients_are_disconnected)
{
    world_start_with(soon);
    make_topic("T");
    struct client *c = client_open(0), *quiet = client_open(0);
    cr_assert(beat(c, "id1", "G", "T", "*", &a) == 0);
    answer_free(&a);
    for (uint32_t i = 0; i < 2000 && !client_is_closed(c); i++) {
        struct timespec ms = { 0, 10000000 };
        nanosleep(&ms, NULL);
        world_pump();
    }
    cr_expect(client_is_closed(c));
    cr_expect(!client_is_closed(quiet)); /* never was a member */
    cr_expect(look("G") == ZR_ENOENT);
    world_stop();
}

static uint32_t gone, changed;
static void hook(const struct zr_event *event, struct zr_verdict *verdict)
{
    (void)verdict;
    if (event->point == ZR_POINT_CLIENT_GONE && zl_is(event->group, "G") && zl_is(event->client_id, "id1"))
        gone++;
    changed += event->point == ZR_POINT_GROUP_CHANGED && zl_is(event->group, "G");
}

Test(heartbeat, hooks_hear_of_changes)
{
    world_start();
    make_topic("T");
    world_hook = hook;
    world_hook_points = 1u << ZR_POINT_CLIENT_GONE | 1u << ZR_POINT_GROUP_CHANGED;
    struct client *c = client_open(0);
    cr_assert(beat(c, "id1", "G", "T", "*", &a) == 0);
    answer_free(&a);
    cr_expect(changed == 1 && gone == 0);
    client_close(c);
    cr_expect(changed == 2 && gone == 1);
    world_stop();
}

static void tight(struct zb_settings *s) { s->max_clients = 2; }

Test(heartbeat, memberships_are_bounded)
{
    world_start_with(tight);
    make_topic("T");
    struct client *c = client_open(0), *d = client_open(0);
    cr_expect(beat(c, "id1", "G", "T", "*", &a) == 0);
    answer_free(&a);
    cr_expect(beat(d, "id2", "G", "T", "*", &a) == 1);
    answer_free(&a);
    world_stop();
}

static void few_groups(struct zb_settings *s) { s->max_peer_groups = 3; }

Test(heartbeat, one_connection_is_in_so_many_groups)
{
    static const char *const three = "{\"clientID\":\"x\",\"consumerDataSet\":[],\"producerDataSet\":"
                                     "[{\"groupName\":\"P1\"},{\"groupName\":\"P2\"},{\"groupName\":\"P3\"}]}";
    static const char *const other = "{\"clientID\":\"x\",\"consumerDataSet\":[],\"producerDataSet\":[{\"groupName\":\"P4\"}]}";
    world_start_with(few_groups);
    struct client *c = client_open(0), *d = client_open(1);
    for (uint32_t i = 0; i < 2; i++) { /* the same ones again are no more */
        cr_expect(client_ask(c, 34, NULL, three, &a) == 0);
        answer_free(&a);
    }
    cr_expect(client_ask(c, 34, NULL, other, &a) == 1);
    cr_expect(a.h.remark.len && memmem(a.h.remark.ptr, a.h.remark.len, "maxGroupsOfConnection", 21));
    answer_free(&a);
    cr_expect(client_ask(d, 34, NULL, other, &a) == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 35, FIELDS("clientID", "x", "producerGroup", "P2"), NULL, &a) == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 34, NULL, other, &a) == 0);
    answer_free(&a);
    client_close(c);
    cr_expect(zb.members.n == 1);
    client_close(d);
    cr_expect(zb.members.n == 0);
    world_stop();
}

Test(check_client_config, follows_the_switch_and_the_parser)
{
    world_start();
    struct client *c = client_open(0);
    const char *sql = "{\"clientId\":\"c\",\"group\":\"G\",\"subscriptionData\":{\"expressionType\":\"SQL92\","
                      "\"subString\":\"a = 'x'\",\"topic\":\"T\"}}";
    cr_expect(client_ask(c, 46, NULL, "{\"subscriptionData\":{\"expressionType\":\"TAG\",\"subString\":\"A\"}}", &a) ==
              0);
    answer_free(&a);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("enablePropertyFilter"), zl_str("false")) == ZR_OK);
    cr_expect(client_ask(c, 46, NULL, sql, &a) == 1);
    cr_expect(zl_is(a.h.remark, "The broker does not support consumer to filter message by SQL92"));
    answer_free(&a);
    cr_assert(zb_broker_table.set_config(NULL, zl_str("enablePropertyFilter"), zl_str("true")) == ZR_OK);
    cr_expect(client_ask(c, 46, NULL, sql, &a) == 0);
    answer_free(&a);
    cr_expect(client_ask(c, 46, NULL, "{\"subscriptionData\":{\"expressionType\":\"SQL92\",\"subString\":\"b > 1\"}}",
                         &a) == 23);
    cr_expect(zl_is(a.h.remark, "only a = 'x' is understood"));
    answer_free(&a);
    world_stop();
}

Test(clients, a_heartbeat_of_many_new_groups_announces_all_of_their_retry_topics)
{
    struct answer a;
    struct zl_buf body;
    world_start();
    struct client *c = client_open(0);
    zl_buf_init(&body, 1u << 20);
    zl_buf_cstr(&body, "{\"clientID\":\"many\",\"consumerDataSet\":[");
    for (uint32_t i = 0; i < 100; i++) {
        char entry[96];
        snprintf(entry, sizeof entry, "%s{\"groupName\":\"Group%u\",\"subscriptionDataSet\":[]}", i ? "," : "", i);
        zl_buf_cstr(&body, entry);
    }
    zl_buf_add(&body, "]}", 3);
    uint32_t before = registry_topics;
    cr_assert(client_ask(c, 34, NULL, (const char *)body.ptr, &a) == 0);
    answer_free(&a);
    cr_expect(registry_topics == before + 100, "%u", registry_topics - before);
    zl_buf_free(&body);
    world_stop();
}

static pthread_mutex_t told_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t told_cond = PTHREAD_COND_INITIALIZER;
static zr_status told_status;
static uint32_t told;

static void tell_me(void *ctx, zr_status status)
{
    (void)ctx;
    pthread_mutex_lock(&told_lock);
    told_status = status;
    told = 1;
    pthread_cond_signal(&told_cond);
    pthread_mutex_unlock(&told_lock);
}

static zr_status announce_and_wait(void)
{
    struct zr_str name = ZR_STR("TBW102");
    told = 0;
    zb_announce(&name, 1, tell_me, NULL);
    pthread_mutex_lock(&told_lock);
    while (!told)
        pthread_cond_wait(&told_cond, &told_lock);
    pthread_mutex_unlock(&told_lock);
    return told_status;
}

Test(clients, a_silent_registry_is_waited_for_once_until_it_answers_again, .timeout = 60)
{
    world_start();
    cr_expect(announce_and_wait() == ZR_OK);
    registry_holds = 1;
    cr_expect(announce_and_wait() == ZR_ETIMEOUT);
    cr_expect(announce_and_wait() == ZR_OK); /* nobody answered, and nobody waited */
    cr_expect(announce_and_wait() == ZR_OK);
    registry_holds = 0;
    cr_expect(announce_and_wait() == ZR_OK); /* it answers: the next one waits again */
    registry_holds = 1;
    cr_expect(announce_and_wait() == ZR_ETIMEOUT);
    registry_answer();
    world_stop();
}
