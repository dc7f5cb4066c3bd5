/* SPDX-License-Identifier: Apache-2.0 */
/* zs_int.h - the store library seen from inside.
 *
 * THE POSITIONS. begin <= flushed <= end. All are physical offsets; `end` is where the next record goes. What lies below end
 * is whole records and blanks, written by pwrite that succeeded; what lies behind end is zero, or is made zero before the
 * next write (torn_end). A queue knows `next`, the offset of its next message; entries [persisted, next) are only in its
 * ring, entries below persisted are in its files, entries below synced are in its files on disk.
 *
 * LOCKING (order: what is named first is taken first; what is not named together is never held together)
 *   append_lock   end, last_*, torn_end, every queue's assign, the active segment. Held over the append's pwrite.
 *   drain_lock    one writer of queue files at a time; each queue's persisted and synced. Removing a topic takes it before
 *                 append_lock; nobody takes it under append_lock.
 *   queue->lock   a queue's ring, next, visible, min. Under append_lock or drain_lock or alone. Never over a file operation.
 *   segs.lock     the table of segments, pins, mappings. Leaf.
 *   files.lock    the descriptors of queue files. Leaf.
 *   table_lock    the table of queues (reader-writer). Leaf, but taken before any of the above by remove_topic's callers only.
 *   flush_lock, work_lock   the wake-ups of the threads. Leaf.
 *   index.lock    the index; over its own files' operations.
 * No host service but log, io, metrics and bits is called with a lock held. */
#ifndef ZS_INT_H
#define ZS_INT_H
#include <pthread.h>
#include <stdatomic.h>
#include "zarya/bits.h"
#include "zarya/durability.h"
#include "zarya/err.h"
#include "zarya/io.h"
#include "zarya/log.h"
#include "zarya/metrics.h"
#include "zarya/timer.h"
#include "zarya/work.h"
#include "zl/buf.h"
#include "zl/io.h"
#include "zl/record.h"
#include "zl/text.h"
#include "zs.h"

#define ZS_ENTRY 20u               /* bytes of a queue entry: i64 physical | i32 size | i64 tags code */
#define ZS_FILLER 0x7FFFFFFF       /* the size in an entry that stands for no message */
#define ZS_BLANK 8u                /* what is always left at the end of a segment */
#define ZS_LARGE_RECORD (64u << 20) /* none that is taken here is larger; one that is found there (RocketMQ's maxMessageSize) is believed if its
                                     * lengths agree, before anything of that size is read or allocated. None is larger than a segment */
#define ZS_HEAD 112u               /* a record up to its body's length */
#define ZS_RECORD_OVER 65536       /* record size allowed beyond max_message_size */
#define ZS_PATH 1024u              /* longest path built here */
#define ZS_PINS 32u                /* segments, or blocks of packed ones, that one read may hold */
#define ZS_CHECKPOINT 4096u
#define ZS_SECTOR 512 /* what a disk writes whole */
#define ZS_HEAL_DEAD 64u
#define ZS_HEAL_KNOWN 64u          /* places of queues that were looked for in the log and not all found */
#define ZS_MAX_QUEUES (4u << 20)
#define ZS_MAX_RING (1u << 20)     /* entries of one queue in memory */
#define ZS_NONE (-1)
#define ZS_MAX_POSITION (1ll << 60) /* what lies beyond is damage; sums of two stay in range */
#define ZS_CLOCK_STEP 60000          /* ms by which the clock may go back without store times following it */

enum zs_metric {
    ZS_M_MESSAGES, ZS_M_BYTES, ZS_M_FLUSHES, ZS_M_FLUSH_NS, ZS_M_DAMAGED, ZS_M_SEGMENTS, ZS_M_TAIL, ZS_M_HELPED, ZS_M_HEALED,
    ZS_M_REFUSED, ZS_N_METRICS
};

/* ---- segments (segment.c) ---- */
struct zs_seg {
    int64_t base;
    const uint8_t *map; /* NULL: not mapped now */
    uint64_t used;      /* stamp of the last use */
    int32_t fd;         /* -1: not open now */
    uint32_t refs;      /* pins */
    uint32_t gone;      /* deleted; ends with its last pin */
    uint32_t packed;    /* its form: a file of blocks, which is not mapped (zs_pack.h) */
    uint32_t told;      /* that it cannot be opened; once, until it can */
    uint32_t missing;   /* its file does not stand under its name any more, and it was said (names.c): what is open stays so */
    _Atomic uint32_t lost;          /* its file is gone or was cut under our hands: no waiting brings it back */
    _Atomic uint32_t damaged;       /* packed, and so that it cannot be opened; plain: could not be packed */
    uint32_t stays;     /* a block of it is damaged: it is read, but keeps its form. The packing thread's alone, as the next */
    uint32_t failed_in; /* the round in which its form could not be changed */
    struct zs_packed *_Atomic pack; /* packed: opened */
    int64_t mtime_ns;   /* packed: last write of the plain form */
    uint64_t serial;    /* in order of making */
    _Atomic uint32_t name_unsynced; /* its folder must be synced before anything in it counts as flushed */
};
struct zs_segs {
    pthread_mutex_t lock;
    struct zs_seg **at; /* at[i] covers [first + i * size, + size); NULL: a hole */
    uint64_t n, cap;
    int64_t first, size;
    uint64_t clock, n_open, max_open;
    uint64_t serials, n_packs_open;
};

