/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - the command line of zarya-bench. */
#include "bench.h"
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char USAGE[] =
    "usage: zarya-bench MODE [options]\n"
    "\n"
    "modes\n"
    "  send     requests of --batch messages to --topics x --queues\n"
    "  pull     reads the queues over and over (fill them with --fill N)\n"
    "  e2e      sends, and consumes by long polls: latency from the intended start to the consumer\n"
    "  route    route queries to a name server\n"
    "  idle     memory, threads and CPU of --pid over --duration, without load\n"
    "\n"
    "where\n"
    "  --addr A           the server: host:port or ipc:///path (route: the name server)\n"
    "  --namesrv A        or: find the brokers through this name server\n"
    "  --topic T          topic name, or prefix with --topics > 1 (zarya-bench)\n"
    "  --topics N         how many (1)               --queues N     of each (8)\n"
    "  --no-create        the topics exist\n"
    "  --group G          consumer and producer group (zarya-bench)\n"
    "\n"
    "load\n"
    "  --connections N    (1)                        --inflight N   requests under way on each (1; open loop 64)\n"
    "  --size N           body bytes (1024)          --batch N      messages a request (1)\n"
    "  --rate N           messages a second in an open loop, latency from the intended start; 0: closed loop (0)\n"
    "  --spin-us N        open loop: awake so long before each intended start, so as not to be late (100)\n"
    "  --duration S       measured seconds (10)      --count N      or: messages (no duration then)\n"
    "  --warmup S         seconds before (2)         --threads N    (1)\n"
    "  --consumers N      e2e: pulling connections (1)\n"
    "  --pull-max N       messages a pull (32)       --fill N       pull: messages to send first (0)\n"
    "  --tags E           pull: what matches this tag expression only; --sql E: this SQL92 expression only\n"
    "  --header json|binary                          (json)\n"
    "\n"
    "result\n"
    "  --json             one JSON object            --label TEXT   printed with it\n"
    "  --pid N            CPU and memory of that process beside it\n"
    "  --verify           bodies carry sequence and checksum; says what was lost, doubled, reordered, corrupt\n"
    "\n"
    "exit code: 0 ok; 1 requests failed, or something was lost, doubled or corrupt; 2 usage\n";

enum {
    O_ADDR = 256,
    O_NAMESRV,
    O_TOPIC,
    O_TOPICS,
    O_QUEUES,
    O_NO_CREATE,
    O_GROUP,
    O_CONNECTIONS,
    O_INFLIGHT,
    O_SIZE,
    O_BATCH,
    O_RATE,
    O_SPIN_US,
    O_DURATION,
    O_COUNT,
    O_WARMUP,
    O_THREADS,
    O_CONSUMERS,
    O_PULL_MAX,
    O_FILL,
    O_TAGS,
    O_SQL,
    O_HEADER,
    O_JSON,
    O_LABEL,
    O_PID,
    O_VERIFY,
    O_HELP
};

static const struct option LONG[] = {
    { "addr", 1, 0, O_ADDR },
    { "namesrv", 1, 0, O_NAMESRV },
    { "topic", 1, 0, O_TOPIC },
    { "topics", 1, 0, O_TOPICS },
    { "queues", 1, 0, O_QUEUES },
    { "no-create", 0, 0, O_NO_CREATE },
    { "group", 1, 0, O_GROUP },
    { "connections", 1, 0, O_CONNECTIONS },
    { "inflight", 1, 0, O_INFLIGHT },
    { "size", 1, 0, O_SIZE },
    { "batch", 1, 0, O_BATCH },
    { "rate", 1, 0, O_RATE },
    { "spin-us", 1, 0, O_SPIN_US },
    { "duration", 1, 0, O_DURATION },
    { "count", 1, 0, O_COUNT },
    { "warmup", 1, 0, O_WARMUP },
    { "threads", 1, 0, O_THREADS },
    { "consumers", 1, 0, O_CONSUMERS },
    { "pull-max", 1, 0, O_PULL_MAX },
    { "fill", 1, 0, O_FILL },
    { "tags", 1, 0, O_TAGS },
    { "sql", 1, 0, O_SQL },
    { "header", 1, 0, O_HEADER },
    { "json", 0, 0, O_JSON },
    { "label", 1, 0, O_LABEL },
    { "pid", 1, 0, O_PID },
    { "verify", 0, 0, O_VERIFY },
    { "help", 0, 0, O_HELP },
    { 0 },
};

static int number(const char *what, const char *text, double min, double max, double *ret)
{
    char *end;
    *ret = strtod(text, &end);
    if (end != text && *end == 0 && *ret >= min && *ret <= max) return 0;
    fprintf(stderr, "zarya-bench: --%s %s: a number from %.12g to %.12g is wanted\n", what, text, min, max);
    return 2;
}

static int whole(const char *what, const char *text, uint32_t min, uint32_t max, uint32_t *ret)
{
    double v;
    int rc = number(what, text, min, max, &v);
    if (rc == 0) *ret = (uint32_t)v;
    return rc;
}

static int mode_of(const char *text, enum mode *ret)
{
    static const char *const NAMES[] = { "send", "pull", "e2e", "route", "idle" };
    for (int i = 0; i < 5; i++)
        if (strcmp(text, NAMES[i]) == 0) return *ret = (enum mode)i, 0;
    fprintf(stderr, "zarya-bench: no mode %s; there are send, pull, e2e, route, idle\n", text);
    return 2;
}

