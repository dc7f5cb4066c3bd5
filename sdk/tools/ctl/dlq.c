/* SPDX-License-Identifier: Apache-2.0 */
/* dlq.c - dlq list, show, resend, export, purge: the dead letters of a group.
 *
 * Dead letters are ordinary messages of the topic %DLQ%GROUP, so all of this works over the wire, against Apache's broker too.
 *
 * What stays true:
 *   1. Records are taken as stored: a compressed body is resent and exported as it is, with its flags.
 *   2. resend never makes a topic, and stops at the first letter that does not arrive where it was sent.
 *   3. A log cannot be changed: what was resent stays in the dead letter topic until it expires or is purged. */
#include "ctl.h"
#include "zl/codec.h"
#include "zl/record.h"
#include <string.h>

#define DLQ_PREFIX "%DLQ%"
#define RETRY_PREFIX "%RETRY%"
#define PULL 11
#define SEND 310
#define VIEW 33
#define MANY 1000000000

struct letter {
    struct zl_record r;
    const struct zc_queue *queue;
    struct zr_str origin, uniq, keys, tags, reason;
    char id[57], died[32];
};
typedef int (*letter_fn)(struct ctl *c, const struct letter *l, void *ctx);

static void dlq_topic(const char *group, char to[ZC_NAME_MAX]) { snprintf(to, ZC_NAME_MAX, "%s%s", DLQ_PREFIX, group); }

static void letter_read(struct letter *l, const struct zc_queue *queue)
{
    struct zr_str retry = zl_props_get(l->r.properties, "RETRY_TOPIC");
    l->queue = queue;
    l->origin = zl_props_get(l->r.properties, "DLQ_ORIGIN_TOPIC");
    if (!l->origin.len) l->origin = retry;
    l->uniq = zl_props_get(l->r.properties, "UNIQ_KEY");
    l->keys = zl_props_get(l->r.properties, "KEYS");
    l->tags = zl_props_get(l->r.properties, "TAGS");
    l->reason = zl_props_get(l->r.properties, "DLQ_REASON");
    l->id[zl_offset_id(l->id, &l->r.store_host, l->r.physical_offset)] = 0;
    time_text(l->r.store_ms, l->died);
}

static uint32_t has_word(struct zr_str words, const char *word)
{
    struct zr_str part;
    while (zl_split(&words, ' ', &part))
        if (zl_is(part, word)) return 1;
    return 0;
}

/* -i, -t, -k, -s, -e */
static uint32_t letter_wanted(const struct ctl *c, const struct letter *l)
{
    if (opt(c, 'i') && !zl_is(l->uniq, opt(c, 'i')) && !zl_eq_nocase(zl_str(l->id), opt(c, 'i'))) return 0;
    if (opt(c, 't') && !zl_is(l->origin, opt(c, 't'))) return 0;
    if (opt(c, 'k') && !has_word(l->keys, opt(c, 'k'))) return 0;
    return l->r.store_ms >= opt_number(c, 's', INT64_MIN) && l->r.store_ms <= opt_number(c, 'e', INT64_MAX);
}

/* ---- reading ---- */

