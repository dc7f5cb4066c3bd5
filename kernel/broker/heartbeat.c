/* SPDX-License-Identifier: Apache-2.0 */
/* heartbeat.c - codes 34 HEART_BEAT, 35 UNREGISTER_CLIENT, 38 GET_CONSUMER_LIST_BY_GROUP, 46 CHECK_CLIENT_CONFIG.
 *
 * A heartbeat is handled in two steps. First every group it names gets its %RETRY% topic; if one of them is new, the
 * rest waits until the registries know it (clients look for its route as soon as they have the answer). Then members
 * are registered, told of changes (40), and only then the heartbeat is answered. */
#include "broker/internal.h"

#define MAX_GROUPS 1024u    /* in one heartbeat, of either kind */
#define MAX_SUBS 8192u      /* of one group in one heartbeat */
#define MAX_BODY (4u << 20) /* bytes: it is taken apart on an I/O thread */

struct heartbeat {
    struct zl_json_doc *doc;
    const struct zl_json *root;
    struct zr_str client_id;
    int32_t fingerprint;
    uint32_t without_sub;
};

static uint32_t type_of(struct zr_str s)
{
    if (zl_is(s, "CONSUME_ACTIVELY"))
        return ZR_CONSUME_ACTIVELY;
    return zl_is(s, "CONSUME_POP") ? ZR_CONSUME_POP : ZR_CONSUME_PASSIVELY;
}

static uint32_t model_of(struct zr_str s)
{
    if (zl_is(s, "BROADCASTING"))
        return ZR_MODEL_BROADCASTING;
    return zl_is(s, "LITE_SELECTIVE") ? ZR_MODEL_LITE_SELECTIVE : ZR_MODEL_CLUSTERING;
}

static const char *from_where_of(struct zr_str s)
{
    static const char *const names[] = { "CONSUME_FROM_LAST_OFFSET",
                                         "CONSUME_FROM_LAST_OFFSET_AND_FROM_MIN_WHEN_BOOT_FIRST",
                                         "CONSUME_FROM_MIN_OFFSET",
                                         "CONSUME_FROM_MAX_OFFSET",
                                         "CONSUME_FROM_FIRST_OFFSET",
                                         "CONSUME_FROM_TIMESTAMP",
                                         NULL };
    for (uint32_t i = 0; names[i]; i++)
        if (zl_is(s, names[i]))
            return names[i];
    return names[0];
}

/* ZR_EINVAL: not a heartbeat. */
static zr_status heartbeat_parse(struct zr_span body, struct heartbeat *ret)
{
    uint64_t at = 0;
    if (body.len > MAX_BODY ||
        zl_json_parse((struct zr_str){ (const char *)body.ptr, body.len }, &ret->doc, &ret->root, &at) != ZR_OK)
        return ZR_EINVAL;
    ret->client_id = zl_json_get_str(ret->root, "clientID");
    ret->fingerprint = (int32_t)zl_json_get_i64(ret->root, "heartbeatFingerprint", 0);
    ret->without_sub = zl_json_get_bool(ret->root, "withoutSub", 0);
    if (ret->root->kind == ZL_JSON_OBJECT && ret->client_id.len > 0 && ret->client_id.len <= ZB_NAME_MAX)
        return ZR_OK;
    zl_json_free(ret->doc);
    return ZR_EINVAL;
}

static const struct zl_json *list_of(const struct heartbeat *h, const char *name)
{
    const struct zl_json *list = zl_json_get(h->root, name);
    return list && list->kind == ZL_JSON_ARRAY ? list->child : NULL;
}

static uint32_t group_usable(struct zr_str group)
{
    return group.len > 0 && group.len <= ZL_RETRY_TOPIC_MAX;
}

static uint32_t consumer_skipped(const struct zl_json *entry)
{
    return !group_usable(zl_json_get_str(entry, "groupName")) ||
           (ZB_SET(reject_pull_consumer) && type_of(zl_json_get_str(entry, "consumeType")) == ZR_CONSUME_ACTIVELY);
}

