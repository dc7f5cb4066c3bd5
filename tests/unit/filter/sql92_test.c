/* SPDX-License-Identifier: Apache-2.0 */
/* filter-sql92, through its plugin entry as the host sees it. What the language means is judged beside Apache's own in
 * tests/interop/sql_test.py; here are the reference results, the places of faults, and the bounds. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include "zarya/zarya.h"
#include "zl/text.h"

static char raised[400];

static void fake_raise(const struct zr_host *host, const struct zr_error *error)
{
    (void)host;
    snprintf(raised, sizeof raised, "%.*s", (int)error->text.len, error->text.ptr);
}
static const struct zr_err_v1 fake_err = { ZR_HDR(struct zr_err_v1, 0), fake_raise };
static const void *fake_query(const struct zr_host *host, const char *id)
{
    (void)host;
    return strcmp(id, ZR_SVC_ERR) == 0 ? &fake_err : NULL;
}
static const struct zr_host fake_host = { ZR_HDR(struct zr_host, 0), NULL, fake_query, "filter-sql92", "/nonexistent" };

static const struct zr_filter_v1 *filter;
static struct zr_inst *inst;

ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor);

static void setup(void)
{
    const struct zr_plugin *plugin = zarya_plugin_entry_1(0);
    cr_assert(plugin->create(&fake_host, NULL, &inst) == ZR_OK);
    filter = plugin->query(inst, ZR_IF_FILTER);
    cr_assert(filter && !plugin->query(inst, "zarya.storage/1"));
}

static void teardown(void) { zarya_plugin_entry_1(0)->destroy(inst); }

TestSuite(sql92, .init = setup, .fini = teardown);

static zr_status compile_n(const char *text, uint64_t n, struct zr_prog **ret, uint64_t *ret_at)
{
    struct zr_expression e = { .hdr = ZR_HDR(struct zr_expression, 0), .language = zl_str("SQL92"), .text = { text, n } };
    *ret = NULL;
    raised[0] = 0;
    return filter->compile(inst, &e, ret, ret_at);
}

/* 'E' refused, 'Y' matches, 'N' does not. */
static char ask(const char *text, const char *properties)
{
    struct zr_prog *prog;
    uint64_t at;
    int64_t code = 1;
    uint8_t verdict = 99;
    if (compile_n(text, strlen(text), &prog, &at) != ZR_OK)
        return 'E';
    filter->by_tags(prog, &code, 1, &verdict);
    cr_expect(verdict == ZR_MATCH_ASK);
    char answer = filter->by_properties(prog, (struct zr_span){ (const uint8_t *)properties, strlen(properties) }) ==
                          ZR_MATCH_YES
                      ? 'Y'
                      : 'N';
    filter->free_prog(prog);
    return answer;
}

static const char *const given = "a\1" "7\2s\1" "abc\2f\1" "10.5\2t\1" "true\2big\1" "99999999999\2sp\1 5\2b7\1" "7\2";

Test(sql92, reference_results)
{
    static const struct { const char *text; char answer; } rows[] = {
        { "a >= -5", 'Y' }, { "a NOT BETWEEN 1 AND 5", 'Y' }, { "s > 5 OR a = 7", 'N' }, { "a = 7 OR s > 5", 'Y' },
        { "a = 7.0", 'Y' }, { "a = '7'", 'Y' }, { "f = 10.5", 'Y' }, { "t = 'true'", 'Y' }, { "big > 50000000000", 'Y' },
        { "big > 5L", 'N' }, { "a = TRUE", 'N' }, { "(a = 7) = TRUE", 'Y' }, { "a = b7", 'Y' }, { "a >= b7", 'Y' },
        { "1 < 2", 'Y' }, { "NULL IS NULL", 'Y' }, { "a = 7 = TRUE", 'Y' }, { "A > 5", 'N' }, { "NOT a = 7", 'N' },
        { "NOT (a = 5)", 'Y' }, { "NOT (nope = 5)", 'N' }, { "nope IS NULL", 'Y' }, { "a IS NOT NULL", 'Y' },
        { "5 <> nope", 'Y' }, { "nope <> 5", 'N' }, { "nope = nope2", 'Y' }, { "s IN ('abc', 'x')", 'Y' },
        { "s NOT IN ('x')", 'Y' }, { "nope NOT IN ('x')", 'N' }, { "s CONTAINS 'b'", 'Y' }, { "s STARTSWITH 'ab'", 'Y' },
        { "s ENDSWITH 'bc'", 'Y' }, { "nope NOT CONTAINS 'x'", 'N' }, { "NOT (nope CONTAINS 'x')", 'Y' },
        { "s NOT CONTAINS ''", 'N' }, { "sp > 4", 'N' }, { "sp > 4.0", 'Y' }, { "a", 'N' }, { "t = TRUE", 'Y' },
        { "TRUE = t", 'N' }, { "a > 5 garbage", 'Y' }, { "a = 7 )", 'Y' }, { "a BETWEEN 1 AND 10 AND s = 'abc'", 'Y' },
        { "nope > 5 IS NULL", 'Y' }, { "-a < 5", 'N' }, { "a between 7 and 7.0", 'Y' }, { "a > 'x'", 'E' }, { "a = NULL", 'E' },
        { "TRUE = 5", 'E' }, { "a IN (7)", 'E' }, { "5 IN ('5')", 'E' }, { "a = 0.0", 'E' }, { "a != 7", 'E' },
        { "a BETWEEN 10 AND 1", 'E' }, { "5", 'E' }, { "'x'", 'E' }, { "", 'E' }, { "a = 9223372036854775808", 'E' },
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++)
        cr_expect(ask(rows[i].text, given) == rows[i].answer, "%s", rows[i].text);
}

