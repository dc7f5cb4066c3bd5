/* SPDX-License-Identifier: Apache-2.0 */
/* fake.c - see fake.h. */
#include "fake.h"
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include "zl/buf.h"
#include "zl/codec.h"

struct zr_token { uint32_t answered; };
struct timer { int64_t at; void (*fn)(void *); void *arg; uint64_t id; };
struct job { void (*fn)(void *); void *arg; };

struct fake_answer fake_last;
int64_t fake_now_ns;
uint32_t fake_work_queued, fake_write_fails, fake_n_calls, fake_n_topics, fake_puts, fake_with_broker;
struct fake_call fake_calls[64];
struct fake_topic *fake_topics;
struct zr_data_version fake_version;
struct zr_identity fake_identity;
char fake_raised[512];

static struct timer timers[256];
static uint32_t n_timers;
static uint64_t next_timer;
static struct job jobs[256];
static uint32_t n_jobs;
static struct fake_doc docs[8];
static uint32_t n_docs;
static struct { char name[96]; int64_t value; } metrics[64];
static uint32_t n_metrics;

/* ---- log, err, metrics ------------------------------------------------------------------------------------------------ */
static uint32_t log_level(const struct zr_host *host) { return (void)host, ZR_LOG_DEBUG; }
static void log_write(const struct zr_host *host, uint32_t level, struct zr_str text, const struct zr_field *fields, uint32_t n)
{
    (void)host, (void)fields, (void)n;
    if (getenv("FAKE_LOG"))
        fprintf(stderr, "%u %.*s\n", level, (int)text.len, text.ptr);
}
static const struct zr_log_v1 log_table = { ZR_HDR(struct zr_log_v1, 0), log_level, log_write };
static void err_raise(const struct zr_host *host, const struct zr_error *error)
{
    (void)host;
    snprintf(fake_raised, sizeof fake_raised, "%.*s", (int)error->text.len, error->text.ptr);
}
static const struct zr_err_v1 err_table = { ZR_HDR(struct zr_err_v1, 0), err_raise };
static zr_status metrics_declare(const struct zr_host *host, const struct zr_metric *m, uint32_t n, uint32_t *ret_first)
{
    (void)host;
    *ret_first = n_metrics;
    for (uint32_t i = 0; i < n; i++)
        snprintf(metrics[n_metrics++].name, sizeof metrics[0].name, "%s", m[i].name);
    return ZR_OK;
}
static void metrics_add(const struct zr_host *host, uint32_t id, int64_t delta) { (void)host; metrics[id].value += delta; }
static void metrics_set(const struct zr_host *host, uint32_t id, int64_t value) { (void)host; metrics[id].value = value; }
static const struct zr_metrics_v1 metrics_table = { ZR_HDR(struct zr_metrics_v1, 0), metrics_declare, metrics_add, metrics_set, metrics_set, NULL };
int64_t fake_metric(const char *name)
{
    for (uint32_t i = 0; i < n_metrics; i++)
        if (strcmp(metrics[i].name, name) == 0)
            return metrics[i].value;
    return -1;
}

/* ---- timer, work ------------------------------------------------------------------------------------------------------ */
static int64_t mono_ns(const struct zr_host *host) { return (void)host, fake_now_ns; }
static int64_t wall_ms(const struct zr_host *host) { return (void)host, 1700000000000 + fake_now_ns / 1000000; }
static zr_status timer_at(const struct zr_host *host, int64_t at_ns, void (*fn)(void *), void *arg, uint64_t *ret_id)
{
    (void)host;
    cr_assert_lt(n_timers, 256);
    *ret_id = ++next_timer;
    timers[n_timers++] = (struct timer){ at_ns, fn, arg, *ret_id };
    return ZR_OK;
}
static zr_status timer_cancel(const struct zr_host *host, uint64_t id)
{
    (void)host;
    for (uint32_t i = 0; i < n_timers; i++) {
        if (timers[i].id == id) {
            timers[i] = timers[--n_timers];
            return ZR_OK;
        }
    }
    return ZR_ENOENT;
}
static const struct zr_timer_v1 timer_table = { ZR_HDR(struct zr_timer_v1, 0), mono_ns, wall_ms, timer_at, timer_cancel, NULL };
uint32_t fake_timers(void) { return n_timers; }
void fake_advance_ms(int64_t ms)
{
    int64_t end = fake_now_ns + ms * 1000000;
    for (;;) {
        uint32_t due = UINT32_MAX;
        for (uint32_t i = 0; i < n_timers; i++)
            if (timers[i].at <= end && (due == UINT32_MAX || timers[i].at < timers[due].at))
                due = i;
        if (due == UINT32_MAX)
            break;
        struct timer t = timers[due];
        timers[due] = timers[--n_timers];
        if (t.at > fake_now_ns)
            fake_now_ns = t.at;
        t.fn(t.arg);
    }
    fake_now_ns = end;
}
static zr_status work_run(const struct zr_host *host, void (*fn)(void *), void *arg)
{
    (void)host;
    if (!fake_work_queued) {
        fn(arg);
        return ZR_OK;
    }
    cr_assert_lt(n_jobs, 256);
    jobs[n_jobs++] = (struct job){ fn, arg };
    return ZR_OK;
}
static const struct zr_work_v1 work_table = { ZR_HDR(struct zr_work_v1, 0), work_run, NULL, NULL };
void fake_run_jobs(void)
{
    while (n_jobs > 0) {
        struct job job = jobs[0];
        memmove(jobs, jobs + 1, --n_jobs * sizeof *jobs);
        job.fn(job.arg);
    }
}

