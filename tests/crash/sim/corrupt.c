/* SPDX-License-Identifier: Apache-2.0 */
/* corrupt.c - stores whose files are damaged: bits flipped, pages zeroed, tails cut, noise, files emptied and deleted, over every
 * kind of file, in one place or in two; the real recovery is run on each, and the result is held against what the clients know.
 *
 *   storage_corrupt [--cases N] [--seed N] [--jobs N] [--case N] [--packed N] [--keep FOLDER]
 *
 * What is asked of each case: the store starts (or says why it cannot); no wrong byte, nothing invented, nothing twice; every message
 * whose own record is whole is there, at its offset and by key; no offset is given out a second time; messages that are lost are
 * told of with a place inside the damage; appends are taken; the second start finds the same.
 *
 * A case is its seed: the store, the files and the damage follow from it. */
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "bed.h"
#include "core/core.h"
#include "zl/text.h"

#define CASE_SECONDS 120
#define MAX_JOBS 64
#define MAX_HURT 8
#define LINES 32768

enum kind { K_LOG, K_QUEUE, K_BATCH, K_OWN_BATCH, K_INDEX, K_CHECKPOINT, K_ABORT, K_LOCK, K_SNAPSHOT, K_REMOVED, K_DOC, K_N };
static const char *const kind_names[K_N] = { "log segment", "queue file", "batch queue", "own batch queue", "index file", "checkpoint",
                                             "abort", "lock", "snapshot", "removed", "document" };
static const uint32_t kind_weight[K_N] = { 8, 8, 1, 2, 4, 1, 1, 1, 4, 1, 3 };
enum harm { H_FLIP, H_FLIPS, H_ZERO, H_NOISE, H_CUT, H_CUT_ONE, H_EMPTY, H_DELETE, H_LONGER, H_ALL, H_STRAY, H_COPY, H_SWAP, H_OLDER, H_FIELD, H_N };
static const char *const harm_names[H_N] = { "one bit flipped", "several bits flipped", "a page zeroed", "noise", "cut", "cut by a byte",
                                             "emptied", "deleted", "made longer", "all of its kind deleted",
                                             "a stray file beside it", "copied to another name", "two swapped", "an older copy put back", "a field changed" };
static const uint32_t harm_weight[H_N] = { 8, 2, 4, 3, 4, 2, 1, 3, 1, 1, 3, 3, 3, 3, 8 };

static struct {
    uint64_t cases, seed;
    int64_t one;
    uint32_t jobs, packed;
    const char *keep;
} opt = { .cases = 1000, .seed = 1, .one = -1 };

struct shared {
    _Atomic uint64_t done, failed, by_kind[K_N], by_harm[H_N], refused, lost, told, nameless;
    char now[MAX_JOBS][512];
} *shared;

/* ---- the stores ---------------------------------------------------------------------------------------------------------------- */

struct variant {
    const char *name;
    uint32_t sync, killed, sealed, deep; /* deep: retention, removal, documents, delays, batches, several index files */
};
static const struct variant variants[] = {
    { "async, stopped", 0, 0, 0, 1 }, { "async, killed", 0, 1, 0, 1 },          { "sync, stopped", 1, 0, 0, 1 },
    { "sync, killed", 1, 1, 0, 1 },   { "sealed records, stopped", 0, 0, 1, 0 }, { "sealed records, killed", 0, 1, 1, 0 },
    { "small, stopped", 0, 0, 0, 0 }, { "small, killed", 0, 1, 0, 0 },
};
#define N_VARIANTS (sizeof variants / sizeof *variants)

struct store {
    const struct variant *v;
    struct bed *b;
    struct sim *image, *older;
    int64_t log_begin, log_end;
};

static void put(struct bed *b, const char *topic, int32_t queues, uint32_t n, uint32_t size)
{
    for (uint32_t i = 0; i < n; i++) bed_put(b, topic, (int32_t)(i % (uint32_t)queues), size + i % 7 * 11, 1);
}

static void settle(struct bed *b)
{
    bed_flush(b);
    bed_indexed(b);
}

static void fill_deep(struct bed *b)
{
    for (uint32_t d = 0; d < MAX_DOCS; d++) bed_doc(b, d, 1, 300 + d * 900);
    put(b, "A", 3, 36, 700);
    put(b, "R", 2, 10, 100);
    settle(b);
    bed_later(b, 73ll * 3600000);
    put(b, "A", 3, 30, 200);
    settle(b);
    bed_clean(b);
    bed_remove(b, "R");
    for (uint32_t i = 0; i < 12; i++) bed_put_inner(b, "I", (int32_t)i % 2, 90 + i, 1 + i % 4);
    for (int32_t i = 0; i < 8; i++) bed_put_delay(b, 1 + i % 4, 90);
    for (uint32_t d = 0; d < MAX_DOCS; d++) bed_doc(b, d, 2, 400 + d * 700);
    b->wall += 1500;
}

