/* SPDX-License-Identifier: Apache-2.0 */
/* settings.c - the rows of the section `broker`, under the names of Apache's keys, and codes 25 and 26 on top of them.
 *
 * What stays true: every row has an effect here; a row marked LIVE may be changed while the broker runs, and nothing
 * else may (that is the allow-list of code 25). Live values are read with relaxed loads (ZB_SET); text is never
 * live. Changes by code 25 last until the process ends: the configuration file stays the operator's. */
#include "broker/internal.h"
#include "config/config.h"

#define S struct zb_settings
static const char *const roles[] = { "ASYNC_MASTER", "SYNC_MASTER", "SLAVE", NULL };

const struct zr_option zk_broker_options[] = {
    ZR_OPTION_ROW(S, auto_create_group, "autoCreateSubscriptionGroup", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL,
                  NULL, "Heartbeats, pulls and send-backs of an unknown consumer group make it."),
    ZR_OPTION_ROW(S, auto_create_topic, "autoCreateTopicEnable", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL,
                  "A send to an unknown topic makes it from the template topic TBW102."),
    ZR_OPTION_ROW(S, broadcast_expire_max_s, "broadcastOffsetExpireMaxSecond", ZR_OPT_I64, ZR_OPT_LIVE, "300", "1",
                  "31536000", NULL, "Seconds after which the offsets of a broadcasting client that pulls no more are forgotten."),
    ZR_OPTION_ROW(S, broadcast_expire_s, "broadcastOffsetExpireSecond", ZR_OPT_I64, ZR_OPT_LIVE, "120", "1", "31536000",
                  NULL, "The same for one that is not connected."),
    ZR_OPTION_ROW(S, broker_permission, "brokerPermission", ZR_OPT_I64, ZR_OPT_LIVE, "6", "0", "7", NULL,
                  "What this broker allows and announces: 4 read, 2 write, 6 both."),
    ZR_OPTION_ENUM(S, role, "brokerRole", 0, "ASYNC_MASTER", roles,
                   "SYNC_MASTER: answers to sends wait for inSyncReplicas as well. SLAVE: no sends, and pulls only with "
                   "slaveReadEnable."),
    ZR_OPTION_ROW(S, broker_topic, "brokerTopicEnable", ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL,
                  "The topic named after the broker may be read and written."),
    ZR_OPTION_ROW(S, cold_group_bytes, "cgColdReadThreshold", ZR_OPT_I64, ZR_OPT_LIVE, "3145728", "0", NULL, "bytes",
                  "What a consumer group may have fetched from the disk in five seconds (coldDataFlowControlEnable)."),
    ZR_OPTION_ROW(S, channel_expired_ms, "channelExpiredTimeout", ZR_OPT_I64, ZR_OPT_LIVE, "120000", "1000", NULL, "ms",
                  "A client without a heartbeat for this long is disconnected."),
    ZR_OPTION_ROW(S, client_scan_ms, "clientScanInterval", ZR_OPT_I64, 0, "10000", "100", NULL, "ms",
                  "How often clients that fell silent are looked for (Zarya's own key)."),
    ZR_OPTION_ROW(S, cluster_topic, "clusterTopicEnable", ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL,
                  "The topic named after the cluster may be read and written."),
    ZR_OPTION_ROW(S, cold_control, "coldDataFlowControlEnable", ZR_OPT_BOOL, ZR_OPT_LIVE, "false", NULL, NULL, NULL,
                  "Groups that read too much that is not in memory are held back."),
    ZR_OPTION_ROW(S, offset_version_step, "consumerOffsetUpdateVersionStep", ZR_OPT_I64, ZR_OPT_LIVE, "500", "1", NULL,
                  NULL, "Commits between two data versions of the consumer offsets."),
    ZR_OPTION_ROW(S, default_topic_queues, "defaultTopicQueueNums", ZR_OPT_I64, 0, "8", "1", "65536", NULL,
                  "Queues of the template topic, hence the most that an automatically made topic gets."),
    ZR_OPTION_ROW(S, broadcast_store, "enableBroadcastOffsetStore", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL,
                  "How far each client of a broadcasting group has pulled is remembered, for when it comes by a proxy."),
    ZR_OPTION_ROW(S, create_sys_group, "enableCreateSysGroup", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL,
                  "Groups named CID_RMQ_SYS_... are made on demand even without autoCreateSubscriptionGroup."),
    ZR_OPTION_ROW(S, calc_bits, "enableCalcFilterBitMap", ZR_OPT_BOOL, ZR_OPT_LIVE, "false", NULL, NULL, NULL,
                  "Messages get a bit map of the consumers by property whose filters they match, if the storage writes "
                  "extents (enableConsumeQueueExt)."),
    ZR_OPTION_ROW(S, bloom_consumers, "expectConsumerNumUseFilter", ZR_OPT_I64, 0, "32", "1", "1000000", NULL,
                  "Consumers by property of one topic that the length of a bit map is made for."),
    ZR_OPTION_ROW(S, in_sync_replicas, "inSyncReplicas", ZR_OPT_I64, 0, "1", "1", "100", NULL,
                  "Copies that a send waits for, this broker's own among them (brokerRole SYNC_MASTER)."),
    ZR_OPTION_ROW(S, bloom_error, "maxErrorRateOfBloomFilter", ZR_OPT_I64, 0, "20", "1", "99", "%",
                  "How often a bit map may let a message pass to be looked at in vain."),
    ZR_OPTION_ROW(S, property_filter, "enablePropertyFilter", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL,
                  "Consumers may filter by properties (SQL92), if a plugin for it is loaded."),
    ZR_OPTION_ROW(S, filter_clean_ms, "filterDataCleanTimeSpan", ZR_OPT_I64, ZR_OPT_LIVE, "86400000", "0", NULL, "ms",
                  "How long the filter of a consumer group is kept after its last consumer left."),
    ZR_OPTION_ROW(S, flush_offset_ms, "flushConsumerOffsetInterval", ZR_OPT_I64, ZR_OPT_LIVE, "5000", "100", NULL, "ms",
                  "How often changed consumer offsets are written to disk."),
    ZR_OPTION_ROW(S, cold_all_bytes, "globalColdReadThreshold", ZR_OPT_I64, ZR_OPT_LIVE, "104857600", "0", NULL, "bytes",
                  "The same for all groups together: beyond it all that read from the disk are held back."),
    ZR_OPTION_ROW(S, lite_pull, "litePullMessageEnable", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL,
                  "Lite pull consumers (code 361) are served."),
    ZR_OPTION_ROW(S, long_polling, "longPollingEnable", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL,
                  "Pulls that find nothing are held as long as the client asks; else for shortPollingTimeMills."),
    ZR_OPTION_ROW(S, max_clients, "maxClients", ZR_OPT_I64, ZR_OPT_LIVE, "1000000", "1", NULL, NULL,
                  "Memberships of clients in groups that are kept; further heartbeats are answered with an error "
                  "(Zarya's own key)."),
    ZR_OPTION_ROW(S, max_progress, "maxConsumerOffsets", ZR_OPT_I64, ZR_OPT_LIVE, "1000000", "1", NULL, NULL,
                  "Pairs of group and topic whose offsets are kept (Zarya's own key)."),
    ZR_OPTION_ROW(S, max_groups, "maxGroups", ZR_OPT_I64, ZR_OPT_LIVE, "200000", "16", NULL, NULL,
                  "Subscription groups; beyond it none is made (Zarya's own key)."),
    ZR_OPTION_ROW(S, max_peer_groups, "maxGroupsOfConnection", ZR_OPT_I64, ZR_OPT_LIVE, "10000", "1", NULL, NULL,
                  "Groups that one connection can be in by its heartbeats; one that names more is answered with an error "
                  "(Zarya's own key)."),
    ZR_OPTION_ROW(S, max_held_peer, "maxHeldPullsOfConnection", ZR_OPT_I64, ZR_OPT_LIVE, "50000", "1", NULL, NULL,
                  "Pulls of one connection held for long polling; further ones are answered SYSTEM_BUSY (Zarya's own key)."),
    ZR_OPTION_ROW(S, max_held, "maxHeldPulls", ZR_OPT_I64, ZR_OPT_LIVE, "200000", "1", NULL, NULL,
                  "Pulls held for long polling; further ones are answered SYSTEM_BUSY (Zarya's own key)."),
    ZR_OPTION_ROW(S, max_message_size, "maxMessageSize", ZR_OPT_I64, ZR_OPT_LIVE, "4194304", "1024", "16000000",
                  "bytes", "The largest message body, and the largest batch."),
    ZR_OPTION_ROW(S, max_topics, "maxTopics", ZR_OPT_I64, ZR_OPT_LIVE, "200000", "32", NULL, NULL,
                  "Topics; beyond it none is made (Zarya's own key)."),
    ZR_OPTION_ROW(S, max_transfer_bytes, "maxTransferBytesOnMessageInMemory", ZR_OPT_I64, ZR_OPT_LIVE, "262144", "100",
                  "134217728", "bytes",
                  "Bytes of messages in one answer to a pull; at the default, what comes from disk is cut at 64 KiB."),
    ZR_OPTION_ROW(S, max_transfer_count, "maxTransferCountOnMessageInMemory", ZR_OPT_I64, ZR_OPT_LIVE, "32", "1",
                  "1024", NULL, "Messages in one pull's answer."),
    ZR_OPTION_ROW(S, trace_topic, "msgTraceTopicName", ZR_OPT_STR, 0, "RMQ_SYS_TRACE_TOPIC", NULL, NULL, NULL,
                  "Topic for client traces, made when traceTopicEnable is set."),
    ZR_OPTION_ROW(S, region_id, "regionId", ZR_OPT_STR, 0, "DefaultRegion", NULL, NULL, NULL,
                  "Region name put into messages and answers."),
    ZR_OPTION_ROW(S, reject_pull_consumer, "rejectPullConsumerEnable", ZR_OPT_BOOL, ZR_OPT_LIVE, "false", NULL, NULL,
                  NULL, "Consumers that pull actively are refused."),
    ZR_OPTION_ROW(S, reject_transaction, "rejectTransactionMessage", ZR_OPT_BOOL, ZR_OPT_LIVE, "false", NULL, NULL,
                  NULL, "Transactional messages are refused."),
    ZR_OPTION_ROW(S, revive_queues, "reviveQueueNum", ZR_OPT_I64, 0, "8", "1", "1024", NULL,
                  "Queues of the system topic for pop check points."),
    ZR_OPTION_ROW(S, short_polling_ms, "shortPollingTimeMills", ZR_OPT_I64, ZR_OPT_LIVE, "1000", "1", "60000", "ms",
                  "How long a pull is held when longPollingEnable is off."),
    ZR_OPTION_ROW(S, slave_read, "slaveReadEnable", ZR_OPT_BOOL, ZR_OPT_LIVE, "false", NULL, NULL, NULL,
                  "A slave serves pulls, and a master sends consumers that are far behind to it."),
    ZR_OPTION_ROW(S, slave_timeout_ms, "slaveTimeout", ZR_OPT_I64, ZR_OPT_LIVE, "3000", "1", NULL, "ms",
                  "How long an answer waits for replicas (brokerRole SYNC_MASTER)."),
    ZR_OPTION_ROW(S, start_accept_ms, "startAcceptSendRequestTimeStamp", ZR_OPT_I64, ZR_OPT_LIVE, "0", "0", NULL, NULL,
                  "Sends are refused before this time (ms since 1970)."),
    ZR_OPTION_ROW(S, sync_flush_timeout_ms, "syncFlushTimeout", ZR_OPT_I64, ZR_OPT_LIVE, "5000", "1", NULL, "ms",
                  "How long an answer waits for the disk under sync flush."),
    ZR_OPTION_ROW(S, timer_wheel, "timerWheelEnable", ZR_OPT_BOOL, 0, "true", NULL, NULL, NULL,
                  "The system topic for timed messages is made."),
    ZR_OPTION_ROW(S, trace_on, "traceOn", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL,
                  "Clients are told (TRACE_ON) to write traces."),
    ZR_OPTION_ROW(S, trace_topic_enable, "traceTopicEnable", ZR_OPT_BOOL, 0, "false", NULL, NULL, NULL,
                  "The topic for client traces is made at start."),
    ZR_OPTION_ROW(S, server_side_reset, "useServerSideResetOffset", ZR_OPT_BOOL, ZR_OPT_LIVE, "true", NULL, NULL, NULL,
                  "Offset resets are kept here and taken by the next pull of each queue."),
};
#undef S
const uint32_t zk_n_broker_options = sizeof zk_broker_options / sizeof zk_broker_options[0];
const uint32_t zk_broker_settings_size = sizeof(struct zb_settings);

