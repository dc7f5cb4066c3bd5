/* SPDX-License-Identifier: Apache-2.0 */
/* quickstart.c - zarya-quickstart producer|consumer: RocketMQ's quickstart, said in C. The producer sends 1000 messages
 * to TopicTest (4.x sends as many), the consumer prints what comes until it is interrupted. Output as the Java
 * programs'. */
#include "zc/client.h"
#include "zl/record.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TOPIC "TopicTest"

static const char USAGE[] =
    "usage: zarya-quickstart producer|consumer [-n namesrv] [-t topic] [-g group] [-c count]\n"
    "  -n  name server, else NAMESRV_ADDR, else the address server of ROCKETMQ_NAMESRV_DOMAIN, else 127.0.0.1:9876\n"
    "  -c  producer: how many to send (1000); consumer: end after so many (0: never)\n";

struct args {
    const char *namesrv, *topic, *group;
    long count;
};

/* The main thread waits for a signal: ^C, or our own when the consumer has had enough. */
static struct {
    long left;
    sigset_t signals;
} enough;

static void print_sent(const struct zc_send_result *r)
{
    printf("SendResult [sendStatus=%s, msgId=%s, offsetMsgId=%s, messageQueue=MessageQueue [topic=%s, brokerName=%s, "
           "queueId=%d], queueOffset=%lld]\n",
           zc_send_status_name(r->status), r->msg_id, r->offset_msg_id, r->queue.topic, r->queue.broker,
           r->queue.queue_id, (long long)r->queue_offset);
}

static int run_producer(struct zc_client *client, const struct args *a)
{
    struct zc_err err;
    struct zc_producer *p = zc_producer_open(
        client, &(struct zc_producer_options){ .group = a->group ? a->group : "please_rename_unique_group_name" },
        &err);
    int rc = 0;
    if (!p) return fprintf(stderr, "zarya-quickstart: %s\n", err.text), 1;
    for (long i = 0; i < a->count; i++) {
        char body[64];
        struct zc_send_result result;
        int n = snprintf(body, sizeof(body), "Hello RocketMQ %ld", i);
        struct zc_message msg = { .topic = zl_str(a->topic),
                                  .tags = zl_str("TagA"),
                                  .body = { (const uint8_t *)body, (uint64_t)n } };
        if (zc_send(p, &msg, NULL, &result, &err) == 0) {
            print_sent(&result);
            continue;
        }
        fprintf(stderr, "org.apache.rocketmq.client.exception: CODE: %d  DESC: %s\n", err.code, err.text);
        rc = 1;
        if (err.code == ZC_ENOROUTE || err.code == ZC_ENONS || err.code == ZC_ECONNECT)
            break; /* the next one would fail just so */
    }
    zc_producer_close(p);
    return rc;
}

static void print_props(const struct zc_received *m)
{
    uint64_t pos = 0;
    struct zr_str name, value;
    const char *comma = "";
    while (zl_props_next(m->properties, &pos, &name, &value)) {
        printf("%s%.*s=%.*s", comma, (int)name.len, name.ptr, (int)value.len, value.ptr);
        comma = ", ";
    }
}

static void print_received(const struct zc_received *m, uint32_t thread)
{
    char born[64], store[64];
    born[zl_addr_print(born, &m->born_host)] = 0;
    store[zl_addr_print(store, &m->store_host)] = 0;
    printf("ConsumeMessageThread_%u Receive New Messages: [MessageExt [brokerName=%.*s, queueId=%d, storeSize=%u, "
           "queueOffset=%lld, sysFlag=%d, bornTimestamp=%lld, "
           "bornHost=/%s, storeTimestamp=%lld, storeHost=/%s, msgId=%s, commitLogOffset=%lld, bodyCRC=%u, "
           "reconsumeTimes=%d, preparedTransactionOffset=%lld, "
           "toString()=Message{topic='%.*s', flag=%d, properties={",
           thread, (int)m->broker.len, m->broker.ptr, m->queue_id, m->store_size, (long long)m->queue_offset,
           m->sys_flag, (long long)m->born_ms, born, (long long)m->store_ms, store, m->offset_msg_id,
           (long long)m->physical_offset, m->body_crc, m->reconsume_times, (long long)m->prepared_offset,
           (int)m->topic.len, m->topic.ptr, m->flag);
    print_props(m);
    printf("}, body=[");
    for (uint64_t i = 0; i < m->body.len && i < 1024; i++) printf("%s%d", i ? ", " : "", (int8_t)m->body.ptr[i]);
    printf("], transactionId='null'}]] %.*s\n", m->body.len < 1024 ? (int)m->body.len : 0, (const char *)m->body.ptr);
}

