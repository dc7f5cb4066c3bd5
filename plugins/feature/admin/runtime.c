/* SPDX-License-Identifier: Apache-2.0 */
/* runtime.c - the broker's figures and configuration: 25, 26, 28, 306, 329, 2004.
 *
 * 28 answers every key that Apache's broker has, since readers parse many of them without a guard; what has no meaning here
 * (thread pool queues, the transient store pool) has the value of an idle Apache broker. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "admin.h"
#include "zl/conf.h"

static void kfmt(struct zl_jw *w, const char *key, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
static void kfmt(struct zl_jw *w, const char *key, const char *fmt, ...)
{
    char text[512];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    zl_jw_kstr(w, key, zl_str(text));
}

/* "a b c" over 10, 60 and 600 s; a window that is not full yet is empty. */
static void print_tps(struct zl_jw *w, const char *key, const double *tps, uint32_t all)
{
    char text[128];
    int n = 0;
    for (int i = 0; i < 3; i++) {
        if (i) text[n++] = ' ';
        if (tps[i] >= 0 || all) n += snprintf(text + n, sizeof text - (size_t)n, "%.16g", tps[i] < 0 ? 0.0 : tps[i]);
        /* Java prints whole doubles with ".0" */
        if (n && tps[i] >= 0 && tps[i] == (double)(int64_t)tps[i] && tps[i] < 1e7) n += snprintf(text + n, sizeof text - (size_t)n, ".0");
    }
    text[n] = 0;
    zl_jw_kstr(w, key, zl_str(text));
}

static void human(char *to, size_t cap, double bytes)
{
    static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    int u = 0;
    for (; bytes >= 1024 && u < 4; u++) bytes /= 1024;
    snprintf(to, cap, u ? "%.1f %s" : "%.0f %s", bytes, units[u]);
}

static const char *const bucket_names[13] = { "[<=0ms]", "[0~10ms]", "[10~50ms]", "[50~100ms]", "[100~200ms]", "[200~500ms]", "[500ms~1s]",
                                              "[1~2s]", "[2~3s]", "[3~4s]", "[4~5s]", "[5~10s]", "[10s~]" };

static void print_traffic(struct zl_jw *w, const struct zr_broker_stats *st)
{
    char histogram[600];
    int n = 0;
    double total[3];
    for (int i = 0; i < 13; i++) n += snprintf(histogram + n, sizeof histogram - (size_t)n, "%s:%llu ", bucket_names[i], (unsigned long long)st->put_histogram[i]);
    for (int i = 0; i < 3; i++) total[i] = (st->found_tps[i] < 0 ? 0 : st->found_tps[i]) + (st->miss_tps[i] < 0 ? 0 : st->miss_tps[i]);
    int64_t times = st->put_total > 0 ? st->put_total : 1;
    kfmt(w, "putMessageTimesTotal", "%lld", (long long)times);
    kfmt(w, "putMessageFailedTimes", "%lld", (long long)st->put_failed);
    kfmt(w, "putMessageSizeTotal", "%lld", (long long)st->put_bytes);
    kfmt(w, "putMessageAverageSize", "%.2f", (double)st->put_bytes / (double)times);
    kfmt(w, "putMessageEntireTimeMax", "%lld", (long long)st->put_max_ms);
    kfmt(w, "getMessageEntireTimeMax", "%lld", (long long)st->get_max_ms);
    zl_jw_kstr(w, "putMessageDistributeTime", zl_str(histogram));
    print_tps(w, "putTps", st->put_tps, 0);
    print_tps(w, "getFoundTps", st->found_tps, 0);
    print_tps(w, "getMissTps", st->miss_tps, 0);
    print_tps(w, "getTransferredTps", st->transferred_tps, 0);
    print_tps(w, "getTransferedTps", st->transferred_tps, 0);
    print_tps(w, "getTotalTps", total, 1);
    kfmt(w, "putLatency99", "%.2f", st->put_p99_ms);
    kfmt(w, "putLatency999", "%.2f", st->put_p999_ms);
    kfmt(w, "msgPutTotalYesterdayMorning", "%lld", (long long)st->put_yesterday_morning);
    kfmt(w, "msgPutTotalTodayMorning", "%lld", (long long)st->put_today_morning);
    kfmt(w, "msgPutTotalTodayNow", "%lld", (long long)st->put_total);
    kfmt(w, "msgGetTotalYesterdayMorning", "%lld", (long long)st->get_yesterday_morning);
    kfmt(w, "msgGetTotalTodayMorning", "%lld", (long long)st->get_today_morning);
    kfmt(w, "msgGetTotalTodayNow", "%lld", (long long)st->get_messages);
}

