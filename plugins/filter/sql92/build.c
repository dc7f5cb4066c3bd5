/* SPDX-License-Identifier: Apache-2.0 */
/* build.c - from what the grammar recognises to instructions, with the refusals of Apache's own compiler.
 *
 * What stays true: after each recognised operand or operator the program so far leaves exactly one value for it on the
 * stack, whichever way its jumps went; depth counts them, so that a program that would need more than SQL_MAX_STACK is
 * refused here and never runs. */
#include <stdarg.h>
#include <stdio.h>
#include "sql92.h"
#include "grammar.h"
#include "lexer.h"

#define MAX_JAVA_DIGITS 400u /* of a number in an expression */

uint32_t sql_fault(struct sql_build *b, zr_status status, uint64_t at, const char *fmt, ...)
{
    va_list ap;
    if (b->status != ZR_OK)
        return 0; /* the first one is told */
    b->status = status;
    b->fault_at = at;
    va_start(ap, fmt);
    vsnprintf(b->why, sizeof b->why, fmt, ap);
    va_end(ap);
    return 0;
}

/* ---- places ---- */
static uint32_t grow(struct sql_build *b, void **array, uint32_t *cap, uint64_t one)
{
    uint32_t more = *cap ? 2 * *cap : 64;
    void *larger = realloc(*array, more * one);
    if (!larger)
        return sql_fault(b, ZR_ENOMEM, 0, "memory ran out");
    *array = larger;
    *cap = more;
    return 1;
}

/* change: how many values the instruction adds to the stack. */
static uint32_t emit(struct sql_build *b, uint32_t op, uint32_t n, uint32_t arg, int32_t change)
{
    struct zr_prog *p = b->prog;
    if (p->n_code == b->cap_code && !grow(b, (void **)&p->code, &b->cap_code, sizeof *p->code))
        return 0;
    b->depth = (uint32_t)((int32_t)b->depth + change);
    if (b->depth > SQL_MAX_STACK)
        return sql_fault(b, ZR_EFULL, b->lexed, "the expression is nested too deeply");
    p->code[p->n_code++] = (struct sql_ins){ (uint16_t)op, (uint16_t)n, arg };
    return 1;
}

static uint32_t constant_add(struct sql_build *b, struct sql_value v, uint32_t *ret_index)
{
    struct zr_prog *p = b->prog;
    if (p->n_constants == b->cap_constants &&
        !grow(b, (void **)&p->constants, &b->cap_constants, sizeof *p->constants))
        return 0;
    *ret_index = p->n_constants;
    p->constants[p->n_constants++] = v;
    return 1;
}

/* A copy in the program. There is room: no byte of the expression is taken twice, and a name only once. */
static struct zr_str text_add(struct sql_build *b, struct zr_str s)
{
    struct zr_str copy = { b->prog->text + b->text_used, s.len };
    if (s.len)
        memcpy(b->prog->text + b->text_used, s.ptr, s.len);
    b->text_used += (uint32_t)s.len;
    return copy;
}

/* ---- operands ---- */
static uint32_t constant_push(struct sql_build *b, struct sql_value v, uint32_t at, struct sql_operand *ret)
{
    *ret = (struct sql_operand){ SQL_A_CONSTANT, 0, at, 0 };
    return constant_add(b, v, &ret->index) && emit(b, SQL_PUSH, 0, ret->index, 1);
}

uint32_t sql_literal(struct sql_build *b, uint32_t kind, int64_t v, uint32_t at, struct sql_operand *ret)
{
    return constant_push(b, (struct sql_value){ kind, 0, { .i = v } }, at, ret);
}

uint32_t sql_decimal(struct sql_build *b, struct zr_str digits, uint32_t at, struct sql_operand *ret)
{
    int64_t v;
    if ((digits.ptr[digits.len - 1] | 32) == 'l')
        digits.len--;
    if (zl_parse_i64(digits, &v) != ZR_OK)
        return sql_fault(b, ZR_EINVAL, at, "the number does not fit into 64 bits");
    return sql_literal(b, v <= INT32_MAX ? SQL_INT : SQL_LONG, v, at, ret);
}

