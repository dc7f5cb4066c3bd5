/* SPDX-License-Identifier: Apache-2.0 */
/* The text of a configuration file or of request 25. */
#include "fuzz.h"
#include "zl/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zl_property *rows;
    uint32_t n = 0, line = 0, before = 0;
    uint64_t sum = 0;
    zr_status status = zl_properties_parse((struct zr_str){ (const char *)data, size }, &rows, &n, &line);
    if (status != ZR_OK) {
        MUST(status == ZR_EINVAL && line >= 1 && line <= size + 1);
        return 0;
    }
    for (uint32_t i = 0; i < n; i++) {
        MUST(rows[i].line > before || rows[i].line == before + 1);
        before = rows[i].line;
        for (uint64_t k = 0; k < rows[i].key.len; k++) sum += (uint8_t)rows[i].key.ptr[k];
        for (uint64_t k = 0; k < rows[i].value.len; k++) sum += (uint8_t)rows[i].value.ptr[k];
    }
    MUST(sum <= 255 * (uint64_t)size);
    free(rows);
    return 0;
}
