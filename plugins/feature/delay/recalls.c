/* SPDX-License-Identifier: Apache-2.0 */
/* recalls.c - the keys of a slot's recalled messages: a set, so that many recalls of one second cost no more than as many messages.
 *
 * What stays true:
 *   1. at[] is open addressing, at most half full: 0, or 1 + where the key's length and bytes lie in bytes[].
 *   2. All sets together take at most RECALL_BYTES; timer.recall_bytes counts them.
 *   3. The hash is seeded by process (zl_hash): nobody can choose keys that fall into one place. */
#include <stdlib.h>
#include <string.h>

#include "timer.h"
#include "zl/text.h"

static uint32_t *place_of(const struct recalls *r, struct zr_str key)
{
    uint32_t i = (uint32_t)zl_hash(key.ptr, key.len) & (r->cap - 1);
    for (; r->at[i]; i = (i + 1) & (r->cap - 1)) {
        const uint8_t *p = r->bytes + r->at[i] - 1;
        if (zl_load16(p) == key.len && memcmp(p + 2, key.ptr, key.len) == 0) break;
    }
    return &r->at[i];
}

static uint64_t size_of(const struct recalls *r) { return (uint64_t)r->cap * sizeof *r->at + r->room; }

/* Makes room for one more key. */
static zr_status room_make(struct timer *t, struct recalls *r, uint32_t need)
{
    struct recalls more = { .cap = r->cap, .room = r->room, .len = r->len, .n = r->n };
    if (r->n * 2 >= r->cap) more.cap = r->cap ? r->cap * 2 : 16;
    if (r->len + need > r->room) more.room = r->room * 2 > r->len + need ? r->room * 2 : r->len + need + 256;
    if (t->recall_bytes + size_of(&more) - size_of(r) > RECALL_BYTES) return ZR_EFULL;
    if (more.room != r->room) {
        uint8_t *bytes = realloc(r->bytes, more.room);
        if (!bytes) return ZR_ENOMEM;
        t->recall_bytes += more.room - r->room;
        r->bytes = bytes;
        r->room = more.room;
    }
    if (more.cap == r->cap) return ZR_OK;
    more.at = calloc(more.cap, sizeof *more.at);
    if (!more.at) return ZR_ENOMEM;
    more.bytes = r->bytes;
    for (uint32_t i = 0; i < r->cap; i++) {
        if (!r->at[i]) continue;
        const uint8_t *p = r->bytes + r->at[i] - 1;
        *place_of(&more, (struct zr_str){ (const char *)p + 2, zl_load16(p) }) = r->at[i];
    }
    free(r->at);
    t->recall_bytes += (uint64_t)(more.cap - r->cap) * sizeof *r->at;
    *r = more;
    return ZR_OK;
}

zr_status recalls_add(struct timer *t, struct recalls *r, struct zr_str key)
{
    if (!key.len || key.len > RECALL_KEY_MAX) return ZR_EINVAL;
    if (r->n && *place_of(r, key)) return ZR_OK;
    if (r->n * 2 >= r->cap || r->len + key.len + 2 > r->room) {
        zr_status status = room_make(t, r, (uint32_t)key.len + 2);
        if (status != ZR_OK) return status;
    }
    zl_store16(r->bytes + r->len, (uint16_t)key.len);
    memcpy(r->bytes + r->len + 2, key.ptr, key.len);
    *place_of(r, key) = r->len + 1;
    r->len += (uint32_t)key.len + 2;
    r->n++;
    return ZR_OK;
}

static uint32_t has(const struct recalls *r, struct zr_str a, const char *between, struct zr_str b)
{
    char text[RECALL_KEY_MAX];
    uint64_t n = strlen(between);
    if (!b.len || a.len + n + b.len > sizeof text) return 0;
    if (a.len) memcpy(text, a.ptr, a.len);
    memcpy(text + a.len, between, n);
    memcpy(text + a.len + n, b.ptr, b.len);
    return *place_of(r, (struct zr_str){ text, a.len + n + b.len }) != 0;
}

/* Apache writes the bare key, or the topic before it when it is told to; before 5.4 with a plus between. */
uint32_t recalls_has(const struct recalls *r, struct zr_str topic, struct zr_str uniq)
{
    struct zr_str none = { NULL, 0 };
    return r->n && (has(r, none, "", uniq) || has(r, topic, "", uniq) || has(r, topic, "+", uniq));
}

void recalls_free(struct timer *t, struct recalls *r)
{
    t->recall_bytes -= size_of(r);
    free(r->at);
    free(r->bytes);
    *r = (struct recalls){ .n = 0 };
}
