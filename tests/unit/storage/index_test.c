/* SPDX-License-Identifier: Apache-2.0 */
/* The index by key: found, found again after every kind of stop, and files as RocketMQ lays them out. */
#include "host.h"
#include <dirent.h>
#include <errno.h>
#include <time.h>
#include "index.h"

static struct zr_put put_key(struct world *w, int i)
{
    char props[128];
    snprintf(props, sizeof props, "UNIQ_KEY\001U%d\002KEYS\001K%d Same\002", i, i);
    return put_one(w, "T", i % 3, "body", props);
}

static int32_t ask(struct world *w, const char *key, int64_t *phys, uint32_t cap)
{
    return zs_find_key(w->st, zl_str("T"), zl_str(key), 0, 0, INT64_MAX, phys, cap);
}

static void expect_key(struct world *w, const char *format, int i, int64_t phys)
{
    int64_t found[64];
    char key[64];
    snprintf(key, sizeof key, format, i);
    int32_t n = ask(w, key, found, 64);
    uint32_t there = 0;
    for (int32_t k = 0; k < n; k++) there |= found[k] == phys;
    cr_assert(there, "%s: %d found, none at %lld: %s", key, n, (long long)phys, w->lines);
}

Test(index, every_key_finds_its_message)
{
    struct world *w = world_new("keys");
    int64_t phys[300], found[64];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 300; i++) phys[i] = put_key(w, i).physical_offset; /* 900 keys: several files */
    for (int i = 0; i < 300; i++) {
        expect_key(w, "U%d", i, phys[i]);
        expect_key(w, "K%d", i, phys[i]);
    }
    cr_assert_eq(ask(w, "Same", found, 64), 64);
    cr_assert_eq(found[0], phys[299]); /* newest first */
    for (int i = 1; i < 64; i++) cr_assert_lt(found[i], found[i - 1]);
    cr_assert_eq(ask(w, "Never", found, 64), 0);
    char path[1024];
    file_path(w, path, "index");
    cr_assert_geq(count_files(path), 3);
    world_end(w);
}

Test(index, keys_survive_stop_and_kill)
{
    struct world *w = world_new("survive");
    int64_t phys[400];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < 100; i++) phys[round * 100 + i] = put_key(w, round * 100 + i).physical_offset;
        if (round & 1) {
            w = world_kill(w);
        } else {
            int64_t found[4];
            ask(w, "U1", found, 4); /* let it be indexed, so that the stop has something to write */
            world_close(w);
            cr_assert_eq(world_open(w), ZR_OK);
        }
        for (int i = 0; i < (round + 1) * 100; i++) expect_key(w, "U%d", i, phys[i]);
    }
    int64_t found[1024];
    int32_t n = ask(w, "Same", found, 1024);
    cr_assert_eq(n, 400, "%d: none twice, none missing", n);
    world_end(w);
}

Test(index, damaged_or_missing_files_are_made_anew)
{
    for (int what = 0; what < 4; what++) {
        struct world *w = world_new("damage");
        int64_t phys[80];
        char dir[1024], path[2048], name[64] = "";
        w->conf.index_slots = 64;
        w->conf.index_entries = 1000;
        cr_assert_eq(world_open(w), ZR_OK);
        for (int i = 0; i < 80; i++) phys[i] = put_key(w, i).physical_offset;
        world_close(w);
        file_path(w, dir, "index");
        DIR *d = opendir(dir);
        for (struct dirent *e; (e = readdir(d));)
            if (e->d_name[0] != '.' && strcmp(e->d_name, name) > 0) snprintf(name, sizeof name, "%s", e->d_name);
        closedir(d);
        snprintf(path, sizeof path, "%s/%s", dir, name);
        uint8_t zeros[200] = { 0 };
        switch (what) {
        case 0: remove(path); break;                                                   /* the newest file */
        case 1: file_write(path, 24, zeros, 16); break;                                /* its count and end */
        case 2: file_write(path, 40 + 4 * 64 + 20 * 100, zeros, 200); break;           /* entries in its middle */
        default: cr_assert_eq(truncate(path, 1000), 0);
        }
        if (what == 2) { /* seen only when the entries are read, that is after a kill */
            char abort_path[1024];
            file_path(w, abort_path, "abort");
            FILE *f = fopen(abort_path, "w");
            fclose(f);
        }
        cr_assert_eq(world_open(w), ZR_OK);
        for (int i = 0; i < 80; i++) expect_key(w, "U%d", i, phys[i]);
        world_end(w);
    }
}

