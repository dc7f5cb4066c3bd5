/* SPDX-License-Identifier: Apache-2.0 */
/* repair.c - `check --repair`: what can be derived is derived again; what is replaced is kept in zarya/aside-<time>/.
 *
 *   lock ─> check ─> documents ─> damaged places of the log ─> bad queues ─> bad index files, checkpoint aside
 *        ─> the store itself: recovers (tail, lengths), makes the index whole, is closed cleanly ─> check
 *
 * What stays true:
 *   1. A segment or a document is replaced by a rename onto its name; the old one has a second name in the aside folder by then. A
 *      queue's folder is moved away and the new one moved in: ended between the two, the queue is missing, and is made again.
 *   2. Nothing is made from anything but what is valid in the log and in the documents. What was lost stays lost: its queue offsets
 *      are marked so, and are not given a second time.
 *   3. Run again, at any moment, it goes on or finds nothing to do.
 *   4. A segment that is not there may be on a disk that was not named: unless the loss is accepted (--accept-loss) nothing at all is
 *      changed then, for to mark its messages as lost would hide them from the broker that finds it again. */
#include "index.h"
#include "tool.h"
#include "zs_pack.h"
#include <stdarg.h>
#include <time.h>

void zt_did(struct zt_repair *r, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (!r->json) fprintf(zt_out(), "%s\n", text);
    if (r->said.len) zl_buf_u8(&r->said, ',');
    zl_json_quote(&r->said, zl_str(text));
    r->n_done++;
}

void zt_repair_fail(struct zt_repair *r, const char *what, int64_t error)
{
    fprintf(zt_err(), "zaryactl-store: %s: %s\n", what, zs_errno_text(error));
    r->failed = 1;
}

int64_t zt_parent_make(const char *path)
{
    char folder[ZS_PATH];
    snprintf(folder, sizeof folder, "%s", path);
    char *slash = strrchr(folder, '/');
    if (!slash) return -EINVAL;
    *slash = 0;
    return zl_io_mkdirs(zt_io(), folder);
}

int64_t zt_aside_sync(const struct zt_repair *r, const char *path)
{
    char folder[ZS_PATH];
    int64_t e = 0;
    snprintf(folder, sizeof folder, "%s", path);
    for (char *slash; e >= 0 && (slash = strrchr(folder, '/')) && slash >= folder + strlen(r->dir);) {
        *slash = 0;
        e = zt_sync_dir(folder);
    }
    return e < 0 ? e : 0;
}

int64_t zt_move(const struct zt_repair *r, const char *from, const char *to)
{
    char folder[ZS_PATH];
    int64_t e = zt_rename(from, to);
    if (e >= 0) e = zt_aside_sync(r, to);
    snprintf(folder, sizeof folder, "%s", from);
    char *slash = strrchr(folder, '/');
    if (slash) *slash = 0;
    return e < 0 ? e : zt_sync_dir(folder);
}

int64_t zt_aside(struct zt_repair *r, const char *rel, uint32_t keep)
{
    char from[ZS_PATH], to[ZS_PATH];
    struct zr_io_stat st;
    const struct zr_io_v1 *io = zt_io();
    if (!zt_full(r->dir, rel, from) || !zs_path(to, "%s/%s", r->aside, rel[0] == '/' ? strrchr(rel, '/') + 1 : rel)) return -ENAMETOOLONG;
    int64_t e = zt_stat(from, &st);
    if (e < 0) return e == -ENOENT ? 0 : e;
    if ((e = zt_parent_make(to)) < 0) return e;
    if (!keep) return zt_move(r, from, to);
    e = ZR_HAS(struct zr_io_v1, io, link) && io->link ? io->link(io->ctx, from, to) : -EXDEV;
    return e < 0 && e != -EEXIST ? e : zt_aside_sync(r, to); /* it is to be there before its own name leads to something else */
}

/* ---- the store itself ---------------------------------------------------------------------------------------------------- */

/* Waits until the index has every key of the log. */
static void index_wait(struct zr_inst *st)
{
    struct zs_index *ix = st->index;
    if (!ix) return;
    pthread_mutex_lock(&ix->lock);
    while ((ix->mending || ix->repair || atomic_load(&ix->pos) < zs_visible(st)) && !ix->broken) {
        ix->hurry = 1;
        pthread_cond_signal(&ix->cond);
        zs_cond_wait_ns(&ix->caught, &ix->lock, 1000000000);
    }
    pthread_mutex_unlock(&ix->lock);
}

