/* SPDX-License-Identifier: Apache-2.0 */
/* docs.c - topics.json, subscriptionGroup.json, consumerOffset.json and consumerFilter.json are written here, off the
 * I/O threads, coalesced.
 *
 * What stays true:
 *   1. A write begun for request n contains every change made before request n: the text is made when the write begins.
 *   2. At most one job for a document is queued or running; requests that come meanwhile share the next one.
 *   3. A write that failed is tried again after a second, then after twice as long each time up to DOC_RETRY_MAX_NS,
 *      until one succeeds; who waited is told of the failure at once. Who comes to wait has it tried at once.
 *   4. The log tells when a document begins to fail and when it works again, not each failure between (the metric
 *      counts those); the last write, at stop, is told of always.
 *
 * LOCKING. doc->lock guards the counters and waiters; doc->io is held for a write (also by zb_doc_write at stop),
 * and is taken before any table's lock. */
#include "broker/internal.h"

#define DOC_MAX (1ull << 30)
#define DOC_RETRY_NS 1000000000ll
#define DOC_RETRY_MAX_NS (16 * DOC_RETRY_NS) /* an operator who made room sees it used soon */

struct waiter {
    struct waiter *next;
    uint64_t wanted;
    void (*fn)(void *ctx, zr_status status);
    void *ctx;
};
struct doc {
    const char *name;
    void (*print)(struct zl_buf *out);
    pthread_mutex_t lock, io;
    uint64_t wanted, done;
    uint32_t scheduled;
    struct waiter *waiters;
    uint64_t failures; /* in a row; guarded by io */
    uint64_t retry;    /* the timer that a failed write waits for; 0: none */
};
static struct doc docs[] = {
    { "config/topics.json", zb_topics_print, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, 0, 0, 0, NULL, 0, 0 },
    { "config/subscriptionGroup.json", zb_groups_print, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, 0, 0, 0,
      NULL, 0, 0 },
    { "config/consumerOffset.json", zb_offsets_print, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, 0, 0, 0,
      NULL, 0, 0 },
    { "config/consumerFilter.json", zb_filterdata_print, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, 0, 0, 0,
      NULL, 0, 0 },
};
#define N_DOCS (sizeof docs / sizeof docs[0])

/* Under io. why: zk_err_text of this thread, unless memory ran out. */
static void doc_log(struct doc *d, zr_status status, uint32_t always)
{
    if (status == ZR_OK && d->failures)
        zk_log(ZR_LOG_INFO, "%s is written again, after %llu failures", d->name, (unsigned long long)d->failures);
    d->failures = status == ZR_OK ? 0 : d->failures + 1;
    if (status != ZR_OK && (d->failures == 1 || always))
        zk_log(ZR_LOG_ERROR, "%s could not be written%s: %s", d->name, always ? "" : ", and is tried again until it can",
               status == ZR_ENOMEM ? "memory ran out" : zk_err_text());
}

static zr_status doc_save(struct doc *d, uint32_t always, uint64_t *ret_failures)
{
    struct zl_buf text;
    zl_buf_init(&text, DOC_MAX);
    pthread_mutex_lock(&d->io);
    d->print(&text);
    zr_status status = text.failed ? ZR_ENOMEM : zk_state_write(zl_str(d->name), zl_buf_as_span(&text));
    doc_log(d, status, always);
    *ret_failures = d->failures;
    pthread_mutex_unlock(&d->io);
    zl_buf_free(&text);
    if (status != ZR_OK)
        zk_metric_add(zb.meter.doc_failed, 1);
    return status;
}

static int64_t retry_ns(uint64_t failures)
{
    int64_t ns = DOC_RETRY_NS;
    for (uint64_t i = 1; i < failures && ns < DOC_RETRY_MAX_NS; i++)
        ns *= 2;
    return ns < DOC_RETRY_MAX_NS ? ns : DOC_RETRY_MAX_NS;
}

static struct waiter *waiters_take(struct doc *d, uint64_t upto)
{
    struct waiter *taken = NULL, **at = &d->waiters;
    while (*at) {
        struct waiter *w = *at;
        if (w->wanted <= upto) {
            *at = w->next;
            w->next = taken;
            taken = w;
        } else {
            at = &w->next;
        }
    }
    return taken;
}

static void waiters_tell(struct waiter *w, zr_status status)
{
    while (w) {
        struct waiter *next = w->next;
        w->fn(w->ctx, status);
        free(w);
        w = next;
    }
}

static void doc_job(void *arg);
static void doc_retry(void *arg);