Test(index, the_file_is_laid_out_as_rocketmq_does)
{
    struct world *w = world_new("layout");
    char dir[1024], path[2048];
    atomic_store(&w->wall, 1700000000123);
    cr_assert_eq(world_open(w), ZR_OK);
    struct zr_put a = put_one(w, "T", 0, "x", "UNIQ_KEY\001one\002");
    int64_t found[4];
    atomic_store(&w->wall, 1700000005123);
    struct zr_put b = put_one(w, "T", 0, "x", "UNIQ_KEY\001two\002KEYS\001a  b\002");
    cr_assert_eq(ask(w, "b", found, 4), 1);
    world_close(w);
    file_path(w, dir, "index");
    DIR *d = opendir(dir);
    struct dirent *e;
    while ((e = readdir(d)) && e->d_name[0] == '.') {}
    cr_assert_not_null(e);
    cr_assert_eq(strlen(e->d_name), 17);
    snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
    closedir(d);
    cr_assert_eq(file_size_of(path), 40 + 4 * 128 + 20 * 256);
    uint8_t h[40], x[20], s[4];
    file_read(path, 0, h, 40);
    cr_assert_eq((int64_t)zl_load64(h), a.store_ms);
    cr_assert_eq((int64_t)zl_load64(h + 8), b.store_ms);
    cr_assert_eq((int64_t)zl_load64(h + 16), a.physical_offset);
    cr_assert_eq((int64_t)zl_load64(h + 24), b.physical_offset);
    cr_assert_eq(zl_load32(h + 36), 5); /* the next number: entries 1 to 4 */
    int32_t hash = zl_java_hash(zl_str("T#two"));
    if (hash < 0) hash = -hash;
    file_read(path, 40 + 4 * 128 + 20 * 2, x, 20);
    cr_assert_eq((int32_t)zl_load32(x), hash);
    cr_assert_eq((int64_t)zl_load64(x + 4), b.physical_offset);
    cr_assert_eq(zl_load32(x + 12), 5);
    file_read(path, 40 + 4 * (hash % 128), s, 4);
    cr_assert_geq(zl_load32(s), 2);
    world_end(w);
}

Test(index, times_bound_a_query)
{
    struct world *w = world_new("times");
    int64_t found[16];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 10; i++) {
        atomic_store(&w->wall, 1700000000000 + i * 10000);
        put_one(w, "T", 0, "x", "KEYS\001same\002");
    }
    int32_t n = zs_find_key(w->st, zl_str("T"), zl_str("same"), 0, 0, INT64_MAX, found, 16);
    cr_assert_eq(n, 10, "%d: %s", n, w->lines);
    cr_assert_eq(zs_find_key(w->st, zl_str("T"), zl_str("same"), 0, 1700000030000, 1700000050000, found, 16), 3);
    cr_assert_eq(zs_find_key(w->st, zl_str("T"), zl_str("same"), 0, 1700000100000, INT64_MAX, found, 16), 0);
    world_end(w);
}

Test(index, a_store_without_an_index_says_so)
{
    struct world *w = world_new("none");
    int64_t found[4];
    w->conf.index = 0;
    cr_assert_eq(world_open(w), ZR_OK);
    put_key(w, 1);
    cr_assert_eq(ask(w, "U1", found, 4), ZR_ENOTSUP);
    world_close(w);
    w->conf.index = 1; /* switched on later: what is there is indexed too */
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(ask(w, "U1", found, 4), 1);
    world_end(w);
}

static uint32_t index_names(struct world *w, char names[][32], uint32_t cap)
{
    char dir[1024];
    uint32_t n = 0;
    file_path(w, dir, "index");
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d)) && n < cap;)
        if (e->d_name[0] != '.') snprintf(names[n++], 32, "%s", e->d_name);
    closedir(d);
    qsort(names, n, 32, (int (*)(const void *, const void *))strcmp);
    return n;
}

