/* SPDX-License-Identifier: Apache-2.0 */
/* address.h - "host:port" texts, socket addresses, the words of the option serves. */
#ifndef TRANSPORT_ADDRESS_H
#define TRANSPORT_ADDRESS_H
#include <stddef.h>
#include <sys/socket.h>
#include "zarya/plugin.h"
#include "zarya/transport.h"

/* "host:port" or "[v6]:port" into host (NUL-ended) and port. */
zr_status tr_endpoint_split(struct zr_str text, char *host, size_t cap, uint16_t *ret_port);
void tr_addr_from(struct zr_addr *ret, const struct sockaddr *sa); /* ::ffff:1.2.3.4 becomes 1.2.3.4; family 0: no IP address */
socklen_t tr_addr_to(struct sockaddr_storage *ret, const struct zr_addr *addr);
uint32_t tr_serves(const struct zr_list *words);                   /* ZR_SERVES_*; 0: an unknown word; none: broker */
#endif
