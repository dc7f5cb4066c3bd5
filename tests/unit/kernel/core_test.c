/* SPDX-License-Identifier: Apache-2.0 */
/* core_test.c - timers, worker pool, metrics, arena, errors, log lines, state documents. */
#include <criterion/criterion.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include "config/node.h"
#include "core/core.h"
#include "core/core_int.h"
#include "plugin/instance.h"
#include "zl/io.h"

/* ---- waiting without polling ---- */
struct gate { pthread_mutex_t lock; pthread_cond_t wake; uint32_t count; };
static struct gate gate = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0 };

static void gate_add(void)
{
    pthread_mutex_lock(&gate.lock);
    gate.count++;
    pthread_cond_broadcast(&gate.wake);
    pthread_mutex_unlock(&gate.lock);
}

static void gate_wait(uint32_t n)
{
    pthread_mutex_lock(&gate.lock);
    while (gate.count < n)
        pthread_cond_wait(&gate.wake, &gate.lock);
    pthread_mutex_unlock(&gate.lock);
}

/* ---- timers ---- */
static uint32_t order[8], n_order;
static void note_order(void *arg)
{
    order[n_order++] = (uint32_t)(uintptr_t)arg; /* timer thread only */
    gate_add();
}

Test(timer, run_in_the_order_of_their_times)
{
    uint64_t id;
    cr_assert_eq(zk_core_start(1), ZR_OK);
    int64_t now = zk_mono_ns() + 30000000;
    zk_timer_at(now + 3000000, note_order, (void *)3, &id);
    zk_timer_at(now + 1000000, note_order, (void *)1, &id);
    zk_timer_at(now + 2000000, note_order, (void *)2, &id);
    zk_timer_at(now + 4000000, note_order, (void *)4, &id);
    gate_wait(4);
    zk_core_stop();
    for (uint32_t i = 0; i < 4; i++)
        cr_expect_eq(order[i], i + 1);
}

static _Atomic uint32_t ran;
static void count_run(void *arg)
{
    (void)arg;
    atomic_fetch_add(&ran, 1);
}

Test(timer, cancelled_ones_do_not_run_and_ids_are_not_reused)
{
    uint64_t a, b, last;
    cr_assert_eq(zk_core_start(1), ZR_OK);
    cr_assert_eq(zk_timer_at(zk_mono_ns() + 3600000000000ll, count_run, NULL, &a), ZR_OK);
    cr_expect_neq(a, 0);
    cr_expect_eq(zk_timer_cancel(a), ZR_OK);
    cr_expect_eq(zk_timer_cancel(a), ZR_ENOENT);
    cr_assert_eq(zk_timer_at(zk_mono_ns() + 3600000000000ll, count_run, NULL, &b), ZR_OK); /* takes the same slot */
    cr_expect_neq(a, b);
    cr_expect_eq(zk_timer_cancel(a), ZR_ENOENT, "an old id must not meet a new timer");
    cr_expect_eq(zk_timer_cancel(b), ZR_OK);
    cr_expect_eq(zk_timer_cancel(0), ZR_ENOENT);
    zk_timer_at(zk_mono_ns(), note_order, NULL, &last);
    gate_wait(1);
    cr_expect_eq(zk_timer_cancel(last), ZR_ENOENT, "it ran");
    zk_core_stop();
    cr_expect_eq(atomic_load(&ran), 0u);
    cr_expect_eq(zk_timer_at(0, count_run, NULL, &a), ZR_ECLOSED, "no timer after the stop");
}

static void clock_set(void *arg) { (void)arg; }

Test(timer, who_wants_to_know_of_a_set_clock_has_a_place_of_sixteen)
{
    uint32_t who[17];
    cr_assert_eq(zk_core_start(1), ZR_OK);
    for (uint32_t i = 0; i < 16; i++)
        cr_expect_eq(zk_on_clock_set(clock_set, &who[i]), ZR_OK);
    cr_expect_eq(zk_on_clock_set(clock_set, &who[3]), ZR_OK, "again is the same place");
    cr_expect_eq(zk_on_clock_set(clock_set, &who[16]), ZR_EFULL);
    cr_expect_eq(zk_on_clock_set(NULL, &who[5]), ZR_OK);
    cr_expect_eq(zk_on_clock_set(clock_set, &who[16]), ZR_OK);
    for (uint32_t i = 0; i < 17; i++)
        cr_expect_eq(zk_on_clock_set(NULL, &who[i]), ZR_OK);
    zk_core_stop();
}

