/* SPDX-License-Identifier: Apache-2.0 */
/* lifecycle.c - instances from configured name to destroyed, as one transaction.
 *
 * What stays true:
 *   1. zk_instances holds them providers first; everything forward (create, warm, activate) goes in that order, everything
 *      back (drain, cool, destroy) in reverse. But transports, and what calls through them, are activated behind all others: the
 *      first request finds every plugin at work.
 *   2. When a step fails, what was done is undone in reverse, and the instance that failed gets no further call but destroy.
 *   3. An optional plugin that is refused up to create is left out with a warning, together with optional ones that require it. From create on
 *      the transaction is all or nothing, except that an optional plugin whose warm fails is destroyed and left out.
 *   4. Several entries of one file share its code (one copy, one generation), never their settings.
 *
 * LOCKING. `drain_lock` guards the count of answers to drain, which may come from any thread. */
#include "config/options.h"
#include "core/core_int.h"
#include "plugin/plugin.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define INSTANCES_MAX 256u

/* Behind each instance; zk_instance is the first member, so the list can be of it. */
struct made {
    struct zk_instance in;
    struct zr_plugin descriptor;
    struct zk_manifest note;
    uint32_t loaded, dropped;
    uint32_t drain; /* DRAIN_* */
    uint32_t reserved;
};

static struct made *all;              /* by configured order, n_all */
static uint32_t n_all;
static struct zk_instance **ordered;  /* what zk_instances points to */

static struct made *made_of(struct zk_instance *in) { return (struct made *)(void *)in; }
static struct made *made_at(uint32_t i) { return made_of(zk_instances[i]); }

#define SPOKEN_MIN 6u /* bytes */

/* ---- refusing -------------------------------------------------------------------------------------------------------------------- */

/* The written value that the reason speaks of ("cannot listen on 10.0.0.1:9876: ..."), so that the line shown is its line. Only
 * values that can be told from other words; the longest wins. */
static void find_spoken_of(const struct zk_conf *group, const char *why, const struct zk_conf **best)
{
    for (const struct zk_conf *c = group ? group->child : NULL; c; c = c->next) {
        if (c->kind == ZK_CONF_GROUP || c->kind == ZK_CONF_LIST)
            find_spoken_of(c, why, best);
        else if (c->kind == ZK_CONF_STR && c->text.len >= SPOKEN_MIN && (!*best || c->text.len > (*best)->text.len) &&
                 memmem(why, strlen(why), c->text.ptr, c->text.len))
            *best = c;
    }
}

/* The written setting that a reason names at its beginning ("delete_when: hours from ..."), and *ret_rest the reason behind that. */
static const struct zk_conf *setting_named(const struct zk_conf *group, const char *why, const char **ret_rest)
{
    const char *end = strchr(why, ':');
    struct zr_str head = { why, end ? (uint64_t)(end - why) : 0 }, word;
    while (head.len > 0 && zl_split(&head, ',', &word)) {
        struct zr_str name = zl_trim(word);
        for (const struct zk_conf *c = group ? group->child : NULL; c; c = c->next)
            if (zl_is(name, c->name)) {
                *ret_rest = end;
                return c;
            }
    }
    return NULL;
}

/* A value that somebody wrote and that cannot be is a mistake, in the settings of an optional plugin too. 1: it was one. */
static uint32_t refuse_setting(struct made *m, const char *what)
{
    const char *why = zk_err_text(), *rest = "";
    const struct zk_conf *at = setting_named(m->in.conf->settings_node, why, &rest);
    if (at)
        zk_problem(at->file, at->line, "plugin %s: %s%s%s", m->in.as, what, at->origin ? at->origin : at->name, rest);
    return at != NULL;
}

/* Says why: refuses a critical plugin, leaves out an optional one. 1: left out. */
static uint32_t refuse(struct made *m, const char *what)
{
    const struct zk_plugin_conf *c = m->in.conf;
    const char *why = *zk_err_text() ? zk_err_text() : "no reason given";
    const struct zk_conf *at = NULL;
    if (m->in.critical) {
        find_spoken_of(c->settings_node, why, &at);
        zk_problem(at ? at->file : c->file, at ? at->line : c->line, "plugin %s: %s%s", m->in.as, what, why);
        return 0;
    }
    m->dropped = 1;
    if (!c->quiet || strncmp(why, "L01:", 4) != 0)
        zk_warning(c->file, c->line, "optional plugin %s is left out: %s%s", m->in.as, what, why);
    return 1;
}

