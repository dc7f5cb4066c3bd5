/* SPDX-License-Identifier: Apache-2.0 */
/* stress.c - several threads ask, call and answer while connections close and timers run out. Whatever happens, each asker is
 * told exactly once, each done is called, and each connection is released. Meant for TSan and ASan above all. */
#include "fake.h"
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include "zl/text.h"

#define SLOTS 8u
#define ASKERS 4u
#define ROUNDS 10000u
#define CHURNS 1000u

struct slot { pthread_mutex_t lock; struct zr_conn *conn; struct zr_session *session; };
static struct slot slots[SLOTS];
static _Atomic uint32_t n_asked, n_told, n_refused, n_by_status[3], n_done, n_wanted_done, n_double, churning = 1;
struct told { _Atomic uint32_t n; };

static uint32_t next_random(uint32_t *seed) { return *seed = *seed * 1664525u + 1013904223u, *seed >> 8; }

/* The other side: answers most of what it is asked, at once or twice, and leaves the rest to the timers. */
static void other_side(struct zr_conn *conn, struct zr_span frame, void *ctx)
{
    (void)ctx;
    struct fake_frame f;
    struct zl_buf b;
    const char *why;
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    cr_assert(zl_header_decode(frame, &f.h, f.scratch, sizeof f.scratch, &why) == ZR_OK);
    uint32_t dice = (uint32_t)f.h.opaque * 2654435761u >> 28;
    if ((f.h.flag & (ZL_FLAG_RESPONSE | ZL_FLAG_ONEWAY)) || dice < 4)
        return;
    zl_buf_init(&b, 1 << 16);
    for (uint32_t i = 0; i < (dice == 4 ? 2u : 1u); i++)
        zl_command_encode(&b, &c, ZL_TYPE_JSON, ZL_FLAG_RESPONSE, f.h.opaque, 0);
    fake_inject(conn, b.ptr, b.len);
    zl_buf_free(&b);
}

static void count(struct told *t, zr_status status)
{
    if (atomic_fetch_add(&t->n, 1) != 0)
        atomic_fetch_add(&n_double, 1);
    atomic_fetch_add(&n_told, 1);
    atomic_fetch_add(&n_by_status[status == ZR_OK ? 0 : status == ZR_ETIMEOUT ? 1 : 2], 1);
}
static void on_answer(void *ctx, zr_status status, const struct zr_request *response) { (void)response; count(ctx, status); }
static void on_call(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text) { (void)response; (void)text; count(ctx, status); }
static void on_done(void *ctx, zr_status status) { (void)ctx; (void)status; atomic_fetch_add(&n_done, 1); }

static struct zr_session *slot_session(uint32_t i)
{
    pthread_mutex_lock(&slots[i].lock);
    struct zr_session *s = zk_session_hold(slots[i].session);
    pthread_mutex_unlock(&slots[i].lock);
    return s;
}

static void ask_one(struct told *t, uint32_t dice)
{
    struct zr_piece piece = { (const uint8_t *)"0123456789", 10, 0, -1, 0 };
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    c.code = 307;
    if (dice & 1) {
        c.pieces = &piece;
        c.n_pieces = 1;
        c.done = on_done;
        atomic_fetch_add(&n_wanted_done, 1);
    }
    struct zr_session *s = slot_session(dice % SLOTS);
    atomic_fetch_add(&n_asked, 1);
    if (zk_ask(s, &c, (dice >> 8) % 4 * 1000000, on_answer, t) != ZR_OK) {
        cr_assert(atomic_load(&t->n) == 0);
        atomic_fetch_sub(&n_asked, 1);
        atomic_fetch_add(&n_refused, 1);
    }
    zk_session_release(s);
}

static void call_one(struct told *t, uint32_t dice)
{
    const struct zr_call_v1 *calls = zk_service(ZR_SVC_CALL);
    struct zr_str url = (dice & 1) ? zl_str("one:1") : zl_str("two:2");
    struct zr_command c = { ZR_HDR(struct zr_command, 0) };
    c.code = 105;
    if (dice % 64 == 0)
        calls->hang_up(NULL, url);
    if (dice % 32 == 1) {
        calls->tell(NULL, url, &c);
        atomic_fetch_add(&n_refused, 1);
        return;
    }
    atomic_fetch_add(&n_asked, 1);
    calls->call(NULL, url, &c, (dice >> 8) % 6 * 1000000, on_call, t);
}

