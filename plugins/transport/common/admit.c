/* SPDX-License-Identifier: Apache-2.0 */
/* admit.c - see admit.h. The table of addresses holds those with connections, so it is as bounded as these are.
 * The rate is a bucket of one second's worth of tokens. */
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include "admit.h"
#include "zl/text.h"

#define FILES_KEPT_BACK 1024u /* or a quarter, when there are few */
#define SECOND_NS 1000000000ll
#define LEAST_WAIT_NS 10000000ll

void tr_admit_init(struct tr_admit *a, struct tr_report *report)
{
    memset(a, 0, sizeof *a);
    a->report = report;
    pthread_mutex_init(&a->lock, NULL);
}

void tr_admit_fini(struct tr_admit *a)
{
    for (uint32_t i = 0; i < TR_ADDRESS_BUCKETS; i++) {
        for (struct tr_address *entry = a->addresses[i], *next; entry; entry = next) {
            next = entry->next;
            free(entry);
        }
    }
    pthread_mutex_destroy(&a->lock);
}

static uint64_t all_files(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ? 1000000 : limit.rlim_cur;
}

static uint32_t files_kept(void)
{
    uint64_t quarter = all_files() / 4;
    return quarter < FILES_KEPT_BACK ? (uint32_t)quarter : FILES_KEPT_BACK;
}

static uint64_t max_by_files(void)
{
    uint64_t files = all_files(), kept = files_kept();
    return files > kept ? files - kept : 1;
}

void tr_admit_limits(struct tr_admit *a, int64_t max, int64_t per_address, int64_t rate)
{
    pthread_mutex_lock(&a->lock);
    a->max = max > 0 ? (uint64_t)max : max_by_files();
    a->max_fd = max > 0 ? 0 : max_by_files();
    a->per_address = (uint64_t)per_address;
    a->rate = rate;
    pthread_mutex_unlock(&a->lock);
}

static struct tr_address **find(struct tr_admit *a, const struct zr_addr *addr)
{
    struct tr_address **at = &a->addresses[zl_hash(addr->ip, sizeof addr->ip) % TR_ADDRESS_BUCKETS];
    while (*at && memcmp((*at)->addr.ip, addr->ip, sizeof addr->ip) != 0) {
        at = &(*at)->next;
    }
    return at;
}

static uint32_t address_enters(struct tr_admit *a, const struct zr_addr *peer)
{
    if (a->per_address == 0 || peer->family == 0) {
        return 1;
    }
    struct tr_address **at = find(a, peer);
    if (!*at && (*at = calloc(1, sizeof **at))) {
        (*at)->addr = *peer;
    }
    if (!*at || (*at)->n >= a->per_address) {
        return 0;
    }
    (*at)->n++;
    return 1;
}

uint32_t tr_admit_enter(struct tr_admit *a, const struct zr_addr *peer, int fd)
{
    pthread_mutex_lock(&a->lock);
    uint32_t short_of_files = a->max_fd && fd >= 0 && (uint64_t)fd >= a->max_fd;
    uint32_t full = a->n >= a->max || short_of_files, may = !full && address_enters(a, peer);
    a->n += may;
    pthread_mutex_unlock(&a->lock);
    if (short_of_files) {
        tr_log_rare(a->report, TR_RARE_FULL, "connection refused: %d files and connections are open, and the last %u are kept for files (raise the "
                    "limit of open files, LimitNOFILE or ulimit -n)", fd, files_kept());
    } else if (full) {
        tr_log_rare(a->report, TR_RARE_FULL, "connection refused: %llu connections are there, which is the limit (option max_connections)",
                    (unsigned long long)a->max);
    } else if (!may) {
        tr_log_rare(a->report, TR_RARE_ADDRESS, "connection refused: an address has %llu connections, which is the limit (option max_per_address)",
                    (unsigned long long)a->per_address);
    }
    if (!may) {
        tr_count(a->report, TR_M_REFUSED, 1);
    }
    return may;
}

void tr_admit_leave(struct tr_admit *a, const struct zr_addr *peer)
{
    pthread_mutex_lock(&a->lock);
    a->n--;
    if (a->per_address && peer->family) {
        struct tr_address **at = find(a, peer), *entry = *at;
        if (entry && --entry->n == 0) {
            *at = entry->next;
            free(entry);
        }
    }
    pthread_mutex_unlock(&a->lock);
}

uint32_t tr_admit_take(struct tr_admit *a, int64_t now_ns, int64_t *ret_ns)
{
    uint32_t may = 1;
    pthread_mutex_lock(&a->lock);
    if (a->rate > 0) {
        int64_t each = SECOND_NS / a->rate;
        if (a->filled_ns == 0 || now_ns - a->filled_ns > SECOND_NS) {
            a->tokens = a->rate;
            a->filled_ns = now_ns;
        }
        int64_t fresh = (now_ns - a->filled_ns) / each;
        a->tokens = a->tokens + fresh < a->rate ? a->tokens + fresh : a->rate;
        a->filled_ns += fresh * each;
        may = a->tokens > 0;
        a->tokens -= may;
        *ret_ns = each > LEAST_WAIT_NS ? each : LEAST_WAIT_NS;
    }
    pthread_mutex_unlock(&a->lock);
    return may;
}

void tr_admit_give(struct tr_admit *a)
{
    pthread_mutex_lock(&a->lock);
    a->tokens++;
    pthread_mutex_unlock(&a->lock);
}
