/* SPDX-License-Identifier: Apache-2.0 */
/* dispatch.c - from bytes to handlers: frames, tables, hooks, tokens, the worker pool. */
#include "fake.h"
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include "config/node.h"
#include "zl/text.h"

static uint32_t n_calls;
static struct zr_token *kept;
static struct zr_session *kept_session;
static sem_t kept_sem, gate_sem;

static zr_status h_echo(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    n_calls++;
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    struct zr_field f = { ZR_STR("text"), zl_field(req->fields, req->n_fields, "text") };
    struct zr_str topic = zl_field(req->fields, req->n_fields, "topic");
    cr_assert(topic.len == 3 && memcmp(topic.ptr, "T\001x", 3) == 0);
    c.fields = &f;
    c.n_fields = 1;
    c.body = req->body;
    return zk_answer(req->token, &c);
}
static zr_status h_hold(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    kept = zk_token_hold(req->token);
    kept_session = zk_session_hold(req->session);
    return ZR_PENDING;
}
static zr_status h_fail(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    (void)req;
    n_calls++;
    zk_err_raise(ZR_EIO, 0, "the disk is on fire");
    return ZR_EIO;
}
static zr_status h_fail_after_answer(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    zk_answer_code(req->token, 17, "no %s", "route");
    zk_err_raise(ZR_EIO, 5, "must not be seen");
    return ZR_EIO;
}
static zr_status h_silent_fail(struct zr_inst *inst, const struct zr_request *req) { (void)inst; (void)req; return ZR_EINVAL; }
static zr_status h_worker(struct zr_inst *inst, const struct zr_request *req)
{
    cr_expect(strcmp(zl_language_name(req->language), "") != 0);
    zr_status status = h_echo(inst, req);
    sem_post(&kept_sem);
    return status;
}
static zr_status h_worker_fail(struct zr_inst *inst, const struct zr_request *req)
{
    zr_status status = h_fail(inst, req);
    sem_post(&kept_sem);
    return status;
}
static zr_status h_gate(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    sem_wait(&gate_sem);
    return zk_answer_code(req->token, 0, NULL);
}
static zr_status h_close(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    zk_session_close(req->session);
    return zk_answer_code(req->token, 0, NULL);
}

#define ROW(code, serves, flags, fn) { ZR_HDR(struct zr_handler, 0), code, serves, flags, 0, #fn, fn }
#define BOTH (ZR_SERVES_BROKER | ZR_SERVES_FAST)
static const struct zr_handler handlers[] = {
    ROW(10, BOTH, 0, h_echo),          ROW(11, ZR_SERVES_BROKER, 0, h_echo), ROW(12, BOTH, 0, h_hold),
    ROW(13, BOTH, ZR_HANDLER_GUARDED, h_fail), ROW(14, BOTH, 0, h_fail_after_answer), ROW(15, BOTH, 0, h_silent_fail),
    ROW(16, BOTH, ZR_HANDLER_WORKER, h_worker), ROW(17, BOTH, ZR_HANDLER_WORKER, h_worker_fail),
    ROW(18, BOTH, ZR_HANDLER_WORKER, h_gate), ROW(19, BOTH, 0, h_close),
    ROW(105, ZR_SERVES_ROUTING, 0, h_silent_fail), ROW(105, ZR_SERVES_BROKER, 0, h_echo),
    ROW(1023, BOTH, 0, h_echo), ROW(1024, BOTH, 0, h_echo), ROW(200050, ZR_SERVES_BROKER, 0, h_echo), ROW(-1, ZR_SERVES_BROKER, 0, h_echo),
};
#define N_HANDLERS (sizeof handlers / sizeof handlers[0])

static void start(void)
{
    sem_init(&kept_sem, 0, 0);
    sem_init(&gate_sem, 0, 0);
    fake_start(handlers, N_HANDLERS);
}

