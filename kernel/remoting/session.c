/* SPDX-License-Identifier: Apache-2.0 */
/* session.c - one connection, in either direction, as the kernel sees it.
 *
 * One malloc for each connection, a few hundred bytes; buffers belong to lanes and transports, so ten thousand idle
 * connections cost little. What stays true:
 *   1. refs > 0 while the struct is valid. The lane owns one reference from opened to closed (or to the end of the turn in
 *      which closed came), so inside a turn a session of the lane needs no reference.
 *   2. open goes from 1 to 0 once, in closed, before anything else happens there.
 *   3. conn may be used for send and close until the last reference is dropped: then, and only then, the transport's
 *      release is called. The transport promises that send to a connection that is gone is safe until release.
 *
 * LOCKING. zk_lane_state.lock guards the list of the lane's sessions: taken in opened, closed and by stop; nothing is
 * called while it is held, except taking a reference. */
#include <stdlib.h>
#include <string.h>
#include "remoting/internal.h"

static uint32_t name_length(struct zr_str name) { return name.len < ZK_NAME_MAX ? (uint32_t)name.len : ZK_NAME_MAX; }

static void list_add(struct zk_lane_state *ls, struct zr_session *s)
{
    pthread_mutex_lock(&ls->lock);
    s->next = ls->sessions;
    if (s->next)
        s->next->prev = s;
    ls->sessions = s;
    ls->n_sessions++;
    pthread_mutex_unlock(&ls->lock);
}

static void list_remove(struct zk_lane_state *ls, struct zr_session *s)
{
    pthread_mutex_lock(&ls->lock);
    if (s->next)
        s->next->prev = s->prev;
    if (s->prev)
        s->prev->next = s->next;
    else
        ls->sessions = s->next;
    ls->n_sessions--;
    pthread_mutex_unlock(&ls->lock);
}

zr_status zk_session_new(struct zk_lane *lane, struct zr_conn *conn, const struct zr_conn_info *info, const struct zk_table *table,
                         uint32_t listener_serves, struct zr_session **ret)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    uint32_t len = name_length(info->peer_name);
    struct zr_session *s = calloc(1, sizeof *s + len + 1);
    if (!s)
        return ZR_ENOMEM;
    s->lane = lane;
    s->port = ls->port;
    s->conn = conn;
    s->table = table;
    s->listener_serves = listener_serves;
    s->serves = listener_serves ? listener_serves : ZR_SERVES_BROKER;
    s->flags = (info->flags & ZR_CONN_OUTBOUND) ? ZK_SESSION_OUTBOUND : 0;
    s->peer_addr = info->peer;
    s->local_addr = info->local;
    s->name_len = len;
    if (len)
        memcpy(s->name, info->peer_name.ptr, len);
    s->id = atomic_fetch_add_explicit(&zk_rem.next_session, 1, memory_order_relaxed) + 1;
    atomic_init(&s->refs, 1);
    atomic_init(&s->version, -1);
    atomic_init(&s->language, -1);
    atomic_init(&s->open, 1);
    list_add(ls, s);
    atomic_fetch_add(&zk_rem.n_sessions, 1);
    zk_metric_add(zk_rem.metrics.accepted, 1);
    zk_metric_add(zk_rem.metrics.connections, 1);
    *ret = s;
    return ZR_OK;
}

/* The broker core hears of the end first, then the plugins that keep something for a connection (the name server its brokers). */
static void tell_closed(struct zr_session *s)
{
    if (zk_rem.events.session_closed)
        zk_rem.events.session_closed(s);
    if (zk_hooks_at(ZR_POINT_SESSION_CLOSED) == 0)
        return;
    struct zr_event event = { .hdr = ZR_HDR(struct zr_event, 0), .session = s, .now_ms = zk_wall_ms(), .point = ZR_POINT_SESSION_CLOSED };
    struct zr_verdict verdict = { .hdr = ZR_HDR(struct zr_verdict, 0) };
    zk_hooks_run(ZR_POINT_SESSION_CLOSED, &event, &verdict);
}

