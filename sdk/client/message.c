/* SPDX-License-Identifier: Apache-2.0 */
/* message.c - messages on their way out (properties, compression) and in (records, inflating, inner batches).
 *
 * Received messages and everything they point to live in one zc_messages: a copy of the records, and one block for each
 * inflated body. An inflated body has the COMPRESSED bit of sys_flag cleared; other compressions (LZ4, ZSTD) are passed
 * on as they are, with their bits. */
#include "internal.h"
#include "zl/record.h"
#include <libdeflate.h>
#include <stdio.h>

#define INFLATE_MAX (64u * 1024 * 1024)
#define MESSAGES_MAX 1000000u
#define COMPRESSION_TYPE 0x700
#define COMPRESSION_ZLIB_OLD 0x000
#define COMPRESSION_ZLIB 0x300

/* ---- out ---- */

static uint32_t has_separator(struct zr_str s)
{
    for (uint64_t i = 0; i < s.len; i++)
        if (s.ptr[i] == 1 || s.ptr[i] == 2) return 1;
    return 0;
}

int zc_message_check(const struct zc_message *msg, int32_t max_size, struct zc_err *err)
{
    char why[256];
    if (zl_topic_check(msg->topic, why, sizeof(why)) != ZR_OK) return zc_fail(err, ZC_EARG, "%s", why);
    if (msg->body.len == 0) return zc_fail(err, ZC_EARG, "the message body's length is zero");
    if (msg->body.len > (uint64_t)max_size)
        return zc_fail(err, ZC_EARG, "the message body size over max value, MAX: %d", max_size);
    return ZC_OK;
}

int zc_props_write(struct zl_buf *out, const struct zc_message *msg, const char *uniq, struct zc_err *err)
{
    uint32_t bad = has_separator(msg->tags) | has_separator(msg->keys);
    char level[24];
    for (uint32_t i = 0; i < msg->n_properties; i++) {
        bad |= has_separator(msg->properties[i].name) | has_separator(msg->properties[i].value);
        zl_props_add(out, msg->properties[i].name, msg->properties[i].value);
    }
    if (msg->keys.len) zl_props_add(out, zl_str("KEYS"), msg->keys);
    if (msg->tags.len) zl_props_add(out, zl_str("TAGS"), msg->tags);
    zl_props_add(out, zl_str("UNIQ_KEY"), (struct zr_str){ uniq, 32 });
    zl_props_add(out, zl_str("WAIT"), zl_str(msg->no_wait ? "false" : "true"));
    if (msg->delay_level)
        zl_props_add(out, zl_str("DELAY"), (struct zr_str){ level, zl_print_i64(level, msg->delay_level) });
    if (bad) return zc_fail(err, ZC_EARG, "a property holds a separator (character 1 or 2)");
    if (out->failed || out->len > ZL_MAX_PROPERTIES)
        return zc_fail(err, ZC_EARG, "the properties are longer than %u bytes", ZL_MAX_PROPERTIES);
    return ZC_OK;
}

uint64_t zc_deflate(struct zr_span body, uint8_t **ret)
{
    static _Thread_local struct libdeflate_compressor *compressor;
    *ret = NULL;
    if (!compressor && !(compressor = libdeflate_alloc_compressor(5))) return 0;
    uint8_t *to = malloc(body.len);
    uint64_t n = to ? libdeflate_zlib_compress(compressor, body.ptr, body.len, to, body.len) : 0;
    if (n)
        *ret = to;
    else
        free(to);
    return n;
}

/* ---- in ---- */

struct held_messages {
    struct zc_messages pub;
    uint8_t *copy;
    uint8_t **blocks; /* inflated bodies */
    uint32_t n_blocks, cap_blocks, cap;
};

void zc_messages_free(struct zc_messages *messages)
{
    if (!messages) return;
    struct held_messages *h = (struct held_messages *)messages;
    for (uint32_t i = 0; i < h->n_blocks; i++) free(h->blocks[i]);
    free(h->blocks);
    free(h->copy);
    free(h->pub.msgs);
    free(h);
}

/* Inflates zlib data into a block of h; *body changes. -1: broken data or memory ran out. */
static int inflate_into(struct held_messages *h, struct zr_span *body)
{
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    uint64_t cap = body->len * 4 + 256;
    int rc = -1;
    if (h->n_blocks == h->cap_blocks) {
        uint32_t n = h->cap_blocks ? h->cap_blocks * 2 : 8;
        uint8_t **grown = realloc(h->blocks, n * sizeof(*grown));
        if (grown) h->blocks = grown, h->cap_blocks = n;
    }
    while (d && h->n_blocks < h->cap_blocks && cap <= INFLATE_MAX) {
        uint8_t *to = malloc(cap);
        size_t n = 0;
        enum libdeflate_result r =
            to ? libdeflate_zlib_decompress(d, body->ptr, body->len, to, cap, &n) : LIBDEFLATE_BAD_DATA;
        if (r == LIBDEFLATE_SUCCESS) {
            *body = (struct zr_span){ to, n };
            h->blocks[h->n_blocks++] = to;
            rc = 0;
            break;
        }
        free(to);
        if (r != LIBDEFLATE_INSUFFICIENT_SPACE) break;
        cap *= 4;
    }
    if (d) libdeflate_free_decompressor(d);
    return rc;
}

/* "A || B" against one tag. */
static uint32_t tags_match(const char *expression, struct zr_str tag)
{
    if (!expression || !*expression || strcmp(expression, "*") == 0) return 1;
    struct zr_str rest = zl_str(expression), part;
    while (zl_split(&rest, '|', &part)) {
        part = zl_trim(part);
        if (part.len && zl_eq(part, tag)) return 1;
    }
    return 0;
}

