/* SPDX-License-Identifier: Apache-2.0 */
/* library.c - loading a plugin's code.
 *
 * What stays true:
 *   1. What is loaded is a private copy under a name never used before: dlopen of a path it knows returns the old code even
 *      after the file was replaced, and a package upgrade must not change the code under a running process.
 *   2. The copy's note is the one that was judged; a file that changed in between is refused.
 *   3. Nothing is ever unloaded. The copy's name is removed once it is loaded; its pages stay. (Under a sanitizer the name stays
 *      until the next start, and with ZARYA_KEEP_COPIES set too, so that reports and profilers can name the plugin's functions.)
 *   4. A descriptor is copied full-size; nothing reads the plugin's own beyond its stated size. */
#include "config/tree.h"
#include "plugin/plugin.h"
#include "zl/io.h"
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define COPY_STEP (256u << 10)
#define DESCRIPTOR_MAX (64u << 10)
#define SETTINGS_MAX (1u << 20)

static uint32_t last_generation;

static uint32_t keep_copies(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    return 1;
#else
    return getenv("ZARYA_KEEP_COPIES") != NULL;
#endif
}

static int64_t copy_bytes(const struct zr_io_v1 *io, int32_t from, int32_t to, uint8_t *buf)
{
    for (int64_t off = 0;;) {
        int64_t n = io->pread(io->ctx, from, buf, COPY_STEP, off);
        if (n <= 0)
            return n;
        int64_t rc = zl_io_write_all(io, to, buf, (uint64_t)n, off);
        if (rc < 0)
            return rc;
        off += n;
    }
}

static zr_status copy_file(const char *from, const char *to)
{
    const struct zr_io_v1 *io = zk_io();
    uint8_t *buf = malloc(COPY_STEP);
    int64_t in = io->open(io->ctx, from, ZR_IO_READ, 0);
    int64_t out = in < 0 ? in : io->open(io->ctx, to, ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_EXCL, 0500);
    int64_t rc = out < 0 ? out : buf ? copy_bytes(io, (int32_t)in, (int32_t)out, buf) : -ENOMEM;
    if (in >= 0)
        io->close(io->ctx, (int32_t)in);
    if (out >= 0)
        io->close(io->ctx, (int32_t)out);
    free(buf);
    if (rc < 0) {
        zk_err_raise(ZR_EIO, (int32_t)-rc, "L13: a private copy of %s cannot be made at %s", from, to);
        return ZR_EIO;
    }
    return ZR_OK;
}

static zr_status check_copy(const char *copy, const struct zk_manifest *m)
{
    struct zk_manifest again;
    if (zk_manifest_read(copy, &again) == ZR_OK && strcmp(again.text, m->text) == 0)
        return ZR_OK;
    zk_err_raise(ZR_EINVAL, 0, "L13: %s changed while it was being loaded", m->path);
    return ZR_EINVAL;
}

/* dlopen's message begins with the copy's name, which nobody knows. */
static const char *without_name(const char *message, const char *copy)
{
    uint64_t n = strlen(copy);
    if (!message)
        return "no reason given";
    return strncmp(message, copy, n) == 0 && message[n] == ':' ? message + n + 2 : message;
}

static zr_status refuse_descriptor(const struct zk_manifest *m, const char *why)
{
    zk_err_raise(ZR_EINVAL, 0, "L15: the descriptor of %s %s", m->path, why);
    return ZR_EINVAL;
}

/* What a descriptor must have to be called at all: everything of ABI 1.0. */
static zr_status take_descriptor(const struct zk_manifest *m, const struct zr_plugin *theirs, struct zr_plugin *ret)
{
    if (!theirs)
        return refuse_descriptor(m, "is NULL");
    if (theirs->hdr.size < sizeof(struct zr_hdr) || theirs->hdr.size > DESCRIPTOR_MAX)
        return refuse_descriptor(m, "states an impossible size");
    if (theirs->hdr.flags & 0xffu)
        return refuse_descriptor(m, zk_conf_fmt("has the must-understand flags 0x%02x, which this kernel does not know", theirs->hdr.flags & 0xffu));
    memset(ret, 0, sizeof *ret);
    memcpy(ret, theirs, theirs->hdr.size < sizeof *ret ? theirs->hdr.size : sizeof *ret);
    ret->hdr.size = sizeof *ret;
    if (!ret->id || strcmp(ret->id, m->id) != 0) {
        zk_err_raise(ZR_EINVAL, 0, "L08: %s calls itself %s in its descriptor and %s in its note", m->path, ret->id ? ret->id : "nothing", m->id);
        return ZR_EINVAL;
    }
    if (!ret->create || !ret->destroy || !ret->query)
        return refuse_descriptor(m, "has no create, destroy or query");
    if (ret->settings_size > SETTINGS_MAX || (ret->n_options > 0 && !ret->options))
        return refuse_descriptor(m, "states impossible options");
    return ZR_OK;
}

uint32_t zk_library_noexec(const char *folder)
{
    struct statvfs fs;
    return statvfs(folder, &fs) == 0 && (fs.f_flag & ST_NOEXEC);
}

static zr_status open_copy(const char *folder, const char *copy, const struct zk_manifest *m, struct zr_plugin *ret)
{
    void *handle = dlopen(copy, RTLD_NOW | RTLD_LOCAL);
    if (!handle) {
        const char *why = without_name(dlerror(), copy);
        if (zk_library_noexec(folder))
            why = zk_conf_fmt("its private copy is made in %s, which is mounted noexec", folder);
        zk_err_raise(ZR_EINVAL, 0, "L13: %s cannot be loaded: %s", m->path, why);
        return ZR_EINVAL;
    }
    union { void *object; const struct zr_plugin *(*call)(uint32_t); } entry;
    entry.object = dlsym(handle, ZR_ENTRY_SYMBOL);
    if (!entry.object) {
        zk_err_raise(ZR_EINVAL, 0, "L14: %s does not export " ZR_ENTRY_SYMBOL, m->path);
        return ZR_EINVAL;
    }
    return take_descriptor(m, entry.call(ZR_ABI_MINOR), ret);
}

zr_status zk_library_load(const struct zk_manifest *m, const char *folder, struct zr_plugin *ret, uint32_t *ret_generation)
{
    uint32_t generation = ++last_generation;
    const char *copy = zk_conf_fmt("%s/%s-%d-%u.so", folder, m->id, (int)getpid(), generation);
    zr_status status = copy_file(m->path, copy);
    if (status != ZR_OK) {
        zk_io()->unlink(zk_io()->ctx, copy);
        return status;
    }
    status = check_copy(copy, m);
    if (status == ZR_OK)
        status = open_copy(folder, copy, m, ret);
    if (status != ZR_OK || !keep_copies())
        zk_io()->unlink(zk_io()->ctx, copy);
    *ret_generation = generation;
    return status;
}
