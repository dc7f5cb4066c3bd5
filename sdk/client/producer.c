/* SPDX-License-Identifier: Apache-2.0 */
/* producer.c - sends: choosing a queue, the request, retries on other brokers.
 *
 * What stays true: a message keeps its UNIQ_KEY over all its tries. A send whose queue the user chose is tried once
 * there (order would break otherwise); any other is tried again on another broker after Apache's retry codes, a lost
 * connection or a time-out, while time is left. */
#include "internal.h"
#include "zl/record.h"
#include <stdio.h>

#define CODE_SEND_V2 310
#define CODE_SEND_BATCH 320
#define TOPIC_FROM "TBW102"
#define SYS_COMPRESSED_ZLIB 0x301
#define BATCH_MAX (4u * 1024 * 1024)

const char *zc_send_status_name(int32_t status)
{
    switch (status) {
    case 0:
        return "SEND_OK";
    case 10:
        return "FLUSH_DISK_TIMEOUT";
    case 11:
        return "SLAVE_NOT_AVAILABLE";
    case 12:
        return "FLUSH_SLAVE_TIMEOUT";
    default:
        return "UNKNOWN";
    }
}

/* The codes after which Apache's producer tries another broker; connection trouble likewise. */
static uint32_t worth_retry(int32_t code)
{
    switch (code) {
    case 1:
    case 2:
    case 14:
    case 16:
    case 17:
    case 204:
    case 205:
    case 1500: /* the server's */
    case ZC_ECONNECT:
    case ZC_ELOST:
    case ZC_ETIMEOUT:
        return 1;
    default:
        return 0;
    }
}

struct zc_producer *zc_producer_open(struct zc_client *client, const struct zc_producer_options *options,
                                     struct zc_err *err)
{
    char why[256];
    if (!options->group || zl_group_check(zl_str(options->group), why, sizeof(why)) != ZR_OK)
        return zc_fail(err, ZC_EARG, "%s", options->group ? why : "a producer needs a group"), NULL;
    struct zc_producer *p = calloc(1, sizeof(*p));
    if (!p) return zc_fail(err, ZC_ENOMEM, "memory ran out"), NULL;
    p->client = client;
    p->options = *options;
    snprintf(p->group, sizeof(p->group), "%s", options->group);
    p->options.group = p->group;
    if (!p->options.timeout_ms) p->options.timeout_ms = 3000;
    if (!p->options.retries) p->options.retries = 2;
    if (p->options.retries < 0) p->options.retries = 0;
    if (!p->options.compress_over) p->options.compress_over = 4096;
    if (!p->options.max_message_size) p->options.max_message_size = 4 * 1024 * 1024;
    if (!p->options.topic_queues) p->options.topic_queues = 4;
    atomic_init(&p->turn, (unsigned)zc_now_ns() & 0xffff);
    pthread_mutex_lock(&client->members);
    p->next = client->producers;
    client->producers = p;
    pthread_mutex_unlock(&client->members);
    return p;
}

void zc_producer_close(struct zc_producer *producer)
{
    if (!producer) return;
    struct zc_client *client = producer->client;
    uint32_t others = 0;
    pthread_mutex_lock(&client->members);
    for (struct zc_producer **at = &client->producers; *at;) {
        if (*at == producer) {
            *at = producer->next;
            continue;
        }
        others |= strcmp((*at)->group, producer->group) == 0;
        at = &(*at)->next;
    }
    pthread_mutex_unlock(&client->members);
    if (!others) zc_unregister(client, producer->group, NULL);
    free(producer);
}

/* ---- the request of a send ---- */

struct send_call {
    struct zr_field fields[14];
    struct zc_request request;
    char numbers[160];
    struct zl_buf props;
    uint8_t *deflated;
    char uniq[33];
    char broker[ZC_NAME_MAX];
    char topic[ZC_NAME_MAX];
};

static struct zr_str number(struct send_call *call, uint32_t slot, int64_t v)
{
    char *to = call->numbers + slot * 24;
    return (struct zr_str){ to, zl_print_i64(to, v) };
}

