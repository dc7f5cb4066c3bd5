/* SPDX-License-Identifier: Apache-2.0 */
/* ext.h - RocketMQ's extents of queues (enableConsumeQueueExt): see ext.c and ext_write.c.
 *
 * <root>/consumequeue_ext/<topic>/<queue>/<20 digits>, units back to back, big-endian, none across the end of a file:
 *     0 i16 size | 2 i64 tags code | 10 i64 store time | 18 i16 bytes of bit map | 20 bit map
 * Behind the last unit of a file i16 -1, for which (and two bytes more) there is always room. A queue entry has, in place of its
 * tags code, the unit's offset + INT64_MIN: values that no hash has. */
#ifndef ZS_EXT_H
#define ZS_EXT_H
#include "zarya/bits.h"
#include "zs_int.h"

#define ZS_EXT_ADDRESS (-2147483649ll) /* tags codes from here down are addresses */
#define ZS_EXT_HEAD 20u                /* bytes of a unit without a bit map */
#define ZS_EXT_MOST 32767u             /* bytes of any unit */
#define ZS_EXT_SPARE 4u                /* left free at a file's end */
#define ZS_EXT_FILE_SIZE (48ll << 20)  /* RocketMQ's */
#define ZS_EXT_WINDOW 8192u

struct zs_unit {
    int64_t tags, store_ms;
    const uint8_t *bits; /* NULL: none, or more than ZR_BITS_BYTES */
    uint32_t n_bits;     /* bytes */
    uint32_t size;
};
static inline int64_t zs_ext_offset(int64_t address) { return (int64_t)((uint64_t)address ^ (1ull << 63)); }
static inline int64_t zs_ext_address(int64_t offset) { return (int64_t)((uint64_t)offset ^ (1ull << 63)); }
/* The size of the unit whose head this is; 0: it is none. p has ZS_EXT_HEAD bytes. */
uint32_t zs_unit_head(const uint8_t *p, struct zs_unit *ret);
void zs_unit_store(uint8_t *to, const struct zs_unit *u); /* u->size bytes */
/* May these two bytes stand behind a unit that is followed by another one, or that is the last of its file? */
uint32_t zs_unit_behind(const uint8_t *p);

/* ---- ext.c ---- */
/* Looks whether there are any, and of which size their files are. At a start, before queues are read. */
void zs_ext_load(struct zr_inst *st);
uint32_t zs_ext_path(struct zr_inst *st, const struct zr_queue *q, int64_t no, char *to); /* of a file; no < 0: of the folder */

struct zs_ext_at { /* a reader, with what it read last */
    struct zr_inst *st;
    struct zr_queue *q;
    int64_t from;
    uint32_t len;
    uint8_t buf[ZS_EXT_WINDOW];
};
void zs_ext_open(struct zs_ext_at *x, struct zr_inst *st, struct zr_queue *q);
#define ZS_EXT_GOOD 1
#define ZS_EXT_NEWEST 0  /* nothing stands behind it, so that it may be cut: the record is to be asked */
#define ZS_EXT_BAD (-1)  /* missing or damaged; said once for each queue */
/* The unit at an address; bits are valid until the next call. */
int zs_ext_get(struct zs_ext_at *x, int64_t address, struct zs_unit *ret);
/* Puts the tags codes in place of addresses: from the extents, or from the records. what[i] (may be NULL) is 0, or: the unit's bit
 * map bars the consumer of bits (may be NULL); or: the code is not to be had, and an address still stands there. */
#define ZS_TAGS_BARRED 1u
#define ZS_TAGS_UNKNOWN 2u
void zs_tags_resolve(struct zr_inst *st, struct zr_queue *q, struct zs_entry *e, uint32_t n, const struct zr_bits *bits,
                     uint8_t *what);

/* ---- ext_write.c; under drain_lock, but zs_ext_sync, zs_ext_free ---- */
/* Gives n raw entries, which are about to be written to the queue's file, their extents, if such are to be written and can be. */
void zs_ext_write(struct zr_inst *st, struct zr_queue *q, uint8_t *raw, uint32_t n);
/* A sync of the queue: what of its units is not on disk yet; that it is; and the sync itself, without a lock. 0 or -errno. */
void zs_ext_sync_begin(struct zr_queue *q, int64_t *ret_from, int64_t *ret_to);
void zs_ext_sync_end(struct zr_queue *q);
int64_t zs_ext_sync(struct zr_inst *st, struct zr_queue *q, int64_t from, int64_t to);
/* Deletes the files that only entries before the queue's offset min lead to. How many. */
uint64_t zs_ext_retire(struct zr_inst *st, struct zr_queue *q, int64_t min);
void zs_ext_forget(struct zr_inst *st, struct zr_queue *q); /* the queue is dead: its files are no longer open */
void zs_ext_remove(struct zr_inst *st, struct zr_queue *q); /* all its files */
void zs_ext_free(struct zr_inst *st);
#endif
