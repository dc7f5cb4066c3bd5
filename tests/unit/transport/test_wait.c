/* SPDX-License-Identifier: Apache-2.0 */
/* test_wait.c - when a lane stays awake between its events, and when it sleeps. Spans are long here, so that no busy machine
 * turns a short wait into a long one. */
#include "tests.h"
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>
#include "tcp.h"

#define MINUTE 60000000000ll

struct bed {
    struct tcp_settings set;
    struct zr_inst inst;
    struct tcp_lane lane;
    int fd[2];
};

static void open_bed(struct bed *b, int64_t busy_poll)
{
    memset(b, 0, sizeof *b);
    b->set.busy_poll = busy_poll;
    b->inst.set = &b->set;
    b->inst.max_awake = 1;
    b->lane.inst = &b->inst;
    b->lane.epoll = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < 2; i++) {
        struct epoll_event event = { .events = EPOLLIN, .data.u64 = (uint64_t)i };
        b->fd[i] = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        cr_assert_eq(epoll_ctl(b->lane.epoll, EPOLL_CTL_ADD, b->fd[i], &event), 0);
    }
}

static void close_bed(struct bed *b)
{
    close(b->fd[0]);
    close(b->fd[1]);
    close(b->lane.epoll);
}

/* One wait with so many of the two sources ready before; how many it gave. */
static int wait_with(struct bed *b, int ready, int ms)
{
    struct epoll_event events[TCP_EVENTS];
    eventfd_t v;
    for (int i = 0; i < ready; i++) {
        eventfd_write(b->fd[i], 1);
    }
    int n = tcp_lane_wait(&b->lane, events, ms);
    for (int i = 0; i < ready; i++) {
        eventfd_read(b->fd[i], &v);
    }
    cr_assert_eq(atomic_load(&b->inst.n_awake), 0u, "the place is given back");
    return n;
}

static void warm_up(struct bed *b)
{
    for (int i = 0; i < 8; i++) {
        cr_assert_eq(wait_with(b, 1, 60000), 1);
    }
    cr_assert_eq(b->lane.short_waits, 8u);
}

Test(wait, short_waits_are_remembered_long_ones_forgotten)
{
    struct bed b;
    open_bed(&b, MINUTE);
    warm_up(&b);
    b.set.busy_poll = 1;
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(wait_with(&b, 0, 1), 0); /* nothing came: long, whatever the clock says */
    }
    cr_assert_eq(b.lane.short_waits, 0u);
    close_bed(&b);
}

Test(wait, many_at_once_are_no_clients_next_request)
{
    struct bed b;
    open_bed(&b, MINUTE);
    warm_up(&b);
    cr_assert_eq(wait_with(&b, 2, 60000), 2);
    cr_assert_eq(b.lane.short_waits, 4u);
    close_bed(&b);
}

/* An event comes from another thread while the lane is awake, or asleep because there is no place: it is seen either way. */
static void *write_later(void *fd)
{
    eventfd_write(*(int *)fd, 1);
    return NULL;
}

Test(wait, awake_or_asleep_the_event_is_seen)
{
    for (uint32_t places = 0; places < 2; places++) {
        struct bed b;
        struct epoll_event events[TCP_EVENTS];
        pthread_t other;
        open_bed(&b, MINUTE);
        warm_up(&b);
        b.inst.max_awake = places;
        pthread_create(&other, NULL, write_later, &b.fd[1]);
        cr_assert_eq(tcp_lane_wait(&b.lane, events, 60000), 1);
        cr_assert_eq(events[0].data.u64, 1u);
        pthread_join(other, NULL);
        close_bed(&b);
    }
}

Test(wait, off_means_off)
{
    struct bed b;
    open_bed(&b, 0);
    for (int i = 0; i < 8; i++) {
        cr_assert_eq(wait_with(&b, 1, 60000), 1);
    }
    cr_assert_eq(b.lane.short_waits, 0u);
    cr_assert_eq(wait_with(&b, 0, 0), 0);
    close_bed(&b);
}
