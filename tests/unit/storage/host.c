/* SPDX-License-Identifier: Apache-2.0 */
/* host.c - see host.h. */
#include "host.h"
#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "zarya/err.h"
#include "zarya/log.h"
#include "zarya/timer.h"
#include "zarya/work.h"

static void power_write(struct world *w, int32_t fd, uint64_t len, int64_t off);
static void power_size(struct world *w, int32_t fd, int64_t len);
static void power_name(struct world *w, const char *path);
static void power_synced(struct world *w, int32_t fd);
static void power_dir_synced(struct world *w, const char *dir);
static void power_renamed(struct world *w, const char *from, const char *to);
static void power_all_synced(struct world *w);
static void power_free(struct world *w);
static void power_lock(struct world *w);
static void power_unlock(struct world *w);

static struct world *world_of(const struct zr_host *host) { return host->ctx; }

/* ---- services ---------------------------------------------------------------------------------------------------------------- */

static uint32_t log_level(const struct zr_host *host)
{
    (void)host;
    return ZR_LOG_DEBUG;
}
static void log_write(const struct zr_host *host, uint32_t level, struct zr_str text, const struct zr_field *f, uint32_t n)
{
    struct world *w = world_of(host);
    (void)f;
    (void)n;
    if (getenv("ZS_TEST_LOG")) fprintf(stderr, "[%u] %.*s\n", level, (int)text.len, text.ptr);
    pthread_mutex_lock(&w->lock);
    size_t at = strlen(w->lines);
    if (at + text.len + 2 < sizeof w->lines) snprintf(w->lines + at, sizeof w->lines - at, "%.*s\n", (int)text.len, text.ptr);
    pthread_mutex_unlock(&w->lock);
}
static void err_raise(const struct zr_host *host, const struct zr_error *e)
{
    struct world *w = world_of(host);
    pthread_mutex_lock(&w->lock);
    snprintf(w->error, sizeof w->error, "%.*s", (int)e->text.len, e->text.ptr);
    pthread_mutex_unlock(&w->lock);
}
static void raise_to(_Atomic int64_t *mark, int64_t position)
{
    int64_t now = atomic_load(mark);
    while (position > now && !atomic_compare_exchange_weak(mark, &now, position)) {}
}
static void dur_advance(const struct zr_host *host, uint32_t mark, int64_t position)
{
    struct world *w = world_of(host);
    if (mark == ZR_MARK_WRITTEN) raise_to(&w->written, position);
    if (mark == ZR_MARK_FLUSHED) raise_to(&w->flushed, position);
}
static void dur_fail(const struct zr_host *host, uint32_t mark, struct zr_str why)
{
    (void)mark;
    (void)why;
    atomic_store(&world_of(host)->failed, 1);
}
static int64_t dur_position(const struct zr_host *host, uint32_t mark)
{
    return mark == ZR_MARK_FLUSHED ? atomic_load(&world_of(host)->flushed) : atomic_load(&world_of(host)->written);
}
static void dur_arrived(const struct zr_host *h, struct zr_str t, int32_t q, int64_t m, int64_t c)
{
    (void)h;
    (void)t;
    (void)q;
    (void)m;
    (void)c;
}
static void dur_when(const struct zr_host *h, int64_t p, void (*fn)(void *, zr_status), void *arg)
{
    (void)h;
    (void)p;
    fn(arg, ZR_OK);
}
static int64_t timer_mono(const struct zr_host *host)
{
    struct timespec ts;
    (void)host;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}
