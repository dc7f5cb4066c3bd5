/* SPDX-License-Identifier: Apache-2.0 */
/* report.c - the result of a run, and what /proc says of a process. */
#include "bench.h"
#include <dirent.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char *const MODE_NAMES[] = { "send", "pull", "e2e", "route", "idle" };

/* ---- /proc ---- */

static uint64_t count_dir(const char *path)
{
    DIR *dir = opendir(path);
    uint64_t n = 0;
    for (struct dirent *e; dir && (e = readdir(dir));) n += e->d_name[0] != '.';
    if (dir) closedir(dir);
    return n;
}

/* A "Name:   123 kB" line of a file. */
static uint64_t proc_line(int32_t pid, const char *file, const char *name)
{
    char path[64], line[256];
    uint64_t v = 0;
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    FILE *f = fopen(path, "re");
    while (f && fgets(line, sizeof(line), f))
        if (strncmp(line, name, strlen(name)) == 0) v = strtoull(line + strlen(name), NULL, 10);
    if (f) fclose(f);
    return v;
}

void proc_read(int32_t pid, struct proc_figures *ret)
{
    char path[64], text[1024];
    memset(ret, 0, sizeof(*ret));
    if (!pid) return;
    snprintf(path, sizeof(path), "/proc/%d/stat", pid);
    FILE *f = fopen(path, "re");
    if (!f) return;
    size_t n = fread(text, 1, sizeof(text) - 1, f);
    fclose(f);
    text[n] = 0;
    const char *at = strrchr(text, ')'); /* the name may hold anything */
    unsigned long user = 0, system = 0;
    if (!at || sscanf(at + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &system) != 2) return;
    ret->cpu_s = (double)(user + system) / (double)sysconf(_SC_CLK_TCK);
    ret->rss_kib = proc_line(pid, "status", "VmRSS:");
    ret->anon_kib = proc_line(pid, "status", "RssAnon:");
    ret->pss_kib = proc_line(pid, "smaps_rollup", "Pss:");
    ret->threads = proc_line(pid, "status", "Threads:");
    ret->written = proc_line(pid, "io", "write_bytes:");
    snprintf(path, sizeof(path), "/proc/%d/fd", pid);
    ret->fds = count_dir(path);
    ret->ok = 1;
}

/* ---- text and JSON ---- */

static double us(uint64_t ns) { return (double)ns / 1000.0; }

static void hist_text(const char *what, const struct hist *h)
{
    printf("  %-9s p50 %.1f  p90 %.1f  p99 %.1f  p99.9 %.1f  p99.99 %.1f  max %.1f  mean %.1f us  (%llu samples%s)\n",
           what, us(hist_at(h, 0.5)), us(hist_at(h, 0.9)), us(hist_at(h, 0.99)), us(hist_at(h, 0.999)),
           us(hist_at(h, 0.9999)), us(h->max), hist_mean(h) / 1000.0, (unsigned long long)h->n,
           h->n < 100000 ? "; too few to speak of p99.9" : "");
}

static void hist_json(struct zl_jw *w, const char *key, const struct hist *h)
{
    static const struct {
        const char *name;
        double share;
    } AT[] = { { "p50", 0.5 }, { "p90", 0.9 }, { "p99", 0.99 }, { "p99.9", 0.999 }, { "p99.99", 0.9999 } };
    zl_jw_key(w, zl_str(key));
    zl_jw_begin(w, '{');
    zl_jw_ki64(w, "samples", (int64_t)h->n);
    for (uint32_t i = 0; i < sizeof(AT) / sizeof(AT[0]); i++) {
        zl_jw_key(w, zl_str(AT[i].name));
        zl_jw_f64(w, us(hist_at(h, AT[i].share)));
    }
    zl_jw_key(w, zl_str("max"));
    zl_jw_f64(w, us(h->max));
    zl_jw_key(w, zl_str("mean"));
    zl_jw_f64(w, hist_mean(h) / 1000.0);
    zl_jw_end(w, '}');
}

static void kf64(struct zl_jw *w, const char *key, double v)
{
    zl_jw_key(w, zl_str(key));
    zl_jw_f64(w, v);
}

