/* SPDX-License-Identifier: Apache-2.0 */
/* pack.c - the thread that changes sealed segments from one form to the other, one after another, behind everything else.
 *
 *   fit: sealed, wholly flushed, not among the newest pack_keep ──> other form written beside it, synced ──> compared byte for
 *   byte ──> renamed ──> folder synced ──> readers led to it ──> old form unlinked ──> folder synced
 *
 * What stays true:
 *   1. At every moment at least one whole form of a segment stands under its name. A name without .tmp is a whole form. Of two forms
 *      that differ none is unlinked or replaced while it has a whole record that the other lacks.
 *   2. The segment that is written to, and the one made ahead, are plain. Sends never wait for this thread.
 *   3. A change that fails (disk full, error, damage) leaves things as they were, and is tried again later, when all others
 *      had their turn: a page that cannot be read holds up no other segment. What is damaged is not tried again before a
 *      restart. Nothing depends on a change having been made.
 *   4. Readers of the old form go on with it; it ends with their last hold.
 *   5. Between pieces of work the thread waits as long as pack_rate asks for, and ends at once when the store stops. */
#include <errno.h>
#include <sys/resource.h>
#include <unistd.h>
#include "zs_pack.h"

#define RETRY_NS 10000000000ll /* after a failure; twice as long after each further one */
#define RETRY_MAX_NS 600000000000ll
#define IN_A_ROW 8u            /* failures, after which the next segment waits too: the fault is not in one of them */
#define BEHIND 10              /* nice value */
#define PIECES 64u             /* looks at the rate for each second's worth of bytes */

struct change {
    struct zr_inst *st;
    struct zs_seg *seg;
    int64_t base;
    int64_t began_ns;
    uint64_t done, looked;
    uint32_t no_space;
    char plain[ZS_PATH], packed[ZS_PATH], temporary[ZS_PATH];
};

void zs_pack_flushed(struct zr_inst *st, int64_t position)
{
    struct zs_pack *c = st->pack;
    if (position < atomic_load(&c->fit_at)) return;
    atomic_store(&c->fit_at, INT64_MAX);
    pthread_mutex_lock(&c->work_lock);
    c->wake = 1;
    pthread_cond_signal(&c->work);
    pthread_mutex_unlock(&c->work_lock);
}

void zs_pack_stop(struct zr_inst *st)
{
    if (!st->pack) return;
    pthread_mutex_lock(&st->pack->work_lock);
    pthread_cond_broadcast(&st->pack->work);
    pthread_mutex_unlock(&st->pack->work_lock);
}

/* A change must not take the space that messages need: it ends before the disk is full. */
static uint32_t has_space(struct change *ch)
{
    struct zr_inst *st = ch->st;
    struct zr_io_disk disk;
    uint64_t floor = (uint64_t)st->segs.size / 8;
    if (st->io->disk(st->io->ctx, zs_dir_of(st, ch->base), &disk) < 0 || disk.available >= floor) return 1;
    ch->no_space = 1;
    return 0;
}

/* The rate: waits until the bytes that were done may have been done. */
static uint32_t pace(void *arg, uint64_t bytes)
{
    struct change *ch = arg;
    struct zr_inst *st = ch->st;
    ch->done += bytes;
    if ((ch->done - ch->looked) * PIECES < (uint64_t)st->conf.pack_rate) return atomic_load(&st->stopping);
    ch->looked = ch->done;
    int64_t due = ch->began_ns + (int64_t)((double)ch->done / (double)st->conf.pack_rate * 1e9);
    pthread_mutex_lock(&st->pack->work_lock);
    while (!atomic_load(&st->stopping)) {
        int64_t left = due - zs_mono(st);
        if (left <= 0) break;
        zs_cond_wait_ns(&st->pack->work, &st->pack->work_lock, left);
    }
    pthread_mutex_unlock(&st->pack->work_lock);
    return atomic_load(&st->stopping) || ch->base < atomic_load(&st->begin) || (ch->temporary[0] && !has_space(ch));
}

/* Retention took the segment meanwhile: that its file is not there, or anything else that followed, is no failure. */
static uint32_t is_taken(struct change *ch)
{
    pthread_mutex_lock(&ch->st->clean_lock); /* its name goes before begin moves */
    uint32_t taken = ch->base < atomic_load(&ch->st->begin);
    pthread_mutex_unlock(&ch->st->clean_lock);
    return taken;
}

static int64_t unlink_there(struct zr_inst *st, const char *path)
{
    int64_t r = st->io->unlink(st->io->ctx, path);
    return r == -ENOENT ? 0 : r;
}

