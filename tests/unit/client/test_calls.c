/* SPDX-License-Identifier: Apache-2.0 */
/* Calls against a fake server: answers, remarks, silence, loss, requests of the server's own, many at once. */
#include "fake.h"
#include <criterion/criterion.h>
#include <semaphore.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

/* What the fake does, by request code. */
enum { ECHO = 1000, REFUSE, SILENT, CLOSE, TELL, GARBAGE, NOTIFY };

static struct zr_command told = { .hdr = ZR_HDR(struct zr_command, 1), .code = 99999 };

static int handle(void *ctx, const struct zl_header *r, struct fake_answer *a)
{
    (void)ctx;
    switch (r->code) {
    case ECHO:
        a->n_fields = r->n_fields < FAKE_FIELDS ? r->n_fields : FAKE_FIELDS;
        memcpy(a->fields, r->fields, a->n_fields * sizeof(a->fields[0]));
        a->body = r->body;
        return FAKE_ANSWER;
    case REFUSE:
        a->code = 17;
        a->remark = "no \"such\" thing";
        return FAKE_ANSWER;
    case TELL:
        a->tell = &told;
        return FAKE_ANSWER;
    case GARBAGE:
        a->body = (struct zr_span){ (const uint8_t *)"\x7f\xff\xff\xff garbage", 12 };
        return FAKE_RAW;
    case CLOSE:
        return FAKE_CLOSE;
    default:
        return FAKE_SILENT;
    }
}

static struct fake fake;
static struct zc_client *client;

static void open_with(uint32_t header)
{
    memset(&fake, 0, sizeof(fake));
    fake.handle = handle;
    fake_start(&fake, NULL);
    client = zc_client_open(&(struct zc_options){ .namesrv = fake.addr, .header = header, .timeout_ms = 5000 }, NULL);
    cr_assert(client);
}
static void set_up(void) { open_with(ZC_HEADER_JSON); }
static void tear_down(void)
{
    zc_client_close(client);
    fake_stop(&fake);
}

static void echo(const char *addr, uint32_t size)
{
    struct zr_field f[2] = { { ZR_STR("name"), ZR_STR("v\"\001\n\xc3\xa4") }, { ZR_STR("n"), ZR_STR("-7") } };
    uint8_t *body = malloc(size + 1);
    struct zc_response *r;
    struct zc_err err = { 0 };
    memset(body, 'x', size);
    struct zc_request q = { .code = ECHO, .fields = f, .n_fields = 2, .body = { body, size } };
    cr_assert_eq(zc_call(client, addr, &q, &r, &err), 0, "%s", err.text);
    cr_expect_eq(r->code, 0);
    cr_expect(zl_is(zl_field(r->fields, r->n_fields, "name"), "v\"\001\n\xc3\xa4"));
    cr_expect_eq(r->body.len, size);
    cr_expect(size == 0 || memcmp(r->body.ptr, body, size) == 0);
    zc_response_free(r);
    free(body);
}

Test(calls, echo_json, .init = set_up, .fini = tear_down)
{
    echo(fake.addr, 0);
    echo(fake.addr, 100);
    echo(fake.addr, 8u << 20); /* larger than any socket buffer */
    cr_expect_eq(atomic_load(&fake.n_conns), 1);
}

Test(calls, echo_binary, .fini = tear_down)
{
    open_with(ZC_HEADER_BINARY);
    echo(fake.addr, 1000);
}

Test(calls, unix_socket, .init = set_up, .fini = tear_down)
{
    struct fake unix_fake = { .handle = handle };
    char path[64];
    snprintf(path, sizeof(path), "/tmp/zc-test-%d.sock", (int)getpid());
    unlink(path);
    fake_start(&unix_fake, path);
    echo(unix_fake.addr, 5000);
    cr_expect_eq(atomic_load(&unix_fake.n_requests), 1);
    fake_stop(&unix_fake);
    unlink(path);
    struct zc_response *r;
    cr_expect_eq(zc_call(client, "ipc:///nowhere/at/all", &(struct zc_request){ .code = ECHO }, &r, NULL), ZC_ECONNECT);
}

Test(calls, remark_becomes_error, .init = set_up, .fini = tear_down)
{
    struct zc_err err = { 0 };
    struct zc_response *r;
    struct zc_request q = { .code = REFUSE };
    cr_expect_eq(zc_call_ok(client, fake.addr, &q, &r, &err), 17);
    cr_expect_eq(err.code, 17);
    cr_expect_str_eq(err.text, "no \"such\" thing");
    cr_expect_null(r);
    cr_assert_eq(zc_call(client, fake.addr, &q, &r, &err), 0); /* the plain call leaves the judgement to us */
    cr_expect_eq(r->code, 17);
    zc_response_free(r);
}

Test(calls, silence_times_out, .init = set_up, .fini = tear_down)
{
    struct zc_response *r = (void *)1;
    struct zc_err err;
    struct zc_request q = { .code = SILENT, .timeout_ms = 50 };
    cr_expect_eq(zc_call(client, fake.addr, &q, &r, &err), ZC_ETIMEOUT);
    cr_expect_null(r);
    echo(fake.addr, 10); /* the connection lives */
    cr_expect_eq(atomic_load(&fake.n_conns), 1);
}

