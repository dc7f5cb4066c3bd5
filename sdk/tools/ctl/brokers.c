/* SPDX-License-Identifier: Apache-2.0 */
/* brokers.c - which brokers a command is about, and what clusters and brokers say of themselves. */
#include "ctl.h"
#include <string.h>
#include <time.h>

const char *addr_text(const struct broker *b, char to[ZC_NAME_MAX])
{
    uint64_t n = b->addr.len < ZC_NAME_MAX ? b->addr.len : ZC_NAME_MAX - 1;
    memcpy(to, b->addr.ptr, n);
    to[n] = 0;
    return to;
}

void time_text(int64_t ms, char to[32])
{
    time_t s = ms / 1000;
    struct tm tm;
    if (ms <= 0) {
        strcpy(to, "-");
        return;
    }
    localtime_r(&s, &tm);
    size_t n = strftime(to, 32, "%Y-%m-%d %H:%M:%S", &tm);
    snprintf(to + n, 32 - n, ",%03d", (int)(ms % 1000));
}

static uint32_t in_cluster(const struct zl_json *clusters, const char *cluster, struct zr_str broker)
{
    const struct zl_json *names = zl_json_get(clusters, cluster);
    for (const struct zl_json *n = names ? names->child : NULL; n; n = n->next)
        if (zl_eq(zl_json_str(n), broker)) return 1;
    return 0;
}

int each_broker(struct ctl *c, uint32_t masters_only, int (*fn)(struct ctl *c, const struct broker *broker, void *ctx),
                void *ctx)
{
    struct zc_reply reply;
    struct zc_err err;
    const char *cluster = opt(c, 'c');
    uint32_t n = 0;
    int rc = 0;
    if (opt(c, 'b')) return fn(c, &(struct broker){ .addr = zl_str(opt(c, 'b')) }, ctx);
    if (zc_admin_cluster(c->client, &reply, &err)) return failed("asking for the clusters", &err);
    const struct zl_json *table = zl_json_get(reply.root, "brokerAddrTable"),
                         *clusters = zl_json_get(reply.root, "clusterAddrTable");
    if (cluster && !zl_json_get(clusters, cluster))
        rc = EXIT_FAILED, fprintf(stderr, "zaryactl: the name server knows no cluster %s\n", cluster);
    for (const struct zl_json *b = table && !rc ? table->child : NULL; b; b = b->next) {
        if (cluster && !in_cluster(clusters, cluster, b->key)) continue;
        const struct zl_json *addrs = zl_json_get(b, "brokerAddrs");
        for (const struct zl_json *a = addrs ? addrs->child : NULL; a; a = a->next) {
            struct broker one = {
                .cluster = zl_json_get_str(b, "cluster"), .name = b->key, .addr = zl_json_str(a), .id = -1
            };
            zl_parse_i64(a->key, &one.id);
            if (masters_only && one.id != 0) continue;
            n++;
            int rc2 = fn(c, &one, ctx);
            if (rc2) rc = rc2;
        }
    }
    zc_reply_free(&reply);
    if (n == 0 && rc == 0)
        rc = EXIT_FAILED,
        fprintf(stderr, "zaryactl: the name server knows no %s\n", masters_only ? "master" : "broker");
    return rc;
}

/* ---- cluster list ---- */

/* The first of the figures for the last 10, 60 and 600 seconds; none in the first seconds. */
static void cell_tps(struct table *t, struct zr_str s)
{
    char text[64];
    struct zr_str word = { "", 0 };
    s = zl_trim(s);
    zl_split(&s, ' ', &word);
    snprintf(text, sizeof(text), "%.*s", (int)word.len, word.ptr);
    cell_f(t, "%.2f", strtod(text, NULL));
}

static int cluster_row(struct ctl *c, const struct broker *b, void *ctx)
{
    struct table *t = ctx;
    struct zc_reply reply;
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    cell(t, b->cluster);
    cell(t, b->name);
    cell_i(t, b->id);
    cell(t, b->addr);
    if (zc_admin_runtime(c->client, addr_text(b, addr), &reply, &err)) {
        for (int i = 0; i < 5; i++) cell_c(t, "-");
        cell_c(t, "no");
        return failed(addr, &err);
    }
    const struct zl_json *info = zl_json_get(reply.root, "table");
    cell(t, zl_json_get_str(info, "brokerVersionDesc"));
    cell_tps(t, zl_json_get_str(info, "putTps"));
    cell_tps(t, zl_json_get_str(info, "getTransferredTps"));
    cell(t, zl_json_get_str(info, "dispatchBehindBytes"));
    cell(t, zl_json_get_str(info, "commitLogDiskRatio"));
    cell_c(t, zl_is(zl_json_get_str(info, "brokerActive"), "false") ? "no" : "yes");
    zc_reply_free(&reply);
    return 0;
}

