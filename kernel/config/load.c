/* SPDX-License-Identifier: Apache-2.0 */
/* load.c - the effective configuration: built-in, file with conf.d, or an imported properties file, checked against the rows of
 * `node` and `broker` and the form of `plugins`. Settings of plugins are checked when their rows are known (kernel/plugin). */
#include "broker/broker.h"
#include "config/config.h"
#include "zl/io.h"
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define PLUGINS_MAX 256u
#define NAME_MAX_BYTES 64u

#define S struct zk_node_settings
static const char *const log_formats[] = { "text", "json", NULL };
static const char *const log_levels[] = { "error", "warn", "info", "debug", NULL };

const struct zr_option zk_node_options[] = {
    ZR_OPTION_ROW(S, name, "name", ZR_OPT_STR, 0, NULL, NULL, NULL, NULL, "Name of this broker (brokerName); empty: the host's name."),
    ZR_OPTION_ROW(S, cluster, "cluster", ZR_OPT_STR, 0, "DefaultCluster", NULL, NULL, NULL, "Name of its cluster (brokerClusterName)."),
    ZR_OPTION_ROW(S, id, "id", ZR_OPT_I64, 0, "0", "0", NULL, NULL, "0: master; above: slave (brokerId)."),
    ZR_OPTION_ROW(S, data, "data", ZR_OPT_STR, 0, NULL, NULL, NULL, NULL,
                  "Data directory; ~/ is the home directory; empty: $ZARYA_HOME, else ~/.local/share/zarya."),
    ZR_OPTION_ROW(S, ip1, "ip1", ZR_OPT_STR, 0, NULL, NULL, NULL, NULL, "Address announced to clients (brokerIP1); empty: chosen as Apache does."),
    ZR_OPTION_ROW(S, ip2, "ip2", ZR_OPT_STR, 0, NULL, NULL, NULL, NULL, "Address announced to slaves (brokerIP2); empty: as ip1."),
    ZR_OPTION_ROW(S, plugin_dirs, "plugin_dirs", ZR_OPT_LIST, 0, NULL, NULL, NULL, NULL,
                  "Folders that plugins are looked for in; none: the installed one, or the build tree's."),
    ZR_OPTION_ENUM(S, log_format, "log_format", 0, "text", log_formats, "Lines of text or of JSON on stderr."),
    ZR_OPTION_ENUM(S, log_level, "log_level", ZR_OPT_LIVE, "info", log_levels, "How much is logged."),
    ZR_OPTION_ROW(S, workers, "workers", ZR_OPT_I64, 0, "0", "0", "256", NULL, "Threads of the worker pool; 0: two."),
    ZR_OPTION_ROW(S, drain_timeout, "drain_timeout", ZR_OPT_I64, 0, "10 s", "0", "1 h", "ms", "How long a stop waits for what is open."),
    ZR_OPTION_ROW(S, max_frame, "max_frame", ZR_OPT_I64, 0, "16 MiB", "64 KiB", "16 MiB", "bytes",
                  "A connection that announces a larger request is closed; for all listeners (com.rocketmq.remoting.frameMaxLength)."),
    ZR_OPTION_ROW(S, worker_queue, "worker_queue", ZR_OPT_I64, 0, "10000", "1", "1000000", NULL,
                  "Requests that may wait for the worker pool; the next ones are answered with code 2 (adminBrokerThreadPoolQueueCapacity)."),
    ZR_OPTION_ROW(S, worker_memory, "worker_memory", ZR_OPT_I64, 0, "128 MiB", "16 MiB", "64 GiB", "bytes", "Memory for them."),
    ZR_OPTION_ROW(S, connect_timeout, "connect_timeout", ZR_OPT_I64, 0, "3 s", "1", "10 min", "ms",
                  "How long a connection to another server may take (connectTimeoutMillis)."),
};
#undef S
const uint32_t zk_n_node_options = sizeof zk_node_options / sizeof zk_node_options[0];

struct zk_rows zk_node_rows(void) { return (struct zk_rows){ zk_node_options, zk_n_node_options, sizeof(struct zk_node_settings), "node" }; }
struct zk_rows zk_broker_rows(void) { return (struct zk_rows){ zk_broker_options, zk_n_broker_options, zk_broker_settings_size, "broker" }; }

