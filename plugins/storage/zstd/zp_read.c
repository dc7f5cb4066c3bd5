/* SPDX-License-Identifier: Apache-2.0 */
/* zp_read.c - opening, reading and verifying packed segments.
 *
 * Everything in the file is taken for hostile until the digest agrees, and bounded by the file's own size before that: the
 * tables cannot ask for more memory than a small multiple of what is on the disk, a block for no more than ZP_MAX_BLOCK.
 *
 * LOCKING: lock guards the idle decompression contexts of an open file. Leaf. */
#include <errno.h>
#include <stdlib.h>
#include "zl/text.h"
#include "zp_int.h"

#define IDLE 8u /* contexts kept for each open file */

struct zp_file {
    const struct zr_io_v1 *io;
    int32_t fd;
    struct zp_info info;
    uint32_t *packed_at; /* [n_blocks + 1] positions in the file */
    uint32_t *raw_at;    /* [n_blocks + 1] positions in the segment */
    uint32_t *sums;      /* [n_blocks] CRC-32 of the frames as they are in the file */
    ZSTD_DDict *dict;
    pthread_mutex_t lock;
    ZSTD_DCtx *idle[IDLE];
    uint32_t n_idle;
};

/* ---- checksums ------------------------------------------------------------------------------------------------------------ */

#define P1 0x9E3779B185EBCA87ull
#define P2 0xC2B2AE3D27D4EB4Full
#define P3 0x165667B19E3779F9ull
#define P4 0x85EBCA77C2B2AE63ull
#define P5 0x27D4EB2F165667C5ull

static uint64_t turn(uint64_t v, int by) { return v << by | v >> (64 - by); }
static uint64_t mix(uint64_t sum, uint64_t word) { return turn(sum + word * P2, 31) * P1; }

uint64_t zp_xxh64(const void *bytes, uint64_t len, uint64_t seed)
{
    const uint8_t *p = bytes, *end = p + len;
    uint64_t h = seed + P5;
    if (len >= 32) {
        uint64_t a[4] = { seed + P1 + P2, seed + P2, seed, seed - P1 };
        for (; end - p >= 32; p += 32)
            for (int i = 0; i < 4; i++) a[i] = mix(a[i], zp_load64(p + 8 * i));
        h = turn(a[0], 1) + turn(a[1], 7) + turn(a[2], 12) + turn(a[3], 18);
        for (int i = 0; i < 4; i++) h = (h ^ mix(0, a[i])) * P1 + P4;
    }
    h += len;
    for (; end - p >= 8; p += 8) h = turn(h ^ mix(0, zp_load64(p)), 27) * P1 + P4;
    if (end - p >= 4) {
        h = turn(h ^ zp_load32(p) * P1, 23) * P2 + P3;
        p += 4;
    }
    for (; p < end; p++) h = turn(h ^ *p * P5, 11) * P1;
    h = (h ^ h >> 33) * P2;
    h = (h ^ h >> 29) * P3;
    return h ^ h >> 32;
}

uint64_t zp_digest(struct zr_span header, struct zr_span dict, struct zr_span sums, struct zr_span seek)
{
    uint64_t d = zp_xxh64(header.ptr, header.len, 0);
    d = zp_xxh64(dict.ptr, dict.len, d);
    d = zp_xxh64(sums.ptr, sums.len, d);
    return zp_xxh64(seek.ptr, seek.len, d);
}

/* ---- opening -------------------------------------------------------------------------------------------------------------- */

static int64_t header_parse(const uint8_t *h, struct zp_info *ret)
{
    if (zp_load32(h) != ZP_OURS || zp_load32(h + 4) != ZP_HEADER - ZP_SKIP || memcmp(h + 8, "ZRYPACK1", 8) != 0) return -EBADMSG;
    if (zp_load64(h + 64) != zp_xxh64(h, 64, 0) || zp_load32(h + 16) != ZP_VERSION) return -EBADMSG;
    ret->level = (int32_t)zp_load32(h + 20);
    ret->base = (int64_t)zp_load64(h + 24);
    ret->raw_size = (int64_t)zp_load64(h + 32);
    ret->mtime_ns = (int64_t)zp_load64(h + 40);
    ret->dict_size = zp_load32(h + 48);
    ret->n_blocks = 0;
    ret->reserved = 0;
    if (ret->base < 0 || ret->raw_size <= 0 || ret->raw_size > INT32_MAX || ret->dict_size > ZP_MAX_DICT) return -EBADMSG;
    return 0;
}

