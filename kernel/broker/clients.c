/* SPDX-License-Identifier: Apache-2.0 */
/* clients.c - who is here: live groups of consumers and of producers, by connection.
 *
 * What stays true:
 *   1. The key of a member is its connection (zb_peer), not its client id; a peer is at most once in a group.
 *   2. A live group without members does not exist.
 *      zb.members has each member by group and peer, so that the cost of one does not grow with the groups of its connection.
 *   3. A member's peer is not closed; session_closed takes all members of a peer out before it marks the end.
 *   4. The type, model and starting point of a group are those of its last heartbeat; so are its subscriptions (a
 *      topic that the last full heartbeat does not name is gone for the whole group, as with Apache).
 *   5. Members are told (code 40) of every change of members or of the set of topics, before the heartbeat that
 *      caused it is answered, unless the group's config or the broadcasting model says otherwise.
 *
 * LOCKING. zb.clients_lock (readers and a writer) guards everything here. Nothing is sent, and no hook is run, with
 * it held: sessions to be told are held and told afterwards. */
#include "broker/internal.h"

/* ---- peers ---- */
struct zb_peer *zb_peer_ref(struct zb_peer *peer)
{
    atomic_fetch_add_explicit(&peer->refs, 1, memory_order_relaxed);
    return peer;
}

void zb_peer_unref(struct zb_peer *peer)
{
    if (peer && atomic_fetch_sub(&peer->refs, 1) == 1)
        free(peer);
}

struct zb_peer *zb_peer_of(struct zr_session *session)
{
    struct zb_peer *p = zk_session_broker(session);
    if (p)
        return p;
    p = calloc(1, sizeof *p);
    if (!p)
        return NULL;
    atomic_init(&p->refs, 1);
    p->session = session;
    zk_session_set_broker(session, p);
    return p;
}

/* ---- subscriptions ---- */
static struct zr_str text_put(char **at, struct zr_str s)
{
    struct zr_str ret = { *at, s.len };
    if (s.len)
        memcpy(*at, s.ptr, s.len);
    *at += s.len;
    return ret;
}

struct zb_sub *zb_sub_new(const struct zr_subscription *conf)
{
    char why[512];
    uint64_t size = sizeof(struct zb_sub) + conf->n_tags * sizeof(struct zr_str) + conf->n_codes * sizeof(int32_t) +
                    conf->topic.len + conf->text.len + conf->expression_type.len;
    for (uint32_t i = 0; i < conf->n_tags; i++)
        size += conf->tags[i].len;
    struct zb_sub *s = calloc(1, size);
    if (!s)
        return NULL;
    atomic_init(&s->refs, 1);
    s->tags = (struct zr_str *)(void *)(s + 1);
    s->codes = (int32_t *)(void *)(s->tags + conf->n_tags);
    char *at = (char *)(s->codes + conf->n_codes);
    s->n_tags = conf->n_tags;
    s->n_codes = conf->n_codes;
    s->topic = text_put(&at, conf->topic);
    s->text = text_put(&at, conf->text);
    s->type = text_put(&at, conf->expression_type);
    for (uint32_t i = 0; i < conf->n_tags; i++)
        s->tags[i] = text_put(&at, conf->tags[i]);
    if (conf->n_codes)
        memcpy(s->codes, conf->codes, conf->n_codes * sizeof(int32_t));
    s->version = conf->version;
    s->class_filter = conf->class_filter;
    s->is_tag = s->type.len == 0 || zl_is(s->type, "TAG");
    zr_status status =
        zb_filter_get(s->type, s->text, s->is_tag ? s->codes : NULL, s->n_codes, &s->filter, why, sizeof why);
    s->bad = status != ZR_OK;
    s->missing = status == ZR_ENOTSUP;
    if (s->bad)
        zk_log(ZR_LOG_WARN, "subscription to %.*s with \"%.*s\": %s", (int)(s->topic.len > 300 ? 300 : s->topic.len), s->topic.ptr,
               (int)(s->text.len > 200 ? 200 : s->text.len), s->text.ptr, why);
    return s;
}

void zb_sub_unref(struct zb_sub *sub)
{
    if (sub && atomic_fetch_sub(&sub->refs, 1) == 1) {
        zb_filter_unref(sub->filter);
        free(sub);
    }
}

