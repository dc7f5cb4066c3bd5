/* SPDX-License-Identifier: Apache-2.0 */
/* broker.c - the life of the broker core: provide, open, start, stop, close; its identity; its ticks; its table of
 * requests. */
#include "broker/internal.h"
#include <netdb.h>
#include <netinet/in.h>

struct zb zb = {
    .topics_lock = PTHREAD_RWLOCK_INITIALIZER,
    .groups_lock = PTHREAD_RWLOCK_INITIALIZER,
    .clients_lock = PTHREAD_RWLOCK_INITIALIZER,
    .jobs_lock = PTHREAD_MUTEX_INITIALIZER,
    .jobs_cond = PTHREAD_COND_INITIALIZER,
    .tick_lock = PTHREAD_MUTEX_INITIALIZER,
    .stats_lock = PTHREAD_MUTEX_INITIALIZER,
};

/* ---- jobs on the pool ---- */
struct counted_job {
    void (*fn)(void *);
    void *arg;
};

static void job_ended(void)
{
    pthread_mutex_lock(&zb.jobs_lock);
    if (--zb.n_jobs == 0)
        pthread_cond_broadcast(&zb.jobs_cond);
    pthread_mutex_unlock(&zb.jobs_lock);
}

static void job_run(void *arg)
{
    struct counted_job job = *(struct counted_job *)arg;
    free(arg);
    job.fn(job.arg);
    job_ended();
}

zr_status zb_work(void (*fn)(void *), void *arg)
{
    struct counted_job *job = malloc(sizeof *job);
    if (!job)
        return ZR_ENOMEM;
    *job = (struct counted_job){ fn, arg };
    pthread_mutex_lock(&zb.jobs_lock);
    zb.n_jobs++;
    pthread_mutex_unlock(&zb.jobs_lock);
    zr_status status = zk_work(job_run, job);
    if (status != ZR_OK) {
        free(job);
        job_ended();
    }
    return status;
}

static void jobs_wait(void)
{
    pthread_mutex_lock(&zb.jobs_lock);
    while (zb.n_jobs)
        pthread_cond_wait(&zb.jobs_cond, &zb.jobs_lock);
    pthread_mutex_unlock(&zb.jobs_lock);
}

/* ---- ticks: each callback runs under tick_lock, sets the next one, and hands what may take long to the pool ---- */
struct tick {
    void (*fn)(void);
    int64_t (*period_ms)(void);
    uint64_t timer;
};
static void tick_run(void *arg);

static void tick_set(struct tick *t)
{
    if (zk_timer_at(zk_mono_ns() + t->period_ms() * 1000000, tick_run, t, &t->timer) != ZR_OK)
        zk_log(ZR_LOG_ERROR, "the limit of timers is reached: a periodic task of the broker ends");
}

static void tick_run(void *arg)
{
    struct tick *t = arg;
    pthread_mutex_lock(&zb.tick_lock);
    if (!atomic_load(&zb.stopping)) {
        t->fn();
        tick_set(t);
    }
    pthread_mutex_unlock(&zb.tick_lock);
}

static int64_t each_second(void)
{
    return 1000;
}

static int64_t flush_period(void)
{
    return ZB_SET(flush_offset_ms);
}

static int64_t scan_period(void)
{
    return ZB_SET(client_scan_ms);
}

static void flush_offsets(void)
{
    if (zb_offsets_dirty())
        zb_doc_touch(ZB_DOC_OFFSETS, NULL, NULL);
}

static void scan_work(void *arg)
{
    (void)arg;
    zb_clients_scan(zk_wall_ms());
}

static void scan_clients(void)
{
    (void)zb_work(scan_work, NULL);
}

/* ---- what is made on demand ---- */
#define MADE_LINES 100u /* lines a minute for each kind; who makes names up may not fill the log */
static struct {
    const char *what;
    _Atomic uint32_t n, untold;
} made[] = { { "subscription groups", 0, 0 }, { "topics", 0, 0 } };

uint32_t zb_made_tell(uint32_t what)
{
    if (atomic_fetch_add(&made[what].n, 1) < MADE_LINES)
        return 1;
    atomic_fetch_add(&made[what].untold, 1);
    return 0;
}

void zb_made_minute(void)
{
    for (uint32_t i = 0; i < sizeof made / sizeof made[0]; i++) {
        atomic_store(&made[i].n, 0);
        uint32_t untold = atomic_exchange(&made[i].untold, 0);
        if (untold)
            zk_log(ZR_LOG_INFO, "%u more %s were made on demand in the last minute", untold, made[i].what);
    }
}

