"""Whom a call tells how many of its items have ended, if anybody.  Twin of src/engine/progress.h.

      IDLE ----> WAITS          an item has ended: ten milliseconds later that is told, and whatever else has ended by then
        ^          |
        +----------+
        |          |
        +--> ENDS <+            the call is to end: what has not been told is so in the next turn, and then it ends

It is told by the event loop, not in the step of an item, and in a copy of the caller's context.
"""

import enum
import operator

from .call import INTERRUPTS, Unraisable

SECONDS = 0.01
"""Between an item's end and its being told, at most; between two calls, at least."""


class ProgressState(enum.Enum):
    IDLE = "there is nothing to be told"
    WAITS = "there is: the event loop has a timer"
    ENDS = "it is told in the next turn, and then the call ends"


PROGRESS_IDLE, PROGRESS_WAITS, PROGRESS_ENDS = ProgressState
NO_TIMER = object()  # a loop's may be anything


class Progress:
    """What open_progress() has returned, and what is to be told."""

    def __init__(self, tell, close):
        self._tell = tell
        self._close = close
        self._ended = 0
        self._timer = NO_TIMER
        self._state = PROGRESS_IDLE

    def note_end(self, gathering):
        """An item has ended."""
        self._ended += 1
        if self._state is not PROGRESS_IDLE:
            return
        self._state = PROGRESS_WAITS
        timer = gathering.loop.call_later(SECONDS, self._due, gathering, context=gathering.context.copy())
        if gathering.progress is self and self._state is PROGRESS_WAITS:  # the loop may be anybody's
            self._timer = timer
        else:
            _cancel(timer)

    def puts_off_end(self, gathering):
        """Whether something is to be done before the call ends; it ends after that, in the next turn."""
        if self._state is PROGRESS_ENDS:
            return True
        if self._ended == 0 and self._close is None:
            return False
        self._state = PROGRESS_ENDS
        self._stop_timer()
        gathering.loop.call_soon(self._due, gathering, context=gathering.context.copy())
        return True

    def _due(self, gathering):
        is_told = gathering.progress is self
        # An end that was put off comes, though nobody is told any more.
        is_end = not is_told or self._state is PROGRESS_ENDS
        if not is_end:
            self._state, self._timer = PROGRESS_IDLE, NO_TIMER
        try:
            if is_told:
                self._tell_all(gathering, is_end)
        except BaseException as error:
            gathering.progress_failed(error)
            if isinstance(error, INTERRUPTS):
                raise
        finally:
            if is_end:
                gathering.end_as_put_off()

    def _tell_all(self, gathering, is_end):
        ended, self._ended = self._ended, 0
        if ended:
            self._tell(ended)
        if is_end and gathering.progress is self and self._close is not None:
            close, self._close = self._close, None
            close()

    def stop(self):
        """Nobody is told any more."""
        self._stop_timer()
        try:
            if self._close is not None:
                self._close()
        except BaseException as error:
            Unraisable(error)

    def _stop_timer(self):
        timer, self._timer = self._timer, NO_TIMER
        if timer is not NO_TIMER:
            _cancel(timer)


def _cancel(timer):
    try:
        timer.cancel()
    except BaseException as error:
        Unraisable(error)


def length_of(iterable):
    """Return how many elements there will be, None if it does not tell."""
    length = operator.length_hint(iterable, -1)
    return None if length < 0 else length
