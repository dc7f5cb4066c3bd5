/* SPDX-License-Identifier: Apache-2.0 */
/* Records byte for byte, in both versions and with either kind of host; properties as Java parses them; client batches. */
#include "helper.h"
#include "zl/record.h"
#include "zl/text.h"

static struct zr_addr addr(const char *text)
{
    struct zr_addr a;
    cr_assert_eq(zl_addr_parse(zl_str(text), &a), ZR_OK);
    return a;
}

static struct zr_span span(const char *text) { return (struct zr_span){ (const uint8_t *)text, strlen(text) }; }

static struct zr_msg sample(void)
{
    return (struct zr_msg){
        .hdr = ZR_HDR(struct zr_msg, 0),
        .topic = S("TopicTest"),
        .body = span("hello 0"),
        .properties = span("TAGS\001TagA\002"),
        .born_ms = 0x0102030405060708,
        .prepared_offset = 0x1112131415161718,
        .born_host = addr("127.0.0.1:52114"),
        .store_host = addr("10.0.0.1:10911"),
        .queue_id = 3,
        .flag = 4,
        .sys_flag = ZR_SYSFLAG_COMPRESSED | ZR_SYSFLAG_BORNHOST_V6, /* a lie about the host */
        .reconsume_times = 5,
        .inner_num = 1,
    };
}

static struct zr_span encode(const struct zr_msg *msg)
{
    uint64_t n = zl_record_size(msg);
    uint8_t *to = malloc(n);
    memset(to, 0xEE, n);
    zl_record_encode(to, msg);
    return (struct zr_span){ to, n };
}

Test(record, v1_bytes)
{
    struct zr_msg msg = sample();
    struct zr_span r = encode(&msg);
    cr_assert_eq(r.len, 91 + 7 + 9 + 10);
    zl_record_finish((uint8_t *)r.ptr, 0x2122232425262728, 0x3132333435363738, 0x4142434445464748);
    cr_hex_is(r.ptr, r.len,
              "00000075" "daa320a7" "20e809f1" "00000003" "00000004" "2122232425262728" "3132333435363738" "00000001"
              "0102030405060708" "7f000001" "0000cb92" "4142434445464748" "0a000001" "00002a9f" "00000005" "1112131415161718"
              "00000007" "68656c6c6f2030" "09" "546f70696354657374" "000a" "54414753" "01" "54616741" "02");
    release(r);
}

static void check_round_trip(const struct zr_msg *msg, uint32_t magic, uint32_t flags)
{
    struct zr_span r = encode(msg);
    struct zl_record got;
    const char *why = "";
    zl_record_finish((uint8_t *)r.ptr, 77, 88, 99);
    cr_assert_eq(zl_record_parse(r, 1, &got, &why), ZR_OK, "%s", why);
    cr_assert_eq(got.size, r.len);
    cr_assert_eq(got.magic, magic);
    cr_assert_eq((uint32_t)got.sys_flag, flags);
    cr_assert_eq(got.queue_id, msg->queue_id);
    cr_assert_eq(got.flag, msg->flag);
    cr_assert_eq(got.reconsume_times, msg->reconsume_times);
    cr_assert_eq(got.queue_offset, 77);
    cr_assert_eq(got.physical_offset, 88);
    cr_assert_eq(got.physical_at, 28);
    cr_assert_eq(got.store_ms, 99);
    cr_assert_eq(got.born_ms, msg->born_ms);
    cr_assert_eq(got.prepared_offset, msg->prepared_offset);
    cr_assert_arr_eq(&got.born_host, &msg->born_host, sizeof(struct zr_addr));
    cr_assert_arr_eq(&got.store_host, &msg->store_host, sizeof(struct zr_addr));
    cr_assert(zl_eq(got.topic, msg->topic));
    cr_assert_eq(got.body.len, msg->body.len);
    cr_assert_eq(got.properties.len, msg->properties.len);
    /* Every shorter piece says that it is a piece. */
    for (uint64_t n = 0; n < r.len; n++) {
        struct zr_span piece = exact(r.ptr, n);
        cr_assert_eq(zl_record_parse(piece, 1, &got, &why), ZR_EAGAIN, "%lu", (unsigned long)n);
        release(piece);
    }
    release(r);
}

