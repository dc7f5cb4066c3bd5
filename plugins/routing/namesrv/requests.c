/* SPDX-License-Identifier: Apache-2.0 */
/* requests.c - the name server's request codes: reads the fields, calls tables, routes, KV or settings, answers. Facts:
 * spec/remoting.md 3.1. Requests that may write a document, decode a registration or print every topic run on the worker pool. */
#include <stdio.h>
#include <stdlib.h>
#include "namesrv.h"
#include "zl/codec.h"

#define VERSION_STANDARD_JSON 401 /* V4_9_4: from here on a route is asked for in the standard form */

/* ---- answers ---------------------------------------------------------------------------------------------------------- */

static zr_status answer(struct zr_inst *inst, const struct zr_request *req, int32_t code, struct zr_str remark, struct zr_span body)
{
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0), .code = code, .remark = remark, .body = body };
    return inst->reply->answer(inst->host, req->token, &c);
}

static zr_status answer_code(struct zr_inst *inst, const struct zr_request *req, int32_t code, const char *remark)
{
    return answer(inst, req, code, zl_str(remark), (struct zr_span){ NULL, 0 });
}

static zr_status answer_ok(struct zr_inst *inst, const struct zr_request *req) { return answer_code(inst, req, NS_CODE_OK, NULL); }

/* Sends the buffer as body and frees it. */
static zr_status answer_buf(struct zr_inst *inst, const struct zr_request *req, struct zl_buf *buf)
{
    zr_status status = buf->failed ? answer_code(inst, req, NS_CODE_ERROR, "the answer is too big, or memory ran out")
                                   : answer(inst, req, NS_CODE_OK, (struct zr_str){ NULL, 0 }, zl_buf_as_span(buf));
    zl_buf_free(buf);
    return status;
}

static zr_status answer_fields(struct zr_inst *inst, const struct zr_request *req, const struct zl_fields *fields, struct zr_span body)
{
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0), .code = NS_CODE_OK, .n_fields = fields->n, .fields = fields->f, .body = body,
                            .flags = ZR_COMMAND_EMPTY_EXT };
    return inst->reply->answer(inst->host, req->token, &c);
}

static zr_status answer_body(struct zr_inst *inst, const struct zr_request *req, struct ns_body *body)
{
    zr_status status = answer(inst, req, NS_CODE_OK, (struct zr_str){ NULL, 0 }, (struct zr_span){ body->bytes, body->len });
    ns_body_unref(body);
    return status;
}

static zr_status answer_failure(struct zr_inst *inst, const struct zr_request *req, zr_status status, const char *what)
{
    char text[160];
    const char *why = status == ZR_EFULL ? "a limit of the name server is reached" : status == ZR_ENOMEM ? "memory ran out" : "it could not be stored";
    snprintf(text, sizeof text, "%s: %s", what, why);
    return answer_code(inst, req, NS_CODE_ERROR, text);
}

/* ---- fields ----------------------------------------------------------------------------------------------------------- */

static struct zr_str field(const struct zr_request *req, const char *name) { return zl_field(req->fields, req->n_fields, name); }

/* A name for the tables; on failure the request is answered and *ret_status is the outcome. */
static uint32_t need_name(struct zr_inst *inst, const struct zr_request *req, const char *name, struct zr_str *ret, zr_status *ret_status)
{
    char text[128];
    *ret = field(req, name);
    if (ns_name_ok(*ret))
        return 1;
    snprintf(text, sizeof text, "field %s is missing, or longer than %u bytes, or holds a zero byte", name, NS_NAME_MAX);
    *ret_status = answer_code(inst, req, NS_CODE_ERROR, text);
    return 0;
}

struct who { struct zr_str cluster, broker, addr; int64_t id; };

