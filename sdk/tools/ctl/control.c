/* SPDX-License-Identifier: Apache-2.0 */
/* control.c - verbs of a running Zarya, over the control socket in its data directory (kernel/control/README.md): one line of
 * JSON there, one back. And programs beside this one that carry out a subcommand. */
#include "ctl.h"
#include "zl/json.h"
#include "zl/text.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define SOCKET_NAME "run/control.sock"
#define ANSWER_MAX (128ull << 20)
#define WAIT_S 120
#define DEPTH_MAX 8u
#define FIELDS_MAX 24u

/* ---- reaching it ---- */

static int unreachable(const char *path, uint32_t quiet)
{
    if (!quiet) fprintf(stderr, "zaryactl: no Zarya answers at %s: %s\n", path, strerror(errno));
    return -1;
}

/* An address holds 107 bytes; the folder's descriptor stands for a path of any length. */
static int connect_at(const char *path)
{
    struct sockaddr_un at = { .sun_family = AF_UNIX };
    struct timeval wait = { .tv_sec = WAIT_S };
    char folder[PATH_MAX];
    if (snprintf(folder, sizeof(folder), "%s", path) >= (int)sizeof(folder)) {
        errno = ENAMETOOLONG;
        return -1;
    }
    char *slash = strrchr(folder, '/');
    const char *name = slash ? slash + 1 : folder;
    if (slash) *slash = 0;
    int dir = open(!slash ? "." : *folder ? folder : "/", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0) return -1;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), n;
    n = snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/%s", dir, name);
    if (fd >= 0) {
        setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait));
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait));
        if (n >= (int)sizeof(at.sun_path)) errno = ENAMETOOLONG;
        if (n >= (int)sizeof(at.sun_path) || connect(fd, (const struct sockaddr *)&at, sizeof(at)) != 0) {
            int err = errno;
            close(fd);
            fd = -1;
            errno = err;
        }
    }
    int err = errno;
    close(dir);
    errno = err;
    return fd;
}

/* The data directories that zarya takes by itself: to try out, as mqbroker, as mqnamesrv. */
static int connect_anywhere(uint32_t quiet)
{
    static const char *const folders[] = { ".local/share/zarya", "store", "namesrv" };
    const char *home = getenv("HOME"), *zarya = getenv("ZARYA_HOME");
    char path[PATH_MAX], first[PATH_MAX] = "";
    int found = -1;
    if (zarya && *zarya) {
        snprintf(path, sizeof(path), "%s/" SOCKET_NAME, zarya);
        found = connect_at(path);
        return found >= 0 ? found : unreachable(path, quiet);
    }
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(path, sizeof(path), "%s/%s/" SOCKET_NAME, home ? home : "", folders[i]);
        int fd = connect_at(path);
        if (fd < 0) continue;
        if (found < 0) {
            found = fd;
            memcpy(first, path, sizeof(first));
            continue;
        }
        close(fd);
        close(found);
        fprintf(stderr, "zaryactl: more than one Zarya answers (%s, %s): say which with --data DIR\n", first, path);
        return -2;
    }
    if (found < 0 && !quiet)
        fprintf(stderr, "zaryactl: no Zarya answers in ~/.local/share/zarya, ~/store or ~/namesrv: say where with --data DIR (its node.data, "
                        "storePathRootDir) or --socket PATH\n");
    return found;
}

static int reach(const struct target *t, uint32_t quiet)
{
    char path[PATH_MAX];
    if (!t->data && !t->socket) return connect_anywhere(quiet);
    snprintf(path, sizeof(path), "%s%s", t->socket ? t->socket : t->data, t->socket ? "" : "/" SOCKET_NAME);
    int fd = connect_at(path);
    return fd >= 0 ? fd : unreachable(path, quiet);
}

/* ---- one request ---- */

