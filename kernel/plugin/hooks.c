/* SPDX-License-Identifier: Apache-2.0 */
/* hooks.c - chains of hooks, one for each point.
 *
 * What stays true:
 *   1. A chain is built once, between create and warm, and never changed while calls arrive; readers take no lock.
 *   2. Order: `before` and `after` (by plugin id), then the order of the configuration. A loop is refused with the two ids.
 *   3. A hook that does not know the request's code: an observer is called all the same; a guard refuses when the code's handler
 *      changes state, and is passed by otherwise; a transform refuses at PUBLISH, and is passed by elsewhere. A code of 0 (not
 *      from a client) is known to every hook.
 *   4. A hook with topics is not called for others; whoever sends to those pays one flag of the topic for it.
 *   5. A guard or transform that fails refuses; an observer that fails is counted. */
#include "config/tree.h"
#include "core/core_int.h"
#include "plugin/plugin.h"
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>

#define POINTS 64u
#define SYSTEM_BUSY 2    /* RocketMQ response codes */
#define SYSTEM_ERROR 1
#define NO_PERMISSION 16

struct link {
    const struct zr_hook *hook;
    struct zk_instance *in;
    const char *topics; /* NULL: all */
    uint32_t metric_failed, metric_refused;
};
struct chain { struct link *links; uint32_t n; };
static struct chain chains[POINTS];

uint32_t zk_hooks_at(uint32_t point) { return point < POINTS ? chains[point].n : 0; }

/* Is id one of the blank-separated words? */
static uint32_t names(const char *words, struct zr_str id)
{
    struct zr_str rest = zl_str(words), part;
    while (rest.len > 0 && zl_split(&rest, ' ', &part))
        if (zl_eq(part, id))
            return 1;
    return 0;
}

static uint32_t is_for(const struct link *l, struct zr_str topic) { return !l->topics || names(l->topics, topic); }

uint32_t zk_hooks_want(uint32_t point, struct zr_str topic)
{
    for (uint32_t i = 0; point < POINTS && i < chains[point].n; i++)
        if (is_for(&chains[point].links[i], topic))
            return 1;
    return 0;
}

/* ---- running ----------------------------------------------------------------------------------------------------------------- */

static uint32_t knows(const struct zr_hook *h, int32_t code)
{
    if (!h->codes || code == 0)
        return 1;
    for (uint32_t i = 0; i < h->n_codes; i++)
        if (h->codes[i] == code)
            return 1;
    return 0;
}

static void refuse_with(const struct link *l, struct zr_verdict *ret, int32_t code, const char *why)
{
    /* Valid until the next refusal on this thread: remarks are copied into the answer before anything else runs. */
    static _Thread_local char remark[512];
    int n = snprintf(remark, sizeof remark, "%s: %s", l->in->as, why);
    ret->what = ZR_VERDICT_REJECT;
    ret->code = code;
    ret->remark = (struct zr_str){ remark, n < (int)sizeof remark ? (uint64_t)n : sizeof remark - 1 };
    zk_metric_add(l->metric_refused, 1);
}

/* Is this hook to be passed by, or does it refuse what it does not know? */
static void pass_unknown(const struct link *l, const struct zr_event *event, uint32_t point, struct zr_verdict *ret)
{
    uint32_t guarded = event->request && (event->request->flags & ZR_REQUEST_GUARDED);
    if (l->hook->klass == ZR_CLASS_GUARD && guarded)
        refuse_with(l, ret, NO_PERMISSION, "this guard was not written for this request");
    else if (l->hook->klass == ZR_CLASS_TRANSFORM && point == ZR_POINT_PUBLISH)
        refuse_with(l, ret, SYSTEM_ERROR, "this transformation was not written for this request");
}

static void run_one(const struct link *l, const struct zr_event *event, struct zr_verdict *ret)
{
    struct zr_verdict verdict = { ZR_HDR(struct zr_verdict, 0), ZR_VERDICT_CONTINUE, 0, { NULL, 0 } };
    zk_err_clear();
    zr_status status = l->hook->call(l->in->inst, event, &verdict);
    if (status < 0) {
        zk_metric_add(l->metric_failed, 1);
        if (l->hook->klass != ZR_CLASS_OBSERVE)
            refuse_with(l, ret, status == ZR_EAGAIN || status == ZR_EFULL ? SYSTEM_BUSY : SYSTEM_ERROR, *zk_err_text() ? zk_err_text() : "failed");
        return;
    }
    if (l->hook->klass == ZR_CLASS_OBSERVE || verdict.what == ZR_VERDICT_CONTINUE)
        return;
    if (verdict.what == ZR_VERDICT_REJECT)
        zk_metric_add(l->metric_refused, 1);
    ret->what = verdict.what;
    ret->code = verdict.code;
    ret->remark = verdict.remark;
}