static const struct zr_option *option_find(struct zr_str key)
{
    for (uint32_t i = 0; i < zk_n_broker_options; i++)
        if (zl_is(key, zk_broker_options[i].name))
            return &zk_broker_options[i];
    return NULL;
}

static zr_status option_parse(const struct zr_option *o, struct zr_str text, int64_t *ret)
{
    if (o->type == ZR_OPT_BOOL) {
        if (!zl_eq_nocase(text, "true") && !zl_eq_nocase(text, "false"))
            return ZR_EINVAL;
        *ret = zl_eq_nocase(text, "true");
        return ZR_OK;
    }
    if (o->type == ZR_OPT_ENUM) {
        for (int64_t i = 0; o->choices[i]; i++)
            if (zl_is(text, o->choices[i])) {
                *ret = i;
                return ZR_OK;
            }
        return ZR_EINVAL;
    }
    int64_t v, limit;
    if (zl_parse_i64(text, &v) != ZR_OK)
        return ZR_EINVAL;
    if (o->min && zl_parse_i64(zl_str(o->min), &limit) == ZR_OK && v < limit)
        return ZR_EINVAL;
    if (o->max && zl_parse_i64(zl_str(o->max), &limit) == ZR_OK && v > limit)
        return ZR_EINVAL;
    *ret = v;
    return ZR_OK;
}

