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
    uint64_t done, all, n_files, n_done, plain, packed;
    uint32_t json, shown, failed;
    int64_t first_error;
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
        fprintf(stderr, "%scommitlog/%020lld: %s\n", isatty(STDERR_FILENO) ? "\r" : "", (long long)base,
                status == -EBADMSG ? "damaged; it is left as it is" : status == -ECANCELED ? "stopped" : zs_errno_text(status));
        return;
    }
    p->plain += plain_bytes;
    p->packed += packed_bytes;
    zt_size_text(a, plain_bytes);
    zt_size_text(b, packed_bytes);
    if (!p->json) printf("%scommitlog/%020lld: %s plain, %s packed\n", isatty(STDOUT_FILENO) ? "\r" : "", (long long)base, a, b);
    fflush(stdout);
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
            if (zp_peek(zl_io_posix(), path, &info) < 0) continue;
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

int zt_cmd_convert(const char *dir, const struct zt_options *opt, uint32_t to_plain, int32_t level)
{
    char log_dir[ZS_PATH], need[16], there[16];
    struct stat st;
    struct zr_io_disk disk;
    struct progress p = { .json = opt->json };
    if (!zs_path(log_dir, "%s/commitlog", dir) || stat(log_dir, &st) < 0) {
        fprintf(stderr, "zaryactl-store: %s: it has no folder commitlog: not a store's data directory\n", dir);
        return ZT_CANNOT;
    }
    if (zt_lock_take(dir) != ZT_CLEAN) return ZT_CANNOT;
    uint64_t space = measure(log_dir, to_plain, &p);
    const struct zr_io_v1 *io = zl_io_posix();
    if (p.n_files && io->disk(io->ctx, log_dir, &disk) >= 0 && disk.available < space) {
        zt_size_text(need, space);
        zt_size_text(there, disk.available);
        fprintf(stderr, "zaryactl-store: %s: %s of free space are needed, %s are there; nothing was changed\n", log_dir, need, there);
        zt_lock_drop();
        return ZT_CANNOT;
    }
    signal(SIGINT, on_signal); /* the segment in work is given up, those done stay done */
    signal(SIGTERM, on_signal);
    struct zp_pace paced = { pace, &p };
    struct zp_convert c = { .io = io, .log_dir = log_dir, .to_plain = to_plain, .conf = { .level = level, .dict_size = 112640, .block_size = 65536 },
                            .pace = &paced, .say = say, .say_arg = &p };
    int64_t n = zp_convert(&c);
    zt_lock_drop();
    if (n < 0 && !p.failed) fprintf(stderr, "zaryactl-store: %s: %s\n", log_dir, zs_errno_text(n));
    result_print(&p, opt->json, n);
    return n < 0 || p.failed ? (stop_asked ? ZT_CANNOT : p.first_error == -EBADMSG ? ZT_LOST : ZT_CANNOT) : ZT_CLEAN;
}
