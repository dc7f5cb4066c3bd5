/* SPDX-License-Identifier: Apache-2.0 */
/* topics.c - topics on the broker: 17, 18, 21, 215, 305, 351.
 *
 * Attributes travel as "+key=value,-key"; the rules and their messages are Apache's (AttributeParser, AttributeUtil). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin.h"

#define MAX_ATTRIBUTES 32u
#define MAX_PAGE 2000 /* Apache's splitMetadataSize */

struct attribute_rule { const char *key; uint32_t changeable; const char *const *choices; int64_t min, max; };
static const char *const message_types[] = { "UNSPECIFIED", "NORMAL", "FIFO", "DELAY", "TRANSACTION", "MIXED", "PRIORITY", "LITE", NULL };
static const char *const queue_types[] = { "BatchCQ", "SimpleCQ", NULL };
static const char *const cleanup_policies[] = { "DELETE", "COMPACTION", NULL };
static const struct attribute_rule rules[] = {
    { "message.type", 1, message_types, 0, 0 },
    { "queue.type", 0, queue_types, 0, 0 },
    { "cleanup.policy", 0, cleanup_policies, 0, 0 },
    { "reserve.time", 1, NULL, -1, INT64_MAX },
    { "lite.topic.expiration", 1, NULL, -1, 43200 },
};

static const struct attribute_rule *rule_of(struct zr_str key)
{
    for (uint32_t i = 0; i < sizeof rules / sizeof *rules; i++)
        if (zl_is(key, rules[i].key)) return &rules[i];
    return NULL;
}

/* A topic under construction; text lives in the request or in the copies made of the present one. */
struct draft {
    struct zr_topic topic;
    struct zr_field attributes[MAX_ATTRIBUTES];
    uint32_t exists;
    char *copies[MAX_ATTRIBUTES * 2];
    uint32_t n_copies;
    char why[256];
};

static void draft_free(struct draft *d)
{
    for (uint32_t i = 0; i < d->n_copies; i++) free(d->copies[i]);
}

static struct zr_str draft_copy(struct draft *d, struct zr_str s)
{
    char *copy = zl_dup(s);
    if (!copy) return (struct zr_str){ NULL, 0 };
    d->copies[d->n_copies++] = copy;
    return (struct zr_str){ copy, s.len };
}

static void take_present(void *ctx, const struct zr_topic *t)
{
    struct draft *d = ctx;
    d->exists = 1;
    for (uint32_t i = 0; i < t->n_attributes && i < MAX_ATTRIBUTES; i++)
        d->attributes[d->topic.n_attributes++] = (struct zr_field){ draft_copy(d, t->attributes[i].name), draft_copy(d, t->attributes[i].value) };
}

static zr_status wrong(struct draft *d, const char *what, struct zr_str key)
{
    snprintf(d->why, sizeof d->why, "%s%.*s", what, (int)(key.len > 120 ? 120 : key.len), key.ptr ? key.ptr : "");
    return ZR_EINVAL;
}

static zr_status check_value(struct draft *d, const struct attribute_rule *rule, struct zr_str value)
{
    if (rule->choices) {
        for (const char *const *c = rule->choices; *c; c++)
            if (zl_is(value, *c)) return ZR_OK;
        int n = snprintf(d->why, sizeof d->why, "value is not in set: [");
        for (const char *const *c = rule->choices; *c && n < (int)sizeof d->why - 40; c++)
            n += snprintf(d->why + n, sizeof d->why - (size_t)n, "%s%s", c == rule->choices ? "" : ", ", *c);
        snprintf(d->why + n, sizeof d->why - (size_t)n, "]");
        return ZR_EINVAL;
    }
    int64_t v;
    if (zl_parse_i64(value, &v) == ZR_OK && v >= rule->min && v <= rule->max) return ZR_OK;
    snprintf(d->why, sizeof d->why, "value is not in range(%lld, %lld)", (long long)rule->min, (long long)rule->max);
    return ZR_EINVAL;
}

