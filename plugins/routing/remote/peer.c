/* SPDX-License-Identifier: Apache-2.0 */
/* peer.c - one name server after the other: which step is next, and what its answer means.
 *
 *            start, refused, another version ──► FULL ──0──┐
 *   IDLE ──► one topic changed ────────────────► PART ──0──┤► IDLE, acked_gen moves on
 *        ──► several changed, heartbeat ───────► QUERY ────┘
 *                                                 ├ unchanged: it knows everything we sent with that version
 *                                                 ├ it is where it was: PART (or FULL, if no change of ours explains it)
 *                                                 └ it is elsewhere, or does not know us: FULL
 *
 *   1. An increment is sent only to a name server of which we know that it has everything before it. One topic needs no question
 *      first, since a name server that does not know the broker refuses a single topic; several would be taken for a first
 *      registration, and all the others would be missing.
 *   2. A failure (connection, time, refused full registration) counts the peer out for a while: 1 s, 2 s, ... 30 s, each up to a
 *      quarter longer by chance, so that a cluster of brokers does not come back all at once. It holds nobody up meanwhile.
 *   3. A heartbeat is a QUERY: a few hundred bytes, whatever the number of topics. */
#include <stdlib.h>
#include "remote.h"

struct step { /* one request under way */
    struct rm_peer *peer;
    uint32_t what, n_names;
    struct zr_str names[];
};

void rm_peer_unref_locked(struct rm_peer *peer)
{
    if (--peer->refs == 0)
        free(peer);
}

static void step_free(struct step *step)
{
    for (uint32_t i = 0; i < step->n_names; i++)
        free((char *)step->names[i].ptr);
    free(step);
}

/* ---- what is next ------------------------------------------------------------------------------------------------------ */

static uint32_t decide_change(struct zr_inst *inst, struct rm_peer *peer, struct zr_str *names, uint32_t *ret_n)
{
    if (rm_journal_since(inst, peer->acked_gen, names, ret_n) != ZR_OK)
        return RM_FULL;
    if (*ret_n == 1 || peer->agreed)
        return RM_PART;
    while (*ret_n > 0)
        free((char *)names[--*ret_n].ptr);
    return peer->mute ? RM_FULL : RM_QUERY;
}

static uint32_t peer_decide(struct zr_inst *inst, struct rm_peer *peer, int64_t now, struct zr_str *names, uint32_t *ret_n)
{
    *ret_n = 0;
    if (peer->gone || peer->step != RM_IDLE || inst->draining || !inst->announced || (peer->failures && now < peer->next_at))
        return RM_IDLE;
    if (!peer->registered || peer->full_due)
        return RM_FULL;
    if (peer->acked_gen < inst->gen)
        return decide_change(inst, peer, names, ret_n);
    if (inst->set->force && now >= peer->full_at)
        return RM_FULL;
    if (now < peer->next_at)
        return RM_IDLE;
    return peer->mute ? RM_FULL : RM_QUERY;
}

int64_t rm_peers_next_locked(struct zr_inst *inst)
{
    int64_t at = rm_fetches(inst->set) && !inst->fetching ? inst->fetch_at : INT64_MAX;
    if (inst->waiters && inst->waiters->until < at)
        at = inst->waiters->until;
    for (struct rm_peer *peer = inst->peers; peer && inst->announced && !inst->draining; peer = peer->next) {
        if (peer->step != RM_IDLE)
            continue;
        at = peer->next_at < at ? peer->next_at : at;
        if (inst->set->force && !peer->failures && peer->full_at < at)
            at = peer->full_at;
    }
    return at;
}

/* ---- answers ----------------------------------------------------------------------------------------------------------- */

static void peer_failed_locked(struct zr_inst *inst, struct rm_peer *peer)
{
    int64_t wait = RM_BACKOFF_FIRST_NS;
    for (uint32_t i = 0; i < peer->failures && wait < RM_BACKOFF_MAX_NS; i++)
        wait *= 2;
    wait = wait > RM_BACKOFF_MAX_NS ? RM_BACKOFF_MAX_NS : wait;
    peer->failures++;
    peer->agreed = 0;
    peer->next_at = inst->timer->mono_ns(inst->host) + wait + (int64_t)arc4random_uniform((uint32_t)(wait / 4000)) * 1000;
}

static void peer_well_locked(struct zr_inst *inst, struct rm_peer *peer, int64_t now, uint32_t word_ms)
{
    (void)inst;
    peer->failures = 0;
    peer->next_at = now + (int64_t)word_ms * 1000000;
}

/* A registration was taken. */
static void registered_locked(struct zr_inst *inst, struct rm_peer *peer, uint32_t what, int64_t now)
{
    peer_well_locked(inst, peer, now, (uint32_t)(peer->mute ? inst->set->period_ms : inst->set->heartbeat_ms));
    peer->registered = 1;
    peer->agreed = 0;
    peer->acked_gen = peer->sent_gen;
    peer->acked_version = peer->sent_version;
    if (what == RM_FULL) {
        peer->full_due = 0;
        peer->full_at = now + inst->set->period_ms * 1000000;
    }
}

