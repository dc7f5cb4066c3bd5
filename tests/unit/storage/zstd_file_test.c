/* SPDX-License-Identifier: Apache-2.0 */
/* zstd_file_test.c - packed files by themselves (zp.h): what goes in comes out to the byte, whatever it was; and whatever is
 * done to a packed file, no wrong byte is ever given out and what is whole of it still is. */
#include <errno.h>
#include "zstd_test.h"

#define SIZE (512 * 1024)

static const struct zp_conf conf = { .level = 3, .dict_size = 16384, .block_size = 8192 };

struct sample {
    char dir[256], plain[300], packed[300], again[300];
    uint8_t *bytes;
};

enum kind { JSON, RANDOM, DAMAGED, ZEROES, LARGE, NOISE };

static uint64_t put_record(uint8_t *to, int64_t base, uint64_t at, enum kind kind, unsigned *seed, uint32_t n)
{
    static uint8_t body[200000];
    uint64_t len = kind == LARGE ? 60000 + (uint64_t)rand_r(seed) % 60000 : 200 + (uint64_t)rand_r(seed) % 800;
    for (uint64_t i = 0; i < len; i++)
        body[i] = (uint8_t)rand_r(seed);
    for (uint64_t i = 0; kind != RANDOM && i < len;) {
        static const char *const names[] = { "order", "customer", "address", "quantity", "currency", "shipped", "warehouse", "remark" };
        char text[64];
        int k = snprintf(text, sizeof text, "\"%s\":\"%x\",", names[rand_r(seed) % 8], (unsigned)rand_r(seed) % 100000);
        for (int c = 0; c < k && i < len; c++) body[i++] = (uint8_t)text[c];
    }
    struct zr_msg m = msg_of("T", 0, body, len, "TAGS\001a\002");
    uint64_t size = zl_record_size(&m);
    if (at + size + 8 > SIZE) return 0;
    zl_record_encode(to + at, &m);
    zl_record_finish(to + at, n, base + (int64_t)at, 1700000000000);
    return size;
}

static void sample_make(struct sample *s, const char *name, enum kind kind, unsigned seed)
{
    int64_t base = 3ll * SIZE;
    uint64_t at = 0, size;
    snprintf(s->dir, sizeof s->dir, "/tmp/zp-test-%d-%s", (int)getpid(), name);
    remove_tree(s->dir);
    cr_assert_eq(zl_io_posix()->mkdir(NULL, s->dir, 0755), 0);
    snprintf(s->plain, sizeof s->plain, "%s/%020lld", s->dir, (long long)base);
    snprintf(s->packed, sizeof s->packed, "%s.zst", s->plain);
    snprintf(s->again, sizeof s->again, "%s/again", s->dir);
    s->bytes = calloc(1, SIZE);
    for (uint32_t n = 0; kind != ZEROES && (size = put_record(s->bytes, base, at, kind, &seed, n)) > 0; n++) at += size;
    if (kind != ZEROES) {
        zl_store32(s->bytes + at, (uint32_t)(SIZE - at));
        zl_store32(s->bytes + at + 4, ZL_MAGIC_BLANK);
    }
    for (int i = 0; kind == NOISE && i < SIZE; i++) s->bytes[i] = (uint8_t)rand_r(&seed);
    for (int i = 0; kind == DAMAGED && i < 40; i++) {
        uint64_t where = (uint64_t)rand_r(&seed) % (SIZE - 5000), len = 1 + (uint64_t)rand_r(&seed) % 5000;
        if (i % 2) memset(s->bytes + where, 0, len);
        else s->bytes[where] ^= 0xFF;
    }
    FILE *f = fopen(s->plain, "w");
    cr_assert_eq(fwrite(s->bytes, 1, SIZE, f), SIZE);
    fclose(f);
}

static void sample_end(struct sample *s)
{
    remove_tree(s->dir);
    free(s->bytes);
}

static int64_t sample_pack(struct sample *s) { return zp_pack(zl_io_posix(), s->plain, s->packed, 3ll * SIZE, SIZE, &conf, NULL); }

