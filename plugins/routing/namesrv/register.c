/* SPDX-License-Identifier: Apache-2.0 */
/* register.c - what brokers say and how they end: registration (103) in the order of steps of spec/remoting.md 3.1.1, the end of an
 * address (104, lost connection, silence), heartbeats.
 *
 * LOCKING: see namesrv.h. Functions named *_locked want the write lock. Sessions are released and brokers are told only after it is
 * free; until then they wait in a struct ns_trash. */
#include <stdio.h>
#include <stdlib.h>
#include "tables.h"

#define CODE_NOTIFY_MIN_BROKER_ID 905

/* What is left to do, or to free, once the lock is free. */
struct ns_notice {
    struct ns_notice *next;
    int64_t min_id;
    uint32_t n_targets, reserved;
    struct zr_str min_addr, offline_addr, ha_addr;
    struct zr_str targets[NS_MAX_ADDRS];
};

/* ---- what waits for the lock to be free ------------------------------------------------------------------------------- */

static void notice_free(struct ns_notice *notice)
{
    for (uint32_t i = 0; i < notice->n_targets; i++)
        free((char *)notice->targets[i].ptr);
    free((char *)notice->min_addr.ptr);
    free((char *)notice->offline_addr.ptr);
    free((char *)notice->ha_addr.ptr);
    free(notice);
}

/* Tells a broker group who its least id is now. To all when one went, or when there is but one; else to all but the least. */
static void notice_add_locked(struct ns_trash *trash, const struct ns_broker *broker, struct zr_str offline, struct zr_str ha)
{
    struct ns_notice *notice = calloc(1, sizeof *notice);
    if (!notice)
        return;
    notice->min_id = broker->addrs[0].id;
    notice->min_addr = ns_dup(broker->addrs[0].addr);
    notice->offline_addr = offline.len ? ns_dup(offline) : (struct zr_str){ NULL, 0 };
    notice->ha_addr = ha.len ? ns_dup(ha) : (struct zr_str){ NULL, 0 };
    for (uint32_t i = offline.len > 0 || broker->n_addrs == 1 ? 0 : 1; i < broker->n_addrs; i++)
        if ((notice->targets[notice->n_targets] = ns_dup(broker->addrs[i].addr)).ptr)
            notice->n_targets++;
    notice->next = trash->notices;
    trash->notices = notice;
}

static void notice_send(struct zr_inst *inst, const struct ns_notice *notice)
{
    char number[24];
    struct zr_field fields[4] = { { ZR_STR("minBrokerId"), { number, zl_print_i64(number, notice->min_id) } },
                                  { ZR_STR("minBrokerAddr"), notice->min_addr } };
    uint32_t n = 2;
    if (notice->offline_addr.len)
        fields[n++] = (struct zr_field){ ZR_STR("offlineBrokerAddr"), notice->offline_addr };
    if (notice->ha_addr.len)
        fields[n++] = (struct zr_field){ ZR_STR("haBrokerAddr"), notice->ha_addr };
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = CODE_NOTIFY_MIN_BROKER_ID, .n_fields = n, .fields = fields };
    for (uint32_t i = 0; inst->call && i < notice->n_targets; i++)
        (void)inst->call->tell(inst->host, notice->targets[i], &command); /* oneway: a broker that is gone will expire */
}

/* After brokers were marked as leaving: a registration under way does it, or this thread. */
static void sweep_now(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->order);
    brokers_sweep(inst);
    pthread_mutex_unlock(&inst->order);
}

void trash_empty(struct zr_inst *inst, struct ns_trash *trash)
{
    for (struct ns_live *live = trash->lives, *next; live; live = next) {
        next = (struct ns_live *)live->node.next;
        if (live->session) {
            if (trash->close)
                inst->reply->session_close(inst->host, live->session);
            inst->reply->session_release(inst->host, live->session);
        }
        live_free(live);
    }
    for (struct ns_notice *notice = trash->notices, *next; notice; notice = next) {
        next = notice->next;
        notice_send(inst, notice);
        notice_free(notice);
    }
}

/* ---- the end of an address -------------------------------------------------------------------------------------------- */