Test(record, all_shapes_round_trip)
{
    struct zr_msg msg = sample();
    check_round_trip(&msg, ZL_MAGIC_V1, ZR_SYSFLAG_COMPRESSED);
    msg.born_host = addr("[fe80::1]:1");
    check_round_trip(&msg, ZL_MAGIC_V1, ZR_SYSFLAG_COMPRESSED | ZR_SYSFLAG_BORNHOST_V6);
    msg.store_host = addr("[::1]:65535");
    check_round_trip(&msg, ZL_MAGIC_V1, ZR_SYSFLAG_COMPRESSED | ZR_SYSFLAG_BORNHOST_V6 | ZR_SYSFLAG_STOREHOST_V6);
    msg.born_host = addr("1.2.3.4:5");
    check_round_trip(&msg, ZL_MAGIC_V1, ZR_SYSFLAG_COMPRESSED | ZR_SYSFLAG_STOREHOST_V6);
    char topic[256];
    memset(topic, 't', sizeof(topic));
    msg.topic = (struct zr_str){ topic, 127 };
    check_round_trip(&msg, ZL_MAGIC_V1, ZR_SYSFLAG_COMPRESSED | ZR_SYSFLAG_STOREHOST_V6);
    msg.topic.len = 128;
    check_round_trip(&msg, ZL_MAGIC_V2, ZR_SYSFLAG_COMPRESSED | ZR_SYSFLAG_STOREHOST_V6);
    msg.topic.len = 255;
    check_round_trip(&msg, ZL_MAGIC_V2, ZR_SYSFLAG_COMPRESSED | ZR_SYSFLAG_STOREHOST_V6);
    msg.topic = S("t");
    msg.body = msg.properties = (struct zr_span){ NULL, 0 };
    check_round_trip(&msg, ZL_MAGIC_V1, ZR_SYSFLAG_COMPRESSED | ZR_SYSFLAG_STOREHOST_V6);
}

/* The sample with 4 bytes at `at` replaced. */
static zr_status parse_changed(uint64_t at, uint32_t value, uint32_t crc, const char **ret_why)
{
    struct zr_msg msg = sample();
    struct zr_span r = encode(&msg);
    struct zl_record got;
    zl_store32((uint8_t *)r.ptr + at, value);
    zr_status status = zl_record_parse(r, crc, &got, ret_why);
    release(r);
    return status;
}

Test(record, malformed_one_by_one)
{
    const char *why = NULL;
    cr_assert_eq(parse_changed(4, 0, 0, &why), ZR_ECORRUPT);
    cr_assert_str_eq(why, "no record's magic");
    cr_assert_eq(parse_changed(4, ZL_MAGIC_V2, 0, &why), ZR_ECORRUPT); /* topic length of two bytes: nothing fits any more */
    cr_assert_eq(parse_changed(0, 0, 0, &why), ZR_ECORRUPT);
    cr_assert_str_eq(why, "impossible size of a record");
    cr_assert_eq(parse_changed(0, 90, 0, &why), ZR_ECORRUPT);
    cr_assert_eq(parse_changed(0, 0x80000000, 0, &why), ZR_ECORRUPT);
    cr_assert_eq(parse_changed(0, 116, 0, &why), ZR_ECORRUPT); /* one byte less than it is */
    cr_assert_str_eq(why, "lengths of a record disagree");
    cr_assert_eq(parse_changed(0, 118, 0, &why), ZR_EAGAIN);
    cr_assert_eq(parse_changed(84, 8, 0, &why), ZR_ECORRUPT);
    cr_assert_eq(parse_changed(84, 0xFFFFFFFF, 0, &why), ZR_ECORRUPT);
    cr_assert_str_eq(why, "body longer than its record");
    cr_assert_eq(parse_changed(84, 29, 0, &why), ZR_ECORRUPT);
    cr_assert_str_eq(why, "record ends before its topic");
    cr_assert_eq(parse_changed(95, 0x7F000000, 0, &why), ZR_ECORRUPT);
    cr_assert_str_eq(why, "topic longer than its record");
    cr_assert_eq(parse_changed(88, 0x20202020, 0, &why), ZR_OK);
    cr_assert_eq(parse_changed(88, 0x20202020, 1, &why), ZR_ECORRUPT);
    cr_assert_str_eq(why, "checksum of a body differs");
    cr_assert_eq(parse_changed(36, 0x30, 0, &why), ZR_ECORRUPT); /* hosts said to be longer than they are */
    cr_assert_eq(parse_changed(4, ZL_MAGIC_BLANK, 0, &why), ZR_ENOENT);
}

