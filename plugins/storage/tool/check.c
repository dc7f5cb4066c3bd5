/* SPDX-License-Identifier: Apache-2.0 */
/* check.c - `check`: everything there is, against itself and against each other. */
#include "tool.h"

/* Topics come and go on a live store, and what was read of them first is older than the queues: it is read again. A topic that is
 * told to be unknown was in neither, and has its folder before the second and behind it. */
static void docs_again(struct zt_check *c)
{
    for (struct zt_queue *q = atomic_load(&c->queues->all); q; q = q->all)
        q->configured = zt_docs_topic(&c->docs, zl_str(q->topic)) || !zt_topic_there(&c->view, q->topic);
    zt_docs_free(&c->docs);
    memset(&c->docs, 0, sizeof c->docs);
    zt_docs_load(&c->docs, &c->view, &c->report);
}

int zt_check_run(struct zt_check *c, const char *dir, const struct zt_options *opt)
{
    memset(c, 0, sizeof *c);
    zt_report_init(&c->report);
    int rc = zt_view_open(&c->view, dir, opt);
    if (rc != ZT_CLEAN) return rc;
    c->queues = calloc(1, sizeof *c->queues);
    if (!c->queues) return ZT_CANNOT;
    c->log = (struct zt_log){ .v = &c->view, .report = &c->report, .queues = c->queues, .index = &c->index };
    struct zt_report first; /* of the documents of a live store, which are read once more */
    zt_report_init(&first);
    zt_docs_load(&c->docs, &c->view, c->view.live ? &first : &c->report);
    zt_report_free(&first);
    if (zt_queues_load(c->queues, &c->view, &c->report) != ZT_CLEAN) return ZT_CANNOT;
    if (zt_log_open(&c->log) != ZT_CLEAN) return ZT_CANNOT;
    if (zt_index_load(&c->index, &c->view, &c->report, c->log.n_segs ? c->log.segs[0].base : 0, c->log.seg_size, c->log.n_segs) != ZT_CLEAN) return ZT_CANNOT;
    if (zt_log_read(&c->log) != ZT_CLEAN) return ZT_CANNOT;
    for (struct zt_queue *q = atomic_load(&c->queues->all); q; q = q->all) /* entries of inner batches: the log is checked, they are not */
        q->other = zt_docs_batch(&c->docs, zl_str(q->topic));
    for (struct zt_queue *q = atomic_load(&c->queues->all); q; q = q->all) /* Apache deletes a topic's folder and says so nowhere; what the next start will make is not deleted */
        q->removed = q->n_files == 0 && ((!q->hint && atomic_load(&q->n_lag) == 0 && !zt_docs_topic(&c->docs, zl_str(q->topic))) || zt_queue_gone(c->queues, q));
    zt_queues_compare(c->queues, &c->log);
    zt_extents_tell(c->queues);
    zt_index_tell(&c->index, &c->log);
    if (c->view.live) docs_again(c);
    zt_docs_agree(&c->docs, c->queues, &c->log);
    if (atomic_load(&c->queues->full)) {
        zt_find(&c->report, ZT_LEVEL_NOTE, "limit", "consumequeue", -1, 0, NULL, "there are more queues or messages than can be compared at once");
        c->report.failed = 1;
    }
    return ZT_CLEAN;
}

void zt_check_free(struct zt_check *c)
{
    if (c->queues) zt_queues_free(c->queues);
    zt_index_free(&c->index);
    zt_log_free(&c->log);
    if (c->docs.v) zt_docs_free(&c->docs);
    zt_view_close(&c->view);
    zt_report_free(&c->report);
}

static const char *state_of(const struct zt_view *v)
{
    return v->live ? "live" : v->unclean ? "not closed cleanly" : "closed cleanly";
}

static const char *result_of(int status)
{
    static const char *const words[] = { "clean", "mendable: nothing is lost, a start or --repair puts it right", "messages were lost", "could not be checked wholly" };
    return words[status];
}

