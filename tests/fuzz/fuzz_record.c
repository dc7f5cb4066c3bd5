/* SPDX-License-Identifier: Apache-2.0 */
/* The bytes of a log: records are read off its front, and each is written again from what was read. An inner batch gets its
 * first offset behind the properties whenever it is written, so it is written again as an ordinary message for the comparison,
 * and once as what it is. */
#include "fuzz.h"
#include "zl/record.h"

static void check_batch(const struct zr_msg *msg, const struct zl_record *r)
{
    uint64_t size = zl_record_size(msg);
    struct zl_record second;
    const char *why = NULL;
    MUST(size > r->size);
    if (r->properties.len + (size - r->size) > ZL_MAX_PROPERTIES) return;
    uint8_t *again = malloc(size);
    zl_record_encode(again, msg);
    zl_record_finish(again, r->queue_offset, r->physical_offset, r->store_ms);
    MUST(zl_record_parse((struct zr_span){ again, size }, 1, &second, &why) == ZR_OK);
    MUST(second.properties.len == r->properties.len + (size - r->size));
    MUST(memcmp(second.properties.ptr, r->properties.ptr, r->properties.len) == 0);
    free(again);
}

static void check_round_trip(const uint8_t *bytes, const struct zl_record *r)
{
    struct zr_msg msg = {
        .hdr = ZR_HDR(struct zr_msg, 0),
        .topic = r->topic,
        .body = r->body,
        .properties = r->properties,
        .born_ms = r->born_ms,
        .prepared_offset = r->prepared_offset,
        .born_host = r->born_host,
        .store_host = r->store_host,
        .queue_id = r->queue_id,
        .flag = r->flag,
        .sys_flag = r->sys_flag,
        .reconsume_times = r->reconsume_times,
    };
    /* Only a V2 record may hold a short topic that would be written as V1, or a V1 one a topic too long for it. */
    if ((r->magic == ZL_MAGIC_V2) != (r->topic.len > 127)) return;
    if (r->sys_flag & ZR_SYSFLAG_INNER_BATCH) check_batch(&msg, r);
    msg.sys_flag &= ~ZR_SYSFLAG_INNER_BATCH;
    uint64_t size = zl_record_size(&msg);
    uint8_t *again = malloc(size);
    struct zl_record second;
    const char *why = NULL;
    MUST(size == r->size);
    zl_record_encode(again, &msg);
    zl_record_finish(again, r->queue_offset, r->physical_offset, r->store_ms);
    MUST(zl_record_parse((struct zr_span){ again, size }, 1, &second, &why) == ZR_OK);
    zl_store32(again + 8, r->body_crc);
    zl_store32(again + 36, (uint32_t)r->sys_flag);
    uint32_t born = 52 + (r->sys_flag & 0x10 ? 12 : 0), store = born + 16 + (r->sys_flag & 0x20 ? 12 : 0);
    memcpy(again + born, bytes + born, 2); /* ports are 32 bits wide there and 16 here */
    memcpy(again + store, bytes + store, 2);
    MUST(memcmp(again, bytes, size) == 0);
    free(again);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zr_span rest = { data, size };
    struct zl_record r;
    const char *why = NULL;
    while (zl_record_parse(rest, 0, &r, &why) == ZR_OK) {
        MUST(r.size <= rest.len);
        check_round_trip(rest.ptr, &r);
        rest.ptr += r.size;
        rest.len -= r.size;
    }
    return 0;
}
