"""The Task that goes through an async iterable.  Twin of src/engine/iteration.h.

UNBEGUN ----> AT_WORK <----> IDLE      IDLE: until an element is wanted; else the iterable has been asked
   |             |            |        for one
   +---------> CLOSING <------+        its aclose() has been called, or what it was asked for is being cancelled
                 |
AT_WORK ------> OVER

Every step of the iterable is one of this Task, and in its one context: a timeout, a cancel scope or a context variable
inside an async generator needs that.  A pass that wants an element has the Task make a step in the middle of that
of another one, if that can be; so an iterable that does not suspend costs no turn of the event loop.  What arrives after a
suspension starts a pass of its own.
"""

import enum
import inspect

from .call import INTERRUPTS, Unraisable
from .compat import CALL_GRAPH_NEEDS_FRAMES
from .coroutine import CoroutineObject
from .current import AsCurrentTask
from .gathering import TASKS_BY_LOOP
from .item import ITEM_CALLABLE, Call, close_item
from .sink import Outcome
from .source import SOURCE_OPEN, SOURCE_WAITING, TAKE_LATER, TAKE_NONE, Source
from .state import EMPTY, CancelledError, current_task
from .waiter import _Waiter


class IterationPhase(enum.Enum):
    UNBEGUN = "its Task has made no step yet"
    AT_WORK = "the iterable has been asked for an element"
    IDLE = "it waits until an element is wanted"
    CLOSING = "nothing is wanted any more; the iterable is being closed"
    OVER = "it has ended"


UNBEGUN, AT_WORK, IDLE, CLOSING, OVER = IterationPhase


