/* SPDX-License-Identifier: Apache-2.0 */
/* io.c - POSIX behind the I/O seam, and the helpers that work through any seam.
 *
 * 1. The table keeps nothing: self is not used, and every call is one system call (or its repetition after EINTR).
 * 2. The helpers know the seam alone, so a test's table sees each step of them.
 * 3. zl_io_replace never has a moment without a whole document: until the last rename the present one is at path or at path.bak.
 *
 * LOCKING: none. Two replacements of one path at the same time are the caller's fault: they share a temporary. */
#include "zl/io.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

/* -errno of a call that answers -1, again after EINTR. */
#define RETRY(call)                                                                                                    \
    ({                                                                                                                 \
        int64_t r_;                                                                                                    \
        do r_ = (call);                                                                                                \
        while (r_ < 0 && errno == EINTR);                                                                              \
        r_ < 0 ? -(int64_t)errno : r_;                                                                                 \
    })

static int64_t posix_open(void *self, const char *path, uint32_t flags, uint32_t mode)
{
    (void)self;
    int how = O_CLOEXEC;
    how |= flags & ZR_IO_WRITE ? (flags & ZR_IO_READ ? O_RDWR : O_WRONLY) : O_RDONLY;
    if (flags & ZR_IO_CREATE) how |= O_CREAT;
    if (flags & ZR_IO_EXCL) how |= O_EXCL;
    if (flags & ZR_IO_TRUNC) how |= O_TRUNC;
    if (flags & ZR_IO_DIRECTORY) how |= O_DIRECTORY;
    return RETRY(open(path, how, (mode_t)mode));
}

/* Linux has released the descriptor even when close is interrupted: never again. */
static int64_t posix_close(void *self, int32_t fd)
{
    (void)self;
    return close(fd) < 0 && errno != EINTR ? -(int64_t)errno : 0;
}

static int64_t posix_pread(void *self, int32_t fd, void *buf, uint64_t len, int64_t off)
{
    (void)self;
    return RETRY(pread(fd, buf, len, off));
}

static int64_t posix_pwrite(void *self, int32_t fd, const void *buf, uint64_t len, int64_t off)
{
    (void)self;
    return RETRY(pwrite(fd, buf, len, off));
}

#define IOV_FEW 64u

/* More than IOV_FEW pieces end in a short write, which callers loop over anyway. */
static int64_t posix_pwritev(void *self, int32_t fd, const struct zr_span *bufs, uint32_t n, int64_t off)
{
    (void)self;
    struct iovec iov[IOV_FEW];
    if (n > IOV_FEW) n = IOV_FEW;
    for (uint32_t i = 0; i < n; i++) iov[i] = (struct iovec){ (void *)(uintptr_t)bufs[i].ptr, bufs[i].len };
    return RETRY(pwritev(fd, iov, (int)n, off));
}

static int64_t posix_fdatasync(void *self, int32_t fd)
{
    (void)self;
    return RETRY(fdatasync(fd));
}

static int64_t posix_fsync(void *self, int32_t fd)
{
    (void)self;
    return RETRY(fsync(fd));
}

static int64_t posix_sync_dir(void *self, const char *path)
{
    int64_t fd = posix_open(self, path, ZR_IO_READ | ZR_IO_DIRECTORY, 0);
    if (fd < 0) return fd;
    int64_t synced = posix_fsync(self, (int32_t)fd), closed = posix_close(self, (int32_t)fd);
    return synced < 0 ? synced : closed;
}

static int64_t posix_fallocate_(void *self, int32_t fd, int64_t off, int64_t len)
{
    (void)self;
    return RETRY(fallocate(fd, 0, off, len));
}

static int64_t posix_ftruncate(void *self, int32_t fd, int64_t len)
{
    (void)self;
    return RETRY(ftruncate(fd, len));
}

static int64_t posix_rename(void *self, const char *from, const char *to)
{
    (void)self;
    return RETRY(rename(from, to));
}

static int64_t posix_link(void *self, const char *from, const char *to)
{
    (void)self;
    int64_t r = RETRY(link(from, to));
    return r == -EPERM || r == -EMLINK || r == -EOPNOTSUPP ? -EXDEV : r; /* a file system that has none */
}

