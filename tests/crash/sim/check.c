/* SPDX-License-Identifier: Apache-2.0 */
/* check.c - bed_check: the store is opened on what a crash left, and held against what its clients know.
 *
 *   1. it starts;
 *   2. every message that the promise covers is there, once, at its place, with its bytes; and by key;
 *   3. whatever else is there was sent, belongs there, and is right; nothing of a topic that was removed;
 *   4. offsets go on where they ended; new messages are taken and given back;
 *   5. a second start (after a clean stop, a kill, or a power cut that keeps only what is durable) finds the same. */
#include "bed.h"
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/node.h"
#include "core/core.h"
#include "zl/record.h"
#include "zl/text.h"

#define FRESH 1000000 /* serials of messages sent by the check itself */
#define MAX_FRESH 256

struct check {
    const struct bed *b;   /* what was done */
    struct bed *c;         /* the store under test */
    const struct promise *p;
    const uint8_t *exempt;
    uint64_t seed;
    uint8_t *seen;         /* how often each message was found */
    uint8_t fresh_seen[MAX_FRESH];
    struct sent fresh[MAX_FRESH];
    uint32_t n_fresh;
};

static const char *wrong(struct check *k, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static const char *wrong(struct check *k, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(k->c->why, sizeof k->c->why, fmt, ap);
    va_end(ap);
    return k->c->why;
}

/* The removal that made an end to the message's life of its topic; NULL: none. */
static const struct removal *removal_of(const struct bed *b, const struct sent *m)
{
    uint32_t life = 0;
    for (uint32_t i = 0; i < b->h.n_removals; i++)
        if (b->h.removals[i].topic == m->topic && life++ == m->life) return &b->h.removals[i];
    return NULL;
}

uint32_t bed_required(const struct bed *b, const struct sent *m, const struct promise *p)
{
    const struct removal *r = removal_of(b, m);
    if (m->end == NEVER || m->end > p->at) return 0;
    if (r && r->begin <= p->at) return 0;
    for (uint32_t i = 0; i < b->h.n_cleanings; i++)
        if (b->h.cleanings[i].begin <= p->at && m->phys < b->h.cleanings[i].log_begin) return 0;
    if (b->conf.sync && m->seen <= p->at) return 1;
    return p->killed || m->phys + m->size <= p->flushed;
}

static uint32_t is_forbidden(const struct bed *b, const struct sent *m, const struct promise *p)
{
    const struct removal *r = removal_of(b, m);
    return m->begin > p->at || (r && r->end <= p->at);
}

static uint32_t excused(const struct check *k, uint32_t serial, uint32_t what) { return k->exempt && (k->exempt[serial] & what); }

/* ---- reading it all ------------------------------------------------------------------------------------------------------- */

static const char *judge(struct check *k, const char *topic, int32_t queue, const struct zl_record *r)
{
    uint8_t body[8192];
    char text[24] = { 0 };
    if (r->body.len < 3 || r->body.len > sizeof body || r->body.ptr[0] != 'M') return wrong(k, "a message nobody sent in %s %d at %lld", topic, queue, (long long)r->queue_offset);
    for (uint32_t i = 1; i < 20 && i < r->body.len && r->body.ptr[i] != '/'; i++) text[i - 1] = (char)r->body.ptr[i];
    int64_t serial = atoll(text);
    body_make(body, (uint32_t)r->body.len, serial);
    if (memcmp(body, r->body.ptr, r->body.len) != 0) return wrong(k, "wrong bytes in %s %d at %lld", topic, queue, (long long)r->queue_offset);
    uint32_t fresh = serial >= FRESH && serial < FRESH + k->n_fresh;
    if (!fresh && (serial < 0 || serial >= k->b->h.n_sent)) return wrong(k, "message %lld was never sent", (long long)serial);
    const struct sent *m = fresh ? &k->fresh[serial - FRESH] : &k->b->h.sent[serial];
    uint8_t *seen = fresh ? &k->fresh_seen[serial - FRESH] : &k->seen[serial];
    const char *of = fresh ? k->c->h.topics[m->topic] : k->b->h.topics[m->topic];
    if (r->body.len != m->body) return wrong(k, "message %lld has %u bytes instead of %u", (long long)serial, (unsigned)r->body.len, m->body);
    if (!fresh && excused(k, (uint32_t)serial, MAY_STRAY)) {
        *seen = 1;
        return NULL;
    }
    if (strcmp(of, topic) != 0 || m->queue != queue) return wrong(k, "message %lld of %s %d is in %s %d", (long long)serial, of, m->queue, topic, queue);
    if (!fresh && is_forbidden(k->b, m, k->p) && !excused(k, (uint32_t)serial, MAY_RETURN)) return wrong(k, "message %lld of %s %d is there, but its topic was removed", (long long)serial, topic, queue);
    if (m->end != NEVER && m->end <= k->p->at && r->queue_offset != m->offset)
        return wrong(k, "message %lld of %s %d is at %lld instead of %lld", (long long)serial, topic, queue, (long long)r->queue_offset, (long long)m->offset);
    if (*seen) return wrong(k, "message %lld of %s %d is there twice", (long long)serial, topic, queue);
    *seen = 1;
    return NULL;
}

static const char *read_queue(struct check *k, const char *topic, int32_t queue)
{
    struct zr_queue *q = zs_queue(k->c->st, zl_str(topic), queue, 0);
    struct zr_piece pieces[64];
    int64_t at, max, last = -1;
    zs_bounds(k->c->st, q, &at, &max);
    while (at < max) {
        struct zr_read req = { .hdr = ZR_HDR(struct zr_read, 0), .topic = zl_str(topic), .queue_id = queue, .offset = at,
                               .pieces = pieces, .cap_pieces = 64, .max_messages = 32 };
        struct zr_read_result ret = { .hdr = ZR_HDR(struct zr_read_result, 0) };
        zr_status rc = zs_read(k->c->st, &req, &ret);
        const char *bad = rc != ZR_OK ? wrong(k, "reading %s %d at %lld of %lld answers %d", topic, queue, (long long)at, (long long)max, rc) : NULL;
        for (uint32_t i = 0; !bad && i < ret.n_pieces; i++)
            for (struct zr_span s = { pieces[i].ptr, pieces[i].len }; !bad && s.len;) {
                struct zl_record rec;
                const char *why = "";
                if (zl_record_parse(s, 1, &rec, &why) != ZR_OK) {
                    bad = wrong(k, "a bad record was given from %s %d: %s", topic, queue, why);
                    break;
                }
                if (rec.queue_offset <= last || rec.queue_offset < at || rec.queue_offset >= max)
                    bad = wrong(k, "%s %d: offset %lld after %lld", topic, queue, (long long)rec.queue_offset, (long long)last);
                last = rec.queue_offset;
                if (!bad) bad = judge(k, topic, queue, &rec);
                s.ptr += rec.size;
                s.len -= rec.size;
            }
        if (!bad && ret.next_offset <= at) bad = wrong(k, "reading %s %d at %lld does not go on (%u)", topic, queue, (long long)at, ret.what);
        if (rc == ZR_OK) zs_unpin(k->c->st, ret.pin);
        if (bad) return bad;
        at = ret.next_offset;
    }
    return NULL;
}

struct all_queues {
    struct check *k;
    const char *bad;
    struct {
        char topic[64];
        int32_t id;
    } at[1024];
    uint32_t n;
};
static int32_t one_queue(void *ctx, struct zr_str topic, int32_t id, struct zr_queue *q)
{
    struct all_queues *a = ctx;
    (void)q;
    if (a->n < 1024) {
        snprintf(a->at[a->n].topic, sizeof a->at[0].topic, "%.*s", (int)topic.len, topic.ptr);
        a->at[a->n++].id = id;
    }
    return 0;
}

static const char *read_all(struct check *k)
{
    struct all_queues *a = calloc(1, sizeof *a);
    const char *bad = NULL;
    a->k = k;
    memset(k->seen, 0, k->b->h.n_sent + 1);
    memset(k->fresh_seen, 0, sizeof k->fresh_seen);
    zs_each_queue(k->c->st, one_queue, a);
    for (uint32_t i = 0; i < a->n && !bad; i++) bad = read_queue(k, a->at[i].topic, a->at[i].id);
    free(a);
    for (uint32_t i = 0; i < k->b->h.n_sent && !bad; i++) {
        const struct sent *m = &k->b->h.sent[i];
        if (k->seen[i] || excused(k, i, MAY_MISS) || !bed_required(k->b, m, k->p)) continue;
        struct zr_queue *q = zs_queue(k->c->st, zl_str(k->b->h.topics[m->topic]), m->queue, 0);
        int64_t min, max;
        zs_bounds(k->c->st, q, &min, &max);
        bad = wrong(k, "LOST: message %u of %s %d, offset %lld, at %lld..%lld of the log (flushed %lld); the queue goes from %lld to %lld", i,
                    k->b->h.topics[m->topic], m->queue, (long long)m->offset, (long long)m->phys, (long long)(m->phys + m->size),
                    (long long)k->p->flushed, (long long)min, (long long)max);
    }
    for (uint32_t i = 0; i < k->n_fresh && !bad; i++)
        if (!k->fresh_seen[i] && k->fresh[i].end != NEVER) bad = wrong(k, "LOST: a message sent after the recovery, %s %d offset %lld", k->c->h.topics[k->fresh[i].topic], k->fresh[i].queue, (long long)k->fresh[i].offset);
    return bad;
}

/* ---- by key, by delivery time, documents ------------------------------------------------------------------------------------- */

/* Retention had taken it, and its keys; that the crash brought its segment back is no promise. */
static uint32_t was_cleaned(const struct check *k, const struct sent *m)
{
    for (uint32_t i = 0; i < k->b->h.n_cleanings; i++)
        if (k->b->h.cleanings[i].begin <= k->p->at && m->phys < k->b->h.cleanings[i].log_begin) return 1;
    return 0;
}

static const char *find_keys(struct check *k)
{
    const struct history *h = &k->b->h;
    if (!k->c->conf.index || h->n_sent == 0) return NULL;
    bed_indexed(k->c);
    for (uint32_t i = 0; i < 12; i++) {
        uint32_t serial = (uint32_t)(mix64(k->seed + i) % h->n_sent);
        const struct sent *m = &h->sent[serial];
        char key[32];
        int64_t phys[32];
        if (!m->key || !k->seen[serial] || m->end > k->p->at || was_cleaned(k, m)) continue;
        snprintf(key, sizeof key, "%c%u", i & 1 ? 'U' : 'k', serial);
        int32_t n = zs_find_key(k->c->st, zl_str(h->topics[m->topic]), zl_str(key), i & 1, 0, INT64_MAX, phys, 32), hit = 0;
        for (int32_t j = 0; j < n; j++) hit |= phys[j] == m->phys;
        if (!hit && !excused(k, serial, MAY_MISS | KEY_MISS)) return wrong(k, "message %u of %s (at %lld) is not found by key %s", serial, h->topics[m->topic], (long long)m->phys, key);
    }
    return NULL;
}

static const char *check_delays(struct check *k)
{
    for (uint32_t i = 0; i < k->b->h.n_sent; i++) {
        const struct sent *m = &k->b->h.sent[i];
        int64_t phys, tags;
        uint32_t size;
        if (!m->delivery || !k->seen[i] || excused(k, i, TAGS_OFF | MAY_MISS)) continue;
        struct zr_queue *q = zs_queue(k->c->st, zl_str("SCHEDULE_TOPIC_XXXX"), m->queue, 0);
        if (zs_entries(k->c->st, q, m->offset, &phys, &size, &tags, 1) != 1) return wrong(k, "the entry of delayed message %u cannot be read", i);
        if (m->end <= k->p->at && tags != m->delivery) return wrong(k, "delayed message %u would be delivered at %lld instead of %lld", i, (long long)tags, (long long)m->delivery);
    }
    return NULL;
}

/* With extents an entry's tags code lies elsewhere: it is the message's all the same. */
static const char *check_tags(struct check *k)
{
    for (uint32_t i = 0; i < k->b->h.n_sent && k->c->conf.extents; i++) {
        const struct sent *m = &k->b->h.sent[i];
        int64_t phys, tags;
        uint32_t size;
        char tag[16];
        if (!k->seen[i] || m->delivery || m->end > k->p->at || was_cleaned(k, m) || excused(k, i, TAGS_OFF | MAY_MISS)) continue;
        struct zr_queue *q = zs_queue(k->c->st, zl_str(k->b->h.topics[m->topic]), m->queue, 0);
        if (zs_entries(k->c->st, q, m->offset, &phys, &size, &tags, 1) != 1 || phys != m->phys) continue;
        snprintf(tag, sizeof tag, "t%u", i % 3);
        if (tags != zl_tags_code(zl_str(tag))) return wrong(k, "message %u of queue %d at %lld has the tags code %lld", i, m->queue, (long long)m->offset, (long long)tags);
    }
    return NULL;
}

struct doc_seen {
    int64_t version;
    uint32_t good;
};
static zr_status doc_accept(void *ctx, struct zr_span bytes)
{
    struct doc_seen *d = ctx;
    char text[24] = { 0 };
    for (uint32_t i = 1; i < 20 && i < bytes.len && bytes.ptr[i] != '/'; i++) text[i - 1] = (char)bytes.ptr[i];
    if (bytes.len < 3 || bytes.ptr[0] != 'M') return ZR_ECORRUPT;
    d->version = atoll(text);
    uint8_t *want = malloc(bytes.len);
    body_make(want, (uint32_t)bytes.len, d->version);
    d->good = memcmp(want, bytes.ptr, bytes.len) == 0;
    free(want);
    return d->good ? ZR_OK : ZR_ECORRUPT;
}

static const char *check_docs(struct check *k)
{
    static const char *const names[MAX_DOCS] = { "config/topics.json", "config/consumerOffset.json", "config/subscriptionGroup.json",
                                                 "config/delayOffset.json" };
    const struct history *h = &k->b->h;
    if (h->n_docs == 0) return NULL;
    zk_io_set(&k->c->sim->io);
    zk_node.data_dir = ROOT;
    for (uint32_t d = 0; d < MAX_DOCS; d++) {
        int64_t least = -1, most = -1;
        struct doc_seen seen = { -1, 0 };
        for (uint32_t i = 0; i < h->n_docs; i++) {
            if (h->docs[i].doc != d) continue;
            if (h->docs[i].end <= k->p->at) least = h->docs[i].version;
            if (h->docs[i].begin <= k->p->at) most = h->docs[i].version;
        }
        zr_status rc = zk_state_read(zl_str(names[d]), doc_accept, &seen);
        if (k->p->docs_hurt >> (d + 8) & 1) continue;
        if (k->p->docs_hurt >> d & 1) least = least > 1 ? 1 : least; /* the last good one */
        if (rc == ZR_ENOENT && least < 0) continue;
        if (rc != ZR_OK) return wrong(k, "%s cannot be read (%d), version %lld was written", names[d], rc, (long long)least);
        if (seen.version < least || seen.version > most)
            return wrong(k, "%s has version %lld, not %lld to %lld", names[d], (long long)seen.version, (long long)least, (long long)most);
    }
    return NULL;
}

/* Each row: what was answered for, or something newer; and a second start finds the same. */
static const char *check_rows(struct check *k)
{
    const struct history *h = &k->b->h;
    int64_t least[BED_ROWS] = { 0 }, most[BED_ROWS] = { 0 }, first[BED_ROWS];
    if (h->n_rows == 0) return NULL;
    for (uint32_t i = 0; i < h->n_rows; i++) {
        const struct row_write *w = &h->rows[i];
        if (w->end <= k->p->at && w->version > least[w->row]) least[w->row] = w->version;
        if (w->begin <= k->p->at && w->version > most[w->row]) most[w->row] = w->version;
    }
    if (bed_rows_open(k->c) != ZR_OK) return wrong(k, "the table does not open: %s", k->c->error);
    memcpy(first, k->c->row, sizeof first);
    for (uint32_t i = 0; i < BED_ROWS; i++)
        if (first[i] < least[i] || first[i] > most[i])
            return wrong(k, "row %u has version %lld, not %lld to %lld", i, (long long)first[i], (long long)least[i], (long long)most[i]);
    if (k->seed & 1) bed_row(k->c, 3, ++first[3]);
    if (bed_rows_open(k->c) != ZR_OK) return wrong(k, "the table does not open again: %s", k->c->error);
    if (memcmp(first, k->c->row, sizeof first) != 0) return wrong(k, "a second start finds other rows");
    return NULL;
}

/* A queue may have lost messages, but never goes back: consumers who were further on would miss what comes. */
static const char *check_ends(struct check *k)
{
    for (uint32_t i = 0; k->p->ends_kept && i < k->b->h.n_sent; i++) {
        const struct sent *m = &k->b->h.sent[i];
        int64_t min, max;
        if (m->end == NEVER || m->offset < 0 || removal_of(k->b, m)) continue;
        struct zr_queue *q = zs_queue(k->c->st, zl_str(k->b->h.topics[m->topic]), m->queue, 1);
        zs_bounds(k->c->st, q, &min, &max);
        if (max <= m->offset) return wrong(k, "%s %d ends at %lld: offset %lld would be given out again", k->b->h.topics[m->topic], m->queue, (long long)max, (long long)m->offset);
    }
    return NULL;
}

/* ---- going on ------------------------------------------------------------------------------------------------------------------ */

static const char *append_one(struct check *k, const char *topic, int32_t queue)
{
    uint8_t body[400];
    char props[64];
    struct zr_put p = { .hdr = ZR_HDR(struct zr_put, 0) };
    struct zr_queue *q = zs_queue(k->c->st, zl_str(topic), queue, 1);
    int64_t end, min, max;
    uint32_t i = k->n_fresh, size = 40 + (uint32_t)(mix64(k->seed + i) % 300);
    if (i == MAX_FRESH) return NULL;
    if (k->c->conf.sync) bed_flush(k->c);
    zs_bounds(k->c->st, q, &min, &max);
    body_make(body, size, FRESH + i);
    snprintf(props, sizeof props, "KEYS\001f%u\002", i);
    struct zr_msg m = { .hdr = ZR_HDR(struct zr_msg, 0), .topic = zl_str(topic), .queue_id = queue, .inner_num = 1, .body = { body, size },
                        .properties = { (uint8_t *)props, strlen(props) }, .born_ms = 1700000000000 };
    m.born_host = m.store_host = (struct zr_addr){ { 127, 0, 0, 1 }, 10911, 4 };
    zs_append(k->c->st, &m, 1, &p, &end);
    if (p.status != ZR_OK) return wrong(k, "no message is taken after the recovery: %d %s", p.status, k->c->error);
    if (p.queue_offset != max) return wrong(k, "%s %d ended at %lld, the next message got %lld", topic, queue, (long long)max, (long long)p.queue_offset);
    k->fresh[i] = (struct sent){ .begin = 0, .end = 0, .topic = bed_topic(k->c, topic), .queue = queue, .body = size, .offset = p.queue_offset,
                                 .phys = p.physical_offset, .size = p.size };
    k->n_fresh++;
    return NULL;
}

static const char *append_some(struct check *k)
{
    const struct history *h = &k->b->h;
    const char *bad = append_one(k, "fresh", 0);
    for (uint32_t i = 0; i < 6 && !bad && h->n_sent; i++) {
        const struct sent *m = &h->sent[mix64(k->seed * 3 + i) % h->n_sent];
        if (strcmp(h->topics[m->topic], "SCHEDULE_TOPIC_XXXX") != 0) bad = append_one(k, h->topics[m->topic], m->queue);
    }
    if (!bad) bed_flush(k->c);
    return bad ? bad : k->c->failed ? wrong(k, "the flush after the recovery failed") : NULL;
}

/* Each start may be that of another engine, once the directory has been storage-zstd's. */
static void engine_choose(struct bed *c, const struct bed *b, uint64_t seed)
{
    uint32_t packed = bed_has_packed(c);
    if (packed || b->conf.pack || c->conf.pack) bed_engine(c, !packed && seed % 5 == 0 ? ENGINE_PLAIN : mix64(seed) & 1 ? ENGINE_PACK : ENGINE_EXPAND);
}

/* Stops the store, in one way or another, and starts it again. */
static const char *again(struct check *k)
{
    struct bed *c = k->c;
    uint64_t way = k->seed % 4;
    if (way == 2) { /* killed */
        struct sim *image = sim_copy(c->sim);
        bed_close(c);
        sim_free(c->sim);
        c->sim = image;
    } else {
        bed_close(c);
        if (sim_find(c->sim, ROOT "/abort")) return wrong(k, "the stop was not clean: %s", c->lines);
    }
    if (sim_open_count(c->sim)) return wrong(k, "%llu descriptors or mappings were left", (unsigned long long)sim_open_count(c->sim));
    engine_choose(c, k->b, mix64(k->seed));
    if (bed_open(c) != ZR_OK) return wrong(k, "the second start fails: %s", c->error);
    return NULL;
}

const char *bed_check(const struct bed *b, struct sim *state, const struct promise *p, uint64_t seed, const uint8_t *exempt,
                      char *ret_lines, uint64_t cap_lines)
{
    static char text[3000];
    struct check *k = calloc(1, sizeof *k);
    struct bed *c = bed_new();
    const char *bad = NULL;
    sim_free(c->sim);
    c->sim = state;
    c->conf = b->conf;
    c->wall = atomic_load(&b->wall) + 1000;
    c->conf.checkpoint_interval_ms = seed & 16 ? 3 : 3600000;
    engine_choose(c, b, seed);
    *k = (struct check){ .b = b, .c = c, .p = p, .exempt = exempt, .seed = seed };
    k->seen = calloc(1, b->h.n_sent + 1);
    if (bed_open(c) != ZR_OK) bad = wrong(k, "the store does not start: %s", c->error);
    if (!bad) bad = read_all(k);
    if (p->ret_seen) memcpy(p->ret_seen, k->seen, b->h.n_sent);
    if (!bad) bad = check_ends(k);
    if (!bad) bad = find_keys(k);
    if (!bad) bad = check_delays(k);
    if (!bad) bad = check_tags(k);
    if (!bad) bad = check_docs(k);
    if (!bad) bad = check_rows(k);
    bed_pack(c, seed & 1 ? 2 : 0);
    if (!bad) bad = append_some(k);
    if (ret_lines) snprintf(ret_lines, cap_lines, "%s", c->lines);
    if (!bad) bad = again(k);
    if (!bad) bad = read_all(k);
    if (!bad) bad = find_keys(k);
    if (bad) {
        snprintf(text, sizeof text, "%s", bad);
        if (ret_lines) snprintf(ret_lines + strlen(ret_lines), cap_lines - strlen(ret_lines), "%s", c->lines);
        bad = text;
    }
    bed_close(c);
    free(k->seen);
    free(k);
    bed_free(c);
    return bad;
}
