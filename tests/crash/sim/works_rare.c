/* SPDX-License-Identifier: Apache-2.0 */
/* works_rare.c - workloads for failing calls: what a store meets seldom, made to happen each time. Other people's changes to its
 * files, and two threads that do the same thing at the same time: the second one begins just before a call of the first one's, and
 * ends before that call is made.
 *
 * LOCKING: a rival's lock, for what was seen of it; not held while it runs. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include "works.h"

/* The last file of a folder of the store, or NULL. */
static const char *last_of(struct sim *s, const char *folder, char *to, uint64_t cap)
{
    to[0] = 0;
    for (uint32_t i = 0; i < s->n_names; i++)
        if (strncmp(s->names[i].path, folder, strlen(folder)) == 0 && !s->inodes[s->names[i].inode].is_dir && strcmp(s->names[i].path, to) > 0)
            snprintf(to, cap, "%s", s->names[i].path);
    return to[0] ? to : NULL;
}

/* The first file of a folder behind the one that is given. */
static void first_behind(struct sim *s, const char *folder, char *path, uint64_t cap)
{
    char best[256] = "";
    for (uint32_t i = 0; i < s->n_names; i++)
        if (strncmp(s->names[i].path, folder, strlen(folder)) == 0 && strcmp(s->names[i].path, path) > 0 && (!best[0] || strcmp(s->names[i].path, best) < 0))
            snprintf(best, sizeof best, "%s", s->names[i].path);
    snprintf(path, cap, "%s", best);
}

/* Fills a file with noise behind what is in use of it. */
static void noise_behind(struct sim *s, const char *folder, uint64_t grain)
{
    char path[256];
    uint8_t noise[1024];
    if (!last_of(s, folder, path, sizeof path)) return;
    const struct sim_inode *f = sim_find(s, path);
    uint64_t used = f->size;
    while (used && f->data[used - 1] == 0) used--;
    used = (used + grain - 1) / grain * grain;
    memset(noise, 0x55, sizeof noise);
    if (used < f->size) write_file(s, path, noise, f->size - used < sizeof noise ? f->size - used : sizeof noise, (int64_t)used);
}

void rare_documents(struct bed *b)
{
    uint8_t wrong = 'X';
    bed_doc(b, 0, 1, 300);
    bed_doc(b, 0, 2, 300);
    if (!sim_find(b->sim, ROOT "/config/topics.json.bak") || !sim_find(b->sim, ROOT "/config/topics.json")) return;
    write_file(b->sim, ROOT "/config/topics.json", &wrong, 1, 0);
    b->h.docs[1].end = NEVER;
    bed_doc_read(b, 0);
    bed_doc(b, 1, 1, 300);
}

void rare_folders(struct bed *b)
{
    bed_close(b);
    b->conf.log_dir = ROOT "/commitlog," ROOT "/second";
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 30, 1800);
    bed_flush(b);
    bed_close(b);
    sim_hook hook = b->sim->hook; /* another broker has one of them for a while */
    b->sim->hook = NULL;
    int64_t fd = b->sim->io.open(b->sim, ROOT "/second", ZR_IO_READ | ZR_IO_DIRECTORY, 0);
    if (fd >= 0 && b->sim->io.lock_dir(b->sim, (int32_t)fd) < 0) abort();
    b->sim->hook = hook;
    if (bed_open(b) == ZR_OK && fd >= 0 && !b->sim->hook) abort();
    bed_close(b);
    b->sim->hook = NULL;
    if (fd >= 0) b->sim->io.close(b->sim, (int32_t)fd);
    b->sim->hook = hook;
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 5, 300);
}

/* One file alone tells its own size. */
void rare_other_size(struct bed *b)
{
    some(b, "A", 2, 6, 900);
    bed_flush(b);
    bed_close(b);
    b->conf.segment_size *= 2;
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 30, 900);
    bed_flush(b);
}

