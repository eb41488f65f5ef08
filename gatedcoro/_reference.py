"""The contract of gatedcoro in plain Python: its executable specification.

One call is a *gathering*.  It takes *items* (awaitables, or callables that make them)
from a *source*, runs each in a Task of its own, never more of them at once than the
limit allows, and settles one *outer future* with their results or the first error.

    source                worker (one per running item)            outer future
    ------                -----------------------------            ------------
    items not started --> drives its item in its own Task  ------> results, or an error
       ^                        |  ends
       +------------------------+  and starts the next item in the same step

The C extension behaves alike, turn of the event loop by turn.  The sections:

    what is used of asyncio
    coroutine objects     what the awaitable functions return
    the outer future      what a caller waits for; its cancel() reaches the items
    sources               where items come from
    workers and Tasks     how one item runs
    the keeper            a Task that stands for the queue
    the gathering         the engine
    semaphores            asyncio.Semaphore without the slots that it loses or gains
    public functions
"""

import contextvars
import importlib
import inspect
import operator
import sys
import threading
import time
import types

from gatedcoro import _environment

__all__ = ["constrained_execution", "gated_coro", "gather", "gather_with_concurrency", "run_all"]

SLICE = 0.001
"""Seconds that starting or closing items may take before the event loop gets a turn."""

_VERSION = sys.version_info[:3]
_EAGER_TASKS_WORK = _VERSION >= (3, 12, 5)  # gh-122332: get_coro() crashes before
_EAGER_TASKS_HIDE_ERRORS = (3, 12) <= _VERSION < (3, 14)  # as the cause of a SystemError
_SEMAPHORE_GAINS_SLOTS = _VERSION < (3, 13)  # gh-111693
_CALL_GRAPH_NEEDS_FRAMES = (3, 14, 0) <= _VERSION < (3, 14, 8)  # gh-156408

_INTERRUPTS = (KeyboardInterrupt, SystemExit)
_EMPTY = object()

_clock = time.monotonic
_task_reuse = _environment.task_reuse()


def _set_clock(clock):
    """For tests: measure slices with *clock*, a callable; None restores time.monotonic."""
    global _clock
    _clock = time.monotonic if clock is None else clock


def _set_task_reuse(enabled):
    """For tests: remember *enabled* and return the previous value; no Task is reused here."""
    global _task_reuse
    previous, _task_reuse = _task_reuse, bool(enabled)
    return previous


# What is used of asyncio ----------------------------------------------------------------
#
# Somebody may have replaced any of it, by an instrumented version or by an object of another kind, and may do so later.


def _module(name):
    try:
        return importlib.import_module(name)
    except ImportError:  # PyPy has no _asyncio
        return None


def _is_class(value):
    return isinstance(value, type)


def _taken(name, *modules, is_right=callable):
    """Return what *modules* have by that name: of the first one where it is of the right kind."""
    for module in modules:
        value = getattr(_module(module), name, None)
        if is_right(value):
            return value
    found = getattr(_module(modules[0]), name, None)
    raise ImportError(f"gatedcoro needs {modules[0]}.{name}; it is {found!r}")


def _taken_class(name, *modules):
    return _taken(name, *modules, is_right=_is_class)


def _defines(cls, method, module):
    """Whether the class itself defines *method*, written in *module*."""
    return getattr(vars(cls).get(method), "__globals__", None) is vars(_module(module))


def _taken_class_of(name, module, method):
    """Return the class of that name, or that one of its bases that defines *method*, written in *module*."""
    found = getattr(_module(module), name, None)
    for cls in getattr(found, "__mro__", ()) if _is_class(found) else ():
        if _defines(cls, method, module):
            return cls
    raise ImportError(f"gatedcoro needs {module}.{name}; it is {found!r}")


def _taken_create_task():
    """Return how asyncio's own loops make Tasks; None if something else stands in its place."""
    try:
        return _taken_class_of("BaseEventLoop", "asyncio.base_events", "create_task").create_task
    except ImportError:
        return None


def _taken_semaphores():
    """Return asyncio's two semaphore classes; none if something else stands in their place."""
    try:
        plain = _taken_class_of("Semaphore", "asyncio.locks", "acquire")
        return plain, _taken_class_of("BoundedSemaphore", "asyncio.locks", "release")
    except ImportError:
        return ()


def _call_graph_function(name):
    """Return a function that calls the one of the call graph of 3.14+ that is there by then, and reports what it raises."""

    def change_edge(future, awaiter):
        function = getattr(_module("asyncio.futures"), name, None)
        try:
            if callable(function):  # else something stands in its place
                function(future, awaiter)
        except BaseException as error:
            _Unraisable(error)

    return change_edge


def _class_of_cancellations():
    """Return the class of the exceptions that Futures raise."""

    class Loop:
        def get_debug(self):
            return False

    try:
        return type(_Future(loop=Loop())._make_cancelled_error())
    except TypeError as error:
        raise ImportError(f"gatedcoro needs asyncio.exceptions.CancelledError: {error}") from error


_Coroutine = _taken_class_of("Coroutine", "_collections_abc", "send")
_deque = _taken_class("deque", "_collections", "collections")
_Future = _taken_class("Future", "_asyncio", "asyncio.futures")
_Task = _taken_class("Task", "_asyncio", "asyncio.tasks")
_AcceleratedTask = getattr(_module("_asyncio"), "Task", _EMPTY)
_CancelledError = _class_of_cancellations()
_semaphores = _taken_semaphores()
_current_task = _taken("current_task", "asyncio.tasks", "_asyncio")
_enter_task = _taken("_enter_task", "_asyncio", "asyncio.tasks")
_leave_task = _taken("_leave_task", "_asyncio", "asyncio.tasks")
_get_event_loop = _taken("get_event_loop", "asyncio.events", "_asyncio")
_get_running_loop = _taken("get_running_loop", "asyncio.events", "_asyncio")
_running_loop_or_none = _taken("_get_running_loop", "asyncio.events", "_asyncio")
_isawaitable = _taken("isawaitable", "inspect")
_iscoroutine = _taken("iscoroutine", "asyncio.coroutines", "asyncio")
_isfuture = _taken("isfuture", "asyncio.futures", "asyncio.base_futures")
_add_to_awaited_by = _call_graph_function("future_add_to_awaited_by")
_discard_from_awaited_by = _call_graph_function("future_discard_from_awaited_by")


# Coroutine objects ----------------------------------------------------------------------


def _close_item(item, *, begun_too=False):
    """Close a coroutine that is given up; release anything else.

    One that runs is not ours to close, nor is one that somebody else awaits: it has begun,
    and unless *begun_too*, was not given to go on with.  An exception out of close() is
    reported as one that could not be raised.
    """
    if not isinstance(item, _Coroutine):
        return
    try:
        if getattr(item, "cr_running", False):
            return
        if not begun_too and getattr(item, "cr_await", None) is not None:
            return
        item.close()
    except BaseException as error:
        _Unraisable(error)


class _Unraisable:
    """Hands an error to sys.unraisablehook, which takes it from finalizers only."""

    def __init__(self, error):
        self._error = error

    def __del__(self):
        raise self._error


def _is_closed(loop):
    try:
        return loop.is_closed()
    except Exception as error:  # it may still do what it is asked to
        _Unraisable(error)
        return False


class _Unstarted:
    """Items that nothing has started yet; they are closed unless somebody takes them.

    Those of our coroutines among them that never began are opened up in a loop, whatever
    the depth of such a chain: they, too, close what they hold.  What is closed may drop
    others of ours; these join the loop that is under way in their thread.
    """

    _loop_under_way = threading.local()

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def take(self):
        items, self.items = self.items, ()
        return items

    def close(self):
        if not self.items:
            return
        under_way = getattr(self._loop_under_way, "queue", None)
        if under_way is not None:
            under_way.extend(self.take())
            return
        queue = self._loop_under_way.queue = _deque(self.take())
        try:
            while queue:
                item = queue.popleft()
                if isinstance(item, _FrontDoor):
                    item.give_up_if_it_never_started()
                else:
                    _close_item(item)
                del item  # what goes with it joins the loop, too
        finally:
            self._loop_under_way.queue = None


class _CoroutineObject(_Coroutine):
    """A coroutine that is its own iterator and refuses to be awaited twice at once."""

    def __await__(self):
        if self._awaits() is not None:
            raise RuntimeError("coroutine is being awaited already")
        return self

    def __iter__(self):
        return self

    def __next__(self):
        return self.send(None)

    def _awaits(self):
        """Return what the coroutine is suspended on, None if it is not suspended."""
        raise NotImplementedError


