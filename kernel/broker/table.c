/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - what the tables of topics, groups and offsets have in common: texts in one block, data versions, and reading a
 * document of entries under one member. */
#include "broker/internal.h"

struct zr_str zb_text_put(char **at, struct zr_str s)
{
    struct zr_str ret = { *at, s.len };
    if (s.len)
        memcpy(*at, s.ptr, s.len);
    *at += s.len;
    return ret;
}

void zb_version_next(struct zr_data_version *v)
{
    v->timestamp = zk_wall_ms();
    v->counter++;
}

void zb_version_read(const struct zl_json *node, struct zr_data_version *ret)
{
    ret->counter = zl_json_get_i64(node, "counter", 0);
    ret->state_version = zl_json_get_i64(node, "stateVersion", 0);
    ret->timestamp = zl_json_get_i64(node, "timestamp", zk_wall_ms());
}

struct load { const struct zb_table_doc *doc; zr_status status; };

/* A document without its table is damaged; an entry that cannot be taken (the table is full) ends the load, not the reading. */
static zr_status load_accept(void *ctx, struct zr_span bytes)
{
    struct load *load = ctx;
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at = 0;
    zr_status status = zl_json_parse((struct zr_str){ (const char *)bytes.ptr, bytes.len }, &doc, &root, &at);
    if (status != ZR_OK)
        return status;
    const struct zl_json *table = root->kind == ZL_JSON_OBJECT ? zl_json_get(root, load->doc->member) : NULL;
    if (!table || table->kind != ZL_JSON_OBJECT) {
        zl_json_free(doc);
        return ZR_EINVAL;
    }
    for (const struct zl_json *e = table->child; e && load->status == ZR_OK; e = e->next)
        load->status = e->kind == ZL_JSON_OBJECT ? load->doc->entry(e) : ZR_OK;
    if (load->doc->rest)
        load->doc->rest(root);
    zb_version_read(zl_json_get(root, "dataVersion"), load->doc->version);
    zl_json_free(doc);
    return ZR_OK;
}

zr_status zb_table_load(const struct zb_table_doc *doc)
{
    struct load load = { doc, ZR_OK };
    zr_status status = zk_state_read(zl_str(doc->name), load_accept, &load);
    if (status == ZR_ENOENT)
        return ZR_OK;
    if (status != ZR_OK) {
        zk_err_raise(status, 0, "%s cannot be read, and neither can its .bak: put back a good copy, or remove both to start %s", doc->name, doc->without);
        return status;
    }
    if (load.status == ZR_EFULL)
        zk_err_raise(load.status, 0, "%s holds more %s than %s (%lld) allows", doc->name, doc->what, doc->limit_name, (long long)doc->limit);
    return load.status;
}