static void doc_schedule(struct doc *d)
{
    if (zb_work(doc_job, d) == ZR_OK)
        return;
    uint64_t id; /* the pool is full: soon */
    if (zk_timer_at(zk_mono_ns() + DOC_RETRY_NS / 20, doc_retry, d, &id) != ZR_OK) {
        pthread_mutex_lock(&d->lock);
        d->scheduled = 0; /* the next touch, or the end, writes it */
        pthread_mutex_unlock(&d->lock);
    }
}

static void doc_retry(void *arg)
{
    struct doc *d = arg;
    pthread_mutex_lock(&d->lock);
    d->retry = 0;
    pthread_mutex_unlock(&d->lock);
    if (!atomic_load(&zb.stopping))
        doc_schedule(d);
}

/* A failed write is tried again at its time; a timer that has run already has left a stale number, which nothing can cancel. */
static zr_status doc_retry_set(struct doc *d, uint64_t failures)
{
    uint64_t id;
    zr_status status = zk_timer_at(zk_mono_ns() + retry_ns(failures), doc_retry, d, &id);
    pthread_mutex_lock(&d->lock);
    uint32_t awaited = status == ZR_OK && d->waiters; /* they came while there was no timer yet that they could hurry */
    if (status != ZR_OK)
        d->scheduled = 0;
    else if (!awaited)
        d->retry = id;
    pthread_mutex_unlock(&d->lock);
    if (awaited && zk_timer_cancel(id) == ZR_OK)
        doc_schedule(d);
    return status;
}

static void doc_job(void *arg)
{
    struct doc *d = arg;
    pthread_mutex_lock(&d->lock);
    uint64_t upto = d->wanted;
    pthread_mutex_unlock(&d->lock);
    uint64_t failures;
    zr_status status = doc_save(d, 0, &failures);
    pthread_mutex_lock(&d->lock);
    if (status == ZR_OK)
        d->done = upto;
    struct waiter *told = waiters_take(d, upto);
    uint32_t more = d->wanted > d->done;
    d->scheduled = more;
    pthread_mutex_unlock(&d->lock);
    waiters_tell(told, status);
    if (more && status == ZR_OK)
        doc_schedule(d);
    else if (more)
        doc_retry_set(d, failures);
}

static void doc_ask(struct doc *d, uint32_t changed, void (*fn)(void *ctx, zr_status status), void *ctx)
{
    struct waiter *w = fn ? malloc(sizeof *w) : NULL;
    pthread_mutex_lock(&d->lock);
    d->wanted += changed;
    uint32_t dirty = d->wanted > d->done, schedule = dirty && !d->scheduled, waits = dirty && w;
    uint64_t retry = waits ? d->retry : 0;
    if (waits) {
        *w = (struct waiter){ d->waiters, d->wanted, fn, ctx };
        d->waiters = w;
        d->retry = 0;
    }
    d->scheduled |= dirty;
    pthread_mutex_unlock(&d->lock);
    if (schedule || (retry && zk_timer_cancel(retry) == ZR_OK))
        doc_schedule(d);
    if (fn && !waits) {
        fn(ctx, dirty ? ZR_ENOMEM : ZR_OK);
        free(w);
    }
}

void zb_doc_touch(uint32_t doc, void (*fn)(void *ctx, zr_status status), void *ctx)
{
    doc_ask(&docs[doc], 1, fn, ctx);
}

void zb_doc_when(uint32_t doc, void (*fn)(void *ctx, zr_status status), void *ctx)
{
    doc_ask(&docs[doc], 0, fn, ctx);
}

zr_status zb_doc_write(uint32_t doc)
{
    struct doc *d = &docs[doc];
    pthread_mutex_lock(&d->lock);
    uint64_t upto = d->wanted;
    pthread_mutex_unlock(&d->lock);
    uint64_t failures;
    zr_status status = doc_save(d, 1, &failures);
    pthread_mutex_lock(&d->lock);
    if (status == ZR_OK && d->done < upto)
        d->done = upto;
    struct waiter *told = waiters_take(d, upto);
    pthread_mutex_unlock(&d->lock);
    waiters_tell(told, status);
    return status;
}

void zb_docs_open(void)
{
    for (uint32_t i = 0; i < N_DOCS; i++)
        docs[i].wanted = docs[i].done = docs[i].scheduled = 0, docs[i].retry = 0;
}

/* After the pool's jobs of ours have ended. */
void zb_docs_close(void)
{
    for (uint32_t i = 0; i < N_DOCS; i++) {
        pthread_mutex_lock(&docs[i].lock);
        struct waiter *told = waiters_take(&docs[i], UINT64_MAX);
        pthread_mutex_unlock(&docs[i].lock);
        waiters_tell(told, ZR_ECLOSED);
    }
}
