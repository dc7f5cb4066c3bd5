/* SPDX-License-Identifier: Apache-2.0 */
/* CONSUMER_SEND_MSG_BACK 36 against one record: a byte of choices, a frame, and behind its first byte 0xff the record's properties. Each
 * request is answered once; what is stored goes to the group's retry or dead letter topic, with properties that can be read, a wait
 * where it is tried again, and a count of failures that grows and does not wrap. */
#include "fuzz.h"

#include "broker/internal.h"

#define PHYSICAL 1000

struct zb zb;
static uint8_t *record;
static uint64_t record_len;
static uint32_t answered, stored, pinned, topics, groups;
static int32_t times;
static struct zr_str asked_group;
static struct zb_group group;
static const char *const policies[4] = { "", "{\"type\":\"EXPONENTIAL\",\"exponentialRetryPolicy\":{\"initial\":5000,\"max\":7200000,\"multiplier\":2}}",
                                         "{\"type\":\"CUSTOMIZED\",\"customizedRetryPolicy\":{\"next\":[1000,5000,9223372036854775807]}}", "{\"type\":" };

/* ---- the kernel ----------------------------------------------------------------------------------------------------------- */

zr_status zk_answer_code(struct zr_token *token, int32_t code, const char *fmt, ...)
{
    (void)token, (void)code, (void)fmt;
    answered++;
    return ZR_OK;
}
struct zr_token *zk_token_hold(struct zr_token *token) { return token; }
int64_t zk_mono_ns(void) { return 1234567; }
void zb_put_remark(const struct zr_put *put, char *to, uint64_t cap) { (void)put; snprintf(to, cap, "not stored"); }
void zb_announce(const struct zr_str *names, uint32_t n, void (*fn)(void *, zr_status), void *ctx) { (void)names, (void)n, (void)fn, (void)ctx; }
struct zb_group *zb_group_get(struct zr_str name, uint32_t create)
{
    (void)create;
    if (name.len > ZL_RETRY_TOPIC_MAX - 7) return NULL;
    groups++;
    return &group;
}
void zb_group_unref(struct zb_group *g) { MUST(!g || g == &group); groups -= g != NULL; }
zr_status zb_topic_ensure(struct zr_str name, int32_t queues, int32_t perm, int32_t sys_flag, uint32_t order, struct zb_topic **ret, uint32_t *ret_new)
{
    struct zb_topic *t = calloc(1, sizeof *t);
    char *text = malloc(name.len);
    (void)sys_flag, (void)order;
    memcpy(text, name.ptr, name.len);
    t->refs = 1;
    t->name = (struct zr_str){ text, name.len };
    t->write_queues = t->read_queues = queues;
    t->perm = perm;
    topics++;
    *ret = t;
    *ret_new = 1;
    return ZR_OK;
}
struct zb_topic *zb_topic_ref(struct zb_topic *t) { t->refs++; return t; }
void zb_topic_unref(struct zb_topic *t)
{
    if (!t || --t->refs) return;
    topics--;
    free((void *)(uintptr_t)t->name.ptr);
    free(t);
}
void zb_publish(struct zr_msg *m, uint32_t n, uint32_t flags, const struct zr_request *req, void (*done)(void *, zr_status, const struct zr_put *, uint32_t), void *ctx)
{
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0), .status = m->properties.len % 3 ? ZR_OK : ZR_EFULL };
    uint32_t dead = zl_starts(m->topic, "%DLQ%");
    (void)flags, (void)req;
    MUST(n == 1 && (dead || zl_starts(m->topic, "%RETRY%")) && zl_ends(m->topic, "") && m->topic.len == asked_group.len + (dead ? 5 : 7));
    MUST(m->properties.len <= ZL_MAX_PROPERTIES && m->properties.ptr[m->properties.len - 1] == 2 && m->queue_id >= 0);
    MUST(m->reconsume_times > 0 && (times < 0 ? m->reconsume_times == 1 : m->reconsume_times >= times));
    MUST(dead || zl_props_get(m->properties, "DELAY").len || zl_props_get(m->properties, "TIMER_DELAY_MS").len);
    MUST(zl_props_get(m->properties, "ORIGIN_MESSAGE_ID").len && zl_props_get(m->properties, "RETRY_TOPIC").len);
    MUST(!dead || zl_props_get(m->properties, "DLQ_REASON").len);
    stored++;
    done(ctx, ZR_OK, &put, 1);
}
static zr_status record_at(struct zr_inst *i, int64_t physical, struct zr_piece *piece, uint64_t *pin)
{
    (void)i;
    if (physical != PHYSICAL) return ZR_ENOENT;
    *piece = (struct zr_piece){ .ptr = record, .len = record_len, .fd = -1 };
    *pin = ++pinned;
    return ZR_OK;
}
static void unpin(struct zr_inst *i, uint64_t pin) { (void)i; MUST(pin); pinned--; }
static const struct zr_storage_v1 storage = { .hdr = ZR_HDR(struct zr_storage_v1, 0), .record_at = record_at, .unpin = unpin };

/* ---- a request ------------------------------------------------------------------------------------------------------------- */

static void record_make(struct zr_span properties)
{
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str("T"), .body = { (const uint8_t *)"body", 4 }, .properties = properties, .reconsume_times = times,
                        .born_ms = 1700000000000, .born_host = { .family = 4 }, .store_host = { .family = 4 }, .inner_num = 1 };
    record_len = zl_record_size(&m);
    record = malloc(record_len);
    zl_record_encode(record, &m);
    zl_record_finish(record, 0, PHYSICAL, 1700000000000);
}

static void settings_choose(uint8_t choices)
{
    static const int32_t failed[4] = { 0, -5, INT32_MAX, 15 };
    memset(&zb, 0, sizeof zb);
    zb.storage = &storage;
    zb.has_delay = choices & 1;
    zb.set.timer_wheel = choices >> 1 & 1;
    zb.set.broker_permission = ZR_PERM_READ | ZR_PERM_WRITE;
    times = failed[choices >> 2 & 3];
    group = (struct zb_group){ .retry_policy = zl_str(policies[choices >> 4 & 3]), .retry_queues = choices >> 6 ? choices >> 6 : 1, .retry_max_times = 16 };
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    uint64_t n = size - 1, cut = n, need;
    uint8_t *rest = malloc(n ? n : 1), *end;
    struct zr_span properties = { NULL, 0 }, frame;
    struct fuzz_header h;
    struct zr_token token = { .flags = 0 };
    if (n) memcpy(rest, data + 1, n);
    if ((end = memchr(rest, 0xff, n)) != NULL) { /* no byte of UTF-8 text */
        cut = (uint64_t)(end - rest);
        properties = (struct zr_span){ end + 1, n - cut - 1 < ZL_MAX_PROPERTIES ? n - cut - 1 : ZL_MAX_PROPERTIES };
    }
    settings_choose(data[0]);
    record_make(properties);
    if (zl_frame_cut((struct zr_span){ rest, cut }, &frame, &need) == ZR_OK && fuzz_decode(frame, &h)) {
        struct zr_request req = { .hdr = ZR_HDR(struct zr_request, 0), .token = &token, .fields = h.h.fields, .n_fields = h.h.n_fields, .code = 36, .version = h.h.version };
        answered = stored = pinned = 0;
        asked_group = zl_field(h.h.fields, h.h.n_fields, "group");
        zb_retry_handle(NULL, &req);
        MUST(answered == 1 && stored <= 1 && pinned == 0 && topics == 0 && groups == 0);
        free(h.scratch);
    }
    free(record);
    free(rest);
    return 0;
}
