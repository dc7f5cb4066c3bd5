/* SPDX-License-Identifier: Apache-2.0 */
/* offsets.c - config/delayOffset.json: by level, the next queue offset to deliver. Apache's file.
 *
 * What stays true: an offset is saved only when the messages delivered before it are on the disk, whatever the flush mode; so a
 * crash or a power cut loses none. Saving begins 0.2 s after a delivery. What left since, and all that left when the document and
 * its .bak are lost, is found in the log (deliver.c). */
#include <stdlib.h>

#include "delay.h"
#include "zl/json.h"
#include "zl/text.h"

#define DOCUMENT "config/delayOffset.json"
#define SAVE_NS (200LL * 1000000)
#define WAIT_NS (50LL * 1000000)    /* until the disk has what was delivered */
#define AGAIN_NS (1000LL * 1000000) /* after a write failed */
#define MAX_DOCUMENT (64u * 1024)

static void save_job(void *arg);
static void save_in(struct zr_inst *inst, int64_t ns);

/* Those before their level's offset; what lies behind it comes up by itself. */
static void unread_load(struct zr_inst *inst, const struct zl_json *levels)
{
    inst->n_aside = 0;
    for (const struct zl_json *e = levels && levels->kind == ZL_JSON_OBJECT ? levels->child : NULL; e; e = e->next) {
        int32_t level;
        if (e->kind != ZL_JSON_ARRAY || zl_parse_i32(e->key, &level) != ZR_OK || level < 1 || level > (int32_t)MAX_LEVELS) continue;
        for (const struct zl_json *o = e->child; o; o = o->next) {
            int64_t offset = zl_json_i64(o, -1);
            if (offset >= 0 && offset < inst->offsets[level - 1]) aside_load(&inst->levels[level - 1], offset);
        }
    }
}

static zr_status accept(void *ctx, struct zr_span bytes)
{
    struct zr_inst *inst = ctx;
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at = 0;
    if (zl_json_parse((struct zr_str){ (const char *)bytes.ptr, bytes.len }, &doc, &root, &at) != ZR_OK) return ZR_ECORRUPT;
    const struct zl_json *table = zl_json_get(root, "offsetTable");
    if (root->kind != ZL_JSON_OBJECT || (table && table->kind != ZL_JSON_OBJECT)) {
        zl_json_free(doc);
        return ZR_ECORRUPT;
    }
    for (uint32_t i = 0; i < MAX_LEVELS; i++) inst->offsets[i] = -1;
    for (const struct zl_json *e = table ? table->child : NULL; e; e = e->next) {
        int32_t level;
        int64_t offset = zl_json_i64(e, -1);
        if (zl_parse_i32(e->key, &level) == ZR_OK && level >= 1 && level <= (int32_t)MAX_LEVELS && offset >= 0)
            inst->offsets[level - 1] = offset;
    }
    unread_load(inst, zl_json_get(root, "unread"));
    inst->counter = zl_json_get_i64(zl_json_get(root, "dataVersion"), "counter", 0);
    zl_json_free(doc);
    return ZR_OK;
}

zr_status offsets_load(struct zr_inst *inst)
{
    for (uint32_t i = 0; i < MAX_LEVELS; i++) inst->offsets[i] = -1;
    zr_status status = inst->state->read(inst->host, zl_str(DOCUMENT), accept, inst);
    if (status == ZR_OK || status == ZR_ENOENT) return ZR_OK;
    for (uint32_t i = 0; i < MAX_LEVELS; i++) inst->offsets[i] = -1;
    inst->n_aside = 0;
    inst->offsets_lost = 1;
    say(inst, ZR_LOG_ERROR, "%s and its .bak cannot be read: how far each delay level got is looked for in the log; what is not found there comes again", DOCUMENT);
    return ZR_OK;
}

/* Those of the snapshot. */
static void unread_print(struct zr_inst *inst, struct zl_jw *w)
{
    if (!inst->n_snap_aside) return;
    zl_jw_key(w, zl_str("unread"));
    zl_jw_begin(w, '{');
    for (uint32_t level = 1; level <= MAX_LEVELS; level++) {
        uint32_t n = 0;
        for (uint32_t i = 0; i < inst->n_snap_aside; i++) {
            if (inst->snap_aside[i].level != level) continue;
            if (n++ == 0) {
                zl_jw_key_int(w, (int64_t)level);
                zl_jw_begin(w, '[');
            }
            zl_jw_i64(w, inst->snap_aside[i].offset);
        }
        if (n) zl_jw_end(w, ']');
    }
    zl_jw_end(w, '}');
}

static void print(struct zr_inst *inst, const int64_t *offsets, uint32_t with_unread, struct zl_buf *out)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 1);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("dataVersion"));
    zl_jw_begin(&w, '{');
    zl_jw_ki64(&w, "counter", __atomic_load_n(&inst->counter, __ATOMIC_RELAXED));
    zl_jw_ki64(&w, "stateVersion", 0);
    zl_jw_ki64(&w, "timestamp", wall_ms(inst));
    zl_jw_end(&w, '}');
    zl_jw_key(&w, zl_str("offsetTable"));
    zl_jw_begin(&w, '{');
    for (uint32_t i = 0; i < MAX_LEVELS; i++) {
        if (offsets[i] < 0) continue;
        zl_jw_key_int(&w, i + 1);
        zl_jw_i64(&w, offsets[i]);
    }
    zl_jw_end(&w, '}');
    if (with_unread) unread_print(inst, &w);
    zl_jw_end(&w, '}');
}

