/* SPDX-License-Identifier: Apache-2.0 */
/* args.h - the command line: what to do, and where the configuration comes from. */
#ifndef ZK_ARGS_H
#define ZK_ARGS_H
#include "config/config.h"

#define ZK_DO_RUN 0u
#define ZK_DO_CHECK 1u        /* --check */
#define ZK_DO_PRINT 2u        /* --print-config */
#define ZK_DO_LIST 3u         /* --list-plugins */
#define ZK_DO_SCHEMA 4u       /* --schema */
#define ZK_DO_VERSION 5u      /* --version */
#define ZK_DO_HELP 6u         /* --help */
#define ZK_DO_PRINT_APACHE 7u /* -p, -m of the faces broker and namesrv */

struct zk_args {
    struct zk_config_source source;
    uint32_t what;      /* ZK_DO_* */
    uint32_t important; /* -m */
};
/* Takes the command line apart. ZR_EINVAL: the text to show is in *ret_why. */
zr_status zk_args_parse(int argc, char **argv, struct zk_args *ret, const char **ret_why);
const char *zk_args_usage(uint32_t face);
#endif