static uint32_t send_all(int fd, const struct zl_buf *b)
{
    for (uint64_t at = 0; at < b->len;) {
        ssize_t n = send(fd, b->ptr + at, b->len - at, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0;
        at += (uint64_t)n;
    }
    return 1;
}

static uint32_t read_line(int fd, struct zl_buf *to)
{
    while (to->len == 0 || to->ptr[to->len - 1] != '\n') {
        uint8_t *at = zl_buf_reserve(to, 65536);
        ssize_t n = at ? recv(fd, at, 65536, 0) : -1;
        if (n < 0 && errno == EINTR) continue;
        if (n <= 0) return 0;
        to->len += (uint64_t)n;
    }
    return 1;
}

/* 1: *answer holds the whole line. */
static uint32_t ask(int fd, char *const *words, uint32_t n, struct zl_buf *answer)
{
    struct zl_buf line;
    struct zl_jw w;
    zl_buf_init(&line, 65536);
    zl_jw_init(&w, &line, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("run"));
    zl_jw_begin(&w, '[');
    for (uint32_t i = 0; i < n; i++) zl_jw_str(&w, zl_str(words[i]));
    zl_jw_end(&w, ']');
    zl_jw_end(&w, '}');
    zl_buf_u8(&line, '\n');
    uint32_t ok = !line.failed && send_all(fd, &line) && read_line(fd, answer);
    if (line.failed)
        fprintf(stderr, "zaryactl: a request is at most 64 KiB\n");
    else if (!ok)
        fprintf(stderr, "zaryactl: the control socket gave no answer: %s\n", errno ? strerror(errno) : "it was closed");
    zl_buf_free(&line);
    return ok;
}

/* ---- showing ---- */

static void flatten(struct zl_buf *out, const struct zl_json *v)
{
    if (v->kind == ZL_JSON_ARRAY) {
        for (const struct zl_json *c = v->child; c; c = c->next) {
            flatten(out, c);
            if (c->next) zl_buf_cstr(out, ", ");
        }
    } else if (v->kind == ZL_JSON_OBJECT) {
        zl_json_print(out, v);
    } else if (v->kind == ZL_JSON_NULL) {
        zl_buf_cstr(out, "-");
    } else {
        zl_buf_str(out, v->text);
    }
}

static void cell_of(struct table *t, const struct zl_json *v)
{
    struct zl_buf text;
    zl_buf_init(&text, ANSWER_MAX);
    if (v) flatten(&text, v);
    cell(t, zl_buf_as_str(&text));
    zl_buf_free(&text);
}

/* Rows of objects that have the keys of the first. */
static void show_rows(const struct zl_json *list)
{
    char names[FIELDS_MAX][2 * ZC_NAME_MAX];
    const char *columns[FIELDS_MAX] = { NULL };
    uint32_t n = 0;
    for (const struct zl_json *f = list->child->child; f && n < FIELDS_MAX; f = f->next, n++) {
        snprintf(names[n], sizeof(names[n]), "%.*s:%s%.*s", (int)(f->key.len < 200 ? f->key.len : 200), f->key.ptr,
                 f->kind == ZL_JSON_NUMBER ? "#" : "", (int)(f->key.len < 200 ? f->key.len : 200), f->key.ptr);
        columns[n] = names[n];
    }
    struct table *t = table_new(columns, n);
    for (const struct zl_json *row = list->child; row; row = row->next) {
        const struct zl_json *f = list->child->child;
        for (uint32_t i = 0; i < n; i++, f = f->next) {
            char key[256];
            snprintf(key, sizeof(key), "%.*s", (int)(f->key.len < 200 ? f->key.len : 200), f->key.ptr);
            cell_of(t, zl_json_get(row, key));
        }
    }
    table_print(t, 0);
}

static void show_fields(const struct zl_json *object, const char *before, uint32_t depth)
{
    for (const struct zl_json *f = object->child; f; f = f->next) {
        char name[512];
        struct zl_buf text;
        snprintf(name, sizeof(name), "%s%s%.*s", before, *before ? "." : "", (int)(f->key.len < 200 ? f->key.len : 200), f->key.ptr);
        if (f->kind == ZL_JSON_OBJECT && depth < DEPTH_MAX) {
            show_fields(f, name, depth + 1);
            continue;
        }
        zl_buf_init(&text, ANSWER_MAX);
        flatten(&text, f);
        printf("%-20s %.*s\n", name, (int)text.len, text.ptr ? (const char *)text.ptr : "");
        zl_buf_free(&text);
    }
}

static void show_text(struct zr_str text)
{
    fwrite(text.ptr ? text.ptr : "", 1, text.len, stdout);
    if (text.len == 0 || text.ptr[text.len - 1] != '\n') putchar('\n');
}

static void show(const struct zl_json *v, uint32_t json)
{
    struct zl_buf text;
    if (!json && v->kind == ZL_JSON_OBJECT) return show_fields(v, "", 0);
    if (!json && v->kind == ZL_JSON_ARRAY && v->child && v->child->kind == ZL_JSON_OBJECT && v->child->child) return show_rows(v);
    if (!json && v->kind == ZL_JSON_ARRAY) {
        for (const struct zl_json *c = v->child; c; c = c->next) show(c, 0);
        return;
    }
    if (!json) return show_text(zl_json_str(v));
    zl_buf_init(&text, ANSWER_MAX);
    zl_json_print(&text, v);
    show_text(zl_buf_as_str(&text));
    zl_buf_free(&text);
}

/* Runs a request and hands its result to `use`. */
static int with_result(int fd, char *const *words, uint32_t n, void (*use)(const struct zl_json *result, const void *ctx), const void *ctx)
{
    struct zl_buf answer;
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at;
    int rc = EXIT_FAILED;
    zl_buf_init(&answer, ANSWER_MAX);
    errno = 0;
    if (ask(fd, words, n, &answer)) {
        if (zl_json_parse(zl_buf_as_str(&answer), &doc, &root, &at) != ZR_OK) {
            fprintf(stderr, "zaryactl: the answer is not JSON (at byte %llu)\n", (unsigned long long)at);
        } else {
            struct zr_str error = zl_json_get_str(root, "error");
            rc = zl_json_get_bool(root, "ok", 0) && zl_json_get(root, "result") ? 0 : zl_is(zl_json_get_str(root, "status"), "EINVAL") ? EXIT_USAGE : EXIT_FAILED;
            if (rc == 0)
                use(zl_json_get(root, "result"), ctx);
            else
                fprintf(stderr, "zaryactl: %.*s\n", (int)error.len, error.ptr ? error.ptr : "");
            zl_json_free(doc);
        }
    }
    zl_buf_free(&answer);
    return rc;
}

static void use_show(const struct zl_json *result, const void *ctx) { show(result, ((const struct target *)ctx)->json); }

/* ---- help ---- */

static void use_help(const struct zl_json *result, const void *ctx)
{
    (void)ctx;
    for (const struct zl_json *v = result->child; v; v = v->next) {
        struct zr_str name = zl_json_get_str(v, "verb"), usage = zl_json_get_str(v, "usage"), doc = zl_json_get_str(v, "doc");
        char left[512];
        snprintf(left, sizeof(left), "%.*s%s%.*s", (int)name.len, name.ptr, usage.len ? " " : "", (int)usage.len, usage.ptr ? usage.ptr : "");
        printf("  %-34s %.*s\n", left, (int)doc.len, doc.ptr ? doc.ptr : "");
    }
}

void control_help(const struct target *t)
{
    char *words[] = { (char *)"help" };
    int fd = reach(t, 1);
    printf("\nverbs of a running Zarya (zaryactl [--data DIR | --socket PATH] VERB...)\n");
    if (fd < 0) {
        printf("  status, plugins, metrics, config, log level, drain, stop and those of its plugins; none is reached now (--data DIR)\n");
        return;
    }
    with_result(fd, words, 1, use_help, NULL);
    close(fd);
}

int control_run(const struct target *t, int n, char *const *words, uint32_t quiet)
{
    int fd = n > 0 ? reach(t, quiet) : -1;
    if (n <= 0) fprintf(stderr, "zaryactl: which verb? (zaryactl help lists them)\n");
    if (fd < 0) return n <= 0 ? EXIT_USAGE : fd == -1 && quiet ? CONTROL_NOBODY : EXIT_FAILED;
    int rc = with_result(fd, words, (uint32_t)n, use_show, t);
    close(fd);
    return rc;
}

/* ---- programs beside this one ---- */

static uint32_t runnable(const char *path)
{
    struct stat st;
    return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

void external_run(const char *name, char **argv)
{
    char self[PATH_MAX], path[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
    if (n <= 0 || !*name || strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-") != strlen(name) || strlen(name) > 64) return;
    self[n] = 0;
    *strrchr(self, '/') = 0;
    static const char *const places[] = { "", "/../libexec/zarya" };
    for (uint32_t i = 0; i < 2; i++) {
        if (snprintf(path, sizeof(path), "%s%s/zaryactl-%s", self, places[i], name) >= (int)sizeof(path) || !runnable(path)) continue;
        argv[0] = path;
        execv(path, argv);
        fprintf(stderr, "zaryactl: %s cannot be run: %s\n", path, strerror(errno));
        exit(EXIT_FAILED);
    }
}
