/* SPDX-License-Identifier: Apache-2.0 */
/* address.c - see address.h. */
#include <netinet/in.h>
#include <string.h>
#include "address.h"
#include "zl/text.h"

zr_status tr_endpoint_split(struct zr_str text, char *host, size_t cap, uint16_t *ret_port)
{
    uint64_t colon = text.len;
    int32_t port;
    while (colon > 0 && text.ptr[colon - 1] != ':') {
        colon--;
    }
    if (colon == 0 || zl_parse_i32((struct zr_str){ text.ptr + colon, text.len - colon }, &port) != ZR_OK || port < 0 || port > 65535) {
        return ZR_EINVAL;
    }
    struct zr_str name = { text.ptr, colon - 1 };
    if (name.len >= 2 && name.ptr[0] == '[' && name.ptr[name.len - 1] == ']') {
        name = (struct zr_str){ name.ptr + 1, name.len - 2 };
    } else if (memchr(name.ptr, ':', name.len)) {
        return ZR_EINVAL; /* an IPv6 address needs its brackets */
    }
    if (name.len == 0 || name.len >= cap) {
        return ZR_EINVAL;
    }
    memcpy(host, name.ptr, name.len);
    host[name.len] = '\0';
    *ret_port = (uint16_t)port;
    return ZR_OK;
}

void tr_addr_from(struct zr_addr *ret, const struct sockaddr *sa)
{
    memset(ret, 0, sizeof *ret);
    if (sa->sa_family == AF_INET) {
        const struct sockaddr_in *in = (const struct sockaddr_in *)(const void *)sa;
        memcpy(ret->ip, &in->sin_addr, 4);
        ret->port = ntohs(in->sin_port);
        ret->family = 4;
    } else if (sa->sa_family == AF_INET6) {
        const struct sockaddr_in6 *in6 = (const struct sockaddr_in6 *)(const void *)sa;
        uint32_t mapped = IN6_IS_ADDR_V4MAPPED(&in6->sin6_addr);
        memcpy(ret->ip, (const uint8_t *)&in6->sin6_addr + (mapped ? 12 : 0), mapped ? 4 : 16);
        ret->port = ntohs(in6->sin6_port);
        ret->family = mapped ? 4 : 6;
    }
}

socklen_t tr_addr_to(struct sockaddr_storage *ret, const struct zr_addr *addr)
{
    memset(ret, 0, sizeof *ret);
    if (addr->family == 4) {
        struct sockaddr_in *in = (struct sockaddr_in *)(void *)ret;
        in->sin_family = AF_INET;
        in->sin_port = htons(addr->port);
        memcpy(&in->sin_addr, addr->ip, 4);
        return sizeof *in;
    }
    struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)(void *)ret;
    in6->sin6_family = AF_INET6;
    in6->sin6_port = htons(addr->port);
    memcpy(&in6->sin6_addr, addr->ip, 16);
    return sizeof *in6;
}

uint32_t tr_serves(const struct zr_list *words)
{
    static const struct { const char *name; uint32_t bit; } known[] = {
        { "broker", ZR_SERVES_BROKER }, { "broker-fast", ZR_SERVES_FAST }, { "routing", ZR_SERVES_ROUTING }
    };
    uint32_t serves = 0;
    for (uint64_t i = 0; i < words->n; i++) {
        uint32_t bit = 0;
        for (uint32_t w = 0; w < sizeof known / sizeof known[0]; w++) {
            bit |= zl_is(words->items[i], known[w].name) ? known[w].bit : 0u;
        }
        if (!bit) {
            return 0;
        }
        serves |= bit;
    }
    return serves ? serves : ZR_SERVES_BROKER;
}
