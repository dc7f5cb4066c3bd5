/* SPDX-License-Identifier: Apache-2.0 */
/* states.c - every workload is recorded; its trace is cut at every place; for each place states that a crash may leave are made,
 * the real recovery is run on each, and the result is held against what the clients know.
 *
 *   storage_states [--states N] [--seed N] [--jobs N] [--only WORD] [--keep FOLDER] [--mutations N] [--list]
 *
 * States are counted once each: the same files with the same promise are the same state. --mutations N: instead, proves that the
 * test can fail: for each defect made on purpose the states are gone through until one shows it, N for each workload at most. */
#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include "core/core.h"
#include "works.h"
#include "zarya/log.h"

#define KEYS (1u << 23)
#define MAX_JOBS 64
#define STATE_SECONDS 120
#define ROUNDS 6 /* over all workloads, for as many different states as were asked for */

static struct {
    uint64_t states, seed;
    uint32_t jobs;
    const char *only, *keep;
    const struct mutation *mutation;
    const char *deaf;
    uint32_t quiet, quick; /* quick: without the defects that take long to show */
} opt = { .states = 22000, .seed = 1 };

struct shared {
    _Atomic uint64_t keys[KEYS];
    _Atomic uint64_t states, made, failed;
    struct {
        char text[256];
        uint32_t busy;
    } now[MAX_JOBS];
    char first[4096];
    _Atomic uint32_t has_first;
} *shared;

struct recording {
    const struct work *work;
    struct bed *b;
    struct walk start; /* what was durable when it began */
    int64_t flushed;   /* and promised */
};

static uint32_t key_new(uint64_t key)
{
    key |= 1;
    for (uint64_t i = mix64(key) % KEYS, n = 0; n < 64; i = (i + 1) % KEYS, n++) {
        uint64_t there = 0;
        if (atomic_compare_exchange_strong(&shared->keys[i], &there, key)) return 1;
        if (there == key) return 0;
    }
    return 1;
}

/* ---- recording ------------------------------------------------------------------------------------------------------------- */

static void record_begin(struct recording *r, struct bed *b)
{
    r->b = b;
    walk_begin(&r->start, b->sim, NULL, 0, opt.mutation);
    b->sim->rec = 1;
}

static void unopened(const struct recording *r, const char *why);

static void record_end(struct recording *r)
{
    const struct history *h = &r->b->h;
    if (!r->b->opened || r->b->unopened) unopened(r, r->b->error);
    if (h->n_cleanings && h->cleanings[h->n_cleanings - 1].log_begin == 0) unopened(r, "retention took nothing");
    bed_close(r->b);
    r->b->sim->rec = 0;
    r->start.events = r->b->sim->events;
    r->start.n = r->b->sim->n_events;
    r->start.wall_ms = atomic_load(&r->b->wall);
}

static void record(struct recording *r, const struct work *work)
{
    struct bed *b = bed_new();
    *r = (struct recording){ .work = work };
    b->conf.sync = work->sync;
    b->conf.preallocate = 0;
    if (work->packs) bed_engine(b, ENGINE_PACK);
    record_begin(r, b);
    if (bed_open(b) == ZR_OK) work->run(b);
    record_end(r);
}

static void recording_free(struct recording *r)
{
    walk_end(&r->start);
    bed_free(r->b);
}

static uint32_t *events_of(const uint32_t *from, uint32_t n)
{
    uint32_t *to = n ? malloc(n * sizeof *to) : NULL;
    if (n) memcpy(to, from, n * sizeof *to);
    return to;
}

/* A copy of the walk at the place where the recording began. */
static struct walk walk_again(const struct recording *r)
{
    struct walk w = r->start;
    w.files = calloc(w.cap_files ? w.cap_files : 1, sizeof *w.files);
    for (uint32_t i = 0; i < w.n_files; i++) {
        const struct mfile *f = &r->start.files[i];
        w.files[i] = (struct mfile){ .size = f->size, .cap = f->cap, .is_dir = f->is_dir, .ino = f->ino, .n = f->n, .cap_pending = f->n };
        w.files[i].pending = events_of(f->pending, f->n);
        w.files[i].data = malloc(f->cap ? f->cap : 1);
        if (f->cap) memcpy(w.files[i].data, f->data, f->cap);
    }
    w.names = calloc(w.cap_names ? w.cap_names : 1, sizeof *w.names);
    for (uint32_t i = 0; i < w.n_names; i++) {
        w.names[i] = r->start.names[i];
        w.names[i].path = strdup(w.names[i].path);
    }
    w.pending = events_of(r->start.pending, r->start.n_pending);
    w.cap_pending = w.n_pending;
    w.mutation = opt.mutation;
    return w;
}

