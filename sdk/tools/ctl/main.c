/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - zaryactl: the commands, their options, and mistakes explained. */
#include "ctl.h"
#include <ctype.h>
#include <string.h>

/* clang-format off: one option a line reads better */
#define TARGET_HELP                                                                                                    \
    "  -b ADDR     one broker (host:port)\n"                                                                           \
    "  -c CLUSTER  or: all masters of a cluster; without either: of all clusters\n"

#define LETTERS_HELP                                                                                                   \
    "  -i ID       the one of this unique id or offset id\n"                                                           \
    "  -t TOPIC    those that came from this topic\n"                                                                  \
    "  -k KEY      those with this key\n"                                                                              \
    "  -s MS       those that died from this time on\n"                                                                \
    "  -e MS       ... up to this time\n"                                                                              \
    "  -b BROKER   those of this broker (name)\n"

static const struct command COMMANDS[] = {
    { "topic list", "c:g", "", "topics that the name server knows",
      "  -c CLUSTER  of one cluster\n"
      "  -g          with their cluster and consumer groups\n",
      topic_list },
    { "topic create", "t:b:c:r:w:p:o:a:u:s:", "t", "makes a topic that is not there yet",
      "  -t TOPIC    (needed)\n" TARGET_HELP "  -r N        read queues (8)\n"
      "  -w N        write queues (8)\n"
      "  -p PERM     2 write, 4 read, 6 both (6)\n"
      "  -o true     an ordered topic\n"
      "  -u true     a unit topic\n"
      "  -s true     has unit subscriptions\n"
      "  -a ATTRS    +message.type=FIFO,...\n",
      topic_create },
    { "topic update", "t:b:c:r:w:p:o:a:u:s:", "t", "makes or changes a topic",
      "  -t TOPIC    (needed)\n" TARGET_HELP "  -r N        read queues (8)\n"
      "  -w N        write queues (8)\n"
      "  -p PERM     2 write, 4 read, 6 both (6)\n"
      "  -o true     an ordered topic\n"
      "  -u true     a unit topic\n"
      "  -s true     has unit subscriptions\n"
      "  -a ATTRS    +message.type=FIFO,...\n",
      topic_update },
    { "topic delete", "t:b:c:", "t", "deletes a topic from brokers and name servers",
      "  -t TOPIC    (needed)\n" TARGET_HELP, topic_delete },
    { "topic route", "t:l", "t", "brokers and queues of a topic", "  -t TOPIC    (needed)\n", topic_route },
    { "topic status", "t:c:", "t", "offsets of each queue", "  -t TOPIC    (needed)\n", topic_status },
    { "cluster list", "c:m", "", "brokers with their load",
      "  -c CLUSTER  one cluster\n"
      "  -m          how many messages came and went yesterday and today\n",
      cluster_list },
    { "broker status", "b:c:", "", "the runtime information of brokers", TARGET_HELP, broker_status },
    { "group list", "b:c:", "", "subscription groups", TARGET_HELP, group_list },
    { "group create", "g:b:c:s:m:d:o:q:r:i:w:a:", "g", "makes or changes a subscription group",
      "  -g GROUP    (needed)\n" TARGET_HELP "  -s BOOL     consuming is allowed (true)\n"
      "  -d BOOL     broadcasting is allowed (true)\n"
      "  -o BOOL     orderly (false)\n"
      "  -m BOOL     may consume from the minimum offset (true)\n"
      "  -q N        retry queues (1)\n"
      "  -r N        tries before the dead letters (16)\n"
      "  -i ID       broker to consume from (0)\n"
      "  -w ID       broker to consume from when slow (1)\n"
      "  -a BOOL     clients are told of changes (true)\n",
      group_update },
    { "group update", "g:b:c:s:m:d:o:q:r:i:w:a:", "g", "makes or changes a subscription group", "  as group create\n",
      group_update },
    { "group delete", "g:b:c:r:", "g", "deletes a subscription group",
      "  -g GROUP    (needed)\n" TARGET_HELP "  -r BOOL     its offsets too (false)\n", group_delete },
    { "group progress", "g:t:s:", "", "how far consumers are",
      "  -g GROUP    one group, by queue; without: all groups\n"
      "  -t TOPIC    only this topic\n",
      group_progress },
    { "send", "t:p:k:c:b:i:m:N:", "t", "sends a message",
      "  -t TOPIC    (needed)\n"
      "  -p BODY     text; - or nothing: standard input\n"
      "  -k KEYS     separated by blanks\n"
      "  -c TAG\n"
      "  -b BROKER   name, with -i: to this queue\n"
      "  -i QUEUE    queue id\n"
      "  -N COUNT    so many times (1)\n",
      msg_send },
    { "consume", "t:f:b:i:o:g:s:e:c:", "t", "prints messages of a topic",
      "  -t TOPIC    (needed)\n"
      "  -f TAGS     only these: \"TagA || TagB\" (*)\n"
      "  -b BROKER   only this broker's queues\n"
      "  -i QUEUE    only this queue\n"
      "  -o OFFSET   from here (with -b and -i)\n"
      "  -g GROUP    asks as this group (zaryactl); its offsets stay as they are\n"
      "  -s MS       from this time on\n"
      "  -e MS       up to this time\n"
      "  -c COUNT    at most so many (128)\n",
      msg_consume },
    { "msg show", "i:t:", "i", "one message by its id",
      "  -i ID       offset id, or with -t a unique id (needed)\n"
      "  -t TOPIC\n",
      msg_show },
    { "query", "t:k:b:e:m:c:", "tk", "messages by key",
      "  -t TOPIC    (needed)\n"
      "  -k KEY      (needed)\n"
      "  -b MS       begin\n"
      "  -e MS       end\n"
      "  -m N        at most so many (64)\n",
      msg_query },
    { "dlq list", "g:i:t:k:s:e:b:c:", "", "dead letters: of each group how many, or of one group all",
      "  -g GROUP    this one's letters; what follows is about them\n" LETTERS_HELP
      "  -c COUNT    at most so many (128)\n",
      dlq_list },
    { "dlq show", "g:i:t:k:s:e:b:c:", "gi", "a dead letter, whole", "  -g GROUP    (needed)\n" LETTERS_HELP, dlq_show },
    { "dlq resend", "g:i:t:k:s:e:b:c:ao", "g", "lets a group have dead letters again",
      "  -g GROUP    (needed)\n" LETTERS_HELP "  -a          all\n"
      "  -o          to the topic they came from, for all its groups; else only to this group, by its retry topic\n"
      "  -c COUNT    at most so many\n",
      dlq_resend },
    { "dlq export", "g:i:t:k:s:e:b:c:f:", "g", "writes dead letters as lines of JSON",
      "  -g GROUP    (needed)\n" LETTERS_HELP "  -f FILE     a new file (standard output)\n"
      "  -c COUNT    at most so many\n",
      dlq_export },
    { "dlq purge", "g:b:c:y", "g", "deletes a group's dead letters for good",
      "  -g GROUP    (needed)\n"
      "  -b ADDR     at one broker (host:port)\n"
      "  -c CLUSTER  at all of a cluster; without either: everywhere\n"
      "  -y          really\n",
      dlq_purge },
};
/* clang-format on */
#define N_COMMANDS (sizeof(COMMANDS) / sizeof(COMMANDS[0]))

