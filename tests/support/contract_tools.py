"""What tests of behaviour share: a strict asyncio.run, a trace of events by turns of the loop, items, and what watches them."""

import asyncio
import gc
import inspect
import sys


def run(main, *, debug=None, loop_factory=None):
    """Run the coroutine function *main*; fail if the event loop had anything to report, then or later."""
    reports = []

    async def watched():
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: reports.append(context))
        return await main()

    try:
        with asyncio.Runner(debug=debug, loop_factory=loop_factory) as runner:
            return runner.run(watched())
    finally:
        gc.collect()
        assert reports == []


class Trace:
    """Events in exact order, grouped by the turn of the event loop in which they happened."""

    def __init__(self):
        self._turns = []

    def start(self):
        """Count turns from now on; turn 0 is the present one."""
        loop = asyncio.get_running_loop()

        def next_turn():
            self._turns.append([])
            self._handle = loop.call_soon(next_turn)

        next_turn()

    def stop(self):
        self._handle.cancel()

    def __call__(self, event):
        if not self._turns:
            self._turns.append([])
        self._turns[-1].append(str(event))

    @property
    def turns(self):
        """The events as one string for each turn, without the empty turns at the end."""
        turns = [" ".join(turn) for turn in self._turns]
        while turns and not turns[-1]:
            turns.pop()
        return turns

    @property
    def events(self):
        return [event for turn in self._turns for event in turn]


async def idle(turns):
    for _ in range(turns):
        await asyncio.sleep(0)


async def item(trace, name, turns=1, result=None):
    """Say when it starts and ends, and take some turns of the loop in between."""
    trace(f"+{name}")
    await idle(turns)
    trace(f"-{name}")
    return name if result is None else result


async def failing(trace, name, turns=1, error=None):
    trace(f"+{name}")
    await idle(turns)
    trace(f"!{name}")
    raise ValueError(name) if error is None else error


class Answer:
    """An awaitable that has *result* at once, or yields a Future that it does not keep; it counts how often it is closed.

    Whoever keeps it keeps nothing else, and it does not end because nobody keeps it: who waits for it has to close it.
    """

    def __init__(self, result=None):
        self.result = result
        self.closed = 0

    def __await__(self):
        return self

    def __next__(self):
        if self.result is not None:
            raise StopIteration(self.result)
        future = asyncio.get_running_loop().create_future()
        future._asyncio_future_blocking = True
        return future

    def close(self):
        self.closed += 1


class Answers:
    """An async iterator: the awaitables that its __anext__() returns."""

    def __init__(self, *answers):
        self._answers = iter(answers)

    def __aiter__(self):
        return self

    def __anext__(self):
        return next(self._answers)


async def sleeping(trace, name, cleanup_turns=0, after=None):
    """Wait until cancelled, clean up for some turns, then raise what *after* says, or go on being cancelled."""
    trace(f"+{name}")
    try:
        await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError as error:
        trace(f"x{name}")
        await idle(cleanup_turns)
        trace(f"-{name}")
        if after is None:
            raise
        if isinstance(after, BaseException):
            raise after from error
        return after


class Running:
    """Counts how many bodies of `with running:` run at a time."""

    def __init__(self):
        self.now = self.most = 0

    def __enter__(self):
        self.now += 1
        self.most = max(self.most, self.now)

    def __exit__(self, *error):
        self.now -= 1


def two_argument_factory(loop, coroutine):
    return asyncio.Task(coroutine, loop=loop)


# Every function that takes functions, or what they return.
WAYS = {
    "gather": lambda impl, limit, functions: impl.gather(*[function() for function in functions], limit=limit),
    "run_all": lambda impl, limit, functions: impl.run_all(functions, limit=limit),
    "run_all, an iterator": lambda impl, limit, functions: impl.run_all(iter(functions), limit=limit),
    "run_all, a generator": lambda impl, limit, functions: impl.run_all((one for one in functions), limit=limit),
    "constrained_execution": lambda impl, limit, functions: impl.constrained_execution(functions, limit),
}


class NotingFactory(list):
    """A task factory that knows which coroutines it got."""

    def __call__(self, loop, coroutine):
        self.append(coroutine)
        return asyncio.Task(coroutine, loop=loop)


def is_closed(coroutine):
    return inspect.getcoroutinestate(coroutine) == inspect.CORO_CLOSED


def message_of_awaiting(value):
    """What Python itself says of `await value`."""

    async def awaits():
        await value

    try:
        awaits().send(None)
    except TypeError as error:
        return str(error)
    raise AssertionError("it can be awaited")


HAS_CALL_GRAPH = sys.version_info >= (3, 14)
HAS_EAGER_TASKS = sys.version_info >= (3, 12)
