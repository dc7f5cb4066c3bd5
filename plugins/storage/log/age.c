/* SPDX-License-Identifier: Apache-2.0 */
/* age.c - what time it is for retention by age: the wall clock's, unless that jumped.
 *
 * A wall clock that is set a year forward makes every file of the log older than any retention at once, the one written a minute
 * ago too. So the clock is compared at every look with how long it took since the last one (CLOCK_BOOTTIME: a machine that slept
 * did not jump), and at a start with what was seen last: `seen` of the file below, or without one the newest record's store time.
 * What it is ahead of that, if it is more than a step, is taken off every age for HOLD_MS; a broker that was down for longer than
 * START_STEP_MS looks the same, and waits as long. Then the clock is believed, for a day is enough to set it right. When it is
 * set back before that, nothing was lost. Retention by bytes and by the disk's ratios knows no clock and goes on.
 *
 * <root>/zarya/clock, one line of text: seen ahead since. All ms; seen: the wall clock at the last look that wrote the file (every
 * hour, at each change and at a stop), ahead: what is taken off, since: the wall clock when that began. A restart in the meantime
 * goes on with it.
 *
 * LOCKING: st->age under clean_lock; at a start and a stop there is no other thread. */
#include <errno.h>
#include <stdio.h>
#include <time.h>
#include "zs_int.h"

#define HOUR_MS 3600000ll
#define HOLD_MS (24 * HOUR_MS)
#define RUN_STEP_MS HOUR_MS          /* what is less is a correction */
#define START_STEP_MS (24 * HOUR_MS) /* a broker may be down for as long without a word */
#define SAVE_MS HOUR_MS
#define MOST_MS (1ll << 52)          /* of any time here */
#define FILE_MAX 128u

static int64_t boot_ms(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_BOOTTIME, &ts);
    return (int64_t)ts.tv_sec * 1000 + ts.tv_nsec / 1000000;
}

static uint32_t age_path(struct zr_inst *st, char *to) { return zs_path(to, "%s/clock", st->own_dir); }

static void age_save(struct zr_inst *st, int64_t wall)
{
    struct zs_age *a = &st->age;
    char path[ZS_PATH], text[FILE_MAX];
    int n = snprintf(text, sizeof text, "%lld %lld %lld\n", (long long)wall, (long long)a->ahead_ms, (long long)a->since_ms);
    int64_t r = age_path(st, path) ? zl_io_replace(st->io, path, (struct zr_span){ (const uint8_t *)text, (uint64_t)n }) : -ENAMETOOLONG;
    if (r >= 0) a->saved_ms = wall;
    if (r < 0 && !a->told) zs_log(st, ZR_LOG_WARN, "%s/clock cannot be written: %s", st->own_dir, zs_errno_text(r));
    a->told = r < 0;
}

/* Three numbers and nothing else; what is not that says nothing. */
static uint32_t age_parse(struct zr_str text, int64_t *ret)
{
    for (uint32_t i = 0; i < 3; i++) {
        uint64_t n = 0;
        while (n < text.len && text.ptr[n] != ' ' && text.ptr[n] != '\n') n++;
        if (n == text.len || zl_parse_i64((struct zr_str){ text.ptr, n }, &ret[i]) != ZR_OK || ret[i] < 0 || ret[i] > MOST_MS) return 0;
        text = (struct zr_str){ text.ptr + n + 1, text.len - n - 1 };
    }
    return text.len == 0;
}

static uint32_t age_load(struct zr_inst *st, int64_t *ret)
{
    char path[ZS_PATH];
    struct zl_buf in;
    zl_buf_init(&in, FILE_MAX);
    uint32_t good = age_path(st, path) && zl_io_load(st->io, path, &in) >= 0 && age_parse((struct zr_str){ (const char *)in.ptr, in.len }, ret);
    zl_buf_free(&in);
    return good;
}

/* The wall clock says `wall`, and should say `expected`. */
static uint32_t age_compare(struct zr_inst *st, int64_t wall, int64_t expected, int64_t step, const char *whom)
{
    struct zs_age *a = &st->age;
    int64_t off = wall - expected, half = st->conf.retention_hours * HOUR_MS / 2;
    if (half < step) step = half > ZS_CLOCK_STEP ? half : ZS_CLOCK_STEP; /* what was written just now must not be expired by less */
    if (off > step) {
        a->ahead_ms = a->ahead_ms + off < MOST_MS ? a->ahead_ms + off : MOST_MS;
        a->since_ms = wall;
        zs_log(st, ZR_LOG_WARN, "the clock is %lld h %lld min ahead of %s: for 24 hours no segment is deleted for an age that comes from that (if "
               "the clock is wrong, set it right until then); retention_bytes and a full disk delete as ever", (long long)(off / HOUR_MS),
               (long long)(off % HOUR_MS / 60000), whom);
        return 1;
    }
    if (off >= -step || a->ahead_ms == 0) return 0;
    a->ahead_ms = a->ahead_ms + off > step ? a->ahead_ms + off : 0;
    a->since_ms = wall;
    zs_log(st, ZR_LOG_INFO, "the clock was set back by %lld h %lld min: %s", (long long)(-off / HOUR_MS), (long long)(-off % HOUR_MS / 60000),
           a->ahead_ms ? "it is still ahead of what it was" : "segments have the age that it says again");
    return 1;
}

void zs_age_open(struct zr_inst *st)
{
    struct zs_age *a = &st->age;
    int64_t wall = st->timer->wall_ms(st->host), last_ms = atomic_load(&st->last_ms), at[3] = { 0 };
    *a = (struct zs_age){ .wall_ms = wall, .boot_ms = boot_ms() };
    if (age_load(st, at)) {
        a->ahead_ms = at[1];
        a->since_ms = at[2];
    } else {
        at[0] = last_ms;
    }
    if (at[0] <= 0 || wall < 0 || wall > MOST_MS) return; /* a new store */
    age_compare(st, wall, at[0], START_STEP_MS, "what this store saw last (if the broker was down for so long, that is all right)");
}

int64_t zs_age_now(struct zr_inst *st)
{
    struct zs_age *a = &st->age;
    int64_t wall = st->timer->wall_ms(st->host), boot = boot_ms();
    uint32_t changed = age_compare(st, wall, a->wall_ms + (boot - a->boot_ms), RUN_STEP_MS, "where it was a moment ago");
    a->wall_ms = wall;
    a->boot_ms = boot;
    if (a->ahead_ms && wall - a->since_ms >= HOLD_MS) {
        zs_log(st, ZR_LOG_WARN, "the clock was set forward a day ago, and stayed: segments have the age that it says");
        a->ahead_ms = 0;
        changed = 1;
    }
    if (changed || wall - a->saved_ms >= SAVE_MS || wall < a->saved_ms) age_save(st, wall);
    return wall - a->ahead_ms;
}

void zs_age_close(struct zr_inst *st)
{
    zs_age_now(st);
    age_save(st, st->age.wall_ms);
}
