/* SPDX-License-Identifier: Apache-2.0 */
/* bed.h - a store on a file system in memory, what was done to it, and what must be there of it afterwards.
 *
 * A bed is one store in one sim. Its history is what its clients know: which messages they sent and which were acknowledged, when
 * by the trace's clock, and what was removed. bed_check opens the store on a file system that a crash left and holds it against
 * the history. Which engine is under test is said in one place: bed_engine. The thread that packs is not started unless by_hand is
 * cleared: bed_pack does its steps, so that they stand where a workload puts them.
 *
 * LOCKING: lock, for the history, the lines of the log and the marks. */
#ifndef BED_H
#define BED_H
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include "broker/journal.h"
#include "model.h"
#include "zarya/io.h"
#include "zs.h"

#define ROOT "/data"
#define MAX_TOPICS 64
#define MAX_DOCS 4
#define NEVER UINT32_MAX

struct sent { /* one message */
    uint32_t begin, end;   /* places in the trace; end NEVER: not acknowledged */
    uint32_t seen;         /* a consumer of a store with sync flush could have had it from here on */
    uint32_t topic, size, body, key, life; /* life: how often the topic was removed before */
    int32_t queue;
    int64_t offset, phys, delivery;
};
struct removal {
    uint32_t topic, begin, end;
};
struct cleaning {
    uint32_t begin;
    int64_t log_begin;
};
struct doc_write {
    uint32_t doc, begin, end;
    int64_t version;
};
struct row_write { /* of a table with a journal */
    uint32_t row, begin, end;
    int64_t version;
};
#define BED_ROWS 12u
struct history {
    struct sent *sent;
    struct removal removals[64];
    struct cleaning cleanings[64];
    struct doc_write *docs;
    struct row_write *rows;
    uint32_t n_rows, cap_rows;
    char topics[MAX_TOPICS][32];
    uint32_t n_sent, cap_sent, n_removals, n_cleanings, n_docs, cap_docs, n_topics, lives[MAX_TOPICS];
};

struct bed {
    struct zr_host host;
    struct sim *sim;
    struct zs_conf conf;
    struct zr_inst *st;
    struct history h;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    int64_t written, flushed;
    uint32_t failed, fail_at, stuck, refused, opened, unopened; /* the last two: how often it did, and did not */
    char fail_why[256];
    struct zb_journal journal;
    int64_t row[BED_ROWS];
    uint64_t row_seq;
    uint32_t rows_open;
    char lines[32768], error[1024], why[2048];
    void (*timer_fn)(void *);
    void *timer_arg;
    pthread_t threads[16];
    uint32_t n_threads, quiet, by_hand, not_started; /* the last: bit set of threads */
    _Atomic int64_t wall;
};

/* The store is storage-commitlog, storage-zstd that packs, or storage-zstd that expands; from the next bed_open on. */
enum engine { ENGINE_PLAIN, ENGINE_PACK, ENGINE_EXPAND };
void bed_engine(struct bed *b, enum engine engine);
uint32_t bed_has_packed(struct bed *b); /* the sim holds a packed segment, so that storage-commitlog would refuse it */
uint32_t bed_pack(struct bed *b, uint32_t steps); /* of packing or expanding; how many segments were changed */
int64_t bed_convert(struct bed *b, uint32_t to_plain); /* as `zaryactl store convert`, on a store that is not open */
int bed_repair(struct bed *b); /* as `zaryactl store check --repair`, on a store that is not open; its exit status */
void bed_conf(struct zs_conf *c);
struct bed *bed_new(void);
void bed_free(struct bed *b);
zr_status bed_open(struct bed *b);
void bed_close(struct bed *b); /* drain, cool, destroy */

/* What clients do. Each puts itself down in the history. */
uint32_t bed_topic(struct bed *b, const char *name);
uint32_t bed_put(struct bed *b, const char *topic, int32_t queue, uint32_t size, uint32_t key); /* 1: acknowledged (written) */
uint32_t bed_put_many(struct bed *b, const char *topic, const int32_t *queues, uint32_t n, uint32_t size, uint32_t joined);
void bed_later(struct bed *b, int64_t ms); /* whole seconds; without a jump of the clock */
uint32_t bed_put_inner(struct bed *b, const char *topic, int32_t queue, uint32_t size, uint32_t messages);
uint32_t bed_put_delay(struct bed *b, int32_t level, uint32_t size);
void bed_flush(struct bed *b); /* waits until everything written is flushed */
void bed_peek(struct bed *b);  /* a consumer reads to the end of every queue */
zr_status bed_remove(struct bed *b, const char *topic);
void bed_clean(struct bed *b);
zr_status bed_doc(struct bed *b, uint32_t doc, int64_t version, uint32_t size);
zr_status bed_doc_read(struct bed *b, uint32_t doc);
/* A table with a journal (rows.c). A row's versions only grow. */
zr_status bed_rows_open(struct bed *b);
zr_status bed_rows_save(struct bed *b);
void bed_row(struct bed *b, uint32_t row, int64_t version);
void bed_rows_close(struct bed *b);
void bed_read(struct bed *b);  /* everything, in every way; wrong bytes: b->why */
void bed_indexed(struct bed *b); /* waits until the index has everything */

/* The promise of the trace at place k: what had been announced as flushed. */
struct promise {
    uint32_t at;
    int64_t flushed;
    uint32_t killed; /* only the process died: everything written is there */
    uint32_t docs_hurt; /* bit d: of document d one copy was damaged, bit d + 8: both */
    uint32_t ends_kept; /* no offset may be given out again, whatever was lost */
    uint8_t *ret_seen;  /* NULL, or which messages the first start served */
};
/* What damage excuses of a message. */
#define MAY_MISS 1u  /* its record is damaged */
#define MAY_STRAY 2u /* in bytes that no checksum covers: it may come with them, or in another place */
#define KEY_MISS 4u
#define TAGS_OFF 8u
#define MAY_RETURN 16u /* although its topic was removed */
/* Opens the store on state (which it uses up) and checks it. NULL: right; else what is wrong. exempt (may be NULL): messages that
 * need not be there. deep: also indexes, appends, and a second start. */
const char *bed_check(const struct bed *b, struct sim *state, const struct promise *p, uint64_t seed, const uint8_t *exempt,
                      char *ret_lines, uint64_t cap_lines);
void body_make(uint8_t *to, uint32_t size, int64_t serial);
uint32_t bed_required(const struct bed *b, const struct sent *m, const struct promise *p);
#endif
