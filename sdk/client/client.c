/* SPDX-License-Identifier: Apache-2.0 */
/* client.c - one client: its parts, its service thread, and the requests that servers send to it.
 *
 * The service thread does everything that has a period (heartbeats, routes, rebalance, offsets, locks, the address
 * server) and what is asked for at once (a rebalance after NOTIFY_CONSUMER_IDS_CHANGED). It sleeps on a condition until
 * the next of them is due.
 *
 * LOCKING: client->lock guards the service thread's orders; client->members (see internal.h) the lists of producers and
 * consumers; never both. */
#include "internal.h"
#include <arpa/inet.h>
#include <errno.h>
#include <ifaddrs.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <sys/socket.h>
#include <unistd.h>

#define CODE_HEARTBEAT 34
#define CODE_UNREGISTER 35
#define CODE_NOTIFY_IDS_CHANGED 40
#define CODE_RUNNING_INFO 307
#define LOCK_PERIOD_MS 20000
#define INNER_GROUP "CLIENT_INNER_PRODUCER" /* what every Java client announces; tools look for it */

/* ---- requests from servers (on the I/O thread) ---- */

static void answer_code(struct zc_client *client, struct zc_conn *conn, const struct zl_header *request, int32_t code,
                        const char *remark, struct zr_span body)
{
    struct zr_command response = {
        .hdr = ZR_HDR(struct zr_command, 1), .code = code, .remark = zl_str(remark), .body = body
    };
    zc_io_answer(client->io, conn, request, &response);
}

/* Members may be busy with a round of calls: on the I/O thread we only try. */
static void answer_running_info(struct zc_client *client, struct zc_conn *conn, const struct zl_header *request)
{
    struct zr_str group = zl_field(request->fields, request->n_fields, "consumerGroup");
    struct zl_buf out;
    struct zl_jw w;
    struct zc_consumer *found = NULL;
    if (pthread_mutex_trylock(&client->members))
        return answer_code(client, conn, request, 1, "the client is busy, ask again", (struct zr_span){ 0 });
    zl_buf_init(&out, 4u << 20);
    for (struct zc_consumer *c = client->consumers; c; c = zc_consumer_next(c))
        if (zl_is(group, zc_consumer_group(c))) found = c;
    zl_jw_init(&w, &out, 0);
    if (found) zc_consumer_running(found, &w);
    pthread_mutex_unlock(&client->members);
    if (found && !out.failed)
        answer_code(client, conn, request, 0, NULL, zl_buf_as_span(&out));
    else
        answer_code(client, conn, request, 1, "The Consumer Group not exist in this consumer", (struct zr_span){ 0 });
    zl_buf_free(&out);
}

static void on_request(void *ctx, struct zc_conn *conn, const struct zl_header *request)
{
    struct zc_client *client = ctx;
    switch (request->code) {
    case CODE_NOTIFY_IDS_CHANGED:
        zc_client_wake(client, 1, 0);
        break;
    case CODE_RUNNING_INFO:
        answer_running_info(client, conn, request);
        break;
    default:
        answer_code(client, conn, request, 3, " request type not supported by this client", (struct zr_span){ 0 });
    }
}

/* ---- heartbeats ---- */

static void heartbeat_producers(struct zc_client *client, struct zl_jw *w)
{
    zl_jw_key(w, zl_str("producerDataSet"));
    zl_jw_begin(w, '[');
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "groupName", zl_str(INNER_GROUP));
    zl_jw_end(w, '}');
    for (const struct zc_producer *p = client->producers; p; p = p->next) {
        zl_jw_begin(w, '{');
        zl_jw_kstr(w, "groupName", zl_str(p->group));
        zl_jw_end(w, '}');
    }
    zl_jw_end(w, ']');
}

static void heartbeat_body(struct zc_client *client, struct zl_buf *out)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "clientID", zl_str(client->id));
    zl_jw_key(&w, zl_str("consumerDataSet"));
    zl_jw_begin(&w, '[');
    for (struct zc_consumer *c = client->consumers; c; c = zc_consumer_next(c)) zc_consumer_describe(c, &w);
    zl_jw_end(&w, ']');
    zl_jw_ki64(&w, "heartbeatFingerprint", 0);
    heartbeat_producers(client, &w);
    zl_jw_kbool(&w, "withoutSub", 0);
    zl_jw_end(&w, '}');
}

struct beat {
    struct zc_client *client;
    struct zl_buf body;
};

static int beat_one(void *ctx, const char *name, const char *addr)
{
    struct beat *beat = ctx;
    (void)name;
    struct zc_request request = { .code = CODE_HEARTBEAT, .body = zl_buf_as_span(&beat->body), .empty_ext = 1 };
    struct zc_response *response = NULL;
    struct zc_err err;
    int rc = zc_io_call(beat->client->io, addr, &request, beat->client->options.timeout_ms, &response, &err);
    zc_response_free(response);
    return rc == ZC_ECLOSING ? rc : 0; /* an unreachable broker is tried again at the next heartbeat */
}

