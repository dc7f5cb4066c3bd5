/* SPDX-License-Identifier: Apache-2.0 */
/* convert.c - `convert`: the log's sealed segments to the packed form, or back to the plain one, with the functions of
 * storage-zstd (zp.h), on a directory that no broker has open.
 *
 * Each segment is done by itself, in steps that a kill or a power failure may interrupt anywhere; run again, it goes on. */
#include "tool.h"
#include <signal.h>
#include <sys/stat.h>
#include <unistd.h>
#include "zp.h"

static volatile sig_atomic_t stop_asked;

static void on_signal(int sig)
{
    (void)sig;
    stop_asked = 1;
}

struct progress {
    uint64_t done, all, n_files, n_done, plain, packed, n_lost, lost;
    uint32_t json, shown, failed;
    int64_t first_error;
    const char *folder; /* in work */
};

static uint32_t pace(void *arg, uint64_t bytes)
{
    struct progress *p = arg;
    p->done += bytes;
    uint32_t percent = p->all ? (uint32_t)(p->done * 100 / p->all) : 100;
    if (percent > 100) percent = 100;
    if (!p->json && percent != p->shown && isatty(STDERR_FILENO)) fprintf(stderr, "\r%3u %%", percent);
    p->shown = percent;
    return (uint32_t)stop_asked;
}

static void say(void *arg, int64_t base, int64_t status, uint64_t plain_bytes, uint64_t packed_bytes)
{
    struct progress *p = arg;
    char a[16], b[16];
    p->n_done++;
    if (status < 0) {
        if (!p->failed++) p->first_error = status;
        fprintf(stderr, "%s%s/%020lld: %s\n", isatty(STDERR_FILENO) ? "\r" : "", p->folder, (long long)base,
                status == -EBADMSG ? "damaged, or its two forms have different messages; it is left as it is (--to plain --accept-loss keeps what is whole of it)" : status == -ECANCELED ? "stopped" : zs_errno_text(status));
        return;
    }
    p->plain += plain_bytes;
    p->packed += packed_bytes;
    zt_size_text(a, plain_bytes);
    zt_size_text(b, packed_bytes);
    if (!p->json) printf("%s%s/%020lld: %s plain, %s packed\n", isatty(STDOUT_FILENO) ? "\r" : "", p->folder, (long long)base, a, b);
    fflush(stdout);
}

/* With --accept-loss: zeroes stand there, and the rest of the segment is kept. */
static void lost(void *arg, int64_t off, int64_t len, const char *why)
{
    struct progress *p = arg;
    p->n_lost++;
    p->lost += (uint64_t)len;
    fprintf(stderr, "%s%s: %lld bytes from %lld of a segment on are lost: %s\n", isatty(STDERR_FILENO) ? "\r" : "", p->folder, (long long)len, (long long)off, why);
}

/* What there is to do, and the space it takes beside what is there: one segment in the other form at a time, and back to the plain
 * form all of them grow. */
static uint64_t measure(const char *log_dir, uint32_t to_plain, struct progress *p)
{
    struct zt_names names;
    uint64_t largest = 0, growth = 0;
    zt_names_load(&names, log_dir);
    for (uint64_t i = 0; i < names.n; i++) {
        char path[ZS_PATH];
        struct stat st;
        struct zp_info info;
        uint32_t packed = zl_ends(zl_str(names.at[i]), ZP_SUFFIX);
        if (!zs_path(path, "%s/%s", log_dir, names.at[i]) || stat(path, &st) < 0 || packed != to_plain) continue;
        uint64_t allocated = (uint64_t)st.st_blocks * 512, raw = allocated;
        if (packed) {
            if (zp_peek(zt_io(), path, &info) < 0) continue;
            raw = (uint64_t)info.raw_size;
            growth += raw > allocated ? raw - allocated : 0;
        }
        p->n_files++;
        p->all += raw * 2; /* written, and compared */
        if (raw > largest) largest = raw;
    }
    zt_names_free(&names);
    return growth + largest + (64u << 20);
}

static void result_print(const struct progress *p, uint32_t json, int64_t n)
{
    char a[16], b[16];
    zt_size_text(a, p->plain);
    zt_size_text(b, p->packed);
    if (json)
        printf("{\"converted\":%lld,\"failed\":%u,\"plainBytes\":%llu,\"packedBytes\":%llu}\n", (long long)(n < 0 ? 0 : n), p->failed,
               (unsigned long long)p->plain, (unsigned long long)p->packed);
    else if (n == 0 && !p->failed)
        printf("nothing to convert\n");
    else
        printf("%llu segments: %s plain, %s packed%s\n", (unsigned long long)p->n_done - p->failed, a, b, p->failed ? "; some could not be converted, see above" : "");
}

