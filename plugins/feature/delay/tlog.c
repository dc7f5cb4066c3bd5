/* SPDX-License-Identifier: Apache-2.0 */
/* tlog.c - RocketMQ's timer log: files of 52-byte units. See wheel.h.
 *
 * What stays true:
 *   1. files[] are consecutive and of file_size bytes; a unit never spans two; the rest of a file is closed by a blank.
 *   2. Only the engine adds, reads and cuts; a flush only syncs, by descriptors copied under the lock, and trims.
 *   3. What lies behind `end` in the last file is zeroes: what was cut cannot be taken for units later. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "wheel.h"
#include "zl/io.h"
#include "zl/text.h"

#define BLANK_BYTES 16u
#define BLANK_MAGIC 0xCBD43194u
#define PATH_MAX_ 4096u

void unit_encode(uint8_t *to, const struct unit *u)
{
    zl_store32(to, UNIT_BYTES);
    zl_store64(to + 4, (uint64_t)u->prev);
    zl_store32(to + 12, u->magic);
    zl_store64(to + 16, (uint64_t)u->write_ms);
    zl_store32(to + 24, (uint32_t)(u->time_ms - u->write_ms));
    zl_store64(to + 28, (uint64_t)u->physical);
    zl_store32(to + 36, (uint32_t)u->size);
    zl_store32(to + 40, (uint32_t)u->topic_hash);
    zl_store64(to + 44, (uint64_t)u->exact_ms);
}

zr_status unit_decode(const uint8_t *from, struct unit *ret)
{
    uint32_t magic = zl_load32(from + 12);
    if (zl_load32(from) != UNIT_BYTES || (magic & ~0xfu) || !(magic & UNIT_DEFAULT)) return ZR_ECORRUPT;
    int64_t write_ms = (int64_t)zl_load64(from + 16);
    *ret = (struct unit){ .prev = (int64_t)zl_load64(from + 4), .write_ms = write_ms, .physical = (int64_t)zl_load64(from + 28),
                          .exact_ms = (int64_t)zl_load64(from + 44), .size = (int32_t)zl_load32(from + 36),
                          .topic_hash = (int32_t)zl_load32(from + 40), .magic = magic };
    if (write_ms < 0 || write_ms > INT64_MAX / 2 || ret->physical < 0 || ret->size <= 0 || ret->prev < -1) return ZR_ECORRUPT;
    ret->time_ms = write_ms + (int32_t)zl_load32(from + 24);
    return ret->time_ms < 0 ? ZR_ECORRUPT : ZR_OK;
}

/* ---- files ----------------------------------------------------------------------------------------------------------------- */

static void path_of(const struct tlog *l, int64_t base, char *to) { snprintf(to, PATH_MAX_, "%s/%020lld", l->dir, (long long)base); }

struct listing { struct tlog *l; int64_t *bases; uint32_t n, cap, failed; };

static int32_t each_name(void *ctx, const char *name)
{
    struct listing *s = ctx;
    int64_t base;
    if (strlen(name) != 20 || zl_parse_i64(zl_str(name), &base) != ZR_OK || base < 0) return 0;
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? s->cap * 2 : 64;
        int64_t *more = cap <= TLOG_FILES ? realloc(s->bases, cap * sizeof *more) : NULL;
        if (!more) {
            s->failed = 1;
            return 1;
        }
        s->bases = more;
        s->cap = cap;
    }
    s->bases[s->n++] = base;
    return 0;
}