/* ---- state ------------------------------------------------------------------------------------------------------------ */
struct fake_doc *fake_doc(const char *name)
{
    for (uint32_t i = 0; i < n_docs; i++)
        if (strcmp(docs[i].name, name) == 0)
            return &docs[i];
    return NULL;
}
static struct fake_doc *doc_set(struct zr_str name, struct zr_span bytes)
{
    char text[256];
    snprintf(text, sizeof text, "%.*s", (int)name.len, name.ptr);
    struct fake_doc *doc = fake_doc(text);
    if (!doc) {
        doc = &docs[n_docs++];
        snprintf(doc->name, sizeof doc->name, "%s", text);
    }
    free(doc->text);
    doc->text = malloc(bytes.len + 1);
    memcpy(doc->text, bytes.ptr, bytes.len);
    doc->text[bytes.len] = 0;
    doc->len = bytes.len;
    return doc;
}
void fake_doc_put(const char *name, const char *text) { doc_set(zl_str(name), (struct zr_span){ (const uint8_t *)text, strlen(text) }); }
static zr_status state_write(const struct zr_host *host, struct zr_str name, struct zr_span bytes)
{
    (void)host;
    if (fake_write_fails)
        return fake_write_fails == 2 ? ZR_EFULL : ZR_EIO;
    doc_set(name, bytes)->writes++;
    return ZR_OK;
}
static zr_status state_read(const struct zr_host *host, struct zr_str name, zr_status (*accept)(void *ctx, struct zr_span bytes), void *ctx)
{
    char text[256];
    (void)host;
    snprintf(text, sizeof text, "%.*s", (int)name.len, name.ptr);
    struct fake_doc *doc = fake_doc(text);
    if (!doc)
        return ZR_ENOENT;
    return accept(ctx, (struct zr_span){ (const uint8_t *)doc->text, doc->len }) == ZR_OK ? ZR_OK : ZR_ECORRUPT;
}
static const struct zr_state_v1 state_table = { ZR_HDR(struct zr_state_v1, 0), state_write, state_read };

/* ---- reply ------------------------------------------------------------------------------------------------------------ */
static void print_ext(char *to, size_t cap, const struct zr_field *f, uint32_t n, uint32_t empty_is_ext)
{
    size_t at = 0;
    to[0] = 0;
    if (n == 0 && !empty_is_ext)
        snprintf(to, cap, "none");
    for (uint32_t i = 0; i < n; i++)
        at += (size_t)snprintf(to + at, cap - at, "%.*s=%.*s\n", (int)f[i].name.len, f[i].name.ptr, (int)f[i].value.len, f[i].value.ptr ? f[i].value.ptr : "");
}
static char *copy(struct zr_span s)
{
    char *p = malloc(s.len + 1);
    if (s.len)
        memcpy(p, s.ptr, s.len);
    p[s.len] = 0;
    return p;
}
static zr_status reply_answer(const struct zr_host *host, struct zr_token *token, const struct zr_command *c)
{
    (void)host;
    cr_assert_eq(token->answered, 0, "answered twice");
    token->answered = 1;
    free(fake_last.body);
    fake_last.n++;
    fake_last.code = c->code;
    snprintf(fake_last.remark, sizeof fake_last.remark, "%.*s", (int)c->remark.len, c->remark.ptr ? c->remark.ptr : "");
    print_ext(fake_last.ext, sizeof fake_last.ext, c->fields, c->n_fields, c->flags & ZR_COMMAND_EMPTY_EXT);
    fake_last.body = copy(c->body);
    fake_last.body_len = c->body.len;
    return ZR_OK;
}
static void session_info(const struct zr_host *host, struct zr_session *session, struct zr_session_info *ret)
{
    (void)host;
    ret->open = ((struct fake_session *)session)->open;
}
static struct zr_session *session_hold(const struct zr_host *host, struct zr_session *session)
{
    (void)host;
    ((struct fake_session *)session)->refs++;
    return session;
}
static void session_release(const struct zr_host *host, struct zr_session *session)
{
    (void)host;
    cr_assert_gt(((struct fake_session *)session)->refs, 0);
    ((struct fake_session *)session)->refs--;
}
static void session_close(const struct zr_host *host, struct zr_session *session)
{
    (void)host;
    ((struct fake_session *)session)->closes++;
    ((struct fake_session *)session)->open = 0;
}
static const struct zr_reply_v1 reply_table = { .hdr = ZR_HDR(struct zr_reply_v1, 0), .answer = reply_answer, .session_info = session_info,
                                                .session_hold = session_hold, .session_release = session_release, .session_close = session_close };