/* ---- groups and members; under the write lock ---- */
static struct zb_members *members_get(uint32_t consumers, struct zr_str name, uint32_t create)
{
    struct zb_map *map = consumers ? &zb.consumers : &zb.producers;
    uint64_t hash = zb_hash(name);
    struct zb_members *g = zb_map_get(map, hash, name);
    if (g || !create)
        return g;
    g = calloc(1, sizeof *g + name.len);
    if (!g)
        return NULL;
    memcpy(g + 1, name.ptr, name.len);
    g->name = (struct zr_str){ (const char *)(g + 1), name.len };
    g->hash = hash;
    g->consumers = consumers;
    g->from_where = "CONSUME_FROM_LAST_OFFSET";
    if (zb_map_put(map, hash, g->name, g) != ZR_OK) {
        free(g);
        return NULL;
    }
    return g;
}

static void members_free(struct zb_members *g)
{
    uint64_t at = 0;
    for (struct zb_sub *s; (s = zb_map_next(&g->subs, &at));)
        zb_sub_unref(s);
    zb_map_free(&g->subs);
    free(g);
}

static void members_end_if_empty(struct zb_members *g)
{
    if (g->n)
        return;
    zb_map_del(g->consumers ? &zb.consumers : &zb.producers, g->hash, g->name);
    members_free(g);
}

static struct zr_str key_text(const struct zb_member_key *key)
{
    return (struct zr_str){ (const char *)key, sizeof *key };
}

static struct zb_member *member_find(const struct zb_peer *peer, const struct zb_members *g)
{
    struct zb_member_key key = { (struct zb_members *)(uintptr_t)g, (struct zb_peer *)(uintptr_t)peer };
    return zb_map_get(&zb.members, zb_hash(key_text(&key)), key_text(&key));
}

static struct zb_member *member_add(struct zb_members *g, struct zb_peer *peer, struct zr_str client_id)
{
    struct zb_member *m = calloc(1, sizeof *m + client_id.len);
    if (!m)
        return NULL;
    memcpy(m + 1, client_id.ptr, client_id.len);
    m->client_id = (struct zr_str){ (const char *)(m + 1), client_id.len };
    m->key = (struct zb_member_key){ g, peer };
    if (zb_map_put(&zb.members, zb_hash(key_text(&m->key)), key_text(&m->key), m) != ZR_OK) {
        free(m);
        return NULL;
    }
    m->prev = g->last;
    if (g->last)
        g->last->next = m;
    else
        g->first = m;
    g->last = m;
    g->n++;
    m->next_of_peer = peer->members;
    if (peer->members)
        peer->members->prev_of_peer = m;
    peer->members = m;
    peer->n_members++;
    zk_session_know(peer->session, ZK_NAMED);
    zk_metric_set(zb.meter.clients, (int64_t)zb.members.n);
    return m;
}

static void member_remove(struct zb_member *m)
{
    struct zb_members *g = m->key.group;
    struct zb_peer *peer = m->key.peer;
    if (m->prev_of_peer)
        m->prev_of_peer->next_of_peer = m->next_of_peer;
    else
        peer->members = m->next_of_peer;
    if (m->next_of_peer)
        m->next_of_peer->prev_of_peer = m->prev_of_peer;
    peer->n_members--;
    if (m->prev)
        m->prev->next = m->next;
    else
        g->first = m->next;
    if (m->next)
        m->next->prev = m->prev;
    else
        g->last = m->prev;
    g->n--;
    zb_map_del(&zb.members, zb_hash(key_text(&m->key)), key_text(&m->key));
    zk_metric_set(zb.meter.clients, (int64_t)zb.members.n);
    free(m);
}

/* Refreshes the peer's membership, or makes it. *ret_added: made. NULL: full, or no memory. */
static struct zb_member *member_touch(struct zb_members *g, struct zb_peer *peer, struct zr_str client_id,
                                      int32_t language, int32_t version, uint32_t *ret_added)
{
    struct zb_member *m = member_find(peer, g);
    *ret_added = 0;
    if (m && !zl_eq(m->client_id, client_id)) { /* the same connection under another name: the name changes */
        member_remove(m);
        m = NULL;
    }
    if (!m) {
        if (zb.members.n >= (uint64_t)ZB_SET(max_clients) || peer->n_members >= (uint64_t)ZB_SET(max_peer_groups))
            return NULL;
        m = member_add(g, peer, client_id);
        *ret_added = 1;
    }
    if (m) {
        m->last_ms = zk_wall_ms();
        m->language = language;
        m->version = version;
    }
    return m;
}

