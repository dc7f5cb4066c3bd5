/* SPDX-License-Identifier: Apache-2.0 */
/* zs.h - the store library seen from outside: RocketMQ's commit log, consume queues, hash index and their recovery.
 *
 * A storage plugin fills zs_conf from its options, makes a store with zs_create, and puts the functions below into its
 * zr_storage_v1. The store is the plugin's struct zr_inst. Thread words and meanings are those of zarya/storage.h. */
#ifndef ZS_H
#define ZS_H
#include "zarya/io.h"
#include "zarya/plugin.h"
#include "zarya/storage.h"

#define ZS_MAX_LEVELS 64u

/* A second form of sealed segments (storage-zstd), made and read by a library of the plugin's: this one knows nothing of how.
 * Answers are >= 0 or -errno; -EBADMSG: damaged. Offsets are in the segment. pace is called after each piece of work and
 * may wait; not 0: stop with -ECANCELED. Any thread. */
struct zs_packed; /* an open one, the library's own */
struct zs_pack_info {
    int64_t base, raw_size, mtime_ns; /* of the plain form */
    uint64_t size;                    /* of the packed file */
};
struct zs_pace {
    uint32_t (*call)(void *arg, uint64_t bytes);
    void *arg;
};
struct zs_conf;
struct zs_pack_ops {
    int64_t (*peek)(const struct zr_io_v1 *io, const char *path, struct zs_pack_info *ret);
    int64_t (*open)(const struct zr_io_v1 *io, const char *path, struct zs_packed **ret, const char **ret_why);
    void (*close)(struct zs_packed *p);
    uint32_t (*blocks)(const struct zs_packed *p);
    uint32_t (*block_of)(const struct zs_packed *p, int64_t off, int64_t *ret_from, int64_t *ret_to);
    void (*block_at)(const struct zs_packed *p, uint32_t no, int64_t *ret_from, int64_t *ret_to);
    int64_t (*block_read)(struct zs_packed *p, uint32_t no, uint8_t *to); /* whole, and checked */
    /* The checksums of the file, nothing decompressed: how many blocks are damaged. */
    int64_t (*verify)(const struct zr_io_v1 *io, const char *path, const struct zs_pace *pace);
    int64_t (*pack)(const struct zr_io_v1 *io, const char *plain, const char *to, int64_t base, int64_t size,
                    const struct zs_conf *conf, const struct zs_pace *pace);
    int64_t (*expand)(const struct zr_io_v1 *io, const char *packed, const char *to, const struct zs_pace *pace);
    int64_t (*compare)(const struct zr_io_v1 *io, const char *packed, const char *plain, const struct zs_pace *pace);
    /* How many whole records one of two forms of a segment has that the other lacks; -EBADMSG: that cannot be told. */
    int64_t (*lacks)(const struct zr_io_v1 *io, const char *packed, const char *plain, int64_t base, uint32_t of_plain, const struct zs_pace *pace);
};

#define ZS_AHEAD_ON 0u
#define ZS_AHEAD_OFF 1u
#define ZS_AHEAD_AGAIN 2u /* it was off: files may still be told so */
struct zs_conf {
    const char *root;    /* the store's folder, absolute */
    const char *log_dir; /* the log's folder, or several joined by commas, or "" for <root>/commitlog */
    const char *log_dirs_read_only; /* folders of the log that take no new files, joined by commas, or "" or NULL */
    uint32_t sync;       /* 1: visible follows flushed */
    uint32_t preallocate; /* 1: segments that are made ahead are written with zeroes first */
    uint32_t index;      /* 1: keep hash index files */
    uint32_t property_crc; /* 1: records end in a checksum of all of them (enabledAppendPropCRC) */
    uint32_t extents;    /* 1: write extents of queues, RocketMQ's consumequeue_ext (those there are are read anyway) */
    uint32_t property_crc_check; /* 1: a recovery takes no record with a wrong one (forceVerifyPropCRC) */
    uint32_t read_ahead; /* ZS_AHEAD_, atomic */
    uint32_t clean_forcibly; /* 1: delete segments before their age when the disk is fuller than ratio_force */
    int64_t flush_interval_ms;
    int64_t checkpoint_interval_ms;
    int64_t segment_size;
    int64_t queue_file_size; /* a multiple of 20 */
    int64_t extent_file_size;
    int64_t max_message_size;
    int64_t index_slots, index_entries;
    int64_t retention_hours;
    int64_t retention_bytes; /* of the log; 0: no limit */
    int64_t clean_interval_ms;
    int64_t max_hot_bytes, max_hot_messages, max_cold_bytes, max_cold_messages;
    int64_t max_open_queue_files, max_open_segments;
    int64_t max_tail_bytes; /* queue entries kept in memory before an appender must help writing them */
    double ratio_memory;    /* share of physical memory that the log's tail is likely to occupy */
    double ratio_clean, ratio_force, ratio_refuse; /* used shares of the disk: delete expired, delete any, refuse appends */
    uint32_t delete_hours;  /* bit h: hour h of the local day */
    uint32_t n_levels;
    const struct zs_pack_ops *pack; /* NULL: sealed segments stay as they are, and a log with packed ones is refused */
    uint32_t compress;              /* 1: pack sealed segments; 0: expand packed ones. One by one, behind everything else */
    uint32_t pack_level, pack_dict_size, pack_block_size;
    int64_t pack_keep;              /* the newest sealed segments that stay plain */
    int64_t pack_rate;              /* bytes a second at most, of the plain form */
    int64_t pack_cache_bytes;
    int64_t max_open_packs;
    int64_t level_ms[ZS_MAX_LEVELS]; /* delays of SCHEDULE_TOPIC_XXXX, for entries made anew by a recovery */
};

