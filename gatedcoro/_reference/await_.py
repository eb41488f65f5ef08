"""What `await` does, what a Task does with a coroutine, and what asyncio.gather does.  Twin of src/coroutines/await.h.

Each function returns something that our own `await` takes, and that then does what is wanted.
"""

import inspect
import types

from .compat import GATHER_CALLS_AWAIT_METHOD
from .state import EMPTY, Coroutine, iscoroutine, isfuture


@types.coroutine
def _drive_await_method(awaitable):
    return (yield from awaitable.__await__())


class _TaskCoroutine:
    """Drives a coroutine as a Task does: from where it stands, and whether or not `await` would take it.

    So asyncio.capture_call_graph() inside the item ends at the item, not in this file.
    """

    def __init__(self, coroutine):
        self._coroutine = coroutine

    def __await__(self):
        return self

    def __next__(self):
        return self._coroutine.send(None)

    def send(self, value):
        return self._coroutine.send(value)

    def throw(self, *exception):
        try:
            return self._coroutine.throw(*exception)
        finally:
            del exception  # its traceback holds this frame

    def close(self):
        return self._coroutine.close()


class _DrivenCoroutine(_TaskCoroutine):
    """Awaits a native coroutine."""

    def __await__(self):
        if self._coroutine.cr_await is not None:
            raise RuntimeError("coroutine is being awaited already")
        return self


def as_await_drives_it(awaitable):
    """Do what `await awaitable` does."""
    if type(awaitable) is types.CoroutineType:
        return _DrivenCoroutine(awaitable)
    return awaitable


def as_asyncio_gather_drives_it(argument):
    """Do what asyncio.gather does with *argument*.

    It makes a Task of a coroutine, which may have begun, and does not ask whether `await` would
    take it; a Future runs already, and one that `await` does not take may say by an attribute
    how to wait for it.
    """
    if isfuture(argument):
        by_attribute = hasattr(argument, "__await__") and not hasattr(type(argument), "__await__")
    elif iscoroutine(argument):
        return _TaskCoroutine(argument)
    else:
        by_attribute = GATHER_CALLS_AWAIT_METHOD
    return _drive_await_method(argument) if by_attribute else argument


def can_be_awaited(value):
    """Whether `await value` starts: __class__, which isinstance() believes, may be made up."""
    cls = type(value)
    if cls is types.GeneratorType:
        return bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return cls is types.CoroutineType or _attribute_of_type(cls, "__await__") is not EMPTY


def _attribute_of_type(cls, name):
    """Return what instances have by that name from *cls*, whatever its metaclass has; EMPTY for nothing."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), EMPTY)


def is_to_be_unpacked(item):
    """Whether *item* is an iterable that was meant to be unpacked.

    The contents of a string or a dict are no items.  What says that it is a coroutine is a
    proxy, which has every method.
    """
    return (
        _attribute_of_type(type(item), "__iter__") not in (EMPTY, None)
        and not issubclass(type(item), str | bytes | bytearray | dict)
        and not can_be_awaited(item)
        and not isinstance(item, Coroutine)
    )


def note_unpacking(error, item):
    """Say on the TypeError about *item* what may have been meant; return it."""
    if is_to_be_unpacked(item):
        error.add_note(f"to pass what the {type(item).__name__} contains, unpack it with *")
    return error


async def refuse_to_await(item):
    try:
        return await item
    except TypeError as error:
        note_unpacking(error, item)
        raise
