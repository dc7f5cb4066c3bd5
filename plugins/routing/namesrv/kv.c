/* SPDX-License-Identifier: Apache-2.0 */
/* kv.c - the KV configuration: namespace -> key -> value, kept in one JSON document as Apache writes it
 * ({"configTable":{"ns":{"k":"v"}}}).
 *
 * A change answers when a document that contains it is durable. Changes that come while one is being written share the next one:
 * the first becomes the writer, the others wait for it (they are on worker threads).
 *
 * LOCKING: the table under inst->lock; kv_gen, kv_saved, kv_failed, kv_why, kv_saving under inst->small. kv_gen grows with small held inside
 * lock's write side, so a document made under lock holds every change up to the kv_gen read there. */
#include <stdio.h>
#include <stdlib.h>
#include "namesrv.h"

struct kv_item { struct ns_node node; struct zr_str value; };
struct kv_space { struct ns_node node; struct ns_map items; };

static struct kv_space *kv_space_get(struct zr_inst *inst, struct zr_str name) { return (struct kv_space *)ns_map_get(&inst->kv, name); }

struct zr_str ns_kv_peek(struct zr_inst *inst, struct zr_str space, struct zr_str key)
{
    struct kv_space *s = kv_space_get(inst, space);
    struct kv_item *item = s ? (struct kv_item *)ns_map_get(&s->items, key) : NULL;
    return item ? item->value : (struct zr_str){ NULL, 0 };
}

static void kv_item_free(struct kv_item *item)
{
    free((char *)item->node.key.ptr);
    free((char *)item->value.ptr);
    free(item);
}

static struct kv_space *kv_space_make(struct zr_inst *inst, struct zr_str name)
{
    struct kv_space *space = kv_space_get(inst, name);
    if (space)
        return space;
    space = calloc(1, sizeof *space);
    if (!space || !(space->node.key = ns_dup(name)).ptr || ns_map_put(&inst->kv, &space->node) != ZR_OK) {
        if (space)
            free((char *)space->node.key.ptr);
        free(space);
        return NULL;
    }
    inst->kv_bytes += name.len;
    return space;
}

/* Puts without saving; write lock held. */
static zr_status kv_set(struct zr_inst *inst, struct zr_str name, struct zr_str key, struct zr_str value)
{
    if (value.len > NS_MAX_KV_VALUE || inst->kv_bytes + name.len + key.len + value.len > NS_MAX_KV_BYTES)
        return ZR_EFULL;
    struct kv_space *space = kv_space_make(inst, name);
    struct kv_item *item = space ? (struct kv_item *)ns_map_get(&space->items, key) : NULL;
    struct zr_str copy = ns_dup(value);
    if (!space || !copy.ptr) {
        free((char *)copy.ptr);
        return ZR_ENOMEM;
    }
    if (!item) {
        if (!(item = calloc(1, sizeof *item)) || !(item->node.key = ns_dup(key)).ptr || ns_map_put(&space->items, &item->node) != ZR_OK) {
            if (item)
                free((char *)item->node.key.ptr);
            free(item);
            free((char *)copy.ptr);
            return ZR_ENOMEM;
        }
        inst->kv_bytes += key.len;
    }
    inst->kv_bytes += copy.len - item->value.len;
    free((char *)item->value.ptr);
    item->value = copy;
    return ZR_OK;
}

/* ---- the document ----------------------------------------------------------------------------------------------------- */

static void kv_print_items(struct zl_jw *w, const struct kv_space *space)
{
    uint64_t at;
    zl_jw_begin(w, '{');
    for (struct ns_node *node = ns_map_first(&space->items, &at); node; node = ns_map_after(&space->items, node, &at)) {
        zl_jw_key(w, node->key);
        zl_jw_str(w, ((struct kv_item *)node)->value);
    }
    zl_jw_end(w, '}');
}

