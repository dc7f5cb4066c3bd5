/* SPDX-License-Identifier: Apache-2.0 */
/* folders.c - <root>/zarya/folders: where the log lay when this store was last started or stopped, if that is not its own place
 * (<root>/commitlog alone). zaryactl goes by it, for it has no configuration; and a start that is told of fewer folders than there
 * were does not take for lost what lies in the others.
 *
 * Text: "of ROOT", then a line for each folder: "log PATH" or "read-only PATH". A folder inside <root> is noted relative to it, so that
 * a data directory can be moved with its log. When <root> is not ROOT any more it may be a copy, and the folders outside another
 * store's by now: no tool takes them then.
 *
 * What stays true: the note is written only by a start that succeeded, and by a stop. Nothing depends on its being there: without it
 * the log lies where the configuration, or the one who calls a tool, says. */
#include <errno.h>
#include <stdlib.h>
#include "zs_int.h"
#include "zs_pack.h"

#define NOTE_MAX ((ZS_MAX_DIRS + 8) * (ZS_PATH + 16u))

static uint32_t note_path(const char *root, const char *ending, char *to) { return zs_path(to, "%s/zarya/folders%s", root, ending); }

/* ---- reading -------------------------------------------------------------------------------------------------------- */

/* Whatever way leads there. */
static uint32_t is_same(struct zr_str noted, const char *root)
{
    char *real = realpath(root, NULL);
    uint32_t same = zl_eq(noted, zl_str(real ? real : root));
    free(real);
    return same;
}

static uint32_t line_take(struct zs_folders *f, const char *root, struct zr_str line)
{
    if (zl_starts(line, "of ")) {
        f->moved = !is_same((struct zr_str){ line.ptr + 3, line.len - 3 }, root);
        return 1;
    }
    uint32_t ro = zl_starts(line, "read-only ");
    if (!ro && !zl_starts(line, "log ")) return 0;
    struct zr_str path = { line.ptr + (ro ? 10 : 4), line.len - (ro ? 10 : 4) };
    if (f->n == ZS_MAX_DIRS || path.len == 0 || memchr(path.ptr, 0, path.len) || memchr(path.ptr, ',', path.len)) return 0;
    uint32_t whole = path.ptr[0] == '/';
    if (!zs_path(f->path[f->n], "%s%s%.*s", whole ? "" : root, whole ? "" : "/", (int)path.len, path.ptr)) return 0;
    f->read_only |= ro << f->n++;
    return 1;
}

uint32_t zs_folders_load(const struct zr_io_v1 *io, const char *root, struct zs_folders *ret)
{
    static const char *const endings[2] = { "", ".bak" };
    char path[ZS_PATH];
    struct zl_buf text;
    struct zr_str rest, line;
    uint32_t ok = 0;
    zl_buf_init(&text, NOTE_MAX);
    for (int i = 0; i < 2 && !ok; i++) {
        ret->n = ret->read_only = ret->moved = 0;
        if (!note_path(root, endings[i], path) || zl_io_load(io, path, &text) <= 0) continue;
        rest = zl_buf_as_str(&text);
        for (ok = 1; ok && zl_split(&rest, '\n', &line);)
            if (line.len) ok = line_take(ret, root, line);
        ok = ok && ret->n > 0;
    }
    zl_buf_free(&text);
    return ok;
}

/* ---- writing -------------------------------------------------------------------------------------------------------- */

/* What is to be noted; empty: nothing. */
static void note_make(struct zr_inst *st, struct zl_buf *out)
{
    const struct zs_dirs *d = &st->dirs;
    size_t n = strlen(st->conf.root);
    char own[ZS_PATH];
    if (d->n == 1 && !d->read_only && zs_path(own, "%s/commitlog", st->conf.root) && strcmp(own, d->path[0]) == 0) return;
    char *real = realpath(st->conf.root, NULL);
    zl_buf_str(out, zl_str("of "));
    zl_buf_str(out, zl_str(real ? real : st->conf.root));
    zl_buf_u8(out, '\n');
    free(real);
    for (uint32_t i = 0; i < d->n; i++) {
        const char *path = d->path[i];
        if (strncmp(path, st->conf.root, n) == 0 && path[n] == '/') path += n + 1;
        zl_buf_str(out, zl_str(d->read_only >> i & 1u ? "read-only " : "log "));
        zl_buf_str(out, zl_str(path));
        zl_buf_u8(out, '\n');
    }
}

