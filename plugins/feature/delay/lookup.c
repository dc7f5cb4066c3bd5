/* SPDX-License-Identifier: Apache-2.0 */
/* lookup.c - after a crash nobody knows which of the last messages left already. The log does: what left is in it again, with
 * the same unique key, behind its timed record. The index finds it. So a crash repeats nothing. */
#include "timer.h"
#include "zl/text.h"

#define FOUND_MAX 64u
#define DAY_MS 86400000

static uint32_t same(struct zr_span a, struct zr_span b, const char *name) { return zl_eq(zl_props_get(a, name), zl_props_get(b, name)); }

static int64_t rolls(struct zr_span properties)
{
    int64_t v;
    return zl_parse_i64(zl_props_get(properties, "TIMER_ROLL_TIMES"), &v) == ZR_OK ? v : 0;
}

static uint32_t is_later(struct timer *t, int64_t physical, const struct zl_record *of, uint32_t rolled)
{
    struct zr_inst *inst = t->inst;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    if (physical <= of->physical_offset || inst->storage->record_at(inst->storage_inst, physical, &piece, &pin) != ZR_OK) return 0;
    uint32_t is = zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK && r.body_crc == of->body_crc &&
                  r.born_ms == of->born_ms && same(r.properties, of->properties, "UNIQ_KEY") && same(r.properties, of->properties, "TIMER_OUT_MS") &&
                  same(r.properties, of->properties, "REAL_QID") && same(r.properties, of->properties, "REAL_TOPIC") &&
                  (!rolled || rolls(r.properties) > rolls(of->properties));
    if (pin) inst->storage->unpin(inst->storage_inst, pin);
    return is;
}

static uint32_t found_in(struct timer *t, struct zr_str topic, struct zr_str key, const struct zl_record *r, uint32_t rolled)
{
    int64_t physical[FOUND_MAX];
    int32_t n = t->inst->storage->find_key(t->inst->storage_inst, topic, key, ZR_KEY_UNIQUE, r->store_ms - DAY_MS, INT64_MAX, physical, FOUND_MAX);
    for (int32_t i = 0; i < n; i++)
        if (is_later(t, physical[i], r, rolled)) return 1;
    return 0;
}

uint32_t was_passed_on(struct timer *t, const struct zl_record *r)
{
    struct zr_str key = zl_props_get(r->properties, "UNIQ_KEY"), topic = zl_props_get(r->properties, "REAL_TOPIC");
    if (!key.len || !topic.len) return 0;
    return found_in(t, topic, key, r, 0) || found_in(t, (struct zr_str)ZR_STR(TIMER_TOPIC), key, r, 1);
}
