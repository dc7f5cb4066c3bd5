/* SPDX-License-Identifier: Apache-2.0 */
/* tables.c - the host's own full-size copies of interface tables: what an older plugin does not know of, or left empty, is a
 * function that answers ZR_ENOTSUP (or does nothing). After this nobody has to look at sizes or NULL before a call. */
#include "config/tree.h"
#include "plugin/plugin.h"

#define TABLE_MAX (64u << 10)
#define ITEM_MAX 1024u

/* ---- transport ---- */
static uint32_t no_lanes(struct zr_inst *i) { return (void)i, 0u; }
static uint32_t no_listeners(struct zr_inst *i, const struct zr_listener **ret) { return (void)i, *ret = NULL, 0u; }
static void no_bind(struct zr_inst *i, const struct zr_sink_v1 *sink) { (void)i, (void)sink; }
static zr_status no_send(struct zr_inst *i, struct zr_conn *c, const struct zr_output *out)
{
    (void)i, (void)c;
    if (out->done) /* exactly once, also when refused */
        out->done(out->done_ctx, ZR_ENOTSUP);
    return ZR_ENOTSUP;
}
static uint64_t no_queued(struct zr_inst *i, struct zr_conn *c) { return (void)i, (void)c, 0u; }
static void no_close(struct zr_inst *i, struct zr_conn *c, uint32_t flush) { (void)i, (void)c, (void)flush; }
static void no_release(struct zr_inst *i, struct zr_conn *c) { (void)i, (void)c; }
static void no_wake(struct zr_inst *i, uint32_t lane) { (void)i, (void)lane; }
static zr_status no_dial(struct zr_inst *i, struct zr_str url, int64_t t, void *ctx) { return (void)i, (void)url, (void)t, (void)ctx, ZR_ENOTSUP; }

/* ---- storage ---- */
static void no_append(struct zr_inst *i, const struct zr_msg *msgs, uint32_t n, struct zr_put *puts, int64_t *ret_end)
{
    (void)i, (void)msgs;
    for (uint32_t k = 0; k < n; k++)
        ((struct zr_put *)(void *)((char *)puts + (uint64_t)k * puts->hdr.size))->status = ZR_ENOTSUP;
    *ret_end = 0;
}
static void no_want_flushed(struct zr_inst *i, int64_t p) { (void)i, (void)p; }
static struct zr_queue *no_queue(struct zr_inst *i, struct zr_str t, int32_t q, uint32_t create) { return (void)i, (void)t, (void)q, (void)create, NULL; }
static void no_bounds(struct zr_inst *i, struct zr_queue *q, int64_t *min, int64_t *max) { (void)i, (void)q, *min = *max = 0; }
static zr_status no_read(struct zr_inst *i, const struct zr_read *r, struct zr_read_result *ret) { return (void)i, (void)r, (void)ret, ZR_ENOTSUP; }
static void no_unpin(struct zr_inst *i, uint64_t pin) { (void)i, (void)pin; }
static zr_status no_offset_at(struct zr_inst *i, struct zr_queue *q, int64_t ms, uint32_t up, int64_t *ret)
{
    return (void)i, (void)q, (void)ms, (void)up, *ret = 0, ZR_ENOTSUP;
}
static zr_status no_time_at(struct zr_inst *i, struct zr_queue *q, int64_t off, int64_t *ret) { return (void)i, (void)q, (void)off, *ret = 0, ZR_ENOTSUP; }
static uint32_t no_resident(struct zr_inst *i, struct zr_queue *q, int64_t off) { return (void)i, (void)q, (void)off, 0u; }
static uint32_t no_entries(struct zr_inst *i, struct zr_queue *q, int64_t off, int64_t *ph, uint32_t *sz, int64_t *tags, uint32_t cap)
{
    return (void)i, (void)q, (void)off, (void)ph, (void)sz, (void)tags, (void)cap, 0u;
}
static void no_each_queue(struct zr_inst *i, int32_t (*each)(void *, struct zr_str, int32_t, struct zr_queue *), void *ctx) { (void)i, (void)each, (void)ctx; }
static zr_status no_remove_topic(struct zr_inst *i, struct zr_str t) { return (void)i, (void)t, ZR_ENOTSUP; }
static zr_status no_record_at(struct zr_inst *i, int64_t ph, struct zr_piece *piece, uint64_t *pin) { return (void)i, (void)ph, (void)piece, *pin = 0, ZR_ENOTSUP; }
static int32_t no_find_key(struct zr_inst *i, struct zr_str t, struct zr_str k, uint32_t u, int64_t b, int64_t e, int64_t *ph, uint32_t cap)
{
    return (void)i, (void)t, (void)k, (void)u, (void)b, (void)e, (void)ph, (void)cap, ZR_ENOTSUP;
}
/* The caller's struct is zeroed behind its header by the one who asks; nothing to say. */
static void no_info(struct zr_inst *i, struct zr_storage_info *ret) { (void)i, (void)ret; }
static zr_status no_read_ahead(struct zr_inst *i, uint32_t on) { return (void)i, (void)on, ZR_ENOTSUP; }
static zr_status no_clean(struct zr_inst *i, uint64_t *ret) { return (void)i, *ret = 0, ZR_ENOTSUP; }

