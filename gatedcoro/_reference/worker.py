"""The coroutine of one Task.  Twin of src/engine/worker.h.

It drives one item and reports how that ended; the next item starts in the same step or, where turns are full, in the next turn of
the event loop.
"""

import inspect

from .call import INTERRUPTS, Unraisable, raisable
from .compat import CALL_GRAPH_NEEDS_FRAMES, HAS_AWAITED_BY
from .coroutine import CoroutineObject
from .current import AsCurrentTask
from .gathering import TASKS_BY_LOOP
from .item import ITEM_HANDED_OUT, close_item, coroutine_of, is_future_of, run_item
from .running import Child
from .sink import Outcome
from .state import cancelled_error, current_task, discard_from_awaited_by, iscoroutine, isfuture
from .task import error_of_start, retrieve, start_eagerly
from .watcher import HandedOutWatcher


def child_for(gathering, index, item):
    """Return what runs the item: a worker, or who watches it, if it is a Future that is handed out and need not hold a gate."""
    waits = gathering.source.kind is ITEM_HANDED_OUT and is_future_of(item, gathering.loop)
    if waits and not gathering.limit.gates:
        return HandedOutWatcher(gathering, index, item)
    return Worker(gathering, index, item, waits=waits)


class Worker(Child, CoroutineObject):
    """To those who look at its Task it answers as the item's own coroutine would."""

    def __init__(self, gathering, index, item, *, waits):
        super().__init__(gathering, index)
        self.item = item  # until the item is started
        self.waits = waits  # the item is a Future of the caller's, who gets that
        self._callers_future = item if waits else None
        self.kind = gathering.source.kind
        self.coroutine = None  # the user's own, as soon as there is one
        self.awaited_future = item if isfuture(item) and not waits else None
        self._is_being_made = False  # its Task is
        self._is_being_closed = False  # by close()
        self._is_being_stepped = False  # else its body ends only when it goes
        self._began_when_made = False  # its first step was no turn of its own
        self._has_suspended = False
        self._is_kept = False  # the sink has its Task
        self._body = None
        self._take_names_of(item)
        self.coroutine = coroutine_of(self.kind, item)

    def _take_names_of(self, item):
        self.__qualname__ = self.__name__ = type(item).__name__
        try:
            self.__qualname__ = getattr(item, "__qualname__", self.__qualname__)
            self.__name__ = getattr(item, "__name__", self.__qualname__)
        except Exception:  # a proxy of what is not there
            pass

    # Its Task

    def start(self):
        """Make the Task; one of our making runs its first step now."""
        self._is_being_made = True
        try:
            self._make_task()
        except BaseException as error:
            if self._is_running():
                # Nobody will take the Task's next step.
                try:
                    self.close()
                except BaseException as refusal:
                    Unraisable(refusal)
                if self._is_running():
                    self._end_without_step(error_of_start(error), has_task=False)
            if isinstance(error, INTERRUPTS):
                raise

    def _is_running(self):
        return self.gathering is not None

    def _make_task(self):
        gathering = self.gathering
        context = gathering.context.copy()
        try:
            if gathering.task_origin is TASKS_BY_LOOP:
                with AsCurrentTask(gathering.loop, gathering.parent):
                    task = context.run(gathering.loop.create_task, self)
                task._log_destroy_pending = False
                task.add_done_callback(self._task_done)
            else:
                task = start_eagerly(self, gathering.loop, context)
        finally:
            self._is_being_made = False
            del context  # what an item puts there goes with the item
        if self._is_running():
            self.attach(task)
            if self._was_closed:  # by who made the Task, and may have made none
                self._end_closed()
            else:
                self.deliver_cancellation()
        del task  # the frame of a traceback leads to this one

    def _task_done(self, task):
        """The done callback of a Task that is not of our making.

        Its maker may have wrapped this coroutine, and then the Task may have ended without it:
        cancelled before the first step, say.  What the Task came to is then the item's outcome,
        be it that it cannot say.  A worker that had begun is left to whoever drives it, and
        reports nothing any more.
        """
        gathering = self.gathering
        if gathering is None:
            if not self._is_kept:
                retrieve(task)
            return
        if self._body is None:
            self.close()
        index = self.index
        gathering.ends(self)
        outcome = Outcome.of_future(task)
        outcome.task, outcome.task_is_done = task, True
        gathering.deliver(index, outcome)
        gathering.pump()

    def detach(self):
        super().detach()
        self.awaited_future = self._callers_future = None

    def leave_call_graph_of_future(self):
        """The call is over: a Future that is awaited in its name must not show that (gh-157213)."""
        future, self.awaited_future = self.awaited_future, None
        if HAS_AWAITED_BY and future is not None and self.task is not None:
            discard_from_awaited_by(future, self.task)

    # Its steps

    def send(self, value):
        if self._body is None:
            if value is not None:
                raise TypeError("can't send non-None value to a just-started coroutine")
            self._body = self._drive()
            self._began_when_made = self._is_being_made
        elif self._was_closed:
            self._end_closed()
        was_stepped, self._is_being_stepped = self._is_being_stepped, True
        try:
            return self._suspends_on(self._body.send(value))
        finally:
            self._is_being_stepped = was_stepped

    def throw(self, *exception):
        outcome = None
        was_stepped, self._is_being_stepped = self._is_being_stepped, True
        try:
            if self._was_closed:
                self._end_closed()
            if self._body is not None:
                return self._suspends_on(self._body.throw(*exception))
            try:
                self._body = self._drive()
                return self._body.throw(*exception)
            except BaseException as thrown:
                outcome = Outcome.of_error(thrown)
            # Outside the handler: what starts next must not get this error as its context.
            self._never_started(outcome.error)
            raise outcome.error
        finally:
            self._is_being_stepped = was_stepped
            del exception, outcome  # a traceback may hold this frame

    def _suspends_on(self, yielded):
        self._has_suspended = True
        return yielded

    def close(self):
        """Close the item.  The Task does not end: it finds that in its next step."""
        if self._body is None:
            self._body = self._drive()
            self._body.close()
            self._close_unstarted_item()
        elif self._body.cr_frame is not None:
            self._is_being_closed = True
            try:
                self._body.close()
            finally:
                self._is_being_closed = False

    def give_up(self):
        """It is not to start after all."""
        self.gathering = None
        self.close()

    def __del__(self):
        # The Task goes, and so does the loop that ran it.
        body = getattr(self, "_body", self)
        if body is None:
            self.close()
        elif getattr(body, "cr_running", False):  # called by hand
            Unraisable(ValueError("coroutine already executing"))
            return
        if getattr(self, "gathering", None) is not None:
            self.gathering.child_lost(self)

    async def _drive(self):
        gathering = self.gathering
        runs_in = current_task(gathering.loop)
        if runs_in is None or runs_in is not gathering.parent:  # else who makes the Task makes this step, too
            self.attach(runs_in)
        del runs_in  # a traceback may hold this frame
        try:
            if gathering.limit.gates:
                self._check_in_time()
                outcome = Outcome(await self._run_behind(gathering, gathering.limit.gates))
            else:
                outcome = Outcome(await run_item(self.kind, self.item, self))
        except StopIteration as stop:  # as in any coroutine
            outcome = Outcome.of_error(raisable(stop))
        except BaseException as raised:
            outcome = Outcome.of_error(raised.with_traceback(raised.__traceback__.tb_next))
        # Outside the handler: what starts next must not get this error as its context.
        try:
            self._close_unstarted_item()
            if self._is_being_closed:
                self.awaited_future = None
            elif self.gathering is None:
                pass  # its Task has ended without it
            elif self._is_being_stepped:
                outcome = self._without_slot(outcome)
                self._deliver(outcome)
                # A Task that takes turns of its own gives its successor one, too.
                had_suspended = self._has_suspended and self._began_when_made
                gathering.go_on_after(outcome.error, had_suspended=had_suspended)
            else:  # the Task was destroyed; this is not one of its steps
                gathering.child_lost(self)
            if outcome.error is not None:
                raise outcome.error
            return outcome.value
        finally:
            del outcome  # a traceback may hold this frame

    def _without_slot(self, outcome):
        """Give the slot back, and return what comes of the item: an error in that is the item's, as where `async with` is left."""
        try:
            self.gathering.limit.slots.give_back(self)
            return outcome
        except BaseException as error:
            error.__context__ = outcome.error
            return Outcome.of_error(error.with_traceback(error.__traceback__.tb_next))
        finally:
            del outcome  # a traceback may hold this frame

    async def _run_behind(self, gathering, gates):
        value = None  # if a gate suppresses the item's error
        async with gates[0]:
            if len(gates) > 1:
                value = await self._run_behind(gathering, gates[1:])
            else:
                gathering.gates_passed(self)
                value = await run_item(self.kind, self.item, self)
        return value

    def begins(self):
        """The item starts now: nothing that makes an object comes between."""
        if self.gathering is not None and not self.gathering.limit.gates:
            self._check_in_time()
        self.item = None

    def runs(self, awaitable):
        """Answer for *awaitable*, which a function has returned, from now on."""
        self._take_names_of(awaitable)
        if iscoroutine(awaitable):
            self.coroutine = awaitable

    def _check_in_time(self):
        """Refuse to begin if the queue has been closed since the item was taken.

        The Task then ends as one that was cancelled before its first step.  A Task of the
        loop's begins in a turn of its own, and can be cancelled until then.
        """
        gathering = self.gathering
        in_this_step = (
            gathering.task_origin is not TASKS_BY_LOOP
            or self._is_being_made
            or getattr(self.task, "_must_cancel", False)
        )
        if gathering.source.is_stopped and in_this_step:
            raise cancelled_error(gathering.cancel_message)

    # Its end

    def _deliver(self, outcome, *, has_task=True):
        """The item has ended with *outcome*; unless *has_task*, nobody makes a step of its Task any more."""
        gathering, task = self.gathering, self.task
        if outcome.error is None and task is not None and getattr(task, "_must_cancel", False):
            # A cancellation came while the item ran; the Task will end cancelled.
            outcome = Outcome.of_cancellation(task._cancel_message)
        if self.waits and outcome.error is None:
            outcome.task, outcome.is_callers = self._callers_future, True
        elif has_task:
            outcome.task = task
        gathering.ends(self)
        try:
            gathering.deliver(self.index, outcome)
        finally:
            self._is_kept = outcome.is_kept
            del outcome, task  # a traceback may hold this frame

    def _end_without_step(self, error, *, has_task=True):
        """The item ends with *error* outside of any step; start what may start now."""
        gathering = self.gathering
        self._deliver(Outcome.of_error(error), has_task=has_task)
        gathering.go_on_after(error)

    @property
    def _was_closed(self):
        """Whether somebody closed it by hand and its Task has yet to find out."""
        return self._body is not None and self._body.cr_frame is None and self.gathering is not None

    def _end_closed(self):
        """The item's outcome is what the Task's next step raises."""
        self._end_without_step(RuntimeError("cannot reuse already awaited coroutine"))

    def _never_started(self, error):
        """The Task was cancelled, or could not be made, before the first step."""
        if self._body is None:
            self._body = self._drive()
            self._body.close()
        self._close_unstarted_item()
        self._end_without_step(error)

    def _close_unstarted_item(self):
        item, self.item = self.item, None
        if item is not None:
            close_item(self.kind, item)

    # What the item's coroutine says of itself

    def _awaits(self):
        return None if self._body is None else self._body.cr_await

    def _ask(self, name):
        if name == "cr_state":
            return inspect.CORO_CREATED if self._body is None else inspect.getcoroutinestate(self._body)
        if name in ("cr_running", "cr_suspended"):
            return self._body is not None and getattr(self._body, name)
        if name == "cr_await" and CALL_GRAPH_NEEDS_FRAMES and self.cr_frame is None:
            raise AttributeError("cr_await")
        of_generator = {"cr_frame": "gi_frame", "cr_code": "gi_code"}.get(name)
        default = None if of_generator is None else getattr(self.coroutine, of_generator, None)
        return getattr(self.coroutine, name, default)
