/* SPDX-License-Identifier: Apache-2.0 */
/* loads.c - what is sent, and what an answer means.
 *
 * A send's frame is the same for every message to a queue but for opaque, born time, unique key and the stamp in the
 * body: it is laid out once for each queue, with those places at fixed positions and widths, then copied and patched.
 * Pulls and route queries are few bytes and are encoded each time.
 *
 * opaque = slot | generation << 12: an answer that comes after its slot was used again is known by its generation. */
#include "bench.h"
#include "zl/record.h"
#include <stdlib.h>
#include <string.h>

#define CODE_PULL 11
#define CODE_SEND_V2 310
#define CODE_SEND_BATCH 320
#define CODE_ROUTE 105
#define SLOT_BITS 12
#define OPAQUE_DIGITS 10
#define PULL_SUSPEND_MS 15000

static const char UNIQ_BLANK[] = "00000000000000000000000000000000";

/* ---- the template of a send ---- */

static void json_pair(struct zl_buf *b, const char *name, const char *value)
{
    zl_buf_fmt(b, "\"%s\":\"%s\",", name, value);
}

/* The properties of a message: UNIQ_KEY and WAIT, as Java's client sends them. */
static const char PROPS_A[] = "UNIQ_KEY\001", PROPS_B[] = "\002WAIT\001true\002";

static void header_json(struct target *t, struct zl_buf *b, const struct options *o)
{
    char queue[16];
    snprintf(queue, sizeof(queue), "%d", t->queue);
    zl_buf_fmt(b, "{\"code\":%d,\"extFields\":{", o->batch > 1 ? CODE_SEND_BATCH : CODE_SEND_V2);
    json_pair(b, "a", o->group);
    json_pair(b, "b", t->topic);
    json_pair(b, "c", "TBW102");
    json_pair(b, "d", "4");
    json_pair(b, "e", queue);
    json_pair(b, "f", "0");
    zl_buf_fmt(b, "\"g\":\"");
    t->at_ms = (uint32_t)b->len;
    zl_buf_fmt(b, "1000000000000\",");
    json_pair(b, "h", "0");
    zl_buf_fmt(b, "\"i\":\"UNIQ_KEY\\u0001");
    t->at_uniq = (uint32_t)b->len;
    zl_buf_fmt(b, "%s\\u0002WAIT\\u0001true\\u0002\",", UNIQ_BLANK);
    json_pair(b, "j", "0");
    json_pair(b, "k", "false");
    if (t->broker[0]) json_pair(b, "n", t->broker);
    zl_buf_fmt(b, "\"m\":\"%s\"},\"flag\":0,\"language\":\"OTHER\",\"opaque\":", o->batch > 1 ? "true" : "false");
    t->at_opaque = (uint32_t)b->len;
    zl_buf_fmt(b, "%*s,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}", OPAQUE_DIGITS, "");
}

static void binary_pair(struct zl_buf *b, const char *name, const void *value, uint64_t len)
{
    zl_buf_be16(b, (uint16_t)strlen(name));
    zl_buf_cstr(b, name);
    zl_buf_be32(b, (uint32_t)len);
    zl_buf_add(b, value, len);
}