class _FrontDoor(_CoroutineObject):
    """What the awaitable public functions return.

    It wraps a native coroutine, which gives it the whole coroutine protocol, and owes the
    items a close() should that coroutine never start.
    """

    def __init__(self, name, body, unstarted):
        body.__name__ = body.__qualname__ = self.__name__ = self.__qualname__ = name
        self._body = body
        self._unstarted = unstarted

    def send(self, value):
        return self._body.send(value)

    def throw(self, *exception):
        try:
            return self._body.throw(*exception)
        finally:
            del exception  # its traceback holds this frame
            self._close_if_it_never_started()

    def close(self):
        try:
            return self._body.close()
        finally:
            self._close_if_it_never_started()

    def _close_if_it_never_started(self):
        if self._body.cr_frame is None:  # the native coroutine has ended
            self._unstarted.close()

    def give_up_if_it_never_started(self):
        if inspect.getcoroutinestate(self._body) == inspect.CORO_CREATED:
            self._body.close()
            self._unstarted.close()

    def __del__(self):
        # The native coroutine warns on its own that it was never awaited.
        unstarted = getattr(self, "_unstarted", None)
        if unstarted is not None:
            unstarted.close()

    def __repr__(self):
        return f"<coroutine object {self.__qualname__} at {id(self):#x}>"

    def _awaits(self):
        return self._body.cr_await

    @property
    def cr_await(self):
        return self._body.cr_await

    @property
    def cr_frame(self):
        return self._body.cr_frame

    @property
    def cr_running(self):
        return self._body.cr_running

    @property
    def cr_suspended(self):
        return self._body.cr_suspended

    @property
    def cr_code(self):
        return self._body.cr_code

    @property
    def cr_origin(self):
        return self._body.cr_origin

    @property
    def cr_state(self):
        return inspect.getcoroutinestate(self._body)


# The outer future -----------------------------------------------------------------------


class _GatheringFuture(_Future):
    """What the caller waits for: cancel() cancels the items and leaves the rest to them."""

    def __init__(self, gathering, *, loop):
        super().__init__(loop=loop)
        self._gathering = gathering
        self._nobody_waits = False

    def cancel(self, msg=None):
        if self.done() or self._gathering is None:
            return False
        return self._gathering.cancel(msg)

    def abandon(self):
        """Nobody will look at the outcome: cancel what runs, and report no error."""
        self._nobody_waits = True
        if self._gathering is None:
            self._log_traceback = False
            return
        self._gathering.leave_call_graph_with_all()
        if _is_closed(self._loop):
            self._gathering.close_queue_at_once()
            return
        try:
            self._gathering.cancel(None)
        except BaseException as error:
            _Unraisable(error)

    def has_raised(self, error):
        """Whether *error* is that of the future, which has thrown it into who waits."""
        if not self.done():
            return False
        return isinstance(error, _CancelledError) if self.cancelled() else error is self.exception()

    def was_set_by_somebody(self):
        """Who waited goes on; so does what runs, and what is queued, as after an error."""
        if self._gathering is not None:
            self._gathering.lost_outer()

    def forget(self):
        """Keep no reference to the gathering, nor it to us: it has settled."""
        self._gathering = None

    def settle(self, results, error, *, was_seen):
        """End with *results* or *error*; one that *was_seen* is not reported, nor a cancellation."""
        if self.done():  # by somebody else
            return
        if error is None:
            self.set_result(results)
            return
        self.set_exception(error)
        if self._nobody_waits or was_seen or isinstance(error, _CancelledError):
            self._log_traceback = False


# Sources --------------------------------------------------------------------------------


class _Awaitables:
    """A source: a fixed sequence of awaitables.

    *layout*, when not None, says for each argument which of the distinct items it is.
    """

    def __init__(self, items, layout=None, as_asyncio_gather=False):
        self._items = _deque(enumerate(items))
        self._layout = layout
        self._arguments = None
        self._as_asyncio_gather = as_asyncio_gather
        self.results = [None] * len(items)

    @property
    def more(self):
        """False once the last item was taken."""
        return bool(self._items)

    def take(self):
        return self._items.popleft()

    def remove_futures(self):
        """Take out the Futures, which run already: a deque of pairs with their indexes."""
        futures = _deque(pair for pair in self._items if _isfuture(pair[1]))
        self._items = _deque(pair for pair in self._items if not _isfuture(pair[1]))
        return futures

    def close_one(self):
        self.close_item(self._items.popleft()[1])

    def close_item(self, item):
        """*item*, which has been taken or not, never starts."""
        _close_item(item, begun_too=self._as_asyncio_gather)

    def final_results(self):
        if self._layout is None:
            return self.results
        return [self.results[index] for index in self._layout]

    def argument_position(self, index):
        """Return which argument of the call an item is, its first where it was given twice."""
        if self._layout is None:
            return index
        if self._arguments is None:
            self._arguments = {}
            for argument, item in enumerate(self._layout):
                self._arguments.setdefault(item, argument)
        return self._arguments[index]

    @staticmethod
    def coroutine_of(item):
        return item if _iscoroutine(item) else None

    def wait_for(self, worker, item):
        """Return what the worker awaits in order to run *item*."""
        if self._as_asyncio_gather:
            driven = _as_asyncio_gather_drives_it(item)
        elif _is_to_be_unpacked(item):
            driven = _refuse_to_await(item)
        else:
            driven = _as_task_drives_it(item)
        worker.begins()
        return driven


class _Callables:
    """A source: an iterator of functions that return awaitables.

    The iterator is advanced when a slot is free.  Its end is only known when it has been
    reached.  All of its code runs in the same copy of the caller's context, that of its
    finalizer included: a generator is closed by being let go.
    """

    def __init__(self, functions, context):
        """*functions* is a list, out of which the iterable is taken."""
        self._context = context
        self._iterator = None
        self._taken = 0
        self.results = []
        context.run(self._open, functions)

    def __del__(self):
        self.close_one()

    def _open(self, functions):
        self._iterator = iter(functions.pop())

    @property
    def more(self):
        return self._iterator is not None

    def take(self):
        """Return the next index and function; _EMPTY instead of both at the end."""
        function = self._context.run(self._advance)
        if function is _EMPTY:
            return _EMPTY
        index = self._taken
        self._taken += 1
        self.results.append(None)
        return index, function

    def _advance(self):
        if self._iterator is None:  # it was let go in the meantime
            return _EMPTY
        try:
            function = next(self._iterator, _EMPTY)
        except BaseException:
            self._iterator = None
            raise
        if function is _EMPTY:
            self._iterator = None
        return function

    def close_one(self):
        """Let go of the iterator.

        Its context cannot be entered where it is already.  Then it is the iterator that runs,
        and what runs it has a reference, which goes in the context, too.  Out of reach is a
        generator that the collector finds in a cycle with us: it may finalize that first.
        """
        if self._iterator is None:
            return
        iterator, self._iterator = [self._iterator], None
        try:
            self._context.run(iterator.clear)
        except RuntimeError:
            iterator.clear()

    @staticmethod
    def close_item(function):
        """There is no coroutine yet."""

    def final_results(self):
        return self.results

    @staticmethod
    def argument_position(index):
        return index

    @staticmethod
    def coroutine_of(item):
        return None

    def wait_for(self, worker, function):
        return self._call(worker, function)

    @staticmethod
    async def _call(worker, function):
        note = f"raised by item {worker.index}"
        worker.begins()
        try:
            awaitable = function()
        except StopIteration as stop:
            error = RuntimeError("coroutine raised StopIteration")
            error.add_note(note)
            try:
                raise error from stop
            finally:
                del error
        except BaseException as error:
            error.add_note(note)
            raise
        worker.runs(awaitable)
        try:
            return await _as_task_drives_it(awaitable)
        except TypeError as error:
            if not _can_be_awaited(awaitable):
                error.add_note(note)
            raise


@types.coroutine
def _drive_await_method(awaitable):
    return (yield from awaitable.__await__())


class _TaskCoroutine:
    """Drives a coroutine as a Task does: from where it stands, and whether or not `await` would take it.

    So asyncio.capture_call_graph() inside the item ends at the item, not in this file.
    """

    def __init__(self, coroutine):
        self._coroutine = coroutine

    def __await__(self):
        return self

    def __next__(self):
        return self._coroutine.send(None)

    def send(self, value):
        return self._coroutine.send(value)

    def throw(self, *exception):
        try:
            return self._coroutine.throw(*exception)
        finally:
            del exception

    def close(self):
        return self._coroutine.close()


class _DrivenCoroutine(_TaskCoroutine):
    """Awaits a native coroutine."""

    def __await__(self):
        if self._coroutine.cr_await is not None:
            raise RuntimeError("coroutine is being awaited already")
        return self


