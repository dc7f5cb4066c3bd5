/* SPDX-License-Identifier: Apache-2.0 */
/* transaction.c - feature-transaction: messages that wait for their producer's word. The instance's life; half.c turns half messages
 * aside, end.c carries the word out, check.c asks for it, load.c finds what was open, README.md has the plan. */
#include "transaction.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zl/text.h"

#ifndef TX_WINDOW /* half messages between the oldest open and the newest one; smaller where a program begins often */
#define TX_WINDOW (1ll << 22)
#endif

ZR_MANIFEST("id = feature-transaction\nversion = 1.0.0\nabi = 1.0\nprovides = zarya.hooks/1\nprovides = zarya.requests/1\nprovides = zarya.commands/1\n"
            "requires = zarya.storage/1\n");

int64_t wall_ms(struct zr_inst *inst) { return inst->timer->wall_ms(inst->host); }
int64_t mono_ms(struct zr_inst *inst) { return inst->timer->mono_ns(inst->host) / 1000000; }

void say(struct zr_inst *inst, uint32_t level, const char *fmt, ...)
{
    char text[512];
    va_list ap;
    if (inst->log->level(inst->host) < level) return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    inst->log->write(inst->host, level, zl_str(text), NULL, 0);
}

/* ---- metrics -------------------------------------------------------------------------------------------------------------- */

static const struct zr_metric metrics[N_METERS] = {
    [METER_OPEN] = { ZR_HDR(struct zr_metric, 0), "zarya_transactions_open", "messages", "Half messages that wait for their producer's word.", ZR_METRIC_GAUGE, 0 },
    [METER_PREPARED] = { ZR_HDR(struct zr_metric, 0), "zarya_transactions_prepared", "messages", "Half messages taken.", ZR_METRIC_COUNTER, 0 },
    [METER_COMMITTED] = { ZR_HDR(struct zr_metric, 0), "zarya_transactions_committed", "messages", "Half messages committed.", ZR_METRIC_COUNTER, 0 },
    [METER_ROLLED_BACK] = { ZR_HDR(struct zr_metric, 0), "zarya_transactions_rolled_back", "messages", "Half messages rolled back.", ZR_METRIC_COUNTER, 0 },
    [METER_CHECKS] = { ZR_HDR(struct zr_metric, 0), "zarya_transactions_checks", "requests", "Times a producer was asked about a half message.", ZR_METRIC_COUNTER, 0 },
    [METER_DISCARDED] = { ZR_HDR(struct zr_metric, 0), "zarya_transactions_discarded", "messages", "Half messages given up.", ZR_METRIC_COUNTER, 0 },
};

void meter(struct zr_inst *inst, uint32_t which, int64_t delta) { inst->metrics->add(inst->host, inst->meters + which, delta); }

/* ---- life ----------------------------------------------------------------------------------------------------------------- */

static uint32_t services_ask(struct zr_inst *inst)
{
    const struct zr_host *h = inst->host;
    inst->store = h->query(h, ZR_SVC_STORE);
    inst->broker = h->query(h, ZR_SVC_BROKER);
    inst->reply = h->query(h, ZR_SVC_REPLY);
    inst->timer = h->query(h, ZR_SVC_TIMER);
    inst->work = h->query(h, ZR_SVC_WORK);
    inst->log = h->query(h, ZR_SVC_LOG);
    inst->state = h->query(h, ZR_SVC_STATE);
    inst->metrics = h->query(h, ZR_SVC_METRICS);
    return inst->store && inst->broker && inst->reply && inst->timer && inst->work && inst->log && inst->state && inst->metrics;
}

