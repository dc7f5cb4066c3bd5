/* SPDX-License-Identifier: Apache-2.0 */
/* query.c - feature-query: look up messages by key (QUERY_MESSAGE 12) and by message id (VIEW_MESSAGE_BY_ID 33).
 *
 * Both read the disk and so run on the worker pool. Answers carry records as stored, in pieces that stay pinned in the
 * storage until the transport wrote them. Facts: RocketMQ's QueryMessageProcessor; a look-up by key is by hash, so clients
 * compare the key text themselves. */
#include <stdlib.h>
#include <string.h>

#include "zarya/plugin.h"
#include "zarya/reply.h"
#include "zarya/store.h"
#include "zl/codec.h"
#include "zl/text.h"

#define QUERY_MESSAGE 12
#define VIEW_MESSAGE_BY_ID 33
#define CODE_SYSTEM_ERROR 1
#define CODE_QUERY_NOT_FOUND 22
#define MAX_RESULTS 64u        /* Apache's maxMsgsNumBatch */
#define UNIQUE_KEY_RESULTS 32u /* Apache's defaultQueryMaxNum */
#define NOT_FOUND "can not find message, maybe time range not correct"
#define MAX_BYTES (15u * 1024 * 1024) /* of all records: a frame holds 16 MiB */

ZR_MANIFEST("id = feature-query\nversion = 1.0.0\nabi = 1.0\nprovides = zarya.requests/1\nrequires = zarya.storage/1\n");

struct zr_inst {
    const struct zr_host *host;
    const struct zr_reply_v1 *reply;
    const struct zr_store_v1 *store;
};

/* Records on their way to a client; freed when the transport is done with them. */
struct found {
    const struct zr_storage_v1 *storage;
    struct zr_inst *storage_inst;
    struct zr_piece pieces[MAX_RESULTS];
    uint64_t pins[MAX_RESULTS];
    uint32_t n;
};

static void found_done(void *ctx, zr_status status)
{
    struct found *f = ctx;
    (void)status;
    for (uint32_t i = 0; i < f->n; i++) f->storage->unpin(f->storage_inst, f->pins[i]);
    free(f);
}

static struct found *found_new(struct zr_inst *inst)
{
    struct found *f = calloc(1, sizeof *f);
    if (!f) return NULL;
    f->storage = inst->store->storage(inst->host, &f->storage_inst);
    if (!f->storage) {
        free(f);
        return NULL;
    }
    return f;
}

static zr_status refuse(struct zr_inst *inst, const struct zr_request *req, int32_t code, const char *why)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = code, .remark = zl_str(why) };
    return inst->reply->answer(inst->host, req->token, &answer);
}

static zr_status answer_found(struct zr_inst *inst, const struct zr_request *req, struct found *f, const struct zl_fields *fields)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = 0, .pieces = f->pieces, .n_pieces = f->n,
                                 .done = found_done, .done_ctx = f };
    if (fields) {
        answer.fields = fields->f;
        answer.n_fields = fields->n;
    }
    return inst->reply->answer(inst->host, req->token, &answer);
}

static zr_status handle_view(struct zr_inst *inst, const struct zr_request *req)
{
    int64_t offset;
    if (zl_field_i64(req->fields, req->n_fields, "offset", &offset) != ZR_OK) return refuse(inst, req, CODE_SYSTEM_ERROR, "ext field offset is required and must be a number");
    struct found *f = found_new(inst);
    if (!f) return refuse(inst, req, CODE_SYSTEM_ERROR, "no storage is bound, or memory ran out");
    if (f->storage->record_at(f->storage_inst, offset, &f->pieces[0], &f->pins[0]) == ZR_OK) {
        f->n = 1;
        return answer_found(inst, req, f, NULL);
    }
    free(f);
    char why[80] = "can not find message by the offset, ";
    why[strlen(why) + zl_print_i64(why + strlen(why), offset)] = 0;
    return refuse(inst, req, CODE_SYSTEM_ERROR, why);
}

