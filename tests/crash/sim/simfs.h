/* SPDX-License-Identifier: Apache-2.0 */
/* simfs.h - a file system in memory behind the I/O seam, that writes down what is done to it.
 *
 * What stays true:
 *   1. It answers as POSIX does: missing names, folders that are not empty, holes, short files.
 *   2. While `rec` is set every change and every sync is in the trace, in the order in which it took effect. A sync has two
 *      places in it: only what stands before its begin is durable at its end.
 *   3. A mapping is the file's own memory: it shows each write at once, and a file with mappings never moves.
 *   4. Names are kept as whole paths; a name counts only while all folders above it are there.
 *
 * LOCKING: lock, over everything; sim_note may be called from any thread. */
#ifndef SIMFS_H
#define SIMFS_H
#include <pthread.h>
#include <stdint.h>
#include "zarya/io.h"

#define SIM_FDS 1024
#define SIM_FRAMES 6

enum sim_op {
    SIM_OPEN, SIM_CLOSE, SIM_PREAD, SIM_PWRITE, SIM_PWRITEV, SIM_FDATASYNC, SIM_FSYNC, SIM_SYNC_DIR, SIM_FALLOCATE, SIM_FTRUNCATE,
    SIM_RENAME, SIM_UNLINK, SIM_MKDIR, SIM_RMDIR, SIM_STAT, SIM_FSTAT, SIM_LIST, SIM_MAP, SIM_UNMAP, SIM_ADVISE, SIM_LOCK, SIM_DISK,
    SIM_SEEK_DATA, SIM_SYNC_FS, SIM_SET_MTIME, SIM_LINK, SIM_LOCK_DIR, SIM_ALLOC, SIM_N_OPS
};
extern const char *const sim_op_names[SIM_N_OPS];

struct sim_inode {
    uint8_t *data;
    uint64_t size, cap;
    int64_t mtime_ns;
    uint32_t maps, opens, is_dir;
    uint64_t ino; /* as stat tells it; the same in every state of one trace */
};
struct sim_name {
    char *path;
    uint64_t hash;
    uint32_t inode;
};

enum ev_kind { EV_WRITE, EV_SIZE, EV_CREATE, EV_MKDIR, EV_RENAME, EV_UNLINK, EV_RMDIR, EV_SYNC, EV_SYNC_DIR, EV_SYNC_FS, EV_NOTE };
struct sim_event {
    enum ev_kind kind;
    uint32_t inode, upto; /* syncs: events before it are covered */
    int64_t off;          /* EV_SIZE: the size; EV_NOTE: what the caller gave */
    uint64_t len;
    uint8_t *data;
    char *path, *to;
};

/* A call is about to be made: 0 to let it go on, -errno to fail it, a positive number n: only n bytes of it (reads, writes). */
typedef int64_t (*sim_hook)(void *ctx, enum sim_op op, const char *path, uint64_t len, void *const *frames);

struct sim {
    pthread_mutex_t lock;
    struct zr_io_v1 io;
    struct sim_inode *inodes;
    uint32_t n_inodes, cap_inodes;
    struct sim_name *names;
    uint32_t n_names, cap_names;
    struct {
        uint32_t inode, used, locked;
        char *path;
    } fds[SIM_FDS];
    struct sim_event *events;
    uint32_t n_events, cap_events, rec;
    uint64_t next_ino;
    int64_t wall_ms;     /* mtimes */
    int64_t disk_left;   /* bytes that writes of new pages still take; -1: no end */
    double used;         /* of the disk, as told */
    sim_hook hook;
    void *hook_ctx;
    void (*before)(void *ctx, enum sim_op op, const char *path); /* something else happens just before a call; it may come back here */
    void *before_ctx;
    const char *deaf;    /* truncations and zeroing of paths with this in them are answered and not done (a defect on purpose) */
};

struct sim *sim_new(void);
void sim_boot(struct sim *s, uint32_t boot); /* what /proc says of the machine's start; 1 at first */
#define SIM_BOOT_ID "/proc/sys/kernel/random/boot_id"
void sim_free(struct sim *s);
struct sim *sim_copy(struct sim *s); /* names and bytes; no trace, no descriptors */
/* For building an image; no trace. */
uint32_t sim_make(struct sim *s, const char *path, uint32_t is_dir); /* the inode */
struct sim_inode *sim_find(struct sim *s, const char *path);
void sim_resize(struct sim *s, uint32_t inode, uint64_t size);
void sim_drop(struct sim *s, const char *path); /* and all below it */
void sim_name_add(struct sim *s, const char *path, uint32_t inode);
uint32_t sim_note(struct sim *s, int64_t what); /* the place in the trace */
uint32_t sim_now(struct sim *s);
uint64_t sim_hash(struct sim *s);
uint64_t sim_open_count(struct sim *s);
void sim_frames(void *const *frame, void **ret); /* SIM_FRAMES return addresses from a frame on */
void sim_dump(struct sim *s, const char *folder); /* into real files, for a look */
void sim_trace_free(struct sim_event *events, uint32_t n);
void sim_trace_carry(struct sim *s, const struct sim_event *events, uint32_t n); /* the trace goes on behind a copy of these */
void sim_inodes(struct sim *s, uint32_t n); /* numbers below n are taken */
#endif