Test(calls, loss_and_garbage_end_the_call, .init = set_up, .fini = tear_down)
{
    struct zc_response *r;
    cr_expect_eq(zc_call(client, fake.addr, &(struct zc_request){ .code = CLOSE }, &r, NULL), ZC_ELOST);
    echo(fake.addr, 10); /* on a new one */
    cr_expect_eq(zc_call(client, fake.addr, &(struct zc_request){ .code = GARBAGE }, &r, NULL), ZC_ELOST);
    echo(fake.addr, 10);
    cr_expect_eq(atomic_load(&fake.n_conns), 3);
}

Test(calls, nobody_there, .init = set_up, .fini = tear_down)
{
    struct zc_response *r;
    struct zc_err err;
    cr_expect_eq(zc_call(client, "127.0.0.1:1", &(struct zc_request){ .code = ECHO }, &r, &err), ZC_ECONNECT);
    cr_expect(strstr(err.text, "127.0.0.1:1") != NULL, "%s", err.text);
    cr_expect_eq(zc_call(client, "no address", &(struct zc_request){ .code = ECHO }, &r, &err), ZC_EARG);
}

Test(calls, server_request_is_answered, .init = set_up, .fini = tear_down)
{
    struct zc_response *r;
    cr_assert_eq(zc_call(client, fake.addr, &(struct zc_request){ .code = TELL }, &r, NULL), 0);
    zc_response_free(r);
    echo(fake.addr, 1); /* comes after the client's answer on the same connection */
    cr_expect_eq(atomic_load(&fake.last_answer_code), 3);
}

/* ---- asynchronous ---- */

struct counted {
    atomic_int good, bad, code;
    sem_t all;
    int want;
};

static void on_answer(void *ctx, const struct zc_response *r, const struct zc_err *err)
{
    struct counted *c = ctx;
    if (err) atomic_store(&c->code, err->code);
    atomic_fetch_add(r ? &c->good : &c->bad, 1);
    if (atomic_load(&c->good) + atomic_load(&c->bad) == c->want) sem_post(&c->all);
}

Test(calls, many_async, .init = set_up, .fini = tear_down)
{
    struct counted c = { .want = 5000 };
    sem_init(&c.all, 0, 0);
    for (int i = 0; i < c.want; i++)
        cr_assert_eq(zc_call_async(client, fake.addr, &(struct zc_request){ .code = ECHO }, on_answer, &c, NULL), 0);
    sem_wait(&c.all);
    cr_expect_eq(atomic_load(&c.good), c.want);
}

Test(calls, async_times_out_and_is_lost, .init = set_up, .fini = tear_down)
{
    struct counted c = { .want = 1 };
    sem_init(&c.all, 0, 0);
    cr_assert_eq(
        zc_call_async(client, fake.addr, &(struct zc_request){ .code = SILENT, .timeout_ms = 30 }, on_answer, &c, NULL),
        0);
    sem_wait(&c.all);
    cr_expect_eq(atomic_load(&c.code), ZC_ETIMEOUT);
    c.want = 2;
    cr_assert_eq(zc_call_async(client, fake.addr, &(struct zc_request){ .code = CLOSE }, on_answer, &c, NULL), 0);
    sem_wait(&c.all);
    cr_expect_eq(atomic_load(&c.code), ZC_ELOST);
}

Test(calls, close_ends_what_is_under_way)
{
    struct counted c = { .want = 10 };
    set_up();
    sem_init(&c.all, 0, 0);
    for (int i = 0; i < c.want; i++)
        cr_assert_eq(zc_call_async(client, fake.addr, &(struct zc_request){ .code = SILENT }, on_answer, &c, NULL), 0);
    tear_down();
    cr_expect_eq(atomic_load(&c.bad), c.want);
    cr_expect_eq(atomic_load(&c.code), ZC_ECLOSING);
}

static void *caller(void *arg)
{
    for (int i = 0; i < 300; i++) {
        struct zc_response *r;
        if (zc_call_ok(client, fake.addr, &(struct zc_request){ .code = i % 50 == 49 ? CLOSE : ECHO }, &r, NULL) == 0)
            atomic_fetch_add((atomic_int *)arg, 1), zc_response_free(r);
    }
    return NULL;
}

/* Threads share one connection that breaks again and again; every call ends. */
Test(calls, threads_and_breaks, .init = set_up, .fini = tear_down, .timeout = 60)
{
    pthread_t t[8];
    atomic_int good = 0;
    for (int i = 0; i < 8; i++) pthread_create(&t[i], NULL, caller, &good);
    for (int i = 0; i < 8; i++) pthread_join(t[i], NULL);
    cr_expect_gt(atomic_load(&good), 300);
}

Test(calls, oneway, .init = set_up, .fini = tear_down)
{
    for (int i = 0; i < 3; i++)
        cr_expect_eq(zc_call_oneway(client, fake.addr, &(struct zc_request){ .code = ECHO }, NULL), 0);
    echo(fake.addr, 1);
    cr_expect_eq(atomic_load(&fake.n_oneway), 3);
}
