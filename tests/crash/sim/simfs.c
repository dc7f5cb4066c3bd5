/* SPDX-License-Identifier: Apache-2.0 */
/* simfs.c - see simfs.h. */
#include "simfs.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sched.h>
#include "zl/io.h"
#include "zl/text.h"

const char *const sim_op_names[SIM_N_OPS] = { "open", "close", "pread", "pwrite", "pwritev", "fdatasync", "fsync", "sync_dir", "fallocate",
                                              "ftruncate", "rename", "unlink", "mkdir", "rmdir", "stat", "fstat", "list", "map", "unmap",
                                              "advise", "lock", "disk", "seek_data", "sync_fs", "set_mtime", "link", "lock_dir", "alloc" };

static void broken(const char *what, const char *path)
{
    fprintf(stderr, "simfs: %s: %s\n", what, path);
    abort();
}

/* ---- names and inodes ---------------------------------------------------------------------------------------------------- */

static struct sim_name *name_of(struct sim *s, const char *path)
{
    uint64_t hash = zl_hash(path, strlen(path));
    for (uint32_t i = 0; i < s->n_names; i++)
        if (s->names[i].hash == hash && strcmp(s->names[i].path, path) == 0) return &s->names[i];
    return NULL;
}

struct sim_inode *sim_find(struct sim *s, const char *path)
{
    struct sim_name *n = name_of(s, path);
    return n ? &s->inodes[n->inode] : NULL;
}

void sim_name_add(struct sim *s, const char *path, uint32_t inode)
{
    if (s->n_names == s->cap_names) {
        s->cap_names = s->cap_names ? s->cap_names * 2 : 64;
        s->names = realloc(s->names, s->cap_names * sizeof *s->names);
    }
    s->names[s->n_names++] = (struct sim_name){ strdup(path), zl_hash(path, strlen(path)), inode };
}

static void name_drop(struct sim *s, struct sim_name *n)
{
    free(n->path);
    *n = s->names[--s->n_names];
}

static uint32_t inode_new(struct sim *s, uint32_t is_dir)
{
    if (s->n_inodes == s->cap_inodes) {
        s->cap_inodes = s->cap_inodes ? s->cap_inodes * 2 : 64;
        s->inodes = realloc(s->inodes, s->cap_inodes * sizeof *s->inodes);
    }
    s->inodes[s->n_inodes] = (struct sim_inode){ .is_dir = is_dir, .mtime_ns = s->wall_ms * 1000000, .ino = s->next_ino++ };
    return s->n_inodes++;
}

uint32_t sim_make(struct sim *s, const char *path, uint32_t is_dir)
{
    struct sim_name *n = name_of(s, path);
    if (n) return n->inode;
    uint32_t inode = inode_new(s, is_dir);
    sim_name_add(s, path, inode);
    return inode;
}

void sim_inodes(struct sim *s, uint32_t n)
{
    while (s->n_inodes < n) inode_new(s, 0);
}

static uint32_t parent_there(struct sim *s, const char *path)
{
    char parent[1100];
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path) return 1;
    snprintf(parent, sizeof parent, "%.*s", (int)(slash - path), path);
    struct sim_inode *i = sim_find(s, parent);
    return i && i->is_dir;
}

static uint32_t below(const char *path, const char *folder)
{
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && path[n] == '/';
}

void sim_drop(struct sim *s, const char *path)
{
    for (uint32_t i = s->n_names; i > 0; i--)
        if (strcmp(s->names[i - 1].path, path) == 0 || below(s->names[i - 1].path, path)) name_drop(s, &s->names[i - 1]);
}

void sim_resize(struct sim *s, uint32_t inode, uint64_t size)
{
    struct sim_inode *f = &s->inodes[inode];
    if (size > f->cap) {
        uint64_t cap = f->cap * 2 > size ? f->cap * 2 : size;
        if (f->maps) broken("a file grows while it is mapped", "");
        f->data = realloc(f->data, cap);
        memset(f->data + f->cap, 0, cap - f->cap);
        f->cap = cap;
    }
    if (size < f->size) memset(f->data + size, 0, f->size - size);
    f->size = size;
}

