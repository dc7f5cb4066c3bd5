/* SPDX-License-Identifier: Apache-2.0 */
/* read.c - giving records back.
 *
 * A read walks queue entries in small arrays, lets the filter judge their tag codes many at a time, and touches the log only
 * for those that may match. Records that lie side by side become one piece. What stays true:
 *   1. Nothing behind the visible position is given.
 *   2. A record is given only if its header says it is that record: size, magic, physical offset. What an earlier process
 *      wrote, or what was long out of memory, is checked by its body's checksum, topic, queue and queue offset too: no wrong
 *      body is delivered, and none to the wrong queue.
 *   3. What cannot be given (deleted, damaged, lost) is skipped, and next_offset goes on behind it. What cannot be given now,
 *      for descriptors or memory are short, ends the answer before it: nothing whole is passed over.
 *   4. With ZR_READ_NOWAIT no page is touched that is not in memory: records younger than recent_bytes are taken to be there,
 *      of others mincore is asked.
 *   5. Without it, what is not in memory is brought in by pread first, so that a failing disk is an errno, not a signal.
 *   6. Judging by properties takes at most ZR_FILTER_STEPS in one read: the answer ends before the message that would take more.
 *   7. Pieces stay valid until unpin: their segments cannot be closed, unmapped or given up before, nor their blocks (zs_pack.h).
 *      Of a packed segment's blocks invariants 4 and 5 are the cache's: with NOWAIT nothing is decompressed. */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include "ext.h"
#include "zs_pack.h"

#define ENTRIES 64u
#define LEAST_SCAN 800u
#define BY_TAGS 8u /* entries that tags alone decide, for one whose record is read */
#define PAGE 4096u
#define WINDOW_PAGES 32u
#define MAX_BYTES (128u << 20)

struct pin { /* more than one hold; a single one is its own pin. The low bit of the number tells them apart */
    uint32_t n;
    uint64_t pins[ZS_PINS];
};

struct reading {
    struct zr_inst *st;
    const struct zr_read *req;
    struct zr_read_result *ret;
    struct zr_queue *q;
    struct zs_hold *holds; /* ZS_PINS, of which the first n_holds are held */
    uint32_t n_holds;
    uint32_t max_messages, max_scan, scanned;
    uint32_t weight; /* of an entry whose record is read, in what max_scan counts */
    uint64_t max_bytes;
    int64_t next, max, end, last_phys;
    int64_t behind; /* the queue offset behind the last record given */
    int64_t healed; /* offset + 1 of the last healing: one for each place */
    uint32_t later; /* what is at next cannot be had now, and is not passed over */
    uint64_t steps; /* that judging by properties may still take */
    const uint8_t *window; /* residency of WINDOW_PAGES pages from here, as last asked */
    uint8_t in_core[WINDOW_PAGES];
};

/* ---- memory ---------------------------------------------------------------------------------------------------------------- */

uint32_t zs_in_memory(const uint8_t *ptr, uint64_t len)
{
    uint8_t core[WINDOW_PAGES];
    const uint8_t *at = (const uint8_t *)((uintptr_t)ptr & ~(uintptr_t)(PAGE - 1)), *end = ptr + len;
    while (at < end) {
        uint64_t pages = ((uint64_t)(end - at) + PAGE - 1) / PAGE;
        if (pages > WINDOW_PAGES) pages = WINDOW_PAGES;
        if (mincore((void *)(uintptr_t)at, pages * PAGE, core) != 0) return 1;
        for (uint64_t i = 0; i < pages; i++)
            if (!(core[i] & 1)) return 0;
        at += pages * PAGE;
    }
    return 1;
}

/* The same, with one question for many neighbouring records. */
static uint32_t window_resident(struct reading *r, const struct zs_seg *seg, const uint8_t *ptr, uint64_t len)
{
    const uint8_t *first = (const uint8_t *)((uintptr_t)ptr & ~(uintptr_t)(PAGE - 1));
    const uint8_t *map_end = seg->map + r->st->segs.size;
    if (len > (WINDOW_PAGES - 1) * PAGE) return zs_in_memory(ptr, len);
    if (!r->window || first < r->window || ptr + len > r->window + WINDOW_PAGES * PAGE) {
        uint64_t bytes = WINDOW_PAGES * PAGE;
        if (bytes > (uint64_t)(map_end - first)) bytes = (uint64_t)(map_end - first);
        if (mincore((void *)(uintptr_t)first, bytes, r->in_core) != 0) return 1;
        r->window = first;
    }
    for (const uint8_t *p = first; p < ptr + len; p += PAGE)
        if (!(r->in_core[(p - r->window) / PAGE] & 1)) return 0;
    return 1;
}

