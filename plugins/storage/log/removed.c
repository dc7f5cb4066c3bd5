/* SPDX-License-Identifier: Apache-2.0 */
/* removed.c - the note of removed topics, <root>/zarya/removed: a line "position topic" for each. Records of that topic below
 * that position belong to no queue, and no recovery may give them one. A line is dropped when the log begins behind it.
 *
 * What stays true:
 *   1. A removal costs one line at the end of the file and one sync, however many there were before; a lookup costs a hash.
 *   2. Of several lines of a topic the farthest counts. A last line without its end was torn, and was never answered: it is
 *      passed over. The file is written anew (zl_io_replace: whole at every instant) when a line could not be added, when
 *      most lines are outdated, and when the log's begin has passed some.
 *   3. The line of the newest removal is the last, so that a start knows which folder a kill may have left (zs_removed_finish).
 *   4. A file that is there and cannot be read ends the start: without it removed messages would be there again. A line that says
 *      nothing is kept word for word.
 *   5. What could not be written is known in memory at once and written with the next save.
 *
 * LOCKING: removed_lock, over its own file's operations too. */
#include "vouch.h"
#include <errno.h>
#include <stdlib.h>

#define MAX_BYTES (1ull << 30)
#define LINE 512u
#define OLD_LINES 64u /* outdated lines that are no reason to write anew */

struct zs_removed {
    struct zs_removed *next;
    int64_t position; /* records below it belong to no queue */
    uint64_t hash;
    uint32_t len;
    char topic[];
};

static struct zs_removed *find(struct zs_removals *t, struct zr_str topic, uint64_t hash)
{
    if (t->n_buckets == 0) return NULL;
    for (struct zs_removed *r = t->buckets[hash & (t->n_buckets - 1)]; r; r = r->next)
        if (r->hash == hash && r->len == topic.len && memcmp(r->topic, topic.ptr, topic.len) == 0) return r;
    return NULL;
}

static uint32_t grow(struct zs_removals *t)
{
    if (atomic_load(&t->n) < t->n_buckets) return 1;
    uint64_t n = t->n_buckets ? t->n_buckets * 2 : 64;
    struct zs_removed **b = calloc(n, sizeof *b);
    if (!b) return t->n_buckets != 0;
    for (uint64_t i = 0; i < t->n_buckets; i++)
        for (struct zs_removed *r = t->buckets[i], *next; r; r = next) {
            next = r->next;
            r->next = b[r->hash & (n - 1)];
            b[r->hash & (n - 1)] = r;
        }
    free(t->buckets);
    t->buckets = b;
    t->n_buckets = n;
    return 1;
}

static uint32_t put(struct zs_removals *t, struct zr_str topic, int64_t position)
{
    uint64_t hash = zl_hash(topic.ptr, topic.len);
    struct zs_removed *r = find(t, topic, hash);
    if (r) {
        if (position > r->position) r->position = position;
        t->last = r;
        return 1;
    }
    if (!grow(t) || !(r = malloc(sizeof *r + topic.len))) return 0;
    *r = (struct zs_removed){ .next = t->buckets[hash & (t->n_buckets - 1)], .position = position, .hash = hash, .len = (uint32_t)topic.len };
    memcpy(r->topic, topic.ptr, topic.len);
    t->buckets[hash & (t->n_buckets - 1)] = r;
    atomic_fetch_add(&t->n, 1);
    t->last = r;
    return 1;
}

/* The newest of the two that is there. 0: there is none; -errno: it cannot be read, and the older one does not say all. */
static int64_t load(struct zr_inst *st, struct zl_buf *text, char *path)
{
    static const char *const endings[2] = { "", ".bak" };
    int64_t r = -ENOENT;
    for (int i = 0; i < 2 && r == -ENOENT; i++) r = zs_path(path, "%s/removed%s", st->own_dir, endings[i]) ? zl_io_load(st->io, path, text) : -ENAMETOOLONG;
    return r == -ENOENT ? 0 : r;
}