static void option_store(const struct zr_option *o, void *settings, int64_t value)
{
    char *at = (char *)settings + o->offset;
    if (o->type == ZR_OPT_BOOL)
        __atomic_store_n((uint8_t *)at, (uint8_t)value, __ATOMIC_RELAXED);
    else
        __atomic_store_n((int64_t *)(void *)at, value, __ATOMIC_RELAXED);
}

void zb_settings_default(struct zb_settings *ret)
{
    memset(ret, 0, sizeof *ret);
    for (uint32_t i = 0; i < zk_n_broker_options; i++) {
        const struct zr_option *o = &zk_broker_options[i];
        int64_t v = 0;
        if (o->type == ZR_OPT_STR)
            *(struct zr_str *)(void *)((char *)ret + o->offset) = zl_str(o->dflt);
        else if (option_parse(o, zl_str(o->dflt), &v) == ZR_OK)
            option_store(o, ret, v);
    }
}

/* Keys of Apache's that are no row are known all the same: to answer that one was changed would be untrue. */
static zr_status option_judge(struct zr_str key, struct zr_str value, const struct zr_option **ret, int64_t *ret_value)
{
    char name[128];
    *ret = option_find(key);
    if (*ret && ((*ret)->flags & ZR_OPT_LIVE))
        return option_parse(*ret, zl_trim(value), ret_value) == ZR_OK ? ZR_OK : ZR_EINVAL;
    if (*ret)
        return ZR_EPERM;
    if (key.len >= sizeof name)
        return ZR_ENOENT;
    memcpy(name, key.ptr, key.len);
    name[key.len] = 0;
    return zk_apache_key(name) ? ZR_EPERM : ZR_ENOENT;
}

