/* SPDX-License-Identifier: Apache-2.0 */
/* The wheel, the timer log and timercheck by themselves: what is written is read again, what is damaged is not. */
#include <criterion/criterion.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../../../plugins/feature/delay/wheel.h"
#include "zl/io.h"
#include "zl/text.h"

#define FILE_SIZE 8192 /* 156 units and a blank */

static char dir[64];

static void dir_make(void)
{
    snprintf(dir, sizeof dir, "/tmp/zarya-tlog-XXXXXX");
    cr_assert(mkdtemp(dir) != NULL);
}

static void dir_drop(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    cr_assert_eq(system(command), 0);
}

static struct unit unit_of(int64_t i) { return (struct unit){ .prev = i ? (i - 1) * 52 : -1, .write_ms = 1700000000000 + i, .time_ms = 1700000001000 + i * 3, .physical = i * 400, .exact_ms = i, .size = 300 + (int32_t)i, .topic_hash = -(int32_t)i, .magic = UNIT_DEFAULT | (i % 7 ? 0 : UNIT_DELETE) }; }

struct seen { int64_t n, bad, last; };

static int32_t see(void *ctx, int64_t pos, const struct unit *u)
{
    struct seen *s = ctx;
    struct unit want = unit_of(s->n++);
    s->last = pos;
    s->bad += u->write_ms != want.write_ms || u->time_ms != want.time_ms || u->physical != want.physical || u->size != want.size || u->topic_hash != want.topic_hash ||
              u->magic != want.magic || u->exact_ms != want.exact_ms || u->prev != want.prev;
    return 0;
}

static void fill(struct tlog *l, int64_t from, int64_t n)
{
    int64_t pos;
    for (int64_t i = from; i < from + n; i++) {
        struct unit u = unit_of(i);
        cr_assert_eq(tlog_add(l, &u, &pos), ZR_OK);
    }
    cr_assert_eq(tlog_push(l), ZR_OK);
}

Test(tlog, survives_being_opened_again_over_many_files)
{
    struct tlog l;
    struct seen s = { 0, 0, 0 };
    dir_make();
    cr_assert_eq(tlog_open(&l, zl_io_posix(), dir, FILE_SIZE), ZR_OK);
    fill(&l, 0, 1000);
    int64_t end = l.end;
    cr_assert_eq(tlog_sync(&l), ZR_OK);
    tlog_close(&l);
    cr_assert_eq(tlog_open(&l, zl_io_posix(), dir, FILE_SIZE), ZR_OK);
    cr_assert_eq(tlog_scan(&l, tlog_begin(&l), see, &s), end);
    cr_assert(s.n == 1000 && s.bad == 0);
    cr_assert_eq(tlog_cut(&l, end), ZR_OK);
    fill(&l, 1000, 10);
    s = (struct seen){ 0, 0, 0 };
    cr_assert_eq(tlog_scan(&l, tlog_begin(&l), see, &s), l.end);
    cr_assert(s.n == 1010 && s.bad == 0);
    tlog_close(&l);
    dir_drop();
}

static int64_t reads_left;
static int64_t failing_pread(void *self, int32_t fd, void *buf, uint64_t len, int64_t off)
{
    return reads_left-- > 0 ? zl_io_posix()->pread(self, fd, buf, len, off) : -EIO;
}

Test(tlog, what_cannot_be_read_now_is_no_end)
{
    struct tlog l;
    struct seen s = { 0, 0, 0 };
    struct zr_io_v1 io = *zl_io_posix();
    io.pread = failing_pread;
    dir_make();
    reads_left = INT64_MAX;
    cr_assert_eq(tlog_open(&l, &io, dir, FILE_SIZE), ZR_OK);
    fill(&l, 0, 1000);
    int64_t end = l.end;
    tlog_close(&l);
    cr_assert_eq(tlog_open(&l, &io, dir, FILE_SIZE), ZR_OK);
    for (int64_t n = 0; n < 5; n++) {
        reads_left = n;
        cr_assert_eq(tlog_scan(&l, 0, see, &s), -1, "after %lld reads", (long long)n);
    }
    reads_left = INT64_MAX;
    s = (struct seen){ 0, 0, 0 };
    cr_assert_eq(tlog_scan(&l, 0, see, &s), end);
    cr_assert(s.n == 1000 && s.bad == 0);
    tlog_close(&l);
    dir_drop();
}

