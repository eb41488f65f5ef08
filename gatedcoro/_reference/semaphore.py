"""asyncio's semaphores, with a limit that can be changed while they are in use.  Twin of src/coroutines/semaphore.h.

    add()             wake_next()               ended()
    ------> waiting -------------> admitted ------------->   as in asyncio, whoever comes while somebody waits, or has been
               |                                             admitted and has not gone on, waits, too, though there be slots
               +--- cancelled ---> gone

Somebody who reads `_waiters` gets a deque of all of them, in this order.  From then on that is what counts, and is gone
through as asyncio does; so is what somebody has assigned.
"""

import operator
import sys

from gatedcoro import _functions

from .call import Unraisable, is_closed
from .state import EMPTY, OrderedDict, deque, get_running_loop, semaphore_bases

METHODS = ("acquire", "locked", "release")
"""Those by which it is used: what has been put in place of one of them is what is called."""


class Waiter:
    """An acquire() that waits: the Future that it awaits, and whether it has been handed a slot."""

    def __init__(self, future):
        self.future = future
        self.is_admitted = False
        self.has_left = False  # that acquire() has ended

    def done(self):
        return self.is_admitted or self.future.done()

    def cancelled(self):
        return not self.is_admitted and self.future.cancelled()

    def set_result(self, result):
        self.is_admitted = True  # first: the Future may be somebody's
        try:
            self.future.set_result(result)
        except BaseException:
            if not self.future.done():
                self.is_admitted = False  # nobody would make it go on
            raise

    def lacks_slot(self):
        """Whether set_result(), which has failed, has left the slot to whoever called it."""
        return not self.has_left and not self.done()

    def cancel(self, msg=None):
        return self.future.cancel(msg)


