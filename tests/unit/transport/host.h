/* SPDX-License-Identifier: Apache-2.0 */
/* host.h - a host just large enough for one transport: options from the plugin's own rows, log lines kept, threads, metrics. */
#ifndef TEST_HOST_H
#define TEST_HOST_H
#include <pthread.h>
#include <stdatomic.h>
#include "zarya/zarya.h"

struct setting { const char *name, *value; };

struct mini {
    struct zr_host host;
    const struct zr_plugin *plugin;
    const struct zr_transport_v1 *t;
    struct zr_inst *inst;
    void *settings;
    pthread_mutex_t lock;
    char log[65536];
    size_t log_len;
    char error[512];
    pthread_t threads[64];
    uint32_t n_threads;
    _Atomic uint32_t jobs;
    _Atomic int64_t values[64];
    const char *names[64];
    uint32_t n_metrics;
    _Atomic uint32_t drained;
    void *texts[256]; /* freed at the end */
    uint32_t n_texts;
};

/* Loads the plugin and fills its settings; calls check and create. NULL-named setting ends the list. */
zr_status mini_create(struct mini *m, const char *id, const struct setting *settings);
zr_status mini_start(struct mini *m, const struct zr_sink_v1 *sink); /* warm, bind, activate */
void mini_drain(struct mini *m);                                     /* waits for the answer */
void mini_stop(struct mini *m);                                      /* cool and destroy */
void mini_free(struct mini *m);                                      /* what create made, when there is no instance */
int64_t mini_metric(struct mini *m, const char *suffix);             /* of the metric whose name ends so */
uint32_t mini_logged(struct mini *m, const char *text);              /* how often */
#endif
