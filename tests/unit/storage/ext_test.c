/* SPDX-License-Identifier: Apache-2.0 */
/* Extents of queues: RocketMQ's bytes, what is read from them, every damage of them, their end after each kind of stop, and their
 * going with entries, segments and topics. Also bit maps: those that the host makes, and what a read passes over by them. */
#include <errno.h>
#include <sys/stat.h>
#include <sys/time.h>
#include "host.h"
#include "zarya/bits.h"

#define FILE_SIZE 1024 /* 51 units of 20 bytes, and the mark */
#define PER_FILE 51
#define TOPIC "E"

static int64_t store_ms[4096];

static struct world *world_ext(const char *name)
{
    struct world *w = world_new(name);
    w->conf.extents = 1;
    w->conf.extent_file_size = FILE_SIZE;
    cr_assert_eq(world_open(w), ZR_OK);
    return w;
}

static int64_t tag_of(int64_t i)
{
    char tag[16];
    snprintf(tag, sizeof tag, "t%d", (int)i);
    return zl_tags_code(zl_str(tag));
}

static void put_tagged(struct world *w, int64_t from, int64_t n)
{
    for (int64_t i = from; i < from + n; i++) {
        char props[64];
        snprintf(props, sizeof props, "TAGS\001t%d\002n\001%d\002", (int)i, (int)i);
        struct zr_put p = put_one(w, TOPIC, 0, "some body of a message", props);
        cr_assert_eq(p.status, ZR_OK);
        cr_assert_eq(p.queue_offset, i, "%d instead of %d: %s", (int)p.queue_offset, (int)i, w->lines);
        store_ms[i] = p.store_ms;
    }
}

/* What the store says of its entries, wherever they are: the codes of their tags, never an address. */
static void expect_tags(struct world *w, int64_t from, int64_t to)
{
    int64_t phys[64], tags[64];
    uint32_t sizes[64];
    struct zr_queue *q = zs_queue(w->st, zl_str(TOPIC), 0, 0);
    while (from < to) {
        uint32_t n = zs_entries(w->st, q, from, phys, sizes, tags, 64);
        cr_assert_gt(n, 0, "at %d: %s", (int)from, w->lines);
        for (uint32_t i = 0; i < n && from < to; i++, from++)
            if (sizes[i] != 0x7fffffff) /* a message that the log lost */
                cr_assert_eq(tags[i], tag_of(from), "at %d: %lld: %s", (int)from, (long long)tags[i], w->lines);
    }
    cr_assert_eq(max_of(w, TOPIC, 0), to);
}

static void unit_path(struct world *w, char *path, int64_t base) { file_path(w, path, "consumequeue_ext/" TOPIC "/0/%020d", (int)base); }

/* The tags code in the file's entry. */
static int64_t raw_tags(struct world *w, int64_t offset)
{
    char path[1024];
    uint8_t e[20];
    file_path(w, path, "consumequeue/" TOPIC "/0/%020d", (int)(offset / 100 * 2000));
    file_read(path, offset % 100 * 20, e, 20);
    return (int64_t)zl_load64(e + 12);
}

/* Entries of the files lead to units that say what the messages say. How many have one. */
static int expect_units(struct world *w, int64_t from, int64_t to)
{
    int n = 0;
    for (int64_t i = from; i < to; i++) {
        char path[1024];
        uint8_t u[20];
        int64_t tags = raw_tags(w, i);
        if (tags == tag_of(i) || tags == 0) continue;
        cr_assert_leq(tags, -2147483649ll, "at %d", (int)i);
        int64_t offset = (int64_t)((uint64_t)tags - (1ull << 63));
        unit_path(w, path, offset / FILE_SIZE * FILE_SIZE);
        file_read(path, offset % FILE_SIZE, u, 20);
        cr_assert_geq(zl_load16(u), 20, "at %d", (int)i);
        cr_assert_eq(zl_load16(u), 20 + zl_load16(u + 18));
        cr_assert_eq((int64_t)zl_load64(u + 2), tag_of(i), "at %d", (int)i);
        cr_assert_eq((int64_t)zl_load64(u + 10), store_ms[i], "at %d", (int)i);
        n++;
    }
    return n;
}

