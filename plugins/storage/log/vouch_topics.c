/* SPDX-License-Identifier: Apache-2.0 */
/* vouch_topics.c - which topics another broker left: the names in config/topics.json. The document is asked only when it says all:
 * it is there and whole, none of RocketMQ's forms in RocksDB stands beside it, and no journal of ours that it does not hold. */
#include "vouch.h"
#include <errno.h>
#include <stdlib.h>

#define MAX_BYTES (1ull << 30)

static int by_name(const void *a, const void *b)
{
    const struct zr_str *x = a, *y = b;
    uint64_t n = x->len < y->len ? x->len : y->len;
    int d = n ? memcmp(x->ptr, y->ptr, n) : 0;
    return d ? d : x->len < y->len ? -1 : x->len > y->len;
}

static int32_t any_name(void *ctx, const char *name)
{
    uint32_t *any = ctx;
    *any |= strncmp(name, "topics.", 7) == 0;
    return 0;
}

/* Is there something that may know more topics than the document? What cannot be looked at may. */
static uint32_t said_elsewhere(struct zr_inst *st)
{
    static const char *const marks[] = { "config/topics/CURRENT", "config/metadata/CURRENT", "config/rdb/CURRENT" };
    char path[ZS_PATH];
    struct zr_io_stat stat;
    uint32_t any = 0;
    for (uint32_t i = 0; i < sizeof marks / sizeof *marks; i++)
        if (!zs_path(path, "%s/%s", st->conf.root, marks[i]) || st->io->stat(st->io->ctx, path, &stat) != -ENOENT) return 1;
    int64_t r = zs_path(path, "%s/journal", st->own_dir) ? st->io->list(st->io->ctx, path, any_name, &any) : -ENAMETOOLONG;
    return any || (r < 0 && r != -ENOENT);
}

void zs_vouch_topics(struct zs_vouch *v)
{
    char path[ZS_PATH];
    const struct zl_json *root;
    uint64_t at;
    zl_buf_init(&v->text, MAX_BYTES);
    if (said_elsewhere(v->st) || !zs_path(path, "%s/config/topics.json", v->st->conf.root)) return;
    if (zl_io_load(v->st->io, path, &v->text) <= 0 || zl_json_parse(zl_buf_as_str(&v->text), &v->doc, &root, &at) != ZR_OK) return;
    const struct zl_json *table = zl_json_get(root, "topicConfigTable");
    if (!table || table->kind != ZL_JSON_OBJECT || table->n == 0) return;
    v->names = calloc(table->n, sizeof *v->names);
    if (!v->names) return;
    for (const struct zl_json *t = table->child; t && v->n_names < table->n; t = t->next) v->names[v->n_names++] = t->key;
    qsort(v->names, v->n_names, sizeof *v->names, by_name);
    v->knows = 1;
}

void zs_vouch_topics_free(struct zs_vouch *v)
{
    free(v->names);
    if (v->doc) zl_json_free(v->doc);
    zl_buf_free(&v->text);
    v->names = NULL;
    v->doc = NULL;
}

uint32_t zs_vouch_named(const struct zs_vouch *v, struct zr_str topic)
{
    return !v->knows || bsearch(&topic, v->names, v->n_names, sizeof *v->names, by_name) != NULL;
}

/* Topics that brokers make for themselves, which need not stand in the document. */
static uint32_t is_system(struct zr_str topic)
{
    static const char *const heads[] = { "rmq_sys_", "RMQ_SYS_", "SCHEDULE_TOPIC_XXXX", "%LMQ%", "TBW102", "SELF_TEST_TOPIC", "OFFSET_MOVED_EVENT" };
    for (uint32_t i = 0; i < sizeof heads / sizeof *heads; i++)
        if (topic.len >= strlen(heads[i]) && memcmp(topic.ptr, heads[i], strlen(heads[i])) == 0) return 1;
    return 0;
}

uint32_t zs_vouch_gone(struct zs_vouch *v, struct zr_str topic)
{
    if (zs_vouch_named(v, topic) || is_system(topic)) return 0;
    if (zs_removed_covers(v->st, topic, v->limit - 1)) return 1;
    if (zs_removed_know(v->st, topic, v->limit) < 0) return 0;
    v->n_gone++;
    zs_log(v->st, ZR_LOG_WARN, "topic %.*s was deleted by another broker: config/topics.json does not name it, and it has no queue files; "
           "the messages that the log has of it are not served", (int)topic.len, topic.ptr);
    return 1;
}
