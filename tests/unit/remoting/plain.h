/* SPDX-License-Identifier: Apache-2.0 */
/* plain.h - as much of Criterion as these tests use, for builds with ThreadSanitizer, beside which Criterion's own process
 * machinery does not start. Each test runs in a forked child; `main` is in fake.c. */
#ifndef PLAIN_H
#define PLAIN_H
#include <stdio.h>
#include <stdlib.h>
struct plain_test { const char *suite, *name; void (*run)(void); struct plain_test *next; };
extern struct plain_test *plain_tests;
#define Test(suite_, name_, ...)                                                                                       \
    static void suite_##_##name_(void);                                                                                \
    static struct plain_test suite_##_##name_##_test = { #suite_, #name_, suite_##_##name_, NULL };                    \
    __attribute__((constructor)) static void suite_##_##name_##_add(void)                                              \
    {                                                                                                                  \
        suite_##_##name_##_test.next = plain_tests;                                                                    \
        plain_tests = &suite_##_##name_##_test;                                                                        \
    }                                                                                                                  \
    static void suite_##_##name_(void)
#define cr_assert(condition, ...)                                                                                      \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition);                                            \
            abort();                                                                                                   \
        }                                                                                                              \
    } while (0)
#define cr_expect cr_assert
#define cr_log_info(...) (printf(__VA_ARGS__), putchar('\n'))
#endif
