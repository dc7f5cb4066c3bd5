/* SPDX-License-Identifier: Apache-2.0 */
/* zp_write.c - packing: a plain segment becomes blocks, a dictionary, and the tables around them.
 *
 *   sample records ──> train, keep the dictionary if it pays ──> records gathered into blocks, each a frame ──> tables ──> sync
 *
 * Blocks end where records end, so that a record lies in one block. What is no record (damage, the blank at the end, zeroes)
 * is kept byte for byte in blocks of its own kind of cut: at most block_size, up to where the next record begins. Whether it
 * is a record is judged as the log's reader does: magic, lengths, and that it names its own place. */
#include <errno.h>
#include <stdlib.h>
#include <zdict.h>
#include "zl/record.h"
#include "zl/text.h"
#include "zp_int.h"

#define WINDOW (1u << 20)
#define OUT (256u << 10)
#define LEAST_RECORD 91u
#define MAX_RECORD (64u << 20)
#define PROBES 128u
#define PROBE (16u << 10)
#define MAX_SAMPLES 65536u
#define TRIALS 32u

struct entry {
    uint32_t packed, raw, checksum, sum;
};
struct packer {
    const struct zr_io_v1 *io;
    const struct zp_conf *conf;
    const struct zp_pace *pace;
    int32_t in, out;
    int64_t base, size, mtime_ns;
    uint8_t *win; /* bytes [win_at, win_at + win_len) of the segment */
    uint64_t win_cap, win_len;
    uint64_t win_step; /* bytes to read at least, when something must be read */
    int64_t win_at;
    uint8_t *buf; /* what is not written yet, of the file's bytes from out_at on */
    uint64_t buf_len;
    int64_t out_at;
    uint8_t *frame;
    uint64_t frame_cap;
    struct entry *entries;
    uint64_t n, cap;
    ZSTD_CCtx *ctx;
    ZSTD_CDict *cdict;
    uint8_t *dict;
    uint64_t dict_len;
};

/* ---- the plain side -------------------------------------------------------------------------------------------------------- */

/* Has [pos, pos + len) in the window, and keeps what is from keep on. len is cut at the segment's end: how much there is. */
static int64_t window(struct packer *p, int64_t keep, int64_t pos, uint64_t len)
{
    if ((int64_t)len > p->size - pos) len = (uint64_t)(p->size - pos);
    if (keep >= p->win_at && pos + (int64_t)len <= p->win_at + (int64_t)p->win_len) return (int64_t)len;
    uint64_t want = (uint64_t)(pos - keep) + (len > p->win_step ? len : p->win_step);
    if ((int64_t)want > p->size - keep) want = (uint64_t)(p->size - keep);
    if (want > p->win_cap) {
        uint8_t *win = realloc(p->win, want);
        if (!win) return -ENOMEM;
        p->win = win;
        p->win_cap = want;
    }
    uint64_t have = 0;
    if (keep >= p->win_at && keep < p->win_at + (int64_t)p->win_len) {
        have = (uint64_t)(p->win_at + (int64_t)p->win_len - keep);
        memmove(p->win, p->win + (keep - p->win_at), have);
    }
    p->win_at = keep;
    p->win_len = have;
    int64_t r = zl_io_read_all(p->io, p->in, p->win + have, want - have, keep + (int64_t)have);
    if (r < 0) return r;
    p->win_len = want;
    return (int64_t)len;
}

static const uint8_t *at(const struct packer *p, int64_t pos) { return p->win + (pos - p->win_at); }

/* The size of the record at pos, 0: none is there; or -errno. */
static int64_t record_at(struct packer *p, int64_t keep, int64_t pos)
{
    struct zl_record rec;
    const char *why;
    int64_t n = window(p, keep, pos, LEAST_RECORD);
    if (n < (int64_t)LEAST_RECORD) return n < 0 ? n : 0;
    const uint8_t *h = at(p, pos);
    uint32_t size = zl_load32(h), magic = zl_load32(h + 4);
    if ((magic != ZL_MAGIC_V1 && magic != ZL_MAGIC_V2) || size < LEAST_RECORD || size > MAX_RECORD) return 0;
    if ((int64_t)size > p->size - pos || (int64_t)zl_load64(h + 28) != p->base + pos) return 0;
    n = window(p, keep, pos, size);
    if (n < 0) return n;
    return zl_record_parse((struct zr_span){ at(p, pos), size }, 0, &rec, &why) == ZR_OK ? (int64_t)size : 0;
}