static uint32_t need_who(struct zr_inst *inst, const struct zr_request *req, uint32_t with_id, struct who *ret, zr_status *ret_status)
{
    if (!need_name(inst, req, "brokerName", &ret->broker, ret_status) || !need_name(inst, req, "clusterName", &ret->cluster, ret_status) ||
        !need_name(inst, req, "brokerAddr", &ret->addr, ret_status))
        return 0;
    ret->id = 0;
    if (!with_id || (zl_field_i64(req->fields, req->n_fields, "brokerId", &ret->id) == ZR_OK && ret->id >= 0))
        return 1;
    *ret_status = answer_code(inst, req, NS_CODE_ERROR, "field brokerId is missing or no number");
    return 0;
}

/* ---- 103, 104, 322, 904: brokers -------------------------------------------------------------------------------------- */

static zr_status register_answer(struct zr_inst *inst, const struct zr_request *req, const struct ns_registered *done)
{
    struct zl_fields fields = { 0 };
    struct zl_buf body;
    zl_buf_init(&body, NS_BODY_MAX);
    if (done->ha_addr[0])
        zl_fields_str(&fields, "haServerAddr", zl_str(done->ha_addr));
    if (done->master_addr[0])
        zl_fields_str(&fields, "masterAddr", zl_str(done->master_addr));
    pthread_rwlock_rdlock(&inst->lock);
    uint32_t with_order = inst->set.return_order_topic_config;
    pthread_rwlock_unlock(&inst->lock);
    if (with_order)
        (void)ns_kv_list(inst, (struct zr_str)ZR_STR(NS_ORDER_NAMESPACE), &body);
    zr_status status = answer_fields(inst, req, &fields, body.failed ? (struct zr_span){ NULL, 0 } : zl_buf_as_span(&body));
    zl_buf_free(&body);
    return status;
}

static zr_status register_apply(struct zr_inst *inst, const struct zr_request *req, struct ns_registration *reg)
{
    struct ns_content content;
    struct ns_registered done;
    const char *why;
    zr_status status = ns_content_decode(req->body, req->version, &content, &why);
    if (status != ZR_OK)
        return answer_code(inst, req, NS_CODE_ERROR, why);
    reg->content = &content;
    status = ns_register(inst, reg, &done);
    ns_content_free(&content);
    if (status == ZR_EAGAIN)
        return answer_code(inst, req, NS_CODE_ERROR, "register broker failed");
    if (status != ZR_OK)
        return answer_failure(inst, req, status, "register broker failed");
    ns_count(inst, NS_METRIC_REGISTERED);
    return register_answer(inst, req, &done);
}

/* The connection may have ended while the registration waited for its turn; then its end found nothing to remove. */
static void register_check_session(struct zr_inst *inst, struct zr_session *session)
{
    struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
    if (!session)
        return;
    inst->reply->session_info(inst->host, session, &info);
    if (!info.open)
        ns_session_gone(inst, session);
}

static zr_status on_register(struct zr_inst *inst, const struct zr_request *req)
{
    struct ns_registration reg = { .session = req->session, .acting_master = -1 };
    struct who who;
    zr_status status;
    int32_t crc = 0;
    if (!need_who(inst, req, 1, &who, &status))
        return status;
    reg.cluster = who.cluster, reg.broker = who.broker, reg.addr = who.addr, reg.id = who.id;
    reg.ha = field(req, "haServerAddr");
    reg.zone = field(req, "__ZONE_NAME");
    if (reg.ha.len > NS_NAME_MAX || reg.zone.len > NS_NAME_MAX)
        return answer_code(inst, req, NS_CODE_ERROR, "field haServerAddr or __ZONE_NAME is too long");
    if (zl_field_i64(req->fields, req->n_fields, "heartbeatTimeoutMillis", &reg.timeout_ms) != ZR_OK || reg.timeout_ms <= 0)
        reg.timeout_ms = 0;
    if (reg.timeout_ms > NS_MAX_TIMEOUT_MS)
        reg.timeout_ms = NS_MAX_TIMEOUT_MS;
    if (field(req, "enableActingMaster").len)
        reg.acting_master = (int32_t)zl_field_bool(req->fields, req->n_fields, "enableActingMaster", 0);
    if (zl_field_i32(req->fields, req->n_fields, "bodyCrc32", &crc) == ZR_OK && crc != 0 &&
        (zl_crc32(0, req->body.ptr, req->body.len) & 0x7FFFFFFFu) != (uint32_t)crc)
        return answer_code(inst, req, NS_CODE_ERROR, "crc32 not match");
    status = register_apply(inst, req, &reg);
    register_check_session(inst, req->session);
    return status;
}