/* ---- call ------------------------------------------------------------------------------------------------------------- */
static struct fake_call *call_note(struct zr_str url, const struct zr_command *c)
{
    cr_assert_lt(fake_n_calls, 64);
    struct fake_call *call = &fake_calls[fake_n_calls++];
    struct zl_buf frame;
    *call = (struct fake_call){ .code = c->code, .open = 1, .body = copy(c->body), .body_len = c->body.len };
    snprintf(call->url, sizeof call->url, "%.*s", (int)url.len, url.ptr);
    print_ext(call->ext, sizeof call->ext, c->fields, c->n_fields, 0);
    zl_buf_init(&frame, 64u << 20);
    cr_assert_eq(zl_command_encode(&frame, c, ZL_TYPE_JSON, 0, 1, 0), ZR_OK);
    call->frame_len = frame.len;
    zl_buf_free(&frame);
    return call;
}
static void call_call(const struct zr_host *host, struct zr_str url, const struct zr_command *c, int64_t timeout_ns,
                      void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text), void *ctx)
{
    (void)host;
    struct fake_call *call = call_note(url, c);
    call->timeout_ns = timeout_ns;
    call->on_answer = on_answer;
    call->ctx = ctx;
}
static zr_status call_tell(const struct zr_host *host, struct zr_str url, const struct zr_command *c)
{
    (void)host;
    struct fake_call *call = call_note(url, c);
    call->tell = 1;
    call->open = 0;
    return ZR_OK;
}
static void call_hang_up(const struct zr_host *host, struct zr_str url)
{
    (void)host;
    for (uint32_t i = 0; i < fake_n_calls; i++)
        if (fake_calls[i].open && zl_is(url, fake_calls[i].url))
            fake_call_fail(i, ZR_ECLOSED);
}
static const struct zr_call_v1 call_table = { ZR_HDR(struct zr_call_v1, 0), call_call, call_tell, call_hang_up };

static uint32_t read_fields(const char *text, struct zr_field *fields, uint32_t max)
{
    struct zr_str rest = zl_str(text), line;
    uint32_t n = 0;
    while (text && n < max && zl_split(&rest, '\n', &line)) {
        struct zr_str name, value = line;
        if (line.len && zl_split(&value, '=', &name))
            fields[n++] = (struct zr_field){ name, value };
    }
    return n;
}
void fake_call_answer(uint32_t i, int32_t code, const char *ext, const char *body)
{
    struct zr_field fields[16];
    struct zr_request r = { .hdr = ZR_HDR(struct zr_request, 0), .code = code, .fields = fields, .n_fields = read_fields(ext, fields, 16) };
    cr_assert_lt(i, fake_n_calls);
    cr_assert(fake_calls[i].open, "call %u is not open", i);
    if (body)
        r.body = (struct zr_span){ (const uint8_t *)body, strlen(body) };
    fake_calls[i].open = 0;
    fake_calls[i].on_answer(fake_calls[i].ctx, ZR_OK, &r, (struct zr_str){ NULL, 0 });
}
void fake_call_fail(uint32_t i, zr_status status)
{
    cr_assert(fake_calls[i].open);
    fake_calls[i].open = 0;
    fake_calls[i].on_answer(fake_calls[i].ctx, status, NULL, zl_str("connection refused"));
}
void fake_calls_forget(void)
{
    for (uint32_t i = 0; i < fake_n_calls; i++) {
        cr_assert(!fake_calls[i].open, "call %u (code %d) is still open", i, fake_calls[i].code);
        free(fake_calls[i].body);
    }
    fake_n_calls = 0;
}

