/* SPDX-License-Identifier: Apache-2.0 */
/* Frames and headers: the worked examples to the byte, what fastjson accepts, and malformed input one by one. */
#include "helper.h"
#include "zl/codec.h"
#include "zl/text.h"

/* ---- tools ---- */

static struct zr_span frame_of(uint32_t type, const void *header, uint64_t len, const void *body, uint64_t body_len)
{
    uint8_t *to = malloc(8 + len + body_len);
    zl_store32(to, (uint32_t)(4 + len + body_len));
    zl_store32(to + 4, type << 24 | (uint32_t)len);
    memcpy(to + 8, header, len);
    if (body_len) memcpy(to + 8 + len, body, body_len);
    return (struct zr_span){ to, 8 + len + body_len };
}

struct decoded {
    struct zr_span frame;
    char *scratch;
    struct zl_header h;
    const char *why;
    zr_status status;
};

/* Decodes with memory of exactly the size needed, and rubbish in the result beforehand. */
static struct decoded *decode(uint32_t type, const void *header, uint64_t len)
{
    struct decoded *d = malloc(sizeof(*d));
    memset(d, 0xEE, sizeof(*d));
    d->frame = frame_of(type, header, len, NULL, 0);
    d->scratch = malloc(len ? len : 1);
    d->why = NULL;
    d->status = zl_header_decode(d->frame, &d->h, d->scratch, len, &d->why);
    cr_assert_eq(d->status != ZR_OK, d->why != NULL);
    return d;
}

static void done(struct decoded *d)
{
    release(d->frame);
    free(d->scratch);
    free(d);
}

static struct decoded *decode_json(const char *text) { return decode(ZL_TYPE_JSON, text, strlen(text)); }

static struct zr_str ext(const struct decoded *d, const char *name) { return zl_field(d->h.fields, d->h.n_fields, name); }

static const char route[] = "{\"code\":105,\"extFields\":{\"topic\":\"TopicTest\"},\"flag\":0,\"language\":\"JAVA\",\"opaque\":1,"
                            "\"serializeTypeCurrentRPC\":\"JSON\",\"version\":479}";

static const char send[] =
    "{\"code\":310,\"extFields\":{\"a\":\"PG5\",\"b\":\"T5new\",\"c\":\"TBW102\",\"d\":\"4\",\"e\":\"1\",\"f\":\"0\",\"g\":\"1795232738695\","
    "\"h\":\"0\",\"i\":\"KEYS\\u0001key0\\u0002UNIQ_KEY\\u0001FD00000000000000000000000000000252BA30946E0967CDC5870000\\u0002WAIT"
    "\\u0001true\\u0002TAGS\\u0001TagA\\u0002\",\"j\":\"0\",\"k\":\"false\",\"m\":\"false\",\"n\":\"broker-a\"},\"flag\":0,"
    "\"language\":\"JAVA\",\"opaque\":5,\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}";

/* ---- cutting ---- */

static zr_status cut(const void *bytes, uint64_t n, uint64_t *ret_need)
{
    struct zr_span in = exact(bytes, n), out = { NULL, 0 };
    *ret_need = 0;
    zr_status status = zl_frame_cut(in, &out, ret_need);
    if (status == ZR_OK) {
        cr_assert_eq(out.ptr, in.ptr);
        cr_assert_leq(out.len, n);
    }
    release(in);
    return status;
}

Test(frame, is_cut_when_whole)
{
    struct zr_span f = frame_of(0, route, sizeof(route) - 1, "body", 4);
    uint64_t need;
    for (uint64_t n = 0; n < f.len; n++) {
        cr_assert_eq(cut(f.ptr, n, &need), ZR_EAGAIN, "%lu", (unsigned long)n);
        cr_assert_gt(need, n);
        cr_assert_eq(need, n < 8 ? 8 : f.len);
    }
    cr_assert_eq(cut(f.ptr, f.len, &need), ZR_OK);
    struct zr_span more = { realloc((void *)(uintptr_t)f.ptr, f.len + 5), f.len + 5 }, one;
    memset((void *)(uintptr_t)(more.ptr + f.len), 0, 5);
    cr_assert_eq(zl_frame_cut(more, &one, &need), ZR_OK);
    cr_assert_eq(one.len, f.len);
    release(more);
}

Test(frame, is_lost_on_impossible_words)
{
    static const struct { uint32_t total, word; zr_status status; } rows[] = {
        { 0, 0, ZR_EINVAL }, { 3, 0, ZR_EINVAL }, { 4, 0, ZR_OK }, { 0xFFFFFFFF, 0, ZR_EINVAL }, { 0x80000000, 0, ZR_EINVAL },
        { 16777212, 0, ZR_EAGAIN }, { 16777213, 0, ZR_EINVAL }, { 10, 6, ZR_EAGAIN }, { 10, 7, ZR_EINVAL },
        { 10, 0x01000006, ZR_EAGAIN }, { 10, 0x02000006, ZR_EINVAL }, { 10, 0xFF000000, ZR_EINVAL },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        uint8_t bytes[8];
        uint64_t need;
        zl_store32(bytes, rows[i].total);
        zl_store32(bytes + 4, rows[i].word);
        cr_assert_eq(cut(bytes, 8, &need), rows[i].status, "row %lu", (unsigned long)i);
    }
    uint8_t huge[4] = { 0x50, 0x52, 0x4F, 0x58 };
    uint64_t need;
    cr_assert_eq(cut(huge, 4, &need), ZR_EINVAL); /* known from the first word alone */
}

