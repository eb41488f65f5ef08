"""What as_completed() returns.  Twin of src/surface/as_completed.h.

It is a stream of Tasks and Futures (completed_tasks.py), in the order in which they are done.  What has a length is taken whole
in the first step, and whatever a plain loop goes through.  So many of them may then be claimed, by next() and by anext(); each
claim is for the next one that nobody who has asked before gets.
"""

import math

from gatedcoro import _functions

from .awaitables import checked_awaitables
from .compat import AS_COMPLETED_CHECKS_AT_ONCE
from .completed_tasks import ENDS_TIMED_OUT, CompletedTasks
from .coroutine import OwnCoroutine, Unstarted
from .gathering import GATHERING_SETTLED, STOPS_ALL_BUT_TAKEN, ErrorPolicy
from .item import ITEM_HANDED_OUT
from .iterables import can_be_iterated_over, check_iterable, has_length, is_async, source_of
from .state import EMPTY, CancelledError, get_event_loop
from .stream import AnyStream, NextResult, next_result, own_coroutine
from .stream_results import Window


class AsCompleted(AnyStream):
    __doc__ = _functions.AsCompleted.__doc__
    __module__ = "gatedcoro"
    __slots__ = ("_claimed", "_count", "_takes_whole", "_timeout")

    def __init__(self, *args, **kwargs):
        raise TypeError("cannot create 'gatedcoro.AsCompleted' instances: as_completed() does")

    def __anext__(self):
        return own_coroutine("AsCompleted.__anext__", _next_task_of, self, kind=NextResult)

    def __iter__(self):
        return self

    def __next__(self):
        try:
            self._be_iterated_plainly()
            if self._gathering is None or self._results.is_left:
                raise StopIteration
            if self._count is None:
                raise RuntimeError(
                    f"{self!r} was begun by 'async for' or anext(), and nobody knows how many there will be:"
                    " next() needs a list of awaitables"
                )
            if not self._claims():
                raise StopIteration
            return own_coroutine("AsCompleted.__next__", _next_result_of, self, kind=Completion)
        finally:
            del self  # a traceback may hold this frame

    def __repr__(self):
        running, waiting, done = self._counts()
        return f"<gatedcoro.AsCompleted: {running} running, {waiting} waiting, {done} done>"

    # Opening

    def _be_iterated_plainly(self):
        """The first next() opens it, on the loop that asyncio.as_completed takes, which need not run yet."""
        try:
            loop = get_event_loop() if self._is_unopened() else None
            if self._is_unopened():  # that may be anybody's function
                self._takes_whole = True
                self._open(loop)
        finally:
            del self  # a traceback may hold this frame

    def _new_results(self):
        iterable = self._holder[0]
        self._takes_whole = self._takes_whole or (has_length(iterable) and not is_async(iterable))
        window = Window(None, None) if self._takes_whole else Window.of(self._limit, None)
        return CompletedTasks(window, self._loop)

    def _policy(self):
        return ErrorPolicy(True, STOPS_ALL_BUT_TAKEN)

    def _open_source(self):
        try:
            if not AS_COMPLETED_CHECKS_AT_ONCE:
                check_iterable(self._holder[0], "aws")
            if not self._takes_whole:
                return source_of(self._holder, kind=ITEM_HANDED_OUT)
            if is_async(self._holder[0]) and not can_be_iterated_over(self._holder[0]):
                raise TypeError("aws is an async iterable: only 'async for' can iterate over it")
            unstarted = all_of(self._holder)
            try:
                source, _, _ = checked_awaitables(unstarted, self._loop, ITEM_HANDED_OUT)
            finally:
                unstarted.close()
            self._count = source.left
            return source
        finally:
            del self  # a traceback may hold this frame

    def _has_begun(self):
        if self._timeout is None or self._gathering.state is GATHERING_SETTLED:
            return
        gathering = self._gathering
        self._results.timer = self._loop.call_later(
            self._timeout, _time_is_up, gathering, context=gathering.context.copy()
        )
        if gathering.state is GATHERING_SETTLED:  # the loop may be anybody's
            self._results.stop_timer()

    def _close_iterable(self, iterable):
        """Nothing is done with what would have been refused."""
        if not AS_COMPLETED_CHECKS_AT_ONCE:
            try:
                check_iterable(iterable, "aws")
            except TypeError:
                return
        if has_length(iterable) and not is_async(iterable):
            all_of([iterable]).close()
        else:
            super()._close_iterable(iterable)

    # Claims

    def _claims(self):
        """Claim a result, if there is one that nobody has claimed."""
        if self._count is not None and self._claimed >= self._count:
            return False
        self._claimed += 1
        return True

    def _goes_without(self):
        self._claimed -= 1

    # Taking

    def _take_task(self):
        """For anext(): an `async for` that ended quietly would look complete, so it is told of a failure, once."""
        results = self._results
        try:
            task = results.take()
        except BaseException:
            results.is_told = True
            raise
        if task is EMPTY and results.have_failed and not results.is_told:
            results.is_told = True
            raise self._failure()
        return task

    def _take_promised(self):
        """For a coroutine of next(), each of which has been promised a result, and is told why there is none."""
        task = self._results.take()
        if task is EMPTY:
            raise self._failure()
        return task

    def _failure(self):
        if not self._results.have_failed:
            return RuntimeError(f"{self!r} has been closed: there is no result for this coroutine")
        if self._results.ends is ENDS_TIMED_OUT:
            return TimeoutError()
        return RuntimeError(f"{self!r} has failed, as somebody has been told")


