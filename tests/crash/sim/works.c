/* SPDX-License-Identifier: Apache-2.0 */
/* works.c - the workloads whose traces are cut at every place. Each is small: what matters is that everything a store does to its
 * files is done in some of them, next to everything else. */
#include "works.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LEN(a) (uint32_t)(sizeof(a) / sizeof(*(a)))

void some(struct bed *b, const char *topic, int32_t queues, uint32_t n, uint32_t size)
{
    for (uint32_t i = 0; i < n; i++) bed_put(b, topic, (int32_t)i % queues, size + i % 7 * 11, 1);
}

static void single(struct bed *b)
{
    for (int r = 0; r < 6; r++) {
        some(b, "A", 1, 5, 150);
        bed_flush(b);
    }
    some(b, "A", 1, 7, 150);
}
static void several(struct bed *b)
{
    for (int r = 0; r < 12; r++) {
        some(b, "A", 4, 6, 120);
        some(b, "B", 2, 3, 400);
        if (r % 3 == 1) bed_flush(b);
    }
}
static void batches(struct bed *b)
{
    int32_t same[8] = { 0 }, mixed[8] = { 0, 1, 2, 3, 0, 1, 2, 3 };
    for (int r = 0; r < 8; r++) {
        bed_put_many(b, "A", same, 8, 200, 1);
        bed_put_many(b, "A", mixed, 8, 130, 0);
        if (r % 2) bed_flush(b);
    }
}
struct sender {
    struct bed *b;
    int32_t queue;
};
static void *sender_main(void *arg)
{
    struct sender *s = arg;
    for (int i = 0; i < 25; i++) {
        bed_put(s->b, "G", s->queue, 100 + (uint32_t)i * 5, 1);
        if (s->b->conf.sync && i % 3 == 0) bed_flush(s->b);
    }
    return NULL;
}
static void group(struct bed *b)
{
    pthread_t t[4];
    struct sender s[4];
    for (int i = 0; i < 4; i++) {
        s[i] = (struct sender){ b, i };
        pthread_create(&t[i], NULL, sender_main, &s[i]);
    }
    for (int i = 0; i < 4; i++) pthread_join(t[i], NULL);
    bed_peek(b);
    bed_flush(b);
    bed_peek(b);
    some(b, "G", 4, 6, 90);
    bed_peek(b);
}
static void rolls(struct bed *b)
{
    for (int r = 0; r < 20; r++) {
        some(b, "A", 2, 3, 1800);
        some(b, "S", 1, 2, 60);
        if (r % 5 == 2) bed_flush(b);
    }
}
static void crossing(struct bed *b) /* batches that begin in one segment and end in the next */
{
    int32_t queues[8] = { 0, 1, 0, 1, 0, 1, 0, 1 };
    for (uint32_t r = 0; r < 7; r++) {
        bed_put_many(b, "A", queues, 8, 1500 + r * 41, 0);
        if (r % 3 == 1) bed_flush(b);
    }
}
static void exact(struct bed *b) /* records that meet the segment's end at every distance */
{
    for (uint32_t i = 0; i < 60; i++) {
        bed_put(b, "A", 0, 1500 + i * 13 % 97, 1);
        if (i % 9 == 0) bed_flush(b);
    }
}
static void checkpoints(struct bed *b)
{
    for (int r = 0; r < 10; r++) {
        some(b, "A", 3, 7, 150);
        bed_flush(b);
        bed_indexed(b);
    }
}
static void queue_files(struct bed *b)
{
    b->conf.max_tail_bytes = 600; /* appenders must help writing */
    bed_close(b);
    if (bed_open(b) != ZR_OK) return;
    for (int r = 0; r < 8; r++) {
        some(b, "A", 2, 20, 60);
        if (r % 3 == 0) bed_flush(b);
    }
}
static void index_rolls(struct bed *b)
{
    for (int r = 0; r < 6; r++) {
        some(b, "A", 2, 20, 50);
        b->wall += 1500; /* a new second: a new name */
        bed_indexed(b);
        if (r % 2) bed_flush(b);
    }
}
static void documents(struct bed *b)
{
    for (int r = 1; r < 16; r++) {
        bed_doc(b, (uint32_t)r % 2, r, 300 + (uint32_t)r * 400);
        bed_doc(b, 2, r, 40);
        if (r % 4 == 0) some(b, "A", 2, 3, 100);
    }
}
static void offsets(struct bed *b)
{
    for (int r = 1; r < 14; r++) {
        some(b, "A", 2, 4, 120);
        bed_flush(b);
        bed_doc(b, 1, r, 900);
        if (r % 5 == 0) bed_doc(b, 3, r, 60);
    }
}
static void journal(struct bed *b)
{
    if (bed_rows_open(b) != ZR_OK) return;
    int64_t version = 0;
    for (uint32_t i = 0; i < BED_ROWS; i++) version = b->row[i] > version ? b->row[i] : version;
    for (uint32_t r = 1; r < 44; r++) {
        bed_row(b, r * 5 % BED_ROWS, ++version);
        if (r % 11 == 6) bed_rows_save(b);
        if (r % 20 == 0) some(b, "A", 1, 2, 100);
    }
    if (bed_rows_open(b) != ZR_OK) return; /* a stop without a word, and a start */
    for (uint32_t r = 0; r < 6; r++) bed_row(b, r % 2, ++version);
}
static void journal_again(struct bed *b) /* begun on a state that a crash has left */
{
    if (bed_open(b) == ZR_OK) journal(b);
}
static void journal_full_disk(struct bed *b)
{
    int64_t version = 0;
    if (bed_rows_open(b) != ZR_OK) return;
    for (uint32_t r = 1; r < 40; r++) {
        if (r % 8 == 3) b->sim->disk_left = 100 + r * 97;
        bed_row(b, r % BED_ROWS, ++version);
        if (r % 4 == 1) bed_rows_save(b);
        if (r % 8 == 7) b->sim->disk_left = -1;
    }
    b->sim->disk_left = -1;
    bed_rows_save(b);
    bed_row(b, 1, ++version);
}
static void removal(struct bed *b)
{
    some(b, "A", 3, 24, 100);
    some(b, "B", 2, 24, 100);
    bed_flush(b);
    some(b, "A", 3, 6, 100);
    bed_remove(b, "A");
    some(b, "B", 2, 10, 100);
    bed_flush(b);
    some(b, "C", 1, 10, 100);
    bed_remove(b, "C");
    some(b, "B", 2, 4, 100);
}
static void again(struct bed *b)
{
    for (int r = 0; r < 4; r++) {
        some(b, "A", 2, 14, 100);
        if (r % 2) bed_flush(b);
        some(b, "B", 1, 3, 100);
        bed_remove(b, "A");
    }
    some(b, "A", 2, 30, 80);
    bed_flush(b);
    some(b, "A", 2, 5, 80);
}
static void retention(struct bed *b)
{
    for (int r = 0; r < 4; r++) {
        some(b, "A", 2, 24, 900);
        some(b, "B", 1, 24, 30);
        bed_flush(b);
        bed_indexed(b);
        bed_later(b, 73ll * 3600000);
        some(b, "A", 2, 3, 900);
        bed_clean(b);
    }
    bed_flush(b);
}
static void full_disk(struct bed *b)
{
    some(b, "A", 2, 30, 200);
    bed_flush(b);
    for (int r = 0; r < 5; r++) {
        b->sim->disk_left = 700 + r * 331;
        some(b, "A", 2, 12, 200);
        b->sim->disk_left = -1;
        some(b, "A", 2, 5, 200);
        if (r % 2) bed_flush(b);
    }
    bed_flush(b);
}
static void many_queues(struct bed *b)
{
    for (int r = 0; r < 3; r++) {
        some(b, "M", 40, 40, 60);
        if (r) bed_flush(b);
    }
    some(b, "M", 40, 20, 60);
}
static void delays(struct bed *b)
{
    for (int r = 0; r < 24; r++) {
        bed_put_delay(b, 1 + r % 5, 90);
        b->wall += 100;
        if (r % 3 == 0) bed_put(b, "T", 0, 80, 1);
        if (r % 8 == 5) bed_flush(b);
    }
}
static void clean_stops(struct bed *b)
{
    for (int r = 0; r < 4; r++) {
        some(b, "A", 2, 11, 150);
        if (r % 2) bed_indexed(b);
        bed_close(b);
        bed_open(b);
    }
    some(b, "A", 2, 5, 150);
}
static void idle_stop(struct bed *b)
{
    some(b, "A", 1, 20, 100);
    bed_close(b);
    for (int r = 0; r < 3; r++) {
        bed_open(b);
        bed_close(b);
    }
    bed_open(b);
}
static void large(struct bed *b)
{
    for (uint32_t r = 0; r < 16; r++) {
        bed_put(b, "L", 0, 5000 + r * 37, 1);
        some(b, "A", 1, 2, 40);
        if (r % 4 == 3) bed_flush(b);
    }
}
static void mixed(struct bed *b)
{
    some(b, "A", 4, 20, 120);
    bed_doc(b, 0, 1, 500);
    bed_flush(b);
    bed_put_delay(b, 3, 100);
    bed_remove(b, "A");
    some(b, "B", 4, 40, 300);
    bed_close(b);
    bed_open(b);
    some(b, "A", 4, 20, 900);
    bed_doc(b, 0, 2, 5000);
    bed_later(b, 73ll * 3600000);
    some(b, "A", 4, 8, 900);
    bed_flush(b);
    bed_clean(b);
    some(b, "A", 4, 8, 900);
}
static void quiet_queues(struct bed *b) /* queues that were written long ago, and then again */
{
    some(b, "Q", 6, 30, 60);
    bed_flush(b);
    for (int r = 0; r < 4; r++) {
        some(b, "A", 1, 18, 700);
        bed_flush(b);
        bed_put(b, "Q", r, 60, 1);
    }
}