static void inject_one(uint32_t dice)
{
    struct zl_buf b;
    zl_buf_init(&b, 1 << 16);
    fake_request(&b, 20, (int32_t)dice, 0, dice & 1 ? ZL_TYPE_JSON : ZL_TYPE_BINARY, "x");
    pthread_mutex_lock(&slots[dice % SLOTS].lock);
    fake_inject(slots[dice % SLOTS].conn, b.ptr, b.len);
    pthread_mutex_unlock(&slots[dice % SLOTS].lock);
    zl_buf_free(&b);
}

static void *asker(void *arg)
{
    struct told *told = arg;
    uint32_t seed = (uint32_t)(uintptr_t)arg;
    for (uint32_t i = 0; i < ROUNDS; i++) {
        uint32_t dice = next_random(&seed);
        if (i % 3 == 0)
            call_one(&told[i], dice);
        else
            ask_one(&told[i], dice);
        if (i % 4 == 0)
            inject_one(dice);
    }
    return NULL;
}

/* Requests whose answers come later from the pool. */
static _Atomic uint32_t n_later;
static void answer_later(void *arg)
{
    zk_answer_code(arg, 0, "later");
    atomic_fetch_sub(&n_later, 1);
}
static zr_status h_later(struct zr_inst *inst, const struct zr_request *req)
{
    (void)inst;
    struct zr_token *held = zk_token_hold(req->token);
    atomic_fetch_add(&n_later, 1);
    if (zk_work(answer_later, held) != ZR_OK)
        answer_later(held);
    return ZR_PENDING;
}

static void slot_open(uint32_t i)
{
    struct zr_conn *c = fake_open_threaded(i % FAKE_LANES, 0);
    /* closed cannot have come: nobody else knows it yet */
    struct zr_session *s = zk_session_hold(c->session), *old = slots[i].session;
    pthread_mutex_lock(&slots[i].lock);
    slots[i].conn = c;
    slots[i].session = s;
    pthread_mutex_unlock(&slots[i].lock);
    if (old) {
        zk_session_close(old);
        zk_session_release(old);
    }
}

static void *churn(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < CHURNS && atomic_load(&churning); i++) {
        slot_open(i % SLOTS);
        sched_yield();
    }
    return NULL;
}

Test(stress, everybody_is_told_exactly_once, .timeout = 110)
{
    static struct told told[ASKERS][ROUNDS];
    static const struct zr_handler handlers[] = { { ZR_HDR(struct zr_handler, 0), 20, ZR_SERVES_BROKER, 0, 0, "LATER", h_later } };
    pthread_t threads[ASKERS], churner;
    fake.on_frame = other_side;
    fake.auto_dial = 1;
    fake_start(handlers, 1);
    fake_threads();
    for (uint32_t i = 0; i < SLOTS; i++) {
        pthread_mutex_init(&slots[i].lock, NULL);
        slot_open(i);
    }
    for (uint32_t i = 0; i < ASKERS; i++)
        pthread_create(&threads[i], NULL, asker, told[i]);
    pthread_create(&churner, NULL, churn, NULL);
    for (uint32_t i = 0; i < ASKERS; i++)
        pthread_join(threads[i], NULL);
    atomic_store(&churning, 0);
    pthread_join(churner, NULL);
    for (uint32_t i = 0; i < SLOTS; i++)
        zk_session_release(slots[i].session);
    fake_stop(); /* asserts that every connection was released */
    cr_assert(atomic_load(&n_double) == 0);
    cr_assert(atomic_load(&n_told) == atomic_load(&n_asked), "%u asked, %u told", atomic_load(&n_asked), atomic_load(&n_told));
    cr_assert(atomic_load(&n_asked) + atomic_load(&n_refused) == ASKERS * ROUNDS);
    cr_assert(atomic_load(&n_done) == atomic_load(&n_wanted_done) && atomic_load(&n_later) == 0);
    for (uint32_t i = 0; i < 3; i++)
        cr_assert(atomic_load(&n_by_status[i]) > 0, "way %u was never taken", i);
    cr_log_info("%u answers, %u timeouts, %u losses, %u refused", atomic_load(&n_by_status[0]), atomic_load(&n_by_status[1]),
                atomic_load(&n_by_status[2]), atomic_load(&n_refused));
}
