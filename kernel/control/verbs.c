/* SPDX-License-Identifier: Apache-2.0 */
/* verbs.c - what a request on the control socket means, and how its answer looks.
 *
 * What stays true:
 *   1. A verb is known by its words ("log level"); the longest one that a request begins with is meant. The kernel's come first,
 *      then the plugins' in the order of the configuration. "NAME verb..." means that of the instance called NAME.
 *   2. An answer is one line. What a verb wrote is passed on only when it is one JSON value. */
#include "config/config.h"
#include "control/control.h"
#include "core/core_int.h"
#include "remoting/remoting.h"
#include "zl/json.h"
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define RESULT_MAX (32ull << 20)
#define NEAR_MAX 3u
#define NAME_MAX_BYTES 64u

static struct {
    struct zl_buf listeners; /* JSON members, made by the main thread */
    int64_t since_ns;
    _Atomic uint32_t wants_drain, leaving;
    pthread_mutex_t config; /* printing the configuration uses memory of its own that knows no threads */
} verbs = { .config = PTHREAD_MUTEX_INITIALIZER };

static zr_status usage(const char *text)
{
    zk_err_raise(ZR_EINVAL, 0, "usage: %s", text);
    return ZR_EINVAL;
}

static void put(struct zr_writer out, struct zl_buf *text)
{
    out.write(out.ctx, zl_buf_as_str(text));
    zl_buf_free(text);
}

static void put_text(struct zr_writer out, struct zl_buf *text)
{
    struct zl_buf quoted;
    zl_buf_init(&quoted, RESULT_MAX);
    zl_json_quote(&quoted, zl_buf_as_str(text));
    zl_buf_free(text);
    put(out, &quoted);
}

/* ---- the kernel's own verbs ---------------------------------------------------------------------------------------------- */

static const char *stage_name(uint32_t stage)
{
    static const char *const names[] = { "loaded", "cold", "warm", "active", "drained", "cooled" };
    return stage < sizeof names / sizeof *names ? names[stage] : "?";
}

static zr_status show_plugins(const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    struct zl_buf text;
    struct zl_jw w;
    (void)args;
    if (n_args > 0)
        return usage("plugins");
    zl_buf_init(&text, RESULT_MAX);
    zl_jw_init(&w, &text, 0);
    zl_jw_begin(&w, '[');
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        const struct zk_instance *in = zk_instances[i];
        zl_jw_begin(&w, '{');
        zl_jw_kstr(&w, "name", zl_str(in->as));
        zl_jw_kstr(&w, "id", zl_str(in->id));
        zl_jw_kstr(&w, "version", zl_str(in->version));
        zl_jw_ki64(&w, "generation", in->generation);
        zl_jw_kstr(&w, "state", zl_str(stage_name(__atomic_load_n(&in->stage, __ATOMIC_RELAXED))));
        zl_jw_ki64(&w, "pins", __atomic_load_n(&in->pins, __ATOMIC_RELAXED));
        zl_jw_ki64(&w, "threads", __atomic_load_n(&in->threads, __ATOMIC_RELAXED));
        zl_jw_ki64(&w, "verbs", in->commands ? in->commands->n_verbs : 0);
        zl_jw_kstr(&w, "file", zl_str(in->file));
        zl_jw_end(&w, '}');
    }
    zl_jw_end(&w, ']');
    put(out, &text);
    return ZR_OK;
}

static zr_status show_metrics(const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    struct zl_buf text;
    (void)args;
    if (n_args > 0)
        return usage("metrics");
    zl_buf_init(&text, RESULT_MAX);
    zk_metrics_text(&text);
    put_text(out, &text);
    return ZR_OK;
}

static zr_status show_config(const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    struct zl_buf text;
    uint32_t apache = n_args == 1 && zl_is(args[0], "--apache");
    if (n_args > apache)
        return usage("config [--apache]");
    zl_buf_init(&text, RESULT_MAX);
    pthread_mutex_lock(&verbs.config);
    if (apache)
        zk_config_print_apache(&text, 0);
    else
        zk_config_print(&text);
    pthread_mutex_unlock(&verbs.config);
    put_text(out, &text);
    return ZR_OK;
}

