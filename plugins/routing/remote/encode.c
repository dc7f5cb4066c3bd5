/* SPDX-License-Identifier: Apache-2.0 */
/* encode.c - what is said to name servers: 103 in full or in part, 322, 104. Shapes: spec/remoting.md 3.1.1 to 3.1.4.
 *
 * The data version is read before the topics, so a body never claims a version newer than its topics are. */
#include <libdeflate.h>
#include <stdlib.h>
#include "remote.h"

#define DEFLATE_LEVEL 6

/* ---- bodies ----------------------------------------------------------------------------------------------------------- */

struct topics { /* of a body under construction */
    struct zl_jw w;
    struct zl_buf *packed; /* NULL: JSON */
    int32_t permission;
    uint32_t n;
};

/* As Apache: only when the broker lacks R or W are permissions cut down to what it has. */
static int32_t topic_perm(int32_t perm, int32_t permission)
{
    int32_t both = ZR_PERM_READ | ZR_PERM_WRITE;
    return (permission & both) == both ? perm : perm & permission;
}

static void print_attributes(struct zl_jw *w, const struct zr_topic *topic)
{
    zl_jw_begin(w, '{');
    for (uint32_t i = 0; i < topic->n_attributes; i++) {
        zl_jw_key(w, topic->attributes[i].name);
        zl_jw_str(w, topic->attributes[i].value);
    }
    zl_jw_end(w, '}');
}

static void print_topic(struct zl_jw *w, const struct zr_topic *topic, int32_t permission)
{
    zl_jw_key(w, topic->name);
    zl_jw_begin(w, '{');
    zl_jw_key(w, (struct zr_str)ZR_STR("attributes"));
    print_attributes(w, topic);
    zl_jw_kbool(w, "order", topic->order);
    zl_jw_ki64(w, "perm", topic_perm(topic->perm, permission));
    zl_jw_ki64(w, "readQueueNums", topic->read_queues);
    zl_jw_kstr(w, "topicFilterType", topic->multi_tag ? (struct zr_str)ZR_STR("MULTI_TAG") : (struct zr_str)ZR_STR("SINGLE_TAG"));
    zl_jw_kstr(w, "topicName", topic->name);
    zl_jw_ki64(w, "topicSysFlag", topic->sys_flag);
    zl_jw_ki64(w, "writeQueueNums", topic->write_queues);
    zl_jw_end(w, '}');
}

/* i32 length, "name read write perm filter attributes". */
static void pack_topic(struct zl_buf *out, const struct zr_topic *topic, int32_t permission)
{
    struct zl_jw w;
    uint64_t at = out->len;
    zl_buf_be32(out, 0);
    zl_buf_str(out, topic->name);
    zl_buf_fmt(out, " %d %d %d %s ", topic->read_queues, topic->write_queues, topic_perm(topic->perm, permission),
               topic->multi_tag ? "MULTI_TAG" : "SINGLE_TAG");
    zl_jw_init(&w, out, 0);
    print_attributes(&w, topic);
    if (!out->failed)
        zl_store32(out->ptr + at, (uint32_t)(out->len - at - 4));
}

static int32_t add_topic(void *ctx, const struct zr_topic *topic)
{
    struct topics *t = ctx;
    if (t->packed)
        pack_topic(t->packed, topic, t->permission);
    else
        print_topic(&t->w, topic, t->permission);
    t->n++;
    return 0;
}

static void add_one_topic(void *ctx, const struct zr_topic *topic) { (void)add_topic(ctx, topic); }

static void add_topics(struct zr_inst *inst, const struct zr_str *names, uint32_t n, struct topics *t)
{
    if (!names)
        inst->broker->each_topic(inst->host, add_topic, t);
    for (uint32_t i = 0; names && i < n; i++)
        (void)inst->broker->topic(inst->host, names[i], add_one_topic, t); /* one that was removed meanwhile is left out */
}

static void print_version(struct zl_jw *w, const struct zr_data_version *version)
{
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "counter", version->counter);
    zl_jw_ki64(w, "stateVersion", version->state_version);
    zl_jw_ki64(w, "timestamp", version->timestamp);
    zl_jw_end(w, '}');
}

static void build_json(struct zr_inst *inst, const struct zr_str *names, uint32_t n, struct rm_message *m)
{
    struct topics t = { .permission = m->who.permission };
    struct zr_data_version mapping = { m->who.boot_ms, 0, 0 };
    zl_jw_init(&t.w, &m->body, 0);
    zl_buf_cstr(&m->body, "{\"filterServerList\":[],\"topicConfigSerializeWrapper\":{\"dataVersion\":");
    print_version(&t.w, &m->version);
    zl_buf_cstr(&m->body, ",\"mappingDataVersion\":");
    zl_jw_init(&t.w, &m->body, 0);
    print_version(&t.w, &mapping);
    zl_buf_cstr(&m->body, ",\"topicConfigTable\":");
    zl_jw_init(&t.w, &m->body, 0);
    zl_jw_begin(&t.w, '{');
    add_topics(inst, names, n, &t);
    zl_jw_end(&t.w, '}');
    zl_buf_cstr(&m->body, ",\"topicQueueMappingDetailMap\":{},\"topicQueueMappingInfoMap\":{}}}");
    m->n_topics = t.n;
}

