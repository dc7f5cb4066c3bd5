/* SPDX-License-Identifier: Apache-2.0 */
/* send.c - codes 10 SEND_MESSAGE, 310 SEND_MESSAGE_V2, 320 SEND_BATCH_MESSAGE, up to the storage and back.
 *
 * LIFE OF A SEND. zb_send_handle checks it (in Apache's order), makes its message view and gathers it in the lane's
 * batch: the body points into the receive buffer, rewritten properties lie in the lane's arena. At the end of the
 * turn, or when the batch is full, zb_send_append hands all of it to the storage in one call, answers (or parks the
 * answers until the disk has it), and wakes pulls that waited for one of the queues.
 *
 * What stays true:
 *   1. Between two calls of zb_send_append, everything that the batch points to stays: receive buffers until the
 *      turn's end, the arena until the append, topics as long as the lane's cache is not emptied (zb_lane_fresh
 *      appends first).
 *   2. sends[i] owns messages [first, first + n) and they are all stored or none.
 *   3. Each token is answered once: here at once, in append, or parked.
 *   4. A message that asks for a delay or a transaction is never stored as an ordinary one: it is refused where the plugin
 *      for that is not loaded, a consumer's own retry too. Only a dead letter gives its DELAY up. */
#include "broker/internal.h"

#define SEND_NO_WAIT 0x1u
#define SEND_BATCH 0x2u
#define SEND_ONEWAY 0x4u
#define SEND_RECALL 0x8u

struct zb_send {
    struct zr_token copy;   /* the request's, when it came in this turn */
    struct zr_token *held;  /* else */
    struct zb_topic *topic; /* borrowed from the lane's cache */
    struct zr_str uniq, batch_uniq, recall;
    uint32_t first, n, flags;
    int32_t queue_id;
};
_Static_assert(sizeof(struct zb_send) < 256, "one send's bookkeeping stays small");

/* ---- header ---- */
#define NEED_A 0x01u
#define NEED_B 0x02u
#define NEED_C 0x04u
#define NEED_D 0x08u
#define NEED_E 0x10u
#define NEED_F 0x20u
#define NEED_G 0x40u
#define NEED_H 0x80u
#define NEED_ALL 0xffu
struct header {
    struct zr_str group, topic, default_topic, properties;
    int64_t born_ms;
    int32_t default_queues, queue_id, sys_flag, flag, reconsume, max_reconsume;
    uint32_t unit_mode, batch, has_max, seen;
    const char *bad; /* a field that is no number */
};

/* Code 10's names in the order of the letters of 310. */
static int32_t letter_of(struct zr_str name)
{
    static const struct {
        const char *name;
        char letter;
    } rows[] = {
        { "producerGroup", 'a' }, { "topic", 'b' },          { "defaultTopic", 'c' },  { "defaultTopicQueueNums", 'd' },
        { "queueId", 'e' },       { "sysFlag", 'f' },        { "bornTimestamp", 'g' }, { "flag", 'h' },
        { "properties", 'i' },    { "reconsumeTimes", 'j' }, { "unitMode", 'k' },      { "maxReconsumeTimes", 'l' },
        { "batch", 'm' }
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        if (zl_is(name, rows[i].name))
            return rows[i].letter;
    return 0;
}

static void take_i32(struct header *h, struct zr_str v, int32_t *ret, uint32_t need, const char *name)
{
    if (v.len == 0)
        return;
    if (zl_parse_i32(v, ret) == ZR_OK)
        h->seen |= need;
    else
        h->bad = name;
}

static void header_take(struct header *h, int32_t letter, struct zr_str v)
{
    switch (letter) {
    case 'a':
        h->group = v;
        h->seen |= NEED_A;
        break;
    case 'b':
        h->topic = v;
        h->seen |= NEED_B;
        break;
    case 'c':
        h->default_topic = v;
        h->seen |= NEED_C;
        break;
    case 'd': take_i32(h, v, &h->default_queues, NEED_D, "defaultTopicQueueNums"); break;
    case 'e': take_i32(h, v, &h->queue_id, NEED_E, "queueId"); break;
    case 'f': take_i32(h, v, &h->sys_flag, NEED_F, "sysFlag"); break;
    case 'g':
        if (zl_parse_i64(v, &h->born_ms) == ZR_OK)
            h->seen |= NEED_G;
        else
            h->bad = "bornTimestamp";
        break;
    case 'h': take_i32(h, v, &h->flag, NEED_H, "flag"); break;
    case 'i': h->properties = v; break;
    case 'j': take_i32(h, v, &h->reconsume, 0, "reconsumeTimes"); break;
    case 'k': h->unit_mode = zl_eq_nocase(v, "true"); break;
    case 'l':
        take_i32(h, v, &h->max_reconsume, 0, "maxReconsumeTimes");
        h->has_max = v.len != 0;
        break;
    case 'm': h->batch = zl_eq_nocase(v, "true"); break;
    default: break;
    }
}

static void header_read(const struct zr_request *req, struct header *h)
{
    uint32_t letters = req->code != 10;
    memset(h, 0, sizeof *h);
    for (uint32_t i = 0; i < req->n_fields; i++) {
        struct zr_str name = req->fields[i].name;
        if (letters && name.len == 1)
            header_take(h, name.ptr[0], req->fields[i].value);
        else if (!letters)
            header_take(h, letter_of(name), req->fields[i].value);
    }
}

/* ---- answers ---- */
static struct zr_str trace_on(void)
{
    return ZB_SET(trace_on) ? (struct zr_str)ZR_STR("true") : (struct zr_str)ZR_STR("false");
}

static zr_status __attribute__((format(printf, 3, 4)))
send_refuse(struct zr_token *token, int32_t code, const char *fmt, ...)
{
    char remark[1024];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(remark, sizeof remark, fmt, ap);
    va_end(ap);
    struct zr_field f[2] = { { ZR_STR("MSG_REGION"), zb.set.region_id }, { ZR_STR("TRACE_ON"), trace_on() } };
    struct zr_command c = {
        .hdr = ZR_HDR(struct zr_command, 0), .code = code, .n_fields = 2, .fields = f, .remark = zl_str(remark)
    };
    return zk_answer(token, &c);
}

void zb_ack_answer(struct zb_ack *ack, int32_t code, const char *remark)
{
    char queue[12], offset[24];
    struct zr_field f[8] = { { ZR_STR("queueId"), { queue, zl_print_i64(queue, ack->queue_id) } } };
    uint32_t n = 1;
    if (ack->uniq.len)
        f[n++] = (struct zr_field){ ZR_STR("transactionId"), ack->uniq };
    f[n++] = (struct zr_field){ ZR_STR("msgId"), ack->ids };
    f[n++] = (struct zr_field){ ZR_STR("TRACE_ON"), trace_on() };
    f[n++] = (struct zr_field){ ZR_STR("MSG_REGION"), zb.set.region_id };
    f[n++] = (struct zr_field){ ZR_STR("queueOffset"), { offset, zl_print_i64(offset, ack->queue_offset) } };
    if (ack->batch_uniq.len)
        f[n++] = (struct zr_field){ ZR_STR("batchUniqId"), ack->batch_uniq };
    if (ack->recall.len)
        f[n++] = (struct zr_field){ ZR_STR("recallHandle"), ack->recall };
    struct zr_command c = {
        .hdr = ZR_HDR(struct zr_command, 0), .code = code, .n_fields = n, .fields = f, .remark = zl_str(remark)
    };
    zk_answer(ack->token, &c);
}

int32_t zb_put_code(const struct zr_put *put)
{
    switch (put->status) {
    case ZR_OK: return ZB_SUCCESS;
    case ZR_EINVAL: return ZB_MESSAGE_ILLEGAL;
    case ZR_EFULL:
    case ZR_EIO:
    case ZR_EPERM:
    case ZR_ECLOSED: return ZB_SERVICE_NOT_AVAILABLE;
    case ZR_ENOENT: return ZB_TOPIC_NOT_EXIST;
    case ZR_EAGAIN: return ZB_SYSTEM_BUSY;
    default: return ZB_SYSTEM_ERROR;
    }
}

/* Why the storage takes nothing, in text. Asking it costs system calls and locks, and a producer that is refused comes
 * again at once: so it is asked once a second at most. The lock is not held while it is asked. */
#define REMARK_NS 1000000000ll
#define REMARK_MAX 700u
static struct {
    pthread_mutex_t lock;
    int64_t at_ns;
    char text[REMARK_MAX];
} unavailable = { .lock = PTHREAD_MUTEX_INITIALIZER };

static uint32_t unavailable_known(char *to, uint64_t cap)
{
    int64_t now = zk_mono_ns();
    uint32_t known = 0;
    pthread_mutex_lock(&unavailable.lock);
    if (unavailable.text[0]) {
        known = now - unavailable.at_ns < REMARK_NS;
        snprintf(to, cap, "%s", unavailable.text);
    }
    if (!known)
        unavailable.at_ns = now; /* this thread asks, the others go on with the old text */
    pthread_mutex_unlock(&unavailable.lock);
    return known;
}

static void unavailable_remark(char *to, uint64_t cap)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    char text[REMARK_MAX];
    if (unavailable_known(to, cap))
        return;
    zb.storage->info(zb.storage_inst, &info);
    snprintf(
        text, sizeof text,
        "service not available now. It may be caused by one of the following reasons: the broker's disk is full "
        "[CL: %.2f CQ: %.2f], messages are put to the slave, message store has been shut down, etc.%s%.*s",
        info.log_disk_ratio, info.queue_disk_ratio, info.why_not.len ? " The storage says: " : "",
        (int)info.why_not.len, info.why_not.ptr ? info.why_not.ptr : "");
    snprintf(to, cap, "%s", text);
    pthread_mutex_lock(&unavailable.lock);
    memcpy(unavailable.text, text, sizeof text);
    pthread_mutex_unlock(&unavailable.lock);
}