static struct promise promise_at(const struct recording *r, uint32_t at)
{
    struct promise p = { .at = at, .flushed = r->flushed };
    for (uint32_t i = 0; i < at; i++)
        if (r->start.events[i].kind == EV_NOTE && r->start.events[i].off > p.flushed) p.flushed = r->start.events[i].off;
    return p;
}

/* What is known of the past when a new trace begins on a crash's state: what was promised is promised; all else may be there. */
static void history_after(struct bed *to, const struct bed *from, const struct promise *p)
{
    struct history *h = &to->h;
    *h = from->h;
    h->docs = NULL;
    h->n_docs = h->cap_docs = 0;
    h->rows = NULL;
    h->n_rows = h->cap_rows = 0;
    h->sent = malloc((h->cap_sent ? h->cap_sent : 1) * sizeof *h->sent);
    for (uint32_t i = 0; i < h->n_sent; i++) {
        const struct sent *m = &from->h.sent[i];
        uint32_t required = bed_required(from, m, p);
        h->sent[i] = *m;
        h->sent[i].begin = m->begin <= p->at ? 0 : NEVER;
        h->sent[i].end = required ? 0 : NEVER;
        h->sent[i].seen = required && m->seen <= p->at ? 0 : NEVER;
    }
    for (uint32_t i = 0; i < h->n_removals; i++) {
        struct removal *r = &h->removals[i];
        if (r->begin > p->at) r->topic = NEVER;
        r->end = r->end <= p->at ? 0 : NEVER;
        r->begin = 0;
    }
    uint32_t kept = 0;
    for (uint32_t i = 0; i < h->n_cleanings; i++)
        if (h->cleanings[i].begin <= p->at) h->cleanings[kept++] = (struct cleaning){ 0, h->cleanings[i].log_begin };
    h->n_cleanings = kept;
}

/* A log segment's name is not durable, and the log goes on in it. */
static uint32_t name_pends(const struct walk *w)
{
    for (uint32_t i = 0; i < w->n_pending; i++) {
        const struct sim_event *e = &w->events[w->pending[i]];
        const char *path = e->to ? e->to : e->path;
        if (strstr(path, "/commitlog/") && (e->kind == EV_RENAME || (e->kind == EV_CREATE && w->files[e->inode].n))) return 1;
    }
    return 0;
}

/* Where the base ends: anywhere in its later part; a kill every other time where it leaves a segment's name to be made durable. */
static uint32_t place_of(const struct recording *base, const struct work *work, uint64_t seed)
{
    uint32_t at = base->start.n / 4 + (uint32_t)(mix64(seed) % (base->start.n * 3 / 4 + 1)), n = 0;
    if (!work->killed || seed % 2) return at;
    struct walk w = walk_again(base);
    for (uint32_t i = 0; i <= base->start.n; i++) {
        walk_to(&w, i);
        if (name_pends(&w) && mix64(seed + i) % ++n == 0) at = i;
    }
    walk_end(&w);
    return at;
}

/* A recording that begins on a state left by a crash of base. After a kill it goes on with the base's trace. */
static void record_on(struct recording *r, const struct work *work, const struct recording *base, uint64_t seed)
{
    struct bed *b = bed_new();
    struct walk w = walk_again(base);
    *r = (struct recording){ .work = work };
    uint32_t at = place_of(base, work, seed);
    walk_to(&w, at);
    struct plan plan = plan_make(&w, mix64(seed + 99));
    struct promise p = promise_at(base, at);
    p.killed = work->killed || plan_is_kill(&plan);
    sim_free(b->sim);
    b->sim = p.killed ? walk_killed(&w) : walk_state(&w, &plan);
    b->conf = base->b->conf;
    b->wall = atomic_load(&base->b->wall) + 1000;
    history_after(b, base->b, &p);
    r->flushed = p.flushed;
    b->sim->deaf = opt.deaf;
    if (p.killed) {
        sim_trace_carry(b->sim, w.events, at);
        r->b = b;
        r->start = w;
        b->sim->rec = 1;
    } else {
        record_begin(r, b);
        r->start.boot = w.boot + 1;
        walk_end(&w);
    }
    work->run(b);
    record_end(r);
}

