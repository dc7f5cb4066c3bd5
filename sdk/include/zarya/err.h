/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/err.h - host service zarya.err/1: why a call returned a failure, as one finished record.
 *
 * A slot that returns a negative status may first raise one record on the same thread; the caller (the kernel) takes
 * it, adds instance and request, and shows it where it matters: in the log, in a start-up refusal, in a response remark.
 * The last record raised on a thread wins; it is dropped when the next call into a plugin begins. */
#ifndef ZARYA_ERR_H
#define ZARYA_ERR_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_ERR "zarya.err/1"
#define ZR_ERR_RETRY 0x1u    /* the same call may succeed later */
#define ZR_ERR_DATALOSS 0x2u /* something stored could not be read back or made durable */

struct zr_error {
    struct zr_hdr hdr;
    zr_status status;   /* what the slot is about to return */
    int32_t os_errno;   /* 0: none */
    uint32_t flags;     /* ZR_ERR_* */
    uint32_t reserved;
    struct zr_str text; /* what, where and which limit; one line; copied before return */
};
struct zr_err_v1 {
    struct zr_hdr hdr;
    ZR_ON(any) void (*raise)(const struct zr_host *host, const struct zr_error *error);
};
#ifdef __cplusplus
}
#endif
#endif
