/* SPDX-License-Identifier: Apache-2.0 */
/* main.c - the daemon: the order in which the parts are brought up, and taken down again.
 *
 *   configuration -> core -> services -> plugins found, loaded, checked, created, warm -> broker opened -> transports bound
 *   -> plugins active -> broker started -> control socket -> wait for a signal -> the same backwards
 *
 * What stays true:
 *   1. Until the last `warm` succeeded nothing outside was touched but the data directory.
 *   2. A start that fails undoes what it did, says why, and ends with status 1 (2: the command line was wrong).
 *   3. SIGTERM and SIGINT end the process in order, with status 0. All signals are taken by the main thread, by sigwait. */
#include "broker/broker.h"
#include "config/args.h"
#include "control/control.h"
#include "core/core.h"
#include "plugin/plugin.h"
#include "remoting/remoting.h"
#include "zl/io.h"
#include "zl/json.h"
#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <unistd.h>

#ifndef ZARYA_VERSION
#define ZARYA_VERSION "0.1.0"
#endif

/* ---- the process ----------------------------------------------------------------------------------------------------------------- */

static sigset_t signals;

static void take_signals(void)
{
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGHUP);
    sigaddset(&signals, SIGUSR1);
    pthread_sigmask(SIG_BLOCK, &signals, NULL); /* before the first thread, which inherits it */
    signal(SIGPIPE, SIG_IGN);
}

static void raise_file_limit(void)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        setrlimit(RLIMIT_NOFILE, &limit);
    }
}

/* A goodbye is one word to each name server: one that does not answer by then is not there, and notices by itself. */
#define GOODBYE_MS 3000
static int64_t goodbye_ns(void)
{
    return (zk_node.set.drain_timeout < GOODBYE_MS ? zk_node.set.drain_timeout : GOODBYE_MS) * 1000000;
}

/* A registry's last act is to say goodbye; clients that ask name servers from now on go elsewhere, others are served on. */
static void leave_name_servers(void)
{
    zk_log(ZR_LOG_INFO, "leaving the name servers");
    zk_plugins_drain(ZK_DRAIN_CALLERS, goodbye_ns());
}

static void wait_for_end(void)
{
    int sig = 0;
    while (sigwait(&signals, &sig) != 0 || sig == SIGHUP || sig == SIGUSR1)
        if (sig == SIGHUP)
            zk_log(ZR_LOG_WARN, "SIGHUP: the running configuration stays; a changed one takes effect at the next start");
        else if (sig == SIGUSR1 && zk_control_wants_drain())
            leave_name_servers();
    zk_log(ZR_LOG_INFO, "%s: stopping", sig == SIGINT ? "SIGINT" : "SIGTERM");
}

static int fail_with_problems(void)
{
    zk_config_warn_imported();
    zk_problems_show();
    return 1;
}

static int fail_raised(const char *what)
{
    zk_problem(NULL, 0, "%s%s%s", what, *zk_err_text() ? ": " : "", zk_err_text());
    return fail_with_problems();
}

/* ---- plugins, for checking or for running --------------------------------------------------------------------------------------- */

static void provide_services(void)
{
    zk_find_provide();
    zk_remoting_provide();
    if (zk_node.with_broker)
        zk_broker_provide();
}

static zr_status load_plugins(const char *folder)
{
    zr_status status = zk_plugins_load(folder);
    return status == ZR_OK ? zk_plugins_check() : status;
}

/* What only shows when all are created: who answers what, and whether that is of use. Takes them back when it is not. */
static zr_status judge_plugins(void)
{
    const struct zk_instance *at;
    uint32_t serves;
    zr_status status = zk_remoting_check(&at, &serves);
    if (status != ZR_OK)
        zk_problem(at ? at->conf->file : NULL, at ? at->conf->line : 0, "plugin %s: %s", at ? at->as : "kernel", zk_err_text());
    else
        status = zk_plugins_make_sense(serves);
    if (status != ZR_OK)
        zk_plugins_destroy();
    return status;
}

/* Up to here nothing outside was touched: create has no effect there. */
static zr_status make_plugins(const char *folder)
{
    zr_status status = load_plugins(folder);
    if (status == ZR_OK)
        status = zk_plugins_create();
    return status == ZR_OK ? judge_plugins() : status;
}

struct folder { const char *path; };

static int32_t remove_file(void *ctx, const char *name)
{
    const struct folder *f = ctx;
    zk_io()->unlink(zk_io()->ctx, zk_conf_fmt("%s/%s", f->path, name));
    return 0;
}

