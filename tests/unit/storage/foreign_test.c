/* SPDX-License-Identifier: Apache-2.0 */
/* What a start makes of a folder that another broker has had since: the word in `lock` is not ours, and there is no snapshot, or one
 * from before. */
#include <errno.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include "host.h"
#include "zs_int.h"

#define SIZE 200u
#define FILES "consumequeue/T/1/"

static void expect(struct world *w, const char *topic, int32_t q, int64_t n, const char *what)
{
    cr_assert_eq(min_of(w, topic, q), 0, "%s: queue %d from %lld", what, q, (long long)min_of(w, topic, q));
    cr_assert_eq(max_of(w, topic, q), n, "%s: queue %d to %lld: %s", what, q, (long long)max_of(w, topic, q), w->lines);
    cr_assert_eq(read_all(w, topic, q, SIZE), n, "%s: queue %d", what, q);
}

static void document(struct world *w, const char *names)
{
    char path[1024], text[1024];
    file_path(w, path, "config");
    mkdir(path, 0755);
    file_path(w, path, "config/topics.json");
    snprintf(text, sizeof text, "{\"dataVersion\":{},\"topicConfigTable\":{%s}}", names);
    remove(path);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

static void keep(struct world *w, char *at, int64_t *n)
{
    char path[1024];
    file_path(w, path, "zarya/queues");
    *n = file_size_of(path);
    cr_assert(*n > 0 && *n < 4096);
    file_read(path, 0, at, (uint64_t)*n);
}

/* As if the other broker had done all since the snapshot that was kept; NULL: all there is. */
static void other(struct world *w, const char *kept, int64_t n)
{
    char path[1024];
    file_path(w, path, "zarya");
    remove_tree(path);
    if (kept) {
        mkdir(path, 0755);
        file_path(w, path, "zarya/queues");
        FILE *f = fopen(path, "w");
        fwrite(kept, 1, (size_t)n, f);
        fclose(f);
    }
    file_path(w, path, "lock");
    file_write(path, 0, "lock", 4);
}

static void zero(struct world *w, const char *name, int64_t from, int64_t n)
{
    char path[1024];
    static const uint8_t zeros[2000];
    file_path(w, path, "%s", name);
    file_write(path, from, zeros, (uint64_t)n);
}

static void gone(struct world *w, const char *name)
{
    char path[1024];
    file_path(w, path, "%s", name);
    if (remove(path) < 0) remove_tree(path);
    cr_assert_lt(file_size_of(path), 0, "%s", path);
}

static void harm(struct world *w, int i)
{
    if (i == 1) gone(w, "consumequeue/T/1");
    if (i == 2) gone(w, FILES "00000000000000008000");
    if (i == 3) zero(w, FILES "00000000000000008000", 0, 800);
    if (i == 4) zero(w, FILES "00000000000000008000", 500, 20);
    if (i == 5) zero(w, FILES "00000000000000008000", 0, 2000);
    if (i == 6) gone(w, FILES "00000000000000000000");
    if (i == 7) zero(w, FILES "00000000000000008000", 800, 200);
    if (i == 8) gone(w, "consumequeue/T");
    if (i == 9) gone(w, "consumequeue");
    if (i == 10) zero(w, FILES "00000000000000000000", 0, 2000);
    if (i == 11) gone(w, FILES "00000000000000004000");
}

/* Whatever of a queue is lost between the other broker's clean stop and our start: nothing is hidden, no offset given twice. */
Test(foreign, damaged_queues_of_another_broker_are_made_anew)
{
    static const char *const whats[] = { "nothing", "folder", "last file", "front of last file", "one entry", "last file zeroed", "first file",
                                         "tail", "topic", "all", "first file zeroed", "middle file" };
    struct world *base = world_new("foreign");
    char kept[4096];
    int64_t n_kept;
    cr_assert_eq(world_open(base), ZR_OK);
    put_many(base, "U", 0, 40, SIZE);
    for (int q = 0; q < 3; q++) put_many(base, "T", q, 150, SIZE);
    world_close(base);
    keep(base, kept, &n_kept);
    cr_assert_eq(world_open(base), ZR_OK);
    for (int i = 0; i < 3; i++)
        for (int q = 0; q < 3; q++) put_many(base, "T", q, 100, SIZE);
    put_many(base, "T", 2, 3, SIZE);
    world_close(base);
    for (int i = 0; i < 24; i++) {
        struct world *w = world_copy(base);
        const char *what = whats[i / 2];
        other(w, i % 2 ? kept : NULL, n_kept);
        document(w, "\"T\":{},\"U\":{}");
        harm(w, i / 2);
        cr_assert_eq(world_open(w), ZR_OK, "%s: %s", what, w->error);
        cr_assert(world_said(w, "another broker had the store"), "%s", w->lines);
        if (i / 2 == 0) cr_assert(world_said(w, ": 0 records, 0 entries made"), "%s", w->lines);
        for (int q = 0; q < 3; q++) expect(w, "T", q, q == 2 ? 453 : 450, what);
        expect(w, "U", 0, 40, what);
        put_many(w, "T", 1, 10, SIZE);
        world_close(w);
        world_quiet(w);
        cr_assert_eq(world_open(w), ZR_OK);
        cr_assert_not(world_said(w, "another broker"), "%s", w->lines);
        expect(w, "T", 1, 460, what);
        world_end(w);
    }
    world_end(base);
}

/* Deleted there, its messages are still in the log. */
Test(foreign, a_topic_that_another_broker_deleted_does_not_come_back)
{
    for (int what = 0; what < 6; what++) { /* 4, 5: the document cannot be read, so nothing is said to be deleted */
        struct world *w = world_new("deleted");
        char kept[4096];
        int64_t n_kept;
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 100, SIZE);
        world_close(w);
        keep(w, kept, &n_kept);
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 1, 20, SIZE);
        put_many(w, "U", 0, 50, SIZE);
        world_close(w);
        other(w, what & 1 ? kept : NULL, n_kept);
        gone(w, "consumequeue/T");
        document(w, what & 2 ? "\"T\":{},\"U\":{}" : "\"U\":{}"); /* named there, its folder is a loss */
        if (what & 4) world_fault(w, OP_OPEN, 0, EIO, "topics.json");
        int64_t n = what & 6 ? 100 : 0;
        cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
        cr_assert_eq(max_of(w, "T", 0), n, "case %d: %lld: %s", what, (long long)max_of(w, "T", 0), w->lines);
        cr_assert_eq(max_of(w, "T", 1), n / 5);
        expect(w, "U", 0, 50, "other topic");
        cr_assert_eq(put_one(w, "T", 0, "new", NULL).queue_offset, n);
        struct world *k = world_kill(w);
        cr_assert_eq(max_of(k, "T", 0), n + 1, "case %d: %s", what, k->lines);
        cr_assert_eq(max_of(k, "T", 1), n / 5);
        world_end(k);
    }
}

