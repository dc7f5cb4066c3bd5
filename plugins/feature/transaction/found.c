/* SPDX-License-Identifier: Apache-2.0 */
/* found.c - a crash forgets the words whose ops were not written yet. A commit has left a message in the log, which names its half
 * record (prepared_offset) and has its unique key: the index finds it. So no commit is carried out twice. Store times
 * do not count: the clock may have been set.
 *
 * A roll-back leaves nothing but its op. One of ours says so (OP_ROLLED). One of Apache's says only that a half message needs no
 * attention any more: it was a roll-back when there is neither a committed message nor one among those that were given up. Where that cannot be known (no index, no unique key,
 * an op further on than OPS_LOOKED messages), it is none. */
#include "transaction.h"
#include "zl/text.h"

#define FOUND_MAX 64u
#define LEVEL_TOPIC "SCHEDULE_TOPIC_XXXX"
#define TIMER_TOPIC "rmq_sys_wheel_timer"

struct wanted {
    struct zr_inst *inst;
    const struct zl_record *half;
    const struct half *says;
    int64_t first;
};

static uint32_t same_message(const struct wanted *w, const struct zl_record *r, const struct half *says)
{
    return r->body_crc == w->half->body_crc && r->born_ms == w->half->born_ms && zl_eq(says->unique, w->says->unique) && zl_eq(says->group, w->says->group);
}

#define NOT_KNOWN 2u

static uint32_t is_gone(zr_status status) { return status == ZR_ENOENT || status == ZR_ECORRUPT; }

/* The half record at that position is this transaction's: its first one, or one that was written anew. NOT_KNOWN: it cannot be read
 * now. */
static uint32_t is_of_ours(const struct wanted *w, int64_t prepared)
{
    struct zr_inst *inst = w->inst;
    struct zr_piece piece;
    struct zl_record r;
    struct half h;
    const char *why;
    uint64_t pin = 0;
    uint32_t copied = half_times(w->says) || w->says->first.len;
    if (prepared == w->half->physical_offset) return 1;
    zr_status status = inst->storage->record_at(inst->storage_inst, prepared, &piece, &pin);
    if (status != ZR_OK && !is_gone(status)) return NOT_KNOWN;
    if (status != ZR_OK) return copied && prepared < w->half->physical_offset; /* retention took the first one */
    uint32_t is = 0;
    if (zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK && zl_is(r.topic, HALF_TOPIC)) {
        half_read(r.properties, &h);
        is = same_message(w, &r, &h) && (half_first(&h, r.queue_offset) == w->first || copied || half_times(&h)); /* Apache's copies do not name the first one */
    }
    if (pin) inst->storage->unpin(inst->storage_inst, pin);
    return is;
}

/* -1: that cannot be told now. */
static int64_t committed_at(const struct wanted *w, int64_t physical)
{
    struct zr_inst *inst = w->inst;
    struct zr_piece piece;
    struct zl_record r;
    struct half h;
    const char *why;
    uint64_t pin = 0;
    int64_t end = 0;
    zr_status status = inst->storage->record_at(inst->storage_inst, physical, &piece, &pin);
    if (status != ZR_OK) return is_gone(status) ? 0 : -1;
    if (zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK && (r.sys_flag & ZR_SYSFLAG_TRANSACTION_MASK) == ZR_SYSFLAG_COMMIT) {
        half_read(r.properties, &h);
        uint32_t ours = same_message(w, &r, &h) && r.prepared_offset < physical ? is_of_ours(w, r.prepared_offset) : 0;
        end = ours == NOT_KNOWN ? -1 : ours ? physical + r.size : 0;
    }
    if (pin) inst->storage->unpin(inst->storage_inst, pin);
    return end;
}

static int64_t committed_in(const struct wanted *w, struct zr_str topic)
{
    int64_t physical[FOUND_MAX], end = 0;
    struct zr_inst *inst = w->inst;
    int32_t n = inst->storage->find_key(inst->storage_inst, topic, w->says->unique, ZR_KEY_UNIQUE, 0, INT64_MAX, physical, FOUND_MAX);
    uint32_t unread = n == ZR_EAGAIN || n == ZR_ENOMEM || n == ZR_EIO;
    for (int32_t i = 0; i < n && end <= 0; i++) {
        end = committed_at(w, physical[i]);
        unread |= end < 0;
    }
    return end <= 0 && unread ? -1 : end;
}

/* One with a delay was held back when it was committed, and what came of that does not name the half record. */
static uint32_t is_delayed(struct zr_span properties)
{
    static const char *const names[] = { "DELAY", "TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS" };
    for (uint32_t i = 0; i < sizeof names / sizeof *names; i++)
        if (zl_props_get(properties, names[i]).len) return 1;
    return 0;
}

