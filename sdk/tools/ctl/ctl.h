/* SPDX-License-Identifier: Apache-2.0 */
/* ctl.h - what the files of zaryactl owe each other.
 *
 * A command is a row of COMMANDS (main.c): its words, its options, its help, its function. Options are one letter,
 * those of mqadmin where mqadmin has the command, so that packaging/bin/mqadmin only has to translate names. A
 * command's result is rows of text put into a table, which prints itself aligned or (--json) as a list of objects. */
#ifndef CTL_H
#define CTL_H
#include "zc/client.h"
#include "zl/buf.h"
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define EXIT_FAILED 1
#define EXIT_USAGE 2

struct ctl {
    struct zc_client *client;
    uint32_t json;
    const char *value[128]; /* by option letter; "" for a flag that was given */
    const char *arg;        /* the one free argument, or NULL */
};
static inline const char *opt(const struct ctl *c, char letter) { return c->value[(uint8_t)letter]; }
/* A whole number, or dflt if the option was not given. Exits with 2 on anything else. */
int64_t opt_number(const struct ctl *c, char letter, int64_t dflt);
uint32_t opt_bool(const struct ctl *c, char letter, uint32_t dflt);

struct command {
    const char *name;    /* "topic create" */
    const char *letters; /* getopt's: "t:r:w:" */
    const char *needed;  /* letters that must be given */
    const char *summary;
    const char *help; /* the lines about its options */
    int (*run)(struct ctl *c);
};

/* main.c: says what went wrong; returns EXIT_FAILED. */
int failed(const char *what, const struct zc_err *err);

/* control.c: verbs of a running process, over its control socket. */
struct target {
    const char *data, *socket; /* --data, --socket; NULL: not given */
    uint32_t json;
};
#define CONTROL_NOBODY (-1)
/* Runs a verb and shows what it answers. quiet: says nothing when nobody is there, and answers CONTROL_NOBODY. */
int control_run(const struct target *t, int n, char *const *words, uint32_t quiet);
void control_help(const struct target *t);
/* Becomes the program zaryactl-NAME that lies beside this one (or in ../libexec/zarya), never one of PATH. Comes back when there
 * is none. argv[0] is replaced by its path. */
void external_run(const char *name, char **argv);

/* table.c */
struct table;
/* columns: "Title:key" texts; a key that begins with '#' is a number (right aligned, bare in JSON). */
struct table *table_new(const char *const *columns, uint32_t n);
/* Next cell of the row, row after row. */
void cell(struct table *t, struct zr_str text);
void cell_c(struct table *t, const char *text);
void cell_i(struct table *t, int64_t v);
void cell_f(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Cells of the last row so far must be complete. Prints and frees. */
void table_print(struct table *t, uint32_t json);
uint32_t table_rows(const struct table *t);
void table_drop(struct table *t); /* frees without printing */
/* One object instead of rows: the columns become names. */
void table_print_one(struct table *t, uint32_t json);

/* brokers.c: calls fn for each broker that -b (an address) or -c (a cluster) or neither (all) names. */
struct broker {
    struct zr_str cluster, name, addr;
    int64_t id;
};
int each_broker(struct ctl *c, uint32_t masters_only, int (*fn)(struct ctl *c, const struct broker *broker, void *ctx),
                void *ctx);
/* NUL-ended copy of an address. */
const char *addr_text(const struct broker *broker, char to[ZC_NAME_MAX]);
void time_text(int64_t ms, char to[32]);

int topic_list(struct ctl *c);
int topic_create(struct ctl *c);
int topic_update(struct ctl *c);
int topic_delete(struct ctl *c);
int topic_route(struct ctl *c);
int topic_status(struct ctl *c);
int cluster_list(struct ctl *c);
int broker_status(struct ctl *c);
int group_list(struct ctl *c);
int group_update(struct ctl *c);
int group_delete(struct ctl *c);
int group_progress(struct ctl *c);
int msg_send(struct ctl *c);
int msg_consume(struct ctl *c);
int msg_show(struct ctl *c);
int msg_query(struct ctl *c);
void message_details(const struct zc_received *m, uint32_t json); /* messages.c */
int dlq_list(struct ctl *c);
int dlq_show(struct ctl *c);
int dlq_resend(struct ctl *c);
int dlq_export(struct ctl *c);
int dlq_purge(struct ctl *c);
#endif
