/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - what the tables of topics, groups and offsets have in common: texts in one block, data versions, and reading a
 * document of entries under one member. */
#include "broker/internal.h"

#define DOCUMENT_MORE_MAX (4ull << 20) /* members beside the table that only others know */

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
    zl_buf_clear(load->doc->more);
    zl_json_others(load->doc->more, root, load->doc->known);
    if (load->doc->more->failed) {
        zl_buf_free(load->doc->more);
        zl_buf_init(load->doc->more, DOCUMENT_MORE_MAX);
    }
    zb_version_read(zl_json_get(root, "dataVersion"), load->doc->version);
    zl_json_free(doc);
    return ZR_OK;
}

/* Takes what is whole at the beginning of a damaged document. */
static zr_status part_accept(void *ctx, struct zr_span bytes)
{
    struct zl_buf text;
    zl_buf_init(&text, bytes.len + 64);
    zl_json_mend(&text, (struct zr_str){ (const char *)bytes.ptr, bytes.len });
    zr_status status = text.failed ? ZR_ENOMEM : load_accept(ctx, zl_buf_as_span(&text));
    zl_buf_free(&text);
    return status;
}

/* Neither copy can be used as it is. */
static uint32_t load_part(const struct zb_table_doc *doc, struct load *load)
{
    zr_status status = zk_state_read(zl_str(doc->name), part_accept, load);
    if (status == ZR_OK)
        zk_log(ZR_LOG_ERROR, "%s and its .bak are damaged: only the %s at the beginning are known; beyond them %s", doc->name, doc->what, doc->without);
    else
        zk_log(ZR_LOG_ERROR, "%s and its .bak are damaged and give nothing: %s", doc->name, doc->without);
    zk_state_set_aside(zl_str(doc->name));
    return status == ZR_OK ? ZB_FROM_PART : ZB_FROM_NOTHING;
}

zr_status zb_table_load(const struct zb_table_doc *doc, uint32_t *ret_from)
{
    struct load load = { doc, ZR_OK };
    uint32_t backup = 0;
    zl_buf_init(doc->more, DOCUMENT_MORE_MAX);
    zr_status status = zk_state_read_from(zl_str(doc->name), load_accept, &load, &backup);
    *ret_from = status == ZR_ENOENT ? ZB_FROM_NOTHING : backup ? ZB_FROM_BACKUP : ZB_FROM_ITSELF;
    if (status != ZR_OK && status != ZR_ENOENT)
        *ret_from = load_part(doc, &load);
    if (load.status == ZR_EFULL)
        zk_err_raise(load.status, 0, "%s holds more %s than %s (%lld) allows", doc->name, doc->what, doc->limit_name, (long long)doc->limit);
    return load.status;
}
