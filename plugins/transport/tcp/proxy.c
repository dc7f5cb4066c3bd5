/* SPDX-License-Identifier: Apache-2.0 */
/* proxy.c - PROXY protocol, versions 1 and 2. Pure: bytes in, fields out. At most PROXY_FIELDS_MAX attributes are kept.
 *
 *   v1: "PROXY TCP4|TCP6 source destination sport dport\r\n" or "PROXY UNKNOWN ...\r\n", at most 108 bytes
 *   v2:  0 signature[12]  12 version<<4 | command  13 family<<4 | protocol  14 length[2]  16 addresses, then TLVs
 *        TLV: type[1] length[2] value; type 0x20 (SSL) holds 5 bytes and TLVs of its own */
#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include "proxy.h"
#include "zl/text.h"

#define DETECT_BYTES 12u
#define V1_MAX 108u
#define V2_FIXED 16u
#define TLV_SSL 0x20u

static const uint8_t v2_signature[DETECT_BYTES] = { 0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a };
static const struct { const char *address, *port; } names[2] = {
    { "proxy_protocol_addr", "proxy_protocol_port" }, { "proxy_protocol_server_addr", "proxy_protocol_server_port" }
};

static void add_field(struct proxy_header *h, struct zr_str name, struct zr_str value)
{
    if (h->n_fields < PROXY_FIELDS_MAX && value.len > 0) {
        h->fields[h->n_fields++] = (struct zr_field){ name, value };
    }
}

/* side 0 is the source, 1 the destination. */
static void add_address(struct proxy_header *h, uint32_t side, const char *address, uint32_t port)
{
    snprintf(h->addresses[side], sizeof h->addresses[side], "%s", address);
    snprintf(h->ports[side], sizeof h->ports[side], "%u", (unsigned)port);
    add_field(h, zl_str(names[side].address), zl_str(h->addresses[side]));
    if (port == 0) {
        return;
    }
    add_field(h, zl_str(names[side].port), zl_str(h->ports[side]));
    if (side == 0) {
        const char *form = strchr(address, ':') ? "[%s]:%u" : "%s:%u";
        int n = snprintf(h->peer, sizeof h->peer, form, h->addresses[0], (unsigned)port);
        h->peer_len = n > 0 ? (uint32_t)n : 0;
    }
}

static uint32_t parse_port(struct zr_str text, uint32_t *ret)
{
    int32_t port;
    if (text.len == 0 || text.len > 5 || text.ptr[0] == '-' || text.ptr[0] == '+' || zl_parse_i32(text, &port) != ZR_OK || port > 65535) {
        return 0;
    }
    *ret = (uint32_t)port;
    return 1;
}

static enum proxy_found v1_addresses(struct zr_str rest, int family, struct proxy_header *h)
{
    struct zr_str part[4];
    char address[2][48];
    uint32_t port[2];
    for (uint32_t i = 0; i < 4; i++) {
        if (!zl_split(&rest, ' ', &part[i])) {
            return PROXY_BAD;
        }
    }
    for (uint32_t side = 0; side < 2; side++) {
        uint8_t ip[16];
        if (rest.ptr || part[side].len >= sizeof address[0]) {
            return PROXY_BAD;
        }
        memcpy(address[side], part[side].ptr, part[side].len);
        address[side][part[side].len] = '\0';
        if (inet_pton(family, address[side], ip) != 1 || !parse_port(part[2 + side], &port[side])) {
            return PROXY_BAD;
        }
    }
    add_address(h, 0, address[0], port[0]);
    add_address(h, 1, address[1], port[1]);
    return PROXY_GOOD;
}

static enum proxy_found v1_parse(struct zr_span bytes, struct proxy_header *h, uint64_t *ret_need)
{
    uint64_t within = bytes.len < V1_MAX ? bytes.len : V1_MAX;
    const uint8_t *cr = memchr(bytes.ptr, '\r', within);
    if (!cr || (uint64_t)(cr - bytes.ptr) + 1 >= within) {
        *ret_need = bytes.len + 1;
        return bytes.len < V1_MAX ? PROXY_WAIT : PROXY_BAD;
    }
    if (cr[1] != '\n') {
        return PROXY_BAD;
    }
    struct zr_str line = { (const char *)bytes.ptr, (uint64_t)(cr - bytes.ptr) }, word, kind;
    h->len = line.len + 2;
    if (!zl_split(&line, ' ', &word) || !zl_is(word, "PROXY") || !zl_split(&line, ' ', &kind)) {
        return PROXY_BAD;
    }
    if (zl_is(kind, "UNKNOWN")) {
        return PROXY_GOOD;
    }
    if (zl_is(kind, "TCP4") || zl_is(kind, "TCP6")) {
        return v1_addresses(line, kind.ptr[3] == '4' ? AF_INET : AF_INET6, h);
    }
    return PROXY_BAD;
}