/* What a disk does to a file of the index: which of the files, and what. */
static void index_damage(struct world *w, const char *name, int what)
{
    static const uint8_t zeros[40 + 4 * 128 + 20 * 256];
    char path[2048];
    file_path(w, path, "index/%s", name);
    switch (what) {
    case 0: remove(path); break;
    case 1: cr_assert_eq(truncate(path, 0), 0); break;
    case 2: file_write(path, 0, zeros, sizeof zeros); break;
    case 3: cr_assert_eq(truncate(path, 2000), 0); break;
    case 4: file_write(path, 0, zeros, 40); break;                     /* the header */
    case 5: file_write(path, 40 + 4 * 128 + 20 * 100, zeros, 60); break; /* entries in the middle */
    default: file_write(path, 40, zeros, 4 * 128); break;               /* the slots */
    }
}

Test(index, a_file_that_is_lost_or_damaged_anywhere_is_made_anew)
{
    for (int what = 0; what < 7; what++)
        for (int where = 0; where < 4; where++) {
            struct world *w = world_new("anew");
            int64_t phys[300], found[1024];
            char names[16][32];
            cr_assert_eq(world_open(w), ZR_OK);
            for (int i = 0; i < 300; i++) phys[i] = put_key(w, i).physical_offset; /* 4 files */
            ask(w, "U1", found, 4);
            world_close(w);
            cr_assert_eq(index_names(w, names, 16), 4);
            if (where < 3) index_damage(w, names[where], what);
            else index_damage(w, names[0], what), index_damage(w, names[1], what), index_damage(w, names[2], what);
            if (what > 4) { /* seen only when entries are read: after a kill, for files that the checkpoint does not vouch for */
                char path[1024];
                const uint8_t zeros[8] = { 0 };
                file_path(w, path, "abort");
                fclose(fopen(path, "w"));
                file_path(w, path, "checkpoint");
                file_write(path, 16, zeros, 8);
            }
            cr_assert_eq(world_open(w), ZR_OK);
            for (int i = 0; i < 300; i++) {
                expect_key(w, "U%d", i, phys[i]);
                expect_key(w, "K%d", i, phys[i]);
            }
            int32_t n = ask(w, "Same", found, 1024);
            cr_assert_eq(n, 300, "damage %d of %d: %d", what, where, n);
            world_close(w);
            cr_assert_eq(index_names(w, names, 16), 4, "damage %d of %d", what, where);
            world_quiet(w);
            cr_assert_eq(world_open(w), ZR_OK); /* and now it is good */
            cr_assert_eq(ask(w, "Same", found, 1024), 300);
            cr_assert(!world_said(w, "anew"), "%s", w->lines);
            world_end(w);
        }
}

Test(index, what_is_made_anew_is_made_again_when_the_process_dies_over_it)
{
    struct world *w = world_new("twice");
    int64_t found[1024];
    char names[16][32];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 300; i++) put_key(w, i);
    ask(w, "U1", found, 4);
    world_close(w);
    cr_assert_eq(index_names(w, names, 16), 4);
    index_damage(w, names[1], 0);
    cr_assert_eq(world_open(w), ZR_OK);
    world_fault(w, OP_PWRITE, 0, 28, "index");
    ask(w, "U1", found, 4);
    world_mend(w);
    w = world_kill(w);
    cr_assert_eq(ask(w, "Same", found, 1024), 300, "%s", w->lines);
    world_end(w);
}

Test(index, tags_have_entries_of_their_own)
{
    struct world *w = world_new("tags");
    int64_t found[16];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 6; i++) put_one(w, "T", 0, "x", i & 1 ? "KEYS\001red\002TAGS\001blue\002" : "KEYS\001blue\002TAGS\001red\002");
    cr_assert_eq(zs_find_key(w->st, zl_str("T"), zl_str("blue"), ZR_KEY_TAG, 0, INT64_MAX, found, 16), 3);
    cr_assert_eq(zs_find_key(w->st, zl_str("T"), zl_str("blue"), ZR_KEY_PLAIN, 0, INT64_MAX, found, 16), 3);
    cr_assert_eq(zs_find_key(w->st, zl_str("T"), zl_str("green"), ZR_KEY_TAG, 0, INT64_MAX, found, 16), 0);
    world_end(w);
}

