/* SPDX-License-Identifier: Apache-2.0 */
/* ask.c - requests to clients: answered, timed out, closed, refused; each exactly once. */
#include "fake.h"
#include <semaphore.h>
#include <string.h>
#include "zl/text.h"

struct told { uint32_t n; zr_status status; int32_t code; char remark[64]; sem_t sem; };

static void on_answer(void *ctx, zr_status status, const struct zr_request *response)
{
    struct told *t = ctx;
    t->n++;
    t->status = status;
    cr_assert((status == ZR_OK) == (response != NULL));
    if (response) {
        t->code = response->code;
        snprintf(t->remark, sizeof t->remark, "%.*s", FAKE_STR(response->remark));
        cr_assert(response->token == NULL && response->session != NULL);
    }
    sem_post(&t->sem);
}

static zr_status ask(struct zr_conn *c, int64_t timeout_ms, struct told *t)
{
    struct zr_command cmd = { ZR_HDR(struct zr_command, 0) };
    memset(t, 0, sizeof *t);
    sem_init(&t->sem, 0, 0);
    cmd.code = 307;
    return zk_ask(c->session, &cmd, timeout_ms * 1000000, on_answer, t);
}

static void answer(struct zr_conn *c, int32_t opaque, int32_t code, const char *remark)
{
    struct zl_buf b;
    struct zr_command cmd = { ZR_HDR(struct zr_command, 0) };
    cmd.code = code;
    cmd.remark = zl_str(remark);
    zl_buf_init(&b, 1 << 16);
    cr_assert(zl_command_encode(&b, &cmd, ZL_TYPE_JSON, ZL_FLAG_RESPONSE, opaque, 0) == ZR_OK);
    cr_assert(fake_data(c, b.ptr, b.len, NULL) == ZR_OK);
    fake_turn_end(c->lane);
    zl_buf_free(&b);
}

Test(ask, answered_in_any_order_and_once)
{
    struct told a, b;
    struct fake_frame fa, fb;
    fake_start(NULL, 0);
    struct zr_conn *c = fake_open(0, 0), *thief = fake_open(0, 0);
    cr_assert(ask(c, 60000, &a) == ZR_OK && ask(c, 60000, &b) == ZR_OK);
    cr_assert(fake_next(c, &fa) && fake_next(c, &fb) && fa.h.code == 307 && fa.h.flag == 0 && fa.h.type == ZL_TYPE_JSON && fa.h.opaque != fb.h.opaque);
    answer(thief, fa.h.opaque, 0, "not asked");
    cr_assert(a.n == 0 && b.n == 0, "another connection cannot answer");
    answer(c, fb.h.opaque, 7, "b");
    answer(c, fa.h.opaque, 8, "a");
    answer(c, fa.h.opaque, 9, "again");
    cr_assert(a.n == 1 && a.status == ZR_OK && a.code == 8 && strcmp(a.remark, "a") == 0);
    cr_assert(b.n == 1 && b.code == 7 && strcmp(b.remark, "b") == 0);
    fake_stop();
    cr_assert(a.n == 1 && b.n == 1);
}

Test(ask, timeout)
{
    struct told t, zero;
    struct fake_frame f;
    fake_start(NULL, 0);
    struct zr_conn *c = fake_open(0, 0);
    cr_assert(ask(c, 5, &t) == ZR_OK && ask(c, -1, &zero) == ZR_OK);
    sem_wait(&t.sem);
    sem_wait(&zero.sem);
    cr_assert(t.status == ZR_ETIMEOUT && zero.status == ZR_ETIMEOUT);
    cr_assert(fake_next(c, &f));
    answer(c, f.h.opaque, 0, "late");
    fake_stop();
    cr_assert(t.n == 1 && zero.n == 1);
}

Test(ask, connection_lost)
{
    struct told t[3];
    fake_start(NULL, 0);
    struct zr_conn *c = fake_open(0, 0);
    for (int i = 0; i < 3; i++)
        cr_assert(ask(c, 60000, &t[i]) == ZR_OK);
    struct zr_session *s = zk_session_hold(c->session);
    fake_close(c, ZR_ECLOSED);
    for (int i = 0; i < 3; i++)
        cr_assert(t[i].n == 1 && t[i].status == ZR_ECLOSED);
    cr_assert(ask(c, 60000, &t[0]) == ZR_ECLOSED && t[0].n == 0, "an ask that fails tells nobody");
    zk_session_release(s);
    cr_assert(atomic_load(&c->released));
    fake_stop();
}

Test(ask, refused_by_the_transport)
{
    struct told t;
    fake_start(NULL, 0);
    struct zr_conn *c = fake_open(0, 0);
    fake.send_answers = ZR_EFULL;
    cr_assert(ask(c, 60000, &t) == ZR_EFULL);
    fake_stop();
    cr_assert(t.n == 0);
}

Test(ask, limit_of_a_session)
{
    static struct told t[10001];
    fake_start(NULL, 0);
    struct zr_conn *c = fake_open(0, 0), *d = fake_open(0, 0);
    for (int i = 0; i < 10000; i++)
        cr_assert(ask(c, 60000, &t[i]) == ZR_OK);
    cr_assert(ask(c, 60000, &t[10000]) == ZR_EFULL);
    cr_assert(ask(d, 60000, &t[10000]) == ZR_OK, "others are not affected");
    fake_close(c, ZR_ECLOSED);
    for (int i = 0; i < 10000; i++)
        cr_assert(t[i].n == 1 && t[i].status == ZR_ECLOSED);
    fake_stop();
    cr_assert(t[10000].n == 1 && t[10000].status == ZR_ECLOSED);
}

Test(ask, stop_fails_what_is_pending)
{
    struct told t, later;
    fake_start(NULL, 0);
    struct zr_conn *c = fake_open(0, 0);
    struct zr_session *s = zk_session_hold(c->session);
    cr_assert(ask(c, 60000, &t) == ZR_OK);
    fake_threads();
    zk_remoting_stop();
    cr_assert(t.n == 1 && t.status == ZR_ECLOSED);
    cr_assert(ask(c, 60000, &later) == ZR_ECLOSED);
    zk_session_release(s);
    fake_stop();
}