/* 1: the line says something; 0: it does not, and is kept as it is; -ENOMEM. */
static int64_t take_line(struct zs_removals *t, struct zr_str line)
{
    struct zr_str topic = line, number;
    int64_t position;
    if (!zl_split(&topic, ' ', &number) || zl_parse_i64(number, &position) != ZR_OK || zs_queue_name_ok(topic) != ZR_OK) {
        t->n_odd++;
        zl_buf_add(&t->odd, line.ptr, line.len);
        zl_buf_u8(&t->odd, '\n');
        return t->odd.failed ? -ENOMEM : 0;
    }
    return put(t, topic, position) ? 1 : -ENOMEM;
}

zr_status zs_removed_load(struct zr_inst *st)
{
    struct zs_removals *t = &st->removals;
    char path[ZS_PATH];
    struct zl_buf text;
    zl_buf_init(&text, MAX_BYTES);
    zl_buf_init(&t->odd, MAX_BYTES);
    int64_t r = load(st, &text, path);
    struct zr_str rest = zl_buf_as_str(&text), line;
    while (r >= 0 && rest.len && memchr(rest.ptr, '\n', rest.len) && zl_split(&rest, '\n', &line)) {
        t->lines++;
        r = take_line(t, line);
    }
    if (rest.len) t->dirty = 1;
    zl_buf_free(&text);
    if (r < 0)
        return zs_raise(st, zs_status_of(r), r, "%s cannot be read: %s; it says which topics were removed, and their messages would be there again: mend it, or move it away to have them back",
                        path, zs_errno_text(r));
    if (t->n_odd) zs_log(st, ZR_LOG_ERROR, "%s: %llu lines name no removed topic and are damaged; they are kept as they are", path, (unsigned long long)t->n_odd);
    return ZR_OK;
}

static void line_of(struct zl_buf *out, const struct zs_removed *r)
{
    zl_buf_i64(out, r->position);
    zl_buf_u8(out, ' ');
    zl_buf_add(out, r->topic, r->len);
    zl_buf_u8(out, '\n');
}

/* Writes the file anew. Under the lock. */
static int64_t rewrite(struct zr_inst *st)
{
    struct zs_removals *t = &st->removals;
    char path[ZS_PATH];
    struct zl_buf out;
    if (!zs_path(path, "%s/removed", st->own_dir)) return -ENAMETOOLONG;
    zl_buf_init(&out, MAX_BYTES);
    zl_buf_add(&out, t->odd.ptr, t->odd.len);
    for (uint64_t i = 0; i < t->n_buckets; i++)
        for (const struct zs_removed *r = t->buckets[i]; r; r = r->next)
            if (r != t->last) line_of(&out, r);
    if (t->last) line_of(&out, t->last);
    int64_t r = out.failed ? -ENOMEM : zl_io_replace(st->io, path, zl_buf_as_span(&out));
    zl_buf_free(&out);
    t->dirty = r < 0;
    if (r >= 0) t->lines = atomic_load(&t->n) + t->n_odd;
    return r;
}

/* Adds one line to the file. Under the lock. */
static int64_t add_line(struct zr_inst *st, struct zr_str topic, int64_t position)
{
    char path[ZS_PATH], line[LINE];
    struct zr_io_stat stat;
    uint32_t n = zl_print_i64(line, position);
    if (topic.len > sizeof line - n - 2 || !zs_path(path, "%s/removed", st->own_dir)) return -ENAMETOOLONG;
    line[n++] = ' ';
    memcpy(line + n, topic.ptr, topic.len);
    n += (uint32_t)topic.len;
    line[n++] = '\n';
    int64_t fd = st->io->open(st->io->ctx, path, ZR_IO_READ | ZR_IO_WRITE, 0);
    if (fd < 0) return fd; /* there is none yet */
    int64_t r = st->io->fstat(st->io->ctx, (int32_t)fd, &stat);
    if (r >= 0) r = zl_io_write_all(st->io, (int32_t)fd, line, n, (int64_t)stat.size);
    if (r >= 0) r = st->io->fdatasync(st->io->ctx, (int32_t)fd);
    st->io->close(st->io->ctx, (int32_t)fd);
    return r;
}

