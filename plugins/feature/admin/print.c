/* SPDX-License-Identifier: Apache-2.0 */
/* print.c - the JSON of RocketMQ's admin bodies: keys in ascending order, null fields left out, as fastjson prints beans. */
#include <stdlib.h>
#include <string.h>

#include "admin.h"

void names_add(struct names *names, struct zr_str name)
{
    if (names_has(names, name)) return;
    if (names->n == names->cap) {
        uint64_t cap = names->cap ? names->cap * 2 : 16;
        char **list = realloc(names->list, cap * sizeof *list);
        if (!list) return;
        names->list = list;
        names->cap = cap;
    }
    char *copy = zl_dup(name);
    if (copy) names->list[names->n++] = copy;
}

uint32_t names_has(const struct names *names, struct zr_str name)
{
    for (uint64_t i = 0; i < names->n; i++)
        if (zl_is(name, names->list[i])) return 1;
    return 0;
}

static int by_text(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

void names_sort(struct names *names)
{
    if (names->n) qsort(names->list, names->n, sizeof *names->list, by_text);
}

void names_free(struct names *names)
{
    for (uint64_t i = 0; i < names->n; i++) free(names->list[i]);
    free(names->list);
    *names = (struct names){ 0 };
}

void print_names(struct zl_jw *w, const char *key, const struct names *names)
{
    zl_jw_key(w, zl_str(key));
    zl_jw_begin(w, '[');
    for (uint64_t i = 0; i < names->n; i++) zl_jw_str(w, zl_str(names->list[i]));
    zl_jw_end(w, ']');
}

void print_subscription(struct zl_jw *w, const struct zr_subscription *s)
{
    zl_jw_begin(w, '{');
    zl_jw_kbool(w, "classFilterMode", s->class_filter);
    zl_jw_key(w, zl_str("codeSet"));
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < s->n_codes; i++) zl_jw_i64(w, s->codes[i]);
    zl_jw_end(w, ']');
    zl_jw_kstr(w, "expressionType", s->expression_type.len ? s->expression_type : zl_str("TAG"));
    zl_jw_kstr(w, "subString", s->text);
    zl_jw_ki64(w, "subVersion", s->version);
    zl_jw_key(w, zl_str("tagsSet"));
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < s->n_tags; i++) zl_jw_str(w, s->tags[i]);
    zl_jw_end(w, ']');
    zl_jw_kstr(w, "topic", s->topic);
    zl_jw_end(w, '}');
}

void print_queue_key(struct zl_jw *w, struct zr_str broker, struct zr_str topic, int32_t queue_id)
{
    zl_jw_begin_key(w);
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "brokerName", broker);
    zl_jw_ki64(w, "queueId", queue_id);
    zl_jw_kstr(w, "topic", topic);
    zl_jw_end(w, '}');
    zl_jw_end_key(w);
}

const char *consume_type_name(uint32_t type)
{
    return type == ZR_CONSUME_ACTIVELY ? "CONSUME_ACTIVELY" : type == ZR_CONSUME_POP ? "CONSUME_POP" : "CONSUME_PASSIVELY";
}

const char *model_name(uint32_t model)
{
    return model == ZR_MODEL_BROADCASTING ? "BROADCASTING" : model == ZR_MODEL_LITE_SELECTIVE ? "LITE_SELECTIVE" : "CLUSTERING";
}
