/* SPDX-License-Identifier: Apache-2.0 */
/* bench_store.c - what the store costs: recovery of a log, starts with many queues, sends to few and to many queues.
 *
 *   bench_store recovery DIR [MiB]     a log of so many MiB, opened as a clean stop, a kill and losses leave it
 *   bench_store queues DIR N           N queues of one message each: seconds, memory, descriptors, mappings of each start
 *   bench_store send DIR N             appends to 8 and to N queues, in turn
 *
 * The store library is driven without a broker. What is opened was written by a child process, so that nothing of it is in
 * the measuring process's memory; log and queue files are put out of the page cache first. DIR is made and removed. */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "bench_host.h"

#define QUEUES_A_TOPIC 100u
#define SECONDS 2.0
#define ROUNDS 5
#define BATCH 32u

static struct zs_conf conf_of(const char *dir)
{
    struct zs_conf c = {
        .root = dir, .log_dir = "", .index = 1, .clean_forcibly = 1, .flush_interval_ms = 500, .checkpoint_interval_ms = 10000,
        .segment_size = 1ll << 30, .queue_file_size = 6000000, .max_message_size = 4 << 20, .index_slots = 5000000,
        .index_entries = 20000000, .retention_hours = 72, .clean_interval_ms = 10000, .max_hot_bytes = 256 << 10,
        .max_hot_messages = 32, .max_cold_bytes = 64 << 10, .max_cold_messages = 8, .max_open_queue_files = 1024,
        .max_open_segments = 512, .max_tail_bytes = 64 << 20, .ratio_memory = 0.4, .ratio_clean = 1, .ratio_force = 1, .ratio_refuse = 1,
    };
    if (getenv("BENCH_SEGMENT")) c.segment_size = atoll(getenv("BENCH_SEGMENT"));
    return c;
}

static struct zr_inst *store_open(const char *dir)
{
    struct zs_conf c = conf_of(dir);
    struct zr_inst *st = zs_create(&host, &c);
    if (!st || zs_warm(st) != ZR_OK) fail("the store cannot be opened");
    return st;
}

/* ---- files -------------------------------------------------------------------------------------------------------------- */

static int drop_one(const char *path, const struct stat *s, int type, struct FTW *ftw)
{
    (void)s;
    (void)ftw;
    if (type != FTW_F) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    fdatasync(fd);
    posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
    close(fd);
    return 0;
}
static int remove_one(const char *path, const struct stat *s, int type, struct FTW *ftw)
{
    (void)s;
    (void)type;
    (void)ftw;
    return remove(path);
}
static void out_of_cache(const char *dir) { nftw(dir, drop_one, 32, FTW_PHYS); }
static void remove_tree(const char *dir, const char *name)
{
    char path[1024];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    nftw(path, remove_one, 32, FTW_PHYS | FTW_DEPTH);
}

static long count_entries(const char *dir)
{
    long n = 0;
    DIR *d = opendir(dir);
    while (d && readdir(d)) n++;
    if (d) closedir(d);
    return n - 3; /* . and .. and the one that reads */
}
static long count_lines(const char *path)
{
    long n = 0;
    FILE *f = fopen(path, "r");
    for (int c; f && (c = getc(f)) != EOF;) n += c == '\n';
    if (f) fclose(f);
    return n;
}
static double anonymous_mib(void)
{
    long kib = 0;
    char line[256];
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f)) sscanf(line, "RssAnon: %ld", &kib);
    if (f) fclose(f);
    return (double)kib / 1024;
}

/* ---- load --------------------------------------------------------------------------------------------------------------- */

struct target {
    char topic[32];
    int32_t id;
    struct zr_queue *q;
};

static void target_name(struct target *t, uint32_t i)
{
    snprintf(t->topic, sizeof t->topic, "bench-%06u", i / QUEUES_A_TOPIC);
    t->id = (int32_t)(i % QUEUES_A_TOPIC);
}

