"""Coroutine objects of our own.  Twin of src/coroutines/coroutine.h.

CoroutineObject         the protocol that all of them share
  OwnCoroutine          what the awaitable public functions return
  Worker (worker.py)    what runs in an item's Task
Unstarted               the items that such a coroutine owes a close()
"""

import abc
import inspect
import threading

from .item import close_coroutine
from .state import Coroutine, deque


class _Asked:
    """A read-only attribute: what the coroutine answers if it is asked for that name."""

    def __set_name__(self, owner, name):
        self._name = name

    def __get__(self, instance, owner=None):
        return self if instance is None else instance._ask(self._name)

    def __set__(self, instance, value):
        raise AttributeError(f"attribute {self._name!r} is not writable")


class CoroutineObject(Coroutine, metaclass=abc.ABCMeta):
    """A coroutine that is its own iterator and refuses to be awaited twice at once."""

    def __await__(self):
        if self._awaits() is not None:
            raise RuntimeError("coroutine is being awaited already")
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def _awaits(self):
        """Return what the coroutine is suspended on, None if it is not suspended."""
        raise NotImplementedError

    # What it answers to those who look at it.

    def _ask(self, name):
        raise NotImplementedError

    cr_await = _Asked()
    cr_code = _Asked()
    cr_frame = _Asked()
    cr_origin = _Asked()
    cr_running = _Asked()
    cr_state = _Asked()
    cr_suspended = _Asked()


class OwnCoroutine(CoroutineObject):
    """What the awaitable public functions return.

    It wraps a native coroutine, which gives it the whole coroutine protocol, and owes the
    items a close() should that coroutine never start.
    """

    def __init__(self, name, body, unstarted):
        body.__name__ = body.__qualname__ = self.__name__ = self.__qualname__ = name
        self._body = body
        self._unstarted = unstarted

    def send(self, value):
        return self._body.send(value)

    def throw(self, *exception):
        try:
            return self._body.throw(*exception)
        finally:
            del exception  # its traceback holds this frame
            self._close_if_it_never_started()

    def close(self):
        try:
            return self._body.close()
        finally:
            self._close_if_it_never_started()

    def _close_if_it_never_started(self):
        if self._body.cr_frame is None:  # the native coroutine has ended
            self._unstarted.close()

    def give_up_if_it_never_started(self):
        if inspect.getcoroutinestate(self._body) == inspect.CORO_CREATED:
            self._body.close()
            self._unstarted.close()

    def __del__(self):
        # The native coroutine warns on its own that it was never awaited.
        unstarted = getattr(self, "_unstarted", None)
        if unstarted is not None:
            unstarted.close()

    def __repr__(self):
        return f"<coroutine object {self.__qualname__} at {id(self):#x}>"

    def _awaits(self):
        return self._body.cr_await

    def _ask(self, name):
        if name == "cr_state":
            return inspect.getcoroutinestate(self._body)
        return getattr(self._body, name)


class Unstarted:
    """Items that nothing has started yet; they are closed unless somebody takes them.

    Those of our coroutines among them that never began are opened up in a loop, whatever
    the depth of such a chain: they, too, close what they hold.  What is closed may drop
    others of ours; these join the loop that is under way in their thread.
    """

    _loop_under_way = threading.local()

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def take(self):
        items, self.items = self.items, ()
        return items

    def close(self):
        if not self.items:
            return
        under_way = getattr(self._loop_under_way, "queue", None)
        if under_way is not None:
            under_way.extend(self.take())
            return
        queue = self._loop_under_way.queue = deque(self.take())
        try:
            while queue:
                item = queue.popleft()
                if isinstance(item, OwnCoroutine):
                    item.give_up_if_it_never_started()
                else:
                    close_coroutine(item)
                del item  # what goes with it joins the loop, too
        finally:
            self._loop_under_way.queue = None
