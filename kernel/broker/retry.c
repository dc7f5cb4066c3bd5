/* SPDX-License-Identifier: Apache-2.0 */
/* retry.c - code 36 CONSUMER_SEND_MSG_BACK: a consumer failed with a message and wants it again later.
 *
 * The message goes to %RETRY%<group> with a delay level, or to %DLQ%<group> after too many times. The level is what
 * feature-delay works on; without that plugin the message is refused, and its consumer keeps it and comes again later:
 * given back at once it would be a dead letter within milliseconds. Runs on a worker: the record may have to come from
 * the disk.
 *
 * A group with a retry policy of its own (policy.c) has its messages wait by that: as timed ones, if those are on. Such a
 * one has TIMER_DELAY_MS and no DELAY, all others have a DELAY; feature-delay tells them apart by that. The consumer's own
 * word (delayLevel above 0) goes before it.
 *
 * How often it failed is what its record says, which a client wrote: below 0 counts as 0, and it never passes INT32_MAX.
 *
 * A dead letter keeps all that the message had, and tells where it came from and why it is dead (zl_props_dead). */
#include "broker/internal.h"

#define MOST_LEVEL 64 /* beyond any ladder of delay levels; feature-delay takes its last one */

struct send_back {
    struct zr_str group;
    int64_t offset;
    int32_t delay_level, max_times;
    uint32_t unit_mode, has_max;
};

static zr_status header_read(const struct zr_request *req, struct send_back *ret)
{
    memset(ret, 0, sizeof *ret);
    ret->group = zl_field(req->fields, req->n_fields, "group");
    ret->unit_mode = zl_field_bool(req->fields, req->n_fields, "unitMode", 0);
    ret->has_max =
        req->version >= 121 && zl_field_i32(req->fields, req->n_fields, "maxReconsumeTimes", &ret->max_times) == ZR_OK;
    if (!ret->group.len || zl_field_i64(req->fields, req->n_fields, "offset", &ret->offset) != ZR_OK ||
        zl_field_i32(req->fields, req->n_fields, "delayLevel", &ret->delay_level) != ZR_OK)
        return ZR_EINVAL;
    return ZR_OK;
}

/* The topic with a reference; made and announced if it is not there. */
static struct zb_topic *topic_for(const char *prefix, struct zr_str group, int32_t queues, int32_t sys_flag)
{
    char text[ZB_NAME_MAX];
    uint32_t is_new = 0;
    struct zb_topic *t = NULL;
    struct zr_str name = zb_cat(text, ZL_RETRY_TOPIC_MAX, prefix, group);
    if (!name.ptr || zb_topic_ensure(name, queues, ZR_PERM_READ | ZR_PERM_WRITE, sys_flag, 0, &t, &is_new) != ZR_OK)
        return NULL;
    if (is_new)
        zb_announce(&t->name, 1, NULL, NULL);
    return t;
}

static void pair_add(struct zl_buf *out, const char *name, struct zr_str value)
{
    zl_props_add(out, zl_str(name), value);
}

/* Properties of the copy. dead NULL: it is none. wait_ms: instead of a level, -1: none. */
static void props_build(struct zl_buf *out, const struct zl_record *r, const char *dead, int32_t level, int64_t wait_ms)
{
    static const char *const plain[] = { "WAIT", "DELAY", "DLQ_REASON", NULL };
    static const char *const timed[] = { "WAIT", "DELAY", "DLQ_REASON", "TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS", "TIMER_OUT_MS",
                                         "TIMER_ENQUEUE_MS", "TIMER_DEQUEUE_MS", "TIMER_ROLL_TIMES", "TIMER_DEL_UNIQKEY", NULL };
    char text[57], number[24];
    struct zr_str origin = zl_props_get(r->properties, "ORIGIN_MESSAGE_ID");
    if (!origin.len)
        origin = (struct zr_str){ text, zl_offset_id(text, &r->store_host, r->physical_offset) };
    uint32_t has_origin = zl_props_get(r->properties, "ORIGIN_MESSAGE_ID").len != 0;
    uint32_t has_retry = zl_props_get(r->properties, "RETRY_TOPIC").len != 0;
    zl_props_copy(out, r->properties, wait_ms >= 0 ? timed : plain);
    if (!has_retry)
        pair_add(out, "RETRY_TOPIC", r->topic);
    if (!has_origin)
        pair_add(out, "ORIGIN_MESSAGE_ID", origin);
    pair_add(out, "WAIT", zl_str("false"));
    if (dead) {
        pair_add(out, "DELAY", zl_str("-1"));
        zl_props_dead(out, r->properties, r->topic, dead);
    } else if (wait_ms >= 0) {
        pair_add(out, "TIMER_DELAY_MS", (struct zr_str){ number, zl_print_i64(number, wait_ms) });
    } else {
        pair_add(out, "DELAY", (struct zr_str){ number, zl_print_i64(number, level) });
    }
}

static void back_done(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct zr_token *token = ctx;
    char remark[700];
    if (n == 1 && puts[0].status == ZR_PENDING) {
        zk_answer_code(token, ZB_SUCCESS, NULL); /* a hook took it over */
    } else if (n == 1 && puts[0].status == ZR_OK) {
        zk_answer_code(token, status == ZR_OK ? ZB_SUCCESS : ZB_SYSTEM_ERROR, status == ZR_OK ? NULL : "%s",
                       "FLUSH_DISK_TIMEOUT");
    } else {
        if (n == 1)
            zb_put_remark(&puts[0], remark, sizeof remark);
        zk_answer_code(token, ZB_SYSTEM_ERROR, "%s", n == 1 ? remark : "memory ran out");
    }
}

