/* SPDX-License-Identifier: Apache-2.0 */
/* The dialect read and written: real bodies, references, limits, and the pretty layout to the byte. */
#include "helper.h"
#include <math.h>
#include "zl/json.h"
#include "zl/text.h"

struct parsed {
    struct zr_span text;
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at;
    zr_status status;
};

static struct parsed parse(const char *text, uint64_t len)
{
    struct parsed p = { .text = exact(text, len) };
    p.status = zl_json_parse((struct zr_str){ (const char *)p.text.ptr, len }, &p.doc, &p.root, &p.at);
    return p;
}

static struct parsed parse_text(const char *text) { return parse(text, strlen(text)); }

static void done(struct parsed *p)
{
    if (p->status == ZR_OK) zl_json_free(p->doc);
    release(p->text);
}

/* What is read, printed again. */
static void check(const char *text, const char *want)
{
    struct parsed p = parse(text, strlen(text));
    struct zl_buf out;
    zl_buf_init(&out, 1u << 20);
    cr_assert_eq(p.status, ZR_OK, "%s at %lu", text, (unsigned long)p.at);
    zl_json_print(&out, p.root);
    cr_str_is(zl_buf_as_str(&out), want);
    zl_buf_free(&out);
    done(&p);
}
#define SAME(text) check(text, text)

Test(json, plain_values)
{
    SAME("{}");
    SAME("[]");
    SAME("null");
    SAME("true");
    SAME("-12.5e+3");
    SAME("\"a\\\"b\\\\c\\n\\u0001\"");
    SAME("{\"a\":[1,2,{\"b\":null}],\"c\":\"\"}");
    check(" { \"a\" : [ 1 , 2 ] , } \n", "{\"a\":[1,2]}");
    check("['x',\"it's\",'\\'',]", "[\"x\",\"it's\",\"'\"]");
    check("\"\\ud83d\\ude00\\u6807\\x41\"", "\"\xf0\x9f\x98\x80\xe6\xa0\x87" "A\"");
    check("\"\xff\xc3\"", "\"\xff\xc3\"");
}

Test(json, keys_of_the_dialect)
{
    check("{0:\"10.0.0.1:10911\",-1:2,a_b:3}", "{\"0\":\"10.0.0.1:10911\",\"-1\":2,\"a_b\":3}");
    SAME("{{\"brokerName\":\"broker-a\",\"queueId\":0,\"topic\":\"t\"}:{\"maxOffset\":5}}");
    struct parsed p = parse_text("{\"offsetTable\":{{\"queueId\":3}:12,{\"queueId\":4}:13}}");
    cr_assert_eq(p.status, ZR_OK);
    const struct zl_json *row = zl_json_get(p.root, "offsetTable")->child;
    cr_assert_eq(zl_json_get_i64(row->key_obj, "queueId", -1), 3);
    cr_assert_eq(zl_json_i64(row, -1), 12);
    cr_assert_eq(zl_json_get_i64(row->next->key_obj, "queueId", -1), 4);
    cr_assert_null(row->next->next);
    cr_assert_eq(zl_json_get(p.root, "offsetTable")->n, 2);
    done(&p);
}

Test(json, a_heartbeat)
{
    static const char body[] =
        "{\"clientID\":\"192.0.2.2@21894#2287234586678\",\"consumerDataSet\":[{\"consumeFromWhere\":\"CONSUME_FROM_FIRST_OFFSET\","
        "\"consumeType\":\"CONSUME_PASSIVELY\",\"groupName\":\"CG5\",\"messageModel\":\"CLUSTERING\",\"subscriptionDataSet\":[{\"classFilterMode\":"
        "false,\"codeSet\":[],\"expressionType\":\"TAG\",\"subString\":\"*\",\"subVersion\":1795232841449,\"tagsSet\":[],\"topic\":\"T5new\"}],"
        "\"unitMode\":false}],\"heartbeatFingerprint\":0,\"producerDataSet\":[{\"groupName\":\"CLIENT_INNER_PRODUCER\"}],\"withoutSub\":false}";
    SAME(body);
    struct parsed p = parse(body, sizeof(body) - 1);
    cr_str_is(zl_json_get_str(p.root, "clientID"), "192.0.2.2@21894#2287234586678");
    const struct zl_json *consumer = zl_json_get(p.root, "consumerDataSet")->child;
    cr_str_is(zl_json_get_str(consumer, "groupName"), "CG5");
    cr_assert_eq(zl_json_get_i64(zl_json_get(consumer, "subscriptionDataSet")->child, "subVersion", 0), 1795232841449);
    cr_assert_eq(zl_json_get_bool(consumer, "unitMode", 1), 0);
    done(&p);
}

