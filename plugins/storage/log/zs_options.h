/* SPDX-License-Identifier: Apache-2.0 */
/* zs_options.h - what the storage plugins have in common outside the store: their options as rows, and the interface's table.
 *
 * A plugin's settings begin with struct zs_settings; its option array begins with ZS_OPTION_ROWS; zs_conf_fill turns them into
 * what zs_create takes. So an option of the log is told once, and means the same in every plugin that stands on it. */
#ifndef ZS_OPTIONS_H
#define ZS_OPTIONS_H
#include "zs.h"

struct zs_settings {
    int64_t flush;
    int64_t flush_interval, checkpoint_interval;
    int64_t segment_size, queue_file_size, queue_extent_file_size, max_message_size;
    int64_t index_slots, index_entries;
    int64_t retention_hours, retention_bytes, clean_interval;
    int64_t hot_bytes, hot_messages, cold_bytes, cold_messages;
    int64_t open_queue_files, open_segments, tail_memory;
    struct zr_str path_commitlog, path_commitlog_read_only, delete_when, delay_levels;
    double memory_ratio, disk_clean_ratio, disk_force_ratio, disk_refuse_ratio;
    uint8_t preallocate, index, clean_forcibly, property_crc, property_crc_check, queue_extents, read_ahead;
};

/* Checks what a row cannot, and raises what is wrong. */
zr_status zs_conf_fill(const struct zr_host *host, const struct zs_settings *s, struct zs_conf *ret);
extern const char *const zs_flush_choices[];
/* The zr_storage_v1 of every plugin whose instance is a store, and the query slot that gives it. */
extern const struct zr_storage_v1 zs_storage;
const void *zs_query(struct zr_inst *inst, const char *iface_id);