Test(timer, a_hundred_thousand)
{
    enum { N = 100000 };
    uint64_t *ids = malloc(N * sizeof *ids);
    cr_assert_eq(zk_core_start(1), ZR_OK);
    int64_t base = zk_mono_ns() + 200000000;
    for (uint32_t i = 0; i < N; i++)
        cr_assert_eq(zk_timer_at(base + (int64_t)((i * 2654435761u) % 1000) * 100000, count_run, NULL, &ids[i]), ZR_OK);
    uint32_t cancelled = 0;
    for (uint32_t i = 0; i < N; i += 2)
        cancelled += zk_timer_cancel(ids[i]) == ZR_OK;
    uint64_t id;
    zk_timer_at(base + 400000000, note_order, NULL, &id); /* behind all of them */
    gate_wait(1);
    zk_core_stop();
    cr_expect_eq(atomic_load(&ran) + cancelled, N);
    cr_expect_gt(cancelled, 0u);
    free(ids);
}

static void again(void *arg)
{
    uint64_t id;
    if (atomic_fetch_add(&ran, 1) < 99)
        zk_timer_at(zk_mono_ns(), again, arg, &id);
    else
        gate_add();
}

Test(timer, may_set_another_from_within)
{
    uint64_t id;
    cr_assert_eq(zk_core_start(1), ZR_OK);
    zk_timer_at(zk_mono_ns(), again, NULL, &id);
    gate_wait(1);
    zk_core_stop();
    cr_expect_eq(atomic_load(&ran), 100u);
}

/* ---- pool ---- */
Test(work, everything_accepted_runs_once_also_at_the_stop)
{
    uint32_t accepted = 0;
    cr_assert_eq(zk_core_start(4), ZR_OK);
    for (uint32_t i = 0; i < 50000; i++)
        accepted += zk_work(count_run, NULL) == ZR_OK;
    zk_core_stop();
    cr_expect_eq(atomic_load(&ran), accepted);
    cr_expect_eq(zk_work(count_run, NULL), ZR_ECLOSED);
}

static void hold(void *arg)
{
    (void)arg;
    gate_add();
    gate_wait(100);
}

Test(work, a_full_queue_refuses)
{
    uint32_t accepted = 0;
    cr_assert_eq(zk_core_start(1), ZR_OK);
    cr_assert_eq(zk_work(hold, NULL), ZR_OK);
    gate_wait(1); /* the only worker is held now */
    while (accepted < 100000 && zk_work(count_run, NULL) == ZR_OK)
        accepted++;
    cr_expect_eq(accepted, 65536u);
    cr_expect_eq(zk_work(count_run, NULL), ZR_EFULL);
    for (uint32_t i = 0; i < 99; i++)
        gate_add();
    zk_core_stop();
    cr_expect_eq(atomic_load(&ran), accepted);
}

/* ---- metrics ---- */
struct wanted { const char *name; double value; uint32_t seen; };
static void look(void *ctx, struct zr_str name, struct zr_str instance, uint32_t kind, struct zr_str doc, double value)
{
    struct wanted *w = ctx;
    (void)kind, (void)doc;
    if (zl_is(name, w->name) && zl_is(instance, "kernel")) {
        w->value = value;
        w->seen++;
    }
}

static double value_of(const char *name)
{
    struct wanted w = { name, -1, 0 };
    zk_metrics_each(look, &w);
    cr_expect_eq(w.seen, 1u, "%s is there %u times", name, w.seen);
    return w.value;
}

static uint32_t shared_id;
static void *add_many(void *arg)
{
    (void)arg;
    for (uint32_t i = 0; i < 100000; i++)
        zk_metric_add(shared_id, 1);
    return NULL;
}

