/* SPDX-License-Identifier: Apache-2.0 */
/* index.c - the index files against themselves and against the log.
 *
 * A file is replayed: each entry must name as its predecessor what its chain's slot held at that moment, and after the last one the
 * slots must be those of the file; so chains have no loops and lose nothing. The log's records then meet the entries in the order of
 * their positions, with one cursor for each file that reaches into the segment: no key is searched, and nothing but the slots of the
 * files in work is in memory. Which keys a record has is told by the store (zs_index_keys). */
#include "index.h"
#include "tool.h"

#define HEAD ZS_INDEX_HEAD
#define ENTRY ZS_INDEX_ENTRY
#define BATCH 4096u
#define MAX_KEYS 4096u /* of one record that are compared */

static int64_t entry_off(const struct zt_ifile *f, int64_t n) { return HEAD + 4 * f->slots + (int64_t)ENTRY * n; }

static uint32_t read_at(int fd, void *to, uint64_t len, int64_t off) { return zt_read(fd, to, len, off) == len; }

/* May the newest file be ahead of, or behind, its header and slots? */
static uint32_t is_moving(const struct zt_index *ix) { return ix->v->live || ix->v->unclean; }

static uint32_t is_name(const char *name)
{
    return strlen(name) == 17 && strspn(name, "0123456789") == 17;
}

static void rel_name(const struct zt_ifile *f, char *to)
{
    if (!zs_path(to, "index/%s", f->name)) to[0] = 0;
}

/* ---- the keys of a record, as the store tells them ---------------------------------------------------------------------- */

struct keys {
    struct zr_inst st; /* a stand-in that has nothing but an index's key buffer; first */
    struct zs_index ix;
    int32_t hash[MAX_KEYS];
    uint32_t n;
};

static struct keys *keys_new(void)
{
    struct keys *k = calloc(1, sizeof *k);
    if (!k) return NULL;
    zl_buf_init(&k->ix.key, 1u << 20);
    k->st.index = &k->ix;
    return k;
}
static void keys_free(struct keys *k)
{
    if (k) zl_buf_free(&k->ix.key);
    free(k);
}
static int64_t key_take(struct zr_inst *st, int32_t hash, const struct zl_record *r)
{
    struct keys *k = (struct keys *)st;
    (void)r;
    if (k->n < MAX_KEYS) k->hash[k->n++] = hash;
    return 0;
}
/* Fills k; the number of keys that must be in an index: older files have no tags. */
static uint32_t keys_of(struct keys *k, const struct zl_record *r)
{
    uint32_t n_put = 0;
    k->n = 0;
    zs_index_keys(&k->st, r, &n_put, key_take);
    return k->n && k->n < MAX_KEYS && zl_props_get(r->properties, "TAGS").len ? k->n - 1 : k->n;
}

/* ---- the shape --------------------------------------------------------------------------------------------------------------- */

/* A shape that is not the usual one shows itself: entry 1 has the header's first position and the hash of a key of that record. The
 * last entry has the header's last position: that is asked when retention took the first record. */
static uint32_t shape_guess(struct zt_view *v, struct zt_ifile *f, uint32_t last)
{
    int64_t phys = last ? f->end_phys : f->begin_phys, before = last ? (int64_t)ENTRY * (f->count - 1) : (int64_t)ENTRY;
    struct zs_scan s = { .st = NULL };
    struct zl_record r;
    const char *why;
    struct keys *k = keys_new();
    uint32_t found = 0;
    if (k && zt_record_at(v, &s, phys, &r, &why)) {
        keys_of(k, &r);
        uint8_t raw[65536 + 64];
        for (int64_t off = HEAD; !found && off + (int64_t)ENTRY <= (int64_t)f->size; off += 65536) {
            int64_t data = zt_seek_data(f->fd, off);
            if (data < 0) break;
            if (data > off) off = HEAD + (data - HEAD) / 4 * 4 > off ? HEAD + (data - HEAD) / 4 * 4 : off;
            int64_t n = (int64_t)zt_read(f->fd, raw, sizeof raw, off);
            for (int64_t i = 0; !found && i + (int64_t)ENTRY <= n && i < 65536; i += 4) {
                if ((int64_t)zl_load64(raw + i + 4) != phys || (!last && zl_load32(raw + i + 16) != 0)) continue;
                if (last && i + 2 * (int64_t)ENTRY <= n && (int64_t)zl_load64(raw + i + ENTRY + 4) == phys) continue; /* not its last key */
                int64_t slots = (off + i - HEAD - before) / 4;
                int32_t hash = (int32_t)zl_load32(raw + i);
                uint32_t known = 0;
                for (uint32_t j = 0; j < k->n; j++) known |= k->hash[j] == hash;
                if (slots < 1 || !known || ((int64_t)f->size - HEAD - 4 * slots) % ENTRY) continue;
                f->slots = slots;
                f->entries = ((int64_t)f->size - HEAD - 4 * slots) / ENTRY;
                found = 1;
            }
        }
    }
    zs_scan_close(&s);
    keys_free(k);
    return found;
}