int64_t zs_bring_in(struct zr_inst *st, struct zs_seg *seg, int64_t off, uint64_t len)
{
    uint8_t scratch[16384];
    if (off + (int64_t)len > st->segs.size) return -EINVAL;
    while (len) {
        uint64_t n = len < sizeof scratch ? len : sizeof scratch;
        int64_t r = zl_io_read_all(st->io, seg->fd, scratch, n, off);
        if (r < 0) return r;
        off += (int64_t)n;
        len -= n;
    }
    return 0;
}

int64_t zs_store_ms(const uint8_t *record)
{
    uint32_t flag = zl_load32(record + 36);
    return (int64_t)zl_load64(record + 56 + (flag & ZR_SYSFLAG_BORNHOST_V6 ? 12 : 0));
}

/* Young enough to be in memory as this process wrote it. */
static uint32_t is_recent(const struct zr_inst *st, int64_t phys, int64_t end)
{
    return phys >= atomic_load_explicit(&st->boot_end, memory_order_relaxed) && end - phys <= st->recent_bytes;
}

/* Does ptr hold the record of this entry? whole: compare the body's checksum too. */
static uint32_t record_good(const uint8_t *ptr, int64_t phys, uint64_t size, uint32_t whole)
{
    uint32_t magic = zl_load32(ptr + 4);
    struct zl_record rec;
    const char *why;
    if (zl_load32(ptr) != size || (int64_t)zl_load64(ptr + 28) != phys) return 0;
    if (magic != ZL_MAGIC_V1 && magic != ZL_MAGIC_V2) return 0;
    return !whole || zl_record_parse((struct zr_span){ ptr, size }, 1, &rec, &why) == ZR_OK;
}

/* Where its body's length is. */
static uint32_t body_len_at(const uint8_t *ptr)
{
    uint32_t flag = zl_load32(ptr + 36);
    return 84 + (flag & ZR_SYSFLAG_BORNHOST_V6 ? 12 : 0) + (flag & ZR_SYSFLAG_STOREHOST_V6 ? 12 : 0);
}

static uint32_t topic_is(const uint8_t *ptr, uint64_t size, const struct zr_queue *q)
{
    uint64_t at = body_len_at(ptr), len_size = zl_load32(ptr + 4) == ZL_MAGIC_V2 ? 2 : 1;
    if (at + 4 > size) return 0;
    at += 4 + (uint64_t)zl_load32(ptr + at);
    if (at + len_size + q->topic_len > size) return 0;
    uint32_t len = len_size == 2 ? zl_load16(ptr + at) : ptr[at];
    return len == q->topic_len && memcmp(ptr + at + len_size, q->topic, len) == 0;
}

/* Is it the message that the queue has at this offset? A light queue's entries point to records of other queues. */
static uint32_t record_belongs(const struct reading *r, const uint8_t *ptr, uint64_t size)
{
    if (zs_queue_light(r->q)) return 1;
    if (!topic_is(ptr, size, r->q)) return 0;
    int64_t in = r->next - (int64_t)zl_load64(ptr + 20); /* a batch has entries for each of its messages */
    uint32_t most = zl_load32(ptr + 36) & ZR_SYSFLAG_INNER_BATCH ? 32767 : 1;
    return (int32_t)zl_load32(ptr + 12) == r->q->id && in >= 0 && in < most;
}

/* Has [phys, phys + len) held in *h and, if it may not be in memory, read once so that an error of the disk shows here. Held
 * only with ZR_OK; ZR_ENOENT: nothing is there any more. */
static zr_status hold_bytes(struct zr_inst *st, int64_t phys, uint64_t len, uint32_t recent, struct zs_hold *h)
{
    int got = zs_hold_get(st, phys, len, 0, h);
    if (got <= 0) return got == 0 ? ZR_ENOENT : got == ZS_HOLD_UNREAD ? ZR_EIO : ZR_EAGAIN;
    if (!h->seg || recent) return ZR_OK;
    int64_t r = zs_bring_in(st, h->seg, phys - h->from, len);
    if (r >= 0) return ZR_OK;
    zs_hold_put(st, h->pin);
    return r == -ENOMEM ? ZR_ENOMEM : r == -EINVAL ? ZR_ENOENT : r == -EAGAIN || r == -EINTR ? ZR_EAGAIN : ZR_EIO;
}

/* ---- one record -------------------------------------------------------------------------------------------------------------- */