void zb_put_remark(const struct zr_put *put, char *to, uint64_t cap)
{
    switch (zb_put_code(put)) {
    case ZB_MESSAGE_ILLEGAL:
        snprintf(
            to, cap,
            "the message is illegal, maybe msg body or properties length not matched. msg body length limit %lldB, "
            "msg properties length limit 32KB.",
            (long long)ZB_SET(max_message_size));
        break;
    case ZB_SERVICE_NOT_AVAILABLE: unavailable_remark(to, cap); break;
    case ZB_TOPIC_NOT_EXIST: snprintf(to, cap, "the topic was removed"); break;
    case ZB_SYSTEM_BUSY: snprintf(to, cap, "[PC_SYNCHRONIZED]broker busy, start flow control for a while"); break;
    default: snprintf(to, cap, "UNKNOWN_ERROR"); break;
    }
}

/* ---- properties ---- */
static void prop_take(struct zb_props *p, struct zr_str name, struct zr_str value)
{
    switch (name.ptr[0]) {
    case 'T':
        if (zl_is(name, "TAGS"))
            p->tags = value;
        else if (zl_is(name, "TRAN_MSG"))
            p->tran = value;
        else if (zl_is(name, "TIMER_DELAY_SEC") || zl_is(name, "TIMER_DELAY_MS") || zl_is(name, "TIMER_DELIVER_MS"))
            p->timer = 1;
        else if (zl_is(name, "TIMER_OUT_MS"))
            p->timer_out = value;
        else if (zl_is(name, "TRACE_ON"))
            p->ours = 1;
        break;
    case 'U':
        if (zl_is(name, "UNIQ_KEY"))
            p->uniq = value;
        break;
    case 'K':
        if (zl_is(name, "KEYS"))
            p->keys = value;
        break;
    case 'D':
        if (zl_is(name, "DELAY"))
            p->delay = value;
        break;
    case 'W':
        if (zl_is(name, "WAIT"))
            p->wait = value;
        break;
    case 'I':
        if (zl_is(name, "INNER_NUM"))
            p->inner_num = value;
        break;
    case 'P': p->ours |= zl_is(name, "POP_CK"); break;
    case 'M': p->ours |= zl_is(name, "MSG_REGION"); break;
    case 'C': p->ours |= zl_is(name, "CLUSTER"); break;
    case '_':
        if (zl_is(name, "_SYS_MSG_PRIORITY_"))
            p->priority = value;
        else if (zl_is(name, "__SHARDINGKEY"))
            p->sharded = 1;
        break;
    default: break;
    }
}

void zb_props_scan(struct zr_span props, struct zb_props *ret)
{
    uint64_t pos = 0;
    struct zr_str name, value;
    memset(ret, 0, sizeof *ret);
    while (zl_props_next(props, &pos, &name, &value))
        prop_take(ret, name, value);
}

static char *put_pair(char *to, struct zr_str name, struct zr_str value)
{
    memcpy(to, name.ptr, name.len);
    to += name.len;
    *to++ = 1;
    memcpy(to, value.ptr, value.len);
    to += value.len;
    *to++ = 2;
    return to;
}

#define MORE_DLQ 0x1u      /* DELAY becomes -1 */
#define MORE_NO_PRIORITY 0x4u
static uint32_t is_dropped(struct zr_str name, uint32_t more)
{
    return zl_is(name, "POP_CK") || zl_is(name, "MSG_REGION") || zl_is(name, "TRACE_ON") || zl_is(name, "CLUSTER") ||
           ((more & MORE_NO_PRIORITY) && zl_is(name, "_SYS_MSG_PRIORITY_")) ||
           ((more & MORE_DLQ) && (zl_is(name, "DELAY") || zl_is(name, "DLQ_REASON")));
}

