/* SPDX-License-Identifier: Apache-2.0 */
/* wheel.h - RocketMQ's timer wheel and timer log, as files and in memory. Used by the engine (timer.c) and by the fuzz target.
 *
 * The wheel has one slot for each step of time (14 days of seconds); a slot names the last unit of its chain in the log. The log
 * is a row of files of 52-byte units, one a message, each with the position of the one before it in its slot. */
#ifndef FEATURE_DELAY_WHEEL_H
#define FEATURE_DELAY_WHEEL_H
#include <pthread.h>
#include <stdint.h>

#include "zarya/abi.h"
#include "zarya/io.h"

#define WHEEL_SLOTS 1209600u /* twice seven days of seconds, whatever the precision */
#define SLOT_BYTES 32u
#define WHEEL_BYTES ((uint64_t)WHEEL_SLOTS * SLOT_BYTES)
#define WHEEL_PAGE 4096u
#define WHEEL_PAGES ((uint32_t)(WHEEL_BYTES / WHEEL_PAGE))
#define UNIT_BYTES 52u
#define UNIT_DEFAULT 1u
#define UNIT_ROLL 2u
#define UNIT_DELETE 4u
#define UNIT_PUT_OFF 1 /* in exact_ms, of our own units: its record could not be read, so it was noted anew for later */

struct wslot { int64_t time_ms, first, last; int32_t num; uint32_t reserved; };

/* Memory of the slots as the file has them, untouched pages never allocated.
 * LOCKING: lock guards bytes and dirty between the engine, which alone changes them, and a flush; the rest is the engine's. */
struct wheel {
    uint8_t *bytes;
    uint64_t *used;  /* a bit a slot: something pends in it */
    uint64_t *dirty; /* a bit a page */
    int64_t precision_ms;
    pthread_mutex_t lock;
};
zr_status wheel_open(struct wheel *w, int64_t precision_ms);
void wheel_close(struct wheel *w);
/* The slot of that time. 0: nothing pends at its place; 1: it does; 2: something of another time does (*ret is that). */
uint32_t wheel_get(const struct wheel *w, int64_t time_ms, struct wslot *ret);
void wheel_put(struct wheel *w, const struct wslot *slot);
void wheel_clear(struct wheel *w, int64_t time_ms);
/* The first used slot at or after the place of from_ms, round once; skip: so many places further. 0: none. *ret_at: its distance. */
uint32_t wheel_next(const struct wheel *w, int64_t from_ms, uint32_t skip, struct wslot *ret, uint32_t *ret_at);
/* Copies up to cap dirty pages to `to`, their numbers to pages, and marks them clean. */
uint32_t wheel_take_dirty(struct wheel *w, uint8_t *to, uint32_t *pages, uint32_t cap);
void wheel_mark_dirty(struct wheel *w, const uint32_t *pages, uint32_t n); /* they could not be written */
void wheel_mark_all_dirty(struct wheel *w);
int32_t wheel_num(struct wheel *w, int64_t time_ms); /* any thread */

struct unit {
    int64_t prev, write_ms, time_ms, physical;
    int64_t exact_ms; /* the delivery to the millisecond, in the eight bytes that Apache leaves 0; 0: not known */
    int32_t size, topic_hash;
    uint32_t magic;
    uint32_t reserved;
};
void unit_encode(uint8_t *to, const struct unit *u);
zr_status unit_decode(const uint8_t *from, struct unit *ret); /* ZR_ECORRUPT */

#define TLOG_WINDOW 4096u
#define TLOG_PENDING 512u /* units gathered for one write */
#define TLOG_FILES 65536u
struct tlog_file { int64_t base; int32_t fd; uint32_t dirty; };
struct tlog {
    const struct zr_io_v1 *io;
    char *dir;
    struct tlog_file *files; /* by base, without holes */
    uint32_t n_files, cap_files;
    int64_t file_size;
    int64_t end; /* where the next unit goes */
    int64_t pushed; /* written up to here */
    uint8_t *pending;
    int64_t window_at;
    uint32_t window_len;
    uint8_t window[TLOG_WINDOW];
    pthread_mutex_t lock; /* guards files and n_files between the engine and a flush */
};
/* Opens what is there. Files of another size, and all behind a hole, are not taken (they are removed by tlog_cut). */
zr_status tlog_open(struct tlog *l, const struct zr_io_v1 *io, const char *dir, int64_t file_size);
void tlog_close(struct tlog *l);
int64_t tlog_begin(const struct tlog *l);
/* Calls each for the units from pos on, in order, until each returns non-zero or a unit is not valid. Returns the position
 * behind the last valid one; -1: the disk does not give it now, and nothing is known of what is behind. */
int64_t tlog_scan(struct tlog *l, int64_t pos, int32_t (*each)(void *ctx, int64_t pos, const struct unit *u), void *ctx);
zr_status tlog_read(struct tlog *l, int64_t pos, struct unit *ret);
zr_status tlog_look(struct tlog *l, int64_t pos, struct unit *ret); /* also where the end is not known yet */
zr_status tlog_set_magic(struct tlog *l, int64_t pos, uint32_t magic);
/* Everything from pos on is gone, also from the disk. */
zr_status tlog_cut(struct tlog *l, int64_t pos);
/* Gathers a unit; *ret_pos is its position. It is written by tlog_push, or when the gathering is full. */
zr_status tlog_add(struct tlog *l, const struct unit *u, int64_t *ret_pos);
zr_status tlog_push(struct tlog *l);
zr_status tlog_sync(struct tlog *l);
/* Removes files from the front while their last unit says so. */
void tlog_trim(struct tlog *l, int64_t physical_begin);

#define CHECK_BYTES 4096u
struct timercheck {
    int64_t read_ms, log_flushed, queue_offset, master_queue_offset, state_version, timestamp, counter;
    /* Zarya's own words behind those, believed only while they repeat the first three: */
    uint32_t clean;      /* the broker stopped in good order: log_flushed is the log's end, and nothing before read_ms pends */
    uint32_t known;      /* they were there and agreed */
    int64_t doubt_end;   /* units before this position may have been delivered already */
    int64_t coarse_end;  /* entries of the queue before this offset may have been put with a longer step */
    uint32_t step_ms;    /* of the wheel, 0: not known */
    uint32_t reserved;
};
void timercheck_encode(uint8_t to[CHECK_BYTES], const struct timercheck *c);
void timercheck_decode(const uint8_t *from, uint64_t len, struct timercheck *ret);
#endif