static uint32_t any_order_topic(struct zb_lane *lane, const struct zl_json *entry)
{
    const struct zl_json *subs = zl_json_get(entry, "subscriptionDataSet");
    for (const struct zl_json *s = subs ? subs->child : NULL; s; s = s->next) {
        struct zr_str name = zl_json_get_str(s, "topic");
        struct zb_topic *t = name.len ? zb_lane_topic(lane, name) : NULL;
        if (t && t->order)
            return 1;
    }
    return 0;
}

struct made { /* names of new topics, text in arena */
    struct zk_arena arena;
    struct zr_str *names;
    uint32_t any, n; /* any without n: memory ran out for the names, all topics are announced */
};

static void made_add(struct made *m, struct zr_str name)
{
    if (!m->names && !m->any)
        m->names = zk_arena_alloc(&m->arena, MAX_GROUPS * sizeof *m->names);
    struct zr_str copy = m->names ? zk_arena_str(&m->arena, name) : (struct zr_str){ NULL, 0 };
    m->any = 1;
    if (copy.ptr) {
        m->names[m->n++] = copy;
    } else {
        m->names = NULL;
        m->n = 0;
    }
}

/* Step one: %RETRY% topics of the groups that step two registers. */
static void make_retry_topics(struct zb_lane *lane, const struct heartbeat *h, struct made *made)
{
    uint32_t seen = 0;
    for (const struct zl_json *e = list_of(h, "consumerDataSet"); e && seen < MAX_GROUPS; e = e->next, seen++) {
        char text[ZB_NAME_MAX];
        uint32_t is_new = 0;
        struct zr_str group = zl_json_get_str(e, "groupName");
        struct zb_group *g = consumer_skipped(e) ? NULL : zb_lane_group(lane, group, 1);
        struct zr_str name = g ? zb_cat(text, ZL_RETRY_TOPIC_MAX, ZB_RETRY_PREFIX, group) : (struct zr_str){ NULL, 0 };
        if (!name.ptr || zb_lane_topic(lane, name))
            continue;
        zr_status status =
            zb_topic_ensure(name, g->retry_queues, ZR_PERM_READ | ZR_PERM_WRITE,
                            zl_json_get_bool(e, "unitMode", 0) ? 2 : 0, any_order_topic(lane, e), NULL, &is_new);
        if (status == ZR_OK && is_new)
            made_add(made, name);
    }
}

static zr_status sub_make(const struct zl_json *node, struct zk_arena *arena, struct zb_sub **ret)
{
    const struct zl_json *tags = zl_json_get(node, "tagsSet"), *codes = zl_json_get(node, "codeSet");
    struct zr_subscription conf = { .hdr = ZR_HDR(struct zr_subscription, 0),
                                    .topic = zl_json_get_str(node, "topic"),
                                    .text = zl_json_get_str(node, "subString"),
                                    .expression_type = zl_json_get_str(node, "expressionType"),
                                    .version = zl_json_get_i64(node, "subVersion", 0),
                                    .class_filter = zl_json_get_bool(node, "classFilterMode", 0) };
    uint32_t n_tags = tags && tags->kind == ZL_JSON_ARRAY ? tags->n : 0,
             n_codes = codes && codes->kind == ZL_JSON_ARRAY ? codes->n : 0;
    struct zr_str *t = zk_arena_alloc(arena, (n_tags + 1) * sizeof *t);
    int32_t *c = zk_arena_alloc(arena, (n_codes + 1) * sizeof *c);
    if (!t || !c)
        return ZR_ENOMEM;
    if (conf.topic.len == 0 || conf.topic.len > ZL_RETRY_TOPIC_MAX)
        return ZR_EINVAL;
    for (const struct zl_json *j = n_tags ? tags->child : NULL; j; j = j->next)
        t[conf.n_tags++] = zl_json_str(j);
    for (const struct zl_json *j = n_codes ? codes->child : NULL; j; j = j->next)
        c[conf.n_codes++] = (int32_t)zl_json_i64(j, 0);
    conf.tags = t;
    conf.codes = c;
    *ret = zb_sub_new(&conf);
    return *ret ? ZR_OK : ZR_ENOMEM;
}

