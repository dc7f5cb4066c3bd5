/* SPDX-License-Identifier: Apache-2.0 */
/* zl/conf.h - Java properties text (broker.conf, namesrv.conf, request codes 25, 26, 318, 319). */
#ifndef ZL_CONF_H
#define ZL_CONF_H
#include "zarya/abi.h"
#include "zl/buf.h"

struct zl_property { struct zr_str key, value; uint32_t line, reserved; };
/* Parses java.util.Properties text (comments # and !, \ escapes, continued lines, first = : or blank separates), in order.
 * Result and its text are in one malloc'ed block: free(*ret). ZR_EINVAL with *ret_line: a bad \u escape. */
zr_status zl_properties_parse(struct zr_str text, struct zl_property **ret, uint32_t *ret_n, uint32_t *ret_line);
#endif
