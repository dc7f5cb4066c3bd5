/* SPDX-License-Identifier: Apache-2.0 */
/* journal.h - changed rows of a document, kept beside it until the document itself is written again. It knows the I/O seam and
 * files, nothing of topics or of the broker's tables: docs.c is its user, and the crash simulator (tests/crash/sim) is another. */
#ifndef ZB_JOURNAL_H
#define ZB_JOURNAL_H
#include <limits.h>
#include "zarya/io.h"
#include "zl/buf.h"

#define ZB_JOURNAL_SOON (16u << 20) /* bytes from which on the document should be written at once */
#define ZB_JOURNAL_MAX (64u << 20)  /* bytes of all files; what comes then has to wait for the document */
#define ZB_JOURNAL_FILES 256u       /* from so many on it takes no rows; only a disk that fails in part leads there */

struct zb_doc_print { /* by which a document is known again */
    uint64_t hash, size;
};
struct zb_journal {
    const char *name;        /* files <data>/zarya/journal/<name>.<number> */
    int32_t fd;              /* of the newest file; -1: none is open */
    uint32_t broken;         /* nothing can be added to it */
    int64_t end, total;      /* bytes of it, of all */
    uint32_t chain;          /* each record's checksum goes on from the one before it */
    uint32_t n_files, holds; /* holds: the open one has rows or a mark */
    uint64_t number, file;   /* the highest there ever was; the one of fd */
    uint64_t oldest;         /* of the files that are there; 0: none is */
    uint64_t doc, bak;       /* files from which on the rows behind the document, and behind its .bak, lie */
    uint64_t turned;         /* the same of the one that comes next */
    struct zb_doc_print print, next; /* of the document in place; of the one that is about to be */
    uint64_t seq, next_seq;  /* up to which they hold everything */
    uint32_t unplaced;       /* next is not known to be in place */
    uint64_t last;           /* the highest seq that zb_journal_read has seen */
};
struct zb_doc_print zb_journal_print(struct zr_span document);
void zb_journal_init(struct zb_journal *j, const char *name);
/* Begins one behind a document that is on the disk and holds everything up to seq. */
zr_status zb_journal_begin(struct zb_journal *j, struct zb_doc_print print, uint64_t seq);
/* Rows of changes up to seq; durable at ZR_OK. */
zr_status zb_journal_add(struct zb_journal *j, uint64_t seq, struct zr_span rows);
/* Before a document is printed: rows that it may not hold go to a new file from here on. */
void zb_journal_turn(struct zb_journal *j);
/* A document that holds everything up to seq is about to be put in place: not without this, while there are files. */
zr_status zb_journal_mark(struct zb_journal *j, struct zb_doc_print print, uint64_t seq);
/* It is in place, and durable: files that neither it nor its .bak needs are removed. */
void zb_journal_placed(struct zb_journal *j);
void zb_journal_end(struct zb_journal *j);   /* the document says it all: no file is left */
void zb_journal_close(struct zb_journal *j); /* as it is */
static inline uint32_t zb_journal_is(const struct zb_journal *j) { return j->oldest != 0; }
static inline uint32_t zb_journal_takes(const struct zb_journal *j)
{
    return j->fd >= 0 && !j->broken && j->total < ZB_JOURNAL_MAX && j->n_files < ZB_JOURNAL_FILES;
}

/* What a start finds. which: ZB_ROWS_...; print: of the copy that was taken. rows is called for what is not in that copy, in order;
 * its failure ends it and is returned. *ret_known: the document is one of ours; 0: somebody else's, or there is none. */
#define ZB_ROWS_UNPLACED 0u /* the document is taken from its own place */
#define ZB_ROWS_ALL 1u      /* from what is left of it, or of its .bak */
zr_status zb_journal_read(struct zb_journal *j, struct zb_doc_print print, uint32_t which,
                          zr_status (*rows)(void *ctx, uint32_t known, struct zr_span rows), void *ctx, uint32_t *ret_known);
#endif
