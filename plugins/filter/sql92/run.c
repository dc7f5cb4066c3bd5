/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - a program applied to a message's properties: three-valued, and with failure as a fourth outcome.
 *
 * What stays true:
 *   1. All properties are texts; a text meets a number or a truth by being read as one of that kind. A text that is
 *      none makes the whole run fail, and a message on which it fails does not match.
 *   2. Nothing here asks for memory or takes a lock; all state is in the frame.
 *   3. The outcome is that of Apache's evaluation, its order of evaluation included: what it would not look at is not
 *      looked at, so it cannot fail. */
#include "zl/record.h"
#include "sql92.h"

/* ---- two values ---- */
/* A text as what it is compared with. 0: it is none. */
static uint32_t text_as(struct sql_value *v, uint32_t kind)
{
    double d;
    int64_t i;
    switch (kind) {
    case SQL_INT:
    case SQL_LONG:
        if (!sql_java_integer(v->u.s, kind == SQL_LONG, &i))
            return 0;
        *v = (struct sql_value){ kind, 0, { .i = i } };
        return 1;
    case SQL_DOUBLE:
        if (!sql_java_double(v->u.s, &d))
            return 0;
        *v = (struct sql_value){ SQL_DOUBLE, 0, { .d = d } };
        return 1;
    default: *v = (struct sql_value){ SQL_BOOL, 0, { .i = zl_eq_nocase(v->u.s, "true") } }; return 1;
    }
}

static int32_t order_of(const struct sql_value *a, const struct sql_value *b)
{
    if (a->kind == SQL_STRING)
        return zl_eq(a->u.s, b->u.s) ? 0 : -1; /* ordered texts become numbers before they come here */
    if (a->kind == SQL_DOUBLE)
        return sql_java_compare(a->u.d, b->u.d);
    return (a->u.i > b->u.i) - (a->u.i < b->u.i);
}

static void widen(struct sql_value *v, uint32_t kind)
{
    if (kind == SQL_DOUBLE && v->kind != SQL_DOUBLE)
        v->u.d = (double)v->u.i;
    v->kind = kind;
}

/* Of different kinds; neither is null. A truth on the left does not meet a text: Apache fails there. Other pairs that
 * cannot meet are "less". */
static uint32_t compare_mixed(struct sql_value a, struct sql_value b, int32_t *ret)
{
    *ret = -1;
    if (b.kind == SQL_STRING) {
        if (a.kind == SQL_BOOL || !text_as(&b, a.kind))
            return 0;
    } else if (a.kind == SQL_STRING) {
        if (!text_as(&a, b.kind))
            return 0;
    } else if (a.kind == SQL_BOOL || b.kind == SQL_BOOL) {
        return 1;
    } else {
        uint32_t kind = a.kind > b.kind ? a.kind : b.kind;
        widen(&a, kind);
        widen(&b, kind);
    }
    *ret = order_of(&a, &b);
    return 1;
}

uint32_t sql_compare(const struct sql_value *a, const struct sql_value *b, int32_t *ret)
{
    if (a->kind != b->kind)
        return compare_mixed(*a, *b, ret);
    *ret = order_of(a, b);
    return 1;
}

/* ---- instructions ---- */
static void set_truth(struct sql_value *v, uint32_t truth)
{
    *v = (struct sql_value){ SQL_BOOL, 0, { .i = truth } };
}

static uint32_t run_equal(struct sql_value *a, const struct sql_value *b)
{
    int32_t order = 0;
    if (a->kind == SQL_NULL && b->kind != SQL_NULL)
        return 1; /* stays null */
    if (b->kind == SQL_NULL) {
        set_truth(a, a->kind == SQL_NULL);
        return 1;
    }
    if (!sql_compare(a, b, &order))
        return 0;
    set_truth(a, order == 0);
    return 1;
}

static uint32_t run_order(uint32_t op, struct sql_value *a, struct sql_value *b)
{
    int32_t order;
    if (a->kind == SQL_NULL || b->kind == SQL_NULL) {
        a->kind = SQL_NULL;
        return 1;
    }
    if (a->kind == SQL_STRING && b->kind == SQL_STRING && (!text_as(a, SQL_DOUBLE) || !text_as(b, SQL_DOUBLE)))
        return 0;
    if (!sql_compare(a, b, &order))
        return 0;
    set_truth(a, op == SQL_GT ? order > 0 : op == SQL_GE ? order >= 0 : op == SQL_LT ? order < 0 : order <= 0);
    return 1;
}

static void run_negate(struct sql_value *v)
{
    if (v->kind == SQL_INT)
        v->u.i = (int32_t)(0u - (uint32_t)v->u.i);
    else if (v->kind == SQL_LONG)
        v->u.i = (int64_t)(0u - (uint64_t)v->u.i);
    else if (v->kind == SQL_DOUBLE)
        v->u.d = -v->u.d;
    else
        v->kind = SQL_NULL;
}

/* Both are truths or null. stop: the truth that decides alone. */
static void run_logic(struct sql_value *a, const struct sql_value *b, int64_t stop)
{
    if ((a->kind == SQL_BOOL && a->u.i == stop) || (b->kind == SQL_BOOL && b->u.i == stop))
        set_truth(a, (uint32_t)stop);
    else if (a->kind == SQL_NULL || b->kind == SQL_NULL)
        a->kind = SQL_NULL;
    else
        set_truth(a, !stop);
}

