/* SPDX-License-Identifier: Apache-2.0 */
/* body.c - bodies of REGISTER_BROKER. Three shapes come in:
 *
 *   JSON, sender's version >= 37:  {"filterServerList":[..],"topicConfigSerializeWrapper":{"dataVersion":..,"topicConfigTable":{..},..}}
 *   JSON, older:                   the inner wrapper alone
 *   a zlib stream (RFC 1950) of    i32 n, dataVersion JSON | i32 topics | topics x (i32 n, "name read write perm filter attributes")
 *                                  | i32 n, filter servers JSON | version >= 413: i32 mappings | mappings x (i32 n, JSON)
 *
 * Brokers of 5.x deflate the body and say compressed=false, so the first byte decides, not the header. */
#include <libdeflate.h>
#include <limits.h>
#include <stdlib.h>
#include "namesrv.h"

#define BODY_WRAPPED_SINCE 37
#define BODY_MAPPINGS_SINCE 413
#define BODY_MAX_TOPICS 1000000u
#define BODY_MAX_MAPPINGS 100000u

static zr_status body_parse(struct ns_content *c, struct zr_str text, const struct zl_json **ret_root)
{
    uint64_t at;
    if (c->n_docs == c->cap_docs) {
        uint32_t cap = c->cap_docs ? c->cap_docs * 2 : 4;
        struct zl_json_doc **docs = realloc(c->docs, cap * sizeof *docs);
        if (!docs)
            return ZR_ENOMEM;
        c->docs = docs;
        c->cap_docs = cap;
    }
    zr_status status = zl_json_parse(text, &c->docs[c->n_docs], ret_root, &at);
    if (status == ZR_OK)
        c->n_docs++;
    return status;
}

struct zr_data_version ns_version_of(const struct zl_json *object)
{
    return (struct zr_data_version){ zl_json_get_i64(object, "timestamp", 0), zl_json_get_i64(object, "counter", 0),
                                     zl_json_get_i64(object, "stateVersion", 0) };
}

void ns_version_print(struct zl_buf *out, const struct zr_data_version *version)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_ki64(&w, "counter", version->counter);
    zl_jw_ki64(&w, "stateVersion", version->state_version);
    zl_jw_ki64(&w, "timestamp", version->timestamp);
    zl_jw_end(&w, '}');
}

/* A number as an int: out of range counts as absent. */
static int32_t body_i32(const struct zl_json *object, const char *key, int32_t dflt)
{
    int64_t v = zl_json_get_i64(object, key, dflt);
    return v < INT32_MIN || v > INT32_MAX ? dflt : (int32_t)v;
}

static zr_status body_filters(struct ns_content *c, const struct zl_json *list)
{
    if (!list || list->kind != ZL_JSON_ARRAY)
        return ZR_OK;
    c->has_filters = 1;
    c->filters = calloc(list->n ? list->n : 1, sizeof *c->filters);
    if (!c->filters)
        return ZR_ENOMEM;
    for (const struct zl_json *item = list->child; item && c->n_filters < NS_MAX_FILTER_SERVERS; item = item->next) {
        struct zr_str addr = zl_json_str(item);
        if (ns_name_ok(addr))
            c->filters[c->n_filters++] = addr;
    }
    return ZR_OK;
}

static zr_status body_topics(struct ns_content *c, const struct zl_json *table)
{
    if (!table || table->kind != ZL_JSON_OBJECT)
        return ZR_OK;
    c->topics = calloc(table->n ? table->n : 1, sizeof *c->topics);
    if (!c->topics)
        return ZR_ENOMEM;
    for (const struct zl_json *item = table->child; item; item = item->next) {
        if (item->kind != ZL_JSON_OBJECT || !ns_name_ok(item->key))
            continue;
        c->topics[c->n_topics++] = (struct ns_topic_conf){
            item->key, body_i32(item, "readQueueNums", 16), body_i32(item, "writeQueueNums", 16),
            body_i32(item, "perm", 6), body_i32(item, "topicSysFlag", 0),
        };
    }
    return ZR_OK;
}

static void body_mapping(struct ns_content *c, struct zr_str topic, const struct zl_json *item)
{
    struct ns_mapping_conf m = {
        .topic = topic, .broker = zl_json_get_str(item, "bname"), .scope = zl_json_get_str(item, "scope"),
        .epoch = zl_json_get_i64(item, "epoch", 0), .total_queues = body_i32(item, "totalQueues", 0),
        .dirty = zl_json_get_bool(item, "dirty", 0), .pairs = zl_json_get(item, "currIdMap"),
    };
    if (item->kind == ZL_JSON_OBJECT && ns_name_ok(topic) && ns_name_ok(m.broker))
        c->mappings[c->n_mappings++] = m;
}