/* Queue files that were lost, and everything read from the disk: for failing calls rather than for crashes. */
static void reading(struct bed *b)
{
    some(b, "A", 2, 60, 100);
    some(b, "B", 1, 6, 4000);
    bed_flush(b);
    bed_indexed(b);
    bed_read(b);
    bed_close(b);
    sim_drop(b->sim, ROOT "/consumequeue/A/0/00000000000000000000");
    sim_drop(b->sim, ROOT "/index");
    sim_make(b->sim, ROOT "/index", 1);
    if (bed_open(b) != ZR_OK) return;
    bed_read(b);
    bed_indexed(b);
    bed_read(b);
}

/* What a recovery does to the files it finds, and what comes after: begun on a state that a crash has left. */
void recovery(struct bed *b)
{
    if (bed_open(b) != ZR_OK) return;
    some(b, "R", 2, 6, 100);
    bed_flush(b);
    some(b, "R", 2, 4, 100);
}

/* What a recovery finds that was damaged by others: lengths, remains behind the end, documents that are gone. */
static void mending(struct bed *b)
{
    int64_t end = 0, last = 0;
    char path[128];
    for (uint32_t i = 0; i < b->h.n_sent; i++)
        if (b->h.sent[i].end != NEVER && b->h.sent[i].phys + b->h.sent[i].size > end) end = b->h.sent[i].phys + b->h.sent[i].size;
    last = end / b->conf.segment_size * b->conf.segment_size;
    snprintf(path, sizeof path, ROOT "/commitlog/%020lld", (long long)last);
    struct sim_inode *log = sim_find(b->sim, path);
    if (log && end - last + 600 < b->conf.segment_size) {
        memset(log->data + (end - last) + 64, 0x55, 300);
        sim_resize(b->sim, (uint32_t)(log - b->sim->inodes), (uint64_t)(end - last) + 500);
    }
    for (uint32_t i = 0; i < b->sim->n_names; i++) {
        const char *name = b->sim->names[i].path;
        uint32_t inode = b->sim->names[i].inode;
        if (strstr(name, "/consumequeue/") && !b->sim->inodes[inode].is_dir && i % 2) sim_resize(b->sim, inode, 210);
        if (strstr(name, "/index/") && i % 3 == 0) sim_resize(b->sim, inode, 100);
    }
    sim_make(b->sim, ROOT "/index/notes", 0);
    for (int32_t d = 0; d < 3; d++) bed_doc(b, (uint32_t)d, 1, 5000);
    for (uint32_t d = 0; d < 4; d++) bed_doc_read(b, d);
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 6, 100);
    bed_flush(b);
    bed_read(b);
    for (uint32_t d = 0; d < 4; d++) bed_doc(b, d, 2, 300), bed_doc_read(b, d);
}

