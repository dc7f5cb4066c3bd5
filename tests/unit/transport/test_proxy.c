/* SPDX-License-Identifier: Apache-2.0 */
/* test_proxy.c - the PROXY header parser by itself: every prefix, every cut, and broken ones. */
#include "tests.h"
#include <stdlib.h>
#include <string.h>
#include "proxy.h"
#include "zl/text.h"

static enum proxy_found run(const void *bytes, size_t n, struct proxy_header *h)
{
    uint64_t need = 0;
    uint8_t *copy = malloc(n ? n : 1); /* so that reading behind the end is seen */
    memcpy(copy, bytes, n);
    enum proxy_found found = proxy_detect((struct zr_span){ copy, n }, h, &need);
    if (found == PROXY_WAIT) {
        cr_assert_gt(need, n, "waiting for what is there");
    }
    free(copy);
    return found;
}

Test(proxy, frames_pass_at_their_first_byte)
{
    struct proxy_header h;
    cr_assert_eq(run("\0", 1, &h), PROXY_NONE);
    cr_assert_eq(run("\1", 1, &h), PROXY_NONE);
    cr_assert_eq(run("\x16", 1, &h), PROXY_NONE);
    cr_assert_eq(run("PROXI1234567", 12, &h), PROXY_NONE);
    cr_assert_eq(run("PX", 2, &h), PROXY_NONE);
    cr_assert_eq(run("", 0, &h), PROXY_WAIT);
}

Test(proxy, v1)
{
    static const char good[] = "PROXY TCP6 2001:db8::1 ::1 65535 1\r\nrest";
    static const char *const bad[] = {
        "PROXY TCP4 1.2.3.4 5.6.7.8 1\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2 3\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 65536\r\n",
        "PROXY TCP4 1.2.3.4 5.6.7.8 -1 2\r\n", "PROXY TCP4 ::1 ::2 1 2\r\n", "PROXY TCP6 1.2.3.4 5.6.7.8 1 2\r\n",
        "PROXY UDP4 1.2.3.4 5.6.7.8 1 2\r\n", "PROXYTCP4 1.2.3.4 5.6.7.8 1 2\r\n", "PROXY TCP4 1.2.3.4 5.6.7.8 1 2\rX",
        "PROXY TCP4  1.2.3.4 5.6.7.8 1 2\r\n", "PROXY \r\n      ",
    };
    struct proxy_header h;
    for (size_t n = 0; n < sizeof good - 5; n++) {
        cr_assert_eq(run(good, n, &h), PROXY_WAIT, "%zu", n);
    }
    cr_assert_eq(run(good, sizeof good - 1, &h), PROXY_GOOD);
    cr_assert_eq(h.len, sizeof good - 5);
    cr_assert_eq(h.n_fields, 4u);
    cr_assert_eq(h.peer_len, strlen("[2001:db8::1]:65535"));
    cr_assert_arr_eq(h.peer, "[2001:db8::1]:65535", h.peer_len);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        cr_assert_eq(run(bad[i], strlen(bad[i]), &h), PROXY_BAD, "%s", bad[i]);
    }
    char endless[200];
    memset(endless, 'x', sizeof endless);
    memcpy(endless, "PROXY TCP4 ", 11);
    cr_assert_eq(run(endless, sizeof endless, &h), PROXY_BAD);
    cr_assert_eq(run("PROXY UNKNOWN whatever\r\n", 24, &h), PROXY_GOOD);
    cr_assert_eq(h.n_fields, 0u);
}

static size_t v2(uint8_t *to, uint8_t command, uint8_t family, const void *body, uint16_t n)
{
    memcpy(to, "\r\n\r\n\0\r\nQUIT\n", 12);
    to[12] = command;
    to[13] = family;
    zl_store16(to + 14, n);
    memcpy(to + 16, body, n);
    return 16u + n;
}

Test(proxy, v2)
{
    uint8_t bytes[512], body[64] = { 1, 2, 3, 4, 5, 6, 7, 8, 0, 80, 1, 187, 0x01, 0, 2, 'h', '2', 0x02, 0, 1, 0xff,
                                     0x20, 0, 5 + 5, 1, 0, 0, 0, 0, 0x21, 0, 2, 'v', '1' };
    struct proxy_header h;
    size_t n = v2(bytes, 0x21, 0x11, body, 34);
    for (size_t i = 0; i < n; i++) {
        cr_assert_eq(run(bytes, i, &h), PROXY_WAIT, "%zu", i);
    }
    cr_assert_eq(run(bytes, n, &h), PROXY_GOOD);
    cr_assert_eq(h.len, n);
    cr_assert_eq(h.n_fields, 6u); /* four of addresses, two printable TLVs: one of them within the SSL one */
    cr_assert_arr_eq(h.peer, "1.2.3.4:80", h.peer_len);
    cr_assert_eq(strncmp(h.fields[5].name.ptr, "proxy_protocol_tlv_0x21", 23), 0);
    n = v2(bytes, 0x20, 0x00, "", 0);
    cr_assert_eq(run(bytes, n, &h), PROXY_GOOD);
    cr_assert_eq(h.n_fields, 0u);
    n = v2(bytes, 0x31, 0x11, body, 12);
    cr_assert_eq(run(bytes, n, &h), PROXY_BAD, "version 3");
    n = v2(bytes, 0x22, 0x11, body, 12);
    cr_assert_eq(run(bytes, n, &h), PROXY_BAD, "command 2");
    n = v2(bytes, 0x21, 0x11, body, 11);
    cr_assert_eq(run(bytes, n, &h), PROXY_BAD, "addresses cut");
    n = v2(bytes, 0x21, 0x41, body, 12);
    cr_assert_eq(run(bytes, n, &h), PROXY_BAD, "family 4");
    n = v2(bytes, 0x21, 0x11, body, 14);
    cr_assert_eq(run(bytes, n, &h), PROXY_BAD, "TLV cut");
    body[14] = 200;
    n = v2(bytes, 0x21, 0x11, body, 34);
    cr_assert_eq(run(bytes, n, &h), PROXY_BAD, "TLV longer than the header");
}

Test(proxy, any_bytes)
{
    uint32_t seed = 12345;
    struct proxy_header h;
    for (int round = 0; round < 20000; round++) {
        uint8_t bytes[160], body[128];
        for (size_t i = 0; i < sizeof body; i++) {
            seed = seed * 1664525u + 1013904223u;
            body[i] = (uint8_t)(seed >> 24) & (seed & 1u ? 0xffu : 0x23u);
        }
        size_t n = v2(bytes, (uint8_t)(0x20u | (seed >> 8 & 1u)), (uint8_t)((seed >> 9 & 3u) << 4 | 1u), body, (uint16_t)(seed >> 12 & 127u));
        enum proxy_found found = run(bytes, n, &h);
        cr_assert(found == PROXY_GOOD || found == PROXY_BAD);
        cr_assert_leq(h.n_fields, PROXY_FIELDS_MAX);
    }
}
