/* SPDX-License-Identifier: Apache-2.0 */
/* print.c - the effective configuration as text: as a zarya.conf that would give the same, as Apache's -p prints it, and the
 * option rows as JSON. */
#include "config/config.h"
#include "plugin/plugin.h"
#include "zl/json.h"

static void print_plugin(const struct zk_instance *in, struct zl_buf *out)
{
    struct zk_rows rows = { in->plugin->options, in->plugin->n_options, in->plugin->settings_size, in->as };
    zl_buf_fmt(out, "  { use = \"%s\"; as = \"%s\";%s settings = {", in->conf->use, in->as, in->critical ? "" : " optional = true;");
    if (rows.n > 0) {
        zl_buf_cstr(out, "\n");
        zk_rows_print(&rows, in->settings, "      ", out);
        zl_buf_cstr(out, "    ");
    }
    zl_buf_cstr(out, "}; }");
}

/* In the order of the configuration, not of the start. */
static const struct zk_instance *configured(const struct zk_plugin_conf *conf)
{
    for (uint32_t i = 0; i < zk_n_instances; i++)
        if (zk_instances[i]->conf == conf)
            return zk_instances[i];
    return NULL;
}

void zk_config_print(struct zl_buf *out)
{
    struct zk_rows node = zk_node_rows(), broker = zk_broker_rows();
    uint32_t printed = 0;
    zl_buf_cstr(out, "node = {\n");
    zk_rows_print(&node, &zk_node.set, "  ", out);
    zl_buf_cstr(out, "};\n");
    if (zk_node.with_broker) {
        zl_buf_cstr(out, "broker = {\n");
        zk_rows_print(&broker, zk_node.broker_settings, "  ", out);
        zl_buf_cstr(out, "};\n");
    }
    zl_buf_cstr(out, "plugins = (\n");
    for (uint32_t i = 0; i < zk_node.n_plugins; i++) {
        const struct zk_instance *in = configured(&zk_node.plugins[i]);
        if (!in)
            continue;
        zl_buf_cstr(out, printed++ ? ",\n" : "");
        print_plugin(in, out);
    }
    zl_buf_cstr(out, "\n);\n");
}

/* ---- as Apache ------------------------------------------------------------------------------------------------------------------- */

static const struct zk_instance *instance_named(const char *as)
{
    for (uint32_t i = 0; i < zk_n_instances; i++)
        if (strcmp(zk_instances[i]->as, as) == 0)
            return zk_instances[i];
    return NULL;
}

static void print_row(const char *key, const struct zk_rows *rows, const char *option, const void *settings, struct zl_buf *out)
{
    const struct zr_option *row = zk_row_named(rows, option);
    if (!row)
        return;
    zl_buf_fmt(out, "%s=", key);
    zk_row_plain(row, settings, out);
    zl_buf_cstr(out, "\n");
}

static const struct zr_list *list_of(const char *as, const char *option)
{
    const struct zk_instance *in = instance_named(as);
    if (!in)
        return NULL;
    struct zk_rows rows = { in->plugin->options, in->plugin->n_options, in->plugin->settings_size, as };
    const struct zr_option *row = zk_row_named(&rows, option);
    return row && row->type == ZR_OPT_LIST ? (const struct zr_list *)(const void *)((const char *)in->settings + row->offset) : NULL;
}

static void print_special(const char *key, struct zl_buf *out)
{
    const struct zr_list *listen = list_of(zk_node.with_broker ? "broker" : "namesrv", "listen"), *ns = list_of("routing-remote", "namesrv");
    if (strcmp(key, "listenPort") == 0 && listen && listen->n > 0) {
        struct zr_str at = listen->items[0];
        const char *colon = memrchr(at.ptr, ':', at.len);
        if (colon)
            zl_buf_fmt(out, "listenPort=%.*s\n", (int)(at.ptr + at.len - colon - 1), colon + 1);
    } else if (strcmp(key, "namesrvAddr") == 0 && ns) {
        zl_buf_cstr(out, "namesrvAddr=");
        for (uint64_t i = 0; i < ns->n; i++)
            zl_buf_fmt(out, "%s%.*s", i ? ";" : "", (int)ns->items[i].len, ns->items[i].ptr);
        zl_buf_cstr(out, "\n");
    } else if (strcmp(key, "storePathCommitLog") == 0 || strcmp(key, "readOnlyCommitLogStorePaths") == 0) {
        const struct zk_instance *in = instance_named("storage-commitlog");
        struct zk_rows rows = { in ? in->plugin->options : NULL, in ? in->plugin->n_options : 0, 0, "" };
        if (in)
            print_row(key, &rows, key[0] == 's' ? "path_commitlog" : "path_commitlog_read_only", in->settings, out);
    } else if (strcmp(key, "storePathRootDir") == 0) {
        zl_buf_fmt(out, "storePathRootDir=%s\n", zk_node.data_dir);
    }
}

