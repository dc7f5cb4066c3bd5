/* SPDX-License-Identifier: Apache-2.0 */
/* io.c - every file that is looked at or mended is reached through one I/O table (zarya/io.h), and everything that is said goes to
 * one of two streams: the disk and the terminal as a rule; tests put a file system of their own there, which cuts and fails calls.
 *
 * Set before anything is opened, and not while something is. */
#include "tool.h"

static const struct zr_io_v1 *the_io;
static FILE *the_out, *the_err;

void zt_io_set(const struct zr_io_v1 *io, FILE *out, FILE *err)
{
    the_io = io;
    the_out = out;
    the_err = err;
}

const struct zr_io_v1 *zt_io(void) { return the_io ? the_io : zl_io_posix(); }
FILE *zt_out(void) { return the_out ? the_out : stdout; }
FILE *zt_err(void) { return the_err ? the_err : stderr; }

int64_t zt_stat(const char *path, struct zr_io_stat *ret) { return zt_io()->stat(zt_io()->ctx, path, ret); }
int64_t zt_open(const char *path, uint32_t flags) { return zt_io()->open(zt_io()->ctx, path, flags, 0644); }
int64_t zt_close(int64_t fd) { return fd < 0 ? 0 : zt_io()->close(zt_io()->ctx, (int32_t)fd); }
int64_t zt_sync(int64_t fd) { return zt_io()->fsync(zt_io()->ctx, (int32_t)fd); }
int64_t zt_sync_dir(const char *path) { return zt_io()->sync_dir(zt_io()->ctx, path); }
int64_t zt_rename(const char *from, const char *to) { return zt_io()->rename(zt_io()->ctx, from, to); }

uint64_t zt_read(int64_t fd, void *to, uint64_t len, int64_t off)
{
    uint64_t done = 0;
    while (done < len) {
        int64_t r = zt_io()->pread(zt_io()->ctx, (int32_t)fd, (uint8_t *)to + done, len - done, off + (int64_t)done);
        if (r == -EINTR) continue;
        if (r <= 0) break;
        done += (uint64_t)r;
    }
    return done;
}

int64_t zt_seek_data(int64_t fd, int64_t off)
{
    const struct zr_io_v1 *io = zt_io();
    int64_t r = ZR_HAS(struct zr_io_v1, io, seek_data) && io->seek_data ? io->seek_data(io->ctx, (int32_t)fd, off) : -EOPNOTSUPP;
    return r < 0 && r != -ENXIO ? off : r; /* where holes cannot be told everything is read */
}
