/* SPDX-License-Identifier: Apache-2.0 */
/* end.c - END_TRANSACTION (37): the producer's word about a half message.
 *
 * The half record is read where the request says it is: on the connection's own thread when it is in memory, else on the worker
 * pool. Apache's checks, in Apache's order, with its codes and remarks.
 *
 * What stays true:
 *   1. A half message is settled only after its committed message was stored; if that fails it stays open and the answer says why.
 *   2. The same word said twice (a slow producer and its check-back) is carried out once, also when both come at once and the half
 *      message is not in the table (ends.h). While the broker lives it remembers; of what was there before the start, or is older
 *      than the table's window, a commit is looked for in the log first, on the worker pool (found.c).
 *   3. The first word counts. The other one after it is refused with 604: what was rolled back does not come any more, and what
 *      was committed is not taken back.
 *   4. A half message that was discarded or is not in the table can still be committed, as with Apache. */
#include <stdlib.h>
#include <string.h>

#include "transaction.h"
#include "zl/codec.h"
#include "zl/text.h"
#include "zl/topics.h"

#define UNKNOWN 0
#define COMMIT 8
#define ROLLBACK 12
#define SMALL_PROPERTIES 2048u

struct end {
    struct zr_inst *inst;
    struct zr_token *token; /* held */
    int64_t table_offset, log_offset;
    int64_t first;
    int32_t what;
    uint32_t from_check;
    uint32_t on_lane; /* files cannot be read here */
    uint64_t group_len;
    char group[ZL_RETRY_TOPIC_MAX + 1];
};

static void answer_token(struct zr_inst *inst, struct zr_token *token, int32_t code, const char *why)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = code, .remark = zl_str(why) };
    inst->reply->answer(inst->host, token, &answer);
}

static void end_answer(struct end *e, int32_t code, const char *why)
{
    answer_token(e->inst, e->token, code, why);
    free(e);
}

/* ---- carrying it out ------------------------------------------------------------------------------------------------------ */

/* The half message needs no attention any more. */
static void end_settle(struct end *e, int64_t end)
{
    struct zr_inst *inst = e->inst;
    pthread_mutex_lock(&inst->lock);
    struct tx_slot *s = tx_find(&inst->table, e->first);
    int64_t offset = s ? s->current : e->table_offset;
    if (s) {
        half_count(inst, s, -1);
        tx_remove(&inst->table, s);
    }
    tx_enter(&inst->table, offset);
    tx_settle(&inst->table, offset);
    tx_decide(&inst->table, e->first, e->what == ROLLBACK);
    if (!tx_is_known(&inst->table, e->first)) ends_begin(&inst->ends, e->first); /* it has one already, unless it had a slot */
    ends_finish(&inst->ends, e->first, e->what == ROLLBACK ? ENDS_ROLLED_BACK : ENDS_COMMITTED);
    op_add(inst, offset);
    if (e->what == ROLLBACK) op_rolled_back(inst, e->first);
    if (end > inst->copied_end) inst->copied_end = end;
    pthread_mutex_unlock(&inst->lock);
    meter(inst, e->what == COMMIT ? METER_COMMITTED : METER_ROLLED_BACK, 1);
    op_settle(inst);
    progress(inst);
    counts_changed(inst);
}

static void end_unmark(struct end *e)
{
    pthread_mutex_lock(&e->inst->lock);
    struct tx_slot *s = tx_find(&e->inst->table, e->first);
    if (s) s->flags &= (uint16_t)~TX_ENDING;
    ends_finish(&e->inst->ends, e->first, ENDS_NONE);
    pthread_mutex_unlock(&e->inst->lock);
}

/* What was said before is known now; nothing is to be done. */
static void end_noted(struct end *e, uint32_t said)
{
    pthread_mutex_lock(&e->inst->lock);
    ends_finish(&e->inst->ends, e->first, said);
    pthread_mutex_unlock(&e->inst->lock);
}