static void *memory_of(const void *from, uint64_t len)
{
    void *to = malloc(len ? len : 1);
    memcpy(to, from, len);
    return to;
}

/* ---- the trace ---------------------------------------------------------------------------------------------------------------- */

static struct sim_event *event_add(struct sim *s, enum ev_kind kind)
{
    if (s->n_events == s->cap_events) {
        s->cap_events = s->cap_events ? s->cap_events * 2 : 1024;
        s->events = realloc(s->events, s->cap_events * sizeof *s->events);
    }
    struct sim_event *e = &s->events[s->n_events++];
    *e = (struct sim_event){ .kind = kind };
    return e;
}

uint32_t sim_note(struct sim *s, int64_t what)
{
    pthread_mutex_lock(&s->lock);
    uint32_t at = s->n_events;
    if (s->rec) event_add(s, EV_NOTE)->off = what;
    pthread_mutex_unlock(&s->lock);
    return at;
}

uint32_t sim_now(struct sim *s)
{
    pthread_mutex_lock(&s->lock);
    uint32_t at = s->n_events;
    pthread_mutex_unlock(&s->lock);
    return at;
}

void sim_trace_free(struct sim_event *events, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        free(events[i].data);
        free(events[i].path);
        free(events[i].to);
    }
    free(events);
}

static char *text_of(const char *text) { return text ? strdup(text) : NULL; }

void sim_trace_carry(struct sim *s, const struct sim_event *events, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++) {
        struct sim_event *e = event_add(s, events[i].kind);
        *e = events[i];
        e->data = events[i].data ? memory_of(events[i].data, events[i].len) : NULL;
        e->path = text_of(events[i].path);
        e->to = text_of(events[i].to);
    }
}

/* ---- calls ---------------------------------------------------------------------------------------------------------------------- */

/* Who calls: the call site of the seam first, then its callers, by frame pointers. */
void __attribute__((noinline)) sim_frames(void *const *frame, void **ret)
{
    for (int i = 0; i < SIM_FRAMES; i++) {
        ret[i] = frame ? frame[1] : NULL;
        void *const *up = frame ? frame[0] : NULL;
        frame = up > frame && (const char *)up - (const char *)frame < 65536 ? up : NULL;
    }
}

#define TRIP(op, path, len)                                                                                             \
    if (s->before) s->before(s->before_ctx, op, path);                                                                  \
    if (s->hook) {                                                                                                      \
        void *frames_[SIM_FRAMES];                                                                                      \
        sim_frames(__builtin_frame_address(0), frames_);                                                                 \
        int64_t trip_ = s->hook(s->hook_ctx, op, path, len, frames_);                                                   \
        if (trip_ < 0) return trip_;                                                                                    \
        if (trip_ > 0) most = (uint64_t)trip_;                                                                          \
    }

static struct sim_inode *file_of(struct sim *s, int32_t fd)
{
    return fd >= 0 && fd < SIM_FDS && s->fds[fd].used ? &s->inodes[s->fds[fd].inode] : NULL;
}
static const char *path_of(struct sim *s, int32_t fd) { return fd >= 0 && fd < SIM_FDS && s->fds[fd].used ? s->fds[fd].path : "?"; }