#define GOT_RECORD 1
#define GOT_NOTHING 0  /* gone or damaged: go on behind it */
#define GOT_BUSY (-1)  /* not in memory */
#define GOT_FULL (-2)  /* needs one hold too many for this read */
#define GOT_WRONG (-3) /* the entry leads to no record of its own: either of the two is damaged */
#define GOT_LATER (-4) /* it is there, and cannot be had now */

/* What holds [phys, phys + size): one of those there are, or a new one. */
static const struct zs_hold *held(struct reading *r, int64_t phys, uint64_t size, int *ret_why)
{
    for (uint32_t i = r->n_holds; i > 0; i--)
        if (phys >= r->holds[i - 1].from && phys + (int64_t)size <= r->holds[i - 1].to) return &r->holds[i - 1];
    if (r->n_holds == ZS_PINS) {
        *ret_why = GOT_FULL;
        return NULL;
    }
    struct zs_hold *h = &r->holds[r->n_holds];
    int got = zs_hold_get(r->st, phys, size, r->req->flags & ZR_READ_NOWAIT, h);
    if (got > 0) {
        r->n_holds++;
        return h;
    }
    *ret_why = got == ZS_HOLD_LATER ? GOT_LATER : got == ZS_HOLD_BUSY ? GOT_BUSY : GOT_NOTHING;
    return NULL;
}

/* Has a plain segment's record in memory. GOT_RECORD, GOT_NOTHING, GOT_BUSY. */
static int record_bring(struct reading *r, const struct zs_hold *h, const uint8_t *ptr, const struct zs_entry *e)
{
    struct zr_inst *st = r->st;
    uint64_t size = (uint64_t)e->size;
    int64_t off = e->phys - h->from;
    if (window_resident(r, h->seg, ptr, size)) return GOT_RECORD;
    if (r->req->flags & ZR_READ_NOWAIT) return GOT_BUSY;
    zs_advise(st, h->fd, off, size);
    int64_t rc = zs_bring_in(st, h->seg, off, size);
    r->window = NULL;
    if (rc >= 0) return GOT_RECORD;
    zs_log(st, ZR_LOG_ERROR, "the record at %lld cannot be read: %s", (long long)e->phys, zs_errno_text(rc));
    zs_count(st, ZS_M_DAMAGED, 1);
    return GOT_NOTHING;
}

/* No record lies in two segments. */
static uint32_t crosses(struct zr_inst *st, const struct zs_entry *e)
{
    int64_t in = (e->phys - zs_segs_first(st)) % st->segs.size;
    return in < 0 || in + e->size > st->segs.size;
}

/* An entry that speaks of a record larger than any that is taken here: is there one? Before anything of that size is read. */
static int large_there(const struct reading *r, const struct zs_entry *e)
{
    struct zs_hold h;
    if (r->req->flags & ZR_READ_NOWAIT) return GOT_BUSY;
    zr_status status = hold_bytes(r->st, e->phys, ZS_HEAD, 0, &h);
    if (status != ZR_OK) return status == ZR_ENOENT ? GOT_WRONG : status == ZR_EIO ? GOT_NOTHING : GOT_LATER;
    const uint8_t *head = zs_hold_at(&h, e->phys);
    uint32_t good = zl_load32(head) == (uint32_t)e->size && zs_sizes_agree(head, (uint64_t)e->size);
    zs_hold_put(r->st, h.pin);
    return good ? GOT_RECORD : GOT_WRONG;
}

static int record_find(struct reading *r, const struct zs_entry *e, const struct zs_hold **ret_hold, const uint8_t **ret_ptr)
{
    struct zr_inst *st = r->st;
    int why = GOT_NOTHING;
    uint64_t size = (uint64_t)e->size;
    if (size < 91 || e->phys > zs_visible(st) - e->size || e->phys < atomic_load(&st->begin)) return GOT_WRONG;
    if (size > ZS_LARGE_RECORD) {
        why = crosses(st, e) ? GOT_WRONG : large_there(r, e);
        if (why != GOT_RECORD) return why;
        why = GOT_NOTHING;
    }
    const struct zs_hold *h = held(r, e->phys, size, &why);
    if (!h && why == GOT_NOTHING && (crosses(st, e) || !zs_seg_shut_out(st, e->phys))) return GOT_WRONG;
    if (!h) return why;
    const uint8_t *ptr = zs_hold_at(h, e->phys);
    uint32_t recent = h->seg && is_recent(st, e->phys, r->end);
    if (h->seg && !recent) {
        why = record_bring(r, h, ptr, e);
        if (why != GOT_RECORD) return why;
    }
    if (!record_good(ptr, e->phys, size, !recent) || (!recent && !record_belongs(r, ptr, size))) {
        zs_count(st, ZS_M_DAMAGED, 1);
        zs_log(st, ZR_LOG_ERROR, "queue %s %d: at %lld is not the whole record of offset %lld", r->q->topic, r->q->id, (long long)e->phys,
               (long long)r->next);
        return GOT_WRONG;
    }
    *ret_hold = h;
    *ret_ptr = ptr;
    return GOT_RECORD;
}