/* The properties as stored: those that came without what is ours, UNIQ_KEY if missing, MSG_REGION, TRACE_ON,
 * CLUSTER. */
static struct zr_span props_build(struct zb_lane *lane, struct zr_span in, struct zb_props *scan, uint32_t more,
                                  uint32_t inner_num)
{
    uint32_t traced = ZB_SET(trace_on);
    struct zl_buf dead;
    zl_buf_init(&dead, ZL_MAX_PROPERTIES);
    if (more & MORE_DLQ)
        zl_props_dead(&dead, in, (struct zr_str){ NULL, 0 }, "failed more often than allowed");
    if (in.len + dead.len + zb.props_tail_len[traced] + 128 > ZL_MAX_PROPERTIES)
        dead.len = 0;
    char *base = zk_arena_alloc(&lane->arena, in.len + dead.len + zb.props_tail_len[traced] + 128);
    char *to = base, text[24];
    if (!base) {
        zl_buf_free(&dead);
        return (struct zr_span){ NULL, 0 };
    }
    if (!scan->ours && !more) {
        if (in.len)
            memcpy(to, in.ptr, in.len);
        to += in.len;
        if (in.len && in.ptr[in.len - 1] != 2)
            *to++ = 2;
    } else {
        uint64_t pos = 0;
        struct zr_str name, value;
        while (zl_props_next(in, &pos, &name, &value))
            if (!is_dropped(name, more))
                to = put_pair(to, name, value);
    }
    if (more & MORE_DLQ)
        to = put_pair(to, (struct zr_str)ZR_STR("DELAY"), (struct zr_str)ZR_STR("-1"));
    if (dead.len)
        memcpy(to, dead.ptr, dead.len);
    to += dead.len;
    zl_buf_free(&dead);
    if (!scan->uniq.len && !inner_num) {
        memcpy(to, "UNIQ_KEY\1", 9);
        scan->uniq = (struct zr_str){ to + 9, zl_unique_id(to + 9) };
        to += 9 + scan->uniq.len;
        *to++ = 2;
    }
    if (inner_num)
        to = put_pair(to, (struct zr_str)ZR_STR("INNER_NUM"), (struct zr_str){ text, zl_print_i64(text, inner_num) });
    memcpy(to, zb.props_tail[traced], zb.props_tail_len[traced]);
    to += zb.props_tail_len[traced];
    return (struct zr_span){ (const uint8_t *)base, (uint64_t)(to - base) };
}

/* The value again, where it is in built (the request's text goes when the handler returns). */
static struct zr_str keep(struct zb_lane *lane, struct zr_str s)
{
    return s.len ? zk_arena_str(&lane->arena, s) : s;
}

/* ---- hooks ---- */
#define DEMAND_LEVEL 0x1u /* DELAY */
#define DEMAND_TIMER 0x2u
#define DEMAND_DELAY (DEMAND_LEVEL | DEMAND_TIMER)
#define DEMAND_TRANSACTION 0x4u
#define DEMAND_UNCLEAR 0x8u /* DELAY is no number */
#define DEMAND_INNER 0x10u  /* it says to be an inner batch, which the broker alone makes */

/* Apache's rules: a level wins over a delivery time, and a retry with a level is no transaction any more (clients
 * before 4.6.1 leave TRAN_MSG in it). */
static uint32_t demands_of(const struct zb_props *p, int32_t reconsume, int32_t sys_flag)
{
    int32_t level = 0;
    if (p->delay.len && zl_parse_i32(p->delay, &level) != ZR_OK)
        return DEMAND_UNCLEAR;
    uint32_t demands = level > 0 ? DEMAND_LEVEL : p->timer ? DEMAND_TIMER : 0;
    if ((zl_eq_nocase(p->tran, "true") || (sys_flag & ZR_SYSFLAG_PREPARED)) && !(reconsume > 0 && level > 0))
        demands |= DEMAND_TRANSACTION; /* rollback's bits contain prepared's */
    return demands;
}

static zr_status refuse_unclear(struct zr_token *token, const struct zb_props *p)
{
    int len = p->delay.len < 64 ? (int)p->delay.len : 64;
    return send_refuse(token, ZB_MESSAGE_ILLEGAL, "the message is illegal: its property DELAY is not a number: %.*s", len,
                       len ? p->delay.ptr : "");
}

/* looked: whether the properties were looked at, and wishes is what they ask for. */
static uint32_t publish_hooks(struct zr_msg *msg, const struct zr_request *req, void *(*scratch)(void *, uint64_t),
                              void *scratch_ctx, uint32_t looked, uint32_t wishes, struct zr_verdict *verdict)
{
    *verdict = (struct zr_verdict){ .hdr = ZR_HDR(struct zr_verdict, 0) };
    if (!zk_hooks_at(ZR_POINT_PUBLISH))
        return ZB_PUBLISHED;
    struct zr_event event = { .hdr = ZR_HDR(struct zr_event, 0),
                              .request = req,
                              .session = req ? req->session : NULL,
                              .msg = msg,
                              .topic = msg->topic,
                              .scratch = scratch,
                              .scratch_ctx = scratch_ctx,
                              .now_ms = zk_wall_ms(),
                              .point = ZR_POINT_PUBLISH,
                              .code = req ? req->code : 0,
                              .looked_at = looked ? msg->properties : (struct zr_span){ NULL, 0 },
                              .wishes = wishes };
    zk_hooks_run(ZR_POINT_PUBLISH, &event, verdict);
    if (verdict->what == ZR_VERDICT_REJECT)
        return ZB_REJECTED;
    return verdict->what == ZR_VERDICT_HANDLED ? ZB_HANDLED : ZB_PUBLISHED;
}

uint32_t zb_publish_hooks(struct zr_msg *msg, const struct zr_request *req, void *(*scratch)(void *, uint64_t),
                          void *scratch_ctx, struct zr_verdict *verdict)
{
    return publish_hooks(msg, req, scratch, scratch_ctx, 0, ZR_WISH_ALL, verdict);
}

void zb_stored_hooks(const struct zr_msg *msgs, struct zb_topic *const *owners, const struct zr_put *puts, uint32_t n)
{
    if (!zk_hooks_at(ZR_POINT_STORED))
        return;
    struct zr_event event = { .hdr = ZR_HDR(struct zr_event, 0), .point = ZR_POINT_STORED };
    for (uint32_t i = 0; i < n; i++) {
        if (owners && owners[i] ? !owners[i]->stored_hooks : !zk_hooks_want(ZR_POINT_STORED, msgs[i].topic))
            continue;
        struct zr_msg msg = msgs[i];
        struct zr_verdict verdict = { .hdr = ZR_HDR(struct zr_verdict, 0) };
        if (!event.now_ms)
            event.now_ms = zk_wall_ms();
        if (puts[i].status != ZR_OK)
            continue;
        event.msg = &msg;
        event.put = &puts[i];
        event.topic = msg.topic;
        zk_hooks_run(ZR_POINT_STORED, &event, &verdict);
    }
}