/* One pull of plain records, without a subscription's filter. */
static int pull(struct ctl *c, const struct zc_queue *q, const char *addr, int64_t offset, struct zc_response **ret, int64_t *next,
                struct zc_err *err)
{
    struct zl_fields f = { .n = 0 };
    zl_fields_i64(&f, "queueId", q->queue_id);
    zl_fields_i64(&f, "queueOffset", offset);
    zl_fields_i64(&f, "maxMsgNums", 32);
    zl_fields_i64(&f, "sysFlag", 4);
    zl_fields_i64(&f, "commitOffset", 0);
    zl_fields_i64(&f, "suspendTimeoutMillis", 0);
    zl_fields_i64(&f, "subVersion", 0);
    zl_fields_str(&f, "consumerGroup", zl_str("TOOLS_CONSUMER"));
    zl_fields_str(&f, "topic", zl_str(q->topic));
    zl_fields_str(&f, "subscription", zl_str("*"));
    zl_fields_str(&f, "expressionType", zl_str("TAG"));
    struct zc_request request = { .code = PULL, .fields = f.f, .n_fields = f.n };
    int rc = zc_call(c->client, addr, &request, ret, err);
    if (rc) return rc;
    *next = offset;
    zl_field_i64((*ret)->fields, (*ret)->n_fields, "nextBeginOffset", next);
    if ((*ret)->code == 0 || (*ret)->code == 19 || (*ret)->code == 20 || (*ret)->code == 21) return 0;
    rc = (*ret)->code;
    err->code = rc;
    snprintf(err->text, sizeof(err->text), "%.*s", (int)((*ret)->remark.len < 400 ? (*ret)->remark.len : 400), (*ret)->remark.ptr);
    zc_response_free(*ret);
    return rc;
}

/* Calls fn for each record of an answer's body that is wanted. */
static int letters_of(struct ctl *c, const struct zc_queue *q, struct zr_span body, int64_t *left, letter_fn fn, void *ctx)
{
    const char *why;
    struct letter l;
    for (uint64_t at = 0; at < body.len && *left > 0; at += l.r.size) {
        if (zl_record_parse((struct zr_span){ body.ptr + at, body.len - at }, 0, &l.r, &why) != ZR_OK || l.r.size == 0)
            return fprintf(stderr, "zaryactl: a record of %s cannot be read: %s\n", q->topic, why), EXIT_FAILED;
        letter_read(&l, q);
        if (!letter_wanted(c, &l)) continue;
        --*left;
        int rc = fn(c, &l, ctx);
        if (rc) return rc;
    }
    return 0;
}

static int each_in_queue(struct ctl *c, const struct zc_queue *q, int64_t *left, letter_fn fn, void *ctx)
{
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    int64_t at = 0, end = 0, next = 0;
    int rc = zc_broker_addr(c->client, q->broker, 1, addr, &err);
    if (!rc) rc = zc_offset_max(c->client, q, &end, &err);
    if (!rc) rc = opt(c, 's') ? zc_offset_by_time(c->client, q, opt_number(c, 's', 0), &at, &err) : zc_offset_min(c->client, q, &at, &err);
    if (rc) return failed(q->broker, &err);
    while (at < end && *left > 0) {
        struct zc_response *answer;
        if (pull(c, q, addr, at, &answer, &next, &err)) return failed(q->broker, &err);
        rc = answer->code == 0 ? letters_of(c, q, answer->body, left, fn, ctx) : 0;
        uint32_t over = answer->code == 19;
        zc_response_free(answer);
        if (rc || over || next <= at) return rc;
        at = next;
    }
    return 0;
}

/* The queues of a group's dead letter topic; says what is wrong. */
static int dlq_queues(struct ctl *c, const char *topic, struct zc_queue **ret, uint32_t *ret_n)
{
    struct zc_err err;
    struct zc_route *route = NULL;
    int rc = zc_queues(c->client, topic, 0, ret, ret_n, &err);
    if (rc == ZC_ENOROUTE) {
        rc = zc_route_query(c->client, topic, &route, &err);
        if (rc == 0) rc = ZC_ENOROUTE;
        zc_route_free(route);
    }
    if (rc == 17)
        return fprintf(stderr, "zaryactl: there are no dead letters: the name server knows no topic %s\n", topic), EXIT_FAILED;
    if (rc == ZC_ENOROUTE)
        return fprintf(stderr, "zaryactl: no queue of %s may be read (zaryactl topic update -t '%s' -r 1 -w 1 -p 6)\n", topic, topic), EXIT_FAILED;
    return rc ? failed(topic, &err) : 0;
}

