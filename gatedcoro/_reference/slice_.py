"""How long items may start, or be closed, before the event loop gets a turn.  Twin of src/engine/slice.h.

NONE --begin()--> BEGUN --> STARTED --> TIMED --> OVER
  ^                 |          |          |         |      each implies the one before; a pass
  +------end()------+----------+----------+---------+      without a limit is not timed
"""

import enum
import time

SLICE_SECONDS = 0.001
"""How long items that never suspend may start, or items be closed, before the event loop gets a turn."""

PASS_SECONDS = 0.010
"""How long items may start at all."""

PASSES_WATCHED = 4
FULL_ENDS = 8
"""Turns are full where so many passes are scheduled for so many ends, two each."""

ENDS_IN_PLACE = 64
MOST_ENDS_IN_PLACE = 1024
"""So many ends go without a pass where turns are not full, until it is tried again: twice as many each further time."""

_clock = time.monotonic


def set_clock(clock):
    """For tests: measure slices with *clock*, a callable; None restores time.monotonic."""
    global _clock
    _clock = time.monotonic if clock is None else clock


class Timer:
    """One slice of closing items, which begins now."""

    def __init__(self):
        self._began = _clock()

    def is_over(self):
        return _clock() - self._began >= SLICE_SECONDS


class PassState(enum.Enum):
    NONE = "no pass"
    BEGUN = "nothing has started in it yet"
    STARTED = "an item may start"
    TIMED = "an item may start, and the clock has been read"
    OVER = "its slice is used up"


PASS_NONE, PASS_BEGUN, PASS_STARTED, PASS_TIMED, PASS_OVER = PassState


class Slice:
    """What a pass, which starts items, may still do in this turn of the event loop.

    Items that suspend are no more than the limit allows, and what became free together is to start together; so only the
    time of starts counts that ended without suspending, measured from one reading of the clock to the next: not at all
    where something has suspended in between.
    """

    def __init__(self):
        self.state = PASS_NONE
        self._began = self._read = 0.0  # when the clock was read first, and last
        self._counted = 0.0
        self._suspended = False  # since then

    @property
    def is_in_use(self):
        """Whether a pass is under way."""
        return self.state is not PASS_NONE

    def begin(self):
        self.state = PASS_BEGUN
        self._counted = 0.0
        self._suspended = False

    def end(self):
        self.state = PASS_NONE

    def something_suspends(self):
        """An item does that in a step of its Task, be it that no pass is under way."""
        self._suspended = True

    def lasts(self, *, is_limited, next_is_scheduled):
        """Whether one more item may start: the first, or any while there is time if there is a limit.

        Once the next pass is scheduled, others in the same turn of the event loop start one item.
        """
        if self.state is PASS_BEGUN:
            self.state = PASS_STARTED
            if is_limited:
                self._began = self._read = _clock()
                self.state = PASS_TIMED
        elif is_limited and (next_is_scheduled or self._is_used_up()):
            self.state = PASS_OVER
        return self.state is not PASS_OVER

    def _is_used_up(self):
        now = _clock()
        if not self._suspended:
            self._counted += now - self._read
        self._read = now
        self._suspended = False
        return self._counted >= SLICE_SECONDS or now - self._began >= PASS_SECONDS


class Turns:
    """How many items end in a turn of the event loop.

    Where there are several, what they make room for starts together, in the next turn.  Where there is mostly one, there
    is nothing to collect, and a turn for each item would be had for nothing.
    """

    def __init__(self):
        self._passes = 0  # which have been watched
        self._ends = 0  # for which they were scheduled, and the next one is
        self._seen = 0  # of them, when the last pass began
        self._in_place = 0
        self._patience = 0  # so many went without, or will

    def end_waits(self):
        """Another end waits for the pass that has been scheduled."""
        self._ends += 1

    def pass_begins(self):
        """The pass that has been scheduled does."""
        if self._ends == self._seen:
            return  # it was scheduled for something else
        self._seen = self._ends
        self._passes += 1
        if self._passes == PASSES_WATCHED:
            if self._ends >= FULL_ENDS:
                self._patience = 0
            else:
                self._patience = min(self._patience * 2, MOST_ENDS_IN_PLACE) or ENDS_IN_PLACE
            self._in_place = self._patience
            self._passes = self._ends = self._seen = 0

    def end_goes_without(self):
        """Whether this end is one for which no pass is scheduled."""
        if not self._in_place:
            return False
        self._in_place -= 1
        return True
