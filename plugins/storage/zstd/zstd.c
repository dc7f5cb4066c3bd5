/* SPDX-License-Identifier: Apache-2.0 */
/* zstd.c - the plugin storage-zstd: the store of storage-commitlog with its sealed segments kept packed (zp.h).
 *
 * The options of every store and a few of its own. The instance is the store. */
#include "zarya/plugin.h"
#include "zp.h"
#include "zp_store.h"
#include "zs_options.h"

struct settings {
    struct zs_settings store; /* first: its rows' offsets are from here */
    int64_t level, dictionary, block, cache, rate, keep_plain, open_packed;
    uint8_t compress;
};

_Static_assert(ZP_DICTIONARY_KIB > 0 && ZP_BLOCK_KIB > 0, "they are known here, and not taken as text");
#define TEXT_OF(n) #n
#define TEXT(n) TEXT_OF(n)
#define OWN(member, type, flags, dflt, min, max, unit, doc) \
    ZR_OPTION_ROW(struct settings, member, #member, type, flags, dflt, min, max, unit, doc)

static const struct zr_option options[] = {
    ZS_OPTION_ROWS,
    OWN(compress, ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL, "Pack sealed log files; false expands packed ones again, in the background, so that storage-commitlog and Apache can open the directory."),
    OWN(level, ZR_OPT_I64, 0, "3", "1", "19", NULL, "Compression level of zstd."),
    OWN(dictionary, ZR_OPT_I64, 0, TEXT(ZP_DICTIONARY_KIB) " KiB", "0", "1048576", "bytes", "Largest dictionary, trained for each log file and kept in it; 0 for none."),
    OWN(block, ZR_OPT_I64, 0, TEXT(ZP_BLOCK_KIB) " KiB", "4096", "1048576", "bytes", "Bytes of the log that are compressed together, and read together."),
    OWN(cache, ZR_OPT_I64, 0, "32 MiB", "65536", "68719476736", "bytes", "Memory for blocks that were read."),
    OWN(rate, ZR_OPT_I64, 0, "64 MiB", "65536", "68719476736", "bytes", "Bytes of the log that are packed or expanded in a second, at most."),
    OWN(keep_plain, ZR_OPT_I64, 0, "0", "0", "100000", NULL, "Newest sealed log files that stay plain, for consumers a little behind."),
    OWN(open_packed, ZR_OPT_I64, 0, "64", "4", "10000", NULL, "Packed log files that are kept open, with their tables and dictionaries in memory."),
};

/* ---- the plugin ------------------------------------------------------------------------------------------------------------- */

static zr_status conf_fill(const struct zr_host *host, const struct settings *s, struct zs_conf *c)
{
    zr_status rc = zs_conf_fill(host, &s->store, c);
    if (rc != ZR_OK) return rc;
    c->pack = &zp_store_ops;
    c->compress = s->compress;
    c->pack_level = (uint32_t)s->level;
    c->pack_dict_size = (uint32_t)s->dictionary;
    c->pack_block_size = (uint32_t)s->block;
    c->pack_keep = s->keep_plain;
    c->pack_rate = s->rate;
    c->pack_cache_bytes = s->cache;
    c->max_open_packs = s->open_packed;
    return ZR_OK;
}

static zr_status zstd_check(const struct zr_host *host, const void *settings)
{
    struct zs_conf c;
    return conf_fill(host, settings, &c);
}

static zr_status zstd_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zs_conf c;
    zr_status rc = conf_fill(host, settings, &c);
    if (rc != ZR_OK) return rc;
    *ret = zs_create(host, &c);
    return *ret ? ZR_OK : ZR_ENOMEM;
}

static zr_status zstd_retune(struct zr_inst *inst, const void *settings)
{
    struct zs_conf c;
    zr_status rc = conf_fill(zs_host(inst), settings, &c);
    if (rc == ZR_OK) zs_retune(inst, &c);
    return rc;
}

static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "storage-zstd",
    .version = "1.0.0",
    .summary = "RocketMQ's commit log with its sealed files compressed by zstd.",
    .options = options,
    .n_options = sizeof options / sizeof *options,
    .settings_size = sizeof(struct settings),
    .swap = ZR_SWAP_NEVER,
    .check = zstd_check,
    .create = zstd_create,
    .warm = zs_warm,
    .activate = zs_activate,
    .drain = zs_drain,
    .cool = zs_cool,
    .destroy = zs_destroy,
    .retune = zstd_retune,
    .query = zs_query,
};

ZR_MANIFEST("id = storage-zstd\n"
            "version = 1.0.0\n"
            "abi = 1.0\n"
            "provides = zarya.storage/1\n");

ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