Test(json, conversions)
{
    struct parsed p = parse_text("{\"n\":\"12\",\"f\":1.5,\"e\":1E3,\"big\":9223372036854775808,\"t\":\"TRUE\",\"one\":1,\"zero\":0,\"x\":\"x\",\"nul\":null,"
                            "\"d\":1,\"d\":2}");
    cr_assert_eq(p.status, ZR_OK);
    cr_assert_eq(zl_json_get_i64(p.root, "n", 0), 12);
    cr_assert_eq(zl_json_get_i64(p.root, "f", 0), 1);
    cr_assert_eq(zl_json_get_i64(p.root, "e", 0), 1000);
    cr_assert_eq(zl_json_get_i64(p.root, "big", -3), -3);
    cr_assert_eq(zl_json_get_i64(p.root, "x", -3), -3);
    cr_assert_eq(zl_json_get_i64(p.root, "nul", -3), -3);
    cr_assert_eq(zl_json_get_i64(p.root, "none", -3), -3);
    cr_assert_eq(zl_json_get_i64(p.root, "d", 0), 2);
    cr_assert(zl_json_f64(zl_json_get(p.root, "f"), 0) == 1.5);
    cr_assert(zl_json_f64(zl_json_get(p.root, "n"), 0) == 12);
    cr_assert_eq(zl_json_get_bool(p.root, "t", 0), 1);
    cr_assert_eq(zl_json_get_bool(p.root, "one", 0), 1);
    cr_assert_eq(zl_json_get_bool(p.root, "zero", 1), 0);
    cr_assert_eq(zl_json_get_bool(p.root, "x", 1), 1);
    cr_str_is(zl_json_get_str(p.root, "f"), "1.5");
    cr_assert_null(zl_json_get_str(p.root, "nul").ptr);
    cr_assert_null(zl_json_get(NULL, "a"));
    cr_assert_null(zl_json_get(zl_json_get(p.root, "n"), "a"));
    cr_assert_null(zl_json_str(NULL).ptr);
    cr_assert_eq(zl_json_i64(NULL, 4), 4);
    cr_assert_eq(zl_json_bool(NULL, 1), 1);
    done(&p);
}

Test(json, references_are_put_in_place)
{
    check("{\"a\":{\"x\":1},\"b\":{\"$ref\":\"$.a\"}}", "{\"a\":{\"x\":1},\"b\":{\"x\":1}}");
    check("{\"a\":[1,[2,3]],\"b\":{\"$ref\":\"$.a[1]\"},\"c\":{\"$ref\":\"$.a[1][0]\"}}", "{\"a\":[1,[2,3]],\"b\":[2,3],\"c\":2}");
    check("{\"a.b\":\"v\",\"c\":{\"$ref\":\"$['a.b']\"}}", "{\"a.b\":\"v\",\"c\":\"v\"}");
    check("[{\"s\":{\"t\":\"x\"}},{\"s\":{\"$ref\":\"$[0].s\"}}]", "[{\"s\":{\"t\":\"x\"}},{\"s\":{\"t\":\"x\"}}]");
    check("{\"a\":{\"x\":1},\"b\":{\"y\":{\"$ref\":\"$.a\"}},\"c\":{\"$ref\":\"$.b\"}}", "{\"a\":{\"x\":1},\"b\":{\"y\":{\"x\":1}},\"c\":{\"y\":{\"x\":1}}}");
}

Test(json, references_that_lead_nowhere_are_null)
{
    check("{\"a\":{\"$ref\":\"$.b\"}}", "{\"a\":null}");
    check("{\"a\":{\"$ref\":\"$\"}}", "{\"a\":null}");
    check("{\"a\":{\"b\":{\"$ref\":\"..\"}}}", "{\"a\":{\"b\":null}}");
    check("{\"a\":{\"b\":{\"$ref\":\"$.a\"}}}", "{\"a\":{\"b\":null}}");
    check("{\"a\":{\"$ref\":\"$.a\"}}", "{\"a\":null}");
    check("{\"a\":{\"$ref\":\"$.b\"},\"b\":{\"$ref\":\"$.a\"}}", "{\"a\":null,\"b\":null}");
    check("{\"$ref\":\"$\"}", "null");
    check("[{\"$ref\":\"\"},{\"$ref\":\"$[\"},{\"$ref\":\"$[9]\"},{\"$ref\":\"$[-1]\"},{\"$ref\":\"x\"},{\"$ref\":\"$x\"}]", "[null,null,null,null,null,null]");
    SAME("{\"$ref\":5}");
    SAME("{\"$ref\":\"$.a\",\"a\":1}");
}