static int64_t timer_wall(const struct zr_host *host)
{
    struct timespec ts;
    int64_t set = atomic_load(&world_of(host)->wall);
    if (set) return set;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
static zr_status timer_at(const struct zr_host *host, int64_t at, void (*fn)(void *), void *arg, uint64_t *ret)
{
    struct world *w = world_of(host);
    w->timer_at = at;
    cr_assert_null(w->timer_fn, "a second timer");
    w->timer_fn = fn;
    w->timer_arg = arg;
    *ret = 1;
    return ZR_OK;
}
static zr_status timer_cancel(const struct zr_host *host, uint64_t id)
{
    struct world *w = world_of(host);
    (void)id;
    if (!w->timer_fn) return ZR_ENOENT;
    w->timer_fn = NULL;
    return ZR_OK;
}
void world_fire(struct world *w)
{
    void (*fn)(void *) = w->timer_fn;
    cr_assert_not_null(fn);
    w->timer_fn = NULL;
    fn(w->timer_arg);
}

struct start {
    void (*fn)(void *);
    void *arg;
};
static void *thread_main(void *arg)
{
    struct start s = *(struct start *)arg;
    free(arg);
    s.fn(s.arg);
    return NULL;
}
static zr_status work_run(const struct zr_host *host, void (*fn)(void *), void *arg)
{
    (void)host;
    fn(arg);
    return ZR_OK;
}
static zr_status work_spawn(const struct zr_host *host, const char *name, void (*fn)(void *), void *arg, uint64_t *ret)
{
    struct world *w = world_of(host);
    struct start *s = malloc(sizeof *s);
    (void)name;
    *s = (struct start){ fn, arg };
    *ret = w->n_threads;
    cr_assert_eq(pthread_create(&w->threads[w->n_threads++], NULL, thread_main, s), 0);
    return ZR_OK;
}
static zr_status work_join(const struct zr_host *host, uint64_t id)
{
    pthread_join(world_of(host)->threads[id], NULL);
    return ZR_OK;
}

/* ---- the file system that fails -------------------------------------------------------------------------------------------------- */

static const struct zr_io_v1 *real(void) { return zl_io_posix(); }

static uint32_t path_hit(struct world *w, const char *path)
{
    pthread_mutex_lock(&w->lock);
    uint32_t hit = !w->fault_path[0] || (path && strstr(path, w->fault_path));
    pthread_mutex_unlock(&w->lock);
    return hit;
}
static void path_set(struct world *w, const char *part)
{
    pthread_mutex_lock(&w->lock);
    snprintf(w->fault_path, sizeof w->fault_path, "%s", part ? part : "");
    pthread_mutex_unlock(&w->lock);
}

/* 0: go on; else the error. */
static int64_t trip(struct world *w, enum op op, const char *path)
{
    if (!path_hit(w, path)) return 0;
    int64_t n = atomic_fetch_add(&w->fault[op].calls, 1), after = atomic_load(&w->fault[op].after);
    return after >= 0 && n >= after ? -w->fault[op].error : 0;
}
static const char *path_of(struct world *w, int32_t fd) { return fd >= 0 && fd < 4096 ? w->fd_path[fd] : ""; }

static int64_t io_open(void *self, const char *path, uint32_t flags, uint32_t mode)
{
    struct world *w = self;
    int64_t e = trip(w, OP_OPEN, path);
    if (e < 0) return e;
    struct stat before;
    uint32_t made = (flags & ZR_IO_CREATE) && stat(path, &before) != 0;
    power_lock(w);
    int64_t fd = real()->open(NULL, path, flags, mode);
    if (fd >= 0 && made) power_name(w, path);
    power_unlock(w);
    if (fd >= 0 && fd < 4096) {
        pthread_mutex_lock(&w->lock);
        snprintf(w->fd_path[fd], sizeof w->fd_path[fd], "%s", strlen(path) > 150 ? path + strlen(path) - 150 : path);
        pthread_mutex_unlock(&w->lock);
    }
    return fd;
}
static int64_t io_close(void *self, int32_t fd)
{
    (void)self;
    return real()->close(NULL, fd);
}
static int64_t io_pread(void *self, int32_t fd, void *buf, uint64_t len, int64_t off)
{
    int64_t e = trip(self, OP_PREAD, path_of(self, fd));
    return e < 0 ? e : real()->pread(NULL, fd, buf, len, off);
}
/* How many of len bytes the disk still takes. */
static uint64_t take_space(struct world *w, int32_t fd, uint64_t len)
{
    int64_t left = atomic_load(&w->disk_left);
    if (left < 0 || !path_hit(w, path_of(w, fd))) return len;
    uint64_t n = len < (uint64_t)left ? len : (uint64_t)left;
    atomic_fetch_sub(&w->disk_left, (int64_t)n);
    return n;
}
static int64_t write_through(struct world *w, int32_t fd, const void *buf, uint64_t len, int64_t off)
{
    power_lock(w);
    power_write(w, fd, len, off);
    int64_t r = real()->pwrite(NULL, fd, buf, len, off);
    power_unlock(w);
    return r;
}
static int64_t io_pwrite(void *self, int32_t fd, const void *buf, uint64_t len, int64_t off)
{
    int64_t e = trip(self, OP_PWRITE, path_of(self, fd));
    if (e < 0) return e;
    struct stat st;
    if (fstat(fd, &st) == 0 && ((const uint8_t *)buf)[0] == 0 && off + (int64_t)len <= st.st_size && len <= 65536) {
        static const uint8_t zeros[65536]; /* zeroes over what is there take no space */
        if (memcmp(buf, zeros, len) == 0) return write_through(self, fd, buf, len, off);
    }
    uint64_t n = take_space(self, fd, len);
    if (n == 0 && len) return -ENOSPC;
    return write_through(self, fd, buf, n, off);
}
static int64_t io_pwritev(void *self, int32_t fd, const struct zr_span *bufs, uint32_t n, int64_t off)
{
    int64_t e = trip(self, OP_PWRITEV, path_of(self, fd));
    if (e < 0) return e;
    int64_t done = 0;
    for (uint32_t i = 0; i < n; i++) {
        int64_t r = io_pwrite(self, fd, bufs[i].ptr, bufs[i].len, off + done);
        if (r < 0) return done ? done : r;
        done += r;
        if (r < (int64_t)bufs[i].len) break;
    }
    return done;
}
static int64_t io_fdatasync(void *self, int32_t fd)
{
    int64_t e = trip(self, OP_FDATASYNC, path_of(self, fd));
    if (e == 0) power_synced(self, fd);
    return e;
}
static int64_t io_fsync(void *self, int32_t fd)
{
    int64_t e = trip(self, OP_FSYNC, path_of(self, fd));
    if (e == 0) power_synced(self, fd);
    return e;
}
static int64_t io_sync_dir(void *self, const char *path)
{
    int64_t e = trip(self, OP_SYNC_DIR, path);
    if (e == 0) power_dir_synced(self, path);
    return e;
}
static int64_t io_sync_fs(void *self, const char *path)
{
    int64_t e = trip(self, OP_SYNC_DIR, path);
    if (e == 0) power_all_synced(self);
    return e;
}
static int64_t io_mkdir(void *self, const char *path, uint32_t mode)
{
    power_lock(self);
    int64_t r = real()->mkdir(NULL, path, mode);
    if (r >= 0) power_name(self, path);
    power_unlock(self);
    return r;
}
static int64_t io_fallocate(void *self, int32_t fd, int64_t off, int64_t len)
{
    (void)self;
    return real()->fallocate(NULL, fd, off, len);
}
static int64_t io_ftruncate(void *self, int32_t fd, int64_t len)
{
    int64_t e = trip(self, OP_FTRUNCATE, path_of(self, fd));
    if (e < 0) return e;
    power_lock(self);
    power_size(self, fd, len);
    int64_t r = real()->ftruncate(NULL, fd, len);
    power_unlock(self);
    return r;
}
static int64_t io_rename(void *self, const char *from, const char *to)
{
    int64_t e = trip(self, OP_RENAME, from);
    if (e < 0) return e;
    power_lock(self);
    int64_t r = real()->rename(NULL, from, to);
    if (r >= 0) power_renamed(self, from, to);
    power_unlock(self);
    return r;
}
static int64_t io_unlink(void *self, const char *path)
{
    int64_t e = trip(self, OP_UNLINK, path);
    return e < 0 ? e : real()->unlink(NULL, path);
}
static int64_t io_disk(void *self, const char *path, struct zr_io_disk *ret)
{
    struct world *w = self;
    int64_t r = real()->disk(NULL, path, ret);
    if (w->used > 0) {
        ret->total = 1000000;
        ret->free = ret->available = (uint64_t)((1 - w->used) * 1000000);
    }
    return r;
}

static const struct zr_log_v1 log_table = { ZR_HDR(struct zr_log_v1, 0), log_level, log_write };
static const struct zr_err_v1 err_table = { ZR_HDR(struct zr_err_v1, 0), err_raise };
static const struct zr_durability_v1 dur_table = { ZR_HDR(struct zr_durability_v1, 0), dur_advance, dur_fail, dur_position,
                                                   dur_arrived, dur_when };
static const struct zr_timer_v1 timer_table = { ZR_HDR(struct zr_timer_v1, 0), timer_mono, timer_wall, timer_at, timer_cancel, NULL };
static const struct zr_work_v1 work_table = { ZR_HDR(struct zr_work_v1, 0), work_run, work_spawn, work_join };

static const void *host_query(const struct zr_host *host, const char *id)
{
    struct world *w = world_of(host);
    if (!strcmp(id, ZR_SVC_IO)) return &w->io;
    if (!strcmp(id, ZR_SVC_LOG)) return &log_table;
    if (!strcmp(id, ZR_SVC_ERR)) return &err_table;
    if (!strcmp(id, ZR_SVC_DURABILITY)) return &dur_table;
    if (!strcmp(id, ZR_SVC_TIMER)) return &timer_table;
    if (!strcmp(id, ZR_SVC_WORK)) return &work_table;
    if (!strcmp(id, ZR_SVC_BITS)) return w->bits;
    return NULL;
}

/* ---- worlds ------------------------------------------------------------------------------------------------------------------------ */

static void conf_small(struct zs_conf *c)
{
    *c = (struct zs_conf){
        .log_dir = "",
        .index = 1,
        .flush_interval_ms = 20,
        .checkpoint_interval_ms = 3600000,
        .segment_size = 65536,
        .queue_file_size = 2000, /* 100 entries */
        .max_message_size = 20000,
        .index_slots = 128,
        .index_entries = 256,
        .retention_hours = 72,
        .clean_interval_ms = 10000,
        .max_hot_bytes = 262144,
        .max_hot_messages = 32,
        .max_cold_bytes = 65536,
        .max_cold_messages = 8,
        .max_open_queue_files = 16,
        .max_open_segments = 8,
        .max_tail_bytes = 65536,
        .ratio_memory = 0.4,
        .ratio_clean = 0.75,
        .ratio_force = 0.85,
        .ratio_refuse = 0.9,
    };
    zs_parse_levels(zl_str("1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"), c->level_ms, &c->n_levels);
}

static struct world *world_make(const char *name)
{
    static _Atomic int serial;
    struct world *w = calloc(1, sizeof *w);
    pthread_mutex_init(&w->lock, NULL);
    snprintf(w->dir, sizeof w->dir, "/tmp/zs-test-%d-%s-%d", (int)getpid(), name, atomic_fetch_add(&serial, 1));
    remove_tree(w->dir);
    w->io = *real();
    w->io.ctx = w;
    w->io.open = io_open;
    w->io.close = io_close;
    w->io.pread = io_pread;
    w->io.pwrite = io_pwrite;
    w->io.pwritev = io_pwritev;
    w->io.fdatasync = io_fdatasync;
    w->io.fsync = io_fsync;
    w->io.sync_dir = io_sync_dir;
    w->io.fallocate = io_fallocate;
    w->io.ftruncate = io_ftruncate;
    w->io.rename = io_rename;
    w->io.unlink = io_unlink;
    w->io.disk = io_disk;
    w->io.mkdir = io_mkdir;
    w->io.sync_fs = io_sync_fs;
    w->host = (struct zr_host){ ZR_HDR(struct zr_host, 0), w, host_query, "storage", w->dir };
    atomic_init(&w->disk_left, -1);
    for (int i = 0; i < N_OPS; i++) atomic_init(&w->fault[i].after, -1);
    w->used = 0.1;
    return w;
}

struct world *world_new(const char *name)
{
    struct world *w = world_make(name);
    conf_small(&w->conf);
    w->conf.root = w->dir;
    return w;
}

zr_status world_open(struct world *w)
{
    w->conf.root = w->dir;
    w->st = zs_create(&w->host, &w->conf);
    cr_assert_not_null(w->st);
    zr_status rc = zs_warm(w->st);
    if (rc != ZR_OK) {
        zs_destroy(w->st);
        w->st = NULL;
        return rc;
    }
    zs_activate(w->st);
    return ZR_OK;
}

static void drained(void *ctx, zr_status status) { *(zr_status *)ctx = status; }

void world_close(struct world *w)
{
    zr_status status = ZR_PENDING;
    if (!w->st) return;
    zs_drain(w->st, (struct zr_done){ drained, &status });
    cr_assert_eq(status, ZR_OK);
    zs_cool(w->st);
    zs_destroy(w->st);
    w->st = NULL;
    w->n_threads = 0;
    cr_assert_null(w->timer_fn, "a timer was left behind");
}

void world_end(struct world *w)
{
    world_mend(w);
    world_close(w);
    remove_tree(w->dir);
    power_free(w);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static void copy_tree(const char *from, const char *to)
{
    char cmd[1200];
    snprintf(cmd, sizeof cmd, "cp -a --sparse=always '%s' '%s'", from, to);
    cr_assert_eq(system(cmd), 0);
}

struct world *world_copy(struct world *w)
{
    struct world *n = world_make("copy");
    n->conf = w->conf;
    n->conf.root = n->dir;
    copy_tree(w->dir, n->dir);
    return n;
}

struct world *world_kill(struct world *w)
{
    struct world *n = world_copy(w);
    world_end(w);
    cr_assert_eq(world_open(n), ZR_OK, "%s", n->error);
    return n;
}

void world_fault(struct world *w, enum op op, int64_t after, int64_t error, const char *part)
{
    path_set(w, part);
    atomic_store(&w->fault[op].calls, 0);
    atomic_store(&w->fault[op].error, error);
    atomic_store(&w->fault[op].after, after);
}

void world_space(struct world *w, int64_t left, const char *part)
{
    path_set(w, part);
    atomic_store(&w->disk_left, left);
}

void world_mend(struct world *w)
{
    for (int i = 0; i < N_OPS; i++) atomic_store(&w->fault[i].after, -1);
    atomic_store(&w->disk_left, -1);
    path_set(w, NULL);
}

uint32_t world_said(struct world *w, const char *part)
{
    pthread_mutex_lock(&w->lock);
    uint32_t r = strstr(w->lines, part) != NULL;
    pthread_mutex_unlock(&w->lock);
    return r;
}
void world_quiet(struct world *w)
{
    pthread_mutex_lock(&w->lock);
    w->lines[0] = 0;
    pthread_mutex_unlock(&w->lock);
}

/* ---- power ---------------------------------------------------------------------------------------------------------------------------- */

#define SECTOR 512
struct undo { /* one thing that is not durable, newest last */
    char *path;     /* within the folder */
    uint8_t *old;   /* bytes that were there; NULL: the size changed */
    int64_t off;    /* of the bytes; or the size before */
    uint64_t len;
};
struct power {
    pthread_mutex_t lock;
    struct undo *undo;
    char **names;   /* made, and their folder not synced */
    uint64_t n, cap, n_names, cap_names;
};

static void power_lock(struct world *w)
{
    if (w->power) pthread_mutex_lock(&w->power->lock);
}
static void power_unlock(struct world *w)
{
    if (w->power) pthread_mutex_unlock(&w->power->lock);
}
static const char *within(struct world *w, const char *path)
{
    const char *at = strstr(path, w->dir + 5); /* fd_path may have lost "/tmp/" */
    return at ? at + strlen(w->dir + 5) : path;
}
static struct undo *undo_add(struct world *w, int32_t fd)
{
    struct power *p = w->power;
    if (p->n == p->cap) {
        p->cap = p->cap ? p->cap * 2 : 256;
        p->undo = realloc(p->undo, p->cap * sizeof *p->undo);
    }
    struct undo *u = &p->undo[p->n++];
    *u = (struct undo){ .path = strdup(within(w, path_of(w, fd))) };
    return u;
}
static void power_write(struct world *w, int32_t fd, uint64_t len, int64_t off)
{
    if (!w->power || len == 0) return;
    struct undo *u = undo_add(w, fd);
    u->old = calloc(1, len);
    u->off = off;
    u->len = len;
    if (pread(fd, u->old, len, off) < 0) u->len = 0;
}
static void power_size(struct world *w, int32_t fd, int64_t len)
{
    struct stat st;
    if (!w->power || fstat(fd, &st) != 0 || len <= st.st_size) return;
    undo_add(w, fd)->off = st.st_size;
}
static void power_name(struct world *w, const char *path)
{
    struct power *p = w->power;
    if (!p) return;
    if (within(w, path)[0] == 0) return; /* the folder of the test itself */
    if (p->n_names == p->cap_names) {
        p->cap_names = p->cap_names ? p->cap_names * 2 : 64;
        p->names = realloc(p->names, p->cap_names * sizeof *p->names);
    }
    p->names[p->n_names++] = strdup(within(w, path));
}
static void power_synced(struct world *w, int32_t fd)
{
    struct power *p = w->power;
    if (!p) return;
    power_lock(w);
    const char *path = within(w, path_of(w, fd));
    uint64_t kept = 0;
    for (uint64_t i = 0; i < p->n; i++) {
        if (strcmp(p->undo[i].path, path) != 0) {
            p->undo[kept++] = p->undo[i];
            continue;
        }
        free(p->undo[i].path);
        free(p->undo[i].old);
    }
    p->n = kept;
    power_unlock(w);
}
static void power_dir_synced(struct world *w, const char *dir)
{
    struct power *p = w->power;
    if (!p) return;
    power_lock(w);
    const char *in = within(w, dir);
    size_t len = strlen(in);
    uint64_t kept = 0;
    for (uint64_t i = 0; i < p->n_names; i++) {
        const char *n = p->names[i];
        if (strncmp(n, in, len) == 0 && n[len] == '/' && !strchr(n + len + 1, '/')) free(p->names[i]);
        else p->names[kept++] = p->names[i];
    }
    p->n_names = kept;
    power_unlock(w);
}
static void power_renamed(struct world *w, const char *from, const char *to)
{
    struct power *p = w->power;
    if (!p) return;
    from = within(w, from);
    to = within(w, to);
    for (uint64_t i = 0; i < p->n_names; i++)
        if (strcmp(p->names[i], from) == 0) {
            free(p->names[i]);
            p->names[i] = strdup(to);
        }
    for (uint64_t i = 0; i < p->n; i++) { /* what is not durable of it goes with it; what was there under that name is no more */
        uint32_t moved = strcmp(p->undo[i].path, from) == 0, gone = strcmp(p->undo[i].path, to) == 0;
        if (!moved && !gone) continue;
        free(p->undo[i].path);
        p->undo[i].path = strdup(moved ? to : "/replaced");
    }
}
static void power_all_synced(struct world *w)
{
    struct power *p = w->power;
    if (!p) return;
    power_lock(w);
    for (uint64_t i = 0; i < p->n; i++) {
        free(p->undo[i].path);
        free(p->undo[i].old);
    }
    for (uint64_t i = 0; i < p->n_names; i++) free(p->names[i]);
    p->n = p->n_names = 0;
    power_unlock(w);
}
static void power_free(struct world *w)
{
    struct power *p = w->power;
    if (!p) return;
    for (uint64_t i = 0; i < p->n; i++) {
        free(p->undo[i].path);
        free(p->undo[i].old);
    }
    for (uint64_t i = 0; i < p->n_names; i++) free(p->names[i]);
    free(p->undo);
    free(p->names);
    pthread_mutex_destroy(&p->lock);
    free(p);
    w->power = NULL;
}
void world_power(struct world *w)
{
    w->power = calloc(1, sizeof *w->power);
    pthread_mutex_init(&w->power->lock, NULL);
}

static uint64_t mix(uint64_t x)
{
    x = (x ^ (x >> 31)) * 0x9E3779B97F4A7C15ull;
    return x ^ (x >> 29);
}

/* Takes back what the cut lost of one write, sector by sector. */
static void undo_one(struct world *n, const struct undo *u, int mode, uint64_t chance)
{
    char path[1200];
    snprintf(path, sizeof path, "%s%s", n->dir, u->path);
    int64_t size = file_size_of(path);
    if (size < 0) return;
    if (!u->old) {
        if (mode != 2 || mix(chance ^ zl_hash(u->path, strlen(u->path))) % 4 == 0) cr_assert_eq(truncate(path, u->off), 0);
        return;
    }
    for (uint64_t at = 0; at < u->len;) {
        int64_t off = u->off + (int64_t)at, sector = off / SECTOR;
        uint64_t k = (uint64_t)((sector + 1) * SECTOR - off);
        if (k > u->len - at) k = u->len - at;
        uint32_t lost = mode != 2 || mix(chance ^ mix((uint64_t)sector) ^ zl_hash(u->path, strlen(u->path))) % 2;
        if (lost && off + (int64_t)k <= size) file_write(path, off, u->old + at, k);
        at += k;
    }
}

struct world *world_cut(struct world *w, int mode, unsigned *seed)
{
    struct power *p = w->power;
    uint64_t chance = mix((uint64_t)rand_r(seed) + 1);
    pthread_mutex_lock(&p->lock);
    struct world *n = world_copy(w);
    uint64_t from = mode == 1 ? p->n : (mode == 3 && p->n ? mix(chance) % p->n : 0);
    for (uint64_t i = p->n; i > from; i--) undo_one(n, &p->undo[i - 1], mode, chance);
    for (uint64_t i = 0; i < p->n_names && mode != 1; i++) {
        char path[1200];
        snprintf(path, sizeof path, "%s%s", n->dir, p->names[i]);
        if (mode == 0 || mix(chance + i) % 2) {
            remove_tree(path);
            remove(path);
        }
    }
    pthread_mutex_unlock(&p->lock);
    return n;
}

/* ---- messages ---------------------------------------------------------------------------------------------------------------------- */

struct zr_msg msg_of(const char *topic, int32_t queue_id, const void *body, uint64_t len, const char *props)
{
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0) };
    m.topic = zl_str(topic);
    m.queue_id = queue_id;
    m.body = (struct zr_span){ body, len };
    m.properties = (struct zr_span){ (const uint8_t *)props, props ? strlen(props) : 0 };
    m.tags_code = zl_tags_code(zl_props_get(m.properties, "TAGS"));
    m.born_ms = 1700000000000;
    m.born_host = m.store_host = (struct zr_addr){ { 127, 0, 0, 1 }, 10911, 4 };
    m.inner_num = 1;
    return m;
}

