"""Run many coroutines with a limit on how many run at once.

A Task that nobody holds or watches may run several items, one after the other; docs/tasks.md
says what of that can be seen.  Environment variables, read at import:

GATEDCORO_IMPLEMENTATION: ``python`` or ``c``; not set, the C extension if there is one.
GATEDCORO_TASK_REUSE: ``0`` gives each item a new Task.
"""

import os as _os
from typing import TYPE_CHECKING as _TYPE_CHECKING

from ._environment import task_reuse as _task_reuse

_task_reuse()  # a wrong value is not to be taken for a missing extension
_wanted = _os.environ.get("GATEDCORO_IMPLEMENTATION", "")

if _wanted == "python":
    from . import _reference as _implementation

    implementation = "python"
elif _wanted == "c":
    try:
        from . import _core as _implementation
    except ImportError as _error:
        raise ImportError(
            f"GATEDCORO_IMPLEMENTATION=c asks for the C extension, but gatedcoro._core cannot be imported: {_error}"
        ) from _error
    implementation = "c"
elif _wanted == "":
    try:
        from . import _core as _implementation

        implementation = "c"
    except ImportError:
        from . import _reference as _implementation

        implementation = "python"
else:
    raise ImportError(f"GATEDCORO_IMPLEMENTATION must be 'c' or 'python', or not be set; it is {_wanted!r}")

if _TYPE_CHECKING:
    from ._core import (
        constrained_execution,
        gated_coro,
        gather,
        gather_with_concurrency,
        run_all,
    )
else:
    gated_coro = _implementation.gated_coro
    gather_with_concurrency = _implementation.gather_with_concurrency
    gather = _implementation.gather
    run_all = _implementation.run_all
    constrained_execution = _implementation.constrained_execution

__version__ = "0.1.0"

__all__ = [
    "__version__",
    "constrained_execution",
    "gated_coro",
    "gather",
    "gather_with_concurrency",
    "implementation",
    "run_all",
]

del _os, _wanted, _implementation, _task_reuse, _TYPE_CHECKING
