/* SPDX-License-Identifier: Apache-2.0 */
/* names.c - whether the files of the store still stand under their names. Somebody may remove or replace them under the running
 * broker; an open or mapped file goes on as if nothing were, and only the next start would show what is lost.
 *
 *   The segment that is written to (or not flushed): looked at with each flush (flush.c) and each cleaning; the store goes
 *     read-only, for nothing that it took from then on would survive it.
 *   A sealed segment: looked at with each cleaning, LOOK_MAX of them in turn. It is named in the log, once. If it is open it stays
 *     open, so that its messages are still served and its bytes can be copied back by hand; when a file of its full size
 *     stands there again, that one is used. If it is not, its messages are passed over as any that are lost.
 *   A queue file: looked at when it is synced (not with very many queues at once, which are synced as one). It is named in the log
 *     and closed; its entries are made anew from the log as they are read.
 *
 * LOCKING: zs_names_look runs under clean_lock, so no retention comes between; segs.lock for seg->missing. */
#include <errno.h>
#include <unistd.h>
#include "zs_pack.h"

#define LOOK_MAX 1024u

#define IN_PLACE 0
#define REMOVED 1
#define REPLACED 2

/* Of an error nothing follows: then it is in place. fd: ours; -1: not open. */
static uint32_t place_of(struct zr_inst *st, const char *path, int32_t fd, uint64_t *ret_size)
{
    struct zr_io_stat named, ours;
    int64_t r = st->io->stat(st->io->ctx, path, &named);
    *ret_size = r < 0 ? 0 : named.size;
    if (r < 0) return r == -ENOENT || r == -ENOTDIR ? REMOVED : IN_PLACE;
    return fd >= 0 && st->io->fstat(st->io->ctx, fd, &ours) >= 0 && named.inode != ours.inode ? REPLACED : IN_PLACE;
}

uint32_t zs_seg_in_place(struct zr_inst *st, const struct zs_seg *seg)
{
    char path[ZS_PATH];
    uint64_t size;
    zs_seg_path(st, seg->base, path);
    return place_of(st, path, seg->fd, &size) == IN_PLACE;
}

static void seg_say(struct zr_inst *st, const struct zs_seg *seg, const char *path, uint32_t place)
{
    const char *what = place == REMOVED ? "removed" : "replaced";
    if (seg->fd >= 0)
        zs_log(st, ZR_LOG_ERROR, "%s was %s while the broker runs: its messages are served until it ends. Before that, copy it back: "
               "cp --sparse=always /proc/%ld/fd/%d %s", path, what, (long)getpid(), (int)seg->fd, path);
    else zs_log(st, ZR_LOG_ERROR, "%s was %s while the broker runs, and was not open: the messages in it are lost unless it is put back", path, what);
}

/* One that is not written to any more. Ours is the only pin that is not a reader's. */
static void seg_look(struct zr_inst *st, struct zs_seg *seg)
{
    char path[ZS_PATH];
    uint64_t size;
    if (seg->packed ? !zs_seg_packed_path(st, seg->base, path) : (zs_seg_path(st, seg->base, path), 0)) return;
    uint32_t place = place_of(st, path, seg->packed ? -1 : seg->fd, &size), said = seg->missing;
    uint32_t back = said == REMOVED && place != REMOVED && (seg->packed || size >= (uint64_t)st->segs.size);
    if (seg->gone || (place == IN_PLACE && !back) || (said && !back)) return;
    if (back && !zs_seg_reopen(st, seg)) return; /* a reader has it: next time */
    if (back) zs_log(st, ZR_LOG_WARN, "%s is there again, and is used", path);
    else seg_say(st, seg, path, place);
    zs_seg_missing(st, seg, back ? IN_PLACE : place);
}

void zs_names_look(struct zr_inst *st)
{
    for (uint32_t i = 0; i < LOOK_MAX; i++) {
        uint32_t unsynced;
        struct zs_seg *seg = zs_seg_behind(st, st->names_at, &unsynced);
        st->names_at = seg ? seg->base : -1;
        if (!seg) return;
        if (!unsynced) seg_look(st, seg);
        else if (!zs_seg_in_place(st, seg) && !seg->gone) zs_flush_lost(st);
        zs_seg_put(st, seg);
    }
}

void zs_qfile_look(struct zr_inst *st, struct zr_queue *q, int64_t from, int64_t to)
{
    int64_t per = st->conf.queue_file_size / ZS_ENTRY, no = from / per;
    if (q->first_file == ZS_NONE || atomic_load(&q->dead)) return;
    for (no = no < q->first_file ? q->first_file : no; no * per < to; no++) {
        char path[ZS_PATH];
        uint64_t size;
        struct zs_qfile *x = zs_qfile_hold(st, q, no);
        zs_qfile_path(st, q, no, path);
        uint32_t place = place_of(st, path, x ? x->fd : -1, &size);
        if (x) zs_qfile_let(st, x);
        if (place == IN_PLACE) continue;
        zs_log(st, ZR_LOG_ERROR, "%s was %s while the broker runs: its entries are made anew from the log as they are read", path,
               place == REMOVED ? "removed" : "replaced");
        zs_qfile_shut(st, q, no);
    }
}