/* The older of the two goes first: ended between them, what is read is what was there. */
static int64_t note_drop(struct zr_inst *st, const char *path, const char *backup)
{
    int64_t r = st->io->unlink(st->io->ctx, backup);
    if (r >= 0 || r == -ENOENT) r = st->io->unlink(st->io->ctx, path);
    if (r >= 0) r = st->io->sync_dir(st->io->ctx, st->own_dir);
    return r == -ENOENT ? 0 : r;
}

void zs_folders_save(struct zr_inst *st)
{
    char path[ZS_PATH], backup[ZS_PATH];
    struct zl_buf want, there;
    if (!note_path(st->conf.root, "", path) || !note_path(st->conf.root, ".bak", backup)) return;
    zl_buf_init(&want, NOTE_MAX);
    zl_buf_init(&there, NOTE_MAX);
    note_make(st, &want);
    int64_t r = zl_io_load(st->io, path, &there);
    uint32_t same = want.len ? r >= 0 && there.len == want.len && memcmp(there.ptr, want.ptr, want.len) == 0 : r == -ENOENT;
    if (same) r = 0;
    else if (want.failed) r = -ENOMEM;
    else r = want.len ? zl_io_replace(st->io, path, zl_buf_as_span(&want)) : note_drop(st, path, backup);
    if (r < 0) zs_log(st, ZR_LOG_WARN, "%s cannot be written: %s; zaryactl store is to be told where the log is (--log-path)", path, zs_errno_text(r));
    zl_buf_free(&want);
    zl_buf_free(&there);
}

/* ---- a start -------------------------------------------------------------------------------------------------------- */

struct look {
    struct zr_inst *st;
    int64_t begin, end; /* of the log, as the snapshot knew it */
    int64_t base;       /* of a segment that is in the folder, and in none of the configured ones; -1: none */
};

static int32_t look_name(void *ctx, const char *name)
{
    struct look *l = ctx;
    char number[21];
    int64_t base;
    if (strlen(name) < 20 || (name[20] && strcmp(name + 20, ZS_PACKED))) return 0;
    memcpy(number, name, 20);
    number[20] = 0;
    if (!zs_name_offset(number, &base) || base >= l->end || base + l->st->segs.size <= l->begin || zs_seg_next(l->st, base - 1) == base) return 0;
    l->base = base;
    return 1;
}

static uint32_t is_configured(const struct zs_dirs *d, const char *path)
{
    for (uint32_t i = 0; i < d->n; i++)
        if (strcmp(d->path[i], path) == 0) return 1;
    return 0;
}

/* The folders have every segment from begin to end. */
static uint32_t is_whole(struct zr_inst *st, int64_t begin, int64_t end)
{
    int64_t at = zs_segs_first(st), size = st->segs.size;
    if (at < 0 || at > begin) return 0;
    while (at + size < end) {
        int64_t next = zs_seg_next(st, at);
        if (next != at + size) return 0;
        at = next;
    }
    return 1;
}

zr_status zs_folders_look(struct zr_inst *st, const struct zs_snapshot *snap)
{
    struct zs_folders *f = calloc(1, sizeof *f);
    zr_status rc = f ? ZR_OK : ZR_ENOMEM;
    uint32_t look = f && snap->valid && snap->pos > 0 && !is_whole(st, snap->begin, snap->pos) && zs_folders_load(st->io, st->conf.root, f);
    for (uint32_t i = 0; look && i < f->n && rc == ZR_OK; i++) {
        struct look l = { .st = st, .begin = snap->begin, .end = snap->pos, .base = -1 };
        if (is_configured(&st->dirs, f->path[i])) continue;
        int64_t r = st->io->list(st->io->ctx, f->path[i], look_name, &l);
        if (l.base >= 0)
            rc = zs_raise(st, ZR_ECORRUPT, 0, "%s has a part of the log (%020lld) that is in no folder of the configuration: name that folder in path_commitlog, "
                          "or move its files to one that is named there; to do without what it holds, delete %s/folders", f->path[i], (long long)l.base, st->own_dir);
        else if (r < 0)
            zs_log(st, ZR_LOG_ERROR, "%s was a folder of the log, is not named in path_commitlog now, and cannot be read: %s; the start goes on without what it holds",
                   f->path[i], zs_errno_text(r));
    }
    free(f);
    return rc;
}
