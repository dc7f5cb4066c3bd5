/* SPDX-License-Identifier: Apache-2.0 */
/* check.c - producers that said nothing about their half message are asked (CHECK_TRANSACTION_STATE 39).
 *
 * One timer runs for the message that is due first. When it fires, a job reads what is due, up to BATCH, and writes each anew at the
 * half queue's end with one more check counted; the hook behind the append moves its slot (half.c), and then its producer is asked,
 * by the new offsets. The next batch waits until check_rate allows it: a restart with many open transactions is no storm.
 *
 * What stays true:
 *   1. A half message is asked about first `timeout` after it came (or its CHECK_IMMUNITY_TIME_IN_SECONDS), then each
 *      check_interval, check_max times; then it goes to TRANS_CHECK_MAX_TIME_TOPIC. So does one older than retention_hours.
 *   2. One live producer of the group is asked, another one each time; with none, the check counts nevertheless, as with Apache.
 *   3. At most one batch is under way; while no transaction is open, no timer runs, or one last time in vain.
 *   4. One that waits for long while many came behind it is written anew without a question: the queue can be let go of.
 *   5. One that cannot be read is tried again by itself, later and later up to check_interval, and the log tells its position. It is given
 *      up when so much came behind it that the table's window would end.
 *      So is one (at once) whose properties, of another broker's making, leave no room for those of a check.
 *   6. One that was there at the start is looked for among what was committed (found.c) before anything else is done about it. */
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "transaction.h"
#include "zl/codec.h"
#include "zl/text.h"

#define BATCH 64u
#define MAX_CLIENTS 64u
#define TRIES 3u           /* producers of a group that are tried, as in Apache */
#define BUSY_MS 50         /* the worker pool is full */
#define RETRY_MS 1000      /* the storage refuses */
#define HELD_OFFSETS 10000 /* one that many came behind is written anew although nobody is asked */

#define TELL_TRIES 5u      /* reads in vain until the operator is told */
#define GIVE_UP_TRIES 15u  /* and until it is given up, where it holds up others */
#define RETAKE_PARTS 4     /* of retention_hours: so often one that waits is written anew, so that it is not taken */

#define WHAT_SKIP 0u    /* nothing to store */
#define WHAT_ASK 1u
#define WHAT_MOVE 2u    /* written anew, not asked about */
#define WHAT_DISCARD 3u

struct due {
    int64_t first, current, physical;
    uint32_t times, what;
    uint32_t doubt, reserved;
    int64_t ask_ms;
    uint64_t pin;
    struct zl_record record;
    struct half half;
    uint8_t *props;
};

/* Sessions of a producer group, held; good for one batch. */
struct clients {
    struct zr_str group;
    struct zr_session *sessions[MAX_CLIENTS];
    uint32_t n;
};

struct batch {
    struct zr_inst *inst;
    uint32_t n, n_msgs;
    _Atomic uint32_t refs; /* the job and the append; the later one ends it */
    uint32_t failed;
    struct clients clients;
    uint8_t due_of[BATCH];
    struct zr_msg msgs[BATCH];
    struct due due[BATCH];
};

static void check_job(void *arg);

/* ---- when ----------------------------------------------------------------------------------------------------------------- */

static void check_fired(void *arg)
{
    struct zr_inst *inst = arg;
    int64_t now = mono_ms(inst);
    pthread_mutex_lock(&inst->lock);
    inst->check_armed_ms = INT64_MAX;
    const struct tx_slot *top = tx_top(&inst->table);
    uint32_t due = top && top->due_ms <= now, go = due && !inst->stopping && !inst->checking;
    if (go) {
        inst->checking = 1;
        inst->n_running++;
    }
    pthread_mutex_unlock(&inst->lock);
    if (!due) check_arm(inst); /* what was due then has ended */
    if (!go || inst->work->run(inst->host, check_job, inst) == ZR_OK) return;
    pthread_mutex_lock(&inst->lock);
    inst->checking = 0;
    inst->check_not_before_ms = mono_ms(inst) + BUSY_MS;
    pthread_mutex_unlock(&inst->lock);
    check_arm(inst);
    running_end(inst);
}