static int on_messages(void *ctx, struct zc_delivery *d)
{
    long *left = ctx;
    flockfile(stdout);
    for (uint32_t i = 0; i < d->n; i++) print_received(&d->msgs[i], d->thread);
    fflush(stdout);
    funlockfile(stdout);
    if (*left && __atomic_sub_fetch(left, (long)d->n, __ATOMIC_RELAXED) <= 0) kill(getpid(), SIGTERM);
    return ZC_CONSUMED;
}

static int run_consumer(struct zc_client *client, const struct args *a)
{
    struct zc_err err;
    int got;
    enough.left = a->count;
    struct zc_consumer_options o = { .group = a->group ? a->group : "please_rename_unique_group_name_4",
                                     .from = ZC_FROM_FIRST,
                                     .threads = 20,
                                     .on_messages = on_messages,
                                     .ctx = &enough.left };
    struct zc_consumer *c = zc_consumer_open(client, &o, &err);
    int rc = !c || zc_consumer_subscribe(c, a->topic, "*", NULL, &err) || zc_consumer_start(c, &err);
    if (rc)
        fprintf(stderr, "zarya-quickstart: %s\n", err.text);
    else {
        printf("Consumer Started.\n");
        fflush(stdout);
        sigwait(&enough.signals, &got);
    }
    zc_consumer_close(c);
    return rc;
}

static int args_read(struct args *a, int argc, char **argv)
{
    const char *env = getenv("NAMESRV_ADDR");
    const char *domain = getenv("ROCKETMQ_NAMESRV_DOMAIN"),
               *fallback = domain && *domain ? NULL : "127.0.0.1:9876"; /* NULL: the client asks the address server */
    *a = (struct args){ .namesrv = env && *env ? env : fallback, .topic = TOPIC, .count = -1 };
    for (int i = 2; i < argc; i += 2) {
        if (i + 1 >= argc || argv[i][0] != '-' || !argv[i][1] || argv[i][2]) return 2;
        switch (argv[i][1]) {
        case 'n':
            a->namesrv = argv[i + 1];
            break;
        case 't':
            a->topic = argv[i + 1];
            break;
        case 'g':
            a->group = argv[i + 1];
            break;
        case 'c':
            a->count = strtol(argv[i + 1], NULL, 10);
            break;
        default:
            return 2;
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct args a;
    struct zc_err err;
    uint32_t producer = argc > 1 && strcmp(argv[1], "producer") == 0,
             consumer = argc > 1 && strcmp(argv[1], "consumer") == 0;
    if ((!producer && !consumer) || args_read(&a, argc, argv)) {
        uint32_t help = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
        fputs(USAGE, help ? stdout : stderr);
        return help ? 0 : 2;
    }
    if (a.count < 0) a.count = producer ? 1000 : 0;
    sigemptyset(&enough.signals);
    sigaddset(&enough.signals, SIGINT);
    sigaddset(&enough.signals, SIGTERM);
    if (consumer) sigprocmask(SIG_BLOCK, &enough.signals, NULL); /* before there are threads: they inherit it */
    struct zc_client *client = zc_client_open(&(struct zc_options){ .namesrv = a.namesrv }, &err);
    if (!client) return fprintf(stderr, "zarya-quickstart: %s\n", err.text), 1;
    int rc = producer ? run_producer(client, &a) : run_consumer(client, &a);
    zc_client_close(client);
    return rc;
}