/* ---- going through states ---------------------------------------------------------------------------------------------------- */

static void failure(const struct recording *r, uint32_t at, const struct plan *plan, const char *why, const char *lines, struct sim *image)
{
    atomic_fetch_add(&shared->failed, 1);
    if (atomic_exchange(&shared->has_first, 1) == 0)
        snprintf(shared->first, sizeof shared->first, "%s: place %u of %u (%s): %s", r->work->name, at, r->start.n, plan_text(plan), why);
    if (opt.quiet) return;
    printf("FAILED: %s\n   work '%s', place %u of %u: %s\n%s\n", why, r->work->name, at, r->start.n, plan_text(plan), lines);
    for (uint32_t i = at > 12 ? at - 12 : 0; i < at; i++) {
        const struct sim_event *e = &r->start.events[i];
        static const char *const kinds[] = { "write", "size", "create", "mkdir", "rename", "unlink", "rmdir", "sync", "sync_dir", "sync_fs", "note" };
        printf("   %u %s inode %u off %lld len %llu upto %u %s %s\n", i, kinds[e->kind], e->inode, (long long)e->off, (unsigned long long)e->len,
               e->upto, e->path ? e->path : "", e->to ? e->to : "");
    }
    if (opt.keep) {
        char path[512];
        snprintf(path, sizeof path, "%s/%d-%u", opt.keep, (int)getpid(), at);
        sim_dump(image, path);
        printf("   the files are in %s\n", path);
    }
    fflush(stdout);
}

static void unopened(const struct recording *r, const char *why)
{
    atomic_fetch_add(&shared->failed, 1);
    if (atomic_exchange(&shared->has_first, 1) == 0)
        snprintf(shared->first, sizeof shared->first, "%s: the workload's own store: %s", r->work->name, why);
    if (!opt.quiet) printf("FAILED: work '%s': its own store: %s\n", r->work->name, why);
}

static uint32_t one_state(const struct recording *r, const struct walk *w, uint64_t seed, uint32_t job)
{
    static char lines[32768];
    struct plan plan = plan_make(w, seed);
    struct promise p = promise_at(r, w->at);
    p.killed = plan_is_kill(&plan);
    struct sim *state = walk_state(w, &plan);
    atomic_fetch_add(&shared->made, 1);
    if (!key_new(mix64(sim_hash(state) ^ mix64((uint64_t)p.flushed * 2 + p.killed) ^ (opt.mutation || opt.deaf ? mix64(seed) : 0)))) {
        sim_free(state);
        return 0;
    }
    struct sim *image = opt.keep ? sim_copy(state) : NULL;
    snprintf(shared->now[job].text, sizeof shared->now[0].text, "work '%s', place %u of %u: %s", r->work->name, w->at, w->n, plan_text(&plan));
    alarm(STATE_SECONDS);
    lines[0] = 0;
    const char *bad = bed_check(r->b, state, &p, plan.seed, NULL, lines, sizeof lines);
    alarm(0);
    atomic_fetch_add(&shared->states, 1);
    if (bad) failure(r, w->at, &plan, bad, lines, image);
    if (image) sim_free(image);
    return 1;
}

static void job_run(const struct recording *r, uint64_t want, uint64_t seed, uint32_t job)
{
    struct walk w = walk_again(r);
    uint64_t places = r->start.n - r->start.at + 1, each = want / places;
    for (uint32_t at = r->start.at; at <= r->start.n; at++) {
        uint64_t n = each + (mix64(at + seed * 77) % places < want % places);
        walk_to(&w, at);
        if (at % opt.jobs != job) continue;
        for (uint64_t i = 0, tries = 0; i < n && tries < n * 2 + 6; tries++) i += one_state(r, &w, at * 7 + tries + seed * 1000003, job);
        if (atomic_load(&shared->failed) > (opt.quiet ? 0 : 8)) break;
    }
    walk_end(&w);
}

/* All jobs over one recording. */
static void enumerate(const struct recording *r, uint64_t want, uint64_t seed)
{
    pid_t pids[MAX_JOBS];
    fflush(stdout);
    for (uint32_t j = 0; j < opt.jobs; j++) {
        pids[j] = fork();
        if (pids[j] == 0) {
            job_run(r, want, seed, j);
            fflush(stdout);
            _exit(0);
        }
    }
    for (uint32_t j = 0; j < opt.jobs; j++) {
        int status = 0;
        if (pids[j] < 0 || waitpid(pids[j], &status, 0) != pids[j] || status != 0) {
            atomic_fetch_add(&shared->failed, 1);
            printf("FAILED: the process ended with %x in %s\n", (unsigned)status, shared->now[j].text);
        }
    }
}

