/* SPDX-License-Identifier: Apache-2.0 */
/* progress.c - how far the half and the op queue are done with: the consumer offsets of CID_RMQ_SYS_TRANS, Apache's place for it.
 *
 * What stays true: an offset is set only when what let it go on (the committed message, the one written anew) is on the disk,
 * whatever the flush mode; so a power cut asks some producers again and loses no message. Setting begins 0.2 s after something was
 * settled; while nothing is, nothing runs. */
#include "transaction.h"
#include "zl/text.h"

#define SAVE_MS 200
#define WAIT_MS 50 /* until the disk has what was written */

static void save_job(void *arg);
static void save_in(struct zr_inst *inst, int64_t ms);

static void offsets_put(struct zr_inst *inst, int64_t half, int64_t op)
{
    struct zr_str group = ZR_STR(OFFSETS_GROUP);
    inst->broker->put_offset(inst->host, group, (struct zr_str)ZR_STR(HALF_TOPIC), 0, half);
    inst->broker->put_offset(inst->host, group, (struct zr_str)ZR_STR(OP_TOPIC), 0, op);
}

/* With the lock. */
static void snap_take(struct zr_inst *inst)
{
    inst->snap_half = tx_advance(&inst->table);
    inst->snap_op = op_marks_pass(&inst->op_marks, inst->snap_half);
    inst->snap_end = inst->copied_end;
    inst->snap_taken = 1;
}

/* With the lock: something could be saved. */
static uint32_t is_changed(struct zr_inst *inst)
{
    int64_t half = tx_advance(&inst->table);
    return half != inst->saved_half || op_marks_pass(&inst->op_marks, half) != inst->saved_op;
}

static void save_fired(void *arg)
{
    struct zr_inst *inst = arg;
    uint32_t go = running_begin(inst);
    if (go && inst->work->run(inst->host, save_job, inst) == ZR_OK) return;
    if (go) {
        save_in(inst, WAIT_MS);
        running_end(inst);
    }
}

static void save_in(struct zr_inst *inst, int64_t ms)
{
    uint64_t id = 0;
    zr_status status = inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + ms * 1000000, save_fired, inst, &id);
    pthread_mutex_lock(&inst->lock);
    if (status == ZR_OK) inst->save_timer = id;
    else inst->saving = 0; /* the next one that is settled asks again */
    pthread_mutex_unlock(&inst->lock);
}

static uint32_t is_flushed(struct zr_inst *inst)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    inst->storage->info(inst->storage_inst, &info);
    if (info.positions.flushed >= inst->snap_end) return 1;
    inst->storage->want_flushed(inst->storage_inst, inst->snap_end);
    return 0;
}

static void save_job(void *arg)
{
    struct zr_inst *inst = arg;
    int64_t again;
    pthread_mutex_lock(&inst->lock);
    if (!inst->snap_taken) snap_take(inst);
    pthread_mutex_unlock(&inst->lock);
    uint32_t flushed = is_flushed(inst);
    if (flushed) offsets_put(inst, inst->snap_half, inst->snap_op);
    pthread_mutex_lock(&inst->lock);
    if (flushed) {
        inst->snap_taken = 0;
        inst->saved_half = inst->snap_half;
        inst->saved_op = inst->snap_op;
    }
    again = inst->stopping ? 0 : !flushed ? WAIT_MS : is_changed(inst) ? SAVE_MS : 0;
    if (!again) inst->saving = 0;
    pthread_mutex_unlock(&inst->lock);
    if (again) save_in(inst, again);
    running_end(inst);
}

void progress(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->lock);
    uint32_t begin = !inst->saving && !inst->stopping && is_changed(inst);
    if (begin) inst->saving = 1;
    pthread_mutex_unlock(&inst->lock);
    if (begin) save_in(inst, SAVE_MS);
}

void progress_now(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->lock);
    snap_take(inst);
    pthread_mutex_unlock(&inst->lock);
    offsets_put(inst, inst->snap_half, inst->snap_op);
}
