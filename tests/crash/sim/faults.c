/* SPDX-License-Identifier: Apache-2.0 */
/* faults.c - every call through the I/O seam fails once: with EIO, ENOSPC, EINTR, and (reads and writes) is cut short.
 *
 *   storage_faults [--each N] [--jobs N] [--only WORD]
 *
 * A call site is a chain of return addresses, found by frame pointers (a build without optimisation: no call in tail position).
 * Workloads are run once to find the sites and how often each is reached; then once for each site, error and n-th call. After
 * each run: nothing that was acknowledged is missing, neither after a kill nor after a power cut; what failed was said to have
 * failed, in words that name the error; after a flush that failed nothing is taken or reported flushed any more.
 * "site OP PC PC ..." is printed for each chain that was made to fail: faults_test.py turns them into lines of the sources. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include "core/core.h"
#include "works.h"

#define CHAIN 4
#define MAX_SITES 8192

struct site {
    uint64_t key;
    void *pc[CHAIN];
    enum sim_op op;
    uint32_t calls, work; /* in the workload that reaches it first */
    uint32_t other_calls, other; /* and in the last: for sites that threads do not reach each time */
    uint64_t after_key;   /* reached only when another call has failed: that one */
    uint32_t after_nth, after_lasting;
    int64_t after_error;
};
static struct site *sites; /* shared by all processes */
#define n_sites (shared->n)

static struct {
    uint32_t each, jobs;
    const char *only;
} opt = { .each = 2 };

struct shared {
    _Atomic uint64_t runs, hit, failed;
    _Atomic uint32_t fired[MAX_SITES];
    uint32_t n;
    pthread_mutex_t lock;
    struct site sites[MAX_SITES];
    char now[64][200];
} *shared;

/* Nothing is in memory: every read must ask the disk. */
int mincore(void *addr, size_t length, unsigned char *vec);
int mincore(void *addr, size_t length, unsigned char *vec)
{
    (void)addr;
    memset(vec, 0, (length + 4095) / 4096);
    return 0;
}

/* Where allocations fail they are calls like others, with one error. */
static struct sim *_Atomic alloc_of;
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t size);

static uint32_t alloc_refused(void *const *frame)
{
    struct sim *s = atomic_load(&alloc_of);
    void *frames[SIM_FRAMES];
    if (!s || !s->hook) return 0;
    sim_frames(frame, frames);
    return s->hook(s->hook_ctx, SIM_ALLOC, "", 0, frames) < 0;
}
void *__wrap_malloc(size_t size) { return alloc_refused(__builtin_frame_address(0)) ? NULL : malloc(size); }
void *__wrap_calloc(size_t n, size_t size) { return alloc_refused(__builtin_frame_address(0)) ? NULL : calloc(n, size); }
void *__wrap_realloc(void *p, size_t size) { return alloc_refused(__builtin_frame_address(0)) ? NULL : realloc(p, size); }

static uint64_t key_of(enum sim_op op, void *const *frames)
{
    uint64_t h = op + 1;
    for (int i = 0; i < CHAIN; i++) h = mix64(h ^ (uint64_t)(uintptr_t)frames[i]);
    return h;
}

/* ---- finding ------------------------------------------------------------------------------------------------------------------- */

static uint32_t finding_work;

static uint32_t is_rare(uint32_t work) { return strncmp(works[work].name, "rare", 4) == 0; }

static int64_t find_hook(void *ctx, enum sim_op op, const char *path, uint64_t len, void *const *frames)
{
    uint64_t key = key_of(op, frames);
    (void)ctx, (void)path, (void)len;
    pthread_mutex_lock(&shared->lock);
    uint32_t i = 0;
    while (i < n_sites && sites[i].key != key) i++;
    if (i == n_sites && n_sites < MAX_SITES) {
        sites[n_sites] = (struct site){ .key = key, .op = op, .work = finding_work };
        memcpy(sites[n_sites++].pc, frames, CHAIN * sizeof *frames);
    }
    if (i < n_sites && sites[i].work == finding_work) sites[i].calls++;
    if (i < n_sites && sites[i].work != finding_work && !is_rare(finding_work)) { /* what those reach by the way others reach more surely */
        sites[i].other_calls = sites[i].other == finding_work ? sites[i].other_calls + 1 : 1;
        sites[i].other = finding_work;
    }
    pthread_mutex_unlock(&shared->lock);
    return 0;
}

/* ---- failing -------------------------------------------------------------------------------------------------------------------- */

