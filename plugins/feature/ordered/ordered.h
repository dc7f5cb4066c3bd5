/* SPDX-License-Identifier: Apache-2.0 */
/* ordered.h - what the files of feature-ordered share: the instance, its settings, and what becomes of a client's locks when it
 * goes (gone.c). */
#ifndef ORDERED_H
#define ORDERED_H
#include <pthread.h>

#include "locks.h"
#include "zarya/broker.h"
#include "zarya/hooks.h"
#include "zarya/plugin.h"
#include "zarya/reply.h"
#include "zarya/timer.h"
#include "zarya/work.h"

struct settings { int64_t lease, client_lease, grace, max_locks, max_queues; };
struct doubt;

struct zr_inst {
    const struct zr_host *host;
    const struct settings *settings;
    const struct zr_reply_v1 *reply;
    const struct zr_timer_v1 *timer;
    const struct zr_broker_v1 *broker;
    const struct zr_work_v1 *work;
    struct locks *locks;
    uint64_t sweep_timer;
    pthread_mutex_t gone_lock; /* guards all below */
    struct doubt *doubts;
    uint32_t n_doubts, cooled;
    uint32_t n_large, draining; /* large requests with workers */
    struct zr_done drained;
};

int64_t ordered_now_ms(struct zr_inst *inst);

/* ---- gone.c ---- */
zr_status gone_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict);
void gone_cool(struct zr_inst *inst);
#endif