/* ---- decoding JSON ---- */

Test(json_header, the_worked_example)
{
    cr_assert_eq(sizeof(route) - 1, 131);
    struct decoded *d = decode_json(route);
    cr_assert_eq(d->status, ZR_OK);
    cr_assert_eq(d->h.code, 105);
    cr_assert_eq(d->h.flag, 0);
    cr_assert_eq(d->h.opaque, 1);
    cr_assert_eq(d->h.version, 479);
    cr_assert_eq(d->h.language, 0);
    cr_assert_eq(d->h.type, ZL_TYPE_JSON);
    cr_assert_eq(d->h.has_ext, 1);
    cr_assert_eq(d->h.n_fields, 1);
    cr_assert_null(d->h.remark.ptr);
    cr_assert_eq(d->h.body.len, 0);
    cr_str_is(ext(d, "topic"), "TopicTest");
    done(d);
}

Test(json_header, a_real_send)
{
    struct decoded *d = decode_json(send);
    cr_assert_eq(d->status, ZR_OK);
    cr_assert_eq(d->h.code, 310);
    cr_assert_eq(d->h.opaque, 5);
    cr_assert_eq(d->h.version, 513);
    cr_assert_eq(d->h.n_fields, 13);
    cr_str_is(ext(d, "i"), "KEYS\001key0\002UNIQ_KEY\001FD00000000000000000000000000000252BA30946E0967CDC5870000\002WAIT\001true\002"
                           "TAGS\001TagA\002");
    cr_str_is(ext(d, "g"), "1795232738695");
    cr_str_is(ext(d, "n"), "broker-a");
    cr_assert_null(ext(d, "l").ptr);
    done(d);
}

Test(json_header, body_is_what_follows)
{
    struct zr_span f = frame_of(0, route, sizeof(route) - 1, "hello", 5);
    struct zl_header h;
    const char *why;
    cr_assert_eq(zl_header_decode(f, &h, NULL, 0, &why), ZR_OK); /* no scratch where nothing is escaped */
    cr_assert_eq(h.body.len, 5);
    cr_assert_eq(memcmp(h.body.ptr, "hello", 5), 0);
    release(f);
}

