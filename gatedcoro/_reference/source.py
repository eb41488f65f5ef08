"""Where items come from.  Twin of src/engine/source.h.

OPEN -------> EXHAUSTED      items start while it is OPEN only, until every one
  |               |          has been taken; closing what is left may take
  v               v          several turns of the event loop
CLOSING ----> CLOSED
"""

import enum

from .item import ITEM_AWAITABLE, ITEM_CALLABLE, close_item
from .state import EMPTY, deque, isfuture


class SourceState(enum.Enum):
    OPEN = "there is an item, or may be one"
    EXHAUSTED = "every item has been taken"
    CLOSING = "nothing starts any more; the rest is being closed"
    CLOSED = "nothing starts any more, and nothing is left"


SOURCE_OPEN, SOURCE_EXHAUSTED, SOURCE_CLOSING, SOURCE_CLOSED = SourceState


class TakeAnswer(enum.Enum):
    """What take() answers if it has no item."""

    NONE = "there is none after all"
    LATER = "there is none yet: for sources that have to wait; neither of those below has to"


TAKE_NONE, TAKE_LATER = TakeAnswer


class Source:
    """Items of one kind, and how far they have been taken."""

    def __init__(self, kind):
        self.kind = kind
        self.state = SOURCE_OPEN

    @property
    def has_more(self):
        """Whether there is an item, or may be one, to start or to close."""
        return self.state is SOURCE_OPEN or self.state is SOURCE_CLOSING

    @property
    def is_stopped(self):
        return self.state is SOURCE_CLOSING or self.state is SOURCE_CLOSED

    def take(self):
        """Return the next item with its index, or a TakeAnswer; raise what the source raises."""
        raise NotImplementedError

    def stop(self):
        """Nothing starts from now on: what is left is to be closed."""
        if self.state is SOURCE_OPEN:
            self.state = SOURCE_CLOSING
        elif self.state is SOURCE_EXHAUSTED:
            self.state = SOURCE_CLOSED

    def close_one(self):
        """Close something of what is left."""
        raise NotImplementedError

    def _ended(self):
        """Nothing is left."""
        if self.state is SOURCE_OPEN:
            self.state = SOURCE_EXHAUSTED
        elif self.state is SOURCE_CLOSING:
            self.state = SOURCE_CLOSED


class Awaitables(Source):
    """A fixed sequence of awaitables."""

    closes_at_once = False

    def __init__(self, items, kind=ITEM_AWAITABLE):
        super().__init__(kind)
        self._put_in(deque(enumerate(items)))

    def _put_in(self, items):
        self._items = items  # each with its index
        if not items:
            self._ended()

    def _next(self):
        taken = self._items.popleft()
        if not self._items:
            self._ended()
        return taken

    def take(self):
        return self._next()

    def remove_futures(self):
        """Take out the Futures, which run already: a deque of pairs with their indexes."""
        futures = deque(pair for pair in self._items if isfuture(pair[1]))
        self._put_in(deque(pair for pair in self._items if not isfuture(pair[1])))
        return futures

    def close_one(self):
        close_item(self.kind, self._next()[1])


class Callables(Source):
    """An iterator of functions that return awaitables.

    The iterator is advanced when a slot is free.  Its end is only known when it has been
    reached.  All of its code runs in the same copy of the caller's context, that of its
    finalizer included: a generator is closed by being let go.
    """

    closes_at_once = True

    def __init__(self, functions, context):
        """*functions* is a list, out of which the iterable is taken."""
        super().__init__(ITEM_CALLABLE)
        self._context = context
        self._iterator = None
        self._position = 0
        context.run(self._open, functions)

    def __del__(self):
        self.close_one()

    def _open(self, functions):
        self._iterator = iter(functions.pop())

    def take(self):
        function = self._context.run(self._advance)
        if function is EMPTY:
            return TAKE_NONE
        index = self._position
        self._position += 1
        return index, function

    def _advance(self):
        if self._iterator is None:  # it was let go in the meantime
            return EMPTY
        try:
            function = next(self._iterator, EMPTY)
        except BaseException:
            self._let_go()
            raise
        if function is EMPTY:
            self._let_go()
        return function

    def _let_go(self):
        iterator, self._iterator = self._iterator, None
        self._ended()
        return iterator

    def close_one(self):
        """Let go of the iterator.

        Its context cannot be entered where it is already.  Then it is the iterator that runs,
        and what runs it has a reference, which goes in the context, too.  Out of reach is a
        generator that the collector finds in a cycle with us: it may finalize that first.
        """
        if self._iterator is None:
            return
        iterator = [self._let_go()]
        try:
            self._context.run(iterator.clear)
        except RuntimeError:
            iterator.clear()
