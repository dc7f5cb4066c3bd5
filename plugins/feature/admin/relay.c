/* SPDX-License-Identifier: Apache-2.0 */
/* relay.c - requests that the broker passes on to a connected consumer, and whose answer it passes back: 307, 309. */
#include <stdlib.h>
#include <string.h>

#include "admin.h"

#define RELAY_TIMEOUT_NS (10LL * 1000000000)
#define OLDEST_VERSION 62 /* V3_1_8_SNAPSHOT */

struct relay {
    struct zr_inst *inst;
    struct zr_token *token;
    struct zr_session *session;
    char group[256], client[512];
};

static void relay_end(struct relay *r)
{
    r->inst->reply->session_release(r->inst->host, r->session);
    free(r);
}

static void on_answer(void *ctx, zr_status status, const struct zr_request *response)
{
    struct relay *r = ctx;
    struct zl_buf remark;
    zl_buf_init(&remark, 2048);
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0) };
    if (status == ZR_OK) {
        answer.code = response->code;
        answer.fields = response->fields;
        answer.n_fields = response->n_fields;
        answer.remark = response->remark;
        answer.body = response->body;
    } else {
        answer.code = status == ZR_ETIMEOUT ? CODE_CONSUME_MSG_TIMEOUT : CODE_SYSTEM_ERROR;
        zl_buf_fmt(&remark, status == ZR_ETIMEOUT ? "consumer <%s> <%s> Timeout: no answer within 10 s" : "invoke consumer <%s> <%s> Exception: the connection ended", r->group, r->client);
        answer.remark = zl_buf_as_str(&remark);
    }
    r->inst->reply->answer(r->inst->host, r->token, &answer);
    zl_buf_free(&remark);
    relay_end(r);
}

static void copy_text(char *to, size_t cap, struct zr_str s)
{
    size_t n = s.len < cap ? s.len : cap - 1;
    if (n) memcpy(to, s.ptr, n);
    to[n] = 0;
}

/* Sends the command to the named client of the group; answers the refusals itself. */
static zr_status relay_to(struct zr_inst *inst, const struct zr_request *req, struct zr_str group, struct zr_str client, const struct zr_command *command)
{
    struct zr_session *session = inst->broker->client(inst->host, group, client, 0);
    if (!session) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "The Consumer <%.*s> <%.*s> not online", (int)group.len, group.ptr, (int)client.len, client.ptr);
    struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
    inst->reply->session_info(inst->host, session, &info);
    if (info.version >= 0 && info.version < OLDEST_VERSION) {
        inst->reply->session_release(inst->host, session);
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "The Consumer <%.*s> Version <%d> too low to finish, please upgrade it to V3_1_8_SNAPSHOT", (int)client.len, client.ptr, info.version);
    }
    struct relay *r = calloc(1, sizeof *r);
    struct zr_token *token = r ? inst->reply->hold(inst->host, req->token) : NULL;
    if (!token) {
        free(r);
        inst->reply->session_release(inst->host, session);
        return ZR_ENOMEM;
    }
    r->inst = inst;
    r->token = token;
    r->session = session;
    copy_text(r->group, sizeof r->group, group);
    copy_text(r->client, sizeof r->client, client);
    zr_status status = inst->reply->ask(inst->host, session, command, RELAY_TIMEOUT_NS, on_answer, r);
    if (status != ZR_OK) on_answer(r, status, NULL);
    return ZR_OK;
}

static zr_status handle_running_info(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = 307, .fields = req->fields, .n_fields = req->n_fields };
    return relay_to(inst, req, admin_ext(req, "consumerGroup"), admin_ext(req, "clientId"), &command);
}

static void take_flag(void *ctx, const struct zr_group *g) { *(int32_t *)ctx = g->sys_flag; }

/* The client is told the flags of topic and group, where they are known. */
static uint32_t add_flags(struct zr_inst *inst, const struct zr_request *req, struct zr_field *to, uint32_t room, char text[2][24])
{
    struct admin_topic t;
    int32_t flag = 0;
    uint32_t n = 0;
    if (n < room && admin_topic(inst, admin_ext(req, "topic"), &t)) {
        to[n] = (struct zr_field){ zl_str("topicSysFlag"), { text[0], zl_print_i64(text[0], t.sys_flag) } };
        n++;
    }
    if (n < room && inst->broker->group(inst->host, admin_ext(req, "consumerGroup"), 0, take_flag, &flag) == ZR_OK) {
        to[n] = (struct zr_field){ zl_str("groupSysFlag"), { text[1], zl_print_i64(text[1], flag) } };
        n++;
    }
    return n;
}

/* The request names the message by its offset id; the client gets the stored record as body. */
static zr_status handle_consume_directly(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str id = admin_ext(req, "msgId");
    struct zr_addr host;
    int64_t physical = 0;
    struct zr_inst *si;
    const struct zr_storage_v1 *s = admin_storage(inst, &si);
    struct zr_piece piece;
    uint64_t pin = 0;
    if (!s || zl_offset_id_parse(id, &host, &physical) != ZR_OK || s->record_at(si, physical, &piece, &pin) != ZR_OK)
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "no message of this broker has the id %.*s", (int)(id.len > 100 ? 100 : id.len), id.ptr ? id.ptr : "");
    uint8_t *record = piece.ptr ? malloc(piece.len) : NULL;
    if (record) memcpy(record, piece.ptr, piece.len);
    s->unpin(si, pin);
    if (!record) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "the message could not be read");
    struct zr_field fields[ZL_MAX_FIELDS];
    char flags[2][24];
    uint32_t n = 0;
    for (uint32_t i = 0; i < req->n_fields && n < ZL_MAX_FIELDS - 1; i++)
        if (!zl_is(req->fields[i].name, "brokerName") && !zl_is(req->fields[i].name, "topicSysFlag") && !zl_is(req->fields[i].name, "groupSysFlag"))
            fields[n++] = req->fields[i];
    fields[n++] = (struct zr_field){ zl_str("brokerName"), admin_brokers_name(inst) };
    n += add_flags(inst, req, fields + n, ZL_MAX_FIELDS - n, flags);
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = 309, .fields = fields, .n_fields = n, .body = { record, piece.len } };
    zr_status status = relay_to(inst, req, admin_ext(req, "consumerGroup"), admin_ext(req, "clientId"), &command);
    free(record);
    return status;
}

const struct zr_handler admin_relay_handlers[] = {
    ADMIN_HANDLER(307, "GET_CONSUMER_RUNNING_INFO", 0, handle_running_info),
    ADMIN_HANDLER(309, "CONSUME_MESSAGE_DIRECTLY", 0, handle_consume_directly),
};
const uint32_t admin_n_relay_handlers = sizeof admin_relay_handlers / sizeof *admin_relay_handlers;
