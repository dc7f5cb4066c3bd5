/* SPDX-License-Identifier: Apache-2.0 */
/* zstd_store_test.c - a store whose sealed segments are packed: everything that can be asked of it, with the log in either form,
 * on the way from one to the other, stopped at each step of that way, and damaged. */
#include <errno.h>
#include "zstd_test.h"

#define N 600
#define BODY 700

/* Eight segments or so of two queues; all but the newest packed. */
static struct world *packed_world(const char *name, uint32_t compress)
{
    struct world *w = world_new(name);
    pack_conf(w, compress);
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    put_many(w, "A", 0, N, BODY);
    put_many(w, "B", 3, 20, 15000);
    flush_all(w);
    return w;
}

static uint64_t n_segments(struct world *w)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zs_info(w->st, &info);
    return (uint64_t)((info.positions.written - info.positions.begin - 1) / w->conf.segment_size + 1);
}

static void all_there(struct world *w)
{
    cr_assert_eq(read_all(w, "A", 0, BODY), N, "%s", w->lines);
    cr_assert_eq(read_all(w, "B", 3, 15000), 20, "%s", w->lines);
}

static void wait_packed(struct world *w) { wait_forms(w, n_segments(w) - 1, 1); }

Test(zstd_store, sealed_segments_are_packed_and_read)
{
    struct world *w = packed_world("packed", 1);
    wait_packed(w);
    cr_assert_gt(n_segments(w), 7);
    all_there(w);
    put_many(w, "A", 0, 10, BODY);
    cr_assert_eq(read_all(w, "A", 0, BODY), N + 10);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_all(w, "A", 0, BODY), N + 10);
    put_many(w, "A", 0, N, BODY);
    flush_all(w);
    wait_packed(w);
    cr_assert_eq(read_all(w, "A", 0, BODY), 2 * N + 10);
    w = world_kill(w);
    cr_assert_eq(read_all(w, "A", 0, BODY), 2 * N + 10);
    cr_assert_not(world_said(w, "damaged"));
    world_end(w);
}

Test(zstd_store, readers_go_on_while_the_form_changes)
{
    struct world *w = world_new("switch");
    struct answer a;
    pack_conf(w, 0);
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "A", 0, N, BODY);
    flush_all(w);
    world_close(w);
    w->conf.compress = 1;
    w->conf.pack_rate = 400000;
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(read_at(w, "A", 0, 0, 20, &a), ZR_OK);
    cr_assert_gt(a.r.n_messages, 1);
    for (uint64_t packed = 0, plain, other; packed < 4;) {
        cr_assert_eq(read_all(w, "A", 0, BODY), N);
        count_forms(w, &packed, &plain, &other);
    }
    char body[BODY + 1];
    for (uint32_t i = 0; i < a.r.n_messages; i++) {
        body_of(body, BODY, "A", 0, i);
        cr_assert_eq(memcmp(record_of(&a, i).body.ptr, body, BODY), 0);
    }
    zs_unpin(w->st, a.r.pin);
    world_end(w);
}

Test(zstd_store, what_is_not_at_hand_is_not_decompressed_by_who_may_not_wait)
{
    struct world *w = packed_world("nowait", 1);
    struct zr_piece pieces[64];
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str("A"), .offset = 5, .pieces = pieces, .cap_pieces = 64,
                           .max_messages = 1, .flags = ZR_READ_NOWAIT };
    struct zr_read_result r = { .hdr = ZR_HDR(struct zr_read_result, 0) };
    wait_packed(w);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    cr_assert_eq(zs_read(w->st, &req, &r), ZR_EAGAIN);
    cr_assert_eq(zs_resident(w->st, zs_queue(w->st, req.topic, 0, 0), 5), 0);
    req.flags = 0;
    cr_assert_eq(zs_read(w->st, &req, &r), ZR_OK);
    cr_assert_eq(r.n_messages, 1);
    cr_assert_eq(pieces[0].fd, -1);
    zs_unpin(w->st, r.pin);
    cr_assert_eq(zs_resident(w->st, zs_queue(w->st, req.topic, 0, 0), 5), 1);
    world_end(w);
}

