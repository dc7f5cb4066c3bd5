/* SPDX-License-Identifier: Apache-2.0 */
/* number.c - numbers as Java's Integer.valueOf, Long.valueOf and Double.valueOf read them, Double.compareTo's order.
 *
 * Java takes every decimal digit of the basic plane for whole numbers (Arabic, Devanagari, full width, ...), but only
 * 0 to 9 for fractions.
 *
 * A fraction's form: control characters and blanks around it do not count; a sign; then NaN, Infinity, a decimal number
 * with an optional exponent, or a hexadecimal one with an exponent; a last f, F, d or D does not count. What C's strtod
 * accepts beside that (nan(...), inf, hexadecimal without exponent) is no number, so the form is checked first.
 *
 * What stays true: strtod sees a copy that ends; no memory is asked for. Of a decimal number of more digits than
 * SQL_MAX_DIGITS it sees those and, if what follows is more than nothing, one digit more, which rounds as the whole would:
 * its time does not grow with the square of a stranger's digits. */
#include <math.h>
#include <stdio.h>
#include "sql92.h"

#define SHORT 64u
#define LONGEST 32768u /* no property is longer */

struct cursor {
    const char *at, *end;
};

static uint32_t digits(struct cursor *c, uint32_t hex)
{
    const char *from = c->at;
    while (c->at < c->end && ((*c->at >= '0' && *c->at <= '9') ||
                              (hex && ((*c->at | 32) >= 'a' && (*c->at | 32) <= 'f'))))
        c->at++;
    return c->at > from;
}

static uint32_t one_of(struct cursor *c, const char *set)
{
    if (c->at == c->end || !*c->at || !strchr(set, *c->at))
        return 0;
    c->at++;
    return 1;
}

/* After the sign. *ret_end: without the suffix. */
static uint32_t is_number(struct cursor c, const char **ret_end)
{
    uint32_t hex = c.end - c.at > 2 && c.at[0] == '0' && (c.at[1] | 32) == 'x';
    c.at += hex ? 2 : 0;
    uint32_t any = digits(&c, hex);
    if (one_of(&c, "."))
        any |= digits(&c, hex);
    if (!any)
        return 0;
    if (one_of(&c, hex ? "pP" : "eE")) {
        one_of(&c, "+-");
        if (!digits(&c, 0))
            return 0;
    } else if (hex) {
        return 0;
    }
    *ret_end = c.at;
    one_of(&c, "fFdD");
    return c.at == c.end;
}

static double read_copy(char *copy, const char *from, uint64_t n)
{
    memcpy(copy, from, n);
    copy[n] = 0;
    return strtod(copy, NULL);
}

/* An exponent of more digits is read as one of these: no property has as many digits as would bring it back. */
#define FAR_EXPONENT 100000000

static int64_t exponent_read(struct zr_str s)
{
    int64_t n = 0;
    uint64_t at = s.len && (s.ptr[0] == '-' || s.ptr[0] == '+');
    for (uint64_t i = at; i < s.len && n < FAR_EXPONENT; i++)
        n = n * 10 + (s.ptr[i] - '0');
    n = n < FAR_EXPONENT ? n : FAR_EXPONENT;
    return at && s.ptr[0] == '-' ? -n : n;
}

/* A decimal number of any length as one of at most SQL_MAX_DIGITS + 1 digits: 0.ddd...e<exponent>. */
static void shorten(struct zr_str s, char copy[SQL_MAX_DIGITS + SHORT])
{
    uint64_t i = 0, n = 0;
    int64_t exponent = 0;
    uint32_t point = 0, sticky = 0;
    if (s.ptr[0] == '-' || s.ptr[0] == '+')
        copy[n++] = s.ptr[i++];
    copy[n++] = '0';
    copy[n++] = '.';
    uint64_t first = n;
    for (; i < s.len && (s.ptr[i] | 32) != 'e'; i++) {
        if (s.ptr[i] == '.') {
            point = 1;
        } else if (n == first && s.ptr[i] == '0') {
            exponent -= point;
        } else {
            exponent += !point;
            if (n - first < SQL_MAX_DIGITS)
                copy[n++] = s.ptr[i];
            else
                sticky |= s.ptr[i] != '0';
        }
    }
    copy[n] = '0';
    n += n == first;
    if (sticky)
        copy[n++] = '1';
    if (i < s.len)
        exponent += exponent_read((struct zr_str){ s.ptr + i + 1, s.len - i - 1 });
    snprintf(copy + n, SHORT / 2, "e%lld", (long long)exponent);
}

static __attribute__((noinline)) uint32_t read_decimal(const char *from, uint64_t n, double *ret)
{
    char copy[SQL_MAX_DIGITS + SHORT];
    shorten((struct zr_str){ from, n }, copy);
    *ret = strtod(copy, NULL);
    return 1;
}