static void kv_print(struct zr_inst *inst, struct zl_buf *out)
{
    struct zl_jw w;
    uint64_t at;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, (struct zr_str)ZR_STR("configTable"));
    zl_jw_begin(&w, '{');
    for (struct ns_node *node = ns_map_first(&inst->kv, &at); node; node = ns_map_after(&inst->kv, node, &at)) {
        zl_jw_key(&w, node->key);
        kv_print_items(&w, (struct kv_space *)node);
    }
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
}

static zr_status kv_accept(void *ctx, struct zr_span bytes)
{
    struct zr_inst *inst = ctx;
    struct zl_json_doc *doc;
    const struct zl_json *root, *table;
    uint64_t at;
    zr_status status = zl_json_parse((struct zr_str){ (const char *)bytes.ptr, bytes.len }, &doc, &root, &at);
    if (status != ZR_OK)
        return status;
    table = zl_json_get(root, "configTable");
    if (!table || table->kind != ZL_JSON_OBJECT)
        status = ZR_EINVAL;
    pthread_rwlock_wrlock(&inst->lock);
    for (const struct zl_json *space = status == ZR_OK ? table->child : NULL; space && status == ZR_OK; space = space->next)
        for (const struct zl_json *item = space->child; item && status == ZR_OK; item = item->next)
            status = kv_set(inst, space->key, item->key, zl_json_str(item));
    pthread_rwlock_unlock(&inst->lock);
    zl_json_free(doc);
    return status;
}

/* A kvConfig.json of Apache's that lies outside the data directory: read once, when there is no document of our own yet. */
static zr_status kv_take_over(struct zr_inst *inst)
{
    FILE *file = inst->kv_given.ptr[0] == '/' ? fopen(inst->kv_given.ptr, "re") : NULL;
    zr_status status = ZR_OK;
    struct zl_buf text;
    if (!file)
        return ZR_OK;
    zl_buf_init(&text, 8ull * NS_MAX_KV_BYTES);
    for (uint8_t *room; (room = zl_buf_reserve(&text, 65536));) {
        size_t n = fread(room, 1, 65536, file);
        if (n == 0)
            break;
        text.len += n;
    }
    if (text.failed || ferror(file))
        status = ZR_EIO;
    else if (text.len > 0)
        status = kv_accept(inst, zl_buf_as_span(&text));
    if (status == ZR_OK)
        ns_log(inst, ZR_LOG_INFO, "KV configuration taken over from %s; it is kept in %s/%s", inst->kv_given.ptr, inst->host->data_dir, inst->set.kv_path.ptr);
    zl_buf_free(&text);
    fclose(file);
    return status;
}

zr_status ns_kv_load(struct zr_inst *inst)
{
    zr_status status = inst->state->read(inst->host, inst->set.kv_path, kv_accept, inst);
    return status == ZR_ENOENT ? kv_take_over(inst) : status;
}

/* One document with everything up to *ret_gen. */
static zr_status kv_write(struct zr_inst *inst, uint64_t *ret_gen)
{
    struct zl_buf doc;
    zl_buf_init(&doc, 8ull * NS_MAX_KV_BYTES);
    pthread_rwlock_rdlock(&inst->lock);
    pthread_mutex_lock(&inst->small);
    *ret_gen = inst->kv_gen;
    pthread_mutex_unlock(&inst->small);
    kv_print(inst, &doc);
    pthread_rwlock_unlock(&inst->lock);
    zr_status status = doc.failed ? ZR_ENOMEM : inst->state->write(inst->host, inst->set.kv_path, zl_buf_as_span(&doc));
    zl_buf_free(&doc);
    return status;
}