int64_t zp_peek(const struct zr_io_v1 *io, const char *path, struct zp_info *ret)
{
    uint8_t h[ZP_HEADER];
    struct zr_io_stat stat;
    int64_t fd = io->open(io->ctx, path, ZR_IO_READ, 0);
    if (fd < 0) return fd;
    int64_t r = io->fstat(io->ctx, (int32_t)fd, &stat);
    if (r >= 0) r = stat.size < ZP_HEADER ? -EBADMSG : zl_io_read_all(io, (int32_t)fd, h, sizeof h, 0);
    io->close(io->ctx, (int32_t)fd);
    if (r >= 0) r = header_parse(h, ret);
    if (r >= 0) ret->size = stat.size;
    return r;
}

/* A part of the file in memory of its own. */
static int64_t load(struct zp_file *f, int64_t off, uint64_t len, uint8_t **ret)
{
    *ret = malloc(len ? len : 1);
    return *ret ? zl_io_read_all(f->io, f->fd, *ret, len, off) : -ENOMEM;
}

struct parts {
    uint8_t *head; /* header and dictionary frames */
    uint8_t *tail; /* sums and seek table frames */
    uint64_t head_len, sums_len, seek_len;
    const char *why;
};

static int64_t damaged(struct parts *p, const char *why)
{
    p->why = why;
    return -EBADMSG;
}

/* The four parts that are not blocks. */
static int64_t load_parts(struct zp_file *f, struct parts *p)
{
    uint8_t foot[ZP_FOOTER], head[ZP_HEADER], last[ZP_SEEK_ENTRY];
    int64_t size = (int64_t)f->info.size;
    if (size < (int64_t)(ZP_HEADER + 3 * ZP_SKIP + ZP_FOOTER)) return damaged(p, "it is too short");
    int64_t r = zl_io_read_all(f->io, f->fd, head, sizeof head, 0);
    if (r >= 0) r = zl_io_read_all(f->io, f->fd, foot, sizeof foot, size - ZP_FOOTER);
    if (r < 0) return r;
    if (header_parse(head, &f->info) < 0) return damaged(p, "its header is damaged");
    uint64_t frames = zp_load32(foot);
    p->seek_len = ZP_SKIP + frames * ZP_SEEK_ENTRY + ZP_FOOTER;
    if (zp_load32(foot + 5) != ZP_SEEK_MAGIC || foot[4] != ZP_CHECKSUMS || frames < 2 || p->seek_len > (uint64_t)size)
        return damaged(p, "its seek table is damaged or cut off");
    r = zl_io_read_all(f->io, f->fd, last, sizeof last, size - (int64_t)(ZP_FOOTER + ZP_SEEK_ENTRY));
    if (r < 0) return r;
    p->sums_len = zp_load32(last);
    p->head_len = ZP_HEADER + (f->info.dict_size ? ZP_SKIP + f->info.dict_size : 0);
    if (p->sums_len < ZP_SKIP + ZP_LEAST_SUMS || p->head_len + p->sums_len + p->seek_len > (uint64_t)size)
        return damaged(p, "its tables do not fit");
    r = load(f, 0, p->head_len, &p->head);
    return r < 0 ? r : load(f, size - (int64_t)(p->sums_len + p->seek_len), p->sums_len + p->seek_len, &p->tail);
}

static uint32_t skip_good(const uint8_t *frame, uint32_t magic, uint64_t len)
{
    return zp_load32(frame) == magic && zp_load32(frame + 4) == len - ZP_SKIP;
}

static int64_t check_parts(struct zp_file *f, struct parts *p)
{
    const uint8_t *seek = p->tail + p->sums_len;
    struct zr_span header = { p->head, ZP_HEADER }, dict = { p->head + ZP_HEADER, p->head_len - ZP_HEADER };
    struct zr_span sums = { p->tail, p->sums_len - 8 }, table = { seek, p->seek_len };
    if (zp_digest(header, dict, sums, table) != zp_load64(p->tail + p->sums_len - 8)) return damaged(p, "its digest is wrong");
    if (dict.len && !skip_good(dict.ptr, ZP_OURS, dict.len)) return damaged(p, "its dictionary is damaged");
    if (!skip_good(sums.ptr, ZP_OURS, p->sums_len) || memcmp((const uint8_t *)sums.ptr + ZP_SKIP, "ZRYSUMS1", 8) != 0)
        return damaged(p, "its checksums are damaged");
    uint64_t around = f->info.dict_size ? 3 : 2, frames = zp_load32(seek + p->seek_len - ZP_FOOTER);
    if (!skip_good(seek, ZP_SEEK, p->seek_len) || frames < around) return damaged(p, "its seek table is damaged");
    f->info.n_blocks = (uint32_t)(frames - around);
    if (p->sums_len != ZP_SKIP + ZP_LEAST_SUMS + 4ull * f->info.n_blocks) return damaged(p, "its tables do not agree");
    return 0;
}

