/* SPDX-License-Identifier: Apache-2.0 */
/* show.c - `show`: records around a position, a queue's entries, a look into the index, a message by id, the segments. */
#include "tool.h"

struct out {
    uint32_t json;
    struct zl_buf buf;
    struct zl_jw w;
};

static void out_begin(struct out *o, uint32_t json)
{
    o->json = json;
    zl_buf_init(&o->buf, 1u << 30);
    zl_jw_init(&o->w, &o->buf, 0);
    if (json) zl_jw_begin(&o->w, '[');
}
static void out_end(struct out *o)
{
    if (o->json) {
        zl_jw_end(&o->w, ']');
        printf("%.*s\n", (int)o->buf.len, (const char *)o->buf.ptr);
    }
    zl_buf_free(&o->buf);
}

/* ---- one record -------------------------------------------------------------------------------------------------------- */

/* Valid UTF-8 without control characters but tab and line feed? */
static uint32_t is_text(struct zr_span b)
{
    for (uint64_t i = 0; i < b.len;) {
        uint8_t c = b.ptr[i++];
        uint32_t more = c < 0x80 ? 0 : c >= 0xC2 && c < 0xE0 ? 1 : c >= 0xE0 && c < 0xF0 ? 2 : c >= 0xF0 && c < 0xF5 ? 3 : 9;
        if (more == 9 || (c < 0x20 && c != '\t' && c != '\n' && c != '\r') || c == 0x7F) return 0;
        for (; more; more--)
            if (i == b.len || (b.ptr[i++] & 0xC0) != 0x80) return 0;
    }
    return 1;
}

static void hex_print(struct zr_span b, uint64_t max)
{
    uint64_t n = b.len < max ? b.len : max;
    for (uint64_t i = 0; i < n; i += 16) {
        printf("    %06llx ", (unsigned long long)i);
        for (uint64_t k = i; k < i + 16; k++) k < n ? printf(" %02x", b.ptr[k]) : printf("   ");
        printf("  ");
        for (uint64_t k = i; k < i + 16 && k < n; k++) putchar(b.ptr[k] >= 0x20 && b.ptr[k] < 0x7F ? b.ptr[k] : '.');
        putchar('\n');
    }
    if (n < b.len) printf("    ... %llu more bytes (--json has all)\n", (unsigned long long)(b.len - n));
}

static void safe_print(struct zr_str s) /* a terminal must not be written to by a message */
{
    for (uint64_t i = 0; i < s.len; i++) (uint8_t)s.ptr[i] < 0x20 || s.ptr[i] == 0x7F ? printf("\\x%02x", (uint8_t)s.ptr[i]) : putchar(s.ptr[i]);
}

static void record_text(const struct zl_record *r)
{
    char born[64], store[64], at_born[32], at_store[32], id[64];
    struct zr_str name, value;
    uint64_t pos = 0;
    born[zl_addr_print(born, &r->born_host)] = 0;
    store[zl_addr_print(store, &r->store_host)] = 0;
    zt_time_text(at_born, r->born_ms);
    zt_time_text(at_store, r->store_ms);
    id[zl_offset_id(id, &r->store_host, r->physical_offset)] = 0;
    printf("record at %lld, %u bytes, version %d\n", (long long)r->physical_offset, r->size, r->magic == ZL_MAGIC_V2 ? 2 : 1);
    printf("  topic %.*s, queue %d, offset %lld; id %s\n", (int)r->topic.len, r->topic.ptr, r->queue_id, (long long)r->queue_offset, id);
    printf("  stored %s (%lld) by %s; born %s (%lld) at %s\n", at_store, (long long)r->store_ms, store, at_born, (long long)r->born_ms, born);
    printf("  flag %d, sysFlag 0x%x, reconsumeTimes %d, preparedTransactionOffset %lld, bodyCRC %u\n", r->flag, (unsigned)r->sys_flag, r->reconsume_times,
           (long long)r->prepared_offset, r->body_crc);
    while (zl_props_next(r->properties, &pos, &name, &value)) {
        printf("  ");
        safe_print(name);
        printf(" = ");
        safe_print(value);
        putchar('\n');
    }
    printf("  body, %llu bytes:\n", (unsigned long long)r->body.len);
    if (is_text(r->body) && r->body.len <= 4096) printf("    %.*s\n", (int)r->body.len, (const char *)r->body.ptr);
    else hex_print(r->body, 256);
}

