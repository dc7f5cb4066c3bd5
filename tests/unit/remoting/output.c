/* SPDX-License-Identifier: Apache-2.0 */
/* output.c - how answers leave: grouped by session, with pieces, early, refused. */
#include "fake.h"
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "zl/text.h"

#define ROW(code, flags, fn) { ZR_HDR(struct zr_handler, 0), code, ZR_SERVES_BROKER, flags, 0, #fn, fn }

static uint32_t n_done;
static _Atomic uint32_t n_turn_ends, n_woken, n_closed; /* stop runs both lanes */
static zr_status last_done;
static uint8_t *big;
static uint64_t big_len = 100;
static int file = -1;
static struct zr_token late[64];
static _Atomic uint32_t n_late;
static struct zr_session *tell_to;

static void on_done(void *ctx, zr_status status)
{
    cr_assert(ctx == &n_done);
    n_done++;
    last_done = status;
}

static zr_status answer_pieces(const struct zr_request *req, struct zr_piece *pieces, uint32_t n)
{
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    c.pieces = pieces;
    c.n_pieces = n;
    c.done = on_done;
    c.done_ctx = &n_done;
    zr_status status = zk_answer(req->token, &c);
    memset(pieces, 0x77, n * sizeof *pieces); /* only the bytes are held */
    return status < 0 ? status : ZR_OK;
}
static zr_status h_small(struct zr_inst *inst, const struct zr_request *req) { (void)inst; return zk_answer_code(req->token, 0, "small"); }
static zr_status h_memory(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_piece p[2] = { { big, 60, 0, -1, 0 }, { big + 60, big_len - 60, 0, -1, 0 } };
    return answer_pieces(req, p, 2);
}
static zr_status h_file(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_piece p[2] = { { NULL, 10, 5, file, 0 }, { big, 3, 0, file, 0 } };
    return answer_pieces(req, p, 2);
}
static zr_status h_big_body(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    c.body = (struct zr_span){ big, big_len };
    zk_answer(req->token, &c);
    return ZR_OK;
}
static zr_status h_late(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    late[n_late++] = *req->token;
    return ZR_PENDING;
}
static zr_status h_tell(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    c.code = 40;
    cr_assert(zk_tell(tell_to, &c) == ZR_OK);
    return zk_answer_code(req->token, 0, NULL);
}
static const struct zr_handler handlers[] = { ROW(1, 0, h_small), ROW(2, 0, h_memory), ROW(3, 0, h_file), ROW(4, 0, h_big_body), ROW(5, 0, h_late), ROW(6, 0, h_tell) };

static void ev_turn_end(struct zk_lane *lane)
{
    n_turn_ends++;
    cr_assert(zk_lane_at(lane->id) == lane && lane->broker == &n_turn_ends);
    for (uint32_t i = 0; i < n_late; i++)
        zk_answer_code(&late[i], 0, "at the end");
    n_late = 0;
}
static void ev_woken(struct zk_lane *lane)
{
    (void)lane;
    n_woken++;
    for (uint32_t i = 0; i < n_late; i++)
        zk_answer_code(&late[i], 0, "woken");
    n_late = 0;
}
static uint32_t n_lanes_open;
static void ev_lane_opened(struct zk_lane *lane) { lane->broker = &n_turn_ends; n_lanes_open++; }
static void ev_lane_closed(struct zk_lane *lane) { cr_assert(lane->broker == &n_turn_ends); n_lanes_open--; }
static void ev_session_closed(struct zr_session *s) { cr_assert(zk_session_broker(s) == &n_closed); n_closed++; }
static const struct zk_remoting_events events = { ev_lane_opened, ev_lane_closed, ev_turn_end, ev_woken, ev_session_closed };

static void start(void)
{
    big = malloc(20u << 20);
    cr_assert(big != NULL);
    memset(big, 'b', 20u << 20);
    file = memfd_create("pieces", 0);
    cr_assert(file >= 0 && write(file, "01234567890123456789", 20) == 20);
    zk_remoting_events_set(&events);
    fake_start(handlers, sizeof handlers / sizeof handlers[0]);
    cr_assert(n_lanes_open == FAKE_LANES && zk_n_lanes() == FAKE_LANES);
}