/* As RocketMQ walks them: units back to back from each file's begin, a mark or zeroes behind. How many there are. */
static int walk(struct world *w)
{
    int n = 0;
    for (int64_t base = 0;; base += FILE_SIZE) {
        char path[1024];
        uint8_t bytes[FILE_SIZE];
        unit_path(w, path, base);
        if (file_size_of(path) != FILE_SIZE) return n;
        file_read(path, 0, bytes, FILE_SIZE);
        int at = 0;
        while (at < FILE_SIZE - 1 && (int16_t)zl_load16(bytes + at) > 0) {
            at += zl_load16(bytes + at);
            n++;
            cr_assert_leq(at, FILE_SIZE - 4, "a unit reaches into the end of %s", path);
        }
        if ((int16_t)zl_load16(bytes + at) == -1) continue;
        for (; at < FILE_SIZE; at++) cr_assert_eq(bytes[at], 0, "%s at %d", path, at);
    }
}

Test(ext, units_have_rocketmqs_layout)
{
    struct world *w = world_ext("layout");
    char path[1024];
    uint8_t u[22];
    put_tagged(w, 0, 150);
    expect_tags(w, 0, 150); /* from memory */
    world_close(w);
    cr_assert_eq(expect_units(w, 0, 150), 150);
    cr_assert_eq(walk(w), 150);
    for (int i = 0; i < 150; i++)
        cr_assert_eq(raw_tags(w, i), (int64_t)((1ull << 63) + (uint64_t)(i / PER_FILE * FILE_SIZE + i % PER_FILE * 20)));
    unit_path(w, path, 0);
    file_read(path, 0, u, 20);
    static const uint8_t head[] = { 0, 20, 0, 0, 0, 0, 0, 0, 0x0e, 0x3c }; /* "t0" hashes to 't' * 31 + '0' */
    cr_assert_eq(memcmp(u, head, sizeof head), 0);
    cr_assert(u[18] == 0 && u[19] == 0);
    file_read(path, PER_FILE * 20, u, 2);
    cr_assert(u[0] == 0xff && u[1] == 0xff);
    unit_path(w, path, 3 * FILE_SIZE);
    cr_assert_eq(file_size_of(path), -1);
    cr_assert_eq(world_open(w), ZR_OK);
    world_quiet(w);
    expect_tags(w, 0, 150); /* from the files */
    cr_assert_eq(w->lines[0], 0, "%s", w->lines);
    world_end(w);
}

Test(ext, they_go_on_after_each_kind_of_stop)
{
    struct world *w = world_ext("stops");
    int64_t n = 0;
    for (int round = 0; round < 6; round++) {
        put_tagged(w, n, 37);
        n += 37;
        if (round % 2) {
            w = world_kill(w);
        } else {
            world_close(w);
            cr_assert_eq(expect_units(w, 0, n), (int)n);
            cr_assert_eq(world_open(w), ZR_OK);
        }
        expect_tags(w, 0, n);
    }
    w->conf.extents = 0; /* written no more, read all the same */
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    put_tagged(w, n, 30);
    expect_tags(w, 0, n + 30);
    world_close(w);
    cr_assert_eq(expect_units(w, 0, n + 30), (int)n);
    w->conf.extents = 1;
    w->conf.extent_file_size = 4096; /* the size they were made with is kept */
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert(world_said(w, "queue_extent_file_size is 4096"), "%s", w->lines);
    put_tagged(w, n + 30, 10);
    world_close(w);
    cr_assert_eq(expect_units(w, 0, n + 40), (int)n + 10);
    cr_assert_eq(walk(w), (int)n + 10);
    world_end(w);
}

/* A queue with everything in its files, and nothing in memory. */
static struct world *stored(const char *name, int64_t n)
{
    struct world *w = world_ext(name);
    put_tagged(w, 0, n);
    world_close(w);
    return w;
}