static int32_t code_of(zr_status status)
{
    switch (status) {
    case ZR_EINVAL: return CODE_MESSAGE_ILLEGAL;
    case ZR_EFULL:
    case ZR_EIO:
    case ZR_ECLOSED: return CODE_SERVICE_NOT_AVAILABLE;
    case ZR_EAGAIN: return CODE_SYSTEM_BUSY;
    case ZR_ENOENT: return CODE_TOPIC_NOT_EXIST;
    default: return CODE_SYSTEM_ERROR;
    }
}

#define TOLD_MS 10000

/* A producer does not wait for this answer (END_TRANSACTION is one-way), and its transaction counts as one that nobody ended. */
static void refused_tell(const struct end *e)
{
    struct zr_inst *inst = e->inst;
    int64_t now = mono_ms(inst);
    pthread_mutex_lock(&inst->lock);
    uint32_t tell = !inst->refused_told_ms || now - inst->refused_told_ms >= TOLD_MS;
    if (tell) inst->refused_told_ms = now;
    pthread_mutex_unlock(&inst->lock);
    if (tell)
        say(inst, ZR_LOG_WARN, "the half message %lld, at %lld, was committed, and is refused by another plugin, by its delivery time perhaps; it stays open (said every 10 s at most)",
            (long long)e->table_offset, (long long)e->log_offset);
}

static const char *why_not(zr_status put)
{
    if (put == ZR_ENOTSUP) return "this message has a delay and needs the plugin feature-delay, which is not loaded; its half message stays open";
    if (put == ZR_EPERM) return "the committed message was refused by another plugin, by its delivery time perhaps; its half message stays open";
    return "the committed message could not be stored; its half message stays open";
}

static void committed(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct end *e = ctx;
    struct zr_inst *inst = e->inst;
    zr_status put = puts && n == 1 ? puts->status : status < 0 ? status : ZR_ENOMEM;
    if (put == ZR_OK || put == ZR_PENDING) {
        end_settle(e, put == ZR_OK ? puts->physical_offset + puts->size : 0);
        end_answer(e, CODE_SUCCESS, NULL);
    } else {
        end_unmark(e);
        if (put == ZR_EPERM) refused_tell(e);
        end_answer(e, code_of(put), why_not(put));
    }
    running_end(inst);
}

/* Without REAL_TOPIC and REAL_QID, as Apache stores it since 5.4. to: room for all of them. */
static uint64_t properties_strip(struct zr_span in, uint8_t *to)
{
    struct zr_str name, value;
    uint64_t pos = 0, len = 0;
    while (zl_props_next(in, &pos, &name, &value)) {
        if (zl_is(name, "REAL_TOPIC") || zl_is(name, "REAL_QID") || zl_is(name, "TRAN_PREPARED_QUEUE_OFFSET")) continue;
        memcpy(to + len, name.ptr, name.len);
        len += name.len;
        to[len++] = 1;
        if (value.len) memcpy(to + len, value.ptr, value.len);
        len += value.len;
        to[len++] = 2;
    }
    return len;
}

static void on_topic(void *ctx, const struct zr_topic *topic)
{
    *(int32_t *)ctx = topic->write_queues > 0 ? topic->write_queues : topic->read_queues;
}

