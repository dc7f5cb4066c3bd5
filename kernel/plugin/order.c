/* SPDX-License-Identifier: Apache-2.0 */
/* order.c - providers before users.
 *
 * A depth-first walk in the configured order: an item is placed after everything it requires or wants. So the result is the
 * configured order, moved no more than the requirements ask. A loop of requirements is refused with its path; where a loop has a
 * `wants` in it, that one is not waited for. */
#include "core/core.h"
#include "plugin/plugin.h"
#include <stdio.h>
#include <stdlib.h>

#define UNSEEN 0u
#define OPEN 1u /* on the path */
#define PLACED 2u

struct walk {
    struct zk_order_item *items, *out;
    uint32_t n, n_out;
    uint8_t *state;
    uint32_t *path;       /* items on the way */
    const char **through; /* what the item on the path needs of the next */
    uint32_t depth;
};

static uint32_t provides(const struct zk_manifest *m, const char *what)
{
    return zk_manifest_has(m->provides, what) || strcmp(m->id, what) == 0;
}

static void raise_loop(const struct walk *w, uint32_t back_to)
{
    char text[1500];
    uint32_t at = 0, i = 0;
    while (i < w->depth && w->path[i] != back_to)
        i++;
    for (; i < w->depth && at < sizeof text - 1; i++)
        at += (uint32_t)snprintf(text + at, sizeof text - at, "%s requires %s of ", w->items[w->path[i]].as, w->through[i]);
    if (at < sizeof text - 1)
        snprintf(text + at, sizeof text - at, "%s", w->items[back_to].as);
    zk_err_raise(ZR_EINVAL, 0, "L11: the requirements go in a loop: %s", text);
}

static zr_status place(struct walk *w, uint32_t i);

static zr_status place_needs(struct walk *w, uint32_t i)
{
    for (const char *const *needs = w->items[i].manifest->requires; *needs; needs++) {
        for (uint32_t k = 0; k < w->n; k++) {
            if (k == i || !provides(w->items[k].manifest, *needs) || w->state[k] == PLACED)
                continue;
            w->through[w->depth - 1] = *needs;
            if (w->state[k] == OPEN) {
                raise_loop(w, k);
                return ZR_EINVAL;
            }
            zr_status status = place(w, k);
            if (status != ZR_OK)
                return status;
        }
    }
    return ZR_OK;
}

static zr_status place(struct walk *w, uint32_t i)
{
    if (w->state[i] != UNSEEN)
        return ZR_OK;
    w->state[i] = OPEN;
    w->path[w->depth++] = i;
    zr_status status = place_needs(w, i);
    w->depth--;
    if (status != ZR_OK)
        return status;
    w->state[i] = PLACED;
    w->out[w->n_out++] = w->items[i];
    return ZR_OK;
}

/* Wants are an order among those that are there: a second pass moves wanted providers in front where no requirement forbids. */
static void place_wanting(struct walk *w, uint32_t i)
{
    if (w->state[i] != UNSEEN)
        return;
    w->state[i] = OPEN;
    for (uint32_t pass = 0; pass < 2; pass++) {
        for (const char *const *needs = pass ? w->items[i].manifest->wants : w->items[i].manifest->requires; *needs; needs++)
            for (uint32_t k = 0; k < w->n; k++)
                if (k != i && w->state[k] == UNSEEN && provides(w->items[k].manifest, *needs))
                    place_wanting(w, k);
    }
    w->state[i] = PLACED;
    w->out[w->n_out++] = w->items[i];
}

/* Does any item stand before something it requires? */
static uint32_t breaks_requirement(const struct zk_order_item *items, uint32_t n)
{
    for (uint32_t i = 0; i < n; i++)
        for (const char *const *need = items[i].manifest->requires; *need; need++)
            for (uint32_t k = i + 1; k < n; k++)
                if (provides(items[k].manifest, *need))
                    return 1;
    return 0;
}

static void walk_reset(struct walk *w)
{
    memset(w->state, UNSEEN, w->n);
    w->depth = w->n_out = 0;
}

static zr_status walk_all(struct walk *w)
{
    zr_status status = ZR_OK;
    for (uint32_t i = 0; i < w->n && status == ZR_OK; i++)
        status = place(w, i);
    if (status != ZR_OK)
        return status;
    struct zk_order_item *hard = malloc(w->n * sizeof *hard);
    if (!hard)
        return ZR_ENOMEM;
    memcpy(hard, w->out, w->n * sizeof *hard);
    walk_reset(w);
    for (uint32_t i = 0; i < w->n; i++)
        place_wanting(w, i);
    if (breaks_requirement(w->out, w->n)) /* a loop that only a `wants` closes: the requirements alone decide */
        memcpy(w->out, hard, w->n * sizeof *hard);
    free(hard);
    return ZR_OK;
}

zr_status zk_order_solve(struct zk_order_item *items, uint32_t n)
{
    struct walk w = { items, NULL, n, 0, NULL, NULL, NULL, 0 };
    zr_status status = ZR_ENOMEM;
    if (n == 0)
        return ZR_OK;
    w.out = calloc(n, sizeof *w.out);
    w.state = calloc(n, 1);
    w.path = calloc(n, sizeof *w.path);
    w.through = calloc(n, sizeof *w.through);
    if (w.out && w.state && w.path && w.through) {
        status = walk_all(&w);
        if (status == ZR_OK)
            memcpy(items, w.out, n * sizeof *items);
    }
    free(w.out);
    free(w.state);
    free(w.path);
    free(w.through);
    return status;
}
