/* SPDX-License-Identifier: Apache-2.0 */
/* The input is the text of one json header. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size > 1u << 20) return 0;
    struct zr_span frame = fuzz_frame(ZL_TYPE_JSON, data, size);
    struct fuzz_header d;
    if (fuzz_decode(frame, &d)) {
        fuzz_round_trip(&d.h, ZL_TYPE_JSON);
        fuzz_round_trip(&d.h, ZL_TYPE_BINARY);
        free(d.scratch);
    }
    free((void *)(uintptr_t)frame.ptr);
    return 0;
}
