/* SPDX-License-Identifier: Apache-2.0 */
/* admin.c - admin requests to brokers and name servers; answers are JSON in fastjson's dialect. */
#include "internal.h"
#include <stdio.h>

#define ADMIN_TIMEOUT_MS 5000 /* as mqadmin */

void zc_reply_free(struct zc_reply *reply)
{
    zl_json_free(reply->doc);
    zc_response_free(reply->response);
    *reply = (struct zc_reply){ 0 };
}

int zc_admin_call(struct zc_client *client, const char *addr, const struct zc_request *request, struct zc_reply *ret,
                  struct zc_err *err)
{
    struct zc_request timed = *request;
    uint64_t at = 0;
    *ret = (struct zc_reply){ 0 };
    if (!timed.timeout_ms) timed.timeout_ms = ADMIN_TIMEOUT_MS;
    int rc =
        addr ? zc_call(client, addr, &timed, &ret->response, err) : zc_names_call(client, &timed, &ret->response, err);
    if (rc) return rc;
    if (ret->response->code) {
        rc = zc_fail_response(err, ret->response);
    } else if (ret->response->body.len) {
        struct zr_str text = { (const char *)ret->response->body.ptr, ret->response->body.len };
        if (zl_json_parse(text, &ret->doc, &ret->root, &at) != ZR_OK)
            rc = zc_fail(err, ZC_EPROTO, "the answer to code %d is no JSON (at byte %llu)", request->code,
                         (unsigned long long)at);
    }
    if (rc) zc_reply_free(ret); /* a failed parse left doc NULL */
    return rc;
}

/* A call whose answer's body is not wanted. */
static int call_plain(struct zc_client *client, const char *addr, int32_t code, const struct zr_field *fields,
                      uint32_t n, struct zr_span body, struct zc_err *err)
{
    struct zc_request request = {
        .code = code, .fields = fields, .n_fields = n, .body = body, .timeout_ms = ADMIN_TIMEOUT_MS
    };
    return zc_call_ok(client, addr, &request, NULL, err);
}

static int call_json(struct zc_client *client, const char *addr, int32_t code, const struct zr_field *fields,
                     uint32_t n, struct zc_reply *ret, struct zc_err *err)
{
    struct zc_request request = { .code = code, .fields = fields, .n_fields = n };
    return zc_admin_call(client, addr, &request, ret, err);
}

/* The same call to every name server; the first error, after all were asked. */
static int call_all_names(struct zc_client *client, int32_t code, const struct zr_field *fields, uint32_t n,
                          struct zc_err *err)
{
    char addr[ZC_NAME_MAX];
    int rc = zc_client_namesrv(client, 0, addr, err);
    if (rc) return rc;
    for (uint32_t i = 0; zc_client_namesrv(client, i, addr, NULL) == 0; i++) {
        struct zc_err one;
        int rc2 = call_plain(client, addr, code, fields, n, (struct zr_span){ 0 }, &one);
        if (rc2 && rc == 0) rc = zc_fail(err, rc2, "%s: %s", addr, one.text);
    }
    return rc;
}

int zc_admin_update_topic(struct zc_client *client, const char *addr, const struct zc_topic_config *c,
                          struct zc_err *err)
{
    char text[96];
    int32_t perm = c->perm ? c->perm : 6, read = c->read ? c->read : 8, write = c->write ? c->write : 8;
    struct zr_field f[9] = { { ZR_STR("topic"), zl_str(c->topic) }, { ZR_STR("defaultTopic"), ZR_STR("TBW102") } };
    f[2] = (struct zr_field){ ZR_STR("readQueueNums"), { text, zl_print_i64(text, read) } };
    f[3] = (struct zr_field){ ZR_STR("writeQueueNums"), { text + 24, zl_print_i64(text + 24, write) } };
    f[4] = (struct zr_field){ ZR_STR("perm"), { text + 48, zl_print_i64(text + 48, perm) } };
    f[5] = (struct zr_field){ ZR_STR("topicFilterType"), ZR_STR("SINGLE_TAG") };
    f[6] = (struct zr_field){ ZR_STR("topicSysFlag"), { text + 72, zl_print_i64(text + 72, c->sys_flag) } };
    f[7] = (struct zr_field){ ZR_STR("order"), zl_str(c->order ? "true" : "false") };
    f[8] = (struct zr_field){ ZR_STR("attributes"), zl_str(c->attributes) };
    return call_plain(client, addr, 17, f, c->attributes ? 9 : 8, (struct zr_span){ 0 }, err);
}

int zc_admin_delete_topic_in_broker(struct zc_client *client, const char *addr, const char *topic, struct zc_err *err)
{
    struct zr_field f = { ZR_STR("topic"), zl_str(topic) };
    return call_plain(client, addr, 215, &f, 1, (struct zr_span){ 0 }, err);
}