void check_arm(struct zr_inst *inst)
{
    uint64_t id = 0;
    pthread_mutex_lock(&inst->lock);
    const struct tx_slot *top = tx_top(&inst->table);
    int64_t at = !top || inst->checking || inst->stopping ? INT64_MAX : top->due_ms;
    if (at < inst->check_not_before_ms) at = inst->check_not_before_ms;
    uint64_t before = inst->check_armed_ms != INT64_MAX && at < inst->check_armed_ms ? inst->check_timer : 0;
    uint32_t arm = at < inst->check_armed_ms;
    if (arm) inst->check_armed_ms = at;
    pthread_mutex_unlock(&inst->lock);
    if (!arm) return;
    if (before) inst->timer->cancel(inst->host, before); /* one that fires nevertheless finds nothing due */
    zr_status status = inst->timer->at(inst->host, at * 1000000, check_fired, inst, &id);
    pthread_mutex_lock(&inst->lock);
    if (status == ZR_OK) inst->check_timer = id;
    else inst->check_armed_ms = INT64_MAX;
    pthread_mutex_unlock(&inst->lock);
    if (status != ZR_OK && status != ZR_ECLOSED) say(inst, ZR_LOG_ERROR, "no timer for open transactions: they rest until the next one comes");
}

/* ---- asking --------------------------------------------------------------------------------------------------------------- */

static void clients_drop(struct zr_inst *inst, struct clients *c)
{
    for (uint32_t i = 0; i < c->n; i++) inst->reply->session_release(inst->host, c->sessions[i]);
    c->n = 0;
}

struct collect { struct zr_inst *inst; struct clients *to; };

static int32_t collect_one(void *ctx, struct zr_str group, const struct zr_client *client)
{
    struct collect *c = ctx;
    (void)group;
    struct zr_session *s = c->inst->reply->session_hold(c->inst->host, client->session);
    if (s) c->to->sessions[c->to->n++] = s;
    return c->to->n == MAX_CLIENTS;
}

/* The live producers of the group; those of the one asked for last are remembered. */
static void clients_of(struct zr_inst *inst, struct clients *c, struct zr_str group)
{
    struct collect to = { inst, c };
    if (c->group.ptr && zl_eq(c->group, group)) return;
    clients_drop(inst, c);
    c->group = group;
    if (group.len) inst->broker->each_producer(inst->host, group, collect_one, &to);
}

/* The half record as its producer sent it: topic and queue are its own. */
static void body_make(struct zl_buf *out, const struct due *d, const struct zr_msg *m, const struct zr_put *put)
{
    int32_t queue_id;
    struct zr_msg own = *m;
    own.topic = d->half.topic;
    own.queue_id = zl_parse_i32(d->half.queue, &queue_id) == ZR_OK ? queue_id : 0;
    uint64_t size = zl_record_size(&own);
    uint8_t *to = zl_buf_reserve(out, size);
    if (!to) return;
    zl_record_encode(to, &own);
    zl_record_finish(to, put->queue_offset, put->physical_offset, put->store_ms);
    out->len += size;
}

