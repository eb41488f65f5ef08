"""A semaphore of ours as the limit of a gathering.  Twin of src/engine/slots.h.

The gathering counts for its items, so none of them waits in a Task.  It takes a slot before the next item starts.  If there is
none, it stands in the semaphore's queue, once, and is handed one in its turn:

    none ---------------> in hand -------> of the item that starts, until it ends
      |      is free         ^   |
      |                      |   +-------> given back: nothing came of it
      +--> in the queue -----+
"""

from .call import INTERRUPTS, Unraisable
from .semaphore import Waiter, give_back


class Place(Waiter):
    """Where a gathering stands in the queue: to others what Futures are there."""

    def __init__(self, slots, is_admitted):
        self._slots = slots
        self._is_admitted = is_admitted

    def done(self):
        return self._slots is None

    def cancelled(self):
        return self._slots is None

    def set_result(self, result):
        return self._slots is not None and self._is_admitted()

    def lacks_slot(self):
        return True

    def cancel(self, msg=None):
        return False

    def leave(self, counter):
        self._slots = self._is_admitted = None
        counter.leave(self)


class Slots:
    """The slots of a semaphore, or of none: then there always is one."""

    def __init__(self, semaphore):
        self._semaphore = semaphore
        self._place = None  # in the queue
        self.in_hand = False  # one is, for the next item
        self.gives_back = False  # an item does: what is free then is for this step

    @property
    def are_counted(self):
        return self._semaphore is not None

    @property
    def has_one(self):
        """Whether there is one for the next item: not while anybody else waits."""
        return self._semaphore is None or self.in_hand or self._semaphore._counter.is_free

    @property
    def stands_in_queue(self):
        return self._place is not None

    def take(self):
        """There is one: it is in hand."""
        if self._semaphore is not None and not self.in_hand:
            self._semaphore._counter.value -= 1
            self.in_hand = True

    def try_to_take(self):
        """Return whether there is one after those who have been cancelled are passed over: it is in hand then."""
        if self._semaphore._counter.are_locked():
            return False
        self.take()
        return True

    def hand_on(self, child):
        """*child* starts, and has from here on what is in hand."""
        child.has_slot, self.in_hand = self.in_hand, False

    def give_back(self, child):
        """*child* has ended: its slot goes back, if it has one."""
        if not child.has_slot:
            return
        child.has_slot = False
        before, self.gives_back = self.gives_back, True
        try:
            give_back(self._semaphore)
        finally:
            self.gives_back = before

    def let_go(self):
        """Nothing is to start: the next one who waits has what is in hand."""
        self.leave_queue()
        if not self.in_hand:
            return
        self.in_hand = False
        try:
            give_back(self._semaphore)
        except INTERRUPTS:
            raise
        except Exception as error:
            Unraisable(error)

    def join(self, loop, is_admitted):
        """Stand at the end of the queue; is_admitted() is called from there, and returns whether the slot is taken."""
        counter = self._semaphore._counter
        counter.bind(self._semaphore, loop)
        self._place = Place(self, is_admitted)
        counter.add(self._place)

    def leave_queue(self):
        place, self._place = self._place, None
        if place is not None:
            place.leave(self._semaphore._counter)