/* ZR_MATCH_ASK: the steps of this read are used up; the next one has all of them again, and for it a message that takes more is none. */
static uint32_t judged(struct reading *r, const uint8_t *ptr, uint64_t size)
{
    const struct zr_filter_v1 *f = r->req->filter;
    struct zl_record rec;
    const char *why;
    if (zl_record_parse((struct zr_span){ ptr, size }, 0, &rec, &why) != ZR_OK) return ZR_MATCH_NO;
    if (!ZR_HAS(struct zr_filter_v1, f, by_properties_within) || !f->by_properties_within)
        return f->by_properties(r->req->prog, rec.properties);
    uint32_t fresh = r->steps == ZR_FILTER_STEPS, verdict = f->by_properties_within(r->req->prog, rec.properties, &r->steps);
    return verdict == ZR_MATCH_ASK && fresh ? ZR_MATCH_NO : verdict;
}

/* Adds the record to the answer; 0: the array of pieces is full. */
static uint32_t piece_add(struct reading *r, const struct zs_hold *h, const uint8_t *ptr, uint64_t size)
{
    struct zr_read_result *ret = r->ret;
    struct zr_piece *last = ret->n_pieces ? &r->req->pieces[ret->n_pieces - 1] : NULL;
    if (last && last->fd == h->fd && last->ptr + last->len == ptr) {
        last->len += size;
    } else {
        if (ret->n_pieces == r->req->cap_pieces) return 0;
        r->req->pieces[ret->n_pieces++] = (struct zr_piece){ .ptr = ptr, .len = size, .off = h->seg ? ptr - h->ptr : 0, .fd = h->fd };
    }
    ret->bytes += size;
    ret->n_messages++;
    return 1;
}

/* ---- the walk ------------------------------------------------------------------------------------------------------------------ */

/* RocketMQ's limits of one answer: the first message always goes. */
static uint32_t answer_full(const struct reading *r, const struct zs_entry *e)
{
    const struct zs_conf *c = &r->st->conf;
    const struct zr_read_result *ret = r->ret;
    uint32_t cold = r->end - e->phys > r->st->memory_bytes;
    int64_t bytes = cold ? c->max_cold_bytes : c->max_hot_bytes, count = cold ? c->max_cold_messages : c->max_hot_messages;
    if (ret->n_messages == 0) return 0;
    if (ret->n_messages >= r->max_messages || ret->n_messages >= (uint64_t)count) return 1;
    return ret->bytes + (uint64_t)e->size > r->max_bytes || ret->bytes + (uint64_t)e->size > (uint64_t)bytes;
}

/* The queue offset behind this record, whose entry is at r->next. */
static int64_t offset_behind(const struct reading *r, const uint8_t *ptr, uint64_t size)
{
    struct zl_record rec;
    const char *why;
    if (!(zl_load32(ptr + 36) & ZR_SYSFLAG_INNER_BATCH) || zl_record_parse((struct zr_span){ ptr, size }, 0, &rec, &why) != ZR_OK)
        return r->next + 1;
    int64_t behind = rec.queue_offset + zl_record_offsets(&rec);
    return behind > r->next ? behind : r->next + 1;
}

/* The answer ends here, and the next one begins here. */
static void stop_short(struct reading *r)
{
    r->later = 1;
    if (r->ret->n_messages == 0) r->ret->what = ZR_READ_OFFSET_FOUND_NULL;
}

