/* SPDX-License-Identifier: Apache-2.0 */
/* journal.c - <data>/zarya/journal/<name>.<number>: what changed in a document since it was written.
 *
 * A file is a row of records, big-endian:
 *    0 u32 magic | 4 u32 length of the payload | 8 u32 kind | 12 u32 checksum | 16 u64 seq | 24 payload
 * HEAD comes first (its payload makes two files of one number differ). ROWS holds changed rows, as the document would hold them;
 * MARK says: a document with this print, which holds all changes up to seq, is about to be put in place; PLACED: it is there.
 *
 * What stays true:
 *   1. Rows are states, not steps: the last one of a name is how it is. Replaying more of them than needed, in order, does no harm.
 *   2. Rows that were answered for, and are in no document that is in place, are on the disk here.
 *   3. No document is put in place while there are files here, unless its mark is durable in one. So a document whose print is in no
 *      mark was written by somebody else: an Apache broker, or a person.
 *   4. All rows behind a document lie in the file that was begun before it was printed, and in later ones. The files for the
 *      document in place and for its .bak are kept, older ones go.
 *   5. A checksum goes on from the record before it, so that remains of a failed write are never read behind a shorter one.
 *   6. After a failed write or sync nothing is added to the file: what the disk then holds of it is not known.
 *
 * LOCKING: none; docs.c calls with one lock held. Blocks for the disk: workers and the main thread only. */
#include "broker/journal.h"
#include "config/node.h"
#include "core/core.h"
#include "zl/io.h"
#include "zl/text.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC 0x5A52444Au
#define HEADER 24u
#define KIND_HEAD 1u
#define KIND_MARK 2u
#define KIND_PLACED 3u
#define KIND_ROWS 4u

static const struct zr_io_v1 *io(void)
{
    return zk_io();
}

/* ---- names ---- */
static const char *folder(char *to, uint64_t cap)
{
    snprintf(to, cap, "%s/zarya/journal", zk_node.data_dir ? zk_node.data_dir : ".");
    return to;
}

static const char *path_of(const struct zb_journal *j, uint64_t number, char *to)
{
    snprintf(to, PATH_MAX, "%.3900s/zarya/journal/%s.%llu", zk_node.data_dir ? zk_node.data_dir : ".", j->name,
             (unsigned long long)number);
    return to;
}

static zr_status failed(const struct zb_journal *j, uint64_t number, const char *what, int64_t error)
{
    char path[PATH_MAX];
    zr_status status = error == -ENOSPC || error == -EDQUOT ? ZR_EFULL : ZR_EIO;
    zk_err_raise(status, (int32_t)-error, "cannot %s %s", what, path_of(j, number, path));
    return status;
}

struct zb_doc_print zb_journal_print(struct zr_span document)
{
    struct zb_doc_print p = { 0xcbf29ce484222325ull, document.len };
    for (uint64_t i = 0; i < document.len; i++) /* FNV-1a: the same in every process, unlike zl_hash */
        p.hash = (p.hash ^ document.ptr[i]) * 0x100000001b3ull;
    return p;
}

/* ---- records ---- */
static void be64(uint8_t *to, uint64_t v)
{
    for (int i = 0; i < 8; i++)
        to[i] = (uint8_t)(v >> (56 - 8 * i));
}

static uint64_t read_be(const uint8_t *p, uint32_t n)
{
    uint64_t v = 0;
    for (uint32_t i = 0; i < n; i++)
        v = v << 8 | p[i];
    return v;
}

/* The record's place is left in out->ptr at its end; its checksum is the chain's next. */
static void record_put(struct zl_buf *out, uint32_t *chain, uint32_t kind, uint64_t seq, struct zr_span payload)
{
    uint64_t at = out->len;
    zl_buf_be32(out, MAGIC);
    zl_buf_be32(out, (uint32_t)payload.len);
    zl_buf_be32(out, kind);
    zl_buf_be32(out, 0);
    zl_buf_be64(out, seq);
    zl_buf_add(out, payload.ptr, payload.len);
    if (out->failed)
        return;
    uint32_t crc = zl_crc32(*chain, out->ptr + at, out->len - at);
    be64(out->ptr + at + 8, (uint64_t)kind << 32 | crc);
    *chain = crc;
}

static void print_put(struct zl_buf *out, uint32_t *chain, uint32_t kind, struct zb_doc_print print, uint64_t seq)
{
    uint8_t payload[16];
    be64(payload, print.hash);
    be64(payload + 8, print.size);
    record_put(out, chain, kind, seq, (struct zr_span){ payload, sizeof payload });
}

