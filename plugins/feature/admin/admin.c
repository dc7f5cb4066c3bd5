/* SPDX-License-Identifier: Apache-2.0 */
/* admin.c - feature-admin: the admin requests of RocketMQ's tools (mqadmin, dashboard, exporter).
 *
 * All handlers run on the worker pool; they reach topics, groups, offsets and clients through zarya.broker/1 and queues
 * through zarya.store/1, as any plugin can. The handlers stand in one file for each subject; this file puts their tables
 * together and holds the descriptor. */
#include "admin.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

ZR_MANIFEST("id = feature-admin\nversion = 1.0.0\nabi = 1.0\nprovides = zarya.requests/1\nrequires = zarya.storage/1\n");

zr_status admin_refuse(struct zr_inst *inst, const struct zr_request *req, int32_t code, const char *fmt, ...)
{
    char remark[1024];
    va_list args;
    va_start(args, fmt);
    vsnprintf(remark, sizeof remark, fmt, args);
    va_end(args);
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = code, .remark = zl_str(remark) };
    return inst->reply->answer(inst->host, req->token, &answer);
}

zr_status admin_ok(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = CODE_OK };
    return inst->reply->answer(inst->host, req->token, &answer);
}

struct durable { struct zr_inst *inst; struct zr_token *token; struct zl_buf body; };

static void on_durable(void *ctx, zr_status status)
{
    struct durable *d = ctx;
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = CODE_OK, .body = zl_buf_as_span(&d->body) };
    if (status != ZR_OK) {
        answer.code = CODE_SYSTEM_ERROR;
        answer.body = (struct zr_span){ NULL, 0 };
        answer.remark = zl_str(ADMIN_NOT_KEPT);
    }
    d->inst->reply->answer(d->inst->host, d->token, &answer);
    zl_buf_free(&d->body);
    free(d);
}

zr_status admin_body_durable(struct zr_inst *inst, const struct zr_request *req, struct zl_buf *body, uint32_t document)
{
    if (body->failed || !ZR_HAS(struct zr_broker_v1, inst->broker, when_durable)) return admin_body(inst, req, body, NULL);
    struct durable *d = malloc(sizeof *d);
    if (!d || !(d->token = inst->reply->hold(inst->host, req->token))) {
        zl_buf_free(body);
        free(d);
        return ZR_ENOMEM;
    }
    d->inst = inst;
    d->body = *body;
    inst->broker->when_durable(inst->host, document, on_durable, d);
    return ZR_OK;
}

zr_status admin_ok_durable(struct zr_inst *inst, const struct zr_request *req, uint32_t document)
{
    struct zl_buf none;
    zl_buf_init(&none, 1);
    return admin_body_durable(inst, req, &none, document);
}

zr_status admin_body(struct zr_inst *inst, const struct zr_request *req, struct zl_buf *body, const struct zl_fields *fields)
{
    zr_status status;
    if (body->failed) {
        status = admin_refuse(inst, req, CODE_SYSTEM_ERROR, "the answer would be larger than %u bytes, or memory ran out", ADMIN_MAX_BODY);
    } else {
        struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = CODE_OK, .body = zl_buf_as_span(body) };
        if (fields) {
            answer.fields = fields->f;
            answer.n_fields = fields->n;
        }
        status = inst->reply->answer(inst->host, req->token, &answer);
    }
    zl_buf_free(body);
    return status;
}

struct zr_str admin_ext(const struct zr_request *req, const char *name) { return zl_field(req->fields, req->n_fields, name); }

int64_t admin_ext_i64(const struct zr_request *req, const char *name, int64_t dflt)
{
    int64_t v;
    return zl_field_i64(req->fields, req->n_fields, name, &v) == ZR_OK ? v : dflt;
}

uint32_t admin_ext_bool(const struct zr_request *req, const char *name, uint32_t dflt) { return zl_field_bool(req->fields, req->n_fields, name, dflt); }

struct zr_str admin_brokers_name(struct zr_inst *inst)
{
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    inst->broker->identity(inst->host, &id);
    return id.name;
}

const struct zr_storage_v1 *admin_storage(struct zr_inst *inst, struct zr_inst **ret)
{
    *ret = NULL;
    return inst->store->storage(inst->host, ret);
}

static void take_topic(void *ctx, const struct zr_topic *t)
{
    *(struct admin_topic *)ctx = (struct admin_topic){ t->read_queues, t->write_queues, t->perm, t->sys_flag, t->order, t->system };
}

uint32_t admin_topic(struct zr_inst *inst, struct zr_str name, struct admin_topic *ret)
{
    return inst->broker->topic(inst->host, name, take_topic, ret) == ZR_OK;
}

static zr_status create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    (void)settings;
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst) return ZR_ENOMEM;
    inst->host = host;
    inst->reply = host->query(host, ZR_SVC_REPLY);
    inst->broker = host->query(host, ZR_SVC_BROKER);
    inst->store = host->query(host, ZR_SVC_STORE);
    inst->timer = host->query(host, ZR_SVC_TIMER);
    inst->metrics = host->query(host, ZR_SVC_METRICS);
    if (!inst->reply || !inst->broker || !inst->store || !inst->timer) {
        free(inst);
        return ZR_ENOTSUP;
    }
    pthread_mutex_init(&inst->timed_lock, NULL);
    *ret = inst;
    return ZR_OK;
}

static void destroy(struct zr_inst *inst)
{
    pthread_mutex_destroy(&inst->timed_lock);
    free(inst);
}

/* The tables of all files in one; filled once, on the first query. */
static struct zr_handler all_handlers[64];
static struct zr_requests_v1 requests = { .hdr = ZR_HDR(struct zr_requests_v1, 0), .handlers = all_handlers };

static void add_handlers(const struct zr_handler *handlers, uint32_t n)
{
    for (uint32_t i = 0; i < n && requests.n_handlers < sizeof all_handlers / sizeof *all_handlers; i++)
        all_handlers[requests.n_handlers++] = handlers[i];
}

static const void *query(struct zr_inst *inst, const char *id)
{
    (void)inst;
    if (strcmp(id, ZR_IF_REQUESTS) != 0) return NULL;
    if (requests.n_handlers == 0) {
        add_handlers(admin_topic_handlers, admin_n_topic_handlers);
        add_handlers(admin_group_handlers, admin_n_group_handlers);
        add_handlers(admin_stats_handlers, admin_n_stats_handlers);
        add_handlers(admin_runtime_handlers, admin_n_runtime_handlers);
        add_handlers(admin_relay_handlers, admin_n_relay_handlers);
        add_handlers(admin_offset_handlers, admin_n_offset_handlers);
        add_handlers(admin_status_handlers, admin_n_status_handlers);
    }
    return &requests;
}

static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0), .id = "feature-admin", .version = "1.0.0", .summary = "Admin requests of RocketMQ's tools.",
    .swap = ZR_SWAP_CHAIN, .create = create, .destroy = destroy, .query = query,
};

const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