static int64_t each_minute(void)
{
    return 60000;
}

static void each_second_run(void)
{
    zb_stats_second();
    zb_cold_second();
    zb_broadcast_second();
}

static struct tick ticks[] = { { each_second_run, each_second, 0 },
                               { zb_made_minute, each_minute, 0 },
                               { flush_offsets, flush_period, 0 },
                               { scan_clients, scan_period, 0 } };

/* ---- requests ---- */
#define MAIN ZR_SERVES_BROKER
#define BOTH (ZR_SERVES_BROKER | ZR_SERVES_FAST)
#define ROW(code, serves, flags, name, handle)                                                                         \
    {                                                                                                                  \
        ZR_HDR(struct zr_handler, 0), code, serves, flags, 0, name, handle                                             \
    }
const struct zr_handler zb_handlers[] = {
    ROW(10, BOTH, ZR_HANDLER_GUARDED, "SEND_MESSAGE", zb_send_handle),
    ROW(11, MAIN, 0, "PULL_MESSAGE", zb_pull_handle),
    ROW(14, BOTH, 0, "QUERY_CONSUMER_OFFSET", zb_query_offset_handle),
    ROW(15, BOTH, ZR_HANDLER_GUARDED, "UPDATE_CONSUMER_OFFSET", zb_update_offset_handle),
    ROW(29, BOTH, ZR_HANDLER_WORKER, "SEARCH_OFFSET_BY_TIMESTAMP", zb_search_offset_handle),
    ROW(30, BOTH, ZR_HANDLER_WORKER, "GET_MAX_OFFSET", zb_max_offset_handle),
    ROW(31, BOTH, ZR_HANDLER_WORKER, "GET_MIN_OFFSET", zb_min_offset_handle),
    ROW(32, BOTH, ZR_HANDLER_WORKER, "GET_EARLIEST_MSG_STORETIME", zb_earliest_handle),
    ROW(34, BOTH, ZR_HANDLER_GUARDED, "HEART_BEAT", zb_heartbeat_handle),
    ROW(35, BOTH, ZR_HANDLER_GUARDED, "UNREGISTER_CLIENT", zb_unregister_handle),
    ROW(36, BOTH, ZR_HANDLER_WORKER | ZR_HANDLER_GUARDED, "CONSUMER_SEND_MSG_BACK", zb_retry_handle),
    ROW(38, BOTH, 0, "GET_CONSUMER_LIST_BY_GROUP", zb_consumer_list_handle),
    ROW(46, BOTH, ZR_HANDLER_WORKER, "CHECK_CLIENT_CONFIG", zb_check_config_handle), /* compiles an expression */
    ROW(310, BOTH, ZR_HANDLER_GUARDED, "SEND_MESSAGE_V2", zb_send_handle),
    ROW(320, BOTH, ZR_HANDLER_GUARDED, "SEND_BATCH_MESSAGE", zb_send_handle),
    ROW(361, MAIN, 0, "LITE_PULL_MESSAGE", zb_pull_handle),
    ROW(2001, BOTH, ZR_HANDLER_WORKER | ZR_HANDLER_GUARDED, "UPDATE_COLD_DATA_FLOW_CTR_CONFIG", zb_cold_set_handle),
    ROW(2002, BOTH, ZR_HANDLER_WORKER | ZR_HANDLER_GUARDED, "REMOVE_COLD_DATA_FLOW_CTR_CONFIG", zb_cold_remove_handle),
    ROW(2003, BOTH, ZR_HANDLER_WORKER, "GET_COLD_DATA_FLOW_CTR_INFO", zb_cold_info_handle),
};
const uint32_t zb_n_handlers = sizeof zb_handlers / sizeof zb_handlers[0];

