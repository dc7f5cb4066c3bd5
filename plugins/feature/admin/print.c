/* SPDX-License-Identifier: Apache-2.0 */
/* print.c - the JSON of RocketMQ's admin bodies: keys in ascending order, null fields left out, as fastjson prints beans. */
#include <stdlib.h>
#include <string.h>

#include "admin.h"

void names_add(struct names *names, struct zr_str name)
{
    if (names_has(names, name)) return;
    if (names->n == names->cap) {
        uint64_t cap = names->cap ? names->cap * 2 : 16;
        char **list = realloc(names->list, cap * sizeof *list);
        if (!list) return;
        names->list = list;
        names->cap = cap;
    }
    char *copy = zl_dup(name);
    if (copy) names->list[names->n++] = copy;
}

uint32_t names_has(const struct names *names, struct zr_str name)
{
    for (uint64_t i = 0; i < names->n; i++)
        if (zl_is(name, names->list[i])) return 1;
    return 0;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void names_sort(struct names *names)
{
    if (names->n) qsort(names->list, names->n, sizeof *names->list, by_text);
}

void names_free(struct names *names)
{
    for (uint64_t i = 0; i < names->n; i++) free(names->list[i]);
    free(names->list);
    *names = (struct names){ 0 };
}

void print_names(struct zl_jw *w, const char *key, const struct names *names)
{
    zl_jw_key(w, zl_str(key));
    zl_jw_begin(w, '[');
    for (uint64_t i = 0; i < names->n; i++) zl_jw_str(w, zl_str(names->list[i]));
    zl_jw_end(w, ']');
}

void print_data_version(struct zl_jw *w, const char *key, const struct zr_data_version *version)
{
    zl_jw_key(w, zl_str(key));
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "counter", version->counter);
    zl_jw_ki64(w, "stateVersion", version->state_version);
    zl_jw_ki64(w, "timestamp", version->timestamp);
    zl_jw_end(w, '}');
}

static void print_attributes(struct zl_jw *w, const struct zr_field *attributes, uint32_t n)
{
    zl_jw_key(w, zl_str("attributes"));
    zl_jw_begin(w, '{');
    for (uint32_t i = 0; i < n; i++) {
        zl_jw_key(w, attributes[i].name);
        zl_jw_str(w, attributes[i].value);
    }
    zl_jw_end(w, '}');
}

void print_topic(struct zl_jw *w, const struct zr_topic *t)
{
    zl_jw_begin(w, '{');
    print_attributes(w, t->attributes, t->n_attributes);
    zl_jw_kbool(w, "order", t->order);
    zl_jw_ki64(w, "perm", t->perm);
    zl_jw_ki64(w, "readQueueNums", t->read_queues);
    zl_jw_kstr(w, "topicFilterType", zl_str(t->multi_tag ? "MULTI_TAG" : "SINGLE_TAG"));
    zl_jw_kstr(w, "topicName", t->name);
    zl_jw_ki64(w, "topicSysFlag", t->sys_flag);
    zl_jw_ki64(w, "writeQueueNums", t->write_queues);
    zl_jw_end(w, '}');
}

void print_group(struct zl_jw *w, const struct zr_group *g)
{
    zl_jw_begin(w, '{');
    print_attributes(w, g->attributes, g->n_attributes);
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
    zl_jw_end(w, '}');
}

void print_subscription(struct zl_jw *w, const struct zr_subscription *s)
{
    zl_jw_begin(w, '{');
    zl_jw_kbool(w, "classFilterMode", s->class_filter);
    zl_jw_key(w, zl_str("codeSet"));
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < s->n_codes; i++) zl_jw_i64(w, s->codes[i]);
    zl_jw_end(w, ']');
    zl_jw_kstr(w, "expressionType", s->expression_type.len ? s->expression_type : zl_str("TAG"));
    zl_jw_kstr(w, "subString", s->text);
    zl_jw_ki64(w, "subVersion", s->version);
    zl_jw_key(w, zl_str("tagsSet"));
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < s->n_tags; i++) zl_jw_str(w, s->tags[i]);
    zl_jw_end(w, ']');
    zl_jw_kstr(w, "topic", s->topic);
    zl_jw_end(w, '}');
}

void print_queue_key(struct zl_jw *w, struct zr_str broker, struct zr_str topic, int32_t queue_id)
{
    zl_jw_begin_key(w);
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "brokerName", broker);
    zl_jw_ki64(w, "queueId", queue_id);
    zl_jw_kstr(w, "topic", topic);
    zl_jw_end(w, '}');
    zl_jw_end_key(w);
}

const char *consume_type_name(uint32_t type)
{
    return type == ZR_CONSUME_ACTIVELY ? "CONSUME_ACTIVELY" : type == ZR_CONSUME_POP ? "CONSUME_POP" : "CONSUME_PASSIVELY";
}

const char *model_name(uint32_t model)
{
    return model == ZR_MODEL_BROADCASTING ? "BROADCASTING" : model == ZR_MODEL_LITE_SELECTIVE ? "LITE_SELECTIVE" : "CLUSTERING";
}