def _as_task_drives_it(awaitable):
    """Return what to await in order to await *awaitable*."""
    if type(awaitable) is types.CoroutineType:
        return _DrivenCoroutine(awaitable)
    return awaitable


def _loop_of(future):
    try:
        get_loop = future.get_loop
    except AttributeError:
        return future._loop
    return get_loop()


def _as_asyncio_gather_drives_it(argument):
    """Return what to await in order to do what asyncio.gather does with *argument*.

    It makes a Task of a coroutine, which may have begun, and does not ask whether `await` would
    take it; a Future runs already, and one that `await` does not take may say by an attribute
    how to wait for it.
    """
    if _isfuture(argument):
        by_attribute = hasattr(argument, "__await__") and not hasattr(type(argument), "__await__")
    elif _iscoroutine(argument):
        return _TaskCoroutine(argument)
    else:
        by_attribute = sys.version_info < (3, 12)
    return _drive_await_method(argument) if by_attribute else argument


def _can_be_awaited(value):
    """Whether `await value` starts: __class__, which isinstance() believes, may be made up."""
    cls = type(value)
    if cls is types.GeneratorType:
        return bool(value.gi_code.co_flags & inspect.CO_ITERABLE_COROUTINE)
    return cls is types.CoroutineType or _attribute_of_type(cls, "__await__") is not _EMPTY


def _attribute_of_type(cls, name):
    """Return what instances have by that name from *cls*, whatever its metaclass has; _EMPTY for nothing."""
    return next((vars(base)[name] for base in cls.__mro__ if name in vars(base)), _EMPTY)


def _is_to_be_unpacked(item):
    """Whether *item* is an iterable that was meant to be unpacked.

    The contents of a string or a dict are no items.  What says that it is a coroutine is a
    proxy, which has every method.
    """
    return (
        _attribute_of_type(type(item), "__iter__") not in (_EMPTY, None)
        and not issubclass(type(item), str | bytes | bytearray | dict)
        and not _can_be_awaited(item)
        and not isinstance(item, _Coroutine)
    )


def _note_unpacking(error, item):
    """Say on the TypeError about *item* what may have been meant."""
    if _is_to_be_unpacked(item):
        error.add_note(f"to pass what the {type(item).__name__} contains, unpack it with *")


async def _refuse_to_await(item):
    try:
        return await item
    except TypeError as error:
        _note_unpacking(error, item)
        raise


def _distinct(arguments):
    """Return the distinct arguments, by hash and equality, and their layout.

    The layout is None if they all are distinct.  Unhashable ones are a TypeError.
    """
    indexes = {}
    layout = []
    for argument in arguments:
        try:
            layout.append(indexes.setdefault(argument, len(indexes)))
        except TypeError as error:
            _note_unpacking(error, argument)
            raise
    distinct = list(indexes)
    return (distinct, None if len(distinct) == len(layout) else layout)


def _checked_awaitables(unstarted, loop):
    """Return the source that asyncio.gather would make of *unstarted*, and its loop.

    Refuse what cannot be awaited, and Futures of different loops.  If *loop* is None, choose
    the one that asyncio.gather would choose.
    """
    distinct, layout = _distinct(unstarted.items)
    for argument in distinct:
        if _isfuture(argument):
            if loop is None:
                loop = _loop_of(argument)
            elif loop is not _loop_of(argument):
                raise ValueError("The future belongs to a different loop than the one specified as the loop argument")
        elif not _iscoroutine(argument) and not _isawaitable(argument):
            error = TypeError("An asyncio.Future, a coroutine or an awaitable is required")
            _note_unpacking(error, argument)
            try:
                raise error
            finally:
                del error  # its traceback holds this frame
        elif loop is None:
            loop = _get_event_loop()
    if loop is None:
        loop = _get_event_loop()
    unstarted.take()
    return _Awaitables(distinct, layout, as_asyncio_gather=True), loop


# Workers and Tasks ----------------------------------------------------------------------


class _Worker(_CoroutineObject):
    """The coroutine of one Task: it drives one item and reports how that ended.

    To those who look at its Task it answers as the item's own coroutine would.
    """

    def __init__(self, gathering, index, item):
        self.gathering = gathering
        self.index = index
        self.item = item  # until the item is started
        self._close_item = gathering.source.close_item
        self.task = None  # while the item runs
        self.awaiter = None  # the Task that is shown as awaiting that
        self.coroutine = None  # the user's own, as soon as there is one
        self.awaited_future = item if _isfuture(item) else None
        self._cancellation = None  # one that arrived before there was a Task
        self._is_being_made = False  # its Task is
        self._is_being_closed = False  # by close()
        self._is_being_stepped = False  # else its body ends only when it goes
        self._body = None
        self._take_names_of(item)
        self.coroutine = gathering.source.coroutine_of(item)

    def _take_names_of(self, item):
        self.__qualname__ = self.__name__ = type(item).__name__
        try:
            self.__qualname__ = getattr(item, "__qualname__", self.__qualname__)
            self.__name__ = getattr(item, "__name__", self.__qualname__)
        except Exception:  # a proxy of what is not there
            pass

    def runs(self, awaitable):
        """Answer for *awaitable*, which a function has returned, from now on."""
        self._take_names_of(awaitable)
        if _iscoroutine(awaitable):
            self.coroutine = awaitable

    def attach(self, task):
        """The item runs in *task* from now on: the first call counts."""
        if self.task is not None or self.gathering is None:
            return
        self.task = task
        self.gathering.join_call_graph(self)

    def cancel(self, msg):
        """Cancel the item's Task; remember it if there is no Task yet."""
        if self.task is None:
            self._cancellation = (msg,)
            return True
        return self.task.cancel(msg=msg)

    def leave_call_graph_of_future(self):
        """The call is over: a Future that is awaited in its name must not show that (gh-157213)."""
        future, self.awaited_future = self.awaited_future, None
        if sys.version_info >= (3, 14) and future is not None and self.task is not None:
            _discard_from_awaited_by(future, self.task)

    def deliver_cancellation(self):
        """Cancel the Task if that was asked for before there was one."""
        if self._cancellation is not None and self.task is not None:
            (msg,), self._cancellation = self._cancellation, None
            self.task.cancel(msg=msg)

    def send(self, value):
        if self._body is None:
            if value is not None:
                raise TypeError("can't send non-None value to a just-started coroutine")
            self._body = self._drive()
        elif self.was_closed:
            self.end_closed()
        was_stepped, self._is_being_stepped = self._is_being_stepped, True
        try:
            return self._body.send(value)
        finally:
            self._is_being_stepped = was_stepped

    @property
    def was_closed(self):
        """Whether somebody closed it by hand and its Task has yet to find out."""
        return self._body is not None and self._body.cr_frame is None and self.gathering is not None

    def end_closed(self):
        """The item's outcome is what the Task's next step raises."""
        self.end_without_step(RuntimeError("cannot reuse already awaited coroutine"))

    def throw(self, *exception):
        error = None
        was_stepped, self._is_being_stepped = self._is_being_stepped, True
        try:
            if self.was_closed:
                self.end_closed()
            if self._body is not None:
                return self._body.throw(*exception)
            try:
                self._body = self._drive()
                return self._body.throw(*exception)
            except BaseException as thrown:
                error = thrown
            self.never_started(error)
            raise error
        finally:
            self._is_being_stepped = was_stepped
            del exception, error

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

    def __del__(self):
        # The Task goes, and so does the loop that ran it.
        if getattr(self, "_body", self) is None:
            self.close()
        if getattr(self, "gathering", None) is not None:
            self.gathering.worker_dropped(self)

    def never_started(self, error):
        """The Task was cancelled, or could not be made, before the first step."""
        if self._body is None:
            self._body = self._drive()
            self._body.close()
        self._close_unstarted_item()
        self.end_without_step(error)

    def end_without_step(self, error):
        """The item ends with *error* outside of any step; start what may start now."""
        gathering = self.gathering
        gathering.worker_ended(self, None, error)
        gathering.go_on_after(error)

    def task_done(self, task):
        """The done callback of a Task that is not of our making.

        Its maker may have wrapped this coroutine, and then the Task may have ended without it:
        cancelled before the first step, say.  What the Task came to is then the item's outcome,
        be it that it cannot say.  A worker that had begun is left to whoever drives it, and
        reports nothing any more.
        """
        gathering = self.gathering
        if gathering is None:
            _retrieve(task)
            return
        if self._body is None:
            self.close()
        gathering.deliver_task(self, task)
        gathering.pump()

    async def _drive(self):
        gathering = self.gathering
        runs_in = _current_task(gathering.loop)
        if runs_in is None or runs_in is not gathering.parent:  # else who makes the Task makes this step, too
            self.attach(runs_in)
        value = error = None
        try:
            if gathering.gate is None:
                value = await gathering.source.wait_for(self, self.item)
            else:
                self.check_in_time()
                async with gathering.gate:
                    gathering.gate_passed(self)
                    value = await gathering.source.wait_for(self, self.item)
        except StopIteration as stop:  # as in any coroutine
            error = RuntimeError("coroutine raised StopIteration")
            error.__cause__ = stop
        except BaseException as raised:
            error = raised.with_traceback(raised.__traceback__.tb_next)
        # Outside the handler: what starts next must not get this error as its context.
        try:
            self._close_unstarted_item()
            if self._is_being_closed:
                self.awaited_future = None
            elif self.gathering is None:
                pass  # its Task has ended without it
            elif self._is_being_stepped:
                gathering.worker_ended(self, value, error)
                gathering.go_on_after(error)
            else:  # the Task was destroyed; this is not one of its steps
                gathering.worker_dropped(self)
            if error is not None:
                raise error
            return value
        finally:
            del error, value, runs_in  # a traceback may hold this frame

    def check_in_time(self):
        """Refuse to begin if the queue has been closed since the item was taken.

        The Task then ends as one that was cancelled before its first step.  A Task of the
        loop's begins in a turn of its own, and can be cancelled until then.
        """
        gathering = self.gathering
        in_this_step = gathering.makes_its_own_tasks or self._is_being_made or getattr(self.task, "_must_cancel", False)
        if gathering.closing and in_this_step:
            raise _cancelled_error(gathering.cancel_message)

    def begins(self):
        """The item starts now: nothing that makes an object comes between."""
        if self.gathering is not None and self.gathering.gate is None:
            self.check_in_time()
        self.item = None

    def _close_unstarted_item(self):
        item, self.item = self.item, None
        if item is not None:
            self._close_item(item)

    # What the item's coroutine says of itself

    def _awaits(self):
        return None if self._body is None else self._body.cr_await

    def _ask(self, name, default):
        return getattr(self.coroutine, name, default)

    @property
    def cr_await(self):
        if _CALL_GRAPH_NEEDS_FRAMES and self.cr_frame is None:
            raise AttributeError("cr_await")
        return self._ask("cr_await", None)

    @property
    def cr_frame(self):
        return self._ask("cr_frame", self._ask("gi_frame", None))

    @property
    def cr_running(self):
        return self._body is not None and self._body.cr_running

    @property
    def cr_suspended(self):
        return self._body is not None and self._body.cr_suspended

    @property
    def cr_code(self):
        return self._ask("cr_code", self._ask("gi_code", None))

    @property
    def cr_origin(self):
        return self._ask("cr_origin", None)

    @property
    def cr_state(self):
        return inspect.CORO_CREATED if self._body is None else inspect.getcoroutinestate(self._body)


