/* Turns: how many items of a gathering end in one turn of the loop.

   An item that had suspended has ended.  Where several do so in a turn, what they
   make room for starts together, in one pass of the next turn.  Where it is mostly
   one, there is nothing to collect, and a turn would be had for nothing: the next
   item starts in the step of the one that ended.

      UNKNOWN --- a second end in that turn ------> FULL     together
         |                                         |    ^
         | the first turn                          |    |
         | with ends has one      four passes for  |    |
         v                     fewer than 8 ends   |    | 32 ends within
       SPARSE <------------------------------------+    | eight turns
         |  ^                                           |
         |  +----------- fewer -----------+             |
         |                                |             |
         +--- 64 ends later ----------> COUNTED --------+

   Everywhere else than in FULL the next item starts in place, also while turns
   are counted: a pass that is scheduled for nothing else tells that a turn is over.
   So a turn in which a thousand items end starts a hundred in place at most.
   For starting later is not tried without reason.  A client may look over whatever
   is idle in its pool whenever a request begins, as httpx does.  It finds the less
   there, the sooner the next one begins; and the order into which such a client and
   its server have come is disturbed by a single request that begins a turn later,
   for hundreds of others (benchmarks/real, httpx). */

#ifndef GATEDCORO_TURNS_H
#define GATEDCORO_TURNS_H

#include "base/call.h"

#define ENDS_OF_FIRST  2 /* turn in which items end */
#define PASSES_WATCHED 4
#define ENDS_OF_FULL   8 /* for which those are scheduled, two each */
#define ENDS_UNCOUNTED 64
#define TURNS_COUNTED  8
#define ENDS_COUNTED   32 /* in those, four each */

typedef enum {
    TURNS_UNKNOWN,
    TURNS_SPARSE,
    TURNS_ARE_COUNTED,
    TURNS_FULL,
} TurnsState;

typedef struct {
    TurnsState state;
    int turns;    /* in this state, in which items ended */
    int ends;     /* in those */
    int ends_now; /* in the turn that is not over */
} Turns;

static inline void
turns_become(Turns *self, TurnsState state)
{
    *self = (Turns){.state = state};
}

/* An item has ended, and turns are not sparse.  As soon as there are enough, they
   are full: then this end is noted once more, with the pass for which it waits. */
static inline void
turns_note_end(Turns *self)
{
    int ends_before = self->ends_now++;
    int enough = self->state == TURNS_UNKNOWN ? ENDS_OF_FIRST : ENDS_COUNTED;
    if (self->state != TURNS_FULL && self->ends + self->ends_now >= enough) {
        turns_become(self, TURNS_FULL);
        self->ends_now = ends_before;
    }
}

/* An item has ended, and turns are sparse. */
static inline void
turns_note_uncounted(Turns *self)
{
    self->ends++;
    if (self->ends >= ENDS_UNCOUNTED) {
        turns_become(self, TURNS_ARE_COUNTED);
    }
}

/* The pass that has been scheduled begins: the turn is over in which it was. */
static inline void
turns_note_pass(Turns *self)
{
    int ends = self->ends_now;
    if (ends == 0) {
        return; /* it was scheduled for something else */
    }
    self->ends_now = 0;
    self->ends += ends;
    self->turns++;
    switch (self->state) {
    case TURNS_UNKNOWN:
        turns_become(self, TURNS_SPARSE);
        break;
    case TURNS_SPARSE:
        break;
    case TURNS_ARE_COUNTED:
        if (self->turns == TURNS_COUNTED) {
            turns_become(self, TURNS_SPARSE);
        }
        break;
    case TURNS_FULL:
        if (self->turns == PASSES_WATCHED) {
            turns_become(self, self->ends >= ENDS_OF_FULL ? TURNS_FULL
                                                          : TURNS_SPARSE);
        }
        break;
    }
}

#endif /* GATEDCORO_TURNS_H */
