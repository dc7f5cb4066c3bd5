/* SPDX-License-Identifier: Apache-2.0 */
/* docs.c - the documents beside the store: those under config/, the checkpoint, abort, and Zarya's own in zarya/; each by itself,
 * and whether they agree with the queues and the log. Topics are those of the document and of its journal together. */
#include "tool.h"

static const char *const names[ZT_DOCS] = { "config/topics.json", "config/subscriptionGroup.json", "config/consumerOffset.json",
                                            "config/delayOffset.json", "config/consumerFilter.json", "config/consumerOrderInfo.json",
                                            "config/messageRequestMode.json", "config/topicQueueMapping.json" };

/* ---- by itself ------------------------------------------------------------------------------------------------------------ */

/* 0: missing, 1: good, 2: damaged; *ret_at the first byte that is no JSON. */
static uint32_t doc_read(struct zt_docs *d, struct zt_doc *doc, const char *ending, uint64_t *ret_at)
{
    char path[ZS_PATH];
    *ret_at = 0;
    zl_json_free(doc->doc);
    doc->doc = NULL;
    doc->root = NULL;
    if (!zs_path(path, "%s/%s%s", d->v->dir, doc->name, ending)) return 0;
    int64_t r = zl_io_load(zt_io(), path, &doc->text);
    if (r == -ENOENT || r == -ENOTDIR) return 0;
    if (r < 0) { /* it may be whole */
        zt_find(d->report, ZT_LEVEL_NOTE, "doc.unreadable", doc->name, -1, 0, "look at the disk and at the file's permissions", "it cannot be read: %s", zs_errno_text(r));
        d->report->failed = 1;
    }
    if (r <= 0 || zl_json_parse(zl_buf_as_str(&doc->text), &doc->doc, &doc->root, ret_at) != ZR_OK) return 2;
    return doc->root && doc->root->kind == ZL_JSON_OBJECT ? 1 : 2;
}

static void doc_tell(struct zt_docs *d, struct zt_doc *doc, uint64_t at, uint32_t size)
{
    if (doc->state == 1) return;
    if (doc->state == 0 && doc->backup == 0) return;
    if (doc->state == 0) {
        zt_find(d->report, ZT_LEVEL_MEND, "doc.missing", doc->name, -1, 0, "the broker takes the .bak at its next start; --repair puts it in place", "it is missing, its .bak is %s", doc->backup == 1 ? "there" : "damaged");
        return;
    }
    zt_find(d->report, ZT_LEVEL_MEND, "doc.damaged", doc->name, (int64_t)at, 0,
            doc->backup == 1 ? "the broker takes the .bak at its next start; --repair puts it in place"
                             : "put back a good copy; --repair moves it aside, and makes topics anew from the queues",
            "it is no JSON document (%u bytes); its .bak is %s", size, doc->backup == 1 ? "good" : doc->backup ? "damaged too" : "missing");
}

static void journal_follow(struct zt_docs *d)
{
    const struct zt_doc *doc = &d->at[ZT_DOC_TOPICS];
    struct zr_str text = doc->root ? zl_buf_as_str(&doc->text) : (struct zr_str){ NULL, 0 };
    zt_journal_follow(&d->journal, text, zl_json_get(doc->root, "topicConfigTable"), doc->state == 1, d->report);
    if (d->journal.n_rows && !d->v->live)
        zt_find(d->report, ZT_LEVEL_NOTE, "journal", doc->name, -1, 0, NULL, "%llu topics were changed after it was written, and stand in zarya/journal: the next start writes them",
                (unsigned long long)d->journal.n_rows);
}

void zt_docs_load(struct zt_docs *d, struct zt_view *v, struct zt_report *report)
{
    d->v = v;
    d->report = report;
    zt_journal_load(&d->journal, v, report);
    for (uint32_t i = 0; i < ZT_DOCS; i++) {
        struct zt_doc *doc = &d->at[i];
        uint64_t at, other;
        doc->name = names[i];
        zl_buf_init(&doc->text, ZT_MAX_DOCUMENT);
        doc->backup = doc_read(d, doc, ".bak", &other);
        doc->state = doc_read(d, doc, "", &at);
        uint32_t size = (uint32_t)doc->text.len;
        doc_tell(d, doc, at, size);
        if (doc->state != 1 && doc->backup == 1) doc_read(d, doc, ".bak", &other);
        else if (doc->state != 1) doc->root = NULL;
    }
    journal_follow(d);
}

void zt_docs_free(struct zt_docs *d)
{
    for (uint32_t i = 0; i < ZT_DOCS; i++) {
        zl_json_free(d->at[i].doc);
        zl_buf_free(&d->at[i].text);
        d->at[i].doc = NULL;
        d->at[i].root = NULL;
    }
    zt_journal_free(&d->journal);
}

static const struct zl_json *topic_of(const struct zt_docs *d, struct zr_str topic)
{
    const struct zl_json *table = zl_json_get(d->at[ZT_DOC_TOPICS].root, "topicConfigTable"), *row;
    if (zt_journal_topic(&d->journal, topic, &row)) return row;
    for (const struct zl_json *t = table ? table->child : NULL; t; t = t->next)
        if (zl_eq(t->key, topic)) return t;
    return NULL;
}