static struct zc_received *messages_room(struct held_messages *h)
{
    if (h->pub.n == h->cap) {
        uint32_t cap = h->cap ? h->cap * 2 : 32;
        struct zc_received *grown = cap <= MESSAGES_MAX * 2 ? realloc(h->pub.msgs, cap * sizeof(*grown)) : NULL;
        if (!grown) return NULL;
        h->pub.msgs = grown;
        h->cap = cap;
    }
    return &h->pub.msgs[h->pub.n];
}

static void received_ids(struct zc_received *m)
{
    uint32_t n = zl_offset_id(m->offset_msg_id, &m->store_host, m->physical_offset);
    m->offset_msg_id[n] = 0;
    struct zr_str uniq = zl_props_get(m->properties, "UNIQ_KEY");
    if (uniq.len && uniq.len < ZC_ID_MAX) {
        memcpy(m->msg_id, uniq.ptr, uniq.len);
        m->msg_id[uniq.len] = 0;
    } else
        memcpy(m->msg_id, m->offset_msg_id, sizeof(m->msg_id));
}

static void received_fill(struct zc_received *m, const struct zl_record *r, struct zr_str broker)
{
    *m = (struct zc_received){ .topic = r->topic,
                               .stored_topic = r->topic,
                               .broker = broker,
                               .body = r->body,
                               .properties = r->properties,
                               .tags = zl_props_get(r->properties, "TAGS"),
                               .keys = zl_props_get(r->properties, "KEYS"),
                               .born_host = r->born_host,
                               .store_host = r->store_host,
                               .queue_offset = r->queue_offset,
                               .physical_offset = r->physical_offset,
                               .born_ms = r->born_ms,
                               .store_ms = r->store_ms,
                               .prepared_offset = r->prepared_offset,
                               .queue_id = r->queue_id,
                               .flag = r->flag,
                               .sys_flag = r->sys_flag,
                               .reconsume_times = r->reconsume_times,
                               .store_size = r->size,
                               .body_crc = r->body_crc };
    struct zr_str origin = zl_props_get(r->properties, "RETRY_TOPIC");
    if (origin.len && zl_starts(r->topic, "%RETRY%")) m->topic = origin;
    received_ids(m);
}

/* One record that holds many messages: each gets its own place. */
static int unwrap(struct held_messages *h, const struct zc_received *outer, const char *tags)
{
    uint64_t pos = 0;
    struct zl_batch_item item;
    zr_status st;
    for (uint32_t i = 0; (st = zl_batch_next(outer->body, &pos, &item)) == ZR_OK; i++) {
        struct zc_received *m = messages_room(h);
        if (!m) return ZC_ENOMEM;
        *m = *outer;
        m->body = item.body;
        m->properties = item.properties;
        m->flag = item.flag;
        m->tags = zl_props_get(item.properties, "TAGS");
        m->keys = zl_props_get(item.properties, "KEYS");
        m->queue_offset = outer->queue_offset + i;
        m->sys_flag &= ~(ZR_SYSFLAG_NEED_UNWRAP | ZR_SYSFLAG_INNER_BATCH);
        received_ids(m);
        if (tags_match(tags, m->tags)) h->pub.n++;
    }
    return st == ZR_ENOENT ? ZC_OK : ZC_EPROTO;
}

static int take_record(struct held_messages *h, const struct zl_record *r, struct zr_str broker, const char *tags)
{
    const int32_t inner = ZR_SYSFLAG_NEED_UNWRAP | ZR_SYSFLAG_INNER_BATCH;
    struct zc_received *m = messages_room(h);
    if (!m) return ZC_ENOMEM;
    received_fill(m, r, broker);
    int32_t how = m->sys_flag & COMPRESSION_TYPE;
    if ((m->sys_flag & ZR_SYSFLAG_COMPRESSED) && (how == COMPRESSION_ZLIB_OLD || how == COMPRESSION_ZLIB)) {
        if (inflate_into(h, &m->body)) return ZC_EPROTO;
        m->sys_flag &= ~(ZR_SYSFLAG_COMPRESSED | COMPRESSION_TYPE);
    }
    if ((m->sys_flag & inner) == inner) {
        struct zc_received outer = *m;
        return unwrap(h, &outer, tags);
    }
    if (tags_match(tags, m->tags)) h->pub.n++;
    return ZC_OK;
}

int zc_messages_decode(struct zr_span records, const char *broker, const char *tags, struct zc_messages **ret,
                       struct zc_err *err)
{
    uint64_t name_len = broker ? strlen(broker) : 0;
    struct held_messages *h = calloc(1, sizeof(*h));
    *ret = NULL;
    if (!h || !(h->copy = malloc(records.len + name_len + 1)))
        return free(h), zc_fail(err, ZC_ENOMEM, "memory ran out");
    if (records.len) memcpy(h->copy, records.ptr, records.len);
    if (name_len) memcpy(h->copy + records.len, broker, name_len);
    struct zr_str name = { (const char *)h->copy + records.len, name_len };
    uint64_t at = 0;
    int rc = ZC_OK;
    const char *why = "a record ends early";
    while (at < records.len && rc == ZC_OK) {
        struct zl_record r;
        if (zl_record_parse((struct zr_span){ h->copy + at, records.len - at }, 0, &r, &why) != ZR_OK)
            rc = ZC_EPROTO;
        else if ((rc = take_record(h, &r, name, tags)) == ZC_OK)
            at += r.size;
        else
            why = rc == ZC_ENOMEM ? "memory ran out" : "a body could not be unpacked";
    }
    if (rc)
        return zc_messages_free(&h->pub), zc_fail(err, rc, "the messages received could not be read at byte %llu: %s",
                                                  (unsigned long long)at, why);
    *ret = &h->pub;
    return ZC_OK;
}