static void call_free(struct send_call *call)
{
    zl_buf_free(&call->props);
    free(call->deflated);
}

/* Everything but the queue. */
static int call_build(struct send_call *call, const struct zc_producer *p, const struct zc_message *msg, uint32_t batch,
                      struct zc_err *err)
{
    int32_t sys_flag = 0;
    struct zr_span body = msg->body;
    memset(&call->request, 0, sizeof(call->request));
    call->deflated = NULL;
    zl_buf_init(&call->props, 2 * ZL_MAX_PROPERTIES);
    zl_unique_id(call->uniq);
    call->uniq[32] = 0;
    if (!batch && p->options.compress_over >= 0 && body.len >= (uint64_t)p->options.compress_over) {
        uint64_t n = zc_deflate(body, &call->deflated);
        if (n) body = (struct zr_span){ call->deflated, n }, sys_flag = SYS_COMPRESSED_ZLIB;
    }
    int rc = zc_props_write(&call->props, msg, call->uniq, err);
    if (rc) return call_free(call), rc;
    struct zr_field *f = call->fields;
    uint32_t n = 0;
    f[n++] = (struct zr_field){ ZR_STR("a"), zl_str(p->group) };
    f[n++] = (struct zr_field){ ZR_STR("b"), msg->topic };
    f[n++] = (struct zr_field){ ZR_STR("c"), ZR_STR(TOPIC_FROM) };
    f[n++] = (struct zr_field){ ZR_STR("d"), number(call, 0, p->options.topic_queues) };
    f[n++] = (struct zr_field){ ZR_STR("e"), { NULL, 0 } };
    f[n++] = (struct zr_field){ ZR_STR("f"), number(call, 2, sys_flag) };
    f[n++] = (struct zr_field){ ZR_STR("g"), number(call, 3, zc_now_ms()) };
    f[n++] = (struct zr_field){ ZR_STR("h"), number(call, 4, msg->flag) };
    f[n++] = (struct zr_field){ ZR_STR("i"), zl_buf_as_str(&call->props) };
    f[n++] = (struct zr_field){ ZR_STR("j"), ZR_STR("0") };
    f[n++] = (struct zr_field){ ZR_STR("k"), ZR_STR("false") };
    f[n++] = (struct zr_field){ ZR_STR("m"), zl_str(batch ? "true" : "false") };
    f[n++] = (struct zr_field){ ZR_STR("n"), { NULL, 0 } };
    call->request.code = batch ? CODE_SEND_BATCH : CODE_SEND_V2;
    call->request.fields = f;
    call->request.n_fields = n;
    call->request.body = body;
    return ZC_OK;
}

static void call_aim(struct send_call *call, const struct zc_queue *queue)
{
    memcpy(call->broker, queue->broker, sizeof(call->broker));
    call->fields[4].value = number(call, 1, queue->queue_id);
    call->fields[12].value = zl_str(call->broker);
}

static void first_of_list(char to[ZC_ID_MAX], struct zr_str list)
{
    struct zr_str first = { NULL, 0 };
    zl_split(&list, ',', &first);
    if (first.len >= ZC_ID_MAX) first.len = ZC_ID_MAX - 1;
    if (first.len) memcpy(to, first.ptr, first.len);
    to[first.len] = 0;
}

static int result_read(const struct zc_response *r, const char *uniq, const struct zc_queue *queue, const char *addr,
                       struct zc_send_result *ret, struct zc_err *err)
{
    if (r->code != 0 && r->code != 10 && r->code != 11 && r->code != 12) return zc_fail_response(err, r);
    memset(ret, 0, sizeof(*ret));
    ret->status = r->code;
    ret->queue = *queue;
    snprintf(ret->msg_id, sizeof(ret->msg_id), "%s", uniq);
    snprintf(ret->broker_addr, sizeof(ret->broker_addr), "%s", addr);
    first_of_list(ret->offset_msg_id, zl_field(r->fields, r->n_fields, "msgId"));
    if (zl_field_i32(r->fields, r->n_fields, "queueId", &ret->queue.queue_id) != ZR_OK ||
        zl_field_i64(r->fields, r->n_fields, "queueOffset", &ret->queue_offset) != ZR_OK)
        return zc_fail(err, ZC_EPROTO, "the answer to a send lacks queueId or queueOffset");
    return ZC_OK;
}

