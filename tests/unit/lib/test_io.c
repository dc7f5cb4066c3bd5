/* SPDX-License-Identifier: Apache-2.0 */
/* POSIX behind the seam, and the helpers through a seam that writes short, fails at a chosen step and keeps a list of its steps. */
#include "helper.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "zl/io.h"
#include "zl/text.h"

static char dir[64];

static void setup(void)
{
    strcpy(dir, "/tmp/zl-io-XXXXXX");
    cr_assert_not_null(mkdtemp(dir));
}

static int32_t remove_one(void *ctx, const char *name)
{
    char path[400];
    snprintf(path, sizeof(path), "%s/%s", (const char *)ctx, name);
    return remove(path) ? -1 : 0;
}

static void teardown(void)
{
    zl_io_posix()->list(NULL, dir, remove_one, dir);
    rmdir(dir);
}

/* The path of a name in the test's folder; valid until the test ends. */
static const char *in_dir(const char *name)
{
    static char paths[256][100];
    static int next;
    cr_assert_lt(next, 256);
    snprintf(paths[next], sizeof(paths[0]), "%s/%s", dir, name);
    return paths[next++];
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
}

static void check_file(const char *path, const char *want)
{
    struct zl_buf b;
    zl_buf_init(&b, 10000);
    int64_t r = zl_io_load(zl_io_posix(), path, &b);
    if (want) {
        cr_assert_eq(r, (int64_t)strlen(want), "%s: %ld", path, (long)r);
        cr_str_is(zl_buf_as_str(&b), want);
    } else {
        cr_assert_eq(r, -ENOENT, "%s: %ld", path, (long)r);
    }
    zl_buf_free(&b);
}

TestSuite(io, .init = setup, .fini = teardown);

Test(io, files)
{
    const struct zr_io_v1 *io = zl_io_posix();
    const char *path = in_dir("f");
    struct zr_io_stat st;
    char got[8];
    cr_assert_eq(io->open(NULL, path, ZR_IO_READ, 0), -ENOENT);
    int32_t fd = (int32_t)io->open(NULL, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_EXCL, 0600);
    cr_assert_geq(fd, 0);
    cr_assert_eq(io->open(NULL, path, ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_EXCL, 0600), -EEXIST);
    cr_assert_eq(io->pwrite(NULL, fd, "0123456789", 10, 0), 10);
    struct zr_span two[2] = { { (const uint8_t *)"ab", 2 }, { (const uint8_t *)"cd", 2 } };
    cr_assert_eq(io->pwritev(NULL, fd, two, 2, 3), 4);
    cr_assert_eq(zl_io_read_all(io, fd, got, 8, 1), 8);
    cr_assert_eq(memcmp(got, "12abcd78", 8), 0);
    cr_assert_eq(zl_io_read_all(io, fd, got, 8, 5), -EIO);
    cr_assert_eq(io->fdatasync(NULL, fd), 0);
    cr_assert_eq(io->fsync(NULL, fd), 0);
    cr_assert_eq(io->ftruncate(NULL, fd, 4), 0);
    cr_assert_eq(io->fstat(NULL, fd, &st), 0);
    cr_assert_eq(st.size, 4);
    cr_assert_eq(st.is_dir, 0);
    cr_assert_eq(st.mode, 0600);
    const void *map;
    cr_assert_eq(io->map(NULL, fd, 0, 4, &map), 0);
    cr_assert_eq(memcmp(map, "012a", 4), 0);
    cr_assert_eq(io->advise(NULL, fd, map, 0, 4, ZR_IO_ADVISE_RANDOM), 0);
    cr_assert_eq(io->advise(NULL, fd, NULL, 0, 4, ZR_IO_ADVISE_DONTNEED), 0);
    cr_assert_eq(io->advise(NULL, fd, NULL, 0, 4, 99), -EINVAL);
    cr_assert_eq(io->unmap(NULL, map, 4), 0);
    int64_t r = io->fallocate(NULL, fd, 0, 8192);
    cr_assert(r == 0 || r == -EOPNOTSUPP);
    cr_assert_eq(io->close(NULL, fd), 0);
    cr_assert_eq(io->close(NULL, fd), -EBADF);
    cr_assert_eq(io->rename(NULL, path, in_dir("g")), 0);
    cr_assert_eq(io->stat(NULL, path, &st), -ENOENT);
    cr_assert_eq(io->unlink(NULL, in_dir("g")), 0);
    cr_assert_eq(io->sync_dir(NULL, dir), 0);
    cr_assert_eq(io->sync_dir(NULL, in_dir("g")), -ENOENT);
    struct zr_io_disk disk;
    cr_assert_eq(io->disk(NULL, dir, &disk), 0);
    cr_assert_gt(disk.total, 0);
    cr_assert_geq(disk.total, disk.available);
}

