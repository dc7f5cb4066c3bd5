/* SPDX-License-Identifier: Apache-2.0 */
/* resume.c - RESUME_CHECK_HALF_MESSAGE (323): an operator has the producer of a discarded half message asked again. Its record, by
 * its message id, is written to the half topic with no check counted, and lives like any other half message from there. */
#include <stdlib.h>

#include "transaction.h"
#include "zl/codec.h"
#include "zl/text.h"

#define FAILED "Put message back to " HALF_TOPIC " failed."
#define WRONG "Exception was thrown when putting message back to " HALF_TOPIC "."

struct resume { struct zr_inst *inst; struct zr_token *token; };

static void answer(struct zr_inst *inst, struct zr_token *token, int32_t code, const char *why)
{
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0), .code = code, .remark = zl_str(why) };
    inst->reply->answer(inst->host, token, &c);
}

static void resumed(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct resume *r = ctx;
    struct zr_inst *inst = r->inst;
    (void)status;
    uint32_t good = puts && n == 1 && puts->status == ZR_OK;
    answer(inst, r->token, good ? CODE_SUCCESS : CODE_SYSTEM_ERROR, good ? NULL : FAILED);
    free(r);
    running_end(inst);
}

/* Takes the token. */
static void resume_store(struct zr_inst *inst, struct zr_token *token, const struct zl_record *r)
{
    static const char *const ours[] = { "TRANSACTION_CHECK_TIMES", "TRAN_PREPARED_QUEUE_OFFSET", NULL };
    struct resume *ctx = malloc(sizeof *ctx);
    struct zl_buf props;
    zl_buf_init(&props, ZL_MAX_PROPERTIES);
    zl_props_copy(&props, r->properties, ours);
    zl_props_add(&props, zl_str("TRANSACTION_CHECK_TIMES"), zl_str("0"));
    struct zr_msg msg = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = ZR_STR(HALF_TOPIC), .body = r->body, .properties = zl_buf_as_span(&props),
                          .tags_code = zl_tags_code(zl_props_get(r->properties, "TAGS")), .born_ms = r->born_ms, .born_host = r->born_host,
                          .flag = r->flag, .sys_flag = r->sys_flag & ~ZR_SYSFLAG_TRANSACTION_MASK, .reconsume_times = r->reconsume_times, .flags = ZR_MSG_OWN, .inner_num = 1 };
    if (ctx && !props.failed && running_begin(inst)) {
        *ctx = (struct resume){ inst, token };
        inst->store->publish(inst->host, &msg, 1, ZR_PUBLISH_NO_HOOKS, resumed, ctx);
    } else {
        answer(inst, token, CODE_SYSTEM_ERROR, FAILED);
        free(ctx);
    }
    zl_buf_free(&props);
}

zr_status resume_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str id = zl_field(req->fields, req->n_fields, "msgId");
    struct zr_addr host;
    struct zr_piece piece;
    struct zl_record r;
    struct half h;
    const char *why;
    int64_t physical;
    uint64_t pin = 0;
    struct zr_token *token = inst->reply->hold(inst->host, req->token);
    if (!token) return ZR_ENOMEM;
    if (!inst->master || zl_offset_id_parse(id, &host, &physical) != ZR_OK || inst->storage->record_at(inst->storage_inst, physical, &piece, &pin) != ZR_OK) {
        answer(inst, token, CODE_SYSTEM_ERROR, WRONG);
        return ZR_OK;
    }
    if (piece.ptr && zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK) half_read(r.properties, &h);
    else h = (struct half){ .group = { NULL, 0 } };
    if (h.group.len && h.topic.len && h.queue.len) resume_store(inst, token, &r);
    else answer(inst, token, CODE_SYSTEM_ERROR, "this is no half message: it has no PGROUP, REAL_TOPIC and REAL_QID");
    if (pin) inst->storage->unpin(inst->storage_inst, pin);
    return ZR_OK;
}
