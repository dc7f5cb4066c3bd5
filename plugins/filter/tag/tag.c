/* SPDX-License-Identifier: Apache-2.0 */
/* filter-tag: subscription expressions of language TAG, "TagA || TagB".
 *
 * RocketMQ's tag filter is a set of Java string hashes. The storage keeps the hash of a message's TAGS property in its queue
 * entry, so matching is "is this number in the set", and the log is never touched. Hashes collide; that is fine, because a
 * consumer compares the texts again. Hence a filter may say yes too often, never no too often.
 *
 * What stays true:
 *   1. A program is immutable after compile; by_tags and by_properties read it only, allocate nothing and take no lock.
 *   2. "*" and the empty expression match everything, whatever codes came with them.
 *   3. Codes that the client sent win over the text (some clients hash untrimmed text, and Apache follows their codes).
 *   4. Numbers at or below TAG_EXT_ADDRESS_MAX are no hashes but addresses in a consume queue extension: they match, and the
 *      consumer's own comparison decides.
 *   5. A set of up to TAG_SMALL codes is an array padded to 4, 8 or 16 that is compared whole, without a branch (the compiler
 *      turns it into vector instructions); a bigger one is an open hash table that is at most a quarter full, with a
 *      multiplier of its own drawn at random, so that nobody can send codes that all fall into one place. */
#include <stdlib.h>
#include "zarya/zarya.h"
#include "zl/text.h"

#define TAG_MAX_CODES 4096u       /* tags of one expression */
#define TAG_MAX_TEXT (64u * 1024) /* bytes of one expression */
#define TAG_SMALL 16u
#define TAG_EXT_ADDRESS_MAX (-2147483649LL) /* consume queue extension: addresses are below every sign-extended int */
#define TAG_EMPTY INT64_MIN                 /* free slot of the hash table: no sign-extended int */

struct zr_inst {
    const struct zr_host *host;
    const struct zr_err_v1 *err; /* NULL: the host has none */
};

struct zr_prog {
    uint32_t all;   /* 1: matches everything, the rest is unused */
    uint32_t n;     /* codes; 0: matches nothing but extension addresses */
    uint32_t width; /* 0, 4, 8, 16: small[0 .. width) is the set; else the hash table is */
    uint32_t shift; /* hash table of 1 << (32 - shift) slots */
    uint32_t multiplier, reserved;
    int32_t small[TAG_SMALL];
    int64_t table[];
};

struct tag_settings {
    int64_t unused; /* no options: a settings struct is never empty */
};

/* ---- compile ------------------------------------------------------------------------------------------------------ */

static zr_status tag_refuse(struct zr_inst *inst, zr_status status, const char *text)
{
    if (inst->err) {
        struct zr_error error = { ZR_HDR(struct zr_error, 0), status, 0, 0, 0, { text, strlen(text) } };
        inst->err->raise(inst->host, &error);
    }
    return status;
}

/* Java's String.trim: everything up to and including the blank goes. */
static struct zr_str tag_trim(struct zr_str s)
{
    while (s.len > 0 && (uint8_t)s.ptr[0] <= ' ')
        s = (struct zr_str){ s.ptr + 1, s.len - 1 };
    while (s.len > 0 && (uint8_t)s.ptr[s.len - 1] <= ' ')
        s.len--;
    return s;
}

/* Cuts the part before the next "||" off *rest; 0 when nothing is left. */
static uint32_t tag_next(struct zr_str *rest, struct zr_str *ret_part)
{
    if (!rest->ptr)
        return 0;
    for (uint64_t i = 0; i + 1 < rest->len; i++) {
        if (rest->ptr[i] == '|' && rest->ptr[i + 1] == '|') {
            *ret_part = (struct zr_str){ rest->ptr, i };
            *rest = (struct zr_str){ rest->ptr + i + 2, rest->len - i - 2 };
            return 1;
        }
    }
    *ret_part = *rest;
    *rest = (struct zr_str){ NULL, 0 };
    return 1;
}

static uint32_t tag_is_all(struct zr_str text)
{
    return text.len == 0 || (text.len == 1 && text.ptr[0] == '*');
}