Test(sql92, the_last_of_two_properties_counts)
{
    cr_expect(ask("a = 2", "a\1" "1\2a\1" "2\2") == 'Y');
    cr_expect(ask("a = 2", "a\1" "1\2a\1" "2") == 'Y'); /* without its end */
    cr_expect(ask("a IS NULL", "") == 'Y');
}

Test(sql92, faults_are_told_with_their_place)
{
    static const struct { const char *text; uint64_t at; const char *says; } rows[] = {
        { "a = ", 4, "line 1, column 5 (byte 4): the expression ends too early" },
        { "a >\n  AND", 6, "line 2, column 3 (byte 6): \"AND\" cannot stand here" },
        { "a = 'x", 4, "line 1, column 5 (byte 4): a string that does not end" },
        { "\xC3\xA9", 0, "line 1, column 1 (byte 0): a character that means nothing here" },
        { "s = '\xC3\xA9' AND a > 'x'", 17, "line 1, column 17 (byte 17): only numbers" },
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct zr_prog *prog;
        uint64_t at = 99;
        cr_expect(compile_n(rows[i].text, strlen(rows[i].text), &prog, &at) == ZR_EINVAL, "%s", rows[i].text);
        cr_expect(at == rows[i].at, "%s: %llu", rows[i].text, (unsigned long long)at);
        cr_expect(strncmp(raised, rows[i].says, strlen(rows[i].says)) == 0, "%s: %s", rows[i].text, raised);
        cr_expect(!prog);
    }
}

static zr_status compile_many(const char *first, const char *again, uint32_t n, const char *last)
{
    uint64_t one = strlen(again), len = 0;
    char *text = malloc(strlen(first) + n * one + strlen(last) + 1);
    struct zr_prog *prog;
    uint64_t at;
    len = (uint64_t)sprintf(text, "%s", first);
    for (uint32_t i = 0; i < n; i++, len += one)
        memcpy(text + len, again, one);
    len += (uint64_t)sprintf(text + len, "%s", last);
    zr_status status = compile_n(text, len, &prog, &at);
    if (status == ZR_OK) {
        uint32_t verdict = filter->by_properties(prog, (struct zr_span){ (const uint8_t *)given, strlen(given) });
        cr_expect(verdict == ZR_MATCH_YES || verdict == ZR_MATCH_NO);
        filter->free_prog(prog);
    } else {
        cr_expect(raised[0] && !prog);
    }
    free(text);
    return status;
}