/* ---- telling members ---- */
struct told {
    struct zr_session **sessions;
    uint32_t n;
};

/* Under the lock: holds the members' sessions. */
static void told_take(struct told *t, const struct zb_members *g)
{
    t->n = 0;
    t->sessions = malloc((g->n + 1) * sizeof *t->sessions);
    for (const struct zb_member *m = g->first; t->sessions && m; m = m->next)
        t->sessions[t->n++] = zk_session_hold(m->key.peer->session);
}

static void told_tell(struct told *t, struct zr_str group)
{
    struct zr_field f = { zl_str("consumerGroup"), group };
    struct zr_command c = { .hdr = ZR_HDR(struct zr_command, 0), .code = 40, .n_fields = 1, .fields = &f };
    for (uint32_t i = 0; i < t->n; i++) {
        zk_tell(t->sessions[i], &c);
        zk_session_release(t->sessions[i]);
    }
    free(t->sessions);
}

static void group_changed(struct zr_str group)
{
    if (!zk_hooks_at(ZR_POINT_GROUP_CHANGED))
        return;
    struct zr_event event = {
        .hdr = ZR_HDR(struct zr_event, 0), .group = group, .now_ms = zk_wall_ms(), .point = ZR_POINT_GROUP_CHANGED
    };
    struct zr_verdict verdict = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    zk_hooks_run(ZR_POINT_GROUP_CHANGED, &event, &verdict);
}

/* ---- heartbeats ---- */
/* Makes the group's subscriptions those given; 1 when a topic came or went. Of two versions of a topic the newer one
 * stays. */
static uint32_t subs_replace(struct zb_members *g, const struct zb_consumer *c)
{
    struct zb_map fresh = { NULL, 0, 0 };
    uint64_t kept = 0, at = 0;
    for (uint32_t i = 0; i < c->n_subs; i++) {
        struct zb_sub *s = c->subs[i];
        uint64_t hash = zb_hash(s->topic);
        struct zb_sub *old = zb_map_get(&g->subs, hash, s->topic), *twice = zb_map_get(&fresh, hash, s->topic);
        if (twice && s->version <= twice->version)
            continue;
        if (old && s->version <= old->version)
            s = old;
        if (zb_map_put(&fresh, hash, s->topic, s) != ZR_OK)
            continue;
        atomic_fetch_add(&s->refs, 1);
        kept += old != NULL && !twice;
        zb_sub_unref(twice);
    }
    uint32_t changed = kept != g->subs.n || kept != fresh.n;
    for (struct zb_sub *s; (s = zb_map_next(&g->subs, &at));)
        zb_sub_unref(s);
    zb_map_free(&g->subs);
    g->subs = fresh;
    return changed;
}

zr_status zb_consumer_register(struct zb_peer *peer, const struct zb_consumer *c, uint32_t *ret_sub_changed)
{
    struct told told = { NULL, 0 };
    uint32_t added = 0, changed = 0;
    zr_status status = ZR_OK;
    pthread_rwlock_wrlock(&zb.clients_lock);
    struct zb_members *g = atomic_load(&peer->closed) ? NULL : members_get(1, c->group, 1);
    struct zb_member *m = g ? member_touch(g, peer, c->client_id, c->language, c->version, &added) : NULL;
    if (m) {
        g->consume_type = c->consume_type;
        g->model = c->model;
        g->from_where = c->from_where;
        if (c->fingerprint) {
            *ret_sub_changed |= g->has_fingerprint && g->fingerprint != c->fingerprint;
            g->fingerprint = c->fingerprint;
            g->has_fingerprint = 1;
        }
        if (c->with_subs)
            changed = subs_replace(g, c);
        else
            *ret_sub_changed |= g->subs.n == 0; /* nobody told us yet: ask for the long form */
        if ((added || changed) && c->notify && g->model != ZR_MODEL_BROADCASTING)
            told_take(&told, g);
    } else {
        status = atomic_load(&peer->closed) ? ZR_ECLOSED : ZR_EFULL;
        if (g)
            members_end_if_empty(g);
    }
    pthread_rwlock_unlock(&zb.clients_lock);
    if (m && c->with_subs)
        zb_filterdata_register(c->group, c->subs, c->n_subs);
    told_tell(&told, c->group);
    if (added || changed)
        group_changed(c->group);
    return status;
}