static int each_letter(struct ctl *c, int64_t count, letter_fn fn, void *ctx)
{
    char topic[ZC_NAME_MAX];
    struct zc_queue *queues;
    uint32_t n = 0;
    int64_t left = opt_number(c, 'c', count);
    dlq_topic(opt(c, 'g'), topic);
    int rc = dlq_queues(c, topic, &queues, &n);
    if (rc) return rc;
    for (uint32_t i = 0; i < n && rc == 0 && left > 0; i++)
        if (!opt(c, 'b') || strcmp(queues[i].broker, opt(c, 'b')) == 0) rc = each_in_queue(c, &queues[i], &left, fn, ctx);
    free(queues);
    return rc;
}

/* ---- list ---- */

static int list_row(struct ctl *c, const struct letter *l, void *ctx)
{
    struct table *t = ctx;
    (void)c;
    cell_c(t, l->died);
    cell_c(t, l->queue->broker);
    cell_i(t, l->r.queue_offset);
    cell_c(t, l->id);
    cell(t, l->uniq);
    cell(t, l->origin);
    cell(t, l->tags);
    cell(t, l->keys);
    cell_i(t, l->r.reconsume_times);
    cell(t, l->reason);
    return 0;
}

static int list_letters(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Died:died", "#Broker Name:broker", "#Offset:#offset", "#OffsetMsgId:offset_msg_id", "#MsgId:msg_id",
                                           "#Origin Topic:origin_topic", "#Tags:tags", "#Keys:keys", "#Tries:#tries", "#Reason:reason" };
    struct table *t = table_new(COLUMNS, 10);
    int rc = each_letter(c, 128, list_row, t);
    if (rc && !table_rows(t))
        table_drop(t);
    else
        table_print(t, c->json);
    return rc;
}

static int group_row(struct ctl *c, struct table *t, const char *topic)
{
    struct zc_queue *queues;
    struct zc_err err;
    uint32_t n = 0;
    int64_t letters = 0;
    int rc = zc_queues(c->client, topic, 0, &queues, &n, &err);
    cell_c(t, topic + strlen(DLQ_PREFIX));
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int64_t min = 0, max = 0;
        rc = zc_offset_min(c->client, &queues[i], &min, &err);
        if (!rc) rc = zc_offset_max(c->client, &queues[i], &max, &err);
        if (!rc && max > min && min >= 0) letters += max - min;
    }
    cell_i(t, letters);
    cell_c(t, rc ? "no" : "yes");
    if (n) free(queues);
    return 0;
}

static int list_groups(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Group:group", "#Letters:#letters", "#Readable:readable" };
    struct zc_reply reply;
    struct zc_err err;
    if (zc_admin_topic_list(c->client, NULL, &reply, &err)) return failed("topic list", &err);
    struct table *t = table_new(COLUMNS, 3);
    const struct zl_json *list = zl_json_get(reply.root, "topicList");
    for (const struct zl_json *i = list ? list->child : NULL; i; i = i->next) {
        char topic[ZC_NAME_MAX];
        struct zr_str name = zl_json_str(i);
        if (!zl_starts(name, DLQ_PREFIX) || name.len >= sizeof(topic)) continue;
        memcpy(topic, name.ptr, name.len);
        topic[name.len] = 0;
        group_row(c, t, topic);
    }
    table_print(t, c->json);
    zc_reply_free(&reply);
    return 0;
}

int dlq_list(struct ctl *c) { return opt(c, 'g') ? list_letters(c) : list_groups(c); }

/* ---- show ---- */

static int show_one(struct ctl *c, const struct letter *l, void *ctx)
{
    struct zc_messages *m;
    struct zc_err err;
    uint32_t *shown = ctx;
    if (zc_view(c->client, NULL, l->id, &m, &err)) return failed(l->id, &err);
    if ((*shown)++ && !c->json) putchar('\n');
    if (m->n) message_details(&m->msgs[0], c->json);
    zc_messages_free(m);
    return 0;
}

