/* SPDX-License-Identifier: Apache-2.0 */
/* commitlog.c - the plugin storage-commitlog: RocketMQ's commit log and consume queues, byte for byte.
 *
 * The options and the interface are those of every store (plugins/storage/log/zs_options.h). The instance is the store. */
#include "zarya/plugin.h"
#include "zs_options.h"

static const struct zr_option options[] = { ZS_OPTION_ROWS };

static zr_status commitlog_check(const struct zr_host *host, const void *settings)
{
    struct zs_conf c;
    return zs_conf_fill(host, settings, &c);
}

static zr_status commitlog_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zs_conf c;
    zr_status rc = zs_conf_fill(host, settings, &c);
    if (rc != ZR_OK) return rc;
    *ret = zs_create(host, &c);
    return *ret ? ZR_OK : ZR_ENOMEM;
}

static zr_status commitlog_retune(struct zr_inst *inst, const void *settings)
{
    struct zs_conf c;
    zr_status rc = zs_conf_fill(zs_host(inst), settings, &c);
    if (rc == ZR_OK) zs_retune(inst, &c);
    return rc;
}

static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "storage-commitlog",
    .version = "1.0.0",
    .summary = "RocketMQ's commit log, consume queues and index, byte for byte.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .settings_size = sizeof(struct zs_settings),
    .swap = ZR_SWAP_NEVER,
    .check = commitlog_check,
    .create = commitlog_create,
    .warm = zs_warm,
    .activate = zs_activate,
    .drain = zs_drain,
    .cool = zs_cool,
    .destroy = zs_destroy,
    .retune = commitlog_retune,
    .query = zs_query,
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
