/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/log.h - host service zarya.log/1: one line of log, written to stderr as text or as a JSON line by the host, which
 * adds time, instance name and generation. */
#ifndef ZARYA_LOG_H
#define ZARYA_LOG_H
#include "zarya/abi.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_LOG "zarya.log/1"
#define ZR_LOG_ERROR 1u /* someone has to act */
#define ZR_LOG_WARN 2u  /* something is not as it should be; service goes on */
#define ZR_LOG_INFO 3u  /* a step in life: started, recovered, registered */
#define ZR_LOG_DEBUG 4u /* for those who look for something */

struct zr_log_v1 {
    struct zr_hdr hdr;
    /* The highest level that is written now; ask before building costly text. */
    ZR_ON(any) uint32_t (*level)(const struct zr_host *host);
    /* Writes one line; text without a line end, finished (no format). fields (may be NULL) are printed behind it. May be
     * called with a lock of the caller's held. */
    ZR_ON(any) void (*write)(const struct zr_host *host, uint32_t level, struct zr_str text, const struct zr_field *fields, uint32_t n_fields);
};
#ifdef __cplusplus
}
#endif
#endif