uint32_t zt_docs_topic(const struct zt_docs *d, struct zr_str topic)
{
    return !d->at[ZT_DOC_TOPICS].root || topic_of(d, topic) != NULL;
}

uint32_t zt_topic_there(const struct zt_view *v, const char *topic)
{
    char path[ZS_PATH];
    struct zr_io_stat st;
    return zs_path(path, "%s/consumequeue/%s", v->dir, topic) && zt_stat(path, &st) >= 0;
}

uint32_t zt_docs_batch(const struct zt_docs *d, struct zr_str topic)
{
    const struct zl_json *t = topic_of(d, topic), *a = zl_json_get(t, "attributes");
    for (const struct zl_json *o = a ? a->child : NULL; o; o = o->next)
        if (zl_ends(o->key, "queue.type") && zl_is(zl_json_str(o), "BatchCQ")) return 1;
    return 0;
}

/* ---- with the queues ------------------------------------------------------------------------------------------------------------ */

static void topic_tell(struct zt_docs *d, struct zr_str topic, uint64_t queues, uint64_t messages, int64_t max_id)
{
    const struct zl_json *t = topic_of(d, topic);
    if (!t) {
        if (zl_starts(topic, "%LMQ%")) return;
        zt_find(d->report, ZT_LEVEL_MEND, "topic.unknown", names[ZT_DOC_TOPICS], -1, 0,
                "create the topic (zaryactl topic create), or let --repair add it; delete its folder under consumequeue if it is not wanted",
                "topic %.*s has %llu queues with %llu messages, but it is not in the document: nobody can read them", (int)topic.len, topic.ptr,
                (unsigned long long)queues, (unsigned long long)messages);
        return;
    }
    int64_t n = zl_json_get_i64(t, "readQueueNums", 0), w = zl_json_get_i64(t, "writeQueueNums", 0);
    if (w > n) n = w;
    if (max_id >= n)
        zt_find(d->report, ZT_LEVEL_NOTE, "topic.queues", names[ZT_DOC_TOPICS], -1, 0, NULL, "topic %.*s has %lld queues in the document, but there are messages in queue %lld",
                (int)topic.len, topic.ptr, (long long)n, (long long)max_id);
}

struct row {
    const char *topic;
    uint64_t queues, messages;
    int64_t max_id;
    uint32_t configured;
};
static int by_topic(const void *a, const void *b) { return strcmp(((const struct row *)a)->topic, ((const struct row *)b)->topic); }

static void topics_tell(struct zt_docs *d, struct zt_queues *qs)
{
    uint64_t n = 0;
    struct row *rows = calloc(atomic_load(&qs->n) + 1, sizeof *rows);
    if (!rows) return;
    for (struct zt_queue *q = atomic_load(&qs->all); q; q = q->all) {
        if (q->other) continue;
        uint64_t messages = q->n_records > q->n_entries ? q->n_records : q->n_entries;
        if (!q->removed && (messages || q->n_files)) rows[n++] = (struct row){ q->topic, 1, messages, q->id, q->configured };
    }
    qsort(rows, n, sizeof *rows, by_topic);
    for (uint64_t i = 0; i < n;) {
        struct row sum = rows[i++];
        for (; i < n && !strcmp(rows[i].topic, sum.topic); i++) {
            sum.queues++;
            sum.messages += rows[i].messages;
            if (rows[i].max_id > sum.max_id) sum.max_id = rows[i].max_id;
        }
        if (d->v->live && !topic_of(d, zl_str(sum.topic)) && (sum.configured || !zt_topic_there(d->v, sum.topic))) continue; /* deleted since */
        topic_tell(d, zl_str(sum.topic), sum.queues, sum.messages, sum.max_id);
    }
    free(rows);
}

static int64_t max_of(const struct zt_queue *q)
{
    int64_t max = q->max > 0 ? q->max : 0, next = atomic_load(&q->max_offset) + 1;
    return next > max ? next : max;
}

static void offset_tell(struct zt_docs *d, struct zt_queues *qs, uint32_t doc, struct zr_str topic, struct zr_str group, int32_t id, int64_t offset)
{
    struct zt_queue *q = zt_queue_get(qs, topic, id, 0);
    int64_t max = q ? max_of(q) : 0;
    if (q && q->other) return;
    if (offset > max && !d->v->live)
        zt_find(d->report, ZT_LEVEL_MEND, "offset.beyond", names[doc], -1, 0, "--repair sets it to the queue's end; else its consumers wait until the queue has grown to there",
                "%s %.*s is at offset %lld of topic %.*s queue %d, which ends at %lld", doc == ZT_DOC_DELAY ? "delay level" : "group", (int)group.len, group.ptr,
                (long long)offset, (int)topic.len, topic.ptr, id, (long long)max);
    else if (q && q->min > offset && offset >= 0 && q->n_records)
        zt_find(d->report, ZT_LEVEL_NOTE, "offset.below", names[doc], -1, 0, NULL, "%s %.*s is at offset %lld of topic %.*s queue %d, which begins at %lld: it goes on there",
                doc == ZT_DOC_DELAY ? "delay level" : "group", (int)group.len, group.ptr, (long long)offset, (int)topic.len, topic.ptr, id, (long long)q->min);
    else if (offset < 0)
        zt_find(d->report, ZT_LEVEL_MEND, "offset.negative", names[doc], -1, 0, "--repair sets it to the queue's begin", "group %.*s is at offset %lld of topic %.*s queue %d", (int)group.len, group.ptr,
                (long long)offset, (int)topic.len, topic.ptr, id);
}

