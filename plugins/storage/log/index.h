/* SPDX-License-Identifier: Apache-2.0 */
/* index.h - the index by key, seen from its files: index_file.c (files and the writer of one), index_mend.c (files that
 * are damaged or missing are made anew), index.c (following the log), index_ask.c (asking).
 *
 * File <index_dir>/<yyyyMMddHHmmssSSS, local time of its making>, big-endian:
 *     0 i64 beginTimestamp | 8 i64 endTimestamp | 16 i64 beginPhyOffset | 24 i64 endPhyOffset | 32 i32 slots used
 *    36 i32 next entry number (from 1) | 40 i32 slot[slots]: number of the newest entry of the chain, 0: none
 *    40 + 4 * slots + 20 * n: entry n: i32 |hash of topic#key| | i64 physical | i32 seconds since beginTimestamp | i32 previous
 *
 * Keys of a record, in this order: topic#UNIQ_KEY, topic#<each word of KEYS>, topic#T#TAGS (since RocketMQ 5.4).
 *
 * LOCKING: index.lock over everything here, also over reads and writes of index files; released between small batches. A query
 * holds it for finding and opening a file, not for following a chain. */
#ifndef ZS_INDEX_H
#define ZS_INDEX_H
#include "zs_int.h"

#define ZS_INDEX_HEAD 40u
#define ZS_INDEX_ENTRY 20u
#define ZS_INDEX_BATCH 256u /* records for one hold of the lock */
#define ZS_INDEX_BLOCK 2048u /* entries in memory before they are written */
#define ZS_INDEX_WALK (1u << 20)  /* entries that one query looks at */
#define ZS_INDEX_FOUND 1024u      /* ... and gives; RocketMQ asks for 64 at most */
#define ZS_INDEX_ASIDE (1u << 16) /* ... outside its times, one after another, before it looks for a way around them */
#define ZS_INDEX_UNSURE (-2) /* the snapshot's indexLast: nobody vouches for the files, the next start reads them as after a kill */

struct zs_ifile {
    char name[20];
    int64_t begin_ms, end_ms, begin_phys, end_phys;
    int32_t slots_used, count; /* count: the next entry's number */
};
/* One file that is written to: its slots are in memory, its newest entries too. */
struct zs_iwriter {
    struct zs_ifile *f;
    int32_t *slots;
    uint8_t *page_dirty;
    uint8_t *block;     /* entries [block_from, f->count) */
    int32_t block_from;
    int32_t fd;
    uint32_t open, header_dirty;
};
#define ZS_INDEX_CHUNK 256u
/* A part of the log without keys, see index_bare.c. */
struct zs_bare { int64_t from, until, last_phys, last_ms; };
/* Making anew what is missing: whole files are checked, then entries are compared with the log, then gaps are filled. */
struct zs_imend {
    int64_t compare;      /* records from here on are looked for in the files; -1: done, or not needed */
    int64_t compare_to;   /* the last one */
    uint64_t file;        /* where that has come to: files[file], entry */
    int32_t entry, chunk_from, chunk_n;
    uint32_t comparing;
    uint8_t chunk[ZS_INDEX_CHUNK * ZS_INDEX_ENTRY];
    struct zs_iwriter w;
    uint64_t at;          /* what is missing before files[at] is looked for next */
    int64_t pos, until;   /* the part of the log being read */
    int64_t name;         /* the next file's name, as a number */
    uint64_t n_keys;
    uint32_t n_left;      /* keys of the gap's last record that are still missing */
    uint32_t reading, checked;
    uint32_t unsure;      /* something of the files could not be compared, written or made durable: see zs_index_unsure */
    struct zs_bare part;  /* the gap, as it will be remembered when nothing is found in it */
    uint32_t damaged, skipped; /* the gap: not all of it can be read; it was read before */
    int64_t check_ms;     /* files that end later are read whole first; INT64_MAX: none */
};
#define ZS_BARE_MAX 1024u
#define ZS_BARE_LEAST (64 << 10) /* bytes; less is read as quickly */
struct zs_bares { struct zs_bare row[ZS_BARE_MAX]; uint32_t n, dirty; };
struct zs_index {
    pthread_mutex_t lock;
    pthread_cond_t cond, caught;
    struct zs_ifile **files; /* in order of their names */
    uint64_t n, cap;
    _Atomic int64_t pos, last, full_ms;
    _Atomic int64_t saved_pos, saved_last, saved_ms; /* these as they are in the files, once nothing is to be mended any more */
    _Atomic uint32_t idle;
    uint32_t hurry, repair, broken, mending;
    uint32_t n_put; /* of the record at last, when a key behind these could not be put: it is tried again from there */
    uint32_t walk_max, aside_max; /* ZS_INDEX_WALK, ZS_INDEX_ASIDE; a test sets less */
    int64_t walk_told_ns;         /* when it was last said that a query met walk_max */
    struct zs_iwriter cur; /* the newest file, once it is written to */
    struct zs_imend mend;
    struct zs_bares bare;
    struct zl_buf key;
    int64_t slot_count, max_entries;
};

