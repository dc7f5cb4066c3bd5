/* SPDX-License-Identifier: Apache-2.0 */
/* zl/record.h - RocketMQ's message record (log and wire alike), its properties string, and client batches.
 *
 * Record, big-endian, IPv4 hosts (12 more for each IPv6 host):
 *    0 i32 size | 4 i32 magic | 8 i32 bodyCRC | 12 i32 queueId | 16 i32 flag | 20 i64 queueOffset | 28 i64 physicalOffset
 *   36 i32 sysFlag | 40 i64 bornMs | 48 bornHost ip4 port4 | 56 i64 storeMs | 64 storeHost ip4 port4 | 72 i32 reconsumeTimes
 *   76 i64 preparedOffset | 84 i32 bodyLen | body | u8 (V2: u16) topicLen | topic | i16 propsLen | props */
#ifndef ZL_RECORD_H
#define ZL_RECORD_H
#include "zarya/abi.h"
#include "zarya/message.h"
#include "zl/buf.h"

#define ZL_MAGIC_V1 0xDAA320A7u
#define ZL_MAGIC_V2 0xDAA320ABu
#define ZL_MAGIC_BLANK 0xCBD43194u
#define ZL_MAX_PROPERTIES 32767u

struct zl_record {
    uint32_t size, magic, body_crc;
    int32_t queue_id, flag, sys_flag, reconsume_times;
    int64_t queue_offset, physical_offset, born_ms, store_ms, prepared_offset;
    struct zr_addr born_host, store_host;
    struct zr_span body, properties;
    struct zr_str topic;
    uint32_t physical_at; /* byte position of physicalOffset in the record: 28 */
};
/* Reads the record at the front of bytes; spans point into it. ZR_OK; ZR_EAGAIN: bytes end before its stated size (or before a
 * header); ZR_ENOENT: the blank that ends a segment (size is its length word); ZR_ECORRUPT: no valid record (why: static text).
 * check_crc: also compare the body's checksum. Lengths are checked for agreement in any case. */
zr_status zl_record_parse(struct zr_span bytes, uint32_t check_crc, struct zl_record *ret, const char **ret_why);
/* The size a message will have as a record (V2 when the topic is longer than 127). */
uint64_t zl_record_size(const struct zr_msg *msg);
/* Encodes msg at to (zl_record_size bytes) with the body's checksum; queueOffset, physicalOffset and storeMs are left 0 for
 * zl_record_finish, which needs no more than a pointer to the record. */
void zl_record_encode(uint8_t *to, const struct zr_msg *msg);
void zl_record_finish(uint8_t *record, int64_t queue_offset, int64_t physical_offset, int64_t store_ms);

/* ---- what a store adds behind a message's properties ----
 * An inner batch (sysFlag INNER_BATCH) gets INNER_BASE, its first queue offset, which finish fills in: 19 digits. With
 * sealed 1, and zl_record_seal after finish, a record ends in RocketMQ's property CRC: "__CRC32#" 0x01 ten digits, the least
 * first, 0x02: the checksum of all before it. One that a client sent is left out then. */
#define ZL_RECORD_TAIL 52u /* no more than this is added */
uint64_t zl_record_size_sealed(const struct zr_msg *msg, uint32_t sealed);
void zl_record_encode_sealed(uint8_t *to, const struct zr_msg *msg, uint32_t sealed);
void zl_record_seal(uint8_t *record);
/* Of a whole record: 1: it ends in a property CRC that is right; 0: in one that is wrong; -1: in none. */
int zl_record_sealed(struct zr_span record);
/* How many queue offsets a record takes: INNER_NUM of an inner batch (1 to 32767), else 1. */
uint32_t zl_record_offsets(const struct zl_record *r);

/* ---- properties: name 0x01 value 0x02 ... ---- */
/* Steps through the pairs; *pos begins at 0. 0 at the end. Malformed pieces are skipped as Java skips them. */
uint32_t zl_props_next(struct zr_span props, uint64_t *pos, struct zr_str *ret_name, struct zr_str *ret_value);
struct zr_str zl_props_get(struct zr_span props, const char *name); /* the last of that name; {NULL, 0} */
void zl_props_add(struct zl_buf *out, struct zr_str name, struct zr_str value); /* nothing for an empty value */
/* Copies props to out without the names listed (NULL-ended), ending in 0x02 if not empty. */
void zl_props_copy(struct zl_buf *out, struct zr_span props, const char *const *without);
/* What a dead letter tells of itself: DLQ_ORIGIN_TOPIC (RETRY_TOPIC, else topic), DLQ_ORIGIN_MESSAGE_ID (UNIQ_KEY, else
 * ORIGIN_MESSAGE_ID), DLQ_REASON. props are the message's own; an origin that is known already stays. Adds to out only while
 * out stays within ZL_MAX_PROPERTIES. */
void zl_props_dead(struct zl_buf *out, struct zr_span props, struct zr_str topic, const char *reason);
/* Java hash of the TAGS property, sign-extended; 0 without tag. */
int64_t zl_tags_code(struct zr_str tags);

/* ---- client batch bodies: i32 size | i32 magic 0 | i32 crc 0 | i32 flag | i32 bodyLen | body | i16 propsLen | props ---- */
struct zl_batch_item { struct zr_span body, properties; int32_t flag; uint32_t reserved; };
/* Steps through the items; *pos begins at 0. ZR_OK, ZR_ENOENT at the end, ZR_EINVAL: malformed at *pos. */
zr_status zl_batch_next(struct zr_span batch, uint64_t *pos, struct zl_batch_item *ret);
void zl_batch_add(struct zl_buf *out, const struct zl_batch_item *item);
#endif
