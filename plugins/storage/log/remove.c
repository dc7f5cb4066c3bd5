/* SPDX-License-Identifier: Apache-2.0 */
/* remove.c - removing a topic: its queues leave the table, the note of it goes to the disk, its folder goes away.
 *
 * The order makes it final: no entry can be added from the mark on, the note is on disk before the first file goes, and
 * records before the mark are passed over by every later recovery. The topic may be made again at any moment: its folder is
 * renamed to <root>/zarya/gone/ in the same hold of drain_lock in which its queues left the table, so no entry of the new
 * topic can be in it; the deleting is done outside of all locks. What a killed process left in gone/ is deleted by the first
 * round of retention. */
#include "bcq.h"
#include "ext.h"
#include <errno.h>
#include <stdlib.h>

#define DEPTH 4 /* gone/<number>/<queue>/<file>, and one to spare */

static int32_t name_add(void *ctx, const char *name)
{
    struct zl_buf *names = ctx;
    zl_buf_add(names, name, strlen(name) + 1);
    return names->failed;
}

static void delete_tree(struct zr_inst *st, const char *path, int depth)
{
    struct zl_buf names;
    char below[ZS_PATH];
    zl_buf_init(&names, 64u << 20);
    if (depth > 0 && st->io->list(st->io->ctx, path, name_add, &names) >= 0) {
        for (uint64_t at = 0; at < names.len; at += strlen((char *)names.ptr + at) + 1)
            if (zs_path(below, "%s/%s", path, (char *)names.ptr + at) && st->io->unlink(st->io->ctx, below) < 0)
                delete_tree(st, below, depth - 1);
        st->io->rmdir(st->io->ctx, path);
    }
    zl_buf_free(&names);
}

void zs_gone_sweep(struct zr_inst *st)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    if (zs_path(path, "%s/gone", st->own_dir) && st->io->stat(st->io->ctx, path, &stat) >= 0) delete_tree(st, path, DEPTH);
}

/* Moves the topic's folder below dir out of the way; to is where. 0: it could not be. Under drain_lock. */
static uint32_t move_away(struct zr_inst *st, const char *dir, struct zr_str topic, int64_t position, char *to)
{
    char from[ZS_PATH], gone[ZS_PATH];
    if (!zs_path(gone, "%s/gone", st->own_dir)) return 0;
    int64_t r = st->io->mkdir(st->io->ctx, gone, 0755);
    if (r < 0 && r != -EEXIST) return 0;
    if (!zs_path(from, "%s/%.*s", dir, (int)topic.len, topic.ptr)) return 0;
    if (!zs_path(to, "%s/%lld-%llu", gone, (long long)position, (unsigned long long)st->n_removals++)) return 0;
    if (st->io->rename(st->io->ctx, from, to) < 0) return 0;
    st->io->sync_dir(st->io->ctx, dir); /* only so that less has to be done after a power failure */
    return 1;
}

/* Takes the files of these queues out of the way of a topic of the same name. Under drain_lock. 0 or -errno. */
static int64_t remove_files(struct zr_inst *st, struct zr_str topic, struct zr_queue **gone, uint64_t n, int64_t position, char *moved,
                            char *extents)
{
    int64_t worst = 0;
    for (uint64_t i = 0; i < n; i++) {
        zs_qfile_forget(st, gone[i]);
        zs_ext_forget(st, gone[i]);
    }
    if (!st->ext_there || !move_away(st, st->ext_dir, topic, position, extents)) {
        extents[0] = 0;
        for (uint64_t i = 0; i < n; i++) zs_ext_remove(st, gone[i]);
    }
    if (!move_away(st, st->queue_dir, topic, position, moved)) {
        moved[0] = 0;
        for (uint64_t i = 0; i < n; i++) {
            int64_t one = zs_qfiles_remove(st, gone[i]);
            if (one < 0) worst = one;
        }
    }
    for (uint64_t i = 0; i < n; i++) gone[i]->first_file = gone[i]->last_file = ZS_NONE;
    return worst;
}

/* The queues leave the table, and what is theirs the folder. *ret_n: how many there were. 0 or -errno. */
static int64_t take_away(struct zr_inst *st, struct zr_str topic, uint64_t *ret_n, int64_t *ret_position, char *moved, char *extents)
{
    moved[0] = extents[0] = 0;
    *ret_n = 0;
    pthread_mutex_lock(&st->drain_lock);
    pthread_mutex_lock(&st->append_lock);
    struct zr_queue **gone = zs_queues_take(st, topic, ret_n);
    for (uint64_t i = 0; gone && i < *ret_n; i++) {
        atomic_store(&gone[i]->dead, 1);
        zs_queue_bury(st, gone[i]);
    }
    *ret_position = atomic_load(&st->end);
    pthread_mutex_unlock(&st->append_lock);
    int64_t r = gone ? 0 : -ENOMEM;
    if (gone && *ret_n) {
        r = zs_removed_add(st, topic, *ret_position);
        int64_t files = remove_files(st, topic, gone, *ret_n, *ret_position, moved, extents);
        zs_bcq_remove(st, topic);
        if (r < 0 && r != -ENOMEM) r = zs_removed_save(st); /* on a full disk the files may have made room for the note */
        if (r >= 0) r = files;
    }
    free(gone);
    pthread_mutex_unlock(&st->drain_lock);
    return r;
}

static uint32_t has_folder(struct zr_inst *st, const char *dir, struct zr_str topic)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    return zs_path(path, "%s/%.*s", dir, (int)topic.len, topic.ptr) && st->io->stat(st->io->ctx, path, &stat) >= 0;
}

void zs_remove_finish(struct zr_inst *st)
{
    uint64_t n, used = 0;
    uint32_t done = 0;
    char moved[ZS_PATH];
    struct zr_str topic = zs_removed_last(st);
    if (!topic.len) return;
    uint32_t queues = has_folder(st, st->queue_dir, topic), extents = st->ext_there && has_folder(st, st->ext_dir, topic);
    if (!queues && !extents) return;
    struct zr_queue **list = zs_queues_list(st, &n);
    for (uint64_t i = 0; list && i < n; i++) used += zl_eq((struct zr_str){ list[i]->topic, list[i]->topic_len }, topic);
    if (list && !used && extents) done |= move_away(st, st->ext_dir, topic, atomic_load(&st->end), moved);
    if (list && !used && queues) done |= move_away(st, st->queue_dir, topic, atomic_load(&st->end), moved);
    if (done) zs_log(st, ZR_LOG_INFO, "topic %.*s was removed, but its folder was still there: deleted now", (int)topic.len, topic.ptr);
    free(list);
}

zr_status zs_remove_topic(struct zr_inst *st, struct zr_str topic)
{
    uint64_t n;
    int64_t position;
    char moved[ZS_PATH], extents[ZS_PATH];
    if (zs_queue_name_ok(topic) != ZR_OK) return ZR_EINVAL;
    int64_t r = take_away(st, topic, &n, &position, moved, extents);
    if (extents[0]) delete_tree(st, extents, DEPTH - 1);
    if (moved[0]) delete_tree(st, moved, DEPTH - 1);
    if (r < 0)
        return zs_raise(st, zs_status_of(r), r, "topic %.*s could not be removed wholly: %s", (int)topic.len, topic.ptr, zs_errno_text(r));
    zs_log(st, ZR_LOG_INFO, "topic %.*s with %llu queues was removed at %lld", (int)topic.len, topic.ptr, (unsigned long long)n,
           (long long)position);
    return ZR_OK;
}
