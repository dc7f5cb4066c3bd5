/* SPDX-License-Identifier: Apache-2.0 */
/* bench_filter.c - messages judged a second, one in a hundred matching, one core, best of several rounds.
 *
 *   bench_filter PLUGIN-FOLDER          filters by themselves: tag sets over runs of queue entries as the storage hands
 *                                       them in, and SQL92 programs over properties strings
 *   bench_filter PLUGIN-FOLDER DIR      and in a store: a queue of a million messages is read from its beginning to its
 *                                       end as pulls do it, 32 messages at most in an answer. DIR is made and removed
 *
 * Build with optimisation: cmake --build build/release --target bench_filter. */
#include <dlfcn.h>
#include <ftw.h>
#include <sys/stat.h>
#include "bench_host.h"
#include "zarya/zarya.h"

#define ROUNDS 21
#define ENTRIES 100000u
#define RUN 256u /* entries judged in one call */
#define STORED 1000000u
#define STORE_ROUNDS 5
#define BATCH 100u

static char properties[ENTRIES][160];
static int64_t codes[ENTRIES];

static double now(void)
{
    return (double)mono(NULL) / 1e9;
}

static const struct zr_filter_v1 *load(const char *folder, const char *name, struct zr_inst **ret)
{
    char path[512];
    const struct zr_plugin *(*entry)(uint32_t);
    snprintf(path, sizeof path, "%s/%s.so", folder, name);
    void *so = dlopen(path, RTLD_NOW);
    void *symbol = so ? dlsym(so, "zarya_plugin_entry_1") : NULL;
    if (!symbol) {
        fprintf(stderr, "%s\n", dlerror());
        exit(1);
    }
    memcpy(&entry, &symbol, sizeof entry);
    if (entry(0)->create(&host, NULL, ret) != ZR_OK)
        exit(1);
    return entry(0)->query(*ret, ZR_IF_FILTER);
}

static uint64_t judge(const struct zr_filter_v1 *f, const struct zr_prog *prog)
{
    uint8_t verdicts[RUN];
    uint64_t yes = 0;
    for (uint32_t i = 0; i < ENTRIES; i += RUN) {
        uint32_t n = ENTRIES - i < RUN ? ENTRIES - i : RUN;
        f->by_tags(prog, codes + i, n, verdicts);
        for (uint32_t j = 0; j < n; j++) {
            if (verdicts[j] == ZR_MATCH_ASK)
                verdicts[j] = (uint8_t)f->by_properties(
                    prog, (struct zr_span){ (const uint8_t *)properties[i + j], strlen(properties[i + j]) });
            yes += verdicts[j] == ZR_MATCH_YES;
        }
    }
    return yes;
}

static struct zr_prog *compile(const struct zr_filter_v1 *f, struct zr_inst *inst, const char *language, const char *text)
{
    struct zr_expression e = { .hdr = ZR_HDR(struct zr_expression, 0), .language = zl_str(language), .text = zl_str(text) };
    struct zr_prog *prog;
    uint64_t at;
    if (f->compile(inst, &e, &prog, &at) != ZR_OK) fail("an expression is refused");
    return prog;
}

static void report(const char *what, const char *language, double rate, double share, const char *text)
{
    printf("%-7s %-6s %8.1f million/s  %5.2f %% match  %s\n", what, language, rate / 1e6, 100 * share, text);
}

static void measure(const struct zr_filter_v1 *f, struct zr_inst *inst, const char *language, const char *text)
{
    struct zr_prog *prog = compile(f, inst, language, text);
    uint64_t yes = 0;
    double best = 1e9;
    for (uint32_t r = 0; r < ROUNDS; r++) {
        double began = now();
        yes = judge(f, prog);
        best = now() - began < best ? now() - began : best;
    }
    report("alone", language, ENTRIES / best, (double)yes / ENTRIES, text);
    f->free_prog(prog);
}

/* ---- in a store ----------------------------------------------------------------------------------------------------- */

static struct zr_inst *store_open(const char *dir)
{
    struct zs_conf c = {
        .root = dir, .log_dir = "", .clean_forcibly = 1, .flush_interval_ms = 500, .checkpoint_interval_ms = 10000,
        .segment_size = 1ll << 30, .queue_file_size = 6000000, .max_message_size = 4 << 20, .index_slots = 16,
        .index_entries = 16, .retention_hours = 72, .clean_interval_ms = 10000, .max_hot_bytes = 256 << 10,
        .max_hot_messages = 32, .max_cold_bytes = 64 << 10, .max_cold_messages = 8, .max_open_queue_files = 64,
        .max_open_segments = 64, .max_tail_bytes = 64 << 20, .ratio_memory = 0.4, .ratio_clean = 1, .ratio_force = 1,
        .ratio_refuse = 1,
    };
    struct zr_inst *st = zs_create(&host, &c);
    if (!st || zs_warm(st) != ZR_OK) fail("the store cannot be opened");
    return st;
}

