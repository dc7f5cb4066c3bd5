/* SPDX-License-Identifier: Apache-2.0 */
/* Text, numbers as Java reads them, Java's hash, CRC, names, addresses, ids. */
#include "helper.h"
#include <pthread.h>
#include "zl/text.h"

Test(text, compares)
{
    cr_assert(zl_eq_nocase(S("TrUe"), "true"));
    cr_assert_not(zl_eq_nocase(S("tru"), "true"));
    cr_assert_not(zl_eq_nocase(S("truee"), "true"));
    cr_assert(zl_starts(S("%RETRY%g"), "%RETRY%"));
    cr_assert_not(zl_starts(S("%RET"), "%RETRY%"));
    cr_assert(zl_ends(S("a.bak"), ".bak"));
    cr_assert_not(zl_ends(S("bak"), ".bak"));
    cr_assert_eq(zl_compare(S("a"), S("b")), -1);
    cr_assert_eq(zl_compare(S("ab"), S("a")), 1);
    cr_assert_eq(zl_compare(S("\xff"), S("a")), 1);
    cr_assert_eq(zl_compare(S(""), S("")), 0);
    cr_str_is(zl_trim(S(" \t a b\r\n")), "a b");
    cr_str_is(zl_trim(S("  ")), "");
}

Test(text, splits)
{
    struct zr_str rest = S("a;;b"), part;
    cr_assert(zl_split(&rest, ';', &part));
    cr_str_is(part, "a");
    cr_assert(zl_split(&rest, ';', &part));
    cr_str_is(part, "");
    cr_assert(zl_split(&rest, ';', &part));
    cr_str_is(part, "b");
    cr_assert_not(zl_split(&rest, ';', &part));
    rest = S("x;");
    cr_assert(zl_split(&rest, ';', &part));
    cr_assert(zl_split(&rest, ';', &part));
    cr_str_is(part, "");
    cr_assert_not(zl_split(&rest, ';', &part));
}

Test(text, reads_numbers_as_java)
{
    static const struct { const char *text; zr_status status; int64_t value; } rows[] = {
        { "0", ZR_OK, 0 }, { "+5", ZR_OK, 5 }, { "-5", ZR_OK, -5 }, { "007", ZR_OK, 7 },
        { "9223372036854775807", ZR_OK, INT64_MAX }, { "-9223372036854775808", ZR_OK, INT64_MIN },
        { "9223372036854775808", ZR_EINVAL, 0 }, { "-9223372036854775809", ZR_EINVAL, 0 },
        { "99999999999999999999", ZR_EINVAL, 0 }, { "", ZR_EINVAL, 0 }, { "-", ZR_EINVAL, 0 }, { "+", ZR_EINVAL, 0 },
        { " 1", ZR_EINVAL, 0 }, { "1 ", ZR_EINVAL, 0 }, { "1.0", ZR_EINVAL, 0 }, { "0x1", ZR_EINVAL, 0 }, { "--1", ZR_EINVAL, 0 },
    };
    for (size_t i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
        int64_t v = 0;
        cr_assert_eq(zl_parse_i64(zl_str(rows[i].text), &v), rows[i].status, "%s", rows[i].text);
        cr_assert_eq(v, rows[i].value, "%s", rows[i].text);
    }
    int32_t w;
    cr_assert_eq(zl_parse_i32(S("2147483647"), &w), ZR_OK);
    cr_assert_eq(zl_parse_i32(S("-2147483648"), &w), ZR_OK);
    cr_assert_eq(w, INT32_MIN);
    cr_assert_eq(zl_parse_i32(S("2147483648"), &w), ZR_EINVAL);
    cr_assert_eq(zl_parse_i32(S("-2147483649"), &w), ZR_EINVAL);
}

Test(text, prints_numbers)
{
    static const int64_t values[] = { 0, 7, 10, 99, 100, 101, 999, 1000, 123456, -1, -10, INT64_MAX, INT64_MIN };
    for (size_t i = 0; i < sizeof(values) / sizeof(values[0]); i++) {
        char got[21], want[32];
        got[zl_print_i64(got, values[i])] = 0;
        snprintf(want, sizeof(want), "%lld", (long long)values[i]);
        cr_assert_str_eq(got, want);
    }
}

