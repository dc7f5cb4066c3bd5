/* SPDX-License-Identifier: Apache-2.0 */
/* commitlog.c - the plugin storage-commitlog: RocketMQ's commit log and consume queues, byte for byte.
 *
 * Options as rows, and the tables; the store itself is plugins/storage/log. The instance is the store. */
#include "zarya/plugin.h"
#include "zarya/err.h"
#include "zl/text.h"
#include "zs.h"

struct settings {
    int64_t flush;
    int64_t flush_interval, checkpoint_interval;
    int64_t segment_size, queue_file_size, max_message_size;
    int64_t index_slots, index_entries;
    int64_t retention_hours, clean_interval;
    int64_t hot_bytes, hot_messages, cold_bytes, cold_messages;
    int64_t open_queue_files, open_segments, tail_memory;
    struct zr_str path_commitlog, delete_when, delay_levels;
    double memory_ratio, disk_clean_ratio, disk_force_ratio, disk_refuse_ratio;
    uint8_t preallocate, index, clean_forcibly;
};

static const char *const flush_choices[] = { "async", "sync", NULL };
#define ROW(member, type, flags, dflt, min, max, unit, doc) \
    ZR_OPTION_ROW(struct settings, member, #member, type, flags, dflt, min, max, unit, doc)

static const struct zr_option options[] = {
    ZR_OPTION_ENUM(struct settings, flush, "flush", 0, "async", flush_choices,
                   "Whether a message is answered (and seen by consumers) once it is in the page cache, or only once it is on disk."),
    ROW(flush_interval, ZR_OPT_I64, ZR_OPT_LIVE, "500", "1", "600000", "ms", "Time between two flushes of the log when nobody waits for one."),
    ROW(checkpoint_interval, ZR_OPT_I64, 0, "10 s", "100", "3600000", "ms", "Least time between two savings of the positions that a recovery begins from."),
    ROW(segment_size, ZR_OPT_I64, 0, "1 GiB", "4096", "2147483647", "bytes", "Size of a log file. A log keeps the size it was made with."),
    ROW(queue_file_size, ZR_OPT_I64, 0, "6000000", "20", "2147483640", "bytes", "Size of a queue file, rounded up to a multiple of 20."),
    ROW(max_message_size, ZR_OPT_I64, 0, "4 MiB", "1024", "67000000", "bytes", "Largest body of a message, and of a client's batch as a whole."),
    ROW(path_commitlog, ZR_OPT_STR, 0, NULL, NULL, NULL, NULL, "Folder of the log, absolute, if it is not commitlog in the data directory."),
    ROW(preallocate, ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL, "Reserve the whole of a log file on the disk when it is made ahead."),
    ROW(index, ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL, "Keep the index by message key."),
    ROW(index_slots, ZR_OPT_I64, 0, "5000000", "16", "500000000", NULL, "Hash slots of an index file. Files of another shape are not used."),
    ROW(index_entries, ZR_OPT_I64, 0, "20000000", "16", "1000000000", NULL, "Entries of an index file. Files of another shape are not used."),
    ROW(retention_hours, ZR_OPT_I64, ZR_OPT_LIVE, "72", "0", "1000000", NULL, "Hours after its last write that a log file is kept."),
    ROW(delete_when, ZR_OPT_STR, ZR_OPT_LIVE, "04", NULL, NULL, NULL, "Hours of the local day in which expired files are deleted, joined by semicolons."),
    ROW(clean_interval, ZR_OPT_I64, 0, "10 s", "10", "3600000", "ms", "Time between two looks at the age of files and at the disk."),
    ROW(clean_forcibly, ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL, "Delete the oldest log files before their time when the disk is fuller than disk_force_ratio."),
    ROW(disk_clean_ratio, ZR_OPT_F64, ZR_OPT_LIVE, "0.75", "0.01", "1", NULL, "Used share of the disk above which expired files are deleted at any hour."),
    ROW(disk_force_ratio, ZR_OPT_F64, ZR_OPT_LIVE, "0.85", "0.01", "1", NULL, "Used share of the disk above which files are deleted before their time."),
    ROW(disk_refuse_ratio, ZR_OPT_F64, ZR_OPT_LIVE, "0.90", "0.01", "1", NULL, "Used share of the disk above which messages are refused."),
    ROW(hot_bytes, ZR_OPT_I64, ZR_OPT_LIVE, "256 KiB", "1024", "134217728", "bytes", "Bytes of one answer to a consumer that reads from memory."),
    ROW(hot_messages, ZR_OPT_I64, ZR_OPT_LIVE, "32", "1", "100000", NULL, "Messages of one answer to a consumer that reads from memory."),
    ROW(cold_bytes, ZR_OPT_I64, ZR_OPT_LIVE, "64 KiB", "1024", "134217728", "bytes", "Bytes of one answer to a consumer that reads from the disk."),
    ROW(cold_messages, ZR_OPT_I64, ZR_OPT_LIVE, "8", "1", "100000", NULL, "Messages of one answer to a consumer that reads from the disk."),
    ROW(memory_ratio, ZR_OPT_F64, 0, "0.40", "0.01", "1", NULL, "Share of physical memory that the newest part of the log is taken to occupy."),
    ROW(open_queue_files, ZR_OPT_I64, 0, "1024", "16", "100000", NULL, "Queue files that are kept open."),
    ROW(open_segments, ZR_OPT_I64, 0, "512", "4", "30000", NULL, "Log files that are kept open and mapped."),
    ROW(tail_memory, ZR_OPT_I64, 0, "64 MiB", "65536", "17179869184", "bytes", "Memory for queue entries that are not written yet; above it, senders help writing."),
    ROW(delay_levels, ZR_OPT_STR, 0, "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h", NULL, NULL, NULL,
        "Delays of the levels of SCHEDULE_TOPIC_XXXX, for queue entries that a recovery makes anew."),
};

static zr_status refuse(const struct zr_host *host, const char *text)
{
    const struct zr_err_v1 *err = host->query(host, ZR_SVC_ERR);
    struct zr_error e = { .hdr = ZR_HDR(struct zr_error, 0), .status = ZR_EINVAL, .text = zl_str(text) };
    if (err) err->raise(host, &e);
    return ZR_EINVAL;
}

static zr_status conf_fill(const struct zr_host *host, const struct settings *s, struct zs_conf *c)
{
    *c = (struct zs_conf){
        .root = host->data_dir,
        .log_dir = s->path_commitlog.len ? s->path_commitlog.ptr : "",
        .sync = s->flush == 1,
        .preallocate = s->preallocate,
        .index = s->index,
        .clean_forcibly = s->clean_forcibly,
        .flush_interval_ms = s->flush_interval,
        .checkpoint_interval_ms = s->checkpoint_interval,
        .segment_size = s->segment_size,
        .queue_file_size = (s->queue_file_size + 19) / 20 * 20,
        .max_message_size = s->max_message_size,
        .index_slots = s->index_slots,
        .index_entries = s->index_entries,
        .retention_hours = s->retention_hours,
        .clean_interval_ms = s->clean_interval,
        .max_hot_bytes = s->hot_bytes,
        .max_hot_messages = s->hot_messages,
        .max_cold_bytes = s->cold_bytes,
        .max_cold_messages = s->cold_messages,
        .max_open_queue_files = s->open_queue_files,
        .max_open_segments = s->open_segments,
        .max_tail_bytes = s->tail_memory,
        .ratio_memory = s->memory_ratio,
        .ratio_clean = s->disk_clean_ratio,
        .ratio_force = s->disk_force_ratio,
        .ratio_refuse = s->disk_refuse_ratio,
    };
    if (!host->data_dir || host->data_dir[0] != '/') return refuse(host, "storage-commitlog: the data directory is not absolute");
    if (c->log_dir[0] && c->log_dir[0] != '/') return refuse(host, "path_commitlog: not an absolute path");
    if (zs_parse_hours(s->delete_when, &c->delete_hours) != ZR_OK)
        return refuse(host, "delete_when: hours from 00 to 23 joined by semicolons, such as \"04\" or \"04;16\"");
    if (zs_parse_levels(s->delay_levels, c->level_ms, &c->n_levels) != ZR_OK)
        return refuse(host, "delay_levels: up to 64 delays such as \"1s 5s 10s 1m 2h\"");
    return ZR_OK;
}

static zr_status commitlog_check(const struct zr_host *host, const void *settings)
{
    struct zs_conf c;
    return conf_fill(host, settings, &c);
}

static zr_status commitlog_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zs_conf c;
    zr_status rc = conf_fill(host, settings, &c);
    if (rc != ZR_OK) return rc;
    *ret = zs_create(host, &c);
    return *ret ? ZR_OK : ZR_ENOMEM;
}