static int by_position(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Pins the records at the positions, oldest first; those that are gone meanwhile are left out. */
static void found_fill(struct found *f, int64_t *positions, uint32_t n)
{
    uint64_t bytes = 0;
    qsort(positions, n, sizeof *positions, by_position);
    for (uint32_t i = 0; i < n; i++) {
        if (f->storage->record_at(f->storage_inst, positions[i], &f->pieces[f->n], &f->pins[f->n]) != ZR_OK) continue;
        bytes += f->pieces[f->n].len;
        f->n++;
        if (bytes > MAX_BYTES) { /* the last one does not fit any more */
            f->n--;
            f->storage->unpin(f->storage_inst, f->pins[f->n]);
            break;
        }
    }
}

static zr_status handle_query(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str topic = zl_field(req->fields, req->n_fields, "topic"), key = zl_field(req->fields, req->n_fields, "key");
    struct zr_str type = zl_field(req->fields, req->n_fields, "indexType");
    uint32_t unique = zl_field_bool(req->fields, req->n_fields, "_UNIQUE_KEY_QUERY", 0);
    uint32_t kind = unique || zl_is(type, "U") ? ZR_KEY_UNIQUE : (zl_is(type, "T") ? ZR_KEY_TAG : ZR_KEY_PLAIN);
    int64_t begin, end, max, positions[MAX_RESULTS];
    if (zl_field_i64(req->fields, req->n_fields, "maxNum", &max) != ZR_OK ||
        zl_field_i64(req->fields, req->n_fields, "beginTimestamp", &begin) != ZR_OK ||
        zl_field_i64(req->fields, req->n_fields, "endTimestamp", &end) != ZR_OK)
        return refuse(inst, req, CODE_SYSTEM_ERROR, "ext fields maxNum, beginTimestamp and endTimestamp are required and must be numbers");
    if (unique) max = UNIQUE_KEY_RESULTS;
    if (max < 0) return refuse(inst, req, CODE_SYSTEM_ERROR, "maxNum is negative");
    if (max > MAX_RESULTS) max = MAX_RESULTS;
    if (max == 0 || topic.len == 0 || key.len == 0) return refuse(inst, req, CODE_QUERY_NOT_FOUND, NOT_FOUND);
    struct found *f = found_new(inst);
    if (!f) return refuse(inst, req, CODE_SYSTEM_ERROR, "no storage is bound, or memory ran out");
    int32_t n = f->storage->find_key(f->storage_inst, topic, key, kind, begin, end, positions, (uint32_t)max);
    if (n == ZR_ENOTSUP) {
        free(f);
        return refuse(inst, req, CODE_SYSTEM_ERROR, "this storage keeps no index (its option index is off)");
    }
    if (n > 0) found_fill(f, positions, (uint32_t)n);
    if (f->n == 0) {
        free(f);
        return refuse(inst, req, CODE_QUERY_NOT_FOUND, NOT_FOUND);
    }
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    f->storage->info(f->storage_inst, &info);
    struct zl_fields fields = { .n = 0 };
    zl_fields_i64(&fields, "indexLastUpdateTimestamp", end == INT64_MAX ? 0 : end);
    zl_fields_i64(&fields, "indexLastUpdatePhyoffset", info.positions.dispatched);
    return answer_found(inst, req, f, &fields);
}

static zr_status create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    (void)settings;
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst) return ZR_ENOMEM;
    inst->host = host;
    inst->reply = host->query(host, ZR_SVC_REPLY);
    inst->store = host->query(host, ZR_SVC_STORE);
    if (!inst->reply || !inst->store) {
        free(inst);
        return ZR_ENOTSUP;
    }
    *ret = inst;
    return ZR_OK;
}

static void destroy(struct zr_inst *inst) { free(inst); }

#define SERVES (ZR_SERVES_BROKER | ZR_SERVES_FAST)
static const struct zr_handler handlers[] = {
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = QUERY_MESSAGE, .serves = SERVES, .flags = ZR_HANDLER_WORKER, .name = "QUERY_MESSAGE", .handle = handle_query },
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = VIEW_MESSAGE_BY_ID, .serves = SERVES, .flags = ZR_HANDLER_WORKER, .name = "VIEW_MESSAGE_BY_ID", .handle = handle_view },
};
static const struct zr_requests_v1 requests = { .hdr = ZR_HDR(struct zr_requests_v1, 0), .handlers = handlers, .n_handlers = 2 };

static const void *query(struct zr_inst *inst, const char *id)
{
    (void)inst;
    return strcmp(id, ZR_IF_REQUESTS) == 0 ? &requests : NULL;
}

static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0), .id = "feature-query", .version = "1.0.0", .summary = "Messages by key and by message id.",
    .swap = ZR_SWAP_CHAIN, .create = create, .destroy = destroy, .query = query,
};

const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