void rare_long_segments(struct bed *b)
{
    uint8_t more[100] = { 0 };
    some(b, "A", 2, 40, 1500);
    bed_flush(b);
    uint32_t whole = !b->failed && b->st && sim_find(b->sim, ROOT "/commitlog/00000000000000049152");
    bed_close(b);
    if (!whole) return; /* of few segments nobody can tell which length is right */
    write_file(b->sim, ROOT "/commitlog/00000000000000000000", more, sizeof more, b->conf.segment_size);
    more[50] = 1;
    write_file(b->sim, ROOT "/commitlog/00000000000000016384", more, sizeof more, b->conf.segment_size);
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 5, 300);
    bed_flush(b);
}

void rare_torn_entries(struct bed *b)
{
    noise_behind(b->sim, ROOT "/consumequeue/A/0/", 20);
    recovery(b);
}

void rare_torn_extents(struct bed *b)
{
    b->conf.extents = 1;
    noise_behind(b->sim, ROOT "/consumequeue_ext/E/0/", 1);
    if (bed_open(b) != ZR_OK) return;
    some(b, "E", 2, 12, 90);
    bed_flush(b);
    bed_read(b);
}

/* Two index files with more log between them than is looked through at each start. */
void rare_without_keys(struct bed *b)
{
    some(b, "A", 2, 63, 50);
    bed_indexed(b);
    for (uint32_t i = 0; i < 20; i++) bed_put(b, "A", 0, 5000, 0);
    bed_flush(b);
    b->wall += 1500;
    some(b, "A", 2, 40, 50);
    bed_indexed(b);
    for (uint32_t r = 0; r < 2; r++) {
        bed_close(b);
        if (bed_open(b) != ZR_OK) return;
        bed_indexed(b);
        some(b, "A", 2, 2, 50);
        bed_indexed(b);
    }
}

void rare_batch_files(struct bed *b)
{
    static const uint8_t zeros[46 * 6];
    b->sim->io.mkdir(b->sim, ROOT "/batchconsumequeue", 0755);
    b->sim->io.mkdir(b->sim, ROOT "/batchconsumequeue/I", 0755);
    b->sim->io.mkdir(b->sim, ROOT "/batchconsumequeue/I/0", 0755);
    b->sim->io.sync_dir(b->sim, ROOT);
    b->sim->io.sync_dir(b->sim, ROOT "/batchconsumequeue");
    b->sim->io.sync_dir(b->sim, ROOT "/batchconsumequeue/I");
    if (!sim_find(b->sim, ROOT "/batchconsumequeue/I/0")) return;
    write_file(b->sim, ROOT "/batchconsumequeue/I/0/00000000000000000000", zeros, sizeof zeros, 0); /* a broker that has them this small */
    b->sim->io.sync_dir(b->sim, ROOT "/batchconsumequeue/I/0");
    bed_close(b);
    if (bed_open(b) != ZR_OK) return;
    for (uint32_t r = 0; r < 3; r++) {
        for (uint32_t i = 0; i < 10; i++) bed_put_inner(b, "I", 0, 3000 + i, 1 + i % 4);
        bed_flush(b);
        bed_later(b, 73ll * 3600000);
        some(b, "A", 1, 12, 1800);
        bed_flush(b);
        bed_clean(b);
        bed_close(b);
        if (bed_open(b) != ZR_OK) return;
    }
}

void rare_crowd_of_extents(struct bed *b)
{
    bed_close(b);
    b->conf.extents = 1;
    b->conf.checkpoint_interval_ms = 3600000; /* all of them are synced by the stop */
    if (bed_open(b) != ZR_OK) return;
    some(b, "M", 258, 258, 40);
    bed_flush(b);
    bed_close(b);
    if (bed_open(b) != ZR_OK) return;
    some(b, "M", 20, 20, 40);
}

void rare_long_reading(struct bed *b)
{
    int32_t queues[32] = { 0 };
    bed_close(b);
    b->conf.segment_size = 4 << 20;
    b->conf.index_entries = 4096;
    b->conf.queue_file_size = 20000;
    if (bed_open(b) != ZR_OK) return;
    for (uint32_t i = 0; i < 13; i++) bed_put_many(b, "A", queues, 32, 5500, 0);
    bed_flush(b);
    bed_indexed(b);
    bed_close(b);
    sim_drop(b->sim, ROOT "/consumequeue");
    sim_drop(b->sim, ROOT "/zarya/queues");
    sim_drop(b->sim, ROOT "/zarya/queues.bak");
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 1, 3, 90);
}