class Task(_Task):
    """The Task of one item, where Tasks are of our making."""

    def __init__(self, worker, **options):
        self._worker = worker
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
        if self.done():
            self._log_traceback = False
        super().__del__()


class _StepCatcher:
    """Stands for the event loop while a Task is made, and keeps its first step."""

    def get_debug(self):
        return False

    def call_soon(self, step, *args, context=None):
        self.step = step


def _start_eagerly(worker, loop, context):
    """Make a Task and run its first step now, whatever the Python version."""
    task = caller = catcher = None
    try:
        if _EAGER_TASKS_WORK:
            task = Task(worker, loop=loop, eager_start=True, context=context)
            task._log_destroy_pending = False
            return task
        catcher = _StepCatcher()
        task = Task(worker, loop=catcher, context=context)
        task._log_destroy_pending = False
        _Future.__init__(task, loop=loop)
        step = catcher.step
        del catcher.step
        caller = _current_task(loop)
        if caller is not None:
            _leave_task(loop, caller)
        try:
            context.run(step)
        finally:
            if caller is not None:
                _enter_task(loop, caller)
            del step
        return task
    finally:
        del task, caller, catcher, context  # the traceback of an error holds this frame


class _StockFunction:
    """A Python function of asyncio's, as it was at import, if its module defines it so.

    A tool may replace the function, or leave it in place and replace what it does: its code
    (ddtrace does so; file name, name and line stay as they were) or its defaults.
    """

    def __init__(self, module, function):
        self._function = self._code = self._keyword_defaults = None
        if isinstance(function, types.FunctionType) and self._is_stock(module, function):
            self._function = function
            self._code = function.__code__
            self._keyword_defaults = function.__kwdefaults__ and function.__kwdefaults__.copy()

    @staticmethod
    def _is_stock(module, function):
        """Whether the loader of *module* has that code; if it does not tell, it is not."""
        if function.__globals__ is not vars(module) or function.__defaults__ is not None:
            return False
        if any(value is not None for value in (function.__kwdefaults__ or {}).values()):
            return False
        try:
            pending = [module.__spec__.loader.get_code(module.__name__)]
        except MemoryError:
            raise
        except Exception:
            return False
        while pending:
            for constant in getattr(pending.pop(), "co_consts", ()):
                if isinstance(constant, types.CodeType):
                    if constant == function.__code__:
                        return True
                    pending.append(constant)
        return False

    def is_intact(self, function):
        return (
            self._function is not None
            and function is self._function
            and function.__code__ is self._code
            and function.__defaults__ is None
            and function.__kwdefaults__ == self._keyword_defaults
        )


_stock_create_task = _StockFunction(_module("asyncio.base_events"), _taken_create_task())


def _error_of_start(error):
    """Why a Task could not be made: what an eager one that fails in its first step raises may hide it."""
    if _EAGER_TASKS_HIDE_ERRORS and isinstance(error, SystemError) and error.__cause__ is not None:
        return error.__cause__
    return error


def _makes_its_own_tasks(loop):
    """Whether nobody would notice that a Task did not come from loop.create_task()."""
    tasks = _module("asyncio.tasks")
    if getattr(tasks, "Task", None) is not _AcceleratedTask or "create_task" in getattr(loop, "__dict__", ()):
        return False
    create_task = getattr(type(loop), "create_task", None)
    if create_task is None:  # a proxy
        return False
    if not _stock_create_task.is_intact(create_task) or create_task.__globals__.get("tasks") is not tasks:
        owner = next(cls for cls in type(loop).__mro__ if "create_task" in vars(cls))
        if (owner.__module__, owner.__qualname__) != ("uvloop.loop", "Loop"):
            return False
    return loop.get_task_factory() is None


def _functions_of_the_current_task():
    """Return what asyncio has to ask for the current Task, to enter and to leave one.

    Since 3.14 its Python Tasks have functions of their own; somebody has put them in place if they are to count.
    """
    tasks = _module("asyncio.tasks")
    of_python_tasks = getattr(tasks, "_py_current_task", None)
    if of_python_tasks is not None and getattr(tasks, "current_task", None) is of_python_tasks:
        return of_python_tasks, tasks._py_enter_task, tasks._py_leave_task
    return _current_task, _enter_task, _leave_task


def _caller_on(loop):
    """Return the Task that runs on *loop* in this thread, None if there is none."""
    if _running_loop_or_none() is not loop:
        return None
    try:
        return _functions_of_the_current_task()[0](loop)
    except Exception:  # nobody can say
        return None


class _AsCurrentTask:
    """Makes a Task, or None, the current one for a block in which somebody else's code makes a Task.

    A task factory, or a loop's own create_task(), may hand state of the current Task on to the one that it makes.
    asyncio.gather makes its Tasks in the call, so that is the caller's.  Afterwards the current Task is what it was
    before, whatever the block has done.
    """

    def __init__(self, loop, task):
        self._loop = loop
        self._task = task
        self._before = _EMPTY

    def __enter__(self):
        if _running_loop_or_none() is not self._loop:
            return  # nothing is current on it, or it is another thread's
        try:
            self._switch_to(self._task)
        except BaseException as error:
            if not isinstance(error, Exception):
                self.__exit__()
                raise

    def __exit__(self, *exception):
        if self._before is not _EMPTY:
            try:
                self._switch_to(self._before)
            except Exception as error:
                _Unraisable(error)

    def _switch_to(self, wanted):
        current_task, enter, leave = _functions_of_the_current_task()
        found = current_task(self._loop)
        if self._before is _EMPTY:
            self._before = found
        if found is wanted:
            return
        if found is not None:
            leave(self._loop, found)
        if wanted is not None:
            enter(self._loop, wanted)


