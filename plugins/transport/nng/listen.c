/* SPDX-License-Identifier: Apache-2.0 */
/* listen.c - urls, bound listeners, accepting. A listener that cannot accept (no descriptors, rate used up) rests for a
 * moment by an nng sleep, and then accepts again; those who wish to connect wait in the system's backlog. */
#include <arpa/inet.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include "nng.h"

static uint32_t is_ipc(struct zr_str url)
{
    return zl_starts(url, "ipc://");
}

zr_status tng_listen_check(const struct tng_settings *set, char *why, size_t cap)
{
    struct sockaddr_un un;
    char host[256];
    uint16_t port;
    if (!tr_serves(&set->serves)) {
        snprintf(why, cap, "serves: each word must be one of broker, broker-fast, routing");
        return ZR_EINVAL;
    }
    if (set->listen.n > TNG_MAX_LISTENERS || set->output_low > set->output_high) {
        snprintf(why, cap, "listen: at most %u urls; output_low: not above output_high", TNG_MAX_LISTENERS);
        return ZR_EINVAL;
    }
    for (uint64_t i = 0; i < set->listen.n; i++) {
        struct zr_str url = set->listen.items[i];
        uint32_t good = is_ipc(url) ? url.len > 6 && url.len - 6 < sizeof un.sun_path
            : zl_starts(url, "tcp://") && tr_endpoint_split((struct zr_str){ url.ptr + 6, url.len - 6 }, host, sizeof host, &port) == ZR_OK;
        if (!good) {
            snprintf(why, cap, "listen: \"%.*s\" is neither tcp://host:port nor ipc:///path (of at most %u bytes)",
                     (int)(url.len < 200 ? url.len : 200), url.ptr, (unsigned)(sizeof un.sun_path - 1));
            return ZR_EINVAL;
        }
    }
    return ZR_OK;
}

/* A socket file that nobody listens on any more is removed; anything else at that path is left alone. */
static zr_status clear_stale(struct zr_inst *inst, const char *path)
{
    struct sockaddr_un un = { .sun_family = AF_UNIX };
    struct stat st;
    if (lstat(path, &st) != 0) {
        return ZR_OK; /* nothing there, or listening will say what is wrong */
    }
    if (!S_ISSOCK(st.st_mode)) {
        return tr_fail(&inst->report, ZR_EEXIST, 0, "cannot listen on ipc://%s: a file of another kind is there", path);
    }
    snprintf(un.sun_path, sizeof un.sun_path, "%s", path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0) {
        return tr_fail(&inst->report, ZR_EIO, errno, "cannot make a socket: %s", strerror(errno));
    }
    int rc = connect(fd, (struct sockaddr *)&un, sizeof un), error = errno;
    close(fd);
    if (rc == 0 || error == EAGAIN) {
        return tr_fail(&inst->report, ZR_EEXIST, EADDRINUSE, "cannot listen on ipc://%s: another process listens there", path);
    }
    if (error == ECONNREFUSED && unlink(path) == 0) {
        tr_log(&inst->report, ZR_LOG_INFO, "removed the socket file %s, which nobody listened on", path);
    }
    return ZR_OK;
}

static void publish(struct zr_inst *inst, struct tng_listener *l, const char *url)
{
    struct zr_listener *pub = &inst->published[l->index];
    nng_sockaddr sa;
    *pub = (struct zr_listener){ .hdr = ZR_HDR(struct zr_listener, 0), .serves = inst->serves };
    snprintf(l->url, sizeof l->url, "%s", url);
    if (nng_stream_listener_get_addr(l->listener, NNG_OPT_LOCADDR, &sa) == 0 && (sa.s_family == NNG_AF_INET || sa.s_family == NNG_AF_INET6)) {
        char text[64];
        uint32_t v4 = sa.s_family == NNG_AF_INET;
        memcpy(pub->addr.ip, v4 ? (const void *)&sa.s_in.sa_addr : (const void *)sa.s_in6.sa_addr, v4 ? 4 : 16);
        pub->addr.port = ntohs(v4 ? sa.s_in.sa_port : sa.s_in6.sa_port);
        pub->addr.family = v4 ? 4 : 6;
        uint32_t n = zl_addr_print(text, &pub->addr);
        snprintf(l->url, sizeof l->url, "tcp://%.*s", (int)n, text);
    }
    pub->url = zl_str(l->url);
    tr_log(&inst->report, ZR_LOG_INFO, "listening on %s", l->url);
}