int dlq_show(struct ctl *c)
{
    uint32_t shown = 0;
    int rc = each_letter(c, MANY, show_one, &shown);
    if (rc == 0 && shown == 0) rc = EXIT_FAILED, fprintf(stderr, "zaryactl: group %s has no dead letter %s\n", opt(c, 'g'), opt(c, 'i'));
    return rc;
}

/* ---- resend ---- */

struct resending {
    struct table *t;
    uint32_t to_origin, checked;
};

/* What belongs to the former deliveries, or would delay or hold the message back again. */
static const char *const SPENT[] = { "DELAY", "RECONSUME_TIME", "MAX_RECONSUME_TIMES", "DLQ_REASON", "POP_CK", "1ST_POP_TIME", "CONSUME_START_TIME",
                                     "MIN_OFFSET", "MAX_OFFSET", "REAL_TOPIC", "REAL_QID", "TRAN_MSG", "TIMER_DELAY_SEC", "TIMER_DELAY_MS",
                                     "TIMER_DELIVER_MS", "TIMER_OUT_MS", "TIMER_ENQUEUE_MS", "TIMER_DEQUEUE_MS", "TIMER_ROLL_TIMES",
                                     "TIMER_DEL_UNIQKEY", "WAIT", "RETRY_TOPIC", NULL };

static int resend_call(struct ctl *c, const char *addr, const struct letter *l, struct zr_str topic, struct zr_str props,
                       struct zc_response **ret, struct zc_err *err)
{
    struct zl_fields f = { .n = 0 };
    int32_t flag = l->r.sys_flag & ~(ZR_SYSFLAG_TRANSACTION_MASK | ZR_SYSFLAG_BORNHOST_V6 | ZR_SYSFLAG_STOREHOST_V6);
    zl_fields_str(&f, "a", zl_str("zaryactl"));
    zl_fields_str(&f, "b", topic);
    zl_fields_str(&f, "c", topic); /* a template that is no better known than the topic: none is made */
    zl_fields_i64(&f, "d", 1);
    zl_fields_i64(&f, "e", -1);
    zl_fields_i64(&f, "f", flag);
    zl_fields_i64(&f, "g", l->r.born_ms);
    zl_fields_i64(&f, "h", l->r.flag);
    zl_fields_str(&f, "i", props);
    zl_fields_i64(&f, "j", 0);
    zl_fields_bool(&f, "k", 0);
    zl_fields_bool(&f, "m", 0);
    struct zc_request request = { .code = SEND, .fields = f.f, .n_fields = f.n, .body = l->r.body };
    return zc_call_ok(c->client, addr, &request, ret, err);
}

/* With an Apache broker a group that holds queue locks (an orderly one) gets what anybody sends to its retry topic back as dead
 * letters: seen by the topic where the first one is stored. */
static int arrived(struct ctl *c, const char *addr, struct zr_str id, struct zr_str topic)
{
    struct zl_record r;
    struct zr_addr host;
    const char *why;
    struct zc_err err;
    struct zc_response *answer;
    int64_t physical;
    struct zl_fields f = { .n = 0 };
    if (zl_offset_id_parse(id, &host, &physical) != ZR_OK) return 0;
    zl_fields_i64(&f, "offset", physical);
    struct zc_request request = { .code = VIEW, .fields = f.f, .n_fields = f.n };
    if (zc_call_ok(c->client, addr, &request, &answer, &err)) return 0; /* cannot be looked at here: not worth stopping for */
    uint32_t dead = zl_record_parse(answer->body, 0, &r, &why) == ZR_OK && zl_starts(r.topic, DLQ_PREFIX) && !zl_starts(topic, DLQ_PREFIX);
    zc_response_free(answer);
    if (!dead) return 0;
    fprintf(stderr, "zaryactl: the group holds queue locks: it is an orderly one, and its retries are dead letters at once. "
                    "Resend to the origin topic (-o), or while no consumer of it runs\n");
    return EXIT_FAILED;
}

