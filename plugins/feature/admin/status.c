/* SPDX-License-Identifier: Apache-2.0 */
/* status.c - how far the clients of a group themselves say they are: 223, by asking each of them (221).
 *
 * What stays true: the request is answered once, by whoever is the last to be done with it, whatever the clients answer; a client
 * that fails, is slow (5 s) or answers what cannot be read is left out, as Apache leaves it out.
 *
 * LOCKING. status.lock is a leaf and guards the answer that grows; nothing of the host is called with it. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "admin.h"

#define GET_CONSUMER_STATUS_FROM_CLIENT 221
#define ASK_TIMEOUT_NS (5LL * 1000000000)
#define OLDEST_VERSION 28 /* V3_0_7_SNAPSHOT */
#define MAX_ASKED 4096u

struct status {
    struct zr_inst *inst;
    struct zr_token *token;
    _Atomic uint32_t open; /* asks without an answer, and the handler itself */
    uint32_t reserved;
    pthread_mutex_t lock;
    struct zl_buf out;
    struct zl_jw w;
};
struct asked { struct status *status; struct zr_session *session; char id[]; };

static void status_end(struct status *s)
{
    if (atomic_fetch_sub(&s->open, 1) != 1) return;
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = CODE_OK };
    zl_jw_end(&s->w, '}');
    zl_jw_key(&s->w, zl_str("messageQueueTable"));
    zl_jw_raw(&s->w, zl_str("{}"));
    zl_jw_end(&s->w, '}');
    if (s->out.failed) {
        answer.code = CODE_SYSTEM_ERROR;
        answer.remark = zl_str("the answer would be too large, or memory ran out");
    } else {
        answer.body = zl_buf_as_span(&s->out);
    }
    s->inst->reply->answer(s->inst->host, s->token, &answer);
    zl_buf_free(&s->out);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

/* The client's table, {{"brokerName":..}:offset}, under its id. */
static void table_add(struct status *s, const char *id, const struct zl_json *table)
{
    pthread_mutex_lock(&s->lock);
    zl_jw_key(&s->w, zl_str(id));
    zl_jw_begin(&s->w, '{');
    for (const struct zl_json *q = table->child; q; q = q->next) {
        if (!q->key_obj) continue;
        print_queue_key(&s->w, zl_json_get_str(q->key_obj, "brokerName"), zl_json_get_str(q->key_obj, "topic"), (int32_t)zl_json_get_i64(q->key_obj, "queueId", 0));
        zl_jw_i64(&s->w, zl_json_i64(q, -1));
    }
    zl_jw_end(&s->w, '}');
    pthread_mutex_unlock(&s->lock);
}

static void on_answer(void *ctx, zr_status status, const struct zr_request *response)
{
    struct asked *a = ctx;
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at;
    if (status == ZR_OK && response->code == CODE_OK &&
        zl_json_parse((struct zr_str){ (const char *)response->body.ptr, response->body.len }, &doc, &root, &at) == ZR_OK) {
        const struct zl_json *table = zl_json_get(root, "messageQueueTable");
        if (table && table->kind == ZL_JSON_OBJECT) table_add(a->status, a->id, table);
        zl_json_free(doc);
    }
    a->status->inst->reply->session_release(a->status->inst->host, a->session);
    status_end(a->status);
    free(a);
}

/* ---- whom to ask ---- */

struct found { struct zr_inst *inst; struct zr_str only; struct asked **list; uint32_t n, cap; int32_t too_old; uint32_t any; };

static void take_clients(void *ctx, const struct zr_consumers *consumers)
{
    struct found *f = ctx;
    const char *at = (const char *)consumers->clients;
    f->cap = consumers->n_clients < MAX_ASKED ? consumers->n_clients : MAX_ASKED;
    f->list = calloc(f->cap + 1u, sizeof(struct asked *));
    f->any = consumers->n_clients != 0;
    for (uint32_t i = 0; f->list && i < consumers->n_clients && f->n < f->cap; i++, at += consumers->clients->hdr.size) {
        const struct zr_client *c = (const struct zr_client *)(const void *)at;
        if (c->version < OLDEST_VERSION) f->too_old = c->version;
        if (f->only.len && !zl_eq(f->only, c->client_id)) continue;
        struct asked *a = calloc(1, sizeof *a + c->client_id.len + 1);
        if (!a) continue;
        if (c->client_id.len) memcpy(a->id, c->client_id.ptr, c->client_id.len);
        a->session = f->inst->reply->session_hold(f->inst->host, c->session);
        f->list[f->n++] = a;
    }
}

static void found_free(struct found *f)
{
    for (uint32_t i = 0; i < f->n; i++) {
        f->inst->reply->session_release(f->inst->host, f->list[i]->session);
        free(f->list[i]);
    }
    free(f->list);
}

static struct status *status_new(struct zr_inst *inst, const struct zr_request *req)
{
    struct status *s = calloc(1, sizeof *s);
    if (!s) return NULL;
    s->inst = inst;
    s->token = inst->reply->hold(inst->host, req->token);
    if (!s->token) {
        free(s);
        return NULL;
    }
    atomic_init(&s->open, 1);
    pthread_mutex_init(&s->lock, NULL);
    zl_buf_init(&s->out, ADMIN_MAX_BODY);
    zl_jw_init(&s->w, &s->out, 0);
    zl_jw_begin(&s->w, '{');
    zl_jw_key(&s->w, zl_str("consumerTable"));
    zl_jw_begin(&s->w, '{');
    return s;
}

static void ask_all(struct status *s, struct found *f, struct zr_str topic, struct zr_str group)
{
    struct zl_fields fields = { .n = 0 };
    zl_fields_str(&fields, "topic", topic);
    zl_fields_str(&fields, "group", group);
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = GET_CONSUMER_STATUS_FROM_CLIENT, .fields = fields.f, .n_fields = fields.n };
    for (uint32_t i = 0; i < f->n; i++) {
        f->list[i]->status = s;
        atomic_fetch_add(&s->open, 1);
        zr_status status = s->inst->reply->ask(s->inst->host, f->list[i]->session, &command, ASK_TIMEOUT_NS, on_answer, f->list[i]);
        if (status != ZR_OK) on_answer(f->list[i], status, NULL);
    }
    f->n = 0; /* each is its callback's now */
}

static zr_status handle_status(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str group = admin_ext(req, "group");
    struct found f = { .inst = inst, .only = admin_ext(req, "clientAddr"), .too_old = -1 };
    inst->broker->consumers(inst->host, group, take_clients, &f);
    struct status *s = NULL;
    zr_status status = ZR_OK;
    if (!f.any)
        status = admin_refuse(inst, req, CODE_SYSTEM_ERROR, "No Any Consumer online in the consumer group: [%.*s]", (int)group.len, group.ptr ? group.ptr : "");
    else if (f.too_old >= 0)
        status = admin_refuse(inst, req, CODE_SYSTEM_ERROR, "the client does not support this feature. version=%d", f.too_old);
    else if (!(s = status_new(inst, req)))
        status = ZR_ENOMEM;
    if (s) {
        ask_all(s, &f, admin_ext(req, "topic"), group);
        status_end(s);
    }
    found_free(&f);
    return status;
}

const struct zr_handler admin_status_handlers[] = {
    ADMIN_HANDLER(223, "INVOKE_BROKER_TO_GET_CONSUMER_STATUS", 0, handle_status),
};
const uint32_t admin_n_status_handlers = sizeof admin_status_handlers / sizeof *admin_status_handlers;