static void print_store(struct zl_jw *w, const struct zr_storage_info *info)
{
    char total[32], left[32], path[300];
    human(total, sizeof total, (double)info->disk_total);
    human(left, sizeof left, (double)info->disk_available);
    kfmt(w, "commitLogDirCapacity", "Total : %s, Free : %s.", total, left);
    human(left, sizeof left, (double)(info->positions.written - info->positions.flushed));
    zl_jw_kstr(w, "remainHowManyDataToFlush", zl_str(left));
    kfmt(w, "commitLogDiskRatio", "%.4f", info->log_disk_ratio);
    snprintf(path, sizeof path, "commitLogDiskRatio_%.*s", (int)info->log_path.len, info->log_path.ptr ? info->log_path.ptr : "");
    kfmt(w, path, "%.4f", info->log_disk_ratio);
    kfmt(w, "consumeQueueDiskRatio", "%.4f", info->queue_disk_ratio);
    kfmt(w, "commitLogMinOffset", "%lld", (long long)info->positions.begin);
    kfmt(w, "commitLogMaxOffset", "%lld", (long long)info->positions.written);
    kfmt(w, "dispatchBehindBytes", "%lld", (long long)(info->positions.written - info->positions.dispatched));
    kfmt(w, "earliestMessageTimeStamp", "%lld", (long long)info->earliest_ms);
}

static void print_idle_pools(struct zl_jw *w)
{
    static const struct { const char *name; const char *capacity; } pools[] = { { "send", "10000" }, { "pull", "100000" }, { "litePull", "100000" }, { "query", "20000" }, { "ack", "100000" } };
    char key[64];
    for (uint32_t i = 0; i < sizeof pools / sizeof *pools; i++) {
        snprintf(key, sizeof key, "%sThreadPoolQueueSize", pools[i].name);
        zl_jw_kstr(w, key, zl_str("0"));
        snprintf(key, sizeof key, "%sThreadPoolQueueCapacity", pools[i].name);
        zl_jw_kstr(w, key, zl_str(pools[i].capacity));
        snprintf(key, sizeof key, "%sThreadPoolQueueHeadWaitTimeMills", pools[i].name);
        zl_jw_kstr(w, key, zl_str("0"));
    }
    static const char *const constants[][2] = { { "EndTransactionQueueSize", "0" }, { "EndTransactionThreadPoolQueueCapacity", "100000" }, { "dispatchMaxBuffer", "0" },
        { "pageCacheLockTimeMills", "0" }, { "startAcceptSendRequestTimeStamp", "0" },
        { "timerCongestNum", "0" }, { "remainTransientStoreBufferNumbs", "2147483647" }, { "brokerActive", "true" } };
    for (uint32_t i = 0; i < sizeof constants / sizeof *constants; i++) zl_jw_kstr(w, constants[i][0], zl_str(constants[i][1]));
}

/* ---- the timer, as feature-delay's metrics tell of it; without that plugin all is 0 ---- */
struct timed { double read_behind, offset_behind, enqueued, delivered; };

static void take_metric(void *ctx, struct zr_str name, struct zr_str instance, uint32_t kind, struct zr_str doc, double value)
{
    struct timed *t = ctx;
    (void)instance, (void)kind, (void)doc;
    if (!zl_starts(name, "zarya_timer_")) return;
    if (zl_is(name, "zarya_timer_read_behind")) t->read_behind = value;
    else if (zl_is(name, "zarya_timer_offset_behind")) t->offset_behind = value;
    else if (zl_is(name, "zarya_timer_enqueued_total")) t->enqueued = value;
    else if (zl_is(name, "zarya_timer_delivered_total")) t->delivered = value;
}