def _retrieve(task):
    if not task.cancelled():
        task.exception()


class _Subscription:
    """A Future among the items of a call without a limit: it runs already."""

    def __init__(self, gathering, index, future):
        self.gathering = gathering
        self.index = index
        self.task = future
        self.awaiter = None

    def cancel(self, msg):
        return self.task.cancel(msg=msg)

    def leave_call_graph_of_future(self):
        pass

    def ended(self, future):
        if self.gathering is not None:  # else it calls back a second time
            self.gathering.future_ended(self, future)


# The keeper -----------------------------------------------------------------------------


class _Waiter:
    """The least that a Task takes for a Future: it keeps its callback until the Task has made its step.

    A Future that is set loses its callbacks if the loop's call_soon() fails, and the Task
    that waits never goes on; nor does it if the loop loses the callback.  A waiter can be
    woken again.
    """

    _asyncio_future_blocking = False

    def __init__(self, loop):
        self._loop = loop
        self._callback = self._context = None

    def __await__(self):
        self._asyncio_future_blocking = True
        yield self

    def get_loop(self):
        return self._loop

    def add_done_callback(self, callback, *, context=None):
        self._callback, self._context = callback, context

    def wake(self):
        if self._callback is not None:
            self._loop.call_soon(self._go_on, context=self._context)

    def _go_on(self):
        callback, self._callback = self._callback, None
        if callback is None:  # woken twice
            return
        try:
            callback(self)
        except BaseException:
            if self._callback is None:
                self._callback = callback
            raise

    def cancel(self, msg=None):
        """Have the Task raise CancelledError by itself."""
        self.wake()
        return False

    def result(self):
        return None


async def _wait_while(condition, waiter):
    while condition():
        await waiter


class _Keeper(_Task):
    """Stands for the queue among all_tasks(), so that who cancels them all stops it too."""

    def __init__(self, gathering, loop, context):
        self._gathering = gathering
        self._waiter = _Waiter(loop)
        self._cancellation = None
        self._waits = _wait_while(self._is_needed, self._waiter)
        super().__init__(self._waits, loop=loop, name="gatedcoro queue", context=context)
        self._log_destroy_pending = False

    def __del__(self):
        self._waits.close()  # it may never have had its first step
        self._log_destroy_pending = False  # it may not have been made completely
        super().__del__()

    def _is_needed(self):
        return self._gathering is not None

    def cancel(self, msg=None):
        if self._gathering is None:
            return super().cancel(msg=msg)
        self._cancellation = (msg,)
        self._gathering.cancelled_by_keeper(msg)
        return True

    def queue_is_gone(self):
        """End: cancelled if cancel() was called, else normally."""
        self._gathering = None
        if self._cancellation is not None:
            (msg,), self._cancellation = self._cancellation, None
            super().cancel(msg=msg)
        else:
            self._waiter.wake()


# The gathering --------------------------------------------------------------------------