static void header_binary(struct target *t, struct zl_buf *b, const struct options *o)
{
    char queue[16], props[128];
    snprintf(queue, sizeof(queue), "%d", t->queue);
    zl_buf_be16(b, (uint16_t)(o->batch > 1 ? CODE_SEND_BATCH : CODE_SEND_V2));
    zl_buf_u8(b, ZL_LANGUAGE_OTHER);
    zl_buf_be16(b, ZL_VERSION);
    t->at_opaque = (uint32_t)b->len;
    zl_buf_be32(b, 0);
    zl_buf_be32(b, 0);
    zl_buf_be32(b, 0);
    uint64_t map = b->len;
    zl_buf_be32(b, 0);
    binary_pair(b, "a", o->group, strlen(o->group));
    binary_pair(b, "b", t->topic, strlen(t->topic));
    binary_pair(b, "c", "TBW102", 6);
    binary_pair(b, "d", "4", 1);
    binary_pair(b, "e", queue, strlen(queue));
    binary_pair(b, "f", "0", 1);
    binary_pair(b, "g", "1000000000000", 13);
    t->at_ms = (uint32_t)b->len - 13;
    binary_pair(b, "h", "0", 1);
    int n = snprintf(props, sizeof(props), "%s%s%s", PROPS_A, UNIQ_BLANK, PROPS_B);
    binary_pair(b, "i", props, (uint64_t)n);
    t->at_uniq = (uint32_t)b->len - (uint32_t)n + (uint32_t)sizeof(PROPS_A) - 1;
    binary_pair(b, "j", "0", 1);
    binary_pair(b, "k", "false", 5);
    if (t->broker[0]) binary_pair(b, "n", t->broker, strlen(t->broker));
    binary_pair(b, "m", o->batch > 1 ? "true" : "false", o->batch > 1 ? 4 : 5);
    zl_store32(b->ptr + map, (uint32_t)(b->len - map - 4));
}

/* The body: filler, or a batch of items with filler; at_body is the first message's first byte, body_step the way to
 * the next. */
static void template_body(const struct bench *bench, struct target *t, struct zl_buf *b)
{
    const struct options *o = &bench->o;
    char props[128];
    t->at_body = (uint32_t)b->len;
    if (o->batch <= 1) {
        zl_buf_add(b, bench->filler, o->size);
        return;
    }
    int n = snprintf(props, sizeof(props), "%s%s%s", PROPS_A, UNIQ_BLANK, PROPS_B);
    struct zl_batch_item item = { .body = { bench->filler, o->size },
                                  .properties = { (const uint8_t *)props, (uint64_t)n } };
    for (uint32_t i = 0; i < o->batch; i++) zl_batch_add(b, &item);
    t->at_body += 20; /* an item's five words in front of its body */
    t->body_step = 22 + o->size + (uint32_t)n;
}

static int template_make(const struct bench *bench, struct target *t)
{
    struct zl_buf b;
    zl_buf_init(&b, ZL_FRAME_MAX);
    zl_buf_be64(&b, 0);
    if (bench->o.binary)
        header_binary(t, &b, &bench->o);
    else
        header_json(t, &b, &bench->o);
    uint32_t header = (uint32_t)b.len - 8;
    template_body(bench, t, &b);
    if (b.failed || b.len > ZL_FRAME_MAX) return zl_buf_free(&b), -1;
    zl_store32(b.ptr, (uint32_t)b.len - 4);
    zl_store32(b.ptr + 4, header | (bench->o.binary ? ZL_TYPE_BINARY << 24 : 0));
    t->frame = b.ptr;
    t->frame_len = (uint32_t)b.len;
    return 0;
}

int loads_prepare(struct bench *bench)
{
    uint64_t seed = 0x9e3779b97f4a7c15ull;
    bench->filler = malloc(bench->o.size + 8);
    if (!bench->filler) return 1;
    for (uint32_t i = 0; i < bench->o.size; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        bench->filler[i] = (uint8_t)(seed >> 56);
    }
    if (bench->o.mode == MODE_ROUTE) return 0;
    for (uint32_t i = 0; i < bench->n_targets; i++)
        if (template_make(bench, &bench->targets[i])) {
            fprintf(stderr, "zarya-bench: a request of %u x %u bytes does not fit into a frame\n", bench->o.batch,
                    bench->o.size);
            return 2;
        }
    return 0;
}

void loads_free(struct bench *bench)
{
    for (uint32_t i = 0; i < bench->n_targets; i++) free(bench->targets[i].frame);
    free(bench->filler);
}

/* ---- issuing ---- */