static int64_t sim_open(void *self, const char *path, uint32_t flags, uint32_t mode)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)mode;
    (void)most;
    TRIP(SIM_OPEN, path, 0);
    pthread_mutex_lock(&s->lock);
    struct sim_name *n = name_of(s, path);
    int64_t r = -EMFILE;
    if (!n && !(flags & ZR_IO_CREATE)) r = -ENOENT;
    else if (n && (flags & ZR_IO_CREATE) && (flags & ZR_IO_EXCL)) r = -EEXIST;
    else if (!n && !parent_there(s, path)) r = -ENOENT;
    else if (n && s->inodes[n->inode].is_dir && (flags & ZR_IO_WRITE)) r = -EISDIR;
    else {
        for (int32_t fd = 3; fd < SIM_FDS && r == -EMFILE; fd++)
            if (!s->fds[fd].used) r = fd;
    }
    if (r >= 0) {
        uint32_t inode = n ? n->inode : inode_new(s, 0);
        if (!n) {
            sim_name_add(s, path, inode);
            if (s->rec) {
                struct sim_event *e = event_add(s, EV_CREATE);
                e->inode = inode;
                e->off = (int64_t)s->inodes[inode].ino;
                e->path = strdup(path);
            }
        } else if ((flags & ZR_IO_TRUNC) && s->inodes[inode].size) {
            sim_resize(s, inode, 0);
            if (s->rec) event_add(s, EV_SIZE)->inode = inode;
        }
        s->fds[r].used = 1;
        s->fds[r].locked = 0;
        s->fds[r].inode = inode;
        s->fds[r].path = strdup(path);
        s->inodes[inode].opens++;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int64_t sim_close(void *self, int32_t fd)
{
    struct sim *s = self;
    uint64_t most = 0;
    int64_t failed = 0;
    (void)most;
    if (s->hook) { /* a close that fails has closed all the same */
        void *frames[SIM_FRAMES];
        sim_frames(__builtin_frame_address(0), frames);
        failed = s->hook(s->hook_ctx, SIM_CLOSE, path_of(s, fd), 0, frames);
    }
    pthread_mutex_lock(&s->lock);
    struct sim_inode *f = file_of(s, fd);
    if (!f) broken("close of a descriptor that is not open", path_of(s, fd));
    f->opens--;
    s->fds[fd].used = s->fds[fd].locked = 0;
    free(s->fds[fd].path);
    s->fds[fd].path = NULL;
    pthread_mutex_unlock(&s->lock);
    return failed < 0 ? failed : 0;
}

static int64_t sim_pread(void *self, int32_t fd, void *buf, uint64_t len, int64_t off)
{
    struct sim *s = self;
    uint64_t most = len;
    TRIP(SIM_PREAD, path_of(s, fd), len);
    pthread_mutex_lock(&s->lock);
    struct sim_inode *f = file_of(s, fd);
    int64_t r = -EBADF;
    if (f && off >= 0) {
        uint64_t n = (uint64_t)off < f->size ? f->size - (uint64_t)off : 0;
        if (n > most) n = most;
        if (n) memcpy(buf, f->data + off, n);
        r = (int64_t)n;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static uint32_t all_zero(const uint8_t *p, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        if (p[i]) return 0;
    return 1;
}

/* How much of len the disk takes; zeroes over what is there cost nothing. */
static uint64_t space_for(struct sim *s, struct sim_inode *f, const uint8_t *buf, uint64_t len, int64_t off)
{
    if (s->disk_left < 0 || ((uint64_t)off + len <= f->size && all_zero(buf, len))) return len;
    if (len > (uint64_t)s->disk_left) len = (uint64_t)s->disk_left;
    s->disk_left -= (int64_t)len;
    return len;
}

static int64_t write_locked(struct sim *s, int32_t fd, const uint8_t *buf, uint64_t len, int64_t off)
{
    struct sim_inode *f = file_of(s, fd);
    if (!f || off < 0) return -EBADF;
    if (len == 0) return 0;
    if (s->deaf && strstr(s->fds[fd].path, s->deaf) && (uint64_t)off + len <= f->size && all_zero(buf, len)) return (int64_t)len;
    uint64_t n = space_for(s, f, buf, len, off);
    if (n == 0) return -ENOSPC;
    uint32_t inode = s->fds[fd].inode;
    if ((uint64_t)off + n > f->size) sim_resize(s, inode, (uint64_t)off + n);
    f = &s->inodes[inode];
    memcpy(f->data + off, buf, n);
    f->mtime_ns = s->wall_ms * 1000000;
    if (s->rec) {
        struct sim_event *e = event_add(s, EV_WRITE);
        e->inode = inode;
        e->off = off;
        e->len = n;
        e->data = memory_of(buf, n);
    }
    return (int64_t)n;
}

static int64_t sim_pwrite(void *self, int32_t fd, const void *buf, uint64_t len, int64_t off)
{
    struct sim *s = self;
    uint64_t most = len;
    TRIP(SIM_PWRITE, path_of(s, fd), len);
    pthread_mutex_lock(&s->lock);
    int64_t r = write_locked(s, fd, buf, most < len ? most : len, off);
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int64_t sim_pwritev(void *self, int32_t fd, const struct zr_span *bufs, uint32_t n, int64_t off)
{
    struct sim *s = self;
    uint64_t most = UINT64_MAX, all = 0;
    for (uint32_t i = 0; i < n; i++) all += bufs[i].len;
    TRIP(SIM_PWRITEV, path_of(s, fd), all);
    pthread_mutex_lock(&s->lock);
    int64_t done = 0, r = 0;
    for (uint32_t i = 0; i < n && (uint64_t)done < most; i++) {
        uint64_t k = bufs[i].len < most - (uint64_t)done ? bufs[i].len : most - (uint64_t)done;
        r = write_locked(s, fd, bufs[i].ptr, k, off + done);
        if (r < 0) break;
        done += r;
        if (r < (int64_t)k) break;
    }
    pthread_mutex_unlock(&s->lock);
    return done || r >= 0 ? done : r;
}

/* A sync takes its time: what is written meanwhile is not covered by it. */
static void sync_record(struct sim *s, enum ev_kind kind, uint32_t inode, const char *path)
{
    uint32_t begin = sim_now(s);
    if (s->rec) sched_yield();
    pthread_mutex_lock(&s->lock);
    if (s->rec) {
        struct sim_event *e = event_add(s, kind);
        e->inode = inode;
        e->upto = begin;
        e->path = strdup(path);
    }
    pthread_mutex_unlock(&s->lock);
}

static int64_t sync_file(struct sim *s, int32_t fd)
{
    pthread_mutex_lock(&s->lock);
    struct sim_inode *f = file_of(s, fd);
    uint32_t inode = f ? s->fds[fd].inode : 0;
    char path[1100];
    snprintf(path, sizeof path, "%s", path_of(s, fd));
    pthread_mutex_unlock(&s->lock);
    if (!f) return -EBADF;
    sync_record(s, EV_SYNC, inode, path);
    return 0;
}
static int64_t sim_fdatasync(void *self, int32_t fd)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_FDATASYNC, path_of(s, fd), 0);
    return sync_file(s, fd);
}
static int64_t sim_fsync(void *self, int32_t fd)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_FSYNC, path_of(s, fd), 0);
    return sync_file(s, fd);
}
static int64_t sim_sync_dir(void *self, const char *path)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_SYNC_DIR, path, 0);
    pthread_mutex_lock(&s->lock);
    struct sim_inode *d = sim_find(s, path);
    int64_t r = !d ? -ENOENT : d->is_dir ? 0 : -ENOTDIR;
    pthread_mutex_unlock(&s->lock);
    if (strcmp(path, "/") == 0) r = 0;
    if (r == 0) sync_record(s, EV_SYNC_DIR, 0, path);
    return r;
}
static int64_t sim_sync_fs(void *self, const char *path)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_SYNC_FS, path, 0);
    sync_record(s, EV_SYNC_FS, 0, path);
    return 0;
}