static zr_status back_store(const struct zr_request *req, const struct send_back *b, const struct zl_record *r,
                            const struct zb_group *g, struct zb_topic *topic, int32_t queue_id, const char *dead)
{
    struct zl_buf props;
    int32_t failed = r->reconsume_times < 0 ? 0 : r->reconsume_times;
    int32_t level = b->delay_level > 0 ? b->delay_level : failed < MOST_LEVEL - 3 ? 3 + failed : MOST_LEVEL;
    uint32_t by_policy = !dead && b->delay_level == 0 && zb.set.timer_wheel;
    int64_t wait_ms = by_policy ? zb_policy_delay(g->retry_policy, failed) : -1;
    if (!dead && !zb.has_delay)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR,
                              "a message that is given back needs the plugin feature-delay, which is not loaded");
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0),
                        .topic = topic->name,
                        .body = r->body,
                        .born_ms = r->born_ms,
                        .born_host = r->born_host,
                        .queue_id = queue_id,
                        .flag = r->flag,
                        .sys_flag = r->sys_flag & ~ZR_SYSFLAG_TRANSACTION_MASK,
                        .reconsume_times = failed < INT32_MAX ? failed + 1 : failed,
                        .flags = ZR_MSG_NO_WAIT | ZR_MSG_OWN,
                        .inner_num = 1,
                        .tags_code = zl_tags_code(zl_props_get(r->properties, "TAGS")) };
    zl_buf_init(&props, ZL_MAX_PROPERTIES);
    props_build(&props, r, dead, level, wait_ms);
    if (props.failed) {
        zl_buf_free(&props);
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "PROPERTIES_SIZE_EXCEEDED");
    }
    m.properties = zl_buf_as_span(&props);
    struct zr_token *token = req->token->flags & ZK_TOKEN_HELD ? req->token : zk_token_hold(req->token);
    struct zr_request copy = *req;
    copy.token = token;
    if (token)
        zb_publish(&m, 1, 0, &copy, back_done, token);
    zl_buf_free(&props);
    return token ? ZR_OK : zk_answer_code(req->token, ZB_SYSTEM_ERROR, "memory ran out");
}

static zr_status back_record(const struct zr_request *req, const struct send_back *b, const struct zb_group *g,
                             struct zb_topic *retry)
{
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    zr_status status = zb.storage->record_at(zb.storage_inst, b->offset, &piece, &pin);
    if (status != ZR_OK || !piece.ptr ||
        zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) != ZR_OK) {
        if (status == ZR_OK && pin)
            zb.storage->unpin(zb.storage_inst, pin);
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "look message by offset failed, %lld", (long long)b->offset);
    }
    int32_t max = b->has_max ? b->max_times : g->retry_max_times;
    char reason[64];
    uint32_t dlq = r.reconsume_times >= max || b->delay_level < 0;
    if (b->delay_level < 0)
        snprintf(reason, sizeof reason, "given up by the consumer");
    else
        snprintf(reason, sizeof reason, "failed %d times, allowed %d", r.reconsume_times, max);
    struct zb_topic *target = dlq ? topic_for(ZB_DLQ_PREFIX, b->group, 1, 0) : zb_topic_ref(retry);
    if (!target)
        status = zk_answer_code(req->token, ZB_SYSTEM_ERROR, "topic[%%DLQ%%%.*s] not exist", (int)b->group.len,
                                b->group.ptr);
    else
        status = back_store(
            req, b, &r, g, target,
            dlq || g->retry_queues <= 1 ? 0 : (int32_t)((uint64_t)zk_mono_ns() / 64 % (uint32_t)g->retry_queues), dlq ? reason : NULL);
    zb_topic_unref(target);
    if (pin)
        zb.storage->unpin(zb.storage_inst, pin);
    return status;
}

zr_status zb_retry_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct send_back b;
    (void)inst;
    if (atomic_load(&zb.stopping))
        return zk_answer_code(req->token, ZB_SERVICE_NOT_AVAILABLE,
                              "service not available now: the broker is shutting down");
    if (zb.slave)
        return zk_answer_code(req->token, ZB_SYSTEM_BUSY, "[REJECTREQUEST]system busy, start flow control for a while");
    if (header_read(req, &b) != ZR_OK)
        return zk_answer_code(req->token, ZB_SYSTEM_ERROR, "group, offset and delayLevel are needed");
    struct zb_group *g = zb_group_get(b.group, 1);
    if (!g)
        return zk_answer_code(req->token, ZB_SUBSCRIPTION_GROUP_NOT_EXIST, "subscription group not exist, %.*s " ZB_FAQ,
                              (int)b.group.len, b.group.ptr);
    struct zb_topic *retry = NULL;
    zr_status status;
    if (!(ZB_SET(broker_permission) & ZR_PERM_WRITE))
        status = zk_answer_code(req->token, ZB_NO_PERMISSION, "the broker[%s] sending message is forbidden", zb.ip1);
    else if (g->retry_queues <= 0)
        status = zk_answer_code(req->token, ZB_SUCCESS, NULL);
    else if (!(retry = topic_for(ZB_RETRY_PREFIX, b.group, g->retry_queues, b.unit_mode ? 2 : 0)))
        status = zk_answer_code(req->token, ZB_SYSTEM_ERROR, "topic[%%RETRY%%%.*s] not exist", (int)b.group.len,
                                b.group.ptr);
    else if (!(retry->perm & ZR_PERM_WRITE))
        status = zk_answer_code(req->token, ZB_NO_PERMISSION, "the topic[%.*s] sending message is forbidden",
                                (int)retry->name.len, retry->name.ptr);
    else
        status = back_record(req, &b, g, retry);
    zb_topic_unref(retry);
    zb_group_unref(g);
    return status;
}
