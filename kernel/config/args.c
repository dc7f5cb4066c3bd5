/* SPDX-License-Identifier: Apache-2.0 */
/* args.c - the command line of the three faces. `zarya broker` and `zarya namesrv` take what mqbroker and mqnamesrv take, in
 * the spellings that their parser takes: -c FILE, -cFILE, -c=FILE, --configFile FILE, --configFile=FILE. */
#include "config/args.h"
#include <stdlib.h>

#define TAKES_VALUE 1u

struct option { const char *brief, *full; uint32_t faces, takes, id; };
#define FACE(f) (1u << (f))
#define OURS (FACE(ZK_FACE_FILE))
#define THEIRS (FACE(ZK_FACE_BROKER) | FACE(ZK_FACE_NAMESRV))
#define ALL (OURS | THEIRS)

#define ID_FILE 1u
#define ID_NAMESRV 2u
#define ID_PRINT 3u
#define ID_IMPORTANT 4u
#define ID_DO 16u /* and above: ID_DO + ZK_DO_* */

static const struct option options[] = {
    { "-c", "--configFile", ALL, TAKES_VALUE, ID_FILE },
    { "-c", "--config", OURS, TAKES_VALUE, ID_FILE },
    { "-n", "--namesrvAddr", FACE(ZK_FACE_BROKER), TAKES_VALUE, ID_NAMESRV },
    { "-p", "--printConfigItem", THEIRS, 0, ID_PRINT },
    { "-m", "--printImportantConfig", FACE(ZK_FACE_BROKER), 0, ID_IMPORTANT },
    { NULL, "--check", ALL, 0, ID_DO + ZK_DO_CHECK },
    { NULL, "--print-config", ALL, 0, ID_DO + ZK_DO_PRINT },
    { NULL, "--list-plugins", ALL, 0, ID_DO + ZK_DO_LIST },
    { NULL, "--schema", ALL, 0, ID_DO + ZK_DO_SCHEMA },
    { "-V", "--version", ALL, 0, ID_DO + ZK_DO_VERSION },
    { "-h", "--help", ALL, 0, ID_DO + ZK_DO_HELP },
};
#define N_OPTIONS (sizeof options / sizeof *options)

/* Does arg name this option? *ret_value: what stands in the same word behind it. */
static uint32_t is_option(const struct option *o, const char *arg, const char **ret_value)
{
    uint64_t full = strlen(o->full);
    *ret_value = NULL;
    if (strcmp(arg, o->full) == 0 || (o->brief && strcmp(arg, o->brief) == 0))
        return 1;
    if (!o->takes)
        return 0;
    if (strncmp(arg, o->full, full) == 0 && arg[full] == '=') {
        *ret_value = arg + full + 1;
        return 1;
    }
    if (o->brief && strncmp(arg, o->brief, 2) == 0 && arg[1] != '-' && arg[2]) {
        *ret_value = arg + (arg[2] == '=' ? 3 : 2);
        return 1;
    }
    return 0;
}

static void take(struct zk_args *args, uint32_t id, const char *value)
{
    if (id == ID_FILE) {
        args->source.file = value;
    } else if (id == ID_NAMESRV) {
        args->source.namesrv = value;
    } else if (id == ID_PRINT || id == ID_IMPORTANT) {
        args->what = ZK_DO_PRINT_APACHE;
        args->important = id == ID_IMPORTANT;
    } else {
        args->what = id - ID_DO;
    }
}

static uint32_t take_system_property(const char *arg)
{
    /* What the file says wins over these and over the environment, as in Apache. */
    static const struct { const char *property, *variable; } known[] = { { "-Drocketmq.namesrv.addr=", "NAMESRV_ADDR" },
                                                                         { "-Drocketmq.namesrv.domain=", "ROCKETMQ_NAMESRV_DOMAIN" },
                                                                         { "-Drocketmq.namesrv.domain.subgroup=", "ROCKETMQ_NAMESRV_SUBGROUP" } };
    static const char home[] = "-Drocketmq.home.dir=";
    for (uint32_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strncmp(arg, known[i].property, strlen(known[i].property)) == 0) {
            setenv(known[i].variable, arg + strlen(known[i].property), 1);
            return 1;
        }
    return strncmp(arg, home, sizeof home - 1) == 0; /* nothing of an installation is needed */
}

