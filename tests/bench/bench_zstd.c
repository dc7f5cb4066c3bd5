/* SPDX-License-Identifier: Apache-2.0 */
/* bench_zstd.c - what packed segments cost and save, beside plain ones.
 *
 *   bench_zstd DIR [MiB [level]]     of so many MiB (512) of each kind of message, at that level (3)
 *
 * Prints: how much smaller JSON-like and random messages get; sends with and without the packing thread at work, in turn;
 * reading a queue from its beginning on one thread, from plain and from packed segments; single records at random with
 * nothing in memory. The store library is driven without a broker. DIR is made and removed. */
#include <dirent.h>
#include <fcntl.h>
#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>
#include "bench_host.h"
#include "zl/record.h"
#include "zp_store.h"

#define SEGMENT (64ll << 20)
#define RUN 32u
#define ROUNDS 5
#define PROBES 2000

static char dir[512];
static int64_t level = 3;

static struct zs_conf conf_of(uint32_t pack, uint32_t compress)
{
    struct zs_conf c = {
        .root = dir, .log_dir = "", .index = 0, .flush_interval_ms = 200, .checkpoint_interval_ms = 10000, .segment_size = SEGMENT,
        .queue_file_size = 6000000, .max_message_size = 4 << 20, .index_slots = 16, .index_entries = 16, .retention_hours = 72,
        .clean_interval_ms = 10000, .max_hot_bytes = 256 << 10, .max_hot_messages = 1024, .max_cold_bytes = 256 << 10,
        .max_cold_messages = 1024, .max_open_queue_files = 64, .max_open_segments = 64, .max_tail_bytes = 64 << 20,
        .ratio_memory = 0.4, .ratio_clean = 1, .ratio_force = 1, .ratio_refuse = 1, .compress = compress,
        .pack_level = (uint32_t)level, .pack_dict_size = 64 << 10, .pack_block_size = 32 << 10, .pack_rate = 64 << 20,
        .pack_cache_bytes = 32 << 20, .max_open_packs = 64,
    };
    if (pack) c.pack = &zp_store_ops;
    return c;
}

static struct zr_inst *store_open(struct zs_conf c)
{
    struct zr_inst *st = zs_create(&host, &c);
    if (!st || zs_warm(st) != ZR_OK) fail("the store cannot be opened");
    return st;
}

static int remove_one(const char *path, const struct stat *s, int flag, struct FTW *f)
{
    (void)s;
    (void)flag;
    (void)f;
    return remove(path);
}
static void remove_all(void) { nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS); }

/* ---- messages ------------------------------------------------------------------------------------------------------------ */

static uint64_t seed = 88172645463325252ull;
static uint64_t chance(uint64_t below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return seed % below;
}

/* Orders and events as services write them: 200 to 1,000 bytes, ids, names, times, amounts. */
static uint64_t json(char *to, uint64_t n)
{
    static const char *const first[] = { "Anna", "Boris", "Chen", "Dmitri", "Elena", "Fatima", "Georg", "Hana", "Ivan", "Jun" };
    static const char *const last[] = { "Ivanova", "Petrov", "Li", "Schmidt", "Novak", "Garcia", "Kim", "Okafor", "Silva", "Wang" };
    static const char *const goods[] = { "keyboard", "monitor", "cable", "notebook", "lamp", "chair", "headset", "dock" };
    static const char *const states[] = { "CREATED", "PAID", "PACKED", "SHIPPED", "DELIVERED", "RETURNED" };
    int k = sprintf(to, "{\"eventId\":\"%016llx%08llx\",\"type\":\"order.%s\",\"time\":\"2026-03-%02uT%02u:%02u:%02u.%03uZ\",\"orderId\":%llu,"
                    "\"customer\":{\"id\":%llu,\"name\":\"%s %s\",\"vip\":%s},\"currency\":\"EUR\",\"items\":[",
                    (unsigned long long)(chance(1ull << 62)), (unsigned long long)chance(1ull << 32), states[chance(6)],
                    (unsigned)(n / 86400 % 28 + 1), (unsigned)(n / 3600 % 24), (unsigned)(n / 60 % 60), (unsigned)(n % 60),
                    (unsigned)chance(1000), (unsigned long long)(10000000 + n), (unsigned long long)chance(2000000), first[chance(10)],
                    last[chance(10)], chance(10) ? "false" : "true");
    for (uint64_t i = 0, items = 1 + chance(8); i < items; i++)
        k += sprintf(to + k, "%s{\"sku\":\"%s-%04llu\",\"quantity\":%llu,\"price\":%llu.%02llu}", i ? "," : "", goods[chance(8)],
                     (unsigned long long)chance(5000), (unsigned long long)(1 + chance(5)), (unsigned long long)chance(900),
                     (unsigned long long)chance(100));
    return (uint64_t)(k + sprintf(to + k, "],\"total\":%llu.%02llu,\"warehouse\":\"W%llu\"}", (unsigned long long)chance(5000),
                                  (unsigned long long)chance(100), (unsigned long long)chance(40)));
}

