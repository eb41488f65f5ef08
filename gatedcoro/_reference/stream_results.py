"""The results of a Stream, between the items and its consumers.  Twin of src/surface/stream_results.h.

    drawn -----> finished -----> ready -----> handed over
          put()         in order       take()

The window says how many items may have been drawn and not handed over, or how many results may be finished and not handed over.

Consumers wait in the order in which they asked.  As many of them have been woken as results are ready; whoever asks later
gets what they leave, and if one of them goes without, the next one is woken.
"""

import dataclasses

from .call import Unraisable
from .sink import Sink, note_raised
from .state import EMPTY, CancelledError, OrderedDict, deque

DEFAULT_FINISHED = 100
"""How many finished results may wait where a gate is the limit, whose size is not known."""


@dataclasses.dataclass(frozen=True, slots=True)
class Window:
    """One more item may be drawn while so many are drawn and not handed over, or finished and not handed over; None: any number."""

    drawn: int | None
    finished: int | None

    @classmethod
    def of(cls, limits, buffersize):
        if limits.count is not None:
            return cls(limits.count + (limits.count if buffersize is None else buffersize), None)
        if limits.gates:
            return cls(None, DEFAULT_FINISHED if buffersize is None else buffersize)
        return cls(None if buffersize is None else max(buffersize, 1), None)


class StreamResults(Sink):
    def __init__(self, window, *, is_ordered):
        self._window = window
        self._is_ordered = is_ordered
        self._results = deque()  # ordered: of the items from `handed_over` on, EMPTY where one has not finished
        self._ready = 0
        self._cut = None  # ordered: the index from which on nothing is handed over
        self.drawn = self.finished = self.handed_over = 0
        self._consumers = OrderedDict()  # those that have not been woken; the values are None
        self._woken = {}  # those that have been, likewise
        self._is_over = False  # nothing is put any more
        self.is_left = False  # nobody wants what is left
        self._error = None  # that the next consumer is to get, when everything has been handed over; or who has left
        self._interrupt = None  # that has left the event loop by a consumer's step
        self._closers = []  # who waits until nothing runs any more

    # For the gathering

    def has_room(self):
        window = self._window
        if window.drawn is not None:
            return self.drawn - self.handed_over < window.drawn
        return window.finished is None or self.waiting <= window.finished

    @property
    def waiting(self):
        """How many results wait to be handed over."""
        return self.finished - self.handed_over

    def expect(self, index):
        self.drawn += 1

    def put(self, index, outcome):
        if self._is_over or (self._cut is not None and index >= self._cut):
            return
        result = outcome.value if outcome.error is None else outcome.as_result
        self.finished += 1
        if self._is_ordered:
            at = index - self.handed_over
            self._results.extend([EMPTY] * (at + 1 - len(self._results)))
            self._results[at] = result
            while self._ready < len(self._results) and self._results[self._ready] is not EMPTY:
                self._ready += 1
        else:
            self._append(result)
        self._wake_consumers()

    def _append(self, result):
        """Hand *result* out after all others."""
        self._results.append(result)
        self._ready += 1

    def note(self, error, index, outcome, *, was_cancelled):
        raised = outcome.error
        if raised is not error and not isinstance(raised, CancelledError):
            when = "while it was being cancelled" if was_cancelled else "after that"
            note_raised(error, f"{when}, item {index}", raised)

    def cut(self, index):
        if not self._is_ordered:
            return
        self._cut = index
        while len(self._results) > index - self.handed_over:
            if self._results.pop() is not EMPTY:
                self.finished -= 1
        self._ready = min(self._ready, len(self._results))

    def end(self, error, *, was_seen):
        if isinstance(error, StopAsyncIteration):  # it would end the consumer's loop
            ended, error = error, RuntimeError("async generator raised StopAsyncIteration")
            error.__cause__ = ended
        self._error = None if error is self._interrupt else error
        self._interrupt = None
        self._is_over = True
        self._wake_consumers()
        closers, self._closers = self._closers, []
        for consumer in closers:
            consumer.wake()

    # For the Stream

    def leave(self):
        """Nobody wants what is left."""
        self._results.clear()
        self._ready = 0
        self.finished = self.handed_over
        self._error = None
        self._is_over = self.is_left = True
        self._wake_consumers()

    def closes_by(self, consumer):
        """Wake *consumer* when nothing runs any more."""
        self._closers.append(consumer)

    def take_error(self):
        """Return the error if there is one that nobody has got."""
        error, self._error = self._error, None
        return error

    # For consumers, which have a wake()

    def has_one_for(self, consumer):
        """Whether *consumer*, which has waited or has just come, may take() now."""
        if consumer in self._woken:
            return self._ready > 0 or self._is_over
        if consumer in self._consumers:
            return False
        waiting = len(self._woken) + len(self._consumers)
        return self._ready > waiting or (self._is_over and not waiting)

    def take(self):
        """Return the next result; where there is none, raise the error, once, or return EMPTY."""
        if self._ready:
            self._ready -= 1
            self.handed_over += 1
            return self._results.popleft()
        error = None if self.is_left else self.take_error()
        try:
            if error is not None:
                raise error
            return EMPTY
        finally:
            del error

    def has_nobody_waiting(self):
        return not self._woken and not self._consumers

    def let_out(self, interrupt):
        """A consumer's step ends with *interrupt*: nobody else gets it."""
        if self._error is interrupt:
            self._error = None
        elif not self._is_over:
            self._interrupt = interrupt

    def ask(self, consumer):
        """*consumer* waits from now on."""
        self._consumers[consumer] = None
        self._wake_consumers()

    def go(self, consumer):
        """*consumer* does not wait any more."""
        self._consumers.pop(consumer, None)
        self._woken.pop(consumer, None)
        self._wake_consumers()

    def _wake_consumers(self):
        while self._consumers and (self._is_over or len(self._woken) < self._ready):
            consumer, _ = self._consumers.popitem(last=False)
            self._woken[consumer] = None
            try:
                consumer.wake()
            except Exception as error:
                if self._woken.pop(consumer, EMPTY) is not EMPTY:  # it is woken with the next one
                    self._consumers[consumer] = None
                    self._consumers.move_to_end(consumer, last=False)
                Unraisable(error)
                return