/* ---- finding ---------------------------------------------------------------------------------------------------------------------- */

static zr_status find_one(struct made *m)
{
    const char *path;
    zr_status status = zk_plugin_file(m->in.conf->use, &path);
    if (status != ZR_OK)
        return status;
    status = zk_manifest_read(path, &m->note);
    if (status != ZR_OK)
        return status;
    m->in.file = path;
    m->in.id = m->note.id;
    m->in.version = m->note.version;
    if (!strchr(m->in.conf->use, '/') && strcmp(m->note.id, m->in.conf->use) != 0) {
        zk_err_raise(ZR_EINVAL, 0, "L08: %s calls itself %s in its note, not %s", path, m->note.id, m->in.conf->use);
        return ZR_EINVAL;
    }
    return ZR_OK;
}

static uint32_t offers(const struct made *m, const char *what)
{
    return zk_manifest_has(m->note.provides, what) || strcmp(m->note.id, what) == 0;
}

struct who { const char *what; char text[512]; uint32_t at; };

static void add_provider(void *ctx, const struct zk_manifest *m)
{
    struct who *w = ctx;
    if (zk_manifest_has(m->provides, w->what) && w->at < sizeof w->text)
        w->at += (uint32_t)snprintf(w->text + w->at, sizeof w->text - w->at, "%s%s", w->at ? " or " : "", m->id);
}

/* A requirement may also be one of the host's services. */
static uint32_t is_provided(const struct made *user, const char *what)
{
    for (uint32_t i = 0; i < n_all; i++)
        if (&all[i] != user && !all[i].dropped && offers(&all[i], what))
            return 1;
    if (strcmp(what, ZR_SVC_STORE) == 0 || strcmp(what, ZR_SVC_BROKER) == 0 || strcmp(what, ZR_SVC_DURABILITY) == 0)
        return zk_node.with_broker;
    return zk_service(what) != NULL;
}

static zr_status check_requirements(struct made *m)
{
    for (const char **need = m->note.requires; *need; need++) {
        if (is_provided(m, *need))
            continue;
        struct who who = { *need, "", 0 };
        zk_plugins_installed(add_provider, &who);
        zk_err_raise(ZR_ENOENT, 0, "L09: it requires %s, which no configured plugin provides%s%s%s", *need, who.at ? " (" : " and no installed one does",
                     who.text, who.at ? " would)" : "");
        return ZR_ENOENT;
    }
    return ZR_OK;
}

static zr_status check_conflicts(struct made *m)
{
    for (const char **with = m->note.conflicts; *with; with++)
        for (uint32_t i = 0; i < n_all; i++)
            if (&all[i] != m && !all[i].dropped && offers(&all[i], *with)) {
                zk_err_raise(ZR_EINVAL, 0, "L10: it conflicts with %s, and %s (%s:%u) is that", *with, all[i].in.as, all[i].in.conf->file, all[i].in.conf->line);
                return ZR_EINVAL;
            }
    return ZR_OK;
}

/* The broker's messages lie in one place. */
static zr_status check_storages(struct made *m)
{
    for (struct made *first = all; first < m && zk_manifest_has(m->note.provides, ZR_IF_STORAGE); first++)
        if (!first->dropped && first->note.id && zk_manifest_has(first->note.provides, ZR_IF_STORAGE)) {
            zk_err_raise(ZR_EEXIST, 0, "L12: it is a storage, and there can be one only: %s (%s:%u) is one too", first->in.as, first->in.conf->file, first->in.conf->line);
            return ZR_EEXIST;
        }
    return ZR_OK;
}

/* Leaving one out may leave another without what it requires, so this goes on until nothing changes. */
static void settle(zr_status (*check)(struct made *m))
{
    for (uint32_t again = 1; again;) {
        again = 0;
        for (uint32_t i = 0; i < n_all; i++)
            if (!all[i].dropped && all[i].note.id && check(&all[i]) != ZR_OK)
                again |= refuse(&all[i], "");
        if (zk_n_problems() > 0)
            return;
    }
}

static void look_at_kinds(void)
{
    zk_node.with_broker = zk_node.with_namesrv = 0;
    for (uint32_t i = 0; i < n_all; i++) {
        if (all[i].dropped || !all[i].note.id)
            continue;
        zk_node.with_broker |= zk_manifest_has(all[i].note.provides, ZR_IF_STORAGE);
        zk_node.with_namesrv |= strcmp(all[i].note.id, "routing-namesrv") == 0;
    }
}

