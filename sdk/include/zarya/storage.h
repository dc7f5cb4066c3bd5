/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/storage.h - interface zarya.storage/1: the log, its queues, its index, and their recovery.
 *
 * A storage takes message views in batches, assigns queue and physical offsets, encodes RocketMQ records, owns every file of
 * the store, and gives back spans of records. The kernel never builds a record and never sees a file of the store.
 *
 * What stays true:
 *   1. Queue offsets of a queue are consecutive in the order of the appends; physical offsets only grow.
 *   2. Messages of one append call that are JOINED lie in one segment, with consecutive queue offsets.
 *   3. A message counts as stored when append said ZR_OK for it; it is durable when the flushed watermark reached its end.
 *   4. read gives only what is visible: up to written under async flush, up to flushed under sync flush.
 *   5. After a flush failed, nothing is reported flushed beyond it; the store is read-only from then on.
 *   6. A record's bytes are what clients get, whatever form it has on disk (a compressed storage gives decompressed spans). */
#ifndef ZARYA_STORAGE_H
#define ZARYA_STORAGE_H
#include "zarya/abi.h"
#include "zarya/bits.h"
#include "zarya/filter.h"
#include "zarya/message.h"
#include "zarya/transport.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_IF_STORAGE "zarya.storage/1"

/* What a read came to; RocketMQ's GetMessageStatus. */
#define ZR_READ_FOUND 0u
#define ZR_READ_NO_MATCHED_MESSAGE 1u
#define ZR_READ_MESSAGE_WAS_REMOVING 2u
#define ZR_READ_OFFSET_FOUND_NULL 3u
#define ZR_READ_OFFSET_OVERFLOW_BADLY 4u
#define ZR_READ_OFFSET_OVERFLOW_ONE 5u
#define ZR_READ_OFFSET_TOO_SMALL 6u
#define ZR_READ_NO_MATCHED_LOGIC_QUEUE 7u
#define ZR_READ_NO_MESSAGE_IN_QUEUE 8u

#define ZR_READ_NOWAIT 0x1u /* answer ZR_EAGAIN instead of waiting for the disk */

struct zr_read {
    struct zr_hdr hdr;
    struct zr_queue *queue;          /* or NULL with topic and queue_id */
    struct zr_str topic;
    const struct zr_filter_v1 *filter; /* NULL: everything matches */
    const struct zr_prog *prog;
    int64_t offset;                  /* first wanted queue offset */
    struct zr_piece *pieces;         /* the caller's array for the answer */
    uint32_t cap_pieces;             /* at least 1; a read ends when it is full */
    int32_t queue_id;
    uint32_t max_messages;
    uint32_t max_bytes;              /* 0: the storage's own limits (256 KiB hot, 64 KiB cold) */
    uint32_t max_scan;               /* entries looked at; 0: the storage's own (at least 800, more where tags decide) */
    uint32_t flags;                  /* ZR_READ_NOWAIT */
    const struct zr_bits *bits;      /* NULL: none. What the filter has to ask is judged by the message's bit map first, if it has one */
};
struct zr_read_result {
    struct zr_hdr hdr;
    int64_t next_offset, min_offset, max_offset;
    uint64_t bytes;      /* in all pieces */
    uint64_t pin;        /* holds the pieces valid until unpin; 0: nothing to unpin */
    uint32_t what;       /* ZR_READ_FOUND ... */
    uint32_t n_pieces;   /* runs of whole records, back to back */
    uint32_t n_messages;
    uint32_t n_filtered;
    uint32_t far_behind; /* 1: the data lies further back than memory is likely to reach (suggests a replica) */
    uint32_t reserved;
};

/* What a durability mode looks at; positions are physical offsets. */
struct zr_positions {
    struct zr_hdr hdr;
    int64_t begin;    /* first byte still there */
    int64_t written;  /* end of the log in the page cache */
    int64_t flushed;  /* end of what is on disk */
    int64_t visible;  /* end of what consumers may see */
    int64_t dispatched; /* end of what queues and index know */
};

struct zr_storage_info {
    struct zr_hdr hdr;
    struct zr_positions positions;
    int64_t earliest_ms;     /* store time of the oldest message, -1: none */
    uint64_t n_topics, n_queues;
    uint64_t disk_total, disk_available; /* of the log's file system */
    double log_disk_ratio, queue_disk_ratio; /* used share 0..1, -1 unknown */
    struct zr_str log_path, queue_path; /* static */
    uint32_t writable;       /* 0: refuses appends */
    uint32_t sync;           /* 1: visible follows flushed */
    struct zr_str why_not;   /* while not writable: the reason; static until it changes */
};

/* What a key given to find_key is. */
#define ZR_KEY_PLAIN 0u  /* a word of KEYS */
#define ZR_KEY_UNIQUE 1u /* UNIQ_KEY */
#define ZR_KEY_TAG 2u    /* TAGS */

struct zr_storage_v1 {
    struct zr_hdr hdr;

