/* SPDX-License-Identifier: Apache-2.0 */
/* delay.c - feature-delay: messages that arrive later, by RocketMQ's delay levels. The instance's life; put.c holds messages
 * back, deliver.c lets them go, offsets.c remembers how far that got. */
#include "delay.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "zarya/transport.h"
#include "zl/text.h"

ZR_MANIFEST("id = feature-delay\nversion = 1.0.0\nabi = 1.0\nprovides = zarya.hooks/1\nprovides = zarya.requests/1\nprovides = zarya.commands/1\nrequires = zarya.storage/1\n");

int64_t wall_ms(struct zr_inst *inst) { return inst->timer->wall_ms(inst->host); }

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

/* ---- levels --------------------------------------------------------------------------------------------------------------- */

static zr_status delay_parse(struct zr_str text, int64_t *ret_ms)
{
    static const struct { const char *unit; int64_t ms; } units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 }, { "d", 86400000 } };
    for (uint32_t i = 0; i < sizeof units / sizeof units[0]; i++) {
        if (!zl_ends(text, units[i].unit)) continue;
        struct zr_str number = { text.ptr, text.len - strlen(units[i].unit) };
        int64_t v;
        if (zl_parse_i64(number, &v) != ZR_OK || v < 0 || v > 3650ll * 86400000 / units[i].ms) return ZR_EINVAL;
        *ret_ms = v * units[i].ms;
        return ZR_OK;
    }
    return ZR_EINVAL;
}

zr_status levels_parse(struct zr_str text, int64_t *ret_ms, uint32_t *ret_n)
{
    struct zr_str part;
    *ret_n = 0;
    while (zl_split(&text, ' ', &part)) {
        part = zl_trim(part);
        if (part.len == 0) continue;
        if (*ret_n == MAX_LEVELS || delay_parse(part, &ret_ms[*ret_n]) != ZR_OK) return ZR_EINVAL;
        ++*ret_n;
    }
    return *ret_n ? ZR_OK : ZR_EINVAL;
}

/* ---- life ----------------------------------------------------------------------------------------------------------------- */

static zr_status check(const struct zr_host *host, const void *settings)
{
    const struct settings *s = settings;
    const struct zr_err_v1 *err = host->query(host, ZR_SVC_ERR);
    struct zr_error e = { .hdr = ZR_HDR(struct zr_error, 0), .status = ZR_EINVAL,
                          .text = ZR_STR("delay_levels: 1 to 64 delays with a unit (ms, s, m, h, d), such as \"1s 5s 10s 1m 2h\"") };
    int64_t ms[MAX_LEVELS];
    uint32_t n;
    if (levels_parse(s->delay_levels, ms, &n) == ZR_OK) return ZR_OK;
    if (err) err->raise(host, &e);
    return ZR_EINVAL;
}

static uint32_t services_ask(struct zr_inst *inst)
{
    const struct zr_host *h = inst->host;
    inst->store = h->query(h, ZR_SVC_STORE);
    inst->broker = h->query(h, ZR_SVC_BROKER);
    inst->timer = h->query(h, ZR_SVC_TIMER);
    inst->work = h->query(h, ZR_SVC_WORK);
    inst->state = h->query(h, ZR_SVC_STATE);
    inst->log = h->query(h, ZR_SVC_LOG);
    inst->io = h->query(h, ZR_SVC_IO);
    inst->durability = h->query(h, ZR_SVC_DURABILITY);
    inst->reply = h->query(h, ZR_SVC_REPLY);
    inst->metrics = h->query(h, ZR_SVC_METRICS);
    return inst->io && inst->durability && inst->reply && inst->store && inst->broker && inst->timer && inst->work && inst->state && inst->log;
}