static uint32_t version_equal(const struct zr_data_version *a, const struct zr_data_version *b)
{
    return a->counter == b->counter && a->timestamp == b->timestamp && a->state_version == b->state_version;
}

/* The version in the body of an answer to 322; 0: there is none, so the name server does not know us. */
static uint32_t answer_version(const struct zr_request *response, struct zr_data_version *ret)
{
    struct zl_json_doc *doc;
    const struct zl_json *root;
    uint64_t at;
    if (response->body.len == 0 || response->body.len > 4096 ||
        zl_json_parse((struct zr_str){ (const char *)response->body.ptr, response->body.len }, &doc, &root, &at) != ZR_OK)
        return 0;
    *ret = (struct zr_data_version){ zl_json_get_i64(root, "timestamp", -1), zl_json_get_i64(root, "counter", -1), zl_json_get_i64(root, "stateVersion", 0) };
    uint32_t is = root->kind == ZL_JSON_OBJECT;
    zl_json_free(doc);
    return is;
}

static void queried_locked(struct zr_inst *inst, struct rm_peer *peer, const struct zr_request *response, int64_t now)
{
    struct zr_data_version theirs;
    peer_well_locked(inst, peer, now, (uint32_t)inst->set->heartbeat_ms);
    peer->agreed = 0;
    if (!zl_field_bool(response->fields, response->n_fields, "changed", 1)) {
        peer->registered = 1;
        peer->acked_gen = peer->sent_gen;
        peer->acked_version = peer->sent_version;
    } else if (!answer_version(response, &theirs)) {
        peer->registered = 0; /* restarted, or we were away too long */
    } else if (peer->registered && version_equal(&theirs, &peer->acked_version) && peer->acked_gen < inst->gen) {
        peer->agreed = 1;
    } else {
        peer->full_due = 1;
    }
}

/* Takes an answer in; returns what to log, or NULL. */
static const char *answered_locked(struct zr_inst *inst, struct step *step, zr_status status, const struct zr_request *response)
{
    struct rm_peer *peer = step->peer;
    int64_t now = inst->timer->mono_ns(inst->host);
    peer->step = RM_IDLE;
    uint32_t silent = peer->silent && status == ZR_OK;
    if (status != ZR_OK) {
        peer_failed_locked(inst, peer);
        return peer->failures == 1 ? "cannot be reached" : NULL;
    }
    peer->silent = 0;
    if (response->code == 0 && step->what == RM_QUERY) {
        queried_locked(inst, peer, response, now);
        return silent ? "answers again" : NULL;
    }
    if (response->code == 0) {
        const char *news = !peer->registered || peer->failures ? "registered" : silent ? "answers again" : NULL;
        registered_locked(inst, peer, step->what, now);
        return news;
    }
    if (step->what == RM_QUERY) {
        peer->mute = 1;
        peer->full_due = 1;
        return "does not know QUERY_DATA_VERSION: full registrations it is";
    }
    if (step->what == RM_PART) {
        peer->registered = 0; /* it forgot us: a full one, at once */
        return NULL;
    }
    peer_failed_locked(inst, peer);
    return peer->failures == 1 ? "refuses the registration" : NULL;
}

static void log_answer(struct zr_inst *inst, const struct rm_peer *peer, const char *news, const struct zr_request *response, struct zr_str text)
{
    struct zr_str why = response ? response->remark : text;
    uint32_t bad = strcmp(news, "registered") != 0 && strcmp(news, "answers again") != 0;
    rm_log(inst, bad ? ZR_LOG_WARN : ZR_LOG_INFO, "name server %s %s%s%.*s", peer->url, news, bad && why.len ? ": " : "",
           bad ? (int)(why.len < 300 ? why.len : 300) : 0, why.ptr ? why.ptr : "");
}

static void on_answer(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text)
{
    struct step *step = ctx;
    struct rm_peer *peer = step->peer;
    struct zr_inst *inst = peer->inst;
    pthread_mutex_lock(&inst->mutex);
    const char *news = answered_locked(inst, step, status, response);
    struct rm_waiter *done = rm_waiters_take_locked(inst);
    pthread_mutex_unlock(&inst->mutex);

    if (status != ZR_OK || (response->code != 0 && step->what == RM_FULL))
        rm_count(inst, RM_METRIC_FAILED, 1);
    if (news)
        log_answer(inst, peer, news, status == ZR_OK ? response : NULL, text);
    rm_waiters_tell(done);
    if (status == ZR_OK && response->code == 0 && step->what != RM_QUERY && response->body.len > 0)
        rm_order_apply(inst, response->body);
    rm_gauges(inst);
    rm_peers_go(inst);
    step_free(step);
    pthread_mutex_lock(&inst->mutex);
    rm_peer_unref_locked(peer);
    pthread_mutex_unlock(&inst->mutex);
    rm_leave(inst);
}

/* ---- steps ------------------------------------------------------------------------------------------------------------- */

static const uint32_t step_metric[] = { 0, RM_METRIC_HEARTBEATS, RM_METRIC_PART, RM_METRIC_FULL };