Test(text, hashes_as_java)
{
    cr_assert_eq(zl_java_hash(S("")), 0);
    cr_assert_eq(zl_java_hash((struct zr_str){ NULL, 0 }), 0);
    cr_assert_eq(zl_java_hash(S("TagA")), 2598919);
    cr_assert_eq(zl_java_hash(S("TopicTest")), -1902610879);
    cr_assert_eq(zl_java_hash(S("\xe6\xa0\x87\xe7\xad\xbe")), 857175);     /* two characters of three bytes */
    cr_assert_eq(zl_java_hash(S("\xf0\x9f\x98\x80x")), 54959989);          /* a pair of surrogates, and x */
    /* What is no UTF-8 counts as U+FFFD, byte for byte. */
    cr_assert_eq(zl_java_hash(S("\xff")), 0xFFFD);
    cr_assert_eq(zl_java_hash(S("\xc3")), 0xFFFD);
    cr_assert_eq(zl_java_hash(S("\xe6\xa0")), 31 * 0xFFFD + 0xFFFD);
    cr_assert_eq(zl_java_hash(S("\xc0\x80")), 31 * 0xFFFD + 0xFFFD);
    cr_assert_eq(zl_java_hash(S("\x9f\x80")), 31 * 0xFFFD + 0xFFFD);
    cr_assert_eq(zl_java_hash(S("\xf4\x90\x80\x80")), ((31 * 0xFFFDLL + 0xFFFD) * 31 + 0xFFFD) * 31 + 0xFFFD); /* beyond U+10FFFF */
}

Test(text, hash_never_reads_beyond_its_text)
{
    for (unsigned first = 0x80; first < 0x100; first++) {
        for (uint64_t n = 1; n <= 4; n++) {
            uint8_t bytes[4] = { (uint8_t)first, 0x80, 0xBF, 0x80 };
            struct zr_span s = exact(bytes, n);
            zl_java_hash((struct zr_str){ (const char *)s.ptr, s.len });
            release(s);
        }
    }
}

Test(text, table_hash_is_stable_and_spreads)
{
    char key[32];
    uint64_t bits = 0;
    for (int i = 0; i < 64; i++) {
        int n = snprintf(key, sizeof(key), "topic-%d", i);
        uint64_t h = zl_hash(key, (uint64_t)n);
        cr_assert_eq(h, zl_hash(key, (uint64_t)n));
        bits |= 1ull << (h & 63);
    }
    cr_assert_gt(__builtin_popcountll(bits), 25); /* 40 of 64 are expected */
    for (uint64_t n = 0; n < 40; n++) {
        struct zr_span s = exact("0123456789012345678901234567890123456789", n);
        cr_assert_eq(zl_hash(s.ptr, n), zl_hash("0123456789012345678901234567890123456789", n));
        release(s);
    }
}

Test(text, crc_is_that_of_zlib)
{
    cr_assert_eq(zl_crc32(0, "123456789", 9), 0xCBF43926u);
    cr_assert_eq(zl_crc32(zl_crc32(0, "1234", 4), "56789", 5), 0xCBF43926u);
    cr_assert_eq(zl_crc32(0, NULL, 0), 0);
    cr_assert_eq(zl_crc32(5, NULL, 0), 5);
    cr_assert_eq(zl_crc32(0, "hello 0", 7) & 0x7FFFFFFF, 552077809u);
}

static void check_name(zr_status (*check)(struct zr_str, char *, uint64_t), const char *name, const char *want)
{
    char why[600] = "";
    cr_assert_eq(check(zl_str(name), why, sizeof(why)), *want ? ZR_EINVAL : ZR_OK, "%s", name);
    cr_assert_str_eq(why, want);
}

Test(text, checks_topics)
{
    char name[300], want[600];
    check_name(zl_topic_check, "%RETRY%a|b_C-9", "");
    check_name(zl_topic_check, "", "The specified topic is blank.");
    check_name(zl_topic_check, " \t", "The specified topic is blank.");
    check_name(zl_topic_check, "a.b", "The specified topic: a.b, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$");
    check_name(zl_topic_check, "a b", "The specified topic: a b, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$");
    memset(name, 'x', sizeof(name));
    name[127] = 0;
    check_name(zl_topic_check, name, "");
    name[127] = 'x';
    name[128] = 0;
    snprintf(want, sizeof(want), "The specified topic: %s, is longer than topic max length: 127", name);
    check_name(zl_topic_check, name, want);
    memset(name, 'x', sizeof(name));
    memcpy(name, "%DLQ%", 5);
    name[255] = 0;
    check_name(zl_topic_check, name, "");
    name[255] = 'x';
    name[256] = 0;
    snprintf(want, sizeof(want), "The specified topic is DLQ or Retry topic: %s, and it's longer than topic max length: 255", name);
    check_name(zl_topic_check, name, want);
}

Test(text, checks_groups)
{
    char name[200], want[400];
    check_name(zl_group_check, "GID-a_1", "");
    check_name(zl_group_check, "", "The specified group is blank.");
    check_name(zl_group_check, "g+h", "The specified group: g+h, contains illegal characters, allowing only ^[%|a-zA-Z0-9_-]+$");
    memset(name, 'g', sizeof(name));
    name[120] = 0;
    check_name(zl_group_check, name, "");
    name[120] = 'g';
    name[121] = 0;
    snprintf(want, sizeof(want), "The specified group: %s, is longer than group max length: 120", name);
    check_name(zl_group_check, name, want);
}

