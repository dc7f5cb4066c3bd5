/* SPDX-License-Identifier: Apache-2.0 */
/* import.c - a broker.conf or namesrv.conf of Apache's, merged into a built-in configuration.
 *
 * What stays true:
 *   1. A value that Java could not parse is ignored, as Apache does, but with a warning that names file and line.
 *   2. A key of Apache's without effect here is listed once; an unknown one is a warning with the nearest known one.
 *   3. A key whose loss would break a promise (access control, replication) is refused, never ignored.
 *   4. All pairs are kept as they were written, for code 26 (GET_BROKER_CONFIG). */
#include "config/config.h"
#include "zl/conf.h"
#include "zl/io.h"
#include <stdio.h>
#include <stdlib.h>

#define FILE_MAX (4ull << 20)

static struct zl_property *pairs;
static uint32_t n_pairs;

/* ---- reading -------------------------------------------------------------------------------------------------------------------- */

static void keep_pairs(void)
{
    zk_node.imported = zk_conf_alloc((n_pairs + 1u) * sizeof *zk_node.imported);
    for (uint32_t i = 0; i < n_pairs; i++)
        zk_node.imported[i] = (struct zr_field){ pairs[i].key, pairs[i].value };
    zk_node.n_imported = n_pairs;
}

void zk_import_read(const struct zk_config_source *source)
{
    struct zl_buf text;
    uint32_t line = 0;
    pairs = NULL;
    n_pairs = 0;
    if (!source->file)
        return;
    zk_node.imported_file = source->file;
    zl_buf_init(&text, FILE_MAX);
    int64_t rc = zl_io_load(zk_io(), source->file, &text);
    if (rc < 0)
        zk_problem(source->file, 0, "cannot be read: %s", strerrordesc_np((int)-rc));
    else if (zl_properties_parse(zl_buf_as_str(&text), &pairs, &n_pairs, &line) != ZR_OK)
        zk_problem(source->file, line, "is no properties text: a bad \\u escape");
    zl_buf_free(&text);
    keep_pairs();
}

/* The last of equal keys counts. */
static const struct zl_property *pair(const char *key)
{
    for (uint32_t i = n_pairs; i-- > 0;)
        if (zl_is(pairs[i].key, key))
            return &pairs[i];
    return NULL;
}

const char *zk_import_namesrv(const struct zk_config_source *source)
{
    const struct zl_property *p = pair("namesrvAddr");
    const char *env = getenv("NAMESRV_ADDR");
    if (source->namesrv)
        return source->namesrv;
    if (p)
        return zk_conf_dup(zl_trim(p->value));
    return env ? env : "";
}

uint32_t zk_import_fetches_namesrv(void)
{
    const struct zl_property *fetch = pair("fetchNamesrvAddrByAddressServer");
    return (fetch && zl_eq_nocase(fetch->value, "true")) || pair("rmqAddressServerDomain") != NULL;
}

/* ---- values ---------------------------------------------------------------------------------------------------------------------- */

static zr_status java_bool(struct zr_str value, struct zk_conf *c)
{
    c->kind = ZK_CONF_BOOL;
    c->i = zl_eq_nocase(value, "true");
    c->text = zl_str(c->i ? "true" : "false");
    return ZR_OK;
}

static zr_status java_integer(const struct zl_property *p, char type, struct zk_conf *c)
{
    int32_t narrow;
    if (zl_parse_i64(p->value, &c->i) != ZR_OK || (type == 'i' && zl_parse_i32(p->value, &narrow) != ZR_OK))
        return ZR_EINVAL;
    c->kind = ZK_CONF_INT;
    return ZR_OK;
}

static zr_status java_double(const struct zl_property *p, struct zk_conf *c)
{
    char *end;
    const char *text = zk_conf_dup(zl_trim(p->value));
    c->f = strtod(text, &end);
    c->kind = ZK_CONF_FLOAT;
    return *text && !*end ? ZR_OK : ZR_EINVAL;
}

/* A node for the value as Java reads it; NULL with a warning when it cannot. */
static struct zk_conf *value_of(const struct zl_property *p, const struct zk_apache_key *key, const char *name, const char *file)
{
    struct zr_str value = key->type == 's' ? zk_expand(zl_trim(p->value)) : p->value;
    struct zk_conf *c = zk_conf_new_str(name, value, file, p->line);
    zr_status status = ZR_OK;
    c->soft = 1;
    c->origin = key->key;
    if (key->type == 'b')
        status = java_bool(value, c);
    else if (key->type == 'i' || key->type == 'l')
        status = java_integer(p, key->type, c);
    else if (key->type == 'd')
        status = java_double(p, c);
    if (status == ZR_OK)
        return c;
    zk_warning(file, p->line, "%s: \"%.*s\" is no %s, so it is ignored, as Apache does", key->key, (int)(p->value.len < 80 ? p->value.len : 80), p->value.ptr,
               key->type == 'd' ? "number" : "integer (blanks at its end count)");
    return NULL;
}