struct record {
    uint32_t kind;
    uint64_t seq;
    struct zr_span payload;
};

/* 1: a whole one at *at, which moves behind it. 0: the file's end, or what is no record. */
static uint32_t record_next(struct zl_buf *file, uint64_t *at, uint32_t *chain, struct record *ret)
{
    uint8_t *p = file->ptr + *at;
    uint64_t left = file->len - *at, len;
    if (left < HEADER || read_be(p, 4) != MAGIC || (len = read_be(p + 4, 4)) > left - HEADER)
        return 0;
    uint32_t crc = (uint32_t)read_be(p + 12, 4);
    ret->kind = (uint32_t)read_be(p + 8, 4);
    ret->seq = read_be(p + 16, 8);
    ret->payload = (struct zr_span){ p + HEADER, len };
    memset(p + 12, 0, 4);
    uint32_t right = zl_crc32(*chain, p, HEADER + len) == crc;
    be64(p + 8, (uint64_t)ret->kind << 32 | crc); /* as it was: it is read twice */
    if (!right || ((ret->kind == KIND_HEAD) != (*at == 0)))
        return 0;
    *chain = crc;
    *at += HEADER + len;
    return 1;
}

/* ---- writing ---- */
void zb_journal_init(struct zb_journal *j, const char *name)
{
    *j = (struct zb_journal){ .name = name, .fd = -1 };
}

void zb_journal_close(struct zb_journal *j)
{
    if (j->fd >= 0)
        io()->close(io()->ctx, j->fd);
    j->fd = -1;
}

static zr_status append(struct zb_journal *j, const struct zl_buf *bytes, uint32_t chain, uint32_t sync)
{
    int64_t r = bytes->failed ? -ENOMEM : zl_io_write_all(io(), j->fd, bytes->ptr, bytes->len, j->end);
    if (r >= 0 && sync)
        r = io()->fdatasync(io()->ctx, j->fd);
    if (r < 0) {
        j->broken = 1;
        return failed(j, j->number, "write", r);
    }
    j->end += (int64_t)bytes->len;
    j->total += (int64_t)bytes->len;
    j->chain = chain;
    return ZR_OK;
}

/* The open file, which holds nothing: what it begins with stands in the next one too. */
static void file_drop(struct zb_journal *j)
{
    char path[PATH_MAX];
    if (io()->unlink(io()->ctx, path_of(j, j->file, path)) < 0)
        return;
    j->total -= j->end;
    j->n_files--;
}

/* A file that could not be begun is removed; its number is not used again, since it may come back after a crash. */
static zr_status file_new(struct zb_journal *j, const struct zl_buf *bytes, uint32_t chain)
{
    char path[PATH_MAX], dir[PATH_MAX];
    uint64_t number = ++j->number;
    int64_t r = zl_io_mkdirs(io(), folder(dir, sizeof dir));
    int64_t fd = r < 0 ? r : io()->open(io()->ctx, path_of(j, number, path), ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE | ZR_IO_TRUNC, 0644);
    if (fd < 0)
        return failed(j, number, "make", fd);
    r = bytes->failed ? -ENOMEM : zl_io_write_all(io(), (int32_t)fd, bytes->ptr, bytes->len, 0);
    if (r >= 0)
        r = io()->fsync(io()->ctx, (int32_t)fd);
    if (r >= 0)
        r = io()->sync_dir(io()->ctx, dir);
    if (r < 0) {
        io()->close(io()->ctx, (int32_t)fd);
        io()->unlink(io()->ctx, path);
        return failed(j, number, "write", r);
    }
    if (j->fd >= 0 && !j->holds)
        file_drop(j);
    zb_journal_close(j);
    j->fd = (int32_t)fd;
    j->file = number;
    j->holds = 0;
    j->end = (int64_t)bytes->len;
    j->total += j->end;
    j->chain = chain;
    j->broken = 0;
    j->n_files++;
    j->oldest = j->oldest ? j->oldest : number;
    return ZR_OK;
}

/* It begins with what is known of the document in place, and with a mark, if one is due. */
static zr_status file_begin(struct zb_journal *j, uint32_t mark)
{
    struct zl_buf bytes;
    uint32_t chain = 0;
    uint8_t nonce[16];
    zl_buf_init(&bytes, 4096);
    be64(nonce, (uint64_t)zk_wall_ms());
    be64(nonce + 8, (uint64_t)zk_mono_ns());
    record_put(&bytes, &chain, KIND_HEAD, 0, (struct zr_span){ nonce, sizeof nonce });
    if (j->print.size)
        print_put(&bytes, &chain, KIND_PLACED, j->print, j->seq);
    if (mark)
        print_put(&bytes, &chain, KIND_MARK, j->next, j->next_seq);
    zr_status status = file_new(j, &bytes, chain);
    zl_buf_free(&bytes);
    return status;
}

