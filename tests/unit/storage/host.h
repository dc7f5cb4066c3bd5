/* SPDX-License-Identifier: Apache-2.0 */
/* host.h - the smallest host a store can live in, and a file system that fails on command.
 *
 * A world is one folder with one store in it. world_kill copies the folder as it is, which is what a killed process leaves in
 * the page cache, and opens the copy. Timers fire only when a test says so. Everything is ended by world_end. */
#ifndef STORAGE_TEST_HOST_H
#define STORAGE_TEST_HOST_H
#ifdef __SANITIZE_THREAD__
#include "plain.h"
#else
#include <criterion/criterion.h>
#endif
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include "zarya/bits.h"
#include "zarya/durability.h"
#include "zarya/io.h"
#include "zl/buf.h"
#include "zl/io.h"
#include "zl/record.h"
#include "zl/text.h"
#include "zs.h"

enum op { OP_PWRITE, OP_PWRITEV, OP_PREAD, OP_FDATASYNC, OP_FSYNC, OP_OPEN, OP_FTRUNCATE, OP_UNLINK, OP_RENAME, OP_SYNC_DIR, N_OPS };

struct world {
    struct zr_host host;
    struct zr_io_v1 io;
    char dir[512];
    struct zs_conf conf;
    struct zr_inst *st;
    /* what the store told its host */
    _Atomic int64_t written, flushed;
    _Atomic uint32_t failed;
    _Atomic int64_t wall; /* ms; 0: the real clock */
    pthread_mutex_t lock;
    char lines[65536];    /* warnings and errors of the store */
    char error[1024];     /* the last one raised */
    /* faults: calls of an op fail with error once `after` of them went through; only on paths with part in them */
    struct {
        _Atomic int64_t after; /* -1: no fault */
        _Atomic int64_t error;
        _Atomic int64_t calls;
    } fault[N_OPS];
    char fault_path[64]; /* under lock */
    _Atomic int64_t disk_left; /* bytes that can still be written; -1: no limit */
    _Atomic double used;       /* of the disk, 0: as it is */
    char fd_path[4096][160];
    const struct zr_bits_v1 *bits; /* NULL: the host makes no bit maps */
    struct power *power;       /* what is not durable yet, once world_power was called */
    /* one timer is enough */
    void (*timer_fn)(void *);
    void *timer_arg;
    int64_t timer_at;
    pthread_t threads[16];
    uint32_t n_threads;
};

/* A new folder with a store of small files, not open yet. */
struct world *world_new(const char *name);
zr_status world_open(struct world *w);
void world_close(struct world *w);      /* drain, cool, destroy */
void world_end(struct world *w);        /* closes, removes the folder, frees */
struct world *world_kill(struct world *w); /* a copy of the folder as it is now, with its store recovered; ends the old one */
struct world *world_copy(struct world *w); /* a copy of the folder as it is now, not open; the old one goes on */
void world_fire(struct world *w);       /* runs the timer that is set */
void world_fault(struct world *w, enum op op, int64_t after, int64_t error, const char *part);
void world_space(struct world *w, int64_t left, const char *part); /* the disk takes that many bytes more in such files */
void world_mend(struct world *w);       /* no fault any more */
uint32_t world_said(struct world *w, const char *part);
void world_quiet(struct world *w);      /* forgets what was said */

/* From now on remembers what was not synced. world_cut: the folder as it may look after the power failed at this moment, not
 * open: names that were not synced may be gone, files shorter, and of what was written since the last sync each sector may be
 * new or old. mode 0: all lost, 1: nothing lost, 2: each sector by chance, 3: the later part lost. */
void world_power(struct world *w);
struct world *world_cut(struct world *w, int mode, unsigned *seed);

/* ---- messages ---- */
struct zr_put put_one(struct world *w, const char *topic, int32_t queue_id, const char *body, const char *props);
/* n messages of `size` bytes with numbered bodies; all must be stored. */
void put_many(struct world *w, const char *topic, int32_t queue_id, uint32_t n, uint32_t size);
struct zr_msg msg_of(const char *topic, int32_t queue_id, const void *body, uint64_t len, const char *props);
void body_of(char *to, uint32_t size, const char *topic, int32_t queue_id, int64_t n);

/* ---- reading ---- */
struct answer {
    struct zr_read_result r;
    struct zr_piece pieces[64];
};
zr_status read_at(struct world *w, const char *topic, int32_t queue_id, int64_t offset, uint32_t max, struct answer *ret);
/* Reads the queue from its min to its max; every record must parse, be of this queue, in order and with a good checksum.
 * Returns how many there were; bodies of put_many are compared if size is not 0. */
int64_t read_all(struct world *w, const char *topic, int32_t queue_id, uint32_t size);
/* The i-th record of an answer. */
struct zl_record record_of(const struct answer *a, uint32_t i);
int64_t max_of(struct world *w, const char *topic, int32_t queue_id);
int64_t min_of(struct world *w, const char *topic, int32_t queue_id);
void flush_all(struct world *w); /* waits until everything is flushed */

/* ---- files ---- */
void file_path(struct world *w, char *to, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void file_write(const char *path, int64_t off, const void *bytes, uint64_t n);
void file_read(const char *path, int64_t off, void *to, uint64_t n);
int64_t file_size_of(const char *path); /* -1: not there */
void file_flip(const char *path, int64_t off);
uint64_t count_files(const char *dir);
void remove_tree(const char *dir);
#endif