static void fill(struct store *s, struct bed *b, const struct variant *v)
{
    if (v->deep) fill_deep(b);
    put(b, "A", 3, 30, 120);
    put(b, "B", 2, 50, 60);
    settle(b);
    bed_close(b);
    s->older = sim_copy(b->sim);
    bed_open(b);
    b->wall += 1500;
    put(b, "B", 2, 24, 800);
    put(b, "A", 3, 12, 300);
    settle(b);
    if (opt.packed) bed_pack(b, 2);
    put(b, "C", 1, 9, 90);
    put(b, "B", 2, 5, 100);
    settle(b);
}

static void store_build(struct store *s, const struct variant *v)
{
    struct bed *b = bed_new();
    *s = (struct store){ .v = v, .b = b };
    if (opt.packed) bed_engine(b, ENGINE_PACK);
    b->conf.sync = v->sync;
    b->conf.property_crc = b->conf.property_crc_check = v->sealed;
    b->conf.checkpoint_interval_ms = 20;
    if (bed_open(b) != ZR_OK) abort();
    fill(s, b, v);
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    zs_info(b->st, &info);
    s->log_begin = info.positions.begin;
    s->log_end = info.positions.written;
    if (v->killed) s->image = sim_copy(b->sim);
    bed_close(b);
    if (!v->killed) s->image = sim_copy(b->sim);
}

/* ---- the damage ------------------------------------------------------------------------------------------------------------------ */

struct hurt {
    enum kind kind;
    enum harm harm;
    char path[256];
    uint64_t from, to; /* bytes of the file; of the log: positions */
};

struct injury { /* what one case did */
    struct hurt at[MAX_HURT * 64];
    uint32_t n;
    char text[400];
};

static uint64_t rnd(uint64_t *seed, uint64_t n)
{
    *seed = mix64(*seed + 0x9E3779B97F4A7C15ull);
    return n ? *seed % n : 0;
}

static uint32_t weighted(uint64_t *seed, const uint32_t *weight, uint32_t n)
{
    uint32_t sum = 0, i = 0;
    for (uint32_t k = 0; k < n; k++) sum += weight[k];
    for (uint64_t at = rnd(seed, sum); at >= weight[i]; i++) at -= weight[i];
    return i;
}