static int by_base(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

static zr_status file_add(struct tlog *l, int64_t base, int32_t fd)
{
    if (l->n_files == l->cap_files) {
        uint32_t cap = l->cap_files ? l->cap_files * 2 : 16;
        struct tlog_file *more = cap <= TLOG_FILES ? realloc(l->files, cap * sizeof *more) : NULL;
        if (!more) return ZR_EFULL;
        l->files = more;
        l->cap_files = cap;
    }
    l->files[l->n_files++] = (struct tlog_file){ .base = base, .fd = fd };
    return ZR_OK;
}

/* An existing file; ZR_ECORRUPT: not of our size. */
static zr_status file_open(struct tlog *l, int64_t base)
{
    char path[PATH_MAX_];
    struct zr_io_stat st;
    path_of(l, base, path);
    int64_t fd = l->io->open(l->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0644);
    if (fd < 0) return ZR_EIO;
    zr_status status = l->io->fstat(l->io->ctx, (int32_t)fd, &st) < 0 ? ZR_EIO : st.size == (uint64_t)l->file_size ? ZR_OK : ZR_ECORRUPT;
    if (status == ZR_OK) status = file_add(l, base, (int32_t)fd);
    if (status != ZR_OK) l->io->close(l->io->ctx, (int32_t)fd);
    return status;
}

zr_status tlog_open(struct tlog *l, const struct zr_io_v1 *io, const char *dir, int64_t file_size)
{
    *l = (struct tlog){ .io = io, .file_size = file_size, .window_at = -1 };
    struct listing s = { .l = l };
    zr_status status = ZR_OK;
    l->dir = strdup(dir);
    l->pending = malloc(TLOG_PENDING * UNIT_BYTES);
    pthread_mutex_init(&l->lock, NULL);
    if (!l->dir || !l->pending) return ZR_ENOMEM;
    int64_t r = io->list(io->ctx, dir, each_name, &s);
    if ((r < 0 && r != -ENOENT) || s.failed) status = s.failed ? ZR_EFULL : ZR_EIO;
    if (s.n) qsort(s.bases, s.n, sizeof *s.bases, by_base);
    for (uint32_t i = 0; status == ZR_OK && i < s.n; i++) {
        if (s.bases[i] % file_size || (i && s.bases[i] != s.bases[i - 1] + file_size)) break;
        status = file_open(l, s.bases[i]);
        if (status == ZR_ECORRUPT) {
            status = ZR_OK;
            break;
        }
    }
    free(s.bases);
    l->end = l->pushed = tlog_begin(l);
    return status;
}

void tlog_close(struct tlog *l)
{
    if (!l->dir) return;
    for (uint32_t i = 0; i < l->n_files; i++) l->io->close(l->io->ctx, l->files[i].fd);
    free(l->files);
    free(l->pending);
    free(l->dir);
    pthread_mutex_destroy(&l->lock);
    *l = (struct tlog){ .dir = NULL };
}

int64_t tlog_begin(const struct tlog *l) { return l->n_files ? l->files[0].base : 0; }

static struct tlog_file *file_at(struct tlog *l, int64_t pos)
{
    if (!l->n_files || pos < l->files[0].base) return NULL;
    int64_t i = (pos - l->files[0].base) / l->file_size;
    return i < (int64_t)l->n_files ? &l->files[i] : NULL;
}

static zr_status file_make(struct tlog *l, int64_t base)
{
    char path[PATH_MAX_];
    path_of(l, base, path);
    if (!l->n_files && zl_io_mkdirs(l->io, l->dir) < 0) return ZR_EIO;
    int64_t fd = l->io->open(l->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_TRUNC, 0644);
    if (fd < 0) return fd == -ENOSPC ? ZR_EFULL : ZR_EIO;
    int64_t r = l->io->ftruncate(l->io->ctx, (int32_t)fd, l->file_size);
    if (r >= 0) r = l->io->sync_dir(l->io->ctx, l->dir);
    pthread_mutex_lock(&l->lock);
    zr_status status = r < 0 ? ZR_EIO : file_add(l, base, (int32_t)fd);
    pthread_mutex_unlock(&l->lock);
    if (status != ZR_OK) l->io->close(l->io->ctx, (int32_t)fd);
    return status;
}

/* ---- reading --------------------------------------------------------------------------------------------------------------- */

/* The bytes at pos, from the window or the file. */
static const uint8_t *bytes_at(struct tlog *l, int64_t pos, uint32_t len, uint32_t forward)
{
    struct tlog_file *f = file_at(l, pos);
    if (!f || pos + len > f->base + l->file_size) return NULL;
    if (l->window_at >= 0 && pos >= l->window_at && pos + len <= l->window_at + l->window_len) return l->window + (pos - l->window_at);
    int64_t from = forward ? pos : pos + len - TLOG_WINDOW; /* chains go back, scans go on */
    if (from < f->base) from = f->base;
    uint64_t want = TLOG_WINDOW;
    if (from + (int64_t)want > f->base + l->file_size) want = (uint64_t)(f->base + l->file_size - from);
    l->window_at = -1;
    if (zl_io_read_all(l->io, f->fd, l->window, want, from - f->base) < 0) return NULL;
    l->window_at = from;
    l->window_len = (uint32_t)want;
    return l->window + (pos - from);
}

zr_status tlog_look(struct tlog *l, int64_t pos, struct unit *ret)
{
    const uint8_t *p = pos < 0 ? NULL : bytes_at(l, pos, UNIT_BYTES, 0);
    return p ? unit_decode(p, ret) : ZR_EIO;
}

zr_status tlog_read(struct tlog *l, int64_t pos, struct unit *ret)
{
    if (pos < tlog_begin(l) || pos + (int64_t)UNIT_BYTES > l->end) return ZR_ECORRUPT;
    if (pos >= l->pushed && tlog_push(l) != ZR_OK) return ZR_EIO;
    return tlog_look(l, pos, ret);
}

zr_status tlog_set_magic(struct tlog *l, int64_t pos, uint32_t magic)
{
    uint8_t bytes[4];
    struct tlog_file *f = file_at(l, pos);
    if (!f) return ZR_ECORRUPT;
    zl_store32(bytes, magic);
    l->window_at = -1;
    __atomic_store_n(&f->dirty, 1u, __ATOMIC_RELEASE);
    return zl_io_write_all(l->io, f->fd, bytes, 4, pos - f->base + 12) < 0 ? ZR_EIO : ZR_OK;
}

int64_t tlog_scan(struct tlog *l, int64_t pos, int32_t (*each)(void *ctx, int64_t pos, const struct unit *u), void *ctx)
{
    struct unit u;
    for (struct tlog_file *f; (f = file_at(l, pos)) != NULL;) {
        int64_t left = f->base + l->file_size - pos;
        if (left < (int64_t)BLANK_BYTES) break;
        const uint8_t *p = bytes_at(l, pos, left < (int64_t)UNIT_BYTES ? (uint32_t)left : UNIT_BYTES, 1);
        if (!p) return -1;
        if (zl_load32(p) == (uint32_t)left && zl_load32(p + 12) == BLANK_MAGIC) {
            pos = f->base + l->file_size;
            continue;
        }
        if (left < (int64_t)UNIT_BYTES || unit_decode(p, &u) != ZR_OK || each(ctx, pos, &u)) break;
        pos += UNIT_BYTES;
    }
    return pos;
}

/* ---- writing --------------------------------------------------------------------------------------------------------------- */

zr_status tlog_cut(struct tlog *l, int64_t pos)
{
    char path[PATH_MAX_];
    struct listing s = { .l = l };
    int64_t r = 0;
    while (l->n_files && l->files[l->n_files - 1].base >= pos) l->io->close(l->io->ctx, l->files[--l->n_files].fd);
    struct tlog_file *f = l->n_files ? &l->files[l->n_files - 1] : NULL;
    int64_t keep = f ? f->base : -1;
    l->io->list(l->io->ctx, l->dir, each_name, &s);
    for (uint32_t i = 0; i < s.n; i++) /* also those that were never taken */
        if (!f || s.bases[i] > keep || s.bases[i] < l->files[0].base) {
            path_of(l, s.bases[i], path);
            if (l->io->unlink(l->io->ctx, path) < 0) r = -EIO;
        }
    free(s.bases);
    if (f && pos < f->base + l->file_size) {
        int64_t t = l->io->ftruncate(l->io->ctx, f->fd, pos - f->base);
        if (t >= 0) t = l->io->ftruncate(l->io->ctx, f->fd, l->file_size);
        __atomic_store_n(&f->dirty, 1u, __ATOMIC_RELEASE);
        if (t < 0) r = t;
    }
    l->end = l->pushed = f ? pos : (pos + l->file_size - 1) / l->file_size * l->file_size;
    l->window_at = -1;
    return r < 0 || s.failed ? ZR_EIO : ZR_OK;
}

zr_status tlog_push(struct tlog *l)
{
    uint64_t len = (uint64_t)(l->end - l->pushed);
    if (len == 0) return ZR_OK;
    struct tlog_file *f = file_at(l, l->pushed);
    int64_t r = f ? zl_io_write_all(l->io, f->fd, l->pending, len, l->pushed - f->base) : -EIO;
    if (r < 0) return r == -ENOSPC ? ZR_EFULL : ZR_EIO;
    __atomic_store_n(&f->dirty, 1u, __ATOMIC_RELEASE);
    if (l->window_at >= 0 && l->window_at + l->window_len > l->pushed) l->window_at = -1;
    l->pushed = l->end;
    return ZR_OK;
}

static zr_status file_end(struct tlog *l)
{
    struct tlog_file *f = file_at(l, l->end);
    int64_t left = f->base + l->file_size - l->end;
    uint8_t blank[BLANK_BYTES] = { 0 };
    zr_status status = tlog_push(l);
    if (status != ZR_OK) return status;
    if (left >= (int64_t)BLANK_BYTES) {
        zl_store32(blank, (uint32_t)left);
        zl_store32(blank + 12, BLANK_MAGIC);
        if (zl_io_write_all(l->io, f->fd, blank, BLANK_BYTES, l->end - f->base) < 0) return ZR_EIO;
        __atomic_store_n(&f->dirty, 1u, __ATOMIC_RELEASE);
    }
    l->end = l->pushed = f->base + l->file_size;
    return ZR_OK;
}

zr_status tlog_add(struct tlog *l, const struct unit *u, int64_t *ret_pos)
{
    zr_status status = ZR_OK;
    struct tlog_file *f = file_at(l, l->end);
    if (f && l->end + (int64_t)(UNIT_BYTES + BLANK_BYTES) > f->base + l->file_size) {
        status = file_end(l);
        f = NULL;
    }
    if (status == ZR_OK && !f) status = file_make(l, l->end);
    if (status == ZR_OK && l->end - l->pushed == (int64_t)TLOG_PENDING * UNIT_BYTES) status = tlog_push(l);
    if (status != ZR_OK) return status;
    unit_encode(l->pending + (l->end - l->pushed), u);
    *ret_pos = l->end;
    l->end += UNIT_BYTES;
    return ZR_OK;
}

zr_status tlog_sync(struct tlog *l)
{
    zr_status status = ZR_OK;
    for (uint32_t i = 0;; i++) {
        pthread_mutex_lock(&l->lock);
        uint32_t more = i < l->n_files, dirty = more && __atomic_exchange_n(&l->files[i].dirty, 0u, __ATOMIC_ACQ_REL);
        int32_t fd = more ? l->files[i].fd : -1;
        pthread_mutex_unlock(&l->lock);
        if (!more) return status;
        if (!dirty || l->io->fdatasync(l->io->ctx, fd) >= 0) continue;
        __atomic_store_n(&l->files[i].dirty, 1u, __ATOMIC_RELEASE);
        status = ZR_EIO;
    }
}

void tlog_trim(struct tlog *l, int64_t physical_begin)
{
    char path[PATH_MAX_];
    while (l->n_files > 1) {
        struct unit u;
        int64_t last = l->files[0].base + (l->file_size - (int64_t)BLANK_BYTES - (int64_t)UNIT_BYTES) / (int64_t)UNIT_BYTES * (int64_t)UNIT_BYTES;
        zr_status status = tlog_read(l, last, &u);
        while (status == ZR_OK && u.exact_ms == UNIT_PUT_OFF && last > l->files[0].base) { /* older than what is around it */
            last -= UNIT_BYTES;
            status = tlog_read(l, last, &u);
        }
        if (status != ZR_OK || u.exact_ms == UNIT_PUT_OFF || u.physical >= physical_begin) return;
        path_of(l, l->files[0].base, path);
        pthread_mutex_lock(&l->lock);
        int32_t fd = l->files[0].fd;
        memmove(l->files, l->files + 1, (l->n_files - 1) * sizeof l->files[0]);
        l->n_files--;
        pthread_mutex_unlock(&l->lock);
        l->io->close(l->io->ctx, fd);
        if (l->io->unlink(l->io->ctx, path) < 0) return;
    }
}