/* Recovers, makes the index whole, closes cleanly: all with the broker's own code, on the real files. */
static void store_run(struct zt_repair *r, struct zs_conf *conf)
{
    struct zt_view *v = calloc(1, sizeof *v);
    if (!v) return zt_repair_fail(r, r->dir, -ENOMEM);
    v->io = *zt_io();
    v->io.lock_dir = NULL; /* this process has them locked */
    v->host = (struct zr_host){ ZR_HDR(struct zr_host, 0), v, zt_host_query, "zaryactl-store", r->dir };
    conf->root = r->dir;
    struct zr_inst *st = zs_create(&v->host, conf);
    if (!st || zs_warm(st) != ZR_OK) {
        fprintf(zt_err(), "zaryactl-store: the store does not open:\n%s", v->lines);
        r->failed = 1;
    } else {
        index_wait(st);
        zs_cool(st);
        struct zr_io_stat s;
        char path[ZS_PATH];
        if (zs_path(path, "%s/abort", r->dir) && zt_stat(path, &s) >= 0) {
            fprintf(zt_err(), "zaryactl-store: the store could not be closed cleanly:\n%s", v->lines);
            r->failed = 1;
        } else {
            zt_did(r, "the store was recovered, its index and checkpoint brought up to the log, and closed cleanly");
        }
    }
    zs_destroy(st);
    free(v);
}

/* ---- what is put aside so that it is made again ------------------------------------------------------------------------------ */

/* A record whose keys lie in two files is read again only if both are made anew. */
static void neighbours_mark(struct zt_index *ix)
{
    for (uint64_t i = 0; i + 1 < ix->n; i++)
        if (ix->files[i].bad && ix->files[i].last == ix->files[i + 1].first) ix->files[i + 1].bad = 1;
    for (uint64_t i = ix->n; i-- > 1;)
        if (ix->files[i].bad && ix->files[i - 1].last == ix->files[i].first) ix->files[i - 1].bad = 1;
}

static void index_aside(struct zt_repair *r)
{
    neighbours_mark(&r->c->index);
    for (uint64_t i = 0; i < r->c->index.n; i++) {
        char rel[ZS_PATH];
        struct zt_ifile *f = &r->c->index.files[i];
        if (!f->bad || !zs_path(rel, "index/%s", f->name)) continue;
        int64_t e = zt_aside(r, rel, 0);
        if (e < 0) zt_repair_fail(r, rel, e);
        else zt_did(r, "%s: moved aside; its keys are read from the log again", rel);
    }
}

static uint32_t found(const struct zt_check *c, const char *kind)
{
    for (uint64_t i = 0; i < c->report.n; i++)
        if (!strcmp(c->report.rows[i].kind, kind) && c->report.rows[i].level > ZT_LEVEL_NOTE) return 1;
    return 0;
}

static void rest_aside(struct zt_repair *r)
{
    static const char *const own[] = { "zarya/queues", "zarya/queues.bak" };
    if (found(r->c, "checkpoint")) {
        int64_t e = zt_aside(r, "checkpoint", 0);
        if (e < 0) zt_repair_fail(r, "checkpoint", e);
        else zt_did(r, "checkpoint: moved aside; written anew");
    }
    if (!r->changed && !found(r->c, "snapshot") && !found(r->c, "log.short")) return;
    for (uint64_t i = 0; i < 2; i++) { /* what it says of the queues is no longer so */
        int64_t e = zt_aside(r, own[i], 0);
        if (e < 0) zt_repair_fail(r, own[i], e);
    }
}

/* Files that an interrupted run had half made. */
static void tree_remove(const char *folder, uint32_t depth)
{
    const struct zr_io_v1 *io = zt_io();
    struct zt_names names;
    zt_names_load(&names, folder);
    for (uint64_t i = 0; i < names.n; i++) {
        char path[ZS_PATH];
        if (!zs_path(path, "%s/%s", folder, names.at[i])) continue;
        if (io->unlink(io->ctx, path) < 0 && depth) tree_remove(path, depth - 1);
    }
    zt_names_free(&names);
    io->rmdir(io->ctx, folder);
}

static uint32_t begin(struct zt_repair *r)
{
    char stamp[32];
    time_t now = time(NULL);
    struct tm tm;
    localtime_r(&now, &tm);
    strftime(stamp, sizeof stamp, "%Y%m%d-%H%M%S", &tm);
    snprintf(r->dir, sizeof r->dir, "%s", r->c->view.dir);
    if (!zs_path(r->mend, "%s/zarya/mending", r->dir)) return 0;
    for (int i = 0; i < 100; i++) {
        struct zr_io_stat st;
        if (!zs_path(r->aside, "%s/zarya/aside-%s-%d", r->dir, stamp, i)) return 0;
        if (zt_stat(r->aside, &st) == -ENOENT) break;
    }
    tree_remove(r->mend, 4);
    int64_t e = zl_io_mkdirs(zt_io(), r->mend);
    if (e < 0) zt_repair_fail(r, r->mend, e);
    return e >= 0;
}