static void round_trip(const char *name, enum kind kind)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct sample s;
    struct zp_file *f;
    struct zp_info info;
    static uint8_t got[SIZE];
    unsigned seed = 7;
    sample_make(&s, name, kind, 42);
    cr_assert_eq(sample_pack(&s), 0);
    cr_assert_eq(zp_compare(io, s.packed, s.plain, NULL), 0);
    cr_assert_eq(zp_verify(io, s.packed, 1, NULL, NULL), 0);
    cr_assert_eq(zp_expand(io, s.packed, s.again, NULL, NULL), 0);
    file_read(s.again, 0, got, SIZE);
    cr_assert_eq(memcmp(got, s.bytes, SIZE), 0);
    cr_assert_eq(zp_open(io, s.packed, &f, NULL), 0);
    zp_about(f, &info);
    cr_assert_eq(info.base, 3ll * SIZE);
    cr_assert_eq(info.raw_size, SIZE);
    for (int i = 0; i < 2000; i++) {
        int64_t off = rand_r(&seed) % SIZE;
        uint64_t len = (uint64_t)rand_r(&seed) % 20000;
        if (off + (int64_t)len > SIZE) {
            cr_assert_eq(zp_read(f, got, len, off), -EINVAL);
            continue;
        }
        cr_assert_eq(zp_read(f, got, len, off), 0);
        cr_assert_eq(memcmp(got, s.bytes + off, len), 0);
    }
    zp_close(f);
    if (kind == JSON) cr_assert_lt(info.size, SIZE / 2);
    cr_assert_lt(info.size, SIZE + SIZE / 100, "%s grew to %llu", name, (unsigned long long)info.size);
    sample_end(&s);
}

Test(zstd_file, json_goes_in_and_out) { round_trip("json", JSON); }
Test(zstd_file, random_goes_in_and_out_and_does_not_grow) { round_trip("random", RANDOM); }
Test(zstd_file, damage_goes_in_and_out) { round_trip("damaged", DAMAGED); }
Test(zstd_file, nothing_goes_in_and_out) { round_trip("zeroes", ZEROES); }
Test(zstd_file, noise_goes_in_and_out_and_does_not_grow) { round_trip("noise", NOISE); }
Test(zstd_file, large_records_go_in_and_out) { round_trip("large", LARGE); }

Test(zstd_file, an_expanded_segment_keeps_its_age)
{
    const struct zr_io_v1 *io = zl_io_posix();
    const int64_t long_ago = 1700000000123000000;
    struct sample s;
    struct zr_io_stat stat;
    sample_make(&s, "age", JSON, 3);
    int64_t fd = io->open(io->ctx, s.plain, ZR_IO_READ | ZR_IO_WRITE, 0);
    cr_assert_geq(fd, 0);
    cr_assert_eq(io->set_mtime(io->ctx, (int32_t)fd, long_ago), 0);
    io->close(io->ctx, (int32_t)fd);
    cr_assert_eq(sample_pack(&s), 0);
    cr_assert_eq(zp_expand(io, s.packed, s.again, NULL, NULL), 0);
    cr_assert_eq(io->stat(io->ctx, s.again, &stat), 0);
    cr_assert_eq(stat.mtime_ns, long_ago);
    sample_end(&s);
}

Test(zstd_file, a_record_lies_in_one_block)
{
    struct sample s;
    struct zp_file *f;
    sample_make(&s, "blocks", JSON, 1);
    cr_assert_eq(sample_pack(&s), 0);
    cr_assert_eq(zp_open(zl_io_posix(), s.packed, &f, NULL), 0);
    for (int64_t at = 0; zl_load32(s.bytes + at + 4) != ZL_MAGIC_BLANK; at += zl_load32(s.bytes + at)) {
        int64_t from, to;
        zp_block_of(f, at, &from, &to);
        cr_assert(from <= at && at + zl_load32(s.bytes + at) <= to, "the record at %lld is cut", (long long)at);
    }
    zp_close(f);
    sample_end(&s);
}