Test(sql92, bombs_are_refused_and_what_is_large_but_honest_is_not)
{
    cr_expect(compile_many("a = 1", " OR a = 1", 7000, "") == ZR_OK);
    cr_expect(compile_many("a = 1", " OR a = 1", 8000, "") == ZR_EFULL); /* more than 64 KiB */
    cr_expect(compile_many("s IN ('x'", ",'y'", 16000, ")") == ZR_OK);
    cr_expect(compile_many("", "(", 60000, "a") == ZR_EFULL);
    cr_expect(compile_many("", "NOT ", 10000, "a") == ZR_EFULL);
    cr_expect(compile_many("", "-", 60000, "a") == ZR_EFULL);
    cr_expect(compile_many("", "a = 1 OR (", 5000, "a") == ZR_EFULL);
    cr_expect(compile_many("", "((((", 50, "a = 7") == ZR_EINVAL); /* deep, but what fails is the missing end */
    cr_expect(compile_many("-", "(-", 300, "a") == ZR_EINVAL);
    cr_expect(compile_many("a = 0.", "0", 500, "1") == ZR_EFULL);
    char many[4096] = "p0 = 1";
    for (uint32_t i = 1, len = 6; i < 251; i++)
        len += (uint32_t)sprintf(many + len, " OR p%u = 1", i);
    struct zr_prog *prog;
    uint64_t at;
    cr_expect(compile_n(many, strlen(many), &prog, &at) == ZR_EFULL && strstr(raised, "250 different properties"));
}

Test(sql92, other_languages_are_refused)
{
    struct zr_expression e = { .hdr = ZR_HDR(struct zr_expression, 0), .language = zl_str("TAG"), .text = zl_str("a") };
    struct zr_prog *prog = NULL;
    uint64_t at;
    cr_expect(filter->compile(inst, &e, &prog, &at) == ZR_EINVAL && !prog);
}

Test(sql92, numbers_are_javas)
{
    static const struct { const char *value, *text; char answer; } rows[] = {
        { "+5", "x = 5", 'Y' }, { "5L", "x = 5", 'N' }, { "5d", "x = 5.0", 'Y' }, { "0x1p3", "x = 8.0", 'Y' },
        { "0x10", "x = 16.0", 'N' }, { "NaN", "x > 5.0", 'Y' }, { "nan", "x > 5.0", 'N' }, { "Infinity", "x > 5.0", 'Y' },
        { "-Infinity", "x < 5.0", 'Y' }, { "inf", "x > 5.0", 'N' }, { "2147483648", "x > 5", 'N' },
        { "2147483648", "x > 5000000000", 'N' }, { "-0.0", "x < 5.0", 'Y' }, { "9007199254740993", "x = 9007199254740993", 'Y' },
        { "9007199254740993", "x = 9007199254740992.0", 'Y' }, { "00000000000000000000000000000000000000000000000000000000000000000000000007", "x = 7", 'Y' },
        { "\xEF\xBC\x91\xEF\xBC\x92", "x = 12", 'Y' }, { "\xD9\xA3", "x = 3", 'Y' }, { "\xD9\xA3", "x = 3.0", 'N' },
        { "", "x IS NULL", 'Y' }, { "-", "x = 5", 'N' }, { "+-5", "x = 5", 'N' }, { "1e400", "x > 5.0", 'Y' },
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char properties[200];
        snprintf(properties, sizeof properties, "x\1%s\2", rows[i].value);
        cr_expect(ask(rows[i].text, properties) == rows[i].answer, "%s with %s", rows[i].text, rows[i].value);
    }
}

/* ---- what a run may take ---- */
#define MANY_DIGITS 32000u

static struct zr_prog *compiled(const char *text)
{
    struct zr_prog *prog;
    uint64_t at;
    cr_assert(compile_n(text, strlen(text), &prog, &at) == ZR_OK, "%s", raised);
    return prog;
}

/* term again and again, joined by OR, as much as an expression may have. */
static char *repeated(const char *term, uint32_t *ret_n)
{
    uint64_t one = strlen(term) + 4, n = (63u * 1024) / one;
    char *text = malloc(n * one + 1), *to = text;
    for (uint64_t i = 0; i < n; i++)
        to += sprintf(to, "%s%s", term, i + 1 < n ? " OR " : "");
    *ret_n = (uint32_t)n;
    return text;
}

/* name = first, then so many of rest. */
static char *long_property(const char *name, const char *first, char rest, uint32_t n)
{
    char *props = malloc(strlen(name) + strlen(first) + n + 3), *to = props;
    to += sprintf(to, "%s\1%s", name, first);
    memset(to, rest, n);
    memcpy(to + n, "\2", 2);
    return props;
}

static uint64_t steps_of(const struct zr_prog *prog, const char *props, uint32_t *ret_verdict)
{
    uint64_t steps = ZR_FILTER_STEPS;
    *ret_verdict = filter->by_properties_within(prog, (struct zr_span){ (const uint8_t *)props, strlen(props) }, &steps);
    return ZR_FILTER_STEPS - steps;
}

