/* SPDX-License-Identifier: Apache-2.0 */
/* namesrv.c - the plugin routing-namesrv: its life, the end of broker connections, the expiry timer, and zarya.registry/1.
 *
 * EXPIRY. One timer is armed at the earliest deadline of any broker (or grave). Heartbeats only move deadlines back, so they never
 * touch it: when it fires too early it looks again and is armed for what is earliest then.
 *
 * LOCAL BROKER. Bound as a registry, this plugin puts the broker of its own process into the tables without a connection
 * (announce_local). routing-remote beside it announces the same broker by the wire; both say the same, so both may run. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "namesrv.h"

int64_t ns_now(struct zr_inst *inst) { return inst->timer->mono_ns(inst->host); }

uint32_t ns_name_ok(struct zr_str name) { return name.len > 0 && name.len <= NS_NAME_MAX && !memchr(name.ptr, 0, name.len); }

struct zr_str ns_dup(struct zr_str s)
{
    char *copy = malloc(s.len + 1);
    if (!copy)
        return (struct zr_str){ NULL, 0 };
    if (s.len)
        memcpy(copy, s.ptr, s.len);
    copy[s.len] = 0;
    return (struct zr_str){ copy, s.len };
}

void ns_log(struct zr_inst *inst, uint32_t level, const char *fmt, ...)
{
    char text[1024];
    va_list args;
    if (!inst->log || level > inst->log->level(inst->host))
        return;
    va_start(args, fmt);
    int n = vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    inst->log->write(inst->host, level, (struct zr_str){ text, n < (int)sizeof text ? (uint64_t)n : sizeof text - 1 }, NULL, 0);
}

static const struct zr_metric ns_metrics[] = {
    { ZR_HDR(struct zr_metric, 0), "zarya_namesrv_route_queries_total", "requests", "Route queries answered.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_namesrv_route_built_total", "answers", "Route answers that were not ready-made.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_namesrv_registrations_total", "requests", "Registrations applied.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_namesrv_expired_total", "brokers", "Brokers dropped because they were silent.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_namesrv_brokers", "brokers", "Addresses of live brokers.", ZR_METRIC_GAUGE, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_namesrv_topics", "topics", "Topics with a route.", ZR_METRIC_GAUGE, 0 },
};

/* Counts one event; registrations and expiries also set the gauges, since only they and their like move them. */
void ns_count(struct zr_inst *inst, uint32_t metric)
{
    if (!inst->metrics)
        return;
    inst->metrics->add(inst->host, inst->first_metric + metric, 1);
    if (metric != NS_METRIC_REGISTERED && metric != NS_METRIC_EXPIRED)
        return;
    pthread_rwlock_rdlock(&inst->lock);
    int64_t brokers = (int64_t)inst->lives.n, topics = (int64_t)inst->n_live_topics;
    pthread_rwlock_unlock(&inst->lock);
    inst->metrics->set(inst->host, inst->first_metric + NS_METRIC_BROKERS, brokers);
    inst->metrics->set(inst->host, inst->first_metric + NS_METRIC_TOPICS, topics);
}

/* ---- jobs on the worker pool ------------------------------------------------------------------------------------------ */

/* One job's own memory; cool waits until all are done. */
struct job { struct zr_inst *inst; struct zr_session *session; void (*fn)(struct zr_inst *inst, struct zr_session *session); };

static void job_end(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->small);
    inst->jobs--;
    pthread_cond_broadcast(&inst->changed);
    pthread_mutex_unlock(&inst->small);
}

static void job_run(void *arg)
{
    struct job *job = arg;
    struct zr_inst *inst = job->inst;
    job->fn(inst, job->session);
    if (job->session)
        inst->reply->session_release(inst->host, job->session);
    free(job);
    job_end(inst);
}

/* Has fn run on the pool; when the pool is full, on this thread: what it does is short enough for that. */
static void job_start(struct zr_inst *inst, struct zr_session *session, void (*fn)(struct zr_inst *, struct zr_session *))
{
    struct job *job = malloc(sizeof *job);
    if (job) {
        *job = (struct job){ inst, session ? inst->reply->session_hold(inst->host, session) : NULL, fn };
        pthread_mutex_lock(&inst->small);
        inst->jobs++;
        pthread_mutex_unlock(&inst->small);
        if (inst->work && inst->work->run(inst->host, job_run, job) == ZR_OK)
            return;
        job_run(job);
        return;
    }
    fn(inst, session);
}