static void mend(struct zt_repair *r)
{
    struct zs_conf conf = r->c->view.st->conf;
    conf.index = !(r->c->index.n == 0 && r->c->view.snap.valid && r->c->view.snap.index_pos == 0 && r->c->log.n_records);
    conf.segment_size = r->c->log.seg_size ? r->c->log.seg_size : conf.segment_size;
    conf.queue_file_size = r->c->queues->file_size;
    conf.compress = 1;            /* packed segments stay packed */
    conf.pack_keep = 1 << 20;     /* and none is packed now */
    zt_repair_docs(r);
    if (!r->failed) zt_repair_log(r);
    if (!r->failed) zt_repair_queues(r);
    if (!r->failed) index_aside(r);
    if (!r->failed) rest_aside(r);
    if (!r->failed) store_run(r, &conf);
    tree_remove(r->mend, 4);
}

static int again(struct zt_repair *r, const struct zt_options *opt, const struct zt_options *shape)
{
    struct zl_buf list;
    struct zt_check *c = calloc(1, sizeof *c);
    struct zt_options with = *opt;
    if (!c) return ZT_CANNOT;
    with.segment_size = shape->segment_size;
    with.queue_file_size = shape->queue_file_size;
    with.index_slots = shape->index_slots;
    with.index_entries = shape->index_entries;
    zl_buf_init(&list, 64u << 20);
    zl_buf_u8(&list, '[');
    zl_buf_str(&list, zl_buf_as_str(&r->said));
    zl_buf_add(&list, "]", 2);
    int rc = zt_check_run(c, r->dir, &with);
    if (rc == ZT_CLEAN) rc = zt_check_print(c, (const char *)list.ptr);
    zt_check_free(c);
    free(c);
    zl_buf_free(&list);
    return r->failed ? ZT_CANNOT : rc;
}

static int missing_tell(struct zt_repair *r)
{
    fprintf(zt_err(), "zaryactl-store: %s: %llu segments of the log are not there; nothing is changed. If they lie in another folder, --log-path DIR[,DIR] or "
            "--conf FILE names it; --repair --accept-loss gives their messages up\n", r->c->view.dir, (unsigned long long)r->c->log.n_missing);
    return zt_check_print(r->c, "[]");
}

int zt_cmd_repair(const char *dir, const struct zt_options *opt)
{
    struct zt_repair *r = calloc(1, sizeof *r);
    struct zt_dirs *dirs = calloc(1, sizeof *dirs);
    struct zr_io_stat st;
    int rc = ZT_CANNOT;
    struct zt_options with = *opt;
    uint32_t there = r && dirs && zt_dirs_load(dirs, dir, &with) == ZT_CLEAN;
    if (!there) {
        free(dirs);
        free(r);
        return ZT_CANNOT;
    }
    zl_buf_init(&r->said, 16u << 20);
    r->json = opt->json;
    r->c = calloc(1, sizeof *r->c);
    if (r->c && zt_lock_take(dir, dirs) == ZT_CLEAN) {
        rc = zt_check_run(r->c, dir, opt);
        if (rc == ZT_CLEAN && r->c->report.failed) {
            fprintf(zt_err(), "zaryactl-store: %s could not be checked wholly; nothing is changed\n", dir);
            rc = zt_check_print(r->c, "[]");
        } else if (rc == ZT_CLEAN && zt_report_status(&r->c->report) == ZT_CLEAN) {
            rc = zt_check_print(r->c, "[]");
        } else if (rc == ZT_CLEAN && r->c->log.n_missing && !opt->accept_loss) {
            rc = missing_tell(r);
        } else if (rc == ZT_CLEAN && begin(r)) {
            struct zt_options shape = { .segment_size = r->c->log.seg_size, .queue_file_size = r->c->queues->file_size,
                                        .index_slots = r->c->view.st->conf.index_slots, .index_entries = r->c->view.st->conf.index_entries };
            mend(r);
            if (!r->json && zt_stat(r->aside, &st) >= 0) fprintf(zt_out(), "what was replaced is in %s\n", r->aside);
            rc = again(r, opt, &shape);
        }
        zt_lock_drop();
    }
    if (r->c) zt_check_free(r->c);
    free(r->c);
    zl_buf_free(&r->said);
    free(dirs);
    free(r);
    return rc;
}