static zr_status put_in_order(void)
{
    struct zk_order_item *items = zk_conf_alloc((n_all + 1u) * sizeof *items);
    uint32_t n = 0;
    for (uint32_t i = 0; i < n_all; i++)
        if (!all[i].dropped)
            items[n++] = (struct zk_order_item){ all[i].in.as, &all[i].note, &all[i] };
    zr_status status = zk_order_solve(items, n);
    if (status != ZR_OK) {
        zk_problem(n ? ((struct made *)items[0].user)->in.conf->file : NULL, 0, "%s", zk_err_text());
        return status;
    }
    for (uint32_t i = 0; i < n; i++)
        ordered[i] = &((struct made *)items[i].user)->in;
    zk_instances = ordered;
    zk_n_instances = n;
    return ZR_OK;
}

static const void *host_query(const struct zr_host *host, const char *service_id)
{
    (void)host;
    return zk_service(service_id);
}

static void make_all(void)
{
    n_all = zk_node.n_plugins < INSTANCES_MAX ? zk_node.n_plugins : INSTANCES_MAX;
    all = zk_conf_alloc((n_all + 1u) * sizeof *all);
    ordered = zk_conf_alloc((n_all + 1u) * sizeof(struct zk_instance *));
    zk_n_instances = 0;
    for (uint32_t i = 0; i < n_all; i++) {
        struct zk_instance *in = &all[i].in;
        in->conf = &zk_node.plugins[i];
        in->as = in->conf->as;
        in->critical = in->conf->critical;
        in->manifest = &all[i].note;
        in->plugin = &all[i].descriptor;
        in->host = (struct zr_host){ ZR_HDR(struct zr_host, 0), in, host_query, in->as, zk_node.data_dir };
    }
}

zr_status zk_plugins_find(void)
{
    make_all();
    if (zk_node.n_plugins > INSTANCES_MAX)
        zk_problem(zk_node.plugins[INSTANCES_MAX].file, zk_node.plugins[INSTANCES_MAX].line, "more than %u plugins are configured", INSTANCES_MAX);
    for (uint32_t i = 0; i < n_all; i++) {
        zk_err_clear();
        if (find_one(&all[i]) != ZR_OK)
            refuse(&all[i], "");
    }
    look_at_kinds();
    if (zk_n_problems() == 0)
        settle(check_requirements);
    if (zk_n_problems() == 0)
        settle(check_conflicts);
    if (zk_n_problems() == 0)
        settle(check_storages);
    look_at_kinds();
    return zk_n_problems() > 0 ? ZR_EINVAL : put_in_order();
}

/* ---- loading ----------------------------------------------------------------------------------------------------------------------- */

static zr_status load_code(struct made *m, const char *folder)
{
    for (uint32_t i = 0; i < n_all; i++)
        if (all[i].loaded && strcmp(all[i].in.file, m->in.file) == 0) {
            m->descriptor = all[i].descriptor;
            m->in.generation = all[i].in.generation;
            return ZR_OK;
        }
    return zk_library_load(&m->note, folder, &m->descriptor, &m->in.generation);
}

static void unknown_setting(const struct zk_conf *value) { zk_conf_no_effect(value); }

static zr_status fill_settings(struct made *m)
{
    const struct zk_plugin_conf *c = m->in.conf;
    struct zk_rows rows = { m->descriptor.options, m->descriptor.n_options, m->descriptor.settings_size, zk_conf_fmt("%s.settings", m->in.as) };
    uint32_t had = zk_n_problems();
    m->in.settings = zk_conf_alloc(m->descriptor.settings_size + 1u);
    if (zk_rows_sound(&rows, c->file, c->line))
        zk_rows_fill(&rows, c->settings_node, c->file, c->line, m->in.settings, unknown_setting);
    return zk_n_problems() == had ? ZR_OK : ZR_EINVAL;
}

/* Takes those that were left out off the list. */
static void close_ranks(void)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < zk_n_instances; i++)
        if (!made_at(i)->dropped)
            ordered[n++] = zk_instances[i];
    zk_n_instances = n;
}

