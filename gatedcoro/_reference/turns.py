"""How many items of a gathering end in one turn of the event loop.  Twin of src/engine/turns.h.

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

Where several items end in a turn, what they make room for starts together, in the next turn; everywhere else than in FULL
the next item starts in the step of the one that ended, also while turns are counted.
"""

import enum

ENDS_OF_FIRST = 2
PASSES_WATCHED = 4
ENDS_OF_FULL = 8
ENDS_UNCOUNTED = 64
TURNS_COUNTED = 8
ENDS_COUNTED = 32


class TurnsState(enum.Enum):
    UNKNOWN = "the first turn in which items end will tell"
    SPARSE = "mostly one item ends in a turn"
    COUNTED = "as far as is known, mostly one item ends in a turn"
    FULL = "several items end in a turn"


TURNS_UNKNOWN, TURNS_SPARSE, TURNS_ARE_COUNTED, TURNS_FULL = TurnsState


_begin = TURNS_UNKNOWN


def begin_full(enabled):
    """For tests: let turns count as full from the start of a call, or not; return what held before."""
    global _begin
    previous, _begin = _begin, TURNS_FULL if enabled else TURNS_UNKNOWN
    return previous is TURNS_FULL


class Turns:
    def __init__(self):
        self._become(_begin)

    def _become(self, state):
        self.state = state
        self._turns = 0  # in this state, in which items ended
        self._ends = 0  # in those
        self._ends_now = 0  # in the turn that is not over

    def note_end(self):
        """An item has ended, and turns are not sparse.

        As soon as there are enough, they are full: then this end is noted once more, with the pass for which it waits.
        """
        ends_before = self._ends_now
        self._ends_now += 1
        enough = ENDS_OF_FIRST if self.state is TURNS_UNKNOWN else ENDS_COUNTED
        if self.state is not TURNS_FULL and self._ends + self._ends_now >= enough:
            self._become(TURNS_FULL)
            self._ends_now = ends_before

    def note_uncounted(self):
        """An item has ended, and turns are sparse."""
        self._ends += 1
        if self._ends >= ENDS_UNCOUNTED:
            self._become(TURNS_ARE_COUNTED)

    def note_pass(self):
        """The pass that has been scheduled begins: the turn is over in which it was."""
        ends, self._ends_now = self._ends_now, 0
        if not ends:
            return  # it was scheduled for something else
        self._ends += ends
        self._turns += 1
        if self.state is TURNS_UNKNOWN or (self.state is TURNS_ARE_COUNTED and self._turns == TURNS_COUNTED):
            self._become(TURNS_SPARSE)
        elif self.state is TURNS_FULL and self._turns == PASSES_WATCHED:
            self._become(TURNS_FULL if self._ends >= ENDS_OF_FULL else TURNS_SPARSE)