static int64_t set_size(struct sim *s, int32_t fd, uint64_t size, uint32_t only_up)
{
    pthread_mutex_lock(&s->lock);
    struct sim_inode *f = file_of(s, fd);
    int64_t r = f ? 0 : -EBADF;
    uint32_t deaf = f && s->deaf && strstr(s->fds[fd].path, s->deaf) && size < f->size;
    if (f && size != f->size && !(only_up && size < f->size) && !deaf) {
        uint32_t inode = s->fds[fd].inode;
        if (f->maps && size < f->size) broken("a file is made shorter while it is mapped", s->fds[fd].path);
        sim_resize(s, inode, size);
        s->inodes[inode].mtime_ns = s->wall_ms * 1000000;
        if (s->rec) {
            struct sim_event *e = event_add(s, EV_SIZE);
            e->inode = inode;
            e->off = (int64_t)size;
        }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}
static int64_t sim_fallocate(void *self, int32_t fd, int64_t off, int64_t len)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_FALLOCATE, path_of(s, fd), 0);
    return set_size(s, fd, (uint64_t)(off + len), 1);
}
static int64_t sim_ftruncate(void *self, int32_t fd, int64_t len)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_FTRUNCATE, path_of(s, fd), 0);
    return set_size(s, fd, (uint64_t)len, 0);
}