/* The change becomes visible: temporary (if any) gets its name, readers are led there, the old form goes. */
static int64_t change_over(struct change *ch, uint32_t packed)
{
    struct zr_inst *st = ch->st;
    struct zs_pack_info info = { 0 };
    const char *name = packed ? ch->packed : ch->plain, *old = packed ? ch->plain : ch->packed;
    uint32_t swapped = 0;
    pthread_mutex_lock(&st->clean_lock); /* retention may have taken the segment meanwhile, and must not take it just now */
    int64_t r = ch->base < atomic_load(&st->begin) ? -ECANCELED : 0;
    if (r >= 0 && ch->temporary[0]) r = st->io->rename(st->io->ctx, ch->temporary, name);
    if (r >= 0) ch->temporary[0] = 0;
    if (r >= 0) r = zs_dirs_sync(st);
    if (r >= 0 && packed) r = st->conf.pack->peek(st->io, name, &info);
    if (r >= 0) r = (swapped = zs_seg_swap(st, ch->seg, packed, info.mtime_ns)) ? 0 : -ENOMEM;
    if (r >= 0) r = unlink_there(st, old); /* if it cannot go now, the next start sees to it: both forms are whole */
    if (swapped && r < 0)
        zs_log(st, ZR_LOG_WARN, "%s has its other form, and cannot be deleted: %s; the next start does it", old, zs_errno_text(r));
    if (r >= 0) r = zs_dirs_sync(st);
    pthread_mutex_unlock(&st->clean_lock);
    return swapped ? 0 : r;
}

#define DIFFER (-EEXIST) /* two forms, and each has records that the other lacks */

/* What an interrupted change left: the packed form may be there already. 1: it is, and the same; 0: it is to be made (again). */
static int64_t packed_already(struct change *ch, const struct zs_pace *p)
{
    struct zr_inst *st = ch->st;
    struct zr_io_stat stat;
    struct zs_pack_info info;
    int64_t r = st->io->stat(st->io->ctx, ch->packed, &stat);
    if (r < 0) return r == -ENOENT ? 0 : r;
    r = st->conf.pack->peek(st->io, ch->packed, &info);
    if (r >= 0) r = info.base == ch->base ? st->conf.pack->compare(st->io, ch->packed, ch->plain, p) : -EBADMSG;
    if (r != -EBADMSG) return r < 0 ? r : 1;
    r = st->conf.pack->lacks(st->io, ch->packed, ch->plain, ch->base, 0, p);
    if (r != 0) return r > 0 || r == -EBADMSG ? DIFFER : r;
    zs_log(st, ZR_LOG_WARN, "%s is not whole, and is made again from the plain segment, which has all of it", ch->packed);
    return 0; /* it goes when the new one takes its name */
}

static int64_t pack_one(struct change *ch)
{
    struct zr_inst *st = ch->st;
    const struct zs_pack_ops *ops = st->conf.pack;
    const struct zs_pace p = { pace, ch };
    int64_t r = packed_already(ch, &p);
    if (r < 0) return r;
    if (r == 0) {
        if (!zs_path(ch->temporary, "%s.tmp", ch->packed)) return -ENAMETOOLONG;
        r = ops->pack(st->io, ch->plain, ch->temporary, ch->base, st->segs.size, &st->conf, &p);
        if (r >= 0) r = ops->compare(st->io, ch->temporary, ch->plain, &p);
    }
    return r < 0 ? r : change_over(ch, 1);
}

/* The plain form is there beside the packed one that is read: 1: and it is the same; 0: it is not there, or has nothing that the other lacks. */
static int64_t plain_already(struct change *ch, const struct zs_pace *p)
{
    struct zr_inst *st = ch->st;
    struct zr_io_stat stat;
    int64_t r = st->io->stat(st->io->ctx, ch->plain, &stat);
    if (r < 0) return r == -ENOENT ? 0 : r;
    r = st->conf.pack->compare(st->io, ch->packed, ch->plain, p);
    if (r != -EBADMSG) return r < 0 ? r : 1;
    r = st->conf.pack->lacks(st->io, ch->packed, ch->plain, ch->base, 1, p);
    return r > 0 ? DIFFER : r;
}

static int64_t expand_one(struct change *ch)
{
    struct zr_inst *st = ch->st;
    const struct zs_pack_ops *ops = st->conf.pack;
    const struct zs_pace p = { pace, ch };
    if (!zs_seg_pack_open(st, ch->seg)) return atomic_load(&ch->seg->damaged) ? -EBADMSG : -EIO; /* its readers must have it open before its name goes */
    int64_t r = plain_already(ch, &p);
    if (r < 0) return r;
    if (r == 0) {
        if (!zs_path(ch->temporary, "%s.tmp", ch->plain)) return -ENAMETOOLONG;
        r = ops->expand(st->io, ch->packed, ch->temporary, &p);
        if (r >= 0) r = ops->compare(st->io, ch->packed, ch->temporary, &p);
    }
    return r < 0 ? r : change_over(ch, 0);
}

