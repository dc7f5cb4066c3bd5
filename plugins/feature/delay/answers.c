/* SPDX-License-Identifier: Apache-2.0 */
/* answers.c - what feature-delay tells: GET_ALL_DELAY_OFFSET 45, GET_TIMER_CHECK_POINT 60 and GET_TIMER_METRICS 61 (Apache's slaves and
 * tools ask for them), and the operators' verb "delay stats". */
#include "timer.h"
#include "zarya/commands.h"
#include "zl/json.h"
#include "zl/text.h"

#define MAX_ANSWER (15u * 1024 * 1024)
#define TIMER_CHECK_BODY 56u

static zr_status answer_with(struct zr_inst *inst, const struct zr_request *req, struct zr_span body, const char *failed)
{
    struct zr_command answer = { .hdr = ZR_HDR(struct zr_command, 0), .code = failed ? 1 : 0, .body = body, .remark = zl_str(failed) };
    return inst->reply->answer(inst->host, req->token, &answer);
}

zr_status delay_offsets_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf out;
    zl_buf_init(&out, MAX_ANSWER);
    offsets_print(inst, &out);
    zr_status status = answer_with(inst, req, zl_buf_as_span(&out), out.failed ? "memory ran out" : NULL);
    zl_buf_free(&out);
    return status;
}

zr_status timer_check_handle(struct zr_inst *inst, const struct zr_request *req)
{
    uint8_t bytes[CHECK_BYTES];
    struct timer *t = inst->timed;
    if (!t || !inst->delivers) return answer_with(inst, req, (struct zr_span){ NULL, 0 }, "The checkpoint is null");
    pthread_mutex_lock(&t->count_lock);
    struct timercheck c = { .read_ms = t->shown_read_ms, .log_flushed = t->shown_log, .queue_offset = t->shown_cursor, .master_queue_offset = t->shown_cursor,
                            .timestamp = wall_ms(inst), .counter = t->n_enqueued + t->n_delivered };
    pthread_mutex_unlock(&t->count_lock);
    timercheck_encode(bytes, &c);
    return answer_with(inst, req, (struct zr_span){ bytes, TIMER_CHECK_BODY }, NULL);
}

zr_status timer_metrics_handle(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf out;
    if (!inst->timed || !inst->delivers) return answer_with(inst, req, (struct zr_span){ NULL, 0 }, "The timer message store is null");
    zl_buf_init(&out, MAX_ANSWER);
    metrics_print(inst->timed, &out, 0);
    zr_status status = answer_with(inst, req, zl_buf_as_span(&out), out.failed ? "memory ran out" : NULL);
    zl_buf_free(&out);
    return status;
}

/* ---- "delay stats" --------------------------------------------------------------------------------------------------------- */

static void levels_print(struct zr_inst *inst, struct zl_jw *w)
{
    zl_jw_key(w, zl_str("levels"));
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < MAX_LEVELS; i++) {
        struct level *l = &inst->levels[i];
        pthread_mutex_lock(&inst->lock);
        uint32_t served = l->served;
        int64_t next = l->cursor, waiting = l->known_end - l->cursor;
        pthread_mutex_unlock(&inst->lock);
        if (!served) continue;
        zl_jw_begin(w, '{');
        zl_jw_ki64(w, "level", l->number);
        if (i < inst->n_levels) zl_jw_ki64(w, "delay_ms", l->delay_ms); /* one that is not configured any more has none */
        zl_jw_ki64(w, "next", next);
        zl_jw_ki64(w, "waiting", waiting > 0 ? waiting : 0);
        zl_jw_end(w, '}');
    }
    zl_jw_end(w, ']');
}

static void timed_print(struct timer *t, struct zl_jw *w)
{
    int64_t v[11];
    static const char *const names[11] = { "pending", "in_memory", "slots_at_work", "delivered_up_to_ms", "next_in_queue", "taken", "delivered",
                                           "rolled", "recalled", "dropped", "late_max_ms" };
    pthread_mutex_lock(&t->count_lock);
    const int64_t now[11] = { t->shown_pending, t->shown_heap, t->shown_loaded, t->shown_read_ms, t->shown_cursor, t->n_enqueued, t->n_delivered,
                              t->n_rolled, t->n_recalled, t->n_dropped, t->late_max_ms };
    for (uint32_t i = 0; i < 11; i++) v[i] = now[i];
    pthread_mutex_unlock(&t->count_lock);
    zl_jw_key(w, zl_str("timed"));
    zl_jw_begin(w, '{');
    for (uint32_t i = 0; i < 11; i++) zl_jw_ki64(w, names[i], v[i]);
    zl_jw_end(w, '}');
}

zr_status stats_verb(struct zr_inst *inst, const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    struct zl_buf text;
    struct zl_jw w;
    (void)args;
    (void)n_args;
    zl_buf_init(&text, MAX_ANSWER);
    zl_jw_init(&w, &text, 0);
    zl_jw_begin(&w, '{');
    levels_print(inst, &w);
    if (inst->timed && inst->delivers) timed_print(inst->timed, &w);
    zl_jw_end(&w, '}');
    zr_status status = text.failed ? ZR_ENOMEM : ZR_OK;
    if (status == ZR_OK) out.write(out.ctx, zl_buf_as_str(&text));
    zl_buf_free(&text);
    return status;
}