/* "h": a unit behind the number. "%": a share. "a=b c=d": words for words. */
static void transform(struct zk_conf *c, const char *arg)
{
    if (!arg)
        return;
    if (strcmp(arg, "%") == 0) {
        if (c->i < 0 || c->i > 100)
            return;
        c->kind = ZK_CONF_FLOAT;
        c->f = (double)c->i / 100;
        c->text = zl_str(zk_conf_fmt("%g", c->f));
    } else if (!strchr(arg, '=')) {
        c->kind = ZK_CONF_STR;
        c->text = zl_str(zk_conf_fmt("%.*s %s", (int)c->text.len, c->text.ptr, arg));
    } else {
        struct zr_str rest = zl_str(arg), word, from;
        while (rest.len > 0 && zl_split(&rest, ' ', &word)) {
            zl_split(&word, '=', &from);
            if (zl_eq(from, c->text)) {
                c->text = (struct zr_str){ zk_conf_dup(word), word.len };
                return;
            }
        }
    }
}

/* ---- places ----------------------------------------------------------------------------------------------------------------------- */

static struct zk_conf *group_in(struct zk_conf *parent, const char *name)
{
    struct zk_conf *g = zk_conf_get(parent, name);
    if (!g) {
        g = zk_conf_new(ZK_CONF_GROUP, name, parent->file, parent->line);
        zk_conf_append(parent, g);
    }
    return g;
}

/* The settings of the plugin entry that is named or called so; NULL: this face has none. */
static struct zk_conf *settings_of(struct zk_conf *root, const char *as)
{
    struct zk_conf *list = zk_conf_get(root, "plugins");
    for (struct zk_conf *e = list ? list->child : NULL; e; e = e->next) {
        struct zk_conf *name = zk_conf_get(e, "as");
        name = name ? name : zk_conf_get(e, "use");
        if (name && zl_is(name->text, as))
            return group_in(e, "settings");
    }
    return NULL;
}

static void put_list(struct zk_conf *settings, const char *option, const char *text, const char *file, const struct zl_property *of)
{
    if (!settings)
        return;
    struct zk_conf *list = zk_conf_new(ZK_CONF_LIST, option, file, of->line);
    list->origin = zk_conf_dup(of->key);
    zk_conf_append(list, zk_conf_new_str("", zl_str(text), file, of->line));
    zk_conf_put(settings, list);
}

static int64_t int_of(const char *key, int64_t dflt)
{
    const struct zl_property *p = pair(key);
    int32_t v;
    return p && zl_parse_i32(p->value, &v) == ZR_OK ? v : dflt;
}

/* listenPort and bindAddress make the addresses; the fast port is always two below. */
static void put_addresses(struct zk_conf *root, uint32_t face, const char *file)
{
    const struct zl_property *bind = pair("bindAddress"), *port_pair = pair("listenPort");
    const struct zl_property *of = port_pair ? port_pair : bind;
    struct zr_str ip = bind ? zl_trim(bind->value) : (struct zr_str)ZR_STR("*");
    const char *open = ip.len && memchr(ip.ptr, ':', ip.len) ? "[" : "", *close = *open ? "]" : "";
    int64_t port = int_of("listenPort", 0);
    if (!bind && !port_pair)
        return;
    if (port < 0 || port > 65535) {
        zk_problem(file, of->line, "listenPort: %lld is no port (0 to 65535)", (long long)port);
        return;
    }
    if (face == ZK_FACE_NAMESRV) {
        put_list(settings_of(root, "namesrv"), "listen", zk_conf_fmt("%s%.*s%s:%lld", open, (int)ip.len, ip.ptr, close, (long long)(port ? port : 9876)), file, of);
        return;
    }
    port = port ? port : 10911;
    put_list(settings_of(root, "broker"), "listen", zk_conf_fmt("%s%.*s%s:%lld", open, (int)ip.len, ip.ptr, close, (long long)port), file, of);
    if (port > 2)
        put_list(settings_of(root, "broker"), "fast", zk_conf_fmt("%s%.*s%s:%lld", open, (int)ip.len, ip.ptr, close, (long long)(port - 2)), file, of);
}