/* Each level refers twice to the one before it: written out it would be 2^60 values. */
Test(json, references_cannot_blow_a_document_up)
{
    struct zl_buf text;
    zl_buf_init(&text, 100000);
    zl_buf_cstr(&text, "{\"a0\":[1]");
    for (int i = 1; i < 60; i++) zl_buf_fmt(&text, ",\"a%d\":[{\"$ref\":\"$.a%d\"},{\"$ref\":\"$.a%d\"}]", i, i - 1, i - 1);
    zl_buf_cstr(&text, "}");
    struct parsed p = parse((const char *)text.ptr, text.len);
    cr_assert_eq(p.status, ZR_EFULL);
    done(&p);
    zl_buf_free(&text);
}

Test(json, references_cannot_cost_more_than_the_limit)
{
    struct zl_buf text;
    zl_buf_init(&text, 1u << 24);
    zl_buf_cstr(&text, "[");
    for (int i = 0; i < 100000; i++) zl_buf_cstr(&text, "1,");
    for (int i = 0; i < 100000; i++) zl_buf_cstr(&text, "{\"$ref\":\"$[99999]\"},");
    zl_buf_cstr(&text, "]");
    struct parsed p = parse((const char *)text.ptr, text.len);
    cr_assert_eq(p.status, ZR_EFULL);
    done(&p);
    zl_buf_free(&text);
}

Test(json, depth_is_bounded)
{
    char text[200];
    for (int depth = 62; depth < 68; depth++) {
        memset(text, '[', (size_t)depth);
        memset(text + depth, ']', (size_t)depth);
        struct parsed p = parse(text, 2 * (uint64_t)depth);
        cr_assert_eq(p.status, depth <= 64 ? ZR_OK : ZR_EFULL, "%d", depth);
        done(&p);
    }
    static char deep[1 << 20];
    memset(deep, '{', sizeof(deep)); /* objects as keys nest too */
    struct parsed p = parse(deep, sizeof(deep));
    cr_assert_eq(p.status, ZR_EFULL);
    done(&p);
}

Test(json, malformed_one_by_one)
{
    static const char *const bad[] = { "", " ", "{", "[", "]", "{\"a\"", "{\"a\":", "{\"a\":1", "{\"a\" 1}", "{a}", "{:1}", "{,}", "[,]", "[1 2]", "[1,,2]",
                                       "{\"a\":1,,}", "\"", "\"abc", "'abc\"", "\"\\", "\"\\\"", "\"\\u12\"", "\"\\q\"", "nul", "truex", "-", "1.", "1e", ".5", "1x",
                                       "[1]]", "{}{}", "{[1]:2}", "{{}1}", "{-:1}", "undefined", "{\"a\":{\"b\":1}", "[1}", "{\"a\":1]" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct parsed p = parse(bad[i], strlen(bad[i]));
        cr_assert_eq(p.status, ZR_EINVAL, "%s", bad[i]);
        cr_assert_leq(p.at, strlen(bad[i]));
        done(&p);
    }
    struct zl_json_doc *doc;
    const struct zl_json *root;
    cr_assert_eq(zl_json_parse((struct zr_str){ NULL, 0 }, &doc, &root, NULL), ZR_EINVAL);
}

Test(json, names_the_place_of_a_fault)
{
    struct parsed p = parse_text("{\"a\":1,\"b\":x}");
    cr_assert_eq(p.status, ZR_EINVAL);
    cr_assert_eq(p.at, 11);
    done(&p);
}

Test(json, many_nodes)
{
    struct zl_buf text;
    zl_buf_init(&text, 1u << 24);
    zl_buf_cstr(&text, "[");
    for (int i = 0; i < 200000; i++) zl_buf_fmt(&text, "%s\"\\n%d\"", i ? "," : "", i);
    zl_buf_cstr(&text, "]");
    struct parsed p = parse((const char *)text.ptr, text.len);
    cr_assert_eq(p.status, ZR_OK);
    cr_assert_eq(p.root->n, 200000);
    int i = 0;
    for (const struct zl_json *c = p.root->child; c; c = c->next, i++) {
        char want[16];
        snprintf(want, sizeof(want), "\n%d", i);
        cr_str_is(c->text, want);
    }
    done(&p);
    zl_buf_free(&text);
}

