/* SPDX-License-Identifier: Apache-2.0 */
/* world.c - see world.h. */
#include "world.h"
#include <dirent.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include "zl/io.h"

#define WAIT_SECONDS 20

/* ---- connections ---- */
struct zr_conn {
    struct zr_conn *next;
    struct client *client;
    uint32_t lane;
    _Atomic uint32_t closing;
    uint32_t closed, released;
};
struct frame {
    struct frame *next;
    uint64_t len;
    uint8_t bytes[];
};
struct client {
    struct zr_conn conn;
    struct zr_session *session;
    struct zl_buf out;
    struct frame *frames;
    uint32_t told[64], n_answers;
    int32_t opaque;
    struct frame *requests; /* of this turn: they must stay where they are */
};
static struct zr_conn *conns;
static const struct zr_sink_v1 *sink;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static uint32_t woken[LANES], stop_threads;
static pthread_t threads[LANES];

static uint32_t t_lanes(struct zr_inst *inst)
{
    (void)inst;
    return LANES;
}
static struct zr_listener listeners[2] = {
    { ZR_HDR(struct zr_listener, 0),
      ZR_STR("tcp://127.0.0.1:10911"),
      { { 127, 0, 0, 1 }, 10911, 4 },
      ZR_SERVES_BROKER },
    { ZR_HDR(struct zr_listener, 0), ZR_STR("tcp://127.0.0.1:10909"), { { 127, 0, 0, 1 }, 10909, 4 }, ZR_SERVES_FAST },
};
static uint32_t t_listeners(struct zr_inst *inst, const struct zr_listener **ret)
{
    (void)inst;
    *ret = listeners;
    return 2;
}
static void t_bind(struct zr_inst *inst, const struct zr_sink_v1 *s)
{
    (void)inst;
    sink = s;
}

static void frames_cut(struct client *c)
{
    struct zr_span frame;
    uint64_t need, at = 0;
    while (zl_frame_cut((struct zr_span){ c->out.ptr + at, c->out.len - at }, &frame, &need) == ZR_OK) {
        struct frame *f = malloc(sizeof *f + frame.len), **last = &c->frames;
        struct zl_header h;
        static char scratch[1 << 16];
        const char *why;
        f->next = NULL;
        f->len = frame.len;
        memcpy(f->bytes, frame.ptr, frame.len);
        cr_assert(zl_header_decode((struct zr_span){ f->bytes, f->len }, &h, scratch, sizeof scratch, &why) == ZR_OK,
                  "%s", why);
        if (h.flag & ZL_FLAG_RESPONSE) {
            c->n_answers++;
            while (*last)
                last = &(*last)->next;
            *last = f;
        } else {
            c->told[h.code < 64 ? h.code : 0]++;
            free(f);
        }
        at += frame.len;
    }
    memmove(c->out.ptr, c->out.ptr + at, c->out.len - at);
    c->out.len -= at;
}

static zr_status t_send(struct zr_inst *inst, struct zr_conn *conn, const struct zr_output *out)
{
    (void)inst;
    zr_status status = atomic_load(&conn->closing) ? ZR_ECLOSED : ZR_OK;
    pthread_mutex_lock(&lock);
    for (uint32_t i = 0; i < out->n_pieces && status == ZR_OK; i++)
        zl_buf_add(&conn->client->out, out->pieces[i].ptr, out->pieces[i].len);
    if (status == ZR_OK)
        frames_cut(conn->client);
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    if (out->done)
        out->done(out->done_ctx, status);
    return status;
}

static uint64_t t_queued(struct zr_inst *inst, struct zr_conn *conn)
{
    (void)inst;
    (void)conn;
    return 0;
}

