/* SPDX-License-Identifier: Apache-2.0 */
/* pull.c - pulls, offsets and look-ups.
 *
 * A pull's answer codes 0, 19, 20, 21 are results, not errors: zc_messages.code tells them apart, next_offset says
 * where to go on. The expression travels with each pull, so that no heartbeat is needed. */
#include "internal.h"
#include <stdio.h>

#define CODE_PULL 11
#define CODE_QUERY 12
#define CODE_QUERY_OFFSET 14
#define CODE_COMMIT_OFFSET 15
#define CODE_OFFSET_BY_TIME 29
#define CODE_OFFSET_MAX 30
#define CODE_OFFSET_MIN 31
#define CODE_VIEW 33
#define PULL_SPARE_MS 15000 /* an answer may come so much later than the suspension says */

static void add(struct zc_pull_call *call, const char *name, struct zr_str value)
{
    call->fields[call->request.n_fields++] = (struct zr_field){ zl_str(name), value };
}

static void add_number(struct zc_pull_call *call, const char *name, int64_t value)
{
    char *to = call->text + call->request.n_fields * 20u;
    /* Numbers are the first fields, and at most twelve: 20 characters each fit. */
    add(call, name, (struct zr_str){ to, zl_print_i64(to, value) });
}

void zc_pull_build(struct zc_pull_call *call, const char *group, const struct zc_queue *queue, int64_t offset,
                   int32_t max, int32_t sys_flag, int64_t commit, int32_t suspend_ms, const char *expression,
                   const char *type, int64_t sub_version)
{
    memset(&call->request, 0, sizeof(call->request));
    add_number(call, "queueId", queue->queue_id);
    add_number(call, "queueOffset", offset);
    add_number(call, "maxMsgNums", max);
    add_number(call, "sysFlag", sys_flag);
    add_number(call, "commitOffset", commit);
    add_number(call, "suspendTimeoutMillis", suspend_ms);
    add_number(call, "subVersion", sub_version);
    add(call, "consumerGroup", zl_str(group));
    add(call, "topic", zl_str(queue->topic));
    if (sys_flag & ZC_PULL_SUBSCRIPTION)
        add(call, "subscription", zl_str(expression && *expression ? expression : "*"));
    add(call, "expressionType", zl_str(type && *type ? type : "TAG"));
    add(call, "bname", zl_str(queue->broker));
    call->request.code = CODE_PULL;
    call->request.fields = call->fields;
    call->request.timeout_ms = suspend_ms + PULL_SPARE_MS;
}

int zc_pull_read(const struct zc_response *r, const char *broker, const char *tags, struct zc_messages **ret,
                 struct zc_err *err)
{
    int64_t next, min = 0, max = 0, suggested = 0;
    *ret = NULL;
    if (r->code != 0 && r->code != 19 && r->code != 20 && r->code != 21) return zc_fail_response(err, r);
    if (zl_field_i64(r->fields, r->n_fields, "nextBeginOffset", &next) != ZR_OK)
        return zc_fail(err, ZC_EPROTO, "the answer to a pull lacks nextBeginOffset");
    zl_field_i64(r->fields, r->n_fields, "minOffset", &min);
    zl_field_i64(r->fields, r->n_fields, "maxOffset", &max);
    zl_field_i64(r->fields, r->n_fields, "suggestWhichBrokerId", &suggested);
    int rc = zc_messages_decode(r->code == 0 ? r->body : (struct zr_span){ 0 }, broker, tags, ret, err);
    if (rc) return rc;
    (*ret)->code = r->code;
    (*ret)->next_offset = next;
    (*ret)->min_offset = min;
    (*ret)->max_offset = max;
    (*ret)->suggested_broker = suggested;
    return ZC_OK;
}

/* The address of a queue's broker; asks for the topic's route if it is not known. */
static int queue_addr(struct zc_client *client, const struct zc_queue *queue, uint32_t any, char to[ZC_NAME_MAX],
                      struct zc_err *err)
{
    struct zc_view *view;
    if (zc_broker_addr(client, queue->broker, any, to, err) == 0) return ZC_OK;
    int rc = zc_routes_get(client, queue->topic, 0, 1, &view, err);
    if (rc) return rc;
    zc_view_release(view);
    return zc_broker_addr(client, queue->broker, any, to, err);
}

