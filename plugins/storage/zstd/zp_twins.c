/* SPDX-License-Identifier: Apache-2.0 */
/* zp_twins.c - a segment in both forms: what has one of them that the other lacks?
 *
 * Neither form may be unlinked while it has a whole record that the other does not have byte for byte. A record is whole when it
 * names its own place, its lengths agree and its body's checksum is right: that is all that a reader takes. Of a packed form only
 * blocks that their checksum vouches for are read.
 *
 * Both forms are walked, not merely compared: in a block that differs either may be right, or both may. */
#include <errno.h>
#include <stdlib.h>
#include "zl/record.h"
#include "zp_int.h"

#define WINDOW (256u * 1024)
#define LEAST 36u /* of a record: up to the end of its own place */

struct form {
    const struct zr_io_v1 *io;
    struct zp_file *packed; /* NULL: plain, or one that cannot be opened */
    int32_t fd;             /* of the plain one */
    int64_t size;
};
struct twins {
    struct form of, in; /* records of `of` are looked for `in` the other */
    int64_t base;
    uint8_t *win, *rec, *other;
    uint64_t win_cap, rec_cap, other_cap;
    const struct zp_damage *lost;
    const struct zp_pace *pace;
};

static uint8_t *room(uint8_t **at, uint64_t *cap, uint64_t n)
{
    if (n > *cap) {
        uint8_t *more = realloc(*at, n);
        if (!more) return NULL;
        *at = more;
        *cap = n;
    }
    return *at;
}

/* 1: the bytes are there; 0: it does not have them; or -errno. */
static int64_t form_read(const struct form *f, uint8_t *to, uint64_t len, int64_t off)
{
    if (off + (int64_t)len > f->size) return 0;
    int64_t r = f->packed ? zp_read(f->packed, to, len, off) : f->fd >= 0 ? zl_io_read_all(f->io, f->fd, to, len, off) : -EBADMSG;
    return r >= 0 ? 1 : f->fd < 0 && r == -EBADMSG ? 0 : r;
}

/* The bytes from off on that are read at a time: a block, or a window with what a record's beginning may need behind it. 0: a
 * damaged block. *ret_next: where the next ones begin. */
static int64_t window(struct twins *t, int64_t off, uint64_t *ret_len, int64_t *ret_next)
{
    const struct form *f = &t->of;
    int64_t from = off, to = off + WINDOW;
    if (f->packed) zp_block_of(f->packed, off, &from, &to);
    if (to > f->size) to = f->size;
    *ret_next = to;
    if (!f->packed && (to += LEAST) > f->size) to = f->size;
    *ret_len = (uint64_t)(to - off);
    return room(&t->win, &t->win_cap, *ret_len) ? form_read(f, t->win, *ret_len, off) : -ENOMEM;
}

static uint32_t be32(const uint8_t *p) { return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3]; }
static int64_t be64(const uint8_t *p) { return (int64_t)((uint64_t)be32(p) << 32 | be32(p + 4)); }

/* The size of the whole record whose first LEAST bytes are at head, and which is in t->rec then. 0: none; or -errno. */
static int64_t whole_at(struct twins *t, const uint8_t *head, int64_t off)
{
    struct zl_record rec;
    const char *why;
    uint32_t size = be32(head), magic = be32(head + 4);
    if ((magic != ZL_MAGIC_V1 && magic != ZL_MAGIC_V2) || be64(head + 28) != t->base + off) return 0;
    if (size < LEAST || size > ZP_MAX_BLOCK || (int64_t)size > t->of.size - off) return 0;
    if (!room(&t->rec, &t->rec_cap, size)) return -ENOMEM;
    int64_t r = form_read(&t->of, t->rec, size, off);
    if (r <= 0) return r;
    return zl_record_parse((struct zr_span){ t->rec, size }, 1, &rec, &why) == ZR_OK ? (int64_t)size : 0;
}

/* 1: the other form has not what is in t->rec. */
static int64_t other_lacks(struct twins *t, int64_t size, int64_t off)
{
    if (!room(&t->other, &t->other_cap, (uint64_t)size)) return -ENOMEM;
    int64_t r = form_read(&t->in, t->other, (uint64_t)size, off);
    if (r < 0) return r;
    uint32_t lacks = r == 0 || memcmp(t->other, t->rec, (size_t)size) != 0;
    if (lacks && t->lost) t->lost->call(t->lost->arg, off, size, "the other form of the segment has another message here");
    return lacks;
}

/* Walks the window at off; *at: where the next is to begin. The number of records that the other form lacks, or -errno. */
static int64_t walk_window(struct twins *t, int64_t off, uint64_t len, int64_t next, int64_t *at)
{
    int64_t n = 0, pos = off;
    while (pos < next && pos + (int64_t)LEAST <= off + (int64_t)len) {
        int64_t size = whole_at(t, t->win + (pos - off), pos);
        int64_t r = size > 0 ? other_lacks(t, size, pos) : size;
        if (r < 0) return r;
        n += r;
        pos += size > 0 ? size : 1;
    }
    *at = pos > next ? pos : next;
    return n;
}

