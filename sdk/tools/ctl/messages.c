/* SPDX-License-Identifier: Apache-2.0 */
/* messages.c - send, consume, msg show, query. */
#include "ctl.h"
#include "zl/record.h"
#include <string.h>

#define BODY_MAX (4u * 1024 * 1024)
#define DEFAULT_COUNT 128

/* ---- send ---- */

/* The body: -p, or standard input. */
static int read_body(struct ctl *c, struct zl_buf *body)
{
    const char *text = opt(c, 'p');
    if (text && strcmp(text, "-") != 0) {
        zl_buf_cstr(body, text);
    } else {
        uint8_t chunk[65536];
        size_t n;
        while ((n = fread(chunk, 1, sizeof(chunk), stdin)) > 0) zl_buf_add(body, chunk, n);
    }
    if (body->failed) return fprintf(stderr, "zaryactl: the body is larger than %u bytes\n", BODY_MAX), EXIT_FAILED;
    if (body->len == 0)
        return fprintf(stderr, "zaryactl: the body is empty (-p TEXT, or standard input)\n"), EXIT_USAGE;
    return 0;
}

static int send_all(struct ctl *c, struct zc_producer *p, const struct zc_message *msg, const struct zc_select *select,
                    int64_t count)
{
    static const char *const COLUMNS[] = { "#Broker Name:broker", "#QID:#queue",   "#Offset:#offset",
                                           "#Send Result:result", "#MsgId:msg_id", "#OffsetMsgId:offset_msg_id" };
    struct table *t = table_new(COLUMNS, 6);
    struct zc_send_result r;
    struct zc_err err;
    int rc = 0;
    for (int64_t i = 0; i < count && rc == 0; i++) {
        if (zc_send(p, msg, select, &r, &err)) {
            rc = failed("send", &err);
            break;
        }
        cell_c(t, r.queue.broker);
        cell_i(t, r.queue.queue_id);
        cell_i(t, r.queue_offset);
        cell_c(t, zc_send_status_name(r.status));
        cell_c(t, r.msg_id);
        cell_c(t, r.offset_msg_id);
    }
    if (table_rows(t))
        table_print(t, c->json);
    else
        table_drop(t);
    return rc;
}

int msg_send(struct ctl *c)
{
    struct zl_buf body;
    struct zc_err err;
    struct zc_queue queue = { .queue_id = (int32_t)opt_number(c, 'i', 0) };
    struct zc_select select = { .how = ZC_SELECT_QUEUE, .queue = &queue };
    int64_t count = opt_number(c, 'N', 1);
    if (opt(c, 'i') && !opt(c, 'b'))
        return fprintf(stderr, "zaryactl: send: -i needs -b (the broker's name)\n"), EXIT_USAGE;
    if (opt(c, 'b') && !opt(c, 'i')) return fprintf(stderr, "zaryactl: send: -b needs -i (the queue)\n"), EXIT_USAGE;
    if (opt(c, 'b')) snprintf(queue.broker, sizeof(queue.broker), "%s", opt(c, 'b'));
    zl_buf_init(&body, BODY_MAX);
    int rc = read_body(c, &body);
    struct zc_producer *p =
        rc ? NULL
           : zc_producer_open(c->client, &(struct zc_producer_options){ .group = "zaryactl", .compress_over = -1 },
                              &err);
    if (!rc && !p) rc = failed("send", &err);
    struct zc_message msg = { .topic = zl_str(opt(c, 't')),
                              .body = zl_buf_as_span(&body),
                              .tags = zl_str(opt(c, 'c')),
                              .keys = zl_str(opt(c, 'k')) };
    if (rc == 0) rc = send_all(c, p, &msg, opt(c, 'b') ? &select : NULL, count);
    zc_producer_close(p);
    zl_buf_free(&body);
    return rc;
}

/* ---- printing messages ---- */

static const char *const ROW_COLUMNS[] = { "#Broker Name:broker", "#QID:#queue",
                                           "#Offset:#offset",     "#Store Time:store_time",
                                           "#MsgId:msg_id",       "#Tag:tag",
                                           "#Keys:keys",          "#Body:body" };

static void message_row(struct table *t, const struct zc_received *m)
{
    char when[32];
    time_text(m->store_ms, when);
    char host[64];
    /* A query's answer does not say which broker it came from: the address in the record does. */
    cell(t, m->broker.len ? m->broker : (struct zr_str){ host, zl_addr_print(host, &m->store_host) });
    cell_i(t, m->queue_id);
    cell_i(t, m->queue_offset);
    cell_c(t, when);
    cell_c(t, m->msg_id);
    cell(t, m->tags);
    cell(t, m->keys);
    cell(t, (struct zr_str){ (const char *)m->body.ptr, m->body.len < 4096 ? m->body.len : 4096 });
}

static void props_text(struct zr_span props, struct zl_buf *out)
{
    uint64_t pos = 0;
    struct zr_str name, value;
    while (zl_props_next(props, &pos, &name, &value))
        zl_buf_fmt(out, "%s%.*s=%.*s", out->len ? ", " : "", (int)name.len, name.ptr, (int)value.len, value.ptr);
}

