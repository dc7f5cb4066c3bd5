/* SPDX-License-Identifier: Apache-2.0 */
/* save.c - timerwheel, timerlog, config/timercheck and config/timermetrics to the disk.
 *
 * What stays true: first what was delivered is on the disk, then the log, then the pages of the wheel, then timercheck, which says
 * how far all of it is right. So a power cut repeats the last half second, and loses nothing.
 *
 * LOCKING: one flush at a time (timer.flushing); it reads a picture that the engine took when it began. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "timer.h"
#include "zl/io.h"
#include "zl/json.h"
#include "zl/text.h"

#define PAGES_AT_ONCE 256u
#define LAST_TRIES 500u
#define LAST_NS (10LL * 1000000)
#define TRIM_NS (30LL * 1000000000)
#define METRICS_EVERY 20u /* flushes */
#define METRICS_DOCUMENT "config/timermetrics"

static int64_t file_open(struct timer *t, const char *name, uint64_t size, uint32_t *ret_new)
{
    struct zr_io_stat st;
    zl_buf_clear(&t->path);
    zl_buf_fmt(&t->path, "%s/%s", t->inst->host->data_dir, name);
    zl_buf_u8(&t->path, 0);
    if (t->path.failed) return -ENOMEM;
    int64_t fd = t->io->open(t->io->ctx, (const char *)t->path.ptr, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0644);
    if (fd < 0) return fd;
    int64_t r = t->io->fstat(t->io->ctx, (int32_t)fd, &st);
    *ret_new = r >= 0 && st.size != size;
    if (*ret_new) r = t->io->ftruncate(t->io->ctx, (int32_t)fd, 0);
    if (r >= 0) r = t->io->ftruncate(t->io->ctx, (int32_t)fd, (int64_t)size);
    if (r < 0) t->io->close(t->io->ctx, (int32_t)fd);
    return r < 0 ? r : fd;
}

/* The wheel is written anew: what pends was linked from the log. */
zr_status save_open(struct timer *t)
{
    uint32_t fresh = 0;
    zl_buf_clear(&t->path);
    zl_buf_fmt(&t->path, "%s/config", t->inst->host->data_dir);
    zl_buf_u8(&t->path, 0);
    if (t->path.failed || zl_io_mkdirs(t->io, (const char *)t->path.ptr) < 0) return ZR_EIO;
    int64_t fd = file_open(t, "config/timercheck", CHECK_BYTES, &fresh);
    if (fd < 0) return ZR_EIO;
    t->check_fd = (int32_t)fd;
    fd = file_open(t, "timerwheel", WHEEL_BYTES, &fresh);
    if (fd < 0) return ZR_EIO;
    t->wheel_fd = (int32_t)fd;
    t->io->sync_dir(t->io->ctx, t->inst->host->data_dir);
    return ZR_OK;
}

void save_close(struct timer *t)
{
    if (t->check_fd >= 0) t->io->close(t->io->ctx, t->check_fd);
    if (t->wheel_fd >= 0) t->io->close(t->io->ctx, t->wheel_fd);
    t->check_fd = t->wheel_fd = -1;
    zl_buf_free(&t->path);
}

void metrics_clear(struct timer *t)
{
    pthread_mutex_lock(&t->count_lock);
    free(t->metrics);
    t->metrics = NULL;
    t->shown_pending = 0;
    pthread_mutex_unlock(&t->count_lock);
}

/* ---- counts by topic --------------------------------------------------------------------------------------------------------- */

void metric_add(struct timer *t, int32_t hash, int64_t n, int64_t ms)
{
    pthread_mutex_lock(&t->count_lock);
    if (!t->metrics) t->metrics = calloc(METRICS_MAX, sizeof *t->metrics);
    for (uint32_t i = 0, at = (uint32_t)hash * 2654435761u % METRICS_MAX; t->metrics && i < METRICS_MAX; i++, at = (at + 1) % METRICS_MAX) {
        struct metric *m = &t->metrics[at];
        if (m->used && m->hash != hash) continue;
        *m = (struct metric){ .hash = hash, .used = 1, .count = m->count + n, .ms = ms };
        break;
    }
    t->shown_pending += n;
    pthread_mutex_unlock(&t->count_lock);
}

