/* SPDX-License-Identifier: Apache-2.0 */
/* bench.h - what the files of zarya-bench owe each other.
 *
 *   options.c   the command line                      setup.c    topics, queues, offsets before the run (through
 * zc/client.h) engine.c    threads, connections, the epoll loop  loads.c    what is sent and what an answer means, for
 * each mode verify.c    sequence numbers, checksums           report.c   the result as text or JSON; figures from /proc
 *   main.c      the order of it all
 *
 * The load generator has its own loop and its own frames: a request costs it one copy of a template, one header decode
 * and no allocation, so that what is measured is the server. */
#ifndef BENCH_H
#define BENCH_H
#include "hist.h"
#include "zc/client.h"
#include "zl/buf.h"
#include "zl/codec.h"
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>

#define MAX_CONNS 20000u
#define MAX_INFLIGHT 4096u
#define MAX_TARGETS 2000000u
#define MAX_THREADS 64u
#define MAX_BATCH 4096u
#define MAX_SIZE (4u * 1024 * 1024)
#define MAX_CODES 16u
#define STAMP_SIZE 40u /* of the part of a body that tells messages apart */
#define NS 1000000000ll

enum mode { MODE_SEND, MODE_PULL, MODE_E2E, MODE_ROUTE, MODE_IDLE };

struct options {
    enum mode mode;
    uint32_t conns, inflight, size, batch, topics, queues, threads, consumers, pull_max;
    uint32_t json, verify, binary, create, sync_wait;
    double rate, duration, warmup;
    uint32_t spin_us; /* open loop: awake this long before each intended start */
    uint64_t count, fill;
    int32_t pid;
    const char *addr, *namesrv, *topic, *group, *label;
    const char *expression, *language; /* of pulls */
};
/* 0, or the exit code. */
int options_parse(struct options *o, int argc, char **argv);

/* One (topic, queue) that is written or read. */
struct target {
    char topic[128];
    char broker[128];
    int32_t queue;
    uint32_t addr;  /* index in bench.addrs */
    int64_t from;   /* first offset of the run */
    int64_t next;   /* consumer: next offset */
    uint8_t *frame; /* the request of a send: template (loads.c) */
    uint32_t frame_len, at_opaque, at_ms, at_uniq, at_body, body_step;
};

struct code_count {
    int32_t code;
    uint64_t n;
    char remark[160];
};

struct stats {
    struct hist latency;    /* of requests */
    struct hist delivery;   /* e2e: intended start to consumer */
    struct hist late;       /* open loop: intended start to the write, the generator's own part of both */
    uint64_t requests;      /* answered well, inside the measured window */
    uint64_t messages;      /* in them (pull, e2e: received) */
    uint64_t bytes;         /* of their bodies */
    uint64_t examined;      /* pull: queue entries that were passed, those that did not match with them */
    uint64_t sent_messages; /* acknowledged in the whole run, with warm-up */
    uint64_t received;      /* in the whole run */
    uint64_t failed;        /* answers with an error code, whole run */
    uint64_t lost_conns, unanswered;
    uint64_t corrupt, doubled, reordered, foreign, ghosts;
    int64_t last_ns; /* when the last measured answer came */
    struct code_count codes[MAX_CODES];
    uint32_t n_codes;
};
void stats_code(struct stats *s, int32_t code, struct zr_str remark);
void stats_merge(struct stats *to, const struct stats *from);

/* A request under way. */
struct slot {
    int64_t start; /* closed loop: when it was written; open loop: when it should have been */
    uint64_t seq;
    uint32_t target, gen;
    uint32_t busy, measured;
};

enum role { ROLE_SEND, ROLE_PULL, ROLE_ROUTE };

struct conn {
    int fd;
    enum role role;
    uint32_t no; /* of all sending connections; names the sender in bodies */
    uint32_t addr;
    uint32_t dead, dirty, want_write;
    struct slot *slots;
    uint32_t *free_slots, n_slots, n_free;
    uint32_t *targets, n_targets, turn; /* indices of those at its address (sends), or its own (pulls) */
    uint64_t seq;                       /* of its next message */
    struct zl_buf out, in;
    uint64_t out_at;
};

/* Bits by sequence number of one sending connection. */
struct bits {
    uint64_t *word;
    uint64_t cap;
};

struct bench {
    struct options o;
    struct target *targets;
    uint32_t n_targets;
    char (*addrs)[ZC_NAME_MAX];
    uint32_t n_addrs;
    uint8_t *filler;
    uint64_t run;                                 /* names this run in bodies */
    int64_t start, measure, end;                  /* monotonic ns; end 0: by count */
    _Atomic uint64_t issued, finished, delivered; /* messages */
    struct bits *acked, *seen;                    /* by sending connection */
    int64_t *last;                                /* [target * conns + conn]: last sequence seen, for order */
    uint32_t n_senders;
    struct zc_client *client;
};

struct worker {
    struct bench *bench;
    uint32_t no, n_conns, stop;
    struct conn *conns;
    int epoll_fd;
    int64_t next; /* open loop: the next intended start */
    double step, next_f;
    int64_t spin; /* open loop: this long before next it does not sleep any more */
    uint32_t turn;
    struct stats stats;
    struct zl_header header;
    char scratch[65536];
};

static inline int64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (int64_t)ts.tv_sec * NS + ts.tv_nsec;
}

/* setup.c: finds or makes the topics and fills bench->targets. 0 or an error text is printed. */
int setup_targets(struct bench *bench);
int setup_offsets(struct bench *bench);
int setup_route_targets(struct bench *bench);

/* loads.c */
int loads_prepare(struct bench *bench);
void loads_free(struct bench *bench);
/* Writes one request into conn's out buffer; 0: nothing to do for it now. */
uint32_t loads_issue(struct worker *w, struct conn *conn, int64_t intended, int64_t now);
void loads_answer(struct worker *w, struct conn *conn, struct zr_span frame, int64_t now);

/* engine.c: runs one phase to its end and adds its figures to *ret. */
int engine_run(struct bench *bench, struct stats *ret);

/* verify.c */
int verify_prepare(struct bench *bench, uint32_t n_senders);
void verify_free(struct bench *bench);
void stamp_write(const struct bench *bench, uint8_t *body, uint32_t conn, uint32_t target, uint64_t seq,
                 int64_t intended);
/* Looks at one received body; returns its intended start, or 0 if it is not of this run. */
int64_t verify_body(struct bench *bench, struct stats *s, struct zr_span body, uint32_t target);
void verify_acked(struct bench *bench, uint32_t conn, uint64_t first, uint32_t n);
/* Reads back what a send run left in the queues. */
int verify_read_back(struct bench *bench, struct stats *s);
/* Acknowledged but never seen; *ret_ghosts: seen but not acknowledged. */
uint64_t verify_lost(const struct bench *bench, uint64_t *ret_ghosts);

/* report.c */
struct proc_figures {
    double cpu_s;
    uint64_t rss_kib, anon_kib, pss_kib, threads, fds, written;
    uint32_t ok;
};
void proc_read(int32_t pid, struct proc_figures *ret);
void report(const struct bench *bench, const struct stats *s, const struct proc_figures *before,
            const struct proc_figures *after, double seconds, uint64_t lost);
void report_idle(const struct bench *bench, const struct proc_figures *before, const struct proc_figures *after,
                 double seconds);
#endif
