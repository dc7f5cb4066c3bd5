/* SPDX-License-Identifier: Apache-2.0 */
/* services.c - the functions of core as tables for plugins: log, err, mem, timer, work, metrics, state, io. The instance that
 * calls is known from host->ctx; its name and generation go into what it logs, counts and allocates. */
#include "core/core_int.h"
#include "plugin/instance.h"
#include <stdatomic.h>
#include <stdlib.h>

/* ---- log, err ---- */
static uint32_t svc_log_level(const struct zr_host *host)
{
    (void)host;
    return zk_log_level();
}

static void svc_log_write(const struct zr_host *host, uint32_t level, struct zr_str text, const struct zr_field *fields, uint32_t n_fields)
{
    const struct zk_instance *in = zk_instance_of(host);
    uint64_t bytes = text.len;
    if (level > zk_log_level())
        return;
    for (uint32_t i = 0; fields && i < n_fields; i++)
        bytes += fields[i].name.len + fields[i].value.len;
    if (zk_log_pass(ZK_LOG_INSTANCE, level & 7u, in->as, bytes))
        zk_log_line(level, in->as, in->generation, text, fields, fields ? n_fields : 0);
}

static void svc_err_raise(const struct zr_host *host, const struct zr_error *error)
{
    (void)host;
    zk_err_take(error);
}

/* ---- mem: 16 bytes in front of each block keep its size, for the count ---- */
#define MEM_HEAD 16u

static void *svc_mem_alloc(const struct zr_host *host, uint64_t size)
{
    if (size > UINT64_MAX - MEM_HEAD)
        return NULL;
    uint64_t *p = malloc(size + MEM_HEAD);
    if (!p)
        return NULL;
    *p = size;
    zk_metric_add(zk_instance_of(host)->metric_memory, (int64_t)size);
    return (uint8_t *)p + MEM_HEAD;
}

static void svc_mem_release(const struct zr_host *host, void *ptr)
{
    if (!ptr)
        return;
    uint64_t *p = (uint64_t *)((uint8_t *)ptr - MEM_HEAD);
    zk_metric_add(zk_instance_of(host)->metric_memory, -(int64_t)*p);
    free(p);
}

/* ---- timer ---- */
static int64_t svc_mono_ns(const struct zr_host *host)
{
    (void)host;
    return zk_mono_ns();
}

static int64_t svc_wall_ms(const struct zr_host *host)
{
    (void)host;
    return zk_wall_ms();
}

static zr_status svc_timer_at(const struct zr_host *host, int64_t at_ns, void (*fn)(void *), void *arg, uint64_t *ret_id)
{
    /* A timer that outlives its instance would call into destroyed state. */
    if (__atomic_load_n(&zk_instance_of(host)->stage, __ATOMIC_ACQUIRE) == ZK_COOLED)
        return ZR_ECLOSED;
    return zk_timer_at(at_ns, fn, arg, ret_id);
}

static zr_status svc_timer_cancel(const struct zr_host *host, uint64_t id)
{
    (void)host;
    return zk_timer_cancel(id);
}

static zr_status svc_on_clock_set(const struct zr_host *host, void (*fn)(void *), void *arg)
{
    (void)host;
    return zk_on_clock_set(fn, arg);
}

/* ---- work ---- */
static zr_status svc_work_run(const struct zr_host *host, void (*fn)(void *), void *arg)
{
    (void)host;
    return zk_work(fn, arg);
}

static zr_status svc_work_spawn(const struct zr_host *host, const char *name, void (*fn)(void *), void *arg, uint64_t *ret_id)
{
    struct zk_instance *in = zk_instance_of(host);
    zr_status status = zk_thread_spawn(name, fn, arg, ret_id);
    if (status == ZR_OK)
        __atomic_fetch_add(&in->threads, 1, __ATOMIC_RELAXED);
    return status;
}

static zr_status svc_work_join(const struct zr_host *host, uint64_t id)
{
    struct zk_instance *in = zk_instance_of(host);
    zr_status status = zk_thread_join(id);
    if (status == ZR_OK)
        __atomic_fetch_sub(&in->threads, 1, __ATOMIC_RELAXED);
    return status;
}

/* ---- metrics ---- */

