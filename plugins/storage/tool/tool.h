/* SPDX-License-Identifier: Apache-2.0 */
/* tool.h - zaryactl-store, seen from inside.
 *
 * A view is a store opened for looking only: segments are found, read and judged by the store's own code (segment.c, scan.c),
 * through an I/O table that can write nothing. Everything that says whether a byte is right stands on it.
 *
 * MEMORY. The log is read through a window of 1 MiB for each thread; of each queue offset two bits are kept (struct zt_chunk), in
 * chunks that are made when a record is met; of each index file its slots, while it is read. All of it has a maximum.
 *
 * LOCKING. Findings: report.lock. Queues: the table is read without a lock and only grows; a queue's chunks are under its lock, a
 * chunk's bits are atomic. Everything else belongs to one thread at a time. */
#ifndef ZT_TOOL_H
#define ZT_TOOL_H
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "zl/io.h"
#include "zl/json.h"
#include "zs_int.h"

#define ZT_MAX_THREADS 64u
#define ZT_MAX_FINDINGS 5000u
#define ZT_MAX_CHUNKS (4u << 20)   /* of offsets: 1 GiB of bits, 4 thousand million messages */
#define ZT_MAX_FILES (1u << 20)    /* of one queue, or of the log */
#define ZT_MAX_DAMAGE 100000u      /* damaged places remembered */
#define ZT_CHUNK 1024u             /* offsets of a chunk */
#define ZT_WINDOW 128u             /* queue entries read at once while the log is read */
#define ZT_BUCKETS 65536u
#define ZT_MAX_FDS 65536u
#define ZT_MAX_DOCUMENT (256ull << 20)

/* Exit status. */
#define ZT_CLEAN 0
#define ZT_MENDABLE 1
#define ZT_LOST 2
#define ZT_CANNOT 3

/* ---- io.c: the files, and what is said ---- */
void zt_io_set(const struct zr_io_v1 *io, FILE *out, FILE *err); /* NULL: the disk, stdout, stderr */
const struct zr_io_v1 *zt_io(void);
FILE *zt_out(void);
FILE *zt_err(void);
/* 0, a descriptor, or -errno. */
int64_t zt_stat(const char *path, struct zr_io_stat *ret);
int64_t zt_open(const char *path, uint32_t flags);
int64_t zt_close(int64_t fd);
int64_t zt_sync(int64_t fd);
int64_t zt_sync_dir(const char *path);
int64_t zt_rename(const char *from, const char *to);
uint64_t zt_read(int64_t fd, void *to, uint64_t len, int64_t off); /* how much there was before the end, or an error */
int64_t zt_seek_data(int64_t fd, int64_t off); /* the next data; -ENXIO: only a hole */

/* ---- paths.c: where the log is ---- */
#define ZT_ELSEWHERE "its log lies elsewhere (path_commitlog); name its folders with --log-path DIR[,DIR] or --conf FILE"
struct zt_options;
struct zt_dirs {
    char at[ZS_MAX_DIRS][ZS_PATH];
    uint32_t n;
};
/* The folders of the log, each of which is there; opt gets those that the broker noted, if it names none. ZT_CANNOT: said on stderr. */
int zt_dirs_load(struct zt_dirs *d, const char *dir, struct zt_options *opt);
/* log_path and log_read_only of a zarya.conf or broker.conf. ZT_CANNOT: said on stderr. */
int zt_conf_load(struct zt_options *opt, const char *file);
uint32_t zt_is_inside(const char *dir, const char *path);
/* Names in reports are relative to the store's folder, or absolute when the log lies elsewhere. 0: too long. */
uint32_t zt_full(const char *dir, const char *rel, char *to);