int failed(const char *what, const struct zc_err *err)
{
    fprintf(stderr, "zaryactl: %s: %s%s", what, err->text, err->code > 0 ? "" : "\n");
    if (err->code > 0) fprintf(stderr, " (code %d)\n", err->code);
    if (err->code == ZC_ENONS)
        fprintf(stderr, "zaryactl: say where the name server is: -n host:9876, or NAMESRV_ADDR in the environment\n");
    if (err->code == ZC_ECONNECT) fprintf(stderr, "zaryactl: is it running there?\n");
    return EXIT_FAILED;
}

static void usage(FILE *to)
{
    fprintf(to, "usage: zaryactl COMMAND [options]\n       zaryactl [--data DIR | --socket PATH] [ctl] VERB...\n\n");
    for (uint32_t i = 0; i < N_COMMANDS; i++) fprintf(to, "  %-16s %s\n", COMMANDS[i].name, COMMANDS[i].summary);
    fprintf(to, "\noptions of all commands\n  -n ADDRS    name servers, host:port;host:port (else NAMESRV_ADDR, else "
                "the address server)\n"
                "  --json      result as JSON\n  --help      about one command: zaryactl topic create --help\n\nverbs of a running "
                "Zarya (zaryactl help lists all)\n  status, plugins, metrics, config, log level, drain, stop, ...\n\nexit code: 0 ok, 1 failure, 2 usage\n");
}

static int command_help(const struct command *cmd)
{
    printf("usage: zaryactl %s [options]\n\n%s\n\n%s  -n ADDRS    name servers\n  --json      result as JSON\n",
           cmd->name, cmd->summary, cmd->help);
    return 0;
}

