/* SPDX-License-Identifier: Apache-2.0 */
/* fake.c - see fake.h. */
#include "fake.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "zl/text.h"

struct fake fake;
struct zk_instance **zk_instances;
uint32_t zk_n_instances;
static struct zk_instance *all_instances[1] = { &fake.instance };
void (*fake_hook)(const struct zr_event *event, struct zr_verdict *verdict);

uint32_t zk_hooks_at(uint32_t point) { return (point == ZR_POINT_REQUEST || point == ZR_POINT_SESSION_CLOSED) && fake_hook; }
void zk_hooks_run(uint32_t point, const struct zr_event *event, struct zr_verdict *ret)
{
    (void)point;
    fake_hook(event, ret);
}

/* ---- the transport's table ---- */
static uint32_t t_lanes(struct zr_inst *inst) { (void)inst; return FAKE_LANES; }
static uint32_t t_listeners(struct zr_inst *inst, const struct zr_listener **ret) { (void)inst; *ret = fake.listeners; return FAKE_LISTENERS; }
static void t_bind(struct zr_inst *inst, const struct zr_sink_v1 *sink) { (void)inst; fake.sink = sink; }

static void conn_record(struct zr_conn *conn, const struct zr_piece *p)
{
    if (p->fd < 0 || p->ptr) {
        zl_buf_add(&conn->out, p->ptr, p->len);
        return;
    }
    uint8_t *to = zl_buf_reserve(&conn->out, p->len);
    cr_assert(to && pread(p->fd, to, p->len, p->off) == (ssize_t)p->len);
    conn->out.len += p->len;
}

static void conn_frames(struct zr_conn *conn)
{
    struct zr_span frame;
    uint64_t need;
    while (conn->on_frame && zl_frame_cut((struct zr_span){ conn->out.ptr + conn->seen, conn->out.len - conn->seen }, &frame, &need) == ZR_OK) {
        conn->seen += frame.len;
        conn->on_frame(conn, frame, conn->on_frame_ctx);
    }
}

static zr_status t_send(struct zr_inst *inst, struct zr_conn *conn, const struct zr_output *out)
{
    (void)inst;
    zr_status status = fake.send_answers;
    if (atomic_load(&conn->closing))
        status = ZR_ECLOSED;
    if (status == ZR_OK) {
        pthread_mutex_lock(&conn->lock);
        for (uint32_t i = 0; i < out->n_pieces; i++)
            conn_record(conn, &out->pieces[i]);
        conn->n_sends++;
        conn->n_pieces += out->n_pieces;
        conn_frames(conn);
        pthread_mutex_unlock(&conn->lock);
    }
    if (out->done && fake.hold_done && status == ZR_OK) {
        fake.held[fake.n_held].done = out->done;
        fake.held[fake.n_held++].ctx = out->done_ctx;
    } else if (out->done) {
        out->done(out->done_ctx, status);
    }
    return status;
}

static uint64_t t_queued(struct zr_inst *inst, struct zr_conn *conn) { (void)inst; (void)conn; return 7; }

static void lane_notify(struct fake_lane *l, uint32_t wake)
{
    pthread_mutex_lock(&l->lock);
    l->woken |= wake;
    l->n_closing += !wake;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static void t_close(struct zr_inst *inst, struct zr_conn *conn, uint32_t flush)
{
    (void)inst;
    atomic_store(&conn->close_flush, flush);
    if (!atomic_exchange(&conn->closing, 1))
        lane_notify(&fake.lanes[conn->lane], 0);
}

static void t_release(struct zr_inst *inst, struct zr_conn *conn)
{
    (void)inst;
    cr_assert(atomic_exchange(&conn->released, 1) == 0);
    atomic_fetch_add(&fake.n_released, 1);
}

static void t_wake(struct zr_inst *inst, uint32_t lane) { (void)inst; lane_notify(&fake.lanes[lane], 1); }

static void lane_put(uint32_t lane, struct fake_job *job)
{
    struct fake_lane *l = &fake.lanes[lane];
    pthread_mutex_lock(&l->lock);
    *l->last = job;
    l->last = &job->next;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->lock);
}

static struct zr_conn *conn_new(uint32_t lane);
static struct zr_conn *lane_connect(uint32_t lane, uint32_t kind, uint32_t listener, void *ctx)
{
    struct fake_job *job = calloc(1, sizeof *job);
    cr_assert(job != NULL);
    job->kind = kind;
    job->len = listener;
    job->ctx = ctx;
    struct zr_conn *conn = job->conn = kind == FAKE_JOB_DIAL_FAIL ? NULL : conn_new(lane);
    lane_put(lane, job);
    return conn;
}