/* Names what the header lacks, as the client calls it. */
static zr_status refuse_header(const struct zr_request *req, const struct header *h)
{
    static const char *const names[8] = { "producerGroup", "topic",   "defaultTopic",  "defaultTopicQueueNums",
                                          "queueId",       "sysFlag", "bornTimestamp", "flag" }; /* by bit of NEED_ */
    char text[400] = "";
    uint64_t len = 0;
    if (h->bad)
        return send_refuse(req->token, ZB_SYSTEM_ERROR, "the field %s of the header is not a number", h->bad);
    for (uint32_t i = 0; i < 8; i++)
        if (!(h->seen & (1u << i)) && len < sizeof text - 64)
            len += (uint64_t)snprintf(text + len, sizeof text - len, req->code == 10 ? "%s%s" : "%s%s (%c)",
                                      len ? ", " : "", names[i], (char)('a' + i));
    return send_refuse(req->token, ZB_SYSTEM_ERROR, "required fields of the header are missing: %s", text);
}

/* ---- gathering ---- */
static void *scratch_alloc(void *ctx, uint64_t size)
{
    struct zb_lane *lane = ctx;
    return zk_arena_alloc(&lane->arena, size);
}

static void make_room(struct zb_lane *lane, uint32_t n, uint64_t bytes)
{
    if (lane->n_sends && (lane->n_msgs + n > lane->cap_msgs || lane->n_sends == ZB_BATCH_SENDS ||
                          lane->bytes + bytes > ZB_BATCH_BYTES || lane->arena.used > ZB_BATCH_ARENA))
        zb_send_append(lane);
}

/* A send's place in the batch; its messages are added behind. */
static struct zb_send *send_begin(struct zb_lane *lane, const struct zr_request *req, struct zb_topic *topic,
                                  int32_t queue_id)
{
    struct zb_send *s = &lane->sends[lane->n_sends];
    memset(s, 0, sizeof *s);
    s->copy = *req->token;
    s->held = req->token->flags & ZK_TOKEN_HELD ? req->token : NULL;
    s->flags = req->flags & ZR_REQUEST_ONEWAY ? SEND_ONEWAY : 0;
    s->topic = topic;
    s->queue_id = queue_id;
    s->first = lane->n_msgs;
    return s;
}

static struct zr_addr born_host(struct zb_lane *lane, struct zr_session *session)
{
    if (lane->last_session != session) {
        struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
        zk_session_info(session, &info);
        lane->last_session = session;
        lane->last_addr = info.peer.family ? info.peer : zb.id.store_host;
    }
    return lane->last_addr;
}

static int32_t hosts_flag(int32_t sys_flag, const struct zr_addr *born, const struct zr_addr *store)
{
    sys_flag &= ~(ZR_SYSFLAG_BORNHOST_V6 | ZR_SYSFLAG_STOREHOST_V6);
    return sys_flag | (born->family == 6 ? ZR_SYSFLAG_BORNHOST_V6 : 0) |
           (store->family == 6 ? ZR_SYSFLAG_STOREHOST_V6 : 0);
}

/* After the hooks: the queue where it goes, with its handle and of what kind it is. */
static void msg_target(struct zb_lane *lane, struct zr_msg *msg, struct zb_topic *topic)
{
    struct zb_topic *t = topic && topic->name.ptr == msg->topic.ptr ? topic : zb_lane_topic(lane, msg->topic);
    struct zb_queue *q = t ? zb_topic_queue(t, msg->queue_id) : NULL;
    lane->owners[lane->n_msgs] = t;
    lane->queues[lane->n_msgs] = q;
    msg->queue = q ? zb_queue_handle(t, q) : NULL;
    msg->flags = (msg->flags & ~ZR_MSG_BATCH_QUEUE) | (t && t->batch_cq ? ZR_MSG_BATCH_QUEUE : 0);
}

/* Hooks and demands for the message at the end of the batch. ZR_OK: it is in. Else the token was used up. */
static zr_status msg_publish(struct zb_lane *lane, const struct zr_request *req, struct zr_msg *msg,
                             struct zb_topic *topic, uint32_t demands)
{
    struct zr_verdict verdict;
    uint32_t wishes = (demands & DEMAND_DELAY ? ZR_WISH_DELAY : 0) | (demands & DEMAND_TRANSACTION ? ZR_WISH_TRANSACTION : 0);
    uint32_t what = publish_hooks(msg, req, scratch_alloc, lane, 1, wishes, &verdict);
    if (what == ZB_HANDLED)
        return ZR_PENDING;
    if (what == ZB_REJECTED) {
        send_refuse(req->token, verdict.code ? verdict.code : ZB_SYSTEM_ERROR, "%.*s", (int)verdict.remark.len,
                    verdict.remark.len ? verdict.remark.ptr : "");
        return ZR_EPERM;
    }
    uint32_t kept = msg->topic.ptr == topic->name.ptr; /* or a half message, whose delay comes when it is committed */
    if (demands && (kept || ((demands & DEMAND_DELAY) && zl_is(msg->topic, "RMQ_SYS_TRANS_HALF_TOPIC")))) {
        const char *needs = (demands & DEMAND_TRANSACTION) && !zb.has_transaction ? "feature-transaction"
                            : (demands & DEMAND_DELAY) && !zb.has_delay           ? "feature-delay"
                                                                                  : NULL;
        if (needs) {
            send_refuse(req->token, ZB_SYSTEM_ERROR, "this message needs the plugin %s, which is not loaded", needs);
            return ZR_ENOTSUP;
        }
    }
    msg_target(lane, msg, topic);
    lane->n_msgs++;
    lane->bytes += msg->body.len;
    return ZR_OK;
}

static uint32_t wants_no_wait(struct zr_str wait)
{
    return wait.len && !zl_eq_nocase(wait, "true");
}

static struct zr_msg *msg_begin(struct zb_lane *lane, const struct zr_request *req, const struct header *h,
                                struct zb_topic *topic, int32_t queue_id)
{
    struct zr_msg *m = &lane->msgs[lane->n_msgs];
    *m = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0),
                          .topic = topic->name,
                          .born_ms = h->born_ms,
                          .born_host = born_host(lane, req->session),
                          .store_host = zb.id.store_host,
                          .queue_id = queue_id,
                          .flag = h->flag,
                          .reconsume_times = h->reconsume,
                          .inner_num = 1 };
    m->sys_flag = hosts_flag(h->sys_flag, &m->born_host, &m->store_host);
    return m;
}