/* Hashes of the tags in text. Like Apache: an expression of nothing but "||" cannot be split; blank parts are skipped. */
static zr_status tag_codes_of_text(struct zr_inst *inst, struct zr_str text, int32_t *codes, uint32_t *ret_n, uint64_t *ret_at)
{
    struct zr_str rest = text, part;
    uint32_t n = 0, parts = 0;
    while (tag_next(&rest, &part)) {
        parts += part.len > 0;
        struct zr_str tag = tag_trim(part);
        if (tag.len == 0)
            continue;
        if (n == TAG_MAX_CODES) {
            *ret_at = (uint64_t)(tag.ptr - text.ptr);
            return tag_refuse(inst, ZR_EFULL, "more than 4096 tags in one expression");
        }
        codes[n++] = zl_java_hash(tag);
    }
    if (parts == 0) {
        *ret_at = 0;
        return tag_refuse(inst, ZR_EINVAL, "subString split error");
    }
    *ret_n = n;
    return ZR_OK;
}

static uint32_t tag_slot(const struct zr_prog *prog, int32_t code)
{
    return ((uint32_t)code * prog->multiplier) >> prog->shift;
}

static void tag_table_add(struct zr_prog *prog, int32_t code)
{
    uint32_t mask = (1u << (32 - prog->shift)) - 1, at = tag_slot(prog, code);
    while (prog->table[at] != TAG_EMPTY && prog->table[at] != code)
        at = (at + 1) & mask;
    prog->table[at] = code;
}

static struct zr_prog *tag_build(const int32_t *codes, uint32_t n)
{
    uint32_t bits = 0;
    if (n > TAG_SMALL)
        for (bits = 6; (1u << bits) < 4 * n;)
            bits++;
    uint64_t slots = bits ? 1ull << bits : 0;
    struct zr_prog *prog = calloc(1, sizeof *prog + slots * sizeof prog->table[0]);
    if (!prog)
        return NULL;
    prog->n = n;
    if (bits) {
        prog->shift = 32 - bits;
        prog->multiplier = arc4random() | 1u;
        for (uint64_t i = 0; i < slots; i++)
            prog->table[i] = TAG_EMPTY;
        for (uint32_t i = 0; i < n; i++)
            tag_table_add(prog, codes[i]);
    } else if (n > 0) {
        prog->width = n <= 4 ? 4 : n <= 8 ? 8 : 16;
        for (uint32_t i = 0; i < prog->width; i++)
            prog->small[i] = codes[i < n ? i : 0]; /* padding repeats a member, so that it matches nothing new */
    }
    return prog;
}

static zr_status tag_compile(struct zr_inst *inst, const struct zr_expression *expr, struct zr_prog **ret_prog, uint64_t *ret_at)
{
    uint64_t at = 0;
    int32_t *codes = NULL;
    uint32_t n = 0;
    zr_status status = ZR_OK;
    *ret_at = 0;
    if (expr->language.len > 0 && !zl_is(expr->language, "TAG"))
        return tag_refuse(inst, ZR_EINVAL, "filter-tag knows the language TAG alone");
    if (expr->text.len > TAG_MAX_TEXT || expr->n_codes > TAG_MAX_CODES)
        return tag_refuse(inst, ZR_EFULL, "a tag expression is at most 64 KiB of text and 4096 codes");
    if (tag_is_all(expr->text)) {
        *ret_prog = calloc(1, sizeof **ret_prog);
        if (!*ret_prog)
            return ZR_ENOMEM;
        (*ret_prog)->all = 1;
        return ZR_OK;
    }
    if (expr->codes && expr->n_codes > 0) {
        *ret_prog = tag_build(expr->codes, expr->n_codes);
        return *ret_prog ? ZR_OK : ZR_ENOMEM;
    }
    codes = malloc(TAG_MAX_CODES * sizeof *codes);
    if (!codes)
        return ZR_ENOMEM;
    status = tag_codes_of_text(inst, expr->text, codes, &n, &at);
    *ret_at = at;
    if (status == ZR_OK && !(*ret_prog = tag_build(codes, n)))
        status = ZR_ENOMEM;
    free(codes);
    return status;
}

static void tag_free(struct zr_prog *prog) { free(prog); }

/* ---- match -------------------------------------------------------------------------------------------------------- */

