"""The contract of gatedcoro in plain Python: its executable specification.

One call is a *gathering*.  It takes *items* (awaitables, or callables that make them) from a *source*, runs each in a Task of
its own, never more of them at once than the *limit* allows, and hands their *outcomes* to a *sink*: the list of results, with
which it settles the Future that the caller waits for, or the first error.

    source                worker (one per running item)            sink
    ------                -----------------------------            ----
    items not started --> drives its item in its own Task  ------> results, or an error
       ^                        |  ends
       +------------------------+  and starts the next item: at once, or where turns are full, in the next one

The C extension behaves alike, turn of the event loop by turn.  Each module is the twin of the file in src/ that has its
name.  The states and kinds that both know bear the same names, SOURCE_OPEN and the like: looked up in its enum a member
would cost an object, up to Python 3.11, and wherever an object is made the garbage collector may run, and anything else.

The modules stand in layers; one uses its own layer and those above it in this list:

    base         compat, call, state, stock
    coroutines   await_, item, coroutine, catcher, current, task, asyncio_semaphore, semaphore, waiter, gated, keeper
    engine       slice_, turns, running, call_graph, source, slots, limit, sink, progress, gathering, worker, watcher, iteration
    surface      outer, results, awaitables, iterables, stream_results, completed_tasks, opening, front_door, stream,
                 as_completed, function, functions

Read first: gathering, worker, source and sink; then what they name.  A call begins in functions.
"""

from gatedcoro._environment import task_reuse
from gatedcoro._functions import __all__

from . import functions
from .slice_ import set_clock as _set_clock  # noqa: F401
from .turns import begin_full as _set_full_turns  # noqa: F401

_task_reuse = task_reuse()
globals().update({name: getattr(functions, name) for name in __all__})


def _set_task_reuse(enabled):
    """For tests: remember *enabled* and return the previous value; no Task is reused here."""
    global _task_reuse
    previous, _task_reuse = _task_reuse, bool(enabled)
    return previous