zr_status zb_producer_register(struct zb_peer *peer, struct zr_str group, struct zr_str client_id, int32_t language,
                               int32_t version)
{
    uint32_t added;
    pthread_rwlock_wrlock(&zb.clients_lock);
    uint32_t closed = atomic_load(&peer->closed);
    struct zb_members *g = closed ? NULL : members_get(0, group, 1);
    struct zb_member *m = g ? member_touch(g, peer, client_id, language, version, &added) : NULL;
    if (g && !m)
        members_end_if_empty(g);
    pthread_rwlock_unlock(&zb.clients_lock);
    return m ? ZR_OK : closed ? ZR_ECLOSED : ZR_EFULL;
}

uint32_t zb_peer_full(const struct zb_peer *peer)
{
    pthread_rwlock_rdlock(&zb.clients_lock);
    uint32_t full = peer->n_members >= (uint64_t)ZB_SET(max_peer_groups);
    pthread_rwlock_unlock(&zb.clients_lock);
    return full;
}

static uint32_t group_wants_notice(struct zr_str group)
{
    struct zb_group *g = zb_group_get(group, 0);
    uint32_t notify = !g || g->notify;
    zb_group_unref(g);
    return notify;
}

static void client_gone(struct zr_session *session, struct zr_str group, struct zr_str client_id)
{
    if (!zk_hooks_at(ZR_POINT_CLIENT_GONE))
        return;
    struct zr_event event = { .hdr = ZR_HDR(struct zr_event, 0),
                              .session = session,
                              .group = group,
                              .client_id = client_id,
                              .now_ms = zk_wall_ms(),
                              .point = ZR_POINT_CLIENT_GONE };
    struct zr_verdict verdict = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    zk_hooks_run(ZR_POINT_CLIENT_GONE, &event, &verdict);
}

/* One membership ends. What hangs on it (queue locks) ends before the others are told and ask for it. */
static void member_leave(struct zb_peer *peer, struct zr_str group, uint32_t consumers)
{
    char text[ZB_NAME_MAX];
    struct zr_str id = { text, 0 };
    struct told told = { NULL, 0 };
    uint32_t notify = consumers && group_wants_notice(group), was = 0, last = 0;
    pthread_rwlock_wrlock(&zb.clients_lock);
    struct zb_members *g = members_get(consumers, group, 0);
    struct zb_member *m = g ? member_find(peer, g) : NULL;
    if (m) {
        was = 1;
        id.len = m->client_id.len; /* bounded when it came */
        memcpy(text, m->client_id.ptr, id.len);
        member_remove(m);
        if (notify && g->model != ZR_MODEL_BROADCASTING)
            told_take(&told, g);
        last = g->n == 0;
        members_end_if_empty(g);
    }
    pthread_rwlock_unlock(&zb.clients_lock);
    if (last && consumers)
        zb_filterdata_gone(group);
    if (was)
        client_gone(peer->session, group, id);
    told_tell(&told, group);
    if (was && consumers)
        group_changed(group);
}

void zb_client_unregister(struct zb_peer *peer, struct zr_str group, uint32_t consumers)
{
    if (group.len)
        member_leave(peer, group, consumers);
}

void zb_client_closed(struct zr_session *session)
{
    struct zb_peer *peer = zk_session_broker(session);
    if (!peer)
        return;
    atomic_store(&peer->closed, 1);
    zb_hold_drop(peer);
    for (;;) {
        char text[ZB_NAME_MAX];
        struct zr_str group = { text, 0 };
        uint32_t consumers = 0;
        pthread_rwlock_rdlock(&zb.clients_lock);
        const struct zb_member *m = peer->members;
        if (m) { /* names were bounded when they came */
            group.len = m->key.group->name.len;
            memcpy(text, m->key.group->name.ptr, group.len);
            consumers = m->key.group->consumers;
        }
        pthread_rwlock_unlock(&zb.clients_lock);
        if (!m)
            break;
        member_leave(peer, group, consumers);
    }
    zk_session_set_broker(session, NULL);
    zb_peer_unref(peer);
}