static zr_status body_mappings(struct ns_content *c, const struct zl_json *map)
{
    if (!map || map->kind != ZL_JSON_OBJECT || map->n == 0)
        return ZR_OK;
    c->mappings = calloc(map->n, sizeof *c->mappings);
    if (!c->mappings)
        return ZR_ENOMEM;
    for (const struct zl_json *item = map->child; item; item = item->next)
        body_mapping(c, item->key, item);
    return ZR_OK;
}

static zr_status body_json(struct ns_content *c, struct zr_str text, int32_t version, const char **ret_why)
{
    const struct zl_json *root, *wrapper;
    zr_status status = body_parse(c, text, &root);
    if (status != ZR_OK || root->kind != ZL_JSON_OBJECT) {
        *ret_why = "the registration's body is no JSON object";
        return status != ZR_OK ? status : ZR_EINVAL;
    }
    wrapper = version >= BODY_WRAPPED_SINCE ? zl_json_get(root, "topicConfigSerializeWrapper") : root;
    c->version = ns_version_of(zl_json_get(wrapper, "dataVersion"));
    if ((status = body_filters(c, version >= BODY_WRAPPED_SINCE ? zl_json_get(root, "filterServerList") : NULL)) != ZR_OK ||
        (status = body_topics(c, zl_json_get(wrapper, "topicConfigTable"))) != ZR_OK)
        return status;
    return body_mappings(c, zl_json_get(wrapper, "topicQueueMappingInfoMap"));
}

/* ---- the deflated shape --------------------------------------------------------------------------------------------- */

static zr_status body_inflate(struct ns_content *c, struct zr_span body, struct zr_span *ret, const char **ret_why)
{
    struct libdeflate_decompressor *d = libdeflate_alloc_decompressor();
    uint64_t cap = body.len * 8 < 65536 ? 65536 : body.len * 8;
    enum libdeflate_result result = LIBDEFLATE_INSUFFICIENT_SPACE;
    size_t len = 0;
    if (!d)
        return ZR_ENOMEM;
    while (result == LIBDEFLATE_INSUFFICIENT_SPACE) {
        cap = cap > NS_BODY_MAX ? NS_BODY_MAX : cap;
        free(c->inflated);
        c->inflated = malloc(cap);
        if (!c->inflated) {
            libdeflate_free_decompressor(d);
            return ZR_ENOMEM;
        }
        result = libdeflate_zlib_decompress(d, body.ptr, body.len, c->inflated, cap, &len);
        if (cap == NS_BODY_MAX)
            break;
        cap *= 4;
    }
    libdeflate_free_decompressor(d);
    if (result != LIBDEFLATE_SUCCESS) {
        *ret_why = result == LIBDEFLATE_INSUFFICIENT_SPACE ? "the registration's body inflates beyond 64 MiB"
                                                           : "the registration's body is a damaged zlib stream";
        return result == LIBDEFLATE_INSUFFICIENT_SPACE ? ZR_EFULL : ZR_EINVAL;
    }
    *ret = (struct zr_span){ c->inflated, len };
    return ZR_OK;
}

static uint32_t body_take_i32(struct zr_span *rest, int32_t *ret)
{
    if (rest->len < 4)
        return 0;
    *ret = (int32_t)zl_load32(rest->ptr);
    *rest = (struct zr_span){ rest->ptr + 4, rest->len - 4 };
    return 1;
}

static uint32_t body_take_text(struct zr_span *rest, struct zr_str *ret)
{
    int32_t len;
    if (!body_take_i32(rest, &len) || len < 0 || (uint64_t)len > rest->len)
        return 0;
    *ret = (struct zr_str){ (const char *)rest->ptr, (uint64_t)len };
    *rest = (struct zr_span){ rest->ptr + len, rest->len - (uint64_t)len };
    return 1;
}

/* "name read write perm filter [attributes]"; a record that is none is left out, as Apache does. */
static void body_topic_record(struct ns_content *c, struct zr_str record)
{
    struct zr_str word[5];
    struct ns_topic_conf t = { 0 };
    for (uint32_t i = 0; i < 5; i++)
        if (!zl_split(&record, ' ', &word[i]))
            return;
    t.name = word[0];
    if (!ns_name_ok(t.name) || zl_parse_i32(word[1], &t.read) != ZR_OK || zl_parse_i32(word[2], &t.write) != ZR_OK ||
        zl_parse_i32(word[3], &t.perm) != ZR_OK)
        return;
    c->topics[c->n_topics++] = t;
}