/* feature-admin reads them by name, for code 28. */
static void metrics_declare(struct zr_inst *inst)
{
    static const struct zr_metric rows[METRICS_N] = {
        [METRIC_READ_BEHIND] = { ZR_HDR(struct zr_metric, 0), "zarya_timer_read_behind", "s", "How far the timer is behind the clock with what is due.", ZR_METRIC_GAUGE, 0 },
        [METRIC_OFFSET_BEHIND] = { ZR_HDR(struct zr_metric, 0), "zarya_timer_offset_behind", "messages", "Timed messages that the timer has not taken up yet.", ZR_METRIC_GAUGE, 0 },
        [METRIC_ENQUEUED] = { ZR_HDR(struct zr_metric, 0), "zarya_timer_enqueued_total", "messages", "Timed messages that the timer took up.", ZR_METRIC_COUNTER, 0 },
        [METRIC_DELIVERED] = { ZR_HDR(struct zr_metric, 0), "zarya_timer_delivered_total", "messages", "Timed messages that were delivered.", ZR_METRIC_COUNTER, 0 },
    };
    if (inst->metrics && inst->metrics->declare(inst->host, rows, METRICS_N, &inst->first_metric) != ZR_OK) inst->metrics = NULL;
}

static void destroy(struct zr_inst *inst)
{
    timer_free(inst->timed);
    pthread_mutex_destroy(&inst->lock);
    free(inst);
}

static zr_status create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    struct zr_inst *inst = calloc(1, sizeof *inst);
    int64_t ms[MAX_LEVELS];
    if (!inst) return ZR_ENOMEM;
    inst->host = host;
    inst->settings = settings;
    if (!services_ask(inst) || levels_parse(inst->settings->delay_levels, ms, &inst->n_levels) != ZR_OK) {
        free(inst);
        return ZR_ENOTSUP;
    }
    for (uint32_t i = 0; i < MAX_LEVELS; i++) /* ARMED until activate; those that are not configured are due by their tags codes alone */
        inst->levels[i] = (struct level){ .inst = inst, .delay_ms = i < inst->n_levels ? ms[i] : INT64_MAX / 4, .number = i + 1,
                                          .state = LEVEL_ARMED, .served = i < inst->n_levels };
    pthread_mutex_init(&inst->lock, NULL);
    if (inst->settings->timer_enable && timer_new(inst) != ZR_OK) {
        destroy(inst);
        return ZR_ENOMEM;
    }
    if (inst->timed) metrics_declare(inst);
    *ret = inst;
    return ZR_OK;
}

void running_end(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->lock);
    uint32_t last = --inst->n_running == 0 && inst->stopping && !inst->answered;
    if (last) inst->answered = 1;
    pthread_mutex_unlock(&inst->lock);
    if (last) offsets_save_last(inst); /* and the drain is answered */
}

static void drain(struct zr_inst *inst, struct zr_done done)
{
    pthread_mutex_lock(&inst->lock);
    inst->stopping = 1;
    inst->drained = done;
    inst->n_running++; /* this call's */
    uint64_t save_timer = inst->save_timer;
    pthread_mutex_unlock(&inst->lock);
    deliver_end(inst);
    if (inst->timed) timer_end(inst->timed);
    if (save_timer) inst->timer->cancel(inst->host, save_timer);
    running_end(inst);
}

static void cool(struct zr_inst *inst)
{
    if (inst->timed) timer_cool(inst->timed);
}

static const struct zr_hook hook_list[] = {
    { .hdr = ZR_HDR(struct zr_hook, 0), .point = ZR_POINT_PUBLISH, .klass = ZR_CLASS_TRANSFORM,
      .after = "feature-ordered feature-transaction", .call = put_hook }, /* they decide on the topic; what is left is held back */
    { .hdr = ZR_HDR(struct zr_hook, 0), .point = ZR_POINT_STORED, .klass = ZR_CLASS_OBSERVE, .call = stored_hook,
      .topics = SCHEDULE_TOPIC " " TIMER_TOPIC },
};
static const struct zr_hooks_v1 hooks = { .hdr = ZR_HDR(struct zr_hooks_v1, 0), .hooks = hook_list, .n_hooks = 2 };