static zr_status create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst) return ZR_ENOMEM;
    inst->host = host;
    inst->settings = settings;
    if (!services_ask(inst) || inst->metrics->declare(host, metrics, N_METERS, &inst->meters) != ZR_OK) {
        free(inst);
        return ZR_ENOTSUP;
    }
    zl_buf_init(&inst->op_text, MAX_OP_TEXT);
    zl_buf_init(&inst->op_rolled, MAX_OP_ROLLED);
    inst->op_highest = -1;
    inst->check_armed_ms = INT64_MAX;
    inst->table.free = TX_NONE;
    pthread_mutex_init(&inst->lock, NULL);
    *ret = inst;
    return ZR_OK;
}

static zr_status warm(struct zr_inst *inst)
{
    counts_load(inst);
    return tx_init(&inst->table, 0, TX_WINDOW, (uint32_t)inst->settings->max_open) ? ZR_OK : ZR_ENOMEM;
}

static void activate(struct zr_inst *inst)
{
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    inst->broker->identity(inst->host, &id);
    inst->broker_name = id.name;
    inst->begin_ms = mono_ms(inst);
    if (id.id != 0) {
        say(inst, ZR_LOG_INFO, "a slave ends no transactions and asks no producer");
        return;
    }
    inst->storage = inst->store->storage(inst->host, &inst->storage_inst);
    if (!inst->storage) return;
    inst->half_queue = inst->storage->queue(inst->storage_inst, (struct zr_str)ZR_STR(HALF_TOPIC), 0, 1);
    inst->op_queue = inst->storage->queue(inst->storage_inst, (struct zr_str)ZR_STR(OP_TOPIC), 0, 1);
    if (!inst->half_queue || !inst->op_queue) {
        say(inst, ZR_LOG_ERROR, "memory ran out: transactions are not ended until the broker is started again");
        return;
    }
    inst->master = 1;
    load_begin(inst);
}

uint32_t running_begin(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->lock);
    uint32_t go = !inst->stopping;
    inst->n_running += go;
    pthread_mutex_unlock(&inst->lock);
    return go;
}

/* The last one to go writes what is left to write, and answers the drain. */
void running_end(struct zr_inst *inst)
{
    struct zr_done done = { NULL, NULL };
    pthread_mutex_lock(&inst->lock);
    uint32_t flush = inst->n_running == 1 && inst->stopping && inst->op_text.len && !inst->op_failing;
    if (!flush && --inst->n_running == 0) {
        done = inst->drained;
        inst->drained.call = NULL;
    }
    pthread_mutex_unlock(&inst->lock);
    if (flush) {
        op_flush(inst);
        running_end(inst);
        return;
    }
    if (!done.call) return;
    if (inst->master) {
        progress_now(inst);
        counts_save_now(inst);
    }
    done.call(done.ctx, ZR_OK);
}

static void drain(struct zr_inst *inst, struct zr_done done)
{
    pthread_mutex_lock(&inst->lock);
    inst->stopping = 1;
    inst->drained = done;
    inst->n_running++; /* this call's */
    uint64_t timers[4] = { inst->op_armed ? inst->op_timer : 0, inst->save_timer, inst->check_armed_ms != INT64_MAX ? inst->check_timer : 0, inst->count_timer };
    pthread_mutex_unlock(&inst->lock);
    for (uint32_t i = 0; i < 4; i++)
        if (timers[i]) inst->timer->cancel(inst->host, timers[i]); /* one that fires nevertheless sees `stopping` */
    running_end(inst);
}

static void cool(struct zr_inst *inst) { tx_free(&inst->table); }

static void destroy(struct zr_inst *inst)
{
    zl_buf_free(&inst->op_text);
    zl_buf_free(&inst->op_rolled);
    counts_free(&inst->counts);
    free(inst->keys.all); /* a stop in the middle of loading */
    pthread_mutex_destroy(&inst->lock);
    free(inst);
}

static zr_status retune(struct zr_inst *inst, const void *settings)
{
    inst->settings = settings;
    return ZR_OK;
}

/* ---- what it offers -------------------------------------------------------------------------------------------------------- */