static void enter(struct tng_listener *l, nng_stream *stream)
{
    struct zr_inst *inst = l->inst;
    struct tng_lane *lane = tng_lane_choose(inst);
    struct zr_conn *conn = tng_conn_new(lane);
    if (conn) {
        conn->stream = stream;
        tng_conn_addresses(conn);
    }
    if (!conn || tng_conn_aios(conn) != 0 || !tr_admit_enter(&inst->admit, &conn->peer, -1)) {
        atomic_fetch_sub(&lane->n_conns, 1u);
        if (conn) {
            nng_aio_free(conn->rx);
            nng_aio_free(conn->tx);
            tng_conn_drop(conn);
        }
        nng_stream_free(stream);
        return;
    }
    conn->listener = l->index;
    tr_count(&inst->report, TR_M_ACCEPTED, 1);
    tr_count(&inst->report, TR_M_CONNECTIONS, 1);
    tng_lane_post(conn, TNG_POST_NEW);
}

static void accept_next(struct tng_listener *l)
{
    int64_t wait_ns = 0;
    if (tr_admit_take(&l->inst->admit, tr_now(), &wait_ns)) {
        nng_stream_listener_accept(l->listener, l->accepting);
    } else {
        nng_sleep_aio((nng_duration)(wait_ns / 1000000), l->resting);
    }
}

static void on_rested(void *arg)
{
    struct tng_listener *l = arg;
    if (nng_aio_result(l->resting) == 0 && !atomic_load(&l->inst->closing)) {
        accept_next(l);
    }
}

static void on_accept(void *arg)
{
    struct tng_listener *l = arg;
    int rv = nng_aio_result(l->accepting);
    if (atomic_load(&l->inst->closing)) {
        if (rv == 0) {
            nng_stream_free(nng_aio_get_output(l->accepting, 0));
        }
        return;
    }
    if (rv == 0) {
        enter(l, nng_aio_get_output(l->accepting, 0));
        accept_next(l);
    } else if (rv != NNG_ECLOSED && rv != NNG_ECANCELED) {
        tr_log_rare(&l->inst->report, TR_RARE_NOFILE, "cannot accept on %s: %s; connections wait%s", l->url, nng_strerror(rv),
                    rv == NNG_ENOFILES ? " (raise the limit of open files, LimitNOFILE or ulimit -n)" : "");
        tr_admit_give(&l->inst->admit);
        nng_sleep_aio(TNG_REST_MS, l->resting);
    }
}

static zr_status open_one(struct zr_inst *inst, struct zr_str text)
{
    struct tng_listener *l = &inst->listeners[inst->n_listeners];
    char url[160];
    snprintf(url, sizeof url, "%.*s", (int)text.len, text.ptr);
    zr_status status = is_ipc(text) ? clear_stale(inst, url + 6) : ZR_OK;
    if (status != ZR_OK) {
        return status;
    }
    l->inst = inst;
    l->index = inst->n_listeners++;
    int rv = nng_stream_listener_alloc(&l->listener, url);
    rv = rv ? rv : nng_aio_alloc(&l->accepting, on_accept, l);
    rv = rv ? rv : nng_aio_alloc(&l->resting, on_rested, l);
    rv = rv || is_ipc(text) ? rv : nng_stream_listener_set_bool(l->listener, NNG_OPT_TCP_NODELAY, true); /* not nng's default */
    rv = rv ? rv : nng_stream_listener_listen(l->listener);
    if (rv != 0) {
        return tr_fail(&inst->report, ZR_EIO, 0, "cannot listen on %s: %s%s", url, nng_strerror(rv),
                       rv == NNG_EADDRINUSE ? "; another process listens there (ss -ltnp shows which)" : "");
    }
    publish(inst, l, url);
    return ZR_OK;
}

zr_status tng_listeners_open(struct zr_inst *inst)
{
    uint64_t n = inst->set->listen.n;
    inst->listeners = calloc(n ? n : 1, sizeof inst->listeners[0]);
    inst->published = calloc(n ? n : 1, sizeof inst->published[0]);
    zr_status status = inst->listeners && inst->published ? ZR_OK : ZR_ENOMEM;
    for (uint64_t i = 0; i < n && status == ZR_OK; i++) {
        status = open_one(inst, inst->set->listen.items[i]);
    }
    return status;
}

void tng_listeners_start(struct zr_inst *inst)
{
    for (uint32_t i = 0; i < inst->n_listeners; i++) {
        accept_next(&inst->listeners[i]);
    }
}

/* closing is set: no callback begins anything new. */
void tng_listeners_stop(struct zr_inst *inst)
{
    for (uint32_t i = 0; i < inst->n_listeners; i++) {
        struct tng_listener *l = &inst->listeners[i];
        if (l->listener) {
            nng_stream_listener_close(l->listener);
        }
        nng_aio_stop(l->resting);
        nng_aio_stop(l->accepting);
    }
}

void tng_listeners_free(struct zr_inst *inst)
{
    for (uint32_t i = 0; i < inst->n_listeners; i++) {
        struct tng_listener *l = &inst->listeners[i];
        nng_aio_free(l->resting);
        nng_aio_free(l->accepting);
        nng_stream_listener_free(l->listener);
    }
    inst->n_listeners = 0;
    free(inst->listeners);
    free(inst->published);
    inst->listeners = NULL;
    inst->published = NULL;
}
