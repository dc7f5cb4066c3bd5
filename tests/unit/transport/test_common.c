/* SPDX-License-Identifier: Apache-2.0 */
/* test_common.c - what the transports share, by itself: the wheel of deadlines, the output queue, who may come in. */
#include "tests.h"
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "address.h"
#include "admit.h"
#include "queue.h"
#include "wheel.h"
#include "zl/text.h"

static uint32_t seed = 1;
static uint32_t dice(uint32_t n)
{
    seed = seed * 1664525u + 1013904223u;
    return (seed >> 8) % n;
}

/* ---- wheel ------------------------------------------------------------------------------------------------------- */

enum { NODES = 500 };
struct timed { struct tr_wheel_node node; int64_t deadline; uint32_t done; };

/* Deadlines up to several rounds away, a clock that goes in steps of any size, some taken out: each is met once, not early, and
 * no later than the step that passed it plus two ticks. */
Test(wheel, every_deadline_is_met)
{
    static struct tr_wheel wheel;
    static struct timed all[NODES];
    int64_t now = 5000000000ll, last;
    tr_wheel_init(&wheel, now);
    cr_assert_eq(tr_wheel_next_ns(&wheel), INT64_MAX);
    for (uint32_t i = 0; i < NODES; i++) {
        all[i].deadline = now + (int64_t)dice(700000) * 1000000ll;
        tr_wheel_put(&wheel, &all[i].node, all[i].deadline);
    }
    for (uint32_t i = 0; i < NODES; i += 10) {
        tr_wheel_take(&wheel, &all[i].node);
        tr_wheel_take(&wheel, &all[i].node); /* twice is harmless */
        all[i].done = 1;
    }
    for (uint32_t left = NODES - NODES / 10; left;) {
        struct tr_wheel_node *node;
        int64_t next = tr_wheel_next_ns(&wheel);
        cr_assert_neq(next, INT64_MAX);
        last = now;
        now = dice(3) ? next : now + (int64_t)dice(400000) * 1000000ll;
        while ((node = tr_wheel_due(&wheel, now))) {
            struct timed *t = (struct timed *)(void *)node;
            cr_assert_eq(t->done, 0u);
            if (t->deadline > now) { /* further away than a round: looked at, and put back */
                tr_wheel_put(&wheel, node, t->deadline);
                continue;
            }
            cr_assert_geq(t->deadline + 2 * TR_WHEEL_TICK_NS, last, "late");
            t->done = 1;
            left--;
        }
    }
    cr_assert_eq(tr_wheel_next_ns(&wheel), INT64_MAX);
}

/* ---- queue ------------------------------------------------------------------------------------------------------- */

static uint32_t dones;
static void count_done(void *ctx, zr_status status)
{
    (void)ctx;
    cr_assert_eq(status, ZR_OK);
    dones++;
}

enum { STREAM = 1 << 20 };
static uint8_t stream[STREAM], got[STREAM];

/* Takes up to n bytes out of the queue as a socket would. */
static uint64_t take(struct tr_queue *q, uint64_t n, uint8_t *to)
{
    struct tr_unit *finished = NULL, **end = &finished;
    uint64_t all = 0;
    while (q->head && n) {
        struct tr_cursor c = tr_queue_cursor(q);
        tr_cursor_advance(&c, 0);
        uint64_t len = c.at < c.n ? c.pieces[c.at].len - c.off : 0;
        len = len < n ? len : n;
        if (len) {
            memcpy(to + all, c.pieces[c.at].ptr + c.off, len);
        }
        tr_cursor_advance(&c, len);
        tr_queue_written(q, &c, &end);
        all += len;
        n -= len;
    }
    tr_units_finish(finished, ZR_OK);
    return all;
}

Test(queue, bytes_come_out_as_they_went_in)
{
    struct tr_queue q = { NULL, NULL, 0, 0 };
    uint64_t in = 0, out = 0;
    uint32_t held = 0;
    for (uint32_t i = 0; i < STREAM; i++) {
        stream[i] = (uint8_t)dice(256);
    }
    while (out < STREAM) {
        struct zr_piece pieces[4];
        uint64_t at = in;
        for (uint32_t i = 0; i < 4; i++) {
            uint64_t len = dice(3) ? dice(3000) : 0;
            len = len < STREAM - at ? len : STREAM - at;
            pieces[i] = (struct zr_piece){ .ptr = stream + at, .len = len, .fd = -1 };
            at += len;
        }
        uint32_t hold = dice(2);
        struct zr_output o = { ZR_HDR(struct zr_output, 0), pieces, hold ? count_done : NULL, NULL, 4, 0 };
        struct tr_cursor c = { pieces, 0, 0, 4 };
        tr_cursor_advance(&c, 0);
        if (c.at < c.n && q.bytes < 100000) {
            uint64_t already = dice(4) ? 0 : dice((uint32_t)(pieces[c.at].len)); /* as if the socket had taken that much at once */
            if (q.head == NULL) {
                memcpy(got + out, stream + in, already);
                out += already;
                tr_cursor_advance(&c, already);
            }
            cr_assert_eq(tr_queue_add(&q, &o, &c), ZR_OK);
            held += hold;
            in = at;
        }
        out += take(&q, dice(12000), got + out);
        cr_assert_eq(q.bytes, in - out);
        cr_assert_eq(q.mem, in - out);
    }
    cr_assert_eq(q.head, NULL);
    cr_assert_eq(dones, held);
    cr_assert_arr_eq(got, stream, STREAM);
}

