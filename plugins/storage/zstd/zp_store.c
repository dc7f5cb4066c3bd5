/* SPDX-License-Identifier: Apache-2.0 */
/* zp_store.c - the table through which the store's library (plugins/storage/log) packs, expands and reads: zp.h in its words. */
#include "zp_store.h"
#include "zp.h"

static struct zp_file *file_of(const struct zs_packed *p) { return (struct zp_file *)(uintptr_t)p; }

static int64_t ops_peek(const struct zr_io_v1 *io, const char *path, struct zs_pack_info *ret)
{
    struct zp_info info;
    int64_t r = zp_peek(io, path, &info);
    if (r >= 0) *ret = (struct zs_pack_info){ .base = info.base, .raw_size = info.raw_size, .mtime_ns = info.mtime_ns, .size = info.size };
    return r;
}

static int64_t ops_open(const struct zr_io_v1 *io, const char *path, struct zs_packed **ret, const char **ret_why)
{
    struct zp_file *f;
    int64_t r = zp_open(io, path, &f, ret_why);
    if (r >= 0) *ret = (struct zs_packed *)f;
    return r;
}

static void ops_close(struct zs_packed *p) { zp_close(file_of(p)); }

static uint32_t ops_blocks(const struct zs_packed *p)
{
    struct zp_info info;
    zp_about(file_of(p), &info);
    return info.n_blocks;
}

static uint32_t ops_block_of(const struct zs_packed *p, int64_t off, int64_t *ret_from, int64_t *ret_to)
{
    return zp_block_of(file_of(p), off, ret_from, ret_to);
}

static void ops_block_at(const struct zs_packed *p, uint32_t no, int64_t *ret_from, int64_t *ret_to)
{
    zp_block_at(file_of(p), no, ret_from, ret_to);
}

static int64_t ops_block_read(struct zs_packed *p, uint32_t no, uint8_t *to) { return zp_block_read(file_of(p), no, to); }

static const struct zp_pace *pace_of(const struct zs_pace *pace, struct zp_pace *room)
{
    if (!pace) return NULL;
    *room = (struct zp_pace){ pace->call, pace->arg };
    return room;
}

static int64_t ops_verify(const struct zr_io_v1 *io, const char *path, const struct zs_pace *pace)
{
    struct zp_pace room;
    return zp_verify(io, path, 0, NULL, pace_of(pace, &room));
}

static int64_t ops_pack(const struct zr_io_v1 *io, const char *plain, const char *to, int64_t base, int64_t size,
                        const struct zs_conf *conf, const struct zs_pace *pace)
{
    struct zp_pace room;
    struct zp_conf c = { .level = (int32_t)conf->pack_level, .dict_size = conf->pack_dict_size, .block_size = conf->pack_block_size };
    return zp_pack(io, plain, to, base, size, &c, pace_of(pace, &room));
}

static int64_t ops_expand(const struct zr_io_v1 *io, const char *packed, const char *to, const struct zs_pace *pace)
{
    struct zp_pace room;
    return zp_expand(io, packed, to, NULL, pace_of(pace, &room));
}

static int64_t ops_compare(const struct zr_io_v1 *io, const char *packed, const char *plain, const struct zs_pace *pace)
{
    struct zp_pace room;
    return zp_compare(io, packed, plain, pace_of(pace, &room));
}

static int64_t ops_lacks(const struct zr_io_v1 *io, const char *packed, const char *plain, int64_t base, uint32_t of_plain, const struct zs_pace *pace)
{
    struct zp_pace room;
    return zp_lacks(io, packed, plain, base, of_plain ? ZP_OF_PLAIN : ZP_OF_PACKED, NULL, pace_of(pace, &room));
}

const struct zs_pack_ops zp_store_ops = {
    .peek = ops_peek,
    .open = ops_open,
    .close = ops_close,
    .blocks = ops_blocks,
    .block_of = ops_block_of,
    .block_at = ops_block_at,
    .block_read = ops_block_read,
    .verify = ops_verify,
    .pack = ops_pack,
    .expand = ops_expand,
    .compare = ops_compare,
    .lacks = ops_lacks,
};
