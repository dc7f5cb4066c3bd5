/* SPDX-License-Identifier: Apache-2.0 */
/* zp_convert.c - from one form to the other, so that a kill or a power failure at any step loses nothing.
 *
 *   to packed:  write x.zst.tmp, sync ──> compare it with x ──> rename to x.zst ──> sync the folder ──> unlink x ──> sync
 *   to plain:   write x.tmp, sync ──> compare it with x.zst ──> rename to x ──> sync the folder ──> unlink x.zst ──> sync
 *
 * A name without .tmp is therefore always a whole form. Both forms beside one another are what an interruption leaves between
 * rename and unlink: they are the same then. Where they are not (one was damaged, or put there by hand), the one that goes has no
 * whole record that the other lacks (zp_twins.c); else one is made of both; else both stay, and a person decides. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include "zp_int.h"

#define PATH 1100u

static uint32_t path_of(char *to, const char *plain, const char *suffix)
{
    int n = snprintf(to, PATH, "%s%s", plain, suffix);
    return n > 0 && n < (int)PATH;
}

static int64_t sync_folder(const struct zr_io_v1 *io, const char *path)
{
    char dir[PATH];
    const char *slash = strrchr(path, '/');
    if (!slash || !path_of(dir, path, "")) return -EINVAL;
    dir[slash - path] = 0;
    return io->sync_dir(io->ctx, dir[0] ? dir : "/");
}

/* Gives the file that was written and compared its name, makes that durable, and only then takes the other form away. */
static int64_t change_over(const struct zr_io_v1 *io, const char *temporary, const char *name, const char *other)
{
    int64_t r = io->rename(io->ctx, temporary, name);
    if (r >= 0) r = sync_folder(io, name);
    if (r >= 0) r = io->unlink(io->ctx, other);
    if (r == -ENOENT) r = 0;
    return r < 0 ? r : sync_folder(io, name);
}

static int64_t drop_other(const struct zr_io_v1 *io, const char *other)
{
    int64_t r = io->unlink(io->ctx, other);
    return r < 0 && r != -ENOENT ? r : sync_folder(io, other);
}

/* ---- expanding ------------------------------------------------------------------------------------------------------------- */

static uint32_t is_zero(const uint8_t *p, uint64_t n)
{
    while (n && *p == 0) p++, n--;
    return n == 0;
}

/* What stands for a damaged block: what the plain form has there (other, -1: there is none), whole or, if that is allowed (damage),
 * in part; or zeroes, if that is. */
static int64_t other_block(const struct zr_io_v1 *io, struct zp_file *f, int32_t other, int64_t from, int64_t to, uint8_t *buf,
                           const struct zp_damage *damage, int64_t error)
{
    struct zp_info info;
    zp_about(f, &info);
    memset(buf, 0, (size_t)(to - from));
    int64_t whole = other < 0 ? 0 : zp_plain_whole(io, other, info.base, info.raw_size, from, to);
    if (whole <= 0 && !damage) return error;
    if (other >= 0 && zl_io_read_all(io, other, buf, (uint64_t)(to - from), from) < 0) {
        memset(buf, 0, (size_t)(to - from));
        whole = 0;
        if (!damage) return error;
    }
    if (whole <= 0) damage->call(damage->arg, from, to - from, "this block of the packed segment is damaged");
    return 0;
}

/* One block. What is zero stays a hole. */
static int64_t expand_block(const struct zr_io_v1 *io, struct zp_file *f, uint32_t no, int32_t out, int32_t other,
                            const struct zp_damage *damage)
{
    int64_t from, to;
    zp_block_at(f, no, &from, &to);
    uint8_t *buf = malloc((size_t)(to - from));
    int64_t r = buf ? zp_block_read(f, no, buf) : -ENOMEM;
    if (r == -EBADMSG || r == -EIO) r = other_block(io, f, other, from, to, buf, damage, r);
    if (r >= 0 && !is_zero(buf, (uint64_t)(to - from))) r = zl_io_write_all(io, out, buf, (uint64_t)(to - from), from);
    free(buf);
    return r;
}

