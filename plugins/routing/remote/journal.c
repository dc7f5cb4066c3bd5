/* SPDX-License-Identifier: Apache-2.0 */
/* journal.c - the last RM_JOURNAL changes of topics, oldest overwritten first. What is overwritten moves journal_floor, and whoever
 * is behind the floor gets a full registration. */
#include <stdlib.h>
#include "remote.h"

static void journal_forget_oldest(struct zr_inst *inst)
{
    struct rm_change *oldest = &inst->journal[(inst->journal_at + RM_JOURNAL - inst->journal_n) % RM_JOURNAL];
    inst->journal_floor = oldest->gen;
    free(oldest->name);
    oldest->name = NULL;
    inst->journal_n--;
}

void rm_journal_free(struct zr_inst *inst)
{
    while (inst->journal_n > 0)
        journal_forget_oldest(inst);
}

void rm_journal_add(struct zr_inst *inst, const struct zr_str *topics, uint32_t n)
{
    inst->gen++;
    for (uint32_t i = 0; i < n && n <= RM_MAX_PART; i++) {
        char *name = zl_dup(topics[i]);
        if (!name)
            n = 0;
        if (inst->journal_n == RM_JOURNAL)
            journal_forget_oldest(inst);
        inst->journal[inst->journal_at] = (struct rm_change){ inst->gen, name, topics[i].len };
        inst->journal_at = (inst->journal_at + 1) % RM_JOURNAL;
        inst->journal_n++;
    }
    if (n == 0 || n > RM_MAX_PART) {
        rm_journal_free(inst);
        inst->journal_floor = inst->gen;
    }
}

static uint32_t names_have(const struct zr_str *names, uint32_t n, const struct rm_change *change)
{
    for (uint32_t i = 0; i < n; i++)
        if (names[i].len == change->len && memcmp(names[i].ptr, change->name, change->len) == 0)
            return 1;
    return 0;
}

zr_status rm_journal_since(struct zr_inst *inst, uint64_t gen, struct zr_str *names, uint32_t *ret_n)
{
    uint32_t n = 0;
    *ret_n = 0;
    if (gen < inst->journal_floor)
        return ZR_EFULL;
    for (uint64_t i = 0; i < inst->journal_n; i++) {
        const struct rm_change *change = &inst->journal[(inst->journal_at + RM_JOURNAL - 1 - i) % RM_JOURNAL];
        if (change->gen <= gen)
            break;
        if (names_have(names, n, change))
            continue;
        char *name = n < RM_MAX_PART ? zl_dup((struct zr_str){ change->name, change->len }) : NULL;
        if (!name) {
            while (n > 0)
                free((char *)names[--n].ptr);
            return ZR_EFULL;
        }
        names[n++] = (struct zr_str){ name, change->len };
    }
    *ret_n = n;
    return ZR_OK;
}
