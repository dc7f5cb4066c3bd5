/* SPDX-License-Identifier: Apache-2.0 */
/* filter-tag, through its plugin entry as the host sees it. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include "zarya/zarya.h"
#include "zl/text.h"

static char raised[256];
static zr_status raised_status;

static void fake_raise(const struct zr_host *host, const struct zr_error *error)
{
    (void)host;
    raised_status = error->status;
    snprintf(raised, sizeof raised, "%.*s", (int)error->text.len, error->text.ptr);
}
static const struct zr_err_v1 fake_err = { ZR_HDR(struct zr_err_v1, 0), fake_raise };
static const void *fake_query(const struct zr_host *host, const char *id)
{
    (void)host;
    return strcmp(id, ZR_SVC_ERR) == 0 ? &fake_err : NULL;
}
static const struct zr_host fake_host = { ZR_HDR(struct zr_host, 0), NULL, fake_query, "filter-tag", "/nonexistent" };

static const struct zr_plugin *plugin;
static const struct zr_filter_v1 *filter;
static struct zr_inst *inst;

static void setup(void)
{
    plugin = zarya_plugin_entry_1(ZR_ABI_MINOR);
    cr_assert_eq(plugin->create(&fake_host, NULL, &inst), ZR_OK);
    filter = plugin->query(inst, ZR_IF_FILTER);
    cr_assert_not_null(filter);
    cr_assert_null(plugin->query(inst, "zarya.filter/2"));
    raised[0] = 0;
}
static void teardown(void) { plugin->destroy(inst); }
TestSuite(tag, .init = setup, .fini = teardown);

static struct zr_prog *compile(const char *text, const int32_t *codes, uint32_t n_codes)
{
    struct zr_expression e = { ZR_HDR(struct zr_expression, 0), ZR_STR("TAG"), zl_str(text), codes, n_codes, 0 };
    struct zr_prog *prog = NULL;
    uint64_t at = 99;
    cr_assert_eq(filter->compile(inst, &e, &prog, &at), ZR_OK, "%s: %s", text, raised);
    cr_assert_not_null(prog);
    return prog;
}

static uint8_t judge(const struct zr_prog *prog, int64_t code)
{
    uint8_t v = 77;
    filter->by_tags(prog, &code, 1, &v);
    return v;
}

static uint8_t judge_tag(const char *expression, const char *tag)
{
    struct zr_prog *prog = compile(expression, NULL, 0);
    uint8_t v = judge(prog, zl_java_hash(zl_str(tag)));
    filter->free_prog(prog);
    return v;
}

Test(tag, star_and_empty_match_everything)
{
    const int32_t code = 5;
    const char *all[] = { "*", "" };
    for (int i = 0; i < 2; i++) {
        struct zr_prog *prog = compile(all[i], &code, 1);
        cr_expect_eq(judge(prog, 0), ZR_MATCH_YES);
        cr_expect_eq(judge(prog, 123456), ZR_MATCH_YES);
        cr_expect_eq(filter->by_properties(prog, (struct zr_span){ NULL, 0 }), ZR_MATCH_YES);
        filter->free_prog(prog);
    }
}

Test(tag, known_java_hashes)
{
    struct zr_prog *prog = compile("TagA || TagB", NULL, 0);
    cr_expect_eq(judge(prog, 2598919), ZR_MATCH_YES); /* "TagA".hashCode() */
    cr_expect_eq(judge(prog, 2598920), ZR_MATCH_YES);
    cr_expect_eq(judge(prog, 2598921), ZR_MATCH_NO);
    cr_expect_eq(judge(prog, 0), ZR_MATCH_NO);
    filter->free_prog(prog);
}

Test(tag, text_is_split_and_trimmed_as_java_does)
{
    cr_expect_eq(judge_tag("A||B", "B"), ZR_MATCH_YES);
    cr_expect_eq(judge_tag(" A  ||\t\001B\r\n", "B"), ZR_MATCH_YES);
    cr_expect_eq(judge_tag("||A||", "A"), ZR_MATCH_YES);
    cr_expect_eq(judge_tag("||A||", ""), ZR_MATCH_NO);
    cr_expect_eq(judge_tag("A|B", "A"), ZR_MATCH_NO);
    cr_expect_eq(judge_tag("A|B", "A|B"), ZR_MATCH_YES);
    cr_expect_eq(judge_tag(" || ", ""), ZR_MATCH_NO, "blank parts make an empty set, which matches nothing");
    cr_expect_eq(judge_tag(" * ", "other"), ZR_MATCH_NO, "only the bare star means all");
}

Test(tag, bars_alone_are_refused)
{
    const char *bad[] = { "||", "||||" };
    for (int i = 0; i < 2; i++) {
        struct zr_expression e = { ZR_HDR(struct zr_expression, 0), ZR_STR("TAG"), zl_str(bad[i]), NULL, 0, 0 };
        struct zr_prog *prog = NULL;
        uint64_t at = 99;
        cr_expect_eq(filter->compile(inst, &e, &prog, &at), ZR_EINVAL);
        cr_expect_null(prog);
        cr_expect_eq(at, 0);
        cr_expect_str_eq(raised, "subString split error");
        cr_expect_eq(raised_status, ZR_EINVAL);
    }
}