/* Deleted and made again there: the new one begins at 0, and nothing of the old one is its. */
Test(foreign, a_topic_that_another_broker_made_again_begins_anew)
{
    for (int what = 0; what < 2; what++) {
        struct world *w = world_new("again");
        char kept[4096], path[1024];
        int64_t n_kept;
        cr_assert_eq(world_open(w), ZR_OK);
        for (int q = 0; q < 3; q++) put_many(w, "T", q, 100, SIZE);
        world_close(w);
        keep(w, kept, &n_kept);
        cr_assert_eq(world_open(w), ZR_OK);
        for (int q = 1; q < 3; q++) put_many(w, "T", q, 20, SIZE);
        cr_assert_eq(zs_remove_topic(w->st, zl_str("T")), ZR_OK);
        for (int q = 0; q < 2; q++) put_many(w, "T", q, 1, SIZE);
        world_close(w);
        other(w, what ? kept : NULL, n_kept);
        document(w, "\"T\":{}");
        file_path(w, path, "commitlog");
        int fd = open(path, O_RDONLY);
        cr_assert_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
        cr_assert_neq(world_open(w), ZR_OK); /* a start that is refused changes nothing of that */
        close(fd);
        cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
        for (int i = 0; i < 3; i++) {
            for (int q = 0; q < 2; q++) expect(w, "T", q, 1, what ? "with a snapshot" : "without");
            cr_assert_eq(max_of(w, "T", 2), 0, "case %d: %lld: %s", what, (long long)max_of(w, "T", 2), w->lines);
            if (i == 0) {
                w = world_kill(w);
                continue;
            }
            world_close(w);
            cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
        }
        cr_assert_eq(put_one(w, "T", 1, "new", NULL).queue_offset, 1);
        world_end(w);
    }
}

/* A note of ours reaches behind what another broker wrote in its place. */
Test(foreign, a_note_of_a_removal_takes_nothing_that_another_broker_took)
{
    for (int named = 0; named < 2; named++) {
        struct world *w = world_new("note");
        char kept[4096], path[1024], line[64];
        int64_t n_kept;
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "U", 0, 30, SIZE);
        world_close(w);
        keep(w, kept, &n_kept);
        cr_assert_eq(world_open(w), ZR_OK);
        put_many(w, "T", 0, 50, SIZE);
        int64_t end = atomic_load(&w->st->end);
        world_close(w);
        other(w, kept, n_kept);
        document(w, named ? "\"T\":{},\"U\":{}" : "\"U\":{}");
        file_path(w, path, "zarya/removed");
        FILE *f = fopen(path, "w");
        snprintf(line, sizeof line, "%lld T\n", (long long)end);
        fputs(line, f);
        fclose(f);
        cr_assert_eq(world_open(w), ZR_OK, "%s", w->error);
        cr_assert_eq(max_of(w, "T", 0), named ? 50 : 0, "%lld: %s", (long long)max_of(w, "T", 0), w->lines);
        expect(w, "U", 0, 30, "other topic");
        world_end(w);
    }
}