/* Retention goes by the age of the file: it is to be that of the records, not of their last change of form. */
static int64_t keep_mtime(const struct zr_io_v1 *io, int32_t fd, int64_t mtime_ns)
{
    int64_t r = io->set_mtime ? io->set_mtime(io->ctx, fd, mtime_ns) : 0;
    return r == -EPERM || r == -EOPNOTSUPP || r == -EINVAL ? 0 : r; /* then its time begins anew */
}

static int64_t expand(const struct zr_io_v1 *io, const char *from, const char *to, const char *beside, const struct zp_damage *damage,
                      const struct zp_pace *pace)
{
    struct zp_file *f;
    struct zp_info info;
    int64_t r = zp_open(io, from, &f, NULL);
    if (r < 0) return r;
    zp_about(f, &info);
    int64_t other = beside ? io->open(io->ctx, beside, ZR_IO_READ, 0) : -1;
    int64_t out = beside && other < 0 ? other : io->open(io->ctx, to, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_TRUNC, 0644);
    r = out < 0 ? out : io->ftruncate(io->ctx, (int32_t)out, info.raw_size);
    for (uint32_t no = 0; no < info.n_blocks && r >= 0; no++) {
        int64_t a, b;
        r = expand_block(io, f, no, (int32_t)out, (int32_t)other, damage);
        zp_block_at(f, no, &a, &b);
        if (r >= 0 && pace && pace->call(pace->arg, (uint64_t)(b - a))) r = -ECANCELED;
    }
    if (r >= 0) r = keep_mtime(io, (int32_t)out, info.mtime_ns);
    if (r >= 0) r = io->fsync(io->ctx, (int32_t)out);
    if (out >= 0) io->close(io->ctx, (int32_t)out);
    if (other >= 0) io->close(io->ctx, (int32_t)other);
    zp_close(f);
    return r < 0 ? r : 0;
}

int64_t zp_expand(const struct zr_io_v1 *io, const char *from, const char *to, const struct zp_damage *damage,
                  const struct zp_pace *pace)
{
    return expand(io, from, to, NULL, damage, pace);
}

/* ---- comparing ------------------------------------------------------------------------------------------------------------- */

enum { STRICT, LOSSY, MERGED };

/* 0: the same; 1: another; -errno. A block that is damaged counts as another, unless LOSSY, where the plain one must be zero, or
 * MERGED, where it came from elsewhere. */
static int64_t compare_block(const struct zr_io_v1 *io, struct zp_file *f, uint32_t no, int32_t plain, uint32_t lossy)
{
    int64_t from, to;
    zp_block_at(f, no, &from, &to);
    uint64_t n = (uint64_t)(to - from);
    uint8_t *a = malloc(n), *b = malloc(n);
    int64_t r = a && b ? zl_io_read_all(io, plain, b, n, from) : -ENOMEM;
    if (r >= 0) {
        r = zp_block_read(f, no, a);
        if (r >= 0) r = memcmp(a, b, n) != 0;
        else if (r == -EBADMSG || r == -EIO) r = lossy == MERGED ? 0 : lossy == LOSSY ? !is_zero(b, n) : 1;
    }
    free(a);
    free(b);
    return r;
}

static int64_t compare(const struct zr_io_v1 *io, const char *packed, const char *plain, uint32_t lossy, const struct zp_pace *pace)
{
    struct zp_file *f;
    struct zp_info info;
    struct zr_io_stat stat;
    int64_t r = zp_open(io, packed, &f, NULL);
    if (r < 0) return r;
    zp_about(f, &info);
    int64_t fd = io->open(io->ctx, plain, ZR_IO_READ, 0);
    r = fd < 0 ? fd : io->fstat(io->ctx, (int32_t)fd, &stat);
    if (r >= 0 && stat.size != (uint64_t)info.raw_size) r = -EBADMSG;
    for (uint32_t no = 0; no < info.n_blocks && r >= 0; no++) {
        int64_t a, b;
        r = compare_block(io, f, no, (int32_t)fd, lossy);
        if (r > 0) r = -EBADMSG;
        zp_block_at(f, no, &a, &b);
        if (r >= 0 && pace && pace->call(pace->arg, (uint64_t)(b - a))) r = -ECANCELED;
    }
    if (fd >= 0) io->close(io->ctx, (int32_t)fd);
    zp_close(f);
    return r < 0 ? r : 0;
}

