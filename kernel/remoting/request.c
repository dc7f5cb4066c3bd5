/* SPDX-License-Identifier: Apache-2.0 */
/* request.c - from a decoded request to its answer.
 *
 * Order, as Apache's: look-up, hooks, handler; no handler is code 3. A oneway request is handled like any other and its answer
 * is dropped. What stays true of tokens:
 *   1. The token of the stack is marked ZK_TOKEN_USED when it was answered or held, so that a handler that fails without
 *      having answered gets code 1 with its error as remark, exactly once.
 *   2. A held token is malloc'ed and owns a reference of its session; answer and drop free it.
 * Handlers marked ZR_HANDLER_WORKER get a copy of the whole request (one malloc) on a pool thread; how many may wait is
 * limited in number and bytes, beyond that the answer is code 2, as from Apache's full executor queues. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "remoting/internal.h"

#define CODE_SYSTEM_ERROR 1
#define CODE_SYSTEM_BUSY 2
#define CODE_NOT_SUPPORTED 3
#define OVERLOAD "[OVERLOAD]system busy, start flow control for a while"

/* ---- tokens -------------------------------------------------------------------------------------------------------- */
struct zr_token *zk_token_hold(struct zr_token *token)
{
    if (token->flags & ZK_TOKEN_HELD)
        return token;
    struct zr_token *held = malloc(sizeof *held);
    if (!held)
        return NULL;
    *held = *token;
    held->flags = (token->flags & ~ZK_TOKEN_USED) | ZK_TOKEN_HELD;
    zk_session_hold(held->session);
    token->flags |= ZK_TOKEN_USED;
    return held;
}

void zk_token_drop(struct zr_token *token)
{
    if (!(token->flags & ZK_TOKEN_HELD)) {
        token->flags |= ZK_TOKEN_USED;
        return;
    }
    struct zr_session *session = token->session;
    free(token);
    zk_session_release(session);
}

/* ---- answers ------------------------------------------------------------------------------------------------------- */
static zr_status answer_refused(const struct zr_command *response, zr_status status)
{
    if (response->done)
        response->done(response->done_ctx, status);
    return status;
}

/* The answer could not be made into a frame; the client is told so, rather than left waiting. */
static void answer_instead(struct zr_token *token, uint32_t type, zr_status status)
{
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    c.code = CODE_SYSTEM_ERROR;
    if (status == ZR_EFULL)
        c.remark = (struct zr_str)ZR_STR("the answer is larger than a frame may be");
    else
        c.remark = (struct zr_str)ZR_STR("the answer could not be encoded");
    zk_out_command(token->session, &c, type, ZL_FLAG_RESPONSE, token->opaque);
}

static zr_status answer_send(struct zr_token *token, const struct zr_command *response)
{
    uint32_t type = (token->flags & ZK_TOKEN_BINARY) ? ZL_TYPE_BINARY : ZL_TYPE_JSON;
    zr_status status = zk_out_command(token->session, response, type, ZL_FLAG_RESPONSE, token->opaque);
    if (status == ZR_OK)
        zk_metric_add(zk_rem.metrics.answers, 1);
    else if (status != ZR_ECLOSED)
        answer_instead(token, type, status);
    return status;
}

zr_status zk_answer(struct zr_token *token, const struct zr_command *response)
{
    struct zr_command room;
    const struct zr_command *full = zk_command_full(response, &room);
    zr_status status;
    if (!full) {
        zk_log(ZR_LOG_ERROR, "remoting: the answer to request code %d is a command without hdr.size", token->code);
        room = (struct zr_command){ ZR_HDR(struct zr_command, 0) };
        room.code = CODE_SYSTEM_ERROR;
        full = &room;
    }
    if (token->flags & ZK_TOKEN_USED)
        return answer_refused(full, ZR_EINTERNAL);
    if (token->flags & ZK_TOKEN_ONEWAY)
        status = answer_refused(full, ZR_OK);
    else
        status = answer_send(token, full);
    zk_token_drop(token);
    return status;
}

zr_status zk_answer_code(struct zr_token *token, int32_t code, const char *fmt, ...)
{
    char text[1024];
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    c.code = code;
    if (fmt) {
        va_list args;
        va_start(args, fmt);
        int n = vsnprintf(text, sizeof text, fmt, args);
        va_end(args);
        c.remark = (struct zr_str){ text, n < 0 ? 0 : (uint64_t)n < sizeof text ? (uint64_t)n : sizeof text - 1 };
    }
    return zk_answer(token, &c);
}