    /* ---- writing ---------------------------------------------------------------------------------------------------- */
    /* Appends n messages (step: msgs->hdr.size) and fills puts (step: puts->hdr.size), each on its own: one illegal message
     * does not stop the others, except that of JOINED ones none is stored. *ret_end is the log's end behind the last one. One
     * short lock, one write to the page cache; never waits for the disk. Also answers when every put failed. */
    ZR_ON(any) void (*append)(struct zr_inst *inst, const struct zr_msg *msgs, uint32_t n, struct zr_put *puts, int64_t *ret_end);
    /* Asks for a flush that covers position; the watermark is announced through zarya.durability/1. */
    ZR_ON(any) void (*want_flushed)(struct zr_inst *inst, int64_t position);

    /* ---- queues ------------------------------------------------------------------------------------------------------ */
    /* The handle of a queue, made if create is set (in memory; a file comes with the first entry). Handles stay valid for the
     * life of the instance; that of a removed topic is dead: appends to it answer ZR_ENOENT, reads see an empty queue. */
    ZR_ON(any) struct zr_queue *(*queue)(struct zr_inst *inst, struct zr_str topic, int32_t queue_id, uint32_t create);
    /* First available and next free visible queue offset; both 0 for NULL. */
    ZR_ON(any) void (*bounds)(struct zr_inst *inst, struct zr_queue *queue, int64_t *ret_min, int64_t *ret_max);
    /* Reads records. ZR_OK: *ret is filled, whatever `what` says. ZR_EAGAIN only with ZR_READ_NOWAIT: do it again on a worker. */
    ZR_ON(any) zr_status (*read)(struct zr_inst *inst, const struct zr_read *req, struct zr_read_result *ret);
    ZR_ON(any) void (*unpin)(struct zr_inst *inst, uint64_t pin);
    /* The queue offset for a store time (ms). upper 0: the first at or after; 1: the last at or before. Clamped to the bounds.
     * ZR_EAGAIN, ZR_ENOMEM, ZR_EIO: as record_at; the search needs a record that cannot be had now. */
    ZR_ON(worker) zr_status (*offset_at)(struct zr_inst *inst, struct zr_queue *queue, int64_t store_ms, uint32_t upper, int64_t *ret_offset);
    /* The store time (ms) of the message at a queue offset; ZR_ENOENT, or as record_at. */
    ZR_ON(worker) zr_status (*time_at)(struct zr_inst *inst, struct zr_queue *queue, int64_t offset, int64_t *ret_store_ms);
    /* 1 when the entry and its record are there and in memory (RocketMQ's "young queue" rule). */
    ZR_ON(any) uint32_t (*resident)(struct zr_inst *inst, struct zr_queue *queue, int64_t offset);
    /* Raw queue entries from offset on: fills up to cap triples; returns how many. For tools (code 321). */
    ZR_ON(worker) uint32_t (*entries)(struct zr_inst *inst, struct zr_queue *queue, int64_t offset, int64_t *physical, uint32_t *sizes, int64_t *tag_codes, uint32_t cap);
    /* Calls each for every queue known, on this thread; stops when each returns non-zero. */
    ZR_ON(worker) void (*each_queue)(struct zr_inst *inst, int32_t (*each)(void *ctx, struct zr_str topic, int32_t queue_id, struct zr_queue *queue), void *ctx);
    /* Removes a topic's queues for good. Its records stay in the log until retention takes them, and never come back. */
    ZR_ON(worker) zr_status (*remove_topic)(struct zr_inst *inst, struct zr_str topic);

    /* ---- looking up ---------------------------------------------------------------------------------------------------- */
    /* The record that begins at a physical offset (checked), as one piece, held by *ret_pin. For good: ZR_ENOENT, none begins
     * there (any more), and ZR_ECORRUPT, one does and is damaged. For now, so that the caller may try again later: ZR_EAGAIN, it is not
     * visible yet or descriptors or memory are short, ZR_ENOMEM, and ZR_EIO, the disk did not give it. */
    ZR_ON(worker) zr_status (*record_at)(struct zr_inst *inst, int64_t physical, struct zr_piece *ret_piece, uint64_t *ret_pin);
    /* Physical offsets of records with topic and key (by hash: others may be among them) and store time within [begin, end],
     * newest first. kind: one of ZR_KEY_. Returns how many; ZR_ENOTSUP < 0 without an index. It looks at a bounded number of
     * entries: where more lie before those that are given, they are found by asking for the time before. */
    ZR_ON(worker) int32_t (*find_key)(struct zr_inst *inst, struct zr_str topic, struct zr_str key, uint32_t kind, int64_t begin_ms, int64_t end_ms, int64_t *physical, uint32_t cap);

    /* ---- state -------------------------------------------------------------------------------------------------------- */
    ZR_ON(any) void (*info)(struct zr_inst *inst, struct zr_storage_info *ret);
    /* Deletes what retention allows, now. *ret_removed: files. */
    ZR_ON(worker) zr_status (*clean)(struct zr_inst *inst, uint64_t *ret_removed);
    /* Whether the disk is to read on behind what is asked of it; until the next start. NULL: ZR_ENOTSUP. */
    ZR_ON(any) zr_status (*read_ahead)(struct zr_inst *inst, uint32_t on);
};
#ifdef __cplusplus
}
#endif
#endif