static void run_in(struct sql_value *v, const struct sql_value *words, uint32_t n)
{
    uint32_t low = 0, high = n;
    struct zr_str s = v->u.s;
    if (v->kind != SQL_STRING) {
        v->kind = SQL_NULL;
        return;
    }
    while (low < high) {
        uint32_t mid = (low + high) / 2;
        struct zr_str w = words[mid].u.s;
        int order = w.len != s.len ? (w.len < s.len ? -1 : 1) : s.len ? memcmp(w.ptr, s.ptr, s.len) : 0;
        if (order == 0) {
            set_truth(v, 1);
            return;
        }
        if (order < 0)
            low = mid + 1;
        else
            high = mid;
    }
    set_truth(v, 0);
}

static void run_search(uint32_t op, struct sql_value *v, struct zr_str word, uint32_t negated)
{
    struct zr_str s = v->u.s;
    uint32_t found;
    if (v->kind != SQL_STRING || word.len == 0) {
        set_truth(v, 0);
        return;
    }
    if (op == SQL_CONTAINS)
        found = s.len >= word.len && memmem(s.ptr, s.len, word.ptr, word.len) != NULL;
    else
        found = s.len >= word.len &&
                memcmp(op == SQL_STARTS ? s.ptr : s.ptr + s.len - word.len, word.ptr, word.len) == 0;
    set_truth(v, found != negated);
}

static uint32_t is_truth(const struct sql_value *v, int64_t truth)
{
    return v->kind == SQL_BOOL && v->u.i == truth;
}

/* 1: *top is the outcome; 0: it failed. */
static uint32_t run(const struct zr_prog *p, const struct zr_str *texts, struct sql_value *stack,
                    struct sql_value **ret)
{
    struct sql_value *top = stack - 1;
    uint32_t ok = 1;
    for (uint32_t at = 0; at < p->n_code && ok; at++) {
        const struct sql_ins *i = &p->code[at];
        switch ((enum sql_op)i->op) {
        case SQL_PUSH: *++top = p->constants[i->arg]; break;
        case SQL_LOAD:
            *++top = (struct sql_value){ texts[i->arg].len ? SQL_STRING : SQL_NULL, 0, { .s = texts[i->arg] } };
            break;
        case SQL_DUP: top++, *top = top[-1]; break;
        case SQL_NEGATE: run_negate(top); break;
        case SQL_CAST:
            if (top->kind != SQL_NULL)
                set_truth(top, is_truth(top, 1));
            break;
        case SQL_NOT:
            if (top->kind != SQL_NULL)
                top->u.i = !top->u.i;
            break;
        case SQL_EQ: top--, ok = run_equal(top, top + 1); break;
        case SQL_IS_NULL: set_truth(top, top->kind == SQL_NULL); break;
        case SQL_GT:
        case SQL_GE:
        case SQL_LT:
        case SQL_LE: top--, ok = run_order(i->op, top, top + 1); break;
        case SQL_IN: run_in(top, p->constants + i->arg, i->n); break;
        case SQL_CONTAINS:
        case SQL_STARTS:
        case SQL_ENDS: run_search(i->op, top, p->constants[i->arg].u.s, i->n); break;
        case SQL_AND: top--, run_logic(top, top + 1, 0); break;
        case SQL_OR: top--, run_logic(top, top + 1, 1); break;
        case SQL_SKIP_NULL: at = top->kind == SQL_NULL ? i->arg - 1 : at; break;
        case SQL_SKIP_FALSE: at = is_truth(top, 0) ? i->arg - 1 : at; break;
        case SQL_SKIP_TRUE: at = is_truth(top, 1) ? i->arg - 1 : at; break;
        case SQL_SWAP_UNLESS: {
            struct sql_value above = *top;
            if (is_truth(top, i->n)) {
                *--top = above;
                at = i->arg - 1;
            } else {
                *top = top[-1];
                top[-1] = above;
            }
            break;
        }
        }
    }
    *ret = top;
    return ok;
}

/* The properties the program knows; of two of a name the last, as in Java's map. */
static void find_texts(const struct zr_prog *p, struct zr_span properties, struct zr_str *texts)
{
    struct zr_str name, value;
    uint64_t pos = 0;
    for (uint32_t i = 0; i < p->n_names; i++)
        texts[i] = (struct zr_str){ NULL, 0 };
    while (p->n_names && zl_props_next(properties, &pos, &name, &value)) {
        uint32_t i = p->bucket[sql_bucket(name)];
        while (i && !zl_eq(p->names[i - 1].text, name))
            i = p->names[i - 1].next;
        if (i)
            texts[i - 1] = value;
    }
}

uint32_t sql_matches(const struct zr_prog *prog, struct zr_span properties)
{
    struct zr_str texts[SQL_MAX_NAMES];
    struct sql_value stack[SQL_MAX_STACK], *outcome;
    find_texts(prog, properties, texts);
    return run(prog, texts, stack, &outcome) && is_truth(outcome, 1);
}
