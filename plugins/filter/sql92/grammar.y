/* SPDX-License-Identifier: Apache-2.0 */
/* grammar.y - the expression language of RocketMQ, each rule emitting instructions as it is recognised (build.c).
 *
 * What stays true:
 *   1. NOT and the signs bind tighter than comparisons, "NOT a = 5" is "(NOT a) = 5". So it is with Apache.
 *   2. Reading stops where an expression is whole: what follows is not looked at ("a > 5 garbage" is "a > 5"). The
 *      parser reads one word beyond and, as that cannot continue, takes the default reductions down to the first rule,
 *      which accepts. That is why default reductions are asked for, and why LAC must not be. */
%code requires {
#include <stdio.h>
#include "sql92.h"
struct sql_at { uint32_t at, len; };
}
%code provides {
#define YYSTYPE SQL_YYSTYPE /* the lexer's header knows these by their plain names alone */
#define YYLTYPE SQL_YYLTYPE
}
%define api.pure full
%define api.prefix {sql_yy}
%define api.location.type {struct sql_at}
%define api.token.prefix {SQL_T_}
%define lr.default-reduction most
%define parse.error custom
%locations
%param { void *scanner }
%parse-param { struct sql_build *b }
%code {
#define YYMAXDEPTH SQL_MAX_NESTING
#define YYLLOC_DEFAULT(Current, Rhs, N) \
    ((Current) = (N) ? (struct sql_at){ YYRHSLOC(Rhs, 1).at, YYRHSLOC(Rhs, 1).len } \
                     : (struct sql_at){ YYRHSLOC(Rhs, 0).at, 0 })
#define DO(call) do { if (!(call)) YYABORT; } while (0)
int sql_yylex(SQL_YYSTYPE *value, SQL_YYLTYPE *at, void *scanner);
static void sql_yyerror(const SQL_YYLTYPE *at, void *scanner, struct sql_build *b, const char *text);
}
%union {
    struct zr_str text;
    struct sql_operand x;
    struct sql_between between;
    struct { uint32_t op, negated; } search;
    uint32_t n;
}
%token NOT "NOT" AND "AND" OR "OR" BETWEEN "BETWEEN" IN "IN" TRUE "TRUE" FALSE "FALSE" NULL "NULL" IS "IS"
%token CONTAINS "CONTAINS" STARTSWITH "STARTSWITH" ENDSWITH "ENDSWITH" NE "<>" GE ">=" LE "<=" BAD "character"
%token <text> DECIMAL "number" FLOAT "fraction" STRING "string" NAME "property"
%type <x> or and equality comparison unary primary
%type <n> order between in how words
%type <search> search
%start whole
%%
whole
    : or                            { DO(sql_truth(b, &$1)); YYACCEPT; }
    ;
or
    : and
    | or "OR"                       { DO(sql_truth(b, &$1) && sql_skip(b, SQL_SKIP_TRUE, &$<n>$)); }
      and                           { $$ = $1; DO(sql_logic(b, SQL_OR, &$$, &$4, $<n>3)); }
    ;
and
    : equality
    | and "AND"                     { DO(sql_truth(b, &$1) && sql_skip(b, SQL_SKIP_FALSE, &$<n>$)); }
      equality                      { $$ = $1; DO(sql_logic(b, SQL_AND, &$$, &$4, $<n>3)); }
    ;
equality
    : comparison
    | equality '=' comparison       { $$ = $1; DO(sql_equal(b, 0, &$$, &$3)); }
    | equality "<>" comparison      { $$ = $1; DO(sql_equal(b, 1, &$$, &$3)); }
    | equality "IS" "NULL"          { $$ = $1; DO(sql_is_null(b, 0, &$$)); }
    | equality "IS" "NOT" "NULL"    { $$ = $1; DO(sql_is_null(b, 1, &$$)); }
    ;