/* Looks at one entry. 1: go on; 0: the answer ends before it; -1: it would have to wait; GOT_WRONG. */
static int entry_take(struct reading *r, const struct zs_entry *e, uint32_t verdict)
{
    const struct zs_hold *hold;
    const uint8_t *ptr;
    if (zs_entry_real(e)) {
        if (answer_full(r, e)) return 0;
        r->last_phys = e->phys;
        if (verdict == ZR_MATCH_NO) {
            r->ret->n_filtered++;
            if (r->ret->n_messages == 0) r->ret->what = ZR_READ_NO_MATCHED_MESSAGE;
            return 1;
        }
    }
    int got = zs_entry_real(e) ? record_find(r, e, &hold, &ptr) : e->size == ZS_FILLER ? GOT_NOTHING : GOT_WRONG;
    if (got == GOT_BUSY) return -1;
    if (got == GOT_LATER) stop_short(r);
    if (got == GOT_FULL || got == GOT_LATER) return 0;
    if (got == GOT_WRONG) return GOT_WRONG;
    if (got == GOT_NOTHING) {
        if (r->ret->n_messages == 0) r->ret->what = ZR_READ_MESSAGE_WAS_REMOVING;
        return 1;
    }
    if (verdict == ZR_MATCH_ASK) verdict = judged(r, ptr, (uint64_t)e->size);
    if (verdict == ZR_MATCH_ASK) return 0;
    if (verdict == ZR_MATCH_NO) {
        r->ret->n_filtered++;
        if (r->ret->n_messages == 0) r->ret->what = ZR_READ_NO_MATCHED_MESSAGE;
        return 1;
    }
    if (!piece_add(r, hold, ptr, (uint64_t)e->size)) return 0;
    r->ret->what = ZR_READ_FOUND;
    r->behind = offset_behind(r, ptr, (uint64_t)e->size);
    return 1;
}

/* Up to ENTRIES entries at next, judged by the filter. How many; 0: none can be had; -EAGAIN. */
static int64_t chunk_load(struct reading *r, struct zs_entry *entries, uint8_t *verdicts)
{
    uint8_t raw[ENTRIES * ZS_ENTRY], told[ENTRIES];
    const struct zr_bits *bits = ZR_HAS(struct zr_read, r->req, bits) ? r->req->bits : NULL;
    int64_t tags[ENTRIES], want = r->max - r->next;
    if (want > (int64_t)ENTRIES) want = ENTRIES;
    if (want > (int64_t)(r->max_scan - r->scanned)) want = r->max_scan - r->scanned;
    int64_t n = zs_queue_copy(r->st, r->q, r->next, (uint32_t)want, raw, r->req->flags & ZR_READ_NOWAIT);
    if (n <= 0) return n;
    uint32_t addresses = 0;
    for (int64_t i = 0; i < n; i++) {
        zs_entry_load(raw + i * ZS_ENTRY, &entries[i]);
        addresses |= entries[i].tags <= ZS_EXT_ADDRESS;
    }
    if (addresses && (r->req->flags & ZR_READ_NOWAIT)) return -EAGAIN; /* files must be read for it */
    if (addresses) zs_tags_resolve(r->st, r->q, entries, (uint32_t)n, bits, told);
    for (int64_t i = 0; i < n; i++) tags[i] = entries[i].tags;
    if (r->req->filter && r->req->prog) r->req->filter->by_tags(r->req->prog, tags, (uint32_t)n, verdicts);
    else memset(verdicts, ZR_MATCH_YES, (size_t)n);
    for (int64_t i = 0; addresses && i < n; i++) {
        if (told[i] == ZS_TAGS_BARRED && verdicts[i] == ZR_MATCH_ASK) verdicts[i] = ZR_MATCH_NO;
        if (told[i] == ZS_TAGS_UNKNOWN) verdicts[i] = ZR_MATCH_YES; /* clients look at the tags again */
    }
    return n;
}

/* An entry that is lost. Makes it anew from the log, or, where that may not be done now, says that it must wait. */
static int lost_entry(struct reading *r)
{
    if (r->ret->n_messages) return 0; /* what is there first */
    if (r->req->flags & ZR_READ_NOWAIT) return -1;
    if (r->healed == r->next + 1) return 0;
    r->healed = r->next + 1;
    int done = zs_heal(r->st, r->q, r->next);
    if (done < 0) stop_short(r);
    return done > 0;
}

/* An entry that leads to no record of its own. If the record is whole, the entry is made anew; else the message is passed over.
 * 1: go on; 0: the answer ends before it; -1: it would have to wait. */
static int wrong_entry(struct reading *r)
{
    if (r->ret->n_messages) return 0; /* what is there first */
    if (r->req->flags & ZR_READ_NOWAIT) return -1;
    if (r->healed != r->next + 1 && !zs_queue_light(r->q)) {
        r->healed = r->next + 1;
        int done = zs_heal(r->st, r->q, r->next);
        if (done < 0) stop_short(r);
        if (done) return done > 0;
    }
    r->ret->what = ZR_READ_MESSAGE_WAS_REMOVING;
    r->next++;
    r->scanned++;
    return 1;
}

