/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - zaryactl-store: `zaryactl store ...`. Commands, options, help. */
#include "tool.h"
#include <getopt.h>
#include <unistd.h>

static const char usage[] =
    "usage: zaryactl store check DIR [--repair [--accept-loss]] [--json] [--threads N]\n"
    "       zaryactl store show DIR --at POSITION [-n N]\n"
    "       zaryactl store show DIR --queue TOPIC/ID [--from N] [-n N]\n"
    "       zaryactl store show DIR --key TOPIC KEY [-n N]\n"
    "       zaryactl store show DIR --id MSGID\n"
    "       zaryactl store show DIR --segment\n"
    "       zaryactl store stats DIR [--retention HOURS]\n"
    "       zaryactl store convert DIR --to plain|zstd [--level N] [--accept-loss]\n"
    "DIR is a broker's data directory (the folder with commitlog in it). check, show and stats write nothing and work on the\n"
    "directory of a running broker too. Where the log lies elsewhere (path_commitlog), the broker has noted it in DIR/zarya/folders;\n"
    "otherwise --log-path DIR[,DIR] (and --log-path-read-only DIR[,DIR]) or --conf FILE (a zarya.conf or broker.conf) says where. check ends with 0: clean, 1: a start or --repair puts it right, 2: messages were lost,\n"
    "3: could not be checked. More options of all: --json, --segment-size N, --queue-file-size N, --index-slots N,\n"
    "--index-entries N (all four are found out as a rule). See zaryactl-store(1).\n";

enum { O_REPAIR = 256, O_JSON, O_THREADS, O_AT, O_QUEUE, O_FROM, O_KEY, O_ID, O_SEGMENT, O_RETENTION, O_TO, O_LEVEL, O_ACCEPT_LOSS, O_SEGMENT_SIZE,
       O_QUEUE_SIZE, O_SLOTS, O_ENTRIES, O_LOG_PATH, O_LOG_READ_ONLY, O_CONF };
static const struct option options[] = {
    { "repair", 0, NULL, O_REPAIR }, { "json", 0, NULL, O_JSON }, { "threads", 1, NULL, O_THREADS }, { "at", 1, NULL, O_AT },
    { "queue", 1, NULL, O_QUEUE }, { "from", 1, NULL, O_FROM }, { "key", 1, NULL, O_KEY }, { "id", 1, NULL, O_ID },
    { "segment", 0, NULL, O_SEGMENT }, { "retention", 1, NULL, O_RETENTION }, { "to", 1, NULL, O_TO }, { "level", 1, NULL, O_LEVEL }, { "accept-loss", 0, NULL, O_ACCEPT_LOSS },
    { "segment-size", 1, NULL, O_SEGMENT_SIZE }, { "queue-file-size", 1, NULL, O_QUEUE_SIZE }, { "index-slots", 1, NULL, O_SLOTS },
    { "index-entries", 1, NULL, O_ENTRIES }, { "log-path", 1, NULL, O_LOG_PATH },
    { "log-path-read-only", 1, NULL, O_LOG_READ_ONLY }, { "conf", 1, NULL, O_CONF }, { "help", 0, NULL, 'h' }, { NULL, 0, NULL, 0 },
};

struct args {
    struct zt_options opt;
    struct zt_show show;
    const char *words[4]; /* command, folder, and the key of --key */
    uint32_t n_words, repair, help;
    int64_t retention, level, threads;
    const char *to, *conf;
};

static int wrong(const char *what)
{
    fprintf(stderr, "zaryactl-store: %s\n%s", what, usage);
    return ZT_CANNOT;
}

static uint32_t number(const char *text, int64_t min, int64_t max, int64_t *ret)
{
    return zl_parse_i64(zl_str(text), ret) == ZR_OK && *ret >= min && *ret <= max;
}

/* A list of folders, each made absolute. */
static uint32_t folders(const char *list, char *to, uint64_t cap)
{
    struct zr_str rest = zl_str(list), part;
    char here[ZS_PATH];
    uint64_t n = 0;
    if (!getcwd(here, sizeof here)) return 0;
    to[0] = 0;
    while (zl_split(&rest, ',', &part)) {
        part = zl_trim(part);
        if (part.len == 0) continue;
        uint32_t absolute = part.ptr[0] == '/';
        int k = snprintf(to + n, cap - n, "%s%s%s%.*s", n ? "," : "", absolute ? "" : here, absolute ? "" : "/", (int)part.len, part.ptr);
        if (k < 0 || (uint64_t)k >= cap - n) return 0;
        n += (uint64_t)k;
    }
    return n > 0;
}

