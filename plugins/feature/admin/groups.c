/* SPDX-License-Identifier: Apache-2.0 */
/* groups.c - subscription groups on the broker: 200, 201, 207, 225, 352, 353. */
#include <stdlib.h>
#include <string.h>

#include "admin.h"

#define MAX_ATTRIBUTES 32u
#define MAX_PAGE 2000
#define FORBID_READ 4 /* 1 << PermName.INDEX_PERM_READ */

static const char *const known_attributes[] = { "priority.factor", "lite.bind.topic", "lite.sub.model", "lite.sub.reset.offset.exclusive",
                                                "lite.sub.reset.offset.unsubscribe", "lite.sub.client.quota", "lite.sub.client.max.event.cnt", "lite.sub.wildcard" };

struct draft { struct zr_group group; struct zr_field attributes[MAX_ATTRIBUTES]; struct zl_buf retry, subscriptions; };

static uint32_t known_attribute(struct zr_str key)
{
    for (uint32_t i = 0; i < sizeof known_attributes / sizeof *known_attributes; i++)
        if (zl_is(key, known_attributes[i])) return 1;
    return 0;
}

static struct zr_str print_part(struct zl_buf *buf, const struct zl_json *node)
{
    zl_buf_init(buf, 1u << 20);
    if (node && node->kind != ZL_JSON_NULL) zl_json_print(buf, node);
    return zl_buf_as_str(buf);
}

static void draft_from_json(struct draft *d, const struct zl_json *g)
{
    d->group = (struct zr_group){ .hdr = ZR_HDR(struct zr_group, 0), .name = zl_json_get_str(g, "groupName"), .attributes = d->attributes };
    d->group.broker_id = zl_json_get_i64(g, "brokerId", 0);
    d->group.slow_broker_id = zl_json_get_i64(g, "whichBrokerWhenConsumeSlowly", 1);
    d->group.consume_enable = zl_json_get_bool(g, "consumeEnable", 1);
    d->group.consume_from_min_enable = zl_json_get_bool(g, "consumeFromMinEnable", 1);
    d->group.consume_broadcast_enable = zl_json_get_bool(g, "consumeBroadcastEnable", 1);
    d->group.consume_orderly = zl_json_get_bool(g, "consumeMessageOrderly", 0);
    d->group.notify_ids_changed = zl_json_get_bool(g, "notifyConsumerIdsChangedEnable", 1);
    d->group.retry_queues = (int32_t)zl_json_get_i64(g, "retryQueueNums", 1);
    d->group.retry_max_times = (int32_t)zl_json_get_i64(g, "retryMaxTimes", 16);
    d->group.sys_flag = (int32_t)zl_json_get_i64(g, "groupSysFlag", 0);
    d->group.consume_timeout_minute = (int32_t)zl_json_get_i64(g, "consumeTimeoutMinute", 15);
    d->group.retry_policy_json = print_part(&d->retry, zl_json_get(g, "groupRetryPolicy"));
    d->group.subscription_data_json = print_part(&d->subscriptions, zl_json_get(g, "subscriptionDataSet"));
}

static void draft_free(struct draft *d)
{
    zl_buf_free(&d->retry);
    zl_buf_free(&d->subscriptions);
}

/* Validates and stores one; ret_code with why on refusal. */
static int32_t put_one(struct zr_inst *inst, const struct zl_json *g, uint32_t only_check, char *why, uint64_t cap)
{
    if (zl_group_check(zl_json_get_str(g, "groupName"), why, cap) != ZR_OK) return CODE_INVALID_PARAMETER;
    struct draft d;
    draft_from_json(&d, g);
    const struct zl_json *attributes = zl_json_get(g, "attributes");
    int32_t code = CODE_OK;
    for (const struct zl_json *a = attributes ? attributes->child : NULL; a && code == CODE_OK; a = a->next) {
        struct zr_str key = a->key;
        if (key.len && (key.ptr[0] == '+' || key.ptr[0] == '-')) key = (struct zr_str){ key.ptr + 1, key.len - 1 };
        if (!known_attribute(key) || d.group.n_attributes == MAX_ATTRIBUTES) {
            struct zl_buf text = { .ptr = NULL };
            zl_buf_init(&text, cap);
            zl_buf_fmt(&text, "unsupported key: %.*s", (int)(key.len > 100 ? 100 : key.len), key.ptr);
            memcpy(why, text.ptr, text.len);
            why[text.len] = 0;
            zl_buf_free(&text);
            code = CODE_SYSTEM_ERROR;
        } else if (a->key.ptr[0] != '-') {
            d.attributes[d.group.n_attributes++] = (struct zr_field){ key, zl_json_str(a) };
        }
    }
    if (code == CODE_OK && !only_check && inst->broker->put_group(inst->host, &d.group) != ZR_OK) {
        strcpy(why, "the group could not be stored");
        code = CODE_SYSTEM_ERROR;
    }
    draft_free(&d);
    return code;
}

static zr_status handle_put(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at = 0;
    char why[320] = "";
    if (req->body.len == 0) return admin_ok(inst, req);
    if (zl_json_parse((struct zr_str){ (const char *)req->body.ptr, req->body.len }, &doc, &root, &at) != ZR_OK)
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "the body is not JSON at byte %llu", (unsigned long long)at);
    const struct zl_json *list = req->code == 225 ? zl_json_get(root, "groupConfigList") : NULL;
    int32_t code = CODE_OK;
    if (req->code == 200) {
        code = put_one(inst, root, 0, why, sizeof why);
    } else {
        for (uint32_t only_check = 1; only_check != UINT32_MAX && code == CODE_OK; only_check--)
            for (const struct zl_json *g = list ? list->child : NULL; g && code == CODE_OK; g = g->next) code = put_one(inst, g, only_check, why, sizeof why);
    }
    zl_json_free(doc);
    return code == CODE_OK ? admin_ok_durable(inst, req, ZR_DOCUMENT_GROUPS) : admin_refuse(inst, req, code, "%s", why);
}

