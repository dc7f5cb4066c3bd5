/* SPDX-License-Identifier: Apache-2.0 */
/* record.c - RocketMQ's message record, its properties and client batches; layouts are in zl/record.h.
 *
 * 1. zl_record_size and zl_record_encode see a message alike: what size says is what encode writes, to the byte.
 * 2. Bits 0x10 and 0x20 of a record's sysFlag say how long its hosts are, so they come from the hosts, whatever the message says.
 * 3. A parsed record's parts lie within its stated size, and its stated size within the bytes given. */
#include "zl/record.h"
#include "zl/text.h"

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#define FIXED_V1 91u /* IPv4 hosts, no body, topic or properties */
#define TOPIC_MAX_V1 127u
#define BORN_HOST_AT 48u
#define BATCH_FIXED 22u
#define CRC_MASK 0x7FFFFFFFu

/* ---- records ---- */

static struct zr_addr host_read(const uint8_t *p, uint32_t v6)
{
    struct zr_addr a = { .family = v6 ? 6 : 4 };
    uint32_t n = v6 ? 16 : 4;
    memcpy(a.ip, p, n);
    a.port = (uint16_t)zl_load32(p + n);
    return a;
}

static zr_status corrupt(const char **ret_why, const char *why)
{
    *ret_why = why;
    return ZR_ECORRUPT;
}

/* Everything before the body; p has at least the fixed part. Returns the position of bodyLen. */
static uint32_t record_head(const uint8_t *p, struct zl_record *r)
{
    r->body_crc = zl_load32(p + 8);
    r->queue_id = (int32_t)zl_load32(p + 12);
    r->flag = (int32_t)zl_load32(p + 16);
    r->queue_offset = (int64_t)zl_load64(p + 20);
    r->physical_offset = (int64_t)zl_load64(p + 28);
    r->physical_at = 28;
    r->sys_flag = (int32_t)zl_load32(p + 36);
    r->born_ms = (int64_t)zl_load64(p + 40);
    uint32_t born_v6 = r->sys_flag & ZR_SYSFLAG_BORNHOST_V6, store_v6 = r->sys_flag & ZR_SYSFLAG_STOREHOST_V6;
    uint32_t at = BORN_HOST_AT;
    r->born_host = host_read(p + at, born_v6);
    at += born_v6 ? 20 : 8;
    r->store_ms = (int64_t)zl_load64(p + at);
    at += 8;
    r->store_host = host_read(p + at, store_v6);
    at += store_v6 ? 20 : 8;
    r->reconsume_times = (int32_t)zl_load32(p + at);
    r->prepared_offset = (int64_t)zl_load64(p + at + 4);
    return at + 12;
}

/* Body, topic and properties, which must fill the record exactly. Returns what is wrong, or NULL. */
static const char *record_tail(const uint8_t *p, uint32_t at, struct zl_record *r)
{
    const uint8_t *end = p + r->size;
    p += at;
    uint32_t body = zl_load32(p), topic_len_size = r->magic == ZL_MAGIC_V2 ? 2 : 1;
    p += 4;
    if (body > (uint64_t)(end - p)) return "body longer than its record";
    r->body = (struct zr_span){ p, body };
    p += body;
    if (end - p < topic_len_size) return "record ends before its topic";
    uint32_t topic = topic_len_size == 2 ? zl_load16(p) : *p;
    p += topic_len_size;
    if (topic > (uint64_t)(end - p)) return "topic longer than its record";
    r->topic = (struct zr_str){ (const char *)p, topic };
    p += topic;
    if (end - p < 2) return "record ends before its properties";
    uint32_t props = zl_load16(p);
    p += 2;
    if (props > ZL_MAX_PROPERTIES || props != (uint64_t)(end - p)) return "lengths of a record disagree";
    r->properties = (struct zr_span){ p, props };
    return NULL;
}