static void ask(struct batch *b, const struct due *d, const struct zr_msg *m, const struct zr_put *put)
{
    struct zr_inst *inst = b->inst;
    struct zl_fields fields = { .n = 0 };
    struct zl_buf body;
    char id[57];
    clients_of(inst, &b->clients, d->half.group);
    if (!b->clients.n) return;
    zl_buf_init(&body, 16u << 20);
    body_make(&body, d, m, put);
    zl_fields_str(&fields, "topic", (struct zr_str)ZR_STR(HALF_TOPIC));
    zl_fields_i64(&fields, "tranStateTableOffset", put->queue_offset);
    zl_fields_i64(&fields, "commitLogOffset", put->physical_offset);
    if (d->half.unique.len) {
        zl_fields_str(&fields, "msgId", d->half.unique);
        zl_fields_str(&fields, "transactionId", d->half.unique);
    }
    zl_fields_str(&fields, "offsetMsgId", (struct zr_str){ id, zl_offset_id(id, &m->store_host, put->physical_offset) });
    zl_fields_str(&fields, "bname", inst->broker_name);
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = 39, .fields = fields.f, .n_fields = fields.n, .body = zl_buf_as_span(&body) };
    uint32_t tries = b->clients.n < TRIES ? b->clients.n : TRIES;
    while (!body.failed && tries-- > 0)
        if (inst->reply->tell(inst->host, b->clients.sessions[inst->next_client++ % b->clients.n], &command) == ZR_OK) {
            meter(inst, METER_CHECKS, 1);
            break;
        }
    zl_buf_free(&body);
}

/* ---- a batch, behind the append ------------------------------------------------------------------------------------------- */

/* With the lock. It was stored in TRANS_CHECK_MAX_TIME_TOPIC, or is gone. */
static void discard(struct zr_inst *inst, struct due *d)
{
    struct tx_slot *s = tx_find(&inst->table, d->first);
    if (!s || s->flags & TX_ENDING) return; /* its producer came at the last moment */
    tx_settle(&inst->table, s->current);
    op_add(inst, s->current);
    half_count(inst, s, -1);
    tx_remove(&inst->table, s);
    meter(inst, METER_DISCARDED, 1);
}

/* With the lock. Neither stored nor gone: it could not be read now. Returns how often that was so in a row. */
static uint32_t unread_later(struct zr_inst *inst, struct tx_slot *s, struct due *d)
{
    uint32_t tries = s->flags / TX_TRY;
    int64_t ms = (int64_t)RETRY_MS << (tries < 6 ? tries : 6), most = inst->settings->check_interval > RETRY_MS ? inst->settings->check_interval : RETRY_MS;
    if (tries < TX_TRIES_MAX) s->flags = (uint16_t)(s->flags + TX_TRY);
    if (tries >= GIVE_UP_TRIES && inst->table.next - s->current > inst->table.window / 2) {
        discard(inst, d);
        return UINT32_MAX;
    }
    tx_due(&inst->table, s, mono_ms(inst) + (ms < most ? ms : most));
    return tries;
}

static void unread_settle(struct zr_inst *inst, struct due *d)
{
    uint32_t tries = 0;
    pthread_mutex_lock(&inst->lock);
    struct tx_slot *s = tx_find(&inst->table, d->first);
    if (s) {
        s->flags &= (uint16_t)~TX_CHECKING;
        tries = unread_later(inst, s, d);
    }
    pthread_mutex_unlock(&inst->lock);
    if (tries == TELL_TRIES)
        say(inst, ZR_LOG_ERROR, "the half message %lld, at %lld, cannot be read, or not what would say whether it was committed: its producer is asked when it can; all others go on",
            (long long)d->current, (long long)d->physical);
    if (tries == UINT32_MAX)
        say(inst, ZR_LOG_ERROR, "the half message %lld, at %lld, is given up: it cannot be read, and too many came behind it. Its producer can still commit it when it can be read",
            (long long)d->current, (long long)d->physical);
}

/* With the lock. */
static void due_settle(struct batch *b, struct due *d, zr_status put)
{
    struct zr_inst *inst = b->inst;
    struct tx_slot *s = tx_find(&inst->table, d->first);
    if (!s) return;
    s->flags &= (uint16_t)(TX_TRY - 1u - TX_CHECKING);
    if (put != ZR_OK) {
        tx_due(&inst->table, s, mono_ms(inst) + RETRY_MS);
        return;
    }
    if (d->what == WHAT_DISCARD) {
        discard(inst, d);
        return;
    }
    int64_t now = mono_ms(inst);
    if (d->what == WHAT_ASK) {
        if (s->times <= d->times) s->times = d->times + 1;
        s->ask_ms = now + inst->settings->check_interval;
    }
    half_due(inst, s, now);
}