Test(zstd_file, the_zstd_program_gives_the_segment)
{
    struct sample s;
    struct zp_info info;
    static uint8_t got[SIZE];
    char cmd[2000];
    if (system("command -v zstd >/dev/null") != 0) return;
    sample_make(&s, "program", JSON, 2);
    cr_assert_eq(sample_pack(&s), 0);
    cr_assert_eq(zp_peek(zl_io_posix(), s.packed, &info), 0);
    cr_assert_gt(info.dict_size, 0);
    snprintf(cmd, sizeof cmd, "cd '%s' && tail -c +81 '%s' | head -c %u >dict && zstd -q -d -D dict '%s' -o out", s.dir, s.packed,
             info.dict_size, s.packed);
    cr_assert_eq(system(cmd), 0, "%s", cmd);
    snprintf(cmd, sizeof cmd, "%s/out", s.dir);
    cr_assert_eq(file_size_of(cmd), SIZE);
    file_read(cmd, 0, got, SIZE);
    cr_assert_eq(memcmp(got, s.bytes, SIZE), 0);
    sample_end(&s);
}

/* ---- damage to the packed file -------------------------------------------------------------------------------------------- */

struct seen {
    uint64_t n;
    int64_t bytes;
};
static void see(void *arg, int64_t off, int64_t len, const char *why)
{
    struct seen *s = arg;
    cr_assert(off >= 0 && len > 0 && off + len <= SIZE && why[0]);
    s->n++;
    s->bytes += len;
}

/* Every block is right or refused; the number of those refused, or -1: nothing can be read. */
static int64_t refused(struct sample *s)
{
    struct zp_file *f;
    struct zp_info info;
    static uint8_t got[SIZE];
    int64_t n = 0;
    const char *why = "";
    if (zp_open(zl_io_posix(), s->packed, &f, &why) < 0) {
        cr_assert(why[0]);
        return -1;
    }
    zp_about(f, &info);
    for (uint32_t no = 0; no < info.n_blocks; no++) {
        int64_t from, to;
        zp_block_at(f, no, &from, &to);
        int64_t r = zp_block_read(f, no, got);
        if (r < 0) n++;
        else cr_assert_eq(memcmp(got, s->bytes + from, (size_t)(to - from)), 0, "wrong bytes");
    }
    zp_close(f);
    return n;
}

Test(zstd_file, no_wrong_byte_whatever_is_done_to_it, .timeout = 100)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct sample s;
    unsigned seed = 99;
    uint64_t in_blocks = 0;
    sample_make(&s, "bad", JSON, 3);
    cr_assert_eq(sample_pack(&s), 0);
    int64_t size = file_size_of(s.packed);
    uint8_t *good = malloc((size_t)size);
    file_read(s.packed, 0, good, (uint64_t)size);
    for (int i = 0; i < 600; i++) {
        int64_t at = rand_r(&seed) % size, len = size;
        FILE *f = fopen(s.packed, "w");
        if (i % 3 == 2) len = at;
        cr_assert_eq(fwrite(good, 1, (size_t)len, f), (size_t)len);
        fclose(f);
        if (i % 3 == 0) file_flip(s.packed, at);
        if (i % 3 == 1) {
            static const uint8_t page[512];
            file_write(s.packed, at, page, at + 512 > size ? (uint64_t)(size - at) : 512);
        }
        struct seen seen = { 0 };
        int64_t bad = refused(&s), told = zp_verify(io, s.packed, 1, &(struct zp_damage){ see, &seen }, NULL);
        cr_assert(bad < 0 ? told == -EBADMSG : told >= bad && seen.n == (uint64_t)told);
        cr_assert(bad != 0 || told > 0 || i % 3 == 1, "a flip or a cut at %lld was not seen", (long long)at);
        cr_assert(bad <= 2);
        if (bad > 0) in_blocks++;
        int64_t r = zp_expand(io, s.packed, s.again, NULL, NULL);
        cr_assert(bad == 0 ? r >= 0 : r == -EBADMSG);
    }
    cr_assert_gt(in_blocks, 100);
    free(good);
    sample_end(&s);
}

