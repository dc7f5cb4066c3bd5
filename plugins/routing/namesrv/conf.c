/* SPDX-License-Identifier: Apache-2.0 */
/* conf.c - the options of routing-namesrv, and what requests 318 and 319 may do with them.
 *
 * On the wire the settings have Apache's names (NamesrvConfig); keys[] says which option is which. Anybody who reaches the port may
 * send 318; therefore only keys with an option there can be changed by it: switches and times. Paths, addresses and everything
 * else that Apache knows are refused with 16; keys that nobody knows are ignored, as Apache ignores them. What 318 changed is kept in a document of its
 * own (properties text) and applied over the configuration at the next start, with a line in the log for each. */
#include <stddef.h>
#include <stdlib.h>
#include "namesrv.h"
#include "zl/conf.h"

#define ROW_BOOL(member, name, dflt, doc) ZR_OPTION_ROW(struct ns_settings, member, name, ZR_OPT_BOOL, ZR_OPT_LIVE, dflt, NULL, NULL, NULL, doc)
#define ROW_I64(member, name, dflt, min, max, unit, flags, doc) \
    ZR_OPTION_ROW(struct ns_settings, member, name, ZR_OPT_I64, flags, dflt, min, max, unit, doc)

const struct zr_option ns_options[] = {
    ROW_BOOL(order_message_enable, "order_message_enable", "false", "Route answers carry the topic's entry of KV namespace ORDER_TOPIC_CONFIG."),
    ROW_BOOL(return_order_topic_config, "return_order_topic_config", "true", "Answers to registrations carry KV namespace ORDER_TOPIC_CONFIG."),
    ROW_BOOL(enable_all_topic_list, "enable_all_topic_list", "true", "Answer requests for the list of all topics."),
    ROW_BOOL(enable_topic_list, "enable_topic_list", "true", "Answer requests for lists of topics by cluster and unit."),
    ROW_BOOL(notify_min_broker_id, "notify_min_broker_id", "false", "Tell the brokers of a group when its least broker id changes."),
    ROW_BOOL(support_acting_master, "support_acting_master", "false", "Show the least id of a group without master as its master."),
    ROW_BOOL(delete_topic_with_registration, "delete_topic_with_registration", "false", "A full registration removes the broker's topics it does not carry."),
    ROW_BOOL(need_wait_for_service, "need_wait_for_service", "false", "Answer route queries only after wait_for_service."),
    ROW_BOOL(announce_local, "announce_local", "true", "Put the broker of this process into the tables directly, without a connection."),
    ROW_I64(wait_for_service_ms, "wait_for_service", "45 s", "0", "1 h", "ms", ZR_OPT_LIVE, "How long route queries wait after the start."),
    ROW_I64(scan_interval_ms, "scan_interval", "1 s", "1 ms", "1 h", "ms", ZR_OPT_LIVE,
            "Brokers expire at their deadline; this is the least time between two looks at them."),
    ROW_I64(max_topics, "max_topics", "1000000", "1", "100000000", NULL, 0, "Most topics in the tables."),
    ROW_I64(max_entries, "max_entries", "20000000", "1", "1000000000", NULL, 0, "Most (topic, broker) pairs in the tables; 24 bytes each."),
    ROW_I64(route_cache_bytes, "route_cache", "64 MiB", "0", "64 GiB", "bytes", ZR_OPT_LIVE, "Memory for ready-made route answers."),
    ZR_OPTION_ROW(struct ns_settings, kv_path, "kv_path", ZR_OPT_STR, 0, "namesrv/kvConfig.json", NULL, NULL, NULL,
                  "Document of the KV configuration, below the data directory. A file elsewhere is taken over, then kept there by its name."),
    ZR_OPTION_ROW(struct ns_settings, config_path, "config_path", ZR_OPT_STR, 0, "namesrv/namesrv.properties", NULL, NULL, NULL,
                  "Document of what request 318 changed, relative to the data directory."),
};
const uint32_t ns_n_options = sizeof ns_options / sizeof *ns_options;

/* The keys that 318 may change, sorted; all but the two times (ms, unit: the key's own) are switches. */
struct conf_key { const char *key; uint32_t offset; int32_t unit_ms; };
#define KEY(key, member, unit) { key, (uint32_t)offsetof(struct ns_settings, member), unit }
static const struct conf_key conf_keys[] = {
    KEY("deleteTopicWithBrokerRegistration", delete_topic_with_registration, 0),
    KEY("enableAllTopicList", enable_all_topic_list, 0),
    KEY("enableTopicList", enable_topic_list, 0),
    KEY("needWaitForService", need_wait_for_service, 0),
    KEY("notifyMinBrokerIdChanged", notify_min_broker_id, 0),
    KEY("orderMessageEnable", order_message_enable, 0),
    KEY("returnOrderTopicConfigToBroker", return_order_topic_config, 0),
    KEY("scanNotActiveBrokerInterval", scan_interval_ms, 1),
    KEY("supportActingMaster", support_acting_master, 0),
    KEY("waitSecondsForService", wait_for_service_ms, 1000),
};
#define CONF_N_KEYS (sizeof conf_keys / sizeof *conf_keys)
#define CONF_MAX_MS 3600000