static void status_storage(struct zl_jw *w)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        const struct zk_instance *in = zk_instances[i];
        struct zr_storage_info info = { ZR_HDR(struct zr_storage_info, 0) };
        if (!in->storage || in->stage < ZK_WARM)
            continue;
        in->storage->info(in->inst, &info);
        zl_jw_key(w, zl_str("store"));
        zl_jw_begin(w, '{');
        zl_jw_kstr(w, "name", zl_str(in->as));
        zl_jw_kstr(w, "path", info.log_path);
        zl_jw_ki64(w, "begin", info.positions.begin);
        zl_jw_ki64(w, "written", info.positions.written);
        zl_jw_ki64(w, "flushed", info.positions.flushed);
        zl_jw_ki64(w, "visible", info.positions.visible);
        zl_jw_ki64(w, "dispatched", info.positions.dispatched);
        zl_jw_ki64(w, "topics", (int64_t)info.n_topics);
        zl_jw_ki64(w, "queues", (int64_t)info.n_queues);
        zl_jw_kbool(w, "sync", info.sync);
        zl_jw_kbool(w, "writable", info.writable);
        if (!info.writable)
            zl_jw_kstr(w, "why", info.why_not);
        zl_jw_end(w, '}');
        return;
    }
}

static zr_status show_status(const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    struct zl_buf text;
    struct zl_jw w;
    (void)args;
    if (n_args > 0)
        return usage("status");
    zl_buf_init(&text, RESULT_MAX);
    zl_jw_init(&w, &text, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "state", zl_str(atomic_load(&verbs.leaving) ? "leaving" : "serving"));
    zl_jw_ki64(&w, "pid", getpid());
    zl_jw_ki64(&w, "uptime_ms", (zk_mono_ns() - verbs.since_ns) / 1000000);
    zl_jw_kstr(&w, "data", zl_str(zk_node.data_dir));
    zl_jw_kstr(&w, "log_level", zl_str(zk_log_level_name(zk_log_level())));
    if (zk_node.with_broker) {
        zl_jw_kstr(&w, "broker", zk_node.set.name);
        zl_jw_kstr(&w, "cluster", zk_node.set.cluster);
        zl_jw_ki64(&w, "id", zk_node.set.id);
        zl_jw_kstr(&w, "announced", zk_node.ip1);
    }
    zl_jw_key(&w, zl_str("listeners"));
    zl_jw_raw(&w, zl_buf_as_str(&verbs.listeners));
    status_storage(&w);
    zl_jw_end(&w, '}');
    put(out, &text);
    return ZR_OK;
}

static zr_status log_level(const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    struct zl_buf text;
    uint32_t level = zk_log_level();
    if (n_args > 1)
        return usage("log level [error|warn|info|debug]");
    if (n_args == 1) {
        for (level = ZR_LOG_ERROR; level <= ZR_LOG_DEBUG && !zl_is(args[0], zk_log_level_name(level)); level++)
            ;
        if (level > ZR_LOG_DEBUG)
            return usage("log level [error|warn|info|debug]");
        zk_log_set_level(level);
        pthread_mutex_lock(&verbs.config);
        zk_node.set.log_level = (int64_t)level - ZR_LOG_ERROR;
        pthread_mutex_unlock(&verbs.config);
        zk_log(ZR_LOG_WARN, "the level of the log is now %s", zk_log_level_name(level));
    }
    zl_buf_init(&text, 64);
    zl_json_quote(&text, zl_str(zk_log_level_name(level)));
    put(out, &text);
    return ZR_OK;
}

static void say(struct zr_writer out, const char *text)
{
    struct zl_buf quoted;
    zl_buf_init(&quoted, 1024);
    zl_json_quote(&quoted, zl_str(text));
    put(out, &quoted);
}