/* ---- handlers ------------------------------------------------------------------------------------------------------ */
static void handler_failed(struct zr_token *token, const struct zk_entry *e, zr_status status)
{
    const char *text = zk_err_text();
    if (text && *text)
        zk_answer_code(token, CODE_SYSTEM_ERROR, "%s", text);
    else
        zk_answer_code(token, CODE_SYSTEM_ERROR, "%s failed with status %d", e->handler.name, (int)status);
}

static void handler_call(const struct zk_entry *e, const struct zr_request *req)
{
    zk_err_clear();
    zr_status status = e->handler.handle(e->inst, req);
    if (status < 0 && !(req->token->flags & ZK_TOKEN_USED))
        handler_failed(req->token, e, status);
}

/* ---- the worker pool ----------------------------------------------------------------------------------------------- */
struct job {
    const struct zk_entry *entry;
    uint64_t bytes;
    struct zr_token token;
    struct zr_request req;
    struct zr_field fields[];
    /* then all text and the body */
};
static _Atomic uint32_t jobs_waiting;
static _Atomic uint64_t jobs_bytes;

static uint64_t job_size(const struct zr_request *req)
{
    uint64_t size = sizeof(struct job) + req->n_fields * sizeof(struct zr_field) + req->remark.len + req->body.len;
    for (uint32_t i = 0; i < req->n_fields; i++)
        size += req->fields[i].name.len + req->fields[i].value.len;
    return size;
}

static const void *job_put(char **at, const void *bytes, uint64_t len)
{
    char *to = *at;
    if (len)
        memcpy(to, bytes, len);
    *at += len;
    return to;
}

static void job_str(char **at, struct zr_str *to, struct zr_str from) { *to = (struct zr_str){ job_put(at, from.ptr, from.len), from.len }; }

static struct job *job_new(const struct zk_entry *e, const struct zr_request *req, uint64_t size)
{
    struct job *job = malloc(size);
    if (!job)
        return NULL;
    job->entry = e;
    job->bytes = size;
    job->token = *req->token;
    job->req = *req;
    job->req.token = &job->token;
    job->req.fields = job->fields;
    char *at = (char *)&job->fields[req->n_fields];
    for (uint32_t i = 0; i < req->n_fields; i++) {
        job_str(&at, &job->fields[i].name, req->fields[i].name);
        job_str(&at, &job->fields[i].value, req->fields[i].value);
    }
    job_str(&at, &job->req.remark, req->remark);
    job->req.body.ptr = job_put(&at, req->body.ptr, req->body.len);
    zk_session_hold(req->session);
    return job;
}

static void job_end(struct job *job)
{
    atomic_fetch_sub_explicit(&jobs_bytes, job->bytes, memory_order_relaxed);
    atomic_fetch_sub_explicit(&jobs_waiting, 1, memory_order_relaxed);
    zk_metric_add(zk_rem.metrics.worker_queued, -1);
    zk_session_release(job->req.session);
    free(job);
}

static void job_run(void *arg)
{
    struct job *job = arg;
    handler_call(job->entry, &job->req);
    job_end(job);
}

static uint32_t job_admit(uint64_t size)
{
    if (atomic_fetch_add_explicit(&jobs_waiting, 1, memory_order_relaxed) < zk_rem.limits.jobs) {
        if (atomic_fetch_add_explicit(&jobs_bytes, size, memory_order_relaxed) + size <= zk_rem.limits.job_bytes)
            return 1;
        atomic_fetch_sub_explicit(&jobs_bytes, size, memory_order_relaxed);
    }
    atomic_fetch_sub_explicit(&jobs_waiting, 1, memory_order_relaxed);
    return 0;
}

static void give_to_worker(const struct zk_entry *e, struct zr_request *req)
{
    uint64_t size = job_size(req);
    if (job_admit(size)) {
        zk_metric_add(zk_rem.metrics.worker_queued, 1);
        struct job *job = job_new(e, req, size);
        if (job && zk_work(job_run, job) == ZR_OK)
            return;
        if (job) {
            job_end(job);
        } else {
            atomic_fetch_sub_explicit(&jobs_bytes, size, memory_order_relaxed);
            atomic_fetch_sub_explicit(&jobs_waiting, 1, memory_order_relaxed);
            zk_metric_add(zk_rem.metrics.worker_queued, -1);
        }
    }
    zk_metric_add(zk_rem.metrics.overloaded, 1);
    zk_answer_code(req->token, CODE_SYSTEM_BUSY, OVERLOAD);
}