static void tell(struct change *ch, int64_t r, uint32_t packed, uint64_t size)
{
    struct zr_inst *st = ch->st;
    int64_t ms = (zs_mono(st) - ch->began_ns) / 1000000;
    if (r == -ECANCELED) return;
    if (r >= 0) {
        zs_log(st, ZR_LOG_INFO, "segment %020lld was %s in %lld ms (%lld bytes packed of %lld)", (long long)ch->base,
               packed ? "packed" : "expanded", (long long)ms, (long long)size, (long long)st->segs.size);
        return;
    }
    if (r == DIFFER) {
        ch->seg->stays = 1;
        zs_log(st, ZR_LOG_ERROR, "%s and %s have different messages: both stay, and the %s one is read. `zaryactl store convert` makes one of both where that can be",
               ch->plain, ch->packed, packed ? "plain" : "packed");
    } else if (r == -EBADMSG) {
        if (packed) atomic_store(&ch->seg->damaged, 1);
        ch->seg->stays = 1;
        zs_log(st, ZR_LOG_ERROR, "segment %020lld cannot be %s: %s", (long long)ch->base, packed ? "packed" : "expanded",
               packed ? "what was written is not what it holds; it stays plain"
                      : "it is damaged; it stays packed (zaryactl store convert --accept-loss expands what is whole of it)");
    } else {
        zs_log(st, ZR_LOG_WARN, "segment %020lld cannot be %s now: %s", (long long)ch->base, packed ? "packed" : "expanded", zs_errno_text(r));
    }
}

/* What follows from a change that failed. A full disk is full for every segment. */
static int change_failed(struct zs_pack *c, struct zs_seg *seg, int64_t r)
{
    if (r == -EBADMSG || r == DIFFER) return 1;
    c->n_failed++;
    if (r == -ENOSPC || r == -ECANCELED) return -1;
    seg->failed_in = c->round;
    if (++c->in_a_row < IN_A_ROW) return 2;
    c->in_a_row = 0;
    return -1;
}

/* No segment is left that did not fail. */
static int round_end(struct zs_pack *c)
{
    uint32_t failed = c->n_failed;
    c->round++;
    c->n_failed = c->in_a_row = 0;
    return failed ? -1 : 0;
}

/* Changes one segment that is fit. The answer is zs_pack_step's. */
static int change_next(struct zr_inst *st)
{
    struct change ch = { .st = st, .began_ns = zs_mono(st) };
    struct zr_io_stat stat = { 0 };
    uint32_t busy, packed = st->conf.compress;
    int64_t to = zs_segs_last(st) - st->conf.pack_keep * st->segs.size, flushed = atomic_load(&st->flushed);
    if (!packed) to = INT64_MAX;
    else if (to > flushed) to = flushed;
    ch.seg = zs_seg_find_form(st, 0, to, !packed, st->pack->round);
    if (!ch.seg) return round_end(st->pack);
    ch.base = ch.seg->base;
    struct zs_seg *open = packed ? zs_seg_get(st, ch.base, 0, &busy) : NULL; /* opened: readers go on when its name is gone */
    int64_t r = packed && open != ch.seg ? -EIO : 0;
    zs_seg_path(st, ch.base, ch.plain);
    if (r >= 0 && !zs_seg_packed_path(st, ch.base, ch.packed)) r = -ENAMETOOLONG;
    if (r >= 0 && !packed && st->io->stat(st->io->ctx, ch.packed, &stat) < 0) stat.size = 0;
    if (r >= 0 && !has_space(&ch)) r = -ENOSPC;
    if (r >= 0) r = packed ? pack_one(&ch) : expand_one(&ch);
    uint32_t taken = r < 0 && is_taken(&ch);
    if (taken) r = -ECANCELED;
    else if (r == -ECANCELED && ch.no_space) r = -ENOSPC;
    if (r >= 0 && packed && st->io->stat(st->io->ctx, ch.packed, &stat) < 0) stat.size = 0;
    if (ch.temporary[0]) unlink_there(st, ch.temporary);
    tell(&ch, r, packed, stat.size);
    if (r >= 0) st->pack->in_a_row = 0;
    int did = r >= 0 || taken ? 1 : change_failed(st->pack, ch.seg, r);
    if (open) zs_seg_put(st, open);
    zs_seg_put(st, ch.seg);
    return did;
}

