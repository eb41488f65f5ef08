"""What differs between versions of Python.  Twin of src/base/compat.h.

The only module that looks at the version.
"""

import sys

_VERSION = sys.version_info[:3]

EAGER_TASKS_WORK = _VERSION >= (3, 12, 5)
"""Before, get_coro() of such a Task crashes (gh-122332)."""

EAGER_TASKS_HIDE_ERRORS = (3, 12) <= _VERSION < (3, 14)
"""What their making raises is the cause of a SystemError."""

ACQUIRE_MISCOUNTS_A_THROWN_CANCELLATION = _VERSION < (3, 13)
"""asyncio.Semaphore gains a slot (gh-111693)."""

HAS_AWAITED_BY = _VERSION >= (3, 14)
"""Futures know who awaits them."""

CALL_GRAPH_NEEDS_FRAMES = (3, 14, 0) <= _VERSION < (3, 14, 8)
"""What has a cr_await must have a frame (gh-156408)."""

GATHER_CALLS_AWAIT_METHOD = _VERSION < (3, 12)
"""asyncio.gather takes an `__await__` that is an attribute of the object, not of its type."""

GATHER_TAKES_DONE_FUTURES_AT_ONCE = _VERSION >= (3, 12)
"""asyncio.gather does not wait for the callbacks of Futures that are done."""

GATHER_PREFERS_THE_RUNNING_LOOP = _VERSION >= (3, 14)
"""asyncio.gather refuses Futures of other loops than the one that runs."""

AS_COMPLETED_CHECKS_AT_ONCE = _VERSION >= (3, 13)
"""asyncio.as_completed looks at its argument in the call; before, in the first step."""

MARKED_BY_INSPECT = _VERSION >= (3, 12)
"""inspect.markcoroutinefunction() is there."""