class Counter:
    """How many slots are free, and who waits for one: Waiters, or what has their methods.

    One whose set_result() returns False wants no slot after all, and has left.
    """

    def __init__(self, limit):
        self.limit = self.value = limit
        self.loop = None  # of those who have waited
        self._waiting = OrderedDict()  # the values are None
        self._admitted = {}  # those that have not gone on, likewise
        self._is_queue = False  # somebody has waited
        self._seen = None  # the deque that others have seen

    def change_limit(self, limit):
        self.value += limit - self.limit
        self.limit = limit
        self.wake()

    # What others see

    def see(self):
        """Return the deque of all of them, which is what counts from now on."""
        while self._is_queue and self._seen is None:
            before = [*self._admitted, *self._waiting]
            seen, waiting, admitted = deque(before), OrderedDict(), {}
            # The collector may have run anything meanwhile.
            if self._seen is None and before == [*self._admitted, *self._waiting]:
                self._seen, self._waiting, self._admitted = seen, waiting, admitted
        return self._seen

    def assign(self, waiters):
        """From now on nobody waits but *waiters*, a deque or None."""
        if waiters is not None and not isinstance(waiters, deque):
            raise TypeError(f"_waiters must be a deque or None, not {waiters!r} ({type(waiters).__name__})")
        self._waiting.clear()
        self._admitted.clear()
        self._seen = waiters
        self._is_queue = waiters is not None

    @property
    def _is_seen(self):
        """Whether the deque is what counts."""
        return self._seen is not None

    # Who waits

    def __len__(self):
        """How many of them there are; some may have been cancelled."""
        return len(self._seen) if self._is_seen else len(self._waiting) + len(self._admitted)

    def are_locked(self):
        """Whether somebody who comes now has to wait."""
        return self.value <= 0 or self._is_occupied() or self.value <= 0

    def _is_occupied(self):
        """Whether somebody who comes now would overtake another."""
        while not self._is_seen:
            if self._admitted:
                return True
            waiter = next(iter(self._waiting), None)
            if waiter is None:
                return False
            if not waiter.done() or not waiter.cancelled():
                return True
            self._waiting.pop(waiter, None)
        return any(not waiter.cancelled() for waiter in list(self._seen))

    @property
    def is_free(self):
        """Whether somebody who comes now surely need not wait."""
        return self.value > 0 and not len(self)

    def can_wait_in(self, loop):
        return self.loop is None or self.loop is loop

    def bind(self, semaphore, loop):
        """Somebody is about to wait, on *loop*."""
        if not self.can_wait_in(loop):
            raise RuntimeError(f"{semaphore!r} is bound to a different event loop")
        self.loop = loop

    def add(self, waiter):
        self._is_queue = True
        if self._is_seen:
            self._seen.append(waiter)
        else:
            self._waiting[waiter] = None

    def wake_next(self):
        """Hand a slot to the first one that waits and wants it; return whether there was one."""
        failure = None
        while (waiter := self._next()) is not None:
            try:
                if self._hand_over(waiter):
                    break
            except BaseException as error:
                if not (isinstance(waiter, Waiter) and waiter.cancelled() and self.value > 0):
                    raise
                failure = failure or error  # it has gone, and the next one may have the slot
        if failure is not None:
            raise failure
        return waiter is not None

    def _next(self):
        waiter = None if self._is_seen else self._first_waiting()
        if waiter is None and self._is_seen:  # by now
            waiter = next((waiter for waiter in list(self._seen) if not waiter.done()), None)
        return waiter

    def _first_waiting(self):
        """Return the first one that is not done; those that were cancelled are let go of."""
        while self._waiting:
            waiter = next(iter(self._waiting))
            if not waiter.done():
                if waiter in self._waiting:
                    return waiter
            elif waiter.cancelled():
                self._waiting.pop(waiter, None)
            else:
                self._counts_as_admitted(waiter)
        return None

    def _counts_as_admitted(self, waiter):
        if self._waiting.pop(waiter, EMPTY) is not EMPTY:
            self._admitted[waiter] = None

    def wake(self):
        """Hand out what there is."""
        while self.value > 0 and self.wake_next():
            pass

    def _hand_over(self, waiter):
        """Return whether it takes a slot; if it fails, and has none, it waits on as the first one."""
        is_ours = isinstance(waiter, Waiter)
        self.value -= 1
        self._counts_as_admitted(waiter)
        try:
            is_taken = waiter.set_result(True) is not False or not is_ours
        except BaseException:
            if waiter.lacks_slot() if is_ours else not waiter.done():
                self.value += 1
                if self._admitted.pop(waiter, EMPTY) is not EMPTY:
                    self._waiting[waiter] = None
                    self._waiting.move_to_end(waiter, last=False)
            raise
        if not is_taken:
            self.value += 1
        return is_taken

    def give_back(self):
        """A slot is free that had been taken."""
        self.value += 1
        if self.value > 0:
            self.wake_next()

    def leave(self, waiter):
        """It need not be there any more."""
        if self._is_seen:
            try:
                self._seen.remove(waiter)
            except ValueError:
                pass  # somebody else has done so
        elif self._admitted.pop(waiter, EMPTY) is EMPTY:
            self._waiting.pop(waiter, None)

    def ended(self, waiter, *, has_slot):
        """A Waiter goes on, or has failed: those behind it, who may have waited only for that, get what there is."""
        self.leave(waiter)
        waiter.has_left = True
        if has_slot and not waiter.is_admitted:  # somebody else has set its Future
            self.value -= 1
        elif not has_slot and waiter.is_admitted:
            self.value += 1
        waiter.is_admitted = False
        try:
            self.wake()
        except Exception as error:
            if not is_closed(self.loop):  # else nobody goes on there
                Unraisable(error)


def _count(number, name):
    if not hasattr(type(number), "__index__"):
        raise TypeError(f"{name} must be an integer, not {number!r} ({type(number).__name__})")
    count = int(operator.index(number))
    if count > sys.maxsize:
        raise ValueError(f"{name} must be at most {sys.maxsize}, not {count}")
    return count


