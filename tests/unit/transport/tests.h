/* SPDX-License-Identifier: Apache-2.0 */
/* tests.h - Criterion; or, under ThreadSanitizer, whose memory layout Criterion's runner cannot live with, the few of its
 * words that these tests use, each test in a child process of its own. */
#ifndef TEST_TESTS_H
#define TEST_TESTS_H
#ifndef __SANITIZE_THREAD__
#include <criterion/criterion.h>
#else
#include <fnmatch.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* libnng is not instrumented, so the sanitizer does not see the counts by which it knows that a lock of its own has no user
 * left. A connection of ours that dies too early is still found, by its free. */
const char *__tsan_default_suppressions(void);
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void)
{
    return "race:pthread_mutex_destroy\n";
}

struct tests_one { const char *name; void (*run)(void); struct tests_one *next; };
static struct tests_one *tests_all;

#define Test(suite, test, ...)                                                                    \
    static void suite##_##test##_run(void);                                                       \
    __attribute__((constructor)) static void suite##_##test##_add(void)                           \
    {                                                                                             \
        static struct tests_one one = { #suite "/" #test, suite##_##test##_run, NULL };           \
        one.next = tests_all;                                                                     \
        tests_all = &one;                                                                         \
    }                                                                                             \
    static void suite##_##test##_run(void)

#define cr_assert(condition, ...)                                                                 \
    do {                                                                                          \
        if (!(condition)) {                                                                       \
            fprintf(stderr, "%s:%d: false: %s\n", __FILE__, __LINE__, #condition);                \
            _exit(1);                                                                             \
        }                                                                                         \
    } while (0)
#define cr_assert_eq(a, b, ...) cr_assert((a) == (b))
#define cr_assert_neq(a, b, ...) cr_assert((a) != (b))
#define cr_assert_lt(a, b, ...) cr_assert((a) < (b))
#define cr_assert_leq(a, b, ...) cr_assert((a) <= (b))
#define cr_assert_gt(a, b, ...) cr_assert((a) > (b))
#define cr_assert_geq(a, b, ...) cr_assert((a) >= (b))
#define cr_assert_str_eq(a, b, ...) cr_assert(strcmp((a), (b)) == 0)
#define cr_assert_arr_eq(a, b, n, ...) cr_assert(memcmp((a), (b), (n)) == 0)

static int tests_run(const struct tests_one *one)
{
    int status = 0;
    pid_t child = fork();
    if (child == 0) {
        alarm(120);
        one->run();
        exit(0); /* not _exit: the sanitizer reports its findings by the exit code */
    }
    waitpid(child, &status, 0);
    printf("[%s] %s\n", status == 0 ? "PASS" : "FAIL", one->name);
    fflush(stdout);
    return status != 0;
}

int main(int argc, char **argv)
{
    const char *filter = argc > 2 && strcmp(argv[1], "--filter") == 0 ? argv[2] : "*";
    int failed = 0, n = 0;
    for (const struct tests_one *one = tests_all; one; one = one->next) {
        if (fnmatch(filter, one->name, 0) == 0) {
            failed += tests_run(one);
            n++;
        }
    }
    printf("%d tests, %d failed\n", n, failed);
    return failed != 0;
}
#endif
#endif