zr_status zb_settings_check(struct zr_str key, struct zr_str value)
{
    const struct zr_option *o;
    int64_t v;
    return option_judge(key, value, &o, &v);
}

zr_status zb_settings_change(struct zr_str key, struct zr_str value)
{
    const struct zr_option *o;
    int64_t v;
    zr_status status = option_judge(key, value, &o, &v);
    if (status != ZR_OK)
        return status;
    option_store(o, &zb.set, v);
    zk_log(ZR_LOG_INFO, "configuration: %s = %.*s (by request, until the next start)", o->name, (int)value.len,
           value.ptr);
    if (zl_is(key, "brokerPermission")) {
        zb_topics_bump();
        zb_announce(NULL, 0, NULL, NULL);
    }
    return ZR_OK;
}

/* ---- code 26: rows, what the node's section says, and keys of an imported broker.conf ---- */
struct kv {
    struct zr_str key, value;
    char text[24];
};
struct kv_list {
    struct kv *items;
    uint32_t n, cap;
};

static void kv_add(struct kv_list *l, struct zr_str key, struct zr_str value)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (zl_eq(l->items[i].key, key))
            return;
    if (l->n == l->cap)
        return;
    struct kv *kv = &l->items[l->n++];
    kv->key = key;
    kv->value = value;
}