static zr_status t_dial(struct zr_inst *inst, struct zr_str url, int64_t timeout_ns, void *dial_ctx)
{
    (void)inst;
    (void)timeout_ns;
    pthread_mutex_lock(&fake.lock);
    struct fake_dial *d = &fake.dials[fake.n_dials % 16];
    d->ctx = dial_ctx;
    d->pending = 1;
    snprintf(d->url, sizeof d->url, "%.*s", (int)url.len, url.ptr);
    uint32_t n = fake.n_dials++;
    pthread_mutex_unlock(&fake.lock);
    if (fake.auto_dial)
        lane_connect(n % FAKE_LANES, n % 3 == 2 ? FAKE_JOB_DIAL_FAIL : FAKE_JOB_DIAL_OK, 0, dial_ctx);
    return fake.dial_answers;
}

static const char *const schemes[] = { "tcp", "mem", NULL };

/* ---- start and stop ---- */
zr_status fake_try_start(const struct zr_handler *handlers, uint32_t n)
{
    static const uint32_t serves[FAKE_LISTENERS] = { ZR_SERVES_BROKER, ZR_SERVES_FAST, ZR_SERVES_ROUTING };
    zk_log_set(ZR_LOG_ERROR, 0);
    for (uint32_t i = 0; i < FAKE_LISTENERS; i++)
        fake.listeners[i] = (struct zr_listener){ ZR_HDR(struct zr_listener, 0), ZR_STR("mem://x"), { { 0 }, 0, 0 }, serves[i] };
    for (uint32_t i = 0; i < FAKE_LANES; i++) {
        pthread_mutex_init(&fake.lanes[i].lock, NULL);
        pthread_cond_init(&fake.lanes[i].changed, NULL);
        fake.lanes[i].last = &fake.lanes[i].first;
    }
    pthread_mutex_init(&fake.lock, NULL);
    pthread_cond_init(&fake.opened, NULL);
    fake.dial_answers = ZR_PENDING;
    uint32_t caps = fake.transport.caps ? fake.transport.caps : ZR_TRANSPORT_STREAM | ZR_TRANSPORT_FILES | ZR_TRANSPORT_DIAL;
    fake.transport = (struct zr_transport_v1){ ZR_HDR(struct zr_transport_v1, 0), caps, 0, schemes, t_lanes, t_listeners, t_bind,
                                               t_send, t_queued, t_close, t_release, t_wake, t_dial };
    fake.requests = (struct zr_requests_v1){ ZR_HDR(struct zr_requests_v1, 0), handlers, n, 0 };
    fake.instance.as = "fake";
    fake.instance.id = "transport-fake";
    fake.instance.transport = &fake.transport;
    fake.instance.requests = n ? &fake.requests : NULL;
    zk_instances = all_instances;
    zk_n_instances = 1;
    cr_assert(zk_core_start(2) == ZR_OK);
    zk_remoting_provide();
    return zk_remoting_start();
}

void fake_start(const struct zr_handler *handlers, uint32_t n)
{
    zr_status status = fake_try_start(handlers, n);
    cr_assert(status == ZR_OK, "%s", zk_err_text());
    cr_assert(fake.sink != NULL);
}

static void lane_closed_due(uint32_t lane)
{
    for (;;) {
        pthread_mutex_lock(&fake.lock);
        struct zr_conn *c = fake.conns;
        while (c && (c->lane != lane || c->closed || !atomic_load(&c->closing) || !c->session))
            c = c->next;
        if (c)
            c->closed = 1;
        pthread_mutex_unlock(&fake.lock);
        if (!c)
            return;
        fake.sink->closed(fake.sink->ctx, c->session, ZR_ECLOSED);
    }
}

static struct zr_conn *conn_opened(struct zr_conn *c, uint32_t listener, void *dial_ctx);
static struct zr_conn *conn_new(uint32_t lane);

static void job_connect(struct fake_job *job)
{
    if (job->kind == FAKE_JOB_DIAL_FAIL)
        fake.sink->dial_failed(fake.sink->ctx, job->ctx, ZR_EIO, zl_str("refused"));
    else
        conn_opened(job->conn, job->kind == FAKE_JOB_OPEN ? (uint32_t)job->len : UINT32_MAX, job->ctx);
}