/* The queues are gone, and the log begins in the middle of them. */
static void no_queues(struct bed *b)
{
    sim_drop(b->sim, ROOT "/consumequeue");
    sim_drop(b->sim, ROOT "/zarya/queues");
    sim_drop(b->sim, ROOT "/zarya/queues.bak");
    recovery(b);
    bed_read(b);
}

/* Topics with batch consume queues. */
static void inner(struct bed *b)
{
    for (int r = 0; r < 3; r++) {
        for (uint32_t i = 0; i < 12; i++) bed_put_inner(b, "I", (int32_t)i % 2, 90 + i, 1 + i % 4);
        some(b, "A", 1, 6, 700);
        bed_flush(b);
        bed_read(b);
        bed_close(b);
        if (bed_open(b) != ZR_OK) return;
    }
    bed_put_inner(b, "J", 0, 90, 3);
    bed_remove(b, "I");
    bed_put_inner(b, "I", 0, 90, 3);
    bed_flush(b);
}

/* Extents beside the queues: files of some twenty units, written, cut, read, and gone with their topic. */
static void extents(struct bed *b)
{
    bed_close(b);
    b->conf.extents = 1;
    for (int r = 0; r < 4; r++) {
        if (bed_open(b) != ZR_OK) return;
        some(b, "E", 2, 17, 90);
        bed_flush(b);
        some(b, "F", 1, 5, 300);
        bed_read(b);
        if (r < 3) bed_close(b);
    }
    bed_remove(b, "F");
    some(b, "F", 1, 4, 200);
    bed_flush(b);
}
static void extents_recovery(struct bed *b)
{
    b->conf.extents = 1;
    recovery(b);
    bed_read(b);
}