static int64_t sim_rename(void *self, const char *from, const char *to)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_RENAME, from, 0);
    pthread_mutex_lock(&s->lock);
    struct sim_name *n = name_of(s, from);
    int64_t r = n && parent_there(s, to) ? 0 : -ENOENT;
    if (r == 0 && s->inodes[n->inode].is_dir) { /* all that lies in it moves along; only within one folder, by one step */
        struct sim_inode *there = sim_find(s, to);
        if (there) r = -ENOTEMPTY;
    }
    if (r == 0 && strcmp(from, to) != 0) {
        uint32_t inode = n->inode;
        if (s->rec) {
            struct sim_event *e = event_add(s, EV_RENAME);
            e->inode = inode;
            e->path = strdup(from);
            e->to = strdup(to);
        }
        struct sim_name *old = name_of(s, to);
        if (old) name_drop(s, old);
        name_drop(s, name_of(s, from));
        sim_name_add(s, to, inode);
        if (s->inodes[inode].is_dir)
            for (uint32_t i = 0; i < s->n_names; i++) {
                char path[1200];
                if (!below(s->names[i].path, from)) continue;
                snprintf(path, sizeof path, "%s%s", to, s->names[i].path + strlen(from));
                free(s->names[i].path);
                s->names[i].path = strdup(path);
                s->names[i].hash = zl_hash(path, strlen(path));
            }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int64_t remove_name(struct sim *s, const char *path, enum ev_kind kind)
{
    pthread_mutex_lock(&s->lock);
    struct sim_name *n = name_of(s, path);
    int64_t r = n ? 0 : -ENOENT;
    if (n && s->inodes[n->inode].is_dir != (kind == EV_RMDIR)) r = kind == EV_RMDIR ? -ENOTDIR : -EISDIR;
    for (uint32_t i = 0; r == 0 && kind == EV_RMDIR && i < s->n_names; i++)
        if (below(s->names[i].path, path)) r = -ENOTEMPTY;
    if (r == 0) {
        if (s->rec) {
            struct sim_event *e = event_add(s, kind);
            e->inode = n->inode;
            e->path = strdup(path);
        }
        name_drop(s, n);
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}
static int64_t sim_link(void *self, const char *from, const char *to)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_LINK, from, 0);
    pthread_mutex_lock(&s->lock);
    struct sim_name *n = name_of(s, from);
    int64_t r = !n || !parent_there(s, to) ? -ENOENT : name_of(s, to) ? -EEXIST : 0;
    if (r == 0) {
        uint32_t inode = n->inode;
        sim_name_add(s, to, inode);
        if (s->rec) {
            struct sim_event *e = event_add(s, EV_CREATE);
            e->inode = inode;
            e->off = (int64_t)s->inodes[inode].ino;
            e->path = strdup(to);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}
static int64_t sim_unlink(void *self, const char *path)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_UNLINK, path, 0);
    return remove_name(s, path, EV_UNLINK);
}
static int64_t sim_rmdir(void *self, const char *path)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_RMDIR, path, 0);
    return remove_name(s, path, EV_RMDIR);
}
static int64_t sim_mkdir(void *self, const char *path, uint32_t mode)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)mode;
    (void)most;
    TRIP(SIM_MKDIR, path, 0);
    pthread_mutex_lock(&s->lock);
    int64_t r = name_of(s, path) ? -EEXIST : parent_there(s, path) ? 0 : -ENOENT;
    if (r == 0) {
        uint32_t inode = sim_make(s, path, 1);
        if (s->rec) {
            struct sim_event *e = event_add(s, EV_MKDIR);
            e->inode = inode;
            e->path = strdup(path);
        }
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static void stat_fill(struct sim *s, uint32_t inode, struct zr_io_stat *ret)
{
    const struct sim_inode *f = &s->inodes[inode];
    *ret = (struct zr_io_stat){ .size = f->size, .mtime_ns = f->mtime_ns, .inode = f->ino, .is_dir = f->is_dir, .mode = 0644 };
}
static int64_t sim_stat(void *self, const char *path, struct zr_io_stat *ret)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_STAT, path, 0);
    pthread_mutex_lock(&s->lock);
    struct sim_name *n = name_of(s, path);
    if (n) stat_fill(s, n->inode, ret);
    pthread_mutex_unlock(&s->lock);
    return n ? 0 : -ENOENT;
}
static int64_t sim_fstat(void *self, int32_t fd, struct zr_io_stat *ret)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_FSTAT, path_of(s, fd), 0);
    pthread_mutex_lock(&s->lock);
    struct sim_inode *f = file_of(s, fd);
    if (f) stat_fill(s, s->fds[fd].inode, ret);
    pthread_mutex_unlock(&s->lock);
    return f ? 0 : -EBADF;
}