static uint32_t take(struct args *a, int o)
{
    struct zt_options *opt = &a->opt;
    switch (o) {
    case 'h': a->help = 1; return 1;
    case 1:
        if (a->n_words == 4) return 0;
        a->words[a->n_words++] = optarg;
        return 1;
    case 'n': return number(optarg, 1, 1 << 24, &a->show.n);
    case O_REPAIR: a->repair = 1; return 1;
    case O_JSON: opt->json = 1; return 1;
    case O_THREADS: return number(optarg, 1, ZT_MAX_THREADS, &a->threads);
    case O_AT: return number(optarg, 0, ZS_MAX_POSITION, &a->show.at);
    case O_QUEUE: a->show.queue = optarg; return 1;
    case O_FROM: return number(optarg, 0, ZS_MAX_POSITION, &a->show.from);
    case O_KEY: a->show.topic = optarg; return 1;
    case O_ID: a->show.id = optarg; return 1;
    case O_SEGMENT: a->show.segments = 1; return 1;
    case O_RETENTION: return number(optarg, 0, 10000000, &a->retention);
    case O_TO: a->to = optarg; return 1;
    case O_ACCEPT_LOSS: a->opt.accept_loss = 1; return 1;
    case O_LEVEL: return number(optarg, 1, 19, &a->level);
    case O_SEGMENT_SIZE: return number(optarg, 4096, INT32_MAX, &opt->segment_size);
    case O_QUEUE_SIZE: return number(optarg, 20, INT32_MAX, &opt->queue_file_size) && opt->queue_file_size % 20 == 0;
    case O_SLOTS: return number(optarg, 1, 500000000, &opt->index_slots);
    case O_ENTRIES: return number(optarg, 1, 1000000000, &opt->index_entries);
    case O_LOG_PATH: return folders(optarg, opt->log_path, sizeof opt->log_path);
    case O_LOG_READ_ONLY: return folders(optarg, opt->log_read_only, sizeof opt->log_read_only);
    case O_CONF: a->conf = optarg; return 1;
    default: return 0;
    }
}

static int run(struct args *a)
{
    const char *command = a->words[0], *dir = a->words[1];
    a->opt.threads = (uint32_t)a->threads;
    if (a->conf && a->opt.log_path[0]) return wrong("either --conf or --log-path");
    if (a->conf && zt_conf_load(&a->opt, a->conf) != ZT_CLEAN) return ZT_CANNOT;
    if (!strcmp(command, "check")) return a->n_words == 2 ? (a->repair ? zt_cmd_repair : zt_cmd_check)(dir, &a->opt) : wrong("check takes one folder");
    if (!strcmp(command, "stats")) return a->n_words == 2 ? zt_cmd_stats(dir, &a->opt, a->retention) : wrong("stats takes one folder");
    if (!strcmp(command, "show")) {
        if (a->show.topic && a->n_words == 3) a->show.key = a->words[2];
        uint32_t n = (a->show.at >= 0) + !!a->show.queue + !!a->show.topic + !!a->show.id + a->show.segments;
        if (n != 1 || (a->show.topic && !a->show.key) || a->n_words != 2u + !!a->show.topic)
            return wrong("show takes one folder and one of --at, --queue, --key TOPIC KEY, --id, --segment");
        return zt_cmd_show(dir, &a->opt, &a->show);
    }
    if (!strcmp(command, "convert")) {
        if (a->n_words != 2 || !a->to || (strcmp(a->to, "plain") && strcmp(a->to, "zstd"))) return wrong("convert takes one folder and --to plain or --to zstd");
        return zt_cmd_convert(dir, &a->opt, !strcmp(a->to, "plain"), (int32_t)a->level);
    }
    return wrong("no such command");
}

int main(int argc, char **argv)
{
    struct args a = { .show = { .at = -1, .from = -1, .n = 0 }, .retention = 72, .level = 3 };
    int64_t cores = sysconf(_SC_NPROCESSORS_ONLN);
    a.threads = cores < 1 ? 1 : cores > ZT_MAX_THREADS ? ZT_MAX_THREADS : cores;
    for (int o; (o = getopt_long(argc, argv, "-n:h", options, NULL)) != -1;)
        if (!take(&a, o)) return wrong(o == '?' ? "see above" : "an option has an impossible value");
    for (; optind < argc && a.n_words < 4; optind++) a.words[a.n_words++] = argv[optind];
    if (a.help) {
        fputs(usage, stdout);
        return 0;
    }
    if (a.n_words < 2) return wrong("a command and a folder are needed");
    return run(&a);
}
