/* SPDX-License-Identifier: Apache-2.0 */
/* address.c - addresses as text, and the two kinds of message id that carry one.
 *
 * Offset id:  hex of address (4 or 16 bytes), i32 port, i64 physical offset      32 or 56 digits
 * Unique id:  hex of IPv4 (4), process (2), a random word (4), ms since the month began (4), counter (2)     32 digits
 *
 * LOCKING: month_lock is held over the C library's time zone functions, once a month for each thread; nothing is called out under it.
 * The counter of unique ids is atomic; the parts that do not change are filled in once under pthread_once. */
#include "zl/text.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

/* host:port cut at the last colon, as RocketMQ cuts it; brackets around the host are taken off. */
static zr_status address_cut(struct zr_str text, struct zr_str *ret_host, struct zr_str *ret_port)
{
    uint64_t colon = text.len;
    while (colon && text.ptr[colon - 1] != ':') colon--;
    if (colon < 2) return ZR_EINVAL;
    *ret_port = (struct zr_str){ text.ptr + colon, text.len - colon };
    *ret_host = (struct zr_str){ text.ptr, colon - 1 };
    if (text.ptr[0] == '[') {
        if (ret_host->len < 3 || ret_host->ptr[ret_host->len - 1] != ']') return ZR_EINVAL;
        ret_host->ptr++;
        ret_host->len -= 2;
    }
    return ZR_OK;
}

zr_status zl_addr_parse(struct zr_str text, struct zr_addr *ret)
{
    struct zr_str host, port;
    char host_text[INET6_ADDRSTRLEN];
    int32_t number;
    if (address_cut(text, &host, &port) != ZR_OK || host.len >= sizeof(host_text)) return ZR_EINVAL;
    if (zl_parse_i32(port, &number) != ZR_OK || number < 0 || number > 65535 || port.ptr[0] == '+') return ZR_EINVAL;
    memcpy(host_text, host.ptr, host.len);
    host_text[host.len] = 0;
    if (strlen(host_text) != host.len) return ZR_EINVAL;
    struct zr_addr addr = { .port = (uint16_t)number };
    if (memchr(host.ptr, ':', host.len)) {
        addr.family = 6;
        if (inet_pton(AF_INET6, host_text, addr.ip) != 1) return ZR_EINVAL;
    } else {
        addr.family = 4;
        if (inet_pton(AF_INET, host_text, addr.ip) != 1) return ZR_EINVAL;
    }
    *ret = addr;
    return ZR_OK;
}

uint32_t zl_addr_print(char *to, const struct zr_addr *addr)
{
    uint32_t n = 0;
    if (addr->family == 6) {
        to[n++] = '[';
        inet_ntop(AF_INET6, addr->ip, to + n, INET6_ADDRSTRLEN);
        n += (uint32_t)strlen(to + n);
        to[n++] = ']';
    } else {
        for (uint32_t i = 0; i < 4; i++) {
            n += zl_print_i64(to + n, addr->family ? addr->ip[i] : 0);
            if (i < 3) to[n++] = '.';
        }
    }
    to[n++] = ':';
    return n + zl_print_i64(to + n, addr->port);
}

static uint32_t hex_put(char *to, const uint8_t *bytes, uint32_t n)
{
    static const char digits[] = "0123456789ABCDEF";
    for (uint32_t i = 0; i < n; i++) {
        to[2 * i] = digits[bytes[i] >> 4];
        to[2 * i + 1] = digits[bytes[i] & 15];
    }
    return 2 * n;
}

static int32_t hex_value(char c)
{
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    return -1;
}

uint32_t zl_offset_id(char *to, const struct zr_addr *store_host, int64_t physical)
{
    uint8_t bytes[28];
    uint32_t n = store_host->family == 6 ? 16 : 4;
    memcpy(bytes, store_host->ip, n);
    zl_store32(bytes + n, store_host->port);
    zl_store64(bytes + n + 4, (uint64_t)physical);
    return hex_put(to, bytes, n + 12);
}