static void t_close(struct zr_inst *inst, struct zr_conn *conn, uint32_t flush)
{
    (void)inst;
    (void)flush;
    pthread_mutex_lock(&lock);
    atomic_store(&conn->closing, 1);
    woken[conn->lane] |= 2;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static void t_release(struct zr_inst *inst, struct zr_conn *conn)
{
    (void)inst;
    cr_assert(!conn->released);
    conn->released = 1;
}

static void t_wake(struct zr_inst *inst, uint32_t lane)
{
    (void)inst;
    pthread_mutex_lock(&lock);
    woken[lane] |= 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
}

static const char *const schemes[] = { "tcp", NULL };
static struct zr_transport_v1 transport = { ZR_HDR(struct zr_transport_v1, 0),
                                            ZR_TRANSPORT_STREAM,
                                            0,
                                            schemes,
                                            t_lanes,
                                            t_listeners,
                                            t_bind,
                                            t_send,
                                            t_queued,
                                            t_close,
                                            t_release,
                                            t_wake,
                                            NULL };

/* ---- registry ---- */
uint32_t registry_holds, registry_changes, registry_removals, registry_topics;
char registry_last[256];
static struct {
    void (*fn)(void *, zr_status);
    void *ctx;
} kept[64];
static uint32_t n_kept;

static void r_changed(struct zr_inst *inst, const struct zr_str *topics, uint32_t n,
                      void (*on_done)(void *ctx, zr_status status), void *ctx)
{
    (void)inst;
    pthread_mutex_lock(&lock);
    registry_changes++;
    registry_topics += n;
    if (n)
        snprintf(registry_last, sizeof registry_last, "%.*s", (int)topics[0].len, topics[0].ptr);
    uint32_t keep = registry_holds && on_done && n_kept < 64;
    if (keep) {
        kept[n_kept].fn = on_done;
        kept[n_kept++].ctx = ctx;
    }
    pthread_mutex_unlock(&lock);
    if (on_done && !keep)
        on_done(ctx, ZR_OK);
}

static void r_removed(struct zr_inst *inst, struct zr_str topic)
{
    (void)inst;
    (void)topic;
    registry_removals++;
}

void registry_answer(void)
{
    for (uint32_t i = 0; i < n_kept; i++)
        kept[i].fn(kept[i].ctx, ZR_OK);
    n_kept = 0;
}

static struct zr_registry_v1 registry = { ZR_HDR(struct zr_registry_v1, 0), r_changed, r_removed, NULL };

/* ---- filter: TAG by codes or by hashes of the text; SQL92 knows "a = 'x'" only, asked of property a ---- */
struct zr_prog {
    uint32_t tag, n;
    int32_t codes[16];
    char want[32];
};
uint32_t filter_compiles, filter_asked;
int32_t filter_live;

static zr_status f_compile(struct zr_inst *inst, const struct zr_expression *expr, struct zr_prog **ret,
                           uint64_t *ret_at)
{
    (void)inst;
    *ret_at = 0;
    filter_compiles++;
    struct zr_prog *p = calloc(1, sizeof *p);
    p->tag = zl_is(expr->language, "TAG");
    if (!p->tag) {
        if (sscanf(expr->text.ptr, "a = '%31[^']'", p->want) != 1) {
            free(p);
            zk_err_raise(ZR_EINVAL, 0, "only a = 'x' is understood");
            return ZR_EINVAL;
        }
    } else if (expr->codes) {
        for (; p->n < expr->n_codes; p->n++)
            p->codes[p->n] = expr->codes[p->n];
    } else {
        struct zr_str rest = expr->text, part;
        while (zl_split(&rest, '|', &part))
            if (zl_trim(part).len)
                p->codes[p->n++] = zl_java_hash(zl_trim(part));
    }
    filter_live++;
    *ret = p;
    return ZR_OK;
}

static void f_by_tags(const struct zr_prog *p, const int64_t *codes, uint32_t n, uint8_t *verdicts)
{
    filter_asked += n;
    for (uint32_t i = 0; i < n; i++) {
        verdicts[i] = p->tag ? ZR_MATCH_NO : ZR_MATCH_ASK;
        for (uint32_t k = 0; k < p->n; k++)
            if (p->codes[k] == codes[i])
                verdicts[i] = ZR_MATCH_YES;
    }
}

static uint32_t f_by_properties(const struct zr_prog *p, struct zr_span props)
{
    return zl_is(zl_props_get(props, "a"), p->want) ? ZR_MATCH_YES : ZR_MATCH_NO;
}
uint64_t filter_takes; /* steps of judging one message; 0: it is never dear */
uint32_t filter_judged;
static uint32_t f_within(const struct zr_prog *p, struct zr_span props, uint64_t *steps)
{
    if (filter_takes > *steps) {
        *steps = 0;
        return ZR_MATCH_ASK;
    }
    *steps -= filter_takes;
    filter_judged++;
    return f_by_properties(p, props);
}
static void f_free(struct zr_prog *p)
{
    filter_live--;
    free(p);
}
static const char *const languages[] = { "TAG", "SQL92", NULL };
static struct zr_filter_v1 filter = {
    ZR_HDR(struct zr_filter_v1, 0), languages, f_compile, f_by_tags, f_by_properties, f_free, f_within
};

/* ---- instances and hooks ---- */
struct zk_instance **zk_instances;
uint32_t zk_n_instances;
static struct zk_instance parts[8], *all[8];
void (*world_hook)(const struct zr_event *event, struct zr_verdict *verdict);
uint32_t world_hook_points;

uint32_t zk_hooks_want(uint32_t point, struct zr_str topic)
{
    (void)topic;
    return zk_hooks_at(point) != 0;
}

uint32_t zk_hooks_at(uint32_t point)
{
    return world_hook && point != ZR_POINT_REQUEST && (world_hook_points & (point < 32 ? 1u << point : 1u)) != 0;
}

void zk_hooks_run(uint32_t point, const struct zr_event *event, struct zr_verdict *ret)
{
    (void)point;
    if (zk_hooks_at(point))
        world_hook(event, ret);
}

static struct zk_instance *part(const char *id)
{
    struct zk_instance *p = &parts[zk_n_instances];
    all[zk_n_instances++] = p;
    zk_instances = all;
    p->id = p->as = id;
    p->stage = ZK_ACTIVE;
    return p;
}

void world_plugin(const char *id) { part(id); }

/* ---- start and stop ---- */
char world_dir[64];
static uint32_t keeps, has_dir;

static void dir_make(void)
{
    if (has_dir)
        return;
    strcpy(world_dir, "/tmp/zarya-broker-XXXXXX");
    cr_assert(mkdtemp(world_dir) != NULL);
    has_dir = 1;
}

static void dir_remove(const char *path)
{
    DIR *d = opendir(path);
    for (struct dirent *e; d && (e = readdir(d));) {
        char sub[512];
        snprintf(sub, sizeof sub, "%s/%s", path, e->d_name);
        if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && unlink(sub) != 0)
            dir_remove(sub);
    }
    if (d)
        closedir(d);
    rmdir(path);
}