/* More queues than are synced one by one. */
static void crowd(struct bed *b)
{
    some(b, "M", 700, 700, 40);
    bed_flush(b);
    some(b, "M", 700, 700, 40);
    bed_flush(b);
}


/* ---- storage-zstd ----------------------------------------------------------------------------------------------------------- */

void reopen(struct bed *b, enum engine engine)
{
    bed_close(b);
    bed_engine(b, engine);
    bed_open(b);
}
static void packing(struct bed *b) /* in between everything else */
{
    for (uint32_t r = 0; r < 9; r++) {
        some(b, "A", 2, 4, 1800);
        some(b, "S", 1, 2, 60);
        bed_put(b, "L", 0, 5400, 1); /* longer than a block */
        if (r % 3 == 2) bed_flush(b);
        if (r % 3 == 2) bed_pack(b, 2);
    }
    some(b, "A", 2, 5, 100);
    bed_peek(b);
}
static void packing_beside(struct bed *b) /* by the thread, whenever it comes to it */
{
    bed_close(b);
    b->by_hand = 0;
    if (bed_open(b) != ZR_OK) return;
    for (uint32_t r = 0; r < 8; r++) {
        some(b, "A", 2, 9, 1500);
        bed_flush(b);
    }
    b->by_hand = 1;
}
static void expanding(struct bed *b)
{
    for (uint32_t r = 0; r < 3; r++) some(b, "A", 2, 9, 1700), bed_flush(b);
    bed_pack(b, 9);
    reopen(b, ENGINE_EXPAND);
    some(b, "A", 2, 5, 1700);
    bed_pack(b, 2);
    bed_flush(b);
    some(b, "A", 2, 5, 300);
    bed_pack(b, 9);
    reopen(b, ENGINE_PLAIN);
    some(b, "A", 2, 5, 300);
}
static void in_turn(struct bed *b) /* one engine after the other, each in the middle of its work */
{
    for (uint32_t r = 0; r < 2; r++) {
        some(b, "A", 2, 20, 1700);
        bed_flush(b);
        bed_pack(b, 2);
        reopen(b, ENGINE_EXPAND);
        some(b, "B", 1, 3, 400);
        bed_pack(b, 1);
        reopen(b, ENGINE_PACK);
        some(b, "A", 2, 3, 400);
        bed_flush(b);
        bed_pack(b, 9);
        reopen(b, ENGINE_EXPAND);
        bed_pack(b, 9);
        reopen(b, ENGINE_PLAIN);
        some(b, "B", 1, 6, 900);
        reopen(b, ENGINE_PACK);
        bed_pack(b, 1);
    }
}
static void packed_retention(struct bed *b)
{
    for (uint32_t r = 0; r < 3; r++) {
        some(b, "A", 2, 24, 900);
        some(b, "B", 1, 8, 30);
        bed_flush(b);
        bed_pack(b, 1 + r);
        bed_later(b, 73ll * 3600000);
        some(b, "A", 2, 3, 900);
        bed_clean(b);
    }
    bed_flush(b);
    bed_pack(b, 9);
}
static void packed_removal(struct bed *b)
{
    some(b, "A", 3, 24, 900);
    some(b, "B", 2, 24, 400);
    bed_flush(b);
    bed_pack(b, 9);
    bed_remove(b, "A");
    some(b, "B", 2, 10, 900);
    some(b, "A", 1, 4, 100);
    bed_flush(b);
    bed_pack(b, 9);
    bed_remove(b, "B");
    reopen(b, ENGINE_EXPAND);
    bed_pack(b, 2);
    some(b, "A", 1, 4, 100);
}
static void packed_full_disk(struct bed *b)
{
    for (uint32_t r = 0; r < 3; r++) {
        some(b, "A", 2, 24, 900);
        bed_flush(b);
        b->sim->disk_left = 400 + (int64_t)r * 2331;
        bed_pack(b, 2);
        some(b, "A", 2, 12, 200);
        b->sim->disk_left = -1;
        some(b, "A", 2, 5, 200);
        bed_pack(b, 1);
    }
    bed_flush(b);
    bed_pack(b, 9);
}
static void converting(struct bed *b) /* `zaryactl store convert`, between starts of both engines */
{
    some(b, "A", 2, 30, 1500);
    bed_close(b);
    bed_convert(b, 0);
    bed_engine(b, ENGINE_PACK);
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 12, 1500);
    bed_flush(b);
    bed_pack(b, 1);
    bed_close(b);
    bed_convert(b, 1);
    bed_engine(b, ENGINE_PLAIN);
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 5, 300);
}
static void packed_recovery(struct bed *b) /* begun on a state that a crash has left */
{
    if (!b->conf.pack && bed_has_packed(b)) bed_engine(b, ENGINE_PACK);
    if (bed_open(b) != ZR_OK) return;
    some(b, "R", 2, 6, 100);
    bed_flush(b);
    bed_pack(b, 2);
    some(b, "R", 2, 9, 1200);
    bed_flush(b);
    bed_pack(b, 2);
}
static void packed_turning(struct bed *b) /* as packed_recovery, in the other direction */
{
    bed_engine(b, ENGINE_EXPAND);
    packed_recovery(b);
    reopen(b, ENGINE_PACK);
    bed_pack(b, 2);
}
static void convert_resumed(struct bed *b)
{
    bed_convert(b, 0);
    bed_engine(b, ENGINE_PACK);
    if (bed_open(b) != ZR_OK) return;
    some(b, "R", 2, 6, 700);
    bed_close(b);
    bed_convert(b, 1);
    bed_engine(b, ENGINE_PLAIN);
    bed_open(b);
}