static void hex_write(uint8_t *to, uint64_t v, uint32_t digits)
{
    static const char DIGITS[] = "0123456789ABCDEF";
    for (uint32_t i = digits; i-- > 0; v >>= 4) to[i] = (uint8_t)DIGITS[v & 15];
}

static void decimal_write(uint8_t *to, uint64_t v, uint32_t width, uint8_t pad)
{
    uint32_t i = width;
    do to[--i] = (uint8_t)('0' + v % 10);
    while ((v /= 10) && i);
    while (i) to[--i] = pad;
}

static void uniq_write(const struct bench *bench, uint8_t *to, uint32_t conn, uint64_t seq)
{
    hex_write(to, bench->run, 14);
    hex_write(to + 14, conn, 6);
    hex_write(to + 20, seq, 12);
}

static int64_t wall_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME_COARSE, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static struct slot *slot_take(struct worker *w, struct conn *conn, int64_t intended, uint32_t *ret_no)
{
    uint32_t no = conn->free_slots[--conn->n_free];
    struct slot *slot = &conn->slots[no];
    slot->busy = 1;
    slot->gen = (slot->gen + 1) & 0x7ffff;
    slot->start = intended;
    slot->measured = intended >= w->bench->measure && (w->bench->end == 0 || intended < w->bench->end);
    *ret_no = no | slot->gen << SLOT_BITS;
    return slot;
}

static uint32_t issue_send(struct worker *w, struct conn *conn, int64_t intended)
{
    struct bench *bench = w->bench;
    const uint32_t batch = bench->o.batch;
    uint32_t target = conn->targets[conn->turn], opaque;
    if (++conn->turn == conn->n_targets) conn->turn = 0;
    const struct target *t = &bench->targets[target];
    uint8_t *to = zl_buf_reserve(&conn->out, t->frame_len);
    if (!to) return 0;
    struct slot *slot = slot_take(w, conn, intended, &opaque);
    slot->target = target;
    slot->seq = conn->seq;
    memcpy(to, t->frame, t->frame_len);
    if (bench->o.binary)
        zl_store32(to + t->at_opaque, opaque);
    else
        decimal_write(to + t->at_opaque, opaque, OPAQUE_DIGITS, ' ');
    decimal_write(to + t->at_ms, (uint64_t)wall_ms(), 13, '0');
    uniq_write(bench, to + t->at_uniq, conn->no, conn->seq);
    for (uint32_t i = 0; i < batch && bench->o.size >= STAMP_SIZE; i++) {
        uint8_t *body = to + t->at_body + (uint64_t)i * t->body_step;
        stamp_write(bench, body, conn->no, target, conn->seq + i, intended);
        if (batch > 1) uniq_write(bench, body + bench->o.size + 2 + sizeof(PROPS_A) - 1, conn->no, conn->seq + i);
    }
    conn->out.len += t->frame_len;
    conn->seq += batch;
    atomic_fetch_add_explicit(&bench->issued, batch, memory_order_relaxed);
    return 1;
}

static uint32_t encode(struct conn *conn, const struct bench *bench, int32_t code, const struct zr_field *fields,
                       uint32_t n, uint32_t opaque)
{
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 1), .code = code, .fields = fields, .n_fields = n };
    return zl_command_encode(&conn->out, &command, bench->o.binary ? ZL_TYPE_BINARY : ZL_TYPE_JSON, 0, (int32_t)opaque,
                             0) == ZR_OK;
}

/* Pulls: slot i of a connection pulls its targets i, i + n_slots, i + 2 n_slots, ... in turn, so that no queue is ever
 * pulled twice at once. */