zr_status zk_plugins_load(const char *folder)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        struct made *m = made_at(i);
        zk_err_clear();
        if (load_code(m, folder) != ZR_OK) {
            refuse(m, "");
            continue;
        }
        m->loaded = 1;
        fill_settings(m);
    }
    close_ranks();
    if (zk_n_problems() == 0)
        settle(check_requirements); /* someone may have been left out */
    close_ranks();
    return zk_n_problems() > 0 ? ZR_EINVAL : ZR_OK;
}

zr_status zk_plugins_check(void)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        struct made *m = made_at(i);
        zk_err_clear();
        if (m->descriptor.check && m->descriptor.check(&m->in.host, m->in.settings) != ZR_OK && !refuse_setting(m, "L18: its check says no: "))
            refuse(m, "L18: its check says no: ");
    }
    close_ranks();
    return zk_n_problems() > 0 ? ZR_EINVAL : ZR_OK;
}

/* ---- creating ----------------------------------------------------------------------------------------------------------------------- */

static void set_stage(struct zk_instance *in, uint32_t stage) { __atomic_store_n(&in->stage, stage, __ATOMIC_RELEASE); }

static zr_status create_one(struct made *m)
{
    struct zk_instance *in = &m->in;
    in->metric_memory = zk_metric_of(in->as, "zarya_plugin_memory_bytes", ZR_METRIC_GAUGE, "Memory that the instance has from zarya.mem/1.");
    zr_status status = m->descriptor.create(&in->host, in->settings, &in->inst);
    if (status == ZR_OK && !in->inst) {
        zk_err_raise(ZR_EINTERNAL, 0, "create said that all is well and gave no instance");
        status = ZR_EINTERNAL;
    }
    if (status != ZR_OK) {
        in->inst = NULL;
        return status;
    }
    set_stage(in, ZK_COLD);
    for (const char **iface = m->note.provides; *iface && status == ZR_OK; iface++)
        status = zk_tables_take(in, *iface);
    return status;
}

static void destroy_one(struct made *m)
{
    if (m->in.inst)
        m->descriptor.destroy(m->in.inst);
    m->in.inst = NULL;
    set_stage(&m->in, ZK_LOADED);
}

zr_status zk_plugins_create(void)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        struct made *m = made_at(i);
        zk_err_clear();
        if (create_one(m) == ZR_OK)
            continue;
        uint32_t left_out = refuse(m, "cannot be created: ");
        destroy_one(m);
        if (!left_out)
            goto failed;
    }
    close_ranks();
    if (zk_hooks_build() == ZR_OK)
        return ZR_OK;
    zk_problem(NULL, 0, "%s", zk_err_text());
failed:
    zk_plugins_destroy();
    return ZR_EINVAL;
}

/* ---- warming ------------------------------------------------------------------------------------------------------------------------- */

/* An optional one that cannot be warmed is left out, unless its hooks or tables are needed by those warmed after it. */
static uint32_t leave_out_warm(struct made *m)
{
    uint32_t left_out = refuse(m, "cannot start: ");
    destroy_one(m);
    m->in.transport = NULL;
    m->in.storage = NULL;
    m->in.registry = NULL;
    m->in.filter = NULL;
    m->in.hooks = NULL;
    m->in.requests = NULL;
    m->in.commands = NULL;
    if (left_out)
        left_out = zk_hooks_build() == ZR_OK;
    return left_out;
}

zr_status zk_plugins_warm(void)
{
    uint32_t i = 0;
    while (i < zk_n_instances) {
        struct made *m = made_at(i);
        zk_err_clear();
        zr_status status = check_requirements(m); /* an optional provider may just have been left out */
        if (status == ZR_OK && m->descriptor.warm)
            status = m->descriptor.warm(m->in.inst);
        if (status == ZR_OK) {
            set_stage(&m->in, ZK_WARM);
            i++;
            continue;
        }
        uint32_t left_out = leave_out_warm(m);
        m->dropped = 1; /* destroyed: nobody may call it, whatever comes next */
        close_ranks();
        if (!left_out) {
            zk_plugins_cool();
            zk_plugins_destroy();
            return status;
        }
    }
    return ZR_OK;
}

static uint32_t meets_clients(const struct zk_instance *in) { return in->transport != NULL || in->registry != NULL; }

static void activate_those(uint32_t meeting_clients)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        struct made *m = made_at(i);
        if (meets_clients(&m->in) != meeting_clients)
            continue;
        if (m->descriptor.activate)
            m->descriptor.activate(m->in.inst);
        set_stage(&m->in, ZK_ACTIVE);
    }
}

