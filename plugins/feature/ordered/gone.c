/* SPDX-License-Identifier: Apache-2.0 */
/* gone.c - what becomes of a client's queue locks when it goes.
 *
 * A client that dies and one that merely lost its connection look the same for a moment, but the second goes on working on what
 * it has fetched, believing in its locks for 30 s after their last renewal. So it depends on how it went:
 *   1. it left its group (UNREGISTER_CLIENT): its locks end at once.
 *   2. the peer ended the connection (FIN, RST: a killed process does): a doubt. A client that lives comes back within seconds (it
 *      pulls again after 3, commits its offsets every 5). If after `grace` neither its client id is in the group again, nor
 *      anybody from its host is connected anew without having said who he is (older clients say so only every 30 s), it is dead:
 *      its locks end, and the group is told, so that the others ask for them at once. While somebody nameless is there, it is
 *      asked again, up to `client_lease`.
 *   3. anything else (we ended the connection, nothing was heard for long): its locks end `client_lease` after their last renewal.
 * A lock that was renewed after the connection ended is left alone in all cases.
 *
 * LOCKING. gone_lock guards the list of doubts. Nothing of the host but timers is called with it held. */
#include <stdlib.h>
#include <string.h>

#include "ordered.h"
#include "zl/text.h"

#define NOTIFY_CONSUMER_IDS_CHANGED 40
#define MAX_DOUBTS 4096u

struct doubt {
    struct doubt *next;
    struct zr_inst *inst;
    struct zr_session *session; /* held */
    struct zr_str group, client; /* text in `text` */
    int64_t since_ms;
    uint64_t timer;
    char text[];
};

static uint32_t still_member(struct zr_inst *inst, struct zr_str group, struct zr_str client)
{
    struct zr_session *other = inst->broker->client(inst->host, group, client, 0);
    if (other) inst->reply->session_release(inst->host, other);
    return other != NULL;
}

static void tell_one(void *ctx, const struct zr_consumers *consumers)
{
    struct zr_inst *inst = ctx;
    struct zr_field field = { zl_str("consumerGroup"), consumers->group };
    struct zr_command command = { .hdr = ZR_HDR(struct zr_command, 0), .code = NOTIFY_CONSUMER_IDS_CHANGED, .fields = &field, .n_fields = 1 };
    const char *at = (const char *)consumers->clients;
    for (uint32_t i = 0; i < consumers->n_clients; i++, at += consumers->clients->hdr.size)
        inst->reply->tell(inst->host, ((const struct zr_client *)(const void *)at)->session, &command);
}

static void doubt_free(struct doubt *d)
{
    d->inst->reply->session_release(d->inst->host, d->session);
    free(d);
}

/* Takes it off the list; under the lock. */
static void doubt_unlink(struct doubt *d)
{
    struct doubt **at = &d->inst->doubts;
    while (*at && *at != d) at = &(*at)->next;
    if (!*at) return;
    *at = d->next;
    d->inst->n_doubts--;
}

static void decide(void *arg);

/* ZR_OK: decide will be called. Under the lock. */
static zr_status doubt_arm(struct doubt *d)
{
    struct zr_inst *inst = d->inst;
    int64_t wait = inst->settings->grace > 10 ? inst->settings->grace : 10; /* ms: it is asked again and again */
    if (inst->cooled) return ZR_ECLOSED;
    return inst->timer->at(inst->host, inst->timer->mono_ns(inst->host) + wait * 1000000, decide, d, &d->timer);
}

static void decide(void *arg)
{
    struct doubt *d = arg;
    struct zr_inst *inst = d->inst;
    zr_status again = ZR_ENOENT;
    uint32_t lives = still_member(inst, d->group, d->client);
    uint32_t perhaps = ordered_now_ms(inst) - d->since_ms < inst->settings->client_lease && inst->reply->session_returned(inst->host, d->session);
    pthread_mutex_lock(&inst->gone_lock);
    if (!lives && perhaps) again = doubt_arm(d);
    if (again != ZR_OK) doubt_unlink(d);
    uint32_t cooled = inst->cooled;
    pthread_mutex_unlock(&inst->gone_lock);
    if (again == ZR_OK) return;
    if (!cooled && !lives && !perhaps && locks_end(inst->locks, d->group, d->client, d->since_ms))
        inst->broker->consumers(inst->host, d->group, tell_one, inst);
    doubt_free(d);
}

static struct doubt *doubt_new(struct zr_inst *inst, const struct zr_event *event)
{
    struct doubt *d = calloc(1, sizeof *d + event->group.len + event->client_id.len);
    if (!d) return NULL;
    if (event->group.len) memcpy(d->text, event->group.ptr, event->group.len);
    if (event->client_id.len) memcpy(d->text + event->group.len, event->client_id.ptr, event->client_id.len);
    d->inst = inst;
    d->group = (struct zr_str){ d->text, event->group.len };
    d->client = (struct zr_str){ d->text + event->group.len, event->client_id.len };
    d->since_ms = ordered_now_ms(inst);
    d->session = inst->reply->session_hold(inst->host, event->session);
    return d;
}

/* Without memory, room or a timer its locks end after client_lease, as they do anyhow. */
static void doubt_begin(struct zr_inst *inst, const struct zr_event *event)
{
    struct doubt *d = doubt_new(inst, event);
    if (!d) return;
    pthread_mutex_lock(&inst->gone_lock);
    zr_status status = inst->n_doubts == MAX_DOUBTS ? ZR_EFULL : doubt_arm(d);
    if (status == ZR_OK) {
        d->next = inst->doubts;
        inst->doubts = d;
        inst->n_doubts++;
    }
    pthread_mutex_unlock(&inst->gone_lock);
    if (status != ZR_OK) doubt_free(d);
}

zr_status gone_hook(struct zr_inst *inst, const struct zr_event *event, struct zr_verdict *verdict)
{
    struct zr_session_info info = { .hdr = ZR_HDR(struct zr_session_info, 0) };
    (void)verdict;
    if (!locks_shorten(inst->locks, event->group, event->client_id, INT64_MAX) || still_member(inst, event->group, event->client_id)) return ZR_OK;
    inst->reply->session_info(inst->host, event->session, &info);
    if (info.open) {
        locks_end(inst->locks, event->group, event->client_id, INT64_MAX);
        return ZR_OK;
    }
    locks_shorten(inst->locks, event->group, event->client_id, inst->settings->client_lease);
    if (info.left) doubt_begin(inst, event);
    return ZR_OK;
}

void gone_cool(struct zr_inst *inst)
{
    pthread_mutex_lock(&inst->gone_lock);
    inst->cooled = 1;
    struct doubt **at = &inst->doubts;
    while (*at) {
        struct doubt *d = *at;
        if (inst->timer->cancel(inst->host, d->timer) == ZR_OK) {
            *at = d->next;
            inst->n_doubts--;
            doubt_free(d);
        } else {
            at = &d->next; /* it runs at this moment, and ends it itself */
        }
    }
    pthread_mutex_unlock(&inst->gone_lock);
}