Test(zstd_store, single_records_and_times)
{
    struct world *w = packed_world("single", 1);
    int64_t phys[N], tags[N], ms, at;
    uint32_t sizes[N];
    struct zr_piece piece;
    uint64_t pin;
    wait_packed(w);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK);
    struct zr_queue *q = zs_queue(w->st, zl_str("A"), 0, 0);
    uint32_t n = 0;
    while (n < N) {
        uint32_t got = zs_entries(w->st, q, n, phys + n, sizes + n, tags + n, N - n);
        cr_assert_gt(got, 0);
        n += got;
    }
    for (uint32_t i = 0; i < N; i++) {
        struct zl_record rec;
        const char *why;
        cr_assert_eq(zs_record_at(w->st, phys[i], &piece, &pin), ZR_OK, "%u", i);
        cr_assert_eq(zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 1, &rec, &why), ZR_OK);
        cr_assert_eq(rec.queue_offset, i);
        zs_unpin(w->st, pin);
        cr_assert_eq(zs_record_at(w->st, phys[i] + 1, &piece, &pin), ZR_ENOENT);
        cr_assert_eq(zs_time_at(w->st, q, i, &ms), ZR_OK);
        cr_assert_eq(ms, rec.store_ms);
    }
    cr_assert_eq(zs_time_at(w->st, q, N / 2, &ms), ZR_OK);
    cr_assert_eq(zs_offset_at(w->st, q, ms, 0, &at), ZR_OK);
    cr_assert(at <= N / 2);
    cr_assert_eq(zs_time_at(w->st, q, at, &phys[0]), ZR_OK);
    cr_assert_eq(phys[0], ms);
    world_end(w);
}

Test(zstd_store, everything_comes_back_from_a_packed_log_alone)
{
    struct world *w = packed_world("alone", 1);
    char path[1100];
    static const char *const gone[] = { "consumequeue", "index", "zarya" };
    wait_packed(w);
    w = world_copy(w);
    for (int i = 0; i < 3; i++) {
        file_path(w, path, "%s", gone[i]);
        remove_tree(path);
        rmdir(path);
    }
    file_path(w, path, "checkpoint");
    unlink(path);
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    all_there(w);
    world_end(w);
}

Test(zstd_store, a_store_without_the_library_refuses_by_name)
{
    struct world *w = packed_world("refuse", 1);
    wait_packed(w);
    world_close(w);
    w->conf.pack = NULL;
    cr_assert_eq(world_open(w), ZR_EINVAL);
    cr_assert(strstr(w->error, "storage-zstd") && strstr(w->error, "zaryactl store convert"), "%s", w->error);
    pack_conf(w, 1);
    cr_assert_eq(world_open(w), ZR_OK);
    all_there(w);
    world_end(w);
}

Test(zstd_store, expansion_gives_back_the_very_files)
{
    struct world *w = packed_world("expand", 0), *copy;
    char path[1100];
    uint64_t n = n_segments(w);
    static uint8_t was[65536], is[65536];
    world_close(w);
    copy = world_copy(w);
    w->conf.compress = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    wait_packed(w);
    world_close(w);
    w->conf.compress = 0;
    cr_assert_eq(world_open(w), ZR_OK);
    wait_forms(w, 0, n);
    all_there(w);
    world_close(w);
    for (uint64_t i = 0; i < n; i++) {
        file_path(w, path, "commitlog/%020llu", (unsigned long long)i * 65536);
        file_read(path, 0, is, sizeof is);
        file_path(copy, path, "commitlog/%020llu", (unsigned long long)i * 65536);
        file_read(path, 0, was, sizeof was);
        cr_assert_eq(memcmp(is, was, sizeof is), 0, "segment %llu", (unsigned long long)i);
    }
    world_end(copy);
    w->conf.pack = NULL;
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    all_there(w);
    world_end(w);
}

Test(zstd_store, a_folder_is_converted_both_ways_offline)
{
    struct world *w = packed_world("convert", 0);
    char path[1100];
    uint64_t n = n_segments(w);
    world_close(w);
    file_path(w, path, "commitlog");
    struct zp_convert c = { .io = zl_io_posix(), .log_dir = path, .conf = { 3, 16384, 8192 } };
    cr_assert_eq(zp_convert(&c), (int64_t)n - 1);
    wait_forms(w, n - 1, 1);
    cr_assert_eq(zp_convert(&c), 0);
    w->conf.compress = 1;
    cr_assert_eq(world_open(w), ZR_OK);
    all_there(w);
    world_close(w);
    c.to_plain = 1;
    cr_assert_eq(zp_convert(&c), (int64_t)n - 1);
    w->conf.pack = NULL;
    cr_assert_eq(world_open(w), ZR_OK);
    all_there(w);
    world_end(w);
}

