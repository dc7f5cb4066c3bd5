/* SPDX-License-Identifier: Apache-2.0 */
/* admin.h - what the files of feature-admin share: the instance, answers, and the JSON of RocketMQ's admin bodies. */
#ifndef ADMIN_H
#define ADMIN_H
#include <pthread.h>
#include "zarya/broker.h"
#include "zarya/metrics.h"
#include "zarya/plugin.h"
#include "zarya/reply.h"
#include "zarya/store.h"
#include "zarya/timer.h"
#include "zl/buf.h"
#include "zl/codec.h"
#include "zl/json.h"
#include "zl/tables.h"
#include "zl/text.h"

#define CODE_OK 0
#define CODE_SYSTEM_ERROR 1
#define CODE_NO_PERMISSION 16
#define CODE_TOPIC_NOT_EXIST 17
#define CODE_GROUP_NOT_EXIST 26
#define CODE_INVALID_PARAMETER 29
#define CODE_CONSUMER_NOT_ONLINE 206
#define CODE_CONSUME_MSG_TIMEOUT 207
#define ADMIN_NOT_KEPT "it is in effect, but could not be written to the disk yet; that is tried again until it can"
#define ADMIN_MAX_BODY (15u * 1024 * 1024) /* a frame holds 16 MiB */

struct zr_inst {
    const struct zr_host *host;
    const struct zr_reply_v1 *reply;
    const struct zr_broker_v1 *broker;
    const struct zr_store_v1 *store;
    const struct zr_timer_v1 *timer;
    const struct zr_metrics_v1 *metrics; /* NULL: there are none */
    pthread_mutex_t timed_lock;          /* guards what code 28 knew when it was asked last; a leaf */
    int64_t timed_ns;
    double timed_enqueued, timed_delivered;
};

/* ---- answers (admin.c) ---- */
zr_status admin_refuse(struct zr_inst *inst, const struct zr_request *req, int32_t code, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
zr_status admin_ok(struct zr_inst *inst, const struct zr_request *req);
/* admin_ok when what was changed in a document (ZR_DOCUMENT_*) is on the disk; a refusal that says so, when it cannot be written. */
zr_status admin_ok_durable(struct zr_inst *inst, const struct zr_request *req, uint32_t document);
/* The same with a body, which it frees. */
zr_status admin_body_durable(struct zr_inst *inst, const struct zr_request *req, struct zl_buf *body, uint32_t document);
/* Answers 0 with the buffer as body, and frees it. fields may be NULL. */
zr_status admin_body(struct zr_inst *inst, const struct zr_request *req, struct zl_buf *body, const struct zl_fields *fields);
struct zr_str admin_ext(const struct zr_request *req, const char *name);
int64_t admin_ext_i64(const struct zr_request *req, const char *name, int64_t dflt);
uint32_t admin_ext_bool(const struct zr_request *req, const char *name, uint32_t dflt);
struct zr_str admin_brokers_name(struct zr_inst *inst);
/* The bound storage; NULL instance when there is none. */
const struct zr_storage_v1 *admin_storage(struct zr_inst *inst, struct zr_inst **ret);

/* What a handler needs of a topic once its callback is over. */
struct admin_topic { int32_t read_queues, write_queues, perm, sys_flag; uint32_t order, system; };
/* 1: the topic exists. */
uint32_t admin_topic(struct zr_inst *inst, struct zr_str name, struct admin_topic *ret);

/* ---- a set of names that grows (print.c) ---- */
struct names { char **list; uint64_t n, cap; };
void names_add(struct names *names, struct zr_str name); /* once each; drops it when memory ran out */
uint32_t names_has(const struct names *names, struct zr_str name);
void names_sort(struct names *names);
void names_free(struct names *names);

/* ---- printing (print.c) ---- */
void print_subscription(struct zl_jw *w, const struct zr_subscription *sub);
void print_names(struct zl_jw *w, const char *key, const struct names *names);
/* {"brokerName":..,"queueId":..,"topic":..} as the key of a map's next value. */
void print_queue_key(struct zl_jw *w, struct zr_str broker, struct zr_str topic, int32_t queue_id);
const char *consume_type_name(uint32_t type);
const char *model_name(uint32_t model);

/* ---- tables of handlers, one a file ---- */
extern const struct zr_handler admin_topic_handlers[], admin_group_handlers[], admin_stats_handlers[], admin_runtime_handlers[],
    admin_relay_handlers[], admin_offset_handlers[], admin_status_handlers[];
extern const uint32_t admin_n_topic_handlers, admin_n_group_handlers, admin_n_stats_handlers, admin_n_runtime_handlers,
    admin_n_relay_handlers, admin_n_offset_handlers, admin_n_status_handlers;
#define ADMIN_HANDLER(number, text, extra, fn) \
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = (number), .serves = ZR_SERVES_BROKER | ZR_SERVES_FAST, \
      .flags = ZR_HANDLER_WORKER | (extra), .name = (text), .handle = (fn) }
#endif