/* ---- the folders of the log (dirs.c) ---- */
#define ZS_MAX_DIRS 16u
struct zs_dir_entry {
    int64_t base;
    uint32_t dir, reserved;
};
struct zs_dirs {
    pthread_mutex_t lock; /* over at */
    char path[ZS_MAX_DIRS][ZS_PATH];
    uint32_t n, read_only;      /* read_only: bit i for folder i */
    int32_t lock_fd[ZS_MAX_DIRS]; /* open on the folder, and locked; -1: not */
    struct zs_dir_entry *at;    /* which file lies where, by base; nothing when there is one folder */
    uint64_t n_at, cap;
};

/* ---- queues (queue.c) ---- */
struct zr_queue {
    pthread_mutex_t lock;
    struct zr_queue *hash_next, *dirty_next, *unsynced_next, *ring_next;
    struct zr_queue *topic_next; /* the next queue of the topic; under table_lock, as is heads_next */
    struct zr_queue *heads_next; /* of the queue that stands for its topic: the next such in its bucket */
    uint8_t *ring;            /* cap entries in file form; entry o at o & (cap - 1); holds [ring_lo, next) */
    uint32_t cap;
    uint32_t ring_used;       /* pushed to since the last sweep */
    uint32_t pending;         /* room reserved and not yet pushed to */
    int64_t ring_lo;
    _Atomic int64_t next;     /* the next message's offset; entries below can be read */
    int64_t assign;           /* the same, with those that are being appended; under append_lock */
    int64_t visible;          /* sync: entries below have flushed records */
    _Atomic int64_t min;      /* first offset whose record is still there, as of min_begin */
    _Atomic int64_t min_begin; /* the log's begin that min was computed for; -1: never */
    int64_t persisted, synced; /* see the top */
    int64_t end_phys;         /* end of the last entry's record */
    int64_t persisted_end, synced_end; /* ends of the records of entries persisted - 1 and synced - 1 */
    int64_t syncing, syncing_end; /* what these two will be once the sync under way is done */
    int64_t first_file, last_file; /* numbers of its files, -1: none */
    uint64_t serial;          /* in order of making */
    uint64_t hash;
    _Atomic uint32_t name_unsynced; /* a folder of its files must be synced before they count as durable */
    uint8_t dirty, unsynced, ringed;
    uint8_t holes;            /* a start cut off entries that its files had lost: their records may be before what was read */
    _Atomic uint32_t dead;
    _Atomic uint32_t batch;   /* of a topic with queue.type=BatchCQ (bcq.h) */
    struct zs_ext_files *ext; /* files of its extents (ext_write.c); NULL: not looked at. Under drain_lock */
    _Atomic uint8_t ext_told; /* that an extent of it is missing or damaged */
    struct zs_bcq_files *bcq; /* where RocketMQ's files of it end; NULL: not looked at yet */
    int32_t id;
    uint32_t topic_len;
    char topic[];
};
struct zs_entry {
    int64_t phys, tags;
    int32_t size;
};

/* ---- descriptors of queue files (qfile.c) ---- */
struct zs_qfile {
    struct zr_queue *q;
    int64_t no;
    struct zs_qfile *hash_next, *older, *newer;
    int32_t fd;
    uint32_t refs;
};
struct zs_qfiles {
    pthread_mutex_t lock;
    struct zs_qfile **buckets;
    uint64_t n_buckets, n, max;
    struct zs_qfile *oldest, *newest;
};

/* ---- staging (append.c) ---- */
struct zs_item {
    struct zr_queue *q;
    uint64_t at;       /* in the stage's bytes */
    int64_t qoff;
    int64_t tags;
    uint32_t size;
    uint32_t index;    /* of the message */
    uint32_t entry;    /* queue entries and offsets it gets: 0, 1, or as many as its batch has messages */
    uint32_t joined;   /* 1: belongs to the item before */
};
struct zs_stage {
    struct zs_stage *next;
    uint8_t *buf;
    struct zs_item *items;
    uint64_t len, cap;
    uint32_t n, cap_items;
};