struct printing { struct timer *t; struct zl_jw *w; };

static int32_t print_topic(void *ctx, const struct zr_topic *topic)
{
    struct printing *p = ctx;
    struct timer *t = p->t;
    int32_t hash = zl_java_hash(topic->name);
    int64_t count = 0, ms = 0;
    pthread_mutex_lock(&t->count_lock);
    for (uint32_t i = 0, at = (uint32_t)hash * 2654435761u % METRICS_MAX; t->metrics && i < METRICS_MAX && t->metrics[at].used; i++, at = (at + 1) % METRICS_MAX)
        if (t->metrics[at].hash == hash) {
            count = t->metrics[at].count;
            ms = t->metrics[at].ms;
            break;
        }
    pthread_mutex_unlock(&t->count_lock);
    if (!ms) return 0;
    zl_jw_key(p->w, topic->name);
    zl_jw_begin(p->w, '{');
    zl_jw_ki64(p->w, "count", count);
    zl_jw_ki64(p->w, "timeStamp", ms);
    zl_jw_end(p->w, '}');
    return 0;
}

void metrics_print(struct timer *t, struct zl_buf *out, uint32_t pretty)
{
    struct zl_jw w;
    struct printing p = { t, &w };
    zl_jw_init(&w, out, pretty);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("dataVersion"));
    zl_jw_begin(&w, '{');
    zl_jw_ki64(&w, "counter", t->metrics_counter);
    zl_jw_ki64(&w, "stateVersion", 0);
    zl_jw_ki64(&w, "timestamp", wall_ms(t->inst));
    zl_jw_end(&w, '}');
    zl_jw_key(&w, zl_str("timingCount"));
    zl_jw_begin(&w, '{');
    t->inst->broker->each_topic(t->inst->host, print_topic, &p);
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
}

static void metrics_save(struct timer *t)
{
    struct zl_buf out;
    t->metrics_counter++;
    zl_buf_init(&out, 16u << 20);
    metrics_print(t, &out, 0);
    if (!out.failed) t->inst->state->write(t->inst->host, zl_str(METRICS_DOCUMENT), zl_buf_as_span(&out));
    zl_buf_free(&out);
}

/* ---- a flush ----------------------------------------------------------------------------------------------------------------- */

/* By the engine: what timercheck shall say. */
static void picture(struct timer *t, uint32_t clean)
{
    t->check = (struct timercheck){ .read_ms = is_rebuilding(t) && t->done_ms < t->read_ms ? t->done_ms : t->read_ms, .log_flushed = t->log.pushed, .queue_offset = t->cursor, .master_queue_offset = t->cursor,
                                    .timestamp = wall_ms(t->inst), .counter = t->check.counter + 1, .clean = clean,
                                    .doubt_end = t->stepped ? t->log.pushed : t->doubt_end, .coarse_end = t->coarse_end,
                                    .step_ms = (uint32_t)t->precision_ms };
    t->save_delivered_end = t->delivered_end;
}

static uint32_t delivered_is_flushed(struct timer *t)
{
    struct zr_inst *inst = t->inst;
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    inst->storage->info(inst->storage_inst, &info);
    if (info.positions.flushed >= t->save_delivered_end) return 1;
    inst->storage->want_flushed(inst->storage_inst, t->save_delivered_end);
    return 0;
}

static zr_status pages_write(struct timer *t)
{
    uint32_t pages[PAGES_AT_ONCE], n;
    uint8_t *bytes = malloc((uint64_t)PAGES_AT_ONCE * WHEEL_PAGE);
    zr_status status = bytes ? ZR_OK : ZR_ENOMEM;
    while (status == ZR_OK) {
        pthread_mutex_lock(&t->step);
        n = wheel_take_dirty(&t->wheel, bytes, pages, PAGES_AT_ONCE);
        pthread_mutex_unlock(&t->step);
        if (n == 0) break;
        status = tlog_sync(&t->log);
        for (uint32_t i = 0; i < n && status == ZR_OK; i++)
            if (zl_io_write_all(t->io, t->wheel_fd, bytes + (uint64_t)i * WHEEL_PAGE, WHEEL_PAGE, (int64_t)pages[i] * WHEEL_PAGE) < 0) status = ZR_EIO;
        if (status != ZR_OK) wheel_mark_dirty(&t->wheel, pages, n);
    }
    free(bytes);
    if (status == ZR_OK && t->io->fdatasync(t->io->ctx, t->wheel_fd) < 0) status = ZR_EIO;
    return status;
}