static int option(struct options *o, int c, const char *name)
{
    double v = 0;
    uint32_t pid = 0;
    int rc = 0;
    switch (c) {
    case O_ADDR:
        o->addr = optarg;
        break;
    case O_NAMESRV:
        o->namesrv = optarg;
        break;
    case O_TOPIC:
        o->topic = optarg;
        break;
    case O_GROUP:
        o->group = optarg;
        break;
    case O_LABEL:
        o->label = optarg;
        break;
    case O_TAGS:
    case O_SQL:
        o->expression = optarg;
        o->language = c == O_SQL ? "SQL92" : "TAG";
        break;
    case O_NO_CREATE:
        o->create = 0;
        break;
    case O_JSON:
        o->json = 1;
        break;
    case O_VERIFY:
        o->verify = 1;
        break;
    case O_TOPICS:
        return whole(name, optarg, 1, 200000, &o->topics);
    case O_QUEUES:
        return whole(name, optarg, 1, 65536, &o->queues);
    case O_CONNECTIONS:
        return whole(name, optarg, 1, MAX_CONNS, &o->conns);
    case O_INFLIGHT:
        return whole(name, optarg, 1, MAX_INFLIGHT, &o->inflight);
    case O_SIZE:
        return whole(name, optarg, 1, MAX_SIZE, &o->size);
    case O_BATCH:
        return whole(name, optarg, 1, MAX_BATCH, &o->batch);
    case O_THREADS:
        return whole(name, optarg, 1, MAX_THREADS, &o->threads);
    case O_CONSUMERS:
        return whole(name, optarg, 1, 1000, &o->consumers);
    case O_PULL_MAX:
        return whole(name, optarg, 1, 10000, &o->pull_max);
    case O_PID:
        rc = whole(name, optarg, 1, 1u << 30, &pid), o->pid = (int32_t)pid;
        break;
    case O_SPIN_US:
        return whole(name, optarg, 0, 1000000, &o->spin_us);
    case O_RATE:
        return number(name, optarg, 0, 1e9, &o->rate);
    case O_DURATION:
        return number(name, optarg, 0.1, 86400, &o->duration);
    case O_WARMUP:
        return number(name, optarg, 0, 86400, &o->warmup);
    case O_COUNT:
        rc = number(name, optarg, 1, 1e12, &v), o->count = (uint64_t)v;
        break;
    case O_FILL:
        rc = number(name, optarg, 0, 1e12, &v), o->fill = (uint64_t)v;
        break;
    case O_HEADER:
        o->binary = strcmp(optarg, "binary") == 0;
        if (!o->binary && strcmp(optarg, "json") != 0)
            rc = 2, fprintf(stderr, "zarya-bench: --header is json or binary\n");
        break;
    default:
        rc = 2;
    }
    return rc;
}

static int options_check(struct options *o)
{
    const char *wrong = NULL;
    if (o->mode == MODE_IDLE ? !o->pid : 0)
        wrong = "idle needs --pid";
    else if (o->mode != MODE_IDLE && !o->addr && !o->namesrv)
        wrong = "--addr or --namesrv is needed";
    else if ((o->verify || o->mode == MODE_E2E) && o->size < STAMP_SIZE)
        wrong = "--verify and e2e need a --size of at least 40";
    else if (o->mode == MODE_PULL && o->rate > 0)
        wrong = "pull has no --rate";
    else if (o->mode != MODE_PULL && strcmp(o->expression, "*") != 0)
        wrong = "--tags and --sql are for pull";
    else if (o->mode == MODE_E2E && o->rate == 0)
        wrong = "e2e needs a --rate";
    else if (o->mode == MODE_E2E && o->verify && o->count == 0 && o->duration == 0)
        wrong = "e2e needs --duration or --count";
    if (!wrong) return 0;
    fprintf(stderr, "zarya-bench: %s (--help)\n", wrong);
    return 2;
}

int options_parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){ .conns = 1,
                           .size = 1024,
                           .batch = 1,
                           .topics = 1,
                           .queues = 8,
                           .threads = 1,
                           .consumers = 1,
                           .pull_max = 32,
                           .create = 1,
                           .duration = 10,
                           .warmup = 2,
                           .spin_us = 100,
                           .expression = "*",
                           .language = "TAG",
                           .topic = "zarya-bench",
                           .group = "zarya-bench" };
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        fputs(USAGE, argc < 2 ? stderr : stdout);
        if (argc >= 2) exit(0);
        return 2;
    }
    int rc = mode_of(argv[1], &o->mode), c, at = 0;
    optind = 2;
    while (rc == 0 && (c = getopt_long(argc, argv, "h", LONG, &at)) != -1) {
        if (c == O_HELP || c == 'h') {
            fputs(USAGE, stdout);
            exit(0);
        }
        rc = option(o, c, LONG[at].name);
    }
    if (rc == 0 && optind < argc) rc = 2, fprintf(stderr, "zarya-bench: what is %s? (--help)\n", argv[optind]);
    if (rc == 0) rc = options_check(o);
    if (o->inflight == 0) o->inflight = o->rate > 0 ? 64 : 1; /* an open loop must not wait for places */
    if (o->threads > o->conns + o->consumers) o->threads = o->conns + o->consumers;
    if (o->mode != MODE_E2E && o->threads > o->conns) o->threads = o->conns;
    return rc;
}