static int32_t find_attribute(const struct draft *d, struct zr_str key)
{
    for (uint32_t i = 0; i < d->topic.n_attributes; i++)
        if (zl_eq(d->attributes[i].name, key)) return (int32_t)i;
    return -1;
}

/* Applies one "+key" = value or "-key". */
static zr_status apply_attribute(struct draft *d, struct zr_str raw, struct zr_str value)
{
    char sign = raw.len ? raw.ptr[0] : 0;
    struct zr_str key = { raw.ptr + 1, raw.len ? raw.len - 1 : 0 };
    if (sign != '+' && sign != '-') return wrong(d, d->exists ? "wrong format key: " : "only add attribute is supported while creating topic. key: ", raw);
    if (!d->exists && sign != '+') return wrong(d, "only add attribute is supported while creating topic. key: ", key);
    if (key.len == 0 || memchr(key.ptr, '+', key.len) || memchr(key.ptr, '-', key.len)) return wrong(d, "kv string format wrong.", (struct zr_str){ NULL, 0 });
    const struct attribute_rule *rule = rule_of(key);
    if (!rule) return wrong(d, "unsupported key: ", key);
    if (d->exists && !rule->changeable) return wrong(d, "attempt to update an unchangeable attribute. key: ", key);
    int32_t at = find_attribute(d, key);
    if (sign == '-') {
        if (at < 0) return wrong(d, "attempt to delete a nonexistent key: ", key);
        d->attributes[at] = d->attributes[--d->topic.n_attributes];
        return ZR_OK;
    }
    zr_status status = check_value(d, rule, value);
    if (status != ZR_OK) return status;
    if (at < 0 && d->topic.n_attributes == MAX_ATTRIBUTES) return wrong(d, "too many attributes at: ", key);
    if (at < 0) at = (int32_t)d->topic.n_attributes++;
    d->attributes[at] = (struct zr_field){ key, value };
    return ZR_OK;
}

/* "+a=b,-c" */
static zr_status apply_text(struct draft *d, struct zr_str text)
{
    struct zr_str item, rest = text;
    while (rest.len && zl_split(&rest, ',', &item)) {
        item = zl_trim(item);
        if (item.len == 0) continue;
        struct zr_str value = item, key;
        zl_split(&value, '=', &key);
        uint32_t has_value = key.len < item.len;
        if (has_value && !memchr(key.ptr, '+', key.len)) return wrong(d, "add/alter attribute format is wrong: ", key);
        if (!has_value && !memchr(key.ptr, '-', key.len)) return wrong(d, "delete attribute format is wrong: ", key);
        zr_status status = apply_attribute(d, key, has_value ? value : (struct zr_str){ NULL, 0 });
        if (status != ZR_OK) return status;
    }
    return ZR_OK;
}

/* Name and rights; answers the refusal itself. */
static uint32_t refuse_name(struct zr_inst *inst, const struct zr_request *req, struct zr_str name)
{
    char why[300];
    if (zl_topic_check(name, why, sizeof why) != ZR_OK) {
        admin_refuse(inst, req, CODE_INVALID_PARAMETER, "%s", why);
        return 1;
    }
    struct admin_topic t;
    if ((admin_topic(inst, name, &t) && t.system) || zl_starts(name, "rmq_sys_")) {
        admin_refuse(inst, req, CODE_INVALID_PARAMETER, "The topic[%.*s] is conflict with system topic.", (int)name.len, name.ptr);
        return 1;
    }
    return 0;
}

/* An answer that leaves when the registries know the topic, and the disk. */
struct announced { struct zr_inst *inst; struct zr_token *token; };

static void on_kept(void *ctx, zr_status status)
{
    struct announced *a = ctx;
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = CODE_OK };
    if (status != ZR_OK) {
        answer.code = CODE_SYSTEM_ERROR;
        answer.remark = zl_str(ADMIN_NOT_KEPT);
    }
    a->inst->reply->answer(a->inst->host, a->token, &answer);
    free(a);
}

