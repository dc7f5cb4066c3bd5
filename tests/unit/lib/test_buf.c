/* SPDX-License-Identifier: Apache-2.0 */
/* Buffers grow up to their maximum and not a byte further, and stay failed until cleared. */
#include "helper.h"
#include "zl/buf.h"

Test(buf, appends_in_order)
{
    struct zl_buf b;
    zl_buf_init(&b, 1000);
    zl_buf_cstr(&b, "ab");
    zl_buf_str(&b, S("cd"));
    zl_buf_u8(&b, 0x7F);
    zl_buf_be16(&b, 0x0102);
    zl_buf_be32(&b, 0x03040506);
    zl_buf_be64(&b, 0x0708090A0B0C0D0Eull);
    zl_buf_i64(&b, INT64_MIN);
    zl_buf_fmt(&b, "%d-%s", 5, "x");
    cr_assert_eq(b.failed, 0);
    cr_hex_is(b.ptr, 19, "616263647f0102030405060708090a0b0c0d0e");
    cr_str_is(((struct zr_str){ (char *)b.ptr + 19, b.len - 19 }), "-92233720368547758085-x");
    zl_buf_free(&b);
}

Test(buf, holds_exactly_its_maximum)
{
    struct zl_buf b;
    char text[301];
    memset(text, 'x', sizeof(text));
    zl_buf_init(&b, 300);
    zl_buf_add(&b, text, 300);
    cr_assert_eq(b.failed, 0);
    cr_assert_eq(b.len, 300);
    cr_assert_leq(b.cap, 300);
    zl_buf_u8(&b, 1);
    cr_assert_eq(b.failed, 1);
    cr_assert_eq(b.len, 300);
    zl_buf_free(&b);
}

Test(buf, stays_failed_until_cleared)
{
    struct zl_buf b;
    zl_buf_init(&b, 4);
    zl_buf_cstr(&b, "abc");
    zl_buf_cstr(&b, "de");
    cr_assert_eq(b.failed, 1);
    zl_buf_cstr(&b, "f");
    cr_str_is(zl_buf_as_str(&b), "abc");
    zl_buf_clear(&b);
    zl_buf_cstr(&b, "defg");
    cr_assert_eq(b.failed, 0);
    cr_str_is(zl_buf_as_str(&b), "defg");
    zl_buf_free(&b);
}

Test(buf, a_maximum_of_nothing_takes_nothing)
{
    struct zl_buf b;
    zl_buf_init(&b, 0);
    zl_buf_add(&b, NULL, 0);
    cr_assert_eq(b.failed, 0);
    zl_buf_u8(&b, 1);
    cr_assert_eq(b.failed, 1);
    zl_buf_free(&b);
}

Test(buf, huge_requests_do_not_wrap)
{
    struct zl_buf b;
    zl_buf_init(&b, 1u << 20);
    zl_buf_cstr(&b, "abc");
    cr_assert_null(zl_buf_reserve(&b, UINT64_MAX));
    cr_assert_eq(b.failed, 1);
    zl_buf_free(&b);
}

Test(buf, reserve_gives_room_without_adding)
{
    struct zl_buf b;
    zl_buf_init(&b, 100000);
    zl_buf_cstr(&b, "abc");
    uint8_t *room = zl_buf_reserve(&b, 5000);
    cr_assert_not_null(room);
    cr_assert_eq(room, b.ptr + 3);
    memset(room, 'z', 5000);
    cr_assert_eq(b.len, 3);
    zl_buf_free(&b);
}

Test(buf, long_formatted_text_fills_the_last_byte)
{
    struct zl_buf b;
    zl_buf_init(&b, 500);
    zl_buf_fmt(&b, "%500d", 7);
    cr_assert_eq(b.failed, 0);
    cr_assert_eq(b.len, 500);
    cr_assert_eq(b.ptr[499], '7');
    zl_buf_fmt(&b, "%d", 1);
    cr_assert_eq(b.failed, 1);
    zl_buf_free(&b);
}