/* Ids of one declaration follow each other, so nobody else may declare in between: all of it happens on the main thread. */
static zr_status svc_metrics_declare(const struct zr_host *host, const struct zr_metric *metrics, uint32_t n, uint32_t *ret_first)
{
    const char *instance = zk_instance_of(host)->as;
    uint32_t first = 0;
    for (uint32_t i = 0; i < n; i++) {
        const struct zr_metric *m = (const void *)((const char *)metrics + (uint64_t)i * metrics->hdr.size);
        if (!m->name || m->kind < ZR_METRIC_COUNTER || m->kind > ZR_METRIC_HISTOGRAM) {
            zk_err_raise(ZR_EINVAL, 0, "metric %u has no name or an unknown kind", i);
            return ZR_EINVAL;
        }
        uint32_t id = zk_metric_of(instance, m->name, m->kind, m->doc);
        if (i == 0)
            first = id;
        if (id == 0 || id != first + i) {
            zk_err_raise(id == 0 ? ZR_EFULL : ZR_EEXIST, 0, "metric %s: %s", m->name,
                         id == 0 ? "the table of metrics is full, or it was declared with another kind" : "was declared before in another order");
            return id == 0 ? ZR_EFULL : ZR_EEXIST;
        }
    }
    *ret_first = first;
    return ZR_OK;
}

static void svc_metrics_add(const struct zr_host *host, uint32_t id, int64_t delta)
{
    (void)host;
    zk_metric_add(id, delta);
}

static void svc_metrics_set(const struct zr_host *host, uint32_t id, int64_t value)
{
    (void)host;
    zk_metric_set(id, value);
}

static void svc_metrics_observe(const struct zr_host *host, uint32_t id, int64_t value)
{
    (void)host;
    zk_metric_observe(id, value);
}

static void svc_metrics_each(const struct zr_host *host,
                             void (*each)(void *ctx, struct zr_str name, struct zr_str instance, uint32_t kind, struct zr_str doc, double value),
                             void *ctx)
{
    (void)host;
    zk_metrics_each(each, ctx);
}

/* ---- state ---- */
static zr_status svc_state_write(const struct zr_host *host, struct zr_str name, struct zr_span bytes)
{
    (void)host;
    return zk_state_write(name, bytes);
}

static zr_status svc_state_read(const struct zr_host *host, struct zr_str name, zr_status (*accept)(void *ctx, struct zr_span bytes), void *ctx)
{
    (void)host;
    return zk_state_read(name, accept, ctx);
}

void zk_core_provide_services(void)
{
    static const struct zr_log_v1 log_table = { ZR_HDR(struct zr_log_v1, 0), svc_log_level, svc_log_write };
    static const struct zr_err_v1 err_table = { ZR_HDR(struct zr_err_v1, 0), svc_err_raise };
    static const struct zr_mem_v1 mem_table = { ZR_HDR(struct zr_mem_v1, 0), svc_mem_alloc, svc_mem_release };
    static const struct zr_timer_v1 timer_table = { ZR_HDR(struct zr_timer_v1, 0), svc_mono_ns, svc_wall_ms, svc_timer_at, svc_timer_cancel,
                                                    svc_on_clock_set };
    static const struct zr_work_v1 work_table = { ZR_HDR(struct zr_work_v1, 0), svc_work_run, svc_work_spawn, svc_work_join };
    static const struct zr_metrics_v1 metrics_table = { ZR_HDR(struct zr_metrics_v1, 0), svc_metrics_declare, svc_metrics_add,
                                                        svc_metrics_set, svc_metrics_observe, svc_metrics_each };
    static const struct zr_state_v1 state_table = { ZR_HDR(struct zr_state_v1, 0), svc_state_write, svc_state_read };
    zk_service_provide(ZR_SVC_LOG, &log_table);
    zk_service_provide(ZR_SVC_ERR, &err_table);
    zk_service_provide(ZR_SVC_MEM, &mem_table);
    zk_service_provide(ZR_SVC_TIMER, &timer_table);
    zk_service_provide(ZR_SVC_WORK, &work_table);
    zk_service_provide(ZR_SVC_METRICS, &metrics_table);
    zk_service_provide(ZR_SVC_STATE, &state_table);
    zk_service_provide(ZR_SVC_IO, zk_io());
}