static int64_t sim_list(void *self, const char *path, int32_t (*each)(void *ctx, const char *name), void *ctx)
{
    struct sim *s = self;
    uint64_t most = 0;
    char *found[4096];
    uint32_t n = 0;
    size_t len = strlen(path);
    (void)most;
    TRIP(SIM_LIST, path, 0);
    pthread_mutex_lock(&s->lock);
    struct sim_inode *d = sim_find(s, path);
    int64_t r = !d ? -ENOENT : d->is_dir ? 0 : -ENOTDIR;
    for (uint32_t i = 0; r == 0 && i < s->n_names && n < 4096; i++)
        if (below(s->names[i].path, path) && !strchr(s->names[i].path + len + 1, '/')) found[n++] = strdup(s->names[i].path + len + 1);
    pthread_mutex_unlock(&s->lock);
    for (uint32_t i = 0; i < n; i++) {
        if (r == 0) r = each(ctx, found[i]);
        free(found[i]);
    }
    return r;
}

static int64_t sim_map(void *self, int32_t fd, int64_t off, uint64_t len, const void **ret_addr)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_MAP, path_of(s, fd), 0);
    pthread_mutex_lock(&s->lock);
    struct sim_inode *f = file_of(s, fd);
    int64_t r = !f ? -EBADF : off != 0 || len == 0 ? -EINVAL : 0;
    if (r == 0 && len > f->cap) broken("a mapping reaches behind its file", path_of(s, fd));
    if (r == 0) {
        f->maps++;
        *ret_addr = f->data;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}
