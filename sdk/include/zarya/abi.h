/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/abi.h - the words everything on the border between kernel and plugin is said in.
 *
 * What crosses the border: fixed-width integers, double, pointers, and structs. Nothing else: no enum, bool,
 * long, time_t, off_t, bit-field, FILE, va_list, no type of any library. Durations and monotonic times are int64
 * nanoseconds, wall-clock times that RocketMQ stores or sends are int64 milliseconds since 1970 UTC; each slot says which.
 *
 * What stays true of every table and of every struct passed by pointer:
 *   1. It begins with struct zr_hdr. Fields are only appended; none is ever moved, removed or given a new meaning.
 *   2. The owner of the memory sets hdr.size; whoever fills or reads it touches nothing beyond hdr.size.
 *   3. The host copies each plugin table once into its own zeroed, full-size one and puts a default in each empty slot.
 *   4. No padding anywhere (the build compiles these headers with -Wpadded -Werror); reserved members are zero.
 *   5. The step of an array of such structs is the hdr.size of its first element.
 * Structs marked "frozen" carry no header and never change.
 *
 * Ownership words used on every slot: borrow (valid until the call returns), hold (valid until the matching release),
 * give (now yours, end it with the named function), static (valid while the instance lives). Unless a slot says
 * otherwise, pointers passed in are borrowed and pointers returned are static.
 *
 * Thread words: main (the control thread; never two main calls at once in the process), io (a transport's thread
 * inside a lane, see transport.h; must not block), worker (a pool thread; may block), flusher (the storage's own
 * flush thread), any (any thread, several at once; must not block for long). The kernel holds no lock while it calls
 * a plugin, and a plugin holds none of its own while it calls the host, unless a slot says that it may. */
#ifndef ZARYA_ABI_H
#define ZARYA_ABI_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define ZR_ABI_MAJOR 1u /* in the entry symbol's name */
#define ZR_ABI_MINOR 0u /* the newest minor these headers describe */

#define ZR_EXPORT __attribute__((visibility("default")))

/* Thread context and ownership of a slot, for people, for the reference manual and for the conformance kit. */
#if defined(__clang__)
#define ZR_ON(ctx) __attribute__((annotate("zr.on=" #ctx)))
#else
#define ZR_ON(ctx)
#endif

/* What a call came to. The class says what the caller should do; details go to zarya.err/1. */
typedef int32_t zr_status;
#define ZR_OK 0
#define ZR_PENDING 1        /* not finished: the answer comes later through the channel that the slot names */
#define ZR_EINVAL (-1)      /* the argument or the input is wrong; trying again cannot help */
#define ZR_EAGAIN (-2)      /* would have to wait (or is busy); try again later or elsewhere */
#define ZR_ENOENT (-3)      /* there is no such thing */
#define ZR_EEXIST (-4)      /* there is one already */
#define ZR_ENOTSUP (-5)     /* this implementation does not do that; also the default of an empty slot */
#define ZR_ENOMEM (-6)      /* memory ran out */
#define ZR_EIO (-7)         /* the operating system or a device failed; errno is in the error record */
#define ZR_EFULL (-8)       /* a stated limit was reached, or the disk is full */
#define ZR_EPERM (-9)       /* not allowed */
#define ZR_ECLOSED (-10)    /* the other side is gone, or this object is shutting down */
#define ZR_ETIMEOUT (-11)   /* the deadline passed */
#define ZR_ECORRUPT (-12)   /* stored data failed a check */
#define ZR_EINTERNAL (-13)  /* a promise of the code itself was broken; please report */

/* frozen: text, UTF-8, not terminated. */
struct zr_str { const char *ptr; uint64_t len; };
/* frozen: bytes. */
struct zr_span { const uint8_t *ptr; uint64_t len; };
/* frozen: one named text value; RocketMQ's ext fields, and labels. */
struct zr_field { struct zr_str name, value; };
/* frozen: an IP address and port. family 4 uses ip[0..3], 6 uses all, 0 means none. */
struct zr_addr { uint8_t ip[16]; uint16_t port; uint16_t family; };

#define ZR_STR(literal) { (literal), sizeof(literal) - 1u }

/* First member of every table and of every growable struct. */
struct zr_hdr {
    uint32_t size;  /* sizeof the struct as its author saw it */
    uint16_t rev;   /* revision within the major of its id */
    uint16_t flags; /* low 8 bits: must be understood, else refuse; high 8 bits: may be ignored */
};
#define ZR_HDR(type, revision) { (uint32_t)sizeof(type), (uint16_t)(revision), 0u }
#define ZR_END(type, member) (offsetof(type, member) + sizeof(((type *)0)->member))
/* Does the struct at p, as its author built it, reach up to and including the member? */
#define ZR_HAS(type, p, member) ((p)->hdr.size >= ZR_END(type, member))

struct zr_host;    /* the host as one instance sees it; host-owned */
struct zr_inst;    /* a plugin instance's own state; plugin-owned */
struct zr_session; /* a connection as the kernel sees it; kernel-owned */
struct zr_token;   /* the right, and the duty, to answer one request once; kernel-owned */
struct zr_conn;    /* a connection as its transport sees it; transport-owned */
struct zr_queue;   /* a (topic, queue id) as the storage sees it; storage-owned */
struct zr_prog;    /* a compiled filter expression; filter-owned */

#ifdef __cplusplus
}
#endif
#endif