static int64_t take_tables(struct zp_file *f, struct parts *p)
{
    uint32_t n = f->info.n_blocks;
    const uint8_t *e = p->tail + p->sums_len + ZP_SKIP + (f->info.dict_size ? 2 : 1) * ZP_SEEK_ENTRY;
    uint64_t at = p->head_len, raw = 0;
    f->packed_at = malloc(((uint64_t)n + 1) * 4);
    f->raw_at = malloc(((uint64_t)n + 1) * 4);
    f->sums = malloc(((uint64_t)n + 1) * 4);
    if (!f->packed_at || !f->raw_at || !f->sums) return -ENOMEM;
    memcpy(f->sums, p->tail + ZP_SKIP + 8, 4ull * n);
    for (uint32_t i = 0; i < n; i++, e += ZP_SEEK_ENTRY) {
        f->packed_at[i] = (uint32_t)at;
        f->raw_at[i] = (uint32_t)raw;
        at += zp_load32(e);
        raw += zp_load32(e + 4);
        if (at > f->info.size || raw > (uint64_t)f->info.raw_size || zp_load32(e + 4) == 0 || zp_load32(e + 4) > ZP_MAX_BLOCK)
            return damaged(p, "its seek table is impossible");
    }
    f->packed_at[n] = (uint32_t)at;
    f->raw_at[n] = (uint32_t)raw;
    if (raw != (uint64_t)f->info.raw_size || at + p->sums_len + p->seek_len != f->info.size)
        return damaged(p, "its seek table does not cover it");
    if (f->info.dict_size) f->dict = ZSTD_createDDict(p->head + ZP_HEADER + ZP_SKIP, f->info.dict_size);
    return f->info.dict_size && !f->dict ? -ENOMEM : 0;
}

int64_t zp_open(const struct zr_io_v1 *io, const char *path, struct zp_file **ret, const char **ret_why)
{
    struct parts p = { .why = "it cannot be read" };
    struct zr_io_stat stat;
    struct zp_file *f = calloc(1, sizeof *f);
    *ret = NULL;
    if (ret_why) *ret_why = "memory ran out";
    if (!f) return -ENOMEM;
    pthread_mutex_init(&f->lock, NULL);
    f->io = io;
    int64_t r = io->open(io->ctx, path, ZR_IO_READ, 0);
    f->fd = (int32_t)(r < 0 ? -1 : r);
    if (r >= 0) r = io->fstat(io->ctx, f->fd, &stat);
    if (r >= 0 && stat.size > UINT32_MAX) r = damaged(&p, "it is too large");
    if (r >= 0) {
        f->info.size = stat.size;
        r = load_parts(f, &p);
    }
    if (r >= 0) r = check_parts(f, &p);
    if (r >= 0) r = take_tables(f, &p);
    free(p.head);
    free(p.tail);
    if (ret_why) *ret_why = p.why;
    if (r < 0) {
        zp_close(f);
        return r;
    }
    *ret = f;
    return 0;
}

void zp_close(struct zp_file *f)
{
    if (!f) return;
    while (f->n_idle) ZSTD_freeDCtx(f->idle[--f->n_idle]);
    ZSTD_freeDDict(f->dict);
    free(f->packed_at);
    free(f->raw_at);
    free(f->sums);
    if (f->fd >= 0) f->io->close(f->io->ctx, f->fd);
    pthread_mutex_destroy(&f->lock);
    free(f);
}

void zp_about(const struct zp_file *f, struct zp_info *ret) { *ret = f->info; }

/* ---- reading --------------------------------------------------------------------------------------------------------------- */

void zp_block_at(const struct zp_file *f, uint32_t no, int64_t *ret_from, int64_t *ret_to)
{
    *ret_from = f->raw_at[no];
    *ret_to = f->raw_at[no + 1];
}

uint32_t zp_block_of(const struct zp_file *f, int64_t off, int64_t *ret_from, int64_t *ret_to)
{
    uint32_t lo = 0, hi = f->info.n_blocks; /* raw_at[lo] <= off < raw_at[hi] */
    while (hi - lo > 1) {
        uint32_t mid = lo + (hi - lo) / 2;
        if ((int64_t)f->raw_at[mid] <= off) lo = mid;
        else hi = mid;
    }
    zp_block_at(f, lo, ret_from, ret_to);
    return lo;
}