struct zr_put put_one(struct world *w, const char *topic, int32_t queue_id, const char *body, const char *props)
{
    struct zr_msg m = msg_of(topic, queue_id, body, strlen(body), props);
    struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
    int64_t end;
    zs_append(w->st, &m, 1, &p, &end);
    return p;
}

void body_of(char *to, uint32_t size, const char *topic, int32_t queue_id, int64_t n)
{
    int k = snprintf(to, size, "%s/%d/%lld/", topic, queue_id, (long long)n);
    for (uint32_t i = (uint32_t)k; i < size; i++) to[i] = (char)('a' + (n + i) % 26);
}

void put_many(struct world *w, const char *topic, int32_t queue_id, uint32_t n, uint32_t size)
{
    char *body = malloc(size + 1);
    int64_t next = w->conf.sync ? (flush_all(w), max_of(w, topic, queue_id)) : max_of(w, topic, queue_id);
    for (uint32_t i = 0; i < n; i++, next++) {
        struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
        int64_t end;
        body_of(body, size, topic, queue_id, next);
        struct zr_msg m = msg_of(topic, queue_id, body, size, NULL);
        zs_append(w->st, &m, 1, &p, &end);
        cr_assert_eq(p.status, ZR_OK, "put %u: %d %s", i, p.status, w->lines);
        cr_assert_eq(p.queue_offset, next);
    }
    free(body);
}