static int64_t posix_unlink(void *self, const char *path)
{
    (void)self;
    return RETRY(unlink(path));
}

static int64_t posix_mkdir(void *self, const char *path, uint32_t mode)
{
    (void)self;
    return RETRY(mkdir(path, (mode_t)mode));
}

static int64_t posix_rmdir(void *self, const char *path)
{
    (void)self;
    return RETRY(rmdir(path));
}

static void stat_fill(const struct stat *st, struct zr_io_stat *ret)
{
    *ret = (struct zr_io_stat){
        .size = (uint64_t)st->st_size,
        .mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
        .inode = st->st_ino,
        .is_dir = S_ISDIR(st->st_mode),
        .mode = st->st_mode & 07777u,
    };
}

static int64_t posix_stat(void *self, const char *path, struct zr_io_stat *ret)
{
    (void)self;
    struct stat st;
    int64_t r = RETRY(stat(path, &st));
    if (r == 0) stat_fill(&st, ret);
    return r;
}

static int64_t posix_fstat(void *self, int32_t fd, struct zr_io_stat *ret)
{
    (void)self;
    struct stat st;
    int64_t r = RETRY(fstat(fd, &st));
    if (r == 0) stat_fill(&st, ret);
    return r;
}

static int64_t posix_list(void *self, const char *path, int32_t (*each)(void *ctx, const char *name), void *ctx)
{
    (void)self;
    DIR *dir = opendir(path);
    if (!dir) return -(int64_t)errno;
    int64_t r = 0;
    while (r == 0) {
        errno = 0;
        const struct dirent *entry = readdir(dir);
        if (!entry) {
            r = -(int64_t)errno;
            break;
        }
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) r = each(ctx, entry->d_name);
    }
    closedir(dir);
    return r;
}

static int64_t posix_map(void *self, int32_t fd, int64_t off, uint64_t len, const void **ret_addr)
{
    (void)self;
    void *addr = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, off);
    if (addr == MAP_FAILED) return -(int64_t)errno;
    *ret_addr = addr;
    return 0;
}

static int64_t posix_unmap(void *self, const void *addr, uint64_t len)
{
    (void)self;
    return munmap((void *)(uintptr_t)addr, len) < 0 ? -(int64_t)errno : 0;
}

static int64_t posix_advise(void *self, int32_t fd, const void *addr_or_null, int64_t off, uint64_t len, uint32_t advice)
{
    static const int of_file[] = { POSIX_FADV_NORMAL, POSIX_FADV_RANDOM, POSIX_FADV_SEQUENTIAL, POSIX_FADV_WILLNEED,
                                   POSIX_FADV_DONTNEED };
    static const int of_memory[] = { MADV_NORMAL, MADV_RANDOM, MADV_SEQUENTIAL, MADV_WILLNEED, MADV_DONTNEED };
    (void)self;
    if (advice > ZR_IO_ADVISE_DONTNEED) return -EINVAL;
    if (addr_or_null) {
        return madvise((void *)(uintptr_t)addr_or_null, len, of_memory[advice]) < 0 ? -(int64_t)errno : 0;
    }
    return -(int64_t)posix_fadvise(fd, off, (off_t)len, of_file[advice]);
}

static int64_t posix_lock(void *self, int32_t fd)
{
    (void)self;
    struct flock lock = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1 };
    int64_t r = RETRY(fcntl(fd, F_SETLK, &lock));
    return r == -EACCES ? -EAGAIN : r < 0 ? r : 0;
}

static int64_t posix_lock_dir(void *self, int32_t fd)
{
    (void)self;
    int64_t r = RETRY(flock(fd, LOCK_EX | LOCK_NB));
    return r == -EWOULDBLOCK ? -EAGAIN : r < 0 ? r : 0;
}

static int64_t posix_disk(void *self, const char *path, struct zr_io_disk *ret)
{
    (void)self;
    struct statvfs st;
    int64_t r = RETRY(statvfs(path, &st));
    if (r < 0) return r;
    *ret = (struct zr_io_disk){ (uint64_t)st.f_blocks * st.f_frsize, (uint64_t)st.f_bfree * st.f_frsize,
                                (uint64_t)st.f_bavail * st.f_frsize };
    return 0;
}

