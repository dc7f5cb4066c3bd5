/* SPDX-License-Identifier: Apache-2.0 */
/* ops.c - what needs no attention any more is written to the op queue: offsets are gathered for op_interval, or until their text
 * is op_size long, and written as one message.
 *
 * What stays true:
 *   1. Every offset that was settled is written, once, unless the storage refuses for so long that MAX_OP_TEXT is not enough;
 *      then the log says so, and after a restart those producers may be asked again.
 *   2. While nothing waits, no timer runs. */
#include <stdlib.h>

#include "transaction.h"
#include "zl/text.h"

struct op_write {
    struct zr_inst *inst;
    struct zl_buf text, rolled;
    int64_t highest;
};

static void op_write_free(struct op_write *w)
{
    zl_buf_free(&w->text);
    zl_buf_free(&w->rolled);
    free(w);
}

/* Of one that finds no room it is only known that it ended (found.c makes what it can of that). */
void op_rolled_back(struct zr_inst *inst, int64_t first)
{
    char number[24];
    uint32_t len = zl_print_i64(number, first);
    number[len++] = ',';
    if (inst->op_rolled.len + len <= MAX_OP_ROLLED) zl_buf_add(&inst->op_rolled, number, len);
    inst->op_rolled.failed = 0;
}

void op_add(struct zr_inst *inst, int64_t offset)
{
    struct zl_buf *text = &inst->op_text;
    char number[24];
    uint32_t len = zl_print_i64(number, offset);
    number[len++] = ',';
    zl_buf_add(text, number, len);
    if (text->failed) { /* MAX_OP_TEXT: the storage refused for long */
        text->failed = 0;
        inst->op_failing = 2;
    }
    if (offset > inst->op_highest) inst->op_highest = offset;
}

static void op_fired(void *arg)
{
    struct zr_inst *inst = arg;
    pthread_mutex_lock(&inst->lock);
    inst->op_armed = 0;
    pthread_mutex_unlock(&inst->lock);
    op_flush(inst);
}

/* op_armed is 1 already. */
static void op_arm(struct zr_inst *inst)
{
    uint64_t id = 0;
    zr_status status = inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + inst->settings->op_interval * 1000000, op_fired, inst, &id);
    pthread_mutex_lock(&inst->lock);
    if (status == ZR_OK) inst->op_timer = id;
    else inst->op_armed = 0; /* the next one asks again */
    pthread_mutex_unlock(&inst->lock);
}

void op_settle(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->lock);
    uint32_t due = (inst->op_text.len >= (uint64_t)inst->settings->op_size || inst->op_rolled.len > MAX_OP_ROLLED / 2) && !inst->op_failing;
    uint32_t arm = !due && inst->op_text.len && !inst->op_armed && !inst->stopping;
    if (arm) inst->op_armed = 1;
    pthread_mutex_unlock(&inst->lock);
    if (due) op_flush(inst);
    if (arm) op_arm(inst);
}

/* It could not be written: its text waits again. */
static void op_again(struct op_write *w)
{
    struct zr_inst *inst = w->inst;
    pthread_mutex_lock(&inst->lock);
    uint32_t told = inst->op_failing;
    zl_buf_add(&inst->op_text, w->text.ptr, w->text.len);
    uint32_t lost = inst->op_text.failed;
    inst->op_text.failed = 0;
    if (inst->op_rolled.len + w->rolled.len <= MAX_OP_ROLLED) zl_buf_add(&inst->op_rolled, w->rolled.ptr, w->rolled.len);
    inst->op_rolled.failed = 0;
    if (w->highest > inst->op_highest) inst->op_highest = w->highest;
    inst->op_failing = lost ? 2 : told ? told : 1;
    pthread_mutex_unlock(&inst->lock);
    if (!told) say(inst, ZR_LOG_WARN, "ended transactions cannot be noted in %s now; it is tried again", OP_TOPIC);
    if (lost && told != 2) say(inst, ZR_LOG_ERROR, "too many ended transactions could not be noted: after a restart some of their producers are asked again");
    op_settle(inst);
}

static void op_written(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n)
{
    struct op_write *w = ctx;
    struct zr_inst *inst = w->inst;
    (void)status;
    if (puts && n == 1 && puts->status == ZR_OK) {
        pthread_mutex_lock(&inst->lock);
        op_marks_add(&inst->op_marks, puts->queue_offset, w->highest);
        inst->op_failing = 0;
        pthread_mutex_unlock(&inst->lock);
        progress(inst);
    } else {
        op_again(w);
    }
    op_write_free(w);
    running_end(inst);
}

static struct op_write *op_take(struct zr_inst *inst)
{
    struct op_write *w = calloc(1, sizeof *w);
    if (!w) return NULL;
    w->inst = inst;
    pthread_mutex_lock(&inst->lock);
    w->text = inst->op_text;
    w->highest = inst->op_highest;
    zl_buf_init(&inst->op_text, MAX_OP_TEXT);
    w->rolled = inst->op_rolled;
    zl_buf_init(&inst->op_rolled, MAX_OP_ROLLED);
    inst->op_highest = -1;
    if (w->text.len) inst->n_running++;
    pthread_mutex_unlock(&inst->lock);
    if (w->text.len) return w;
    op_write_free(w);
    return NULL;
}

void op_flush(struct zr_inst *inst)
{
    struct op_write *w = op_take(inst);
    struct zl_buf props;
    if (!w) return;
    zl_buf_init(&props, MAX_OP_ROLLED + 256);
    zl_props_add(&props, zl_str("TAGS"), zl_str("d"));
    zl_props_add(&props, zl_str("WAIT"), zl_str("false"));
    if (w->rolled.len) zl_props_add(&props, zl_str(OP_ROLLED), zl_buf_as_str(&w->rolled));
    struct zr_msg msg = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = ZR_STR(OP_TOPIC), .body = zl_buf_as_span(&w->text), .properties = zl_buf_as_span(&props),
                          .tags_code = zl_tags_code(zl_str("d")), .born_ms = wall_ms(inst), .flags = ZR_MSG_NO_WAIT | ZR_MSG_OWN, .inner_num = 1 };
    if (props.failed) {
        op_again(w);
        op_write_free(w);
        running_end(inst);
    } else {
        inst->store->publish(inst->host, &msg, 1, ZR_PUBLISH_NO_HOOKS, op_written, w);
    }
    zl_buf_free(&props);
}
