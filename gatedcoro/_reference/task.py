"""The Tasks in which items run.  Twin of src/coroutines/task.h.

Where nobody would notice the difference (opening.py) they are of our own type, and begin in the turn in which they are
made; else the event loop makes them.
"""

from .catcher import _Catcher
from .compat import EAGER_TASKS_HIDE_ERRORS, EAGER_TASKS_WORK
from .state import BaseTask, Future, current_task, enter_task, leave_task


class Task(BaseTask):
    """The Task of one item, where Tasks are of our making."""

    def __init__(self, worker, **options):
        self._worker = worker
        self.is_handed_out = False  # to somebody who may look at what it came to
        try:
            super().__init__(worker, **options)
        except BaseException:
            self._log_destroy_pending = False
            raise
        finally:
            del self, options  # the traceback of an error in an eager step holds this frame

    def get_coro(self):
        """Return the user's coroutine; the worker, if the item is no coroutine."""
        worker = self._worker
        return worker if worker.coroutine is None else worker.coroutine

    @property
    def _coro(self):  # what repr() and get_stack() ask
        return self.get_coro()

    def __del__(self):
        # The error went to the caller of the gathering: it was retrieved.
        if self.done() and not self.is_handed_out:
            self._log_traceback = False
        super().__del__()


def start_eagerly(worker, loop, context):
    """Make a Task and run its first step now, whatever the Python version."""
    task = caller = catcher = None
    try:
        if EAGER_TASKS_WORK:
            task = Task(worker, loop=loop, eager_start=True, context=context)
            task._log_destroy_pending = False
            return task
        catcher = _Catcher()
        task = Task(worker, loop=catcher, context=context)
        task._log_destroy_pending = False
        Future.__init__(task, loop=loop)
        step = catcher.step
        del catcher.step
        caller = current_task(loop)
        if caller is not None:
            leave_task(loop, caller)
        try:
            context.run(step)
        finally:
            if caller is not None:
                enter_task(loop, caller)
            del step
        return task
    finally:
        del task, caller, catcher, context  # the traceback of an error holds this frame


def error_of_start(error):
    """Why a Task could not be made: what an eager one that fails in its first step raises may hide it."""
    if EAGER_TASKS_HIDE_ERRORS and isinstance(error, SystemError) and error.__cause__ is not None:
        return error.__cause__
    return error


def retrieve(task):
    """Look at what the Task has come to, so that it does not report an error that nobody took."""
    if not task.cancelled():
        task.exception()
