/* SPDX-License-Identifier: Apache-2.0 */
/* filterdata.c - what groups filter by other than tags: config/consumerFilter.json, as Apache keeps it.
 *
 * A heartbeat's expressions of other languages than TAG (SQL92) are registered here by group and topic, and pulls are judged by
 * what is registered, not by what the live subscription says.
 *
 * What stays true:
 *   1. A registration is replaced only by one of a newer version; the same version revives a dead one. One of a newer
 *      version that cannot be compiled takes the old one away.
 *   2. A registration is dead (dead_ms >= born_ms) when its group has no member left, or no longer names the topic, and
 *      after a start until its consumer is back. Dead ones still count for rule 1, and are forgotten after
 *      filterDataCleanTimeSpan. With its consumers goes its program (but where bit maps are made for it,
 *      enableCalcFilterBitMap); it has one again when they are back.
 *   3. One whose language no plugin knows is kept, without a program, for the day when the plugin is back.
 *   4. At most MAX_DATA registrations are kept, of MAX_TEXT bytes of names and expressions in all: beyond it a new one is not taken
 *      (pulls: 27), and a newer version neither (28).
 *   5. The bloom data written are those of bits.c. Bit maps of messages stored before born_ms, or in its millisecond, do not speak for a
 *      registration; one in a file whose bloom data are of another length or number is born anew (Apache: the whole file).
 *
 * LOCKING. data_lock is a leaf and guards the table, by group and by topic, and the count of judges in use, for which a close
 * waits. Programs are compiled, and filters are let go, without it, but for the load, which is alone. */
#include "broker/internal.h"

#define MAX_DATA 100000u
#ifndef MAX_TEXT
#define MAX_TEXT (16u << 20) /* a program is some four times its expression */
#endif
#define AT_ONCE 64u /* programs that are let go in one round */
#define DEAD_AT_LOAD_MS 30000

struct data {
    struct data *next;       /* of the same group */
    struct data *topic_next; /* of the same topic */
    struct zr_bits bits;     /* its positions */
    struct zr_str group, topic, text, type;
    int64_t born_ms, dead_ms, version;
    struct zb_filter *filter; /* NULL: rule 3 */
};
struct data_group {
    struct zr_str name;
    uint64_t hash;
    struct data *first;
    struct data_group *next_empty; /* while the long dead are taken out */
};
struct data_topic {
    struct zr_str name;
    uint64_t hash;
    struct data *first;
};
static pthread_mutex_t data_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t judged_cond = PTHREAD_COND_INITIALIZER;
static struct zb_map by_group, by_topic;
static _Atomic uint32_t n_data;
static uint64_t n_text;      /* bytes of names and expressions */
static uint32_t told_full;   /* since there was room */
static uint32_t loaded, judging; /* judges are given out; calls that have some */
static uint32_t incomplete;      /* by_topic lacks some, for memory ran out: no judges any more */

/* ---- objects ---- */
static struct zr_str put(char **at, struct zr_str s)
{
    struct zr_str ret = { *at, s.len };
    if (s.len)
        memcpy(*at, s.ptr, s.len);
    *at += s.len;
    return ret;
}

static struct data *data_new(struct zr_str group, struct zr_str topic, struct zr_str text, struct zr_str type)
{
    struct data *d = calloc(1, sizeof *d + group.len + topic.len + text.len + type.len);
    if (!d)
        return NULL;
    char *at = (char *)(d + 1);
    d->group = put(&at, group);
    d->topic = put(&at, topic);
    d->text = put(&at, text);
    d->type = put(&at, type);
    d->born_ms = zk_wall_ms();
    zb_bits_of(d->group, d->topic, &d->bits);
    return d;
}

static void data_free(struct data *d)
{
    if (d)
        zb_filter_unref(d->filter);
    free(d);
}

static uint32_t is_dead(const struct data *d)
{
    return d->dead_ms >= d->born_ms;
}

/* ---- the table; under data_lock ---- */
static struct data_group *group_of(struct zr_str name, uint32_t create)
{
    uint64_t hash = zb_hash(name);
    struct data_group *g = zb_map_get(&by_group, hash, name);
    if (g || !create || !(g = calloc(1, sizeof *g + name.len)))
        return g;
    memcpy(g + 1, name.ptr, name.len);
    g->name = (struct zr_str){ (const char *)(g + 1), name.len };
    g->hash = hash;
    if (zb_map_put(&by_group, hash, g->name, g) == ZR_OK)
        return g;
    free(g);
    return NULL;
}

static struct data **place_of(struct data_group *g, struct zr_str topic)
{
    struct data **at = &g->first;
    while (*at && !zl_eq((*at)->topic, topic))
        at = &(*at)->next;
    return at;
}

