/* SPDX-License-Identifier: Apache-2.0 */
/* run.c - a program applied to a message's properties: three-valued, and with failure as a fourth outcome.
 *
 * What stays true:
 *   1. All properties are texts; a text meets a number or a truth by being read as one of that kind. A text that is
 *      none makes the whole run fail, and a message on which it fails does not match.
 *   2. Nothing here asks for memory or takes a lock; all state is in the frame.
 *   3. A property is read as a number of a kind at most once in a run, however often it is compared.
 *   4. A run takes at most the steps it is given: one for an instruction, and by length for what an instruction reads
 *      (cost_of_reading, cost_of_search). The same program and properties always take the same.
 *   5. The outcome is that of Apache's evaluation, its order of evaluation included: what it would not look at is not
 *      looked at, so it cannot fail. */
#include "zl/record.h"
#include "sql92.h"

/* ---- a run ---- */
struct property {
    struct zr_str text;
    uint32_t known, reserved; /* bits 1 << SQL_INT, SQL_LONG, SQL_DOUBLE: it was read as one */
    int64_t i;
    double d;
};
struct run {
    const struct zr_prog *prog;
    uint64_t steps; /* left */
    uint32_t out;   /* they did not suffice */
    uint32_t reserved;
    struct property properties[SQL_MAX_NAMES];
};

/* 0: the run ends, undecided. r NULL: constants are compared while a program is made. */
static uint32_t spend(struct run *r, uint64_t steps)
{
    if (!r)
        return 1;
    if (steps <= r->steps) {
        r->steps -= steps;
        return 1;
    }
    r->steps = 0;
    r->out = 1;
    return 0;
}

static uint64_t cost_of_reading(struct zr_str s) { return 1 + s.len / 8; }
static uint64_t cost_of_equal(struct zr_str a, struct zr_str b) { return a.len == b.len ? a.len / 16 : 0; }

/* memmem may look at each place as far as a short word goes. */
static uint64_t cost_of_search(uint32_t op, struct zr_str s, struct zr_str word)
{
    uint64_t n = op != SQL_CONTAINS ? word.len : s.len * (1 + (word.len < 256 ? word.len : 256) / 32);
    return s.len < word.len ? 0 : n / 16;
}

/* ---- two values ---- */
/* v is a text. 0: it is none of that kind. */
static uint32_t number_of(struct zr_str s, uint32_t kind, struct sql_value *ret)
{
    *ret = (struct sql_value){ kind, 0, { .i = 0 } };
    return kind == SQL_DOUBLE ? sql_java_double(s, &ret->u.d) : sql_java_integer(s, kind == SQL_LONG, &ret->u.i);
}

/* The same of a property, which remembers it. One that is none ends the run, so that need not be remembered. */
static uint32_t property_as(struct run *r, struct sql_value *v, uint32_t kind)
{
    struct property *p = &r->properties[v->of - 1];
    if (!(p->known & 1u << kind)) {
        if (!spend(r, cost_of_reading(p->text)) || !number_of(p->text, kind, v))
            return 0;
        p->known |= 1u << kind;
        if (kind == SQL_DOUBLE)
            p->d = v->u.d;
        else
            p->i = v->u.i;
        return 1;
    }
    *v = (struct sql_value){ kind, 0, { .i = p->i } };
    if (kind == SQL_DOUBLE)
        v->u.d = p->d;
    return 1;
}