void rare_long_abort(struct bed *b)
{
    static uint8_t text[4096];
    memset(text, '7', sizeof text);
    write_file(b->sim, ROOT "/abort", text, sizeof text, 0);
    recovery(b);
}

/* ---- both forms of a segment ------------------------------------------------------------------------------------------------------ */

static struct sent *record_in(struct bed *b, int64_t base, uint32_t nth)
{
    for (uint32_t i = 0; i < b->h.n_sent; i++)
        if (b->h.sent[i].end != NEVER && b->h.sent[i].phys >= base && b->h.sent[i].phys < base + b->conf.segment_size && nth-- == 0) return &b->h.sent[i];
    return NULL;
}

/* Each form lacks what the other has: one is made of both. Where both lack the same, nothing is changed, and somebody puts a whole
 * plain one there. */
void rare_twins(struct bed *b)
{
    static const char plain[] = ROOT "/commitlog/00000000000000000000", packed[] = ROOT "/commitlog/00000000000000000000.zst";
    static const uint8_t zeros[400];
    some(b, "A", 2, 40, 1500);
    bed_close(b);
    struct sent *first = record_in(b, 0, 1), *last = record_in(b, 0, 6);
    struct sim *before = sim_copy(b->sim);
    bed_convert(b, 0);
    struct sim_inode *old = sim_find(before, plain), *other = sim_find(b->sim, packed);
    if (old && other && first && last && !sim_find(b->sim, plain)) {
        uint8_t wrong = other->data[other->size / 2] ^ 1;
        int64_t middle = (int64_t)other->size / 2;
        write_file(b->sim, plain, old->data, old->size, 0);
        write_file(b->sim, plain, zeros, sizeof zeros, first->phys + 200);
        bed_convert(b, 1); /* the packed one is whole: it is taken */
        bed_convert(b, 0);
        write_file(b->sim, plain, old->data, old->size, 0);
        write_file(b->sim, plain, zeros, sizeof zeros, first->phys + 200);
        write_file(b->sim, packed, &wrong, 1, middle);
        bed_convert(b, 1); /* each lacks something */
        bed_convert(b, 0);
        write_file(b->sim, plain, zeros, sizeof zeros, 0);
        write_file(b->sim, plain, old->data, old->size, 0);
        for (uint32_t i = 0; i < 10; i++)
            if (record_in(b, 0, i)) write_file(b->sim, plain, zeros, sizeof zeros, record_in(b, 0, i)->phys + 200);
        write_file(b->sim, packed, &wrong, 1, middle);
        bed_convert(b, 1); /* both lack the same */
        write_file(b->sim, plain, old->data, old->size, 0);
    }
    sim_free(before);
    bed_convert(b, 1);
    bed_engine(b, bed_has_packed(b) ? ENGINE_PACK : ENGINE_PLAIN);
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 4, 300);
}

/* ---- two at the same time ---------------------------------------------------------------------------------------------------------- */

struct rival {
    struct bed *b;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    void *(*run)(void *bed);
    enum sim_op op;
    const char *part;  /* of the path */
    uint32_t next;     /* 1: before the call behind that one, of the same thread */
    uint32_t seen, done;
    pthread_t by;
};

static void rival_before(void *ctx, enum sim_op op, const char *path)
{
    struct rival *r = ctx;
    pthread_t other;
    pthread_mutex_lock(&r->lock);
    uint32_t marked = op == r->op && strstr(path, r->part), go = 0;
    if (!r->seen && marked) {
        r->seen = 1;
        r->by = pthread_self();
        go = !r->next;
    } else if (!r->seen && op == SIM_UNLINK && strstr(path, r->part)) { /* it failed before */
        r->seen = r->done = 1;
    } else {
        go = r->seen == 1 && !r->done && r->next && pthread_equal(r->by, pthread_self());
    }
    if (go) r->seen = 2;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (!go) return;
    if (pthread_create(&other, NULL, r->run, r->b) != 0) abort();
    pthread_join(other, NULL);
    pthread_mutex_lock(&r->lock);
    r->done = 1;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
}