int64_t zp_compare(const struct zr_io_v1 *io, const char *packed, const char *plain, const struct zp_pace *pace)
{
    return compare(io, packed, plain, STRICT, pace);
}

/* ---- one segment, every step -------------------------------------------------------------------------------------------------- */

/* 1: it is, 0: it is not, -errno: that cannot be told. */
static int64_t is_there(const struct zr_io_v1 *io, const char *path, uint64_t *ret_size)
{
    struct zr_io_stat stat;
    int64_t r = io->stat(io->ctx, path, &stat);
    *ret_size = r >= 0 ? stat.size : 0;
    return r >= 0 ? 1 : r == -ENOENT ? 0 : r;
}

/* The position that a segment's name tells: the 20 digits behind the last slash. */
static int64_t base_of(const char *plain)
{
    const char *slash = strrchr(plain, '/'), *at = slash ? slash + 1 : plain;
    int64_t v = 0;
    for (int i = 0; i < 20; i++) {
        if (at[i] < '0' || at[i] > '9' || v > (INT64_MAX - 9) / 10) return -EINVAL;
        v = v * 10 + (at[i] - '0');
    }
    return v;
}

/* Both forms are there and differ, and the packed one has what the plain one lacks: a plain one is made of both, which has every
 * record of either, or nothing is changed. With damage, what it lacks after all is told, and may be lost. */
static int64_t merge(const struct zr_io_v1 *io, const char *plain, const char *packed, const char *temporary, int64_t base,
                     const struct zp_damage *damage, const struct zp_pace *pace)
{
    int64_t r = expand(io, packed, temporary, plain, damage, pace);
    if (r >= 0) r = compare(io, packed, temporary, MERGED, pace);
    if (r >= 0) r = zp_lacks(io, packed, temporary, base, ZP_OF_PACKED, NULL, pace);
    if (r == 0) r = zp_plain_lacks(io, plain, temporary, base, damage, pace);
    if (r > 0 && damage) r = 0;
    if (r == 0) return change_over(io, temporary, plain, packed);
    io->unlink(io->ctx, temporary);
    return r > 0 ? -EBADMSG : r;
}

/* Which of two forms that differ goes, when plain ones are wanted? */
static int64_t settle_plain(const struct zr_io_v1 *io, const char *plain, const char *packed, const char *temporary,
                            const struct zp_damage *damage, const struct zp_pace *pace)
{
    int64_t base = base_of(plain), more = base < 0 ? base : zp_lacks(io, packed, plain, base, ZP_OF_PACKED, NULL, pace);
    if (more == -EBADMSG && damage) { /* nothing can be read of it */
        damage->call(damage->arg, 0, 0, "the packed form cannot be read, and the plain one beside it is not whole");
        more = 0;
    }
    if (more == 0) return drop_other(io, packed);
    return more < 0 ? more : merge(io, plain, packed, temporary, base, damage, pace);
}

int64_t zp_to_plain(const struct zr_io_v1 *io, const char *plain, const struct zp_damage *damage, const struct zp_pace *pace)
{
    char packed[PATH], temporary[PATH];
    uint64_t size, packed_size;
    if (!path_of(packed, plain, ZP_SUFFIX) || !path_of(temporary, plain, ".tmp")) return -ENAMETOOLONG;
    int64_t have = is_there(io, plain, &size), there = is_there(io, packed, &packed_size);
    if (have < 0 || there < 0) return have < 0 ? have : there;
    if (!there) return have ? 0 : -ENOENT;
    if (have) {
        int64_t same = zp_compare(io, packed, plain, pace);
        if (same == 0) return drop_other(io, packed);
        return same == -EBADMSG ? settle_plain(io, plain, packed, temporary, damage, pace) : same;
    }
    int64_t r = zp_expand(io, packed, temporary, damage, pace);
    if (r >= 0) r = compare(io, packed, temporary, damage ? LOSSY : STRICT, pace);
    if (r >= 0) r = change_over(io, temporary, plain, packed);
    else io->unlink(io->ctx, temporary);
    return r;
}