/* ---- choosing a queue ---- */

static uint32_t round_robin(struct zc_producer *p, const struct zc_view *view, const char *not_broker)
{
    for (uint32_t i = 0; not_broker && i < view->n_write; i++) {
        uint32_t at = atomic_fetch_add(&p->turn, 1) % view->n_write;
        if (strcmp(view->write[at].broker, not_broker) != 0) return at;
    }
    return atomic_fetch_add(&p->turn, 1) % view->n_write;
}

/* The queue's index in view->write; -1: the one that select names is not there. */
static int64_t choose(struct zc_producer *p, const struct zc_view *view, const struct zc_message *msg,
                      const struct zc_select *select, const char *not_broker)
{
    if (!select || select->how == ZC_SELECT_ROUND_ROBIN) return round_robin(p, view, not_broker);
    if (select->how == ZC_SELECT_HASH) {
        int64_t hash = zl_java_hash(select->key);
        return (hash < 0 ? -hash : hash) % view->n_write;
    }
    if (select->how == ZC_SELECT_CALL) {
        uint32_t at = select->pick(select->ctx, msg, view->write, view->n_write);
        return at < view->n_write ? (int64_t)at : -1;
    }
    for (uint32_t i = 0; i < view->n_write; i++)
        if (view->write[i].queue_id == select->queue->queue_id &&
            strcmp(view->write[i].broker, select->queue->broker) == 0)
            return i;
    return -1;
}

static int view_for(struct zc_producer *p, struct zr_str topic, struct zc_view **ret, struct zc_err *err)
{
    char name[ZC_NAME_MAX];
    if (zc_copy_name(name, topic)) return zc_fail(err, ZC_EARG, "the topic's name is too long");
    int rc = zc_routes_get(p->client, name, (uint32_t)p->options.topic_queues, 0, ret, err);
    if (rc) return rc;
    if ((*ret)->n_write) return ZC_OK;
    zc_view_release(*ret);
    rc = zc_routes_get(p->client, name, (uint32_t)p->options.topic_queues, 1, ret, err); /* it may have changed */
    if (rc) return rc;
    if ((*ret)->n_write) return ZC_OK;
    zc_view_release(*ret);
    return zc_fail(err, ZC_ENOROUTE, "No route info of this topic: %s (it has no queue that may be written)", name);
}

/* A topic that was just made by its first message: soon ask for its real route. */
static void learn_route(struct zc_producer *p, struct zc_view *view)
{
    struct zc_view *fresh = NULL;
    if (!view->fallback || view->n_write == 0) return;
    if (zc_routes_get(p->client, view->write[0].topic, (uint32_t)p->options.topic_queues, 1, &fresh, NULL) == 0)
        zc_view_release(fresh);
}

/* ---- waiting sends ---- */

static int send_tries(struct zc_producer *p, struct send_call *call, const struct zc_message *msg,
                      const struct zc_select *select, struct zc_view *view, struct zc_send_result *ret,
                      struct zc_err *err)
{
    int32_t tries = !select || select->how == ZC_SELECT_ROUND_ROBIN ? 1 + p->options.retries : 1;
    int64_t end = zc_now_ns() + p->options.timeout_ms * ZC_MS;
    char last[ZC_NAME_MAX] = "";
    int rc = ZC_EARG;
    for (int32_t i = 0; i < tries; i++) {
        int64_t left = (end - zc_now_ns()) / ZC_MS;
        int64_t at = choose(p, view, msg, select, i ? last : NULL);
        if (at < 0) return zc_fail(err, ZC_EARG, "the selected queue is not one of the topic's");
        if (left <= 0) return i ? rc : zc_fail(err, ZC_ETIMEOUT, "no time left to send");
        const struct zc_queue *queue = &view->write[at];
        struct zc_response *response = NULL;
        call_aim(call, queue);
        memcpy(last, queue->broker, sizeof(last));
        rc = zc_io_call(p->client->io, view->write_addr[at], &call->request, (int32_t)left, &response, err);
        if (rc == 0) rc = result_read(response, call->uniq, queue, view->write_addr[at], ret, err);
        zc_response_free(response);
        if (rc == 0) ret->tries = (uint32_t)i + 1;
        if (!worth_retry(rc)) return rc;
    }
    return rc;
}