zr_status zl_record_parse(struct zr_span bytes, uint32_t check_crc, struct zl_record *ret, const char **ret_why)
{
    if (bytes.len < 8) return ZR_EAGAIN;
    ret->size = zl_load32(bytes.ptr);
    ret->magic = zl_load32(bytes.ptr + 4);
    if (ret->magic == ZL_MAGIC_BLANK) return ZR_ENOENT;
    if (ret->magic != ZL_MAGIC_V1 && ret->magic != ZL_MAGIC_V2) return corrupt(ret_why, "no record's magic");
    if (ret->size < FIXED_V1 || ret->size > INT32_MAX) return corrupt(ret_why, "impossible size of a record");
    if (bytes.len < ret->size) return ZR_EAGAIN;
    uint32_t sys_flag = zl_load32(bytes.ptr + 36);
    uint32_t least = FIXED_V1 + (ret->magic == ZL_MAGIC_V2) + (sys_flag & ZR_SYSFLAG_BORNHOST_V6 ? 12 : 0) +
                     (sys_flag & ZR_SYSFLAG_STOREHOST_V6 ? 12 : 0);
    if (ret->size < least) return corrupt(ret_why, "impossible size of a record");
    const char *why = record_tail(bytes.ptr, record_head(bytes.ptr, ret), ret);
    if (why) return corrupt(ret_why, why);
    if (check_crc && ret->body.len && (zl_crc32(0, ret->body.ptr, ret->body.len) & CRC_MASK) != ret->body_crc) {
        return corrupt(ret_why, "checksum of a body differs");
    }
    return ZR_OK;
}

static uint32_t is_v6(const struct zr_addr *a) { return a->family == 6; }

/* What comes behind the properties, and the one piece of them that is left out. */
#define BASE_NAME "INNER_BASE\001"
#define BASE_NAME_LEN 11u
#define BASE_DIGITS 19u
#define BASE_LEN (BASE_NAME_LEN + BASE_DIGITS + 1)
#define SEAL_NAME "__CRC32#\001"
#define SEAL_NAME_LEN 9u
#define SEAL_DIGITS 10u
#define SEAL_LEN (SEAL_NAME_LEN + SEAL_DIGITS + 1)

struct tail {
    uint64_t out_at, out_len; /* piece of the properties that is left out */
    uint32_t parted;          /* a 0x02 is needed between */
    uint32_t base, seal;
};

static struct tail tail_of(const struct zr_msg *msg, uint32_t sealed)
{
    struct tail t = { .base = (msg->sys_flag & ZR_SYSFLAG_INNER_BATCH) != 0, .seal = sealed };
    const uint8_t *p = msg->properties.ptr;
    uint64_t n = msg->properties.len;
    if (n == 0 || (!t.base && !t.seal)) return t;
    const uint8_t *seal = sealed ? memmem(p, n, SEAL_NAME, SEAL_NAME_LEN) : NULL;
    if (seal && (seal == p || seal[-1] == 2)) {
        const uint8_t *end = memchr(seal, 2, (size_t)(p + n - seal));
        t.out_at = (uint64_t)(seal - p);
        t.out_len = end ? (uint64_t)(end + 1 - seal) : n - t.out_at;
    }
    uint64_t left = n - t.out_len, last = t.out_at + t.out_len == n && t.out_len ? t.out_at : n; /* end of what is kept */
    t.parted = left && p[last - 1] != 2;
    return t;
}

static uint64_t tail_len(const struct tail *t) { return t->parted + (t->base ? BASE_LEN : 0) + (t->seal ? SEAL_LEN : 0); }

uint64_t zl_record_size_sealed(const struct zr_msg *msg, uint32_t sealed)
{
    struct tail t = tail_of(msg, sealed);
    return FIXED_V1 + (msg->topic.len > TOPIC_MAX_V1) + (is_v6(&msg->born_host) ? 12 : 0) +
           (is_v6(&msg->store_host) ? 12 : 0) + msg->body.len + msg->topic.len + msg->properties.len - t.out_len + tail_len(&t);
}

uint64_t zl_record_size(const struct zr_msg *msg) { return zl_record_size_sealed(msg, 0); }

