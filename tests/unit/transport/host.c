/* SPDX-License-Identifier: Apache-2.0 */
/* host.c - see host.h. */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>
#include "host.h"

static struct mini *mini_of(const struct zr_host *host)
{
    return host->ctx;
}

static uint32_t log_level(const struct zr_host *host)
{
    (void)host;
    return ZR_LOG_DEBUG;
}

static void log_write(const struct zr_host *host, uint32_t level, struct zr_str text, const struct zr_field *fields, uint32_t n)
{
    struct mini *m = mini_of(host);
    (void)level, (void)fields, (void)n;
    pthread_mutex_lock(&m->lock);
    if (m->log_len + text.len + 2 < sizeof m->log) {
        memcpy(m->log + m->log_len, text.ptr, text.len);
        m->log_len += text.len;
        m->log[m->log_len++] = '\n';
    }
    pthread_mutex_unlock(&m->lock);
}

static void err_raise(const struct zr_host *host, const struct zr_error *error)
{
    struct mini *m = mini_of(host);
    pthread_mutex_lock(&m->lock);
    snprintf(m->error, sizeof m->error, "%.*s", (int)error->text.len, error->text.ptr);
    pthread_mutex_unlock(&m->lock);
}

struct job { struct mini *m; void (*fn)(void *arg); void *arg; };

static void *run_job(void *arg)
{
    struct job job = *(struct job *)arg;
    free(arg);
    job.fn(job.arg);
    atomic_fetch_sub(&job.m->jobs, 1u);
    return NULL;
}

static zr_status work_run(const struct zr_host *host, void (*fn)(void *arg), void *arg)
{
    struct job *job = malloc(sizeof *job);
    pthread_t thread;
    *job = (struct job){ mini_of(host), fn, arg };
    atomic_fetch_add(&job->m->jobs, 1u);
    if (pthread_create(&thread, NULL, run_job, job) != 0) {
        abort();
    }
    pthread_detach(thread);
    return ZR_OK;
}

static void *run_thread(void *arg)
{
    struct job job = *(struct job *)arg;
    free(arg);
    job.fn(job.arg);
    return NULL;
}

static zr_status work_spawn(const struct zr_host *host, const char *name, void (*fn)(void *arg), void *arg, uint64_t *ret_id)
{
    struct mini *m = mini_of(host);
    struct job *job = malloc(sizeof *job);
    *job = (struct job){ m, fn, arg };
    if (pthread_create(&m->threads[m->n_threads], NULL, run_thread, job) != 0) {
        abort();
    }
    pthread_setname_np(m->threads[m->n_threads], name);
    *ret_id = ++m->n_threads;
    return ZR_OK;
}

static zr_status work_join(const struct zr_host *host, uint64_t id)
{
    pthread_join(mini_of(host)->threads[id - 1], NULL);
    return ZR_OK;
}

static zr_status metrics_declare(const struct zr_host *host, const struct zr_metric *metrics, uint32_t n, uint32_t *ret_first)
{
    struct mini *m = mini_of(host);
    *ret_first = m->n_metrics;
    for (uint32_t i = 0; i < n; i++) {
        m->names[m->n_metrics++] = metrics[i].name;
    }
    return ZR_OK;
}

static void metrics_add(const struct zr_host *host, uint32_t id, int64_t delta)
{
    atomic_fetch_add(&mini_of(host)->values[id], delta);
}

static void metrics_set(const struct zr_host *host, uint32_t id, int64_t value)
{
    atomic_store(&mini_of(host)->values[id], value);
}

static int64_t timer_mono(const struct zr_host *host)
{
    struct timespec ts;
    (void)host;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * 1000000000ll + ts.tv_nsec;
}

static const struct zr_log_v1 log_service = { ZR_HDR(struct zr_log_v1, 0), log_level, log_write };
static const struct zr_err_v1 err_service = { ZR_HDR(struct zr_err_v1, 0), err_raise };
static const struct zr_work_v1 work_service = { ZR_HDR(struct zr_work_v1, 0), work_run, work_spawn, work_join };
static const struct zr_metrics_v1 metrics_service = { ZR_HDR(struct zr_metrics_v1, 0), metrics_declare, metrics_add, metrics_set, metrics_set, NULL };
static const struct zr_timer_v1 timer_service = { ZR_HDR(struct zr_timer_v1, 0), timer_mono, timer_mono, NULL, NULL, NULL };

static const void *host_query(const struct zr_host *host, const char *id)
{
    static const struct { const char *id; const void *table; } services[] = {
        { ZR_SVC_LOG, &log_service }, { ZR_SVC_ERR, &err_service }, { ZR_SVC_WORK, &work_service },
        { ZR_SVC_METRICS, &metrics_service }, { ZR_SVC_TIMER, &timer_service },
    };
    (void)host;
    for (size_t i = 0; i < sizeof services / sizeof services[0]; i++) {
        if (strcmp(services[i].id, id) == 0) {
            return services[i].table;
        }
    }
    return NULL;
}

/* ---- options ---------------------------------------------------------------------------------------------------- */

static void *keep(struct mini *m, void *p)
{
    return m->texts[m->n_texts++] = p;
}