/* ---- view.c: a store opened for looking ---- */
struct zt_options {
    int64_t segment_size, queue_file_size, index_slots, index_entries; /* 0: found out */
    uint32_t threads;
    uint32_t json;
    uint32_t accept_loss; /* convert: zeroes where packed segments are damaged; check --repair: missing segments are made */
    char log_path[8192], log_read_only[8192]; /* the log's folders, joined by commas; "": DIR/commitlog; none */
};
struct zt_view {
    char dir[ZS_PATH];
    struct zt_options opt;
    struct zt_dirs dirs; /* of the log */
    struct zr_host host;
    struct zr_io_v1 io;
    struct zr_inst *st;
    struct zs_snapshot snap;
    uint32_t live, unclean;      /* a process has the lock; abort is there */
    int32_t live_pid;
    int64_t lag_pos, lag_ms;     /* entries of records behind either may not be on disk yet */
    int64_t checkpoint[6];
    uint32_t checkpoint_state;   /* 0: missing, 1: read, 2: of another length, 3: values that no store has */
    char lines[8192];            /* what the store's code said */
    _Atomic uint8_t padded[ZT_MAX_FDS]; /* descriptors of plain segments: zeroes follow behind their end */
};
/* ZT_CLEAN, or ZT_CANNOT with a line on stderr. */
int zt_view_open(struct zt_view *v, const char *dir, const struct zt_options *opt);
void zt_view_close(struct zt_view *v);
/* Fills *ret_pid with the process that holds <dir>/lock; 1: somebody does. */
uint32_t zt_lock_holder(const char *dir, int32_t *ret_pid);
const void *zt_host_query(const struct zr_host *host, const char *id); /* services that do little */
/* The record at phys, whole; spans are valid until s is closed or used again. */
uint32_t zt_record_at(struct zt_view *v, struct zs_scan *s, int64_t phys, struct zl_record *ret, const char **ret_why);
int64_t zt_seg_base(struct zt_view *v, int64_t pos); /* of the segment pos lies in */
/* Runs fn for each of n jobs on the view's threads. */
void zt_parallel(struct zt_view *v, uint64_t n, void (*fn)(void *ctx, uint32_t thread, uint64_t job), void *ctx);
void zt_size_text(char *to, uint64_t bytes); /* 16 bytes */
void zt_time_text(char *to, int64_t ms);     /* 32 bytes */
/* Names in a folder, sorted; free with zt_names_free. -errno. */
struct zt_names {
    char **at;
    uint64_t n, cap;
};
int64_t zt_names_load(struct zt_names *names, const char *folder);
void zt_names_free(struct zt_names *names);

/* ---- report.c: what was found ---- */
#define ZT_LEVEL_NOTE 0u /* as it should be, or explained */
#define ZT_LEVEL_MEND 1u /* wrong, and can be derived again */
#define ZT_LEVEL_LOST 2u /* messages are gone */
struct zt_finding {
    uint32_t level;
    int64_t at, len;       /* -1: not of a place */
    const char *kind, *what_to_do; /* static */
    char *file, *text;
};
struct zt_report {
    pthread_mutex_t lock;
    struct zt_finding *rows;
    uint64_t n, cap, dropped;
    uint64_t count[3];
    uint32_t failed; /* something could not be looked at */
};
void zt_find(struct zt_report *r, uint32_t level, const char *kind, const char *file, int64_t at, int64_t len,
             const char *what_to_do, const char *fmt, ...) __attribute__((format(printf, 8, 9)));
void zt_report_init(struct zt_report *r);
void zt_report_free(struct zt_report *r);
void zt_report_text(struct zt_report *r);
void zt_report_json(struct zt_report *r, struct zl_jw *w);
/* Of a live store: what an earlier look did not find as well was on its way, and is left out. */
void zt_report_meet(struct zt_report *r, const struct zt_report *before);
int zt_report_status(const struct zt_report *r);