uint32_t sql_float(struct sql_build *b, struct zr_str digits, uint32_t at, struct sql_operand *ret)
{
    struct sql_value v = { SQL_DOUBLE, 0, { .i = 0 } };
    if (digits.len > MAX_JAVA_DIGITS)
        return sql_fault(b, ZR_EFULL, at, "a number of more than 400 characters");
    if (!sql_java_double(digits, &v.u.d) || v.u.d > __DBL_MAX__)
        return sql_fault(b, ZR_EINVAL, at, "the number is greater than 1.7976931348623157E308");
    if (v.u.d < __DBL_DENORM_MIN__)
        return sql_fault(b, ZR_EINVAL, at, "the number is less than 4.9E-324; a fraction has to be more than 0");
    return constant_push(b, v, at, ret);
}

uint32_t sql_word(struct sql_build *b, struct zr_str quoted, uint32_t at, uint32_t *ret_index)
{
    struct sql_value v = { SQL_STRING, 0, { .s = { b->prog->text + b->text_used, 0 } } };
    (void)at;
    for (uint64_t i = 1; i + 1 < quoted.len; i++) {
        b->prog->text[b->text_used++] = quoted.ptr[i];
        v.u.s.len++;
        i += quoted.ptr[i] == '\'';
    }
    return constant_add(b, v, ret_index);
}

uint32_t sql_string(struct sql_build *b, struct zr_str quoted, uint32_t at, struct sql_operand *ret)
{
    *ret = (struct sql_operand){ SQL_A_CONSTANT, 0, at, 0 };
    return sql_word(b, quoted, at, &ret->index) && emit(b, SQL_PUSH, 0, ret->index, 1);
}

static uint32_t name_find(const struct zr_prog *p, struct zr_str name)
{
    uint32_t i = p->bucket[sql_bucket(name)];
    while (i && !zl_eq(p->names[i - 1].text, name))
        i = p->names[i - 1].next;
    return i;
}

uint32_t sql_property(struct sql_build *b, struct zr_str name, uint32_t at, struct sql_operand *ret)
{
    struct zr_prog *p = b->prog;
    uint32_t i = name_find(p, name);
    *ret = (struct sql_operand){ SQL_A_PROPERTY, 0, at, 0 };
    if (!i && p->n_names == SQL_MAX_NAMES)
        return sql_fault(b, ZR_EFULL, at, "more than 250 different properties in one expression");
    if (!i) {
        uint8_t *bucket = &p->bucket[sql_bucket(name)];
        p->names[p->n_names] = (struct sql_name){ text_add(b, name), *bucket, 0 };
        i = ++p->n_names;
        *bucket = (uint8_t)i;
    }
    return emit(b, SQL_LOAD, 0, i - 1, 1);
}

/* ---- what may stand where ---- */
static const struct sql_value *constant_of(const struct sql_build *b, const struct sql_operand *x)
{
    return x->kind == SQL_A_CONSTANT ? &b->prog->constants[x->index] : NULL;
}

static uint32_t is_truth(const struct sql_build *b, const struct sql_operand *x)
{
    const struct sql_value *v = constant_of(b, x);
    return x->kind == SQL_A_TRUTH || (v && (v->kind == SQL_BOOL || v->kind == SQL_NULL));
}

static uint32_t truth_made(struct sql_operand *x)
{
    x->kind = SQL_A_TRUTH;
    return 1;
}

static uint32_t check_ordered(struct sql_build *b, const struct sql_operand *x)
{
    const struct sql_value *v = constant_of(b, x);
    if (v && (v->kind == SQL_STRING || v->kind == SQL_BOOL || v->kind == SQL_NULL))
        return sql_fault(b, ZR_EINVAL, x->at,
                         "only numbers and properties can be compared by >, >=, <, <= and BETWEEN");
    if (x->kind == SQL_A_TRUTH)
        return sql_fault(b, ZR_EINVAL, x->at, "a condition cannot be compared by >, >=, <, <= and BETWEEN");
    return 1;
}

uint32_t sql_truth(struct sql_build *b, struct sql_operand *x)
{
    if (is_truth(b, x))
        return truth_made(x);
    if (x->kind != SQL_A_PROPERTY)
        return sql_fault(b, ZR_EINVAL, x->at, "a condition is needed here, and this is a value");
    return emit(b, SQL_CAST, 0, 0, 0) && truth_made(x);
}