static void on_announced(void *ctx, zr_status status)
{
    struct announced *a = ctx;
    (void)status; /* a name server that is away learns it later; the topic is there */
    if (ZR_HAS(struct zr_broker_v1, a->inst->broker, when_durable))
        a->inst->broker->when_durable(a->inst->host, ZR_DOCUMENT_TOPICS, on_kept, a);
    else
        on_kept(a, ZR_OK);
}

static zr_status put_and_answer(struct zr_inst *inst, const struct zr_request *req, const struct zr_topic *topic)
{
    struct announced *a = malloc(sizeof *a);
    if (!a || !(a->token = inst->reply->hold(inst->host, req->token))) {
        free(a);
        return ZR_ENOMEM;
    }
    a->inst = inst;
    zr_status status = inst->broker->put_topic(inst->host, topic, on_announced, a);
    if (status == ZR_OK) return ZR_OK;
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = CODE_SYSTEM_ERROR, .remark = ZR_STR("the topic could not be stored") };
    inst->reply->answer(inst->host, a->token, &answer);
    free(a);
    return ZR_OK;
}

static zr_status handle_create(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str name = admin_ext(req, "topic"), filter = admin_ext(req, "topicFilterType");
    if (refuse_name(inst, req, name)) return ZR_OK;
    if (filter.len && !zl_is(filter, "SINGLE_TAG") && !zl_is(filter, "MULTI_TAG"))
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "topicFilterType = [%.*s] value invalid", (int)filter.len, filter.ptr);
    int64_t read = admin_ext_i64(req, "readQueueNums", 16), write = admin_ext_i64(req, "writeQueueNums", 16), perm = admin_ext_i64(req, "perm", 6);
    if (read < 0 || write < 0 || read > 65536 || write > 65536)
        return admin_refuse(inst, req, CODE_INVALID_PARAMETER, "readQueueNums %lld and writeQueueNums %lld must be within 0 and 65536", (long long)read, (long long)write);
    if (perm < 0 || perm > 7) return admin_refuse(inst, req, CODE_INVALID_PARAMETER, "perm %lld must be within 0 and 7", (long long)perm);
    struct draft d = { .topic = { .hdr = ZR_HDR(struct zr_topic, 0), .name = name } };
    d.topic.attributes = d.attributes;
    inst->broker->topic(inst->host, name, take_present, &d);
    d.topic.read_queues = (int32_t)read;
    d.topic.write_queues = (int32_t)write;
    d.topic.perm = (int32_t)perm;
    d.topic.sys_flag = (int32_t)admin_ext_i64(req, "topicSysFlag", 0);
    d.topic.multi_tag = zl_is(filter, "MULTI_TAG");
    d.topic.order = admin_ext_bool(req, "order", 0);
    zr_status status = apply_text(&d, admin_ext(req, "attributes"));
    int32_t type = find_attribute(&d, zl_str("message.type"));
    if (status != ZR_OK) status = admin_refuse(inst, req, CODE_SYSTEM_ERROR, "%s", d.why);
    else if (type >= 0 && zl_is(d.attributes[type].value, "MIXED")) status = admin_refuse(inst, req, CODE_INVALID_PARAMETER, "MIXED message type is not supported.");
    else status = put_and_answer(inst, req, &d.topic);
    draft_free(&d);
    return status;
}

static void draft_from_json(struct draft *d, const struct zl_json *t)
{
    d->topic.name = zl_json_get_str(t, "topicName");
    d->topic.read_queues = (int32_t)zl_json_get_i64(t, "readQueueNums", 16);
    d->topic.write_queues = (int32_t)zl_json_get_i64(t, "writeQueueNums", 16);
    d->topic.perm = (int32_t)zl_json_get_i64(t, "perm", 6);
    d->topic.sys_flag = (int32_t)zl_json_get_i64(t, "topicSysFlag", 0);
    d->topic.multi_tag = zl_is(zl_json_get_str(t, "topicFilterType"), "MULTI_TAG");
    d->topic.order = zl_json_get_bool(t, "order", 0);
}

