/* SPDX-License-Identifier: Apache-2.0 */
/* work.c - the worker pool: a bounded queue of jobs and the threads that run them; and threads with a name.
 *
 * What stays true:
 *   1. A job that zk_work said ZR_OK for runs exactly once, also when the pool is stopped meanwhile.
 *   2. The queue holds at most QUEUE_MAX jobs; the next one is refused with ZR_EFULL and will never run.
 *   3. Jobs begin in the order in which they came.
 *
 * LOCKING. `lock` guards queue and state of the pool, `threads_lock` the list of named threads; neither is held while foreign
 * code runs. */
#include "core/core_int.h"
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>

#define QUEUE_MAX 65536u
#define WORKERS_MAX 256u

struct job { void (*fn)(void *); void *arg; };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
static struct job *queue;
static uint32_t first, count;
static pthread_t workers_of[WORKERS_MAX];
static uint32_t n_workers, accepting, ending;
static uint32_t metric_queued, metric_refused;

zr_status zk_work(void (*fn)(void *), void *arg)
{
    zr_status status = ZR_OK;
    pthread_mutex_lock(&lock);
    if (!accepting) {
        status = ZR_ECLOSED;
    } else if (count == QUEUE_MAX) {
        status = ZR_EFULL;
    } else {
        queue[(first + count++) % QUEUE_MAX] = (struct job){ fn, arg };
        pthread_cond_signal(&wake);
    }
    pthread_mutex_unlock(&lock);
    if (status == ZR_OK)
        zk_metric_add(metric_queued, 1);
    else if (status == ZR_EFULL)
        zk_metric_add(metric_refused, 1);
    return status;
}

static void *worker_run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (count == 0 && !ending)
            pthread_cond_wait(&wake, &lock);
        if (count == 0)
            break;
        struct job job = queue[first];
        first = (first + 1) % QUEUE_MAX;
        count--;
        pthread_mutex_unlock(&lock);
        zk_metric_add(metric_queued, -1);
        job.fn(job.arg);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

zr_status zk_pool_start(uint32_t workers)
{
    metric_queued = zk_metric("zarya_work_queued", ZR_METRIC_GAUGE, NULL, "Jobs that wait for a thread of the worker pool.");
    metric_refused = zk_metric("zarya_work_refused_total", ZR_METRIC_COUNTER, NULL, "Jobs refused because the worker pool's queue was full.");
    workers = workers == 0 ? 2 : workers > WORKERS_MAX ? WORKERS_MAX : workers;
    queue = malloc(QUEUE_MAX * sizeof *queue);
    if (!queue)
        return ZR_ENOMEM;
    first = count = ending = n_workers = 0;
    for (; n_workers < workers; n_workers++) {
        char name[16];
        int rc = pthread_create(&workers_of[n_workers], NULL, worker_run, NULL);
        if (rc != 0) {
            zk_err_raise(ZR_EIO, rc, "cannot start worker thread %u of %u", n_workers + 1, workers);
            zk_pool_stop();
            return ZR_EIO;
        }
        snprintf(name, sizeof name, "zr-work-%u", n_workers);
        pthread_setname_np(workers_of[n_workers], name);
    }
    pthread_mutex_lock(&lock);
    accepting = 1;
    pthread_mutex_unlock(&lock);
    return ZR_OK;
}

void zk_pool_stop(void)
{
    pthread_mutex_lock(&lock);
    ending = 1;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    for (uint32_t i = 0; i < n_workers; i++)
        pthread_join(workers_of[i], NULL);
    pthread_mutex_lock(&lock);
    /* A job may queue another up to here: the last worker saw an empty queue, so only foreign threads can have added. */
    accepting = 0;
    n_workers = 0;
    struct job *left = queue;
    uint32_t left_first = first, left_count = count;
    queue = NULL;
    count = 0;
    pthread_mutex_unlock(&lock);
    for (uint32_t i = 0; i < left_count; i++) {
        struct job *job = &left[(left_first + i) % QUEUE_MAX];
        job->fn(job->arg);
    }
    free(left);
}

/* ---- threads with a name --------------------------------------------------------------------------------------------- */

struct named_thread {
    struct named_thread *next;
    uint64_t id;
    pthread_t thread;
    void (*fn)(void *);
    void *arg;
};
static pthread_mutex_t threads_lock = PTHREAD_MUTEX_INITIALIZER;
static struct named_thread *threads;
static uint64_t last_thread_id;

static void *named_run(void *p)
{
    struct named_thread *t = p;
    t->fn(t->arg);
    return NULL;
}

zr_status zk_thread_spawn(const char *name, void (*fn)(void *), void *arg, uint64_t *ret_id)
{
    char short_name[16];
    struct named_thread *t = calloc(1, sizeof *t);
    if (!t)
        return ZR_ENOMEM;
    t->fn = fn;
    t->arg = arg;
    /* Held over the start, so that the thread is in the list before anyone can ask for it. */
    pthread_mutex_lock(&threads_lock);
    int rc = pthread_create(&t->thread, NULL, named_run, t);
    if (rc == 0) {
        snprintf(short_name, sizeof short_name, "%s", name ? name : "zr-plugin");
        pthread_setname_np(t->thread, short_name);
        *ret_id = t->id = ++last_thread_id;
        t->next = threads;
        threads = t;
    }
    pthread_mutex_unlock(&threads_lock);
    if (rc != 0) {
        free(t);
        zk_err_raise(ZR_EIO, rc, "cannot start thread %s", name);
        return ZR_EIO;
    }
    return ZR_OK;
}

zr_status zk_thread_join(uint64_t id)
{
    pthread_mutex_lock(&threads_lock);
    struct named_thread **at = &threads;
    while (*at && (*at)->id != id)
        at = &(*at)->next;
    struct named_thread *t = *at;
    if (t)
        *at = t->next;
    pthread_mutex_unlock(&threads_lock);
    if (!t)
        return ZR_ENOENT;
    pthread_join(t->thread, NULL);
    free(t);
    return ZR_OK;
}

zr_status zk_core_start(uint32_t workers)
{
    zk_core_provide_services();
    zr_status status = zk_timers_start();
    if (status == ZR_OK) {
        status = zk_pool_start(workers);
        if (status != ZR_OK)
            zk_timers_stop();
    }
    return status;
}

void zk_core_stop(void)
{
    zk_timers_stop(); /* first, so that no timer queues a job behind the pool's end */
    zk_pool_stop();
}