static void meters_declare(struct zb_meters *m)
{
    m->sends =
        zk_metric("zarya_broker_sends_total", ZR_METRIC_COUNTER, NULL, "Send requests that reached the storage.");
    m->messages =
        zk_metric("zarya_broker_messages_total", ZR_METRIC_COUNTER, "messages", "Messages handed to the storage.");
    m->bytes = zk_metric("zarya_broker_stored_bytes_total", ZR_METRIC_COUNTER, "bytes", "Bytes of records stored.");
    m->appends = zk_metric("zarya_broker_appends_total", ZR_METRIC_COUNTER, NULL,
                           "Appends; messages over appends is how well sends are batched.");
    m->pulls = zk_metric("zarya_broker_pulls_total", ZR_METRIC_COUNTER, NULL, "Reads by pulls.");
    m->held = zk_metric("zarya_broker_held_pulls", ZR_METRIC_GAUGE, NULL, "Pulls held for long polling.");
    m->held_refused = zk_metric("zarya_broker_held_pulls_refused_total", ZR_METRIC_COUNTER, NULL,
                                "Pulls refused because a limit of held pulls was reached.");
    m->held_dropped = zk_metric("zarya_broker_held_pulls_dropped_total", ZR_METRIC_COUNTER, NULL,
                                "Held pulls whose connection closed.");
    m->parked = zk_metric("zarya_broker_parked_answers", ZR_METRIC_GAUGE, NULL,
                          "Answers to sends that wait for disk or replicas.");
    m->clients = zk_metric("zarya_broker_memberships", ZR_METRIC_GAUGE, NULL, "Memberships of live clients in groups.");
    m->topics = zk_metric("zarya_broker_topics", ZR_METRIC_GAUGE, NULL, "Topics.");
    m->groups = zk_metric("zarya_broker_groups", ZR_METRIC_GAUGE, NULL, "Subscription groups.");
    m->progress = zk_metric("zarya_broker_consumer_offsets", ZR_METRIC_GAUGE, NULL,
                            "Pairs of topic and group whose offsets are kept.");
    m->doc_failed = zk_metric("zarya_broker_state_failures_total", ZR_METRIC_COUNTER, NULL,
                              "Writes of topics, groups or offsets that failed.");
    m->deferred = zk_metric("zarya_broker_deferred_requests_total", ZR_METRIC_COUNTER, NULL,
                            "Requests kept beyond their turn: sends and heartbeats until a topic is announced, queries of "
                            "offsets that the storage answers.");
}

void zk_broker_provide(void)
{
    static const struct zk_remoting_events events = { zb_lane_opened, zb_lane_closed, zb_lane_turn_end, zb_lane_woken,
                                                      zb_client_closed };
    zk_service_provide(ZR_SVC_BROKER, &zb_broker_table);
    zk_service_provide(ZR_SVC_STORE, &zb_store_table);
    zk_service_provide(ZR_SVC_DURABILITY, &zb_durability_table);
    zk_service_provide(ZR_SVC_BITS, &zb_bits_table);
    zk_remoting_events_set(&events);
    zk_remoting_add(zb_handlers, zb_n_handlers, "broker");
    meters_declare(&zb.meter);
    zb.boot_ms = zk_wall_ms();
    if (zk_node.broker_settings)
        memcpy(&zb.set, zk_node.broker_settings, sizeof zb.set);
    else
        zb_settings_default(&zb.set);
    zb.id.cluster = zk_node.set.cluster.len ? zk_node.set.cluster : (struct zr_str)ZR_STR("DefaultCluster");
    zb.id.name = zk_node.set.name.len ? zk_node.set.name : (struct zr_str)ZR_STR("broker-a");
    zb.id.id = zk_node.set.id;
}

/* ---- identity ---- */
static uint16_t port_of_url(struct zr_str url)
{
    for (uint64_t i = url.len; i > 0; i--)
        if (url.ptr[i - 1] == ':') {
            int32_t port = 0;
            struct zr_str digits = { url.ptr + i, url.len - i };
            return zl_parse_i32(digits, &port) == ZR_OK && port > 0 && port < 65536 ? (uint16_t)port : 0;
        }
    return 0;
}

/* The real port of the first listener that serves the broker's requests. */
static uint16_t broker_port(void)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        const struct zr_listener *list;
        struct zk_instance *t = zk_instances[i];
        if (!t->transport || t->stage < ZK_WARM)
            continue;
        uint32_t n = t->transport->listeners(t->inst, &list);
        for (uint32_t j = 0; j < n; j++) {
            const struct zr_listener *l =
                (const struct zr_listener *)(const void *)((const char *)list + j * list->hdr.size);
            uint16_t port = l->addr.family ? l->addr.port : port_of_url(l->url);
            if ((l->serves & ZR_SERVES_BROKER) && port)
                return port;
        }
    }
    return 0;
}