class _Gathering:
    """One call: what runs, what is queued, what becomes of it.

    `outer` is None once it is settled; the rest of the queue still goes on.
    """

    def __init__(
        self,
        loop,
        source,
        limit,
        *,
        return_exceptions=False,
        cancel_on_error=False,
        returns_future=False,
    ):
        self.loop = loop
        self.source = source
        self.limit, self.gate = (limit, None) if limit is None or isinstance(limit, int) else (None, limit)
        if self.gate is not None:
            self.gate = _without_defects(self.gate)
        self.is_limited = limit is not None
        self.return_exceptions = return_exceptions
        self.cancel_on_error = cancel_on_error
        self.returns_future = returns_future
        self.context = contextvars.copy_context()  # never entered, only copied
        self.caller = None  # the Task that called, while it waits
        if sys.version_info >= (3, 14) and _running_loop_or_none() is loop:
            self.caller = _functions_of_the_current_task()[0](loop)
        self.parent = None  # who is the current Task while the loop makes Tasks
        self.pumping = False
        self.outer = None
        self.running = {}  # workers and subscriptions in start order; the values are None
        self.ending = 0  # of these: they have ended, and their outcome is not there yet
        self.item_is_taken = False  # one that neither runs yet nor has been dropped
        self.item_is_lost = False  # its Task went with its loop: it has no outcome
        self.waits_for_gate = None
        self.cancel_requested = False
        self.cancel_message = None
        self.first_error = None
        self.was_interrupted = False  # by an item's error, which has left the loop
        self.closing = False
        self.pump_is_scheduled = False
        self.keeper = None
        try:
            self.outer = _GatheringFuture(self, loop=loop)
        except BaseException:
            self.close_queue_at_once()
            raise

    def __del__(self):
        self.close_queue_at_once()

    # Starting

    def start(self):
        """Take the Futures of a call without a limit, and have the first items started."""
        if self.limit is None and self.gate is None and isinstance(self.source, _Awaitables):
            self._subscribe_to_futures()
        self.makes_its_own_tasks = _makes_its_own_tasks(self.loop)
        if not self.makes_its_own_tasks:
            self.parent = _caller_on(self.loop)
        if not self.source.more:
            self.settle_if_over()
        elif self.makes_its_own_tasks:
            self.schedule_pump()
        else:
            self.pump()
        if self.returns_future and self.may_start():
            self.ensure_keeper()

    def _subscribe_to_futures(self):
        done = []
        futures = self.source.remove_futures()
        # Theirs may be any code: one that fails in the middle of this closes the queue, and
        # those behind it are left alone, as what is queued.
        while futures and not self.closing:
            index, future = futures.popleft()
            subscription = _Subscription(self, index, future)
            self.item_is_taken = bool(futures)
            self.running[subscription] = None
            self.join_call_graph(subscription)
            try:
                if sys.version_info >= (3, 12) and future.done():
                    done.append(subscription)
                else:
                    future.add_done_callback(subscription.ended)
            except BaseException:
                if subscription.gathering is not None:
                    self._forget(subscription)
                raise
        self.item_is_taken = False
        for subscription in done:
            subscription.ended(subscription.task)

    def may_start(self):
        """Whether there is an item, or may be one, that is yet to start."""
        return not self.closing and self.source.more

    def has_room(self):
        if not self.may_start():
            return False
        if self.gate is not None:
            return self.waits_for_gate is None
        return self.limit is None or len(self.running) + self.ending < self.limit

    def schedule_pump(self):
        if self.pump_is_scheduled or not self.may_start():
            return
        self.pump_is_scheduled = True
        try:
            self.loop.call_soon(self._scheduled_pump, context=self.context.copy())
        except BaseException:
            self.pump_is_scheduled = False
            raise

    def _scheduled_pump(self):
        self.pump_is_scheduled = False
        self.pump()

    def pump(self):
        """Start items while there is room, for about a millisecond if there is a limit.

        An item that ends while another is being started does not recurse into this.  Once a
        pass has used up its millisecond, others in the same turn of the loop start one item.
        """
        if self.pumping:
            return
        self.pumping = True
        try:
            began = None
            while self.has_room():
                if self.is_limited:
                    if began is None:
                        began = _clock()
                    elif self.pump_is_scheduled or _clock() - began >= SLICE:
                        self.schedule_pump()
                        break
                    if not self.may_start():  # the clock may be the user's
                        break
                self.start_next()
        except _INTERRUPTS:
            self.interrupted()
            raise
        except Exception as error:
            self.pass_failed(error)
        finally:
            self.pumping = False
            self._release_parent()
        self.settle_if_over()

    def pass_failed(self, error):
        """The loop or the clock has failed, so no pass is scheduled.

        If there is room for an item nevertheless, nobody would start it, and what runs may
        wait for it: the call ends with *error*.  Otherwise that is reported, and a pass
        begins at the next end.
        """
        if self.has_room() and not self.pump_is_scheduled:
            self.fail_call(error)
        else:
            _Unraisable(error)

    def take_next(self):
        """Return the next index and item, or None if there is none after all."""
        try:
            taken = self.source.take()
        except BaseException as error:
            self.fail_call(error)
            if isinstance(error, _INTERRUPTS):
                raise
            return None
        if taken is _EMPTY:
            self.queue_is_gone()
            return None
        self.item_is_taken = True
        if not self.source.more:
            self.queue_is_gone()
        return taken

    def drop_item(self, item):
        """The item that was taken never starts."""
        self.source.close_item(item)
        self.item_is_taken = False

    def start_next(self):
        taken = self.take_next()
        if taken is None:
            return
        index, item = taken
        try:
            worker = _Worker(self, index, item)
        except BaseException as error:
            self.fail_call(error)
            self.drop_item(item)
            if isinstance(error, _INTERRUPTS):
                raise
            return
        del taken
        if self.closing:
            worker.gathering = None
            worker.close()
            self.drop_item(item)
            return
        del item
        self.running[worker] = None
        self.item_is_taken = False
        if self.gate is not None:
            self.waits_for_gate = worker
        worker._is_being_made = True
        try:
            self.make_task(worker)
        except BaseException as error:
            if worker in self.running:
                # Nobody will take the Task's next step.
                try:
                    worker.close()
                except BaseException as refusal:
                    _Unraisable(refusal)
                if worker in self.running:
                    worker.end_without_step(_error_of_start(error))
            if isinstance(error, _INTERRUPTS):
                raise

    def make_task(self, worker):
        context = self.context.copy()
        try:
            if self.makes_its_own_tasks:
                task = _start_eagerly(worker, self.loop, context)
            else:
                with _AsCurrentTask(self.loop, self.parent):
                    task = context.run(self.loop.create_task, worker)
                task._log_destroy_pending = False
                task.add_done_callback(worker.task_done)
        finally:
            worker._is_being_made = False
            del context  # what an item puts there goes with the item
        if worker in self.running:
            worker.attach(task)
            if worker.was_closed:  # by who made the Task, and may have made none
                worker.end_closed()
            else:
                worker.deliver_cancellation()
        del task

    def _release_parent(self):
        """Keep the caller for the Tasks that are yet to be made, no longer: it may hold what holds this."""
        if not self.pumping and not self.may_start():
            self.parent = None

    def gate_passed(self, worker):
        if self.waits_for_gate is worker:
            self.waits_for_gate = None
            if not self.pumping and self.may_start():
                try:
                    self.schedule_pump()
                except Exception as error:
                    self.pass_failed(error)

    # Outcomes

    def worker_ended(self, worker, value, error):
        """The item has ended; this runs in its Task's last step."""
        task = worker.task
        as_result = error
        self.was_interrupted |= isinstance(error, _INTERRUPTS)
        if error is None and task is not None and getattr(task, "_must_cancel", False):
            # A cancellation came while the item ran; the Task will end cancelled.
            error = _cancelled_error(task._cancel_message)
            as_result = _CancelledError(task._cancel_message or "")
        elif isinstance(error, _CancelledError):
            as_result = _CancelledError("")
        self._ends(worker)
        self.deliver(worker.index, value, error, as_result)

    def deliver_task(self, worker, task):
        """The Task has ended without the worker."""
        self._ends(worker)
        self.deliver_future(worker.index, task)

    def future_ended(self, subscription, future):
        self._ends(subscription)
        self.deliver_future(subscription.index, future)

    def deliver_future(self, index, future):
        """Deliver what the future has come to, be it that it cannot say."""
        value = None
        try:
            if future.cancelled():
                message = getattr(future, "_cancel_message", None)
                error = future._make_cancelled_error()
                as_result = _CancelledError("" if message is None else message)
            else:
                # If that is an interrupt, it has left the loop where the future is a Task; so has what another
                # gathering does not report.
                has_left = (
                    not future._log_traceback if isinstance(future, _GatheringFuture) else hasattr(future, "get_coro")
                )
                error = as_result = future.exception()
                self.was_interrupted |= has_left and isinstance(error, _INTERRUPTS)
                if error is None:
                    value = future.result()
        except BaseException as failure:
            error = as_result = failure
        try:
            self.deliver(index, value, error, as_result)
        finally:
            del error, as_result  # a traceback may hold this frame

    def worker_dropped(self, worker):
        """The item's Task was destroyed, so the loop is gone: nothing starts any more."""
        self.item_is_lost = True
        self._forget(worker)
        self.close_queue_at_once()

    def _ends(self, child):
        """The child has ended; it counts as running until deliver() has its outcome."""
        self.ending += 1
        self._forget(child)

    def _forget(self, child):
        self.running.pop(child, None)
        if self.waits_for_gate is child:
            self.waits_for_gate = None
        self.leave_call_graph(child)
        child.task = child.gathering = child.awaited_future = None

    def deliver(self, index, value, error, as_result):
        """Take the outcome of one item; *as_result* is what return_exceptions returns."""
        try:
            if self.outer is None:
                pass
            elif self.outer.done():  # somebody else settled it
                self.lost_outer()
            elif error is None:
                self.source.results[index] = value
            elif self.first_error is not None:
                self._note(index, error)
            elif self.return_exceptions:
                self.source.results[index] = as_result
            elif self.cancel_on_error:
                self.fail(error)
            else:
                self.settle(error=error)
        except _INTERRUPTS:
            self.interrupted()
            raise
        finally:
            self.ending -= 1
        self.settle_if_over()

    def fail_call(self, error):
        """An error that belongs to no item ends the call, whatever return_exceptions says.

        There is an outcome first of all, whatever fails below, so that nobody takes what
        there is of the results for it.
        """
        self.was_interrupted |= isinstance(error, _INTERRUPTS)
        decides = self.outer is not None and not self.outer.done() and self.first_error is None
        if decides:
            self.first_error = error
        self.close_queue()
        if decides and self.cancel_on_error:
            self.cancel_running(None)
        elif decides and self.outer is not None:
            self.settle(error=error)
        self.settle_if_over()

    def fail(self, error):
        """Stop everything because of *error*, and raise it when nothing runs any more."""
        self.first_error = error
        self.close_queue()
        if not self.cancel_requested:
            self.cancel_running(None)

    def cancel_running(self, msg, failures=None):
        """Cancel everything that runs; return whether anything could be.

        What a cancel() raises goes into *failures*, or is reported; the rest is cancelled
        all the same.
        """
        accepted = False
        for child in list(self.running):
            try:
                if child in self.running and child.cancel(msg):
                    accepted = True
            except BaseException as error:
                if failures is None:
                    _Unraisable(error)
                else:
                    failures.append(error)
        return accepted

    def _note(self, index, error):
        if error is self.first_error or isinstance(error, _CancelledError):
            return
        try:
            message = str(error)
        except Exception:
            message = "<exception str() failed>"
        position = self.source.argument_position(index)
        self.first_error.add_note(
            f"while it was being cancelled, item {position} raised {type(error).__name__}: {message}"
        )

    def settle_if_over(self):
        if self.outer is None or self.running or self.ending or self.source.more:
            return
        if self.outer.done():
            self._let_go()
        elif self.first_error is not None:
            self.settle(error=self.first_error)
        elif self.cancel_requested or self.item_is_lost:
            self.settle(error=_cancelled_error(self.cancel_message))
        elif not self.item_is_taken:
            self.settle(results=self.source.final_results())

    def settle(self, *, results=None, error=None):
        """End the outer future.

        An interrupt of an item has left the loop, so nobody need look at it again.  A caller
        that is being cancelled, as asyncio.run() does then, gets a CancelledError: it would
        end with the interrupt, which would leave the loop once more.
        """
        was_seen = self.was_interrupted and isinstance(error, _INTERRUPTS)
        if was_seen and self.cancel_requested:
            error = _cancelled_error(self.cancel_message)
        if error is not None and self.may_start():
            try:
                self.ensure_keeper()
            except Exception as failure:
                _Unraisable(failure)
        outer = self.outer
        if outer is None:  # settled while the keeper was made
            return
        self._let_go()
        outer.settle(results, error, was_seen=was_seen)

    def lost_outer(self):
        """Somebody else has set the outer future, and who waited for it goes on."""
        if self.outer is not None:
            if self.may_start():
                self.ensure_keeper()
            self._let_go()

    def _let_go(self):
        """Keep no reference to what the caller owns from now on, so as to leave no cycle."""
        outer, self.outer, self.first_error = self.outer, None, None
        outer.forget()
        self.leave_call_graph_with_all()
        self.source.results = _Nowhere()

    def go_on_after(self, error):
        """In the last step of an item: start what may start now."""
        if isinstance(error, _INTERRUPTS):
            self.interrupted()
        else:
            self.pump()

    def interrupted(self):
        """An interrupt leaves the loop; if that is run again, the queue goes on."""
        if not self.may_start():
            return
        try:
            self.ensure_keeper()
        except Exception as failure:
            _Unraisable(failure)
        try:
            self.schedule_pump()
        except Exception as failure:
            self.pass_failed(failure)

    # Cancelling

    def cancel(self, msg):
        """The outer future's cancel(), while that is pending; whether it had any effect."""
        failures = []
        self.cancel_message = msg
        if self.may_start() or not (self.running or self.ending):
            self.cancel_requested = True
            self.close_queue()
            self._settle_if_nothing_ran()
        if self.outer is not None and self.cancel_running(msg, failures):
            self.cancel_requested = True
            self.close_queue()
        if failures:
            raise failures[0]
        return self.cancel_requested

    def _settle_if_nothing_ran(self):
        """Settle a cancelled gathering without waiting until its long queue is closed."""
        if self.outer is None or self.running or self.ending or self.first_error is not None:
            return
        if self.outer.done():
            self._let_go()
        elif self.cancel_requested:
            self.settle(error=_cancelled_error(self.cancel_message))

    def cancelled_by_keeper(self, msg):
        """The keeper was cancelled: items that run go on, the rest never starts."""
        if self.outer is not None and not self.cancel_requested:
            self.cancel_requested, self.cancel_message = True, msg
        self.close_queue()
        self._settle_if_nothing_ran()

    def close_queue(self):
        """From now on nothing starts; close what was queued, one slice now, the rest later."""
        if self.closing:
            return
        self.closing = True
        self._release_parent()
        if _is_closed(self.loop):  # there is no later
            self.close_queue_at_once()
        elif isinstance(self.source, _Callables):
            self.source.close_one()
            self.queue_is_gone()
        elif self.source.more:
            self._close_slice()

    def _close_slice(self):
        try:
            began = _clock()
            while self.source.more:
                self.source.close_one()
                if _clock() - began >= SLICE and self.source.more:
                    self.loop.call_soon(self._scheduled_close_slice, context=self.context.copy())
                    return
        except BaseException as error:
            self.close_queue_at_once()
            self.queue_is_gone()
            if isinstance(error, _INTERRUPTS):
                raise
            _Unraisable(error)
        else:
            self.queue_is_gone()

    def _scheduled_close_slice(self):
        self._close_slice()
        self.settle_if_over()

    def close_queue_at_once(self):
        self.closing = True
        self._release_parent()
        while self.source.more:
            self.source.close_one()

    # The keeper

    def ensure_keeper(self):
        if self.keeper is None:
            self.keeper = _Keeper(self, self.loop, self.context.copy())

    def queue_is_gone(self):
        keeper, self.keeper = self.keeper, None
        if keeper is None:
            return
        try:
            keeper.queue_is_gone()
        except Exception as error:
            # It waits on; whoever cancels it, as asyncio.run() does, wakes it again.
            _Unraisable(error)

    # The call graph of 3.14+

    def join_call_graph(self, child):
        """Show what runs as awaited by the caller, if that waits."""
        if self.caller is None or child.awaiter is not None:
            return
        if self.outer is None or self.outer.done():  # somebody else has set it
            self.leave_call_graph_with_all()
            return
        child.awaiter = self.caller
        _add_to_awaited_by(child.task, child.awaiter)

    def leave_call_graph(self, child):
        """Discard the edge that was added, if there is one, once."""
        awaiter, child.awaiter = child.awaiter, None
        if awaiter is not None:
            _discard_from_awaited_by(child.task, awaiter)

    def leave_call_graph_with_all(self):
        """The caller waits no more: nobody awaits what still runs, or what starts later."""
        self.caller = None
        for child in list(self.running):
            if child.awaiter is not None:
                self.leave_call_graph(child)
                child.leave_call_graph_of_future()


