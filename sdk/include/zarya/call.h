/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/call.h - host service zarya.call/1: requests to other servers, through whatever transport serves the scheme.
 * Connections are made on demand, shared by address, kept while used, closed when idle or told to.
 *
 * When the process stops, calls end with ZR_ECLOSED before plugins are drained: farewells (a broker that takes its name off a
 * name server) are sent, and waited for, in a hook at ZR_POINT_STOPPING. */
#ifndef ZARYA_CALL_H
#define ZARYA_CALL_H
#include "zarya/abi.h"
#include "zarya/reply.h"
#include "zarya/requests.h"
#ifdef __cplusplus
extern "C" {
#endif

#define ZR_SVC_CALL "zarya.call/1"
struct zr_call_v1 {
    struct zr_hdr hdr;
    /* Sends request to "tcp://host:port" (no scheme: tcp). on_answer exactly once, on any thread: ZR_OK with the response (borrow),
     * ZR_ETIMEOUT, ZR_ECLOSED (connection lost or refused), ZR_EINVAL (address), and then text says why (borrow). */
    ZR_ON(any) void (*call)(const struct zr_host *host, struct zr_str url, const struct zr_command *request, int64_t timeout_ns,
                            void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text), void *ctx);
    /* The same without an answer. */
    ZR_ON(any) zr_status (*tell)(const struct zr_host *host, struct zr_str url, const struct zr_command *request);
    /* Ends connections to that address; calls in flight answer ZR_ECLOSED. */
    ZR_ON(any) void (*hang_up)(const struct zr_host *host, struct zr_str url);
};
#ifdef __cplusplus
}
#endif
#endif