/* ---- dispatch ------------------------------------------------------------------------------------------------------ */
static void *event_scratch(void *ctx, uint64_t size) { return zk_arena_alloc(&((struct zk_lane *)ctx)->arena, size); }

/* Returns 1 when the handler is to be called. */
static uint32_t hooks_let_pass(struct zr_session *s, struct zr_request *req)
{
    struct zr_event event = { ZR_HDR(struct zr_event, 0) };
    struct zr_verdict verdict = { ZR_HDR(struct zr_verdict, 0) };
    event.request = req;
    event.session = s;
    event.scratch = event_scratch;
    event.scratch_ctx = s->lane;
    event.now_ms = zk_wall_ms();
    event.point = ZR_POINT_REQUEST;
    event.code = req->code;
    zk_hooks_run(ZR_POINT_REQUEST, &event, &verdict);
    if (verdict.what == ZR_VERDICT_CONTINUE)
        return 1;
    if (verdict.what == ZR_VERDICT_REJECT && !(req->token->flags & ZK_TOKEN_USED)) {
        struct zr_command c = { ZR_HDR(struct zr_command, 0) };
        c.code = verdict.code;
        c.remark = verdict.remark;
        zk_answer(req->token, &c);
    }
    return 0;
}

/* Codes that a plugin of ours serves; the answer to them says which one is missing. */
#define MAX_SERVED 40u
static const struct { const char *plugin; int32_t codes[MAX_SERVED]; /* 0-ended */ } served[] = {
    { "feature-admin", { 17, 18, 21, 25, 26, 28, 43, 200, 201, 202, 203, 204, 207, 208, 215, 222, 223, 225, 300, 303, 305, 306, 307, 308, 309, 314, 321,
                         328, 329, 343, 345, 351, 352, 353 } },
    { "feature-delay", { 45, 60, 61, 370 } },
    { "feature-ordered", { 41, 42 } },
    { "feature-query", { 12, 33 } },
    { "feature-reply", { 324, 325 } },
    { "feature-transaction", { 37, 323 } },
};

static const char *plugin_of(int32_t code)
{
    for (uint32_t i = 0; i < sizeof served / sizeof *served; i++)
        for (uint32_t k = 0; served[i].codes[k]; k++)
            if (served[i].codes[k] == code)
                return served[i].plugin;
    return NULL;
}

static void unknown_answer(const struct zr_session *s, struct zr_token *token, int32_t code)
{
    const char *plugin = s->serves & (ZR_SERVES_BROKER | ZR_SERVES_FAST) ? plugin_of(code) : NULL;
    if (plugin) {
        zk_answer_code(token, CODE_NOT_SUPPORTED, " request type %d not supported: it needs the plugin %s, which is not loaded", code, plugin);
        return;
    }
    zk_answer_code(token, CODE_NOT_SUPPORTED, " request type %d not supported", code);
}

static void note_sender(struct zr_session *s, const struct zr_request *req)
{
    if (atomic_load_explicit(&s->version, memory_order_relaxed) != req->version)
        atomic_store_explicit(&s->version, req->version, memory_order_relaxed);
    if (atomic_load_explicit(&s->language, memory_order_relaxed) != req->language)
        atomic_store_explicit(&s->language, req->language, memory_order_relaxed);
}

void zk_dispatch(struct zr_session *s, struct zr_request *req)
{
    const struct zk_entry *e = zk_codes_find(s->table, req->code);
    struct zr_token token = { s, req->opaque, req->code, 0, 0, req->arrived_ns };
    token.flags = ((req->flags & ZR_REQUEST_ONEWAY) ? ZK_TOKEN_ONEWAY : 0) | ((req->flags & ZR_REQUEST_JSON) ? 0 : ZK_TOKEN_BINARY);
    req->token = &token;
    note_sender(s, req);
    zk_lane_state(s->lane)->n_requests++;
    if (e) {
        req->serves = e->handler.serves & s->serves;
        req->flags |= (e->handler.flags & ZR_HANDLER_GUARDED) ? ZR_REQUEST_GUARDED : 0;
    }
    if (zk_hooks_at(ZR_POINT_REQUEST) && !hooks_let_pass(s, req))
        return;
    if (!e) {
        zk_metric_add(zk_rem.metrics.unknown, 1);
        unknown_answer(s, &token, req->code);
    } else if (e->handler.flags & ZR_HANDLER_WORKER) {
        give_to_worker(e, req);
    } else {
        handler_call(e, req);
    }
}