static void group_end_if_empty(struct data_group *g)
{
    if (g->first)
        return;
    zb_map_del(&by_group, g->hash, g->name);
    free(g);
}

static void topic_add(struct data *d)
{
    uint64_t hash = zb_hash(d->topic);
    struct data_topic *t = zb_map_get(&by_topic, hash, d->topic);
    if (!t && (t = calloc(1, sizeof *t + d->topic.len))) {
        memcpy(t + 1, d->topic.ptr, d->topic.len);
        t->name = (struct zr_str){ (const char *)(t + 1), d->topic.len };
        t->hash = hash;
        if (zb_map_put(&by_topic, hash, t->name, t) != ZR_OK) {
            free(t);
            t = NULL;
        }
    }
    if (!t) {
        incomplete = 1;
        return;
    }
    d->topic_next = t->first;
    t->first = d;
}

static void topic_remove(struct data *d)
{
    struct data_topic *t = zb_map_get(&by_topic, zb_hash(d->topic), d->topic);
    if (!t)
        return;
    for (struct data **p = &t->first; *p; p = &(*p)->topic_next)
        if (*p == d) {
            *p = d->topic_next;
            break;
        }
    if (t->first)
        return;
    zb_map_del(&by_topic, t->hash, t->name);
    free(t);
}

static uint64_t text_of(const struct data *d)
{
    return d ? d->group.len + d->topic.len + d->text.len + d->type.len : 0;
}

static uint32_t has_room(const struct data *old, const struct data *fresh)
{
    if ((old || atomic_load(&n_data) < MAX_DATA) && n_text - text_of(old) + text_of(fresh) <= MAX_TEXT)
        return 1;
    if (!told_full)
        zk_log(ZR_LOG_WARN, "config/consumerFilter.json is full (%u registrations of %u bytes in all): the filter of group %.*s for topic "
               "%.*s is not taken, nor are others", MAX_DATA, MAX_TEXT, (int)fresh->group.len, fresh->group.ptr, (int)fresh->topic.len,
               fresh->topic.ptr);
    told_full = 1;
    return 0;
}

/* Puts fresh (may be NULL: takes away) where *at is; what has to be freed comes back. */
static struct data *replace(struct data **at, struct data *fresh)
{
    struct data *old = *at;
    if (fresh && !has_room(old, fresh))
        return fresh;
    n_text += text_of(fresh) - text_of(old);
    told_full = fresh ? told_full : 0;
    if (fresh)
        fresh->next = old ? old->next : NULL;
    *at = fresh ? fresh : old ? old->next : NULL;
    if (old)
        topic_remove(old);
    if (fresh)
        topic_add(fresh);
    if (fresh && !old)
        atomic_fetch_add(&n_data, 1);
    else if (!fresh && old)
        atomic_fetch_sub(&n_data, 1);
    return old;
}

/* ---- heartbeats ---- */
/* Its consumers are back: fresh has the program of the same words, and gets what it had. */
static void revive(struct data *old, struct data *fresh)
{
    old->dead_ms = 0;
    if (!fresh || old->filter)
        return;
    old->filter = fresh->filter;
    fresh->filter = NULL;
}

/* 1: changed. *ret_free: what the caller frees, outside the lock. */
static uint32_t register_one(struct data_group *g, const struct zb_sub *s, struct data *fresh, struct data **ret_free)
{
    struct data **at = place_of(g, s->topic), *old = *at;
    uint32_t dead = old && is_dead(old), same = old && zl_eq(old->text, s->text) && zl_eq(old->type, s->type);
    *ret_free = fresh;
    if (old && (s->version < old->version || (s->version == old->version && (same || !dead)))) {
        if (s->version == old->version && dead)
            revive(old, fresh);
        return s->version == old->version && dead;
    }
    if (old && same) {
        old->version = s->version;
        revive(old, fresh);
        return 1;
    }
    if (!old && !fresh)
        return 0;
    if (fresh && fresh->born_ms < zb_bits_newest_ms())
        fresh->born_ms = zb_bits_newest_ms(); /* maps were made without it */
    *ret_free = replace(at, fresh);
    return 1;
}

static struct data *data_of(struct zr_str group, const struct zb_sub *s)
{
    if (s->bad && !s->missing)
        return NULL;
    struct data *d = data_new(group, s->topic, s->text, s->type);
    if (d) {
        d->version = s->version;
        d->filter = zb_filter_ref(s->filter);
    }
    return d;
}