/* ---- registry ---- */
static void no_changed(struct zr_inst *i, const struct zr_str *t, uint32_t n, void (*done)(void *, zr_status), void *ctx)
{
    (void)i, (void)t, (void)n;
    if (done)
        done(ctx, ZR_OK); /* nobody is told, so nobody has to be waited for */
}
static void no_removed(struct zr_inst *i, struct zr_str t) { (void)i, (void)t; }
static void no_lookup(struct zr_inst *i, struct zr_str t, void (*route)(void *, zr_status, const struct zr_route *), void *ctx)
{
    (void)i, (void)t;
    route(ctx, ZR_ENOENT, NULL);
}

/* ---- filter ---- */
static zr_status no_compile(struct zr_inst *i, const struct zr_expression *e, struct zr_prog **p, uint64_t *at) { return (void)i, (void)e, *p = NULL, *at = 0, ZR_ENOTSUP; }
static void no_by_tags(const struct zr_prog *p, const int64_t *codes, uint32_t n, uint8_t *v) { (void)p, (void)codes, memset(v, ZR_MATCH_NO, n); }
static uint32_t no_by_properties(const struct zr_prog *p, struct zr_span props) { return (void)p, (void)props, ZR_MATCH_NO; }
static void no_free_prog(struct zr_prog *p) { (void)p; }

/* ---- taking a copy ------------------------------------------------------------------------------------------------------------- */

static zr_status refuse(const struct zk_instance *in, const char *iface, const char *why)
{
    zk_err_raise(ZR_EINVAL, 0, "L16: the table %s of %s %s", iface, in->id, why);
    return ZR_EINVAL;
}

/* A zeroed block of `own` bytes with what the plugin has of it; NULL: refused. */
static void *copy_of(struct zk_instance *in, const char *iface, uint64_t own)
{
    const struct zr_hdr *theirs = in->plugin->query(in->inst, iface);
    if (!theirs) {
        refuse(in, iface, "is provided by its note but not by its query");
        return NULL;
    }
    if (theirs->size < sizeof *theirs || theirs->size > TABLE_MAX) {
        refuse(in, iface, "states an impossible size");
        return NULL;
    }
    if (theirs->flags & 0xffu) {
        refuse(in, iface, "has must-understand flags that this kernel does not know");
        return NULL;
    }
    struct zr_hdr *copy = zk_conf_alloc(own);
    memcpy(copy, theirs, theirs->size < own ? theirs->size : own);
    copy->size = (uint32_t)own;
    return copy;
}

#define FILL(table, slot) ((table)->slot = (table)->slot ? (table)->slot : no_##slot)

static zr_status take_transport(struct zk_instance *in)
{
    static const char *const no_schemes[] = { NULL };
    struct zr_transport_v1 *t = copy_of(in, ZR_IF_TRANSPORT, sizeof *t);
    if (!t)
        return ZR_EINVAL;
    FILL(t, lanes), FILL(t, listeners), FILL(t, bind), FILL(t, send), FILL(t, queued), FILL(t, close), FILL(t, release), FILL(t, wake), FILL(t, dial);
    t->schemes = t->schemes ? t->schemes : no_schemes;
    in->transport = t;
    return ZR_OK;
}

static zr_status take_storage(struct zk_instance *in)
{
    struct zr_storage_v1 *t = copy_of(in, ZR_IF_STORAGE, sizeof *t);
    if (!t)
        return ZR_EINVAL;
    FILL(t, append), FILL(t, want_flushed), FILL(t, queue), FILL(t, bounds), FILL(t, read), FILL(t, unpin), FILL(t, offset_at), FILL(t, time_at);
    FILL(t, resident), FILL(t, entries), FILL(t, each_queue), FILL(t, remove_topic), FILL(t, record_at), FILL(t, find_key), FILL(t, info), FILL(t, clean), FILL(t, read_ahead);
    in->storage = t;
    return ZR_OK;
}

static zr_status take_registry(struct zk_instance *in)
{
    struct zr_registry_v1 *t = copy_of(in, ZR_IF_REGISTRY, sizeof *t);
    if (!t)
        return ZR_EINVAL;
    FILL(t, changed), FILL(t, removed), FILL(t, lookup);
    in->registry = t;
    return ZR_OK;
}

static zr_status take_filter(struct zk_instance *in)
{
    static const char *const no_languages[] = { NULL };
    struct zr_filter_v1 *t = copy_of(in, ZR_IF_FILTER, sizeof *t);
    if (!t)
        return ZR_EINVAL;
    FILL(t, compile), FILL(t, by_tags), FILL(t, by_properties), FILL(t, free_prog);
    t->languages = t->languages ? t->languages : no_languages;
    in->filter = t;
    return ZR_OK;
}