class _Nowhere:
    """Where results go that nobody waits for."""

    def append(self, value):
        pass

    def __setitem__(self, index, value):
        pass


def _cancelled_error(message):
    return _CancelledError() if message is None else _CancelledError(message)


async def _outcome(gathering):
    """Start *gathering* and wait for it; whatever ends the wait early cancels it."""
    outer = gathering.outer
    try:
        gathering.start()
        result = await outer
        outer.was_set_by_somebody()
        return result
    except BaseException as error:
        if outer.has_raised(error):
            outer.was_set_by_somebody()
        outer.abandon()
        raise
    finally:
        del outer, gathering


# Semaphores -----------------------------------------------------------------------------


class _CuredSemaphore:
    """An asyncio.Semaphore that loses and gains no slot when a wait for it ends oddly."""

    def __init__(self, semaphore):
        self._semaphore = semaphore

    async def __aenter__(self):
        return await _enter(self._semaphore)

    async def __aexit__(self, *exception):
        return await type(self._semaphore).__aexit__(self._semaphore, *exception)


def _without_defects(gate):
    cls = type(gate)
    if not issubclass(cls, _semaphores):
        return gate
    plain = _semaphores[0]
    if (
        cls.acquire is plain.acquire
        and cls.release in [semaphore.release for semaphore in _semaphores]
        and cls.__aenter__ is plain.__aenter__
    ):
        return _CuredSemaphore(gate)
    return gate


@types.coroutine
def _enter(semaphore):
    """Drive `semaphore.__aenter__()`, minding who has the slot when the wait is ended.

    release() hands the slot over by setting the result of the waiter's Future.  If it fails
    after that, acquire() loses the slot, unless it fails with CancelledError.
    """
    entering = type(semaphore).__aenter__(semaphore)
    thrown = waiter = None
    try:
        while True:
            try:
                waiter = entering.send(None) if thrown is None else entering.throw(thrown)
            except StopIteration as stop:
                waiter = None
                return stop.value
            try:
                yield waiter
                thrown = None
            except BaseException as error:
                thrown = error
            if (
                _SEMAPHORE_GAINS_SLOTS
                and isinstance(thrown, _CancelledError)
                and _isfuture(waiter)
                and not waiter.done()
            ):
                waiter.cancel()
    except _CancelledError:
        raise
    except BaseException:
        if _isfuture(waiter) and waiter.done() and not waiter.cancelled():
            semaphore.release()
        raise
    finally:
        del thrown


# Public functions -----------------------------------------------------------------------


def _public(*, is_coroutine_function):
    """Name a function by the package, so that its pickle does not tell the implementation."""

    def mark(function):
        function.__module__ = "gatedcoro"
        if is_coroutine_function:
            if sys.version_info >= (3, 12):
                if callable(inspect.markcoroutinefunction):
                    inspect.markcoroutinefunction(function)
            else:
                function._is_coroutine = _module("asyncio.coroutines")._is_coroutine
        return function

    return mark


def _is_gate(limit):
    return hasattr(type(limit), "__aenter__") and hasattr(type(limit), "__aexit__")


def _check_limit(limit, name):
    """Return *limit* as None, an int of at least 1, or an async context manager."""
    if limit is None:
        return None
    is_gate, is_index = _is_gate(limit), hasattr(type(limit), "__index__")
    if is_gate and is_index:  # a proxy can do everything; whose it is, its __class__ tells
        is_index = hasattr(limit.__class__, "__index__")
    if is_index:
        limit = operator.index(limit)
        if limit < 1:
            raise ValueError(f"{name} must be at least 1, or None for no limit, not {limit}")
        return limit
    if is_gate:
        return limit
    raise TypeError(
        f"{name} must be an integer, None or an async context manager, not {limit!r} ({type(limit).__name__})"
    )


def _check_n(n, count):
    """Return *n*, the limit for *count* coroutines, as None or an int."""
    if n is None:
        return None
    if not hasattr(type(n), "__index__"):
        raise TypeError(f"n must be an integer or None, not {n!r} ({type(n).__name__})")
    n = operator.index(n)
    if n < 0:
        raise ValueError(f"n must be at least 1, or None for no limit, not {n}")
    if n == 0 and count:
        raise ValueError(f"n must be at least 1, or None for no limit, not 0: none of the {count} items could run")
    return n


@_public(is_coroutine_function=True)
def gated_coro(semaphore, coro):
    """Await *coro* while holding *semaphore*, and return its result.

    Returns a coroutine, which does what ``async with semaphore: return await coro`` does.
    Nothing happens before it is awaited.

    semaphore: an async context manager: an asyncio Semaphore, BoundedSemaphore or Lock, one
        of anyio's, an aiolimiter.  What its ``__aenter__`` and ``__aexit__`` raise is
        raised; an ``__aexit__`` that returns true suppresses the error of *coro*, and None
        is returned.
    coro: any awaitable.  If it is a coroutine that has not begun, it is closed should it not
        be started.

    Raises TypeError, in the words of ``async with`` and ``await``, if *semaphore* is not an
    async context manager or *coro* not awaitable; RuntimeError if *coro* is a coroutine that
    has been awaited or is being awaited, or if the returned coroutine is awaited twice;
    otherwise what *coro* raises.

    Cancelled while it waits for the semaphore, it leaves the queue of waiters; cancelled
    later, *coro* is cancelled.  However it ends (by an error, ``close()``, ``throw()``, or
    because it is dropped), an asyncio semaphore gets its slot back exactly once.

    The name, signature and behaviour are those of langchain_core.runnables.utils.gated_coro.
    """
    unstarted = _Unstarted((coro,))
    return _FrontDoor("gated_coro", _gated_coro(semaphore, unstarted), unstarted)