static uint8_t *host_put(uint8_t *to, const struct zr_addr *a)
{
    uint32_t n = is_v6(a) ? 16 : 4;
    memcpy(to, a->ip, n);
    zl_store32(to + n, a->port);
    return to + n + 4;
}

static uint8_t *bytes_put(uint8_t *to, const void *bytes, uint64_t n)
{
    if (n) memcpy(to, bytes, n);
    return to + n;
}

static void digits_put(uint8_t *to, uint64_t v, uint32_t n)
{
    while (n--) {
        to[n] = (uint8_t)('0' + v % 10);
        v /= 10;
    }
}

static void properties_put(uint8_t *to, const struct zr_msg *msg, const struct tail *t)
{
    const uint8_t *p = msg->properties.ptr;
    uint64_t behind = t->out_at + t->out_len;
    zl_store16(to, (uint16_t)(msg->properties.len - t->out_len + tail_len(t)));
    to = bytes_put(to + 2, p, t->out_at);
    if (msg->properties.len > behind) to = bytes_put(to, p + behind, msg->properties.len - behind);
    if (t->parted) *to++ = 2;
    if (t->base) {
        to = bytes_put(to, BASE_NAME, BASE_NAME_LEN);
        digits_put(to, 0, BASE_DIGITS);
        to += BASE_DIGITS;
        *to++ = 2;
    }
    if (!t->seal) return;
    to = bytes_put(to, SEAL_NAME, SEAL_NAME_LEN);
    digits_put(to, 0, SEAL_DIGITS);
    to[SEAL_DIGITS] = 2;
}

void zl_record_encode(uint8_t *to, const struct zr_msg *msg) { zl_record_encode_sealed(to, msg, 0); }

void zl_record_encode_sealed(uint8_t *to, const struct zr_msg *msg, uint32_t sealed)
{
    struct tail t = tail_of(msg, sealed);
    uint32_t v2 = msg->topic.len > TOPIC_MAX_V1;
    int32_t sys_flag = msg->sys_flag & ~(ZR_SYSFLAG_BORNHOST_V6 | ZR_SYSFLAG_STOREHOST_V6);
    if (is_v6(&msg->born_host)) sys_flag |= ZR_SYSFLAG_BORNHOST_V6;
    if (is_v6(&msg->store_host)) sys_flag |= ZR_SYSFLAG_STOREHOST_V6;
    zl_store32(to, (uint32_t)zl_record_size_sealed(msg, sealed));
    zl_store32(to + 4, v2 ? ZL_MAGIC_V2 : ZL_MAGIC_V1);
    zl_store32(to + 8, zl_crc32(0, msg->body.ptr, msg->body.len) & CRC_MASK);
    zl_store32(to + 12, (uint32_t)msg->queue_id);
    zl_store32(to + 16, (uint32_t)msg->flag);
    memset(to + 20, 0, 16); /* queueOffset, physicalOffset */
    zl_store32(to + 36, (uint32_t)sys_flag);
    zl_store64(to + 40, (uint64_t)msg->born_ms);
    to = host_put(to + BORN_HOST_AT, &msg->born_host);
    memset(to, 0, 8); /* storeMs */
    to = host_put(to + 8, &msg->store_host);
    zl_store32(to, (uint32_t)msg->reconsume_times);
    zl_store64(to + 4, (uint64_t)msg->prepared_offset);
    zl_store32(to + 12, (uint32_t)msg->body.len);
    to = bytes_put(to + 16, msg->body.ptr, msg->body.len);
    if (v2) {
        zl_store16(to, (uint16_t)msg->topic.len);
        to += 2;
    } else {
        *to++ = (uint8_t)msg->topic.len;
    }
    to = bytes_put(to, msg->topic.ptr, msg->topic.len);
    properties_put(to, msg, &t);
}