zr_status zb_journal_begin(struct zb_journal *j, struct zb_doc_print print, uint64_t seq)
{
    j->print = print;
    j->seq = seq;
    zr_status status = file_begin(j, 0);
    if (status == ZR_OK)
        j->doc = j->bak = j->file;
    return status;
}

zr_status zb_journal_add(struct zb_journal *j, uint64_t seq, struct zr_span rows)
{
    struct zl_buf bytes;
    uint32_t chain = j->chain;
    if (!zb_journal_takes(j) || rows.len + HEADER > ZB_JOURNAL_MAX) {
        zk_err_raise(ZR_EFULL, 0, "%s", j->broken ? "a write of it failed before" : "it has become too large");
        return ZR_EFULL;
    }
    zl_buf_init(&bytes, ZB_JOURNAL_MAX);
    record_put(&bytes, &chain, KIND_ROWS, seq, rows);
    j->holds = 1;
    zr_status status = append(j, &bytes, chain, 1);
    zl_buf_free(&bytes);
    return status;
}

/* Where no new file can be begun the present one goes on; one that did not get its document is good for the next try. */
void zb_journal_turn(struct zb_journal *j)
{
    if (!zb_journal_is(j))
        return;
    if (!j->unplaced || j->fd < 0 || j->broken)
        (void)file_begin(j, 0);
    j->turned = j->fd >= 0 ? j->file : j->number + 1;
}

zr_status zb_journal_mark(struct zb_journal *j, struct zb_doc_print print, uint64_t seq)
{
    struct zl_buf bytes;
    uint32_t chain = j->chain;
    zr_status status = ZR_EIO;
    if (!zb_journal_is(j))
        return ZR_OK;
    j->next = print;
    j->next_seq = seq;
    j->unplaced = 1;
    if (j->fd >= 0 && !j->broken) {
        zl_buf_init(&bytes, 4096);
        print_put(&bytes, &chain, KIND_MARK, print, seq);
        status = append(j, &bytes, chain, 1);
        zl_buf_free(&bytes);
    }
    if (status != ZR_OK)
        status = file_begin(j, 1);
    j->holds |= status == ZR_OK;
    return status;
}

/* ---- removing ---- */
static void remove_below(struct zb_journal *j, uint64_t upto)
{
    char path[PATH_MAX];
    struct zr_io_stat st;
    for (; j->oldest && j->oldest < upto; j->oldest++) {
        if (io()->stat(io()->ctx, path_of(j, j->oldest, path), &st) < 0)
            continue;
        if (io()->unlink(io()->ctx, path) < 0)
            continue; /* its rows are older than all others: a start that finds it does what it did once more */
        j->total -= j->total > (int64_t)st.size ? (int64_t)st.size : j->total;
        j->n_files -= j->n_files > 0;
    }
}

/* That it is in place is told without a sync: it only matters where somebody else writes the document next. */
void zb_journal_placed(struct zb_journal *j)
{
    struct zl_buf bytes;
    uint32_t chain = j->chain;
    if (!zb_journal_is(j))
        return;
    j->bak = j->doc;
    j->doc = j->turned;
    j->print = j->next;
    j->seq = j->next_seq;
    j->unplaced = 0;
    zl_buf_init(&bytes, 4096);
    print_put(&bytes, &chain, KIND_PLACED, j->print, j->seq);
    if (j->fd >= 0 && !j->broken)
        (void)append(j, &bytes, chain, 0);
    zl_buf_free(&bytes);
    remove_below(j, j->bak);
}

void zb_journal_end(struct zb_journal *j)
{
    char dir[PATH_MAX];
    if (!zb_journal_is(j))
        return;
    zb_journal_close(j);
    remove_below(j, j->number + 1);
    io()->sync_dir(io()->ctx, folder(dir, sizeof dir));
    *j = (struct zb_journal){ .name = j->name, .fd = -1, .number = j->number, .last = j->last };
}

/* ---- reading ---- */
struct found {
    const struct zb_journal *j;
    uint64_t numbers[ZB_JOURNAL_FILES];
    uint32_t n;
};