void world_file(const char *name, const char *text)
{
    char path[256];
    dir_make();
    snprintf(path, sizeof path, "%s/config", world_dir);
    mkdir(path, 0755);
    snprintf(path, sizeof path, "%s/%s", world_dir, name);
    FILE *f = fopen(path, "w");
    cr_assert(f != NULL);
    fwrite(text, 1, strlen(text), f);
    fclose(f);
}

char *world_read_file(const char *name)
{
    char path[256];
    struct zl_buf b;
    snprintf(path, sizeof path, "%s/%s", world_dir, name);
    zl_buf_init(&b, 1u << 24);
    if (zl_io_load(zl_io_posix(), path, &b) < 0) {
        zl_buf_free(&b);
        return NULL;
    }
    zl_buf_u8(&b, 0);
    return (char *)b.ptr;
}

zr_status world_try_start(void (*tweak)(struct zb_settings *))
{
    static struct zb_settings set;
    dir_make();
    zk_log_set(ZR_LOG_ERROR, 0);
    zb_settings_default(&set);
    if (tweak)
        tweak(&set);
    zk_node.broker_settings = &set;
    zk_node.data_dir = world_dir;
    zk_node.set.name = (struct zr_str)ZR_STR("broker-a");
    zk_node.set.cluster = (struct zr_str)ZR_STR("DefaultCluster");
    zk_node.ip1 = zk_node.ip2 = (struct zr_str)ZR_STR("127.0.0.1");
    zk_node.with_broker = 1;
    part("transport-fake")->transport = &transport;
    part("storage-fake")->storage = &store_table;
    part("registry-fake")->registry = &registry;
    part("filter-fake")->filter = &filter;
    cr_assert(zk_core_start(2) == ZR_OK);
    zk_remoting_provide();
    zk_broker_provide();
    zr_status status = zk_broker_open();
    if (status != ZR_OK) {
        zk_core_stop();
        return status;
    }
    cr_assert(zk_remoting_start() == ZR_OK, "%s", zk_err_text());
    zk_broker_start();
    return ZR_OK;
}