static const struct work *work_named(const char *name)
{
    for (uint32_t i = 0; i < n_works; i++)
        if (strcmp(works[i].name, name) == 0) return &works[i];
    abort();
}

/* One workload: so many states of it; those that begin on a crash's state take several such beginnings. */
static void work_go(const struct work *work, uint64_t want)
{
    struct recording r, base;
    if (!work->base) {
        record(&r, work);
        enumerate(&r, want, opt.seed);
        recording_free(&r);
        return;
    }
    uint64_t rounds = want / 150 + 1;
    record(&base, work_named(work->base));
    for (uint64_t i = 0; i < rounds && atomic_load(&shared->failed) < 9; i++) {
        record_on(&r, work, &base, opt.seed * 7001 + i);
        enumerate(&r, want / rounds + 1, opt.seed + i);
        recording_free(&r);
    }
    recording_free(&base);
}

static double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* One workload, with its line. Its failures. */
static uint64_t work_states(const struct work *work, uint64_t want, uint32_t tell)
{
    uint64_t before = atomic_load(&shared->states);
    double t = seconds();
    atomic_store(&shared->failed, 0);
    work_go(work, want);
    uint64_t made = atomic_load(&shared->states) - before;
    if (tell && made == 0) atomic_fetch_add(&shared->failed, 1);
    uint64_t failed = atomic_load(&shared->failed);
    if (tell || failed)
        printf("%s - states: %s: %llu states, %.0f/s\n", failed ? "not ok" : "ok", work->name, (unsigned long long)made,
               (double)made / (seconds() - t));
    fflush(stdout);
    return failed;
}

static uint32_t is_wanted(const struct work *work) { return !work->faults && (!opt.only || strstr(work->name, opt.only)); }

/* All workloads; then, where states were met twice, all again with other seeds until there are as many as asked for. */
static int run_states(void)
{
    uint32_t n = 0;
    double began = seconds();
    uint64_t all_failed = 0, first = opt.seed;
    for (uint32_t i = 0; i < n_works; i++) n += is_wanted(&works[i]);
    for (uint32_t round = 0; round < ROUNDS && !all_failed && (round == 0 || atomic_load(&shared->states) < opt.states); round++) {
        uint32_t left = n;
        opt.seed = first + round * 7919u;
        for (uint32_t i = 0; i < n_works; i++) {
            if (!is_wanted(&works[i])) continue;
            uint64_t there = atomic_load(&shared->states);
            uint64_t want = there < opt.states ? (opt.states - there + left - 1) / left : round == 0;
            left--;
            if (want) all_failed += work_states(&works[i], want, round == 0);
        }
    }
    uint64_t states = atomic_load(&shared->states);
    double took = seconds() - began;
    uint32_t right = !all_failed && n > 0 && states >= opt.states;
    printf("%s - states: %llu different states (%llu asked for) of %u workloads, %llu made, in %.0f s: %.0f states/s\n", right ? "ok" : "not ok",
           (unsigned long long)states, (unsigned long long)opt.states, n, (unsigned long long)atomic_load(&shared->made), took,
           (double)states / took);
    return right ? 0 : 1;
}

/* ---- defects on purpose ---------------------------------------------------------------------------------------------------------- */