Test(zstd_store, retention_takes_packed_segments_by_the_age_of_their_messages)
{
    struct world *w = packed_world("old", 1);
    uint64_t removed = 0;
    wait_packed(w);
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    static const int hours[] = { 23, 46, 69, 71, 73 };
    for (uint32_t i = 0; i < 5; i++) { /* not at once: a clock that jumps is not believed */
        zs_clean(w->st, &removed);
        cr_assert_eq(removed, 0);
        world_close(w);
        atomic_store(&w->wall, (int64_t)now.tv_sec * 1000 + hours[i] * 3600000ll);
        cr_assert_eq(world_open(w), ZR_OK);
    }
    for (int i = 0; i < 20; i++) zs_clean(w->st, &removed);
    wait_forms(w, 0, 1);
    cr_assert_gt(min_of(w, "A", 0), 0);
    read_all(w, "A", 0, BODY);
    world_end(w);
}

Test(zstd_store, the_newest_may_stay_plain)
{
    struct world *w = world_new("keep");
    pack_conf(w, 1);
    w->conf.pack_keep = 2;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "A", 0, N, BODY);
    flush_all(w);
    wait_forms(w, n_segments(w) - 3, 3);
    cr_assert_eq(read_all(w, "A", 0, BODY), N);
    world_end(w);
}

Test(zstd_store, a_log_whose_newest_file_is_packed_goes_on)
{
    struct world *w = packed_world("goes-on", 1);
    char path[1100];
    uint64_t n = n_segments(w);
    wait_packed(w);
    world_close(w);
    file_path(w, path, "commitlog/%020llu", (unsigned long long)(n - 1) * 65536);
    cr_assert_eq(unlink(path), 0);
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    int64_t before = read_all(w, "B", 3, 15000);
    cr_assert_gt(before, 10);
    cr_assert_eq(read_all(w, "A", 0, BODY), N);
    put_many(w, "A", 0, 200, BODY);
    flush_all(w);
    cr_assert_eq(read_all(w, "A", 0, BODY), N + 200);
    wait_forms(w, n_segments(w) - 2, 1); /* one is gone; and a folder in which files come and go cannot be copied */
    w = world_kill(w);
    cr_assert_eq(read_all(w, "A", 0, BODY), N + 200);
    cr_assert_eq(read_all(w, "B", 3, 15000), before);
    world_end(w);
}

/* ---- stopped at every step -------------------------------------------------------------------------------------------------- */

#define MAX_STEPS 64
static struct world *steps[MAX_STEPS];
static _Atomic uint32_t n_steps, n_calls;
static struct zr_io_v1 under;

/* The folder as it is before a call that changes something of a packed segment, its plain form or what is on the way. */
static void step(struct world *w)
{
    uint32_t call = atomic_fetch_add(&n_calls, 1), i = atomic_load(&n_steps);
    if (i == MAX_STEPS || (call > 40 && call % 5)) return;
    steps[i] = world_copy(w);
    atomic_store(&n_steps, i + 1);
}
static uint32_t concerns(const char *path) { return strstr(path, "/commitlog/") != NULL; }
static int64_t step_rename(void *self, const char *from, const char *to)
{
    if (concerns(from)) step(self);
    int64_t r = under.rename(self, from, to);
    if (concerns(from)) step(self);
    return r;
}
static int64_t step_unlink(void *self, const char *path)
{
    if (concerns(path)) step(self);
    int64_t r = under.unlink(self, path);
    if (concerns(path)) step(self);
    return r;
}
static int64_t step_pwrite(void *self, int32_t fd, const void *buf, uint64_t len, int64_t off)
{
    struct world *w = self;
    int64_t r = under.pwrite(self, fd, buf, len, off);
    if (fd < 4096 && strstr(w->fd_path[fd], ".tmp") && concerns(w->fd_path[fd])) step(self);
    return r;
}

static void steps_watch(struct world *w)
{
    under = w->io;
    atomic_store(&n_steps, 0);
    atomic_store(&n_calls, 0);
    w->io.rename = step_rename;
    w->io.unlink = step_unlink;
    w->io.pwrite = step_pwrite;
}