static zr_status put_listed(struct zr_inst *inst, const struct zl_json *t, char *why, size_t cap)
{
    struct draft d = { .topic = { .hdr = ZR_HDR(struct zr_topic, 0) } };
    d.topic.attributes = d.attributes;
    inst->broker->topic(inst->host, zl_json_get_str(t, "topicName"), take_present, &d);
    draft_from_json(&d, t);
    const struct zl_json *attributes = zl_json_get(t, "attributes");
    zr_status status = ZR_OK;
    for (const struct zl_json *a = attributes ? attributes->child : NULL; a && status == ZR_OK; a = a->next) status = apply_attribute(&d, a->key, zl_json_str(a));
    if (status == ZR_OK) status = inst->broker->put_topic(inst->host, &d.topic, NULL, NULL);
    else snprintf(why, cap, "%s", d.why);
    draft_free(&d);
    return status;
}

static zr_status handle_create_list(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at = 0;
    if (zl_json_parse((struct zr_str){ (const char *)req->body.ptr, req->body.len }, &doc, &root, &at) != ZR_OK)
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "the body is not JSON at byte %llu", (unsigned long long)at);
    const struct zl_json *list = zl_json_get(root, "topicConfigList");
    char why[256] = "";
    zr_status status = ZR_OK;
    for (const struct zl_json *t = list ? list->child : NULL; t; t = t->next) {
        if (refuse_name(inst, req, zl_json_get_str(t, "topicName"))) {
            zl_json_free(doc);
            return ZR_OK;
        }
    }
    for (const struct zl_json *t = list ? list->child : NULL; t && status == ZR_OK; t = t->next) status = put_listed(inst, t, why, sizeof why);
    zl_json_free(doc);
    return status == ZR_OK ? admin_ok_durable(inst, req, ZR_DOCUMENT_TOPICS) : admin_refuse(inst, req, CODE_SYSTEM_ERROR, "%s", why[0] ? why : "the topics could not be stored");
}

static zr_status handle_delete(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str name = zl_trim(admin_ext(req, "topic"));
    if (name.len == 0) return admin_refuse(inst, req, CODE_INVALID_PARAMETER, "The specified topic is blank.");
    zr_status status = inst->broker->remove_topic(inst->host, name);
    if (status == ZR_EPERM) return admin_refuse(inst, req, CODE_INVALID_PARAMETER, "The topic[%.*s] is conflict with system topic.", (int)name.len, name.ptr);
    if (status != ZR_OK && status != ZR_ENOENT) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "topic %.*s could not be removed wholly", (int)name.len, name.ptr);
    return admin_ok_durable(inst, req, ZR_DOCUMENT_TOPICS);
}

static void print_one(void *ctx, const struct zr_topic *t) { zl_topic_print(ctx, t); }

static zr_status handle_get(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf out;
    struct zl_jw w;
    struct zr_str name = admin_ext(req, "topic");
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    if (inst->broker->topic(inst->host, name, print_one, &w) != ZR_OK) {
        zl_buf_free(&out);
        return admin_refuse(inst, req, CODE_TOPIC_NOT_EXIST, "No topic in this broker. topic: %.*s", (int)name.len, name.ptr);
    }
    return admin_body(inst, req, &out, NULL);
}

static int32_t collect_name(void *ctx, const struct zr_topic *t)
{
    names_add(ctx, t->name);
    return 0;
}

static int32_t collect_system(void *ctx, const struct zr_topic *t)
{
    if (t->system) names_add(ctx, t->name);
    return 0;
}

static zr_status handle_system_list(struct zr_inst *inst, const struct zr_request *req)
{
    struct names names = { 0 };
    struct zl_buf out;
    struct zl_jw w;
    inst->broker->each_topic(inst->host, collect_system, &names);
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    print_names(&w, "topicList", &names);
    zl_jw_end(&w, '}');
    names_free(&names);
    return admin_body(inst, req, &out, NULL);
}

