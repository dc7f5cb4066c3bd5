/* SPDX-License-Identifier: Apache-2.0 */
/* files.c - where plugins lie: the configured folders, else those beside the executable (installed, or of a build tree). */
#include "config/tree.h"
#include "plugin/plugin.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define DIRS_MAX 64u
#define PLUGINS_MAX 1024u
#define OTHERS_MAY_WRITE 0002u

struct dirs { const char *list[DIRS_MAX + 1]; uint32_t n; const char *parent; };

static uint32_t is_folder(const char *path)
{
    struct zr_io_stat st;
    return zk_io()->stat(zk_io()->ctx, path, &st) == 0 && st.is_dir;
}

static void add_dir(struct dirs *d, const char *path)
{
    if (d->n < DIRS_MAX && is_folder(path))
        d->list[d->n++] = path;
}

/* lib/<triplet>/zarya/1, as on Debian. */
static int32_t try_triplet(void *ctx, const char *name)
{
    struct dirs *d = ctx;
    if (name[0] != '.')
        add_dir(d, zk_conf_fmt("%s/%s/zarya/1", d->parent, name));
    return 0;
}

static void default_dirs(struct dirs *d)
{
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0)
        return;
    exe[n] = 0;
    for (uint32_t up = 0; up < 2; up++) {
        char *slash = strrchr(exe, '/');
        if (!slash)
            return;
        *slash = 0;
    }
    add_dir(d, zk_conf_fmt("%s/plugins", exe));
    add_dir(d, zk_conf_fmt("%s/lib/zarya/1", exe));
    add_dir(d, zk_conf_fmt("%s/lib64/zarya/1", exe));
    d->parent = zk_conf_fmt("%s/lib", exe);
    zk_io()->list(zk_io()->ctx, d->parent, try_triplet, d);
}

const char *const *zk_plugin_dirs(void)
{
    static struct dirs dirs;
    struct zr_list set = zk_node.set.plugin_dirs;
    memset(&dirs, 0, sizeof dirs);
    for (uint64_t i = 0; i < set.n && dirs.n < DIRS_MAX; i++) {
        struct zr_str s = set.items[i];
        while (s.len > 1 && s.ptr[s.len - 1] == '/')
            s.len--;
        dirs.list[dirs.n++] = zk_conf_dup(s);
    }
    if (set.n == 0)
        default_dirs(&dirs);
    return dirs.list;
}

/* A file that others may replace would let them run their code in this process. */
static zr_status check_safe(const char *path)
{
    struct zr_io_stat st;
    const char *slash = strrchr(path, '/');
    const char *folder = slash && slash != path ? zk_conf_dup((struct zr_str){ path, (uint64_t)(slash - path) }) : slash ? "/" : ".";
    int64_t rc = zk_io()->stat(zk_io()->ctx, path, &st);
    if (rc < 0) {
        zk_err_raise(ZR_EIO, (int32_t)-rc, "L01: %s cannot be read", path);
        return ZR_EIO;
    }
    if (st.is_dir) {
        zk_err_raise(ZR_EINVAL, 0, "L03: %s is a folder", path);
        return ZR_EINVAL;
    }
    if (st.mode & OTHERS_MAY_WRITE) {
        zk_err_raise(ZR_EPERM, 0, "L02: %s may be written by everybody (chmod o-w)", path);
        return ZR_EPERM;
    }
    if (zk_io()->stat(zk_io()->ctx, folder, &st) == 0 && (st.mode & OTHERS_MAY_WRITE)) {
        zk_err_raise(ZR_EPERM, 0, "L02: the folder %s of this plugin may be written by everybody (chmod o-w)", folder);
        return ZR_EPERM;
    }
    return ZR_OK;
}

static const char *package_of(const char *use) { return zk_conf_fmt("zarya-plugin-%s", use); }

struct ids { const char *list[PLUGINS_MAX]; uint32_t n; };

static void keep_id(void *ctx, const struct zk_manifest *m)
{
    struct ids *ids = ctx;
    if (ids->n < PLUGINS_MAX)
        ids->list[ids->n++] = m->id;
}

static zr_status refuse_missing(const char *use, const char *const *dirs)
{
    struct zl_buf where;
    struct ids *ids = zk_conf_alloc(sizeof *ids);
    zk_plugins_installed(keep_id, ids);
    const char *near = zk_nearest(use, ids->list, ids->n);
    zl_buf_init(&where, 4096);
    for (uint32_t i = 0; dirs[i]; i++)
        zl_buf_fmt(&where, "%s%s", i ? ", " : "", dirs[i]);
    zl_buf_u8(&where, 0);
    if (near)
        zk_err_raise(ZR_ENOENT, 0, "L01: there is no %s.so in %s; did you mean \"%s\"?", use, where.failed ? "the plugin folders" : (const char *)where.ptr, near);
    else
        zk_err_raise(ZR_ENOENT, 0, "L01: there is no %s.so in %s; is the package %s installed?", use,
                     where.failed || where.len == 1 ? "any plugin folder (none exists)" : (const char *)where.ptr, package_of(use));
    zl_buf_free(&where);
    return ZR_ENOENT;
}

zr_status zk_plugin_file(const char *use, const char **ret_path)
{
    struct zr_io_stat st;
    if (strchr(use, '/')) {
        *ret_path = zk_conf_dup(zl_str(use));
        return check_safe(use);
    }
    const char *const *dirs = zk_plugin_dirs();
    for (uint32_t i = 0; dirs[i]; i++) {
        const char *path = zk_conf_fmt("%s/%s.so", dirs[i], use);
        if (zk_io()->stat(zk_io()->ctx, path, &st) == 0) {
            *ret_path = path;
            return check_safe(path);
        }
    }
    return refuse_missing(use, dirs);
}

/* ---- everything that is installed --------------------------------------------------------------------------------------------- */

static int32_t keep_so(void *ctx, const char *name)
{
    struct ids *names = ctx;
    if (name[0] != '.' && zl_ends(zl_str(name), ".so") && names->n < PLUGINS_MAX)
        names->list[names->n++] = zk_conf_dup(zl_str(name));
    return 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

void zk_plugins_installed(void (*each)(void *ctx, const struct zk_manifest *m), void *ctx)
{
    struct ids *seen = zk_conf_alloc(sizeof *seen);
    const char *const *dirs = zk_plugin_dirs();
    for (uint32_t i = 0; dirs[i]; i++) {
        struct ids *names = zk_conf_alloc(sizeof *names);
        zk_io()->list(zk_io()->ctx, dirs[i], keep_so, names);
        qsort(names->list, names->n, sizeof *names->list, by_name);
        for (uint32_t k = 0; k < names->n; k++) {
            struct zk_manifest *m = zk_conf_alloc(sizeof *m);
            if (zk_manifest_read(zk_conf_fmt("%s/%s", dirs[i], names->list[k]), m) != ZR_OK)
                continue;
            uint32_t known = 0;
            for (uint32_t s = 0; s < seen->n; s++)
                known |= strcmp(seen->list[s], m->id) == 0;
            if (known || seen->n == PLUGINS_MAX)
                continue;
            seen->list[seen->n++] = m->id;
            each(ctx, m);
        }
    }
}