int zc_admin_delete_topic_in_namesrv(struct zc_client *client, const char *topic, const char *cluster,
                                     struct zc_err *err)
{
    struct zr_field f[2] = { { ZR_STR("topic"), zl_str(topic) }, { ZR_STR("clusterName"), zl_str(cluster) } };
    return call_all_names(client, 216, f, cluster ? 2 : 1, err);
}

int zc_admin_topic_list(struct zc_client *client, const char *cluster, struct zc_reply *ret, struct zc_err *err)
{
    struct zr_field f = { ZR_STR("cluster"), zl_str(cluster) };
    return cluster ? call_json(client, NULL, 224, &f, 1, ret, err) : call_json(client, NULL, 206, NULL, 0, ret, err);
}

int zc_admin_cluster(struct zc_client *client, struct zc_reply *ret, struct zc_err *err)
{
    return call_json(client, NULL, 106, NULL, 0, ret, err);
}
int zc_admin_runtime(struct zc_client *client, const char *addr, struct zc_reply *ret, struct zc_err *err)
{
    return call_json(client, addr, 28, NULL, 0, ret, err);
}
int zc_admin_groups(struct zc_client *client, const char *addr, struct zc_reply *ret, struct zc_err *err)
{
    return call_json(client, addr, 201, NULL, 0, ret, err);
}

int zc_admin_topic_stats(struct zc_client *client, const char *addr, const char *topic, struct zc_reply *ret,
                         struct zc_err *err)
{
    struct zr_field f = { ZR_STR("topic"), zl_str(topic) };
    return call_json(client, addr, 202, &f, 1, ret, err);
}

int zc_admin_topic_groups(struct zc_client *client, const char *addr, const char *topic, struct zc_reply *ret,
                          struct zc_err *err)
{
    struct zr_field f = { ZR_STR("topic"), zl_str(topic) };
    return call_json(client, addr, 300, &f, 1, ret, err);
}

int zc_admin_topic_config(struct zc_client *client, const char *addr, const char *topic, struct zc_reply *ret,
                          struct zc_err *err)
{
    struct zr_field f[2] = { { ZR_STR("topic"), zl_str(topic) }, { ZR_STR("lo"), ZR_STR("true") } };
    return call_json(client, addr, 351, f, 2, ret, err);
}

int zc_admin_consume_stats(struct zc_client *client, const char *addr, const char *group, const char *topic,
                           struct zc_reply *ret, struct zc_err *err)
{
    struct zr_field f[2] = { { ZR_STR("consumerGroup"), zl_str(group) }, { ZR_STR("topic"), zl_str(topic) } };
    return call_json(client, addr, 208, f, topic ? 2 : 1, ret, err);
}

int zc_admin_consumer_connections(struct zc_client *client, const char *addr, const char *group, struct zc_reply *ret,
                                  struct zc_err *err)
{
    struct zr_field f = { ZR_STR("consumerGroup"), zl_str(group) };
    return call_json(client, addr, 203, &f, 1, ret, err);
}

int zc_admin_update_group(struct zc_client *client, const char *addr, struct zr_str json, struct zc_err *err)
{
    return call_plain(client, addr, 200, NULL, 0, (struct zr_span){ (const uint8_t *)json.ptr, json.len }, err);
}

int zc_admin_delete_group(struct zc_client *client, const char *addr, const char *group, uint32_t clean,
                          struct zc_err *err)
{
    struct zr_field f[2] = { { ZR_STR("groupName"), zl_str(group) },
                             { ZR_STR("cleanOffset"), zl_str(clean ? "true" : "false") } };
    return call_plain(client, addr, 207, f, 2, (struct zr_span){ 0 }, err);
}

int zc_admin_kv_get(struct zc_client *client, const char *ns, const char *key, char **ret, struct zc_err *err)
{
    struct zr_field f[2] = { { ZR_STR("namespace"), zl_str(ns) }, { ZR_STR("key"), zl_str(key) } };
    struct zc_request request = { .code = 101, .fields = f, .n_fields = 2, .timeout_ms = ADMIN_TIMEOUT_MS };
    struct zc_response *response;
    *ret = NULL;
    int rc = zc_names_call(client, &request, &response, err);
    if (rc) return rc;
    if (response->code)
        rc = zc_fail_response(err, response);
    else if (!(*ret = zl_dup(zl_field(response->fields, response->n_fields, "value"))))
        rc = zc_fail(err, ZC_ENOMEM, "memory ran out");
    zc_response_free(response);
    return rc;
}

int zc_admin_kv_put(struct zc_client *client, const char *ns, const char *key, const char *value, struct zc_err *err)
{
    struct zr_field f[3] = { { ZR_STR("namespace"), zl_str(ns) },
                             { ZR_STR("key"), zl_str(key) },
                             { ZR_STR("value"), zl_str(value) } };
    return call_all_names(client, 100, f, 3, err);
}