static void head_print(const struct zt_check *c)
{
    char bytes[16], first[32], last[32];
    uint64_t topics = 0, entries = 0;
    for (struct zt_queue *q = atomic_load(&c->queues->all); q; q = q->all) entries += q->n_entries;
    (void)topics;
    zt_size_text(bytes, c->log.n_bytes);
    zt_time_text(first, c->log.first_ms);
    zt_time_text(last, c->log.last_ms);
    fprintf(zt_out(), "%s: %s", c->view.dir, state_of(&c->view));
    if (c->view.live) fprintf(zt_out(), " (process %d has it; nothing is locked or written)", c->view.live_pid);
    fprintf(zt_out(), "\nlog     %lld to %lld, %llu segments of %lld bytes: %llu records, %s; %s to %s\n", (long long)c->log.begin, (long long)c->log.end,
           (unsigned long long)c->log.n_segs, (long long)c->log.seg_size, (unsigned long long)c->log.n_records, bytes, first, last);
    fprintf(zt_out(), "queues  %llu with %llu entries, files of %lld bytes\n", (unsigned long long)atomic_load(&c->queues->n), (unsigned long long)entries, (long long)c->queues->file_size);
    fprintf(zt_out(), "index   %llu files with %llu entries\n", (unsigned long long)c->index.n, (unsigned long long)c->index.n_entries);
    fprintf(zt_out(), "read    %.2f s, %.0f MB/s with %u threads\n", c->log.seconds, c->log.seconds > 0 ? (double)c->log.n_bytes / 1e6 / c->log.seconds : 0.0, c->view.opt.threads);
}

static void json_print(struct zt_check *c, int status, const char *did)
{
    struct zl_buf out;
    struct zl_jw w;
    zl_buf_init(&out, 64u << 20);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "directory", zl_str(c->view.dir));
    zl_jw_kstr(&w, "state", zl_str(state_of(&c->view)));
    zl_jw_kbool(&w, "live", c->view.live);
    zl_jw_ki64(&w, "status", status);
    zl_jw_kstr(&w, "result", zl_str(result_of(status)));
    zl_jw_ki64(&w, "begin", c->log.begin);
    zl_jw_ki64(&w, "end", c->log.end);
    zl_jw_ki64(&w, "segments", (int64_t)c->log.n_segs);
    zl_jw_ki64(&w, "records", (int64_t)c->log.n_records);
    zl_jw_ki64(&w, "bytes", (int64_t)c->log.n_bytes);
    zl_jw_ki64(&w, "queues", (int64_t)atomic_load(&c->queues->n));
    zl_jw_ki64(&w, "indexFiles", (int64_t)c->index.n);
    zl_jw_key(&w, zl_str("seconds"));
    zl_jw_f64(&w, c->log.seconds);
    if (did) {
        zl_jw_key(&w, zl_str("done"));
        zl_jw_raw(&w, zl_str(did));
    }
    zt_report_json(&c->report, &w);
    zl_jw_end(&w, '}');
    fprintf(zt_out(), "%.*s\n", (int)out.len, (const char *)out.ptr);
    zl_buf_free(&out);
}

int zt_check_print(struct zt_check *c, const char *did)
{
    int rc = zt_report_status(&c->report);
    if (c->view.opt.json) {
        json_print(c, rc, did);
        return rc;
    }
    head_print(c);
    zt_report_text(&c->report);
    fprintf(zt_out(), "%s\n", result_of(rc));
    return rc;
}

/* A broker goes on while its store is looked at: what seems wrong counts if a second look finds it too. */
static int look_again(struct zt_check *c, const char *dir, const struct zt_options *opt)
{
    struct zt_check *second = calloc(1, sizeof *second);
    int rc = second ? zt_check_run(second, dir, opt) : ZT_CANNOT;
    if (rc == ZT_CLEAN && second->view.live) zt_report_meet(&second->report, &c->report);
    if (rc == ZT_CLEAN) rc = zt_check_print(second, NULL);
    if (second) zt_check_free(second);
    free(second);
    return rc;
}

int zt_cmd_check(const char *dir, const struct zt_options *opt)
{
    struct zt_check *c = calloc(1, sizeof *c);
    if (!c) return ZT_CANNOT;
    int rc = zt_check_run(c, dir, opt);
    if (rc == ZT_CLEAN && c->view.live && zt_report_status(&c->report) != ZT_CLEAN) rc = look_again(c, dir, opt);
    else if (rc == ZT_CLEAN) rc = zt_check_print(c, NULL);
    zt_check_free(c);
    free(c);
    return rc;
}
