/* SPDX-License-Identifier: Apache-2.0 */
/* alarm.c - see alarm.h. */
#include "alarm.h"

void rt_alarm_init(struct rt_alarm *a, const struct zr_host *host, const struct zr_timer_v1 *timer, void (*fn)(void *), void *arg)
{
    *a = (struct rt_alarm){ .host = host, .timer = timer, .fn = fn, .arg = arg, .armed_at = INT64_MAX, .want_at = INT64_MAX };
    pthread_mutex_init(&a->mutex, NULL);
    pthread_cond_init(&a->changed, NULL);
}

/* On the timer thread. */
static void alarm_ring(void *arg)
{
    struct rt_alarm *a = arg;
    int64_t now = a->timer->mono_ns(a->host);
    pthread_mutex_lock(&a->mutex);
    uint32_t mine = a->armed_at <= now, rings = mine && !a->closed;
    if (mine || a->closed) {
        a->armed_at = a->want_at = INT64_MAX;
        a->id = 0;
    }
    a->ringing += rings;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->mutex);
    if (!rings)
        return;
    a->fn(a->arg);
    pthread_mutex_lock(&a->mutex);
    a->ringing--;
    pthread_cond_broadcast(&a->changed);
    pthread_mutex_unlock(&a->mutex);
}

/* With the mutex, which is free during the calls: one change of the host's timer. */
static void alarm_move(struct rt_alarm *a)
{
    int64_t at = a->want_at;
    uint64_t old = a->id, id = 0;
    a->id = 0;
    a->armed_at = at;
    pthread_mutex_unlock(&a->mutex);
    if (old)
        (void)a->timer->cancel(a->host, old);
    zr_status status = a->timer->at(a->host, at, alarm_ring, a, &id);
    pthread_mutex_lock(&a->mutex);
    if (status != ZR_OK && a->armed_at == at)
        a->armed_at = a->want_at = INT64_MAX;
    else if (status == ZR_OK && a->armed_at == at)
        a->id = id; /* else it rang already */
}

void rt_alarm_bring(struct rt_alarm *a, int64_t at_ns)
{
    pthread_mutex_lock(&a->mutex);
    if (at_ns < a->want_at)
        a->want_at = at_ns;
    if (!a->busy) {
        a->busy = 1;
        while (a->want_at < a->armed_at && !a->closed)
            alarm_move(a);
        a->busy = 0;
        pthread_cond_broadcast(&a->changed);
    }
    pthread_mutex_unlock(&a->mutex);
}

void rt_alarm_open(struct rt_alarm *a)
{
    pthread_mutex_lock(&a->mutex);
    a->closed = 0;
    a->armed_at = a->want_at = INT64_MAX;
    pthread_mutex_unlock(&a->mutex);
}

void rt_alarm_close(struct rt_alarm *a)
{
    pthread_mutex_lock(&a->mutex);
    a->closed = 1;
    while (a->busy)
        pthread_cond_wait(&a->changed, &a->mutex);
    uint64_t id = a->id;
    pthread_mutex_unlock(&a->mutex);
    /* Not cancelled means on its way: it will find closed, and clear id. */
    uint32_t coming = id && a->timer->cancel(a->host, id) != ZR_OK;
    pthread_mutex_lock(&a->mutex);
    while ((coming && a->id == id) || a->ringing)
        pthread_cond_wait(&a->changed, &a->mutex);
    a->id = 0;
    pthread_mutex_unlock(&a->mutex);
}

void rt_alarm_free(struct rt_alarm *a)
{
    pthread_mutex_destroy(&a->mutex);
    pthread_cond_destroy(&a->changed);
}
