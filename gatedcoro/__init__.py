"""Run many coroutines with a limit on how many run at once.

amap() takes a function and many arguments, gather() takes coroutines; help() on each function says the rest.

A Task that nobody holds or watches may run several items, one after the other; docs/tasks.md
says what of that can be seen.  Environment variables, read at import:

GATEDCORO_IMPLEMENTATION: ``python`` or ``c``; not set, the C extension if there is one.
GATEDCORO_TASK_REUSE: ``0`` gives each item a new Task.
"""

from gatedcoro._implementation import implementation, public_functions as _public_functions

__version__ = "0.1.0"

__all__ = ["__version__", "implementation", *_public_functions]

globals().update(_public_functions)

del _public_functions