/* Every state goes on in either direction, and through the conversion, with nothing lost. */
static void steps_check(uint64_t n)
{
    cr_assert_gt(atomic_load(&n_steps), 20);
    for (uint32_t i = 0; i < atomic_load(&n_steps); i++) {
        struct world *w = steps[i];
        pack_conf(w, i % 2);
        if (i % 3 == 2) {
            char path[1100];
            file_path(w, path, "commitlog");
            struct zp_convert c = { .io = zl_io_posix(), .log_dir = path, .to_plain = 1 };
            cr_assert_geq(zp_convert(&c), 0);
            wait_forms(w, 0, n);
            w->conf.pack = NULL;
        }
        cr_assert_eq(world_open(w), ZR_OK, "step %u: %s", i, w->error);
        all_there(w);
        if (w->conf.pack) wait_forms(w, i % 2 ? n - 1 : 0, i % 2 ? 1 : n);
        all_there(w);
        cr_assert_not(world_said(w, "damaged"), "step %u: %s", i, w->lines);
        world_end(w);
    }
}

Test(zstd_store, killed_at_every_step_of_packing, .timeout = 100)
{
    struct world *w = packed_world("kill-pack", 0);
    uint64_t n = n_segments(w);
    world_close(w);
    w->conf.compress = 1;
    steps_watch(w);
    cr_assert_eq(world_open(w), ZR_OK);
    wait_packed(w);
    world_end(w);
    steps_check(n);
}

Test(zstd_store, killed_at_every_step_of_expanding, .timeout = 100)
{
    struct world *w = packed_world("kill-expand", 1);
    uint64_t n = n_segments(w);
    wait_packed(w);
    world_close(w);
    w->conf.compress = 0;
    steps_watch(w);
    cr_assert_eq(world_open(w), ZR_OK);
    wait_forms(w, 0, n);
    world_end(w);
    steps_check(n);
}

/* The power fails at any moment of packing and of expanding: what was flushed is there, in one form or the other. */
static void power_fails(uint32_t compress)
{
    unsigned seed = 11 + compress;
    for (int round = 0; round < 16; round++) {
        struct world *w = packed_world("power", !compress);
        uint64_t n = n_segments(w);
        wait_forms(w, compress ? 0 : n - 1, compress ? n : 1);
        world_close(w);
        w->conf.compress = compress;
        world_power(w);
        cr_assert_eq(world_open(w), ZR_OK);
        usleep((useconds_t)(rand_r(&seed) % 80000));
        struct world *c = world_cut(w, round % 4, &seed);
        world_end(w);
        cr_assert_eq(world_open(c), ZR_OK, "round %d: %s", round, c->error);
        all_there(c);
        wait_forms(c, compress ? n - 1 : 0, compress ? 1 : n);
        all_there(c);
        cr_assert_not(world_said(c, "damaged"), "round %d: %s", round, c->lines);
        world_end(c);
    }
}

Test(zstd_store, the_power_fails_while_it_packs, .timeout = 100) { power_fails(1); }
Test(zstd_store, the_power_fails_while_it_expands, .timeout = 100) { power_fails(0); }

Test(zstd_store, a_segment_that_retention_takes_while_it_is_packed_is_no_failure, .timeout = 100)
{
    struct world *w = packed_world("taken", 0);
    uint64_t packed, plain, other = 0, removed = 0;
    world_close(w);
    w->conf.compress = 1;
    w->conf.pack_rate = 100000;
    cr_assert_eq(world_open(w), ZR_OK);
    while (!other) count_forms(w, &packed, &plain, &other); /* it is under way, and slow */
    w->conf.retention_bytes = 1;
    zs_retune(w->st, &w->conf);
    while (n_segments(w) > 1) zs_clean(w->st, &removed);
    while (other) count_forms(w, &packed, &plain, &other);
    w->conf.retention_bytes = 0;
    zs_retune(w->st, &w->conf);
    world_close(w);
    cr_assert_not(world_said(w, "cannot be"), "%s", w->lines);
    cr_assert_eq(packed, 0);
    w->conf.pack_rate = 1 << 30;
    cr_assert_eq(world_open(w), ZR_OK);
    put_many(w, "C", 0, N, BODY);
    flush_all(w);
    wait_packed(w);
    cr_assert_eq(read_all(w, "C", 0, BODY), N);
    world_end(w);
}

/* ---- failing calls ----------------------------------------------------------------------------------------------------------- */

