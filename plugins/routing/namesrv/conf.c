/* SPDX-License-Identifier: Apache-2.0 */
/* conf.c - the options of routing-namesrv, and what requests 318 and 319 may do with them.
 *
 * Rows carry Apache's NamesrvConfig keys, so a namesrv.conf maps one to one. Anybody who reaches the port may send 318; therefore
 * only keys marked `remote` below can be changed by it: switches and times. Paths, addresses and everything else that Apache knows
 * are refused with 16; keys that nobody knows are ignored, as Apache ignores them. What 318 changed is kept in a document of its
 * own (properties text) and applied over the configuration at the next start, with a line in the log for each. */
#include <stddef.h>
#include <stdlib.h>
#include "namesrv.h"
#include "zl/conf.h"

#define ROW_BOOL(member, name, dflt, doc) ZR_OPTION_ROW(struct ns_settings, member, name, ZR_OPT_BOOL, ZR_OPT_LIVE, dflt, NULL, NULL, NULL, doc)
#define ROW_I64(member, name, dflt, min, max, unit, flags, doc) \
    ZR_OPTION_ROW(struct ns_settings, member, name, ZR_OPT_I64, flags, dflt, min, max, unit, doc)

const struct zr_option ns_options[] = {
    ROW_BOOL(order_message_enable, "orderMessageEnable", "false", "Route answers carry the topic's entry of KV namespace ORDER_TOPIC_CONFIG."),
    ROW_BOOL(return_order_topic_config, "returnOrderTopicConfigToBroker", "true", "Answers to registrations carry KV namespace ORDER_TOPIC_CONFIG."),
    ROW_BOOL(enable_all_topic_list, "enableAllTopicList", "true", "Answer requests for the list of all topics."),
    ROW_BOOL(enable_topic_list, "enableTopicList", "true", "Answer requests for lists of topics by cluster and unit."),
    ROW_BOOL(notify_min_broker_id, "notifyMinBrokerIdChanged", "false", "Tell the brokers of a group when its least broker id changes."),
    ROW_BOOL(support_acting_master, "supportActingMaster", "false", "Show the least id of a group without master as its master."),
    ROW_BOOL(delete_topic_with_registration, "deleteTopicWithBrokerRegistration", "false", "A full registration removes the broker's topics it does not carry."),
    ROW_BOOL(need_wait_for_service, "needWaitForService", "false", "Answer route queries only after waitSecondsForService."),
    ROW_BOOL(announce_local, "announceLocalBroker", "true", "Put the broker of this process into the tables directly, without a connection."),
    ROW_I64(wait_seconds_for_service, "waitSecondsForService", "45", "0", "3600", NULL, ZR_OPT_LIVE, "How long route queries wait after the start, in seconds."),
    ROW_I64(scan_interval_ms, "scanNotActiveBrokerInterval", "1 s", "1 ms", "1 h", "ms", ZR_OPT_LIVE,
            "Brokers expire at their deadline; this is the least time between two looks at them."),
    ROW_I64(max_topics, "maxTopics", "1000000", "1", "100000000", NULL, 0, "Most topics in the tables."),
    ROW_I64(max_entries, "maxQueueEntries", "20000000", "1", "1000000000", NULL, 0, "Most (topic, broker) pairs in the tables; 24 bytes each."),
    ROW_I64(route_cache_bytes, "routeCacheBytes", "64 MiB", "0", "64 GiB", "bytes", ZR_OPT_LIVE, "Memory for ready-made route answers."),
    ZR_OPTION_ROW(struct ns_settings, kv_path, "kvConfigPath", ZR_OPT_STR, 0, "namesrv/kvConfig.json", NULL, NULL, NULL,
                  "Document of the KV configuration, relative to the data directory."),
    ZR_OPTION_ROW(struct ns_settings, config_path, "configStorePath", ZR_OPT_STR, 0, "namesrv/namesrv.properties", NULL, NULL, NULL,
                  "Document of what request 318 changed, relative to the data directory."),
};
const uint32_t ns_n_options = sizeof ns_options / sizeof *ns_options;