Test(dispatch, echo_with_header_body_and_opaque)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    cr_assert(fake_exchange(c, 10, 0, ZL_TYPE_JSON, "hello \"x\" \n", &f));
    cr_assert(f.h.code == 0 && f.h.type == ZL_TYPE_JSON && f.h.version == ZL_VERSION);
    cr_assert(zl_is(zl_field(f.h.fields, f.h.n_fields, "text"), "hello \"x\" \n"));
    cr_assert(zl_is((struct zr_str){ (const char *)f.h.body.ptr, f.h.body.len }, "hello \"x\" \n"));
    cr_assert(c->n_sends == 1);
    fake_stop();
}

Test(dispatch, binary_header_is_mirrored_and_large_codes_fall_back)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    cr_assert(fake_exchange(c, 10, 0, ZL_TYPE_BINARY, "bin", &f));
    cr_assert(f.h.type == ZL_TYPE_BINARY && zl_is(zl_field(f.h.fields, f.h.n_fields, "text"), "bin"));
    cr_assert(fake_exchange(c, 10, 0, ZL_TYPE_JSON, "json", &f));
    cr_assert(f.h.type == ZL_TYPE_JSON);
    fake_stop();
}

Test(dispatch, burst_is_one_send)
{
    struct zl_buf b;
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(1, 0), *d = fake_open(1, 1);
    zl_buf_init(&b, 1 << 20);
    for (int32_t i = 0; i < 200; i++)
        fake_request(&b, 10, i, 0, ZL_TYPE_JSON, "m");
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    cr_assert(fake_data(d, b.ptr, b.len, NULL) == ZR_OK);
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    cr_assert(c->n_sends == 0 && d->n_sends == 0, "answers leave at the end of the turn");
    fake_turn_end(1);
    cr_assert(c->n_sends == 1 && c->n_pieces == 2 && d->n_sends == 1 && d->n_pieces == 1);
    for (int32_t i = 0; i < 400; i++)
        cr_assert(fake_next(c, &f) && f.h.opaque == i % 200 && f.h.code == 0);
    for (int32_t i = 0; i < 200; i++)
        cr_assert(fake_next(d, &f) && f.h.opaque == i);
    cr_assert(n_calls == 600 && !fake_next(c, &f));
    zl_buf_free(&b);
    fake_stop();
}

Test(dispatch, frames_byte_by_byte)
{
    struct zl_buf b;
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    zl_buf_init(&b, 1 << 20);
    fake_request(&b, 10, 1, 0, ZL_TYPE_JSON, "first");
    fake_request(&b, 10, 2, 0, ZL_TYPE_BINARY, "second");
    uint64_t at = 0;
    for (uint64_t end = 1; end <= b.len; end++) {
        uint64_t used;
        cr_assert(fake_data(c, b.ptr + at, end - at, &used) == ZR_OK);
        at += used;
        fake_turn_end(0);
    }
    cr_assert(at == b.len);
    cr_assert(fake_next(c, &f) && f.h.opaque == 1 && fake_next(c, &f) && f.h.opaque == 2 && !fake_next(c, &f));
    cr_assert(n_calls == 2);
    zl_buf_free(&b);
    fake_stop();
}