static zr_status resolve(const char *text, uint16_t port, struct zr_addr *ret)
{
    struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
    memset(ret, 0, sizeof *ret);
    if (getaddrinfo(text, NULL, &hints, &found) != 0)
        return ZR_ENOENT;
    for (struct addrinfo *a = found; a && !ret->family; a = a->ai_next) {
        if (a->ai_family == AF_INET) {
            memcpy(ret->ip, &((struct sockaddr_in *)(void *)a->ai_addr)->sin_addr, 4);
            ret->family = 4;
        } else if (a->ai_family == AF_INET6) {
            memcpy(ret->ip, &((struct sockaddr_in6 *)(void *)a->ai_addr)->sin6_addr, 16);
            ret->family = 6;
        }
    }
    freeaddrinfo(found);
    ret->port = port;
    return ret->family ? ZR_OK : ZR_ENOENT;
}

static zr_status identity_make(void)
{
    uint16_t port = broker_port();
    snprintf(zb.ip1, sizeof zb.ip1, "%.*s", (int)zk_node.ip1.len, zk_node.ip1.len ? zk_node.ip1.ptr : "");
    snprintf(zb.ip2, sizeof zb.ip2, "%.*s", (int)zk_node.ip2.len, zk_node.ip2.len ? zk_node.ip2.ptr : "");
    if (!zb.ip1[0])
        strcpy(zb.ip1, "127.0.0.1");
    if (!zb.ip2[0])
        strcpy(zb.ip2, zb.ip1);
    zb.id.hdr = (struct zr_hdr)ZR_HDR(struct zr_identity, 0);
    zb.id.boot_ms = zb.boot_ms;
    zb.id.version = ZL_VERSION;
    zb.id.permission = (int32_t)zb.set.broker_permission;
    if (resolve(zb.ip1, port, &zb.id.store_host) != ZR_OK) {
        zk_err_raise(
            ZR_EINVAL, 0,
            "the address of this broker (ip1, brokerIP1) \"%s\" is neither an address nor a name that resolves to one",
            zb.ip1);
        return ZR_EINVAL;
    }
    int v6 = strchr(zb.ip1, ':') != NULL, v6b = strchr(zb.ip2, ':') != NULL;
    snprintf(zb.addr_text, sizeof zb.addr_text, v6 && zb.ip1[0] != '[' ? "[%s]:%u" : "%s:%u", zb.ip1, port);
    snprintf(zb.ha_text, sizeof zb.ha_text, v6b && zb.ip2[0] != '[' ? "[%s]:%u" : "%s:%u", zb.ip2, port + 1u);
    zb.id.addr = zl_str(zb.addr_text);
    zb.id.ha_addr = zl_str(zb.ha_text);
    for (uint32_t on = 0; on < 2; on++) {
        int n = snprintf(zb.props_tail[on], sizeof zb.props_tail[on], "MSG_REGION\1%.*s\2TRACE_ON\1%s\2CLUSTER\1%.*s\2",
                         (int)zb.set.region_id.len, zb.set.region_id.ptr, on ? "true" : "false", (int)zb.id.cluster.len,
                         zb.id.cluster.ptr);
        if (n < 0 || n >= (int)sizeof zb.props_tail[on]) {
            zk_err_raise(ZR_EINVAL, 0, "regionId and the cluster's name are too long");
            return ZR_EINVAL;
        }
        zb.props_tail_len[on] = (uint64_t)n;
    }
    return ZR_OK;
}

/* ---- life ---- */
static zr_status storage_bind(void)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        struct zk_instance *s = zk_instances[i];
        if (!s->storage || s->stage < ZK_WARM)
            continue;
        if (zb.storage) {
            zk_err_raise(ZR_EEXIST, 0, "two storages are configured; one of them (%s) has to go", s->as);
            return ZR_EEXIST;
        }
        zb.storage = s->storage;
        zb.storage_inst = s->inst;
    }
    if (zb.storage)
        return ZR_OK;
    zk_err_raise(ZR_ENOENT, 0, "a broker needs a storage plugin, such as storage-commitlog, and none is there");
    return ZR_ENOENT;
}

static uint32_t plugin_loaded(const char *id)
{
    for (uint32_t i = 0; i < zk_n_instances; i++)
        if (zk_instances[i]->id && strcmp(zk_instances[i]->id, id) == 0 && zk_instances[i]->stage >= ZK_WARM)
            return 1;
    return 0;
}