/* Apache's keys that 318 may not touch (NamesrvConfig and NettyServerConfig); everything not named anywhere is unknown. */
static const char *const conf_refused[] = {
    "bindAddress", "clientRequestThreadPoolNums", "clientRequestThreadPoolQueueCapacity", "clusterTest", "configBlackList", "configStorePath",
    "defaultThreadPoolNums", "defaultThreadPoolQueueCapacity", "enableControllerInNamesrv", "enableShutdownGracefully", "kvConfigPath", "listenPort",
    "productEnvName", "rocketmqHome", "serverAsyncSemaphoreValue", "serverCallbackExecutorThreads", "serverChannelMaxIdleTimeSeconds",
    "serverNettyWorkerGroupEnable", "serverOnewaySemaphoreValue", "serverPooledByteBufAllocatorEnable", "serverSelectorThreads", "serverSocketBacklog",
    "serverSocketRcvBufSize", "serverSocketSndBufSize", "serverWorkerThreads", "shutdownWaitTimeSeconds", "unRegisterBrokerQueueCapacity",
    "useEpollNativeSelector", "writeBufferHighWaterMark", "writeBufferLowWaterMark", "announceLocalBroker", "maxTopics", "maxQueueEntries",
    "routeCacheBytes",
};
/* The allow-list. */
static const char *const conf_remote[] = {
    "deleteTopicWithBrokerRegistration", "enableAllTopicList", "enableTopicList", "needWaitForService", "notifyMinBrokerIdChanged",
    "orderMessageEnable", "returnOrderTopicConfigToBroker", "scanNotActiveBrokerInterval", "supportActingMaster", "waitSecondsForService",
};
#define CONF_N_REMOTE (sizeof conf_remote / sizeof *conf_remote)

static uint32_t conf_in(const char *const *list, uint64_t n, struct zr_str key)
{
    for (uint64_t i = 0; i < n; i++)
        if (zl_is(key, list[i]))
            return 1;
    return 0;
}

static const struct zr_option *conf_row(const char *name)
{
    for (uint32_t i = 0; i < ns_n_options; i++)
        if (strcmp(ns_options[i].name, name) == 0)
            return &ns_options[i];
    return NULL;
}

/* Writes one remote key into the settings. Values as Java reads them: "true" in any case, or a number within the row's limits. */
static zr_status conf_set(struct ns_settings *set, struct zr_str key, struct zr_str value)
{
    for (uint32_t i = 0; i < ns_n_options; i++) {
        const struct zr_option *row = &ns_options[i];
        uint8_t *at = (uint8_t *)set + row->offset;
        int64_t v;
        if (!zl_is(key, row->name))
            continue;
        if (row->type == ZR_OPT_BOOL) {
            *at = (uint8_t)zl_eq_nocase(zl_trim(value), "true");
            return ZR_OK;
        }
        if (zl_parse_i64(zl_trim(value), &v) != ZR_OK || v < 0 || v > 3600000 || (zl_is(key, "waitSecondsForService") && v > 3600))
            return ZR_EINVAL;
        if (zl_is(key, "scanNotActiveBrokerInterval") && v < 1)
            return ZR_EINVAL;
        memcpy(at, &v, sizeof v);
        return ZR_OK;
    }
    return ZR_ENOENT;
}

static void conf_print_one(const struct ns_settings *set, const char *name, struct zl_buf *out)
{
    const struct zr_option *row = conf_row(name);
    const uint8_t *at = (const uint8_t *)set + row->offset;
    zl_buf_cstr(out, name);
    zl_buf_u8(out, '=');
    if (row->type == ZR_OPT_BOOL) {
        zl_buf_cstr(out, *at ? "true" : "false");
    } else if (row->type == ZR_OPT_STR) {
        struct zr_str text;
        memcpy(&text, at, sizeof text);
        zl_buf_str(out, text);
    } else {
        int64_t v;
        memcpy(&v, at, sizeof v);
        zl_buf_i64(out, v);
    }
    zl_buf_u8(out, '\n');
}