/* ---- operators ---- */
uint32_t sql_negate(struct sql_build *b, struct sql_operand *x)
{
    x->kind = SQL_A_NUMBER;
    return emit(b, SQL_NEGATE, 0, 0, 0);
}

uint32_t sql_not(struct sql_build *b, struct sql_operand *x)
{
    return sql_truth(b, x) && emit(b, SQL_NOT, 0, 0, 0);
}

static uint32_t check_equal(struct sql_build *b, const struct sql_operand *x)
{
    const struct sql_value *v = constant_of(b, x);
    if (v && v->kind == SQL_NULL)
        return sql_fault(b, ZR_EINVAL, x->at, "NULL cannot be compared; IS NULL asks for it");
    return 1;
}

uint32_t sql_equal(struct sql_build *b, uint32_t negated, struct sql_operand *left, const struct sql_operand *right)
{
    const struct sql_value *l = constant_of(b, left), *r = constant_of(b, right);
    if (!check_equal(b, left) || !check_equal(b, right))
        return 0;
    if (l && r && l->kind == SQL_BOOL && r->kind != SQL_BOOL)
        return sql_fault(b, ZR_EINVAL, right->at, "TRUE and FALSE cannot be compared with this");
    return emit(b, SQL_EQ, 0, 0, -1) && (!negated || emit(b, SQL_NOT, 0, 0, 0)) && truth_made(left);
}

uint32_t sql_is_null(struct sql_build *b, uint32_t negated, struct sql_operand *x)
{
    return emit(b, SQL_IS_NULL, 0, 0, 0) && (!negated || emit(b, SQL_NOT, 0, 0, 0)) && truth_made(x);
}

uint32_t sql_skip(struct sql_build *b, uint32_t op, uint32_t *ret_jump)
{
    *ret_jump = b->prog->n_code;
    return emit(b, op, 0, 0, 0);
}

void sql_land(struct sql_build *b, uint32_t jump)
{
    b->prog->code[jump].arg = b->prog->n_code;
}

uint32_t sql_order(struct sql_build *b, uint32_t op, struct sql_operand *left, const struct sql_operand *right,
                   uint32_t jump)
{
    if (!check_ordered(b, left) || !check_ordered(b, right) || !emit(b, op, 0, 0, -1))
        return 0;
    sql_land(b, jump);
    return truth_made(left);
}

uint32_t sql_logic(struct sql_build *b, uint32_t op, struct sql_operand *left, struct sql_operand *right, uint32_t jump)
{
    if (!sql_truth(b, right) || !emit(b, op, 0, 0, -1))
        return 0;
    sql_land(b, jump);
    return truth_made(left);
}

/* BETWEEN is (value >= low AND value <= high), the value computed once:
 *     value | dup | skip_null A | low | ge | A: swap_unless_false E | skip_null B | high | le | B: and | E:
 * NOT BETWEEN is (value < low OR value > high) in the same way. */
uint32_t sql_between_open(struct sql_build *b, struct sql_between *s)
{
    *s = (struct sql_between){ 0, 0, 0 };
    return emit(b, SQL_DUP, 0, 0, 1) && sql_skip(b, SQL_SKIP_NULL, &s->value_null);
}

uint32_t sql_between_low(struct sql_build *b, uint32_t negated, const struct sql_operand *value,
                         const struct sql_operand *low, struct sql_between *s)
{
    if (!check_ordered(b, value) || !check_ordered(b, low) || !emit(b, negated ? SQL_LT : SQL_GE, 0, 0, -1))
        return 0;
    sql_land(b, s->value_null);
    s->decided = b->prog->n_code;
    return emit(b, SQL_SWAP_UNLESS, negated, 0, 0) && sql_skip(b, SQL_SKIP_NULL, &s->jump);
}

static uint32_t check_bounds(struct sql_build *b, const struct sql_operand *low, const struct sql_operand *high)
{
    const struct sql_value *l = constant_of(b, low), *h = constant_of(b, high);
    int32_t order;
    if (l && h && (!sql_compare(h, l, &order) || order < 0))
        return sql_fault(b, ZR_EINVAL, low->at, "the lower bound of BETWEEN is above the upper one");
    return 1;
}