static void proc_json(struct zl_jw *w, const struct proc_figures *a, const struct proc_figures *b, double seconds,
                      uint64_t messages)
{
    if (!a->ok || !b->ok) return;
    double cpu = b->cpu_s - a->cpu_s;
    kf64(w, "cpu_percent", seconds > 0 ? 100.0 * cpu / seconds : 0);
    if (messages) kf64(w, "cpu_us_per_message", cpu * 1e6 / (double)messages);
    zl_jw_ki64(w, "rss_kib", (int64_t)b->rss_kib);
    zl_jw_ki64(w, "rss_anon_kib", (int64_t)b->anon_kib);
    zl_jw_ki64(w, "pss_kib", (int64_t)b->pss_kib);
    zl_jw_ki64(w, "threads", (int64_t)b->threads);
    zl_jw_ki64(w, "fds", (int64_t)b->fds);
}

static void codes_json(struct zl_jw *w, const struct stats *s)
{
    zl_jw_key(w, zl_str("codes"));
    zl_jw_begin(w, '[');
    for (uint32_t i = 0; i < s->n_codes; i++) {
        zl_jw_begin(w, '{');
        zl_jw_ki64(w, "code", s->codes[i].code);
        zl_jw_ki64(w, "n", (int64_t)s->codes[i].n);
        zl_jw_kstr(w, "remark", zl_str(s->codes[i].remark));
        zl_jw_end(w, '}');
    }
    zl_jw_end(w, ']');
}

static void verify_json(struct zl_jw *w, const struct bench *b, const struct stats *s, uint64_t lost)
{
    zl_jw_ki64(w, "corrupt", (int64_t)s->corrupt);
    zl_jw_ki64(w, "reordered", (int64_t)s->reordered);
    if (!b->acked) return;
    zl_jw_ki64(w, "lost", (int64_t)lost);
    zl_jw_ki64(w, "doubled", (int64_t)s->doubled);
    zl_jw_ki64(w, "unacknowledged_but_stored", (int64_t)s->ghosts);
}

static void print_json(struct zl_buf *out)
{
    fwrite(out->ptr, 1, out->len, stdout);
    putchar('\n');
    zl_buf_free(out);
}

static void report_json(const struct bench *b, const struct stats *s, const struct proc_figures *before,
                        const struct proc_figures *after, double seconds, uint64_t lost)
{
    struct zl_buf out;
    struct zl_jw w;
    const struct options *o = &b->o;
    zl_buf_init(&out, 1u << 20);
    zl_jw_init(&w, &out, 0);
    zl_jw_begin(&w, '{');
    zl_jw_kstr(&w, "mode", zl_str(MODE_NAMES[o->mode]));
    if (o->label) zl_jw_kstr(&w, "label", zl_str(o->label));
    zl_jw_ki64(&w, "connections", o->conns);
    zl_jw_ki64(&w, "inflight", o->inflight);
    zl_jw_ki64(&w, "size", o->size);
    zl_jw_ki64(&w, "batch", o->batch);
    zl_jw_ki64(&w, "topics", o->topics);
    zl_jw_ki64(&w, "queues", o->queues);
    zl_jw_ki64(&w, "threads", o->threads);
    kf64(&w, "rate", o->rate);
    zl_jw_kstr(&w, "loop", zl_str(o->rate > 0 ? "open" : "closed"));
    zl_jw_kstr(&w, "header", zl_str(o->binary ? "binary" : "json"));
    kf64(&w, "seconds", seconds);
    zl_jw_ki64(&w, "requests", (int64_t)s->requests);
    zl_jw_ki64(&w, "messages", (int64_t)s->messages);
    kf64(&w, "messages_per_s", seconds > 0 ? (double)s->messages / seconds : 0);
    kf64(&w, "body_mb_per_s", seconds > 0 ? (double)s->bytes / seconds / 1e6 : 0);
    if (o->mode == MODE_PULL) zl_jw_ki64(&w, "examined", (int64_t)s->examined);
    if (o->mode == MODE_PULL) kf64(&w, "examined_per_s", seconds > 0 ? (double)s->examined / seconds : 0);
    hist_json(&w, "latency_us", &s->latency);
    if (o->mode == MODE_E2E) hist_json(&w, "delivery_us", &s->delivery);
    if (o->rate > 0) hist_json(&w, "late_us", &s->late);
    zl_jw_ki64(&w, "failed", (int64_t)s->failed);
    zl_jw_ki64(&w, "unanswered", (int64_t)s->unanswered);
    zl_jw_ki64(&w, "lost_connections", (int64_t)s->lost_conns);
    codes_json(&w, s);
    verify_json(&w, b, s, lost);
    proc_json(&w, before, after, seconds, s->messages);
    zl_jw_end(&w, '}');
    print_json(&out);
}

