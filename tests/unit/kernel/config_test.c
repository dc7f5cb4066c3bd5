/* SPDX-License-Identifier: Apache-2.0 */
/* config_test.c - the tree, libconfig's reading, merging, option rows, nearest names, Apache's keys. Whole configurations and
 * their messages are in tests/plays/refusals_test.py. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>
#include "config/config.h"

static struct zk_conf *parse(const char *text) { return zk_conf_read_text("t.conf", zl_str(text), NULL); }

static struct zk_conf *at(struct zk_conf *root, const char *section, const char *key) { return zk_conf_get(zk_conf_get(root, section), key); }

/* ---- reading ---- */
Test(read, long_integers_are_not_cut)
{
    struct zk_conf *r = parse("# 3000000000 in a comment\n/* 3000000000 */ n = { a = 3000000000; b = -3000000000; c = 2147483647; d = 0xffffffff; e = 5L;\n"
                              "  f = \"3000000000 // in \\\" text\"; g = 1.5e3; h9000000000 = 1; i = 2147483648; };");
    cr_assert_not_null(r, "%s", zk_problems_text());
    cr_expect_eq(at(r, "n", "a")->i, 3000000000ll);
    cr_expect_eq(at(r, "n", "b")->i, -3000000000ll);
    cr_expect_eq(at(r, "n", "c")->i, 2147483647ll);
    cr_expect_eq(at(r, "n", "d")->i, 4294967295ll);
    cr_expect_eq(at(r, "n", "e")->i, 5);
    cr_expect_str_eq(at(r, "n", "f")->text.ptr, "3000000000 // in \" text");
    cr_expect_eq(at(r, "n", "g")->kind, ZK_CONF_FLOAT);
    cr_expect_eq(at(r, "n", "g")->f, 1500.0);
    cr_expect_eq(at(r, "n", "h9000000000")->i, 1);
    cr_expect_eq(at(r, "n", "i")->i, 2147483648ll);
    cr_expect_eq(at(r, "n", "f")->line, 3u, "lines stay right");
}

Test(read, every_value_knows_its_line)
{
    struct zk_conf *r = parse("node = {\n  a = 1;\n\n  b = [ \"x\",\n    \"y\" ];\n};\n");
    cr_assert_not_null(r);
    cr_expect_eq(at(r, "node", "a")->line, 2u);
    cr_expect_eq(at(r, "node", "b")->line, 4u);
    cr_expect_eq(at(r, "node", "b")->n, 2u);
    cr_expect_eq(at(r, "node", "b")->kind, ZK_CONF_LIST);
}

Test(read, faults_name_the_line)
{
    cr_expect_null(parse("a = 1;\nb = = 2;\n"));
    cr_expect(strncmp(zk_problems_text(), "t.conf:2: syntax error", 22) == 0, "%s", zk_problems_text());
    zk_problems_clear();
    cr_expect_null(parse("a = \"never ends"));
    cr_expect_eq(zk_n_problems(), 1u);
    zk_problems_clear();
    cr_expect_null(zk_conf_read_text("t.conf", (struct zr_str){ "a = 1;\0b = 2;", 13 }, NULL));
    cr_expect(strstr(zk_problems_text(), "NUL"));
    zk_problems_clear();
    cr_expect_null(parse("a = 18446744073709551616;"));
    cr_expect(strstr(zk_problems_text(), "beyond 64 bits"));
}

Test(merge, later_scalars_win_and_lists_grow)
{
    struct zk_conf *a = parse("node = { name = \"a\"; id = 1; }; plugins = ( { use = \"x\"; } );"), *b = zk_conf_read_text("b.conf", zl_str("node = { name = \"b\"; }; plugins = ( { use = \"y\"; } );"), NULL);
    zk_conf_merge(a, b);
    cr_expect_str_eq(at(a, "node", "name")->text.ptr, "b");
    cr_expect_str_eq(at(a, "node", "name")->file, "b.conf");
    cr_expect_eq(at(a, "node", "id")->i, 1);
    cr_expect_eq(zk_conf_get(a, "plugins")->n, 2u);
    zk_conf_merge(a, parse("node = 5;"));
    zk_conf_merge(a, parse("plugins = { };"));
    cr_expect(strstr(zk_problems_text(), "plugins: is written in another form"), "%s", zk_problems_text());
}

/* ---- nearest ---- */
Test(nearest, finds_slips_and_nothing_else)
{
    const char *names[] = { "segment_size", "flush", "listen", "log_level" };
    cr_expect_str_eq(zk_nearest("segmnet_size", names, 4), "segment_size");
    cr_expect_str_eq(zk_nearest("segment-size", names, 4), "segment_size");
    cr_expect_str_eq(zk_nearest("SegmentSize", names, 4), "segment_size");
    cr_expect_str_eq(zk_nearest("flsh", names, 4), "flush");
    cr_expect_null(zk_nearest("wholly_other", names, 4));
    cr_expect_null(zk_nearest("", names, 4));
    cr_expect_null(zk_nearest("x", names, 0));
}

