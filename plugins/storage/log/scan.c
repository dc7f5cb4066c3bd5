/* SPDX-License-Identifier: Apache-2.0 */
/* scan.c - reading the log record by record, for recovery, healing and the index.
 *
 * Reads go through pread (or the blocks of a packed segment), not through a mapping: a disk that fails is an errno here and not a signal, and a file system of a
 * test sees every read. A record counts as valid when magic, lengths, its physical offset (it must be where it says it is)
 * and, if asked for, its body's checksum agree. A blank counts when it says exactly what is left of its segment.
 *
 * After something invalid, zs_scan_resync looks for the next record that is valid in that sense, byte by byte: the physical
 * offset in it makes an accident next to impossible. Holes of sparse files are stepped over where the seam can tell them. */
#include <errno.h>
#include <stdlib.h>
#include "zs_pack.h"

#define SECTOR ((uint64_t)ZS_SECTOR)
#define WINDOW (1u << 20)
#define AHEAD (8u << 20) /* asked of the disk before it is needed, in two halves: one window at a time would leave it idle while records are judged */
#define PAGE 4096
#define HEADER 92u /* enough to judge a header: everything up to the body's length, and its own size */

void zs_scan_open(struct zs_scan *s, struct zr_inst *st, int64_t pos, int64_t limit, uint32_t crc)
{
    *s = (struct zs_scan){ .st = st, .pos = pos, .limit = limit, .window = WINDOW, .crc = crc, .why = "" };
}

static void leave_segment(struct zs_scan *s)
{
    if (s->seg) zs_seg_put(s->st, s->seg);
    s->seg = NULL;
    s->len = 0;
}

void zs_scan_close(struct zs_scan *s)
{
    leave_segment(s);
    free(s->buf);
    s->buf = NULL;
    s->cap = 0;
}

static int64_t seg_end(const struct zs_scan *s) { return s->seg->base + s->st->segs.size; }

/* Pins the segment that pos lies in; 0: there is none, or it cannot be opened now (zs_seg_shut_out tells which, and shut). */
static uint32_t enter_segment(struct zs_scan *s, int64_t pos)
{
    uint32_t busy;
    if (s->seg && pos >= s->seg->base && pos < seg_end(s)) return 1;
    leave_segment(s);
    s->seg = zs_seg_get(s->st, pos, 0, &busy);
    if (s->seg && s->seg->packed && !zs_seg_pack_open(s->st, s->seg) && !atomic_load(&s->seg->damaged)) leave_segment(s);
    if (!s->seg && zs_seg_later(s->st, pos)) s->shut = 1;
    return s->seg != NULL;
}

static int64_t room_at(const struct zs_scan *s, int64_t pos)
{
    int64_t end = seg_end(s) < s->limit ? seg_end(s) : s->limit;
    return end - pos;
}

static uint32_t buf_reach(struct zs_scan *s, uint64_t cap)
{
    if (cap <= s->cap) return 1;
    uint8_t *buf = realloc(s->buf, cap);
    if (!buf) return 0;
    s->buf = buf;
    s->cap = cap;
    return 1;
}

/* A window that begins with the record that the last one cut belongs to a long reading: the disk is told what comes next. */
static void read_ahead(struct zs_scan *s, int64_t pos, uint64_t want)
{
    int64_t from = pos + (int64_t)want, to = from + AHEAD, end = pos + room_at(s, pos);
    if (want < WINDOW || s->seg->packed || pos <= s->buf_at || pos > s->buf_at + (int64_t)s->len) return;
    if (from < s->ahead && s->ahead - from >= AHEAD / 2) return;
    if (s->ahead > from && s->ahead < to) from = s->ahead;
    if (to > end) to = end;
    if (from >= to) return;
    s->st->io->advise(s->st->io->ctx, s->seg->fd, NULL, from - s->seg->base, (uint64_t)(to - from), ZR_IO_ADVISE_WILLNEED);
    s->ahead = to;
}

/* Has at least need bytes from pos on in the buffer (fewer at the end of segment or limit): how many, or -errno. */
static int64_t load(struct zs_scan *s, int64_t pos, uint64_t need)
{
    int64_t room = room_at(s, pos);
    if ((int64_t)need > room) need = (uint64_t)room;
    if (s->len && pos >= s->buf_at && pos + (int64_t)need <= s->buf_at + (int64_t)s->len)
        return s->buf_at + (int64_t)s->len - pos;
    uint64_t want = need > s->window ? need : s->window;
    if ((int64_t)want > room) want = (uint64_t)room;
    if (!buf_reach(s, want)) return -ENOMEM;
    read_ahead(s, pos, want);
    int64_t r = zs_seg_read(s->st, s->seg, s->buf, want, pos - s->seg->base);
    if (r < 0 && r != -ENOMEM && want > need) { /* something further on cannot be read: what is needed perhaps can */
        want = need;
        r = zs_seg_read(s->st, s->seg, s->buf, want, pos - s->seg->base);
    }
    if (r < 0 && r != -ENOMEM) r = zs_seg_read(s->st, s->seg, s->buf, want, pos - s->seg->base); /* what is passed over stays so */
    s->buf_at = pos;
    s->len = r < 0 ? 0 : want;
    s->failed |= r < 0 && r != -EBADMSG;
    return r < 0 ? r : (int64_t)want;
}