/* ---- writing ---- */

static struct zl_jw writer(struct zl_buf *out, uint32_t pretty)
{
    struct zl_jw w;
    zl_buf_init(out, 1u << 20);
    zl_jw_init(&w, out, pretty);
    return w;
}

static void write_sample(struct zl_jw *w)
{
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "a", S("x"));
    zl_jw_key(w, S("ints"));
    zl_jw_begin(w, '[');
    zl_jw_i64(w, 1);
    zl_jw_i64(w, 2);
    zl_jw_end(w, ']');
    zl_jw_key(w, S("empty"));
    zl_jw_begin(w, '{');
    zl_jw_end(w, '}');
    zl_jw_key(w, S("none"));
    zl_jw_begin(w, '[');
    zl_jw_end(w, ']');
    zl_jw_key(w, S("offsets"));
    zl_jw_begin(w, '{');
    zl_jw_key_int(w, 0);
    zl_jw_i64(w, 250);
    zl_jw_key_int(w, 1);
    zl_jw_i64(w, 251);
    zl_jw_end(w, '}');
    zl_jw_key(w, S("mq"));
    zl_jw_begin(w, '{');
    zl_jw_begin_key(w);
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "queueId", 0);
    zl_jw_kstr(w, "topic", S("t"));
    zl_jw_end(w, '}');
    zl_jw_end_key(w);
    zl_jw_i64(w, 5);
    zl_jw_end(w, '}');
    zl_jw_key(w, S("objs"));
    zl_jw_begin(w, '[');
    for (int i = 0; i < 2; i++) {
        zl_jw_begin(w, '{');
        zl_jw_kbool(w, "b", i == 0);
        zl_jw_end(w, '}');
    }
    zl_jw_end(w, ']');
    zl_jw_key(w, S("set"));
    zl_jw_begin(w, '[');
    zl_jw_str(w, S("a"));
    zl_jw_str(w, S("b"));
    zl_jw_end(w, ']');
    zl_jw_key(w, S("n"));
    zl_jw_null(w);
    zl_jw_key(w, S("raw"));
    zl_jw_raw(w, S("[7]"));
    zl_jw_end(w, '}');
}

Test(json_writer, compact)
{
    struct zl_buf out;
    struct zl_jw w = writer(&out, 0);
    write_sample(&w);
    cr_str_is(zl_buf_as_str(&out), "{\"a\":\"x\",\"ints\":[1,2],\"empty\":{},\"none\":[],\"offsets\":{0:250,1:251},\"mq\":{{\"queueId\":0,\"topic\":\"t\"}:5},"
                                   "\"objs\":[{\"b\":true},{\"b\":false}],\"set\":[\"a\",\"b\"],\"n\":null,\"raw\":[7]}");
    zl_buf_free(&out);
}

/* The layout that fastjson2 2.0.59 gave the same values. */
Test(json_writer, pretty)
{
    struct zl_buf out;
    struct zl_jw w = writer(&out, 1);
    write_sample(&w);
    cr_str_is(zl_buf_as_str(&out),
              "{\n\t\"a\":\"x\",\n\t\"ints\":[1,2],\n\t\"empty\":{},\n\t\"none\":[],\n\t\"offsets\":{\n\t\t0:250,\n\t\t1:251\n\t},\n\t\"mq\":{\n\t\t{\n\t\t\t"
              "\"queueId\":0,\n\t\t\t\"topic\":\"t\"\n\t\t}:5\n\t},\n\t\"objs\":[\n\t\t{\n\t\t\t\"b\":true\n\t\t},\n\t\t{\n\t\t\t\"b\":false\n\t\t}\n\t],\n\t"
              "\"set\":[\n\t\t\"a\",\n\t\t\"b\"\n\t],\n\t\"n\":null,\n\t\"raw\":[7]\n}");
    zl_buf_free(&out);
}

