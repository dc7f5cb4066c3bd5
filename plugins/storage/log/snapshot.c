/* SPDX-License-Identifier: Apache-2.0 */
/* snapshot.c - Zarya's own document of queues beside RocketMQ's files, in <root>/zarya/. A directory without it opens as well
 * (that is what Apache's brokers leave); it makes recovery quick and lets it see damage that the files themselves hide.
 *
 * queues: what every queue had when its entries were last made durable.
 *     0 u64 magic "ZRQUEUE2" | 8 i64 pos | 16 i64 begin | 24 i64 lastPhys | 32 i64 lastMs | 40 i64 indexPos | 48 i64 indexLast | 56 u32 clean
 *    60 u32 count | 64 u32 segmentSize | 68 u32 queueFileSize | count times { i64 min | i64 next | i64 endPhys | i64 firstFile | i32 queueId | u16 len | topic }
 *    u32 CRC-32 of all before
 *   indexLast: the newest record in the index files, -1: none, -2: nobody vouches for them.
 *   All records below pos have their entry in the files. clean: pos is the log's end, and the store was closed. firstFile: the
 *   number of the queue's first file, -1: it has none. segmentSize 0: not known. The first form, "ZRQUEUE1", had
 *   neither sizes nor firstFile.
 *
 * It is written by zl_io_replace: at every instant the document or its .bak is whole. */
#include "index.h"
#include <errno.h>
#include <stdlib.h>

#define MAGIC 0x5A52515545554532ull
#define MAGIC_FIRST 0x5A52515545554531ull
#define HEAD 72u
#define ROW 38u
#define FIRST_HEAD 64u
#define FIRST_ROW 30u
#define MAX_BYTES (1ull << 30)

/* ---- queues ----------------------------------------------------------------------------------------------------------- */

static uint32_t hints_parse(struct zs_snapshot *s)
{
    const uint8_t *p = s->bytes.ptr;
    uint64_t len = s->bytes.len;
    uint32_t second = len >= HEAD + 4 && zl_load64(p) == MAGIC, id_at = second ? 32 : 24, row = second ? ROW : FIRST_ROW;
    if (!second && (len < FIRST_HEAD + 4 || zl_load64(p) != MAGIC_FIRST)) return 0;
    if (zl_crc32(0, p, len - 4) != zl_load32(p + len - 4)) return 0;
    s->pos = (int64_t)zl_load64(p + 8);
    s->begin = (int64_t)zl_load64(p + 16);
    s->last_phys = (int64_t)zl_load64(p + 24);
    s->last_ms = (int64_t)zl_load64(p + 32);
    s->index_pos = (int64_t)zl_load64(p + 40);
    s->index_last = (int64_t)zl_load64(p + 48);
    s->clean = zl_load32(p + 56);
    s->segment_size = second ? zl_load32(p + 64) : 0;
    s->queue_file_size = second ? zl_load32(p + 68) : 0;
    uint64_t n = zl_load32(p + 60), at = second ? HEAD : FIRST_HEAD;
    if (n > len / row) return 0;
    s->hints = calloc(n + 1, sizeof *s->hints);
    if (!s->hints) return 0;
    for (uint64_t i = 0; i < n; i++) {
        struct zs_hint *h = &s->hints[i];
        if (at + row > len - 4) return 0;
        h->min = (int64_t)zl_load64(p + at);
        h->next = (int64_t)zl_load64(p + at + 8);
        h->end_phys = (int64_t)zl_load64(p + at + 16);
        h->first_file = second ? (int64_t)zl_load64(p + at + 24) : ZS_NONE;
        h->id = (int32_t)zl_load32(p + at + id_at);
        h->topic = (struct zr_str){ (const char *)p + at + row, zl_load16(p + at + id_at + 4) };
        at += row + h->topic.len;
        if (at > len - 4 || zs_queue_name_ok(h->topic) != ZR_OK || h->min < 0 || h->next < h->min || h->id < 0) return 0;
    }
    s->n = n;
    return at == len - 4;
}