/* ---- reading ------------------------------------------------------------------------------------------------------------------------ */

zr_status read_at(struct world *w, const char *topic, int32_t queue_id, int64_t offset, uint32_t max, struct answer *ret)
{
    struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str(topic), .queue_id = queue_id, .offset = offset,
                           .pieces = ret->pieces, .cap_pieces = 64, .max_messages = max };
    memset(&ret->r, 0, sizeof ret->r);
    ret->r.hdr = (struct zr_hdr)ZR_HDR(struct zr_read_result, 0);
    return zs_read(w->st, &req, &ret->r);
}

struct zl_record record_of(const struct answer *a, uint32_t i)
{
    struct zl_record rec;
    const char *why = "";
    for (uint32_t p = 0; p < a->r.n_pieces; p++) {
        struct zr_span s = { a->pieces[p].ptr, a->pieces[p].len };
        while (s.len) {
            cr_assert_eq(zl_record_parse(s, 1, &rec, &why), ZR_OK, "%s", why);
            if (i-- == 0) return rec;
            s.ptr += rec.size;
            s.len -= rec.size;
        }
    }
    cr_assert_fail("no such record in the answer");
    return rec;
}

int64_t max_of(struct world *w, const char *topic, int32_t queue_id)
{
    int64_t min, max;
    zs_bounds(w->st, zs_queue(w->st, zl_str(topic), queue_id, 0), &min, &max);
    return max;
}
int64_t min_of(struct world *w, const char *topic, int32_t queue_id)
{
    int64_t min, max;
    zs_bounds(w->st, zs_queue(w->st, zl_str(topic), queue_id, 0), &min, &max);
    return min;
}

