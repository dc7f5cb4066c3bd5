/* SPDX-License-Identifier: Apache-2.0 */
/* checkpoint.c - RocketMQ's small files: checkpoint, abort, lock; and the moment at which all is saved.
 *
 * checkpoint, 4096 bytes, six longs:  0 physicMsgTimestamp | 8 logicsMsgTimestamp | 16 indexMsgTimestamp
 *   24 masterFlushedOffset | 32 confirmPhyOffset | 40 physical offset of the last record whose queue entries are on disk
 * 24 and 32 belong to replication; what was found in them is kept.
 *
 * lock: the word in it is of whoever had the store last: Apache's brokers write "lock", Zarya writes "zrya". While it is ours, no
 * other broker changed the queues since our snapshot, and a start need not look at their files. It is written behind the first
 * snapshot, not when the lock is taken: a start that is refused, or ends before that, leaves it as it was.
 * abort: process id, inode of the lock file, boot id. When folder and boot are the same at the next start, the process was
 * killed but the machine was not: the page cache still has everything.
 *
 * What stays true: offsets 8 and 40 are never ahead of what is on disk in all queues, nor of what is flushed in the log.
 * abort is there from the moment the store can be changed until everything of it is on disk. */
#include "bcq.h"
#include <errno.h>
#include <stdio.h>
#include <unistd.h>

/* A value that no store can have is none. */
static int64_t sane(const uint8_t *at)
{
    int64_t v = (int64_t)zl_load64(at);
    return v < 0 || v > ZS_MAX_POSITION ? 0 : v;
}

zr_status zs_checkpoint_open(struct zr_inst *st)
{
    char path[ZS_PATH];
    uint8_t bytes[48] = { 0 };
    struct zr_io_stat stat;
    if (!zs_path(path, "%s/checkpoint", st->conf.root)) return ZR_EINVAL;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0644);
    if (fd < 0) return zs_raise(st, zs_status_of(fd), fd, "%s cannot be opened: %s", path, zs_errno_text(fd));
    st->checkpoint_fd = (int32_t)fd;
    int64_t r = st->io->fstat(st->io->ctx, (int32_t)fd, &stat);
    if (r >= 0 && stat.size != ZS_CHECKPOINT) r = st->io->ftruncate(st->io->ctx, (int32_t)fd, ZS_CHECKPOINT);
    if (r >= 0) r = zl_io_read_all(st->io, (int32_t)fd, bytes, sizeof bytes, 0);
    if (r < 0) return zs_raise(st, zs_status_of(r), r, "%s cannot be read: %s", path, zs_errno_text(r));
    struct zs_checkpoint *c = &st->checkpoint;
    c->physic_ms = sane(bytes);
    c->logics_ms = sane(bytes + 8);
    c->index_ms = sane(bytes + 16);
    c->master_flushed = sane(bytes + 24);
    c->confirm = sane(bytes + 32);
    c->logics_phys = sane(bytes + 40);
    return ZR_OK;
}

int64_t zs_checkpoint_write(struct zr_inst *st)
{
    uint8_t bytes[48];
    const struct zs_checkpoint *c = &st->checkpoint;
    zl_store64(bytes, (uint64_t)c->physic_ms);
    zl_store64(bytes + 8, (uint64_t)c->logics_ms);
    zl_store64(bytes + 16, (uint64_t)c->index_ms);
    zl_store64(bytes + 24, (uint64_t)c->master_flushed);
    zl_store64(bytes + 32, (uint64_t)c->confirm);
    zl_store64(bytes + 40, (uint64_t)c->logics_phys);
    int64_t r = zl_io_write_all(st->io, st->checkpoint_fd, bytes, sizeof bytes, 0);
    if (r >= 0) r = st->io->fdatasync(st->io->ctx, st->checkpoint_fd);
    return r < 0 ? r : 0;
}

int64_t zs_save(struct zr_inst *st, uint32_t clean)
{
    pthread_mutex_lock(&st->append_lock);
    int64_t pos = atomic_load(&st->end), last_phys = st->last_phys, last_ms = atomic_load(&st->last_ms);
    pthread_mutex_unlock(&st->append_lock);
    int64_t r = zs_queues_drain(st);
    if (r >= 0 && !zs_flush_wait(st, pos)) r = -EIO;
    if (r >= 0 && !atomic_load(&st->queues_unsure)) r = zs_queues_sync(st);
    if (r >= 0 && atomic_load(&st->queues_unsure)) r = -EIO;
    if (r >= 0) r = zs_bcq_export(st);
    if (r >= 0) r = zs_removed_save(st);
    if (r >= 0) r = zs_snapshot_save(st, pos, last_phys, last_ms, clean);
    if (r >= 0) {
        struct zs_checkpoint *c = &st->checkpoint;
        pthread_mutex_lock(&st->flush_lock);
        c->physic_ms = st->flushed_ms;
        pthread_mutex_unlock(&st->flush_lock);
        c->logics_ms = last_ms;
        c->index_ms = zs_index_ms(st);
        c->logics_phys = last_phys < 0 ? 0 : last_phys;
        r = zs_checkpoint_write(st);
    }
    if (r >= 0) {
        st->saved_pos = pos;
        zs_lock_mark(st);
    } else zs_log(st, ZR_LOG_WARN, "the store's position could not be saved: %s; a recovery would read more of the log", zs_errno_text(r));
    return r;
}