static void lane_jobs(struct fake_lane *l, uint32_t lane)
{
    pthread_mutex_lock(&l->lock);
    struct fake_job *job = l->first;
    l->first = NULL;
    l->last = &l->first;
    pthread_mutex_unlock(&l->lock);
    uint32_t any = job != NULL;
    struct fake_job *keep = job;
    for (; job; job = job->next) {
        uint64_t consumed, need;
        if (job->kind != FAKE_JOB_DATA) {
            job_connect(job);
            continue;
        }
        if (!job->conn->closed && fake.sink->data(fake.sink->ctx, job->conn->session, (struct zr_span){ job->bytes, job->len }, &consumed, &need) != ZR_OK)
            t_close(NULL, job->conn, 0);
    }
    if (any)
        fake.sink->turn_end(fake.sink->ctx, lane);
    while (keep) {
        struct fake_job *next = keep->next;
        free(keep);
        keep = next;
    }
}

void fake_pump(uint32_t lane)
{
    struct fake_lane *l = &fake.lanes[lane];
    lane_jobs(l, lane);
    pthread_mutex_lock(&l->lock);
    uint32_t woken = l->woken;
    l->woken = 0;
    l->n_closing = 0;
    pthread_mutex_unlock(&l->lock);
    if (woken)
        fake.sink->woken(fake.sink->ctx, lane);
    lane_closed_due(lane);
}

static void *lane_run(void *arg)
{
    uint32_t lane = (uint32_t)(uintptr_t)arg;
    struct fake_lane *l = &fake.lanes[lane];
    pthread_mutex_lock(&l->lock);
    while (!l->stop) {
        if (!l->woken && !l->n_closing && !l->first) {
            pthread_cond_wait(&l->changed, &l->lock);
            continue;
        }
        pthread_mutex_unlock(&l->lock);
        fake_pump(lane);
        pthread_mutex_lock(&l->lock);
    }
    pthread_mutex_unlock(&l->lock);
    return NULL;
}

void fake_threads(void)
{
    fake.threads = 1;
    for (uint32_t i = 0; i < FAKE_LANES; i++)
        cr_assert(pthread_create(&fake.lanes[i].thread, NULL, lane_run, (void *)(uintptr_t)i) == 0);
}

void fake_stop(void)
{
    if (!fake.threads)
        fake_threads();
    zk_remoting_stop();
    for (uint32_t i = 0; i < FAKE_LANES; i++) {
        pthread_mutex_lock(&fake.lanes[i].lock);
        fake.lanes[i].stop = 1;
        pthread_cond_broadcast(&fake.lanes[i].changed);
        pthread_mutex_unlock(&fake.lanes[i].lock);
        pthread_join(fake.lanes[i].thread, NULL);
    }
    zk_core_stop();
    cr_assert(atomic_load(&fake.n_released) == fake.n_conns, "%u of %u connections were released", atomic_load(&fake.n_released), fake.n_conns);
    while (fake.conns) {
        struct zr_conn *next = fake.conns->next;
        zl_buf_free(&fake.conns->out);
        free(fake.conns);
        fake.conns = next;
    }
}

/* ---- connections ---- */
static struct zr_conn *conn_new(uint32_t lane)
{
    struct zr_conn *c = calloc(1, sizeof *c);
    cr_assert(c != NULL);
    c->lane = lane;
    c->on_frame = fake.on_frame;
    zl_buf_init(&c->out, 64u << 20);
    pthread_mutex_init(&c->lock, NULL);
    return c;
}

static struct zr_conn *conn_opened(struct zr_conn *c, uint32_t listener, void *dial_ctx)
{
    struct zr_conn_info info = { ZR_HDR(struct zr_conn_info, 0) };
    info.peer = (struct zr_addr){ { 127, 0, 0, 1 }, 5000, 4 };
    info.peer_name = (struct zr_str)ZR_STR("127.0.0.1:5000");
    info.lane = c->lane;
    info.listener = listener;
    info.dial_ctx = dial_ctx;
    info.flags = dial_ctx ? ZR_CONN_OUTBOUND : 0;
    struct zr_session *session = NULL;
    if (fake.sink->opened(fake.sink->ctx, c, &info, &session) != ZR_OK) {
        free(c);
        return NULL;
    }
    pthread_mutex_lock(&fake.lock);
    c->session = session;
    c->next = fake.conns;
    fake.conns = c;
    fake.n_conns++;
    pthread_cond_broadcast(&fake.opened);
    pthread_mutex_unlock(&fake.lock);
    return c;
}

struct zr_conn *fake_open(uint32_t lane, uint32_t listener) { return conn_opened(conn_new(lane), listener, NULL); }

zr_status fake_data(struct zr_conn *conn, const void *bytes, uint64_t len, uint64_t *ret_consumed)
{
    uint64_t consumed = 0, need = 0;
    zr_status status = fake.sink->data(fake.sink->ctx, conn->session, (struct zr_span){ bytes, len }, &consumed, &need);
    cr_assert(consumed <= len);
    if (status == ZR_OK)
        cr_assert(need > len - consumed && need <= ZL_FRAME_MAX, "need %lu of %lu", need, len - consumed);
    if (ret_consumed)
        *ret_consumed = consumed;
    return status;
}