/* ---- keys without effect ------------------------------------------------------------------------------------------------------- */

#define MAX_WHYS 32u
static struct ignored {
    const char *why; /* the first has none */
    struct zl_buf keys;
} ignored[MAX_WHYS];

/* Keys with the same reason are told in one line. */
void zk_conf_no_effect(const struct zk_conf *value)
{
    const char *key = value->origin ? value->origin : value->name, *why = zk_apache_why(key);
    uint32_t i = 0;
    for (i = why ? 1 : 0; i < MAX_WHYS - 1 && ignored[i].keys.max && ignored[i].why != why;)
        i++;
    if (ignored[i].keys.max == 0)
        zl_buf_init(&ignored[i].keys, 64u << 10);
    ignored[i].why = why;
    zl_buf_fmt(&ignored[i].keys, "%s%s", ignored[i].keys.len ? ", " : "", key);
}

void zk_config_warn_imported(void)
{
    for (uint32_t i = 0; i < MAX_WHYS; i++) {
        struct ignored *g = &ignored[i];
        if (g->keys.len > 0)
            zk_warning(zk_node.imported_file, 0, "these keys have no effect here%s%s: %.*s", g->why ? ", because " : "", g->why ? g->why : "",
                       (int)g->keys.len, (const char *)g->keys.ptr);
        zl_buf_free(&g->keys);
        *g = (struct ignored){ 0 };
    }
}

/* ---- the list `plugins` ---------------------------------------------------------------------------------------------------------- */

static uint32_t is_name(const char *s)
{
    uint64_t n = strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-");
    return n > 0 && n <= NAME_MAX_BYTES && s[n] == 0;
}

/* "/x/y/filter-mine.so" is called filter-mine. */
static const char *name_of_use(const char *use)
{
    const char *slash = strrchr(use, '/'), *base = slash ? slash + 1 : use;
    struct zr_str s = zl_str(base);
    if (zl_ends(s, ".so"))
        s.len -= 3;
    return zk_conf_dup(s);
}

static const char *text_in(const struct zk_conf *entry, const char *key)
{
    struct zk_conf *c = zk_conf_get(entry, key);
    if (c && c->kind != ZK_CONF_STR) {
        zk_problem(c->file, c->line, "plugins: %s must be text in quotes", key);
        return NULL;
    }
    return c ? c->text.ptr : NULL;
}

static uint32_t flag_in(const struct zk_conf *entry, const char *key, uint32_t dflt)
{
    struct zk_conf *c = zk_conf_get(entry, key);
    if (c && c->kind != ZK_CONF_BOOL)
        zk_problem(c->file, c->line, "plugins: %s must be true or false", key);
    return c ? (uint32_t)c->i : dflt;
}

static void check_entry_keys(const struct zk_conf *entry)
{
    static const char *const known[] = { "use", "as", "critical", "optional", "settings" };
    for (const struct zk_conf *c = entry->child; c; c = c->next) {
        uint32_t k = 0;
        while (k < 5 && strcmp(known[k], c->name) != 0)
            k++;
        if (k < 5)
            continue;
        const char *near = zk_nearest(c->name, known, 5);
        if (near)
            zk_problem(c->file, c->line, "plugins: an entry has no key \"%s\"; did you mean \"%s\"?", c->name, near);
        else
            zk_problem(c->file, c->line, "plugins: an entry has no key \"%s\" (use, as, critical, optional, settings); options of the plugin go into settings",
                       c->name);
    }
}