/* ---- expiry ----------------------------------------------------------------------------------------------------------- */

static void expiry_look(struct zr_inst *inst, struct zr_session *session)
{
    (void)session;
    ns_expiry_arm(inst, ns_expire(inst));
}

/* On the timer thread: looking may take long, so it goes to the pool. */
static void expiry_due(void *arg) { job_start(arg, NULL, expiry_look); }

void ns_expiry_arm(struct zr_inst *inst, int64_t at_ns) { rt_alarm_bring(&inst->expiry, at_ns); }

static void jobs_wait(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->small);
    while (inst->jobs > 0)
        pthread_cond_wait(&inst->changed, &inst->small);
    pthread_mutex_unlock(&inst->small);
}

/* ---- the end of connections ------------------------------------------------------------------------------------------- */

static zr_status on_session_closed(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    (void)verdict;
    if (event->session && ns_has_session(inst, event->session))
        job_start(inst, event->session, ns_session_gone);
    return ZR_OK;
}

static const struct zr_hook hooks[] = {
    { ZR_HDR(struct zr_hook, 0), ZR_POINT_SESSION_CLOSED, ZR_CLASS_OBSERVE, NULL, 0, 0, NULL, NULL, on_session_closed },
};
static const struct zr_hooks_v1 ns_hooks = { ZR_HDR(struct zr_hooks_v1, 0), hooks, sizeof hooks / sizeof *hooks, 0 };

/* ---- zarya.registry/1 ------------------------------------------------------------------------------------------------- */

struct local { /* topics of this process's broker on their way into a registration */
    struct ns_topic_conf *topics;
    uint64_t n, cap;
    int32_t permission;
    uint32_t failed;
};

static int32_t local_add(void *ctx, const struct zr_topic *topic)
{
    struct local *local = ctx;
    if (local->n == local->cap) {
        uint64_t cap = local->cap ? local->cap * 2 : 64;
        struct ns_topic_conf *grown = realloc(local->topics, cap * sizeof *grown);
        if (!grown)
            return (int32_t)(local->failed = 1);
        local->topics = grown;
        local->cap = cap;
    }
    struct zr_str name = ns_dup(topic->name);
    if (!name.ptr)
        return (int32_t)(local->failed = 1);
    local->topics[local->n++] = (struct ns_topic_conf){ name, topic->read_queues, topic->write_queues,
                                                        topic->perm & (local->permission | ZR_PERM_INHERIT), topic->sys_flag };
    return 0;
}

static void local_add_one(void *ctx, const struct zr_topic *topic) { (void)local_add(ctx, topic); }

static zr_status local_register(struct zr_inst *inst, const struct zr_str *topics, uint32_t n)
{
    struct zr_identity who = { .hdr = ZR_HDR(struct zr_identity, 0) };
    struct ns_content content = { 0 };
    struct ns_registered done;
    inst->broker->identity(inst->host, &who);
    struct local local = { .permission = who.permission };
    inst->broker->topic_version(inst->host, &content.version); /* before the topics: then they are at least as new */
    if (n == 0)
        inst->broker->each_topic(inst->host, local_add, &local);
    for (uint32_t i = 0; i < n; i++)
        (void)inst->broker->topic(inst->host, topics[i], local_add_one, &local);
    content.topics = local.topics;
    content.n_topics = local.n;
    struct ns_registration reg = { who.cluster, who.name, who.addr, who.ha_addr, { NULL, 0 }, who.id, 0, 0, 1, NULL, &content };
    zr_status status = local.failed ? ZR_ENOMEM : ns_register(inst, &reg, &done);
    for (uint64_t i = 0; i < local.n; i++)
        free((char *)local.topics[i].name.ptr);
    free(local.topics);
    return status;
}