void zc_client_heartbeat(struct zc_client *client)
{
    struct beat beat = { .client = client };
    if (!client->producers && !client->consumers) return;
    zl_buf_init(&beat.body, 4u << 20);
    heartbeat_body(client, &beat.body);
    /* Slaves hear only of consumers. */
    if (!beat.body.failed) zc_routes_each_broker(client, client->consumers != NULL, beat_one, &beat);
    zl_buf_free(&beat.body);
}

static int unregister_one(void *ctx, const char *name, const char *addr)
{
    struct {
        struct zc_client *client;
        struct zc_request request;
    } *u = ctx;
    struct zc_response *response = NULL;
    struct zc_err err;
    (void)name;
    zc_io_call(u->client->io, addr, &u->request, 1000, &response, &err);
    zc_response_free(response);
    return 0;
}

int zc_unregister(struct zc_client *client, const char *producer_group, const char *consumer_group)
{
    struct zr_field fields[2] = { { ZR_STR("clientID"), zl_str(client->id) } };
    fields[1].name = zl_str(producer_group ? "producerGroup" : "consumerGroup");
    fields[1].value = zl_str(producer_group ? producer_group : consumer_group);
    struct {
        struct zc_client *client;
        struct zc_request request;
    } u = { client, { .code = CODE_UNREGISTER, .fields = fields, .n_fields = 2 } };
    return zc_routes_each_broker(client, consumer_group != NULL, unregister_one, &u);
}

/* ---- the service thread ---- */

enum { TICK_ROUTE, TICK_HEARTBEAT, TICK_REBALANCE, TICK_PERSIST, TICK_LOCK, TICK_ADDRESS, TICKS };

static void service_round(struct zc_client *client, const uint32_t *due)
{
    if (due[TICK_ADDRESS]) zc_names_refresh(&client->names, NULL);
    uint32_t rebalance = due[TICK_REBALANCE];
    if (due[TICK_ROUTE] && zc_routes_refresh(client)) rebalance = 1;
    pthread_mutex_lock(&client->members);
    if (due[TICK_HEARTBEAT]) zc_client_heartbeat(client);
    for (struct zc_consumer *c = client->consumers; c; c = zc_consumer_next(c)) {
        if (due[TICK_LOCK]) zc_consumer_lock_all(c);
        if (rebalance) zc_consumer_rebalance(c);
        if (due[TICK_PERSIST]) zc_consumer_persist(c);
    }
    pthread_mutex_unlock(&client->members);
}

/* Sleeps until something is due or asked for; 0: the end. */
static uint32_t service_wait(struct zc_client *client, int64_t *next, const int64_t *period, uint32_t *due)
{
    uint32_t any = 0;
    pthread_mutex_lock(&client->lock);
    while (!client->stop && !any) {
        int64_t now = zc_now_ns(), first = INT64_MAX;
        for (int i = 0; i < TICKS; i++) {
            due[i] = now >= next[i] || (i == TICK_REBALANCE && client->want_rebalance) ||
                     (i == TICK_HEARTBEAT && client->want_heartbeat);
            if (due[i]) next[i] = now + period[i], any = 1;
            if (next[i] < first) first = next[i];
        }
        client->want_rebalance = client->want_heartbeat = 0;
        if (any) break;
        struct timespec until = { .tv_sec = first / 1000000000, .tv_nsec = first % 1000000000 };
        pthread_cond_timedwait(&client->wake, &client->lock, &until);
    }
    uint32_t go = !client->stop;
    pthread_mutex_unlock(&client->lock);
    return go;
}

static void *service_run(void *arg)
{
    struct zc_client *client = arg;
    const struct zc_options *o = &client->options;
    int64_t period[TICKS] = { o->route_ms * ZC_MS,   o->heartbeat_ms * ZC_MS, o->rebalance_ms * ZC_MS,
                              o->persist_ms * ZC_MS, LOCK_PERIOD_MS * ZC_MS,  o->address_ms * ZC_MS };
    int64_t next[TICKS], now = zc_now_ns();
    uint32_t due[TICKS];
    pthread_setname_np(pthread_self(), "zc-service");
    for (int i = 0; i < TICKS; i++) next[i] = now + period[i];
    while (service_wait(client, next, period, due)) service_round(client, due);
    return NULL;
}

void zc_client_wake(struct zc_client *client, uint32_t rebalance, uint32_t heartbeat)
{
    pthread_mutex_lock(&client->lock);
    client->want_rebalance |= rebalance;
    client->want_heartbeat |= heartbeat;
    pthread_cond_signal(&client->wake);
    pthread_mutex_unlock(&client->lock);
}

/* ---- opening and closing ---- */

