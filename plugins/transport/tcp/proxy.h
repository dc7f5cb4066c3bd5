/* SPDX-License-Identifier: Apache-2.0 */
/* proxy.h - the PROXY protocol header in front of a connection's first frame, found as Netty's HAProxyMessageDecoder does. */
#ifndef TRANSPORT_PROXY_H
#define TRANSPORT_PROXY_H
#include "zarya/abi.h"

#define PROXY_FIELDS_MAX 32u
enum proxy_found {
    PROXY_WAIT, /* cannot be told before *ret_need bytes are there */
    PROXY_NONE, /* no header: these are the connection's own bytes */
    PROXY_GOOD, /* header->len bytes are the header */
    PROXY_BAD   /* begins like one and is none */
};
struct proxy_header {
    uint64_t len;
    uint32_t n_fields, peer_len;
    struct zr_field fields[PROXY_FIELDS_MAX]; /* point into this struct, and into the bytes */
    char peer[64];                            /* "10.1.2.3:4711", when the header names address and port */
    char addresses[2][48], ports[2][8];
    char names[PROXY_FIELDS_MAX][24];
};
enum proxy_found proxy_detect(struct zr_span bytes, struct proxy_header *ret, uint64_t *ret_need);
#endif