Test(queue, what_may_not_be_sent)
{
    uint8_t byte = 0;
    struct zr_piece piece = { .ptr = &byte, .len = 1, .fd = -1 };
    struct zr_output o = { ZR_HDR(struct zr_output, 0), &piece, NULL, NULL, 1, 0 };
    cr_assert_eq(tr_output_is_valid(&o), 1u);
    piece.fd = 0;
    cr_assert_eq(tr_output_is_valid(&o), 0u, "a file without done");
    o.done = count_done;
    cr_assert_eq(tr_output_is_valid(&o), 1u);
    piece.ptr = NULL;
    cr_assert_eq(tr_output_is_valid(&o), 1u);
    piece.fd = -1;
    cr_assert_eq(tr_output_is_valid(&o), 0u, "no memory");
    o.n_pieces = TR_MAX_PIECES + 1;
    cr_assert_eq(tr_output_is_valid(&o), 0u);
}

/* ---- who may come in --------------------------------------------------------------------------------------------- */

static const void *no_service(const struct zr_host *host, const char *id)
{
    (void)host, (void)id;
    return NULL;
}

static struct tr_report silent(void)
{
    static struct zr_host host = { .query = no_service };
    struct tr_report r = { .host = NULL };
    tr_report_init(&r, &host);
    return r;
}

Test(admit, counts)
{
    struct tr_report r = silent();
    struct tr_admit a;
    struct zr_addr one = { { 10, 0, 0, 1 }, 1, 4 }, two = { { 10, 0, 0, 2 }, 2, 4 }, none = { { 0 }, 0, 0 };
    tr_admit_init(&a, &r);
    tr_admit_limits(&a, 5, 2, 0);
    cr_assert_eq(tr_admit_enter(&a, &one, -1) + tr_admit_enter(&a, &one, -1), 2u);
    one.port = 77; /* the port is not the address */
    cr_assert_eq(tr_admit_enter(&a, &one, -1), 0u);
    cr_assert_eq(tr_admit_enter(&a, &two, -1), 1u);
    cr_assert_eq(tr_admit_enter(&a, &none, -1) + tr_admit_enter(&a, &none, -1), 2u);
    cr_assert_eq(tr_admit_enter(&a, &none, -1), 0u, "five in all");
    tr_admit_leave(&a, &one);
    cr_assert_eq(tr_admit_enter(&a, &one, 1 << 30), 1u, "a limit of its own is the limit");
    tr_admit_fini(&a);
}

/* Several instances and the store share the process's descriptors: the numbers tell how many are used. */
Test(admit, leaves_descriptors_for_files)
{
    struct tr_report r = silent();
    struct tr_admit a;
    struct zr_addr one = { { 10, 0, 0, 1 }, 1, 4 };
    struct rlimit limit = { 100, 100 };
    cr_assert_eq(setrlimit(RLIMIT_NOFILE, &limit), 0);
    tr_admit_init(&a, &r);
    tr_admit_limits(&a, 0, 0, 0);
    cr_assert_eq(tr_admit_enter(&a, &one, 74), 1u);
    cr_assert_eq(tr_admit_enter(&a, &one, 75), 0u);
    cr_assert_eq(a.n, 1u);
    tr_admit_fini(&a);
}

Test(admit, rate)
{
    struct tr_report r = silent();
    struct tr_admit a;
    int64_t now = 1000000000ll, wait = 0;
    uint32_t n = 0;
    tr_admit_init(&a, &r);
    tr_admit_limits(&a, 1000, 0, 10);
    while (tr_admit_take(&a, now, &wait)) {
        n++;
    }
    cr_assert_eq(n, 10u);
    cr_assert_gt(wait, 0);
    cr_assert_eq(tr_admit_take(&a, now + 100000000ll, &wait), 1u, "one more after a tenth of a second");
    cr_assert_eq(tr_admit_take(&a, now + 100000000ll, &wait), 0u);
    tr_admit_give(&a);
    cr_assert_eq(tr_admit_take(&a, now + 100000000ll, &wait), 1u);
    for (n = 0; tr_admit_take(&a, now + 100000000000ll, &wait); n++) {
    }
    cr_assert_eq(n, 10u, "no more than a second's worth is saved up");
    tr_admit_fini(&a);
}

Test(address, endpoints)
{
    static const struct { const char *text, *host; uint16_t port; } good[] = {
        { "1.2.3.4:5", "1.2.3.4", 5 }, { "[::]:65535", "::", 65535 }, { "a.b:0", "a.b", 0 }
    };
    static const char *const bad[] = { "", ":", ":1", "a", "a:", "a:65536", "a:-1", "::1:80", "[::1]", "a:1x", "[]:1" };
    char host[16];
    uint16_t port;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        cr_assert_eq(tr_endpoint_split(zl_str(good[i].text), host, sizeof host, &port), ZR_OK, "%s", good[i].text);
        cr_assert_str_eq(host, good[i].host);
        cr_assert_eq(port, good[i].port);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(tr_endpoint_split(zl_str(bad[i]), host, sizeof host, &port), ZR_EINVAL, "%s", bad[i]);
    }
    cr_assert_eq(tr_endpoint_split(zl_str("a-name-that-is-too-long:1"), host, sizeof host, &port), ZR_EINVAL);
}