/* One shape for all: as told, or as usual, or as a file shows it that has the size of most. */
static void shape_choose(struct zt_index *ix)
{
    struct zs_conf *c = &ix->v->st->conf;
    uint64_t best = 0, votes = 0;
    if (ix->v->opt.index_slots || ix->v->opt.index_entries) return;
    for (uint64_t i = 0; i < ix->n; i++) {
        if (ix->files[i].size == best) votes++;
        else if (votes) votes--;
        else best = ix->files[i].size, votes = 1;
    }
    if (best == (uint64_t)(HEAD + 4 * c->index_slots + ENTRY * c->index_entries)) return;
    for (uint64_t i = 0; i < ix->n; i++) {
        struct zt_ifile *f = &ix->files[i];
        if (f->size != best || f->fd < 0 || f->count <= 1 || (!shape_guess(ix->v, f, 0) && !shape_guess(ix->v, f, 1))) continue;
        c->index_slots = f->slots;
        c->index_entries = f->entries;
        return;
    }
}

/* ---- one file by itself --------------------------------------------------------------------------------------------------------- */

struct replay {
    struct zt_index *ix;
    struct zt_ifile *f;
    int32_t *slots;
    int64_t used, before; /* slots in use; the entry before's position */
    uint64_t n_bad, n_order;
    int64_t bad_at;
    const char *bad_why;
    int64_t first_seg, seg_size;
    uint64_t next_seg;
    uint32_t loose; /* what is behind the header's count may be good too */
};

static const char *entry_judge(struct replay *p, int32_t n, const uint8_t *e, int64_t *ret_slot)
{
    int32_t hash = (int32_t)zl_load32(e), diff = (int32_t)zl_load32(e + 12), prev = (int32_t)zl_load32(e + 16);
    int64_t phys = (int64_t)zl_load64(e + 4);
    if (hash < 0 || diff < 0 || phys < 0 || phys > ZS_MAX_POSITION) return "a hash, a position or a time that no entry can have";
    if (hash == 0 && phys == 0 && prev == 0 && (n > 1 || n >= p->f->count)) return "zeroes";
    *ret_slot = hash % p->f->slots;
    return prev == p->slots[*ret_slot] ? NULL : "it does not follow the entry before it in its chain";
}

static void starts_set(struct replay *p, int32_t n, int64_t phys)
{
    while (p->next_seg < p->f->n_seg && phys >= p->first_seg + (int64_t)p->next_seg * p->seg_size) p->f->start[p->next_seg++] = n;
}

/* 0: the end of what can be believed. */
static uint32_t entry_take(struct replay *p, int32_t n, const uint8_t *e)
{
    int64_t slot = -1, phys = (int64_t)zl_load64(e + 4);
    const char *why = entry_judge(p, n, e, &slot);
    if (why) {
        if (n >= p->f->count) return 0;
        if (p->n_bad++ == 0) {
            p->bad_at = entry_off(p->f, n);
            p->bad_why = why;
        }
        if (slot < 0) return 1;
    }
    if (p->slots[slot] == 0) p->used++;
    p->slots[slot] = n;
    if (phys < p->before) {
        p->n_order++;
        return 1;
    }
    p->before = phys;
    if (p->f->first < 0) p->f->first = phys;
    p->f->last = phys;
    starts_set(p, n, phys);
    return 1;
}