struct fault {
    uint64_t key;
    uint32_t nth, lasting;
    int64_t error; /* 0: short */
    _Atomic uint32_t calls, hit;
    const struct site *second; /* reached after it: fails too */
    _Atomic uint32_t second_hit;
};

/* A call that nobody makes unless another has failed. */
static void found_behind(const struct fault *f, enum sim_op op, void *const *frames, uint64_t key, uint32_t work)
{
    if (op == SIM_ALLOC) return;
    pthread_mutex_lock(&shared->lock);
    uint32_t i = 0;
    while (i < n_sites && sites[i].key != key) i++;
    if (i == n_sites && n_sites < MAX_SITES) {
        sites[i] = (struct site){ .key = key, .op = op, .work = work, .calls = 1, .after_key = f->key, .after_nth = f->nth,
                                  .after_lasting = f->lasting, .after_error = f->error };
        memcpy(sites[i].pc, frames, CHAIN * sizeof *frames);
        n_sites++;
    }
    pthread_mutex_unlock(&shared->lock);
}
static uint32_t running_work;
static uint64_t known[MAX_SITES * 2]; /* keys that were seen here, so that the table is not gone through each time */

static int64_t fail_hook(void *ctx, enum sim_op op, const char *path, uint64_t len, void *const *frames)
{
    struct fault *f = ctx;
    (void)path;
    uint64_t key = key_of(op, frames);
    if (f->second && key == f->second->key) {
        atomic_fetch_add(&f->second_hit, 1);
        return f->second->after_error > 0 ? -EIO : -ENOSPC;
    }
    if (key != f->key) {
        if (f->hit && !f->second && known[key % (MAX_SITES * 2)] != key) {
            known[key % (MAX_SITES * 2)] = key;
            found_behind(f, op, frames, key, running_work);
        }
        return 0;
    }
    uint32_t n = atomic_fetch_add(&f->calls, 1) + 1;
    if (n < f->nth || (n > f->nth && !f->lasting)) return 0;
    atomic_fetch_add(&f->hit, 1);
    if (f->error) return -f->error;
    return len > 1 ? (int64_t)(len / 2) : 0;
}

static const struct work *base_of(const struct work *w)
{
    for (uint32_t i = 0; i < n_works; i++)
        if (w->base && strcmp(works[i].name, w->base) == 0) return &works[i];
    return NULL;
}

/* The workload on a bed that is ready for it; hook is called for each call of the workload itself. */
static struct bed *run_work(const struct work *w, sim_hook hook, void *ctx, struct walk *start)
{
    struct bed *b = bed_new();
    const struct work *base = base_of(w);
    b->conf.sync = w->sync;
    b->conf.preallocate = 1;
    if (w->packs || (base && base->packs)) bed_engine(b, ENGINE_PACK);
    if (base) { /* killed in the middle: what it left, with every page of it */
        if (bed_open(b) == ZR_OK) base->run(b);
        struct sim *left = sim_copy(b->sim);
        bed_close(b);
        sim_free(b->sim);
        b->sim = left;
        sim_boot(b->sim, 2);
        for (uint32_t i = 0; i < b->h.n_sent; i++)
            if (b->h.sent[i].end != NEVER) b->h.sent[i].begin = b->h.sent[i].end = 0;
        for (uint32_t i = 0; i < b->h.n_removals; i++) b->h.removals[i].begin = b->h.removals[i].end = 0;
        for (uint32_t i = 0; i < b->h.n_cleanings; i++) b->h.cleanings[i].begin = 0;
        b->h.n_docs = b->h.n_rows = 0;
        b->lines[0] = 0;
    }
    walk_begin(start, b->sim, NULL, 0, NULL);
    b->sim->rec = 1;
    b->sim->hook = hook;
    b->sim->hook_ctx = ctx;
    atomic_store(&alloc_of, w->memory ? b->sim : NULL);
    if (base || bed_open(b) == ZR_OK) w->run(b);
    return b;
}

static const char *say_why(struct bed *b, const struct fault *f)
{
    const char *text = f->error == EAGAIN ? "is locked" : strerror((int)f->error);
    if (f->second) text = f->second->after_error > 0 ? strerror(EIO) : strerror(ENOSPC); /* the one that counted in the end */
    if (f->second && (strstr(b->lines, strerror((int)f->error)) || f->error == 0 || f->error == EAGAIN || f->error == ENOMEM)) return NULL;
    if (f->error == 0 || f->error == ENOMEM || strstr(b->lines, text) || strstr(b->error, text) || strstr(b->fail_why, text)) return NULL;
    return "something failed, and neither the log nor the error says why";
}