static zr_status handle_delete(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str name = admin_ext(req, "groupName");
    if (name.len == 0) return admin_refuse(inst, req, CODE_INVALID_PARAMETER, "The specified group is blank.");
    inst->broker->remove_group(inst->host, name, admin_ext_bool(req, "cleanOffset", 0));
    return admin_ok_durable(inst, req, ZR_DOCUMENT_GROUPS);
}

static void print_one(void *ctx, const struct zr_group *g) { zl_group_print(ctx, g); }

static zr_status handle_get(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    if (inst->broker->group(inst->host, admin_ext(req, "group"), 1, print_one, &w) != ZR_OK) {
        zl_buf_free(&out);
        return admin_refuse(inst, req, CODE_GROUP_NOT_EXIST, "No group in this broker");
    }
    return admin_body(inst, req, &out, NULL);
}

static int32_t collect(void *ctx, const struct zr_group *g)
{
    names_add(ctx, g->name);
    return 0;
}

static int32_t collect_topic(void *ctx, const struct zr_topic *t)
{
    names_add(ctx, t->name);
    return 0;
}

static void print_forbidden(struct zr_inst *inst, struct zl_jw *w, const struct names *groups)
{
    struct names topics = { 0 };
    inst->broker->each_topic(inst->host, collect_topic, &topics);
    zl_jw_key(w, zl_str("forbiddenTable"));
    zl_jw_begin(w, '{');
    for (uint64_t g = 0; g < groups->n; g++) {
        uint32_t open = 0;
        for (uint64_t t = 0; t < topics.n; t++) {
            int32_t mask = inst->broker->forbidden(inst->host, zl_str(groups->list[g]), zl_str(topics.list[t]), -1);
            if (mask == 0) continue;
            if (!open) {
                zl_jw_key(w, zl_str(groups->list[g]));
                zl_jw_begin(w, '{');
                open = 1;
            }
            zl_jw_ki64(w, topics.list[t], mask);
        }
        if (open) zl_jw_end(w, '}');
    }
    zl_jw_end(w, '}');
    names_free(&topics);
}

static zr_status handle_get_all(struct zr_inst *inst, const struct zr_request *req)
{
    struct names names = { 0 };
    struct zr_data_version version;
    struct zl_buf out;
    struct zl_jw w;
    inst->broker->group_version(inst->host, &version);
    inst->broker->each_group(inst->host, collect, &names);
    names_sort(&names);
    int64_t seq = admin_ext_i64(req, "groupSeq", 0), max = admin_ext_i64(req, "maxGroupNum", MAX_PAGE);
    uint32_t paged = admin_ext(req, "groupSeq").len || admin_ext(req, "maxGroupNum").len;
    uint64_t from = paged && seq > 0 ? (uint64_t)seq : 0, to = names.n;
    if (from > names.n) from = names.n;
    if (paged && max > 0 && to > from + (uint64_t)max) to = from + (uint64_t)max;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_version_print(&w, "dataVersion", &version);
    print_forbidden(inst, &w, &names);
    zl_jw_key(&w, zl_str("subscriptionGroupTable"));
    zl_jw_begin(&w, '{');
    for (uint64_t i = from; i < to; i++) {
        zl_jw_key(&w, zl_str(names.list[i]));
        if (inst->broker->group(inst->host, zl_str(names.list[i]), 0, print_one, &w) != ZR_OK) zl_jw_raw(&w, zl_str("{}"));
    }
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    struct zl_fields fields = { .n = 0 };
    zl_fields_i64(&fields, "totalGroupNum", (int64_t)names.n);
    names_free(&names);
    return admin_body(inst, req, &out, &fields);
}

static zr_status handle_forbidden(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_str group = admin_ext(req, "group"), topic = admin_ext(req, "topic"), readable = admin_ext(req, "readable");
    int32_t mask = inst->broker->forbidden(inst->host, group, topic, -1);
    if (readable.len) mask = inst->broker->forbidden(inst->host, group, topic, zl_eq_nocase(readable, "true") ? mask & ~FORBID_READ : mask | FORBID_READ);
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "group", group);
    zl_jw_kbool(&w, "readable", !(mask & FORBID_READ));
    zl_jw_kstr(&w, "topic", topic);
    zl_jw_end(&w, '}');
    return readable.len ? admin_body_durable(inst, req, &out, ZR_DOCUMENT_GROUPS) : admin_body(inst, req, &out, NULL);
}

const struct zr_handler admin_group_handlers[] = {
    ADMIN_HANDLER(200, "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP", ZR_HANDLER_GUARDED, handle_put),
    ADMIN_HANDLER(201, "GET_ALL_SUBSCRIPTIONGROUP_CONFIG", 0, handle_get_all),
    ADMIN_HANDLER(207, "DELETE_SUBSCRIPTIONGROUP", ZR_HANDLER_GUARDED, handle_delete),
    ADMIN_HANDLER(225, "UPDATE_AND_CREATE_SUBSCRIPTIONGROUP_LIST", ZR_HANDLER_GUARDED, handle_put),
    ADMIN_HANDLER(352, "GET_SUBSCRIPTIONGROUP_CONFIG", 0, handle_get),
    ADMIN_HANDLER(353, "UPDATE_AND_GET_GROUP_FORBIDDEN", ZR_HANDLER_GUARDED, handle_forbidden),
};
const uint32_t admin_n_group_handlers = sizeof admin_group_handlers / sizeof *admin_group_handlers;