static int bad(struct zs_scan *s, const char *why)
{
    s->why = why;
    return ZS_SCAN_BAD;
}

/* After a failure of the power a sector of the record that never reached the disk is zero. The body's checksum shows it there, but
 * nothing covers topic and properties: is one that begins within them all zero? Of the last one also what is behind the record
 * tells, if it is to be had (len): where the next one's bytes are on the disk, the sector was written with them. Appends refuse
 * what would look so (append.c); other brokers do not, so it is asked only of what may not have been on disk (st->doubt). */
static uint32_t tail_torn(const uint8_t *p, int64_t off, uint64_t from, uint64_t size, uint64_t len)
{
    for (uint64_t at = from + (SECTOR - ((uint64_t)off + from) % SECTOR) % SECTOR; at < size; at += SECTOR) {
        uint64_t n = len - at < SECTOR ? len - at : SECTOR;
        if (p[at] == 0 && memcmp(p + at, p + at + 1, n - 1) == 0) return 1;
    }
    return 0;
}

uint32_t zs_sizes_agree(const uint8_t *head, uint64_t size)
{
    if (size <= ZS_LARGE_RECORD) return 1;
    uint32_t flag = zl_load32(head + 36), at = 84 + (flag & ZR_SYSFLAG_BORNHOST_V6 ? 12 : 0) + (flag & ZR_SYSFLAG_STOREHOST_V6 ? 12 : 0);
    uint64_t rest = (uint64_t)at + 4 + zl_load32(head + at); /* behind it: the lengths of topic and properties, and these */
    return rest + 3 <= size && size - rest <= 4 + 65535 + ZL_MAX_PROPERTIES;
}

/* The record at pos, which lies in s->seg. ZS_SCAN_END stands for a blank here. */
static int judge(struct zs_scan *s, int64_t pos, struct zl_record *ret)
{
    const char *why = "it is no record";
    int64_t n = load(s, pos, HEADER), room = room_at(s, pos);
    if (n == -ENOMEM) return ZS_SCAN_STOP;
    if (n < 0) return bad(s, "it cannot be read from the disk");
    if (n < (int64_t)ZS_BLANK) return bad(s, "too few bytes are left for a record");
    const uint8_t *p = s->buf + (pos - s->buf_at);
    uint32_t size = zl_load32(p), magic = zl_load32(p + 4);
    if (magic == ZL_MAGIC_BLANK) {
        if ((int64_t)size != seg_end(s) - pos) return bad(s, "a blank that does not reach the segment's end");
        return ZS_SCAN_END;
    }
    if (magic != ZL_MAGIC_V1 && magic != ZL_MAGIC_V2) return bad(s, magic || size ? "no magic number" : "zeroes");
    if (n < 36 || (int64_t)size > room || size > INT32_MAX) return bad(s, "its size is impossible");
    if ((int64_t)zl_load64(p + 28) != pos) return bad(s, "its physical offset is another one");
    if (size > ZS_LARGE_RECORD) {
        n = load(s, pos, ZS_HEAD);
        if (n == -ENOMEM) return ZS_SCAN_STOP;
        if (n < 0) return bad(s, "it cannot be read from the disk");
        if (!zs_sizes_agree(s->buf + (pos - s->buf_at), size)) return bad(s, "its size is not that of its body");
    }
    uint32_t failed = s->failed;
    n = load(s, pos, pos < s->st->doubt ? size : size + SECTOR - 1);
    if (n < 0 && n != -ENOMEM) { /* what is behind it is only a help */
        s->failed = failed;
        n = load(s, pos, size);
    }
    if (n == -ENOMEM) return ZS_SCAN_STOP;
    if (n < 0) return bad(s, "it cannot be read from the disk");
    struct zr_span bytes = { s->buf + (pos - s->buf_at), (uint64_t)n };
    zr_status rc = zl_record_parse(bytes, s->crc, ret, &why);
    if (rc != ZR_OK) return bad(s, rc == ZR_ECORRUPT ? why : "its lengths do not agree");
    int sealed = s->crc && s->st->conf.property_crc_check ? zl_record_sealed((struct zr_span){ bytes.ptr, size }) : -1;
    if (sealed == 0 && !s->lax) return bad(s, "its property CRC is wrong"); /* without one it is what it was before there were any */
    if (sealed == 1 || pos < s->st->doubt) return ZS_SCAN_RECORD;
    uint64_t topic_at = (uint64_t)((const uint8_t *)ret->topic.ptr - bytes.ptr); /* without properties their length is zero, as it must be */
    uint64_t end = ret->properties.len ? ret->size : topic_at + ret->topic.len;
    if (tail_torn(bytes.ptr, pos - s->seg->base, topic_at, end, end < size || bytes.len < size ? end : bytes.len))
        return bad(s, "a part of its properties was never written");
    return ZS_SCAN_RECORD;
}