/* Hexadecimal digits are bits: the time grows with their number alone. */
static __attribute__((noinline)) uint32_t read_hexadecimal(const char *from, uint64_t n, double *ret)
{
    char copy[LONGEST + 1];
    if (n > LONGEST)
        return 0;
    *ret = read_copy(copy, from, n);
    return 1;
}

uint32_t sql_java_double(struct zr_str text, double *ret)
{
    struct cursor c = { text.ptr, text.ptr + text.len };
    const char *end;
    char copy[SHORT];
    while (c.at < c.end && (uint8_t)*c.at <= ' ')
        c.at++;
    while (c.end > c.at && (uint8_t)c.end[-1] <= ' ')
        c.end--;
    const char *from = c.at;
    uint32_t negative = c.at < c.end && *c.at == '-';
    one_of(&c, "+-");
    struct zr_str rest = { c.at, (uint64_t)(c.end - c.at) };
    if (zl_is(rest, "NaN") || zl_is(rest, "Infinity")) {
        *ret = rest.ptr[0] == 'N' ? (double)NAN : negative ? -HUGE_VAL : HUGE_VAL;
        return 1;
    }
    if (!is_number(c, &end))
        return 0;
    uint64_t n = (uint64_t)(end - from);
    if (n >= SHORT)
        return rest.len > 2 && (rest.ptr[1] | 32) == 'x' ? read_hexadecimal(from, n, ret) : read_decimal(from, n, ret);
    *ret = read_copy(copy, from, n);
    return 1;
}

int32_t sql_java_compare(double a, double b)
{
    if (a < b || a > b)
        return a < b ? -1 : 1;
    if (isnan(a) || isnan(b))
        return (isnan(a) != 0) - (isnan(b) != 0);
    return (signbit(b) != 0) - (signbit(a) != 0);
}

/* ---- whole numbers ---- */
#define ROW 10u
static const uint16_t zeros[] = {
    0x0660, 0x06f0, 0x07c0, 0x0966, 0x09e6, 0x0a66, 0x0ae6, 0x0b66, 0x0be6, 0x0c66, 0x0ce6, 0x0d66,
    0x0de6, 0x0e50, 0x0ed0, 0x0f20, 0x1040, 0x1090, 0x17e0, 0x1810, 0x1946, 0x19d0, 0x1a80, 0x1a90,
    0x1b50, 0x1bb0, 0x1c40, 0x1c50, 0xa620, 0xa8d0, 0xa900, 0xa9d0, 0xa9f0, 0xaa50, 0xabf0, 0xff10,
};

static char plain_digit(uint32_t c)
{
    for (uint32_t i = 0; i < sizeof zeros / sizeof zeros[0]; i++)
        if (c >= zeros[i] && c < zeros[i] + ROW)
            return (char)('0' + (c - zeros[i]));
    return 'x';
}

/* The next character of UTF-8, of two or three bytes (others are no digits), as what it is or as a plain digit. */
static char next_plain(struct cursor *c)
{
    const uint8_t *p = (const uint8_t *)c->at;
    uint64_t left = (uint64_t)(c->end - c->at);
    if (p[0] < 0x80) {
        c->at++;
        return (char)p[0];
    }
    uint32_t n = (p[0] & 0xe0) == 0xc0 ? 2 : (p[0] & 0xf0) == 0xe0 ? 3 : 1;
    if (n == 1 || left < n) {
        c->at++;
        return 'x';
    }
    c->at += n;
    return plain_digit(n == 2 ? (p[0] & 0x1fu) << 6 | (p[1] & 0x3fu)
                              : (p[0] & 0x0fu) << 12 | (p[1] & 0x3fu) << 6 | (p[2] & 0x3fu));
}

uint32_t sql_java_integer(struct zr_str text, uint32_t wide, int64_t *ret)
{
    struct cursor c = { text.ptr, text.ptr + text.len };
    char plain[SHORT];
    uint32_t n = 0;
    int32_t small;
    uint32_t negative = c.at < c.end && *c.at == '-';
    uint32_t sign = one_of(&c, "+-");
    if (sign && negative)
        plain[n++] = '-';
    while (c.at < c.end) {
        char digit = next_plain(&c);
        if (digit < '0' || digit > '9' || n + 1 >= SHORT)
            return 0;
        if (digit != '0' || c.at == c.end || n > negative)
            plain[n++] = digit; /* leading zeros do not count, however many */
    }
    if (wide)
        return zl_parse_i64((struct zr_str){ plain, n }, ret) == ZR_OK;
    if (zl_parse_i32((struct zr_str){ plain, n }, &small) != ZR_OK)
        return 0;
    *ret = small;
    return 1;
}
