/* SPDX-License-Identifier: Apache-2.0 */
/* ext.c - reading the extents of queues (ext.h): tags code, store time and bit map of a message, beside its queue entry.
 *
 * What stays true:
 *   1. Extents are a shortcut. What they say the record says too, but for the bit map, without which the record is asked: a unit
 *      that is missing, damaged or perhaps cut costs a reading of the record and nothing else.
 *   2. A unit has no checksum. It is believed when its two sizes agree and another unit (or the mark of the file's end) stands
 *      right behind it: zeroes, a cut file, a lost page show by that. The newest unit of a queue is therefore never believed.
 *   3. Descriptors are those of queue files, under the same bound (zs_qfile_hold), with numbers below zero.
 *
 * LOCKING: none of its own. Readers hold nothing; a unit is written before the entry that leads to it. */
#include "ext.h"
#include <errno.h>
#include <stdlib.h>
#include "zs_pack.h"

#define LOOKED_AT 64u /* files, to learn the size of all */

/* ---- units ---------------------------------------------------------------------------------------------------------------- */

uint32_t zs_unit_head(const uint8_t *p, struct zs_unit *ret)
{
    uint32_t size = zl_load16(p), bits = zl_load16(p + 18);
    if (size < ZS_EXT_HEAD || size > ZS_EXT_MOST || bits != size - ZS_EXT_HEAD) return 0;
    *ret = (struct zs_unit){ .tags = (int64_t)zl_load64(p + 2), .store_ms = (int64_t)zl_load64(p + 10), .n_bits = bits, .size = size };
    return ret->tags <= ZS_EXT_ADDRESS ? 0 : size;
}

void zs_unit_store(uint8_t *to, const struct zs_unit *u)
{
    zl_store16(to, (uint16_t)u->size);
    zl_store64(to + 2, (uint64_t)u->tags);
    zl_store64(to + 10, (uint64_t)u->store_ms);
    zl_store16(to + 18, (uint16_t)u->n_bits);
    if (u->n_bits) memcpy(to + ZS_EXT_HEAD, u->bits, u->n_bits);
}

uint32_t zs_unit_behind(const uint8_t *p)
{
    uint32_t v = zl_load16(p);
    return v == 0xFFFFu || (v >= ZS_EXT_HEAD && v <= ZS_EXT_MOST);
}

/* ---- files ---------------------------------------------------------------------------------------------------------------- */

uint32_t zs_ext_path(struct zr_inst *st, const struct zr_queue *q, int64_t no, char *to)
{
    if (no < 0) return zs_path(to, "%s/%s/%d", st->ext_dir, q->topic, q->id);
    return zs_path(to, "%s/%s/%d/%020lld", st->ext_dir, q->topic, q->id, (long long)(no * st->conf.extent_file_size));
}

struct look {
    struct zr_inst *st;
    char path[ZS_PATH];
    uint64_t sizes[LOOKED_AT];
    uint32_t n, depth;
};

static int32_t name_kept(void *ctx, const char *name)
{
    struct zl_buf *b = ctx;
    zl_buf_add(b, name, strlen(name) + 1);
    return b->failed;
}

/* Sizes of files three folders down. -errno: not all of it could be looked at. */
static int64_t look_below(struct look *l)
{
    struct zl_buf names;
    struct zr_io_stat stat;
    uint64_t len = strlen(l->path);
    zl_buf_init(&names, 64u << 20);
    int64_t r = l->st->io->list(l->st->io->ctx, l->path, name_kept, &names);
    if (r > 0) r = -ENOMEM;
    l->depth++;
    for (uint64_t at = 0; r >= 0 && at < names.len && l->n < LOOKED_AT; at += strlen((char *)names.ptr + at) + 1) {
        int64_t base;
        const char *name = (const char *)names.ptr + at;
        if (len + 1 + strlen(name) >= sizeof l->path) continue;
        l->path[len] = '/';
        memcpy(l->path + len + 1, name, strlen(name) + 1);
        if (l->depth < 3) r = look_below(l);
        else if (zs_name_offset(name, &base) && l->st->io->stat(l->st->io->ctx, l->path, &stat) >= 0) l->sizes[l->n++] = stat.size;
        if (r == -ENOTDIR) r = 0;
        l->path[len] = 0;
    }
    l->depth--;
    zl_buf_free(&names);
    return r;
}

/* The size that most of them have; the configured one if any has it, or none has a possible one. */
static int64_t size_of_most(const struct look *l, int64_t conf)
{
    uint64_t best = 0, most = 0;
    for (uint32_t i = 0; i < l->n; i++) {
        uint64_t same = 0;
        if (l->sizes[i] == (uint64_t)conf) return conf;
        for (uint32_t k = 0; k < l->n; k++) same += l->sizes[k] == l->sizes[i];
        if (same <= most || l->sizes[i] < ZS_EXT_HEAD + ZS_EXT_SPARE || l->sizes[i] > INT32_MAX) continue;
        most = same;
        best = l->sizes[i];
    }
    return most ? (int64_t)best : conf;
}