static int resend_one(struct ctl *c, const struct letter *l, void *ctx)
{
    struct resending *to = ctx;
    struct zc_err err;
    struct zl_buf props;
    struct zc_response *answer;
    char addr[ZC_NAME_MAX], retry[ZC_NAME_MAX];
    snprintf(retry, sizeof(retry), "%s%s", RETRY_PREFIX, opt(c, 'g'));
    struct zr_str topic = to->to_origin ? l->origin : zl_str(retry);
    if (!l->origin.len) return fprintf(stderr, "zaryactl: %s: its origin is not known\n", l->id), EXIT_FAILED;
    if (zc_broker_addr(c->client, l->queue->broker, 0, addr, &err)) return failed(l->queue->broker, &err);
    zl_buf_init(&props, ZL_MAX_PROPERTIES + 1024);
    zl_props_copy(&props, l->r.properties, SPENT);
    if (!to->to_origin) zl_props_add(&props, zl_str("RETRY_TOPIC"), l->origin);
    int rc = resend_call(c, addr, l, topic, zl_buf_as_str(&props), &answer, &err);
    zl_buf_free(&props);
    if (rc) return failed(l->id, &err);
    struct zr_str id = zl_field(answer->fields, answer->n_fields, "msgId");
    rc = to->checked++ ? 0 : arrived(c, addr, id, topic);
    if (rc == 0) {
        cell_c(to->t, l->id);
        cell(to->t, topic);
        cell(to->t, id);
    }
    zc_response_free(answer);
    return rc;
}

int dlq_resend(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Dead Letter:dead_letter", "#Topic:topic", "#OffsetMsgId:offset_msg_id" };
    if (!opt(c, 'i') && !opt(c, 't') && !opt(c, 'k') && !opt(c, 's') && !opt(c, 'e') && !opt(c, 'a'))
        return fprintf(stderr, "zaryactl: dlq resend: say which: -i, -t, -k, -s, -e, or -a for all\n"), EXIT_USAGE;
    struct resending to = { .to_origin = opt(c, 'o') != NULL };
    to.t = table_new(COLUMNS, 3);
    int rc = each_letter(c, MANY, resend_one, &to);
    uint32_t n = table_rows(to.t);
    table_print(to.t, c->json);
    if (rc == 0 && n == 0) rc = EXIT_FAILED, fprintf(stderr, "zaryactl: no dead letter of group %s is meant\n", opt(c, 'g'));
    return rc;
}

/* ---- export ---- */

static void base64(struct zl_buf *out, struct zr_span in)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (uint64_t i = 0; i < in.len; i += 3) {
        uint32_t v = (uint32_t)in.ptr[i] << 16 | (i + 1 < in.len ? (uint32_t)in.ptr[i + 1] << 8 : 0) | (i + 2 < in.len ? in.ptr[i + 2] : 0u);
        zl_buf_u8(out, (uint8_t)digits[v >> 18]);
        zl_buf_u8(out, (uint8_t)digits[v >> 12 & 63]);
        zl_buf_u8(out, i + 1 < in.len ? (uint8_t)digits[v >> 6 & 63] : '=');
        zl_buf_u8(out, i + 2 < in.len ? (uint8_t)digits[v & 63] : '=');
    }
}

static void export_properties(struct zl_jw *w, struct zr_span props)
{
    struct zr_str name, value;
    uint64_t pos = 0;
    zl_jw_key(w, zl_str("properties"));
    zl_jw_begin(w, '{');
    while (zl_props_next(props, &pos, &name, &value)) {
        zl_jw_key(w, name);
        zl_jw_str(w, value);
    }
    zl_jw_end(w, '}');
}