static void skip_lost(struct reading *r)
{
    int64_t per = r->st->conf.queue_file_size / ZS_ENTRY, behind = (r->next / per + 1) * per;
    r->next = behind < r->max ? behind : r->max;
    r->ret->what = ZR_READ_OFFSET_FOUND_NULL;
}

/* 0, or -1: nothing could be given without waiting. */
static int walk(struct reading *r)
{
    struct zs_entry entries[ENTRIES];
    uint8_t verdicts[ENTRIES];
    while (r->next < r->max && r->scanned < r->max_scan) {
        int64_t n = chunk_load(r, entries, verdicts);
        if (n == -EAGAIN) return r->ret->n_messages ? 0 : -1;
        if (n < 0) { /* the disk may read again later: nothing is passed over */
            zs_log(r->st, ZR_LOG_ERROR, "queue %s %d cannot be read at %lld: %s", r->q->topic, r->q->id, (long long)r->next, zs_errno_text(n));
            if (r->ret->n_messages == 0) r->ret->what = ZR_READ_OFFSET_FOUND_NULL;
            return 0;
        }
        uint32_t lost = n == 0, wrong = 0;
        for (int64_t i = 0; i < n; i++) {
            if (entries[i].size <= 0) {
                lost = 1;
                break;
            }
            int go = entry_take(r, &entries[i], verdicts[i]);
            if (go == GOT_WRONG) {
                wrong = 1;
                break;
            }
            if (go <= 0) return go < 0 && r->ret->n_messages == 0 ? -1 : 0;
            int64_t behind = r->behind > r->next ? r->behind : r->next + 1; /* the other entries of a batch are passed over */
            r->scanned += verdicts[i] == ZR_MATCH_NO ? 1 : r->weight;
            i += behind - r->next - 1;
            r->next = behind;
        }
        if (!lost && !wrong) continue;
        int go = wrong ? wrong_entry(r) : lost_entry(r);
        if (go < 0) return -1;
        if (go == 0) {
            if (r->ret->n_messages == 0 && lost && !r->later) skip_lost(r);
            return 0;
        }
    }
    return 0;
}

/* The cases in which no entry is looked at, in RocketMQ's order. 1: that was one. */
static uint32_t out_of_bounds(struct reading *r, int64_t min)
{
    struct zr_read_result *ret = r->ret;
    int64_t offset = r->req->offset;
    if (r->max == 0) {
        ret->what = ZR_READ_NO_MESSAGE_IN_QUEUE;
        ret->next_offset = 0;
    } else if (offset < min) {
        ret->what = ZR_READ_OFFSET_TOO_SMALL;
        ret->next_offset = min;
    } else if (offset == r->max) {
        ret->what = ZR_READ_OFFSET_OVERFLOW_ONE;
        ret->next_offset = offset;
    } else if (offset > r->max) {
        ret->what = ZR_READ_OFFSET_OVERFLOW_BADLY;
        ret->next_offset = r->max;
    } else {
        return 0;
    }
    return 1;
}

static void release_unused(struct reading *r, uint32_t keep)
{
    while (r->n_holds > keep) zs_hold_put(r->st, r->holds[--r->n_holds].pin);
}

/* Turns the holds into one number. 0: no memory; nothing is held any more. */
static uint64_t pin_make(struct reading *r)
{
    if (r->n_holds == 1) return r->holds[0].pin;
    struct pin *p = malloc(sizeof *p);
    if (!p) {
        release_unused(r, 0);
        return 0;
    }
    p->n = r->n_holds;
    for (uint32_t i = 0; i < p->n; i++) p->pins[i] = r->holds[i].pin;
    return (uint64_t)(uintptr_t)p | 1u;
}

void zs_unpin(struct zr_inst *st, uint64_t pin)
{
    if (pin == 0) return;
    if (!(pin & 1)) {
        zs_hold_put(st, pin);
        return;
    }
    struct pin *p = (struct pin *)(uintptr_t)(pin & ~(uint64_t)1);
    for (uint32_t i = 0; i < p->n; i++) zs_hold_put(st, p->pins[i]);
    free(p);
}

