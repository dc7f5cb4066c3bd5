/* SPDX-License-Identifier: Apache-2.0 */
/* A group's retry policy (groupRetryPolicy, JSON that an admin request brought), behind a byte that says how often a message
 * failed: what comes of it is a wait within the bounds, the same each time, or none, however often it failed. */
#include "fuzz.h"
#include "broker/internal.h"

#define MOST_MS 259200000

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0) return 0;
    char *text = malloc(size);
    struct zr_str json = { text, size - 1 };
    int32_t times = (int8_t)data[0];
    if (json.len) memcpy(text, data + 1, json.len);
    int64_t ms = zb_policy_delay(json, times);
    MUST(ms >= -1 && ms <= MOST_MS);
    MUST(zb_policy_delay(json, times) == ms);
    for (int32_t far = 1; far > 0 && far < INT32_MAX / 2; far *= 2) {
        int64_t there = zb_policy_delay(json, far);
        MUST(there >= -1 && there <= MOST_MS);
    }
    MUST(zb_policy_delay(json, INT32_MIN) <= MOST_MS && zb_policy_delay(json, INT32_MAX) <= MOST_MS);
    free(text);
    return 0;
}
