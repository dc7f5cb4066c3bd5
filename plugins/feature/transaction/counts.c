/* SPDX-License-Identifier: Apache-2.0 */
/* counts.c - see counts.h. The document is Apache's, one line; it is written when something changed, at most every count_interval,
 * and at the end. What it says is not read back: at a start the open transactions are counted. */
#include <stdlib.h>

#include "transaction.h"
#include "zl/json.h"
#include "zl/text.h"

#define DOCUMENT "config/transactionMetrics"
#define MAX_DOCUMENT (2u << 20)

uint16_t counts_topic(struct counts *c, struct zr_str topic)
{
    for (uint32_t i = c->n; i-- > 1;) /* the latest are the likeliest */
        if (zl_is(topic, c->all[i].topic)) return (uint16_t)i;
    if (!topic.len || c->n >= COUNTS_MAX) return 0;
    if (c->n + 1 >= c->cap) {
        uint32_t cap = c->cap ? c->cap * 2 : 16;
        struct count *all = realloc(c->all, cap * sizeof *all);
        if (!all) return 0;
        c->all = all;
        c->cap = cap;
        if (!c->n) c->all[c->n++] = (struct count){ .topic = NULL };
    }
    char *name = zl_dup(topic);
    if (!name) return 0;
    c->all[c->n] = (struct count){ .topic = name };
    return (uint16_t)c->n++;
}

void counts_add(struct counts *c, uint16_t topic, int64_t delta, int64_t now_ms)
{
    if (topic >= c->n) return;
    c->all[topic].open += delta;
    c->all[topic].changed_ms = now_ms;
    c->changed = 1;
}

void counts_free(struct counts *c)
{
    for (uint32_t i = 1; i < c->n; i++) free(c->all[i].topic);
    free(c->all);
    *c = (struct counts){ .n = 0 };
}

void counts_print(const struct counts *c, int64_t now_ms, struct zl_buf *out)
{
    struct zl_jw w;
    zl_jw_init(&w, out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("dataVersion"));
    zl_jw_begin(&w, '{');
    zl_jw_ki64(&w, "counter", c->version);
    zl_jw_ki64(&w, "stateVersion", 0);
    zl_jw_ki64(&w, "timestamp", now_ms);
    zl_jw_end(&w, '}');
    zl_jw_key(&w, zl_str("transactionCount"));
    zl_jw_begin(&w, '{');
    for (uint32_t i = 1; i < c->n; i++) {
        zl_jw_key(&w, zl_str(c->all[i].topic));
        zl_jw_begin(&w, '{');
        zl_jw_ki64(&w, "count", c->all[i].open);
        zl_jw_ki64(&w, "timeStamp", c->all[i].changed_ms);
        zl_jw_end(&w, '}');
    }
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
}

/* ---- the document --------------------------------------------------------------------------------------------------------- */

static zr_status version_take(void *ctx, struct zr_span bytes)
{
    struct counts *c = ctx;
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at = 0;
    if (zl_json_parse((struct zr_str){ (const char *)bytes.ptr, bytes.len }, &doc, &root, &at) != ZR_OK) return ZR_ECORRUPT;
    c->version = zl_json_get_i64(zl_json_get(root, "dataVersion"), "counter", 0);
    zl_json_free(doc);
    return ZR_OK;
}

/* Nothing depends on it: what cannot be read begins anew. */
void counts_load(struct zr_inst *inst) { inst->state->read(inst->host, zl_str(DOCUMENT), version_take, &inst->counts); }

void counts_save_now(struct zr_inst *inst)
{
    struct zl_buf out;
    zl_buf_init(&out, MAX_DOCUMENT);
    pthread_mutex_lock(&inst->lock);
    uint32_t changed = inst->counts.changed;
    inst->counts.changed = 0;
    if (changed) {
        inst->counts.version++;
        counts_print(&inst->counts, wall_ms(inst), &out);
    }
    pthread_mutex_unlock(&inst->lock);
    if (changed && (out.failed || inst->state->write(inst->host, zl_str(DOCUMENT), zl_buf_as_span(&out)) != ZR_OK))
        say(inst, ZR_LOG_WARN, "%s cannot be written; only figures depend on it", DOCUMENT);
    zl_buf_free(&out);
}

static void count_job(void *arg)
{
    struct zr_inst *inst = arg;
    counts_save_now(inst);
    pthread_mutex_lock(&inst->lock);
    inst->counting = 0;
    pthread_mutex_unlock(&inst->lock);
    counts_changed(inst);
    running_end(inst);
}

static void count_fired(void *arg)
{
    struct zr_inst *inst = arg;
    if (!running_begin(inst)) return;
    if (inst->work->run(inst->host, count_job, inst) == ZR_OK) return;
    pthread_mutex_lock(&inst->lock);
    inst->counting = 0;
    pthread_mutex_unlock(&inst->lock);
    counts_changed(inst);
    running_end(inst);
}

void counts_changed(struct zr_inst *inst)
{
    uint64_t id = 0;
    pthread_mutex_lock(&inst->lock);
    uint32_t begin = inst->counts.changed && !inst->counting && !inst->stopping;
    if (begin) inst->counting = 1;
    pthread_mutex_unlock(&inst->lock);
    if (!begin) return;
    zr_status status = inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + inst->settings->count_interval * 1000000, count_fired, inst, &id);
    pthread_mutex_lock(&inst->lock);
    if (status == ZR_OK) inst->count_timer = id;
    else inst->counting = 0;
    pthread_mutex_unlock(&inst->lock);
}
