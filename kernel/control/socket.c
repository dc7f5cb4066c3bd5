/* SPDX-License-Identifier: Apache-2.0 */
/* socket.c - the control socket: one thread that moves bytes, and never waits for anybody.
 *
 *   FREE --accept--> READING --a line--> [QUEUED -->] RUNNING (a worker has it) --> WRITING --all written--> READING
 *
 * What stays true:
 *   1. A client holds one slot of CLIENTS_MAX, one line and one answer. When all slots are taken, the one that has been silent
 *      longest and asks nothing gives way; when all of them ask, the new one is told so and closed.
 *   2. A client that takes no byte of its answer for STALL_NS is closed. Nobody else notices either.
 *   3. While RUNNING the slot belongs to the worker; `finished` and the event give it back.
 *   4. At most one verb of a plugin runs at a time, since it may block: of the pool's threads at least one stays for others.
 *      The kernel's own verbs do not block and do not wait for it.
 *   5. Only the user that this process runs as, and root, are served: by the socket's mode and by the peer's credentials.
 *
 * No lock: slots are the thread's alone but for rule 3. */
#include "control/control.h"
#include "core/core_int.h"
#include "zl/json.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define CLIENTS_MAX 32u
#define ANSWER_MAX (64ull << 20)
#define STALL_NS 30000000000ll
#define SILENT_NS 1000000000ll /* a client silent for so long may have to give way */
#define LAST_NS 1000000000ll /* how long a stop waits for the last answers to be taken */
#define BACKLOG 64

#define FREE 0u
#define READING 1u
#define QUEUED 2u
#define RUNNING 3u
#define WRITING 4u

struct client {
    int fd;
    uint32_t stage, close_after;
    _Atomic uint32_t finished;
    int64_t moved_ns;
    uint64_t order; /* of QUEUED ones */
    struct zl_buf in, out;
    uint64_t sent, line_len; /* line_len: of the request at the front of `in`, with its LF */
    struct zl_json_doc *doc; /* of the request; words point into it */
    struct zk_words words;
    struct zk_verb verb;
};

static struct control {
    struct client clients[CLIENTS_MAX];
    int listener, event, folder;
    uint64_t thread, last_order;
    int64_t accept_again_ns;
    uint32_t up, plugin_verbs; /* plugin_verbs: running now */
    _Atomic uint32_t ending;
    char path[4096];
    dev_t device;
    ino_t inode;
} control;

/* ---- the socket's file ------------------------------------------------------------------------------------------------- */

/* An address holds 107 bytes; the folder's descriptor stands for a path of any length. */
static void address_of(int folder, const char *name, struct sockaddr_un *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->sun_family = AF_UNIX;
    snprintf(ret->sun_path, sizeof ret->sun_path, "/proc/self/fd/%d/%s", folder, name);
}

/* Somebody listens there. A full backlog is somebody, too. */
static uint32_t is_alive(const struct sockaddr_un *at)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return 1; /* not known: so it stays */
    int rc = connect(fd, (const struct sockaddr *)at, sizeof *at);
    uint32_t alive = rc == 0 || (errno != ECONNREFUSED && errno != ENOENT);
    close(fd);
    return alive;
}

static zr_status raise_errno(const char *what)
{
    int err = errno;
    zk_err_raise(err == EADDRINUSE ? ZR_EEXIST : ZR_EIO, err, "the control socket %s cannot be %s", control.path, what);
    return err == EADDRINUSE ? ZR_EEXIST : ZR_EIO;
}