static uint32_t issue_pull(struct worker *w, struct conn *conn, int64_t intended)
{
    const struct bench *bench = w->bench;
    uint32_t opaque;
    struct slot *slot = slot_take(w, conn, intended, &opaque);
    uint64_t at = (uint64_t)(slot - conn->slots) + slot->seq++ * conn->n_slots;
    if (at >= conn->n_targets) {
        at = (uint64_t)(slot - conn->slots);
        slot->seq = 1;
    }
    slot->target = conn->targets[at];
    const struct target *t = &bench->targets[slot->target];
    struct zl_fields fs = { 0 };
    zl_fields_str(&fs, "consumerGroup", zl_str(bench->o.group));
    zl_fields_str(&fs, "topic", zl_str(t->topic));
    zl_fields_i64(&fs, "queueId", t->queue);
    zl_fields_i64(&fs, "queueOffset", t->next);
    zl_fields_i64(&fs, "maxMsgNums", bench->o.pull_max);
    zl_fields_i64(&fs, "sysFlag", bench->o.mode == MODE_E2E ? 6 : 4); /* subscription enclosed; e2e: hold it */
    zl_fields_i64(&fs, "commitOffset", 0);
    zl_fields_i64(&fs, "suspendTimeoutMillis", bench->o.mode == MODE_E2E ? PULL_SUSPEND_MS : 0);
    zl_fields_str(&fs, "subscription", zl_str(bench->o.expression));
    zl_fields_i64(&fs, "subVersion", 0);
    zl_fields_str(&fs, "expressionType", zl_str(bench->o.language));
    if (t->broker[0]) zl_fields_str(&fs, "bname", zl_str(t->broker));
    return encode(conn, bench, CODE_PULL, fs.f, fs.n, opaque);
}

static uint32_t issue_route(struct worker *w, struct conn *conn, int64_t intended)
{
    const struct bench *bench = w->bench;
    uint32_t opaque;
    struct slot *slot = slot_take(w, conn, intended, &opaque);
    slot->target = conn->turn;
    if (++conn->turn == bench->n_targets) conn->turn = 0;
    struct zr_field field = { ZR_STR("topic"), zl_str(bench->targets[slot->target].topic) };
    atomic_fetch_add_explicit(&w->bench->issued, 1, memory_order_relaxed);
    return encode(conn, bench, CODE_ROUTE, &field, 1, opaque);
}

uint32_t loads_issue(struct worker *w, struct conn *conn, int64_t intended, int64_t now)
{
    (void)now;
    if (conn->n_free == 0 || conn->dead) return 0;
    switch (conn->role) {
    case ROLE_SEND:
        return issue_send(w, conn, intended);
    case ROLE_PULL:
        return issue_pull(w, conn, intended);
    default:
        return issue_route(w, conn, intended);
    }
}

/* ---- answers ---- */

static void answer_good(struct worker *w, const struct slot *slot, uint64_t messages, uint64_t bytes, int64_t now)
{
    if (!slot->measured) return;
    hist_add(&w->stats.latency, now - slot->start);
    w->stats.requests++;
    w->stats.messages += messages;
    w->stats.bytes += bytes;
    w->stats.last_ns = now;
}

static void answer_send(struct worker *w, struct conn *conn, const struct slot *slot, int64_t now)
{
    struct bench *bench = w->bench;
    int32_t code = w->header.code;
    atomic_fetch_add_explicit(&bench->finished, bench->o.batch, memory_order_relaxed);
    if (code != 0 && code != 10 && code != 11 && code != 12) {
        w->stats.failed++;
        atomic_fetch_add_explicit(&bench->delivered, bench->o.batch, memory_order_relaxed); /* nobody waits for these */
        stats_code(&w->stats, code, w->header.remark);
        return;
    }
    w->stats.sent_messages += bench->o.batch;
    verify_acked(bench, conn->no, slot->seq, bench->o.batch);
    answer_good(w, slot, bench->o.batch, (uint64_t)bench->o.batch * bench->o.size, now);
}