Test(metrics, counters_lose_nothing_between_threads)
{
    pthread_t t[4];
    shared_id = zk_metric("test_total", ZR_METRIC_COUNTER, NULL, "Test.");
    cr_expect_neq(shared_id, 0u);
    cr_expect_eq(zk_metric("test_total", ZR_METRIC_COUNTER, NULL, "Test."), shared_id, "declared again: the same");
    cr_expect_eq(zk_metric("test_total", ZR_METRIC_GAUGE, NULL, "Test."), 0u, "of another kind: refused");
    for (uint32_t i = 0; i < 4; i++)
        pthread_create(&t[i], NULL, add_many, NULL);
    for (uint32_t i = 0; i < 4; i++)
        pthread_join(t[i], NULL);
    cr_expect_eq(value_of("test_total"), 400000.0);
    uint32_t gauge = zk_metric("test_gauge", ZR_METRIC_GAUGE, NULL, "Test.");
    zk_metric_add(gauge, 5);
    zk_metric_set(gauge, 3);
    zk_metric_add(gauge, -1);
    cr_expect_eq(value_of("test_gauge"), 2.0);
}

Test(metrics, histograms_are_right_within_an_eighth)
{
    uint32_t id = zk_metric("test_ns", ZR_METRIC_HISTOGRAM, "ns", "Test.");
    for (int64_t i = 1; i <= 1000; i++)
        zk_metric_observe(id, i * 1000);
    zk_metric_observe(id, -5);         /* counts as 0 */
    cr_expect_eq(value_of("test_ns_count"), 1001.0);
    cr_expect_eq(value_of("test_ns_sum"), 500500000.0);
    cr_expect_eq(value_of("test_ns_max"), 1000000.0);
    double p50 = value_of("test_ns_p50"), p99 = value_of("test_ns_p99");
    cr_expect(p50 >= 500000 && p50 < 500000 * 1.13, "p50 %f", p50);
    cr_expect(p99 >= 990000 * 0.99 && p99 <= 1000000, "p99 %f", p99);
    zk_metric_observe(id, INT64_MAX); /* the last bucket */
    cr_expect_eq(value_of("test_ns_max"), (double)INT64_MAX);
}

Test(metrics, text_is_prometheus)
{
    struct zl_buf out;
    zk_metric_add(zk_metric("test_text_total", ZR_METRIC_COUNTER, NULL, "Of a test."), 7);
    zl_buf_init(&out, 1 << 20);
    zk_metrics_text(&out);
    zl_buf_u8(&out, 0);
    cr_expect(strstr((char *)out.ptr, "# HELP test_text_total Of a test.\n# TYPE test_text_total counter\ntest_text_total{instance=\"kernel\"} 7\n"));
    zl_buf_free(&out);
}

/* ---- arena ---- */
Test(arena, stays_within_its_maximum_and_keeps_one_chunk)
{
    struct zk_arena a;
    zk_arena_init(&a, 1024, 4096);
    for (uint32_t i = 0; i < 4; i++)
        cr_expect_not_null(zk_arena_alloc(&a, 1000));
    cr_expect_null(zk_arena_alloc(&a, 100), "the maximum is reached");
    zk_arena_reset(&a);
    void *first = zk_arena_alloc(&a, 8);
    cr_expect_eq((uintptr_t)first % 16, 0u);
    cr_expect_not_null(zk_arena_alloc(&a, 2000), "larger than a chunk");
    cr_expect_null(zk_arena_alloc(&a, UINT64_MAX), "no overflow");
    cr_expect_null(zk_arena_alloc(&a, UINT64_MAX - 8), "no overflow of the rounding");
    struct zr_str s = zk_arena_str(&a, (struct zr_str)ZR_STR("text"));
    cr_expect_str_eq(s.ptr, "text");
    zk_arena_reset(&a);
    cr_expect_not_null(a.chunks, "a chunk is kept");
    cr_expect_eq(a.used, 0u);
    cr_expect_not_null(zk_arena_alloc(&a, 3000), "the others were given back");
    zk_arena_free(&a);
}

/* ---- errors ---- */
Test(err, the_last_one_wins_and_may_quote_itself)
{
    cr_expect_str_eq(zk_err_text(), "");
    zk_err_raise(ZR_EIO, ENOSPC, "cannot write %s", "x");
    cr_expect_str_eq(zk_err_text(), "cannot write x: No space left on device");
    zk_err_raise(ZR_EINVAL, 0, "start failed: %s", zk_err_text());
    cr_expect_str_eq(zk_err_text(), "start failed: cannot write x: No space left on device");
    zk_err_clear();
    cr_expect_str_eq(zk_err_text(), "");
}