static uint32_t entries_replay(struct replay *p)
{
    uint8_t raw[BATCH * ENTRY];
    int64_t limit = p->loose ? p->f->entries : p->f->count, n = 1;
    while (n < limit) {
        int64_t k = limit - n < (int64_t)BATCH ? limit - n : (int64_t)BATCH;
        if (!read_at(p->f->fd, raw, (uint64_t)k * ENTRY, entry_off(p->f, n))) return 0;
        for (int64_t i = 0; i < k; i++, n++)
            if (!entry_take(p, (int32_t)n, raw + i * ENTRY)) {
                limit = n;
                break;
            }
    }
    p->f->good = (int32_t)n;
    return 1;
}

static uint64_t slots_compare(struct replay *p, int64_t *ret_at)
{
    uint8_t raw[65536];
    uint64_t n_bad = 0;
    for (int64_t at = 0; at < p->f->slots;) {
        int64_t k = p->f->slots - at < 16384 ? p->f->slots - at : 16384;
        if (!read_at(p->f->fd, raw, (uint64_t)k * 4, HEAD + 4 * at)) return n_bad;
        for (int64_t i = 0; i < k; i++)
            if ((int32_t)zl_load32(raw + 4 * i) != p->slots[at + i] && n_bad++ == 0) *ret_at = HEAD + 4 * (at + i);
        at += k;
    }
    return n_bad;
}

#define INDEX_DO "the broker makes it anew from the log when it runs; --repair does it now"

static void mend(struct zt_index *ix, struct zt_ifile *f, const char *kind, int64_t at, int64_t len, const char *text)
{
    char rel[ZS_PATH];
    rel_name(f, rel);
    f->bad = 1;
    zt_find(ix->report, ZT_LEVEL_MEND, kind, rel, at, len, INDEX_DO, "%s", text);
}

static void file_tell(struct replay *p, uint32_t newest)
{
    struct zt_ifile *f = p->f;
    char text[256], rel[ZS_PATH];
    uint32_t lag = newest && is_moving(p->ix);
    if (p->n_bad) {
        snprintf(text, sizeof text, "%llu entries are damaged, the first: %s; keys in their chains may not be found", (unsigned long long)p->n_bad, p->bad_why);
        mend(p->ix, f, "index.entry", p->bad_at, ENTRY, text);
    }
    if (p->n_order) {
        rel_name(f, rel);
        zt_find(p->ix->report, ZT_LEVEL_NOTE, "index.order", rel, -1, 0, NULL, "%llu entries lie before their predecessor in the log: records that were indexed a second time", (unsigned long long)p->n_order);
    }
    if (lag || p->n_bad) return;
    int64_t at = -1;
    uint64_t wrong = slots_compare(p, &at);
    if (wrong) {
        snprintf(text, sizeof text, "%llu slots do not name the newest entry of their chain: those keys are not found, or not all", (unsigned long long)wrong);
        mend(p->ix, f, "index.slot", at, 4, text);
    }
    if (f->slots_used != p->used || (f->first >= 0 && p->n_order == 0 && (f->begin_phys != f->first || f->end_phys != f->last))) {
        snprintf(text, sizeof text, "its header does not agree with its entries (positions %lld to %lld, entries %lld to %lld; slots %d, %lld in use)",
                 (long long)f->begin_phys, (long long)f->end_phys, (long long)f->first, (long long)f->last, f->slots_used, (long long)p->used);
        mend(p->ix, f, "index.header", 16, 24, text);
    }
}

struct loading {
    struct zt_index *ix;
    int64_t first_seg, seg_size;
    uint64_t n_seg;
};

static void file_read(void *ctx, uint32_t thread, uint64_t job)
{
    struct loading *l = ctx;
    struct zt_index *ix = l->ix;
    struct zt_ifile *f = &ix->files[job];
    uint32_t newest = job + 1 == ix->n;
    (void)thread;
    if (!f->usable) return;
    struct replay p = { .ix = ix, .f = f, .before = -1, .first_seg = l->first_seg, .seg_size = l->seg_size, .loose = newest && is_moving(ix) };
    p.slots = calloc((size_t)f->slots, sizeof *p.slots);
    f->start = malloc((l->n_seg + 1) * sizeof *f->start);
    f->n_seg = l->n_seg;
    f->first = f->last = -1;
    if (p.slots && f->start && entries_replay(&p)) {
        starts_set(&p, f->good, INT64_MAX);
        file_tell(&p, newest);
    } else {
        f->usable = 0;
        mend(ix, f, "index.unreadable", -1, 0, "it cannot be read");
    }
    free(p.slots);
}

/* ---- all files ------------------------------------------------------------------------------------------------------------------- */

