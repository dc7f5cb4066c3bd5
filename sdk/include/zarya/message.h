/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/message.h - a message on its way in, as a growable view of spans. It crosses the border between kernel, hooks and
 * storage by pointer; nobody copies the body until the storage encodes its record. Facts: RocketMQ's record layout. */
#ifndef ZARYA_MESSAGE_H
#define ZARYA_MESSAGE_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

/* RocketMQ's sysFlag bits. */
#define ZR_SYSFLAG_COMPRESSED 0x1
#define ZR_SYSFLAG_MULTI_TAGS 0x2
#define ZR_SYSFLAG_TRANSACTION_MASK 0xC
#define ZR_SYSFLAG_PREPARED 0x4
#define ZR_SYSFLAG_COMMIT 0x8
#define ZR_SYSFLAG_ROLLBACK 0xC
#define ZR_SYSFLAG_BORNHOST_V6 0x10
#define ZR_SYSFLAG_STOREHOST_V6 0x20
#define ZR_SYSFLAG_NEED_UNWRAP 0x40
#define ZR_SYSFLAG_INNER_BATCH 0x80

#define ZR_MSG_JOINED 0x1u  /* belongs to the same client batch as the message before it: same segment, next queue offset */
#define ZR_MSG_BATCH_QUEUE 0x4u /* its topic has queue.type=BatchCQ */
#define ZR_MSG_NO_WAIT 0x2u /* WAIT=false: answer without waiting for flush or replicas */
#define ZR_MSG_OWN 0x8u /* the broker's own, or its copy of what it took before: a limit of message sizes does not bind it, only what the storage can hold */

struct zr_msg {
    struct zr_hdr hdr;
    struct zr_queue *queue;    /* the storage's handle of (topic, queue_id), or NULL: look it up */
    struct zr_str topic;
    struct zr_span body;       /* as received, possibly compressed; may be empty */
    struct zr_span properties; /* RocketMQ's string: name 0x01 value 0x02 ... */
    int64_t tags_code;         /* Java hash of TAGS, sign-extended; or a delivery time for delay queues */
    int64_t born_ms;           /* producer's clock */
    int64_t prepared_offset;   /* physical offset of the half message, else 0 */
    struct zr_addr born_host, store_host;
    int32_t queue_id;
    int32_t flag;              /* the user's, opaque */
    int32_t sys_flag;
    int32_t reconsume_times;
    uint32_t flags;            /* ZR_MSG_* */
    uint32_t inner_num;        /* messages inside (inner batch), else 1: the queue offset advances by it */
};

/* Where one message was put. */
struct zr_put {
    struct zr_hdr hdr;
    zr_status status;     /* ZR_OK; ZR_EINVAL too big or illegal; ZR_EFULL disk full; ZR_EIO; ZR_ENOENT dead queue handle */
    uint32_t size;        /* of the record */
    int64_t queue_offset;
    int64_t physical_offset;
    int64_t store_ms;
};
#ifdef __cplusplus
}
#endif
#endif