/* Walks over the records of a pull. */
static uint64_t take_records(struct worker *w, struct target *t, uint32_t target, uint64_t *ret_bytes, int64_t now)
{
    struct bench *bench = w->bench;
    struct zr_span body = w->header.body;
    uint64_t at = 0, n = 0;
    const char *why;
    while (at < body.len) {
        struct zl_record r;
        if (zl_record_parse((struct zr_span){ body.ptr + at, body.len - at },
                            bench->o.verify && bench->o.mode == MODE_PULL, &r, &why) != ZR_OK) {
            w->stats.corrupt++;
            break;
        }
        at += r.size;
        n++;
        *ret_bytes += r.body.len;
        if (r.queue_offset < t->next)
            w->stats.reordered++;
        else
            t->next = r.queue_offset + 1;
        if (bench->o.mode != MODE_E2E) continue;
        int64_t intended = verify_body(bench, &w->stats, r.body, target);
        if (intended == 0) continue;
        atomic_fetch_add_explicit(&bench->delivered, 1, memory_order_relaxed);
        if (intended >= bench->measure && intended < (bench->end ? bench->end : INT64_MAX))
            hist_add(&w->stats.delivery, now - intended);
    }
    return n;
}

static void answer_pull(struct worker *w, struct slot *slot, int64_t now)
{
    struct bench *bench = w->bench;
    struct target *t = &bench->targets[slot->target];
    uint64_t n = 0, bytes = 0;
    int64_t from = t->next, next = from;
    zr_status told = zl_field_i64(w->header.fields, w->header.n_fields, "nextBeginOffset", &next);
    switch (w->header.code) {
    case 0:
        n = take_records(w, t, slot->target, &bytes, now);
        if (told == ZR_OK && next > t->next) t->next = next; /* behind the last that matches others may not */
        break;
    case 19:
    case 20:
    case 21:
        if (told == ZR_OK) t->next = next;
        if (bench->o.mode == MODE_PULL) t->next = w->header.code == 20 ? next : t->from; /* over again */
        break;
    default:
        w->stats.failed++;
        stats_code(&w->stats, w->header.code, w->header.remark);
        return;
    }
    if (slot->measured && next > from && w->header.code != 21) w->stats.examined += (uint64_t)(next - from);
    w->stats.received += n;
    if (bench->o.mode == MODE_PULL) atomic_fetch_add_explicit(&bench->issued, n, memory_order_relaxed);
    if (n && bench->o.mode == MODE_PULL)
        answer_good(w, slot, n, bytes, now); /* e2e counts sends, and deliveries apart */
}

static void answer_route(struct worker *w, const struct slot *slot, int64_t now)
{
    atomic_fetch_add_explicit(&w->bench->finished, 1, memory_order_relaxed);
    if (w->header.code == 0) {
        answer_good(w, slot, 1, w->header.body.len, now);
        return;
    }
    w->stats.failed++;
    stats_code(&w->stats, w->header.code, w->header.remark);
}

void loads_answer(struct worker *w, struct conn *conn, struct zr_span frame, int64_t now)
{
    const char *why = NULL;
    if (zl_header_decode(frame, &w->header, w->scratch, sizeof(w->scratch), &why) != ZR_OK) {
        w->stats.failed++;
        stats_code(&w->stats, -1, zl_str(why));
        return;
    }
    if (!(w->header.flag & ZL_FLAG_RESPONSE)) return; /* a server's own request */
    uint32_t no = (uint32_t)w->header.opaque & ((1u << SLOT_BITS) - 1), gen = (uint32_t)w->header.opaque >> SLOT_BITS;
    if (no >= conn->n_slots || !conn->slots[no].busy || conn->slots[no].gen != gen) {
        stats_code(&w->stats, -2, zl_str("an answer to no request"));
        w->stats.failed++;
        return;
    }
    struct slot *slot = &conn->slots[no];
    if (conn->role == ROLE_SEND)
        answer_send(w, conn, slot, now);
    else if (conn->role == ROLE_PULL)
        answer_pull(w, slot, now);
    else
        answer_route(w, slot, now);
    slot->busy = 0;
    conn->free_slots[conn->n_free++] = no;
}