void zk_hooks_run(uint32_t point, const struct zr_event *event, struct zr_verdict *ret)
{
    ret->what = ZR_VERDICT_CONTINUE;
    if (point >= POINTS)
        return;
    const struct chain *c = &chains[point];
    for (uint32_t i = 0; i < c->n && ret->what == ZR_VERDICT_CONTINUE; i++) {
        const struct link *l = &c->links[i];
        if (!is_for(l, event->topic))
            continue;
        if (l->hook->klass != ZR_CLASS_OBSERVE && !knows(l->hook, event->code))
            pass_unknown(l, event, point, ret);
        else
            run_one(l, event, ret);
    }
}

/* ---- building ------------------------------------------------------------------------------------------------------------------ */

static const struct zr_hook *hook_at(const struct zr_hooks_v1 *t, uint32_t i)
{
    return (const struct zr_hook *)(const void *)((const char *)t->hooks + (uint64_t)i * t->hooks->hdr.size);
}

static uint32_t must_precede(const struct link *a, const struct link *b)
{
    return names(a->hook->before, zl_str(b->in->id)) || names(b->hook->after, zl_str(a->in->id));
}

/* Takes, again and again, the first link that nothing left over must precede. */
static zr_status sort_chain(struct chain *c, uint32_t point)
{
    struct link *sorted = calloc(c->n, sizeof *sorted);
    if (!sorted)
        return ZR_ENOMEM;
    uint8_t *taken = calloc(c->n, 1);
    zr_status status = taken ? ZR_OK : ZR_ENOMEM;
    for (uint32_t k = 0; k < c->n && status == ZR_OK; k++) {
        uint32_t pick = c->n, blocker = c->n;
        for (uint32_t i = 0; i < c->n && pick == c->n; i++) {
            uint32_t blocked = taken[i];
            for (uint32_t j = 0; j < c->n && !blocked; j++)
                if (j != i && !taken[j] && must_precede(&c->links[j], &c->links[i])) {
                    blocked = 1;
                    blocker = j;
                }
            if (!blocked)
                pick = i;
        }
        if (pick == c->n) {
            zk_err_raise(ZR_EINVAL, 0, "L17: the hooks at point %u cannot be put in order: %s is in a loop of before and after", point,
                         c->links[blocker].in->id);
            status = ZR_EINVAL;
        } else {
            taken[pick] = 1;
            sorted[k] = c->links[pick];
        }
    }
    if (status == ZR_OK)
        memcpy(c->links, sorted, c->n * sizeof *sorted);
    free(sorted);
    free(taken);
    return status;
}

/* An older plugin's hook has no such slot; nor has a point without topics a use for it. */
static const char *topics_of(const struct zr_hook *hook)
{
    uint32_t carries = hook->point == ZR_POINT_PUBLISH || hook->point == ZR_POINT_STORED || hook->point == ZR_POINT_TOPIC_REMOVED;
    return carries && hook->hdr.size >= offsetof(struct zr_hook, topics) + sizeof hook->topics ? hook->topics : NULL;
}

static zr_status add_link(struct zk_instance *in, const struct zr_hook *hook)
{
    if (hook->point >= POINTS) /* of a later minor: such a point never comes here */
        return ZR_OK;
    struct chain *c = &chains[hook->point];
    struct link *more = realloc(c->links, (c->n + 1u) * sizeof *more);
    if (!more)
        return ZR_ENOMEM;
    c->links = more;
    more[c->n++] = (struct link){ hook, in, topics_of(hook),
                                  zk_metric_of(in->as, "zarya_hook_failures_total", ZR_METRIC_COUNTER, "Calls of hooks that failed."),
                                  zk_metric_of(in->as, "zarya_hook_refusals_total", ZR_METRIC_COUNTER, "Requests and messages that hooks refused.") };
    return ZR_OK;
}

static int by_config(const void *a, const void *b)
{
    const struct zk_instance *x = *(struct zk_instance *const *)a, *y = *(struct zk_instance *const *)b;
    return x->conf < y->conf ? -1 : x->conf > y->conf;
}

static zr_status add_all(struct zk_instance **configured)
{
    for (uint32_t i = 0; i < zk_n_instances; i++) {
        const struct zr_hooks_v1 *t = configured[i]->hooks;
        for (uint32_t k = 0; t && k < t->n_hooks; k++)
            if (add_link(configured[i], hook_at(t, k)) != ZR_OK)
                return ZR_ENOMEM;
    }
    return ZR_OK;
}

zr_status zk_hooks_build(void)
{
    zk_hooks_drop();
    if (zk_n_instances == 0)
        return ZR_OK;
    struct zk_instance **configured = malloc(zk_n_instances * sizeof(struct zk_instance *));
    if (!configured)
        return ZR_ENOMEM;
    memcpy(configured, zk_instances, zk_n_instances * sizeof(struct zk_instance *));
    qsort(configured, zk_n_instances, sizeof *configured, by_config);
    zr_status status = add_all(configured);
    free(configured);
    for (uint32_t p = 0; p < POINTS && status == ZR_OK; p++)
        if (chains[p].n > 1)
            status = sort_chain(&chains[p], p);
    if (status != ZR_OK)
        zk_hooks_drop();
    return status;
}

void zk_hooks_drop(void)
{
    for (uint32_t p = 0; p < POINTS; p++) {
        free(chains[p].links);
        chains[p] = (struct chain){ NULL, 0 };
    }
}