/* Could a record begin at pos, of which at least 36 bytes are in the window? Cheap: for the search. */
static uint32_t looks_like(const struct packer *p, int64_t pos)
{
    uint32_t magic = zl_load32(at(p, pos) + 4);
    return (magic == ZL_MAGIC_V1 || magic == ZL_MAGIC_V2) && (int64_t)zl_load64(at(p, pos) + 28) == p->base + pos;
}

/* Bytes from pos on that are no record's: to the next that may begin one, at most block_size. */
static int64_t gap_at(struct packer *p, int64_t keep, int64_t pos)
{
    int64_t max = p->conf->block_size, n = window(p, keep, pos, (uint64_t)max + 36);
    if (n < 0) return n;
    int64_t i = 1;
    for (; i < max && i + 36 <= n; i++) {
        const uint8_t *hit = memchr(at(p, pos + i) + 4, 0xDA, (size_t)(n - i - 4));
        if (!hit) i = n;
        else i = hit - 4 - at(p, pos);
        if (i >= max || i + 36 > n) break;
        if (looks_like(p, pos + i)) return i;
    }
    return n < max ? n : max;
}

/* The next stretch that is not to be cut: a record, or a gap. Its length. */
static int64_t unit_at(struct packer *p, int64_t keep, int64_t pos, uint32_t *ret_record)
{
    int64_t n = record_at(p, keep, pos);
    *ret_record = n > 0;
    return n ? n : gap_at(p, keep, pos);
}

/* ---- the dictionary --------------------------------------------------------------------------------------------------------- */

struct samples {
    uint8_t *bytes;
    size_t *sizes;
    uint64_t len, cap;
    uint32_t n;
    uint64_t probe_at[PROBES + 1]; /* where each probe's samples begin in bytes */
    uint32_t n_probes;
};

/* Whole records out of one place of the segment. */
static int64_t probe(struct packer *p, struct samples *s, int64_t pos)
{
    int64_t end = pos + PROBE, got = window(p, pos, pos, PROBE + 36);
    if (got < 0) return got;
    if (end > p->size) end = p->size;
    s->probe_at[s->n_probes] = s->len;
    while (pos + (int64_t)LEAST_RECORD < end && s->n < MAX_SAMPLES) {
        uint32_t record;
        int64_t n = unit_at(p, pos, pos, &record);
        if (n < 0) return n;
        if (record && pos + n <= end && s->len + (uint64_t)n <= s->cap) {
            memcpy(s->bytes + s->len, at(p, pos), (size_t)n);
            s->sizes[s->n++] = (size_t)n;
            s->len += (uint64_t)n;
        }
        pos += n;
    }
    if (s->len > s->probe_at[s->n_probes]) s->n_probes++;
    s->probe_at[s->n_probes] = s->len;
    return 0;
}

static int64_t samples_take(struct packer *p, struct samples *s)
{
    s->cap = (uint64_t)PROBES * PROBE;
    if ((int64_t)s->cap > p->size) s->cap = (uint64_t)p->size;
    s->bytes = malloc(s->cap);
    s->sizes = malloc(MAX_SAMPLES * sizeof *s->sizes);
    if (!s->bytes || !s->sizes) return -ENOMEM;
    int64_t step = p->size / PROBES > PROBE ? p->size / PROBES : PROBE, r = 0;
    for (int64_t pos = 0; pos < p->size && s->n_probes < PROBES && r >= 0; pos += step) {
        r = probe(p, s, pos);
        if (r >= 0 && p->pace && p->pace->call(p->pace->arg, PROBE)) r = -ECANCELED;
    }
    return r;
}