int64_t read_all(struct world *w, const char *topic, int32_t queue_id, uint32_t size)
{
    int64_t at = min_of(w, topic, queue_id), max = max_of(w, topic, queue_id), got = 0, last = -1;
    char *body = malloc(size + 1);
    while (at < max) {
        struct answer a;
        cr_assert_eq(read_at(w, topic, queue_id, at, 32, &a), ZR_OK);
        for (uint32_t i = 0; i < a.r.n_messages; i++) {
            struct zl_record rec = record_of(&a, i);
            cr_assert(zl_is(rec.topic, topic));
            cr_assert_eq(rec.queue_id, queue_id);
            cr_assert_gt(rec.queue_offset, last);
            cr_assert(rec.queue_offset >= at && rec.queue_offset < a.r.next_offset);
            last = rec.queue_offset;
            if (size) {
                body_of(body, size, topic, queue_id, rec.queue_offset);
                cr_assert_eq(rec.body.len, size);
                cr_assert_eq(memcmp(rec.body.ptr, body, size), 0, "wrong body at %lld", (long long)rec.queue_offset);
            }
            got++;
        }
        cr_assert_gt(a.r.next_offset, at, "a read that does not move: status %u", a.r.what);
        at = a.r.next_offset;
        zs_unpin(w->st, a.r.pin);
    }
    free(body);
    return got;
}