static zr_status bind_at(const struct sockaddr_un *at, const char *name)
{
    if (bind(control.listener, (const struct sockaddr *)at, sizeof *at) == 0)
        return ZR_OK;
    struct stat st;
    if (errno != EADDRINUSE || fstatat(control.folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return raise_errno("bound");
    if (!S_ISSOCK(st.st_mode) || is_alive(at)) {
        errno = EADDRINUSE;
        return raise_errno("taken: something else is there");
    }
    if (unlinkat(control.folder, name, 0) != 0 || bind(control.listener, (const struct sockaddr *)at, sizeof *at) != 0)
        return raise_errno("replaced");
    return ZR_OK;
}

static zr_status listener_open(const char *data_dir)
{
    const char *name = strrchr(ZK_CONTROL_NAME, '/') + 1;
    struct sockaddr_un at;
    struct stat st;
    snprintf(control.path, sizeof control.path, "%s/%s", data_dir, ZK_CONTROL_NAME);
    char folder[sizeof control.path];
    memcpy(folder, control.path, sizeof folder);
    *strrchr(folder, '/') = 0;
    control.folder = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (control.folder < 0)
        return raise_errno("made");
    control.listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (control.listener < 0 || fchmod(control.listener, 0600) != 0) /* before bind: the file is born with it */
        return raise_errno("made");
    address_of(control.folder, name, &at);
    zr_status status = bind_at(&at, name);
    if (status != ZR_OK)
        return status;
    if (listen(control.listener, BACKLOG) != 0 || fstatat(control.folder, name, &st, AT_SYMLINK_NOFOLLOW) != 0)
        return raise_errno("opened");
    control.device = st.st_dev;
    control.inode = st.st_ino;
    return ZR_OK;
}

static void listener_close(void)
{
    struct stat st;
    const char *name = strrchr(ZK_CONTROL_NAME, '/') + 1;
    if (control.inode && fstatat(control.folder, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_dev == control.device && st.st_ino == control.inode)
        unlinkat(control.folder, name, 0); /* ours, not one that somebody put there meanwhile */
    if (control.listener >= 0)
        close(control.listener);
    if (control.folder >= 0)
        close(control.folder);
    control.listener = control.folder = -1;
    control.inode = 0;
}

/* ---- one client -------------------------------------------------------------------------------------------------------- */

static void client_close(struct client *c)
{
    close(c->fd);
    zl_buf_free(&c->in);
    zl_buf_free(&c->out);
    zl_json_free(c->doc);
    c->doc = NULL;
    c->fd = -1;
    c->stage = FREE;
}

static void client_answer(struct client *c)
{
    c->stage = WRITING;
    c->sent = 0;
    c->moved_ns = zk_mono_ns();
}

static void client_refuse(struct client *c, zr_status status, const char *text, uint32_t close_after)
{
    zl_buf_clear(&c->out);
    zk_verb_refuse(&c->out, status, text);
    c->close_after |= close_after;
    client_answer(c);
}

static zr_status words_of(struct client *c, struct zr_str line)
{
    const struct zl_json *root;
    uint64_t at = 0;
    c->words.n = 0;
    if (zl_json_parse(line, &c->doc, &root, &at) != ZR_OK) {
        c->doc = NULL;
        zk_err_raise(ZR_EINVAL, 0, "the request is not JSON (at byte %llu)", (unsigned long long)at);
        return ZR_EINVAL;
    }
    const struct zl_json *run = zl_json_get(root, "run");
    for (const struct zl_json *w = run && run->kind == ZL_JSON_ARRAY ? run->child : NULL; w; w = w->next) {
        if (w->kind == ZL_JSON_STRING && c->words.n < ZK_CONTROL_WORDS_MAX && !memchr(w->text.ptr ? w->text.ptr : "", 0, w->text.len)) {
            c->words.at[c->words.n++] = w->text;
            continue;
        }
        zk_err_raise(ZR_EINVAL, 0, "a request has at most %u words, each a text", ZK_CONTROL_WORDS_MAX);
        return ZR_EINVAL;
    }
    if (c->words.n > 0)
        return ZR_OK;
    zk_err_raise(ZR_EINVAL, 0, "a request is {\"run\":[\"verb\",\"argument\",...]}");
    return ZR_EINVAL;
}

/* ---- running ----------------------------------------------------------------------------------------------------------- */

static void wake(void)
{
    uint64_t one = 1;
    while (write(control.event, &one, sizeof one) < 0 && errno == EINTR)
        ;
}

static void client_job(void *arg)
{
    struct client *c = arg;
    zk_verb_run(&c->verb, &c->words, &c->out);
    atomic_store(&c->finished, 1);
    wake();
}

static void client_run(struct client *c)
{
    c->stage = RUNNING;
    control.plugin_verbs += c->verb.of != NULL;
    atomic_store(&c->finished, 0);
    zr_status status = zk_work(client_job, c);
    if (status != ZR_OK) {
        control.plugin_verbs -= c->verb.of != NULL;
        client_refuse(c, status, "the worker pool is full", 0);
    }
}

static void client_request(struct client *c, struct zr_str line)
{
    zl_buf_clear(&c->out);
    zk_err_clear();
    zr_status status = words_of(c, line);
    if (status == ZR_OK)
        status = zk_verb_find(&c->words, &c->verb);
    if (status != ZR_OK) {
        client_refuse(c, status, zk_err_text(), 0);
    } else if (c->verb.of && control.plugin_verbs > 0) {
        c->stage = QUEUED;
        c->order = ++control.last_order;
    } else {
        client_run(c);
    }
}

/* Looks for a whole line in what was read. */
static void client_line(struct client *c)
{
    while (c->stage == READING && c->in.len > 0) {
        const uint8_t *lf = memchr(c->in.ptr, '\n', c->in.len);
        if (!lf && c->in.len >= ZK_CONTROL_LINE_MAX)
            client_refuse(c, ZR_EINVAL, "a request is one line of at most 64 KiB", 1);
        if (!lf)
            return;
        c->line_len = (uint64_t)(lf - c->in.ptr) + 1;
        struct zr_str line = zl_trim((struct zr_str){ (const char *)c->in.ptr, c->line_len });
        if (line.len == 0) {
            memmove(c->in.ptr, c->in.ptr + c->line_len, c->in.len - c->line_len);
            c->in.len -= c->line_len;
            c->line_len = 0;
        } else {
            client_request(c, line);
        }
    }
}

static void client_read(struct client *c)
{
    uint8_t *to = zl_buf_reserve(&c->in, ZK_CONTROL_LINE_MAX - c->in.len);
    if (!to)
        return client_close(c);
    ssize_t n = recv(c->fd, to, ZK_CONTROL_LINE_MAX - c->in.len, 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        return client_close(c);
    c->in.len += (uint64_t)n;
    c->moved_ns = zk_mono_ns();
    client_line(c);
}

static void client_answered(struct client *c)
{
    zl_json_free(c->doc);
    c->doc = NULL;
    zl_buf_free(&c->out); /* answers may be large */
    zl_buf_init(&c->out, ANSWER_MAX);
    if (c->close_after)
        return client_close(c);
    memmove(c->in.ptr, c->in.ptr + c->line_len, c->in.len - c->line_len);
    c->in.len -= c->line_len;
    c->line_len = 0;
    c->stage = READING;
    client_line(c);
}

static void client_write(struct client *c)
{
    ssize_t n = send(c->fd, c->out.ptr + c->sent, c->out.len - c->sent, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0)
        return client_close(c);
    c->sent += (uint64_t)n;
    c->moved_ns = zk_mono_ns();
    if (c->sent == c->out.len)
        client_answered(c);
}

/* ---- who comes --------------------------------------------------------------------------------------------------------- */

/* A free slot, else the one that has been silent longest; NULL: all of them ask. */
static struct client *slot_best(void)
{
    struct client *oldest = NULL;
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = &control.clients[i];
        if (c->stage == FREE)
            return c;
        if (c->stage == READING && (!oldest || c->moved_ns < oldest->moved_ns))
            oldest = c;
    }
    return oldest;
}

/* When the next client may be taken, at the latest; 0: now. A client that only just came is given time to ask, and files may
 * have run out. */
static int64_t accept_at(int64_t now)
{
    const struct client *c = slot_best();
    int64_t at = c && c->stage == READING ? c->moved_ns + SILENT_NS : 0;
    at = control.accept_again_ns > at ? control.accept_again_ns : at;
    return at > now ? at : 0;
}

static uint32_t is_allowed(int fd)
{
    struct ucred who;
    socklen_t len = sizeof who;
    return getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) == 0 && (who.uid == 0 || who.uid == geteuid());
}

static void turn_away(int fd)
{
    struct zl_buf out;
    zl_buf_init(&out, 1024);
    zk_verb_refuse(&out, ZR_EFULL, "too many requests are under way on the control socket");
    if (send(fd, out.ptr, out.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0)
        zk_log(ZR_LOG_DEBUG, "a client of the control socket was turned away");
    zl_buf_free(&out);
    close(fd);
}

static void accept_all(void)
{
    while (accept_at(zk_mono_ns()) == 0) {
        int fd = accept4(control.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd < 0) {
            control.accept_again_ns = errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS ? zk_mono_ns() + SILENT_NS : 0;
            return;
        }
        struct client *c = is_allowed(fd) ? slot_best() : NULL;
        if (!c) {
            turn_away(fd);
            continue;
        }
        if (c->stage != FREE)
            client_close(c);
        memset(c, 0, sizeof *c);
        c->fd = fd;
        c->stage = READING;
        c->moved_ns = zk_mono_ns();
        zl_buf_init(&c->in, ZK_CONTROL_LINE_MAX);
        zl_buf_init(&c->out, ANSWER_MAX);
    }
}

/* ---- the thread -------------------------------------------------------------------------------------------------------- */

static void take_finished(void)
{
    struct client *next = NULL;
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = &control.clients[i];
        if (c->stage == RUNNING && atomic_load(&c->finished)) {
            control.plugin_verbs -= c->verb.of != NULL;
            client_answer(c);
        }
    }
    for (uint32_t i = 0; i < CLIENTS_MAX && control.plugin_verbs == 0; i++)
        if (control.clients[i].stage == QUEUED && (!next || control.clients[i].order < next->order))
            next = &control.clients[i];
    if (next && atomic_load(&control.ending))
        client_refuse(next, ZR_ECLOSED, "the process is stopping", 1);
    else if (next)
        client_run(next);
}

/* *ret_wait_ms: until the first stalled client is to be closed; -1: there is none. */
static uint32_t gather(struct pollfd *fds, struct client **who, int *ret_wait_ms)
{
    int64_t now = zk_mono_ns(), first = INT64_MAX;
    uint32_t n = 2;
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = &control.clients[i];
        if (c->stage == WRITING && now - c->moved_ns >= STALL_NS)
            client_close(c);
        if (c->stage == WRITING && c->moved_ns + STALL_NS < first)
            first = c->moved_ns + STALL_NS;
        if (c->stage != READING && c->stage != WRITING)
            continue; /* one that runs is not looked at: its end is noticed when it is answered */
        who[n] = c;
        fds[n++] = (struct pollfd){ .fd = c->fd, .events = c->stage == WRITING ? POLLOUT : POLLIN };
    }
    *ret_wait_ms = first == INT64_MAX ? -1 : (int)((first - now) / 1000000 + 1);
    return n;
}

static void clear_event(void)
{
    uint64_t n;
    while (read(control.event, &n, sizeof n) < 0 && errno == EINTR)
        ;
}

static void serve_clients(const struct pollfd *fds, struct client *const *who, uint32_t n)
{
    for (uint32_t i = 2; i < n; i++) {
        struct client *c = who[i];
        if (!fds[i].revents || c->fd != fds[i].fd)
            continue;
        if (c->stage == READING)
            client_read(c);
        else if (c->stage == WRITING)
            client_write(c);
    }
}

static void serve(void)
{
    struct pollfd fds[CLIENTS_MAX + 2];
    struct client *who[CLIENTS_MAX + 2];
    while (!atomic_load(&control.ending)) {
        int wait_ms;
        uint32_t n = gather(fds, who, &wait_ms);
        int64_t now = zk_mono_ns(), at = accept_at(now);
        int later = (int)((at - now) / 1000000 + 1);
        fds[0] = (struct pollfd){ .fd = control.event, .events = POLLIN };
        fds[1] = (struct pollfd){ .fd = at ? -1 : control.listener, .events = POLLIN };
        if (at && (wait_ms < 0 || later < wait_ms))
            wait_ms = later;
        if (poll(fds, n, wait_ms) <= 0)
            continue;
        if (fds[0].revents)
            clear_event();
        take_finished();
        serve_clients(fds, who, n);
        if (fds[1].revents)
            accept_all();
    }
}

/* Who only listens is let go; who waits for an answer gets it. */
static uint32_t busy_at_end(int64_t since)
{
    uint32_t busy = 0;
    take_finished();
    for (uint32_t i = 0; i < CLIENTS_MAX; i++) {
        struct client *c = &control.clients[i];
        c->close_after = 1;
        if (c->stage == READING || (c->stage == WRITING && zk_mono_ns() - since > LAST_NS))
            client_close(c);
        busy += c->stage != FREE;
    }
    return busy;
}

static void finish(void)
{
    struct pollfd fds[CLIENTS_MAX + 2];
    struct client *who[CLIENTS_MAX + 2];
    int64_t since = zk_mono_ns();
    while (busy_at_end(since)) {
        int wait_ms;
        uint32_t n = gather(fds, who, &wait_ms);
        fds[0] = (struct pollfd){ .fd = control.event, .events = POLLIN };
        fds[1] = (struct pollfd){ .fd = -1 };
        if (poll(fds, n, n > 2 ? (int)(LAST_NS / 1000000) : -1) <= 0)
            continue;
        if (fds[0].revents)
            clear_event();
        serve_clients(fds, who, n);
    }
}

static void control_thread(void *arg)
{
    (void)arg;
    serve();
    finish();
}

zr_status zk_control_start(const char *data_dir)
{
    control.listener = control.folder = control.event = -1;
    control.inode = 0;
    control.plugin_verbs = 0;
    control.accept_again_ns = 0;
    atomic_store(&control.ending, 0);
    zr_status status = listener_open(data_dir);
    if (status == ZR_OK && (control.event = eventfd(0, EFD_CLOEXEC)) < 0)
        status = raise_errno("served");
    if (status == ZR_OK) {
        zk_verbs_open();
        status = zk_thread_spawn("zr-control", control_thread, NULL, &control.thread);
        if (status != ZR_OK)
            zk_verbs_close();
    }
    control.up = status == ZR_OK;
    if (status != ZR_OK) {
        listener_close();
        if (control.event >= 0)
            close(control.event);
    }
    return status;
}

void zk_control_stop(void)
{
    if (!control.up)
        return;
    atomic_store(&control.ending, 1);
    wake();
    zk_thread_join(control.thread);
    listener_close();
    close(control.event);
    zk_verbs_close();
    control.up = 0;
}