Test(tag, other_languages_are_refused)
{
    struct zr_expression e = { ZR_HDR(struct zr_expression, 0), ZR_STR("SQL92"), ZR_STR("a > 1"), NULL, 0, 0 };
    struct zr_prog *prog = NULL;
    uint64_t at;
    cr_expect_eq(filter->compile(inst, &e, &prog, &at), ZR_EINVAL);
    e.language = (struct zr_str){ NULL, 0 };
    cr_expect_eq(filter->compile(inst, &e, &prog, &at), ZR_OK, "no language means TAG");
    filter->free_prog(prog);
}

Test(tag, codes_win_over_text)
{
    const int32_t codes[] = { -7, 9 };
    struct zr_prog *prog = compile("TagA", codes, 2);
    cr_expect_eq(judge(prog, -7), ZR_MATCH_YES);
    cr_expect_eq(judge(prog, 9), ZR_MATCH_YES);
    cr_expect_eq(judge(prog, 2598919), ZR_MATCH_NO);
    filter->free_prog(prog);
}

Test(tag, extension_addresses_match)
{
    int32_t many[40];
    for (int i = 0; i < 40; i++)
        many[i] = i + 1;
    struct zr_prog *progs[] = { compile("A", NULL, 0), compile("x", many, 40), compile(" || ", NULL, 0) };
    for (int i = 0; i < 3; i++) {
        cr_expect_eq(judge(progs[i], -2147483649LL), ZR_MATCH_YES);
        cr_expect_eq(judge(progs[i], INT64_MIN), ZR_MATCH_YES);
        cr_expect_eq(judge(progs[i], -2147483648LL), ZR_MATCH_NO);
        filter->free_prog(progs[i]);
    }
}

/* Every size of set against a plain search, so that each of the four ways to look up is walked with hits and misses. */
Test(tag, all_sizes_agree_with_a_plain_search)
{
    const uint32_t sizes[] = { 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 100, 1000, 4096 };
    enum { N = 3000 };
    static int64_t codes[N];
    static uint8_t verdicts[N];
    static int32_t set[4096];
    uint64_t x = 88172645463325252ull;
    for (uint32_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        uint32_t yes = 0;
        for (uint32_t i = 0; i < sizes[s]; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            set[i] = (int32_t)x;
        }
        set[0] = INT32_MIN;
        for (uint32_t i = 0; i < N; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            codes[i] = i % 3 == 0 ? set[x % sizes[s]] : (int32_t)x;
        }
        struct zr_prog *prog = compile("text", set, sizes[s]);
        filter->by_tags(prog, codes, N, verdicts);
        for (uint32_t i = 0; i < N; i++) {
            uint8_t expect = ZR_MATCH_NO;
            for (uint32_t j = 0; j < sizes[s]; j++)
                if (set[j] == codes[i])
                    expect = ZR_MATCH_YES;
            yes += expect;
            cr_assert_eq(verdicts[i], expect, "size %u entry %u", sizes[s], i);
        }
        cr_expect_geq(yes, N / 3);
        filter->free_prog(prog);
    }
}

Test(tag, properties)
{
    struct zr_prog *prog = compile("TagA", NULL, 0);
    const struct { const char *text; uint32_t expect; } cases[] = {
        { "KEYS\001k\002TAGS\001TagA\002WAIT\001true\002", ZR_MATCH_YES },
        { "TAGS\001TagA", ZR_MATCH_YES }, /* 4.9 leaves the last separator out */
        { "TAGS\001TagB\002", ZR_MATCH_NO },
        { "XTAGS\001TagA\002", ZR_MATCH_NO },
        { "A\001TAGS\002", ZR_MATCH_NO },
        { "TAGS\001TagB\002TAGS\001TagA\002", ZR_MATCH_YES }, /* the last counts */
        { "TAGS\001\002", ZR_MATCH_NO },
        { "TAGS", ZR_MATCH_NO },
        { "", ZR_MATCH_NO },
    };
    for (uint32_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct zr_span span = { (const uint8_t *)cases[i].text, strlen(cases[i].text) };
        uint8_t *exact = malloc(span.len ? span.len : 1); /* so that the sanitizer sees a read beyond the end */
        memcpy(exact, span.ptr, span.len);
        cr_expect_eq(filter->by_properties(prog, (struct zr_span){ exact, span.len }), cases[i].expect, "case %u", i);
        free(exact);
    }
    filter->free_prog(prog);
}

Test(tag, bounds)
{
    struct zr_expression e = { ZR_HDR(struct zr_expression, 0), ZR_STR("TAG"), { NULL, 0 }, NULL, 0, 0 };
    struct zr_prog *prog = NULL;
    uint64_t at;
    uint64_t len = 0;
    char *text = malloc(70000);
    for (int i = 0; i < 4096; i++)
        len += (uint64_t)sprintf(text + len, "t%d||", i);
    e.text = (struct zr_str){ text, len };
    cr_expect_eq(filter->compile(inst, &e, &prog, &at), ZR_OK);
    filter->free_prog(prog);
    prog = NULL;
    uint64_t first_too_many = len;
    len += (uint64_t)sprintf(text + len, "last");
    e.text.len = len;
    cr_expect_eq(filter->compile(inst, &e, &prog, &at), ZR_EFULL);
    cr_expect_eq(at, first_too_many);
    cr_expect_null(prog);
    memset(text, 'x', 70000);
    e.text.len = 65537;
    cr_expect_eq(filter->compile(inst, &e, &prog, &at), ZR_EFULL);
    free(text);
}