/* recallHandle of a timed message: base64url of "v1 topic broker deliverMs uniqKey". */
static struct zr_str recall_handle(struct zb_lane *lane, struct zr_str topic, const struct zr_msg *msg,
                                   struct zr_str uniq)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char text[1024];
    int64_t out_ms;
    struct zr_str none = { NULL, 0 };
    if (!zl_is(msg->topic, "rmq_sys_wheel_timer") ||
        zl_parse_i64(zl_props_get(msg->properties, "TIMER_OUT_MS"), &out_ms) != ZR_OK)
        return none;
    int n = snprintf(text, sizeof text, "v1 %.*s %.*s %lld %.*s", (int)topic.len, topic.ptr, (int)zb.id.name.len,
                     zb.id.name.ptr, (long long)out_ms + 1, (int)uniq.len, uniq.ptr);
    char *to = n > 0 && n < (int)sizeof text ? zk_arena_alloc(&lane->arena, (uint64_t)n * 4 / 3 + 8) : NULL;
    if (!to)
        return none;
    uint64_t len = 0;
    for (int i = 0; i < n; i += 3) {
        uint32_t v = (uint32_t)(uint8_t)text[i] << 16 | (i + 1 < n ? (uint32_t)(uint8_t)text[i + 1] << 8 : 0) |
                     (i + 2 < n ? (uint8_t)text[i + 2] : 0);
        to[len++] = digits[v >> 18];
        to[len++] = digits[v >> 12 & 63];
        to[len++] = i + 1 < n ? digits[v >> 6 & 63] : '=';
        to[len++] = i + 2 < n ? digits[v & 63] : '=';
    }
    return (struct zr_str){ to, len };
}

/* ---- one message ---- */
/* %RETRY% topics: the consumer's own way to send back (3.2.2 step 9). ZR_OK, or the token was used up. */
static zr_status retry_target(struct zb_lane *lane, const struct zr_request *req, const struct header *h,
                              struct zb_topic **topic, int32_t *queue_id, uint32_t *more)
{
    char text[ZB_NAME_MAX];
    uint32_t is_new = 0;
    struct zr_str group = { h->topic.ptr + strlen(ZB_RETRY_PREFIX), h->topic.len - strlen(ZB_RETRY_PREFIX) };
    const char *plus = memchr(group.ptr, '+', group.len);
    if (plus)
        group.len = (uint64_t)(plus - group.ptr);
    struct zb_group *g = zb_lane_group(lane, group, 1);
    if (!g) {
        send_refuse(req->token, ZB_SUBSCRIPTION_GROUP_NOT_EXIST, "subscription group not exist, %.*s", (int)group.len,
                    group.ptr);
        return ZR_ENOENT;
    }
    int32_t max = req->version >= 121 && h->has_max ? h->max_reconsume : g->retry_max_times;
    if (h->reconsume <= max)
        return ZR_OK;
    struct zr_str dlq = zb_cat(text, ZL_RETRY_TOPIC_MAX, ZB_DLQ_PREFIX, group);
    zr_status status = dlq.ptr ? zb_topic_ensure(dlq, 1, ZR_PERM_READ | ZR_PERM_WRITE, 0, 0, NULL, &is_new) : ZR_EINVAL;
    *topic = status == ZR_OK ? zb_lane_topic(lane, dlq) : NULL;
    if (!*topic) {
        send_refuse(req->token, ZB_SYSTEM_ERROR, "topic[%.*s] not exist", (int)dlq.len, dlq.ptr ? dlq.ptr : "");
        return ZR_ENOENT;
    }
    if (is_new)
        zb_announce(&(*topic)->name, 1, NULL, NULL);
    *queue_id = 0;
    *more |= MORE_DLQ;
    return ZR_OK;
}

/* A message of priority (5.4) goes to the queue of its number, or to the last one. Transactions, delayed ones and those with a
 * sharding key have none: MORE_NO_PRIORITY. */
static uint32_t priority_apply(const struct zb_props *p, const struct zb_topic *topic, int32_t *queue_id)
{
    int32_t priority;
    if (zl_parse_i32(p->priority, &priority) != ZR_OK || priority < 0)
        return 0;
    if (zl_eq_nocase(p->tran, "true") || p->delay.len || p->timer || p->sharded)
        return MORE_NO_PRIORITY;
    if (topic->write_queues > 0)
        *queue_id = priority < topic->write_queues ? priority : topic->write_queues - 1;
    return 0;
}

static zr_status send_one(struct zb_lane *lane, const struct zr_request *req, const struct header *h,
                          struct zb_topic *topic, int32_t queue_id)
{
    struct zb_props scan;
    struct zb_topic *target = topic;
    uint32_t more = 0;
    struct zr_span in = { (const uint8_t *)h->properties.ptr, h->properties.len };
    if (zl_starts(h->topic, ZB_RETRY_PREFIX) && retry_target(lane, req, h, &target, &queue_id, &more) != ZR_OK)
        return ZR_OK;
    zb_props_scan(in, &scan);
    if (scan.inner_num.len || (h->sys_flag & ZR_SYSFLAG_INNER_BATCH))
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL,
                           "the message is illegal: inner batches come as batches only");
    if (topic->compaction && !scan.keys.len)
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL, "Required message key is missing");
    uint32_t demands = demands_of(&scan, h->reconsume, h->sys_flag);
    if (demands & DEMAND_UNCLEAR)
        return refuse_unclear(req->token, &scan);
    if (more)
        demands &= ~DEMAND_LEVEL;
    if ((demands & DEMAND_TRANSACTION) && ZB_SET(reject_transaction))
        return send_refuse(req->token, ZB_NO_PERMISSION, "the broker[%s] sending transaction message is forbidden",
                           zb.ip1);
    if (scan.priority.len)
        more |= priority_apply(&scan, target, &queue_id);
    make_room(lane, 1, req->body.len);
    struct zb_send *s = send_begin(lane, req, target, queue_id);
    struct zr_msg *m = msg_begin(lane, req, h, target, queue_id);
    struct zr_str tags = scan.tags;
    m->tags_code = zl_tags_code(tags);
    m->body = req->body;
    if (!(demands & DEMAND_TRANSACTION) && (m->sys_flag & ZR_SYSFLAG_PREPARED))
        m->sys_flag &= ~ZR_SYSFLAG_TRANSACTION_MASK; /* a retry of what was a transaction: consumers shall see it */
    m->properties = props_build(lane, in, &scan, more, 0);
    if (target->multi_tag)
        m->sys_flag |= ZR_SYSFLAG_MULTI_TAGS;
    if (wants_no_wait(scan.wait)) {
        s->flags |= SEND_NO_WAIT;
        m->flags |= ZR_MSG_NO_WAIT;
    }
    s->uniq = keep(lane, scan.uniq);
    if (!m->properties.ptr)
        return send_refuse(req->token, ZB_SYSTEM_BUSY, "[OVERLOAD]system busy, start flow control for a while");
    if (m->properties.len > ZL_MAX_PROPERTIES)
        return send_refuse(
            req->token, ZB_MESSAGE_ILLEGAL,
            "the message is illegal, maybe msg body or properties length not matched. msg body length limit "
            "%lldB, msg properties length limit 32KB.",
            (long long)ZB_SET(max_message_size));
    if (msg_publish(lane, req, m, target, demands) != ZR_OK)
        return ZR_OK;
    if (demands & DEMAND_DELAY)
        s->recall = recall_handle(lane, topic->name, m, s->uniq);
    s->n = 1;
    lane->n_sends++;
    return ZR_OK;
}