#define ZS_ROW(member, type, flags, dflt, min, max, unit, doc) \
    ZR_OPTION_ROW(struct zs_settings, member, #member, type, flags, dflt, min, max, unit, doc)
/* clang-format off */
#define ZS_OPTION_ROWS \
    ZR_OPTION_ENUM(struct zs_settings, flush, "flush", 0, "async", zs_flush_choices, \
                   "Whether a message is answered (and seen by consumers) once it is in the page cache, or only once it is on disk."), \
    ZS_ROW(flush_interval, ZR_OPT_I64, ZR_OPT_LIVE, "500", "1", "600000", "ms", "Time between two flushes of the log when nobody waits for one."), \
    ZS_ROW(checkpoint_interval, ZR_OPT_I64, 0, "10 s", "100", "3600000", "ms", "Least time between two savings of the positions that a recovery begins from."), \
    ZS_ROW(segment_size, ZR_OPT_I64, 0, "1 GiB", "4096", "2147483647", "bytes", "Size of a log file. A log keeps the size it was made with."), \
    ZS_ROW(queue_file_size, ZR_OPT_I64, 0, "6000000", "20", "2147483640", "bytes", "Size of a queue file, rounded up to a multiple of 20."), \
    ZS_ROW(queue_extents, ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL, "Write extents of queue entries, RocketMQ's enableConsumeQueueExt: store times, and bit maps if the broker makes them (enableCalcFilterBitMap). Those there are are read without it."), \
    ZS_ROW(queue_extent_file_size, ZR_OPT_I64, 0, "48 MiB", "1024", "2147483647", "bytes", "Size of a file of extents. They keep the size they were made with."), \
    ZS_ROW(max_message_size, ZR_OPT_I64, 0, "4 MiB", "1024", "67000000", "bytes", "Largest body of a message, and of a client's batch as a whole."), \
    ZS_ROW(path_commitlog, ZR_OPT_STR, 0, NULL, NULL, NULL, NULL, "Folder of the log, absolute, if it is not commitlog in the data directory; or several, joined by commas: new files go to each in turn."), \
    ZS_ROW(path_commitlog_read_only, ZR_OPT_STR, 0, NULL, NULL, NULL, NULL, "Folders of the log, absolute, joined by commas, that take no new files."), \
    ZS_ROW(preallocate, ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL, "Write a log file that is made ahead with zeroes first: a sync of what is put into it later has less to wait for, at the price of writing everything twice."), \
    ZS_ROW(index, ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL, "Keep the index by message key."), \
    ZS_ROW(property_crc, ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL, "End each record in a checksum of all of it, RocketMQ's enabledAppendPropCRC."), \
    ZS_ROW(property_crc_check, ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL, "Take no record with a wrong one in a recovery, RocketMQ's forceVerifyPropCRC."), \
    ZS_ROW(index_slots, ZR_OPT_I64, 0, "5000000", "16", "500000000", NULL, "Hash slots of an index file. Files of another shape are made anew."), \
    ZS_ROW(index_entries, ZR_OPT_I64, 0, "20000000", "16", "1000000000", NULL, "Entries of an index file. Files of another shape are made anew."), \
    ZS_ROW(retention_hours, ZR_OPT_I64, ZR_OPT_LIVE, "72", "0", "1000000", NULL, "Hours after its last write that a log file is kept."), \
    ZS_ROW(retention_bytes, ZR_OPT_I64, ZR_OPT_LIVE, "0", "0", "1152921504606846976", "bytes", "Bytes of the log that are kept: the oldest files go, whatever their age and the hour, while more is there without them. 0: no limit."), \
    ZS_ROW(delete_when, ZR_OPT_STR, ZR_OPT_LIVE, "04", NULL, NULL, NULL, "Hours of the local day in which expired files are deleted, joined by semicolons."), \
    ZS_ROW(clean_interval, ZR_OPT_I64, 0, "10 s", "10", "3600000", "ms", "Time between two looks at the age of files and at the disk."), \
    ZS_ROW(clean_forcibly, ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL, "Delete the oldest log files before their time when the disk is fuller than disk_force_ratio."), \
    ZS_ROW(disk_clean_ratio, ZR_OPT_F64, ZR_OPT_LIVE, "0.75", "0.01", "1", NULL, "Used share of the disk above which expired files are deleted at any hour."), \
    ZS_ROW(disk_force_ratio, ZR_OPT_F64, ZR_OPT_LIVE, "0.85", "0.01", "1", NULL, "Used share of the disk above which files are deleted before their time."), \
    ZS_ROW(disk_refuse_ratio, ZR_OPT_F64, ZR_OPT_LIVE, "0.90", "0.01", "1", NULL, "Used share of the disk above which messages are refused."), \
    ZS_ROW(hot_bytes, ZR_OPT_I64, ZR_OPT_LIVE, "256 KiB", "1024", "134217728", "bytes", "Bytes of one answer to a consumer that reads from memory."), \
    ZS_ROW(hot_messages, ZR_OPT_I64, ZR_OPT_LIVE, "32", "1", "100000", NULL, "Messages of one answer to a consumer that reads from memory."), \
    ZS_ROW(cold_bytes, ZR_OPT_I64, ZR_OPT_LIVE, "64 KiB", "1024", "134217728", "bytes", "Bytes of one answer to a consumer that reads from the disk."), \
    ZS_ROW(cold_messages, ZR_OPT_I64, ZR_OPT_LIVE, "8", "1", "100000", NULL, "Messages of one answer to a consumer that reads from the disk."), \
    ZS_ROW(read_ahead, ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL, "Read 256 KiB of the log where a record is read from the disk, RocketMQ's dataReadAheadEnable; mqadmin setCommitLogReadAheadMode changes it until the next start."), \
    ZS_ROW(memory_ratio, ZR_OPT_F64, 0, "0.40", "0.01", "1", NULL, "Share of physical memory that the newest part of the log is taken to occupy."), \
    ZS_ROW(open_queue_files, ZR_OPT_I64, 0, "1024", "16", "100000", NULL, "Queue files that are kept open."), \
    ZS_ROW(open_segments, ZR_OPT_I64, 0, "512", "4", "30000", NULL, "Log files that are kept open and mapped."), \
    ZS_ROW(tail_memory, ZR_OPT_I64, 0, "64 MiB", "65536", "17179869184", "bytes", "Memory for queue entries that are not written yet; above it, senders help writing."), \
    ZS_ROW(delay_levels, ZR_OPT_STR, 0, "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h", NULL, NULL, NULL, \
        "Delays of the levels of SCHEDULE_TOPIC_XXXX, for queue entries that a recovery makes anew.")
/* clang-format on */
#endif
