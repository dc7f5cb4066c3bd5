/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/reply.h - host service zarya.reply/1: answers, now or later, and requests from server to client. */
#ifndef ZARYA_REPLY_H
#define ZARYA_REPLY_H
#include "zarya/abi.h"
#include "zarya/requests.h"
#include "zarya/transport.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_REPLY "zarya.reply/1"

/* What goes out: an answer, or a request of the server's own. */
#define ZR_COMMAND_EMPTY_EXT 0x1u /* n_fields 0 means extFields {}, not none */
struct zr_command {
    struct zr_hdr hdr;
    int32_t code;
    uint32_t n_fields;
    const struct zr_field *fields;
    struct zr_str remark;          /* len 0: none */
    struct zr_span body;           /* used when n_pieces is 0 */
    const struct zr_piece *pieces; /* or the body in pieces, held until done */
    void (*done)(void *ctx, zr_status status); /* with pieces: called exactly once, any thread; may be NULL without pieces */
    void *done_ctx;
    uint32_t n_pieces;
    uint32_t flags;                /* ZR_COMMAND_* */
};

struct zr_session_info {
    struct zr_hdr hdr;
    struct zr_addr peer, local;
    struct zr_str peer_name; /* "127.0.0.1:52114"; valid while the session is held */
    uint64_t id;             /* unique in the life of the process */
    int32_t version, language; /* of the last request, -1 before one came */
    uint32_t serves;
    uint32_t open;           /* 0: the connection is gone */
    uint32_t left, reserved; /* 1: gone because the peer ended it (FIN, RST); 0: it is open, or we ended it */
};

struct zr_reply_v1 {
    struct zr_hdr hdr;
    /* Answers the request. Fields, remark and body are borrowed. The token is used up. ZR_ECLOSED: the client is gone. */
    ZR_ON(any) zr_status (*answer)(const struct zr_host *host, struct zr_token *token, const struct zr_command *response);
    /* Makes the token outlive the handler's call; the returned one must be answered (or dropped). NULL: memory ran out. */
    ZR_ON(any) struct zr_token *(*hold)(const struct zr_host *host, struct zr_token *token);
    /* Uses up a held token without an answer. */
    ZR_ON(any) void (*drop)(const struct zr_host *host, struct zr_token *token);

    /* Sends a request to the client, and expects nothing back. */
    ZR_ON(any) zr_status (*tell)(const struct zr_host *host, struct zr_session *session, const struct zr_command *request);
    /* Sends a request to the client. on_answer is called exactly once: ZR_OK with the response, ZR_ETIMEOUT, ZR_ECLOSED. Any
     * thread. When ask itself fails, on_answer is not called. */
    ZR_ON(any) zr_status (*ask)(const struct zr_host *host, struct zr_session *session, const struct zr_command *request, int64_t timeout_ns,
                                void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response), void *ctx);

    ZR_ON(any) void (*session_info)(const struct zr_host *host, struct zr_session *session, struct zr_session_info *ret);
    /* Sessions outlive their connection while held. */
    ZR_ON(any) struct zr_session *(*session_hold)(const struct zr_host *host, struct zr_session *session);
    ZR_ON(any) void (*session_release)(const struct zr_host *host, struct zr_session *session);
    ZR_ON(any) void (*session_close)(const struct zr_host *host, struct zr_session *session);
    /* Of a session that is gone. 1: after it somebody connected from the same host (the address without its port), is connected
     * still, pulls or commits offsets, and no heartbeat has said who it is: perhaps the same client again. */
    ZR_ON(any) uint32_t (*session_returned)(const struct zr_host *host, struct zr_session *session);
};
#ifdef __cplusplus
}
#endif
#endif