static int64_t sim_unmap(void *self, const void *addr, uint64_t len)
{
    struct sim *s = self;
    int64_t r = -EINVAL, failed = 0;
    if (s->hook) { /* as close */
        void *frames[SIM_FRAMES];
        sim_frames(__builtin_frame_address(0), frames);
        failed = s->hook(s->hook_ctx, SIM_UNMAP, "", len, frames);
    }
    pthread_mutex_lock(&s->lock);
    for (uint32_t i = 0; i < s->n_inodes && r < 0; i++)
        if (s->inodes[i].data == addr && s->inodes[i].maps) {
            s->inodes[i].maps--;
            r = 0;
        }
    pthread_mutex_unlock(&s->lock);
    if (r < 0) broken("unmap of what is not mapped", "");
    return failed < 0 ? failed : r;
}
static int64_t sim_advise(void *self, int32_t fd, const void *addr_or_null, int64_t off, uint64_t len, uint32_t advice)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)addr_or_null;
    (void)off;
    (void)len;
    (void)advice;
    (void)most;
    TRIP(SIM_ADVISE, path_of(s, fd), 0);
    return 0;
}
static int64_t sim_lock(void *self, int32_t fd)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_LOCK, path_of(s, fd), 0);
    return 0;
}
/* By flock: it belongs to the descriptor. */
static int64_t sim_lock_dir(void *self, int32_t fd)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_LOCK_DIR, path_of(s, fd), 0);
    pthread_mutex_lock(&s->lock);
    int64_t r = file_of(s, fd) ? 0 : -EBADF;
    for (int32_t i = 0; i < SIM_FDS && r == 0; i++)
        if (i != fd && s->fds[i].used && s->fds[i].locked && s->fds[i].inode == s->fds[fd].inode) r = -EAGAIN;
    if (r == 0) s->fds[fd].locked = 1;
    pthread_mutex_unlock(&s->lock);
    return r;
}
static int64_t sim_disk(void *self, const char *path, struct zr_io_disk *ret)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_DISK, path, 0);
    *ret = (struct zr_io_disk){ 1000000, (uint64_t)((1 - s->used) * 1000000), (uint64_t)((1 - s->used) * 1000000) };
    return 0;
}
static int64_t sim_seek_data(void *self, int32_t fd, int64_t off)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_SEEK_DATA, path_of(s, fd), 0);
    pthread_mutex_lock(&s->lock);
    struct sim_inode *f = file_of(s, fd);
    int64_t r = !f ? -EBADF : -ENXIO;
    for (int64_t at = off; f && r == -ENXIO && (uint64_t)at < f->size; at = (at / 4096 + 1) * 4096) {
        uint64_t n = 4096 - (uint64_t)at % 4096;
        if (n > f->size - (uint64_t)at) n = f->size - (uint64_t)at;
        if (!all_zero(f->data + at, n)) r = at;
    }
    pthread_mutex_unlock(&s->lock);
    return r;
}

static int64_t sim_set_mtime(void *self, int32_t fd, int64_t mtime_ns)
{
    struct sim *s = self;
    uint64_t most = 0;
    (void)most;
    TRIP(SIM_SET_MTIME, path_of(s, fd), 0);
    pthread_mutex_lock(&s->lock);
    struct sim_inode *f = file_of(s, fd);
    if (f) f->mtime_ns = mtime_ns;
    pthread_mutex_unlock(&s->lock);
    return f ? 0 : -EBADF;
}

/* ---- whole file systems --------------------------------------------------------------------------------------------------------- */

void sim_boot(struct sim *s, uint32_t boot)
{
    char text[64];
    uint32_t inode = sim_make(s, SIM_BOOT_ID, 0);
    int n = snprintf(text, sizeof text, "%08x-0000-4000-8000-000000000000\n", boot);
    sim_resize(s, inode, (uint64_t)n);
    memcpy(s->inodes[inode].data, text, (size_t)n);
}