/* A text as what it is compared with. 0: it is none, or the steps ended. */
static uint32_t text_as(struct run *r, struct sql_value *v, uint32_t kind)
{
    struct zr_str s = v->u.s;
    switch (kind) {
    case SQL_INT:
    case SQL_LONG:
    case SQL_DOUBLE:
        if (r && v->of)
            return property_as(r, v, kind);
        return spend(r, cost_of_reading(s)) && number_of(s, kind, v);
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
static uint32_t compare_mixed(struct run *r, struct sql_value a, struct sql_value b, int32_t *ret)
{
    *ret = -1;
    if (b.kind == SQL_STRING) {
        if (a.kind == SQL_BOOL || !text_as(r, &b, a.kind))
            return 0;
    } else if (a.kind == SQL_STRING) {
        if (!text_as(r, &a, b.kind))
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

static uint32_t compare(struct run *r, const struct sql_value *a, const struct sql_value *b, int32_t *ret)
{
    if (a->kind != b->kind)
        return compare_mixed(r, *a, *b, ret);
    if (a->kind == SQL_STRING && !spend(r, cost_of_equal(a->u.s, b->u.s)))
        return 0;
    *ret = order_of(a, b);
    return 1;
}

uint32_t sql_compare(const struct sql_value *a, const struct sql_value *b, int32_t *ret)
{
    return compare(NULL, a, b, ret);
}

/* ---- instructions ---- */
static void set_truth(struct sql_value *v, uint32_t truth)
{
    *v = (struct sql_value){ SQL_BOOL, 0, { .i = truth } };
}

static uint32_t run_equal(struct run *r, struct sql_value *a, const struct sql_value *b)
{
    int32_t order = 0;
    if (a->kind == SQL_NULL && b->kind != SQL_NULL)
        return 1; /* stays null */
    if (b->kind == SQL_NULL) {
        set_truth(a, a->kind == SQL_NULL);
        return 1;
    }
    if (!compare(r, a, b, &order))
        return 0;
    set_truth(a, order == 0);
    return 1;
}

static uint32_t run_order(struct run *r, uint32_t op, struct sql_value *a, struct sql_value *b)
{
    int32_t order;
    if (a->kind == SQL_NULL || b->kind == SQL_NULL) {
        a->kind = SQL_NULL;
        return 1;
    }
    if (a->kind == SQL_STRING && b->kind == SQL_STRING &&
        (!text_as(r, a, SQL_DOUBLE) || !text_as(r, b, SQL_DOUBLE)))
        return 0;
    if (!compare(r, a, b, &order))
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

static struct sql_value loaded(const struct run *r, uint32_t property)
{
    struct zr_str text = r->properties[property].text;
    return (struct sql_value){ text.len ? SQL_STRING : SQL_NULL, property + 1, { .s = text } };
}

/* What the look-up of a set or the search for a word takes beside its own step. */
static uint32_t spend_on_words(struct run *r, const struct sql_ins *i, const struct sql_value *v)
{
    if (v->kind != SQL_STRING)
        return 1;
    return spend(r, i->op == SQL_IN ? 16 + v->u.s.len / 16
                                    : cost_of_search(i->op, v->u.s, r->prog->constants[i->arg].u.s));
}

/* 1: *top is the outcome; 0: it failed, or the steps ended. */
static uint32_t run(struct run *r, struct sql_value *stack, struct sql_value **ret)
{
    const struct zr_prog *p = r->prog;
    struct sql_value *top = stack - 1;
    uint32_t ok = 1;
    for (uint32_t at = 0; at < p->n_code && ok; at++) {
        const struct sql_ins *i = &p->code[at];
        if (!spend(r, 1))
            return 0;
        switch ((enum sql_op)i->op) {
        case SQL_PUSH: *++top = p->constants[i->arg]; break;
        case SQL_LOAD: *++top = loaded(r, i->arg); break;
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
        case SQL_EQ: top--, ok = run_equal(r, top, top + 1); break;
        case SQL_IS_NULL: set_truth(top, top->kind == SQL_NULL); break;
        case SQL_GT:
        case SQL_GE:
        case SQL_LT:
        case SQL_LE: top--, ok = run_order(r, i->op, top, top + 1); break;
        case SQL_IN:
            if (!spend_on_words(r, i, top))
                return 0;
            run_in(top, p->constants + i->arg, i->n);
            break;
        case SQL_CONTAINS:
        case SQL_STARTS:
        case SQL_ENDS:
            if (!spend_on_words(r, i, top))
                return 0;
            run_search(i->op, top, p->constants[i->arg].u.s, i->n);
            break;
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
static uint32_t find_texts(struct run *r, struct zr_span properties)
{
    const struct zr_prog *p = r->prog;
    struct zr_str name, value;
    uint64_t pos = 0;
    for (uint32_t i = 0; i < p->n_names; i++)
        r->properties[i] = (struct property){ .known = 0 };
    if (p->n_names && !spend(r, p->n_names / 16 + properties.len / 16))
        return 0;
    while (p->n_names && zl_props_next(properties, &pos, &name, &value)) {
        uint32_t i = p->bucket[sql_bucket(name)];
        while (i && !zl_eq(p->names[i - 1].text, name))
            i = p->names[i - 1].next;
        if (i)
            r->properties[i - 1].text = value;
    }
    return 1;
}

uint32_t sql_judge(const struct zr_prog *prog, struct zr_span properties, uint64_t *steps)
{
    struct sql_value stack[SQL_MAX_STACK], *outcome;
    struct run r; /* of the properties only those that the program names are set */
    r.prog = prog;
    r.steps = *steps;
    r.out = 0;
    uint32_t ok = find_texts(&r, properties) && run(&r, stack, &outcome);
    *steps = r.steps;
    return r.out ? ZR_MATCH_ASK : ok && is_truth(outcome, 1) ? ZR_MATCH_YES : ZR_MATCH_NO;
}

uint32_t sql_matches(const struct zr_prog *prog, struct zr_span properties)
{
    uint64_t steps = ZR_FILTER_STEPS;
    return sql_judge(prog, properties, &steps) == ZR_MATCH_YES;
}