static void put_data(struct zk_conf *root, uint32_t face, const char *file)
{
    const struct zl_property *p = pair("storePathRootDir");
    struct zk_conf *node = group_in(root, "node");
    if (face == ZK_FACE_BROKER && p) {
        struct zk_conf *data = zk_conf_new_str("data", zk_expand(zl_trim(p->value)), file, p->line);
        data->origin = "storePathRootDir";
        zk_conf_put(node, data);
    } else
        zk_conf_put(node, zk_conf_new_str("data", zl_str(zk_conf_fmt("%s/%s", zk_home_dir(), face == ZK_FACE_BROKER ? "store" : "namesrv")), root->file, 0));
}

static void put_namesrv(struct zk_conf *root, const struct zk_config_source *source, const char *namesrv)
{
    const struct zl_property *p = pair("namesrvAddr");
    struct zk_conf *settings = settings_of(root, "routing-remote");
    const char *from = source->namesrv ? "-n" : p ? source->file : "NAMESRV_ADDR";
    if (!settings || !*namesrv)
        return;
    struct zk_conf *c = zk_conf_new_str("namesrv", zl_str(namesrv), from, source->namesrv || !p ? 0 : p->line);
    c->origin = source->namesrv || !p ? NULL : "namesrvAddr";
    zk_conf_put(settings, c);
}

/* Folders of the log: one, or several joined by commas. */
static void put_log_paths(struct zk_conf *root, const char *key, const char *option, const char *file)
{
    const struct zl_property *p = pair(key);
    struct zk_conf *settings = settings_of(root, "storage-commitlog");
    struct zr_str rest = p ? zk_expand(zl_trim(p->value)) : (struct zr_str){ NULL, 0 }, part;
    struct zl_buf list;
    zl_buf_init(&list, 65536);
    while (rest.len && zl_split(&rest, ',', &part)) {
        part = zl_trim(part);
        if (part.len) zl_buf_fmt(&list, "%s%s", list.len ? "," : "", zk_absolute(part));
    }
    if (list.len && settings) {
        struct zk_conf *c = zk_conf_new_str(option, zl_buf_as_str(&list), file, p->line);
        c->origin = key;
        zk_conf_put(settings, c);
    }
    zl_buf_free(&list);
}

/* Paths of documents that lie elsewhere in Apache's layout: an option of the plugin if it has one. */
static void put_path(struct zk_conf *root, const char *key, const char *option, const char *file)
{
    const struct zl_property *p = pair(key);
    struct zk_conf *settings = settings_of(root, "routing-namesrv");
    if (!p || !settings)
        return;
    struct zk_conf *c = zk_conf_new_str(option, zk_expand(zl_trim(p->value)), file, p->line);
    c->soft = 1;
    c->origin = key;
    zk_conf_put(settings, c);
}

/* ---- one pair ---------------------------------------------------------------------------------------------------------------------- */

static void note_unknown_key(const struct zl_property *p, const char *file)
{
    const char **names = zk_conf_alloc(zk_n_apache_keys * sizeof *names);
    for (uint32_t i = 0; i < zk_n_apache_keys; i++)
        names[i] = zk_apache_keys[i].key;
    const char *key = zk_conf_dup(p->key), *near = zk_nearest(key, names, zk_n_apache_keys);
    if (near)
        zk_warning(file, p->line, "%s: Apache knows no such key; did you mean \"%s\"?", key, near);
    else
        zk_warning(file, p->line, "%s: Apache knows no such key, so it is ignored", key);
}

/* The broker's rows that are Zarya's own (no key of Apache's) may stand in a broker.conf too. */
static void put_own_or_unknown(struct zk_conf *root, const struct zl_property *p, const char *file, uint32_t face)
{
    struct zk_rows rows = zk_broker_rows();
    const char *name = zk_conf_dup(p->key);
    if (face != ZK_FACE_BROKER || !zk_row_named(&rows, name)) {
        note_unknown_key(p, file);
        return;
    }
    struct zk_conf *c = zk_conf_new_str(name, zl_trim(p->value), file, p->line);
    c->soft = 1;
    c->origin = name;
    zk_conf_put(group_in(root, "broker"), c);
}

static uint32_t is_refused(const struct zl_property *p, const struct zk_apache_key *key, const char *file)
{
    struct zr_str value = zl_trim(p->value);
    if (!key->safe || zl_is(value, key->option) || (key->type == 'b' && !zl_eq_nocase(p->value, "true")))
        return 0;
    zk_problem(file, p->line, "%s = %.*s: %s", key->key, (int)(value.len < 80 ? value.len : 80), value.ptr, key->arg);
    return 1;
}