void fake_turn_end(uint32_t lane) { fake.sink->turn_end(fake.sink->ctx, lane); }

void fake_close(struct zr_conn *conn, zr_status why)
{
    atomic_store(&conn->closing, 1);
    conn->closed = 1;
    fake.sink->closed(fake.sink->ctx, conn->session, why);
}

void fake_done(zr_status status)
{
    for (uint32_t i = 0; i < fake.n_held; i++)
        fake.held[i].done(fake.held[i].ctx, status);
    fake.n_held = 0;
}

struct zr_conn *fake_dial_ok(uint32_t i, uint32_t lane)
{
    cr_assert(fake.dials[i % 16].pending == 1);
    fake.dials[i % 16].pending = 0;
    struct zr_conn *conn = conn_opened(conn_new(lane), UINT32_MAX, fake.dials[i % 16].ctx);
    if (conn && !fake.threads)
        fake_pump(lane);
    return conn;
}

void fake_dial_fail(uint32_t i, zr_status why, const char *text)
{
    cr_assert(fake.dials[i % 16].pending == 1);
    fake.dials[i % 16].pending = 0;
    fake.sink->dial_failed(fake.sink->ctx, fake.dials[i % 16].ctx, why, zl_str(text));
}

void fake_inject(struct zr_conn *conn, const void *bytes, uint64_t len)
{
    struct fake_job *job = calloc(1, sizeof *job + len);
    cr_assert(job != NULL);
    job->conn = conn;
    job->len = len;
    memcpy(job->bytes, bytes, len);
    lane_put(conn->lane, job);
}

struct zr_conn *fake_open_threaded(uint32_t lane, uint32_t listener)
{
    struct zr_conn *c = lane_connect(lane, FAKE_JOB_OPEN, listener, NULL);
    pthread_mutex_lock(&fake.lock);
    while (!c->session)
        pthread_cond_wait(&fake.opened, &fake.lock);
    pthread_mutex_unlock(&fake.lock);
    return c;
}

/* ---- frames ---- */
void fake_request(struct zl_buf *to, int32_t code, int32_t opaque, int32_t flag, uint32_t type, const char *text)
{
    struct zr_field fields[2] = { { ZR_STR("topic"), ZR_STR("T\001x") }, { ZR_STR("text"), zl_str(text) } };
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    c.code = code;
    c.fields = fields;
    c.n_fields = 2;
    c.body = (struct zr_span){ (const uint8_t *)text, strlen(text) };
    cr_assert(zl_command_encode(to, &c, type, flag, opaque, c.body.len) == ZR_OK);
}

uint32_t fake_next(struct zr_conn *conn, struct fake_frame *ret)
{
    struct zr_span frame;
    uint64_t need;
    const char *why = "";
    pthread_mutex_lock(&conn->lock);
    uint32_t found = zl_frame_cut((struct zr_span){ conn->out.ptr + conn->seen, conn->out.len - conn->seen }, &frame, &need) == ZR_OK;
    pthread_mutex_unlock(&conn->lock);
    if (!found)
        return 0;
    conn->seen += frame.len;
    cr_assert(zl_header_decode(frame, &ret->h, ret->scratch, sizeof ret->scratch, &why) == ZR_OK, "%s", why);
    return 1;
}

uint32_t fake_exchange(struct zr_conn *conn, int32_t code, int32_t flag, uint32_t type, const char *text, struct fake_frame *ret)
{
    static int32_t opaque = -5;
    struct zl_buf b;
    zl_buf_init(&b, 1 << 20);
    fake_request(&b, code, ++opaque, flag, type, text);
    cr_assert(fake_data(conn, b.ptr, b.len, NULL) == ZR_OK);
    fake_turn_end(conn->lane);
    zl_buf_free(&b);
    uint32_t got = fake_next(conn, ret);
    if (got)
        cr_assert(ret->h.opaque == opaque && ret->h.flag == ZL_FLAG_RESPONSE);
    return got;
}

#ifdef __SANITIZE_THREAD__
#include <sys/wait.h>
struct plain_test *plain_tests;
int main(void)
{
    uint32_t n = 0, failed = 0;
    for (struct plain_test *t = plain_tests; t; t = t->next, n++) {
        fflush(NULL);
        pid_t pid = fork();
        int status = 1;
        if (pid == 0) {
            t->run();
            exit(0);
        }
        if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) {
            printf("failed: %s::%s (%d)\n", t->suite, t->name, status);
            failed++;
        }
    }
    printf("%u tests, %u failed\n", n, failed);
    return failed != 0;
}
#endif
