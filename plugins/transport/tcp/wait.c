/* SPDX-License-Identifier: Apache-2.0 */
/* wait.c - how a lane waits for its events: asleep, or for a moment awake.
 *
 * To wake a thread on a sleeping core costs some 25 us, more than all the work for one message. A client that has one request
 * under way pays it with each of them. So a lane whose last waits ended within its busy_poll looks at its events for that long
 * before it sleeps. What stays true:
 *   1. A lane without traffic sleeps, and so does one whose messages come further apart: it begins to stay awake after
 *      AWAKE_AFTER short waits, and ends when it stayed awake in vain a few times.
 *   2. At most half of the cores that the process may use are kept awake by an instance, so the client's threads, the workers and the
 *      store find one. The core is offered (sched_yield) between two looks, and who takes it ends the staying awake.
 *   3. Nothing depends on it: every event is the epoll set's, seen in either way. */
#include <sched.h>
#include <sys/epoll.h>
#include <time.h>
#include "tcp.h"

#define AWAKE_AFTER 4u      /* short waits that are remembered */
#define AWAKE_KEPT 16u      /* short waits that are remembered: this many, less a quarter for each long one */
#define CORE_LOST 10000ll   /* ns between two looks: somebody else was given the core */
#define CROWD 2             /* events at once that are not a client's next request: there is work enough to stay awake */
#define SLEEP_COSTS 30000ll /* ns of a short sleep that are the waking up */

static int64_t precise_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* One of the places for lanes that are awake. */
static uint32_t take_place(struct zr_inst *inst)
{
    uint32_t n = atomic_load(&inst->n_awake);
    while (n < inst->max_awake) {
        if (atomic_compare_exchange_weak(&inst->n_awake, &n, n + 1u)) {
            return 1;
        }
    }
    return 0;
}

/* Looks at the set until `until`, or an event, or somebody else had this core meanwhile; the number of events. */
static int look_until(struct tcp_lane *lane, struct epoll_event *events, int64_t until)
{
    int64_t before = 0, now = precise_now();
    int n;
    do {
        before = now;
        if ((n = epoll_wait(lane->epoll, events, TCP_EVENTS, 0)) != 0) {
            break;
        }
        sched_yield();
        now = precise_now();
    } while (now < until && now - before < CORE_LOST);
    return n;
}

static void remember(struct tcp_lane *lane, uint32_t was_short)
{
    if (was_short) {
        lane->short_waits += lane->short_waits < AWAKE_KEPT;
    } else {
        lane->short_waits -= lane->short_waits < AWAKE_KEPT / 4u ? lane->short_waits : AWAKE_KEPT / 4u;
    }
}

int tcp_lane_wait(struct tcp_lane *lane, struct epoll_event *events, int ms)
{
    int64_t span = lane->inst->set->busy_poll;
    if (ms == 0 || span == 0) {
        return epoll_wait(lane->epoll, events, TCP_EVENTS, ms);
    }
    int n = 0;
    int64_t began = precise_now(), slack = SLEEP_COSTS;
    if (lane->short_waits >= AWAKE_AFTER && take_place(lane->inst)) {
        n = look_until(lane, events, began + span);
        atomic_fetch_sub(&lane->inst->n_awake, 1u);
        slack = 0;
    }
    if (n == 0) {
        n = epoll_wait(lane->epoll, events, TCP_EVENTS, ms);
    }
    remember(lane, n > 0 && n < CROWD && precise_now() - began <= span + slack);
    return n;
}
