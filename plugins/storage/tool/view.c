/* SPDX-License-Identifier: Apache-2.0 */
/* view.c - a store opened for looking: its segments in the store's own table, behind an I/O table that writes nothing.
 *
 * What stays true:
 *   1. No call here creates, changes, locks or syncs anything. Opening for writing opens for reading; writes are refused.
 *   2. A segment whose file is too short reads as if zeroes followed, which is what the store makes of it at a start.
 *   3. Everything is read by calls, which answer where a disk fails or a file is too short. A mapping is room that nobody may touch. */
#include "tool.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#include "zp_store.h"
#include "zs_pack.h"

/* ---- I/O that writes nothing ------------------------------------------------------------------------------------------ */

static uint32_t is_padded(struct zt_view *v, int32_t fd) { return fd >= 0 && fd < (int32_t)ZT_MAX_FDS && atomic_load(&v->padded[fd]); }

static int64_t look_open(void *self, const char *path, uint32_t flags, uint32_t mode)
{
    if (flags & ZR_IO_CREATE) return -EROFS;
    struct zt_view *v = self;
    const char *slash = strrchr(path, '/');
    int64_t base, fd = zt_io()->open(zt_io()->ctx, path, (flags & ~ZR_IO_WRITE) | ZR_IO_READ, mode);
    if (fd >= 0 && fd < (int64_t)ZT_MAX_FDS) atomic_store(&v->padded[fd], slash && zs_name_offset(slash + 1, &base));
    return fd;
}
static int64_t look_pread(void *self, int32_t fd, void *buf, uint64_t len, int64_t off)
{
    int64_t r = zt_io()->pread(zt_io()->ctx, fd, buf, len, off);
    if (r != 0 || !is_padded(self, fd)) return r;
    memset(buf, 0, len); /* behind the end of the file */
    return (int64_t)len;
}
static int64_t look_size(void *self, const char *path, struct zr_io_stat *ret)
{
    (void)self;
    return zt_io()->stat(zt_io()->ctx, path, ret);
}
static int64_t look_fstat(void *self, int32_t fd, struct zr_io_stat *ret)
{
    struct zt_view *v = self;
    int64_t r = zt_io()->fstat(zt_io()->ctx, fd, ret);
    if (r >= 0 && v->st && is_padded(v, fd) && ret->size < (uint64_t)v->st->segs.size) ret->size = (uint64_t)v->st->segs.size;
    return r;
}
static int64_t look_map(void *self, int32_t fd, int64_t off, uint64_t len, const void **ret)
{
    (void)self, (void)fd, (void)off;
    void *p = mmap(NULL, len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return -errno;
    *ret = p;
    return 0;
}
static int64_t look_unmap(void *self, const void *addr, uint64_t len)
{
    (void)self;
    return munmap((void *)(uintptr_t)addr, len) < 0 ? -errno : 0;
}
static int64_t look_advise(void *self, int32_t fd, const void *addr, int64_t off, uint64_t len, uint32_t advice)
{
    (void)self;
    return addr ? 0 : zt_io()->advise(zt_io()->ctx, fd, NULL, off, len, advice);
}
static int64_t look_close(void *self, int32_t fd)
{
    (void)self;
    return zt_close(fd);
}
static int64_t look_list(void *self, const char *path, int32_t (*each)(void *ctx, const char *name), void *ctx)
{
    (void)self;
    return zt_io()->list(zt_io()->ctx, path, each, ctx);
}
static int64_t look_disk(void *self, const char *path, struct zr_io_disk *ret)
{
    (void)self;
    return zt_io()->disk(zt_io()->ctx, path, ret);
}
static int64_t look_seek_data(void *self, int32_t fd, int64_t off)
{
    (void)self;
    return zt_seek_data(fd, off);
}
static int64_t look_refuse_fd(void *self, int32_t fd)
{
    (void)self;
    (void)fd;
    return -EROFS;
}
static int64_t look_refuse_path(void *self, const char *path)
{
    (void)self;
    (void)path;
    return -EROFS;
}
static int64_t look_refuse_two(void *self, const char *a, const char *b)
{
    (void)self;
    (void)a;
    (void)b;
    return -EROFS;
}
static int64_t look_refuse_write(void *self, int32_t fd, const void *buf, uint64_t len, int64_t off)
{
    (void)self;
    (void)fd;
    (void)buf;
    (void)len;
    (void)off;
    return -EROFS;
}
static int64_t look_refuse_writev(void *self, int32_t fd, const struct zr_span *bufs, uint32_t n, int64_t off)
{
    (void)self;
    (void)fd;
    (void)bufs;
    (void)n;
    (void)off;
    return -EROFS;
}
static int64_t look_truncate(void *self, int32_t fd, int64_t len) /* said to be done: see 2 above */
{
    (void)self;
    (void)fd;
    (void)len;
    return 0;
}
static int64_t look_sync_dir(void *self, const char *path) /* of what was truncated */
{
    (void)self;
    (void)path;
    return 0;
}
static int64_t look_fallocate(void *self, int32_t fd, int64_t off, int64_t len)
{
    (void)self;
    (void)fd;
    (void)off;
    (void)len;
    return -EROFS;
}
static int64_t look_mkdir(void *self, const char *path, uint32_t mode)
{
    (void)self;
    (void)path;
    (void)mode;
    return -EROFS;
}

static void io_make(struct zt_view *v)
{
    v->io = (struct zr_io_v1){ .hdr = ZR_HDR(struct zr_io_v1, 0), .ctx = v, .open = look_open, .close = look_close, .list = look_list,
                               .disk = look_disk, .seek_data = look_seek_data };
    v->io.pread = look_pread;
    v->io.stat = look_size;
    v->io.fstat = look_fstat;
    v->io.map = look_map;
    v->io.unmap = look_unmap;
    v->io.advise = look_advise;
    v->io.pwrite = look_refuse_write;
    v->io.pwritev = look_refuse_writev;
    v->io.fdatasync = v->io.fsync = v->io.lock = look_refuse_fd;
    v->io.sync_dir = look_sync_dir;
    v->io.unlink = v->io.rmdir = look_refuse_path;
    v->io.rename = look_refuse_two;
    v->io.ftruncate = look_truncate;
    v->io.fallocate = look_fallocate;
    v->io.mkdir = look_mkdir;
}

/* ---- services that do little ---------------------------------------------------------------------------------------------- */

static uint32_t log_level(const struct zr_host *host)
{
    (void)host;
    return ZR_LOG_WARN;
}
static void log_write(const struct zr_host *host, uint32_t level, struct zr_str text, const struct zr_field *f, uint32_t n)
{
    struct zt_view *v = host->ctx;
    (void)level;
    (void)f;
    (void)n;
    size_t at = strlen(v->lines);
    if (at + text.len + 2 < sizeof v->lines) snprintf(v->lines + at, sizeof v->lines - at, "%.*s\n", (int)text.len, text.ptr);
}
static void err_raise(const struct zr_host *host, const struct zr_error *e) { log_write(host, 0, e->text, NULL, 0); }
static void dur_advance(const struct zr_host *h, uint32_t mark, int64_t position)
{
    (void)h;
    (void)mark;
    (void)position;
}
static void dur_fail(const struct zr_host *h, uint32_t mark, struct zr_str why)
{
    (void)mark;
    log_write(h, 0, why, NULL, 0);
}
static int64_t dur_position(const struct zr_host *h, uint32_t mark)
{
    (void)h;
    (void)mark;
    return 0;
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
static int64_t timer_mono(const struct zr_host *h)
{
    struct timespec ts;
    (void)h;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000 + ts.tv_nsec;
}
static int64_t timer_wall(const struct zr_host *h)
{
    struct timespec ts;
    (void)h;
    clock_gettime(CLOCK_REALTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}
/* Nothing here lives long enough for a timer: what is set is never due. */
static zr_status timer_at(const struct zr_host *h, int64_t at, void (*fn)(void *), void *arg, uint64_t *ret)
{
    (void)h;
    (void)at;
    (void)fn;
    (void)arg;
    *ret = 1;
    return ZR_OK;
}
static zr_status timer_cancel(const struct zr_host *h, uint64_t id)
{
    (void)h;
    (void)id;
    return ZR_OK;
}
static zr_status work_run(const struct zr_host *h, void (*fn)(void *), void *arg)
{
    (void)h;
    fn(arg);
    return ZR_OK;
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
static zr_status work_spawn(const struct zr_host *h, const char *name, void (*fn)(void *), void *arg, uint64_t *ret)
{
    struct start *s = malloc(sizeof *s);
    pthread_t id;
    (void)h;
    (void)name;
    if (!s) return ZR_ENOMEM;
    *s = (struct start){ fn, arg };
    if (pthread_create(&id, NULL, thread_main, s)) {
        free(s);
        return ZR_ENOMEM;
    }
    *ret = (uint64_t)id;
    return ZR_OK;
}
static zr_status work_join(const struct zr_host *h, uint64_t id)
{
    (void)h;
    pthread_join((pthread_t)id, NULL);
    return ZR_OK;
}

static const struct zr_log_v1 log_table = { ZR_HDR(struct zr_log_v1, 0), log_level, log_write };
static const struct zr_err_v1 err_table = { ZR_HDR(struct zr_err_v1, 0), err_raise };
static const struct zr_durability_v1 dur_table = { ZR_HDR(struct zr_durability_v1, 0), dur_advance, dur_fail, dur_position,
                                                   dur_arrived, dur_when };
static const struct zr_timer_v1 timer_table = { ZR_HDR(struct zr_timer_v1, 0), timer_mono, timer_wall, timer_at, timer_cancel, NULL };
static const struct zr_work_v1 work_table = { ZR_HDR(struct zr_work_v1, 0), work_run, work_spawn, work_join };

const void *zt_host_query(const struct zr_host *host, const char *id)
{
    struct zt_view *v = host->ctx;
    if (!strcmp(id, ZR_SVC_IO)) return &v->io;
    if (!strcmp(id, ZR_SVC_LOG)) return &log_table;
    if (!strcmp(id, ZR_SVC_ERR)) return &err_table;
    if (!strcmp(id, ZR_SVC_DURABILITY)) return &dur_table;
    if (!strcmp(id, ZR_SVC_TIMER)) return &timer_table;
    if (!strcmp(id, ZR_SVC_WORK)) return &work_table;
    return NULL;
}

/* ---- names ------------------------------------------------------------------------------------------------------------------- */

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int32_t name_add(void *ctx, const char *name)
{
    struct zt_names *names = ctx;
    if (names->n == names->cap) {
        uint64_t cap = names->cap ? names->cap * 2 : 64;
        char **at = cap > ZS_MAX_QUEUES * 2u ? NULL : realloc(names->at, cap * sizeof *at);
        if (!at) return -ENOMEM;
        names->at = at;
        names->cap = cap;
    }
    names->at[names->n] = strdup(name);
    return names->at[names->n] ? (names->n++, 0) : -ENOMEM;
}

int64_t zt_names_load(struct zt_names *names, const char *folder)
{
    *names = (struct zt_names){ NULL, 0, 0 };
    int64_t r = zt_io()->list(zt_io()->ctx, folder, name_add, names);
    if (names->n) qsort(names->at, names->n, sizeof *names->at, by_text);
    return r;
}

void zt_names_free(struct zt_names *names)
{
    for (uint64_t i = 0; i < names->n; i++) free(names->at[i]);
    free(names->at);
    *names = (struct zt_names){ NULL, 0, 0 };
}

/* ---- opening ----------------------------------------------------------------------------------------------------------------- */

/* The lock of this process, while it mends: a POSIX lock goes when any descriptor of its file is closed, so nobody opens it then. */
static int own_lock = -1;

uint32_t zt_lock_holder(const char *dir, int32_t *ret_pid)
{
    char path[ZS_PATH];
    struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 1 };
    *ret_pid = 0;
    if (own_lock >= 0 || !zs_path(path, "%s/lock", dir)) return 0;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return 0;
    uint32_t held = fcntl(fd, F_GETLK, &l) == 0 && l.l_type != F_UNLCK;
    if (held) *ret_pid = l.l_pid;
    close(fd);
    return held;
}

static int32_t dir_locks[ZS_MAX_DIRS];
static uint32_t n_dir_locks;

/* One folder under two names is locked once. */
static uint32_t own_folder(const char *path)
{
    struct zr_io_stat a, b;
    if (zt_stat(path, &a) < 0) return 0;
    for (uint32_t i = 0; i < n_dir_locks; i++)
        if (zt_io()->fstat(zt_io()->ctx, dir_locks[i], &b) >= 0 && a.inode == b.inode) return 1;
    return 0;
}

/* A folder may belong to a broker whose data directory is another. */
static uint32_t dirs_lock(const char *dir, const struct zt_dirs *dirs)
{
    const struct zr_io_v1 *io = zt_io();
    if (!ZR_HAS(struct zr_io_v1, io, lock_dir) || !io->lock_dir) return 1;
    for (uint32_t i = 0; i < dirs->n; i++) {
        int64_t fd = zt_open(dirs->at[i], ZR_IO_READ | ZR_IO_DIRECTORY), r = fd < 0 ? fd : io->lock_dir(io->ctx, (int32_t)fd);
        if (r >= 0) {
            dir_locks[n_dir_locks++] = (int32_t)fd;
            continue;
        }
        zt_close(fd);
        if (fd >= 0 && (r != -EAGAIN || own_folder(dirs->at[i]))) continue; /* that file system has no such locks */
        if (fd < 0) fprintf(zt_err(), "zaryactl-store: %s: %s\n", dirs->at[i], zs_errno_text(fd));
        else fprintf(zt_err(), "zaryactl-store: %s: a broker, of another data directory than %s, has this folder of the log open; stop it first\n", dirs->at[i], dir);
        return 0;
    }
    return 1;
}

static int lock_taken(const char *dir, const struct zt_dirs *dirs)
{
    if (dirs_lock(dir, dirs)) return ZT_CLEAN;
    zt_lock_drop();
    return ZT_CANNOT;
}

int zt_lock_take(const char *dir, const struct zt_dirs *dirs)
{
    char path[ZS_PATH];
    int32_t pid;
    int64_t fd = zs_path(path, "%s/lock", dir) ? zt_open(path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE) : -ENAMETOOLONG;
    int64_t r = fd < 0 ? fd : zt_io()->lock(zt_io()->ctx, (int32_t)fd);
    if (r >= 0) {
        own_lock = (int)fd;
        return lock_taken(dir, dirs);
    }
    zt_close(fd);
    if (zt_lock_holder(dir, &pid)) fprintf(zt_err(), "zaryactl-store: %s: a broker has this store open (process %d); stop it first\n", dir, pid);
    else fprintf(zt_err(), "zaryactl-store: %s: %s\n", path, zs_errno_text(r));
    return ZT_CANNOT;
}

void zt_lock_drop(void)
{
    while (n_dir_locks) zt_close(dir_locks[--n_dir_locks]);
    zt_close(own_lock);
    own_lock = -1;
}

/* What the names and lengths of the log's files say of their size. */
struct votes {
    int64_t best;
    uint64_t lead;
    int64_t *bases;
    uint64_t n, cap;
};

static void vote(struct votes *v, const char *log_dir)
{
    struct zt_names names;
    zt_names_load(&names, log_dir);
    for (uint64_t i = 0; i < names.n; i++) { /* the majority vote of Boyer and Moore */
        char path[ZS_PATH];
        struct zr_io_stat st;
        int64_t base;
        if (!zs_name_offset(names.at[i], &base) || !zs_path(path, "%s/%s", log_dir, names.at[i]) || zt_stat(path, &st) < 0) continue;
        int64_t size = (int64_t)(st.size + 4095) / 4096 * 4096;
        if (size == v->best) v->lead++;
        else if (v->lead) v->lead--;
        else v->best = size, v->lead = 1;
        if (v->n == v->cap) {
            uint64_t cap = v->cap ? v->cap * 2 : 64;
            int64_t *bases = realloc(v->bases, cap * sizeof *bases);
            if (!bases) break;
            v->bases = bases;
            v->cap = cap;
        }
        v->bases[v->n++] = base;
    }
    zt_names_free(&names);
}

static int by_number(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return x < y ? -1 : x > y;
}

/* The segment size, when nobody says it: the length that most files have, rounded up to a page, if all names are multiples of it;
 * else the least distance of two names. */
static int64_t guess_segment_size(const struct zt_dirs *dirs)
{
    struct votes v = { .best = 0 };
    int64_t step = INT64_MAX;
    uint64_t fits = 1;
    for (uint32_t i = 0; i < dirs->n; i++) vote(&v, dirs->at[i]);
    if (v.n) qsort(v.bases, v.n, sizeof *v.bases, by_number);
    for (uint64_t i = 0; i < v.n; i++) {
        int64_t apart = i ? v.bases[i] - v.bases[i - 1] : 0;
        if (apart > 0 && apart < step) step = apart;
        if (v.best > 0 && v.bases[i] % v.best) fits = 0;
    }
    free(v.bases);
    if (v.best > 0 && fits && v.best <= step) return v.best;
    if (step != INT64_MAX) return step;
    return v.best > 0 ? v.best : 1 << 30;
}

static void conf_make(struct zt_view *v, struct zs_conf *c)
{
    *c = (struct zs_conf){
        .root = v->dir,
        .log_dir = v->opt.log_path,
        .log_dirs_read_only = v->opt.log_read_only,
        .index = 0,
        .flush_interval_ms = 500,
        .checkpoint_interval_ms = 10000,
        .segment_size = v->opt.segment_size,
        .queue_file_size = 6000000,
        .max_message_size = 4 << 20,
        .index_slots = v->opt.index_slots ? v->opt.index_slots : 5000000,
        .index_entries = v->opt.index_entries ? v->opt.index_entries : 20000000,
        .retention_hours = 1000000,
        .clean_interval_ms = 10000,
        .max_hot_bytes = 262144, .max_hot_messages = 32, .max_cold_bytes = 65536, .max_cold_messages = 8,
        .max_open_queue_files = 256, .max_open_segments = 256,
        .max_tail_bytes = 64 << 20,
        .pack = &zp_store_ops, .pack_level = 3, .pack_dict_size = 112640, .pack_block_size = 65536, .pack_cache_bytes = 64 << 20, .max_open_packs = 64,
        .ratio_memory = 0.4, .ratio_clean = 1, .ratio_force = 1, .ratio_refuse = 1,
    };
    zs_parse_levels(zl_str("1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h"), c->level_ms, &c->n_levels);
}

static void checkpoint_read(struct zt_view *v)
{
    char path[ZS_PATH];
    uint8_t raw[48];
    struct zr_io_stat st;
    const struct zr_io_v1 *io = zt_io();
    int64_t fd = zs_path(path, "%s/checkpoint", v->dir) ? io->open(io->ctx, path, ZR_IO_READ, 0) : -ENOENT;
    if (fd < 0) return;
    v->checkpoint_state = 2;
    if (io->fstat(io->ctx, (int32_t)fd, &st) >= 0 && zl_io_read_all(io, (int32_t)fd, raw, sizeof raw, 0) >= 0) {
        v->checkpoint_state = st.size == ZS_CHECKPOINT ? 1 : 2;
        for (int i = 0; i < 6; i++) {
            v->checkpoint[i] = (int64_t)zl_load64(raw + 8 * i);
            if (v->checkpoint[i] < 0 || v->checkpoint[i] > ZS_MAX_POSITION) {
                if (i < 3 || i == 5) v->checkpoint_state = 3;
                v->checkpoint[i] = 0;
            }
        }
    }
    io->close(io->ctx, (int32_t)fd);
}

/* What may be on its way to the disk: entries of records behind the last save. After a clean stop nothing is. */
static void lag_find(struct zt_view *v)
{
    v->lag_pos = v->lag_ms = INT64_MAX;
    if (!v->live && !v->unclean) return;
    if (v->snap.valid) v->lag_pos = v->snap.pos;
    else if (v->checkpoint[5] > 0) v->lag_pos = v->checkpoint[5];
    else v->lag_ms = v->checkpoint[1] > 60000 ? v->checkpoint[1] - 60000 : 0; /* RocketMQ saves queues once a minute */
}

static int cannot(struct zt_view *v, const char *what)
{
    fprintf(zt_err(), "zaryactl-store: %s: %s\n%s", v->dir, what, v->lines);
    return ZT_CANNOT;
}

int zt_view_open(struct zt_view *v, const char *dir, const struct zt_options *opt)
{
    char path[ZS_PATH];
    struct zr_io_stat st;
    struct zs_conf conf;
    memset(v, 0, sizeof *v);
    v->opt = *opt;
    char *real = realpath(dir, NULL);
    if (!real && zt_stat(dir, &st) >= 0) real = strdup(dir);
    if (!real || strlen(real) >= sizeof v->dir) {
        snprintf(v->dir, sizeof v->dir, "%s", dir);
        free(real);
        return cannot(v, "there is no such folder");
    }
    snprintf(v->dir, sizeof v->dir, "%s", real);
    free(real);
    io_make(v);
    v->host = (struct zr_host){ ZR_HDR(struct zr_host, 0), v, zt_host_query, "zaryactl-store", v->dir };
    if (zt_dirs_load(&v->dirs, v->dir, &v->opt) != ZT_CLEAN) return ZT_CANNOT;
    v->live = zt_lock_holder(v->dir, &v->live_pid);
    v->unclean = zs_path(path, "%s/abort", v->dir) && v->io.stat(v->io.ctx, path, &st) >= 0;
    if (!v->opt.segment_size) v->opt.segment_size = guess_segment_size(&v->dirs);
    conf_make(v, &conf);
    checkpoint_read(v);
    v->st = zs_create(&v->host, &conf);
    if (!v->st || zs_pack_init(v->st) != ZR_OK) return cannot(v, "not enough memory");
    zs_snapshot_load(v->st, &v->snap);
    if (zs_segs_load(v->st, v->snap.segment_size) != ZR_OK) return cannot(v, "its log cannot be opened");
    int64_t first = zs_segs_first(v->st);
    atomic_store(&v->st->begin, first < 0 ? 0 : first);
    v->st->doubt = !v->live && !v->unclean ? INT64_MAX : v->snap.valid && v->snap.pos > v->checkpoint[5] ? v->snap.pos : v->checkpoint[5];
    if (first < 0 && (v->snap.pos > 0 || v->checkpoint[0] > 0)) return cannot(v, "its queues are of a log, and there is none: " ZT_ELSEWHERE);
    if (zs_removed_load(v->st) != ZR_OK) return cannot(v, "its note of removed topics cannot be read");
    lag_find(v);
    v->lines[0] = 0; /* what was said so far, the report says better */
    return ZT_CLEAN;
}

void zt_view_close(struct zt_view *v)
{
    if (!v->st) return;
    zs_snapshot_free(&v->snap);
    zs_removed_free(v->st);
    zs_segs_free(v->st);
    zs_dirs_free(v->st);
    zs_pack_free(v->st);
    zs_destroy(v->st);
    v->st = NULL;
}

int64_t zt_seg_base(struct zt_view *v, int64_t pos)
{
    int64_t first = zs_segs_first(v->st), size = v->st->segs.size;
    if (first < 0 || pos < first) return -1;
    return first + (pos - first) / size * size;
}

uint32_t zt_record_at(struct zt_view *v, struct zs_scan *s, int64_t phys, struct zl_record *ret, const char **ret_why)
{
    int64_t base = zt_seg_base(v, phys);
    if (phys < 0 || base < 0) {
        *ret_why = "it lies outside the log";
        return 0;
    }
    if (!s->st) zs_scan_open(s, v->st, phys, base + v->st->segs.size, 1);
    s->pos = phys;
    s->limit = base + v->st->segs.size;
    int r = zs_scan_next(s, ret);
    *ret_why = r == ZS_SCAN_END ? "the blank at a segment's end is there" : s->why;
    return r == ZS_SCAN_RECORD && ret->physical_offset == phys;
}

/* ---- threads ------------------------------------------------------------------------------------------------------------------- */

struct crew {
    void (*fn)(void *ctx, uint32_t thread, uint64_t job);
    void *ctx;
    uint64_t n;
    _Atomic uint64_t next;
};
struct hand {
    struct crew *crew;
    uint32_t no;
};

static void *hand_main(void *arg)
{
    struct hand *h = arg;
    for (uint64_t job; (job = atomic_fetch_add(&h->crew->next, 1)) < h->crew->n;) h->crew->fn(h->crew->ctx, h->no, job);
    return NULL;
}

void zt_parallel(struct zt_view *v, uint64_t n, void (*fn)(void *ctx, uint32_t thread, uint64_t job), void *ctx)
{
    struct crew crew = { fn, ctx, n, 0 };
    struct hand hands[ZT_MAX_THREADS];
    pthread_t ids[ZT_MAX_THREADS];
    uint32_t want = v->opt.threads < n ? v->opt.threads : (uint32_t)n, made = 0;
    for (uint32_t i = 0; i < want; i++) hands[i] = (struct hand){ &crew, i };
    for (uint32_t i = 1; i < want; i++) {
        if (pthread_create(&ids[made], NULL, hand_main, &hands[i])) break;
        made++;
    }
    if (want) hand_main(&hands[0]);
    for (uint32_t i = 0; i < made; i++) pthread_join(ids[i], NULL);
}

/* ---- text ------------------------------------------------------------------------------------------------------------------------ */

void zt_size_text(char *to, uint64_t bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
    double v = (double)bytes;
    int u = 0;
    while (v >= 1024 && u < 5) {
        v /= 1024;
        u++;
    }
    snprintf(to, 16, u && v < 100 ? "%.1f %s" : "%.0f %s", v, units[u]);
}

void zt_time_text(char *to, int64_t ms)
{
    time_t sec = (time_t)(ms / 1000);
    struct tm tm;
    if (ms <= 0 || ms > ZS_MAX_POSITION / 4096 || !localtime_r(&sec, &tm)) {
        snprintf(to, 32, "-");
        return;
    }
    size_t n = strftime(to, 28, "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(to + n, 32 - n, ".%03d", (int)(ms % 1000));
}