Test(json_writer, several_members_behind_an_object_key)
{
    struct zl_buf out;
    struct zl_jw w = writer(&out, 0);
    zl_jw_begin(&w, '{');
    for (int i = 0; i < 3; i++) {
        zl_jw_begin_key(&w);
        zl_jw_begin(&w, '{');
        zl_jw_ki64(&w, "q", i);
        zl_jw_end(&w, '}');
        zl_jw_end_key(&w);
        zl_jw_begin(&w, '[');
        zl_jw_i64(&w, i);
        zl_jw_end(&w, ']');
    }
    zl_jw_end(&w, '}');
    cr_str_is(zl_buf_as_str(&out), "{{\"q\":0}:[0],{\"q\":1}:[1],{\"q\":2}:[2]}");
    zl_buf_free(&out);
}

/* What Java's Double.toString prints. */
Test(json_writer, doubles_as_java)
{
    static const struct { double v; const char *text; } rows[] = {
        { 0, "0.0" }, { -0.0, "-0.0" }, { 1, "1.0" }, { 1.5, "1.5" }, { -1.5, "-1.5" }, { 0.1, "0.1" }, { 0.001, "0.001" }, { 0.00123, "0.00123" },
        { 0.0001, "1.0E-4" }, { 1.0E-5, "1.0E-5" }, { 1234567, "1234567.0" }, { 9999999, "9999999.0" }, { 1e7, "1.0E7" }, { 12345678, "1.2345678E7" },
        { 1.5e10, "1.5E10" }, { 100, "100.0" }, { 123.456, "123.456" }, { 9007199254740993.0, "9.007199254740992E15" }, { 1.7976931348623157e308, "1.7976931348623157E308" },
        { 0.30000000000000004, "0.30000000000000004" }, { NAN, "null" }, { INFINITY, "null" },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        struct zl_buf out;
        struct zl_jw w = writer(&out, 0);
        zl_jw_f64(&w, rows[i].v);
        cr_str_is(zl_buf_as_str(&out), rows[i].text);
        zl_buf_free(&out);
    }
}

Test(json_writer, too_deep_fails_and_does_not_overrun)
{
    struct zl_buf out;
    struct zl_jw w = writer(&out, 1);
    for (int i = 0; i < 100; i++) zl_jw_begin(&w, '[');
    cr_assert_eq(out.failed, 1);
    for (int i = 0; i < 120; i++) zl_jw_end(&w, ']');
    cr_assert_eq(w.depth, 0);
    zl_buf_free(&out);
}

Test(json_writer, quotes_into_a_full_buffer)
{
    static const char text[] = "0123456789abcdef0123456789\"\\\n\001 and more than that";
    uint64_t size = sizeof(text) - 1 + 3 + 5 + 2;
    for (uint64_t max = 0; max < size + 20; max++) {
        struct zl_buf out;
        zl_buf_init(&out, max);
        zl_json_quote(&out, (struct zr_str){ text, sizeof(text) - 1 });
        cr_assert_eq(out.failed, max < size, "%lu", (unsigned long)max);
        if (!out.failed) cr_str_is(zl_buf_as_str(&out), "\"0123456789abcdef0123456789\\\"\\\\\\n\\u0001 and more than that\"");
        zl_buf_free(&out);
    }
}

static void mend_is(const char *text, const char *mended)
{
    struct zl_buf out;
    zl_buf_init(&out, 1u << 16);
    zl_json_mend(&out, zl_str(text));
    cr_expect(out.len == strlen(mended) && memcmp(out.ptr ? (const char *)out.ptr : "", mended, out.len) == 0, "%s: %.*s", text,
              (int)out.len, (const char *)out.ptr);
    zl_buf_free(&out);
}

Test(json, the_beginning_of_a_torn_text)
{
    mend_is("", "");
    mend_is("{\"half\":", "");
    mend_is("{\"a\":1,\"b\":2", "");
    mend_is("{\"v\":{\"n\":1},\"t\":{\"x\":{0:1},\"y\":{0:", "{\"v\":{\"n\":1},\"t\":{\"x\":{0:1}}}");
    mend_is("{\"t\":{\"a}\\\"{\":[1,[2]],\"b", "{\"t\":{\"a}\\\"{\":[1,[2]]}}");
    mend_is("{\"t\":[{\"a\":1}", "{\"t\":[{\"a\":1}]}");
    mend_is("{\"t\":{\"a\":{}}]", "{\"t\":{\"a\":{}}}");
    mend_is("{\"t\":{\"a\":{},\"b\":\x01{}", "{\"t\":{\"a\":{}}}");
    mend_is("}]", "");
    char deep[400];
    memset(deep, '[', sizeof deep - 1);
    deep[sizeof deep - 1] = 0;
    mend_is(deep, "");
}
