/* SPDX-License-Identifier: Apache-2.0 */
/* paths.c - where the log is: the folders that --log-path names, or those of a broker's configuration (--conf); else those that the
 * broker noted when it had the store last (zarya/folders); else DIR/commitlog. What a configuration says is not read here: zarya is
 * asked what is in effect (--print-config), whichever kind of file it is. */
#include "tool.h"
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define OUTPUT_MAX (4u << 20)

uint32_t zt_is_inside(const char *dir, const char *path)
{
    size_t n = strlen(dir);
    return strncmp(path, dir, n) == 0 && path[n] == '/';
}

uint32_t zt_full(const char *dir, const char *rel, char *to)
{
    return rel[0] == '/' ? zs_path(to, "%s", rel) : zs_path(to, "%s/%s", dir, rel);
}

/* ---- folders ---------------------------------------------------------------------------------------------------------------- */

static uint32_t is_folder(const char *path)
{
    struct zr_io_stat st;
    return zt_stat(path, &st) >= 0 && st.is_dir;
}

static int dirs_add(struct zt_dirs *d, const char *list, uint32_t noted)
{
    struct zr_str rest = zl_str(list ? list : ""), part;
    while (zl_split(&rest, ',', &part)) {
        uint32_t i = 0;
        part = zl_trim(part);
        while (part.len > 1 && part.ptr[part.len - 1] == '/') part.len--;
        if (part.len == 0) continue;
        while (i < d->n && !zl_eq(zl_str(d->at[i]), part)) i++;
        if (i < d->n) continue;
        if (i == ZS_MAX_DIRS || !zs_path(d->at[i], "%.*s", (int)part.len, part.ptr)) {
            fprintf(zt_err(), "zaryactl-store: the log is in too many folders, or their names are too long\n");
            return ZT_CANNOT;
        }
        if (!is_folder(d->at[i])) {
            fprintf(zt_err(), "zaryactl-store: %s: the log is to be in this folder, and it is not there: is its disk mounted?%s\n", d->at[i],
                    noted ? " (zarya/folders says so; if the log has been moved, --log-path DIR[,DIR] or --conf FILE says where)" : "");
            return ZT_CANNOT;
        }
        d->n++;
    }
    return ZT_CLEAN;
}

static uint32_t list_add(char *to, uint64_t cap, const char *path)
{
    uint64_t n = strlen(to);
    int k = snprintf(to + n, cap - n, "%s%s", n ? "," : "", path);
    if (k > 0 && (uint64_t)k < cap - n) return 1;
    to[n] = 0;
    return 0;
}

/* What the broker noted takes the options' place. 1: there is such a note; ZT_CANNOT: which cannot be gone by. */
static uint32_t noted_take(const char *dir, struct zt_options *opt)
{
    struct zs_folders *f = calloc(1, sizeof *f);
    uint32_t ok = f && zs_folders_load(zt_io(), dir, f);
    for (uint32_t i = 0; ok && f->moved && i < f->n; i++) {
        if (zt_is_inside(dir, f->path[i])) continue;
        fprintf(zt_err(), "zaryactl-store: %s: it was moved or copied since its broker stopped, and by zarya/folders a part of its log was in %s, which may be another "
                "store's: --log-path DIR[,DIR] or --conf FILE says where it is now\n", dir, f->path[i]);
        free(f);
        return ZT_CANNOT;
    }
    for (uint32_t i = 0; ok && i < f->n; i++)
        ok = f->read_only >> i & 1u ? list_add(opt->log_read_only, sizeof opt->log_read_only, f->path[i]) : list_add(opt->log_path, sizeof opt->log_path, f->path[i]);
    free(f);
    return ok && opt->log_path[0];
}

int zt_dirs_load(struct zt_dirs *d, const char *dir, struct zt_options *opt)
{
    char queues[ZS_PATH];
    d->n = 0;
    uint32_t noted = !opt->log_path[0] && !opt->log_read_only[0] ? noted_take(dir, opt) : 0;
    if (noted == ZT_CANNOT) return ZT_CANNOT;
    if (opt->log_path[0]) return dirs_add(d, opt->log_path, noted) == ZT_CLEAN ? dirs_add(d, opt->log_read_only, noted) : ZT_CANNOT;
    if (zs_path(d->at[0], "%s/commitlog", dir) && is_folder(d->at[0])) {
        d->n = 1;
        return dirs_add(d, opt->log_read_only, 0);
    }
    if (zs_path(queues, "%s/consumequeue", dir) && is_folder(queues))
        fprintf(zt_err(), "zaryactl-store: %s: it has queues, but no folder commitlog: " ZT_ELSEWHERE "\n", dir);
    else fprintf(zt_err(), "zaryactl-store: %s: it has no folder commitlog: not a store's data directory\n", dir);
    return ZT_CANNOT;
}