Test(ext, whatever_is_damaged_the_records_say_it)
{
    static const char *const what[] = { "zeroed", "cut", "deleted", "all deleted", "flipped", "noise", "half a unit" };
    for (uint32_t i = 0; i < sizeof what / sizeof *what; i++) {
        struct world *w = stored("damage", 150);
        char path[1024];
        static uint8_t zeroes[FILE_SIZE], noise[FILE_SIZE];
        for (int k = 0; k < FILE_SIZE; k++) noise[k] = (uint8_t)(k * 7919 >> 3 | 1);
        unit_path(w, path, FILE_SIZE);
        if (i == 0) file_write(path, 190, zeroes, 512);
        if (i == 1) cr_assert_eq(truncate(path, 333), 0);
        if (i == 2) cr_assert_eq(unlink(path), 0);
        if (i == 3) {
            file_path(w, path, "consumequeue_ext");
            remove_tree(path);
        }
        if (i == 4) file_flip(path, 201); /* a size */
        if (i == 5) file_write(path, 0, noise, FILE_SIZE);
        if (i == 6) file_write(path, 208, zeroes, 400);
        cr_assert_eq(world_open(w), ZR_OK);
        expect_tags(w, 0, 150);
        cr_assert(world_said(w, "there is no whole extent at"), "%s: %s", what[i], w->lines);
        put_tagged(w, 150, 80); /* and they go on */
        world_close(w);
        cr_assert_geq(expect_units(w, 150, 230), 80, "%s", what[i]);
        cr_assert_eq(world_open(w), ZR_OK);
        expect_tags(w, 0, 230);
        w = world_kill(w);
        expect_tags(w, 0, 230);
        world_end(w);
    }
}

Test(ext, the_newest_unit_may_be_damaged)
{
    struct world *w = stored("newest", 60);
    char path[1024];
    unit_path(w, path, FILE_SIZE);
    file_flip(path, 8 * 20 + 19);
    cr_assert_eq(world_open(w), ZR_OK);
    expect_tags(w, 0, 60);
    put_tagged(w, 60, 60);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    expect_tags(w, 0, 120);
    world_end(w);
}

/* ---- bit maps ------------------------------------------------------------------------------------------------------------------ */

#define BITS 112u
static const uint32_t places[3] = { 5, 60, 111 };
static _Atomic int asked, judged;

static int64_t number_of(struct zr_span properties)
{
    int64_t n = -1;
    zl_parse_i64(zl_props_get(properties, "n"), &n);
    return n;
}

/* A consumer that wants every tenth message; and another one's bits for some others. */
static uint32_t make_maps(const struct zr_host *host, struct zr_str topic, struct zr_bits_map *maps, uint32_t n)
{
    (void)host;
    cr_assert(zl_is(topic, TOPIC));
    for (uint32_t i = 0; i < n; i++) {
        int64_t no = number_of(maps[i].properties);
        cr_assert_gt(maps[i].store_ms, 0);
        memset(maps[i].bytes, 0, BITS / 8);
        maps[i].n_bytes = BITS / 8;
        for (int k = 0; k < 3; k++)
            if (no % 10 == 3 || (no % 10 == 4 && k != 2)) maps[i].bytes[places[k] / 8] |= (uint8_t)(1u << places[k] % 8);
        atomic_fetch_add(&asked, 1);
    }
    return 1;
}
static const struct zr_bits_v1 bits_table = { .hdr = ZR_HDR(struct zr_bits_v1, 0), .maps = make_maps };

static void ask_all(const struct zr_prog *prog, const int64_t *codes, uint32_t n, uint8_t *verdicts)
{
    (void)prog, (void)codes;
    memset(verdicts, ZR_MATCH_ASK, n);
}
static uint32_t every_tenth(const struct zr_prog *prog, struct zr_span properties)
{
    (void)prog;
    atomic_fetch_add(&judged, 1);
    return number_of(properties) % 10 == 3 ? ZR_MATCH_YES : ZR_MATCH_NO;
}
static const struct zr_filter_v1 filter = { .hdr = ZR_HDR(struct zr_filter_v1, 0), .by_tags = ask_all, .by_properties = every_tenth };

