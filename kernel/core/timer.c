/* SPDX-License-Identifier: Apache-2.0 */
/* timer.c - the clocks, calls at a time, and calls when the wall clock is set: one thread over a binary heap, which sleeps on an
 * eventfd (an earlier timer came) and a timerfd that the system ends when the wall clock steps.
 *
 * What stays true:
 *   1. heap[0] is due first; slots[heap[i]].at_heap == i for every i < n.
 *   2. An id is (use count of the slot << 32 | slot + 1), so an id of the past never meets a later timer.
 *   3. A timer leaves the heap before its function runs: cancel answers ZR_ENOENT from then on.
 *   4. Timers due at stop are dropped, not run.
 *
 * LOCKING. `lock` guards everything below it. It is held for O(log n), never while a timer's function runs. `watch_lock` guards
 * the watchers of the wall clock, and is not held while one is called: `watch_called` names it meanwhile, and whoever takes that one
 * away waits (but the timer thread itself), so that none is called after it was taken away. */
#include "core/core_int.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define TIMERS_MAX (1u << 20)
#define NOT_IN_HEAP UINT32_MAX

struct slot {
    int64_t at_ns;
    void (*fn)(void *);
    void *arg;
    uint32_t uses, at_heap, next_free;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct slot *slots;
static uint32_t *heap;
static uint32_t n_heap, n_slots, first_free; /* first_free: slot + 1, 0 none */
static pthread_t thread;
static uint32_t running, stopping;
static int wake_fd = -1, wall_fd = -1; /* set while the thread lives */

#define WATCHERS_MAX 16u
static pthread_mutex_t watch_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t watch_done = PTHREAD_COND_INITIALIZER;
static void *watch_called;
static struct { void (*fn)(void *); void *arg; } watchers[WATCHERS_MAX];

int64_t zk_mono_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t zk_wall_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void wake_up(void)
{
    uint64_t one = 1;
    ssize_t unused = write(wake_fd, &one, sizeof one); /* full: it is awake already */
    (void)unused;
}

static void heap_place(uint32_t at, uint32_t slot)
{
    heap[at] = slot;
    slots[slot].at_heap = at;
}

static void heap_up(uint32_t at)
{
    uint32_t slot = heap[at];
    while (at > 0 && slots[heap[(at - 1) / 2]].at_ns > slots[slot].at_ns) {
        heap_place(at, heap[(at - 1) / 2]);
        at = (at - 1) / 2;
    }
    heap_place(at, slot);
}

static void heap_down(uint32_t at)
{
    uint32_t slot = heap[at];
    for (;;) {
        uint32_t child = 2 * at + 1;
        if (child >= n_heap)
            break;
        if (child + 1 < n_heap && slots[heap[child + 1]].at_ns < slots[heap[child]].at_ns)
            child++;
        if (slots[heap[child]].at_ns >= slots[slot].at_ns)
            break;
        heap_place(at, heap[child]);
        at = child;
    }
    heap_place(at, slot);
}

static void heap_remove(uint32_t at)
{
    slots[heap[at]].at_heap = NOT_IN_HEAP;
    uint32_t last = heap[--n_heap];
    if (at == n_heap)
        return;
    heap_place(at, last);
    heap_up(at);
    heap_down(slots[last].at_heap);
}

static void slot_free(uint32_t slot)
{
    slots[slot].next_free = first_free;
    first_free = slot + 1;
}

static zr_status slots_grow(void)
{
    uint32_t n = n_slots ? n_slots * 2 : 256;
    if (n > TIMERS_MAX) {
        zk_err_raise(ZR_EFULL, 0, "the limit of %u timers is reached", TIMERS_MAX);
        return ZR_EFULL;
    }
    struct slot *more = realloc(slots, n * sizeof *slots);
    if (more)
        slots = more;
    uint32_t *more_heap = realloc(heap, n * sizeof *heap);
    if (more_heap)
        heap = more_heap;
    if (!more || !more_heap)
        return ZR_ENOMEM;
    for (uint32_t i = n; i-- > n_slots;) {
        slots[i] = (struct slot){ .at_heap = NOT_IN_HEAP };
        slot_free(i);
    }
    n_slots = n;
    return ZR_OK;
}

zr_status zk_timer_at(int64_t at_ns, void (*fn)(void *), void *arg, uint64_t *ret_id)
{
    pthread_mutex_lock(&lock);
    zr_status status = !running || stopping ? ZR_ECLOSED : first_free ? ZR_OK : slots_grow();
    if (status == ZR_OK) {
        uint32_t slot = first_free - 1;
        struct slot *s = &slots[slot];
        first_free = s->next_free;
        s->at_ns = at_ns;
        s->fn = fn;
        s->arg = arg;
        s->uses++;
        if (ret_id)
            *ret_id = (uint64_t)s->uses << 32 | (slot + 1u);
        heap_place(n_heap, slot);
        heap_up(n_heap++);
        if (heap[0] == slot)
            wake_up();
    }
    pthread_mutex_unlock(&lock);
    return status;
}

zr_status zk_timer_cancel(uint64_t id)
{
    zr_status status = ZR_ENOENT;
    uint32_t slot = (uint32_t)id - 1u;
    pthread_mutex_lock(&lock);
    if (slot < n_slots && slots[slot].uses == (uint32_t)(id >> 32) && slots[slot].at_heap != NOT_IN_HEAP) {
        heap_remove(slots[slot].at_heap);
        slot_free(slot);
        status = ZR_OK;
    }
    pthread_mutex_unlock(&lock);
    return status;
}

zr_status zk_on_clock_set(void (*fn)(void *), void *arg)
{
    zr_status status = fn ? ZR_EFULL : ZR_OK;
    pthread_mutex_lock(&watch_lock);
    for (uint32_t i = 0; i < WATCHERS_MAX; i++)
        if (watchers[i].fn && watchers[i].arg == arg)
            watchers[i].fn = NULL;
    while (!fn && watch_called == arg && !pthread_equal(pthread_self(), thread))
        pthread_cond_wait(&watch_done, &watch_lock);
    for (uint32_t i = 0; i < WATCHERS_MAX && status == ZR_EFULL; i++)
        if (!watchers[i].fn) {
            watchers[i].fn = fn;
            watchers[i].arg = arg;
            status = ZR_OK;
        }
    pthread_mutex_unlock(&watch_lock);
    return status;
}

/* A time that never comes: all it is for is to be cancelled when the clock is set. */
static void wall_arm(void)
{
    struct itimerspec never = { .it_value = { .tv_sec = (time_t)1 << 40 } };
    timerfd_settime(wall_fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &never, NULL);
}

static void wall_look(void)
{
    uint64_t times;
    if (read(wall_fd, &times, sizeof times) >= 0 || errno != ECANCELED)
        return;
    wall_arm();
    pthread_mutex_lock(&watch_lock);
    for (uint32_t i = 0; i < WATCHERS_MAX; i++)
        if (watchers[i].fn) {
            void (*fn)(void *) = watchers[i].fn;
            watch_called = watchers[i].arg;
            pthread_mutex_unlock(&watch_lock);
            fn(watch_called);
            pthread_mutex_lock(&watch_lock);
            watch_called = NULL;
            pthread_cond_broadcast(&watch_done);
        }
    pthread_mutex_unlock(&watch_lock);
}

/* Without the lock. at_ns < 0: until woken. */
static void wait_until(int64_t at_ns)
{
    struct pollfd fds[2] = { { .fd = wake_fd, .events = POLLIN }, { .fd = wall_fd, .events = POLLIN } };
    uint64_t count;
    int64_t left = at_ns < 0 ? 0 : at_ns - zk_mono_ns();
    if (left < 0)
        left = 0;
    struct timespec t = { left / 1000000000, left % 1000000000 };
    if (ppoll(fds, 2, at_ns < 0 ? NULL : &t, NULL) <= 0)
        return;
    if (fds[0].revents && read(wake_fd, &count, sizeof count) < 0)
        return;
    if (fds[1].revents)
        wall_look();
}

static void *timers_run(void *unused)
{
    (void)unused;
    pthread_mutex_lock(&lock);
    while (!stopping) {
        if (n_heap == 0 || slots[heap[0]].at_ns > zk_mono_ns()) {
            int64_t at_ns = n_heap ? slots[heap[0]].at_ns : -1;
            pthread_mutex_unlock(&lock);
            wait_until(at_ns);
            pthread_mutex_lock(&lock);
        } else {
            uint32_t slot = heap[0];
            void (*fn)(void *) = slots[slot].fn;
            void *arg = slots[slot].arg;
            heap_remove(0);
            slot_free(slot);
            pthread_mutex_unlock(&lock);
            fn(arg);
            pthread_mutex_lock(&lock);
        }
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void fds_close(void)
{
    if (wake_fd >= 0)
        close(wake_fd);
    if (wall_fd >= 0)
        close(wall_fd);
    wake_fd = wall_fd = -1;
}

zr_status zk_timers_start(void)
{
    pthread_mutex_lock(&lock);
    stopping = 0;
    wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    wall_fd = timerfd_create(CLOCK_REALTIME, TFD_CLOEXEC | TFD_NONBLOCK);
    int rc = wake_fd < 0 || wall_fd < 0 ? errno : 0;
    if (rc == 0) {
        wall_arm();
        rc = pthread_create(&thread, NULL, timers_run, NULL);
    }
    running = rc == 0;
    if (rc != 0)
        fds_close();
    pthread_mutex_unlock(&lock);
    if (rc != 0) {
        zk_err_raise(ZR_EIO, rc, "cannot start the timer thread");
        return ZR_EIO;
    }
    pthread_setname_np(thread, "zr-timer");
    return ZR_OK;
}

void zk_timers_stop(void)
{
    pthread_mutex_lock(&lock);
    if (!running) {
        pthread_mutex_unlock(&lock);
        return;
    }
    stopping = 1;
    wake_up();
    pthread_mutex_unlock(&lock);
    pthread_join(thread, NULL);
    pthread_mutex_lock(&lock);
    running = 0;
    free(slots);
    free(heap);
    slots = NULL;
    heap = NULL;
    n_heap = n_slots = first_free = 0;
    fds_close();
    pthread_mutex_unlock(&lock);
}
