"""Where items come from.  Twin of src/engine/source.h.

WAITING              the next item is on its way
   ^
   v
  OPEN -----> EXHAUSTED      items start while it is OPEN only, until every one
   |              |          has been taken; closing what is left may take
   v              v          several turns of the event loop
CLOSING ----> CLOSED
"""

import enum

from .call import Unraisable
from .item import ITEM_AWAITABLE, ITEM_CALLABLE, ITEM_HANDED_OUT, Call, close_item
from .state import EMPTY, deque, isfuture


class SourceState(enum.Enum):
    OPEN = "there is an item, or may be one"
    WAITING = "there may be one: it says so (iteration.py)"
    EXHAUSTED = "every item has been taken"
    CLOSING = "nothing starts any more; the rest is being closed"
    CLOSED = "nothing starts any more, and nothing is left"


SOURCE_OPEN, SOURCE_WAITING, SOURCE_EXHAUSTED, SOURCE_CLOSING, SOURCE_CLOSED = SourceState


class TakeAnswer(enum.Enum):
    """What draw() answers if it has no item."""

    NONE = "there is none after all"
    LATER = "there is none yet: it says when there is one (iteration.py)"


TAKE_NONE, TAKE_LATER = TakeAnswer


class Source:
    """Items of one kind, and how far they have been taken."""

    closes_at_once = True
    """Whether close_one() closes all that is left."""
    takes_turns = False
    """Whether it is a Task of its own (iteration.py): begin_closing() closes it, and it says when it is closed."""

    def __init__(self, kind):
        self.kind = kind
        self.state = SOURCE_OPEN
        self._ahead = None  # the next item and its index, if it has been drawn

    @property
    def has_more(self):
        """Whether there is an item, or may be one, to start or to close."""
        return self.is_open or self.state is SOURCE_CLOSING

    @property
    def is_open(self):
        """Whether there is an item, or may be one, to start."""
        return self.state is SOURCE_OPEN or self.state is SOURCE_WAITING

    @property
    def is_stopped(self):
        return self.state is SOURCE_CLOSING or self.state is SOURCE_CLOSED

    @property
    def is_being_closed(self):
        """Whether it takes turns for that, as a Task, which can be cancelled."""
        return self.takes_turns and self.state is SOURCE_CLOSING

    def draw(self):
        """Have the next item at hand: return True, or a TakeAnswer; raise what the source raises.

        It need not have a slot yet: so the end of the source is found without one.
        """
        if self._ahead is None:
            drawn = self._draw()
            if isinstance(drawn, TakeAnswer):
                return drawn
            self._ahead = drawn
        return True

    @property
    def has_next(self):
        """Whether there is a next item, for all that is known without asking."""
        return self._ahead is not None

    def take(self):
        """Return the item that is at hand, with its index."""
        taken, self._ahead = self._ahead, None
        return taken

    def drop_ahead(self):
        """Nothing will start with what is at hand."""
        if self._ahead is not None:
            close_item(self.kind, self.take()[1])

    def _draw(self):
        """Return the next item with its index, or a TakeAnswer; raise what the source raises."""
        raise NotImplementedError

    def stop(self):
        """Nothing starts from now on: what is left is to be closed."""
        if self.is_open:
            self.state = SOURCE_CLOSING
        elif self.state is SOURCE_EXHAUSTED:
            self.state = SOURCE_CLOSED

    @property
    def position(self):
        """How many items have been taken."""
        raise NotImplementedError

    iterator = None
    """What its Task goes through, if it has one."""

    def runs_in(self, task):
        """Whether *task* is its own."""
        return False

    may_be_endless = False
    """Whether starting all of it in one turn could starve the event loop."""

    def remove_futures(self, most):
        """Take out what runs already of the first *most* items, or of all: a deque of pairs with their indexes."""
        return deque()

    def close_one(self):
        """Close something of what is left; raise what that raises."""
        raise NotImplementedError

    def _ended(self):
        """Nothing is left."""
        if self.is_open:
            self.state = SOURCE_EXHAUSTED
        elif self.state is SOURCE_CLOSING:
            self.state = SOURCE_CLOSED


