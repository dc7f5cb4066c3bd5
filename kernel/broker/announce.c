/* SPDX-License-Identifier: Apache-2.0 */
/* announce.c - telling the registries (and the disk) about topics, and sends that wait for it.
 *
 * Why sends wait: a client that got the answer to the first send of a new topic may ask a name server for the
 * topic's route in the next millisecond, from another machine. So the answer leaves when every bound registry knows
 * the topic and topics.json holds it, or after a second. The message itself is stored then, not before, so that
 * a consumer that is quick enough finds route and message together, and in the order in which the sends came: later
 * sends to the same topic queue up behind.
 *
 * A registry that let a wait run out is not waited for again until it answered in time once: it is told all the same,
 * and clients find the topic there when it is back. This is the guard against a registry that is stuck as a whole; one that
 * speaks to several name servers gives up on each for itself, sooner (routing-remote does after 0.8 s).
 *
 * LOCKING. An announcement is counted by references, without a lock; live->lock guards the sends that wait. */
#include "broker/internal.h"

/* Clients give up a send or a heartbeat after three seconds; a name server that is there answers in milliseconds. */
#define ANNOUNCE_NS 1000000000ll
#define MAX_KNOWN 64u /* instances whose silence is remembered; the others are always waited for */

static _Atomic uint32_t silent[MAX_KNOWN]; /* by index of the instance: the last wait for it ran out */

struct announcement;
struct part { /* one registry's */
    struct announcement *a;
    int64_t asked_ns;
    uint32_t instance, waited;
    _Atomic uint32_t answered;
};
struct announcement {
    _Atomic uint32_t pending; /* registries, the disk, and the caller itself while it is asking */
    _Atomic uint32_t refs, told;
    uint64_t timer;
    void (*fn)(void *ctx, zr_status status);
    void *ctx;
    uint32_t n_parts;
    struct part parts[];
};

static void announcement_unref(struct announcement *a)
{
    if (atomic_fetch_sub(&a->refs, 1) == 1)
        free(a);
}

static void announcement_tell(struct announcement *a, zr_status status)
{
    if (!atomic_exchange(&a->told, 1))
        a->fn(a->ctx, status);
}

static void announcement_part(void *ctx, zr_status status)
{
    struct announcement *a = ctx;
    (void)status; /* a registry that gave up goes on by itself; a failed write is logged and repeated */
    if (atomic_fetch_sub(&a->pending, 1) == 1) {
        if (a->timer && zk_timer_cancel(a->timer) == ZR_OK)
            announcement_unref(a); /* the timer's */
        announcement_tell(a, ZR_OK);
    }
    announcement_unref(a);
}

static void registry_part(void *ctx, zr_status status)
{
    struct part *p = ctx;
    struct announcement *a = p->a;
    uint32_t waited = p->waited;
    atomic_store(&p->answered, 1);
    if (status == ZR_OK && p->instance < MAX_KNOWN && zk_mono_ns() - p->asked_ns < ANNOUNCE_NS &&
        atomic_exchange(&silent[p->instance], 0))
        zk_log(ZR_LOG_INFO, "registry %s answers again: sends of new topics wait for it", zk_instances[p->instance]->as);
    if (waited)
        announcement_part(a, status);
    else
        announcement_unref(a);
}

static void announcement_late(void *arg)
{
    struct announcement *a = arg;
    for (uint32_t i = 0; i < a->n_parts; i++) {
        struct part *p = &a->parts[i];
        if (p->waited && !atomic_load(&p->answered) && p->instance < MAX_KNOWN &&
            !atomic_exchange(&silent[p->instance], 1))
            zk_log(ZR_LOG_WARN, "registry %s does not answer: sends of new topics do not wait for it until it does",
                   zk_instances[p->instance]->as);
    }
    announcement_tell(a, ZR_ETIMEOUT);
    announcement_unref(a);
}

static void nobody_waits(void *ctx, zr_status status)
{
    (void)ctx;
    (void)status;
}

static uint32_t is_registry(uint32_t instance)
{
    return zk_instances[instance]->registry && zk_instances[instance]->stage >= ZK_WARM;
}

/* All parts, before the timer may look at them; each is counted, so that none ends the announcement too early. */
static void parts_make(struct announcement *a, uint32_t cap)
{
    for (uint32_t i = 0; i < zk_n_instances && a->n_parts < cap; i++) {
        if (!is_registry(i))
            continue;
        struct part *p = &a->parts[a->n_parts++];
        p->a = a;
        p->instance = i;
        p->asked_ns = zk_mono_ns();
        p->waited = i >= MAX_KNOWN || !atomic_load(&silent[i]);
        atomic_fetch_add(&a->pending, p->waited);
        atomic_fetch_add(&a->refs, 1);
    }
}