/* The newest segment with something in it, of a log in several folders: it stays plain. 0: there is none. */
static int64_t newest_begun(const struct zt_dirs *dirs)
{
    int64_t newest = 0, base;
    for (uint32_t d = 0; d < dirs->n; d++) {
        struct zt_names names;
        zt_names_load(&names, dirs->at[d]);
        for (uint64_t i = names.n; i > 0; i--) {
            char path[ZS_PATH], number[21];
            uint8_t head[8] = { 0 };
            uint32_t packed = zl_ends(zl_str(names.at[i - 1]), ZP_SUFFIX);
            snprintf(number, sizeof number, "%.20s", names.at[i - 1]);
            if (!zs_name_offset(number, &base) || base <= newest || !zs_path(path, "%s/%s", dirs->at[d], names.at[i - 1])) continue;
            int64_t fd = zt_io()->open(zt_io()->ctx, path, ZR_IO_READ, 0);
            if (fd < 0) continue;
            if (packed || (zl_io_read_all(zt_io(), (int32_t)fd, head, sizeof head, 0) >= 0 && zl_load64(head))) newest = base;
            zt_io()->close(zt_io()->ctx, (int32_t)fd);
        }
        zt_names_free(&names);
    }
    return newest;
}

/* Is there room in each folder? Counts what there is to do. */
static uint32_t room(const struct zt_dirs *dirs, uint32_t to_plain, struct progress *p)
{
    const struct zr_io_v1 *io = zt_io();
    for (uint32_t d = 0; d < dirs->n; d++) {
        char need[16], there[16];
        struct zr_io_disk disk;
        uint64_t before = p->n_files, space = measure(dirs->at[d], to_plain, p);
        if (p->n_files == before || io->disk(io->ctx, dirs->at[d], &disk) < 0 || disk.available >= space) continue;
        zt_size_text(need, space);
        zt_size_text(there, disk.available);
        fprintf(stderr, "zaryactl-store: %s: %s of free space are needed, %s are there; nothing was changed\n", dirs->at[d], need, there);
        return 0;
    }
    return 1;
}

static int convert(const struct zt_dirs *dirs, const char *dir, const struct zt_options *opt, uint32_t to_plain, int32_t level)
{
    struct progress p = { .json = opt->json };
    int64_t done = 0, worst = 0;
    if (!room(dirs, to_plain, &p)) return ZT_CANNOT;
    signal(SIGINT, on_signal); /* the segment in work is given up, those done stay done */
    signal(SIGTERM, on_signal);
    struct zp_pace paced = { pace, &p };
    struct zp_damage damage = { lost, &p };
    struct zp_convert c = { .io = zt_io(), .to_plain = to_plain, .conf = { .level = level, .dict_size = ZP_DICTIONARY_KIB * 1024, .block_size = ZP_BLOCK_KIB * 1024 },
                            .newest = dirs->n > 1 ? newest_begun(dirs) : 0, .pace = &paced, .damage = opt->accept_loss ? &damage : NULL, .say = say, .say_arg = &p };
    for (uint32_t d = 0; d < dirs->n && !stop_asked && (to_plain || dirs->n == 1 || c.newest > 0); d++) {
        c.log_dir = dirs->at[d];
        p.folder = zt_is_inside(dir, c.log_dir) ? c.log_dir + strlen(dir) + 1 : c.log_dir;
        int64_t n = zp_convert(&c);
        if (n < 0 && worst == 0) worst = n;
        if (n > 0) done += n;
        if (n < 0 && !p.failed) fprintf(stderr, "zaryactl-store: %s: %s\n", c.log_dir, zs_errno_text(n));
    }
    result_print(&p, opt->json, worst < 0 ? worst : done);
    if (p.n_lost && worst >= 0 && !p.failed) return ZT_LOST;
    return worst < 0 || p.failed ? (stop_asked ? ZT_CANNOT : p.first_error == -EBADMSG ? ZT_LOST : ZT_CANNOT) : ZT_CLEAN;
}

int zt_cmd_convert(const char *dir, const struct zt_options *opt, uint32_t to_plain, int32_t level)
{
    struct zt_dirs *dirs = calloc(1, sizeof *dirs);
    struct zt_options with = *opt;
    int rc = dirs ? zt_dirs_load(dirs, dir, &with) : ZT_CANNOT;
    if (rc == ZT_CLEAN) rc = zt_lock_take(dir, dirs);
    if (rc == ZT_CLEAN) {
        rc = convert(dirs, dir, opt, to_plain, level);
        zt_lock_drop();
    }
    free(dirs);
    return rc;
}