/* The newest ones, in order. */
static int32_t found_add(void *ctx, const char *name)
{
    struct found *f = ctx;
    uint64_t len = strlen(f->j->name), number = 0, max;
    if (strncmp(name, f->j->name, len) != 0 || name[len] != '.' || strlen(name + len + 1) - 1 > 17)
        return 0;
    for (const char *c = name + len + 1; *c; c++) {
        if (*c < '0' || *c > '9')
            return 0;
        number = number * 10 + (uint64_t)(*c - '0');
    }
    max = f->n;
    if (f->n == ZB_JOURNAL_FILES && number < f->numbers[0])
        return 0;
    if (f->n == ZB_JOURNAL_FILES)
        memmove(f->numbers, f->numbers + 1, (--max) * sizeof f->numbers[0]);
    while (max > 0 && f->numbers[max - 1] > number) {
        f->numbers[max] = f->numbers[max - 1];
        max--;
    }
    f->numbers[max] = number;
    f->n += f->n < ZB_JOURNAL_FILES;
    return 0;
}

struct pass { /* what the first one looks for */
    struct zb_doc_print print;
    uint64_t known_seq, placed_seq, last;
    uint32_t known;
};

static void record_look(struct pass *p, const struct record *r)
{
    if (r->kind != KIND_HEAD && r->seq > p->last)
        p->last = r->seq;
    if ((r->kind != KIND_MARK && r->kind != KIND_PLACED) || r->payload.len != 16)
        return;
    if (r->kind == KIND_PLACED && r->seq > p->placed_seq)
        p->placed_seq = r->seq;
    if (p->print.size && read_be(r->payload.ptr, 8) == p->print.hash && read_be(r->payload.ptr + 8, 8) == p->print.size) {
        p->known_seq = p->known && p->known_seq > r->seq ? p->known_seq : r->seq;
        p->known = 1;
    }
}

static void file_look(struct zb_journal *j, uint64_t number, struct zl_buf *file, struct pass *pass)
{
    uint64_t at = 0;
    uint32_t chain = 0;
    struct record r;
    while (record_next(file, &at, &chain, &r))
        record_look(pass, &r);
    if (at < file->len)
        zk_log(ZR_LOG_WARN, "zarya/journal/%s.%llu: what stands from byte %llu to its end at %llu is no record; the write of it was "
                            "cut, or it is damaged", j->name, (unsigned long long)number, (unsigned long long)at, (unsigned long long)file->len);
}

zr_status zb_journal_read(struct zb_journal *j, struct zb_doc_print print, uint32_t which,
                          zr_status (*rows)(void *ctx, uint32_t known, struct zr_span rows), void *ctx, uint32_t *ret_known)
{
    char dir[PATH_MAX];
    struct found found = { .j = j };
    struct zl_buf files[ZB_JOURNAL_FILES];
    struct pass pass = { .print = print };
    struct record r;
    zr_status status = ZR_OK;
    int64_t listed = io()->list(io()->ctx, folder(dir, sizeof dir), found_add, &found);
    if (listed < 0 && listed != -ENOENT && listed != -ENOTDIR)
        return failed(j, 0, "list the folder of", listed);
    for (uint32_t i = 0; i < found.n; i++) {
        zl_buf_init(&files[i], 2ull * ZB_JOURNAL_MAX);
        int64_t loaded = status == ZR_OK ? zl_io_load(io(), path_of(j, found.numbers[i], dir), &files[i]) : 0;
        if (loaded < 0) /* not damage, which is read: it may be whole, and holds what was answered for */
            status = failed(j, found.numbers[i], "read", loaded);
        file_look(j, found.numbers[i], &files[i], &pass);
        j->total += (int64_t)files[i].len;
    }
    uint64_t from = pass.known ? pass.known_seq : which == ZB_ROWS_ALL ? 0 : pass.placed_seq;
    for (uint32_t i = 0; i < found.n; i++) {
        uint64_t at = 0;
        uint32_t chain = 0;
        while (status == ZR_OK && record_next(&files[i], &at, &chain, &r))
            if (r.kind == KIND_ROWS && r.seq > from)
                status = rows(ctx, pass.known, r.payload);
        zl_buf_free(&files[i]);
    }
    *ret_known = pass.known;
    j->n_files = found.n;
    j->last = pass.last;
    if (found.n) {
        j->oldest = j->doc = j->bak = found.numbers[0];
        j->number = found.numbers[found.n - 1];
    }
    if (pass.known) {
        j->print = print;
        j->seq = pass.known_seq;
    }
    return status;
}
