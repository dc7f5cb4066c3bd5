/* SPDX-License-Identifier: Apache-2.0 */
/* filters.c - compiled subscription expressions, shared by everyone who subscribes with the same words.
 *
 * What stays true: an expression is compiled once for each (language, text, codes) that is in use or was lately;
 * NULL is the filter that matches everything ("*", and the empty TAG expression). At most CACHE_MAX are kept that
 * nobody uses, of CACHE_BYTES of words in all.
 *
 * LOCKING. cache_lock guards the table and the order of use; the filter plugin is called without it (two threads may
 * compile the same words at once, then one result is thrown away). */
#include "broker/internal.h"

#define CACHE_MAX 4096u
#define CACHE_BYTES (4u << 20) /* a program is some four times its words */
static pthread_mutex_t cache_lock = PTHREAD_MUTEX_INITIALIZER;
static struct zb_map cache;
static struct zb_filter *newest, *oldest;
static uint64_t cache_bytes;

static void order_unlink(struct zb_filter *f)
{
    if (f->newer)
        f->newer->older = f->older;
    else
        newest = f->older;
    if (f->older)
        f->older->newer = f->newer;
    else
        oldest = f->newer;
}

static void order_front(struct zb_filter *f)
{
    f->older = newest;
    f->newer = NULL;
    if (newest)
        newest->newer = f;
    newest = f;
    if (!oldest)
        oldest = f;
}

static void filter_free(struct zb_filter *f)
{
    if (f->prog)
        f->table->free_prog(f->prog);
    free(f);
}

struct zb_filter *zb_filter_ref(struct zb_filter *filter)
{
    if (filter)
        atomic_fetch_add_explicit(&filter->refs, 1, memory_order_relaxed);
    return filter;
}

void zb_filter_unref(struct zb_filter *filter)
{
    if (filter && atomic_fetch_sub(&filter->refs, 1) == 1)
        filter_free(filter);
}

static struct zb_filter *cache_get(uint64_t hash, struct zr_str key)
{
    pthread_mutex_lock(&cache_lock);
    struct zb_filter *f = zb_map_get(&cache, hash, key);
    if (f) {
        zb_filter_ref(f);
        order_unlink(f);
        order_front(f);
    }
    pthread_mutex_unlock(&cache_lock);
    return f;
}

/* Puts a filter in, or gives back the one that was quicker. Evicted ones are freed outside the lock. */
static struct zb_filter *cache_put(struct zb_filter *f)
{
    struct zb_filter *out[2] = { NULL, NULL }; /* the second: evicted ones, by older */
    pthread_mutex_lock(&cache_lock);
    struct zb_filter *there = zb_map_get(&cache, f->hash, f->key);
    if (there) {
        zb_filter_ref(there);
        out[0] = f;
        f = there;
    } else if (zb_map_put(&cache, f->hash, f->key, f) == ZR_OK) {
        zb_filter_ref(f); /* the cache's own */
        order_front(f);
        cache_bytes += f->key.len;
    }
    while (cache.n > CACHE_MAX || (cache_bytes > CACHE_BYTES && oldest != f)) {
        struct zb_filter *gone = oldest; /* dropped from the cache; its users keep it alive */
        order_unlink(gone);
        zb_map_del(&cache, gone->hash, gone->key);
        cache_bytes -= gone->key.len;
        gone->older = out[1];
        out[1] = gone;
    }
    pthread_mutex_unlock(&cache_lock);
    zb_filter_unref(out[0]);
    while (out[1]) {
        struct zb_filter *next = out[1]->older;
        zb_filter_unref(out[1]);
        out[1] = next;
    }
    return f;
}

static struct zk_instance *filter_plugin(struct zr_str language)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        const struct zr_filter_v1 *t = zk_instances[i]->filter;
        for (uint32_t j = 0; t && zk_instances[i]->stage >= ZK_WARM && t->languages && t->languages[j]; j++)
            if (zl_is(language, t->languages[j]))
                return zk_instances[i];
    }
    return NULL;
}