static void head_read(struct zt_index *ix, struct zt_ifile *f)
{
    char path[ZS_PATH];
    uint8_t raw[HEAD];
    struct zr_io_stat st;
    f->fd = zs_path(path, "%s/index/%s", ix->v->dir, f->name) ? (int)zt_open(path, ZR_IO_READ) : -1;
    if (f->fd < 0 || zt_io()->fstat(zt_io()->ctx, f->fd, &st) < 0) {
        if (!ix->v->live) mend(ix, f, "index.unreadable", -1, 0, "it cannot be opened");
        return;
    }
    f->size = st.size;
    if (!read_at(f->fd, raw, HEAD, 0)) {
        mend(ix, f, "index.length", (int64_t)f->size, 0, "it is shorter than its header");
        return;
    }
    f->begin_ms = (int64_t)zl_load64(raw);
    f->end_ms = (int64_t)zl_load64(raw + 8);
    f->begin_phys = (int64_t)zl_load64(raw + 16);
    f->end_phys = (int64_t)zl_load64(raw + 24);
    f->slots_used = (int32_t)zl_load32(raw + 32);
    f->count = (int32_t)zl_load32(raw + 36);
}

static void shape_judge(struct zt_index *ix, struct zt_ifile *f)
{
    char text[160];
    if (f->fd < 0 || f->size < HEAD) return;
    f->slots = ix->v->st->conf.index_slots;
    f->entries = ix->v->st->conf.index_entries;
    f->usable = f->size == (uint64_t)(HEAD + 4 * f->slots + ENTRY * f->entries);
    if (!f->usable && is_moving(ix) && f->count <= 1) return; /* its header is not written yet, and no other file tells the shape */
    if (!f->usable) {
        snprintf(text, sizeof text, "it has %llu bytes; a file of %lld slots and %lld entries has %lld (--index-slots and --index-entries tell another shape)",
                 (unsigned long long)f->size, (long long)f->slots, (long long)f->entries, (long long)(HEAD + 4 * f->slots + ENTRY * f->entries));
        mend(ix, f, "index.length", (int64_t)f->size, 0, text);
    } else if (f->count > f->entries || f->count <= 0) {
        snprintf(text, sizeof text, "its header counts %d entries of %lld", f->count, (long long)f->entries);
        if (f->count != 0) mend(ix, f, "index.header", 36, 4, text);
        f->count = f->count <= 0 ? 1 : (int32_t)f->entries;
    }
}

static void lag_set(struct zt_index *ix)
{
    ix->last = -1;
    for (uint64_t i = 0; i < ix->n; i++) {
        if (ix->files[i].usable) ix->n_entries += (uint64_t)(ix->files[i].good > 0 ? ix->files[i].good - 1 : 0);
        if (ix->files[i].usable && ix->files[i].last > ix->last) ix->last = ix->files[i].last;
    }
    ix->lag_pos = INT64_MAX;
    if (is_moving(ix)) ix->lag_pos = ix->last < 0 && ix->v->snap.valid ? ix->v->snap.index_pos : ix->last;
    else if (ix->v->snap.valid && ix->v->snap.index_pos > 0) ix->lag_pos = ix->v->snap.index_pos;
    if (is_moving(ix) && ix->lag_pos < 0) ix->lag_pos = 0;
}

int zt_index_load(struct zt_index *ix, struct zt_view *v, struct zt_report *report, int64_t first_seg, int64_t seg_size, uint64_t n_seg)
{
    char path[ZS_PATH], rel[ZS_PATH];
    struct zt_names names;
    struct loading l = { ix, first_seg, seg_size, n_seg };
    ix->v = v;
    ix->report = report;
    if (!zs_path(path, "%s/index", v->dir)) return ZT_CANNOT;
    zt_names_load(&names, path);
    ix->files = calloc(names.n + 1, sizeof *ix->files);
    if (!ix->files || names.n > ZT_MAX_FILES) {
        zt_names_free(&names);
        return ZT_CANNOT;
    }
    for (uint64_t i = 0; i < names.n; i++) {
        if (!is_name(names.at[i])) {
            if (zs_path(rel, "index/%s", names.at[i]))
                zt_find(report, ZT_LEVEL_NOTE, "index.stranger", rel, -1, 0, "if you did not put it there, move it away", "it is no index file and is left alone");
            continue;
        }
        struct zt_ifile *f = &ix->files[ix->n++];
        snprintf(f->name, sizeof f->name, "%s", names.at[i]);
        f->fd = -1;
        head_read(ix, f);
    }
    zt_names_free(&names);
    shape_choose(ix);
    for (uint64_t i = 0; i < ix->n; i++) shape_judge(ix, &ix->files[i]);
    zt_parallel(v, ix->n, file_read, &l);
    lag_set(ix);
    return ZT_CLEAN;
}