def new_as_completed(aws, limit, timeout):
    """Return what as_completed() returns for arguments that are in order."""
    self = object.__new__(AsCompleted)
    self._init(aws, limit)
    self._takes_whole = False
    self._timeout = timeout
    self._count = None  # taken whole: how many they are
    self._claimed = 0
    return self


def all_of(holder):
    """Return all that is in the iterable that *holder* holds, a list, out of which it is taken, as Unstarted.

    If that fails, every coroutine that it gave is closed.
    """
    unstarted = Unstarted([])
    try:
        for item in holder.pop():
            unstarted.items.append(item)
    except BaseException:
        unstarted.close()
        raise
    return unstarted


def parse_timeout(timeout):
    """Return *timeout* as None or a float."""
    if timeout is None:
        return None
    is_number = hasattr(type(timeout), "__float__") or hasattr(type(timeout), "__index__")
    try:
        seconds = float(timeout) if is_number else None
    except TypeError:
        seconds = None
    if seconds is None:
        raise TypeError(f"timeout must be a number of seconds or None, not {timeout!r} ({type(timeout).__name__})")
    if math.isnan(seconds):
        raise ValueError(f"timeout must be a number of seconds or None, not {timeout!r}")
    return seconds


def _time_is_up(gathering):
    if gathering.state is not GATHERING_SETTLED:
        results = gathering.sink
        results.timer = None
        if gathering.is_undecided:
            results.ends = ENDS_TIMED_OUT
        gathering.time_out()


class Completion(OwnCoroutine):
    """The coroutine of next(), which has its claim from the start."""

    def throw(self, *exception):
        stream = next(iter(self._unstarted.items), None)  # before its first step
        try:
            return super().throw(*exception)
        except CancelledError:  # so it was its Task
            if stream is not None:
                stream._goes_without()
            raise
        finally:
            del exception, stream  # a traceback may hold this frame


async def _next_task_of(unstarted):
    (stream,) = unstarted.take()
    try:
        is_there = stream._be_iterated() and stream._claims()
        task = await next_result(stream, stream._take_task) if is_there else EMPTY
        if task is EMPTY:
            raise StopAsyncIteration
        return task
    finally:
        del stream  # a traceback may hold this frame


async def _next_result_of(unstarted):
    (stream,) = unstarted.take()
    task = None
    try:
        stream._be_iterated()
        task = await next_result(stream, stream._take_promised)
        return task.result()
    finally:
        del stream, task  # a traceback may hold this frame