/* Rates are those since the last time that somebody asked; a second at least lies between two. */
static void print_timer(struct zr_inst *inst, struct zl_jw *w)
{
    struct timed now = { 0, 0, 0, 0 };
    double in = 0, out = 0;
    int64_t ns = inst->timer->mono_ns(inst->host);
    if (inst->metrics) inst->metrics->each(inst->host, take_metric, &now);
    pthread_mutex_lock(&inst->timed_lock);
    double seconds = (double)(ns - inst->timed_ns) / 1e9;
    if (inst->timed_ns) {
        in = (now.enqueued - inst->timed_enqueued) / (seconds < 1 ? 1 : seconds);
        out = (now.delivered - inst->timed_delivered) / (seconds < 1 ? 1 : seconds);
    }
    if (!inst->timed_ns || seconds >= 1) {
        inst->timed_ns = ns;
        inst->timed_enqueued = now.enqueued;
        inst->timed_delivered = now.delivered;
    }
    pthread_mutex_unlock(&inst->timed_lock);
    kfmt(w, "timerReadBehind", "%lld", (long long)now.read_behind);
    kfmt(w, "timerOffsetBehind", "%lld", (long long)now.offset_behind);
    kfmt(w, "timerEnqueueTps", "%.1f", in);
    kfmt(w, "timerDequeueTps", "%.1f", out);
}

/* "V5_5_0" of an ordinal. */
static void version_name(char *to, size_t cap, int32_t v)
{
    if (v >= 413) snprintf(to, cap, "V5_%d_%d", (v - 413) / 20, (v - 413) % 20 / 2);
    else snprintf(to, cap, "V4_%d_%d", (v - 213) / 20, (v - 213) % 20 / 2);
}

static zr_status handle_runtime(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_identity id = { .hdr = ZR_HDR(struct zr_identity, 0) };
    struct zr_broker_stats stats = { .hdr = ZR_HDR(struct zr_broker_stats, 0) };
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    struct zr_inst *si;
    const struct zr_storage_v1 *s = admin_storage(inst, &si);
    struct zl_buf out;
    struct zl_jw w;
    char version[32];
    inst->broker->identity(inst->host, &id);
    inst->broker->stats(inst->host, &stats);
    if (s) s->info(si, &info);
    int64_t up = (inst->timer->wall_ms(inst->host) - id.boot_ms) / 1000;
    zl_buf_init(&out, ADMIN_MAX_BODY);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("table"));
    zl_jw_begin(&w, '{');
    kfmt(&w, "bootTimestamp", "%lld", (long long)id.boot_ms);
    kfmt(&w, "runtime", "[ %lld days, %lld hours, %lld minutes, %lld seconds ]", (long long)(up / 86400), (long long)(up / 3600 % 24), (long long)(up / 60 % 60), (long long)(up % 60));
    version_name(version, sizeof version, id.version);
    zl_jw_kstr(&w, "brokerVersionDesc", zl_str(version));
    kfmt(&w, "brokerVersion", "%d", id.version);
    print_traffic(&w, &stats);
    print_store(&w, &info);
    print_idle_pools(&w);
    print_timer(inst, &w);
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    return admin_body(inst, req, &out, NULL);
}

static int32_t print_config(void *ctx, struct zr_str key, struct zr_str value)
{
    struct zl_buf *out = ctx;
    zl_buf_str(out, key);
    zl_buf_u8(out, '=');
    zl_buf_str(out, value);
    zl_buf_u8(out, '\n');
    return 0;
}

static zr_status handle_get_config(struct zr_inst *inst, const struct zr_request *req)
{
    struct zl_buf out;
    struct zr_data_version version;
    struct zl_fields fields = { .n = 0 };
    char text[160];
    zl_buf_init(&out, ADMIN_MAX_BODY);
    inst->broker->each_config(inst->host, print_config, &out);
    inst->broker->topic_version(inst->host, &version);
    snprintf(text, sizeof text, "{\"counter\":%lld,\"stateVersion\":%lld,\"timestamp\":%lld}", (long long)version.counter, (long long)version.state_version, (long long)version.timestamp);
    zl_fields_str(&fields, "version", zl_str(text));
    return admin_body(inst, req, &out, &fields);
}