Test(sql92, a_property_is_read_as_a_number_once_in_a_run)
{
    static const char *const terms[] = { "a<1.5", "1.5 > a", "a < a2", "a=5000000000" };
    for (uint32_t i = 0; i < sizeof terms / sizeof terms[0]; i++) {
        uint32_t n, verdict;
        char *text = repeated(terms[i], &n), *props = long_property("a2\1" "1\2a", i == 3 ? "" : "1", '0', i == 3 ? MANY_DIGITS : 60);
        struct zr_prog *prog = compiled(text);
        uint64_t few = steps_of(prog, "a2\1" "1\2a\1" "2\2", &verdict);
        cr_expect(verdict == ZR_MATCH_NO);
        uint64_t more = steps_of(prog, props, &verdict);
        cr_expect(verdict == ZR_MATCH_NO);
        cr_expect(more - few < MANY_DIGITS / 4, "%s: %llu steps more for %u comparisons", terms[i], (unsigned long long)(more - few), n);
        free(props);
        props = long_property("a2\1" "1\2a", "1", '0', i == 3 ? 17 : MANY_DIGITS);
        more = steps_of(prog, props, &verdict);
        cr_expect(verdict == ZR_MATCH_NO && more - few < MANY_DIGITS / 4, "%s", terms[i]);
        filter->free_prog(prog);
        free(props);
        free(text);
    }
}

Test(sql92, a_run_takes_no_more_than_its_steps)
{
    uint32_t n, verdict;
    char *text = repeated("a CONTAINS 'xxxxxxxy'", &n), *props = long_property("a", "", 'x', MANY_DIGITS);
    struct zr_prog *prog = compiled(text);
    struct zr_span span = { (const uint8_t *)props, strlen(props) };
    cr_expect(steps_of(prog, props, &verdict) == ZR_FILTER_STEPS && verdict == ZR_MATCH_ASK);
    cr_expect(filter->by_properties(prog, span) == ZR_MATCH_NO);
    filter->free_prog(prog);
    free(text);
    prog = compiled("a = 1 OR b > 5");
    uint64_t whole = steps_of(prog, "a\1" "2\2b\1" "6\2", &verdict);
    cr_expect(verdict == ZR_MATCH_YES);
    span = (struct zr_span){ (const uint8_t *)"a\1" "2\2b\1" "6\2", 8 };
    for (uint64_t have = 0; have < whole; have++) { /* undecided with one step less, and nothing is left */
        uint64_t steps = have;
        cr_expect(filter->by_properties_within(prog, span, &steps) == ZR_MATCH_ASK && steps == 0);
    }
    uint64_t steps = whole;
    cr_expect(filter->by_properties_within(prog, span, &steps) == ZR_MATCH_YES && steps == 0);
    filter->free_prog(prog);
    free(props);
}

/* Between 2^53 and its neighbour lies 9007199254740993: what rounds it up may stand far behind. */
Test(sql92, fractions_of_many_digits_round_as_the_whole)
{
    static const struct { const char *text, *head; char fill; const char *tail; } rows[] = {
        { "x = 9007199254740992.0", "9007199254740993.", '0', "" }, { "x = 9007199254740994.0", "9007199254740993.", '0', "1" },
        { "x = 9007199254740994.0", "+9007199254740993.", '0', "1f" }, { "x = 9007199254740992.0", "9007199254740992.", '9', "" },
        { "x = 1.5", "0.", '0', "15e30001" }, { "x = 1.5", "15", '0', "e-30001" }, { "x > 1.0e308", "1", '0', "" },
        { "x = 0.125", "00000000125", '0', "e-0000000000030003" }, { "x = 12.5", "0000000", '0', "12.5" },
        { "x < 5.0e-324", "0.", '0', "1" }, { "x < 5.0e-324", "1", '0', "e-99999999999999999999999" }, { "x > 1.0e308", "1", '0', "e99999999999999999999" },
        { "-x > 1.0", "-1", '0', "." }, { "x = 8.0", "0x8.", '0', "p0" },
    };
    for (uint32_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        char *props = malloc(30100), *to = props;
        to += sprintf(to, "x\1%s", rows[i].head);
        memset(to, rows[i].fill, 30000);
        sprintf(to + 30000, "%s\2", rows[i].tail);
        if (rows[i].fill == '9') /* all nines: next to the tie, below it, of 2^53 + 1 - 2e-30000 */
            props[2 + 15] = '2';
        cr_expect(ask(rows[i].text, props) == (rows[i].text[0] == '-' ? 'N' : 'Y'), "row %u", i);
        free(props);
    }
}
