/* SPDX-License-Identifier: Apache-2.0 */
/* policy.c - a subscription group's own retry policy (groupRetryPolicy): how long a message that failed n times waits.
 *
 *   {"type":"EXPONENTIAL","exponentialRetryPolicy":{"initial":5000,"max":7200000,"multiplier":2}}   initial * multiplier^n, at most max
 *   {"type":"CUSTOMIZED","customizedRetryPolicy":{"next":[1000,5000,10000,...]}}                   next[n + 2], or the last
 *
 * As RocketMQ reads them: the first two steps of a customized ladder are for others than consumers that give messages back. A group
 * without a policy of its own (the default, type CUSTOMIZED and no ladder) is none of ours: its messages wait by delay level. */
#include "broker/internal.h"

#define MOST_MS 259200000 /* timerMaxDelaySec: three days */

static int64_t bounded(int64_t ms)
{
    return ms < 0 ? 0 : ms > MOST_MS ? MOST_MS : ms;
}

static int64_t exponential(const struct zl_json *policy, int32_t times)
{
    int64_t initial = zl_json_get_i64(policy, "initial", 5000), max = zl_json_get_i64(policy, "max", 7200000);
    int64_t multiplier = zl_json_get_i64(policy, "multiplier", 2);
    int64_t ms = initial;
    for (int32_t i = 0; i < times && i < 32 && ms > 0 && ms < max && ms < MOST_MS; i++)
        ms = multiplier <= 0 ? 0 : ms > MOST_MS / multiplier ? MOST_MS : ms * multiplier;
    return bounded(ms < max ? ms : max);
}

static int64_t customized(const struct zl_json *next, int32_t times)
{
    uint32_t at = (times < 0 ? 0 : (uint32_t)times) + 2;
    const struct zl_json *step = next ? next->child : NULL;
    if (!step || next->kind != ZL_JSON_ARRAY)
        return -1;
    for (; at && step->next; at--)
        step = step->next;
    return bounded(zl_json_i64(step, -1));
}

int64_t zb_policy_delay(struct zr_str json, int32_t times)
{
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at;
    int64_t ms = -1;
    if (!json.len || zl_json_parse(json, &doc, &root, &at) != ZR_OK)
        return -1;
    if (zl_is(zl_json_get_str(root, "type"), "EXPONENTIAL"))
        ms = exponential(zl_json_get(root, "exponentialRetryPolicy"), times);
    else
        ms = customized(zl_json_get(zl_json_get(root, "customizedRetryPolicy"), "next"), times);
    zl_json_free(doc);
    return ms;
}