Test(zstd_file, expansion_over_damage_tells_it_and_keeps_the_rest)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct sample s;
    struct seen seen = { 0 };
    static uint8_t got[SIZE];
    sample_make(&s, "lossy", JSON, 4);
    cr_assert_eq(sample_pack(&s), 0);
    file_flip(s.packed, file_size_of(s.packed) / 2);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), 0, "the plain form is there, and stays");
    cr_assert_eq(file_size_of(s.packed), -1);
    cr_assert_eq(sample_pack(&s), 0);
    cr_assert_eq(io->unlink(NULL, s.plain), 0);
    file_flip(s.packed, file_size_of(s.packed) / 2);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), -EBADMSG);
    cr_assert_eq(file_size_of(s.plain), -1);
    cr_assert_eq(zp_to_plain(io, s.plain, &(struct zp_damage){ see, &seen }, NULL), 0);
    cr_assert_eq(file_size_of(s.packed), -1);
    cr_assert_eq(seen.n, 1);
    file_read(s.plain, 0, got, SIZE);
    int64_t differ = 0;
    for (int i = 0; i < SIZE; i++) differ += got[i] != s.bytes[i];
    cr_assert(differ > 0 && differ <= seen.bytes);
    sample_end(&s);
}

Test(zstd_file, the_other_form_goes_only_when_the_new_one_is_right)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct sample s;
    sample_make(&s, "forms", JSON, 5);
    cr_assert_eq(zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL), 0);
    cr_assert_eq(file_size_of(s.plain), -1);
    cr_assert_eq(zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL), 0, "again is no error");
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), 0);
    cr_assert_eq(file_size_of(s.packed), -1);
    cr_assert_eq(sample_pack(&s), 0); /* both are there, the packed one is bad: it is made again */
    file_flip(s.packed, file_size_of(s.packed) / 2);
    cr_assert_eq(zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL), 0);
    cr_assert_eq(zp_verify(io, s.packed, 1, NULL, NULL), 0);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), 0);
    cr_assert_eq(sample_pack(&s), 0); /* both are there, the plain one is bad: the checksums say who is right */
    file_flip(s.plain, 5000);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), 0);
    uint8_t b;
    file_read(s.plain, 5000, &b, 1);
    cr_assert_eq(b, s.bytes[5000]);
    sample_end(&s);
}

/* ---- both forms, which differ: none goes that has what the other lacks ---- */

static void zero(const char *path, int64_t from, int64_t to)
{
    static const uint8_t none[SIZE];
    file_write(path, from, none, (uint64_t)(to - from));
}

static uint32_t is_sample(const struct sample *s)
{
    static uint8_t got[SIZE];
    if (file_size_of(s->plain) != SIZE) return 0;
    file_read(s->plain, 0, got, SIZE);
    return memcmp(got, s->bytes, SIZE) == 0;
}

static uint32_t both_there(const struct sample *s) { return file_size_of(s->plain) >= 0 && file_size_of(s->packed) >= 0; }

/* Another message of the same length in the place of the record that follows the one at `at`. */
static int64_t put_another(struct sample *s, int64_t at)
{
    static uint8_t rec[SIZE], body[SIZE];
    struct zl_record old;
    const char *why;
    at += zl_load32(s->bytes + at);
    cr_assert_eq(zl_record_parse((struct zr_span){ s->bytes + at, SIZE - (uint64_t)at }, 1, &old, &why), ZR_OK);
    memset(body, 'x', old.body.len);
    struct zr_msg m = msg_of("T", 0, body, old.body.len, "TAGS\001a\002");
    cr_assert_eq(zl_record_size(&m), old.size);
    zl_record_encode(rec, &m);
    zl_record_finish(rec, 4711, old.physical_offset, old.store_ms);
    file_write(s->plain, at, rec, old.size);
    return at;
}

Test(zstd_file, a_damaged_packed_form_stays_beside_a_plain_one_of_zeroes)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct sample s;
    struct seen seen = { 0 };
    static uint8_t got[SIZE];
    sample_make(&s, "twins-zero", JSON, 11);
    cr_assert_eq(sample_pack(&s), 0);
    file_flip(s.packed, file_size_of(s.packed) / 2);
    zero(s.plain, 0, SIZE);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), -EBADMSG);
    cr_assert(both_there(&s));
    cr_assert_eq(zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL), -EBADMSG);
    cr_assert(both_there(&s));
    cr_assert_eq(zp_to_plain(io, s.plain, &(struct zp_damage){ see, &seen }, NULL), 0);
    cr_assert_eq(file_size_of(s.packed), -1);
    cr_assert_eq(seen.n, 1);
    file_read(s.plain, 0, got, SIZE);
    int64_t differ = 0;
    for (int i = 0; i < SIZE; i++) differ += got[i] != s.bytes[i];
    cr_assert(differ > 0 && differ <= seen.bytes);
    sample_end(&s);
}