/* The first address that is not loopback, as Java picks one for its client id. */
static void local_ip(char *to, uint64_t cap)
{
    struct ifaddrs *list = NULL;
    snprintf(to, cap, "127.0.0.1");
    if (getifaddrs(&list)) return;
    for (const struct ifaddrs *a = list; a; a = a->ifa_next) {
        if (!a->ifa_addr || a->ifa_addr->sa_family != AF_INET) continue;
        struct in_addr ip = ((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr;
        if ((ntohl(ip.s_addr) >> 24) == 127) continue;
        inet_ntop(AF_INET, &ip, to, (socklen_t)cap);
        break;
    }
    freeifaddrs(list);
}

/* Milliseconds: two minutes, or what the environment says. */
static int32_t address_interval(void)
{
    const char *text = getenv("ROCKETMQ_NAMESRV_INTERVAL");
    int32_t ms;
    return text && zl_parse_i32(zl_str(text), &ms) == ZR_OK && ms >= 100 ? ms : 120000;
}

static void options_default(struct zc_options *o)
{
    if (o->timeout_ms <= 0) o->timeout_ms = 3000;
    if (o->heartbeat_ms <= 0) o->heartbeat_ms = 30000;
    if (o->route_ms <= 0) o->route_ms = 30000;
    if (o->persist_ms <= 0) o->persist_ms = 5000;
    if (o->rebalance_ms <= 0) o->rebalance_ms = 20000;
    if (o->address_ms <= 0) o->address_ms = address_interval();
}

static void client_free(struct zc_client *client)
{
    zc_io_close(client->io);
    zc_names_fini(&client->names);
    zc_routes_fini(&client->routes);
    pthread_mutex_destroy(&client->lock);
    pthread_mutex_destroy(&client->members);
    pthread_cond_destroy(&client->wake);
    free(client);
}

struct zc_client *zc_client_open(const struct zc_options *options, struct zc_err *err)
{
    struct zc_err mine;
    if (!err) err = &mine;
    err->code = 0;
    struct zc_client *client = calloc(1, sizeof(*client));
    if (!client) return zc_fail(err, ZC_ENOMEM, "memory ran out"), NULL;
    if (options) client->options = *options;
    options_default(&client->options);
    char ip[64];
    local_ip(ip, sizeof(ip));
    if (client->options.instance)
        snprintf(client->id, sizeof(client->id), "%s@%s", ip, client->options.instance);
    else
        snprintf(client->id, sizeof(client->id), "%s@%d#%lld", ip, (int)getpid(), (long long)zc_now_ns());
    snprintf(client->stable_id, sizeof(client->stable_id), "%s@%s", ip,
             client->options.instance ? client->options.instance : "DEFAULT");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&client->wake, &attr);
    pthread_condattr_destroy(&attr);
    pthread_mutex_init(&client->lock, NULL);
    pthread_mutex_init(&client->members, NULL);
    int rc = zc_routes_init(&client->routes);
    if (rc) zc_fail(err, rc, "memory ran out");
    int rc2 = zc_names_init(&client->names, &client->options, err);
    if (rc == 0) rc = rc2;
    if (rc == 0 && !(client->io = zc_io_open(client->options.header == ZC_HEADER_BINARY ? ZL_TYPE_BINARY : ZL_TYPE_JSON,
                                             on_request, client, err)))
        rc = ZC_ENOMEM;
    if (rc == 0 && pthread_create(&client->service, NULL, service_run, client))
        rc = zc_fail(err, ZC_ENOMEM, "no further thread can be started");
    client->options.namesrv = client->options.address_server = client->options.instance = NULL; /* were borrowed */
    if (rc == 0) return client;
    client_free(client);
    return NULL;
}

void zc_client_close(struct zc_client *client)
{
    if (!client) return;
    pthread_mutex_lock(&client->lock);
    client->stop = 1;
    pthread_cond_signal(&client->wake);
    pthread_mutex_unlock(&client->lock);
    pthread_join(client->service, NULL);
    client_free(client);
}

const char *zc_client_id(const struct zc_client *client) { return client->id; }

int zc_client_set_namesrv(struct zc_client *client, const char *addresses, struct zc_err *err)
{
    return zc_names_set(&client->names, addresses, err);
}

/* ---- plain calls ---- */

static int32_t timeout_of(const struct zc_client *client, const struct zc_request *request)
{
    return request->timeout_ms > 0 ? request->timeout_ms : client->options.timeout_ms;
}

int zc_call(struct zc_client *client, const char *addr, const struct zc_request *request, struct zc_response **ret,
            struct zc_err *err)
{
    return zc_io_call(client->io, addr, request, timeout_of(client, request), ret, err);
}

int zc_call_async(struct zc_client *client, const char *addr, const struct zc_request *request, zc_on_answer on_answer,
                  void *ctx, struct zc_err *err)
{
    return zc_io_call_async(client->io, addr, request, timeout_of(client, request), on_answer, ctx, err);
}

int zc_call_oneway(struct zc_client *client, const char *addr, const struct zc_request *request, struct zc_err *err)
{
    return zc_io_call_oneway(client->io, addr, request, err);
}

int zc_call_ok(struct zc_client *client, const char *addr, const struct zc_request *request, struct zc_response **ret,
               struct zc_err *err)
{
    struct zc_response *response = NULL;
    if (ret) *ret = NULL;
    int rc = zc_call(client, addr, request, &response, err);
    if (rc == 0 && response->code) rc = zc_fail_response(err, response);
    if (rc == 0 && ret)
        *ret = response;
    else
        zc_response_free(response);
    return rc;
}