static zr_status take_one(struct zk_args *args, int argc, char **argv, int *i, const char **ret_why)
{
    const char *arg = argv[*i], *value, *names[N_OPTIONS];
    uint32_t n = 0;
    for (uint32_t k = 0; k < N_OPTIONS; k++) {
        if (!(options[k].faces & FACE(args->source.face)))
            continue;
        names[n++] = options[k].full;
        if (!is_option(&options[k], arg, &value))
            continue;
        if (options[k].takes && !value) {
            if (*i + 1 >= argc) {
                *ret_why = zk_conf_fmt("%s needs a value", arg);
                return ZR_EINVAL;
            }
            value = argv[++*i];
        }
        if (options[k].takes && zl_trim(zl_str(value)).len == 0) { /* an unset variable of a script: never meant */
            *ret_why = zk_conf_fmt("%s needs a value, and it is empty", arg);
            return ZR_EINVAL;
        }
        take(args, options[k].id, value);
        return ZR_OK;
    }
    if (args->source.face != ZK_FACE_FILE && take_system_property(arg))
        return ZR_OK;
    const char *near = arg[0] == '-' ? zk_nearest(arg, names, n) : NULL;
    *ret_why = near ? zk_conf_fmt("there is no option %s; did you mean %s?", arg, near)
                    : zk_conf_fmt("there is no %s %s", arg[0] == '-' ? "option" : "command", arg);
    return ZR_EINVAL;
}

zr_status zk_args_parse(int argc, char **argv, struct zk_args *ret, const char **ret_why)
{
    int i = 1;
    memset(ret, 0, sizeof *ret);
    if (argc > 1 && strcmp(argv[1], "broker") == 0)
        ret->source.face = ZK_FACE_BROKER, i = 2;
    else if (argc > 1 && strcmp(argv[1], "namesrv") == 0)
        ret->source.face = ZK_FACE_NAMESRV, i = 2;
    for (; i < argc; i++) {
        zr_status status = take_one(ret, argc, argv, &i, ret_why);
        if (status != ZR_OK)
            return status;
    }
    if (ret->source.face == ZK_FACE_FILE && !ret->source.file)
        ret->source.face = ZK_FACE_BARE;
    return ZR_OK;
}

const char *zk_args_usage(uint32_t face)
{
    if (face == ZK_FACE_BROKER)
        return "usage: zarya broker [-n NAMESRV] [-c broker.conf] [-p] [-m] [-h]\n"
               "  -c, --configFile FILE        Broker config properties file\n"
               "  -n, --namesrvAddr ADDRESSES  Name server address list, eg: '192.168.0.1:9876;192.168.0.2:9876'\n"
               "  -p, --printConfigItem        Print all config items, and end\n"
               "  -m, --printImportantConfig   Print important config items, and end\n"
               "  -h, --help                   Print help\n"
               "  --check, --print-config, --list-plugins, --schema, --version: as zarya -h says\n";
    if (face == ZK_FACE_NAMESRV)
        return "usage: zarya namesrv [-c namesrv.conf] [-p] [-h]\n"
               "  -c, --configFile FILE        Name server config properties file\n"
               "  -p, --printConfigItem        Print all config items, and end\n"
               "  -h, --help                   Print help\n"
               "  --check, --print-config, --list-plugins, --schema, --version: as zarya -h says\n";
    return "usage: zarya [-c FILE] [--check | --print-config | --list-plugins | --schema | --version]\n"
           "       zarya broker [-n NAMESRV] [-c broker.conf] [-p] [-m]\n"
           "       zarya namesrv [-c namesrv.conf] [-p]\n"
           "Without a file: a name server (9876) and a broker (10911) on 127.0.0.1, to try it out.\n"
           "  -c, --config FILE   the configuration (libconfig); FILE's conf.d/*.conf are merged into it; name servers that it\n"
           "                      does not name are taken from NAMESRV_ADDR\n"
           "  --check             checks the whole configuration, the plugins' own checks included; touches nothing\n"
           "  --print-config      prints what is in effect, as a configuration file (secrets as \"***\")\n"
           "  --list-plugins      lists the installed plugins\n"
           "  --schema            prints every option of kernel and installed plugins as JSON\n"
           "  -V, --version       prints version and ABI\n";
}