static void registries_tell(const struct zr_str *names, uint32_t n, struct announcement *a)
{
    for (uint32_t i = 0; a && i < a->n_parts; i++) {
        struct zk_instance *r = zk_instances[a->parts[i].instance];
        r->registry->changed(r->inst, names, n, registry_part, &a->parts[i]);
    }
    for (uint32_t i = 0; !a && i < zk_n_instances; i++)
        if (is_registry(i))
            zk_instances[i]->registry->changed(zk_instances[i]->inst, names, n, nobody_waits, NULL);
}

void zb_announce(const struct zr_str *names, uint32_t n, void (*fn)(void *ctx, zr_status status), void *ctx)
{
    uint32_t cap = zk_n_instances;
    struct announcement *a = fn ? calloc(1, sizeof *a + cap * sizeof a->parts[0]) : NULL;
    if (a) {
        a->fn = fn;
        a->ctx = ctx;
        atomic_init(&a->pending, 2); /* the disk, and this call */
        atomic_init(&a->refs, 3);    /* and this call's own */
        parts_make(a, cap);
        if (!atomic_load(&zb.stopping)) {
            atomic_fetch_add(&a->refs, 1);
            if (zk_timer_at(zk_mono_ns() + ANNOUNCE_NS, announcement_late, a, &a->timer) != ZR_OK) {
                a->timer = 0;
                atomic_fetch_sub(&a->refs, 1); /* never the last: this call's own is there */
            }
        }
    }
    zb_doc_touch_rows(ZB_DOC_TOPICS, names, n, a ? announcement_part : NULL, a);
    registries_tell(names, n, a);
    if (!a) {
        if (fn)
            fn(ctx, ZR_ENOMEM);
        return;
    }
    announcement_part(a, ZR_OK);
    announcement_unref(a);
}

static void new_topic_known(void *ctx, zr_status status)
{
    struct zb_topic *t = ctx;
    if (status != ZR_OK)
        zk_log(ZR_LOG_WARN, "topic %.*s: not every name server knows it yet", (int)t->name.len, t->name.ptr);
    pthread_mutex_lock(&t->live->lock);
    struct zb_deferred *d = t->live->waiting;
    t->live->waiting = NULL;
    t->live->waiting_end = &t->live->waiting;
    atomic_store(&t->live->announcing, 0);
    uint32_t any = d != NULL;
    while (d) { /* into the inboxes under this lock: so they come before sends that find announcing 0 */
        struct zb_deferred *next = d->next;
        zb_lane_push(d->lane, &d->job);
        d = next;
    }
    pthread_mutex_unlock(&t->live->lock);
    for (uint32_t i = 0; any && i < zk_n_lanes(); i++)
        zk_lane_wake(zk_lane_at(i));
    zb_topic_unref(t);
}

void zb_announce_new(struct zb_topic *topic)
{
    zb_topic_ref(topic);
    zb_announce(&topic->name, 1, new_topic_known, topic);
}

void zb_announce_removed(struct zr_str name)
{
    zb_doc_touch_rows(ZB_DOC_TOPICS, &name, 1, NULL, NULL);
    for (uint32_t i = 0; i < zk_n_instances; i++)
        if (zk_instances[i]->registry && zk_instances[i]->stage >= ZK_WARM)
            zk_instances[i]->registry->removed(zk_instances[i]->inst, name);
}

/* ---- a request kept beyond its call ---- */
static char *text_copy(char **at, struct zr_str s)
{
    char *to = *at;
    if (s.len)
        memcpy(to, s.ptr, s.len);
    *at += s.len;
    return to;
}

struct zb_deferred *zb_request_keep(const struct zr_request *req)
{
    uint64_t size =
        sizeof(struct zb_deferred) + req->n_fields * sizeof(struct zr_field) + req->remark.len + req->body.len;
    for (uint32_t i = 0; i < req->n_fields; i++)
        size += req->fields[i].name.len + req->fields[i].value.len;
    struct zb_deferred *d = malloc(size);
    if (!d)
        return NULL;
    memset(d, 0, sizeof *d);
    struct zr_field *fields = (struct zr_field *)(void *)(d + 1);
    char *at = (char *)(fields + req->n_fields);
    memcpy(&d->req, req, req->hdr.size < sizeof d->req ? req->hdr.size : sizeof d->req);
    for (uint32_t i = 0; i < req->n_fields; i++) {
        fields[i].name = (struct zr_str){ text_copy(&at, req->fields[i].name), req->fields[i].name.len };
        fields[i].value = (struct zr_str){ text_copy(&at, req->fields[i].value), req->fields[i].value.len };
    }
    d->req.fields = fields;
    d->req.remark = (struct zr_str){ text_copy(&at, req->remark), req->remark.len };
    struct zr_str body = { (const char *)req->body.ptr, req->body.len };
    d->req.body = (struct zr_span){ (const uint8_t *)text_copy(&at, body), body.len };
    d->req.token = req->token->flags & ZK_TOKEN_HELD ? req->token : zk_token_hold(req->token);
    if (!d->req.token) {
        free(d);
        return NULL;
    }
    zk_metric_add(zb.meter.deferred, 1);
    return d;
}

void zb_request_free(struct zb_deferred *d)
{
    free(d);
}
