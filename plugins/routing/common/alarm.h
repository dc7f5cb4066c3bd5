/* SPDX-License-Identifier: Apache-2.0 */
/* alarm.h - one timer of the host that can be brought forward from any thread, and that ends cleanly.
 *
 *   1. At most one timer is armed, for the earliest time asked for since it rang last. A timer that was replaced but rings all the
 *      same is ignored.
 *   2. fn runs on the host's timer thread, not twice at the same time, with no lock held; it must be short, and asks for the next
 *      time with rt_alarm_bring.
 *   3. After rt_alarm_close returned, fn does not run and will not.
 *
 * LOCKING: mutex guards everything below it, and is never held during a call to the host. One thread at a time talks to the host
 * about the timer (busy); others leave their wish in want_at. */
#ifndef RT_ALARM_H
#define RT_ALARM_H
#include <pthread.h>
#include "zarya/timer.h"

struct rt_alarm {
    const struct zr_host *host;
    const struct zr_timer_v1 *timer;
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    uint64_t id;                /* 0: none is armed */
    int64_t armed_at, want_at;  /* INT64_MAX: none */
    uint32_t busy, closed, ringing, reserved;
};
void rt_alarm_init(struct rt_alarm *alarm, const struct zr_host *host, const struct zr_timer_v1 *timer, void (*fn)(void *), void *arg);
/* Rings at at_ns, if it would not ring earlier anyway. INT64_MAX: nothing. */
void rt_alarm_bring(struct rt_alarm *alarm, int64_t at_ns);
void rt_alarm_open(struct rt_alarm *alarm); /* after a close: may be used again */
void rt_alarm_close(struct rt_alarm *alarm);
void rt_alarm_free(struct rt_alarm *alarm); /* closed, or never used */
#endif