static void add_tlv(struct proxy_header *h, uint8_t type, const uint8_t *value, uint32_t len)
{
    if (len == 0 || h->n_fields >= PROXY_FIELDS_MAX) {
        return;
    }
    for (uint32_t i = 0; i < len; i++) {
        if (value[i] < 32 || value[i] > 126) {
            return; /* RocketMQ keeps printable ASCII values only */
        }
    }
    char *name = h->names[h->n_fields];
    snprintf(name, sizeof h->names[0], "proxy_protocol_tlv_0x%02x", type);
    add_field(h, zl_str(name), (struct zr_str){ (const char *)value, len });
}

/* depth bounds the nesting: only the outermost SSL value is opened. */
static enum proxy_found read_tlvs(const uint8_t *p, uint32_t len, uint32_t depth, struct proxy_header *h)
{
    while (len > 0) {
        if (len < 3 || len - 3 < zl_load16(p + 1)) {
            return PROXY_BAD;
        }
        uint8_t type = p[0];
        uint32_t n = zl_load16(p + 1);
        add_tlv(h, type, p + 3, n);
        if (type == TLV_SSL && depth == 0 && n >= 5 && read_tlvs(p + 8, n - 5, 1, h) != PROXY_GOOD) {
            return PROXY_BAD;
        }
        p += 3 + n;
        len -= 3 + n;
    }
    return PROXY_GOOD;
}

static enum proxy_found v2_addresses(const uint8_t *p, uint32_t len, uint8_t family, struct proxy_header *h)
{
    static const uint32_t sizes[4] = { 0, 12, 36, 216 }; /* unspecified, IPv4, IPv6, Unix */
    uint32_t kind = family >> 4;
    if (kind > 3 || (family & 15u) > 2 || len < sizes[kind]) {
        return PROXY_BAD;
    }
    for (uint32_t side = 0; side < 2 && (kind == 1 || kind == 2); side++) {
        char text[48] = "";
        uint32_t size = kind == 1 ? 4 : 16;
        inet_ntop(kind == 1 ? AF_INET : AF_INET6, p + side * size, text, sizeof text);
        add_address(h, side, text, zl_load16(p + 2 * size + 2 * side));
    }
    return kind == 0 ? PROXY_GOOD : read_tlvs(p + sizes[kind], len - sizes[kind], 0, h);
}

static enum proxy_found v2_parse(struct zr_span bytes, struct proxy_header *h, uint64_t *ret_need)
{
    if (bytes.len < V2_FIXED) {
        *ret_need = V2_FIXED;
        return PROXY_WAIT;
    }
    uint32_t len = zl_load16(bytes.ptr + 14);
    if ((bytes.ptr[12] >> 4) != 2 || (bytes.ptr[12] & 15u) > 1) {
        return PROXY_BAD;
    }
    h->len = V2_FIXED + len;
    if (bytes.len < h->len) {
        *ret_need = h->len;
        return PROXY_WAIT;
    }
    if ((bytes.ptr[12] & 15u) == 0) {
        return PROXY_GOOD; /* LOCAL: the proxy's own health check */
    }
    return v2_addresses(bytes.ptr + V2_FIXED, len, bytes.ptr[13], h);
}

enum proxy_found proxy_detect(struct zr_span bytes, struct proxy_header *ret, uint64_t *ret_need)
{
    static const char v1[] = "PROXY";
    uint64_t n = bytes.len < DETECT_BYTES ? bytes.len : DETECT_BYTES;
    uint64_t n1 = n < sizeof v1 - 1 ? n : sizeof v1 - 1;
    ret->len = 0;
    ret->n_fields = ret->peer_len = 0;
    *ret_need = DETECT_BYTES;
    uint32_t like_v2 = memcmp(bytes.ptr, v2_signature, n) == 0, like_v1 = memcmp(bytes.ptr, v1, n1) == 0;
    if (!like_v1 && !like_v2) {
        return PROXY_NONE; /* a frame begins with 0 or 1, so it is told apart at its first byte */
    }
    if (n < DETECT_BYTES) {
        return PROXY_WAIT;
    }
    return like_v2 ? v2_parse(bytes, ret, ret_need) : v1_parse(bytes, ret, ret_need);
}