static uint64_t noise(char *to)
{
    uint64_t len = 200 + chance(800);
    for (uint64_t i = 0; i + 8 <= len; i += 8) {
        uint64_t v = chance(~0ull) * 0x9E3779B97F4A7C15ull;
        memcpy(to + i, &v, 8);
    }
    return len;
}

struct batch {
    char body[RUN][2048], props[RUN][128];
    struct zr_msg msgs[RUN];
    struct zr_put puts[RUN];
};

static void batch_fill(struct batch *b, uint64_t n, uint32_t random)
{
    for (uint32_t i = 0; i < RUN; i++) {
        uint64_t len = random ? noise(b->body[i]) : json(b->body[i], n + i);
        int p = sprintf(b->props[i], "UNIQ_KEY%c7F0000010A2C18B4AAC2%012llX%cTAGS%corders%c", 1, (unsigned long long)(n + i), 2, 1, 2);
        b->msgs[i] = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("orders"), .body = { (uint8_t *)b->body[i], len },
                                      .properties = { (uint8_t *)b->props[i], random ? 0 : (uint64_t)p }, .born_ms = 1760000000000 + (int64_t)n,
                                      .born_host = { { 10, 0, 0, 1 }, 40000, 4 }, .store_host = { { 10, 0, 0, 2 }, 10911, 4 }, .inner_num = 1 };
        b->puts[i] = (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0) };
    }
}

static int64_t thread_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}

/* Appends until the log has so many bytes more; ns spent in appends alone, and of processor in them. */
static int64_t fill(struct zr_inst *st, int64_t bytes, uint32_t random, uint64_t *n, int64_t *cpu_ns)
{
    static struct batch b;
    int64_t spent = 0, end = 0, goal = -1;
    *cpu_ns = 0;
    while (goal < 0 || end < goal) {
        batch_fill(&b, *n, random);
        int64_t t = mono(NULL), c = thread_ns();
        zs_append(st, b.msgs, RUN, b.puts, &end);
        *cpu_ns += thread_ns() - c;
        spent += mono(NULL) - t;
        if (goal < 0) goal = end + bytes;
        if (b.puts[RUN - 1].status != ZR_OK) fail("an append failed");
        *n += RUN;
    }
    return spent;
}

/* ---- files ------------------------------------------------------------------------------------------------------------------- */

/* Bytes of the files of the log in that form, and how many; out of the page cache, if asked. */
static int64_t files(const char *suffix, uint32_t *ret_n, uint32_t forget)
{
    char path[1100];
    int64_t sum = 0;
    snprintf(path, sizeof path, "%s/commitlog", dir);
    DIR *d = opendir(path);
    *ret_n = 0;
    for (struct dirent *e; d && (e = readdir(d));) {
        struct stat s;
        if (strlen(e->d_name) < 20 || strcmp(e->d_name + 20, suffix) != 0) continue;
        snprintf(path, sizeof path, "%s/commitlog/%s", dir, e->d_name);
        int fd = open(path, O_RDONLY);
        if (fd < 0) continue;
        if (fstat(fd, &s) == 0) sum += s.st_size;
        if (forget) {
            fsync(fd);
            posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
        }
        close(fd);
        ++*ret_n;
    }
    if (d) closedir(d);
    return sum;
}

static void wait_packed(void)
{
    uint32_t plain = 9, tmp = 9;
    for (;;) {
        files("", &plain, 0);
        files(".zst.tmp", &tmp, 0);
        if (plain <= 2 && tmp == 0) return;
        usleep(20000);
    }
}

/* ---- reading ------------------------------------------------------------------------------------------------------------------- */

static void catch_up(const char *what, struct zr_inst *st)
{
    static struct zr_piece pieces[1024];
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("orders"), .pieces = pieces, .cap_pieces = 1024, .max_messages = 1024 };
    struct zr_read_result r = { .hdr = ZR_HDR(struct zr_read_result, 0) };
    struct timespec a, b;
    uint64_t bytes = 0, n = 0;
    int64_t t = mono(NULL);
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &a);
    for (;;) {
        if (zs_read(st, &req, &r) != ZR_OK || r.next_offset <= req.offset) break;
        bytes += r.bytes;
        n += r.n_messages;
        req.offset = r.next_offset;
        zs_unpin(st, r.pin);
        r.pin = 0;
    }
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &b);
    double cpu = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9, wall_s = (double)(mono(NULL) - t) / 1e9;
    printf("catch-up reading, %-7s %llu messages, %.0f MB/s of original bytes (%.0f MB/s per second of processor)\n", what,
           (unsigned long long)n, (double)bytes / 1e6 / wall_s, (double)bytes / 1e6 / cpu);
}

