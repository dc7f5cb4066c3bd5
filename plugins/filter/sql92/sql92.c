/* SPDX-License-Identifier: Apache-2.0 */
/* filter-sql92: subscription expressions over a message's properties, "price > 10 AND region IN ('eu', 'us')".
 *
 * This file is the plugin: what the kernel sees. lexer.l and grammar.y read an expression, build.c makes instructions
 * of it, run.c runs them, number.c reads fractions as Java does; sql92.h says what a program is.
 *
 * What stays true: tags decide nothing here, so by_tags asks for the properties of every message. */
#include "sql92.h"

struct zr_inst {
    const struct zr_host *host;
    const struct zr_err_v1 *err; /* NULL: the host has none */
};
struct sql_settings {
    int64_t unused; /* no options: a settings struct is never empty */
};

static zr_status sql_refuse(struct zr_inst *inst, zr_status status, const char *text)
{
    if (inst->err) {
        struct zr_error error = { ZR_HDR(struct zr_error, 0), status, 0, 0, 0, { text, strlen(text) } };
        inst->err->raise(inst->host, &error);
    }
    return status;
}

static zr_status filter_compile(struct zr_inst *inst, const struct zr_expression *expr, struct zr_prog **ret_prog,
                                uint64_t *ret_at)
{
    struct sql_build b;
    *ret_at = 0;
    if (!zl_is(expr->language, "SQL92"))
        return sql_refuse(inst, ZR_EINVAL, "filter-sql92 knows the language SQL92 alone");
    zr_status status = sql_compile(expr->text, &b);
    *ret_prog = b.prog;
    *ret_at = b.fault_at;
    return status == ZR_OK ? ZR_OK : sql_refuse(inst, status, b.why);
}

static void filter_by_tags(const struct zr_prog *prog, const int64_t *tag_codes, uint32_t n, uint8_t *verdicts)
{
    (void)prog, (void)tag_codes;
    memset(verdicts, ZR_MATCH_ASK, n);
}

static uint32_t filter_by_properties(const struct zr_prog *prog, struct zr_span properties)
{
    return sql_matches(prog, properties) ? ZR_MATCH_YES : ZR_MATCH_NO;
}

static uint32_t filter_within(const struct zr_prog *prog, struct zr_span properties, uint64_t *steps)
{
    return sql_judge(prog, properties, steps);
}

static const char *const sql_languages[] = { "SQL92", NULL };
static const struct zr_filter_v1 sql_filter = {
    ZR_HDR(struct zr_filter_v1, 0), sql_languages, filter_compile, filter_by_tags, filter_by_properties, sql_free, filter_within,
};

static zr_status sql_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
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

static void sql_destroy(struct zr_inst *inst) { free(inst); }

static const void *sql_query(struct zr_inst *inst, const char *iface_id)
{
    (void)inst;
    return strcmp(iface_id, ZR_IF_FILTER) == 0 ? &sql_filter : NULL;
}

ZR_MANIFEST("id = filter-sql92\n"
            "version = 1.0.0\n"
            "abi = 1.0\n"
            "provides = zarya.filter/1\n");

static const struct zr_plugin sql_plugin = {
    .hdr = ZR_HDR(struct zr_plugin, 0),
    .id = "filter-sql92",
    .version = "1.0.0",
    .summary = "Subscription expressions over properties, \"price > 10 AND region IN ('eu', 'us')\".",
    .settings_size = sizeof(struct sql_settings),
    .swap = ZR_SWAP_CHAIN,
    .create = sql_create,
    .destroy = sql_destroy,
    .query = sql_query,
};

ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    (void)host_minor;
    return &sql_plugin;
}
