/* SPDX-License-Identifier: Apache-2.0 */
/* extents.c - the units of consumequeue_ext (the store's ext.h): each that an entry leads to says what its record says, or is told
 * of. They are a shortcut, so a bad one loses nothing: the store reads the record instead. --repair makes the queue's entries anew,
 * with tags codes in them, and moves the queue's extents aside. */
#include "tool.h"
#include "ext.h"

static int64_t file_of(const struct zt_view *v, const struct zt_queue *q, int64_t address, char *name)
{
    int64_t size = v->st->conf.extent_file_size, base = zs_ext_offset(address) / size * size;
    if (!zs_path(name, "consumequeue_ext/%s/%d/%020lld", q->topic, q->id, (long long)base)) name[0] = 0;
    return zs_ext_offset(address) - base;
}

/* The unit at an address; its bit map is not read. 0: there is none. */
static uint32_t unit_read(const struct zt_view *v, const struct zt_queue *q, int64_t address, struct zs_unit *ret)
{
    char name[ZS_PATH], path[ZS_PATH];
    uint8_t head[ZS_EXT_HEAD];
    const struct zr_io_v1 *io = v->st->io;
    int64_t in = file_of(v, q, address, name);
    if (!name[0] || !zs_path(path, "%s/%s", v->dir, name)) return 0;
    int64_t fd = io->open(io->ctx, path, ZR_IO_READ, 0);
    if (fd < 0) return 0;
    int64_t r = zl_io_read_all(io, (int32_t)fd, head, sizeof head, in);
    io->close(io->ctx, (int32_t)fd);
    return r >= 0 && zs_unit_head(head, ret) && in + ret->size <= v->st->conf.extent_file_size - (int64_t)ZS_EXT_SPARE;
}

void zt_extent_compare(struct zt_queues *qs, struct zt_queue *q, const struct zs_entry *e, const struct zl_record *r)
{
    struct zs_unit u;
    if (e->tags > ZS_EXT_ADDRESS) return;
    uint32_t good = unit_read(qs->v, q, e->tags, &u) && u.store_ms == r->store_ms;
    if (good && !zl_is(r->topic, "SCHEDULE_TOPIC_XXXX")) good = u.tags == zs_tags_of(qs->v->st, r);
    if (good) return;
    pthread_mutex_lock(&q->lock);
    if (q->n_extents_bad++ == 0 || zs_ext_offset(e->tags) < zs_ext_offset(q->extent_bad)) q->extent_bad = e->tags;
    pthread_mutex_unlock(&q->lock);
}

void zt_extents_tell(struct zt_queues *qs)
{
    for (struct zt_queue *q = atomic_load(&qs->all); q; q = q->all) {
        char name[ZS_PATH];
        if (q->n_extents_bad == 0 || q->removed) continue;
        int64_t at = file_of(qs->v, q, q->extent_bad, name);
        zt_find(qs->report, ZT_LEVEL_MEND, "extent.wrong", name, at, -1,
                "nothing is lost: the store reads those records instead; --repair makes the queue's entries anew, without extents",
                "topic %s queue %d: %llu extents, the first of them here, are missing or do not say what their records say", q->topic, q->id,
                (unsigned long long)q->n_extents_bad);
        q->bad = 1;
    }
}

void zt_extents_aside(struct zt_repair *r, const struct zt_queue *q)
{
    char name[ZS_PATH];
    if (q->n_extents_bad == 0 || !zs_path(name, "consumequeue_ext/%s/%d", q->topic, q->id)) return;
    int64_t e = zt_aside(r, name, 0);
    if (e < 0 && e != -ENOENT) zt_repair_fail(r, name, e);
    else zt_did(r, "%s: moved aside; the queue's entries have their tags codes", name);
}

const char *zt_extent_text(const struct zt_view *v, const struct zt_queue *q, const struct zs_entry *e)
{
    static char text[160];
    struct zs_unit u;
    char when[32];
    if (e->tags > ZS_EXT_ADDRESS) return "ok";
    if (!unit_read(v, q, e->tags, &u)) return "ok, but there is no whole extent";
    zt_time_text(when, u.store_ms);
    snprintf(text, sizeof text, "ok; extent at %lld: tags code %lld, stored %s, %u bytes of bit map", (long long)zs_ext_offset(e->tags), (long long)u.tags,
             when, u.n_bits);
    return text;
}