/* Everything read through blocks, with the queues lost as well; a dictionary, which small segments do not have; for failing calls. */
static void packed_reading(struct bed *b)
{
    bed_close(b);
    b->conf.segment_size = 262144;
    b->conf.index_entries = 4096;
    b->conf.pack_cache_bytes = 4 << 20;
    if (bed_open(b) != ZR_OK) return;
    for (uint32_t i = 0; i < 12; i++) {
        int32_t queues[32] = { 0 };
        bed_put_many(b, "A", queues, 32, 650 + i, 0);
    }
    bed_put(b, "L", 0, 5400, 1);
    bed_flush(b);
    bed_pack(b, 9);
    bed_indexed(b);
    bed_read(b);
    bed_close(b);
    sim_drop(b->sim, ROOT "/consumequeue/A/0/00000000000000000000");
    sim_drop(b->sim, ROOT "/index");
    sim_make(b->sim, ROOT "/index", 1);
    if (bed_open(b) != ZR_OK) return;
    bed_read(b);
    reopen(b, ENGINE_EXPAND);
    bed_pack(b, 9);
    bed_read(b);
}

/* Somebody else's writing, by which no call of the store's fails. */
void write_file(struct sim *s, const char *path, const uint8_t *bytes, uint64_t len, int64_t off)
{
    sim_hook hook = s->hook;
    s->hook = NULL;
    int64_t fd = s->io.open(s, path, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0644);
    if (fd < 0) abort();
    if (len) s->io.pwrite(s, (int32_t)fd, bytes, len, off);
    s->io.fsync(s, (int32_t)fd);
    s->io.close(s, (int32_t)fd);
    s->io.sync_dir(s, ROOT "/commitlog");
    s->hook = hook;
}

