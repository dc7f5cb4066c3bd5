/* SPDX-License-Identifier: Apache-2.0 */
/* read.c - libconfig files into the configuration tree.
 *
 * libconfig 1.5 cuts an integer beyond 32 bits without a word unless it ends in L. A wrong size taken in silence is what a
 * configuration must never do, so the text gets its L here before libconfig sees it (comments and strings are stepped over),
 * and a number beyond 64 bits is refused. */
#include "config/tree.h"
#include "zl/io.h"
#include <errno.h>
#include <libconfig.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>

#define FILE_MAX (4ull << 20)
#define CONF_D_MAX 1024u

/* ---- long integers ------------------------------------------------------------------------------------------------------ */

struct lexer { const char *p, *end, *file; uint32_t line; struct zl_buf *out; };

static void lex_copy(struct lexer *lx, const char *to)
{
    for (const char *c = lx->p; c < to; c++)
        lx->line += *c == '\n';
    zl_buf_add(lx->out, lx->p, (uint64_t)(to - lx->p));
    lx->p = to;
}

static const char *after(struct lexer *lx, const char *from, const char *mark)
{
    const char *at = memmem(from, (size_t)(lx->end - from), mark, strlen(mark));
    return at ? at + strlen(mark) : lx->end;
}

static const char *string_end(struct lexer *lx)
{
    const char *c = lx->p + 1;
    while (c < lx->end && *c != '"')
        c += *c == '\\' && c + 1 < lx->end ? 2 : 1;
    return c < lx->end ? c + 1 : lx->end;
}

static uint32_t is_digit(char c) { return c >= '0' && c <= '9'; }
static uint32_t is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '*'; }

static void lex_number(struct lexer *lx)
{
    char text[80];
    const char *c = lx->p;
    uint32_t hex = lx->end - c > 2 && c[0] == '0' && (c[1] == 'x' || c[1] == 'X');
    c += hex ? 2 : 0;
    while (c < lx->end && (is_digit(*c) || (hex && is_letter(*c) && *c != 'L')))
        c++;
    if (c < lx->end && !hex && (*c == '.' || *c == 'e' || *c == 'E')) {
        while (c < lx->end && (is_digit(*c) || *c == '.' || *c == 'e' || *c == 'E' || ((*c == '-' || *c == '+') && (c[-1] == 'e' || c[-1] == 'E'))))
            c++;
        lex_copy(lx, c);
        return;
    }
    snprintf(text, sizeof text, "%.*s", (int)(c - lx->p), lx->p);
    errno = 0;
    uint64_t v = strtoull(text, NULL, hex ? 16 : 10);
    if (errno == ERANGE || v > INT64_MAX || c - lx->p >= (ptrdiff_t)sizeof text)
        zk_problem(lx->file, lx->line, "the number %s is beyond 64 bits", text);
    uint32_t has_l = c < lx->end && *c == 'L';
    while (c < lx->end && *c == 'L')
        c++;
    lex_copy(lx, c);
    if (!has_l && v > INT32_MAX)
        zl_buf_cstr(lx->out, "L");
}

static void lengthen_integers(const char *file, struct zr_str text, struct zl_buf *out)
{
    struct lexer lx = { text.ptr, text.ptr + text.len, file, 1, out };
    while (lx.p < lx.end) {
        const char *c = lx.p;
        if (*c == '"')
            lex_copy(&lx, string_end(&lx));
        else if (*c == '#' || (*c == '/' && c + 1 < lx.end && c[1] == '/'))
            lex_copy(&lx, after(&lx, c, "\n"));
        else if (*c == '/' && c + 1 < lx.end && c[1] == '*')
            lex_copy(&lx, after(&lx, c + 2, "*/"));
        else if (is_digit(*c))
            lex_number(&lx);
        else if (is_letter(*c) || *c == '@') {
            for (c++; c < lx.end && (is_letter(*c) || is_digit(*c) || *c == '_' || *c == '-');)
                c++;
            lex_copy(&lx, c);
        } else
            lex_copy(&lx, c + 1);
    }
}

/* ---- libconfig's settings into nodes -------------------------------------------------------------------------------------- */

static struct zk_conf *node_of(config_setting_t *s, const char *file)
{
    const char *included = config_setting_source_file(s);
    const char *where = included ? zk_conf_dup(zl_str(included)) : file;
    uint32_t line = config_setting_source_line(s);
    struct zk_conf *c = zk_conf_new(ZK_CONF_GROUP, config_setting_name(s), where, line);
    switch (config_setting_type(s)) {
    case CONFIG_TYPE_INT:
    case CONFIG_TYPE_INT64:
        c->kind = ZK_CONF_INT;
        c->i = config_setting_get_int64(s);
        c->text = zl_str(zk_conf_fmt("%lld", (long long)c->i));
        break;
    case CONFIG_TYPE_FLOAT:
        c->kind = ZK_CONF_FLOAT;
        c->f = config_setting_get_float(s);
        c->text = zl_str(zk_conf_fmt("%.15g", c->f));
        break;
    case CONFIG_TYPE_BOOL:
        c->kind = ZK_CONF_BOOL;
        c->i = config_setting_get_bool(s);
        c->text = zl_str(c->i ? "true" : "false");
        break;
    case CONFIG_TYPE_STRING:
        c->kind = ZK_CONF_STR;
        c->text = zl_str(zk_conf_dup(zl_str(config_setting_get_string(s))));
        break;
    default:
        c->kind = config_setting_is_group(s) ? ZK_CONF_GROUP : ZK_CONF_LIST;
        for (int i = 0; i < config_setting_length(s); i++)
            zk_conf_append(c, node_of(config_setting_get_elem(s, (unsigned)i), file));
    }
    return c;
}

