/* SPDX-License-Identifier: Apache-2.0 */
/* log_out.c - finished lines of log on their way to stderr: a ring, and a thread of its own that writes what is in it.
 *
 * What stays true:
 *   1. Whoever logs waits for nobody: a line goes into the ring, or is counted when the ring is full. A terminal that is held, a
 *      pipe that nobody reads and a slow or full disk stop the writer alone. How many lines were left out is told by a line of
 *      its own, behind those that were in the ring before them.
 *   2. Lines leave in the order in which they took their places, each whole. Nothing is lost but by 1, 4 and a failing write.
 *   3. The ring has RING_BYTES. To take a place is one compare-and-swap; the writer is woken only when it sleeps. No lock, no
 *      allocation: any thread may log with any lock held.
 *   4. A stop gives the reader STOP_NS; what is not out by then is lost, and so is what comes later.
 *   5. Before zk_log_start and after zk_log_stop a line is written by whoever logs.
 *   6. A crash waits until the ring is out, at most CRASH_NS, and then ends the process as it would have.
 *
 * A record is a head of 8 bytes and its text, in steps of 8 bytes, so a head never goes round the end of the ring; text may. A head
 * is 0 from the moment its place is free until its text is there: the writer clears what it wrote before it gives the room back. */
#include "core/core_int.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#define RING_BYTES (2u << 20)
#define HEAD_BYTES 8u
#define BATCH_BYTES 4096u /* what a pipe takes in one piece, so that lines of other processes do not come in between */
#define STOP_NS 2000000000ll
#define CRASH_NS 1000000000ll
#define TELL_NS 10000000000ll /* how long a count of left out lines (log_limit.c) may wait */

#define DIRECT 0u /* whoever logs, writes */
#define RING 1u
#define LOST 2u   /* the reader stalls and the process ends */

static _Alignas(64) unsigned char ring[RING_BYTES];
static _Alignas(64) _Atomic uint64_t taken; /* places given away, in bytes since the start */
static _Alignas(64) _Atomic uint64_t out;   /* written and given back */
static _Atomic uint32_t mode, asleep, stopping;
static _Atomic uint64_t dropped;
static _Atomic uint32_t waiters; /* who waits for an empty ring */
static sem_t wake, emptied;
static pthread_t writer;
static uint64_t drops_behind; /* writer only: where the line about dropped ones belongs; 0: nowhere yet */
static int64_t tell_at;       /* writer only: when counts of left out lines are told; 0: there are none */
static uint32_t torn;         /* writer only: a write failed within a line */
static uint32_t metric_dropped;

/* ---- writing -------------------------------------------------------------------------------------------------------------------- */

/* All of it, however long it takes; 0: it cannot be written. */
static uint32_t write_all(const char *text, uint64_t n)
{
    for (uint64_t at = 0; at < n;) {
        ssize_t done = write(STDERR_FILENO, text + at, n - at);
        if (done > 0) {
            at += (uint64_t)done;
        } else if (done < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            struct pollfd p = { STDERR_FILENO, POLLOUT, 0 };
            poll(&p, 1, -1);
        } else if (done == 0 || errno != EINTR) {
            torn = at > 0;
            return 0;
        }
    }
    return 1;
}

/* A line that begins behind half of another would be read as part of it. */
static uint32_t write_lines(const char *text, uint64_t n)
{
    if (torn && !write_all("\n", 1))
        return 0;
    torn = 0;
    return write_all(text, n);
}

static _Atomic uint64_t *head_at(uint64_t at) { return (_Atomic uint64_t *)(void *)(ring + at % RING_BYTES); }

static uint64_t record_bytes(uint64_t n) { return HEAD_BYTES + ((n + 7u) & ~7ull); }

static void copy_in(uint64_t at, const char *text, uint64_t n)
{
    uint64_t from = at % RING_BYTES, first = n < RING_BYTES - from ? n : RING_BYTES - from;
    memcpy(ring + from, text, first);
    memcpy(ring, text + first, n - first);
}