static uint32_t sub_register(struct zr_str group, const struct zb_sub *s)
{
    struct data *fresh = data_of(group, s), *unused = fresh;
    uint32_t changed = 0;
    pthread_mutex_lock(&data_lock);
    struct data_group *g = group_of(group, 1);
    if (g) {
        changed = register_one(g, s, fresh, &unused);
        group_end_if_empty(g);
    }
    pthread_mutex_unlock(&data_lock);
    data_free(unused);
    return changed;
}

static uint32_t names_topic(struct zb_sub *const *subs, uint32_t n, struct zr_str topic)
{
    for (uint32_t i = 0; i < n; i++)
        if (zl_eq(subs[i]->topic, topic))
            return 1;
    return 0;
}

/* Programs of the group's dead ones, at most AT_ONCE of them. How many; they are let go without the lock. */
static uint32_t take_programs(struct zr_str group, struct zb_filter **out)
{
    uint32_t n = 0;
    pthread_mutex_lock(&data_lock);
    struct data_group *g = group_of(group, 0);
    for (struct data *d = g ? g->first : NULL; d && n < AT_ONCE; d = d->next)
        if (is_dead(d) && d->filter) {
            out[n++] = d->filter;
            d->filter = NULL;
        }
    pthread_mutex_unlock(&data_lock);
    return n;
}

static void programs_go(struct zr_str group)
{
    struct zb_filter *out[AT_ONCE];
    uint32_t n;
    do {
        n = take_programs(group, out);
        for (uint32_t i = 0; i < n; i++)
            zb_filter_unref(out[i]);
    } while (n == AT_ONCE);
}

/* Those of the group whose topics are not among the subscriptions die. */
static uint32_t others_die(struct zr_str group, struct zb_sub *const *subs, uint32_t n)
{
    uint32_t changed = 0;
    if (!atomic_load_explicit(&n_data, memory_order_relaxed))
        return 0;
    pthread_mutex_lock(&data_lock);
    struct data_group *g = group_of(group, 0);
    for (struct data *d = g ? g->first : NULL; d; d = d->next) {
        if (is_dead(d) || names_topic(subs, n, d->topic))
            continue;
        d->dead_ms = zk_wall_ms();
        changed = 1;
    }
    pthread_mutex_unlock(&data_lock);
    if (changed && !ZB_SET(calc_bits)) /* bit maps are made for dead ones too */
        programs_go(group);
    return changed;
}

void zb_filterdata_register(struct zr_str group, struct zb_sub *const *subs, uint32_t n)
{
    uint32_t changed = 0;
    for (uint32_t i = 0; i < n; i++)
        if (!subs[i]->is_tag && subs[i]->text.len)
            changed |= sub_register(group, subs[i]);
    changed |= others_die(group, subs, n);
    if (changed)
        zb_doc_touch(ZB_DOC_FILTERS, NULL, NULL);
}

void zb_filterdata_gone(struct zr_str group)
{
    if (others_die(group, NULL, 0))
        zb_doc_touch(ZB_DOC_FILTERS, NULL, NULL);
}

/* ---- pulls ---- */
zr_status zb_filterdata_get(struct zr_str group, struct zr_str topic, int64_t version, struct zb_filter **ret,
                            struct zr_bits *ret_bits)
{
    zr_status status = ZR_ENOENT;
    *ret = NULL;
    pthread_mutex_lock(&data_lock);
    struct data_group *g = group_of(group, 0);
    struct data *d = g ? *place_of(g, topic) : NULL;
    if (d)
        status = d->version < version ? ZR_EAGAIN : d->filter ? ZR_OK : ZR_ENOTSUP;
    if (status == ZR_OK) {
        *ret = zb_filter_ref(d->filter);
        *ret_bits = d->bits;
        ret_bits->after_ms = d->born_ms;
    }
    pthread_mutex_unlock(&data_lock);
    return status;
}

/* ---- judges of bit maps ---- */
uint32_t zb_filterdata_judges(struct zr_str topic, struct zb_judge *judges, uint32_t cap)
{
    uint32_t n = 0;
    pthread_mutex_lock(&data_lock);
    struct data_topic *t = loaded && !incomplete ? zb_map_get(&by_topic, zb_hash(topic), topic) : NULL;
    for (struct data *d = t ? t->first : NULL; d; d = d->topic_next, n++)
        if (n < cap)
            judges[n] = (struct zb_judge){ d->filter, d->bits };
    n = n <= cap ? n : 0;
    for (uint32_t i = 0; i < n; i++)
        judges[i].filter = zb_filter_ref(judges[i].filter);
    judging += n > 0;
    pthread_mutex_unlock(&data_lock);
    return n;
}

