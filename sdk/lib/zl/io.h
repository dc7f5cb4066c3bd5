/* SPDX-License-Identifier: Apache-2.0 */
/* zl/io.h - POSIX behind the I/O seam (zarya/io.h), and loops around its short reads and writes. */
#ifndef ZL_IO_H
#define ZL_IO_H
#include "zarya/io.h"
#include "zl/buf.h"

const struct zr_io_v1 *zl_io_posix(void);
/* All len bytes, or -errno (-EIO at an unexpected end of file). */
int64_t zl_io_read_all(const struct zr_io_v1 *io, int32_t fd, void *buf, uint64_t len, int64_t off);
int64_t zl_io_write_all(const struct zr_io_v1 *io, int32_t fd, const void *buf, uint64_t len, int64_t off);
/* The whole file into out (cleared first); -EFBIG beyond out->max. */
int64_t zl_io_load(const struct zr_io_v1 *io, const char *path, struct zl_buf *out);
/* All missing folders of path. */
int64_t zl_io_mkdirs(const struct zr_io_v1 *io, const char *path);
/* Temporary file, sync, present one to <path>.bak, rename, directory sync. -errno; the present document is intact then. */
int64_t zl_io_replace(const struct zr_io_v1 *io, const char *path, struct zr_span bytes);
#endif