/* ---- what a recovery has to go by (snapshot.c, checkpoint.c) ---- */
struct zs_checkpoint {
    int64_t physic_ms, logics_ms, index_ms, master_flushed, confirm, logics_phys;
};
struct zs_hint { /* one queue, as the last snapshot knew it */
    struct zr_str topic;
    int64_t min, next, end_phys;
    int64_t first_file; /* ZS_NONE: not known */
    int32_t id;
    uint32_t seen;
};
struct zs_snapshot {
    struct zl_buf bytes;
    struct zs_hint *hints;
    uint64_t n;
    int64_t pos;        /* records below have their entries in the queue files, on disk */
    int64_t begin;      /* of the log */
    int64_t last_phys;  /* the last record below pos, -1: none */
    int64_t last_ms;
    int64_t index_pos;  /* records below are in the index */
    int64_t index_last; /* the newest record that has a key in it, -1: none */
    int64_t segment_size;    /* 0: not known */
    int64_t queue_file_size; /* 0: not known, and the files must be looked at */
    uint32_t valid, clean;
};
struct zs_removed;
struct zs_removals { /* topics that were removed, by name; under removed_lock (n may be looked at without) */
    struct zs_removed **buckets, *last; /* last: the newest */
    uint64_t n_buckets, lines; /* lines: of the file, outdated ones too */
    struct zl_buf odd;         /* lines that say nothing, n_odd of them, as they were */
    uint64_t n_odd;
    _Atomic uint64_t n;
    uint32_t dirty;            /* the file does not say all of it */
};

struct zs_index;

/* ---- the clock that ages are told by (age.c) ---- */
struct zs_age {
    int64_t wall_ms, boot_ms;   /* both clocks at the last look */
    int64_t ahead_ms, since_ms; /* what is taken off the wall clock, and what that said when it began */
    int64_t saved_ms;           /* the wall clock when the file was written */
    uint32_t told;              /* that it could not be */
};

/* ---- the store ---- */
struct zr_inst {
    const struct zr_host *host;
    const struct zr_io_v1 *io;
    const struct zr_log_v1 *log;
    const struct zr_err_v1 *err;
    const struct zr_durability_v1 *dur;
    const struct zr_bits_v1 *bits; /* NULL: no bit maps */
    const struct zr_timer_v1 *timer;
    const struct zr_work_v1 *work;
    const struct zr_metrics_v1 *metrics;
    struct zs_conf conf;
    uint32_t metric0, metrics_on;
    struct zs_dirs dirs;
    char log_dir[ZS_PATH], queue_dir[ZS_PATH], index_dir[ZS_PATH], own_dir[ZS_PATH], ext_dir[ZS_PATH];
    uint32_t ext_there;  /* the folder of extents is there (ext.h); under drain_lock, as the next two */
    uint32_t ext_fails;  /* they could not be written last time */
    struct zs_ext_out *ext_out;
    int32_t lock_fd;
    uint32_t lock_ours;  /* the one who had the lock before was Zarya: no other broker wrote since our snapshot */
    uint32_t lock_marked; /* the word in lock is ours */
    int32_t checkpoint_fd;
    uint32_t warm;

    struct zs_segs segs;
    struct zs_pack *pack;        /* conf.pack: the cache and the packing thread (zs_pack.h); NULL: plain segments only */
    struct zs_qfiles files;

    /* appending */
    pthread_mutex_t append_lock;
    _Atomic int64_t begin, end, flushed;
    _Atomic int64_t boot_end;    /* the end when recovery was done: what lies below was written by an earlier process */
    int64_t torn_end;            /* bytes in [end, torn_end) may be remains of a write that failed */
    int64_t last_phys;           /* the last record, -1: none */
    _Atomic int64_t last_ms;     /* its store time; set after end */
    int64_t prep_asked;          /* base of the last segment that was asked for ahead */
    struct zs_seg *active;       /* the segment that end lies in (or at the end of); pinned */
    _Atomic uint32_t closing;    /* no append any more */
    _Atomic uint32_t failed;     /* a flush failed: read-only */
    _Atomic uint32_t disk_full;  /* the last append met a full disk */
    _Atomic uint32_t disk_over;  /* the disk is fuller than ratio_refuse */
    char why_failed[256], why_over[256];

    pthread_mutex_t stage_lock;
    struct zs_stage *stages;
    uint32_t n_stages;

    /* the next segment, prepared ahead */
    pthread_mutex_t prep_lock;
    pthread_cond_t prep_cond;
    int64_t prep_want;           /* base of the segment wanted, -1: none */
    int64_t prep_base;           /* base of the one that is ready, -1: none */
    int32_t prep_fd;

    _Atomic uint32_t torn_told;  /* that such properties are refused */
    int64_t doubt;               /* what lies behind this may have been written without all of its sectors (scan.c); set by a recovery */

    /* queues */
    pthread_rwlock_t table_lock;
    struct zr_queue **buckets;
    struct zr_queue *dead;       /* handles of removed topics, until the end; by hash_next */
    struct zr_queue **heads;     /* one queue of each topic, by the topic's hash; n_buckets too; the others by topic_next */
    uint64_t n_buckets, n_queues, n_topics;
    struct zl_buf batch_topics; /* names of topics with queue.type=BatchCQ, each with a NUL; under table_lock */
    uint64_t serials;
    pthread_mutex_t dirty_lock;  /* the three lists below; leaf */
    struct zr_queue *dirty, *unsynced, *ringed;
    _Atomic int64_t tail_bytes;
    pthread_mutex_t drain_lock;
    uint8_t *drain_buf;
    struct zr_queue **drain_sort;
    uint64_t drain_cap;
    _Atomic uint32_t queue_writes_fail;
    _Atomic uint32_t queues_unsure; /* a sync of queue files failed: nothing is said of them until a restart */
    struct zs_removals removals;
    uint64_t n_removals;         /* folders moved away; under drain_lock */
    pthread_mutex_t removed_lock;
    pthread_mutex_t heal_lock;   /* one healing at a time; before drain_lock */
    struct {
        const struct zr_queue *q;
        int64_t from, to;
    } heal_known[ZS_HEAL_KNOWN]; /* looked for, and not all found; under heal_lock */
    uint32_t heal_next, heal_dead_next;
    struct {
        int64_t from, to;
    } heal_dead[ZS_HEAL_DEAD];   /* parts of the log where no record begins; under heal_lock */

