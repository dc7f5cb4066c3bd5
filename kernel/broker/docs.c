/* SPDX-License-Identifier: Apache-2.0 */
/* docs.c - topics.json, subscriptionGroup.json, consumerOffset.json and consumerFilter.json are written here, off the
 * I/O threads, coalesced; and rows of the first two into a journal, when the document has become large.
 *
 * A document of up to DOC_SMALL bytes is written for each change before who made it is answered (changes that come together
 * share a write). A larger one would cost each change the whole table: then the changed rows go to the journal (journal.c), which
 * is what is waited for, and the document is written behind: at once, if the last write of it is DOC_PACE of its own time ago,
 * and in no case later than DOC_BEHIND_MAX_NS. At a stop it is written, and the journal ends.
 *
 * What stays true:
 *   1. A write begun for request n contains every change made before request n: the text is made when the write begins. The
 *      same is true of rows.
 *   2. At most one job for a document, and one for its journal, is queued or running; requests that come meanwhile share the
 *      next one.
 *   3. A write that failed is tried again after a second, then after twice as long each time up to DOC_RETRY_MAX_NS,
 *      until one succeeds; who waited is told of the failure at once. Who comes to wait for it has it tried at once.
 *   4. The log tells when a document begins to fail and when it works again, not each failure between (the metric
 *      counts those); the last write, at stop, is told of always.
 *   5. Up to `kept` the journal has what the document, which is right up to `done`, has not. What it cannot take (changes without
 *      names, too many, a failing disk) raises `whole`: up to there only the document counts.
 *
 * LOCKING. doc->lock guards the counters, waiters and rows; doc->io is held for a write (also by zb_doc_write at stop),
 * and is taken before any table's lock. doc->journal_lock is held over the journal's disk; within io, or alone. */
#include "broker/internal.h"
#include "broker/journal.h"

#define DOC_MAX (1ull << 30)
#define DOC_RETRY_NS 1000000000ll
#define DOC_RETRY_MAX_NS (16 * DOC_RETRY_NS) /* an operator who made room sees it used soon */
#define DOC_SMALL (256u << 10)               /* some 1,200 topics */
#define DOC_PACE 10                          /* a tenth of one worker, for a document that is written again and again */
#define DOC_BEHIND_MIN_NS 1000000000ll
#define DOC_BEHIND_MAX_NS 10000000000ll
#define ROWS_MAX 65536u
#define ROWS_TEXT_MAX (32ull << 20)

