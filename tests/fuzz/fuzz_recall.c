/* SPDX-License-Identifier: Apache-2.0 */
/* RECALL_MESSAGE 370. The first byte says what follows: 0: a recall handle as text, 1: the same as what base64 has inside, 2: a frame. The handle
 * is read within the memory that is given for it; each request is answered once, and what is published is a recall as the timer
 * understands it. */
#include "fuzz.h"

#include "../../plugins/feature/delay/delay.h"
#include "zl/record.h"

#define NOW 1700000000000

static uint32_t answered, published, running;
static int token_memory;

int64_t wall_ms(struct zr_inst *inst) { (void)inst; return NOW; }
void running_end(struct zr_inst *inst) { MUST(inst->n_running == 1); inst->n_running--; running++; }

static zr_status answer(const struct zr_host *h, struct zr_token *t, const struct zr_command *c)
{
    (void)h;
    MUST(t == (struct zr_token *)&token_memory && (c->code == 0 || c->remark.len));
    for (uint32_t i = 0; i < c->n_fields; i++) MUST(!c->fields[i].value.len || memchr(c->fields[i].value.ptr, 0, c->fields[i].value.len) != c->fields[i].value.ptr + c->fields[i].value.len);
    answered++;
    return ZR_OK;
}
static struct zr_token *hold(const struct zr_host *h, struct zr_token *t) { (void)h; return t; }
static void identity(const struct zr_host *h, struct zr_identity *ret) { (void)h; ret->name = zl_str("b"); ret->permission = ZR_PERM_READ | ZR_PERM_WRITE; }
static zr_status topic(const struct zr_host *h, struct zr_str name, void (*on)(void *, const struct zr_topic *), void *ctx)
{
    struct zr_topic t = { .hdr = ZR_HDR(struct zr_topic, 0), .name = name };
    (void)h;
    if (name.len == 0 || name.ptr[0] == 'N') return ZR_ENOENT;
    on(ctx, &t);
    return ZR_OK;
}
static void each_config(const struct zr_host *h, int32_t (*each)(void *, struct zr_str, struct zr_str), void *ctx)
{
    (void)h;
    if (!each(ctx, zl_str("brokerId"), zl_str("0"))) each(ctx, zl_str("regionId"), zl_str("R"));
}
static void publish(const struct zr_host *h, struct zr_msg *m, uint32_t n, uint32_t flags, void (*done)(void *, zr_status, const struct zr_put *, uint32_t), void *ctx)
{
    struct zr_put put = { .hdr = ZR_HDR(struct zr_put, 0), .status = m->properties.len % 2 ? ZR_OK : ZR_EIO };
    struct zr_str key = zl_props_get(m->properties, "TIMER_DEL_UNIQKEY");
    int64_t ms;
    (void)h, (void)flags;
    MUST(n == 1 && m->topic.len && m->properties.ptr[m->properties.len - 1] == 2);
    MUST(key.len <= RECALL_KEY_MAX && zl_parse_i64(zl_props_get(m->properties, "TIMER_DELIVER_MS"), &ms) == ZR_OK && ms > NOW);
    published++;
    done(ctx, ZR_OK, &put, 1);
}

static void handle(struct zr_str text)
{
    char *to = malloc(64);
    struct zr_str parts[3];
    int64_t ms;
    if (recall_handle_read(text, to, 64, &parts[0], &parts[1], &ms, &parts[2]) == ZR_OK)
        for (uint32_t i = 0; i < 3; i++) MUST(!parts[i].len || (parts[i].ptr >= to && parts[i].ptr + parts[i].len <= to + 64));
    free(to);
}

static void ask(const struct zr_field *fields, uint32_t n_fields)
{
    static const struct zr_reply_v1 reply = { .hdr = ZR_HDR(struct zr_reply_v1, 0), .answer = answer, .hold = hold };
    static const struct zr_broker_v1 broker = { .hdr = ZR_HDR(struct zr_broker_v1, 0), .identity = identity, .topic = topic, .each_config = each_config };
    static const struct zr_store_v1 store = { .hdr = ZR_HDR(struct zr_store_v1, 0), .publish = publish };
    struct zr_request req = { .hdr = ZR_HDR(struct zr_request, 0), .token = (struct zr_token *)&token_memory, .fields = fields, .n_fields = n_fields, .code = 370 };
    for (uint32_t with_topic = 0; with_topic < 2; with_topic++) {
        struct settings set = { .timer_max_delay = 259200, .recall_enable = 1, .recall_key_with_topic = (uint8_t)with_topic };
        struct zr_inst *inst = calloc(1, sizeof *inst);
        inst->settings = &set;
        inst->timed = (struct timer *)&token_memory;
        inst->reply = &reply;
        inst->broker = &broker;
        inst->store = &store;
        pthread_mutex_init(&inst->lock, NULL);
        answered = published = running = 0;
        MUST(recall_handle(inst, &req) == ZR_OK && answered == 1 && published == running && inst->n_running == 0);
        pthread_mutex_destroy(&inst->lock);
        free(inst);
    }
}

/* As a producer would send it: the handle's own topic beside it. */
static void encoded(const uint8_t *data, uint64_t n)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    char *text = malloc(n * 4 / 3 + 4);
    uint64_t len = 0;
    for (uint64_t i = 0; i < n; i += 3) {
        uint32_t left = n - i < 3 ? (uint32_t)(n - i) : 3, bits = (uint32_t)data[i] << 16 | (left > 1 ? (uint32_t)data[i + 1] << 8 : 0) | (left > 2 ? data[i + 2] : 0);
        for (uint32_t k = 0; k <= left; k++) text[len++] = digits[bits >> (18 - 6 * k) & 63];
    }
    struct zr_field f[3] = { { ZR_STR("topic"), ZR_STR("T") }, { ZR_STR("producerGroup"), ZR_STR("PG") }, { ZR_STR("recallHandle"), { text, len } } };
    handle(f[2].value);
    ask(f, 3);
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    uint64_t n = size - 1, need;
    uint8_t *rest = malloc(n ? n : 1);
    struct zr_span cut;
    struct fuzz_header h;
    if (n) memcpy(rest, data + 1, n);
    if (data[0] % 3 == 0) {
        handle((struct zr_str){ (const char *)rest, n });
    } else if (data[0] % 3 == 1) {
        encoded(rest, n);
    } else if (zl_frame_cut((struct zr_span){ rest, n }, &cut, &need) == ZR_OK && fuzz_decode(cut, &h)) {
        ask(h.h.fields, h.h.n_fields);
        free(h.scratch);
    }
    free(rest);
    return 0;
}