static int32_t count_names(void *ctx, const char *name)
{
    cr_assert_neq(name[0], '.');
    return ++*(int32_t *)ctx == 2 ? 77 : 0;
}

Test(io, folders)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct zr_io_stat st;
    int32_t n = 0;
    cr_assert_eq(io->mkdir(NULL, in_dir("d"), 0755), 0);
    cr_assert_eq(io->mkdir(NULL, in_dir("d"), 0755), -EEXIST);
    cr_assert_eq(io->stat(NULL, in_dir("d"), &st), 0);
    cr_assert_eq(st.is_dir, 1);
    write_file(in_dir("e"), "");
    write_file(in_dir("f"), "");
    cr_assert_eq(io->list(NULL, dir, count_names, &n), 77); /* stops when told to */
    cr_assert_eq(n, 2);
    n = -10;
    cr_assert_eq(io->list(NULL, dir, count_names, &n), 0);
    cr_assert_eq(n, -7);
    cr_assert_eq(io->list(NULL, in_dir("none"), count_names, &n), -ENOENT);
    cr_assert_eq(io->rmdir(NULL, in_dir("d")), 0);
}

Test(io, a_lock_keeps_other_processes_out)
{
    const struct zr_io_v1 *io = zl_io_posix();
    const char *path = in_dir("lock");
    int32_t fd = (int32_t)io->open(NULL, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0600);
    cr_assert_eq(io->lock(NULL, fd), 0);
    pid_t child = fork();
    if (child == 0) {
        int32_t mine = (int32_t)io->open(NULL, path, ZR_IO_READ | ZR_IO_WRITE, 0);
        _exit(io->lock(NULL, mine) == -EAGAIN ? 42 : 1);
    }
    int status = 0;
    waitpid(child, &status, 0);
    cr_assert_eq(WEXITSTATUS(status), 42);
    io->close(NULL, fd);
}

Test(io, mkdirs)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct zr_io_stat st;
    cr_assert_eq(zl_io_mkdirs(io, in_dir("a/b//c/")), 0);
    cr_assert_eq(io->stat(NULL, in_dir("a/b/c"), &st), 0);
    cr_assert_eq(zl_io_mkdirs(io, in_dir("a/b/c")), 0);
    write_file(in_dir("a/file"), "");
    cr_assert_eq(zl_io_mkdirs(io, in_dir("a/file/x")), -ENOTDIR);
    cr_assert_eq(zl_io_mkdirs(io, in_dir("a/file")), -ENOTDIR);
    cr_assert_eq(zl_io_mkdirs(io, ""), -ENOENT);
    unlink(in_dir("a/file"));
    rmdir(in_dir("a/b/c"));
    rmdir(in_dir("a/b"));
}

Test(io, load_stops_at_the_maximum)
{
    struct zl_buf b;
    const char *path = in_dir("f");
    write_file(path, "0123456789");
    zl_buf_init(&b, 10);
    cr_assert_eq(zl_io_load(zl_io_posix(), path, &b), 10);
    cr_str_is(zl_buf_as_str(&b), "0123456789");
    zl_buf_free(&b);
    zl_buf_init(&b, 9);
    cr_assert_eq(zl_io_load(zl_io_posix(), path, &b), -EFBIG);
    cr_assert_eq(b.len, 0);
    zl_buf_free(&b);
    zl_buf_init(&b, 100);
    cr_assert_eq(zl_io_load(zl_io_posix(), dir, &b), -EISDIR);
    cr_assert_eq(zl_io_load(zl_io_posix(), "/proc/self/status", &b), -EFBIG); /* a file whose size reads 0 */
    zl_buf_free(&b);
    zl_buf_init(&b, 1u << 20);
    cr_assert_gt(zl_io_load(zl_io_posix(), "/proc/self/status", &b), 100);
    zl_buf_free(&b);
}