static zr_status commitlog_retune(struct zr_inst *inst, const void *settings)
{
    struct zs_conf c;
    zr_status rc = conf_fill(zs_host(inst), settings, &c);
    if (rc == ZR_OK) zs_retune(inst, &c);
    return rc;
}

static const struct zr_storage_v1 storage = {
    .hdr = ZR_HDR(struct zr_storage_v1, 0),
    .append = zs_append,
    .want_flushed = zs_want_flushed,
    .queue = zs_queue,
    .bounds = zs_bounds,
    .read = zs_read,
    .unpin = zs_unpin,
    .offset_at = zs_offset_at,
    .time_at = zs_time_at,
    .resident = zs_resident,
    .entries = zs_entries,
    .each_queue = zs_each_queue,
    .remove_topic = zs_remove_topic,
    .record_at = zs_record_at,
    .find_key = zs_find_key,
    .info = zs_info,
    .clean = zs_clean,
};

static const void *commitlog_query(struct zr_inst *inst, const char *iface_id)
{
    (void)inst;
    return strcmp(iface_id, ZR_IF_STORAGE) == 0 ? &storage : NULL;
}

static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "storage-commitlog",
    .version = "1.0.0",
    .summary = "RocketMQ's commit log, consume queues and index, byte for byte.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .settings_size = sizeof(struct settings),
    .swap = ZR_SWAP_NEVER,
    .check = commitlog_check,
    .create = commitlog_create,
    .warm = zs_warm,
    .activate = zs_activate,
    .drain = zs_drain,
    .cool = zs_cool,
    .destroy = zs_destroy,
    .retune = commitlog_retune,
    .query = commitlog_query,
};

ZR_MANIFEST("id = storage-commitlog\n"
            "version = 1.0.0\n"
            "abi = 1.0\n"
            "provides = zarya.storage/1\n");

ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