static void batch_free(struct batch *b)
{
    struct zr_inst *inst = b->inst;
    for (uint32_t i = 0; i < b->n; i++) {
        if (b->due[i].pin) inst->storage->unpin(inst->storage_inst, b->due[i].pin);
        free(b->due[i].props);
    }
    clients_drop(inst, &b->clients);
    free(b);
}

/* Nothing of the batch is under way any more. */
static void batch_end(struct batch *b)
{
    struct zr_inst *inst = b->inst;
    int64_t pace = (int64_t)b->n * 1000 / inst->settings->check_rate;
    pthread_mutex_lock(&inst->lock);
    inst->checking = 0;
    inst->check_not_before_ms = mono_ms(inst) + (b->failed ? RETRY_MS : pace);
    pthread_mutex_unlock(&inst->lock);
    batch_free(b);
    op_settle(inst);
    progress(inst);
    counts_changed(inst);
    check_arm(inst);
    running_end(inst);
}

static void batch_release(struct batch *b)
{
    if (atomic_fetch_sub(&b->refs, 1) == 1) batch_end(b);
}

static const struct zr_put *put_of(const struct zr_put *puts, uint32_t i)
{
    return (const struct zr_put *)(const void *)((const char *)puts + (uint64_t)i * puts->hdr.size);
}

static void stored(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct batch *b = ctx;
    struct zr_inst *inst = b->inst;
    uint32_t good = puts && n == b->n_msgs;
    (void)status;
    pthread_mutex_lock(&inst->lock);
    for (uint32_t i = 0; i < b->n_msgs; i++) {
        const struct zr_put *p = good ? put_of(puts, i) : NULL;
        if (p && p->status == ZR_OK && p->physical_offset + p->size > inst->copied_end) inst->copied_end = p->physical_offset + p->size;
        if (!p || p->status != ZR_OK) b->failed = 1;
        due_settle(b, &b->due[b->due_of[i]], p ? p->status : ZR_ENOMEM);
    }
    pthread_mutex_unlock(&inst->lock);
    for (uint32_t i = 0; good && i < b->n_msgs; i++)
        if (b->due[b->due_of[i]].what == WHAT_ASK && put_of(puts, i)->status == ZR_OK) ask(b, &b->due[b->due_of[i]], &b->msgs[i], put_of(puts, i));
    if (b->failed) say(inst, ZR_LOG_WARN, "half messages cannot be written anew now, so their producers are asked later");
    batch_release(b);
}

/* ---- a batch, before it --------------------------------------------------------------------------------------------------- */

/* One that could not be read when it was loaded has its own offset for a name. */
static void name_find(struct zr_inst *inst, struct due *d)
{
    int64_t first = half_first(&d->half, d->current);
    if (first == d->first || d->first != d->current) return;
    pthread_mutex_lock(&inst->lock);
    struct tx_slot *s = tx_find(&inst->table, d->first);
    if (s && !(s->flags & TX_ENDING) && !tx_find(&inst->table, first) && tx_rename(&inst->table, s, first)) d->first = first;
    pthread_mutex_unlock(&inst->lock);
}

static uint32_t record_read(struct zr_inst *inst, struct due *d)
{
    struct zr_piece piece;
    const char *why;
    zr_status status = inst->storage->record_at(inst->storage_inst, d->physical, &piece, &d->pin);
    if (status != ZR_OK && status != ZR_ENOENT && status != ZR_ECORRUPT) return 0; /* it is there, and is read later */
    if (status == ZR_OK && piece.ptr && zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &d->record, &why) == ZR_OK) {
        half_read(d->record.properties, &d->half);
        name_find(inst, d);
        return 1;
    }
    say(inst, ZR_LOG_WARN, "the half message at %lld is gone: its record cannot be read", (long long)d->physical);
    pthread_mutex_lock(&inst->lock);
    discard(inst, d);
    pthread_mutex_unlock(&inst->lock);
    return 0;
}

