/* SPDX-License-Identifier: Apache-2.0 */
/* plain.h - the few words of Criterion that these tests use, for a build under ThreadSanitizer, in whose memory layout
 * Criterion's runner does not start. Each test runs in a child process. */
#ifndef STORAGE_TEST_PLAIN_H
#define STORAGE_TEST_PLAIN_H
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct plain_test {
    const char *name;
    void (*run)(void);
    struct plain_test *next;
};
extern struct plain_test *plain_tests;

#define Test(suite, test, ...)                                                                        \
    static void suite##_##test##_run(void);                                                        \
    __attribute__((constructor)) static void suite##_##test##_add(void)                            \
    {                                                                                              \
        static struct plain_test one = { #suite "::" #test, suite##_##test##_run, NULL };          \
        one.next = plain_tests;                                                                    \
        plain_tests = &one;                                                                        \
    }                                                                                              \
    static void suite##_##test##_run(void)

static inline void plain_use(int n, ...) { (void)n; }

#define cr_assert(condition, ...)                                                                  \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            plain_use(0 __VA_OPT__(, ) __VA_ARGS__);                                               \
            fprintf(stderr, "%s:%d: false: %s\n", __FILE__, __LINE__, #condition);                 \
            _exit(1);                                                                              \
        }                                                                                          \
    } while (0)
#define cr_assert_fail(...) cr_assert(!"reached" __VA_OPT__(, ) __VA_ARGS__)
#define cr_assert_not(a, ...) cr_assert(!(a) __VA_OPT__(, ) __VA_ARGS__)
#define cr_assert_null(a, ...) cr_assert((a) == NULL __VA_OPT__(, ) __VA_ARGS__)
#define cr_assert_not_null(a, ...) cr_assert((a) != NULL __VA_OPT__(, ) __VA_ARGS__)
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b) __VA_OPT__(, ) __VA_ARGS__)
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b) __VA_OPT__(, ) __VA_ARGS__)
#define cr_assert_lt(a, b, ...) cr_assert((a) < (b) __VA_OPT__(, ) __VA_ARGS__)
#define cr_assert_gt(a, b, ...) cr_assert((a) > (b) __VA_OPT__(, ) __VA_ARGS__)
#define cr_assert_geq(a, b, ...) cr_assert((a) >= (b) __VA_OPT__(, ) __VA_ARGS__)
#endif