static void offsets_tell(struct zt_docs *d, struct zt_queues *qs)
{
    const struct zl_json *table = zl_json_get(d->at[ZT_DOC_OFFSETS].root, "offsetTable");
    for (const struct zl_json *row = table ? table->child : NULL; row; row = row->next) {
        struct zr_str group = row->key, topic;
        if (!zl_split(&group, '@', &topic)) continue;
        for (const struct zl_json *o = row->child; o; o = o->next) {
            int32_t id;
            if (zl_parse_i32(o->key, &id) == ZR_OK) offset_tell(d, qs, ZT_DOC_OFFSETS, topic, group, id, zl_json_i64(o, 0));
        }
    }
    table = zl_json_get(d->at[ZT_DOC_DELAY].root, "offsetTable");
    for (const struct zl_json *o = table ? table->child : NULL; o; o = o->next) {
        int32_t level;
        if (zl_parse_i32(o->key, &level) == ZR_OK && level > 0)
            offset_tell(d, qs, ZT_DOC_DELAY, zl_str("SCHEDULE_TOPIC_XXXX"), o->key, level - 1, zl_json_i64(o, 0));
    }
}

/* ---- the store's own ------------------------------------------------------------------------------------------------------------ */

#define CHECKPOINT_DO "the next start writes it anew; --repair does it now"

static void checkpoint_bad(struct zt_docs *d, int64_t at, const char *text)
{
    zt_find(d->report, ZT_LEVEL_MEND, "checkpoint", "checkpoint", at, at >= 0 ? 8 : 0, CHECKPOINT_DO, "%s", text);
}

static void checkpoint_tell(struct zt_docs *d, const struct zt_log *lg)
{
    struct zt_view *v = d->v;
    const int64_t *c = v->checkpoint;
    char text[160];
    if (lg->n_records == 0) return;
    if (v->checkpoint_state == 0) checkpoint_bad(d, -1, "it is missing");
    else if (v->checkpoint_state == 2) checkpoint_bad(d, -1, "it does not have 4096 bytes, or cannot be read");
    else if (v->checkpoint_state == 3) checkpoint_bad(d, 0, "it holds a time or a position that no store can have");
    if (v->checkpoint_state != 1) return;
    for (int i = 0; i < 2; i++)
        if (c[i] > lg->last_ms && !v->live) {
            snprintf(text, sizeof text, "its time %lld is behind the newest message's, %lld", (long long)c[i], (long long)lg->last_ms);
            checkpoint_bad(d, 8 * i, text);
            return;
        }
    if (c[5] >= lg->end && !v->live) {
        snprintf(text, sizeof text, "its position %lld is behind the log's end %lld", (long long)c[5], (long long)lg->end);
        checkpoint_bad(d, 40, text);
    } else if (c[0] == 0 && c[1] == 0 && !v->live && !v->unclean) {
        checkpoint_bad(d, 0, "it is all zero");
    } else if (v->snap.valid && v->snap.clean && !v->live && !v->unclean && v->snap.pos == lg->end && v->snap.last_phys >= 0) {
        if (c[1] != v->snap.last_ms) checkpoint_bad(d, 8, "its time is not that of the last message of a clean stop");
        else if (c[5] != v->snap.last_phys) checkpoint_bad(d, 40, "its position is not that of the last message of a clean stop");
    }
}

static void own_tell(struct zt_docs *d)
{
    char path[ZS_PATH];
    struct zr_io_stat st;
    if (d->v->snap.valid || !zs_path(path, "%s/zarya/queues", d->v->dir) || zt_stat(path, &st) < 0) return;
    zt_find(d->report, ZT_LEVEL_MEND, "snapshot", "zarya/queues", -1, 0, "the next stop writes it anew; --repair does it now; a start without it reads more of the log",
            "it is damaged (its checksum or its layout is wrong), and so is its .bak, or there is none");
}

void zt_docs_agree(struct zt_docs *d, struct zt_queues *qs, struct zt_log *lg)
{
    topics_tell(d, qs);
    offsets_tell(d, qs);
    checkpoint_tell(d, lg);
    own_tell(d);
    if (d->v->unclean && !d->v->live)
        zt_find(d->report, ZT_LEVEL_MEND, "abort", "abort", -1, 0, "start the broker, or --repair", "it is there: the store was not closed cleanly, the next start recovers");
}