/* A word of ours back into Apache's, where the key maps words. */
static uint32_t print_word(const struct zk_apache_key *k, const struct zr_option *row, const void *settings, struct zl_buf *out)
{
    struct zl_buf plain;
    struct zr_str rest = zl_str(k->arg), pair, theirs;
    uint32_t found = 0;
    if (!k->arg || !strchr(k->arg, '='))
        return 0;
    zl_buf_init(&plain, 4096);
    zk_row_plain(row, settings, &plain);
    while (!found && rest.len > 0 && zl_split(&rest, ' ', &pair)) {
        zl_split(&pair, '=', &theirs);
        found = zl_eq(pair, zl_buf_as_str(&plain));
        if (found)
            zl_buf_fmt(out, "%s=%.*s\n", k->key, (int)theirs.len, theirs.ptr);
    }
    zl_buf_free(&plain);
    return found;
}

/* Numbers that Apache keeps in another unit: shares in percent, times in seconds. */
static uint32_t print_number(const struct zk_apache_key *k, const struct zr_option *row, const void *settings, struct zl_buf *out)
{
    const uint8_t *at = (const uint8_t *)settings + row->offset;
    double share;
    int64_t ms;
    if (k->arg && strcmp(k->arg, "%") == 0 && row->type == ZR_OPT_F64) {
        memcpy(&share, at, sizeof share);
        zl_buf_fmt(out, "%s=%d\n", k->key, (int)(share * 100 + 0.5));
        return 1;
    }
    if (k->arg && strcmp(k->arg, "s") == 0 && row->type == ZR_OPT_I64 && row->unit && strcmp(row->unit, "ms") == 0) {
        memcpy(&ms, at, sizeof ms);
        zl_buf_fmt(out, "%s=%lld\n", k->key, (long long)(ms / 1000));
        return 1;
    }
    return 0;
}

static void print_plugin_key(const struct zk_apache_key *k, struct zl_buf *out)
{
    const struct zk_instance *in = instance_named(!zk_node.with_broker && strcmp(k->as, "broker") == 0 ? "namesrv" : k->as);
    if (!in)
        return;
    struct zk_rows rows = { in->plugin->options, in->plugin->n_options, in->plugin->settings_size, k->as };
    const struct zr_option *row = zk_row_named(&rows, k->option);
    if (row && !print_word(k, row, in->settings, out) && !print_number(k, row, in->settings, out))
        print_row(k->key, &rows, k->option, in->settings, out);
}

void zk_config_print_apache(struct zl_buf *out, uint32_t important)
{
    struct zk_rows node = zk_node_rows(), broker = zk_broker_rows();
    for (uint32_t i = 0; i < zk_n_apache_keys; i++) {
        const struct zk_apache_key *k = &zk_apache_keys[i];
        if ((important && !(k->flags & ZK_KEY_IMPORTANT)) || !(k->flags & (zk_node.with_broker ? ZK_KEY_BROKER : ZK_KEY_NAMESRV)))
            continue;
        if (strcmp(k->key, "brokerIP1") == 0 || strcmp(k->key, "brokerIP2") == 0)
            zl_buf_fmt(out, "%s=%s\n", k->key, k->key[8] == '1' ? zk_node.ip1.ptr : zk_node.ip2.ptr);
        else if (k->how == ZK_KEY_SPECIAL)
            print_special(k->key, out);
        else if (k->how == ZK_KEY_NODE && zk_node.with_broker)
            print_row(k->key, &node, k->option, &zk_node.set, out);
        else if (k->how == ZK_KEY_SAME && zk_node.with_broker)
            print_row(k->key, &broker, k->key, zk_node.broker_settings, out);
        else if (k->how == ZK_KEY_PLUGIN)
            print_plugin_key(k, out);
    }
}

void zk_config_schema(struct zl_buf *out)
{
    struct zk_rows node = zk_node_rows(), broker = zk_broker_rows();
    zl_buf_cstr(out, "\"node\":");
    zk_rows_schema(&node, out);
    zl_buf_cstr(out, ",\"broker\":");
    zk_rows_schema(&broker, out);
}