/* One body for three widths: with the width known, the inner loop becomes a few vector compares. */
static inline __attribute__((always_inline)) void tag_match_small(const int32_t *set, uint32_t width, const int64_t *tag_codes, uint32_t n, uint8_t *verdicts)
{
    for (uint32_t i = 0; i < n; i++) {
        int32_t code = (int32_t)tag_codes[i];
        uint32_t hit = tag_codes[i] <= TAG_EXT_ADDRESS_MAX;
        for (uint32_t j = 0; j < width; j++)
            hit |= set[j] == code;
        verdicts[i] = (uint8_t)hit;
    }
}

static uint32_t tag_table_has(const struct zr_prog *prog, int32_t code)
{
    uint32_t mask = (1u << (32 - prog->shift)) - 1, at = tag_slot(prog, code);
    while (prog->table[at] != TAG_EMPTY) {
        if (prog->table[at] == code)
            return 1;
        at = (at + 1) & mask;
    }
    return 0;
}

static void tag_by_tags(const struct zr_prog *prog, const int64_t *tag_codes, uint32_t n, uint8_t *verdicts)
{
    _Static_assert(ZR_MATCH_NO == 0u && ZR_MATCH_YES == 1u, "verdicts are written as the outcome of a comparison");
    if (prog->all) {
        memset(verdicts, ZR_MATCH_YES, n);
        return;
    }
    switch (prog->width) {
    case 4: tag_match_small(prog->small, 4, tag_codes, n, verdicts); return;
    case 8: tag_match_small(prog->small, 8, tag_codes, n, verdicts); return;
    case 16: tag_match_small(prog->small, 16, tag_codes, n, verdicts); return;
    default: break;
    }
    for (uint32_t i = 0; i < n; i++) {
        uint32_t hit = tag_codes[i] <= TAG_EXT_ADDRESS_MAX;
        if (!hit && prog->n > 0)
            hit = tag_table_has(prog, (int32_t)tag_codes[i]);
        verdicts[i] = (uint8_t)hit;
    }
}

/* The value of the last property TAGS (as a Java map keeps it), or {NULL, 0}. Properties are name 0x01 value 0x02 ...; the
 * last separator may be missing. */
static struct zr_str tag_of_properties(struct zr_span properties)
{
    struct zr_str found = { NULL, 0 };
    const char *at = (const char *)properties.ptr, *end = at + properties.len;
    while (at < end) {
        const char *stop = memchr(at, 2, (size_t)(end - at));
        stop = stop ? stop : end;
        if (stop - at > 5 && memcmp(at, "TAGS\001", 5) == 0)
            found = (struct zr_str){ at + 5, (uint64_t)(stop - at - 5) };
        at = stop + 1;
    }
    return found;
}

static uint32_t tag_by_properties(const struct zr_prog *prog, struct zr_span properties)
{
    if (prog->all)
        return ZR_MATCH_YES;
    struct zr_str tag = tag_of_properties(properties);
    int64_t code = tag.len > 0 ? zl_java_hash(tag) : 0; /* as the storage writes it into the queue entry */
    uint8_t verdict;
    tag_by_tags(prog, &code, 1, &verdict);
    return verdict;
}

/* ---- the plugin --------------------------------------------------------------------------------------------------- */

static const char *const tag_languages[] = { "TAG", NULL };
static const struct zr_filter_v1 tag_filter = {
    ZR_HDR(struct zr_filter_v1, 0), tag_languages, tag_compile, tag_by_tags, tag_by_properties, tag_free,
};

static zr_status tag_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    (void)settings;
    struct zr_inst *inst = calloc(1, sizeof *inst);
    if (!inst)
        return ZR_ENOMEM;
    inst->host = host;
    inst->err = host->query(host, ZR_SVC_ERR);
    *ret = inst;
    return ZR_OK;
}

static void tag_destroy(struct zr_inst *inst) { free(inst); }

static const void *tag_query(struct zr_inst *inst, const char *iface_id)
{
    (void)inst;
    return strcmp(iface_id, ZR_IF_FILTER) == 0 ? &tag_filter : NULL;
}

ZR_MANIFEST("id = filter-tag\n"
            "version = 1.0.0\n"
            "abi = 1.0\n"
            "provides = zarya.filter/1\n");

static const struct zr_plugin tag_plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "filter-tag",
    .version = "1.0.0",
    .summary = "Subscription expressions of tags, \"TagA || TagB\".",
    .settings_size = sizeof(struct tag_settings),
    .swap = ZR_SWAP_CHAIN,
    .create = tag_create,
    .destroy = tag_destroy,
    .query = tag_query,
};

ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &tag_plugin;
}