/* Apache's keys that 318 may not touch (NamesrvConfig and NettyServerConfig); everything not named anywhere is unknown. */
static const char *const conf_refused[] = {
    "bindAddress", "clientRequestThreadPoolNums", "clientRequestThreadPoolQueueCapacity", "clusterTest", "configBlackList", "configStorePath",
    "defaultThreadPoolNums", "defaultThreadPoolQueueCapacity", "enableControllerInNamesrv", "enableShutdownGracefully", "kvConfigPath", "listenPort",
    "productEnvName", "rocketmqHome", "serverAsyncSemaphoreValue", "serverCallbackExecutorThreads", "serverChannelMaxIdleTimeSeconds",
    "serverNettyWorkerGroupEnable", "serverOnewaySemaphoreValue", "serverPooledByteBufAllocatorEnable", "serverSelectorThreads", "serverSocketBacklog",
    "serverSocketRcvBufSize", "serverSocketSndBufSize", "serverWorkerThreads", "shutdownWaitTimeSeconds", "unRegisterBrokerQueueCapacity",
    "useEpollNativeSelector", "writeBufferHighWaterMark", "writeBufferLowWaterMark",
};

static const struct conf_key *conf_find(struct zr_str key)
{
    for (uint32_t i = 0; i < CONF_N_KEYS; i++)
        if (zl_is(key, conf_keys[i].key))
            return &conf_keys[i];
    return NULL;
}

static uint32_t conf_is_refused(struct zr_str key)
{
    for (uint32_t i = 0; i < sizeof conf_refused / sizeof *conf_refused; i++)
        if (zl_is(key, conf_refused[i]))
            return 1;
    return 0;
}

/* Values as Java reads them: "true" in any case is true, all else false; times are numbers within limits. */
static zr_status conf_set(struct ns_settings *set, const struct conf_key *key, struct zr_str value)
{
    uint8_t *at = (uint8_t *)set + key->offset;
    int64_t v;
    if (key->unit_ms == 0) {
        *at = (uint8_t)zl_eq_nocase(zl_trim(value), "true");
        return ZR_OK;
    }
    if (zl_parse_i64(zl_trim(value), &v) != ZR_OK || v < 0 || v > CONF_MAX_MS / key->unit_ms || (v == 0 && key->unit_ms == 1))
        return ZR_EINVAL;
    v *= key->unit_ms;
    memcpy(at, &v, sizeof v);
    return ZR_OK;
}

static void conf_print_one(const struct ns_settings *set, const struct conf_key *key, struct zl_buf *out)
{
    const uint8_t *at = (const uint8_t *)set + key->offset;
    int64_t v = 0;
    zl_buf_cstr(out, key->key);
    zl_buf_u8(out, '=');
    if (key->unit_ms == 0) {
        zl_buf_cstr(out, *at ? "true" : "false");
    } else {
        memcpy(&v, at, sizeof v);
        zl_buf_i64(out, v / key->unit_ms);
    }
    zl_buf_u8(out, '\n');
}

/* Sorted as Apache sorts: the fixed keys fall in between by hand. */
void ns_conf_print(struct zr_inst *inst, struct zl_buf *out)
{
    uint32_t i = 0;
    pthread_rwlock_rdlock(&inst->lock);
    struct ns_settings set = inst->set;
    pthread_rwlock_unlock(&inst->lock);
    zl_buf_cstr(out, "configBlackList=configBlackList;configStorePath;kvConfigPath\n");
    zl_buf_fmt(out, "configStorePath=%s/%.*s\n", inst->host->data_dir, (int)set.config_path.len, set.config_path.ptr);
    for (; strcmp(conf_keys[i].key, "kvConfigPath") < 0; i++)
        conf_print_one(&set, &conf_keys[i], out);
    zl_buf_fmt(out, "kvConfigPath=%s/%.*s\n", inst->host->data_dir, (int)set.kv_path.len, set.kv_path.ptr);
    for (; i < CONF_N_KEYS; i++)
        conf_print_one(&set, &conf_keys[i], out);
}

/* ---- 318 -------------------------------------------------------------------------------------------------------------- */

/* Every remote key with its value now: a document that says all is applied whole, or not at all. */
static zr_status conf_save(struct zr_inst *inst, const struct ns_settings *set)
{
    struct zl_buf doc;
    zl_buf_init(&doc, 64 * 1024);
    for (uint32_t i = 0; i < CONF_N_KEYS; i++)
        conf_print_one(set, &conf_keys[i], &doc);
    zr_status status = doc.failed ? ZR_ENOMEM : inst->state->write(inst->host, inst->set.config_path, zl_buf_as_span(&doc));
    zl_buf_free(&doc);
    return status;
}

static int32_t conf_judge(struct ns_settings *set, const struct zl_property *p, uint32_t n, uint32_t *ret_changes, const char **ret_remark)
{
    for (uint32_t i = 0; i < n; i++) {
        const struct conf_key *key = conf_find(p[i].key);
        if (conf_is_refused(p[i].key)) {
            *ret_remark = "Can not update config in black list.";
            return NS_CODE_NO_PERMISSION;
        }
        if (!key)
            continue;
        if (conf_set(set, key, p[i].value) != ZR_OK) {
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
    for (uint32_t i = 0; i < n; i++) {
        const struct conf_key *key = conf_find(properties[i].key);
        if (key)
            (void)conf_set(&inst->set, key, properties[i].value);
    }
    for (uint32_t i = 0; i < CONF_N_KEYS; i++) {
        const uint8_t *then = (uint8_t *)&before + conf_keys[i].offset, *now = (uint8_t *)&inst->set + conf_keys[i].offset;
        if (memcmp(then, now, conf_keys[i].unit_ms ? 8 : 1) != 0)
            ns_log(inst, ZR_LOG_INFO, "%s is as an earlier request left it, not as configured (remove %s/%s to undo)", conf_keys[i].key,
                   inst->host->data_dir, inst->set.config_path.ptr);
    }
    free(properties);
    return ZR_OK;
}

zr_status ns_conf_load(struct zr_inst *inst)
{
    zr_status status = inst->state->read(inst->host, inst->set.config_path, conf_accept, inst);
    return status == ZR_ENOENT ? ZR_OK : status;
}