/* The same, when packed ones are wanted. 1: the plain one has everything, and is to be packed again. */
static int64_t settle_packed(const struct zr_io_v1 *io, const char *plain, const char *packed, int64_t base, const struct zp_pace *pace)
{
    int64_t same = zp_compare(io, packed, plain, pace);
    if (same == 0) return drop_other(io, plain);
    int64_t more = same == -EBADMSG ? zp_lacks(io, packed, plain, base, ZP_OF_PACKED, NULL, pace) : same;
    if (more <= 0) return more == 0 ? 1 : more;
    int64_t bad = zp_verify(io, packed, 1, NULL, pace), less = bad == 0 ? zp_lacks(io, packed, plain, base, ZP_OF_PLAIN, NULL, pace) : 1;
    if (bad < 0 || less < 0) return bad < 0 ? bad : less;
    if (less == 0) return drop_other(io, plain);
    int64_t r = zp_to_plain(io, plain, NULL, pace);
    return r < 0 ? r : 1;
}

int64_t zp_to_packed(const struct zr_io_v1 *io, const char *plain, int64_t base, const struct zp_conf *conf,
                     const struct zp_pace *pace)
{
    char packed[PATH], temporary[PATH];
    uint64_t size, packed_size;
    if (!path_of(packed, plain, ZP_SUFFIX) || !path_of(temporary, plain, ZP_SUFFIX ".tmp")) return -ENAMETOOLONG;
    int64_t have = is_there(io, plain, &size), done = is_there(io, packed, &packed_size);
    if (have < 0 || done < 0) return have < 0 ? have : done;
    if (!have) return done ? 0 : -ENOENT;
    if (done) {
        int64_t r = settle_packed(io, plain, packed, base, pace);
        if (r <= 0) return r;
        if ((have = is_there(io, plain, &size)) <= 0) return have < 0 ? have : -ENOENT;
    }
    int64_t r = zp_pack(io, plain, temporary, base, (int64_t)size, conf, pace);
    if (r >= 0) r = zp_compare(io, temporary, plain, pace);
    if (r >= 0) r = change_over(io, temporary, packed, plain);
    else io->unlink(io->ctx, temporary);
    return r;
}

/* ---- a folder ------------------------------------------------------------------------------------------------------------------ */

struct found {
    int64_t base;
    uint32_t plain, packed;
};
struct folder {
    const struct zp_convert *c;
    struct found *at;
    uint64_t n, cap;
    int64_t error;
};

/* "<20 digits>" and what stands behind them, or 0. */
static uint32_t name_parse(const char *name, int64_t *ret_base, const char **ret_rest)
{
    uint64_t v = 0;
    for (int i = 0; i < 20; i++) {
        if (name[i] < '0' || name[i] > '9') return 0;
        if (v > ((uint64_t)INT64_MAX - 9) / 10) return 0;
        v = v * 10 + (uint64_t)(name[i] - '0');
    }
    *ret_base = (int64_t)v;
    *ret_rest = name + 20;
    return 1;
}

static struct found *found_of(struct folder *l, int64_t base)
{
    for (uint64_t i = 0; i < l->n; i++)
        if (l->at[i].base == base) return &l->at[i];
    if (l->n == l->cap) {
        uint64_t cap = l->cap ? l->cap * 2 : 64;
        struct found *all = realloc(l->at, cap * sizeof *all);
        if (!all) return NULL;
        l->at = all;
        l->cap = cap;
    }
    l->at[l->n] = (struct found){ .base = base };
    return &l->at[l->n++];
}

