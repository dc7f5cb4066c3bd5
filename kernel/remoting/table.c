/* SPDX-License-Identifier: Apache-2.0 */
/* table.c - who handles which request code on which listener.
 *
 * All handlers (the kernel's own, and the zarya.requests/1 of every instance) are copied once into `entries`. A table holds
 * those whose serves bits meet its own; there is one table for each set of bits that some listener has.
 *   1. Within one bit of serves a code has at most one handler.
 *   2. Within one table a code has at most one handler; a listener that serves two bits with different handlers for one code
 *      is a start-up error.
 *   3. Tables do not change while a lane runs; they are read without a lock. */
#include "config/node.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "remoting/internal.h"

struct kernel_handlers {
    const struct zr_handler *handlers;
    const char *owner;
    uint32_t n, reserved;
};
#define MAX_KERNEL_SETS 64u
static struct kernel_handlers kernel_sets[MAX_KERNEL_SETS];
static uint32_t n_kernel_sets;

static struct zk_entry *entries;
static uint32_t n_entries;
static struct zk_table *tables;

void zk_remoting_add(const struct zr_handler *handlers, uint32_t n, const char *owner)
{
    if (n_kernel_sets == MAX_KERNEL_SETS) {
        zk_log(ZR_LOG_ERROR, "remoting: more than %u sets of the kernel's own handlers; those of %s are left out", MAX_KERNEL_SETS, owner);
        return;
    }
    kernel_sets[n_kernel_sets++] = (struct kernel_handlers){ handlers, owner, n, 0 };
}

/* "feature-x (zarya.conf:12)"; the kernel's own have no place. */
static const char *who_text(const struct zk_instance *from, const char *owner, char *to, uint64_t room)
{
    if (from && from->conf)
        snprintf(to, room, "%s (%s:%u)", owner, from->conf->file, from->conf->line);
    else
        snprintf(to, room, "the %s itself", owner);
    return to;
}

static zr_status two_handlers(const struct zk_entry *a, const struct zk_entry *b)
{
    char one[600], other[600];
    zk_err_raise(ZR_EEXIST, 0, "L19: request code %d (%s) has two handlers: of %s and of %s", b->handler.code, b->handler.name,
                 who_text(a->from, a->owner, one, sizeof one), who_text(b->from, b->owner, other, sizeof other));
    return ZR_EEXIST;
}

static zr_status entry_add(const struct zr_handler *handler, uint32_t step, const struct zk_instance *from, const char *owner)
{
    if (n_entries == ZK_MAX_HANDLERS) {
        zk_err_raise(ZR_EFULL, 0, "more than %u request handlers", ZK_MAX_HANDLERS);
        return ZR_EFULL;
    }
    struct zk_entry *e = &entries[n_entries];
    memset(e, 0, sizeof *e);
    memcpy(&e->handler, handler, step < sizeof e->handler ? step : sizeof e->handler);
    e->inst = from ? from->inst : NULL;
    e->owner = owner;
    e->from = from;
    if (!e->handler.handle || !e->handler.serves) {
        zk_err_raise(ZR_EINVAL, 0, "%s: the handler of request code %d has no function or serves no listener", owner, e->handler.code);
        return ZR_EINVAL;
    }
    if (!e->handler.name)
        e->handler.name = "?";
    for (uint32_t i = 0; i < n_entries; i++) {
        if (entries[i].handler.code == e->handler.code && (entries[i].handler.serves & e->handler.serves))
            return two_handlers(&entries[i], e);
    }
    n_entries++;
    return ZR_OK;
}

static zr_status entries_add(const struct zr_handler *handlers, uint32_t n, const struct zk_instance *from, const char *owner)
{
    if (n == 0)
        return ZR_OK;
    uint32_t step = handlers->hdr.size;
    if (step < sizeof(struct zr_hdr)) {
        zk_err_raise(ZR_EINVAL, 0, "%s: its request handlers have no size", owner);
        return ZR_EINVAL;
    }
    zr_status status = ZR_OK;
    for (uint32_t i = 0; i < n && status == ZR_OK; i++)
        status = entry_add((const struct zr_handler *)((const char *)handlers + (size_t)i * step), step, from, owner);
    return status;
}