static void take_entry(const struct zk_conf *entry)
{
    struct zk_plugin_conf *p = &zk_node.plugins[zk_node.n_plugins];
    struct zk_conf *settings = zk_conf_get(entry, "settings");
    uint32_t had = zk_n_problems();
    if (entry->kind != ZK_CONF_GROUP) {
        zk_problem(entry->file, entry->line, "plugins: an entry must be { use = \"...\"; ... }");
        return;
    }
    check_entry_keys(entry);
    p->use = text_in(entry, "use");
    p->as = text_in(entry, "as");
    p->file = entry->file;
    p->line = entry->line;
    p->quiet = entry->soft;
    p->settings_node = settings;
    p->critical = flag_in(entry, "critical", 1) && !flag_in(entry, "optional", 0);
    if (flag_in(entry, "critical", 0) && flag_in(entry, "optional", 0))
        zk_problem(entry->file, entry->line, "plugins: an entry is either critical or optional");
    if (settings && settings->kind != ZK_CONF_GROUP)
        zk_problem(settings->file, settings->line, "plugins: settings must be { option = value; ... }");
    if ((!p->use || !*p->use) && zk_n_problems() == had)
        zk_problem(entry->file, entry->line, "plugins: an entry needs use = \"plugin id or file\"");
    if (zk_n_problems() != had)
        return;
    if (!p->as)
        p->as = name_of_use(p->use);
    if (!is_name(p->as)) {
        zk_problem(entry->file, entry->line, "plugins: the name \"%s\" must be 1 to 64 of letters, digits, '.', '_' and '-'", p->as);
        return;
    }
    for (uint32_t i = 0; i < zk_node.n_plugins; i++)
        if (strcmp(zk_node.plugins[i].as, p->as) == 0) {
            zk_problem(p->file, p->line, "plugins: two entries are named \"%s\"; the other is at %s:%u (give one another `as`)", p->as, zk_node.plugins[i].file,
                       zk_node.plugins[i].line);
            return;
        }
    zk_node.n_plugins++;
}

static void take_plugins(const struct zk_conf *list)
{
    zk_node.plugins = zk_conf_alloc((PLUGINS_MAX + 1u) * sizeof *zk_node.plugins);
    zk_node.n_plugins = 0;
    if (list && list->kind != ZK_CONF_LIST) {
        zk_problem(list->file, list->line, "plugins must be a list: plugins = ( { use = \"...\"; }, ... );");
        return;
    }
    for (const struct zk_conf *c = list ? list->child : NULL; c; c = c->next) {
        if (zk_node.n_plugins == PLUGINS_MAX) {
            zk_problem(c->file, c->line, "plugins: more than %u entries", PLUGINS_MAX);
            return;
        }
        take_entry(c);
    }
}

/* ---- sections ---------------------------------------------------------------------------------------------------------------------- */

static void check_sections(const struct zk_conf *root)
{
    static const char *const known[] = { "node", "broker", "plugins" };
    for (const struct zk_conf *c = root->child; c; c = c->next) {
        if (strcmp(c->name, "plugins") == 0)
            continue;
        if (strcmp(c->name, "node") == 0 || strcmp(c->name, "broker") == 0) {
            if (c->kind != ZK_CONF_GROUP)
                zk_problem(c->file, c->line, "%s must be a section: %s = { ... };", c->name, c->name);
            continue;
        }
        const char *near = zk_nearest(c->name, known, 3);
        if (near)
            zk_problem(c->file, c->line, "there is no section \"%s\"; did you mean \"%s\"?", c->name, near);
        else
            zk_problem(c->file, c->line, "there is no section \"%s\"; the sections are node, broker and plugins", c->name);
    }
}

static const struct zk_conf *section(const struct zk_conf *root, const char *name)
{
    struct zk_conf *c = zk_conf_get(root, name);
    return c && c->kind == ZK_CONF_GROUP ? c : NULL;
}

static struct zr_str host_name(void)
{
    char name[256] = "";
    if (gethostname(name, sizeof name - 1) != 0 || !name[0])
        return (struct zr_str)ZR_STR("DEFAULT_BROKER");
    return zl_str(zk_conf_dup(zl_str(name)));
}

const char *zk_absolute(struct zr_str path)
{
    char cwd[PATH_MAX];
    const char *p = zk_conf_dup(path);
    while (path.len > 1 && p[path.len - 1] == '/')
        p = zk_conf_dup((struct zr_str){ p, --path.len });
    if (p[0] == '/' || !getcwd(cwd, sizeof cwd))
        return p;
    return zk_conf_fmt("%s/%s", cwd, p);
}

static const char *default_data(void)
{
    const char *home = getenv("ZARYA_HOME");
    return home && *home ? home : zk_conf_fmt("%s/.local/share/zarya", zk_home_dir());
}

