"""What amap() returns, and what as_completed() returns besides (as_completed.py).  Twin of src/surface/stream.h."""

import enum
import types
import warnings

from gatedcoro import _functions

from .call import INTERRUPTS, is_closed
from .coroutine import OwnCoroutine, Unstarted
from .current import task_that_runs_on
from .front_door import call_with_each
from .gathering import (
    GATHERING_FAILING,
    GATHERING_SETTLED,
    MOST_PASSED_ON,
    STOPS_ALL,
    STOPS_ALL_BUT_TAKEN,
    STOPS_LATER,
    ErrorPolicy,
)
from .iterables import source_of
from .opening import begin, stream_gathering
from .progress import length_of
from .running import RUN_WATCHED
from .sink import note_raised
from .source import is_generator
from .state import EMPTY, CancelledError, Future, get_running_loop, running_loop_or_none
from .stream_results import StreamResults, Window


class StreamUse(enum.Enum):
    NONE = "it has not been used"
    ENTERED = "its block has been entered, no more; or there has been a warning"
    ITERATED = "it is, or has been, iterated over"
    AWAITED = "it is, or has been, awaited"
    CLOSED = "it was closed before either, or could not be opened"


USE_NONE, USE_ENTERED, USE_ITERATED, USE_AWAITED, USE_CLOSED = StreamUse


class AnyStream:
    """Results one by one, for any number of consumers; each class says which these are, and what becomes of the iterable."""

    __slots__ = ("__weakref__", "_gathering", "_holder", "_limit", "_loop", "_results", "_use")

    @classmethod
    def __class_getitem__(cls, item):
        """Stream[int]: a Stream of integers"""
        return types.GenericAlias(cls, item)

    def __aiter__(self):
        return self

    def __aenter__(self):
        """Return the stream; nothing starts."""
        return own_coroutine(f"{type(self).__name__}.__aenter__", _enter, self)

    def __aexit__(self, exception_type, exception, traceback, /):
        """End the stream, as aclose() does."""
        return own_coroutine(f"{type(self).__name__}.__aexit__", _close, self, exception)

    def aclose(self):
        """End the stream, and wait until nothing of it runs."""
        return own_coroutine(f"{type(self).__name__}.aclose", _close, self, None)

    def __del__(self):
        if getattr(self, "_gathering", None) is not None:
            self._drop()

    def _init(self, iterable, limit):
        self._use = USE_NONE
        self._holder = [iterable]  # out of which it is taken
        self._limit = limit
        self._loop = self._gathering = self._results = None

    # What differs

    def _new_results(self):
        raise NotImplementedError

    def _open_source(self):
        """Return the source of what the holder holds, which is taken out."""
        raise NotImplementedError

    def _policy(self):
        raise NotImplementedError

    def _begins(self, gathering):
        """The first items are about to start."""

    def _has_begun(self):
        """The first items may start."""

    def _goes_without(self):
        """A consumer that waited was cancelled, or closed."""

    def _close_iterable(self, iterable):
        """Close what was to be iterated over, of which nothing has begun, and which is no async iterator."""
        if is_generator(iterable):
            iterable.close()

    # What does not

    def _is_unopened(self):
        return self._use is USE_NONE or self._use is USE_ENTERED

    def _counts(self):
        """How many items run, have ended and wait, and have been handed over."""
        if self._gathering is None:
            return 0, 0, 0
        return len(self._gathering.running), self._results.waiting, self._results.handed_over

    def _drop(self):
        """Nobody waits any more, or will."""
        gathering, loop = self._gathering, self._loop
        if gathering.state is GATHERING_SETTLED:
            return
        if running_loop_or_none() is loop or is_closed(loop):
            gathering.drop()
            return
        try:
            loop.call_soon_threadsafe(gathering.drop)
        except RuntimeError:  # it has been closed meanwhile
            gathering.drop()

    def _be_iterated(self):
        """Return whether there is, or was, something to iterate over: by the first consumer it is opened."""
        try:
            if self._use is USE_AWAITED:
                raise RuntimeError(f"{self!r} has been awaited: it cannot be iterated over, too")
            if self._use is USE_CLOSED:
                return False
            loop = get_running_loop()
            if self._is_unopened():
                self._open(loop)
            elif loop is not self._loop:
                raise RuntimeError(f"{self!r} belongs to a different event loop")
            return True
        finally:
            del self  # a traceback may hold this frame

    def _open(self, loop):
        self._use = USE_CLOSED  # if it cannot be opened
        self._loop = loop
        self._results = self._new_results()
        try:
            source = self._open_source()
        finally:
            self._holder.clear()
        gathering = stream_gathering(loop, source, self._limit, self._policy(), self._results)
        try:
            try:
                self._begins(gathering)
            finally:
                self._gathering = gathering
                self._use = USE_ITERATED  # an eager item may look at it now
            begin(self._gathering, returns_future=True)
            self._has_begun()
        except BaseException:
            self._gathering.drop()
            self._results.leave()
            raise
        finally:
            del self, gathering  # a frame of an eager item's may hold this one

    def _only_its_end_is_left(self):
        """Whether it fails, and waits for nothing but what has been cancelled."""
        gathering = self._gathering
        return gathering.state is GATHERING_FAILING and all(
            child.index > gathering.stopped_after for child in gathering.running
        )

    def _is_in_own_task(self):
        """Whether the Task that runs is one of its items' or its source's, or those of a Stream that it goes through.

        Who closes it waits for all of these.
        """
        current, stream, seen = task_that_runs_on(self._loop), self, set()
        while isinstance(stream, AnyStream) and (gathering := stream._gathering) is not None:
            if id(stream) in seen:  # it goes through itself
                break
            seen.add(id(stream))
            own = (child.task for child in gathering.running if child.state is not RUN_WATCHED)
            if gathering.source.runs_in(current) or any(task is current for task in own):
                return True
            stream = gathering.source.iterator
        return False

    def _pass_on(self, cancellation):
        """Cancel what still runs once more; return whether it is to be raised at once.

        So it is where that has reached the Task that runs, which would wait for itself, or comes back again and again.
        """
        if self._gathering.passed_on == MOST_PASSED_ON:
            return True
        task = task_that_runs_on(self._loop)
        before = _times_cancelled(task)
        self._gathering.pass_on_cancellation(_message_of(cancellation))
        return _times_cancelled(task) > before