static zr_status on_unregister(struct zr_inst *inst, const struct zr_request *req)
{
    struct who who;
    zr_status status;
    if (!need_who(inst, req, 1, &who, &status))
        return status;
    ns_unregister(inst, who.cluster, who.broker, who.addr);
    ns_log(inst, ZR_LOG_INFO, "broker %.*s at %.*s unregistered", (int)who.broker.len, who.broker.ptr, (int)who.addr.len, who.addr.ptr);
    return answer_ok(inst, req);
}

static zr_status on_query_data_version(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_data_version theirs = { 0, 0, 0 }, ours = { 0, 0, 0 };
    struct zl_fields fields = { 0 };
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    struct who who;
    struct zl_buf body;
    zr_status status;
    uint64_t at;
    if (!need_who(inst, req, 0, &who, &status))
        return status;
    if (req->body.len > 4096 || (req->body.len > 0 && zl_json_parse((struct zr_str){ (const char *)req->body.ptr, req->body.len }, &doc, &root, &at) != ZR_OK))
        return answer_code(inst, req, NS_CODE_ERROR, "the body is no data version");
    theirs = ns_version_of(root);
    if (doc)
        zl_json_free(doc);
    uint32_t known = ns_heartbeat(inst, who.cluster, who.addr, &ours);
    uint32_t same = known && theirs.counter == ours.counter && theirs.timestamp == ours.timestamp && theirs.state_version == ours.state_version;
    zl_buf_init(&body, 4096);
    if (known)
        ns_version_print(&body, &ours);
    zl_fields_bool(&fields, "changed", !same);
    status = answer_fields(inst, req, &fields, zl_buf_as_span(&body));
    zl_buf_free(&body);
    return status;
}

static zr_status on_heartbeat(struct zr_inst *inst, const struct zr_request *req)
{
    struct who who;
    zr_status status;
    if (!need_who(inst, req, 0, &who, &status))
        return status;
    (void)ns_heartbeat(inst, who.cluster, who.addr, NULL);
    return answer_ok(inst, req);
}

static zr_status on_member_group(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str cluster, broker;
    struct zl_buf body;
    zr_status status;
    if (!need_name(inst, req, "clusterName", &cluster, &status) || !need_name(inst, req, "brokerName", &broker, &status))
        return status;
    zl_buf_init(&body, NS_BODY_MAX);
    ns_member_group(inst, cluster, broker, &body);
    return answer_buf(inst, req, &body);
}

/* ---- 105, 106: routes ------------------------------------------------------------------------------------------------- */

static zr_status answer_no_route(struct zr_inst *inst, const struct zr_request *req, struct zr_str topic)
{
    char text[NS_NAME_MAX + 200];
    int n = snprintf(text, sizeof text,
                     "No topic route info in name server for the topic: %.*s\nSee https://rocketmq.apache.org/docs/bestPractice/06FAQ for further details.",
                     (int)topic.len, topic.ptr);
    return answer(inst, req, NS_CODE_NO_TOPIC, (struct zr_str){ text, (uint64_t)n }, (struct zr_span){ NULL, 0 });
}

static uint32_t route_must_wait(struct zr_inst *inst)
{
    pthread_rwlock_rdlock(&inst->lock);
    uint32_t wait = inst->set.need_wait_for_service && ns_now(inst) - inst->started_ns < inst->set.wait_for_service_ms * 1000000;
    pthread_rwlock_unlock(&inst->lock);
    return wait;
}

