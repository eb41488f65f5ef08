"""What runs for a gathering.  Twin of src/engine/running.h."""

import enum
import math

from .call import Unraisable


class RunState(enum.Enum):
    STARTING = "there is no Task yet"
    CANCEL_PENDING = "it was cancelled when there was no Task yet; that is yet to be told the Task"
    RUNNING = "it has a Task"
    WATCHED = "the caller's own runs; what is cancelled is only that it is waited for"


RUN_STARTING, RUN_CANCEL_PENDING, RUN_RUNNING, RUN_WATCHED = RunState


class Child:
    """One thing that runs: a worker (worker.py), or a Future that is watched (watcher.py)."""

    def __init__(self, gathering, index, task=None):
        self.gathering = gathering  # None once it has ended
        self.index = index
        self.task = task  # the Task or Future, while it runs
        self.state = RUN_STARTING if task is None else RUN_RUNNING
        self.awaiter = None  # the Task that is shown as awaiting that
        self.has_slot = False  # of a semaphore that its gathering counts
        self._cancel_message = None

    def attach(self, task):
        """It runs in *task* from now on: the first call counts."""
        if self.task is not None or self.gathering is None:
            return
        self.task = task
        if self.state is RUN_STARTING:
            self.state = RUN_RUNNING
        self.gathering.join_call_graph(self)

    def cancel(self, msg):
        """Cancel the Task; remember it if there is no Task yet."""
        if self.task is None:
            self.state, self._cancel_message = RUN_CANCEL_PENDING, msg
            return True
        return self.task.cancel(msg=msg)

    def deliver_cancellation(self):
        """Cancel the Task if that was asked for before there was one."""
        if self.state is RUN_CANCEL_PENDING and self.task is not None:
            self.state = RUN_RUNNING
            self.task.cancel(msg=self._cancel_message)

    def detach(self):
        """It has ended."""
        self.task = self.gathering = None

    def leave_call_graph_of_future(self):
        """The call is over: what is awaited in its name must not show that."""


class Running:
    """All that runs, in the order of start.

    What has ended counts until its outcome has been dealt with, but is not cancelled any more.
    """

    def __init__(self):
        self._children = {}  # the values are None
        self._ending = 0

    def __len__(self):
        return len(self._children) + self._ending

    def __iter__(self):
        return iter(list(self._children))

    def __contains__(self, child):
        return child in self._children

    def add(self, child):
        self._children[child] = None

    def remove(self, child):
        self._children.pop(child, None)

    def begin_ending(self, child):
        self._ending += 1
        self.remove(child)

    def end_ending(self):
        self._ending -= 1

    def cancel_all(self, msg, failures=None, *, after=-1, before=math.inf):
        """Cancel everything that runs and has an index between *after* and *before*; return whether anything could be.

        What a cancel() raises goes into *failures*, or is reported; the rest is cancelled
        all the same.
        """
        accepted = False
        for child in self:
            try:
                if after < child.index < before and child in self and child.cancel(msg):
                    accepted = True
            except BaseException as error:
                if failures is None:
                    Unraisable(error)
                else:
                    failures.append(error)
        return accepted