static int64_t number(const char *text, const char *unit)
{
    static const struct { const char *name; int64_t factor; } units[] = {
        { "KiB", 1024 }, { "MiB", 1 << 20 }, { "GiB", 1 << 30 }, { "ms", 1 }, { "s", 1000 }
    };
    char *end;
    int64_t v = strtoll(text, &end, 10);
    while (*end == ' ') {
        end++;
    }
    for (size_t i = 0; i < sizeof units / sizeof units[0] && unit; i++) {
        if (strcmp(end, units[i].name) == 0) {
            return v * units[i].factor;
        }
    }
    return v;
}

static void put_list(struct mini *m, struct zr_list *to, const char *text)
{
    char *copy = keep(m, strdup(text)), *rest = copy, *word;
    struct zr_str *items = keep(m, calloc(64, sizeof *items));
    *to = (struct zr_list){ items, 0 };
    while ((word = strtok_r(rest, " ", &rest))) {
        items[to->n++] = (struct zr_str){ word, strlen(word) };
    }
}

static void put_option(struct mini *m, const struct zr_option *o, const char *text)
{
    char *at = (char *)m->settings + o->offset;
    if (!text) {
        return;
    }
    switch (o->type) {
    case ZR_OPT_I64: *(int64_t *)(void *)at = number(text, o->unit); break;
    case ZR_OPT_BOOL: *(uint8_t *)at = strcmp(text, "true") == 0; break;
    case ZR_OPT_STR: *(struct zr_str *)(void *)at = (struct zr_str){ text, strlen(text) }; break;
    case ZR_OPT_LIST: put_list(m, (struct zr_list *)(void *)at, text); break;
    case ZR_OPT_ENUM:
        for (int64_t i = 0; o->choices[i]; i++) {
            if (strcmp(o->choices[i], text) == 0) {
                *(int64_t *)(void *)at = i;
            }
        }
        break;
    default: abort();
    }
}

static void fill_settings(struct mini *m, const struct setting *given)
{
    m->settings = calloc(1, m->plugin->settings_size);
    for (uint32_t i = 0; i < m->plugin->n_options; i++) {
        put_option(m, &m->plugin->options[i], m->plugin->options[i].dflt);
    }
    for (; given && given->name; given++) {
        for (uint32_t i = 0; i < m->plugin->n_options; i++) {
            if (strcmp(m->plugin->options[i].name, given->name) == 0) {
                put_option(m, &m->plugin->options[i], given->value);
            }
        }
    }
}

/* ---- life ------------------------------------------------------------------------------------------------------- */

zr_status mini_create(struct mini *m, const char *id, const struct setting *settings)
{
    char path[512];
    memset(m, 0, sizeof *m);
    pthread_mutex_init(&m->lock, NULL);
    snprintf(path, sizeof path, "%s/%s.so", PLUGIN_DIR, id);
    void *lib = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    const struct zr_plugin *(*entry)(uint32_t) = NULL;
    if (lib) {
        *(void **)&entry = dlsym(lib, ZR_ENTRY_SYMBOL);
    }
    if (!entry) {
        fprintf(stderr, "%s\n", dlerror());
        abort();
    }
    m->plugin = entry(0);
    m->host = (struct zr_host){ ZR_HDR(struct zr_host, 0), m, host_query, id, "/nonexistent" };
    fill_settings(m, settings);
    zr_status status = m->plugin->check(&m->host, m->settings);
    if (status != ZR_OK) {
        return status;
    }
    status = m->plugin->create(&m->host, m->settings, &m->inst);
    m->t = status == ZR_OK ? m->plugin->query(m->inst, ZR_IF_TRANSPORT) : NULL;
    return status;
}

zr_status mini_start(struct mini *m, const struct zr_sink_v1 *sink)
{
    zr_status status = m->plugin->warm(m->inst);
    if (status == ZR_OK) {
        m->t->bind(m->inst, sink);
        m->plugin->activate(m->inst);
    }
    return status;
}

static void note_drained(void *ctx, zr_status status)
{
    (void)status;
    atomic_fetch_add(&((struct mini *)ctx)->drained, 1u);
}

/* Bounded by the test's own time limit. */
static void wait_until(_Atomic uint32_t *what, uint32_t value)
{
    while (atomic_load(what) != value) {
        struct timespec ts = { 0, 1000000 };
        nanosleep(&ts, NULL);
    }
}

void mini_drain(struct mini *m)
{
    m->plugin->drain(m->inst, (struct zr_done){ note_drained, m });
    wait_until(&m->drained, 1);
}

void mini_stop(struct mini *m)
{
    m->plugin->cool(m->inst);
    wait_until(&m->jobs, 0);
    m->plugin->destroy(m->inst);
    mini_free(m);
}

void mini_free(struct mini *m)
{
    for (uint32_t i = 0; i < m->n_texts; i++) {
        free(m->texts[i]);
    }
    free(m->settings);
    pthread_mutex_destroy(&m->lock);
}

int64_t mini_metric(struct mini *m, const char *suffix)
{
    for (uint32_t i = 0; i < m->n_metrics; i++) {
        size_t a = strlen(m->names[i]), b = strlen(suffix);
        if (a >= b && strcmp(m->names[i] + a - b, suffix) == 0) {
            return atomic_load(&m->values[i]);
        }
    }
    fprintf(stderr, "no metric %s\n", suffix);
    abort();
}

uint32_t mini_logged(struct mini *m, const char *text)
{
    uint32_t n = 0;
    pthread_mutex_lock(&m->lock);
    m->log[m->log_len] = '\0';
    for (const char *at = m->log; (at = strstr(at, text)); at++) {
        n++;
    }
    pthread_mutex_unlock(&m->lock);
    return n;
}
