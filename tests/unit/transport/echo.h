/* SPDX-License-Identifier: Apache-2.0 */
/* echo.h - a kernel of a few lines: frames of a 4-byte length and a body, answered at turn_end. It checks the transport's
 * promises while it works: one call at a time in a lane, spans that stay unchanged until turn_end, closed once.
 * What it answers is chosen by the first byte of the body:
 *   'e' the same frame          'n' nothing            'x' nothing, and closes the connection
 *   'b' a frame of the size in the next 4 bytes, from borrowed memory     'h' the same from held memory
 *   'f' a frame whose body is the file's: 4 bytes size, 4 bytes offset    'p' the same, the file piece has memory too */
#ifndef TEST_ECHO_H
#define TEST_ECHO_H
#include "host.h"

#define ECHO_LANES 8
#define ECHO_FRAMES 65536u

struct zr_session {
    struct echo *echo;
    struct zr_conn *conn;
    uint32_t lane, outbound;
    _Atomic uint32_t closed;
    struct zr_session *next;
};
struct echo_frame { struct zr_session *session; const uint8_t *ptr; uint64_t len, sum; };
struct echo_lane { _Atomic uint32_t inside; struct echo_frame *frames; uint32_t n; uint32_t opened; };
struct echo {
    struct mini *m;
    struct zr_sink_v1 sink;
    struct echo_lane lanes[ECHO_LANES];
    pthread_mutex_t lock;
    struct zr_session *all;
    int file; /* of 1 MiB, byte i is echo_byte(i) */
    uint8_t *big; /* 32 MiB of echo_byte */
    _Atomic uint32_t opened, closed, dials_failed, woken, turns, broken, dones, sends_held;
    _Atomic int32_t last_why, dial_why;
    void *dial_ctx;
    char dial_text[512], peer_name[64], attributes[1024];
    struct zr_addr peer;
    _Atomic(struct zr_session *) outbound;
    _Atomic uint32_t keep; /* 1: release is left to the test */
    _Atomic uint32_t lazy; /* 1: takes one frame of what it is given, and leaves the others */
};
static inline uint8_t echo_byte(uint64_t i) { return (uint8_t)(i * 131 + (i >> 8)); }
void echo_init(struct echo *e, struct mini *m);
void echo_free(struct echo *e);
#define ECHO_BIG (32u << 20)
#endif