/* What fastjson2 of Apache 5.5.0 made of these, tried with its own RemotingCommand.decode. */
Test(json_header, accepts_what_java_accepts)
{
    static const struct { const char *text; int32_t code, flag, opaque, version, language; uint32_t has_ext; const char *remark; } rows[] = {
        { "{}", 0, 0, 0, 0, 0, 0, NULL },
        { "{\"code\":1,}", 1, 0, 0, 0, 0, 0, NULL },
        { "{\"code\":1}\n", 1, 0, 0, 0, 0, 0, NULL },
        { "\n{ \"code\" :\t1 , \"flag\":2 }\r\n", 1, 2, 0, 0, 0, 0, NULL },
        { "{'code':5,'remark':'b\"c'}", 5, 0, 0, 0, 0, 0, "b\"c" },
        { "{\"version\":513,\"opaque\":-7,\"flag\":1,\"code\":0}", 0, 1, -7, 513, 0, 0, NULL },
        { "{\"code\":\"10\"}", 10, 0, 0, 0, 0, 0, NULL },
        { "{\"code\":10.9}", 10, 0, 0, 0, 0, 0, NULL },
        { "{\"code\":1e2}", 100, 0, 0, 0, 0, 0, NULL },
        { "{\"code\":true}", 1, 0, 0, 0, 0, 0, NULL },
        { "{\"code\":null}", 0, 0, 0, 0, 0, 0, NULL },
        { "{\"code\":\"\"}", 0, 0, 0, 0, 0, 0, NULL },
        { "{\"opaque\":-2147483648}", 0, 0, INT32_MIN, 0, 0, 0, NULL },
        { "{\"opaque\":2147483647}", 0, 0, INT32_MAX, 0, 0, 0, NULL },
        { "{\"opaque\":\"-5\"}", 0, 0, -5, 0, 0, 0, NULL },
        { "{\"language\":9}", 0, 0, 0, 0, 9, 0, NULL },
        { "{\"language\":\"9\"}", 0, 0, 0, 0, 9, 0, NULL },
        { "{\"language\":\"CPP\"}", 0, 0, 0, 0, 1, 0, NULL },
        { "{\"language\":\"NODE_JS\"}", 0, 0, 0, 0, 13, 0, NULL },
        { "{\"language\":\"KLINGON\"}", 0, 0, 0, 0, -1, 0, NULL },
        { "{\"language\":99}", 0, 0, 0, 0, -1, 0, NULL }, /* Java refuses; nobody is helped by that */
        { "{\"language\":null}", 0, 0, 0, 0, -1, 0, NULL },
        { "{\"extFields\":null}", 0, 0, 0, 0, 0, 0, NULL },
        { "{\"extFields\":\"\"}", 0, 0, 0, 0, 0, 0, NULL },
        { "{\"extFields\":{}}", 0, 0, 0, 0, 0, 1, NULL },
        { "{\"remark\":5}", 0, 0, 0, 0, 0, 0, "5" },
        { "{\"remark\":\"\"}", 0, 0, 0, 0, 0, 0, "" },
        { "{\"remark\":null}", 0, 0, 0, 0, 0, 0, NULL },
        { "{\"remark\":{\"a\":1}}", 0, 0, 0, 0, 0, 0, "{\"a\":1}" },
        { "{\"code\":1,\"code\":2}", 2, 0, 0, 0, 0, 0, NULL },
        { "{\"a\":{\"b\":{\"c\":[1,2,{\"d\":\"}\\\"\"}]}},\"code\":7}", 7, 0, 0, 0, 0, 0, NULL },
        { "{\"x\":[],\"y\":{},\"z\":[[]],\"w\":-1.5E-3,\"v\":'\\'',\"code\":7}", 7, 0, 0, 0, 0, 0, NULL },
        { "{\"x\":{{\"a\":1}:2,3:4,e:5},\"code\":7}", 7, 0, 0, 0, 0, 0, NULL },
        { "{\"Code\":5,\"extfields\":{\"a\":\"b\"}}", 0, 0, 0, 0, 0, 0, NULL },
        { "{\"serializeTypeCurrentRPC\":\"NONSENSE\",\"code\":1}", 1, 0, 0, 0, 0, 0, NULL },
        { "{\"remark\":\"a\nb\tc\"}", 0, 0, 0, 0, 0, 0, "a\nb\tc" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct decoded *d = decode_json(rows[i].text);
        cr_assert_eq(d->status, ZR_OK, "%s: %s", rows[i].text, d->why);
        cr_assert_eq(d->h.code, rows[i].code, "%s", rows[i].text);
        cr_assert_eq(d->h.flag, rows[i].flag, "%s", rows[i].text);
        cr_assert_eq(d->h.opaque, rows[i].opaque, "%s", rows[i].text);
        cr_assert_eq(d->h.version, rows[i].version, "%s", rows[i].text);
        cr_assert_eq(d->h.language, rows[i].language, "%s", rows[i].text);
        cr_assert_eq(d->h.has_ext, rows[i].has_ext, "%s", rows[i].text);
        cr_assert_eq(d->h.n_fields, 0, "%s", rows[i].text);
        cr_assert_eq(d->h.remark.ptr == NULL, rows[i].remark == NULL, "%s", rows[i].text);
        if (rows[i].remark) cr_str_is(d->h.remark, rows[i].remark);
        done(d);
    }
}

Test(json_header, ext_values_of_any_kind)
{
    struct decoded *d = decode_json("{\"extFields\":{\"a\":1,\"b\":true,\"c\":null,\"d\":{\"x\":[1,2,{}]},\"e\":[1,2],\"f\":-1.50,\"g\":\"\","
                                    "\"\":\"no name\",'h':'it\"s',\"i\":false,\"k\":\"v\",\"k\":\"w\",\"m\":\"1\",\"m\":null,\"n\":\"x\",},\"code\":1}");
    cr_assert_eq(d->status, ZR_OK, "%s", d->why);
    cr_str_is(ext(d, "a"), "1");
    cr_str_is(ext(d, "b"), "true");
    cr_assert_null(ext(d, "c").ptr);
    cr_str_is(ext(d, "d"), "{\"x\":[1,2,{}]}");
    cr_str_is(ext(d, "e"), "[1,2]");
    cr_str_is(ext(d, "f"), "-1.50");
    cr_str_is(ext(d, "g"), "");
    cr_assert_not_null(ext(d, "g").ptr);
    cr_str_is(ext(d, ""), "no name");
    cr_str_is(ext(d, "h"), "it\"s");
    cr_str_is(ext(d, "i"), "false");
    cr_str_is(ext(d, "k"), "w");          /* the last counts */
    cr_assert_null(ext(d, "m").ptr);      /* also when it is null */
    cr_str_is(ext(d, "n"), "x");
    cr_assert_eq(d->h.code, 1);
    done(d);
}

Test(json_header, escapes)
{
    static const struct { const char *in, *out; } rows[] = {
        { "\\u0041\\x41\\/\\\\\\\"\\'\\n\\t\\r\\b\\f\\v", "AA/\\\"'\n\t\r\b\f\v" },
        { "\\u0001\\u0002\\u0009", "\001\002\t" },
        { "\\7", "\007" },
        { "\\u00e9\\u6807", "\xc3\xa9\xe6\xa0\x87" },
        { "\\ud83d\\ude00", "\xf0\x9f\x98\x80" },
        { "\\ud83d", "?" },
        { "\\ud83dx", "?x" },
        { "\\ud83d\\u0041", "?A" },
        { "\\ude00\\ud83d", "??" },
        { "\\ud83d\\ue000", "?\xee\x80\x80" },
        { "\\ud83d\\ud83d\\ude00", "?\xf0\x9f\x98\x80" },
        { "plain text of more than sixteen bytes\\u0001and again more than sixteen bytes, as it should be\\n", "plain text of more than sixteen "
          "bytes\001and again more than sixteen bytes, as it should be\n" },
        { "\xff\xfe\\u0041\xc3", "\xff\xfe" "A\xc3" }, /* what is no UTF-8 passes through */
        { "\\.\\-\\*\\[\\$", ".-*[$" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        char text[600];
        snprintf(text, sizeof(text), "{\"remark\":\"%s\",\"extFields\":{\"%s\":\"%s\"}}", rows[i].in, rows[i].in, rows[i].in);
        struct decoded *d = decode_json(text);
        cr_assert_eq(d->status, ZR_OK, "%s: %s", text, d->why);
        cr_str_is(d->h.remark, rows[i].out);
        cr_str_is(d->h.fields[0].name, rows[i].out);
        cr_str_is(d->h.fields[0].value, rows[i].out);
        done(d);
    }
}

Test(json_header, zero_as_text)
{
    struct decoded *d = decode_json("{\"remark\":\"a\\u0000b\\0c\"}");
    cr_assert_eq(d->status, ZR_OK);
    cr_assert_eq(d->h.remark.len, 5);
    cr_assert_eq(memcmp(d->h.remark.ptr, "a\0b\0c", 5), 0);
    done(d);
}

Test(json_header, refuses_one_by_one)
{
    static const char *const bad[] = {
        "", " ", "null", "[1]", "\"x\"", "5", "{", "}", "{\"code\":1", "{\"code\":1]", "{\"code\":", "{\"code\"", "{\"code", "{\"code\" 1}",
        "{,\"code\":1}", "{\"code\":1,,\"flag\":1}", "{\"code\":1}x", "{\"code\":1}{}", "{\"code\":\"x\"}", "{\"code\":{}}", "{\"code\":[1]}",
        "{\"opaque\":2147483648}", "{\"opaque\":-2147483649}", "{\"opaque\":\"2147483648\"}", "{\"opaque\":1e10}", "{\"version\":99999999999}",
        "{\"flag\":99999999999999999999999999999999999999999}", "{\"extFields\":[]}", "{\"extFields\":\"x\"}", "{\"extFields\":5}",
        "{\"extFields\":{\"a\":xyz}}", "{\"extFields\":{\"a\":\"b\"}", "{\"extFields\":{\"a\":\"b\"", "{\"extFields\":{\"a\":}}",
        "{\"extFields\":{\"a\"}}", "{\"extFields\":{\"a\":\"b\" \"c\":\"d\"}}", "{\"remark\":\"\\q\"}", "{\"remark\":\"\\u00g1\"}",
        "{\"remark\":\"\\u00", "{\"remark\":\"\\u00\"}", "{\"remark\":\"\\", "{\"remark\":\"\\\"}", "{\"remark\":\"\\x4\"}", "{\"remark\":\"abc}",
        "{\"remark\":'abc\"}", "{\"u\":NaN,\"code\":1}", "{\"u\":undefined}", "{\"u\":1.2.3}", "{\"u\":-}", "{\"u\":\"open\\\"}", "{\"u\":[1 2]}",
        "{\"u\":[1}", "{\"u\":{\"a\":1]}", "{\"u\":{\"a\"}}", "{\"u\":{[1]:2}}", "{\"u\":[,1]}", "{\"u\":nul}", "{\"u\":+}",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct decoded *d = decode_json(bad[i]);
        cr_assert_eq(d->status, ZR_EINVAL, "%s", bad[i]);
        done(d);
    }
}

Test(json_header, every_cut_of_a_send_is_refused)
{
    for (uint64_t n = 0; n + 1 < sizeof(send); n++) {
        struct decoded *d = decode(ZL_TYPE_JSON, send, n);
        cr_assert_eq(d->status, ZR_EINVAL, "%lu", (unsigned long)n);
        done(d);
    }
}

Test(json_header, depth_is_bounded)
{
    char text[400];
    for (uint32_t depth = 60; depth < 70; depth++) {
        memset(text, 0, sizeof(text));
        strcpy(text, "{\"u\":");
        memset(text + 5, '[', depth);
        memset(text + 5 + depth, ']', depth);
        strcat(text, "}");
        struct decoded *d = decode_json(text);
        cr_assert_eq(d->status, depth < 64 ? ZR_OK : ZR_EINVAL, "%u", depth);
        done(d);
    }
    static char deep[1 << 20];
    memset(deep, '[', sizeof(deep));
    memcpy(deep, "{\"u\":", 5);
    struct decoded *d = decode(ZL_TYPE_JSON, deep, sizeof(deep));
    cr_assert_eq(d->status, ZR_EINVAL);
    done(d);
}

static struct decoded *decode_n_fields(uint32_t n)
{
    char text[4000];
    int len = sprintf(text, "{\"extFields\":{");
    for (uint32_t i = 0; i < n; i++) len += sprintf(text + len, "%s\"k%u\":\"%u\"", i ? "," : "", i, i);
    sprintf(text + len, "},\"opaque\":7}");
    return decode_json(text);
}

Test(json_header, holds_64_fields)
{
    struct decoded *d = decode_n_fields(64);
    cr_assert_eq(d->status, ZR_OK);
    cr_assert_eq(d->h.n_fields, 64);
    cr_str_is(ext(d, "k63"), "63");
    done(d);
    d = decode_n_fields(65); /* can still be answered */
    cr_assert_eq(d->status, ZR_EFULL);
    cr_assert_eq(d->h.opaque, 7);
    cr_assert_eq(d->h.n_fields, 64);
    done(d);
    struct decoded *bad = decode_json("{\"extFields\":{\"a\":1},\"opaque\":{}}");
    cr_assert_eq(bad->status, ZR_EINVAL);
    done(bad);
}

Test(json_header, scratch_too_small_is_refused)
{
    const char text[] = "{\"remark\":\"0123456789\\n0123456789012345678901234567890123456789\"}";
    struct zr_span f = frame_of(0, text, sizeof(text) - 1, NULL, 0);
    for (uint64_t cap = 0; cap < 51; cap++) {
        struct zr_span scratch = exact(text, cap);
        struct zl_header h;
        const char *why = NULL;
        cr_assert_eq(zl_header_decode(f, &h, (char *)(uintptr_t)scratch.ptr, cap, &why), ZR_EINVAL, "%lu", (unsigned long)cap);
        release(scratch);
    }
    release(f);
}

/* ---- decoding binary ---- */

static const uint8_t route_binary[] = { 0x00, 0x69, 0x00, 0x01, 0xdf, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x14, 0, 5, 't', 'o', 'p', 'i', 'c',
                                        0, 0, 0, 9, 'T', 'o', 'p', 'i', 'c', 'T', 'e', 's', 't' };

Test(binary_header, the_worked_example)
{
    cr_assert_eq(sizeof(route_binary), 41);
    struct decoded *d = decode(ZL_TYPE_BINARY, route_binary, sizeof(route_binary));
    cr_assert_eq(d->status, ZR_OK, "%s", d->why);
    cr_assert_eq(d->h.code, 105);
    cr_assert_eq(d->h.language, 0);
    cr_assert_eq(d->h.version, 479);
    cr_assert_eq(d->h.opaque, 1);
    cr_assert_eq(d->h.flag, 0);
    cr_assert_eq(d->h.type, ZL_TYPE_BINARY);
    cr_assert_eq(d->h.has_ext, 1);
    cr_assert_null(d->h.remark.ptr);
    cr_str_is(ext(d, "topic"), "TopicTest");
    done(d);
    for (uint64_t n = 0; n < sizeof(route_binary); n++) {
        d = decode(ZL_TYPE_BINARY, route_binary, n);
        cr_assert_eq(d->status, ZR_EINVAL, "%lu", (unsigned long)n);
        done(d);
    }
}

Test(binary_header, signs_and_empties)
{
    static const uint8_t bytes[] = { 0xff, 0xfe, 200, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x80, 0, 0, 1, 0, 0, 0, 2, 'h', 'i', 0, 0, 0, 35,
                                     0, 1, 'a', 0, 0, 0, 1, 'x', 0, 1, 'b', 0, 0, 0, 0, 0, 1, 'a', 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 'y', 0, 0, 0, 0, 0, 0 };
    struct decoded *d = decode(ZL_TYPE_BINARY, bytes, sizeof(bytes));
    cr_assert_eq(d->status, ZR_OK, "%s", d->why);
    cr_assert_eq(d->h.code, -2);
    cr_assert_eq(d->h.language, -1);
    cr_assert_eq(d->h.version, -1);
    cr_assert_eq(d->h.opaque, -1);
    cr_assert_eq(d->h.flag, INT32_MIN + 1);
    cr_str_is(d->h.remark, "hi");
    cr_assert_eq(d->h.has_ext, 1);
    cr_assert_eq(d->h.n_fields, 0); /* empty is absent, also after a value; a name of nothing too */
    done(d);
}

static zr_status binary_changed(uint64_t at, uint32_t value)
{
    uint8_t bytes[sizeof(route_binary)];
    memcpy(bytes, route_binary, sizeof(bytes));
    zl_store32(bytes + at, value);
    struct decoded *d = decode(ZL_TYPE_BINARY, bytes, sizeof(bytes));
    zr_status status = d->status;
    done(d);
    return status;
}

Test(binary_header, malformed_one_by_one)
{
    cr_assert_eq(binary_changed(13, 1), ZR_EINVAL);           /* remark */
    cr_assert_eq(binary_changed(13, 0xFFFFFFFF), ZR_EINVAL);
    cr_assert_eq(binary_changed(13, 0x7FFFFFFF), ZR_EINVAL);
    cr_assert_eq(binary_changed(17, 19), ZR_EINVAL);          /* map shorter, longer, negative */
    cr_assert_eq(binary_changed(17, 21), ZR_EINVAL);
    cr_assert_eq(binary_changed(17, 0xFFFFFFFF), ZR_EINVAL);
    cr_assert_eq(binary_changed(21, 0xFFFF746F), ZR_EINVAL);  /* name */
    cr_assert_eq(binary_changed(21, 0x0013746F), ZR_EINVAL);
    cr_assert_eq(binary_changed(28, 8), ZR_EINVAL);           /* value */
    cr_assert_eq(binary_changed(28, 10), ZR_EINVAL);
    cr_assert_eq(binary_changed(28, 0xFFFFFFFF), ZR_EINVAL);
    cr_assert_eq(binary_changed(28, 9), ZR_OK);
}

Test(binary_header, bytes_behind_it_are_refused)
{
    uint8_t bytes[sizeof(route_binary) + 1] = { 0 };
    memcpy(bytes, route_binary, sizeof(route_binary));
    struct decoded *d = decode(ZL_TYPE_BINARY, bytes, sizeof(bytes));
    cr_assert_eq(d->status, ZR_EINVAL);
    done(d);
}

Test(binary_header, a_negative_name_length_is_refused_where_so_many_bytes_follow)
{
    static uint8_t bytes[21 + 2 + 32768 + 4 + 1];
    memcpy(bytes, route_binary, 17);
    zl_store32(bytes + 17, sizeof(bytes) - 21);
    zl_store16(bytes + 21, 0x8000);
    zl_store32(bytes + sizeof(bytes) - 5, 1);
    struct decoded *d = decode(ZL_TYPE_BINARY, bytes, sizeof(bytes));
    cr_assert_eq(d->status, ZR_EINVAL);
    done(d);
}

Test(header, frames_that_disagree_with_themselves)
{
    struct zl_header h;
    const char *why = NULL;
    struct zr_span f = frame_of(0, route, sizeof(route) - 1, NULL, 0);
    uint8_t *bytes = (uint8_t *)(uintptr_t)f.ptr;
    cr_assert_eq(zl_header_decode((struct zr_span){ bytes, 7 }, &h, NULL, 0, &why), ZR_EINVAL);
    cr_assert_eq(zl_header_decode((struct zr_span){ bytes, f.len - 1 }, &h, NULL, 0, &why), ZR_EINVAL);
    zl_store32(bytes + 4, 132);
    cr_assert_eq(zl_header_decode(f, &h, NULL, 0, &why), ZR_EINVAL);
    zl_store32(bytes + 4, 2u << 24 | 131);
    cr_assert_eq(zl_header_decode(f, &h, NULL, 0, &why), ZR_EINVAL);
    cr_assert_str_eq(why, "unknown serialization type");
    release(f);
}

/* ---- encoding ---- */

static struct zr_command command(int32_t code, const struct zr_field *fields, uint32_t n)
{
    return (struct zr_command){ .hdr = ZR_HDR(struct zr_command, 0), .code = code, .fields = fields, .n_fields = n };
}

static void check_json(const struct zr_command *c, int32_t flag, int32_t opaque, const char *header)
{
    struct zl_buf out;
    zl_buf_init(&out, 1u << 20);
    zl_buf_cstr(&out, "before");
    cr_assert_eq(zl_command_encode(&out, c, ZL_TYPE_JSON, flag, opaque, 0), ZR_OK);
    const uint8_t *p = out.ptr + 6;
    cr_assert_eq(zl_load32(p), out.len - 6 - 4);
    cr_assert_eq(zl_load32(p + 4), strlen(header));
    cr_str_is(((struct zr_str){ (const char *)p + 8, zl_load32(p + 4) }), header);
    cr_assert_eq(memcmp(p + 8 + strlen(header), c->body.ptr ? c->body.ptr : (const uint8_t *)"", c->body.len), 0);
    zl_buf_free(&out);
}

Test(encode, keys_in_javas_order)
{
    struct zr_field fields[] = { { S("topic"), S("TopicTest") }, { S("n"), S("") }, { S("null"), { NULL, 0 } } };
    struct zr_command c = command(105, fields, 3);
    check_json(&c, 0, 1, "{\"code\":105,\"extFields\":{\"topic\":\"TopicTest\",\"n\":\"\"},\"flag\":0,\"language\":\"JAVA\",\"opaque\":1,"
                         "\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}");
    c = command(-17, NULL, 0);
    c.remark = S("a\"b\\c\nd\001e\x1f/\xe6\xa0\x87");
    c.body = (struct zr_span){ (const uint8_t *)"body", 4 };
    check_json(&c, 1, INT32_MIN, "{\"code\":-17,\"flag\":1,\"language\":\"JAVA\",\"opaque\":-2147483648,"
                                 "\"remark\":\"a\\\"b\\\\c\\nd\\u0001e\\u001F/\xe6\xa0\x87\",\"serializeTypeCurrentRPC\":\"JSON\",\"version\":513}");
    c = command(0, NULL, 0);
    c.flags = ZR_COMMAND_EMPTY_EXT;
    check_json(&c, 1, 0, "{\"code\":0,\"extFields\":{},\"flag\":1,\"language\":\"JAVA\",\"opaque\":0,\"serializeTypeCurrentRPC\":\"JSON\","
                         "\"version\":513}");
}

Test(encode, the_worked_binary_example)
{
    struct zr_field fields[] = { { S("topic"), S("TopicTest") }, { S("null"), { NULL, 0 } } };
    struct zr_command c = command(105, fields, 2);
    struct zl_buf out;
    zl_buf_init(&out, 1000);
    cr_assert_eq(zl_command_encode(&out, &c, ZL_TYPE_BINARY, 0, 1, 0), ZR_OK);
    cr_hex_is(out.ptr, out.len, "0000002d" "01000029" "0069" "00" "0201" "00000001" "00000000" "00000000" "00000014"
                                "0005" "746f706963" "00000009" "546f70696354657374");
    zl_buf_free(&out);
}

Test(encode, codes_beyond_16_bits_go_as_json)
{
    static const int32_t codes[] = { 32767, 32768, -32768, -32769, 200050 };
    for (size_t i = 0; i < 5; i++) {
        struct zr_command c = command(codes[i], NULL, 0);
        struct zl_buf out;
        struct zl_header h;
        const char *why;
        zl_buf_init(&out, 1000);
        cr_assert_eq(zl_command_encode(&out, &c, ZL_TYPE_BINARY, 1, 7, 0), ZR_OK);
        cr_assert_eq(zl_header_decode(zl_buf_as_span(&out), &h, NULL, 0, &why), ZR_OK);
        cr_assert_eq(h.code, codes[i]);
        cr_assert_eq(h.type, codes[i] == 32767 || codes[i] == -32768 ? ZL_TYPE_BINARY : ZL_TYPE_JSON);
        zl_buf_free(&out);
    }
}

Test(encode, pieces_are_counted_and_not_copied)
{
    struct zr_command c = command(0, NULL, 0);
    struct zl_buf out;
    c.n_pieces = 1;
    c.body = (struct zr_span){ (const uint8_t *)"ignored", 7 };
    zl_buf_init(&out, 1000);
    cr_assert_eq(zl_command_encode(&out, &c, ZL_TYPE_JSON, 1, 7, 1000), ZR_OK);
    cr_assert_eq(zl_load32(out.ptr), out.len - 4 + 1000);
    cr_assert_eq(zl_load32(out.ptr + 4), out.len - 8);
    zl_buf_free(&out);
}

Test(encode, a_failure_leaves_the_buffer_alone)
{
    struct zr_command c = command(0, NULL, 0);
    struct zl_buf out;
    zl_buf_init(&out, 50);
    zl_buf_cstr(&out, "abc");
    cr_assert_eq(zl_command_encode(&out, &c, ZL_TYPE_JSON, 1, 7, 0), ZR_ENOMEM);
    cr_str_is(zl_buf_as_str(&out), "abc");
    zl_buf_free(&out);
    zl_buf_init(&out, 1000);
    c.n_pieces = 1;
    cr_assert_eq(zl_command_encode(&out, &c, ZL_TYPE_JSON, 1, 7, ZL_FRAME_MAX - 100), ZR_EFULL);
    cr_assert_eq(zl_command_encode(&out, &c, ZL_TYPE_JSON, 1, 7, UINT64_MAX - 3), ZR_EFULL);
    cr_assert_eq(out.len, 0);
    zl_buf_free(&out);
}

/* Short text is looked at a word at a time: every character that must be escaped, in every place of every length. */
Test(encode, escapes_everywhere_in_short_text)
{
    for (uint64_t n = 1; n <= 33; n++) {
        for (uint64_t at = 0; at < n; at++) {
            for (int c = 0; c < 0x20 + 3; c++) {
                char text[33], scratch[512];
                memset(text, at % 2 ? '~' : ' ', sizeof(text));
                text[at] = c < 0x20 ? (char)c : "\"\\\x7f"[c - 0x20];
                struct zr_field field = { S("k"), { text, n } };
                struct zr_command command_ = command(1, &field, 1);
                struct zl_buf out;
                struct zl_header h;
                const char *why = "";
                zl_buf_init(&out, 2000);
                cr_assert_eq(zl_command_encode(&out, &command_, ZL_TYPE_JSON, 0, 0, 0), ZR_OK);
                for (uint64_t i = 8; i < out.len; i++) cr_assert_geq(out.ptr[i], 0x20);
                cr_assert_eq(zl_header_decode(zl_buf_as_span(&out), &h, scratch, sizeof(scratch), &why), ZR_OK, "%s", why);
                cr_assert(zl_eq(h.fields[0].value, field.value), "%lu %lu %d", (unsigned long)n, (unsigned long)at, c);
                zl_buf_free(&out);
            }
        }
    }
}

static void check_round_trip(uint32_t type)
{
    char every[256], twice[512];
    for (int i = 0; i < 256; i++) every[i] = (char)i;
    memcpy(twice, every, 256);
    memcpy(twice + 256, every, 256);
    for (uint64_t from = 0; from < 40; from++) {
        struct zr_field fields[] = { { S("plain"), S("x") }, { { twice + from, 256 }, { twice + from, 512 - from } } };
        struct zr_command c = command(310, fields, 2);
        struct zl_buf out;
        struct zl_header h;
        char scratch[8192];
        const char *why = NULL;
        c.remark = (struct zr_str){ every, 256 };
        c.body = (struct zr_span){ (const uint8_t *)twice, 100 };
        zl_buf_init(&out, 100000);
        cr_assert_eq(zl_command_encode(&out, &c, type, 2, -9, 0), ZR_OK);
        struct zr_span f = exact(out.ptr, out.len);
        cr_assert_eq(zl_header_decode(f, &h, scratch, sizeof(scratch), &why), ZR_OK, "%s", why);
        cr_assert_eq(h.n_fields, 2);
        cr_assert_eq(h.flag, 2);
        cr_assert_eq(h.opaque, -9);
        cr_assert(zl_eq(h.fields[1].name, fields[1].name));
        cr_assert(zl_eq(h.fields[1].value, fields[1].value));
        cr_assert(zl_eq(h.remark, c.remark));
        cr_assert_eq(h.body.len, 100);
        release(f);
        zl_buf_free(&out);
    }
}

Test(encode, every_byte_comes_back_from_json) { check_round_trip(ZL_TYPE_JSON); }
Test(encode, every_byte_comes_back_from_binary) { check_round_trip(ZL_TYPE_BINARY); }

/* ---- fields ---- */

Test(fields, typed_look_up)
{
    struct zr_field f[] = { { S("a"), S("5") },  { S("b"), S("x") },    { S("c"), S("") },   { S("d"), S("9223372036854775807") },
                            { S("t"), S("TRUE") }, { S("u"), S("yes") }, { S("a"), S("-6") } };
    int64_t v = 1;
    int32_t w = 1;
    cr_assert_eq(zl_field_i64(f, 7, "a", &v), ZR_OK);
    cr_assert_eq(v, -6);
    cr_assert_eq(zl_field_i64(f, 7, "b", &v), ZR_EINVAL);
    cr_assert_eq(zl_field_i64(f, 7, "c", &v), ZR_ENOENT);
    cr_assert_eq(zl_field_i64(f, 7, "z", &v), ZR_ENOENT);
    cr_assert_eq(v, -6);
    cr_assert_eq(zl_field_i32(f, 7, "a", &w), ZR_OK);
    cr_assert_eq(w, -6);
    cr_assert_eq(zl_field_i32(f, 7, "d", &w), ZR_EINVAL);
    cr_assert_eq(zl_field_bool(f, 7, "t", 0), 1);
    cr_assert_eq(zl_field_bool(f, 7, "u", 1), 0);
    cr_assert_eq(zl_field_bool(f, 7, "c", 1), 1);
    cr_assert_eq(zl_field_bool(f, 7, "z", 0), 0);
    cr_assert_null(zl_field(NULL, 0, "a").ptr);
}

Test(fields, under_construction)
{
    struct zl_fields fs = { 0 };
    for (int i = 0; i < 22; i++) zl_fields_i64(&fs, "min", INT64_MIN);
    zl_fields_str(&fs, "s", S("v"));
    zl_fields_bool(&fs, "b", 1);
    cr_assert_eq(fs.n, 24);
    cr_str_is(fs.f[0].value, "-9223372036854775808");
    cr_str_is(fs.f[21].value, "-9223372036854775808");
    cr_str_is(fs.f[22].value, "v");
    cr_str_is(fs.f[23].value, "true");
}

Test(fields, language_names)
{
    cr_assert_str_eq(zl_language_name(0), "JAVA");
    cr_assert_str_eq(zl_language_name(9), "GO");
    cr_assert_str_eq(zl_language_name(13), "NODE_JS");
    cr_assert_str_eq(zl_language_name(14), "OTHER");
    cr_assert_str_eq(zl_language_name(-1), "OTHER");
}