static void record_json(struct zl_jw *w, const struct zl_record *r)
{
    char text[64], *hex;
    struct zr_str name, value;
    uint64_t pos = 0;
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "physicalOffset", r->physical_offset);
    zl_jw_ki64(w, "size", r->size);
    zl_jw_ki64(w, "magic", r->magic);
    zl_jw_kstr(w, "topic", r->topic);
    zl_jw_ki64(w, "queueId", r->queue_id);
    zl_jw_ki64(w, "queueOffset", r->queue_offset);
    zl_jw_ki64(w, "flag", r->flag);
    zl_jw_ki64(w, "sysFlag", r->sys_flag);
    zl_jw_ki64(w, "bornTimestamp", r->born_ms);
    zl_jw_kstr(w, "bornHost", (struct zr_str){ text, zl_addr_print(text, &r->born_host) });
    zl_jw_ki64(w, "storeTimestamp", r->store_ms);
    zl_jw_kstr(w, "storeHost", (struct zr_str){ text, zl_addr_print(text, &r->store_host) });
    zl_jw_kstr(w, "msgId", (struct zr_str){ text, zl_offset_id(text, &r->store_host, r->physical_offset) });
    zl_jw_ki64(w, "reconsumeTimes", r->reconsume_times);
    zl_jw_ki64(w, "preparedTransactionOffset", r->prepared_offset);
    zl_jw_ki64(w, "bodyCRC", r->body_crc);
    zl_jw_key(w, zl_str("properties"));
    zl_jw_begin(w, '{');
    while (zl_props_next(r->properties, &pos, &name, &value)) {
        zl_jw_key(w, name);
        zl_jw_str(w, value);
    }
    zl_jw_end(w, '}');
    zl_jw_ki64(w, "bodyBytes", (int64_t)r->body.len);
    if (is_text(r->body)) {
        zl_jw_kstr(w, "body", (struct zr_str){ (const char *)r->body.ptr, r->body.len });
    } else if ((hex = malloc(r->body.len * 2 + 1))) {
        for (uint64_t i = 0; i < r->body.len; i++) snprintf(hex + 2 * i, 3, "%02x", r->body.ptr[i]);
        zl_jw_kstr(w, "bodyHex", (struct zr_str){ hex, r->body.len * 2 });
        free(hex);
    }
    zl_jw_end(w, '}');
}

static void record_out(struct out *o, const struct zl_record *r)
{
    if (o->json) record_json(&o->w, r);
    else record_text(r);
}

/* ---- around a position ---------------------------------------------------------------------------------------------------- */

/* To the next valid record. 0: there is none, or the disk does not give what follows, which is said. */
static int scan_on(struct zs_scan *s)
{
    s->failed = s->shut = 0;
    if (zs_scan_resync(s)) return 1;
    if (s->failed || s->shut) fprintf(stderr, "zaryactl-store: the log cannot be read behind position %lld\n", (long long)s->pos);
    return 0;
}

/* The record that begins at `at`, or the one before it, or the next; found by reading its segment from the begin. */
static int show_at(struct zt_view *v, struct out *o, int64_t at, int64_t n)
{
    struct zs_scan s;
    struct zl_record r;
    int64_t base = zt_seg_base(v, at), start = base, limit = zs_segs_last(v->st) + v->st->segs.size;
    if (base < 0 || at >= limit) {
        fprintf(stderr, "zaryactl-store: position %lld lies outside the log\n", (long long)at);
        return ZT_MENDABLE;
    }
    zs_scan_open(&s, v->st, base, limit, 0);
    for (int what; s.pos <= at && (what = zs_scan_next(&s, &r)) != ZS_SCAN_END;) {
        if (what == ZS_SCAN_STOP) break;
        if (what == ZS_SCAN_BAD) {
            int64_t from = s.pos;
            if (!scan_on(&s)) break;
            if (from <= at && s.pos > at && !o->json)
                printf("position %lld lies in a damaged place: no valid record from %lld to %lld\n", (long long)at, (long long)from, (long long)s.pos);
            start = s.pos;
        } else {
            start = r.physical_offset;
        }
    }
    zs_scan_close(&s);
    zs_scan_open(&s, v->st, start, limit, 1);
    int64_t shown = 0;
    while (shown < n) {
        int what = zs_scan_next(&s, &r);
        if (what == ZS_SCAN_BAD) {
            int64_t from = s.pos;
            const char *why = s.why;
            if (!scan_on(&s)) break;
            if (!o->json) printf("no valid record from %lld to %lld: %s\n", (long long)from, (long long)s.pos, why);
            continue;
        }
        if (what != ZS_SCAN_RECORD) break;
        record_out(o, &r);
        shown++;
    }
    zs_scan_close(&s);
    if (!shown && !o->json) printf("no record at or behind %lld\n", (long long)at);
    return shown ? ZT_CLEAN : ZT_MENDABLE;
}