/* ZR_OK: *ret is the message to store, but for its properties. */
static zr_status commit_make(struct end *e, const struct zl_record *r, const struct half *h, struct zr_msg *ret)
{
    int32_t queue_id, n_queues = 0;
    if (!h->topic.len || zl_parse_i32(h->queue, &queue_id) != ZR_OK || queue_id < 0) return ZR_EINVAL;
    if (zl_topic_unsendable(h->topic)) return ZR_EINVAL;
    if (e->inst->broker->topic(e->inst->host, h->topic, on_topic, &n_queues) != ZR_OK) return ZR_ENOENT;
    if (n_queues > 0 && queue_id >= n_queues) queue_id %= n_queues; /* it shrank meanwhile; nobody reads beyond */
    struct zr_str tags = zl_props_get(r->properties, "TAGS"), wait = zl_props_get(r->properties, "WAIT");
    *ret = (struct zr_msg){ .hdr = ZR_HDR(struct zr_msg, 0), .topic = h->topic, .body = r->body, .tags_code = zl_tags_code(tags),
                            .born_ms = r->born_ms, .prepared_offset = e->log_offset, .born_host = r->born_host, .queue_id = queue_id,
                            .flag = r->flag, .sys_flag = (r->sys_flag & ~ZR_SYSFLAG_TRANSACTION_MASK) | ZR_SYSFLAG_COMMIT,
                            .reconsume_times = r->reconsume_times, .inner_num = 1,
                            .flags = ZR_MSG_OWN | (wait.len && !zl_eq_nocase(wait, "true") ? ZR_MSG_NO_WAIT : 0) };
    return ZR_OK;
}

static void end_commit(struct end *e, const struct zl_record *r, const struct half *h)
{
    struct zr_inst *inst = e->inst;
    uint8_t small[SMALL_PROPERTIES], *props = r->properties.len + 2 <= sizeof small ? small : malloc(r->properties.len + 2);
    struct zr_msg msg;
    zr_status status = props ? commit_make(e, r, h, &msg) : ZR_ENOMEM;
    if (status == ZR_OK && running_begin(inst)) {
        msg.properties = (struct zr_span){ props, properties_strip(r->properties, props) };
        inst->store->publish(inst->host, &msg, 1, 0, committed, e);
    } else {
        end_unmark(e);
        end_answer(e, code_of(status == ZR_OK ? ZR_ECLOSED : status), status == ZR_ENOENT ? "the topic was removed" : status == ZR_OK ? "the broker is stopping" : "the half message does not say where it belongs");
    }
    if (props != small) free(props);
}

/* ---- may it be ------------------------------------------------------------------------------------------------------------ */

#define GO 0u
#define GO_DONE 1u    /* it was said before */
#define GO_REFUSE 2u  /* what was said before is being carried out */
#define GO_LOOK 3u    /* it may have been carried out before the start, or longer ago than is remembered */
#define GO_LATER 4u   /* so it may, but this thread cannot look; nothing is marked */
#define GO_AGAINST 5u /* the opposite was said before */

/* What was said about one that has no slot; ENDS_NONE: nothing that is remembered. With the lock. */
static uint32_t end_said(const struct end *e)
{
    const struct tx_table *t = &e->inst->table;
    uint32_t said = ends_state(&e->inst->ends, e->first);
    if (said != ENDS_NONE || !tx_is_decided(t, e->first)) return said;
    return tx_is_rolled_back(t, e->first) ? ENDS_ROLLED_BACK : ENDS_COMMITTED;
}

static uint32_t end_go(const struct end *e, const struct tx_slot *s)
{
    const struct zr_inst *inst = e->inst;
    uint32_t said = end_said(e);
    if ((s && s->flags & TX_ENDING) || said == ENDS_RUNNING) return GO_REFUSE;
    if (!s && said != ENDS_NONE) return (said == ENDS_COMMITTED) == (e->what == COMMIT) ? GO_DONE : GO_AGAINST;
    if (e->what != COMMIT) return GO;
    uint32_t doubt = s ? s->flags & TX_DOUBT : e->table_offset < inst->half_began || !tx_is_known(&inst->table, e->first);
    return !doubt ? GO : e->on_lane ? GO_LATER : GO_LOOK;
}

/* Marks the half message as ending: in its slot, or where words without one are noted. *ret_open: it has a slot, or may be
 * open without one. */
static uint32_t end_claim(struct end *e, uint32_t *ret_open)
{
    struct zr_inst *inst = e->inst;
    pthread_mutex_lock(&inst->lock);
    struct tx_slot *s = tx_find(&inst->table, e->first);
    uint32_t go = end_go(e, s);
    *ret_open = s || inst->loading || inst->n_lost || inst->beyond;
    if (go == GO || go == GO_LOOK) {
        if (s) s->flags |= TX_ENDING;
        else if (!ends_begin(&inst->ends, e->first)) go = GO_REFUSE;
    }
    pthread_mutex_unlock(&inst->lock);
    return go;
}

