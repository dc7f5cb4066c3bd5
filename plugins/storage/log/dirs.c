/* SPDX-License-Identifier: Apache-2.0 */
/* dirs.c - the folders of the log. There is one; or several, on several disks, as RocketMQ's multi-path commit log has them:
 * every file lies in one of them, a start looks into all, and a new file with number base / size goes to the folder of that
 * number among those that may take it: sorted by name, without the read-only ones, without those whose disk is fuller than
 * disk_force_ratio (unless all are).
 *
 * Each folder is locked as long as the store is open, so that two brokers whose data directories differ cannot share one. The lock
 * is flock's, of the folder itself: Apache's brokers take no file of another name in it, and do not mind this.
 *
 * LOCKING: dirs.lock guards which file lies where. Leaf. */
#include "zs_int.h"
#include <errno.h>
#include <stdlib.h>

/* Adds the parts of a list joined by commas. Twins are one. 0: too many, or too long. */
static uint32_t add_list(struct zs_dirs *d, const char *list, uint32_t read_only)
{
    struct zr_str rest = zl_str(list ? list : ""), part;
    while (zl_split(&rest, ',', &part)) {
        uint32_t i = 0;
        part = zl_trim(part);
        while (part.len > 1 && part.ptr[part.len - 1] == '/') part.len--;
        if (part.len == 0) continue;
        while (i < d->n && !zl_eq(zl_str(d->path[i]), part)) i++;
        if (i == ZS_MAX_DIRS || part.len >= ZS_PATH) return 0;
        if (i == d->n) {
            memcpy(d->path[i], part.ptr, part.len);
            d->path[i][part.len] = 0;
            d->n++;
        }
        if (read_only) d->read_only |= 1u << i;
    }
    return 1;
}

uint32_t zs_dirs_init(struct zr_inst *st)
{
    struct zs_dirs *d = &st->dirs;
    for (uint32_t i = 0; i < ZS_MAX_DIRS; i++) d->lock_fd[i] = -1;
    if (!add_list(d, st->conf.log_dir, 0)) return 0;
    if (d->n == 0) d->n = zs_path(d->path[0], "%s/commitlog", st->conf.root);
    return d->n > 0 && add_list(d, st->conf.log_dirs_read_only, 1) && zs_path(st->log_dir, "%s", d->path[0]);
}

/* Where base is in the table, or belongs. Under the lock. */
static uint64_t place_of(const struct zs_dirs *d, int64_t base)
{
    uint64_t lo = 0, hi = d->n_at;
    while (lo < hi) {
        uint64_t mid = lo + (hi - lo) / 2;
        if (d->at[mid].base < base) lo = mid + 1;
        else hi = mid;
    }
    return lo;
}

static int32_t find(const struct zs_dirs *d, int64_t base)
{
    uint64_t i = place_of(d, base);
    return i < d->n_at && d->at[i].base == base ? (int32_t)d->at[i].dir : -1;
}

static uint32_t put(struct zs_dirs *d, int64_t base, uint32_t dir)
{
    uint64_t i = place_of(d, base);
    if (i < d->n_at && d->at[i].base == base) {
        d->at[i].dir = dir;
        return 1;
    }
    if (d->n_at == d->cap) {
        uint64_t cap = d->cap ? d->cap * 2 : 64;
        struct zs_dir_entry *at = realloc(d->at, cap * sizeof *at);
        if (!at) return 0;
        d->at = at;
        d->cap = cap;
    }
    memmove(d->at + i + 1, d->at + i, (d->n_at - i) * sizeof *d->at);
    d->at[i] = (struct zs_dir_entry){ base, dir };
    d->n_at++;
    return 1;
}

const char *zs_dir_of(struct zr_inst *st, int64_t base)
{
    struct zs_dirs *d = &st->dirs;
    if (d->n == 1) return d->path[0];
    pthread_mutex_lock(&d->lock);
    int32_t i = find(d, base);
    pthread_mutex_unlock(&d->lock);
    return d->path[i < 0 ? 0 : i];
}

uint32_t zs_dir_read_only(struct zr_inst *st, int64_t base)
{
    struct zs_dirs *d = &st->dirs;
    if (!d->read_only) return 0;
    pthread_mutex_lock(&d->lock);
    int32_t i = d->n == 1 ? 0 : find(d, base);
    pthread_mutex_unlock(&d->lock);
    return i >= 0 && (d->read_only >> i & 1u);
}

uint32_t zs_dir_set(struct zr_inst *st, int64_t base, uint32_t dir)
{
    struct zs_dirs *d = &st->dirs;
    if (d->n == 1) return 1;
    pthread_mutex_lock(&d->lock);
    uint32_t done = put(d, base, dir);
    pthread_mutex_unlock(&d->lock);
    return done;
}