/* A level that never delivered has no entry, as in Apache's file. */
static int64_t wanted(const struct level *l) { return l->cursor > 0 ? l->cursor : -1; }

void offsets_print(struct zr_inst *inst, struct zl_buf *out)
{
    int64_t offsets[MAX_LEVELS];
    for (uint32_t i = 0; i < MAX_LEVELS; i++) offsets[i] = -1;
    pthread_mutex_lock(&inst->lock);
    for (uint32_t i = 0; i < MAX_LEVELS; i++) offsets[i] = inst->levels[i].served ? wanted(&inst->levels[i]) : -1;
    pthread_mutex_unlock(&inst->lock);
    print(inst, offsets, 0, out);
}

/* With the lock. */
static void snap_take(struct zr_inst *inst)
{
    for (uint32_t i = 0; i < MAX_LEVELS; i++) inst->snap[i] = inst->offsets[i];
    for (uint32_t i = 0; i < MAX_LEVELS; i++)
        if (inst->levels[i].served) inst->snap[i] = wanted(&inst->levels[i]);
    inst->n_snap_aside = inst->n_aside;
    inst->snap_aside_changes = inst->aside_changes;
    for (uint32_t i = 0; i < inst->n_aside; i++) {
        inst->snap_aside[i].offset = inst->aside[i].offset;
        inst->snap_aside[i].level = inst->aside[i].level;
    }
    inst->snap_end = inst->delivered_end;
    inst->snap_taken = 1;
}

/* Only one thread at a time is here: the job, or main after the drain. */
static zr_status snap_write(struct zr_inst *inst)
{
    struct zl_buf out;
    __atomic_fetch_add(&inst->counter, 1, __ATOMIC_RELAXED);
    zl_buf_init(&out, MAX_DOCUMENT);
    print(inst, inst->snap, 1, &out);
    zr_status status = out.failed ? ZR_ENOMEM : inst->state->write(inst->host, zl_str(DOCUMENT), zl_buf_as_span(&out));
    zl_buf_free(&out);
    if (status == ZR_OK) {
        for (uint32_t i = 0; i < MAX_LEVELS; i++) inst->offsets[i] = inst->snap[i];
        inst->aside_saved = inst->snap_aside_changes;
    } else {
        say(inst, ZR_LOG_WARN, "%s cannot be written; if the broker stopped now, messages delivered since would come again", DOCUMENT);
    }
    return status;
}

static uint32_t is_changed(const struct zr_inst *inst)
{
    if (inst->aside_changes != inst->aside_saved) return 1;
    for (uint32_t i = 0; i < MAX_LEVELS; i++)
        if (inst->levels[i].served && wanted(&inst->levels[i]) != inst->offsets[i]) return 1;
    return 0;
}

static void save_fired(void *arg)
{
    struct zr_inst *inst = arg;
    pthread_mutex_lock(&inst->lock);
    uint32_t go = !inst->stopping;
    if (go) inst->n_running++;
    else inst->saving = 0;
    pthread_mutex_unlock(&inst->lock);
    if (go && inst->work->run(inst->host, save_job, inst) != ZR_OK) {
        save_in(inst, WAIT_NS);
        running_end(inst);
    }
}

static void save_in(struct zr_inst *inst, int64_t ns)
{
    uint64_t id = 0;
    zr_status status = inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + ns, save_fired, inst, &id);
    pthread_mutex_lock(&inst->lock);
    if (status == ZR_OK) inst->save_timer = id;
    else inst->saving = 0; /* the next delivery asks again */
    pthread_mutex_unlock(&inst->lock);
}

static void save_job(void *arg)
{
    struct zr_inst *inst = arg;
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    int64_t again = 0;
    pthread_mutex_lock(&inst->lock);
    if (!inst->snap_taken) snap_take(inst);
    pthread_mutex_unlock(&inst->lock);
    inst->storage->info(inst->storage_inst, &info);
    if (info.positions.flushed < inst->snap_end) {
        inst->storage->want_flushed(inst->storage_inst, inst->snap_end);
        again = WAIT_NS;
    } else if (snap_write(inst) != ZR_OK) {
        again = AGAIN_NS;
    }
    pthread_mutex_lock(&inst->lock);
    if (!again) {
        inst->snap_taken = 0;
        again = is_changed(inst) ? SAVE_NS : 0;
    }
    if (inst->stopping) again = 0;
    if (!again) inst->saving = 0;
    pthread_mutex_unlock(&inst->lock);
    if (again) save_in(inst, again);
    running_end(inst);
}

void offsets_changed(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->lock);
    uint32_t begin = !inst->saving && !inst->stopping;
    if (begin) inst->saving = 1;
    pthread_mutex_unlock(&inst->lock);
    if (begin) save_in(inst, SAVE_NS);
}

static void last_job(void *arg)
{
    struct zr_inst *inst = arg;
    pthread_mutex_lock(&inst->lock);
    uint32_t changed = is_changed(inst);
    if (changed) snap_take(inst);
    pthread_mutex_unlock(&inst->lock);
    if (changed) snap_write(inst);
    inst->drained.call(inst->drained.ctx, ZR_OK);
}

/* The storage flushes all that it has when it stops, right after this; before that moment a crash would repeat messages only if
 * it lost them too. */
void offsets_save_last(struct zr_inst *inst)
{
    if (!inst->delivers || inst->work->run(inst->host, last_job, inst) != ZR_OK) inst->drained.call(inst->drained.ctx, ZR_OK);
}