static void kv_add_i64(struct kv_list *l, const char *key, int64_t value)
{
    if (l->n == l->cap)
        return;
    struct kv *kv = &l->items[l->n];
    uint32_t len = zl_print_i64(kv->text, value);
    kv_add(l, zl_str(key), (struct zr_str){ kv->text, len });
}

static void kv_add_row(struct kv_list *l, const struct zr_option *o)
{
    const char *at = (const char *)&zb.set + o->offset;
    if (o->type == ZR_OPT_STR)
        kv_add(l, zl_str(o->name), *(const struct zr_str *)(const void *)at);
    else if (o->type == ZR_OPT_BOOL)
        kv_add(l, zl_str(o->name), zl_str(__atomic_load_n((const uint8_t *)at, __ATOMIC_RELAXED) ? "true" : "false"));
    else if (o->type == ZR_OPT_ENUM)
        kv_add(l, zl_str(o->name),
               zl_str(o->choices[__atomic_load_n((const int64_t *)(const void *)at, __ATOMIC_RELAXED)]));
    else
        kv_add_i64(l, o->name, __atomic_load_n((const int64_t *)(const void *)at, __ATOMIC_RELAXED));
}

static int kv_compare(const void *a, const void *b)
{
    return zl_compare(((const struct kv *)a)->key, ((const struct kv *)b)->key);
}

/* Items move when sorted: number texts lie inside them and are pointed to again. */
static void kv_repoint(struct kv *kv, const struct kv *old_base, uint32_t n)
{
    const char *base = (const char *)old_base;
    if (kv->value.ptr >= base && kv->value.ptr < base + sizeof *kv * n)
        kv->value.ptr = kv->text;
}

void zb_settings_each(int32_t (*each)(void *ctx, struct zr_str key, struct zr_str value), void *ctx)
{
    struct kv_list l = { NULL, 0, zk_n_broker_options + zk_node.n_imported + 24u };
    l.items = calloc(l.cap, sizeof *l.items);
    if (!l.items)
        return;
    for (uint32_t i = 0; i < zk_n_broker_options; i++)
        kv_add_row(&l, &zk_broker_options[i]);
    kv_add(&l, zl_str("brokerClusterName"), zb.id.cluster);
    kv_add(&l, zl_str("brokerName"), zb.id.name);
    kv_add_i64(&l, "brokerId", zb.id.id);
    kv_add(&l, zl_str("brokerIP1"), zl_str(zb.ip1));
    kv_add(&l, zl_str("brokerIP2"), zl_str(zb.ip2));
    kv_add_i64(&l, "listenPort", zb.id.store_host.port);
    kv_add_i64(&l, "haListenPort", zb.id.store_host.port + 1);
    kv_add(&l, zl_str("flushDiskType"), zl_str(zb.sync ? "SYNC_FLUSH" : "ASYNC_FLUSH"));
    kv_add(&l, zl_str("storePathRootDir"), zl_str(zk_node.data_dir ? zk_node.data_dir : ""));
    for (uint32_t i = 0; i < zk_node.n_imported; i++)
        kv_add(&l, zk_node.imported[i].name, zk_node.imported[i].value);
    qsort(l.items, l.n, sizeof *l.items, kv_compare);
    for (uint32_t i = 0; i < l.n; i++)
        kv_repoint(&l.items[i], l.items, l.n);
    for (uint32_t i = 0; i < l.n; i++)
        if (each(ctx, l.items[i].key, l.items[i].value) != 0)
            break;
    free(l.items);
}