static int64_t posix_seek_data(void *self, int32_t fd, int64_t off)
{
    (void)self;
    return RETRY(lseek(fd, off, SEEK_DATA));
}

static int64_t posix_sync_fs(void *self, const char *path)
{
    int64_t fd = posix_open(self, path, ZR_IO_READ, 0);
    if (fd < 0) return fd;
    int64_t synced = RETRY(syncfs((int)fd)), closed = posix_close(self, (int32_t)fd);
    return synced < 0 ? synced : closed;
}

static int64_t posix_set_mtime(void *self, int32_t fd, int64_t mtime_ns)
{
    const struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = mtime_ns / 1000000000, .tv_nsec = mtime_ns % 1000000000 } };
    (void)self;
    return mtime_ns < 0 ? -EINVAL : RETRY(futimens(fd, times));
}

const struct zr_io_v1 *zl_io_posix(void)
{
    static const struct zr_io_v1 table = {
        .hdr = ZR_HDR(struct zr_io_v1, 0),
        .open = posix_open,
        .close = posix_close,
        .pread = posix_pread,
        .pwrite = posix_pwrite,
        .pwritev = posix_pwritev,
        .fdatasync = posix_fdatasync,
        .fsync = posix_fsync,
        .sync_dir = posix_sync_dir,
        .fallocate = posix_fallocate_,
        .ftruncate = posix_ftruncate,
        .rename = posix_rename,
        .unlink = posix_unlink,
        .mkdir = posix_mkdir,
        .rmdir = posix_rmdir,
        .stat = posix_stat,
        .fstat = posix_fstat,
        .list = posix_list,
        .map = posix_map,
        .unmap = posix_unmap,
        .advise = posix_advise,
        .lock = posix_lock,
        .disk = posix_disk,
        .seek_data = posix_seek_data,
        .sync_fs = posix_sync_fs,
        .set_mtime = posix_set_mtime,
        .link = posix_link,
        .lock_dir = posix_lock_dir,
    };
    return &table;
}

/* ---- helpers through any seam ---- */

int64_t zl_io_read_all(const struct zr_io_v1 *io, int32_t fd, void *buf, uint64_t len, int64_t off)
{
    uint64_t done = 0;
    while (done < len) {
        int64_t r = io->pread(io->ctx, fd, (uint8_t *)buf + done, len - done, off + (int64_t)done);
        if (r < 0) return r;
        if (r == 0) return -EIO;
        done += (uint64_t)r;
    }
    return (int64_t)len;
}

int64_t zl_io_write_all(const struct zr_io_v1 *io, int32_t fd, const void *buf, uint64_t len, int64_t off)
{
    uint64_t done = 0;
    while (done < len) {
        int64_t r = io->pwrite(io->ctx, fd, (const uint8_t *)buf + done, len - done, off + (int64_t)done);
        if (r < 0) return r;
        if (r == 0) return -EIO;
        done += (uint64_t)r;
    }
    return (int64_t)len;
}

/* Reads until the end of the file, whatever stat said of its size (which may be 0 for files of /proc). */
static int64_t load_rest(const struct zr_io_v1 *io, int32_t fd, struct zl_buf *out, uint64_t guess)
{
    for (;;) {
        uint64_t room = out->len < guess ? guess - out->len + 1 : 4096;
        if (room > out->max - out->len) room = out->max - out->len;
        if (room == 0) {
            uint8_t beyond;
            int64_t r = io->pread(io->ctx, fd, &beyond, 1, (int64_t)out->len);
            return r > 0 ? -EFBIG : r;
        }
        uint8_t *to = zl_buf_reserve(out, room);
        if (!to) return -ENOMEM;
        int64_t r = io->pread(io->ctx, fd, to, room, (int64_t)out->len);
        if (r <= 0) return r;
        out->len += (uint64_t)r;
    }
}