/* One entry as RocketMQ writes it: into the slot's chain, and the header follows. */
static void foreign_put(const char *path, const char *text, int64_t phys)
{
    uint8_t head[40], slot[4], e[20];
    int32_t hash = zl_java_hash(zl_str(text)), n;
    if (hash < 0) hash = -hash;
    file_read(path, 0, head, 40);
    file_read(path, 40 + 4 * (hash % 128), slot, 4);
    n = (int32_t)zl_load32(head + 36);
    zl_store32(e, (uint32_t)hash);
    zl_store64(e + 4, (uint64_t)phys);
    zl_store32(e + 12, 0);
    memcpy(e + 16, slot, 4);
    file_write(path, 40 + 4 * 128 + 20 * n, e, 20);
    zl_store32(slot, (uint32_t)n);
    file_write(path, 40 + 4 * (hash % 128), slot, 4);
    zl_store64(head + 24, (uint64_t)phys);
    zl_store32(head + 36, (uint32_t)n + 1);
    file_write(path, 0, head, 40);
}

/* Records 0 to 29 with keys in the index's one file, whose path is given back; those from 30 to n - 1 in the log only. */
static void half_indexed(struct world *w, int64_t *phys, int n, char *path)
{
    int64_t found[4];
    char names[8][32];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 30; i++) phys[i] = put_key(w, i).physical_offset;
    ask(w, "U1", found, 4);
    world_close(w);
    w->conf.index = 0;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 30; i < n; i++) phys[i] = put_key(w, i).physical_offset;
    world_close(w);
    cr_assert_eq(index_names(w, names, 8), 1);
    file_path(w, path, "index/%s", names[0]);
    w->conf.index = 1;
}

Test(index, what_a_killed_broker_left_out_in_the_middle_is_found)
{
    for (int clean = 0; clean < 2; clean++)
        for (int split = 0; split < 2; split++) { /* split: the file that lacks something is not the newest */
            struct world *w = world_new("middle");
            int64_t phys[200], found[1024];
            char path[1024], key[64];
            half_indexed(w, phys, 100, path);
            foreign_put(path, "T#U30", phys[30]); /* the first of its three keys */
            for (int i = 60; i < 100; i++) {
                snprintf(key, sizeof key, "T#U%d", i);
                foreign_put(path, key, phys[i]);
                snprintf(key, sizeof key, "T#K%d", i);
                foreign_put(path, key, phys[i]);
                foreign_put(path, "T#Same", phys[i]);
            }
            for (int i = 212; split && i < 256; i++) foreign_put(path, "T#filling", phys[99]); /* full: a next one is begun */
            if (!clean) {
                file_path(w, path, "abort");
                fclose(fopen(path, "w"));
            }
            cr_assert_eq(world_open(w), ZR_OK);
            for (int i = 100; i < 120; i++) phys[i] = put_key(w, i).physical_offset;
            for (int i = 0; i < 120; i++) expect_key(w, "U%d", i, phys[i]);
            for (int i = 0; i < 120; i++) expect_key(w, "K%d", i, phys[i]);
            int32_t n = ask(w, "Same", found, 1024);
            cr_assert_eq(n, 120, "%d %d: %d: %s", clean, split, n, w->lines);
            w = world_kill(w); /* nothing of what was cut comes back */
            n = ask(w, "Same", found, 1024);
            cr_assert_eq(n, 120, "%d %d: %d: %s", clean, split, n, w->lines);
            for (int i = 0; i < 120; i++) expect_key(w, "U%d", i, phys[i]);
            world_end(w);
        }
}