static void copy_out(uint64_t at, char *text, uint64_t n)
{
    uint64_t from = at % RING_BYTES, first = n < RING_BYTES - from ? n : RING_BYTES - from;
    memcpy(text, ring + from, first);
    memcpy(text + first, ring, n - first);
}

static void clear(uint64_t at, uint64_t n)
{
    uint64_t from = at % RING_BYTES, first = n < RING_BYTES - from ? n : RING_BYTES - from;
    memset(ring + from, 0, first);
    memset(ring, 0, n - first);
}

struct batch { char text[ZK_LOG_LINE_MAX]; uint64_t len, lines; };

/* As many whole lines as fit, at least one; how many bytes of the ring they take, 0: there is none. */
static uint64_t gather(uint64_t at, struct batch *b)
{
    uint64_t begin = at, n;
    b->len = b->lines = 0;
    while (at - begin < RING_BYTES && (n = atomic_load_explicit(head_at(at), memory_order_acquire)) > 0) {
        if (b->lines > 0 && b->len + n > BATCH_BYTES)
            break;
        copy_out(at + HEAD_BYTES, b->text + b->len, n);
        b->len += n;
        b->lines++;
        at += record_bytes(n);
    }
    return at - begin;
}

/* Dropped lines came behind what was in the ring when they were, so that is written first. */
static void tell_drops(uint64_t at)
{
    char text[ZK_LOG_LINE_MAX];
    if (atomic_load(&dropped) == 0)
        return;
    if (drops_behind == 0)
        drops_behind = atomic_load(&taken);
    if (at < drops_behind)
        return;
    drops_behind = 0;
    uint64_t n = atomic_exchange(&dropped, 0);
    uint32_t len = zk_log_format_dropped(text, n);
    if (!write_lines(text, len))
        atomic_fetch_add(&dropped, n);
    else
        zk_metric_add(metric_dropped, (int64_t)n);
}

/* Counts of lines that log_limit.c left out are told together, some time after the first of them. */
static void tell_left_out(void)
{
    if (!zk_log_owes()) {
        tell_at = 0;
    } else if (tell_at == 0) {
        tell_at = zk_mono_ns() + TELL_NS;
    } else if (zk_mono_ns() >= tell_at) {
        tell_at = 0;
        zk_log_tell_left_out();
    }
}

static void write_what_is_there(void)
{
    struct batch b;
    uint64_t at = atomic_load_explicit(&out, memory_order_relaxed), n;
    for (;;) {
        tell_drops(at);
        tell_left_out();
        if ((n = gather(at, &b)) == 0)
            return;
        if (!write_lines(b.text, b.len))
            atomic_fetch_add(&dropped, b.lines);
        clear(at, n);
        at += n;
        atomic_store_explicit(&out, at, memory_order_release);
    }
}

static void tell_waiters(void)
{
    if (atomic_load(&out) != atomic_load(&taken))
        return;
    for (uint32_t n = atomic_exchange(&waiters, 0); n > 0; n--)
        sem_post(&emptied);
}

static struct timespec at_time(int64_t ns) { return (struct timespec){ ns / 1000000000, ns % 1000000000 }; }

static void sleep_until_woken(void)
{
    struct timespec deadline = at_time(tell_at);
    while ((tell_at ? sem_clockwait(&wake, CLOCK_MONOTONIC, &deadline) : sem_wait(&wake)) != 0)
        if (errno == ETIMEDOUT)
            return;
}

static void *write_until_stopped(void *arg)
{
    (void)arg;
    while (!atomic_load(&stopping)) {
        write_what_is_there();
        tell_waiters();
        /* Whoever publishes a line after this store sees it; a line published before is seen by the load. */
        atomic_store(&asleep, 1);
        tell_left_out();
        if (atomic_load(head_at(atomic_load(&out))) == 0)
            sleep_until_woken();
        atomic_store(&asleep, 0);
    }
    return NULL;
}

/* ---- logging -------------------------------------------------------------------------------------------------------------------- */