void flush_all(struct world *w)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zs_info(w->st, &info);
    int64_t end = info.positions.written;
    zs_want_flushed(w->st, end);
    /* Both: what the store says, and what it told the host, which may still know of the store before. */
    for (int i = 0; i < 5000 && (info.positions.flushed < end || atomic_load(&w->flushed) < end) && !atomic_load(&w->failed); i++) {
        struct timespec ts = { 0, 1000000 };
        nanosleep(&ts, NULL);
        zs_info(w->st, &info);
    }
}

/* ---- files --------------------------------------------------------------------------------------------------------------------------- */

void file_path(struct world *w, char *to, const char *fmt, ...)
{
    va_list ap;
    int n = snprintf(to, 1024, "%s/", w->dir);
    va_start(ap, fmt);
    vsnprintf(to + n, 1024 - (size_t)n, fmt, ap);
    va_end(ap);
}
static FILE *open_file(const char *path, const char *mode, int64_t off)
{
    FILE *f = fopen(path, mode);
    cr_assert_not_null(f, "%s", path);
    fseek(f, off, SEEK_SET);
    return f;
}
void file_write(const char *path, int64_t off, const void *bytes, uint64_t n)
{
    FILE *f = open_file(path, "r+", off);
    cr_assert_eq(fwrite(bytes, 1, n, f), n);
    fclose(f);
}
void file_read(const char *path, int64_t off, void *to, uint64_t n)
{
    FILE *f = open_file(path, "r", off);
    cr_assert_eq(fread(to, 1, n, f), n, "%s", path);
    fclose(f);
}
int64_t file_size_of(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 ? st.st_size : -1;
}
void file_flip(const char *path, int64_t off)
{
    uint8_t b;
    file_read(path, off, &b, 1);
    b ^= 0x41;
    file_write(path, off, &b, 1);
}
uint64_t count_files(const char *dir)
{
    uint64_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') n++;
    if (d) closedir(d);
    return n;
}
void remove_tree(const char *dir)
{
    DIR *d = opendir(dir);
    char path[1200];
    if (!d) return;
    for (struct dirent *e; (e = readdir(d));) {
        struct stat st;
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")) continue;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (lstat(path, &st) == 0 && S_ISDIR(st.st_mode)) remove_tree(path);
        else unlink(path);
    }
    closedir(d);
    rmdir(dir);
}

#ifdef __SANITIZE_THREAD__
#include <sys/wait.h>
struct plain_test *plain_tests;
int main(void)
{
    uint32_t n = 0, failed = 0;
    for (struct plain_test *t = plain_tests; t; t = t->next, n++) {
        int status = 1;
        fflush(NULL);
        pid_t pid = fork();
        if (pid == 0) {
            alarm(100);
            t->run();
            exit(0);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            printf("failed: %s (%d)\n", t->name, status);
            failed++;
        }
    }
    printf("%u tests, %u failed\n", n, failed);
    return failed != 0;
}
#endif