static zr_status body_packed_topics(struct ns_content *c, struct zr_span *rest)
{
    struct zr_str record;
    int32_t n;
    /* Each topic takes at least its own length word, so a count beyond that is a lie and allocates nothing. */
    if (!body_take_i32(rest, &n) || n < 0 || (uint64_t)n > rest->len / 4)
        return ZR_EINVAL;
    if ((uint32_t)n > BODY_MAX_TOPICS)
        return ZR_EFULL;
    c->topics = calloc(n ? (uint32_t)n : 1, sizeof *c->topics);
    if (!c->topics)
        return ZR_ENOMEM;
    for (int32_t i = 0; i < n; i++) {
        if (!body_take_text(rest, &record))
            return ZR_EINVAL;
        body_topic_record(c, record);
    }
    return ZR_OK;
}

static zr_status body_packed_mappings(struct ns_content *c, struct zr_span *rest)
{
    const struct zl_json *root;
    struct zr_str text;
    int32_t n;
    zr_status status;
    if (!body_take_i32(rest, &n) || n < 0 || (uint64_t)n > rest->len / 4)
        return ZR_EINVAL;
    if ((uint32_t)n > BODY_MAX_MAPPINGS)
        return ZR_EFULL;
    c->mappings = calloc(n ? (uint32_t)n : 1, sizeof *c->mappings);
    if (!c->mappings)
        return ZR_ENOMEM;
    for (int32_t i = 0; i < n; i++) {
        if (!body_take_text(rest, &text))
            return ZR_EINVAL;
        if ((status = body_parse(c, text, &root)) != ZR_OK)
            return status;
        body_mapping(c, zl_json_get_str(root, "topic"), root);
    }
    return ZR_OK;
}

static zr_status body_packed(struct ns_content *c, struct zr_span rest, int32_t version)
{
    const struct zl_json *root;
    struct zr_str text;
    zr_status status;
    if (!body_take_text(&rest, &text))
        return ZR_EINVAL;
    if ((status = body_parse(c, text, &root)) != ZR_OK)
        return status;
    c->version = ns_version_of(root);
    if ((status = body_packed_topics(c, &rest)) != ZR_OK)
        return status;
    if (!body_take_text(&rest, &text))
        return ZR_EINVAL;
    if ((status = body_parse(c, text, &root)) != ZR_OK || (status = body_filters(c, root)) != ZR_OK)
        return status;
    return version >= BODY_MAPPINGS_SINCE ? body_packed_mappings(c, &rest) : ZR_OK;
}

zr_status ns_content_decode(struct zr_span body, int32_t version, struct ns_content *ret, const char **ret_why)
{
    struct zr_span inflated;
    zr_status status = ZR_OK;
    *ret = (struct ns_content){ 0 };
    *ret_why = "the registration's body is cut short or malformed";
    if (body.len == 0)
        return ZR_OK;
    /* CMF 0x78 is deflate with a 32 KiB window; CMF and FLG together are a multiple of 31. JSON never begins so. */
    if (body.len >= 2 && body.ptr[0] == 0x78 && (body.ptr[0] * 256u + body.ptr[1]) % 31 == 0) {
        status = body_inflate(ret, body, &inflated, ret_why);
        if (status == ZR_OK)
            status = body_packed(ret, inflated, version);
    } else {
        status = body_json(ret, (struct zr_str){ (const char *)body.ptr, body.len }, version, ret_why);
    }
    if (status == ZR_OK && ret->n_topics > BODY_MAX_TOPICS)
        status = ZR_EFULL;
    if (status == ZR_EFULL && ret->n_docs > 0)
        *ret_why = "the registration carries more than 1000000 topics or 100000 mappings";
    if (status == ZR_ENOMEM)
        *ret_why = "memory ran out";
    if (status != ZR_OK)
        ns_content_free(ret);
    return status;
}

void ns_content_free(struct ns_content *c)
{
    for (uint32_t i = 0; i < c->n_docs; i++)
        zl_json_free(c->docs[i]);
    free(c->docs);
    free(c->topics);
    free(c->mappings);
    free(c->filters);
    free(c->inflated);
    *c = (struct ns_content){ 0 };
}
