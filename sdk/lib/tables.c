/* SPDX-License-Identifier: Apache-2.0 */
/* tables.c - topics, groups and data versions as JSON. */
#include "zl/tables.h"
#include "zl/text.h"

void zl_version_print(struct zl_jw *w, const char *key, const struct zr_data_version *version)
{
    zl_jw_key(w, zl_str(key));
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "counter", version->counter);
    zl_jw_ki64(w, "stateVersion", version->state_version);
    zl_jw_ki64(w, "timestamp", version->timestamp);
    zl_jw_end(w, '}');
}

static void attributes_print(struct zl_jw *w, const struct zr_field *attributes, uint32_t n)
{
    zl_jw_key(w, zl_str("attributes"));
    zl_jw_begin(w, '{');
    for (uint32_t i = 0; i < n; i++) {
        zl_jw_key(w, attributes[i].name);
        zl_jw_str(w, attributes[i].value);
    }
    zl_jw_end(w, '}');
}

void zl_topic_print(struct zl_jw *w, const struct zr_topic *t)
{
    zl_jw_begin(w, '{');
    attributes_print(w, t->attributes, t->n_attributes);
    zl_jw_kbool(w, "order", t->order);
    zl_jw_ki64(w, "perm", t->perm);
    zl_jw_ki64(w, "readQueueNums", t->read_queues);
    zl_jw_kstr(w, "topicFilterType", zl_str(t->multi_tag ? "MULTI_TAG" : "SINGLE_TAG"));
    zl_jw_kstr(w, "topicName", t->name);
    zl_jw_ki64(w, "topicSysFlag", t->sys_flag);
    zl_jw_ki64(w, "writeQueueNums", t->write_queues);
    zl_jw_members(w, t->more_json);
    zl_jw_end(w, '}');
}

void zl_group_print(struct zl_jw *w, const struct zr_group *g)
{
    zl_jw_begin(w, '{');
    attributes_print(w, g->attributes, g->n_attributes);
    zl_jw_ki64(w, "brokerId", g->broker_id);
    zl_jw_kbool(w, "consumeBroadcastEnable", g->consume_broadcast_enable);
    zl_jw_kbool(w, "consumeEnable", g->consume_enable);
    zl_jw_kbool(w, "consumeFromMinEnable", g->consume_from_min_enable);
    zl_jw_kbool(w, "consumeMessageOrderly", g->consume_orderly);
    zl_jw_ki64(w, "consumeTimeoutMinute", g->consume_timeout_minute);
    zl_jw_kstr(w, "groupName", g->name);
    zl_jw_key(w, zl_str("groupRetryPolicy"));
    zl_jw_raw(w, g->retry_policy_json.len ? g->retry_policy_json : zl_str("{\"type\":\"CUSTOMIZED\"}"));
    zl_jw_ki64(w, "groupSysFlag", g->sys_flag);
    zl_jw_kbool(w, "notifyConsumerIdsChangedEnable", g->notify_ids_changed);
    zl_jw_ki64(w, "retryMaxTimes", g->retry_max_times);
    zl_jw_ki64(w, "retryQueueNums", g->retry_queues);
    if (g->subscription_data_json.len) {
        zl_jw_key(w, zl_str("subscriptionDataSet"));
        zl_jw_raw(w, g->subscription_data_json);
    }
    zl_jw_ki64(w, "whichBrokerWhenConsumeSlowly", g->slow_broker_id);
    zl_jw_members(w, g->more_json);
    zl_jw_end(w, '}');
}