/* What two parts have to know: one key of Apache's sets both. */
static void put_also(struct zk_conf *root, const struct zk_conf *c)
{
    static const struct { const char *key, *as, *option; } also[] = {
        { "fileReservedTime", "feature-transaction", "retention_hours" },
        { "maxMessageSize", "storage-commitlog", "max_message_size" },
        { "maxTransferBytesOnMessageInMemory", "storage-commitlog", "hot_bytes" },
        { "maxTransferCountOnMessageInMemory", "storage-commitlog", "hot_messages" },
        { "messageDelayLevel", "feature-delay", "delay_levels" },
        { "timerWheelEnable", "feature-delay", "timer" },
    };
    for (uint32_t i = 0; i < sizeof also / sizeof *also; i++) {
        struct zk_conf *settings = strcmp(also[i].key, c->origin) == 0 ? settings_of(root, also[i].as) : NULL;
        if (!settings)
            continue;
        struct zk_conf *copy = zk_conf_new(c->kind, also[i].option, c->file, c->line);
        copy->text = c->text;
        copy->i = c->i;
        copy->soft = 1;
        copy->origin = c->origin;
        zk_conf_put(settings, copy);
    }
}

static void put_pair(struct zk_conf *root, uint32_t face, const struct zl_property *p, const char *file)
{
    const struct zk_apache_key *key = zk_apache_key(zk_conf_dup(p->key));
    struct zk_conf *to = NULL, *c;
    if (!key) {
        put_own_or_unknown(root, p, file, face);
        return;
    }
    if (is_refused(p, key, file) || key->how == ZK_KEY_SPECIAL)
        return;
    c = value_of(p, key, key->option && !key->safe ? key->option : key->key, file);
    if (!c)
        return;
    if (!(key->flags & (face == ZK_FACE_NAMESRV ? ZK_KEY_NAMESRV : ZK_KEY_BROKER)))
        to = NULL;
    else if (key->how == ZK_KEY_NODE)
        to = group_in(root, "node");
    else if (key->how == ZK_KEY_SAME && face == ZK_FACE_BROKER)
        to = group_in(root, "broker");
    else if (key->how == ZK_KEY_PLUGIN)
        to = settings_of(root, face == ZK_FACE_NAMESRV && strcmp(key->as, "broker") == 0 ? "namesrv" : key->as);
    if (!to) {
        zk_conf_no_effect(c);
        return;
    }
    transform(c, key->how == ZK_KEY_PLUGIN ? key->arg : NULL);
    zk_conf_put(to, c);
    if (key->how == ZK_KEY_SAME || key->how == ZK_KEY_PLUGIN)
        put_also(root, c);
}

/* A slave that copies nothing, and a master whose answers wait for nobody, would be lies. */
static void check_role(struct zk_conf *root, const char *file)
{
    const struct zl_property *p = pair("brokerRole"), *id = pair("brokerId"), *copies = pair("inSyncReplicas");
    struct zr_str role = p ? zl_trim(p->value) : (struct zr_str)ZR_STR("ASYNC_MASTER");
    if (zl_is(role, "SYNC_MASTER") && int_of("inSyncReplicas", 1) > 1 && !settings_of(root, "feature-replica"))
        zk_problem(file, copies->line, "inSyncReplicas = %lld: replication is not part of this configuration, and every send would wait for a copy that nobody makes",
                   (long long)int_of("inSyncReplicas", 1));
    if (!zl_is(role, "SLAVE")) { /* as Apache: masters are always 0 */
        if (p || id)
            zk_conf_put(group_in(root, "node"), zk_conf_new_str("id", zl_str("0"), file, p ? p->line : id->line));
    } else if (!settings_of(root, "feature-replica"))
        zk_problem(file, p->line, "brokerRole = SLAVE: replication is not part of this configuration, and an empty slave would pass for a copy");
}

void zk_import(struct zk_conf *root, const struct zk_config_source *source, const char *namesrv)
{
    const char *file = source->file ? source->file : root->file;
    put_data(root, source->face, file);
    for (uint32_t i = 0; i < n_pairs; i++)
        put_pair(root, source->face, &pairs[i], file);
    put_addresses(root, source->face, file);
    put_namesrv(root, source, namesrv);
    if (source->face == ZK_FACE_BROKER) {
        check_role(root, file);
        put_log_paths(root, "storePathCommitLog", "path_commitlog", file);
        put_log_paths(root, "readOnlyCommitLogStorePaths", "path_commitlog_read_only", file);
    } else {
        put_path(root, "kvConfigPath", "kv_path", file);
        put_path(root, "configStorePath", "config_path", file);
    }
}