Test(text, a_reason_is_cut_to_its_buffer)
{
    char why[10];
    cr_assert_eq(zl_topic_check(S(""), why, sizeof(why)), ZR_EINVAL);
    cr_assert_str_eq(why, "The speci");
}

Test(text, reads_and_prints_addresses)
{
    static const char *const same[] = { "10.0.0.1:10911", "0.0.0.0:0", "255.255.255.255:65535", "[::1]:80", "[fe80::1:2]:9876" };
    for (size_t i = 0; i < sizeof(same) / sizeof(same[0]); i++) {
        struct zr_addr a;
        char text[56];
        cr_assert_eq(zl_addr_parse(zl_str(same[i]), &a), ZR_OK, "%s", same[i]);
        uint32_t n = zl_addr_print(text, &a);
        cr_str_is(((struct zr_str){ text, n }), same[i]);
    }
    struct zr_addr a;
    cr_assert_eq(zl_addr_parse(S("fe80::1:9876"), &a), ZR_OK); /* Java's way: cut at the last colon */
    cr_assert_eq(a.family, 6);
    cr_assert_eq(a.port, 9876);
}

Test(text, refuses_what_is_no_address)
{
    static const char *const bad[] = { "", ":", ":80", "1.2.3.4", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1", "1.2.3.4:+1", "1.2.3:80",
                                       "[::1:80", "[]:80", "[1.2.3.4]x:80", "host:80", "1.2.3.4:8o", "256.1.1.1:1",
                                       "1111111111111111111111111111111111111111111111111111111111111111:1" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct zr_addr a;
        cr_assert_eq(zl_addr_parse(zl_str(bad[i]), &a), ZR_EINVAL, "%s", bad[i]);
    }
    struct zr_addr a;
    cr_assert_eq(zl_addr_parse(S("1.2.3.4\0:80"), &a), ZR_EINVAL);
}

Test(text, offset_ids_both_ways)
{
    struct zr_addr host, back;
    char id[56];
    int64_t physical;
    cr_assert_eq(zl_addr_parse(S("10.0.0.1:10911"), &host), ZR_OK);
    uint32_t n = zl_offset_id(id, &host, 4096);
    cr_str_is(((struct zr_str){ id, n }), "0A00000100002A9F0000000000001000");
    cr_assert_eq(zl_offset_id_parse((struct zr_str){ id, n }, &back, &physical), ZR_OK);
    cr_assert_eq(physical, 4096);
    cr_assert_arr_eq(&back, &host, sizeof(host));

    cr_assert_eq(zl_addr_parse(S("[::1]:10911"), &host), ZR_OK);
    n = zl_offset_id(id, &host, INT64_MAX);
    cr_str_is(((struct zr_str){ id, n }), "0000000000000000000000000000000100002A9F7FFFFFFFFFFFFFFF");
    cr_assert_eq(zl_offset_id_parse((struct zr_str){ id, n }, &back, &physical), ZR_OK);
    cr_assert_eq(physical, INT64_MAX);
    cr_assert_arr_eq(&back, &host, sizeof(host));

    cr_assert_eq(zl_offset_id_parse(S("0a00000100002a9f0000000000001000"), &back, &physical), ZR_OK);
    cr_assert_eq(zl_offset_id_parse(S("0A00000100002A9F000000000000100"), &back, &physical), ZR_EINVAL);
    cr_assert_eq(zl_offset_id_parse(S("0A00000100002A9F00000000000010G0"), &back, &physical), ZR_EINVAL);
    cr_assert_eq(zl_offset_id_parse(S("0A000001FF002A9F0000000000001000"), &back, &physical), ZR_EINVAL);
    cr_assert_eq(zl_offset_id_parse(S(""), &back, &physical), ZR_EINVAL);
}

#define IDS 2000
static void *ids_make(void *to)
{
    for (int i = 0; i < IDS; i++) zl_unique_id((char *)to + 32 * i);
    return NULL;
}

static int ids_compare(const void *a, const void *b) { return memcmp(a, b, 32); }

Test(text, unique_ids_are_unique_across_threads)
{
    static char ids[4 * IDS][32];
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) pthread_create(&threads[i], NULL, ids_make, ids[i * IDS]);
    for (int i = 0; i < 4; i++) pthread_join(threads[i], NULL);
    qsort(ids, 4 * IDS, 32, ids_compare);
    for (int i = 0; i < 4 * IDS; i++) {
        for (int k = 0; k < 32; k++) cr_assert(strchr("0123456789ABCDEF", ids[i][k]));
        cr_assert(i == 0 || memcmp(ids[i - 1], ids[i], 32) != 0);
    }
}