static void unregister_locked(struct zr_inst *inst, struct zr_str cluster, struct zr_str name, struct zr_str addr, struct ns_trash *trash)
{
    struct ns_live *live = ns_live_get(inst, cluster, addr);
    struct ns_broker *broker = broker_get(inst, name);
    uint32_t was_min = 0, removed = 0;
    for (uint32_t i = 0; broker && i < broker->n_addrs; i++) {
        if (zl_eq(broker->addrs[i].addr, addr)) {
            was_min |= i == 0 && !removed;
            removed = 1;
            broker_remove_addr_at(inst, broker, i--);
        }
    }
    if (broker && broker->n_addrs == 0) {
        broker_leave_locked(inst, broker);
    } else if (broker && removed && broker->acting_master) {
        if (!ns_broker_addr(broker, 0))
            broker_wipe_write_locked(inst, broker);
        if (was_min && inst->set.notify_min_broker_id)
            notice_add_locked(trash, broker, addr, (struct zr_str){ NULL, 0 });
    }
    if (live) /* last: cluster, name and addr may be its own */
        live_bury_locked(inst, live, trash);
}

/* ---- registration ----------------------------------------------------------------------------------------------------- */

struct plan { /* of one registration, between its holds of the lock */
    uint64_t uid;
    uint32_t ignored;    /* another address holds the id with a newer state: nothing more is done */
    uint32_t first;      /* the id had no address */
    uint32_t changed;    /* another version than before */
    uint32_t stale;      /* overtaken by a newer one on the same connection */
    uint32_t prime;      /* the least id of a group without master */
    uint32_t owner;      /* its topics count: master or prime */
    uint32_t full;       /* carries the topics that every full registration has */
    uint32_t maybe_full; /* carries at least half of what is known of this broker */
    uint32_t min_changed;
    int64_t now;
};

static uint32_t content_has_markers(const struct ns_registration *reg)
{
    for (uint64_t i = 0; i < reg->content->n_topics; i++)
        if (zl_eq(reg->content->topics[i].name, reg->broker) || zl_is(reg->content->topics[i].name, "SELF_TEST_TOPIC"))
            return 1;
    return 0;
}

/* Steps 2 to 7 of spec/remoting.md 3.1.1; afterwards the broker and its address are in place. */
static zr_status register_place_locked(struct zr_inst *inst, const struct ns_registration *reg, struct plan *plan, struct ns_broker **ret)
{
    struct ns_broker *broker = broker_get(inst, reg->broker);
    zr_status status;
    if (!broker && !(broker = broker_make_locked(inst, reg)))
        return ZR_EFULL;
    *ret = broker;
    if ((status = cluster_add_locked(inst, reg->cluster, broker)) != ZR_OK)
        return status;
    if (broker->acting_master != (reg->acting_master == 1) || !zl_eq(broker->zone, reg->zone)) {
        broker->acting_master = reg->acting_master == 1;
        status = text_set(&broker->zone, reg->zone);
        ns_broker_render(inst, broker);
        inst->gen++;
        if (status != ZR_OK)
            return status;
    }
    plan->min_changed = reg->id < (broker->n_addrs ? broker->addrs[0].id : 0);
    for (uint32_t i = 0; i < broker->n_addrs; i++)
        if (broker->addrs[i].id != reg->id && zl_eq(broker->addrs[i].addr, reg->addr))
            broker_remove_addr_at(inst, broker, i--);
    return ZR_OK;
}