static zr_status stop(const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    (void)args;
    if (n_args > 0)
        return usage("stop");
    zk_log(ZR_LOG_INFO, "the control socket asks for the end");
    say(out, "stopping");
    kill(getpid(), SIGTERM);
    return ZR_OK;
}

static zr_status drain(const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    (void)args;
    if (n_args > 0)
        return usage("drain");
    atomic_store(&verbs.wants_drain, 1);
    atomic_store(&verbs.leaving, 1);
    say(out, "leaving the name servers; who is connected is served until stop");
    kill(getpid(), SIGUSR1);
    return ZR_OK;
}

uint32_t zk_control_wants_drain(void) { return atomic_exchange(&verbs.wants_drain, 0); }

static zr_status help(const struct zr_str *args, uint32_t n_args, struct zr_writer out);

static const struct { const char *name, *usage, *doc; zr_status (*run)(const struct zr_str *args, uint32_t n_args, struct zr_writer out); } own[] = {
    { "help", "", "Lists the verbs of this process.", help },
    { "status", "", "Addresses, time since the start, positions of the store.", show_status },
    { "plugins", "", "Loaded plugins with version, generation and state.", show_plugins },
    { "metrics", "", "All metrics, in Prometheus' text form.", show_metrics },
    { "config", "[--apache]", "The configuration in effect, secrets hidden; --apache: as broker.conf names it.", show_config },
    { "log level", "[error|warn|info|debug]", "Shows or changes how much is logged, until the process ends.", log_level },
    { "drain", "", "Leaves the name servers, so that clients go elsewhere; who is connected is served on.", drain },
    { "stop", "", "Ends the process in order, as SIGTERM does.", stop },
};
#define N_OWN (sizeof own / sizeof *own)

/* ---- finding ------------------------------------------------------------------------------------------------------------- */

static struct zk_verb own_verb(uint32_t i) { return (struct zk_verb){ .name = own[i].name, .usage = own[i].usage, .doc = own[i].doc, .ours = own[i].run }; }

/* Every verb, the kernel's first, instances in the order of the configuration; non-zero from each ends it. */
static void each_verb(uint32_t (*each)(void *ctx, const struct zk_verb *verb), void *ctx)
{
    for (uint32_t i = 0; i < N_OWN; i++) {
        struct zk_verb v = own_verb(i);
        if (each(ctx, &v))
            return;
    }
    for (uint32_t p = 0; p < zk_node.n_plugins; p++)
        for (uint32_t i = 0; i < zk_n_instances; i++) {
            const struct zk_instance *in = zk_instances[i];
            if (in->conf != &zk_node.plugins[p] || !in->commands || in->stage < ZK_WARM || in->stage == ZK_COOLED)
                continue;
            for (uint32_t k = 0; k < in->commands->n_verbs; k++) {
                const struct zr_verb *t = (const struct zr_verb *)(const void *)((const char *)in->commands->verbs + (uint64_t)k * in->commands->verbs->hdr.size);
                struct zk_verb v = { .name = t->name, .usage = t->usage ? t->usage : "", .doc = t->doc ? t->doc : "", .of = in, .theirs = t };
                if (each(ctx, &v))
                    return;
            }
        }
}

/* How many words of the request, from `first` on, are the verb's name; 0: it is not that verb. */
static uint32_t words_of_name(const char *name, const struct zk_words *words, uint32_t first)
{
    struct zr_str rest = zl_str(name), word;
    uint32_t n = 0;
    while (zl_split(&rest, ' ', &word)) {
        if (first + n >= words->n || !zl_eq(word, words->at[first + n]))
            return 0;
        n++;
    }
    return n;
}

struct find { const struct zk_words *words; struct zk_verb best; };

static uint32_t find_one(void *ctx, const struct zk_verb *v)
{
    struct find *f = ctx;
    uint32_t n = words_of_name(v->name, f->words, 0);
    if (!n && v->of && zl_is(f->words->at[0], v->of->as)) {
        n = words_of_name(v->name, f->words, 1);
        n += n > 0;
    }
    if (n > f->best.n_words) {
        f->best = *v;
        f->best.n_words = n;
    }
    return 0;
}

