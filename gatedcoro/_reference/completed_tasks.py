"""The results of as_completed(): Tasks, and Futures of the caller's.  Twin of src/surface/completed_tasks.h.

    put() ------> undone ------> ready -----> handed over
          in the last    done          take()
          step of a Task

An item has ended, and its slot is free, before its Task is done: that is told by a done callback, as in asyncio.as_completed.
Until then the Task is undone, and the end of them all has to wait.  What starts in the last step of a Task may be done before
that is: so who is done takes along what has ended before it, and is done by now.
"""

import enum

from .call import INTERRUPTS, Unraisable
from .state import EMPTY, CancelledError
from .stream_results import StreamResults
from .task import Task, retrieve


class CompletedEnd(enum.Enum):
    WELL = "all of them have been there"
    TIMED_OUT = "time was up"
    WITH_ERROR = "with any other error"


ENDS_WELL, ENDS_TIMED_OUT, ENDS_WITH_ERROR = CompletedEnd


class CompletedTasks(StreamResults):
    def __init__(self, window, loop):
        super().__init__(window, is_ordered=False)
        self._loop = loop
        self.timer = None  # a handle of the loop's: it goes with the results
        self.ends = ENDS_WELL
        self.is_told = False  # an `async for`, that they have failed
        self._undone = []  # in the order in which their items ended
        self._unseen = {}  # by id: Tasks of ours that have not been handed out
        self._failure = None  # why there is nothing to hand out for an item: it is what they end with
        self._is_ending = False  # as soon as nothing is undone

    def __del__(self):
        self._retrieve_unseen()

    # For the gathering

    def put(self, index, outcome):
        if self._is_over:
            return
        task = outcome.task
        try:
            if task is None:
                task = _future_of(self._loop, outcome)
            if not outcome.is_callers:
                self._unseen[id(task)] = task
                outcome.is_kept = True
            is_done = outcome.task is None or outcome.task_is_done or task.done()
            is_undone = not is_done and not self._is_over and self._waits_for(task)
        except INTERRUPTS:
            raise
        except Exception as error:
            Unraisable(error)
            is_undone = False
            if task is None:
                self.drawn -= 1  # or it would take its place in the window for ever
                if self._failure is None:
                    self._failure = error
        if task is not None and not self._is_over:  # as it may be meanwhile
            self.finished += 1
            if not is_undone:
                self._append(task)
                self._wake_consumers()

    def _waits_for(self, task):
        """Have the Task handed out when it is done."""
        self._undone.append(task)
        try:
            task.add_done_callback(self._is_done)
        except BaseException as error:
            if self._take_out(task) or isinstance(error, INTERRUPTS):
                raise
            Unraisable(error)  # it has called back all the same
        return True

    def _take_out(self, task):
        """Return whether the Task was undone."""
        at = next((at for at, undone in enumerate(self._undone) if undone is task), None)
        if at is not None:
            del self._undone[at]
        return at is not None

    def _is_done(self, task):
        """The done callback of a Task that was undone."""
        if self.is_left:
            self._take_out(task)
            self._retrieve_unseen()
        elif any(undone is task for undone in self._undone):  # else it has been taken along
            for earlier in list(self._undone):
                if earlier is task or _is_done(earlier):
                    if not self.is_left and self._take_out(earlier):
                        self._append(earlier)
                    if earlier is task:
                        break
            self._wake_consumers()
        if self._is_ending and not self._undone:
            self._end_now()

    def end(self, error, *, was_seen):
        self.stop_timer()
        if error is not None:
            self._failure = error
        self._is_ending = True
        if not self._undone or self.is_left:
            self._end_now()

    def _end_now(self):
        error, self._failure = self._failure, None
        self._is_ending = False
        if error is not None and self.ends is ENDS_WELL:
            self.ends = ENDS_WITH_ERROR
        super().end(error, was_seen=False)

    def forget(self):
        self.stop_timer()

    # For the AsCompleted

    def leave(self):
        """They never end any more: what they would end with is not wanted, either."""
        self.stop_timer()
        self._is_ending = False
        self._failure = None
        super().leave()
        self._retrieve_unseen()

    @property
    def have_failed(self):
        """Whether somebody is to be told, if there is nothing to take."""
        return self.ends is not ENDS_WELL and not self.is_left

    def stop_timer(self):
        timer, self.timer = self.timer, None
        try:
            if timer is not None:
                timer.cancel()
        except Exception as error:
            Unraisable(error)

    def _retrieve_unseen(self):
        """Nobody is to hear of what these Tasks have raised."""
        unseen = [task for task in self._unseen.values() if task.done()]
        for task in unseen:
            del self._unseen[id(task)]
            retrieve(task)

    # For consumers

    def take(self):
        task = super().take()
        if task is not EMPTY and self._unseen.pop(id(task), None) is not None and isinstance(task, Task):
            task.is_handed_out = True
        return task


def _is_done(task):
    """Whether it is; one that cannot say is taken for it."""
    try:
        return task.done()
    except Exception as error:
        Unraisable(error)
        return True


def _future_of(loop, outcome):
    """Return a Future that has come to what an item did for which there is no Task."""
    future = loop.create_future()
    if isinstance(outcome.error, CancelledError):
        future.cancel()
    elif outcome.error is not None:
        future.set_exception(outcome.error)
    else:
        future.set_result(outcome.value)
    return future
