/* SPDX-License-Identifier: Apache-2.0 */
/* address.c - the address a broker announces when none is configured, chosen as Apache's NetworkUtil.getLocalAddress does:
 * interfaces that are up and neither bridges, point-to-point nor aliases, newest first; the first IPv4 address that does not
 * begin with 127.0, 192.168 or 0.; else the last IPv4 one; else the first IPv6 one; else 127.0.0.1. */
#include "config/config.h"
#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>

#define ADDRS_MAX 256u

struct found { char text[INET6_ADDRSTRLEN]; uint32_t index, family; };
struct founds { struct found list[ADDRS_MAX]; uint32_t n; };

static uint32_t is_bridge(const char *name)
{
    struct zr_io_stat st;
    return zk_io()->stat(zk_io()->ctx, zk_conf_fmt("/sys/class/net/%s/bridge", name), &st) == 0;
}

static uint32_t is_usable(const struct ifaddrs *a)
{
    if (!a->ifa_addr || !(a->ifa_flags & IFF_UP) || (a->ifa_flags & IFF_POINTOPOINT) || strchr(a->ifa_name, ':'))
        return 0;
    return (a->ifa_addr->sa_family == AF_INET || a->ifa_addr->sa_family == AF_INET6) && !is_bridge(a->ifa_name);
}

static uint32_t is_loopback(const struct sockaddr *sa)
{
    if (sa->sa_family == AF_INET)
        return ((const uint8_t *)&((const struct sockaddr_in *)(const void *)sa)->sin_addr)[0] == 127;
    return IN6_IS_ADDR_LOOPBACK(&((const struct sockaddr_in6 *)(const void *)sa)->sin6_addr) != 0;
}

static void keep(struct founds *f, const struct ifaddrs *a)
{
    struct found *to = &f->list[f->n];
    const void *bytes = a->ifa_addr->sa_family == AF_INET ? (const void *)&((const struct sockaddr_in *)(const void *)a->ifa_addr)->sin_addr
                                                          : (const void *)&((const struct sockaddr_in6 *)(const void *)a->ifa_addr)->sin6_addr;
    if (f->n == ADDRS_MAX || !inet_ntop(a->ifa_addr->sa_family, bytes, to->text, sizeof to->text))
        return;
    to->index = if_nametoindex(a->ifa_name);
    to->family = a->ifa_addr->sa_family;
    f->n++;
}

/* Java lists interfaces, and the addresses of each, in the reverse of the system's order. */
static int newest_first(const void *a, const void *b)
{
    const struct found *x = a, *y = b;
    return x->index > y->index ? -1 : x->index < y->index;
}

static void reverse(struct founds *f)
{
    for (uint32_t i = 0; i < f->n / 2; i++) {
        struct found t = f->list[i];
        f->list[i] = f->list[f->n - 1 - i];
        f->list[f->n - 1 - i] = t;
    }
}

static const char *pick(const struct founds *f)
{
    const char *last4 = NULL, *first6 = NULL;
    for (uint32_t i = 0; i < f->n; i++) {
        const char *t = f->list[i].text;
        if (f->list[i].family == AF_INET6) {
            first6 = first6 ? first6 : t;
            continue;
        }
        if (strncmp(t, "127.0", 5) != 0 && strncmp(t, "192.168", 7) != 0 && strncmp(t, "0.", 2) != 0)
            return t;
        last4 = t;
    }
    return last4 ? last4 : first6;
}

struct zr_str zk_address_choose(void)
{
    struct ifaddrs *all = NULL;
    struct founds *f = zk_conf_alloc(sizeof *f);
    if (getifaddrs(&all) == 0) {
        for (struct ifaddrs *a = all; a; a = a->ifa_next)
            if (is_usable(a) && !is_loopback(a->ifa_addr))
                keep(f, a);
        freeifaddrs(all);
    }
    reverse(f);
    qsort(f->list, f->n, sizeof *f->list, newest_first);
    const char *picked = pick(f);
    return zl_str(zk_conf_dup(zl_str(picked ? picked : "127.0.0.1")));
}

/* The interface that has the address, if any. */
static const char *interface_of(struct zr_str ip)
{
    struct ifaddrs *all = NULL;
    const char *name = NULL;
    struct founds *f = zk_conf_alloc(sizeof *f);
    if (getifaddrs(&all) != 0)
        return NULL;
    for (struct ifaddrs *a = all; a && !name; a = a->ifa_next) {
        f->n = 0;
        if (a->ifa_addr && (a->ifa_addr->sa_family == AF_INET || a->ifa_addr->sa_family == AF_INET6))
            keep(f, a);
        if (f->n == 1 && zl_is(ip, f->list[0].text))
            name = zk_conf_dup(zl_str(a->ifa_name));
    }
    freeifaddrs(all);
    return name;
}

const char *zk_address_doubt(struct zr_str ip)
{
    static const char *const bridges[] = { "docker", "br-", "virbr", "cni", "podman", "lxcbr", "lxdbr", "cbr" };
    if (zl_starts(ip, "127.") || zl_is(ip, "::1") || zl_is(ip, "localhost"))
        return "it is a loopback address";
    const char *name = interface_of(ip);
    for (uint32_t i = 0; name && i < sizeof bridges / sizeof *bridges; i++)
        if (strncmp(name, bridges[i], strlen(bridges[i])) == 0)
            return zk_conf_fmt("it belongs to %s, a bridge for containers of this machine", name);
    return name && is_bridge(name) ? zk_conf_fmt("it belongs to the bridge %s", name) : NULL;
}