static void fill(struct zr_inst *st, struct zr_queue *q)
{
    static const uint8_t body[100], address[4] = { 127, 0, 0, 1 };
    struct zr_msg msgs[BATCH];
    struct zr_put puts[BATCH];
    int64_t end;
    for (uint32_t at = 0; at < STORED; at += BATCH) {
        for (uint32_t i = 0; i < BATCH; i++) {
            const char *p = properties[(at + i) % ENTRIES];
            msgs[i] = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("bench"), .queue = q,
                                       .body = { body, sizeof body }, .properties = { (const uint8_t *)p, strlen(p) },
                                       .tags_code = codes[(at + i) % ENTRIES] };
            memcpy(msgs[i].born_host.ip, address, 4);
            memcpy(msgs[i].store_host.ip, address, 4);
            puts[i] = (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0) };
        }
        zs_append(st, msgs, BATCH, puts, &end);
        for (uint32_t i = 0; i < BATCH; i++)
            if (puts[i].status != ZR_OK) fail("an append was refused");
    }
}

static uint64_t read_all(struct zr_inst *st, const struct zr_filter_v1 *f, const struct zr_prog *prog, struct zr_queue *q)
{
    struct zr_piece pieces[32];
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .queue = q, .filter = f, .prog = prog, .pieces = pieces,
                           .cap_pieces = 32, .max_messages = 32 };
    struct zr_read_result ret = { .hdr = ZR_HDR(struct zr_read_result, 0) };
    uint64_t yes = 0;
    while (req.offset < STORED) {
        if (zs_read(st, &req, &ret) != ZR_OK || ret.next_offset <= req.offset) fail("a read failed");
        yes += ret.n_messages;
        req.offset = ret.next_offset;
        zs_unpin(st, ret.pin);
    }
    return yes;
}

static void measure_stored(struct zr_inst *st, struct zr_queue *q, const struct zr_filter_v1 *f, struct zr_inst *inst,
                           const char *language, const char *text)
{
    struct zr_prog *prog = compile(f, inst, language, text);
    uint64_t yes = 0;
    double best = 1e9;
    for (uint32_t r = 0; r < STORE_ROUNDS; r++) {
        double began = now();
        yes = read_all(st, f, prog, q);
        best = now() - began < best ? now() - began : best;
    }
    report("stored", language, STORED / best, (double)yes / STORED, text);
    f->free_prog(prog);
}

static int remove_one(const char *path, const struct stat *s, int type, struct FTW *ftw)
{
    (void)s;
    (void)type;
    (void)ftw;
    return remove(path);
}

int main(int argc, char **argv)
{
    struct zr_inst *tag_inst, *sql_inst;
    struct stat s;
    if (argc < 2) fail("usage: bench_filter PLUGIN-FOLDER [DIR]");
    if (argc > 2 && (argv[2][0] != '/' || stat(argv[2], &s) == 0)) fail("DIR must be absolute, and must not exist");
    for (uint32_t i = 0; i < ENTRIES; i++) {
        uint32_t n = i * 2654435761u >> 8;
        char tag[16];
        snprintf(tag, sizeof tag, "Tag%u", n % 100);
        codes[i] = zl_java_hash(zl_str(tag));
        snprintf(properties[i], sizeof properties[i],
                 "UNIQ_KEY\1FD00000000000000000000000000000252BA30946E0967CD%08X\2WAIT\1true\2TAGS\1%s\2price\1%u\2region\1r%u\2",
                 n, tag, n % 1000, n % 50);
    }
    const struct zr_filter_v1 *tag = load(argv[1], "filter-tag", &tag_inst), *sql = load(argv[1], "filter-sql92", &sql_inst);
    measure(tag, tag_inst, "TAG", "Tag7");
    measure(sql, sql_inst, "SQL92", "price < 10");
    measure(sql, sql_inst, "SQL92", "region = 'r7' AND price BETWEEN 1 AND 507");
    measure(sql, sql_inst, "SQL92", "price < 10.0 OR TAGS IN ('Nope', 'Nor this') OR region CONTAINS 'x'");
    if (argc > 2) {
        struct zr_inst *st = store_open(argv[2]);
        struct zr_queue *q = zs_queue(st, zl_str("bench"), 0, 1);
        fill(st, q);
        measure_stored(st, q, tag, tag_inst, "TAG", "Tag7");
        measure_stored(st, q, sql, sql_inst, "SQL92", "price < 10");
        store_close(st);
        nftw(argv[2], remove_one, 32, FTW_PHYS | FTW_DEPTH);
    }
    return 0;
}