Test(index, a_record_of_which_a_key_is_left_out_in_the_middle_is_found)
{
    struct world *w = world_new("part");
    int64_t phys[100], found[1024];
    char path[1024], key[64];
    half_indexed(w, phys, 60, path);
    for (int i = 30; i < 60; i++) {
        snprintf(key, sizeof key, "T#U%d", i);
        foreign_put(path, key, phys[i]);
        snprintf(key, sizeof key, "T#K%d", i);
        if (i != 45) foreign_put(path, key, phys[i]);
        foreign_put(path, "T#Same", phys[i]);
    }
    file_path(w, path, "abort");
    fclose(fopen(path, "w"));
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 60; i++) expect_key(w, "U%d", i, phys[i]);
    for (int i = 0; i < 60; i++) expect_key(w, "K%d", i, phys[i]);
    int32_t n = ask(w, "Same", found, 1024);
    cr_assert_eq(n, 60, "%d: %s", n, w->lines);
    world_end(w);
}

/* An entry of the file's that its header does not speak of, at the end of its key's chain. */
static void stale_put(const char *path, const char *text, int32_t n, int32_t before, int64_t phys)
{
    uint8_t e[20] = { 0 };
    int32_t hash = zl_java_hash(zl_str(text));
    if (hash < 0) hash = -hash;
    if (!before) file_read(path, 40 + 4 * (hash % 128), e + 16, 4);
    else zl_store32(e + 16, (uint32_t)before);
    zl_store32(e, (uint32_t)hash);
    zl_store64(e + 4, (uint64_t)phys);
    file_write(path, 40 + 4 * 128 + 20 * n, e, 20);
}

Test(index, entries_of_a_log_that_was_lost_do_not_come_back)
{
    struct world *w = world_new("stale");
    int64_t phys[40], found[4];
    char names[8][32], path[1024];
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 30; i++) phys[i] = put_key(w, i).physical_offset;
    ask(w, "U1", found, 4);
    world_close(w);
    cr_assert_eq(index_names(w, names, 8), 1);
    file_path(w, path, "index/%s", names[0]);
    for (int i = 0; i < 9; i++) stale_put(path, "T#gone", 91 + i, i ? 90 + i : 0, phys[29] + (i / 3 + 1) * (phys[29] - phys[28]));
    file_path(w, path, "abort");
    fclose(fopen(path, "w"));
    cr_assert_eq(world_open(w), ZR_OK);
    ask(w, "U1", found, 4);
    for (int i = 30; i < 36; i++) phys[i] = put_key(w, i).physical_offset;
    w = world_kill(w); /* the entries of these were not written yet */
    for (int i = 0; i < 36; i++) expect_key(w, "U%d", i, phys[i]);
    for (int i = 0; i < 36; i++) expect_key(w, "K%d", i, phys[i]);
    cr_assert_eq(ask(w, "gone", found, 4), 0, "%s", w->lines);
    world_end(w);
}

/* What the index may still be written to is counted as the test's disk shrinks. */
#define PLENTY (1ll << 40)

Test(index, the_last_of_the_disk_is_the_logs)
{
    struct world *w = world_new("reserve"), *k;
    int64_t phys[10], found[16];
    w->conf.index_slots = 1 << 20; /* 4 MiB, of which ten messages touch 30 pages at most */
    w->conf.index_entries = 2000;
    w->conf.ratio_refuse = w->conf.ratio_force = w->conf.ratio_clean = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 10; i++) phys[i] = put_key(w, i).physical_offset;
    cr_assert_eq(ask(w, "Same", found, 16), 10);
    k = world_copy(w);
    world_end(w);

    /* killed: no page of slots is written that needs no change */
    world_space(k, PLENTY, "index");
    cr_assert_eq(world_open(k), ZR_OK);
    cr_assert_eq(ask(k, "Same", found, 16), 10);
    w = world_copy(k);
    world_close(k);
    int64_t used = PLENTY - atomic_load(&k->disk_left);
    cr_assert(used > 0 && used < 300000, "%lld bytes were written", (long long)used);
    world_end(k);

    /* nearly full: nothing is written at all, and every key is found */
    world_space(w, PLENTY, "index");
    atomic_store(&w->used, 0.99);
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 10; i++) expect_key(w, "K%d", i, phys[i]);
    world_close(w);
    cr_assert_eq(atomic_load(&w->disk_left), PLENTY);
    cr_assert(world_said(w, "the index could not be written"), "%s", w->lines);

    /* space again */
    atomic_store(&w->used, 0);
    world_quiet(w);
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 10; i++) expect_key(w, "K%d", i, phys[i]);
    world_close(w);
    cr_assert(!world_said(w, "the index could not be written"), "%s", w->lines);
    cr_assert_lt(atomic_load(&w->disk_left), PLENTY);
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 10; i++) expect_key(w, "U%d", i, phys[i]);
    world_end(w);
}