/* What an interrupted change leaves: both forms, one of them not whole, names that end in .tmp. */
static void packed_twins(struct bed *b)
{
    char plain[128], packed[160];
    some(b, "A", 2, 60, 1500);
    bed_flush(b);
    struct sim *before = sim_copy(b->sim);
    bed_pack(b, 9);
    bed_close(b);
    uint32_t k = 0;
    for (uint32_t i = 0; i < 5; i++, k++) {
        snprintf(plain, sizeof plain, ROOT "/commitlog/%020u", i * 16384);
        snprintf(packed, sizeof packed, "%s.zst", plain);
        struct sim_inode *old = sim_find(before, plain), *other = sim_find(b->sim, packed);
        if (!old || !other || sim_find(b->sim, plain)) break;
        uint8_t wrong = other->data[other->size / 2] ^ 1;
        int64_t middle = (int64_t)other->size / 2;
        write_file(b->sim, plain, old->data, k == 1 ? 9000 : 16384, 0); /* one is cut: the packed form takes its place */
        if (k == 2) write_file(b->sim, packed, &wrong, 1, middle);      /* one packed form is damaged: it is made again */
        if (k == 3) write_file(b->sim, ROOT "/commitlog/00000000000000049152.tmp", &wrong, 1, 0);
    }
    sim_free(before);
    if (bed_open(b) != ZR_OK) return;
    bed_pack(b, 9);
    bed_read(b);
    some(b, "A", 2, 20, 1500);
    reopen(b, ENGINE_EXPAND);
    bed_pack(b, 9);
    bed_read(b);
}

/* What an interrupted convert left, one packed form of it damaged since: convert makes it again from the plain one. */
static void convert_remains(struct bed *b)
{
    some(b, "A", 2, 40, 1500);
    bed_close(b);
    struct sim *before = sim_copy(b->sim);
    bed_convert(b, 0);
    struct sim_inode *old = sim_find(before, ROOT "/commitlog/00000000000000000000");
    struct sim_inode *packed = sim_find(b->sim, ROOT "/commitlog/00000000000000000000.zst");
    if (old && packed) {
        uint8_t wrong = packed->data[packed->size / 2] ^ 1;
        int64_t middle = (int64_t)packed->size / 2;
        write_file(b->sim, ROOT "/commitlog/00000000000000000000", old->data, old->size, 0);
        write_file(b->sim, ROOT "/commitlog/00000000000000000000.zst", &wrong, 1, middle);
        write_file(b->sim, ROOT "/commitlog/00000000000000016384.zst.tmp", &wrong, 1, 0);
    }
    sim_free(before);
    bed_convert(b, 0);
    bed_convert(b, 1);
    bed_engine(b, bed_has_packed(b) ? ENGINE_PACK : ENGINE_PLAIN);
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 4, 300);
}

/* ---- zaryactl store check --repair ---------------------------------------------------------------------------------------------- */