/* ---- broker ----------------------------------------------------------------------------------------------------------- */
static void broker_identity(const struct zr_host *host, struct zr_identity *ret)
{
    (void)host;
    struct zr_hdr hdr = ret->hdr;
    *ret = fake_identity;
    ret->hdr = hdr;
}
static void broker_topic_version(const struct zr_host *host, struct zr_data_version *ret) { (void)host; *ret = fake_version; }
static struct zr_topic topic_of(const struct fake_topic *t)
{
    return (struct zr_topic){ .hdr = ZR_HDR(struct zr_topic, 0), .name = zl_str(t->name), .read_queues = t->read, .write_queues = t->write, .perm = t->perm,
                              .sys_flag = t->flag, .order = t->order, .multi_tag = t->multi_tag, .attributes = t->attributes, .n_attributes = t->n_attributes };
}
static zr_status broker_topic(const struct zr_host *host, struct zr_str name, void (*on_topic)(void *ctx, const struct zr_topic *topic), void *ctx)
{
    (void)host;
    for (uint32_t i = 0; i < fake_n_topics; i++) {
        if (zl_is(name, fake_topics[i].name)) {
            struct zr_topic t = topic_of(&fake_topics[i]);
            on_topic(ctx, &t);
            return ZR_OK;
        }
    }
    return ZR_ENOENT;
}
static void broker_each(const struct zr_host *host, int32_t (*each)(void *ctx, const struct zr_topic *topic), void *ctx)
{
    (void)host;
    for (uint32_t i = 0; i < fake_n_topics; i++) {
        struct zr_topic t = topic_of(&fake_topics[i]);
        if (each(ctx, &t))
            return;
    }
}
static zr_status broker_put(const struct zr_host *host, const struct zr_topic *topic, void (*on_done)(void *ctx, zr_status status), void *ctx)
{
    (void)host, (void)on_done, (void)ctx;
    for (uint32_t i = 0; i < fake_n_topics; i++)
        if (zl_is(topic->name, fake_topics[i].name))
            fake_topics[i].order = topic->order;
    fake_puts++;
    return ZR_OK;
}
static const struct zr_broker_v1 broker_table = { .hdr = ZR_HDR(struct zr_broker_v1, 0), .identity = broker_identity, .topic_version = broker_topic_version,
                                                  .topic = broker_topic, .each_topic = broker_each, .put_topic = broker_put };

/* ---- host ------------------------------------------------------------------------------------------------------------- */
static const void *host_query(const struct zr_host *host, const char *id)
{
    (void)host;
    const struct { const char *id; const void *table; } all[] = {
        { ZR_SVC_LOG, &log_table }, { ZR_SVC_ERR, &err_table }, { ZR_SVC_METRICS, &metrics_table }, { ZR_SVC_TIMER, &timer_table },
        { ZR_SVC_WORK, &work_table }, { ZR_SVC_STATE, &state_table }, { ZR_SVC_REPLY, &reply_table }, { ZR_SVC_CALL, &call_table },
    };
    for (uint32_t i = 0; i < sizeof all / sizeof *all; i++)
        if (strcmp(all[i].id, id) == 0)
            return all[i].table;
    return strcmp(id, ZR_SVC_BROKER) == 0 && fake_with_broker ? &broker_table : NULL;
}
struct zr_host fake_host = { ZR_HDR(struct zr_host, 0), NULL, host_query, "routing", "/data" };

void fake_init(void)
{
    fake_now_ns = 1000000000;
    fake_with_broker = 1;
    fake_identity = (struct zr_identity){ .cluster = ZR_STR("DefaultCluster"), .name = ZR_STR("broker-a"), .addr = ZR_STR("127.0.0.1:10911"),
                                          .ha_addr = ZR_STR("127.0.0.1:10912"), .permission = 6, .boot_ms = 1700000000000 };
    fake_version = (struct zr_data_version){ 1695000000000, 1, 0 };
}
void fake_end(void)
{
    fake_calls_forget();
    cr_expect_eq(n_timers, 0, "%u timers are left", n_timers);
    cr_expect_eq(n_jobs, 0);
    for (uint32_t i = 0; i < n_docs; i++)
        free(docs[i].text);
    free(fake_last.body);
    fake_last.body = NULL;
    n_docs = n_metrics = 0;
}