Test(tlog, ends_before_damage_and_what_lay_behind_never_comes_back)
{
    struct tlog l;
    struct seen s = { 0, 0, 0 };
    char path[128];
    dir_make();
    cr_assert_eq(tlog_open(&l, zl_io_posix(), dir, FILE_SIZE), ZR_OK);
    fill(&l, 0, 1000);
    tlog_close(&l);
    snprintf(path, sizeof path, "%s/%020d", dir, 0);
    FILE *f = fopen(path, "r+b");
    fseek(f, 52 * 100 + 2, SEEK_SET);
    fputc(0x7f, f);
    fclose(f);
    cr_assert_eq(tlog_open(&l, zl_io_posix(), dir, FILE_SIZE), ZR_OK);
    int64_t end = tlog_scan(&l, 0, see, &s);
    cr_assert(s.n == 100 && end == 5200);
    cr_assert_eq(tlog_cut(&l, end), ZR_OK);
    fill(&l, 100, 1);
    s = (struct seen){ 0, 0, 0 };
    cr_assert_eq(tlog_scan(&l, 0, see, &s), 5252);
    cr_assert(s.n == 101 && s.bad == 0);
    tlog_close(&l);
    cr_assert_eq(tlog_open(&l, zl_io_posix(), dir, FILE_SIZE), ZR_OK);
    cr_assert_eq(l.n_files, 1);
    tlog_close(&l);
    dir_drop();
}

Test(tlog, front_files_go_when_their_messages_are_gone)
{
    struct tlog l;
    dir_make();
    cr_assert_eq(tlog_open(&l, zl_io_posix(), dir, FILE_SIZE), ZR_OK);
    fill(&l, 0, 1000);
    cr_assert_eq(l.n_files, 7);
    tlog_trim(&l, 155 * 400);
    cr_assert_eq(l.n_files, 7, "its last message is still there");
    tlog_trim(&l, 160 * 400);
    cr_assert_eq(l.n_files, 6);
    tlog_trim(&l, INT64_MAX);
    cr_assert_eq(l.n_files, 1, "the one that is written stays");
    tlog_close(&l);
    dir_drop();
}

Test(tlog, a_unit_is_read_from_hostile_bytes_only_when_it_is_one)
{
    uint8_t bytes[52];
    struct unit u = unit_of(1), r;
    unit_encode(bytes, &u);
    cr_assert_eq(unit_decode(bytes, &r), ZR_OK);
    bytes[15] = 0x11;
    cr_assert_eq(unit_decode(bytes, &r), ZR_ECORRUPT);
    memset(bytes, 0, sizeof bytes);
    cr_assert_eq(unit_decode(bytes, &r), ZR_ECORRUPT);
    memset(bytes, 0xff, sizeof bytes);
    cr_assert_eq(unit_decode(bytes, &r), ZR_ECORRUPT);
}

Test(wheel, finds_slots_in_order_round_the_end)
{
    struct wheel w;
    struct wslot s;
    uint32_t at;
    int64_t lap = (int64_t)WHEEL_SLOTS * 1000, base = 1417 * lap + lap - 5000; /* five steps before the end */
    cr_assert_eq(wheel_open(&w, 1000), ZR_OK);
    cr_assert_eq(wheel_next(&w, base, 0, &s, &at), 0);
    for (int i = 0; i < 10; i++) wheel_put(&w, &(struct wslot){ .time_ms = base + i * 1000, .first = i, .last = i * 2, .num = i });
    int64_t n = 0;
    for (uint32_t skip = 0; wheel_next(&w, base, skip, &s, &at); skip = at + 1, n++) cr_assert(s.time_ms == base + n * 1000 && s.last == n * 2 && at == n);
    cr_assert_eq(n, 10);
    cr_assert_eq(wheel_get(&w, base + 3000, &s), 1);
    cr_assert_eq(wheel_get(&w, base + 3000 + lap, &s), 2, "another lap's time is not this one");
    cr_assert_eq(wheel_num(&w, base + 3000), 3);
    for (int i = 0; i < 10; i++) wheel_clear(&w, base + i * 1000);
    cr_assert_eq(wheel_next(&w, base, 0, &s, &at), 0);
    uint8_t *pages = malloc(8 * WHEEL_PAGE);
    uint32_t numbers[8];
    cr_assert_eq(wheel_take_dirty(&w, pages, numbers, 8), 2, "the first page and the last");
    cr_assert_eq(wheel_take_dirty(&w, pages, numbers, 8), 0);
    free(pages);
    wheel_close(&w);
}

Test(timercheck, zarya_believes_its_own_words_only_while_nobody_else_wrote)
{
    uint8_t bytes[CHECK_BYTES];
    struct timercheck c = { .read_ms = 1000, .log_flushed = 520, .queue_offset = 10, .master_queue_offset = 10, .counter = 3, .clean = 1, .doubt_end = 52 }, r;
    timercheck_encode(bytes, &c);
    timercheck_decode(bytes, CHECK_BYTES, &r);
    cr_assert(r.known && r.clean && r.doubt_end == 52 && r.read_ms == 1000 && r.log_flushed == 520 && r.queue_offset == 10 && r.counter == 3);
    zl_store64(bytes, 2000); /* as Apache would */
    timercheck_decode(bytes, CHECK_BYTES, &r);
    cr_assert(!r.known && !r.clean && r.read_ms == 2000);
    timercheck_decode(bytes, 56, &r);
    cr_assert(!r.known && r.read_ms == 2000);
    timercheck_decode(bytes, 10, &r);
    cr_assert(!r.known && r.read_ms == 0);
}