static zr_status collect(const struct zk_instance **ret_at)
{
    *ret_at = NULL;
    entries = calloc(ZK_MAX_HANDLERS, sizeof *entries);
    if (!entries) {
        zk_err_raise(ZR_ENOMEM, 0, "no memory for the table of request handlers");
        return ZR_ENOMEM;
    }
    zr_status status = ZR_OK;
    for (uint32_t i = 0; i < n_kernel_sets && status == ZR_OK; i++)
        status = entries_add(kernel_sets[i].handlers, kernel_sets[i].n, NULL, kernel_sets[i].owner);
    for (uint32_t i = 0; i < zk_n_instances && status == ZR_OK; i++) {
        const struct zk_instance *it = zk_instances[i];
        if (it->requests && (*ret_at = it) != NULL)
            status = entries_add(it->requests->handlers, it->requests->n_handlers, it, it->as);
    }
    return status;
}

zr_status zk_codes_collect(void)
{
    const struct zk_instance *at;
    return collect(&at);
}

zr_status zk_remoting_check(const struct zk_instance **ret_at, uint32_t *ret_serves)
{
    zr_status status = collect(ret_at);
    *ret_serves = 0;
    for (uint32_t i = 0; i < n_entries; i++)
        *ret_serves |= entries[i].handler.serves;
    zk_codes_free();
    return status;
}

static uint32_t hash_code(int32_t code) { return ((uint32_t)code * 2654435769u) >> 8; }

const struct zk_entry *zk_codes_slow(const struct zk_table *table, int32_t code)
{
    if (!table->hash)
        return NULL;
    for (uint32_t i = hash_code(code) & table->hash_mask;; i = (i + 1) & table->hash_mask) {
        const struct zk_entry *e = table->hash[i];
        if (!e || e->handler.code == code)
            return e;
    }
}

static void table_put(struct zk_table *table, const struct zk_entry *e)
{
    if ((uint32_t)e->handler.code < ZK_DIRECT_CODES) {
        table->direct[e->handler.code] = e;
        return;
    }
    uint32_t i = hash_code(e->handler.code) & table->hash_mask;
    while (table->hash[i])
        i = (i + 1) & table->hash_mask;
    table->hash[i] = e;
}

static zr_status table_fill(struct zk_table *table)
{
    for (uint32_t i = 0; i < n_entries; i++) {
        const struct zk_entry *e = &entries[i];
        if (!(e->handler.serves & table->serves))
            continue;
        const struct zk_entry *other = zk_codes_find(table, e->handler.code);
        if (other) {
            char one[600], two[600];
            zk_err_raise(ZR_EEXIST, 0, "one listener serves what %s and %s both handle: request code %d (%s)",
                         who_text(other->from, other->owner, one, sizeof one), who_text(e->from, e->owner, two, sizeof two), e->handler.code, e->handler.name);
            return ZR_EEXIST;
        }
        table_put(table, e);
    }
    return ZR_OK;
}

static void table_free(struct zk_table *table)
{
    free(table->hash);
    free(table);
}

zr_status zk_codes_get(uint32_t serves, const struct zk_table **ret)
{
    for (struct zk_table *t = tables; t; t = t->next) {
        if (t->serves == serves) {
            *ret = t;
            return ZR_OK;
        }
    }
    uint32_t cap = 64;
    while (cap < 2 * n_entries)
        cap *= 2;
    struct zk_table *table = calloc(1, sizeof *table);
    if (!table || !(table->hash = calloc(cap, sizeof(*table->hash)))) {
        free(table);
        zk_err_raise(ZR_ENOMEM, 0, "no memory for a table of request codes");
        return ZR_ENOMEM;
    }
    table->hash_mask = cap - 1;
    table->serves = serves;
    zr_status status = table_fill(table);
    if (status != ZR_OK) {
        table_free(table);
        return status;
    }
    table->next = tables;
    tables = table;
    *ret = table;
    return ZR_OK;
}

void zk_codes_free(void)
{
    while (tables) {
        struct zk_table *next = tables->next;
        table_free(tables);
        tables = next;
    }
    free(entries);
    entries = NULL;
    n_entries = 0;
}

void zk_codes_forget(void) { n_kernel_sets = 0; }