/* ---- parts of the log without keys ---- */
static void bare_path(struct world *w, char *path)
{
    file_path(w, path, "zarya");
    strcat(path, "/bare");
}

static void index_file_delete(struct world *w)
{
    char dir[1024], path[2048], first[64] = "";
    file_path(w, dir, "index");
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.' && (!*first || strcmp(e->d_name, first) < 0)) snprintf(first, sizeof first, "%s", e->d_name);
    closedir(d);
    snprintf(path, sizeof path, "%s/%s", dir, first);
    cr_assert_eq(remove(path), 0);
}

/* 40 keyed messages, 120 KiB without keys, 40 keyed ones; a file of the index ends with each 40. */
static void bare_fill(struct world *w, int64_t *phys)
{
    char body[1024];
    memset(body, 'b', sizeof body - 1);
    body[sizeof body - 1] = 0;
    w->conf.index_slots = 64;
    w->conf.index_entries = 121; /* entry 0 is never used; three keys each */
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 40; i++) phys[i] = put_key(w, i).physical_offset;
    for (int i = 0; i < 120; i++) put_one(w, "T", 0, body, "");
    for (int i = 40; i < 80; i++) phys[i] = put_key(w, i).physical_offset;
    put_key(w, 80); /* one more file */
    expect_key(w, "U%d", 79, phys[79]);
    world_close(w);
}

