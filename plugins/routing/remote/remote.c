/* SPDX-License-Identifier: Apache-2.0 */
/* remote.c - the plugin routing-remote: its life, zarya.registry/1, and those who wait for a change to be known.
 *
 * WAITERS. A waiter of generation g is done when each name server has acked g, or is failing or silent. acked_gen only grows, so when
 * one waiter must wait, all later ones must; the list is in order of g and is looked at from its front. A name server that lets a
 * waiter's patience run out is silent from then on, and it alone: others are still waited for. So no waiter waits longer than that. */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include "remote.h"

#define ROW_STR(member, name, dflt, doc) ZR_OPTION_ROW(struct rm_settings, member, name, ZR_OPT_STR, 0, dflt, NULL, NULL, NULL, doc)
#define ROW_MS(member, name, dflt, min, max, doc) ZR_OPTION_ROW(struct rm_settings, member, name, ZR_OPT_I64, 0, dflt, min, max, "ms", doc)
#define ROW_BOOL(member, name, doc) ZR_OPTION_ROW(struct rm_settings, member, name, ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL, doc)

static const struct zr_option rm_options[] = {
    ZR_OPTION_ROW(struct rm_settings, namesrv, "namesrv", ZR_OPT_LIST, 0, NULL, NULL, NULL, NULL,
                  "Name servers, \"host:port\"; one item may hold several, separated by ';'."),
    ROW_BOOL(fetch_address, "fetch_address", "Without namesrv: ask an HTTP address server, at the start and every fetch_interval."),
    ROW_MS(fetch_ms, "fetch_interval", "2 m", "100 ms", "1 h", "How often the address server is asked again."),
    ROW_STR(domain, "namesrv_domain", "", "Address server, \"host\" (port 8080) or \"host:port\"; setting it turns fetch_address on. Default: jmenv.tbsite.net."),
    ROW_STR(subgroup, "namesrv_subgroup", "nsaddr", "Last part of the address server's path, /rocketmq/<subgroup>."),
    ROW_STR(unit, "namesrv_unit", "", "Unit name, appended to the subgroup."),
    ROW_MS(heartbeat_ms, "heartbeat", "5 s", "1 s", "1 m", "How often each name server hears from us: a few hundred bytes."),
    ROW_MS(period_ms, "period", "30 s", "10 s", "1 m", "How often a full registration is sent, if force is on or a name server knows no heartbeat."),
    ROW_BOOL(force, "force", "Send full registrations every period even when nothing changed."),
    ROW_MS(timeout_ms, "timeout", "24 s", "1 s", "10 m", "How long a registration may take."),
    ROW_BOOL(compressed, "compressed", "Deflate registrations. topicSysFlag and order are not carried in that form."),
};

static const struct zr_metric rm_metrics[] = {
    { ZR_HDR(struct zr_metric, 0), "zarya_routing_register_bytes", "bytes", "Bytes sent to name servers to stay registered.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_routing_heartbeats_total", "requests", "Heartbeats sent to name servers.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_routing_full_total", "requests", "Full registrations sent.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_routing_increments_total", "requests", "Registrations of changed topics sent.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_routing_failed_total", "requests", "Registrations and heartbeats that came to nothing.", ZR_METRIC_COUNTER, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_routing_name_servers", "servers", "Name servers known.", ZR_METRIC_GAUGE, 0 },
    { ZR_HDR(struct zr_metric, 0), "zarya_routing_registered", "servers", "Name servers that hold this broker and answer.", ZR_METRIC_GAUGE, 0 },
};

void rm_log(struct zr_inst *inst, uint32_t level, const char *fmt, ...)
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

void rm_count(struct zr_inst *inst, uint32_t metric, int64_t n)
{
    if (inst->metrics)
        inst->metrics->add(inst->host, inst->first_metric + metric, n);
}

void rm_gauges(struct zr_inst *inst)
{
    uint32_t registered = 0;
    if (!inst->metrics)
        return;
    pthread_mutex_lock(&inst->mutex);
    for (struct rm_peer *peer = inst->peers; peer; peer = peer->next)
        registered += peer->registered && !peer->failures;
    uint32_t known = inst->n_peers;
    pthread_mutex_unlock(&inst->mutex);
    inst->metrics->set(inst->host, inst->first_metric + RM_METRIC_PEERS, known);
    inst->metrics->set(inst->host, inst->first_metric + RM_METRIC_REGISTERED, registered);
}

/* ---- what is under way ------------------------------------------------------------------------------------------------- */

void rm_enter_locked(struct zr_inst *inst) { inst->under_way++; }

void rm_leave(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->mutex);
    if (--inst->under_way == 0)
        pthread_cond_broadcast(&inst->idle);
    pthread_mutex_unlock(&inst->mutex);
}