void zk_log_wake(void)
{
    if (atomic_load(&asleep) && atomic_exchange(&asleep, 0))
        sem_post(&wake);
}

static void put(const char *text, uint32_t n)
{
    uint64_t at = atomic_load_explicit(&taken, memory_order_relaxed), need = record_bytes(n);
    do {
        if (at + need - atomic_load_explicit(&out, memory_order_acquire) > RING_BYTES) {
            atomic_fetch_add(&dropped, 1);
            return;
        }
    } while (!atomic_compare_exchange_weak(&taken, &at, at + need));
    copy_in(at + HEAD_BYTES, text, n);
    atomic_store(head_at(at), n);
    zk_log_wake();
}

void zk_log_raw(const char *text, uint32_t n)
{
    int saved = errno;
    uint32_t how = atomic_load_explicit(&mode, memory_order_relaxed);
    n = n < ZK_LOG_LINE_MAX ? n : ZK_LOG_LINE_MAX;
    if (how == RING && n > 0)
        put(text, n);
    else if (how == DIRECT && write(STDERR_FILENO, text, n) < 0) /* nobody is left to tell */
        errno = saved;
    errno = saved;
}

/* ---- beginning and end ---------------------------------------------------------------------------------------------------------- */

/* 1: what was logged before the call is out. Only calls that a signal handler may make, on this C library: semaphores are futexes. */
static uint32_t wait_until_out(int64_t ns)
{
    struct timespec deadline = at_time(zk_mono_ns() + ns);
    uint64_t wanted = atomic_load(&taken);
    while (atomic_load(&out) < wanted) {
        atomic_fetch_add(&waiters, 1);
        sem_post(&wake);
        while (sem_clockwait(&emptied, CLOCK_MONOTONIC, &deadline) != 0)
            if (errno != EINTR)
                return atomic_load(&out) >= wanted;
    }
    return 1;
}

uint32_t zk_log_flush(void)
{
    return atomic_load(&mode) != RING || wait_until_out(STOP_NS);
}

/* The signal comes again when this returns, and then it does what it does. */
static void crashed(int sig)
{
    int saved = errno;
    if (atomic_load(&mode) == RING && !pthread_equal(pthread_self(), writer))
        wait_until_out(CRASH_NS);
    signal(sig, SIG_DFL);
    raise(sig);
    errno = saved;
}

/* A sanitizer has handlers of its own, and its report is worth more than our last line. */
static void take_crashes(void)
{
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
    static const int signals[] = { SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGABRT };
#else
    static const int signals[] = { SIGABRT };
#endif
    struct sigaction action = { .sa_handler = crashed };
    for (uint32_t i = 0; i < sizeof signals / sizeof *signals; i++)
        sigaction(signals[i], &action, NULL);
}

void zk_log_start(void)
{
    static uint32_t registered;
    if (atomic_load(&mode) != DIRECT)
        return;
    sem_init(&wake, 0, 0);
    sem_init(&emptied, 0, 0);
    atomic_store(&stopping, 0);
    metric_dropped = zk_metric("zarya_log_dropped_total", ZR_METRIC_COUNTER, "", "Lines of log that were left out: the log was not read, or could not be written.");
    if (pthread_create(&writer, NULL, write_until_stopped, NULL) != 0)
        return; /* as before: whoever logs, writes */
    pthread_setname_np(writer, "log");
    atomic_store(&mode, RING);
    take_crashes();
    if (!registered++)
        atexit(zk_log_stop);
}

void zk_log_stop(void)
{
    if (atomic_load(&mode) != RING)
        return;
    zk_log_tell_left_out();
    if (!wait_until_out(STOP_NS)) {
        atomic_store(&mode, LOST); /* the writer waits for the reader, and ends with the process */
        return;
    }
    atomic_store(&stopping, 1);
    sem_post(&wake);
    pthread_join(writer, NULL);
    atomic_store(&mode, DIRECT);
    write_what_is_there(); /* of a thread that logged just now */
}
