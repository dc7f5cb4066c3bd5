/* SPDX-License-Identifier: Apache-2.0 */
/* environ.c - name servers that the configuration leaves open and the environment names: NAMESRV_ADDR, else the HTTP address
 * server of ROCKETMQ_NAMESRV_DOMAIN and ROCKETMQ_NAMESRV_SUBGROUP (what -Drocketmq.namesrv.addr, .domain and .domain.subgroup
 * set). A configuration that says anything about name servers, and be it that there are none, is left as it is. */
#include "config/config.h"
#include <stdlib.h>

static struct zr_str environment(const char *name)
{
    const char *value = getenv(name);
    return zl_trim(zl_str(value ? value : ""));
}

static void put(struct zk_conf *settings, const char *option, const char *variable)
{
    struct zr_str value = environment(variable);
    if (value.len > 0 && !zk_conf_get(settings, option))
        zk_conf_put(settings, zk_conf_new_str(option, zl_str(zk_conf_dup(value)), variable, 0));
}

static void fill(struct zk_conf *entry)
{
    struct zk_conf *settings = zk_conf_get(entry, "settings");
    if (!settings) {
        settings = zk_conf_new(ZK_CONF_GROUP, "settings", entry->file, entry->line);
        zk_conf_put(entry, settings);
    }
    if (settings->kind != ZK_CONF_GROUP || zk_conf_get(settings, "namesrv"))
        return;
    if (zk_conf_get(settings, "namesrv_domain") || zk_conf_get(settings, "fetch_address"))
        put(settings, "namesrv_subgroup", "ROCKETMQ_NAMESRV_SUBGROUP");
    else if (environment("NAMESRV_ADDR").len > 0)
        put(settings, "namesrv", "NAMESRV_ADDR");
    else if (environment("ROCKETMQ_NAMESRV_DOMAIN").len > 0) {
        put(settings, "namesrv_domain", "ROCKETMQ_NAMESRV_DOMAIN");
        put(settings, "namesrv_subgroup", "ROCKETMQ_NAMESRV_SUBGROUP");
    }
}

uint32_t zk_environ_names_namesrv(void) { return environment("NAMESRV_ADDR").len > 0 || environment("ROCKETMQ_NAMESRV_DOMAIN").len > 0; }

void zk_environ_fill(struct zk_conf *root)
{
    const struct zk_conf *list = zk_conf_get(root, "plugins");
    for (struct zk_conf *e = list && list->kind == ZK_CONF_LIST ? list->child : NULL; e; e = e->next) {
        const struct zk_conf *use = e->kind == ZK_CONF_GROUP ? zk_conf_get(e, "use") : NULL;
        if (use && use->kind == ZK_CONF_STR && (zl_is(use->text, "routing-remote") || zl_ends(use->text, "/routing-remote.so")))
            fill(e);
    }
}