struct waiter {
    struct waiter *next;
    uint64_t wanted;
    void (*fn)(void *ctx, zr_status status);
    void *ctx;
};
struct doc {
    const char *name, *journal_name; /* journal_name NULL: none is kept */
    void (*print)(struct zl_buf *out);
    void (*print_rows)(struct zl_buf *out, const struct zb_row *rows);
    pthread_mutex_t lock, io, journal_lock;
    uint64_t wanted, done, kept, whole;
    uint32_t scheduled, journal_scheduled;
    struct waiter *waiters;
    struct zb_row *rows, **rows_end; /* changed, and not in the journal */
    uint32_t n_rows;
    uint32_t journaled;  /* changes go to the journal */
    uint32_t closing;    /* no more */
    int64_t ended_ns, took_ns; /* the last write that succeeded */
    uint64_t failures;   /* in a row; guarded by io */
    uint64_t retry;      /* the timer that a write waits for; 0: none */
    uint32_t paced;      /* it is not for a failure, but not to write too often */
    struct zb_journal journal; /* guarded by journal_lock */
};
#define LOCKS PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER
#define DOC(file, kept, whole, changed) { file, kept, whole, changed, LOCKS, .journal = { .name = kept, .fd = -1 } }
static struct doc docs[] = {
    DOC("config/topics.json", "topics", zb_topics_print, zb_topics_print_rows),
    DOC("config/subscriptionGroup.json", "groups", zb_groups_print, zb_groups_print_rows),
    DOC("config/consumerOffset.json", NULL, zb_offsets_print, NULL),
    DOC("config/consumerFilter.json", NULL, zb_filterdata_print, NULL),
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

/* ---- rows; under lock ---- */
static void rows_drop(struct doc *d, uint64_t upto)
{
    while (d->rows && d->rows->seq <= upto) {
        struct zb_row *r = d->rows;
        d->rows = r->next;
        d->n_rows--;
        free(r);
    }
    if (!d->rows)
        d->rows_end = &d->rows;
}

/* 0: it could not be taken. */
static uint32_t row_add(struct doc *d, struct zr_str name, uint64_t group_len)
{
    struct zb_row *r = d->n_rows < ROWS_MAX ? malloc(sizeof *r + name.len) : NULL;
    if (!r)
        return 0;
    *r = (struct zb_row){ .seq = d->wanted, .name = { (char *)(r + 1), name.len }, .group_len = group_len };
    if (name.len)
        memcpy(r + 1, name.ptr, name.len);
    *d->rows_end = r;
    d->rows_end = &r->next;
    d->n_rows++;
    return 1;
}

static void rows_note(struct doc *d, const struct zr_str *names, uint32_t n, uint64_t group_len)
{
    uint32_t taken = d->journaled && !d->closing && n > 0;
    for (uint32_t i = 0; taken && i < n; i++)
        taken = row_add(d, names[i], group_len);
    if (taken)
        return;
    d->whole = d->wanted;
    rows_drop(d, d->wanted);
}

static uint32_t needs_document(const struct doc *d)
{
    return d->whole > d->done;
}

/* ---- the document ---- */
static zr_status document_write(struct doc *d, uint64_t *ret_upto, struct zb_doc_print *ret_print, uint64_t *ret_size)
{
    struct zl_buf text;
    zl_buf_init(&text, DOC_MAX);
    pthread_mutex_lock(&d->journal_lock);
    zb_journal_turn(&d->journal);
    pthread_mutex_unlock(&d->journal_lock);
    pthread_mutex_lock(&d->lock);
    *ret_upto = d->wanted;
    pthread_mutex_unlock(&d->lock);
    d->print(&text);
    zr_status status = text.failed ? ZR_ENOMEM : ZR_OK;
    if (status == ZR_OK && d->journal_name) {
        *ret_print = zb_journal_print(zl_buf_as_span(&text));
        pthread_mutex_lock(&d->journal_lock);
        status = zb_journal_mark(&d->journal, *ret_print, *ret_upto);
        pthread_mutex_unlock(&d->journal_lock);
    }
    if (status == ZR_OK)
        status = zk_state_write(zl_str(d->name), zl_buf_as_span(&text));
    *ret_size = text.len;
    zl_buf_free(&text);
    return status;
}

/* The document is in place. Under io. A journal that cannot be begun is no failure: the document is written for each change. */
static uint32_t journal_follow(struct doc *d, uint64_t upto, struct zb_doc_print print, uint64_t size, uint32_t closing)
{
    uint32_t wanted = size > DOC_SMALL && !closing;
    pthread_mutex_lock(&d->journal_lock);
    zb_journal_placed(&d->journal);
    if (!wanted)
        zb_journal_end(&d->journal);
    else if (!zb_journal_is(&d->journal) && zb_journal_begin(&d->journal, print, upto) != ZR_OK)
        zk_log(ZR_LOG_WARN, "%s: its journal cannot be begun: %s", d->name, zk_err_text());
    uint32_t takes = zb_journal_takes(&d->journal);
    pthread_mutex_unlock(&d->journal_lock);
    return takes;
}

static zr_status doc_save(struct doc *d, uint32_t always, uint64_t *ret_failures, uint64_t *ret_upto)
{
    struct zb_doc_print print = { 0, 0 };
    uint64_t size;
    uint32_t takes = 0;
    pthread_mutex_lock(&d->io);
    int64_t began = zk_mono_ns();
    zr_status status = document_write(d, ret_upto, &print, &size);
    doc_log(d, status, always);
    *ret_failures = d->failures;
    if (status == ZR_OK && d->journal_name)
        takes = journal_follow(d, *ret_upto, print, size, d->closing);
    pthread_mutex_lock(&d->lock);
    if (status == ZR_OK) {
        d->done = *ret_upto > d->done ? *ret_upto : d->done;
        d->journaled = takes;
        d->ended_ns = zk_mono_ns();
        d->took_ns = d->ended_ns - began;
        rows_drop(d, d->done);
        if (!takes && d->rows) { /* what came meanwhile, for a journal that is none any more */
            d->whole = d->wanted;
            rows_drop(d, d->wanted);
        }
    }
    pthread_mutex_unlock(&d->lock);
    pthread_mutex_unlock(&d->io);
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

/* When the next write may begin that nobody waits for. Under lock. */
static int64_t pace_ns(const struct doc *d)
{
    int64_t ns = d->took_ns * DOC_PACE;
    ns = ns < DOC_BEHIND_MIN_NS ? DOC_BEHIND_MIN_NS : ns > DOC_BEHIND_MAX_NS ? DOC_BEHIND_MAX_NS : ns;
    return d->ended_ns + ns;
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
static void journal_job(void *arg);

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

/* Somebody waits for the document, or has changed what only it can hold; a failing one is only hurried by who waits. */
static uint32_t is_urgent(const struct doc *d, uint32_t paced)
{
    return needs_document(d) && (paced || d->waiters);
}

/* A write is put off: it failed, or was made just now. A timer that has run already has left a stale number, which nothing can
 * cancel. */
static void doc_put_off(struct doc *d, int64_t at_ns, uint32_t paced)
{
    uint64_t id;
    zr_status status = zk_timer_at(at_ns, doc_retry, d, &id);
    pthread_mutex_lock(&d->lock);
    uint32_t urgent = status == ZR_OK && is_urgent(d, paced); /* they came while there was no timer yet that they could hurry */
    if (status != ZR_OK)
        d->scheduled = 0;
    else if (!urgent) {
        d->retry = id;
        d->paced = paced;
    }
    pthread_mutex_unlock(&d->lock);
    if (urgent && zk_timer_cancel(id) == ZR_OK)
        doc_schedule(d);
}

/* Where a write is wanted and none is on its way. when: from under the lock; 0: now. */
static void doc_go(struct doc *d, int64_t when)
{
    if (when > zk_mono_ns())
        doc_put_off(d, when, 1);
    else
        doc_schedule(d);
}

static void doc_job(void *arg)
{
    struct doc *d = arg;
    uint64_t failures, upto;
    zr_status status = doc_save(d, 0, &failures, &upto);
    pthread_mutex_lock(&d->lock);
    struct waiter *told = waiters_take(d, status == ZR_OK || upto < d->whole ? upto : d->whole); /* the others have the journal */
    uint32_t more = d->wanted > d->done;
    int64_t when = needs_document(d) ? 0 : pace_ns(d);
    d->scheduled = more;
    pthread_mutex_unlock(&d->lock);
    waiters_tell(told, status);
    if (more && status == ZR_OK)
        doc_go(d, when);
    else if (more)
        doc_put_off(d, zk_mono_ns() + retry_ns(failures), 0);
}

/* ---- the journal ---- */
static void rows_free(struct zb_row *r)
{
    while (r) {
        struct zb_row *next = r->next;
        free(r);
        r = next;
    }
}

/* Whoever noted rows has them written by one job at a time. */
static void journal_schedule(struct doc *d)
{
    if (zb_work(journal_job, d) == ZR_OK)
        return;
    pthread_mutex_lock(&d->lock); /* the pool is full: the document, which is tried until there is room */
    d->journal_scheduled = 0;
    d->whole = d->wanted;
    uint64_t retry = d->paced ? d->retry : 0;
    d->retry = retry ? 0 : d->retry;
    pthread_mutex_unlock(&d->lock);
    if (retry && zk_timer_cancel(retry) == ZR_OK)
        doc_schedule(d);
}

static zr_status rows_write(struct doc *d, const struct zb_row *rows, uint64_t upto, uint32_t *ret_takes, uint32_t *ret_large)
{
    struct zl_buf text;
    zl_buf_init(&text, ROWS_TEXT_MAX);
    d->print_rows(&text, rows);
    pthread_mutex_lock(&d->journal_lock);
    zr_status status = text.failed ? ZR_ENOMEM : zb_journal_add(&d->journal, upto, zl_buf_as_span(&text));
    *ret_takes = zb_journal_takes(&d->journal);
    *ret_large = d->journal.total > ZB_JOURNAL_SOON;
    pthread_mutex_unlock(&d->journal_lock);
    zl_buf_free(&text);
    return status;
}

static void journal_job(void *arg)
{
    struct doc *d = arg;
    uint32_t takes = 1, large = 0;
    pthread_mutex_lock(&d->lock);
    uint64_t upto = d->wanted;
    struct zb_row *rows = needs_document(d) ? NULL : d->rows;
    if (rows) {
        d->rows = NULL;
        d->rows_end = &d->rows;
        d->n_rows = 0;
    }
    pthread_mutex_unlock(&d->lock);
    zr_status status = rows ? rows_write(d, rows, upto, &takes, &large) : ZR_OK;
    if (status != ZR_OK)
        zk_log(ZR_LOG_WARN, "%s: its journal takes nothing, the document is written instead: %s", d->name, zk_err_text());
    pthread_mutex_lock(&d->lock);
    if (status == ZR_OK && rows && !needs_document(d) && d->kept < upto)
        d->kept = upto;
    if (status != ZR_OK)
        d->whole = d->wanted;
    d->journaled &= takes;
    struct waiter *told = waiters_take(d, d->kept);
    uint32_t more = d->rows && !needs_document(d);
    d->journal_scheduled = more;
    uint64_t hurried = d->paced && (large || needs_document(d)) ? d->retry : 0;
    if (hurried)
        d->retry = 0;
    pthread_mutex_unlock(&d->lock);
    rows_free(rows);
    waiters_tell(told, ZR_OK);
    if (hurried && zk_timer_cancel(hurried) == ZR_OK)
        doc_schedule(d);
    if (more)
        journal_schedule(d);
}

/* ---- asking ---- */
struct change {
    const struct zr_str *names;
    uint64_t group_len;
    uint32_t n, any;
};

static void doc_ask(struct doc *d, const struct change *change, void (*fn)(void *ctx, zr_status status), void *ctx)
{
    struct waiter *w = fn ? malloc(sizeof *w) : NULL;
    pthread_mutex_lock(&d->lock);
    d->wanted += change->any;
    if (change->any)
        rows_note(d, change->names, change->n, change->group_len);
    uint32_t behind = d->wanted > d->done, schedule = behind && !d->scheduled;
    uint32_t dirty = behind && d->wanted > d->kept, waits = dirty && w;
    uint32_t keep = d->rows && !d->journal_scheduled && !needs_document(d);
    if (waits) {
        *w = (struct waiter){ d->waiters, d->wanted, fn, ctx };
        d->waiters = w;
    }
    uint64_t retry = d->retry && needs_document(d) && (d->paced || waits) ? d->retry : 0;
    if (retry)
        d->retry = 0;
    int64_t when = needs_document(d) ? 0 : pace_ns(d);
    d->scheduled |= behind;
    d->journal_scheduled |= keep;
    pthread_mutex_unlock(&d->lock);
    if (schedule)
        doc_go(d, when);
    else if (retry && zk_timer_cancel(retry) == ZR_OK)
        doc_schedule(d);
    if (keep)
        journal_schedule(d);
    if (fn && !waits) {
        fn(ctx, dirty ? ZR_ENOMEM : ZR_OK);
        free(w);
    }
}

void zb_doc_touch(uint32_t doc, void (*fn)(void *ctx, zr_status status), void *ctx)
{
    const struct change change = { .any = 1 };
    doc_ask(&docs[doc], &change, fn, ctx);
}

void zb_doc_touch_rows(uint32_t doc, const struct zr_str *names, uint32_t n, void (*fn)(void *ctx, zr_status status), void *ctx)
{
    const struct change change = { .names = names, .n = n, .any = 1 };
    doc_ask(&docs[doc], &change, fn, ctx);
}

void zb_doc_touch_pair(uint32_t doc, struct zr_str key, uint64_t group_len)
{
    const struct change change = { .names = &key, .n = 1, .group_len = group_len, .any = 1 };
    doc_ask(&docs[doc], &change, NULL, NULL);
}

void zb_doc_when(uint32_t doc, void (*fn)(void *ctx, zr_status status), void *ctx)
{
    const struct change change = { .any = 0 };
    doc_ask(&docs[doc], &change, fn, ctx);
}

zr_status zb_doc_write(uint32_t doc)
{
    struct doc *d = &docs[doc];
    uint64_t failures, upto;
    zr_status status = doc_save(d, 1, &failures, &upto);
    pthread_mutex_lock(&d->lock);
    struct waiter *told = waiters_take(d, upto);
    pthread_mutex_unlock(&d->lock);
    waiters_tell(told, status);
    return status;
}

zr_status zb_doc_write_last(uint32_t doc)
{
    struct doc *d = &docs[doc];
    pthread_mutex_lock(&d->io);
    pthread_mutex_lock(&d->lock);
    d->closing = 1;
    pthread_mutex_unlock(&d->lock);
    pthread_mutex_unlock(&d->io);
    return zb_doc_write(doc);
}

uint32_t zb_doc_dirty(uint32_t doc)
{
    struct doc *d = &docs[doc];
    pthread_mutex_lock(&d->lock);
    uint32_t dirty = d->wanted > d->done;
    pthread_mutex_unlock(&d->lock);
    return dirty;
}

zr_status zb_doc_read_journal(uint32_t doc, struct zb_doc_print print, uint32_t which,
                              zr_status (*rows)(void *ctx, uint32_t known, struct zr_span rows), void *ctx, uint32_t *ret_known,
                              uint32_t *ret_any)
{
    struct doc *d = &docs[doc];
    pthread_mutex_lock(&d->journal_lock);
    zr_status status = zb_journal_read(&d->journal, print, which, rows, ctx, ret_known);
    *ret_any = zb_journal_is(&d->journal);
    d->wanted = d->done = d->kept = d->journal.last; /* a start is alone */
    pthread_mutex_unlock(&d->journal_lock);
    return status;
}

void zb_docs_open(void)
{
    for (uint32_t i = 0; i < N_DOCS; i++) {
        struct doc *d = &docs[i];
        d->wanted = d->done = d->kept = d->whole = d->scheduled = d->journal_scheduled = 0;
        d->retry = d->paced = d->closing = d->journaled = 0;
        d->ended_ns = d->took_ns = 0;
        d->rows_end = &d->rows;
        zb_journal_init(&d->journal, d->journal_name);
    }
}

/* After the pool's jobs of ours have ended. */
void zb_docs_close(void)
{
    for (uint32_t i = 0; i < N_DOCS; i++) {
        struct doc *d = &docs[i];
        pthread_mutex_lock(&d->lock);
        struct waiter *told = waiters_take(d, UINT64_MAX);
        if (d->rows_end)
            rows_drop(d, UINT64_MAX);
        pthread_mutex_unlock(&d->lock);
        waiters_tell(told, ZR_ECLOSED);
        zb_journal_close(&d->journal);
    }
}