static int send_wait(struct zc_producer *p, const struct zc_message *msg, uint32_t batch,
                     const struct zc_select *select, struct zc_send_result *ret, struct zc_err *err)
{
    struct zc_err mine;
    struct send_call call;
    struct zc_view *view;
    if (!err) err = &mine;
    int rc = view_for(p, msg->topic, &view, err);
    if (rc) return rc;
    rc = call_build(&call, p, msg, batch, err);
    if (rc == 0) {
        rc = send_tries(p, &call, msg, select, view, ret, err);
        call_free(&call);
    }
    if (rc == 0) learn_route(p, view);
    zc_view_release(view);
    return rc;
}

int zc_send(struct zc_producer *producer, const struct zc_message *msg, const struct zc_select *select,
            struct zc_send_result *ret, struct zc_err *err)
{
    struct zc_send_result mine;
    int rc = zc_message_check(msg, producer->options.max_message_size, err);
    return rc ? rc : send_wait(producer, msg, 0, select, ret ? ret : &mine, err);
}

int zc_send_batch(struct zc_producer *producer, const struct zc_message *msgs, uint32_t n,
                  const struct zc_select *select, struct zc_send_result *ret, struct zc_err *err)
{
    struct zl_buf body, props;
    struct zc_send_result mine;
    char uniq[33], first[33] = "";
    int rc = n ? ZC_OK : zc_fail(err, ZC_EARG, "an empty batch");
    zl_buf_init(&body, BATCH_MAX);
    zl_buf_init(&props, 2 * ZL_MAX_PROPERTIES);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        if (!zl_eq(msgs[i].topic, msgs[0].topic) || msgs[i].no_wait != msgs[0].no_wait)
            rc = zc_fail(err, ZC_EARG, "the messages of a batch must have one topic and one WAIT");
        if (!rc && (msgs[i].delay_level || zl_starts(msgs[i].topic, "%RETRY%")))
            rc = zc_fail(err, ZC_EARG, "delayed and retried messages cannot be batched");
        if (!rc) rc = zc_message_check(&msgs[i], producer->options.max_message_size, err);
        if (rc) break;
        zl_unique_id(uniq);
        uniq[32] = 0;
        if (i == 0) memcpy(first, uniq, sizeof(first));
        zl_buf_clear(&props);
        rc = zc_props_write(&props, &msgs[i], uniq, err);
        struct zl_batch_item item = { .body = msgs[i].body,
                                      .properties = zl_buf_as_span(&props),
                                      .flag = msgs[i].flag };
        zl_batch_add(&body, &item);
    }
    if (rc == 0 && (body.failed || body.len > (uint64_t)producer->options.max_message_size))
        rc = zc_fail(err, ZC_EARG, "the batch is larger than %d bytes", producer->options.max_message_size);
    if (rc == 0) {
        struct zc_message whole = { .topic = msgs[0].topic, .body = zl_buf_as_span(&body), .no_wait = msgs[0].no_wait };
        if (!ret) ret = &mine;
        rc = send_wait(producer, &whole, 1, select, ret, err);
        if (rc == 0) memcpy(ret->msg_id, first, sizeof(first));
    }
    zl_buf_free(&body);
    zl_buf_free(&props);
    return rc;
}

int zc_send_oneway(struct zc_producer *producer, const struct zc_message *msg, const struct zc_select *select,
                   struct zc_err *err)
{
    struct send_call call;
    struct zc_view *view;
    int rc = zc_message_check(msg, producer->options.max_message_size, err);
    if (rc == 0) rc = view_for(producer, msg->topic, &view, err);
    if (rc) return rc;
    rc = call_build(&call, producer, msg, 0, err);
    if (rc == 0) {
        int64_t at = choose(producer, view, msg, select, NULL);
        if (at < 0)
            rc = zc_fail(err, ZC_EARG, "the selected queue is not one of the topic's");
        else
            call_aim(&call, &view->write[at]),
                rc = zc_io_call_oneway(producer->client->io, view->write_addr[at], &call.request, err);
        call_free(&call);
    }
    zc_view_release(view);
    return rc;
}