/* The names nearest to what was written, best first. */
struct near { char written[2 * NAME_MAX_BYTES], first[NAME_MAX_BYTES + 1]; const char *name[NEAR_MAX]; uint32_t distance[NEAR_MAX]; };

static uint32_t near_one(void *ctx, const struct zk_verb *v)
{
    struct near *near = ctx;
    uint32_t whole = zk_distance(zl_str(near->written), zl_str(v->name)), word = zk_distance(zl_str(near->first), zl_str(v->name)), d = whole < word ? whole : word;
    const char *name = v->name;
    uint64_t n = strlen(near->first);
    if (strncmp(name, near->first, n) == 0 && (name[n] == ' ' || n >= 3))
        d = 0; /* of the same family */
    if (d > 3 || (d > 0 && d * 2 > strlen(name)))
        return 0;
    for (uint32_t i = 0; i < NEAR_MAX; i++) {
        if (near->name[i] && strcmp(near->name[i], name) == 0)
            return 0;
        if (near->name[i] && near->distance[i] <= d)
            continue;
        const char *old_name = near->name[i];
        uint32_t old = near->distance[i];
        near->name[i] = name;
        near->distance[i] = d;
        name = old_name;
        d = old;
        if (!name)
            return 0;
    }
    return 0;
}

static void raise_unknown(const struct zk_words *words)
{
    struct near near = { .written = "" };
    char text[256] = "";
    struct zr_str a = words->at[0], b = words->n > 1 ? words->at[1] : (struct zr_str){ "", 0 };
    int a_len = (int)(a.len < NAME_MAX_BYTES ? a.len : NAME_MAX_BYTES), b_len = (int)(b.len < NAME_MAX_BYTES - 2 ? b.len : NAME_MAX_BYTES - 2);
    snprintf(near.first, sizeof near.first, "%.*s", a_len, a.ptr);
    snprintf(near.written, sizeof near.written, "%.*s%s%.*s", a_len, a.ptr, b_len ? " " : "", b_len, b.ptr);
    each_verb(near_one, &near);
    for (uint32_t i = 0; i < NEAR_MAX && near.name[i]; i++) {
        uint64_t at = strlen(text);
        snprintf(text + at, sizeof text - at, "%s\"%s\"", i ? ", " : "; did you mean ", near.name[i]);
    }
    zk_err_raise(ZR_EINVAL, 0, "there is no verb \"%s\"%s%s (\"help\" lists all)", near.written, text, *text ? "?" : "");
}

zr_status zk_verb_find(const struct zk_words *words, struct zk_verb *ret)
{
    struct find f = { .words = words };
    each_verb(find_one, &f);
    *ret = f.best;
    if (f.best.n_words > 0)
        return ZR_OK;
    raise_unknown(words);
    return ZR_EINVAL;
}

static uint32_t help_one(void *ctx, const struct zk_verb *v)
{
    struct zl_jw *w = ctx;
    zl_jw_begin(w, '{');
    zl_jw_kstr(w, "verb", zl_str(v->name));
    zl_jw_kstr(w, "usage", zl_str(v->usage));
    zl_jw_kstr(w, "of", zl_str(v->of ? v->of->as : "kernel"));
    zl_jw_kstr(w, "doc", zl_str(v->doc));
    zl_jw_end(w, '}');
    return 0;
}

static zr_status help(const struct zr_str *args, uint32_t n_args, struct zr_writer out)
{
    struct zl_buf text;
    struct zl_jw w;
    (void)args;
    if (n_args > 0)
        return usage("help");
    zl_buf_init(&text, RESULT_MAX);
    zl_jw_init(&w, &text, 0);
    zl_jw_begin(&w, '[');
    each_verb(help_one, &w);
    zl_jw_end(&w, ']');
    put(out, &text);
    return ZR_OK;
}

/* ---- running ------------------------------------------------------------------------------------------------------------- */

