/* SPDX-License-Identifier: Apache-2.0 */
/* names.c - which names of topics and groups RocketMQ allows, and what it says of the others. */
#include "zl/text.h"

#include <stdio.h>

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
