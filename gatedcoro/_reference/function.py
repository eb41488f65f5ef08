"""What the public functions answer to those who look at them.  Twin of src/surface/function.h."""

import inspect
from inspect import CO_COROUTINE

from gatedcoro import _functions

from . import state
from .compat import MARKED_BY_INSPECT


def public(function):
    """Make *function* the one that gatedcoro._functions describes.

    It is named by the package, so that its pickle does not tell the implementation.
    """
    described = getattr(_functions, function.__name__)
    function.__doc__ = described.__doc__
    function.__module__ = "gatedcoro"
    if described.__code__.co_flags & CO_COROUTINE:
        if not MARKED_BY_INSPECT:
            function._is_coroutine = state.module("asyncio.coroutines")._is_coroutine
        elif callable(inspect.markcoroutinefunction):
            inspect.markcoroutinefunction(function)
    return function