/* A packed file that an interrupted change left beside the plain one that is read. 1: it is gone. */
static uint32_t drop_twin(struct change *ch)
{
    struct zr_inst *st = ch->st;
    const struct zs_pack_ops *ops = st->conf.pack;
    const struct zs_pace p = { pace, ch };
    int64_t r = ops->compare(st->io, ch->packed, ch->plain, &p), more = r == -EBADMSG ? ops->lacks(st->io, ch->packed, ch->plain, ch->base, 0, &p) : r;
    if (more == 0) return unlink_there(st, ch->packed) >= 0;
    if (more > 0 || more == -EBADMSG)
        zs_log(st, ZR_LOG_ERROR, "%s and %s differ: both stay, and the plain one is read. `zaryactl store convert` settles it", ch->packed, ch->plain);
    return 0;
}

int zs_pack_twins(struct zr_inst *st, const char *packed, const char *plain, int64_t base, uint32_t plain_fits)
{
    const struct zs_pack_ops *ops = st->conf.pack;
    int64_t r = ops->compare(st->io, packed, plain, NULL);
    if (r >= 0) return ZS_TWIN_PLAIN;
    if (r != -EBADMSG) return (int)r;
    int64_t more = ops->lacks(st->io, packed, plain, base, 0, NULL);
    if (more == -EBADMSG || (more == 0 && plain_fits)) return ZS_TWIN_PLAIN;
    if (more < 0) return (int)more;
    int64_t less = ops->lacks(st->io, packed, plain, base, 1, NULL), bad = less == 0 ? ops->verify(st->io, packed, NULL) : 1;
    if (less < 0 || (bad < 0 && bad != -EBADMSG)) return (int)(less < 0 ? less : bad);
    if (less == 0 && bad == 0) return ZS_TWIN_PACKED;
    return less > more && plain_fits ? ZS_TWIN_PLAIN : ZS_TWIN_BOTH;
}

static void drop_twins(struct zr_inst *st)
{
    uint32_t n = 0;
    for (int64_t base = zs_segs_first(st); base >= 0 && !atomic_load(&st->stopping); base = zs_seg_next(st, base)) {
        struct change ch = { .st = st, .base = base, .began_ns = zs_mono(st) };
        struct zr_io_stat stat;
        uint32_t busy;
        if (zs_dir_read_only(st, base) || !zs_seg_packed_path(st, base, ch.packed) || st->io->stat(st->io->ctx, ch.packed, &stat) < 0) continue;
        ch.seg = zs_seg_get(st, base, 0, &busy);
        if (!ch.seg) continue;
        zs_seg_path(st, base, ch.plain);
        if (!ch.seg->packed) n += drop_twin(&ch);
        zs_seg_put(st, ch.seg);
    }
    if (n) zs_dirs_sync(st);
}

/* Until there may be something to do. ns 0: until woken. */
static void wait_work(struct zr_inst *st, int64_t ns)
{
    struct zs_pack *c = st->pack;
    pthread_mutex_lock(&c->work_lock);
    if (!c->wake && !atomic_load(&st->stopping)) {
        if (ns) zs_cond_wait_ns(&c->work, &c->work_lock, ns);
        else pthread_cond_wait(&c->work, &c->work_lock);
    }
    c->wake = 0;
    pthread_mutex_unlock(&c->work_lock);
}

/* The flusher is to wake us when the log is flushed up to the segment that is the newest now, or beyond it. */
static void ask_for_wake(struct zr_inst *st)
{
    int64_t last = zs_segs_last(st), flushed = atomic_load(&st->flushed), at = flushed < last ? last : last + st->segs.size;
    atomic_store(&st->pack->fit_at, at > flushed ? at : flushed + 1);
    zs_pack_flushed(st, atomic_load(&st->flushed)); /* it may have moved before it knew */
}

int zs_pack_step(struct zr_inst *st)
{
    if (!st->conf.compress && !st->pack->begun) drop_twins(st);
    st->pack->begun = 1;
    return change_next(st);
}

void zs_pack_main(void *arg)
{
    struct zr_inst *st = arg;
    int64_t retry_ns = RETRY_NS;
    setpriority(PRIO_PROCESS, (id_t)gettid(), BEHIND); /* of this thread alone; senders and readers come first */
    while (!atomic_load(&st->stopping)) {
        if (st->conf.compress) ask_for_wake(st);
        int did = zs_pack_step(st);
        if (did <= 0) wait_work(st, did < 0 ? retry_ns : 0);
        if (did == 1) retry_ns = RETRY_NS;
        else if (did < 0 && retry_ns < RETRY_MAX_NS) retry_ns *= 2;
    }
}