static const char *check_failed_flush(struct bed *b)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    if (!b->failed || !b->st) return NULL;
    zs_info(b->st, &info);
    if (info.writable || info.why_not.len == 0) return "a flush failed, and the store is not read-only with a reason";
    if (bed_put(b, "after", 0, 50, 0)) return "a flush failed, and a message is taken";
    for (uint32_t i = b->fail_at; i < b->sim->n_events; i++)
        if (b->sim->events[i].kind == EV_NOTE) return "a flush failed, and something was reported flushed later";
    return NULL;
}

static const char *check_states(struct bed *b, struct walk *w, char *lines, uint64_t cap)
{
    static const struct plan plans[] = { { PICK_ALL, PICK_ALL, PICK_ALL, 512 }, { PICK_NONE, PICK_NONE, PICK_NONE, 512 },
                                         { PICK_CHANCE, PICK_CHANCE, PICK_CHANCE, 512, .seed = 77 } };
    const char *bad = NULL;
    w->events = b->sim->events;
    w->n = b->sim->n_events;
    w->wall_ms = atomic_load(&b->wall);
    struct promise p = { .at = w->n, .flushed = 0 };
    for (uint32_t i = 0; i < w->n; i++)
        if (w->events[i].kind == EV_NOTE && w->events[i].off > p.flushed) p.flushed = w->events[i].off;
    walk_to(w, w->n);
    for (uint32_t i = 0; i < 3 && !bad; i++) {
        p.killed = i == 0;
        bad = bed_check(b, walk_state(w, &plans[i]), &p, i + 4, NULL, lines, cap);
    }
    return bad;
}

static void one_run(uint32_t i, uint32_t nth, int64_t error, uint32_t lasting, uint32_t job)
{
    static char lines[65536];
    const struct site *s = &sites[i];
    struct fault f = { .key = s->key, .nth = nth, .error = error, .lasting = lasting };
    if (s->after_key) f = (struct fault){ .key = s->after_key, .nth = s->after_nth, .error = s->after_error, .lasting = s->after_lasting, .second = s };
    running_work = s->work;
    struct walk w;
    char first_lines[8192];
    snprintf(shared->now[job], sizeof shared->now[0], "%s, call %u of %u at site %u in '%s', %s%s", sim_op_names[s->op], nth, s->calls, i,
             works[s->work].name, error ? strerror((int)error) : "cut short", lasting ? ", lasting" : "");
    alarm(60);
    lines[0] = 0;
    struct bed *b = run_work(&works[s->work], fail_hook, &f, &w);
    const char *bad = b->why[0] ? b->why : NULL;
    if (!bad && b->stuck) bad = "a flush neither ends nor fails";
    if (!bad) bad = check_failed_flush(b);
    uint32_t refused = !b->st || b->failed || b->refused;
    bed_close(b);
    atomic_store(&alloc_of, NULL);
    b->sim->rec = 0;
    b->sim->hook = NULL;
    if (!bad && sim_open_count(b->sim)) bad = "descriptors or mappings were left";
    if (!bad && f.hit && refused && !strstr(works[s->work].name, "full disk")) bad = say_why(b, &f);
    snprintf(first_lines, sizeof first_lines, "%s", b->lines);
    if (s->op == SIM_PREAD && lasting) b->conf.index = 0; /* what could not be read when it was to be indexed has no keys, as damage */
    if (!bad) bad = check_states(b, &w, lines, sizeof lines);
    alarm(0);
    atomic_fetch_add(&shared->runs, 1);
    if (s->after_key ? f.second_hit : f.hit) {
        atomic_fetch_add(&shared->hit, 1);
        atomic_store(&shared->fired[i], 1);
    }
    if (bad) {
        atomic_fetch_add(&shared->failed, 1);
        printf("FAILED: %s: %s\n   pc %p %p %p\n   error: %s\n%s--\n%s", shared->now[job], bad, s->pc[0], s->pc[1], s->pc[2], b->error,
               first_lines, lines);
        fflush(stdout);
    }
    walk_end(&w);
    bed_free(b);
}

