"""Arguments that are iterated over.  Twin of src/surface/iterables.h."""

import contextvars
import types
from inspect import CO_ASYNC_GENERATOR, CO_GENERATOR

from .item import ITEM_CALLABLE
from .iteration import AsyncIterable
from .source import Iterable
from .state import EMPTY, iscoroutine, isfuture


def check_iterable(iterable, name):
    """Raise a TypeError that says what would be right, unless *iterable* is one, or an async one; nothing of it is run."""
    is_future = isfuture(iterable)  # over which Python can iterate, until it is done
    if not is_future and (is_async(iterable) or can_be_iterated_over(iterable)):
        return
    # as_completed()'s argument is an iterable of awaitables, the others' are not
    remedy = "put it into a list" if name == "aws" else "await it, and pass what it returns"
    if is_future:
        found = f"a Future: {remedy}"
    elif iscoroutine(iterable):
        found = f"a coroutine: {remedy}"
    elif type(iterable) is types.FunctionType and iterable.__code__.co_flags & (CO_GENERATOR | CO_ASYNC_GENERATOR):
        found = f"the generator function {iterable.__qualname__}: call it, and pass what it returns"
    else:
        found = f"{iterable!r} ({type(iterable).__name__})"
    raise TypeError(f"{name} must be an iterable or an async iterable, not {found}")


def is_async(iterable):
    return _method(type(iterable), "__aiter__") is not None


def can_be_iterated_over(iterable):
    method = _method(type(iterable), "__iter__", EMPTY)
    return (_method(type(iterable), "__getitem__") if method is EMPTY else method) is not None


def has_length(iterable):
    return _method(type(iterable), "__len__") is not None


def _method(cls, name, default=None):
    """Return what Python finds for its own use: nothing of the class of *cls*. A method that is None says that there is none."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), default)


def source_of(holder, function=None, kind=ITEM_CALLABLE):
    """Return the source of what *holder* holds, a list, out of which that is taken: an iterable or an async iterable."""
    source = AsyncIterable if is_async(holder[0]) else Iterable
    return source(holder, contextvars.copy_context(), function, kind)