void zk_plugins_activate(void)
{
    activate_those(0);
    activate_those(1);
}

/* ---- stopping ------------------------------------------------------------------------------------------------------------------------- */

#define DRAIN_NO 0u
#define DRAIN_ASKED 1u
#define DRAIN_ANSWERED 2u
#define DRAIN_GIVEN_UP 3u /* a late answer changes nothing */

static pthread_mutex_t drain_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t drain_wake;
static uint32_t drains_open;

static void drain_done(void *ctx, zr_status status)
{
    struct made *m = ctx;
    (void)status;
    pthread_mutex_lock(&drain_lock);
    uint32_t was = m->drain;
    if (was == DRAIN_ASKED) {
        m->drain = DRAIN_ANSWERED;
        drains_open--;
        pthread_cond_signal(&drain_wake);
    }
    pthread_mutex_unlock(&drain_lock);
    if (was == DRAIN_ANSWERED)
        zk_log(ZR_LOG_ERROR, "%s answered drain twice", m->in.as);
}

static void drain_ask(struct made *m)
{
    pthread_mutex_lock(&drain_lock);
    m->drain = DRAIN_ASKED;
    drains_open++;
    pthread_mutex_unlock(&drain_lock);
    if (m->descriptor.drain)
        m->descriptor.drain(m->in.inst, (struct zr_done){ drain_done, m });
    else
        drain_done(m, ZR_OK);
}

static void drain_wait(int64_t deadline_ns)
{
    struct timespec until = { deadline_ns / 1000000000, deadline_ns % 1000000000 };
    pthread_mutex_lock(&drain_lock);
    while (drains_open > 0 && pthread_cond_timedwait(&drain_wake, &drain_lock, &until) == 0)
        ;
    pthread_mutex_unlock(&drain_lock);
}

/* 1: it was asked and did not answer; from now on nobody waits for it. */
static uint32_t drain_give_up(struct made *m)
{
    pthread_mutex_lock(&drain_lock);
    uint32_t late = m->drain == DRAIN_ASKED;
    if (late) {
        m->drain = DRAIN_GIVEN_UP;
        drains_open--;
    }
    pthread_mutex_unlock(&drain_lock);
    return late;
}

static void drain_init(void)
{
    static uint32_t done;
    pthread_condattr_t attr;
    if (done)
        return;
    done = 1;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&drain_wake, &attr);
    pthread_condattr_destroy(&attr);
}

static uint32_t only_calls(const struct zk_instance *in)
{
    return in->registry && !in->requests && !in->hooks && !in->transport && !in->storage && !in->filter;
}

void zk_plugins_drain(uint32_t which, int64_t timeout_ns)
{
    drain_init();
    for (uint32_t i = zk_n_instances; i-- > 0;)
        if (zk_instances[i]->stage == ZK_ACTIVE && (which == ZK_DRAIN_ALL || only_calls(zk_instances[i])))
            drain_ask(made_at(i));
    drain_wait(zk_mono_ns() + timeout_ns);
    for (uint32_t i = zk_n_instances; i-- > 0;) {
        struct made *m = made_at(i);
        if (m->in.stage != ZK_ACTIVE || (which == ZK_DRAIN_CALLERS && !only_calls(&m->in)))
            continue;
        if (drain_give_up(m))
            zk_log(ZR_LOG_WARN, "%s did not finish what it had open within %lld ms; it is stopped all the same", m->in.as, (long long)(timeout_ns / 1000000));
        set_stage(&m->in, ZK_DRAINED);
    }
}

void zk_plugins_cool(void)
{
    for (uint32_t i = zk_n_instances; i-- > 0;) {
        struct made *m = made_at(i);
        if (m->in.stage != ZK_WARM && m->in.stage != ZK_DRAINED)
            continue;
        if (m->descriptor.cool)
            m->descriptor.cool(m->in.inst);
        set_stage(&m->in, ZK_COOLED);
        uint32_t threads = __atomic_load_n(&m->in.threads, __ATOMIC_RELAXED);
        if (threads > 0)
            zk_log(ZR_LOG_ERROR, "%s left %u threads behind", m->in.as, threads);
    }
    zk_hooks_drop();
}

void zk_plugins_destroy(void)
{
    zk_find_report_pins();
    for (uint32_t i = zk_n_instances; i-- > 0;)
        destroy_one(made_at(i));
    zk_hooks_drop();
    zk_n_instances = 0;
}