/* ---- rows ---- */
struct settings { int64_t bytes, ms, ns, plain, mode; double share; struct zr_str text; struct zr_list list; uint8_t flag; };
static const char *const modes[] = { "async", "sync", NULL };
#define S struct settings
static const struct zr_option rows_of[] = {
    ZR_OPTION_ROW(S, bytes, "bytes", ZR_OPT_I64, 0, "1 GiB", "4 KiB", "4 TiB", "bytes", "B."),
    ZR_OPTION_ROW(S, ms, "ms", ZR_OPT_I64, 0, "5 s", "1 ms", "1 h", "ms", "M."),
    ZR_OPTION_ROW(S, ns, "ns", ZR_OPT_I64, 0, "1 us", NULL, NULL, "ns", "N."),
    ZR_OPTION_ROW(S, plain, "plain", ZR_OPT_I64, 0, "-3", "-10", NULL, NULL, "P."),
    ZR_OPTION_ENUM(S, mode, "mode", 0, "sync", modes, "E."),
    ZR_OPTION_ROW(S, share, "share", ZR_OPT_F64, 0, "0.25", "0", "1", NULL, "F."),
    ZR_OPTION_ROW(S, text, "text", ZR_OPT_STR, 0, NULL, NULL, NULL, NULL, "T."),
    ZR_OPTION_ROW(S, list, "list", ZR_OPT_LIST, 0, "a b  c", NULL, NULL, NULL, "L."),
    ZR_OPTION_ROW(S, flag, "flag", ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL, "B."),
};
#undef S
static const struct zk_rows rows = { rows_of, sizeof rows_of / sizeof *rows_of, sizeof(struct settings), "it" };

static uint32_t fill(const char *text, struct settings *s)
{
    char whole[512];
    snprintf(whole, sizeof whole, "it = { %s };", text);
    memset(s, 0, sizeof *s);
    zk_problems_clear();
    struct zk_conf *r = parse(whole);
    cr_assert_not_null(r, "%s", zk_problems_text());
    zk_rows_fill(&rows, zk_conf_get(r, "it"), "t.conf", 1, s, NULL);
    return zk_n_problems();
}

Test(rows, defaults_go_through_the_same_parser)
{
    struct settings s;
    cr_assert(zk_rows_sound(&rows, "t.conf", 1), "%s", zk_problems_text());
    cr_assert_eq(fill("", &s), 0u);
    cr_expect_eq(s.bytes, 1ll << 30);
    cr_expect_eq(s.ms, 5000);
    cr_expect_eq(s.ns, 1000);
    cr_expect_eq(s.plain, -3);
    cr_expect_eq(s.mode, 1);
    cr_expect_eq(s.share, 0.25);
    cr_expect_eq(s.flag, 1);
    cr_expect_eq(s.text.len, 0u);
    cr_expect_str_eq(s.text.ptr, "", "followed by a NUL, also when empty");
    cr_assert_eq(s.list.n, 3u);
    cr_expect(zl_is(s.list.items[2], "c"));
}

Test(rows, values_and_units)
{
    struct settings s;
    cr_assert_eq(fill("bytes = \"64KiB\"; ms = \"2 min\"; ns = \"3 ms\"; plain = 7; mode = \"async\"; share = 1; text = \"x y\"; list = \"one\"; flag = false;", &s), 0u, "%s", zk_problems_text());
    cr_expect_eq(s.bytes, 65536);
    cr_expect_eq(s.ms, 120000);
    cr_expect_eq(s.ns, 3000000);
    cr_expect_eq(s.plain, 7);
    cr_expect_eq(s.mode, 0);
    cr_expect_eq(s.share, 1.0);
    cr_expect_str_eq(s.text.ptr, "x y");
    cr_assert_eq(s.list.n, 1u);
    cr_expect_eq(s.flag, 0);
    cr_assert_eq(fill("bytes = 5000000000; ms = 250; list = []; share = 0.5;", &s), 0u);
    cr_expect_eq(s.bytes, 5000000000ll);
    cr_expect_eq(s.ms, 250);
    cr_expect_eq(s.list.n, 0u);
    cr_assert_eq(fill("bytes = \"1 MB\";", &s), 0u);
    cr_expect_eq(s.bytes, 1000000);
}

Test(rows, limits_hold_at_their_edges)
{
    struct settings s;
    cr_expect_eq(fill("bytes = 4096; ms = 3600000; plain = -10; share = 0.0;", &s), 0u);
    cr_expect_eq(fill("bytes = 4095;", &s), 1u);
    cr_expect_eq(fill("ms = 3600001;", &s), 1u);
    cr_expect_eq(fill("plain = -11;", &s), 1u);
    cr_expect_eq(fill("share = 1.0001;", &s), 1u);
    cr_expect_eq(fill("share = \"nan\";", &s), 1u);
    cr_expect_eq(fill("bytes = \"99999999999 TiB\";", &s), 1u);
    cr_expect_eq(fill("bytes = \"\";", &s), 1u);
    cr_expect_eq(fill("bytes = \"- 5\";", &s), 1u);
    cr_expect_eq(fill("text = { };", &s), 1u);
    cr_expect_eq(fill("a = 1; b = 2; bytes = 1;", &s), 3u, "all are reported");
}

