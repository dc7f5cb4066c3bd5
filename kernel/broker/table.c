/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - what the tables of topics, groups and offsets have in common: texts in one block, data versions, and reading a
 * document of entries under one member, with its journal.
 *
 * Rows of a journal look like the document, with "removed" for the names that are there no more; they are taken over what the
 * document says. Where somebody else has written the document since (an Apache broker, or a person: see journal.h), it is believed:
 * then only names are taken that are in no document at all, so that what was answered for is not lost. */
#include "broker/internal.h"
#include "broker/journal.h"

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

struct load { const struct zb_table_doc *doc; zr_status status; struct zb_doc_print print; };

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
    load->print = zb_journal_print(bytes);
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

/* ---- the journal ---- */
struct replay {
    const struct zb_table_doc *doc;
    uint32_t believed;  /* the document is somebody else's */
    uint32_t taken;
    struct zb_map mine; /* names that came from the journal, where it is */
    zr_status status;
};

/* The keys are copies. */
static void mine_free(struct zb_map *m)
{
    uint64_t at = 0;
    for (void *p; (p = zb_map_next(m, &at));)
        free(p);
    zb_map_free(m);
}

static uint32_t is_mine(const struct replay *p, struct zr_str name)
{
    return zb_map_get(&p->mine, zb_hash(name), name) != NULL;
}

static void mine_add(struct replay *p, struct zr_str name)
{
    char *copy = is_mine(p, name) ? NULL : malloc(name.len + 1);
    if (!copy)
        return;
    memcpy(copy, name.ptr, name.len);
    if (zb_map_put(&p->mine, zb_hash(name), (struct zr_str){ copy, name.len }, copy) != ZR_OK)
        free(copy);
}

static void replay_entry(struct replay *p, const struct zl_json *e)
{
    if (e->kind != ZL_JSON_OBJECT || e->key.len == 0)
        return;
    if (p->believed && p->doc->has(e->key) && !is_mine(p, e->key))
        return;
    if (p->believed)
        mine_add(p, e->key);
    p->status = p->doc->entry(e);
    p->taken++;
}

static void replay_removed(struct replay *p, struct zr_str name)
{
    if (name.len == 0 || (p->believed && !is_mine(p, name)))
        return;
    free(zb_map_del(&p->mine, zb_hash(name), name));
    p->doc->gone(name);
    p->taken++;
}

static zr_status replay_rows(void *ctx, uint32_t known, struct zr_span rows)
{
    struct replay *p = ctx;
    struct zl_json_doc *json;
    const struct zl_json *root;
    struct zr_data_version version;
    uint64_t at;
    zr_status status = zl_json_parse((struct zr_str){ (const char *)rows.ptr, rows.len }, &json, &root, &at);
    if (status == ZR_ENOMEM)
        return status;
    if (status != ZR_OK) { /* its checksum is right: not by damage */
        zk_log(ZR_LOG_ERROR, "the journal of %s holds a row that is not understood; it is left out", p->doc->name);
        return ZR_OK;
    }
    p->believed &= !known;
    const struct zl_json *table = zl_json_get(root, p->doc->member), *removed = zl_json_get(root, "removed");
    for (const struct zl_json *e = table ? table->child : NULL; e && p->status == ZR_OK; e = e->next)
        replay_entry(p, e);
    for (const struct zl_json *e = removed ? removed->child : NULL; e; e = e->next)
        replay_removed(p, zl_json_str(e));
    if (p->doc->rest && !p->believed)
        p->doc->rest(root);
    zb_version_read(zl_json_get(root, "dataVersion"), &version);
    if (!p->believed && version.counter > p->doc->version->counter)
        *p->doc->version = version;
    zl_json_free(json);
    return p->status;
}

static zr_status load_journal(const struct zb_table_doc *doc, struct zb_doc_print print, uint32_t *from)
{
    struct replay p = { .doc = doc, .believed = *from == ZB_FROM_ITSELF };
    uint32_t known, which = p.believed ? ZB_ROWS_UNPLACED : ZB_ROWS_ALL;
    zr_status status = zb_doc_read_journal(doc->document, print, which, replay_rows, &p, &known, doc->ret_journal);
    if (*doc->ret_journal && known && *from == ZB_FROM_BACKUP)
        *from = ZB_FROM_ITSELF; /* with its journal it is as new */
    if (p.taken && p.believed)
        zk_log(ZR_LOG_WARN, "%s was written by somebody else since: of its journal only %u changes to %s that it does not know are taken",
               doc->name, p.taken, doc->what);
    else if (p.taken)
        zk_log(ZR_LOG_INFO, "%u changes to %s came after %s was written, and are taken from its journal", p.taken, doc->what, doc->name);
    mine_free(&p.mine);
    return status;
}

zr_status zb_table_load(const struct zb_table_doc *doc, uint32_t *ret_from)
{
    struct load load = { .doc = doc };
    uint32_t backup = 0;
    zl_buf_init(doc->more, DOCUMENT_MORE_MAX);
    zr_status status = zk_state_read_from(zl_str(doc->name), load_accept, &load, &backup);
    *ret_from = status == ZR_ENOENT ? ZB_FROM_NOTHING : backup ? ZB_FROM_BACKUP : ZB_FROM_ITSELF;
    if (status != ZR_OK && status != ZR_ENOENT)
        *ret_from = load_part(doc, &load);
    if (load.status == ZR_OK && doc->has)
        load.status = load_journal(doc, *ret_from == ZB_FROM_PART ? (struct zb_doc_print){ 0, 0 } : load.print, ret_from);
    if (load.status == ZR_EFULL)
        zk_err_raise(load.status, 0, "%s holds more %s than %s (%lld) allows", doc->name, doc->what, doc->limit_name, (long long)doc->limit);
    return load.status;
}