Test(record, a_byte_too_many_is_no_part_of_it)
{
    struct zr_msg msg = sample();
    struct zr_span r = encode(&msg);
    uint8_t *more = malloc(r.len + 1);
    struct zl_record got;
    const char *why = NULL;
    memcpy(more, r.ptr, r.len);
    more[r.len] = 'x';
    cr_assert_eq(zl_record_parse((struct zr_span){ more, r.len + 1 }, 1, &got, &why), ZR_OK);
    zl_store32(more, (uint32_t)r.len + 1);
    cr_assert_eq(zl_record_parse((struct zr_span){ more, r.len + 1 }, 0, &got, &why), ZR_ECORRUPT);
    free(more);
    release(r);
}

Test(record, small_sizes_with_long_hosts)
{
    uint8_t bytes[120] = { 0 };
    struct zl_record got;
    const char *why = NULL;
    for (uint32_t size = 91; size < 115; size++) {
        zl_store32(bytes, size);
        zl_store32(bytes + 4, ZL_MAGIC_V1);
        zl_store32(bytes + 36, 0x30);
        struct zr_span r = exact(bytes, size);
        cr_assert_eq(zl_record_parse(r, 0, &got, &why), ZR_ECORRUPT);
        release(r);
    }
}

Test(record, the_blank_says_how_long_it_is)
{
    uint8_t bytes[8];
    struct zl_record got;
    const char *why = NULL;
    zl_store32(bytes, 12345);
    zl_store32(bytes + 4, ZL_MAGIC_BLANK);
    cr_assert_eq(zl_record_parse((struct zr_span){ bytes, 8 }, 0, &got, &why), ZR_ENOENT);
    cr_assert_eq(got.size, 12345);
}

/* ---- properties ---- */

static void check_props(const char *text, uint64_t len, const char *want)
{
    struct zr_span props = exact(text, len);
    struct zr_str name, value;
    struct zl_buf got;
    uint64_t pos = 0;
    zl_buf_init(&got, 10000);
    while (zl_props_next(props, &pos, &name, &value)) {
        zl_buf_str(&got, name);
        zl_buf_u8(&got, '=');
        zl_buf_str(&got, value);
        zl_buf_u8(&got, ';');
    }
    cr_str_is(zl_buf_as_str(&got), want);
    zl_buf_free(&got);
    release(props);
}
#define PROPS(text, want) check_props(text, sizeof(text) - 1, want)

Test(props, steps_as_java)
{
    PROPS("", "");
    PROPS("A\001b\002", "A=b;");
    PROPS("A\001b", "A=b;"); /* 4.9 leaves the last separator out */
    PROPS("A\001b\002CD\001ef\002", "A=b;CD=ef;");
    PROPS("A\001\002C\001d", "C=d;");         /* an empty value vanishes */
    PROPS("\001b\002C\001d", "C=d;");         /* an empty name too */
    PROPS("AAAA\002C\001d", "C=d;");          /* no 0x01 */
    PROPS("\002\002C\001d\002\002", "C=d;");
    PROPS("A\001b\001c\002", "A=b\001c;");    /* the first 0x01 ends the name */
    PROPS("\001\002", "");
    PROPS("\001", "");
    PROPS("\002", "");
}

Test(props, the_last_of_equal_names_counts)
{
    struct zr_span props = span("A\0011\002B\0012\002A\0013\002");
    cr_str_is(zl_props_get(props, "A"), "3");
    cr_str_is(zl_props_get(props, "B"), "2");
    cr_assert_null(zl_props_get(props, "C").ptr);
    cr_assert_null(zl_props_get((struct zr_span){ NULL, 0 }, "C").ptr);
}

Test(props, copies_without_some)
{
    static const char *const without[] = { "WAIT", "DELAY", NULL };
    struct zl_buf out;
    zl_buf_init(&out, 1000);
    zl_props_copy(&out, span("WAIT\001true\002A\0011\002junk\002DELAY\0013\002WAITS\0014"), without);
    zl_props_add(&out, S("N"), S("v"));
    zl_props_add(&out, S("E"), S(""));
    cr_str_is(zl_buf_as_str(&out), "A\0011\002WAITS\0014\002N\001v\002");
    zl_buf_clear(&out);
    zl_props_copy(&out, span("A\0011"), NULL);
    cr_str_is(zl_buf_as_str(&out), "A\0011\002");
    zl_buf_free(&out);
}