/* ---- questions ---- */
static const struct zb_member *consumer_of(const struct zb_peer *peer, struct zr_str group)
{
    const struct zb_members *g = zb_map_get(&zb.consumers, zb_hash(group), group);
    return g ? member_find(peer, g) : NULL;
}

zr_status zb_consumer_find(struct zr_str group, struct zr_str topic, uint32_t *ret_model, uint32_t *ret_type,
                           struct zb_sub **ret_sub)
{
    uint64_t hash = zb_hash(group), topic_hash = topic.len ? zb_hash(topic) : 0;
    *ret_sub = NULL;
    pthread_rwlock_rdlock(&zb.clients_lock);
    const struct zb_members *g = zb_map_get(&zb.consumers, hash, group);
    if (g) {
        *ret_model = g->model;
        *ret_type = g->consume_type;
        if (topic.len && (*ret_sub = zb_map_get(&g->subs, topic_hash, topic)))
            atomic_fetch_add(&(*ret_sub)->refs, 1);
    }
    pthread_rwlock_unlock(&zb.clients_lock);
    return g ? ZR_OK : ZR_ENOENT;
}

uint32_t zb_consumer_has(struct zr_str group, const struct zb_peer *peer)
{
    pthread_rwlock_rdlock(&zb.clients_lock);
    const struct zb_member *m = consumer_of(peer, group);
    pthread_rwlock_unlock(&zb.clients_lock);
    return m != NULL;
}

uint32_t zb_consumer_id(struct zr_str group, const struct zb_peer *peer, char *text, uint64_t cap, struct zr_str *ret)
{
    pthread_rwlock_rdlock(&zb.clients_lock);
    const struct zb_member *m = consumer_of(peer, group);
    uint32_t found = m && m->client_id.len <= cap;
    if (found)
        *ret = zb_text_put(&text, m->client_id);
    pthread_rwlock_unlock(&zb.clients_lock);
    return found;
}

uint32_t zb_consumer_online(struct zr_str group, struct zr_str client_id)
{
    uint32_t found = 0;
    pthread_rwlock_rdlock(&zb.clients_lock);
    const struct zb_members *g = zb_map_get(&zb.consumers, zb_hash(group), group);
    for (const struct zb_member *m = g ? g->first : NULL; m && !found; m = m->next)
        found = zl_eq(m->client_id, client_id);
    pthread_rwlock_unlock(&zb.clients_lock);
    return found;
}

uint32_t zb_clients_ids(struct zr_str group, struct zl_buf *out)
{
    struct zl_jw w;
    uint32_t n = 0;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("consumerIdList"));
    zl_jw_begin(&w, '[');
    pthread_rwlock_rdlock(&zb.clients_lock);
    const struct zb_members *g = zb_map_get(&zb.consumers, zb_hash(group), group);
    for (const struct zb_member *m = g ? g->first : NULL; m; m = m->next, n++)
        zl_jw_str(&w, m->client_id);
    pthread_rwlock_unlock(&zb.clients_lock);
    zl_jw_end(&w, ']');
    zl_jw_end(&w, '}');
    return n;
}

struct zr_session *zb_clients_session(struct zr_str group, struct zr_str client_id, uint32_t producers)
{
    struct zr_session *found = NULL;
    pthread_rwlock_rdlock(&zb.clients_lock);
    struct zb_map *map = producers ? &zb.producers : &zb.consumers;
    uint64_t at = 0;
    const struct zb_members *g = group.len ? zb_map_get(map, zb_hash(group), group) : zb_map_next(map, &at);
    while (g && !found) {
        for (const struct zb_member *m = g->first; m && !found; m = m->next)
            if (!client_id.len || zl_eq(m->client_id, client_id))
                found = zk_session_hold(m->key.peer->session);
        g = group.len ? NULL : zb_map_next(map, &at);
    }
    pthread_rwlock_unlock(&zb.clients_lock);
    return found;
}

