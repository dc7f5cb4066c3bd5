/* SPDX-License-Identifier: Apache-2.0 */
/* publish.c - zarya.store/1: appends by features, and by the broker itself, outside a lane's batch.
 *
 * What stays true: on_done is called exactly once: after the append when nothing has to be waited for, else when the
 * confirmed mark passed the end of the messages or can no more. Hooks run first unless the caller says that it is
 * one; a message that a hook refused is put with ZR_EPERM, one that a hook took over with ZR_PENDING, a committed one
 * with a delay that nobody here can wait for with ZR_ENOTSUP, and none of these is stored. */
#include "broker/internal.h"

#define SMALL 16u

struct waiting { /* puts that wait for the disk */
    void (*on_done)(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n);
    void *ctx;
    uint32_t n;
    struct wakes *wakes;
    struct zr_put puts[];
};

struct scratch {
    struct zk_arena arena;
    uint32_t made;
};

static void *scratch_alloc(void *ctx, uint64_t size)
{
    struct scratch *s = ctx;
    if (!s->made) {
        zk_arena_init(&s->arena, 4096, 16u << 20);
        s->made = 1;
    }
    return zk_arena_alloc(&s->arena, size);
}

static void hosts_set(struct zr_msg *m)
{
    if (!m->store_host.family)
        m->store_host = zb.id.store_host;
    if (!m->born_host.family)
        m->born_host = zb.id.store_host;
    m->sys_flag &= ~(ZR_SYSFLAG_BORNHOST_V6 | ZR_SYSFLAG_STOREHOST_V6);
    m->sys_flag |= (m->born_host.family == 6 ? ZR_SYSFLAG_BORNHOST_V6 : 0) |
                   (m->store_host.family == 6 ? ZR_SYSFLAG_STOREHOST_V6 : 0);
}

/* ---- one stretch of messages that go to the storage together ---- */
struct batch {
    struct zr_msg *msgs;
    struct zr_put *puts;
    uint32_t n;
};

static void counted(const struct batch *b, int64_t began_ns)
{
    int64_t bytes = 0, good = 0;
    for (uint32_t i = 0; i < b->n; i++)
        if (b->puts[i].status == ZR_OK) {
            good++;
            bytes += b->puts[i].size;
        }
    if (good)
        zb_count_put(&zb.count, good, bytes, zk_mono_ns() - began_ns);
    if (good < b->n)
        atomic_fetch_add_explicit(&zb.count.put_failed, b->n - good, memory_order_relaxed);
    zk_metric_add(zb.meter.messages, good);
    zk_metric_add(zb.meter.bytes, bytes);
    zk_metric_add(zb.meter.appends, 1);
}

static void wake_now(const struct zr_msg *m, const struct zr_put *put)
{
    struct zb_topic *t = zb_topic_get(m->topic);
    struct zb_queue *q = t ? zb_topic_queue(t, m->queue_id) : NULL;
    if (t) {
        atomic_fetch_add_explicit(&t->live->put_count, 1, memory_order_relaxed);
        atomic_fetch_add_explicit(&t->live->put_bytes, put->size, memory_order_relaxed);
    }
    if (q)
        zb_hold_arrived(q, put->queue_offset, m->tags_code, &m->properties, 0, NULL);
    zb_topic_unref(t);
}

/* Wakes that have to wait until the messages are visible (sync flush). */
struct wakes {
    uint32_t n;
    struct zb_wake w[];
};

static void wakes_do(void *arg, zr_status status)
{
    struct wakes *w = arg;
    (void)status; /* after a failure nothing came to be seen, and looking for it does no harm */
    for (uint32_t i = 0; i < w->n; i++) {
        zb_hold_arrived(w->w[i].queue, w->w[i].queue_offset, w->w[i].tags_code, NULL, w->w[i].any_tag, NULL);
        zb_topic_unref(w->w[i].topic);
    }
    free(w);
}

static struct wakes *wakes_of(const struct batch *b)
{
    struct wakes *w = calloc(1, sizeof *w + b->n * sizeof w->w[0]);
    for (uint32_t i = 0; w && i < b->n; i++) {
        struct zb_topic *t = b->puts[i].status == ZR_OK ? zb_topic_get(b->msgs[i].topic) : NULL;
        struct zb_queue *q = t ? zb_topic_queue(t, b->msgs[i].queue_id) : NULL;
        if (q) {
            atomic_fetch_add_explicit(&t->live->put_count, 1, memory_order_relaxed);
            atomic_fetch_add_explicit(&t->live->put_bytes, b->puts[i].size, memory_order_relaxed);
            w->w[w->n++] = (struct zb_wake){ t, q, b->puts[i].queue_offset, b->msgs[i].tags_code, 0 };
        } else {
            zb_topic_unref(t);
        }
    }
    return w;
}