static const struct zr_handler handlers[] = {
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = 37, .serves = ZR_SERVES_BROKER | ZR_SERVES_FAST, .flags = ZR_HANDLER_GUARDED, .name = "END_TRANSACTION",
      .handle = end_handle },
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = 323, .serves = ZR_SERVES_BROKER | ZR_SERVES_FAST, .flags = ZR_HANDLER_GUARDED | ZR_HANDLER_WORKER,
      .name = "RESUME_CHECK_HALF_MESSAGE", .handle = resume_handle },
};
static const struct zr_requests_v1 requests = { .hdr = ZR_HDR(struct zr_requests_v1, 0), .handlers = handlers, .n_handlers = sizeof handlers / sizeof *handlers };
static const struct zr_hook hook_list[] = {
    { .hdr = ZR_HDR(struct zr_hook, 0), .point = ZR_POINT_PUBLISH, .klass = ZR_CLASS_TRANSFORM, .before = "feature-delay", .call = put_hook },
    { .hdr = ZR_HDR(struct zr_hook, 0), .point = ZR_POINT_STORED, .klass = ZR_CLASS_OBSERVE, .topics = HALF_TOPIC, .call = stored_hook },
};
static const struct zr_hooks_v1 hooks = { .hdr = ZR_HDR(struct zr_hooks_v1, 0), .hooks = hook_list, .n_hooks = 2 };

static const void *query(struct zr_inst *inst, const char *id)
{
    (void)inst;
    if (strcmp(id, ZR_IF_REQUESTS) == 0) return &requests;
    if (strcmp(id, ZR_IF_HOOKS) == 0) return &hooks;
    return strcmp(id, ZR_IF_COMMANDS) == 0 ? &tx_commands : NULL;
}

#define OPT(member, flags, dflt, min, max, unit, doc) ZR_OPTION_ROW(struct settings, member, #member, ZR_OPT_I64, flags, dflt, min, max, unit, doc)
static const struct zr_option options[] = {
    OPT(timeout, ZR_OPT_LIVE, "6 s", "0", "365 d", "ms", "How long a half message waits until its producer is asked first (Apache's transactionTimeOut)."),
    OPT(check_interval, ZR_OPT_LIVE, "30 s", "1", "365 d", "ms", "How long until its producer is asked again (Apache's transactionCheckInterval)."),
    OPT(check_max, ZR_OPT_LIVE, "15", "0", "1000000", NULL, "How often its producer is asked before the message is given up (Apache's transactionCheckMax)."),
    OPT(retention_hours, ZR_OPT_LIVE, "72", "1", "87600", NULL, "How many hours old a half message may become before it is given up (Apache's fileReservedTime)."),
    OPT(op_interval, ZR_OPT_LIVE, "100 ms", "1", "1 h", "ms", "How long ended transactions are gathered before they are noted in the op queue (Apache's transactionOpBatchInterval)."),
    OPT(op_size, ZR_OPT_LIVE, "4096", "1", "65536", "bytes", "How long the text of one such note becomes (Apache's transactionOpMsgMaxSize)."),
    OPT(count_interval, ZR_OPT_LIVE, "10 s", "100 ms", "1 d", "ms", "How often the numbers of open transactions are written to config/transactionMetrics (Apache's transactionMetricFlushInterval)."),
    OPT(check_rate, ZR_OPT_LIVE, "1000", "1", "1000000", NULL, "How many producers are asked a second at most."),
    OPT(max_open, 0, "1000000", "1", "16000000", NULL, "The most transactions that are open at once; further ones are refused."),
};
static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0), .id = "feature-transaction", .version = "1.0.0", .summary = "Messages that wait for their producer's word.",
    .options = options, .n_options = sizeof options / sizeof *options, .settings_size = sizeof(struct settings), .swap = ZR_SWAP_NEVER,
    .create = create, .warm = warm, .activate = activate, .drain = drain, .cool = cool, .destroy = destroy, .retune = retune, .query = query,
};

const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