static struct zr_str line_text(struct zr_str text, uint32_t line)
{
    struct zr_str rest = text, part = { NULL, 0 };
    for (uint32_t i = 0; i < line; i++)
        if (!zl_split(&rest, '\n', &part))
            return (struct zr_str){ NULL, 0 };
    part = zl_trim(part);
    part.len = part.len > 100 ? 100 : part.len;
    return part;
}

static void note_syntax(config_t *config, const char *file, struct zr_str text)
{
    const char *what = config_error_text(config);
    const char *where = config_error_file(config) ? zk_conf_dup(zl_str(config_error_file(config))) : file;
    uint32_t line = (uint32_t)config_error_line(config);
    struct zr_str at = line_text(text, line);
    if (what && strcmp(what, "syntax error") == 0)
        zk_problem(where, line, "syntax error at or before \"%.*s\" (is a ';' or ',' or a closing brace missing?)", (int)at.len, at.ptr ? at.ptr : "");
    else
        zk_problem(where, line, "%s: \"%.*s\"", what ? what : "cannot be read", (int)at.len, at.ptr ? at.ptr : "");
}

struct zk_conf *zk_conf_read_text(const char *file, struct zr_str text, const char *include_dir)
{
    config_t config;
    struct zl_buf longer;
    struct zk_conf *root = NULL;
    uint32_t had = zk_n_problems();
    if (text.len && memchr(text.ptr, 0, text.len)) {
        zk_problem(file, 0, "is no text file (it has a NUL byte)");
        return NULL;
    }
    zl_buf_init(&longer, FILE_MAX * 2);
    lengthen_integers(file, text, &longer);
    zl_buf_u8(&longer, 0);
    if (longer.failed) {
        zk_problem(file, 0, "is too large");
    } else if (zk_n_problems() == had) {
        config_init(&config);
        if (include_dir)
            config_set_include_dir(&config, include_dir);
        if (config_read_string(&config, (const char *)longer.ptr))
            root = node_of(config_root_setting(&config), zk_conf_dup(zl_str(file)));
        else
            note_syntax(&config, file, text);
        config_destroy(&config);
    }
    zl_buf_free(&longer);
    return root;
}

static const char *folder_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? zk_conf_dup((struct zr_str){ path, slash == path ? 1 : (uint64_t)(slash - path) }) : ".";
}

struct zk_conf *zk_conf_read_file(const char *path)
{
    struct zl_buf text;
    struct zk_conf *root = NULL;
    zl_buf_init(&text, FILE_MAX);
    int64_t rc = zl_io_load(zk_io(), path, &text);
    if (rc < 0)
        zk_problem(path, 0, "cannot be read: %s", strerrordesc_np((int)-rc));
    else
        root = zk_conf_read_text(path, zl_buf_as_str(&text), folder_of(path));
    zl_buf_free(&text);
    return root;
}

/* ---- conf.d --------------------------------------------------------------------------------------------------------------- */

struct names { const char *name[CONF_D_MAX]; uint32_t n; };

static int32_t keep_name(void *ctx, const char *name)
{
    struct names *names = ctx;
    if (name[0] != '.' && zl_ends(zl_str(name), ".conf")) {
        if (names->n == CONF_D_MAX)
            return 1;
        names->name[names->n++] = zk_conf_dup(zl_str(name));
    }
    return 0;
}

static int by_name(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

static void read_conf_d(struct zk_conf *root, const char *folder)
{
    struct names *names = zk_conf_alloc(sizeof *names);
    int64_t rc = zk_io()->list(zk_io()->ctx, folder, keep_name, names);
    if (rc == -ENOENT)
        return;
    if (rc != 0) {
        zk_problem(folder, 0, "%s", rc > 0 ? "holds more files than are read (1024)" : zk_conf_fmt("cannot be read: %s", strerrordesc_np((int)-rc)));
        return;
    }
    qsort(names->name, names->n, sizeof *names->name, by_name);
    for (uint32_t i = 0; i < names->n; i++) {
        struct zk_conf *more = zk_conf_read_file(zk_conf_fmt("%s/%s", folder, names->name[i]));
        if (more)
            zk_conf_merge(root, more);
    }
}

struct zk_conf *zk_conf_read_all(const char *path)
{
    struct zk_conf *root = zk_conf_read_file(path);
    if (root)
        read_conf_d(root, zk_conf_fmt("%s/conf.d", folder_of(path)));
    return root;
}
