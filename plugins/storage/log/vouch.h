/* SPDX-License-Identifier: Apache-2.0 */
/* vouch.h - how much of the log the queue files of another broker vouch for, and what they leave out.
 *
 * When the word in `lock` is not ours, somebody else had the store, closed it cleanly or not, and a person or a disk may have damaged
 * queue files in between: neither a snapshot of ours nor the files' ends say so. Each entry that the snapshot does not know is looked
 * at (20 bytes for a message), and the sizes of the records they lead to are added up for each segment. Records stand back to back,
 * so a segment whose sum is its length has an entry for every record; the log is read from the first one that has not.
 *
 * What stays true:
 *   1. An entry that is there is right against everything that the log may say of older lives of its queue. Only what is missing comes
 *      from the log: before a queue's files (its first ones are gone), behind their end, and in between (made anew when it is read).
 *   2. A topic whose queues are gone, and that config/topics.json does not name, was deleted by the other broker: its records get no
 *      entry, and zarya/removed says so from then on. Without that document, or beside forms of it that are not read, nothing was.
 *   3. A queue whose first entry is offset 0, with older records of its own in the log: its topic was deleted and made again. When that
 *      was is not known; at the latest when the first of the entries was made that the topic has. What is before is not its.
 *
 * Used by a start alone, before any thread. */
#ifndef ZS_VOUCH_H
#define ZS_VOUCH_H
#include "zs_int.h"
#include "zl/json.h"

struct zs_cover { /* of a segment: what entries lead to, behind v->from */
    int64_t bytes, end, last; /* last: the record that ends at end */
};
struct zs_look { /* at a queue, by its serial */
    struct zr_queue *q;       /* NULL: it has no files */
    int64_t first, first_phys; /* its first entry and that one's record; -1: it has none */
    int64_t front, met;       /* records before its first entry: the least offset, and the newest one's; -1: none */
    int64_t old_end;          /* behind the last record of an older life of it; 0: none */
    uint32_t kept;            /* it goes on from what the snapshot knows */
};
struct zs_vouch {
    struct zr_inst *st;
    int64_t from;             /* what is before this is the snapshot's word */
    int64_t limit;            /* the end of the newest segment */
    struct zs_cover *covers;
    uint64_t n_covers, n_entries, n_holes, n_gone;
    struct zs_look *looks;
    uint64_t n_looks;
    /* the topics that there are */
    struct zl_buf text;
    struct zl_json_doc *doc;
    struct zr_str *names;     /* sorted */
    uint64_t n_names;
    uint32_t knows;           /* the document was there and says all */
};

/* ---- vouch.c ---- */
zr_status zs_vouch_open(struct zs_vouch *v, struct zr_inst *st, int64_t from);
void zs_vouch_close(struct zs_vouch *v);
/* Looks at the queue's entries from offset on, and gives the queue the end that they have. h: what the snapshot says of it, or NULL. */
zr_status zs_vouch_queue(struct zs_vouch *v, struct zr_queue *q, const struct zs_hint *h, int64_t offset);
/* All records before this have their entries; *ret_last: the last of them, -1: the snapshot's. */
int64_t zs_vouch_reach(struct zs_vouch *v, int64_t *ret_last, int64_t *ret_last_ms);
void zs_vouch_meet(struct zs_vouch *v, struct zr_queue *q, const struct zl_record *r); /* a record that lies before its queue's end */
/* The log was read: queues begin where their records do, and those of older lives are given up. */
zr_status zs_vouch_finish(struct zs_vouch *v);

/* ---- vouch_topics.c ---- */
void zs_vouch_topics(struct zs_vouch *v);
void zs_vouch_topics_free(struct zs_vouch *v);
/* removed.c: notes of topics that are there again reach no farther than this. Behind our snapshot the log may have been cut before them,
 * and written anew by the other broker, to the topic that it made again. */
void zs_removed_cap(struct zr_inst *st, const struct zs_vouch *v, int64_t position);
/* Was the topic, of which no queue is there, deleted? Then it is noted. */
uint32_t zs_vouch_gone(struct zs_vouch *v, struct zr_str topic);
uint32_t zs_vouch_named(const struct zs_vouch *v, struct zr_str topic); /* also if nobody knows */
#endif
