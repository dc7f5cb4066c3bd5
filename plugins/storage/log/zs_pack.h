/* SPDX-License-Identifier: Apache-2.0 */
/* zs_pack.h - the two forms of a segment, and the one way to its bytes.
 *
 * A segment is plain (a file of its full size, mapped) or, when the plugin brought a table of zs_pack_ops, packed: a file of
 * blocks that are brought into memory one by one. Everything that reads the log takes a hold: a stretch of bytes that stays
 * where it is until it is put back, whatever becomes of the segment or of its form meanwhile. Of a plain segment that is a
 * part of the mapping; of a packed one a block in the cache, or, for a stretch that no block has whole, a copy of its own.
 *
 * LOCKING (additions to the order in zs_int.h)
 *   pack.lock       the cache: its table, its list, each block's references and state. Leaf; not held while decompressing.
 *   pack.open_lock  opening of packed segments, one at a time; before segs.lock.
 *   pack.work_lock  the packing thread's wake-ups. Leaf.
 *   clean_lock      also held over the change from one form to the other, so that retention and it do not meet. */
#ifndef ZS_PACK_H
#define ZS_PACK_H
#include "zs_int.h"

#define ZS_PACKED ".zst" /* behind the plain file's name */

struct zs_block;
struct zs_pack {
    pthread_mutex_t lock, open_lock, work_lock;
    pthread_cond_t ready, ahead_done, work;
    struct zs_block **buckets;
    uint64_t n_buckets;
    struct zs_block *newest, *oldest;
    uint64_t bytes, max;
    struct zs_seg *ahead_seg; /* the job under way; pinned */
    uint32_t ahead_no, ahead_on;
    /* the packing thread, under work_lock but the first */
    _Atomic int64_t fit_at; /* flushed up to here, another segment is fit */
    uint32_t wake;
    uint32_t begun; /* that thread's alone, as what follows */
    uint32_t round; /* each segment is tried once in it */
    uint32_t n_failed, in_a_row; /* changes that failed in this round; without one between that did not */
};
struct zs_hold {
    int64_t from, to;    /* physical offsets [from, to) that it gives */
    const uint8_t *ptr;  /* the byte at from */
    uint64_t pin;        /* for zs_hold_put */
    struct zs_seg *seg;  /* plain: the segment, pinned; packed: NULL */
    int32_t fd;          /* plain: its file; packed: -1 */
};
static inline const uint8_t *zs_hold_at(const struct zs_hold *h, int64_t phys) { return h->ptr + (phys - h->from); }

/* ---- block.c ---- */
zr_status zs_pack_init(struct zr_inst *st);
void zs_pack_free(struct zr_inst *st);
/* 1: *ret holds [phys, phys + len); 0: it cannot be had (not there, or damaged, which was reported); ZS_HOLD_BUSY: nowait, and it
 * is not at hand; ZS_HOLD_LATER: it is there, but descriptors or memory are short (or a file cannot be opened). Of a plain
 * segment the whole is held, whether its pages are in memory or not. */
#define ZS_HOLD_BUSY (-1)
#define ZS_HOLD_LATER (-2)
#define ZS_HOLD_UNREAD (-3) /* it is there, and the disk does not give it */
int zs_hold_get(struct zr_inst *st, int64_t phys, uint64_t len, uint32_t nowait, struct zs_hold *ret);
void zs_hold_put(struct zr_inst *st, uint64_t pin);
/* Copies bytes of a pinned segment, through its file (plain) or its blocks (packed). 0 or -errno. */
int64_t zs_seg_read(struct zr_inst *st, struct zs_seg *seg, uint8_t *to, uint64_t len, int64_t off);
/* Has a pinned packed segment opened; 0: it cannot be. */
uint32_t zs_seg_pack_open(struct zr_inst *st, struct zs_seg *seg);
void zs_pack_ahead_wait(struct zr_inst *st); /* until no reading ahead is under way */
void zs_seg_pack_close(struct zr_inst *st, struct zs_seg *seg); /* under segs.lock */

/* ---- pack.c ---- */
/* Of two forms of a segment that a start finds: which is read? BOTH: the packed one, but the plain one stays too. Or -errno. plain_fits:
 * the plain one has a segment's size. */
#define ZS_TWIN_PLAIN 0
#define ZS_TWIN_PACKED 1
#define ZS_TWIN_BOTH 2
int zs_pack_twins(struct zr_inst *st, const char *packed, const char *plain, int64_t base, uint32_t plain_fits);
void zs_pack_main(void *arg);
/* One step of that thread: 0: there was nothing to change; 1: a segment was changed, or is never to be; 2: its change failed, the
 * next one may do better; -1: there is nothing to do but to try again later. */
int zs_pack_step(struct zr_inst *st);
void zs_pack_stop(struct zr_inst *st);
/* The log is flushed up to position: a segment may have become fit for packing. */
void zs_pack_flushed(struct zr_inst *st, int64_t position);

/* ---- segment.c ---- */
uint32_t zs_seg_packed_path(struct zr_inst *st, int64_t base, char *to);
/* Puts the other form's entry in place of seg, which ends with its last pin. 0: no memory, or seg is no longer in the table. */
uint32_t zs_seg_swap(struct zr_inst *st, struct zs_seg *seg, uint32_t packed, int64_t mtime_ns);
/* Pins the first segment within [from, to) that has this form, no damage that bars it from the other, did not fail in this round,
 * and lies in a folder that may be written to; NULL: none. For the packing thread. */
struct zs_seg *zs_seg_find_form(struct zr_inst *st, int64_t from, int64_t to, uint32_t packed, uint32_t round);
int64_t zs_seg_mtime_ns(struct zr_inst *st, int64_t base); /* last write, of whichever form; -1: not there */
#endif
