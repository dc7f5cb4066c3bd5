/* SPDX-License-Identifier: Apache-2.0 */
/* clock.c - the wall clock of one process, set while it runs, without touching the machine's: a library for LD_PRELOAD.
 *
 * ZARYA_TEST_CLOCK names a file with a number, the milliseconds by which the process's wall clock is ahead. When the file was written
 * and closed the clock is set, and a timer of CLOCK_REALTIME that asked for it (TFD_TIMER_CANCEL_ON_SET) is cancelled, as by the
 * operating system. The monotonic clock and files' times stay the machine's. For one such timer, which is all that Zarya has. */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

static _Atomic int64_t ahead_ms;
static _Atomic int wall_fd = -1;
static const char *path;
static ssize_t (*real_read)(int, void *, size_t);

static void ahead_load(void)
{
    char text[32] = "";
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (syscall(SYS_read, fd, text, sizeof text - 1) > 0) atomic_store(&ahead_ms, strtoll(text, NULL, 10));
    close(fd);
}

static void *watch(void *arg)
{
    char events[4096];
    uint64_t one = 1;
    int in = (int)(intptr_t)arg;
    while (syscall(SYS_read, in, events, sizeof events) > 0) {
        ahead_load();
        int fd = atomic_load(&wall_fd);
        if (fd >= 0 && syscall(SYS_write, fd, &one, sizeof one) < 0) break;
    }
    return NULL;
}

__attribute__((constructor)) static void begin(void)
{
    pthread_t thread;
    path = getenv("ZARYA_TEST_CLOCK");
    real_read = (ssize_t (*)(int, void *, size_t))dlsym(RTLD_NEXT, "read");
    int in = path ? inotify_init1(IN_CLOEXEC) : -1;
    if (in < 0 || inotify_add_watch(in, path, IN_CLOSE_WRITE) < 0) return;
    ahead_load();
    if (pthread_create(&thread, NULL, watch, (void *)(intptr_t)in) == 0) pthread_detach(thread);
}

int clock_gettime(clockid_t id, struct timespec *ret)
{
    if (syscall(SYS_clock_gettime, id, ret) < 0) return -1;
    if (id != CLOCK_REALTIME && id != CLOCK_REALTIME_COARSE) return 0;
    int64_t ns = ret->tv_nsec + atomic_load(&ahead_ms) % 1000 * 1000000;
    ret->tv_sec += atomic_load(&ahead_ms) / 1000 + (ns < 0 ? -1 : ns / 1000000000);
    ret->tv_nsec = ns < 0 ? ns + 1000000000 : ns % 1000000000;
    return 0;
}

int gettimeofday(struct timeval *restrict ret, void *restrict zone)
{
    struct timespec t;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &t);
    *ret = (struct timeval){ t.tv_sec, t.tv_nsec / 1000 };
    return 0;
}

time_t time(time_t *ret)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    if (ret) *ret = t.tv_sec;
    return t.tv_sec;
}

int timerfd_create(clockid_t id, int flags)
{
    if (id != CLOCK_REALTIME) return (int)syscall(SYS_timerfd_create, id, flags);
    int fd = eventfd(0, (flags & TFD_CLOEXEC ? EFD_CLOEXEC : 0) | (flags & TFD_NONBLOCK ? EFD_NONBLOCK : 0));
    atomic_store(&wall_fd, fd);
    return fd;
}

int timerfd_settime(int fd, int flags, const struct itimerspec *to, struct itimerspec *before)
{
    return fd >= 0 && fd == atomic_load(&wall_fd) ? 0 : (int)syscall(SYS_timerfd_settime, fd, flags, to, before);
}

ssize_t read(int fd, void *to, size_t n)
{
    ssize_t got = real_read ? real_read(fd, to, n) : syscall(SYS_read, fd, to, n);
    if (got < 0 || fd != atomic_load(&wall_fd)) return got;
    errno = ECANCELED;
    return -1;
}