/* ---- finding the command ---- */

static uint32_t min3(uint32_t a, uint32_t b, uint32_t c) { return a < b ? (a < c ? a : c) : (b < c ? b : c); }

/* How many characters must change to turn a into b. */
static uint32_t distance(const char *a, const char *b)
{
    uint32_t row[64], n = (uint32_t)strlen(b);
    if (n >= 63) return 64;
    for (uint32_t j = 0; j <= n; j++) row[j] = j;
    for (uint32_t i = 1; *a; a++, i++) {
        uint32_t corner = row[0];
        row[0] = i;
        for (uint32_t j = 1; j <= n; j++) {
            uint32_t above = row[j];
            row[j] = min3(above + 1, row[j - 1] + 1, corner + (*a != b[j - 1]));
            corner = above;
        }
    }
    return row[n];
}

static void suggest(const char *typed)
{
    uint32_t best = 0, best_distance = 1000;
    for (uint32_t i = 0; i < N_COMMANDS; i++) {
        uint32_t d = distance(typed, COMMANDS[i].name);
        if (d < best_distance) best = i, best_distance = d;
    }
    fprintf(stderr, "zaryactl: there is no command \"%s\"; did you mean \"%s\"? (zaryactl --help lists all)\n", typed,
            COMMANDS[best].name);
}

/* The family of a word that is one ("topic"), listed. */
static uint32_t list_family(const char *word)
{
    uint32_t n = 0, len = (uint32_t)strlen(word);
    for (uint32_t i = 0; i < N_COMMANDS; i++) {
        if (strncmp(COMMANDS[i].name, word, len) != 0 || COMMANDS[i].name[len] != ' ') continue;
        if (n++ == 0) fprintf(stderr, "zaryactl: %s what?\n", word);
        fprintf(stderr, "  %-16s %s\n", COMMANDS[i].name, COMMANDS[i].summary);
    }
    return n;
}

static const struct command *find(int argc, char **argv, int *ret_words)
{
    char typed[128];
    if (argc < 2) return NULL;
    for (*ret_words = 2; *ret_words >= 1; --*ret_words) {
        if (argc <= *ret_words) continue;
        snprintf(typed, sizeof(typed), *ret_words == 2 ? "%s %s" : "%s", argv[1], argv[2]);
        for (uint32_t i = 0; i < N_COMMANDS; i++)
            if (strcmp(typed, COMMANDS[i].name) == 0) return &COMMANDS[i];
    }
    return NULL;
}

static void explain(int argc, char **argv)
{
    char typed[128];
    if (argc > 2 && argv[2][0] != '-') {
        snprintf(typed, sizeof(typed), "%s %s", argv[1], argv[2]);
        suggest(typed);
    } else if (!list_family(argv[1])) {
        suggest(argv[1]);
    }
}

/* Is it the first word of commands of ours? */
static uint32_t is_family(const char *word)
{
    uint64_t len = strlen(word);
    for (uint32_t i = 0; i < N_COMMANDS; i++)
        if (strncmp(COMMANDS[i].name, word, len) == 0 && COMMANDS[i].name[len] == ' ') return 1;
    return 0;
}

/* ---- options ---- */

static int option_error(const struct command *cmd, const char *what, const char *text)
{
    fprintf(stderr, "zaryactl: %s: %s %s (zaryactl %s --help)\n", cmd->name, what, text, cmd->name);
    return EXIT_USAGE;
}

static int read_options(struct ctl *c, const struct command *cmd, int argc, char **argv, int at)
{
    for (; at < argc; at++) {
        const char *a = argv[at];
        if (strcmp(a, "--json") == 0)
            c->json = 1;
        else if (strcmp(a, "--help") == 0)
            exit(command_help(cmd));
        else if (a[0] != '-' || !a[1]) {
            if (c->arg) return option_error(cmd, "what is", a);
            c->arg = a;
        } else {
            const char *known = isalnum((unsigned char)a[1]) ? strchr(cmd->letters, a[1]) : NULL;
            uint32_t takes = a[1] == 'n' || (known && known[1] == ':');
            if (a[1] == '-' || (!known && a[1] != 'n')) return option_error(cmd, "there is no option", a);
            if (!takes)
                c->value[(uint8_t)a[1]] = "";
            else if (a[2])
                c->value[(uint8_t)a[1]] = a + 2;
            else if (at + 1 < argc)
                c->value[(uint8_t)a[1]] = argv[++at];
            else
                return option_error(cmd, "a value is missing after", a);
        }
    }
    for (const char *l = cmd->needed; *l; l++)
        if (!opt(c, *l)) {
            char letter[3] = { '-', *l, 0 };
            return option_error(cmd, "it needs", letter);
        }
    return 0;
}