int64_t committed_end(struct zr_inst *inst, const struct zl_record *r, const struct half *h, int64_t first)
{
    struct wanted w = { inst, r, h, first };
    if (!h->unique.len || !h->topic.len) return 0;
    int64_t end = committed_in(&w, h->topic);
    if (!end && is_delayed(r->properties)) end = committed_in(&w, (struct zr_str)ZR_STR(LEVEL_TOPIC));
    if (!end && is_delayed(r->properties)) end = committed_in(&w, (struct zr_str)ZR_STR(TIMER_TOPIC));
    return end;
}

#define OPS_LOOKED 4096u /* op messages, each of up to op_size bytes, from the half message's time on */
#define OPS_PIECES 64u

#define NAMED 1u
#define NAMED_ROLLED_BACK 2u

static uint32_t body_names(const struct zl_record *r, int64_t offset, int64_t first)
{
    int64_t named;
    uint64_t pos = 0;
    struct zr_str rolled = zl_props_get(r->properties, OP_ROLLED);
    if (!zl_is(zl_props_get(r->properties, "TAGS"), "d")) return 0;
    while (op_next((struct zr_span){ (const uint8_t *)rolled.ptr, rolled.len }, &pos, &named))
        if (named == first) return NAMED_ROLLED_BACK;
    pos = 0;
    while (op_next(r->body, &pos, &named))
        if (named == offset || named == first) return NAMED;
    return 0;
}

static uint32_t pieces_name(const struct zr_piece *pieces, uint32_t n, int64_t offset, int64_t first)
{
    struct zl_record r;
    const char *why;
    uint32_t found = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct zr_span left = { pieces[i].ptr, pieces[i].len };
        while (left.ptr && left.len && zl_record_parse(left, 0, &r, &why) == ZR_OK && r.size && r.size <= left.len) {
            uint32_t is = body_names(&r, offset, first);
            if (is > found) found = is;
            left.ptr += r.size;
            left.len -= r.size;
        }
    }
    return found;
}

static uint32_t ops_name(struct zr_inst *inst, const struct zl_record *half, int64_t first)
{
    struct zr_piece pieces[OPS_PIECES];
    int64_t next = 0, looked = 0;
    uint32_t found = 0;
    if (inst->storage->offset_at(inst->storage_inst, inst->op_queue, half->store_ms, 0, &next) != ZR_OK) return 0;
    while (found != NAMED_ROLLED_BACK && looked < OPS_LOOKED) { /* one that was written anew is named before it ends */
        struct zr_read read = { .hdr = ZR_HDR(struct zr_read, 0), .queue = inst->op_queue, .pieces = pieces, .cap_pieces = OPS_PIECES, .offset = next, .max_messages = OPS_PIECES };
        struct zr_read_result got = { .hdr = ZR_HDR(struct zr_read_result, 0) };
        if (inst->storage->read(inst->storage_inst, &read, &got) != ZR_OK) break;
        uint32_t is = got.what == ZR_READ_FOUND ? pieces_name(pieces, got.n_pieces, half->queue_offset, first) : 0;
        if (is > found) found = is;
        if (got.pin) inst->storage->unpin(inst->storage_inst, got.pin);
        if (got.what != ZR_READ_FOUND || got.next_offset <= next) break;
        looked += got.next_offset - next;
        next = got.next_offset;
    }
    return found;
}

/* 0: it was not, as far as the index knows. -1: there is none. */
static int32_t was_given_up(const struct wanted *w)
{
    int64_t physical[FOUND_MAX];
    struct zr_inst *inst = w->inst;
    int32_t is = 0, n = inst->storage->find_key(inst->storage_inst, (struct zr_str)ZR_STR(DISCARD_TOPIC), w->says->unique, ZR_KEY_UNIQUE, 0, INT64_MAX, physical, FOUND_MAX);
    for (int32_t i = 0; i < n && !is; i++) {
        struct zr_piece piece;
        struct zl_record r;
        struct half h;
        const char *why;
        uint64_t pin = 0;
        if (inst->storage->record_at(inst->storage_inst, physical[i], &piece, &pin) != ZR_OK) return -1;
        if (zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK) {
            half_read(r.properties, &h);
            is = (int32_t)same_message(w, &r, &h);
        }
        if (pin) inst->storage->unpin(inst->storage_inst, pin);
    }
    return n < 0 ? -1 : is;
}

uint32_t rolled_back_before(struct zr_inst *inst, const struct zl_record *r, const struct half *h, int64_t first)
{
    struct wanted w = { inst, r, h, first };
    uint32_t named = ops_name(inst, r, first);
    return named == NAMED_ROLLED_BACK || (named && h->unique.len && h->topic.len && was_given_up(&w) == 0);
}