/* ---- log ---- */
static uint32_t read_log(int fd, char *text, uint32_t cap)
{
    ssize_t n = pread(fd, text, cap - 1, 0);
    text[n > 0 ? n : 0] = 0;
    return n > 0 ? (uint32_t)n : 0;
}

Test(log, one_line_whatever_the_text)
{
    char text[20000], path[] = "/tmp/zarya-log-XXXXXX";
    int fd = mkstemp(path), saved = dup(2);
    unlink(path);
    dup2(fd, 2);
    zk_log(ZR_LOG_INFO, "two\nlines \"quoted\"");
    zk_log(ZR_LOG_DEBUG, "not written at level info");
    zk_log_set(ZR_LOG_INFO, 1);
    zk_log(ZR_LOG_WARN, "two\nlines \"quoted\"");
    zk_log_set(ZR_LOG_INFO, 0);
    char *longer = malloc(10001);
    memset(longer, 'x', 10000);
    longer[10000] = 0;
    zk_log(ZR_LOG_ERROR, "%s", longer);
    free(longer);
    dup2(saved, 2);
    uint32_t n = read_log(fd, text, sizeof text), lines = 0;
    for (uint32_t i = 0; i < n; i++)
        lines += text[i] == '\n';
    cr_expect_eq(lines, 3u);
    cr_expect(strstr(text, " info  kernel: two lines \"quoted\"\n"));
    cr_expect(strstr(text, "\"level\":\"warn\",\"instance\":\"kernel\",\"generation\":0,\"text\":\"two\\u000alines \\\"quoted\\\"\"}\n"));
    cr_expect_null(strstr(text, "not written"));
    close(fd);
}

/* A reader that does not read, until it is told to. */
struct reader { int pipe[2], saved; char *text; uint64_t len; pthread_t thread; };

static void reader_begin(struct reader *r)
{
    cr_assert_eq(pipe(r->pipe), 0);
    r->saved = dup(2);
    dup2(r->pipe[1], 2);
    r->text = malloc(8u << 20);
    r->len = 0;
}

static void *reader_read(void *arg)
{
    struct reader *r = arg;
    for (ssize_t n; (n = read(r->pipe[0], r->text + r->len, (8u << 20) - 1 - r->len)) > 0;)
        r->len += (uint64_t)n;
    r->text[r->len] = 0;
    return NULL;
}

static void reader_end(struct reader *r)
{
    dup2(r->saved, 2);
    close(r->pipe[1]);
    pthread_join(r->thread, NULL);
    close(r->pipe[0]);
}

/* Lines of one thread are numbered; returns how many are there, in order and whole, and how many the log says are not. */
static uint64_t count_lines(const char *text, uint32_t thread, uint64_t *ret_left_out)
{
    uint64_t n = 0, next = 0, left_out = 0;
    for (const char *line = text, *end; (end = strchr(line, '\n')); line = end + 1) {
        unsigned who;
        unsigned long long number;
        char one[256]; /* sscanf measures the whole text each time */
        snprintf(one, sizeof one, "%.*s", (int)(end - line < 255 ? end - line : 255), line);
        const char *from = strstr(one, "kernel: ");
        cr_assert(from, "a line is no line: %s", one);
        if (sscanf(from, "kernel: thread %u line %llu xxxx", &who, &number) == 2) {
            cr_assert_eq(end[-1], 'x');
            if (who == thread) {
                cr_assert_geq(number, next);
                next = number + 1;
                n++;
            }
        } else if (sscanf(from, "kernel: log: %llu lines were left out here", &number) == 1) {
            left_out += number;
        } else {
            cr_assert_fail("what line is this: %s", one);
        }
    }
    if (ret_left_out)
        *ret_left_out = left_out;
    return n;
}

#define LOG_LINES 40000u
static void log_lines(uint32_t thread, uint32_t n)
{
    char text[128];
    for (uint32_t i = 0; i < n; i++) {
        snprintf(text, sizeof text, "thread %u line %u xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", thread, i);
        zk_log_line(ZR_LOG_INFO, "kernel", 0, zl_str(text), NULL, 0); /* zk_log would leave most of them out */
    }
}

