/* SPDX-License-Identifier: Apache-2.0 */
/* zarya/plugin.h - the one symbol a plugin exports, its descriptor, its options as data, its manifest.
 *
 * Life of an instance (each step only after the one before it succeeded; see also kernel/plugin/README.md):
 *
 *   file --note--> known --private copy, dlopen, entry--> loaded --check, create--> COLD --warm--> WARM
 *   WARM --activate--> ACTIVE --drain--> DRAINED --cool--> COLD --destroy--> gone        (WARM --cool--> COLD)
 *
 *   1. check and create touch nothing outside the process: no file, socket or thread. `zarya --check` runs both, and destroy.
 *   2. warm takes resources and may fail. The instance that failed gets no further call but destroy, and has cleaned up
 *      what its warm took; those that were warmed before it are cooled in reverse order.
 *   3. activate cannot fail: what can fail belongs in warm.
 *   4. After drain answered, no new call arrives; after cool, the instance calls the host no more.
 *   5. The library is never unloaded. */
#ifndef ZARYA_PLUGIN_H
#define ZARYA_PLUGIN_H

#include "zarya/abi.h"

#ifdef __cplusplus
extern "C" {
#endif

/* ---- options: rows of data. The host parses libconfig, checks against the rows with file and line, and fills the
 * plugin's own settings struct by offset. A plugin needs no parser. ------------------------------------------- */
#define ZR_OPT_BOOL 1u /* uint8_t at offset, 0 or 1 */
#define ZR_OPT_I64 2u  /* int64_t at offset. With unit "bytes" the text may say "64 KiB", with unit "ms" or "ns" "5 s" */
#define ZR_OPT_F64 3u  /* double at offset */
#define ZR_OPT_STR 4u  /* struct zr_str at offset; text lives as long as the instance, and is followed by a NUL */
#define ZR_OPT_ENUM 5u /* int64_t at offset: index into choices */
#define ZR_OPT_LIST 6u /* struct zr_list at offset: a list of strings; a single string is a list of one */

#define ZR_OPT_REQUIRED 0x1u   /* must be given */
#define ZR_OPT_LIVE 0x2u       /* may change without a new instance (retune) */
#define ZR_OPT_SECRET 0x4u     /* never printed, never dumped */
#define ZR_OPT_DEPRECATED 0x8u /* accepted with a warning */

/* frozen: the value of a ZR_OPT_LIST option; lives as long as the instance. */
struct zr_list { const struct zr_str *items; uint64_t n; };

struct zr_option {
    struct zr_hdr hdr;
    const char *name;           /* "segment_size" */
    const char *unit;           /* "bytes", "ms", "ns", or NULL */
    const char *dflt;           /* as text, parsed like the file's; NULL: zero or empty. Lists: items separated by blanks */
    const char *min, *max;      /* as text, NULL: open */
    const char *const *choices; /* NULL-ended, for ENUM */
    const char *doc;            /* one sentence; becomes the manual page, the schema and the sample config */
    uint32_t type, flags;       /* ZR_OPT_* */
    uint32_t offset;            /* into the plugin's settings struct */
    uint32_t reserved;
};
#define ZR_OPTION_ROW(struct_type, member, opt_name, opt_type, opt_flags, opt_default, opt_min, opt_max, opt_unit, opt_doc) \
    { ZR_HDR(struct zr_option, 0), opt_name, opt_unit, opt_default, opt_min, opt_max, NULL, opt_doc, opt_type, opt_flags, \
      (uint32_t)offsetof(struct_type, member), 0u }
#define ZR_OPTION_ENUM(struct_type, member, opt_name, opt_flags, opt_default, opt_choices, opt_doc) \
    { ZR_HDR(struct zr_option, 0), opt_name, NULL, opt_default, NULL, NULL, opt_choices, opt_doc, ZR_OPT_ENUM, opt_flags, \
      (uint32_t)offsetof(struct_type, member), 0u }

/* ---- what may be done to an instance while the broker runs ------------------------------------------------------ */
#define ZR_SWAP_NEVER 0u   /* needs a restart */
#define ZR_SWAP_CHAIN 1u   /* no state of its own in a chain: publish the new one */
#define ZR_SWAP_HANDOFF 2u /* exports state, the new one imports it */
#define ZR_SWAP_SEAL 3u    /* the old keeps its data, the new takes new data */

/* Answers an asynchronous lifecycle step exactly once, from any thread. */
struct zr_done { void (*call)(void *ctx, zr_status status); void *ctx; };

struct zr_plugin {
    struct zr_hdr hdr;
    const char *id;      /* "transport-tcp", or "org.example.filter-regex"; equals the manifest's id */
    const char *version; /* the plugin's own, "1.0.0" */
    const char *summary; /* one sentence */
    const struct zr_option *options;
    uint32_t n_options;
    uint32_t settings_size; /* the host allocates, fills and owns a settings struct of this size for each instance */
    uint32_t swap;          /* ZR_SWAP_* */
    uint32_t reserved;

    /* Says whether these settings could work. Opens nothing, writes nothing. May be NULL. A raised reason that begins with an
     * option's name and a colon is told at the place where that option was written. */
    ZR_ON(main) zr_status (*check)(const struct zr_host *host, const void *settings);
    /* Builds an instance with no outside effect. settings is static. On failure *ret stays NULL. */
    ZR_ON(main) zr_status (*create)(const struct zr_host *host, const void *settings, struct zr_inst **ret);
    /* Takes resources: opens files, binds sockets, starts threads (through zarya.work/1). May be NULL. */
    ZR_ON(main) zr_status (*warm)(struct zr_inst *inst);
    /* From here on calls arrive. Transports, and what calls through them, are activated last. May be NULL. */
    ZR_ON(main) void (*activate)(struct zr_inst *inst);
    /* Take no new work, finish what is open, then answer done (also from within the call). NULL: done at once. */
    ZR_ON(main) void (*drain)(struct zr_inst *inst, struct zr_done done);
    /* Inverse of warm. May be NULL. */
    ZR_ON(main) void (*cool)(struct zr_inst *inst);
    ZR_ON(main) void (*destroy)(struct zr_inst *inst);
    /* Only options marked LIVE differ; the new settings are static from now on. Refuse and the old ones stay. NULL: refused. */
    ZR_ON(main) zr_status (*retune)(struct zr_inst *inst, const void *settings);
    /* The only way to the interfaces of this plugin. Unknown id: NULL. Same answer for the life of the instance.
     * Asked between create and warm, once for each interface that the manifest provides. */
    ZR_ON(any) const void *(*query)(struct zr_inst *inst, const char *iface_id);
};

/* The one exported symbol; the major is in its name. Pure: same pointer each time, no allocation, no call back. */
ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor);
#define ZR_ENTRY_SYMBOL "zarya_plugin_entry_1"