static int32_t folder_name(void *arg, const char *name)
{
    struct folder *l = arg;
    int64_t base;
    const char *rest;
    if (!name_parse(name, &base, &rest)) return 0;
    if (strcmp(rest, ".tmp") == 0 || strcmp(rest, ZP_SUFFIX ".tmp") == 0) { /* of a run that was interrupted */
        char path[PATH];
        int n = snprintf(path, sizeof path, "%s/%s", l->c->log_dir, name);
        if (n > 0 && n < (int)sizeof path) l->c->io->unlink(l->c->io->ctx, path);
        return 0;
    }
    if (rest[0] && strcmp(rest, ZP_SUFFIX) != 0) return 0;
    struct found *f = found_of(l, base);
    if (!f) return (int32_t)(l->error = -ENOMEM);
    if (rest[0]) f->packed = 1;
    else f->plain = 1;
    return 0;
}

static int by_base(const void *a, const void *b)
{
    int64_t x = ((const struct found *)a)->base, y = ((const struct found *)b)->base;
    return x < y ? -1 : x > y;
}

/* Does anything stand in the segment? Its first record's size word and magic. */
static uint32_t has_begun(const struct zp_convert *c, const struct found *f)
{
    char path[PATH];
    uint8_t head[8] = { 0 };
    if (!f->plain) return 1;
    int n = snprintf(path, sizeof path, "%s/%020lld", c->log_dir, (long long)f->base);
    int64_t fd = n > 0 && n < (int)sizeof path ? c->io->open(c->io->ctx, path, ZR_IO_READ, 0) : -EINVAL;
    if (fd < 0) return 0;
    uint32_t begun = zl_io_read_all(c->io, (int32_t)fd, head, sizeof head, 0) >= 0 && !is_zero(head, sizeof head);
    c->io->close(c->io->ctx, (int32_t)fd);
    return begun;
}

static int64_t convert_one(const struct zp_convert *c, const struct found *f)
{
    char plain[PATH], packed[PATH];
    uint64_t plain_size, packed_size;
    int n = snprintf(plain, sizeof plain, "%s/%020lld", c->log_dir, (long long)f->base);
    if (n <= 0 || n >= (int)sizeof plain || !path_of(packed, plain, ZP_SUFFIX)) return -ENAMETOOLONG;
    is_there(c->io, plain, &plain_size);
    is_there(c->io, packed, &packed_size);
    int64_t r = c->to_plain ? zp_to_plain(c->io, plain, c->damage, c->pace) : zp_to_packed(c->io, plain, f->base, &c->conf, c->pace);
    if (r >= 0) is_there(c->io, c->to_plain ? plain : packed, c->to_plain ? &plain_size : &packed_size);
    if (c->say) c->say(c->say_arg, f->base, r, plain_size, packed_size);
    return r;
}

int64_t zp_convert(const struct zp_convert *c)
{
    struct folder l = { .c = c };
    int64_t done = 0, worst = c->io->list(c->io->ctx, c->log_dir, folder_name, &l);
    if (l.error) worst = l.error;
    if (worst >= 0) worst = 0;
    if (l.n) qsort(l.at, l.n, sizeof *l.at, by_base);
    uint64_t end = l.n; /* segments before it are sealed */
    if (!c->to_plain && c->newest > 0) {
        while (end && l.at[end - 1].base >= c->newest) end--;
    } else if (!c->to_plain && end) {
        while (end > 1 && !has_begun(c, &l.at[end - 1])) end--;
        end--;
    }
    for (uint64_t i = 0; i < end && worst != -ENOMEM && worst != -ECANCELED; i++) {
        if (c->to_plain ? !l.at[i].packed : !l.at[i].plain) continue;
        int64_t r = convert_one(c, &l.at[i]);
        if (r >= 0) done++;
        else if (worst == 0) worst = r;
    }
    free(l.at);
    return worst < 0 ? worst : done;
}