static zr_status deflate_body(struct rm_message *m, const struct zl_buf *plain)
{
    struct libdeflate_compressor *c = libdeflate_alloc_compressor(DEFLATE_LEVEL);
    if (!c)
        return ZR_ENOMEM;
    uint8_t *room = zl_buf_reserve(&m->body, libdeflate_zlib_compress_bound(c, plain->len));
    if (room)
        m->body.len += libdeflate_zlib_compress(c, plain->ptr, plain->len, room, m->body.cap - m->body.len);
    libdeflate_free_compressor(c);
    return room ? ZR_OK : ZR_ENOMEM;
}

static zr_status build_packed(struct zr_inst *inst, const struct zr_str *names, uint32_t n, struct rm_message *m)
{
    struct zl_buf plain;
    struct topics t = { .packed = &plain, .permission = m->who.permission };
    zr_status status = ZR_ENOMEM;
    zl_buf_init(&plain, RM_BODY_MAX);
    zl_buf_be32(&plain, 0);
    zl_jw_init(&t.w, &plain, 0);
    print_version(&t.w, &m->version);
    uint64_t count_at = plain.len;
    zl_buf_be32(&plain, 0);
    add_topics(inst, names, n, &t);
    zl_buf_be32(&plain, 2);
    zl_buf_cstr(&plain, "[]");
    zl_buf_be32(&plain, 0); /* no static topics */
    if (!plain.failed) {
        zl_store32(plain.ptr, (uint32_t)(count_at - 4));
        zl_store32(plain.ptr + count_at, t.n);
        status = deflate_body(m, &plain);
    }
    m->n_topics = t.n;
    zl_buf_free(&plain);
    return status;
}

/* ---- messages --------------------------------------------------------------------------------------------------------- */

static void message_begin(struct zr_inst *inst, int32_t code, struct rm_message *m)
{
    memset(m, 0, sizeof *m);
    m->who.hdr = (struct zr_hdr)ZR_HDR(struct zr_identity, 0);
    inst->broker->identity(inst->host, &m->who);
    zl_buf_init(&m->body, RM_BODY_MAX);
    zl_fields_str(&m->fields, "brokerName", m->who.name);
    zl_fields_str(&m->fields, "brokerAddr", m->who.addr);
    zl_fields_str(&m->fields, "clusterName", m->who.cluster);
    zl_fields_i64(&m->fields, "brokerId", m->who.id);
    m->command = (struct zr_command){ .hdr = ZR_HDR(struct zr_command, 0), .code = code };
}

static void message_end(struct rm_message *m)
{
    m->command.fields = m->fields.f;
    m->command.n_fields = m->fields.n;
    m->command.body = zl_buf_as_span(&m->body);
}

zr_status rm_encode_register(struct zr_inst *inst, const struct zr_str *names, uint32_t n, struct rm_message *m)
{
    zr_status status = ZR_OK;
    uint32_t packed = inst->set->compressed;
    message_begin(inst, RM_CODE_REGISTER, m);
    inst->broker->topic_version(inst->host, &m->version);
    if (!packed) {
        build_json(inst, names, n, m);
        packed = m->body.len > RM_DEFLATE_ABOVE;
    }
    if (packed) {
        zl_buf_clear(&m->body);
        status = build_packed(inst, names, n, m);
    }
    if (status == ZR_OK && m->body.failed)
        status = ZR_ENOMEM;
    if (status == ZR_OK && m->body.len + 4096 > ZL_FRAME_MAX)
        status = ZR_EFULL;
    if (status != ZR_OK) {
        rm_message_free(m);
        return status;
    }
    zl_fields_str(&m->fields, "haServerAddr", m->who.ha_addr);
    zl_fields_bool(&m->fields, "enableActingMaster", 0);
    zl_fields_bool(&m->fields, "compressed", packed);
    zl_fields_i64(&m->fields, "bodyCrc32", (int64_t)(zl_crc32(0, m->body.ptr, m->body.len) & 0x7FFFFFFFu));
    message_end(m);
    return ZR_OK;
}

void rm_encode_query(struct zr_inst *inst, struct rm_message *m)
{
    struct zl_jw w;
    message_begin(inst, RM_CODE_QUERY_DATA_VERSION, m);
    inst->broker->topic_version(inst->host, &m->version);
    zl_jw_init(&w, &m->body, 0);
    print_version(&w, &m->version);
    message_end(m);
}

void rm_encode_unregister(struct zr_inst *inst, struct rm_message *m)
{
    message_begin(inst, RM_CODE_UNREGISTER, m);
    message_end(m);
}

void rm_message_free(struct rm_message *m) { zl_buf_free(&m->body); }

uint64_t rm_message_size(const struct rm_message *m)
{
    struct zr_command head = m->command;
    struct zl_buf frame;
    head.body = (struct zr_span){ NULL, 0 };
    zl_buf_init(&frame, 65536);
    (void)zl_command_encode(&frame, &head, ZL_TYPE_JSON, 0, 0, 0);
    uint64_t size = frame.len + m->body.len;
    zl_buf_free(&frame);
    return size;
}
