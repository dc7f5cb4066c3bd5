/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/hooks.h - interface zarya.hooks/1: a say in what the kernel does.
 *
 * Each hook names one point, the request codes it was written for, and its class, so that a broker that learns new codes
 * stays safe with an old plugin:
 *   OBSERVE    sees; called for codes it does not know too; its failure is counted, nothing else happens
 *   GUARD      may refuse; a code it does not know is refused if the code's handler changes state
 *   TRANSFORM  may rewrite; at ZR_POINT_PUBLISH a code it does not know is refused
 * Order within a point: before / after constraints by plugin id, then the order of the configuration. */
#ifndef ZARYA_HOOKS_H
#define ZARYA_HOOKS_H
#include "zarya/abi.h"
#include "zarya/message.h"
#include "zarya/requests.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_IF_HOOKS "zarya.hooks/1"

/* Points are never reused nor renumbered. What the event carries stands behind each. */
#define ZR_POINT_REQUEST 1u      /* io: any request, before its handler: request */
#define ZR_POINT_PUBLISH 10u     /* io: a message before it is stored; may be rewritten: msg, request (NULL: not from a client) */
#define ZR_POINT_STORED 11u      /* any: a message was appended: msg, put */
#define ZR_POINT_SESSION_CLOSED 12u /* io: a connection ended, whoever it was: session (no longer open) */
#define ZR_POINT_CLIENT_GONE 30u /* any: a member of a group of consumers or producers left it (session still open) or its
                                  * connection ended: session, group, client_id. Before the other members are told. */
#define ZR_POINT_GROUP_CHANGED 31u /* any: the members of a consumer group changed: group */
#define ZR_POINT_TOPIC_REMOVED 32u /* worker: topic */
#define ZR_POINT_GROUP_REMOVED 33u /* worker: group */
#define ZR_POINT_STOPPING 40u    /* main: before plugins are drained */

#define ZR_CLASS_OBSERVE 1u
#define ZR_CLASS_GUARD 2u
#define ZR_CLASS_TRANSFORM 3u

#define ZR_VERDICT_CONTINUE 0u
#define ZR_VERDICT_REJECT 1u  /* answer code with remark */
#define ZR_VERDICT_HANDLED 2u /* the hook took the message or request over: it holds the token and answers it */

struct zr_event {
    struct zr_hdr hdr;
    const struct zr_request *request;
    struct zr_session *session;
    struct zr_msg *msg;        /* PUBLISH: the hook may point its fields at memory of the hook's arena (see scratch) */
    const struct zr_put *put;
    struct zr_str topic, group, client_id;
    /* PUBLISH: memory that lives until the message is stored; NULL when the turn's limit is reached. */
    void *(*scratch)(void *scratch_ctx, uint64_t size);
    void *scratch_ctx;
    int64_t now_ms;
    uint32_t point;
    int32_t code; /* request code, 0: not from a client */
    /* PUBLISH: what the host found in these properties, so that not every hook reads all of them; see zr_wishes. */
    struct zr_span looked_at;
    uint32_t wishes; /* ZR_WISH_ */
    uint32_t reserved;
};
#define ZR_WISH_DELAY 0x1u       /* a delay level above 0, or a delivery time */
#define ZR_WISH_TRANSACTION 0x2u /* TRAN_MSG, or the bits of a half message */
#define ZR_WISH_ALL 0x3u

/* What the message at ZR_POINT_PUBLISH may ask for. All, where the host did not look, or a hook gave it other properties since. */
static inline uint32_t zr_wishes(const struct zr_event *e)
{
    if (e->hdr.size < ZR_END(struct zr_event, wishes) || !e->looked_at.ptr || e->looked_at.ptr != e->msg->properties.ptr ||
        e->looked_at.len != e->msg->properties.len)
        return ZR_WISH_ALL;
    return e->wishes;
}

struct zr_verdict {
    struct zr_hdr hdr;
    uint32_t what; /* ZR_VERDICT_* */
    int32_t code;  /* REJECT: RocketMQ response code */
    struct zr_str remark; /* static, or from scratch */
};
struct zr_hook {
    struct zr_hdr hdr;
    uint32_t point, klass;
    const int32_t *codes; /* request codes this was written for; NULL: all that exist for this point */
    uint32_t n_codes, reserved;
    const char *before, *after; /* plugin ids, separated by blanks; NULL: none */
    /* On return verdict->what is CONTINUE unless set. A negative status counts as a failure of the hook (see class). */
    ZR_ON(any) zr_status (*call)(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict);
    /* The topics that it is for, by name, separated by blanks; NULL: all. At the points that carry a topic (PUBLISH, STORED,
     * TOPIC_REMOVED): messages of other topics then pay nothing for it. */
    const char *topics;
};
struct zr_hooks_v1 {
    struct zr_hdr hdr;
    const struct zr_hook *hooks; /* step: hdr.size of the first; static */
    uint32_t n_hooks;
    uint32_t reserved;
};
#ifdef __cplusplus
}
#endif
#endif