static zr_status register_begin_locked(struct zr_inst *inst, const struct ns_registration *reg, struct plan *plan, struct ns_trash *trash)
{
    struct ns_broker *broker = broker_get(inst, reg->broker);
    struct ns_live *live = ns_live_get(inst, reg->cluster, reg->addr);
    const struct ns_addr *present = broker ? ns_broker_addr(broker, reg->id) : NULL;
    zr_status status;
    if (!present && reg->content->n_topics == 1)
        return ZR_EAGAIN; /* an increment before the first full registration */
    if ((status = register_place_locked(inst, reg, plan, &broker)) == ZR_OK) {
        present = ns_broker_addr(broker, reg->id);
        struct ns_live *holder = present && !zl_eq(present->addr, reg->addr) ? ns_live_get(inst, reg->cluster, present->addr) : NULL;
        if (holder && holder->version.state_version > reg->content->version.state_version) {
            if (live)
                live_bury_locked(inst, live, trash);
            plan->ignored = 1;
            return ZR_OK;
        }
        status = broker_set_addr_locked(inst, broker, reg->id, reg->addr, &plan->first);
    }
    if (status != ZR_OK) {
        if (broker && broker->n_addrs == 0)
            broker_leave_locked(inst, broker); /* it was made just now */
        return status;
    }
    if (live)
        atomic_store(&live->last_ns, plan->now);
    plan->uid = broker->uid;
    plan->changed = !live || !version_equal(&live->version, &reg->content->version);
    plan->stale = live && live->session == reg->session && version_older(&reg->content->version, &live->version);
    plan->prime = reg->acting_master >= 0 && reg->id != 0 && reg->id == broker->addrs[0].id;
    plan->owner = reg->id == 0 || plan->prime;
    plan->maybe_full = plan->full || (reg->content->n_topics > 1 && reg->content->n_topics * 2 >= broker->n_topics);
    return ZR_OK;
}

/* Does a deletion forbid this registration to bring the topic back? If it does not, the grave ends. */
static uint32_t grave_forbids_locked(struct zr_inst *inst, struct ns_topic *topic, const struct ns_broker *broker, const struct ns_registration *reg,
                                     const struct plan *plan)
{
    struct ns_grave *grave = grave_find(topic, broker);
    if (!grave || plan->now - topic->buried_ns >= NS_GRAVE_NS)
        return 0;
    if (!version_newer(&reg->content->version, &grave->version) || (plan->maybe_full && plan->now - topic->buried_ns < NS_FULL_GRACE_NS))
        return 1;
    if (topic->n_graves == 1)
        grave_unlink_locked(inst, topic);
    else
        *grave = topic->graves[--topic->n_graves];
    return 0;
}

static zr_status register_topic_locked(struct zr_inst *inst, struct ns_broker *broker, const struct ns_topic_conf *conf, const struct ns_registration *reg,
                                       const struct plan *plan)
{
    struct ns_topic *topic = topic_get(inst, conf->name);
    struct ns_queues *entry = topic ? topic_entry(topic, broker) : NULL;
    struct ns_queues queues = { broker, conf->read, conf->write, conf->perm, conf->flag };
    if (entry && (plan->stale || !(plan->first || plan->changed)))
        return ZR_OK;
    if (!entry && topic && topic->n_graves && grave_forbids_locked(inst, topic, broker, reg, plan))
        return ZR_OK;
    if (plan->prime && broker->acting_master)
        queues.perm &= ~PERM_WRITE;
    if (!topic && !(topic = topic_make_locked(inst, conf->name)))
        return ZR_EFULL;
    zr_status status = topic_put_locked(inst, topic, queues);
    topic_settle_locked(inst, topic);
    return status;
}

static struct ns_broker *register_resume(struct zr_inst *inst, const struct ns_registration *reg, const struct plan *plan)
{
    struct ns_broker *broker = broker_get(inst, reg->broker);
    const struct ns_addr *present = broker && broker->uid == plan->uid ? ns_broker_addr(broker, reg->id) : NULL;
    return present && zl_eq(present->addr, reg->addr) ? broker : NULL;
}

static zr_status register_topics(struct zr_inst *inst, const struct ns_registration *reg, const struct plan *plan)
{
    zr_status status = ZR_OK;
    for (uint64_t from = 0; plan->owner && status == ZR_OK && from < reg->content->n_topics; from += NS_CHUNK) {
        pthread_rwlock_wrlock(&inst->lock);
        struct ns_broker *broker = register_resume(inst, reg, plan);
        status = broker ? ZR_OK : ZR_EAGAIN;
        for (uint64_t i = from; status == ZR_OK && i < reg->content->n_topics && i < from + NS_CHUNK; i++)
            status = register_topic_locked(inst, broker, &reg->content->topics[i], reg, plan);
        pthread_rwlock_unlock(&inst->lock);
    }
    return status;
}

