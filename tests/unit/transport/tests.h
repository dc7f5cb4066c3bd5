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

const char *__tsan_default_options(void);
__attribute__((visibility("default"))) const char *__tsan_default_options(void)
{
    return "atexit_sleep_ms=50"; /* not a second for each test */
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

static pid_t tests_start(const struct tests_one *one)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(120);
        one->run();
        exit(0); /* not _exit: the sanitizer reports its findings by the exit code */
    }
    return child;
}

/* Waits for one of the running; 1 when it failed. */
static int tests_end(pid_t *children, const struct tests_one **ones, int n)
{
    int status = 0, at = 0;
    pid_t child = wait(&status);
    while (at < n && children[at] != child) {
        at++;
    }
    if (at < n) {
        printf("%s %s\n", status == 0 ? "ok" : "not ok", ones[at]->name);
        fflush(stdout);
        children[at] = 0;
    }
    return status != 0;
}

static const char *tests_option(int argc, char **argv, const char *name, const char *otherwise)
{
    for (int i = 1; i + 1 < argc; i++) {
        if (strcmp(argv[i], name) == 0) {
            return argv[i + 1];
        }
    }
    return otherwise;
}

#define TESTS_JOBS 16
int main(int argc, char **argv)
{
    const char *filter = tests_option(argc, argv, "--filter", "*");
    int jobs = atoi(tests_option(argc, argv, "--jobs", "1")), failed = 0, n = 0, running = 0;
    pid_t children[TESTS_JOBS] = { 0 };
    const struct tests_one *ones[TESTS_JOBS];
    jobs = jobs < 1 ? 1 : jobs > TESTS_JOBS ? TESTS_JOBS : jobs;
    for (const struct tests_one *one = tests_all; one || running;) {
        if (one && fnmatch(filter, one->name, 0) != 0) {
            one = one->next;
        } else if (one && running < jobs) {
            int at = 0;
            while (children[at]) {
                at++;
            }
            children[at] = tests_start(one);
            ones[at] = one;
            one = one->next;
            running++;
            n++;
        } else {
            failed += tests_end(children, ones, jobs);
            running--;
        }
    }
    printf("%d tests, %d failed\n", n, failed);
    return failed != 0 || n == 0;
}
#endif
#endif