static int by_value(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* Every record is looked up in a cache that is too small to have it. */
static void singles(const char *what, struct zr_inst *st, uint32_t cold)
{
    static int64_t took[PROBES];
    int64_t min, max, tag, phys;
    uint32_t size, n, files_n;
    struct zr_queue *q = zs_queue(st, zl_str("orders"), 0, 0);
    zs_bounds(st, q, &min, &max);
    for (n = 0; n < PROBES; n++) {
        struct zr_piece piece;
        uint64_t pin;
        if (zs_entries(st, q, min + (int64_t)chance((uint64_t)(max - min) * 9 / 10), &phys, &size, &tag, 1) != 1) fail("no entry");
        if (cold && n % 100 == 0) {
            files("", &files_n, 1);
            files(".zst", &files_n, 1);
        }
        int64_t t = mono(NULL);
        if (zs_record_at(st, phys, &piece, &pin) != ZR_OK) fail("no record");
        took[n] = mono(NULL) - t;
        zs_unpin(st, pin);
    }
    qsort(took, PROBES, sizeof *took, by_value);
    printf("single records, %-28s p50 %.0f us, p90 %.0f us, p99 %.0f us\n", what, (double)took[PROBES / 2] / 1e3,
           (double)took[PROBES * 9 / 10] / 1e3, (double)took[PROBES * 99 / 100] / 1e3);
}

/* ---- the whole -------------------------------------------------------------------------------------------------------------------- */

static void ratio(const char *what)
{
    uint32_t n;
    int64_t packed = files(".zst", &n, 0), raw = (int64_t)n * SEGMENT;
    printf("%-24s %u segments, %.1f MB to %.1f MB: %.2f times smaller (%+.2f %%)\n", what, n, (double)raw / 1e6, (double)packed / 1e6,
           (double)raw / (double)packed, 100.0 * ((double)packed / (double)raw - 1));
}

static void kind(int64_t bytes, uint32_t random)
{
    uint64_t n = 0;
    struct zs_conf c = conf_of(1, 1);
    uint32_t k;
    remove_all();
    struct zr_inst *st = store_open(conf_of(0, 0));
    int64_t cpu;
    fill(st, bytes, random, &n, &cpu);
    store_close(st);
    if (!random) {
        st = store_open(conf_of(0, 0));
        files("", &k, 1);
        catch_up("plain", st);
        store_close(st);
    }
    c.pack_rate = 1ll << 40;
    int64_t t = mono(NULL);
    st = store_open(c);
    wait_packed();
    printf("packing and verifying:   %.0f MB/s\n", (double)bytes / 1e6 / ((double)(mono(NULL) - t) / 1e9));
    store_close(st);
    ratio(random ? "random bytes" : "JSON-like messages");
    if (random) return;
    st = store_open(conf_of(1, 1));
    files(".zst", &k, 1);
    catch_up("packed", st);
    store_close(st);
    c = conf_of(1, 1);
    c.pack_cache_bytes = 65536;
    st = store_open(c);
    singles("packed, page cache warm", st, 0);
    singles("packed, from the disk", st, 1);
    store_close(st);
}

static void sends(int64_t bytes)
{
    int64_t wall_rate[2][ROUNDS], cpu_rate[2][ROUNDS], cpu;
    for (int round = 0; round < ROUNDS; round++)
        for (uint32_t pack = 0; pack < 2; pack++) {
            uint64_t n = 0;
            remove_all();
            struct zr_inst *st = store_open(conf_of(pack, 1));
            int64_t spent = fill(st, bytes, 0, &n, &cpu);
            store_close(st);
            wall_rate[pack][round] = (int64_t)((double)n / ((double)spent / 1e9));
            cpu_rate[pack][round] = (int64_t)((double)n / ((double)cpu / 1e9));
        }
    for (int pack = 0; pack < 2; pack++) {
        qsort(wall_rate[pack], ROUNDS, sizeof(int64_t), by_value);
        qsort(cpu_rate[pack], ROUNDS, sizeof(int64_t), by_value);
    }
    int64_t *w[2] = { &wall_rate[0][ROUNDS / 2], &wall_rate[1][ROUNDS / 2] }, *c[2] = { &cpu_rate[0][ROUNDS / 2], &cpu_rate[1][ROUNDS / 2] };
    printf("appends, %u at a time: plain %lld/s, with packing at 64 MiB/s behind them %lld/s (%.0f %%); per second of the sender's processor "
           "%lld and %lld (%.0f %%); medians of %d, in turn\n", RUN, (long long)*w[0], (long long)*w[1], 100.0 * (double)*w[1] / (double)*w[0],
           (long long)*c[0], (long long)*c[1], 100.0 * (double)*c[1] / (double)*c[0], ROUNDS);
}

int main(int argc, char **argv)
{
    if (argc < 2 || snprintf(dir, sizeof dir, "%s", argv[1]) >= (int)sizeof dir || dir[0] != '/') fail("an absolute folder to make and remove, please");
    int64_t mib = argc > 2 ? atoll(argv[2]) : 512;
    if (argc > 3) level = atoll(argv[3]);
    if (mib < 128 || mib > 65536 || level < 1 || level > 19) fail("128 to 65536 MiB, level 1 to 19");
    host.data_dir = dir;
    kind(mib << 20, 0);
    kind(mib << 20, 1);
    sends(mib << 20);
    remove_all();
    return 0;
}