void world_start_with(void (*tweak)(struct zb_settings *))
{
    zr_status status = world_try_start(tweak);
    cr_assert(status == ZR_OK, "%d %s", status, zk_err_text());
}

void world_start(void) { world_start_with(NULL); }
void world_keep(void) { keeps = 1; }

static void closed_due(uint32_t lane)
{
    for (struct zr_conn *c = conns; c; c = c->next)
        if (c->lane == lane && atomic_load(&c->closing) && !c->closed) {
            c->closed = 1;
            sink->closed(sink->ctx, c->client->session, ZR_ECLOSED);
        }
}

static void lane_pump(uint32_t lane)
{
    pthread_mutex_lock(&lock);
    uint32_t was = woken[lane];
    woken[lane] = 0;
    pthread_mutex_unlock(&lock);
    if (was & 1)
        sink->woken(sink->ctx, lane);
    if (was & 2)
        closed_due(lane);
}

void world_pump(void)
{
    for (uint32_t i = 0; i < LANES; i++)
        lane_pump(i);
}

static void *lane_run(void *arg)
{
    uint32_t lane = (uint32_t)(uintptr_t)arg;
    pthread_mutex_lock(&lock);
    while (!stop_threads) {
        if (!woken[lane]) {
            pthread_cond_wait(&changed, &lock);
            continue;
        }
        pthread_mutex_unlock(&lock);
        lane_pump(lane);
        pthread_mutex_lock(&lock);
    }
    pthread_mutex_unlock(&lock);
    return NULL;
}

static void client_free(struct client *c)
{
    cr_expect(c->conn.released, "a connection was not released");
    while (c->frames) {
        struct frame *next = c->frames->next;
        free(c->frames);
        c->frames = next;
    }
    zl_buf_free(&c->out);
    free(c);
}

void world_stop(void)
{
    zk_broker_stop();
    stop_threads = 0;
    for (uint32_t i = 0; i < LANES; i++)
        cr_assert(pthread_create(&threads[i], NULL, lane_run, (void *)(uintptr_t)i) == 0);
    zk_remoting_stop();
    pthread_mutex_lock(&lock);
    stop_threads = 1;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&lock);
    for (uint32_t i = 0; i < LANES; i++)
        pthread_join(threads[i], NULL);
    zk_broker_close();
    zk_core_stop();
    cr_expect(store_pins() == 0, "%u pins were not given back", store_pins());
    while (conns) {
        struct zr_conn *next = conns->next;
        client_free(conns->client);
        conns = next;
    }
    zk_n_instances = 0;
    memset(parts, 0, sizeof parts);
    if (!keeps) {
        dir_remove(world_dir);
        has_dir = 0;
        store_reset();
    }
    keeps = 0;
}

/* ---- clients ---- */
struct client *client_open(uint32_t lane)
{
    struct client *c = calloc(1, sizeof *c);
    struct zr_conn_info info = { ZR_HDR(struct zr_conn_info, 0) };
    zl_buf_init(&c->out, 64u << 20);
    c->conn.client = c;
    c->conn.lane = lane;
    c->conn.next = conns;
    conns = &c->conn;
    c->opaque = 100;
    info.peer = (struct zr_addr){ { 127, 0, 0, 1 }, 5000, 4 };
    info.peer_name = (struct zr_str)ZR_STR("127.0.0.1:5000");
    info.lane = lane;
    cr_assert(sink->opened(sink->ctx, &c->conn, &info, &c->session) == ZR_OK);
    return c;
}