comparison
    : unary
    | comparison order              { DO(sql_skip(b, SQL_SKIP_NULL, &$<n>$)); }
      unary                         { $$ = $1; DO(sql_order(b, $2, &$$, &$4, $<n>3)); }
    | comparison between            { DO(sql_between_open(b, &$<between>$)); }
      unary "AND"                   { $<between>$ = $<between>3; DO(sql_between_low(b, $2, &$1, &$4, &$<between>$)); }
      unary                         { $$ = $1; DO(sql_between_high(b, $2, &$$, &$4, &$7, &$<between>6)); }
    | comparison search "string"    { uint32_t word; $$ = $1;
                                      DO(sql_word(b, $3, @3.at, &word));
                                      DO(sql_search(b, $2.op, $2.negated, &$$, word)); }
    | comparison in '(' words ')'   { $$ = $1; DO(sql_in(b, $2, &$$, $4)); }
    ;
between
    : "BETWEEN"                     { $$ = 0; }
    | "NOT" "BETWEEN"               { $$ = 1; }
    ;
in
    : "IN"                          { $$ = 0; }
    | "NOT" "IN"                    { $$ = 1; }
    ;
order
    : '>'                           { $$ = SQL_GT; }
    | ">="                          { $$ = SQL_GE; }
    | '<'                           { $$ = SQL_LT; }
    | "<="                          { $$ = SQL_LE; }
    ;
search
    : how                           { $$.op = $1; $$.negated = 0; }
    | "NOT" how                     { $$.op = $2; $$.negated = 1; }
    ;
how
    : "CONTAINS"                    { $$ = SQL_CONTAINS; }
    | "STARTSWITH"                  { $$ = SQL_STARTS; }
    | "ENDSWITH"                    { $$ = SQL_ENDS; }
    ;
words
    : "string"                      { DO(sql_word(b, $1, @1.at, &$$)); }
    | words ',' "string"            { uint32_t next; $$ = $1; DO(sql_word(b, $3, @3.at, &next)); }
    ;
unary
    : '+' unary                     { $$ = $2; }
    | '-' unary                     { $$ = $2; DO(sql_negate(b, &$$)); }
    | "NOT" unary                   { $$ = $2; DO(sql_not(b, &$$)); }
    | primary
    ;
primary
    : "string"                      { DO(sql_string(b, $1, @1.at, &$$)); }
    | "number"                      { DO(sql_decimal(b, $1, @1.at, &$$)); }
    | "fraction"                    { DO(sql_float(b, $1, @1.at, &$$)); }
    | "TRUE"                        { DO(sql_literal(b, SQL_BOOL, 1, @1.at, &$$)); }
    | "FALSE"                       { DO(sql_literal(b, SQL_BOOL, 0, @1.at, &$$)); }
    | "NULL"                        { DO(sql_literal(b, SQL_NULL, 0, @1.at, &$$)); }
    | "property"                    { DO(sql_property(b, $1, @1.at, &$$)); }
    | '(' or ')'                    { $$ = $2; }
    ;
%%
#define EXPECTED_MAX 5

/* The word that cannot be, and, where there are few, those that could. */
static int yyreport_syntax_error(const yypcontext_t *ctx, void *scanner, struct sql_build *b)
{
    yysymbol_kind_t expected[EXPECTED_MAX];
    char text[160] = "";
    uint64_t len = 0;
    const SQL_YYLTYPE *at = yypcontext_location(ctx);
    int n = yypcontext_expected_tokens(ctx, expected, EXPECTED_MAX);
    (void)scanner;
    for (int i = 0; i < n && len < sizeof text - 40; i++)
        len += (uint64_t)snprintf(text + len, sizeof text - len, "%s%s", i ? ", " : "; expected: ",
                                  yysymbol_name(expected[i]));
    if (at->len == 0 || at->at >= b->text.len)
        sql_fault(b, ZR_EINVAL, b->text.len, "the expression ends too early%s", text);
    else
        sql_fault(b, ZR_EINVAL, at->at, "\"%.*s\" cannot stand here%s", (int)(at->len > 60 ? 60 : at->len),
                  b->text.ptr + at->at, text);
    return 0;
}

/* Called for one thing only: the parser's stack is full. */
static void sql_yyerror(const SQL_YYLTYPE *at, void *scanner, struct sql_build *b, const char *text)
{
    (void)scanner, (void)text;
    sql_fault(b, ZR_EFULL, at->at, "the expression is nested too deeply");
}
