/* SPDX-License-Identifier: Apache-2.0 */
/* zl/nsaddr.h - name server addresses from an HTTP address server, as RocketMQ's TopAddressing asks for them. */
#ifndef ZL_NSADDR_H
#define ZL_NSADDR_H
#include "zarya/abi.h"

#define ZL_NAMESRV_DEFAULT_DOMAIN "jmenv.tbsite.net"
#define ZL_NAMESRV_DEFAULT_SUBGROUP "nsaddr"
#define ZL_NAMESRV_TEXT_MAX 4096u /* of an answer's address line */

/* Writes "http://<domain>[:8080]/rocketmq/<subgroup>[-<unit>?nofix=1]" (":8080" only when the domain names no port), NUL-ended.
 * domain, subgroup and unit may be NULL or empty: the defaults, no unit. ZR_EFULL: cap is too small. */
zr_status zl_namesrv_url(char *to, uint64_t cap, const char *domain, const char *subgroup, const char *unit);

/* Asks url ("http://host[:port]/path") once; blocks for at most timeout_ms beside looking the host's name up. On ZR_OK the
 * first line of the answer, trimmed ("host:port;host:port"), is in to, NUL-ended. Else *ret_why is a static text:
 * ZR_EINVAL the URL, ZR_EIO network, ZR_ETIMEOUT, ZR_ENOENT an answer without addresses or not 200, ZR_EFULL. */
zr_status zl_namesrv_fetch(const char *url, int32_t timeout_ms, char *to, uint64_t cap, const char **ret_why);
#endif