/* ---- asynchronous sends ---- */

/* One send under way: its request with a copy of all it points to, so that it can be tried again. */
struct async_send {
    struct send_call call;
    struct zc_producer *p;
    struct zc_view *view;
    uint8_t *body;
    zc_on_sent on_sent;
    void *ctx;
    int64_t end;
    int64_t at;   /* the queue it was sent to */
    int32_t left; /* tries */
    uint32_t tries;
};

static int async_try(struct async_send *s, struct zc_err *err);

static void async_free(struct async_send *s)
{
    call_free(&s->call);
    zc_view_release(s->view);
    free(s->body);
    free(s);
}

static void async_answered(void *ctx, const struct zc_response *response, const struct zc_err *err)
{
    struct async_send *s = ctx;
    struct zc_send_result result;
    struct zc_err mine = { 0 };
    int rc = response ? result_read(response, s->call.uniq, &s->view->write[s->at], s->view->write_addr[s->at], &result,
                                    &mine)
                      : err->code;
    if (!response) mine = *err;
    if (rc && worth_retry(rc) && s->left > 0 && zc_now_ns() < s->end) {
        char broker[ZC_NAME_MAX];
        memcpy(broker, s->view->write[s->at].broker, sizeof(broker));
        s->at = round_robin(s->p, s->view, broker);
        if (async_try(s, &mine) == 0) return;
    }
    if (rc == 0) result.tries = s->tries;
    s->on_sent(s->ctx, rc ? NULL : &result, rc ? &mine : NULL);
    async_free(s);
}

static int async_try(struct async_send *s, struct zc_err *err)
{
    s->left--;
    s->tries++;
    call_aim(&s->call, &s->view->write[s->at]);
    int64_t left = (s->end - zc_now_ns()) / ZC_MS;
    return zc_io_call_async(s->p->client->io, s->view->write_addr[s->at], &s->call.request,
                            left > 0 ? (int32_t)left : 1, async_answered, s, err);
}

int zc_send_async(struct zc_producer *producer, const struct zc_message *msg, const struct zc_select *select,
                  zc_on_sent on_sent, void *ctx, struct zc_err *err)
{
    int rc = zc_message_check(msg, producer->options.max_message_size, err);
    if (rc) return rc;
    struct async_send *s = calloc(1, sizeof(*s));
    if (!s) return zc_fail(err, ZC_ENOMEM, "memory ran out");
    struct zc_message copy = *msg;
    zc_copy_name(s->call.topic, msg->topic); /* fits: its length was checked */
    copy.topic = zl_str(s->call.topic);
    if ((rc = view_for(producer, copy.topic, &s->view, err))) return free(s), rc;
    if ((rc = call_build(&s->call, producer, &copy, 0, err))) return zc_view_release(s->view), free(s), rc;
    if (!s->call.deflated) {
        s->body = malloc(msg->body.len);
        if (s->body)
            memcpy(s->body, msg->body.ptr, msg->body.len);
        else
            rc = zc_fail(err, ZC_ENOMEM, "memory ran out");
        s->call.request.body.ptr = s->body;
    }
    s->p = producer;
    s->on_sent = on_sent;
    s->ctx = ctx;
    s->end = zc_now_ns() + producer->options.timeout_ms * ZC_MS;
    s->left = !select || select->how == ZC_SELECT_ROUND_ROBIN ? 1 + producer->options.retries : 1;
    if (rc == 0 && (s->at = choose(producer, s->view, msg, select, NULL)) < 0)
        rc = zc_fail(err, ZC_EARG, "the selected queue is not one of the topic's");
    if (rc == 0) rc = async_try(s, err);
    if (rc) async_free(s);
    return rc;
}