/* A copy of a group that outlives the lock: sessions held, subscriptions referenced, text in the arena. */
struct snapshot {
    struct zk_arena arena;
    struct zr_consumers view;
    struct zr_client *clients;
    struct zr_subscription *subs;
    struct zb_sub **refs;
    uint32_t failed;
};

static void snapshot_client(struct snapshot *s, const struct zb_member *m, struct zr_client *to)
{
    struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
    zk_session_info(m->key.peer->session, &info);
    *to = (struct zr_client){ .hdr = ZR_HDR(struct zr_client, 0),
                              .session = zk_session_hold(m->key.peer->session),
                              .client_id = zk_arena_str(&s->arena, m->client_id),
                              .peer_name = zk_arena_str(&s->arena, info.peer_name),
                              .last_ms = m->last_ms,
                              .language = m->language,
                              .version = m->version };
}

static void snapshot_take(struct snapshot *s, const struct zb_members *g)
{
    memset(s, 0, sizeof *s);
    zk_arena_init(&s->arena, 16u << 10, 1ull << 30);
    s->view = (struct zr_consumers){ .hdr = ZR_HDR(struct zr_consumers, 0),
                                     .consume_type = g->consume_type,
                                     .model = g->model,
                                     .from_where = zl_str(g->from_where),
                                     .group = zk_arena_str(&s->arena, g->name) };
    s->clients = zk_arena_alloc(&s->arena, (g->n + 1) * sizeof *s->clients);
    s->subs = zk_arena_alloc(&s->arena, (g->subs.n + 1) * sizeof *s->subs);
    s->refs = zk_arena_alloc(&s->arena, (g->subs.n + 1) * sizeof(void *));
    if (!s->clients || !s->subs || !s->refs) {
        s->failed = 1;
        return;
    }
    for (const struct zb_member *m = g->first; m; m = m->next)
        snapshot_client(s, m, &s->clients[s->view.n_clients++]);
    uint64_t at = 0;
    for (struct zb_sub *b; (b = zb_map_next(&g->subs, &at));) {
        uint32_t i = s->view.n_subscriptions++;
        atomic_fetch_add(&b->refs, 1);
        s->refs[i] = b;
        s->subs[i] = (struct zr_subscription){ .hdr = ZR_HDR(struct zr_subscription, 0),
                                               .topic = b->topic,
                                               .text = b->text,
                                               .expression_type = b->type.len ? b->type : (struct zr_str)ZR_STR("TAG"),
                                               .tags = b->tags,
                                               .codes = b->codes,
                                               .version = b->version,
                                               .n_tags = b->n_tags,
                                               .n_codes = b->n_codes,
                                               .class_filter = b->class_filter };
    }
    s->view.clients = s->clients;
    s->view.subscriptions = s->subs;
}

static void snapshot_end(struct snapshot *s)
{
    for (uint32_t i = 0; i < s->view.n_clients; i++)
        zk_session_release(s->clients[i].session);
    for (uint32_t i = 0; i < s->view.n_subscriptions; i++)
        zb_sub_unref(s->refs[i]);
    zk_arena_free(&s->arena);
}

static uint32_t group_snapshot(struct zb_map *map, struct zr_str group, struct snapshot *ret)
{
    pthread_rwlock_rdlock(&zb.clients_lock);
    const struct zb_members *g = zb_map_get(map, zb_hash(group), group);
    if (g)
        snapshot_take(ret, g);
    pthread_rwlock_unlock(&zb.clients_lock);
    return g != NULL;
}

zr_status zb_clients_consumers(struct zr_str group, void (*fn)(void *ctx, const struct zr_consumers *c), void *ctx)
{
    struct snapshot s;
    if (!group_snapshot(&zb.consumers, group, &s))
        return ZR_ENOENT;
    if (!s.failed)
        fn(ctx, &s.view);
    snapshot_end(&s);
    return s.failed ? ZR_ENOMEM : ZR_OK;
}