/* ---- a queue's entries --------------------------------------------------------------------------------------------------------- */

static void entry_out(struct out *o, int64_t offset, const struct zs_entry *e, const char *what)
{
    if (!o->json) {
        printf("%12lld  at %14lld, %8d bytes, tags code %lld  %s\n", (long long)offset, (long long)e->phys, e->size, (long long)e->tags, what);
        return;
    }
    zl_jw_begin(&o->w, '{');
    zl_jw_ki64(&o->w, "offset", offset);
    zl_jw_ki64(&o->w, "physicalOffset", e->phys);
    zl_jw_ki64(&o->w, "size", e->size);
    zl_jw_ki64(&o->w, "tagsCode", e->tags);
    zl_jw_kstr(&o->w, "state", zl_str(what));
    zl_jw_end(&o->w, '}');
}

static const char *entry_state(struct zt_view *v, struct zs_scan *s, const struct zt_queue *q, int64_t offset, const struct zs_entry *e)
{
    struct zl_record r;
    const char *why = "";
    if (e->size == ZS_FILLER) return "marked as lost";
    if (e->size == 0) return "missing";
    if (e->phys < atomic_load(&v->st->begin)) return "expired";
    if (!zt_record_at(v, s, e->phys, &r, &why)) return "no valid record is there";
    if (r.queue_id != q->id || r.queue_offset != offset || !zl_is(r.topic, q->topic) || (int32_t)r.size != e->size) return "another record is there";
    return zt_extent_text(v, q, e);
}

static int show_queue(struct zt_view *v, struct out *o, const struct zt_show *what, int64_t n)
{
    struct zt_report report;
    struct zt_queues *qs = calloc(1, sizeof *qs);
    struct zt_windows *w = zt_windows_new();
    struct zs_scan s = { .st = NULL };
    const char *slash = strrchr(what->queue, '/');
    int32_t id;
    int rc = ZT_MENDABLE;
    zt_report_init(&report);
    if (qs && w && slash && zl_parse_i32(zl_str(slash + 1), &id) == ZR_OK && zt_queues_load(qs, v, &report) == ZT_CLEAN) {
        struct zt_queue *q = zt_queue_get(qs, (struct zr_str){ what->queue, (uint64_t)(slash - what->queue) }, id, 0);
        int64_t end = q && q->n_files ? (q->files[q->n_files - 1].base + qs->file_size) / ZS_ENTRY : 0, from = what->from, shown = 0;
        if (q && q->n_files && from < 0) from = q->files[0].base / ZS_ENTRY;
        if (!q || !q->n_files) fprintf(stderr, "zaryactl-store: there is no queue %s\n", what->queue);
        for (int64_t zero = 0; q && from < end && shown < n; from++) {
            struct zs_entry e;
            if (!zt_entry_at(qs, w, q, from, &e)) { /* shown only if something follows */
                zero++;
                continue;
            }
            if (zero && shown && !o->json) printf("%12lld  %lld entries are missing\n", (long long)(from - zero), (long long)zero);
            zero = 0;
            entry_out(o, from, &e, entry_state(v, &s, q, from, &e));
            shown++;
            rc = ZT_CLEAN;
        }
    } else {
        fprintf(stderr, "zaryactl-store: --queue is TOPIC/ID\n");
    }
    zs_scan_close(&s);
    zt_windows_free(w);
    if (qs) zt_queues_free(qs);
    zt_report_free(&report);
    return rc;
}