/* ---- the host, seen from a plugin -------------------------------------------------------------------------------- */
struct zr_host {
    struct zr_hdr hdr;
    void *ctx; /* the host's own */
    /* A service table by id ("zarya.log/1"), or NULL. Ask once, in create, and keep it: tables are static. Services that
     * stand on plugins (zarya.store/1, zarya.broker/1) answer from create on, but may be called only from warm on. */
    ZR_ON(any) const void *(*query)(const struct zr_host *host, const char *service_id);
    const char *name;     /* this instance's `as`, or the plugin's id */
    const char *data_dir; /* the node's data directory, absolute */
};

/* ---- manifest in an ELF note, read without loading the file -------------------------------------------------------
 * ZR_MANIFEST("key = value\n" ...): lines of `key = value`; keys, each but id, version and abi repeatable:
 *   id = transport-tcp            version = 1.0.0               abi = 1.0 (major.lowest minor it runs on)
 *   provides = zarya.transport/1  an interface this plugin's query answers
 *   requires = zarya.storage/1    hard: some other loaded plugin must provide it, and is started before
 *   wants = zarya.filter/1        soft: started after its providers if there are any
 *   conflicts = feature-other     an id (or interface) that must not be loaded beside it
 * Unknown keys are ignored. */
#define ZR_NOTE_OWNER "ZARYA"
#define ZR_NOTE_TYPE 0x5a525931u /* "ZRY1" */
#define ZR_MANIFEST(text)                                                                                   \
    __attribute__((section(".note.zarya.plugin"), used, aligned(4))) static const struct {                  \
        uint32_t namesz, descsz, type;                                                                      \
        char name[8];                                                                                       \
        char desc[(sizeof(text) + 3u) & ~(size_t)3u];                                                       \
    } zarya_manifest_note = { 6u, (uint32_t)sizeof(text), ZR_NOTE_TYPE, ZR_NOTE_OWNER, text }

#ifdef __cplusplus
}
#endif
#endif