/* Names of all groups of a kind; *ret is in the arena. */
static uint32_t group_names(struct zb_map *map, struct zk_arena *arena, struct zr_str **ret)
{
    uint32_t n = 0;
    pthread_rwlock_rdlock(&zb.clients_lock);
    *ret = zk_arena_alloc(arena, (map->n + 1) * sizeof **ret);
    uint64_t at = 0;
    for (const struct zb_members *g; *ret && (g = zb_map_next(map, &at));)
        (*ret)[n++] = zk_arena_str(arena, g->name);
    pthread_rwlock_unlock(&zb.clients_lock);
    return n;
}

void zb_clients_each_consumers(int32_t (*each)(void *ctx, const struct zr_consumers *c), void *ctx)
{
    struct zk_arena arena;
    struct zr_str *names;
    zk_arena_init(&arena, 16u << 10, 1ull << 30);
    uint32_t n = group_names(&zb.consumers, &arena, &names);
    for (uint32_t i = 0; i < n; i++) {
        struct snapshot s;
        if (!names[i].ptr || !group_snapshot(&zb.consumers, names[i], &s))
            continue;
        int32_t stop = s.failed ? 0 : each(ctx, &s.view);
        snapshot_end(&s);
        if (stop)
            break;
    }
    zk_arena_free(&arena);
}

void zb_clients_each_producer(struct zr_str group,
                              int32_t (*each)(void *ctx, struct zr_str group, const struct zr_client *client),
                              void *ctx)
{
    struct zk_arena arena;
    struct zr_str *names = &group;
    zk_arena_init(&arena, 16u << 10, 1ull << 30);
    uint32_t n = group.len ? 1 : group_names(&zb.producers, &arena, &names);
    for (uint32_t i = 0, stop = 0; i < n && !stop; i++) {
        struct snapshot s;
        if (!names[i].ptr || !group_snapshot(&zb.producers, names[i], &s))
            continue;
        for (uint32_t j = 0; j < s.view.n_clients && !stop; j++)
            stop = each(ctx, names[i], &s.clients[j]) != 0;
        snapshot_end(&s);
    }
    zk_arena_free(&arena);
}

/* ---- silence ---- */
static int by_address(const void *a, const void *b)
{
    const struct zr_session *x = *(struct zr_session *const *)a, *y = *(struct zr_session *const *)b;
    return x < y ? -1 : x > y;
}

void zb_clients_scan(int64_t now_ms)
{
    struct told told = { NULL, 0 };
    int64_t limit = now_ms - ZB_SET(channel_expired_ms);
    struct zb_map *maps[2] = { &zb.consumers, &zb.producers };
    pthread_rwlock_rdlock(&zb.clients_lock);
    told.sessions = malloc((zb.members.n + 1) * sizeof *told.sessions);
    for (uint32_t i = 0; told.sessions && i < 2; i++) {
        uint64_t at = 0;
        for (const struct zb_members *g; (g = zb_map_next(maps[i], &at));)
            for (const struct zb_member *m = g->first; m; m = m->next)
                if (m->last_ms < limit)
                    told.sessions[told.n++] = zk_session_hold(m->key.peer->session);
    }
    pthread_rwlock_unlock(&zb.clients_lock);
    if (told.n > 1) /* a client of many groups is one client */
        qsort(told.sessions, told.n, sizeof *told.sessions, by_address);
    for (uint32_t i = 0; i < told.n; i++) {
        struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
        if (i + 1 == told.n || told.sessions[i] != told.sessions[i + 1]) {
            zk_session_info(told.sessions[i], &info);
            zk_log(ZR_LOG_INFO, "%.*s sent no heartbeat for %lld ms: disconnected", (int)info.peer_name.len,
                   info.peer_name.ptr, (long long)ZB_SET(channel_expired_ms));
            zk_session_close(told.sessions[i]); /* session_closed does the rest */
        }
        zk_session_release(told.sessions[i]);
    }
    free(told.sessions);
}

void zb_clients_close(void)
{
    struct zb_map *maps[2] = { &zb.consumers, &zb.producers };
    for (uint32_t i = 0; i < 2; i++) {
        uint64_t at = 0;
        for (struct zb_members *g; (g = zb_map_next(maps[i], &at));) {
            while (g->first)
                member_remove(g->first);
            members_free(g);
        }
        zb_map_free(maps[i]);
    }
    zb_map_free(&zb.members);
}