uint32_t sql_between_high(struct sql_build *b, uint32_t negated, struct sql_operand *value,
                          const struct sql_operand *low, const struct sql_operand *high, struct sql_between *s)
{
    if (!check_ordered(b, high) || (!negated && !check_bounds(b, low, high)) ||
        !emit(b, negated ? SQL_GT : SQL_LE, 0, 0, -1))
        return 0;
    sql_land(b, s->jump);
    if (!emit(b, negated ? SQL_OR : SQL_AND, 0, 0, -1))
        return 0;
    sql_land(b, s->decided);
    return truth_made(value);
}

static int word_order(const void *a, const void *b)
{
    const struct sql_value *x = a, *y = b;
    if (x->u.s.len != y->u.s.len)
        return x->u.s.len < y->u.s.len ? -1 : 1;
    return x->u.s.len ? memcmp(x->u.s.ptr, y->u.s.ptr, x->u.s.len) : 0;
}

/* The words are the constants from first on: nothing else was added since. */
uint32_t sql_in(struct sql_build *b, uint32_t negated, struct sql_operand *left, uint32_t first)
{
    uint32_t n = b->prog->n_constants - first;
    _Static_assert(SQL_MAX_TEXT / 3 <= UINT16_MAX, "a word is at least two quotes and a comma, so that n fits");
    if (left->kind != SQL_A_PROPERTY)
        return sql_fault(b, ZR_EINVAL, left->at, "only a property can be looked for by IN");
    qsort(b->prog->constants + first, n, sizeof *b->prog->constants, word_order);
    return emit(b, SQL_IN, n, first, 0) && (!negated || emit(b, SQL_NOT, 0, 0, 0)) && truth_made(left);
}

uint32_t sql_search(struct sql_build *b, uint32_t op, uint32_t negated, struct sql_operand *left, uint32_t word)
{
    return emit(b, op, negated, word, 0) && truth_made(left);
}

/* ---- the whole ---- */
void sql_free(struct zr_prog *prog)
{
    if (!prog)
        return;
    free(prog->code);
    free(prog->constants);
    free(prog->text);
    free(prog);
}

/* What the user sees: line and column as they count, from 1; bytes are not characters, so the byte is told too. */
static void fault_place(struct sql_build *b)
{
    uint32_t line = 1, column = 1;
    char reason[sizeof b->why];
    for (uint64_t i = 0; i < b->fault_at && i < b->text.len; i++) {
        column = b->text.ptr[i] == '\n' ? 1 : column + (((uint8_t)b->text.ptr[i] & 0xc0) != 0x80);
        line += b->text.ptr[i] == '\n';
    }
    memcpy(reason, b->why, sizeof reason);
    snprintf(b->why, sizeof b->why, "line %u, column %u (byte %llu): %s", line, column, (unsigned long long)b->fault_at,
             reason);
}

static void parse(struct sql_build *b)
{
    yyscan_t scanner;
    if (sql_yylex_init_extra(b, &scanner) != 0) {
        sql_fault(b, ZR_ENOMEM, 0, "memory ran out");
        return;
    }
    YY_BUFFER_STATE buffer = sql_yy_scan_bytes(b->text.ptr, (int)b->text.len, scanner);
    int failed = buffer ? sql_yyparse(scanner, b) : 1;
    if (failed)
        sql_fault(b, ZR_ENOMEM, 0, "memory ran out");
    if (buffer)
        sql_yy_delete_buffer(buffer, scanner);
    sql_yylex_destroy(scanner);
}

zr_status sql_compile(struct zr_str text, struct sql_build *b)
{
    *b = (struct sql_build){ .text = text, .status = ZR_OK };
    if (text.len > SQL_MAX_TEXT) {
        sql_fault(b, ZR_EFULL, SQL_MAX_TEXT, "an expression is at most 64 KiB");
        return b->status;
    }
    if (text.len == 0)
        b->text.ptr = "";
    b->prog = calloc(1, sizeof *b->prog);
    if (b->prog)
        b->prog->text = malloc(text.len + 1);
    if (!b->prog || !b->prog->text)
        sql_fault(b, ZR_ENOMEM, 0, "memory ran out");
    else
        parse(b);
    if (b->status != ZR_OK) {
        fault_place(b);
        sql_free(b->prog);
        b->prog = NULL;
    }
    return b->status;
}
