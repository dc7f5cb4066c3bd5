/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/requests.h - interface zarya.requests/1: handlers for RocketMQ request codes.
 *
 * The handler tables of all instances are put together into one flat table for each listener, by what it serves. Two
 * handlers for one code and one kind of listener are a start-up error that names both.
 *
 * A handler answers its token exactly once, through zarya.reply/1, within the call or (after hold) later from any thread; a
 * oneway request's answer is dropped by the host, so handlers need not look. A handler that returns a negative status
 * without having answered leaves the answer to the host: code 1 with the raised error as remark. */
#ifndef ZARYA_REQUESTS_H
#define ZARYA_REQUESTS_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_IF_REQUESTS "zarya.requests/1"

#define ZR_REQUEST_ONEWAY 0x1u /* the sender expects no answer */
#define ZR_REQUEST_JSON 0x2u   /* came with a JSON header (else binary) */
#define ZR_REQUEST_GUARDED 0x4u /* its handler says ZR_HANDLER_GUARDED; set by the host before the hooks run */

/* A decoded request; borrowed for the call. Text of fields is unescaped UTF-8. */
struct zr_request {
    struct zr_hdr hdr;
    struct zr_session *session;
    struct zr_token *token;         /* what zarya.reply/1 answers */
    const struct zr_field *fields;  /* ext fields, in the order of the wire; the last of equal names counts */
    struct zr_str remark;
    struct zr_span body;            /* len 0: none */
    int64_t arrived_ns;             /* monotonic */
    uint32_t n_fields;
    int32_t code;
    int32_t opaque;
    int32_t version;                /* MQVersion ordinal of the sender */
    int32_t language;               /* LanguageCode, -1 unknown */
    uint32_t serves;                /* ZR_SERVES_* bit of the listener it came by */
    uint32_t flags;                 /* ZR_REQUEST_* */
    uint32_t reserved;
};

#define ZR_HANDLER_WORKER 0x1u  /* may block: run on the worker pool (the host keeps the request for it) */
#define ZR_HANDLER_GUARDED 0x2u /* changes state: hooks of class guard that do not know the code refuse it */

struct zr_handler {
    struct zr_hdr hdr;
    int32_t code;
    uint32_t serves; /* ZR_SERVES_* bits of the listeners that offer it */
    uint32_t flags;  /* ZR_HANDLER_* */
    uint32_t reserved;
    const char *name; /* "GET_CONSUME_STATS": logs, metrics */
    ZR_ON(io) zr_status (*handle)(struct zr_inst *inst, const struct zr_request *req);
};
struct zr_requests_v1 {
    struct zr_hdr hdr;
    const struct zr_handler *handlers; /* step: hdr.size of the first; static */
    uint32_t n_handlers;
    uint32_t reserved;
};
#ifdef __cplusplus
}
#endif
#endif