static zr_status on_route(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str topic, zone = field(req, "__ZONE_NAME");
    struct ns_body *body;
    zr_status status;
    if (!need_name(inst, req, "topic", &topic, &status))
        return status;
    if (route_must_wait(inst))
        return answer_code(inst, req, NS_CODE_ERROR, "name server not ready");
    if (zl_field_bool(req->fields, req->n_fields, "__ZONE_MODE", 0) && zl_trim(zone).len > 0) {
        struct zl_buf buf;
        zl_buf_init(&buf, NS_BODY_MAX);
        if (ns_route_zoned(inst, topic, zone, &buf) == ZR_OK)
            return answer_buf(inst, req, &buf);
        zl_buf_free(&buf);
        return answer_no_route(inst, req, topic);
    }
    uint32_t standard = req->version >= VERSION_STANDARD_JSON || zl_field_bool(req->fields, req->n_fields, "acceptStandardJsonOnly", 0);
    status = ns_route_body(inst, topic, standard ? NS_FORM_STANDARD : NS_FORM_LEGACY, &body);
    if (status == ZR_ENOENT)
        return answer_no_route(inst, req, topic);
    return status == ZR_OK ? answer_body(inst, req, body) : answer_failure(inst, req, status, "no route");
}

static zr_status on_cluster_info(struct zr_inst *inst, const struct zr_request *req)
{
    struct ns_body *body;
    zr_status status = ns_cluster_body(inst, &body);
    return status == ZR_OK ? answer_body(inst, req, body) : answer_failure(inst, req, status, "no cluster info");
}

/* ---- 100, 101, 102, 219: KV configuration ----------------------------------------------------------------------------- */

static zr_status kv_failure(struct zr_inst *inst, const struct zr_request *req, zr_status status)
{
    if (status == ZR_EAGAIN)
        return answer_code(inst, req, NS_CODE_ERROR, "KV configuration: the name server's disk is full, it could not be stored");
    return answer_failure(inst, req, status, "KV configuration");
}

static zr_status on_kv_put(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str space = field(req, "namespace"), key = field(req, "key"), value = field(req, "value");
    if (!space.ptr || !key.ptr)
        return answer_code(inst, req, NS_CODE_ERROR, "namespace or key is null");
    zr_status status = ns_kv_put(inst, space, key, value);
    return status == ZR_OK ? answer_ok(inst, req) : kv_failure(inst, req, status);
}

static zr_status answer_no_kv(struct zr_inst *inst, const struct zr_request *req, const char *fmt, struct zr_str space, struct zr_str key)
{
    char text[600];
    snprintf(text, sizeof text, fmt, (int)(space.len < 256 ? space.len : 256), space.ptr ? space.ptr : "", (int)(key.len < 256 ? key.len : 256),
             key.ptr ? key.ptr : "");
    return answer_code(inst, req, NS_CODE_NOT_FOUND, text);
}

static zr_status on_kv_get(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str space = field(req, "namespace"), key = field(req, "key");
    struct zl_fields fields = { 0 };
    struct zl_buf value;
    zl_buf_init(&value, NS_MAX_KV_BYTES);
    zr_status status = ns_kv_get(inst, space, key, &value);
    if (status == ZR_OK) {
        zl_fields_str(&fields, "value", zl_buf_as_str(&value));
        status = answer_fields(inst, req, &fields, (struct zr_span){ NULL, 0 });
    } else {
        status = answer_no_kv(inst, req, "No config item, Namespace: %.*s Key: %.*s", space, key);
    }
    zl_buf_free(&value);
    return status;
}

static zr_status on_kv_delete(struct zr_inst *inst, const struct zr_request *req)
{
    zr_status status = ns_kv_delete(inst, field(req, "namespace"), field(req, "key"));
    return status == ZR_OK ? answer_ok(inst, req) : kv_failure(inst, req, status);
}