/* Bytes that some of the probes take compressed; 0: it failed. */
static uint64_t trial(const struct samples *s, int level, const void *dict, uint64_t dict_len)
{
    ZSTD_CCtx *c = ZSTD_createCCtx();
    ZSTD_CDict *d = dict_len ? ZSTD_createCDict(dict, dict_len, level) : NULL;
    uint8_t *to = malloc(ZSTD_compressBound(PROBE * 2));
    uint64_t sum = 0, step = s->n_probes / TRIALS + 1;
    for (uint64_t i = 0; c && to && (d || !dict_len) && i < s->n_probes; i += step) {
        uint64_t from = s->probe_at[i], len = s->probe_at[i + 1] - from;
        size_t cap = ZSTD_compressBound(PROBE * 2);
        size_t n = d ? ZSTD_compress_usingCDict(c, to, cap, s->bytes + from, len, d)
                     : ZSTD_compressCCtx(c, to, cap, s->bytes + from, len, level);
        if (ZSTD_isError(n)) {
            sum = 0;
            break;
        }
        sum += n;
    }
    free(to);
    ZSTD_freeCDict(d);
    ZSTD_freeCCtx(c);
    return sum;
}

/* Trains a dictionary; it is kept if it saves more than it takes. Without one is no error. */
static int64_t train(struct packer *p)
{
    struct samples s = { 0 };
    uint64_t cap = p->conf->dict_size < ZP_MAX_DICT ? p->conf->dict_size : ZP_MAX_DICT;
    if (cap > (uint64_t)p->size / 256) cap = (uint64_t)p->size / 256;
    if (cap < ZP_LEAST_DICT) return 0;
    int64_t r = samples_take(p, &s);
    if (r >= 0 && s.n >= 16) {
        p->dict = malloc(cap);
        size_t n = p->dict ? ZDICT_trainFromBuffer(p->dict, cap, s.bytes, s.sizes, s.n) : 0;
        uint64_t with = 0, without = trial(&s, p->conf->level, NULL, 0);
        if (p->dict && !ZDICT_isError(n)) with = trial(&s, p->conf->level, p->dict, n);
        uint64_t tried = s.len / (s.n_probes / TRIALS + 1) + 1;
        if (p->pace && p->pace->call(p->pace->arg, s.len)) r = -ECANCELED; /* it took its time too */
        if (with && with + n * tried / (uint64_t)p->size < without) p->dict_len = n;
    }
    free(s.bytes);
    free(s.sizes);
    return r;
}

/* ---- the packed side --------------------------------------------------------------------------------------------------------- */

static int64_t out_flush(struct packer *p)
{
    int64_t r = p->buf_len ? zl_io_write_all(p->io, p->out, p->buf, p->buf_len, p->out_at) : 0;
    if (r < 0) return r;
    p->out_at += (int64_t)p->buf_len;
    p->buf_len = 0;
    return 0;
}

static int64_t out_add(struct packer *p, const void *bytes, uint64_t len)
{
    const uint8_t *from = bytes;
    while (len) {
        uint64_t n = OUT - p->buf_len < len ? OUT - p->buf_len : len;
        memcpy(p->buf + p->buf_len, from, n);
        p->buf_len += n;
        from += n;
        len -= n;
        int64_t r = p->buf_len == OUT ? out_flush(p) : 0;
        if (r < 0) return r;
    }
    return 0;
}

static int64_t entry_add(struct packer *p, struct entry e)
{
    if (p->n == p->cap) {
        uint64_t cap = p->cap ? p->cap * 2 : 1024;
        struct entry *all = realloc(p->entries, cap * sizeof *all);
        if (!all) return -ENOMEM;
        p->entries = all;
        p->cap = cap;
    }
    p->entries[p->n++] = e;
    return 0;
}