/* Only keys on the broker's allow-list change; the first that may not be ends the request before anything is changed. */
static zr_status handle_set_config(struct zr_inst *inst, const struct zr_request *req)
{
    static const char *const black_list[] = { "brokerConfigPath", "rocketmqHome", "configBlackList" };
    struct zl_property *props = NULL;
    uint32_t n = 0, line = 0;
    zr_status status = ZR_OK;
    if (req->body.len == 0) return admin_ok(inst, req);
    if (zl_properties_parse((struct zr_str){ (const char *)req->body.ptr, req->body.len }, &props, &n, &line) != ZR_OK)
        return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "string2Properties error");
    for (uint32_t i = 0; i < n; i++) {
        for (uint32_t b = 0; b < 3; b++) {
            if (!zl_is(props[i].key, black_list[b])) continue;
            free(props);
            return admin_refuse(inst, req, CODE_NO_PERMISSION, "Can not update config in black list.");
        }
    }
    char why[300] = "";
    for (uint32_t k = 0; k < 2 * n && status == ZR_OK; k++) { /* all are looked at before the first is changed */
        uint32_t i = k % n;
        status = (k < n ? inst->broker->check_config : inst->broker->set_config)(inst->host, props[i].key, props[i].value);
        if (status == ZR_ENOENT) status = ZR_OK; /* unknown keys are ignored, as Apache does */
        if (status != ZR_OK)
            snprintf(why, sizeof why, status == ZR_EPERM ? "%.*s may not be changed by a request; set it in the configuration" : "%.*s does not take the value given",
                     (int)(props[i].key.len > 120 ? 120 : props[i].key.len), props[i].key.ptr);
    }
    free(props);
    return status == ZR_OK ? admin_ok(inst, req) : admin_refuse(inst, req, status == ZR_EPERM ? CODE_NO_PERMISSION : CODE_INVALID_PARAMETER, "%s", why);
}

static zr_status handle_clean(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_inst *si;
    const struct zr_storage_v1 *s = admin_storage(inst, &si);
    uint64_t removed = 0;
    if (!s || s->clean(si, &removed) != ZR_OK) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "nothing could be cleaned");
    return admin_ok(inst, req);
}

/* READ_AHEAD_MODE: 0 as usual (MADV_NORMAL), 1 at random places (MADV_RANDOM). */
static zr_status handle_read_mode(struct zr_inst *inst, const struct zr_request *req)
{
    struct zr_inst *si;
    const struct zr_storage_v1 *s = admin_storage(inst, &si);
    struct zr_str mode = zl_field(req->fields, req->n_fields, "READ_AHEAD_MODE");
    int32_t value;
    if (!mode.ptr || zl_parse_i32(mode, &value) != ZR_OK) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "set commitlog readahead mode param error");
    if (value != 0 && value != 1) return admin_refuse(inst, req, CODE_INVALID_PARAMETER, "set commitlog readahead mode param value error");
    if (!s || s->read_ahead(si, value == 0) != ZR_OK) return admin_refuse(inst, req, CODE_SYSTEM_ERROR, "this storage has no read-ahead that can be set");
    return admin_refuse(inst, req, CODE_OK, "set commitlog readahead mode success, mode: %d", value);
}

const struct zr_handler admin_runtime_handlers[] = {
    ADMIN_HANDLER(25, "UPDATE_BROKER_CONFIG", ZR_HANDLER_GUARDED, handle_set_config),
    ADMIN_HANDLER(26, "GET_BROKER_CONFIG", 0, handle_get_config),
    ADMIN_HANDLER(28, "GET_BROKER_RUNTIME_INFO", 0, handle_runtime),
    ADMIN_HANDLER(306, "CLEAN_EXPIRED_CONSUMEQUEUE", ZR_HANDLER_GUARDED, handle_clean),
    ADMIN_HANDLER(329, "DELETE_EXPIRED_COMMITLOG", ZR_HANDLER_GUARDED, handle_clean),
    ADMIN_HANDLER(2004, "SET_COMMITLOG_READ_MODE", ZR_HANDLER_GUARDED, handle_read_mode),
};
const uint32_t admin_n_runtime_handlers = sizeof admin_runtime_handlers / sizeof *admin_runtime_handlers;