static zr_status register_consumer(struct zb_lane *lane, struct zb_peer *peer, const struct heartbeat *h,
                                   const struct zl_json *e, const struct zr_request *req, uint32_t *sub_changed)
{
    struct zk_arena arena;
    struct zr_str group = zl_json_get_str(e, "groupName");
    struct zb_group *g = zb_lane_group(lane, group, 1);
    const struct zl_json *subs = zl_json_get(e, "subscriptionDataSet");
    if (!g)
        return ZR_OK;
    struct zb_consumer c = { .group = group,
                             .client_id = h->client_id,
                             .consume_type = type_of(zl_json_get_str(e, "consumeType")),
                             .model = model_of(zl_json_get_str(e, "messageModel")),
                             .from_where = from_where_of(zl_json_get_str(e, "consumeFromWhere")),
                             .with_subs = !(h->fingerprint && h->without_sub),
                             .language = req->language,
                             .version = req->version,
                             .fingerprint = h->fingerprint,
                             .notify = g->notify };
    uint32_t n = subs && subs->kind == ZL_JSON_ARRAY && c.with_subs ? subs->n : 0;
    zr_status status = n > MAX_SUBS ? ZR_EFULL : ZR_OK;
    zk_arena_init(&arena, 16u << 10, 64u << 20);
    c.subs = zk_arena_alloc(&arena, (n + 1) * sizeof *c.subs);
    for (const struct zl_json *s = n ? subs->child : NULL; s && c.subs && status == ZR_OK; s = s->next) {
        zr_status one = sub_make(s, &arena, &c.subs[c.n_subs]);
        c.n_subs += one == ZR_OK;
        status = one == ZR_ENOMEM ? one : ZR_OK;
    }
    if (status == ZR_OK)
        status = c.subs ? zb_consumer_register(peer, &c, sub_changed) : ZR_ENOMEM;
    for (uint32_t i = 0; c.subs && i < c.n_subs; i++)
        zb_sub_unref(c.subs[i]);
    zk_arena_free(&arena);
    return status;
}

/* Step two. Uses up the token. */
static zr_status heartbeat_register(struct zb_lane *lane, const struct zr_request *req, const struct heartbeat *h)
{
    struct zb_peer *peer = zb_peer_of(req->session);
    uint32_t sub_changed = h->fingerprint == 0, n = 0;
    zr_status status = peer ? ZR_OK : ZR_ENOMEM;
    for (const struct zl_json *e = list_of(h, "consumerDataSet"); e && status == ZR_OK && n < MAX_GROUPS;
         e = e->next, n++)
        if (!consumer_skipped(e))
            status = register_consumer(lane, peer, h, e, req, &sub_changed);
    n = 0;
    for (const struct zl_json *e = list_of(h, "producerDataSet"); e && status == ZR_OK && n < MAX_GROUPS;
         e = e->next, n++) {
        struct zr_str group = zl_json_get_str(e, "groupName");
        if (group_usable(group))
            status = zb_producer_register(peer, group, h->client_id, req->language, req->version);
    }
    if (status != ZR_OK && status != ZR_ECLOSED)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "the heartbeat cannot be taken: %s",
                              status != ZR_EFULL   ? "memory ran out"
                              : zb_peer_full(peer) ? "the connection is in too many groups already (maxGroupsOfConnection)"
                                                   : "a limit (maxClients, or subscriptions of one group) is reached");
    struct zr_field f[2] = { { ZR_STR("IS_SUPPORT_HEART_BEAT_V2"), ZR_STR("true") },
                             { ZR_STR("IS_SUB_CHANGE"), zl_str(sub_changed ? "true" : "false") } };
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0), .code = ZB_SUCCESS, .n_fields = 2, .fields = f };
    return zk_answer(req->token, &c);
}

static void heartbeat_go_on(struct zb_lane *lane, struct zb_job *job)
{
    struct zb_deferred *d = (struct zb_deferred *)(void *)job;
    struct heartbeat h;
    zb_lane_fresh(lane);
    struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
    zk_session_info(d->req.session, &info);
    if (!info.open || heartbeat_parse(d->req.body, &h) != ZR_OK) {
        zk_token_drop(d->req.token);
    } else {
        heartbeat_register(lane, &d->req, &h);
        zl_json_free(h.doc);
    }
    zb_request_free(d);
}

