"""An item: what the caller wants to be run, before and when it starts.  Twin of src/coroutines/item.h."""

import enum

from .await_ import (
    as_asyncio_gather_drives_it,
    as_await_drives_it,
    can_be_awaited,
    is_to_be_unpacked,
    refuse_to_await,
)
from .call import Unraisable, raisable
from .state import Coroutine, iscoroutine, isfuture, wait


class ItemKind(enum.Enum):
    AWAITABLE = "what `await` takes"
    GATHER_AWAITABLE = "what asyncio.gather takes"
    HANDED_OUT = "the same; its Task is, or the Future that it is, which is only waited for"
    CALLABLE = "a function that returns an awaitable"


ITEM_AWAITABLE, ITEM_GATHER_AWAITABLE, ITEM_HANDED_OUT, ITEM_CALLABLE = ItemKind


class Call:
    """A function and what it is called with: one function for many items."""

    def __init__(self, function, argument):
        self._function = function
        self._argument = argument
        try:
            self.__qualname__ = function.__qualname__
        except Exception:  # a proxy of what is not there
            self.__qualname__ = type(function).__name__

    def __call__(self):
        return self._function(self._argument)


def loop_of(future):
    try:
        get_loop = future.get_loop
    except AttributeError:
        return future._loop
    return get_loop()


def is_future_of(item, loop):
    return isfuture(item) and loop_of(item) is loop


def close_coroutine(item, *, begun_too=False):
    """Close a coroutine that is given up; release anything else.

    One that runs is not ours to close, nor is one that somebody else awaits: it has begun,
    and unless *begun_too*, was not given to go on with.  An exception out of close() is
    reported as one that could not be raised.
    """
    if not isinstance(item, Coroutine):
        return
    try:
        if getattr(item, "cr_running", False):
            return
        if not begun_too and getattr(item, "cr_await", None) is not None:
            return
        item.close()
    except BaseException as error:
        Unraisable(error)


def close_item(kind, item):
    """*item* never starts."""
    if kind is not ITEM_CALLABLE:  # else there is no coroutine yet
        close_coroutine(item, begun_too=kind is not ITEM_AWAITABLE)


def coroutine_of(kind, item):
    """Return the user's own coroutine, None if there is none, or none yet."""
    return item if kind is not ITEM_CALLABLE and iscoroutine(item) else None


def run_item(kind, item, worker):
    """Return what to await in order to run *item*; *worker* is told of each step on the way.

    worker.begins() comes last before the item's own code; worker.runs(awaitable) when a
    function has returned one.
    """
    if kind is ITEM_CALLABLE:
        return _call(item, worker)
    if worker.waits:
        driven = wait((item,))  # which neither cancels the Future nor looks at what it comes to
    elif kind is not ITEM_GATHER_AWAITABLE and is_to_be_unpacked(item):
        driven = refuse_to_await(item)
    elif kind is ITEM_AWAITABLE or (kind is ITEM_HANDED_OUT and not (iscoroutine(item) or can_be_awaited(item))):
        driven = as_await_drives_it(item)  # or raises the TypeError that says so
    else:
        driven = as_asyncio_gather_drives_it(item)
    worker.begins()
    return driven


async def _call(function, worker):
    note = f"raised by item {worker.index}"
    worker.begins()
    try:
        awaitable = function()
    except StopIteration as stop:  # as in any coroutine
        raise _with_note(raisable(stop), note) from stop
    except BaseException as error:
        error.add_note(note)
        raise
    del function  # and what it was called with
    worker.runs(awaitable)
    try:
        return await as_await_drives_it(awaitable)
    except TypeError as error:
        if not can_be_awaited(awaitable):
            error.add_note(note)
        raise


def _with_note(error, note):
    error.add_note(note)
    return error