static void on_changed(struct zr_inst *inst, const struct zr_str *topics, uint32_t n, void (*on_done)(void *ctx, zr_status status), void *ctx)
{
    zr_status status = ZR_OK;
    pthread_rwlock_rdlock(&inst->lock);
    uint32_t announce = inst->set.announce_local && inst->broker;
    pthread_rwlock_unlock(&inst->lock);
    if (announce && (status = local_register(inst, topics, n)) == ZR_EAGAIN)
        status = local_register(inst, NULL, 0); /* a single topic cannot be the first word of a broker */
    if (status != ZR_OK)
        ns_log(inst, ZR_LOG_ERROR, "the broker of this process could not be put into the tables: status %d", status);
    if (on_done)
        on_done(ctx, status == ZR_OK ? ZR_OK : ZR_ECLOSED);
}

static void on_removed(struct zr_inst *inst, struct zr_str topic)
{
    struct zr_identity who = { .hdr = ZR_HDR(struct zr_identity, 0) };
    struct zr_data_version version = { 0, 0, 0 };
    if (!inst->broker)
        return;
    inst->broker->identity(inst->host, &who);
    inst->broker->topic_version(inst->host, &version);
    ns_delete_local(inst, topic, who.name, &version);
}

static const struct zr_registry_v1 ns_registry = { ZR_HDR(struct zr_registry_v1, 0), on_changed, on_removed, ns_lookup };

/* ---- life ------------------------------------------------------------------------------------------------------------- */

static void locks_init(struct zr_inst *inst)
{
    pthread_rwlockattr_t attr;
    pthread_rwlockattr_init(&attr);
    pthread_rwlockattr_setkind_np(&attr, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
    pthread_rwlock_init(&inst->lock, &attr);
    pthread_rwlockattr_destroy(&attr);
    pthread_mutex_init(&inst->order, NULL);
    pthread_mutex_init(&inst->small, NULL);
    pthread_mutex_init(&inst->cluster_mutex, NULL);
    pthread_cond_init(&inst->changed, NULL);
    for (uint32_t i = 0; i < NS_STRIPES; i++)
        pthread_mutex_init(&inst->stripes[i].mutex, NULL);
}

static void locks_free(struct zr_inst *inst)
{
    pthread_rwlock_destroy(&inst->lock);
    pthread_mutex_destroy(&inst->order);
    pthread_mutex_destroy(&inst->small);
    pthread_mutex_destroy(&inst->cluster_mutex);
    pthread_cond_destroy(&inst->changed);
    for (uint32_t i = 0; i < NS_STRIPES; i++)
        pthread_mutex_destroy(&inst->stripes[i].mutex);
}

static zr_status ns_raise(const struct zr_host *host, zr_status status, const char *text)
{
    const struct zr_err_v1 *err = host->query(host, ZR_SVC_ERR);
    if (err) {
        struct zr_error error = { ZR_HDR(struct zr_error, 0), status, 0, 0, 0, zl_str(text) };
        err->raise(host, &error);
    }
    return status;
}

static uint32_t path_ok(struct zr_str path)
{
    if (path.len == 0 || path.len > 1024 || path.ptr[path.len - 1] == '/')
        return 0;
    for (uint64_t i = 0; i + 1 < path.len; i++)
        if (path.ptr[i] == '.' && path.ptr[i + 1] == '.')
            return 0;
    return 1;
}

static zr_status ns_check(const struct zr_host *host, const void *settings)
{
    const struct ns_settings *set = settings;
    if (!path_ok(set->kv_path) || !path_ok(set->config_path))
        return ns_raise(host, ZR_EINVAL, "kv_path and config_path are names of documents without '..'");
    if (zl_eq(set->kv_path, set->config_path))
        return ns_raise(host, ZR_EINVAL, "kv_path and config_path name the same document");
    return ZR_OK;
}

/* Documents live below the data directory. An absolute path (namesrv.conf has such) counts when it points there; else the file's
 * name is taken, and ns_kv_load takes its contents over. */
static struct zr_str path_below(const struct zr_host *host, struct zr_str path)
{
    uint64_t len = strlen(host->data_dir), base = path.len;
    if (path.ptr[0] != '/')
        return path;
    if (path.len > len + 1 && memcmp(path.ptr, host->data_dir, len) == 0 && path.ptr[len] == '/')
        return (struct zr_str){ path.ptr + len + 1, path.len - len - 1 };
    while (path.ptr[base - 1] != '/')
        base--;
    return (struct zr_str){ path.ptr + base, path.len - base };
}

static void settings_take(struct zr_inst *inst, const struct ns_settings *settings)
{
    inst->set = *settings;
    inst->set.kv_path = path_below(inst->host, settings->kv_path);
    inst->set.config_path = path_below(inst->host, settings->config_path);
    inst->kv_given = settings->kv_path;
}

static zr_status ns_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst)
        return ZR_ENOMEM;
    inst->host = host;
    settings_take(inst, settings);
    inst->reply = host->query(host, ZR_SVC_REPLY);
    inst->timer = host->query(host, ZR_SVC_TIMER);
    inst->log = host->query(host, ZR_SVC_LOG);
    inst->work = host->query(host, ZR_SVC_WORK);
    inst->state = host->query(host, ZR_SVC_STATE);
    inst->call = host->query(host, ZR_SVC_CALL);
    inst->broker = host->query(host, ZR_SVC_BROKER);
    inst->metrics = host->query(host, ZR_SVC_METRICS);
    if (!inst->reply || !inst->timer || !inst->state) {
        free(inst);
        return ns_raise(host, ZR_ENOTSUP, "routing-namesrv needs the services zarya.reply/1, zarya.timer/1 and zarya.state/1");
    }
    locks_init(inst);
    rt_alarm_init(&inst->expiry, host, inst->timer, expiry_due, inst);
    *ret = inst;
    return ZR_OK;
}