static void empty_folder(const char *path)
{
    struct folder f = { path };
    zk_io()->list(zk_io()->ctx, path, remove_file, &f);
}

/* A folder of our own for the private copies of plugins where the data directory must not be touched, or runs no programs. */
static const char *temp_folder(void)
{
    const char *places[] = { getenv("TMPDIR"), "/tmp", "/var/tmp", "/dev/shm" };
    for (uint32_t i = 0; i < sizeof places / sizeof *places; i++) {
        if (!places[i] || !*places[i] || zk_library_noexec(places[i]))
            continue;
        char *path = (char *)zk_conf_fmt("%s/zarya-check-XXXXXX", places[i]);
        if (mkdtemp(path))
            return path;
    }
    zk_err_raise(ZR_EIO, 0, "neither $TMPDIR nor /tmp, /var/tmp or /dev/shm takes a folder that code can be loaded from (mounted noexec, full or read-only?)");
    return NULL;
}

static void drop_temp_folder(const char *folder)
{
    empty_folder(folder);
    zk_io()->rmdir(zk_io()->ctx, folder);
}

/* Everything that a start looks at, and nothing that it does. `show` is run with the plugins loaded. */
static int check_all(const struct zk_args *args, void (*show)(const struct zk_args *args))
{
    const char *folder;
    int failed = 1;
    if (zk_config_load(&args->source) != ZR_OK)
        return fail_with_problems();
    zk_core_provide_services();
    if (zk_plugins_find() != ZR_OK)
        return fail_with_problems();
    provide_services();
    folder = temp_folder();
    if (!folder)
        return fail_raised("the plugins cannot be loaded");
    if (make_plugins(folder) == ZR_OK)
        failed = 0;
    drop_temp_folder(folder);
    zk_config_warn_imported();
    zk_problems_show();
    if (!failed) {
        show(args);
        zk_plugins_destroy();
    }
    return failed;
}

/* ---- showing ------------------------------------------------------------------------------------------------------------------------ */

static void out_text(struct zl_buf *out)
{
    fwrite(out->ptr, 1, out->len, stdout);
    zl_buf_free(out);
}

static void show_ok(const struct zk_args *args)
{
    (void)args;
    printf("the configuration is good: %u plugins\n", zk_n_instances);
}

static void show_config(const struct zk_args *args)
{
    struct zl_buf out;
    (void)args;
    zl_buf_init(&out, 4u << 20);
    zk_config_print(&out);
    out_text(&out);
}

static void show_apache(const struct zk_args *args)
{
    struct zl_buf out;
    zl_buf_init(&out, 4u << 20);
    zk_config_print_apache(&out, args->important);
    out_text(&out);
}

static void list_one(void *ctx, const struct zk_manifest *m)
{
    uint32_t *n = ctx;
    ++*n;
    printf("%-28s %-10s abi %u.%u  ", m->id, m->version, m->abi_major, m->abi_minor);
    for (const char **p = m->provides; *p; p++)
        printf("%s%s", p == m->provides ? "provides " : ", ", *p);
    for (const char **p = m->requires; *p; p++)
        printf("%s%s", p == m->requires ? "; requires " : ", ", *p);
    printf("\n%28s %s\n", "", m->path);
}

static void use_plugin_dirs_of(const struct zk_args *args)
{
    if (args->source.face != ZK_FACE_BARE)
        zk_config_load(&args->source);
    zk_problems_clear(); /* only the plugin folders are wanted of it */
}

static int list_plugins(const struct zk_args *args)
{
    uint32_t n = 0;
    use_plugin_dirs_of(args);
    zk_plugins_installed(list_one, &n);
    if (n == 0)
        fprintf(stderr, "zarya: no plugin is installed\n");
    return 0;
}

struct schema { struct zl_buf out; const char *folder; uint32_t n; };

static void schema_of(void *ctx, const struct zk_manifest *m)
{
    struct schema *s = ctx;
    struct zr_plugin p;
    uint32_t generation;
    if (zk_library_load(m, s->folder, &p, &generation) != ZR_OK) {
        fprintf(stderr, "zarya: %s\n", zk_err_text());
        return;
    }
    struct zk_rows rows = { p.options, p.n_options, p.settings_size, m->id };
    zl_buf_cstr(&s->out, s->n++ ? ",\n" : "\n");
    zl_json_quote(&s->out, zl_str(m->id));
    zl_buf_cstr(&s->out, ":{\"version\":");
    zl_json_quote(&s->out, zl_str(m->version));
    zl_buf_cstr(&s->out, ",\"summary\":");
    zl_json_quote(&s->out, zl_str(p.summary ? p.summary : ""));
    zl_buf_cstr(&s->out, ",\"options\":");
    if (zk_rows_sound(&rows, m->path, 0))
        zk_rows_schema(&rows, &s->out);
    else
        zl_buf_cstr(&s->out, "[]");
    zl_buf_cstr(&s->out, "}");
}