/* Our own plugins are named after their language; a stranger's may be named anyhow. */
static void filter_missing(struct zr_str language, char *why, uint64_t cap)
{
    int len = (int)(language.len > 64 ? 64 : language.len);
    char name[65];
    for (int i = 0; i < len; i++)
        name[i] = language.ptr[i] >= 'A' && language.ptr[i] <= 'Z' ? (char)(language.ptr[i] | 32) : language.ptr[i];
    name[len] = 0;
    snprintf(why, cap, "The broker does not support consumer to filter message by %.*s: the plugin filter-%s is not loaded",
             len, language.ptr, name);
}

static struct zb_filter *filter_new(struct zr_str language, struct zr_str key, uint64_t hash)
{
    struct zb_filter *f = calloc(1, sizeof *f + key.len);
    if (!f)
        return NULL;
    memcpy(f + 1, key.ptr, key.len);
    f->key = (struct zr_str){ (const char *)(f + 1), key.len };
    f->hash = hash;
    f->is_tag = zl_is(language, "TAG");
    atomic_init(&f->refs, 1);
    return f;
}

zr_status zb_filter_get(struct zr_str language, struct zr_str text, const int32_t *codes, uint32_t n_codes,
                        struct zb_filter **ret, char *why, uint64_t cap)
{
    *ret = NULL;
    if (!language.len)
        language = zl_str("TAG");
    if (zl_is(language, "TAG") && (text.len == 0 || zl_is(text, "*")))
        return ZR_OK;
    struct zk_instance *plugin = filter_plugin(language);
    if (!plugin) {
        filter_missing(language, why, cap);
        return ZR_ENOTSUP;
    }
    struct zl_buf key;
    zl_buf_init(&key, 1u << 20);
    zl_buf_str(&key, language);
    zl_buf_u8(&key, 0);
    zl_buf_str(&key, text);
    zl_buf_u8(&key, codes != NULL);
    if (codes)
        zl_buf_add(&key, codes, n_codes * sizeof *codes);
    if (key.failed) {
        zl_buf_free(&key);
        snprintf(why, cap, "the expression is longer than 1 MiB");
        return ZR_EFULL;
    }
    struct zr_str k = zl_buf_as_str(&key);
    uint64_t hash = zb_hash(k), at = 0;
    struct zb_filter *f = cache_get(hash, k);
    zr_status status = ZR_OK;
    if (!f && (f = filter_new(language, k, hash))) {
        struct zr_expression expr = { .hdr = ZR_HDR(struct zr_expression, 0),
                                      .language = language,
                                      .text = text,
                                      .codes = codes,
                                      .n_codes = n_codes };
        zk_err_clear();
        f->table = plugin->filter;
        status = plugin->filter->compile(plugin->inst, &expr, &f->prog, &at);
        if (status == ZR_OK) {
            f = cache_put(f);
        } else {
            snprintf(why, cap, "%s", zk_err_text()[0] ? zk_err_text() : "the expression cannot be understood");
            f->prog = NULL;
            filter_free(f);
            f = NULL;
        }
    } else if (!f) {
        status = ZR_ENOMEM;
    }
    zl_buf_free(&key);
    *ret = f;
    return status;
}

uint32_t zb_filter_judge(const struct zb_filter *filter, struct zr_span properties, uint64_t *steps)
{
    const struct zr_filter_v1 *f = filter->table;
    return f->by_properties_within ? f->by_properties_within(filter->prog, properties, steps) : f->by_properties(filter->prog, properties);
}

uint32_t zb_filter_match(const struct zb_filter *filter, int64_t tags_code, const struct zr_span *properties, uint64_t *steps)
{
    uint8_t verdict = ZR_MATCH_YES;
    if (!filter)
        return 1;
    filter->table->by_tags(filter->prog, &tags_code, 1, &verdict);
    if (verdict != ZR_MATCH_ASK)
        return verdict == ZR_MATCH_YES;
    return !properties || zb_filter_judge(filter, *properties, steps) != ZR_MATCH_NO;
}

void zb_filters_close(void)
{
    pthread_mutex_lock(&cache_lock);
    struct zb_filter *f = newest;
    newest = oldest = NULL;
    cache_bytes = 0;
    zb_map_free(&cache);
    pthread_mutex_unlock(&cache_lock);
    while (f) {
        struct zb_filter *next = f->older;
        zb_filter_unref(f);
        f = next;
    }
}
