/* SPDX-License-Identifier: Apache-2.0 */
/* fake.h - a server on loopback that answers as a test says: the other side of the client's unit tests. */
#ifndef FAKE_H
#define FAKE_H
#include "zc/client.h"
#include "zl/buf.h"
#include "zl/codec.h"
#include <pthread.h>
#include <stdatomic.h>

#define FAKE_ANSWER 0 /* send what was filled in */
#define FAKE_SILENT 1 /* never answer */
#define FAKE_CLOSE 2  /* end the connection */
#define FAKE_RAW 3    /* send the body's bytes as they are, without a frame */
#define FAKE_FIELDS 8
#define FAKE_CONNS 16

struct fake_answer {
    int32_t code;
    const char *remark;
    struct zr_field fields[FAKE_FIELDS];
    uint32_t n_fields;
    struct zr_span body;     /* lives until handle is called again */
    struct zr_command *tell; /* a request of the server's own, sent before the answer */
};
struct fake {
    int (*handle)(void *ctx, const struct zl_header *request, struct fake_answer *answer); /* on the fake's thread */
    void *ctx;
    char addr[ZC_NAME_MAX];
    atomic_int n_requests, n_oneway, n_conns;
    atomic_int last_answer_code; /* of the client's answers to tell; -1: none */
    /* inside */
    int listen_fd, wake_fd, fds[FAKE_CONNS];
    struct zl_buf in[FAKE_CONNS];
    pthread_t thread;
    atomic_int stop;
};
/* path NULL: a free TCP port; else a Unix socket. */
void fake_start(struct fake *f, const char *path);
void fake_stop(struct fake *f);
/* A route of one topic queue set on brokers named a, b, c at the given addresses; malloc'ed JSON. */
char *fake_route(uint32_t queues, const char *const *addrs, uint32_t n);
#endif
