/* SPDX-License-Identifier: Apache-2.0 */
/* options.c - see zs_options.h: from a plugin's settings to the store's configuration. */
#include <string.h>
#include "zarya/err.h"
#include "zl/text.h"
#include "zs_options.h"

const char *const zs_flush_choices[] = { "async", "sync", NULL };

static zr_status refuse(const struct zr_host *host, const char *text)
{
    const struct zr_err_v1 *err = host->query(host, ZR_SVC_ERR);
    struct zr_error e = { .hdr = ZR_HDR(struct zr_error, 0), .status = ZR_EINVAL, .text = zl_str(text) };
    if (err) err->raise(host, &e);
    return ZR_EINVAL;
}

static uint32_t paths_ok(struct zr_str list)
{
    struct zr_str part;
    uint32_t n = 0;
    while (zl_split(&list, ',', &part)) {
        part = zl_trim(part);
        if (part.len && (part.ptr[0] != '/' || part.len > 900 || ++n > 8)) return 0;
    }
    return 1;
}

zr_status zs_conf_fill(const struct zr_host *host, const struct zs_settings *s, struct zs_conf *c)
{
    *c = (struct zs_conf){
        .root = host->data_dir,
        .log_dir = s->path_commitlog.len ? s->path_commitlog.ptr : "",
        .log_dirs_read_only = s->path_commitlog_read_only.len ? s->path_commitlog_read_only.ptr : "",
        .sync = s->flush == 1,
        .preallocate = s->preallocate,
        .index = s->index,
        .property_crc = s->property_crc,
        .property_crc_check = s->property_crc_check,
        .clean_forcibly = s->clean_forcibly,
        .read_ahead = s->read_ahead ? ZS_AHEAD_ON : ZS_AHEAD_OFF,
        .flush_interval_ms = s->flush_interval,
        .checkpoint_interval_ms = s->checkpoint_interval,
        .segment_size = s->segment_size,
        .queue_file_size = (s->queue_file_size + 19) / 20 * 20,
        .extents = s->queue_extents,
        .extent_file_size = s->queue_extent_file_size,
        .max_message_size = s->max_message_size,
        .index_slots = s->index_slots,
        .index_entries = s->index_entries,
        .retention_hours = s->retention_hours,
        .retention_bytes = s->retention_bytes,
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
    if (!host->data_dir || host->data_dir[0] != '/') return refuse(host, "the data directory of a store is not absolute");
    if (!paths_ok(s->path_commitlog) || !paths_ok(s->path_commitlog_read_only))
        return refuse(host, "path_commitlog, path_commitlog_read_only: up to 8 absolute paths each, joined by commas");
    if (c->ratio_force > c->ratio_refuse || c->ratio_clean > c->ratio_refuse)
        return refuse(host, c->ratio_force > c->ratio_refuse
            ? "disk_refuse_ratio is below disk_force_ratio: messages would be refused before old ones are deleted to make room, and so for ever"
            : "disk_refuse_ratio is below disk_clean_ratio: messages would be refused before expired files are deleted");
    if (zs_parse_hours(s->delete_when, &c->delete_hours) != ZR_OK)
        return refuse(host, "delete_when: hours from 00 to 23 joined by semicolons, such as \"04\" or \"04;16\"");
    if (zs_parse_levels(s->delay_levels, c->level_ms, &c->n_levels) != ZR_OK)
        return refuse(host, "delay_levels: up to 64 delays such as \"1s 5s 10s 1m 2h\"");
    return ZR_OK;
}

const struct zr_storage_v1 zs_storage = {
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
    .read_ahead = zs_read_ahead,
};

const void *zs_query(struct zr_inst *inst, const char *iface_id)
{
    (void)inst;
    return strcmp(iface_id, ZR_IF_STORAGE) == 0 ? &zs_storage : NULL;
}