int zc_pull(struct zc_client *client, const struct zc_pull *pull, struct zc_messages **ret, struct zc_err *err)
{
    struct zc_pull_call call;
    struct zc_response *response;
    char addr[ZC_NAME_MAX];
    *ret = NULL;
    if (pull->addr) {
        if (zc_copy_name(addr, zl_str(pull->addr))) return zc_fail(err, ZC_EARG, "the address is too long");
    } else {
        int rc = queue_addr(client, pull->queue, 1, addr, err);
        if (rc) return rc;
    }
    zc_pull_build(&call, pull->group, pull->queue, pull->offset, pull->max ? pull->max : 32,
                  ZC_PULL_SUBSCRIPTION | (pull->suspend_ms ? ZC_PULL_SUSPEND : 0), 0, pull->suspend_ms,
                  pull->expression, pull->type, 0);
    int rc = zc_call(client, addr, &call.request, &response, err);
    if (rc) return rc;
    uint32_t by_tag = !pull->type || !*pull->type || strcmp(pull->type, "TAG") == 0;
    rc = zc_pull_read(response, pull->queue->broker, by_tag ? pull->expression : NULL, ret, err);
    zc_response_free(response);
    return rc;
}

/* ---- offsets ---- */

/* A call about one queue, to its broker, whose answer's field "offset" is *ret (if given). */
static int offset_call(struct zc_client *client, int32_t code, const char *group, const struct zc_queue *queue,
                       const char *extra, int64_t value, int64_t *ret, struct zc_err *err)
{
    char addr[ZC_NAME_MAX], id[24], number[24];
    struct zr_field f[5];
    uint32_t n = 0;
    int rc = queue_addr(client, queue, 0, addr, err);
    if (rc) return rc;
    f[n++] = (struct zr_field){ ZR_STR("topic"), zl_str(queue->topic) };
    f[n++] = (struct zr_field){ ZR_STR("queueId"), { id, zl_print_i64(id, queue->queue_id) } };
    f[n++] = (struct zr_field){ ZR_STR("bname"), zl_str(queue->broker) };
    if (group) f[n++] = (struct zr_field){ ZR_STR("consumerGroup"), zl_str(group) };
    if (extra) f[n++] = (struct zr_field){ zl_str(extra), { number, zl_print_i64(number, value) } };
    struct zc_request request = { .code = code, .fields = f, .n_fields = n };
    struct zc_response *response;
    rc = zc_call_ok(client, addr, &request, &response, err);
    if (rc) return rc;
    if (ret && zl_field_i64(response->fields, response->n_fields, "offset", ret) != ZR_OK)
        rc = zc_fail(err, ZC_EPROTO, "the answer lacks offset");
    zc_response_free(response);
    return rc;
}

int zc_offset_max(struct zc_client *client, const struct zc_queue *queue, int64_t *ret, struct zc_err *err)
{
    return offset_call(client, CODE_OFFSET_MAX, NULL, queue, NULL, 0, ret, err);
}
int zc_offset_min(struct zc_client *client, const struct zc_queue *queue, int64_t *ret, struct zc_err *err)
{
    return offset_call(client, CODE_OFFSET_MIN, NULL, queue, NULL, 0, ret, err);
}
int zc_offset_by_time(struct zc_client *client, const struct zc_queue *queue, int64_t ms, int64_t *ret,
                      struct zc_err *err)
{
    return offset_call(client, CODE_OFFSET_BY_TIME, NULL, queue, "timestamp", ms, ret, err);
}
int zc_offset_query(struct zc_client *client, const char *group, const struct zc_queue *queue, int64_t *ret,
                    struct zc_err *err)
{
    return offset_call(client, CODE_QUERY_OFFSET, group, queue, NULL, 0, ret, err);
}
int zc_offset_commit(struct zc_client *client, const char *group, const struct zc_queue *queue, int64_t offset,
                     struct zc_err *err)
{
    return offset_call(client, CODE_COMMIT_OFFSET, group, queue, "commitOffset", offset, NULL, err);
}

/* ---- look-ups ---- */

static int view_by_offset(struct zc_client *client, const char *topic, const struct zr_addr *host, int64_t physical,
                          struct zc_messages **ret, struct zc_err *err)
{
    char addr[64], number[24];
    struct zr_field f[2] = { { ZR_STR("offset"), { number, 0 } }, { ZR_STR("topic"), zl_str(topic) } };
    struct zc_request request = { .code = CODE_VIEW, .fields = f, .n_fields = topic ? 2 : 1 };
    struct zc_response *response;
    f[0].value.len = zl_print_i64(number, physical);
    addr[zl_addr_print(addr, host)] = 0;
    int rc = zc_call_ok(client, addr, &request, &response, err);
    if (rc) return rc;
    rc = zc_messages_decode(response->body, NULL, NULL, ret, err);
    zc_response_free(response);
    return rc;
}