class Stream(AnyStream):
    __doc__ = _functions.Stream.__doc__
    __module__ = "gatedcoro"
    __slots__ = ("_function", "_is_ordered", "_progress", "_return_exceptions", "_total", "_window")

    def __init__(self, *args, **kwargs):
        raise TypeError("cannot create 'gatedcoro.Stream' instances: amap() does")

    def __anext__(self):
        return own_coroutine("Stream.__anext__", _next_of, self, kind=NextResult)

    def __await__(self):
        try:
            if not self._is_unopened():
                raise RuntimeError(f"{self!r} has been used already: it can be iterated over or awaited, once")
            self._use = USE_AWAITED
            policy = ErrorPolicy(self._return_exceptions, STOPS_ALL)
            body = call_with_each(self._function, self._holder, self._limit, policy, self._progress)
            return OwnCoroutine("amap", body, Unstarted(())).__await__()
        finally:
            del self  # a traceback may hold this frame

    def __repr__(self):
        try:
            name = self._function.__qualname__
        except Exception:  # a proxy of what is not there
            name = type(self._function).__name__
        if self._use is USE_AWAITED:
            return f"<gatedcoro.Stream of {name}: awaited>"
        running, waiting, done = self._counts()
        return f"<gatedcoro.Stream of {name}: {running} running, {waiting} waiting, {done} done>"

    def __del__(self):
        if getattr(self, "_use", None) is USE_NONE:
            self._was_never_used()
        else:
            super().__del__()

    def _was_never_used(self):
        self._use = USE_CLOSED
        inner = self
        while isinstance(inner := inner._holder[0] if inner._holder else None, AnyStream):
            if inner._use is USE_NONE:  # one warning is enough; who holds it may use it all the same
                inner._use = USE_ENTERED
        warnings.warn(f"{self!r} was never iterated over or awaited", RuntimeWarning, stacklevel=2, source=self)

    def _new_results(self):
        return StreamResults(self._window, is_ordered=self._is_ordered)

    def _open_source(self):
        self._total = length_of(self._holder[0]) if self._progress is True else None
        return source_of(self._holder, self._function)

    def _begins(self, gathering):
        gathering.open_progress(self._progress, self._total)

    def _policy(self):
        return ErrorPolicy(self._return_exceptions, STOPS_LATER if self._is_ordered else STOPS_ALL_BUT_TAKEN)


def new_stream(function, iterable, limit, buffersize, *, is_ordered, return_exceptions, progress):
    """Return what amap() returns for arguments that are in order."""
    self = object.__new__(Stream)
    self._init(iterable, limit)
    self._function = function
    self._window = Window.of(limit, buffersize)
    self._is_ordered = is_ordered
    self._return_exceptions = return_exceptions
    self._progress = progress
    return self


class NextResult(OwnCoroutine):
    """What asks for a result: anext(stream, default) has it awaited before each of its steps."""

    def __await__(self):
        return self


def own_coroutine(name, body, *arguments, kind=OwnCoroutine):
    """Return a coroutine that takes its *arguments* in its first step; closed before that, it keeps none of them."""
    unstarted = Unstarted(arguments)
    return kind(name, body(unstarted), unstarted)


