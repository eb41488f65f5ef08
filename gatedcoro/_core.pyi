"""The interface of both implementations: the public functions, and private hooks for the tests."""

from collections.abc import Callable

from gatedcoro._functions import *

def _set_clock(clock: Callable[[], float] | None, /) -> None: ...
def _set_task_reuse(enabled: bool, /) -> bool: ...