static int name_compare(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

void ns_conf_print(struct zr_inst *inst, struct zl_buf *out)
{
    const char *names[sizeof ns_options / sizeof *ns_options];
    for (uint32_t i = 0; i < ns_n_options; i++)
        names[i] = ns_options[i].name;
    qsort(names, ns_n_options, sizeof *names, name_compare);
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_settings set = inst->set;
    pthread_rwlock_unlock(&inst->lock);
    for (uint32_t i = 0; i < ns_n_options; i++)
        conf_print_one(&set, names[i], out);
}

/* ---- 318 -------------------------------------------------------------------------------------------------------------- */

/* Every remote key with its value now: a document that says all is applied whole, or not at all. */
static zr_status conf_save(struct zr_inst *inst, const struct ns_settings *set)
{
    struct zl_buf doc;
    zl_buf_init(&doc, 64 * 1024);
    for (uint32_t i = 0; i < CONF_N_REMOTE; i++)
        conf_print_one(set, conf_remote[i], &doc);
    zr_status status = doc.failed ? ZR_ENOMEM : inst->state->write(inst->host, inst->set.config_path, zl_buf_as_span(&doc));
    zl_buf_free(&doc);
    return status;
}

static int32_t conf_judge(struct ns_settings *set, const struct zl_property *p, uint32_t n, uint32_t *ret_changes, const char **ret_remark)
{
    for (uint32_t i = 0; i < n; i++) {
        if (conf_in(conf_refused, sizeof conf_refused / sizeof *conf_refused, p[i].key)) {
            *ret_remark = "Can not update config in black list.";
            return NS_CODE_NO_PERMISSION;
        }
        if (!conf_in(conf_remote, CONF_N_REMOTE, p[i].key))
            continue;
        if (conf_set(set, p[i].key, p[i].value) != ZR_OK) {
            *ret_remark = "string2Properties error: a value is not a number within its limits";
            return NS_CODE_ERROR;
        }
        ++*ret_changes;
    }
    return NS_CODE_OK;
}

int32_t ns_conf_update(struct zr_inst *inst, struct zr_str text, const char **ret_remark)
{
    struct zl_property *properties;
    uint32_t n, line, changes = 0;
    *ret_remark = NULL;
    if (zl_properties_parse(text, &properties, &n, &line) != ZR_OK) {
        *ret_remark = "string2Properties error";
        return NS_CODE_ERROR;
    }
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_settings set = inst->set;
    pthread_rwlock_unlock(&inst->lock);
    int32_t code = conf_judge(&set, properties, n, &changes, ret_remark);
    if (code == NS_CODE_OK && changes > 0 && conf_save(inst, &set) != ZR_OK) {
        *ret_remark = "the changed configuration could not be stored";
        code = NS_CODE_ERROR;
    }
    if (code == NS_CODE_OK && changes > 0) {
        uint32_t ignored;
        pthread_rwlock_wrlock(&inst->lock);
        (void)conf_judge(&inst->set, properties, n, &ignored, ret_remark);
        inst->gen++;
        pthread_rwlock_unlock(&inst->lock);
        ns_log(inst, ZR_LOG_INFO, "%u settings changed by request", changes);
    }
    free(properties);
    return code;
}

/* ---- start ------------------------------------------------------------------------------------------------------------ */

static zr_status conf_accept(void *ctx, struct zr_span bytes)
{
    struct zr_inst *inst = ctx;
    struct zl_property *properties;
    uint32_t n, line;
    zr_status status = zl_properties_parse((struct zr_str){ (const char *)bytes.ptr, bytes.len }, &properties, &n, &line);
    if (status != ZR_OK)
        return status;
    struct ns_settings before = inst->set;
    for (uint32_t i = 0; i < n; i++)
        if (conf_in(conf_remote, CONF_N_REMOTE, properties[i].key))
            (void)conf_set(&inst->set, properties[i].key, properties[i].value);
    for (uint32_t i = 0; i < CONF_N_REMOTE; i++) {
        const struct zr_option *row = conf_row(conf_remote[i]);
        uint64_t size = row->type == ZR_OPT_BOOL ? 1 : 8;
        if (memcmp((uint8_t *)&before + row->offset, (uint8_t *)&inst->set + row->offset, size) != 0)
            ns_log(inst, ZR_LOG_INFO, "%s is as an earlier request left it, not as configured (remove %s to undo)", row->name, inst->set.config_path.ptr);
    }
    free(properties);
    return ZR_OK;
}

zr_status ns_conf_load(struct zr_inst *inst)
{
    zr_status status = inst->state->read(inst->host, inst->set.config_path, conf_accept, inst);
    return status == ZR_ENOENT ? ZR_OK : status;
}
