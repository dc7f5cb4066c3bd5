/* SPDX-License-Identifier: Apache-2.0 */
/* offsets.c - where a consumer begins in a queue, and keeping how far it came.
 *
 * Clustering: the broker keeps offsets (14, 15). Broadcasting: a file, in the form and place of the Java client's:
 * <dir>/<ip>@<instance>/<group>/offsets.json. */
#include "consumer.h"
#include "zl/io.h"
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#define CODE_COMMIT_OFFSET 15
#define FILE_MAX (64u << 20)
#define NO_OFFSET 22

static int first_offset(struct zc_consumer *c, const struct zc_queue *queue, int64_t *ret, struct zc_err *err)
{
    uint32_t retry = strncmp(queue->topic, "%RETRY%", 7) == 0;
    *ret = 0;
    switch (c->options.from) {
    case ZC_FROM_FIRST:
        return ZC_OK; /* the broker corrects it, if the queue begins later */
    case ZC_FROM_TIMESTAMP:
        return retry ? zc_offset_max(c->client, queue, ret, err)
                     : zc_offset_by_time(c->client, queue, c->options.from_ms, ret, err);
    default:
        return retry ? ZC_OK : zc_offset_max(c->client, queue, ret, err);
    }
}

int zc_offsets_begin(struct zc_consumer *c, const struct zc_queue *queue, int64_t *ret, struct zc_err *err)
{
    if (c->options.model == ZC_CLUSTERING) {
        int rc = zc_offset_query(c->client, c->group, queue, ret, err);
        return rc == NO_OFFSET ? first_offset(c, queue, ret, err) : rc;
    }
    for (uint32_t i = 0; i < c->n_stored; i++)
        if (zc_same_queue(&c->stored[i].queue, queue)) {
            *ret = c->stored[i].offset;
            return ZC_OK;
        }
    return first_offset(c, queue, ret, err);
}

/* ---- the broker ---- */

void zc_offsets_commit_one(struct zc_consumer *c, const struct zc_queue *queue, int64_t offset)
{
    char addr[ZC_NAME_MAX], id[24], number[24];
    if (c->options.model != ZC_CLUSTERING || zc_broker_addr(c->client, queue->broker, 1, addr, NULL)) return;
    struct zr_field f[5] = { { ZR_STR("consumerGroup"), zl_str(c->group) },
                             { ZR_STR("topic"), zl_str(queue->topic) },
                             { ZR_STR("queueId"), { id, zl_print_i64(id, queue->queue_id) } },
                             { ZR_STR("commitOffset"), { number, zl_print_i64(number, offset) } },
                             { ZR_STR("bname"), zl_str(queue->broker) } };
    struct zc_request request = { .code = CODE_COMMIT_OFFSET, .fields = f, .n_fields = 5 };
    zc_io_call_oneway(c->client->io, addr, &request, NULL);
}

/* A copy of what is to be committed. */
static struct zc_offset *offsets_now(struct zc_consumer *c, uint32_t *ret_n)
{
    uint32_t n = 0;
    pthread_mutex_lock(&c->lock);
    for (struct zc_pq *pq = c->pqs; pq; pq = pq->next) n++;
    struct zc_offset *list = calloc(n + 1, sizeof(*list));
    *ret_n = 0;
    for (struct zc_pq *pq = c->pqs; list && pq; pq = pq->next)
        list[(*ret_n)++] = (struct zc_offset){ pq->queue, zc_pq_commit_offset(pq) };
    pthread_mutex_unlock(&c->lock);
    return list;
}

/* ---- the file ---- */

static void stored_add(struct zc_consumer *c, const struct zl_json *entry)
{
    struct zc_offset *grown = realloc(c->stored, (c->n_stored + 1) * sizeof(*grown));
    int64_t offset = zl_json_i64(entry, -1);
    if (!grown) return;
    c->stored = grown;
    struct zc_offset *to = &grown[c->n_stored];
    memset(to, 0, sizeof(*to));
    if (offset < 0 || !entry->key_obj || zc_copy_name(to->queue.topic, zl_json_get_str(entry->key_obj, "topic")) ||
        zc_copy_name(to->queue.broker, zl_json_get_str(entry->key_obj, "brokerName")))
        return;
    to->queue.queue_id = (int32_t)zl_json_get_i64(entry->key_obj, "queueId", 0);
    to->offset = offset;
    c->n_stored++;
}

void zc_offsets_load(struct zc_consumer *c)
{
    char dir[1024], path[2048];
    const char *home = getenv("HOME");
    if (c->options.offsets_dir)
        snprintf(dir, sizeof(dir), "%s", c->options.offsets_dir);
    else
        snprintf(dir, sizeof(dir), "%s/.rocketmq_offsets", home ? home : ".");
    snprintf(path, sizeof(path), "%s/%s/%s", dir, c->client->stable_id, c->group);
    zl_io_mkdirs(zl_io_posix(), path);
    snprintf(path + strlen(path), sizeof(path) - strlen(path), "/offsets.json");
    c->offsets_file = strdup(path);
    struct zl_buf text;
    struct zl_json_doc *doc = NULL;
    const struct zl_json *root = NULL;
    uint64_t at;
    zl_buf_init(&text, FILE_MAX);
    if (zl_io_load(zl_io_posix(), path, &text) >= 0 && text.len &&
        zl_json_parse(zl_buf_as_str(&text), &doc, &root, &at) == ZR_OK) {
        const struct zl_json *table = zl_json_get(root, "offsetTable");
        for (const struct zl_json *e = table ? table->child : NULL; e; e = e->next) stored_add(c, e);
        zl_json_free(doc);
    }
    zl_buf_free(&text);
}

static void file_write(struct zc_consumer *c, const struct zc_offset *list, uint32_t n)
{
    struct zl_buf out;
    struct zl_jw w;
    if (!c->offsets_file || n == 0) return;
    zl_buf_init(&out, FILE_MAX);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_key(&w, zl_str("offsetTable"));
    zl_jw_begin(&w, '{');
    for (uint32_t i = 0; i < n; i++) {
        zl_jw_begin_key(&w);
        zl_jw_begin(&w, '{');
        zl_jw_kstr(&w, "brokerName", zl_str(list[i].queue.broker));
        zl_jw_ki64(&w, "queueId", list[i].queue.queue_id);
        zl_jw_kstr(&w, "topic", zl_str(list[i].queue.topic));
        zl_jw_end(&w, '}');
        zl_jw_end_key(&w);
        zl_jw_i64(&w, list[i].offset);
    }
    zl_jw_end(&w, '}');
    zl_jw_end(&w, '}');
    if (!out.failed) zl_io_replace(zl_io_posix(), c->offsets_file, zl_buf_as_span(&out));
    zl_buf_free(&out);
}

void zc_offsets_commit_all(struct zc_consumer *c)
{
    uint32_t n;
    struct zc_offset *list = offsets_now(c, &n);
    if (!list) return;
    if (c->options.model == ZC_CLUSTERING)
        for (uint32_t i = 0; i < n; i++) zc_offsets_commit_one(c, &list[i].queue, list[i].offset);
    else
        file_write(c, list, n);
    free(list);
}