/* ---- batches ---- */
static zr_status batch_count(struct zr_span body, uint32_t *ret, uint32_t *ret_demands)
{
    struct zl_batch_item item;
    struct zb_props scan;
    uint64_t pos = 0;
    zr_status status;
    *ret = *ret_demands = 0;
    while ((status = zl_batch_next(body, &pos, &item)) == ZR_OK) {
        zb_props_scan(item.properties, &scan);
        *ret_demands |= demands_of(&scan, 0, 0) | (scan.inner_num.len ? DEMAND_INNER : 0);
        ++*ret;
    }
    return status == ZR_ENOENT && *ret > 0 ? ZR_OK : ZR_EINVAL;
}

static zr_status send_inner_batch(struct zb_lane *lane, const struct zr_request *req, const struct header *h,
                                  struct zb_topic *topic, int32_t queue_id, struct zb_props *scan, struct zr_span in,
                                  uint32_t n)
{
    make_room(lane, 1, req->body.len);
    struct zb_send *s = send_begin(lane, req, topic, queue_id);
    struct zr_msg *m = msg_begin(lane, req, h, topic, queue_id);
    m->sys_flag |= ZR_SYSFLAG_NEED_UNWRAP | ZR_SYSFLAG_INNER_BATCH;
    m->inner_num = n;
    m->body = req->body;
    m->tags_code = zl_tags_code(scan->tags);
    m->properties = props_build(lane, in, scan, 0, n);
    s->batch_uniq = s->uniq = keep(lane, scan->uniq);
    s->flags |= SEND_BATCH | (wants_no_wait(scan->wait) ? SEND_NO_WAIT : 0);
    if (!m->properties.ptr || m->properties.len > ZL_MAX_PROPERTIES)
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL, "the message's properties are too long");
    if (msg_publish(lane, req, m, topic, 0) != ZR_OK)
        return ZR_OK;
    s->n = 1;
    lane->n_sends++;
    return ZR_OK;
}

/* Room for n joined messages in one batch; the arrays grow for a batch of many small ones and shrink after it. */
static uint32_t lane_grow(struct zb_lane *lane, uint32_t n)
{
    make_room(lane, n, 0);
    if (lane->n_msgs + n <= lane->cap_msgs)
        return 1;
    return zb_lane_resize(lane, n);
}

static zr_status send_batch(struct zb_lane *lane, const struct zr_request *req, const struct header *h,
                            struct zb_topic *topic, int32_t queue_id)
{
    struct zb_props scan;
    struct zl_batch_item item;
    struct zr_span in = { (const uint8_t *)h->properties.ptr, h->properties.len };
    uint64_t pos = 0;
    uint32_t n, demands;
    zb_props_scan(in, &scan);
    if (h->topic.len > ZL_TOPIC_MAX)
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL, "message topic length too long %llu",
                           (unsigned long long)h->topic.len);
    if (zl_starts(h->topic, ZB_RETRY_PREFIX))
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL, "batch request does not support retry group %.*s",
                           (int)h->topic.len, h->topic.ptr);
    if (batch_count(req->body, &n, &demands) != ZR_OK)
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL, "the message is illegal: the batch's body is malformed");
    demands |= demands_of(&scan, 0, 0);
    if (scan.inner_num.len || (demands & DEMAND_INNER) || (h->sys_flag & ZR_SYSFLAG_INNER_BATCH))
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL, "the message is illegal: only a broker makes inner batches");
    if ((h->sys_flag & ZR_SYSFLAG_TRANSACTION_MASK) || demands)
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL,
                           demands & DEMAND_UNCLEAR
                               ? "the message is illegal: its property DELAY is not a number"
                               : "the message is illegal: a batch is neither transactional nor delayed");
    if (topic->batch_cq && scan.uniq.len)
        return send_inner_batch(lane, req, h, topic, queue_id, &scan, in, n);
    make_room(lane, 1, req->body.len);
    if (!lane_grow(lane, n))
        return send_refuse(req->token, ZB_SYSTEM_BUSY, "[OVERLOAD]system busy, start flow control for a while");
    struct zb_send *s = send_begin(lane, req, topic, queue_id);
    s->flags |= SEND_BATCH | (wants_no_wait(scan.wait) ? SEND_NO_WAIT : 0);
    s->uniq = keep(lane, scan.uniq);
    while (zl_batch_next(req->body, &pos, &item) == ZR_OK) {
        struct zb_props ps;
        struct zr_msg *m = msg_begin(lane, req, h, topic, queue_id);
        zb_props_scan(item.properties, &ps);
        m->tags_code = zl_tags_code(ps.tags);
        m->body = item.body;
        m->properties = item.properties;
        m->flag = item.flag;
        m->flags = (lane->n_msgs > s->first ? ZR_MSG_JOINED : 0) | (s->flags & SEND_NO_WAIT ? ZR_MSG_NO_WAIT : 0);
        if (msg_publish(lane, req, m, topic, 0) != ZR_OK) {
            lane->n_msgs = s->first; /* all or none */
            return ZR_OK;
        }
    }
    s->n = lane->n_msgs - s->first;
    lane->n_sends++;
    return ZR_OK;
}

/* ---- topic of a send ---- */
/* The topic, borrowed; made if the rules allow it. NULL: the token was used up, or the send waits. */
static struct zb_topic *send_topic_make(struct zb_lane *lane, const struct zr_request *req, const struct header *h)
{
    char why[512];
    uint32_t is_new = 0;
    struct zb_topic *made = NULL;
    if (zl_topic_check(h->topic, why, sizeof why) != ZR_OK) {
        send_refuse(req->token, ZB_INVALID_PARAMETER, "%s", why);
        return NULL;
    }
    uint32_t retry = zl_starts(h->topic, ZB_RETRY_PREFIX);
    int32_t sys_flag = h->unit_mode ? (retry ? 2 : 1) : 0;
    zr_status status = zb_topic_from_template(h->topic, h->default_topic, h->default_queues, sys_flag, &made, &is_new);
    if (status != ZR_OK && retry)
        status = zb_topic_ensure(h->topic, 1, ZR_PERM_READ | ZR_PERM_WRITE, sys_flag, 0, &made, &is_new);
    if (status == ZR_EFULL)
        send_refuse(req->token, ZB_SYSTEM_ERROR, "topic[%.*s] cannot be made: maxTopics is reached", (int)h->topic.len,
                    h->topic.ptr);
    else if (status != ZR_OK)
        send_refuse(req->token, ZB_TOPIC_NOT_EXIST, "topic[%.*s] not exist, apply first please!" ZB_FAQ,
                    (int)h->topic.len, h->topic.ptr);
    if (status != ZR_OK)
        return NULL;
    if (is_new) {
        if (zb_made_tell(ZB_MADE_TOPIC))
            zk_log(ZR_LOG_INFO, "topic %.*s made by a send of group %.*s, %d queues", (int)h->topic.len, h->topic.ptr,
                   (int)h->group.len, h->group.ptr, made->write_queues);
        zb_announce_new(made);
    }
    zb_topic_unref(made);
    return zb_lane_topic(lane, h->topic);
}