static int mapping_pairs(const struct zl_json *map, struct ns_mapping *to)
{
    if (!map || map->kind != ZL_JSON_OBJECT || map->n == 0)
        return 0;
    if (map->n > NS_MAX_MAPPED_QUEUES || !(to->pairs = calloc(map->n, sizeof *to->pairs)))
        return -1;
    for (const struct zl_json *item = map->child; item; item = item->next) {
        int32_t key, value;
        if (zl_parse_i32(item->key, &key) != ZR_OK || zl_parse_i32(zl_json_str(item), &value) != ZR_OK)
            continue;
        to->pairs[to->n_pairs][0] = key;
        to->pairs[to->n_pairs++][1] = value;
    }
    return 0;
}

static void register_mapping_locked(struct zr_inst *inst, const struct ns_mapping_conf *conf)
{
    struct ns_topic *topic = topic_get(inst, conf->topic);
    struct ns_broker *broker = broker_get(inst, conf->broker);
    struct ns_mapping mapping = { .broker = broker, .epoch = conf->epoch, .total_queues = conf->total_queues, .dirty = conf->dirty };
    if (!topic || topic->n == 0 || !broker || mapping_pairs(conf->pairs, &mapping) < 0)
        return;
    if (conf->scope.ptr)
        mapping.scope = ns_dup(conf->scope);
    topic_drop_mapping_locked(topic, broker);
    struct ns_mapping *grown = realloc(topic->mappings, (topic->n_mappings + 1) * sizeof *grown);
    if (!grown) {
        mapping_free(&mapping);
        return;
    }
    topic->mappings = grown;
    grown[topic->n_mappings++] = mapping;
    ns_cache_drop(inst, topic);
}

static int topic_conf_compare(const void *a, const void *b)
{
    return zl_compare(((const struct ns_topic_conf *)a)->name, ((const struct ns_topic_conf *)b)->name);
}

/* deleteTopicWithBrokerRegistration: what a full registration no longer carries goes. Sorts the content's topics. */
static void register_forget_absent_locked(struct zr_inst *inst, const struct ns_registration *reg, struct ns_broker *broker)
{
    uint64_t at;
    qsort(reg->content->topics, reg->content->n_topics, sizeof *reg->content->topics, topic_conf_compare);
    for (struct ns_node *node = ns_map_first(&inst->topics, &at), *next; node; node = next) {
        struct ns_topic_conf key = { .name = node->key };
        next = ns_map_after(&inst->topics, node, &at);
        if (topic_entry((struct ns_topic *)node, broker) &&
            !bsearch(&key, reg->content->topics, reg->content->n_topics, sizeof key, topic_conf_compare)) {
            topic_remove_locked(inst, (struct ns_topic *)node, broker);
            topic_settle_locked(inst, (struct ns_topic *)node);
        }
    }
}

/* The live entry of this registration; takes *session over and leaves the one to be released there. */
static zr_status register_live_locked(struct zr_inst *inst, const struct ns_registration *reg, const struct plan *plan, struct zr_session **session)
{
    struct ns_live *live = ns_live_get(inst, reg->cluster, reg->addr);
    if (!live && !(live = live_make(inst, reg)))
        return ZR_EFULL;
    if (!zl_eq(live->broker, reg->broker) && text_set(&live->broker, reg->broker) != ZR_OK)
        return ZR_ENOMEM;
    if (text_set(&live->ha, reg->ha) != ZR_OK)
        return ZR_ENOMEM;
    struct zr_session *old = live->session;
    live->session = *session;
    *session = old;
    live->id = reg->id;
    live->local = reg->local;
    live->timeout_ns = (reg->timeout_ms > 0 ? reg->timeout_ms : NS_DEFAULT_TIMEOUT_MS) * 1000000;
    atomic_store(&live->last_ns, plan->now);
    if (!plan->stale)
        live->version = reg->content->version;
    return reg->content->has_filters ? live_filters_set(inst, live, reg->content) : ZR_OK;
}

