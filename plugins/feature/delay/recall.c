/* SPDX-License-Identifier: Apache-2.0 */
/* recall.c - RECALL_MESSAGE 370: a producer takes a timed message back.
 *
 * The handle that the send answered says topic, broker, a time in the message's slot, and its unique key. A recall is a timed message of its
 * own, for the same slot, that names the key in TIMER_DEL_UNIQKEY; when the slot comes up, it is read before the others (due.c).
 * So it works across restarts, and in Apache's broker as well. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "delay.h"
#include "zl/buf.h"
#include "zl/codec.h"
#include "zl/record.h"
#include "zl/text.h"

#define CODE_SYSTEM_ERROR 1
#define CODE_SLAVE_NOT_AVAILABLE 11
#define CODE_SERVICE_NOT_AVAILABLE 14
#define CODE_NO_PERMISSION 16
#define CODE_TOPIC_NOT_EXIST 17
#define CODE_ILLEGAL_OPERATION 604
#define HANDLE_MAX 2048u

struct recall { /* on its way to the log */
    struct zr_inst *inst;
    struct zr_token *token;
    char id[256], region[128];
    uint64_t id_len;
};

struct handle { struct zr_str topic, broker, uniq; int64_t ms; };

static int32_t digit_of(char c)
{
    if (c >= 'A' && c <= 'Z') return c - 'A';
    if (c >= 'a' && c <= 'z') return c - 'a' + 26;
    if (c >= '0' && c <= '9') return c - '0' + 52;
    return c == '-' || c == '+' ? 62 : c == '_' || c == '/' ? 63 : -1;
}

/* base64url, with padding or without. ZR_EINVAL. */
static zr_status base64_read(struct zr_str in, char *to, uint64_t cap, uint64_t *ret_len)
{
    uint32_t bits = 0, n = 0;
    *ret_len = 0;
    while (in.len && in.ptr[in.len - 1] == '=') in.len--;
    if (in.len % 4 == 1) return ZR_EINVAL;
    for (uint64_t i = 0; i < in.len; i++) {
        int32_t v = digit_of(in.ptr[i]);
        if (v < 0 || *ret_len == cap) return ZR_EINVAL;
        bits = bits << 6 | (uint32_t)v;
        n += 6;
        if (n < 8) continue;
        n -= 8;
        to[(*ret_len)++] = (char)(bits >> n & 0xff);
    }
    return ZR_OK;
}

/* "v1 topic broker time key", in text. */
zr_status recall_handle_read(struct zr_str in, char *text, uint64_t cap, struct zr_str *ret_topic, struct zr_str *ret_broker, int64_t *ret_ms, struct zr_str *ret_uniq)
{
    uint64_t len;
    struct zr_str part;
    if (!in.len || base64_read(in, text, cap, &len) != ZR_OK) return ZR_EINVAL;
    struct zr_str rest = { text, len };
    if (!zl_split(&rest, ' ', &part) || !zl_is(part, "v1")) return ZR_EINVAL;
    if (!zl_split(&rest, ' ', ret_topic) || !zl_split(&rest, ' ', ret_broker) || !zl_split(&rest, ' ', &part) || zl_parse_i64(part, ret_ms) != ZR_OK) return ZR_EINVAL;
    return zl_split(&rest, ' ', ret_uniq) && ret_uniq->len ? ZR_OK : ZR_EINVAL;
}

static zr_status refuse(struct zr_inst *inst, struct zr_token *token, int32_t code, const char *why)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = code, .remark = zl_str(why) };
    return inst->reply->answer(inst->host, token, &answer);
}

static void is_there(void *ctx, const struct zr_topic *topic)
{
    (void)topic;
    *(uint32_t *)ctx = 1;
}

static int32_t each_key(void *ctx, struct zr_str key, struct zr_str value)
{
    struct recall *r = ctx;
    if (!zl_is(key, "regionId")) return 0;
    snprintf(r->region, sizeof r->region, "%.*s", (int)value.len, value.len ? value.ptr : "");
    return 1;
}

static void stored(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct recall *r = ctx;
    struct zr_inst *inst = r->inst;
    (void)status; /* whether the disk or a replica has it: as with Apache, stored is recalled */
    if (n == 1 && puts && puts[0].status == ZR_OK) {
        struct zr_field f[2] = { { ZR_STR("msgId"), { r->id, r->id_len } }, { ZR_STR("MSG_REGION"), zl_str(r->region) } };
        struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = 0, .n_fields = 2, .fields = f };
        inst->reply->answer(inst->host, r->token, &answer);
    } else {
        refuse(inst, r->token, CODE_SYSTEM_ERROR, "recall failed, execute error");
    }
    free(r);
    running_end(inst);
}

