/* SPDX-License-Identifier: Apache-2.0 */
/* Properties text reads as java.util.Properties reads it. */
#include "helper.h"
#include "zl/conf.h"
#include "zl/text.h"

/* "key=value|key=value", with the given text in memory of exactly its size. */
static void check(const char *text, uint64_t len, const char *want)
{
    struct zr_span source = exact(text, len);
    struct zl_property *rows;
    uint32_t n, line = 0;
    struct zl_buf got;
    zl_buf_init(&got, 1u << 16);
    cr_assert_eq(zl_properties_parse((struct zr_str){ (const char *)source.ptr, len }, &rows, &n, &line), ZR_OK, "line %u", line);
    for (uint32_t i = 0; i < n; i++) {
        if (i) zl_buf_u8(&got, '|');
        zl_buf_str(&got, rows[i].key);
        zl_buf_u8(&got, '=');
        zl_buf_str(&got, rows[i].value);
    }
    cr_str_is(zl_buf_as_str(&got), want);
    zl_buf_free(&got);
    free(rows);
    release(source);
}
#define CHECK(text, want) check(text, sizeof(text) - 1, want)

Test(conf, plain_rows) { CHECK("brokerName=broker-a\nlistenPort = 10911\r\nx:y\rz w v\n", "brokerName=broker-a|listenPort=10911|x=y|z=w v"); }
Test(conf, nothing) { CHECK("", ""); CHECK("\n\n  \n", ""); CHECK("# only\n! comments", ""); }
Test(conf, comments_and_blanks) { CHECK("  # a=b\n\t! c\n  k = v  \n#", "k=v  "); }
Test(conf, only_the_first_separator_separates) { CHECK("a=b=c\nd : = e\nf  g=h\n=x\n", "a=b=c|d== e|f=g=h|=x"); }
Test(conf, a_key_without_value) { CHECK("alone\nalso=\nlast", "alone=|also=|last="); }
Test(conf, escapes) { CHECK("a\\=b\\ c\\:d=\\t\\n\\\\x\\q\\u0041\n", "a=b c:d=\t\n\\xqA"); }
Test(conf, unicode) { CHECK("k=\\u6807\\ud83d\\ude00\\ud83d!\xe6\xa0\x87", "k=\xe6\xa0\x87\xf0\x9f\x98\x80\xef\xbf\xbd!\xe6\xa0\x87"); }
Test(conf, an_editors_mark_at_the_head) { CHECK("\xEF\xBB\xBFk=v\nb=\xEF\xBB\xBFx", "k=v|b=\xEF\xBB\xBFx"); CHECK("\xEF\xBB\xBF# a\nk=v", "k=v"); CHECK("\xEF\xBB\xBF", ""); }
Test(conf, continued_lines) { CHECK("a=1,\\\n   2,\\\r\n\t3\nb=x\\\\\nc=y", "a=1,2,3|b=x\\|c=y"); }
Test(conf, a_continued_line_is_no_comment) { CHECK("a=1\\\n#2\nb=3", "a=1#2|b=3"); }
Test(conf, a_blank_line_ends_a_continuation) { CHECK("a=1\\\n\nb=2", "a=1|b=2"); }
Test(conf, a_backslash_at_the_end) { CHECK("a=1\\", "a=1"); }

Test(conf, names_the_line_of_a_bad_escape)
{
    struct zl_property *rows;
    uint32_t n, line = 0;
    cr_assert_eq(zl_properties_parse(S("a=1\n# x\nb=\\u12G4\n"), &rows, &n, &line), ZR_EINVAL);
    cr_assert_eq(line, 3);
    cr_assert_eq(zl_properties_parse(S("b=\\u12"), &rows, &n, &line), ZR_EINVAL);
    cr_assert_eq(line, 1);
}

Test(conf, counts_lines_through_continuations)
{
    struct zl_property *rows;
    uint32_t n, line;
    cr_assert_eq(zl_properties_parse(S("\na=1\\\n2\r\n\r\nb=3"), &rows, &n, &line), ZR_OK);
    cr_assert_eq(n, 2);
    cr_assert_eq(rows[0].line, 2);
    cr_assert_eq(rows[1].line, 5);
    free(rows);
}