static int64_t block_write(struct packer *p, int64_t from, int64_t to)
{
    uint64_t len = (uint64_t)(to - from), bound = ZSTD_compressBound(len);
    if (bound > p->frame_cap) {
        free(p->frame);
        p->frame = malloc(bound);
        p->frame_cap = p->frame ? bound : 0;
        if (!p->frame) return -ENOMEM;
    }
    size_t n = ZSTD_compress2(p->ctx, p->frame, p->frame_cap, at(p, from), len);
    if (ZSTD_isError(n)) return -ENOMEM;
    /* The frame ends with the low half of XXH64 of its content, which is what a seek table's checksum is. */
    struct entry e = { (uint32_t)n, (uint32_t)len, zp_load32(p->frame + n - 4), zl_crc32(0, p->frame, n) };
    int64_t r = out_add(p, p->frame, n);
    if (r >= 0) r = entry_add(p, e);
    if (r >= 0 && p->pace && p->pace->call(p->pace->arg, len)) r = -ECANCELED;
    return r;
}

static int64_t blocks_write(struct packer *p)
{
    int64_t from = 0, pos = 0, r = 0;
    while (pos < p->size && r >= 0) {
        uint32_t record;
        int64_t n = unit_at(p, from, pos, &record);
        if (n < 0) return n;
        if (pos > from && pos + n - from > (int64_t)p->conf->block_size) {
            r = block_write(p, from, pos);
            from = pos;
        }
        pos += n;
    }
    return r < 0 ? r : block_write(p, from, pos);
}

static void header_fill(const struct packer *p, uint8_t *h)
{
    memset(h, 0, ZP_HEADER);
    zp_store32(h, ZP_OURS);
    zp_store32(h + 4, ZP_HEADER - ZP_SKIP);
    memcpy(h + 8, "ZRYPACK1", 8);
    zp_store32(h + 16, ZP_VERSION);
    zp_store32(h + 20, (uint32_t)p->conf->level);
    zp_store64(h + 24, (uint64_t)p->base);
    zp_store64(h + 32, (uint64_t)p->size);
    zp_store64(h + 40, (uint64_t)p->mtime_ns);
    zp_store32(h + 48, (uint32_t)p->dict_len);
    zp_store32(h + 52, p->conf->block_size);
    zp_store64(h + 64, zp_xxh64(h, 64, 0));
}

static uint8_t *seek_entry(uint8_t *to, uint32_t packed, uint32_t raw, uint32_t checksum)
{
    zp_store32(to, packed);
    zp_store32(to + 4, raw);
    zp_store32(to + 8, checksum);
    return to + ZP_SEEK_ENTRY;
}

/* Sums and seek table, with the digest over all that is no block. */
static int64_t tables_write(struct packer *p, const uint8_t *header, const uint8_t *dict_frame, uint64_t dict_frame_len)
{
    uint64_t frames = p->n + (dict_frame_len ? 3 : 2), sums_len = ZP_SKIP + ZP_LEAST_SUMS + 4 * p->n;
    uint64_t seek_len = ZP_SKIP + frames * ZP_SEEK_ENTRY + ZP_FOOTER;
    const uint32_t nothing = (uint32_t)zp_xxh64(NULL, 0, 0);
    uint8_t *sums = malloc(sums_len + seek_len), *seek = sums ? sums + sums_len : NULL, *to;
    if (!sums) return -ENOMEM;
    zp_store32(sums, ZP_OURS);
    zp_store32(sums + 4, (uint32_t)(sums_len - ZP_SKIP));
    memcpy(sums + ZP_SKIP, "ZRYSUMS1", 8);
    for (uint64_t i = 0; i < p->n; i++) zp_store32(sums + ZP_SKIP + 8 + 4 * i, p->entries[i].sum);
    zp_store32(seek, ZP_SEEK);
    zp_store32(seek + 4, (uint32_t)(seek_len - ZP_SKIP));
    to = seek_entry(seek + ZP_SKIP, ZP_HEADER, 0, nothing);
    if (dict_frame_len) to = seek_entry(to, (uint32_t)dict_frame_len, 0, nothing);
    for (uint64_t i = 0; i < p->n; i++) to = seek_entry(to, p->entries[i].packed, p->entries[i].raw, p->entries[i].checksum);
    to = seek_entry(to, (uint32_t)sums_len, 0, nothing);
    zp_store32(to, (uint32_t)frames);
    to[4] = ZP_CHECKSUMS;
    zp_store32(to + 5, ZP_SEEK_MAGIC);
    zp_store64(sums + sums_len - 8, zp_digest((struct zr_span){ header, ZP_HEADER }, (struct zr_span){ dict_frame, dict_frame_len },
                                              (struct zr_span){ sums, sums_len - 8 }, (struct zr_span){ seek, seek_len }));
    int64_t r = out_add(p, sums, sums_len + seek_len);
    free(sums);
    return r;
}