/* Returns when change mine is durable, or the write that held it failed. */
static zr_status kv_save(struct zr_inst *inst, uint64_t mine)
{
    zr_status status = ZR_OK;
    pthread_mutex_lock(&inst->small);
    while (inst->kv_saved < mine && inst->kv_failed < mine) {
        if (inst->kv_saving) {
            pthread_cond_wait(&inst->changed, &inst->small);
            continue;
        }
        uint64_t gen = 0;
        inst->kv_saving = 1;
        pthread_mutex_unlock(&inst->small);
        status = kv_write(inst, &gen);
        pthread_mutex_lock(&inst->small);
        *(status == ZR_OK ? &inst->kv_saved : &inst->kv_failed) = gen;
        if (status != ZR_OK)
            inst->kv_why = status == ZR_EFULL ? ZR_EAGAIN : status; /* a disk has no limit of ours */
        inst->kv_saving = 0;
        pthread_cond_broadcast(&inst->changed);
    }
    status = inst->kv_saved < mine ? inst->kv_why : ZR_OK;
    pthread_mutex_unlock(&inst->small);
    return status;
}

static uint64_t kv_changed(struct zr_inst *inst)
{
    inst->gen++; /* routes may show an order configuration */
    pthread_mutex_lock(&inst->small);
    uint64_t mine = ++inst->kv_gen;
    pthread_mutex_unlock(&inst->small);
    return mine;
}

/* ---- requests --------------------------------------------------------------------------------------------------------- */

zr_status ns_kv_put(struct zr_inst *inst, struct zr_str space, struct zr_str key, struct zr_str value)
{
    uint64_t mine = 0;
    pthread_rwlock_wrlock(&inst->lock);
    zr_status status = kv_set(inst, space, key, value);
    if (status == ZR_OK)
        mine = kv_changed(inst);
    pthread_rwlock_unlock(&inst->lock);
    return status == ZR_OK ? kv_save(inst, mine) : status;
}

zr_status ns_kv_delete(struct zr_inst *inst, struct zr_str name, struct zr_str key)
{
    uint64_t mine = 0;
    pthread_rwlock_wrlock(&inst->lock);
    struct kv_space *space = kv_space_get(inst, name);
    struct kv_item *item = space ? (struct kv_item *)ns_map_get(&space->items, key) : NULL;
    if (item) {
        inst->kv_bytes -= key.len + item->value.len;
        ns_map_remove(&space->items, &item->node);
        kv_item_free(item);
        mine = kv_changed(inst);
    }
    pthread_rwlock_unlock(&inst->lock);
    return mine ? kv_save(inst, mine) : ZR_OK;
}

zr_status ns_kv_get(struct zr_inst *inst, struct zr_str space, struct zr_str key, struct zl_buf *out)
{
    pthread_rwlock_rdlock(&inst->lock);
    struct zr_str value = ns_kv_peek(inst, space, key);
    if (value.ptr)
        zl_buf_str(out, value);
    pthread_rwlock_unlock(&inst->lock);
    return !value.ptr ? ZR_ENOENT : out->failed ? ZR_ENOMEM : ZR_OK;
}

zr_status ns_kv_list(struct zr_inst *inst, struct zr_str name, struct zl_buf *out)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    pthread_rwlock_rdlock(&inst->lock);
    struct kv_space *space = kv_space_get(inst, name);
    if (space) {
        zl_jw_begin(&w, '{');
        zl_jw_key(&w, (struct zr_str)ZR_STR("table"));
        kv_print_items(&w, space);
        zl_jw_end(&w, '}');
    }
    pthread_rwlock_unlock(&inst->lock);
    return !space ? ZR_ENOENT : out->failed ? ZR_ENOMEM : ZR_OK;
}

void ns_kv_free(struct zr_inst *inst)
{
    uint64_t at, inner;
    for (struct ns_node *node = ns_map_first(&inst->kv, &at), *next; node; node = next) {
        struct kv_space *space = (struct kv_space *)node;
        next = ns_map_after(&inst->kv, node, &at);
        for (struct ns_node *item = ns_map_first(&space->items, &inner), *after; item; item = after) {
            after = ns_map_after(&space->items, item, &inner);
            kv_item_free((struct kv_item *)item);
        }
        ns_map_free(&space->items);
        free((char *)node->key.ptr);
        free(space);
    }
    ns_map_free(&inst->kv);
    inst->kv_bytes = 0;
}