/* One letter, one line. */
static int export_one(struct ctl *c, const struct letter *l, void *ctx)
{
    struct zl_buf line, body;
    struct zl_jw w;
    char host[64];
    zl_buf_init(&line, 64u << 20);
    zl_buf_init(&body, 32u << 20);
    base64(&body, l->r.body);
    zl_jw_init(&w, &line, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "group", zl_str(opt(c, 'g')));
    zl_jw_kstr(&w, "broker", zl_str(l->queue->broker));
    zl_jw_kstr(&w, "offset_msg_id", zl_str(l->id));
    zl_jw_kstr(&w, "msg_id", l->uniq);
    zl_jw_kstr(&w, "origin_topic", l->origin);
    zl_jw_kstr(&w, "reason", l->reason);
    zl_jw_ki64(&w, "offset", l->r.queue_offset);
    zl_jw_ki64(&w, "tries", l->r.reconsume_times);
    zl_jw_ki64(&w, "born_ms", l->r.born_ms);
    zl_jw_ki64(&w, "died_ms", l->r.store_ms);
    zl_jw_kstr(&w, "born_host", (struct zr_str){ host, zl_addr_print(host, &l->r.born_host) });
    zl_jw_ki64(&w, "flag", l->r.flag);
    zl_jw_ki64(&w, "sys_flag", l->r.sys_flag);
    export_properties(&w, l->r.properties);
    zl_jw_kstr(&w, "body_base64", zl_buf_as_str(&body));
    zl_jw_end(&w, '}');
    zl_buf_u8(&line, '\n');
    uint32_t bad = line.failed || body.failed;
    if (!bad) bad = fwrite(line.ptr, 1, line.len, ctx) != line.len;
    zl_buf_free(&line);
    zl_buf_free(&body);
    return bad ? fprintf(stderr, "zaryactl: %s cannot be written\n", l->id), EXIT_FAILED : 0;
}

int dlq_export(struct ctl *c)
{
    const char *path = opt(c, 'f');
    FILE *to = path ? fopen(path, "wx") : stdout;
    if (!to) return fprintf(stderr, "zaryactl: %s: %m (a file that is there is not written over)\n", path), EXIT_FAILED;
    int rc = each_letter(c, MANY, export_one, to);
    if (fflush(to) != 0 && rc == 0) rc = EXIT_FAILED, fprintf(stderr, "zaryactl: writing failed: %m\n");
    if (path) fclose(to);
    return rc;
}

/* ---- purge ---- */

static int purge_one(struct ctl *c, const struct broker *b, void *ctx)
{
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    if (zc_admin_delete_topic_in_broker(c->client, addr_text(b, addr), ctx, &err)) return failed(addr, &err);
    return 0;
}

int dlq_purge(struct ctl *c)
{
    char topic[ZC_NAME_MAX];
    struct zc_queue *queues;
    struct zc_err err;
    uint32_t n = 0;
    int64_t letters = 0;
    dlq_topic(opt(c, 'g'), topic);
    int rc = dlq_queues(c, topic, &queues, &n);
    for (uint32_t i = 0; rc == 0 && i < n; i++) {
        int64_t min = 0, max = 0;
        if (zc_offset_min(c->client, &queues[i], &min, &err) || zc_offset_max(c->client, &queues[i], &max, &err)) rc = failed(topic, &err);
        letters += max - min;
    }
    if (n) free(queues);
    if (rc) return rc;
    if (!opt(c, 'y'))
        return fprintf(stderr, "zaryactl: %lld dead letters of group %s would be deleted for good; -y does it\n", (long long)letters, opt(c, 'g')),
               EXIT_USAGE;
    rc = each_broker(c, 0, purge_one, topic);
    if (rc == 0 && zc_admin_delete_topic_in_namesrv(c->client, topic, NULL, &err)) rc = failed("name server", &err);
    if (rc == 0) printf(c->json ? "{\"purged\":%lld}\n" : "%lld dead letters are gone\n", (long long)letters);
    return rc;
}