static void register_result_locked(struct zr_inst *inst, const struct ns_registration *reg, const struct ns_broker *broker, struct ns_registered *ret)
{
    const struct ns_addr *master = reg->id != 0 ? ns_broker_addr(broker, 0) : NULL;
    struct ns_live *live = master ? ns_live_get(inst, reg->cluster, master->addr) : NULL;
    if (!live)
        return;
    snprintf(ret->master_addr, sizeof ret->master_addr, "%.*s", (int)master->addr.len, master->addr.ptr);
    if (live->ha.len)
        snprintf(ret->ha_addr, sizeof ret->ha_addr, "%.*s", (int)live->ha.len, live->ha.ptr);
}

static zr_status register_end_locked(struct zr_inst *inst, const struct ns_registration *reg, const struct plan *plan, struct zr_session **session,
                                     struct ns_trash *trash, struct ns_registered *ret)
{
    struct ns_broker *broker = register_resume(inst, reg, plan);
    zr_status status;
    if (!broker)
        return ZR_EAGAIN;
    if (plan->owner && inst->set.delete_topic_with_registration && plan->full && !plan->stale && reg->content->n_mappings == 0)
        register_forget_absent_locked(inst, reg, broker);
    for (uint64_t i = 0; plan->owner && (plan->changed || plan->first) && i < reg->content->n_mappings; i++)
        register_mapping_locked(inst, &reg->content->mappings[i]);
    if ((status = register_live_locked(inst, reg, plan, session)) != ZR_OK)
        return status;
    register_result_locked(inst, reg, broker, ret);
    if (plan->min_changed && inst->set.notify_min_broker_id)
        notice_add_locked(trash, broker, (struct zr_str){ NULL, 0 }, reg->ha);
    return ZR_OK;
}

/* Topics and live entry. When a table is full the broker stays with what fitted, but its version is not taken, so that it keeps
 * being told that something differs. Without a live entry nothing would ever expire the address: then it goes at once. */
static zr_status register_rest(struct zr_inst *inst, const struct ns_registration *reg, struct plan *plan, struct zr_session **session,
                               struct ns_trash *trash, struct ns_registered *ret)
{
    zr_status topics = register_topics(inst, reg, plan), end;
    plan->stale |= topics != ZR_OK;
    pthread_rwlock_wrlock(&inst->lock);
    end = register_end_locked(inst, reg, plan, session, trash, ret);
    if (end != ZR_OK && register_resume(inst, reg, plan) && !ns_live_get(inst, reg->cluster, reg->addr))
        unregister_locked(inst, reg->cluster, reg->broker, reg->addr, trash);
    pthread_rwlock_unlock(&inst->lock);
    return topics != ZR_OK ? topics : end;
}

/* The write lock at a moment when no broker is leaving: so a name is in the table once. */
static void wrlock_after_sweep(struct zr_inst *inst)
{
    for (;;) {
        brokers_sweep(inst);
        pthread_rwlock_wrlock(&inst->lock);
        if (!inst->leaving)
            return;
        pthread_rwlock_unlock(&inst->lock);
    }
}

zr_status ns_register(struct zr_inst *inst, const struct ns_registration *reg, struct ns_registered *ret)
{
    struct plan plan = { .now = ns_now(inst), .full = content_has_markers(reg) };
    struct ns_trash trash = { 0 };
    struct zr_session *session = reg->session ? inst->reply->session_hold(inst->host, reg->session) : NULL;
    int64_t timeout_ms = reg->timeout_ms > 0 ? reg->timeout_ms : NS_DEFAULT_TIMEOUT_MS;
    memset(ret, 0, sizeof *ret);

    pthread_mutex_lock(&inst->order);
    wrlock_after_sweep(inst);
    zr_status status = register_begin_locked(inst, reg, &plan, &trash);
    pthread_rwlock_unlock(&inst->lock);
    if (status == ZR_OK && !plan.ignored)
        status = register_rest(inst, reg, &plan, &session, &trash, ret);
    brokers_sweep(inst);
    pthread_mutex_unlock(&inst->order);

    if (session)
        inst->reply->session_release(inst->host, session);
    trash_empty(inst, &trash);
    if (plan.uid && !reg->local)
        ns_expiry_arm(inst, plan.now + timeout_ms * 1000000);
    return status;
}