/* ---- plugins ---------------------------------------------------------------------------------------------------------- */
static void *settings_of;
static char *texts[64]; /* of options, NUL-ended as the host's are */
static uint32_t n_texts;

static struct zr_str text_keep(struct zr_str s)
{
    cr_assert_lt(n_texts, 64);
    texts[n_texts] = zl_dup(s);
    return (struct zr_str){ texts[n_texts++], s.len };
}

static void option_set(void *settings, const struct zr_option *o, struct zr_str text)
{
    uint8_t *at = (uint8_t *)settings + o->offset;
    static struct zr_str items[16];
    if (o->type == ZR_OPT_BOOL) {
        *at = zl_is(text, "true");
    } else if (o->type == ZR_OPT_I64) {
        int64_t v = 0, unit = 1;
        uint64_t n = 0;
        while (n < text.len && text.ptr[n] >= '0' && text.ptr[n] <= '9')
            n++;
        zl_parse_i64((struct zr_str){ text.ptr, n }, &v);
        struct zr_str rest = zl_trim((struct zr_str){ text.ptr + n, text.len - n });
        if (zl_is(rest, "s"))
            unit = 1000;
        else if (zl_is(rest, "m"))
            unit = 60000;
        else if (zl_is(rest, "h"))
            unit = 3600000;
        else if (zl_is(rest, "MiB"))
            unit = 1 << 20;
        v *= unit;
        memcpy(at, &v, 8);
    } else if (o->type == ZR_OPT_STR) {
        text = text_keep(text);
        memcpy(at, &text, sizeof text);
    } else if (o->type == ZR_OPT_LIST) {
        struct zr_list list = { items, 0 };
        struct zr_str rest = text_keep(text);
        while (zl_split(&rest, ' ', &items[list.n]))
            list.n++;
        memcpy(at, &list, sizeof list);
    }
}

struct zr_inst *fake_make(const struct zr_plugin *plugin, const char *options)
{
    struct zr_inst *inst = NULL;
    struct zr_field given[16];
    uint32_t n = read_fields(options, given, 16);
    settings_of = calloc(1, plugin->settings_size);
    for (uint32_t i = 0; i < plugin->n_options; i++) {
        const struct zr_option *o = &plugin->options[i];
        if (o->dflt)
            option_set(settings_of, o, zl_str(o->dflt));
        for (uint32_t j = 0; j < n; j++)
            if (zl_is(given[j].name, o->name))
                option_set(settings_of, o, given[j].value);
    }
    cr_assert_eq(plugin->check(&fake_host, settings_of), ZR_OK, "check: %s", fake_raised);
    cr_assert_eq(plugin->create(&fake_host, settings_of, &inst), ZR_OK, "create: %s", fake_raised);
    cr_assert_eq(plugin->warm(inst), ZR_OK, "warm: %s", fake_raised);
    if (plugin->activate)
        plugin->activate(inst);
    return inst;
}
void fake_unmake(const struct zr_plugin *plugin, struct zr_inst *inst)
{
    plugin->cool(inst);
    plugin->destroy(inst);
    free(settings_of);
    while (n_texts > 0)
        free(texts[--n_texts]);
}
void fake_request(struct zr_inst *inst, const struct zr_requests_v1 *requests, int32_t code, int32_t version, const char *fields, const void *body,
                  int64_t body_len, struct fake_session *session)
{
    struct zr_field f[32];
    struct zr_token token = { 0 };
    struct zr_request r = { .hdr = ZR_HDR(struct zr_request, 0), .code = code, .version = version, .fields = f, .n_fields = read_fields(fields, f, 32),
                            .token = &token, .session = (struct zr_session *)session, .serves = ZR_SERVES_ROUTING };
    uint64_t len = body_len < 0 ? (body ? strlen(body) : 0) : (uint64_t)body_len;
    char *exact = malloc(len ? len : 1); /* so that the sanitizer sees a read beyond the end */
    if (len)
        memcpy(exact, body, len);
    r.body = (struct zr_span){ (const uint8_t *)exact, len };
    for (uint32_t i = 0; i < requests->n_handlers; i++) {
        if (requests->handlers[i].code == code) {
            zr_status status = requests->handlers[i].handle(inst, &r);
            cr_assert(token.answered || status < 0, "code %d: no answer", code);
            free(exact);
            return;
        }
    }
    cr_assert_fail("no handler for code %d", code);
}