class AsyncIterable(Source, CoroutineObject):
    """An async iterable of functions that return awaitables, or of arguments for one, or of awaitables; and the coroutine of its Task."""

    closes_at_once = False
    takes_turns = may_be_endless = True

    def __init__(self, iterable, context, function=None, kind=ITEM_CALLABLE):
        """*iterable* is a list, out of which it is taken."""
        super().__init__(kind)
        self.__name__ = self.__qualname__ = "gatedcoro.source"
        self._function = function
        self._iterable = iterable.pop()
        self.iterator = None
        self._context = context  # of which the Task's is a copy
        self._gathering = None
        self._task = None
        self._waiter = None
        self._phase = UNBEGUN
        self._pending = None  # the coroutine that is driven: it asks for an element, or closes
        self._closes_iterator = False  # that it is the latter
        self._is_stepping = False
        self._is_taken_from = False  # by a pass, which has this step made
        self._yielded = EMPTY  # what the step is to end with: None, too, may be
        self._element = EMPTY  # that has arrived, and is to be taken
        self._failure = None  # that the iterable has raised, and is to be told
        self._position = 0
        self.state = SOURCE_WAITING

    @property
    def position(self):
        return self._position

    def begin(self, gathering):
        """Make the Task, and return whether passes ask it: else its first step asks for an element itself."""
        self._gathering = gathering
        self._waiter = _Waiter(gathering.loop)
        context, self._context = self._context, None
        try:
            with AsCurrentTask(gathering.loop, gathering.parent):
                task = context.run(gathering.loop.create_task, self)
            task._log_destroy_pending = False
            task.add_done_callback(self._task_done)
        except BaseException:
            self._be_over()
            raise
        task._log_destroy_pending = False  # the collector may find it idle, with all that would wake it
        if self._phase is not OVER:
            self._task = task
        return gathering.task_origin is not TASKS_BY_LOOP

    def _task_done(self, task):
        """The Task has ended, which its maker may have wrapped this in: without it, or in the middle of it, then."""
        error = Outcome.of_future(task).error
        if self._phase is UNBEGUN and error is not None:
            self._was_cancelled_unbegun(error)
        elif not self._is_stepping:
            self.close()

    # For the gathering

    def runs_in(self, task):
        return task is not None and self._task is task

    def _draw(self):
        if self._element is EMPTY and self._failure is None:
            if self._phase is IDLE:
                self._ask_in_a_step_of_its_own()
            elif self._phase is AT_WORK and self._is_in_own_step():
                self._go_on(None)
                if self._element is not EMPTY and self._is_resumed_at_once():
                    self._gathering.schedule_pump()  # as in C, where Tasks are used again in that
                    return TAKE_LATER
        if self._failure is not None:
            failure, self._failure = self._failure, None
            try:
                raise failure
            finally:
                del failure  # a traceback holds this frame
        if self._element is EMPTY:
            return TAKE_NONE if self._phase is OVER else TAKE_LATER
        element, self._element = self._element, EMPTY
        index = self._position
        self._position += 1
        return index, element if self._function is None else Call(self._function, element)

    def _is_resumed_at_once(self):
        return self._gathering.task_origin is not TASKS_BY_LOOP

    def _ask_in_a_step_of_its_own(self):
        if not self._is_resumed_at_once():
            self.state = SOURCE_WAITING
            self._waiter.wake()
            return
        if self._waiter.is_woken:  # it was cancelled
            self.state = SOURCE_WAITING
            return
        self._is_taken_from = True
        try:
            self._waiter.resume()
        finally:
            self._is_taken_from = False

    def _is_in_own_step(self):
        """Whether this runs in a step of the Task's, and not in that of an item that starts in the middle of it."""
        return self._is_stepping and self._yielded is EMPTY and current_task(self._gathering.loop) is self._task

    def begin_closing(self):
        """The source has been stopped: cancel what the iterable has been asked for, and close it."""
        self._drop_element()
        if self._phase is IDLE:
            self._waiter.wake()
        elif self._phase is AT_WORK and not self._is_stepping:
            self._phase = CLOSING
            self._task.cancel()

    def cancel_closing(self, msg):
        """Pass a cancellation on to the closing."""
        if self._phase is not OVER and self._task is not None and not self._is_stepping:
            self._task.cancel(msg=msg)

    def close_one(self):
        """The event loop will not run again, or does not make the next step: let go of everything."""
        pending, self._pending = self._pending, None
        self._be_over()
        del pending

    # Its steps

    def send(self, value):
        return self._step(None)

    def throw(self, *exception):
        error = exception[0]
        if isinstance(error, type):
            error = error(*exception[1:2])
        try:
            return self._step(error)
        finally:
            del exception, error  # a traceback may hold this frame

    def close(self):
        """Its Task goes, and so does the event loop; or somebody does this by hand."""
        if self._phase is OVER:
            return
        if self._is_stepping:
            raise ValueError("coroutine already executing")
        gathering, self._gathering = self._gathering, None
        pending, self._pending = self._pending, None
        self._be_over()
        if gathering is not None:
            gathering.source_is_lost()
        if pending is not None:
            pending.close()

    def __del__(self):
        try:
            self.close()
        except BaseException as error:
            Unraisable(error)

    def _step(self, error):
        gathering = self._gathering
        if self._phase is OVER and gathering is None:
            raise RuntimeError("cannot reuse already awaited coroutine")
        if self._phase is OVER:  # it has been let go of meanwhile
            self._gathering = None
            gathering.source_is_over()
            raise StopIteration
        if self._is_stepping:
            raise ValueError("coroutine already executing")
        if self._phase is UNBEGUN and error is not None:
            self._was_cancelled_unbegun(error)
            raise error
        self._is_stepping = True
        try:
            if self._task is None:
                self._task = current_task(gathering.loop)
            if self._phase is CLOSING:
                self._close_on(error)
            elif self.is_stopped and self._pending is None:
                self._close_on(None)
            elif self._phase is not UNBEGUN or not self._is_resumed_at_once():  # else a pass is to come, which asks
                self._phase = AT_WORK
                if self.state is SOURCE_WAITING:
                    self.state = SOURCE_OPEN
                self._go_on(error)
                if not self._is_taken_from:
                    self._tell(gathering)
                if self.is_stopped and self._phase is AT_WORK:
                    self._be_closing()
            return self._end_step()
        except INTERRUPTS:
            if self._phase is not OVER:  # its own, or an item's in the pass that it runs: the Task dies with it
                self._be_over()
                gathering.source_is_lost()
            raise
        finally:
            self._is_stepping = False
            if self._phase is OVER:
                self._gathering = None
                if not self._is_taken_from:
                    gathering.source_is_over()
            del error

    def _was_cancelled_unbegun(self, error):
        """Its Task was cancelled before the first step."""
        gathering = self._gathering
        closing = self._aclose()
        try:
            closing.send(None)
        except StopIteration:
            pass
        except BaseException as failure:
            Unraisable(failure)
        finally:
            closing.close()
        self._be_over()
        self._gathering = None
        try:
            gathering.fail_call(error)
        finally:
            gathering.source_is_over()
            del error

    def _end_step(self):
        """Return what the Task is to wait for; it ends if the iteration is over."""
        yielded, self._yielded = self._yielded, EMPTY
        if yielded is not EMPTY:
            if self.state is SOURCE_OPEN:
                self.state = SOURCE_WAITING
            return yielded
        if self._phase is OVER:
            raise StopIteration
        self._phase = IDLE
        if self.state is SOURCE_WAITING:
            self.state = SOURCE_OPEN
        self._waiter._asyncio_future_blocking = True
        return self._waiter

    def _go_on(self, error):
        """Ask the iterable for an element, or go on with that."""
        if self._element is not EMPTY and error is None:  # nobody wants another one
            return
        try:
            if self._pending is None and error is not None:  # it was cancelled while it was idle
                self._pending = self._throw(error)
                error = None
            elif self._pending is None:
                self._pending = self._next()
            element = self._drive(error)
        except INTERRUPTS as interrupt:
            self._be_over()
            if not self._is_taken_from:
                self._gathering.fail_call(interrupt)
            raise
        except BaseException as failure:
            self._failure = failure
            self._close_on(None)
            return
        finally:
            del error
        if self._pending is not None:
            return
        if element is EMPTY:
            self._be_over()
        else:
            self._element = element
            if self.is_stopped:
                self._drop_element()

    def _drop_element(self):
        """What has arrived never starts."""
        element, self._element = self._element, EMPTY
        if element is not EMPTY:
            close_item(self.kind, element)

    def _drive(self, error):
        """Make a step of what is pending, and return what it returns; what it yields is what the Task waits for."""
        try:
            self._yielded = self._pending.send(None) if error is None else self._pending.throw(error)
        except StopIteration as stop:
            self._pending = None
            return stop.value
        except BaseException:
            self._pending = None
            raise
        finally:
            del error

    async def _next(self):
        if self.iterator is None:
            iterable, self._iterable = self._iterable, None  # if that fails, there is nothing to close
            try:
                self.iterator = aiter(iterable)
            finally:
                del iterable
        try:
            return await anext(self.iterator)
        except StopAsyncIteration:
            return EMPTY

    async def _throw(self, error):
        """Have a generator raise *error* where it stands, so that a timeout in there gets its cancellation."""
        try:
            athrow = getattr(self.iterator, "athrow", None)
            if athrow is None:
                raise error
            return await athrow(error)
        except StopAsyncIteration:
            return EMPTY
        finally:
            del error

    def _tell(self, gathering):
        """Tell the gathering what has come of a step that it has not asked for."""
        if self._failure is not None:
            failure, self._failure = self._failure, None
            gathering.fail_call(failure)
        elif self._element is not EMPTY:
            gathering.pump()

    # Its end

    def _be_closing(self):
        """The source has been stopped in this step."""
        if self._pending is None:
            self._close_on(None)
        else:
            self._phase = CLOSING
            self._task.cancel()

    def _close_on(self, error):
        """Go on with closing: what the iterable was asked for comes to its end first."""
        self._phase = CLOSING
        try:
            if not self._closes_iterator:
                if self._pending is not None and not self._drive_to_its_end(error):
                    return
                error = None
                self._closes_iterator = True
                self._pending = self._aclose()
            if self._drive_to_its_end(error):
                self._be_over()
        finally:
            del error  # a traceback may lead to this frame

    def _drive_to_its_end(self, error):
        """Make a step of what is pending, and return whether it was the last."""
        try:
            element = self._drive(error)
            if self._pending is None and not self._closes_iterator:
                self._element = element
                self._drop_element()
        except CancelledError:
            pass
        except INTERRUPTS:
            self._be_over()
            raise
        except BaseException as failure:
            self._gathering.cleanup_failed(failure)
        finally:
            del error
        return self._pending is None

    async def _aclose(self):
        iterator = self.iterator
        if iterator is None and hasattr(type(self._iterable), "__anext__"):
            iterator = self._iterable  # it has not been asked for anything yet
        self._iterable = self.iterator = None
        aclose = getattr(iterator, "aclose", None)
        if aclose is not None:
            await aclose()

    def _be_over(self):
        self._phase = OVER
        self._iterable = self.iterator = self._context = self._waiter = self._task = None
        self._ended()
        self._drop_element()

    # What it answers to those who look at it

    def _awaits(self):
        return None if self._phase is UNBEGUN or self._phase is OVER else self._pending or self._waiter

    def _ask(self, name):
        if name == "cr_state":
            return self._coroutine_state()
        if name == "cr_running":
            return self._is_stepping
        if name == "cr_suspended":
            return self._coroutine_state() == inspect.CORO_SUSPENDED
        if name == "cr_await" and CALL_GRAPH_NEEDS_FRAMES:
            raise AttributeError("cr_await")
        return self._awaits() if name == "cr_await" else None

    def _coroutine_state(self):
        if self._is_stepping:
            return inspect.CORO_RUNNING
        return {UNBEGUN: inspect.CORO_CREATED, OVER: inspect.CORO_CLOSED}.get(self._phase, inspect.CORO_SUSPENDED)