/* Appends n messages of size bytes, one to each of the targets in turn, keys in one of ten. */
static void put(struct zr_inst *st, struct target *at, uint32_t n_targets, uint64_t from, uint64_t n, const uint8_t *body, uint32_t size)
{
    struct zr_msg msgs[BATCH];
    struct zr_put puts[BATCH];
    static const char props[] = "TAGS\001a\002WAIT\001true\002", keyed[] = "KEYS\001k\002TAGS\001a\002WAIT\001true\002";
    static const uint8_t address[4] = { 127, 0, 0, 1 };
    int64_t end;
    while (n) {
        uint32_t k = n < BATCH ? (uint32_t)n : BATCH;
        for (uint32_t i = 0; i < k; i++) {
            struct target *t = &at[(from + i) % n_targets];
            const char *p = (from + i) % 10 ? props : keyed;
            if (!t->q) t->q = zs_queue(st, zl_str(t->topic), t->id, 1);
            msgs[i] = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str(t->topic), .queue_id = t->id, .queue = t->q,
                                       .body = { body, size }, .properties = { (const uint8_t *)p, strlen(p) } };
            memcpy(msgs[i].born_host.ip, address, 4);
            memcpy(msgs[i].store_host.ip, address, 4);
            puts[i] = (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0) };
        }
        zs_append(st, msgs, k, puts, &end);
        for (uint32_t i = 0; i < k; i++)
            if (puts[i].status != ZR_OK) fail("an append was refused");
        from += k;
        n -= k;
    }
}

static struct target *targets(uint32_t n)
{
    struct target *t = calloc(n, sizeof *t);
    if (!t) fail("no memory");
    for (uint32_t i = 0; i < n; i++) target_name(&t[i], i);
    return t;
}

/* Runs fill in a child that ends as a kill does (clean 0) or closes its store. */
static void write_store(const char *dir, uint32_t n_queues, uint64_t n, uint32_t size, uint32_t clean)
{
    pid_t pid = fork();
    if (pid == 0) {
        struct zr_inst *st = store_open(dir);
        struct target *t = targets(n_queues);
        uint8_t *body = malloc(size);
        if (!body) _exit(1);
        for (uint32_t i = 0; i < size; i++) body[i] = (uint8_t)(i * 7);
        put(st, t, n_queues, 0, n, body, size);
        if (clean) store_close(st);
        _exit(0);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status) fail("the child failed");
}

/* Opens the store in a child and prints what that took; then leaves it as a kill does, or closes it. */
static void measure_start(const char *dir, const char *what, uint32_t clean, uint32_t cold)
{
    fflush(stdout);
    if (cold) out_of_cache(dir);
    pid_t pid = fork();
    if (pid == 0) {
        double before = anonymous_mib();
        int64_t began = mono(NULL);
        struct zr_inst *st = store_open(dir);
        double seconds = (double)(mono(NULL) - began) / 1e9;
        printf("| %s | %.3f | %.1f | %ld | %ld |\n", what, seconds, anonymous_mib() - before, count_entries("/proc/self/fd"), count_lines("/proc/self/maps"));
        fflush(stdout);
        if (clean) store_close(st);
        _exit(0);
    }
    int status;
    if (pid < 0 || waitpid(pid, &status, 0) < 0 || status) fail("the child failed");
}

static void head(void)
{
    printf("| start after | seconds | own memory MiB | descriptors | mappings |\n| --- | ---: | ---: | ---: | ---: |\n");
}

static void bench_recovery(const char *dir, uint64_t mib)
{
    static const uint32_t sizes[] = { 1024, 200 };
    for (int i = 0; i < 2; i++) {
        uint32_t record = sizes[i] + 130;
        printf("\n%llu MiB of messages with bodies of %u bytes, 8 queues, out of the page cache\n\n", (unsigned long long)mib, sizes[i]);
        head();
        write_store(dir, 8, (mib << 20) / record, sizes[i], 1);
        measure_start(dir, "a clean stop", 0, 1);
        measure_start(dir, "a kill (nothing new)", 0, 1);
        remove_tree(dir, "zarya");
        remove_tree(dir, "checkpoint");
        measure_start(dir, "a kill, and nothing says how far the log was checked", 0, 1);
        remove_tree(dir, "zarya");
        remove_tree(dir, "checkpoint");
        measure_start(dir, "the same, with the log in the page cache", 0, 0);
        remove_tree(dir, "zarya");
        remove_tree(dir, "checkpoint");
        remove_tree(dir, "consumequeue");
        remove_tree(dir, "index");
        measure_start(dir, "a kill, and the log alone is left", 1, 1);
        remove_tree(dir, "");
    }
}