static zr_status ns_warm(struct zr_inst *inst)
{
    zr_status status;
    rt_alarm_open(&inst->expiry);
    inst->started_ns = ns_now(inst);
    if (inst->metrics && inst->metrics->declare(inst->host, ns_metrics, sizeof ns_metrics / sizeof *ns_metrics, &inst->first_metric) != ZR_OK)
        inst->metrics = NULL;
    if ((status = ns_kv_load(inst)) != ZR_OK)
        ns_raise(inst->host, status, "the KV configuration cannot be read; repair or remove the document named by kv_path and its .bak");
    else if ((status = ns_conf_load(inst)) != ZR_OK)
        ns_raise(inst->host, status, "the document named by config_path cannot be read; repair or remove it and its .bak");
    if (status != ZR_OK)
        ns_kv_free(inst);
    return status;
}

static void ns_cool(struct zr_inst *inst)
{
    rt_alarm_close(&inst->expiry);
    jobs_wait(inst);
    ns_tables_free(inst);
    ns_kv_free(inst);
    ns_body_unref(inst->cluster_info);
    inst->cluster_info = NULL;
}

static void ns_destroy(struct zr_inst *inst)
{
    locks_free(inst);
    rt_alarm_free(&inst->expiry);
    free(inst);
}

static zr_status ns_retune(struct zr_inst *inst, const void *settings)
{
    pthread_rwlock_wrlock(&inst->lock);
    settings_take(inst, settings);
    inst->gen++;
    pthread_rwlock_unlock(&inst->lock);
    return ZR_OK;
}

static const void *ns_query(struct zr_inst *inst, const char *iface_id)
{
    (void)inst;
    if (strcmp(iface_id, ZR_IF_REQUESTS) == 0)
        return &ns_requests;
    if (strcmp(iface_id, ZR_IF_REGISTRY) == 0)
        return &ns_registry;
    if (strcmp(iface_id, ZR_IF_HOOKS) == 0)
        return &ns_hooks;
    return NULL;
}

ZR_MANIFEST("id = routing-namesrv\n"
            "version = 1.0.0\n"
            "abi = 1.0\n"
            "provides = zarya.requests/1\n"
            "provides = zarya.registry/1\n"
            "provides = zarya.hooks/1\n");

static struct zr_plugin ns_plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "routing-namesrv",
    .version = "1.0.0",
    .summary = "RocketMQ's name server: which broker has which topic, for clients, brokers and tools.",
    .options = ns_options,
    .settings_size = sizeof(struct ns_settings),
    .swap = ZR_SWAP_NEVER,
    .check = ns_check,
    .create = ns_create,
    .warm = ns_warm,
    .cool = ns_cool,
    .destroy = ns_destroy,
    .retune = ns_retune,
    .query = ns_query,
};

ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    ns_plugin.n_options = ns_n_options;
    return &ns_plugin;
}