void message_details(const struct zc_received *m, uint32_t json)
{
    static const char *const COLUMNS[] = { "OffsetID:offset_msg_id",
                                           "MsgID:msg_id",
                                           "Topic:topic",
                                           "Tags:tags",
                                           "Keys:keys",
                                           "Queue ID:#queue",
                                           "Queue Offset:#queue_offset",
                                           "CommitLog Offset:#commit_log_offset",
                                           "Reconsume Times:#reconsume_times",
                                           "Born Timestamp:born_time",
                                           "Store Timestamp:store_time",
                                           "Born Host:born_host",
                                           "Store Host:store_host",
                                           "System Flag:#sys_flag",
                                           "Properties:properties",
                                           "Body Size:#body_size",
                                           "Body:body" };
    struct table *t = table_new(COLUMNS, 17);
    struct zl_buf props;
    char born[32], store[32], host[64];
    time_text(m->born_ms, born);
    time_text(m->store_ms, store);
    zl_buf_init(&props, 1u << 20);
    props_text(m->properties, &props);
    cell_c(t, m->offset_msg_id);
    cell_c(t, m->msg_id);
    cell(t, m->stored_topic);
    cell(t, m->tags);
    cell(t, m->keys);
    cell_i(t, m->queue_id);
    cell_i(t, m->queue_offset);
    cell_i(t, m->physical_offset);
    cell_i(t, m->reconsume_times);
    cell_c(t, born);
    cell_c(t, store);
    cell(t, (struct zr_str){ host, zl_addr_print(host, &m->born_host) });
    cell(t, (struct zr_str){ host, zl_addr_print(host, &m->store_host) });
    cell_i(t, m->sys_flag);
    cell(t, zl_buf_as_str(&props));
    cell_i(t, (int64_t)m->body.len);
    cell(t, (struct zr_str){ (const char *)m->body.ptr, m->body.len });
    table_print_one(t, json);
    zl_buf_free(&props);
}

int msg_show(struct ctl *c)
{
    struct zc_messages *m;
    struct zc_err err;
    if (zc_view(c->client, opt(c, 't'), opt(c, 'i'), &m, &err)) return failed(opt(c, 'i'), &err);
    for (uint32_t i = 0; i < m->n; i++) {
        if (i && !c->json) putchar('\n');
        message_details(&m->msgs[i], c->json);
    }
    uint32_t n = m->n;
    zc_messages_free(m);
    return n ? 0 : EXIT_FAILED;
}

int msg_query(struct ctl *c)
{
    struct zc_messages *m;
    struct zc_err err;
    if (zc_query(c->client, opt(c, 't'), opt(c, 'k'), 0, (uint32_t)opt_number(c, 'm', opt_number(c, 'c', 64)),
                 opt_number(c, 'b', 0), opt_number(c, 'e', 0), &m, &err))
        return failed("query", &err);
    struct table *t = table_new(ROW_COLUMNS, 8);
    for (uint32_t i = 0; i < m->n; i++) message_row(t, &m->msgs[i]);
    table_print(t, c->json);
    uint32_t n = m->n;
    zc_messages_free(m);
    return n ? 0 : EXIT_FAILED;
}

/* ---- consume ---- */

struct range {
    int64_t from, end, until_ms;
};

static int queue_range(struct ctl *c, const struct zc_queue *q, struct range *r, struct zc_err *err)
{
    int rc = zc_offset_max(c->client, q, &r->end, err);
    if (rc) return rc;
    r->until_ms = opt_number(c, 'e', INT64_MAX);
    if (opt(c, 'o')) return r->from = opt_number(c, 'o', 0), 0;
    if (opt(c, 's')) return zc_offset_by_time(c->client, q, opt_number(c, 's', 0), &r->from, err);
    return zc_offset_min(c->client, q, &r->from, err);
}

/* Prints one queue's range; *left goes down. */
static int consume_queue(struct ctl *c, const struct zc_queue *q, struct table *t, int64_t *left)
{
    struct range r;
    struct zc_err err;
    if (queue_range(c, q, &r, &err)) return failed("offsets", &err);
    struct zc_pull pull = {
        .group = opt(c, 'g') ? opt(c, 'g') : "zaryactl", .queue = q, .expression = opt(c, 'f'), .offset = r.from
    };
    while (*left > 0 && pull.offset < r.end) {
        struct zc_messages *m;
        if (zc_pull(c->client, &pull, &m, &err)) return failed("pull", &err);
        uint32_t past = 0;
        for (uint32_t i = 0; i<m->n && * left> 0; i++) {
            past = m->msgs[i].store_ms > r.until_ms;
            if (past) break;
            message_row(t, &m->msgs[i]);
            --*left;
        }
        uint32_t nothing = m->code == 19 || past || (m->n == 0 && m->next_offset <= pull.offset);
        pull.offset = m->next_offset;
        zc_messages_free(m);
        if (nothing) break;
    }
    return 0;
}

int msg_consume(struct ctl *c)
{
    struct zc_queue *queues;
    struct zc_err err;
    uint32_t n = 0, matched = 0;
    int64_t left = opt_number(c, 'c', DEFAULT_COUNT), only = opt_number(c, 'i', -1);
    int rc = 0;
    if (opt(c, 'o') && (!opt(c, 'i') || !opt(c, 'b')))
        return fprintf(stderr, "zaryactl: consume: -o needs -b and -i\n"), EXIT_USAGE;
    if (zc_queues(c->client, opt(c, 't'), 0, &queues, &n, &err)) return failed(opt(c, 't'), &err);
    struct table *t = table_new(ROW_COLUMNS, 8);
    for (uint32_t i = 0; i < n && rc == 0; i++) {
        if ((opt(c, 'b') && strcmp(queues[i].broker, opt(c, 'b')) != 0) || (only >= 0 && queues[i].queue_id != only))
            continue;
        matched++;
        rc = consume_queue(c, &queues[i], t, &left);
    }
    free(queues);
    table_print(t, c->json);
    if (!matched && rc == 0) rc = EXIT_FAILED, fprintf(stderr, "zaryactl: no such queue of topic %s\n", opt(c, 't'));
    return rc;
}
