"""The list of results: the sink of every function that returns one.  Twin of src/surface/results.h."""

from .sink import Sink, note_raised
from .state import CancelledError


class Results(Sink):
    """The list of results, with which it settles a Future.

    *layout*, when not None, says for each argument of the call which of the distinct items it is.
    """

    def __init__(self, future, layout=None):
        self._future = future
        self._layout = layout
        self._arguments = None  # for each item which argument it is, if that was asked
        self._results = []

    def is_over(self):
        return self._future.done()

    def put(self, index, outcome):
        missing = index + 1 - len(self._results)
        self._results.extend([None] * missing)
        self._results[index] = outcome.value if outcome.error is None else outcome.as_result

    def note(self, error, index, outcome, *, was_cancelled):
        raised = outcome.error
        if raised is error or isinstance(raised, CancelledError):
            return
        when = "while it was being cancelled" if was_cancelled else "after that"
        note_raised(error, f"{when}, item {self._argument(index)}", raised)

    def _argument(self, index):
        """Return which argument of the call an item is, its first where it was given twice."""
        if self._layout is None:
            return index
        if self._arguments is None:
            self._arguments = {}
            for argument, item in enumerate(self._layout):
                self._arguments.setdefault(item, argument)
        return self._arguments[index]

    def end(self, error, *, was_seen):
        results = self._results
        if self._layout is not None and error is None:
            results = [results[index] for index in self._layout]
        self._future.settle(results, error, was_seen=was_seen)

    def forget(self):
        self._future.forget()
