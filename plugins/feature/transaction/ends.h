/* SPDX-License-Identifier: Apache-2.0 */
/* ends.h - the words of producers that are being carried out, and the last ones that were, by the first offset of their half message.
 *
 * The table knows a word only while its half message has a slot there, or its offset lies in the window. One that was given up, that is
 * not loaded yet, or that is older than the window has neither: two requests at once would both publish it. These are kept here.
 *
 * What stays true:
 *   1. A half message has at most one entry. While it says ENDS_RUNNING nobody else carries out a word about it.
 *   2. At most ENDS_MAX: a new one takes the place of the oldest that is decided; when all run, there is no place.
 *
 * LOCKING: none; the owner's lock guards it. */
#ifndef TX_ENDS_H
#define TX_ENDS_H
#include <stdint.h>

#define ENDS_MAX 256u

enum { ENDS_NONE, ENDS_RUNNING, ENDS_COMMITTED, ENDS_ROLLED_BACK };

struct ends {
    struct { int64_t first; uint64_t at; uint32_t state, reserved; } all[ENDS_MAX];
    uint64_t clock; /* grows with each entry */
    uint32_t n, n_running;
};

uint32_t ends_state(const struct ends *e, int64_t first); /* ENDS_ */
/* Running from now on. 0: there is no place. */
uint32_t ends_begin(struct ends *e, int64_t first);
/* It was decided; or ENDS_NONE: nothing came of it. Does nothing for one that does not run. */
void ends_finish(struct ends *e, int64_t first, uint32_t state);
#endif