static const struct mutation mutations[] = {
    { "log not synced", "fdatasync of the log's segments does nothing", "/commitlog/", NULL, 1, 0, "single" },
    { "log's names not synced", "a new segment's name is not made durable", "/commitlog", NULL, 0, 1, "single" },
    { "log's names not synced after a kill", "a killed store's new segment is not made durable by the next start", "/commitlog", NULL, 0, 1,
      "restart after a kill, sync", 1 },
    { "queue files not synced", "fdatasync of queue files does nothing: the snapshot is written before them", "/consumequeue/", NULL, 1, 0, "checkpoint", 0, 1 },
    { "queue names not synced", "folders of queue files are not made durable", "/consumequeue", NULL, 0, 1, "retention" },
    { "snapshot not synced", "zarya/queues is renamed before its bytes are on disk", "/zarya/queues", NULL, 1, 0, "retention", 0, 1 },
    { "zarya folder not synced", "names in zarya/ are not made durable: a removal is forgotten", "/zarya", NULL, 0, 1, "topic removal" },
    { "removals not synced", "zarya/removed is renamed before its bytes are on disk", "/zarya/removed", NULL, 1, 0, "topic removal" },
    { "root not synced", "abort's name is not made durable: a crash looks like a clean stop", "/data", "/data/", 0, 1, "single" },
    { "documents not synced", "JSON documents are renamed before their bytes are on disk", "/config/", NULL, 1, 0, "documents" },
    { "documents' folder not synced", "renamed documents are not made durable", "/config", NULL, 0, 1, "documents" },
    { "journal not synced", "changed rows are answered for before they are on disk", "/zarya/journal/", NULL, 1, 0, "journal" },
    { "journal's names not synced", "a new file of the journal is not made durable", "/zarya/journal", NULL, 0, 1, "journal" },
    { "packed segments not synced", "the plain form goes before the packed one's bytes are on disk", ".zst", NULL, 1, 0, "packing" },
    { "expanded segments not synced", "the packed form goes before the plain one's bytes are on disk", ".tmp", ".zst", 1, 0, "expanding" },
    { "changed names not synced", "the old form goes before the new one's name is durable", "/commitlog", NULL, 0, 1, "packed: expanding" },
};

/* work: the workloads that show it soonest. */
static uint32_t prove(const char *name, const char *what, const char *work, uint64_t want)
{
    uint32_t caught = 0;
    uint64_t before = atomic_load(&shared->states);
    atomic_store(&shared->failed, 0);
    atomic_store(&shared->has_first, 0);
    for (uint64_t round = 0; round < 4 && !caught; round++)
        for (uint32_t i = 0; i < n_works && !caught; i++) {
            if (works[i].faults || (opt.deaf && !works[i].base) || (work && round < 2 && !strstr(works[i].name, work))) continue;
            opt.seed += 17;
            work_go(&works[i], want / (4 - (uint32_t)round));
            caught = atomic_load(&shared->failed) > 0;
        }
    printf("%s - a defect on purpose is caught: %s (%s): after %llu states: %.700s\n", caught ? "ok" : "not ok", name, what,
           (unsigned long long)(atomic_load(&shared->states) - before), caught ? shared->first : "never");
    fflush(stdout);
    return caught;
}

static int run_mutations(uint64_t want)
{
    uint32_t missed = 0;
    opt.quiet = 1;
    for (uint32_t i = 0; i < sizeof mutations / sizeof *mutations; i++) {
        if (opt.only && !strstr(mutations[i].name, opt.only)) continue;
        if (opt.quick && mutations[i].slow) continue;
        opt.mutation = &mutations[i];
        missed += !prove(mutations[i].name, mutations[i].what, mutations[i].work, want);
    }
    opt.mutation = NULL;
    if (!opt.quick && (!opt.only || strstr("torn tail not cut", opt.only))) {
        opt.deaf = "/commitlog/";
        missed += !prove("torn tail not cut", "what a recovery found behind the log's end is left there", "recovery of a", want);
        opt.deaf = NULL;
    }
    return missed ? 1 : 0;
}

int main(int argc, char **argv)
{
    uint64_t want_mutations = 0;
    opt.jobs = (uint32_t)sysconf(_SC_NPROCESSORS_ONLN);
    for (int i = 1; i < argc; i++) {
        const char *a = argv[i], *v = i + 1 < argc ? argv[i + 1] : "0";
        if (!strcmp(a, "--states")) opt.states = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--seed")) opt.seed = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--jobs")) opt.jobs = (uint32_t)atoi(v), i++;
        else if (!strcmp(a, "--only")) opt.only = v, i++;
        else if (!strcmp(a, "--keep")) opt.keep = v, i++;
        else if (!strcmp(a, "--mutations")) want_mutations = strtoull(v, NULL, 10), i++;
        else if (!strcmp(a, "--quick")) opt.quick = (uint32_t)atoi(v), i++;
        else if (!strcmp(a, "--list")) {
            for (uint32_t k = 0; k < n_works; k++) printf("%s\n", works[k].name);
            return 0;
        } else {
            fprintf(stderr, "unknown: %s\n", a);
            return 2;
        }
    }
    if (opt.jobs < 1 || opt.jobs > MAX_JOBS) opt.jobs = 2;
    zk_log_set(0, 0); /* the kernel's own lines are not looked at */
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (shared == MAP_FAILED) return 2;
    return want_mutations ? run_mutations(want_mutations) : run_states();
}