static void finish_node(void)
{
    struct zk_node_settings *set = &zk_node.set;
    if (set->name.len == 0)
        set->name = host_name();
    if (set->cluster.len == 0)
        set->cluster = (struct zr_str)ZR_STR("DefaultCluster");
    if (set->data.len == 0)
        set->data = zl_str(default_data());
    set->data = zk_expand(set->data);
    zk_node.data_dir = zk_absolute(set->data);
    zk_node.ip1 = set->ip1.len ? set->ip1 : zk_address_choose();
    zk_node.ip2 = set->ip2.len ? set->ip2 : zk_node.ip1;
}

/* Where the data directory was said, for the refusals that only taking it brings. */
static const struct zk_conf *data_said;

static void take_sections(const struct zk_conf *root, const char *file)
{
    struct zk_rows node_rows = zk_node_rows(), broker_rows = zk_broker_rows();
    void *broker = zk_conf_alloc(broker_rows.settings_size + 1u);
    check_sections(root);
    zk_rows_fill(&node_rows, section(root, "node"), file, 0, &zk_node.set, zk_conf_no_effect);
    zk_rows_fill(&broker_rows, section(root, "broker"), file, 0, broker, zk_conf_no_effect);
    zk_node.broker_settings = broker;
    data_said = section(root, "node") ? zk_conf_get(section(root, "node"), "data") : NULL;
    take_plugins(zk_conf_get(root, "plugins"));
    if (zk_node.n_plugins == 0 && zk_n_problems() == 0)
        zk_problem(file, 0, "no plugin is configured, so there is nothing to do (plugins = ( { use = \"transport-tcp\"; ... }, ... );)");
    finish_node();
}

static struct zk_conf *root_of(const struct zk_config_source *source)
{
    if (source->face == ZK_FACE_FILE) {
        struct zk_conf *file = zk_conf_read_all(source->file);
        if (file)
            zk_environ_fill(file);
        return file;
    }
    const char *namesrv = "";
    if (source->face != ZK_FACE_BARE) {
        zk_import_read(source);
        namesrv = zk_import_namesrv(source);
    }
    struct zk_conf *root = zk_builtin(source->face, source->face == ZK_FACE_BARE || *namesrv || zk_import_fetches_namesrv() || zk_environ_names_namesrv());
    if (root && source->face != ZK_FACE_BARE)
        zk_import(root, source, namesrv);
    if (root && source->face == ZK_FACE_BROKER)
        zk_environ_fill(root);
    return root;
}

zr_status zk_config_load(const struct zk_config_source *source)
{
    memset(&zk_node, 0, sizeof zk_node);
    struct zk_conf *root = root_of(source);
    if (root)
        take_sections(root, source->face == ZK_FACE_FILE ? source->file : root->file);
    return zk_n_problems() > 0 ? ZR_EINVAL : ZR_OK;
}

/* As every other mistake in a configuration; where nobody named the directory, the reason is enough. */
static void data_refused(const char *why)
{
    if (data_said)
        zk_problem(data_said->file, data_said->line, "%s: %s", data_said->origin ? data_said->origin : "node.data", why);
    else
        zk_problem("node.data", 0, "%s ($ZARYA_HOME, else ~/.local/share/zarya: it is not configured)", why);
}

zr_status zk_config_take_data_dir(void)
{
    const struct zr_io_v1 *io = zk_io();
    const char *run = zk_conf_fmt("%s/run", zk_node.data_dir), *lock = zk_conf_fmt("%s/zarya.lock", run);
    int64_t rc = zl_io_mkdirs(io, run);
    if (rc < 0) {
        data_refused(zk_conf_fmt("the data directory %s cannot be made: %s", run, strerrordesc_np((int)-rc)));
        return ZR_EIO;
    }
    int64_t fd = io->open(io->ctx, lock, ZR_IO_READ | ZR_IO_WRITE | ZR_IO_CREATE, 0600);
    rc = fd < 0 ? fd : io->lock(io->ctx, (int32_t)fd); /* the descriptor stays open: the lock ends with the process */
    if (rc == -EAGAIN || rc == -EACCES) {
        data_refused(zk_conf_fmt("the data directory %s is in use by another zarya (%s is locked)", zk_node.data_dir, lock));
        return ZR_EEXIST;
    }
    if (rc < 0) {
        data_refused(zk_conf_fmt("%s cannot be locked: %s", lock, strerrordesc_np((int)-rc)));
        return ZR_EIO;
    }
    return ZR_OK;
}