/* ---- a seam that fails ---- */

static struct {
    char steps[1000];
    const char *fail_at; /* the name of a step */
    uint32_t skip;       /* so many of that name pass */
} seam;

static int64_t step(const char *name)
{
    strcat(strcat(seam.steps, name), " ");
    return seam.fail_at && strcmp(seam.fail_at, name) == 0 && seam.skip-- == 0 ? -ENOSPC : 0;
}

#define POSIX zl_io_posix()
static int64_t f_open(void *s, const char *p, uint32_t f, uint32_t m) { int64_t r = step("open"); return r ? r : POSIX->open(s, p, f, m); }
static int64_t f_close(void *s, int32_t fd) { int64_t r = step("close"), c = POSIX->close(s, fd); return r ? r : c; }
static int64_t f_fsync(void *s, int32_t fd) { int64_t r = step("fsync"); return r ? r : POSIX->fsync(s, fd); }
static int64_t f_sync_dir(void *s, const char *p) { int64_t r = step("sync_dir"); return r ? r : POSIX->sync_dir(s, p); }
static int64_t f_rename(void *s, const char *a, const char *b) { int64_t r = step("rename"); return r ? r : POSIX->rename(s, a, b); }
static int64_t f_unlink(void *s, const char *p) { int64_t r = step("unlink"); return r ? r : POSIX->unlink(s, p); }
static int64_t f_pwrite(void *s, int32_t fd, const void *b, uint64_t n, int64_t off)
{
    int64_t r = step("pwrite");
    return r ? r : POSIX->pwrite(s, fd, b, n > 4 ? 4 : n, off); /* short */
}

static struct zr_io_v1 failing(const char *at, uint32_t skip)
{
    struct zr_io_v1 io = *POSIX;
    io.open = f_open;
    io.close = f_close;
    io.fsync = f_fsync;
    io.sync_dir = f_sync_dir;
    io.rename = f_rename;
    io.unlink = f_unlink;
    io.pwrite = f_pwrite;
    seam.steps[0] = 0;
    seam.fail_at = at;
    seam.skip = skip;
    return io;
}

static struct zr_span text(const char *s) { return (struct zr_span){ (const uint8_t *)s, strlen(s) }; }

Test(io, replace_does_its_steps_in_order)
{
    const char *path = in_dir("doc");
    struct zr_io_v1 io = failing(NULL, 0);
    cr_assert_eq(zl_io_replace(&io, path, text("first")), 0);
    cr_assert_str_eq(seam.steps, "open pwrite pwrite fsync close rename rename sync_dir ");
    check_file(path, "first");
    check_file(in_dir("doc.bak"), NULL);
    cr_assert_eq(zl_io_replace(&io, path, text("second")), 0);
    check_file(path, "second");
    check_file(in_dir("doc.bak"), "first");
    check_file(in_dir("doc.tmp"), NULL);
    cr_assert_eq(zl_io_replace(&io, path, text("")), 0);
    check_file(path, "");
    check_file(in_dir("doc.bak"), "second");
}

Test(io, replace_leaves_the_document_when_a_step_fails)
{
    static const struct { const char *at; uint32_t skip; } rows[] = { { "open", 0 }, { "pwrite", 0 }, { "pwrite", 1 }, { "fsync", 0 }, { "close", 0 },
                                                                      { "rename", 0 }, { "rename", 1 }, { "sync_dir", 0 } };
    const char *path = in_dir("doc");
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        write_file(path, "present");
        write_file(in_dir("doc.tmp"), "left over from a crash, and longer");
        struct zr_io_v1 io = failing(rows[i].at, rows[i].skip);
        cr_assert_eq(zl_io_replace(&io, path, text("new one")), -ENOSPC, "%s %u", rows[i].at, rows[i].skip);
        check_file(path, "present");
        if (i) check_file(in_dir("doc.tmp"), NULL);
        unlink(path);
        unlink(in_dir("doc.bak"));
        unlink(in_dir("doc.tmp"));
        /* The same where there was none: nothing remains. */
        io = failing(rows[i].at, rows[i].skip);
        cr_assert_eq(zl_io_replace(&io, path, text("new one")), -ENOSPC, "%s %u", rows[i].at, rows[i].skip);
        check_file(path, NULL);
        check_file(in_dir("doc.tmp"), NULL);
    }
}
