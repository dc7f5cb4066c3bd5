/* SPDX-License-Identifier: Apache-2.0 */
/* show.c - the verbs "transaction stats" and "transaction list". */
#include <stdlib.h>

#include "transaction.h"
#include "zl/json.h"
#include "zl/text.h"

#define LIST_DEFAULT 100
#define LIST_MAX 10000
#define MAX_TEXT (16u << 20)

static zr_status raise(struct zr_inst *inst, zr_status status, const char *why)
{
    const struct zr_err_v1 *err = inst->host->query(inst->host, ZR_SVC_ERR);
    struct zr_error error = { ZR_HDR(struct zr_error, 0), status, 0, 0, 0, zl_str(why) };
    if (err) err->raise(inst->host, &error);
    return status;
}

static zr_status write_out(struct zl_buf *out, struct zr_writer to)
{
    zr_status status = out->failed ? ZR_ENOMEM : ZR_OK;
    if (status == ZR_OK) to.write(to.ctx, zl_buf_as_str(out));
    zl_buf_free(out);
    return status;
}

static zr_status show_stats(struct zr_inst *inst, const struct zr_str *args, uint32_t n_args, struct zr_writer to)
{
    struct zl_buf out;
    struct zl_jw w;
    (void)args;
    if (n_args) return raise(inst, ZR_EINVAL, "usage: transaction stats");
    zl_buf_init(&out, MAX_TEXT);
    zl_jw_init(&w, &out, 0);
    int64_t now = mono_ms(inst);
    pthread_mutex_lock(&inst->lock);
    const struct tx_table *t = &inst->table;
    const struct tx_slot *top = tx_top(t);
    zl_jw_begin(&w, '{');
    zl_jw_ki64(&w, "open", t->n);
    zl_jw_ki64(&w, "max_open", t->max_open);
    zl_jw_kbool(&w, "loading", inst->loading);
    zl_jw_ki64(&w, "memory_bytes", (int64_t)tx_memory(t));
    zl_jw_ki64(&w, "half_begin", t->base);
    zl_jw_ki64(&w, "half_end", t->next);
    zl_jw_ki64(&w, "half_saved", inst->saved_half);
    zl_jw_ki64(&w, "op_saved", inst->saved_op);
    zl_jw_ki64(&w, "ops_waiting_bytes", (int64_t)inst->op_text.len);
    zl_jw_ki64(&w, "next_check_in_ms", top ? top->due_ms - now : -1);
    zl_jw_end(&w, '}');
    pthread_mutex_unlock(&inst->lock);
    return write_out(&out, to);
}

static int by_first(const void *a, const void *b)
{
    const struct tx_slot *x = a, *y = b;
    return (x->first > y->first) - (x->first < y->first);
}

/* A copy of up to n slots, those that are asked about first; NULL: memory ran out. */
static struct tx_slot *slots_copy(struct zr_inst *inst, uint32_t *n)
{
    struct tx_slot *copy = calloc(*n, sizeof *copy);
    if (!copy) return NULL;
    pthread_mutex_lock(&inst->lock);
    const struct tx_table *t = &inst->table;
    if (*n > t->n) *n = t->n;
    for (uint32_t i = 0; i < *n; i++) copy[i] = t->slots[t->heap[i]];
    pthread_mutex_unlock(&inst->lock);
    qsort(copy, *n, sizeof *copy, by_first);
    return copy;
}

static void show_slot(struct zr_inst *inst, struct zl_jw *w, const struct tx_slot *s)
{
    struct zr_piece piece;
    struct zl_record r;
    struct half h = { .group = { NULL, 0 } };
    const char *why;
    uint64_t pin = 0;
    zr_status status = inst->storage->record_at(inst->storage_inst, s->physical, &piece, &pin);
    uint32_t good = status == ZR_OK && piece.ptr && zl_record_parse((struct zr_span){ piece.ptr, piece.len }, 0, &r, &why) == ZR_OK;
    if (good) half_read(r.properties, &h);
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "topic", h.topic);
    zl_jw_kstr(w, "group", h.group);
    zl_jw_kstr(w, "unique_key", h.unique);
    zl_jw_ki64(w, "first_offset", s->first);
    zl_jw_ki64(w, "offset", s->current);
    zl_jw_ki64(w, "physical", s->physical);
    zl_jw_ki64(w, "checks", s->times);
    zl_jw_ki64(w, "age_ms", good ? wall_ms(inst) - r.born_ms : -1);
    zl_jw_ki64(w, "next_check_in_ms", s->due_ms - mono_ms(inst));
    zl_jw_end(w, '}');
    if (status == ZR_OK && pin) inst->storage->unpin(inst->storage_inst, pin);
}

static zr_status show_list(struct zr_inst *inst, const struct zr_str *args, uint32_t n_args, struct zr_writer to)
{
    struct zl_buf out;
    struct zl_jw w;
    int32_t limit = LIST_DEFAULT;
    if (n_args > 1 || (n_args == 1 && (zl_parse_i32(args[0], &limit) != ZR_OK || limit < 1 || limit > LIST_MAX)))
        return raise(inst, ZR_EINVAL, "usage: transaction list [LIMIT], 1 to 10000");
    uint32_t n = (uint32_t)limit;
    struct tx_slot *slots = slots_copy(inst, &n);
    if (!slots) return raise(inst, ZR_ENOMEM, "memory ran out");
    zl_buf_init(&out, MAX_TEXT);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '[');
    for (uint32_t i = 0; i < n && inst->storage; i++) show_slot(inst, &w, &slots[i]);
    zl_jw_end(&w, ']');
    free(slots);
    return write_out(&out, to);
}

static const struct zr_verb verbs[] = {
    { .hdr = ZR_HDR(struct zr_verb, 0), .name = "transaction stats", .doc = "How many transactions are open, where the queues stand, when a producer is asked next.",
      .usage = "", .flags = ZR_COMMAND_READS, .run = show_stats },
    { .hdr = ZR_HDR(struct zr_verb, 0), .name = "transaction list", .doc = "Open transactions with topic, producer group, age and number of checks (100 unless told, 10,000 at most).",
      .usage = "[LIMIT]", .flags = ZR_COMMAND_READS, .run = show_list },
};
const struct zr_commands_v1 tx_commands = { .hdr = ZR_HDR(struct zr_commands_v1, 0), .verbs = verbs, .n_verbs = 2 };