/* ---- queues.c ---- */
struct zt_chunk {
    struct zt_chunk *next;
    int64_t no; /* covers offsets [no * ZT_CHUNK, + ZT_CHUNK) */
    _Atomic uint64_t record[ZT_CHUNK / 64]; /* a valid record has this offset */
    _Atomic uint64_t agrees[ZT_CHUNK / 64]; /* and the entry says so */
};
struct zt_qfile {
    int64_t base; /* bytes */
    uint64_t size;
};
struct zt_queue {
    struct zt_queue *next; /* in its bucket */
    struct zt_queue *all;  /* list of all */
    pthread_mutex_t lock;
    struct zt_chunk **chunks; /* a small hash table by no */
    uint32_t n_chunks, cap_chunks;
    struct zt_qfile *files; /* in order */
    uint64_t n_files;
    const struct zs_hint *hint;
    _Atomic uint64_t n_records, n_bytes, n_lag, n_doubled;
    _Atomic int64_t max_offset; /* of a record */
    uint64_t n_entries, n_filler; /* pass over the files */
    int64_t min, max;           /* offsets that can be read; -1: unknown */
    uint32_t bad;               /* the files do not say what the log says */
    uint32_t removed;           /* the topic is gone on purpose */
    uint32_t configured;        /* a live store: the topic was in the document, or without a folder, when that was looked at first */
    uint32_t other;             /* entries of another kind (BatchCQ) */
    uint64_t n_extents_bad;     /* entries whose extent is missing or wrong; under lock, as the next */
    int64_t extent_bad;         /* the first of them: its address */
    int64_t born_phys, born_offset; /* one of the first entries of its files, that leads to its record; -1: none does. Under lock */
    uint32_t born_known;
    _Atomic uint64_t n_former;  /* records of an earlier topic of that name */
    _Atomic int64_t last_phys;  /* of the other records */
    int32_t id;
    uint32_t topic_len;
    char topic[];
};
struct zt_queues {
    struct zt_view *v;
    struct zt_report *report;
    _Atomic(struct zt_queue *) buckets[ZT_BUCKETS];
    _Atomic(struct zt_queue *) all;
    _Atomic uint64_t n, n_chunks;
    _Atomic uint32_t full; /* a maximum was met */
    int64_t file_size;     /* bytes; a multiple of 20 */
};
struct zt_windows; /* a thread's cache of entries */
int zt_queues_load(struct zt_queues *qs, struct zt_view *v, struct zt_report *report);
void zt_queues_free(struct zt_queues *qs);
struct zt_queue *zt_queue_get(struct zt_queues *qs, struct zr_str topic, int32_t id, uint32_t create);
struct zt_windows *zt_windows_new(void);
void zt_windows_free(struct zt_windows *w);
/* Raw entry of an offset; 0: not in any file. */
uint32_t zt_entry_at(struct zt_queues *qs, struct zt_windows *w, struct zt_queue *q, int64_t offset, struct zs_entry *ret);
/* A valid record: marks its offset and compares its entry. */
void zt_queue_record(struct zt_queues *qs, struct zt_windows *w, struct zt_queue *q, const struct zl_record *r);
/* Another broker deleted the topic and made it anew at phys or before: what lies before it in the log is no queue's. */
uint32_t zt_queue_anew(struct zt_queues *qs, struct zt_queue *q, int64_t phys, int64_t offset);
/* So it was, as another of its queues shows, and this one, which has no files, got nothing since. */
uint32_t zt_queue_gone(struct zt_queues *qs, struct zt_queue *q);
uint32_t zt_chunk_bit(struct zt_queue *q, int64_t offset, uint32_t *ret_agrees);
void zt_queue_file(const struct zt_queue *q, char *to, int64_t base); /* relative path */

/* ---- extents.c ---- */
/* A record's entry: does its extent, if it has one, say what the record says? */
void zt_extent_compare(struct zt_queues *qs, struct zt_queue *q, const struct zs_entry *e, const struct zl_record *r);
void zt_extents_tell(struct zt_queues *qs); /* once the log was read: a finding for each queue, which is then bad */
const char *zt_extent_text(const struct zt_view *v, const struct zt_queue *q, const struct zs_entry *e); /* static */

