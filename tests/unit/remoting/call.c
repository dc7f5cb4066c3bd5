/* SPDX-License-Identifier: Apache-2.0 */
/* call.c - requests to other servers: dial on demand, one connection for an address, loss, hang up, limits. */
#include "fake.h"
#include <semaphore.h>
#include <string.h>
#include "zl/text.h"

struct told { uint32_t n; zr_status status; int32_t code; char text[256]; sem_t sem; };

static void on_answer(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text)
{
    struct told *t = ctx;
    t->n++;
    t->status = status;
    t->code = response ? response->code : -1;
    cr_assert((status == ZR_OK) == (response != NULL));
    snprintf(t->text, sizeof t->text, "%.*s", FAKE_STR(text));
    cr_assert(status == ZR_OK || text.len > 0, "a failure has a text");
    sem_post(&t->sem);
}

static const struct zr_call_v1 *calls(void) { return zk_service(ZR_SVC_CALL); }

static void call(const char *url, int64_t timeout_ms, struct told *t)
{
    struct zr_command cmd = { ZR_HDR(struct zr_command, 0) };
    memset(t, 0, sizeof *t);
    sem_init(&t->sem, 0, 0);
    cmd.code = 103;
    calls()->call(&fake.instance.host, zl_str(url), &cmd, timeout_ms * 1000000, on_answer, t);
}

static void answer_next(struct zr_conn *c, int32_t code)
{
    struct fake_frame f;
    struct zl_buf b;
    struct zr_command cmd = { ZR_HDR(struct zr_command, 0) };
    cr_assert(fake_next(c, &f) && f.h.code == 103 && f.h.flag == 0);
    cmd.code = code;
    zl_buf_init(&b, 1 << 16);
    cr_assert(zl_command_encode(&b, &cmd, ZL_TYPE_JSON, ZL_FLAG_RESPONSE, f.h.opaque, 0) == ZR_OK);
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    fake_turn_end(c->lane);
    zl_buf_free(&b);
}

Test(call, dials_once_and_shares_the_connection)
{
    struct told a, b, d, other;
    fake_start(NULL, 0);
    call("10.0.0.1:9876", 60000, &a);
    call("tcp://10.0.0.1:9876", 60000, &b);
    cr_assert(fake.n_dials == 1 && strcmp(fake.dials[0].url, "tcp://10.0.0.1:9876") == 0 && a.n == 0);
    struct zr_conn *c = fake_dial_ok(0, 1);
    cr_assert(c->n_sends == 1, "what waited leaves together");
    answer_next(c, 5);
    answer_next(c, 6);
    cr_assert(a.n == 1 && a.status == ZR_OK && a.code == 5 && b.n == 1 && b.code == 6);
    call("10.0.0.1:9876", 60000, &d);
    cr_assert(fake.n_dials == 1 && c->n_sends == 2);
    answer_next(c, 7);
    cr_assert(d.n == 1 && d.code == 7);
    call("mem://10.0.0.1:9876", 60000, &other);
    cr_assert(fake.n_dials == 2 && strcmp(fake.dials[1].url, "mem://10.0.0.1:9876") == 0);
    fake_stop();
    cr_assert(other.n == 1 && other.status == ZR_ECLOSED);
}

Test(call, dial_failed_and_again)
{
    struct told a, b;
    fake_start(NULL, 0);
    call("h:1", 60000, &a);
    fake_dial_fail(0, ZR_EIO, "connection refused");
    cr_assert(a.n == 1 && a.status == ZR_ECLOSED && strstr(a.text, "h:1") && strstr(a.text, "connection refused"));
    call("h:1", 60000, &b);
    cr_assert(fake.n_dials == 2);
    answer_next(fake_dial_ok(1, 0), 0);
    cr_assert(b.n == 1 && b.status == ZR_OK);
    fake_stop();
}

Test(call, a_transports_line_that_names_the_address_is_told_as_it_is)
{
    struct told a;
    fake_start(NULL, 0);
    call("tcp://h:1", 60000, &a);
    fake_dial_fail(0, ZR_EIO, "cannot connect to tcp://h:1: Connection refused");
    cr_expect(a.n == 1 && strcmp(a.text, "cannot connect to tcp://h:1: Connection refused") == 0, "%s", a.text);
    fake_stop();
}