static int64_t file_write(struct packer *p)
{
    uint8_t header[ZP_HEADER];
    uint64_t dict_frame_len = p->dict_len ? ZP_SKIP + p->dict_len : 0;
    uint8_t *dict_frame = malloc(dict_frame_len + 1);
    if (!dict_frame) return -ENOMEM;
    header_fill(p, header);
    if (dict_frame_len) {
        zp_store32(dict_frame, ZP_OURS);
        zp_store32(dict_frame + 4, (uint32_t)p->dict_len);
        memcpy(dict_frame + ZP_SKIP, p->dict, p->dict_len);
    }
    int64_t r = out_add(p, header, sizeof header);
    if (r >= 0) r = out_add(p, dict_frame, dict_frame_len);
    if (r >= 0) r = blocks_write(p);
    if (r >= 0) r = tables_write(p, header, dict_frame, dict_frame_len);
    if (r >= 0) r = out_flush(p);
    if (r >= 0) r = p->io->fdatasync(p->io->ctx, p->out);
    free(dict_frame);
    return r;
}

static int64_t compressor_make(struct packer *p)
{
    p->ctx = ZSTD_createCCtx();
    p->buf = malloc(OUT);
    if (!p->ctx || !p->buf) return -ENOMEM;
    if (p->dict_len) {
        p->cdict = ZSTD_createCDict(p->dict, p->dict_len, p->conf->level);
        if (!p->cdict) return -ENOMEM;
        ZSTD_CCtx_refCDict(p->ctx, p->cdict);
    }
    ZSTD_CCtx_setParameter(p->ctx, ZSTD_c_compressionLevel, p->conf->level);
    ZSTD_CCtx_setParameter(p->ctx, ZSTD_c_checksumFlag, 1);
    return 0;
}

static int64_t files_open(struct packer *p, const char *from, const char *to)
{
    struct zr_io_stat stat;
    int64_t r = p->io->open(p->io->ctx, from, ZR_IO_READ, 0);
    if (r < 0) return r;
    p->in = (int32_t)r;
    r = p->io->fstat(p->io->ctx, p->in, &stat);
    if (r < 0) return r;
    if (stat.size != (uint64_t)p->size || p->size <= 0 || p->size > INT32_MAX) return -EINVAL;
    p->mtime_ns = stat.mtime_ns;
    p->io->advise(p->io->ctx, p->in, NULL, 0, 0, ZR_IO_ADVISE_SEQUENTIAL);
    r = p->io->open(p->io->ctx, to, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_TRUNC, 0644);
    if (r < 0) return r;
    p->out = (int32_t)r;
    return 0;
}

int64_t zp_pack(const struct zr_io_v1 *io, const char *from, const char *to, int64_t base, int64_t raw_size,
                const struct zp_conf *conf, const struct zp_pace *pace)
{
    struct packer p = { .io = io, .conf = conf, .pace = pace, .in = -1, .out = -1, .base = base, .size = raw_size };
    if (conf->block_size < 1024 || conf->block_size > (16u << 20) || conf->level < 1 || conf->level > 19) return -EINVAL;
    int64_t r = files_open(&p, from, to);
    p.win_step = PROBE;
    if (r >= 0) r = train(&p);
    p.win_step = WINDOW;
    if (r >= 0) r = compressor_make(&p);
    if (r >= 0) r = file_write(&p);
    if (p.in >= 0) io->close(io->ctx, p.in);
    if (p.out >= 0) {
        int64_t c = io->close(io->ctx, p.out);
        if (r >= 0 && c < 0) r = c;
    }
    ZSTD_freeCCtx(p.ctx);
    ZSTD_freeCDict(p.cdict);
    free(p.dict);
    free(p.win);
    free(p.buf);
    free(p.frame);
    free(p.entries);
    return r < 0 ? r : 0;
}