/* ---- log.c ---- */
struct zt_damage {
    int64_t from, to;
    const char *why;
};
struct zt_segment {
    int64_t base;
    uint64_t size;         /* of the file */
    uint64_t n_records, n_bytes, n_bodies;
    int64_t first_ms, last_ms;
    int64_t first, end;    /* first record, end of the last; -1: none */
    uint32_t whole;        /* a blank (or a record) reaches its end */
    uint32_t missing;      /* no file */
    uint32_t packed;
    int64_t tail_nonzero;  /* the first byte behind end that is not zero, -1: none */
    const char *tail_why;
    int64_t stale_from;    /* remains of an older log, -1: none */
    int64_t unread_from;   /* the disk gives nothing from here on, -1: it does */
    uint64_t n_unindexed, n_foreign; /* keys the index lacks; index entries without their record */
    int64_t unindexed_from, unindexed_to, foreign_phys, foreign_at;
    struct zt_ifile *foreign_file;
};
struct zt_log {
    struct zt_view *v;
    struct zt_report *report;
    struct zt_queues *queues;
    struct zt_index *index;
    struct zt_segment *segs;
    uint64_t n_segs;
    pthread_mutex_t lock;
    struct zt_damage *damage;
    uint64_t n_damage, cap_damage;
    int64_t begin, end;
    int64_t seg_size;
    uint64_t last_used; /* number of the last segment with a record */
    uint64_t n_missing; /* segments that are not there, in the middle or at the end */
    uint64_t n_records, n_bytes;
    int64_t first_ms, last_ms;
    double seconds;
    struct zt_windows *windows[ZT_MAX_THREADS];
    uint32_t torn;      /* behind the end lies something */
};
/* Finds the segments; reads them. */
int zt_log_open(struct zt_log *lg);
int zt_log_read(struct zt_log *lg);
/* A record that --repair puts into a damaged place: in no queue, in no index. */
#define ZT_FILLER_TOPIC "L"
static inline uint32_t zt_is_filler(const struct zl_record *r)
{
    return (r->sys_flag & ZR_SYSFLAG_TRANSACTION_MASK) == ZR_SYSFLAG_ROLLBACK && zl_is(r->topic, ZT_FILLER_TOPIC);
}
void zt_log_free(struct zt_log *lg);
/* Is phys in a damaged place? */
const struct zt_damage *zt_log_damaged(const struct zt_log *lg, int64_t phys);
/* The offsets that the queue can have: [*ret_from, *ret_to), all if nothing speaks against any. 0: no memory. (queues_range.c) */
uint32_t zt_queue_range(const struct zt_queues *qs, const struct zt_log *lg, const struct zt_queue *q, int64_t *ret_from, int64_t *ret_to);
/* Compares the queues' files with what the log said. */
void zt_queues_compare(struct zt_queues *qs, struct zt_log *lg);
/* Segment names, relative to the view's folder if they lie in it. */
void zt_segment_file(struct zt_log *lg, int64_t pos, char *to);

/* ---- index.c ---- */
struct zt_ifile {
    char name[24];
    uint64_t size;
    int64_t begin_ms, end_ms, begin_phys, end_phys;
    int32_t slots_used, count; /* as the header says */
    int32_t good;    /* entries that agree with one another: numbers below it */
    int64_t slots, entries;
    int64_t first, last; /* physical offsets of the entries */
    int64_t *start;  /* by segment: the first entry at or behind its begin */
    uint64_t n_seg;
    uint32_t usable, bad;
    int32_t fd;
};
struct zt_index {
    struct zt_view *v;
    struct zt_report *report;
    struct zt_ifile *files;
    uint64_t n;
    int64_t last; /* physical offset of the newest entry */
    uint64_t n_entries, n_foreign;
    int64_t lag_pos; /* keys of records behind may not be in the files yet */
};
struct zt_cursor; /* of one segment */
int zt_index_load(struct zt_index *ix, struct zt_view *v, struct zt_report *report, int64_t first_seg, int64_t seg_size, uint64_t n_seg);
void zt_index_free(struct zt_index *ix);
struct zt_cursor *zt_cursor_new(struct zt_index *ix, uint64_t seg_no, int64_t seg_base, int64_t seg_end);
/* The keys of a record against the index. */
void zt_cursor_record(struct zt_cursor *c, const struct zl_record *r, struct zt_segment *seg);
void zt_cursor_end(struct zt_cursor *c, struct zt_segment *seg);
/* What the index lacks, and what it has too much. */
void zt_index_tell(struct zt_index *ix, struct zt_log *lg);
/* Looks a key up in the files: physical offsets, newest first. */
uint32_t zt_index_find(struct zt_index *ix, struct zr_str topic, struct zr_str key, int64_t *physical, uint32_t cap);

/* ---- journal.c ---- */
struct zt_journal_row;
struct zt_journal { /* changes to topics that are not in the document yet */
    struct zl_buf *files;
    uint32_t n_files, n_docs;
    struct zl_json_doc **docs;
    struct zt_journal_row *rows; /* by name */
    uint64_t n_rows, cap_rows;
    const struct zl_json *version; /* of the newest of them; NULL: the document's */
};
void zt_journal_load(struct zt_journal *j, struct zt_view *v, struct zt_report *report); /* before the document is read */
/* What counts behind this document. from_itself: it lay in its own place, not in the .bak's; empty: there is none. */
void zt_journal_follow(struct zt_journal *j, struct zr_str document, const struct zl_json *table, uint32_t from_itself, struct zt_report *report);
/* 1: it speaks of the topic; *ret NULL when it was removed. */
uint32_t zt_journal_topic(const struct zt_journal *j, struct zr_str topic, const struct zl_json **ret);
const struct zl_json *zt_journal_next(const struct zt_journal *j, uint64_t *at); /* those that are not removed; NULL: the end */
void zt_journal_free(struct zt_journal *j);