Test(call, dial_that_fails_at_once)
{
    struct told a;
    fake_start(NULL, 0);
    fake.dial_answers = ZR_EINVAL;
    call("no port", 60000, &a);
    cr_assert(a.n == 1 && a.status == ZR_EINVAL);
    fake_stop();
}

Test(call, wrong_addresses)
{
    struct told a;
    fake_start(NULL, 0);
    static const char *const bad[] = { "", "://", "tcp://", "gopher://x:1" };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        call(bad[i], 60000, &a);
        cr_assert(a.n == 1 && a.status == ZR_EINVAL, "%s", bad[i]);
    }
    char longer[2000];
    memset(longer, 'x', sizeof longer - 1);
    longer[sizeof longer - 1] = 0;
    call(longer, 60000, &a);
    cr_assert(a.n == 1 && a.status == ZR_EINVAL && fake.n_dials == 0);
    fake_stop();
}

Test(call, timeouts_before_and_after_the_connection)
{
    struct told before, after;
    fake_start(NULL, 0);
    call("h:1", 5, &before);
    sem_wait(&before.sem);
    cr_assert(before.status == ZR_ETIMEOUT && strstr(before.text, "h:1"));
    call("h:1", 60, &after);
    cr_assert(fake.n_dials == 1, "the dial goes on");
    cr_assert(fake_dial_ok(0, 0) != NULL);
    sem_wait(&after.sem);
    cr_assert(after.status == ZR_ETIMEOUT);
    fake_stop();
    cr_assert(before.n == 1 && after.n == 1);
}

Test(call, lost_connection_fails_what_is_in_flight_and_the_next_call_dials)
{
    struct told a, b;
    fake_start(NULL, 0);
    call("h:1", 60000, &a);
    struct zr_conn *c = fake_dial_ok(0, 0);
    fake_close(c, ZR_ECLOSED);
    cr_assert(a.n == 1 && a.status == ZR_ECLOSED && atomic_load(&c->released));
    call("h:1", 60000, &b);
    cr_assert(fake.n_dials == 2);
    answer_next(fake_dial_ok(1, 1), 0);
    cr_assert(b.n == 1 && b.status == ZR_OK);
    fake_stop();
}

Test(call, a_connection_that_is_dead_but_not_yet_closed_is_replaced)
{
    struct told a, b;
    fake_start(NULL, 0);
    call("h:1", 60000, &a);
    struct zr_conn *c = fake_dial_ok(0, 0);
    answer_next(c, 0);
    atomic_store(&c->closing, 1); /* send answers ZR_ECLOSED from here on */
    call("h:1", 60000, &b);
    cr_assert(b.n == 0 && fake.n_dials == 2);
    fake_close(c, ZR_ECLOSED);
    cr_assert(b.n == 0);
    answer_next(fake_dial_ok(1, 0), 0);
    cr_assert(b.n == 1 && b.status == ZR_OK);
    fake_stop();
}

Test(call, closed_before_its_calls_got_it)
{
    struct told a;
    fake_start(NULL, 0);
    call("h:1", 60000, &a);
    fake.threads = 1; /* no pump: woken has not come yet */
    struct zr_conn *c = fake_dial_ok(0, 0);
    fake.threads = 0;
    cr_assert(c && a.n == 0);
    fake_close(c, ZR_ECLOSED);
    cr_assert(a.n == 1 && a.status == ZR_ECLOSED && atomic_load(&c->released));
    fake_pump(0);
    call("h:1", 60000, &a);
    cr_assert(fake.n_dials == 2);
    fake_stop();
}

Test(call, hang_up)
{
    struct told a, b, d;
    fake_start(NULL, 0);
    call("h:1", 60000, &a);
    struct zr_conn *c = fake_dial_ok(0, 0);
    calls()->hang_up(&fake.instance.host, zl_str("tcp://h:1"));
    cr_assert(a.n == 1 && a.status == ZR_ECLOSED && atomic_load(&c->closing) && atomic_load(&c->close_flush));
    call("h:1", 60000, &b);
    cr_assert(fake.n_dials == 2 && b.n == 0);
    calls()->hang_up(&fake.instance.host, zl_str("h:1"));
    cr_assert(b.n == 1 && b.status == ZR_ECLOSED);
    cr_assert(fake_dial_ok(1, 0) == NULL, "hung up while dialing: not wanted");
    call("h:1", 60000, &d);
    cr_assert(fake.n_dials == 3);
    fake_pump(0); /* closes the first connection, which is not this one */
    cr_assert(c->closed && d.n == 0);
    answer_next(fake_dial_ok(2, 1), 3);
    cr_assert(d.n == 1 && d.code == 3);
    calls()->hang_up(&fake.instance.host, zl_str("nobody:1"));
    fake_stop();
}

