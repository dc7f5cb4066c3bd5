/* SPDX-License-Identifier: Apache-2.0 */
/* service.c - host services by id, and the I/O seam, which is one of them. Written on the main thread before the plugins are
 * created, read from anywhere afterwards. */
#include "core/core.h"
#include "zl/io.h"
#include <stdatomic.h>

#define SERVICES_MAX 64u

static struct { const char *id; const void *table; } services[SERVICES_MAX];
static uint32_t n_services;
static _Atomic(const struct zr_io_v1 *) seam;

void zk_service_provide(const char *id, const void *table)
{
    uint32_t i = 0;
    while (i < n_services && strcmp(services[i].id, id) != 0)
        i++;
    if (i == SERVICES_MAX)
        return;
    services[i].id = id;
    services[i].table = table;
    if (i == n_services)
        n_services++;
}

const void *zk_service(const char *id)
{
    for (uint32_t i = 0; id && i < n_services; i++)
        if (strcmp(services[i].id, id) == 0)
            return services[i].table;
    return NULL;
}

const struct zr_io_v1 *zk_io(void)
{
    const struct zr_io_v1 *io = atomic_load_explicit(&seam, memory_order_acquire);
    return io ? io : zl_io_posix();
}

void zk_io_set(const struct zr_io_v1 *io)
{
    atomic_store_explicit(&seam, io, memory_order_release);
    zk_service_provide(ZR_SVC_IO, zk_io());
}