    /* flusher */
    pthread_mutex_t flush_lock;
    pthread_cond_t flush_cond, flushed_cond;
    int64_t wanted;
    int64_t gather_to;           /* the flusher waits for this position, or for some time to pass; 0: it does not */
    int64_t flushed_ms;          /* store time of the newest flushed record */
    uint32_t flush_waits;        /* the flusher's: for a descriptor */
    _Atomic uint32_t flush_idle;

    /* queue writer and checkpoint */
    pthread_mutex_t work_lock;
    pthread_cond_t work_cond;
    _Atomic uint32_t work_idle;
    uint32_t work_hurry;
    int64_t saved_pos;           /* of the last snapshot */
    int64_t saved_at_ns;
    int64_t saved_cost_ns;
    struct zs_checkpoint checkpoint;

    struct zs_index *index;

    _Atomic uint32_t stopping;
    uint64_t threads[5];
    uint32_t n_threads;
    _Atomic uint32_t threads_on; /* the threads are there (or about to be) */

    _Atomic uint64_t clean_timer;
    int64_t stuck_ns;            /* when it was last said that a segment cannot be deleted; under clean_lock */
    pthread_mutex_t clean_lock;
    uint32_t clean_running;      /* a timer is set or a job under way; under work_lock */
    pthread_cond_t clean_cond;
    uint32_t clean_stop;
    struct zs_age age;           /* this and the next under clean_lock */
    int64_t names_at;            /* segments up to here were looked at in this turn, -1: a new one begins (names.c) */

    int64_t memory_bytes, recent_bytes;
    double log_ratio, queue_ratio; /* these four under work_lock */
    uint64_t disk_total, disk_available;
    uint32_t recovering;
};