Test(log, who_logs_does_not_wait_for_the_reader, .timeout = 60)
{
    struct reader r;
    uint64_t left_out;
    reader_begin(&r);
    zk_log_start();
    log_lines(0, LOG_LINES); /* some 4 MiB, and nobody reads: with a write by the caller this does not come back */
    cr_expect_eq(zk_log_flush(), 0u);
    pthread_create(&r.thread, NULL, reader_read, &r);
    cr_expect_eq(zk_log_flush(), 1u);
    log_lines(1, 10);
    zk_log_stop();
    reader_end(&r);
    uint64_t there = count_lines(r.text, 0, &left_out);
    cr_expect_lt(there, LOG_LINES);
    cr_expect_eq(there + left_out, LOG_LINES);
    cr_expect_eq(count_lines(r.text, 1, NULL), 10u);
    free(r.text);
}

/* One place that logs much: bounded, counted, and another place is not touched. */
Test(log, one_place_does_not_fill_the_log, .timeout = 60)
{
    struct reader r;
    unsigned long long left_out = 0;
    uint32_t there = 0;
    reader_begin(&r);
    pthread_create(&r.thread, NULL, reader_read, &r);
    zk_log_start();
    for (uint32_t i = 0; i < 20000; i++)
        zk_log(ZR_LOG_WARN, "somebody said %s", "something that is not so long, but longer than nothing");
    zk_log(ZR_LOG_WARN, "somebody else said %s", "something");
    zk_log_stop();
    reader_end(&r);
    for (const char *at = r.text; (at = strstr(at, "somebody said something")); at++)
        there++;
    const char *told = strstr(r.text, "more lines like \"somebody said %s\" were left out");
    cr_assert_not_null(told);
    while (told > r.text && told[-1] != ':')
        told--;
    cr_expect_eq(sscanf(told, "%llu", &left_out), 1);
    cr_expect_eq(there + left_out, 20000u);
    cr_expect_lt(r.len, 1u << 20);
    cr_expect_gt(there, 1000u); /* a burst is let through */
    cr_expect(strstr(r.text, "somebody else said something"));
    free(r.text);
}

static void *log_some(void *arg)
{
    log_lines((uint32_t)(uintptr_t)arg, 1500);
    return NULL;
}

Test(log, lines_of_many_threads_all_come_in_order, .timeout = 60)
{
    struct reader r;
    pthread_t threads[8];
    uint64_t there = 0, left_out;
    reader_begin(&r);
    pthread_create(&r.thread, NULL, reader_read, &r);
    zk_log_start();
    for (uintptr_t i = 0; i < 8; i++)
        pthread_create(&threads[i], NULL, log_some, (void *)i);
    for (uint32_t i = 0; i < 8; i++)
        pthread_join(threads[i], NULL);
    zk_log_stop();
    log_lines(8, 1); /* by itself again */
    reader_end(&r);
    for (uint32_t i = 0; i < 8; i++)
        there += count_lines(r.text, i, &left_out);
    cr_expect_eq(there + left_out, 8 * 1500u); /* a reader that is late costs lines, and says how many */
    cr_expect_eq(count_lines(r.text, 8, NULL), 1u);
    free(r.text);
}

Test(log, a_stop_does_not_wait_for_ever, .timeout = 60)
{
    struct reader r;
    signal(SIGPIPE, SIG_IGN); /* as the daemon */
    reader_begin(&r);
    zk_log_start();
    log_lines(0, 2000); /* more than a pipe takes */
    zk_log_stop();
    log_lines(1, 1); /* goes nowhere, and does not hang */
    cr_expect_eq(zk_log_flush(), 1u); /* nothing to wait for */
    close(r.pipe[0]);                 /* the writer, which lives until the process ends, gets no further */
    free(r.text);
}

