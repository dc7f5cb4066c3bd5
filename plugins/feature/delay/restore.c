/* SPDX-License-Identifier: Apache-2.0 */
/* restore.c - the start: the wheel from the timer log, and what the log lacks from the queue.
 *
 * The wheel's file is not read, only written (for Apache): the log says the same, and its units can be told from rubbish. The log
 * is read from its begin but for files that are over, and cut behind its last whole unit; the queue goes on behind that unit's
 * message. So a damaged or missing file of either costs time, not messages.
 *
 * What stays true: unless the broker stopped in good order, everything that was noted before may have left already, and is looked
 * up before it leaves (lookup.c). */
#include <stdlib.h>
#include <string.h>

#include "timer.h"
#include "zl/io.h"
#include "zl/text.h"

#define CLOCK_SET_MS (400ll * 86400000) /* further than that nobody sets a clock back while the broker is down */

struct linking { struct timer *t; int64_t least_ms, last_pos, first_physical, last_physical, step_ms; uint64_t n; uint32_t skipped; };

/* The longest step, up to STEP_MAX, of which both are multiples. */
static int64_t step_common(int64_t a, int64_t b)
{
    while (b) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

static int32_t link_unit(void *ctx, int64_t pos, const struct unit *u)
{
    struct linking *k = ctx;
    struct timer *t = k->t;
    struct wslot slot;
    if (k->n++ == 0) k->first_physical = u->physical;
    k->last_pos = pos;
    k->step_ms = step_common(k->step_ms, u->time_ms % STEP_MAX);
    if (u->physical > k->last_physical) k->last_physical = u->physical; /* what was put off is an older one */
    int64_t time_ms = slot_floor(t, u->time_ms);
    if (time_ms < t->check.read_ms && (pos < t->check.log_flushed || t->check.clean)) return 0; /* done */
    uint32_t there = wheel_get(&t->wheel, time_ms, &slot);
    if (there == 2) { /* of another lap: the later one is the one that pends */
        if (slot.time_ms > time_ms) return 0;
        slot = (struct wslot){ .first = -1, .last = -1 };
        there = 0;
    }
    slot.time_ms = time_ms;
    slot.first = there ? slot.first : pos;
    slot.last = pos;
    slot.num += u->magic & UNIT_DELETE ? -1 : 1;
    wheel_put(&t->wheel, &slot);
    metric_add(t, u->topic_hash, u->magic & UNIT_DELETE ? -1 : 1, u->write_ms);
    if (time_ms < k->least_ms) k->least_ms = time_ms;
    return 0;
}

/* Files whose every unit is over for long need not be read: their last unit was noted more than a window before read_ms. */
static int64_t scan_begin(struct timer *t)
{
    int64_t begin = tlog_begin(&t->log), size = t->log.file_size, per = (size - 68) / (int64_t)UNIT_BYTES * (int64_t)UNIT_BYTES;
    struct unit u;
    for (uint32_t i = 0; i + 1 < t->log.n_files; i++) {
        if (t->log.files[i].base + size > t->check.log_flushed || tlog_look(&t->log, t->log.files[i].base + per, &u) != ZR_OK) break;
        if (u.write_ms + t->window_ms + 86400000 >= t->check.read_ms) break;
        begin = t->log.files[i].base + size;
    }
    return begin;
}

/* The queue's entry for that record, which itself cannot be read: entries are in the log's order. */
static zr_status queue_entry_of(struct timer *t, int64_t physical, int64_t low, int64_t high, int64_t *ret)
{
    struct zr_inst *inst = t->inst;
    int64_t at, code;
    uint32_t size;
    while (low < high) {
        int64_t mid = low + (high - low) / 2;
        if (inst->storage->entries(inst->storage_inst, t->queue, mid, &at, &size, &code, 1) != 1) return ZR_EAGAIN;
        if (at == physical) *ret = mid;
        if (at == physical) return ZR_OK;
        if (at < physical) low = mid + 1;
        else high = mid;
    }
    return ZR_OK;
}

/* The queue offset of a timer record, -1: it is none (any more). A status: that cannot be read now. */
static zr_status queue_offset_of(struct timer *t, int64_t physical, int64_t min, int64_t max, int64_t *ret)
{
    struct zr_inst *inst = t->inst;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    *ret = -1;
    zr_status status = inst->storage->record_at(inst->storage_inst, physical, &piece, &pin);
    if (status != ZR_OK) return is_gone(status) ? ZR_OK : queue_entry_of(t, physical, min, max, ret);
    *ret = zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK && zl_is(r.topic, TIMER_TOPIC) ? r.queue_offset : -1;
    if (pin) inst->storage->unpin(inst->storage_inst, pin);
    return ZR_OK;
}

/* The chains in the log are those of slots of another length. timercheck says so, where we wrote it last; else the units' times do. */
static uint32_t step_changed(const struct timer *t, const struct linking *k)
{
    uint32_t known = t->check.step_ms != 0;
    return (known && t->check.step_ms != (uint32_t)t->precision_ms) || (k->n && (k->step_ms % t->precision_ms || (!known && k->step_ms != t->precision_ms)));
}

/* The log begins anew: what timercheck says about the old one must not be believed of a new one that has the same length. */
static zr_status check_void(struct timer *t)
{
    t->check.clean = 0;
    t->check.step_ms = 0;
    t->check.log_flushed = 0;
    return check_write(t);
}

/* Everything is noted anew, from the queue's begin on, and looked up before it leaves. */
static zr_status log_anew(struct timer *t, struct linking *k, int64_t min)
{
    zr_status status = check_void(t);
    if (status == ZR_OK) status = tlog_cut(&t->log, 0);
    if (status != ZR_OK) return status;
    wheel_close(&t->wheel);
    metrics_clear(t);
    if (wheel_open(&t->wheel, t->precision_ms) != ZR_OK) return ZR_ENOMEM;
    t->cursor = min;
    t->rebuild_end = t->begin_end;
    k->least_ms = INT64_MAX;
    return ZR_OK;
}

/* Where the queue is to be taken from. Entries before doubt_queue_end are looked up before they leave. */
static zr_status cursor_find(struct timer *t, struct linking *k, uint32_t whole)
{
    int64_t min = 0, max = 0, first = -1, last = -1;
    struct zr_inst *inst = t->inst;
    uint32_t changed = step_changed(t, k);
    int64_t coarse_end = changed || !t->check.step_ms ? t->begin_end : t->check.coarse_end;
    inst->storage->bounds(inst->storage_inst, t->queue, &min, &max);
    if (k->n && !changed) {
        zr_status status = queue_offset_of(t, k->first_physical, min, max, &first);
        if (status == ZR_OK) status = queue_offset_of(t, k->last_physical, min, max, &last);
        if (status != ZR_OK) return status;
    }
    t->cursor = last >= 0 ? last + 1 : t->check.queue_offset;
    t->rebuild_end = 0;
    if (changed) {
        say(inst, ZR_LOG_WARN, "the timer's files were kept with another timer_precision than %lld ms: they are made anew from %s, and each message is looked up before it leaves",
            (long long)t->precision_ms, TIMER_TOPIC);
        zr_status status = log_anew(t, k, min);
        if (status != ZR_OK) return status;
    } else if (t->check.clean && whole) {
        t->cursor = t->check.queue_offset;
    } else if (!k->n) {
        t->cursor = min;
        t->rebuild_end = t->begin_end;
        zr_status status = t->begin_end ? check_void(t) : ZR_OK;
        if (status != ZR_OK) return status;
    } else if (first > min && !k->skipped) { /* the log lacks its begin */
        zr_status status = log_anew(t, k, min);
        if (status != ZR_OK) return status;
    }
    t->coarse_end = coarse_end;
    if (t->cursor < min) t->cursor = min;
    if (t->cursor > max) t->cursor = max;
    t->doubt_queue_end = t->check.clean && whole ? 0 : t->begin_end;
    pthread_mutex_lock(&t->lock);
    if (t->known_end < max) t->known_end = max;
    pthread_mutex_unlock(&t->lock);
    return ZR_OK;
}

static void check_load(struct timer *t)
{
    uint8_t bytes[CHECK_BYTES];
    uint64_t len = 0;
    struct zl_buf file;
    zl_buf_init(&file, CHECK_BYTES * 2);
    zl_buf_clear(&t->path);
    zl_buf_fmt(&t->path, "%s/config/timercheck", t->inst->host->data_dir);
    zl_buf_u8(&t->path, 0);
    if (!t->path.failed && zl_io_load(t->io, (const char *)t->path.ptr, &file) >= 0) {
        len = file.len < CHECK_BYTES ? file.len : CHECK_BYTES;
        memcpy(bytes, file.ptr, len);
    }
    zl_buf_free(&file);
    timercheck_decode(bytes, len, &t->check);
}

/* What timercheck says is done is not looked at again; so it has to be possible. One that is empty says nothing. */
static void check_judge(struct timer *t)
{
    const struct timercheck *c = &t->check;
    int64_t min = 0, max = 0, log_end = tlog_begin(&t->log) + (int64_t)t->log.n_files * t->log.file_size;
    t->inst->storage->bounds(t->inst->storage_inst, t->queue, &min, &max);
    if (c->read_ms >= 0 && c->read_ms <= wall_ms(t->inst) + CLOCK_SET_MS && c->log_flushed >= 0 && (c->log_flushed <= log_end || !t->log.n_files) &&
        c->queue_offset >= 0 && c->queue_offset <= max)
        return;
    say(t->inst, ZR_LOG_WARN, "config/timercheck is damaged (done up to %lld ms, log %lld, queue %lld): every message in the timer log is looked up before it leaves",
        (long long)c->read_ms, (long long)c->log_flushed, (long long)c->queue_offset);
    t->check = (struct timercheck){ .counter = 0 };
}

static zr_status log_load(struct timer *t, struct linking *k, uint32_t *ret_whole)
{
    zl_buf_clear(&t->path);
    zl_buf_fmt(&t->path, "%s/timerlog", t->inst->host->data_dir);
    zl_buf_u8(&t->path, 0);
    zr_status status = t->path.failed ? ZR_ENOMEM : tlog_open(&t->log, t->io, (const char *)t->path.ptr, t->inst->settings->timer_log_file_size);
    if (status != ZR_OK) return status;
    check_judge(t);
    int64_t begin = scan_begin(t);
    k->skipped = begin > tlog_begin(&t->log);
    int64_t end = tlog_scan(&t->log, begin, link_unit, k);
    if (end < 0 && !__atomic_load_n(&t->down, __ATOMIC_ACQUIRE))
        say(t->inst, ZR_LOG_ERROR, "%s cannot be read now: nothing of it is given up, and it is tried again. If the disk never gives it, stop the broker and "
            "move it away: it is made anew from %s", (const char *)t->path.ptr, TIMER_TOPIC);
    if (end < 0) return ZR_EIO;
    *ret_whole = end == t->check.log_flushed;
    if (end < t->check.log_flushed)
        say(t->inst, ZR_LOG_WARN, "the timer log ends at %lld, before %lld that was noted: what is missing is made anew from %s", (long long)end,
            (long long)t->check.log_flushed, TIMER_TOPIC);
    return tlog_cut(&t->log, end);
}

zr_status timer_restore(struct timer *t)
{
    struct linking k = { .t = t, .least_ms = INT64_MAX, .step_ms = STEP_MAX };
    uint32_t whole = 0;
    int64_t now = wall_ms(t->inst);
    zl_buf_init(&t->path, 8192);
    t->batch = calloc(1, sizeof *t->batch);
    t->loaded = calloc(LOADED_MAX + 1, sizeof *t->loaded);
    if (!t->batch || !t->loaded || wheel_open(&t->wheel, t->precision_ms) != ZR_OK) return ZR_ENOMEM;
    zl_buf_init(&t->batch->text, 4u << 20);
    check_load(t);
    zr_status status = log_load(t, &k, &whole);
    if (status == ZR_OK) status = save_open(t);
    if (status != ZR_OK) return status;
    status = cursor_find(t, &k, whole);
    if (status != ZR_OK) return status;
    t->doubt_end = t->check.clean && whole ? t->check.doubt_end : t->log.end;
    int64_t present = slot_floor(t, now);
    t->rebuild_ms = now;
    t->done_ms = t->check.read_ms;
    t->read_ms = t->check.read_ms < present ? t->check.read_ms : present;
    if (t->read_ms < present - (int64_t)WHEEL_SLOTS / 2 * t->precision_ms) t->read_ms = k.least_ms < present ? k.least_ms : present;
    if (k.least_ms < t->read_ms) t->read_ms = k.least_ms;
    t->read_ms = slot_floor(t, t->read_ms);
    t->horizon_ms = t->read_ms;
    if (k.n || t->cursor) say(t->inst, ZR_LOG_INFO, "timed messages: %llu in the timer log, the queue goes on at %lld%s", (unsigned long long)k.n, (long long)t->cursor,
                              t->doubt_end || t->doubt_queue_end ? "; after an end without a stop, those noted before it are looked up before they leave" : "");
    wheel_mark_all_dirty(&t->wheel);
    return ZR_OK;
}