static ZSTD_DCtx *ctx_take(struct zp_file *f)
{
    ZSTD_DCtx *c = NULL;
    pthread_mutex_lock(&f->lock);
    if (f->n_idle) c = f->idle[--f->n_idle];
    pthread_mutex_unlock(&f->lock);
    return c ? c : ZSTD_createDCtx();
}

static void ctx_give(struct zp_file *f, ZSTD_DCtx *c)
{
    pthread_mutex_lock(&f->lock);
    uint32_t keep = f->n_idle < IDLE;
    if (keep) f->idle[f->n_idle++] = c;
    pthread_mutex_unlock(&f->lock);
    if (!keep) ZSTD_freeDCtx(c);
}

/* The frame's own checksum is compared by zstd: what it says is whole is what was packed. */
static int64_t unpack(struct zp_file *f, const uint8_t *from, uint32_t len, uint8_t *to, uint64_t want)
{
    ZSTD_DCtx *c = ctx_take(f);
    if (!c) return -ENOMEM;
    size_t got = f->dict ? ZSTD_decompress_usingDDict(c, to, want, from, len, f->dict) : ZSTD_decompressDCtx(c, to, want, from, len);
    ctx_give(f, c);
    return ZSTD_isError(got) || got != want ? -EBADMSG : 0;
}

int64_t zp_block_read(struct zp_file *f, uint32_t no, uint8_t *to)
{
    uint8_t small[24576];
    uint32_t len = f->packed_at[no + 1] - f->packed_at[no];
    uint8_t *in = len <= sizeof small ? small : malloc(len);
    if (!in) return -ENOMEM;
    int64_t r = zl_io_read_all(f->io, f->fd, in, len, f->packed_at[no]);
    if (r >= 0) r = unpack(f, in, len, to, f->raw_at[no + 1] - f->raw_at[no]);
    if (in != small) free(in);
    return r;
}

int64_t zp_read(struct zp_file *f, uint8_t *to, uint64_t len, int64_t off)
{
    uint8_t *spare = NULL;
    int64_t r = 0;
    if (off < 0 || off > f->info.raw_size || len > (uint64_t)(f->info.raw_size - off)) return -EINVAL;
    while (len && r >= 0) {
        int64_t from, end;
        uint32_t no = zp_block_of(f, off, &from, &end);
        uint64_t n = (uint64_t)(end - off) < len ? (uint64_t)(end - off) : len;
        if (off == from && n == (uint64_t)(end - from)) {
            r = zp_block_read(f, no, to);
        } else {
            free(spare);
            spare = malloc((size_t)(end - from));
            r = spare ? zp_block_read(f, no, spare) : -ENOMEM;
            if (r >= 0) memcpy(to, spare + (off - from), n);
        }
        to += n;
        off += (int64_t)n;
        len -= n;
    }
    free(spare);
    return r;
}

/* ---- verifying -------------------------------------------------------------------------------------------------------------- */

static int64_t verify_block(struct zp_file *f, uint32_t no, uint32_t deep, const char **ret_why)
{
    uint32_t len = f->packed_at[no + 1] - f->packed_at[no], raw = f->raw_at[no + 1] - f->raw_at[no];
    uint8_t *in = malloc((size_t)len + 1), *out = deep ? malloc(raw) : NULL;
    int64_t r = !in || (deep && !out) ? -ENOMEM : zl_io_read_all(f->io, f->fd, in, len, f->packed_at[no]);
    *ret_why = "it cannot be read from the disk";
    if (r >= 0 && zl_crc32(0, in, len) != f->sums[no]) {
        *ret_why = "its checksum is wrong";
        r = -EBADMSG;
    }
    if (r >= 0 && deep) {
        r = unpack(f, in, len, out, raw);
        *ret_why = "it does not decompress to what was packed";
    }
    free(in);
    free(out);
    return r;
}

int64_t zp_verify(const struct zr_io_v1 *io, const char *path, uint32_t deep, const struct zp_damage *damage,
                  const struct zp_pace *pace)
{
    struct zp_file *f;
    const char *why;
    int64_t n_bad = 0, r = zp_open(io, path, &f, &why);
    if (r < 0) return r;
    for (uint32_t no = 0; no < f->info.n_blocks && r >= 0; no++) {
        r = verify_block(f, no, deep, &why);
        if (r == -EBADMSG || r == -EIO) {
            n_bad++;
            if (damage) damage->call(damage->arg, f->raw_at[no], f->raw_at[no + 1] - f->raw_at[no], why);
            r = 0;
        }
        if (r >= 0 && pace && pace->call(pace->arg, f->raw_at[no + 1] - f->raw_at[no])) r = -ECANCELED;
    }
    zp_close(f);
    return r < 0 ? r : n_bad;
}