void zt_index_free(struct zt_index *ix)
{
    for (uint64_t i = 0; i < ix->n; i++) {
        zt_close(ix->files[i].fd);
        free(ix->files[i].start);
    }
    free(ix->files);
    ix->files = NULL;
    ix->n = 0;
}

/* ---- the log's records against the entries -------------------------------------------------------------------------------------- */

struct lane { /* one file's entries of one segment */
    const struct zt_ifile *f;
    int64_t n, before;
    uint8_t raw[BATCH * ENTRY];
    int64_t raw_from, raw_n;
};
struct zt_cursor {
    struct zt_index *ix;
    int64_t seg_end, prev_end;
    uint32_t n_lanes;
    struct lane **lanes;
    struct keys *keys;
};

static const uint8_t *lane_entry(struct lane *l)
{
    if (l->n >= l->f->good) return NULL;
    if (l->n < l->raw_from || l->n >= l->raw_from + l->raw_n) {
        l->raw_from = l->n;
        l->raw_n = l->f->good - l->n < (int64_t)BATCH ? l->f->good - l->n : (int64_t)BATCH;
        if (!read_at(l->f->fd, l->raw, (uint64_t)l->raw_n * ENTRY, entry_off(l->f, l->n))) return NULL;
    }
    return l->raw + (l->n - l->raw_from) * ENTRY;
}

struct zt_cursor *zt_cursor_new(struct zt_index *ix, uint64_t no, int64_t seg_base, int64_t seg_end)
{
    struct zt_cursor *c = calloc(1, sizeof *c);
    if (!c) return NULL;
    c->ix = ix;
    c->seg_end = seg_end;
    c->prev_end = seg_base;
    c->lanes = calloc(ix->n + 1, sizeof *c->lanes);
    c->keys = keys_new();
    for (uint64_t i = 0; c->lanes && c->keys && i < ix->n; i++) {
        const struct zt_ifile *f = &ix->files[i];
        if (!f->usable || f->last < seg_base || f->first >= seg_end || no >= f->n_seg) continue;
        struct lane *l = calloc(1, sizeof *l);
        if (!l) continue;
        l->f = f;
        l->n = f->start[no];
        l->before = seg_base;
        c->lanes[c->n_lanes++] = l;
    }
    return c;
}

static void foreign(struct lane *l, const uint8_t *e, struct zt_segment *g)
{
    if (g->n_foreign++) return;
    g->foreign_phys = (int64_t)zl_load64(e + 4);
    g->foreign_file = (struct zt_ifile *)l->f;
    g->foreign_at = entry_off(l->f, l->n);
}

/* Passes the entries of l that lie before phys; then takes those of phys, crossing out the keys that they name. */
static void lane_meet(struct zt_cursor *c, struct lane *l, int64_t phys, struct zt_segment *g)
{
    const uint8_t *e;
    for (; (e = lane_entry(l)); l->n++) {
        int64_t at = (int64_t)zl_load64(e + 4);
        if (at < l->before || (int32_t)zl_load32(e) < 0 || at > ZS_MAX_POSITION) continue; /* damaged, or a second time: told already */
        if (at > phys) return;
        l->before = at;
        if (at < phys) {
            if (at < c->prev_end) foreign(l, e, g); /* else it lies in a damaged place */
            continue;
        }
        int32_t hash = (int32_t)zl_load32(e);
        uint32_t i = 0;
        while (i < c->keys->n && c->keys->hash[i] != hash) i++;
        if (i == c->keys->n) foreign(l, e, g);
        else c->keys->hash[i] = -1 - hash; /* there */
    }
}