/* What was logged before a crash is what tells why. */
Test(log, a_crash_leaves_no_line_behind, .timeout = 60)
{
    struct reader r;
    int status, soon[2];
    char byte;
    cr_assert_eq(pipe(soon), 0);
    reader_begin(&r);
    pid_t child = fork();
    if (child == 0) {
        close(soon[0]);
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        signal(SIGABRT, SIG_DFL); /* not the test runner's */
        zk_log_start();
        log_lines(0, 5000); /* more than the pipe takes: nobody reads yet */
        close(soon[1]);
        abort();
    }
    close(soon[1]);
    cr_assert_eq(read(soon[0], &byte, 1), 0);
    close(soon[0]);
    pthread_create(&r.thread, NULL, reader_read, &r);
    cr_assert_eq(waitpid(child, &status, 0), child);
    cr_expect(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    reader_end(&r);
    cr_expect_eq(count_lines(r.text, 0, NULL), 5000u);
    free(r.text);
}

/* ---- state documents ---- */
static char data_dir[64];
static void make_data_dir(void)
{
    strcpy(data_dir, "/tmp/zarya-state-XXXXXX");
    cr_assert_not_null(mkdtemp(data_dir));
    zk_node.data_dir = data_dir;
}

static void remove_data_dir(void)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", data_dir);
    cr_expect_eq(system(cmd), 0);
}

static void put_file(const char *name, const char *text)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", data_dir, name);
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fputs(text, f);
    fclose(f);
}

/* Takes documents that begin with '{'. */
static zr_status take_json(void *ctx, struct zr_span bytes)
{
    if (bytes.len == 0 || bytes.ptr[0] != '{')
        return ZR_EINVAL;
    snprintf(ctx, 64, "%.*s", (int)bytes.len, (const char *)bytes.ptr);
    return ZR_OK;
}

#define NAME ((struct zr_str)ZR_STR("config/doc.json"))
#define BYTES(s) ((struct zr_span){ (const uint8_t *)(s), strlen(s) })

Test(state, falls_back_to_the_one_before, .init = make_data_dir, .fini = remove_data_dir)
{
    char got[64] = "";
    cr_expect_eq(zk_state_read(NAME, take_json, got), ZR_ENOENT);
    cr_assert_eq(zk_state_write(NAME, BYTES("{1}")), ZR_OK, "%s", zk_err_text());
    cr_assert_eq(zk_state_read(NAME, take_json, got), ZR_OK);
    cr_expect_str_eq(got, "{1}");
    cr_assert_eq(zk_state_write(NAME, BYTES("{2}")), ZR_OK);
    cr_assert_eq(zk_state_read(NAME, take_json, got), ZR_OK);
    cr_expect_str_eq(got, "{2}");
    put_file("config/doc.json", "damaged");
    cr_assert_eq(zk_state_read(NAME, take_json, got), ZR_OK);
    cr_expect_str_eq(got, "{1}");
    put_file("config/doc.json.bak", "damaged too");
    cr_expect_eq(zk_state_read(NAME, take_json, got), ZR_ECORRUPT, "damage is never taken for absence");
    cr_expect(strstr(zk_err_text(), "doc.json"));
}

Test(state, a_missing_one_is_taken_from_its_bak, .init = make_data_dir, .fini = remove_data_dir)
{
    char got[64] = "", path[128];
    cr_assert_eq(zk_state_write(NAME, BYTES("{1}")), ZR_OK);
    cr_assert_eq(zk_state_write(NAME, BYTES("{2}")), ZR_OK);
    snprintf(path, sizeof path, "%s/config/doc.json", data_dir);
    unlink(path);
    cr_assert_eq(zk_state_read(NAME, take_json, got), ZR_OK);
    cr_expect_str_eq(got, "{1}");
    put_file("config/doc.json", ""); /* what a crash of a lesser writer leaves */
    cr_assert_eq(zk_state_read(NAME, take_json, got), ZR_OK);
    cr_expect_str_eq(got, "{1}");
}

