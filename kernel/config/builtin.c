/* SPDX-License-Identifier: Apache-2.0 */
/* builtin.c - what runs when no zarya.conf is given: the try-it-out process, and the faces of mqbroker and mqnamesrv. Written
 * in the syntax of the file, so that --print-config shows exactly what one would write oneself. */
#include "config/config.h"
#include <pwd.h>
#include <stdlib.h>
#include <unistd.h>

#define BROKER_FEATURES                                                                                                         \
    "  { use = \"storage-commitlog\"; },\n"                                                                                      \
    "  { use = \"filter-tag\"; },\n"                                                                                             \
    "  { use = \"filter-sql92\"; optional = true; },\n"                                                                          \
    "  { use = \"feature-admin\"; optional = true; },\n"                                                                         \
    "  { use = \"feature-query\"; optional = true; },\n"                                                                         \
    "  { use = \"feature-ordered\"; optional = true; },\n"                                                                       \
    "  { use = \"feature-reply\"; optional = true; },\n"                                                                         \
    "  { use = \"feature-delay\"; optional = true; },\n"                                                                         \
    "  { use = \"feature-transaction\"; optional = true; },\n"                                                                   \
    "  { use = \"feature-pop\"; optional = true; },\n"                                                                           \
    "  { use = \"feature-trace\"; optional = true; }"

static const char bare[] =
    "node = { ip1 = \"127.0.0.1\"; };\n"
    "plugins = (\n"
    "  { use = \"transport-tcp\"; as = \"namesrv\"; settings = { listen = [ \"127.0.0.1:9876\" ]; serves = [ \"routing\" ]; }; },\n"
    "  { use = \"routing-namesrv\"; },\n"
    "  { use = \"transport-tcp\"; as = \"broker\"; settings = { listen = [ \"127.0.0.1:10911\" ]; fast = [ \"127.0.0.1:10909\" ]; serves = [ \"broker\" ]; }; },\n"
    "  { use = \"routing-remote\"; settings = { namesrv = \"127.0.0.1:9876\"; }; },\n" BROKER_FEATURES "\n);\n";

static const char broker_alone[] =
    "plugins = (\n"
    "  { use = \"transport-tcp\"; as = \"broker\"; settings = { listen = [ \"*:10911\" ]; fast = [ \"*:10909\" ]; serves = [ \"broker\" ]; }; },\n"
    BROKER_FEATURES "\n);\n";

static const char broker_registered[] =
    "plugins = (\n"
    "  { use = \"transport-tcp\"; as = \"broker\"; settings = { listen = [ \"*:10911\" ]; fast = [ \"*:10909\" ]; serves = [ \"broker\" ]; }; },\n"
    "  { use = \"routing-remote\"; settings = { }; },\n" BROKER_FEATURES "\n);\n";

static const char namesrv[] =
    "plugins = (\n"
    "  { use = \"transport-tcp\"; as = \"namesrv\"; settings = { listen = [ \"*:9876\" ]; serves = [ \"routing\" ]; }; },\n"
    "  { use = \"routing-namesrv\"; settings = { kv_path = \"kvConfig.json\"; config_path = \"namesrv.properties\"; }; }\n);\n"; /* as Apache: $HOME/namesrv/... */

const char *zk_home_dir(void)
{
    const char *home = getenv("HOME");
    struct passwd *pw = home && *home ? NULL : getpwuid(getuid());
    return home && *home ? home : pw && pw->pw_dir ? pw->pw_dir : "/";
}

struct zr_str zk_expand(struct zr_str path)
{
    static const char mark[] = "${user.home}";
    const char *at = path.len ? memmem(path.ptr, path.len, mark, sizeof mark - 1) : NULL;
    if (path.len > 0 && path.ptr[0] == '~' && (path.len == 1 || path.ptr[1] == '/'))
        return zl_str(zk_conf_fmt("%s%.*s", zk_home_dir(), (int)(path.len - 1), path.ptr + 1));
    if (!at)
        return path;
    const char *rest = at + sizeof mark - 1;
    return zk_expand(zl_str(zk_conf_fmt("%.*s%s%.*s", (int)(at - path.ptr), path.ptr, zk_home_dir(), (int)(path.ptr + path.len - rest), rest)));
}

/* Entries of ours that are optional may be missing without a word. */
static void mark_quiet(struct zk_conf *root)
{
    struct zk_conf *list = zk_conf_get(root, "plugins");
    for (struct zk_conf *c = list ? list->child : NULL; c; c = c->next)
        c->soft = zk_conf_get(c, "optional") != NULL;
}

struct zk_conf *zk_builtin(uint32_t face, uint32_t with_namesrv)
{
    struct zk_conf *root;
    if (face == ZK_FACE_NAMESRV)
        root = zk_conf_read_text("built-in configuration of zarya namesrv", zl_str(namesrv), NULL);
    else if (face == ZK_FACE_BROKER)
        root = zk_conf_read_text("built-in configuration of zarya broker", zl_str(with_namesrv ? broker_registered : broker_alone), NULL);
    else
        root = zk_conf_read_text("built-in configuration", zl_str(bare), NULL);
    if (root)
        mark_quiet(root);
    return root;
}