static int64_t walk(struct twins *t)
{
    int64_t n = 0, off = 0;
    while (off < t->of.size) {
        uint64_t len;
        int64_t next, at = 0, r = window(t, off, &len, &next);
        if (r < 0) return r;
        if (r == 0) at = next;
        else if ((r = walk_window(t, off, len, next, &at)) < 0) return r;
        else n += r;
        if (t->pace && t->pace->call(t->pace->arg, (uint64_t)(at - off))) return -ECANCELED;
        off = at;
    }
    return n;
}

/* Does it consist of whole records, from its first byte to the blank at its end? Then nothing in another form can be missing in it. */
static int64_t is_chain(struct twins *t, int64_t from, int64_t to)
{
    uint8_t head[LEAST];
    while (from < to) {
        if (to - from <= 8) return 1;
        int64_t n = to - from < (int64_t)LEAST ? to - from : (int64_t)LEAST, r = form_read(&t->of, head, (uint64_t)n, from);
        if (r <= 0) return r;
        if (be32(head + 4) == ZL_MAGIC_BLANK) return to == t->of.size && be32(head) == (uint32_t)(to - from);
        r = n == LEAST ? whole_at(t, head, from) : 0;
        if (r <= 0) return r;
        from += r;
    }
    return from == to;
}

static int64_t plain_open(struct form *f, const char *path)
{
    struct zr_io_stat stat;
    int64_t fd = f->io->open(f->io->ctx, path, ZR_IO_READ, 0), r = fd < 0 ? fd : f->io->fstat(f->io->ctx, (int32_t)fd, &stat);
    f->fd = fd < 0 ? -1 : (int32_t)fd;
    if (r >= 0) f->size = (int64_t)stat.size;
    return r;
}

static int64_t twins_open(struct twins *t, struct form *packed, struct form *plain, const char *packed_path, const char *plain_path)
{
    struct zp_info info;
    int64_t r = plain_open(plain, plain_path);
    if (r < 0) return r;
    r = zp_open(packed->io, packed_path, &packed->packed, NULL);
    if (r < 0) {
        packed->packed = NULL;
        return r;
    }
    zp_about(packed->packed, &info);
    packed->size = info.raw_size;
    return info.base == t->base ? 0 : -EBADMSG;
}

static void twins_close(struct twins *t)
{
    struct form *const both[2] = { &t->of, &t->in };
    for (int i = 0; i < 2; i++) {
        if (both[i]->packed) zp_close(both[i]->packed);
        if (both[i]->fd >= 0) both[i]->io->close(both[i]->io->ctx, both[i]->fd);
    }
    free(t->win);
    free(t->rec);
    free(t->other);
}

int64_t zp_lacks(const struct zr_io_v1 *io, const char *packed, const char *plain, int64_t base, uint32_t of,
                 const struct zp_damage *lost, const struct zp_pace *pace)
{
    struct twins t = { .of = { .io = io, .fd = -1 }, .in = { .io = io, .fd = -1 }, .base = base, .lost = lost, .pace = pace };
    int64_t r = of == ZP_OF_PACKED ? twins_open(&t, &t.of, &t.in, packed, plain) : twins_open(&t, &t.in, &t.of, packed, plain);
    if (r == -EBADMSG && of == ZP_OF_PACKED && t.in.fd >= 0) { /* what it has nobody can tell, unless there can be no more */
        struct form packed_form = t.of;
        t.of = t.in;
        t.in = packed_form;
        r = t.of.size > 0 ? is_chain(&t, 0, t.of.size) : 0;
        r = r > 0 ? 0 : r == 0 ? -EBADMSG : r;
    } else if (r == -EBADMSG && t.of.fd >= 0) { /* it has nothing that could be read */
        if (t.in.packed) zp_close(t.in.packed);
        t.in.packed = NULL;
        t.in.size = 0;
        r = walk(&t);
    } else if (r >= 0) {
        r = walk(&t);
    }
    twins_close(&t);
    return r;
}

int64_t zp_plain_lacks(const struct zr_io_v1 *io, const char *of, const char *in, int64_t base, const struct zp_damage *lost,
                       const struct zp_pace *pace)
{
    struct twins t = { .of = { .io = io, .fd = -1 }, .in = { .io = io, .fd = -1 }, .base = base, .lost = lost, .pace = pace };
    int64_t r = plain_open(&t.of, of);
    if (r >= 0) r = plain_open(&t.in, in);
    if (r >= 0) r = walk(&t);
    twins_close(&t);
    return r;
}

int64_t zp_plain_whole(const struct zr_io_v1 *io, int32_t plain, int64_t base, int64_t size, int64_t from, int64_t to)
{
    struct twins t = { .of = { .io = io, .fd = plain, .size = size }, .in = { .io = io, .fd = -1 }, .base = base };
    int64_t r = is_chain(&t, from, to);
    free(t.rec);
    return r;
}