static void send_go_on(struct zb_lane *lane, struct zb_job *job)
{
    struct zb_deferred *d = (struct zb_deferred *)(void *)job;
    zb_send_handle(NULL, &d->req);
    zb_send_append(lane); /* the batch points into d */
    zb_request_free(d);
}

/* 1: the topic is being announced and the send waits for that (or was refused). */
static uint32_t send_defer(struct zb_lane *lane, const struct zr_request *req, struct zb_topic *topic)
{
    struct zb_live *live = topic->live;
    struct zb_deferred *d = zb_request_keep(req);
    if (!d) {
        send_refuse(req->token, ZB_SYSTEM_BUSY, "[OVERLOAD]system busy, start flow control for a while");
        return 1;
    }
    d->lane = lane;
    d->job.run = send_go_on;
    pthread_mutex_lock(&live->lock);
    uint32_t waits = atomic_load(&live->announcing);
    if (waits) {
        *live->waiting_end = d;
        live->waiting_end = &d->next;
    }
    pthread_mutex_unlock(&live->lock);
    if (!waits)
        zb_lane_push(
            lane, &d->job); /* it was announced just now: behind those that waited, at the latest when this turn ends */
    return 1;
}

zr_status zb_send_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct zb_lane *lane = zb_lane_of(req->session);
    struct header h;
    (void)inst;
    if (atomic_load_explicit(&zb.stopping, memory_order_relaxed))
        return send_refuse(req->token, ZB_SERVICE_NOT_AVAILABLE,
                           "service not available now: the broker is shutting down");
    if (zb.slave)
        return zk_answer_code(req->token, ZB_SYSTEM_BUSY, "[REJECTREQUEST]system busy, start flow control for a while");
    zb_lane_fresh(lane);
    header_read(req, &h);
    if ((h.seen & NEED_ALL) != NEED_ALL || h.bad)
        return refuse_header(req, &h);
    if (!req->body.ptr || req->body.len == 0)
        return send_refuse(req->token, ZB_MESSAGE_ILLEGAL, "the message is illegal: it has no body");
    if (ZB_SET(start_accept_ms) > 0 && zk_wall_ms() < ZB_SET(start_accept_ms))
        return send_refuse(req->token, ZB_SYSTEM_ERROR, "broker unable to service, until %lld",
                           (long long)ZB_SET(start_accept_ms));
    if (zb_topic_unsendable(h.topic))
        return send_refuse(req->token, ZB_NO_PERMISSION, "Sending message to topic[%.*s] is forbidden.",
                           (int)h.topic.len, h.topic.ptr);
    struct zb_topic *topic = h.topic.len <= ZL_RETRY_TOPIC_MAX ? zb_lane_topic(lane, h.topic) : NULL;
    if (!topic && !(topic = send_topic_make(lane, req, &h)))
        return ZR_OK;
    if (!(ZB_SET(broker_permission) & ZR_PERM_WRITE) && topic->order)
        return send_refuse(req->token, ZB_NO_PERMISSION, "the broker[%s] sending message is forbidden", zb.ip1);
    if (h.queue_id >= (int32_t)topic->n_slots || (h.queue_id < 0 && topic->write_queues <= 0)) {
        char text[512];
        struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
        zk_session_info(req->session, &info);
        zb_topic_text(topic, text, sizeof text);
        return send_refuse(req->token, ZB_INVALID_PARAMETER, "request queueId[%d] is illegal, %s Producer: %.*s",
                           h.queue_id, text, (int)info.peer_name.len, info.peer_name.ptr);
    }
    if (req->body.len > (uint64_t)ZB_SET(max_message_size))
        return send_refuse(req->token, h.batch ? ZB_SYSTEM_ERROR : ZB_MESSAGE_ILLEGAL,
                           "the message is illegal, maybe msg body or properties length not matched. "
                           "msg body length limit %lldB, msg properties length limit 32KB.",
                           (long long)ZB_SET(max_message_size));
    if (atomic_load_explicit(&topic->live->announcing, memory_order_acquire) && send_defer(lane, req, topic))
        return ZR_OK;
    int32_t queue_id = h.queue_id >= 0 ? h.queue_id : (int32_t)zb_lane_random(lane, (uint32_t)topic->write_queues);
    return h.batch ? send_batch(lane, req, &h, topic, queue_id) : send_one(lane, req, &h, topic, queue_id);
}

/* ---- append and after ---- */
static struct zr_str ids_text(struct zk_arena *arena, const struct zb_lane *lane, const struct zb_send *s)
{
    char *to = zk_arena_alloc(arena, s->n * 57ull);
    uint64_t len = 0;
    if (!to)
        return (struct zr_str){ NULL, 0 };
    for (uint32_t i = 0; i < s->n; i++) {
        if (i)
            to[len++] = ',';
        len += zl_offset_id(to + len, &zb.id.store_host, lane->puts[s->first + i].physical_offset);
    }
    return (struct zr_str){ to, len };
}

static struct zr_token *send_token(struct zb_send *s)
{
    return s->held ? s->held : &s->copy;
}

static void send_failed(struct zb_lane *lane, struct zb_send *s, const struct zr_put *put)
{
    char remark[700];
    zb_put_remark(put, remark, sizeof remark);
    atomic_fetch_add_explicit(&lane->count.put_failed, s->n, memory_order_relaxed);
    send_refuse(send_token(s), zb_put_code(put), "%s", remark);
}

static const struct zr_put *send_fault(const struct zb_lane *lane, const struct zb_send *s)
{
    for (uint32_t i = 0; i < s->n; i++)
        if (lane->puts[s->first + i].status != ZR_OK)
            return &lane->puts[s->first + i];
    return NULL;
}

static struct zb_parked *parked_new(int64_t position, uint32_t acks, uint32_t wakes)
{
    struct zb_parked *p = calloc(1, sizeof *p + acks * sizeof(struct zb_ack) + wakes * sizeof(struct zb_wake));
    if (!p)
        return NULL;
    zk_arena_init(&p->arena, 4096, 1ull << 30);
    p->acks = (struct zb_ack *)(void *)(p + 1);
    p->wakes = (struct zb_wake *)(void *)(p->acks + acks);
    p->position = position;
    return p;
}