class Semaphore(*semaphore_bases[:1]):
    __doc__ = _functions.Semaphore.__doc__
    __module__ = "gatedcoro"
    __slots__ = ("_counter",) if semaphore_bases else ("__dict__", "__weakref__", "_counter")

    def __init__(self, value=1):
        count = _count(value, "value")
        if count < 0:
            raise ValueError("Semaphore initial value must be >= 0")
        self._counter.limit = self._counter.value = count
        self._counter.wake()

    def __getattr__(self, name):
        if name != "_counter":
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        self._counter = Counter(0)  # a subclass may leave __init__() out
        return self._counter

    def __repr__(self):
        extra = "locked" if self.locked() else f"unlocked, value:{self._value}"
        if self._counter:
            extra = f"{extra}, waiters:{len(self._counter)}"
        return f"<{object.__repr__(self)[1:-1]} [{extra}]>"

    async def acquire(self):
        counter = self._counter
        if not self.locked():
            counter.value -= 1
            return True
        waiter = Waiter(self._get_loop().create_future())
        counter.add(waiter)
        has_slot = False
        try:
            await waiter.future
            has_slot = True
        finally:
            counter.ended(waiter, has_slot=has_slot)
        return True

    def release(self):
        counter = self._counter
        if isinstance(self, BoundedSemaphore) and counter.value >= counter.limit:
            raise ValueError("BoundedSemaphore released too many times")
        counter.give_back()

    def locked(self):
        return self._counter.are_locked()

    async def __aenter__(self):
        await self.acquire()

    async def __aexit__(self, exc_type, exc, tb):
        self.release()

    @property
    def limit(self):
        return self._counter.limit

    @limit.setter
    def limit(self, limit):
        count = _count(limit, "limit")
        if count < 0:
            raise ValueError(f"limit must be at least 0, not {count}")
        self._counter.change_limit(count)

    # What asyncio's have

    @property
    def _value(self):
        return self._counter.value

    @_value.setter
    def _value(self, value):
        self._counter.value = _count(value, "_value")

    @property
    def _waiters(self):
        return self._counter.see()

    @_waiters.setter
    def _waiters(self, waiters):
        self._counter.assign(waiters)

    @property
    def _loop(self):
        return self._counter.loop

    @_loop.setter
    def _loop(self, loop):
        self._counter.loop = loop

    def _get_loop(self):
        loop = get_running_loop()
        self._counter.bind(self, loop)
        return loop

    def _wake_up_next(self):
        return self._counter.wake_next()

    # Copies, which nobody waits for

    def __getstate__(self):
        attributes, slots = object.__getstate__(self)
        del slots["_counter"]
        return attributes, {"limit": self.limit, "_value": self._value, **slots}

    def __setstate__(self, state):
        attributes, others = state
        if attributes:
            vars(self).update(attributes)
        for name, value in others.items():
            setattr(self, name, value)


class BoundedSemaphore(Semaphore, *semaphore_bases[1:]):
    __doc__ = _functions.BoundedSemaphore.__doc__
    __module__ = "gatedcoro"
    __slots__ = ()

    def __init__(self, value=1):
        super().__init__(value)

    @property
    def _bound_value(self):
        return self._counter.limit

    @_bound_value.setter
    def _bound_value(self, bound):
        self._counter.limit = _count(bound, "_bound_value")


for _name in (*METHODS, "__aenter__", "__aexit__", "limit"):
    vars(Semaphore)[_name].__doc__ = vars(_functions.Semaphore)[_name].__doc__

_OWN = {name: getattr(Semaphore, name) for name in (*METHODS, "__aenter__", "__aexit__")}


def is_counted(gate):
    """Whether it is a semaphore of ours, and nobody could tell that its methods are not called."""
    cls = type(gate)
    return (
        issubclass(cls, Semaphore)
        and cls.__getattribute__ is object.__getattribute__
        and all(getattr(cls, name) is method for name, method in _OWN.items())
        and not any(name in vars(gate) for name in METHODS)
    )


def give_back(semaphore):
    """Do what release() did when this was imported."""
    _OWN["release"](semaphore)
