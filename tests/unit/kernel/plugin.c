/* SPDX-License-Identifier: Apache-2.0 */
/* plugin.c - a plugin for tests of the loader, good or bad in exactly one way by the macros it is compiled with:
 *   T_ID        its id; T_NOTE_ID, T_DESC_ID: other ids in note and descriptor
 *   T_ABI       abi line of the note ("1.0"); T_MORE: further lines of the note
 *   T_NO_NOTE, T_NO_ENTRY, T_NULL, T_FLAGS, T_NO_CREATE, T_BAD_ROW, T_BAD_DEFAULT, T_NO_TABLE: what is missing or wrong
 *   T_FAIL      the step that fails: "check", "create", "warm"
 *   T_HOOK_BEFORE, T_HOOK_AFTER: order of its hook at ZR_POINT_STOPPING
 *   T_NEED      an undefined symbol is referenced, so that dlopen fails
 *   T_NO_DRAIN  drain never answers
 * It logs every step of its life as "step <name>". */
#include <string.h>
#include "zarya/zarya.h"

#ifndef T_NOTE_ID
#define T_NOTE_ID T_ID
#endif
#ifndef T_DESC_ID
#define T_DESC_ID T_ID
#endif
#ifndef T_ABI
#define T_ABI "1.0"
#endif
#ifndef T_MORE
#define T_MORE ""
#endif
#ifndef T_FAIL
#define T_FAIL ""
#endif

#ifndef T_NO_NOTE
ZR_MANIFEST("id = " T_NOTE_ID "\nversion = 1.0.0\nabi = " T_ABI "\nsome_later_key = whatever\n" T_MORE);
#endif

struct settings {
    int64_t count, size, wait, mode;
    double ratio;
    struct zr_str word, secret;
    struct zr_list names;
    uint8_t flag;
};
static const char *const modes[] = { "slow", "fast", "middle", NULL };
#define S struct settings
static const struct zr_option options[] = {
    ZR_OPTION_ROW(S, count, "count", ZR_OPT_I64, 0, "3", "1", "10", NULL, "How many."),
#ifdef T_BAD_DEFAULT
    ZR_OPTION_ROW(S, size, "size", ZR_OPT_I64, 0, "1 KiB", "4 KiB", "1 GiB", "bytes", "How large."),
#else
    ZR_OPTION_ROW(S, size, "size", ZR_OPT_I64, 0, "64 KiB", "4 KiB", "1 GiB", "bytes", "How large."),
#endif
    ZR_OPTION_ROW(S, wait, "wait", ZR_OPT_I64, ZR_OPT_LIVE, "5 s", "1", NULL, "ms", "How long."),
    ZR_OPTION_ENUM(S, mode, "mode", 0, "fast", modes, "In which way."),
    ZR_OPTION_ROW(S, ratio, "ratio", ZR_OPT_F64, 0, "0.5", "0", "1", NULL, "Which share."),
    ZR_OPTION_ROW(S, word, "word", ZR_OPT_STR, 0, "some words", NULL, NULL, NULL, "Which word."),
    ZR_OPTION_ROW(S, secret, "secret", ZR_OPT_STR, ZR_OPT_SECRET, NULL, NULL, NULL, NULL, "The password."),
    ZR_OPTION_ROW(S, names, "names", ZR_OPT_LIST, 0, "a b", NULL, NULL, NULL, "Which names."),
#ifdef T_REQUIRED
    ZR_OPTION_ROW(S, flag, "flag", ZR_OPT_BOOL, ZR_OPT_REQUIRED, NULL, NULL, NULL, NULL, "Whether."),
#else
    ZR_OPTION_ROW(S, flag, "flag", ZR_OPT_BOOL, ZR_OPT_DEPRECATED, "true", NULL, NULL, NULL, "Whether; use mode."),
#endif
#ifdef T_BAD_ROW
    { ZR_HDR(struct zr_option, 0), "outside", NULL, NULL, NULL, NULL, NULL, "Beyond the struct.", ZR_OPT_I64, 0, 4096, 0 },
#endif
};

struct zr_inst {
    const struct zr_host *host;
    const struct settings *set;
    const struct zr_log_v1 *log;
    const struct zr_err_v1 *err;
};
static struct zr_inst *instances[8]; /* enough for the tests; a plugin of the real world allocates */
static struct zr_inst memory[8];

static void say(const struct zr_host *host, const char *what)
{
    const struct zr_log_v1 *log = (const struct zr_log_v1 *)host->query(host, ZR_SVC_LOG);
    char text[64] = "step ";
    strncat(text, what, sizeof text - 8);
    log->write(host, ZR_LOG_INFO, (struct zr_str){ text, strlen(text) }, NULL, 0);
}