int64_t zl_io_load(const struct zr_io_v1 *io, const char *path, struct zl_buf *out)
{
    struct zr_io_stat st;
    zl_buf_clear(out);
    int64_t fd = io->open(io->ctx, path, ZR_IO_READ, 0);
    if (fd < 0) return fd;
    int64_t r = io->fstat(io->ctx, (int32_t)fd, &st);
    if (r >= 0 && st.is_dir) r = -EISDIR;
    if (r >= 0 && st.size > out->max) r = -EFBIG;
    if (r >= 0) r = load_rest(io, (int32_t)fd, out, st.size);
    io->close(io->ctx, (int32_t)fd);
    if (r >= 0) return (int64_t)out->len;
    zl_buf_clear(out);
    return r;
}

/* The folder that holds path, into to. */
static void folder_of(char *to, const char *path)
{
    const char *slash = strrchr(path, '/');
    size_t n = slash ? (size_t)(slash - path) : 0;
    if (n == 0) {
        strcpy(to, slash ? "/" : ".");
        return;
    }
    memcpy(to, path, n);
    to[n] = 0;
}

/* One folder of the way; its name is made durable in its parent. */
static int64_t mkdir_one(const struct zr_io_v1 *io, const char *path)
{
    char parent[PATH_MAX];
    struct zr_io_stat st;
    int64_t r = io->stat(io->ctx, path, &st);
    if (r >= 0) return st.is_dir ? 0 : -ENOTDIR;
    if (r != -ENOENT) return r;
    r = io->mkdir(io->ctx, path, 0755);
    if (r == -EEXIST) return 0; /* somebody else was quicker */
    if (r < 0) return r;
    folder_of(parent, path);
    return io->sync_dir(io->ctx, parent);
}

int64_t zl_io_mkdirs(const struct zr_io_v1 *io, const char *path)
{
    char part[PATH_MAX];
    size_t len = strlen(path);
    if (len == 0) return -ENOENT;
    if (len >= sizeof(part)) return -ENAMETOOLONG;
    for (size_t i = 1; i <= len; i++) {
        if ((path[i] != '/' && path[i] != 0) || path[i - 1] == '/') continue;
        memcpy(part, path, i);
        part[i] = 0;
        int64_t r = mkdir_one(io, part);
        if (r < 0) return r;
    }
    return 0;
}

/* Writes and syncs a new file; nothing is left of it after an error. */
static int64_t write_temporary(const struct zr_io_v1 *io, const char *path, struct zr_span bytes)
{
    int64_t fd = io->open(io->ctx, path, ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_TRUNC, 0644);
    if (fd < 0) return fd;
    int64_t r = zl_io_write_all(io, (int32_t)fd, bytes.ptr, bytes.len, 0);
    if (r >= 0) r = io->fsync(io->ctx, (int32_t)fd);
    int64_t closed = io->close(io->ctx, (int32_t)fd);
    if (r >= 0) r = closed;
    if (r < 0) io->unlink(io->ctx, path);
    return r < 0 ? r : 0;
}

int64_t zl_io_replace(const struct zr_io_v1 *io, const char *path, struct zr_span bytes)
{
    char temporary[PATH_MAX], backup[PATH_MAX], folder[PATH_MAX];
    if (strlen(path) + 5 > sizeof(temporary)) return -ENAMETOOLONG;
    snprintf(temporary, sizeof(temporary), "%s.tmp", path);
    snprintf(backup, sizeof(backup), "%s.bak", path);
    folder_of(folder, path);

    int64_t r = write_temporary(io, temporary, bytes);
    if (r < 0) return r;
    int64_t kept = io->rename(io->ctx, path, backup);
    if (kept < 0 && kept != -ENOENT) {
        io->unlink(io->ctx, temporary);
        return kept;
    }
    r = io->rename(io->ctx, temporary, path);
    if (r >= 0) {
        r = io->sync_dir(io->ctx, folder);
        if (r >= 0) return 0;
        io->rename(io->ctx, path, temporary); /* not known to be durable: the caller holds it for not done, so undo it */
    }
    if (kept >= 0) io->rename(io->ctx, backup, path);
    io->unlink(io->ctx, temporary);
    return r;
}