Test(dispatch, tables_by_listener)
{
    struct fake_frame f;
    start();
    struct zr_conn *broker = fake_open(0, 0), *fast = fake_open(0, 1), *routing = fake_open(1, 2);
    static const struct { int32_t code, broker, fast, routing; } want[] = {
        { 10, 0, 0, 3 }, { 11, 0, 3, 3 }, { 105, 0, 3, 1 }, { 1023, 0, 0, 3 }, { 1024, 0, 0, 3 }, { 200050, 0, 3, 3 },
        { -1, 0, 3, 3 }, { 4711, 3, 3, 3 }, { 0, 3, 3, 3 }, { INT32_MIN, 3, 3, 3 }, { INT32_MAX, 3, 3, 3 },
    };
    for (size_t i = 0; i < sizeof want / sizeof want[0]; i++) {
        cr_assert(fake_exchange(broker, want[i].code, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == want[i].broker, "%d", want[i].code);
        cr_assert(fake_exchange(fast, want[i].code, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == want[i].fast, "%d", want[i].code);
        cr_assert(fake_exchange(routing, want[i].code, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == want[i].routing, "%d", want[i].code);
    }
    cr_assert(fake_exchange(broker, 4711, 0, ZL_TYPE_JSON, "t", &f) && zl_is(f.h.remark, " request type 4711 not supported"));
    fake_stop();
}

Test(dispatch, oneway_is_handled_and_never_answered)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    static const int32_t codes[] = { 10, 13, 15, 4711 };
    for (size_t i = 0; i < sizeof codes / sizeof codes[0]; i++)
        cr_assert(!fake_exchange(c, codes[i], ZL_FLAG_ONEWAY, ZL_TYPE_JSON, "t", &f));
    cr_assert(n_calls == 2 && c->n_sends == 0);
    cr_assert(!fake_exchange(c, 12, ZL_FLAG_ONEWAY, ZL_TYPE_JSON, "t", &f));
    cr_assert(zk_answer_code(kept, 0, NULL) == ZR_OK && c->n_sends == 0);
    zk_session_release(kept_session);
    fake_stop();
}

Test(dispatch, failed_handlers)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    cr_assert(fake_exchange(c, 13, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == 1 && zl_is(f.h.remark, "the disk is on fire"));
    cr_assert(fake_exchange(c, 14, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == 17 && zl_is(f.h.remark, "no route"));
    cr_assert(!fake_next(c, &f), "one answer only");
    cr_assert(fake_exchange(c, 15, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == 1 && zl_is(f.h.remark, "h_silent_fail failed with status -1"));
    fake_stop();
}

Test(dispatch, deferred_answer_and_a_client_that_left)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    cr_assert(!fake_exchange(c, 12, 0, ZL_TYPE_BINARY, "t", &f));
    cr_assert(kept && zk_answer_code(kept, 19, "later") == ZR_OK);
    cr_assert(c->n_sends == 1, "outside a turn it leaves at once");
    cr_assert(fake_next(c, &f) && f.h.code == 19 && f.h.type == ZL_TYPE_BINARY && zl_is(f.h.remark, "later"));
    zk_session_release(kept_session);

    cr_assert(!fake_exchange(c, 12, 0, ZL_TYPE_JSON, "t", &f));
    fake_close(c, ZR_ECLOSED);
    cr_assert(!atomic_load(&c->released), "a held token keeps the session");
    struct zr_session_info info = { ZR_HDR(struct zr_session_info, 0) };
    zk_session_info(kept_session, &info);
    cr_assert(!info.open && zl_is(info.peer_name, "127.0.0.1:5000"));
    cr_assert(zk_answer_code(kept, 0, NULL) == ZR_ECLOSED && c->n_sends == 1);
    cr_assert(!atomic_load(&c->released));
    zk_session_release(kept_session);
    cr_assert(atomic_load(&c->released));
    fake_stop();
}

Test(dispatch, worker_gets_its_own_copy)
{
    struct zl_buf b;
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    zl_buf_init(&b, 1 << 20);
    fake_request(&b, 16, 77, 0, ZL_TYPE_BINARY, "for the pool");
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    memset(b.ptr, 'Z', b.len); /* the transport reuses its memory */
    fake_turn_end(0);
    sem_wait(&kept_sem);
    cr_assert(fake_next(c, &f) && f.h.opaque == 77 && f.h.type == ZL_TYPE_BINARY);
    cr_assert(zl_is(zl_field(f.h.fields, f.h.n_fields, "text"), "for the pool") && f.h.body.len == 12);
    zl_buf_clear(&b);
    fake_request(&b, 17, 78, 0, ZL_TYPE_JSON, "x");
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    fake_turn_end(0);
    sem_wait(&kept_sem);
    zl_buf_free(&b);
    fake_stop(); /* joins the pool */
}

Test(dispatch, worker_error_text_crosses_threads)
{
    struct zl_buf b;
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    zl_buf_init(&b, 1 << 20);
    fake_request(&b, 17, 78, 0, ZL_TYPE_JSON, "x");
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    fake_turn_end(0);
    zk_core_stop();
    cr_assert(fake_next(c, &f) && f.h.opaque == 78 && f.h.code == 1 && zl_is(f.h.remark, "the disk is on fire"));
    zl_buf_free(&b);
    fake_stop();
}

Test(dispatch, worker_pool_full)
{
    struct zl_buf b;
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    zl_buf_init(&b, 1 << 20);
    fake_request(&b, 18, 1, 0, ZL_TYPE_JSON, "x");
    for (uint32_t i = 0; i < 10001; i++) {
        cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
        fake_turn_end(0);
    }
    cr_assert(fake_next(c, &f) && f.h.code == 2 && zl_is(f.h.remark, "[OVERLOAD]system busy, start flow control for a while"));
    cr_assert(!fake_next(c, &f), "exactly one over the limit");
    for (uint32_t i = 0; i < 10001; i++)
        sem_post(&gate_sem);
    zk_core_stop();
    uint32_t n = 0;
    while (fake_next(c, &f))
        n += f.h.code == 0;
    cr_assert(n == 10000);
    zl_buf_free(&b);
    fake_stop();
}

Test(dispatch, limits_of_the_node_count)
{
    struct zl_buf b;
    struct fake_frame f;
    zk_node.set.max_frame = 65536;
    zk_node.set.worker_queue = 3;
    start();
    zk_log_set(0, 0);
    struct zr_conn *c = fake_open(0, 0), *d = fake_open(0, 0);
    zl_buf_init(&b, 1 << 20);
    fake_request(&b, 18, 1, 0, ZL_TYPE_JSON, "x");
    for (uint32_t i = 0; i < 4; i++) {
        cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
        fake_turn_end(0);
    }
    cr_assert(fake_next(c, &f) && f.h.code == 2);
    cr_assert(!fake_next(c, &f), "exactly one over the limit");
    for (uint32_t i = 0; i < 3; i++)
        sem_post(&gate_sem);
    uint64_t used = 1;
    cr_expect(fake_data(c, "\0\0\xff\xfc\0\0\0\2", 8, &used) == ZR_OK && used == 0); /* 65,536 with its first word */
    cr_expect(fake_data(d, "\0\0\xff\xfd\0\0\0\2", 8, &used) == ZR_EINVAL);
    fake_turn_end(0);
    zk_core_stop();
    zl_buf_free(&b);
    fake_stop();
    zk_node.set.max_frame = zk_node.set.worker_queue = 0;
}

Test(dispatch, malformed_closes_that_connection_only)
{
    struct fake_frame f;
    static const struct { const char *bytes; uint64_t len; } bad[] = {
        { "GET / HTTP/1.1\r\n\r\n", 18 },
        { "\xff\xff\xff\xff\0\0\0\0", 8 },
        { "\0\0\0\3\0\0\0\0", 8 },
        { "\0\0\0\4\0\0\0\1\0", 9 },
        { "\0\0\0\6\2\0\0\2{}", 10 },
        { "\0\0\0\6\0\0\0\2{{", 10 },
        { "\0\0\0\6\0\0\0\2[]", 10 },
        { "\0\0\0\x8\0\0\0\4null", 12 },
        { "\0\0\0\x8\1\0\0\4\0\0\0\0", 12 },
        { "\1\0\0\0\0\0\0\0", 8 },
    };
    start();
    zk_log_set(0, 0);
    struct zr_conn *good = fake_open(0, 0);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct zr_conn *c = fake_open(0, 0);
        struct zl_buf b;
        zl_buf_init(&b, 1 << 20);
        fake_request(&b, 10, 5, 0, ZL_TYPE_JSON, "good first");
        uint64_t good_len = b.len, used = 0;
        zl_buf_add(&b, bad[i].bytes, bad[i].len);
        cr_assert(fake_data(c, b.ptr, b.len, &used) == ZR_EINVAL, "case %zu", i);
        cr_assert(used == good_len);
        fake_close(c, ZR_ECLOSED); /* in the turn */
        cr_assert(!atomic_load(&c->released), "until the turn ends");
        fake_turn_end(0);
        cr_assert(atomic_load(&c->released) && c->n_sends == 0);
        zl_buf_free(&b);
        cr_assert(fake_exchange(good, 10, 0, ZL_TYPE_JSON, "still here", &f) && f.h.code == 0);
    }
    fake_stop();
}

/* Framing is intact: it is answered by a text that names the limit, and the connection goes on. */
Test(dispatch, more_fields_than_are_read_are_refused)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    for (uint32_t type = ZL_TYPE_JSON; type <= ZL_TYPE_BINARY; type++)
        for (uint32_t oneway = 0; oneway < 2; oneway++) {
            struct zr_field fields[ZL_MAX_FIELDS + 6];
            char names[ZL_MAX_FIELDS + 6][8];
            struct zl_buf b;
            uint64_t used = 0;
            for (uint32_t i = 0; i < ZL_MAX_FIELDS + 6; i++) {
                snprintf(names[i], sizeof names[i], "x%u", i);
                fields[i] = (struct zr_field){ zl_str(names[i]), ZR_STR("1") };
            }
            struct zr_command m = { ZR_HDR(struct zr_command, 0), .code = 10, .n_fields = ZL_MAX_FIELDS + 6, .fields = fields };
            zl_buf_init(&b, 1 << 20);
            cr_assert(zl_command_encode(&b, &m, type, oneway ? ZL_FLAG_ONEWAY : 0, 77, 0) == ZR_OK);
            cr_assert(fake_data(c, b.ptr, b.len, &used) == ZR_OK && used == b.len);
            fake_turn_end(0);
            cr_assert(fake_next(c, &f) == !oneway);
            if (!oneway)
                cr_assert(f.h.code == 1 && f.h.opaque == 77 && memmem(f.h.remark.ptr, f.h.remark.len, "64", 2));
            zl_buf_free(&b);
        }
    cr_assert(fake_exchange(c, 10, 0, ZL_TYPE_JSON, "still here", &f) && f.h.code == 0);
    fake_stop();
}

Test(dispatch, message_mode_wants_whole_frames)
{
    struct zl_buf b;
    fake.transport.caps = ZR_TRANSPORT_MESSAGE;
    start();
    zk_log_set(0, 0);
    struct zr_conn *c = fake_open(0, 0);
    zl_buf_init(&b, 1 << 20);
    fake_request(&b, 10, 5, 0, ZL_TYPE_JSON, "x");
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    cr_assert(fake_data(c, b.ptr, b.len - 1, NULL) == ZR_EINVAL);
    fake_turn_end(0);
    zl_buf_free(&b);
    fake_stop();
}

static struct zr_event seen_event;
static uint32_t seen_flags, n_closed;
static void hook_reject_13(const struct zr_event *event, struct zr_verdict *verdict)
{
    seen_event = *event;
    if (event->point == ZR_POINT_SESSION_CLOSED) {
        n_closed++;
        return;
    }
    seen_flags = event->request->flags;
    if (event->request->flags & ZR_REQUEST_GUARDED) {
        verdict->what = ZR_VERDICT_REJECT;
        verdict->code = 16;
        verdict->remark = (struct zr_str)ZR_STR("not you");
    } else if (event->code == 11) {
        verdict->what = ZR_VERDICT_HANDLED;
        zk_answer_code(event->request->token, 0, "by the hook");
    }
}

Test(dispatch, hooks)
{
    struct fake_frame f;
    start();
    fake_hook = hook_reject_13;
    struct zr_conn *c = fake_open(0, 0);
    cr_assert(fake_exchange(c, 10, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == 0 && n_calls == 1);
    cr_assert(seen_event.code == 10 && seen_event.session == c->session && seen_event.point == ZR_POINT_REQUEST && seen_flags == ZR_REQUEST_JSON);
    cr_assert(fake_exchange(c, 13, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == 16 && zl_is(f.h.remark, "not you") && n_calls == 1);
    cr_assert(!fake_exchange(c, 13, ZL_FLAG_ONEWAY, ZL_TYPE_JSON, "t", &f) && n_calls == 1);
    cr_assert(fake_exchange(c, 11, 0, ZL_TYPE_JSON, "t", &f) && zl_is(f.h.remark, "by the hook") && n_calls == 1 && !fake_next(c, &f));
    cr_assert(fake_exchange(c, 4711, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == 3 && seen_event.code == 4711);
    fake_close(c, ZR_ECLOSED);
    cr_assert(seen_event.point == ZR_POINT_SESSION_CLOSED && seen_event.session == c->session && seen_event.request == NULL);
    cr_assert(n_closed == 1);
    fake_stop();
}

Test(dispatch, two_handlers_for_one_code_are_refused)
{
    static const struct zr_handler one[] = { ROW(10, ZR_SERVES_FAST, 0, h_echo) };
    zk_remoting_add(one, 1, "the kernel");
    cr_assert(fake_try_start(handlers, N_HANDLERS) == ZR_EEXIST);
    cr_assert(strstr(zk_err_text(), "10") && strstr(zk_err_text(), "the kernel") && strstr(zk_err_text(), "fake"), "%s", zk_err_text());
    zk_core_stop();
}

Test(dispatch, kernel_handlers_beside_an_instance)
{
    struct fake_frame f;
    static const struct zr_handler one[] = { ROW(10, ZR_SERVES_ROUTING, 0, h_echo) };
    zk_remoting_add(one, 1, "the kernel");
    start();
    struct zr_conn *c = fake_open(0, 2);
    cr_assert(fake_exchange(c, 10, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == 0);
    fake_stop();
}

Test(dispatch, session_knows_its_client)
{
    struct zl_buf b;
    const char *header = "{\"code\":10,\"language\":\"GO\",\"version\":317,\"opaque\":3,\"extFields\":{\"topic\":\"T\\u0001x\"}}";
    uint8_t head[8];
    start();
    struct zr_conn *c = fake_open(0, 1);
    struct zr_session_info info = { ZR_HDR(struct zr_session_info, 0) };
    zk_session_info(c->session, &info);
    cr_assert(info.version == -1 && info.language == -1 && info.open && info.serves == ZR_SERVES_FAST && info.peer.port == 5000);
    uint64_t first = info.id;
    zl_buf_init(&b, 1 << 20);
    zl_store32(head, (uint32_t)strlen(header) + 4);
    zl_store32(head + 4, (uint32_t)strlen(header));
    zl_buf_add(&b, head, 8);
    zl_buf_cstr(&b, header);
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    fake_turn_end(0);
    zk_session_info(c->session, &info);
    cr_assert(info.version == 317 && info.language == 9);
    struct zr_conn *d = fake_open(0, 0);
    zk_session_info(d->session, &info);
    cr_assert(info.id != first && zk_n_sessions() == 2 && zk_session_queued(d->session) == 7);
    /* a plugin of an older minor gets no more than it has room for */
    memset(&info, 0x55, sizeof info);
    info.hdr.size = ZR_END(struct zr_session_info, peer);
    zk_session_info(d->session, &info);
    cr_assert(info.peer.port == 5000 && info.local.port == 0x5555 && info.open == 0x55555555u);
    zl_buf_free(&b);
    fake_stop();
}

Test(dispatch, data_behind_a_close_is_harmless)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = fake_open(0, 0);
    cr_assert(!fake_exchange(c, 19, 0, ZL_TYPE_JSON, "t", &f), "closed before its answer left");
    cr_assert(atomic_load(&c->closing));
    fake_pump(0);
    cr_assert(zk_n_sessions() == 0 && atomic_load(&c->released));
    fake_stop();
}

Test(dispatch, nothing_opens_after_stop)
{
    start();
    fake_threads();
    fake_open(0, 0);
    zk_remoting_stop();
    cr_assert(zk_n_sessions() == 0);
    struct zr_conn probe = { .lane = 0 };
    struct zr_conn_info info = { ZR_HDR(struct zr_conn_info, 0) };
    struct zr_session *s = NULL;
    cr_assert(fake.sink->opened(fake.sink->ctx, &probe, &info, &s) == ZR_ECLOSED && s == NULL);
    fake_stop();
}
