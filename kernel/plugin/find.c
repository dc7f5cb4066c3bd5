/* SPDX-License-Identifier: Apache-2.0 */
/* find.c - host service zarya.find/1: one plugin binds an interface of another. A bound interface pins its provider.
 *
 * LOCKING. `lock` guards the table of pins; it is not held while a plugin runs. */
#include "core/core.h"
#include "plugin/plugin.h"
#include <pthread.h>

#define PINS_MAX 4096u

struct pin { struct zk_instance *user, *provider; uint32_t uses, reserved; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct pin pins[PINS_MAX];

static zr_status pin_add(struct zk_instance *user, struct zk_instance *provider, uint64_t *ret_pin)
{
    zr_status status = ZR_EFULL;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < PINS_MAX && status != ZR_OK; i++) {
        if (pins[i].provider)
            continue;
        pins[i].user = user;
        pins[i].provider = provider;
        *ret_pin = (uint64_t)++pins[i].uses << 32 | (i + 1u);
        __atomic_fetch_add(&provider->pins, 1, __ATOMIC_RELAXED);
        status = ZR_OK;
    }
    pthread_mutex_unlock(&lock);
    if (status != ZR_OK)
        zk_err_raise(status, 0, "the limit of %u bound interfaces is reached", PINS_MAX);
    return status;
}

/* The first in configured order, not in start order: that is what the operator wrote. */
static struct zk_instance *provider_of(const struct zk_instance *user, const char *iface, struct zr_str as)
{
    struct zk_instance *best = NULL;
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        struct zk_instance *in = zk_instances[i];
        if (in == user || !in->inst || !zk_manifest_has(in->manifest->provides, iface))
            continue;
        if (as.len > 0 ? zl_is(as, in->as) : !best || in->conf < best->conf)
            best = in;
    }
    return best;
}

static zr_status find_bind(const struct zr_host *host, const char *iface_id, struct zr_str as, const void **ret_table, struct zr_inst **ret_inst,
                           uint64_t *ret_pin)
{
    struct zk_instance *user = zk_instance_of(host);
    if (!zk_manifest_has(user->manifest->requires, iface_id) && !zk_manifest_has(user->manifest->wants, iface_id)) {
        zk_err_raise(ZR_EPERM, 0, "%s binds %s, but its manifest neither requires nor wants it", user->as, iface_id);
        return ZR_EPERM;
    }
    struct zk_instance *provider = provider_of(user, iface_id, as);
    const void *table = provider ? zk_tables_get(provider, iface_id) : NULL;
    if (!table) {
        zk_err_raise(ZR_ENOENT, 0, "nobody%s%.*s provides %s", as.len ? " named " : "", (int)as.len, as.ptr ? as.ptr : "", iface_id);
        return ZR_ENOENT;
    }
    zr_status status = pin_add(user, provider, ret_pin);
    if (status == ZR_OK) {
        *ret_table = table;
        *ret_inst = provider->inst;
    }
    return status;
}

static void find_unbind(const struct zr_host *host, uint64_t pin)
{
    uint32_t i = (uint32_t)pin - 1u;
    (void)host;
    if (i >= PINS_MAX)
        return;
    pthread_mutex_lock(&lock);
    if (pins[i].provider && pins[i].uses == (uint32_t)(pin >> 32)) {
        __atomic_fetch_sub(&pins[i].provider->pins, 1, __ATOMIC_RELAXED);
        pins[i].provider = NULL;
    }
    pthread_mutex_unlock(&lock);
}

/* At the end nothing should be bound; who still holds what is said by name, and let go. */
void zk_find_report_pins(void)
{
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < PINS_MAX; i++) {
        if (!pins[i].provider)
            continue;
        zk_log(ZR_LOG_DEBUG, "%s still holds an interface of %s", pins[i].user->as, pins[i].provider->as);
        pins[i].provider = NULL;
    }
    pthread_mutex_unlock(&lock);
}

void zk_find_provide(void)
{
    static const struct zr_find_v1 table = { ZR_HDR(struct zr_find_v1, 0), find_bind, find_unbind };
    zk_service_provide(ZR_SVC_FIND, &table);
}