static void rival_begin(struct rival *r)
{
    pthread_mutex_init(&r->lock, NULL);
    pthread_cond_init(&r->changed, NULL);
    r->b->sim->before_ctx = r;
    r->b->sim->before = rival_before;
}

static void rival_wait(struct rival *r)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += 20; /* never waited for, unless the call is never made */
    pthread_mutex_lock(&r->lock);
    while (!r->done && pthread_cond_timedwait(&r->changed, &r->lock, &until) == 0) continue;
    if (!r->done) snprintf(r->b->why, sizeof r->b->why, "the call that two make at the same time was not made");
    r->seen = r->done = 3;
    pthread_mutex_unlock(&r->lock);
}

/* Only when nobody calls any more: the store is closed. */
static void rival_end(struct rival *r)
{
    r->b->sim->before = NULL;
    pthread_mutex_destroy(&r->lock);
    pthread_cond_destroy(&r->changed);
}

static int64_t segment_of(struct bed *b, int64_t *ret_in)
{
    pthread_mutex_lock(&b->lock);
    int64_t at = b->written / b->conf.segment_size;
    *ret_in = b->written % b->conf.segment_size;
    pthread_mutex_unlock(&b->lock);
    return at;
}

static void *roll_main(void *arg)
{
    struct bed *b = arg;
    int64_t in, now = segment_of(b, &in);
    for (uint32_t i = 0; i < 20 && segment_of(b, &in) == now; i++) bed_put(b, "A", 1, 1800, 1);
    return NULL;
}

static void segment_race(struct bed *b, enum sim_op op, uint32_t next)
{
    struct rival r = { .b = b, .run = roll_main, .op = op, .part = ".tmp", .next = next };
    const int64_t most = b->conf.segment_size / 4 * 3; /* the next one is made ahead from before here */
    int64_t in, now;
    if (!b->st) return;
    bed_put(b, "A", 0, 100, 1);
    roll_main(b);
    now = segment_of(b, &in);
    if (in > most / 2) { /* nothing is taken any more */
        bed_close(b);
        return;
    }
    rival_begin(&r);
    for (uint32_t i = 0; i < 20 && segment_of(b, &in) == now && in < most; i++) bed_put(b, "A", 0, 1300, 1);
    if (segment_of(b, &in) != now || in >= most) rival_wait(&r);
    some(b, "A", 1, 3, 300);
    bed_flush(b);
    bed_close(b);
    rival_end(&r);
}

void rare_segment_races(struct bed *b)
{
    segment_race(b, SIM_FALLOCATE, 0); /* the sender comes first: the file that is written ahead is not wanted any more */
    if (bed_open(b) != ZR_OK) return;
    segment_race(b, SIM_RENAME, 1); /* it comes when that has its name already */
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 4, 300);
}

static void *read_main(void *arg)
{
    bed_read(arg);
    return NULL;
}

void rare_queue_race(struct bed *b)
{
    struct rival r = { .b = b, .run = read_main, .op = SIM_OPEN, .part = "/consumequeue/" };
    some(b, "A", 1, 10, 200);
    bed_flush(b);
    bed_close(b);
    if (bed_open(b) != ZR_OK) return;
    rival_begin(&r);
    bed_read(b);
    bed_close(b);
    rival_end(&r);
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 1, 4, 200);
}

/* ---- no memory ------------------------------------------------------------------------------------------------------------------------ */

/* New segments and index files; an index file in the middle that is made anew. */
void rare_memory(struct bed *b)
{
    char path[256] = "", next[256];
    for (uint32_t r = 0; r < 3; r++) {
        some(b, "A", 2, 40, 900);
        b->wall += 1500;
        bed_indexed(b);
    }
    bed_flush(b);
    bed_close(b);
    first_behind(b->sim, ROOT "/index/", path, sizeof path);
    memcpy(next, path, sizeof next);
    first_behind(b->sim, ROOT "/index/", next, sizeof next);
    if (next[0] && atoll(strrchr(next, '/') + 1) > atoll(strrchr(path, '/') + 1) + 9) sim_drop(b->sim, path); /* there are names between them */
    if (bed_open(b) != ZR_OK) return;
    some(b, "A", 2, 4, 300);
    bed_indexed(b);
}