static uint32_t kind_of(const char *path, enum kind *ret)
{
    static const struct {
        const char *part;
        enum kind kind;
    } parts[] = { { "/commitlog/", K_LOG },     { "/batchconsumequeue/", K_BATCH }, { "/consumequeue/", K_QUEUE }, { "/zarya/batch/", K_OWN_BATCH },
                  { "/index/", K_INDEX },       { "/checkpoint", K_CHECKPOINT },    { "/abort", K_ABORT },         { "/lock", K_LOCK },
                  { "/zarya/queues", K_SNAPSHOT }, { "/zarya/removed", K_REMOVED }, { "/config/", K_DOC } };
    for (uint32_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (strncmp(path, ROOT "/", sizeof ROOT) == 0 && strstr(path, parts[i].part)) {
            *ret = parts[i].kind;
            return 1;
        }
    return 0;
}

static int by_path(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

/* The files of a kind, sorted. */
static uint32_t files_of(struct sim *s, enum kind kind, char **ret, uint32_t cap)
{
    uint32_t n = 0;
    enum kind k;
    for (uint32_t i = 0; i < s->n_names && n < cap; i++)
        if (!s->inodes[s->names[i].inode].is_dir && kind_of(s->names[i].path, &k) && k == kind) ret[n++] = s->names[i].path;
    qsort(ret, n, sizeof *ret, by_path);
    return n;
}

/* How much of a file is in use: damage mostly goes there. */
static uint64_t used_of(const struct sim_inode *f)
{
    uint64_t n = f->size;
    while (n && f->data[n - 1] == 0) n--;
    return n;
}

static uint32_t is_packed(const char *path) { return strstr(path, "/commitlog/") && strlen(strstr(path, "/commitlog/")) != 31; }

static void hurt_add(struct injury *in, const struct store *st, enum kind kind, enum harm harm, const char *path, uint64_t from, uint64_t to)
{
    if (in->n == sizeof in->at / sizeof *in->at) return;
    struct hurt *h = &in->at[in->n++];
    *h = (struct hurt){ kind, harm, "", from, to };
    snprintf(h->path, sizeof h->path, "%s", path);
    if (kind != K_LOG) return;
    int64_t base = atoll(strrchr(path, '/') + 1);
    h->from = is_packed(path) ? (uint64_t)base : (uint64_t)base + from; /* what a byte of a packed one stands for is not known here */
    h->to = is_packed(path) ? (uint64_t)(base + st->b->conf.segment_size) : (uint64_t)base + to;
}

static void harm_file(struct injury *in, const struct store *st, struct sim *s, const char *given, enum kind kind, enum harm harm, uint64_t *seed)
{
    char path[256];
    snprintf(path, sizeof path, "%s", given);
    struct sim_inode *f = sim_find(s, path);
    uint32_t inode = (uint32_t)(f - s->inodes);
    uint64_t used = used_of(f), size = f->size, from = 0, to = size;
    if (size == 0 && harm != H_LONGER) harm = H_DELETE;
    if (used == 0) used = size;
    switch (harm) {
    case H_FLIP:
    case H_FLIPS:
        for (uint64_t n = harm == H_FLIP ? 1 : 2 + rnd(seed, 12); n > 0; n--) {
            from = rnd(seed, rnd(seed, 10) ? used : size);
            f->data[from] ^= (uint8_t)(1u << rnd(seed, 8));
            hurt_add(in, st, kind, harm, path, from, from + 1);
        }
        return;
    case H_ZERO:
    case H_NOISE: {
        uint64_t grain = rnd(seed, 2) ? 512 : 4096;
        from = rnd(seed, used);
        to = from + 1 + rnd(seed, 300);
        if (harm == H_ZERO) from = from / grain * grain, to = from + grain;
        if (to > size) to = size;
        for (uint64_t i = from; i < to; i++) f->data[i] = harm == H_ZERO ? 0 : (uint8_t)rnd(seed, 256);
        break;
    }
    case H_CUT:
    case H_CUT_ONE:
        from = harm == H_CUT ? rnd(seed, rnd(seed, 4) ? used : size) : size - 1;
        sim_resize(s, inode, from);
        break;
    case H_LONGER:
        sim_resize(s, inode, size + 1 + rnd(seed, 700));
        for (uint64_t i = size; i < s->inodes[inode].size; i++) s->inodes[inode].data[i] = (uint8_t)rnd(seed, 256);
        from = to;
        break;
    case H_EMPTY:
        sim_resize(s, inode, 0);
        break;
    default:
        sim_drop(s, path);
        break;
    }
    hurt_add(in, st, kind, harm, path, from, to);
}

/* ---- files in the wrong place, and fields ------------------------------------------------------------------------------------------ */

static void put_file(struct sim *s, const char *path, const uint8_t *bytes, uint64_t len)
{
    uint32_t inode = sim_make(s, path, 0);
    sim_resize(s, inode, 0);
    sim_resize(s, inode, len);
    if (len) memcpy(s->inodes[inode].data, bytes, len);
}

static void folder_of(char *to, const char *path) { snprintf(to, 256, "%.*s", (int)(strrchr(path, '/') - path), path); }

/* A file that is no part of the store, in a folder of it or of the one above. It hurts nothing. */
static void harm_stray(struct sim *s, const char *beside, uint64_t *seed)
{
    static const char *const names[] = { "notes.txt", ".hidden", "core.4711", "0000000000000000000x", "00000000000000000000.old", "x00000000000000016384", "lost+found",
                                         "000000000000000163840", "-0000000000000000001", "99999999999999999999", "20231114", "topics.json~", "A" };
    uint8_t bytes[700];
    char folder[256], path[400];
    folder_of(folder, beside);
    if (rnd(seed, 3) == 0 && strcmp(folder, ROOT) != 0) *strrchr(folder, '/') = 0;
    snprintf(path, sizeof path, "%s/%s", folder, names[rnd(seed, sizeof names / sizeof *names)]);
    for (uint32_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)rnd(seed, 256);
    if (sim_find(s, path)) return;
    if (rnd(seed, 4) == 0) sim_make(s, path, 1);
    else put_file(s, path, bytes, rnd(seed, sizeof bytes));
}

/* The name that a copy gets: of a file that may follow, of none that fits, of another file (which is lost then). */
static uint32_t copy_name(const struct store *st, const char *path, enum kind kind, char *const *files, uint32_t n, uint64_t *seed, char *to)
{
    uint64_t size = kind == K_LOG ? (uint64_t)st->b->conf.segment_size : kind == K_QUEUE || kind == K_OWN_BATCH ? (uint64_t)st->b->conf.queue_file_size : 0;
    char folder[200];
    int64_t base = atoll(strrchr(path, '/') + 1);
    snprintf(folder, sizeof folder, "%.*s", (int)(strrchr(path, '/') - path), path);
    switch (rnd(seed, 4)) {
    case 0:
        snprintf(to, 256, "%s", files[rnd(seed, n)]);
        return strcmp(to, path) != 0;
    case 1:
        if (kind == K_INDEX) snprintf(to, 256, "%s/%017lld", folder, (long long)base + 1 + (int64_t)rnd(seed, 5000) - 2500);
        else if (size) snprintf(to, 256, "%s/%020lld%s", folder, (long long)(base + (int64_t)size * (int64_t)(1 + rnd(seed, 12))), is_packed(path) && kind == K_LOG ? ".zst" : "");
        else snprintf(to, 256, "%s.copy", path);
        return 1;
    case 2:
        snprintf(to, 256, "%s/%020lld", folder, (long long)(base + 1 + (int64_t)rnd(seed, 100000)));
        return 1;
    default:
        snprintf(to, 256, "%s%s", path, rnd(seed, 2) ? ".bak" : ".tmp");
        return 1;
    }
}

static void harm_copy(struct injury *in, const struct store *st, struct sim *s, const char *path, enum kind kind, char *const *files, uint32_t n, uint64_t *seed)
{
    char to[256];
    const struct sim_inode *from = sim_find(s, path);
    if (from->size == 0 || !copy_name(st, path, kind, files, n, seed, to)) return;
    uint64_t len = from->size, old = sim_find(s, to) ? sim_find(s, to)->size : 0;
    uint8_t *bytes = memcpy(malloc(len), from->data, len);
    enum kind over;
    if (old && kind_of(to, &over)) hurt_add(in, st, over, H_COPY, to, 0, old);
    put_file(s, to, bytes, len);
    free(bytes);
}

static void harm_swap(struct injury *in, const struct store *st, struct sim *s, const char *a, const char *b, enum kind kind)
{
    struct sim_inode *x = sim_find(s, a), *y = sim_find(s, b);
    if (x == y) return;
    hurt_add(in, st, kind, H_SWAP, a, 0, x->size);
    hurt_add(in, st, kind, H_SWAP, b, 0, y->size);
    struct sim_inode was = *x;
    *x = *y;
    *y = was;
}

/* What the file was at a stop before. Where it is packed since, the plain one comes back beside it. */
static void harm_older(struct injury *in, const struct store *st, struct sim *s, const char *path, enum kind kind)
{
    char name[256];
    snprintf(name, sizeof name, "%s", path);
    if (kind == K_LOG && is_packed(path)) name[strlen(name) - 4] = 0;
    const struct sim_inode *old = sim_find(st->older, name), *now = sim_find(s, name);
    if (!old || old->size == 0) return;
    if (now) {
        uint64_t from = 0, to = now->size > old->size ? now->size : old->size;
        while (from < old->size && from < now->size && old->data[from] == now->data[from]) from++;
        while (to > from && to <= old->size && to <= now->size && old->data[to - 1] == now->data[to - 1]) to--;
        if (from < to) hurt_add(in, st, kind, H_OLDER, name, from, to);
    }
    put_file(s, name, old->data, old->size);
}

struct field {
    uint32_t at, len;
};

/* A field of the file, somewhere where one is. */
static uint32_t field_find(const struct store *st, const char *path, enum kind kind, const struct sim_inode *f, uint64_t *seed, uint64_t *ret_len)
{
    static const struct field record[] = { { 0, 4 }, { 4, 4 }, { 8, 4 }, { 12, 4 }, { 16, 4 }, { 20, 8 }, { 28, 8 }, { 36, 4 }, { 40, 8 }, { 48, 4 }, { 52, 4 }, { 56, 8 },
                                           { 64, 4 }, { 68, 4 }, { 72, 4 }, { 76, 8 }, { 84, 4 } };
    static const struct field entry[] = { { 0, 8 }, { 8, 4 }, { 12, 8 } };
    static const struct field index[] = { { 0, 8 }, { 8, 8 }, { 16, 8 }, { 24, 8 }, { 32, 4 }, { 36, 4 } };
    static const struct field in_index[] = { { 0, 4 }, { 4, 8 }, { 12, 4 }, { 16, 4 } };
    static const struct field batch[] = { { 0, 8 }, { 8, 4 }, { 12, 8 }, { 20, 8 }, { 28, 8 }, { 36, 2 }, { 38, 4 }, { 42, 4 } };
    static const struct field packed[] = { { 4, 4 }, { 16, 4 }, { 20, 4 }, { 24, 8 }, { 32, 8 }, { 40, 8 }, { 48, 4 }, { 52, 4 }, { 56, 8 }, { 64, 8 } };
    uint64_t used = used_of(f), at = 0;
    const struct field *one = NULL;
#define PICK(table) (&(table)[rnd(seed, sizeof(table) / sizeof *(table))])
    if (kind == K_LOG && is_packed(path)) {
        uint32_t n_seek = used > 9 ? (uint32_t)f->data[used - 9] | (uint32_t)f->data[used - 8] << 8 : 0; /* frames in the seek table */
        if (rnd(seed, 2)) one = PICK(packed);
        else if (n_seek * 12 + 17 < used) at = used - 9 - (uint64_t)n_seek * 12 - 8 + 4 * rnd(seed, n_seek * 3 + 4), *ret_len = 4;
        else one = PICK(packed);
    } else if (kind == K_LOG) {
        int64_t base = atoll(strrchr(path, '/') + 1);
        uint32_t n = 0, k;
        for (uint32_t i = 0; i < st->b->h.n_sent; i++) n += st->b->h.sent[i].phys >= base && st->b->h.sent[i].phys < base + st->b->conf.segment_size;
        k = n ? (uint32_t)rnd(seed, n) : 0;
        for (uint32_t i = 0; i < st->b->h.n_sent && n; i++)
            if (st->b->h.sent[i].phys >= base && st->b->h.sent[i].phys < base + st->b->conf.segment_size && k-- == 0) at = (uint64_t)(st->b->h.sent[i].phys - base);
        one = PICK(record);
    } else if (kind == K_QUEUE || kind == K_OWN_BATCH) {
        at = rnd(seed, used / 20 + 1) * 20;
        one = PICK(entry);
    } else if (kind == K_BATCH) {
        at = rnd(seed, used / 46 + 1) * 46;
        one = PICK(batch);
    } else if (kind == K_INDEX && rnd(seed, 2)) {
        one = PICK(index);
    } else if (kind == K_INDEX && rnd(seed, 2)) {
        at = 40 + 4 * rnd(seed, st->b->conf.index_slots), *ret_len = 4;
    } else if (kind == K_INDEX) {
        at = 40 + 4 * st->b->conf.index_slots + 20 * (1 + rnd(seed, 60));
        one = PICK(in_index);
    } else {
        *ret_len = 8;
        at = rnd(seed, used / 8 + 1) * 8;
    }
    if (one) at += one->at, *ret_len = one->len;
    return (uint32_t)at;
#undef PICK
}

static void harm_field(struct injury *in, const struct store *st, struct sim *s, const char *path, enum kind kind, uint64_t *seed)
{
    struct sim_inode *f = sim_find(s, path);
    uint64_t len = 0, at = field_find(st, path, kind, f, seed, &len), low = rnd(seed, 2); /* which end is the low one */
    if (at + len > f->size || len == 0) return;
    uint8_t was[8];
    memcpy(was, f->data + at, len);
    switch (rnd(seed, 6)) {
    case 0: memset(f->data + at, 0, len); break;
    case 1: memset(f->data + at, 0xFF, len); break;
    case 2: f->data[low ? at : at + len - 1]++; break;
    case 3: f->data[low ? at : at + len - 1]--; break;
    case 4: f->data[at] = 0x7F; break;
    default:
        for (uint64_t i = 0; i < len; i++) f->data[at + i] = (uint8_t)rnd(seed, 256);
    }
    if (memcmp(was, f->data + at, len) != 0) hurt_add(in, st, kind, H_FIELD, path, at, at + len);
}

static void injure(struct injury *in, const struct store *st, struct sim *s, uint64_t *seed, const char *lead)
{
    static char *files[4096];
    enum kind kind = 0;
    uint32_t n = 0;
    while (n == 0) {
        kind = weighted(seed, kind_weight, K_N);
        n = files_of(s, kind, files, 4096);
    }
    enum harm harm = weighted(seed, harm_weight, H_N);
    uint32_t which = (uint32_t)rnd(seed, n);
    if (rnd(seed, 3) == 0) which = n - 1; /* the newest */
    size_t at = strlen(in->text);
    snprintf(in->text + at, sizeof in->text - at, "%s%s %s: %s", lead, kind_names[kind], harm == H_ALL ? "" : files[which] + sizeof ROOT, harm_names[harm]);
    atomic_fetch_add(&shared->by_kind[kind], 1);
    atomic_fetch_add(&shared->by_harm[harm], 1);
    if (harm == H_STRAY) {
        harm_stray(s, files[which], seed);
        return;
    }
    if (harm == H_COPY || harm == H_SWAP || harm == H_OLDER || harm == H_FIELD) {
        char path[256];
        snprintf(path, sizeof path, "%s", files[which]);
        if (harm == H_COPY) harm_copy(in, st, s, path, kind, files, n, seed);
        if (harm == H_SWAP) harm_swap(in, st, s, path, files[rnd(seed, n)], kind);
        if (harm == H_OLDER) harm_older(in, st, s, path, kind);
        if (harm == H_FIELD) harm_field(in, st, s, path, kind, seed);
        return;
    }
    if (harm != H_ALL) {
        harm_file(in, st, s, files[which], kind, harm, seed);
        return;
    }
    char *copy[256];
    if (n > 256) n = 256;
    for (uint32_t i = 0; i < n; i++) copy[i] = strdup(files[i]);
    for (uint32_t i = 0; i < n; i++) {
        harm_file(in, st, s, copy[i], kind, H_DELETE, seed);
        free(copy[i]);
    }
}

/* ---- what may be asked of it --------------------------------------------------------------------------------------------------------- */

/* Bytes of a record that its checks do not cover: beside its body, size, magic, body's checksum and physical offset. */
static uint32_t only_checked(const struct hurt *h, const struct sent *m)
{
    uint64_t at = (uint64_t)m->phys;
    uint64_t from = h->from > at ? h->from - at : 0, to = h->to - at < m->size ? h->to - at : m->size;
    return (from < 12 && to <= 12) || (from >= 28 && to <= 36) || (from >= 88 && to <= 88 + m->body);
}

static uint32_t has(const struct injury *in, enum kind kind, uint32_t flips_only)
{
    for (uint32_t i = 0; i < in->n; i++)
        if (in->at[i].kind == kind && (!flips_only || in->at[i].harm == H_FLIP || in->at[i].harm == H_FLIPS || in->at[i].harm == H_NOISE || in->at[i].harm == H_ZERO ||
                                                     in->at[i].harm == H_FIELD)) return 1;
    return 0;
}

/* Where the log's first segments are gone, a queue begins at its first entry that leads into what is left: entries of another queue in its
 * file, all real ones, can say that it begins at its end. It takes both. */
#define HIDDEN 32u
static uint32_t is_hidden(const struct injury *in, const struct store *st, const struct sent *m)
{
    char queue[64];
    uint32_t begin = 0, wrong = 0;
    snprintf(queue, sizeof queue, "/%s/%d/", st->b->h.topics[m->topic], m->queue);
    for (uint32_t i = 0; i < in->n; i++) {
        const struct hurt *h = &in->at[i];
        begin |= h->kind == K_LOG && (int64_t)h->from <= st->log_begin && (h->harm == H_DELETE || h->harm == H_ALL);
        wrong |= (h->kind == K_QUEUE || h->kind == K_OWN_BATCH) && (h->harm == H_SWAP || h->harm == H_COPY) && strstr(h->path, queue);
    }
    return begin && wrong;
}

static void excuse(const struct store *st, const struct injury *in, uint8_t *exempt, struct promise *p)
{
    const struct history *h = &st->b->h;
    static const char *const docs[MAX_DOCS] = { "/topics.json", "/consumerOffset.json", "/subscriptionGroup.json", "/delayOffset.json" };
    memset(exempt, 0, h->n_sent + 1);
    for (uint32_t i = 0; i < h->n_sent; i++) {
        const struct sent *m = &h->sent[i];
        for (uint32_t k = 0; k < in->n; k++) {
            const struct hurt *at = &in->at[k];
            if (at->kind != K_LOG || m->phys < 0 || (int64_t)at->to <= m->phys || (int64_t)at->from >= m->phys + m->size) continue;
            exempt[i] |= MAY_MISS;
            if (!st->v->sealed && !only_checked(at, m)) exempt[i] |= MAY_STRAY;
        }
        if (has(in, K_INDEX, 1)) exempt[i] |= KEY_MISS; /* nothing in an index file covers a flipped bit */
        if (has(in, K_QUEUE, 1)) exempt[i] |= TAGS_OFF; /* nor in a queue's */
        if (has(in, K_REMOVED, 0)) exempt[i] |= MAY_RETURN;
        if (is_hidden(in, st, m)) exempt[i] |= MAY_MISS | HIDDEN;
    }
    p->ends_kept = !has(in, K_LOG, 0) || (!st->v->killed && !has(in, K_SNAPSHOT, 0) && !has(in, K_LOCK, 0));
    for (uint32_t k = 0; k < in->n; k++)
        for (uint32_t d = 0; d < MAX_DOCS; d++)
            if (in->at[k].kind == K_DOC && strstr(in->at[k].path, docs[d])) {
                uint32_t bak = strstr(in->at[k].path, ".bak") != NULL, bit = bak ? d + 16 : d + 24;
                p->docs_hurt |= 1u << d | 1u << bit;
                if ((p->docs_hurt >> (d + 16) & 1) && (p->docs_hurt >> (d + 24) & 1)) p->docs_hurt |= 1u << (d + 8);
            }
}

/* ---- what must be told ------------------------------------------------------------------------------------------------------------------ */

/* Does a line name the place of a record of the log: its position, a range with it, or its file? */
static uint32_t line_names(const struct store *st, const char *line, uint64_t len, const struct sent *m)
{
    char file[24];
    int64_t segment = m->phys / st->b->conf.segment_size * st->b->conf.segment_size, before = -1;
    snprintf(file, sizeof file, "/%020lld", (long long)segment);
    if (memmem(line, len, file, strlen(file))) return 1;
    for (const char *p = line; p < line + len;) {
        if (*p < '0' || *p > '9') {
            p++;
            continue;
        }
        int64_t n = (int64_t)strtoull(p, (char **)&p, 10);
        if (n == m->phys || (before >= 0 && before <= m->phys && n > m->phys)) return 1;
        before = n;
    }
    const char *cut = memmem(line, len, "log was cut at ", 15);
    return cut && atoll(cut + 15) <= m->phys;
}

static uint32_t is_named(const struct store *st, const char *lines, const struct sent *m)
{
    for (const char *p = lines; *p;) {
        uint64_t len = strcspn(p, "\n");
        if (line_names(st, p, len, m)) return 1;
        p += len + (p[len] != 0);
    }
    return 0;
}

/* Where the entry of a message is in the queue's files: of the given file? */
static uint32_t entry_at(const struct store *st, const struct sent *m, const char *path, uint64_t *ret)
{
    char want[256];
    int64_t size = st->b->conf.queue_file_size, at = m->offset * 20;
    const char *topic = st->b->h.topics[m->topic];
    snprintf(want, sizeof want, "/%s/%d/%020lld", topic, m->queue, (long long)(at / size * size));
    *ret = (uint64_t)(at % size);
    return m->offset >= 0 && strlen(path) > strlen(want) && strcmp(path + strlen(path) - strlen(want), want) == 0;
}

/* Did the damage change where an entry of a message leads? Nothing covers its tags. */
static uint32_t entry_hurt(struct store *st, struct sim *was, struct sim *now, const struct hurt *h, const struct sent *m)
{
    uint64_t at;
    const struct sim_inode *a = sim_find(was, h->path), *b = sim_find(now, h->path);
    if (!entry_at(st, m, h->path, &at) || !a || at + 20 > a->size || zl_load64(a->data + at) != (uint64_t)m->phys) return 0;
    return !b || at + 20 > b->size || memcmp(a->data + at, b->data + at, 12) != 0;
}

/* What must be told of one damaged file beside the log: a part of a line; "": nothing. Harmless, and so not to be told: what is behind the
 * ends of queues and documents, tags and index entries (nothing covers them), the backup of a whole document, RocketMQ's checkpoint
 * beside a whole snapshot of ours, abort and lock (they are there or not), RocketMQ's batch queues (written from ours). After a kill
 * what is behind the snapshot's position is made anew each time, damaged or not. */
static const char *must_tell(struct store *st, const struct injury *in, struct sim *now, const struct hurt *h)
{
    static char part[64];
    const struct sim_inode *was = sim_find(st->image, h->path), *is = sim_find(now, h->path);
    uint32_t changed = was && (!is || is->size != was->size || memcmp(is->data, was->data, was->size) != 0);
    if (!changed || st->v->killed) return "";
    for (uint32_t k = 0; k < in->n; k++) /* these decide of what the others are taken from */
        if (in->at[k].kind != h->kind && (in->at[k].kind == K_LOG || in->at[k].kind == K_SNAPSHOT || in->at[k].kind == K_LOCK || in->at[k].kind == K_ABORT)) return "";
    if (h->kind == K_SNAPSHOT && zl_ends(zl_str(h->path), "/queues")) {
        if (h->harm == H_OLDER || h->harm == H_SWAP || h->harm == H_COPY) return ""; /* a whole one of an earlier time: what it does not know is found */
        return sim_find(now, ROOT "/zarya/queues") || sim_find(now, ROOT "/zarya/queues.bak") ? "zarya/queues" : "nothing vouches for the queues";
    }
    if (h->kind == K_INDEX && (h->harm == H_CUT || h->harm == H_CUT_ONE || h->harm == H_EMPTY || h->harm == H_DELETE)) return "index";
    if (h->kind != K_QUEUE && h->kind != K_OWN_BATCH) return "";
    for (uint32_t i = 0; i < st->b->h.n_sent; i++) {
        const struct sent *m = &st->b->h.sent[i];
        struct promise p = { .at = NEVER - 1, .flushed = INT64_MAX, .killed = 1 };
        if (!bed_required(st->b, m, &p) || !entry_hurt(st, st->image, now, h, m)) continue;
        snprintf(part, sizeof part, "queue %s %d", st->b->h.topics[m->topic], m->queue);
        return part;
    }
    return "";
}

/* The few cases in which a start may be refused, each with the words that say so. */
static uint32_t may_refuse(const struct injury *in, const char *why)
{
    return has(in, K_LOG, 0) && (strstr(why, "is the log's disk mounted") || strstr(why, "holds no whole"));
}

/* What an index file had that another one was copied over needs a name between its neighbours', and theirs may be a millisecond apart: files
 * of some entries are, those of 20 million are not. It is told with the part of the log. */
static uint32_t has_copied_index(const struct injury *in)
{
    for (uint32_t i = 0; i < in->n; i++)
        if (in->at[i].kind == K_INDEX && (in->at[i].harm == H_COPY || in->at[i].harm == H_SWAP)) return 1;
    return 0;
}

/* ---- cases ------------------------------------------------------------------------------------------------------------------------------ */

static uint32_t variant_of(uint64_t no)
{
    uint64_t seed = mix64(opt.seed * 1000003 + no);
    return (uint32_t)rnd(&seed, N_VARIANTS);
}

static uint32_t case_run(struct store *stores, uint64_t no, uint32_t job)
{
    static struct injury in;
    static char lines[LINES];
    uint64_t seed = mix64(opt.seed * 1000003 + no);
    struct store *st = &stores[rnd(&seed, N_VARIANTS)];
    struct sim *s = sim_copy(st->image), *image;
    struct promise p = { .at = NEVER - 1, .flushed = INT64_MAX, .killed = 1 };
    uint32_t n_sent = st->b->h.n_sent, lost = 0, told = 0;
    uint8_t *exempt = calloc(2, n_sent + 1);
    in.n = 0;
    in.text[0] = 0;
    injure(&in, st, s, &seed, "");
    if (rnd(&seed, 3) == 0) injure(&in, st, s, &seed, "; ");
    excuse(st, &in, exempt, &p);
    p.ret_seen = exempt + n_sent + 1;
    snprintf(shared->now[job], sizeof shared->now[job], "case %llu (%s): %s", (unsigned long long)no, st->v->name, in.text);
    image = opt.keep ? sim_copy(s) : NULL;
    static char tell[MAX_HURT * 64][64];
    for (uint32_t i = 0; i < in.n; i++) snprintf(tell[i], sizeof tell[i], "%s", must_tell(st, &in, s, &in.at[i]));
    lines[0] = 0;
    alarm(CASE_SECONDS);
    const char *bad = bed_check(st->b, s, &p, mix64(seed), exempt, lines, sizeof lines);
    alarm(0);
    if (bad && strstr(bad, "the store does not start") && may_refuse(&in, bad)) {
        atomic_fetch_add(&shared->refused, 1);
        bad = NULL;
    } else if (bad && strstr(bad, "is not found by key") && has_copied_index(&in) && strstr(lines, "cannot be made anew: File exists")) {
        atomic_fetch_add(&shared->nameless, 1);
        bad = NULL;
    } else if (!bad) {
        static char why[200];
        for (uint32_t i = 0; i < n_sent; i++) {
            const struct sent *m = &st->b->h.sent[i];
            if (!(exempt[i] & MAY_MISS) || p.ret_seen[i] || !bed_required(st->b, m, &p)) continue;
            lost++;
            if (exempt[i] & HIDDEN) continue;
            if (bad || is_named(st, lines, m)) continue;
            snprintf(why, sizeof why, "message %u at %lld of the log is lost, and no line names the place", i, (long long)m->phys);
            bad = why;
        }
        atomic_fetch_add(&shared->lost, lost);
        for (uint32_t i = 0; i < in.n && !bad; i++) {
            told += tell[i][0] != 0;
            if (!tell[i][0] || strstr(lines, tell[i]) || (tell[i][0] == 'q' && strstr(lines, ": the whole log is read"))) continue; /* a queue without files */
            snprintf(why, sizeof why, "%s is damaged, and no line has \"%s\"", in.at[i].path, tell[i]);
            bad = why;
        }
        atomic_fetch_add(&shared->told, told);
    }
    atomic_fetch_add(&shared->done, 1);
    if (bad) {
        atomic_fetch_add(&shared->failed, 1);
        printf("FAILED: %s\n   %s\n   again: storage_corrupt --seed %llu --case %llu%s --keep FOLDER\n%s\n", bad, shared->now[job],
               (unsigned long long)opt.seed, (unsigned long long)no, opt.packed ? " --packed 1" : "", lines);
        for (uint32_t i = 0; i < in.n && i < 16; i++) printf("   %s %llu to %llu\n", in.at[i].path, (unsigned long long)in.at[i].from, (unsigned long long)in.at[i].to);
        if (image) sim_dump(image, opt.keep);
        fflush(stdout);
    }
    if (image) sim_free(image);
    free(exempt);
    return bad != NULL;
}

static void job_run(struct store *stores, uint32_t job)
{
    for (uint64_t i = job; i < opt.cases && atomic_load(&shared->failed) < 12; i += opt.jobs) case_run(stores, i, job);
}

static uint32_t run_all(struct store *stores)
{
    pid_t pids[MAX_JOBS];
    fflush(stdout);
    for (uint32_t j = 0; j < opt.jobs; j++)
        if ((pids[j] = fork()) == 0) {
            job_run(stores, j);
            fflush(stdout);
            _exit(0);
        }
    for (uint32_t j = 0; j < opt.jobs; j++) {
        int status = 0;
        if (pids[j] < 0 || waitpid(pids[j], &status, 0) != pids[j] || status != 0) {
            atomic_fetch_add(&shared->failed, 1);
            printf("FAILED: the process ended with %x in %s\n   again: storage_corrupt --seed %llu --case N\n", (unsigned)status, shared->now[j],
                   (unsigned long long)opt.seed);
        }
    }
    return atomic_load(&shared->failed) > 0;
}

static void summary(double took)
{
    for (uint32_t k = 0; k < K_N; k++) printf("   %-16s %6llu\n", kind_names[k], (unsigned long long)atomic_load(&shared->by_kind[k]));
    for (uint32_t k = 0; k < H_N; k++) printf("   %-24s %6llu\n", harm_names[k], (unsigned long long)atomic_load(&shared->by_harm[k]));
    printf("%s - corruption%s: %llu cases on %u stores, seed %llu: %llu damaged messages lost and each told of by its place, %llu damaged files that had to be told of, %llu starts refused in words, %llu index files that found no name, in %.0f s\n",
           atomic_load(&shared->failed) ? "not ok" : "ok", opt.packed ? ", packed" : "", (unsigned long long)atomic_load(&shared->done), (unsigned)N_VARIANTS,
           (unsigned long long)opt.seed, (unsigned long long)atomic_load(&shared->lost), (unsigned long long)atomic_load(&shared->told), (unsigned long long)atomic_load(&shared->refused), (unsigned long long)atomic_load(&shared->nameless), took);
}

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

int main(int argc, char **argv)
{
    static struct store stores[N_VARIANTS];
    double began = seconds();
    opt.jobs = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *a = argv[i], *v = argv[i + 1];
        if (!strcmp(a, "--cases")) opt.cases = strtoull(v, NULL, 10);
        else if (!strcmp(a, "--seed")) opt.seed = strtoull(v, NULL, 10);
        else if (!strcmp(a, "--jobs")) opt.jobs = (uint32_t)atoi(v);
        else if (!strcmp(a, "--case")) opt.one = atoll(v);
        else if (!strcmp(a, "--packed")) opt.packed = (uint32_t)atoi(v);
        else if (!strcmp(a, "--keep")) opt.keep = v;
        else return fprintf(stderr, "unknown: %s\n", a), 2;
    }
    if (opt.jobs < 1 || opt.jobs > MAX_JOBS) opt.jobs = 2;
    zk_log_set(0, 0); /* the kernel's own lines are not looked at */
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 2;
    for (uint32_t i = 0; i < N_VARIANTS; i++)
        if (opt.one < 0 || i == variant_of((uint64_t)opt.one)) store_build(&stores[i], &variants[i]);
    uint32_t failed = opt.one >= 0 ? case_run(stores, (uint64_t)opt.one, 0) : run_all(stores);
    summary(seconds() - began);
    for (uint32_t i = 0; i < N_VARIANTS; i++) {
        if (!stores[i].b) continue;
        sim_free(stores[i].image);
        sim_free(stores[i].older);
        bed_free(stores[i].b);
    }
    return failed ? 1 : 0;
}