class Awaitables(Source):
    """A fixed sequence of awaitables."""

    closes_at_once = False

    def __init__(self, items, kind=ITEM_AWAITABLE):
        super().__init__(kind)
        self._position = 0
        self._put_in(deque(enumerate(items)))

    @property
    def position(self):
        return self._position

    @property
    def left(self):
        """How many items have not been taken."""
        return len(self._items)

    def _put_in(self, items):
        self._items = items  # each with its index
        if not items:
            self._ended()

    def _next(self):
        taken = self._items.popleft()
        self._position += 1
        if not self._items:
            self._ended()
        return taken

    def draw(self):
        return True

    has_next = True

    def take(self):
        return self._next()

    def remove_futures(self, most):
        """Take the Futures out that are among the first *most* items; they run already."""
        futures, rest = deque(), deque()
        for pair in self._items:
            is_first = most is None or len(futures) + len(rest) < most
            (futures if is_first and isfuture(pair[1]) else rest).append(pair)
        self._put_in(rest)
        return futures

    def close_one(self):
        close_item(self.kind, self._next()[1])


class Iterable(Source):
    """An iterable of functions that return awaitables, or of arguments for one, or of awaitables that are handed out.

    The iterator is advanced when a slot is free.  Its end is only known when it has been
    reached.  All of its code runs in the same copy of the caller's context.  A generator is
    closed, also if somebody else holds it; anything else is let go of.
    """

    closes_at_once = True

    def __init__(self, iterable, context, function=None, kind=ITEM_CALLABLE):
        """*iterable* is a list, out of which it is taken."""
        super().__init__(kind)
        self._function = function
        self.may_be_endless = function is not None or kind is ITEM_HANDED_OUT
        self._context = context
        self._iterator = None
        self._is_advancing = False
        self._position = 0
        self._sequence = iterable[0] if type(iterable[0]) in (list, tuple) else ()
        context.run(self._open, iterable)

    def __del__(self):
        try:
            self.close_one()
        except BaseException as error:
            Unraisable(error)

    @property
    def position(self):
        return self._position

    @property
    def has_next(self):
        return self._ahead is not None or self._position < len(self._sequence)

    def _open(self, iterable):
        self._iterator = iter(iterable.pop())

    def _draw(self):
        self._is_advancing = True
        try:
            item = self._context.run(self._advance)
        finally:
            self._is_advancing = False
        if item is EMPTY:
            return TAKE_NONE
        index = self._position
        self._position += 1
        return index, item if self._function is None else Call(self._function, item)

    def _advance(self):
        if self._iterator is None:  # it was let go in the meantime
            return EMPTY
        try:
            item = next(self._iterator, EMPTY)
        except BaseException:
            self._let_go()
            raise
        if item is EMPTY:
            self._let_go()
        return item

    def _let_go(self):
        iterator, self._iterator = self._iterator, None
        self._sequence = ()
        self._ended()
        return iterator

    def close_one(self):
        """Close the iterator, or let go of it; one that is being advanced when that is over.

        Its context cannot be entered where it is already: then something else runs in there.  Out of
        reach is a generator that the collector finds in a cycle with us: it may finalize that first.
        """
        if self._is_advancing:
            self._ended()
            return
        if self._iterator is None:
            return
        iterator = [self._let_go()]
        try:
            self._context.run(int)
        except RuntimeError:
            close_iterator(iterator)
        else:
            self._context.run(close_iterator, iterator)


def close_iterator(holder):
    """*holder* is a list, out of which the iterator is taken."""
    iterator = holder.pop()
    if is_generator(iterator):
        iterator.close()


def is_generator(iterator):
    """Whether it has what generators have, be they Python's or others', as Cython's."""
    return all(hasattr(type(iterator), name) for name in ("send", "throw", "close"))