void client_close(struct client *c)
{
    atomic_store(&c->conn.closing, 1);
    if (!c->conn.closed) {
        c->conn.closed = 1;
        sink->closed(sink->ctx, c->session, ZR_ECLOSED);
    }
}

uint32_t client_is_closed(struct client *c) { return c->conn.closed; }

int32_t client_put(struct client *c, int32_t code, int32_t flag, const char *const *fields, const char *body,
                   uint64_t body_len)
{
    struct zr_field f[40];
    struct zr_command cmd = {
        .hdr = ZR_HDR(struct zr_command, 0), .code = code, .fields = f, .body = { (const uint8_t *)body, body_len }
    };
    struct zl_buf buf;
    for (; fields && fields[0]; fields += 2)
        f[cmd.n_fields++] = (struct zr_field){ zl_str(fields[0]), zl_str(fields[1]) };
    zl_buf_init(&buf, 32u << 20);
    cr_assert(zl_command_encode(&buf, &cmd, ZL_TYPE_JSON, flag, ++c->opaque, 0) == ZR_OK);
    struct frame *r = malloc(sizeof *r + buf.len);
    r->next = c->requests;
    r->len = buf.len;
    memcpy(r->bytes, buf.ptr, buf.len);
    c->requests = r;
    uint64_t consumed = 0, need = 0;
    cr_assert(sink->data(sink->ctx, c->session, (struct zr_span){ r->bytes, r->len }, &consumed, &need) == ZR_OK);
    cr_assert(consumed == r->len);
    zl_buf_free(&buf);
    return c->opaque;
}

void client_turn(struct client *c)
{
    sink->turn_end(sink->ctx, c->conn.lane);
    for (struct zr_conn *k = conns; k; k = k->next)
        while (k->lane == c->conn.lane && k->client->requests) {
            struct frame *next = k->client->requests->next;
            memset(k->client->requests->bytes, 0xdb, k->client->requests->len); /* nothing may point here any more */
            free(k->client->requests);
            k->client->requests = next;
        }
}

uint32_t client_take(struct client *c, int32_t opaque, struct answer *ret)
{
    uint32_t found = 0;
    pthread_mutex_lock(&lock);
    for (struct frame **at = &c->frames; *at && !found; at = &(*at)->next) {
        const char *why;
        struct frame *f = *at;
        cr_assert(zl_header_decode((struct zr_span){ f->bytes, f->len }, &ret->h, ret->scratch, sizeof ret->scratch,
                                   &why) == ZR_OK);
        if (ret->h.opaque != opaque)
            continue;
        *at = f->next;
        ret->frame = (uint8_t *)f;
        ret->code = ret->h.code;
        found = 1;
        break;
    }
    pthread_mutex_unlock(&lock);
    return found;
}

void client_wait(struct client *c, int32_t opaque, struct answer *ret)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += WAIT_SECONDS;
    for (;;) {
        world_pump();
        if (client_take(c, opaque, ret))
            return;
        pthread_mutex_lock(&lock);
        int rc = 0;
        if (!woken[0] && !woken[1]) {
            struct timespec soon; /* a frame may have come between take and here: look again at the latest then */
            clock_gettime(CLOCK_REALTIME, &soon);
            soon.tv_nsec += 50000000;
            soon.tv_sec += soon.tv_nsec / 1000000000;
            soon.tv_nsec %= 1000000000;
            pthread_cond_timedwait(&changed, &lock, &soon);
            clock_gettime(CLOCK_REALTIME, &soon);
            rc = soon.tv_sec > until.tv_sec;
        }
        pthread_mutex_unlock(&lock);
        cr_assert(rc == 0, "no answer to %d", opaque);
    }
}

int32_t client_ask(struct client *c, int32_t code, const char *const *fields, const char *body, struct answer *ret)
{
    int32_t opaque = client_put(c, code, 0, fields, body, body ? strlen(body) : 0);
    client_turn(c);
    client_wait(c, opaque, ret);
    return ret->code;
}

uint32_t client_told(struct client *c, int32_t code)
{
    pthread_mutex_lock(&lock);
    uint32_t n = c->told[code];
    pthread_mutex_unlock(&lock);
    return n;
}

