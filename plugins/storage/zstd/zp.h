/* SPDX-License-Identifier: Apache-2.0 */
/* zp.h - packed segments: a sealed file of the commit log as zstd frames with a seek table and a dictionary of its own.
 *
 * Needs a table of file operations (zr_io_v1) and nothing else of a broker, so that programs can use it on a directory that
 * no broker has open. The form of the file is told byte for byte in README.md. All functions answer >= 0 or -errno:
 *   -EBADMSG   the file, or this part of it, is damaged
 *   -ECANCELED pace asked to stop
 * What stays true:
 *   1. Expanding gives the very bytes that were packed, to the last one.
 *   2. No byte is given out that its checksum does not vouch for; a damaged block costs that block only.
 *   3. zp_pack and zp_expand write to the path they are given, sync it, and touch nothing else; after a failure the path may
 *      hold a part, which the caller removes. zp_to_packed and zp_to_plain take every step in an order that a kill or a
 *      power failure may interrupt anywhere.
 * Thread-safe: everything, on different paths; an open file may be read by many threads. */
#ifndef ZP_H
#define ZP_H
#include "zarya/io.h"

#define ZP_SUFFIX ".zst"
/* What storage-zstd takes when nothing is configured, and what is used offline. */
#define ZP_DICTIONARY_KIB 64
#define ZP_BLOCK_KIB 32
#define ZP_MAX_BLOCK ((64u << 20) + (1u << 20)) /* no block is larger: the largest record */

struct zp_conf {
    int32_t level;       /* 1 .. 19 */
    uint32_t dict_size;  /* largest dictionary, bytes; 0: none. Never more than 1/256 of the segment */
    uint32_t block_size; /* raw bytes of a block: as many whole records as fit, at least one */
};
struct zp_info {
    int64_t base;     /* physical offset of its first byte */
    int64_t raw_size; /* of the plain file */
    int64_t mtime_ns; /* last write of the plain file */
    uint64_t size;    /* of the packed file */
    uint32_t n_blocks, dict_size;
    int32_t level;
    uint32_t reserved;
};
/* Told after each piece of work of so many raw bytes; may wait (a limit of the rate). Not 0: stop with -ECANCELED. */
struct zp_pace {
    uint32_t (*call)(void *arg, uint64_t bytes);
    void *arg;
};
/* Told of each damaged part: raw bytes [off, off + len) of the segment. */
struct zp_damage {
    void (*call)(void *arg, int64_t off, int64_t len, const char *why);
    void *arg;
};
struct zp_file;

/* ---- reading ---- */
/* Only the header: what it says of itself, its checksum compared. */
int64_t zp_peek(const struct zr_io_v1 *io, const char *path, struct zp_info *ret);
/* Reads and checks header, dictionary and tables; *ret_why a static text when it fails. */
int64_t zp_open(const struct zr_io_v1 *io, const char *path, struct zp_file **ret, const char **ret_why);
void zp_close(struct zp_file *f);
void zp_about(const struct zp_file *f, struct zp_info *ret);
/* The block that holds raw byte off (0 <= off < raw_size), and its bounds. */
uint32_t zp_block_of(const struct zp_file *f, int64_t off, int64_t *ret_from, int64_t *ret_to);
void zp_block_at(const struct zp_file *f, uint32_t no, int64_t *ret_from, int64_t *ret_to);
/* A whole block, decompressed and checked, into to (ret_to - ret_from bytes). */
int64_t zp_block_read(struct zp_file *f, uint32_t no, uint8_t *to);
/* Any range of raw bytes; -EINVAL: not inside the segment. */
int64_t zp_read(struct zp_file *f, uint8_t *to, uint64_t len, int64_t off);
/* Checks every checksum; deep: decompresses everything too. The number of damaged blocks; -EBADMSG: header, dictionary or
 * tables are damaged, so that nothing of it can be read. damage and pace may be NULL. */
int64_t zp_verify(const struct zr_io_v1 *io, const char *path, uint32_t deep, const struct zp_damage *damage,
                  const struct zp_pace *pace);

/* ---- one file ---- */
/* Packs the plain file `from` of raw_size bytes whose first byte has physical offset base. */
int64_t zp_pack(const struct zr_io_v1 *io, const char *from, const char *to, int64_t base, int64_t raw_size,
                const struct zp_conf *conf, const struct zp_pace *pace);
/* Expands. A damaged block ends it with -EBADMSG, unless damage is given: then it is told, and zeroes stand in its place. */
int64_t zp_expand(const struct zr_io_v1 *io, const char *from, const char *to, const struct zp_damage *damage,
                  const struct zp_pace *pace);
/* Decompresses everything and compares it with the plain file. -EBADMSG: something differs or is damaged. */
int64_t zp_compare(const struct zr_io_v1 *io, const char *packed, const char *plain, const struct zp_pace *pace);

/* ---- a segment in both forms (zp_twins.c) ---- */
#define ZP_OF_PACKED 0u
#define ZP_OF_PLAIN 1u
/* How many whole records (of a body with the right checksum, in their own place) one form has that the other lacks, or has otherwise;
 * lost, if given, is told of each. base: the segment's. -EBADMSG: of a packed one that cannot be opened, beside a plain one that is
 * not whole records from end to end, it cannot be told. */
int64_t zp_lacks(const struct zr_io_v1 *io, const char *packed, const char *plain, int64_t base, uint32_t of,
                 const struct zp_damage *lost, const struct zp_pace *pace);

/* ---- one segment, every step: temporary file, sync, comparison, rename, directory sync, and only then the old form goes.
 * plain is the path of the plain form, "<folder>/<20 digits>"; the packed one is beside it. Finishes what an earlier,
 * interrupted run left. No form goes that has a whole record which the other lacks: of two that differ, either one has it all, or one
 * is made of both, or both stay (-EBADMSG; with damage, what is lost is told). 0: done, or it was done already. ---- */
int64_t zp_to_packed(const struct zr_io_v1 *io, const char *plain, int64_t base, const struct zp_conf *conf,
                     const struct zp_pace *pace);
int64_t zp_to_plain(const struct zr_io_v1 *io, const char *plain, const struct zp_damage *damage, const struct zp_pace *pace);

/* ---- a folder of segments that no broker has open (the caller sees to that: zarya holds a lock on <root>/lock) ---- */
struct zp_convert {
    const struct zr_io_v1 *io;
    const char *log_dir;          /* <root>/commitlog */
    uint32_t to_plain;            /* 0: to the packed form, 1: back */
    int64_t newest;               /* > 0: of a log in several folders, segments before this position are sealed */
    struct zp_conf conf;          /* used for packing */
    const struct zp_damage *damage; /* to_plain: go on over damaged blocks; NULL: stop at them */
    const struct zp_pace *pace;   /* may be NULL */
    void (*say)(void *arg, int64_t base, int64_t status, uint64_t plain_bytes, uint64_t packed_bytes); /* may be NULL */
    void *say_arg;
};
/* Converts every sealed segment: one that is followed by another with something in it. The newest one stays plain, which
 * is what brokers write to. The number of segments converted, or the first -errno (the others are converted all the same). */
int64_t zp_convert(const struct zp_convert *c);
#endif