/* The part of the names that a paged request asks for: [*from, *to). */
static void page_of(const struct zr_request *req, const char *seq_name, const char *max_name, const struct zr_data_version *version, uint64_t n, uint64_t *from, uint64_t *to)
{
    *from = 0;
    *to = n;
    int64_t seq = admin_ext_i64(req, seq_name, -1), max = admin_ext_i64(req, max_name, MAX_PAGE);
    struct zr_str known = admin_ext(req, "dataVersion");
    if (seq < 0 && known.len == 0 && admin_ext(req, max_name).len == 0) return;
    if (seq > 0) {
        struct zl_json_doc *doc = NULL;
        const struct zl_json *root = NULL;
        uint64_t at;
        uint32_t same = zl_json_parse(known, &doc, &root, &at) == ZR_OK && zl_json_get_i64(root, "counter", -1) == version->counter &&
                        zl_json_get_i64(root, "timestamp", -1) == version->timestamp && zl_json_get_i64(root, "stateVersion", 0) == version->state_version;
        zl_json_free(doc);
        if (same) *from = (uint64_t)seq > n ? n : (uint64_t)seq;
    }
    if (max < 1 || max > MAX_PAGE) max = MAX_PAGE;
    if (*to > *from + (uint64_t)max) *to = *from + (uint64_t)max;
}

static zr_status handle_get_all(struct zr_inst *inst, const struct zr_request *req)
{
    struct names names = { 0 };
    struct zr_data_version version;
    struct zl_buf out;
    struct zl_jw w;
    uint64_t from, to;
    inst->broker->topic_version(inst->host, &version);
    inst->broker->each_topic(inst->host, collect_name, &names);
    names_sort(&names);
    page_of(req, "topicSeq", "maxTopicNum", &version, names.n, &from, &to);
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_version_print(&w, "dataVersion", &version);
    zl_version_print(&w, "mappingDataVersion", &(struct zr_data_version){ .timestamp = version.timestamp });
    zl_jw_key(&w, zl_str("topicConfigTable"));
    zl_jw_begin(&w, '{');
    for (uint64_t i = from; i < to; i++) {
        struct admin_topic there;
        if (!admin_topic(inst, zl_str(names.list[i]), &there)) continue;
        zl_jw_key(&w, zl_str(names.list[i]));
        if (inst->broker->topic(inst->host, zl_str(names.list[i]), print_one, &w) != ZR_OK) zl_jw_raw(&w, zl_str("{}"));
    }
    zl_jw_end(&w, '}');
    zl_jw_key(&w, zl_str("topicQueueMappingDetailMap"));
    zl_jw_raw(&w, zl_str("{}"));
    zl_jw_key(&w, zl_str("topicQueueMappingInfoMap"));
    zl_jw_raw(&w, zl_str("{}"));
    zl_jw_end(&w, '}');
    struct zl_fields fields = { .n = 0 };
    zl_fields_i64(&fields, "totalTopicNum", (int64_t)names.n);
    names_free(&names);
    return admin_body(inst, req, &out, &fields);
}

const struct zr_handler admin_topic_handlers[] = {
    ADMIN_HANDLER(17, "UPDATE_AND_CREATE_TOPIC", ZR_HANDLER_GUARDED, handle_create),
    ADMIN_HANDLER(18, "UPDATE_AND_CREATE_TOPIC_LIST", ZR_HANDLER_GUARDED, handle_create_list),
    ADMIN_HANDLER(21, "GET_ALL_TOPIC_CONFIG", 0, handle_get_all),
    ADMIN_HANDLER(215, "DELETE_TOPIC_IN_BROKER", ZR_HANDLER_GUARDED, handle_delete),
    ADMIN_HANDLER(305, "GET_SYSTEM_TOPIC_LIST_FROM_BROKER", 0, handle_system_list),
    ADMIN_HANDLER(351, "GET_TOPIC_CONFIG", 0, handle_get),
};
const uint32_t admin_n_topic_handlers = sizeof admin_topic_handlers / sizeof *admin_topic_handlers;