int64_t opt_number(const struct ctl *c, char letter, int64_t dflt)
{
    int64_t v = dflt;
    if (opt(c, letter) && zl_parse_i64(zl_str(opt(c, letter)), &v) != ZR_OK) {
        fprintf(stderr, "zaryactl: -%c %s: a whole number is wanted\n", letter, opt(c, letter));
        exit(EXIT_USAGE);
    }
    return v;
}

uint32_t opt_bool(const struct ctl *c, char letter, uint32_t dflt)
{
    const char *v = opt(c, letter);
    if (!v) return dflt;
    if (strcmp(v, "true") == 0) return 1;
    if (strcmp(v, "false") == 0) return 0;
    fprintf(stderr, "zaryactl: -%c %s: true or false is wanted\n", letter, v);
    exit(EXIT_USAGE);
}

/* ---- what is meant: a command here, a program beside us, or a verb of a running process ---- */

static int run_command(const struct command *cmd, int argc, char **argv, int words, uint32_t json)
{
    struct ctl c = { .json = json };
    struct zc_err err;
    int rc = read_options(&c, cmd, argc, argv, words + 1);
    if (rc) return rc;
    c.client = zc_client_open(&(struct zc_options){ .namesrv = opt(&c, 'n'), .timeout_ms = 5000 }, &err);
    if (!c.client) return failed(cmd->name, &err);
    rc = cmd->run(&c);
    zc_client_close(c.client);
    return rc;
}

/* Takes the options in front of the command off; 0, or the exit code. */
static int read_target(struct target *t, int *argc, char ***argv)
{
    while (*argc > 1 && (strcmp((*argv)[1], "--data") == 0 || strcmp((*argv)[1], "--socket") == 0 || strcmp((*argv)[1], "--json") == 0)) {
        const char *name = (*argv)[1];
        int n = strcmp(name, "--json") == 0 ? 1 : 2;
        if (*argc <= n) {
            fprintf(stderr, "zaryactl: %s: %s\n", name, n == 2 && *argc < 3 ? "a value is missing" : "a command is missing (zaryactl --help lists all)");
            return EXIT_USAGE;
        }
        if (n == 1)
            t->json = 1;
        else if (name[2] == 'd')
            t->data = (*argv)[2];
        else
            t->socket = (*argv)[2];
        (*argv)[n] = (*argv)[0];
        *argv += n;
        *argc -= n;
    }
    if (!t->data || !t->socket) return 0;
    fprintf(stderr, "zaryactl: --data and --socket say the same thing twice\n");
    return EXIT_USAGE;
}

/* --json may stand behind a verb, too. */
static int run_verb(struct target *t, int n, char **words, uint32_t quiet)
{
    int kept = 0;
    for (int i = 0; i < n; i++)
        if (strcmp(words[i], "--json") == 0)
            t->json = 1;
        else
            words[kept++] = words[i];
    return control_run(t, kept, words, quiet);
}

static int dispatch(struct target *t, int argc, char **argv)
{
    int words;
    if (argc < 2) return usage(stderr), EXIT_USAGE;
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || (strcmp(argv[1], "help") == 0 && argc == 2 && !t->json)) {
        usage(stdout);
        if (argv[1][0] != '-') control_help(t);
        return 0;
    }
    if (strcmp(argv[1], "ctl") == 0) return run_verb(t, argc - 2, argv + 2, 0);
    const struct command *cmd = find(argc, argv, &words);
    if (cmd) return run_command(cmd, argc, argv, words, t->json);
    external_run(argv[1], argv + 1);
    if (!is_family(argv[1]) && argv[1][0] != '-') {
        int rc = run_verb(t, argc - 1, argv + 1, !t->data && !t->socket);
        if (rc != CONTROL_NOBODY) return rc;
    }
    explain(argc, argv);
    return EXIT_USAGE;
}

int main(int argc, char **argv)
{
    struct target t = { 0 };
    int rc = read_target(&t, &argc, &argv);
    if (!rc) rc = dispatch(&t, argc, argv);
    if (fflush(stdout) || ferror(stdout)) rc = EXIT_FAILED; /* a full disk, a closed pipe */
    return rc;
}