/* ---- a broker's configuration --------------------------------------------------------------------------------------------------- */

/* Runs zarya, which lies beside this program (else it is looked for). What it printed is in out; its status, or -1. */
static int zarya_run(char *const argv[], struct zl_buf *out)
{
    char self[ZS_PATH];
    uint8_t piece[16384];
    int two[2], status = -1;
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 16);
    char *slash = n > 0 ? (self[n] = 0, strrchr(self, '/')) : NULL;
    if (slash) snprintf(slash + 1, 8, "zarya");
    if (pipe(two) < 0) return -1;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(two[1], STDOUT_FILENO);
        close(two[0]);
        close(two[1]);
        if (slash) execv(self, argv);
        execvp("zarya", argv);
        _exit(127);
    }
    close(two[1]);
    while (pid > 0 && (n = read(two[0], piece, sizeof piece)) != 0) {
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) break;
        zl_buf_add(out, piece, (uint64_t)n);
    }
    close(two[0]);
    if (pid > 0 && waitpid(pid, &status, 0) == pid && WIFEXITED(status)) return WEXITSTATUS(status);
    return -1;
}

/* The text of `name = "...";` on a line of its own; 1: it is there. */
static uint32_t value_of(struct zr_str text, const char *name, char *to, uint32_t cap)
{
    struct zr_str line;
    size_t len = strlen(name);
    while (zl_split(&text, '\n', &line)) {
        line = zl_trim(line);
        if (line.len < len + 5 || memcmp(line.ptr, name, len) || memcmp(line.ptr + len, " = \"", 4)) continue;
        uint32_t n = 0;
        for (uint64_t i = len + 4; i < line.len && line.ptr[i] != '"' && n + 1 < cap; i++) {
            if (line.ptr[i] == '\\' && i + 1 < line.len) i++;
            to[n++] = line.ptr[i];
        }
        to[n] = 0;
        return 1;
    }
    return 0;
}

/* A zarya.conf has a list of plugins; a broker.conf is pairs of Apache's keys. */
static int is_ours(const char *file, uint32_t *ret)
{
    static char text[65536];
    FILE *f = fopen(file, "re");
    if (!f) return -errno;
    size_t n = fread(text, 1, sizeof text - 1, f);
    int r = ferror(f) ? -EIO : 0;
    fclose(f);
    text[n] = 0;
    *ret = strstr(text, "plugins") != NULL;
    return r;
}

int zt_conf_load(struct zt_options *opt, const char *file)
{
    char path[ZS_PATH];
    struct zl_buf out;
    uint32_t ours = 0;
    int r = zs_path(path, "%s", file) ? is_ours(file, &ours) : -ENAMETOOLONG;
    if (r < 0) {
        fprintf(zt_err(), "zaryactl-store: %s: %s\n", file, strerror(-r));
        return ZT_CANNOT;
    }
    char zarya[] = "zarya", broker[] = "broker", c[] = "-c", print[] = "--print-config";
    char *const as_ours[] = { zarya, c, path, print, NULL }, *const as_broker[] = { zarya, broker, c, path, print, NULL };
    zl_buf_init(&out, OUTPUT_MAX);
    int status = zarya_run(ours ? as_ours : as_broker, &out);
    struct zr_str text = zl_buf_as_str(&out);
    uint32_t found = status == 0 && !out.failed && value_of(text, "path_commitlog", opt->log_path, sizeof opt->log_path);
    if (found) value_of(text, "path_commitlog_read_only", opt->log_read_only, sizeof opt->log_read_only);
    else
        fprintf(zt_err(), "zaryactl-store: %s: `zarya %s-c %s --print-config` does not say where the log is; --log-path does\n", file,
                ours ? "" : "broker ", file);
    zl_buf_free(&out);
    return found ? ZT_CLEAN : ZT_CANNOT;
}