async def _gated_coro(semaphore, unstarted):
    try:
        async with _without_defects(semaphore):
            (coro,) = unstarted.take()
            return await coro
    finally:
        unstarted.close()


@_public(is_coroutine_function=True)
def gather_with_concurrency(n, *coros):
    """Await *coros*, at most *n* of them at a time, and return the list of their results.

    Returns a coroutine; nothing happens before it is awaited.  Each item runs in a Task and
    a copy of the caller's context of its own.  Items start in the order of the arguments,
    the next one in the very step that freed its slot.  The results are in the order of the
    arguments.

    n: how many items run at once: an integer of at least 1 (anything with ``__index__``),
        or None for no limit.  Without a limit the items are treated as by asyncio.gather:
        equal ones run once, Futures are taken as they are.
    coros: coroutines or other awaitables: with a limit what ``await`` takes, without one
        what asyncio.gather takes.  A Future or Task runs already: with a limit it takes its
        turn and its slot, but is only awaited.  A coroutine that has begun is what it is to
        ``await``, without a limit what it is to asyncio.gather, which goes on with it.

    The first error of an item is raised at once; items that run go on, queued ones still
    start, later errors are dropped.  KeyboardInterrupt and SystemExit of an item also leave
    the event loop.

    Raises, before any item has started, TypeError if *n* is not an integer or None, and
    ValueError if it is negative, or 0 with items; without a limit also TypeError for what is
    not awaitable or not hashable and ValueError for a Future of another event loop.  With a
    limit, what cannot be awaited, is awaited twice, or is a Future of another event loop is
    that item's error (TypeError, RuntimeError).  The TypeError about an iterable has a note
    that says to unpack it.  After an error that comes before any item has started, and when
    closed, thrown into or dropped before it was awaited, every coroutine among the items that
    has not begun has been closed.  An error that belongs to no item, as a lack of memory,
    ends the call.  Awaiting the returned coroutine twice is a RuntimeError.

    Cancelled, it cancels the items that run and closes the queued coroutines.  The first
    running item that then ends with an exception, CancelledError as a rule, decides what is
    raised, and when; if all of them return, that is CancelledError at the end, and if none
    ran, at once.  ``close()``, ``throw()`` and dropping it do the same without waiting.

    The name, signature and results are those of
    langchain_core.runnables.utils.gather_with_concurrency.
    """
    unstarted = _Unstarted(coros)
    return _FrontDoor("gather_with_concurrency", _gather_with_concurrency(n, unstarted), unstarted)


async def _gather_with_concurrency(n, unstarted):
    try:
        loop = _get_running_loop()
        n = _check_n(n, len(unstarted))
        if not unstarted:
            return []
        source = _checked_awaitables(unstarted, loop)[0] if n is None else _Awaitables(unstarted.take())
    finally:
        unstarted.close()
    return await _outcome(_Gathering(loop, source, n))


@_public(is_coroutine_function=False)
def gather(*aws, limit=None, return_exceptions=False, cancel_on_error=False):
    """Run *aws* concurrently, as asyncio.gather does, if wanted with a limit.

    A plain function: it returns a Future of the list of results, in the order of the
    arguments.  The items are started by the event loop, each in a Task and a copy of the
    caller's context of its own.  Equal items run once, and their result is returned for
    each.

    aws: coroutines, Futures or other awaitables: whatever asyncio.gather takes, so also what
        only says that it is a coroutine (a proxy), or is of a class that is registered as
        collections.abc.Coroutine, with or without ``__await__``.  A Future or Task runs already: with a limit it takes its turn and its slot,
        but is only awaited.  A coroutine that has begun goes on from where it stands; queued
        and never started, it is closed.
    limit: how many run at once: an integer of at least 1; None for no limit; or an async
        context manager, which each item holds while it runs, entered and left in the item's
        own Task.  At most one item waits for it, and what ``__aenter__`` raises is that
        item's error.
    return_exceptions: return the errors among the results instead of raising the first.
    cancel_on_error: on the first error cancel the items that run, close the queued
        coroutines, wait, and raise that error; what the other items raise meanwhile, except
        CancelledError, becomes one note each on it.  Otherwise the first error is raised at
        once, items that run go on, and queued ones still start.  An item's own cancellation
        is an error.  KeyboardInterrupt and SystemExit of an item also leave the event loop.

    Raises, before anything has started and after closing every coroutine among the items
    that has not begun, TypeError if *limit* is of another kind or an item is not awaitable
    (about an iterable with a note that says to unpack it) or not hashable,
    ValueError if *limit* is less than 1 or a Future belongs to another event loop, and
    RuntimeError if there is no event loop to choose.

    Cancelling the Future cancels the items that run and closes the queue.  It is done with
    the first exception that a running item then raises, CancelledError as a rule: as soon as
    that is raised, or with *cancel_on_error* when all have ended.  If all of them return, or
    with *return_exceptions*, it is done with CancelledError when all have ended; if nothing
    runs yet, at once.  A queued Future is left alone.

    The signature is that of asyncio.gather with two options more; without them it does what
    asyncio.gather of the running Python version does.
    """
    unstarted = _Unstarted(aws)
    try:
        limit = _check_limit(limit, "limit")
        loop = _running_loop_or_none() if sys.version_info >= (3, 14) else None
        source, loop = _checked_awaitables(unstarted, loop)
    finally:
        unstarted.close()
    if not source.more:
        outer = loop.create_future()
        outer.set_result([])
        return outer
    gathering = _Gathering(
        loop,
        source,
        limit,
        return_exceptions=bool(return_exceptions),
        cancel_on_error=bool(cancel_on_error),
        returns_future=True,
    )
    outer = gathering.outer
    try:
        gathering.start()
    except BaseException:
        outer.abandon()
        raise
    return outer


@_public(is_coroutine_function=True)
def run_all(async_fns, *, limit=None, return_exceptions=False, cancel_on_error=True):
    """Call each of *async_fns* when a slot is free, await what it returns, return the results.

    Returns a coroutine; nothing happens before it is awaited.  No coroutine exists before
    its turn: each function is called without arguments inside its slot, in the item's own
    Task and its own copy of the caller's context.  The results are in the order of the
    functions.

    async_fns: an iterable of callables that return awaitables.  It is advanced by one for
        each free slot, and let go when nothing starts any more, which closes a generator
        that nobody else holds: all in one copy of the caller's context.  What it raises is treated as the first
        error of an item, even with *return_exceptions*.
    limit, return_exceptions, cancel_on_error: as for gather(), except that *cancel_on_error*
        is true by default.

    Raises, before anything has started, TypeError if *limit* is of another kind or
    *async_fns* not iterable, and ValueError if *limit* is less than 1.  What is not callable,
    returns what cannot be awaited (both TypeError) or raises is that item's error, with a
    note that says which item it was.  Awaiting the returned coroutine twice is a
    RuntimeError.

    Cancelled, it cancels the items that run and calls no further function; what is raised,
    and when, is as for a cancelled gather() with the same options.  ``close()``, ``throw()``
    and dropping it do the same without waiting.

    The name is that of aiometer's function for the same job.
    """
    unstarted = _Unstarted(())
    body = _run_all([async_fns], limit, "limit", return_exceptions, cancel_on_error)
    return _FrontDoor("run_all", body, unstarted)


@_public(is_coroutine_function=True)
def constrained_execution(funcs, max_runs):
    """Call *funcs*, at most *max_runs* of them at a time, and return the list of results.

    Returns a coroutine; nothing happens before it is awaited.  It is the same as
    ``run_all(funcs, limit=max_runs, cancel_on_error=False)``, exceptions and cancellation
    included: the first error is raised at once, what runs goes on, the rest is still called.

    funcs: an iterable of callables that return awaitables.
    max_runs: how many run at once: an integer of at least 1, None for no limit, or an async
        context manager.

    Name and signature are those of a recipe that many programs contain.
    """
    unstarted = _Unstarted(())
    body = _run_all([funcs], max_runs, "max_runs", False, False)
    return _FrontDoor("constrained_execution", body, unstarted)


async def _run_all(functions, limit, limit_name, return_exceptions, cancel_on_error):
    """*functions* is a list, out of which the iterable is taken."""
    loop = _get_running_loop()
    limit = _check_limit(limit, limit_name)
    source = _Callables(functions, contextvars.copy_context())
    return await _outcome(
        _Gathering(
            loop,
            source,
            limit,
            return_exceptions=bool(return_exceptions),
            cancel_on_error=bool(cancel_on_error),
        )
    )
