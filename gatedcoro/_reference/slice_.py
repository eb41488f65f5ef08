"""How long items may start, or be closed, before the event loop gets a turn.  Twin of src/engine/slice.h.

NONE --begin()--> BEGUN --> STARTED --> TIMED --> OVER
  ^                 |          |          |         |      each implies the one before; a pass
  +------end()------+----------+----------+---------+      without a limit is not timed
"""

import enum
import time

SLICE_SECONDS = 0.001
"""Seconds that starting or closing items may take before the event loop gets a turn."""

_clock = time.monotonic


def set_clock(clock):
    """For tests: measure slices with *clock*, a callable; None restores time.monotonic."""
    global _clock
    _clock = time.monotonic if clock is None else clock


class Timer:
    """One slice, which begins now."""

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
    """What a pass, which starts items, may still do in this turn of the event loop."""

    def __init__(self):
        self.state = PASS_NONE
        self.last = PASS_OVER  # the state in which the last pass has ended; before the first one nothing has a rest
        self._timer = None

    @property
    def is_in_use(self):
        """Whether a pass is under way."""
        return self.state is not PASS_NONE

    def begin(self):
        self.state = PASS_BEGUN

    def begin_rest(self):
        """A pass is the rest of the last one."""
        self.state = self.last

    def end(self):
        self.last, self.state = self.state, PASS_NONE

    def end_no_pass(self):
        """What has begun was no pass: there is no rest of it."""
        self.last, self.state = PASS_OVER, PASS_NONE

    def lasts(self, *, is_timed, next_is_scheduled):
        """Whether one more item may start: the first, or any for about a millisecond if that is timed.

        Once a pass has used up its millisecond the next one is scheduled; then others in the
        same turn of the event loop start one item.
        """
        if self.state is PASS_BEGUN:
            self.state = PASS_STARTED
            if is_timed:
                self._timer = Timer()
                self.state = PASS_TIMED
        elif is_timed and (next_is_scheduled or self._timer.is_over()):
            self.state = PASS_OVER
        return self.state is not PASS_OVER