void zb_filterdata_judged(struct zb_judge *judges, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        zb_filter_unref(judges[i].filter);
    pthread_mutex_lock(&data_lock);
    if (--judging == 0)
        pthread_cond_broadcast(&judged_cond);
    pthread_mutex_unlock(&data_lock);
}

/* ---- bloom data ---- */
static void bloom_print(struct zl_jw *w, const struct data *d)
{
    char list[16 * ZR_BITS_POSITIONS];
    uint32_t at = 1;
    list[0] = '[';
    for (uint32_t i = 0; i < d->bits.n_positions; i++)
        at += (uint32_t)snprintf(list + at, sizeof list - at, "%s%u", i ? "," : "", d->bits.positions[i]);
    list[at++] = ']';
    zl_jw_key(w, zl_str("bloomFilterData"));
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "bitNum", d->bits.n_bits);
    zl_jw_key(w, zl_str("bitPos"));
    zl_jw_raw(w, (struct zr_str){ list, at });
    zl_jw_end(w, '}');
}

/* Are its bloom data, as a file has them, of the kind that is made here? */
static uint32_t bloom_fits(const struct zl_json *node)
{
    const struct zl_json *b = zl_json_get(node, "bloomFilterData"), *positions = b ? zl_json_get(b, "bitPos") : NULL;
    struct zr_bits of = { .n_bits = b ? (uint32_t)zl_json_get_i64(b, "bitNum", 0) : 0 };
    if (!positions || positions->kind != ZL_JSON_ARRAY)
        return 0;
    for (const struct zl_json *p = positions->child; p && of.n_positions <= ZR_BITS_POSITIONS; p = p->next)
        of.n_positions++;
    return zb_bits_fit(&of);
}

/* ---- the document ---- */
static void data_print(struct zl_jw *w, const struct data *d)
{
    zl_jw_key(w, d->group);
    zl_jw_begin(w, '{');
    bloom_print(w, d);
    zl_jw_ki64(w, "bornTime", d->born_ms);
    zl_jw_ki64(w, "clientVersion", d->version);
    zl_jw_kstr(w, "consumerGroup", d->group);
    zl_jw_kbool(w, "dead", is_dead(d));
    zl_jw_ki64(w, "deadTime", d->dead_ms);
    zl_jw_kstr(w, "expression", d->text);
    zl_jw_kstr(w, "expressionType", d->type);
    zl_jw_kstr(w, "topic", d->topic);
    zl_jw_end(w, '}');
}

static int in_order(const void *a, const void *b)
{
    const struct data *const *x = a, *const *y = b;
    int32_t order = zl_compare((*x)->topic, (*y)->topic);
    return order ? order : zl_compare((*x)->group, (*y)->group);
}

static void topics_print(struct zl_jw *w, struct data *const *list, uint32_t n)
{
    for (uint32_t i = 0; i < n;) {
        struct zr_str topic = list[i]->topic;
        zl_jw_key(w, topic);
        zl_jw_begin(w, '{');
        zl_jw_key(w, zl_str("groupFilterData"));
        zl_jw_begin(w, '{');
        for (; i < n && zl_eq(list[i]->topic, topic); i++)
            data_print(w, list[i]);
        zl_jw_end(w, '}');
        zl_jw_kstr(w, "topic", topic);
        zl_jw_end(w, '}');
    }
}

static void take_long_dead(struct data **p, int64_t limit, struct data **out)
{
    while (*p) {
        struct data *d = *p;
        if (!is_dead(d) || d->dead_ms > limit) {
            p = &d->next;
            continue;
        }
        replace(p, NULL);
        d->next = *out;
        *out = d;
    }
}

/* Under data_lock: those long dead come out of the table, into a list. */
static struct data *forget_long_dead(void)
{
    struct data *out = NULL;
    struct data_group *empty = NULL;
    uint64_t at = 0;
    int64_t limit = zk_wall_ms() - ZB_SET(filter_clean_ms);
    for (struct data_group *g; (g = zb_map_next(&by_group, &at));) {
        take_long_dead(&g->first, limit, &out);
        if (!g->first) {
            g->next_empty = empty;
            empty = g;
        }
    }
    while (empty) {
        struct data_group *next = empty->next_empty;
        group_end_if_empty(empty);
        empty = next;
    }
    return out;
}

static void list_free(struct data *list)
{
    while (list) {
        struct data *next = list->next;
        data_free(list);
        list = next;
    }
}

