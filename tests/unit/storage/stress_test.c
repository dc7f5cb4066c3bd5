/* SPDX-License-Identifier: Apache-2.0 */
/* Many threads at once: appends, reads, removals, retention, key queries. Worth most under the thread sanitizer. */
#include "host.h"

#define WRITERS 3
#define ROUNDS 400

struct job {
    struct world *w;
    int id;
    _Atomic uint32_t *stop;
    int64_t put;
};

static void *write_some(void *arg)
{
    struct job *j = arg;
    char topic[16];
    snprintf(topic, sizeof topic, "T%d", j->id);
    for (int i = 0; i < ROUNDS; i++) {
        struct zr_msg m[8];
        struct zr_put p[8];
        char bodies[8][300];
        int64_t end;
        for (int k = 0; k < 8; k++) {
            body_of(bodies[k], 300, topic, k & 1, j->put / 2 + k / 2);
            m[k] = msg_of(topic, k & 1, bodies[k], 300, k == 3 ? "KEYS\001key\002" : NULL);
            p[k] = (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0) };
        }
        zs_append(j->w->st, m, 8, p, &end);
        for (int k = 0; k < 8; k++) {
            cr_assert_eq(p[k].status, ZR_OK);
            cr_assert_eq(p[k].queue_offset, j->put / 2 + k / 2);
        }
        j->put += 8;
    }
    return NULL;
}

static void *read_some(void *arg)
{
    struct job *j = arg;
    char topic[16];
    int64_t at = 0;
    snprintf(topic, sizeof topic, "T%d", j->id);
    while (!atomic_load(j->stop) || at < max_of(j->w, topic, 0)) {
        struct answer a;
        cr_assert_eq(read_at(j->w, topic, 0, at, 32, &a), ZR_OK);
        for (uint32_t i = 0; i < a.r.n_messages; i++) {
            struct zl_record rec = record_of(&a, i);
            char body[300];
            cr_assert_eq(rec.queue_offset, at + i);
            body_of(body, 300, topic, 0, at + i);
            cr_assert_eq(memcmp(rec.body.ptr, body, 300), 0);
        }
        if (a.r.next_offset > at) at = a.r.next_offset;
        zs_unpin(j->w->st, a.r.pin);
    }
    return NULL;
}

static void *disturb(void *arg)
{
    struct job *j = arg;
    while (!atomic_load(j->stop)) {
        int64_t found[8], ms;
        uint64_t removed;
        struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
        put_one(j->w, "Gone", 0, "x", NULL);
        cr_assert_eq(zs_remove_topic(j->w->st, zl_str("Gone")), ZR_OK);
        zs_clean(j->w->st, &removed);
        zs_find_key(j->w->st, zl_str("T0"), zl_str("key"), 0, 0, INT64_MAX, found, 8);
        zs_offset_at(j->w->st, zs_queue(j->w->st, zl_str("T0"), 0, 0), 0, 0, &ms);
        zs_info(j->w->st, &info);
    }
    return NULL;
}

static void run(uint32_t sync)
{
    struct world *w = world_new("stress");
    pthread_t threads[2 * WRITERS + 1];
    struct job jobs[2 * WRITERS + 1];
    _Atomic uint32_t stop = 0;
    w->conf.sync = sync;
    w->conf.checkpoint_interval_ms = 100;
    w->conf.max_tail_bytes = 20000;
    cr_assert_eq(world_open(w), ZR_OK);
    for (int i = 0; i < 2 * WRITERS + 1; i++) jobs[i] = (struct job){ w, i % WRITERS, &stop, 0 };
    for (int i = 0; i < WRITERS; i++) pthread_create(&threads[i], NULL, write_some, &jobs[i]);
    for (int i = WRITERS; i < 2 * WRITERS; i++) pthread_create(&threads[i], NULL, read_some, &jobs[i]);
    pthread_create(&threads[2 * WRITERS], NULL, disturb, &jobs[2 * WRITERS]);
    for (int i = 0; i < WRITERS; i++) pthread_join(threads[i], NULL);
    flush_all(w);
    atomic_store(&stop, 1);
    for (int i = WRITERS; i < 2 * WRITERS + 1; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < WRITERS; i++) {
        char topic[16];
        snprintf(topic, sizeof topic, "T%d", i);
        cr_assert_eq(read_all(w, topic, 0, 300), ROUNDS * 4);
        cr_assert_eq(read_all(w, topic, 1, 300), ROUNDS * 4);
    }
    w = world_kill(w);
    cr_assert_eq(read_all(w, "T1", 0, 300), ROUNDS * 4);
    cr_assert_null(zs_queue(w->st, zl_str("Gone"), 0, 0));
    world_end(w);
}

Test(stress, many_threads_async) { run(0); }
Test(stress, many_threads_sync) { run(1); }