static zr_status on_kv_list(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str space = field(req, "namespace");
    struct zl_buf body;
    zl_buf_init(&body, NS_BODY_MAX);
    if (ns_kv_list(inst, space, &body) != ZR_ENOENT)
        return answer_buf(inst, req, &body);
    zl_buf_free(&body);
    return answer_no_kv(inst, req, "No config item, Namespace: %.*s%.*s", space, (struct zr_str){ NULL, 0 });
}

/* ---- topics and permissions ------------------------------------------------------------------------------------------- */

static zr_status write_perm(struct zr_inst *inst, const struct zr_request *req, uint32_t wipe)
{
    struct zl_fields fields = { 0 };
    struct zr_str broker;
    zr_status status;
    if (!need_name(inst, req, "brokerName", &broker, &status))
        return status;
    int32_t n = ns_write_perm(inst, broker, wipe);
    ns_log(inst, ZR_LOG_INFO, "write permission of broker %.*s %s for %d topics", (int)broker.len, broker.ptr, wipe ? "wiped" : "added", n);
    zl_fields_i64(&fields, wipe ? "wipeTopicCount" : "addTopicCount", n);
    return answer_fields(inst, req, &fields, (struct zr_span){ NULL, 0 });
}

static zr_status on_wipe_write_perm(struct zr_inst *inst, const struct zr_request *req) { return write_perm(inst, req, 1); }
static zr_status on_add_write_perm(struct zr_inst *inst, const struct zr_request *req) { return write_perm(inst, req, 0); }

static zr_status on_delete_topic(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str topic;
    zr_status status;
    if (!need_name(inst, req, "topic", &topic, &status))
        return status;
    ns_delete_topic(inst, topic, field(req, "clusterName"));
    ns_log(inst, ZR_LOG_INFO, "topic %.*s deleted", (int)topic.len, topic.ptr);
    return answer_ok(inst, req);
}

static zr_status on_register_topic(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_json_doc *doc;
    const struct zl_json *root;
    struct zr_str topic;
    zr_status status;
    uint64_t at;
    if (!need_name(inst, req, "topic", &topic, &status))
        return status;
    if (req->body.len == 0)
        return answer_ok(inst, req);
    if (zl_json_parse((struct zr_str){ (const char *)req->body.ptr, req->body.len }, &doc, &root, &at) != ZR_OK)
        return answer_code(inst, req, NS_CODE_ERROR, "the body is no route");
    ns_put_topic(inst, topic, zl_json_get(root, "queueDatas"));
    zl_json_free(doc);
    return answer_ok(inst, req);
}

static zr_status topic_list(struct zr_inst *inst, const struct zr_request *req, uint32_t what, struct zr_str cluster)
{
    struct zl_buf body;
    pthread_rwlock_rdlock(&inst->lock);
    uint32_t enabled = what == NS_LIST_ALL ? inst->set.enable_all_topic_list : inst->set.enable_topic_list;
    pthread_rwlock_unlock(&inst->lock);
    if (!enabled)
        return answer_code(inst, req, NS_CODE_ERROR, "disable");
    zl_buf_init(&body, NS_BODY_MAX);
    ns_topic_list(inst, what, cluster, &body);
    return answer_buf(inst, req, &body);
}

static const struct zr_str nothing = { NULL, 0 };
static zr_status on_all_topics(struct zr_inst *inst, const struct zr_request *req) { return topic_list(inst, req, NS_LIST_ALL, nothing); }
static zr_status on_unit_topics(struct zr_inst *inst, const struct zr_request *req) { return topic_list(inst, req, NS_LIST_UNIT, nothing); }
static zr_status on_unit_sub_topics(struct zr_inst *inst, const struct zr_request *req) { return topic_list(inst, req, NS_LIST_UNIT_SUB, nothing); }
static zr_status on_unit_sub_only(struct zr_inst *inst, const struct zr_request *req) { return topic_list(inst, req, NS_LIST_UNIT_SUB_ONLY, nothing); }

static zr_status on_topics_by_cluster(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str cluster;
    zr_status status;
    if (!need_name(inst, req, "cluster", &cluster, &status))
        return status;
    return topic_list(inst, req, NS_LIST_CLUSTER, cluster);
}