/* A queue's file in part zero, another one's gone; the index gone; the checkpoint cut; one message of the log damaged, which is lost. */
static void hurt(struct bed *b)
{
    static const uint8_t zeros[400];
    sim_hook hook = b->sim->hook;
    struct sent *m = &b->h.sent[11];
    char segment[128];
    snprintf(segment, sizeof segment, ROOT "/commitlog/%020lld", (long long)(m->phys / b->conf.segment_size * b->conf.segment_size));
    const struct sim_inode *log = sim_find(b->sim, segment);
    if (b->h.n_sent < 12 || m->end == NEVER || !log || !sim_find(b->sim, ROOT "/consumequeue/A/1") || !sim_find(b->sim, ROOT "/checkpoint")) return;
    uint8_t flipped = log->data[m->phys % b->conf.segment_size + 100] ^ 0x41;
    write_file(b->sim, segment, &flipped, 1, m->phys % b->conf.segment_size + 100);
    m->end = NEVER;
    write_file(b->sim, ROOT "/consumequeue/A/0/00000000000000000000", zeros, 120, 60);
    b->sim->hook = NULL;
    b->sim->io.unlink(b->sim, ROOT "/consumequeue/A/1/00000000000000000000");
    b->sim->io.sync_dir(b->sim, ROOT "/consumequeue/A/1");
    int64_t fd = b->sim->io.open(b->sim, ROOT "/checkpoint", ZR_IO_READ | ZR_IO_WRITE, 0);
    b->sim->io.ftruncate(b->sim, (int32_t)fd, 11);
    b->sim->io.fsync(b->sim, (int32_t)fd);
    b->sim->io.close(b->sim, (int32_t)fd);
    b->sim->hook = hook;
}
static void repaired(struct bed *b)
{
    int rc = bed_repair(b);
    if (rc != 0 && !b->sim->hook) { /* with nothing in its way it leaves a clean store */
        printf("FAILED: --repair ends with %d\n%s\n", rc, b->lines);
        fflush(stdout);
        abort();
    }
    if (bed_open(b) != ZR_OK) return;
    some(b, "R", 2, 5, 300);
}
static void repairing(struct bed *b)
{
    sim_hook hook = b->sim->hook; /* what comes first is not to fail here */
    b->sim->hook = NULL;
    some(b, "A", 2, 40, 700);
    some(b, "B", 1, 5, 90);
    bed_flush(b);
    bed_indexed(b);
    bed_close(b);
    hurt(b);
    b->sim->hook = hook;
    repaired(b);
}

