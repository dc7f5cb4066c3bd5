/* SPDX-License-Identifier: Apache-2.0 */
/* lanes.c - the broker's part of a transport lane: its caches, its batch, its inbox.
 *
 * What stays true: all but the inbox is touched by the lane's own thread only. A lane's memory outlives the lane until
 * zk_broker_close, because jobs may still be handed to it; those that come after the lane closed are run at the end.
 *
 * LOCKING. inbox_lock guards the list of jobs; a leaf. */
#include "broker/internal.h"

#define MAX_LANES 1024u
static struct zb_lane *lanes[MAX_LANES];
static _Atomic uint32_t n_lanes; /* counted up after the pointer is there: the storage's threads look already */

void zb_lane_push(struct zb_lane *lane, struct zb_job *job)
{
    job->next = NULL;
    pthread_mutex_lock(&lane->inbox_lock);
    *lane->inbox_end = job;
    lane->inbox_end = &job->next;
    atomic_store(&lane->has_jobs, 1);
    pthread_mutex_unlock(&lane->inbox_lock);
}

void zb_lane_post(struct zb_lane *lane, struct zb_job *job)
{
    zb_lane_push(lane, job);
    if (!atomic_load(&lane->closed))
        zk_lane_wake(lane->lane);
}

static struct zb_job *inbox_take(struct zb_lane *lane)
{
    pthread_mutex_lock(&lane->inbox_lock);
    struct zb_job *jobs = lane->inbox;
    lane->inbox = NULL;
    lane->inbox_end = &lane->inbox;
    atomic_store(&lane->has_jobs, 0);
    pthread_mutex_unlock(&lane->inbox_lock);
    return jobs;
}

static void jobs_run(struct zb_lane *lane)
{
    if (lane->running)
        return;
    lane->running = 1;
    while (atomic_load_explicit(&lane->has_jobs, memory_order_acquire)) {
        struct zb_job *job = inbox_take(lane);
        while (job) {
            struct zb_job *next = job->next;
            job->run(lane, job);
            job = next;
        }
    }
    lane->running = 0;
}

static void cache_clear(struct zb_map *map, uint32_t topics)
{
    uint64_t at = 0;
    for (void *v; (v = zb_map_next(map, &at));) {
        if (topics)
            zb_topic_unref(v);
        else
            zb_group_unref(v);
    }
    zb_map_free(map);
}

void zb_lane_fresh(struct zb_lane *lane)
{
    if (atomic_load_explicit(&lane->has_jobs, memory_order_relaxed))
        jobs_run(lane);
    uint64_t topics = atomic_load_explicit(&zb.topics_gen, memory_order_acquire),
             groups = atomic_load_explicit(&zb.groups_gen, memory_order_acquire);
    if (topics == lane->topics_gen && groups == lane->groups_gen)
        return;
    zb_send_append(lane);
    if (topics != lane->topics_gen)
        cache_clear(&lane->topics, 1);
    if (groups != lane->groups_gen)
        cache_clear(&lane->groups, 0);
    lane->topics_gen = topics;
    lane->groups_gen = groups;
}

uint32_t zb_lane_random(struct zb_lane *lane, uint32_t below)
{
    lane->random ^= lane->random << 13;
    lane->random ^= lane->random >> 7;
    lane->random ^= lane->random << 17;
    return below ? (uint32_t)((lane->random >> 32) % below) : 0;
}

void zb_lane_opened(struct zk_lane *l)
{
    struct zb_lane *lane = n_lanes < MAX_LANES ? calloc(1, sizeof *lane) : NULL;
    if (!lane || !zb_lane_resize(lane, ZB_BATCH_MSGS)) {
        zk_log(ZR_LOG_ERROR, "memory ran out while a lane was opened");
        abort(); /* main, at start: nothing has been promised to anyone */
    }
    lane->lane = l;
    zk_arena_init(&lane->arena, 256u << 10, 64u << 20);
    pthread_mutex_init(&lane->inbox_lock, NULL);
    lane->inbox_end = &lane->inbox;
    lane->parked_end = &lane->parked;
    atomic_init(&lane->parked_min, INT64_MAX);
    lane->random = 0x9e3779b97f4a7c15ull * (n_lanes + 1) ^ (uint64_t)zk_mono_ns();
    lane->random |= 1;
    lanes[n_lanes] = lane;
    n_lanes++;
    l->broker = lane;
}

void zb_lane_turn_end(struct zk_lane *l)
{
    struct zb_lane *lane = l->broker;
    if (!lane)
        return;
    jobs_run(lane);
    zb_send_append(lane);
    zb_durability_release(lane, 0);
    lane->last_session = NULL;
}

void zb_lane_woken(struct zk_lane *l)
{
    zb_lane_turn_end(l);
}

void zb_lane_closed(struct zk_lane *l)
{
    struct zb_lane *lane = l->broker;
    if (!lane)
        return;
    jobs_run(lane);
    zb_send_append(lane);
    zb_durability_release(lane, 1);
    cache_clear(&lane->topics, 1);
    cache_clear(&lane->groups, 0);
    lane->last_session = NULL;
    atomic_store(&lane->closed, 1);
}

uint32_t zb_lanes(struct zb_lane ***ret)
{
    *ret = lanes;
    return n_lanes;
}

void zb_lanes_close(void)
{
    for (uint32_t i = 0; i < n_lanes; i++) {
        struct zb_lane *lane = lanes[i];
        if (!atomic_load(&lane->closed))
            continue; /* its thread hangs somewhere: what it may touch is left to it */
        jobs_run(lane);
        zb_send_append(lane);
        zb_durability_release(lane, 1);
        cache_clear(&lane->topics, 1);
        cache_clear(&lane->groups, 0);
        zk_arena_free(&lane->arena);
        pthread_mutex_destroy(&lane->inbox_lock);
        free(lane->msgs);
        free(lane->puts);
        free(lane->queues);
        free(lane->owners);
        free(lane->sends);
        free(lane);
    }
    n_lanes = 0;
}