static void site_errors(uint32_t i, uint32_t job)
{
    static const int64_t errors[4] = { EIO, ENOSPC, EINTR, 0 }, of_locks[4] = { EIO, ENOSPC, EINTR, EAGAIN }, of_memory[1] = { ENOMEM };
    const struct site *s = &sites[i];
    if (s->after_key) {
        for (uint32_t k = 0; k < 3 && !atomic_load(&shared->fired[i]); k++) one_run(i, 1, s->after_error, 0, job);
        return;
    }
    uint32_t lock = s->op == SIM_LOCK || s->op == SIM_LOCK_DIR, cut = lock || s->op == SIM_PREAD || s->op == SIM_PWRITE || s->op == SIM_PWRITEV;
    const int64_t *error = s->op == SIM_ALLOC ? of_memory : lock ? of_locks : errors;
    uint32_t few = opt.each == 1 && (!strcmp(works[s->work].name, "repair") || is_rare(s->work)); /* long runs: in the short form one error for each */
    for (uint32_t e = few ? i % (3 + cut) : 0, n = s->op == SIM_ALLOC ? 1 : few ? e + 1 : 3 + cut; e < n; e++)
        for (uint32_t k = 0; k < opt.each; k++) {
            uint32_t nth = k == 0 ? 1 : k == 1 ? (s->calls + 1) / 2 : 1 + (uint32_t)(mix64(i * 31 + k) % s->calls);
            if (k && nth == 1) break;
            one_run(i, nth, error[e], error[e] && (k + e) % 2, job);
        }
}

static void site_go(uint32_t i, uint32_t job)
{
    struct site *s = &sites[i];
    site_errors(i, job);
    if (atomic_load(&shared->fired[i]) || !s->other_calls) return;
    s->work = s->other;
    s->calls = s->other_calls;
    site_errors(i, job);
}

static void all_sites(uint32_t from, uint32_t to)
{
    pid_t pids[64];
    fflush(stdout);
    for (uint32_t j = 0; j < opt.jobs; j++) {
        pids[j] = fork();
        if (pids[j] == 0) {
            for (uint32_t i = from + j; i < to && atomic_load(&shared->failed) < 40; i += opt.jobs) site_go(i, j);
            fflush(stdout);
            _exit(0);
        }
    }
    for (uint32_t j = 0; j < opt.jobs; j++) {
        int status = 0;
        if (waitpid(pids[j], &status, 0) == pids[j] && status == 0) continue;
        atomic_fetch_add(&shared->failed, 1);
        printf("FAILED: the process ended with %x at %s\n", (unsigned)status, shared->now[j]);
    }
}

int main(int argc, char **argv)
{
    opt.jobs = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 1; i + 1 < argc; i += 2) {
        if (!strcmp(argv[i], "--each")) opt.each = (uint32_t)atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--jobs")) opt.jobs = (uint32_t)atoi(argv[i + 1]);
        if (!strcmp(argv[i], "--only")) opt.only = argv[i + 1];
    }
    if (opt.jobs < 1 || opt.jobs > 64) opt.jobs = 2;
    zk_log_set(0, 0);
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 2;
    pthread_mutexattr_t attr;
    pthread_mutexattr_init(&attr);
    pthread_mutexattr_setpshared(&attr, PTHREAD_PROCESS_SHARED);
    pthread_mutex_init(&shared->lock, &attr);
    sites = shared->sites;
    for (finding_work = 0; finding_work < n_works; finding_work++) {
        struct walk w;
        const struct work *work = &works[finding_work];
        if (work->killed || (work->base && !strcmp(work->base, "repair")) || (opt.only && !strstr(work->name, opt.only))) continue; /* as those without */
        struct bed *b = run_work(work, find_hook, NULL, &w);
        bed_close(b);
        atomic_store(&alloc_of, NULL);
        b->sim->hook = NULL;
        walk_end(&w);
        bed_free(b);
    }
    uint32_t first = n_sites;
    all_sites(0, first);
    all_sites(first, n_sites); /* those that were found behind failing ones */
    for (uint32_t i = 0; i < n_sites; i++)
        if (atomic_load(&shared->fired[i])) printf("site %s %p %p %p %p\n", sim_op_names[sites[i].op], sites[i].pc[0], sites[i].pc[1], sites[i].pc[2], sites[i].pc[3]);
    uint64_t failed = atomic_load(&shared->failed);
    printf("%s - failing calls: %llu runs, %llu of them met their call, %u chains of calls\n", failed ? "not ok" : "ok",
           (unsigned long long)atomic_load(&shared->runs), (unsigned long long)atomic_load(&shared->hit), n_sites);
    return failed ? 1 : 0;
}