static int show_schema(const struct zk_args *args)
{
    struct schema s = { { 0 }, NULL, 0 };
    use_plugin_dirs_of(args);
    s.folder = temp_folder();
    if (!s.folder)
        return fail_raised("the plugins cannot be loaded");
    zl_buf_init(&s.out, 16u << 20);
    zl_buf_cstr(&s.out, "{");
    zk_config_schema(&s.out);
    zl_buf_cstr(&s.out, ",\"plugins\":{");
    zk_plugins_installed(schema_of, &s);
    zl_buf_cstr(&s.out, "}}\n");
    out_text(&s.out);
    drop_temp_folder(s.folder);
    zk_problems_show();
    return 0;
}

/* ---- saying that we are there --------------------------------------------------------------------------------------------------- */

static void print_serves(FILE *out, uint32_t serves)
{
    static const struct { uint32_t bit; const char *name; } names[] = { { ZR_SERVES_BROKER, "broker" }, { ZR_SERVES_FAST, "broker-fast" }, { ZR_SERVES_ROUTING, "routing" } };
    const char *comma = "";
    for (uint32_t i = 0; i < 3; i++)
        if (serves & names[i].bit) {
            fprintf(out, "%s%s", comma, names[i].name);
            comma = ",";
        }
    fprintf(out, "\n");
}

static const struct zr_listener *listener_at(const struct zk_instance *in, uint32_t i)
{
    const struct zr_listener *list;
    uint32_t n = in->transport->listeners(in->inst, &list);
    return i < n ? (const struct zr_listener *)(const void *)((const char *)list + (uint64_t)i * list->hdr.size) : NULL;
}

/* The first listener that serves it, in the order of the configuration; NULL: none. */
static const struct zr_listener *first_listener(uint32_t serves)
{
    const struct zr_listener *found = NULL, *l;
    const struct zk_plugin_conf *of = NULL;
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        const struct zk_instance *in = zk_instances[i];
        for (uint32_t k = 0; in->transport && (l = listener_at(in, k)) != NULL; k++)
            if ((l->serves & serves) && (!found || in->conf < of)) {
                found = l;
                of = in->conf;
            }
    }
    return found;
}

static uint32_t is_any_address(const struct zr_addr *a)
{
    static const uint8_t zeros[16];
    return (a->family == 4 && memcmp(a->ip, zeros, 4) == 0) || (a->family == 6 && memcmp(a->ip, zeros, 16) == 0);
}

/* A broker that listens on one address only is reached by no other; so that one is announced unless the configuration says. */
static void settle_announced(void)
{
    const struct zr_listener *l = first_listener(ZR_SERVES_BROKER);
    char text[64];
    if (!l || l->addr.family == 0 || zk_node.set.ip1.len > 0)
        return;
    if (!is_any_address(&l->addr)) {
        struct zr_addr bare = l->addr;
        uint32_t n = zl_addr_print(text, &bare);
        while (n > 0 && text[n - 1] != ':')
            n--;
        struct zr_str ip = { text, n ? n - 1 : 0 };
        if (ip.len > 2 && ip.ptr[0] == '[')
            ip = (struct zr_str){ ip.ptr + 1, ip.len - 2 };
        zk_node.ip1 = zl_str(zk_conf_dup(ip));
        if (zk_node.set.ip2.len == 0)
            zk_node.ip2 = zk_node.ip1;
    }
}

static void warn_announced(void)
{
    const struct zr_listener *l = first_listener(ZR_SERVES_BROKER);
    const char *doubt = l && is_any_address(&l->addr) ? zk_address_doubt(zk_node.ip1) : NULL;
    if (l)
        zk_log(ZR_LOG_INFO, "clients are told the address %s (node.ip1, brokerIP1)", zk_node.ip1.ptr);
    if (doubt)
        zk_log(ZR_LOG_WARN, "clients on other machines cannot reach %s: %s; set node.ip1 (brokerIP1)", zk_node.ip1.ptr, doubt);
}