void zs_dir_forget(struct zr_inst *st, int64_t base)
{
    struct zs_dirs *d = &st->dirs;
    if (d->n == 1) return;
    pthread_mutex_lock(&d->lock);
    uint64_t i = place_of(d, base);
    if (i < d->n_at && d->at[i].base == base) {
        memmove(d->at + i, d->at + i + 1, (d->n_at - i - 1) * sizeof *d->at);
        d->n_at--;
    }
    pthread_mutex_unlock(&d->lock);
}

/* The folders that may take a new file, sorted; all that are not read-only when all are full. How many. */
static uint32_t available(struct zr_inst *st, uint32_t *ret, uint32_t full_too)
{
    struct zs_dirs *d = &st->dirs;
    struct zr_io_disk disk;
    uint32_t n = 0;
    for (uint32_t i = 0; i < d->n; i++) {
        if (d->read_only & 1u << i) continue;
        if (!full_too && zs_used_ratio(st, d->path[i], &disk) > st->conf.ratio_force) continue;
        uint32_t k = n++;
        for (; k && strcmp(d->path[ret[k - 1]], d->path[i]) > 0; k--) ret[k] = ret[k - 1];
        ret[k] = i;
    }
    return n;
}

uint32_t zs_dir_choose(struct zr_inst *st, int64_t base)
{
    struct zs_dirs *d = &st->dirs;
    uint32_t at[ZS_MAX_DIRS];
    if (d->n == 1) return 1;
    uint32_t n = available(st, at, 0);
    if (n == 0) n = available(st, at, 1);
    if (n == 0) return 0;
    pthread_mutex_lock(&d->lock); /* whoever made it first has said where it is */
    uint32_t done = find(d, base) >= 0 || put(d, base, at[(uint64_t)(base / st->segs.size) % n]);
    pthread_mutex_unlock(&d->lock);
    return done;
}

int64_t zs_dirs_sync(struct zr_inst *st)
{
    int64_t worst = 0;
    for (uint32_t i = 0; i < st->dirs.n; i++) {
        if (st->dirs.read_only & 1u << i) continue;
        int64_t r = st->io->sync_dir(st->io->ctx, st->dirs.path[i]);
        if (r < 0) worst = r;
    }
    return worst;
}

const char *zs_dir_empty(struct zr_inst *st)
{
    struct zs_dirs *d = &st->dirs;
    for (uint32_t i = 0; d->n > 1 && i < d->n; i++) {
        uint64_t k = 0;
        while (k < d->n_at && d->at[k].dir != i) k++;
        if (k == d->n_at) return d->path[i];
    }
    return NULL;
}

/* One folder under two names is locked once. */
static uint32_t is_locked(struct zr_inst *st, uint32_t n, int32_t fd)
{
    struct zr_io_stat a, b;
    if (st->io->fstat(st->io->ctx, fd, &a) < 0) return 0;
    for (uint32_t i = 0; i < n; i++)
        if (st->dirs.lock_fd[i] >= 0 && st->io->fstat(st->io->ctx, st->dirs.lock_fd[i], &b) >= 0 && a.inode == b.inode) return 1;
    return 0;
}

zr_status zs_dirs_lock(struct zr_inst *st)
{
    const struct zr_io_v1 *io = st->io;
    if (!ZR_HAS(struct zr_io_v1, io, lock_dir) || !io->lock_dir) return ZR_OK;
    for (uint32_t i = 0; i < st->dirs.n; i++) {
        const char *path = st->dirs.path[i];
        int64_t fd = io->open(io->ctx, path, ZR_IO_READ | ZR_IO_DIRECTORY, 0), r = fd < 0 ? fd : io->lock_dir(io->ctx, (int32_t)fd);
        if (fd < 0) return zs_raise(st, zs_status_of(fd), fd, "%s cannot be opened: %s", path, zs_errno_text(fd));
        if (r == -EAGAIN && !is_locked(st, i, (int32_t)fd)) {
            io->close(io->ctx, (int32_t)fd);
            return zs_raise(st, ZR_EEXIST, r, "%s is locked: another broker, or zaryactl, has this folder of the log open; the store in %s cannot use it too",
                            path, st->conf.root);
        }
        if (r < 0 && r != -EAGAIN)
            zs_log(st, ZR_LOG_WARN, "%s cannot be locked: %s; nothing keeps another broker with a data directory of its own from it", path, zs_errno_text(r));
        if (r < 0) io->close(io->ctx, (int32_t)fd);
        else st->dirs.lock_fd[i] = (int32_t)fd;
    }
    return ZR_OK;
}

void zs_dirs_free(struct zr_inst *st)
{
    for (uint32_t i = 0; i < ZS_MAX_DIRS; i++) {
        if (st->dirs.lock_fd[i] >= 0) st->io->close(st->io->ctx, st->dirs.lock_fd[i]);
        st->dirs.lock_fd[i] = -1;
    }
    free(st->dirs.at);
    st->dirs.at = NULL;
    st->dirs.n_at = st->dirs.cap = 0;
}