static void ack_park(struct zb_lane *lane, struct zb_parked *p, struct zb_send *s)
{
    struct zr_token *t = s->held ? s->held : zk_token_hold(&s->copy);
    if (!t) {
        send_refuse(&s->copy, ZB_SYSTEM_ERROR, "memory ran out; the message is stored");
        return;
    }
    struct zb_ack *a = &p->acks[p->n_acks++];
    *a = (struct zb_ack){ .token = t,
                          .ids = ids_text(&p->arena, lane, s),
                          .uniq = zk_arena_str(&p->arena, s->uniq),
                          .batch_uniq = zk_arena_str(&p->arena, s->batch_uniq),
                          .recall = zk_arena_str(&p->arena, s->recall),
                          .queue_offset = lane->puts[s->first].queue_offset,
                          .queue_id = s->queue_id };
}

static void send_answer(struct zb_lane *lane, struct zb_send *s)
{
    struct zb_ack a = { .token = send_token(s),
                        .uniq = s->uniq,
                        .batch_uniq = s->batch_uniq,
                        .recall = s->recall,
                        .queue_offset = lane->puts[s->first].queue_offset,
                        .queue_id = s->queue_id };
    char id[57];
    if (s->flags & SEND_ONEWAY) {
        if (s->held)
            zk_token_drop(s->held);
        return;
    }
    a.ids = s->n == 1 ? (struct zr_str){ id, zl_offset_id(id, &zb.id.store_host, lane->puts[s->first].physical_offset) }
                      : ids_text(&lane->arena, lane, s);
    zb_ack_answer(&a, ZB_SUCCESS, NULL);
}

static void wake_later(struct zb_lane *lane, struct zb_parked *p, uint32_t i)
{
    for (uint32_t j = p->n_wakes; j-- > 0;)
        if (p->wakes[j].queue == lane->queues[i]) {
            p->wakes[j].any_tag |= p->wakes[j].tags_code != lane->msgs[i].tags_code;
            p->wakes[j].queue_offset = lane->puts[i].queue_offset;
            return;
        }
    p->wakes[p->n_wakes++] = (struct zb_wake){ zb_topic_ref(lane->owners[i]), lane->queues[i],
                                               lane->puts[i].queue_offset, lane->msgs[i].tags_code, 0 };
}

static void batch_count_up(struct zb_lane *lane, struct zb_send *s, int64_t now_ns)
{
    int64_t bytes = 0;
    for (uint32_t i = 0; i < s->n; i++)
        bytes += lane->puts[s->first + i].size;
    zb_count_put(&lane->count, s->n, bytes, now_ns - s->copy.arrived_ns);
    atomic_fetch_add_explicit(&s->topic->live->put_count, s->n, memory_order_relaxed);
    atomic_fetch_add_explicit(&s->topic->live->put_bytes, bytes, memory_order_relaxed);
    zk_metric_add(zb.meter.bytes, bytes);
}

static void batch_answer(struct zb_lane *lane, struct zb_parked *parked, uint32_t waits)
{
    int64_t now = zk_mono_ns();
    for (uint32_t i = 0; i < lane->n_sends; i++) {
        struct zb_send *s = &lane->sends[i];
        const struct zr_put *fault = send_fault(lane, s);
        if (fault) {
            send_failed(lane, s, fault);
            continue;
        }
        batch_count_up(lane, s, now);
        if (waits && parked && !(s->flags & (SEND_NO_WAIT | SEND_ONEWAY)))
            ack_park(lane, parked, s);
        else if (waits && !parked && !(s->flags & (SEND_NO_WAIT | SEND_ONEWAY)))
            send_refuse(send_token(s), ZB_SYSTEM_ERROR,
                        "memory ran out; the message is stored, but whether it is on disk is not known");
        else
            send_answer(lane, s);
    }
}

static void batch_wake(struct zb_lane *lane, struct zb_parked *parked, uint32_t visible)
{
    uint32_t here = ZB_WOKEN_HERE;
    for (uint32_t i = 0; i < lane->n_msgs; i++) {
        struct zb_queue *q = lane->queues[i];
        if (!q || lane->puts[i].status != ZR_OK)
            continue;
        if (visible)
            zb_hold_arrived(q, lane->puts[i].queue_offset, lane->msgs[i].tags_code, &lane->msgs[i].properties, 0, &here);
        else if (parked)
            wake_later(lane, parked, i);
    }
}

void zb_send_append(struct zb_lane *lane)
{
    int64_t end = 0;
    if (lane->n_sends == 0) {
        zk_arena_reset(&lane->arena);
        return;
    }
    zb.storage->append(zb.storage_inst, lane->msgs, lane->n_msgs, lane->puts, &end);
    zb_durability_written(end);
    uint32_t waits = zb_durability_waits(end), visible = zb_durability_visible(end);
    struct zb_parked *parked = waits || !visible ? parked_new(end, lane->n_sends, lane->n_msgs) : NULL;
    zk_metric_add(zb.meter.appends, 1);
    zk_metric_add(zb.meter.sends, lane->n_sends);
    zk_metric_add(zb.meter.messages, lane->n_msgs);
    batch_answer(lane, parked, waits);
    batch_wake(lane, parked, visible);
    if (!visible && !parked)
        zb_durability_missed(end);
    zb_stored_hooks(lane->msgs, lane->owners, lane->puts, lane->n_msgs);
    lane->n_sends = lane->n_msgs = 0;
    lane->bytes = 0;
    zk_arena_reset(&lane->arena);
    zb_lane_shrink(lane);
    if (parked)
        zb_durability_park(lane, parked);
}

uint32_t zb_lane_resize(struct zb_lane *lane, uint32_t n)
{
    struct zr_msg *msgs = calloc(n, sizeof *msgs);
    struct zr_put *puts = calloc(n, sizeof *puts);
    struct zb_queue **queues = calloc(n, sizeof *queues);
    struct zb_topic **owners = calloc(n, sizeof *owners);
    if (!lane->sends)
        lane->sends = calloc(ZB_BATCH_SENDS, sizeof *lane->sends);
    if (!msgs || !puts || !queues || !owners || !lane->sends) {
        free(msgs);
        free(puts);
        free(queues);
        free(owners);
        return 0;
    }
    for (uint32_t i = 0; i < n; i++)
        puts[i].hdr = (struct zr_hdr)ZR_HDR(struct zr_put, 0);
    free(lane->msgs);
    free(lane->puts);
    free(lane->queues);
    free(lane->owners);
    lane->msgs = msgs;
    lane->puts = puts;
    lane->queues = queues;
    lane->owners = owners;
    lane->cap_msgs = n;
    return 1;
}

void zb_lane_shrink(struct zb_lane *lane)
{
    if (lane->cap_msgs > ZB_BATCH_MSGS)
        zb_lane_resize(lane, ZB_BATCH_MSGS);
}