static const char *namesrv_text(void)
{
    const struct zk_instance *in = NULL;
    for (uint32_t i = 0; i < zk_n_instances && !in; i++)
        if (strcmp(zk_instances[i]->id, "routing-remote") == 0)
            in = zk_instances[i];
    if (!in)
        return NULL;
    struct zk_rows rows = { in->plugin->options, in->plugin->n_options, in->plugin->settings_size, in->as };
    const struct zr_option *row = zk_row_named(&rows, "namesrv");
    struct zl_buf text;
    if (!row)
        return NULL;
    zl_buf_init(&text, 65536);
    zk_row_plain(row, in->settings, &text);
    const char *copy = zk_conf_dup(zl_buf_as_str(&text));
    zl_buf_free(&text);
    return copy;
}

static void write_boot_lines(FILE *out, uint32_t face)
{
    const struct zr_listener *broker = first_listener(ZR_SERVES_BROKER), *routing = first_listener(ZR_SERVES_ROUTING), *l;
    for (uint32_t i = 0; i < zk_n_instances; i++)
        for (uint32_t k = 0; zk_instances[i]->transport && (l = listener_at(zk_instances[i], k)) != NULL; k++) {
            fprintf(out, "listening %.*s serves ", (int)l->url.len, l->url.ptr);
            print_serves(out, l->serves);
        }
    if (routing) {
        struct zr_str at = routing->url;
        const char *slashes = memmem(at.ptr, at.len, "://", 3);
        fprintf(out, "The Name Server boot success. serializeType=JSON, address %.*s\n", slashes ? (int)(at.ptr + at.len - slashes - 3) : (int)at.len,
                slashes ? slashes + 3 : at.ptr);
    }
    if (broker && zk_node.with_broker) {
        const char *ns = namesrv_text(), *v6 = strchr(zk_node.ip1.ptr, ':') && zk_node.ip1.ptr[0] != '[' ? "[]" : NULL;
        fprintf(out, "The broker[%s, %.1s%s%s:%u] boot success. serializeType=JSON%s%s\n", zk_node.set.name.ptr, v6 ? v6 : "", zk_node.ip1.ptr,
                v6 ? v6 + 1 : "", broker->addr.port, ns ? " and name server is " : "", ns ? ns : "");
    }
    if (face == ZK_FACE_BARE)
        fprintf(out, "This is Zarya to try out: it listens on 127.0.0.1 only and keeps its data in %s.\n"
                "To open it: zarya --print-config > zarya.conf, change the addresses and node.ip1 there, zarya -c zarya.conf.\n",
                zk_node.data_dir);
}

/* In one piece, or on the log's way where whoever reads them stalls: a terminal that is held does not stop a broker. */
static void print_boot_lines(uint32_t face)
{
    char *text = NULL;
    size_t n = 0;
    FILE *out = open_memstream(&text, &n);
    struct pollfd reader = { STDOUT_FILENO, POLLOUT, 0 };
    if (!out)
        return;
    write_boot_lines(out, face);
    fclose(out);
    if (n <= PIPE_BUF && poll(&reader, 1, 0) == 0) {
        zk_log_raw(text, (uint32_t)n);
    } else {
        fwrite(text, 1, n, stdout);
        fflush(stdout);
    }
    free(text);
}

static void warn_open_admin(void)
{
    const struct zr_listener *l = first_listener(ZR_SERVES_BROKER | ZR_SERVES_ROUTING);
    if (l && is_any_address(&l->addr))
        zk_log(ZR_LOG_WARN, "no authentication is configured: everybody who reaches %.*s may send, receive and administrate", (int)l->url.len, l->url.ptr);
}

/* ---- running ------------------------------------------------------------------------------------------------------------------------ */

/* The steps from warm to serving; each undoes itself and what came before when it fails. */
static zr_status start_serving(void)
{
    zr_status status = zk_plugins_warm();
    if (status != ZR_OK)
        return status;
    settle_announced();
    if (zk_node.with_broker && !first_listener(ZR_SERVES_BROKER)) {
        status = ZR_ENOENT; /* optional transports, and none of them could be warmed */
        zk_problem(NULL, 0, "no listener is left that clients reach the broker by");
    } else if (zk_node.with_broker && (status = zk_broker_open()) != ZR_OK) {
        fail_raised("the broker cannot be opened");
    } else if ((status = zk_remoting_start()) != ZR_OK) {
        fail_raised("the transports cannot be bound");
        if (zk_node.with_broker)
            zk_broker_close();
    }
    if (status != ZR_OK) {
        zk_plugins_cool();
        zk_plugins_destroy();
        return status;
    }
    zk_plugins_activate();
    if (zk_node.with_broker)
        zk_broker_start();
    return ZR_OK;
}