static zr_status finish(struct reading *r, int went)
{
    struct zr_read_result *ret = r->ret;
    if (went < 0) {
        release_unused(r, 0);
        return ZR_EAGAIN;
    }
    ret->next_offset = r->next;
    ret->far_behind = r->end - r->last_phys > r->st->memory_bytes;
    if (ret->n_messages == 0) {
        release_unused(r, 0);
        return ZR_OK;
    }
    ret->pin = pin_make(r);
    if (ret->pin) return ZR_OK;
    ret->n_pieces = ret->n_messages = 0;
    ret->bytes = 0;
    return ZR_ENOMEM;
}

static void reading_limits(struct reading *r)
{
    const struct zr_read *req = r->req;
    r->max_messages = req->max_messages ? req->max_messages : 1;
    r->max_bytes = req->max_bytes == 0 || req->max_bytes > MAX_BYTES ? MAX_BYTES : (req->max_bytes < 100 ? 100 : req->max_bytes);
    r->weight = req->max_scan ? 1 : BY_TAGS;
    r->max_scan = req->max_scan ? req->max_scan : r->weight * (req->max_messages > LEAST_SCAN ? req->max_messages : LEAST_SCAN);
}

static void result_clear(struct zr_read_result *ret)
{
    ret->next_offset = ret->min_offset = ret->max_offset = 0;
    ret->bytes = ret->pin = 0;
    ret->n_pieces = ret->n_messages = ret->n_filtered = ret->far_behind = 0;
    ret->what = ZR_READ_NO_MATCHED_LOGIC_QUEUE;
}

zr_status zs_read(struct zr_inst *st, const struct zr_read *req, struct zr_read_result *ret)
{
    struct zs_hold holds[ZS_PINS];
    struct reading r = { .st = st, .req = req, .ret = ret, .holds = holds };
    result_clear(ret);
    if (req->cap_pieces == 0) return ZR_EINVAL;
    r.q = req->queue ? req->queue : zs_queue_find(st, req->topic, req->queue_id);
    if (!r.q) return ZR_OK;
    if ((req->flags & ZR_READ_NOWAIT) && !zs_queue_min_known(st, r.q)) return ZR_EAGAIN;
    reading_limits(&r);
    r.steps = ZR_FILTER_STEPS;
    zs_bounds(st, r.q, &ret->min_offset, &ret->max_offset);
    r.max = ret->max_offset;
    r.next = req->offset;
    r.end = atomic_load(&st->end);
    if (out_of_bounds(&r, ret->min_offset)) return ZR_OK;
    ret->what = ZR_READ_NO_MATCHED_MESSAGE;
    return finish(&r, walk(&r));
}

/* ---- single records ---------------------------------------------------------------------------------------------------------------- */

/* As record_at of the ABI, of any record up to the log's end. */
static zr_status record_take(struct zr_inst *st, int64_t phys, int32_t size, uint32_t check, struct zl_record *ret, struct zs_hold *h)
{
    const char *why;
    int64_t end = atomic_load(&st->end);
    if (phys < atomic_load(&st->begin) || phys > end - 91) return ZR_ENOENT;
    uint32_t recent = is_recent(st, phys, end);
    zr_status status = hold_bytes(st, phys, 91, recent, h);
    if (status != ZR_OK) return status;
    uint32_t real = zl_load32(zs_hold_at(h, phys)), whole = check && (!recent || !h->seg);
    status = ZR_ENOENT;
    if (real > end - phys || real < 91 || (size && (uint32_t)size != real)) goto no;
    if (real > ZS_LARGE_RECORD) {
        zs_hold_put(st, h->pin);
        status = hold_bytes(st, phys, ZS_HEAD, recent, h);
        if (status != ZR_OK) return status;
        status = ZR_ENOENT;
        if (!zs_sizes_agree(zs_hold_at(h, phys), real)) goto no;
    }
    if (whole || phys + (int64_t)real > h->to) {
        zs_hold_put(st, h->pin);
        status = hold_bytes(st, phys, real, recent || !check, h);
        if (status != ZR_OK) return status;
        status = ZR_ENOENT;
    }
    const uint8_t *ptr = zs_hold_at(h, phys);
    if (!record_good(ptr, phys, real, 0)) goto no;
    status = ZR_ECORRUPT;
    if (zl_record_parse((struct zr_span){ ptr, real }, whole, ret, &why) != ZR_OK) goto no;
    return ZR_OK;
no:
    zs_hold_put(st, h->pin);
    return status;
}

uint32_t zs_record_get(struct zr_inst *st, int64_t phys, int32_t size, uint32_t check, struct zl_record *ret, struct zs_hold *h)
{
    return record_take(st, phys, size, check, ret, h) == ZR_OK;
}