static struct zr_conn *open_one(uint32_t lane)
{
    struct zr_conn *c = fake_open(lane, 0);
    zk_session_set_broker(c->session, &n_closed);
    return c;
}

static void stop(void)
{
    uint32_t was = n_closed, open = (uint32_t)zk_n_sessions();
    fake_stop();
    cr_assert(n_lanes_open == 0 && n_closed == was + open);
    free(big);
    close(file);
}

static void feed(struct zr_conn *c, int32_t code, int32_t opaque)
{
    struct zl_buf b;
    zl_buf_init(&b, 1 << 20);
    fake_request(&b, code, opaque, 0, ZL_TYPE_JSON, "t");
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    zl_buf_free(&b);
}

Test(output, memory_pieces_leave_with_everything_else_and_are_held)
{
    struct fake_frame f;
    fake.hold_done = 1;
    start();
    struct zr_conn *c = open_one(0), *d = open_one(0);
    feed(c, 1, 1);
    feed(c, 2, 2);
    feed(d, 1, 10);
    feed(c, 1, 3);
    feed(c, 2, 4);
    fake_turn_end(0);
    cr_assert(c->n_sends == 1 && d->n_sends == 1 && n_done == 0);
    for (int32_t i = 1; i <= 4; i++) {
        cr_assert(fake_next(c, &f) && f.h.opaque == i);
        cr_assert(f.h.body.len == (i % 2 ? 0 : big_len));
        cr_assert(i % 2 || memcmp(f.h.body.ptr, big, big_len) == 0);
    }
    fake_done(ZR_OK);
    cr_assert(n_done == 2 && last_done == ZR_OK);
    stop();
}

Test(output, file_pieces)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = open_one(0);
    feed(c, 3, 1);
    fake_turn_end(0);
    cr_assert(fake_next(c, &f) && f.h.body.len == 13 && memcmp(f.h.body.ptr, "5678901234bbb", 13) == 0 && n_done == 1);
    stop();
}

Test(output, file_pieces_are_read_for_a_transport_without_files)
{
    struct fake_frame f;
    fake.transport.caps = ZR_TRANSPORT_STREAM;
    start();
    struct zr_conn *c = open_one(0);
    feed(c, 1, 1);
    feed(c, 3, 2);
    fake_turn_end(0);
    cr_assert(fake_next(c, &f) && fake_next(c, &f) && f.h.opaque == 2);
    cr_assert(f.h.body.len == 13 && memcmp(f.h.body.ptr, "5678901234bbb", 13) == 0 && n_done == 1 && last_done == ZR_OK);
    ftruncate(file, 7); /* bytes that are gone: nothing half is sent, and the client is not left waiting */
    feed(c, 3, 3);
    fake_turn_end(0);
    cr_assert(!fake_next(c, &f) && n_done == 2 && last_done == ZR_EIO && atomic_load(&c->closing));
    stop();
}

Test(output, done_is_called_when_send_refuses_or_the_session_is_gone)
{
    start();
    struct zr_conn *c = open_one(0), *d = open_one(0);
    fake.send_answers = ZR_EFULL;
    feed(c, 2, 1);
    fake_turn_end(0);
    cr_assert(n_done == 1 && last_done == ZR_EFULL);
    fake.send_answers = ZR_OK;
    feed(d, 2, 1);
    fake_close(d, ZR_ECLOSED);
    fake_turn_end(0);
    cr_assert(n_done == 2 && last_done == ZR_ECLOSED && atomic_load(&d->released));
    stop();
}

Test(output, answers_of_turn_end_leave_in_that_turn)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = open_one(0);
    feed(c, 5, 1);
    feed(c, 1, 2);
    feed(c, 5, 3);
    fake_turn_end(0);
    cr_assert(n_turn_ends == 1 && c->n_sends == 1);
    cr_assert(fake_next(c, &f) && f.h.opaque == 2 && fake_next(c, &f) && f.h.opaque == 1 && fake_next(c, &f) && f.h.opaque == 3);
    stop();
}