Test(call, tell)
{
    struct fake_frame f;
    struct zr_command cmd = { ZR_HDR(struct zr_command, 0) };
    fake_start(NULL, 0);
    cmd.code = 904;
    cr_assert(calls()->tell(&fake.instance.host, zl_str("h:1"), &cmd) == ZR_OK);
    struct zr_conn *c = fake_dial_ok(0, 0);
    cr_assert(calls()->tell(&fake.instance.host, zl_str("h:1"), &cmd) == ZR_OK);
    for (int i = 0; i < 2; i++)
        cr_assert(fake_next(c, &f) && f.h.code == 904 && f.h.flag == ZL_FLAG_ONEWAY);
    cr_assert(calls()->tell(&fake.instance.host, zl_str("x://"), &cmd) == ZR_EINVAL);
    fake_stop();
}

static uint32_t n_done;
static void on_done(void *ctx, zr_status status) { (void)ctx; (void)status; n_done++; }

Test(call, bodies_in_pieces_wait_too)
{
    struct fake_frame f;
    struct told t;
    struct zr_piece p[2] = { { (const uint8_t *)"hello ", 6, 0, -1, 0 }, { (const uint8_t *)"world", 5, 0, -1, 0 } };
    struct zr_command cmd = { ZR_HDR(struct zr_command, 0) };
    fake_start(NULL, 0);
    memset(&t, 0, sizeof t);
    sem_init(&t.sem, 0, 0);
    cmd.code = 103;
    cmd.pieces = p;
    cmd.n_pieces = 2;
    cmd.done = on_done;
    calls()->call(NULL, zl_str("h:1"), &cmd, INT64_C(60000000000), on_answer, &t);
    cr_assert(n_done == 0);
    struct zr_conn *c = fake_dial_ok(0, 0);
    cr_assert(n_done == 1 && fake_next(c, &f) && f.h.body.len == 11 && memcmp(f.h.body.ptr, "hello world", 11) == 0);
    calls()->call(NULL, zl_str("gone:1"), &cmd, INT64_C(60000000000), on_answer, &t);
    fake_dial_fail(1, ZR_EIO, "");
    cr_assert(n_done == 2);
    fake_stop();
    cr_assert(n_done == 2 && t.n == 2);
}

static zr_status h_min_broker(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    cr_assert(req->serves == ZR_SERVES_BROKER);
    struct zr_session_info info = { ZR_HDR(struct zr_session_info, 0) };
    zk_session_info(req->session, &info);
    cr_assert(info.serves == 0);
    return zk_answer_code(req->token, 0, "noted");
}

Test(call, a_server_may_ask_back)
{
    static const struct zr_handler handlers[] = { { ZR_HDR(struct zr_handler, 0), 905, ZR_SERVES_BROKER, 0, 0, "NOTIFY_MIN_BROKER_ID_CHANGE", h_min_broker } };
    struct fake_frame f;
    struct told a;
    fake_start(handlers, 1);
    call("h:1", 60000, &a);
    struct zr_conn *c = fake_dial_ok(0, 0);
    answer_next(c, 0);
    cr_assert(fake_exchange(c, 905, 0, ZL_TYPE_JSON, "t", &f) && zl_is(f.h.remark, "noted"));
    cr_assert(fake_exchange(c, 906, 0, ZL_TYPE_JSON, "t", &f) && f.h.code == 3);
    fake_stop();
}

Test(call, too_many_wait)
{
    static struct told t[10001];
    fake_start(NULL, 0);
    for (int i = 0; i < 10001; i++)
        call("h:1", 60000, &t[i]);
    cr_assert(t[9999].n == 0 && t[10000].n == 1 && t[10000].status == ZR_EFULL);
    fake_dial_fail(0, ZR_ETIMEOUT, "");
    for (int i = 0; i < 10000; i++)
        cr_assert(t[i].n == 1 && t[i].status == ZR_ECLOSED);
    fake_stop();
}

Test(call, after_stop)
{
    struct told t;
    fake_start(NULL, 0);
    fake_threads();
    zk_remoting_stop();
    call("h:1", 60000, &t);
    cr_assert(t.n == 1 && t.status == ZR_ECLOSED && fake.n_dials == 0);
    fake_stop();
}
