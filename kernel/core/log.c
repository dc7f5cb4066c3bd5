/* SPDX-License-Identifier: Apache-2.0 */
/* log.c - one line of log at a time, as text or as a JSON line. How lines get to stderr is log_out.c's.
 *
 * What stays true:
 *   1. A line is built on the caller's stack and handed on whole, so lines of different threads never mix.
 *   2. A line is at most ZK_LOG_LINE_MAX long; what does not fit is cut and the cut is visible ("...").
 *   3. No line end, control character or broken quote in a text can forge a second line.
 *   4. Nothing here takes a lock or allocates: it may be called with any lock held. */
#include "core/core_int.h"
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <time.h>

#define CUT_MARK "..."

static _Atomic uint32_t log_level = ZR_LOG_INFO;
static _Atomic uint32_t log_json;

struct line { char text[ZK_LOG_LINE_MAX]; uint32_t len, cut; };

const char *zk_log_level_name(uint32_t level)
{
    static const char *const names[] = { "none", "error", "warn", "info", "debug" };
    return names[level <= ZR_LOG_DEBUG ? level : ZR_LOG_DEBUG];
}

/* Room is kept for the cut mark, two closing characters of JSON and the line end. */
static void line_add(struct line *l, const char *bytes, uint64_t n)
{
    uint64_t room = ZK_LOG_LINE_MAX - 8u - l->len;
    if (n > room) {
        n = room;
        l->cut = 1;
    }
    memcpy(l->text + l->len, bytes, n);
    l->len += (uint32_t)n;
}

static void line_cstr(struct line *l, const char *s) { line_add(l, s, strlen(s)); }

/* Text as it stands in a text line: control characters become blanks, so that a line stays one line. */
static void line_plain(struct line *l, struct zr_str s)
{
    for (uint64_t i = 0; i < s.len && !l->cut; i++) {
        char c = (unsigned char)s.ptr[i] < 0x20 || s.ptr[i] == 0x7f ? ' ' : s.ptr[i];
        line_add(l, &c, 1);
    }
}

static void line_quoted(struct line *l, struct zr_str s)
{
    line_cstr(l, "\"");
    for (uint64_t i = 0; i < s.len && !l->cut; i++) {
        unsigned char c = (unsigned char)s.ptr[i];
        char esc[8];
        if (c == '"' || c == '\\') {
            esc[0] = '\\';
            esc[1] = (char)c;
            line_add(l, esc, 2);
        } else if (c < 0x20 || c == 0x7f) {
            line_add(l, esc, (uint64_t)snprintf(esc, sizeof esc, "\\u%04x", c));
        } else {
            line_add(l, (const char *)&c, 1);
        }
    }
    line_cstr(l, "\"");
}

static void line_time(struct line *l)
{
    struct timespec now;
    struct tm tm;
    char text[48];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    line_add(l, text, (uint64_t)snprintf(text, sizeof text, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900,
                                         tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(now.tv_nsec / 1000000)));
}

static void line_as_text(struct line *l, uint32_t level, const char *who, uint32_t generation, struct zr_str text,
                         const struct zr_field *fields, uint32_t n_fields)
{
    char head[96];
    line_time(l);
    line_add(l, head, (uint64_t)snprintf(head, sizeof head, " %-5s ", zk_log_level_name(level)));
    line_cstr(l, who);
    if (generation > 0)
        line_add(l, head, (uint64_t)snprintf(head, sizeof head, "#%u", generation));
    line_cstr(l, ": ");
    line_plain(l, text);
    for (uint32_t i = 0; i < n_fields && !l->cut; i++) {
        line_cstr(l, " ");
        line_plain(l, fields[i].name);
        line_cstr(l, "=");
        line_plain(l, fields[i].value);
    }
    if (l->cut) {
        memcpy(l->text + l->len, CUT_MARK, 3);
        l->len += 3;
    }
}

/* A cut inside JSON would leave no JSON, so the text is bounded first and fields that do not fit are left out whole. */
static void line_as_json(struct line *l, uint32_t level, const char *who, uint32_t generation, struct zr_str text,
                         const struct zr_field *fields, uint32_t n_fields)
{
    char number[48];
    line_cstr(l, "{\"time\":\"");
    line_time(l);
    line_cstr(l, "\",\"level\":\"");
    line_cstr(l, zk_log_level_name(level));
    line_cstr(l, "\",\"instance\":");
    line_quoted(l, zl_str(who));
    line_add(l, number, (uint64_t)snprintf(number, sizeof number, ",\"generation\":%u,\"text\":", generation));
    /* Six bytes each are the worst case of an escaped character. */
    uint64_t fits = (ZK_LOG_LINE_MAX - 512u) / 6u;
    line_quoted(l, text.len > fits ? (struct zr_str){ text.ptr, fits } : text);
    for (uint32_t i = 0; i < n_fields; i++) {
        if (l->len + 6u * (fields[i].name.len + fields[i].value.len) + 16u > ZK_LOG_LINE_MAX - 16u)
            break;
        line_cstr(l, ",");
        line_quoted(l, fields[i].name);
        line_cstr(l, ":");
        line_quoted(l, fields[i].value);
    }
    memcpy(l->text + l->len, "}", 1);
    l->len++;
}

static void line_make(struct line *l, uint32_t level, const char *who, uint32_t generation, struct zr_str text, const struct zr_field *fields, uint32_t n_fields)
{
    l->len = l->cut = 0;
    if (atomic_load_explicit(&log_json, memory_order_relaxed))
        line_as_json(l, level, who, generation, text, fields, n_fields);
    else
        line_as_text(l, level, who, generation, text, fields, n_fields);
    l->text[l->len++] = '\n';
}

uint32_t zk_log_format_dropped(char *to, uint64_t n)
{
    char text[160];
    struct line l;
    snprintf(text, sizeof text, "log: %llu lines were left out here, because it was not read or could not be written", (unsigned long long)n);
    line_make(&l, ZR_LOG_WARN, "kernel", 0, zl_str(text), NULL, 0);
    memcpy(to, l.text, l.len);
    return l.len;
}

void zk_log_line(uint32_t level, const char *who, uint32_t generation, struct zr_str text, const struct zr_field *fields, uint32_t n_fields)
{
    struct line l;
    if (level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    line_make(&l, level, who, generation, text, fields, n_fields);
    zk_log_raw(l.text, l.len);
}

void zk_log(uint32_t level, const char *fmt, ...)
{
    char text[4096];
    va_list ap;
    if (level > atomic_load_explicit(&log_level, memory_order_relaxed))
        return;
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    if (n < 0)
        return;
    struct zr_str line = { text, (uint64_t)n < sizeof text ? (uint64_t)n : sizeof text - 1 };
    if (zk_log_pass(ZK_LOG_FORMAT, level, fmt, line.len))
        zk_log_line(level, "kernel", 0, line, NULL, 0);
}

void zk_log_set(uint32_t level, uint32_t json)
{
    atomic_store(&log_level, level);
    atomic_store(&log_json, json);
}

void zk_log_set_level(uint32_t level) { atomic_store(&log_level, level); }

uint32_t zk_log_level(void) { return atomic_load_explicit(&log_level, memory_order_relaxed); }