/* The recall's own message; properties in out. */
static void properties_make(struct zr_inst *inst, const struct handle *h, struct zr_str group, struct zl_buf *out)
{
    char text[24];
    char key[RECALL_KEY_MAX + 1];
    int n = inst->settings->recall_key_with_topic ? snprintf(key, sizeof key, "%.*s%.*s", (int)h->topic.len, h->topic.ptr, (int)h->uniq.len, h->uniq.ptr)
                                                  : snprintf(key, sizeof key, "%.*s", (int)h->uniq.len, h->uniq.ptr);
    zl_props_add(out, zl_str("TAGS"), zl_str("_RECALL_TAG_"));
    zl_props_add(out, zl_str("TIMER_DEL_UNIQKEY"), (struct zr_str){ key, n < (int)sizeof key ? (uint64_t)n : sizeof key - 1 });
    zl_props_add(out, zl_str("UNIQ_KEY"), h->uniq);
    zl_props_add(out, zl_str("TIMER_DELIVER_MS"), (struct zr_str){ text, zl_print_i64(text, h->ms) });
    zl_props_add(out, zl_str("BORN_TIMESTAMP"), (struct zr_str){ text, zl_print_i64(text, wall_ms(inst)) });
    zl_props_add(out, zl_str("PGROUP"), group);
}

static zr_status recall_put(struct zr_inst *inst, const struct zr_request *req, const struct handle *h)
{
    struct recall *r = calloc(1, sizeof *r);
    struct zl_buf props;
    if (!r || !(r->token = inst->reply->hold(inst->host, req->token))) {
        free(r);
        return refuse(inst, req->token, CODE_SYSTEM_ERROR, "recall failed, execute error");
    }
    r->inst = inst;
    r->id_len = h->uniq.len < sizeof r->id ? h->uniq.len : sizeof r->id;
    memcpy(r->id, h->uniq.ptr, r->id_len);
    inst->broker->each_config(inst->host, each_key, r);
    zl_buf_init(&props, 8192);
    properties_make(inst, h, zl_field(req->fields, req->n_fields, "producerGroup"), &props);
    struct zr_msg msg = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = h->topic, .body = { (const uint8_t *)"0", 1 }, .properties = zl_buf_as_span(&props),
                          .tags_code = zl_tags_code(zl_str("_RECALL_TAG_")), .born_ms = wall_ms(inst), .inner_num = 1 };
    pthread_mutex_lock(&inst->lock);
    inst->n_running++;
    pthread_mutex_unlock(&inst->lock);
    if (props.failed) stored(r, ZR_ENOMEM, NULL, 0);
    else inst->store->publish(inst->host, &msg, 1, 0, stored, r);
    zl_buf_free(&props);
    return ZR_OK;
}

zr_status recall_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    struct zr_str topic = zl_field(req->fields, req->n_fields, "topic");
    struct handle h;
    char text[HANDLE_MAX], why[256];
    uint32_t there = 0;
    if (!inst->settings->recall_enable || !inst->timed) return refuse(inst, req->token, CODE_NO_PERMISSION, "recall failed, operation is forbidden");
    inst->broker->identity(inst->host, &id);
    if (id.id != 0) return refuse(inst, req->token, CODE_SLAVE_NOT_AVAILABLE, "recall failed, broker service not available");
    if (!(id.permission & ZR_PERM_WRITE)) return refuse(inst, req->token, CODE_SERVICE_NOT_AVAILABLE, "recall failed, broker service not available");
    inst->broker->topic(inst->host, topic, is_there, &there);
    if (!there) {
        snprintf(why, sizeof why, "recall failed, the topic[%.*s] not exist", (int)(topic.len < 128 ? topic.len : 128), topic.len ? topic.ptr : "");
        return refuse(inst, req->token, CODE_TOPIC_NOT_EXIST, why);
    }
    if (recall_handle_read(zl_field(req->fields, req->n_fields, "recallHandle"), text, sizeof text, &h.topic, &h.broker, &h.ms, &h.uniq) != ZR_OK ||
        h.topic.len + h.uniq.len > RECALL_KEY_MAX)
        return refuse(inst, req->token, CODE_ILLEGAL_OPERATION, "recall handle is invalid");
    if (!zl_eq(h.topic, topic)) return refuse(inst, req->token, CODE_ILLEGAL_OPERATION, "recall failed, topic not match");
    if (!zl_eq(h.broker, id.name)) return refuse(inst, req->token, CODE_ILLEGAL_OPERATION, "recall failed, broker service not available");
    int64_t left = h.ms > 0 && h.ms < INT64_MAX / 2 ? h.ms - wall_ms(inst) : 0;
    if (left <= 0 || left >= inst->settings->timer_max_delay * 1000) return refuse(inst, req->token, CODE_ILLEGAL_OPERATION, "recall failed, timestamp invalid");
    return recall_put(inst, req, &h);
}