static void waited(void *arg, zr_status status)
{
    struct waiting *w = arg;
    if (w->wakes)
        wakes_do(w->wakes, status);
    if (w->on_done)
        w->on_done(w->ctx, status, w->puts, w->n);
    free(w);
}

static uint32_t all_no_wait(const struct batch *b)
{
    for (uint32_t i = 0; i < b->n; i++)
        if (!(b->msgs[i].flags & ZR_MSG_NO_WAIT))
            return 0;
    return 1;
}

static void settle(const struct batch *b, int64_t end,
                   void (*on_done)(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n), void *ctx)
{
    uint32_t visible = zb_durability_visible(end), waits = zb_durability_waits(end) && !all_no_wait(b);
    if (visible)
        for (uint32_t i = 0; i < b->n; i++)
            if (b->puts[i].status == ZR_OK)
                wake_now(&b->msgs[i], &b->puts[i]);
    struct wakes *wakes = visible ? NULL : wakes_of(b);
    if (!visible && !wakes)
        zb_durability_missed(end);
    if (zb.sync)
        zb.storage->want_flushed(zb.storage_inst, end);
    if (!waits) {
        if (wakes)
            zb_durability_when(end, wakes_do, wakes);
        if (on_done)
            on_done(ctx, ZR_OK, b->puts, b->n);
        return;
    }
    struct waiting *w = malloc(sizeof *w + b->n * sizeof w->puts[0]);
    if (!w) {
        if (wakes)
            zb_durability_when(end, wakes_do, wakes);
        if (on_done)
            on_done(ctx, ZR_ENOMEM, b->puts, b->n);
        return;
    }
    *w = (struct waiting){ on_done, ctx, b->n, wakes };
    memcpy(w->puts, b->puts, b->n * sizeof b->puts[0]);
    zb_durability_when(end, waited, w);
}

/* A transaction's message with a delay waits from its commit on; without the plugin for that it would come at once. */
static uint32_t lacks_delay(const struct zr_msg *m)
{
    static const char *const times[] = { "TIMER_DELAY_SEC", "TIMER_DELAY_MS", "TIMER_DELIVER_MS" };
    int32_t level;
    if (zb.has_delay || (m->sys_flag & ZR_SYSFLAG_TRANSACTION_MASK) != ZR_SYSFLAG_COMMIT)
        return 0;
    if (zl_parse_i32(zl_props_get(m->properties, "DELAY"), &level) == ZR_OK && level > 0)
        return 1;
    for (uint32_t i = 0; i < sizeof times / sizeof times[0]; i++)
        if (zl_props_get(m->properties, times[i]).len)
            return 1;
    return 0;
}

/* Hooks; what they refuse or take over is marked in puts and left out of the append. Returns how many are left. */
static uint32_t hooks_run(struct batch *b, const struct zr_request *req, struct scratch *scratch)
{
    uint32_t left = 0;
    for (uint32_t i = 0; i < b->n; i++) {
        struct zr_verdict verdict;
        uint32_t lacks = lacks_delay(&b->msgs[i]);
        uint32_t what = lacks ? ZB_REJECTED : zb_publish_hooks(&b->msgs[i], req, scratch_alloc, scratch, &verdict);
        b->puts[i].status = lacks ? ZR_ENOTSUP : what == ZB_PUBLISHED ? ZR_OK : what == ZB_REJECTED ? ZR_EPERM : ZR_PENDING;
        left += what == ZB_PUBLISHED;
    }
    return left;
}

