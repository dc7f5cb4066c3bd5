/* SPDX-License-Identifier: Apache-2.0 */
/* bench_filter.c - messages judged a second, one in a hundred matching, one core: tag sets over runs of queue entries as the
 * storage hands them in, and SQL92 programs over properties strings. Best of several rounds.
 * Build with optimisation (cmake --preset release -DZARYA_TESTS=ON, target bench_filter): bench_filter PLUGIN-FOLDER */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include "zarya/zarya.h"
#include "zl/text.h"

#define ROUNDS 21
#define ENTRIES 100000u
#define RUN 256u /* entries judged in one call */

static const void *no_query(const struct zr_host *host, const char *id)
{
    (void)host, (void)id;
    return NULL;
}
static const struct zr_host host = { ZR_HDR(struct zr_host, 0), NULL, no_query, "bench", "/nonexistent" };
static char properties[ENTRIES][160];
static int64_t codes[ENTRIES];

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
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

static void measure(const struct zr_filter_v1 *f, struct zr_inst *inst, const char *language, const char *text)
{
    struct zr_expression e = { .hdr = ZR_HDR(struct zr_expression, 0), .language = zl_str(language), .text = zl_str(text) };
    struct zr_prog *prog;
    uint64_t at, yes = 0;
    double best = 1e9;
    if (f->compile(inst, &e, &prog, &at) != ZR_OK)
        exit(1);
    for (uint32_t r = 0; r < ROUNDS; r++) {
        double began = now();
        yes = judge(f, prog);
        best = now() - began < best ? now() - began : best;
    }
    printf("%-6s %8.1f million/s  %5.2f %% match  %s\n", language, ENTRIES / best / 1e6, 100.0 * (double)yes / ENTRIES, text);
    f->free_prog(prog);
}

int main(int argc, char **argv)
{
    struct zr_inst *tag_inst, *sql_inst;
    if (argc < 2)
        return 2;
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
    return 0;
}
