/* SPDX-License-Identifier: Apache-2.0 */
/* foreign.c - forms of RocketMQ's store that are not read here: each is recognised before anything is made beside it, and the
 * log says what it means and what to do. Queues and index can be told again by the log; topics, groups and offsets cannot: a
 * store whose only ones are in RocksDB is refused. */
#include "zs_int.h"

struct form {
    const char *mark;    /* a file below the root that only this form has */
    const char *instead; /* NULL: it can be made from the log; else the document that says the same */
    const char *what;
};

static const struct form forms[] = {
    { "consumequeue/CURRENT", NULL, "consume queues in RocksDB (storeType=defaultRocksDB)" },
    { "consumequeue_rocksdb/CURRENT", NULL, "consume queues in RocksDB (combineCQ)" },
    { "config/topics/CURRENT", "config/topics.json", "topics in RocksDB" },
    { "config/subscriptionGroups/CURRENT", "config/subscriptionGroup.json", "groups in RocksDB" },
    { "config/consumerOffsets/CURRENT", "config/consumerOffset.json", "offsets of groups in RocksDB" },
    { "config/metadata/CURRENT", "config/topics.json", "topics, groups and offsets in RocksDB (useSingleRocksDBForAllConfigs)" },
    { "config/rdb/CURRENT", "config/topics.json", "topics, groups and offsets in RocksDB (configManagerVersion=v2)" },
};

static uint32_t there(struct zr_inst *st, const char *name)
{
    char path[ZS_PATH];
    struct zr_io_stat stat;
    return zs_path(path, "%s/%s", st->conf.root, name) && st->io->stat(st->io->ctx, path, &stat) >= 0;
}

zr_status zs_foreign_look(struct zr_inst *st)
{
    for (uint32_t i = 0; i < sizeof forms / sizeof *forms; i++) {
        const struct form *f = &forms[i];
        if (!there(st, f->mark)) continue;
        if (f->instead && !there(st, f->instead))
            return zs_raise(st, ZR_EINVAL, 0, "%s holds %s and no %s: have the broker that made it write its JSON documents (mqadmin rocksDBConfigToJson), then start again",
                            st->conf.root, f->what, f->instead);
        zs_log(st, ZR_LOG_WARN, "%s holds %s, which are not read: %s", st->conf.root, f->what,
               f->instead ? "the JSON documents are used" : "what is missing in the queue files is made from the log");
    }
    return ZR_OK;
}