Test(state, names_cannot_leave_the_directory, .init = make_data_dir, .fini = remove_data_dir)
{
    const char *bad[] = { "", "/etc/passwd", "../x", "a/../../x", "a//b", "a/", "./a", ".." };
    for (uint32_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_expect_eq(zk_state_write(zl_str(bad[i]), BYTES("{}")), ZR_EINVAL, "%s", bad[i]);
}

/* A disk without space: every write fails. */
static struct zr_io_v1 full;
static int64_t full_pwrite(void *self, int32_t fd, const void *buf, uint64_t len, int64_t off)
{
    (void)self, (void)fd, (void)buf, (void)len, (void)off;
    return -ENOSPC;
}

Test(state, a_full_disk_leaves_the_present_one, .init = make_data_dir, .fini = remove_data_dir)
{
    char got[64] = "";
    cr_assert_eq(zk_state_write(NAME, BYTES("{1}")), ZR_OK);
    full = *zl_io_posix();
    full.pwrite = full_pwrite;
    zk_io_set(&full);
    cr_expect_eq(zk_state_write(NAME, BYTES("{2}")), ZR_EFULL);
    zk_io_set(NULL);
    cr_assert_eq(zk_state_read(NAME, take_json, got), ZR_OK);
    cr_expect_str_eq(got, "{1}");
}

static int64_t no_rename(void *self, const char *from, const char *to)
{
    (void)self, (void)from, (void)to;
    return -EIO;
}

Test(state, a_good_bak_is_not_overwritten_by_damage, .init = make_data_dir, .fini = remove_data_dir)
{
    char got[64] = "";
    uint32_t bak;
    cr_assert_eq(zk_state_write(NAME, BYTES("{1}")), ZR_OK);
    cr_assert_eq(zk_state_write(NAME, BYTES("{2}")), ZR_OK);
    put_file("config/doc.json", "damaged");
    full = *zl_io_posix();
    full.rename = no_rename; /* it cannot be set aside now: it is read all the same */
    zk_io_set(&full);
    cr_assert_eq(zk_state_read_from(NAME, take_json, got, &bak), ZR_OK);
    cr_expect(bak && strcmp(got, "{1}") == 0);
    zk_io_set(NULL);
    cr_assert_eq(zk_state_read_from(NAME, take_json, got, &bak), ZR_OK);
    cr_expect(bak && strcmp(got, "{1}") == 0);
    cr_assert_eq(zk_state_write(NAME, BYTES("{3}")), ZR_OK);
    put_file("config/doc.json", "damaged again"); /* before anything else was written: what was good then is good still */
    cr_assert_eq(zk_state_read_from(NAME, take_json, got, &bak), ZR_OK);
    cr_expect(bak && strcmp(got, "{1}") == 0);
}

/* ---- services as plugins see them ---- */
Test(services, memory_is_counted_for_its_instance)
{
    struct zk_instance in = { .as = "tester" };
    in.host.ctx = &in;
    zk_core_provide_services();
    const struct zr_mem_v1 *mem = zk_service(ZR_SVC_MEM);
    cr_assert_not_null(mem);
    cr_expect_null(zk_service("zarya.nothing/1"));
    in.metric_memory = zk_metric("test_memory", ZR_METRIC_GAUGE, NULL, "Test.");
    void *p = mem->alloc(&in.host, 1000);
    cr_assert_not_null(p);
    cr_expect_eq((uintptr_t)p % 16, 0u);
    cr_expect_eq(value_of("test_memory"), 1000.0);
    mem->release(&in.host, p);
    mem->release(&in.host, NULL);
    cr_expect_eq(value_of("test_memory"), 0.0);
    cr_expect_null(mem->alloc(&in.host, UINT64_MAX));
    const struct zr_timer_v1 *timer = zk_service(ZR_SVC_TIMER);
    uint64_t id;
    in.stage = ZK_COOLED;
    cr_assert_eq(zk_core_start(1), ZR_OK);
    cr_expect_eq(timer->at(&in.host, 0, count_run, NULL, &id), ZR_ECLOSED, "no timer after cool");
    zk_core_stop();
}

static void named(void *arg)
{
    char name[16] = "";
    pthread_getname_np(pthread_self(), name, sizeof name);
    strcpy(arg, name);
}

Test(services, threads_have_names_and_are_joined)
{
    struct zk_instance in = { .as = "tester" };
    char name[16] = "";
    uint64_t id;
    in.host.ctx = &in;
    zk_core_provide_services();
    const struct zr_work_v1 *work = zk_service(ZR_SVC_WORK);
    cr_assert_eq(work->spawn(&in.host, "a-name-much-too-long", named, name, &id), ZR_OK);
    cr_expect_eq(in.threads, 1u);
    cr_assert_eq(work->join(&in.host, id), ZR_OK);
    cr_expect_eq(in.threads, 0u);
    cr_expect_eq(work->join(&in.host, id), ZR_ENOENT);
}