int zc_view(struct zc_client *client, const char *topic, const char *id, struct zc_messages **ret, struct zc_err *err)
{
    struct zr_addr host;
    int64_t physical;
    struct zc_err first = { 0 };
    *ret = NULL;
    uint32_t is_offset_id = zl_offset_id_parse(zl_str(id), &host, &physical) == ZR_OK;
    if (!is_offset_id && !topic)
        return zc_fail(err, ZC_EARG, "%s is no offset message id; with a topic it is looked up as a unique id", id);
    /* Both kinds are 32 digits: with a topic, a unique id is the likelier meaning. */
    int rc = topic ? zc_query(client, topic, id, 1, 32, 0, 0, ret, &first) : ZC_EARG;
    if (rc == 0 && (*ret)->n) return ZC_OK;
    if (rc == 0) zc_messages_free(*ret), *ret = NULL;
    if (is_offset_id) return view_by_offset(client, topic, &host, physical, ret, err);
    return zc_fail(err, first.code ? first.code : 22, "%s", first.code ? first.text : "no message of that id");
}

struct query {
    struct zc_client *client;
    struct zc_request request;
    struct zl_buf records;
    struct zc_err last;
    uint32_t answered;
};

/* Decoding happens once, over what all brokers answered. */
static int query_one(struct query *q, const char *addr)
{
    struct zc_response *response;
    int rc = zc_call(q->client, addr, &q->request, &response, &q->last);
    if (rc) return rc;
    if (response->code == 0)
        zl_buf_add(&q->records, response->body.ptr, response->body.len);
    else if (response->code != 22)
        rc = zc_fail_response(&q->last, response);
    q->answered += response->code == 0 || response->code == 22;
    zc_response_free(response);
    return rc;
}

/* The index is by hash: keeps only what really has the key. */
static void keep_matching(struct zc_messages *m, struct zr_str topic, struct zr_str key, uint32_t unique)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < m->n; i++) {
        const struct zc_received *r = &m->msgs[i];
        uint32_t match = unique && zl_is(key, r->msg_id);
        struct zr_str rest = r->keys, part;
        while (!unique && !match && zl_split(&rest, ' ', &part)) match = zl_eq(part, key);
        if (match && zl_eq(r->stored_topic, topic)) m->msgs[kept++] = *r;
    }
    m->n = kept;
}

int zc_query(struct zc_client *client, const char *topic, const char *key, uint32_t unique, uint32_t max,
             int64_t begin_ms, int64_t end_ms, struct zc_messages **ret, struct zc_err *err)
{
    struct zc_view *view;
    char text[72];
    struct zr_field f[8] = { { ZR_STR("topic"), zl_str(topic) }, { ZR_STR("key"), zl_str(key) } };
    *ret = NULL;
    int rc = zc_routes_get(client, topic, 0, 0, &view, err);
    if (rc) return rc;
    f[2] = (struct zr_field){ ZR_STR("maxNum"), { text, zl_print_i64(text, max ? max : 64) } };
    f[3] = (struct zr_field){ ZR_STR("beginTimestamp"), { text + 24, zl_print_i64(text + 24, begin_ms) } };
    f[4] = (struct zr_field){ ZR_STR("endTimestamp"),
                              { text + 48, zl_print_i64(text + 48, end_ms ? end_ms : INT64_MAX) } };
    f[5] = (struct zr_field){ ZR_STR("_UNIQUE_KEY_QUERY"), zl_str(unique ? "true" : "false") };
    f[6] = (struct zr_field){ ZR_STR("indexType"), zl_str(unique ? "U" : "K") };
    struct query q = { .client = client, .request = { .code = CODE_QUERY, .fields = f, .n_fields = 7 } };
    zl_buf_init(&q.records, 256u << 20);
    for (uint32_t i = 0; i < view->route->n_brokers; i++)
        if (view->route->brokers[i].n_addrs) query_one(&q, view->route->brokers[i].addrs[0].addr);
    zc_view_release(view);
    if (!q.answered)
        rc = q.last.code ? zc_fail(err, q.last.code, "%s", q.last.text)
                         : zc_fail(err, ZC_ENOROUTE, "no broker of %s has an address", topic);
    if (rc == 0) rc = zc_messages_decode(zl_buf_as_span(&q.records), NULL, NULL, ret, err);
    if (rc == 0) keep_matching(*ret, zl_str(topic), zl_str(key), unique);
    zl_buf_free(&q.records);
    return rc;
}
