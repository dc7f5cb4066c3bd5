/* SPDX-License-Identifier: Apache-2.0 */
/* Answers for tests/interop/sql_test.py: lines "<hex of expression> <hex of properties>" come in, one letter for each goes
 * out: E refused, Y matches, N does not. With one argument, its value is an expression, and the reason of its refusal or "ok"
 * is printed. */
#include <stdio.h>
#include "sql92.h"

#define LINE (1u << 20)

static uint64_t unhex(char *text)
{
    uint64_t n = 0;
    for (const char *at = text; at[0] && at[1]; at += 2) {
        char two[3] = { at[0], at[1], 0 };
        text[n++] = (char)strtoul(two, NULL, 16);
    }
    return n;
}

static char answer(char *line)
{
    static char last[LINE];
    static struct sql_build b;
    static uint64_t last_len = UINT64_MAX;
    char *properties = strchr(line, ' ');
    if (!properties)
        return '?';
    *properties++ = 0;
    properties[strcspn(properties, "\n")] = 0;
    uint64_t n_expr = unhex(line), n_props = unhex(properties);
    if (n_expr != last_len || memcmp(last, line, n_expr) != 0) {
        sql_free(b.prog);
        sql_compile((struct zr_str){ line, n_expr }, &b);
        memcpy(last, line, n_expr);
        last_len = n_expr;
    }
    if (!b.prog)
        return 'E';
    return sql_matches(b.prog, (struct zr_span){ (const uint8_t *)properties, n_props }) ? 'Y' : 'N';
}

int main(int argc, char **argv)
{
    static char line[LINE];
    if (argc > 1) {
        struct sql_build b;
        zr_status status = sql_compile((struct zr_str){ argv[1], strlen(argv[1]) }, &b);
        puts(status == ZR_OK ? "ok" : b.why);
        sql_free(b.prog);
        return status != ZR_OK;
    }
    while (fgets(line, sizeof line, stdin))
        putchar(answer(line));
    putchar('\n');
    return 0;
}