Test(rows, unsound_rows_are_found)
{
    struct zr_option bad[2] = { rows_of[3], rows_of[3] };
    struct zk_rows r = { bad, 2, sizeof(struct settings), "it" };
    cr_expect_not(zk_rows_sound(&r, "f", 1), "the same name twice");
    bad[1].name = "other";
    cr_expect(zk_rows_sound(&r, "f", 1));
    bad[1].offset = sizeof(struct settings) - 4;
    cr_expect_not(zk_rows_sound(&r, "f", 1), "reaches beyond the struct");
    bad[1].offset = 4;
    cr_expect_not(zk_rows_sound(&r, "f", 1), "not aligned");
    bad[1] = rows_of[3];
    bad[1].name = "other";
    bad[1].type = 77;
    cr_expect_not(zk_rows_sound(&r, "f", 1), "unknown type");
    bad[1] = rows_of[4];
    bad[1].choices = NULL;
    cr_expect_not(zk_rows_sound(&r, "f", 1), "no choices");
    bad[1] = rows_of[3];
    bad[1].name = "other";
    bad[1].hdr.flags = 1;
    cr_expect_not(zk_rows_sound(&r, "f", 1), "must-understand flag");
    bad[0].hdr.size = 16;
    cr_expect_not(zk_rows_sound(&r, "f", 1), "rows smaller than this ABI's");
}

/* Rows of a later minor are larger; the step is theirs. */
Test(rows, larger_rows_are_stepped_over)
{
    struct { struct zr_option o; uint64_t later[4]; } larger[2] = { { rows_of[0], { 0 } }, { rows_of[3], { 0 } } };
    larger[0].o.hdr.size = larger[1].o.hdr.size = sizeof larger[0];
    struct zk_rows r = { &larger[0].o, 2, sizeof(struct settings), "it" };
    struct settings s = { 0 };
    cr_assert(zk_rows_sound(&r, "f", 1), "%s", zk_problems_text());
    zk_rows_fill(&r, NULL, "f", 1, &s, NULL);
    cr_expect_eq(s.plain, -3);
}

Test(rows, printed_values_mean_the_same_when_read)
{
    struct settings s, again;
    struct zl_buf out;
    char text[2048];
    cr_assert_eq(fill("bytes = 5000000001; ms = 90000; ns = 7; plain = -1; mode = \"async\"; share = 0.1; text = \"a\\\"b\\\\c\\nd\"; list = [ \"x\", \"y z\" ]; flag = false;", &s), 0u);
    zl_buf_init(&out, 4096);
    zk_rows_print(&rows, &s, "  ", &out);
    snprintf(text, sizeof text, "%.*s", (int)out.len, (char *)out.ptr);
    cr_assert_eq(fill(text, &again), 0u, "%s", zk_problems_text());
    cr_expect_eq(s.bytes, again.bytes);
    cr_expect_eq(s.ms, again.ms);
    cr_expect_eq(s.ns, again.ns);
    cr_expect_eq(s.share, again.share);
    cr_expect_eq(s.mode, again.mode);
    cr_expect_eq(s.flag, again.flag);
    cr_expect(zl_eq(s.text, again.text), "%s", again.text.ptr);
    cr_expect_eq(again.list.n, 2u);
    cr_expect(strstr(text, "ms = \"90 s\";"), "%s", text);
    zl_buf_free(&out);
}

/* ---- Apache's keys ---- */
Test(keys, are_sorted_whole_and_unique)
{
    cr_expect_geq(zk_n_apache_keys, 484u);
    for (uint32_t i = 0; i < zk_n_apache_keys; i++) {
        const struct zk_apache_key *k = &zk_apache_keys[i];
        cr_expect(i == 0 || strcmp(zk_apache_keys[i - 1].key, k->key) < 0, "%s", k->key);
        cr_expect(strchr("bilds", k->type) && k->flags & (ZK_KEY_BROKER | ZK_KEY_NAMESRV), "%s", k->key);
        cr_expect(k->how != ZK_KEY_PLUGIN || (k->as && k->option), "%s", k->key);
        cr_expect(!k->safe || (k->option && k->arg), "%s", k->key);
        cr_expect_eq(zk_apache_key(k->key), k);
    }
    const char *some[] = { "brokerClusterName", "flushDiskType", "storePathRootDir", "listenPort", "popFromRetryProbabilityForPriority", "haSlaveFallbehindMax", "timerRocksDBEnable", "kvConfigPath" };
    for (uint32_t i = 0; i < sizeof some / sizeof *some; i++)
        cr_expect_not_null(zk_apache_key(some[i]), "%s", some[i]);
    cr_expect_null(zk_apache_key("noSuchKey"));
}