static void stop_serving(void)
{
    struct zr_event stopping = { ZR_HDR(struct zr_event, 0), .point = ZR_POINT_STOPPING, .now_ms = zk_wall_ms() };
    struct zr_verdict verdict = { ZR_HDR(struct zr_verdict, 0), 0, 0, { NULL, 0 } };
    zk_hooks_run(ZR_POINT_STOPPING, &stopping, &verdict);
    if (zk_node.with_broker)
        zk_broker_stop();
    zk_plugins_drain(ZK_DRAIN_CALLERS, goodbye_ns());
    zk_remoting_stop();
    zk_plugins_drain(ZK_DRAIN_ALL, zk_node.set.drain_timeout * 1000000);
    if (zk_node.with_broker)
        zk_broker_close();
    zk_plugins_cool();
}

static zr_status create_plugins(void)
{
    const char *folder = zk_conf_fmt("%s/run/plugins", zk_node.data_dir);
    int64_t rc = zl_io_mkdirs(zk_io(), folder);
    if (rc < 0) {
        zk_problem(NULL, 0, "cannot make %s: %s", folder, strerrordesc_np((int)-rc));
        return ZR_EIO;
    }
    empty_folder(folder); /* of a process that ended in the middle; the lock says that nobody is in there */
    const char *temp = zk_library_noexec(folder) ? temp_folder() : NULL;
    zr_status status = make_plugins(temp ? temp : folder);
    if (temp)
        drop_temp_folder(temp);
    return status;
}

static int run(const struct zk_args *args)
{
    if (zk_config_load(&args->source) != ZR_OK)
        return fail_with_problems();
    zk_log_set((uint32_t)zk_node.set.log_level + ZR_LOG_ERROR, (uint32_t)zk_node.set.log_format);
    zk_log_start();
    zk_core_provide_services();
    if (zk_plugins_find() != ZR_OK)
        return fail_with_problems();
    provide_services();
    if (zk_config_take_data_dir() != ZR_OK)
        return fail_with_problems();
    if (zk_core_start((uint32_t)zk_node.set.workers) != ZR_OK)
        return fail_raised("cannot start");
    zr_status status = create_plugins();
    zk_config_warn_imported();
    zk_warnings_log();
    if (status == ZR_OK)
        status = start_serving();
    zk_warnings_log(); /* optional plugins that could not be warmed */
    if (status != ZR_OK) {
        zk_core_stop();
        return fail_with_problems();
    }
    warn_announced();
    warn_open_admin();
    if (zk_control_start(zk_node.data_dir) != ZR_OK)
        zk_log(ZR_LOG_WARN, "zaryactl's verbs for this process are missing: %s", zk_err_text());
    zk_log_flush(); /* both may go to one terminal: in the order in which it happened */
    print_boot_lines(args->source.face);
    zk_log(ZR_LOG_INFO, "started: %u plugins, data in %s", zk_n_instances, zk_node.data_dir);
    wait_for_end();
    zk_control_stop();
    stop_serving();
    zk_core_stop(); /* before destroy: what plugins still had queued runs while they are there */
    zk_plugins_destroy();
    zk_log(ZR_LOG_INFO, "stopped");
    return 0;
}

int main(int argc, char **argv)
{
    struct zk_args args;
    const char *why = NULL;
    if (zk_args_parse(argc, argv, &args, &why) != ZR_OK) {
        fprintf(stderr, "zarya: %s\n%s", why, zk_args_usage(args.source.face));
        return 2;
    }
    switch (args.what) {
    case ZK_DO_HELP:
        fputs(zk_args_usage(args.source.face), stdout);
        return 0;
    case ZK_DO_VERSION:
        printf("zarya " ZARYA_VERSION ", plugin ABI %u.%u\n", ZR_ABI_MAJOR, ZR_ABI_MINOR);
        return 0;
    case ZK_DO_LIST:
        return list_plugins(&args);
    case ZK_DO_SCHEMA:
        return show_schema(&args);
    case ZK_DO_CHECK:
        return check_all(&args, show_ok);
    case ZK_DO_PRINT:
        return check_all(&args, show_config);
    case ZK_DO_PRINT_APACHE:
        return check_all(&args, show_apache);
    default:
        take_signals();
        raise_file_limit();
        return run(&args);
    }
}
