/* SPDX-License-Identifier: Apache-2.0 */
/* names.c - which names of topics and groups RocketMQ allows, and what it says of the others; which topics are the broker's own. */
#include <stdio.h>
#include <string.h>

#include "zl/text.h"
#include "zl/topics.h"

/* ^[%|a-zA-Z0-9_-]+$ */
static uint32_t is_legal(uint8_t c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '%' || c == '|' ||
           c == '_' || c == '-';
}

static uint32_t all_legal(struct zr_str s)
{
    for (uint64_t i = 0; i < s.len; i++) {
        if (!is_legal((uint8_t)s.ptr[i])) return 0;
    }
    return 1;
}

/* What is shown of a name in a remark: remarks go to logs and to terminals, and the name is anyone's. */
static int shown(struct zr_str s) { return s.len > 300 ? 300 : (int)s.len; }

uint32_t zl_topic_unsendable(struct zr_str name)
{
    static const char *const names[] = { "SCHEDULE_TOPIC_XXXX",
                                         "RMQ_SYS_TRANS_HALF_TOPIC",
                                         "RMQ_SYS_TRANS_OP_HALF_TOPIC",
                                         "RMQ_SYS_ROCKSDB_TRANS_HALF_TOPIC",
                                         "RMQ_SYS_ROCKSDB_TRANS_OP_HALF_TOPIC",
                                         "TRANS_CHECK_MAX_TIME_TOPIC",
                                         "SELF_TEST_TOPIC",
                                         "OFFSET_MOVED_EVENT",
                                         "rmq_sys_wheel_timer",
                                         NULL };
    if (name.len == 0 || !memchr("SRTOr", name.ptr[0], 5)) return 0;
    for (uint32_t i = 0; names[i]; i++)
        if (zl_is(name, names[i])) return 1;
    return 0;
}

zr_status zl_topic_check(struct zr_str topic, char *why, uint64_t cap)
{
    uint32_t retry = zl_starts(topic, "%RETRY%") || zl_starts(topic, "%DLQ%");
    if (zl_trim(topic).len == 0) {
        snprintf(why, cap, "The specified topic is blank.");
    } else if (!all_legal(topic)) {
        snprintf(why, cap, "The specified topic: %.*s, contains illegal characters, allowing only ^[%%|a-zA-Z0-9_-]+$",
                 shown(topic), topic.ptr);
    } else if (retry && topic.len > ZL_RETRY_TOPIC_MAX) {
        snprintf(why, cap, "The specified topic is DLQ or Retry topic: %.*s, and it's longer than topic max length: %u",
                 shown(topic), topic.ptr, ZL_RETRY_TOPIC_MAX);
    } else if (!retry && topic.len > ZL_TOPIC_MAX) {
        snprintf(why, cap, "The specified topic: %.*s, is longer than topic max length: %u", shown(topic), topic.ptr,
                 ZL_TOPIC_MAX);
    } else {
        return ZR_OK;
    }
    return ZR_EINVAL;
}

zr_status zl_group_check(struct zr_str group, char *why, uint64_t cap)
{
    if (zl_trim(group).len == 0) {
        snprintf(why, cap, "The specified group is blank.");
    } else if (!all_legal(group)) {
        snprintf(why, cap, "The specified group: %.*s, contains illegal characters, allowing only ^[%%|a-zA-Z0-9_-]+$",
                 shown(group), group.ptr);
    } else if (group.len > ZL_GROUP_MAX) {
        snprintf(why, cap, "The specified group: %.*s, is longer than group max length: %u", shown(group), group.ptr,
                 ZL_GROUP_MAX);
    } else {
        return ZR_OK;
    }
    return ZR_EINVAL;
}
