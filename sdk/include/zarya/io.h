/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/io.h - host service zarya.io/1: the I/O seam. Every file operation of the kernel, the storages and the state
 * documents goes through this table, so that tests can record, fail and replay each one.
 *
 * Every call returns >= 0 for success or -errno. Short reads and writes are possible, as in POSIX; the callers' helpers in
 * sdk/lib (zl_io_*) loop. self is the table's own ctx member, passed back. Paths are NUL-terminated and absolute. */
#ifndef ZARYA_IO_H
#define ZARYA_IO_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_IO "zarya.io/1"
#define ZR_IO_READ 0x1u
#define ZR_IO_WRITE 0x2u
#define ZR_IO_CREATE 0x4u
#define ZR_IO_EXCL 0x8u
#define ZR_IO_TRUNC 0x10u
#define ZR_IO_DIRECTORY 0x20u

#define ZR_IO_ADVISE_NORMAL 0u
#define ZR_IO_ADVISE_RANDOM 1u
#define ZR_IO_ADVISE_SEQUENTIAL 2u
#define ZR_IO_ADVISE_WILLNEED 3u
#define ZR_IO_ADVISE_DONTNEED 4u

struct zr_io_stat { /* frozen */
    uint64_t size;
    int64_t mtime_ns;
    uint64_t inode;
    uint32_t is_dir, mode;
};
struct zr_io_disk { /* frozen: of the file system that holds a path, in bytes */
    uint64_t total, free, available;
};
struct zr_io_v1 {
    struct zr_hdr hdr;
    void *ctx;
    ZR_ON(any) int64_t (*open)(void *self, const char *path, uint32_t flags, uint32_t mode); /* a descriptor, close-on-exec */
    ZR_ON(any) int64_t (*close)(void *self, int32_t fd);
    ZR_ON(any) int64_t (*pread)(void *self, int32_t fd, void *buf, uint64_t len, int64_t off);
    ZR_ON(any) int64_t (*pwrite)(void *self, int32_t fd, const void *buf, uint64_t len, int64_t off);
    ZR_ON(any) int64_t (*pwritev)(void *self, int32_t fd, const struct zr_span *bufs, uint32_t n, int64_t off);
    ZR_ON(any) int64_t (*fdatasync)(void *self, int32_t fd);
    ZR_ON(any) int64_t (*fsync)(void *self, int32_t fd);
    ZR_ON(any) int64_t (*sync_dir)(void *self, const char *path); /* makes names created, renamed or removed in it durable */
    ZR_ON(any) int64_t (*fallocate)(void *self, int32_t fd, int64_t off, int64_t len); /* may be -EOPNOTSUPP */
    ZR_ON(any) int64_t (*ftruncate)(void *self, int32_t fd, int64_t len);
    ZR_ON(any) int64_t (*rename)(void *self, const char *from, const char *to);
    ZR_ON(any) int64_t (*unlink)(void *self, const char *path);
    ZR_ON(any) int64_t (*mkdir)(void *self, const char *path, uint32_t mode);
    ZR_ON(any) int64_t (*rmdir)(void *self, const char *path);
    ZR_ON(any) int64_t (*stat)(void *self, const char *path, struct zr_io_stat *ret);
    ZR_ON(any) int64_t (*fstat)(void *self, int32_t fd, struct zr_io_stat *ret);
    /* Calls each(ctx, name) for every entry but "." and "..", in no order; stops when each returns non-zero and returns that. */
    ZR_ON(any) int64_t (*list)(void *self, const char *path, int32_t (*each)(void *ctx, const char *name), void *ctx);
    /* A shared read-only mapping; *ret_addr is held until unmap. */
    ZR_ON(any) int64_t (*map)(void *self, int32_t fd, int64_t off, uint64_t len, const void **ret_addr);
    ZR_ON(any) int64_t (*unmap)(void *self, const void *addr, uint64_t len);
    ZR_ON(any) int64_t (*advise)(void *self, int32_t fd, const void *addr_or_null, int64_t off, uint64_t len, uint32_t advice);
    /* Takes an exclusive POSIX (fcntl) lock of byte 0 without waiting; -EAGAIN when another process has it. */
    ZR_ON(any) int64_t (*lock)(void *self, int32_t fd);
    ZR_ON(any) int64_t (*disk)(void *self, const char *path, struct zr_io_disk *ret);
    /* The first place at or behind off that may hold data (SEEK_DATA); -ENXIO: only a hole up to the end of the file. May be
     * NULL or answer -EOPNOTSUPP or -EINVAL where holes cannot be told: then everything is read. */
    ZR_ON(any) int64_t (*seek_data)(void *self, int32_t fd, int64_t off);
    /* Makes everything written to the file system that holds path durable, data and names (syncfs): for very many files at
     * once. May be NULL or answer -EOPNOTSUPP. */
    ZR_ON(any) int64_t (*sync_fs)(void *self, const char *path);
    /* Says when the file was last written: for a file that is made again in another form, whose age counts. May be NULL. */
    ZR_ON(any) int64_t (*set_mtime)(void *self, int32_t fd, int64_t mtime_ns);
    /* A second name for a file; -EXDEV where that cannot be. May be NULL. */
    ZR_ON(any) int64_t (*link)(void *self, const char *from, const char *to);
    /* An exclusive lock (flock) of what fd is open on, a directory too, that ends with the descriptor, without waiting; -EAGAIN when
     * another descriptor has it. Other errors: it cannot be locked there. May be NULL. */
    ZR_ON(any) int64_t (*lock_dir)(void *self, int32_t fd);
};
#ifdef __cplusplus
}
#endif
#endif
