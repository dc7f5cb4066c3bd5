/* SPDX-License-Identifier: Apache-2.0 */
/* rows.c - a small table as the broker keeps topics and groups: a document, and a journal of rows beside it (kernel/broker). What
 * docs.c does on several threads is done here in the same order on one; the journal and the document are the real ones. A row's
 * value only ever grows, so that what a crash left can be told from what never was. */
#include "bed.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include "config/node.h"
#include "core/core.h"

#define NAME "config/table.json"

static void ready(struct bed *b)
{
    zk_io_set(&b->sim->io);
    zk_node.data_dir = ROOT;
}

static struct row_write *put_down(struct bed *b, uint32_t row, int64_t version)
{
    struct history *h = &b->h;
    if (h->n_rows == h->cap_rows) {
        h->cap_rows = h->cap_rows ? h->cap_rows * 2 : 64;
        h->rows = realloc(h->rows, h->cap_rows * sizeof *h->rows);
    }
    struct row_write *w = &h->rows[h->n_rows++];
    *w = (struct row_write){ row, sim_now(b->sim), NEVER, version };
    return w;
}

static void note_error(struct bed *b)
{
    snprintf(b->error, sizeof b->error, "%s", zk_err_text());
    b->refused++;
}

/* "row=version\n" for each; a document ends in "end\n". */
static zr_status rows_take(struct bed *b, struct zr_span bytes, uint32_t whole)
{
    char text[8192];
    if (bytes.len >= sizeof text) return ZR_ECORRUPT;
    memcpy(text, bytes.ptr, bytes.len);
    text[bytes.len] = 0;
    if (whole && (bytes.len < 4 || strcmp(text + bytes.len - 4, "end\n") != 0)) return ZR_ECORRUPT;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        unsigned row;
        long long version;
        if (sscanf(line, "%u=%lld", &row, &version) == 2 && row < BED_ROWS) b->row[row] = version;
    }
    return ZR_OK;
}

struct taken {
    struct bed *b;
    struct zb_doc_print print;
};

static zr_status document_take(void *ctx, struct zr_span bytes)
{
    struct taken *t = ctx;
    memset(t->b->row, 0, sizeof t->b->row);
    t->print = zb_journal_print(bytes);
    return rows_take(t->b, bytes, 1);
}

static zr_status journal_take(void *ctx, uint32_t known, struct zr_span rows)
{
    (void)known;
    return rows_take(ctx, rows, 0);
}

zr_status bed_rows_save(struct bed *b)
{
    char text[8192];
    uint32_t n = 0;
    ready(b);
    zb_journal_turn(&b->journal);
    uint64_t seq = b->row_seq;
    for (uint32_t i = 0; i < BED_ROWS; i++) n += (uint32_t)snprintf(text + n, sizeof text - n, "%u=%lld\n", i, (long long)b->row[i]);
    n += (uint32_t)snprintf(text + n, sizeof text - n, "%0*d\nend\n", (int)(100 + seq % 7 * 500), 0);
    struct zr_span bytes = { (const uint8_t *)text, n };
    struct zb_doc_print print = zb_journal_print(bytes);
    zr_status rc = zb_journal_mark(&b->journal, print, seq);
    if (rc == ZR_OK) rc = zk_state_write(zl_str(NAME), bytes);
    if (rc != ZR_OK) {
        note_error(b);
        return rc;
    }
    zb_journal_placed(&b->journal);
    if (!zb_journal_is(&b->journal) && zb_journal_begin(&b->journal, print, seq) != ZR_OK) note_error(b);
    return ZR_OK;
}

void bed_rows_close(struct bed *b)
{
    if (!b->rows_open) return;
    ready(b);
    zb_journal_close(&b->journal);
    b->rows_open = 0;
}

zr_status bed_rows_open(struct bed *b)
{
    struct taken t = { .b = b };
    uint32_t known, bak = 0;
    bed_rows_close(b);
    ready(b);
    memset(b->row, 0, sizeof b->row);
    zb_journal_init(&b->journal, "table");
    b->rows_open = 1;
    zr_status rc = zk_state_read_from(zl_str(NAME), document_take, &t, &bak);
    if (rc != ZR_OK && rc != ZR_ENOENT) {
        note_error(b);
        return rc;
    }
    rc = zb_journal_read(&b->journal, t.print, rc == ZR_OK && !bak ? ZB_ROWS_UNPLACED : ZB_ROWS_ALL, journal_take, b, &known);
    b->row_seq = b->journal.last;
    if (rc != ZR_OK) {
        note_error(b);
        return rc;
    }
    uint32_t begins = b->h.n_rows == 0;
    for (uint32_t i = 0; b->sim->rec && i < BED_ROWS; i++) { /* what a crash left, and what was found may not be lost again */
        struct row_write *w = put_down(b, i, b->row[i]);
        w->begin = begins ? 0 : w->begin;
        w->end = w->begin;
    }
    return bed_rows_save(b);
}

void bed_row(struct bed *b, uint32_t row, int64_t version)
{
    char text[64];
    ready(b);
    uint32_t at = b->h.n_rows;
    put_down(b, row, version);
    b->row[row] = version;
    b->row_seq++;
    int n = snprintf(text, sizeof text, "%u=%lld\n", row, (long long)version);
    zr_status rc = zb_journal_takes(&b->journal) ? zb_journal_add(&b->journal, b->row_seq, (struct zr_span){ (const uint8_t *)text, (uint64_t)n }) : ZR_EFULL;
    if (rc != ZR_OK) rc = bed_rows_save(b);
    if (rc == ZR_OK) b->h.rows[at].end = sim_now(b->sim);
}