/* Some were left out: the others, packed together, are appended and their puts spread out again. */
static int64_t append_packed(struct batch *b, uint32_t left)
{
    int64_t end = 0;
    struct zr_msg *msgs = calloc(left + 1, sizeof *msgs);
    struct zr_put *puts = calloc(left + 1, sizeof *puts);
    uint32_t n = 0;
    for (uint32_t i = 0; msgs && puts && i < b->n; i++)
        if (b->puts[i].status == ZR_OK) {
            puts[n].hdr = (struct zr_hdr)ZR_HDR(struct zr_put, 0);
            msgs[n++] = b->msgs[i];
        }
    if (n)
        zb.storage->append(zb.storage_inst, msgs, n, puts, &end);
    for (uint32_t i = 0, j = 0; i < b->n; i++)
        if (b->puts[i].status == ZR_OK)
            b->puts[i] = n ? puts[j++] : (struct zr_put){ .hdr = ZR_HDR(struct zr_put, 0), .status = ZR_ENOMEM };
    free(msgs);
    free(puts);
    return end;
}

/* After the hooks: of what kind each message's queue is. */
static void kinds_mark(struct zr_msg *msgs, uint32_t n)
{
    uint32_t kind = 0;
    for (uint32_t i = 0; i < n; i++) {
        if (i == 0 || !zl_eq(msgs[i].topic, msgs[i - 1].topic)) {
            struct zb_topic *t = zb_topic_get(msgs[i].topic);
            kind = t && t->batch_cq ? ZR_MSG_BATCH_QUEUE : 0;
            zb_topic_unref(t);
        }
        msgs[i].flags = (msgs[i].flags & ~ZR_MSG_BATCH_QUEUE) | kind;
    }
}

void zb_publish(struct zr_msg *msgs, uint32_t n, uint32_t flags, const struct zr_request *req,
                void (*on_done)(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n), void *ctx)
{
    struct zr_put small[SMALL], *puts = n <= SMALL ? small : malloc(n * sizeof *puts);
    struct scratch scratch = { .made = 0 };
    struct batch b = { msgs, puts, n };
    int64_t end = 0, began = zk_mono_ns();
    if (!puts || n == 0) {
        if (on_done)
            on_done(ctx, n ? ZR_ENOMEM : ZR_OK, NULL, 0);
        return;
    }
    memset(puts, 0, n * sizeof *puts);
    for (uint32_t i = 0; i < n; i++) {
        puts[i].hdr = (struct zr_hdr)ZR_HDR(struct zr_put, 0);
        hosts_set(&msgs[i]);
        if (msgs[i].inner_num == 0)
            msgs[i].inner_num = 1;
    }
    uint32_t left = flags & ZR_PUBLISH_NO_HOOKS || !zk_hooks_at(ZR_POINT_PUBLISH) ? n : hooks_run(&b, req, &scratch);
    kinds_mark(msgs, n);
    if (left == n)
        zb.storage->append(zb.storage_inst, msgs, n, puts, &end);
    else if (left)
        end = append_packed(&b, left);
    if (left) {
        zb_durability_written(end);
        counted(&b, began);
        zb_stored_hooks(msgs, NULL, puts, n);
    }
    settle(&b, end, on_done, ctx);
    if (scratch.made)
        zk_arena_free(&scratch.arena);
    if (puts != small)
        free(puts);
}

static const struct zr_storage_v1 *store_storage(const struct zr_host *host, struct zr_inst **ret_inst)
{
    (void)host;
    if (ret_inst)
        *ret_inst = zb.storage_inst;
    return zb.storage;
}

/* The step of msgs is the header's size; a caller of another minor has another one. */
static void store_publish(const struct zr_host *host, struct zr_msg *msgs, uint32_t n, uint32_t flags,
                          void (*on_done)(void *ctx, zr_status status, const struct zr_put *puts, uint32_t n),
                          void *ctx)
{
    (void)host;
    if (n == 0 || msgs->hdr.size == sizeof *msgs) {
        zb_publish(msgs, n, flags, NULL, on_done, ctx);
        return;
    }
    struct zr_msg *copy = calloc(n, sizeof *copy);
    uint64_t step = msgs->hdr.size, take = step < sizeof *copy ? step : sizeof *copy;
    for (uint32_t i = 0; copy && i < n; i++) {
        memcpy(&copy[i], (const char *)msgs + i * step, take);
        copy[i].hdr = (struct zr_hdr)ZR_HDR(struct zr_msg, 0);
    }
    if (copy)
        zb_publish(copy, n, flags, NULL, on_done, ctx);
    else if (on_done)
        on_done(ctx, ZR_ENOMEM, NULL, 0);
    free(copy);
}

const struct zr_store_v1 zb_store_table = { .hdr = ZR_HDR(struct zr_store_v1, 0),
                                            .storage = store_storage,
                                            .publish = store_publish };