/* Apache's checks of a half record against the request; NULL: they agree. */
static const char *end_disagrees(const struct end *e, const struct zl_record *r, const struct half *h)
{
    if (!h->group.len || !zl_eq(h->group, (struct zr_str){ e->group, e->group_len })) return "The producer group wrong";
    if (r->queue_offset != e->table_offset) return "The transaction state table offset wrong";
    if (r->physical_offset != e->log_offset) return "The commit log offset wrong";
    return NULL;
}

/* Nothing is to be stored; end: where the committed message ends, if there is one. */
static void end_only(struct end *e, int64_t end)
{
    struct zr_inst *inst = e->inst;
    if (!running_begin(inst)) {
        end_unmark(e);
        end_answer(e, CODE_SERVICE_NOT_AVAILABLE, "the broker is stopping");
        return;
    }
    end_settle(e, end);
    end_answer(e, CODE_SUCCESS, NULL);
    running_end(inst);
}

/* 0: not on this thread. */
static uint32_t end_do(struct end *e, const struct zl_record *r)
{
    struct zr_inst *inst = e->inst;
    struct half h;
    int64_t end = 0;
    half_read(r->properties, &h);
    int64_t immunity = e->from_check ? -1 : half_immunity_ms(inst, &h);
    if (immunity >= 0 && wall_ms(inst) - r->born_ms > immunity) {
        end_answer(e, CODE_ILLEGAL_OPERATION, "it is too late: the message asked to be checked from its CHECK_IMMUNITY_TIME_IN_SECONDS on");
        return 1;
    }
    const char *why = end_disagrees(e, r, &h);
    if (why) {
        end_answer(e, CODE_SYSTEM_ERROR, why);
        return 1;
    }
    e->first = half_first(&h, r->queue_offset);
    uint32_t open, go = end_claim(e, &open);
    if (go == GO_LATER) return 0;
    if (go == GO_LOOK) end = committed_end(inst, r, &h, e->first);
    if (end < 0) { /* its half message stays open, and its producer is asked later */
        end_unmark(e);
        end_answer(e, CODE_SYSTEM_BUSY, "whether it was committed before cannot be read now");
        return 1;
    }
    if (go == GO_LOOK && !end && !open && rolled_back_before(inst, r, &h, e->first)) {
        end_noted(e, ENDS_ROLLED_BACK);
        go = GO_AGAINST;
    }
    if (go == GO_AGAINST) end_answer(e, CODE_ILLEGAL_OPERATION, e->what == COMMIT ? "this transaction was rolled back before" : "this transaction was committed before");
    else if (go == GO_DONE) end_answer(e, CODE_SUCCESS, NULL);
    else if (go == GO_REFUSE) end_answer(e, CODE_SYSTEM_BUSY, "this transaction is being ended by another request");
    else if (e->what == COMMIT && !end) end_commit(e, r, &h);
    else end_only(e, end);
    return 1;
}

/* ---- finding the half record ----------------------------------------------------------------------------------------------- */

/* In memory, where the request says, and not in doubt: 1, and it was answered. Else another thread has to look. */
static uint32_t end_fast(struct end *e)
{
    struct zr_inst *inst = e->inst;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    struct zr_read read = { .hdr = ZR_HDR(struct zr_read, 0), .queue = inst->half_queue, .offset = e->table_offset, .pieces = &piece, .cap_pieces = 1,
                            .max_messages = 1, .flags = ZR_READ_NOWAIT };
    struct zr_read_result got = { .hdr = ZR_HDR(struct zr_read_result, 0) };
    if (e->table_offset < 0 || inst->storage->read(inst->storage_inst, &read, &got) != ZR_OK) return 0;
    uint32_t good = got.what == ZR_READ_FOUND && got.n_pieces == 1 && piece.ptr && zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK &&
                    r.physical_offset == e->log_offset && r.queue_offset == e->table_offset;
    e->on_lane = 1;
    if (good) good = end_do(e, &r);
    if (got.pin) inst->storage->unpin(inst->storage_inst, got.pin);
    return good;
}

