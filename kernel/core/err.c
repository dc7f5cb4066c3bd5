/* SPDX-License-Identifier: Apache-2.0 */
/* err.c - why the last call on this thread failed: one finished record for each thread, the last one raised wins. */
#include "core/core_int.h"
#include <stdarg.h>
#include <stdio.h>

#define ERR_TEXT_MAX 2048u

static _Thread_local char err_text[ERR_TEXT_MAX];

void zk_err_clear(void) { err_text[0] = 0; }

const char *zk_err_text(void) { return err_text; }

/* Appends the system's own word for errno, when there is one, it was not said already, and the text has room. */
static void add_errno(size_t at, int32_t os_errno)
{
    const char *word = strerrordesc_np(os_errno) ? strerrordesc_np(os_errno) : "unknown error";
    if (os_errno != 0 && at + 4u < ERR_TEXT_MAX && !strstr(err_text, word))
        snprintf(err_text + at, ERR_TEXT_MAX - at, ": %s", word);
}

void zk_err_raise(zr_status status, int32_t os_errno, const char *fmt, ...)
{
    va_list ap;
    (void)status;
    /* The arguments may well be zk_err_text() itself ("warm failed: <text>"), so the text is built beside it. */
    char text[ERR_TEXT_MAX];
    va_start(ap, fmt);
    int n = vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    size_t len = n < 0 ? 0 : (size_t)n < sizeof text ? (size_t)n : sizeof text - 1;
    memcpy(err_text, text, len);
    err_text[len] = 0;
    add_errno(len, os_errno);
}

void zk_err_take(const struct zr_error *error)
{
    if (!ZR_HAS(struct zr_error, error, text))
        return;
    uint64_t len = error->text.len < ERR_TEXT_MAX - 1 ? error->text.len : ERR_TEXT_MAX - 1;
    memmove(err_text, error->text.ptr, len);
    for (uint64_t i = 0; i < len; i++) /* one line, whatever came */
        if ((unsigned char)err_text[i] < 0x20)
            err_text[i] = ' ';
    err_text[len] = 0;
    add_errno(len, error->os_errno);
}