void rm_job(struct zr_inst *inst, void (*fn)(void *arg), void *arg)
{
    if (!inst->work || inst->work->run(inst->host, fn, arg) != ZR_OK)
        fn(arg);
}

/* ---- waiters ----------------------------------------------------------------------------------------------------------- */

static uint32_t waiter_done_locked(struct zr_inst *inst, struct rm_waiter *waiter)
{
    uint32_t known = 0, silent = 0;
    for (struct rm_peer *peer = inst->peers; peer && !inst->draining; peer = peer->next) {
        if (peer->acked_gen >= waiter->gen)
            known++;
        else if (!peer->failures && !peer->silent)
            return 0;
        silent += peer->silent;
    }
    waiter->status = !inst->draining && (known || inst->n_peers == 0) ? ZR_OK : silent ? ZR_ETIMEOUT : ZR_ECLOSED;
    return 1;
}

struct rm_waiter *rm_waiters_take_locked(struct zr_inst *inst)
{
    struct rm_waiter *list = inst->waiters, **at = &inst->waiters;
    while (*at && waiter_done_locked(inst, *at)) {
        inst->n_waiters--;
        at = &(*at)->next;
    }
    struct rm_waiter *rest = *at;
    if (at == &inst->waiters)
        return NULL;
    *at = NULL;
    inst->waiters = rest;
    if (!rest)
        inst->waiters_end = &inst->waiters;
    return list;
}

void rm_waiters_tell(struct rm_waiter *list)
{
    for (struct rm_waiter *waiter = list, *next; waiter; waiter = next) {
        next = waiter->next;
        waiter->on_done(waiter->ctx, waiter->status);
        free(waiter);
    }
}

static uint32_t waiter_add_locked(struct zr_inst *inst, void (*on_done)(void *ctx, zr_status status), void *ctx)
{
    struct rm_waiter *waiter = inst->n_waiters < RM_MAX_WAITERS ? calloc(1, sizeof *waiter) : NULL;
    if (!waiter)
        return 0;
    *waiter = (struct rm_waiter){ NULL, inst->gen, on_done, ctx, ZR_OK, inst->timer->mono_ns(inst->host) + RM_PATIENCE_NS };
    *inst->waiters_end = waiter;
    inst->waiters_end = &waiter->next;
    inst->n_waiters++;
    return 1;
}

/* Those who kept the first waiter waiting too long; each gets a reference. */
static uint32_t peers_hush_locked(struct zr_inst *inst, struct rm_peer **hushed)
{
    uint32_t n = 0;
    int64_t now = inst->timer->mono_ns(inst->host);
    for (const struct rm_waiter *waiter = inst->waiters; waiter && waiter->until <= now; waiter = waiter->next)
        for (struct rm_peer *peer = inst->peers; peer; peer = peer->next)
            if (peer->acked_gen < waiter->gen && !peer->failures && !peer->silent) {
                peer->silent = 1;
                peer->refs++;
                hushed[n++] = peer; /* once each: at most RM_MAX_PEERS */
            }
    return n;
}