void zt_cursor_record(struct zt_cursor *c, const struct zl_record *r, struct zt_segment *g)
{
    if (!c->keys || !c->lanes) return;
    if (zt_is_filler(r)) return; /* what the index has for it was of a record that is lost */
    uint32_t need = keys_of(c->keys, r), missing = 0;
    for (uint32_t i = 0; i < c->n_lanes; i++) lane_meet(c, c->lanes[i], r->physical_offset, g);
    for (uint32_t i = 0; i < need; i++) { /* a key that is named twice may be crossed out twice or once */
        int32_t hash = c->keys->hash[i];
        uint32_t there = hash < 0;
        for (uint32_t k = 0; !there && k < c->keys->n; k++) there = c->keys->hash[k] == -1 - hash;
        missing += !there;
    }
    c->prev_end = r->physical_offset + r->size;
    if (!missing || r->physical_offset >= c->ix->lag_pos) return;
    if (g->n_unindexed == 0) g->unindexed_from = r->physical_offset;
    g->n_unindexed += missing;
    g->unindexed_to = c->prev_end;
}

void zt_cursor_end(struct zt_cursor *c, struct zt_segment *g)
{
    (void)g;
    for (uint32_t i = 0; c->lanes && i < c->n_lanes; i++) free(c->lanes[i]);
    free(c->lanes);
    keys_free(c->keys);
    free(c);
}

void zt_index_tell(struct zt_index *ix, struct zt_log *lg)
{
    uint64_t missing = 0;
    for (uint64_t i = 0; i < lg->n_segs; i++) missing += lg->segs[i].n_unindexed;
    uint32_t off = ix->n == 0 && ix->v->snap.valid && ix->v->snap.index_pos == 0;
    if (missing && ix->n == 0) {
        zt_find(ix->report, off ? ZT_LEVEL_NOTE : ZT_LEVEL_MEND, "index.missing", "index", -1, 0, off ? NULL : INDEX_DO,
                "there is no index file%s: %llu keys cannot be asked for", off ? " (the index is off)" : "", (unsigned long long)missing);
        return;
    }
    for (uint64_t i = 0; i < lg->n_segs; i++) {
        const struct zt_segment *g = &lg->segs[i];
        char rel[ZS_PATH];
        if (g->base < lg->begin) continue;
        zt_segment_file(lg, g->base, rel);
        if (g->n_unindexed)
            zt_find(ix->report, ZT_LEVEL_MEND, "index.lacks", rel, g->unindexed_from - g->base, g->unindexed_to - g->unindexed_from, INDEX_DO,
                    "the index lacks %llu keys of messages from position %lld to %lld", (unsigned long long)g->n_unindexed, (long long)g->unindexed_from, (long long)g->unindexed_to);
        for (uint64_t k = 0; k < ix->n && g->n_unindexed; k++) /* files that should have them cannot be believed */
            if (ix->files[k].usable && ix->files[k].first < g->unindexed_to && ix->files[k].last >= g->unindexed_from) ix->files[k].bad = 1;
        if (!g->n_foreign) continue;
        rel_name(g->foreign_file, rel);
        g->foreign_file->bad = 1;
        zt_find(ix->report, ZT_LEVEL_MEND, "index.foreign", rel, g->foreign_at, ENTRY, INDEX_DO,
                "%llu entries are for positions whose messages do not have these keys, the first for %lld", (unsigned long long)g->n_foreign, (long long)g->foreign_phys);
    }
}

/* ---- asking ------------------------------------------------------------------------------------------------------------------------ */

uint32_t zt_index_find(struct zt_index *ix, struct zr_str topic, struct zr_str key, int64_t *physical, uint32_t cap)
{
    struct keys *k = keys_new();
    uint32_t n = 0;
    if (!k) return 0;
    int32_t hash = zs_index_hash(&k->ix, topic, key, ZR_KEY_PLAIN);
    for (uint64_t i = ix->n; i-- > 0 && n < cap;) {
        const struct zt_ifile *f = &ix->files[i];
        uint8_t e[ENTRY];
        if (!f->usable || !read_at(f->fd, e, 4, HEAD + 4 * (hash % f->slots))) continue;
        for (int32_t at = (int32_t)zl_load32(e), before = INT32_MAX; at > 0 && at < before && n < cap; before = at, at = (int32_t)zl_load32(e + 16)) {
            if (!read_at(f->fd, e, ENTRY, entry_off(f, at))) break;
            if ((int32_t)zl_load32(e) == hash && (n == 0 || physical[n - 1] != (int64_t)zl_load64(e + 4))) physical[n++] = (int64_t)zl_load64(e + 4);
        }
    }
    keys_free(k);
    return n;
}