void zk_session_end(struct zr_session *s)
{
    struct zk_lane_state *ls = zk_lane_state(s->lane);
    atomic_store_explicit(&s->open, 0, memory_order_seq_cst);
    list_remove(ls, s);
    if (s->peer)
        zk_peer_lost(s);
    zk_ask_fail_all(s, ZR_ECLOSED);
    if (!ls->stopped)
        tell_closed(s);
    zk_metric_add(zk_rem.metrics.connections, -1);
    if (ls->in_turn) {
        s->turn_next = ls->dead;
        ls->dead = s;
    } else {
        zk_session_release(s);
    }
    atomic_fetch_sub(&zk_rem.n_sessions, 1);
    zk_rem_signal();
}

void zk_lane_bury(struct zk_lane *lane)
{
    struct zk_lane_state *ls = zk_lane_state(lane);
    while (ls->dead) {
        struct zr_session *s = ls->dead;
        ls->dead = s->turn_next;
        zk_session_release(s);
    }
}

struct zr_session *zk_session_hold(struct zr_session *session)
{
    atomic_fetch_add_explicit(&session->refs, 1, memory_order_relaxed);
    return session;
}

void zk_session_release(struct zr_session *session)
{
    if (!session || atomic_fetch_sub_explicit(&session->refs, 1, memory_order_acq_rel) != 1)
        return;
    session->port->table->release(session->port->inst, session->conn);
    free(session);
}

void zk_session_close(struct zr_session *session)
{
    atomic_store(&session->closing, 1);
    if (zk_session_open(session))
        session->port->table->close(session->port->inst, session->conn, 1);
}

void zk_session_know(struct zr_session *session, uint32_t what)
{
    if (!(atomic_load_explicit(&session->known, memory_order_relaxed) & what))
        atomic_fetch_or_explicit(&session->known, what, memory_order_relaxed);
}

static uint32_t lane_has_nameless(struct zk_lane_state *ls, const struct zr_session *gone)
{
    uint32_t found = 0;
    pthread_mutex_lock(&ls->lock);
    for (struct zr_session *s = ls->sessions; s && !found; s = s->next)
        found = s->id > gone->id && atomic_load_explicit(&s->known, memory_order_relaxed) == ZK_CONSUMES && s->peer_addr.family == gone->peer_addr.family &&
                memcmp(s->peer_addr.ip, gone->peer_addr.ip, sizeof s->peer_addr.ip) == 0;
    pthread_mutex_unlock(&ls->lock);
    return found;
}

uint32_t zk_session_returned(struct zr_session *session)
{
    uint32_t found = 0;
    for (uint32_t i = 0; i < zk_rem.n_lanes && !found && !zk_session_open(session); i++)
        found = lane_has_nameless(zk_lane_state(zk_rem.lanes[i]), session);
    return found;
}

void zk_session_info(struct zr_session *session, struct zr_session_info *ret)
{
    struct zr_session_info info = { ZR_HDR(struct zr_session_info, 0) };
    uint32_t size = ret->hdr.size < sizeof info ? ret->hdr.size : (uint32_t)sizeof info;
    info.peer = session->peer_addr;
    info.local = session->local_addr;
    info.peer_name = (struct zr_str){ session->name, session->name_len };
    info.id = session->id;
    info.version = atomic_load_explicit(&session->version, memory_order_relaxed);
    info.language = atomic_load_explicit(&session->language, memory_order_relaxed);
    info.serves = session->listener_serves;
    info.open = zk_session_open(session);
    info.left = !info.open && session->left;
    if (size > sizeof info.hdr)
        memcpy((char *)ret + sizeof info.hdr, (const char *)&info + sizeof info.hdr, size - sizeof info.hdr);
}

uint64_t zk_session_queued(struct zr_session *session)
{
    return zk_session_open(session) ? session->port->table->queued(session->port->inst, session->conn) : 0;
}

struct zk_lane *zk_session_lane(struct zr_session *session) { return session->lane; }
void *zk_session_broker(struct zr_session *session) { return session->broker; }
void zk_session_set_broker(struct zr_session *session, void *p) { session->broker = p; }
uint64_t zk_n_sessions(void) { return atomic_load(&zk_rem.n_sessions); }