/* ---- cluster list -m ---- */

static int64_t figure(const struct zl_json *info, const char *key)
{
    int64_t v = 0;
    zl_parse_i64(zl_trim(zl_json_get_str(info, key)), &v);
    return v;
}

/* What came and went from yesterday's midnight to today's, and since. */
static int totals_row(struct ctl *c, const struct broker *b, void *ctx)
{
    static const char *const KEYS[] = { "msgPutTotalTodayMorning", "msgPutTotalYesterdayMorning", "msgGetTotalTodayMorning",
                                        "msgGetTotalYesterdayMorning", "msgPutTotalTodayNow", "msgPutTotalTodayMorning",
                                        "msgGetTotalTodayNow", "msgGetTotalTodayMorning" };
    struct table *t = ctx;
    struct zc_reply reply;
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    cell(t, b->cluster);
    cell(t, b->name);
    if (zc_admin_runtime(c->client, addr_text(b, addr), &reply, &err)) {
        for (int i = 0; i < 4; i++) cell_c(t, "-");
        return failed(addr, &err);
    }
    const struct zl_json *info = zl_json_get(reply.root, "table");
    for (int i = 0; i < 8; i += 2) cell_i(t, figure(info, KEYS[i]) - figure(info, KEYS[i + 1]));
    zc_reply_free(&reply);
    return 0;
}

static int cluster_totals(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Cluster Name:cluster",        "#Broker Name:broker",
                                           "#InTotalYest:#in_yesterday",   "#OutTotalYest:#out_yesterday",
                                           "#InTotalToday:#in_today",      "#OutTotalToday:#out_today" };
    struct table *t = table_new(COLUMNS, 6);
    int rc = each_broker(c, 0, totals_row, t);
    table_print(t, c->json);
    return rc;
}

int cluster_list(struct ctl *c)
{
    if (opt(c, 'm')) return cluster_totals(c);
    static const char *const COLUMNS[] = {
        "#Cluster Name:cluster", "#Broker Name:broker", "#BID:#id",         "#Addr:address",
        "#Version:version",      "#InTPS:#in_tps",      "#OutTPS:#out_tps", "#Behind:#dispatch_behind_bytes",
        "#Space:#disk_ratio",    "#Activated:active"
    };
    struct table *t = table_new(COLUMNS, 10);
    int rc = each_broker(c, 0, cluster_row, t);
    table_print(t, c->json);
    return rc;
}

/* ---- broker status ---- */

static int by_key(const void *a, const void *b)
{
    return zl_compare((*(const struct zl_json *const *)a)->key, (*(const struct zl_json *const *)b)->key);
}

static int status_rows(struct ctl *c, const struct broker *b, void *ctx)
{
    struct table *t = ctx;
    struct zc_reply reply;
    struct zc_err err;
    char addr[ZC_NAME_MAX];
    if (zc_admin_runtime(c->client, addr_text(b, addr), &reply, &err)) return failed(addr, &err);
    const struct zl_json *info = zl_json_get(reply.root, "table");
    uint32_t n = 0;
    const struct zl_json **sorted = calloc((info ? info->n : 0) + 1, sizeof(void *));
    for (const struct zl_json *i = info && sorted ? info->child : NULL; i; i = i->next) sorted[n++] = i;
    if (sorted) qsort(sorted, n, sizeof(*sorted), by_key);
    for (uint32_t i = 0; i < n; i++) {
        cell_c(t, addr);
        cell(t, sorted[i]->key);
        cell(t, zl_json_str(sorted[i]));
    }
    free(sorted);
    zc_reply_free(&reply);
    return 0;
}

int broker_status(struct ctl *c)
{
    static const char *const COLUMNS[] = { "#Addr:address", "#Name:name", "#Value:value" };
    struct table *t = table_new(COLUMNS, 3);
    int rc = each_broker(c, 0, status_rows, t);
    table_print(t, c->json);
    return rc;
}