Test(props, tags_code_is_sign_extended)
{
    cr_assert_eq(zl_tags_code(S("TagA")), 2598919);
    cr_assert_eq(zl_tags_code(S("TopicTest")), -1902610879LL);
    cr_assert_eq(zl_tags_code(S("")), 0);
    cr_assert_eq(zl_tags_code((struct zr_str){ NULL, 0 }), 0);
}

/* ---- batches ---- */

Test(batch, bytes_and_back)
{
    struct zl_batch_item in[3] = {
        { .body = span("one"), .properties = span("A\0011\002"), .flag = 7 },
        { .body = span(""), .properties = span("") },
        { .body = span("three"), .properties = span("K\001v"), .flag = -1 },
    };
    struct zl_buf out;
    zl_buf_init(&out, 1000);
    for (int i = 0; i < 3; i++) zl_batch_add(&out, &in[i]);
    cr_hex_is(out.ptr, 22 + 3 + 4, "0000001d" "00000000" "00000000" "00000007" "00000003" "6f6e65" "0004" "41013102");
    struct zr_span batch = exact(out.ptr, out.len);
    struct zl_batch_item got;
    uint64_t pos = 0;
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(zl_batch_next(batch, &pos, &got), ZR_OK);
        cr_assert_eq(got.flag, in[i].flag);
        cr_assert_eq(got.body.len, in[i].body.len);
        cr_assert_eq(memcmp(got.body.ptr, in[i].body.ptr, got.body.len), 0);
        cr_assert_eq(got.properties.len, in[i].properties.len);
    }
    cr_assert_eq(zl_batch_next(batch, &pos, &got), ZR_ENOENT);
    cr_assert_eq(pos, batch.len);
    release(batch);
    zl_buf_free(&out);
}

Test(batch, malformed_at_every_length)
{
    struct zl_batch_item item = { .body = span("body"), .properties = span("A\0011\002") }, got;
    struct zl_buf out;
    zl_buf_init(&out, 100000);
    zl_batch_add(&out, &item);
    for (uint64_t n = 1; n < out.len; n++) {
        struct zr_span piece = exact(out.ptr, n);
        uint64_t pos = 0;
        cr_assert_eq(zl_batch_next(piece, &pos, &got), ZR_EINVAL);
        cr_assert_eq(pos, 0);
        release(piece);
    }
    uint64_t pos = 0;
    zl_store32(out.ptr + 16, 0xFFFFFFFF); /* body length -1 */
    cr_assert_eq(zl_batch_next(zl_buf_as_span(&out), &pos, &got), ZR_EINVAL);
    zl_store32(out.ptr + 16, 4);
    zl_store16(out.ptr + 24, 0x8000); /* properties length negative */
    cr_assert_eq(zl_batch_next(zl_buf_as_span(&out), &pos, &got), ZR_EINVAL);
    cr_assert_not_null(zl_buf_reserve(&out, 70000));
    out.len += 70000; /* also where so many bytes follow */
    cr_assert_eq(zl_batch_next(zl_buf_as_span(&out), &pos, &got), ZR_EINVAL);
    pos = 0;
    cr_assert_eq(zl_batch_next((struct zr_span){ NULL, 0 }, &pos, &got), ZR_ENOENT);
    zl_buf_free(&out);
}

static struct zr_span encode_sealed(const struct zr_msg *msg)
{
    uint64_t n = zl_record_size_sealed(msg, 1);
    uint8_t *to = malloc(n);
    memset(to, 0xEE, n);
    zl_record_encode_sealed(to, msg, 1);
    zl_record_finish(to, 4242, 88, 99);
    zl_record_seal(to);
    return (struct zr_span){ to, n };
}