zr_status zl_offset_id_parse(struct zr_str id, struct zr_addr *ret_host, int64_t *ret_physical)
{
    uint8_t bytes[28];
    if (id.len != 32 && id.len != 56) return ZR_EINVAL;
    for (uint32_t i = 0; i < id.len / 2; i++) {
        int32_t high = hex_value(id.ptr[2 * i]), low = hex_value(id.ptr[2 * i + 1]);
        if (high < 0 || low < 0) return ZR_EINVAL;
        bytes[i] = (uint8_t)(high << 4 | low);
    }
    uint32_t n = id.len == 32 ? 4 : 16, port = zl_load32(bytes + n);
    if (port > 65535) return ZR_EINVAL;
    *ret_host = (struct zr_addr){ .port = (uint16_t)port, .family = n == 4 ? 4 : 6 };
    memcpy(ret_host->ip, bytes, n);
    *ret_physical = (int64_t)zl_load64(bytes + n + 4);
    return ZR_OK;
}

/* ---- unique ids ---- */

static uint8_t unique_fixed[10]; /* address, process, random word */
static _Atomic uint16_t unique_counter;
static pthread_once_t unique_once = PTHREAD_ONCE_INIT;
static pthread_mutex_t month_lock = PTHREAD_MUTEX_INITIALIZER;

/* The first IPv4 address that is up and not loopback; loopback when there is none. */
static void local_ip4(uint8_t *to)
{
    static const uint8_t loopback[4] = { 127, 0, 0, 1 };
    struct ifaddrs *all = NULL;
    memcpy(to, loopback, sizeof(loopback));
    if (getifaddrs(&all) != 0) return;
    for (const struct ifaddrs *i = all; i; i = i->ifa_next) {
        if (!i->ifa_addr || i->ifa_addr->sa_family != AF_INET) continue;
        if (!(i->ifa_flags & IFF_UP) || (i->ifa_flags & IFF_LOOPBACK)) continue;
        struct sockaddr_in in;
        memcpy(&in, i->ifa_addr, sizeof(in));
        memcpy(to, &in.sin_addr, 4);
        break;
    }
    freeifaddrs(all);
}

static void unique_fill(void)
{
    uint16_t first;
    struct timespec ts;
    local_ip4(unique_fixed);
    zl_store16(unique_fixed + 4, (uint16_t)getpid());
    clock_gettime(CLOCK_REALTIME, &ts);
    zl_store32(unique_fixed + 6, (uint32_t)ts.tv_nsec); /* stays when there is no randomness */
    if (getrandom(unique_fixed + 6, 4, GRND_NONBLOCK) < 0) return;
    if (getrandom(&first, sizeof(first), GRND_NONBLOCK) == (ssize_t)sizeof(first)) atomic_store(&unique_counter, first);
}

/* When the local month that holds now began, and when the next one will. */
static void month_bounds(time_t now, time_t *ret_begin, time_t *ret_end)
{
    struct tm tm;
    pthread_mutex_lock(&month_lock);
    localtime_r(&now, &tm);
    tm.tm_mday = 1;
    tm.tm_hour = tm.tm_min = tm.tm_sec = 0;
    tm.tm_isdst = -1;
    *ret_begin = mktime(&tm);
    tm.tm_mon++;
    tm.tm_isdst = -1;
    *ret_end = mktime(&tm);
    pthread_mutex_unlock(&month_lock);
}

/* Milliseconds since the current month began in local time. */
static uint32_t month_ms(void)
{
    static _Thread_local time_t begin, end;
    struct timespec ts;
    clock_gettime(CLOCK_REALTIME, &ts);
    if (ts.tv_sec < begin || ts.tv_sec >= end) month_bounds(ts.tv_sec, &begin, &end);
    return (uint32_t)((ts.tv_sec - begin) * 1000 + ts.tv_nsec / 1000000);
}

uint32_t zl_unique_id(char *to)
{
    uint8_t tail[6];
    pthread_once(&unique_once, unique_fill);
    zl_store32(tail, month_ms());
    zl_store16(tail + 4, atomic_fetch_add_explicit(&unique_counter, 1, memory_order_relaxed));
    hex_put(to, unique_fixed, sizeof(unique_fixed));
    return 20 + hex_put(to + 20, tail, sizeof(tail));
}