#define SERVES (ZR_SERVES_BROKER | ZR_SERVES_FAST)
static const struct zr_handler handlers[] = {
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = 45, .serves = SERVES, .name = "GET_ALL_DELAY_OFFSET", .handle = delay_offsets_handle },
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = 60, .serves = SERVES, .name = "GET_TIMER_CHECK_POINT", .handle = timer_check_handle },
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = 61, .serves = SERVES, .flags = ZR_HANDLER_WORKER, .name = "GET_TIMER_METRICS", .handle = timer_metrics_handle },
    { .hdr = ZR_HDR(struct zr_handler, 0), .code = 370, .serves = SERVES, .flags = ZR_HANDLER_GUARDED, .name = "RECALL_MESSAGE", .handle = recall_handle },
};
static const struct zr_requests_v1 requests = { .hdr = ZR_HDR(struct zr_requests_v1, 0), .handlers = handlers, .n_handlers = 4 };
static const struct zr_verb verbs[] = {
    { .hdr = ZR_HDR(struct zr_verb, 0), .name = "delay stats", .doc = "Shows what waits for its time: by delay level, and for arbitrary times.", .usage = "",
      .flags = ZR_COMMAND_READS, .run = stats_verb },
};
static const struct zr_commands_v1 commands = { .hdr = ZR_HDR(struct zr_commands_v1, 0), .verbs = verbs, .n_verbs = 1 };

static const void *query(struct zr_inst *inst, const char *id)
{
    (void)inst;
    if (strcmp(id, ZR_IF_REQUESTS) == 0) return &requests;
    if (strcmp(id, ZR_IF_COMMANDS) == 0) return &commands;
    return strcmp(id, ZR_IF_HOOKS) == 0 ? &hooks : NULL;
}

static const struct zr_option options[] = {
    ZR_OPTION_ROW(struct settings, delay_levels, "delay_levels", ZR_OPT_STR, 0, "1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h",
                  NULL, NULL, NULL, "The delays of the levels, the first is level 1 (Apache's messageDelayLevel; ms is possible too)."),
    ZR_OPTION_ROW(struct settings, timer_enable, "timer", ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL,
                  "Whether messages for arbitrary times are taken and delivered (Apache's timerWheelEnable)."),
    ZR_OPTION_ROW(struct settings, timer_max_delay, "timer_max_delay", ZR_OPT_I64, 0, "259200", "1", "3153600000", NULL,
                  "How far ahead a delivery time may lie, in seconds (Apache's timerMaxDelaySec: three days)."),
    ZR_OPTION_ROW(struct settings, timer_precision, "timer_precision", ZR_OPT_I64, 0, "1000", "100", "1000", "ms",
                  "A step of the wheel: 100, 200, 500 or 1000 ms (Apache's timerPrecisionMs). The files of one step cannot be read with another."),
    ZR_OPTION_ROW(struct settings, timer_roll_window, "timer_roll_window", ZR_OPT_I64, 0, "172800", "2", "604740", NULL,
                  "Steps after which a message that is not due yet is stored anew, so that retention does not take it (Apache's timerRollWindowSlot)."),
    ZR_OPTION_ROW(struct settings, timer_log_file_size, "timer_log_file_size", ZR_OPT_I64, 0, "104857600", "8192", "1073741824", "bytes",
                  "Size of the files of the timer log (Apache's mappedFileSizeTimerLog)."),
    ZR_OPTION_ROW(struct settings, timer_congest, "timer_congest", ZR_OPT_I64, 0, "2147483647", "1", "2147483647", NULL,
                  "Messages for one step of the wheel beyond which new ones are refused (Apache's timerCongestNumEachSlot)."),
    ZR_OPTION_ROW(struct settings, recall_enable, "recall", ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL,
                  "Whether producers may take timed messages back (Apache's recallMessageEnable)."),
    ZR_OPTION_ROW(struct settings, recall_key_with_topic, "recall_key_with_topic", ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL,
                  "Whether a recall names topic and unique key, or the key alone (Apache's appendTopicForTimerDeleteKey)."),
};
static const struct zr_plugin plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0), .id = "feature-delay", .version = "1.0.0", .summary = "Messages that arrive later, by delay levels or at a time of their own.",
    .options = options, .n_options = sizeof options / sizeof options[0], .settings_size = sizeof(struct settings), .swap = ZR_SWAP_NEVER,
    .check = check, .create = create, .warm = offsets_load, .activate = deliver_begin, .drain = drain, .cool = cool,
    .destroy = destroy, .query = query,
};

const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &plugin;
}
