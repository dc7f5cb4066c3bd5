/* SPDX-License-Identifier: Apache-2.0 */
/* lookup.c - after a crash nobody knows which of the last messages left already. The log does: what left is in it again, with
 * the same unique key, behind the record that held it. The index finds it. So a crash repeats nothing. Store times do not count:
 * the clock may have been set back between the two. */
#include "timer.h"
#include "zl/text.h"

#define FOUND_MAX 64u

static uint32_t same(struct zr_span a, struct zr_span b, const char *name) { return zl_eq(zl_props_get(a, name), zl_props_get(b, name)); }

static int64_t rolls(struct zr_span properties)
{
    int64_t v;
    return zl_parse_i64(zl_props_get(properties, "TIMER_ROLL_TIMES"), &v) == ZR_OK ? v : 0;
}

/* What each kind of copy has in common with its original, beside its body and its unique key. */
typedef uint32_t (*is_copy)(const struct zl_record *copy, const struct zl_record *of);

static uint32_t is_timed_copy(const struct zl_record *copy, const struct zl_record *of) { return same(copy->properties, of->properties, "TIMER_OUT_MS"); }

static uint32_t is_rolled_copy(const struct zl_record *copy, const struct zl_record *of)
{
    return is_timed_copy(copy, of) && rolls(copy->properties) > rolls(of->properties);
}

/* One that failed with its consumer again has a higher count, another level, or was stored later than its own copy. */
static uint32_t is_level_copy(const struct zl_record *copy, const struct zl_record *of)
{
    return copy->reconsume_times == of->reconsume_times && same(copy->properties, of->properties, "DELAY");
}

/* The end of the record there, if it is a copy; else 0. -1: it cannot be read now. */
static int64_t copy_end(struct zr_inst *inst, int64_t physical, const struct zl_record *of, is_copy is)
{
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    if (physical <= of->physical_offset) return 0;
    zr_status status = inst->storage->record_at(inst->storage_inst, physical, &piece, &pin);
    if (status != ZR_OK) return is_gone(status) ? 0 : -1;
    uint32_t found = zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK && r.body_crc == of->body_crc &&
                     r.born_ms == of->born_ms && same(r.properties, of->properties, "UNIQ_KEY") && same(r.properties, of->properties, "REAL_QID") &&
                     same(r.properties, of->properties, "REAL_TOPIC") && is(&r, of);
    if (pin) inst->storage->unpin(inst->storage_inst, pin);
    return found ? physical + r.size : 0;
}

/* Before that position of the log. 0: there is none; -1: that cannot be told now. */
static int64_t found_in(struct zr_inst *inst, struct zr_str topic, const struct zl_record *of, is_copy is, int64_t before)
{
    int64_t physical[FOUND_MAX], end = 0;
    struct zr_str key = zl_props_get(of->properties, "UNIQ_KEY");
    if (!key.len || !topic.len) return 0;
    int32_t n = inst->storage->find_key(inst->storage_inst, topic, key, ZR_KEY_UNIQUE, 0, INT64_MAX, physical, FOUND_MAX);
    uint32_t unread = n == ZR_EAGAIN || n == ZR_ENOMEM || n == ZR_EIO;
    for (int32_t i = 0; i < n && end <= 0; i++) {
        if (physical[i] < before) end = copy_end(inst, physical[i], of, is);
        unread |= end < 0;
    }
    return end <= 0 && unread ? -1 : end;
}

uint32_t was_passed_on(struct timer *t, const struct zl_record *r)
{
    int64_t end = found_in(t->inst, zl_props_get(r->properties, "REAL_TOPIC"), r, is_timed_copy, INT64_MAX);
    if (end > 0) return 1;
    int64_t rolled = found_in(t->inst, (struct zr_str)ZR_STR(TIMER_TOPIC), r, is_rolled_copy, INT64_MAX);
    return rolled > 0 ? 1 : end < 0 || rolled < 0 ? PASSED_UNKNOWN : 0;
}

int64_t level_left_end(struct zr_inst *inst, const struct zl_record *r)
{
    return found_in(inst, zl_props_get(r->properties, "REAL_TOPIC"), r, is_level_copy, inst->began_at);
}