/* Reads all with that filter: messages given; *ret_judged: records that were opened for it. */
static int read_filtered(struct world *w, const struct zr_bits *bits, int *ret_judged)
{
    int n = 0;
    atomic_store(&judged, 0);
    for (int64_t at = 0; at < max_of(w, TOPIC, 0);) {
        struct answer a;
        struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str(TOPIC), .offset = at, .pieces = a.pieces, .cap_pieces = 64,
                               .max_messages = 32, .filter = &filter, .prog = (const struct zr_prog *)&filter, .bits = bits };
        a.r = (struct zr_read_result){ .hdr = ZR_HDR(struct zr_read_result, 0) };
        cr_assert_eq(zs_read(w->st, &req, &a.r), ZR_OK);
        for (uint32_t i = 0; i < a.r.n_messages; i++, n++) cr_assert_eq(record_of(&a, i).queue_offset % 10, 3);
        cr_assert_gt(a.r.next_offset, at);
        at = a.r.next_offset;
        zs_unpin(w->st, a.r.pin);
    }
    *ret_judged = atomic_load(&judged);
    return n;
}

Test(ext, bit_maps_bar_without_a_look_at_the_record)
{
    struct world *w = world_new("bits");
    struct zr_bits bits = { .hdr = ZR_HDR(struct zr_bits, 0), .n_bits = BITS, .n_positions = 3 };
    int looked;
    memcpy(bits.positions, places, sizeof places);
    w->conf.extents = 1;
    w->conf.extent_file_size = FILE_SIZE;
    w->bits = &bits_table;
    cr_assert_eq(world_open(w), ZR_OK);
    put_tagged(w, 0, 200);
    world_close(w);
    cr_assert_eq(atomic_load(&asked), 200);
    cr_assert_eq(expect_units(w, 0, 200), 200);
    cr_assert_eq(walk(w), 200);
    cr_assert_eq(world_open(w), ZR_OK);
    expect_tags(w, 0, 200);
    cr_assert_eq(read_filtered(w, NULL, &looked), 20);
    cr_assert_eq(looked, 200);
    cr_assert_eq(read_filtered(w, &bits, &looked), 20);
    cr_assert_leq(looked, 21, "%d", looked); /* the newest unit is not believed */
    cr_assert_geq(looked, 20);
    bits.n_bits = BITS + 8; /* another filter's maps */
    cr_assert_eq(read_filtered(w, &bits, &looked), 20);
    cr_assert_eq(looked, 200);
    bits.n_bits = BITS;
    bits.after_ms = store_ms[199]; /* registered later */
    cr_assert_eq(read_filtered(w, &bits, &looked), 20);
    cr_assert_eq(looked, 200);
    bits.after_ms = 0;
    put_tagged(w, 200, 100); /* in memory: no maps are at hand */
    cr_assert_eq(read_filtered(w, &bits, &looked), 30);
    char path[1024];
    world_close(w);
    static uint8_t zeroes[300];
    unit_path(w, path, FILE_SIZE); /* zeroes that begin inside a map */
    file_write(path, 34 * 3 + 22, zeroes, sizeof zeroes);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_filtered(w, &bits, &looked), 30);
    world_end(w);
}

/* ---- going ------------------------------------------------------------------------------------------------------------------------ */

static void make_old(struct world *w, int64_t base)
{
    char path[1024];
    struct timeval times[2] = { { 1000000000, 0 }, { 1000000000, 0 } };
    file_path(w, path, "commitlog/%020lld", (long long)base);
    cr_assert_eq(utimes(path, times), 0, "%s", path);
}

Test(ext, they_go_with_the_segments)
{
    struct world *w = world_ext("retired");
    char path[1024], dir[1024];
    uint64_t removed;
    put_tagged(w, 0, 1200);
    flush_all(w);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    file_path(w, dir, "consumequeue_ext/" TOPIC "/0");
    uint64_t before = count_files(dir);
    make_old(w, 0);
    make_old(w, 65536);
    cr_assert_eq(zs_clean(w->st, &removed), ZR_OK);
    int64_t min = min_of(w, TOPIC, 0);
    cr_assert_gt(min, 500);
    cr_assert_eq(count_files(dir), before - (uint64_t)(min / PER_FILE));
    unit_path(w, path, (min / PER_FILE - 1) * FILE_SIZE);
    cr_assert_eq(file_size_of(path), -1);
    expect_tags(w, min, 1200);
    put_tagged(w, 1200, 30);
    w = world_kill(w);
    cr_assert_eq(min_of(w, TOPIC, 0), min);
    expect_tags(w, min, 1230);
    world_quiet(w);
    world_close(w);
    cr_assert_eq(expect_units(w, min, 1230), 1230 - (int)min);
    world_end(w);
}