static void retry_topics_known(void *ctx, zr_status status)
{
    struct zb_deferred *d = ctx;
    (void)status;
    zb_lane_post(d->lane, &d->job);
}

zr_status zb_heartbeat_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zb_lane *lane = zb_lane_of(req->session);
    struct heartbeat h;
    struct made made = { .names = NULL };
    if (heartbeat_parse(req->body, &h) != ZR_OK)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "the heartbeat's body cannot be understood");
    zb_lane_fresh(lane);
    zk_arena_init(&made.arena, 4u << 10, 1u << 20);
    make_retry_topics(lane, &h, &made);
    struct zb_deferred *d = made.any ? zb_request_keep(req) : NULL;
    zr_status status = ZR_OK;
    if (d) {
        d->lane = lane;
        d->job.run = heartbeat_go_on;
        zb_announce(made.names, made.n, retry_topics_known, d);
    } else {
        if (made.any)
            zb_announce(made.names, made.n, NULL, NULL);
        status = heartbeat_register(lane, req, &h);
    }
    zk_arena_free(&made.arena);
    zl_json_free(h.doc);
    return status;
}

zr_status zb_unregister_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zb_peer *peer = zk_session_broker(req->session);
    if (peer) {
        zb_client_unregister(peer, zl_field(req->fields, req->n_fields, "producerGroup"), 0);
        zb_client_unregister(peer, zl_field(req->fields, req->n_fields, "consumerGroup"), 1);
    }
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0), .code = ZB_SUCCESS, .flags = ZR_COMMAND_EMPTY_EXT };
    return zk_answer(req->token, &c);
}

zr_status zb_consumer_list_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_str group = zl_field(req->fields, req->n_fields, "consumerGroup");
    struct zl_buf body;
    zl_buf_init(&body, 64u << 20);
    uint32_t n = zb_clients_ids(group, &body);
    zr_status status;
    if (n == 0 || body.failed) {
        status =
            zk_answer_code(req->token, ZB_SYSTEM_ERROR, "no consumer for this group, %.*s", (int)group.len, group.ptr);
    } else {
        struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0),
                                .code = ZB_SUCCESS,
                                .flags = ZR_COMMAND_EMPTY_EXT,
                                .body = zl_buf_as_span(&body) };
        status = zk_answer(req->token, &c);
    }
    zl_buf_free(&body);
    return status;
}

static zr_status check_expression(const struct zr_request *req, struct zr_str type, struct zr_str text)
{
    char why[512];
    struct zb_filter *filter = NULL;
    zr_status status = zb_filter_get(type, text, NULL, 0, &filter, why, sizeof why);
    zb_filter_unref(filter);
    if (status == ZR_OK)
        return zk_answer_code(req->token, ZB_SUCCESS, NULL);
    return zk_answer_code(req->token, status == ZR_ENOTSUP ? ZB_SYSTEM_ERROR : ZB_SUBSCRIPTION_PARSE_FAILED, "%s", why);
}

zr_status zb_check_config_handle(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at = 0;
    zr_status status;
    if (req->body.len > MAX_BODY || zl_json_parse((struct zr_str){ (const char *)req->body.ptr, req->body.len }, &doc, &root, &at) != ZR_OK)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "the body cannot be understood");
    const struct zl_json *sub = zl_json_get(root, "subscriptionData");
    struct zr_str type = zl_json_get_str(sub, "expressionType");
    if (!sub || type.len == 0 || zl_is(type, "TAG"))
        status = zk_answer_code(req->token, ZB_SUCCESS, NULL);
    else if (!ZB_SET(property_filter))
        status =
            zk_answer_code(req->token, ZB_SYSTEM_ERROR,
                           "The broker does not support consumer to filter message by %.*s", (int)type.len, type.ptr);
    else
        status = check_expression(req, type, zl_json_get_str(sub, "subString"));
    zl_json_free(doc);
    return status;
}
