/* SPDX-License-Identifier: Apache-2.0 */
/* sql92.h - what the files of filter-sql92 share: values, the program, and the builder that the grammar drives.
 *
 * A program is a list of instructions for a stack machine, with jumps that skip what three-valued logic need not look
 * at:
 *
 *     a > 5 AND b = 'x'       load a | skip_null L | push 5 | gt | L: skip_false E | load b | push 'x' | eq | and | E:
 *
 * What stays true: (1) a program is immutable after sql_compile; (2) its stack needs at most SQL_MAX_STACK values and
 * it knows at most SQL_MAX_NAMES properties, so that a run needs no memory but its own frame; (3) jumps go forward
 * only, so that every run ends; (4) its texts point into prog->text, never into the expression it was made from. */
#ifndef SQL92_H
#define SQL92_H
#include <stdlib.h>
#include "zarya/zarya.h"
#include "zl/text.h"

#define SQL_MAX_TEXT (64u * 1024) /* bytes of one expression */
#define SQL_MAX_NAMES 250u        /* different properties in one expression */
#define SQL_MAX_STACK 192u        /* values waiting at once while it runs */
#define SQL_MAX_NESTING 2048      /* entries of the parser's stack */
#define SQL_MAX_DIGITS 800u       /* of a fraction that decide: a double's neighbours differ in the first 768 */

/* kind and, of a loaded property, its index + 1: what it is as a number is kept with it (run.c). */
enum sql_kind { SQL_NULL, SQL_BOOL, SQL_INT, SQL_LONG, SQL_DOUBLE, SQL_STRING };

struct sql_value {
    uint32_t kind, of;
    union {
        int64_t i; /* BOOL, INT, LONG */
        double d;
        struct zr_str s;
    } u;
};

enum sql_op {
    SQL_PUSH,       /* constant arg */
    SQL_LOAD,       /* property arg, as a string, or null */
    SQL_DUP,
    SQL_NEGATE,
    SQL_CAST,       /* to a truth: null stays, what is no truth becomes false */
    SQL_NOT,
    SQL_EQ,
    SQL_IS_NULL,
    SQL_GT,
    SQL_GE,
    SQL_LT,
    SQL_LE,
    SQL_IN,         /* constants arg .. arg + n, sorted */
    SQL_CONTAINS,   /* constant arg; n = 1: NOT */
    SQL_STARTS,
    SQL_ENDS,
    SQL_AND,
    SQL_OR,
    SQL_SKIP_NULL,  /* jump to arg, the top stays */
    SQL_SKIP_FALSE,
    SQL_SKIP_TRUE,
    SQL_SWAP_UNLESS /* the truth n: drop what is below the top and jump to arg; else exchange the two */
};

struct sql_ins {
    uint16_t op, n;
    uint32_t arg;
};

struct sql_name {
    struct zr_str text;
    uint32_t next, reserved; /* index + 1 in the same bucket */
};

#define SQL_BUCKETS 64u
struct zr_prog {
    struct sql_ins *code;
    struct sql_value *constants;
    char *text;
    uint32_t n_code, n_constants, n_names, reserved;
    uint8_t bucket[SQL_BUCKETS]; /* index + 1 of a name, 0: none */
    struct sql_name names[SQL_MAX_NAMES];
};

static inline uint32_t sql_bucket(struct zr_str name)
{
    return ((uint32_t)name.len * 7u + (uint8_t)name.ptr[0] + (uint8_t)name.ptr[name.len - 1] * 5u) % SQL_BUCKETS;
}

/* ---- numbers as Java reads them (number.c); 0: it is none ---- */
uint32_t sql_java_integer(struct zr_str text, uint32_t wide, int64_t *ret); /* wide: 64 bits, else 32 */
uint32_t sql_java_double(struct zr_str text, double *ret);
int32_t sql_java_compare(double a, double b); /* Double.compareTo: -0.0 < 0.0, NaN above all */

