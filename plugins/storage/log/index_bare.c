/* SPDX-License-Identifier: Apache-2.0 */
/* index_bare.c - parts of the log whose records have no keys, remembered in <root>/zarya/bare: without it every start would read
 * them again to see that the index lacks nothing of them.
 *
 * bare: 0 u64 magic "ZRBARE01" | 8 u32 count | count times { i64 from | i64 until | i64 lastPhys | i64 lastMs } | u32 CRC-32 of all before
 *   No record in [from, until) has keys. lastPhys, lastMs: where its last record begins, and that one's store time.
 *
 * What stays true:
 *   1. The log does not change but at its end; a part of it whose last record is still the one that was there is the part that
 *      was read. Otherwise (another broker cut the log and went on) the row is not believed.
 *   2. Only parts that were read wholly, without damage, are remembered.
 *   3. Losing the document costs time and nothing else. */
#include "index.h"
#include <errno.h>
#include <stdlib.h>

#define MAGIC 0x5A52424152453031ull
#define HEAD 12u
#define ROW 32u

static void drop(struct zs_bares *b, uint32_t i)
{
    memmove(b->row + i, b->row + i + 1, (b->n - i - 1) * sizeof *b->row);
    b->n--;
    b->dirty = 1;
}

static uint32_t row_parse(const uint8_t *p, struct zs_bare *ret)
{
    *ret = (struct zs_bare){ (int64_t)zl_load64(p), (int64_t)zl_load64(p + 8), (int64_t)zl_load64(p + 16), (int64_t)zl_load64(p + 24) };
    return ret->from >= 0 && ret->from <= ret->last_phys && ret->last_phys < ret->until && ret->until <= ZS_MAX_POSITION;
}

void zs_bare_load(struct zr_inst *st)
{
    struct zs_bares *b = &st->index->bare;
    char path[ZS_PATH];
    struct zl_buf bytes;
    zl_buf_init(&bytes, HEAD + ZS_BARE_MAX * ROW + 4);
    b->n = b->dirty = 0;
    if (zs_path(path, "%s/bare", st->own_dir) && zl_io_load(st->io, path, &bytes) >= 0 && bytes.len >= HEAD + 4) {
        uint64_t n = zl_load32(bytes.ptr + 8);
        uint32_t good = zl_load64(bytes.ptr) == MAGIC && n <= ZS_BARE_MAX && bytes.len == HEAD + n * ROW + 4 &&
                        zl_crc32(0, bytes.ptr, bytes.len - 4) == zl_load32(bytes.ptr + bytes.len - 4);
        if (!good) zs_log(st, ZR_LOG_WARN, "%s is damaged and is not used", path);
        for (uint64_t i = 0; good && i < n; i++) b->n += row_parse(bytes.ptr + HEAD + i * ROW, &b->row[b->n]);
    }
    zl_buf_free(&bytes);
}

uint32_t zs_bare_has(struct zr_inst *st, int64_t from, int64_t until)
{
    struct zs_bares *b = &st->index->bare;
    for (uint32_t i = 0; i < b->n; i++) {
        struct zl_record r;
        if (b->row[i].from > from || b->row[i].until < until) continue;
        if (zs_scan_one(st, b->row[i].last_phys, &r) && r.store_ms == b->row[i].last_ms) return 1;
        drop(b, i--);
    }
    return 0;
}

void zs_bare_add(struct zr_inst *st, const struct zs_bare *row)
{
    struct zs_bares *b = &st->index->bare;
    int64_t begin = atomic_load(&st->begin);
    if (row->last_phys < row->from || row->until - row->from < ZS_BARE_LEAST) return;
    for (uint32_t i = 0; i < b->n;) { /* of what is gone from the log, or said again */
        if (b->row[i].until <= begin || (b->row[i].from >= row->from && b->row[i].until <= row->until)) drop(b, i);
        else i++;
    }
    if (b->n == ZS_BARE_MAX) drop(b, 0);
    b->row[b->n++] = *row;
    b->dirty = 1;
}

void zs_bare_save(struct zr_inst *st)
{
    struct zs_bares *b = &st->index->bare;
    char path[ZS_PATH];
    struct zl_buf out;
    if (!b->dirty || !zs_path(path, "%s/bare", st->own_dir)) return;
    zl_buf_init(&out, HEAD + ZS_BARE_MAX * ROW + 4);
    zl_buf_be64(&out, MAGIC);
    zl_buf_be32(&out, b->n);
    for (uint32_t i = 0; i < b->n; i++) {
        zl_buf_be64(&out, (uint64_t)b->row[i].from);
        zl_buf_be64(&out, (uint64_t)b->row[i].until);
        zl_buf_be64(&out, (uint64_t)b->row[i].last_phys);
        zl_buf_be64(&out, (uint64_t)b->row[i].last_ms);
    }
    zl_buf_be32(&out, out.failed ? 0 : zl_crc32(0, out.ptr, out.len));
    int64_t r = out.failed ? -ENOMEM : zl_io_replace(st->io, path, zl_buf_as_span(&out));
    if (r < 0) zs_log(st, ZR_LOG_WARN, "%s cannot be written: %s; the next start reads more of the log", path, zs_errno_text(r));
    else b->dirty = 0;
    zl_buf_free(&out);
}