static void step_send(struct step *step)
{
    struct rm_peer *peer = step->peer;
    struct zr_inst *inst = peer->inst;
    struct rm_message m;
    zr_status status = ZR_OK;
    int64_t timeout = inst->set->timeout_ms * 1000000;
    if (step->what == RM_QUERY) {
        rm_encode_query(inst, &m);
        timeout = timeout < RM_QUERY_NS ? timeout : RM_QUERY_NS;
    } else {
        status = rm_encode_register(inst, step->what == RM_FULL ? NULL : step->names, step->n_names, &m);
    }
    if (status != ZR_OK) {
        on_answer(step, status, NULL, status == ZR_EFULL ? (struct zr_str)ZR_STR("the registration is too big for a frame") : (struct zr_str)ZR_STR("memory ran out"));
        return;
    }
    peer->sent_version = m.version;
    if (step->what == RM_PART && m.n_topics == 0) { /* all of them are gone again: nothing to say but the next heartbeat's */
        struct zr_request nothing = { .hdr = ZR_HDR(struct zr_request, 0) };
        m.version = peer->acked_version;
        peer->sent_version = m.version;
        rm_message_free(&m);
        on_answer(step, ZR_OK, &nothing, (struct zr_str){ NULL, 0 });
        return;
    }
    rm_count(inst, step_metric[step->what], 1);
    rm_count(inst, RM_METRIC_BYTES, (int64_t)rm_message_size(&m));
    inst->call->call(inst->host, (struct zr_str){ peer->url, peer->url_len }, &m.command, timeout, on_answer, step);
    rm_message_free(&m);
}

static void step_job(void *arg) { step_send(arg); }

/* The next due step of any peer, marked as under way; NULL: none. */
static struct step *step_next(struct zr_inst *inst)
{
    struct step *step = calloc(1, sizeof *step + RM_MAX_PART * sizeof step->names[0]);
    uint32_t what = RM_IDLE;
    if (!step)
        return NULL;
    pthread_mutex_lock(&inst->mutex);
    int64_t now = inst->timer->mono_ns(inst->host);
    for (struct rm_peer *peer = inst->peers; peer && what == RM_IDLE; peer = peer->next) {
        what = peer_decide(inst, peer, now, step->names, &step->n_names);
        if (what == RM_IDLE)
            continue;
        step->peer = peer;
        step->what = what;
        peer->step = what;
        peer->sent_gen = inst->gen;
        peer->refs++;
        rm_enter_locked(inst);
    }
    pthread_mutex_unlock(&inst->mutex);
    if (what == RM_IDLE) {
        free(step);
        return NULL;
    }
    return step;
}

void rm_peers_go(struct zr_inst *inst)
{
    for (struct step *step; (step = step_next(inst));) {
        if (step->what == RM_FULL)
            rm_job(inst, step_job, step);
        else
            step_send(step);
    }
    pthread_mutex_lock(&inst->mutex);
    int64_t at = rm_peers_next_locked(inst);
    pthread_mutex_unlock(&inst->mutex);
    rt_alarm_bring(&inst->alarm, at);
}

/* ---- the end ----------------------------------------------------------------------------------------------------------- */

static void goodbye_part(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->mutex);
    uint32_t last = --inst->goodbyes == 0;
    struct zr_done done = inst->drained;
    pthread_mutex_unlock(&inst->mutex);
    if (last && done.call)
        done.call(done.ctx, ZR_OK);
}

static void on_goodbye(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text)
{
    struct rm_peer *peer = ctx;
    struct zr_inst *inst = peer->inst;
    (void)response;
    (void)text;
    if (status != ZR_OK)
        rm_log(inst, ZR_LOG_INFO, "name server %s was not told of the end; it will notice by itself", peer->url);
    goodbye_part(inst);
    pthread_mutex_lock(&inst->mutex);
    rm_peer_unref_locked(peer);
    pthread_mutex_unlock(&inst->mutex);
    rm_leave(inst);
}

void rm_peers_goodbye(struct zr_inst *inst)
{
    struct rm_peer *told[RM_MAX_PEERS];
    uint32_t n = 0;
    pthread_mutex_lock(&inst->mutex);
    for (struct rm_peer *peer = inst->peers; peer && n < RM_MAX_PEERS; peer = peer->next) {
        if (!peer->registered && peer->step == RM_IDLE)
            continue;
        peer->refs++;
        rm_enter_locked(inst);
        told[n++] = peer;
    }
    inst->goodbyes = n + 1; /* one for this call, so that done comes after all were asked */
    pthread_mutex_unlock(&inst->mutex);
    for (uint32_t i = 0; i < n; i++) {
        struct rm_message m;
        rm_encode_unregister(inst, &m);
        rm_count(inst, RM_METRIC_BYTES, (int64_t)rm_message_size(&m));
        inst->call->call(inst->host, (struct zr_str){ told[i]->url, told[i]->url_len }, &m.command, RM_GOODBYE_NS, on_goodbye, told[i]);
        rm_message_free(&m);
    }
    goodbye_part(inst);
}