static zr_status on_system_topics(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf body;
    zl_buf_init(&body, NS_BODY_MAX);
    ns_system_topic_list(inst, &body);
    return answer_buf(inst, req, &body);
}

/* ---- 318, 319: settings ----------------------------------------------------------------------------------------------- */

static zr_status on_update_config(struct zr_inst *inst, const struct zr_request *req)
{
    const char *remark = NULL;
    if (req->body.len == 0)
        return answer_ok(inst, req);
    if (req->body.len > 64 * 1024)
        return answer_code(inst, req, NS_CODE_ERROR, "string2Properties error: more than 64 KiB");
    int32_t code = ns_conf_update(inst, (struct zr_str){ (const char *)req->body.ptr, req->body.len }, &remark);
    return answer_code(inst, req, code, remark);
}

static zr_status on_get_config(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf body;
    zl_buf_init(&body, 64 * 1024);
    ns_conf_print(inst, &body);
    return answer_buf(inst, req, &body);
}

/* ---- the table -------------------------------------------------------------------------------------------------------- */

#define ROW(code, flags, name, fn) { ZR_HDR(struct zr_handler, 0), code, ZR_SERVES_ROUTING, flags, 0u, name, fn }
#define CHANGES ZR_HANDLER_GUARDED
#define SLOW ZR_HANDLER_WORKER

static const struct zr_handler handlers[] = {
    ROW(100, CHANGES | SLOW, "PUT_KV_CONFIG", on_kv_put),
    ROW(101, 0, "GET_KV_CONFIG", on_kv_get),
    ROW(102, CHANGES | SLOW, "DELETE_KV_CONFIG", on_kv_delete),
    ROW(103, CHANGES | SLOW, "REGISTER_BROKER", on_register),
    ROW(104, CHANGES | SLOW, "UNREGISTER_BROKER", on_unregister),
    ROW(105, 0, "GET_ROUTEINFO_BY_TOPIC", on_route),
    ROW(106, 0, "GET_BROKER_CLUSTER_INFO", on_cluster_info),
    ROW(205, CHANGES | SLOW, "WIPE_WRITE_PERM_OF_BROKER", on_wipe_write_perm),
    ROW(206, SLOW, "GET_ALL_TOPIC_LIST_FROM_NAMESERVER", on_all_topics),
    ROW(216, CHANGES, "DELETE_TOPIC_IN_NAMESRV", on_delete_topic),
    ROW(217, CHANGES | SLOW, "REGISTER_TOPIC_IN_NAMESRV", on_register_topic),
    ROW(219, 0, "GET_KVLIST_BY_NAMESPACE", on_kv_list),
    ROW(224, SLOW, "GET_TOPICS_BY_CLUSTER", on_topics_by_cluster),
    ROW(304, 0, "GET_SYSTEM_TOPIC_LIST_FROM_NS", on_system_topics),
    ROW(311, SLOW, "GET_UNIT_TOPIC_LIST", on_unit_topics),
    ROW(312, SLOW, "GET_HAS_UNIT_SUB_TOPIC_LIST", on_unit_sub_topics),
    ROW(313, SLOW, "GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST", on_unit_sub_only),
    ROW(318, CHANGES | SLOW, "UPDATE_NAMESRV_CONFIG", on_update_config),
    ROW(319, 0, "GET_NAMESRV_CONFIG", on_get_config),
    ROW(322, 0, "QUERY_DATA_VERSION", on_query_data_version),
    ROW(327, CHANGES | SLOW, "ADD_WRITE_PERM_OF_BROKER", on_add_write_perm),
    ROW(901, 0, "GET_BROKER_MEMBER_GROUP", on_member_group),
    ROW(904, 0, "BROKER_HEARTBEAT", on_heartbeat),
};
const struct zr_requests_v1 ns_requests = { ZR_HDR(struct zr_requests_v1, 0), handlers, sizeof handlers / sizeof *handlers, 0 };