zr_status check_write(struct timer *t)
{
    uint8_t bytes[CHECK_BYTES];
    timercheck_encode(bytes, &t->check);
    if (zl_io_write_all(t->io, t->check_fd, bytes, CHECK_BYTES, 0) < 0) return ZR_EIO;
    return t->io->fdatasync(t->io->ctx, t->check_fd) < 0 ? ZR_EIO : ZR_OK;
}

static zr_status flush(struct timer *t)
{
    zr_status status = tlog_sync(&t->log);
    if (status == ZR_OK) status = pages_write(t);
    return status == ZR_OK ? check_write(t) : status;
}

static void save_job(void *arg)
{
    struct timer *t = arg;
    uint32_t ready = delivered_is_flushed(t), failed = ready && flush(t) != ZR_OK;
    if (failed && !t->flush_failed) say(t->inst, ZR_LOG_WARN, "the timer's files cannot be written; after a crash their messages would be looked for in %s", TIMER_TOPIC);
    t->flush_failed = failed;
    if (ready && !failed && ++t->metrics_due % METRICS_EVERY == 1) metrics_save(t);
    pthread_mutex_lock(&t->lock);
    t->flushing = 0;
    t->save_again = !ready || failed;
    t->kicked = 1;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    running_end(t->inst);
}

static void trim(struct timer *t)
{
    struct zr_storage_info info = { .hdr = ZR_HDR(struct zr_storage_info, 0) };
    int64_t now = t->inst->timer->mono_ns(t->inst->host);
    if (now - t->trim_ns < TRIM_NS) return;
    t->trim_ns = now;
    t->inst->storage->info(t->inst->storage_inst, &info);
    if (tlog_push(&t->log) == ZR_OK) tlog_trim(&t->log, info.positions.begin);
}

void save_begin(struct timer *t)
{
    pthread_mutex_lock(&t->lock);
    uint32_t under_way = t->flushing;
    if (!under_way) t->flushing = 1;
    pthread_mutex_unlock(&t->lock);
    if (under_way) return;
    trim(t);
    picture(t, 0);
    t->dirty_since_ns = 0;
    pthread_mutex_lock(&t->inst->lock);
    t->inst->n_running++;
    pthread_mutex_unlock(&t->inst->lock);
    if (t->inst->work->run(t->inst->host, save_job, t) == ZR_OK) return;
    pthread_mutex_lock(&t->lock);
    t->flushing = 0;
    pthread_mutex_unlock(&t->lock);
    timer_dirty(t);
    running_end(t->inst);
}

/* With the lock: a pause, for there is no event for what another plugin flushes. */
static void pause_for(struct timer *t, int64_t pause_ns)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    at.tv_nsec += pause_ns;
    at.tv_sec += at.tv_nsec / 1000000000;
    at.tv_nsec %= 1000000000;
    pthread_cond_timedwait(&t->wake, &t->lock, &at);
}

void save_last(struct timer *t)
{
    uint32_t ready = 0;
    t->save_delivered_end = t->delivered_end;
    for (uint32_t i = 0; i < LAST_TRIES && !(ready = delivered_is_flushed(t)); i++) {
        pthread_mutex_lock(&t->lock);
        pause_for(t, LAST_NS);
        pthread_mutex_unlock(&t->lock);
    }
    if (!ready || tlog_push(&t->log) != ZR_OK) return; /* as after a crash */
    slots_entomb(t);
    picture(t, !is_rebuilding(t));
    if (flush(t) != ZR_OK) say(t->inst, ZR_LOG_WARN, "the timer's files cannot be written: the next start looks up what left already");
    metrics_save(t);
}
