/* SPDX-License-Identifier: Apache-2.0 */
/* A JSON body: read as a heartbeat is, walked whole, and printed; what was printed reads and prints the same. */
#include "fuzz.h"
#include "zl/json.h"

/* Every node and every span of it; the walk must end. */
static uint64_t walk(const struct zl_json *node, uint32_t depth)
{
    uint64_t sum = 1, n = 0;
    MUST(depth <= 66);
    for (uint64_t i = 0; i < node->text.len; i++) sum += (uint8_t)node->text.ptr[i];
    for (const struct zl_json *c = node->child; c; c = c->next, n++) {
        if (c->key_obj) sum += walk(c->key_obj, depth + 1);
        sum += walk(c, depth + 1) + zl_hash(c->key.ptr, c->key.len) % 2;
    }
    MUST(n == node->n && (n == 0 || node->kind >= ZL_JSON_ARRAY));
    zl_json_i64(node, 0);
    zl_json_f64(node, 0);
    zl_json_bool(node, 0);
    return sum;
}

static uint64_t read_heartbeat(const struct zl_json *root)
{
    uint64_t sum = zl_json_get_str(root, "clientID").len;
    const struct zl_json *consumers = zl_json_get(root, "consumerDataSet");
    for (const struct zl_json *c = consumers ? consumers->child : NULL; c; c = c->next) {
        sum += zl_json_get_str(c, "groupName").len + zl_json_get_bool(c, "unitMode", 0);
        const struct zl_json *subscriptions = zl_json_get(c, "subscriptionDataSet");
        for (const struct zl_json *s = subscriptions ? subscriptions->child : NULL; s; s = s->next) {
            sum += zl_json_get_str(s, "topic").len + (uint64_t)zl_json_get_i64(s, "subVersion", 0);
        }
    }
    return sum;
}

static void check_printed(const struct zl_buf *first, uint32_t same)
{
    struct zl_json_doc *doc;
    const struct zl_json *root;
    struct zl_buf second;
    uint64_t at;
    MUST(zl_json_parse(zl_buf_as_str(first), &doc, &root, &at) == ZR_OK);
    zl_buf_init(&second, first->max);
    zl_json_print(&second, root);
    MUST(!second.failed);
    if (same) MUST(zl_eq(zl_buf_as_str(first), zl_buf_as_str(&second)));
    zl_buf_free(&second);
    zl_json_free(doc);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct zr_str text = { (const char *)data, size };
    struct zl_json_doc *doc;
    const struct zl_json *root;
    struct zl_buf out;
    uint64_t at = UINT64_MAX;
    zr_status status = zl_json_parse(text, &doc, &root, &at);
    if (status != ZR_OK) {
        MUST((status == ZR_EINVAL || status == ZR_EFULL) && at <= size);
        return 0;
    }
    walk(root, 0);
    read_heartbeat(root);
    zl_buf_init(&out, 1u << 20);
    zl_json_print(&out, root);
    /* Printing may write "$ref" where a reference was put in place of a name's value: that is then one again. */
    if (!out.failed) check_printed(&out, memmem(out.ptr, out.len, "$ref", 4) == NULL);
    zl_buf_free(&out);
    zl_json_free(doc);
    return 0;
}
