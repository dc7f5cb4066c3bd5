/* SPDX-License-Identifier: Apache-2.0 */
/* A byte stream as a connection brings it: frames are cut off its front until it ends or framing is lost. */
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zr_span rest = { data, size }, frame;
    uint64_t need = 0;
    zr_status status;
    while ((status = zl_frame_cut(rest, &frame, &need)) == ZR_OK) {
        struct fuzz_header d;
        MUST(frame.ptr == rest.ptr && frame.len >= 8 && frame.len <= rest.len);
        if (fuzz_decode(frame, &d)) {
            fuzz_round_trip(&d.h, ZL_TYPE_JSON);
            fuzz_round_trip(&d.h, ZL_TYPE_BINARY);
            free(d.scratch);
        }
        rest.ptr += frame.len;
        rest.len -= frame.len;
    }
    MUST(status == ZR_EINVAL || (status == ZR_EAGAIN && need > rest.len && need <= ZL_FRAME_MAX));
    return 0;
}