/* 1: it was committed before a crash, and needs no attention any more; 2: that cannot be told now. */
static uint32_t was_committed(struct zr_inst *inst, struct due *d)
{
    int64_t end = d->doubt ? committed_end(inst, &d->record, &d->half, d->first) : 0;
    if (!d->doubt) return 0;
    if (end < 0) return 2;
    pthread_mutex_lock(&inst->lock);
    struct tx_slot *s = tx_find(&inst->table, d->first);
    if (s) s->flags &= (uint16_t)~TX_DOUBT;
    if (end && s && !(s->flags & TX_ENDING)) {
        tx_settle(&inst->table, s->current);
        tx_decide(&inst->table, d->first, 0);
        op_add(inst, s->current);
        half_count(inst, s, -1);
        tx_remove(&inst->table, s);
        if (end > inst->copied_end) inst->copied_end = end;
    }
    pthread_mutex_unlock(&inst->lock);
    if (end) say(inst, ZR_LOG_INFO, "the half message %.*s was committed before the broker ended, which its end did not note any more", (int)d->half.unique.len, d->half.unique.ptr);
    return end != 0;
}

/* What becomes of it, by Apache's rules. */
static uint32_t what_now(struct zr_inst *inst, struct due *d, int64_t next_offset)
{
    uint32_t times = half_times(&d->half);
    if (times > d->times) d->times = times;
    int64_t most = inst->settings->retention_hours * 3600000, now = wall_ms(inst);
    if (now - d->record.born_ms > most) return WHAT_DISCARD;
    if (mono_ms(inst) < d->ask_ms) return next_offset - d->current > HELD_OFFSETS || now - d->record.store_ms > most / RETAKE_PARTS ? WHAT_MOVE : WHAT_SKIP;
    return d->times >= (uint32_t)inst->settings->check_max ? WHAT_DISCARD : WHAT_ASK;
}

/* The properties with the check counted and the name of the first record. NULL: memory ran out, or they are too long. */
static uint8_t *props_make(const struct due *d, uint64_t *ret_len)
{
    static const char *const ours[] = { "TRANSACTION_CHECK_TIMES", "TRAN_PREPARED_QUEUE_OFFSET", NULL };
    char number[24];
    struct zl_buf out;
    zl_buf_init(&out, ZL_MAX_PROPERTIES);
    zl_props_copy(&out, d->record.properties, ours);
    uint32_t times = d->times + (d->what == WHAT_ASK);
    if (times) zl_props_add(&out, zl_str("TRANSACTION_CHECK_TIMES"), (struct zr_str){ number, zl_print_i64(number, times) });
    zl_props_add(&out, zl_str("TRAN_PREPARED_QUEUE_OFFSET"), (struct zr_str){ number, zl_print_i64(number, d->first) });
    if (out.failed) zl_buf_free(&out);
    *ret_len = out.len;
    return out.ptr;
}

static void ignore_topic(void *ctx, const struct zr_topic *topic)
{
    (void)ctx;
    (void)topic;
}

static void discard_topic_ensure(struct zr_inst *inst)
{
    struct zr_topic topic = { .hdr = ZR_HDR(struct zr_topic, 0), .name = ZR_STR(DISCARD_TOPIC), .read_queues = 1, .write_queues = 1, .perm = ZR_PERM_READ | ZR_PERM_WRITE };
    if (inst->broker->topic(inst->host, topic.name, ignore_topic, NULL) != ZR_OK) inst->broker->put_topic(inst->host, &topic, NULL, NULL);
}

