/* SPDX-License-Identifier: Apache-2.0 */
/* wheel.c - the slots of RocketMQ's timer wheel. See wheel.h.
 *
 * What stays true: a slot whose bit in `used` is set has bytes that say so (last >= 0 and a time); a slot without has zeroes. A
 * page of the slots that differs from the file has its bit in `dirty`. */
#include <stdlib.h>
#include <string.h>

#include "wheel.h"
#include "zl/text.h"

#define WORDS ((WHEEL_SLOTS + 63u) / 64u)
#define PAGE_WORDS ((WHEEL_PAGES + 63u) / 64u)

zr_status wheel_open(struct wheel *w, int64_t precision_ms)
{
    *w = (struct wheel){ .precision_ms = precision_ms };
    w->bytes = calloc(WHEEL_PAGES, WHEEL_PAGE);
    w->used = calloc(WORDS, 8);
    w->dirty = calloc(PAGE_WORDS, 8);
    if (!w->bytes || !w->used || !w->dirty) {
        free(w->bytes);
        free(w->used);
        free(w->dirty);
        w->bytes = NULL;
        return ZR_ENOMEM;
    }
    pthread_mutex_init(&w->lock, NULL);
    return ZR_OK;
}

void wheel_close(struct wheel *w)
{
    if (!w->bytes) return;
    free(w->bytes);
    free(w->used);
    free(w->dirty);
    pthread_mutex_destroy(&w->lock);
    w->bytes = NULL;
}

static uint32_t place_of(const struct wheel *w, int64_t time_ms)
{
    int64_t step = time_ms < 0 ? 0 : time_ms / w->precision_ms;
    return (uint32_t)(step % (int64_t)WHEEL_SLOTS);
}

static uint32_t is_used(const struct wheel *w, uint32_t place) { return (uint32_t)(w->used[place / 64] >> (place % 64) & 1); }

static void slot_read(const struct wheel *w, uint32_t place, struct wslot *ret)
{
    const uint8_t *p = w->bytes + (uint64_t)place * SLOT_BYTES;
    *ret = (struct wslot){ .time_ms = (int64_t)zl_load64(p) * w->precision_ms, .first = (int64_t)zl_load64(p + 8),
                           .last = (int64_t)zl_load64(p + 16), .num = (int32_t)zl_load32(p + 24) };
}

uint32_t wheel_get(const struct wheel *w, int64_t time_ms, struct wslot *ret)
{
    uint32_t place = place_of(w, time_ms);
    if (!is_used(w, place)) {
        *ret = (struct wslot){ .time_ms = time_ms, .first = -1, .last = -1 };
        return 0;
    }
    slot_read(w, place, ret);
    return ret->time_ms / w->precision_ms == time_ms / w->precision_ms ? 1 : 2;
}

static void touch(struct wheel *w, uint32_t place)
{
    uint32_t page = (uint32_t)((uint64_t)place * SLOT_BYTES / WHEEL_PAGE);
    w->dirty[page / 64] |= 1ull << (page % 64);
}

void wheel_put(struct wheel *w, const struct wslot *slot)
{
    uint32_t place = place_of(w, slot->time_ms);
    uint8_t *p = w->bytes + (uint64_t)place * SLOT_BYTES;
    pthread_mutex_lock(&w->lock);
    zl_store64(p, (uint64_t)(slot->time_ms / w->precision_ms));
    zl_store64(p + 8, (uint64_t)slot->first);
    zl_store64(p + 16, (uint64_t)slot->last);
    zl_store32(p + 24, (uint32_t)slot->num);
    zl_store32(p + 28, 0);
    touch(w, place);
    pthread_mutex_unlock(&w->lock);
    w->used[place / 64] |= 1ull << (place % 64);
}

void wheel_clear(struct wheel *w, int64_t time_ms)
{
    uint32_t place = place_of(w, time_ms);
    if (!is_used(w, place)) return;
    pthread_mutex_lock(&w->lock);
    memset(w->bytes + (uint64_t)place * SLOT_BYTES, 0, SLOT_BYTES);
    touch(w, place);
    pthread_mutex_unlock(&w->lock);
    w->used[place / 64] &= ~(1ull << (place % 64));
}

/* The first used place in [from, to), or to. */
static uint32_t used_in(const struct wheel *w, uint32_t from, uint32_t to)
{
    while (from < to) {
        uint64_t word = w->used[from / 64] >> (from % 64);
        if (word) {
            from += (uint32_t)__builtin_ctzll(word);
            return from < to ? from : to;
        }
        from = (from / 64 + 1) * 64;
    }
    return to;
}

uint32_t wheel_next(const struct wheel *w, int64_t from_ms, uint32_t skip, struct wslot *ret, uint32_t *ret_at)
{
    uint32_t base = place_of(w, from_ms);
    if (skip >= WHEEL_SLOTS) return 0;
    uint32_t begin = base + skip, place = WHEEL_SLOTS, wrapped = begin >= WHEEL_SLOTS;
    if (!wrapped) place = used_in(w, begin, WHEEL_SLOTS);
    if (place == WHEEL_SLOTS) { /* round the end */
        place = used_in(w, wrapped ? begin - WHEEL_SLOTS : 0, base);
        if (place >= base) return 0;
    }
    slot_read(w, place, ret);
    *ret_at = place >= base ? place - base : place + WHEEL_SLOTS - base;
    return 1;
}