const struct work works[] = {
    { "single", single, 0, NULL },
    { "single, sync", single, 1, NULL },
    { "several queues", several, 0, NULL },
    { "batches", batches, 0, NULL },
    { "batches, sync", batches, 1, NULL },
    { "group commit", group, 0, NULL },
    { "group commit, sync", group, 1, NULL },
    { "segment roll", rolls, 0, NULL },
    { "segment roll, sync", rolls, 1, NULL },
    { "segment ends", exact, 0, NULL },
    { "batches over segments", crossing, 0, NULL },
    { "checkpoint", checkpoints, 0, NULL },
    { "queue files written behind", queue_files, 0, NULL },
    { "index roll", index_rolls, 0, NULL },
    { "documents", documents, 0, NULL },
    { "offsets", offsets, 0, NULL },
    { "journal of a table", journal, 0, NULL },
    { "journal on a full disk", journal_full_disk, 0, NULL },
    { "topic removal", removal, 0, NULL },
    { "topic made again", again, 0, NULL },
    { "retention", retention, 0, NULL },
    { "full disk", full_disk, 0, NULL },
    { "full disk, sync", full_disk, 1, NULL },
    { "many queues", many_queues, 0, NULL },
    { "delayed messages", delays, 0, NULL },
    { "clean stops", clean_stops, 0, NULL },
    { "idle stops", idle_stop, 0, NULL },
    { "large messages", large, 0, NULL },
    { "everything", mixed, 0, NULL },
    { "everything, sync", mixed, 1, NULL },
    { "quiet queues", quiet_queues, 0, NULL },
    { "reading", reading, 0, NULL, 1 },
    { "recovery of several queues", recovery, 0, "several queues" },
    { "recovery of a roll", recovery, 0, "segment roll" },
    { "recovery of a roll, sync", recovery, 1, "segment roll, sync" },
    { "restart after a kill", recovery, 0, "segment roll", 0, 0, 1 },
    { "restart after a kill, sync", recovery, 1, "segment roll, sync", 0, 0, 1 },
    { "recovery of a removal", recovery, 0, "topic removal" },
    { "recovery of a retention", recovery, 0, "retention" },
    { "recovery of queue files", recovery, 0, "queue files written behind" },
    { "recovery of an index", recovery, 0, "index roll" },
    { "recovery of a journal", journal_again, 0, "journal of a table" },
    { "recovery of a full disk", recovery, 0, "full disk" },
    { "mending several queues", mending, 0, "several queues", 1 },
    { "mending a roll", mending, 0, "segment roll", 1 },
    { "mending a retention", mending, 0, "retention", 1 },
    { "a retention without queues", no_queues, 0, "retention", 1 },
    { "inner batches", inner, 0, NULL, 0 },
    { "recovery of inner batches", recovery, 0, "inner batches", 0 },
    { "extents", extents, 0, NULL, 0 },
    { "recovery of extents", extents_recovery, 0, "extents", 0 },
    { "restart of extents after a kill, sync", extents_recovery, 1, "extents", 0, 0, 1 },
    { "a crowd of queues", crowd, 0, NULL, 1 },
    { "packing", packing, 0, NULL, 0, 1 },
    { "packing, sync", packing, 1, NULL, 0, 1 },
    { "packing beside sends", packing_beside, 0, NULL, 0, 1 },
    { "packed: expanding", expanding, 0, NULL, 0, 1 },
    { "packed: engines in turn", in_turn, 0, NULL, 0, 1 },
    { "packed: retention", packed_retention, 0, NULL, 0, 1 },
    { "packed: topic removal", packed_removal, 0, NULL, 0, 1 },
    { "packed: full disk", packed_full_disk, 0, NULL, 0, 1 },
    { "packed: convert", converting, 0, NULL, 0, 0 },
    { "packed: recovery of packing", packed_recovery, 0, "packing", 0, 1 },
    { "packed: recovery of packing, sync", packed_recovery, 1, "packing, sync", 0, 1 },
    { "packed: recovery of engines in turn", packed_recovery, 0, "packed: engines in turn", 0, 1 },
    { "packed: recovery, then the other way", packed_turning, 0, "packed: expanding", 0, 1 },
    { "packed: recovery of a retention", packed_recovery, 0, "packed: retention", 0, 1 },
    { "packed: restart after a kill", packed_recovery, 0, "packing", 0, 1, 1 },
    { "packed: restart after a kill, sync", packed_recovery, 1, "packing, sync", 0, 1, 1 },
    { "packed: recovery of a removal", packed_recovery, 0, "packed: topic removal", 0, 1 },
    { "packed: recovery of a convert", packed_recovery, 0, "packed: convert", 0, 0 },
    { "packed: convert resumed", convert_resumed, 0, "packed: convert", 0, 0 },
    { "packed: reading", packed_reading, 0, NULL, 1, 1 },
    { "packed: both forms", packed_twins, 0, NULL, 1, 1 },
    { "repair", repairing, 0, NULL, 0, 0 },
    { "repair again", repaired, 0, "repair", 0, 0 },
    { "packed: remains of a convert", convert_remains, 0, NULL, 1, 0 },
    { "rare: damaged documents", rare_documents, 0, NULL, 1 },
    { "rare: a log in two folders", rare_folders, 0, NULL, 1 },
    { "rare: one segment of another size", rare_other_size, 0, NULL, 1 },
    { "rare: segments that are too long", rare_long_segments, 0, NULL, 1 },
    { "rare: entries behind a queue's end", rare_torn_entries, 0, "several queues", 1 },
    { "rare: units behind the last entry's", rare_torn_extents, 0, "extents", 1 },
    { "rare: much without keys", rare_without_keys, 0, NULL, 1 },
    { "rare: files of batch queues expire", rare_batch_files, 0, NULL, 1 },
    { "rare: a crowd of queues with extents", rare_crowd_of_extents, 0, NULL, 1 },
    { "rare: a long reading", rare_long_reading, 0, NULL, 1 },
    { "rare: a long abort file", rare_long_abort, 0, "single", 1 },
    { "rare: two forms that differ", rare_twins, 0, NULL, 1 },
    { "rare: two make the same segment", rare_segment_races, 0, NULL, 1 },
    { "rare: two open the same queue file", rare_queue_race, 0, NULL, 1 },
    { "rare: no memory", rare_memory, 0, NULL, 1, 0, 0, 1 },
};
const uint32_t n_works = LEN(works);
