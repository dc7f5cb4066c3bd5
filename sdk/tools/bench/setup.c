/* SPDX-License-Identifier: Apache-2.0 */
/* setup.c - before the load: which brokers, which topics and queues, and where their offsets stand. Ordinary client
 * calls. */
#include "bench.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ROUTE_TRIES 100 /* a new topic shows in the name server within a moment: up to 10 s */

static int fail(const char *what, const struct zc_err *err)
{
    fprintf(stderr, "zarya-bench: %s: %s (code %d)\n", what, err->text, err->code);
    return 1;
}

static void topic_name(const struct bench *b, uint32_t i, char to[128])
{
    if (b->o.topics == 1)
        snprintf(to, 128, "%s", b->o.topic);
    else
        snprintf(to, 128, "%s-%u", b->o.topic, i);
}

static uint32_t addr_index(struct bench *b, const char *addr)
{
    for (uint32_t i = 0; i < b->n_addrs; i++)
        if (strcmp(b->addrs[i], addr) == 0) return i;
    void *grown = realloc(b->addrs, (b->n_addrs + 1) * sizeof(*b->addrs));
    if (!grown) abort();
    b->addrs = grown;
    snprintf(b->addrs[b->n_addrs], ZC_NAME_MAX, "%s", addr);
    return b->n_addrs++;
}

static void target_add(struct bench *b, const char *topic, const char *broker, int32_t queue, const char *addr)
{
    struct target *t = &b->targets[b->n_targets++];
    snprintf(t->topic, sizeof(t->topic), "%s", topic);
    snprintf(t->broker, sizeof(t->broker), "%s", broker);
    t->queue = queue;
    t->addr = addr_index(b, addr);
}

static int create_on(struct bench *b, const char *addr, const char *topic)
{
    struct zc_err err;
    struct zc_topic_config config = {
        .topic = topic, .read = (int32_t)b->o.queues, .write = (int32_t)b->o.queues, .perm = 6
    };
    return zc_admin_update_topic(b->client, addr, &config, &err) ? fail("making the topic", &err) : 0;
}

/* Straight at one broker: the queues are what we made. */
static int targets_direct(struct bench *b)
{
    char topic[128];
    for (uint32_t i = 0; i < b->o.topics; i++) {
        topic_name(b, i, topic);
        if (b->o.create && create_on(b, b->o.addr, topic)) return 1;
        for (uint32_t q = 0; q < b->o.queues; q++) target_add(b, topic, "", (int32_t)q, b->o.addr);
    }
    return 0;
}

static int create_everywhere(struct bench *b)
{
    struct zc_reply cluster;
    struct zc_err err;
    char topic[128], addr[ZC_NAME_MAX];
    if (zc_admin_cluster(b->client, &cluster, &err)) return fail("brokers", &err);
    const struct zl_json *table = zl_json_get(cluster.root, "brokerAddrTable");
    int rc = 0;
    uint32_t n = 0;
    for (const struct zl_json *broker = table ? table->child : NULL; broker && rc == 0; broker = broker->next) {
        struct zr_str master = zl_json_get_str(zl_json_get(broker, "brokerAddrs"), "0");
        if (master.len == 0 || master.len >= sizeof(addr)) continue;
        memcpy(addr, master.ptr, master.len);
        addr[master.len] = 0;
        n++;
        for (uint32_t i = 0; i < b->o.topics && rc == 0; i++) {
            topic_name(b, i, topic);
            rc = create_on(b, addr, topic);
        }
    }
    zc_reply_free(&cluster);
    if (rc == 0 && n == 0) rc = 1, fprintf(stderr, "zarya-bench: the name server knows no broker\n");
    return rc;
}

/* Waits for a topic's route and adds its queues. */
static int targets_routed(struct bench *b, const char *topic)
{
    struct zc_err err;
    for (int i = 0; i < ROUTE_TRIES; i++) {
        struct zc_queue *queues;
        uint32_t n = 0;
        char addr[ZC_NAME_MAX];
        int rc = zc_queues(b->client, topic, 1, &queues, &n, &err);
        for (uint32_t q = 0; rc == 0 && q < n && (uint32_t)b->n_targets < b->o.topics * b->o.queues * 64; q++)
            if ((uint32_t)queues[q].queue_id < b->o.queues &&
                (rc = zc_broker_addr(b->client, queues[q].broker, 0, addr, &err)) == 0)
                target_add(b, topic, queues[q].broker, queues[q].queue_id, addr);
        free(queues);
        if (rc == 0 && n) return 0;
        if (rc && rc != ZC_ENOROUTE) return fail("the topic's route", &err);
        usleep(100000); /* a remote condition nobody signals: asked again ten times a second */
    }
    return fail("the topic's route", &err);
}

int setup_targets(struct bench *b)
{
    char topic[128];
    uint64_t cap = (uint64_t)b->o.topics * b->o.queues * (b->o.namesrv ? 64 : 1);
    if ((uint64_t)b->o.topics * b->o.queues > MAX_TARGETS)
        return fprintf(stderr, "zarya-bench: more than %u queues\n", MAX_TARGETS), 2;
    b->targets = calloc(cap > MAX_TARGETS ? MAX_TARGETS : cap, sizeof(*b->targets));
    if (!b->targets) return 1;
    if (b->o.addr) return targets_direct(b);
    if (b->o.create && create_everywhere(b)) return 1;
    for (uint32_t i = 0; i < b->o.topics; i++) {
        topic_name(b, i, topic);
        if (targets_routed(b, topic)) return 1;
    }
    return 0;
}

int setup_route_targets(struct bench *b)
{
    b->targets = calloc(b->o.topics, sizeof(*b->targets));
    if (!b->targets) return 1;
    addr_index(b, b->o.addr ? b->o.addr : b->o.namesrv);
    for (uint32_t i = 0; i < b->o.topics; i++) topic_name(b, i, b->targets[b->n_targets++].topic);
    return 0;
}

/* Where each queue begins (pull) or ends (all others) now. */
int setup_offsets(struct bench *b)
{
    for (uint32_t i = 0; i < b->n_targets; i++) {
        struct target *t = &b->targets[i];
        char number[16];
        struct zr_field fields[2] = { { ZR_STR("topic"), zl_str(t->topic) }, { ZR_STR("queueId"), { number, 0 } } };
        fields[1].value.len = zl_print_i64(number, t->queue);
        struct zc_request request = { .code = b->o.mode == MODE_PULL ? 31 : 30, .fields = fields, .n_fields = 2 };
        struct zc_response *response;
        struct zc_err err;
        if (zc_call_ok(b->client, b->addrs[t->addr], &request, &response, &err)) return fail("offset", &err);
        zr_status st = zl_field_i64(response->fields, response->n_fields, "offset", &t->from);
        zc_response_free(response);
        if (st != ZR_OK) return fprintf(stderr, "zarya-bench: an offset answer without offset\n"), 1;
        t->next = t->from;
    }
    return 0;
}
