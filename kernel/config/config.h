/* SPDX-License-Identifier: Apache-2.0 */
/* config.h - from a command line and files to the effective configuration (zk_node), and back to text. Main thread only. */
#ifndef ZK_CONFIG_H
#define ZK_CONFIG_H
#include "config/node.h"
#include "config/options.h"
#include "config/tree.h"

#define ZK_FACE_FILE 0u    /* zarya -c FILE */
#define ZK_FACE_BARE 1u    /* zarya: name server and broker on loopback, to try it out */
#define ZK_FACE_BROKER 2u  /* zarya broker: as mqbroker */
#define ZK_FACE_NAMESRV 3u /* zarya namesrv: as mqnamesrv */

struct zk_config_source {
    uint32_t face;       /* ZK_FACE_* */
    uint32_t reserved;
    const char *file;    /* FILE, or the properties of BROKER and NAMESRV; NULL: none */
    const char *namesrv; /* -n; NULL: the file's, else the environment's */
};
/* Fills zk_node. What is wrong is noted (zk_problem); ZR_OK when nothing is. Touches nothing but memory. */
zr_status zk_config_load(const struct zk_config_source *source);
/* Known keys that had no effect, and unknown ones, as warnings. After the plugins' settings were filled. */
void zk_config_warn_imported(void);
/* Makes the data directory and takes its lock, which ends with the process. What is wrong is noted (zk_problem). */
zr_status zk_config_take_data_dir(void);

/* The rows of the section `node`. */
extern const struct zr_option zk_node_options[];
extern const uint32_t zk_n_node_options;
struct zk_rows zk_node_rows(void);
struct zk_rows zk_broker_rows(void);

/* The effective configuration in libconfig syntax. Needs loaded plugins (zk_instances). */
void zk_config_print(struct zl_buf *out);
/* The same as Apache's -p prints it: key=value for every key that has an effect here; important: the fewer of -m. */
void zk_config_print_apache(struct zl_buf *out, uint32_t important);
/* JSON: the rows of node and broker. */
void zk_config_schema(struct zl_buf *out);

/* The address to announce when none is configured, chosen as Apache's NetworkUtil.getLocalAddress does. */
struct zr_str zk_address_choose(void);
/* What is to be said about an announced address when listening on all: NULL, or why clients elsewhere cannot reach it. */
const char *zk_address_doubt(struct zr_str ip);

/* ---- built-in configurations ---- */
struct zk_conf *zk_builtin(uint32_t face, uint32_t with_namesrv);
const char *zk_home_dir(void);
/* For ~/ at the front and ${user.home} anywhere. */
struct zr_str zk_expand(struct zr_str path);
const char *zk_absolute(struct zr_str path); /* by the working directory; without slashes at its end */

/* ---- Apache's keys ---- */
#define ZK_KEY_SAME 0u    /* the row of the section broker with the same name, if there is one; else it has no effect */
#define ZK_KEY_NODE 1u    /* an option of the section node */
#define ZK_KEY_PLUGIN 2u  /* an option of a plugin entry (by `as`) */
#define ZK_KEY_SPECIAL 3u /* import.c knows it by its name */
#define ZK_KEY_BROKER 0x1u  /* read from broker.conf */
#define ZK_KEY_NAMESRV 0x2u /* read from namesrv.conf */
#define ZK_KEY_IMPORTANT 0x4u
struct zk_apache_key {
    const char *key;
    char type; /* b boolean, i int, l long, d double, s string */
    uint8_t how;    /* ZK_KEY_SAME ... */
    uint8_t flags;  /* ZK_KEY_BROKER ... */
    uint8_t safe;   /* 1: refused unless it has the value in `option`: ignoring it would break a promise */
    const char *as; /* PLUGIN: the entry's name */
    const char *option;
    const char *arg; /* PLUGIN, NODE: the unit behind a number ("h"), or "a=b c=d" for words, or ";" for a list. safe: why */
};
extern const struct zk_apache_key zk_apache_keys[];
extern const uint32_t zk_n_apache_keys;
const struct zk_apache_key *zk_apache_key(const char *key);
const char *zk_apache_why(const char *key); /* it has no effect here, or NULL: not known (apache_why.c) */
/* Merges the properties of a broker.conf or namesrv.conf into a built-in configuration. */
void zk_import(struct zk_conf *root, const struct zk_config_source *source, const char *namesrv);
/* The name servers that file, -n and environment name, in Apache's order; "" for none. */
const char *zk_import_namesrv(const struct zk_config_source *source);
void zk_import_read(const struct zk_config_source *source);
/* What a configuration leaves open about name servers, from the environment (environ.c). */
void zk_environ_fill(struct zk_conf *root);
uint32_t zk_environ_names_namesrv(void);
/* Is a name server to be asked for over HTTP? */
uint32_t zk_import_fetches_namesrv(void);
#endif