static void waiters_due(struct zr_inst *inst)
{
    struct rm_peer *hushed[RM_MAX_PEERS];
    pthread_mutex_lock(&inst->mutex);
    uint32_t n = peers_hush_locked(inst, hushed);
    struct rm_waiter *done = rm_waiters_take_locked(inst);
    pthread_mutex_unlock(&inst->mutex);
    for (uint32_t i = 0; i < n; i++)
        rm_log(inst, ZR_LOG_WARN, "name server %s does not answer: sends of new topics do not wait for it until it does", hushed[i]->url);
    rm_waiters_tell(done);
    pthread_mutex_lock(&inst->mutex);
    while (n > 0)
        rm_peer_unref_locked(hushed[--n]);
    pthread_mutex_unlock(&inst->mutex);
}

/* ---- zarya.registry/1 -------------------------------------------------------------------------------------------------- */

static void on_changed(struct zr_inst *inst, const struct zr_str *topics, uint32_t n, void (*on_done)(void *ctx, zr_status status), void *ctx)
{
    pthread_mutex_lock(&inst->mutex);
    uint32_t closed = inst->draining || !inst->broker;
    if (!closed) {
        rm_journal_add(inst, topics, n);
        inst->announced = 1;
    }
    uint32_t waits = !closed && on_done && waiter_add_locked(inst, on_done, ctx);
    struct rm_waiter *done = rm_waiters_take_locked(inst); /* nobody to tell, or all of them fail: before it brings the alarm */
    pthread_mutex_unlock(&inst->mutex);
    if (on_done && !waits)
        on_done(ctx, closed ? ZR_ECLOSED : ZR_ETIMEOUT);
    if (!closed)
        rm_peers_go(inst);
    rm_waiters_tell(done);
}

/* Name servers keep a topic until somebody deletes it there (mqadmin does), as with Apache. Ours never brings it back: it is not in
 * any body that is built from now on, and the version that changed makes the next heartbeat a full registration. */
static void on_removed(struct zr_inst *inst, struct zr_str topic)
{
    (void)inst;
    (void)topic;
}

static const struct zr_registry_v1 rm_registry = { ZR_HDR(struct zr_registry_v1, 0), on_changed, on_removed, rm_lookup };

/* ---- life -------------------------------------------------------------------------------------------------------------- */

/* On the timer thread; steps may encode thousands of topics, so they go to the pool. */
static void due_job(void *arg)
{
    struct zr_inst *inst = arg;
    rm_fetch_go(inst);
    waiters_due(inst);
    rm_peers_go(inst);
    rm_leave(inst);
}

static void on_due(void *arg)
{
    struct zr_inst *inst = arg;
    pthread_mutex_lock(&inst->mutex);
    rm_enter_locked(inst);
    pthread_mutex_unlock(&inst->mutex);
    rm_job(inst, due_job, inst);
}

static zr_status rm_raise(const struct zr_host *host, zr_status status, const char *text)
{
    const struct zr_err_v1 *err = host->query(host, ZR_SVC_ERR);
    if (err) {
        struct zr_error error = { ZR_HDR(struct zr_error, 0), status, 0, 0, 0, zl_str(text) };
        err->raise(host, &error);
    }
    return status;
}

static zr_status rm_check(const struct zr_host *host, const void *settings)
{
    char why[256];
    zr_status status = rm_addresses_check(settings, why, sizeof why);
    return status == ZR_OK ? ZR_OK : rm_raise(host, status, why);
}

static zr_status rm_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst)
        return ZR_ENOMEM;
    inst->host = host;
    inst->set = settings;
    inst->call = host->query(host, ZR_SVC_CALL);
    inst->broker = host->query(host, ZR_SVC_BROKER);
    inst->timer = host->query(host, ZR_SVC_TIMER);
    inst->work = host->query(host, ZR_SVC_WORK);
    inst->log = host->query(host, ZR_SVC_LOG);
    inst->metrics = host->query(host, ZR_SVC_METRICS);
    inst->waiters_end = &inst->waiters;
    if (!inst->call || !inst->timer) {
        free(inst);
        return rm_raise(host, ZR_ENOTSUP, "routing-remote needs the services zarya.call/1 and zarya.timer/1");
    }
    pthread_mutex_init(&inst->mutex, NULL);
    pthread_cond_init(&inst->idle, NULL);
    rt_alarm_init(&inst->alarm, host, inst->timer, on_due, inst);
    *ret = inst;
    return ZR_OK;
}

