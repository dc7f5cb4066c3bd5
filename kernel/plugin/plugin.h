/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.h - from a configured name to a running instance: notes, loading, order, lifecycle. What the rest of the kernel sees
 * of the result is instance.h; the rules by which a plugin is refused are listed in README.md. Main thread only. */
#ifndef ZK_PLUGIN_H
#define ZK_PLUGIN_H
#include "config/node.h"
#include "plugin/instance.h"
#include "zl/buf.h"

/* ---- notes ---------------------------------------------------------------------------------------------------------------- */

/* What a plugin's ELF note says. Lists are NULL-ended. */
struct zk_manifest {
    const char *path, *text; /* text: the note as it is */
    const char *id, *version;
    const char **provides, **requires, **wants, **conflicts;
    uint32_t abi_major, abi_minor;
};
/* Reads the note of a file without running any of it. Refusals are raised, beginning with their rule ("L03: ..."). */
zr_status zk_manifest_read(const char *path, struct zk_manifest *ret);
/* Is `what` in a NULL-ended list? */
uint32_t zk_manifest_has(const char *const *list, const char *what);

/* The folders that plugins are looked for in, NULL-ended; each ends without a slash. */
const char *const *zk_plugin_dirs(void);
/* The file of a configured `use`; raised when there is none or when others could write to it. */
zr_status zk_plugin_file(const char *use, const char **ret_path);
/* Calls each for every readable plugin of the plugin folders, in name order (the first of an id wins). */
void zk_plugins_installed(void (*each)(void *ctx, const struct zk_manifest *m), void *ctx);

/* ---- loading -------------------------------------------------------------------------------------------------------------- */

/* Loads a private copy of the manifest's file from `folder` and asks it for its descriptor, which is copied full-size into *ret.
 * Raises the rule that refuses it. *ret_generation is unique in the life of the process. */
zr_status zk_library_load(const struct zk_manifest *m, const char *folder, struct zr_plugin *ret, uint32_t *ret_generation);

/* 1: nothing in that folder can be loaded as code (its file system is mounted noexec). */
uint32_t zk_library_noexec(const char *folder);

/* ---- order ---------------------------------------------------------------------------------------------------------------- */

struct zk_order_item {
    const char *as;
    const struct zk_manifest *manifest;
    void *user;
};
/* Sorts items so that providers stand before users, as near to the given order as that allows. A loop of hard requirements is
 * raised with its path ("a requires x of b requires y of a"); a soft one is cut. */
zr_status zk_order_solve(struct zk_order_item *items, uint32_t n);

/* ---- interface tables --------------------------------------------------------------------------------------------------------- */

/* Takes the host's full-size copy of the table that the instance answers for iface_id. Raises what is wrong with it. */
zr_status zk_tables_take(struct zk_instance *in, const char *iface_id);
/* The copy, or for an interface the kernel does not know the plugin's own table; NULL: not provided. */
const void *zk_tables_get(struct zk_instance *in, const char *iface_id);

/* ---- hook chains ------------------------------------------------------------------------------------------------------------------ */
zr_status zk_hooks_build(void);
void zk_hooks_drop(void);

/* ---- lifecycle, in the order of the calls. Problems of configuration and refusals are noted with zk_problem. -------------------- */

/* Finds every configured file, reads the notes, checks requirements and conflicts, solves the order. Makes zk_instances. Sets
 * zk_node.with_broker and with_namesrv. */
zr_status zk_plugins_find(void);
/* Loads all from private copies in folder, fills their settings. */
zr_status zk_plugins_load(const char *folder);
zr_status zk_plugins_check(void);
/* One transaction: when one fails, all that were made are taken back. */
zr_status zk_plugins_create(void);
zr_status zk_plugins_warm(void);
void zk_plugins_activate(void);
/* Would such a start be of use? `handled`: ZR_SERVES_* bits for which there are handlers. After create; notes what is wrong. */
zr_status zk_plugins_make_sense(uint32_t handled);
/* Asks active ones to drain and waits until they did, at most timeout_ns; says who did not. First those that only call others
 * (a registry without handlers: its last act is a request, so it needs remoting); then, when remoting has stopped and nobody is
 * called any more, all that are left. */
#define ZK_DRAIN_CALLERS 0u
#define ZK_DRAIN_ALL 1u
void zk_plugins_drain(uint32_t which, int64_t timeout_ns);
void zk_plugins_cool(void);    /* warm and drained ones, in reverse order */
void zk_plugins_destroy(void); /* all, in reverse order */

/* Puts up zarya.find/1. */
void zk_find_provide(void);
void zk_find_report_pins(void);
#endif