static void bench_queues(const char *dir, uint32_t n)
{
    char label[64];
    snprintf(label, sizeof label, "a clean stop, %u queues", n);
    printf("\n");
    head();
    write_store(dir, n, n, 100, 1);
    measure_start(dir, label, 1, 0);
    measure_start(dir, "again", 1, 1);
    measure_start(dir, "again, then killed", 0, 1);
    measure_start(dir, "a kill", 1, 1);
    remove_tree(dir, "zarya");
    measure_start(dir, "a clean stop, without our snapshot", 1, 1);
    remove_tree(dir, "");
}

/* Messages per second of one thread that appends to n queues. */
static double rate(struct zr_inst *st, struct target *t, uint32_t n, uint64_t *at, const uint8_t *body)
{
    int64_t began = mono(NULL), done = 0;
    while ((double)(mono(NULL) - began) < SECONDS * 1e9) {
        put(st, t, n, *at, 4 * BATCH, body, 1024);
        *at += 4 * BATCH;
        done += 4 * BATCH;
    }
    return (double)done / ((double)(mono(NULL) - began) / 1e9);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

/* Both kinds live in one store; what one leaves to be written behind is written before the other begins. */
static void bench_send(const char *dir, uint32_t n)
{
    static uint8_t body[1024];
    struct zr_inst *st = store_open(dir);
    struct target *many = targets(n), few[8];
    double a[ROUNDS], b[ROUNDS];
    uint64_t at = 0, at_few = 0;
    for (uint32_t i = 0; i < 8; i++) few[i] = (struct target){ "few", (int32_t)i, NULL };
    put(st, many, n, 0, n, body, 1024);
    put(st, few, 8, 0, n, body, 1024);
    for (int i = 0; i < ROUNDS; i++) {
        struct target *const which[2] = { few, many };
        for (int k = 0; k < 2; k++) {
            int m = i % 2 ? 1 - k : k;
            (m ? b : a)[i] = rate(st, which[m], m ? n : 8, m ? &at : &at_few, body);
            sync();
        }
    }
    qsort(a, ROUNDS, sizeof *a, by_value);
    qsort(b, ROUNDS, sizeof *b, by_value);
    printf("\n| appends of 1 KiB, batches of %u, one thread | messages/s: median (least - most) |\n| --- | ---: |\n", BATCH);
    printf("| 8 queues | %.0f (%.0f - %.0f) |\n", a[ROUNDS / 2], a[0], a[ROUNDS - 1]);
    printf("| %u queues | %.0f (%.0f - %.0f) |\n| share | %.2f |\n", n, b[ROUNDS / 2], b[0], b[ROUNDS - 1], b[ROUNDS / 2] / a[ROUNDS / 2]);
    store_close(st);
    remove_tree(dir, "");
}

int main(int argc, char **argv)
{
    struct stat s;
    if (argc < 3) fail("usage: bench_store recovery|queues|send DIR [MiB|N]");
    if (argv[2][0] != '/' || stat(argv[2], &s) == 0) fail("DIR must be absolute, and must not exist");
    if (!strcmp(argv[1], "recovery")) bench_recovery(argv[2], argc > 3 ? strtoull(argv[3], NULL, 10) : 1024);
    else if (!strcmp(argv[1], "queues")) bench_queues(argv[2], argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 10000);
    else if (!strcmp(argv[1], "send")) bench_send(argv[2], argc > 3 ? (uint32_t)strtoul(argv[3], NULL, 10) : 100000);
    else fail("recovery, queues or send");
    return 0;
}
