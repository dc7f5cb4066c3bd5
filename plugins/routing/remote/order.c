/* SPDX-License-Identifier: Apache-2.0 */
/* order.c - a name server may hold KV namespace ORDER_TOPIC_CONFIG: topics whose messages keep an order over brokers. It comes back
 * with every registration, {"table":{"topic":"broker-a:8;broker-b:8"}}. As in Apache, topics named there become ordered, and a
 * topic that is not named is left as it is. */
#include <stdlib.h>
#include "remote.h"

struct ordered { struct zr_topic topic; struct zr_field *attributes; char *name; uint32_t wanted; };

static void ordered_take(void *ctx, const struct zr_topic *topic)
{
    struct ordered *o = ctx;
    if (topic->order)
        return;
    o->topic = *topic;
    o->topic.hdr = (struct zr_hdr)ZR_HDR(struct zr_topic, 0);
    o->attributes = calloc(topic->n_attributes ? topic->n_attributes : 1, sizeof *o->attributes);
    o->name = zl_dup(topic->name);
    if (!o->attributes || !o->name)
        return;
    for (uint32_t i = 0; i < topic->n_attributes; i++)
        o->attributes[i] = (struct zr_field){ { zl_dup(topic->attributes[i].name), topic->attributes[i].name.len },
                                              { zl_dup(topic->attributes[i].value), topic->attributes[i].value.len } };
    o->topic.name.ptr = o->name;
    o->topic.attributes = o->attributes;
    o->topic.order = 1;
    o->wanted = 1;
}

static void ordered_free(struct ordered *o)
{
    for (uint32_t i = 0; o->attributes && i < o->topic.n_attributes; i++) {
        free((char *)o->attributes[i].name.ptr);
        free((char *)o->attributes[i].value.ptr);
    }
    free(o->attributes);
    free(o->name);
}

static void order_one(struct zr_inst *inst, struct zr_str name)
{
    struct ordered o = { 0 };
    if (inst->broker->topic(inst->host, name, ordered_take, &o) == ZR_OK && o.wanted) {
        zr_status status = inst->broker->put_topic(inst->host, &o.topic, NULL, NULL);
        rm_log(inst, status == ZR_OK ? ZR_LOG_INFO : ZR_LOG_WARN, "topic %s: the name server's order configuration names it%s", o.name,
               status == ZR_OK ? ", it is ordered now" : ", but it could not be changed");
    }
    ordered_free(&o);
}

void rm_order_apply(struct zr_inst *inst, struct zr_span body)
{
    struct zl_json_doc *doc;
    const struct zl_json *root, *table;
    uint64_t at;
    if (zl_json_parse((struct zr_str){ (const char *)body.ptr, body.len }, &doc, &root, &at) != ZR_OK)
        return;
    table = zl_json_get(root, "table");
    for (const struct zl_json *item = table && table->kind == ZL_JSON_OBJECT ? table->child : NULL; item; item = item->next)
        if (item->key.len > 0 && item->key.len <= ZL_RETRY_TOPIC_MAX)
            order_one(inst, item->key);
    zl_json_free(doc);
}