Test(zstd_file, of_two_forms_that_are_damaged_in_different_places_one_is_made)
{
    for (int to_packed = 0; to_packed < 2; to_packed++) {
        const struct zr_io_v1 *io = zl_io_posix();
        struct sample s;
        sample_make(&s, "twins-merge", JSON, 12);
        cr_assert_eq(sample_pack(&s), 0);
        file_flip(s.packed, file_size_of(s.packed) / 2);
        zero(s.plain, 0, 30000);
        cr_assert_eq(to_packed ? zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL) : zp_to_plain(io, s.plain, NULL, NULL), 0);
        cr_assert(!both_there(&s));
        cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), 0);
        cr_assert(is_sample(&s));
        sample_end(&s);
    }
}

Test(zstd_file, two_forms_with_different_messages_both_stay)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct sample s;
    struct seen seen = { 0 };
    sample_make(&s, "twins-differ", JSON, 13);
    cr_assert_eq(sample_pack(&s), 0);
    put_another(&s, 0);
    cr_assert_eq(zp_lacks(io, s.packed, s.plain, 3ll * SIZE, ZP_OF_PACKED, NULL, NULL), 1);
    cr_assert_eq(zp_lacks(io, s.packed, s.plain, 3ll * SIZE, ZP_OF_PLAIN, NULL, NULL), 1);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), -EBADMSG);
    cr_assert(both_there(&s));
    cr_assert_eq(zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL), -EBADMSG);
    cr_assert(both_there(&s));
    cr_assert_eq(zp_to_plain(io, s.plain, &(struct zp_damage){ see, &seen }, NULL), 0, "only when loss is accepted, and told");
    cr_assert_eq(seen.n, 1);
    cr_assert(is_sample(&s));
    sample_end(&s);
}

Test(zstd_file, a_plain_form_with_more_than_a_whole_packed_one_is_not_dropped)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct sample s;
    sample_make(&s, "twins-more", JSON, 14);
    zero(s.plain, 100000, SIZE);
    cr_assert_eq(sample_pack(&s), 0);
    file_write(s.plain, 0, s.bytes, SIZE);
    cr_assert_eq(zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL), 0);
    cr_assert_eq(file_size_of(s.plain), -1);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), 0);
    cr_assert(is_sample(&s));
    sample_end(&s);
}

Test(zstd_file, a_packed_form_that_cannot_be_opened_goes_only_beside_a_whole_plain_one)
{
    const struct zr_io_v1 *io = zl_io_posix();
    struct sample s;
    sample_make(&s, "twins-shut", JSON, 15);
    cr_assert_eq(sample_pack(&s), 0);
    file_flip(s.packed, 40);
    zero(s.plain, 50000, 60000);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), -EBADMSG);
    cr_assert(both_there(&s));
    cr_assert_eq(zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL), -EBADMSG);
    cr_assert(both_there(&s));
    file_write(s.plain, 0, s.bytes, SIZE);
    cr_assert_eq(zp_to_packed(io, s.plain, 3ll * SIZE, &conf, NULL), 0);
    cr_assert_eq(zp_to_plain(io, s.plain, NULL, NULL), 0);
    cr_assert(is_sample(&s));
    sample_end(&s);
}

static uint32_t stop_at_once(void *arg, uint64_t bytes)
{
    (void)bytes;
    return ++*(int *)arg > 3;
}

Test(zstd_file, pace_stops_it)
{
    struct sample s;
    int n = 0;
    sample_make(&s, "pace", JSON, 6);
    struct zp_pace p = { stop_at_once, &n };
    cr_assert_eq(zp_pack(zl_io_posix(), s.plain, s.packed, 3ll * SIZE, SIZE, &conf, &p), -ECANCELED);
    sample_end(&s);
}