/* ---- running (run.c) ---- */
/* ZR_MATCH_YES, ZR_MATCH_NO, or ZR_MATCH_ASK when *steps are too few; what it took is taken off them. */
uint32_t sql_judge(const struct zr_prog *prog, struct zr_span properties, uint64_t *steps);
/* 1: it matches, within ZR_FILTER_STEPS. */
uint32_t sql_matches(const struct zr_prog *prog, struct zr_span properties);

/* ---- building (build.c), driven by grammar.y ---- */
enum sql_operand_kind { SQL_A_PROPERTY, SQL_A_CONSTANT, SQL_A_TRUTH, SQL_A_NUMBER };
struct sql_operand {
    uint32_t kind;
    uint32_t index; /* of the constant */
    uint32_t at;    /* byte position in the expression */
    uint32_t reserved;
};

struct sql_build {
    struct zr_str text;
    struct zr_prog *prog;
    uint32_t cap_code, cap_constants, text_used, depth;
    uint64_t lexed; /* bytes the lexer has passed */
    zr_status status;
    uint64_t fault_at;
    char why[256];
};

/* A program, or why not (b->why, b->fault_at) with ZR_EINVAL, ZR_EFULL or ZR_ENOMEM. */
zr_status sql_compile(struct zr_str text, struct sql_build *b);
void sql_free(struct zr_prog *prog);

/* All of these return 0 after a fault, which then is told in b. */
uint32_t sql_fault(struct sql_build *b, zr_status status, uint64_t at, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
uint32_t sql_property(struct sql_build *b, struct zr_str name, uint32_t at, struct sql_operand *ret);
uint32_t sql_string(struct sql_build *b, struct zr_str quoted, uint32_t at, struct sql_operand *ret);
uint32_t sql_decimal(struct sql_build *b, struct zr_str digits, uint32_t at, struct sql_operand *ret);
uint32_t sql_float(struct sql_build *b, struct zr_str digits, uint32_t at, struct sql_operand *ret);
uint32_t sql_literal(struct sql_build *b, uint32_t kind, int64_t v, uint32_t at, struct sql_operand *ret);
/* A string that is no operand but belongs to an operator: its index among the constants. */
uint32_t sql_word(struct sql_build *b, struct zr_str quoted, uint32_t at, uint32_t *ret_index);

uint32_t sql_truth(struct sql_build *b, struct sql_operand *x); /* x has to be one: a property is cast */
uint32_t sql_negate(struct sql_build *b, struct sql_operand *x);
uint32_t sql_not(struct sql_build *b, struct sql_operand *x);
uint32_t sql_equal(struct sql_build *b, uint32_t negated, struct sql_operand *left, const struct sql_operand *right);
uint32_t sql_is_null(struct sql_build *b, uint32_t negated, struct sql_operand *x);
uint32_t sql_skip(struct sql_build *b, uint32_t op, uint32_t *ret_jump); /* a jump whose aim comes later */
void sql_land(struct sql_build *b, uint32_t jump);                       /* here */
uint32_t sql_order(struct sql_build *b, uint32_t op, struct sql_operand *left, const struct sql_operand *right,
                   uint32_t jump);
uint32_t sql_logic(struct sql_build *b, uint32_t op, struct sql_operand *left, struct sql_operand *right,
                   uint32_t jump);
struct sql_between { uint32_t value_null, decided, jump; };
uint32_t sql_between_open(struct sql_build *b, struct sql_between *s);
uint32_t sql_between_low(struct sql_build *b, uint32_t negated, const struct sql_operand *value,
                         const struct sql_operand *low, struct sql_between *s);
uint32_t sql_between_high(struct sql_build *b, uint32_t negated, struct sql_operand *value,
                          const struct sql_operand *low, const struct sql_operand *high, struct sql_between *s);
uint32_t sql_in(struct sql_build *b, uint32_t negated, struct sql_operand *left, uint32_t first);
uint32_t sql_search(struct sql_build *b, uint32_t op, uint32_t negated, struct sql_operand *left, uint32_t word);

/* Between constants of whatever kinds, as the comparison of a run does it (run.c). 0: it cannot be. */
uint32_t sql_compare(const struct sql_value *a, const struct sql_value *b, int32_t *ret);
#endif