void zs_snapshot_free(struct zs_snapshot *s)
{
    zl_buf_free(&s->bytes);
    free(s->hints);
    s->hints = NULL;
    s->n = 0;
}

void zs_snapshot_load(struct zr_inst *st, struct zs_snapshot *ret)
{
    static const char *const endings[2] = { "", ".bak" };
    char path[ZS_PATH];
    memset(ret, 0, sizeof *ret);
    for (int i = 0; i < 2 && !ret->valid; i++) {
        zl_buf_init(&ret->bytes, MAX_BYTES);
        if (!zs_path(path, "%s/queues%s", st->own_dir, endings[i])) return;
        int64_t r = zl_io_load(st->io, path, &ret->bytes);
        if (r < 0 && r != -ENOENT) zs_log(st, ZR_LOG_WARN, "%s cannot be read: %s", path, zs_errno_text(r));
        if (r >= 0) {
            ret->valid = hints_parse(ret);
            if (!ret->valid) zs_log(st, ZR_LOG_WARN, "%s is damaged and is not used", path);
            if (i && ret->valid) zs_log(st, ZR_LOG_WARN, "%s is used in place of the newer one, which is missing or damaged", path);
            if (i) ret->clean = ret->queue_file_size = 0; /* one that was replaced: older than the last stop */
        }
        if (!ret->valid) zs_snapshot_free(ret);
    }
}

static void hint_add(struct zr_inst *st, struct zl_buf *out, struct zr_queue *q)
{
    int64_t min = zs_queue_min(st, q);
    zl_buf_be64(out, (uint64_t)(min < q->synced ? min : q->synced));
    zl_buf_be64(out, (uint64_t)q->synced);
    zl_buf_be64(out, (uint64_t)q->synced_end);
    zl_buf_be64(out, (uint64_t)q->first_file);
    zl_buf_be32(out, (uint32_t)q->id);
    zl_buf_be16(out, (uint16_t)q->topic_len);
    zl_buf_add(out, q->topic, q->topic_len);
}

int64_t zs_snapshot_save(struct zr_inst *st, int64_t pos, int64_t last_phys, int64_t last_ms, uint32_t clean)
{
    char path[ZS_PATH];
    struct zl_buf out;
    uint64_t n;
    uint32_t rows = 0;
    struct zr_queue **at = zs_queues_list(st, &n);
    if (!at || !zs_path(path, "%s/queues", st->own_dir)) {
        free(at);
        return -ENOMEM;
    }
    zl_buf_init(&out, MAX_BYTES);
    zl_buf_be64(&out, MAGIC);
    zl_buf_be64(&out, (uint64_t)pos);
    zl_buf_be64(&out, (uint64_t)atomic_load(&st->begin));
    zl_buf_be64(&out, (uint64_t)last_phys);
    zl_buf_be64(&out, (uint64_t)last_ms);
    zl_buf_be64(&out, (uint64_t)zs_index_saved_pos(st));
    zl_buf_be64(&out, (uint64_t)zs_index_saved_last(st));
    zl_buf_be32(&out, clean);
    zl_buf_be32(&out, 0);
    zl_buf_be32(&out, (uint32_t)st->segs.size);
    zl_buf_be32(&out, (uint32_t)st->conf.queue_file_size);
    pthread_mutex_lock(&st->drain_lock);
    for (uint64_t i = 0; i < n; i++) {
        if (at[i]->synced == 0 || atomic_load(&at[i]->dead)) continue; /* never used */
        hint_add(st, &out, at[i]);
        rows++;
    }
    pthread_mutex_unlock(&st->drain_lock);
    free(at);
    int64_t r = -ENOMEM;
    if (!out.failed) {
        zl_store32(out.ptr + 60, rows);
        zl_buf_be32(&out, zl_crc32(0, out.ptr, out.len));
        if (!out.failed) r = zl_io_replace(st->io, path, zl_buf_as_span(&out));
    }
    zl_buf_free(&out);
    return r;
}