uint32_t client_answers(struct client *c)
{
    pthread_mutex_lock(&lock);
    uint32_t n = c->n_answers;
    pthread_mutex_unlock(&lock);
    return n;
}

void answer_free(struct answer *a)
{
    free(a->frame);
    a->frame = NULL;
}

struct zr_str answer_field(const struct answer *a, const char *name)
{
    return zl_field(a->h.fields, a->h.n_fields, name);
}

int64_t answer_i64(const struct answer *a, const char *name)
{
    int64_t v = 0;
    cr_assert(zl_field_i64(a->h.fields, a->h.n_fields, name, &v) == ZR_OK, "no field %s", name);
    return v;
}

uint32_t answer_records(const struct answer *a)
{
    struct zr_span rest = a->h.body;
    uint32_t n = 0;
    while (rest.len) {
        struct zl_record r;
        const char *why = "";
        cr_assert(zl_record_parse(rest, 1, &r, &why) == ZR_OK, "%s", why);
        rest.ptr += r.size;
        rest.len -= r.size;
        n++;
    }
    return n;
}

int32_t send_to(struct client *c, const char *topic, const char *queue, const char *props, const char *body,
                struct answer *ret)
{
    return client_ask(c, 310,
                      FIELDS("a", "PG", "b", topic, "c", "TBW102", "d", "4", "e", queue, "f", "0", "g", "1700000000000",
                             "h", "0", "i", props, "j", "0", "k", "false", "m", "false", "n", "broker-a"),
                      body, ret);
}

int32_t pull_put(struct client *c, const char *group, const char *topic, const char *queue, const char *offset,
                 const char *flag, const char *suspend)
{
    int32_t opaque = client_put(c, 11, 0,
                                FIELDS("consumerGroup", group, "topic", topic, "queueId", queue, "queueOffset", offset,
                                       "maxMsgNums", "32", "sysFlag", flag, "commitOffset", "0", "suspendTimeoutMillis",
                                       suspend, "subVersion", "1", "expressionType", "TAG", "subscription", "*"),
                                NULL, 0);
    client_turn(c);
    return opaque;
}

int32_t pull_from(struct client *c, const char *group, const char *topic, const char *queue, const char *offset,
                  const char *flag, struct answer *ret)
{
    int32_t opaque = pull_put(c, group, topic, queue, offset, flag, "15000");
    client_wait(c, opaque, ret);
    return ret->code;
}

int32_t beat(struct client *c, const char *id, const char *group, const char *topic, const char *expression,
             struct answer *ret)
{
    char body[2048], codes[32] = "", tags[64] = "";
    if (strcmp(expression, "*")) {
        snprintf(codes, sizeof codes, "%d", zl_java_hash(zl_str(expression)));
        snprintf(tags, sizeof tags, "\"%s\"", expression);
    }
    snprintf(body, sizeof body,
             "{\"clientID\":\"%s\",\"consumerDataSet\":[{\"consumeFromWhere\":\"CONSUME_FROM_FIRST_OFFSET\","
             "\"consumeType\":\"CONSUME_PASSIVELY\","
             "\"groupName\":\"%s\",\"messageModel\":\"CLUSTERING\",\"subscriptionDataSet\":[{\"classFilterMode\":false,"
             "\"codeSet\":[%s],"
             "\"expressionType\":\"TAG\",\"subString\":\"%s\",\"subVersion\":5,\"tagsSet\":[%s],\"topic\":\"%s\"},{"
             "\"classFilterMode\":false,"
             "\"codeSet\":[],\"expressionType\":\"TAG\",\"subString\":\"*\",\"subVersion\":5,\"tagsSet\":[],\"topic\":"
             "\"%%RETRY%%%s\"}],"
             "\"unitMode\":false}],\"heartbeatFingerprint\":0,\"producerDataSet\":[{\"groupName\":\"CLIENT_INNER_"
             "PRODUCER\"}],\"withoutSub\":false}",
             id, group, codes, expression, tags, topic, group);
    return client_ask(c, 34, NULL, body, ret);
}