struct sim *sim_new(void)
{
    struct sim *s = calloc(1, sizeof *s);
    pthread_mutex_init(&s->lock, NULL);
    s->disk_left = -1;
    s->used = 0.1;
    s->wall_ms = 1700000000000;
    s->next_ino = 2;
    s->io = (struct zr_io_v1){ .hdr = ZR_HDR(struct zr_io_v1, 0), .ctx = s, .open = sim_open, .close = sim_close, .pread = sim_pread,
                               .pwrite = sim_pwrite, .pwritev = sim_pwritev, .fdatasync = sim_fdatasync, .fsync = sim_fsync,
                               .sync_dir = sim_sync_dir, .fallocate = sim_fallocate, .ftruncate = sim_ftruncate, .rename = sim_rename,
                               .unlink = sim_unlink, .mkdir = sim_mkdir, .rmdir = sim_rmdir, .stat = sim_stat, .fstat = sim_fstat,
                               .list = sim_list, .map = sim_map, .unmap = sim_unmap, .advise = sim_advise, .lock = sim_lock,
                               .disk = sim_disk, .seek_data = sim_seek_data, .sync_fs = sim_sync_fs,
                               .set_mtime = sim_set_mtime, .link = sim_link, .lock_dir = sim_lock_dir };
    sim_boot(s, 1);
    return s;
}

void sim_free(struct sim *s)
{
    for (uint32_t i = 0; i < s->n_inodes; i++) free(s->inodes[i].data);
    for (uint32_t i = 0; i < s->n_names; i++) free(s->names[i].path);
    for (uint32_t i = 0; i < SIM_FDS; i++) free(s->fds[i].path);
    sim_trace_free(s->events, s->n_events);
    free(s->inodes);
    free(s->names);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

struct sim *sim_copy(struct sim *s)
{
    struct sim *n = sim_new();
    pthread_mutex_lock(&s->lock);
    n->wall_ms = s->wall_ms;
    for (uint32_t i = 0; i < s->n_names; i++) {
        const struct sim_inode *from = &s->inodes[s->names[i].inode];
        uint32_t inode = sim_make(n, s->names[i].path, from->is_dir);
        sim_resize(n, inode, from->size);
        if (from->size) memcpy(n->inodes[inode].data, from->data, from->size);
        n->inodes[inode].mtime_ns = from->mtime_ns;
        n->inodes[inode].ino = from->ino;
        if (from->ino >= n->next_ino) n->next_ino = from->ino + 1;
    }
    pthread_mutex_unlock(&s->lock);
    return n;
}

static uint64_t hash_bytes(const uint8_t *p, uint64_t n, uint64_t h)
{
    for (; n >= 8; p += 8, n -= 8) {
        uint64_t x;
        memcpy(&x, p, 8);
        h = (h ^ x) * 0x9E3779B97F4A7C15ull;
        h ^= h >> 29;
    }
    for (; n; p++, n--) h = (h ^ *p) * 0x100000001B3ull;
    return h;
}

uint64_t sim_hash(struct sim *s)
{
    uint64_t h = 0;
    for (uint32_t i = 0; i < s->n_names; i++) { /* names in any order */
        if (strcmp(s->names[i].path, SIM_BOOT_ID) == 0) continue;
        const struct sim_inode *f = &s->inodes[s->names[i].inode];
        h += hash_bytes(f->data, f->size, s->names[i].hash ^ (f->size * 31));
    }
    return h;
}

uint64_t sim_open_count(struct sim *s)
{
    uint64_t n = 0;
    for (uint32_t i = 0; i < SIM_FDS; i++) n += s->fds[i].used;
    for (uint32_t i = 0; i < s->n_inodes; i++) n += s->inodes[i].maps;
    return n;
}

void sim_dump(struct sim *s, const char *folder)
{
    char path[2400];
    for (uint32_t round = 0; round < 12; round++) /* folders first, short names before long ones */
        for (uint32_t i = 0; i < s->n_names; i++) {
            const struct sim_inode *f = &s->inodes[s->names[i].inode];
            snprintf(path, sizeof path, "%s%s", folder, s->names[i].path);
            if (f->is_dir) mkdir(path, 0755);
            if (f->is_dir || round < 11) continue;
            FILE *out = fopen(path, "w");
            if (!out) continue;
            if (f->size) fwrite(f->data, 1, f->size, out);
            fclose(out);
        }
}