static inline int64_t zs_index_file_size(const struct zs_index *ix)
{
    return ZS_INDEX_HEAD + 4 * ix->slot_count + (int64_t)ZS_INDEX_ENTRY * ix->max_entries;
}
static inline int64_t zs_index_entry_off(const struct zs_index *ix, int64_t n)
{
    return ZS_INDEX_HEAD + 4 * ix->slot_count + (int64_t)ZS_INDEX_ENTRY * n;
}
static inline struct zs_ifile *zs_index_newest(struct zs_index *ix) { return ix->n ? ix->files[ix->n - 1] : NULL; }

/* ---- index_file.c ---- */
int32_t zs_index_hash(struct zs_index *ix, struct zr_str topic, struct zr_str key, uint32_t kind);
/* Finds the files and reads their headers; those that cannot be index files of this shape are deleted. */
int64_t zs_index_list(struct zr_inst *st);
/* Puts a file at its place in the table. 0: no memory. */
uint32_t zs_index_insert(struct zs_index *ix, uint64_t at, struct zs_ifile *f);
/* Takes files[at] out of the table, and off the disk. */
int64_t zs_index_delete(struct zr_inst *st, uint64_t at);
int64_t zs_index_file_open(struct zr_inst *st, const struct zs_ifile *f); /* a descriptor or -errno */
/* Do its first and its last entry agree with its header? */
uint32_t zs_index_ends_agree(struct zr_inst *st, const struct zs_ifile *f);
/* Memory for the slots (all empty) and the block. 0: none. */
uint32_t zs_iwriter_ready(struct zs_index *ix, struct zs_iwriter *w);
/* Makes the file `name` in full size for w; f is its place in memory. -EEXIST. */
int64_t zs_iwriter_make(struct zr_inst *st, struct zs_iwriter *w, struct zs_ifile *f);
int64_t zs_iwriter_slots_load(struct zr_inst *st, struct zs_iwriter *w);
/* One key: there must be room. A failure comes before anything is changed. */
int64_t zs_iwriter_put(struct zr_inst *st, struct zs_iwriter *w, int32_t hash, int64_t phys, int64_t ms);
int64_t zs_iwriter_flush(struct zr_inst *st, struct zs_iwriter *w, uint32_t sync);
/* All of a file that may not be the newest, the header only when the rest is on the disk. 0 or -errno. */
int64_t zs_iwriter_finish(struct zr_inst *st, struct zs_iwriter *w);
void zs_iwriter_close(struct zr_inst *st, struct zs_iwriter *w);
void zs_iwriter_slot_set(struct zs_iwriter *w, int64_t slot, int32_t v);

/* ---- index.c ---- */
/* zs_index_pos and zs_index_last as the files have them: what a later start may go by. */
int64_t zs_index_saved_pos(struct zr_inst *st);
int64_t zs_index_saved_last(struct zr_inst *st);
/* From now on nothing more is vouched for: the next start, after a clean stop too, believes the files' entries alone. */
void zs_index_unsure(struct zs_index *ix);
/* Puts a record's keys from number *n_put on through put; *n_put is set to the keys that are in when one fails, else to 0. */
int64_t zs_index_keys(struct zr_inst *st, const struct zl_record *r, uint32_t *n_put,
                      int64_t (*put)(struct zr_inst *st, int32_t hash, const struct zl_record *r));

/* ---- index_bare.c ---- */
void zs_bare_load(struct zr_inst *st);
uint32_t zs_bare_has(struct zr_inst *st, int64_t from, int64_t until); /* are there no keys in this part? */
void zs_bare_add(struct zr_inst *st, const struct zs_bare *row);
void zs_bare_save(struct zr_inst *st); /* if there is anything new */

/* ---- index_mend.c ---- */
/* Opens the newest file and makes slots and header anew from its entries; the position to read the log from. */
void zs_index_repair(struct zr_inst *st);
/* Some work on files that are damaged or missing. 1: there is more. s is left wherever it came to. */
uint32_t zs_index_mend(struct zr_inst *st, struct zs_scan *s);
void zs_index_mend_stop(struct zr_inst *st);
#endif
