/* SPDX-License-Identifier: Apache-2.0 */
/* The body of a client batch: stepped through, its properties walked, and written again. */
#include "fuzz.h"
#include "zl/record.h"

/* Copying keeps exactly what stepping sees. */
static void check_properties(struct zr_span props)
{
    struct zl_buf copy;
    struct zr_str a_name, a_value, b_name, b_value;
    uint64_t a = 0, b = 0;
    zl_buf_init(&copy, 2 * props.len + 2);
    zl_props_copy(&copy, props, NULL);
    MUST(!copy.failed);
    while (zl_props_next(props, &a, &a_name, &a_value)) {
        MUST(zl_props_next(zl_buf_as_span(&copy), &b, &b_name, &b_value));
        MUST(zl_eq(a_name, b_name) && zl_eq(a_value, b_value) && a_name.len && a_value.len);
    }
    MUST(!zl_props_next(zl_buf_as_span(&copy), &b, &b_name, &b_value));
    zl_tags_code(zl_props_get(props, "TAGS"));
    zl_buf_free(&copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zr_span batch = { data, size };
    struct zl_batch_item item, again;
    struct zl_buf out;
    uint64_t pos = 0, before = 0;
    zr_status status;
    zl_buf_init(&out, size + 1);
    while ((status = zl_batch_next(batch, &pos, &item)) == ZR_OK) {
        MUST(pos > before && pos <= size);
        check_properties(item.properties);
        uint64_t at = out.len;
        zl_batch_add(&out, &item);
        MUST(!out.failed && out.len == pos);
        MUST(zl_batch_next(zl_buf_as_span(&out), &at, &again) == ZR_OK && at == out.len);
        MUST(again.flag == item.flag && again.body.len == item.body.len && again.properties.len == item.properties.len);
        MUST(memcmp(data + before + 12, out.ptr + before + 12, pos - before - 12) == 0);
        before = pos;
    }
    MUST(pos == before && (status == ZR_ENOENT ? pos == size : status == ZR_EINVAL));
    zl_buf_free(&out);
    return 0;
}