/* Lists of items that grow by their first element's size. `least` is what ABI 1.0 has of an item. */
static zr_status check_items(const struct zk_instance *in, const char *iface, const struct zr_hdr *items, uint32_t n, uint64_t least)
{
    if (n > ITEM_MAX)
        return refuse(in, iface, "has more than 1024 items");
    if (n > 0 && (!items || items->size < least || items->size % 8 != 0 || items->size > TABLE_MAX))
        return refuse(in, iface, "has items of an impossible size");
    for (uint32_t i = 0; i < n; i++)
        if (((const struct zr_hdr *)(const void *)((const char *)items + (uint64_t)i * items->size))->flags & 0xffu)
            return refuse(in, iface, "has an item with must-understand flags that this kernel does not know");
    return ZR_OK;
}

#define ITEM(type, items, i) ((const type *)(const void *)((const char *)(items) + (uint64_t)(i) * (items)->hdr.size))

static zr_status take_hooks(struct zk_instance *in)
{
    struct zr_hooks_v1 *t = copy_of(in, ZR_IF_HOOKS, sizeof *t);
    if (!t || check_items(in, ZR_IF_HOOKS, (const struct zr_hdr *)t->hooks, t->n_hooks, sizeof(struct zr_hook)) != ZR_OK)
        return ZR_EINVAL;
    for (uint32_t i = 0; i < t->n_hooks; i++) {
        const struct zr_hook *h = ITEM(struct zr_hook, t->hooks, i);
        if (!h->call || h->klass < ZR_CLASS_OBSERVE || h->klass > ZR_CLASS_TRANSFORM || (h->n_codes > 0 && !h->codes))
            return refuse(in, ZR_IF_HOOKS, "has a hook without a function or of an unknown class");
    }
    in->hooks = t;
    return ZR_OK;
}

static zr_status take_requests(struct zk_instance *in)
{
    struct zr_requests_v1 *t = copy_of(in, ZR_IF_REQUESTS, sizeof *t);
    if (!t || check_items(in, ZR_IF_REQUESTS, (const struct zr_hdr *)t->handlers, t->n_handlers, sizeof(struct zr_handler)) != ZR_OK)
        return ZR_EINVAL;
    for (uint32_t i = 0; i < t->n_handlers; i++)
        if (!ITEM(struct zr_handler, t->handlers, i)->handle || !ITEM(struct zr_handler, t->handlers, i)->name)
            return refuse(in, ZR_IF_REQUESTS, "has a handler without a function or a name");
    in->requests = t;
    return ZR_OK;
}

static zr_status take_commands(struct zk_instance *in)
{
    struct zr_commands_v1 *t = copy_of(in, ZR_IF_COMMANDS, sizeof *t);
    if (!t || check_items(in, ZR_IF_COMMANDS, (const struct zr_hdr *)t->verbs, t->n_verbs, sizeof(struct zr_verb)) != ZR_OK)
        return ZR_EINVAL;
    for (uint32_t i = 0; i < t->n_verbs; i++)
        if (!ITEM(struct zr_verb, t->verbs, i)->run || !ITEM(struct zr_verb, t->verbs, i)->name)
            return refuse(in, ZR_IF_COMMANDS, "has a verb without a function or a name");
    in->commands = t;
    return ZR_OK;
}

static const struct { const char *iface; zr_status (*take)(struct zk_instance *in); size_t at; } known[] = {
    { ZR_IF_TRANSPORT, take_transport, offsetof(struct zk_instance, transport) },
    { ZR_IF_STORAGE, take_storage, offsetof(struct zk_instance, storage) },
    { ZR_IF_REGISTRY, take_registry, offsetof(struct zk_instance, registry) },
    { ZR_IF_FILTER, take_filter, offsetof(struct zk_instance, filter) },
    { ZR_IF_HOOKS, take_hooks, offsetof(struct zk_instance, hooks) },
    { ZR_IF_REQUESTS, take_requests, offsetof(struct zk_instance, requests) },
    { ZR_IF_COMMANDS, take_commands, offsetof(struct zk_instance, commands) },
};
#define N_KNOWN (sizeof known / sizeof *known)

zr_status zk_tables_take(struct zk_instance *in, const char *iface_id)
{
    for (uint32_t i = 0; i < N_KNOWN; i++)
        if (strcmp(known[i].iface, iface_id) == 0)
            return known[i].take(in);
    /* Between plugins only; the kernel passes the table on as it is. */
    return in->plugin->query(in->inst, iface_id) ? ZR_OK : refuse(in, iface_id, "is provided by its note but not by its query");
}

const void *zk_tables_get(struct zk_instance *in, const char *iface_id)
{
    if (!in->inst || !zk_manifest_has(in->manifest->provides, iface_id))
        return NULL;
    for (uint32_t i = 0; i < N_KNOWN; i++)
        if (strcmp(known[i].iface, iface_id) == 0)
            return *(const void *const *)(const void *)((const char *)in + known[i].at);
    return in->plugin->query(in->inst, iface_id);
}
