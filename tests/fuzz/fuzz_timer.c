/* SPDX-License-Identifier: Apache-2.0 */
/* The timer's files: the bytes are a timer log of small files, and timercheck. Whatever they hold, a scan ends, what it accepts is
 * written and read the same, and cut off it stays cut off. The first byte says where chains are walked from. */
#include "../../plugins/feature/delay/wheel.h"
#include "fuzz.h"
#include "zl/io.h"

#include <unistd.h>

#define FILE_SIZE 1024

struct walk { uint32_t n; int64_t last; };

static int32_t each(void *ctx, int64_t pos, const struct unit *u)
{
    struct walk *w = ctx;
    uint8_t bytes[UNIT_BYTES];
    struct unit again;
    MUST(w->n == 0 || pos > w->last);
    w->last = pos;
    w->n++;
    unit_encode(bytes, u);
    MUST(unit_decode(bytes, &again) == ZR_OK);
    MUST(again.prev == u->prev && again.time_ms == u->time_ms && again.physical == u->physical && again.magic == u->magic && again.size == u->size);
    return 0;
}

static void file_write(const char *dir, uint32_t number, const uint8_t *data, size_t size)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%020u", dir, number * FILE_SIZE);
    FILE *f = fopen(path, "wb");
    MUST(f != NULL);
    MUST(fwrite(data, 1, size, f) == size);
    fclose(f);
    MUST(size == FILE_SIZE || truncate(path, FILE_SIZE) == 0);
}

static void check_walk(const uint8_t *data, size_t size)
{
    uint8_t bytes[CHECK_BYTES];
    struct timercheck c, again;
    timercheck_decode(data, size, &c);
    timercheck_encode(bytes, &c);
    timercheck_decode(bytes, CHECK_BYTES, &again);
    MUST(again.known && again.read_ms == c.read_ms && again.log_flushed == c.log_flushed && again.queue_offset == c.queue_offset);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static char dir[64];
    struct tlog l;
    struct walk w = { 0, 0 };
    struct unit u;
    int64_t pos;
    if (!dir[0]) {
        snprintf(dir, sizeof dir, "/tmp/zarya-fuzz-timer-XXXXXX");
        MUST(mkdtemp(dir) != NULL);
    }
    check_walk(data, size);
    if (size < 2) return 0;
    uint32_t files = 0;
    for (size_t at = 1; at < size && files < 4; at += FILE_SIZE) file_write(dir, files++, data + at, size - at < FILE_SIZE ? size - at : FILE_SIZE);
    MUST(tlog_open(&l, zl_io_posix(), dir, FILE_SIZE) == ZR_OK);
    MUST(l.n_files == files);
    int64_t end = tlog_scan(&l, 0, each, &w);
    MUST(end >= 0 && end <= (int64_t)files * FILE_SIZE);
    /* Chains from anywhere: they end, since they only go back. */
    int64_t above = INT64_MAX;
    for (pos = data[0] * 16; pos >= 0 && pos < above; above = pos, pos = u.prev)
        if (tlog_look(&l, pos, &u) != ZR_OK) break;
    MUST(tlog_cut(&l, end) == ZR_OK);
    struct unit one = { .prev = -1, .write_ms = 5, .time_ms = 9, .physical = 1, .size = 100, .magic = UNIT_DEFAULT };
    MUST(tlog_add(&l, &one, &pos) == ZR_OK && tlog_push(&l) == ZR_OK);
    uint32_t before = w.n;
    w = (struct walk){ 0, 0 };
    MUST(tlog_scan(&l, 0, each, &w) == l.end && w.n == before + 1);
    MUST(tlog_cut(&l, 0) == ZR_OK);
    tlog_close(&l);
    return 0;
}