uint32_t wheel_take_dirty(struct wheel *w, uint8_t *to, uint32_t *pages, uint32_t cap)
{
    uint32_t n = 0;
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < PAGE_WORDS && n < cap; i++)
        while (w->dirty[i] && n < cap) {
            uint32_t page = i * 64 + (uint32_t)__builtin_ctzll(w->dirty[i]);
            w->dirty[i] &= w->dirty[i] - 1;
            memcpy(to + (uint64_t)n * WHEEL_PAGE, w->bytes + (uint64_t)page * WHEEL_PAGE, WHEEL_PAGE);
            pages[n++] = page;
        }
    pthread_mutex_unlock(&w->lock);
    return n;
}

void wheel_mark_dirty(struct wheel *w, const uint32_t *pages, uint32_t n)
{
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < n; i++) w->dirty[pages[i] / 64] |= 1ull << (pages[i] % 64);
    pthread_mutex_unlock(&w->lock);
}

void wheel_mark_all_dirty(struct wheel *w)
{
    pthread_mutex_lock(&w->lock);
    for (uint32_t i = 0; i < PAGE_WORDS; i++) w->dirty[i] = i + 1 < PAGE_WORDS ? ~0ull : (1ull << (WHEEL_PAGES % 64)) - 1;
    pthread_mutex_unlock(&w->lock);
}

int32_t wheel_num(struct wheel *w, int64_t time_ms)
{
    const uint8_t *p = w->bytes + (uint64_t)place_of(w, time_ms) * SLOT_BYTES;
    pthread_mutex_lock(&w->lock);
    int32_t num = (int64_t)zl_load64(p) == time_ms / w->precision_ms ? (int32_t)zl_load32(p + 24) : 0;
    pthread_mutex_unlock(&w->lock);
    return num;
}

/* ---- config/timercheck ---------------------------------------------------------------------------------------------------- */

#define MARK_AT 64u
#define STEP_AT (MARK_AT + 52u)
#define MARK_MAGIC 0x5a54494d45523031ull /* "ZTIMER01" */

void timercheck_encode(uint8_t to[CHECK_BYTES], const struct timercheck *c)
{
    const int64_t v[7] = { c->read_ms, c->log_flushed, c->queue_offset, c->master_queue_offset, c->state_version, c->timestamp, c->counter };
    memset(to, 0, CHECK_BYTES);
    for (uint32_t i = 0; i < 7; i++) zl_store64(to + 8 * i, (uint64_t)v[i]);
    zl_store64(to + MARK_AT, MARK_MAGIC);
    for (uint32_t i = 0; i < 3; i++) zl_store64(to + MARK_AT + 8 + 8 * i, (uint64_t)v[i]);
    zl_store64(to + MARK_AT + 32, c->clean);
    zl_store64(to + MARK_AT + 40, (uint64_t)c->doubt_end);
    zl_store32(to + MARK_AT + 48, zl_crc32(0, to, MARK_AT + 48));
    zl_store32(to + STEP_AT, c->step_ms);
    zl_store64(to + STEP_AT + 4, (uint64_t)c->coarse_end);
    zl_store32(to + STEP_AT + 12, zl_crc32(0, to, STEP_AT + 12));
}

void timercheck_decode(const uint8_t *from, uint64_t len, struct timercheck *ret)
{
    *ret = (struct timercheck){ .read_ms = 0 };
    if (len < 56) return;
    ret->read_ms = (int64_t)zl_load64(from);
    ret->log_flushed = (int64_t)zl_load64(from + 8);
    ret->queue_offset = (int64_t)zl_load64(from + 16);
    ret->master_queue_offset = (int64_t)zl_load64(from + 24);
    ret->state_version = (int64_t)zl_load64(from + 32);
    ret->timestamp = (int64_t)zl_load64(from + 40);
    ret->counter = (int64_t)zl_load64(from + 48);
    if (ret->read_ms < 0 || ret->log_flushed < 0 || ret->queue_offset < 0) *ret = (struct timercheck){ .read_ms = 0 };
    if (len < MARK_AT + 52 || zl_load64(from + MARK_AT) != MARK_MAGIC || memcmp(from, from + MARK_AT + 8, 24) != 0 ||
        zl_load32(from + MARK_AT + 48) != zl_crc32(0, from, MARK_AT + 48)) return;
    ret->known = 1;
    ret->clean = zl_load64(from + MARK_AT + 32) == 1;
    ret->doubt_end = (int64_t)zl_load64(from + MARK_AT + 40);
    if (len < STEP_AT + 16 || zl_load32(from + STEP_AT + 12) != zl_crc32(0, from, STEP_AT + 12)) return;
    ret->step_ms = zl_load32(from + STEP_AT);
    ret->coarse_end = (int64_t)zl_load64(from + STEP_AT + 4);
}