/* ---- lock and abort --------------------------------------------------------------------------------------------------- */

#define LOCK_WORD "zrya"
#define LIFE 128u

zr_status zs_lock_take(struct zr_inst *st)
{
    char path[ZS_PATH], word[4] = { 0 };
    if (!zs_path(path, "%s/lock", st->conf.root)) return ZR_EINVAL;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0644);
    if (fd < 0) return zs_raise(st, zs_status_of(fd), fd, "%s cannot be opened: %s", path, zs_errno_text(fd));
    int64_t r = st->io->lock(st->io->ctx, (int32_t)fd);
    if (r >= 0) st->lock_ours = zl_io_read_all(st->io, (int32_t)fd, word, 4, 0) >= 0 && memcmp(word, LOCK_WORD, 4) == 0;
    st->lock_marked = st->lock_ours;
    if (r == -EAGAIN || r == -EACCES) {
        st->io->close(st->io->ctx, (int32_t)fd);
        return zs_raise(st, ZR_EEXIST, r, "%s is locked: another broker uses this store", path);
    }
    if (r < 0) {
        st->io->close(st->io->ctx, (int32_t)fd);
        return zs_raise(st, zs_status_of(r), r, "%s cannot be locked: %s", path, zs_errno_text(r));
    }
    st->lock_fd = (int32_t)fd;
    return ZR_OK;
}

/* One that cannot be written now is written with the next snapshot. */
void zs_lock_mark(struct zr_inst *st)
{
    if (st->lock_marked) return;
    int64_t r = zl_io_write_all(st->io, st->lock_fd, LOCK_WORD, 4, 0);
    if (r >= 0) r = st->io->fdatasync(st->io->ctx, st->lock_fd);
    st->lock_marked = r >= 0;
}

void zs_lock_drop(struct zr_inst *st)
{
    if (st->lock_fd >= 0) st->io->close(st->io->ctx, st->lock_fd);
    st->lock_fd = -1;
}

uint32_t zs_abort_there(struct zr_inst *st)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    if (!zs_path(path, "%s/abort", st->conf.root)) return 1;
    int64_t r = st->io->stat(st->io->ctx, path, &stat);
    return r != -ENOENT; /* who cannot look takes it for there */
}

/* What tells this boot and this folder from others: "inode boot-id". Its length, 0: not to be had. */
static uint32_t life_of(struct zr_inst *st, char *to)
{
    struct zr_io_stat stat;
    char boot[37] = { 0 };
    if (st->lock_fd < 0 || st->io->fstat(st->io->ctx, st->lock_fd, &stat) < 0) return 0;
    int64_t fd = st->io->open(st->io->ctx, "/proc/sys/kernel/random/boot_id", ZR_IO_READ, 0);
    if (fd < 0) return 0;
    int64_t r = zl_io_read_all(st->io, (int32_t)fd, boot, 36, 0);
    st->io->close(st->io->ctx, (int32_t)fd);
    int n = r < 0 ? 0 : snprintf(to, LIFE, "%llu %s", (unsigned long long)stat.inode, boot);
    return n > 0 && n < (int)LIFE ? (uint32_t)n : 0;
}

uint32_t zs_abort_same_life(struct zr_inst *st)
{
    char path[ZS_PATH], life[LIFE];
    struct zl_buf text;
    struct zr_str rest, pid;
    uint32_t n = life_of(st, life), same = 0;
    if (n == 0 || !zs_path(path, "%s/abort", st->conf.root)) return 0;
    zl_buf_init(&text, 4096);
    if (zl_io_load(st->io, path, &text) > 0) {
        rest = zl_buf_as_str(&text);
        same = zl_split(&rest, ' ', &pid) && zl_eq(rest, (struct zr_str){ life, n });
    }
    zl_buf_free(&text);
    return same;
}

int64_t zs_abort_make(struct zr_inst *st)
{
    char path[ZS_PATH], text[24 + LIFE];
    if (!zs_path(path, "%s/abort", st->conf.root)) return -ENAMETOOLONG;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_TRUNC, 0644);
    if (fd < 0) return fd;
    uint32_t n = zl_print_i64(text, getpid()), life = life_of(st, text + n + 1);
    if (life) {
        text[n] = ' ';
        n += life + 1;
    }
    int64_t r = zl_io_write_all(st->io, (int32_t)fd, text, n, 0);
    if (r == -ENOSPC || r == -EDQUOT) r = 0; /* its name is what counts */
    if (r >= 0) r = st->io->fsync(st->io->ctx, (int32_t)fd);
    st->io->close(st->io->ctx, (int32_t)fd);
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, st->conf.root);
    return r < 0 ? r : 0;
}

int64_t zs_abort_drop(struct zr_inst *st)
{
    char path[ZS_PATH];
    if (!zs_path(path, "%s/abort", st->conf.root)) return -ENAMETOOLONG;
    int64_t r = st->io->unlink(st->io->ctx, path);
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, st->conf.root);
    return r == -ENOENT ? 0 : r;
}
