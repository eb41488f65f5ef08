"""The current Task.  Twin of src/coroutines/current.h."""

from . import state
from .call import Unraisable
from .state import EMPTY, running_loop_or_none


def functions_of_the_current_task():
    """Return what asyncio has to ask for the current Task, to enter and to leave one.

    Since 3.14 its Python Tasks have functions of their own; somebody has put them in place if they are to count.
    """
    tasks = state.module("asyncio.tasks")
    of_python_tasks = getattr(tasks, "_py_current_task", None)
    if of_python_tasks is not None and getattr(tasks, "current_task", None) is of_python_tasks:
        return of_python_tasks, tasks._py_enter_task, tasks._py_leave_task
    return state.current_task, state.enter_task, state.leave_task


def task_that_runs_on(loop):
    """Return the Task that runs on *loop* in this thread, None if there is none, or nobody can say."""
    if running_loop_or_none() is not loop:
        return None
    try:
        return functions_of_the_current_task()[0](loop)
    except Exception:
        return None


class AsCurrentTask:
    """Makes a Task, or None, the current one for a block in which somebody else's code makes a Task.

    A task factory, or a loop's own create_task(), may hand state of the current Task on to the one that it makes.
    asyncio.gather makes its Tasks in the call, so that is the caller's.  Afterwards the current Task is what it was
    before, whatever the block has done.
    """

    def __init__(self, loop, task):
        self._loop = loop
        self._task = task
        self._before = EMPTY

    def __enter__(self):
        if running_loop_or_none() is not self._loop:
            return  # nothing is current on it, or it is another thread's
        try:
            self._switch_to(self._task)
        except BaseException as error:
            if not isinstance(error, Exception):
                self.__exit__()
                raise

    def __exit__(self, *exception):
        if self._before is not EMPTY:
            try:
                self._switch_to(self._before)
            except Exception as error:
                Unraisable(error)

    def _switch_to(self, wanted):
        current_task, enter, leave = functions_of_the_current_task()
        found = current_task(self._loop)
        if self._before is EMPTY:
            self._before = found
        if found is wanted:
            return
        if found is not None:
            leave(self._loop, found)
        if wanted is not None:
            enter(self._loop, wanted)