static void report_text(const struct bench *b, const struct stats *s, const struct proc_figures *before,
                        const struct proc_figures *after, double seconds, uint64_t lost)
{
    const struct options *o = &b->o;
    printf("%s%s%s: %u connections x %u in flight, %u bytes x %u, %s loop, %s header\n", o->label ? o->label : "",
           o->label ? " " : "", MODE_NAMES[o->mode], o->conns, o->inflight, o->size, o->batch,
           o->rate > 0 ? "open" : "closed", o->binary ? "binary" : "JSON");
    printf("  %.0f messages/s  %.1f MB/s of bodies  (%llu messages in %.2f s)\n",
           seconds > 0 ? (double)s->messages / seconds : 0, seconds > 0 ? (double)s->bytes / seconds / 1e6 : 0,
           (unsigned long long)s->messages, seconds);
    if (o->mode == MODE_PULL)
        printf("  %.0f queue entries/s passed for them\n", seconds > 0 ? (double)s->examined / seconds : 0);
    hist_text(o->mode == MODE_E2E ? "send" : "latency", &s->latency);
    if (o->mode == MODE_E2E) hist_text("delivery", &s->delivery);
    if (o->rate > 0) hist_text("late", &s->late);
    if (before->ok && after->ok)
        printf("  process %d: %.2f us CPU a message, %.1f %% of a core, %.1f MB resident (%.1f anonymous), %llu "
               "threads, %llu descriptors\n",
               o->pid, s->messages ? (after->cpu_s - before->cpu_s) * 1e6 / (double)s->messages : 0,
               100 * (after->cpu_s - before->cpu_s) / seconds, (double)after->rss_kib / 1024,
               (double)after->anon_kib / 1024, (unsigned long long)after->threads, (unsigned long long)after->fds);
    if (b->acked)
        printf("  verified: %llu acknowledged, %llu lost, %llu doubled, %llu reordered, %llu corrupt, %llu stored "
               "without an acknowledgement\n",
               (unsigned long long)s->sent_messages, (unsigned long long)lost, (unsigned long long)s->doubled,
               (unsigned long long)s->reordered, (unsigned long long)s->corrupt, (unsigned long long)s->ghosts);
    if (s->failed || s->unanswered || s->lost_conns)
        printf("  %llu failed, %llu unanswered, %llu connections lost\n", (unsigned long long)s->failed,
               (unsigned long long)s->unanswered, (unsigned long long)s->lost_conns);
    for (uint32_t i = 0; i < s->n_codes; i++)
        printf("    code %d x %llu: %s\n", s->codes[i].code, (unsigned long long)s->codes[i].n, s->codes[i].remark);
}

void report(const struct bench *b, const struct stats *s, const struct proc_figures *before,
            const struct proc_figures *after, double seconds, uint64_t lost)
{
    (b->o.json ? report_json : report_text)(b, s, before, after, seconds, lost);
}

void report_idle(const struct bench *b, const struct proc_figures *before, const struct proc_figures *after,
                 double seconds)
{
    if (b->o.json) {
        struct zl_buf out;
        struct zl_jw w;
        zl_buf_init(&out, 4096);
        zl_jw_init(&w, &out, 0);
        zl_jw_begin(&w, '{');
        zl_jw_kstr(&w, "mode", zl_str("idle"));
        if (b->o.label) zl_jw_kstr(&w, "label", zl_str(b->o.label));
        kf64(&w, "seconds", seconds);
        proc_json(&w, before, after, seconds, 0);
        zl_jw_end(&w, '}');
        print_json(&out);
        return;
    }
    printf("%s%sidle: %.2f %% of a core over %.1f s, %.1f MB resident (%.1f anonymous, %.1f proportional), %llu "
           "threads, %llu descriptors\n",
           b->o.label ? b->o.label : "", b->o.label ? " " : "", 100 * (after->cpu_s - before->cpu_s) / seconds, seconds,
           (double)after->rss_kib / 1024, (double)after->anon_kib / 1024, (double)after->pss_kib / 1024,
           (unsigned long long)after->threads, (unsigned long long)after->fds);
}