/* The message that is stored for it. 0: memory ran out. */
static uint32_t message_make(struct batch *b, struct due *d)
{
    const struct zl_record *r = &d->record;
    struct zr_msg *m = &b->msgs[b->n_msgs];
    *m = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = ZR_STR(HALF_TOPIC), .body = r->body, .properties = r->properties,
                          .tags_code = zl_tags_code(zl_props_get(r->properties, "TAGS")), .born_ms = r->born_ms, .born_host = r->born_host,
                          .flag = r->flag, .sys_flag = r->sys_flag, .reconsume_times = r->reconsume_times, .flags = ZR_MSG_OWN, .inner_num = 1 };
    uint64_t len = 0;
    uint32_t no_room = 0;
    if (d->what != WHAT_DISCARD && !(d->props = props_make(d, &len))) {
        if (r->properties.len + CHECK_ROOM <= ZL_MAX_PROPERTIES) return 0;
        no_room = 1;
        d->what = WHAT_DISCARD;
    }
    if (d->what == WHAT_DISCARD) {
        m->topic = (struct zr_str)ZR_STR(DISCARD_TOPIC);
        discard_topic_ensure(b->inst);
        say(b->inst, ZR_LOG_WARN, "the half message %.*s of group %.*s is given up after %u checks%s; it is in %s", (int)d->half.unique.len,
            d->half.unique.len ? d->half.unique.ptr : "", (int)d->half.group.len, d->half.group.len ? d->half.group.ptr : "", d->times,
            no_room ? ", for its properties leave no room to count another one" : "", DISCARD_TOPIC);
    } else {
        m->properties = (struct zr_span){ d->props, len };
    }
    b->due_of[b->n_msgs++] = (uint8_t)(d - b->due);
    return 1;
}

/* What is due, marked so that it is not taken twice. */
static int64_t batch_take(struct batch *b)
{
    struct zr_inst *inst = b->inst;
    struct tx_slot *s;
    int64_t now = mono_ms(inst);
    pthread_mutex_lock(&inst->lock);
    int64_t next_offset = inst->table.next;
    while (b->n < BATCH && (s = tx_top(&inst->table)) && s->due_ms <= now) {
        tx_due(&inst->table, s, now + inst->settings->check_interval);
        if (s->flags & (TX_ENDING | TX_CHECKING)) continue;
        s->flags |= TX_CHECKING;
        b->due[b->n++] = (struct due){ .first = s->first, .current = s->current, .physical = s->physical, .times = s->times,
                                         .doubt = s->flags & TX_DOUBT, .ask_ms = s->ask_ms };
    }
    pthread_mutex_unlock(&inst->lock);
    return next_offset;
}

static void batch_prepare(struct batch *b, int64_t next_offset)
{
    struct zr_inst *inst = b->inst;
    for (uint32_t i = 0; i < b->n; i++) {
        struct due *d = &b->due[i];
        zr_status unstored = ZR_OK;
        uint32_t committed;
        if (!record_read(inst, d)) {
            unstored = ZR_EIO;
        } else if ((committed = was_committed(inst, d)) == 2) {
            unstored = ZR_EAGAIN;
        } else if (!committed) {
            d->what = what_now(inst, d, next_offset);
            if (d->what != WHAT_SKIP) unstored = message_make(b, d) ? ZR_PENDING : ZR_ENOMEM;
        }
        if (unstored == ZR_PENDING) continue;
        if (unstored == ZR_EIO || unstored == ZR_EAGAIN) {
            unread_settle(inst, d);
            continue;
        }
        pthread_mutex_lock(&inst->lock);
        due_settle(b, d, unstored);
        pthread_mutex_unlock(&inst->lock);
    }
}

static void check_job(void *arg)
{
    struct zr_inst *inst = arg;
    struct batch *b = calloc(1, sizeof *b);
    if (!b) {
        pthread_mutex_lock(&inst->lock);
        inst->checking = 0;
        inst->check_not_before_ms = mono_ms(inst) + RETRY_MS;
        pthread_mutex_unlock(&inst->lock);
        check_arm(inst);
        running_end(inst);
        return;
    }
    b->inst = inst;
    atomic_store(&b->refs, 2);
    int64_t next_offset = batch_take(b);
    batch_prepare(b, next_offset);
    if (b->n_msgs) inst->store->publish(inst->host, b->msgs, b->n_msgs, ZR_PUBLISH_NO_HOOKS, stored, b);
    else batch_release(b);
    batch_release(b);
}