void zl_record_finish(uint8_t *record, int64_t queue_offset, int64_t physical_offset, int64_t store_ms)
{
    uint32_t born_v6 = zl_load32(record + 36) & ZR_SYSFLAG_BORNHOST_V6;
    zl_store64(record + 20, (uint64_t)queue_offset);
    zl_store64(record + 28, (uint64_t)physical_offset);
    zl_store64(record + BORN_HOST_AT + (born_v6 ? 20 : 8), (uint64_t)store_ms);
    if (!(zl_load32(record + 36) & ZR_SYSFLAG_INNER_BATCH)) return;
    uint32_t size = zl_load32(record);
    uint8_t *base = record + size - BASE_LEN;
    if (memcmp(base, BASE_NAME, BASE_NAME_LEN) != 0) base -= SEAL_LEN;
    if (memcmp(base, BASE_NAME, BASE_NAME_LEN) == 0) digits_put(base + BASE_NAME_LEN, (uint64_t)queue_offset, BASE_DIGITS);
}

static void seal_digits(uint8_t *to, uint32_t crc)
{
    for (uint32_t i = 0; i < SEAL_DIGITS; i++) {
        to[i] = (uint8_t)('0' + crc % 10);
        crc /= 10;
    }
}

void zl_record_seal(uint8_t *record)
{
    uint32_t size = zl_load32(record);
    seal_digits(record + size - 1 - SEAL_DIGITS, zl_crc32(0, record, size - SEAL_LEN) & CRC_MASK);
}

int zl_record_sealed(struct zr_span record)
{
    uint8_t want[SEAL_DIGITS];
    if (record.len < FIXED_V1 + SEAL_LEN) return -1;
    const uint8_t *seal = record.ptr + record.len - SEAL_LEN;
    if (memcmp(seal, SEAL_NAME, SEAL_NAME_LEN) != 0 || seal[SEAL_LEN - 1] != 2) return -1;
    seal_digits(want, zl_crc32(0, record.ptr, record.len - SEAL_LEN) & CRC_MASK);
    return memcmp(seal + SEAL_NAME_LEN, want, SEAL_DIGITS) == 0;
}

uint32_t zl_record_offsets(const struct zl_record *r)
{
    int32_t n;
    if (!(r->sys_flag & ZR_SYSFLAG_INNER_BATCH)) return 1;
    struct zr_str text = zl_props_get(r->properties, "INNER_NUM");
    return text.len && zl_parse_i32(text, &n) == ZR_OK && n >= 1 && n <= 32767 ? (uint32_t)n : 1;
}


/* ---- properties ---- */

/* The first byte that is a or b in [p, end), or end. Pieces are short, so this beats a call of memchr for each. */
static inline const char *find_either(const char *p, const char *end, char a, char b)
{
#if defined(__SSE2__)
    for (; end - p >= 16; p += 16) {
        __m128i v = _mm_loadu_si128((const __m128i *)(const void *)p);
        __m128i hits = _mm_or_si128(_mm_cmpeq_epi8(v, _mm_set1_epi8(a)), _mm_cmpeq_epi8(v, _mm_set1_epi8(b)));
        uint32_t m = (uint32_t)_mm_movemask_epi8(hits);
        if (m) return p + __builtin_ctz(m);
    }
#endif
    while (p < end && *p != a && *p != b) p++;
    return p;
}

uint32_t zl_props_next(struct zr_span props, uint64_t *pos, struct zr_str *ret_name, struct zr_str *ret_value)
{
    while (*pos < props.len) {
        const char *begin = (const char *)props.ptr, *end = begin + props.len, *piece = begin + *pos;
        const char *middle = find_either(piece, end, 1, 2);
        const char *stop = middle < end && *middle == 1 ? find_either(middle, end, 2, 2) : middle;
        *pos = (uint64_t)(stop - begin) + 1;
        if (middle == piece || middle == stop || middle + 1 == stop) continue;
        *ret_name = (struct zr_str){ piece, (uint64_t)(middle - piece) };
        *ret_value = (struct zr_str){ middle + 1, (uint64_t)(stop - middle - 1) };
        return 1;
    }
    return 0;
}

struct zr_str zl_props_get(struct zr_span props, const char *name)
{
    struct zr_str wanted = zl_str(name), found = { NULL, 0 }, key, value;
    uint64_t pos = 0;
    while (zl_props_next(props, &pos, &key, &value)) {
        if (zl_eq(key, wanted)) found = value;
    }
    return found;
}