int zs_scan_next(struct zs_scan *s, struct zl_record *ret)
{
    for (;;) {
        if (s->pos >= s->limit) return ZS_SCAN_END;
        if (!enter_segment(s, s->pos)) return bad(s, "its segment is missing");
        int r = judge(s, s->pos, ret);
        if (r == ZS_SCAN_RECORD) s->pos += ret->size;
        if (r != ZS_SCAN_END) return r;
        s->pos = seg_end(s);
    }
}

/* Steps over a hole: the next place at or behind pos that may hold data, in the same segment; its end if there is none. */
static int64_t skip_hole(struct zs_scan *s, int64_t pos)
{
    const struct zr_io_v1 *io = s->st->io;
    if (s->seg->packed || !ZR_HAS(struct zr_io_v1, io, seek_data) || !io->seek_data) return pos;
    int64_t at = io->seek_data(io->ctx, s->seg->fd, pos - s->seg->base);
    if (at == -ENXIO) return seg_end(s);
    return at > pos - s->seg->base ? s->seg->base + at : pos;
}

/* Looks for a magic number in [pos, ...) of the buffered window and judges the records that may stand there. */
static int64_t search_window(struct zs_scan *s, int64_t pos, int64_t n)
{
    static const uint8_t magic[3] = { 0xDA, 0xA3, 0x20 };
    int64_t at = pos, end = pos + n;
    while (at + 8 <= end) {
        const uint8_t *p = s->buf + (at - s->buf_at);
        const uint8_t *hit = memmem(p + 4, (size_t)(end - at - 4), magic, sizeof magic);
        if (!hit) return -1;
        int64_t start = at + (hit - 4 - p);
        struct zl_record r;
        int64_t buf_at = s->buf_at;
        if (judge(s, start, &r) == ZS_SCAN_RECORD) return start;
        at = start + 1;
        if (s->buf_at != buf_at || s->len == 0) { /* judging moved the window */
            int64_t again = load(s, at, 64);
            if (again < 0) return -1;
            end = at + again;
        }
    }
    return -1;
}

static int64_t search_segment(struct zs_scan *s, int64_t pos)
{
    while (room_at(s, pos) > (int64_t)HEADER) {
        pos = skip_hole(s, pos);
        if (room_at(s, pos) <= (int64_t)HEADER) return -1;
        int64_t n = load(s, pos, WINDOW);
        if (n < 0) n = load(s, pos, PAGE);
        if (n < 0) { /* this page cannot be read: behind it may be what can */
            pos = (pos / PAGE + 1) * PAGE;
            continue;
        }
        int64_t found = search_window(s, pos, n);
        if (found >= 0) return found;
        if (n <= (int64_t)HEADER) return -1;
        pos += n - 40; /* a magic number may lie across the windows */
        if (room_at(s, pos) <= 40 + (int64_t)HEADER) return -1;
    }
    return -1;
}

int zs_scan_resync(struct zs_scan *s)
{
    int64_t pos = s->pos + 1;
    while (pos < s->limit) {
        if (!enter_segment(s, pos)) {
            pos = zs_seg_next(s->st, pos);
            if (pos < 0) return 0;
            continue;
        }
        struct zl_record r;
        int64_t found = pos == s->seg->base && judge(s, pos, &r) == ZS_SCAN_RECORD ? pos : search_segment(s, pos);
        if (found >= 0) {
            s->pos = found;
            return 1;
        }
        pos = seg_end(s);
    }
    return 0;
}

uint32_t zs_scan_one_of(struct zr_inst *st, int64_t phys, struct zr_str topic, struct zl_record *ret)
{
    struct zs_scan s;
    zs_scan_open(&s, st, phys, INT64_MAX, 1);
    s.window = PAGE; /* of the others nothing is asked */
    uint32_t good = phys >= 0 && enter_segment(&s, phys) && judge(&s, phys, ret) == ZS_SCAN_RECORD && (!topic.ptr || zl_eq(ret->topic, topic));
    zs_scan_close(&s);
    ret->body = ret->properties = (struct zr_span){ NULL, 0 };
    ret->topic = (struct zr_str){ NULL, 0 };
    return good;
}

uint32_t zs_scan_one(struct zr_inst *st, int64_t phys, struct zl_record *ret)
{
    return zs_scan_one_of(st, phys, (struct zr_str){ NULL, 0 }, ret);
}
