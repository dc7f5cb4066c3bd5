/* SPDX-License-Identifier: Apache-2.0 */
/* admit.h - who may come in: connections in all, from one address, in a second. Thread-safe; its lock is a leaf. */
#ifndef TRANSPORT_ADMIT_H
#define TRANSPORT_ADMIT_H
#include <pthread.h>
#include "report.h"

#define TR_ADDRESS_BUCKETS 1024u
struct tr_address { struct tr_address *next; struct zr_addr addr; uint32_t n; };
struct tr_admit {
    struct tr_report *report;
    pthread_mutex_t lock;
    uint64_t max, per_address, n; /* per_address 0: no limit */
    uint64_t max_fd;              /* 0: no limit */
    int64_t rate, tokens, filled_ns; /* rate 0: no limit */
    struct tr_address *addresses[TR_ADDRESS_BUCKETS];
};
void tr_admit_init(struct tr_admit *a, struct tr_report *report);
void tr_admit_fini(struct tr_admit *a);
/* max 0: what the limit of open files allows, less what others than connections need. */
void tr_admit_limits(struct tr_admit *a, int64_t max, int64_t per_address, int64_t rate);
/* 1: it is in, until tr_admit_leave. family 0: not counted by address. fd: its descriptor, -1: not known. Descriptors are given out
 * from the lowest: without a limit of its own an instance takes none of those that are kept back for files, however many the
 * other instances have. */
uint32_t tr_admit_enter(struct tr_admit *a, const struct zr_addr *peer, int fd);
void tr_admit_leave(struct tr_admit *a, const struct zr_addr *peer);
/* 0: the rate is used up; *ret_ns until the next may come in. */
uint32_t tr_admit_take(struct tr_admit *a, int64_t now_ns, int64_t *ret_ns);
void tr_admit_give(struct tr_admit *a); /* nobody was there to take it */
#endif