static void failing(enum op op, int64_t error, uint32_t compress)
{
    for (int64_t after = 0; after < 6; after++) {
        struct world *w = packed_world("failing", !compress);
        uint64_t n = n_segments(w);
        wait_forms(w, compress ? 0 : n - 1, compress ? n : 1);
        world_close(w);
        w->conf.compress = compress;
        world_fault(w, op, after * 2, error, compress ? ".zst" : op == OP_PREAD ? ".zst" : ".tmp");
        if (world_open(w) == ZR_OK) {
            for (int i = 0; i < 200 && !world_said(w, "cannot be") && !world_said(w, "was packed"); i++) usleep(1000);
            world_mend(w);
            all_there(w);
            put_many(w, "C", 0, 3, 100);
            cr_assert_eq(read_all(w, "C", 0, 100), 3);
        }
        world_mend(w);
        world_close(w);
        cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
        wait_forms(w, compress ? n - 1 : 0, compress ? 1 : n);
        all_there(w);
        world_end(w);
    }
}

Test(zstd_store, a_full_disk_harms_nothing, .timeout = 100) { failing(OP_PWRITE, ENOSPC, 1); }
Test(zstd_store, a_full_disk_harms_no_expansion, .timeout = 100) { failing(OP_PWRITE, ENOSPC, 0); }
Test(zstd_store, syncs_that_fail, .timeout = 100) { failing(OP_FDATASYNC, EIO, 1); }
Test(zstd_store, renames_that_fail, .timeout = 100) { failing(OP_RENAME, EIO, 1); }
Test(zstd_store, opens_that_fail, .timeout = 100) { failing(OP_OPEN, EMFILE, 1); }
Test(zstd_store, unlinks_that_fail, .timeout = 100) { failing(OP_UNLINK, EIO, 1); }

/* ---- damage ------------------------------------------------------------------------------------------------------------------- */

Test(zstd_store, a_damaged_block_costs_its_messages_and_is_told, .timeout = 100)
{
    struct world *w = packed_world("damage", 1);
    unsigned seed = 5;
    wait_packed(w);
    world_close(w);
    for (int i = 0; i < 40; i++) {
        struct world *c = world_copy(w);
        char path[1100], name[64];
        snprintf(name, sizeof name, "%020d.zst", (int)(1 + (uint32_t)rand_r(&seed) % 4) * 65536);
        file_path(c, path, "commitlog/%s", name);
        int64_t size = file_size_of(path), at = rand_r(&seed) % size;
        if (i % 4 == 3) cr_assert_eq(truncate(path, at), 0);
        else file_flip(path, at);
        cr_assert_eq(world_open(c), ZR_OK, "%s", c->error);
        int64_t got = read_all(c, "A", 0, BODY) + read_all(c, "B", 3, 15000);
        cr_assert_lt(got, N + 20 + 1);
        cr_assert_gt(got, N + 20 - 90, "one segment holds some 80 of them");
        if (got < N + 20) cr_assert(world_said(c, name), "%s", c->lines);
        put_many(c, "C", 0, 5, 100);
        cr_assert_eq(read_all(c, "C", 0, 100), 5);
        world_end(c);
    }
    world_end(w);
}

static uint32_t said_times(struct world *w, const char *part)
{
    uint32_t n = 0;
    pthread_mutex_lock(&w->lock);
    for (const char *at = w->lines; (at = strstr(at, part)); at++) n++;
    pthread_mutex_unlock(&w->lock);
    return n;
}

/* A file that cannot be expanded is told once, and costs the others nothing. */
Test(zstd_store, a_damaged_block_keeps_no_other_segment_packed, .timeout = 100)
{
    struct world *w = packed_world("damage-expand", 1);
    char path[1100];
    uint64_t n = n_segments(w);
    wait_packed(w);
    world_close(w);
    file_path(w, path, "commitlog/%020d.zst", 65536);
    file_flip(path, file_size_of(path) / 2);
    w->conf.compress = 0;
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    wait_forms(w, 1, n - 1);
    usleep(50000); /* it may not be tried again meanwhile */
    cr_assert_eq(said_times(w, "cannot be expanded"), 1, "%s", w->lines);
    cr_assert_gt(read_all(w, "A", 0, BODY) + read_all(w, "B", 3, 15000), N + 20 - 90);
    world_end(w);
}

/* The packed form has a damaged block, and a plain one of zeroes, or of other messages, stands beside it: neither goes, and what has
 * more is read. */