static zr_status rm_warm(struct zr_inst *inst)
{
    inst->draining = inst->announced = 0;
    rt_alarm_open(&inst->alarm);
    if (inst->metrics && inst->metrics->declare(inst->host, rm_metrics, sizeof rm_metrics / sizeof *rm_metrics, &inst->first_metric) != ZR_OK)
        inst->metrics = NULL;
    rm_addresses_load(inst);
    rm_gauges(inst);
    if (inst->n_peers == 0 && !rm_fetches(inst->set))
        rm_log(inst, ZR_LOG_WARN, "no name server is configured (namesrv, -n or NAMESRV_ADDR): clients will not find this broker");
    return ZR_OK;
}

static void rm_activate(struct zr_inst *inst)
{
    inst->fetch_at = inst->timer->mono_ns(inst->host);
    rm_fetch_go(inst);
}

static void rm_drain(struct zr_inst *inst, struct zr_done done)
{
    pthread_mutex_lock(&inst->mutex);
    inst->draining = 1;
    inst->drained = done;
    struct rm_waiter *waiters = rm_waiters_take_locked(inst);
    pthread_mutex_unlock(&inst->mutex);
    rm_waiters_tell(waiters);
    rt_alarm_close(&inst->alarm);
    rm_peers_goodbye(inst);
}

static void rm_cool(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->mutex);
    inst->draining = 1;
    pthread_mutex_unlock(&inst->mutex);
    rt_alarm_close(&inst->alarm);
    for (struct rm_peer *peer = inst->peers; peer; peer = peer->next) /* draining: the list stays as it is */
        inst->call->hang_up(inst->host, (struct zr_str){ peer->url, peer->url_len });
    pthread_mutex_lock(&inst->mutex);
    while (inst->under_way > 0)
        pthread_cond_wait(&inst->idle, &inst->mutex);
    while (inst->peers) {
        struct rm_peer *peer = inst->peers;
        inst->peers = peer->next;
        rm_peer_unref_locked(peer);
    }
    inst->n_peers = 0;
    rm_journal_free(inst);
    struct rm_waiter *waiters = rm_waiters_take_locked(inst);
    pthread_mutex_unlock(&inst->mutex);
    rm_waiters_tell(waiters);
}

static void rm_destroy(struct zr_inst *inst)
{
    rt_alarm_free(&inst->alarm);
    pthread_mutex_destroy(&inst->mutex);
    pthread_cond_destroy(&inst->idle);
    free(inst);
}

static const void *rm_query(struct zr_inst *inst, const char *iface_id)
{
    (void)inst;
    return strcmp(iface_id, ZR_IF_REGISTRY) == 0 ? &rm_registry : NULL;
}

ZR_MANIFEST("id = routing-remote\n"
            "version = 1.0.0\n"
            "abi = 1.0\n"
            "provides = zarya.registry/1\n");

static const struct zr_plugin rm_plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "routing-remote",
    .version = "1.0.0",
    .summary = "Registers this broker with name servers, Zarya's or Apache's, wherever they are.",
    .options = rm_options,
    .n_options = sizeof rm_options / sizeof *rm_options,
    .settings_size = sizeof(struct rm_settings),
    .swap = ZR_SWAP_NEVER,
    .check = rm_check,
    .create = rm_create,
    .warm = rm_warm,
    .activate = rm_activate,
    .drain = rm_drain,
    .cool = rm_cool,
    .destroy = rm_destroy,
    .query = rm_query,
};

ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &rm_plugin;
}