int64_t zs_removed_add(struct zr_inst *st, struct zr_str topic, int64_t position)
{
    struct zs_removals *t = &st->removals;
    pthread_mutex_lock(&st->removed_lock);
    int64_t r = put(t, topic, position) ? 0 : -ENOMEM;
    if (r >= 0 && (t->dirty || t->lines - t->n_odd > 2 * atomic_load(&t->n) + OLD_LINES || add_line(st, topic, position) < 0)) r = rewrite(st);
    else if (r >= 0) t->lines++;
    pthread_mutex_unlock(&st->removed_lock);
    return r;
}

int64_t zs_removed_know(struct zr_inst *st, struct zr_str topic, int64_t position)
{
    pthread_mutex_lock(&st->removed_lock);
    int64_t r = put(&st->removals, topic, position) ? 0 : -ENOMEM;
    st->removals.dirty = 1;
    pthread_mutex_unlock(&st->removed_lock);
    return r;
}

int64_t zs_removed_save(struct zr_inst *st)
{
    pthread_mutex_lock(&st->removed_lock);
    int64_t r = st->removals.dirty ? rewrite(st) : 0;
    pthread_mutex_unlock(&st->removed_lock);
    return r;
}

int64_t zs_removed_cut(struct zr_inst *st, int64_t end)
{
    struct zs_removals *t = &st->removals;
    uint32_t cut = 0;
    pthread_mutex_lock(&st->removed_lock);
    for (uint64_t i = 0; i < t->n_buckets; i++)
        for (struct zs_removed *r = t->buckets[i]; r; r = r->next)
            if (r->position > end) {
                r->position = end;
                cut = 1;
            }
    if (cut) t->dirty = 1;
    int64_t r = cut ? rewrite(st) : 0;
    pthread_mutex_unlock(&st->removed_lock);
    return r;
}

void zs_removed_cap(struct zr_inst *st, const struct zs_vouch *v, int64_t position)
{
    struct zs_removals *t = &st->removals;
    pthread_mutex_lock(&st->removed_lock);
    for (uint64_t i = 0; i < t->n_buckets; i++)
        for (struct zs_removed *r = t->buckets[i]; r; r = r->next)
            if (r->position > position && zs_vouch_named(v, (struct zr_str){ r->topic, r->len })) {
                r->position = position;
                t->dirty = 1;
            }
    pthread_mutex_unlock(&st->removed_lock);
}

uint32_t zs_removed_covers(struct zr_inst *st, struct zr_str topic, int64_t phys)
{
    if (atomic_load_explicit(&st->removals.n, memory_order_acquire) == 0) return 0;
    uint64_t hash = zl_hash(topic.ptr, topic.len);
    pthread_mutex_lock(&st->removed_lock);
    const struct zs_removed *r = find(&st->removals, topic, hash);
    uint32_t covered = r && phys < r->position;
    pthread_mutex_unlock(&st->removed_lock);
    return covered;
}

struct zr_str zs_removed_last(struct zr_inst *st)
{
    const struct zs_removed *r = st->removals.last;
    return r ? (struct zr_str){ r->topic, r->len } : (struct zr_str){ NULL, 0 };
}

void zs_removed_prune(struct zr_inst *st)
{
    struct zs_removals *t = &st->removals;
    int64_t begin = atomic_load(&st->begin);
    uint64_t gone = 0;
    pthread_mutex_lock(&st->removed_lock);
    for (uint64_t i = 0; i < t->n_buckets; i++)
        for (struct zs_removed **p = &t->buckets[i], *r = *p; r; r = *p) {
            if (r->position > begin) {
                p = &r->next;
                continue;
            }
            *p = r->next;
            if (t->last == r) t->last = NULL;
            free(r);
            gone++;
        }
    atomic_fetch_sub(&t->n, gone);
    if (gone) rewrite(st);
    pthread_mutex_unlock(&st->removed_lock);
}

void zs_removed_free(struct zr_inst *st)
{
    struct zs_removals *t = &st->removals;
    for (uint64_t i = 0; i < t->n_buckets; i++)
        for (struct zs_removed *r = t->buckets[i], *next; r; r = next) {
            next = r->next;
            free(r);
        }
    free(t->buckets);
    zl_buf_free(&t->odd);
    *t = (struct zs_removals){ 0 };
}
