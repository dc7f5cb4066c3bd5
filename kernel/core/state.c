/* SPDX-License-Identifier: Apache-2.0 */
/* state.c - small durable documents under the data directory.
 *
 * A document is replaced by zl_io_replace: at every instant either <name> or <name>.bak is whole. Reading takes <name>, and
 * when that is not there or not accepted, <name>.bak, and says so in the log. The copy that was not accepted becomes
 * <name>.damaged then: the next replacement would put it in the good one's place.
 *
 * LOCKING. `lock` keeps two writers of one document from meeting in its temporary file; it is held over the disk's sync, which
 * is why this is for workers and the main thread only. */
#include "config/node.h"
#include "core/core.h"
#include "zl/io.h"
#include <errno.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>

#define NAME_MAX_BYTES 512u
#define DOCUMENT_MAX (1ull << 30)

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* Relative, no empty part, no "." or ".." part, no NUL: the name cannot leave the data directory. */
static uint32_t name_is_legal(struct zr_str name)
{
    struct zr_str rest = name, part;
    if (name.len == 0 || name.len > NAME_MAX_BYTES || memchr(name.ptr, 0, name.len))
        return 0;
    while (zl_split(&rest, '/', &part))
        if (part.len == 0 || zl_is(part, ".") || zl_is(part, ".."))
            return 0;
    return name.ptr[name.len - 1] != '/';
}

static zr_status path_of(struct zr_str name, char *path, uint64_t cap)
{
    if (!name_is_legal(name)) {
        zk_err_raise(ZR_EINVAL, 0, "state document name '%.*s' is not a plain relative name", (int)(name.len < 80 ? name.len : 80), name.ptr);
        return ZR_EINVAL;
    }
    int n = snprintf(path, cap, "%s/%.*s", zk_node.data_dir ? zk_node.data_dir : ".", (int)name.len, name.ptr);
    if (n < 0 || (uint64_t)n >= cap) {
        zk_err_raise(ZR_EINVAL, 0, "path of state document '%.*s' is too long", (int)(name.len < 80 ? name.len : 80), name.ptr);
        return ZR_EINVAL;
    }
    return ZR_OK;
}

static zr_status make_folder_of(char *path)
{
    char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return ZR_OK;
    *slash = 0;
    int64_t rc = zl_io_mkdirs(zk_io(), path);
    if (rc < 0)
        zk_err_raise(ZR_EIO, (int32_t)-rc, "cannot make folder %s", path);
    *slash = '/';
    return rc < 0 ? ZR_EIO : ZR_OK;
}

zr_status zk_state_write(struct zr_str name, struct zr_span bytes)
{
    char path[PATH_MAX];
    zr_status status = path_of(name, path, sizeof path - 8); /* room for ".bak", ".tmp" */
    if (status == ZR_OK)
        status = make_folder_of(path);
    if (status != ZR_OK)
        return status;
    pthread_mutex_lock(&lock);
    int64_t rc = zl_io_replace(zk_io(), path, bytes);
    pthread_mutex_unlock(&lock);
    if (rc < 0) {
        status = rc == -ENOSPC || rc == -EDQUOT ? ZR_EFULL : ZR_EIO;
        zk_err_raise(status, (int32_t)-rc, "cannot write %s", path);
    }
    return status;
}

/* ZR_OK: accepted. ZR_ENOENT: not there. Anything else: there, but not readable or not accepted. */
static zr_status read_one(const char *path, zr_status (*accept)(void *ctx, struct zr_span bytes), void *ctx)
{
    struct zl_buf bytes;
    zl_buf_init(&bytes, DOCUMENT_MAX);
    int64_t rc = zl_io_load(zk_io(), path, &bytes);
    zr_status status = ZR_OK;
    if (rc == -ENOENT) {
        status = ZR_ENOENT;
    } else if (rc < 0) {
        status = ZR_EIO;
        zk_err_raise(status, (int32_t)-rc, "cannot read %s", path);
    } else {
        zk_err_clear();
        status = accept(ctx, zl_buf_as_span(&bytes)) == ZR_OK ? ZR_OK : ZR_ECORRUPT;
        if (status != ZR_OK)
            zk_err_raise(status, 0, "%s is damaged%s%s", path, *zk_err_text() ? ": " : "", zk_err_text());
    }
    zl_buf_free(&bytes);
    return status;
}

/* Renames a copy that cannot be used; one of an earlier time goes. */
static void set_aside(const char *path)
{
    char aside[PATH_MAX + 24];
    snprintf(aside, sizeof aside, "%s.damaged", path);
    pthread_mutex_lock(&lock);
    int64_t rc = zk_io()->rename(zk_io()->ctx, path, aside);
    pthread_mutex_unlock(&lock);
    if (rc >= 0)
        zk_log(ZR_LOG_WARN, "%s is kept as %s", path, aside);
    else if (rc != -ENOENT)
        zk_log(ZR_LOG_WARN, "%s could not be renamed to %s: errno %d", path, aside, (int)-rc);
}

void zk_state_set_aside(struct zr_str name)
{
    char path[PATH_MAX], bak[PATH_MAX + 8];
    if (path_of(name, path, sizeof path) != ZR_OK)
        return;
    snprintf(bak, sizeof bak, "%s.bak", path);
    set_aside(path);
    set_aside(bak);
}

zr_status zk_state_read(struct zr_str name, zr_status (*accept)(void *ctx, struct zr_span bytes), void *ctx)
{
    return zk_state_read_from(name, accept, ctx, NULL);
}

zr_status zk_state_read_from(struct zr_str name, zr_status (*accept)(void *ctx, struct zr_span bytes), void *ctx, uint32_t *ret_bak)
{
    char path[PATH_MAX], bak[PATH_MAX + 8];
    zr_status status = path_of(name, path, sizeof path);
    if (ret_bak)
        *ret_bak = 0;
    if (status != ZR_OK)
        return status;
    zr_status first = read_one(path, accept, ctx);
    if (first == ZR_OK)
        return ZR_OK;
    if (first != ZR_ENOENT)
        zk_log(ZR_LOG_WARN, "%s; trying %s.bak", zk_err_text(), path);
    snprintf(bak, sizeof bak, "%s.bak", path);
    zr_status second = read_one(bak, accept, ctx);
    if (second == ZR_OK) {
        zk_log(ZR_LOG_WARN, "%s was %s; taken from %s", path, first == ZR_ENOENT ? "missing" : "not usable", bak);
        if (first == ZR_ECORRUPT) /* what only cannot be read just now may be the newer one, and whole */
            set_aside(path);
        if (ret_bak)
            *ret_bak = 1;
        return ZR_OK;
    }
    if (first == ZR_ENOENT && second == ZR_ENOENT)
        return ZR_ENOENT;
    zk_err_raise(ZR_ECORRUPT, 0, "neither %s nor its .bak can be used%s%s", path, *zk_err_text() ? ": " : "", zk_err_text());
    return ZR_ECORRUPT;
}