static const char *status_name(zr_status status)
{
    switch (status) {
    case ZR_EINVAL: return "EINVAL";
    case ZR_ENOENT: return "ENOENT";
    case ZR_ENOTSUP: return "ENOTSUP";
    case ZR_ECLOSED: return "ECLOSED";
    case ZR_EFULL: return "EFULL";
    case ZR_EPERM: return "EPERM";
    case ZR_EEXIST: return "EEXIST";
    case ZR_ETIMEOUT: return "ETIMEOUT";
    case ZR_EAGAIN: return "EAGAIN";
    case ZR_ENOMEM: return "ENOMEM";
    case ZR_ECORRUPT: return "ECORRUPT";
    default: return "EIO";
    }
}

void zk_verb_refuse(struct zl_buf *out, zr_status status, const char *text)
{
    zl_buf_fmt(out, "{\"ok\":false,\"status\":\"%s\",\"error\":", status_name(status));
    zl_json_quote(out, zl_str(*text ? text : status_name(status)));
    zl_buf_cstr(out, "}\n");
}

static void collect(void *ctx, struct zr_str text) { zl_buf_str(ctx, text); }

static uint32_t is_json(struct zr_str text)
{
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at;
    if (text.len == 0 || zl_json_parse(text, &doc, &root, &at) != ZR_OK)
        return 0;
    zl_json_free(doc);
    return 1;
}

void zk_verb_run(const struct zk_verb *v, const struct zk_words *words, struct zl_buf *out)
{
    struct zl_buf result;
    struct zr_writer writer = { collect, &result };
    const struct zr_str *args = words->at + v->n_words;
    uint32_t n = words->n - v->n_words;
    zl_buf_init(&result, RESULT_MAX);
    zk_err_clear();
    zr_status status = v->theirs ? v->theirs->run(v->of->inst, args, n, writer) : v->ours(args, n, writer);
    if (status != ZR_OK) {
        zk_verb_refuse(out, status, zk_err_text());
    } else if (result.failed) {
        zk_verb_refuse(out, ZR_EFULL, "the answer is larger than 32 MiB, or memory ran out");
    } else if (v->theirs && !is_json(zl_buf_as_str(&result))) {
        zk_verb_refuse(out, ZR_ECORRUPT, "the verb's answer is not one JSON value");
    } else {
        for (uint64_t i = 0; i < result.len; i++) /* outside of texts, where JSON has none */
            if (result.ptr[i] == '\n' || result.ptr[i] == '\r')
                result.ptr[i] = ' ';
        zl_buf_cstr(out, "{\"ok\":true,\"result\":");
        zl_buf_str(out, zl_buf_as_str(&result));
        zl_buf_cstr(out, "}\n");
    }
    zl_buf_free(&result);
    if (out->failed) {
        zl_buf_clear(out);
        zk_verb_refuse(out, ZR_ENOMEM, "memory ran out");
    }
}

/* ---- what only the main thread may ask ----------------------------------------------------------------------------------- */

void zk_verbs_open(void)
{
    struct zl_jw w;
    verbs.since_ns = zk_mono_ns();
    atomic_store(&verbs.wants_drain, 0);
    atomic_store(&verbs.leaving, 0);
    zl_buf_init(&verbs.listeners, 1u << 20);
    zl_jw_init(&w, &verbs.listeners, 0);
    zl_jw_begin(&w, '[');
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        const struct zr_listener *list = NULL;
        const struct zk_instance *in = zk_instances[i];
        uint32_t n = in->transport && in->stage >= ZK_WARM ? in->transport->listeners(in->inst, &list) : 0;
        for (uint32_t k = 0; k < n; k++) {
            const struct zr_listener *l = (const struct zr_listener *)(const void *)((const char *)list + (uint64_t)k * list->hdr.size);
            zl_jw_str(&w, l->url);
        }
    }
    zl_jw_end(&w, ']');
}

void zk_verbs_close(void) { zl_buf_free(&verbs.listeners); }
