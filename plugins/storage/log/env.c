/* SPDX-License-Identifier: Apache-2.0 */
/* env.c - what the rest of the library stands on: log lines, error records, metrics, clocks, paths, zero checks, and the
 * parsing of two option texts. */
#include "zs_int.h"
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define CHUNK (256u * 1024u)

void zs_log(struct zr_inst *st, uint32_t level, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    if (level > st->log->level(st->host)) return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    st->log->write(st->host, level, zl_str(text), NULL, 0);
}

zr_status zs_raise(struct zr_inst *st, zr_status status, int64_t os_errno, const char *fmt, ...)
{
    char text[1024];
    va_list ap;
    struct zr_error e = { .hdr = ZR_HDR(struct zr_error, 0), .status = status };
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    e.os_errno = (int32_t)(os_errno < 0 ? -os_errno : os_errno);
    e.text = zl_str(text);
    st->err->raise(st->host, &e);
    return status;
}

void zs_count(struct zr_inst *st, enum zs_metric metric, int64_t delta)
{
    if (st->metrics_on) st->metrics->add(st->host, st->metric0 + (uint32_t)metric, delta);
}
void zs_gauge(struct zr_inst *st, enum zs_metric metric, int64_t value)
{
    if (st->metrics_on) st->metrics->set(st->host, st->metric0 + (uint32_t)metric, value);
}
void zs_observe(struct zr_inst *st, enum zs_metric metric, int64_t value)
{
    if (st->metrics_on) st->metrics->observe(st->host, st->metric0 + (uint32_t)metric, value);
}

int64_t zs_mono(struct zr_inst *st) { return st->timer->mono_ns(st->host); }

void zs_cond_init(pthread_cond_t *cond)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(cond, &attr);
    pthread_condattr_destroy(&attr);
}

void zs_cond_wait_ns(pthread_cond_t *cond, pthread_mutex_t *lock, int64_t ns)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    ts.tv_sec += ns / 1000000000;
    ts.tv_nsec += ns % 1000000000;
    if (ts.tv_nsec >= 1000000000) {
        ts.tv_nsec -= 1000000000;
        ts.tv_sec++;
    }
    pthread_cond_timedwait(cond, lock, &ts);
}

zr_status zs_status_of(int64_t os_error)
{
    switch (-os_error) {
    case 0: return ZR_OK;
    case ENOSPC: case EDQUOT: case EFBIG: return ZR_EFULL;
    case ENOMEM: return ZR_ENOMEM;
    case ENOENT: return ZR_ENOENT;
    case EACCES: case EPERM: case EROFS: return ZR_EPERM;
    default: return ZR_EIO;
    }
}

const char *zs_errno_text(int64_t os_error)
{
    const char *s = strerrordesc_np((int)-os_error);
    return s ? s : "unknown error";
}

uint32_t zs_path(char *to, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(to, ZS_PATH, fmt, ap);
    va_end(ap);
    return n >= 0 && (uint32_t)n < ZS_PATH;
}

uint32_t zs_name_offset(const char *name, int64_t *ret)
{
    uint64_t v = 0;
    for (int i = 0; i < 20; i++) {
        if (name[i] < '0' || name[i] > '9') return 0;
        uint64_t d = (uint64_t)(name[i] - '0');
        if (v > (INT64_MAX - d) / 10) return 0;
        v = v * 10 + d;
    }
    if (name[20]) return 0;
    *ret = (int64_t)v;
    return 1;
}

static int64_t first_nonzero(const uint8_t *p, uint64_t n)
{
    if (n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0)) return -1;
    uint64_t i = 0;
    while (p[i] == 0) i++;
    return (int64_t)i;
}

int64_t zs_is_zero(struct zr_inst *st, int32_t fd, int64_t off, int64_t len, int64_t *ret_at)
{
    int64_t end = off + len, r = 1;
    uint64_t step = 4096; /* to the end of this page; most often a hole follows, which is not read */
    uint8_t *buf = malloc(CHUNK);
    if (!buf) return -ENOMEM;
    for (; off < end; step = step < CHUNK ? step * 4 : CHUNK) {
        if (ZR_HAS(struct zr_io_v1, st->io, seek_data) && st->io->seek_data) {
            int64_t at = st->io->seek_data(st->io->ctx, fd, off);
            if (at == -ENXIO) break;
            if (at > off) off = at;
            if (off >= end) break;
        }
        uint64_t n = step - (uint64_t)off % 4096;
        if (n > CHUNK) n = CHUNK;
        if ((int64_t)n > end - off) n = (uint64_t)(end - off);
        r = zl_io_read_all(st->io, fd, buf, n, off);
        if (r < 0) break;
        int64_t at = first_nonzero(buf, n);
        r = 1;
        if (at >= 0) {
            *ret_at = off + at;
            r = 0;
            break;
        }
        off += (int64_t)n;
    }
    free(buf);
    return r;
}

int64_t zs_zero(struct zr_inst *st, int32_t fd, int64_t off, int64_t len)
{
    static const uint8_t zeros[65536];
    while (len > 0) {
        uint64_t n = len < (int64_t)sizeof zeros ? (uint64_t)len : sizeof zeros;
        int64_t r = zl_io_write_all(st->io, fd, zeros, n, off);
        if (r < 0) return r;
        off += (int64_t)n;
        len -= (int64_t)n;
    }
    return 0;
}

zr_status zs_parse_hours(struct zr_str text, uint32_t *ret_mask)
{
    struct zr_str part;
    uint32_t mask = 0;
    while (zl_split(&text, ';', &part)) {
        int32_t h;
        if (zl_parse_i32(zl_trim(part), &h) != ZR_OK || h < 0 || h > 23) return ZR_EINVAL;
        mask |= 1u << h;
    }
    *ret_mask = mask;
    return ZR_OK;
}

zr_status zs_parse_levels(struct zr_str text, int64_t *ret_ms, uint32_t *ret_n)
{
    struct zr_str part;
    uint32_t n = 0;
    while (zl_split(&text, ' ', &part)) {
        int64_t v, unit;
        part = zl_trim(part);
        if (part.len == 0) continue;
        switch (part.ptr[part.len - 1]) {
        case 's': unit = 1000; break;
        case 'm': unit = 60000; break;
        case 'h': unit = 3600000; break;
        case 'd': unit = 86400000; break;
        default: return ZR_EINVAL;
        }
        if (zl_ends(part, "ms")) {
            unit = 1;
            part.len--;
        }
        part.len--;
        if (zl_parse_i64(part, &v) != ZR_OK || v < 0 || v > INT64_MAX / unit || n == ZS_MAX_LEVELS) return ZR_EINVAL;
        ret_ms[n++] = v * unit;
    }
    *ret_n = n;
    return ZR_OK;
}