Test(ext, a_removed_topic_takes_them_along)
{
    struct world *w = stored("removed", 120);
    char path[1024];
    file_path(w, path, "consumequeue_ext/" TOPIC);
    cr_assert_eq(world_open(w), ZR_OK);
    put_tagged(w, 120, 10);
    cr_assert_neq(file_size_of(path), -1);
    cr_assert_eq(zs_remove_topic(w->st, zl_str(TOPIC)), ZR_OK);
    cr_assert_eq(file_size_of(path), -1);
    put_tagged(w, 0, 70);
    w = world_kill(w);
    expect_tags(w, 0, 70);
    world_close(w);
    cr_assert_eq(expect_units(w, 0, 70), 70);
    cr_assert_eq(walk(w), 70);
    world_end(w);
}

/* ---- failures ---------------------------------------------------------------------------------------------------------------------- */

Test(ext, entries_go_without_them_when_they_cannot_be_written)
{
    static const enum op ops[] = { OP_PWRITE, OP_OPEN, OP_FTRUNCATE };
    for (uint32_t i = 0; i < 3; i++) {
        struct world *w = stored("failing", 40);
        cr_assert_eq(world_open(w), ZR_OK);
        world_fault(w, ops[i], 0, EIO, "consumequeue_ext");
        put_tagged(w, 40, 60);
        world_close(w);
        cr_assert(world_said(w, "extents of queues cannot be written"), "%u: %s", i, w->lines);
        world_mend(w);
        cr_assert_lt(expect_units(w, 0, 100), 100);
        cr_assert_eq(world_open(w), ZR_OK);
        expect_tags(w, 0, 100);
        put_tagged(w, 100, 100);
        world_close(w);
        cr_assert_geq(expect_units(w, 0, 200), 140);
        walk(w);
        world_end(w);
    }
}

Test(ext, a_full_disk_tears_nothing)
{
    struct world *w = world_ext("space");
    put_tagged(w, 0, 40);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    world_space(w, 130, "consumequeue_ext");
    put_tagged(w, 40, 30);
    world_close(w);
    world_mend(w);
    cr_assert_eq(world_open(w), ZR_OK);
    expect_tags(w, 0, 70);
    put_tagged(w, 70, 3);
    world_close(w);
    cr_assert_eq(walk(w), 43); /* of the torn write nothing is left */
    cr_assert_eq(expect_units(w, 0, 73), 43);
    world_end(w);
}

/* Another consumer of the disk: the power. Synced entries lead to units that are there. */
Test(ext, a_power_failure_leaves_none_that_is_wrong)
{
    unsigned seed = 7;
    for (int mode = 0; mode < 4; mode++)
        for (int round = 0; round < 6; round++) {
            struct world *w = world_new("power");
            w->conf.extents = 1;
            w->conf.extent_file_size = FILE_SIZE;
            w->conf.checkpoint_interval_ms = 1;
            w->bits = &bits_table;
            world_power(w);
            cr_assert_eq(world_open(w), ZR_OK);
            put_tagged(w, 0, 40 + round * 30);
            flush_all(w);
            usleep(1000 * (useconds_t)(rand_r(&seed) % 30));
            put_tagged(w, 40 + round * 30, 25);
            w = world_cut(w, mode, &seed);
            cr_assert_eq(world_open(w), ZR_OK);
            int64_t n = max_of(w, TOPIC, 0);
            cr_assert_geq(n, 40 + round * 30);
            expect_tags(w, 0, n);
            put_tagged(w, n, 60);
            world_close(w);
            expect_units(w, 0, n + 60);
            walk(w);
            cr_assert_eq(world_open(w), ZR_OK);
            expect_tags(w, 0, n + 60);
            world_end(w);
        }
}