Test(index, a_part_without_keys_is_read_once)
{
    struct world *w = world_new("bare");
    int64_t phys[80], found[4];
    char path[1024];
    bare_fill(w, phys);
    bare_path(w, path);
    world_fault(w, OP_PWRITE, 0, EIO, "zarya/bare"); /* it is tried again at the next start */
    cr_assert_eq(world_open(w), ZR_OK);
    expect_key(w, "U%d", 0, phys[0]);
    world_close(w);
    cr_assert(world_said(w, "bare cannot be written"), "%s", w->lines);
    cr_assert_lt(file_size_of(path), 0);
    world_mend(w);
    cr_assert_eq(world_open(w), ZR_OK);
    expect_key(w, "U%d", 0, phys[0]);
    world_close(w);
    FILE *f = fopen(path, "rb");
    cr_assert(f != NULL, "%s", w->lines);
    uint8_t row[12 + 32 + 4];
    cr_assert_eq(fread(row, 1, sizeof row, f), sizeof row);
    cr_assert_eq(fgetc(f), EOF);
    fclose(f);
    cr_assert_eq(zl_load32(row + 8), 1u);
    cr_assert_gt((int64_t)zl_load64(row + 12), phys[39]);
    cr_assert_eq((int64_t)zl_load64(row + 20), phys[40]);

    /* It is gone by: a row that claims too much hides what a deleted file had. */
    zl_store64(row + 12, 0);
    zl_store32(row + sizeof row - 4, zl_crc32(0, row, sizeof row - 4));
    f = fopen(path, "wb");
    cr_assert_eq(fwrite(row, 1, sizeof row, f), sizeof row);
    fclose(f);
    index_file_delete(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(ask(w, "U3", found, 4), 0);
    world_close(w);

    /* One that was damaged, or whose last record is another by now, is not believed. */
    for (int how = 0; how < 2; how++) {
        zl_store64(row + 36, how ? 12345 : zl_load64(row + 36));
        zl_store32(row + sizeof row - 4, zl_crc32(0, row, sizeof row - 4) ^ (how == 0));
        f = fopen(path, "wb");
        cr_assert_eq(fwrite(row, 1, sizeof row, f), sizeof row);
        fclose(f);
        cr_assert_eq(world_open(w), ZR_OK);
        expect_key(w, "U%d", 3, phys[3]);
        expect_key(w, "U%d", 79, phys[79]);
        world_close(w);
        if (how == 0) index_file_delete(w);
    }
    cr_assert_eq(world_open(w), ZR_OK);
    world_end(w);
}

Test(index, other_sizes_and_back_lose_no_key)
{
    struct world *w = world_new("sizes");
    int64_t phys[80];
    bare_fill(w, phys);
    static const int64_t slots[] = { 500, 64, 64, 1000, 64 }, entries[] = { 121, 300, 50, 100000, 121 };
    for (uint32_t k = 0; k < sizeof slots / sizeof *slots; k++) {
        w->conf.index_slots = slots[k];
        w->conf.index_entries = entries[k];
        cr_assert_eq(world_open(w), ZR_OK);
        if (k & 1) w = world_kill(w); /* over the making of the new ones */
        for (int i = 0; i < 80; i++) {
            expect_key(w, "U%d", i, phys[i]);
            expect_key(w, "K%d", i, phys[i]);
        }
        world_close(w);
    }
    cr_assert_eq(world_open(w), ZR_OK);
    world_end(w);
}


/* ---- what a query costs others, and how far it goes ---- */

static struct {
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct world *w;
    int64_t (*pread)(void *self, int32_t fd, void *buf, uint64_t len, int64_t off);
    pthread_t asker;
    uint32_t armed, inside, open, other_done;
    int32_t n, other_n;
} gate = { .lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER };

/* The asker's first look into an index file waits until the gate opens. */
static int64_t gated_pread(void *self, int32_t fd, void *buf, uint64_t len, int64_t off)
{
    pthread_mutex_lock(&gate.lock);
    if (gate.armed && pthread_equal(pthread_self(), gate.asker) && strstr(gate.w->fd_path[fd], "/index/")) {
        gate.armed = 0;
        gate.inside = 1;
        pthread_cond_broadcast(&gate.changed);
        while (!gate.open) pthread_cond_wait(&gate.changed, &gate.lock);
    }
    pthread_mutex_unlock(&gate.lock);
    return gate.pread(self, fd, buf, len, off);
}

static void *ask_behind_gate(void *arg)
{
    int64_t found[64];
    (void)arg;
    pthread_mutex_lock(&gate.lock);
    gate.asker = pthread_self();
    gate.armed = 1;
    pthread_mutex_unlock(&gate.lock);
    gate.n = ask(gate.w, "U1", found, 64); /* in an old file */
    return NULL;
}

static void *ask_beside(void *arg)
{
    int64_t found[64];
    (void)arg;
    int32_t n = ask(gate.w, "U299", found, 64);
    put_key(gate.w, 300); /* followed, and found, meanwhile */
    n += ask(gate.w, "U300", found, 64);
    pthread_mutex_lock(&gate.lock);
    gate.other_n = n;
    gate.other_done = 1;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    return NULL;
}

static uint32_t gate_wait(const uint32_t *what)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 60;
    pthread_mutex_lock(&gate.lock);
    int r = 0;
    while (!*what && r == 0) r = pthread_cond_timedwait(&gate.changed, &gate.lock, &until);
    uint32_t there = *what;
    pthread_mutex_unlock(&gate.lock);
    return there;
}

Test(index, a_query_that_takes_long_holds_up_nobody)
{
    struct world *w = gate.w = world_new("beside");
    pthread_t slow, beside;
    gate.pread = w->io.pread;
    w->io.pread = gated_pread;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 300; i++) put_key(w, i);
    expect_key(w, "U%d", 299, put_key(w, 299).physical_offset); /* all of it is in the index now */
    pthread_create(&slow, NULL, ask_behind_gate, NULL);
    cr_assert(gate_wait(&gate.inside));
    pthread_create(&beside, NULL, ask_beside, NULL);
    uint32_t passed = gate_wait(&gate.other_done);
    pthread_mutex_lock(&gate.lock);
    gate.open = 1;
    pthread_cond_broadcast(&gate.changed);
    pthread_mutex_unlock(&gate.lock);
    pthread_join(slow, NULL);
    pthread_join(beside, NULL);
    cr_assert(passed, "the query beside the slow one waited for it");
    cr_assert_eq(gate.other_n, 3);
    cr_assert_eq(gate.n, 1);
    world_end(w);
}