static zr_status step(const struct zr_host *host, const char *what)
{
    say(host, what);
    if (strcmp(T_FAIL, what) != 0)
        return ZR_OK;
    const struct zr_err_v1 *err = (const struct zr_err_v1 *)host->query(host, ZR_SVC_ERR);
    struct zr_error e = { ZR_HDR(struct zr_error, 0), ZR_EINVAL, 0, 0, 0, ZR_STR("the moon is in the wrong phase") };
    err->raise(host, &e);
    return ZR_EINVAL;
}

static zr_status t_check(const struct zr_host *host, const void *settings) { return (void)settings, step(host, "check"); }

static zr_status t_create(const struct zr_host *host, const void *settings, struct zr_inst **ret)
{
    uint32_t i = 0;
    zr_status status = step(host, "create");
    if (status != ZR_OK)
        return status;
    while (i < 8 && instances[i])
        i++;
    if (i == 8)
        return ZR_EFULL;
    memory[i] = (struct zr_inst){ host, (const struct settings *)settings, NULL, NULL };
    *ret = instances[i] = &memory[i];
    return ZR_OK;
}

static zr_status t_warm(struct zr_inst *inst) { return step(inst->host, "warm"); }
static void t_activate(struct zr_inst *inst) { step(inst->host, "activate"); }

static void t_drain(struct zr_inst *inst, struct zr_done done)
{
    step(inst->host, "drain");
#ifndef T_NO_DRAIN
    done.call(done.ctx, ZR_OK);
#else
    (void)done;
#endif
}

static void t_cool(struct zr_inst *inst) { step(inst->host, "cool"); }

static void t_destroy(struct zr_inst *inst)
{
    step(inst->host, "destroy");
    instances[inst - memory] = NULL;
}

static zr_status on_stopping(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    (void)event, (void)verdict;
    return step(inst->host, "hook");
}

#ifndef T_HOOK_BEFORE
#define T_HOOK_BEFORE NULL
#endif
#ifndef T_HOOK_AFTER
#define T_HOOK_AFTER NULL
#endif

static const void *t_query(struct zr_inst *inst, const char *iface_id)
{
    static const struct zr_hook hooks[] = { { ZR_HDR(struct zr_hook, 0), ZR_POINT_STOPPING, ZR_CLASS_OBSERVE, NULL, 0, 0, T_HOOK_BEFORE, T_HOOK_AFTER, on_stopping } };
    static const struct zr_hooks_v1 table = { ZR_HDR(struct zr_hooks_v1, 0), hooks, 1, 0 };
    static const char *const languages[] = { "TEST", NULL };
    static const struct zr_filter_v1 filter = { ZR_HDR(struct zr_filter_v1, 0), languages, NULL, NULL, NULL, NULL };
    static const struct zr_hdr own = { sizeof own, 0, 0 };
    (void)inst;
#ifdef T_NO_TABLE
    return NULL;
#endif
    if (strcmp(iface_id, ZR_IF_HOOKS) == 0)
        return &table;
    if (strcmp(iface_id, ZR_IF_FILTER) == 0)
        return &filter;
    if (strncmp(iface_id, "test.", 5) == 0)
        return &own;
    return NULL;
}

#ifdef T_NEED
extern int symbol_that_nobody_has(void);
#endif

#ifndef T_NO_ENTRY
ZR_EXPORT const struct zr_plugin *zarya_plugin_entry_1(uint32_t host_minor)
{
    static const struct zr_plugin plugin = {
#ifdef T_FLAGS
        { sizeof(struct zr_plugin), 0, T_FLAGS },
#else
        ZR_HDR(struct zr_plugin, 0),
#endif
        T_DESC_ID, "1.0.0", "A plugin for tests.", options, sizeof options / sizeof options[0], sizeof(struct settings), ZR_SWAP_CHAIN, 0, t_check,
#ifdef T_NO_CREATE
        NULL,
#else
        t_create,
#endif
        t_warm, t_activate, t_drain, t_cool, t_destroy, NULL, t_query };
    (void)host_minor;
#ifdef T_NEED
    if (symbol_that_nobody_has())
        return NULL;
#endif
#ifdef T_NULL
    return (void)plugin, NULL;
#endif
    return &plugin;
}
#else
ZR_EXPORT int some_other_symbol(void) { return (int)(sizeof options + (size_t)&t_check + (size_t)&t_create + (size_t)&t_warm + (size_t)&t_activate + (size_t)&t_drain + (size_t)&t_cool + (size_t)&t_destroy + (size_t)&t_query); }
#endif