Test(output, answers_of_woken_leave_together)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = open_one(1);
    feed(c, 5, 1);
    feed(c, 5, 2);
    zk_lane_wake(zk_session_lane(c->session));
    fake_pump(1);
    cr_assert(n_woken == 1 && c->n_sends == 1 && fake_next(c, &f) && zl_is(f.h.remark, "woken") && fake_next(c, &f));
    fake_turn_end(1);
    cr_assert(c->n_sends == 1);
    stop();
}

Test(output, other_lanes_are_told_at_once)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = open_one(0), *same = open_one(0), *other = open_one(1);
    tell_to = other->session;
    feed(c, 6, 1);
    cr_assert(other->n_sends == 1 && c->n_sends == 0);
    cr_assert(fake_next(other, &f) && f.h.code == 40 && f.h.flag == ZL_FLAG_ONEWAY && f.h.type == ZL_TYPE_JSON);
    tell_to = same->session;
    feed(c, 6, 2);
    cr_assert(same->n_sends == 0);
    fake_turn_end(0);
    cr_assert(same->n_sends == 1 && c->n_sends == 1);
    stop();
}

Test(output, much_output_leaves_early_and_in_order)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = open_one(0), *d = open_one(0);
    big_len = 100000;
    for (int32_t i = 0; i < 20; i++) {
        feed(c, i % 3 ? 4 : 2, i);
        feed(d, 1, i);
    }
    cr_assert(c->n_sends > 0, "2 MB do not wait for the end");
    fake_turn_end(0);
    for (int32_t i = 0; i < 20; i++)
        cr_assert(fake_next(c, &f) && f.h.opaque == i && f.h.body.len == big_len && fake_next(d, &f) && f.h.opaque == i);
    cr_assert(n_done == 7);
    stop();
}

Test(output, many_segments)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = open_one(0), *d = open_one(0);
    for (int32_t i = 0; i < 3000; i++) {
        feed(c, 1, i);
        feed(d, i % 100 ? 1 : 2, i);
    }
    fake_turn_end(0);
    for (int32_t i = 0; i < 3000; i++)
        cr_assert(fake_next(c, &f) && f.h.opaque == i && fake_next(d, &f) && f.h.opaque == i);
    cr_assert(n_done == 30);
    stop();
}

Test(output, an_answer_too_large_is_said_so)
{
    struct fake_frame f;
    start();
    struct zr_conn *c = open_one(0);
    big_len = 17u << 20;
    feed(c, 4, 1);
    feed(c, 2, 2);
    fake_turn_end(0);
    cr_assert(fake_next(c, &f) && f.h.opaque == 1 && f.h.code == 1 && zl_is(f.h.remark, "the answer is larger than a frame may be"));
    cr_assert(fake_next(c, &f) && f.h.opaque == 2 && f.h.code == 1 && n_done == 1 && last_done == ZR_EFULL);
    big_len = (16u << 20) - 300;
    feed(c, 4, 3);
    feed(c, 2, 4);
    fake_turn_end(0);
    cr_assert(fake_next(c, &f) && f.h.code == 0 && f.h.body.len == big_len && fake_next(c, &f) && f.h.code == 0 && f.h.body.len == big_len);
    stop();
}

Test(output, a_long_turn_is_ended_early_for_its_header_text)
{
    struct zl_buf b;
    struct fake_frame f;
    start();
    struct zr_conn *c = open_one(0);
    char *text = malloc(200001);
    memset(text, 'x', 200000);
    text[200000] = 0;
    zl_buf_init(&b, 64u << 20);
    for (int32_t i = 0; i < 50; i++)
        fake_request(&b, 1, i, 0, ZL_TYPE_JSON, text);
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    cr_assert(n_turn_ends >= 2, "10 MB of headers");
    fake_turn_end(0);
    for (int32_t i = 0; i < 50; i++)
        cr_assert(fake_next(c, &f) && f.h.opaque == i);
    zl_buf_free(&b);
    free(text);
    stop();
}