Test(record, a_sealed_record_ends_in_a_checksum_of_all_of_it)
{
    static const char *const props[] = { "", "A\001b\002", "A\001b", "__CRC32#\0010123456789\002", "A\001b\002__CRC32#\0010123456789\002C\001d\002",
                                         "A\001b\002__CRC32#\001x", "C\001__CRC32#\002" };
    static const char *const kept[] = { "", "A\001b\002", "A\001b\002", "", "A\001b\002C\001d\002", "A\001b\002", "C\001__CRC32#\002" };
    for (int i = 0; i < 7; i++)
        for (int inner = 0; inner < 2; inner++) {
            struct zr_msg msg = sample();
            struct zl_record got;
            const char *why = "";
            msg.properties = span(props[i]);
            if (inner) msg.sys_flag |= ZR_SYSFLAG_INNER_BATCH | ZR_SYSFLAG_NEED_UNWRAP;
            struct zr_span r = encode_sealed(&msg);
            cr_assert_eq(zl_record_parse(r, 1, &got, &why), ZR_OK, "%s", why);
            cr_assert_eq(zl_record_sealed(r), 1);
            cr_assert(memcmp(got.properties.ptr, kept[i], strlen(kept[i])) == 0, "%d", i);
            cr_assert_eq(got.properties.len, strlen(kept[i]) + 20 + (inner ? 31 : 0), "%d", i);
            struct zr_str base = zl_props_get(got.properties, "INNER_BASE");
            cr_assert_eq(base.len, inner ? 19 : 0);
            if (inner) cr_assert(memcmp(base.ptr, "0000000000000004242", 19) == 0);
            for (uint64_t at = 0; at < r.len; at++) { /* any byte that changes is seen */
                ((uint8_t *)r.ptr)[at] ^= 1;
                cr_assert_neq(zl_record_sealed(r), 1, "byte %d", (int)at);
                ((uint8_t *)r.ptr)[at] ^= 1;
            }
            release(r);
        }
    struct zr_msg msg = sample();
    struct zr_span r = encode(&msg);
    cr_assert_eq(zl_record_sealed(r), -1);
    release(r);
}

Test(record, an_inner_batch_takes_as_many_offsets_as_it_says)
{
    struct zr_msg msg = sample();
    struct zl_record got;
    const char *why;
    static const char *const num[] = { "INNER_NUM\0017\002", "INNER_NUM\0010\002", "INNER_NUM\00140000\002", "INNER_NUM\001x\002", "INNER_NUM\00132767" };
    static const uint32_t want[] = { 7, 1, 1, 1, 32767 };
    for (int i = 0; i < 5; i++) {
        msg.properties = span(num[i]);
        msg.sys_flag = 0;
        struct zr_span r = encode(&msg);
        cr_assert_eq(zl_record_parse(r, 1, &got, &why), ZR_OK);
        cr_assert_eq(zl_record_offsets(&got), 1);
        release(r);
        msg.sys_flag = ZR_SYSFLAG_INNER_BATCH;
        r = encode(&msg);
        zl_record_finish((uint8_t *)r.ptr, 12, 0, 0);
        cr_assert_eq(zl_record_parse(r, 1, &got, &why), ZR_OK);
        cr_assert_eq(zl_record_offsets(&got), want[i]);
        cr_assert(zl_is(zl_props_get(got.properties, "INNER_BASE"), "0000000000000000012"));
        release(r);
    }
}

Test(props, a_dead_letter_tells_where_it_came_from)
{
    struct zl_buf out;
    zl_buf_init(&out, ZL_MAX_PROPERTIES);
    zl_props_dead(&out, span("ORIGIN_MESSAGE_ID\001OID\002"), zl_str("T"), "why");
    cr_assert(zl_is(zl_buf_as_str(&out), "DLQ_ORIGIN_TOPIC\001T\002DLQ_ORIGIN_MESSAGE_ID\001OID\002DLQ_REASON\001why\002"));
    zl_buf_clear(&out);
    zl_props_dead(&out, span("RETRY_TOPIC\001R\002UNIQ_KEY\001U\002DLQ_ORIGIN_TOPIC\001First\002"), zl_str("T"), "why");
    cr_assert(zl_is(zl_buf_as_str(&out), "DLQ_ORIGIN_MESSAGE_ID\001U\002DLQ_REASON\001why\002"), "an origin that is known stays");
    zl_buf_clear(&out);
    zl_buf_reserve(&out, ZL_MAX_PROPERTIES - 30);
    out.len = ZL_MAX_PROPERTIES - 30;
    zl_props_dead(&out, span("RETRY_TOPIC\001R\002UNIQ_KEY\001UUUUUUUU\002"), zl_str("T"), "why");
    cr_assert(!out.failed && out.len == ZL_MAX_PROPERTIES - 30 + 19, "only what fits");
    zl_buf_free(&out);
}