/* ---- unregistering, silence ------------------------------------------------------------------------------------------- */

void ns_unregister(struct zr_inst *inst, struct zr_str cluster, struct zr_str broker, struct zr_str addr)
{
    struct ns_trash trash = { 0 };
    pthread_rwlock_wrlock(&inst->lock);
    unregister_locked(inst, cluster, broker, addr, &trash);
    pthread_rwlock_unlock(&inst->lock);
    sweep_now(inst);
    trash_empty(inst, &trash);
}

uint32_t ns_has_session(struct zr_inst *inst, struct zr_session *session)
{
    uint32_t found = 0;
    uint64_t at;
    pthread_rwlock_rdlock(&inst->lock);
    for (struct ns_node *node = ns_map_first(&inst->lives, &at); node && !found; node = ns_map_after(&inst->lives, node, &at))
        found = ((struct ns_live *)node)->session == session;
    pthread_rwlock_unlock(&inst->lock);
    return found;
}

void ns_session_gone(struct zr_inst *inst, struct zr_session *session)
{
    struct ns_trash trash = { 0 };
    uint64_t at;
    pthread_rwlock_wrlock(&inst->lock);
    for (struct ns_node *node = ns_map_first(&inst->lives, &at), *next; node; node = next) {
        struct ns_live *live = (struct ns_live *)node;
        next = ns_map_after(&inst->lives, node, &at);
        if (live->session == session)
            unregister_locked(inst, live->cluster, live->broker, live->addr, &trash);
    }
    pthread_rwlock_unlock(&inst->lock);
    for (struct ns_live *live = trash.lives; live; live = (struct ns_live *)live->node.next)
        ns_log(inst, ZR_LOG_INFO, "broker %.*s at %.*s: its connection ended, unregistered", (int)live->broker.len, live->broker.ptr,
               (int)live->addr.len, live->addr.ptr);
    sweep_now(inst);
    trash_empty(inst, &trash);
}

uint32_t ns_heartbeat(struct zr_inst *inst, struct zr_str cluster, struct zr_str addr, struct zr_data_version *ret_version)
{
    int64_t now = ns_now(inst);
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_live *live = ns_live_get(inst, cluster, addr);
    if (live) {
        atomic_store(&live->last_ns, now);
        if (ret_version)
            *ret_version = live->version;
    }
    pthread_rwlock_unlock(&inst->lock);
    return live != NULL;
}

int64_t ns_expire(struct zr_inst *inst)
{
    struct ns_trash trash = { .close = 1 };
    int64_t now = ns_now(inst), next_at = INT64_MAX;
    uint64_t at;
    pthread_rwlock_wrlock(&inst->lock);
    graves_forget_locked(inst, now);
    for (struct ns_node *node = ns_map_first(&inst->lives, &at), *next; node; node = next) {
        struct ns_live *live = (struct ns_live *)node;
        int64_t deadline = atomic_load(&live->last_ns) + live->timeout_ns;
        next = ns_map_after(&inst->lives, node, &at);
        if (live->local)
            continue;
        if (deadline < now)
            unregister_locked(inst, live->cluster, live->broker, live->addr, &trash);
        else if (deadline < next_at)
            next_at = deadline + 1;
    }
    if (next_at < now + inst->set.scan_interval_ms * 1000000)
        next_at = now + inst->set.scan_interval_ms * 1000000;
    if (inst->grave_first && inst->grave_first->buried_ns + NS_GRAVE_NS < next_at)
        next_at = inst->grave_first->buried_ns + NS_GRAVE_NS;
    pthread_rwlock_unlock(&inst->lock);
    if (trash.lives)
        sweep_now(inst);
    for (struct ns_live *live = trash.lives; live; live = (struct ns_live *)live->node.next) {
        ns_log(inst, ZR_LOG_WARN, "broker %.*s at %.*s: no word for %lld ms, unregistered", (int)live->broker.len, live->broker.ptr,
               (int)live->addr.len, live->addr.ptr, (long long)((now - atomic_load(&live->last_ns)) / 1000000));
        ns_count(inst, NS_METRIC_EXPIRED);
    }
    trash_empty(inst, &trash);
    return next_at;
}