/* ---- docs.c ---- */
struct zt_doc {
    const char *name;
    struct zl_buf text;
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint32_t state; /* 0: missing, 1: good, 2: damaged */
    uint32_t backup; /* the same of its .bak */
};
#define ZT_DOC_TOPICS 0u
#define ZT_DOC_GROUPS 1u
#define ZT_DOC_OFFSETS 2u
#define ZT_DOC_DELAY 3u
#define ZT_DOC_FILTER 4u
#define ZT_DOC_ORDER 5u
#define ZT_DOC_MODE 6u
#define ZT_DOC_MAPPING 7u
#define ZT_DOCS 8u
struct zt_docs {
    struct zt_view *v;
    struct zt_report *report;
    struct zt_doc at[ZT_DOCS];
    struct zt_journal journal; /* of ZT_DOC_TOPICS */
};
void zt_docs_load(struct zt_docs *d, struct zt_view *v, struct zt_report *report);
void zt_docs_free(struct zt_docs *d);
uint32_t zt_docs_topic(const struct zt_docs *d, struct zr_str topic); /* is it configured? (or unknown, without the document) */
uint32_t zt_topic_there(const struct zt_view *v, const char *topic); /* has it a folder of queues? */
uint32_t zt_docs_batch(const struct zt_docs *d, struct zr_str topic); /* has it queue.type=BatchCQ? */
void zt_docs_agree(struct zt_docs *d, struct zt_queues *qs, struct zt_log *lg);

/* ---- check.c ---- */
struct zt_check {
    struct zt_view view;
    struct zt_report report;
    struct zt_queues *queues;
    struct zt_log log;
    struct zt_index index;
    struct zt_docs docs;
};
/* Looks at everything; ZT_CANNOT when it could not. zt_check_free in any case. */
int zt_check_run(struct zt_check *c, const char *dir, const struct zt_options *opt);
void zt_check_free(struct zt_check *c);
int zt_cmd_check(const char *dir, const struct zt_options *opt);
int zt_check_print(struct zt_check *c, const char *did); /* did: a JSON list of what was done, or NULL; the status */

/* ---- repair.c, repair_files.c ---- */
int zt_cmd_repair(const char *dir, const struct zt_options *opt);
struct zt_repair {
    struct zt_check *c;
    char dir[ZS_PATH], aside[ZS_PATH], mend[ZS_PATH];
    struct zl_buf said; /* JSON strings of what was done, comma-separated */
    uint32_t json, n_done, failed, changed;
};
void zt_did(struct zt_repair *r, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void zt_repair_fail(struct zt_repair *r, const char *what, int64_t error);
/* Keeps what is at rel (below the folder) in the aside folder: moved, or linked so that it stays in place too. 0 or -errno. */
int64_t zt_aside(struct zt_repair *r, const char *rel, uint32_t keep);
int64_t zt_parent_make(const char *path); /* the folder that it lies in */
/* Makes durable that path, which lies below the store's directory, is there, with the folders that lead to it. */
int64_t zt_aside_sync(const struct zt_repair *r, const char *path);
/* Renames, and makes durable that it is there (with the folders that lead to it) and no more where it was. */
int64_t zt_move(const struct zt_repair *r, const char *from, const char *to);
void zt_repair_log(struct zt_repair *r);    /* damaged places get records that stand for nothing */
void zt_repair_queues(struct zt_repair *r); /* bad queues anew from the log */
void zt_extents_aside(struct zt_repair *r, const struct zt_queue *q); /* of a queue that was made anew */
void zt_repair_docs(struct zt_repair *r);
/* The lock of a store; of this process from then on. ZT_CANNOT: said on stderr. */
int zt_lock_take(const char *dir, const struct zt_dirs *dirs); /* of the folders of the log, too */
void zt_lock_drop(void);

/* ---- the other commands ---- */
struct zt_show {
    int64_t at, n, from;
    const char *queue, *topic, *key, *id;
    uint32_t segments;
};
int zt_cmd_show(const char *dir, const struct zt_options *opt, const struct zt_show *what);
int zt_cmd_convert(const char *dir, const struct zt_options *opt, uint32_t to_plain, int32_t level);
int zt_cmd_stats(const char *dir, const struct zt_options *opt, int64_t retention_hours);
#endif
