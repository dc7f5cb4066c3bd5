/* SPDX-License-Identifier: Apache-2.0 */
/* call.c - zarya.call/1: requests to other servers by address.
 *
 * A peer is one address that is being called: connected (session), being connected (dialing), or both ends of a change. It
 * exists while something uses it: a dial, a session that was dialed for it, waiting calls.
 *
 *   call ──connected──► zk_ask on the session ──► answer, timeout or loss (ask.c)
 *     └──else──► waits, with its own timer ──opened──► zk_ask with what is left of its time
 *                                          ├─dial_failed, hang_up, stop──► ZR_ECLOSED
 *                                          └─timer──► ZR_ETIMEOUT
 *
 *   1. At most one dial of a peer is under way.
 *   2. A waiting call is encoded already (opaque and all); it leaves from the lane of the new connection, in order.
 *   3. A call that finds its connection just lost is put to a new one, once; a call whose bytes may have left never is.
 *
 * LOCKING. `lock` guards the table of peers, everything in a peer, the queue links, `state` and `timer` of waiting calls. Inside
 * it only the timer thread's own lock is taken (zk_timer_at); transports, askers and sessions are called without it.
 *
 * EXACTLY ONCE. A waiting call belongs to who moves its state from WAITING to TAKEN under the lock: the new connection, the
 * failed dial, hang_up, stop, or its timer. That one tells the asker or hands the call to ask.c, which has its own rule. The
 * timer is armed under the same hold of the lock that queues the call, so its id is there for whoever takes it. The struct has
 * two references: the taker's, and the timer's (dropped by the callback, or by whoever cancelled it in time). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "remoting/internal.h"

#define BUCKETS 256u
#define WAITING 1u
#define TAKEN 2u

struct waiting {
    struct waiting *prev, *next;
    struct zk_peer *peer;          /* while WAITING */
    struct zk_listener_of_ask to;  /* on_call NULL: a tell */
    int64_t deadline_ns;
    uint64_t timer;                /* 0: none */
    uint64_t size;                 /* counted in waiting_bytes */
    struct zk_packet packet;
    int32_t opaque;
    uint32_t state;
    _Atomic uint32_t refs;
    uint32_t reserved;
    struct zr_piece pieces[];
    /* then the frame */
};
struct zk_peer {
    struct zk_peer *next;
    struct zr_session *session; /* held; where calls go now */
    struct waiting *first, *last;
    struct zk_instance *via;
    uint32_t n_waiting;
    uint32_t uses;      /* dial, sessions, and those who look at it without the lock */
    uint32_t dialing;
    uint32_t unwanted;  /* hung up while dialing, and nobody called since */
    uint32_t url_len;
    char url[];         /* with scheme */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct zk_peer *peers[BUCKETS];
static uint32_t n_peers;
static uint64_t waiting_bytes;

/* ---- addresses ------------------------------------------------------------------------------------------------------- */
struct url { struct zk_instance *via; uint32_t len; char text[ZK_URL_MAX]; };

static struct zk_instance *dialer_of(struct zr_str scheme)
{
    for (struct zk_port *port = zk_rem.ports; port; port = port->next) {
        if (!(port->table->caps & ZR_TRANSPORT_DIAL) || !port->table->schemes)
            continue;
        for (const char *const *s = port->table->schemes; *s; s++)
            if (zl_is(scheme, *s))
                return port->instance;
    }
    return NULL;
}

/* On failure why is a sentence. */
static zr_status url_read(struct zr_str in, struct url *ret, char *why, size_t cap_why)
{
    uint64_t at = 0;
    while (at + 3 <= in.len && memcmp(in.ptr + at, "://", 3) != 0)
        at++;
    uint32_t has = at + 3 <= in.len;
    struct zr_str scheme = has ? (struct zr_str){ in.ptr, at } : (struct zr_str)ZR_STR("tcp");
    struct zr_str rest = has ? (struct zr_str){ in.ptr + at + 3, in.len - at - 3 } : in;
    if (rest.len == 0 || scheme.len + 3 + rest.len >= sizeof ret->text) {
        snprintf(why, cap_why, "'%.*s' is no address", (int)(in.len < 128 ? in.len : 128), in.ptr ? in.ptr : "");
        return ZR_EINVAL;
    }
    ret->via = dialer_of(scheme);
    if (!ret->via) {
        snprintf(why, cap_why, "no transport can connect to '%.*s'", (int)(in.len < 128 ? in.len : 128), in.ptr);
        return ZR_EINVAL;
    }
    ret->len = (uint32_t)snprintf(ret->text, sizeof ret->text, "%.*s://%.*s", (int)scheme.len, scheme.ptr, (int)rest.len, rest.ptr);
    return ZR_OK;
}

/* ---- peers; under the lock -------------------------------------------------------------------------------------------- */
static struct zk_peer **peer_slot(const struct url *url)
{
    struct zk_peer **at = &peers[zl_hash(url->text, url->len) % BUCKETS];
    while (*at && ((*at)->url_len != url->len || memcmp((*at)->url, url->text, url->len) != 0))
        at = &(*at)->next;
    return at;
}

static struct zk_peer *peer_get(const struct url *url)
{
    struct zk_peer **at = peer_slot(url);
    if (*at || n_peers == ZK_MAX_PEERS)
        return *at;
    struct zk_peer *p = calloc(1, sizeof *p + url->len + 1);
    if (!p)
        return NULL;
    memcpy(p->url, url->text, url->len);
    p->url_len = url->len;
    p->via = url->via;
    *at = p;
    n_peers++;
    return p;
}

static void peer_put(struct zk_peer *p)
{
    if (--p->uses)
        return;
    struct zk_peer **at = &peers[zl_hash(p->url, p->url_len) % BUCKETS];
    while (*at != p)
        at = &(*at)->next;
    *at = p->next;
    n_peers--;
    free(p);
}

/* ---- waiting calls ------------------------------------------------------------------------------------------------------ */
static void waiting_unref(struct waiting *w)
{
    if (atomic_fetch_sub_explicit(&w->refs, 1, memory_order_acq_rel) == 1)
        free(w);
}

/* Under the lock. */
static void waiting_take(struct waiting *w)
{
    struct zk_peer *p = w->peer;
    if (w->prev)
        w->prev->next = w->next;
    else
        p->first = w->next;
    if (w->next)
        w->next->prev = w->prev;
    else
        p->last = w->prev;
    w->prev = w->next = NULL;
    w->peer = NULL;
    w->state = TAKEN;
    p->n_waiting--;
    waiting_bytes -= w->size;
}

/* Under the lock: all of them, as a list through next, in order. */
static struct waiting *waiting_take_all(struct zk_peer *p)
{
    struct waiting *all = NULL, **end = &all;
    while (p->first) {
        struct waiting *w = p->first;
        waiting_take(w);
        *end = w;
        end = &w->next;
    }
    return all;
}

static void waiting_end_timer(struct waiting *w)
{
    if (w->timer && zk_timer_cancel(w->timer) == ZR_OK)
        waiting_unref(w);
}

/* By the taker, without the lock: it comes to nothing. */
static void waiting_fail(struct waiting *w, zr_status status, const char *text)
{
    zk_metric_add(zk_rem.metrics.calls_waiting, -1);
    if (w->packet.done)
        w->packet.done(w->packet.done_ctx, status);
    if (w->to.on_call)
        w->to.on_call(w->to.ctx, status, NULL, zl_str(text));
    waiting_unref(w);
}

static void waiting_fail_list(struct waiting *w, zr_status status, const char *text)
{
    while (w) {
        struct waiting *next = w->next;
        waiting_end_timer(w);
        waiting_fail(w, status, text);
        w = next;
    }
}

static void waiting_timer(void *arg)
{
    struct waiting *w = arg;
    struct zk_peer *p = NULL;
    pthread_mutex_lock(&lock);
    if (w->state == WAITING) {
        p = w->peer;
        p->uses++;
        waiting_take(w);
    }
    pthread_mutex_unlock(&lock);
    if (p) {
        char text[ZK_URL_MAX + 64];
        snprintf(text, sizeof text, "no connection to %s in time", p->url);
        waiting_fail(w, ZR_ETIMEOUT, text);
        pthread_mutex_lock(&lock);
        peer_put(p);
        pthread_mutex_unlock(&lock);
    }
    waiting_unref(w);
}

/* By the taker, without the lock: it goes out. */
static void waiting_send(struct waiting *w, struct zr_session *s)
{
    zk_metric_add(zk_rem.metrics.calls_waiting, -1);
    if (!w->to.on_call) {
        zk_out_packet(s, &w->packet);
        waiting_unref(w);
        return;
    }
    struct zk_ask *ask;
    zr_status status = zk_ask_enter(s, w->opaque, w->deadline_ns - zk_mono_ns(), &w->to, &ask);
    if (status != ZR_OK && w->packet.done)
        w->packet.done(w->packet.done_ctx, status);
    if (status == ZR_OK)
        status = zk_ask_sent(ask, zk_out_packet(s, &w->packet));
    if (status != ZR_OK)
        w->to.on_call(w->to.ctx, status == ZR_ECLOSED ? ZR_ECLOSED : ZR_EFULL, NULL, (struct zr_str)ZR_STR("the new connection did not take the request"));
    waiting_unref(w);
}

/* A frame with its pieces, ready to leave at any time. Everything but the pieces' bytes is copied. */
static struct waiting *waiting_new(const struct zr_command *c, int64_t timeout_ns, const struct zk_listener_of_ask *to, zr_status *ret_status)
{
    struct zl_buf buf;
    uint32_t keep = c->n_pieces && c->done ? c->n_pieces : 0;
    uint64_t body = c->n_pieces ? zk_pieces_len(c->pieces, c->n_pieces) : c->body.len;
    int32_t opaque = zk_opaque_next();
    zl_buf_init(&buf, ZK_OUT_MAX);
    *ret_status = body > ZL_FRAME_MAX ? ZR_EFULL : zl_command_encode(&buf, c, ZL_TYPE_JSON, to->on_call ? 0 : ZL_FLAG_ONEWAY, opaque, body);
    for (uint32_t i = 0; i < c->n_pieces && !keep && *ret_status == ZR_OK; i++) {
        if (!c->pieces[i].ptr && c->pieces[i].len)
            *ret_status = ZR_EINVAL;
        else
            zl_buf_add(&buf, c->pieces[i].ptr, c->pieces[i].len);
    }
    if (*ret_status == ZR_OK && (buf.failed || buf.len + (keep ? body : 0) > ZL_FRAME_MAX))
        *ret_status = ZR_EFULL;
    struct waiting *w = *ret_status == ZR_OK ? malloc(sizeof *w + keep * sizeof(struct zr_piece) + buf.len) : NULL;
    if (w) {
        uint8_t *bytes = (uint8_t *)&w->pieces[keep];
        memset(w, 0, sizeof *w);
        if (keep)
            memcpy(w->pieces, c->pieces, keep * sizeof(struct zr_piece));
        memcpy(bytes, buf.ptr, buf.len);
        w->to = *to;
        w->size = sizeof *w + buf.len;
        w->packet = (struct zk_packet){ bytes, buf.len, w->pieces, keep ? c->done : NULL, c->done_ctx, keep, 0 };
        w->opaque = opaque;
        w->deadline_ns = zk_mono_ns() + (timeout_ns < 0 ? 0 : timeout_ns > ZK_TIMEOUT_MAX_NS ? ZK_TIMEOUT_MAX_NS : timeout_ns);
        atomic_init(&w->refs, 1);
        zk_metric_add(zk_rem.metrics.calls_waiting, 1);
    } else if (*ret_status == ZR_OK) {
        *ret_status = ZR_ENOMEM;
    }
    zl_buf_free(&buf);
    if (c->done && (!keep || !w))
        c->done(c->done_ctx, *ret_status);
    return w;
}

/* Under the lock. */
static zr_status waiting_queue(struct zk_peer *p, struct waiting *w)
{
    if (p->n_waiting >= ZK_MAX_WAITING || waiting_bytes + w->size > ZK_MAX_WAITING_BYTES)
        return ZR_EFULL;
    if (w->to.on_call) {
        atomic_store_explicit(&w->refs, 2, memory_order_relaxed);
        zr_status status = zk_timer_at(w->deadline_ns, waiting_timer, w, &w->timer);
        if (status != ZR_OK) {
            atomic_store_explicit(&w->refs, 1, memory_order_relaxed);
            w->timer = 0;
            return status;
        }
    }
    w->state = WAITING;
    w->peer = p;
    w->prev = p->last;
    if (p->last)
        p->last->next = w;
    else
        p->first = w;
    p->last = w;
    p->n_waiting++;
    waiting_bytes += w->size;
    return ZR_OK;
}

/* ---- connections ---------------------------------------------------------------------------------------------------------- */
static struct zr_session *peer_session(const struct url *url)
{
    struct zr_session *s = NULL;
    pthread_mutex_lock(&lock);
    struct zk_peer *p = *peer_slot(url);
    if (p && p->session && zk_session_open(p->session))
        s = zk_session_hold(p->session);
    pthread_mutex_unlock(&lock);
    return s;
}

/* s turned out to be closed before its closed was heard of. */
static void peer_forget(const struct url *url, struct zr_session *s)
{
    pthread_mutex_lock(&lock);
    struct zk_peer *p = *peer_slot(url);
    uint32_t mine = p && p->session == s;
    if (mine)
        p->session = NULL;
    pthread_mutex_unlock(&lock);
    if (mine)
        zk_session_release(s);
}

static void peer_dial(struct zk_peer *p)
{
    zk_err_clear();
    zr_status status = p->via->transport->dial(p->via->inst, (struct zr_str){ p->url, p->url_len }, zk_rem.limits.dial_ns, p);
    if (status < 0)
        zk_peer_dial_failed(p, status, zl_str(zk_err_text()));
}

/* Queues w for its address and sees to it that somebody connects. If a connection came up meanwhile, w goes out at once. When it
 * fails, w is still the caller's. */
static zr_status peer_enqueue(const struct url *url, struct waiting *w)
{
    struct zr_session *s = NULL;
    struct zk_peer *dial = NULL;
    zr_status status = ZR_OK;
    pthread_mutex_lock(&lock);
    struct zk_peer *p = zk_stopping() ? NULL : peer_get(url);
    if (!p) {
        status = zk_stopping() ? ZR_ECLOSED : ZR_EFULL;
    } else if (p->session && zk_session_open(p->session)) {
        s = zk_session_hold(p->session);
        w->state = TAKEN;
    } else {
        p->uses++;
        status = waiting_queue(p, w);
        if (status == ZR_OK)
            p->unwanted = 0;
        if (status == ZR_OK && !p->dialing) {
            p->dialing = 1;
            p->uses++;
            dial = p;
        }
        peer_put(p);
    }
    pthread_mutex_unlock(&lock);
    if (dial)
        peer_dial(dial);
    if (s) {
        waiting_send(w, s);
        zk_session_release(s);
    }
    return status;
}

zr_status zk_peer_wants(struct zk_peer *p)
{
    pthread_mutex_lock(&lock);
    uint32_t wanted = !p->unwanted && !zk_stopping();
    pthread_mutex_unlock(&lock);
    return wanted ? ZR_OK : ZR_ECLOSED;
}

void zk_peer_ready(struct zr_session *s)
{
    struct zk_peer *p = s->peer;
    s->flags |= ZK_SESSION_GIVEN;
    pthread_mutex_lock(&lock);
    struct zr_session *old = p->session;
    uint32_t hung_up = p->unwanted || zk_stopping();
    p->session = hung_up ? NULL : zk_session_hold(s);
    p->dialing = 0;
    struct waiting *w = waiting_take_all(p);
    pthread_mutex_unlock(&lock);
    if (old)
        zk_session_release(old);
    if (hung_up)
        zk_session_close(s);
    while (w) {
        struct waiting *next = w->next;
        waiting_end_timer(w);
        waiting_send(w, s);
        w = next;
    }
}

/* closed, which may also come before zk_peer_ready: then what waits has nobody who connects. */
void zk_peer_lost(struct zr_session *s)
{
    struct zk_peer *p = s->peer;
    struct waiting *w = NULL;
    struct zr_session *held = NULL;
    char text[ZK_URL_MAX + 64];
    snprintf(text, sizeof text, "the connection to %s was lost", p->url);
    pthread_mutex_lock(&lock);
    if (p->session == s) {
        held = s;
        p->session = NULL;
    } else if (!(s->flags & ZK_SESSION_GIVEN)) {
        p->dialing = 0;
        w = waiting_take_all(p);
    }
    peer_put(p);
    pthread_mutex_unlock(&lock);
    if (held)
        zk_session_release(held);
    waiting_fail_list(w, ZR_ECLOSED, text);
}

void zk_peer_dial_failed(struct zk_peer *p, zr_status why, struct zr_str text)
{
    char line[ZK_URL_MAX + 300];
    int len = (int)(text.len < 250 ? text.len : 250);
    if (text.len && memmem(text.ptr, text.len, p->url, strlen(p->url))) /* the transport's line says where to */
        snprintf(line, sizeof line, "%.*s", (int)(text.len < sizeof line ? text.len : sizeof line - 1), text.ptr);
    else
        snprintf(line, sizeof line, "could not connect to %s%s%.*s", p->url, len ? ": " : "", len, len ? text.ptr : "");
    pthread_mutex_lock(&lock);
    p->dialing = 0;
    p->unwanted = 0;
    struct waiting *w = waiting_take_all(p);
    peer_put(p);
    pthread_mutex_unlock(&lock);
    waiting_fail_list(w, why == ZR_EINVAL ? ZR_EINVAL : ZR_ECLOSED, line);
}

/* ---- the service ------------------------------------------------------------------------------------------------------------ */
/* Through the connection there is. ZR_EAGAIN: there is none, and nothing was done with the command. */
static zr_status call_connected(const struct url *url, const struct zr_command *c, int64_t timeout_ns, const struct zk_listener_of_ask *to)
{
    struct zr_session *s = peer_session(url);
    if (!s)
        return ZR_EAGAIN;
    zr_status status = to->on_call ? zk_ask_command(s, c, timeout_ns, to) : zk_tell(s, c);
    if (status == ZR_ECLOSED) {
        peer_forget(url, s);
        if (!c->done && !zk_stopping())
            status = ZR_EAGAIN;
    } else if (status == ZR_EAGAIN) {
        status = ZR_EFULL;
    }
    zk_session_release(s);
    return status;
}

static zr_status call_put(struct zr_str where, const struct zr_command *request, int64_t timeout_ns, const struct zk_listener_of_ask *to,
                          char *why, size_t cap_why)
{
    struct url url;
    struct zr_command room;
    const struct zr_command *c = zk_command_full(request, &room);
    why[0] = 0;
    if (!c) {
        snprintf(why, cap_why, "a command without hdr.size");
        return ZR_EINVAL;
    }
    zr_status status = url_read(where, &url, why, cap_why);
    if (status != ZR_OK) {
        if (c->done)
            c->done(c->done_ctx, status);
        return status;
    }
    zk_metric_add(zk_rem.metrics.calls, 1);
    status = call_connected(&url, c, timeout_ns, to);
    if (status != ZR_EAGAIN)
        return status;
    struct waiting *w = waiting_new(c, timeout_ns, to, &status);
    if (!w)
        return status;
    status = peer_enqueue(&url, w);
    if (status != ZR_OK) {
        w->to.on_call = NULL; /* the caller tells */
        waiting_fail(w, status, "");
    }
    return status;
}

static const char *put_text(zr_status status)
{
    switch (status) {
    case ZR_ECLOSED:
        return "the connection was lost, or this process is stopping";
    case ZR_EFULL:
        return "too many calls under way, or the request is larger than a frame may be";
    case ZR_ENOMEM:
        return "no memory";
    default:
        return "the request could not be sent";
    }
}

static void call_call(const struct zr_host *host, struct zr_str url, const struct zr_command *request, int64_t timeout_ns,
                      void (*on_answer)(void *ctx, zr_status status, const struct zr_request *response, struct zr_str text), void *ctx)
{
    (void)host;
    char why[256];
    struct zk_listener_of_ask to = { NULL, on_answer, ctx };
    zr_status status = call_put(url, request, timeout_ns, &to, why, sizeof why);
    if (status != ZR_OK)
        on_answer(ctx, status, NULL, zl_str(why[0] ? why : put_text(status)));
}

static zr_status call_tell(const struct zr_host *host, struct zr_str url, const struct zr_command *request)
{
    (void)host;
    char why[256];
    struct zk_listener_of_ask to = { NULL, NULL, NULL };
    zr_status status = call_put(url, request, 0, &to, why, sizeof why);
    if (status != ZR_OK)
        zk_err_raise(status, 0, "%s", why[0] ? why : put_text(status));
    return status;
}

static void call_hang_up(const struct zr_host *host, struct zr_str where)
{
    (void)host;
    char why[256];
    struct url url;
    if (url_read(where, &url, why, sizeof why) != ZR_OK)
        return;
    struct zr_session *s = NULL;
    struct waiting *w = NULL;
    pthread_mutex_lock(&lock);
    struct zk_peer *p = *peer_slot(&url);
    if (p) {
        s = p->session;
        p->session = NULL;
        p->unwanted = p->dialing;
        w = waiting_take_all(p);
    }
    pthread_mutex_unlock(&lock);
    waiting_fail_list(w, ZR_ECLOSED, "hung up");
    if (s) {
        zk_ask_fail_all(s, ZR_ECLOSED);
        zk_session_close(s);
        zk_session_release(s);
    }
}

/* Nothing can be queued any more: zk_stopping() is set, and read under the lock by peer_enqueue. */
void zk_call_stop(void)
{
    for (uint32_t i = 0; i < BUCKETS; i++) {
        struct waiting *w;
        do {
            pthread_mutex_lock(&lock);
            struct zk_peer *p = peers[i];
            while (p && !p->first)
                p = p->next;
            w = p ? waiting_take_all(p) : NULL;
            pthread_mutex_unlock(&lock);
            waiting_fail_list(w, ZR_ECLOSED, "this process is stopping");
        } while (w);
    }
}

const struct zr_call_v1 zk_call_table = { ZR_HDR(struct zr_call_v1, 0), call_call, call_tell, call_hang_up };