void zl_props_add(struct zl_buf *out, struct zr_str name, struct zr_str value)
{
    if (name.len == 0 || value.len == 0) return;
    uint8_t *to = zl_buf_reserve(out, name.len + value.len + 2);
    if (!to) return;
    to = bytes_put(to, name.ptr, name.len);
    *to++ = 1;
    to = bytes_put(to, value.ptr, value.len);
    *to = 2;
    out->len += name.len + value.len + 2;
}

static uint32_t is_listed(const char *const *names, struct zr_str name)
{
    for (; names && *names; names++) {
        if (zl_is(name, *names)) return 1;
    }
    return 0;
}

void zl_props_copy(struct zl_buf *out, struct zr_span props, const char *const *without)
{
    struct zr_str name, value;
    uint64_t pos = 0;
    while (zl_props_next(props, &pos, &name, &value)) {
        if (!is_listed(without, name)) zl_props_add(out, name, value);
    }
}

static void add_if_it_fits(struct zl_buf *out, const char *name, struct zr_str value)
{
    if (value.len && out->len + strlen(name) + value.len + 2 <= ZL_MAX_PROPERTIES) zl_props_add(out, zl_str(name), value);
}

void zl_props_dead(struct zl_buf *out, struct zr_span props, struct zr_str topic, const char *reason)
{
    struct zr_str origin = zl_props_get(props, "RETRY_TOPIC"), id = zl_props_get(props, "UNIQ_KEY");
    if (!zl_props_get(props, "DLQ_ORIGIN_TOPIC").len) add_if_it_fits(out, "DLQ_ORIGIN_TOPIC", origin.len ? origin : topic);
    if (!zl_props_get(props, "DLQ_ORIGIN_MESSAGE_ID").len)
        add_if_it_fits(out, "DLQ_ORIGIN_MESSAGE_ID", id.len ? id : zl_props_get(props, "ORIGIN_MESSAGE_ID"));
    add_if_it_fits(out, "DLQ_REASON", zl_str(reason));
}

int64_t zl_tags_code(struct zr_str tags) { return zl_java_hash(tags); }

/* ---- client batches ---- */

/* As Apache, this steps by the lengths of body and properties and not by the item's first word. */
zr_status zl_batch_next(struct zr_span batch, uint64_t *pos, struct zl_batch_item *ret)
{
    if (*pos >= batch.len) return ZR_ENOENT;
    const uint8_t *p = batch.ptr + *pos;
    uint64_t left = batch.len - *pos;
    if (left < BATCH_FIXED) return ZR_EINVAL;
    uint32_t body = zl_load32(p + 16);
    if (body > left - BATCH_FIXED) return ZR_EINVAL;
    uint32_t props = zl_load16(p + 20 + body);
    if (props > ZL_MAX_PROPERTIES || props > left - BATCH_FIXED - body) return ZR_EINVAL;
    ret->flag = (int32_t)zl_load32(p + 12);
    ret->reserved = 0;
    ret->body = (struct zr_span){ p + 20, body };
    ret->properties = (struct zr_span){ p + BATCH_FIXED + body, props };
    *pos += BATCH_FIXED + (uint64_t)body + props;
    return ZR_OK;
}

void zl_batch_add(struct zl_buf *out, const struct zl_batch_item *item)
{
    uint64_t size = BATCH_FIXED + item->body.len + item->properties.len;
    uint8_t *to = zl_buf_reserve(out, size);
    if (!to) return;
    zl_store32(to, (uint32_t)size);
    memset(to + 4, 0, 8); /* magic and checksum: the broker's business */
    zl_store32(to + 12, (uint32_t)item->flag);
    zl_store32(to + 16, (uint32_t)item->body.len);
    to = bytes_put(to + 20, item->body.ptr, item->body.len);
    zl_store16(to, (uint16_t)item->properties.len);
    bytes_put(to + 2, item->properties.ptr, item->properties.len);
    out->len += size;
}