void zb_filterdata_print(struct zl_buf *out)
{
    struct zl_jw w;
    uint32_t n = 0;
    uint64_t at = 0;
    zl_jw_init(&w, out, 1);
    pthread_mutex_lock(&data_lock);
    struct data *gone = forget_long_dead();
    struct data **list = malloc((atomic_load(&n_data) + 1) * sizeof(struct data *));
    for (struct data_group *g; list && (g = zb_map_next(&by_group, &at));)
        for (struct data *d = g->first; d; d = d->next)
            list[n++] = d;
    if (list)
        qsort(list, n, sizeof(struct data *), in_order);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("filterDataByTopic"));
    zl_jw_begin(&w, '{');
    topics_print(&w, list, n);
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    pthread_mutex_unlock(&data_lock);
    out->failed |= !list;
    free(list);
    list_free(gone);
}

/* ---- the load ---- */
static void data_read(const struct zl_json *node)
{
    struct zr_str group = zl_json_get_str(node, "consumerGroup"), topic = zl_json_get_str(node, "topic");
    struct zr_str text = zl_json_get_str(node, "expression"), type = zl_json_get_str(node, "expressionType");
    char why[256];
    if (!group.len || group.len > ZL_RETRY_TOPIC_MAX || !topic.len || topic.len > ZL_RETRY_TOPIC_MAX || !text.len ||
        !type.len)
        return;
    struct data *d = data_new(group, topic, text, type);
    if (!d)
        return;
    zr_status status = zb_filter_get(type, text, NULL, 0, &d->filter, why, sizeof why);
    if (status != ZR_OK && status != ZR_ENOTSUP) {
        zk_log(ZR_LOG_WARN, "config/consumerFilter.json: \"%.*s\" of group %.*s for topic %.*s is dropped: %s",
               (int)(text.len > 200 ? 200 : text.len), text.ptr, (int)group.len, group.ptr, (int)topic.len, topic.ptr, why);
        data_free(d);
        return;
    }
    int64_t now = zk_wall_ms();
    d->born_ms = zl_json_get_i64(node, "bornTime", now);
    d->version = zl_json_get_i64(node, "clientVersion", 0);
    d->dead_ms = zl_json_get_i64(node, "deadTime", 0);
    if (!bloom_fits(node)) {
        d->dead_ms = d->dead_ms >= d->born_ms && d->dead_ms > 0 ? now : 0;
        d->born_ms = now;
    }
    if (d->dead_ms == 0)
        d->dead_ms = now - DEAD_AT_LOAD_MS > d->born_ms ? now - DEAD_AT_LOAD_MS : d->born_ms;
    struct data_group *g = group_of(group, 1);
    data_free(g ? replace(place_of(g, topic), d) : d);
}

static zr_status filters_accept(void *ctx, struct zr_span bytes)
{
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at = 0;
    zr_status status = zl_json_parse((struct zr_str){ (const char *)bytes.ptr, bytes.len }, &doc, &root, &at);
    (void)ctx;
    if (status != ZR_OK)
        return status;
    const struct zl_json *topics = zl_json_get(root, "filterDataByTopic");
    status = root->kind == ZL_JSON_OBJECT && topics && topics->kind == ZL_JSON_OBJECT ? ZR_OK : ZR_EINVAL;
    for (const struct zl_json *t = status == ZR_OK ? topics->child : NULL; t; t = t->next) {
        const struct zl_json *groups = zl_json_get(t, "groupFilterData");
        for (const struct zl_json *g = groups && groups->kind == ZL_JSON_OBJECT ? groups->child : NULL; g; g = g->next)
            data_read(g);
    }
    zl_json_free(doc);
    return status;
}

/* A file that cannot be read loses nothing for good: consumers register again with their next heartbeat. */
void zb_filterdata_load(void)
{
    zr_status status = zk_state_read(zl_str("config/consumerFilter.json"), filters_accept, NULL);
    pthread_mutex_lock(&data_lock);
    loaded = 1;
    pthread_mutex_unlock(&data_lock);
    if (status != ZR_OK && status != ZR_ENOENT)
        zk_log(ZR_LOG_WARN, "config/consumerFilter.json cannot be read, and neither can its .bak; it is begun anew");
}

void zb_filterdata_close(void)
{
    uint64_t at = 0;
    pthread_mutex_lock(&data_lock);
    loaded = 0;
    while (judging)
        pthread_cond_wait(&judged_cond, &data_lock);
    pthread_mutex_unlock(&data_lock);
    for (struct data_group *g; (g = zb_map_next(&by_group, &at));) {
        list_free(g->first);
        free(g);
    }
    at = 0;
    for (struct data_topic *t; (t = zb_map_next(&by_topic, &at));)
        free(t);
    zb_map_free(&by_group);
    zb_map_free(&by_topic);
    incomplete = 0;
    n_text = told_full = 0;
    atomic_store(&n_data, 0);
}