static void end_job(void *arg)
{
    struct end *e = arg;
    struct zr_inst *inst = e->inst;
    struct zr_piece piece;
    struct zl_record r;
    const char *why;
    uint64_t pin = 0;
    e->on_lane = 0;
    zr_status status = e->log_offset < 0 ? ZR_ENOENT : inst->storage->record_at(inst->storage_inst, e->log_offset, &piece, &pin);
    if (status == ZR_OK && piece.ptr && zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK && zl_is(r.topic, HALF_TOPIC)) end_do(e, &r);
    else if (status != ZR_OK && status != ZR_ENOENT && status != ZR_ECORRUPT) end_answer(e, CODE_SYSTEM_BUSY, "the half message cannot be read now; it stays open");
    else end_answer(e, CODE_SYSTEM_ERROR, "Find prepared transaction message failed");
    if (status == ZR_OK && pin) inst->storage->unpin(inst->storage_inst, pin);
    running_end(inst);
}

static const char *end_read(const struct zr_request *req, struct end *e)
{
    struct zr_str group = zl_field(req->fields, req->n_fields, "producerGroup");
    if (group.len >= sizeof e->group) return "The producer group wrong";
    if (group.len) memcpy(e->group, group.ptr, group.len);
    e->group_len = group.len;
    if (zl_field_i64(req->fields, req->n_fields, "tranStateTableOffset", &e->table_offset) != ZR_OK) return "the custom field <tranStateTableOffset> is null or no number";
    if (zl_field_i64(req->fields, req->n_fields, "commitLogOffset", &e->log_offset) != ZR_OK) return "the custom field <commitLogOffset> is null or no number";
    if (zl_field_i32(req->fields, req->n_fields, "commitOrRollback", &e->what) != ZR_OK) return "the custom field <commitOrRollback> is null or no number";
    e->from_check = zl_field_bool(req->fields, req->n_fields, "fromTransactionCheck", 0);
    return NULL;
}

static zr_status refuse(struct zr_inst *inst, const struct zr_request *req, int32_t code, const char *why)
{
    answer_token(inst, req->token, code, why);
    return ZR_OK;
}

zr_status end_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct end head = { .inst = inst };
    const char *why = end_read(req, &head);
    if (!inst->master) return refuse(inst, req, CODE_SLAVE_NOT_AVAILABLE, "a slave does not end transactions");
    if (why) return refuse(inst, req, CODE_SYSTEM_ERROR, why);
    if (head.what != COMMIT && head.what != ROLLBACK && head.what != UNKNOWN) return refuse(inst, req, CODE_SYSTEM_ERROR, "commitOrRollback field wrong");
    if (head.what == UNKNOWN) { /* "unknown" gets no answer, as with Apache */
        struct zr_token *held = inst->reply->hold(inst->host, req->token);
        if (held) inst->reply->drop(inst->host, held);
        return ZR_OK;
    }
    struct end *e = malloc(sizeof *e);
    if (!e) return refuse(inst, req, CODE_SYSTEM_BUSY, "memory ran out");
    *e = head;
    e->token = inst->reply->hold(inst->host, req->token);
    if (!e->token) {
        free(e);
        return refuse(inst, req, CODE_SYSTEM_BUSY, "memory ran out");
    }
    if (end_fast(e)) return ZR_OK;
    if (!running_begin(inst)) {
        end_answer(e, CODE_SERVICE_NOT_AVAILABLE, "the broker is stopping");
    } else if (inst->work->run(inst->host, end_job, e) != ZR_OK) {
        running_end(inst);
        end_answer(e, CODE_SYSTEM_BUSY, "the worker pool is busy; the producer will be asked");
    }
    return ZR_OK;
}
