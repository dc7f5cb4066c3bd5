/* SPDX-License-Identifier: Apache-2.0 */
/* sense.c - a configuration that would start and be of no use is a mistake, and is told before anything is opened: a listener for
 * which nobody answers, a broker that nobody can reach. Transports are judged by their options `listen` and `serves`; one that has
 * no such options is taken to serve everything. */
#include "config/options.h"
#include "plugin/plugin.h"

static const struct {
    uint32_t bit;
    const char *word, *who;
} kinds[] = {
    { ZR_SERVES_BROKER, "broker", "a storage makes a broker, as storage-commitlog does" },
    { ZR_SERVES_FAST, "broker-fast", "a storage makes a broker, as storage-commitlog does" },
    { ZR_SERVES_ROUTING, "routing", "routing-namesrv does" },
};
#define N_KINDS (sizeof kinds / sizeof *kinds)

static const struct zr_list *list_of(const struct zk_instance *in, const char *name)
{
    struct zk_rows rows = { in->plugin->options, in->plugin->n_options, in->plugin->settings_size, in->as };
    const struct zr_option *row = zk_row_named(&rows, name);
    return row && row->type == ZR_OPT_LIST ? (const struct zr_list *)(const void *)((const char *)in->settings + row->offset) : NULL;
}

static uint32_t bits_of(const struct zr_list *words)
{
    uint32_t bits = 0;
    for (uint64_t i = 0; i < words->n; i++)
        for (uint32_t k = 0; k < N_KINDS; k++)
            bits |= zl_is(words->items[i], kinds[k].word) ? kinds[k].bit : 0;
    return bits;
}

/* What clients reach by this transport; ZR_SERVES_* bits. */
static uint32_t judge_transport(const struct zk_instance *in, uint32_t handled)
{
    const struct zr_list *serves = list_of(in, "serves"), *listen = list_of(in, "listen");
    const struct zk_conf *at = in->conf->settings_node ? zk_conf_get(in->conf->settings_node, "serves") : NULL;
    if (!serves || !listen)
        return UINT32_MAX;
    uint32_t bits = listen->n > 0 ? bits_of(serves) : 0;
    for (uint32_t k = 0; k < N_KINDS; k++)
        if (bits & kinds[k].bit & ~handled)
            zk_problem(at ? at->file : in->conf->file, at ? at->line : in->conf->line, "plugin %s: it serves \"%s\", and no configured plugin answers there (%s)",
                       in->as, kinds[k].word, kinds[k].who);
    return bits;
}

zr_status zk_plugins_make_sense(uint32_t handled)
{
    const struct zk_instance *storage = NULL;
    uint32_t reached = 0, had = zk_n_problems();
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        const struct zk_instance *in = zk_instances[i];
        if (in->transport)
            reached |= judge_transport(in, handled);
        storage = in->storage ? in : storage;
    }
    if (storage && !(reached & ZR_SERVES_BROKER))
        zk_problem(storage->conf->file, storage->conf->line, "plugin %s makes this a broker, and no listener is configured that clients reach it by "
                   "({ use = \"transport-tcp\"; settings = { listen = \"0.0.0.0:10911\"; serves = [ \"broker\" ]; }; })", storage->as);
    return zk_n_problems() == had ? ZR_OK : ZR_EINVAL;
}
