/* SPDX-License-Identifier: Apache-2.0 */
/* address.c - which name servers there are. Given ones ("a:9876;b:9876", in one item or several) stay for good. Without any, and when
 * told to, an HTTP address server is asked at the start and every fetch_interval; what it names replaces the list, and name servers
 * that are no longer named are hung up on, so that they forget us at once. Its silence or an empty answer changes nothing. */
#include <stdio.h>
#include <stdlib.h>
#include "remote.h"
#include "zl/nsaddr.h"

uint32_t rm_fetches(const struct rm_settings *set) { return set->namesrv.n == 0 && (set->fetch_address || set->domain.len > 0); }

/* "host:port" with a port in range. */
static uint32_t address_ok(struct zr_str text)
{
    uint64_t colon = text.len;
    int32_t port;
    while (colon > 0 && text.ptr[colon - 1] != ':')
        colon--;
    if (colon <= 1 || text.len >= RM_MAX_URL || memchr(text.ptr, ' ', text.len) || memchr(text.ptr, 0, text.len))
        return 0;
    return zl_parse_i32((struct zr_str){ text.ptr + colon, text.len - colon }, &port) == ZR_OK && port > 0 && port < 65536;
}

/* Cuts the next address off a list like "a:1; b:2"; commas separate too. */
static uint32_t address_next(struct zr_str *rest, struct zr_str *ret)
{
    while (rest->ptr && rest->len > 0) {
        uint64_t n = 0;
        while (n < rest->len && rest->ptr[n] != ';' && rest->ptr[n] != ',')
            n++;
        *ret = zl_trim((struct zr_str){ rest->ptr, n });
        *rest = n < rest->len ? (struct zr_str){ rest->ptr + n + 1, rest->len - n - 1 } : (struct zr_str){ NULL, 0 };
        if (ret->len > 0)
            return 1;
    }
    return 0;
}

zr_status rm_addresses_check(const struct rm_settings *set, char *why, uint64_t cap)
{
    uint32_t n = 0;
    for (uint64_t i = 0; i < set->namesrv.n; i++) {
        struct zr_str rest = set->namesrv.items[i], one;
        while (address_next(&rest, &one)) {
            if (!address_ok(one)) {
                snprintf(why, cap, "namesrv: '%.*s' is no address (host:port)", (int)(one.len < 100 ? one.len : 100), one.ptr);
                return ZR_EINVAL;
            }
            if (++n > RM_MAX_PEERS) {
                snprintf(why, cap, "namesrv: more than %u name servers", RM_MAX_PEERS);
                return ZR_EFULL;
            }
        }
    }
    return ZR_OK;
}

static struct rm_peer *peer_find(struct zr_inst *inst, struct zr_str url)
{
    for (struct rm_peer *peer = inst->peers; peer; peer = peer->next)
        if (zl_eq((struct zr_str){ peer->url, peer->url_len }, url))
            return peer;
    return NULL;
}

static void peer_add_locked(struct zr_inst *inst, struct zr_str url)
{
    struct rm_peer *peer, **end = &inst->peers;
    if (!address_ok(url) || peer_find(inst, url) || inst->n_peers == RM_MAX_PEERS || !(peer = calloc(1, sizeof *peer)))
        return;
    peer->inst = inst;
    peer->refs = 1;
    peer->url_len = (uint32_t)url.len;
    memcpy(peer->url, url.ptr, url.len);
    while (*end)
        end = &(*end)->next;
    *end = peer;
    inst->n_peers++;
}

static uint32_t list_names(struct zr_str list, const struct rm_peer *peer)
{
    struct zr_str one;
    while (address_next(&list, &one))
        if (zl_eq((struct zr_str){ peer->url, peer->url_len }, one))
            return 1;
    return 0;
}

/* Makes the peers those that list names; what leaves is put into gone, with the list's reference. */
static uint32_t peers_become_locked(struct zr_inst *inst, struct zr_str list, struct rm_peer **gone)
{
    uint32_t n = 0;
    struct zr_str one, rest = list;
    for (struct rm_peer **at = &inst->peers; *at;) {
        struct rm_peer *peer = *at;
        if (list_names(list, peer)) {
            at = &peer->next;
            continue;
        }
        *at = peer->next;
        peer->gone = 1;
        inst->n_peers--;
        gone[n++] = peer;
    }
    while (address_next(&rest, &one))
        peer_add_locked(inst, one);
    return n;
}

static void addresses_set(struct zr_inst *inst, struct zr_str list)
{
    struct rm_peer *gone[RM_MAX_PEERS];
    struct rm_waiter *done;
    pthread_mutex_lock(&inst->mutex);
    uint32_t n = inst->draining ? 0 : peers_become_locked(inst, list, gone);
    done = rm_waiters_take_locked(inst);
    pthread_mutex_unlock(&inst->mutex);
    rm_waiters_tell(done);
    for (uint32_t i = 0; i < n; i++) {
        rm_log(inst, ZR_LOG_INFO, "name server %s is no longer named by the address server", gone[i]->url);
        inst->call->hang_up(inst->host, (struct zr_str){ gone[i]->url, gone[i]->url_len });
        pthread_mutex_lock(&inst->mutex);
        rm_peer_unref_locked(gone[i]);
        pthread_mutex_unlock(&inst->mutex);
    }
    rm_gauges(inst);
}

void rm_addresses_load(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->mutex);
    for (uint64_t i = 0; i < inst->set->namesrv.n; i++) {
        struct zr_str rest = inst->set->namesrv.items[i], one;
        while (address_next(&rest, &one))
            peer_add_locked(inst, one);
    }
    pthread_mutex_unlock(&inst->mutex);
}

/* On a pool thread: blocks for as long as the address server takes. */
static void fetch_job(void *arg)
{
    struct zr_inst *inst = arg;
    char url[512], text[ZL_NAMESRV_TEXT_MAX + 1];
    const char *why = "the address is too long";
    zr_status status = zl_namesrv_url(url, sizeof url, inst->set->domain.ptr, inst->set->subgroup.ptr, inst->set->unit.ptr);
    if (status == ZR_OK)
        status = zl_namesrv_fetch(url, 3000, text, sizeof text, &why);
    if (status == ZR_OK)
        addresses_set(inst, zl_str(text));
    else
        rm_log(inst, ZR_LOG_WARN, "address server %s: %s", url, why);
    pthread_mutex_lock(&inst->mutex);
    inst->fetching = 0;
    int64_t wait = inst->set->fetch_ms * 1000000;
    inst->fetch_at = inst->timer->mono_ns(inst->host) + (inst->n_peers || wait < RM_FETCH_SOON_NS ? wait : RM_FETCH_SOON_NS);
    pthread_mutex_unlock(&inst->mutex);
    rm_peers_go(inst);
    rm_leave(inst);
}

void rm_fetch_go(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->mutex);
    uint32_t due = rm_fetches(inst->set) && !inst->fetching && !inst->draining && inst->timer->mono_ns(inst->host) >= inst->fetch_at;
    inst->fetching |= due;
    if (due)
        rm_enter_locked(inst);
    pthread_mutex_unlock(&inst->mutex);
    if (due)
        rm_job(inst, fetch_job, inst);
}