/* ---- env.c ---- */
void zs_log(struct zr_inst *st, uint32_t level, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
zr_status zs_raise(struct zr_inst *st, zr_status status, int64_t os_errno, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void zs_count(struct zr_inst *st, enum zs_metric metric, int64_t delta);
void zs_gauge(struct zr_inst *st, enum zs_metric metric, int64_t value);
void zs_observe(struct zr_inst *st, enum zs_metric metric, int64_t value);
int64_t zs_mono(struct zr_inst *st);
void zs_cond_init(pthread_cond_t *cond);
/* Waits until signalled or ns passed. */
void zs_cond_wait_ns(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t ns);
zr_status zs_status_of(int64_t os_error); /* of a -errno */
const char *zs_errno_text(int64_t os_error);
uint32_t zs_path(char *to, const char *fmt, ...) __attribute__((format(printf, 2, 3))); /* 0: too long */
/* A file of 20 digits? Its number. */
uint32_t zs_name_offset(const char *name, int64_t *ret);
/* Is [fd off, +len) all zero? Skips holes where the seam can. 1, 0, or -errno; *ret_at the first byte that is not. */
int64_t zs_is_zero(struct zr_inst *st, int32_t fd, int64_t off, int64_t len, int64_t *ret_at);
int64_t zs_zero(struct zr_inst *st, int32_t fd, int64_t off, int64_t len);

/* ---- dirs.c ---- */
uint32_t zs_dirs_init(struct zr_inst *st); /* 0: too many of them, or too long */
zr_status zs_dirs_lock(struct zr_inst *st); /* ZR_EEXIST: another broker, or a tool, has one of them */
void zs_dirs_free(struct zr_inst *st);
const char *zs_dir_of(struct zr_inst *st, int64_t base); /* where the file lies */
uint32_t zs_dir_set(struct zr_inst *st, int64_t base, uint32_t dir);
uint32_t zs_dir_read_only(struct zr_inst *st, int64_t base); /* the folder that holds it takes no new files */
void zs_dir_forget(struct zr_inst *st, int64_t base);
uint32_t zs_dir_choose(struct zr_inst *st, int64_t base); /* says where a new file is to lie; 0: nowhere */
int64_t zs_dirs_sync(struct zr_inst *st);
const char *zs_dir_empty(struct zr_inst *st); /* at a start: one of several folders that holds no file of the log, or NULL */

/* ---- folders.c: where the log lay last ---- */
struct zs_folders {
    char path[ZS_MAX_DIRS][ZS_PATH];
    uint32_t n, read_only; /* read_only: bit i for folder i */
    uint32_t moved;        /* it was written when the data directory was elsewhere: those outside it may be another store's */
};
uint32_t zs_folders_load(const struct zr_io_v1 *io, const char *root, struct zs_folders *ret); /* 0: there is no note */
void zs_folders_save(struct zr_inst *st);
/* At a start: does one that was a folder of the log, and is not configured now, hold what is missing? Then it is refused. */
zr_status zs_folders_look(struct zr_inst *st, const struct zs_snapshot *snap);

/* ---- segment.c ---- */
zr_status zs_segs_load(struct zr_inst *st, int64_t told); /* the size that segments had, as the snapshot says; 0: it does not */
void zs_segs_free(struct zr_inst *st);
/* The segment that covers pos, open, mapped and pinned; NULL: not there. nowait: NULL too if it is not mapped, with *ret_busy. */
struct zs_seg *zs_seg_get(struct zr_inst *st, int64_t pos, uint32_t nowait, uint32_t *ret_busy);
/* After zs_seg_get found none: is the file there, and could only not be opened? */
uint32_t zs_seg_shut_out(struct zr_inst *st, int64_t pos);
/* The same, and another time it may be opened: a shortage of descriptors or memory, and not a loss. */
uint32_t zs_seg_later(struct zr_inst *st, int64_t pos);
void zs_seg_put(struct zr_inst *st, struct zs_seg *seg);
void zs_seg_pin(struct zr_inst *st, struct zs_seg *seg); /* once more; the caller has a pin */
/* Puts a segment into the table; fd >= 0 is taken over. Returned pinned; NULL: no memory. */
struct zs_seg *zs_seg_add(struct zr_inst *st, int64_t base, int32_t fd);
/* Creates the file of a segment in full size: a descriptor or -errno. */
int64_t zs_seg_create(struct zr_inst *st, int64_t base);
void zs_seg_path(struct zr_inst *st, int64_t base, char *to);
/* Takes the oldest (first 1) or the newest segment out of the table and unlinks its file. */
zr_status zs_seg_drop(struct zr_inst *st, uint32_t first);
/* Closes and unmaps the segment that covers pos, if nobody has it pinned. */
void zs_seg_shut(struct zr_inst *st, int64_t pos);
int64_t zs_segs_last(struct zr_inst *st);  /* base of the newest, -1: none */
int64_t zs_segs_first(struct zr_inst *st); /* base of the oldest, -1: none */
int64_t zs_seg_next(struct zr_inst *st, int64_t base); /* base of the next segment there is behind it, -1: none */
/* The first one behind base, as it is, pinned (it may not be open); NULL: none. unsynced: it may hold what is not flushed. */
struct zs_seg *zs_seg_behind(struct zr_inst *st, int64_t base, uint32_t *ret_unsynced);
void zs_seg_missing(struct zr_inst *st, struct zs_seg *seg, uint32_t missing);
uint32_t zs_seg_reopen(struct zr_inst *st, struct zs_seg *seg); /* closes it, so that its next use opens it anew; 0: others have it pinned */
void zs_prepare_main(void *arg);
int32_t zs_prepared_take(struct zr_inst *st, int64_t base);
void zs_prepare_want(struct zr_inst *st, int64_t base);
void zs_prepared_drop(struct zr_inst *st);

/* ---- append.c ---- */
void zs_stages_free(struct zr_inst *st);

/* ---- queue.c ---- */
struct zr_queue *zs_queue_find(struct zr_inst *st, struct zr_str topic, int32_t id);
zr_status zs_queue_name_ok(struct zr_str topic);
void zs_queues_free(struct zr_inst *st);
/* A copy of the table for walking without its lock (handles live as long as the store); free() it. */
struct zr_queue **zs_queues_list(struct zr_inst *st, uint64_t *ret_n);
/* Room in the ring for one more entry, beside those reserved already. Under append_lock (or recovering). ZR_ENOMEM, ZR_EFULL. */
zr_status zs_queue_reserve(struct zr_inst *st, struct zr_queue *q);
void zs_queue_unreserve(struct zr_queue *q);
/* Adds the entry of offset `next`; uses up room reserved. */
void zs_queue_push(struct zr_inst *st, struct zr_queue *q, const struct zs_entry *e);
/* At a start: puts another entry in the place of that of an offset below next. 0 or -errno. */
int64_t zs_queue_replace(struct zr_inst *st, struct zr_queue *q, int64_t offset, const struct zs_entry *e);
/* Copies up to n raw entries from offset on: how many (0: none there), or -EAGAIN (nowait and not in the ring), or -errno. */
int64_t zs_queue_copy(struct zr_inst *st, struct zr_queue *q, int64_t offset, uint32_t n, uint8_t *to, uint32_t nowait);
/* Writes what is only in rings to the files. Returns 0 or the first -errno. Bounded by what was dirty at its begin. */
int64_t zs_queues_drain(struct zr_inst *st);
/* Frees the rings of queues that were not pushed to since the last sweep. */
void zs_queues_sweep(struct zr_inst *st, uint32_t hard);
/* Makes durable what is persisted. 0 or -errno. */
int64_t zs_queues_sync(struct zr_inst *st);
void zs_queues_unsure(struct zr_inst *st, int64_t error); /* a sync of queue files, or of their names, failed */
/* Recovery: the queue ends before offset next, whose predecessor's record ends at end_phys; all of it is in the files. */
void zs_queue_reset(struct zr_inst *st, struct zr_queue *q, int64_t next, int64_t end_phys);
/* Takes a topic's queues out of the table; they are dead from then on. ret_at: how many (malloc'ed). */
struct zr_queue **zs_queues_take(struct zr_inst *st, struct zr_str topic, uint64_t *ret_n);
/* Frees the ring of a queue that is dead, with the entries that no file has. Under append_lock and drain_lock. */
void zs_queue_bury(struct zr_inst *st, struct zr_queue *q);
int64_t zs_queue_visible(struct zr_inst *st, struct zr_queue *q);
int64_t zs_queue_min(struct zr_inst *st, struct zr_queue *q);
uint32_t zs_queue_min_known(struct zr_inst *st, struct zr_queue *q); /* zs_queue_min needs no file for it */
void zs_queue_mark_unsynced(struct zr_inst *st, struct zr_queue *q, int64_t from);
void zs_queue_writer_main(void *arg);
void zs_queue_writer_wake(struct zr_inst *st, uint32_t hurry);
static inline void zs_entry_load(const uint8_t *from, struct zs_entry *e)
{
    e->phys = (int64_t)zl_load64(from);
    e->size = (int32_t)zl_load32(from + 8);
    e->tags = (int64_t)zl_load64(from + 12);
}
static inline void zs_entry_store(uint8_t *to, const struct zs_entry *e)
{
    zl_store64(to, (uint64_t)e->phys);
    zl_store32(to + 8, (uint32_t)e->size);
    zl_store64(to + 12, (uint64_t)e->tags);
}
/* Does it stand for a message? */
static inline uint32_t zs_entry_real(const struct zs_entry *e)
{
    return e->phys >= 0 && e->phys < ZS_MAX_POSITION && e->size > 0 && e->size != ZS_FILLER;
}

/* Topics with queues. */
uint64_t zs_count_topics(struct zr_inst *st, uint64_t *ret_queues);
/* The first queue of a topic, the others by topic_next; NULL: none. Under table_lock. */
struct zr_queue *zs_topic_queues(struct zr_inst *st, struct zr_str topic);
/* ---- qfile.c ---- */
zr_status zs_qfiles_init(struct zr_inst *st);
void zs_qfiles_free(struct zr_inst *st);
void zs_queue_path(struct zr_inst *st, const struct zr_queue *q, char *to);
void zs_qfile_path(struct zr_inst *st, const struct zr_queue *q, int64_t no, char *to);
/* Reads up to n entries from offset on (to the end of a file at most): how many, or -errno; 0 when there is no such file. */
int64_t zs_qfile_read(struct zr_inst *st, struct zr_queue *q, int64_t offset, uint32_t n, uint8_t *to);
/* Writes n entries at offset; files and folders are made. 0 or -errno. Under drain_lock (or recovering). */
int64_t zs_qfile_write(struct zr_inst *st, struct zr_queue *q, int64_t offset, uint32_t n, const uint8_t *from);
int64_t zs_qfile_sync(struct zr_inst *st, struct zr_queue *q, int64_t from, int64_t to);
/* Makes everything from offset on zero, or deletes it. */
int64_t zs_qfile_cut(struct zr_inst *st, struct zr_queue *q, int64_t offset);
void zs_qfile_forget(struct zr_inst *st, struct zr_queue *q); /* closes what is cached of it */
/* A cached descriptor, held until zs_qfile_let; NULL: it is not there. zs_qfile_keep takes one over (NULL: no memory, it is closed). */
#define ZS_QFILE_EXT(no) (-2 - (no)) /* the number of a file of extents */
struct zs_qfile *zs_qfile_hold(struct zr_inst *st, struct zr_queue *q, int64_t no);
struct zs_qfile *zs_qfile_keep(struct zr_inst *st, struct zr_queue *q, int64_t no, int32_t fd);
void zs_qfile_let(struct zr_inst *st, struct zs_qfile *x);
void zs_qfile_shut(struct zr_inst *st, struct zr_queue *q, int64_t no); /* closes it, if it is cached and nobody holds it */
int64_t zs_qfile_drop_first(struct zr_inst *st, struct zr_queue *q);
int64_t zs_qfiles_remove(struct zr_inst *st, struct zr_queue *q); /* all files and the folder */

/* ---- flush.c ---- */
void zs_flush_main(void *arg);
void zs_flush_dirty(struct zr_inst *st); /* something was appended */
/* Waits until position is flushed; 0: it cannot be. */
uint32_t zs_flush_wait(struct zr_inst *st, int64_t position);
void zs_flush_lost(struct zr_inst *st); /* a file that is written to was removed or replaced: read-only */
/* fdatasync of every segment in [from, to), names included. 0 or -errno. */
int64_t zs_flush_range(struct zr_inst *st, int64_t from, int64_t to);
static inline int64_t zs_visible(struct zr_inst *st)
{
    return st->conf.sync ? atomic_load_explicit(&st->flushed, memory_order_acquire)
                         : atomic_load_explicit(&st->end, memory_order_acquire);
}

/* ---- scan.c: reading the log record by record through pread ---- */
struct zs_scan {
    struct zr_inst *st;
    struct zs_seg *seg; /* pinned; NULL: none yet */
    uint8_t *buf;
    uint64_t cap, len;
    int64_t buf_at;     /* physical offset of buf[0] */
    int64_t ahead;      /* the disk was asked for what lies before this */
    int64_t pos;        /* the next record's place */
    int64_t limit;      /* nothing is read at or behind it */
    const char *why;    /* why the record at pos is none */
    uint64_t window;    /* read at once, if there is so much */
    uint32_t crc;       /* compare body checksums */
    uint32_t lax;       /* a wrong property CRC is none of its business */
    uint32_t shut;      /* a segment that is there was passed over, for it could not be opened */
    uint32_t failed;    /* bytes were passed over, for the disk did not give them */
};
#define ZS_SCAN_RECORD 1
#define ZS_SCAN_END 0    /* the limit is reached */
#define ZS_SCAN_BAD (-1) /* no valid record at pos */
#define ZS_SCAN_STOP (-2) /* memory ran out */
void zs_scan_open(struct zs_scan *s, struct zr_inst *st, int64_t pos, int64_t limit, uint32_t crc);
void zs_scan_close(struct zs_scan *s);
/* Reads the record at pos and steps behind it, over blanks and into next segments. *ret's spans are valid until the next call. */
int zs_scan_next(struct zs_scan *s, struct zl_record *ret);
/* After ZS_SCAN_BAD: finds the next valid record behind pos. 1: pos is there; 0: nothing valid up to the limit. */
int zs_scan_resync(struct zs_scan *s);
/* Is there a valid record at phys (body checksum included)? Its facts, without spans. */
uint32_t zs_scan_one(struct zr_inst *st, int64_t phys, struct zl_record *ret);
/* Do size and body's length agree at the front of a record of at least ZS_HEAD bytes? What is larger than ZS_LARGE_RECORD must. */
uint32_t zs_sizes_agree(const uint8_t *head, uint64_t size);
uint32_t zs_scan_one_of(struct zr_inst *st, int64_t phys, struct zr_str topic, struct zl_record *ret); /* and is it this topic's? */

/* ---- snapshot.c ---- */
void zs_snapshot_load(struct zr_inst *st, struct zs_snapshot *ret);
void zs_snapshot_free(struct zs_snapshot *s);
int64_t zs_snapshot_save(struct zr_inst *st, int64_t pos, int64_t last_phys, int64_t last_ms, uint32_t clean);

/* ---- removed.c ---- */
zr_status zs_removed_load(struct zr_inst *st);
/* Known in memory at once (unless -ENOMEM); -errno: it could not be written, zs_removed_save is to be called again. */
int64_t zs_removed_add(struct zr_inst *st, struct zr_str topic, int64_t position);
int64_t zs_removed_save(struct zr_inst *st); /* what could not be written before */
/* After a recovery: the log ends at end, and what is written from there on was not removed. 0 or -errno. */
int64_t zs_removed_cut(struct zr_inst *st, int64_t end);
/* At a start: known in memory, and written with the next cut or save. 0 or -ENOMEM. */
int64_t zs_removed_know(struct zr_inst *st, struct zr_str topic, int64_t position);
uint32_t zs_removed_covers(struct zr_inst *st, struct zr_str topic, int64_t phys);
struct zr_str zs_removed_last(struct zr_inst *st); /* at a start only */
void zs_removed_prune(struct zr_inst *st);
void zs_removed_free(struct zr_inst *st);

/* ---- remove.c ---- */
/* After a recovery that looked at no folder: a kill may have left that of the topic removed last. */
void zs_remove_finish(struct zr_inst *st);
void zs_gone_sweep(struct zr_inst *st); /* deletes what a killed process had moved away */

/* ---- checkpoint.c ---- */
zr_status zs_checkpoint_open(struct zr_inst *st);
int64_t zs_checkpoint_write(struct zr_inst *st);
zr_status zs_lock_take(struct zr_inst *st);
void zs_lock_mark(struct zr_inst *st); /* our word, once what is on disk is known to be ours; until then it is as it was found */
void zs_lock_drop(struct zr_inst *st);
uint32_t zs_abort_there(struct zr_inst *st);
/* After a kill: was this very folder used by a process of the same boot, so that the page cache still has all it wrote? */
uint32_t zs_abort_same_life(struct zr_inst *st);
int64_t zs_abort_make(struct zr_inst *st);
int64_t zs_abort_drop(struct zr_inst *st);
/* Queues written and synced, snapshot and checkpoint on disk. 0 or -errno. */
int64_t zs_save(struct zr_inst *st, uint32_t clean);

/* ---- recover.c ---- */
zr_status zs_recover(struct zr_inst *st);
/* Queue entry of a record found in the log (recovery, healing). */
int64_t zs_tags_of(struct zr_inst *st, const struct zl_record *r);
/* A light queue: its entries point to records of other queues, and cannot be made from the log. */
static inline uint32_t zs_queue_light(const struct zr_queue *q) { return q->topic[0] == '%' && strncmp(q->topic, "%LMQ%", 5) == 0; }
static inline uint32_t zs_has_entry(int32_t sys_flag)
{
    int32_t kind = sys_flag & ZR_SYSFLAG_TRANSACTION_MASK;
    return kind == 0 || kind == ZR_SYSFLAG_COMMIT;
}
/* Makes the entries around offset that are lost, or lead to no record of theirs, anew from the log. 1: look again; 0: it is not
 * to be had; -1: that cannot be told now, for not all of the log could be read, or nothing be stored. Of light queues only what
 * is lost: their entries lead to records of others. */
int zs_heal(struct zr_inst *st, struct zr_queue *q, int64_t offset);

/* ---- queue_load.c ---- */
/* snap may be NULL: by what the files say alone. vouch: another broker was here (vouch.h); or NULL. ret_found: queue files there are. */
struct zs_vouch;
zr_status zs_queues_load(struct zr_inst *st, const struct zs_snapshot *snap, uint32_t clean, struct zs_vouch *vouch, uint64_t *ret_found);
/* Gives the queue up, if its topic was removed behind its end. */
void zs_queue_drop_removed(struct zr_inst *st, struct zr_queue *q);
/* By what the snapshot says alone: no file is looked at. 0: that cannot be; nothing was done. */
uint32_t zs_queues_load_quick(struct zr_inst *st, const struct zs_snapshot *snap, uint64_t *ret_found, zr_status *ret_status);
/* Cuts the queue so that no entry reaches beyond the log's end at tail. */
int64_t zs_queue_truncate(struct zr_inst *st, struct zr_queue *q, int64_t tail);

/* ---- foreign.c ---- */
/* Says what of the store is in forms that are not read; ZR_EINVAL: without them it cannot be served. */
zr_status zs_foreign_look(struct zr_inst *st);

/* ---- read.c ---- */
/* Is [ptr, +len) in memory? */
uint32_t zs_in_memory(const uint8_t *ptr, uint64_t len);
/* Brings a range of a segment into memory by pread, so that a failing disk is an errno and not a signal. 0 or -errno. */
int64_t zs_bring_in(struct zr_inst *st, struct zs_seg *seg, int64_t off, uint64_t len);
struct zs_hold;
/* The record at phys (of that size, if size is not 0), held and parsed; 0: there is none. */
uint32_t zs_record_get(struct zr_inst *st, int64_t phys, int32_t size, uint32_t check, struct zl_record *ret, struct zs_hold *ret_hold);
int64_t zs_store_ms(const uint8_t *record); /* needs 80 bytes */

/* ---- clean.c ---- */
void zs_clean_start(struct zr_inst *st);
void zs_clean_stop(struct zr_inst *st);
void zs_disk_look(struct zr_inst *st);
double zs_used_ratio(struct zr_inst *st, const char *path, struct zr_io_disk *ret); /* as df says it; -1: not to be had */
void zs_clean_stuck(struct zr_inst *st, const char *path, int64_t error); /* says that retention cannot delete it, now and then */
void zs_clean_hurry(struct zr_inst *st); /* the disk is full: the next look at it comes at once. With no lock held */

/* ---- names.c ---- */
void zs_names_look(struct zr_inst *st); /* under clean_lock */
uint32_t zs_seg_in_place(struct zr_inst *st, const struct zs_seg *seg); /* an open plain one: is its file still that of its name? */
/* The same of the files of entries [from, to), which were just synced. Under drain_lock. */
void zs_qfile_look(struct zr_inst *st, struct zr_queue *q, int64_t from, int64_t to);

/* ---- age.c ---- */
void zs_age_open(struct zr_inst *st);   /* behind the recovery */
int64_t zs_age_now(struct zr_inst *st); /* ms that retention by age goes by: a clock that jumped is not believed at once */
void zs_age_close(struct zr_inst *st);

/* ---- index.c ---- */
/* Looks at the files; what has to be mended or read is done by zs_index_main. */
zr_status zs_index_open(struct zr_inst *st, const struct zs_snapshot *snap, uint32_t clean);
void zs_index_close(struct zr_inst *st, uint32_t flush);
void zs_index_free(struct zr_inst *st);
void zs_index_main(void *arg);
void zs_index_wake(struct zr_inst *st);
void zs_index_stop(struct zr_inst *st); /* makes zs_index_main look at stopping */
int64_t zs_index_pos(struct zr_inst *st);
int64_t zs_index_last(struct zr_inst *st);
int64_t zs_index_ms(struct zr_inst *st); /* newest store time in full files */
void zs_index_clean(struct zr_inst *st, uint64_t *removed);
#endif