class Consumer:
    """Who has asked for a result, or waits for the end."""

    def __init__(self, loop):
        self._loop = loop
        self._future = None
        self._is_woken = False

    async def waits(self):
        self._is_woken = False
        self._future = Future(loop=self._loop)
        try:
            if not self._is_woken:  # as the loop may do that is asked there
                await self._future
        finally:
            self._future = None  # it may hold a traceback that has this frame

    def wake(self):
        self._is_woken = True
        if self._future is not None and not self._future.done():
            try:
                self._future.set_result(None)
            except RuntimeError:
                if not is_closed(self._loop):  # else nobody goes on there
                    raise


async def _next_of(unstarted):
    (stream,) = unstarted.take()
    try:
        result = await next_result(stream, stream._results.take) if stream._be_iterated() else EMPTY
        if result is EMPTY:
            raise StopAsyncIteration
        return result
    finally:
        del stream  # a traceback may hold this frame


async def next_result(stream, take):
    """Wait until there is a result, or the end, of what has been opened, and take() it."""
    try:
        results, gathering = stream._results, stream._gathering
        consumer = Consumer(stream._loop)
        if not results.has_one_for(consumer) and results.has_nobody_waiting():
            _start_ahead(gathering, results)
        if not results.has_one_for(consumer):
            return await _wait_for_next(stream, consumer, take)
        result = take()
        gathering.room_is_made()
        return result
    finally:
        del stream, take  # a traceback may hold this frame


def _start_ahead(gathering, results):
    """What has room starts in this step."""
    try:
        gathering.start_ahead()
    except INTERRUPTS as error:
        results.let_out(error)
        raise


async def _wait_for_next(stream, consumer, take):
    results, gathering = stream._results, stream._gathering
    results.ask(consumer)
    try:
        await _wait_until_there_is_one(stream, consumer)
        result = take()
    finally:
        results.go(consumer)
        del stream, take
    gathering.room_is_made()
    return result


async def _wait_until_there_is_one(stream, consumer):
    cancellation = None
    try:
        while not stream._results.has_one_for(consumer):
            try:
                await consumer.waits()
            except CancelledError as error:
                if not stream._only_its_end_is_left():
                    raise
                cancellation = error
                if stream._pass_on(error):
                    raise
        if cancellation is not None:
            raise cancellation
    except BaseException:
        stream._goes_without()
        raise
    finally:
        del cancellation, stream


def _times_cancelled(task):
    try:
        return task.cancelling()
    except Exception:  # no Task of asyncio's
        return 0


def _message_of(cancellation):
    return cancellation.args[0] if cancellation.args else None


async def _enter(unstarted):
    (stream,) = unstarted.take()
    if stream._use is USE_NONE:
        stream._use = USE_ENTERED
    return stream


async def _close(unstarted):
    """End it early, and wait until nothing of it runs; *raised* is the error that leaves the block."""
    stream, raised = unstarted.take()
    error = cancellation = None
    try:
        if stream._is_unopened():
            try:
                await _close_unopened(stream)
            except Exception as failure:
                if raised is None:
                    raise
                note_raised(raised, "while the stream was being closed, it", failure)
        gathering, results = stream._gathering, stream._results
        if gathering is None:
            return
        if get_running_loop() is not stream._loop:
            raise RuntimeError(f"{stream!r} belongs to a different event loop")
        if gathering.state is not GATHERING_SETTLED and stream._is_in_own_task():
            raise RuntimeError(
                f"{stream!r} cannot be closed by one of its items or by its source, for which that would wait"
            )
        if not results.is_left:  # else what that raises is not given up
            results.leave()
            gathering.leave()
        consumer = Consumer(stream._loop)
        results.closes_by(consumer)
        while gathering.state is not GATHERING_SETTLED:
            try:
                await consumer.waits()
            except CancelledError as caught:
                cancellation = caught
                if stream._pass_on(caught):
                    raise
        error = results.take_error()
        if cancellation is not None:
            raised = cancellation
        if error is not None and raised is not None:
            note_raised(raised, "while the stream was being closed, it", error)
            error = None
        if cancellation is not None:
            raise cancellation
        if error is not None:
            raise error
    finally:
        del stream, error, cancellation, raised  # a traceback may hold this frame


async def _close_unopened(iterable):
    """The source of a stream that has never begun is its own, too, and so on: a loop, however long that chain is."""
    while isinstance(iterable, AnyStream) and iterable._is_unopened():
        stream, iterable = iterable, iterable._holder.pop()
        stream._use = USE_CLOSED
    aclose = getattr(iterable, "aclose", None) if hasattr(type(iterable), "__anext__") else None
    if aclose is not None:
        await aclose()
    else:
        stream._close_iterable(iterable)