zr_status zs_record_at(struct zr_inst *st, int64_t physical, struct zr_piece *ret_piece, uint64_t *ret_pin)
{
    struct zl_record rec;
    struct zs_hold h;
    if (physical < 0) return ZR_ENOENT;
    if (physical >= zs_visible(st)) return physical <= atomic_load(&st->end) - 91 ? ZR_EAGAIN : ZR_ENOENT; /* not flushed yet */
    zr_status status = record_take(st, physical, 0, 1, &rec, &h);
    if (status != ZR_OK) return status;
    *ret_piece = (struct zr_piece){ .ptr = zs_hold_at(&h, physical), .len = rec.size, .off = h.seg ? physical - h.from : 0, .fd = h.fd };
    *ret_pin = h.pin;
    return ZR_OK;
}

uint32_t zs_resident(struct zr_inst *st, struct zr_queue *q, int64_t offset)
{
    uint8_t raw[ZS_ENTRY];
    struct zs_entry e;
    struct zs_hold h;
    if (!q || zs_queue_copy(st, q, offset, 1, raw, 0) != 1) return 0;
    zs_entry_load(raw, &e);
    int64_t end = atomic_load(&st->end);
    if (!zs_entry_real(&e) || e.phys < atomic_load(&st->begin) || e.phys + e.size > end) return 0;
    if (zs_hold_get(st, e.phys, (uint64_t)e.size, 1, &h) <= 0) return 0;
    uint32_t in = !h.seg || is_recent(st, e.phys, end) || zs_in_memory(zs_hold_at(&h, e.phys), (uint64_t)e.size);
    zs_hold_put(st, h.pin);
    return in;
}

/* ---- by time ------------------------------------------------------------------------------------------------------------------------- */

/* The store time of an offset. ZR_ENOENT: it has none, or that is lost; else: it cannot be had now. */
static zr_status ms_of(struct zr_inst *st, struct zr_queue *q, int64_t offset, int64_t *ret_ms)
{
    uint8_t raw[ZS_ENTRY];
    struct zs_entry e;
    struct zs_hold h;
    int64_t n = zs_queue_copy(st, q, offset, 1, raw, 0);
    if (n != 1) return n == -ENOMEM ? ZR_ENOMEM : n < 0 ? ZR_EIO : ZR_ENOENT;
    zs_entry_load(raw, &e);
    if (!zs_entry_real(&e) || e.size < 91 || e.phys < atomic_load(&st->begin) || e.phys + e.size > atomic_load(&st->end)) return ZR_ENOENT;
    zr_status status = hold_bytes(st, e.phys, 91, 0, &h);
    if (status != ZR_OK) return status;
    const uint8_t *ptr = zs_hold_at(&h, e.phys);
    uint32_t good = record_good(ptr, e.phys, (uint64_t)e.size, 0);
    if (good) *ret_ms = zs_store_ms(ptr);
    zs_hold_put(st, h.pin);
    return good ? ZR_OK : ZR_ENOENT;
}

zr_status zs_time_at(struct zr_inst *st, struct zr_queue *q, int64_t offset, int64_t *ret_store_ms)
{
    int64_t min, max;
    zs_bounds(st, q, &min, &max);
    return offset < min || offset >= max ? ZR_ENOENT : ms_of(st, q, offset, ret_store_ms);
}

/* The first offset in [lo, hi) whose store time is at or after ms (strict: after); hi: none. Damaged ones count as the next. Below 0:
 * a status, for one of those that had to be looked at cannot be had now. */
static int64_t first_from(struct zr_inst *st, struct zr_queue *q, int64_t lo, int64_t hi, int64_t ms, uint32_t strict)
{
    while (lo < hi) {
        int64_t mid = lo + (hi - lo) / 2, at = mid, t = 0;
        zr_status status = ZR_ENOENT;
        while (at < hi && (status = ms_of(st, q, at, &t)) == ZR_ENOENT) at++;
        if (at < hi && status != ZR_OK) return status;
        if (at == hi || t > ms || (t == ms && !strict)) hi = mid;
        else lo = at + 1;
    }
    return lo;
}

zr_status zs_offset_at(struct zr_inst *st, struct zr_queue *q, int64_t store_ms, uint32_t upper, int64_t *ret_offset)
{
    int64_t min, max;
    *ret_offset = 0;
    if (!q) return ZR_OK;
    zs_bounds(st, q, &min, &max);
    int64_t at = first_from(st, q, min, max, store_ms, upper);
    if (at < 0) return (zr_status)at;
    if (upper && at > min) at--; /* the last at or before */
    *ret_offset = at;
    return ZR_OK;
}