static void twins_stay(uint32_t compress, uint32_t other)
{
    struct world *w = packed_world("twins", 1);
    char packed[1100], plain[1100];
    static uint8_t bytes[65536];
    uint64_t n_packed, n_plain, rest;
    wait_packed(w);
    world_close(w);
    file_path(w, packed, "commitlog/%020d.zst", 65536);
    file_path(w, plain, "commitlog/%020d", 65536);
    if (other) { /* whole but for its first half, and one message is another */
        cr_assert_eq(zp_expand(zl_io_posix(), packed, plain, NULL, NULL), 0);
        file_read(plain, 0, bytes, sizeof bytes);
        memset(bytes, 0, sizeof bytes / 2);
    }
    FILE *f = fopen(plain, "w");
    cr_assert_eq(fwrite(bytes, 1, sizeof bytes, f), sizeof bytes);
    fclose(f);
    file_flip(packed, file_size_of(packed) / 2);
    w->conf.compress = compress;
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    for (int i = 0; i < 2000 && !compress && !world_said(w, "cannot be expanded") && !world_said(w, "different messages"); i++) usleep(1000);
    usleep(compress ? 100000 : 1000);
    cr_assert(world_said(w, "both stay, and the packed one is read"), "%s", w->lines);
    cr_assert_gt(read_all(w, "A", 0, BODY) + read_all(w, "B", 3, 15000), N + 20 - 20, "one block is lost");
    count_forms(w, &n_packed, &n_plain, &rest);
    cr_assert(file_size_of(packed) > 0 && file_size_of(plain) == 65536, "%s", w->lines);
    world_end(w);
}

Test(zstd_store, a_damaged_packed_segment_beside_zeroes_stays_while_packing, .timeout = 100) { twins_stay(1, 0); }
Test(zstd_store, a_damaged_packed_segment_beside_zeroes_stays_while_expanding, .timeout = 100) { twins_stay(0, 0); }
Test(zstd_store, two_forms_that_each_have_more_both_stay, .timeout = 100) { twins_stay(0, 1); }

/* One segment whose change fails, for long: the others change their form meanwhile. */
static void one_unreadable(uint32_t compress)
{
    struct world *w = packed_world("unreadable", !compress);
    char name[64];
    uint64_t n = n_segments(w);
    wait_forms(w, compress ? 0 : n - 1, compress ? n : 1);
    world_close(w);
    snprintf(name, sizeof name, compress ? "%020d.zst.tmp" : "%020d.tmp", 65536);
    world_fault(w, compress ? OP_FDATASYNC : OP_FSYNC, 0, EIO, name);
    w->conf.compress = compress;
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    wait_forms(w, compress ? n - 2 : 1, compress ? 2 : n - 1);
    cr_assert(world_said(w, "cannot be"), "%s", w->lines);
    all_there(w);
    world_mend(w);
    world_close(w);
    cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
    wait_forms(w, compress ? n - 1 : 0, compress ? 1 : n);
    all_there(w);
    world_end(w);
}

Test(zstd_store, one_segment_that_fails_holds_up_no_packing, .timeout = 100) { one_unreadable(1); }
Test(zstd_store, one_segment_that_fails_holds_up_no_expanding, .timeout = 100) { one_unreadable(0); }

/* The same, with queues to be made anew from the damaged log. */
Test(zstd_store, recovery_steps_over_damaged_blocks, .timeout = 100)
{
    struct world *w = packed_world("damage-recover", 1);
    unsigned seed = 9;
    wait_packed(w);
    world_close(w);
    for (int i = 0; i < 12; i++) {
        struct world *c = world_copy(w);
        char path[1100];
        static const char *const gone[] = { "consumequeue", "index", "zarya" };
        for (int k = 0; k < 3; k++) {
            file_path(c, path, "%s", gone[k]);
            remove_tree(path);
            rmdir(path);
        }
        file_path(c, path, "checkpoint");
        unlink(path);
        file_path(c, path, "commitlog/%020d.zst", (int)(1 + (uint32_t)rand_r(&seed) % 4) * 65536);
        int64_t size = file_size_of(path);
        file_flip(path, 200 + (int64_t)rand_r(&seed) % (size - 200));
        cr_assert_eq(world_open(c), ZR_OK, "%s", c->error);
        int64_t got = read_all(c, "A", 0, BODY) + read_all(c, "B", 3, 15000);
        cr_assert_gt(got, N + 20 - 90, "%lld", (long long)got);
        cr_assert_eq(max_of(c, "A", 0), N);
        world_end(c);
    }
    world_end(w);
}