void zs_ext_load(struct zr_inst *st)
{
    struct look *l = calloc(1, sizeof *l);
    int64_t r = l ? 0 : -ENOMEM;
    if (l) {
        l->st = st;
        r = zs_path(l->path, "%s", st->ext_dir) ? look_below(l) : -ENAMETOOLONG;
    }
    st->ext_there = r >= 0 || r != -ENOENT;
    if (l && l->n) {
        int64_t size = size_of_most(l, st->conf.extent_file_size);
        if (size != st->conf.extent_file_size)
            zs_log(st, ZR_LOG_WARN, "queue_extent_file_size is %lld in the configuration; the extents were made with %lld, which is kept",
                   (long long)st->conf.extent_file_size, (long long)size);
        st->conf.extent_file_size = size;
    }
    if (r < 0 && r != -ENOENT && r != -ENOTDIR) {
        zs_log(st, ZR_LOG_WARN, "%s cannot be read: %s; no extents are written until a restart", st->ext_dir, zs_errno_text(r));
        st->conf.extents = 0;
    }
    free(l);
}

/* ---- reading ---------------------------------------------------------------------------------------------------------------- */

void zs_ext_open(struct zs_ext_at *x, struct zr_inst *st, struct zr_queue *q)
{
    x->st = st;
    x->q = q;
    x->from = -1;
    x->len = 0;
}

static struct zs_qfile *file_hold(struct zr_inst *st, struct zr_queue *q, int64_t no)
{
    char path[ZS_PATH];
    struct zs_qfile *f = zs_qfile_hold(st, q, ZS_QFILE_EXT(no));
    if (f || !zs_ext_path(st, q, no, path)) return f;
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
    return fd < 0 ? NULL : zs_qfile_keep(st, q, ZS_QFILE_EXT(no), (int32_t)fd);
}

/* Up to n bytes at offset, which lie in one file: at least min of them are in the window, or NULL. */
static const uint8_t *window(struct zs_ext_at *x, int64_t offset, uint32_t min)
{
    if (x->from >= 0 && offset >= x->from && offset + min <= x->from + x->len) return x->buf + (offset - x->from);
    int64_t size = x->st->conf.extent_file_size, in = offset % size, have = 0, want = size - in;
    if (want > (int64_t)sizeof x->buf) want = sizeof x->buf;
    if (want < min) return NULL;
    struct zs_qfile *f = file_hold(x->st, x->q, offset / size);
    if (!f) return NULL;
    while (have < want) {
        int64_t r = x->st->io->pread(x->st->io->ctx, f->fd, x->buf + have, (uint64_t)(want - have), in + have);
        if (r <= 0) break;
        have += r;
    }
    zs_qfile_let(x->st, f);
    x->from = offset;
    x->len = (uint32_t)have;
    return have >= min ? x->buf : NULL;
}

static int bad_unit(struct zs_ext_at *x, int64_t offset)
{
    if (!atomic_exchange(&x->q->ext_told, 1)) {
        zs_log(x->st, ZR_LOG_WARN, "queue %s %d: there is no whole extent at %lld; what is missing is taken from the records", x->q->topic,
               x->q->id, (long long)offset);
        zs_count(x->st, ZS_M_DAMAGED, 1);
    }
    return ZS_EXT_BAD;
}

int zs_ext_get(struct zs_ext_at *x, int64_t address, struct zs_unit *ret)
{
    int64_t offset = zs_ext_offset(address);
    const uint8_t *p = window(x, offset, ZS_EXT_HEAD);
    if (!p || !zs_unit_head(p, ret)) return bad_unit(x, offset);
    if (offset % x->st->conf.extent_file_size + ret->size > x->st->conf.extent_file_size - (int64_t)ZS_EXT_SPARE) return bad_unit(x, offset);
    if (ret->n_bits > ZR_BITS_BYTES) {
        ret->n_bits = 0;
        p = window(x, offset + ret->size, 2);
        return !p ? bad_unit(x, offset) : zs_unit_behind(p) ? ZS_EXT_GOOD : ZS_EXT_NEWEST;
    }
    p = window(x, offset, ret->size + 2);
    if (!p) return bad_unit(x, offset);
    if (ret->n_bits) ret->bits = p + ZS_EXT_HEAD;
    return zs_unit_behind(p + ret->size) ? ZS_EXT_GOOD : ZS_EXT_NEWEST;
}

/* Is one of the consumer's bits not set, in a map that speaks for it? */
static uint8_t barred(const struct zr_bits *b, const struct zs_unit *u)
{
    if (!b || !u->bits || u->n_bits * 8 != b->n_bits || u->store_ms <= b->after_ms) return 0;
    for (uint32_t i = 0; i < b->n_positions && i < ZR_BITS_POSITIONS; i++) {
        uint32_t at = b->positions[i];
        if (at < b->n_bits && !(u->bits[at / 8] & 1u << at % 8)) return ZS_TAGS_BARRED;
    }
    return 0;
}

void zs_tags_resolve(struct zr_inst *st, struct zr_queue *q, struct zs_entry *e, uint32_t n, const struct zr_bits *bits, uint8_t *what)
{
    struct zs_ext_at x;
    zs_ext_open(&x, st, q);
    if (what) memset(what, 0, n);
    for (uint32_t i = 0; i < n; i++) {
        struct zl_record rec;
        struct zs_hold hold;
        struct zs_unit u;
        if (e[i].tags > ZS_EXT_ADDRESS || !zs_entry_real(&e[i])) continue;
        if (zs_ext_get(&x, e[i].tags, &u) == ZS_EXT_GOOD) {
            e[i].tags = u.tags;
            if (what) what[i] = barred(bits, &u);
        } else if (zs_record_get(st, e[i].phys, e[i].size, 0, &rec, &hold)) {
            e[i].tags = zs_tags_of(st, &rec);
            zs_hold_put(st, hold.pin);
        } else if (what) {
            what[i] = ZS_TAGS_UNKNOWN;
        }
    }
}