static zr_status state_load(void)
{
    uint32_t topics_from, groups_from, offsets_from, topics_changed, groups_changed, topics_journal = 0, groups_journal = 0;
    uint64_t before_topics, before_groups;
    zr_status status = zb_topics_load(&topics_from, &topics_journal);
    if (status == ZR_OK)
        status = zb_groups_load(&groups_from, &groups_journal);
    if (status == ZR_OK)
        status = zb_offsets_load(&offsets_from);
    if (status != ZR_OK)
        return status;
    zb_bits_open();
    zb_filterdata_load();
    before_topics = zb.topics.n;
    before_groups = zb.groups.n;
    status = zb_topics_make_system();
    if (status == ZR_OK)
        status = zb_groups_make_system();
    if (status != ZR_OK)
        return status;
    topics_changed = zb_topics_rebuild(topics_from) || zb.topics.n != before_topics || topics_from == ZB_FROM_PART;
    if (groups_from != ZB_FROM_ITSELF)
        zb_groups_rebuild();
    groups_changed = zb.groups.n != before_groups || groups_from == ZB_FROM_PART;
    if (topics_changed || topics_journal)
        status = zb_doc_write(ZB_DOC_TOPICS);
    if (status == ZR_OK && (groups_changed || groups_journal))
        status = zb_doc_write(ZB_DOC_GROUPS);
    if (status == ZR_OK && offsets_from == ZB_FROM_PART)
        status = zb_doc_write(ZB_DOC_OFFSETS);
    return status;
}

zr_status zk_broker_open(void)
{
    atomic_store(&zb.stopping, 0);
    zb.storage = NULL;
    zr_status status = storage_bind();
    if (status != ZR_OK)
        return status;
    zb.has_delay = plugin_loaded("feature-delay");
    zb.has_transaction = plugin_loaded("feature-transaction");
    zb.slave = zk_node.set.id != 0 || zb.set.role == ZB_ROLE_SLAVE;
    zb_docs_open();
    zb_hold_open();
    zb_durability_open();
    status = identity_make();
    if (status == ZR_OK)
        status = state_load();
    zb.up = status == ZR_OK;
    return status;
}

void zk_broker_start(void)
{
    for (uint32_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
        tick_set(&ticks[i]);
    pthread_rwlock_rdlock(&zb.topics_lock); /* requests come already */
    uint64_t n_topics = zb.topics.n;
    pthread_rwlock_unlock(&zb.topics_lock);
    pthread_rwlock_rdlock(&zb.groups_lock);
    uint64_t n_groups = zb.groups.n;
    pthread_rwlock_unlock(&zb.groups_lock);
    zk_log(ZR_LOG_INFO, "broker %.*s of cluster %.*s at %s: %llu topics, %llu groups, %s flush", (int)zb.id.name.len,
           zb.id.name.ptr, (int)zb.id.cluster.len, zb.id.cluster.ptr, zb.addr_text, (unsigned long long)n_topics,
           (unsigned long long)n_groups, zb.sync ? "sync" : "async");
    if (strncmp(zb.ip1, "127.", 4) == 0 || strcmp(zb.ip1, "::1") == 0)
        zk_log(ZR_LOG_INFO,
               "the address %s can be reached from this machine only; clients elsewhere need ip1 (brokerIP1)", zb.ip1);
    zb_announce(NULL, 0, NULL, NULL);
}

void zk_broker_stop(void)
{
    if (!zb.up)
        return;
    pthread_mutex_lock(&zb.tick_lock);
    atomic_store(&zb.stopping, 1);
    pthread_mutex_unlock(&zb.tick_lock);
    for (uint32_t i = 0; i < sizeof ticks / sizeof ticks[0]; i++)
        zk_timer_cancel(ticks[i].timer);
    zb_hold_wake_all(1);
    zb_cold_release(1);
    jobs_wait();
    zb_doc_write_last(ZB_DOC_TOPICS);
    zb_doc_write_last(ZB_DOC_GROUPS);
    zb_doc_write(ZB_DOC_OFFSETS);
}

/* After remoting stopped and the plugins are drained: nothing calls us any more. */
void zk_broker_close(void)
{
    if (zb.up) {
        jobs_wait();
        if (zb_offsets_dirty()) /* commits that came between stop and the end of the lanes */
            zb_doc_write(ZB_DOC_OFFSETS);
        if (zb_doc_dirty(ZB_DOC_TOPICS))
            zb_doc_write_last(ZB_DOC_TOPICS);
        if (zb_doc_dirty(ZB_DOC_GROUPS))
            zb_doc_write_last(ZB_DOC_GROUPS);
    }
    zb_durability_shut();
    zb_hold_close();
    zb_cold_close();
    zb_broadcast_close();
    zb_lanes_close();
    zb_durability_close();
    zb_docs_close();
    zb_clients_close();
    zb_filterdata_close();
    zb_filters_close();
    zb_topics_close();
    zb_groups_close();
    zb_offsets_close();
    zb.up = 0;
    zb.storage = NULL;
}