/* ---- keys, ids, segments -------------------------------------------------------------------------------------------------------- */

static int show_key(struct zt_view *v, struct out *o, const struct zt_show *what, int64_t n)
{
    struct zt_report report;
    struct zt_index ix = { 0 };
    struct zs_scan s = { .st = NULL };
    struct zl_record r;
    const char *why;
    int64_t first = zs_segs_first(v->st), *at = malloc((size_t)n * sizeof *at);
    uint64_t shown = 0;
    zt_report_init(&report);
    if (at && zt_index_load(&ix, v, &report, first < 0 ? 0 : first, v->st->segs.size, 1) == ZT_CLEAN) {
        uint32_t found = zt_index_find(&ix, zl_str(what->topic), zl_str(what->key), at, (uint32_t)n);
        for (uint32_t i = 0; i < found; i++) {
            if (!zt_record_at(v, &s, at[i], &r, &why)) {
                if (!o->json) printf("the index names position %lld, but %s\n", (long long)at[i], why);
            } else if (zl_is(r.topic, what->topic)) {
                record_out(o, &r);
                shown++;
            }
        }
    }
    if (!shown && !o->json) printf("no message of topic %s has the key %s in the index\n", what->topic, what->key);
    zs_scan_close(&s);
    zt_index_free(&ix);
    zt_report_free(&report);
    free(at);
    return shown ? ZT_CLEAN : ZT_MENDABLE;
}

static int show_id(struct zt_view *v, struct out *o, const char *id)
{
    struct zr_addr host;
    struct zs_scan s = { .st = NULL };
    struct zl_record r;
    const char *why = "it is no message id of 32 or 56 digits";
    int64_t physical;
    int rc = ZT_MENDABLE;
    if (zl_offset_id_parse(zl_str(id), &host, &physical) == ZR_OK && zt_record_at(v, &s, physical, &r, &why)) {
        record_out(o, &r);
        rc = ZT_CLEAN;
    } else {
        fprintf(stderr, "zaryactl-store: %s: %s\n", id, why);
    }
    zs_scan_close(&s);
    return rc;
}

static int show_segments(struct zt_view *v, struct out *o)
{
    int64_t size = v->st->segs.size;
    if (!o->json) printf("%-28s %14s %14s  %s\n", "segment", "from", "to", "first message stored");
    for (int64_t base = zs_segs_first(v->st); base >= 0; base = zs_seg_next(v->st, base)) {
        struct zl_record r;
        char text[32] = "-", name[32];
        uint32_t some = zs_scan_one(v->st, base, &r);
        if (some) zt_time_text(text, r.store_ms);
        snprintf(name, sizeof name, "%020lld", (long long)base);
        if (o->json) {
            zl_jw_begin(&o->w, '{');
            zl_jw_kstr(&o->w, "segment", zl_str(name));
            zl_jw_ki64(&o->w, "from", base);
            zl_jw_ki64(&o->w, "to", base + size);
            zl_jw_ki64(&o->w, "firstStoreTimestamp", some ? r.store_ms : 0);
            zl_jw_end(&o->w, '}');
        } else {
            printf("%-28s %14lld %14lld  %s\n", name, (long long)base, (long long)(base + size), text);
        }
    }
    return ZT_CLEAN;
}

int zt_cmd_show(const char *dir, const struct zt_options *opt, const struct zt_show *what)
{
    struct zt_view *v = calloc(1, sizeof *v);
    struct out o;
    int rc = v ? zt_view_open(v, dir, opt) : ZT_CANNOT;
    if (rc == ZT_CLEAN) {
        out_begin(&o, opt->json);
        if (what->at >= 0) rc = show_at(v, &o, what->at, what->n ? what->n : 1);
        else if (what->queue) rc = show_queue(v, &o, what, what->n ? what->n : 32);
        else if (what->key) rc = show_key(v, &o, what, what->n ? what->n : 32);
        else if (what->id) rc = show_id(v, &o, what->id);
        else rc = show_segments(v, &o);
        out_end(&o);
    }
    if (v) zt_view_close(v);
    free(v);
    return rc;
}