/* Parses "04" or "04;16" (hours) and "1s 5s 10s 1m 2h" (delay levels). ZR_EINVAL. */
zr_status zs_parse_hours(struct zr_str text, uint32_t *ret_mask);
zr_status zs_parse_levels(struct zr_str text, int64_t *ret_ms, uint32_t *ret_n);

/* Memory only; conf is copied (its strings must live as long as the store). NULL: no memory or a service is missing. */
struct zr_inst *zs_create(const struct zr_host *host, const struct zs_conf *conf);
void zs_destroy(struct zr_inst *st);
const struct zr_host *zs_host(const struct zr_inst *st);
/* Takes the lock, recovers, starts the threads. What it took is given back when it fails. */
zr_status zs_warm(struct zr_inst *st);
void zs_activate(struct zr_inst *st);
/* No append is taken any more; done when all that was appended is flushed (or cannot be). */
void zs_drain(struct zr_inst *st, struct zr_done done);
void zs_cool(struct zr_inst *st);
/* Live settings: flush_interval_ms, retention_hours, retention_bytes, delete_hours, the ratios and the transfer limits. */
void zs_retune(struct zr_inst *st, const struct zs_conf *conf);

/* ---- zr_storage_v1 ---- */
void zs_append(struct zr_inst *st, const struct zr_msg *msgs, uint32_t n, struct zr_put *puts, int64_t *ret_end);
void zs_want_flushed(struct zr_inst *st, int64_t position);
struct zr_queue *zs_queue(struct zr_inst *st, struct zr_str topic, int32_t queue_id, uint32_t create);
void zs_bounds(struct zr_inst *st, struct zr_queue *q, int64_t *ret_min, int64_t *ret_max);
zr_status zs_read(struct zr_inst *st, const struct zr_read *req, struct zr_read_result *ret);
void zs_unpin(struct zr_inst *st, uint64_t pin);
zr_status zs_offset_at(struct zr_inst *st, struct zr_queue *q, int64_t store_ms, uint32_t upper, int64_t *ret_offset);
zr_status zs_time_at(struct zr_inst *st, struct zr_queue *q, int64_t offset, int64_t *ret_store_ms);
uint32_t zs_resident(struct zr_inst *st, struct zr_queue *q, int64_t offset);
uint32_t zs_entries(struct zr_inst *st, struct zr_queue *q, int64_t offset, int64_t *physical, uint32_t *sizes,
                    int64_t *tag_codes, uint32_t cap);
void zs_each_queue(struct zr_inst *st,
                   int32_t (*each)(void *ctx, struct zr_str topic, int32_t queue_id, struct zr_queue *queue), void *ctx);
zr_status zs_remove_topic(struct zr_inst *st, struct zr_str topic);
zr_status zs_record_at(struct zr_inst *st, int64_t physical, struct zr_piece *ret_piece, uint64_t *ret_pin);
int32_t zs_find_key(struct zr_inst *st, struct zr_str topic, struct zr_str key, uint32_t kind, int64_t begin_ms,
                    int64_t end_ms, int64_t *physical, uint32_t cap);
void zs_info(struct zr_inst *st, struct zr_storage_info *ret);
zr_status zs_clean(struct zr_inst *st, uint64_t *ret_removed);
/* advice.c */
zr_status zs_read_ahead(struct zr_inst *st, uint32_t on);
void zs_advise(struct zr_inst *st, int32_t fd, int64_t off, uint64_t size); /* that record is about to be read */
#endif