static int32_t ask_until(struct world *w, int64_t end_ms, int64_t *phys, uint32_t cap)
{
    return zs_find_key(w->st, zl_str("T"), zl_str("same"), 0, 0, end_ms, phys, cap);
}

Test(index, a_query_looks_at_so_many_entries_and_time_leads_to_the_rest)
{
    enum { N = 800, STEP = 2000 };
    const int64_t first = 1700000000000;
    struct world *w = world_new("bound");
    int64_t phys[N], found[16];
    w->conf.index_slots = 1; /* all keys share one chain */
    w->conf.index_entries = 2 * N + 8;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < N; i++) {
        char props[64];
        atomic_store(&w->wall, first + i * STEP);
        snprintf(props, sizeof props, "KEYS\001%s\002", i % 20 ? "other" : "same");
        phys[i] = put_one(w, "T", 0, "x", props).physical_offset;
    }
    cr_assert_eq(ask_until(w, INT64_MAX, found, 16), 16);
    struct zs_index *ix = w->st->index;
    ix->walk_max = 100;
    ix->aside_max = 20;
    cr_assert_eq(ask_until(w, INT64_MAX, found, 16), 5, "the newest 100 entries have five");
    cr_assert(world_said(w, "asking for the time before"));
    for (int at = N - 20; at >= 0;) { /* the time before the last one leads to the next, down to the first */
        int32_t n = ask_until(w, first + at * STEP, found, 16);
        cr_assert_geq(n, at >= 80 ? 4 : 1, "up to %d: %d", at, n);
        for (int32_t i = 0; i < n; i++, at -= 20) cr_assert_eq(found[i], phys[at]);
    }
    ix->walk_max = 60; /* what lies behind the time that was asked for is not walked to its end */
    cr_assert_eq(zs_find_key(w->st, zl_str("T"), zl_str("same"), 0, first + 790 * STEP, INT64_MAX, found, 16), 0);
    world_quiet(w);
    cr_assert_eq(zs_find_key(w->st, zl_str("T"), zl_str("same"), 0, first + 780 * STEP, INT64_MAX, found, 16), 1);
    cr_assert_not(world_said(w, "asking for the time before"));
    world_end(w);
}

/* ---- writes that fail ---- */
static void expect_all(struct world *w, const int64_t *phys, int n)
{
    for (int i = 0; i < n; i++) {
        expect_key(w, "U%d", i, phys[i]);
        expect_key(w, "K%d", i, phys[i]);
    }
}

/* The stop fails at each of its writes of the index: with it the header, which then knows less than the slots. */
Test(index, a_stop_that_cannot_write_the_index_costs_no_key)
{
    static const enum op ops[] = { OP_PWRITE, OP_PWRITE, OP_PWRITE, OP_PWRITE, OP_FDATASYNC };
    for (int way = 0; way < 5; way++) {
        struct world *w = world_new("stop");
        int64_t phys[60], found[64];
        w->conf.index_slots = 16; /* long chains */
        w->conf.index_entries = 1000;
        cr_assert_eq(world_open(w), ZR_OK);
        for (int i = 0; i < 30; i++) phys[i] = put_key(w, i).physical_offset;
        ask(w, "U1", found, 4);
        world_close(w);
        cr_assert_eq(world_open(w), ZR_OK);
        ask(w, "U1", found, 4); /* nothing is being mended any more */
        for (int i = 30; i < 40; i++) phys[i] = put_key(w, i).physical_offset;
        ask(w, "U1", found, 4);
        world_fault(w, ops[way], ops[way] == OP_PWRITE ? way : 0, EIO, "index");
        world_close(w);
        world_mend(w);
        if (way != 3) cr_assert(world_said(w, "the index could not be written"), "%d: %s", way, w->lines);
        cr_assert_eq(world_open(w), ZR_OK);
        expect_all(w, phys, 40);
        for (int i = 40; i < 60; i++) phys[i] = put_key(w, i).physical_offset;
        expect_all(w, phys, 60);
        world_close(w);
        cr_assert_eq(world_open(w), ZR_OK);
        expect_all(w, phys, 60);
        cr_assert_eq(ask(w, "Same", found, 64), 60);
        world_end(w);
    }
}
